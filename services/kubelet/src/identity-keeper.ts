import { CallError, type Clock, type Log, sleep } from '@capstan/actor'
import { type ApiClient, controllerOf, type KubeObject, RESOURCES } from '@capstan/client'
import type { Guard } from './guard.js'
import { GUARD_SILENT_MS } from './guard.js'
import type { GuardTarget, KillTarget } from './guard-core.js'
import type { ContainerRuntime, PodIdentity, RuntimeContents } from './runtime.js'

/** Kept with the sandbox of a pod that has an identity: whoever finds it knows, without its object. */
export const IDENTITY_ANNOTATION = 'capstan.io/identity'

/** What is left of the lease when a container is started: a start takes its time, and must not come after the guard. */
const START_ROOM_MS = 500
const ENDED_LOOK_MS = 50
const ENDED_WAIT_MS = 10_000
const CALL_MS = 3000
const TOLD_LOOK_MS = 20
const TOLD_WAIT_MS = 1000

/** Does a StatefulSet own it? Then no other live pod may ever have its name (promise C3). */
export function isIdentityPod(pod: KubeObject): boolean {
  const owner = controllerOf(pod)
  return owner?.kind === 'StatefulSet' && owner.apiVersion.startsWith('apps/')
}

/** Deliberate bugs, which the test of promise C3 must find. Refused unless `allowPlantedBugs`. */
export type IdentityBug =
  /** The guard is said to watch, and is never told anything. */
  | 'guard-left-out'
  /** A lease that was taken is taken back without ending anything, and pods are started unseen. */
  | 'tenure-unchecked'

export interface IdentityOptions {
  guard: Guard
  /** How long after the sending of the last acknowledged renewal identity pods may run. Default 5,000. */
  leaseMs?: number
  plantedBugs?: readonly IdentityBug[]
  allowPlantedBugs?: boolean
}

/** It is not certain that nobody else has the pod's identity: it must not be started now. */
export class IdentityError extends Error {
  override readonly name = 'IdentityError'
}

interface KeeperContext {
  world: { clock: Clock; log: Log }
  client: ApiClient
  runtime: ContainerRuntime
}

/**
 * Holds the node's right to run pods that have an identity. The right comes from the Lease: it lasts `leaseMs` from the
 * sending of each renewal that the API acknowledged. A *tenure* is the time from taking the Lease until somebody else takes
 * it; in a new one, what ran before has ended, and each pod must be seen in the API before it is started.
 */
export class IdentityKeeper {
  readonly leaseMs: number
  private readonly guard: Guard
  private readonly bugs: ReadonlySet<IdentityBug>
  private readonly targets = new Map<string, KillTarget>()
  /** Since which order the guard knows the target. */
  private readonly toldIn = new Map<string, number>()
  private readonly seen = new Set<string>()
  private sequence: number
  private deadlineMs: number
  private tenure = 0
  private acknowledged = false
  private starting = 0

  constructor(
    private readonly context: KeeperContext,
    options: IdentityOptions,
  ) {
    if ((options.plantedBugs ?? []).length > 0 && !options.allowPlantedBugs)
      throw new RangeError('planted bugs are for tests: they need allowPlantedBugs')
    this.bugs = new Set(options.plantedBugs)
    this.guard = options.guard
    this.leaseMs = options.leaseMs ?? 5000
    // What an earlier life left running stays watched over, and its time is not set back.
    const last = this.guard.lastOrder()
    this.sequence = last?.sequence ?? 0
    this.deadlineMs = last && last.bootId === this.guard.bootId ? last.deadlineMs : Number.NEGATIVE_INFINITY
    for (const { podUid, kill } of last?.targets ?? []) this.targets.set(podUid, kill)
  }

  bootMs(): number {
    return this.guard.bootMs()
  }

  /** Does a guard watch? A Lease that is renewed without one says so, and is then never taken. */
  get guarded(): boolean {
    const state = this.guard.state()
    return state !== undefined && this.guard.bootMs() - state.atMs < GUARD_SILENT_MS
  }

  /** The pod is this node's: from now on the guard knows how to end it. */
  watch(podUid: string): void {
    if (this.targets.has(podUid) && this.toldIn.has(podUid)) return
    const kill = this.context.runtime.killTarget?.(podUid)
    if (!kill) return
    this.targets.set(podUid, kill)
    this.tell()
  }

  /** Nothing is left of the pod. */
  forget(podUid: string): void {
    this.seen.delete(podUid)
    this.toldIn.delete(podUid)
    if (this.targets.delete(podUid)) this.tell()
  }

  /** All pods of this node are known: what is watched over besides is long gone. */
  keepOnly(isKnown: (podUid: string) => boolean): void {
    for (const uid of Array.from(this.targets.keys())) if (!isKnown(uid)) this.forget(uid)
  }

  /** A renewal that was sent at `sentMs` (boot time) is committed. */
  renewed(sentMs: number): void {
    this.acknowledged = true
    this.deadlineMs = Math.max(this.deadlineMs, sentMs + this.leaseMs)
    this.tell()
  }

  /**
   * Somebody else has, or may have had, the Lease: the tenure is over. Resolves when nothing with an identity runs on this
   * node any more; only then may the Lease be taken again. @throws IdentityError if it does not end in time.
   */
  async endTenure(why: string): Promise<void> {
    if (this.bugs.has('tenure-unchecked')) return
    const { runtime, world } = this.context
    this.tenure++
    this.acknowledged = false
    this.seen.clear()
    this.deadlineMs = Number.NEGATIVE_INFINITY
    this.tell()
    const startMs = world.clock.monotonicMs()
    for (;;) {
      // A start that had begun may still come through.
      const running = this.starting > 0 ? undefined : this.identityContainers(await runtime.list())
      if (running?.length === 0) return
      if (world.clock.monotonicMs() - startMs > ENDED_WAIT_MS)
        throw new IdentityError(`containers of identity pods do not end (${why})`)
      for (const { id, pod } of running ?? []) {
        world.log.warn(
          { pod: `${pod.namespace}/${pod.name}`, why },
          'ending a container: its identity may be elsewhere',
        )
        await runtime.stopContainer(id, 0)
      }
      await sleep(world.clock, ENDED_LOOK_MS)
    }
  }

  /**
   * Runs `start` if the pod's identity is certainly this node's. `check` is to be called right before anything runs.
   * @throws IdentityError (nothing was started), or what `start` throws.
   */
  async start<T>(pod: PodIdentity, start: (check: () => void) => Promise<T>): Promise<T> {
    if (this.bugs.has('tenure-unchecked')) return start(() => undefined)
    const { tenure } = this
    await this.told(pod)
    this.check(pod, tenure)
    if (!this.seen.has(pod.uid)) {
      await this.see(pod)
      this.check(pod, tenure)
      this.seen.add(pod.uid)
    }
    this.starting++
    try {
      return await start(() => this.check(pod, tenure))
    } finally {
      this.starting--
    }
  }

  /** The guard needs a moment to take an order; that is no failure. */
  private async told({ uid }: PodIdentity): Promise<void> {
    const { clock } = this.context.world
    const startMs = clock.monotonicMs()
    const known = () => (this.guard.state()?.sequence ?? 0) >= (this.toldIn.get(uid) ?? Number.POSITIVE_INFINITY)
    while (this.guarded && !known() && clock.monotonicMs() - startMs < TOLD_WAIT_MS) await sleep(clock, TOLD_LOOK_MS)
  }

  private check({ uid }: PodIdentity, tenure: number): void {
    if (this.tenure !== tenure || !this.acknowledged) throw new IdentityError('the node does not hold its lease yet')
    const leftMs = this.deadlineMs - this.guard.bootMs()
    if (leftMs < START_ROOM_MS) throw new IdentityError('the lease of the node was not renewed for too long')
    if (this.bugs.has('guard-left-out')) return
    const state = this.guard.state()
    if (!state || !this.guarded) throw new IdentityError('the guard of this node does not answer')
    if (state.sequence < (this.toldIn.get(uid) ?? Number.POSITIVE_INFINITY))
      throw new IdentityError('the guard of this node does not know the pod yet')
  }

  /** By the API itself, not by a cache: it is there, and may run. */
  private async see({ namespace, name, uid }: PodIdentity): Promise<void> {
    let live: KubeObject | undefined
    try {
      live = await this.context.client.get<KubeObject>(RESOURCES.pods, { namespace, name }, { timeoutMs: CALL_MS })
    } catch (error) {
      if (!(error instanceof CallError && error.code === 'NotFound'))
        throw new IdentityError('the API does not say whether the pod is still there', { cause: error })
    }
    if (live?.metadata.uid !== uid || live.metadata.deletionTimestamp !== undefined)
      throw new IdentityError('the pod is gone, or being deleted')
  }

  /** What runs of pods with an identity: by what their sandboxes say, and of those that were adopted since. */
  private identityContainers({ sandboxes, containers }: RuntimeContents): RuntimeContents['containers'] {
    const ids = new Set(sandboxes.filter((one) => one.annotations[IDENTITY_ANNOTATION] === 'true').map(({ id }) => id))
    return containers.filter(
      ({ state, sandboxId, pod }) =>
        state !== 'exited' && state !== 'created' && (ids.has(sandboxId) || this.targets.has(pod.uid)),
    )
  }

  private tell(): void {
    if (this.bugs.has('guard-left-out')) return
    const targets = [...this.targets].map(([podUid, kill]): GuardTarget => ({ podUid, kill }))
    this.sequence++
    const { bootId } = this.guard
    // JSON has no infinity.
    const deadlineMs = Number.isFinite(this.deadlineMs) ? this.deadlineMs : 0
    try {
      this.guard.tell({ formatVersion: 1, sequence: this.sequence, bootId, deadlineMs, targets })
    } catch (error) {
      this.context.world.log.error({ err: error }, 'the guard could not be told; it goes by what it knows')
      return
    }
    for (const uid of this.targets.keys()) if (!this.toldIn.has(uid)) this.toldIn.set(uid, this.sequence)
  }
}
