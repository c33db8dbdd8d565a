import type { Clock, Timer } from '@capstan/actor'

/** A clock that can be set wrong: its wall time jumps, and all of it runs fast or slow. What it said before it never takes back. */
export class FaultyClock implements Clock {
  private offsetMs = 0
  private rate = 1
  /** Since when the present rate holds: of the true clock, and of this one. */
  private trueMs: number
  private ownMs: number
  /** For proof: how often it was asked while it was wrong, since it was made. */
  asked = 0

  constructor(private readonly clock: Clock) {
    this.trueMs = clock.monotonicMs()
    this.ownMs = this.trueMs
  }

  nowMs(): number {
    this.count()
    return this.shownMs()
  }

  /** What it would say now, to whoever looks at it from outside: no use of it. */
  shownMs(): number {
    const driftMs = this.monotonic() - this.clock.monotonicMs()
    return Math.floor(this.clock.nowMs() + driftMs + this.offsetMs)
  }

  monotonicMs(): number {
    this.count()
    return this.monotonic()
  }

  setTimer(delayMs: number, run: () => void): Timer {
    return this.clock.setTimer(delayMs / this.rate, run)
  }

  defer(run: () => void): void {
    this.clock.defer(run)
  }

  /** Of the wall clock, against the true one. */
  setOffset(ms: number): void {
    this.offsetMs = ms
  }

  /** 1.05: runs 5 % fast. Timers that are set already keep their time. @throws RangeError unless from 0.5 to 2. */
  setRate(rate: number): void {
    if (!(rate >= 0.5 && rate <= 2)) throw new RangeError(`a clock's rate is from 0.5 to 2, not ${rate}`)
    this.ownMs = this.monotonic()
    this.trueMs = this.clock.monotonicMs()
    this.rate = rate
  }

  private monotonic(): number {
    return this.ownMs + (this.clock.monotonicMs() - this.trueMs) * this.rate
  }

  private count(): void {
    if (this.offsetMs !== 0 || this.rate !== 1) this.asked++
  }
}
