import type { Clock, Timer } from '@capstan/actor'

/** The longest delay that setTimeout takes; a longer one would fire at once. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1

/**
 * The machine's time. `monotonicMs` is CLOCK_MONOTONIC, which Node offers; unlike boot time it stands still while the
 * machine is suspended. Servers do not suspend, and whoever judges absence starts anew after a gap between its own ticks.
 */
export class RealClock implements Clock {
  nowMs(): number {
    return Date.now()
  }

  monotonicMs(): number {
    return performance.now()
  }

  setTimer(delayMs: number, run: () => void): Timer {
    const dueMs = performance.now() + delayMs
    // It takes whole milliseconds only: a fraction cut off would make it fire early, and then once more.
    let handle = setTimeout(fire, Math.min(Math.max(0, Math.ceil(delayMs)), TIMEOUT_MS_MAX))
    return { cancel: () => clearTimeout(handle) }

    function fire(): void {
      // setTimeout counts whole milliseconds of the event loop's clock and comes up to one too early.
      const leftMs = dueMs - performance.now()
      if (leftMs <= 0) run()
      else handle = setTimeout(fire, Math.min(Math.ceil(leftMs), TIMEOUT_MS_MAX))
    }
  }

  defer(run: () => void): void {
    setImmediate(run)
  }
}
