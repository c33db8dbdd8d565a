import { sameJson } from '@capstan/api'
import { condition, formatTime, type Node, type Taint, type Toleration } from './kinds.js'
import type { Verdict } from './node-judge.js'

export const UNREACHABLE = 'node.kubernetes.io/unreachable'
export const NOT_READY = 'node.kubernetes.io/not-ready'
export const UNSCHEDULABLE = 'node.kubernetes.io/unschedulable'
export const OUT_OF_SERVICE = 'node.kubernetes.io/out-of-service'

/** Node conditions that keep new pods away, and the status at which they do. */
const CONDITION_TAINTS: readonly [type: string, status: string, key: string][] = [
  ['MemoryPressure', 'True', 'node.kubernetes.io/memory-pressure'],
  ['DiskPressure', 'True', 'node.kubernetes.io/disk-pressure'],
  ['PIDPressure', 'True', 'node.kubernetes.io/pid-pressure'],
  ['NetworkUnavailable', 'True', 'node.kubernetes.io/network-unavailable'],
]
const OURS = new Set([UNREACHABLE, NOT_READY, UNSCHEDULABLE, ...CONDITION_TAINTS.map(([, , key]) => key)])

export function hasTaint(node: Node, key: string, effect: string): boolean {
  return (node.spec?.taints ?? []).some((taint) => taint.key === key && taint.effect === effect)
}

/** The node's taints as its conditions and the verdict ask for; undefined if they are so already. Others' stay. */
export function wantedTaints(node: Node, verdict: Verdict, nowMs: number): Taint[] | undefined {
  const present = node.spec?.taints ?? []
  const wanted: Taint[] = []
  const ready = condition(node.status?.conditions, 'Ready')?.status ?? 'False'
  if (ready === 'False') wanted.push({ key: NOT_READY, effect: 'NoSchedule' }, { key: NOT_READY, effect: 'NoExecute' })
  if (ready === 'Unknown') {
    wanted.push({ key: UNREACHABLE, effect: 'NoSchedule' })
    // While the judge may be the sick one nobody is evicted; one that is heard of again has yet to report.
    const evicts = verdict === 'lost' || (verdict === 'heard' && hasTaint(node, UNREACHABLE, 'NoExecute'))
    if (evicts) wanted.push({ key: UNREACHABLE, effect: 'NoExecute' })
  }
  if (node.spec?.unschedulable) wanted.push({ key: UNSCHEDULABLE, effect: 'NoSchedule' })
  for (const [type, status, key] of CONDITION_TAINTS)
    if (condition(node.status?.conditions, type)?.status === status) wanted.push({ key, effect: 'NoSchedule' })
  const next = [
    ...present.filter((taint) => !OURS.has(taint.key)),
    ...wanted.map((taint) => {
      const before = present.find((p) => p.key === taint.key && p.effect === taint.effect)
      if (before) return before
      return taint.effect === 'NoExecute' ? { ...taint, timeAdded: formatTime(nowMs) } : taint
    }),
  ]
  const sorted = (taints: Taint[]) => taints.map((t) => `${t.key} ${t.effect}`).sort()
  return sameJson(sorted(next), sorted(present)) ? undefined : next
}

export function tolerates(toleration: Toleration, taint: Taint): boolean {
  if (toleration.effect && toleration.effect !== taint.effect) return false
  if (toleration.key && toleration.key !== taint.key) return false
  if (toleration.operator === 'Exists') return true
  // Without a key only `Exists` fits.
  return Boolean(toleration.key) && (toleration.value ?? '') === (taint.value ?? '')
}

/** How long the tolerations bear the taint, in seconds: 0 not at all, Infinity for ever. */
export function tolerationSeconds(tolerations: readonly Toleration[], taint: Taint): number {
  const fitting = tolerations.filter((toleration) => tolerates(toleration, taint))
  if (fitting.length === 0) return 0
  return Math.min(...fitting.map((toleration) => Math.max(0, toleration.tolerationSeconds ?? Infinity)))
}
