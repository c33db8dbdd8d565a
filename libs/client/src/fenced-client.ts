import { CallError } from '@capstan/actor'
import type { Fence } from '@capstan/protocol'
import type { ApiClient } from './api-client.js'

/**
 * The same client with `fence` in every write. After `signal` is aborted every call fails with CLOSED (not-applied): what
 * still runs of a stopped controller comes to its end. `onFenced` hears of the first FENCED answer.
 */
export function fencedClient(
  client: ApiClient,
  options: { fence?: Fence; signal?: AbortSignal; onFenced?: (error: CallError) => void },
): ApiClient {
  const { fence, signal, onFenced } = options
  let told = false
  const withFence = fence === undefined ? {} : { fence }

  async function guarded<R>(run: () => Promise<R>): Promise<R> {
    if (signal?.aborted) throw new CallError('CLOSED', 'not-applied', 'the controller is stopped')
    try {
      return await run()
    } catch (error) {
      if (error instanceof CallError && error.code === 'FENCED' && !told) {
        told = true
        onFenced?.(error)
      }
      throw error
    }
  }

  return {
    get: (resource, ref, o) => guarded(() => client.get(resource, ref, o)),
    list: (resource, o) => guarded(() => client.list(resource, o)),
    watch: (resource, o, handlers) => client.watch(resource, o, handlers),
    create: (resource, object, o) => guarded(() => client.create(resource, object, { ...o, ...withFence })),
    update: (resource, object, o) => guarded(() => client.update(resource, object, { ...o, ...withFence })),
    patch: (resource, ref, type, patch, o) =>
      guarded(() => client.patch(resource, ref, type, patch, { ...o, ...withFence })),
    delete: (resource, ref, o) => guarded(() => client.delete(resource, ref, { ...o, ...withFence })),
    deleteCollection: (resource, o) => guarded(() => client.deleteCollection(resource, { ...o, ...withFence })),
  }
}
