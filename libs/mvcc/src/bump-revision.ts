import { getU64, u64, viewOf } from './bytes.js'
import { metaKey } from './record.js'
import type { EngineWrite, StateEngine } from './state-engine.js'

/**
 * Raises the revision of a state that was restored, and that no `Mvcc` has open, by `by`, and compacts all below. Between
 * the state that was kept and the one that was lost, revisions may have been told to watchers and caches: none of them is
 * given out a second time for something else, and whoever asks for one is told that it is compacted, so that it lists anew.
 * `extra`: as in `Mvcc.applyBatch`. Returns the revision.
 */
export function bumpRevision(
  engine: StateEngine,
  by: number,
  extra: readonly (readonly [name: string, value: Uint8Array])[] = [],
): number {
  const bytes = engine.get(metaKey('revision'))
  const revision = (bytes ? getU64(viewOf(bytes), 0) : 1) + by
  if (by < 0 || !Number.isSafeInteger(revision)) throw new RangeError(`a revision of ${revision}`)
  const writes: EngineWrite[] = [
    [metaKey('revision'), u64(revision)],
    [metaKey('compact'), u64(revision)],
    ...extra.map(([name, value]): EngineWrite => [metaKey(`x${name}`), value]),
  ]
  engine.commit(writes, engine.appliedIndex)
  return revision
}
