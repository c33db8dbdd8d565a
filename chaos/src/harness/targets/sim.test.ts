import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fixed } from '../draw-schedule.js'
import { FAULTS } from '../faults.js'
import { scenarioNamed } from '../scenarios.js'
import { runInSimulation, simLack } from './sim.js'

const OPTIONS = { troubleMs: 6000, startedAt: '', environment: {} }

test('a schedule is played in virtual time, each fault proved and undone', {
  timeout: 120_000,
}, async () => {
  const schedule = fixed(
    [0, 'kill', { whom: 'leader', component: 'machine' }, 2000],
    [1000, 'slow-sync', { whom: 'master:1', ms: 200 }, 2000],
    [3000, 'partial', { whom: 'follower:0', from: 'leader' }, 2000],
    [3500, 'slow-consumer', {}, 500],
  )
  const scenario = scenarioNamed('storm')
  const { run } = await runInSimulation(scenario, '0x7', { ...OPTIONS, schedule })
  assert.deepEqual(
    run.faults.map((fault) => [fault.fault, fault.result]),
    [
      ['kill', 'made'],
      ['slow-sync', 'made'],
      ['partial', 'made'],
      ['slow-consumer', 'not tested'],
    ],
  )
  for (const fault of run.faults.filter((one) => one.result === 'made'))
    assert.ok(fault.proof && fault.struck.length > 0 && fault.undoneMs !== undefined, JSON.stringify(fault))
  assert.equal(run.verdict.state, 'ok')
  assert.ok(run.notTested.some(({ what }) => what === 'fault slow-consumer'))
})

test('single processes die and stand still; people take pods away; each is proved, and all converges', {
  timeout: 120_000,
}, async () => {
  const schedule = fixed(
    [0, 'kill', { whom: 'leader', component: 'store' }, 1000],
    [500, 'hang', { whom: 'master:1', component: 'control' }, 3000],
    [1000, 'kill', { whom: 'controllers', component: 'control' }, 1000],
    [2000, 'kill', { whom: 'node:0', component: 'kubelet' }, 1000],
    [3000, 'hang', { whom: 'leader', component: 'bus' }, 1500],
    [5000, 'hang', { whom: 'node:1', component: 'kubelet' }, 2000],
    [9000, 'containers-killed', { whom: 'node:0', count: 2 }, 500],
    [10_000, 'delete-pods', { count: 1, force: true }, 500],
    [11_000, 'drain', { whom: 'node:1' }, 1000],
    [13_000, 'cordon', { whom: 'node:2' }, 1000],
  )
  const { run } = await runInSimulation(scenarioNamed('storm'), '0x9', { ...OPTIONS, troubleMs: 20_000, schedule })
  for (const { fault, result, why, proof, undoneMs } of run.faults) {
    assert.equal(result, 'made', `${fault}: ${why}`)
    assert.ok(proof && undoneMs !== undefined, fault)
  }
  assert.equal(run.faults.length, schedule.faults.length)
  assert.equal(run.verdict.state, 'ok', JSON.stringify(run.verdict.promises))
})

test('of every fault it is known whether the simulation can make it', () => {
  for (const { name } of FAULTS) simLack({ fault: name, parameters: {} })
  assert.match(simLack({ fault: 'kill', parameters: { component: 'containerd' } }) ?? '', /no containerd/)
})
