import type { FaultRecord, HistoryRecord, Recovery, RunRecord } from '../harness/types.js'

/** From when to when something was not as desired. `byChange`: the workload itself had just asked for something else. */
export interface Undesired {
  fromMs: number
  /** Missing: to the end. */
  toMs?: number
  why: string
  byChange?: boolean
}

const WRITES = new Set(['put', 'compareAndSet', 'append', 'add', 'create', 'update', 'patch'])

/**
 * How long after each fault took effect clients could write again and the desired state was there again. A fault is judged until
 * the next one takes effect: what had not come back by then is missing, not good.
 *
 * Desired state: of the time in which it was not there when the fault struck, or which began after it (but for times that began
 * with a change that the workload asked for), the end of the last one. It never went: 0.
 */
export function recoveries(run: Omit<RunRecord, 'verdict'>, undesired: readonly Undesired[] | undefined): Recovery[] {
  const writes = acknowledgedWrites(run.workloads.flatMap((workload) => workload.history))
  const ended = writes.map((write) => write.returnedMs)
  const made = run.faults.filter((fault) => fault.result === 'made' && fault.inForceMs !== undefined)
  const starts = made.map((fault) => fault.inForceMs as number).sort((a, b) => a - b)
  return made.map((fault) => {
    const inForceMs = fault.inForceMs as number
    const untilMs = starts.find((start) => start > inForceMs) ?? run.endedMs
    const recovery: Recovery = { index: fault.index, fault: fault.fault }
    if (writes.length > 0) {
      const first = firstAnswered(writes, inForceMs)
      if (first !== undefined && first <= untilMs) recovery.firstWriteMs = first - inForceMs
      // When all is healed and settles, writers end of their own accord.
      recovery.writeGapMs = longestGap(ended, fault, Math.max(inForceMs, Math.min(untilMs, run.healedMs)))
    }
    if (undesired) {
      const desired = desiredAt(undesired, inForceMs, untilMs)
      if (desired !== undefined) recovery.desiredStateMs = desired - inForceMs
    }
    return recovery
  })
}

interface Write {
  invokedMs: number
  returnedMs: number
}

/** In the order of their answers. */
function acknowledgedWrites(history: readonly HistoryRecord[]): Write[] {
  const writes: Write[] = []
  for (const { operation, outcome, invokedMs, returnedMs } of history)
    if (outcome === 'ok' && returnedMs !== undefined && WRITES.has(operation)) writes.push({ invokedMs, returnedMs })
  return writes.sort((a, b) => a.returnedMs - b.returnedMs)
}

/** The first answer to a write that was asked for at or after this instant. */
function firstAnswered(writes: readonly Write[], fromMs: number): number | undefined {
  for (let at = indexAfter(writes, fromMs); at < writes.length; at++) {
    const write = writes[at] as Write
    if (write.invokedMs >= fromMs) return write.returnedMs
  }
  return undefined
}

function indexAfter(writes: readonly { returnedMs: number }[], ms: number): number {
  let [low, high] = [0, writes.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((writes[middle] as { returnedMs: number }).returnedMs < ms) low = middle + 1
    else high = middle
  }
  return low
}

/**
 * The longest time without an acknowledged write between the fault and the next one. The fault struck somewhere between asking
 * for it and the proof: the gap begins with the last write before the proof, if that came after the asking.
 */
function longestGap(
  answers: readonly number[],
  { askedMs, inForceMs = askedMs }: FaultRecord,
  untilMs: number,
): number {
  let last = Math.max(askedMs, ...answers.filter((at) => at >= askedMs && at <= inForceMs).slice(-1))
  let gap = 0
  for (const at of answers) {
    if (at <= last) continue
    if (at > untilMs) break
    gap = Math.max(gap, at - last)
    last = at
  }
  return Math.max(gap, untilMs - last)
}

/** Undefined: it was not there again before `untilMs`. */
function desiredAt(undesired: readonly Undesired[], fromMs: number, untilMs: number): number | undefined {
  let at = fromMs
  for (const { fromMs: from, toMs: to, byChange } of undesired) {
    const isCaught = from <= fromMs ? (to ?? Number.POSITIVE_INFINITY) > fromMs : from < untilMs && !byChange
    if (!isCaught) continue
    if (to === undefined || to > untilMs) return undefined
    at = Math.max(at, to)
  }
  return at
}
