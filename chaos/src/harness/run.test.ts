import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { SimRandom } from '@capstan/sim'
import { drawSchedule, fixed, oneAfterTheOther, readSchedule } from './draw-schedule.js'
import { FAULTS, faultNamed } from './faults.js'
import { EXIT_CODES, runScenario } from './run.js'
import { SCENARIOS } from './scenarios.js'
import { shrinkSchedule } from './shrink.js'
import { fakeJudge, FakeTarget, type FakeTargetOptions, fakeWorkload } from '../testing/harness.js'
import type { FaultParameters, Scenario, Schedule } from './types.js'
import { resolveWhom } from './whom.js'

const SCENARIO: Scenario = {
  name: 'fake',
  about: 'for tests',
  workloads: [{ workload: 'fake' }],
  mustHold: ['S1'],
  needs: { masters: 3, nodes: 0 },
  warmUpMs: 1000,
  troubleMs: 10_000,
  settleMs: 5000,
  schedule: () => fixed(),
}

interface Play {
  target?: FakeTargetOptions
  loses?: (target: FakeTarget) => boolean
  signal?: AbortSignal
  scenario?: Partial<Scenario>
}

async function play(schedule: Schedule, options: Play = {}) {
  const target = new FakeTarget(options.target)
  const run = await target.clock.until(
    runScenario({
      scenario: { ...SCENARIO, ...options.scenario },
      schedule,
      target,
      workloads: [fakeWorkload(target, options.loses)],
      judge: fakeJudge,
      seed: '0x1',
      random: new SimRandom('0x1'),
      clock: target.clock,
      environment: {},
      ...(options.signal ? { signal: options.signal } : {}),
    }),
  )
  return { run, target }
}

const KILL_LEADER = fixed([2000, 'kill', { whom: 'leader', component: 'machine' }, 3000])

describe('a run', () => {
  test('plays each fault at its time, undoes it after its time, and tells both with proof', async () => {
    const { run, target } = await play(KILL_LEADER)
    assert.deepEqual(target.log, ['3000 kill master-0 machine', '6000 undo kill master-0'])
    const [fault] = run.faults
    assert.equal(fault?.result, 'made')
    assert.deepEqual(
      [fault.struck, fault.proof, fault.undoProof],
      [['master-0'], 'master-0 is gone', 'master-0 is back'],
    )
    assert.equal(run.verdict.state, 'ok')
    assert.ok(run.samples.some((sample) => sample.undesired === 'master-0 down'))
    assert.equal(run.samples.at(-1)?.undesired, undefined)
    // Warm-up, trouble, and two calm looks.
    assert.ok(run.endedMs >= 11_000 && run.endedMs < 13_000, `ended at ${run.endedMs}`)
  })

  test('a fault that strikes the leader waits for one', async () => {
    const { run } = await play(
      fixed(
        [0, 'kill', { whom: 'masters', component: 'machine' }, 3000],
        [1000, 'kill', { whom: 'leader', component: 'machine' }, 1000],
      ),
    )
    const second = run.faults.find(({ index }) => index === 1)
    assert.deepEqual([second?.result, second?.struck], ['made', ['master-0']])
    assert.ok((second?.inForceMs ?? 0) >= 4000, `in force at ${second?.inForceMs} ms`)
  })

  test('faults overlap; what outlasts the trouble is undone at its end', async () => {
    const { target } = await play(
      fixed(
        [0, 'kill', { whom: 'master-1', component: 'machine' }, 5000],
        [2000, 'hang', { whom: 'node:1', component: 'kubelet' }, 60_000],
      ),
    )
    assert.deepEqual(target.log, [
      '1000 kill master-1 machine',
      '3000 pause node-1 kubelet',
      '6000 undo kill master-1',
      '11000 undo pause node-1',
    ])
  })

  test('a fault that does not bite makes the run unknown, never ok', async () => {
    const { run } = await play(KILL_LEADER, { target: { broken: 'kill' } })
    assert.equal(run.faults[0]?.result, 'failed')
    assert.equal(run.faults[0]?.why, 'master-0 does not care')
    assert.equal(run.verdict.state, 'unknown')
    assert.equal(EXIT_CODES[run.verdict.state], 2)
  })

  test('of faults that were drawn one in five may fail, as when another had switched its machine off', async () => {
    const hangs = (count: number) =>
      Array.from({ length: count }, (_, at): [number, string, FaultParameters, number] => [
        1000 * at,
        'hang',
        { whom: 'node:1', component: 'kubelet' },
        500,
      ])
    const kill: [number, string, FaultParameters, number] = [
      5000,
      'kill',
      { whom: 'leader', component: 'machine' },
      500,
    ]
    const state = async (count: number, essential: string[]) => {
      const { run } = await play(fixed(...hangs(count), kill), { target: { broken: 'kill' }, scenario: { essential } })
      return run.verdict.state
    }
    assert.deepEqual([await state(4, []), await state(3, []), await state(4, ['kill'])], ['ok', 'unknown', 'unknown'])
  })

  test('a fault that the target cannot make is not tested, with the reason; so is the scenario that is about it', async () => {
    const cut = fixed([0, 'isolate', { whom: 'leader' }, 1000], ...[])
    const { run } = await play(cut)
    assert.deepEqual(run.notTested, [{ what: 'fault isolate', why: 'pretences have no network' }])
    assert.equal(run.verdict.state, 'not tested')
    assert.equal(EXIT_CODES[run.verdict.state], 3)
    const { run: beside } = await play(cut, { scenario: { essential: [] } })
    assert.equal(beside.verdict.state, 'ok')
    assert.equal(beside.notTested.length, 1)
  })

  test('what cannot be undone is told, and the run is not ok', async () => {
    const { run } = await play(KILL_LEADER, { target: { stuck: true } })
    assert.deepEqual(run.troubles, ['kill of master-0 could not be undone: it is stuck'])
    assert.equal(run.verdict.state, 'unknown')
    assert.equal(run.samples.at(-1)?.undesired, 'master-0 down')
  })

  test('interrupted: faults are undone at once, workloads stopped', async () => {
    const abort = new AbortController()
    const target = new FakeTarget()
    const running = runScenario({
      scenario: SCENARIO,
      schedule: fixed([0, 'kill', { whom: 'leader', component: 'machine' }, 9000]),
      target,
      workloads: [fakeWorkload(target)],
      judge: fakeJudge,
      seed: '0x1',
      random: new SimRandom('0x1'),
      clock: target.clock,
      environment: {},
      events: { fault: (_, what) => what === 'in force' && abort.abort() },
      signal: abort.signal,
    })
    const run = await target.clock.until(running)
    assert.deepEqual(target.log, ['1000 kill master-0 machine', '1000 undo kill master-0'])
    assert.equal(run.verdict.state, 'unknown')
  })

  test('a planted bug comes out violated, and its schedule shrinks to the two faults that it takes', async () => {
    const loses = (target: FakeTarget) => {
      const kinds = [...target.down.values()]
      return kinds.includes('kill') && kinds.includes('pause')
    }
    const schedule = drawSchedule(new SimRandom('0x2a'), {
      machines: new FakeTarget().machines,
      troubleMs: 10_000,
      faults: ['kill', 'hang', 'restart'],
      everyMs: [300, 1200],
      lastsMs: [500, 2500],
    })
    const { run } = await play(schedule, { loses })
    assert.equal(run.verdict.state, 'violated')
    const fails = async (candidate: Schedule) => (await play(candidate, { loses })).run.verdict.state === 'violated'
    const shrunk = await shrinkSchedule(schedule, fails)
    assert.ok(schedule.faults.length > 4, `${schedule.faults.length} faults to begin with`)
    assert.equal(shrunk.schedule.faults.length, 2)
    assert.ok(shrunk.isMinimal)
    // A replay from its file fails the same way.
    assert.ok(await fails(readSchedule(JSON.parse(JSON.stringify(shrunk)))))
  })

  test('a shrinking that is interrupted keeps what fails, plays nothing more, and does not claim that it is the least', async () => {
    const schedule = fixed(
      ...[0, 1000, 2000, 3000].map((atMs): Parameters<typeof fixed>[0] => [atMs, 'kill', { whom: 'leader' }, 500]),
    )
    const abort = new AbortController()
    let runs = 0
    const fails = async (candidate: Schedule) => {
      // The first of the four is the cause; during the second run somebody has had enough.
      if (++runs === 2) abort.abort()
      return candidate.faults.some(({ atMs }) => atMs === 0)
    }
    const shrunk = await shrinkSchedule(schedule, fails, { signal: abort.signal })
    assert.deepEqual([runs, shrunk.runs, shrunk.isMinimal], [2, 2, false])
    assert.deepEqual(
      shrunk.schedule.faults.map(({ atMs }) => atMs),
      [0, 1000],
    )
  })
})

describe('roles', () => {
  const { machines } = new FakeTarget()
  const who = (whom: string) =>
    resolveWhom(whom, machines, { leader: 'master-1', controllers: 'master-2' }, new SimRandom('x'))
  test('are resolved when the fault strikes', () => {
    assert.deepEqual(who('leader'), ['master-1'])
    assert.deepEqual(who('controllers'), ['master-2'])
    assert.deepEqual(who('follower:0'), ['master-0'])
    assert.deepEqual(who('follower:1'), ['master-2'])
    assert.deepEqual(who('node:3'), ['node-1'])
    assert.deepEqual(who('zone:b'), ['master-2'])
    assert.equal(who('majority').length, 2)
    assert.equal(who('minority').length, 1)
    assert.throws(() => who('nobody'), /no machine/)
    assert.throws(() => resolveWhom('leader', machines, {}, new SimRandom('x')), /nobody leads/)
  })
})

describe('schedules', () => {
  const { machines } = new FakeTarget()
  test('the same seed draws the same, another one another', () => {
    for (const scenario of SCENARIOS) {
      const drawn = (seed: string) =>
        JSON.stringify(scenario.schedule(new SimRandom(seed), { machines, troubleMs: scenario.troubleMs }))
      assert.equal(drawn('a'), drawn('a'), scenario.name)
      readSchedule(JSON.parse(drawn('b')))
    }
    const storm = SCENARIOS.find((one) => one.name === 'storm') as Scenario
    const options = { machines, troubleMs: 60_000 }
    assert.notDeepEqual(storm.schedule(new SimRandom('a'), options), storm.schedule(new SimRandom('b'), options))
  })

  test('repeated, each begins when the one before has had its time', () => {
    const { faults } = oneAfterTheOther([KILL_LEADER, KILL_LEADER], 10_000)
    assert.deepEqual(
      faults.map(({ atMs, lastsMs }) => [atMs, lastsMs]),
      [
        [2000, 3000],
        [12_000, 3000],
      ],
    )
  })

  test('every scenario names faults that there are, and ends within its time', () => {
    for (const scenario of SCENARIOS) {
      const { faults } = scenario.schedule(new SimRandom('a'), { machines, troubleMs: scenario.troubleMs })
      for (const line of faults)
        assert.ok(line.atMs + 1 <= scenario.troubleMs, `${scenario.name}: ${JSON.stringify(line)}`)
      for (const name of scenario.essential ?? []) faultNamed(name)
    }
  })

  test('every fault can be drawn, and survives JSON', () => {
    for (const fault of FAULTS) {
      const parameters = fault.draw(new SimRandom(fault.name), { machines })
      assert.deepEqual(JSON.parse(JSON.stringify(parameters)), parameters, fault.name)
    }
  })

  test('what is no schedule is refused with the place', () => {
    assert.throws(() => readSchedule({ formatVersion: 2, faults: [] }), /format 2/)
    assert.throws(
      () => readSchedule({ formatVersion: 1, faults: [{ fault: 'kill', parameters: {}, atMs: -1, lastsMs: 0 }] }),
      /faults\[0\]\.atMs/,
    )
    assert.throws(() => readSchedule({ formatVersion: 1, faults: [{ fault: 'klll' }] }), /no fault "klll"/)
  })
})
