import { CallError, sleep, type World } from '@capstan/actor'
import type { Cache } from './cache.js'
import type { StoreClient } from './store-client.js'

/** Kubernetes' period: history is kept for 5 to 10 minutes. */
const PERIOD_MS = 5 * 60_000

/** Tells the store which history nobody needs any more. Every API server does: the later one finds it done. */
export async function keepCompacting(
  world: World,
  store: StoreClient,
  cache: Cache,
  signal: AbortSignal,
): Promise<void> {
  let before = 0
  while (await sleep(world.clock, PERIOD_MS, signal)) {
    const revision = before
    before = cache.revision
    if (revision === 0) continue
    try {
      await store.compact(revision)
      world.log.debug({ revision }, 'compacted')
    } catch (error) {
      if (signal.aborted) return
      if (CallError.fromBus(error).code !== 'COMPACTED')
        world.log.warn({ err: error, revision }, 'not compacted; tried again later')
    }
  }
}
