import { CallError, every, type InStream, sleep } from '@capstan/actor'
import type { StoreStatusReply, WatchData, WatchEvent, WatchRequest as StoreWatch } from '@capstan/protocol'
import { etcdError } from './etcd-error.js'
import type { FaceContext } from './face.js'
import { Event, EVENT_TYPES, WATCH_FILTERS, type WatchCreateRequest, WatchRequest, WatchResponse } from './messages.js'
import type { In, Out } from './protobuf.js'
import { type CallStream, type Methods, stream } from './rpc.js'

/** Messages of one watch that may be on the way from the store: a slow client costs so much and no more. */
const WATCH_CREDITS = 64
const RETRY_MS = 50
const RETRY_MS_MAX = 1000
/** How long an asked-for progress may wait for watches that are behind. */
const PROGRESS_WAIT_MS = 5000
const STATUS_MS = 1000
/** etcd cancels streams that asked for a leader when none was known for three elections of a second. */
const LEADER_LOOK_MS = 1000
const LEADER_MISSED_MAX = 3
/** etcd allows a message this much more than a request. */
const MESSAGE_OVERHEAD_BYTES = 512 * 1024
const NO_WATCH_ID = -1

type Calls = CallStream<In<typeof WatchRequest>, Out<typeof WatchResponse>>

export function watchMethods(face: FaceContext): { methods: Methods; close(): void } {
  const open = new Set<WatchStream>()
  return {
    methods: {
      '/etcdserverpb.Watch/Watch': stream(WatchRequest, WatchResponse, (calls) => {
        const one = new WatchStream(face, calls)
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

/** One gRPC stream with its watches, each of which is a stream of the store. */
class WatchStream {
  private readonly watches = new Map<number, Watch>()
  private nextId = 0
  private closed = false
  /** What is told of watches coming and going leaves in the order in which it was asked for. */
  private tail: Promise<unknown> = Promise.resolve()
  private readonly stops: (() => void)[] = []

  constructor(
    private readonly face: FaceContext,
    private readonly calls: Calls,
  ) {
    const { world, options } = face
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
    for (const watch of this.watches.values()) watch.cancel()
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
    const wanted: StoreWatch = { key, startRevision: Math.max(0, request.startRevision) }
    if (rangeEnd.length > 0) wanted.rangeEnd = rangeEnd
    if (request.prevKv) wanted.prevKv = true
    const filters = request.filters.flatMap((filter) => WATCH_FILTERS[filter] ?? [])
    if (filters.length > 0) wanted.filters = filters
    const before = this.tail
    const watch = new Watch(this.face, id, wanted, request, before, (response) => this.calls.send(response))
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
    this.tell(async () => {
      watch.cancel()
      return { header: this.face.header(await this.face.lastSeen()), watchId: id, canceled: true }
    })
  }

  /**
   * The revision up to which every watch of the stream has everything. etcd 3.4 states the store's, though a watch may be
   * behind; here it is waited for those, so that the number can be trusted.
   */
  private progress(): void {
    this.tell(async () => {
      const { world, store } = this.face
      const { revision } = (await store.read('readIndex', {})) as { revision: number }
      const deadline = world.clock.monotonicMs() + PROGRESS_WAIT_MS
      const behind = () => Math.min(revision, ...[...this.watches.values()].map((watch) => watch.position))
      while (behind() < revision && !this.closed && world.clock.monotonicMs() < deadline)
        await sleep(world.clock, RETRY_MS, this.calls.context.signal)
      return { header: await this.face.headerAt(behind()), watchId: NO_WATCH_ID }
    })
  }

  private tell(response: () => Promise<Out<typeof WatchResponse>>): void {
    this.tail = this.tail.then(async () => {
      if (!this.closed) await this.calls.send(await response())
    })
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

class Watch {
  /** When the client has been told that there is this watch. */
  readonly created: Promise<void>
  /** Everything up to here has been sent. 0: not known yet. */
  position = 0
  private next: number
  private stream: InStream | undefined
  private over = false
  private retryMs = RETRY_MS
  private quiet = true
  private opened!: (revision: number) => void

  constructor(
    private readonly face: FaceContext,
    private readonly id: number,
    private readonly wanted: StoreWatch,
    private readonly request: { progressNotify: boolean; fragment: boolean },
    before: Promise<unknown>,
    private readonly send: (response: Out<typeof WatchResponse>) => Promise<void>,
  ) {
    this.next = wanted.startRevision ?? 0
    const opened = new Promise<number>((resolve) => {
      this.opened = resolve
    })
    this.created = (async () => {
      await before
      const revision = await opened
      if (!this.over) await this.send({ header: await face.headerAt(revision), watchId: id, created: true })
    })()
    void this.begin()
  }

  cancel(): void {
    this.over = true
    this.opened(0)
    this.stream?.cancel()
  }

  notifyProgress(): void {
    if (this.request.progressNotify && this.quiet && this.position > 0 && !this.over) void this.sayPosition()
    this.quiet = true
  }

  private async sayPosition(): Promise<void> {
    const header = await this.face.headerAt(this.position)
    if (!this.over) await this.send({ header, watchId: this.id })
  }

  private async begin(): Promise<void> {
    // The first message states the present revision only to those who start from it.
    if (this.next !== 0) {
      const present = await this.presentRevision()
      if (this.over) return
      this.opened(present)
    }
    this.open()
  }

  /** As the member knows it from which the watch will be served. */
  private async presentRevision(): Promise<number> {
    const { store } = this.face
    const status = (await store.at1(store.nearest(), 'status', {}, STATUS_MS).catch(() => undefined)) as
      | StoreStatusReply
      | undefined
    const { revision } = await this.face.lastSeen().catch(() => ({ revision: 0 }))
    return Math.max(status?.header.revision ?? 0, revision)
  }

  private open(): void {
    if (this.over) return
    const { store } = this.face
    this.stream = store.stream(
      'watch',
      { ...this.wanted, startRevision: this.next },
      {
        data: (body) => this.receive(body as WatchData),
        beat: (body) => {
          const revision = (body as { revision?: unknown } | null)?.revision
          if (typeof revision === 'number') this.position = Math.max(this.position, revision)
        },
        end: (reason, error) => this.ended(reason, error),
      },
      WATCH_CREDITS,
    )
  }

  private async receive({ revision, events }: WatchData): Promise<void> {
    this.retryMs = RETRY_MS
    this.opened(revision)
    if (this.next === 0) this.next = revision + 1
    await this.created
    if (this.over) return
    if (events.length > 0) {
      this.quiet = false
      const header = await this.face.headerAt(revision)
      const { options } = this.face
      const bytesMax = options.requestBytesMax + MESSAGE_OVERHEAD_BYTES
      for (const piece of this.request.fragment ? fragments(events, bytesMax) : [{ events, fragment: false }])
        await this.send({
          header,
          watchId: this.id,
          fragment: piece.fragment,
          events: piece.events.map(({ type, kv, prevKv }) =>
            prevKv ? { type: EVENT_TYPES[type], kv, prevKv } : { type: EVENT_TYPES[type], kv },
          ),
        })
    }
    this.next = Math.max(this.next, revision + 1)
    this.position = Math.max(this.position, revision)
  }

  private ended(reason: string, error: CallError | undefined): void {
    if (this.over) return
    const { world } = this.face
    if (error?.code === 'COMPACTED') {
      const compactRevision = (error.details as { compactRevision?: number } | undefined)?.compactRevision ?? 0
      // Its number stays taken until the client cancels it, as in etcd.
      this.over = true
      void this.tellAfterCreated({ canceled: true, compactRevision })
    } else if (error?.code === 'BAD_REQUEST') {
      this.over = true
      void this.tellAfterCreated({ canceled: true, cancelReason: `etcdserver: ${error.message}` })
    } else {
      // The promise of a watch is kept by going on from what was sent, wherever (promise S3).
      world.log.debug({ err: error, reason, watch: this.id }, 'a watch goes on elsewhere')
      world.clock.setTimer(this.retryMs, () => this.open())
      this.retryMs = Math.min(2 * this.retryMs, RETRY_MS_MAX)
    }
  }

  private async tellAfterCreated(response: Out<typeof WatchResponse>): Promise<void> {
    const { face, id } = this
    this.opened((await face.lastSeen().catch(() => undefined))?.revision ?? 0)
    const header = face.header(await face.lastSeen())
    await this.created
    await this.send({ header, watchId: id, ...response })
  }
}

/** Events of one message in pieces below the bound, at least one in each (etcd's `sendFragments`). */
export function fragments(
  events: readonly WatchEvent[],
  bytesMax: number,
): { events: readonly WatchEvent[]; fragment: boolean }[] {
  const pieces: WatchEvent[][] = [[]]
  let bytes = 0
  for (const event of events) {
    const size = Event.sizeOf({ type: EVENT_TYPES[event.type], kv: event.kv, prevKv: event.prevKv }) + 8
    let piece = pieces[pieces.length - 1] as WatchEvent[]
    if (piece.length > 0 && bytes + size >= bytesMax) {
      piece = []
      pieces.push(piece)
      bytes = 0
    }
    piece.push(event)
    bytes += size
  }
  return pieces.map((piece, at) => ({ events: piece, fragment: at < pieces.length - 1 }))
}
