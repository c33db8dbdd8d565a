/** One write: a value, or `undefined` to remove the key. */
export type EngineWrite = readonly [key: Uint8Array, value: Uint8Array | undefined]

/**
 * Where the state lives: an ordered map from bytes to bytes. One user, one thread; keys at most 511 bytes.
 *
 * After a crash it opens with the contents of some commit not older than the last checkpoint, whole: `appliedIndex` says
 * which; the log is replayed from there. It never shows half a commit. One contract test (`/testing`) holds every body.
 */
export interface StateEngine {
  /** Of the last commit; 0 for a new one. */
  readonly appliedIndex: number
  /** Of the last durable commit: the log may be cut up to here, not further. */
  readonly durableIndex: number
  /** What it takes, roughly. */
  readonly sizeBytes: number
  /** Committed but not yet durable and held in memory. Without bound: the owner calls `checkpoint` in time. */
  readonly unsavedBytes: number
  /** Not to be changed, nor to be used after the next call: the memory may be used again. */
  get(key: Uint8Array): Uint8Array | undefined
  /** Pairs with `from <= key < to` (no `to`: to the end), ascending by bytes. Not to be used across a commit; each pair as
   *  what `get` gives: only until the next one. */
  range(from: Uint8Array, to?: Uint8Array): Iterable<[key: Uint8Array, value: Uint8Array]>
  /** How many pairs `range` would give; quicker. */
  count(from: Uint8Array, to?: Uint8Array): number
  /**
   * All writes or none, visible at once, in order (the last write of a key wins). Not durable. `appliedIndex` never
   * falls. The arrays belong to the engine from now on.
   * @throws Error if a replacement is finished but not shown: what is committed to the old contents would be lost
   */
  commit(batch: readonly EngineWrite[], appliedIndex: number): void
  /** Makes all commits before the call durable; resolves with the index reached. Calls may overlap. Where a replacement is
   *  finished but not shown it has nothing to do.
   *  @throws the disk's error (out of space, IO): what was durable stays so. */
  checkpoint(): Promise<number>
  /** The present contents, unmoved by later commits. */
  snapshot(): EngineSnapshot
  /** Starts to fill a new state beside this one. Only one at a time.
   *  @throws Error if another is finished but not shown */
  replace(): EngineReplacement
  /** Without a checkpoint. */
  close(): Promise<void>
}

export interface EngineSnapshot {
  readonly appliedIndex: number
  get(key: Uint8Array): Uint8Array | undefined
  range(from: Uint8Array, to?: Uint8Array): Iterable<[key: Uint8Array, value: Uint8Array]>
  /** Frees what it holds. Idempotent. */
  close(): void
}

export interface EngineReplacement {
  /** Rising keys over all calls. */
  write(pairs: readonly (readonly [key: Uint8Array, value: Uint8Array])[]): Promise<void>
  /** Atomically and durably takes the place of the old contents. A crash before it has settled leaves old or new, whole; what
   *  is read here stays the old until `show`, and meanwhile nothing may be committed. */
  finish(appliedIndex: number): Promise<void>
  /** After `finish`: from now on all that is read here is the new. In the caller's turn, so that nobody sees it before those
   *  who go by it have been told. */
  show(): void
  /** Instead of `finish`. */
  abort(): Promise<void>
}
