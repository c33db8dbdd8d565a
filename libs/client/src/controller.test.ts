import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import { RESOURCES } from './api-client.js'
import { startController, watchOf } from './controller.js'
import { claimObjects, controllerOf } from './controller-ref.js'
import { type EventObject, EventRecorder } from './event-recorder.js'
import { Expectations } from './expectations.js'
import { InformerFactory } from './informer.js'
import type { KubeObject } from './kube-object.js'
import { FakeApiClient, ManualClock, manualWorld } from './testing.js'

function setUp() {
  const world = manualWorld()
  const api = new FakeApiClient(world.clock)
  const informers = new InformerFactory(world, api)
  return { world, api, informers }
}

test('works on every key once the informers are synced, repeats failures with back-off', async () => {
  const { world, api, informers } = setUp()
  api.seed(RESOURCES.configmaps, { metadata: { name: 'a' } }, { metadata: { name: 'b' } })
  const seen: string[] = []
  let failures = 3
  const controller = startController(world, {
    name: 'test',
    client: api,
    informers,
    watches: [watchOf(RESOURCES.configmaps)],
    async reconcile(key) {
      seen.push(key)
      if (key === 'default/b' && failures-- > 0) throw new Error('not yet')
    },
  })
  informers.start()
  await world.clock.advance(1000)
  assert.deepEqual(seen, ['default/a', 'default/b', 'default/b', 'default/b', 'default/b'])
  await controller.stop()
  assert.deepEqual(controller.counters, { reconciles: 5, failures: 3 })
})

test('requeueAfterMs calls again', async () => {
  const { world, api, informers } = setUp()
  api.seed(RESOURCES.configmaps, { metadata: { name: 'a' } })
  let calls = 0
  startController(world, {
    name: 'test',
    client: api,
    informers,
    watches: [watchOf(RESOURCES.configmaps)],
    reconcile: async () => (++calls < 3 ? { requeueAfterMs: 100 } : undefined),
  })
  informers.start()
  await world.clock.advance(150)
  assert.equal(calls, 2)
  await world.clock.advance(1000)
  assert.equal(calls, 3)
})

test('writes carry the fence; a FENCED answer stops the controller', async () => {
  const { world, api, informers } = setUp()
  const lease = await api.create(RESOURCES.leases, { metadata: { name: 'lock', namespace: 'kube-system' } })
  const fence = { lock: { namespace: 'kube-system', name: 'lock' }, token: lease.metadata.resourceVersion as string }
  api.seed(RESOURCES.configmaps, { metadata: { name: 'a' } })
  let fenced = 0
  const controller = startController(world, {
    name: 'test',
    client: api,
    informers,
    fence,
    onFenced: () => fenced++,
    watches: [watchOf(RESOURCES.configmaps)],
    async reconcile(key, { client }) {
      await client.create(RESOURCES.secrets, { metadata: { generateName: `${key.split('/')[1]}-` } })
    },
  })
  informers.start()
  await world.clock.advance(10)
  assert.equal(api.objects(RESOURCES.secrets).length, 1)
  api.drop(RESOURCES.leases, 'kube-system/lock')
  api.seed(RESOURCES.configmaps, { metadata: { name: 'b' } }, { metadata: { name: 'c' } })
  await world.clock.advance(1000)
  assert.equal(api.objects(RESOURCES.secrets).length, 1)
  assert.equal(fenced, 1)
  await controller.stop()
  await assert.rejects(controller.context.client.list(RESOURCES.pods), { code: 'CLOSED' })
})

test('the fence test catches an API that leaves the fence out', async () => {
  const { api } = setUp()
  api.ignoreFences = true
  const fence = { lock: { namespace: 'kube-system', name: 'lock' }, token: '1' }
  await api.create(RESOURCES.secrets, { metadata: { name: 'leaked' } }, { fence })
  assert.equal(api.objects(RESOURCES.secrets).length, 1)
})

test('the same event again counts up; events about one object are bounded', async () => {
  const { world, api } = setUp()
  const events = new EventRecorder(world, api, { component: 'test' })
  const object: KubeObject = { metadata: { name: 'p', namespace: 'default', uid: 'u' } }
  for (let round = 0; round < 3; round++) {
    events.record({ object, kind: 'Pod', apiVersion: 'v1' }, 'Warning', 'FailedScheduling', 'no nodes')
    await world.clock.advance(1)
  }
  const written = api.objects<EventObject>(RESOURCES.events)
  assert.deepEqual(
    written.map((event) => [event.reason, event.count, event.involvedObject.kind]),
    [['FailedScheduling', 3, 'Pod']],
  )
  for (let round = 0; round < 100; round++) {
    events.record({ object, kind: 'Pod' }, 'Normal', 'R', `message ${round}`)
    await world.clock.advance(1)
  }
  assert.equal(api.objects(RESOURCES.events).length, 40)
  assert.equal(events.dropped, 61)
})

test('an event that cannot be written is dropped and stops nothing', async () => {
  const { world, api } = setUp()
  const events = new EventRecorder(world, api, { component: 'test' })
  api.intercept = () => new CallError('Forbidden', 'not-applied', 'no')
  events.record({ object: { metadata: { name: 'p' } } }, 'Normal', 'A', 'a')
  await world.clock.advance(1)
  api.intercept = () => undefined
  events.record({ object: { metadata: { name: 'p' } } }, 'Normal', 'B', 'b')
  await world.clock.advance(1)
  assert.deepEqual(
    api.objects<EventObject>(RESOURCES.events).map((event) => event.reason),
    ['B'],
  )
})

test('claims own objects, adopts orphans that match, releases what matches no more', async () => {
  const { api } = setUp()
  const owner: KubeObject = { metadata: { name: 'rs', namespace: 'default', uid: 'u1' } }
  const ref = (uid: string) => [{ apiVersion: 'apps/v1', kind: 'ReplicaSet', name: 'rs', uid, controller: true }]
  const candidates = api.seed<KubeObject>(
    RESOURCES.pods,
    { metadata: { name: 'own', labels: { app: 'x' }, ownerReferences: ref('u1') } },
    { metadata: { name: 'orphan', labels: { app: 'x' } } },
    { metadata: { name: 'other', labels: { app: 'x' }, ownerReferences: ref('u2') } },
    { metadata: { name: 'changed', labels: { app: 'y' }, ownerReferences: ref('u1') } },
    { metadata: { name: 'dying', labels: { app: 'x' }, deletionTimestamp: '2030-01-01T00:00:00Z' } },
  )
  const claim = (live: KubeObject | undefined) =>
    claimObjects({
      client: api,
      resource: RESOURCES.pods,
      owner,
      ownerType: { apiVersion: 'apps/v1', kind: 'ReplicaSet' },
      candidates,
      matches: (pod) => pod.metadata.labels?.app === 'x',
      liveOwner: async () => live,
    })
  assert.deepEqual(
    (await claim(undefined)).map((pod) => pod.metadata.name),
    ['own'],
  )
  assert.equal(controllerOf(api.object(RESOURCES.pods, 'default/changed') as KubeObject), undefined)
  await assert.rejects(claim(owner), { code: 'Conflict' }, 'the cache of `changed` is stale by now')
  candidates.splice(3, 1)
  const again = api.objects<KubeObject>(RESOURCES.pods).filter((pod) => pod.metadata.name !== 'changed')
  candidates.splice(0, candidates.length, ...again)
  assert.deepEqual(
    (await claim(owner)).map((pod) => pod.metadata.name),
    ['orphan', 'own'],
  )
  assert.equal(controllerOf(api.object(RESOURCES.pods, 'default/orphan') as KubeObject)?.uid, 'u1')
})

test('expectations hold a key until the cache has caught up, or for their time-out', async () => {
  const clock = new ManualClock()
  const expectations = new Expectations({ clock }, 5000)
  assert.ok(expectations.satisfied('k'))
  expectations.expectCreations('k', 2)
  expectations.creationObserved('k')
  assert.ok(!expectations.satisfied('k'))
  expectations.creationObserved('k')
  assert.ok(expectations.satisfied('k'))
  expectations.expectDeletions('k', ['u1'])
  expectations.deletionObserved('k', 'u2')
  assert.ok(!expectations.satisfied('k'))
  await clock.advance(expectations.waitMs('k'))
  assert.ok(expectations.satisfied('k'))
})
