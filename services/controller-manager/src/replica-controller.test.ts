import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import { controllerOf, RESOURCES } from '@capstan/client'
import type { Pod, ReplicaSet, ReplicationController } from './kinds.js'
import { byDeletionPreference, startReplicaSets, startReplicationControllers } from './replica-controller.js'
import { FakeCluster } from './testing/fake-cluster.js'

function replicaSet(name: string, replicas: number, extra: ReplicaSet['spec'] = {}): ReplicaSet {
  const labels = { app: name }
  return {
    metadata: { name, namespace: 'default' },
    spec: {
      replicas,
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'i' }] } },
      ...extra,
    },
  }
}

async function setUp(...sets: ReplicaSet[]) {
  const cluster = new FakeCluster()
  cluster.api.seed(RESOURCES.replicasets, ...sets)
  await cluster.start(startReplicaSets)
  const status = (name: string) => cluster.api.object<ReplicaSet>(RESOURCES.replicasets, `default/${name}`)?.status
  return { cluster, api: cluster.api, status }
}

const RS = 'default/web'

test('makes the pods that are missing, with owner, labels and template, and states it', async () => {
  const { cluster, status } = await setUp(replicaSet('web', 3))
  await cluster.settle()
  const pods = cluster.pods()
  assert.equal(pods.length, 3)
  assert.ok(pods.every((pod) => controllerOf(pod)?.kind === 'ReplicaSet' && pod.metadata.labels?.app === 'web'))
  assert.ok(pods.every((pod) => pod.metadata.name?.startsWith('web-')))
  const { replicas, readyReplicas, availableReplicas, observedGeneration } = status('web') ?? { replicas: -1 }
  assert.deepEqual([replicas, readyReplicas, availableReplicas, observedGeneration], [3, 3, 3, 1])
})

test('scales down to 0 and up again; terminating and ended pods do not count', async () => {
  const { cluster, api } = await setUp(replicaSet('web', 3))
  await cluster.settle()
  api.change<Pod>(
    RESOURCES.pods,
    `default/${cluster.pods()[0]?.metadata.name}`,
    (pod) => void (pod.status = { phase: 'Failed' }),
  )
  await cluster.settle()
  assert.equal(cluster.pods().length, 4)
  api.change<ReplicaSet>(RESOURCES.replicasets, RS, (rs) => void (rs.spec = { ...rs.spec, replicas: 0 }))
  await cluster.settle()
  assert.deepEqual(
    cluster.pods().map((pod) => pod.status?.phase),
    ['Failed'],
  )
})

test('a stale cache makes nothing twice', async () => {
  const { cluster, api } = await setUp(replicaSet('web', 0))
  api.hold(RESOURCES.pods)
  api.change<ReplicaSet>(RESOURCES.replicasets, RS, (rs) => void (rs.spec = { ...rs.spec, replicas: 2 }))
  await cluster.clock.advance(100)
  assert.equal(cluster.pods().length, 2)
  for (let round = 0; round < 5; round++) {
    api.change<ReplicaSet>(RESOURCES.replicasets, RS, (rs) => void (rs.metadata.annotations = { round: String(round) }))
    await cluster.clock.advance(100)
  }
  assert.equal(cluster.pods().length, 2)
  api.release(RESOURCES.pods)
  await cluster.settle()
  assert.equal(cluster.pods().length, 2)
})

test('an answer lost on creation makes no pod too many', async () => {
  const { cluster, api } = await setUp(replicaSet('web', 0))
  let lost = 0
  api.intercept = (call) =>
    call.verb === 'create' && call.resource === 'pods' && lost++ < 1
      ? { after: new CallError('TIMEOUT', 'maybe-applied', 'answer lost') }
      : undefined
  api.change<ReplicaSet>(RESOURCES.replicasets, RS, (rs) => void (rs.spec = { ...rs.spec, replicas: 3 }))
  let most = 0
  await cluster.settle({ each: () => void (most = Math.max(most, cluster.pods().length)) })
  await cluster.clock.advance(15_000)
  assert.deepEqual([most, cluster.pods().length], [3, 3])
})

test('a template that is always refused costs one request for each attempt, and is told', async () => {
  const { cluster, api, status } = await setUp(replicaSet('web', 0))
  api.intercept = (call) =>
    call.verb === 'create' && call.resource === 'pods'
      ? new CallError('Invalid', 'not-applied', 'spec.containers: Required value')
      : undefined
  api.change<ReplicaSet>(RESOURCES.replicasets, RS, (rs) => void (rs.spec = { ...rs.spec, replicas: 100 }))
  await cluster.clock.advance(4)
  // One for the first attempt, one after the status with the failure was written.
  assert.equal(api.calls.filter((call) => call.verb === 'create' && call.resource === 'pods').length, 2)
  assert.deepEqual(
    status('web')?.conditions?.map((c) => [c.type, c.reason]),
    [['ReplicaFailure', 'FailedCreate']],
  )
  api.intercept = () => undefined
  await cluster.settle()
  await cluster.clock.advance(1000)
  await cluster.settle()
  assert.equal(cluster.pods().length, 100)
  assert.equal(status('web')?.conditions, undefined)
})

test('adopts matching orphans and releases what matches no more', async () => {
  const { cluster, api } = await setUp(replicaSet('web', 2))
  await cluster.settle()
  const [first] = cluster.pods()
  api.change<Pod>(
    RESOURCES.pods,
    `default/${first?.metadata.name}`,
    (pod) => void (pod.metadata.labels = { app: 'debug' }),
  )
  await cluster.settle()
  assert.equal(cluster.pods().length, 3)
  assert.equal(controllerOf(api.object<Pod>(RESOURCES.pods, `default/${first?.metadata.name}`) as Pod), undefined)
  api.seed<Pod>(RESOURCES.pods, {
    metadata: { name: 'stray', namespace: 'default', labels: { app: 'web' } },
    spec: { containers: [{ name: 'c' }] },
  })
  await cluster.settle()
  const owned = cluster.pods().filter((pod) => controllerOf(pod))
  assert.equal(owned.length, 2, 'the stray one was adopted, and one too many deleted')
})

test('minReadySeconds: available by time alone', async () => {
  const { cluster, status } = await setUp(replicaSet('web', 1, { minReadySeconds: 5 }))
  await cluster.settle()
  assert.deepEqual([status('web')?.readyReplicas, status('web')?.availableReplicas], [1, 0])
  await cluster.clock.advance(6000)
  assert.equal(status('web')?.availableReplicas, 1)
})

test('a FENCED write stops it', async () => {
  const { cluster, api } = await setUp(replicaSet('web', 1))
  await cluster.settle()
  api.drop(RESOURCES.leases, 'kube-system/kube-controller-manager')
  api.change<ReplicaSet>(RESOURCES.replicasets, RS, (rs) => void (rs.spec = { ...rs.spec, replicas: 5 }))
  await cluster.clock.advance(1000)
  assert.equal(cluster.pods().length, 1)
  assert.equal(cluster.fenced, 1)
})

test('ReplicationController: the same, with a plain selector', async () => {
  const cluster = new FakeCluster()
  const labels = { app: 'old' }
  cluster.api.seed<ReplicationController>(RESOURCES.replicationcontrollers, {
    metadata: { name: 'old', namespace: 'default' },
    spec: {
      replicas: 2,
      selector: labels,
      template: { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'i' }] } },
    },
  })
  await cluster.start(startReplicationControllers)
  await cluster.settle()
  assert.deepEqual(
    cluster.pods().map((pod) => controllerOf(pod)?.kind),
    ['ReplicationController', 'ReplicationController'],
  )
  assert.equal(
    cluster.api.object<ReplicationController>(RESOURCES.replicationcontrollers, 'default/old')?.status?.readyReplicas,
    2,
  )
})

test('which pod goes first', () => {
  const ready = (since: string) => [{ type: 'Ready', status: 'True', lastTransitionTime: since }]
  const pod = (name: string, nodeName: string, phase: string, extra: Partial<Pod> & { cost?: string } = {}): Pod => ({
    metadata: {
      name,
      namespace: 'default',
      creationTimestamp: '2030-01-01T00:00:00Z',
      ...(extra.cost ? { annotations: { 'controller.kubernetes.io/pod-deletion-cost': extra.cost } } : {}),
    },
    spec: nodeName ? { nodeName } : {},
    status: { phase, ...extra.status },
  })
  const pods = [
    pod('old-ready', 'n1', 'Running', { status: { conditions: ready('2030-01-01T00:00:00Z') } }),
    pod('young-ready', 'n1', 'Running', { status: { conditions: ready('2030-01-01T01:00:00Z') } }),
    pod('crowded', 'n2', 'Running', { status: { conditions: ready('2030-01-01T00:00:00Z') } }),
    pod('cheap', 'n3', 'Running', { cost: '-5', status: { conditions: ready('2030-01-01T00:00:00Z') } }),
    pod('not-ready', 'n1', 'Running'),
    pod('pending', 'n1', 'Pending'),
    pod('unbound', '', 'Pending'),
  ]
  const sorted = [...pods].sort(
    byDeletionPreference(
      new Map([
        ['n1', 2],
        ['n2', 3],
      ]),
      0,
    ),
  )
  assert.deepEqual(
    sorted.map((p) => p.metadata.name),
    ['unbound', 'pending', 'not-ready', 'cheap', 'crowded', 'young-ready', 'old-ready'],
  )
})
