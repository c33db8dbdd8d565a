import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import { RESOURCES } from '@capstan/client'
import fc from 'fast-check'
import { startDeployments } from './deployment-controller.js'
import {
  newSetSize,
  resolvePercent,
  REVISION,
  REVISION_HISTORY,
  rolloutOf,
  scaleSets,
  shrinkOldSets,
} from './deployment-plan.js'
import { startGarbageCollector } from './garbage-collector.js'
import { condition, type Deployment, isPodReady, type ReplicaSet } from './kinds.js'
import { startReplicaSets } from './replica-controller.js'
import { deployment, FakeCluster, setImage } from './testing/fake-cluster.js'

const KEY = 'default/web'

async function setUp(spec: Deployment['spec'] = {}) {
  const cluster = new FakeCluster()
  const { api } = cluster
  api.seed(RESOURCES.deployments, deployment('web', spec))
  await cluster.start(startReplicaSets, startDeployments, startGarbageCollector)
  await cluster.settle()
  const get = () => api.object<Deployment>(RESOURCES.deployments, KEY) as Deployment
  const sets = () => api.objects<ReplicaSet>(RESOURCES.replicasets)
  const change = (edit: (d: Deployment) => void) => api.change<Deployment>(RESOURCES.deployments, KEY, edit)
  const images = () =>
    cluster
      .pods()
      .filter((pod) => pod.metadata.deletionTimestamp === undefined)
      .map((pod) => (pod.spec?.containers as unknown as { image: string }[] | undefined)?.[0]?.image)
  return { cluster, api, get, sets, change, images }
}

test('a new Deployment: one ReplicaSet named by the hash of its template, revision 1, status complete', async () => {
  const { get, sets, cluster } = await setUp({ replicas: 3 })
  assert.equal(sets().length, 1)
  const [set] = sets()
  const hash = set?.metadata.labels?.['pod-template-hash'] ?? ''
  assert.equal(set?.metadata.name, `web-${hash}`)
  assert.equal(set?.spec?.selector?.matchLabels?.['pod-template-hash'], hash)
  assert.ok(cluster.pods().every((pod) => pod.metadata.labels?.['pod-template-hash'] === hash))
  assert.equal(get().metadata.annotations?.[REVISION], '1')
  const { conditions, ...counts } = get().status ?? {}
  assert.deepEqual(counts, {
    observedGeneration: 1,
    replicas: 3,
    updatedReplicas: 3,
    readyReplicas: 3,
    availableReplicas: 3,
    unavailableReplicas: 0,
  })
  assert.equal(condition(conditions, 'Available')?.status, 'True')
  assert.equal(condition(conditions, 'Progressing')?.reason, 'NewReplicaSetAvailable')
})

test('RollingUpdate keeps within maxSurge and maxUnavailable at every moment', async () => {
  for (const [maxSurge, maxUnavailable] of [
    [1, 0],
    [0, 1],
    ['25%', '25%'],
    [3, 2],
  ] as const) {
    const { cluster, change, images, get } = await setUp({
      replicas: 5,
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge, maxUnavailable } },
    })
    const { maxSurge: surge, maxUnavailable: unavailable } = rolloutOf(get())
    change((d) => setImage(d, 'nginx:2'))
    await cluster.settle({
      turns: 200,
      each() {
        const live = cluster.pods().filter((pod) => pod.metadata.deletionTimestamp === undefined)
        assert.ok(live.length <= 5 + surge, `${live.length} pods with maxSurge ${maxSurge}`)
        const ready = live.filter(isPodReady).length
        assert.ok(ready >= 5 - unavailable, `${ready} ready with maxUnavailable ${maxUnavailable}`)
      },
    })
    assert.deepEqual(images(), Array(5).fill('nginx:2'))
    assert.equal(get().status?.updatedReplicas, 5)
    assert.equal(get().metadata.annotations?.[REVISION], '2')
  }
})

test('Recreate: no new pod before the last old one is gone', async () => {
  const { cluster, api, change, images, get } = await setUp({ replicas: 2, strategy: { type: 'Recreate' } })
  change((d) => setImage(d, 'nginx:2'))
  await cluster.clock.advance(500)
  assert.deepEqual(images(), [])
  assert.equal(condition(get().status?.conditions, 'Available')?.status, 'False')
  assert.equal(cluster.pods().length, 2, 'both are terminating')
  api.drop(RESOURCES.pods, `default/${cluster.pods()[0]?.metadata.name}`)
  await cluster.clock.advance(500)
  assert.deepEqual(images(), [])
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:2', 'nginx:2'])
})

test('rollback: the old ReplicaSet is used again, under the next revision, with its history', async () => {
  const { cluster, change, sets, images, get } = await setUp({ replicas: 2 })
  change((d) => setImage(d, 'nginx:2'))
  await cluster.settle()
  change((d) => setImage(d, 'nginx:1'))
  await cluster.settle()
  assert.equal(sets().length, 2)
  assert.deepEqual(images(), ['nginx:1', 'nginx:1'])
  const active = sets().find((rs) => rs.spec?.replicas === 2)
  assert.deepEqual(
    [active?.metadata.annotations?.[REVISION], active?.metadata.annotations?.[REVISION_HISTORY]],
    ['3', '1'],
  )
  assert.equal(get().metadata.annotations?.[REVISION], '3')
})

test('the history is cut to revisionHistoryLimit, the oldest first', async () => {
  const { cluster, change, sets } = await setUp({ replicas: 1, revisionHistoryLimit: 2 })
  for (let image = 2; image <= 6; image++) {
    change((d) => setImage(d, `nginx:${image}`))
    await cluster.settle()
  }
  assert.deepEqual(
    sets()
      .map((rs) => rs.metadata.annotations?.[REVISION])
      .sort(),
    ['4', '5', '6'],
  )
})

test('paused: a new template does nothing, scaling does; resumed it rolls', async () => {
  const { cluster, change, images, get } = await setUp({ replicas: 2 })
  change((d) => {
    d.spec = { ...d.spec, paused: true }
    setImage(d, 'nginx:2')
  })
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:1', 'nginx:1'])
  assert.equal(condition(get().status?.conditions, 'Progressing')?.reason, 'DeploymentPaused')
  change((d) => void (d.spec = { ...d.spec, replicas: 3 }))
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:1', 'nginx:1', 'nginx:1'])
  change((d) => void (d.spec = { ...d.spec, paused: false }))
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:2', 'nginx:2', 'nginx:2'])
})

test('a rollout that stands still is told after progressDeadlineSeconds, and recovers', async () => {
  const { cluster, change, get } = await setUp({ replicas: 2, progressDeadlineSeconds: 30 })
  change((d) => setImage(d, 'broken'))
  await cluster.settle({ getReady: false })
  assert.equal(condition(get().status?.conditions, 'Progressing')?.status, 'True')
  await cluster.clock.advance(40_000)
  const progressing = condition(get().status?.conditions, 'Progressing')
  assert.deepEqual([progressing?.status, progressing?.reason], ['False', 'ProgressDeadlineExceeded'])
  assert.equal(get().status?.availableReplicas, 2, 'the old pods are still there')
  await cluster.settle()
  assert.equal(condition(get().status?.conditions, 'Progressing')?.reason, 'NewReplicaSetAvailable')
})

test('scaling in the middle of a rollout shares the change out', async () => {
  const { cluster, change, sets } = await setUp({
    replicas: 10,
    strategy: { rollingUpdate: { maxSurge: 3, maxUnavailable: 2 } },
  })
  change((d) => setImage(d, 'nginx:2'))
  await cluster.settle({ getReady: false })
  const before = sets().map((rs) => rs.spec?.replicas)
  assert.deepEqual(before.sort(), [5, 8])
  change((d) => void (d.spec = { ...d.spec, replicas: 20 }))
  await cluster.clock.advance(200)
  const after = sets().map((rs) => rs.spec?.replicas ?? 0)
  assert.equal((after[0] as number) + (after[1] as number), 23)
  assert.ok(
    after.every((size) => size > 5),
    `both grew: ${after}`,
  )
  await cluster.settle({ turns: 200 })
  assert.deepEqual(
    sets()
      .map((rs) => rs.spec?.replicas)
      .sort(),
    [0, 20],
  )
})

test('a name taken by a foreign ReplicaSet: another hash by collisionCount', async () => {
  const first = await setUp({ replicas: 1 })
  const name = first.sets()[0]?.metadata.name ?? ''
  const cluster = new FakeCluster()
  cluster.api.seed<ReplicaSet>(RESOURCES.replicasets, {
    metadata: { name, namespace: 'default' },
    spec: { replicas: 0 },
  })
  cluster.api.seed(RESOURCES.deployments, deployment('web'))
  await cluster.start(startReplicaSets, startDeployments)
  await cluster.settle()
  await cluster.clock.advance(1000)
  await cluster.settle()
  assert.equal(cluster.api.object<Deployment>(RESOURCES.deployments, KEY)?.status?.collisionCount, 1)
  assert.equal(cluster.pods().length, 1)
})

test('an answer lost on the creation of the ReplicaSet makes no second one', async () => {
  const cluster = new FakeCluster()
  let lost = 0
  cluster.api.intercept = (call) =>
    call.verb === 'create' && call.resource === 'replicasets' && lost++ === 0
      ? { after: new CallError('TIMEOUT', 'maybe-applied', 'answer lost') }
      : undefined
  cluster.api.hold(RESOURCES.replicasets)
  cluster.api.seed(RESOURCES.deployments, deployment('web', { replicas: 2 }))
  await cluster.start(startReplicaSets, startDeployments)
  await cluster.clock.advance(200)
  cluster.api.release(RESOURCES.replicasets)
  await cluster.settle()
  assert.equal(cluster.api.objects(RESOURCES.replicasets).length, 1)
  assert.equal(cluster.pods().length, 2)
})

test('deleting the Deployment in the background takes everything with it', async () => {
  const { cluster, api, sets } = await setUp({ replicas: 3 })
  await api.delete(RESOURCES.deployments, { namespace: 'default', name: 'web' }, { propagationPolicy: 'Background' })
  await cluster.settle()
  assert.deepEqual([sets().length, cluster.pods().length], [0, 0])
})

test('at rest nothing is written', async () => {
  const { cluster, api } = await setUp({ replicas: 3 })
  await cluster.clock.advance(5000)
  const { revision } = api
  const calls = api.calls.length
  await cluster.clock.advance(60_000)
  assert.equal(api.revision, revision)
  assert.ok(api.calls.length - calls < 5)
})

// ------------------------------------------------------------------------------------------------------------ pure plan

function set(name: string, size: number, available: number, annotations: Record<string, string> = {}): ReplicaSet {
  return {
    metadata: { name, annotations },
    spec: { replicas: size },
    status: { replicas: size, availableReplicas: available },
  }
}

test('steps of a rolling update', () => {
  //   replicas surge unavailable | new (size/available) old (size/available) | new size → , old sizes →
  const table: [number, number, number, [number, number], [number, number], number, number | undefined][] = [
    [10, 3, 2, [0, 0], [10, 10], 3, 8],
    [10, 3, 2, [3, 0], [10, 10], 3, 8],
    [10, 3, 2, [3, 0], [8, 8], 5, undefined],
    [10, 3, 2, [5, 0], [8, 8], 5, undefined],
    [10, 3, 2, [5, 1], [8, 8], 5, 7],
    [10, 3, 2, [5, 5], [8, 8], 5, 3],
    [10, 3, 2, [10, 10], [3, 3], 10, 0],
    [10, 0, 2, [0, 0], [10, 10], 0, 8],
    [1, 1, 0, [0, 0], [1, 1], 1, undefined],
    [1, 1, 0, [1, 0], [1, 1], 1, undefined],
    [1, 1, 0, [1, 1], [1, 1], 1, 0],
    // Old pods that are not available anyway go first, without waiting for the new ones.
    [4, 1, 1, [1, 0], [4, 0], 1, 3],
    [5, 0, 0, [0, 0], [5, 5], 0, undefined],
  ]
  for (const [replicas, maxSurge, maxUnavailable, fresh, old, newSize, oldSize] of table) {
    const rollout = { replicas, maxSurge, maxUnavailable, recreate: false }
    const [n, o] = [set('new', ...fresh), set('old', ...old)]
    const row = JSON.stringify([replicas, maxSurge, maxUnavailable, fresh, old])
    assert.equal(newSetSize(rollout, n, [n, o]), newSize, row)
    assert.deepEqual(
      shrinkOldSets(rollout, n, [o]),
      oldSize === undefined ? [] : [{ name: 'old', replicas: oldSize }],
      row,
    )
  }
})

test('percentages: surge up, unavailable down, never both 0', () => {
  const rollout = (replicas: number, maxSurge?: string | number, maxUnavailable?: string | number) => {
    const rollingUpdate = {
      ...(maxSurge === undefined ? {} : { maxSurge }),
      ...(maxUnavailable === undefined ? {} : { maxUnavailable }),
    }
    const { maxSurge: s, maxUnavailable: u } = rolloutOf(deployment('x', { replicas, strategy: { rollingUpdate } }))
    return [s, u]
  }
  assert.deepEqual(rollout(10), [3, 2])
  assert.deepEqual(rollout(1), [1, 0])
  assert.deepEqual(rollout(3, 0, '25%'), [0, 1])
  assert.deepEqual(rollout(2, 0, 5), [0, 2])
  assert.throws(() => resolvePercent('ten', 1, Math.ceil), RangeError)
})

test('property: scaling shares out exactly what is allowed, and nothing goes below 0', () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat({ max: 30 }), { minLength: 2, maxLength: 5 }),
      fc.nat({ max: 100 }),
      fc.nat({ max: 10 }),
      (sizes, replicas, maxSurge) => {
        const total = sizes.reduce((a, b) => a + b, 0)
        const sets = sizes.map((size, at) =>
          set(`rs${at}`, size, 0, { 'deployment.kubernetes.io/max-replicas': String(total) }),
        )
        const rollout = { replicas, maxSurge, maxUnavailable: 1, recreate: false }
        const resized = scaleSets(rollout, sets[0], sets.slice(1))
        assert.ok(resized.every((r) => r.replicas >= 0 && Number.isInteger(r.replicas)))
        if (sizes.filter((size) => size > 0).length < 2) return
        const after = sets.map(
          (rs) => resized.find((r) => r.name === rs.metadata.name)?.replicas ?? rs.spec?.replicas ?? 0,
        )
        assert.equal(
          after.reduce((a, b) => a + b, 0),
          replicas > 0 ? replicas + maxSurge : 0,
        )
      },
    ),
    { numRuns: 300 },
  )
})
