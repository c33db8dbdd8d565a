/**
 * An informer over a bus that loses messages, with two API servers of which one or the other goes silent. Survived must be:
 * any loss, as long as it ends. Then the copy, and what the handlers were told, equal what is there (promise S3 seen from
 * the reader's side), and no event was told twice or out of order.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError, type IncomingCall, serve } from '@capstan/actor'
import { type ApiRequest, Subjects } from '@capstan/protocol'
import { RESOURCES } from './api-client.js'
import { startBeating } from './beat-tracker.js'
import { BusApiClient } from './bus-api-client.js'
import { Informer } from './informer.js'
import { type KubeObject, objectKey } from './kube-object.js'
import { FakeApiClient, ManualClock, manualWorld, MemoryBroker, SeededRandom } from './testing.js'

const SEEDS = 8
const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value))

function serveApi(broker: MemoryBroker, clock: ManualClock, name: string, api: FakeApiClient): void {
  const world = manualWorld({ clock, broker, identity: `apiserver~${name}` })
  serve(world, {
    pattern: new Subjects('c1').apiServed(name),
    handle: (call) => (call.verb === 'watch' ? watch(call) : list(call)),
  })
  startBeating(world, {
    cluster: 'c1',
    component: 'apiserver',
    instance: name,
    machine: name,
    describe: () => ({ ready: true }),
  })

  async function list(call: IncomingCall): Promise<unknown> {
    const { items, resourceVersion } = await api.list(call.body as ApiRequest)
    return { status: 200, body: json({ metadata: { resourceVersion }, items }) }
  }

  function watch(call: IncomingCall): undefined {
    const request = call.body as ApiRequest
    let sent = Number(request.options?.resourceVersion)
    const stream = call.openStream({ position: () => ({ revision: sent }) })
    const watching = api.watch(request, request.options ?? {}, {
      event(type, object) {
        const revision = Number(object.metadata.resourceVersion)
        stream.send({ prevRevision: sent, revision, events: [[type, json(object)]] })
        sent = revision
      },
      end: (reason, error) =>
        stream.end(reason, error && { code: (error as CallError).code, outcome: 'not-applied', text: error.message }),
    })
    stream.onEnd(() => watching.stop())
    return undefined
  }
}

async function run(seed: number): Promise<{ watches: number; lists: number }> {
  const clock = new ManualClock()
  const broker = new MemoryBroker(clock)
  const random = new SeededRandom(seed)
  const api = new FakeApiClient(clock)
  for (const name of ['m0', 'm1']) serveApi(broker, clock, name, api)
  const world = manualWorld({ clock, broker, seed })
  const informer = new Informer<KubeObject>(
    world,
    new BusApiClient(world, { cluster: 'c1', machine: 'm0' }),
    RESOURCES.configmaps,
  )
  const told = new Map<string, string>()
  const label = `seed ${seed}`
  informer.addHandler({
    add(object) {
      assert.ok(!told.has(objectKey(object)), `${label}: added twice`)
      told.set(objectKey(object), object.metadata.resourceVersion ?? '')
    },
    update(object, before) {
      assert.equal(told.get(objectKey(object)), before.metadata.resourceVersion, label)
      assert.ok(
        Number(object.metadata.resourceVersion) > Number(before.metadata.resourceVersion),
        `${label}: backwards`,
      )
      told.set(objectKey(object), object.metadata.resourceVersion ?? '')
    },
    delete: (object) => assert.ok(told.delete(objectKey(object)), `${label}: deleted twice`),
  })
  informer.start()
  for (let step = 0; step < 60; step++) {
    const lossPercent = [0, 5, 30][random.int(3)] as number
    const silent = random.int(4) === 0 ? `apiserver~m${random.int(2)}` : ''
    broker.lose = (message, to) =>
      random.int(100) < lossPercent ||
      to === silent ||
      (silent !== '' && message.subject.includes(`.${silent.replace('apiserver~', '')}.`))
    const key = `default/c${random.int(6)}`
    const name = key.slice('default/'.length)
    if (!api.object(RESOURCES.configmaps, key)) api.seed(RESOURCES.configmaps, { metadata: { name } })
    else if (random.int(3) === 0) api.drop(RESOURCES.configmaps, key)
    else
      api.change(
        RESOURCES.configmaps,
        key,
        (object: KubeObject) => void (object.metadata.labels = { step: String(step) }),
      )
    if (random.int(12) === 0) api.compact()
    await clock.advance(random.int(1500))
  }
  broker.lose = () => false
  await clock.advance(30_000)
  const there = api.objects<KubeObject>(RESOURCES.configmaps)
  assert.deepEqual(informer.list(), there, label)
  assert.deepEqual([...told].sort(), there.map((o) => [objectKey(o), o.metadata.resourceVersion]).sort(), label)
  assert.equal(world.log.lines.filter((line) => line.level === 'error').length, 0, `${label}: a handler threw`)
  return informer.counters
}

test('an informer over a lossy bus ends with what is there, told once and in order', async (t) => {
  const sum = { watches: 0, lists: 0 }
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { watches, lists } = await run(seed)
    sum.watches += watches
    sum.lists += lists
  }
  t.diagnostic(JSON.stringify(sum))
  assert.ok(sum.watches > 2 * SEEDS && sum.lists > SEEDS, JSON.stringify(sum))
})
