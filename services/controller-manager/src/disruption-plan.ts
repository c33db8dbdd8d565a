import { type DisruptionStatus, isPodReady, parseTime, type Pod, type PodDisruptionBudget } from './kinds.js'

/** A granted eviction whose pod is still there after so long did not happen. */
const DISRUPTED_MS = 120_000

/** How many pods a budget's pods should be; or why that cannot be said. */
export type Expected = { pods: number } | { problem: string }

/** What a budget's status should say of these pods, and when to look again at the latest. Pure. */
export function disruptionStatus(
  budget: PodDisruptionBudget,
  pods: readonly Pod[],
  expected: Expected,
  nowMs: number,
): { status: Omit<DisruptionStatus, 'conditions'>; reason: string; problem?: string; againMs?: number } {
  const disruptedPods: Record<string, string> = {}
  let againMs: number | undefined
  for (const pod of pods) {
    const { name = '', deletionTimestamp } = pod.metadata
    const granted = budget.status?.disruptedPods?.[name]
    const leftMs = (parseTime(granted) ?? 0) + DISRUPTED_MS - nowMs
    if (granted === undefined || deletionTimestamp !== undefined || leftMs <= 0) continue
    disruptedPods[name] = granted
    againMs = Math.min(againMs ?? Infinity, leftMs)
  }
  const healthy = pods.filter(
    (pod) =>
      isPodReady(pod) &&
      pod.metadata.deletionTimestamp === undefined &&
      disruptedPods[pod.metadata.name ?? ''] === undefined,
  )
  const counted = {
    observedGeneration: budget.metadata.generation ?? 0,
    disruptedPods,
    currentHealthy: healthy.length,
  }
  const again = againMs === undefined ? {} : { againMs }
  if ('problem' in expected) {
    const status = { ...counted, disruptionsAllowed: 0, desiredHealthy: 0, expectedPods: 0 }
    return { status, reason: 'SyncFailed', problem: expected.problem, ...again }
  }
  const expectedPods = expected.pods
  const desiredHealthy = desiredOf(budget, expectedPods)
  const disruptionsAllowed = expectedPods === 0 ? 0 : Math.max(0, healthy.length - desiredHealthy)
  const reason = disruptionsAllowed > 0 ? 'SufficientPods' : 'InsufficientPods'
  return { status: { ...counted, disruptionsAllowed, desiredHealthy, expectedPods }, reason, ...again }
}

/** Shares are rounded up: of minAvailable, and of maxUnavailable too (as Kubernetes has it). */
function desiredOf({ spec = {} }: PodDisruptionBudget, expected: number): number {
  const share = (amount: number | string) =>
    typeof amount === 'number' ? amount : Math.ceil((Number.parseInt(amount, 10) * expected) / 100)
  if (spec.maxUnavailable !== undefined) return Math.max(0, expected - share(spec.maxUnavailable))
  // Neither: one pod at least.
  return share(spec.minAvailable ?? 1)
}

/** A whole number of pods asks for nothing but the pods; a share, or a most that may be away, asks how many there should be. */
export const asksForScale = ({ spec = {} }: PodDisruptionBudget): boolean =>
  spec.maxUnavailable !== undefined || typeof spec.minAvailable === 'string'
