import { type CallError, every, sleep } from '@capstan/actor'
import type { StoreStatusReply } from '@capstan/protocol'
import { etcdError } from './etcd-error.js'
import type { FaceContext } from './face.js'
import { WATCH_FILTERS, type WatchCreateRequest, WatchRequest, WatchResponse } from './messages.js'
import type { In, Prepared } from './protobuf.js'
import { type CallStream, type Methods, stream } from './rpc.js'
import { type FeedMember, type WatchBatch, type Watched, WatchFeeds } from './watch-feeds.js'

const PROGRESS_LOOK_MS = 50
/** How long an asked-for progress may wait for watches that are behind. */
const PROGRESS_WAIT_MS = 5000
/** So long the store is asked where it is; without a quorum it cannot say. */
const PROGRESS_ASK_MS = 1000
const STATUS_MS = 1000
/** etcd cancels streams that asked for a leader when none was known for three elections of a second. */
const LEADER_LOOK_MS = 1000
const LEADER_MISSED_MAX = 3
const NO_WATCH_ID = -1

type Response = Prepared<typeof WatchResponse>
type Calls = CallStream<In<typeof WatchRequest>, Response>

export function watchMethods(face: FaceContext): { methods: Methods; close(): void } {
  const open = new Set<WatchStream>()
  const feeds = new WatchFeeds(face)
  return {
    methods: {
      '/etcdserverpb.Watch/Watch': stream(WatchRequest, WatchResponse, (calls) => {
        const one = new WatchStream(face, feeds, calls)
        open.add(one)
        calls.context.signal.addEventListener('abort', () => {
          open.delete(one)
          one.close()
        })
      }),
    },
    close() {
      for (const one of [...open]) one.end(etcdError('STOPPED'))
    },
  }
}

/** What a watch needs of the stream that it is on. */
interface WatchSite {
  readonly face: FaceContext
  readonly feeds: WatchFeeds
  send(response: Response): Promise<void>
  end(error: unknown): void
}

/** One gRPC stream with its watches, each of which is on a feed (see `WatchFeeds`). */
class WatchStream implements WatchSite {
  readonly send: Calls['send']
  private readonly watches = new Map<number, Watch>()
  private nextId = 0
  private closed = false
  /** What is told of watches coming and going leaves in the order in which it was asked for. */
  private tail: Promise<unknown> = Promise.resolve()
  private readonly stops: (() => void)[] = []

  constructor(
    readonly face: FaceContext,
    readonly feeds: WatchFeeds,
    private readonly calls: Calls,
  ) {
    const { world, options } = face
    this.send = (response) => calls.send(response)
    const jitterMs = world.random.next() * (options.progressNotifyMs / 10)
    this.stops.push(every(world.clock, options.progressNotifyMs + jitterMs, () => this.notifyProgress()))
    if (calls.context.requireLeader) this.watchLeader()
    // As etcd, the end of the requests is not the end of the watches.
    calls.receive({ request: (request) => this.receive(request), done: () => undefined })
  }

  close(): void {
    if (this.closed) return
    this.closed = true
    for (const stop of this.stops) stop()
    for (const watch of this.watches.values()) watch.leave()
    this.watches.clear()
  }

  end(error: unknown): void {
    this.close()
    this.calls.end(error)
  }

  private receive({ create, cancel, progress }: In<typeof WatchRequest>): void {
    if (this.closed) return
    if (create) this.create(create)
    else if (cancel) this.cancel(cancel.watchId)
    else if (progress) this.progress()
  }

  private create(request: In<typeof WatchCreateRequest>): void {
    const key = request.key.length > 0 ? request.key : Uint8Array.of(0)
    const { rangeEnd } = request
    const fromKey = rangeEnd.length === 1 && rangeEnd[0] === 0
    if (rangeEnd.length > 0 && !fromKey && Buffer.compare(key, rangeEnd) >= 0)
      return this.refuse('mvcc: watcher range is empty')
    let id = request.watchId
    if (id === 0) {
      while (this.watches.has(this.nextId)) this.nextId++
      id = this.nextId++
    } else if (this.watches.has(id)) return this.refuse('mvcc: duplicate watch ID provided on the WatchStream')
    const watched: Watched = { key }
    if (rangeEnd.length > 0) watched.rangeEnd = rangeEnd
    if (request.prevKv) watched.prevKv = true
    const filters = request.filters.flatMap((filter) => WATCH_FILTERS[filter] ?? [])
    if (filters.length > 0) watched.filters = filters
    const watch = new Watch(this, id, watched, Math.max(0, request.startRevision), request, this.tail)
    this.watches.set(id, watch)
    this.tail = watch.created
  }

  private refuse(cancelReason: string): void {
    this.tell(async () => {
      const header = this.face.header(await this.face.lastSeen())
      return { header, watchId: NO_WATCH_ID, created: true, canceled: true, cancelReason }
    })
  }

  private cancel(id: number): void {
    const watch = this.watches.get(id)
    if (!watch) return
    this.watches.delete(id)
    // At once: a watch that the store does not open must not hold up its own end, nor what comes after it.
    watch.cancel()
    this.tell(
      async () => ({ header: this.face.header(await this.face.lastSeen()), watchId: id, canceled: true }),
      watch.created,
    )
  }

  /**
   * The revision up to which every watch of the stream has everything. etcd 3.4 states the store's, though a watch may be
   * behind; here it is waited for those, so that the number can be trusted.
   */
  private progress(): void {
    this.tell(async () => {
      const { clock } = this.face.world
      const revision = await this.progressWanted()
      const deadline = clock.monotonicMs() + PROGRESS_WAIT_MS
      const behind = () => Math.min(revision, this.reached() ?? revision)
      while (behind() < revision && !this.closed && clock.monotonicMs() < deadline)
        await sleep(clock, PROGRESS_LOOK_MS, this.calls.context.signal)
      const reached = behind()
      // Of a watch that has nothing yet there is nothing to say: clients would take 0 for a revision.
      return reached > 0 ? { header: await this.face.headerAt(reached), watchId: NO_WATCH_ID } : undefined
    })
  }

  /** Where the store is. If nobody can tell (no quorum), what the watches have reached: as in etcd the stream lives on. */
  private async progressWanted(): Promise<number> {
    const { store, world } = this.face
    try {
      const reply = (await store.read('readIndex', {}, { timeoutMs: PROGRESS_ASK_MS })) as { revision: number }
      return reply.revision
    } catch (error) {
      world.log.debug({ err: error }, 'progress is told without the store')
      return this.reached() ?? (await this.face.lastSeen()).revision
    }
  }

  /** Up to here every watch that the client was told of has everything. Undefined: there is none. */
  private reached(): number | undefined {
    let least: number | undefined
    for (const { isCreated, isOver, position } of this.watches.values())
      if (isCreated && !isOver) least = Math.min(least ?? position, position)
    return least
  }

  /** What `response` resolves with, unless it is nothing, follows `after`; what is told later follows it. */
  private tell(response: () => Promise<Response | undefined>, after = this.tail): void {
    const told = after.then(async () => {
      const told = this.closed ? undefined : await response()
      if (told) await this.calls.send(told)
    })
    this.tail = Promise.all([this.tail, told])
    this.tail.catch((error: unknown) => this.end(error))
  }

  private notifyProgress(): void {
    for (const watch of this.watches.values()) watch.notifyProgress()
  }

  private watchLeader(): void {
    const { world, store, options } = this.face
    let missed = 0
    const look = async () => {
      const status = (await store.at1(options.member, 'status', {}, STATUS_MS).catch(() => undefined)) as
        | StoreStatusReply
        | undefined
      // A member that does not answer at all has no leader for anybody.
      missed = status?.leader === undefined ? missed + 1 : 0
      if (missed >= LEADER_MISSED_MAX) this.end(etcdError('NO_LEADER'))
    }
    this.stops.push(every(world.clock, LEADER_LOOK_MS, () => void look()))
  }
}

class Watch implements FeedMember {
  /** When the client has been told that there is this watch. */
  readonly created: Promise<void>
  /** Everything up to here has been sent. 0: not known yet. */
  position = 0
  /** Cancelled, by the client or by the store. */
  isOver = false
  isCreated = false
  behind = 0
  presentRevision = 0
  next: number
  private isCancelled = false
  private quiet = true
  private tail: Promise<void>
  private opened!: (revision: number) => void

  constructor(
    private readonly stream: WatchSite,
    private readonly id: number,
    readonly watched: Watched,
    startRevision: number,
    private readonly request: { progressNotify: boolean; fragment: boolean },
    before: Promise<unknown>,
  ) {
    const { face } = stream
    this.next = startRevision
    const opened = new Promise<number>((resolve) => {
      this.opened = resolve
    })
    this.created = (async () => {
      await before
      const revision = await opened
      // As in etcd, of one that is cancelled before it was opened both is told.
      if (this.isOver && !this.isCancelled) return
      const header = revision > 0 ? await face.headerAt(revision) : face.header(await face.lastSeen())
      await stream.send({ header, watchId: id, created: true })
      this.isCreated = true
      this.sentUpTo(startRevision === 0 ? revision : Math.min(revision, startRevision - 1))
    })()
    this.tail = this.created
    this.orEnd(this.created)
    this.orEnd(this.begin())
  }

  /** The client gives it up. */
  cancel(): void {
    this.isCancelled = true
    this.leave()
  }

  /** Nothing more is told of it. */
  leave(): void {
    if (this.isOver) return
    this.isOver = true
    this.opened(0)
    this.stream.feeds.leave(this)
  }

  notifyProgress(): void {
    if (this.request.progressNotify && this.quiet && this.position > 0 && !this.isOver) this.orEnd(this.sayPosition())
    this.quiet = true
  }

  private async sayPosition(): Promise<void> {
    const header = await this.stream.face.headerAt(this.position)
    if (!this.isOver) await this.stream.send({ header, watchId: this.id })
  }

  private async begin(): Promise<void> {
    const { feeds } = this.stream
    // One that begins a feed from now on hears from it where that is.
    if (this.next !== 0 || feeds.has(this.watched)) {
      this.presentRevision = await this.askPresentRevision()
      if (this.isOver) return
      if (this.next !== 0) this.opened(this.presentRevision)
    }
    feeds.join(this)
  }

  /** As the member knows it from which the watch will be served. */
  private async askPresentRevision(): Promise<number> {
    const { face } = this.stream
    const { store } = face
    const status = (await store.at1(store.nearest(), 'status', {}, STATUS_MS).catch(() => undefined)) as
      | StoreStatusReply
      | undefined
    const { revision } = await face.lastSeen(status?.header).catch(() => ({ revision: 0 }))
    return Math.max(status?.header.revision ?? 0, revision)
  }

  joined(revision: number): void {
    this.next = revision + 1
    this.opened(revision)
    void this.afterCreated(() => this.sentUpTo(revision))
  }

  take(batch: WatchBatch): Promise<void> {
    if (this.next === 0) {
      const revision = Math.max(this.presentRevision, batch.revision)
      this.next = revision + 1
      this.opened(revision)
    }
    const own = batch.since(this.next)
    this.next = Math.max(this.next, batch.revision + 1)
    this.behind++
    return this.afterCreated(async () => {
      if (!own.isEmpty) {
        this.quiet = false
        for (const message of await own.messages(this.request.fragment)) {
          if (this.isOver) return
          await this.stream.send({ ...message, watchId: this.id })
        }
      }
      this.behind--
      this.sentUpTo(batch.revision)
    })
  }

  reached(revision: number): void {
    if (this.isCreated && this.behind === 0) this.sentUpTo(revision)
  }

  private sentUpTo(revision: number): void {
    this.position = Math.max(this.position, revision)
  }

  refused(error: CallError): void {
    if (this.isOver) return
    // Its number stays taken until the client cancels it, as in etcd.
    this.isOver = true
    // One from now on may be refused before it was opened: what comes after it waits for that.
    this.opened(0)
    const { compactRevision = 0 } = (error.details ?? {}) as { compactRevision?: number }
    void this.afterCreated(async () => {
      // Its number may be another one's by now.
      if (this.isCancelled) return
      const { face, send } = this.stream
      const header = face.header(await face.lastSeen())
      const why = error.code === 'COMPACTED' ? { compactRevision } : { cancelReason: `etcdserver: ${error.message}` }
      // Clients take an answer for that to their request only if it says `created`.
      await send({ header, watchId: this.id, created: !this.isCreated, canceled: true, ...why })
    })
  }

  /** One after the other, and not before the client knows of the watch. What fails ends the client's stream. */
  private afterCreated(run: () => void | Promise<void>): Promise<void> {
    return (this.tail = this.orEnd(this.tail.then(run)))
  }

  /** For what nobody waits for, from the moment when it begins: a rejection that nobody hears would end the process. */
  private orEnd(running: Promise<void>): Promise<void> {
    return running.catch((error: unknown) => this.stream.end(error))
  }
}
