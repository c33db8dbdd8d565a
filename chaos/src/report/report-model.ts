import type { FaultRecord, Json, PromiseVerdict, Recovery, RunRecord, Sample, Series } from '../harness/types.js'
import { PROMISES, undesiredOf } from '../verdict/judge.js'
import type { Undesired } from '../verdict/recoveries.js'
import { SERIES } from '../workloads/recording.js'

/** All that the page shows, and its JSON twin: figures, no histories. Times in ms since the run began. */
export interface ReportModel {
  formatVersion: 1
  scenario: string
  about: string
  state: string
  on: string
  target: string
  seed: string
  startedAt: string
  lastsMs: number
  environment: Record<string, string>
  phases: { name: string; fromMs: number; toMs: number }[]
  faults: FaultRecord[]
  /** Each master over time; `term` only while it leads. */
  masters: Lane[]
  nodes: Lane[]
  undesired: Undesired[] | undefined
  /** Binned: at most `POINTS_MAX` points each. */
  series: Partial<Record<keyof typeof SERIES, Series>>
  latency: { reads: Histogram; writes: Histogram }
  promises: (PromiseVerdict & { title: string; mustHold: boolean })[]
  recoveries: Recovery[]
  requests: RunRecord['verdict']['requests']
  workloads: { name: string; counters: Record<string, number> }[]
  notTested: { what: string; why: string }[]
  troubles: string[]
  lacks: string[]
  /** Resident memory of processes at the first and at the last sample, bytes. */
  memory: { process: string; firstBytes: number; lastBytes: number; mostBytes: number }[]
}

export interface Lane {
  name: string
  spans: { fromMs: number; toMs: number; state: 'leader' | 'up' | 'down'; term?: number }[]
}

/** Counts by powers of ten in five steps: bucket n holds `10 ** (n / 5)` up to `10 ** ((n + 1) / 5)` ms. */
export interface Histogram {
  firstBucket: number
  counts: number[]
  count: number
  medianMs: number
  p99Ms: number
  worstMs: number
}

export const BUCKETS_PER_DECADE = 5
const POINTS_MAX = 480
const BIN_WIDTHS_MS = [1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000]
/** A sample stands for the time until the next one; after a longer gap nobody knows. */
const SAMPLE_LASTS_MS = 5000

export function reportModel(record: RunRecord): ReportModel {
  const run = sinceItBegan(record)
  const { verdict } = run
  const series = (name: string, how: Combine) => binned(sumOf(run, name), run.endedMs, how)
  const models: ReportModel['series'] = {}
  for (const [key, how] of Object.entries(COMBINE) as [keyof typeof SERIES, Combine][]) {
    const made = series(SERIES[key], how)
    if (made) models[key] = made
  }
  return {
    formatVersion: 1,
    scenario: run.scenario,
    about: run.about,
    state: verdict.state,
    on: run.on,
    target: run.target,
    seed: run.seed,
    startedAt: run.startedAt,
    lastsMs: run.endedMs,
    environment: run.environment,
    phases: phasesOf(run),
    faults: run.faults,
    masters: lanes(run.samples, run.endedMs, (sample) =>
      sample.masters.map(({ name, up, role }) => ({
        name,
        state: !up || role === 'down' ? 'down' : role === 'leader' || name === sample.leader ? 'leader' : 'up',
        term: sample.term,
      })),
    ),
    nodes: lanes(run.samples, run.endedMs, (sample) =>
      sample.nodes.map(({ name, ready }) => ({ name, state: ready ? 'up' : 'down', term: undefined })),
    ),
    undesired: undesiredOf(run),
    series: models,
    latency: latencies(run),
    promises: verdict.promises.map((promise) => ({
      ...promise,
      title: PROMISES[promise.promise] ?? '',
      mustHold: run.mustHold.includes(promise.promise),
    })),
    recoveries: verdict.recoveries,
    requests: verdict.requests,
    workloads: run.workloads.map(({ workload, counters }) => ({ name: workload, counters })),
    notTested: run.notTested,
    troubles: run.troubles,
    lacks: run.finalState.lacks,
    memory: memoryOf(run.samples),
  }
}

/** The first sample is at 0: the clock of a target may have begun with an earlier run, and workloads take their time to start. */
function sinceItBegan(run: RunRecord): RunRecord {
  const offset = Math.min(run.samples[0]?.atMs ?? run.faults[0]?.askedMs ?? 0, run.faults[0]?.askedMs ?? run.healedMs)
  if (offset < 1000) return run
  const less = <T extends object>(object: T, names: readonly (keyof T)[]): T => {
    const moved = { ...object }
    for (const name of names) if (typeof moved[name] === 'number') (moved[name] as number) -= offset
    return moved
  }
  return {
    ...less(run, ['healedMs', 'endedMs']),
    faults: run.faults.map((fault) => less(fault, ['askedMs', 'inForceMs', 'undoAskedMs', 'undoneMs'])),
    samples: run.samples.map((sample) => less(sample, ['atMs'])),
    workloads: run.workloads.map((workload) => ({
      ...workload,
      series: workload.series.map((series) => ({
        ...series,
        points: series.points
          .map(([atMs, value]): [number, number] => [atMs - offset, value])
          .filter(([atMs]) => atMs >= 0),
      })),
      more: movedUndesired(workload.more, offset),
    })),
  }
}

function movedUndesired(more: Json | undefined, offset: number): Json {
  const { undesired, ...rest } = (more ?? {}) as { undesired?: { fromMs: number; toMs?: number }[] }
  if (!undesired) return more ?? null
  const moved = undesired.map((span) => ({
    ...span,
    fromMs: span.fromMs - offset,
    ...(span.toMs === undefined ? {} : { toMs: span.toMs - offset }),
  }))
  return { ...rest, undesired: moved }
}

function phasesOf({ warmUpMs, troubleMs, healedMs, endedMs, faults, samples }: RunRecord): ReportModel['phases'] {
  // When the warm-up began is not recorded: samples begin with it.
  const beganMs = Math.min(samples[0]?.atMs ?? 0, faults[0]?.askedMs ?? Number.POSITIVE_INFINITY)
  const troubleFromMs = Math.min(beganMs + warmUpMs, healedMs)
  const troubleToMs = Math.min(troubleFromMs + troubleMs, healedMs)
  return [
    { name: 'start', fromMs: 0, toMs: beganMs },
    { name: 'warm-up', fromMs: beganMs, toMs: troubleFromMs },
    { name: 'trouble', fromMs: troubleFromMs, toMs: troubleToMs },
    { name: 'healing', fromMs: troubleToMs, toMs: healedMs },
    { name: 'settling', fromMs: healedMs, toMs: endedMs },
  ].filter(({ fromMs, toMs }) => toMs > fromMs)
}

function lanes(
  samples: readonly Sample[],
  endedMs: number,
  of: (sample: Sample) => { name: string; state: Lane['spans'][0]['state']; term: number | undefined }[],
): Lane[] {
  const found = new Map<string, Lane>()
  samples.forEach((sample, at) => {
    const toMs = Math.min(samples[at + 1]?.atMs ?? endedMs, sample.atMs + SAMPLE_LASTS_MS)
    for (const { name, state, term } of of(sample)) {
      const lane = found.get(name) ?? { name, spans: [] }
      found.set(name, lane)
      const ownTerm = state === 'leader' ? term : undefined
      const last = lane.spans.at(-1)
      if (last && last.state === state && last.term === ownTerm && sample.atMs - last.toMs < SAMPLE_LASTS_MS)
        last.toMs = toMs
      else lane.spans.push({ fromMs: sample.atMs, toMs, state, ...(ownTerm === undefined ? {} : { term: ownTerm }) })
    }
  })
  return [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
}

// -------------------------------------------------------------------------------------------------------------- series

/** How several workloads' figures of one second become one, and several seconds' one bin. */
interface Combine {
  across: 'sum' | 'most'
  along: 'mean' | 'most' | 'least'
}
const COMBINE: Readonly<Record<keyof typeof SERIES, Combine>> = {
  writes: { across: 'sum', along: 'mean' },
  failed: { across: 'sum', along: 'mean' },
  median: { across: 'most', along: 'mean' },
  slow: { across: 'most', along: 'most' },
  // A dip is what one looks for.
  ready: { across: 'sum', along: 'least' },
  wanted: { across: 'sum', along: 'most' },
  answers: { across: 'sum', along: 'mean' },
}

function sumOf({ workloads }: RunRecord, name: string): Series[] {
  return workloads.flatMap((workload) => workload.series.filter((one) => one.name === name))
}

function binned(all: readonly Series[], endedMs: number, { across, along }: Combine): Series | undefined {
  const [first] = all
  if (!first) return undefined
  const widthMs = BIN_WIDTHS_MS.find((width) => endedMs / width <= POINTS_MAX) ?? endedMs / POINTS_MAX
  // One figure for each second, then one for each bin.
  const seconds = new Map<number, number>()
  for (const { points } of all)
    for (const [atMs, value] of points) {
      const second = Math.floor(atMs / 1000)
      const before = seconds.get(second)
      seconds.set(second, before === undefined ? value : across === 'sum' ? before + value : Math.max(before, value))
    }
  const bins = new Map<number, number[]>()
  for (const [second, value] of [...seconds].sort(([a], [b]) => a - b)) {
    const bin = Math.floor((second * 1000) / widthMs)
    bins.set(bin, [...(bins.get(bin) ?? []), value])
  }
  const combine = (values: number[]) =>
    along === 'mean'
      ? values.reduce((sum, value) => sum + value, 0) / values.length
      : along === 'most'
        ? Math.max(...values)
        : Math.min(...values)
  const points = [...bins].map(([bin, values]): [number, number] => [bin * widthMs, round(combine(values))])
  return { name: first.name, unit: first.unit, points }
}

const round = (value: number) => Math.round(value * 100) / 100

// ------------------------------------------------------------------------------------------------------------- latency

const READS = new Set(['get', 'list', 'range'])

function latencies({ workloads }: RunRecord): ReportModel['latency'] {
  const [reads, writes]: [number[], number[]] = [[], []]
  for (const { history } of workloads)
    for (const { operation, outcome, invokedMs, returnedMs } of history)
      if (outcome === 'ok' && returnedMs !== undefined)
        (READS.has(operation) ? reads : writes).push(returnedMs - invokedMs)
  return { reads: histogram(reads), writes: histogram(writes) }
}

export function histogram(values: number[]): Histogram {
  const sorted = values.sort((a, b) => a - b)
  const at = (share: number) => round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0)
  const bucketOf = (ms: number) => Math.floor(Math.log10(Math.max(ms, 0.1)) * BUCKETS_PER_DECADE + 1e-9)
  const figures = { count: sorted.length, medianMs: at(0.5), p99Ms: at(0.99), worstMs: at(1) }
  const [first, last] = [sorted[0], sorted.at(-1)]
  if (first === undefined || last === undefined) return { firstBucket: 0, counts: [], ...figures }
  const firstBucket = bucketOf(first)
  const counts = Array.from({ length: bucketOf(last) - firstBucket + 1 }, () => 0)
  for (const ms of sorted) counts[bucketOf(ms) - firstBucket] = (counts[bucketOf(ms) - firstBucket] ?? 0) + 1
  return { firstBucket, counts, ...figures }
}

function memoryOf(samples: readonly Sample[]): ReportModel['memory'] {
  const found = new Map<string, ReportModel['memory'][0]>()
  for (const { memory } of samples)
    for (const [process, bytes] of Object.entries(memory ?? {})) {
      const one = found.get(process) ?? { process, firstBytes: bytes, lastBytes: bytes, mostBytes: bytes }
      found.set(process, { ...one, lastBytes: bytes, mostBytes: Math.max(one.mostBytes, bytes) })
    }
  return [...found.values()].sort((a, b) => (a.process < b.process ? -1 : 1))
}
