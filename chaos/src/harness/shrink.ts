import type { Schedule, ScheduledFault } from './types.js'

export interface Shrunk {
  schedule: Schedule
  runs: number
  /** False: the bound was reached, or it was interrupted; it may be possible with fewer. */
  isMinimal: boolean
}

/**
 * The fewest faults that still fail: delta debugging (Zeller, ddmin), which ends with a schedule of which no single fault can
 * be left out. `fails` plays a schedule and says whether the same promise is violated. On real processes a failure may come
 * and go: ask again inside `fails`, and take the most of `runsMax`, since each run costs its time.
 */
export async function shrinkSchedule(
  schedule: Schedule,
  fails: (schedule: Schedule) => Promise<boolean>,
  options: { runsMax?: number; signal?: AbortSignal } = {},
): Promise<Shrunk> {
  const { runsMax = 64, signal } = options
  const isSpent = () => runs >= runsMax || signal?.aborted === true
  let runs = 0
  let left = schedule.faults
  const stillFails = async (faults: readonly ScheduledFault[]) => {
    runs++
    return fails({ formatVersion: 1, faults: [...faults] })
  }
  const done = (isMinimal: boolean): Shrunk => ({ schedule: { formatVersion: 1, faults: left }, runs, isMinimal })
  // What fails without any fault is no matter of faults.
  if (left.length > 0 && !isSpent() && (await stillFails([]))) {
    left = []
    return done(true)
  }
  let parts = 2
  while (left.length >= 2) {
    const size = Math.ceil(left.length / parts)
    const chunks = Array.from({ length: Math.ceil(left.length / size) }, (_, at) =>
      left.slice(at * size, (at + 1) * size),
    )
    let smaller: readonly ScheduledFault[] | undefined
    // First each part alone, then all but one part.
    const candidates = [
      ...chunks,
      ...(chunks.length > 2 ? chunks.map((chunk) => left.filter((one) => !chunk.includes(one))) : []),
    ]
    for (const candidate of candidates) {
      if (isSpent()) return done(false)
      if (await stillFails(candidate)) {
        smaller = candidate
        break
      }
    }
    if (smaller) {
      parts = smaller.length < left.length / 2 + 1 ? 2 : Math.max(2, parts - 1)
      left = [...smaller]
    } else if (isSpent()) return done(false)
    else if (parts < left.length) parts = Math.min(left.length, parts * 2)
    else return done(true)
  }
  return done(signal?.aborted !== true)
}
