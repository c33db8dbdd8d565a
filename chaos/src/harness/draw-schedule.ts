import type { Random } from '@capstan/actor'
import { faultNamed } from './faults.js'
import type { FaultParameters, Json, Machine, Schedule, ScheduledFault } from './types.js'

/** A schedule written down. Times in ms after the warm-up. */
export const fixed = (
  ...faults: [atMs: number, fault: string, parameters: { [key: string]: Json }, lastsMs: number][]
): Schedule => ({
  formatVersion: 1,
  faults: faults.map(([atMs, fault, parameters, lastsMs]) => ({ atMs, fault, parameters, lastsMs })),
})

export interface DrawOptions {
  machines: readonly Machine[]
  troubleMs: number
  /** Names; one that is named twice is drawn twice as often. */
  faults: readonly string[]
  /** Between the beginnings of two faults. They may overlap. */
  everyMs: readonly [low: number, high: number]
  lastsMs: readonly [low: number, high: number]
  /** Never more than so many at once. Default 2. */
  atOnceMax?: number
  /** Instead of the faults' own way to draw what they strike. */
  draw?: (random: Random) => { fault: string; parameters: FaultParameters }
}

/** Faults one after another until the trouble is over, all of it from `random`. */
export function drawSchedule(random: Random, options: DrawOptions): Schedule {
  const { machines, troubleMs, faults, atOnceMax = 2 } = options
  const between = ([low, high]: readonly [number, number]) => Math.round(low + random.next() * (high - low))
  const drawn: ScheduledFault[] = []
  let atMs = between([0, options.everyMs[0]])
  while (atMs < troubleMs) {
    const name = faults[random.int(faults.length)] as string
    const lastsMs = Math.min(between(options.lastsMs), troubleMs - atMs)
    const own = random.fork(`${drawn.length}`)
    const one = options.draw?.(own) ?? { fault: name, parameters: faultNamed(name).draw(own, { machines }) }
    const inForce = drawn.filter((before) => before.atMs + before.lastsMs > atMs)
    if (inForce.length < atOnceMax) drawn.push({ atMs, ...one, lastsMs })
    atMs += between(options.everyMs)
  }
  return { formatVersion: 1, faults: drawn }
}

/** Schedules one after the other, each `periodMs` after the one before. */
export const oneAfterTheOther = (schedules: readonly Schedule[], periodMs: number): Schedule => ({
  formatVersion: 1,
  faults: schedules.flatMap(({ faults }, at) => faults.map((line) => ({ ...line, atMs: line.atMs + at * periodMs }))),
})

/** Reads a schedule, or the schedule of a run's record. @throws Error that says where it is wrong. */
export function readSchedule(json: unknown): Schedule {
  const record = json as { schedule?: Schedule; formatVersion?: number; faults?: unknown }
  const schedule = (record.schedule ?? record) as Schedule
  if (schedule.formatVersion !== 1)
    throw new Error(`schedule of format ${String(schedule.formatVersion)}; this version reads 1`)
  if (!Array.isArray(schedule.faults)) throw new Error('schedule.faults is no list')
  schedule.faults.forEach((one, at) => {
    const where = `schedule.faults[${at}]`
    faultNamed(one.fault)
    for (const key of ['atMs', 'lastsMs'] as const)
      if (!Number.isFinite(one[key]) || one[key] < 0) throw new Error(`${where}.${key} is no time: ${String(one[key])}`)
    if (typeof one.parameters !== 'object' || one.parameters === null)
      throw new Error(`${where}.parameters is no object`)
  })
  return { formatVersion: 1, faults: [...schedule.faults].sort((a, b) => a.atMs - b.atMs) }
}
