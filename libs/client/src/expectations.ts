import type { World } from '@capstan/actor'

/**
 * What a controller did and its cache does not show yet, by the key it works on. While something is expected, the cache is
 * stale for that key and nothing may be counted from it. Ends by time-out, so that a lost answer delays but never stops.
 */
export class Expectations {
  private readonly entries = new Map<string, { creations: number; deletions: Set<string>; sinceMs: number }>()

  constructor(
    private readonly world: Pick<World, 'clock'>,
    /** Longer than it takes to notice a lost watch (3 s) and to resume it. */
    private readonly timeoutMs = 6000,
  ) {}

  /** Before `count` creations are sent. Adds up. */
  expectCreations(key: string, count: number): void {
    this.entry(key).creations += count
  }

  /** Before these objects (uid) are deleted. */
  expectDeletions(key: string, uids: readonly string[]): void {
    const entry = this.entry(key)
    for (const uid of uids) entry.deletions.add(uid)
  }

  /** The cache shows one more, or a creation is known not to have happened. */
  creationObserved(key: string, count = 1): void {
    const entry = this.entries.get(key)
    if (entry) entry.creations = Math.max(0, entry.creations - count)
  }

  /** The cache shows it deleted or being deleted, or the deletion is known not to have happened. */
  deletionObserved(key: string, uid: string): void {
    this.entries.get(key)?.deletions.delete(uid)
  }

  satisfied(key: string): boolean {
    const entry = this.entries.get(key)
    if (!entry) return true
    const late = this.world.clock.monotonicMs() - entry.sinceMs > this.timeoutMs
    if (!late && (entry.creations > 0 || entry.deletions.size > 0)) return false
    this.entries.delete(key)
    return true
  }

  /** When an unsatisfied key times out, in ms from now; 0 if nothing is expected. */
  waitMs(key: string): number {
    const entry = this.entries.get(key)
    return entry ? Math.max(1, entry.sinceMs + this.timeoutMs + 1 - this.world.clock.monotonicMs()) : 0
  }

  /** The owner is gone. */
  forget(key: string): void {
    this.entries.delete(key)
  }

  private entry(key: string) {
    let entry = this.entries.get(key)
    if (!entry) this.entries.set(key, (entry = { creations: 0, deletions: new Set<string>(), sinceMs: 0 }))
    entry.sinceMs = this.world.clock.monotonicMs()
    return entry
  }
}
