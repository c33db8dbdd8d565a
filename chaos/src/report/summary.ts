import type { Recovery, RunRecord } from '../harness/types.js'
import { document, sign } from './page.js'
import type { ReportModel } from './report-model.js'
import { count, duration, escape, faultName, median, percent } from './text.js'

/** What of one run enters a summary: a `RunRecord` has it, and so has the JSON twin of a report. */
export type SummarisedRun = Pick<
  ReportModel,
  'scenario' | 'state' | 'on' | 'seed' | 'startedAt' | 'faults' | 'recoveries' | 'requests'
> & {
  /** Where its report lies, seen from the summary. */
  directory: string
  violated: string[]
}

export interface Figures {
  /** How often it was measured, and how often it had not come back before the next fault. */
  n: number
  notReached: number
  medianMs?: number
  worstMs?: number
}

export interface Summary {
  formatVersion: 1
  runs: {
    directory: string
    scenario: string
    on: string
    seed: string
    startedAt: string
    state: string
    violated: string[]
  }[]
  /** By kind of fault and where it ran: the fault's name, its component and whom it struck by role. */
  recoveries: {
    fault: string
    on: string
    scenarios: string[]
    firstWrite: Figures
    writeGap: Figures
    desiredState: Figures
  }[]
  /** What has an aim, against it; empty: nothing of the kind was measured. */
  aims: {
    event: string
    measure: string
    on: string
    aimMs: number
    figures: Figures
    state: 'met' | 'missed'
  }[]
  scenarios: {
    scenario: string
    on: string
    runs: number
    states: Record<string, number>
    requests: RunRecord['verdict']['requests']
  }[]
}

interface Aim {
  event: string
  measure: string
  fault: string
  /** Roles of whom the fault struck, one of which it must be. */
  whom: readonly string[]
  of(recovery: Recovery): number | null | undefined
  aimMs: number
}

const MARKED = ['marked', ({ markedMs }: Recovery) => markedMs, 5000] as const
const REPLACED = ['pods replaced', ({ replacedMs }: Recovery) => replacedMs, 10_000] as const
const WRITES = ['longest time without a write', ({ writeGapMs }: Recovery) => writeGapMs, 1000] as const
const TAKEN_OVER = ['scheduler and controller-manager led again', (one: Recovery) => one.takeOverMs, 2000] as const

/** How soon things should be well again, for machines that die, hang, or are cut off as a whole. */
const AIMS: readonly Aim[] = (
  [
    ['the leading master dies', 'kill', ['leader'], WRITES],
    ['the master with the locks dies', 'kill', ['leader', 'controllers', 'master'], TAKEN_OVER],
    ['a node dies', 'kill', ['node'], MARKED],
    ['a node dies', 'kill', ['node'], REPLACED],
    ['a node hangs', 'hang', ['node'], MARKED],
    ['a node hangs', 'hang', ['node'], REPLACED],
    ['a node is cut off', 'isolate', ['node'], MARKED],
    ['a node is cut off', 'isolate', ['node'], REPLACED],
  ] as const
).map(([event, fault, whom, [measure, of, aimMs]]) => ({ event, fault, whom, measure, of, aimMs }))

function againstAims(runs: readonly SummarisedRun[]): Summary['aims'] {
  return [...new Set(runs.map(({ on }) => on))].sort().flatMap((on) =>
    AIMS.flatMap(({ event, measure, fault, whom, of, aimMs }) => {
      const struckThem = runs
        .filter((run) => run.on === on)
        .flatMap(({ faults, recoveries }) =>
          recoveries.filter(({ index }) => {
            const record = faults.find((one) => one.index === index)
            const { whom: struck, component = 'machine' } = record?.parameters ?? {}
            return record?.fault === fault && component === 'machine' && whom.includes(roleOf(String(struck)))
          }),
        )
      const values = measured(struckThem.map(of))
      if (values.length === 0) return []
      const found = figuresOf(values)
      const isMet = found.notReached === 0 && (found.worstMs as number) < aimMs
      return [{ event, measure, on, aimMs, figures: found, state: isMet ? ('met' as const) : ('missed' as const) }]
    }),
  )
}

export function summarise(runs: readonly SummarisedRun[]): Summary {
  const kinds = new Map<string, { fault: string; on: string; scenarios: Set<string>; all: ReportModel['recoveries'] }>()
  const scenarios = new Map<string, Summary['scenarios'][0]>()
  for (const run of runs) {
    const id = `${run.scenario} ${run.on}`
    const of = scenarios.get(id) ?? {
      scenario: run.scenario,
      on: run.on,
      runs: 0,
      states: {},
      requests: { total: 0, failed: 0, failedAfterRetry: 0 },
    }
    scenarios.set(id, of)
    of.runs++
    of.states[run.state] = (of.states[run.state] ?? 0) + 1
    of.requests.total += run.requests.total
    of.requests.failed += run.requests.failed
    of.requests.failedAfterRetry = (of.requests.failedAfterRetry ?? 0) + (run.requests.failedAfterRetry ?? 0)
    for (const recovery of run.recoveries) {
      const record = run.faults.find((fault) => fault.index === recovery.index)
      const fault = kindOf(recovery.fault, record?.parameters ?? {})
      const kind = kinds.get(`${fault} ${run.on}`) ?? { fault, on: run.on, scenarios: new Set(), all: [] }
      kinds.set(`${fault} ${run.on}`, kind)
      kind.scenarios.add(run.scenario)
      kind.all.push(recovery)
    }
  }
  return {
    formatVersion: 1,
    runs: runs.map(({ directory, scenario, on, seed, startedAt, state, violated }) => ({
      directory,
      scenario,
      on,
      seed,
      startedAt,
      state,
      violated,
    })),
    recoveries: [...kinds.values()]
      .map(({ fault, on, scenarios: names, all }) => ({
        fault,
        on,
        scenarios: [...names].sort(),
        firstWrite: figures(measured(all.map((one) => one.firstWriteMs))),
        writeGap: figures(measured(all.map((one) => one.writeGapMs))),
        desiredState: figures(all.map((one) => one.desiredStateMs)),
      }))
      .sort((a, b) => (a.fault < b.fault ? -1 : 1)),
    aims: againstAims(runs),
    scenarios: [...scenarios.values()].sort((a, b) => (a.scenario < b.scenario ? -1 : 1)),
  }
}

/** `node:2` and `node:0` are the same kind: which one it is makes no difference. */
function kindOf(fault: string, parameters: { [key: string]: unknown }): string {
  const { whom, component, from } = parameters as { whom?: string; component?: string; from?: string }
  return faultName(fault, {
    ...(whom === undefined ? {} : { whom: roleOf(whom) }),
    ...(component === undefined ? {} : { component }),
    ...(from === undefined ? {} : { from: roleOf(from) }),
  })
}

const roleOf = (whom: string) => whom.replace(/:\d+$/, '').replace(/-\d+$/, '')

/** What was measured; undefined now stands for what was not reached. */
const measured = (values: readonly (number | null | undefined)[]): (number | undefined)[] =>
  values.filter((value) => value !== undefined).map((value) => value ?? undefined)

/** Where nothing was measured at all (no desired state in that scenario) `n` is 0. */
function figures(values: readonly (number | undefined)[]): Figures {
  return values.every((value) => value === undefined) ? { n: 0, notReached: 0 } : figuresOf(values)
}

function figuresOf(values: readonly (number | undefined)[]): Figures {
  const known = values.filter((value) => value !== undefined)
  return {
    n: values.length,
    notReached: values.length - known.length,
    ...(known.length > 0 ? { medianMs: median(known), worstMs: Math.max(...known) } : {}),
  }
}

/** Of a figure that did not come back: more than the worst that is known. */
const worst = ({ n, notReached, worstMs }: Figures) =>
  n === 0 ? '–' : notReached > 0 ? `not reached (${notReached})` : duration(worstMs)

export function summaryText(summary: Summary): string {
  const rows = [
    ['fault', 'on', 'n', 'first write', 'worst', 'gap in writes', 'worst', 'desired state', 'worst'],
    ...summary.recoveries.map(({ fault, on, firstWrite, writeGap, desiredState }) => [
      fault,
      on,
      String(Math.max(firstWrite.n, writeGap.n, desiredState.n)),
      duration(firstWrite.medianMs),
      worst(firstWrite),
      duration(writeGap.medianMs),
      worst(writeGap),
      duration(desiredState.medianMs),
      worst(desiredState),
    ]),
  ]
  const runs = [
    ['scenario', 'on', 'runs', 'verdicts', 'requests', 'failed', 'after retry'],
    ...summary.scenarios.map(({ scenario, on, runs: n, states, requests }) => [
      scenario,
      on,
      String(n),
      Object.entries(states)
        .map(([state, times]) => `${times} ${state}`)
        .join(', '),
      count(requests.total),
      percent(requests.total === 0 ? 0 : requests.failed / requests.total),
      percent(requests.total === 0 ? 0 : (requests.failedAfterRetry ?? 0) / requests.total),
    ]),
  ]
  const aims = [
    ['recovery', '', 'on', 'n', 'median', 'worst', 'aim', ''],
    ...summary.aims.map(({ event, measure, on, aimMs, figures: found, state }) => [
      event,
      measure,
      on,
      String(found.n),
      duration(found.medianMs),
      worst(found),
      `< ${aimMs / 1000} s`,
      state,
    ]),
  ]
  const bad = summary.runs
    .filter(({ state }) => state !== 'ok')
    .map(
      ({ directory, scenario, state, violated }) =>
        `${scenario} in ${directory}: ${state}${violated.length > 0 ? ` (${violated.join(', ')})` : ''}`,
    )
  return `${[table(runs, 2), table(rows, 2), summary.aims.length > 0 ? table(aims, 3) : '', bad.join('\n')]
    .filter((part) => part !== '')
    .join('\n\n')}\n`
}

/** Columns from `numbersFrom` on are flush right. */
function table(rows: readonly (readonly string[])[], numbersFrom: number): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)))
  return rows
    .map((row) =>
      row
        .map((cell, at) => (at < numbersFrom ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

export function summaryPage(summary: Summary): string {
  const { runs, recoveries, scenarios } = summary
  const pair = (one: Figures) =>
    `<td class="n">${duration(one.medianMs)}</td><td class="n">${one.notReached > 0 ? `<span class="over">${worst(one)}</span>` : worst(one)}</td>`
  const times = recoveries.map(
    ({ fault, on, firstWrite, writeGap, desiredState, scenarios: names }) =>
      `<tr><td>${escape(fault)}<br><span class="note">${escape(names.join(', '))}</span></td><td>${escape(on)}</td><td class="n">${Math.max(firstWrite.n, writeGap.n, desiredState.n)}</td>${pair(firstWrite)}${pair(writeGap)}${pair(desiredState)}</tr>`,
  )
  const perScenario = scenarios.map(({ scenario, on, runs: n, states, requests }) => {
    const told = Object.entries(states).map(([state, number]) => `${number} ${sign(state)}`)
    const share = (failed = 0) => percent(requests.total === 0 ? 0 : failed / requests.total)
    return `<tr><td>${escape(scenario)}</td><td>${escape(on)}</td><td class="n">${n}</td><td>${told.join(', ')}</td><td class="n">${count(requests.total)}</td><td class="n">${share(requests.failed)}</td><td class="n">${share(requests.failedAfterRetry)}</td></tr>`
  })
  const each = runs.map(
    ({ directory, scenario, on, seed, startedAt, state, violated }) =>
      `<tr><td><a href="${escape(encodeURI(directory))}/report.html">${escape(scenario)}</a></td><td>${escape(on)}</td><td><code>${escape(seed)}</code></td><td>${escape(startedAt.slice(0, 19).replace('T', ' '))}</td><td>${sign(state)} ${escape(violated.join(', '))}</td></tr>`,
  )
  const states = [...new Set(runs.map((run) => run.state))]
  const state = states.includes('violated') ? 'violated' : states.every((one) => one === 'ok') ? 'ok' : 'unknown'
  const aims = summary.aims.map(
    ({ event, measure, on, aimMs, figures: found, state: kept }) =>
      `<tr><td>${escape(event)}<br><span class="note">${escape(measure)}</span></td><td>${escape(on)}</td><td class="n">${found.n}</td>${pair(found)}<td class="n">&lt; ${aimMs / 1000} s</td><td>${kept === 'met' ? kept : `<span class="over">${kept}</span>`}</td></tr>`,
  )
  const againstTheAims =
    aims.length === 0
      ? ''
      : `<section><h2>Against the aims</h2><p class="note">A machine dies, hangs or is cut off as a whole. From the moment that was asked for.</p><div class="scroll"><table><thead><tr><th>Event</th><th>on</th><th class="n">times</th><th class="n">median</th><th class="n">worst</th><th class="n">aim</th><th></th></tr></thead><tbody>${aims.join('\n')}</tbody></table></div></section>`
  const pairs = (name: string) => `<th class="n">${name}: median</th><th class="n">worst</th>`
  return document(
    `${runs.length} chaos runs: ${state}`,
    `<header><div><h1>${runs.length} chaos runs</h1><p class="soft">${escape(
      scenarios
        .map((one) => one.scenario)
        .filter((name, at, all) => all.indexOf(name) === at)
        .join(', '),
    )}</p></div><div class="state is-${state}">${escape(state)}</div></header>
${againstTheAims}
<section><h2>How fast it came back</h2><p class="note">From the moment a fault was in force, until the next one.</p><div class="scroll"><table><thead><tr><th>Fault</th><th>on</th><th class="n">times</th>${pairs('First write')}${pairs('Gap in writes')}${pairs('Desired state')}</tr></thead><tbody>${times.join('\n')}</tbody></table></div></section>
<section><h2>Scenarios</h2><div class="scroll"><table><thead><tr><th>Scenario</th><th>on</th><th class="n">runs</th><th>verdicts</th><th class="n">requests</th><th class="n">failed</th><th class="n">after one retry</th></tr></thead><tbody>${perScenario.join('\n')}</tbody></table></div></section>
<section><h2>Runs</h2><div class="scroll"><table><thead><tr><th>Scenario</th><th>on</th><th>seed</th><th>began (UTC)</th><th>verdict</th></tr></thead><tbody>${each.join('\n')}</tbody></table></div></section>`,
  )
}
