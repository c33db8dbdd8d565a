/** What is asked for, what is there, and the difference between them: pure. */
import type { ApiObject } from './ports.js'

export type OwnerKind = 'Deployment' | 'ReplicaSet' | 'StatefulSet'

export interface Wanted {
  kind: OwnerKind
  name: string
  replicas: number
  /** Of the pod template: pods of an older one are to be replaced (but for a ReplicaSet, which replaces none). */
  template: number
}

export interface SeenOwner {
  kind: OwnerKind
  name: string
  uid: string
  owners: string[]
  replicas: number
  template: number
}

export interface SeenPod {
  name: string
  uid: string
  app: string
  owners: string[]
  template: number
  node?: string
  phase: string
  ready: boolean
  deleting: boolean
}

/** A namespace as one API server showed it. */
export interface View {
  owners: SeenOwner[]
  pods: SeenPod[]
}

/** Label and annotation of all that the workload makes. */
export const APP = 'app'
export const TEMPLATE = 'chaos/template'

interface PodTemplate {
  metadata?: { annotations?: Record<string, string> }
}

export function seenOwner(kind: OwnerKind, { metadata, spec }: ApiObject): SeenOwner {
  const template = (spec?.['template'] as PodTemplate | undefined)?.metadata?.annotations?.[TEMPLATE]
  return {
    kind,
    name: metadata.name,
    uid: metadata.uid ?? '',
    owners: (metadata.ownerReferences ?? []).map((owner) => owner.uid),
    replicas: Number(spec?.['replicas'] ?? 1),
    template: Number(template ?? 0),
  }
}

export function seenPod({ metadata, spec, status }: ApiObject): SeenPod {
  const conditions = (status?.['conditions'] ?? []) as { type: string; status: string }[]
  const node = spec?.['nodeName'] as string | undefined
  return {
    name: metadata.name,
    uid: metadata.uid ?? '',
    app: metadata.labels?.[APP] ?? '',
    owners: (metadata.ownerReferences ?? []).map((owner) => owner.uid),
    template: Number(metadata.annotations?.[TEMPLATE] ?? 0),
    ...(node === undefined ? {} : { node }),
    phase: String(status?.['phase'] ?? 'Pending'),
    ready: conditions.some((condition) => condition.type === 'Ready' && condition.status === 'True'),
    deleting: metadata.deletionTimestamp !== undefined,
  }
}

const isOver = (pod: SeenPod) => pod.phase === 'Failed' || pod.phase === 'Succeeded'
const podsOf = (one: Wanted, pods: readonly SeenPod[]) => pods.filter((pod) => pod.app === one.name && !isOver(pod))
const serves = (pod: SeenPod, { kind, template }: Wanted) =>
  pod.ready && !pod.deleting && (kind === 'ReplicaSet' || pod.template === template)

/** Pods that are missing, in words, whatever else is there (those of a node that is gone stay Terminating until it is back). */
export function shortage(wanted: readonly Wanted[], pods: readonly SeenPod[]): string | undefined {
  for (const one of wanted) {
    const ready = podsOf(one, pods).filter((pod) => serves(pod, one))
    if (ready.length < one.replicas) return `${one.kind} ${one.name} has ${ready.length} of ${one.replicas} pods ready`
  }
  return undefined
}

/** Everything in which the namespace differs from what is wanted, in words; empty: nothing is missing, nothing left over. */
export function difference(wanted: readonly Wanted[], { owners, pods }: View): string[] {
  const wrong: string[] = []
  const known = new Set(owners.map((owner) => owner.uid))
  for (const one of wanted) {
    const name = `${one.kind} ${one.name}`
    const owner = owners.find((o) => o.kind === one.kind && o.name === one.name)
    if (!owner) {
      wrong.push(`${name} is missing`)
      continue
    }
    if (owner.replicas !== one.replicas || owner.template !== one.template)
      wrong.push(
        `${name} asks for ${owner.replicas} replicas of template ${owner.template}; asked for were ${one.replicas} of ${one.template}`,
      )
    const own = podsOf(one, pods)
    const ready = own.filter((pod) => serves(pod, one))
    if (ready.length !== one.replicas) wrong.push(`${name} has ${ready.length} of ${one.replicas} pods ready`)
    const rest = own.filter((pod) => !ready.includes(pod))
    if (rest.length > 0) wrong.push(`${name} has other pods: ${rest.map(describePod).join(', ')}`)
  }
  for (const owner of owners) {
    const isWanted = wanted.some((one) => one.kind === owner.kind && one.name === owner.name)
    if (!isWanted && owner.owners.length === 0) wrong.push(`${owner.kind} ${owner.name} is left over`)
    if (owner.owners.some((uid) => !known.has(uid)))
      wrong.push(`${owner.kind} ${owner.name} is left over: its owner is gone`)
  }
  for (const pod of pods) {
    if (isOver(pod)) continue
    if (!wanted.some((one) => one.name === pod.app)) wrong.push(`pod ${describePod(pod)} is left over`)
    else if (pod.owners.some((uid) => !known.has(uid)))
      wrong.push(`pod ${describePod(pod)} is left over: its owner is gone`)
  }
  return wrong
}

function describePod({ name, node, phase, ready, deleting, template }: SeenPod): string {
  const state = deleting ? 'terminating' : ready ? 'ready' : phase
  return `${name} on ${node ?? 'no node'} (${state}, template ${template})`
}
