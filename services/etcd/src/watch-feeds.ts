import type { CallError, InStream } from '@capstan/actor'
import { type WatchData, type WatchEvent, WatchParts, type WatchRequest as StoreWatch } from '@capstan/protocol'
import type { FaceContext } from './face.js'
import { Event, EVENT_TYPES, WatchResponse } from './messages.js'
import type { Prepared } from './protobuf.js'

/** Messages of one feed that may be on the way from the store. */
const WATCH_CREDITS = 64
/** So many messages one watch may be behind the quickest of its feed; then it goes on by itself. */
const BEHIND_MAX = 64
const RETRY_MS = 50
const RETRY_MS_MAX = 1000
/** etcd allows a message this much more than a request. */
const MESSAGE_OVERHEAD_BYTES = 512 * 1024

/** What is watched, but for where it begins. */
export type Watched = Omit<StoreWatch, 'startRevision'>

/** A watch, as its feed sees it. */
export interface FeedMember {
  readonly watched: Watched
  /** The first revision of which it lacks the events; 0: the one after its opening. */
  readonly next: number
  /** As `next` is 0: when it asked to be opened, the store was here. */
  readonly presentRevision: number
  /** Messages that it took and has not sent yet. */
  readonly behind: number
  /** Resolves when it is sent. */
  take(batch: WatchBatch): Promise<void>
  /** The feed has nothing more for it up to there. */
  reached(revision: number): void
  /** It was opened as of this revision, on a feed that is open already. */
  joined(revision: number): void
  /** The store refuses it: COMPACTED, BAD_REQUEST. */
  refused(error: CallError): void
}

type Told = Prepared<typeof WatchResponse>

/** Events up to a revision as all watches of a feed tell them: put into bytes once, not by each. */
export class WatchBatch {
  private whole: Promise<Told[]> | undefined
  private fragmented: Promise<Told[]> | undefined

  constructor(
    private readonly face: FaceContext,
    readonly revision: number,
    private readonly events: readonly WatchEvent[],
  ) {}

  get isEmpty(): boolean {
    return this.events.length === 0
  }

  /** Without the events before revision `next`. */
  since(next: number): WatchBatch {
    const first = this.events[0]
    if (!first || first.kv.modRevision >= next) return this
    return new WatchBatch(
      this.face,
      this.revision,
      this.events.filter(({ kv }) => kv.modRevision >= next),
    )
  }

  /** What is told, but for the number of the watch. */
  messages(fragment: boolean): Promise<readonly Told[]> {
    return fragment ? (this.fragmented ??= this.encode(true)) : (this.whole ??= this.encode(false))
  }

  private async encode(fragment: boolean): Promise<Told[]> {
    const { face, events, revision } = this
    const header = WatchResponse.encodeField('header', await face.headerAt(revision))
    const bytesMax = face.options.requestBytesMax + MESSAGE_OVERHEAD_BYTES
    return (fragment ? fragments(events, bytesMax) : [{ events, fragment: false }]).map((piece) => ({
      header,
      fragment: piece.fragment,
      events: WatchResponse.encodeField(
        'events',
        piece.events.map(({ type, kv, prevKv }) =>
          prevKv ? { type: EVENT_TYPES[type], kv, prevKv } : { type: EVENT_TYPES[type], kv },
        ),
      ),
    }))
  }
}

/**
 * Watches of one range share a stream of the store, a feed, as far as they are at the same revision: what etcd does with
 * its synced watchers. A feed goes at the pace of the quickest; a watch that falls behind gets a feed of its own, and comes
 * back when it has caught up, so that a slow watcher costs only itself.
 */
export class WatchFeeds {
  /** By what they watch; the oldest first. */
  private readonly feeds = new Map<string, Feed[]>()

  constructor(private readonly face: FaceContext) {}

  /** Is there one that a watch from now on could join? Then it must know the present revision first. */
  has(watched: Watched): boolean {
    return this.feeds.has(nameOf(watched))
  }

  join(member: FeedMember): void {
    const { next, presentRevision } = member
    let best: Feed | undefined
    for (const feed of this.feeds.get(nameOf(member.watched)) ?? []) {
      const { position } = feed
      const fits = next > 0 ? position !== undefined && position < next : feed.takesFromNow(presentRevision)
      if (fits && (best === undefined || (position ?? 0) > (best.position ?? 0))) best = feed
    }
    if (best === undefined) return this.alone(member)
    if (next === 0 && best.position !== undefined) member.joined(Math.max(presentRevision, best.position))
    best.add(member)
  }

  leave(member: FeedMember): void {
    for (const feed of this.feeds.get(nameOf(member.watched)) ?? []) if (feed.remove(member)) return
  }

  /** On a feed of its own, from where it is. */
  alone(member: FeedMember): void {
    const name = nameOf(member.watched)
    const feed = new Feed(this.face, member.watched, member.next, this)
    const all = this.feeds.get(name)
    if (all) all.push(feed)
    else this.feeds.set(name, [feed])
    feed.add(member)
    feed.open()
  }

  /** The feed went on from `before`. An older one that is as far takes its watches over. */
  merge(feed: Feed, before: number): void {
    const all = this.feeds.get(nameOf(feed.watched)) ?? []
    if (all.length < 2) return
    const { position = 0 } = feed
    const older = all
      .slice(0, all.indexOf(feed))
      .find((one) => one.position !== undefined && one.position >= before && one.position <= position)
    if (!older) return
    for (const member of feed.leaveAll()) older.add(member)
  }

  /** Nobody is left on it. */
  drop(feed: Feed): void {
    const name = nameOf(feed.watched)
    const rest = (this.feeds.get(name) ?? []).filter((one) => one !== feed)
    if (rest.length > 0) this.feeds.set(name, rest)
    else this.feeds.delete(name)
  }
}

class Feed {
  /** All up to there was given to its watches; missing: the store has not said yet where it begins. */
  position: number | undefined
  /** As the store said last. */
  private heard = 0
  private readonly members = new Set<FeedMember>()
  private stream: InStream | undefined
  private over = false
  private retryMs = RETRY_MS

  constructor(
    private readonly face: FaceContext,
    readonly watched: Watched,
    private readonly startRevision: number,
    private readonly feeds: WatchFeeds,
  ) {
    if (startRevision > 0) this.position = startRevision - 1
  }

  /**
   * Could a watch join that begins at the present? Of one that waits for a later revision the position says nothing, nor does
   * the store before that revision has come.
   */
  takesFromNow(presentRevision: number): boolean {
    const { position } = this
    if (position === undefined || position <= presentRevision) return true
    return position === this.heard && position >= this.startRevision
  }

  add(member: FeedMember): void {
    this.members.add(member)
  }

  /** Returns whether it was on this feed. */
  remove(member: FeedMember): boolean {
    if (!this.members.delete(member)) return false
    if (this.members.size === 0) this.end()
    return true
  }

  leaveAll(): FeedMember[] {
    const members = [...this.members]
    this.members.clear()
    this.end()
    return members
  }

  open(): void {
    if (this.over) return
    const startRevision = this.position === undefined ? 0 : this.position + 1
    // Whole revisions only: a watch that came between two parts of one would lack the first, one that went on would have it twice.
    const parts = new WatchParts()
    this.stream = this.face.store.stream(
      'watch',
      { ...this.watched, startRevision },
      {
        data: (body) => {
          const data = parts.whole(body as WatchData)
          return data && this.receive(data)
        },
        beat: (body) => {
          const revision = (body as { revision?: unknown } | null)?.revision
          if (typeof revision !== 'number' || this.over) return
          for (const member of this.members) member.reached(revision)
          this.advance(revision)
        },
        end: (reason, error) => this.ended(reason, error),
      },
      WATCH_CREDITS,
    )
  }

  private end(): void {
    this.over = true
    this.stream?.cancel()
    this.feeds.drop(this)
  }

  /** Resolves when the quickest watch has sent it. */
  private receive({ revision, events }: WatchData): Promise<void> | void {
    if (this.over) return
    this.retryMs = RETRY_MS
    const batch = new WatchBatch(this.face, revision, events)
    const slow: FeedMember[] = []
    const sent: Promise<void>[] = []
    for (const member of this.members)
      if (member.behind >= BEHIND_MAX && this.members.size > 1) slow.push(member)
      else sent.push(member.take(batch))
    for (const member of slow) {
      this.members.delete(member)
      this.feeds.alone(member)
    }
    this.advance(revision)
    if (sent.length > 0) return Promise.race(sent)
  }

  private advance(revision: number): void {
    const before = this.position ?? revision
    this.heard = Math.max(this.heard, revision)
    this.position = Math.max(before, revision)
    this.feeds.merge(this, before)
  }

  private ended(reason: string, error: CallError | undefined): void {
    if (this.over) return
    const { world } = this.face
    if (error?.code === 'COMPACTED' || error?.code === 'BAD_REQUEST') {
      const { compactRevision = Number.POSITIVE_INFINITY } = (error.details ?? {}) as { compactRevision?: number }
      for (const member of this.leaveAll())
        if (error.code === 'COMPACTED' && member.next >= compactRevision) this.feeds.join(member)
        else member.refused(error)
    } else {
      // The promise of a watch is kept by going on from what was sent, wherever (promise S3).
      world.log.debug({ err: error, reason, watches: this.members.size }, 'watches go on elsewhere')
      world.clock.setTimer(this.retryMs, () => this.open())
      this.retryMs = Math.min(2 * this.retryMs, RETRY_MS_MAX)
    }
  }
}

function nameOf({ key, rangeEnd, prevKv, filters }: Watched): string {
  const hex = (bytes: Uint8Array | undefined) => (bytes ? Buffer.from(bytes).toString('hex') : '')
  return `${hex(key)} ${hex(rangeEnd)} ${prevKv === true} ${(filters ?? []).join()}`
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
