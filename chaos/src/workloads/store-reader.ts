import { type Clock, sleep } from '@capstan/actor'
import type { WatchStream } from '../checkers/watch-guarantees.js'
import type { StorePort } from './ports.js'

const AGAIN_MS = 100
const EVENTS_MAX = 200_000

/** Follows a range of the store by one member, and begins again where it was whenever the stream ends. */
export class StoreReader {
  readonly streams: WatchStream[] = []
  /** It has everything up to here. */
  reached: number
  /** The highest revision at which it was told of a compaction. */
  compacted = 0
  /** Streams that ended before anything came. */
  inVain = 0
  private events = 0
  private stopped = false
  private cancel: (() => void) | undefined
  private readonly loop: Promise<void>

  constructor(
    private readonly clock: Clock,
    private readonly port: StorePort,
    private readonly range: { from: string; to: string },
    startRevision: number,
  ) {
    this.reached = startRevision - 1
    this.loop = this.run()
  }

  async stop(): Promise<void> {
    this.stopped = true
    this.cancel?.()
    await this.loop
  }

  private async run(): Promise<void> {
    while (!this.stopped && this.events < EVENTS_MAX) {
      await this.follow()
      if (!this.stopped) await sleep(this.clock, AGAIN_MS)
    }
  }

  private follow(): Promise<void> {
    const stream: WatchStream = {
      reader: `reader@${this.port.member}`,
      ...this.range,
      noPut: false,
      noDelete: false,
      prevKv: true,
      startRevision: this.reached + 1,
      messages: [],
    }
    return new Promise((resolve) => {
      this.cancel = this.port.watch(this.range.from, this.range.to, stream.startRevision, {
        message: (revision, events) => {
          const kind = events.length > 0 ? 'data' : 'beat'
          // Of data the header's revision is the store's, not a promise: it has what it was sent.
          const upTo = events.reduce((highest, event) => Math.max(highest, event.revision), 0) || revision
          // The answer to a question after progress may be older than an event that overtook it: it tells nothing new.
          if (kind === 'beat' && upTo < this.reached) return
          const before = stream.messages.at(-1)
          if (kind === 'beat' && before?.kind === 'beat') before.revision = upTo
          else stream.messages.push({ kind, prevRevision: this.reached, revision: upTo, events })
          this.events += events.length
          this.reached = Math.max(this.reached, upTo)
        },
        end: (ended) => {
          stream.ended = ended
          if (ended.compactRevision !== undefined) {
            this.compacted = Math.max(this.compacted, ended.compactRevision)
            this.reached = Math.max(this.reached, ended.compactRevision - 1)
          }
          if (stream.messages.length > 0 || ended.reason === 'compacted') this.streams.push(stream)
          else this.inVain++
          resolve()
        },
      })
    })
  }
}
