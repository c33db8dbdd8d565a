import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RESOURCES } from '@capstan/client'
import { condition, type Node, type Pod, type ReplicaSet, type Toleration } from './kinds.js'
import { startNodeLifecycle } from './node-lifecycle.js'
import { startPodGc } from './pod-gc.js'
import { startReplicaSets } from './replica-controller.js'
import { tolerates, tolerationSeconds } from './taints.js'
import { FakeCluster } from './testing/fake-cluster.js'

const TOLERATIONS: Toleration[] = ['unreachable', 'not-ready'].map((what) => ({
  key: `node.kubernetes.io/${what}`,
  operator: 'Exists',
  effect: 'NoExecute',
  tolerationSeconds: 2,
}))

const CONTAINER = { name: 'c', image: 'i' }

function pod(name: string, nodeName: string, tolerations = TOLERATIONS): Pod {
  return {
    metadata: { name, namespace: 'default' },
    spec: { nodeName, tolerations, containers: [CONTAINER] },
    status: { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] },
  }
}

async function setUp(count = 5) {
  const cluster = new FakeCluster()
  for (let at = 0; at < count; at++) cluster.addNode(`n${at}`)
  cluster.api.seed(RESOURCES.pods, ...Array.from({ length: count }, (_, at) => pod(`p${at}`, `n${at}`)))
  await cluster.start(startNodeLifecycle)
  await cluster.clock.advance(10_000)
  const get = (name: string) => cluster.api.object<Pod>(RESOURCES.pods, `default/${name}`)
  const evicted = () =>
    cluster
      .pods()
      .filter((p) => p.metadata.deletionTimestamp !== undefined)
      .map((p) => p.metadata.name)
  const unready = () =>
    cluster
      .pods()
      .filter((p) => condition(p.status?.conditions, 'Ready')?.status !== 'True')
      .map((p) => p.metadata.name)
  const marked = () =>
    cluster.api
      .objects<Node>(RESOURCES.nodes)
      .map((n) => n.metadata.name ?? '')
      .filter((n) => cluster.ready(n) === 'Unknown')
  return { cluster, clock: cluster.clock, get, evicted, unready, marked }
}

test('a dead node: marked and tainted within 6 s, its pods unready at once, evicted 2 s later', async () => {
  const { cluster, clock, evicted, unready, marked } = await setUp(3)
  cluster.silence('n1')
  await clock.advance(3600)
  assert.deepEqual(marked(), [], 'not yet')
  await clock.advance(2000)
  assert.deepEqual(marked(), ['n1'])
  assert.deepEqual(cluster.taints('n1'), ['unreachable:NoSchedule', 'unreachable:NoExecute'])
  assert.deepEqual([unready(), evicted()], [['p1'], []])
  await clock.advance(2000)
  assert.deepEqual(evicted(), ['p1'])
  await clock.advance(60_000)
  assert.equal(cluster.pods().length, 3, 'it stays Terminating until its kubelet is back')
})

test('beats alone missing, or the Lease alone not renewed: nothing happens', async () => {
  const { cluster, clock, evicted, marked } = await setUp()
  cluster.stopBeats('n1')
  cluster.stopLease('n2')
  await clock.advance(60_000)
  assert.deepEqual([marked(), evicted()], [[], []])
})

test('a kubelet that is paused for 3 s is not marked', async () => {
  const { cluster, clock, evicted, marked } = await setUp(3)
  for (let offset = 0; offset < 1000; offset += 125) {
    cluster.silence('n1')
    await clock.advance(3000)
    cluster.resumeNode('n1')
    await clock.advance(2000 + offset)
    assert.deepEqual([marked(), evicted()], [[], []])
  }
})

test('own stall, bus reconnect: all grace periods start anew', async () => {
  const { cluster, clock, evicted, marked } = await setUp()
  cluster.broker.lose = (message) => message.subject.includes('.beat.')
  for (let round = 0; round < 3; round++) {
    await clock.stall(8000)
    cluster.broker.lose = () => false
    await clock.advance(1500)
    cluster.broker.lose = (message) => message.subject.includes('.beat.')
  }
  cluster.broker.lose = () => false
  for (let round = 0; round < 3; round++) {
    cluster.world.bus.setConnected(false)
    await clock.advance(20_000)
    cluster.world.bus.setConnected(true)
    await clock.advance(1500)
  }
  assert.deepEqual([marked(), evicted()], [[], []])
})

test('a node that was dead before a stall is found dead again, only later', async () => {
  const { cluster, clock, evicted, marked } = await setUp()
  cluster.silence('n1')
  await clock.advance(2000)
  await clock.stall(5000)
  await clock.advance(2000)
  assert.deepEqual(marked(), [])
  await clock.advance(8000)
  assert.deepEqual([marked(), evicted()], [['n1'], ['p1']])
})

test('a stall just before the eviction puts it off until the node is found silent again', async () => {
  const { cluster, clock, evicted } = await setUp()
  cluster.silence('n1')
  await clock.until(() => cluster.ready('n1') === 'Unknown', 10_000)
  await clock.advance(1000)
  await clock.stall(10_000)
  await clock.advance(500)
  assert.deepEqual(evicted(), [])
  await clock.advance(10_000)
  assert.deepEqual(evicted(), ['p1'])
})

test('many silent at once: marked, alarmed, neither evicted nor made unready; the first to be heard again are well', async () => {
  const { cluster, clock, evicted, unready, marked } = await setUp(6)
  cluster.silence('n0', 'n1', 'n2')
  await clock.advance(30_000)
  assert.deepEqual([marked(), evicted(), unready()], [['n0', 'n1', 'n2'], [], []])
  assert.deepEqual(cluster.taints('n1'), ['unreachable:NoSchedule'])
  assert.ok(cluster.world.log.lines.some((line) => line.level === 'error' && line.text.includes('many nodes')))
  const events = cluster.api.objects<{ metadata: object; reason: string }>(RESOURCES.events)
  assert.equal(events.filter((event) => event.reason === 'ManyNodesSilent').length, 3)
})

test('many silent for long while others are heard: they are dead after all', async () => {
  const { cluster, clock, evicted } = await setUp(6)
  cluster.silence('n0', 'n1', 'n2')
  await clock.advance(80_000)
  assert.deepEqual(evicted(), ['p0', 'p1', 'p2'])
})

test('all silent: nobody is ever evicted', async () => {
  const { cluster, clock, evicted } = await setUp(3)
  cluster.silence('n0', 'n1', 'n2')
  await clock.advance(150_000)
  assert.deepEqual(evicted(), [])
})

test('one after the other, far apart, is no disruption', async () => {
  const { cluster, clock, evicted } = await setUp(3)
  cluster.silence('n0')
  await clock.advance(30_000)
  cluster.silence('n1')
  await clock.advance(30_000)
  assert.deepEqual(evicted(), ['p0', 'p1'])
})

test('a node that comes back: taints go when its kubelet says Ready, not before; nothing more is evicted', async () => {
  const { cluster, clock, evicted } = await setUp()
  cluster.silence('n1')
  await clock.until(() => cluster.ready('n1') === 'Unknown', 10_000)
  await clock.advance(500)
  cluster.resumeNode('n1')
  await clock.advance(10_000)
  assert.deepEqual(evicted(), [], 'it is heard of again: the toleration runs no more')
  assert.equal(cluster.taints('n1').length, 2)
  cluster.api.change<Node>(
    RESOURCES.nodes,
    'n1',
    (node) => void (node.status = { conditions: [{ type: 'Ready', status: 'True' }] }),
  )
  await clock.advance(100)
  assert.deepEqual(cluster.taints('n1'), [])
})

test('NotReady by the kubelet itself, cordon and pressure are tainted too', async () => {
  const { cluster, clock, evicted } = await setUp()
  cluster.api.change<Node>(RESOURCES.nodes, 'n1', (node) => {
    node.spec = { unschedulable: true, taints: [{ key: 'mine', effect: 'NoSchedule' }] }
    node.status = {
      conditions: [
        { type: 'Ready', status: 'False' },
        { type: 'DiskPressure', status: 'True' },
      ],
    }
  })
  await clock.advance(100)
  assert.deepEqual(cluster.taints('n1'), [
    'mine:NoSchedule',
    'not-ready:NoSchedule',
    'not-ready:NoExecute',
    'unschedulable:NoSchedule',
    'disk-pressure:NoSchedule',
  ])
  assert.deepEqual(evicted(), [])
  await clock.advance(2500)
  assert.deepEqual(evicted(), ['p1'])
})

test('a toleration without seconds stays, one with more seconds stays longer, none at all goes at once', async () => {
  const { cluster, clock, evicted } = await setUp(3)
  const any = [{ operator: 'Exists' }]
  const long = TOLERATIONS.map((t) => ({ ...t, tolerationSeconds: 30 }))
  cluster.api.seed(RESOURCES.pods, pod('forever', 'n1', any), pod('long', 'n1', long), pod('none', 'n1', []))
  cluster.silence('n1')
  await clock.until(() => cluster.ready('n1') === 'Unknown', 10_000)
  await clock.advance(100)
  assert.deepEqual(evicted(), ['none'])
  await clock.advance(10_000)
  assert.deepEqual(evicted(), ['none', 'p1'])
  await clock.advance(30_000)
  assert.deepEqual(evicted(), ['long', 'none', 'p1'])
})

test('ReplicaSet replaces what is evicted though the old pod stays Terminating', async () => {
  const cluster = new FakeCluster()
  for (const name of ['n0', 'n1', 'n2']) cluster.addNode(name)
  const labels = { app: 'web' }
  cluster.api.seed<ReplicaSet>(RESOURCES.replicasets, {
    metadata: { name: 'web', namespace: 'default' },
    spec: {
      replicas: 3,
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { tolerations: TOLERATIONS, containers: [{ name: 'c', image: 'i' }] } },
    },
  })
  await cluster.start(startNodeLifecycle, startReplicaSets)
  await cluster.settle({ nodes: ['n0', 'n1', 'n2'] })
  await cluster.clock.advance(3000)
  cluster.silence('n1')
  await cluster.clock.advance(8000)
  const [gone] = cluster.pods().filter((p) => p.metadata.deletionTimestamp !== undefined)
  assert.equal(gone?.spec?.nodeName, 'n1')
  assert.equal(cluster.pods().length, 4)
})

test('tolerations', () => {
  const taint = { key: 'k', value: 'v', effect: 'NoExecute' }
  assert.ok(tolerates({ operator: 'Exists' }, taint))
  assert.ok(tolerates({ key: 'k', operator: 'Exists', effect: '' }, taint))
  assert.ok(tolerates({ key: 'k', value: 'v' }, taint))
  assert.ok(!tolerates({ key: 'k', value: 'w' }, taint))
  assert.ok(!tolerates({ key: 'k', value: 'v', effect: 'NoSchedule' }, taint))
  assert.ok(!tolerates({ value: 'v' }, taint))
  assert.equal(tolerationSeconds([], taint), 0)
  assert.equal(tolerationSeconds([{ operator: 'Exists' }], taint), Infinity)
  assert.equal(tolerationSeconds([{ operator: 'Exists' }, { key: 'k', value: 'v', tolerationSeconds: 7 }], taint), 7)
  assert.equal(tolerationSeconds([{ operator: 'Exists', tolerationSeconds: -1 }], taint), 0)
})

test('pod GC: pods of nodes that are gone, after a while; terminating ones never bound; ended ones above the number', async () => {
  const cluster = new FakeCluster({ podGc: { terminatedMax: 2 } })
  const { api, clock } = cluster
  cluster.addNode('n0')
  const ended = (name: string, at: number): Pod => ({
    metadata: { name, namespace: 'default', creationTimestamp: new Date(at * 1000).toISOString() },
    spec: { nodeName: 'n0' },
    status: { phase: 'Succeeded' },
  })
  api.seed<Pod>(
    RESOURCES.pods,
    pod('ghost', 'gone'),
    pod('well', 'n0'),
    ended('e3', 3),
    ended('e1', 1),
    ended('e2', 2),
    {
      metadata: {
        name: 'unbound',
        namespace: 'default',
        deletionTimestamp: '2030-01-01T00:00:00Z',
        deletionGracePeriodSeconds: 30,
      },
      spec: {},
    },
  )
  await cluster.start(startPodGc)
  await clock.advance(6000)
  const names = () => cluster.pods().map((p) => `${p.metadata.name}${p.metadata.deletionTimestamp ? '!' : ''}`)
  assert.deepEqual(names(), ['e2', 'e3', 'ghost', 'well'])
  await clock.advance(15_000)
  assert.deepEqual(names(), ['e2', 'e3', 'well'])
})
