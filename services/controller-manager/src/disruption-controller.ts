import { sameJson } from '@capstan/api'
import { type KubeObject, objectKey, RESOURCES, startController, watchOf } from '@capstan/client'
import { asksForScale, disruptionStatus, type Expected } from './disruption-plan.js'
import {
  type Condition,
  condition,
  type Deployment,
  formatTime,
  isPodFinished,
  type Pod,
  type PodDisruptionBudget,
  type ReplicaSet,
  type ReplicationController,
  type StatefulSet,
} from './kinds.js'
import type { Part, PartContext } from './part.js'
import { selectorFits } from './selectors.js'

/** Counts, for each PodDisruptionBudget, how many of its pods may be evicted now; the API server grants evictions by that. */
export function startDisruptionBudgets(parts: PartContext): Part {
  const { informers, world } = parts
  const budgets = informers.for<PodDisruptionBudget>(RESOURCES.poddisruptionbudgets)
  const pods = informers.for<Pod>(RESOURCES.pods)
  const scaled = {
    ReplicaSet: informers.for<ReplicaSet>(RESOURCES.replicasets),
    Deployment: informers.for<Deployment>(RESOURCES.deployments),
    StatefulSet: informers.for<StatefulSet>(RESOURCES.statefulsets),
    ReplicationController: informers.for<ReplicationController>(RESOURCES.replicationcontrollers),
  }

  const inNamespace = ({ metadata: { namespace } }: KubeObject) => budgets.list(namespace)
  const budgetsOf = (pod: Pod) =>
    inNamespace(pod).filter((budget) => selectorFits(budget.spec?.selector, pod.metadata.labels))

  /** The object of this kind that made another one, and whoever made that. */
  function controllerOf(
    object: KubeObject,
  ): { kind: string; object: KubeObject & { spec?: { replicas?: number } } } | undefined {
    const owner = object.metadata.ownerReferences?.find((one) => one.controller)
    if (!owner || !(owner.kind in scaled)) return undefined
    const kind = owner.kind as keyof typeof scaled
    const found = scaled[kind].get(`${object.metadata.namespace}/${owner.name}`)
    if (!found || found.metadata.uid !== owner.uid) return undefined
    return (kind === 'ReplicaSet' ? controllerOf(found) : undefined) ?? { kind, object: found }
  }

  function expectedOf(budget: PodDisruptionBudget, chosen: readonly Pod[]): Expected {
    if (!asksForScale(budget)) return { pods: chosen.length }
    const scales = new Map<string, number>()
    for (const pod of chosen) {
      const owner = controllerOf(pod)
      if (!owner)
        return { problem: `found no controller with a scale for pod ${JSON.stringify(pod.metadata.name ?? '')}` }
      scales.set(`${owner.kind} ${objectKey(owner.object)}`, owner.object.spec?.replicas ?? 1)
    }
    return { pods: [...scales.values()].reduce((sum, replicas) => sum + replicas, 0) }
  }

  const ofNamespace = (object: KubeObject) => inNamespace(object).map(objectKey)
  return startController(world, {
    ...parts,
    name: 'disruption-controller',
    watches: [
      watchOf<PodDisruptionBudget>(RESOURCES.poddisruptionbudgets),
      watchOf<Pod>(RESOURCES.pods, (pod, before) => [
        ...new Set([...budgetsOf(pod), ...(before ? budgetsOf(before) : [])].map(objectKey)),
      ]),
      watchOf<ReplicaSet>(RESOURCES.replicasets, ofNamespace),
      watchOf<Deployment>(RESOURCES.deployments, ofNamespace),
      watchOf<StatefulSet>(RESOURCES.statefulsets, ofNamespace),
      watchOf<ReplicationController>(RESOURCES.replicationcontrollers, ofNamespace),
    ],
    async reconcile(key, { client, events }) {
      const budget = budgets.get(key)
      if (!budget || budget.metadata.deletionTimestamp !== undefined) return
      const chosen = pods
        .list(budget.metadata.namespace)
        .filter((pod) => !isPodFinished(pod) && selectorFits(budget.spec?.selector, pod.metadata.labels))
      const nowMs = world.clock.nowMs()
      const found = disruptionStatus(budget, chosen, expectedOf(budget, chosen), nowMs)
      if (found.problem)
        events.record(
          { object: budget, apiVersion: 'policy/v1', kind: 'PodDisruptionBudget' },
          'Warning',
          'CalculateExpectedPodCountFailed',
          `Failed to calculate the number of expected pods: ${found.problem}`,
        )
      const status = { ...found.status, conditions: [conditionOf(budget, found, nowMs)] }
      // Against the version that was seen: the API server takes from it with each eviction that it grants.
      if (!sameJson(status, { ...budget.status }))
        await client.update<PodDisruptionBudget>(
          RESOURCES.poddisruptionbudgets,
          { ...budget, status },
          { subresource: 'status' },
        )
      return found.againMs === undefined ? undefined : { requeueAfterMs: found.againMs }
    },
  })
}

function conditionOf(
  budget: PodDisruptionBudget,
  { status, reason, problem }: ReturnType<typeof disruptionStatus>,
  nowMs: number,
): Condition & { observedGeneration: number } {
  const isAllowed = status.disruptionsAllowed > 0 ? 'True' : 'False'
  const before = condition(budget.status?.conditions, 'DisruptionAllowed')
  return {
    type: 'DisruptionAllowed',
    status: isAllowed,
    reason,
    message: problem ?? '',
    observedGeneration: status.observedGeneration ?? 0,
    lastTransitionTime:
      before?.status === isAllowed && before.lastTransitionTime ? before.lastTransitionTime : formatTime(nowMs),
  }
}
