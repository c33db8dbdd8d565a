import type { Clock, Timer } from '@capstan/actor'

const BACKOFF_MS = 500
const BACKOFF_MS_MAX = 10_000

/**
 * Pods (by key) that wait for a place: active ones in order of arrival; those whose binding failed, after a back-off;
 * unschedulable ones until something changes that may help, or `retryMs` has passed. A key stands in one of them at most;
 * there are never more than pods in the informer.
 */
export class SchedulingQueue {
  private readonly active = new Set<string>()
  private readonly waiting = new Map<string, Timer>()
  private readonly parked = new Set<string>()
  private readonly failures = new Map<string, number>()
  private wake: (() => void) | undefined
  private stopped = false
  private readonly sweep: Timer[] = []

  constructor(
    private readonly clock: Clock,
    private readonly retryMs: number,
  ) {
    this.scheduleSweep()
  }

  /** A pod that is new, or has changed. One that waits out a back-off goes on waiting. */
  add(key: string): void {
    if (this.stopped || this.waiting.has(key)) return
    this.parked.delete(key)
    this.active.add(key)
    this.wake?.()
  }

  /** Placing it found no node. */
  unschedulable(key: string): void {
    this.parked.add(key)
  }

  /** Its binding failed. */
  failed(key: string): void {
    if (this.stopped || this.waiting.has(key)) return
    const failures = (this.failures.get(key) ?? 0) + 1
    this.failures.set(key, failures)
    const delayMs = Math.min(BACKOFF_MS * 2 ** (failures - 1), BACKOFF_MS_MAX)
    this.waiting.set(
      key,
      this.clock.setTimer(delayMs, () => {
        this.waiting.delete(key)
        this.add(key)
      }),
    )
  }

  /** Something changed that may make room. */
  retryUnschedulable(): void {
    const keys = [...this.parked].sort()
    this.parked.clear()
    for (const key of keys) this.add(key)
  }

  /** Bound, or gone. */
  forget(key: string): void {
    this.active.delete(key)
    this.parked.delete(key)
    this.failures.delete(key)
    this.waiting.get(key)?.cancel()
    this.waiting.delete(key)
  }

  /** The next key, when there is one; undefined once stopped. One taker at a time. */
  async take(): Promise<string | undefined> {
    while (!this.stopped) {
      const [key] = this.active
      if (key !== undefined) {
        this.active.delete(key)
        return key
      }
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
      this.wake = undefined
    }
    return undefined
  }

  stop(): void {
    this.stopped = true
    for (const timer of [...this.waiting.values(), ...this.sweep]) timer.cancel()
    this.waiting.clear()
    this.wake?.()
  }

  private scheduleSweep(): void {
    this.sweep[0] = this.clock.setTimer(this.retryMs, () => {
      this.retryUnschedulable()
      if (!this.stopped) this.scheduleSweep()
    })
  }
}
