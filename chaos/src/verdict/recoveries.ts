import type { FaultRecord, HistoryRecord, Recovery, RunRecord } from '../harness/types.js'
import { LOCKS, type LookoutMore } from '../workloads/lookout-workload.js'

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
export function recoveries(
  run: Omit<RunRecord, 'verdict'>,
  undesired: readonly Undesired[] | undefined,
  short?: readonly Undesired[],
): Recovery[] {
  const lookout = run.workloads.find(({ workload }) => workload === 'lookout')?.more as unknown as
    | LookoutMore
    | undefined
  const nodes = new Set(run.machines.filter(({ role }) => role === 'node').map(({ name }) => name))
  const history = run.workloads.flatMap((workload) => workload.history)
  const writes = acknowledgedWrites(history)
  const isSteady = writesAllTheTime(history, run)
  const ended = writes.map((write) => write.returnedMs)
  const made = run.faults.filter((fault) => fault.result === 'made' && fault.inForceMs !== undefined)
  const starts = made.map((fault) => fault.inForceMs as number).sort((a, b) => a - b)
  return made.map((fault) => {
    const inForceMs = fault.inForceMs as number
    const untilMs = starts.find((start) => start > inForceMs) ?? run.endedMs
    const recovery: Recovery = { index: fault.index, fault: fault.fault }
    if (isSteady) {
      const first = firstAnswered(writes, inForceMs)
      recovery.firstWriteMs = first !== undefined && first <= untilMs ? first - inForceMs : null
      // When all is healed and settles, writers end of their own accord.
      recovery.writeGapMs = longestGap(ended, fault, Math.max(inForceMs, Math.min(untilMs, run.healedMs)))
    }
    if (undesired) {
      const desired = desiredAt(undesired, inForceMs, untilMs)
      if (desired !== undefined) recovery.desiredStateMs = desired - inForceMs
    }
    if (silences(fault)) {
      const { askedMs, struck } = fault
      const awayMs = Math.min(untilMs, fault.undoAskedMs ?? run.endedMs)
      const away = struck.filter((one) => nodes.has(one))
      const set = (name: 'takeOverMs' | 'markedMs' | 'replacedMs', atMs: number | undefined) => {
        if (atMs !== undefined && atMs <= awayMs) recovery[name] = atMs - askedMs
        else if (awayMs - askedMs >= EXPECTED_WITHIN_MS[name]) recovery[name] = null
      }
      if (lookout && holds(lookout, struck, askedMs)) set('takeOverMs', takenAt(lookout, struck, askedMs))
      if (lookout && away.length > 0) set('markedMs', markedAt(lookout, away, askedMs))
      if (short && away.length > 0 && short.some((span) => isCaught(span, askedMs, awayMs)))
        set('replacedMs', desiredAt(short, askedMs, awayMs))
    }
    return recovery
  })
}

/** Of the seconds of trouble, in so many a write is under way with those who write all the time. */
const STEADY_SHARE = 0.7
/** A fault that ends sooner asks nothing. */
const EXPECTED_WITHIN_MS = { takeOverMs: 2000, markedMs: 5000, replacedMs: 10_000 }

/** Nothing of a machine's own process can be heard while it lasts. */
function silences({ fault, parameters }: FaultRecord): boolean {
  const component = parameters['component'] ?? 'machine'
  return (
    fault === 'isolate' ||
    ((fault === 'kill' || fault === 'hang') && ['machine', 'control', 'kubelet', 'group'].includes(String(component)))
  )
}

const masterOf = (holder: string) => holder.split('_')[0] as string

function locksOf({ locks }: LookoutMore, struck: readonly string[], ms: number): { lock: string; holder: string }[] {
  return LOCKS.flatMap((lock) => {
    const held = locks.findLast((one) => one.lock === lock && one.atMs <= ms)
    return held && struck.includes(masterOf(held.holder)) ? [held] : []
  })
}

const holds = (lookout: LookoutMore, struck: readonly string[], ms: number) => locksOf(lookout, struck, ms).length > 0

/** When the last of the locks that the struck masters held had a new holder; undefined: not all of them. */
function takenAt(lookout: LookoutMore, struck: readonly string[], ms: number): number | undefined {
  const taken = locksOf(lookout, struck, ms).map(
    ({ lock, holder }) =>
      lookout.locks.find((one) => one.lock === lock && one.atMs > ms && one.holder !== holder)?.atMs ?? Infinity,
  )
  return last(taken)
}

/** When the last of the nodes was not Ready; undefined: not all of them. */
function markedAt({ nodes }: LookoutMore, away: readonly string[], ms: number): number | undefined {
  return last(
    away.map((node) => {
      const before = nodes.findLast((one) => one.node === node && one.atMs <= ms)
      if (before && !before.isReady) return ms
      return nodes.find((one) => one.node === node && one.atMs > ms && !one.isReady)?.atMs ?? Infinity
    }),
  )
}

function last(times: readonly number[]): number | undefined {
  const latest = Math.max(...times)
  return Number.isFinite(latest) ? latest : undefined
}

/** A pause of writers that write now and then is not the fault's: they tell nothing of how soon writes went on. */
function writesAllTheTime(history: readonly HistoryRecord[], run: Omit<RunRecord, 'verdict'>): boolean {
  const fromMs = Math.min(...run.faults.map(({ askedMs }) => askedMs))
  const seconds = Math.floor((run.healedMs - fromMs) / 1000)
  if (seconds < 1) return history.some(({ operation }) => WRITES.has(operation))
  const asked = new Set<number>()
  for (const { operation, invokedMs, returnedMs = invokedMs } of history)
    if (WRITES.has(operation))
      for (let at = Math.floor((invokedMs - fromMs) / 1000); at <= Math.floor((returnedMs - fromMs) / 1000); at++)
        if (at >= 0 && at < seconds) asked.add(at)
  return asked.size >= STEADY_SHARE * seconds
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
  for (const span of undesired) {
    if (!isCaught(span, fromMs, untilMs)) continue
    if (span.toMs === undefined || span.toMs > untilMs) return undefined
    at = Math.max(at, span.toMs)
  }
  return at
}

/** Whether the fault is why: it was so when the fault struck, or became so later and not by a change. */
function isCaught(
  { fromMs: from, toMs: to = Number.POSITIVE_INFINITY, byChange }: Undesired,
  ms: number,
  untilMs: number,
) {
  return from <= ms ? to > ms : from < untilMs && !byChange
}
