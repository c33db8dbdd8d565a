import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import { RESOURCES } from './api-client.js'
import { Informer, InformerFactory } from './informer.js'
import type { KubeObject } from './kube-object.js'
import { FakeApiClient, manualWorld } from './testing.js'

interface Pod extends KubeObject {
  spec?: { nodeName?: string }
}

function pod(name: string, nodeName?: string): Pod {
  return { metadata: { name, namespace: 'default' }, ...(nodeName === undefined ? {} : { spec: { nodeName } }) }
}

function setUp() {
  const world = manualWorld()
  const api = new FakeApiClient(world.clock)
  const informer = new Informer<Pod>(world, api, RESOURCES.pods)
  informer.addIndex('node', (p) => [p.spec?.nodeName ?? ''])
  const heard: string[] = []
  informer.addHandler({
    add: (p) => heard.push(`+${p.metadata.name}`),
    update: (p) => heard.push(`~${p.metadata.name}`),
    delete: (p) => heard.push(`-${p.metadata.name}`),
  })
  return { world, api, informer, heard }
}

test('lists, then follows; indexes and sorted lists follow too', async () => {
  const { world, api, informer, heard } = setUp()
  api.seed(RESOURCES.pods, pod('b', 'n1'), pod('a', 'n2'))
  informer.start()
  assert.equal(informer.synced, false)
  assert.equal(await informer.whenSynced(), true)
  await api.create(RESOURCES.pods, pod('c', 'n1'))
  api.change<Pod>(RESOURCES.pods, 'default/a', (p) => void (p.spec = { nodeName: 'n1' }))
  api.drop(RESOURCES.pods, 'default/b')
  await world.clock.advance(0)
  assert.deepEqual(heard, ['+a', '+b', '+c', '~a', '-b'])
  assert.deepEqual(
    informer.list('default').map((p) => p.metadata.name),
    ['a', 'c'],
  )
  assert.deepEqual(
    informer.byIndex('node', 'n1').map((p) => p.metadata.name),
    ['a', 'c'],
  )
  assert.deepEqual(informer.byIndex('node', 'n2'), [])
  assert.throws(() => informer.byIndex('nope', ''), RangeError)
})

test('a lost watch resumes from the last resourceVersion without a list', async () => {
  const { world, api, informer, heard } = setUp()
  informer.start()
  await world.clock.advance(0)
  api.breakWatches('lost')
  api.seed(RESOURCES.pods, pod('a'))
  await world.clock.advance(1000)
  assert.deepEqual(heard, ['+a'])
  assert.equal(informer.counters.lists, 1)
  assert.equal(informer.counters.watches, 2)
})

test('after compaction it lists again and tells what it missed, deletions and replacements included', async () => {
  const { world, api, informer, heard } = setUp()
  api.seed(RESOURCES.pods, pod('gone'), pod('same'), pod('anew'))
  informer.start()
  await world.clock.advance(0)
  heard.length = 0
  api.hold(RESOURCES.pods)
  api.drop(RESOURCES.pods, 'default/gone')
  api.drop(RESOURCES.pods, 'default/anew')
  api.seed(RESOURCES.pods, pod('anew'))
  api.compact()
  api.breakWatches('lagging')
  api.release(RESOURCES.pods)
  await world.clock.advance(10_000)
  assert.deepEqual(heard, ['-anew', '+anew', '-gone'])
  assert.equal(informer.counters.lists, 2)
})

test('a list that fails is repeated with a bounded back-off', async () => {
  const { world, api, informer } = setUp()
  api.intercept = () => new CallError('ServiceUnavailable', 'not-applied', 'no quorum')
  informer.start()
  await world.clock.advance(60_000)
  const lists = api.calls.length
  assert.ok(lists > 12 && lists < 40, `${lists} lists in a minute`)
  api.intercept = () => undefined
  await world.clock.advance(5000)
  assert.ok(informer.synced)
})

test('a handler that throws is logged and stops nobody', async () => {
  const { world, api, informer, heard } = setUp()
  informer.addHandler({
    add() {
      throw new Error('bug')
    },
  })
  informer.start()
  api.seed(RESOURCES.pods, pod('a'))
  await world.clock.advance(0)
  assert.deepEqual(heard, ['+a'])
  assert.ok(world.log.lines.some((line) => line.level === 'error'))
})

test('a factory shares one informer for each resource, and stops them all', async () => {
  const world = manualWorld()
  const api = new FakeApiClient(world.clock)
  const factory = new InformerFactory(world, api)
  assert.equal(factory.for(RESOURCES.pods), factory.for(RESOURCES.pods))
  factory.start()
  const late = factory.for(RESOURCES.nodes)
  assert.equal(await factory.whenSynced(), true)
  assert.ok(late.synced)
  factory.stop()
  api.seed(RESOURCES.pods, pod('a'))
  await world.clock.advance(1000)
  assert.equal(late.size, 0)
})
