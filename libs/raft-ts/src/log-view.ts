import type { LogEntry, LogIndex, SnapshotMeta, Term } from './types.js'

/** The log as the core sees it: entries in memory above a snapshot. Durable or not is another matter (`stableIndex`). */
export class LogView {
  private entries: LogEntry[] = []
  /** The last entry that is no longer here. */
  private base: { index: LogIndex; term: Term } = { index: 0, term: 0 }

  constructor(base: { index: LogIndex; term: Term }, entries: readonly LogEntry[]) {
    this.base = { index: base.index, term: base.term }
    this.entries = [...entries]
  }

  get firstIndex(): LogIndex {
    return this.base.index + 1
  }

  get lastIndex(): LogIndex {
    return this.base.index + this.entries.length
  }

  get lastTerm(): Term {
    return this.entries[this.entries.length - 1]?.term ?? this.base.term
  }

  /** Undefined: compacted away, or not there yet. */
  termAt(index: LogIndex): Term | undefined {
    if (index === this.base.index) return this.base.term
    return this.entries[index - this.base.index - 1]?.term
  }

  at(index: LogIndex): LogEntry | undefined {
    return this.entries[index - this.base.index - 1]
  }

  /** `[from, to]`, as many as fit into `bytesMax` and at least one. */
  slice(from: LogIndex, to: LogIndex, bytesMax: number): LogEntry[] {
    const out: LogEntry[] = []
    let bytes = 0
    for (let index = from; index <= to; index++) {
      const entry = this.at(index)
      if (!entry) break
      bytes += entry.payload.length + 64
      if (out.length > 0 && bytes > bytesMax) break
      out.push(entry)
    }
    return out
  }

  append(entry: LogEntry): void {
    this.entries.push(entry)
  }

  /** Removes `from` and everything after it. */
  truncate(from: LogIndex): void {
    this.entries.length = Math.max(0, from - this.base.index - 1)
  }

  /** Forgets entries up to `index`, which a snapshot or the state machine's own durability covers. */
  compact(index: LogIndex): void {
    const term = this.termAt(index)
    if (term === undefined || index <= this.base.index) return
    this.entries = this.entries.slice(index - this.base.index)
    this.base = { index, term }
  }

  /** A snapshot replaces the log, unless the log goes on from it (thesis §5.1: retain what follows). */
  restore(meta: SnapshotMeta): void {
    if (this.termAt(meta.index) === meta.term) return this.compact(meta.index)
    this.entries = []
    this.base = { index: meta.index, term: meta.term }
  }

  /**
   * Where a follower's log may agree with one that has `term` at `index`: the last own index at or below `index` whose
   * term is at most `term`.
   */
  findConflict(index: LogIndex, term: Term): LogIndex {
    let at = Math.min(index, this.lastIndex)
    while (at > this.base.index && (this.termAt(at) as Term) > term) at--
    return at
  }
}
