import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type KubeObject, type OwnerReference, type Resource, RESOURCES } from '@capstan/client'
import { startGarbageCollector } from './garbage-collector.js'
import type { Namespace } from './kinds.js'
import { startNamespaces, startRootCa, startServiceAccounts } from './namespace-controller.js'
import { FakeCluster } from './testing/fake-cluster.js'

const R = RESOURCES

function owner(kind: string, object: KubeObject | undefined, blockOwnerDeletion = true): OwnerReference {
  const apiVersion = kind === 'Deployment' || kind === 'ReplicaSet' ? 'apps/v1' : 'v1'
  return {
    apiVersion,
    kind,
    name: object?.metadata.name ?? '',
    uid: object?.metadata.uid ?? '',
    controller: true,
    blockOwnerDeletion,
  }
}

async function setUp() {
  const cluster = new FakeCluster({}, false)
  const { api } = cluster
  const seed = (resource: Resource, name: string, ...ownerReferences: OwnerReference[]) =>
    api.seed<KubeObject>(resource, {
      metadata: { name, namespace: 'default', ...(ownerReferences.length > 0 ? { ownerReferences } : {}) },
    })[0] as KubeObject
  await cluster.start(startGarbageCollector)
  const names = () =>
    [R.deployments, R.replicasets, R.pods, R.configmaps].flatMap((r) =>
      api.objects<KubeObject>(r).map((o) => o.metadata.name),
    )
  return { cluster, api, seed, names, settle: () => cluster.clock.advance(500) }
}

test('background: what is owned goes after its owner, down the tree', async () => {
  const { api, seed, names, settle } = await setUp()
  const d = seed(R.deployments, 'd')
  const rs = seed(R.replicasets, 'rs', owner('Deployment', d))
  seed(R.pods, 'p', owner('ReplicaSet', rs))
  seed(R.pods, 'free')
  await settle()
  assert.deepEqual(names(), ['d', 'rs', 'free', 'p'])
  await api.delete(R.deployments, { namespace: 'default', name: 'd' })
  await settle()
  assert.deepEqual(names(), ['free'])
})

test('foreground: the owner goes last', async () => {
  const { api, seed, names, settle } = await setUp()
  const d = seed(R.deployments, 'd')
  const rs = seed(R.replicasets, 'rs', owner('Deployment', d))
  const p = seed(R.pods, 'p', owner('ReplicaSet', rs))
  api.change(R.pods, 'default/p', (o: KubeObject) => void (o.metadata.finalizers = ['test/hold']))
  await settle()
  await api.delete(R.deployments, { namespace: 'default', name: 'd' }, { propagationPolicy: 'Foreground' })
  await settle()
  assert.deepEqual(names(), ['d', 'rs', 'p'])
  assert.ok(api.object(R.pods, 'default/p')?.metadata.deletionTimestamp, 'the leaf is asked first')
  assert.equal(p.metadata.deletionTimestamp, undefined)
  api.drop(R.pods, 'default/p')
  await settle()
  assert.deepEqual(names(), [])
})

test('orphan: what is owned stays, without the reference', async () => {
  const { api, seed, names, settle } = await setUp()
  const d = seed(R.deployments, 'd')
  seed(R.replicasets, 'rs', owner('Deployment', d))
  await settle()
  await api.delete(R.deployments, { namespace: 'default', name: 'd' }, { propagationPolicy: 'Orphan' })
  await settle()
  assert.deepEqual(names(), ['rs'])
  assert.equal(api.object(R.replicasets, 'default/rs')?.metadata.ownerReferences, undefined)
})

test('of two owners the living one keeps it; the dead reference goes', async () => {
  const { api, seed, names, settle } = await setUp()
  const a = seed(R.configmaps, 'a')
  const b = seed(R.configmaps, 'b')
  seed(R.pods, 'p', owner('ConfigMap', a), { ...owner('ConfigMap', b), controller: false })
  await settle()
  api.drop(R.configmaps, 'default/a')
  await settle()
  assert.deepEqual(names(), ['p', 'b'])
  assert.deepEqual(
    api.object(R.pods, 'default/p')?.metadata.ownerReferences?.map((r) => r.name),
    ['b'],
  )
  api.drop(R.configmaps, 'default/b')
  await settle()
  assert.deepEqual(names(), [])
})

test('an owner that the cache does not have yet is looked up live: nothing is deleted', async () => {
  const { api, seed, names, settle } = await setUp()
  api.hold(R.replicasets)
  const rs = seed(R.replicasets, 'rs')
  seed(R.pods, 'p', owner('ReplicaSet', rs))
  await settle()
  assert.deepEqual(names(), ['rs', 'p'])
  assert.ok(api.calls.some((call) => call.verb === 'get' && call.resource === 'replicasets'))
  api.release(R.replicasets)
  await settle()
  assert.deepEqual(names(), ['rs', 'p'])
})

test('an owner of the same name but another uid is none', async () => {
  const { api, seed, names, settle } = await setUp()
  const rs = seed(R.replicasets, 'rs')
  seed(R.pods, 'p', { ...owner('ReplicaSet', rs), uid: 'a-former-life' })
  await settle()
  assert.deepEqual(names(), ['rs'])
  assert.equal(api.objects(R.pods).length, 0)
})

test('an owner of an unknown kind counts as living', async () => {
  const { seed, names, settle } = await setUp()
  seed(R.pods, 'p', { apiVersion: 'example.com/v1', kind: 'Widget', name: 'w', uid: 'w1' })
  await settle()
  assert.deepEqual(names(), ['p'])
})

test('a namespace is emptied, then goes; pods get their time to end', async () => {
  const cluster = new FakeCluster({}, false)
  const { api, clock } = cluster
  const get = () => api.object<Namespace>(R.namespaces, 'shop')
  api.seed<KubeObject>(R.namespaces, { metadata: { name: 'shop' } }, { metadata: { name: 'default' } })
  for (const resource of [R.configmaps, R.services, R.deployments, R.events])
    api.seed<KubeObject>(resource, { metadata: { name: 'x', namespace: 'shop' } })
  api.seed(R.pods, { metadata: { name: 'p', namespace: 'shop' }, spec: { nodeName: 'n0' } } as KubeObject)
  api.seed<KubeObject>(R.configmaps, { metadata: { name: 'other', namespace: 'default' } })
  await cluster.start(startNamespaces)
  await api.delete(R.namespaces, { name: 'shop' })
  await clock.advance(1000)
  assert.equal(get()?.status?.phase, 'Terminating')
  assert.match(get()?.status?.conditions?.[0]?.message ?? '', /pods has 1 resource/)
  assert.equal(api.objects(R.deployments).length, 0)
  api.drop(R.pods, 'shop/p')
  await clock.advance(2000)
  assert.equal(get(), undefined)
  assert.deepEqual(
    api.objects<KubeObject>(R.configmaps).map((o) => o.metadata.name),
    ['other'],
  )
})

test('each namespace has its ServiceAccount and root certificate, again after a deletion or change, not while it goes', async () => {
  const cluster = new FakeCluster({}, false)
  const { api, clock } = cluster
  api.seed<KubeObject>(R.namespaces, { metadata: { name: 'a' } })
  await cluster.start(startServiceAccounts, (context) => startRootCa(context, 'PEM'))
  api.seed<KubeObject>(
    R.namespaces,
    { metadata: { name: 'b' } },
    { metadata: { name: 'dying', deletionTimestamp: '2030-01-01T00:00:00Z' } },
  )
  await clock.advance(100)
  const accounts = () =>
    api.objects<KubeObject>(R.serviceaccounts).map((o) => `${o.metadata.namespace}/${o.metadata.name}`)
  assert.deepEqual(accounts(), ['a/default', 'b/default'])
  api.drop(R.serviceaccounts, 'a/default')
  api.change(R.configmaps, 'a/kube-root-ca.crt', (o: KubeObject & { data?: object }) => void (o.data = {}))
  await clock.advance(100)
  assert.deepEqual(accounts(), ['a/default', 'b/default'])
  assert.deepEqual((api.object(R.configmaps, 'a/kube-root-ca.crt') as KubeObject & { data?: object })?.data, {
    'ca.crt': 'PEM',
  })
})
