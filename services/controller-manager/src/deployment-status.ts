import type { Rollout } from './deployment-plan.js'
import { type Condition, condition, type Deployment, formatTime, parseTime, type ReplicaSet } from './kinds.js'

type Status = NonNullable<Deployment['status']>

/** What this round of the controller did, for the Progressing condition. */
export interface RolloutNews {
  createdSet?: string
  failure?: string
}

/** The status of a Deployment and when it changes by time alone (progress deadline), in ms from now. Pure. */
export function deploymentStatus(
  deployment: Deployment,
  rollout: Rollout,
  newSet: ReplicaSet | undefined,
  old: readonly ReplicaSet[],
  news: RolloutNews,
  nowMs: number,
): { status: Status; changesInMs: number | undefined } {
  const before = deployment.status ?? {}
  const all = newSet ? [...old, newSet] : [...old]
  const total = (count: (rs: ReplicaSet) => number | undefined) => all.reduce((n, rs) => n + (count(rs) ?? 0), 0)
  const availableReplicas = total((rs) => rs.status?.availableReplicas)
  const status: Status = {
    observedGeneration: deployment.metadata.generation ?? 0,
    replicas: total((rs) => rs.status?.replicas),
    updatedReplicas: newSet?.status?.replicas ?? 0,
    readyReplicas: total((rs) => rs.status?.readyReplicas),
    availableReplicas,
    unavailableReplicas: Math.max(0, total((rs) => rs.spec?.replicas) - availableReplicas),
    ...(before.collisionCount === undefined ? {} : { collisionCount: before.collisionCount }),
  }
  const available = availableReplicas >= rollout.replicas - rollout.maxUnavailable
  const isAvailable: Condition = available
    ? {
        type: 'Available',
        status: 'True',
        reason: 'MinimumReplicasAvailable',
        message: 'Deployment has minimum availability.',
      }
    : {
        type: 'Available',
        status: 'False',
        reason: 'MinimumReplicasUnavailable',
        message: 'Deployment does not have minimum availability.',
      }
  const { progressing, changesInMs } = progressCondition(deployment, status, rollout, newSet, news, nowMs)
  const failed = newSet && condition(newSet.status?.conditions, 'ReplicaFailure')
  const others = (before.conditions ?? []).filter(
    (c) => !['Available', 'Progressing', 'ReplicaFailure'].includes(c.type),
  )
  const conditions = [isAvailable, progressing, failed && { ...failed }].filter((c) => c !== undefined)
  status.conditions = [...others, ...conditions.map((c) => stamped(c, condition(before.conditions, c.type), nowMs))]
  return { status, changesInMs }
}

function progressCondition(
  deployment: Deployment,
  status: Status,
  rollout: Rollout,
  newSet: ReplicaSet | undefined,
  news: RolloutNews,
  nowMs: number,
): { progressing: Condition | undefined; changesInMs: number | undefined } {
  const before = deployment.status ?? {}
  const present = condition(before.conditions, 'Progressing')
  const name = newSet?.metadata.name ?? ''
  const say = (value: string, reason: string, message: string) => ({
    progressing: { type: 'Progressing', status: value, reason, message },
    changesInMs: undefined,
  })
  const deadlineSeconds = deployment.spec?.progressDeadlineSeconds ?? 600
  // The largest number says: no deadline.
  const hasDeadline = deadlineSeconds < 2 ** 31 - 1
  if (deployment.spec?.paused) {
    if (!hasDeadline) return { progressing: present, changesInMs: undefined }
    return say('Unknown', 'DeploymentPaused', 'Deployment is paused')
  }
  if (news.failure !== undefined) return say('False', 'ReplicaSetCreateError', news.failure)
  if (news.createdSet !== undefined)
    return say('True', 'NewReplicaSetCreated', `Created new replica set "${news.createdSet}"`)
  const complete =
    status.updatedReplicas === rollout.replicas &&
    status.replicas === rollout.replicas &&
    status.availableReplicas === rollout.replicas
  if (complete) return say('True', 'NewReplicaSetAvailable', `ReplicaSet "${name}" has successfully progressed.`)
  // Once rolled out, a later lack of pods is not a rollout that stands still.
  const wasComplete = present?.reason === 'NewReplicaSetAvailable' && status.replicas === status.updatedReplicas
  if (wasComplete) return { progressing: present, changesInMs: undefined }
  const oldReplicas = (s: Status) => (s.replicas ?? 0) - (s.updatedReplicas ?? 0)
  const moved =
    (status.updatedReplicas ?? 0) > (before.updatedReplicas ?? 0) ||
    oldReplicas(status) < oldReplicas(before) ||
    (status.readyReplicas ?? 0) > (before.readyReplicas ?? 0) ||
    (status.availableReplicas ?? 0) > (before.availableReplicas ?? 0)
  const resumed = present?.reason === 'DeploymentPaused'
  if (moved || resumed || present === undefined || present.reason === 'NewReplicaSetAvailable')
    return withDeadline({
      type: 'Progressing',
      status: 'True',
      ...(resumed
        ? { reason: 'DeploymentResumed', message: 'Deployment is resumed' }
        : { reason: 'ReplicaSetUpdated', message: `ReplicaSet "${name}" is progressing.` }),
      // Progress is an update even if the words stay the same.
      lastUpdateTime: formatTime(nowMs),
    })
  const leftMs = (parseTime(present.lastUpdateTime) ?? nowMs) + deadlineSeconds * 1000 - nowMs
  if (!hasDeadline || present.reason === 'ProgressDeadlineExceeded')
    return { progressing: present, changesInMs: undefined }
  if (leftMs > 0) return { progressing: present, changesInMs: leftMs }
  return say('False', 'ProgressDeadlineExceeded', `ReplicaSet "${name}" has timed out progressing.`)

  function withDeadline(progressing: Condition) {
    return { progressing, changesInMs: hasDeadline ? deadlineSeconds * 1000 + 1000 : undefined }
  }
}

/** Keeps the time stamps of a condition that says the same as before. */
function stamped(next: Condition, before: Condition | undefined, nowMs: number): Condition {
  const now = formatTime(nowMs)
  const same = before?.status === next.status && before.reason === next.reason && before.message === next.message
  return {
    ...next,
    lastUpdateTime: next.lastUpdateTime ?? (same ? before?.lastUpdateTime : undefined) ?? now,
    lastTransitionTime: (before?.status === next.status ? before.lastTransitionTime : undefined) ?? now,
  }
}
