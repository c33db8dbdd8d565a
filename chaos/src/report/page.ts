import type { PromiseState } from '../harness/types.js'
import { BUCKETS_PER_DECADE, type Histogram, type ReportModel } from './report-model.js'
import { STYLE } from './style.js'
import { bytes, count, duration, escape, faultName, instant, median, percent } from './text.js'
import { timeLine } from './time-line.js'

/** Faults and recoveries listed one by one; beyond it they are folded away under their summary. */
const LISTED_MAX = 24

/** The whole report of one run: nothing is loaded from anywhere. */
export function reportPage(model: ReportModel): string {
  return document(
    `${model.scenario}: ${model.state}`,
    `${head(model)}
${verdicts(model)}
<section aria-labelledby="time-line"><h2 id="time-line">Time line</h2>
${timeLine(model)}
${legend(model)}</section>
${recoveryTable(model)}
${latency(model)}
${faultTable(model)}
${notTested(model)}
${rest(model)}
<footer>Written by <code>capstan chaos</code>; the same in figures: <code>report.json</code>, for CI: <code>junit.xml</code>, everything that was recorded: <code>run.json</code>.</footer>`,
  )
}

export function document(title: string, body: string): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>${escape(title)}</title><style>${STYLE}</style></head>
<body><main>
${body}
</main></body></html>
`
}

const stateClass = (state: string) => `is-${state.replace(' ', '-')}`
/** Never by colour alone. */
const SIGNS: Readonly<Record<string, string>> = { ok: '✓', violated: '✗', unknown: '?', 'not tested': '–' }
export const sign = (state: PromiseState | string) =>
  `<span class="${stateClass(state)}">${SIGNS[state] ?? ''}&nbsp;${escape(state)}</span>`

function head(model: ReportModel): string {
  const { requests, recoveries, faults } = model
  const made = faults.filter((fault) => fault.result === 'made').length
  const worst = (of: (one: ReportModel['recoveries'][0]) => number | undefined) => {
    const values = recoveries.map(of)
    return values.length === 0
      ? '–'
      : values.includes(undefined)
        ? 'not reached'
        : duration(Math.max(...(values as number[])))
  }
  const share = (failed: number | undefined) =>
    failed === undefined || requests.total === 0 ? '–' : percent(failed / requests.total)
  const hasDesired = recoveries.some((one) => one.desiredStateMs !== undefined) || model.undesired !== undefined
  const facts: [string, string][] = [
    [
      `${made}${made < faults.length ? ` of ${faults.length}` : ''}`,
      made === 1 ? 'fault was made' : 'faults were made',
    ],
    [count(requests.total), 'requests of clients'],
    [share(requests.failed), 'failed'],
    [share(requests.failedAfterRetry), 'failed after one retry'],
    [worst((one) => one.writeGapMs ?? Number.NaN).replace('NaN', '–'), 'longest gap in writes after a fault'],
    ...(hasDesired
      ? [[worst((one) => one.desiredStateMs), 'slowest return to the desired state'] as [string, string]]
      : []),
  ]
  const cells = facts.map(([figure, text]) => `<div><b>${escape(figure)}</b><span>${escape(text)}</span></div>`)
  const date = model.startedAt.replace('T', ' ').replace(/\.\d+Z$/, ' UTC')
  return `<header><div><h1>${escape(model.scenario)}</h1>
<p>${escape(sentence(model.about))}</p>
<p class="soft">${escape(model.target)} · ${escape(date)} · ${duration(model.lastsMs)} · seed <code>${escape(model.seed)}</code> · again: <code>capstan chaos replay run.json</code></p></div>
<div class="state ${stateClass(model.state)}">${SIGNS[model.state] ?? ''} ${escape(model.state)}</div></header>
<div class="facts">${cells.join('')}</div>
${model.troubles.length === 0 ? '' : `<h2 class="is-unknown">Trouble with the run itself</h2>${list(model.troubles.map(escape))}`}`
}

const sentence = (text: string) =>
  text === '' ? '' : `${(text[0] as string).toUpperCase()}${text.slice(1)}${/[.)]$/.test(text) ? '' : '.'}`
const list = (items: readonly string[]) => `<ul class="plain">${items.map((item) => `<li>${item}</li>`).join('')}</ul>`

const ORDER: Readonly<Record<string, number>> = { violated: 0, unknown: 1, ok: 2, 'not tested': 3 }

function verdicts({ promises }: ReportModel): string {
  const sorted = [...promises].sort((a, b) => (ORDER[a.state] ?? 9) - (ORDER[b.state] ?? 9))
  const rows = sorted.map(({ promise, title, state, text, evidence, mustHold }) => {
    const shown =
      evidence.length === 0
        ? ''
        : `<details${state === 'violated' ? ' open' : ''}><summary>what shows it</summary><div class="evidence mono">${evidence.map(escape).join('\n')}</div></details>`
    const said = text.split('\n').map(escape).join('<br>')
    return `<tr${state === 'violated' ? ' class="violated"' : ''}><td class="k">${escape(promise)}${mustHold ? '<span class="must" title="the scenario demands it">●</span>' : ''}</td><td>${escape(title)}</td><td class="k">${sign(state)}</td><td><span class="${state === 'ok' || state === 'not tested' ? 'note' : ''}">${said}</span>${shown}</td></tr>`
  })
  return `<section aria-labelledby="verdict"><h2 id="verdict">Verdict by promise <span class="note">● the scenario demands it</span></h2><div class="scroll"><table>
<thead><tr><th>Promise</th><th style="min-width:200px">What it says</th><th>State</th><th style="width:56%">What was looked at, or what is wrong</th></tr></thead>
<tbody>${rows.join('\n')}</tbody></table></div></section>`
}

function legend({ faults, undesired }: ReportModel): string {
  const item = (style: string, text: string) => `<span><i style="${style}"></i>${text}</span>`
  return `<div class="legend">${[
    faults.length > 0
      ? item('background:var(--fault)', 'a fault is in force (paler: it begins, it is being undone)')
      : '',
    faults.length > 0 ? item('background:var(--column)', 'the same, behind the charts') : '',
    item('background:var(--data)', 'leads'),
    item('background:var(--data-soft);height:3px;vertical-align:3px', 'up, Ready'),
    item('border:1px solid var(--bad);height:6px;vertical-align:1px', 'down, not Ready'),
    undesired ? item('background:var(--soft)', 'not as asked (paler: just after a change)') : '',
  ].join('')}</div>`
}

// ---------------------------------------------------------------------------------------------------------- recoveries

interface Kind {
  name: string
  times: number
  /** Null: not reached. Undefined: not measured. */
  firstWrite: (number | null | undefined)[]
  gap: (number | null | undefined)[]
  desired: (number | null | undefined)[]
}

function recoveryTable(model: ReportModel): string {
  const { recoveries, faults, undesired } = model
  if (recoveries.length === 0) return ''
  const byIndex = new Map(faults.map((fault) => [fault.index, fault]))
  const kinds = new Map<string, Kind>()
  for (const { index, fault, firstWriteMs, writeGapMs, desiredStateMs } of recoveries) {
    const record = byIndex.get(index)
    const name = record ? faultName(fault, record.parameters) : fault
    const kind = kinds.get(name) ?? { name, times: 0, firstWrite: [], gap: [], desired: [] }
    kinds.set(name, kind)
    kind.times++
    kind.firstWrite.push(firstWriteMs)
    kind.gap.push(writeGapMs)
    kind.desired.push(desiredStateMs ?? null)
  }
  const hasDesired = undesired !== undefined
  const notReached = '<span class="over">not reached</span>'
  const figure = (ms: number | null | undefined) => (ms === undefined ? '–' : ms === null ? notReached : duration(ms))
  const each = recoveries.map(({ index, fault, firstWriteMs, writeGapMs, desiredStateMs }) => {
    const record = byIndex.get(index)
    const cells = [firstWriteMs, writeGapMs, ...(hasDesired ? [desiredStateMs ?? null] : [])]
    return `<tr><td><a href="#fault-${index}">${escape(record ? faultName(fault, record.parameters) : fault)}</a></td><td>${escape(record?.struck.join(', ') ?? '')}</td><td class="n">${instant(record?.inForceMs ?? 0)}</td>${cells.map((ms) => `<td class="n">${figure(ms)}</td>`).join('')}</tr>`
  })
  const summary = (values: readonly (number | null | undefined)[]) => {
    const known = values.filter((value) => typeof value === 'number')
    const worst = values.includes(null) ? notReached : known.length === 0 ? '–' : duration(Math.max(...known))
    return `<td class="n">${known.length === 0 ? '–' : duration(median(known))}</td><td class="n">${worst}</td>`
  }
  const perKind = [...kinds.values()].map(
    ({ name, times, firstWrite, gap, desired }) =>
      `<tr><td>${escape(name)}</td><td class="n">${times}</td>${summary(firstWrite)}${summary(gap)}${hasDesired ? summary(desired) : ''}</tr>`,
  )
  const pairs = (name: string) => `<th class="n">${name}: median</th><th class="n">worst</th>`
  const grouped =
    kinds.size < recoveries.length && recoveries.length > 3
      ? `<div class="scroll"><table><thead><tr><th>Fault</th><th class="n">times</th>${pairs('First write')}${pairs('Gap in writes')}${hasDesired ? pairs('Desired state') : ''}</tr></thead><tbody>${perKind.join('\n')}</tbody></table></div>`
      : ''
  const single = `<div class="scroll"><table><thead><tr><th>Fault</th><th>struck</th><th class="n">in force at</th><th class="n">first write</th><th class="n">longest gap in writes</th>${hasDesired ? '<th class="n">desired state</th>' : ''}</tr></thead><tbody>${each.join('\n')}</tbody></table></div>`
  const folded = grouped !== ''
  return `<section aria-labelledby="recovery"><h2 id="recovery">How fast it came back</h2>
<p class="note">From the moment a fault was in force, until the next one: to the first write that was asked for after it and acknowledged; the longest time without an acknowledged write; to the desired state (0: it never went).</p>
${grouped}${folded ? `<details${recoveries.length > LISTED_MAX ? '' : ' open'}><summary>each of the ${recoveries.length}</summary>${single}</details>` : single}</section>`
}

// ------------------------------------------------------------------------------------------------------------- latency

function latency({ latency: { reads, writes } }: ReportModel): string {
  const both = [
    ['Writes', writes],
    ['Reads', reads],
  ] as const
  const shown = both.filter(([, { count: n }]) => n > 0)
  if (shown.length === 0) return ''
  const first = Math.min(...shown.map(([, one]) => one.firstBucket))
  const last = Math.max(...shown.map(([, one]) => one.firstBucket + one.counts.length))
  const half = ([name, one]: readonly [string, Histogram]) =>
    `<div><b>${name}</b> <span class="soft">${count(one.count)} · median ${duration(one.medianMs)} · 99 % below ${duration(one.p99Ms)} · slowest ${duration(one.worstMs)}</span>${bars(one, first, last)}</div>`
  return `<section aria-labelledby="latency"><h2 id="latency">Latency of what was answered</h2><div class="halves">${shown.map(half).join('')}</div></section>`
}

/** Heights by the root of the count: one slow answer among thousands is to be seen. */
function bars({ firstBucket, counts }: Histogram, first: number, last: number): string {
  const most = Math.sqrt(Math.max(...counts))
  const from = (bucket: number) => 10 ** (bucket / BUCKETS_PER_DECADE)
  const cells: string[] = []
  const ticks: string[] = []
  for (let bucket = first; bucket < last; bucket++) {
    const number = counts[bucket - firstBucket] ?? 0
    const text = `${duration(from(bucket))} to ${duration(from(bucket + 1))}: ${count(number)}`
    cells.push(
      number === 0
        ? '<div class="empty"></div>'
        : `<div style="height:${Math.max(1.5, (Math.sqrt(number) / most) * 100).toFixed(1)}%" title="${text}"></div>`,
    )
    if (bucket % BUCKETS_PER_DECADE === 0)
      ticks.push(
        `<span style="left:${(((bucket - first) / (last - first)) * 100).toFixed(1)}%">${duration(from(bucket)).replace('.00', '')}</span>`,
      )
  }
  return `<div class="bars" style="grid-template-columns:repeat(${last - first},1fr)">${cells.join('')}</div><div class="bar-ticks">${ticks.join('')}</div>`
}

// -------------------------------------------------------------------------------------------------------------- faults

function faultTable({ faults }: ReportModel): string {
  if (faults.length === 0) return ''
  const rows = faults.map((fault) => {
    const { index, result, why, means, proof, undoProof, struck } = fault
    const when =
      fault.inForceMs === undefined
        ? instant(fault.askedMs)
        : `${instant(fault.inForceMs)} – ${fault.undoneMs === undefined ? '?' : instant(fault.undoneMs)}`
    const text =
      result === 'made'
        ? `${means ? `${escape(means)}. ` : ''}<span class="note">${[proof, undoProof && `undone: ${undoProof}`]
            .filter((part) => part !== undefined && part !== '')
            .map((part) => escape(part as string))
            .join('; ')}</span>`
        : `<span class="${result === 'failed' ? 'over' : 'note'}">${escape(result)}: ${escape(why ?? '')}</span>`
    return `<tr id="fault-${index}"><td class="n">${index + 1}</td><td>${escape(faultName(fault.fault, fault.parameters))}</td><td>${escape(struck.join(', '))}</td><td class="n">${when}</td><td>${text}</td></tr>`
  })
  const table = `<div class="scroll"><table><thead><tr><th class="n">#</th><th>Fault</th><th>Struck</th><th class="n">In force</th><th style="width:48%">By which means, and what proves it</th></tr></thead><tbody>${rows.join('\n')}</tbody></table></div>`
  return `<section aria-labelledby="faults"><h2 id="faults">Faults</h2>${
    faults.length > LISTED_MAX * 2 ? `<details><summary>all ${faults.length}</summary>${table}</details>` : table
  }</section>`
}

function notTested({ notTested: all, promises, lacks }: ReportModel): string {
  const untested = promises.filter((one) => one.state === 'not tested')
  const items = [
    ...all.map(({ what, why }) => `<b>${escape(what)}</b>: ${escape(why)}`),
    ...untested.map(({ promise, title, text }) => `<b>${escape(promise)}</b> (${escape(title)}): ${escape(text)}`),
    ...lacks.map((text) => `<b>final state</b>: ${escape(text)}`),
  ]
  if (items.length === 0) return ''
  return `<section aria-labelledby="not-tested"><h2 id="not-tested">Not tested, and why</h2>${list(items)}</section>`
}

function rest({ environment, memory, workloads }: ReportModel): string {
  const facts = Object.entries(environment).map(
    ([name, value]) => `<tr><td class="soft">${escape(name)}</td><td>${escape(value)}</td></tr>`,
  )
  const counters = workloads.map(
    ({ name, counters: all }) =>
      `<tr><td class="soft">workload ${escape(name)}</td><td>${Object.entries(all)
        .map(([what, n]) => `${escape(what)}&nbsp;${count(n)}`)
        .join(', ')}</td></tr>`,
  )
  const grown = memory.map(
    ({ process, firstBytes, lastBytes, mostBytes }) =>
      `<tr><td>${escape(process)}</td><td class="n">${bytes(firstBytes)}</td><td class="n">${bytes(lastBytes)}</td><td class="n">${bytes(mostBytes)}</td></tr>`,
  )
  const tables = `<div class="halves"><div><h2>Where it ran</h2><table><tbody>${facts.join('')}${counters.join('')}</tbody></table></div>${
    grown.length === 0
      ? ''
      : `<div><h2>Memory</h2><table><thead><tr><th>Process</th><th class="n">first</th><th class="n">last</th><th class="n">most</th></tr></thead><tbody>${grown.join('')}</tbody></table></div>`
  }</div>`
  return facts.length + counters.length + grown.length === 0 ? '' : tables
}
