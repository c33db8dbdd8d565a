import type { LogIndex } from './types.js'

/** What a leader knows of one follower, and how it sends to it (etcd's raft: probe, replicate, snapshot). */
export class Progress {
  /** Known to be durable there. */
  match: LogIndex = 0
  next: LogIndex
  /**
   * `probe`: one append at a time until it is known where the logs agree. `replicate`: many on the way. `snapshot`: what
   * it needs is no longer in the log.
   */
  state: 'probe' | 'replicate' | 'snapshot' = 'probe'
  /** Appends on the way, oldest first: the last index and size of each. */
  readonly inFlight: { index: LogIndex; bytes: number }[] = []
  inFlightBytes = 0
  /** In `probe`: one is on the way since then. */
  probeSentMs: number | undefined
  heardMs: number
  /** Highest commit index that it was told. */
  toldCommit: LogIndex = 0
  /** It waits for that: it is told with the next Ready. */
  tellCommit = false
  /**
   * `last` had been sent, and `match` acknowledged, before heartbeat `round`: what an answer to it does not have was lost.
   * One at a time.
   */
  mark: { round: number; last: LogIndex; match: LogIndex } | undefined
  snapshot = { index: 0, offset: 0, askedMs: 0, waiting: false }
  /** Highest heartbeat round that it answered. */
  round = 0
  /** Rounds of catching up (thesis §4.2.1): the log's end when this one began, and when that was. */
  private catchUpTo: LogIndex
  private catchUpSinceMs: number
  private lastRoundMs = Number.POSITIVE_INFINITY
  /** It has been removed, and is told so until then. */
  leavingUntilMs: number | undefined

  constructor(next: LogIndex, nowMs: number) {
    this.next = next
    this.heardMs = nowMs
    this.catchUpTo = next - 1
    this.catchUpSinceMs = nowMs
  }

  /** Has `match` reached the end of a round? The next one goes to where the log ends now. */
  matched(index: LogIndex, lastIndex: LogIndex, nowMs: number): void {
    if (index > this.match) this.match = index
    if (this.match < this.catchUpTo) return
    this.lastRoundMs = nowMs - this.catchUpSinceMs
    this.catchUpTo = lastIndex
    this.catchUpSinceMs = nowMs
  }

  caughtUp(withinMs: number, nowMs: number): boolean {
    const waitingMs = this.match >= this.catchUpTo ? 0 : nowMs - this.catchUpSinceMs
    return this.lastRoundMs <= withinMs && waitingMs <= withinMs
  }

  becomeProbe(next: LogIndex): void {
    this.state = 'probe'
    this.next = Math.max(next, this.match + 1)
    this.probeSentMs = undefined
    this.mark = undefined
    this.clearInFlight()
  }

  becomeReplicate(): void {
    this.state = 'replicate'
    this.next = this.match + 1
    this.probeSentMs = undefined
    this.clearInFlight()
  }

  becomeSnapshot(): void {
    this.state = 'snapshot'
    this.snapshot = { index: 0, offset: 0, askedMs: Number.NEGATIVE_INFINITY, waiting: false }
    this.clearInFlight()
  }

  /** Nothing of what it acknowledged may be counted on. */
  forgot(next: LogIndex): void {
    this.match = 0
    this.toldCommit = 0
    this.becomeProbe(next)
  }

  sent(index: LogIndex, bytes: number): void {
    this.inFlight.push({ index, bytes })
    this.inFlightBytes += bytes
  }

  acknowledged(index: LogIndex): void {
    while (this.inFlight[0] && this.inFlight[0].index <= index) this.inFlightBytes -= this.inFlight.shift()?.bytes ?? 0
  }

  private clearInFlight(): void {
    this.inFlight.length = 0
    this.inFlightBytes = 0
  }
}
