import type { Timer, World } from '@capstan/actor'

export interface WorkQueueOptions {
  /** First wait after a failure of a key; doubles with each further one. Default 5 and 60,000. */
  backoffMs?: number
  backoffMsMax?: number
  /** Keys handed out in a second, on average, with a burst of as many. Default: no limit. */
  perSecond?: number
  /** Keys that may wait, those with a delay included. One more is refused: `add` returns false. Default 100,000. */
  keysMax?: number
}

/**
 * Keys to work on. A key waits at most once, and is never handed out twice at a time: added while it is being worked on,
 * it comes again after `done`. Order: as added. Draws nothing from chance.
 */
export class WorkQueue {
  private readonly ready = new Set<string>()
  private readonly working = new Set<string>()
  private readonly again = new Set<string>()
  private readonly delayed = new Map<string, { dueMs: number; timer: Timer }>()
  private readonly failures = new Map<string, number>()
  private readonly takers: ((key: string | undefined) => void)[] = []
  private stopped = false
  private tokens: number
  private tokensMs: number
  private tokenTimer: Timer | undefined
  private readonly backoffMs: number
  private readonly backoffMsMax: number
  private readonly keysMax: number

  constructor(
    private readonly world: Pick<World, 'clock'>,
    private readonly options: WorkQueueOptions = {},
  ) {
    this.backoffMs = options.backoffMs ?? 5
    this.backoffMsMax = options.backoffMsMax ?? 60_000
    this.keysMax = options.keysMax ?? 100_000
    this.tokens = options.perSecond ?? 0
    this.tokensMs = world.clock.monotonicMs()
  }

  /** Keys that wait, with a delay or without. */
  get waiting(): number {
    return this.ready.size + this.delayed.size + this.again.size
  }

  get inWork(): number {
    return this.working.size
  }

  /** False: refused (full or stopped). A key that waits already: true. */
  add(key: string): boolean {
    if (this.stopped) return false
    if (this.ready.has(key) || this.again.has(key)) return true
    if (!this.delayed.has(key) && this.waiting >= this.keysMax) return false
    this.delayed.get(key)?.timer.cancel()
    this.delayed.delete(key)
    if (this.working.has(key)) this.again.add(key)
    else {
      this.ready.add(key)
      this.serveTakers()
    }
    return true
  }

  /** Adds the key after `delayMs`, or earlier if it is asked for earlier. */
  addAfter(key: string, delayMs: number): boolean {
    if (delayMs <= 0) return this.add(key)
    if (this.stopped) return false
    if (this.ready.has(key) || this.again.has(key)) return true
    // Whole ms: a wait of some 1e-13 ms, left over from a subtraction, would not move a virtual clock at all.
    const waitMs = Math.ceil(delayMs)
    const dueMs = this.world.clock.monotonicMs() + waitMs
    const present = this.delayed.get(key)
    if (present && present.dueMs <= dueMs) return true
    if (!present && this.waiting >= this.keysMax) return false
    present?.timer.cancel()
    const timer = this.world.clock.setTimer(waitMs, () => this.add(key))
    this.delayed.set(key, { dueMs, timer })
    return true
  }

  /** Adds the key after its back-off, which this call lengthens. Returns the wait in ms. */
  addRateLimited(key: string): number {
    const failures = this.failures.get(key) ?? 0
    this.failures.set(key, failures + 1)
    const delayMs = Math.min(this.backoffMs * 2 ** Math.min(failures, 40), this.backoffMsMax)
    this.addAfter(key, delayMs)
    return delayMs
  }

  /** Failures since the last `forget`. */
  failuresOf(key: string): number {
    return this.failures.get(key) ?? 0
  }

  /** The key succeeded: its back-off starts anew. */
  forget(key: string): void {
    this.failures.delete(key)
  }

  /** The next key, as soon as there is one; undefined when the queue is stopped. Call `done` for each. */
  take(): Promise<string | undefined> {
    if (this.stopped) return Promise.resolve(undefined)
    return new Promise((resolve) => {
      this.takers.push(resolve)
      this.serveTakers()
    })
  }

  done(key: string): void {
    this.working.delete(key)
    if (!this.again.delete(key) || this.stopped) return
    this.ready.add(key)
    this.serveTakers()
  }

  stop(): void {
    this.stopped = true
    for (const { timer } of this.delayed.values()) timer.cancel()
    this.tokenTimer?.cancel()
    this.ready.clear()
    this.again.clear()
    this.delayed.clear()
    this.failures.clear()
    for (const taker of this.takers.splice(0)) taker(undefined)
  }

  private serveTakers(): void {
    for (const key of this.ready) {
      if (this.takers.length === 0) return
      if (!this.takeToken()) return
      this.ready.delete(key)
      this.working.add(key)
      this.takers.shift()?.(key)
    }
  }

  private takeToken(): boolean {
    const { perSecond } = this.options
    if (perSecond === undefined) return true
    const now = this.world.clock.monotonicMs()
    this.tokens = Math.min(perSecond, this.tokens + ((now - this.tokensMs) * perSecond) / 1000)
    this.tokensMs = now
    if (this.tokens >= 1) {
      this.tokens--
      return true
    }
    this.tokenTimer?.cancel()
    this.tokenTimer = this.world.clock.setTimer(Math.ceil(((1 - this.tokens) * 1000) / perSecond), () =>
      this.serveTakers(),
    )
    return false
  }
}
