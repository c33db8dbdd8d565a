/** Calls and streams (libs/actor) over a bus that doubles every message. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Caller, type IncomingCall, type OutStream, sendToAll, serve } from '@capstan/actor'
import { grants, identityToken, Subjects } from '@capstan/protocol'
import { Simulation } from './simulation.js'

const subjects = new Subjects('c')

function setUp(handle: (call: IncomingCall) => unknown, options: { refuseStale?: boolean } = {}) {
  const simulation = new Simulation({ seed: 'doubled' })
  const world = (component: 'apiserver' | 'store', name: string) => {
    const identity = { component, name }
    const token = identityToken(identity)
    return simulation
      .machine(name)
      .world({ identity: token, inbox: subjects.inbox(token, '1'), grants: grants('c', identity) })
  }
  for (const [from, to] of [
    ['a', 's'],
    ['s', 'a'],
  ] as const)
    simulation.network.link(from, to).duplicate = 1
  const client = world('apiserver', 'a')
  serve(world('store', 's'), { pattern: subjects.storeServed('s'), handle, ...options })
  const subject = subjects.store('s', client.bus.identity, 'txn')
  const finish = <T>(work: Promise<T>) => simulation.finish(work, simulation.nowMs + 10_000, 'the answers')
  return { simulation, client, caller: new Caller(client), subject, finish }
}

test('a doubled request is handled once; more of them than are remembered, too', async () => {
  const handled: unknown[] = []
  const { simulation, caller, subject, finish } = setUp((call) => {
    handled.push(call.body)
    return call.body
  })
  const wanted: number[] = []
  // One frame each, more than the server remembers.
  for (let count = 0; count < 5000; count++) {
    wanted.push(count)
    assert.equal(await finish(caller.call(subject, count, { timeoutMs: 1000 })), count)
  }
  assert.deepEqual(handled, wanted)
  assert.ok(simulation.network.counters.duplicated >= 10_000)
})

test('what was given up while the server stood still is not done when it goes on', async () => {
  for (const [refuseStale, expected] of [
    [true, ['before', 'patient', 'after']],
    [false, ['before', 'given up', 'patient', 'after']],
  ] as const) {
    const handled: unknown[] = []
    const { simulation, caller, subject, finish } = setUp((call) => handled.push(call.body), { refuseStale })
    const call = (body: string, timeoutMs: number) => caller.call(subject, body, { timeoutMs })
    await finish(call('before', 1000))
    simulation.machine('s').pause(4000)
    const givenUp = assert.rejects(call('given up', 1000), { code: 'TIMEOUT', outcome: 'maybe-applied' })
    const patient = call('patient', 9000)
    await finish(Promise.all([givenUp, patient]))
    await simulation.run({ untilMs: simulation.nowMs + 2000 })
    await finish(call('after', 1000))
    assert.deepEqual(handled, expected, `refuseStale: ${refuseStale}`)
  }
})

test('a frame in pieces, each of them doubled, is put together and handled once', async () => {
  let handled = 0
  const { caller, subject, finish } = setUp((call) => {
    handled++
    return call.body
  })
  const body = new Uint8Array(3 * 1024 * 1024 + 5).map((_, at) => at % 251)
  const answer = await finish(caller.call(subject, body, { timeoutMs: 5000 }))
  assert.ok(Buffer.from(answer as Uint8Array).equals(body))
  assert.equal(handled, 1)
})

test('a caller made anew under the same name on the same connection is heard', async () => {
  const handled: unknown[] = []
  const { client, caller, subject, finish } = setUp((call) => {
    handled.push(call.body)
    return 'done'
  })
  await finish(caller.call(subject, 'first', { timeoutMs: 1000 }))
  caller.close()
  const again = new Caller(client)
  assert.equal(await finish(again.call(subject, 'second', { timeoutMs: 1000 })), 'done')
  assert.deepEqual(handled, ['first', 'second'])
})

test('a doubled opening opens one stream; its credit still counts', async () => {
  const streams: OutStream[] = []
  const { caller, subject, finish } = setUp((call) => {
    const stream = call.openStream()
    streams.push(stream)
    for (let count = 0; count < 20; count++) stream.send(count)
    stream.end('closing')
  })
  const got: unknown[] = []
  const reason = await finish(
    new Promise((resolve) =>
      caller.openStream(subject, null, { data: (body) => void got.push(body), end: resolve }, { timeoutMs: 1000 }),
    ),
  )
  assert.deepEqual([reason, streams.length, got], ['closing', 1, Array.from({ length: 20 }, (_, at) => at)])
})

test('a writer that waits for credit goes on with it: the same control frame twice in a row is no doubled request', async () => {
  let stream: OutStream | undefined
  const { caller, subject, finish } = setUp((call) => {
    stream = call.openStream()
    for (let count = 0; count < 50; count++) stream.send(count)
  })
  const got: unknown[] = []
  await finish(
    new Promise<void>((resolve) => {
      const data = (body: unknown) => {
        got.push(body)
        if (got.length === 50) resolve()
      }
      caller.openStream(subject, null, { data, end: () => {} }, { timeoutMs: 1000, creditsMax: 4 })
    }),
  )
  assert.deepEqual(
    got,
    Array.from({ length: 50 }, (_, at) => at),
  )
  assert.equal(stream?.ended, false)
})

test('one body to many streams: each gets all in order; those of one caller share the message; one without credit waits alone', async () => {
  const streams: OutStream[] = []
  const { simulation, caller, subject } = setUp((call) => {
    streams.push(call.openStream({ shared: call.body !== 'alone' }))
  })
  const got = new Map<string, { n: number }[]>()
  const read = (name: string, body: string, options: { creditsMax: number; slow?: Promise<void> }) => {
    const list: { n: number }[] = []
    got.set(name, list)
    const data = (one: unknown) => {
      list.push(one as { n: number })
      return options.slow
    }
    const end = (reason: string) => list.push({ n: Number.NaN, ...{ reason } })
    caller.openStream(subject, body, { data, end }, { timeoutMs: 1000, creditsMax: options.creditsMax })
  }
  let goOn: () => void = () => {}
  const slow = new Promise<void>((resolve) => (goOn = resolve))
  read('a', 'shared', { creditsMax: 64 })
  read('b', 'shared', { creditsMax: 64 })
  read('slow', 'shared', { creditsMax: 2, slow })
  read('alone', 'alone', { creditsMax: 64 })
  const until = (what: string, holds: () => boolean) =>
    simulation.run({ until: holds, untilMs: simulation.nowMs + 2000, what })
  await until('the streams', () => streams.length === 4)
  const room: number[] = []
  streams.forEach((stream, at) => stream.onRoom(() => room.push(at)))
  for (let n = 0; n < 10; n++) sendToAll(streams, { n, text: 'x'.repeat(100) })
  const numbers = (name: string) => got.get(name)?.map(({ n }) => n)
  const all = Array.from({ length: 10 }, (_, n) => n)
  await until('the fast readers', () => ['a', 'b', 'alone'].every((name) => got.get(name)?.length === 10))
  for (const name of ['a', 'b', 'alone']) assert.deepEqual(numbers(name), all)
  got.get('a')?.forEach((one, at) => assert.equal(one, got.get('b')?.[at], 'decoded once for both'))
  assert.deepEqual([numbers('slow'), streams[2]?.waiting, room], [[0], 8, []])
  goOn()
  await until('the slow reader', () => got.get('slow')?.length === 10)
  assert.deepEqual([numbers('slow'), streams[2]?.waiting, room], [all, 0, [2]])
})
