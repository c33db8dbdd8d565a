import { Mvcc } from './mvcc.js'
import type { StateEngine } from './state-engine.js'

/**
 * Raises the revision of a state that was restored, and that no `Mvcc` has open, by `by`, and compacts all below: see
 * `Mvcc.markRestored`. `extra`: as in `Mvcc.applyBatch`. Returns the revision.
 */
export function bumpRevision(
  engine: StateEngine,
  by: number,
  extra: readonly (readonly [name: string, value: Uint8Array])[] = [],
): number {
  const mvcc = new Mvcc(engine)
  mvcc.markRestored(by, extra)
  return mvcc.revision
}
