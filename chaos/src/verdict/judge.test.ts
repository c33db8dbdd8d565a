import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Operation } from '../checkers/linearizability.js'
import type { ObjectEvent } from '../checkers/objects.js'
import type { HistoryRecord, RunRecord } from '../harness/types.js'
import { REQUESTS } from '../workloads/recording.js'
import { judgeApi } from './api-promises.js'
import { judge } from './judge.js'
import { recoveries } from './recoveries.js'
import { shortest } from './shortest.js'
import { coveredUpTo } from './store-promises.js'
import { emptyRun, made, result } from './testing.js'

const put = (invokedMs: number, returnedMs: number): HistoryRecord => ({
  process: 'c',
  operation: 'put',
  key: '/k',
  invokedMs,
  returnedMs,
  outcome: 'ok',
  revision: 1,
})
/** A write every 100 ms but for a hole. */
const writes = (holeFromMs: number, holeToMs: number) =>
  Array.from({ length: 600 }, (_, n) => put(n * 100, n * 100 + 10)).filter(
    ({ invokedMs }) => invokedMs < holeFromMs || invokedMs >= holeToMs,
  )

test('recovery: the first write that was asked for after the fault, and the longest gap until the next fault', () => {
  const run = emptyRun({
    faults: [made(0, 'kill', 10_000, 15_000), made(1, 'hang', 30_000, 35_000)],
    workloads: [result('store', { history: [...writes(10_000, 11_300), put(9990, 10_400)] })],
  })
  const [first, second] = recoveries(run, undefined)
  // The one that was under way when the fault struck does not count as recovered, but ends the gap.
  assert.equal(first?.firstWriteMs, 1310)
  assert.equal(first?.writeGapMs, 910)
  assert.equal(first?.desiredStateMs, undefined)
  assert.equal(second?.firstWriteMs, 10)
  assert.equal(second?.writeGapMs, 100)
})

test('recovery: what had not come back before the next fault is missing, not good', () => {
  const run = emptyRun({
    faults: [made(0, 'kill', 10_000, 15_000), made(1, 'kill', 20_000, 25_000)],
    workloads: [result('store', { history: writes(9900, 22_000) })],
  })
  const [first, second] = recoveries(run, [{ fromMs: 11_000, toMs: 24_000, why: 'x' }])
  assert.deepEqual([first?.firstWriteMs, first?.desiredStateMs], [null, undefined])
  assert.equal(first?.writeGapMs, 20_000 - 9995)
  assert.deepEqual([second?.firstWriteMs, second?.desiredStateMs], [2010, 4000])
})

test('recovery: of writers that write now and then, a pause tells nothing', () => {
  const bursts = [0, 6000, 12_000, 18_000, 24_000].flatMap((at) => [put(at, at + 20), put(at + 30, at + 50)])
  const run = emptyRun({
    faults: [made(0, 'kill', 10_000, 15_000)],
    workloads: [result('scheduling', { history: bursts })],
  })
  const [only] = recoveries(run, undefined)
  assert.deepEqual([only?.firstWriteMs, only?.writeGapMs], [undefined, undefined])
})

test('recovery: changes that were asked for are not the fault; what it caught in the middle of one is', () => {
  const faults = [made(0, 'kill', 10_000, 15_000)]
  const desired = (...spans: [from: number, to: number, byChange?: boolean][]) =>
    recoveries(
      emptyRun({ faults }),
      spans.map(([fromMs, toMs, byChange = false]) => ({ fromMs, toMs, byChange, why: 'x' })),
    )[0]?.desiredStateMs
  assert.equal(desired(), 0)
  assert.equal(desired([5000, 9000]), 0)
  assert.equal(desired([12_000, 17_000]), 7000)
  assert.equal(desired([20_000, 23_000, true]), 0)
  assert.equal(desired([9000, 13_000, true]), 3000)
  assert.equal(desired([12_000, 13_000], [14_000, 16_000]), 6000)
})

test('recovery: locks taken over, nodes marked, pods replaced, from the asking on, as far as the fault let one expect it', () => {
  const strike = (
    index: number,
    fault: string,
    component: string,
    struck: string[],
    atMs: number,
    lastsMs: number,
  ) => ({
    ...made(index, fault, atMs + 400, atMs + lastsMs),
    ...{ askedMs: atMs, struck, parameters: { component } },
  })
  const more = {
    locks: [
      { atMs: 500, lock: 'kube-scheduler', holder: 'master-0_a_1' },
      { atMs: 600, lock: 'kube-controller-manager', holder: 'master-0_b_1' },
      { atMs: 11_500, lock: 'kube-controller-manager', holder: 'master-1_c_1' },
      { atMs: 11_800, lock: 'kube-scheduler', holder: 'master-2_d_1' },
    ],
    nodes: [
      { atMs: 500, node: 'node-0', isReady: true },
      { atMs: 500, node: 'node-1', isReady: true },
      { atMs: 33_000, node: 'node-0', isReady: false },
    ],
  }
  const run = emptyRun({
    machines: ['node-0', 'node-1'].map((name) => ({ name, role: 'node' as const })),
    faults: [
      strike(0, 'kill', 'machine', ['master-0'], 10_000, 4000),
      // It holds nothing any more.
      strike(1, 'kill', 'machine', ['master-0'], 20_000, 4000),
      strike(2, 'hang', 'machine', ['node-0'], 30_000, 14_000),
      strike(3, 'kill', 'machine', ['node-1'], 45_000, 8000),
      // Its machine goes on.
      strike(4, 'kill', 'store', ['master-2'], 60_000, 4000),
      strike(5, 'kill', 'machine', ['node-1'], 61_000, 1000),
    ],
    workloads: [result('lookout', { more })],
  })
  // The pod of a node that is gone stays Terminating: it is not as desired before the node is back, but nothing is missing.
  const undesired = [{ fromMs: 33_000, toMs: 44_500, why: 'another pod' }]
  const found = recoveries(run, undesired, [
    { fromMs: 33_000, toMs: 37_000, why: 'one of two' },
    // Only when it was back.
    { fromMs: 45_500, toMs: 54_000, why: 'one of two' },
  ])
  assert.deepEqual(
    found.map(({ takeOverMs, markedMs, replacedMs }) => [takeOverMs, markedMs, replacedMs]),
    [
      [1800, undefined, undefined],
      [undefined, undefined, undefined],
      [undefined, 3000, 7000],
      [undefined, null, undefined],
      [undefined, undefined, undefined],
      [undefined, undefined, undefined],
    ],
  )
})

test('recovery: faults that were not made have none', () => {
  const fault = { ...made(0, 'x', 1000, 2000), result: 'not tested' as const }
  assert.deepEqual(recoveries(emptyRun({ faults: [fault] }), undefined), [])
})

const violation = { promise: 'C3', text: 'db-0 runs twice', evidence: ['5 s: db-0 …'] }

test('one violation makes the run violated, whatever else held', () => {
  const verdict = judge(emptyRun({ workloads: [result('x', { violations: [violation, violation] })] }))
  assert.equal(verdict.state, 'violated')
  assert.deepEqual(verdict.promises.find(({ promise }) => promise === 'C3')?.evidence, ['5 s: db-0 …', '5 s: db-0 …'])
})

test('a promise that must hold and that nothing tested is no pass', () => {
  const members = ['a', 'b'].map((member) => ({ member, appliedIndex: 7, hash: 'h' }))
  const finalState = { atMs: 0, objects: [], lacks: [], members }
  assert.equal(judge(emptyRun({ finalState, mustHold: ['S4'] })).state, 'ok')
  assert.equal(judge(emptyRun({ finalState, mustHold: ['S4', 'C3'] })).state, 'unknown')
  assert.equal(judge(emptyRun()).state, 'not tested')
})

test('a fault that did not bite, or trouble with the run, is no pass', () => {
  const members = ['a', 'b'].map((member) => ({ member, appliedIndex: 7, hash: 'h' }))
  const finalState = { atMs: 0, objects: [], lacks: [], members }
  const failed = { ...made(0, 'kill', 1, 2), result: 'failed' as const }
  assert.equal(judge(emptyRun({ finalState, faults: [failed] })).state, 'unknown')
  assert.equal(judge(emptyRun({ finalState, troubles: ['a fault could not be undone'] })).state, 'unknown')
})

test("the final state: members that differ, a pod that is bound twice by the store's own history", () => {
  const members = ['a', 'b'].map((member, at) => ({ member, appliedIndex: 7, hash: `h${at}` }))
  const bound = (revision: number, nodeName: string) => ({
    revision,
    key: '/registry/core/pods/default/p',
    object: { metadata: { name: 'p', uid: 'u' }, spec: { nodeName } },
  })
  const finalState = { atMs: 0, objects: [], lacks: [], members, objectHistory: [bound(5, 'n1'), bound(6, 'n2')] }
  const { promises } = judge(emptyRun({ finalState }))
  const of = (name: string) => promises.find(({ promise }) => promise === name)
  assert.match(of('S4')?.text ?? '', /at index 7 a holds h0, b h1/)
  assert.match(of('C4')?.text ?? '', /was bound to n1 and at revision 6 to n2/)
})

test('why a promise was not tested is told', () => {
  const { promises } = judge(emptyRun({ notTested: [{ what: 'S2', why: 'the store cannot be reached here' }] }))
  assert.equal(promises.find(({ promise }) => promise === 'S2')?.text, 'the store cannot be reached here')
  assert.match(promises.find(({ promise }) => promise === 'C2')?.text ?? '', /simulation/)
})

test('failed requests are summed over workloads', () => {
  const counters = { [REQUESTS.all]: 100, [REQUESTS.failed]: 5, [REQUESTS.failedTwice]: 1 }
  const { requests } = judge(emptyRun({ workloads: [result('a', { counters }), result('b', { counters })] }))
  assert.deepEqual(requests, { total: 200, failed: 10, failedAfterRetry: 2 })
})

test('writes behind a hole of all watches are unknown, not written by nobody; the store’s own history closes it', () => {
  const key = (n: number) => `/registry/core/configmaps/chaos-1/c${n}`
  const create = (n: number): HistoryRecord => ({
    ...put(n * 1000, n * 1000 + 10),
    operation: 'create',
    key: key(n),
    argument: { value: `v${n}` },
    revision: n,
    value: 'done',
  })
  const watch = (fromRevision: number, toldUpTo: number, told: number[]) => ({
    reader: 'r',
    fromRevision,
    toldUpTo,
    events: told.map((n) => ({ type: 'put' as const, key: key(n), value: `v${n}`, revision: n })),
  })
  const api = result('api', {
    history: [create(2), create(5), create(9)],
    watches: [watch(1, 4, [2]), watch(8, 12, [9])],
    more: { namespace: 'chaos-1', prefix: '/registry/core/configmaps/chaos-1/', last: [], lacks: [] },
  })
  const states = (run: Partial<RunRecord>) =>
    judgeApi(emptyRun(run), api)
      .filter(({ promise }) => promise === 'S1')
      .map(({ state, evidence }) => [state, ...evidence])
  assert.deepEqual(states({}), [['ok'], ['unknown']])
  const stored = (n: number) => ({
    revision: n,
    key: key(n),
    object: { metadata: { name: `c${n}` }, data: { v: `v${n}` } } as unknown as ObjectEvent['object'],
  })
  const withHistory = (...revisions: number[]) =>
    states({ finalState: { atMs: 0, objects: [], lacks: [], objectHistory: revisions.map(stored) } })
  assert.deepEqual(withHistory(2, 5, 9), [['ok']])
  const [[lost, text = ''] = []] = withHistory(2, 9)
  assert.equal(lost, 'violated')
  assert.match(text, /was acknowledged at revision 5; there is nothing/)
})

test('what several watches tell together ends at the first hole', () => {
  const stream = (startRevision: number, revision: number) => ({
    reader: 'r',
    from: 'a',
    to: 'b',
    noPut: false,
    noDelete: false,
    prevKv: true,
    startRevision,
    messages: [{ kind: 'beat' as const, prevRevision: 0, revision, events: [] }],
  })
  assert.equal(coveredUpTo([stream(5, 20), stream(8, 30), stream(31, 40)]), 40)
  assert.equal(coveredUpTo([stream(5, 20), stream(25, 40)]), 20)
  assert.equal(coveredUpTo([]), 0)
})

test('the shortest piece keeps what the violation needs, and what a lie would be without', () => {
  type Input = { type: string; value?: string }
  const operation = (n: number, input: Input, output: string): Operation<Input, string> => ({
    client: `c${n}`,
    input,
    output,
    invokedMs: n * 10,
    returnedMs: n * 10 + 5,
  })
  const history = [
    ...Array.from({ length: 40 }, (_, n) => operation(n, { type: 'put', value: `v${n}` }, 'done')),
    operation(41, { type: 'get' }, 'v39'),
    operation(42, { type: 'get' }, 'v7'),
    ...Array.from({ length: 40 }, (_, n) => operation(50 + n, { type: 'get' }, 'v39')),
  ]
  // Stale: a read of something older than what was read before it.
  const isIllegal = (piece: readonly Operation<Input, string>[]) => {
    const reads = piece.filter(({ input, output }) => input.type === 'get' && output !== undefined)
    return reads.some((read, at) => at > 0 && Number(read.output?.slice(1)) < Number(reads[at - 1]?.output?.slice(1)))
  }
  const needs = ({ input, output }: Operation<Input, string>, all: readonly Operation<Input, string>[]) =>
    input.type === 'get' ? all.filter((other) => other.input.value === output) : []
  const piece = shortest(history, isIllegal, needs)
  assert.deepEqual(
    piece.map(({ client }) => client),
    ['c7', 'c39', 'c41', 'c42'],
  )
})
