import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { World } from '@capstan/actor'
import fc from 'fast-check'
import { EventQueue } from './event-queue.js'
import { SimRandom } from './sim-random.js'
import { Simulation } from './simulation.js'

const grants = { publish: ['>'], subscribe: ['>'] }
const world = (simulation: Simulation, name: string): World =>
  simulation.machine(name).world({ identity: name, inbox: `in.${name}`, grants })

/** Some life on two machines: timers, messages, a disk, chance. */
async function life(seed: string): Promise<{ hash: string; seen: string[] }> {
  const simulation = new Simulation({ seed })
  const seen: string[] = []
  const link = simulation.network.link('a', 'b')
  Object.assign(link, { delayMs: [1, 30], loss: 0.1, duplicate: 0.1, reorder: true })
  const [a, b] = [world(simulation, 'a'), world(simulation, 'b')]
  b.bus.subscribe('x.*', (message) => {
    seen.push(`${b.clock.monotonicMs()} ${message.subject} ${message.payload.join()}`)
    b.disk.writeAtomic(message.subject, message.payload).then(
      () => seen.push(`${b.clock.nowMs()} written`),
      () => undefined,
    )
  })
  const beat = () => {
    a.bus.publish(`x.${a.random.int(3)}`, a.random.bytes(4))
    a.clock.setTimer(a.random.int(20), beat)
  }
  beat()
  simulation.at(300, () => simulation.machine('b').pause(100))
  await simulation.run({ untilMs: 1000 })
  return { hash: simulation.trace.hash, seen }
}

test('one seed is one history, another seed another', async () => {
  const [first, second, other] = [await life('1'), await life('1'), await life('2')]
  assert.deepEqual(first, second)
  assert.ok(first.seen.length > 50)
  assert.notEqual(first.hash, other.hash)
})

test('a history is what it was when this test was written, on every engine', async () => {
  // Changes with the simulation itself, never with the Node that runs it.
  assert.equal((await life('pinned')).hash, '7bde6c5af48cf993')
  const random = new SimRandom('pinned')
  assert.deepEqual(
    [random.int(1000), random.int(1000), random.fork('x').int(1000), random.int(1000)],
    [790, 605, 303, 892],
  )
})

test('streams of different names do not disturb each other', () => {
  const draw = (disturb: boolean) => {
    const random = new SimRandom('s')
    const [x, y] = [random.fork('x'), random.fork('y')]
    if (disturb) for (let n = 0; n < 10; n++) y.next()
    return Array.from({ length: 5 }, () => x.next())
  }
  assert.deepEqual(draw(false), draw(true))
})

test('chance is even enough', () => {
  const random = new SimRandom('even')
  const counts = Array.from({ length: 10 }, () => 0)
  for (let n = 0; n < 100_000; n++) counts[random.int(10)] = (counts[random.int(10)] as number) + 1
  const drawn = Array.from({ length: 16 }, () => 0)
  for (let n = 0; n < 160_000; n++) {
    const at = random.int(16)
    drawn[at] = (drawn[at] as number) + 1
  }
  for (const count of drawn) assert.ok(Math.abs(count - 10_000) < 500, String(drawn))
})

test('events run by time, then by the order in which they were put in; cancelled ones do not', () => {
  fc.assert(
    fc.property(fc.array(fc.record({ at: fc.integer({ min: 0, max: 20 }), cancel: fc.boolean() })), (events) => {
      const queue = new EventQueue()
      const ran: number[] = []
      const put = events.map(({ at }, n) => queue.push(at, () => ran.push(n)))
      for (const [n, { cancel }] of events.entries()) if (cancel) (put[n] as { cancelled: boolean }).cancelled = true
      while (queue.peek()) queue.pop()?.run()
      const due = events.map((e, n) => ({ ...e, n })).filter((e) => !e.cancel)
      assert.deepEqual(
        ran,
        due.sort((x, y) => x.at - y.at || x.n - y.n).map((e) => e.n),
      )
    }),
  )
})

test('all that an event makes ready runs before the next one', async () => {
  const simulation = new Simulation({ seed: '1' })
  const { clock } = world(simulation, 'a')
  const order: string[] = []
  clock.setTimer(5, () => {
    order.push('first')
    void Promise.resolve()
      .then(() => Promise.resolve())
      .then(() => order.push('its promises'))
    clock.defer(() => order.push('deferred'))
  })
  clock.setTimer(5, () => order.push('second'))
  await simulation.run({ untilMs: 10 })
  assert.deepEqual(order, ['first', 'its promises', 'second', 'deferred'])
})

test('of a crashed machine nothing happens any more, also after it was restarted', async () => {
  const simulation = new Simulation({ seed: '1' })
  const machine = simulation.machine('a')
  const old = world(simulation, 'a')
  const happened: string[] = []
  old.clock.setTimer(10, () => happened.push('timer'))
  void old.disk.writeAtomic('f', new Uint8Array(1)).then(() => happened.push('write'))
  old.bus.subscribe('x', () => happened.push('message'))
  void old.bus.request('nobody', new Uint8Array(0), { timeoutMs: 20 }).catch(() => happened.push('answer'))
  machine.crash()
  assert.equal(machine.up, false)
  machine.restart()
  const fresh = world(simulation, 'a')
  world(simulation, 'b').bus.publish('x', new Uint8Array(0))
  fresh.clock.setTimer(30, () => happened.push('new life'))
  await simulation.run({ untilMs: 100 })
  assert.deepEqual(happened, ['new life'])
  assert.throws(() => old.bus.publish('x', new Uint8Array(0)), /closed/)
})

test('a process dies or stands still alone; what it wrote stays, un-synced too, until the machine dies', async () => {
  const simulation = new Simulation({ seed: 'processes' })
  const machine = simulation.machine('a')
  const process = (name: string) => machine.world({ identity: name, inbox: `in.${name}`, grants, directory: name })
  const [one, two, other] = [process('one'), process('two'), world(simulation, 'b')]
  const seen: string[] = []
  const tick = (name: string, of: World) => () => {
    seen.push(`${name} ${Math.floor(simulation.nowMs / 100)}`)
    of.clock.setTimer(100, tick(name, of))
  }
  one.clock.setTimer(50, tick('one', one))
  two.clock.setTimer(50, tick('two', two))
  for (const [name, of] of [
    ['one', one],
    ['two', two],
  ] as const)
    of.bus.subscribe('x', () => void seen.push(`${name} hears at ${Math.floor(simulation.nowMs / 100)}`))
  const file = await simulation.finish(one.disk.open('f'), 40, 'a file')
  await simulation.finish(file.write(0, Uint8Array.of(7)), 45, 'a write')
  simulation.at(240, () => one.process.kill())
  simulation.at(240, () => two.process.pause(300))
  simulation.at(320, () => other.bus.publish('x', new Uint8Array(1)))
  await simulation.run({ untilMs: 700 })
  assert.deepEqual(
    seen.filter((line) => !line.includes('hears')),
    ['one 0', 'two 0', 'one 1', 'two 1', 'two 5', 'two 6'],
  )
  assert.deepEqual(
    seen.filter((line) => line.includes('hears')),
    ['two hears at 5'],
  )
  assert.deepEqual([one.process.alive, two.process.alive, machine.up], [false, true, true])
  assert.deepEqual(machine.disk.peek('/one/f'), Uint8Array.of(7))
  assert.throws(() => one.bus.publish('x', new Uint8Array(1)), /closed/)
  machine.crash()
  assert.equal(two.process.alive, false)
})

test('what falls due in a pause happens after it: messages in order, timers a little late; time goes on meanwhile', async () => {
  const simulation = new Simulation({ seed: '1' })
  const [a, b] = [world(simulation, 'a'), world(simulation, 'b')]
  const happened: string[] = []
  let timerMs = 0
  a.clock.setTimer(10, () => (timerMs = a.clock.monotonicMs()))
  a.bus.subscribe('x', (message) => happened.push(`${message.payload[0]} at ${a.clock.monotonicMs()}`))
  simulation.machine('a').pause(100)
  assert.equal(simulation.machine('a').paused, true)
  b.clock.setTimer(15, () => {
    b.bus.publish('x', Uint8Array.of(1))
    b.bus.publish('x', Uint8Array.of(2))
  })
  await simulation.run({ untilMs: 99 })
  assert.deepEqual([happened, timerMs], [[], 0])
  await simulation.run({ untilMs: 200 })
  assert.deepEqual(happened, ['1 at 100', '2 at 100'])
  assert.ok(timerMs >= 100 && timerMs < 130, String(timerMs))
  assert.equal(simulation.machine('a').paused, false)
})

test('clocks go fast and slow, and wall clocks jump', async () => {
  const simulation = new Simulation({ seed: '1' })
  const machine = simulation.machine('a')
  const { clock } = world(simulation, 'a')
  const wall = clock.nowMs()
  assert.equal(new Date(wall).toISOString(), '2026-01-01T00:00:00.000Z')
  await simulation.run({ untilMs: 1000 })
  machine.setClockRate(1.05)
  let ranMs = 0
  clock.setTimer(1050, () => (ranMs = simulation.nowMs))
  await simulation.run({ untilMs: 3000 })
  assert.equal(Math.round(ranMs), 2000)
  assert.equal(Math.round(clock.monotonicMs()), 3100)
  machine.clockOffsetMs = -3600_000
  assert.equal(clock.nowMs(), wall + 3000 - 3600_000)
  assert.equal(Math.round(clock.monotonicMs()), 3100)
})

test('the awaited condition, or a clear word that it did not come', async () => {
  const simulation = new Simulation({ seed: '1' })
  let done = false
  world(simulation, 'a').clock.setTimer(50, () => (done = true))
  await simulation.run({ until: () => done, untilMs: 100 })
  assert.equal(simulation.nowMs, 50)
  await assert.rejects(
    simulation.run({ until: () => false, untilMs: 100, what: 'pigs fly' }),
    /not by 100 ms .* pigs fly/,
  )
  await assert.rejects(simulation.finish(Promise.reject(new Error('broken')), 200, 'x'), /broken/)
  simulation.fail(new Error('must not be'))
  await assert.rejects(simulation.run({ untilMs: 300 }), /must not be/)
})

for (const [what, breach] of [
  ['Date.now', () => Date.now()],
  ['new Date\\(\\)', () => new Date()],
  ['Date\\(\\)', () => Date()],
  ['Math.random', () => Math.random()],
  ['setTimeout', () => setTimeout(() => undefined, 1)],
  ['setInterval', () => clearInterval(setInterval(() => undefined, 1))],
  ['setImmediate', () => setImmediate(() => undefined)],
  ['queueMicrotask', () => queueMicrotask(() => undefined)],
  ['performance.now', () => performance.now()],
  ['AbortSignal.timeout', () => AbortSignal.timeout(1)],
  ['crypto.randomUUID', () => crypto.randomUUID()],
] as const)
  test(`${what} ends the run, even if the component swallows the error; outside it works`, async () => {
    const simulation = new Simulation({ seed: '1' })
    world(simulation, 'a').clock.setTimer(1, () => {
      try {
        breach()
      } catch {
        // A component that keeps quiet about it.
      }
    })
    await assert.rejects(simulation.run({ untilMs: 10 }), new RegExp(`${what} in a simulation`))
    breach()
  })

test('dates that say their time are allowed', async () => {
  const simulation = new Simulation({ seed: '1' })
  let text = ''
  world(simulation, 'a').clock.setTimer(1, () => {
    const date = new Date(0)
    assert.ok(date instanceof Date)
    text = date.toISOString() + Date.UTC(1970, 0, 1)
  })
  await simulation.run({ untilMs: 10 })
  assert.equal(text, '1970-01-01T00:00:00.000Z0')
})
