import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Simulation } from '@capstan/sim'
import type { ClusterTargets } from '../../sim/scenario.js'
import { fixed } from '../draw-schedule.js'
import type { FaultRecord } from '../types.js'
import { playSchedule } from './sim.js'

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
  await at(5000)
  assert.deepEqual([isFull(), link().delayMs[0], offset() - before], [false, simulation.network.normal.delayMs[0], 0])
  played.heal()
  assert.deepEqual(new Set(records.map(({ result }) => result)), new Set(['made']))
})
