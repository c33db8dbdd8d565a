import assert from 'node:assert/strict'
import { test } from 'node:test'
import { judge } from '../verdict/judge.js'
import { emptyRun, made } from '../verdict/testing.js'
import { apiWorkload } from './api-workload.js'
import { type ApiBug, FakeApi } from './testing/fake-api.js'
import { Virtual } from './testing/virtual.js'

const LASTS_MS = 14_000

async function run(options: { bug?: ApiBug; trouble?: boolean } = {}) {
  const virtual = new Virtual('api')
  const api = new FakeApi(virtual, options.bug)
  const { simulation } = virtual
  const trouble = async () => {
    await simulation.sleep(6000)
    api.down.add('a1')
    api.loseWatches()
    await simulation.sleep(4000)
    api.down.clear()
  }
  const workload = apiWorkload(() => ({ stores: [], apis: api.ports }))
  const result = await virtual.play(workload, virtual.access(), LASTS_MS, options.trouble ? { trouble } : {})
  const faults = options.trouble ? [made(0, 'kill', 6000, 10_000)] : []
  const record = emptyRun({
    workloads: [result],
    faults,
    healedMs: LASTS_MS,
    endedMs: simulation.nowMs,
    mustHold: ['S1'],
  })
  return { result, verdict: judge(record) }
}

test('an API that keeps its promises is found to keep them, in calm and in trouble', async () => {
  for (const trouble of [false, true]) {
    const { result, verdict } = await run({ trouble })
    const states = verdict.promises.filter((p) => p.state !== 'not tested').map((p) => [p.promise, p.state])
    assert.deepEqual(
      states,
      ['S1', 'S2', 'S3', 'A1'].map((promise) => [promise, 'ok']),
      JSON.stringify(verdict),
    )
    assert.equal(verdict.state, 'ok')
    const count = (operation: string) =>
      result.history.filter((r) => r.operation === operation && r.outcome === 'ok').length
    for (const operation of ['create', 'get', 'update', 'patch', 'delete', 'list'])
      assert.ok(count(operation) > 5, operation)
    assert.ok(result.history.some((r) => r.value === 'Conflict'))
    if (trouble) assert.ok(result.history.some((record) => record.outcome === 'may-have-happened'))
    if (trouble) assert.ok(result.watches.every((watch) => watch.events.length > 50))
  }
})

for (const [bug, promise, says] of [
  ['lost-write', 'S1', /acknowledged at revision \d+; there is nothing/],
  ['lost-on-one-master', 'S1', /by a1 .* is not there/],
  ['stale-get', 'S2', /get → object value/],
  ['conflict-ignored', 'S2', /update value .* expected \d+ → done/],
  ['watch-gap', 'S3', /it should have got|did not have/],
  ['watch-added-twice', 'S3', /ADDED of .*, which it already had/],
  ['bad-taken', 'A1', /took it/],
  ['vague-refusal', 'A1', /says only Invalid: no/],
] as const)
  test(`${bug} is found by ${promise}`, async () => {
    const { verdict } = await run({ bug })
    const found = verdict.promises.find((one) => one.promise === promise)
    assert.equal(found?.state, 'violated', JSON.stringify(found))
    assert.match(found.evidence.join('\n'), says)
  })

test('what no watch tells is unknown, neither ok nor violated', async () => {
  const { verdict } = await run({ bug: 'watch-silent' })
  const states = verdict.promises.filter(({ promise }) => /S[13]/.test(promise)).map(({ state }) => state)
  assert.deepEqual(states, ['unknown', 'unknown'], JSON.stringify(verdict))
})

test('what shows an illegal order is short', async () => {
  const { verdict } = await run({ bug: 'conflict-ignored' })
  const found = verdict.promises.find((one) => one.promise === 'S2')
  const [, piece, all] = /these (\d+) of (\d+) operations/.exec(found?.text ?? '') ?? []
  assert.ok(Number(piece) <= Number(all) / 2, found?.text)
})
