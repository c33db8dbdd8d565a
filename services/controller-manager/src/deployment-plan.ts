/**
 * What a Deployment does next, as a pure function of what is there. Rules as in Kubernetes: `maxSurge` pods above and
 * `maxUnavailable` pods below `replicas` at any time, counting a pod as there only when its ReplicaSet says available.
 */
import { sameJson } from '@capstan/api'
import { byText } from '@capstan/client'
import { shortHash } from './canonical.js'
import { type Deployment, parseTime, type PodTemplate, type ReplicaSet } from './kinds.js'

export const REVISION = 'deployment.kubernetes.io/revision'
export const REVISION_HISTORY = 'deployment.kubernetes.io/revision-history'
export const DESIRED_REPLICAS = 'deployment.kubernetes.io/desired-replicas'
export const MAX_REPLICAS = 'deployment.kubernetes.io/max-replicas'
export const TEMPLATE_HASH = 'pod-template-hash'

/** A ReplicaSet's new size. */
export interface Resize {
  name: string
  replicas: number
}

/** The settings of a Deployment with their defaults. */
export interface Rollout {
  replicas: number
  maxSurge: number
  maxUnavailable: number
  recreate: boolean
}

export function rolloutOf({ spec }: Deployment): Rollout {
  const replicas = spec?.replicas ?? 1
  const recreate = spec?.strategy?.type === 'Recreate'
  // For Recreate the bounds of a rollout mean nothing, and `Available` asks for all replicas.
  if (recreate) return { replicas, maxSurge: 0, maxUnavailable: 0, recreate }
  const { maxSurge = '25%', maxUnavailable = '25%' } = spec?.strategy?.rollingUpdate ?? {}
  const surge = resolvePercent(maxSurge, replicas, Math.ceil)
  let unavailable = resolvePercent(maxUnavailable, replicas, Math.floor)
  // Both 0 would never get anywhere; small percentages of few replicas round to that.
  if (surge === 0 && unavailable === 0) unavailable = 1
  return { replicas, maxSurge: surge, maxUnavailable: Math.min(unavailable, replicas), recreate }
}

/** `3` or `'25%'` of `total`. @throws RangeError for anything else (validation lets nothing else in). */
export function resolvePercent(value: number | string, total: number, round: (x: number) => number): number {
  if (typeof value === 'number') return value
  const percent = /^(\d+)%$/.exec(value)
  if (!percent) throw new RangeError(`neither a number nor a percentage: ${value}`)
  return round((Number(percent[1]) * total) / 100)
}

const size = (rs: ReplicaSet) => rs.spec?.replicas ?? 0
const nameOf = (rs: ReplicaSet) => rs.metadata.name ?? ''
/** What an own write has taken away already may still be in the status. */
const available = (rs: ReplicaSet) => Math.min(rs.status?.availableReplicas ?? 0, size(rs))
const sum = (sets: readonly ReplicaSet[], count: (rs: ReplicaSet) => number) =>
  sets.reduce((total, rs) => total + count(rs), 0)

export function byAge(a: ReplicaSet, b: ReplicaSet): number {
  const [left, right] = [parseTime(a.metadata.creationTimestamp) ?? 0, parseTime(b.metadata.creationTimestamp) ?? 0]
  return left - right || byText(nameOf(a), nameOf(b))
}

/** Of the ReplicaSet for the Deployment's present template; another one for each `collisionCount`. */
export function templateHash({ spec, status }: Deployment): string {
  return shortHash([spec?.template ?? {}, status?.collisionCount ?? 0])
}

/**
 * Of the Deployment's ReplicaSets the one with the present template; the oldest if several have it. The name counts too: a
 * ReplicaSet made from this template may have been given defaults that an older Deployment in the store does not have.
 */
export function findNewSet(deployment: Deployment, sets: readonly ReplicaSet[]): ReplicaSet | undefined {
  const name = `${deployment.metadata.name}-${templateHash(deployment)}`
  const sorted = [...sets].sort(byAge)
  return (
    sorted.find((rs) => sameTemplate(rs.spec?.template, deployment.spec?.template)) ??
    sorted.find((rs) => rs.metadata.name === name)
  )
}

/** Equal but for the label that tells ReplicaSets of one Deployment apart. */
export function sameTemplate(a: PodTemplate | undefined, b: PodTemplate | undefined): boolean {
  return sameJson(withoutHash(a), withoutHash(b))
}

function withoutHash(template: PodTemplate | undefined): unknown {
  const { [TEMPLATE_HASH]: _, ...labels } = template?.metadata?.labels ?? {}
  const { labels: _labels, creationTimestamp: _time, ...metadata } = template?.metadata ?? {}
  return { ...template, metadata: { ...metadata, ...(Object.keys(labels).length > 0 ? { labels } : {}) } }
}

/** Size that a new ReplicaSet begins or goes on with: up to `replicas`, and with all others up to `replicas + maxSurge`. */
export function newSetSize(rollout: Rollout, newSet: ReplicaSet | undefined, all: readonly ReplicaSet[]): number {
  const present = newSet ? size(newSet) : 0
  if (rollout.recreate || present >= rollout.replicas) return rollout.replicas
  const room = rollout.replicas + rollout.maxSurge - sum(all, size)
  return room <= 0 ? present : present + Math.min(room, rollout.replicas - present)
}

/** How the old ReplicaSets shrink now: first what is not available anyway, then as far as `maxUnavailable` allows. */
export function shrinkOldSets(rollout: Rollout, newSet: ReplicaSet, old: readonly ReplicaSet[]): Resize[] {
  const all = [...old, newSet]
  const minAvailable = rollout.replicas - rollout.maxUnavailable
  const newUnavailable = Math.max(0, size(newSet) - available(newSet))
  let budget = sum(all, size) - minAvailable - newUnavailable
  if (budget <= 0) return []
  const sizes = new Map(old.map((rs) => [rs, size(rs)]))
  const sorted = [...old].sort(byAge)
  for (const rs of sorted) {
    const unhealthy = Math.min(budget, Math.max(0, size(rs) - available(rs)))
    sizes.set(rs, size(rs) - unhealthy)
    budget -= unhealthy
  }
  let spare = Math.min(budget, sum(all, available) - minAvailable)
  for (const rs of sorted) {
    const less = Math.min(Math.max(0, spare), sizes.get(rs) ?? 0)
    sizes.set(rs, (sizes.get(rs) ?? 0) - less)
    spare -= less
  }
  return sorted
    .filter((rs) => sizes.get(rs) !== size(rs))
    .map((rs) => ({ name: nameOf(rs), replicas: sizes.get(rs) ?? 0 }))
}

/** Was `replicas` of the Deployment changed since its ReplicaSets were last sized? */
export function isScaling(rollout: Rollout, sets: readonly ReplicaSet[]): boolean {
  return sets.some((rs) => {
    const desired = rs.metadata.annotations?.[DESIRED_REPLICAS]
    return size(rs) > 0 && desired !== undefined && Number(desired) !== rollout.replicas
  })
}

/** Sizes after a change of `replicas`: in the middle of a rollout every ReplicaSet gets its share. */
export function scaleSets(rollout: Rollout, newSet: ReplicaSet | undefined, old: readonly ReplicaSet[]): Resize[] {
  const all = newSet ? [...old, newSet] : [...old]
  const active = all.filter((rs) => size(rs) > 0)
  if (active.length <= 1) {
    const only = active[0] ?? newSet ?? [...old].sort(byAge).at(-1)
    return only && size(only) !== rollout.replicas ? [{ name: nameOf(only), replicas: rollout.replicas }] : []
  }
  if (newSet && size(newSet) === rollout.replicas && available(newSet) === rollout.replicas)
    return active.filter((rs) => rs !== newSet).map((rs) => ({ name: nameOf(rs), replicas: 0 }))
  if (rollout.recreate) return []
  const allowed = rollout.replicas > 0 ? rollout.replicas + rollout.maxSurge : 0
  const toAdd = allowed - sum(active, size)
  // The biggest first; of equals the newer when growing, the older when shrinking.
  const sorted = [...active].sort((a, b) => size(b) - size(a) || (toAdd > 0 ? byAge(b, a) : byAge(a, b)))
  let added = 0
  const sizes = sorted.map((rs) => {
    const share = toAdd === 0 ? 0 : proportion(rs, rollout, toAdd, added)
    added += share
    return size(rs) + share
  })
  // What rounding left goes to the first.
  if (toAdd !== 0 && sizes.length > 0) sizes[0] = Math.max(0, (sizes[0] as number) + toAdd - added)
  return sorted
    .map((rs, at) => ({ name: nameOf(rs), replicas: sizes[at] as number }))
    .filter((r, at) => r.replicas !== size(sorted[at] as ReplicaSet))
}

function proportion(rs: ReplicaSet, rollout: Rollout, toAdd: number, added: number): number {
  if (size(rs) === 0) return 0
  const formerTotal = Number(rs.metadata.annotations?.[MAX_REPLICAS]) || size(rs)
  const target =
    rollout.replicas === 0 ? 0 : Math.round((size(rs) * (rollout.replicas + rollout.maxSurge)) / formerTotal)
  const share = target - size(rs)
  const left = toAdd - added
  return toAdd > 0 ? Math.max(0, Math.min(share, left)) : Math.min(0, Math.max(share, left))
}

export function revisionOf(object: { metadata: { annotations?: Record<string, string> } }): number {
  const revision = Number(object.metadata.annotations?.[REVISION] ?? 0)
  return Number.isSafeInteger(revision) ? revision : 0
}

/** Old ReplicaSets beyond `limit`, the oldest revisions: empty ones whose state is known only. */
export function surplusHistory(old: readonly ReplicaSet[], limit: number): ReplicaSet[] {
  const surplus = old.length - limit
  if (surplus <= 0) return []
  return [...old]
    .sort((a, b) => revisionOf(a) - revisionOf(b) || byAge(a, b))
    .slice(0, surplus)
    .filter(
      (rs) =>
        size(rs) === 0 &&
        (rs.status?.replicas ?? 0) === 0 &&
        (rs.metadata.generation ?? 0) <= (rs.status?.observedGeneration ?? 0) &&
        rs.metadata.deletionTimestamp === undefined,
    )
}
