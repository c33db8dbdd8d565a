import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BusError, type BusMessage } from '@capstan/actor'
import { busContract } from '@capstan/real/testing'
import { Simulation } from './simulation.js'

const everything = { publish: ['>'], subscribe: ['>'] }
const bytes = (text: string) => new TextEncoder().encode(text)
const text = (message: BusMessage) => new TextDecoder().decode(message.payload)

const contract = (name: string, prepare: (simulation: Simulation) => void) =>
  busContract(name, async () => {
    const simulation = new Simulation({ seed: `bus contract: ${name}` })
    prepare(simulation)
    return {
      connect: async (options) => simulation.machine(options.identity).world(options).bus,
      run: (promise) => simulation.finish(promise, simulation.nowMs + 120_000, 'the promise'),
      settle: () => simulation.run({ untilMs: simulation.nowMs + 2000 }),
    }
  })

contract('simulated', () => undefined)
contract('simulated, all on slow links that reorder', ({ network }) => {
  for (const from of ['a', 'b', 'c'])
    for (const to of ['a', 'b', 'c']) Object.assign(network.link(from, to), { delayMs: [1, 200], reorder: true })
})

function pair(seed = 'pair') {
  const simulation = new Simulation({ seed })
  const bus = (name: string) =>
    simulation.machine(name).world({ identity: name, inbox: `in.${name}`, grants: everything }).bus
  const [a, b] = [bus('a'), bus('b')]
  const heard: string[] = []
  b.subscribe('x.>', (message) => heard.push(text(message)))
  const pass = (ms: number) => simulation.run({ untilMs: simulation.nowMs + ms })
  return { simulation, a, b, heard, pass, link: simulation.network.link('a', 'b') }
}

test('a cut link lets nothing through, also what is on its way, one way only', async () => {
  const { simulation, a, b, heard, pass, link } = pair()
  const back: string[] = []
  a.subscribe('y', (message) => back.push(text(message)))
  link.delayMs = [10, 10]
  a.publish('x.1', bytes('on its way'))
  await pass(5)
  link.cut = true
  await pass(10)
  a.publish('x.1', bytes('cut'))
  b.publish('y', bytes('back'))
  await pass(20)
  assert.deepEqual(heard, [])
  assert.deepEqual(back, ['back'])
  simulation.network.heal()
  a.publish('x.1', bytes('healed'))
  await pass(20)
  assert.deepEqual(heard, ['healed'])
})

test('links lose and double as told', async () => {
  const { simulation, a, heard, pass, link } = pair()
  link.loss = 0.5
  for (let n = 0; n < 1000; n++) a.publish('x.1', bytes(`${n}`))
  await pass(100)
  assert.ok(heard.length > 400 && heard.length < 600, `${heard.length} of 1000`)
  Object.assign(link, { loss: 0, duplicate: 1 })
  heard.length = 0
  a.publish('x.1', bytes('twice'))
  await pass(100)
  assert.deepEqual(heard, ['twice', 'twice'])
  assert.equal(simulation.network.counters.duplicated, 1)
})

test('a link that reorders keeps the order of each subject only', async () => {
  const { a, heard, pass, link } = pair()
  const send = () => {
    for (let n = 0; n < 200; n++) a.publish(`x.${n % 2}`, bytes(`${n % 2} ${n}`))
  }
  link.delayMs = [0, 50]
  send()
  await pass(100)
  const inOrder = Array.from({ length: 200 }, (_, n) => `${n % 2} ${n}`)
  assert.deepEqual(heard, inOrder)
  heard.length = 0
  link.reorder = true
  send()
  await pass(100)
  assert.notDeepEqual(heard, inOrder)
  for (const subject of ['0', '1'])
    assert.deepEqual(
      heard.filter((h) => h.startsWith(subject)),
      inOrder.filter((h) => h.startsWith(subject)),
    )
})

test('a server that stands still: what its connections send and are sent comes later, in order; others go on', async () => {
  const { simulation, a, b, heard, pass } = pair('stall')
  const c = simulation.machine('c').world({ identity: 'c', inbox: 'in.c', grants: everything }).bus
  c.subscribe('x.>', (message) => heard.push(`c ${text(message)}`))
  simulation.network.stall('b', 500)
  for (const word of ['1', '2', '3']) a.publish('x.a', bytes(word))
  b.publish('x.b', bytes('from b'))
  await pass(400)
  assert.deepEqual(heard, ['c 1', 'c 2', 'c 3'])
  await pass(200)
  assert.deepEqual(heard.slice(3).sort(), ['1', '2', '3', 'c from b', 'from b'])
})

test('a lost server: requests may have happened, publishing did not; a new epoch comes, and may overtake', async () => {
  const { a, b, heard, pass, link } = pair()
  const changes: { connected: boolean; epoch: number }[] = []
  a.onChange((state) => changes.push(state))
  link.delayMs = [40, 40]
  const failed = a.request('x.1', bytes('asked'), { timeoutMs: 1000 }).catch((e: unknown) => e as BusError)
  a.disconnect()
  await pass(1)
  assert.equal(((await failed) as BusError).code, 'CONNECTION_LOST')
  assert.throws(
    () => a.publish('x.1', bytes('never')),
    (e: BusError) => e.code === 'DISCONNECTED' && e.outcome === 'not-applied',
  )
  a.reconnect()
  await pass(1)
  link.delayMs = [1, 1]
  a.publish('x.1', bytes('new epoch'))
  await pass(100)
  assert.deepEqual(changes, [
    { connected: false, epoch: 1 },
    { connected: true, epoch: 2 },
  ])
  assert.deepEqual(heard, ['new epoch', 'asked'])
  assert.equal(b.epoch, 1)
})

test('who does not keep up is cut off, and comes back in a new epoch', async () => {
  const { simulation, a, b, heard, pass } = pair()
  simulation.machine('b').pause(1000)
  const payload = new Uint8Array(a.payloadBytesMax)
  for (let n = 0; n < 100; n++) a.publish('x.1', payload)
  assert.equal(simulation.network.counters.slowConsumers, 1)
  await pass(2000)
  assert.equal(b.connected, true)
  assert.equal(b.epoch, 2)
  assert.equal(heard.length, 0)
  a.publish('x.1', bytes('again'))
  await pass(10)
  assert.deepEqual(heard, ['again'])
})

test('the dead are noticed by silence only', async () => {
  const { simulation, a, pass } = pair()
  const outcome = a.request('x.1', bytes('ask'), { timeoutMs: 500 }).catch((e: unknown) => (e as BusError).code)
  await pass(0.01)
  simulation.machine('b').crash()
  let code: unknown
  void outcome.then((c) => (code = c))
  await pass(400)
  assert.equal(code, undefined)
  await pass(200)
  assert.equal(code, 'TIMEOUT')
  // The broker knows that the connection is gone.
  const next = a.request('x.1', bytes('ask'), { timeoutMs: 500 }).catch((e: unknown) => (e as BusError).code)
  assert.equal(await simulation.finish(next, simulation.nowMs + 1000, 'the answer'), 'NO_RESPONDERS')
})
