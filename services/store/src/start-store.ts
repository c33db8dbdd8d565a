import type { StoreHandle, StoreOptions, StoreWorld } from './options.js'

/**
 * Starts one member of the store: serves `store.<member>.from.*.*`, talks raft with the others, beats every second.
 * Resolves when it serves; that needs no quorum. @throws StoreError if the directory is damaged or not this member's.
 */
export function startStore(_world: StoreWorld, _options: StoreOptions): Promise<StoreHandle> {
  return Promise.reject(new Error('not written yet'))
}
