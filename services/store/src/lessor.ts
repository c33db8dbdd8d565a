export interface LessorBugs {
  /** Every election gives every lease its full time. */
  resetOnElection?: boolean
}

interface Deadline {
  deadlineMs: number
  ttlSeconds: number
  /** Given by this leader on top: for the time in which nobody could renew. */
  graceMs: number
  /** Of the last entry about it; checkpoints count from there. */
  notedMs: number
  /** Its end is decided, and proposed. */
  ending: boolean
}

/**
 * When leases end. Every member keeps deadlines by its own monotonic clock, from the log alone: a grant, and each renewal
 * (an entry, too), count in full from when they are applied here. No clock of another member takes part, and a member
 * that comes to lead has the remaining time of each lease already; nothing begins anew. A deadline is never too early:
 * what was acknowledged was applied before, so the leader's own barrier (see `StoreMember.endLeases`) brings it here first.
 *
 * A member that restarts or installs a snapshot does not know when it applied what: it counts from then on, for what the
 * last checkpoint in the log said remained. Checkpoints are entries for many leases at once, of those only which nobody
 * has renewed for half their time: who renews as usual costs none.
 *
 * (etcd does not log renewals; its new leaders give each lease its full time again, or what a checkpoint said minutes ago.)
 */
export class Lessor {
  private readonly deadlines = new Map<number, Deadline>()
  private leading = false

  constructor(private readonly bugs: LessorBugs = {}) {}

  get size(): number {
    return this.deadlines.size
  }

  /** The state was opened, or replaced by a snapshot. */
  load(nowMs: number, leases: readonly { id: number; ttlSeconds: number; remainingSeconds: number }[]): void {
    this.deadlines.clear()
    for (const { id, ttlSeconds, remainingSeconds } of leases)
      this.set(nowMs, id, ttlSeconds, remainingSeconds > 0 ? remainingSeconds : ttlSeconds)
  }

  /** `graceMs`: how long nobody led, so that nobody could renew. */
  lead(nowMs: number, graceMs: number): void {
    this.leading = true
    for (const entry of this.deadlines.values()) {
      entry.graceMs = graceMs
      entry.ending = false
      if (this.bugs.resetOnElection) entry.deadlineMs = nowMs + entry.ttlSeconds * 1000
    }
  }

  follow(): void {
    this.leading = false
    for (const entry of this.deadlines.values()) {
      entry.graceMs = 0
      entry.ending = false
    }
  }

  /** Time in which the leader could not act (a pause, a stall) is given to the holders: they could not renew either. */
  extendAll(byMs: number): void {
    if (this.leading) for (const entry of this.deadlines.values()) entry.graceMs += byMs
  }

  // ------------------------------------------------------------------------------------------------- what the log says

  granted(nowMs: number, id: number, ttlSeconds: number): void {
    this.set(nowMs, id, ttlSeconds, ttlSeconds)
  }

  revoked(id: number): void {
    this.deadlines.delete(id)
  }

  /** `seconds` 0: it was renewed. Else what remained when it was proposed: an upper bound, as what is known here is. */
  checkpointed(nowMs: number, id: number, seconds: number): void {
    const entry = this.deadlines.get(id)
    if (!entry) return
    entry.notedMs = nowMs
    if (seconds === 0) this.renewFully(nowMs, entry)
    else entry.deadlineMs = Math.min(entry.deadlineMs, nowMs + seconds * 1000)
  }

  // --------------------------------------------------------------------------------------------------- what the leader does

  /**
   * A renewal came in, and is about to be proposed: until it is applied the lease must not end. False: there is no such
   * lease, or its end is decided.
   */
  renewing(nowMs: number, id: number): boolean {
    const entry = this.deadlines.get(id)
    if (!entry || entry.ending) return false
    this.renewFully(nowMs, entry)
    return true
  }

  remainingSeconds(nowMs: number, id: number): number | undefined {
    const entry = this.deadlines.get(id)
    return entry && Math.max(0, Math.ceil((entry.deadlineMs + entry.graceMs - nowMs) / 1000))
  }

  /** Leases whose time is over, at most `max`, ascending. */
  ended(nowMs: number, max: number): number[] {
    const ended: number[] = []
    for (const [id, { ending, deadlineMs, graceMs }] of this.deadlines)
      if (!ending && deadlineMs + graceMs <= nowMs) ended.push(id)
    ended.sort((a, b) => a - b)
    ended.length = Math.min(ended.length, max)
    return ended
  }

  /** Its end is being proposed: told no more, and not renewed any more. False: it was renewed in the meantime, or is gone. */
  ending(nowMs: number, id: number): boolean {
    const entry = this.deadlines.get(id)
    if (!entry || entry.ending || entry.deadlineMs + entry.graceMs > nowMs) return false
    entry.ending = true
    return true
  }

  /** Its end was not decided after all. */
  retry(id: number): void {
    const entry = this.deadlines.get(id)
    if (entry) entry.ending = false
  }

  /**
   * What remains of leases about which the log has been silent for half their time (at least 1 s, at most a minute),
   * at most `max`, those first that waited longest.
   */
  checkpoint(nowMs: number, max: number): { id: number; seconds: number }[] {
    const due: { id: number; seconds: number; notedMs: number }[] = []
    for (const [id, { deadlineMs, graceMs, notedMs, ttlSeconds, ending }] of this.deadlines) {
      const periodMs = Math.min(60_000, Math.max(1000, ttlSeconds * 500))
      if (ending || nowMs - notedMs < periodMs) continue
      const seconds = Math.ceil((deadlineMs + graceMs - nowMs) / 1000)
      if (seconds > 0 && seconds < ttlSeconds) due.push({ id, seconds, notedMs })
    }
    due.sort((a, b) => a.notedMs - b.notedMs || a.id - b.id)
    const taken = due.slice(0, max).map(({ id, seconds }) => ({ id, seconds }))
    // Not again before this one is applied, or has failed for a while.
    for (const { id } of taken) (this.deadlines.get(id) as Deadline).notedMs = nowMs
    return taken
  }

  private set(nowMs: number, id: number, ttlSeconds: number, seconds: number): void {
    this.deadlines.set(id, {
      deadlineMs: nowMs + seconds * 1000,
      ttlSeconds,
      graceMs: 0,
      notedMs: nowMs,
      ending: false,
    })
  }

  private renewFully(nowMs: number, entry: Deadline): void {
    entry.deadlineMs = nowMs + entry.ttlSeconds * 1000
    entry.graceMs = 0
  }
}
