/** The least that can be said of a run: acknowledged creations are there through every endpoint; recovery times. */
import type { Judge, PromiseVerdict, Recovery, RunRecord } from './types.js'

export const simpleJudge: Judge = (run) => {
  const promises = [durability(run), convergence(run)]
  const state = promises.some((one) => one.state === 'violated')
    ? 'violated'
    : promises.every((one) => one.state === 'ok')
      ? 'ok'
      : 'unknown'
  const records = run.workloads.flatMap((workload) => workload.history)
  const failed = records.filter((record) => record.outcome !== 'ok').length
  return { state, promises, recoveries: recoveries(run), requests: { total: records.length, failed } }
}

function durability(run: Parameters<Judge>[0]): PromiseVerdict {
  const created = run.workloads
    .flatMap((workload) => workload.history)
    .filter((record) => record.operation === 'create' && record.outcome === 'ok')
  const evidence: string[] = []
  for (const { endpoint, objects } of run.finalState.objects) {
    const keys = new Set(objects.map(({ key }) => key))
    for (const record of created)
      if (!keys.has(record.key))
        evidence.push(
          `${record.key} was acknowledged by ${record.endpoint} at revision ${record.revision} and is not seen through ${endpoint}`,
        )
  }
  const seen = run.finalState.objects.length
  const state = evidence.length > 0 ? 'violated' : seen > 0 && created.length > 0 ? 'ok' : 'unknown'
  const text =
    state === 'violated'
      ? `${evidence.length} acknowledged creations are missing`
      : `${created.length} acknowledged creations, all there through ${seen} endpoints`
  return { promise: 'S1', state, text, evidence }
}

function convergence(run: Parameters<Judge>[0]): PromiseVerdict {
  const last = run.samples.at(-1)
  const down = (last?.nodes ?? []).filter((node) => !node.ready).map((node) => `node ${node.name} is not Ready`)
  const evidence = [...(last?.undesired === undefined ? [] : [last.undesired]), ...down]
  if (!last) return { promise: 'C1', state: 'unknown', text: 'nobody looked', evidence }
  return evidence.length > 0
    ? {
        promise: 'C1',
        state: 'violated',
        text: `not as desired ${((last.atMs - run.healedMs) / 1000).toFixed(1)} s after the last fault`,
        evidence,
      }
    : { promise: 'C1', state: 'ok', text: 'as desired after the last fault', evidence }
}

/** Of each fault that took effect, until the next one did. */
export function recoveries(run: Pick<RunRecord, 'faults' | 'workloads' | 'samples' | 'endedMs'>): Recovery[] {
  const made = run.faults
    .filter((fault) => fault.inForceMs !== undefined)
    .sort((a, b) => (a.askedMs ?? 0) - (b.askedMs ?? 0))
  const writes = run.workloads
    .flatMap((workload) => workload.history)
    .filter((record) => record.outcome === 'ok' && record.revision !== undefined && record.returnedMs !== undefined)
    .sort((a, b) => (a.returnedMs as number) - (b.returnedMs as number))
  return made.map((fault, at) => {
    const fromMs = fault.askedMs
    const untilMs = made[at + 1]?.askedMs ?? run.endedMs
    const within = writes.filter(({ returnedMs = 0 }) => returnedMs >= fromMs && returnedMs < untilMs)
    const first = within.find((record) => record.invokedMs >= fromMs)
    let gap = 0
    let last = fromMs
    for (const { returnedMs = 0 } of within) {
      gap = Math.max(gap, returnedMs - last)
      last = returnedMs
    }
    const undesired = run.samples.filter(
      (one) => one.atMs >= fromMs && one.atMs < untilMs && one.undesired !== undefined,
    )
    const desired = run.samples.find((one) => one.atMs > (undesired.at(-1)?.atMs ?? fromMs) && one.atMs < untilMs)
    return {
      index: fault.index,
      fault: fault.fault,
      ...(first ? { firstWriteMs: (first.returnedMs as number) - fromMs, writeGapMs: gap } : {}),
      ...(desired ? { desiredStateMs: undesired.length === 0 ? 0 : desired.atMs - fromMs } : {}),
    }
  })
}
