import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { RunRecord } from '../harness/types.js'
import { roundUp, timeAxis } from './axis.js'
import { junit } from './junit.js'
import { reportPage } from './page.js'
import { histogram, reportModel } from './report-model.js'
import { summarise, summaryText } from './summary.js'
import { plausibleRun } from './testing.js'
import { count, duration, faultName, median, percent } from './text.js'
import { summariseDirectory, writeReport } from './write-report-edge.js'

/** Every element that is opened is closed, in order. */
function assertWellFormed(html: string): void {
  const open: string[] = []
  const voids = new Set(['meta', 'br', 'path', 'rect'])
  for (const [tag, slash, name = '', rest = ''] of html.matchAll(/<(\/?)([a-z0-9]+)((?:[^<>"]|"[^"]*")*)>/gi)) {
    if (slash) assert.equal(open.pop(), name, `closed by ${tag}`)
    else if (
      !rest.endsWith('/') &&
      !(voids.has(name) && !html.includes(`</${name}>`)) &&
      name !== 'meta' &&
      name !== 'br'
    )
      open.push(name)
  }
  assert.deepEqual(open, [])
}

test('the page needs nothing from outside, and is well formed', () => {
  const page = reportPage(reportModel(plausibleRun({ seconds: 90, everyMs: 16_000, violated: true })))
  assertWellFormed(page.replace('<!doctype html>', ''))
  assert.doesNotMatch(page, /(src|href)="(?!#)[^"]*"|@import|url\(|<script/)
  assert.doesNotMatch(page, /NaN|undefined|Infinity|\[object/)
  for (const word of [
    'leader-dies',
    'violated',
    'has no legal order',
    'kill leader',
    'nftables',
    'needs processes started with --chaos',
  ])
    assert.ok(page.includes(word), word)
  // Each fault on the time line leads to its line in the table.
  for (const [, id] of page.matchAll(/href="#([^"]+)"/g)) assert.ok(page.includes(`id="${id}"`), id)
})

test('what is shown is text, whatever it contains', () => {
  const run = plausibleRun({ seconds: 60, everyMs: 20_000, violated: true })
  const evil = `<script>alert("x")</script>&'`
  const [promise] = run.verdict.promises
  Object.assign(promise ?? {}, { text: evil, evidence: [evil], state: 'violated' })
  Object.assign(run, { about: evil, target: evil, troubles: [evil], environment: { [evil]: evil } })
  for (const fault of run.faults) Object.assign(fault, { why: evil, proof: evil, struck: [evil] })
  const model = reportModel(run)
  assert.doesNotMatch(reportPage(model), /<script/)
  assert.doesNotMatch(junit(model), /<script/)
})

test('a long run is binned: the page stays small, dips and peaks stay to be seen', () => {
  const run = plausibleRun({ seconds: 3600, everyMs: 9000 })
  const slowest = Math.max(
    ...(run.workloads[0]?.series.find((s) => s.unit === 'ms' && /99/.test(s.name))?.points ?? []).map(([, v]) => v),
  )
  const model = reportModel(run)
  for (const one of Object.values(model.series)) assert.ok(one.points.length <= 480, one.name)
  assert.equal(Math.max(...(model.series.slow?.points ?? []).map(([, v]) => v)), slowest)
  assert.equal(Math.min(...(model.series.ready?.points ?? []).map(([, v]) => v)), 7)
  assert.ok(reportPage(model).length < 800_000)
  assert.ok(JSON.stringify(model).length < 400_000)
})

test("a run that began late by its target's clock looks as if it had begun at 0", () => {
  const run = plausibleRun({ seconds: 60, everyMs: 20_000 })
  const late = JSON.parse(
    JSON.stringify(run).replace(/"(\w+Ms)":([\d.]+)/g, (all, name: string, ms: string) =>
      ['warmUpMs', 'troubleMs', 'settleMs', 'firstWriteMs', 'writeGapMs', 'desiredStateMs'].includes(name)
        ? all
        : `"${name}":${Number(ms) + 500_000}`,
    ),
  ) as RunRecord
  for (const { series } of late.workloads)
    for (const one of series) one.points = one.points.map(([atMs, value]) => [atMs + 500_000, value])
  const [here, there] = [reportModel(run), reportModel(late)]
  assert.ok(Math.abs(there.lastsMs - here.lastsMs) < 1000)
  assert.deepEqual(
    there.phases.map((one) => one.name),
    ['warm-up', 'trouble', 'healing', 'settling'],
  )
  assert.ok((there.series.writes?.points[0]?.[0] ?? 0) < 2000)
  assert.ok((there.masters[0]?.spans[0]?.fromMs ?? 0) < 1000)
})

test('a run in which nothing was recorded has a page too', () => {
  const run = plausibleRun({ seconds: 30, everyMs: 60_000 })
  const bare: RunRecord = {
    ...run,
    faults: [],
    samples: [],
    workloads: [],
    verdict: { state: 'unknown', promises: [], recoveries: [], requests: { total: 0, failed: 0 } },
  }
  const page = reportPage(reportModel(bare))
  assertWellFormed(page.replace('<!doctype html>', ''))
  assert.doesNotMatch(page, /NaN|undefined|Infinity/)
})

test('JUnit: a violation fails, what is demanded and not known is an error, the rest is skipped', () => {
  const model = reportModel(plausibleRun({ seconds: 60, everyMs: 20_000, violated: true }))
  const s4 = model.promises.find((one) => one.promise === 'S4')
  Object.assign(s4 ?? {}, { state: 'unknown', text: 'fewer than two' })
  const xml = junit(model)
  assert.match(xml, /tests="12" failures="1" errors="1" skipped="3"/)
  assert.match(xml, /<failure message="store: [^"]*no legal order/)
  assert.match(xml, /<error message="unknown: fewer than two"\/>/)
})

test('a summary holds the machines that died, hung or were cut off against the aims', () => {
  const run = plausibleRun({ seconds: 60, everyMs: 100_000 })
  const one = (index: number, fault: string, parameters: { [key: string]: string }, times: object) => ({
    fault: { ...(run.faults[0] as RunRecord['faults'][0]), index, fault, parameters },
    recovery: { index, fault, ...times },
  })
  const all = [
    one(0, 'kill', { whom: 'leader', component: 'machine' }, { writeGapMs: 400, takeOverMs: 1500 }),
    one(1, 'kill', { whom: 'controllers', component: 'machine' }, { writeGapMs: 2000, takeOverMs: 2500 }),
    // A process alone, and a node that was gone for too short a time, say nothing.
    one(2, 'kill', { whom: 'leader', component: 'store' }, { writeGapMs: 9000 }),
    one(3, 'kill', { whom: 'node:2', component: 'machine' }, {}),
    one(4, 'hang', { whom: 'node:1', component: 'machine' }, { markedMs: 4000, replacedMs: null }),
    one(5, 'isolate', { whom: 'node:0' }, { markedMs: 3000, replacedMs: 9000 }),
  ]
  const summary = summarise([
    {
      ...{ ...reportModel(run), directory: 'a', violated: [] },
      ...{ faults: all.map(({ fault }) => fault), recoveries: all.map(({ recovery }) => recovery) },
    },
  ])
  assert.deepEqual(
    summary.aims.map(({ event, measure, figures: { n, notReached, worstMs }, aimMs, state }) =>
      [event, measure, n, notReached, worstMs, aimMs, state].join(' | '),
    ),
    [
      'the leading master dies | longest time without a write | 1 | 0 | 400 | 1000 | met',
      'the master with the locks dies | scheduler and controller-manager led again | 2 | 0 | 2500 | 2000 | missed',
      'a node hangs | marked | 1 | 0 | 4000 | 5000 | met',
      'a node hangs | pods replaced | 1 | 1 |  | 10000 | missed',
      'a node is cut off | marked | 1 | 0 | 3000 | 5000 | met',
      'a node is cut off | pods replaced | 1 | 0 | 9000 | 10000 | met',
    ],
  )
  assert.match(summaryText(summary), /a node hangs +pods replaced +\S+ +1 +– +not reached \(1\) +< 10 s +missed/)
})

test('a summary over runs: by kind of fault, whoever was struck; what did not come back is no figure', () => {
  const run = plausibleRun({ seconds: 60, everyMs: 100_000 })
  const recovery = (index: number, desiredStateMs?: number) => ({
    index,
    fault: 'kill',
    firstWriteMs: 100 * index,
    writeGapMs: 200,
    ...(desiredStateMs === undefined ? {} : { desiredStateMs }),
  })
  const fault = (index: number, whom: string) => ({
    ...(run.faults[0] as RunRecord['faults'][0]),
    index,
    parameters: { whom, component: 'machine' },
  })
  const summarised = (state: string, recoveries: ReturnType<typeof recovery>[]) => ({
    ...reportModel(run),
    state,
    directory: 'a',
    violated: state === 'violated' ? ['S1'] : [],
    faults: [fault(1, 'node:0'), fault(2, 'node:2')],
    recoveries,
  })
  const summary = summarise([
    summarised('ok', [recovery(1, 4000), recovery(2, 8000)]),
    summarised('violated', [recovery(1)]),
  ])
  assert.equal(summary.recoveries.length, 1)
  const [row] = summary.recoveries
  assert.deepEqual(row?.firstWrite, { n: 3, notReached: 0, medianMs: 100, worstMs: 200 })
  assert.deepEqual(row?.desiredState, { n: 3, notReached: 1, medianMs: 6000, worstMs: 8000 })
  const text = summaryText(summary)
  assert.match(text, /kill node +local +3 +100 ms +200 ms +200 ms +200 ms +6\.00 s +not reached \(1\)/)
  assert.match(text, /leader-dies in a: violated \(S1\)/)
})

test('reports are written, read again, and summarised', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'capstan-report-'))
  try {
    const run = plausibleRun({ seconds: 60, everyMs: 20_000 })
    await writeReport(run, join(directory, 'one'))
    await writeReport({ ...run, seed: '0x2' }, join(directory, 'more', 'two'))
    assert.deepEqual(
      JSON.parse(readFileSync(join(directory, 'one', 'run.json'), 'utf8')),
      JSON.parse(JSON.stringify(run)),
    )
    const { summary, text } = summariseDirectory(directory)
    assert.deepEqual(summary.runs.map((one) => one.directory).sort(), ['more/two', 'one'])
    assert.match(text, /leader-dies +local +2 +2 ok/)
    assert.throws(() => summariseDirectory(join(directory, 'one', '..', 'nothing')), /nothing/)
  } finally {
    rmSync(directory, { recursive: true })
  }
})

test('figures in words', () => {
  assert.deepEqual([0, 0.4, 340, 999.7, 9994, 48_120, 185_000, 3_720_000].map(duration), [
    '0',
    '0.4 ms',
    '340 ms',
    '1.00 s',
    '9.99 s',
    '48.1 s',
    '3 min 5 s',
    '1 h 2 min',
  ])
  assert.deepEqual([0, 12, 1234, 1_234_567].map(count), ['0', '12', '1,234', '1,234,567'])
  assert.deepEqual([0, 0.00001, 0.0034, 0.05].map(percent), ['0 %', '< 0.01 %', '0.34 %', '5.0 %'])
  assert.equal(median([3, 1, 2]), 2)
  assert.equal(faultName('kill', { whom: 'leader', component: 'store' }), 'kill store of leader')
  assert.equal(faultName('partial', { whom: 'follower:0', from: 'leader' }), 'partial follower:0 from leader')
  assert.equal(faultName('slow-sync', { whom: 'leader', ms: 400 }), 'slow-sync leader (ms 400)')
  assert.deepEqual([0.7, 3, 100, 101].map(roundUp), [1, 5, 100, 200])
  assert.ok(timeAxis(3_600_000).ticks.length <= 11)
  assert.deepEqual(
    histogram([1, 1, 2, 100]).counts.filter((n) => n > 0),
    [2, 1, 1],
  )
})
