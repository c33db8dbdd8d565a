import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError, type IncomingCall, type OutStream, serve } from '@capstan/actor'
import { type ApiWatchData, Subjects } from '@capstan/protocol'
import { RESOURCES } from './api-client.js'
import { startBeating } from './beat-tracker.js'
import { BusApiClient } from './bus-api-client.js'
import { ManualClock, manualWorld, MemoryBroker } from './testing.js'

const CLUSTER = 'c1'
const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value))

/** An API server that answers with its own name, or as a test says. */
function apiServer(broker: MemoryBroker, clock: ManualClock, name: string) {
  const world = manualWorld({ clock, broker, identity: `apiserver~${name}`, seed: name.charCodeAt(1) })
  const server = {
    world,
    calls: [] as string[],
    ready: true,
    streams: [] as OutStream[],
    answer: (_call: IncomingCall): unknown => ({ status: 200, body: json({ metadata: { name } }) }),
    stopBeating: () => {},
  }
  serve(world, {
    pattern: new Subjects(CLUSTER).apiServed(name),
    handle(call) {
      server.calls.push(call.verb)
      if (call.wantsStream) {
        server.streams.push(call.openStream())
        return undefined
      }
      return server.answer(call)
    },
  })
  server.stopBeating = startBeating(world, {
    cluster: CLUSTER,
    component: 'apiserver',
    instance: name,
    machine: name,
    describe: () => ({ ready: server.ready }),
  })
  return server
}

async function setUp() {
  const clock = new ManualClock()
  const broker = new MemoryBroker(clock)
  const world = manualWorld({ clock, broker })
  const client = new BusApiClient(world, { cluster: CLUSTER, machine: 'm0' })
  const servers = ['m0', 'm1', 'm2'].map((name) => apiServer(broker, clock, name))
  await clock.advance(1100)
  const [m0, m1, m2] = servers as [(typeof servers)[0], (typeof servers)[0], (typeof servers)[0]]
  /** Advances time until the call has settled. */
  async function settle<R>(call: Promise<R>): Promise<R> {
    let settled = false
    const done = () => void (settled = true)
    call.then(done, done)
    await clock.until(() => settled, 30_000, 10)
    return call
  }
  const get = (timeoutMs?: number) =>
    settle(
      client.get(RESOURCES.pods, { namespace: 'default', name: 'p' }, timeoutMs === undefined ? {} : { timeoutMs }),
    )
  return { clock, broker, world, client, m0, m1, m2, settle, get }
}

test('asks the API server of its own machine first', async () => {
  const { get, client } = await setUp()
  assert.deepEqual(client.instances(), ['m0', 'm1', 'm2'])
  assert.equal((await get()).metadata.name, 'm0')
})

test('a read that gets no answer goes to another instance, and the silent one is left out for a while', async () => {
  const { get, m0, clock } = await setUp()
  m0.answer = () => new Promise(() => {})
  assert.notEqual((await get()).metadata.name, 'm0')
  const asked = m0.calls.length
  assert.notEqual((await get()).metadata.name, 'm0')
  assert.equal(m0.calls.length, asked)
  await clock.advance(3000)
  m0.answer = () => ({ status: 200, body: json({ metadata: { name: 'm0 again' } }) })
  assert.equal((await get()).metadata.name, 'm0 again')
})

test('a write that may have happened is not repeated; one that did not is', async () => {
  const { client, settle, m0 } = await setUp()
  const create = () => settle(client.create(RESOURCES.configmaps, { metadata: { name: 'x', namespace: 'default' } }))
  m0.answer = () => {
    throw new CallError('NO_LEADER', 'not-applied', 'no leader now')
  }
  assert.notEqual((await create()).metadata.name, 'm0')
  m0.answer = () => new Promise(() => {})
  await assert.rejects(create(), { code: 'TIMEOUT', outcome: 'maybe-applied' })
})

test('a verdict on the request is final', async () => {
  const { get, m0, m1, m2 } = await setUp()
  m0.answer = () => {
    throw new CallError('NotFound', 'not-applied', 'no such pod', { details: { kind: 'Status' } })
  }
  await assert.rejects(get(), { code: 'NotFound' })
  assert.equal(m1.calls.length + m2.calls.length, 0)
})

test('one that says it is not ready, and one that misses two beats, are not asked', async () => {
  const { get, m0, m1, client, clock } = await setUp()
  m0.ready = false
  await clock.advance(1100)
  assert.notEqual((await get()).metadata.name, 'm0')
  m1.stopBeating()
  await clock.advance(3000)
  assert.deepEqual(client.instances(), ['m2'])
  assert.equal((await get()).metadata.name, 'm2')
})

test('with none known it waits for one until the time is over', async () => {
  const { get, m0, m1, m2, clock } = await setUp()
  for (const server of [m0, m1, m2]) server.ready = false
  await clock.advance(1100)
  await assert.rejects(get(1000), { code: 'NO_INSTANCE', outcome: 'not-applied' })
  m2.ready = true
  assert.equal((await get(5000)).metadata.name, 'm2')
})

test('a stall of the client itself does not make instances missing', async () => {
  const { client, clock, broker } = await setUp()
  broker.lose = () => true
  await clock.stall(10_000)
  assert.equal(client.instances().length, 3)
  await clock.advance(3000)
  assert.equal(client.instances().length, 0)
})

function watchPods(client: BusApiClient, resourceVersion: string) {
  const heard: string[] = []
  client.watch(
    RESOURCES.pods,
    { resourceVersion },
    {
      event: (type, object) =>
        void heard.push(`${type} ${object.metadata.name ?? ''}@${object.metadata.resourceVersion}`),
      end: (reason, error) => void heard.push(`end ${reason}${error ? ` ${(error as CallError).code}` : ''}`),
    },
  )
  return heard
}

function data(
  prevRevision: number,
  revision: number,
  ...events: [ApiWatchData['events'][0][0], object][]
): ApiWatchData {
  return { prevRevision, revision, events: events.map(([type, object]) => [type, json(object)]) }
}

test('a watch gives events in order and bookmarks for revisions without any', async () => {
  const { client, m0, clock } = await setUp()
  const heard = watchPods(client, '5')
  await clock.advance(10)
  m0.streams[0]?.send(data(5, 7, ['ADDED', { metadata: { name: 'a', resourceVersion: '7' } }]))
  m0.streams[0]?.send(data(7, 9))
  await clock.advance(10)
  assert.deepEqual(heard, ['ADDED a@7', 'BOOKMARK @9'])
  m0.streams[0]?.end('closing')
  await clock.advance(10)
  assert.equal(heard[2], 'end closing')
})

test('a gap in the revisions ends a watch as lost', async () => {
  const { client, m0, clock } = await setUp()
  const heard = watchPods(client, '5')
  await clock.advance(10)
  m0.streams[0]?.send(data(5, 7, ['ADDED', { metadata: { name: 'a', resourceVersion: '7' } }]))
  m0.streams[0]?.send(data(8, 9, ['ADDED', { metadata: { name: 'b', resourceVersion: '9' } }]))
  await clock.advance(10)
  assert.deepEqual(heard, ['ADDED a@7', 'end lost CONNECTION_LOST'])
  const first = watchPods(client, '5')
  await clock.advance(10)
  m0.streams[1]?.send(data(6, 7))
  await clock.advance(10)
  assert.deepEqual(first, ['end lost CONNECTION_LOST'])
})

test('410 in the stream, or compaction, ends a watch as expired', async () => {
  const { client, m0, clock } = await setUp()
  const heard = watchPods(client, '5')
  const other = watchPods(client, '5')
  await clock.advance(10)
  m0.streams[0]?.send(data(5, 5, ['ERROR', { kind: 'Status', code: 410, reason: 'Expired' }]))
  m0.streams[1]?.end('compacted')
  await clock.advance(10)
  assert.deepEqual(heard, ['end expired Expired'])
  assert.deepEqual(other, ['end expired'])
})

test('a lost last message is noticed', async () => {
  const { client, m0, clock, broker } = await setUp()
  const heard = watchPods(client, '5')
  await clock.advance(10)
  broker.lose = (_, to) => to.startsWith('controller-manager')
  m0.streams[0]?.send(data(5, 7, ['ADDED', { metadata: { name: 'a', resourceVersion: '7' } }]))
  await clock.advance(10)
  broker.lose = () => false
  await clock.advance(2500)
  assert.equal(heard.length, 1)
  assert.match(heard[0] ?? '', /^end lost/)
})

test('garbage in place of a beat or an answer stops nothing', async () => {
  const { get, world, m0, clock } = await setUp()
  world.bus.publish(new Subjects(CLUSTER).beat('apiserver', 'm9'), new Uint8Array([0xc1, 2, 3]))
  await clock.advance(10)
  m0.answer = () => ({ status: 200, body: new Uint8Array([1, 2]) })
  await assert.rejects(get(), { code: 'BAD_FRAME' })
  m0.answer = () => 7
  await assert.rejects(get(), { code: 'BAD_FRAME' })
})
