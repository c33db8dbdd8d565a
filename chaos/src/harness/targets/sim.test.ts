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
    [3500, 'containers-killed', { whom: 'node:0', count: 1 }, 500],
  )
  const scenario = scenarioNamed('storm')
  const { run } = await runInSimulation(scenario, '0x7', { ...OPTIONS, schedule })
  assert.deepEqual(
    run.faults.map((fault) => [fault.fault, fault.result]),
    [
      ['kill', 'made'],
      ['slow-sync', 'made'],
      ['partial', 'made'],
      ['containers-killed', 'not tested'],
    ],
  )
  for (const fault of run.faults.filter((one) => one.result === 'made'))
    assert.ok(fault.proof && fault.struck.length > 0 && fault.undoneMs !== undefined, JSON.stringify(fault))
  assert.equal(run.verdict.state, 'ok')
  assert.ok(run.notTested.some(({ what }) => what === 'fault containers-killed'))
})

test('of every fault it is known whether the simulation can make it', () => {
  for (const { name } of FAULTS) simLack({ fault: name, parameters: {} })
  assert.match(simLack({ fault: 'kill', parameters: { component: 'kubelet' } }) ?? '', /as a whole/)
})
