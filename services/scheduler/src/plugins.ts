import { type Plugin, proportional } from './framework.js'
import { podLoad, podRequests } from './resources.js'
import { hostPortsOf, type NodeInfo } from './snapshot.js'
import type { LabelSelectorView, NodeSelectorTermView, NodeView, PodAffinityTermView, PodView } from './views.js'

/** All plugins, in the order in which a node is asked. Names and messages are kube-scheduler's. */
export function defaultPlugins(): Plugin[] {
  return [
    nodeUnschedulable,
    nodeName,
    taintToleration,
    nodeAffinity,
    nodePorts,
    nodeResourcesFit,
    podTopologySpread,
    interPodAffinity,
    nodeResourcesBalanced,
    spreadSiblings,
  ]
}

const UNSCHEDULABLE_TAINT = { key: 'node.kubernetes.io/unschedulable', effect: 'NoSchedule' }

const nodeUnschedulable: Plugin = {
  name: 'NodeUnschedulable',
  filter: ({ pod }, { node }) =>
    node.spec?.unschedulable && !tolerated(pod, UNSCHEDULABLE_TAINT) ? 'node(s) were unschedulable' : undefined,
}

const nodeName: Plugin = {
  name: 'NodeName',
  filter: ({ pod }, node) =>
    pod.spec.nodeName && pod.spec.nodeName !== node.name ? "node(s) didn't match the requested node name" : undefined,
}

const taintToleration: Plugin = {
  name: 'TaintToleration',
  filter({ pod }, { node }) {
    const taint = node.spec?.taints?.find(
      (t) => (t.effect === 'NoSchedule' || t.effect === 'NoExecute') && !tolerated(pod, t),
    )
    return taint ? `node(s) had untolerated taint {${taint.key}: ${taint.value ?? ''}}` : undefined
  },
  score: {
    weight: 3,
    score: ({ pod }, { node }) =>
      (node.spec?.taints ?? []).filter((t) => t.effect === 'PreferNoSchedule' && !tolerated(pod, t)).length,
    normalize: (scores) => proportional(scores, true),
  },
}

interface TaintView {
  key: string
  value?: string
  effect: string
}

function tolerated(pod: PodView, taint: TaintView): boolean {
  return (pod.spec.tolerations ?? []).some(
    (t) =>
      (!t.effect || t.effect === taint.effect) &&
      (!t.key ? t.operator === 'Exists' : t.key === taint.key) &&
      (t.operator === 'Exists' || (t.value ?? '') === (taint.value ?? '')),
  )
}

const nodeAffinity: Plugin = {
  name: 'NodeAffinity',
  filter({ pod }, { node }) {
    const labels = node.metadata.labels ?? {}
    const selected = Object.entries(pod.spec.nodeSelector ?? {}).every(([key, value]) => labels[key] === value)
    const required = pod.spec.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution
    const fits = selected && (!required || required.nodeSelectorTerms.some((term) => termFits(term, node)))
    return fits ? undefined : "node(s) didn't match Pod's node affinity/selector"
  },
  score: {
    weight: 2,
    score: ({ pod }, { node }) =>
      (pod.spec.affinity?.nodeAffinity?.preferredDuringSchedulingIgnoredDuringExecution ?? [])
        .filter(({ preference }) => termFits(preference, node))
        .reduce((sum, { weight }) => sum + weight, 0),
    normalize: proportional,
  },
}

/** A term without any expression fits no node (Kubernetes NodeSelectorTerm). */
function termFits(term: NodeSelectorTermView, node: NodeView): boolean {
  const expressions = term.matchExpressions ?? []
  const fields = term.matchFields ?? []
  if (expressions.length + fields.length === 0) return false
  const labels = node.metadata.labels ?? {}
  return (
    expressions.every((e) => expressionFits(e, labels)) &&
    fields.every((f) => expressionFits(f, { 'metadata.name': node.metadata.name }))
  )
}

function expressionFits(
  e: { key: string; operator: string; values?: string[] },
  labels: Record<string, string>,
): boolean {
  const value = Object.hasOwn(labels, e.key) ? labels[e.key] : undefined
  const values = e.values ?? []
  switch (e.operator) {
    case 'In':
      return value !== undefined && values.includes(value)
    case 'NotIn':
      return value === undefined || !values.includes(value)
    case 'Exists':
      return value !== undefined
    case 'DoesNotExist':
      return value === undefined
    case 'Gt':
      return value !== undefined && Number(value) > Number(values[0])
    case 'Lt':
      return value !== undefined && Number(value) < Number(values[0])
    default:
      return false
  }
}

/** A missing selector fits nothing, an empty one everything. */
function selectorFits(selector: LabelSelectorView | undefined, labels: Record<string, string> | undefined): boolean {
  if (!selector) return false
  const have = labels ?? {}
  return (
    Object.entries(selector.matchLabels ?? {}).every(([key, value]) => have[key] === value) &&
    (selector.matchExpressions ?? []).every((e) => expressionFits(e, have))
  )
}

const nodePorts: Plugin = {
  name: 'NodePorts',
  filter({ pod }, node) {
    const wanted = hostPortsOf(pod)
    const taken = wanted.some((port) => {
      const [protocol, ip, number] = port.split(' ')
      return [...node.hostPorts.keys()].some((used) => {
        const [usedProtocol, usedIp, usedNumber] = used.split(' ')
        return (
          protocol === usedProtocol &&
          number === usedNumber &&
          (ip === usedIp || ip === '0.0.0.0' || usedIp === '0.0.0.0')
        )
      })
    })
    return taken ? "node(s) didn't have free ports for the requested pod ports" : undefined
  },
}

const nodeResourcesFit: Plugin = {
  name: 'NodeResourcesFit',
  filter({ pod }, node) {
    const lacking: string[] = []
    for (const [name, amount] of podRequests(pod)) {
      if (amount === 0) continue
      if ((node.requested.get(name) ?? 0) + amount > (node.allocatable.get(name) ?? 0))
        lacking.push(name === 'pods' ? 'Too many pods' : `Insufficient ${name}`)
    }
    return lacking.length > 0 ? lacking.sort().join('\n') : undefined
  },
  // LeastAllocated: the more stays free, the better.
  score: { weight: 1, score: ({ pod }, node) => mean(freeShares(pod, node)) * 100 },
}

/** Share of cpu and memory that stays free with the pod on the node, each 0…1. */
function freeShares(pod: PodView, node: NodeInfo): number[] {
  const load = podLoad(pod)
  const share = (used: number, all: number | undefined) => (all ? Math.max(0, 1 - used / all) : 0)
  return [
    share(node.load.cpuMilli + load.cpuMilli, node.allocatable.get('cpu')),
    share(node.load.memoryBytes + load.memoryBytes, node.allocatable.get('memory')),
  ]
}

const nodeResourcesBalanced: Plugin = {
  name: 'NodeResourcesBalancedAllocation',
  score: {
    weight: 1,
    score({ pod }, node) {
      const [cpu = 0, memory = 0] = freeShares(pod, node)
      return (1 - Math.abs(cpu - memory) / 2) * 100
    },
  },
}

const mean = (values: number[]) => values.reduce((sum, v) => sum + v, 0) / Math.max(1, values.length)

const podTopologySpread: Plugin = {
  name: 'PodTopologySpread',
  filter({ pod, nodes }, node) {
    for (const constraint of pod.spec.topologySpreadConstraints ?? []) {
      if (constraint.whenUnsatisfiable !== 'DoNotSchedule') continue
      const domain = node.node.metadata.labels?.[constraint.topologyKey]
      if (domain === undefined) return "node(s) didn't match pod topology spread constraints (missing required label)"
      const counts = domainCounts(pod, nodes, constraint.topologyKey, constraint.labelSelector)
      const self = selectorFits(constraint.labelSelector, pod.metadata.labels) ? 1 : 0
      if ((counts.get(domain) ?? 0) + self - Math.min(...counts.values()) > constraint.maxSkew)
        return "node(s) didn't match pod topology spread constraints"
    }
    return undefined
  },
  score: {
    weight: 2,
    score: ({ pod, nodes }, node) =>
      (pod.spec.topologySpreadConstraints ?? [])
        .filter((c) => c.whenUnsatisfiable === 'ScheduleAnyway')
        .reduce((sum, c) => {
          const domain = node.node.metadata.labels?.[c.topologyKey]
          return (
            sum +
            (domain === undefined
              ? nodes.length
              : (domainCounts(pod, nodes, c.topologyKey, c.labelSelector).get(domain) ?? 0))
          )
        }, 0),
    normalize: (scores) => proportional(scores, true),
  },
}

/** Matching pods per value of a node label, over the nodes that the pod could be on by its affinity. */
function domainCounts(
  pod: PodView,
  nodes: readonly NodeInfo[],
  topologyKey: string,
  selector: LabelSelectorView | undefined,
): Map<string, number> {
  const counts = new Map<string, number>()
  for (const node of nodes) {
    const domain = node.node.metadata.labels?.[topologyKey]
    if (domain === undefined || nodeAffinity.filter?.({ pod, nodes }, node) !== undefined) continue
    const here = [...node.pods.values()].filter(
      (p) =>
        p.metadata.namespace === pod.metadata.namespace &&
        !p.metadata.deletionTimestamp &&
        selectorFits(selector, p.metadata.labels),
    ).length
    counts.set(domain, (counts.get(domain) ?? 0) + here)
  }
  return counts
}

const interPodAffinity: Plugin = {
  name: 'InterPodAffinity',
  filter({ pod, nodes }, node) {
    const affinity = pod.spec.affinity
    for (const term of affinity?.podAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? []) {
      if (domainHas(nodes, node, term, pod)) continue
      // The first of a group that wants to be with itself may go anywhere that has the label.
      const first =
        termMatches(term, pod, pod) && !nodes.some((n) => [...n.pods.values()].some((p) => termMatches(term, pod, p)))
      if (!first || node.node.metadata.labels?.[term.topologyKey] === undefined)
        return "node(s) didn't match pod affinity rules"
    }
    for (const term of affinity?.podAntiAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? [])
      if (domainHas(nodes, node, term, pod)) return "node(s) didn't match pod anti-affinity rules"
    const unwelcome = nodes.some((other) =>
      [...other.pods.values()].some((p) =>
        (p.spec.affinity?.podAntiAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? []).some(
          (term) => termMatches(term, p, pod) && sameDomain(other, node, term.topologyKey),
        ),
      ),
    )
    return unwelcome ? "node(s) didn't satisfy existing pods anti-affinity rules" : undefined
  },
  score: {
    weight: 2,
    score({ pod, nodes }, node) {
      const weigh = (terms: { weight: number; podAffinityTerm: PodAffinityTermView }[] | undefined) =>
        (terms ?? [])
          .filter(({ podAffinityTerm }) => domainHas(nodes, node, podAffinityTerm, pod))
          .reduce((sum, t) => sum + t.weight, 0)
      return (
        weigh(pod.spec.affinity?.podAffinity?.preferredDuringSchedulingIgnoredDuringExecution) -
        weigh(pod.spec.affinity?.podAntiAffinity?.preferredDuringSchedulingIgnoredDuringExecution)
      )
    },
    normalize(scores) {
      const low = Math.min(...scores)
      const high = Math.max(...scores)
      return scores.map((score) => (high === low ? 0 : Math.floor(((score - low) * 100) / (high - low))))
    },
  },
}

function termMatches(term: PodAffinityTermView, owner: PodView, candidate: PodView): boolean {
  const namespaces = term.namespaces?.length ? term.namespaces : [owner.metadata.namespace]
  return (
    namespaces.includes(candidate.metadata.namespace) && selectorFits(term.labelSelector, candidate.metadata.labels)
  )
}

function sameDomain(a: NodeInfo, b: NodeInfo, topologyKey: string): boolean {
  const value = a.node.metadata.labels?.[topologyKey]
  return value !== undefined && value === b.node.metadata.labels?.[topologyKey]
}

function domainHas(nodes: readonly NodeInfo[], node: NodeInfo, term: PodAffinityTermView, pod: PodView): boolean {
  return nodes.some(
    (other) =>
      sameDomain(other, node, term.topologyKey) && [...other.pods.values()].some((p) => termMatches(term, pod, p)),
  )
}

/** Pods of one controller go to different nodes where they can (Kubernetes' default spreading over hostnames). */
const spreadSiblings: Plugin = {
  name: 'SpreadSiblings',
  score: {
    weight: 2,
    score({ pod }, node) {
      const owner = controllerOf(pod)
      if (owner === undefined) return 0
      return [...node.pods.values()].filter((p) => controllerOf(p) === owner && !p.metadata.deletionTimestamp).length
    },
    normalize: (scores) => proportional(scores, true),
  },
}

const controllerOf = (pod: PodView) => pod.metadata.ownerReferences?.find((ref) => ref.controller)?.uid
