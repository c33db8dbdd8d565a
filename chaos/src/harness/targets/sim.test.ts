import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Simulation } from '@capstan/sim'
import type { ClusterTargets } from '../../sim/scenario.js'
import { fixed } from '../draw-schedule.js'
import { FAULTS } from '../faults.js'
import { scenarioNamed } from '../scenarios.js'
import type { FaultRecord } from '../types.js'
import { playSchedule, runInSimulation, simLack } from './sim.js'

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

test('a fault stays in force until it is undone itself, also where another one of its kind ends before', async () => {
  const simulation = new Simulation({ seed: 'overlap' })
  const { disk } = simulation.machine('master-0')
  const link = () => simulation.network.link('master-0', 'master-1')
  const linked = ['master-0', 'master-1']
  const nobody = () => Promise.resolve(undefined)
  const targets = { linked, leader: nobody, controllers: nobody } as unknown as ClusterTargets
  const records: FaultRecord[] = []
  const schedule = fixed(
    [0, 'disk-full', { whom: 'master-0' }, 2000],
    [1000, 'disk-full', { whom: 'master-0' }, 3000],
    [0, 'delay', { whom: 'master-0', ms: 50 }, 4000],
    [1000, 'loss', { whom: 'master-0', share: 0.5 }, 1000],
    [2000, 'flapping', { whom: 'master-0', offMs: 100, onMs: 300 }, 1500],
    [0, 'clock-jump', { whom: 'master-1', ms: 60_000 }, 2000],
    [1000, 'clock-jump', { whom: 'master-1', ms: 30_000 }, 3000],
  )
  const played = playSchedule(schedule, records, [])(simulation, targets)
  const isFull = () => disk.freeBytes === 0
  const offset = () => simulation.machine('master-1').clockOffsetMs
  const before = offset()
  const warmUpMs = 1000
  const at = (ms: number) => simulation.run({ untilMs: warmUpMs + ms })

  await at(1500)
  assert.deepEqual([isFull(), link().loss, link().delayMs[0], offset() - before], [true, 0.5, 50, 90_000])
  await at(3000)
  assert.deepEqual([isFull(), link().loss, link().delayMs[0], offset() - before], [true, 0, 50, 30_000])
  await at(3250)
  assert.deepEqual([link().cut, link().delayMs[0]], [true, 50], 'cut in its turn')
  await at(3400)
  assert.deepEqual([link().cut, link().delayMs[0]], [false, 50], 'whole in its turn, and slow for the other fault')
  await at(5000)
  assert.deepEqual([isFull(), link().delayMs[0], offset() - before], [false, simulation.network.normal.delayMs[0], 0])
  played.heal()
  assert.deepEqual(new Set(records.map(({ result }) => result)), new Set(['made']))
})
