import type { Clock, Timer } from '@capstan/actor'

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
    // Longer delays than setTimeout takes fire at its limit instead of at once.
    const handle = setTimeout(run, Math.min(Math.max(0, delayMs), 2 ** 31 - 1))
    return { cancel: () => clearTimeout(handle) }
  }

  defer(run: () => void): void {
    setImmediate(run)
  }
}
