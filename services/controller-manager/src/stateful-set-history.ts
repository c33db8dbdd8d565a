/** The templates that a StatefulSet had, as ControllerRevisions. Pure. */
import { byText } from '@capstan/client'
import { canonicalJson, shortHash } from './canonical.js'
import { type ControllerRevision, parseTime, type Pod, type PodTemplate, type StatefulSet } from './kinds.js'
import { revisionOf } from './stateful-set-plan.js'

/** `<set>-<hash>` is a label value of the pods, which may have 63 letters; the hash has 10. */
const SET_NAME_MAX = 52

/** As kubectl wants it: the strategic merge patch that makes this template the set's (`rollout undo` sends it). */
export function revisionData(set: StatefulSet): NonNullable<ControllerRevision['data']> {
  return { spec: { template: { ...set.spec?.template, $patch: 'replace' } } }
}

export function templateOf(revision: ControllerRevision): PodTemplate {
  const { $patch: _, ...template } = revision.data?.spec?.template ?? {}
  return template
}

/** Another name for each `collisionCount`. */
export function revisionName(set: StatefulSet, collisionCount: number): string {
  const { name = '', uid = '' } = set.metadata
  return `${name.slice(0, SET_NAME_MAX)}-${shortHash([revisionData(set), uid, collisionCount])}`
}

export interface History {
  /** Of the present template; missing: has to be made. */
  update: ControllerRevision | undefined
  /** The one that the pods come from; missing: the same as `update`. */
  current: ControllerRevision | undefined
  /** What `update.revision` has to be: the highest. */
  number: number
}

export function historyOf(set: StatefulSet, revisions: readonly ControllerRevision[]): History {
  const sorted = [...revisions].sort(byRevision)
  const wanted = canonicalJson(revisionData(set))
  const update = sorted.toReversed().find((revision) => canonicalJson(revision.data) === wanted)
  const others = sorted.filter((revision) => revision !== update)
  const last = others.at(-1)?.revision ?? 0
  // A template that is used again (rollback) becomes the newest.
  const number = update && (update.revision ?? 0) > last ? (update.revision ?? 0) : last + 1
  const current = sorted.find((revision) => revision.metadata.name === set.status?.currentRevision)
  return { update, current, number }
}

/** Revisions beyond the limit that nothing comes from, the oldest. */
export function surplusRevisions(
  set: StatefulSet,
  revisions: readonly ControllerRevision[],
  pods: readonly Pod[],
  live: readonly string[],
): ControllerRevision[] {
  const used = new Set([...live, ...pods.map(revisionOf)])
  const spare = [...revisions].sort(byRevision).filter((revision) => !used.has(revision.metadata.name ?? ''))
  return spare.slice(0, Math.max(0, spare.length - (set.spec?.revisionHistoryLimit ?? 10)))
}

function byRevision(a: ControllerRevision, b: ControllerRevision): number {
  const created = (revision: ControllerRevision) => parseTime(revision.metadata.creationTimestamp) ?? 0
  return (
    (a.revision ?? 0) - (b.revision ?? 0) ||
    created(a) - created(b) ||
    byText(a.metadata.name ?? '', b.metadata.name ?? '')
  )
}
