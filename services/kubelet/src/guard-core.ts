/**
 * What the guard decides (DESIGN: a small process outside the kubelet's group). Pure: orders and the time come in, what to
 * end goes out. The guard asks nobody, so that it works when the kubelet is killed, stopped or cut off.
 */

/** How the containers of one pod are ended without a kubelet. */
export type KillTarget =
  /** Every process in the cgroup and below it; an absolute path as in /proc/<pid>/cgroup. */
  | { kind: 'cgroup'; path: string }
  /** Process groups that a `ProcessRuntime` of this directory started for the pod. */
  | { kind: 'processes'; directory: string }
  /** Only pretended: the guard lives where the runtime does. */
  | { kind: 'hollow' }

export interface GuardTarget {
  podUid: string
  kill: KillTarget
}

/** What the kubelet tells the guard: all that it needs to know, each time. */
export interface GuardOrder {
  formatVersion: 1
  /** Rises with each order, over restarts of the kubelet. */
  sequence: number
  /** Boot that `deadlineMs` belongs to: boot time begins anew with each. */
  bootId: string
  /** On the boot-time clock (CLOCK_BOOTTIME). From then on nothing of the targets may run. */
  deadlineMs: number
  targets: GuardTarget[]
}

/** What the guard tells the kubelet. */
export interface GuardState {
  /** Of the order that it goes by; 0: none yet. */
  sequence: number
  /** When it said this, on the boot-time clock. */
  atMs: number
}

export class GuardCore {
  private order: GuardOrder | undefined
  private expired = false

  constructor(private readonly bootId: string) {}

  get sequence(): number {
    return this.order?.sequence ?? 0
  }

  /** An order that is older than the one it goes by, or none, changes nothing. */
  take(order: GuardOrder | undefined): void {
    if (order !== undefined && order.sequence > this.sequence) this.order = order
  }

  /**
   * What must be ended now: again and again while the deadline has passed, for something may have been about to start.
   * `news`: this is the first time since it passed.
   */
  due(bootMs: number): { targets: GuardTarget[]; news: boolean } {
    const { order } = this
    const expired = order !== undefined && (order.bootId !== this.bootId || bootMs >= order.deadlineMs)
    const news = expired && !this.expired
    this.expired = expired
    return { targets: expired ? order.targets : [], news }
  }

  /** Until when nothing has to be ended, if no order comes. */
  get deadlineMs(): number | undefined {
    return this.order?.bootId === this.bootId ? this.order.deadlineMs : undefined
  }
}

/** An order read from where a kubelet wrote it; undefined if it is none (torn, of another format). */
export function parseGuardOrder(text: string): GuardOrder | undefined {
  try {
    const order = JSON.parse(text) as Partial<GuardOrder>
    const { formatVersion, sequence, bootId, deadlineMs, targets } = order
    const whole =
      formatVersion === 1 &&
      Number.isSafeInteger(sequence) &&
      typeof bootId === 'string' &&
      typeof deadlineMs === 'number' &&
      Array.isArray(targets)
    return whole ? (order as GuardOrder) : undefined
  } catch {
    return undefined
  }
}
