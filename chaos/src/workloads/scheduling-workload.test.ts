import assert from 'node:assert/strict'
import { test } from 'node:test'
import { judge } from '../verdict/judge.js'
import { emptyRun } from '../verdict/testing.js'
import { schedulingWorkload } from './scheduling-workload.js'
import { type ApiBug, FakeApi } from './testing/fake-api.js'
import { Virtual } from './testing/virtual.js'

async function run(bug?: ApiBug) {
  const virtual = new Virtual('scheduling')
  const api = new FakeApi(virtual, bug)
  const workload = schedulingWorkload(() => ({ stores: [], apis: api.ports }))
  const result = await virtual.play(workload, virtual.access(), 40_000)
  return { result, c4: judge(emptyRun({ workloads: [result] })).promises.find((one) => one.promise === 'C4') }
}

test('bursts of more pods than fit fill the nodes and no more', async () => {
  const { result, c4 } = await run()
  assert.equal(c4?.state, 'ok', JSON.stringify(c4))
  assert.match(c4?.text ?? '', /in [3-9] bursts \d\d+ pods were bound once each.*the fullest: 84 %/)
  assert.ok((result.counters['pods bound'] ?? 0) >= 27)
})

test('overcommit is found by C4', async () => {
  const { c4 } = await run('overcommit')
  assert.equal(c4?.state, 'violated')
  assert.match(c4?.evidence.join() ?? '', /node-0 can give 4000m of processor; with burst-\d+ its 4 pods ask for 4480m/)
})
