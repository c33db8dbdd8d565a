import { sameJson } from '@capstan/api'
import { CallError } from '@capstan/actor'
import {
  byText,
  claimObjects,
  type ControllerContext,
  controllerOf,
  controllerRef,
  Expectations,
  type KubeObject,
  objectKey,
  type Resource,
  RESOURCES,
  startController,
  watchOf,
} from '@capstan/client'
import {
  availableInMs,
  type Condition,
  condition,
  formatTime,
  isPodActive,
  isPodReady,
  parseTime,
  type Pod,
  type PodTemplate,
  type ReplicaSet,
  type ReplicaStatus,
  type ReplicationController,
} from './kinds.js'
import type { Part, PartContext } from './part.js'
import { mapFits, selectorFits } from './selectors.js'

/** At most so many pods are made or deleted in one go; the next go follows at once. */
const BURST_MAX = 500

/** What tells a ReplicaSet from a ReplicationController. */
interface Variant<T extends KubeObject> {
  name: string
  resource: Resource
  type: { apiVersion: string; kind: string }
  spec(owner: T): { replicas: number; minReadySeconds: number; template: PodTemplate }
  matches(owner: T, labels: Record<string, string> | undefined): boolean
  status(owner: T): ReplicaStatus
}

const REPLICA_SET: Variant<ReplicaSet> = {
  name: 'replicaset-controller',
  resource: RESOURCES.replicasets,
  type: { apiVersion: 'apps/v1', kind: 'ReplicaSet' },
  spec: ({ spec }) => ({
    replicas: spec?.replicas ?? 1,
    minReadySeconds: spec?.minReadySeconds ?? 0,
    template: spec?.template ?? {},
  }),
  matches: ({ spec }, labels) => selectorFits(spec?.selector, labels),
  status: ({ status }) => status ?? { replicas: 0 },
}

const REPLICATION_CONTROLLER: Variant<ReplicationController> = {
  name: 'replication-controller',
  resource: RESOURCES.replicationcontrollers,
  type: { apiVersion: 'v1', kind: 'ReplicationController' },
  spec: ({ spec }) => ({
    replicas: spec?.replicas ?? 1,
    minReadySeconds: spec?.minReadySeconds ?? 0,
    template: spec?.template ?? {},
  }),
  matches: ({ spec }, labels) => spec?.selector !== undefined && mapFits(spec.selector, labels),
  status: ({ status }) => status ?? { replicas: 0 },
}

export function startReplicaSets(context: PartContext): Part {
  return startReplicas(context, REPLICA_SET)
}

export function startReplicationControllers(context: PartContext): Part {
  return startReplicas(context, REPLICATION_CONTROLLER)
}

/** Index of pods by the uid of their controller; orphans under `orphan/<namespace>`. */
export const BY_CONTROLLER = 'controller'

export function controllerIndex(object: KubeObject): string[] {
  return [controllerOf(object)?.uid ?? `orphan/${object.metadata.namespace ?? ''}`]
}

/** Gives the key of the owner that an object says it has, if that is of this kind and there. */
export function ownerKeyIn(
  owners: { get(key: string): KubeObject | undefined },
  type: { apiVersion: string; kind: string },
): (object: KubeObject) => string | undefined {
  return (object) => {
    const reference = controllerOf(object)
    if (reference?.kind !== type.kind || reference.apiVersion !== type.apiVersion) return undefined
    const key = objectKey({ metadata: { name: reference.name, ...namespaceOf(object) } })
    return owners.get(key)?.metadata.uid === reference.uid ? key : undefined
  }
}

/** Keys of a pod's owners, the present and the former one; what was expected of the present one is noted as observed. */
export function ownersConcerned(
  { pod, before, deleted }: { pod: Pod; before: Pod | undefined; deleted: boolean },
  ownerKey: (object: KubeObject) => string | undefined,
  expectations: Expectations,
): Set<string> {
  const keys = new Set<string>()
  const key = ownerKey(pod)
  if (key !== undefined) {
    keys.add(key)
    if (!deleted && before === undefined) expectations.creationObserved(key)
    if (deleted || pod.metadata.deletionTimestamp !== undefined)
      expectations.deletionObserved(key, pod.metadata.uid ?? '')
  }
  const former = before && ownerKey(before)
  if (former !== undefined) keys.add(former)
  return keys
}

function startReplicas<T extends KubeObject>(parts: PartContext, variant: Variant<T>): Part {
  const { world, informers } = parts
  const owners = informers.for<T>(variant.resource)
  const pods = informers.for<Pod>(RESOURCES.pods)
  pods.addIndex(BY_CONTROLLER, controllerIndex)
  const expectations = new Expectations(world)

  const ownerKey = ownerKeyIn(owners, variant.type)
  function keysOfPod(pod: Pod, before: Pod | undefined, deleted: boolean): string[] {
    const keys = ownersConcerned({ pod, before, deleted }, ownerKey, expectations)
    // An orphan may fit any owner in its namespace.
    if (!deleted && controllerOf(pod) === undefined)
      for (const owner of owners.list(pod.metadata.namespace))
        if (variant.matches(owner, pod.metadata.labels)) keys.add(objectKey(owner))
    return [...keys]
  }

  return startController(world, {
    ...parts,
    name: variant.name,
    watches: [watchOf<T>(variant.resource), watchOf<Pod>(RESOURCES.pods, keysOfPod)],
    workers: parts.options.workers ?? 4,
    async reconcile(key, context) {
      const owner = owners.get(key)
      if (!owner) return expectations.forget(key)
      // The cache does not show yet what the last round did: to count now would create twice.
      if (!expectations.satisfied(key)) return { requeueAfterMs: expectations.waitMs(key) }
      const mine = await claim(owner, context)
      const active = mine.filter(isPodActive)
      let failure: Error | undefined
      if (owner.metadata.deletionTimestamp === undefined) {
        try {
          await scale(key, owner, active, context)
        } catch (error) {
          failure = error as Error
        }
      }
      const waitMs = await writeStatus(owner, active, failure, context)
      if (failure) throw failure
      return waitMs === undefined ? undefined : { requeueAfterMs: waitMs }
    },
  })

  function claim(owner: T, { client }: ControllerContext): Promise<Pod[]> {
    const { uid = '', namespace = '', name = '' } = owner.metadata
    const candidates = [...pods.byIndex(BY_CONTROLLER, uid), ...pods.byIndex(BY_CONTROLLER, `orphan/${namespace}`)]
    return claimObjects<Pod>({
      client,
      resource: RESOURCES.pods,
      owner,
      ownerType: variant.type,
      candidates: candidates.sort((a, b) => byText(objectKey(a), objectKey(b))),
      matches: (pod) =>
        variant.matches(owner, pod.metadata.labels) && (isPodActive(pod) || controllerOf(pod) !== undefined),
      liveOwner: () => getLive<T>(client, variant.resource, { namespace, name }),
    })
  }

  async function scale(key: string, owner: T, active: Pod[], context: ControllerContext): Promise<void> {
    const { replicas, template } = variant.spec(owner)
    const missing = replicas - active.length
    if (missing > 0) await createPods(key, owner, template, Math.min(missing, BURST_MAX), context)
    else if (missing < 0) {
      const nodePods = podsPerNode(active)
      const surplus = [...active]
        .sort(byDeletionPreference(nodePods, world.clock.nowMs()))
        .slice(0, Math.min(-missing, BURST_MAX))
      await deletePods(key, owner, surplus, context)
    }
    if (Math.abs(missing) > BURST_MAX) context.enqueue(key)
  }

  /** Slow start: 1, 2, 4, … at once, so that a template that is always refused costs one request, not hundreds. */
  async function createPods(
    key: string,
    owner: T,
    template: PodTemplate,
    count: number,
    { client, events }: ControllerContext,
  ) {
    const subject = { object: owner, ...variant.type }
    expectations.expectCreations(key, count)
    let left = count
    for (let batch = 1; left > 0; batch *= 2) {
      const size = Math.min(batch, left)
      const results = await Promise.allSettled(
        Array.from({ length: size }, () => client.create<Pod>(RESOURCES.pods, newPod(owner, template))),
      )
      left -= size
      let failure: CallError | undefined
      for (const result of results) {
        if (result.status === 'fulfilled') {
          events.record(subject, 'Normal', 'SuccessfulCreate', `Created pod: ${result.value.metadata.name}`)
          continue
        }
        failure = CallError.fromBus(result.reason)
        // What may have happened stays expected: the cache will show it, or the time-out ends the wait.
        if (failure.outcome === 'not-applied') expectations.creationObserved(key)
      }
      if (!failure) continue
      expectations.creationObserved(key, left)
      // Nothing is made in a namespace that is going away; its deletion brings this owner to its end.
      if (failure.code === 'Forbidden' && /terminat/i.test(failure.message)) return
      events.record(subject, 'Warning', 'FailedCreate', `Error creating: ${failure.message}`)
      throw failure
    }
  }

  function newPod(owner: T, template: PodTemplate): KubeObject {
    const { labels, annotations } = template.metadata ?? {}
    return {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        // Room for the five letters that the API server adds, and for host names of 63.
        generateName: `${(owner.metadata.name ?? '').slice(0, 57)}-`,
        ...namespaceOf(owner),
        ...(labels ? { labels } : {}),
        ...(annotations ? { annotations } : {}),
        ownerReferences: [controllerRef(owner, variant.type)],
      },
      ...({ spec: template.spec ?? {} } as object),
    }
  }

  async function deletePods(
    key: string,
    owner: T,
    surplus: Pod[],
    { client, events }: ControllerContext,
  ): Promise<void> {
    const subject = { object: owner, ...variant.type }
    expectations.expectDeletions(
      key,
      surplus.map((pod) => pod.metadata.uid ?? ''),
    )
    const results = await Promise.allSettled(
      surplus.map((pod) => {
        const { name = '', uid } = pod.metadata
        const preconditions = uid === undefined ? {} : { preconditions: { uid } }
        return client.delete(RESOURCES.pods, { name, ...namespaceOf(pod) }, preconditions)
      }),
    )
    let failure: CallError | undefined
    for (const [at, result] of results.entries()) {
      const pod = surplus[at] as Pod
      if (result.status === 'fulfilled') {
        events.record(subject, 'Normal', 'SuccessfulDelete', `Deleted pod: ${pod.metadata.name}`)
        continue
      }
      const error = CallError.fromBus(result.reason)
      if (error.outcome === 'not-applied') expectations.deletionObserved(key, pod.metadata.uid ?? '')
      if (error.code === 'NotFound') continue
      failure = error
      events.record(subject, 'Warning', 'FailedDelete', `Error deleting pod ${pod.metadata.name}: ${error.message}`)
    }
    if (failure) throw failure
  }

  /** Returns when the status changes by time alone: a ready pod becomes available. */
  async function writeStatus(
    owner: T,
    active: Pod[],
    failure: Error | undefined,
    { client }: ControllerContext,
  ): Promise<number | undefined> {
    const { minReadySeconds, template } = variant.spec(owner)
    const nowMs = world.clock.nowMs()
    const waits = active.map((pod) => availableInMs(pod, minReadySeconds, nowMs))
    const before = variant.status(owner)
    const conditions = (before.conditions ?? []).filter((c) => c.type !== 'ReplicaFailure')
    if (failure) {
      const present = condition(before.conditions, 'ReplicaFailure')
      const since = present?.lastTransitionTime ?? formatTime(nowMs)
      const reason = variant.spec(owner).replicas > active.length ? 'FailedCreate' : 'FailedDelete'
      const failed: Condition = {
        type: 'ReplicaFailure',
        status: 'True',
        reason,
        message: failure.message,
        lastTransitionTime: since,
      }
      conditions.push(failed)
    }
    const templateLabels = template.metadata?.labels ?? {}
    const status: ReplicaStatus = {
      replicas: active.length,
      fullyLabeledReplicas: active.filter((pod) => mapFits(templateLabels, pod.metadata.labels)).length,
      readyReplicas: active.filter(isPodReady).length,
      availableReplicas: waits.filter((wait) => wait === 0).length,
      observedGeneration: owner.metadata.generation ?? 0,
      ...(conditions.length > 0 ? { conditions } : {}),
    }
    if (!sameJson(withCounts(before), withCounts(status)))
      await client.update(variant.resource, { ...owner, status }, { subresource: 'status' })
    const pending = waits.filter((wait) => wait !== undefined && wait > 0) as number[]
    return pending.length > 0 ? Math.min(...pending) : undefined
  }
}

/** An API server may leave out counts of 0. */
function withCounts(status: ReplicaStatus): ReplicaStatus {
  return {
    fullyLabeledReplicas: 0,
    readyReplicas: 0,
    availableReplicas: 0,
    observedGeneration: 0,
    conditions: [],
    ...status,
  }
}

function namespaceOf(object: KubeObject): { namespace?: string } {
  return object.metadata.namespace === undefined ? {} : { namespace: object.metadata.namespace }
}

/** The object as the API server has it now, or undefined. */
export async function getLive<T extends KubeObject>(
  client: ControllerContext['client'],
  resource: Resource,
  ref: { namespace?: string; name: string },
): Promise<T | undefined> {
  try {
    return await client.get<T>(resource, ref)
  } catch (error) {
    if (error instanceof CallError && error.code === 'NotFound') return undefined
    throw error
  }
}

function podsPerNode(pods: readonly Pod[]): Map<string, number> {
  const counts = new Map<string, number>()
  for (const pod of pods) {
    const node = pod.spec?.nodeName ?? ''
    counts.set(node, (counts.get(node) ?? 0) + 1)
  }
  return counts
}

const PHASE_ORDER: Record<string, number> = { Pending: 0, Unknown: 1, Running: 2 }
const DELETION_COST = 'controller.kubernetes.io/pod-deletion-cost'

/**
 * Which pod goes first: unbound, then pending, then not ready, then cheap by annotation, then on a crowded node, then
 * ready for a shorter time, then restarted more often, then younger. The name decides what is left, for repeatability.
 */
export function byDeletionPreference(nodePods: ReadonlyMap<string, number>, nowMs: number): (a: Pod, b: Pod) => number {
  const rank = (pod: Pod): number[] => {
    const ready = condition(pod.status?.conditions, 'Ready')
    const readySince = ready?.status === 'True' ? (parseTime(ready.lastTransitionTime) ?? nowMs) : nowMs
    const restarts = Math.max(0, ...(pod.status?.containerStatuses ?? []).map((c) => c.restartCount ?? 0))
    return [
      pod.spec?.nodeName ? 1 : 0,
      PHASE_ORDER[pod.status?.phase ?? 'Pending'] ?? 0,
      ready?.status === 'True' ? 1 : 0,
      Number(pod.metadata.annotations?.[DELETION_COST] ?? 0) || 0,
      -(nodePods.get(pod.spec?.nodeName ?? '') ?? 0),
      -readySince,
      -restarts,
      -(parseTime(pod.metadata.creationTimestamp) ?? nowMs),
    ]
  }
  return (a, b) => {
    const [left, right] = [rank(a), rank(b)]
    for (const [at, value] of left.entries()) if (value !== right[at]) return value - (right[at] as number)
    return byText(objectKey(a), objectKey(b))
  }
}
