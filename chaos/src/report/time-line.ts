/**
 * The time line: rows that share one time axis. Shapes are SVG that is stretched to whatever width there is; words are HTML
 * beside and above them, so that they stay as large as they are on any screen.
 */
import type { FaultRecord } from '../harness/types.js'
import { roundUp, timeAxis, WIDTH, type X } from './axis.js'
import type { Lane, ReportModel } from './report-model.js'
import { clockFace, count, duration, escape, faultName, instant } from './text.js'

const FAULT_ROWS_MAX = 5
const FAULT_ROW = 18
const LANE = 15
const NODES_MAX = 8
const CHART = 84
/** Bands narrower than this, in thousandths of the width, bear no name of their own. */
const NAMED_FROM = 40

export function timeLine(model: ReportModel): string {
  const { x, ticks } = timeAxis(model.lastsMs)
  const { series } = model
  const bands = model.faults.filter((fault) => fault.inForceMs !== undefined)
  const behind = columns(bands, x, model.lastsMs)
  const chart = (title: string, note: string, body: Chart | undefined) =>
    body ? row(title, note, plot(CHART, grid(ticks) + behind + body.shapes) + scale(body), 'chart') : ''
  const rows = [
    row('', '', axis(ticks), 'axis'),
    row('Phase', '', phases(model, x), 'phases'),
    row('Faults', bands.length === 0 ? 'none was made' : '', faults(bands, x, model.lastsMs), 'faults'),
    lanes('Masters', model.masters, x, ticks, behind),
    lanes('Nodes', model.nodes.slice(0, NODES_MAX), x, ticks, behind),
    model.undesired === undefined ? '' : row('Desired state', '', undesired(model, x, ticks, behind), 'strip'),
    chart('Writes', 'acknowledged a second', areaChart([{ points: series.writes?.points, shape: 'area' }], x, model)),
    chart('Failed requests', 'a second', areaChart([{ points: series.failed?.points, shape: 'bad' }], x, model)),
    chart('Latency', 'line: median, dots: 99 %', logChart(series.median?.points, series.slow?.points, x, model)),
    chart(
      'Pods ready',
      'dashes: wanted',
      areaChart(
        [
          { points: series.ready?.points, shape: 'step' },
          { points: series.wanted?.points, shape: 'dashes' },
        ],
        x,
        model,
      ),
    ),
    series.answers?.points.some(([, value]) => value > 0)
      ? chart('Service', 'answers a second', areaChart([{ points: series.answers.points, shape: 'area' }], x, model))
      : '',
    row('', '', axis(ticks), 'axis'),
  ]
  return `<div class="timeline" role="group" aria-label="Time line of the run">${rows.join('\n')}</div>`
}

const row = (title: string, note: string, body: string, kind: string) =>
  body === ''
    ? ''
    : `<div class="row ${kind}"><div class="name">${escape(title)}${note ? `<span>${escape(note)}</span>` : ''}</div><div class="plot">${body}</div></div>`

const plot = (height: number, shapes: string) =>
  `<svg viewBox="0 0 ${WIDTH} ${height}" preserveAspectRatio="none" style="height:${height}px" aria-hidden="true">${shapes}</svg>`

const left = (at: number) => `left:${Math.round(at) / 10}%`

function axis(ticks: readonly { at: number; label: string }[]): string {
  return ticks.map(({ at, label }) => `<span class="tick" style="${left(at)}">${label}</span>`).join('')
}

const grid = (ticks: readonly { at: number }[]) =>
  ticks.map(({ at }) => `<path class="grid" d="M${at} 0V1000"/>`).join('')

const rect = (kind: string, from: number, to: number, y: number, height: number, title = '') =>
  `<rect class="${kind}" x="${from}" y="${y}" width="${Math.max(to - from, 1).toFixed(2)}" height="${height}">${title ? `<title>${escape(title)}</title>` : ''}</rect>`

/** While a fault is in force, behind every row. Overlapping ones make one column. */
function columns(bands: readonly FaultRecord[], x: X, lastsMs: number): string {
  const spans = bands
    .map(({ inForceMs = 0, undoneMs = lastsMs }) => [inForceMs, undoneMs] as [number, number])
    .sort((a, b) => a[0] - b[0])
  const joined: [number, number][] = []
  for (const [from, to] of spans) {
    const last = joined.at(-1)
    if (last && from <= last[1]) last[1] = Math.max(last[1], to)
    else joined.push([from, to])
  }
  return joined.map(([from, to]) => rect('column', x(from), x(to), 0, 1000)).join('')
}

function phases({ phases: all }: ReportModel, x: X): string {
  return all
    .map(({ name, fromMs, toMs }) => {
      const [from, to] = [x(fromMs), x(toMs)]
      const text = to - from < 60 ? '' : escape(name)
      const title = `${name}: ${clockFace(fromMs)} to ${clockFace(toMs)}`
      return `<span class="phase" style="${left(from)};width:${(to - from) / 10}%" title="${escape(title)}">${text}</span>`
    })
    .join('')
}

/** In as many rows as it takes for none to overlap, within a bound: beyond it they share the last one. */
function faults(bands: readonly FaultRecord[], x: X, lastsMs: number): string {
  if (bands.length === 0) return '<span class="none"></span>'
  const ends: number[] = []
  const placed = bands.map((fault) => {
    const from = x(fault.askedMs)
    const to = Math.max(x(fault.undoneMs ?? lastsMs), from + 3)
    const free = ends.findIndex((end) => end <= from)
    const at = free >= 0 ? free : Math.min(ends.length, FAULT_ROWS_MAX - 1)
    ends[at] = Math.max(ends[at] ?? 0, to)
    return { fault, from, to, at }
  })
  const height = ends.length * FAULT_ROW
  const html = placed.map(({ fault, from, to, at }) => {
    const { inForceMs = fault.askedMs, undoAskedMs = fault.undoneMs ?? lastsMs, struck } = fault
    const name = faultName(fault.fault, fault.parameters)
    const title = `${name}: asked for at ${instant(fault.askedMs)}, in force ${instant(inForceMs)} to ${instant(undoAskedMs)}${fault.undoneMs === undefined ? '' : `, undone ${instant(fault.undoneMs)}`}; struck ${struck.join(', ')}`
    const share = (ms: number) => ((x(ms) - from) / (to - from)) * 100
    const fill = `linear-gradient(90deg,var(--fault-soft) ${share(inForceMs)}%,var(--fault) 0 ${share(undoAskedMs)}%,var(--fault-soft) 0)`
    const next = placed.find((other) => other.at === at && other.from >= to)
    const room = (next?.from ?? WIDTH) - to
    const isBeside = to - from < name.length * 5 && room >= name.length * 6.5
    const label = isBeside || to - from < NAMED_FROM ? '' : escape(name)
    const outside = isBeside
      ? `<span class="beside" style="${left(to)};width:${room / 10}%;top:${at * FAULT_ROW}px" aria-hidden="true">${escape(name)}</span>`
      : ''
    return `<a class="fault" href="#fault-${fault.index}" style="${left(from)};width:${(to - from) / 10}%;top:${at * FAULT_ROW}px;background:${fill}" title="${escape(title)}" aria-label="${escape(title)}">${label}</a>${outside}`
  })
  return `<div style="height:${height}px">${html.join('')}</div>`
}

function lanes(title: string, all: readonly Lane[], x: X, ticks: readonly { at: number }[], behind: string): string {
  if (all.length === 0) return ''
  const labels: string[] = []
  const shapes = all.flatMap(({ name, spans }, at) =>
    spans.map(({ fromMs, toMs, state, term }) => {
      const [from, to] = [x(fromMs), x(toMs)]
      const text = `${name} ${state === 'leader' ? `leads in term ${term ?? '?'}` : state === 'up' ? 'is up' : 'is down'}: ${clockFace(fromMs)} to ${clockFace(toMs)}`
      const middle = at * LANE + LANE / 2
      if (state === 'leader' && term !== undefined && to - from >= 20)
        labels.push(`<span class="term" style="${left(from)};top:${at * LANE}px">${term}</span>`)
      if (state === 'leader') return rect('leads', from, to, middle - 5, 10, text)
      if (state === 'up') return rect('up', from, to, middle - 1, 2, text)
      return rect('down', from, to, middle - 3, 6, text)
    }),
  )
  const names = all.map(({ name }, at) => `<i style="top:${at * LANE}px">${escape(name)}</i>`).join('')
  const height = all.length * LANE
  return `<div class="row lanes"><div class="name">${escape(title)}<div class="members" style="height:${height}px">${names}</div></div><div class="plot">${plot(height, grid(ticks) + behind + shapes.join(''))}${labels.join('')}</div></div>`
}

function undesired(model: ReportModel, x: X, ticks: readonly { at: number }[], behind: string): string {
  const spans = (model.undesired ?? []).map(({ fromMs, toMs = model.lastsMs, why, byChange }) =>
    rect(
      byChange ? 'missing changed' : 'missing',
      x(fromMs),
      x(toMs),
      4,
      10,
      `${instant(fromMs)} to ${instant(toMs)} (${duration(toMs - fromMs)})${byChange ? ', after a change that was asked for' : ''}: ${why}`,
    ),
  )
  return plot(18, grid(ticks) + behind + spans.join(''))
}

// -------------------------------------------------------------------------------------------------------------- charts

interface Chart {
  shapes: string
  /** Words beside the axis: how far from the top, and what. */
  marks: { y: number; label: string }[]
}

type Points = readonly (readonly [number, number])[] | undefined

const scale = ({ marks }: Chart) =>
  marks.map(({ y, label }) => `<span class="mark" style="top:${y}px">${label}</span>`).join('')

const TOP = 18
/** A sample may be late: only after so many bins without one nobody knows. */
const HOLE = 3.5

function areaChart(
  layers: readonly { points: Points; shape: 'area' | 'bad' | 'step' | 'dashes' }[],
  x: X,
  { lastsMs }: ReportModel,
): Chart | undefined {
  const all = layers.flatMap(({ points }) => points ?? [])
  if (all.length === 0) return undefined
  const most = roundUp(Math.max(...all.map(([, value]) => value)))
  const y = (value: number) => round(CHART - (value / most) * (CHART - TOP))
  const shapes = layers.map(({ points = [], shape }) => {
    const isLine = shape === 'step' || shape === 'dashes'
    const steps = stepPath(points, x, y, lastsMs, isLine ? '' : `V${CHART}`)
    if (shape === 'dashes') return `<path class="dashes" d="${steps}"/>`
    if (shape === 'step') return `<path class="step" d="${steps}"/>`
    const [first] = points
    const closed = first ? `${steps}V${CHART}H${x(first[0])}Z` : ''
    return `<path class="${shape}" d="${closed}"/>`
  })
  const half = most / 2
  return {
    shapes: `<path class="grid" d="M0 ${y(most)}H${WIDTH}M0 ${y(half)}H${WIDTH}"/>${shapes.join('')}`,
    marks: [
      { y: y(most), label: figure(most) },
      { y: y(half), label: figure(half) },
      { y: CHART, label: '0' },
    ],
  }
}

/** A figure holds until the next one, or for some bins; over a longer hole the line is lifted (`close`: what ends it first). */
function stepPath(
  points: NonNullable<Points>,
  x: X,
  y: (value: number) => number,
  lastsMs: number,
  close: string,
): string {
  const width = binWidth(points)
  let path = ''
  points.forEach(([atMs, value], at) => {
    const before = points[at - 1]
    const joins = before !== undefined && atMs - before[0] <= width * HOLE
    path += `${joins ? 'V' : `${path === '' ? 'M' : `${close}M`}${x(atMs)} `}${y(value)}H${x(Math.min(atMs + width, lastsMs))}`
  })
  return path
}

function binWidth(points: NonNullable<Points>): number {
  const gaps = points.slice(1).map(([atMs], at) => atMs - (points[at] as readonly [number, number])[0])
  return gaps.length === 0 ? 1000 : Math.max(1000, Math.min(...gaps))
}

/** Latencies from 1 ms to what there is, each decade as high as the next. */
function logChart(medians: Points, slow: Points, x: X, { lastsMs }: ReportModel): Chart | undefined {
  const all = [...(medians ?? []), ...(slow ?? [])].map(([, value]) => value)
  if (all.length === 0 || !medians) return undefined
  const top = Math.max(2, Math.ceil(Math.log10(Math.max(...all, 1))))
  const y = (ms: number) => round(CHART - (Math.max(0, Math.log10(Math.max(ms, 1))) / top) * (CHART - TOP))
  const width = binWidth(medians)
  let path = ''
  medians.forEach(([atMs, value], at) => {
    const before = medians[at - 1]
    const joins = before !== undefined && atMs - before[0] <= width * HOLE
    path += `${joins ? 'L' : 'M'}${x(Math.min(atMs + width / 2, lastsMs))} ${y(value)}`
  })
  const dots = (slow ?? []).map(([atMs, value]) => `M${x(Math.min(atMs + width / 2, lastsMs))} ${y(value)}h0`).join('')
  const decades = Array.from({ length: top + 1 }, (_, power) => 10 ** power)
  return {
    shapes: `<path class="grid" d="${decades.map((ms) => `M0 ${y(ms)}H${WIDTH}`).join('')}"/><path class="dots" d="${dots}"/><path class="line" d="${path}"/>`,
    marks: decades.map((ms) => ({ y: y(ms), label: ms < 1000 ? `${ms} ms` : `${ms / 1000} s` })),
  }
}

const figure = (value: number) => (value >= 10 || Number.isInteger(value) ? count(value) : String(round(value)))
const round = (value: number) => Math.round(value * 100) / 100
