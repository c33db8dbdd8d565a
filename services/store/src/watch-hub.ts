import { type Clock, type OutStream, type Random, sendToAll } from '@capstan/actor'
import { type HistoryPosition, type KeyRange, type Mvcc, MvccError, type RevisionEvents } from '@capstan/mvcc'
import type { WatchData, WatchEvent } from '@capstan/protocol'

/** History looked at for one watch between two returns to the event loop. */
const SLICE_CHANGES = 1000
/** Of the events in one message, about. What is more comes in several. */
const MESSAGE_BYTES_MAX = 1024 * 1024
/** On the wire, besides keys and values. */
const EVENT_BYTES = 128
/**
 * Messages that may wait for one reader's credit. One more, and it gets nothing until it has taken those: then it catches
 * up from the history. So a slow reader holds no memory but these, and costs the others nothing.
 */
const WAITING_MAX = 16

/** Planted bugs, for the tests of the checkers. */
export interface WatchBugs {
  /** The last message before a pause gets lost now and then, unnoticed. */
  loseLast?: Random | undefined
  doubledOnResume?: boolean
  beforeSynced?: boolean
}

interface Watch {
  stream: OutStream
  group: Group
  /** Everything before it was delivered; of a synced one: as it became so, the rest is told by `delivered`. */
  next: HistoryPosition
  /** It has part of `next.revision`. */
  partial: boolean
  /** `revision` of the last message sent. */
  sentRevision: number
  /**
   * `synced`: has everything, gets what is new with its group. `behind`: catches up from the history. `ahead`: asked for
   * from a revision on that does not exist yet.
   */
  state: 'synced' | 'behind' | 'ahead'
  working: boolean
}

interface Found {
  events: WatchEvent[]
  bytes: number
}

/** All watches that want the same: their events are chosen, and made ready to send, once. */
interface Group {
  key: string
  range: KeyRange
  from: string
  to: string | undefined
  single: boolean
  prevKv: boolean
  noPut: boolean
  noDelete: boolean
  all: Set<Watch>
  /** Those in step: the present revision is the last that each has. */
  synced: Set<Watch>
}

/**
 * All watches that this member serves, from its own applied state (promise S3). What etcd guarantees of watches and where
 * it is held here: Filter (`Group`), Ordered, Unique and Reliable (`next`: what is before it was delivered, once),
 * Atomic (whole revisions only; what comes in parts is marked so), Resumable (`catchUp`), Bookmarkable (`position`), PrevKV and IsCreate (mvcc).
 */
export class WatchHub {
  private readonly watches = new Set<Watch>()
  private readonly groups = new Map<string, Group>()
  /** Groups of a single key by that key, so that a change of another key costs them nothing; the rest is looked through. */
  private readonly singles = new Map<string, Set<Group>>()
  private readonly ranges = new Set<Group>()
  private readonly ahead = new Set<Watch>()
  /** What synced watches have: the last revision of the last batch. */
  private delivered: number
  private readonly stopListening: () => void

  constructor(
    private readonly mvcc: Mvcc,
    private readonly clock: Clock,
    private readonly bugs: WatchBugs = {},
    private readonly messageBytesMax = MESSAGE_BYTES_MAX,
  ) {
    this.delivered = mvcc.revision
    this.stopListening = mvcc.onRevisions((batch) => this.deliver(batch))
  }

  get size(): number {
    return this.watches.size
  }

  /** Those that do not have everything yet: new ones of old revisions, and slow readers. */
  get behind(): number {
    let count = 0
    for (const { state } of this.watches) if (state === 'behind') count++
    return count
  }

  /** Position for the stream's beats: the reader has everything up to it when it has the last message. */
  add(
    stream: OutStream,
    request: { range: KeyRange; startRevision: number; prevKv: boolean; filters: readonly string[] },
  ): { position(): { revision: number } } {
    const { startRevision } = request
    const { revision } = this.mvcc
    const resumes = this.bugs.doubledOnResume === true && startRevision <= revision && startRevision > 1
    const watch: Watch = {
      stream,
      group: this.groupOf(request),
      next: { revision: resumes ? startRevision - 1 : startRevision, sub: 0 },
      partial: false,
      sentRevision: startRevision - 1,
      state: startRevision <= revision ? 'behind' : startRevision === revision + 1 ? 'synced' : 'ahead',
      working: false,
    }
    this.watches.add(watch)
    watch.group.all.add(watch)
    stream.onEnd(() => this.remove(watch))
    stream.onRoom(() => {
      if (watch.state === 'behind') this.catchUp(watch)
    })
    this.send(watch, { prevRevision: watch.sentRevision, revision: watch.sentRevision, events: [] })
    if (watch.state === 'synced' || this.bugs.beforeSynced) watch.group.synced.add(watch)
    if (watch.state === 'ahead') this.ahead.add(watch)
    if (watch.state === 'behind') this.catchUp(watch)
    return {
      position: () => ({
        // Not the state's own revision: a snapshot brings that before what it brings has been sent.
        revision: watch.state === 'synced' ? Math.max(this.delivered, watch.sentRevision) : watch.next.revision - 1,
      }),
    }
  }

  /** The state was replaced by a snapshot: every watch goes on from what it has, or is told that this is compacted. */
  reset(): void {
    const { revision } = this.mvcc
    for (const watch of Array.from(this.watches)) {
      if (watch.state === 'synced' && this.delivered < revision) this.fallBehind(watch)
      if (watch.state === 'ahead' && watch.next.revision <= revision + 1) {
        this.ahead.delete(watch)
        watch.state = 'behind'
      }
      if (watch.state === 'behind') this.catchUp(watch)
    }
    this.delivered = revision
  }

  end(reason: string): void {
    this.stopListening()
    for (const watch of Array.from(this.watches)) watch.stream.end(reason)
  }

  private groupOf({ range, prevKv, filters }: Parameters<WatchHub['add']>[1]): Group {
    const { rangeEnd: end } = range
    const from = text(range.key)
    const single = end === undefined || end.length === 0
    const noPut = filters.includes('noPut')
    const noDelete = filters.includes('noDelete')
    const flags = `${prevKv ? 'p' : ''}${noPut ? 'u' : ''}${noDelete ? 'd' : ''}`
    const key = `${flags} ${from.length}:${from}${single ? '' : `-${text(end)}`}`
    const known = this.groups.get(key)
    if (known) return known
    const to = single || (end.length === 1 && end[0] === 0) ? undefined : text(end)
    const group: Group = {
      ...{ key, range, from, to, single, prevKv, noPut, noDelete },
      ...{ all: new Set<Watch>(), synced: new Set<Watch>() },
    }
    this.groups.set(key, group)
    if (single) {
      const others = this.singles.get(from)
      if (others) others.add(group)
      else this.singles.set(from, new Set([group]))
    } else this.ranges.add(group)
    return group
  }

  private remove(watch: Watch): void {
    const { group } = watch
    this.watches.delete(watch)
    this.ahead.delete(watch)
    group.synced.delete(watch)
    group.all.delete(watch)
    if (group.all.size > 0) return
    this.groups.delete(group.key)
    this.ranges.delete(group)
    const others = this.singles.get(group.from)
    if (group.single && others?.delete(group) && others.size === 0) this.singles.delete(group.from)
  }

  // ----------------------------------------------------------------------------------------------------------- what is new

  private deliver(batch: readonly RevisionEvents[]): void {
    const { revision } = batch[batch.length - 1] as RevisionEvents
    if (this.watches.size > 0) this.deliverTo(batch, revision)
    this.delivered = revision
  }

  private deliverTo(batch: readonly RevisionEvents[], revision: number): void {
    const found = new Map<Group, Found>()
    for (const { events } of batch)
      for (const event of events) {
        const key = text(event.kv.key)
        for (const group of this.singles.get(key) ?? []) this.note(found, group, event)
        for (const group of this.ranges)
          if (key >= group.from && (group.to === undefined || key < group.to)) this.note(found, group, event)
      }
    for (const [group, { events, bytes }] of found)
      if (bytes > this.messageBytesMax) this.sendAsPast(group)
      else if (events.length > 0) this.sendGroup(group, events, revision)
    for (const watch of Array.from(this.ahead)) this.lookAhead(watch, revision)
  }

  private note(found: Map<Group, Found>, group: Group, event: WatchEvent): void {
    if (group.synced.size === 0) return
    let of = found.get(group)
    if (!of) found.set(group, (of = { events: [], bytes: 0 }))
    // More is read from the history later, bit by bit.
    if (of.bytes > this.messageBytesMax || !fits(group, event)) return
    const whole = this.withPrevious(group, event)
    of.events.push(whole)
    of.bytes += bytesOf(whole)
  }

  private sendGroup(group: Group, events: WatchEvent[], revision: number): void {
    // A message says what the former one of its stream was; in step, all of them have had the same.
    const byFormer = new Map<number, OutStream[]>()
    const { loseLast } = this.bugs
    for (const watch of Array.from(group.synced)) {
      if (loseLast && loseLast.int(20) === 0) continue
      if (watch.stream.waiting >= WAITING_MAX) {
        this.fallBehind(watch)
        continue
      }
      const streams = byFormer.get(watch.sentRevision)
      if (streams) streams.push(watch.stream)
      else byFormer.set(watch.sentRevision, [watch.stream])
      watch.sentRevision = revision
    }
    for (const [prevRevision, streams] of byFormer)
      sendToAll(streams, { prevRevision, revision, events } satisfies WatchData)
  }

  /** Too much at once for one message. */
  private sendAsPast(group: Group): void {
    for (const watch of Array.from(group.synced)) {
      this.fallBehind(watch)
      this.catchUp(watch)
    }
  }

  /** Not yet sent: the events of the batch at hand. */
  private fallBehind(watch: Watch): void {
    watch.group.synced.delete(watch)
    watch.state = 'behind'
    watch.next = { revision: this.delivered + 1, sub: 0 }
  }

  /** A watch from a later revision on: has the present come there? */
  private lookAhead(watch: Watch, revision: number): void {
    if (watch.next.revision > revision + 1) return
    this.ahead.delete(watch)
    if (watch.next.revision === revision + 1) {
      watch.state = 'synced'
      watch.group.synced.add(watch)
    } else {
      // The batch holds what it wants: it is read from the history, as any other's past.
      watch.state = 'behind'
      this.catchUp(watch)
    }
  }

  private withPrevious(group: Group, event: WatchEvent): WatchEvent {
    const prevKv = group.prevKv ? this.mvcc.previous(event.kv.key, event.kv.modRevision) : undefined
    return prevKv ? { ...event, prevKv } : event
  }

  // ------------------------------------------------------------------------------------------------------------- the past

  /** History in slices, so that one watch from long ago holds nobody up; then it joins its group. */
  private catchUp(watch: Watch): void {
    if (watch.working) return
    watch.working = true
    const slice = () => {
      if (watch.stream.ended || !this.watches.has(watch)) return
      // A reader that is slow goes on when it has room again (`onRoom`).
      if (watch.stream.waiting > 0) {
        watch.working = false
        return
      }
      let data: WatchData | undefined
      try {
        data = this.readOn(watch)
      } catch (error) {
        if (!(error instanceof MvccError)) throw error
        watch.stream.end('compacted', {
          code: error.code,
          outcome: 'not-applied',
          text: error.message,
          details: error.details,
        })
        this.remove(watch)
        return
      }
      if (data) this.send(watch, data)
      if (watch.next.revision > this.mvcc.revision) {
        watch.working = false
        watch.state = 'synced'
        watch.group.synced.add(watch)
      } else this.clock.defer(slice)
    }
    slice()
  }

  /**
   * What the next message holds, if anything: whole revisions, at most about `messageBytesMax`. One that is larger by itself
   * comes in parts.
   */
  private readOn(watch: Watch): WatchData | undefined {
    const { group, next: from, sentRevision: prevRevision } = watch
    const found: { event: WatchEvent; at: HistoryPosition }[] = []
    let bytes = 0
    let next = this.mvcc.eventsFrom(
      from,
      group.range,
      (event, at) => {
        if (!fits(group, event)) return true
        found.push({ event, at })
        return (bytes += bytesOf(event)) < this.messageBytesMax
      },
      SLICE_CHANGES,
    )
    // What was there before is read only now: it may be more than the events themselves.
    bytes = 0
    const events: WatchEvent[] = []
    for (const { event, at } of found) {
      if (bytes >= this.messageBytesMax) {
        next = at
        break
      }
      const whole = this.withPrevious(group, event)
      events.push(whole)
      bytes += bytesOf(whole)
    }
    const begun = next.sub > 0 ? next.revision : undefined
    const whole = events.filter(({ kv }) => kv.modRevision !== begun).length
    if (begun !== undefined && (whole > 0 || (watch.partial && begun > from.revision))) {
      // A revision that was only begun is left to the next message.
      events.length = whole
      next = { revision: begun, sub: 0 }
    }
    watch.next = next
    if (events.length === 0 && !(watch.partial && next.sub === 0)) return undefined
    watch.partial = next.sub > 0
    if (watch.partial) return { prevRevision, revision: prevRevision, events, partial: true }
    return { prevRevision, revision: next.revision - 1, events }
  }

  private send(watch: Watch, data: WatchData): void {
    watch.sentRevision = data.revision
    if (!watch.stream.send(data)) this.remove(watch)
  }
}

function fits({ noPut, noDelete }: Group, { type }: WatchEvent): boolean {
  return type === 'put' ? !noPut : !noDelete
}

function bytesOf({ kv, prevKv }: WatchEvent): number {
  return EVENT_BYTES + kv.key.length + kv.value.length + (prevKv ? prevKv.key.length + prevKv.value.length : 0)
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}
