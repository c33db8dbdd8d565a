import type { Clock, OutStream, Random } from '@capstan/actor'
import { type KeyRange, type KeyValue, type Mvcc, MvccError, type RevisionEvents } from '@capstan/mvcc'
import type { WatchData, WatchEvent } from '@capstan/protocol'

/** History looked at for one watch between two returns to the event loop. */
const SLICE_CHANGES = 1000

interface Watch {
  stream: OutStream
  range: KeyRange
  from: string
  to: string | undefined
  single: boolean
  prevKv: boolean
  noPut: boolean
  noDelete: boolean
  /** Everything below it was delivered. */
  nextRevision: number
  /** `revision` of the last message sent. */
  sentRevision: number
  synced: boolean
  working: boolean
}

/** All watches that this member serves, from its own applied state (promise S3). */
export class WatchHub {
  private readonly watches = new Set<Watch>()
  private readonly stopListening: () => void

  constructor(
    private readonly mvcc: Mvcc,
    private readonly clock: Clock,
    /** Given: the last message before a pause gets lost now and then, unnoticed (planted bug). */
    private readonly loseLast?: Random,
  ) {
    this.stopListening = mvcc.onRevisions((batch) => this.deliver(batch))
  }

  get size(): number {
    return this.watches.size
  }

  /** Position for the stream's beats: the reader has everything up to it when it has the last message. */
  add(
    stream: OutStream,
    request: { range: KeyRange; startRevision: number; prevKv: boolean; filters: readonly string[] },
  ): { position(): { revision: number } } {
    const { range } = request
    const end = range.rangeEnd
    const watch: Watch = {
      stream,
      range,
      from: text(range.key),
      to: end && !(end.length === 1 && end[0] === 0) ? text(end) : undefined,
      single: end === undefined || end.length === 0,
      prevKv: request.prevKv,
      noPut: request.filters.includes('noPut'),
      noDelete: request.filters.includes('noDelete'),
      nextRevision: request.startRevision,
      sentRevision: request.startRevision - 1,
      synced: request.startRevision > this.mvcc.revision,
      working: false,
    }
    this.watches.add(watch)
    stream.onEnd(() => this.watches.delete(watch))
    this.send(watch, { prevRevision: watch.sentRevision, revision: watch.sentRevision, events: [] })
    if (!watch.synced) this.catchUp(watch)
    return {
      position: () => ({
        revision: watch.synced ? Math.max(this.mvcc.revision, watch.sentRevision) : watch.nextRevision - 1,
      }),
    }
  }

  /** The state was replaced by a snapshot: every watch goes on from what it has, or is told that this is compacted. */
  reset(): void {
    for (const watch of Array.from(this.watches)) {
      if (watch.nextRevision > this.mvcc.revision) continue
      watch.synced = false
      this.catchUp(watch)
    }
  }

  end(reason: string): void {
    this.stopListening()
    for (const watch of Array.from(this.watches)) watch.stream.end(reason)
    this.watches.clear()
  }

  private deliver(batch: readonly RevisionEvents[]): void {
    const last = (batch[batch.length - 1] as RevisionEvents).revision
    if (this.watches.size === 0) return
    // The keys' text is made once for all watches.
    const keys = batch.map(({ events }) => events.map((event) => text(event.kv.key)))
    for (const watch of Array.from(this.watches)) {
      if (!watch.synced) continue
      const events: WatchEvent[] = []
      batch.forEach((one, i) => {
        if (one.revision < watch.nextRevision) return // Asked for from a later revision on.
        one.events.forEach((event, j) => {
          const key = keys[i]?.[j] as string
          const inside = watch.single
            ? key === watch.from
            : key >= watch.from && (watch.to === undefined || key < watch.to)
          if (inside) this.addEvent(watch, event, events)
        })
      })
      watch.nextRevision = Math.max(watch.nextRevision, last + 1)
      if (events.length === 0) continue
      if (this.loseLast && this.loseLast.int(20) === 0) continue
      this.send(watch, { prevRevision: watch.sentRevision, revision: last, events })
    }
  }

  private addEvent(watch: Watch, event: { type: 'put' | 'delete'; kv: KeyValue }, events: WatchEvent[]): void {
    if (event.type === 'put' ? watch.noPut : watch.noDelete) return
    const prevKv = watch.prevKv ? this.mvcc.previous(event.kv.key, event.kv.modRevision) : undefined
    events.push(prevKv ? { ...event, prevKv } : event)
  }

  /** History in slices, so that one watch from long ago holds nobody up; then it joins the others. */
  private catchUp(watch: Watch): void {
    if (watch.working) return
    watch.working = true
    const slice = () => {
      if (watch.stream.ended || !this.watches.has(watch)) return
      const events: WatchEvent[] = []
      try {
        const { batch, nextRevision } = this.mvcc.eventsSince(watch.nextRevision, watch.range, SLICE_CHANGES)
        for (const one of batch) for (const event of one.events) this.addEvent(watch, event, events)
        watch.nextRevision = nextRevision
      } catch (error) {
        if (!(error instanceof MvccError)) throw error
        this.watches.delete(watch)
        watch.stream.end('compacted', {
          code: error.code,
          outcome: 'not-applied',
          text: error.message,
          details: error.details,
        })
        return
      }
      if (events.length > 0)
        this.send(watch, { prevRevision: watch.sentRevision, revision: watch.nextRevision - 1, events })
      if (watch.nextRevision > this.mvcc.revision) {
        watch.working = false
        watch.synced = true
      } else this.clock.defer(slice)
    }
    slice()
  }

  private send(watch: Watch, data: WatchData): void {
    watch.sentRevision = data.revision
    if (!watch.stream.send(data)) this.watches.delete(watch)
  }
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}
