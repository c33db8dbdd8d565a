/**
 * When leases end. Only the leader keeps deadlines, by its own monotonic clock; what it decides goes through the log as
 * revocations. The state itself knows no time.
 *
 * A renewal must not be acknowledged by a leader that was deposed without knowing: its successor counts from its own
 * election. So the caller confirms leadership after the renewal came in, before it is acknowledged.
 */
export class Lessor {
  private readonly deadlines = new Map<
    number,
    { deadlineMs: number; ttlSeconds: number; checkpointed: boolean; ending: boolean }
  >()
  private leading = false

  /** A new leader gives every lease its full time (or what the last checkpoint said remained) from now on, as etcd does. */
  lead(nowMs: number, leases: readonly { id: number; ttlSeconds: number; remainingSeconds: number }[]): void {
    this.leading = true
    this.deadlines.clear()
    for (const { id, ttlSeconds, remainingSeconds } of leases) {
      const seconds = remainingSeconds > 0 ? remainingSeconds : ttlSeconds
      this.deadlines.set(id, {
        deadlineMs: nowMs + seconds * 1000,
        ttlSeconds,
        checkpointed: remainingSeconds > 0,
        ending: false,
      })
    }
  }

  follow(): void {
    this.leading = false
    this.deadlines.clear()
  }

  granted(nowMs: number, id: number, ttlSeconds: number): void {
    if (this.leading)
      this.deadlines.set(id, { deadlineMs: nowMs + ttlSeconds * 1000, ttlSeconds, checkpointed: false, ending: false })
  }

  revoked(id: number): void {
    this.deadlines.delete(id)
  }

  /** Time that this side could not act in (a pause, a stall) is given to the holders: they could not renew either. */
  extendAll(byMs: number): void {
    for (const entry of this.deadlines.values()) entry.deadlineMs += byMs
  }

  /**
   * `gone`: no such lease, or its end is decided. `reset`: a checkpoint says that less remains; it must be taken back
   * through the log before the renewal is acknowledged, or a later leader would end the lease too early.
   */
  renew(nowMs: number, id: number): 'renewed' | 'gone' | 'reset' {
    const entry = this.deadlines.get(id)
    if (!entry || entry.ending) return 'gone'
    entry.deadlineMs = nowMs + entry.ttlSeconds * 1000
    return entry.checkpointed ? 'reset' : 'renewed'
  }

  checkpointApplied(id: number, seconds: number): void {
    const entry = this.deadlines.get(id)
    if (entry) entry.checkpointed = seconds > 0
  }

  remainingSeconds(nowMs: number, id: number): number | undefined {
    const entry = this.deadlines.get(id)
    return entry && Math.max(0, Math.ceil((entry.deadlineMs - nowMs) / 1000))
  }

  /** Leases whose time is over, at most `max`, ascending. Each is told once; `retry` makes it be told again. */
  takeEnded(nowMs: number, max: number): number[] {
    const ended: number[] = []
    for (const [id, entry] of this.deadlines) if (!entry.ending && entry.deadlineMs <= nowMs) ended.push(id)
    ended.sort((a, b) => a - b)
    ended.length = Math.min(ended.length, max)
    for (const id of ended) (this.deadlines.get(id) as { ending: boolean }).ending = true
    return ended
  }

  retry(id: number): void {
    const entry = this.deadlines.get(id)
    if (entry) entry.ending = false
  }

  /** What remains of the long leases, for a checkpoint: short ones are not worth a log entry. */
  checkpoint(nowMs: number, ttlSecondsMin: number, max: number): { id: number; seconds: number }[] {
    const all: { id: number; seconds: number }[] = []
    for (const [id, entry] of this.deadlines) {
      if (entry.ttlSeconds < ttlSecondsMin || entry.ending) continue
      const seconds = Math.ceil((entry.deadlineMs - nowMs) / 1000)
      if (seconds > 0 && seconds < entry.ttlSeconds) all.push({ id, seconds })
    }
    all.sort((a, b) => a.id - b.id)
    return all.slice(0, max)
  }
}
