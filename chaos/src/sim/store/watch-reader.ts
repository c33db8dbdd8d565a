import { CallError, Caller } from '@capstan/actor'
import { type Subjects, type WatchData, WatchParts } from '@capstan/protocol'
import type { SimRandom, SimWorld } from '@capstan/sim'
import type { HistoryEvent } from '../../checkers/history.js'
import type { WatchedEvent, WatchStream } from '../../checkers/watch-guarantees.js'
import type { Records } from './records.js'
import { bytes, text } from './store-client.js'

export interface WatchWish {
  from: string
  to?: string
  noPut?: boolean
  noDelete?: boolean
  prevKv?: boolean
  startRevision: number
}

export const EVERYTHING = { from: '\0', to: '\u007f' }

/** Opens streams of watches and notes all that they bring. */
export class WatchReader {
  readonly caller: Caller
  /** Of `follow`: the reader has everything up to here. */
  toldUpTo = 0
  resumes = 0
  compactions = 0
  stopped = false
  private cancel: (() => void) | undefined

  constructor(
    readonly world: SimWorld,
    private readonly subjects: Subjects,
    readonly name: string,
    private readonly members: () => readonly string[],
    private readonly records: Records,
    private readonly random: SimRandom,
  ) {
    this.caller = new Caller(world, { name })
  }

  /** Reads on and on, whatever happens: resumes at another member after each end. */
  follow(wish: WatchWish): void {
    this.toldUpTo = wish.startRevision - 1
    const open = (startRevision: number) => {
      if (this.stopped) return
      this.cancel = this.open(
        { ...wish, startRevision },
        this.random.pick(this.members()),
        (stream) => {
          this.resumes++
          const { ended } = stream
          if (ended?.compactRevision !== undefined) {
            // What was lost it is told; it goes on from the oldest that is there.
            this.compactions++
            this.toldUpTo = Math.max(this.toldUpTo, ended.compactRevision - 1)
          }
          this.world.clock.setTimer(this.random.between(20, 500), () => open(this.toldUpTo + 1))
        },
        (told) => {
          this.toldUpTo = Math.max(this.toldUpTo, told)
        },
      )
    }
    open(wish.startRevision)
  }

  /** One stream, until the reader has everything up to `upTo`, or it ends. */
  once(wish: WatchWish, member: string, upTo: number): Promise<WatchStream> {
    return new Promise((resolve) => {
      this.open(wish, member, resolve, (told, cancel) => {
        if (told >= upTo) cancel()
      })
    })
  }

  stop(): void {
    this.stopped = true
    this.cancel?.()
  }

  private open(
    wish: WatchWish,
    member: string,
    onEnd: (stream: WatchStream) => void,
    onTold: (revision: number, cancel: () => void) => void,
  ): () => void {
    const stream: WatchStream = {
      reader: this.name,
      from: wish.from,
      ...(wish.to === undefined ? {} : { to: wish.to }),
      noPut: wish.noPut ?? false,
      noDelete: wish.noDelete ?? false,
      prevKv: wish.prevKv ?? false,
      startRevision: wish.startRevision,
      messages: [],
    }
    this.records.streams.push(stream)
    const body = {
      key: bytes(wish.from),
      ...(wish.to === undefined ? {} : { rangeEnd: bytes(wish.to) }),
      startRevision: wish.startRevision,
      prevKv: stream.prevKv,
      filters: [...(stream.noPut ? ['noPut'] : []), ...(stream.noDelete ? ['noDelete'] : [])],
    }
    const parts = new WatchParts()
    const handle = this.caller.openStream(
      this.subjects.store(member, this.world.bus.identity, 'watch'),
      body,
      {
        data: (data) => {
          const whole = parts.whole(data as WatchData)
          if (!whole) return
          const { prevRevision, revision, events } = whole
          const { compacted } = this.records
          stream.messages.push({ kind: 'data', prevRevision, revision, events: events.map(watchedOf), compacted })
          onTold(revision, () => handle.cancel())
        },
        beat: (position) => {
          const revision = (position as { revision?: number } | null)?.revision
          if (revision === undefined) return
          stream.messages.push({ kind: 'beat', prevRevision: revision, revision, events: [] })
          onTold(revision, () => handle.cancel())
        },
        end: (reason, error) => {
          const isCompacted = reason === 'compacted' || error?.code === 'COMPACTED'
          const details = error?.details as { compactRevision?: number } | undefined
          stream.ended = {
            reason: isCompacted ? 'compacted' : reason,
            ...(isCompacted && details?.compactRevision !== undefined
              ? { compactRevision: details.compactRevision }
              : {}),
          }
          onEnd(stream)
        },
      },
      { timeoutMs: 2000 },
    )
    return () => handle.cancel()
  }
}

function watchedOf({ type, kv, prevKv }: WatchData['events'][number]): WatchedEvent {
  return {
    type,
    key: text(kv.key),
    value: type === 'put' ? text(kv.value) : '',
    revision: kv.modRevision,
    createRevision: kv.createRevision,
    version: kv.version,
    ...(prevKv
      ? {
          prevKv: {
            value: text(prevKv.value),
            revision: prevKv.modRevision,
            createRevision: prevKv.createRevision,
            version: prevKv.version,
          },
        }
      : {}),
  }
}

/** All events of `[fromRevision, …)` as one member has them in its history, up to where it says that it has told all. */
export function readHistory(
  caller: Caller,
  world: SimWorld,
  subjects: Subjects,
  member: string,
  fromRevision: number,
): Promise<{ events: HistoryEvent[]; upTo: number }> {
  const events: HistoryEvent[] = []
  const parts = new WatchParts()
  return new Promise((resolve, reject) => {
    const stream = caller.openStream(
      subjects.store(member, world.bus.identity, 'watch'),
      { key: bytes(EVERYTHING.from), rangeEnd: Uint8Array.of(0), startRevision: fromRevision },
      {
        data(body) {
          for (const { type, kv } of parts.whole(body as WatchData)?.events ?? [])
            events.push({
              type,
              key: text(kv.key),
              value: type === 'put' ? text(kv.value) : '',
              revision: kv.modRevision,
              createRevision: type === 'put' ? kv.createRevision : 0,
              version: type === 'put' ? kv.version : 0,
              lease: type === 'put' ? kv.lease : 0,
            })
        },
        beat(position) {
          const upTo = (position as { revision?: number } | null)?.revision
          if (upTo === undefined) return
          resolve({ events, upTo })
          stream.cancel()
        },
        end: (reason, error) => reject(error ?? new CallError('CONNECTION_LOST', 'not-applied', `it ended: ${reason}`)),
      },
      { timeoutMs: 5000 },
    )
  })
}
