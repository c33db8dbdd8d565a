import type { RunRecord, WorkloadResult } from '../harness/types.js'
import { difference } from '../workloads/desired-state.js'
import type { DesiredMore } from '../workloads/desired-workload.js'
import type { SchedulingMore } from '../workloads/scheduling-workload.js'
import { type Finding, finding } from './finding.js'

/** A look at the process table that comes later than this proves little of what was in between. */
const BLIND_MS_MAX = 2000

/** C1, C3 and C4 by a workload with pods. */
export function judgeDesired(run: Omit<RunRecord, 'verdict'>, result: WorkloadResult): Finding[] {
  const more = result.more as unknown as DesiredMore
  return [
    ...convergence(run, more),
    ...identities(more),
    finding('C4', `${result.workload}: ${more.bound} pods were bound once each`, more.rebound),
    ...more.lacks.map((text) => ({
      promise: 'C1',
      state: 'unknown' as const,
      text: `${result.workload}: ${text}`,
      evidence: [],
    })),
  ]
}

/** C4 under bursts of pods. */
export function judgeScheduling(_: Omit<RunRecord, 'verdict'>, { more }: WorkloadResult): Finding[] {
  const { bursts, bound, rebound, overcommitted, fullest, leftOver, lacks } = more as unknown as SchedulingMore
  return [
    finding(
      'C4',
      `scheduling: in ${bursts} bursts ${bound} pods were bound once each, and no node was asked for more than it has (the fullest: ${Math.round(fullest * 100)} %)`,
      [...rebound, ...overcommitted],
    ),
    finding('C1', 'scheduling: after the deletion of all pods none was left', leftOver),
    ...(bound === 0
      ? [{ promise: 'C4', state: 'unknown' as const, text: 'scheduling: no pod was bound at all', evidence: [] }]
      : []),
    ...lacks.map((text) => ({ promise: 'C4', state: 'unknown' as const, text: `scheduling: ${text}`, evidence: [] })),
  ]
}

function convergence(run: Omit<RunRecord, 'verdict'>, more: DesiredMore): Finding[] {
  const wrong: string[] = []
  const dueMs = run.healedMs + run.settleMs
  const late = more.undesired.find(({ toMs = run.endedMs, fromMs }) => fromMs <= dueMs && toMs > dueMs)
  const s = (ms: number) => (ms / 1000).toFixed(1)
  if (late)
    wrong.push(
      `${s(run.settleMs)} s after the last fault was undone (${s(run.healedMs)} s) it was not as asked since ${s(late.fromMs)} s: ${late.why}`,
    )
  for (const { endpoint, view } of more.last) {
    wrong.push(...difference(more.wanted, view).map((text) => `by ${endpoint}: ${text}`))
    if (more.live) wrong.push(...containers(view.pods, more.live))
  }
  // What had no time to come is no breach.
  const early = run.interrupted ? wrong.splice(0) : []
  wrong.push(...more.leftOver.map((text) => `after everything was deleted: ${text}`))
  const pods = more.wanted.reduce((sum, { replicas }) => sum + replicas, 0)
  const seen = more.last.map(({ endpoint }) => endpoint).join(', ')
  const findings = [
    finding(
      'C1',
      `${more.wanted.length} workloads with ${pods} pods were there and nothing else, by ${seen}${more.live ? ' and the process tables' : ''}; after their deletion nothing`,
      [...new Set(wrong)],
    ),
  ]
  if (early.length > 0)
    findings.push({
      promise: 'C1',
      state: 'unknown',
      text: `interrupted before its time to settle was over, and not there yet: ${early[0]}`,
      evidence: [],
    })
  if (more.last.length === 0)
    findings.push({ promise: 'C1', state: 'unknown', text: 'nobody showed what is there at the end', evidence: [] })
  return findings
}

/** What lives on the nodes against what should. */
function containers(
  pods: readonly { name: string; uid: string; node?: string; phase: string; deleting: boolean }[],
  live: NonNullable<DesiredMore['live']>,
): string[] {
  const due = pods.filter(({ node, phase, deleting }) => node !== undefined && phase === 'Running' && !deleting)
  const wrong: string[] = []
  for (const { name, uid, node } of due)
    if (!live.some((one) => one.podUid === uid && one.node === node))
      wrong.push(`no container of pod ${name} lives on ${node}, where it should`)
  for (const { podUid, pod, node } of live) {
    const asked = pods.find(({ uid }) => uid === podUid)
    if (!asked) wrong.push(`a container of pod ${pod} (${podUid}) lives on ${node}; that pod is gone`)
    else if (asked.node !== node) wrong.push(`a container of pod ${pod} lives on ${node}; it belongs to ${asked.node}`)
  }
  return wrong
}

function identities({ identity }: DesiredMore): Finding[] {
  if (!identity || identity.lives === 0) return []
  const { by, looks, lives, longestBlindMs, doubles } = identity
  const how =
    by === 'process table'
      ? `in ${looks} looks at the process table, at most ${longestBlindMs} ms apart`
      : 'by what their kubelets say, in whole seconds'
  const findings = [finding('C3', `${lives} lives of StatefulSet pods, no two of one name at once, ${how}`, doubles)]
  if (by === 'process table' && longestBlindMs > BLIND_MS_MAX)
    findings.push({
      promise: 'C3',
      state: 'unknown',
      text: `nobody looked at the process table for ${longestBlindMs} ms`,
      evidence: [],
    })
  return findings
}
