import { CallError, type World } from '@capstan/actor'
import type { Compare, Fence, KeyValue, TxnOp, TxnOpReply } from '@capstan/protocol'
import type { Cache } from './cache.js'
import {
  ApiError,
  badRequest,
  fenced,
  internal,
  type Subject,
  timedOut,
  tooLarge,
  tooManyRequests,
  unavailable,
  uncertain,
} from './errors.js'
import { objectKey } from './keys.js'
import { keyBytes, type StoreClient } from './store-client.js'
import { type KubeObject, storageBytes, Stored } from './stored.js'

/** After so long a write that always finds somebody else's newer version gives up. */
const COMMIT_MS = 10_000
/** How long a plan made from old state waits for newer. */
const CATCH_UP_MS = 500
const ATTEMPTS_MAX = 100

/** What a write makes of what is there. */
export interface Plan {
  /** The object's next state; `remove`; or `keep`: nothing to write. */
  next: KubeObject | 'remove' | 'keep'
  /** What else must hold, and be written, in the same transaction. */
  compare?: Compare[]
  ops?: TxnOp[]
  /** The store's lease that the object lives as long as. */
  lease?: number
}

export interface Target {
  subject: Subject
  key: string
  /** Of namespaced objects that are created: it must still be as the plan saw it. */
  guard?: () => { key: string; revision: number } | undefined
  fence?: Fence
  dryRun: boolean
  /** As in `RequestExtras`: a write that nobody waits for must not come later than others that were acknowledged meanwhile. */
  deadlineMs?: number
  isAbandoned?(): boolean
}

export interface Committed {
  /** As it is now; of a removed object: as it was. */
  stored: Stored
  removed: boolean
  previous: Stored | undefined
}

/** The one way in which objects are written. */
export class Committer {
  constructor(
    private readonly world: World,
    private readonly store: StoreClient,
    private readonly cache: Cache,
  ) {}

  /**
   * Optimistic: `plan` sees the cached state first, and again the store's whenever the transaction finds that something
   * else is there. A refusal by `plan` counts only if it was made from what the store has now. `plan` may run many times.
   * The store, too, is given the time that is left: it begins nothing after that.
   * @throws ApiError
   */
  async write(target: Target, plan: (old: Stored | undefined) => Plan | Promise<Plan>): Promise<Committed> {
    const { clock } = this.world
    const deadline = Math.min(clock.monotonicMs() + COMMIT_MS, target.deadlineMs ?? Number.POSITIVE_INFINITY)
    const of = target.key
    let old = this.cached(of)
    let isFresh = false
    for (let attempt = 0; attempt < ATTEMPTS_MAX && clock.monotonicMs() < deadline; attempt++) {
      let planned: Plan
      try {
        planned = await plan(old)
        // Nothing to do, as far as the cache knows.
        if (planned.next === 'keep' && !isFresh) throw new StaleQuestion()
      } catch (error) {
        if (isFresh || !(error instanceof ApiError || error instanceof StaleQuestion)) throw error
        const now = await this.readAndCatchUp(of)
        isFresh = true
        old = now
        // What else the plan looked at (allocations, a namespace) may have been old as well: it is asked once more.
        continue
      }
      if (planned.next === 'keep') {
        if (!old) throw internal('nothing to keep')
        await this.mustBeHeld(target.fence)
        return { stored: old, removed: false, previous: old }
      }
      if (target.dryRun) {
        if (!isFresh) {
          const now = await this.read(of)
          isFresh = true
          if (now?.revision !== old?.revision) {
            old = now
            continue
          }
        }
        return dryRunOf(of, planned.next, old)
      }
      if (clock.monotonicMs() >= deadline || target.isAbandoned?.()) break
      const guard = target.guard?.()
      const result = await this.attempt(target, planned, old, guard, deadline - clock.monotonicMs())
      if ('committed' in result) return result.committed
      old = result.now
      isFresh = true
    }
    if (clock.monotonicMs() >= deadline || target.isAbandoned?.())
      throw timedOut('nothing was written in the time that the request had')
    throw timedOut('the object was changed by others too often while it was being written')
  }

  /** The state in the store. */
  async read(key: string): Promise<Stored | undefined> {
    try {
      const [kv] = (await this.store.range({ key: keyBytes(key) })).kvs
      return kv && Stored.of(kv)
    } catch (error) {
      throw storeFailure(error)
    }
  }

  /** The same, and the cache has reached that state, if it can in a moment. */
  async readAndCatchUp(key: string): Promise<Stored | undefined> {
    try {
      const { kvs, header } = await this.store.range({ key: keyBytes(key) })
      await this.cache.waitFor(header.revision, CATCH_UP_MS)
      return kvs[0] && Stored.of(kvs[0])
    } catch (error) {
      throw storeFailure(error)
    }
  }

  /** Nothing is written, but who does not hold the lock any more is to hear it all the same, and not that all is well. */
  private async mustBeHeld(fence: Fence | undefined): Promise<void> {
    if (!fence) return
    try {
      mustBear(fence, (await this.store.range({ key: lockOf(fence).key, keysOnly: true })).kvs[0])
    } catch (error) {
      throw error instanceof ApiError ? error : storeFailure(error)
    }
  }

  private cached(key: string): Stored | undefined {
    return this.cache.find(key)
  }

  private async attempt(
    target: Target,
    { next, compare = [], ops = [], lease }: Plan,
    old: Stored | undefined,
    guard: { key: string; revision: number } | undefined,
    timeoutMs: number,
  ): Promise<{ committed: Committed } | { now: Stored | undefined }> {
    const key = keyBytes(target.key)
    const value = next === 'remove' ? undefined : storageBytes(next as KubeObject)
    const compares: Compare[] = [{ key, target: 'mod', result: '=', operand: old?.revision ?? 0 }]
    const look: TxnOp[] = [{ type: 'range', key }]
    const { fence } = target
    if (fence) {
      const { key: lock, token } = lockOf(fence)
      compares.push({ key: lock, target: 'create', result: '=', operand: token })
      look.push({ type: 'range', key: lock, keysOnly: true })
    }
    if (guard) compares.push({ key: keyBytes(guard.key), target: 'mod', result: '=', operand: guard.revision })
    const write: TxnOp = value ? { type: 'put', key, value, ...(lease ? { lease } : {}) } : { type: 'delete', key }
    let reply: Awaited<ReturnType<StoreClient['txn']>>
    try {
      // The revision of the write comes from the key itself: the answer's header may be later.
      const success: TxnOp[] = [write, ...ops, { type: 'range', key, keysOnly: true }]
      reply = await this.store.txn({ compare: [...compares, ...compare], success, failure: look }, timeoutMs)
    } catch (error) {
      throw storeFailure(error)
    }
    if (reply.succeeded) {
      const written = kvOf(reply.replies[reply.replies.length - 1])
      if (!value) return { committed: { stored: old as Stored, removed: true, previous: old } }
      if (!written) throw internal('the store did not return what it wrote')
      return {
        committed: {
          stored: new Stored(target.key, written.modRevision, written.createRevision, value),
          removed: false,
          previous: old,
        },
      }
    }
    if (fence) mustBear(fence, kvOf(reply.replies[1]))
    const kv = kvOf(reply.replies[0])
    // The cache catches up with what the comparison saw: a guard or an allocation is then planned from newer state.
    if (kv?.modRevision === old?.revision) await this.cache.waitFor(reply.header.revision, CATCH_UP_MS)
    return { now: kv && Stored.of(kv) }
  }
}

/** @throws ApiError 400 */
function lockOf({ lock, token }: Fence): { key: Uint8Array; token: number } {
  const revision = Number(token)
  if (!Number.isSafeInteger(revision) || revision < 1) throw badRequest(`fence: ${JSON.stringify(token)} is no token`)
  return {
    key: keyBytes(objectKey('coordination.k8s.io', 'leases', lock.namespace, lock.name)),
    token: revision,
  }
}

/** The token is the create revision of the lock's key. @throws ApiError 409 */
function mustBear({ lock, token }: Fence, held: KeyValue | undefined): void {
  if (held?.createRevision !== Number(token)) throw fenced(`${lock.namespace}/${lock.name}`, token)
}

/** The cache thinks that nothing is to be written: ask the store before saying so. */
class StaleQuestion extends Error {}

function kvOf(reply: TxnOpReply | undefined): KeyValue | undefined {
  return reply?.type === 'range' ? reply.kvs[0] : undefined
}

function dryRunOf(key: string, next: KubeObject | 'remove', old: Stored | undefined): Committed {
  if (next === 'remove') return { stored: old as Stored, removed: true, previous: old }
  return {
    stored: new Stored(key, old?.revision ?? 0, old?.createRevision ?? 0, storageBytes(next)),
    removed: false,
    previous: old,
  }
}

/** The store's failures in Kubernetes' words. */
export function storeFailure(error: unknown): ApiError {
  if (error instanceof ApiError) return error
  const failed = CallError.fromBus(error)
  switch (failed.code) {
    case 'TOO_LARGE':
    case 'PAYLOAD_TOO_LARGE':
      return tooLarge(`the object is too large for the store: ${failed.message}`)
    case 'OVERLOADED':
      return tooManyRequests(`the store is busy: ${failed.message}`)
    case 'NO_SPACE':
      return internal(`the store is full: ${failed.message}`)
  }
  if (failed.code === 'INTERNAL' || failed.code === 'BAD_REQUEST')
    return new ApiError(internal(failed.message).details, { outcome: failed.outcome, cause: failed })
  // Too many others went before a repetition: whether the first attempt counted is forgotten.
  const isForgotten = failed.code === 'SESSION_STALE'
  if (failed.outcome === 'maybe-applied' || isForgotten)
    return uncertain(`the store did not say whether it happened: ${failed.message}`, failed)
  return unavailable(`the store can't be reached: ${failed.message}`)
}
