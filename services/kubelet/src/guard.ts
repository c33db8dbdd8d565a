import type { Clock, Timer } from '@capstan/actor'
import { GuardCore, type GuardOrder, type GuardState, type GuardTarget } from './guard-core.js'

/**
 * The port between the kubelet and its guard. Bodies: `FileGuard` in `edge/` (a process of its own, spoken to by files),
 * `LocalGuard` (in this process, for runtimes that pretend and for clusters in one process).
 */
export interface Guard {
  /** The boot-time clock, ms; the same that the guard goes by. */
  bootMs(): number
  readonly bootId: string
  /** The last order of an earlier life of this kubelet. */
  lastOrder(): GuardOrder | undefined
  /** @throws if the guard can't be told: it goes on by the order before. */
  tell(order: GuardOrder): void
  /** What it said last. */
  state(): GuardState | undefined
}

/** How often a guard looks at the time. Part of the margin that replacement elsewhere leaves. */
export const GUARD_PERIOD_MS = 100
/** One that said nothing for so long does not watch any more. */
export const GUARD_SILENT_MS = 2000

/**
 * A guard in this process. It ends pods when the kubelet is cut off or stuck, but not when the whole process is stopped:
 * promise C3 then holds only for containers that stop with it.
 */
export class LocalGuard implements Guard {
  readonly bootId = 'local'
  private readonly core = new GuardCore(this.bootId)
  private told: GuardOrder | undefined
  private timer: Timer | undefined
  private stopped = false

  constructor(
    private readonly clock: Clock,
    private readonly end: (target: GuardTarget) => unknown,
  ) {}

  bootMs(): number {
    return this.clock.monotonicMs()
  }

  lastOrder(): GuardOrder | undefined {
    return this.told
  }

  tell(order: GuardOrder): void {
    this.told = order
    this.core.take(order)
    this.look()
  }

  state(): GuardState | undefined {
    return this.stopped ? undefined : { sequence: this.core.sequence, atMs: this.bootMs() }
  }

  stop(): void {
    this.stopped = true
    this.timer?.cancel()
  }

  /** Looks again when the deadline passes, and from then on all the time. */
  private look(): void {
    this.timer?.cancel()
    if (this.stopped) return
    for (const target of this.core.due(this.bootMs()).targets) this.end(target)
    const leftMs = (this.core.deadlineMs ?? 0) - this.bootMs()
    this.timer = this.clock.setTimer(leftMs > 0 ? leftMs : GUARD_PERIOD_MS, () => this.look())
  }
}
