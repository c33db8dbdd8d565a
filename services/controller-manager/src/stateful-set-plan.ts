/**
 * What a StatefulSet does next, as a pure function of what is there. Rules as in Kubernetes: one pod after the other, each
 * when those before it are available (`OrderedReady`), or all at once (`Parallel`); updates from the highest ordinal down.
 */
import { resolvePercent } from './deployment-plan.js'
import {
  availableInMs,
  isPodFinished,
  isPodReady,
  type Pod,
  type PodTemplate,
  type StatefulSet,
  type StatefulSetStatus,
} from './kinds.js'

export const POD_NAME = 'statefulset.kubernetes.io/pod-name'
export const POD_INDEX = 'apps.kubernetes.io/pod-index'
export const REVISION_LABEL = 'controller-revision-hash'

/** The settings of a StatefulSet with their defaults. Ordinals go from `start` to below `end`. */
export interface SetPlan {
  start: number
  end: number
  ordered: boolean
  onDelete: boolean
  /** Ordinals below it stay at the current revision. */
  updateFrom: number
  maxUnavailable: number
  minReadySeconds: number
}

export function setPlanOf({ spec }: StatefulSet): SetPlan {
  const start = spec?.ordinals?.start ?? 0
  const replicas = spec?.replicas ?? 1
  const { partition = 0, maxUnavailable = 1 } = spec?.updateStrategy?.rollingUpdate ?? {}
  return {
    start,
    end: start + replicas,
    ordered: spec?.podManagementPolicy !== 'Parallel',
    onDelete: spec?.updateStrategy?.type === 'OnDelete',
    updateFrom: start + partition,
    // Small percentages of few replicas would never get anywhere.
    maxUnavailable: Math.max(1, resolvePercent(maxUnavailable, replicas, Math.ceil)),
    minReadySeconds: spec?.minReadySeconds ?? 0,
  }
}

/** Ordinal of a pod by its name; undefined if the name is not one of this set's. */
export function ordinalOf(setName: string, podName: string | undefined): number | undefined {
  if (!podName?.startsWith(`${setName}-`)) return undefined
  const text = podName.slice(setName.length + 1)
  return /^(0|[1-9]\d{0,8})$/.test(text) ? Number(text) : undefined
}

export type SetStep =
  | { kind: 'create'; ordinal: number; revision: 'current' | 'update' }
  | { kind: 'delete'; pod: Pod; why: string }
  /** The pod was adopted and lacks labels that its name asks for. */
  | { kind: 'label'; pod: Pod }

/** `changesInMs`: when time alone may allow more (a ready pod becomes available). */
export interface SetSteps {
  steps: SetStep[]
  changesInMs: number | undefined
}

/** `pods`: all that the set owns, each with a name of its. */
export function planSet(
  setName: string,
  plan: SetPlan,
  pods: readonly Pod[],
  revisions: { current: string; update: string },
  nowMs: number,
): SetSteps {
  const byOrdinal = new Map(pods.map((pod) => [ordinalOf(setName, pod.metadata.name) as number, pod]))
  const waits = pods
    .filter((pod) => pod.metadata.deletionTimestamp === undefined)
    .map((pod) => availableInMs(pod, plan.minReadySeconds, nowMs))
  const pending = waits.filter((wait) => wait !== undefined && wait > 0) as number[]
  const changesInMs = pending.length > 0 ? Math.min(...pending) : undefined
  const isAvailable = (pod: Pod) => availableInMs(pod, plan.minReadySeconds, nowMs) === 0
  const revisionFor = (ordinal: number) => (plan.onDelete || ordinal >= plan.updateFrom ? 'update' : 'current')
  const steps: SetStep[] = []
  const done = () => ({ steps, changesInMs })

  for (let ordinal = plan.start; ordinal < plan.end; ordinal++) {
    const pod = byOrdinal.get(ordinal)
    if (!pod) {
      steps.push({ kind: 'create', ordinal, revision: revisionFor(ordinal) })
      if (plan.ordered) return done()
      continue
    }
    const ending = isEnding(pod)
    if (!ending && isPodFinished(pod)) steps.push({ kind: 'delete', pod, why: 'it has ended' })
    else if (!ending) {
      if (!hasIdentity(pod)) steps.push({ kind: 'label', pod })
      // Kubernetes waits for it, for ever if the old template is broken. It serves nobody: nothing is lost with it.
      const isOld = !plan.onDelete && revisionOf(pod) !== revisions[revisionFor(ordinal)]
      if (!isPodReady(pod) && isOld && ordinal >= plan.updateFrom)
        steps.push({ kind: 'delete', pod, why: 'it is not ready, and not of the revision that is wanted' })
    }
    if (plan.ordered && (ending || isPodFinished(pod) || !isAvailable(pod))) return done()
  }

  const condemned = [...byOrdinal.keys()].filter((o) => o < plan.start || o >= plan.end).sort((a, b) => b - a)
  for (const ordinal of condemned) {
    const pod = byOrdinal.get(ordinal) as Pod
    if (!isEnding(pod)) steps.push({ kind: 'delete', pod, why: 'the set was scaled down' })
    // The next one goes when this one is gone.
    if (plan.ordered) return done()
  }

  if (plan.onDelete) return done()
  const lacks = (ordinal: number) => {
    const pod = byOrdinal.get(ordinal)
    return !pod || isEnding(pod) || isPodFinished(pod) || !isAvailable(pod)
  }
  const ordinals = Array.from({ length: plan.end - plan.start }, (_, at) => plan.start + at)
  let budget = plan.maxUnavailable - ordinals.filter(lacks).length
  const planned = new Set(steps.map((step) => (step.kind === 'delete' ? step.pod : undefined)))
  for (const ordinal of ordinals.toReversed()) {
    const pod = byOrdinal.get(ordinal)
    if (ordinal < plan.updateFrom || !pod || isEnding(pod) || planned.has(pod)) continue
    if (revisionOf(pod) === revisions.update) continue
    if (!lacks(ordinal)) {
      if (budget <= 0) continue
      budget--
    }
    steps.push({ kind: 'delete', pod, why: 'it is of an older revision' })
  }
  return done()
}

export const revisionOf = (pod: Pod): string => pod.metadata.labels?.[REVISION_LABEL] ?? ''
const isEnding = (pod: Pod) => pod.metadata.deletionTimestamp !== undefined

/** Labels that follow from the name. */
export function identityLabels(podName: string): Record<string, string> {
  return { [POD_NAME]: podName, [POD_INDEX]: podName.slice(podName.lastIndexOf('-') + 1) }
}

function hasIdentity({ metadata }: Pod): boolean {
  return Object.entries(identityLabels(metadata.name ?? '')).every(([key, value]) => metadata.labels?.[key] === value)
}

/** Metadata and spec of the pod with this ordinal, from a revision's template. */
export function podOf(
  set: StatefulSet,
  ordinal: number,
  template: PodTemplate,
  revision: string,
): { name: string; labels: Record<string, string>; annotations: Record<string, string> | undefined; spec: object } {
  const name = `${set.metadata.name}-${ordinal}`
  const subdomain = set.spec?.serviceName
  return {
    name,
    labels: { ...template.metadata?.labels, ...identityLabels(name), [REVISION_LABEL]: revision },
    annotations: template.metadata?.annotations,
    spec: { ...template.spec, hostname: name, ...(subdomain ? { subdomain } : {}) },
  }
}

/** The status that these pods make. Once everything is updated and ready, the update revision is the current one. */
export function setStatusOf(
  set: StatefulSet,
  plan: SetPlan,
  pods: readonly Pod[],
  revisions: { current: string; update: string },
  collisionCount: number | undefined,
  nowMs: number,
): StatefulSetStatus {
  const ready = pods.filter((pod) => pod.status?.phase === 'Running' && isPodReady(pod))
  const of = (revision: string) => pods.filter((pod) => !isEnding(pod) && revisionOf(pod) === revision).length
  const status: StatefulSetStatus = {
    observedGeneration: set.metadata.generation ?? 0,
    replicas: pods.length,
    readyReplicas: ready.length,
    availableReplicas: ready.filter((pod) => availableInMs(pod, plan.minReadySeconds, nowMs) === 0).length,
    currentReplicas: of(revisions.current),
    updatedReplicas: of(revisions.update),
    currentRevision: revisions.current,
    updateRevision: revisions.update,
    ...(collisionCount === undefined ? {} : { collisionCount }),
    ...(set.status?.conditions ? { conditions: set.status.conditions } : {}),
  }
  const replicas = plan.end - plan.start
  const complete = [status.updatedReplicas, status.readyReplicas, status.replicas].every((count) => count === replicas)
  if (!plan.onDelete && complete) {
    status.currentRevision = revisions.update
    status.currentReplicas = replicas
  }
  return status
}
