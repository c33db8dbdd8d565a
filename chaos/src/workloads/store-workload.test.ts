import assert from 'node:assert/strict'
import { test } from 'node:test'
import { judge } from '../verdict/judge.js'
import { emptyRun, made } from '../verdict/testing.js'
import { storeWorkload } from './store-workload.js'
import { FakeStore, type StoreBug } from './testing/fake-store.js'
import { Virtual } from './testing/virtual.js'

const LASTS_MS = 14_000

async function run(options: { bug?: StoreBug; trouble?: boolean; seed?: string } = {}) {
  const virtual = new Virtual(options.seed ?? 'store')
  const store = new FakeStore(virtual, options.bug)
  const workload = storeWorkload(() => ({ stores: store.ports, apis: [] }))
  const { simulation } = virtual
  const trouble = async () => {
    await simulation.sleep(6000)
    store.down.add('m1')
    await simulation.sleep(4000)
    store.loseWatches()
    store.down.clear()
  }
  // A lease has to outlive its time by its margin.
  const lastsMs = options.bug?.startsWith('lease') ? 1.5 * LASTS_MS : LASTS_MS
  const result = await virtual.play(workload, virtual.access(), lastsMs, options.trouble ? { trouble } : {})
  const faults = options.trouble ? [made(0, 'kill', 6000, 10_000)] : []
  const record = emptyRun({
    workloads: [result],
    faults,
    healedMs: lastsMs,
    endedMs: simulation.nowMs,
    mustHold: ['S1'],
  })
  return { result, verdict: judge(record) }
}

const stateOf = (verdict: ReturnType<typeof judge>) =>
  Object.fromEntries(verdict.promises.filter((p) => p.state !== 'not tested').map((p) => [p.promise, p.state]))

test('a store that keeps its promises is found to keep them, in calm and in trouble', async () => {
  for (const trouble of [false, true]) {
    const { result, verdict } = await run({ trouble })
    assert.deepEqual(stateOf(verdict), { S1: 'ok', S2: 'ok', S3: 'ok', S4: 'ok', S5: 'ok' }, JSON.stringify(verdict))
    assert.equal(verdict.state, 'ok')
    assert.ok(result.history.length > 500)
    assert.ok(verdict.requests.failed > 0 === trouble)
    assert.ok((verdict.requests.failedAfterRetry ?? 0) <= verdict.requests.failed)
    if (trouble) assert.ok(result.history.some((record) => record.outcome === 'may-have-happened'))
  }
})

for (const [bug, promise, says] of [
  ['lost-write', 'S1', /acknowledged at revision \d+; there is nothing/],
  ['stale-read', 'S2', /no legal order|it read|read \[/],
  ['compare-ignored', 'S2', /comparison|no legal order/],
  ['applied-twice', 'S1', /happened 2 times/],
  ['refused-but-done', 'S1', /did not happen, the client was told; it did/],
  ['watch-gap', 'S3', /reliable|bookmarkable/],
  ['watch-twice', 'S3', /unique|bookmarkable/],
  ['unequal-state', 'S4', /m0 holds 1, m1 2/],
  ['lease-early', 'S5', /early/],
  ['lease-for-ever', 'S5', /late/],
] as const)
  test(`${bug} is found by ${promise}`, async () => {
    const { verdict } = await run({ bug })
    const found = verdict.promises.find((one) => one.promise === promise)
    assert.equal(found?.state, 'violated', JSON.stringify(found))
    assert.match(found.evidence.join('\n'), says)
    assert.ok(found.evidence.length <= 24)
    assert.equal(verdict.state, 'violated')
  })

test('what no watch tells is unknown, neither ok nor violated', async () => {
  const { verdict } = await run({ bug: 'watch-silent' })
  const states = stateOf(verdict)
  assert.deepEqual(
    [states['S1'], states['S2'], states['S3']],
    ['unknown', 'unknown', 'unknown'],
    JSON.stringify(verdict),
  )
  assert.equal(verdict.state, 'unknown')
})

test('one seed is one history', async () => {
  const [one, other] = [await run({ seed: 's' }), await run({ seed: 's' })]
  assert.equal(JSON.stringify(one.result), JSON.stringify(other.result))
})

test('at its bound it ends by itself, and the verdict is no pass', async () => {
  const virtual = new Virtual('bound')
  const store = new FakeStore(virtual)
  const workload = storeWorkload(() => ({ stores: store.ports, apis: [] }))
  const result = await virtual.play(workload, virtual.access(), LASTS_MS, { use: { operationsMax: 300 } })
  assert.ok(result.history.length < 320)
  const verdict = judge(emptyRun({ workloads: [result], mustHold: ['S1'] }))
  assert.equal(verdict.promises.find((one) => one.promise === 'S1')?.state, 'unknown')
  assert.equal(verdict.state, 'unknown')
})
