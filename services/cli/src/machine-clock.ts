import type { Clock, Timer } from '@capstan/actor'

/** The clock of one machine among several in a process: when the machine ends, nothing that it planned runs any more. */
export class MachineClock implements Clock {
  private readonly timers = new Set<Timer>()
  private ended = false

  constructor(private readonly clock: Clock) {}

  nowMs(): number {
    return this.clock.nowMs()
  }

  monotonicMs(): number {
    return this.clock.monotonicMs()
  }

  setTimer(delayMs: number, run: () => void): Timer {
    if (this.ended) return { cancel: () => undefined }
    const timer = this.clock.setTimer(delayMs, () => {
      this.timers.delete(timer)
      run()
    })
    this.timers.add(timer)
    return {
      cancel: () => {
        timer.cancel()
        this.timers.delete(timer)
      },
    }
  }

  defer(run: () => void): void {
    this.clock.defer(() => {
      if (!this.ended) run()
    })
  }

  /** Cancels every timer; later ones are never set. Idempotent. */
  end(): void {
    this.ended = true
    for (const timer of this.timers) timer.cancel()
    this.timers.clear()
  }
}
