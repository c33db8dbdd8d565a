import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RESOURCES } from '@capstan/client'
import { FENCED_HOLDER } from '@capstan/protocol'
import { IdentityFences } from './identity-fences.js'
import type { Node, Pod } from './kinds.js'
import { startNodeLifecycle } from './node-lifecycle.js'
import { startPodGc } from './pod-gc.js'
import { startStatefulSets } from './stateful-set-controller.js'
import { FakeCluster, statefulSet } from './testing/fake-cluster.js'

const LEASE_MS = 5000
/** Lease, clocks that differ by 5 % each, margin. */
const WAIT_MS = (LEASE_MS * 1.05) / 0.95 + 1000
const NODES = ['n0', 'n1', 'n2']
const tolerations = ['unreachable', 'not-ready'].map((what) => ({
  key: `node.kubernetes.io/${what}`,
  operator: 'Exists',
  effect: 'NoExecute',
  tolerationSeconds: 2,
}))

/** Three nodes, `db-0` on n0 and so on. */
async function setUp(identityLeaseMs: number | undefined = LEASE_MS) {
  const cluster = new FakeCluster()
  const { api, clock } = cluster
  for (const name of NODES) cluster.addNode(name, identityLeaseMs)
  const set = statefulSet('db', { replicas: 3, podManagementPolicy: 'Parallel' })
  set.spec = { ...set.spec, template: { ...set.spec?.template, spec: { ...set.spec?.template?.spec, tolerations } } }
  api.seed(RESOURCES.statefulsets, set)
  await cluster.start(startNodeLifecycle, startPodGc, startStatefulSets)
  await cluster.settle({ nodes: NODES })
  await clock.advance(10_000)
  const pod = (name: string) => api.object<Pod>(RESOURCES.pods, `default/${name}`)
  const holder = (node: string) =>
    api.object<{ metadata: object; spec?: { holderIdentity?: string } }>(RESOURCES.leases, `kube-node-lease/${node}`)
      ?.spec?.holderIdentity
  assert.equal(pod('db-1')?.spec?.nodeName, 'n1')
  return { cluster, api, clock, pod, holder, uid: pod('db-1')?.metadata.uid }
}

test('a dead node with a guard: its identity is given again within 8 s, after lease, spread of clocks and margin', async () => {
  const { cluster, clock, pod, holder, uid } = await setUp()
  const startMs = clock.monotonicMs()
  cluster.silence('n1')
  await clock.until(() => pod('db-1')?.metadata.uid !== uid, 20_000, 10)
  const tookMs = clock.monotonicMs() - startMs
  // The last renewal was up to a second before.
  assert.ok(tookMs >= WAIT_MS - 1000 && tookMs < 8000, `${tookMs} ms`)
  assert.equal(holder('n1'), FENCED_HOLDER)
  assert.equal(pod('db-1')?.spec?.nodeName, undefined, 'it may run elsewhere')
  assert.deepEqual([cluster.counters.nodesFenced, holder('n0')], [1, 'n0'])
  await clock.advance(60_000)
  assert.equal(cluster.ready('n1'), 'Unknown', 'that its lease was taken is no sign of life')
})

test('without a guard it hangs in Terminating, as it does elsewhere', async () => {
  const { cluster, clock, pod, holder, uid } = await setUp(0)
  cluster.silence('n1')
  await clock.advance(600_000)
  assert.equal(pod('db-1')?.metadata.uid, uid)
  assert.ok(pod('db-1')?.metadata.deletionTimestamp)
  assert.equal(holder('n1'), 'n1')
})

test('a node that renews its lease at the last moment keeps its pod', async () => {
  const { cluster, api, clock, pod, holder, uid } = await setUp(20_000)
  cluster.silence('n1')
  await clock.until(() => pod('db-1')?.metadata.deletionTimestamp !== undefined, 20_000, 10)
  // The renewal is committed, and the judge does not know it yet.
  api.hold(RESOURCES.leases)
  api.change<{ metadata: object; spec?: object }>(RESOURCES.leases, 'kube-node-lease/n1', (lease) => {
    lease.spec = { ...lease.spec, renewTime: '2030-01-01T00:00:00Z' }
  })
  await clock.advance(30_000)
  assert.equal(pod('db-1')?.metadata.uid, uid)
  assert.equal(holder('n1'), 'n1')
})

test('many silent at once: nothing is fenced', async () => {
  const { cluster, clock, pod, holder, uid } = await setUp()
  cluster.silence('n1', 'n2')
  await clock.advance(30_000)
  assert.deepEqual([pod('db-1')?.metadata.uid, holder('n1')], [uid, 'n1'])
})

test('a pod that a person deletes on a dead node is fenced first too', async () => {
  const { cluster, api, clock, pod, uid } = await setUp()
  api.change<Pod>(RESOURCES.pods, 'default/db-1', (p) => {
    p.spec = { ...p.spec, tolerations: [{ operator: 'Exists' }] }
  })
  cluster.silence('n1')
  await clock.advance(30_000)
  assert.equal(pod('db-1')?.metadata.deletionTimestamp, undefined, 'it tolerates everything')
  await api.delete(RESOURCES.pods, { namespace: 'default', name: 'db-1' })
  await clock.advance(2000)
  assert.notEqual(pod('db-1')?.metadata.uid, uid)
})

test('the Node is deleted under a living kubelet: its identity pods wait for the fence', async () => {
  const { cluster, api, clock, pod, holder, uid } = await setUp()
  api.drop(RESOURCES.nodes, 'n1')
  await clock.advance(60_000)
  assert.equal(pod('db-1')?.metadata.uid, uid, 'its lease is renewed all the while')
  cluster.silence('n1')
  await clock.advance(WAIT_MS + 7000)
  assert.notEqual(pod('db-1')?.metadata.uid, uid)
  assert.equal(holder('n1'), FENCED_HOLDER)
})

test('out of service: a person said so, and still the guard comes first', async () => {
  const { cluster, api, clock, pod, uid } = await setUp(20_000)
  cluster.silence('n1')
  await clock.until(() => pod('db-1')?.metadata.deletionTimestamp !== undefined, 20_000, 10)
  const key = 'node.kubernetes.io/out-of-service'
  api.change<Node>(RESOURCES.nodes, 'n1', (node) => {
    node.spec = { ...node.spec, taints: [...(node.spec?.taints ?? []), { key, effect: 'NoExecute' }] }
  })
  await clock.advance(8000)
  assert.equal(pod('db-1')?.metadata.uid, uid)
  await clock.advance(20_000)
  assert.notEqual(pod('db-1')?.metadata.uid, uid)
})

test('states: a lease counts from when its version was first seen; a deleted one is as good as taken', async () => {
  const cluster = new FakeCluster()
  const { api, clock } = cluster
  const fences = new IdentityFences(clock, cluster.informers)
  cluster.addNode('n0', LEASE_MS)
  cluster.addNode('n1')
  cluster.informers.start()
  await clock.advance(10)
  cluster.silence('n0')
  assert.deepEqual([fences.state('n1').kind, fences.state('nobody').kind], ['unguarded', 'unguarded'])
  await clock.advance(WAIT_MS - 20)
  assert.equal(fences.state('n0').kind, 'waiting')
  api.breakWatches()
  await clock.advance(1000)
  assert.equal(fences.state('n0').kind, 'due', 'a watch that is opened again tells nothing new')
  api.drop(RESOURCES.leases, 'kube-node-lease/n0')
  await clock.advance(10)
  assert.equal(fences.state('n0').kind, 'fenced')
})

test('planted bugs are not to be had by accident', () => {
  const cluster = new FakeCluster()
  const options = { plantedBugs: ['margin-left-out'] } as const
  assert.throws(() => new IdentityFences(cluster.clock, cluster.informers, options), RangeError)
})
