import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import { controllerOf, RESOURCES } from '@capstan/client'
import fc from 'fast-check'
import { type ControllerRevision, isPodReady, type Pod, type StatefulSet } from './kinds.js'
import { startStatefulSets } from './stateful-set-controller.js'
import { ordinalOf, planSet, REVISION_LABEL, type SetPlan } from './stateful-set-plan.js'
import { FakeCluster, setImage, statefulSet } from './testing/fake-cluster.js'

const KEY = 'default/db'
const CONTAINER = { name: 'c', image: 'i' }

async function setUp(spec: StatefulSet['spec'] = {}) {
  const cluster = new FakeCluster()
  const { api } = cluster
  api.seed(RESOURCES.statefulsets, statefulSet('db', spec))
  await cluster.start(startStatefulSets)
  const change = (edit: (set: StatefulSet) => void) => api.change<StatefulSet>(RESOURCES.statefulsets, KEY, edit)
  const spec_ = (more: StatefulSet['spec']) => change((set) => void (set.spec = { ...set.spec, ...more }))
  const names = () => cluster.pods().map((pod) => `${pod.metadata.name}${pod.metadata.deletionTimestamp ? '!' : ''}`)
  const images = () =>
    cluster.pods().map((pod) => (pod.spec?.containers as unknown as { image: string }[] | undefined)?.[0]?.image ?? '')
  const status = () => api.object<StatefulSet>(RESOURCES.statefulsets, KEY)?.status ?? { replicas: -1 }
  const revisions = () => api.objects<ControllerRevision>(RESOURCES.controllerrevisions)
  const ready = (name: string, isReady = true) =>
    api.change<Pod>(RESOURCES.pods, `default/${name}`, (pod) => {
      pod.spec = { ...pod.spec, nodeName: 'n0' }
      const lastTransitionTime = new Date(cluster.clock.nowMs()).toISOString()
      const isReadyText = isReady ? 'True' : 'False'
      pod.status = { phase: 'Running', conditions: [{ type: 'Ready', status: isReadyText, lastTransitionTime }] }
    })
  const gone = (name: string) => api.drop(RESOURCES.pods, `default/${name}`)
  return { cluster, api, clock: cluster.clock, change, spec: spec_, names, images, status, revisions, ready, gone }
}

test('one after the other, each when the one before is ready; with what follows from its name', async () => {
  const { cluster, clock, names, ready, status, revisions } = await setUp({ replicas: 3 })
  assert.deepEqual(names(), ['db-0'])
  await clock.advance(60_000)
  assert.deepEqual(names(), ['db-0'], 'it waits')
  ready('db-0')
  await clock.advance(100)
  assert.deepEqual(names(), ['db-0', 'db-1'])
  await cluster.settle()
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2'])
  const [, pod] = cluster.pods()
  const [revision] = revisions()
  assert.deepEqual(pod?.metadata.labels, {
    app: 'db',
    'apps.kubernetes.io/pod-index': '1',
    'statefulset.kubernetes.io/pod-name': 'db-1',
    [REVISION_LABEL]: revision?.metadata.name,
  })
  assert.deepEqual([pod?.spec?.hostname, pod?.spec?.subdomain], ['db-1', 'db'])
  assert.equal(controllerOf(pod as Pod)?.kind, 'StatefulSet')
  const name = revision?.metadata.name
  assert.deepEqual(status(), {
    observedGeneration: 1,
    replicas: 3,
    readyReplicas: 3,
    availableReplicas: 3,
    currentReplicas: 3,
    updatedReplicas: 3,
    currentRevision: name,
    updateRevision: name,
  })
})

test('scales down from the highest ordinal, one by one, when the rest is well', async () => {
  const { cluster, clock, spec, names, ready, gone } = await setUp({ replicas: 4 })
  await cluster.settle()
  ready('db-1', false)
  spec({ replicas: 2 })
  await clock.advance(1000)
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2', 'db-3'], 'not while one of the others is unwell')
  ready('db-1')
  await clock.advance(1000)
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2', 'db-3!'])
  gone('db-3')
  await clock.advance(1000)
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2!'])
  gone('db-2')
  await clock.advance(1000)
  assert.deepEqual(names(), ['db-0', 'db-1'])
})

test('Parallel makes and ends all at once', async () => {
  const { cluster, clock, spec, names } = await setUp({ replicas: 3, podManagementPolicy: 'Parallel' })
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2'])
  await cluster.settle()
  spec({ replicas: 0 })
  await clock.advance(100)
  assert.deepEqual(names(), ['db-0!', 'db-1!', 'db-2!'])
})

test('ordinals may start elsewhere, and move', async () => {
  const { cluster, spec, names } = await setUp({ replicas: 2, ordinals: { start: 5 } })
  await cluster.settle()
  assert.deepEqual(names(), ['db-5', 'db-6'])
  spec({ ordinals: { start: 6 } })
  await cluster.settle()
  assert.deepEqual(names(), ['db-6', 'db-7'])
})

test('a name is given again only when its former pod is gone', async () => {
  const { cluster, api, clock, names, gone } = await setUp({ replicas: 2 })
  await cluster.settle()
  const before = cluster.pods()[0]?.metadata.uid
  await api.delete(RESOURCES.pods, { namespace: 'default', name: 'db-0' })
  await clock.advance(600_000)
  assert.deepEqual(names(), ['db-0!', 'db-1'])
  gone('db-0')
  await clock.advance(100)
  assert.deepEqual(names(), ['db-0', 'db-1'])
  assert.notEqual(cluster.pods()[0]?.metadata.uid, before)
})

test('a pod that has ended is made anew', async () => {
  const { cluster, api, names } = await setUp({ replicas: 1 })
  await cluster.settle()
  const before = cluster.pods()[0]?.metadata.uid
  api.change<Pod>(RESOURCES.pods, 'default/db-0', (pod) => void (pod.status = { phase: 'Failed' }))
  await cluster.settle()
  assert.deepEqual(names(), ['db-0'])
  assert.notEqual(cluster.pods()[0]?.metadata.uid, before)
})

test('a new template: from the highest ordinal down, one at a time, each when the last is ready', async () => {
  const { cluster, clock, change, images, names, ready, gone, status, revisions } = await setUp({ replicas: 3 })
  await cluster.settle()
  const first = status().currentRevision
  change((set) => setImage(set, 'nginx:2'))
  await clock.advance(1000)
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2!'])
  gone('db-2')
  await clock.advance(1000)
  assert.deepEqual(images(), ['nginx:1', 'nginx:1', 'nginx:2'])
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2'], 'the new one is not ready yet')
  assert.deepEqual([status().currentRevision, status().updatedReplicas, status().currentReplicas], [first, 1, 2])
  ready('db-2')
  await clock.advance(1000)
  assert.deepEqual(names(), ['db-0', 'db-1!', 'db-2'])
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:2', 'nginx:2', 'nginx:2'])
  const { currentRevision, updateRevision, currentReplicas } = status()
  assert.deepEqual([currentRevision, currentReplicas], [updateRevision, 3])
  assert.notEqual(currentRevision, first)
  assert.deepEqual(
    revisions()
      .map((r) => r.revision)
      .sort(),
    [1, 2],
  )
})

test('partition: ordinals below it stay, also when they are made anew', async () => {
  const { cluster, change, spec, images, gone, status } = await setUp({
    replicas: 4,
    updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition: 2 } },
  })
  await cluster.settle()
  change((set) => setImage(set, 'nginx:2'))
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:1', 'nginx:1', 'nginx:2', 'nginx:2'])
  gone('db-0')
  gone('db-3')
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:1', 'nginx:1', 'nginx:2', 'nginx:2'])
  assert.notEqual(status().currentRevision, status().updateRevision)
  spec({ updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition: 0 } } })
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:2', 'nginx:2', 'nginx:2', 'nginx:2'])
  assert.equal(status().currentRevision, status().updateRevision)
})

test('OnDelete: a pod is new when somebody deletes it', async () => {
  const { cluster, change, images, gone } = await setUp({ replicas: 2, updateStrategy: { type: 'OnDelete' } })
  await cluster.settle()
  change((set) => setImage(set, 'nginx:2'))
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:1', 'nginx:1'])
  gone('db-0')
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:2', 'nginx:1'])
})

test('maxUnavailable: so many at a time', async () => {
  const { cluster, clock, change, names } = await setUp({
    replicas: 5,
    updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: '40%' } },
  })
  await cluster.settle()
  change((set) => setImage(set, 'nginx:2'))
  await clock.advance(1000)
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2', 'db-3!', 'db-4!'])
})

test('a template that never gets ready stands still, and the next one goes through', async () => {
  const { cluster, clock, change, images, names, ready, gone } = await setUp({ replicas: 3 })
  await cluster.settle()
  change((set) => setImage(set, 'broken'))
  await clock.advance(100)
  gone('db-2')
  await clock.advance(100)
  ready('db-2', false)
  await clock.advance(60_000)
  assert.deepEqual(images(), ['nginx:1', 'nginx:1', 'broken'])
  change((set) => setImage(set, 'nginx:3'))
  await clock.advance(100)
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2!'], 'Kubernetes leaves that to a person')
  await cluster.settle()
  assert.deepEqual(images(), ['nginx:3', 'nginx:3', 'nginx:3'])
})

test('minReadySeconds: the next one waits for them', async () => {
  const { clock, names, ready, status } = await setUp({ replicas: 2, minReadySeconds: 10 })
  ready('db-0')
  await clock.advance(8000)
  assert.deepEqual(names(), ['db-0'])
  assert.deepEqual([status().readyReplicas, status().availableReplicas], [1, 0])
  await clock.advance(3000)
  assert.deepEqual(names(), ['db-0', 'db-1'])
  assert.equal(status().availableReplicas, 1)
})

test('history: as kubectl reads it, a rollback is the newest, the surplus goes', async () => {
  const { cluster, change, revisions, images } = await setUp({ replicas: 1, revisionHistoryLimit: 2 })
  await cluster.settle()
  for (const image of ['i:2', 'i:3', 'i:4', 'i:5']) {
    change((set) => setImage(set, image))
    await cluster.settle()
  }
  const numbers = () =>
    revisions()
      .map((r) => r.revision ?? 0)
      .sort()
  assert.deepEqual(numbers(), [3, 4, 5])
  const third = revisions().find((revision) => revision.revision === 3)
  const template = third?.data?.spec?.template as { $patch: string; spec: { containers: { image: string }[] } }
  assert.deepEqual([template.$patch, template.spec.containers[0]?.image], ['replace', 'i:3'])
  // What `kubectl rollout undo --to-revision=3` does.
  change((set) => {
    const { $patch: _, ...before } = template
    set.spec = { ...set.spec, template: before as object }
  })
  await cluster.settle()
  assert.deepEqual([numbers(), images()], [[4, 5, 6], ['i:3']])
})

test('adopts what fits by name and labels, and gives it the labels of its identity; leaves others alone', async () => {
  const cluster = new FakeCluster()
  const { api } = cluster
  const orphan = (name: string, labels: Record<string, string>): Pod => ({
    metadata: { name, namespace: 'default', labels },
    spec: { containers: [CONTAINER], nodeName: 'n0' },
    status: { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] },
  })
  api.seed(RESOURCES.pods, orphan('db-0', { app: 'db' }), orphan('db-x', { app: 'db' }), orphan('db-01', { app: 'db' }))
  api.seed(RESOURCES.statefulsets, statefulSet('db', { replicas: 1, updateStrategy: { type: 'OnDelete' } }))
  await cluster.start(startStatefulSets)
  await cluster.settle()
  const owners = cluster.pods().map((pod) => [pod.metadata.name, controllerOf(pod)?.name])
  assert.deepEqual(owners, [
    ['db-0', 'db'],
    ['db-01', undefined],
    ['db-x', undefined],
  ])
  assert.equal(cluster.pods()[0]?.metadata.labels?.['apps.kubernetes.io/pod-index'], '0')
})

test('a stranger with its name is in the way; when it goes, the set goes on', async () => {
  const cluster = new FakeCluster()
  const { api } = cluster
  api.seed<Pod>(RESOURCES.pods, {
    metadata: { name: 'db-0', namespace: 'default', labels: { app: 'other' } },
    spec: { containers: [CONTAINER], nodeName: 'n0' },
  })
  api.seed(RESOURCES.statefulsets, statefulSet('db', { replicas: 1 }))
  await cluster.start(startStatefulSets)
  await cluster.clock.advance(5000)
  assert.equal(cluster.pods().length, 1)
  api.drop(RESOURCES.pods, 'default/db-0')
  await cluster.clock.advance(100)
  assert.equal(controllerOf(cluster.pods()[0] as Pod)?.name, 'db')
})

test('a stale cache and lost answers make and delete nothing twice', async () => {
  const { cluster, api, spec, names } = await setUp({ replicas: 3 })
  await cluster.settle()
  api.hold(RESOURCES.pods)
  spec({ replicas: 2 })
  for (let round = 0; round < 5; round++) {
    api.change<StatefulSet>(RESOURCES.statefulsets, KEY, (set) => void (set.metadata.annotations = { r: `${round}` }))
    await cluster.clock.advance(100)
  }
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2!'])
  assert.equal(api.calls.filter((call) => call.verb === 'delete').length, 1)
  api.release(RESOURCES.pods)
  await cluster.settle()
  let lost = 0
  api.intercept = (call) =>
    call.verb === 'create' && call.resource === 'pods' && lost++ < 1
      ? { after: new CallError('TIMEOUT', 'maybe-applied', 'answer lost') }
      : undefined
  spec({ replicas: 4 })
  await cluster.settle()
  await cluster.clock.advance(15_000)
  await cluster.settle()
  assert.deepEqual(names(), ['db-0', 'db-1', 'db-2', 'db-3'])
})

test('property: an ordered plan acts on one pod at a time, and never lets more be unavailable than it may', () => {
  const podArbitrary = fc.record({
    ready: fc.boolean(),
    ending: fc.boolean(),
    revision: fc.constantFrom('a', 'b'),
    present: fc.boolean(),
  })
  fc.assert(
    fc.property(
      fc.array(podArbitrary, { maxLength: 6 }),
      fc.record({ replicas: fc.nat(6), partition: fc.nat(6), maxUnavailable: fc.integer({ min: 1, max: 3 }) }),
      fc.boolean(),
      fc.boolean(),
      (pods, { replicas, partition, maxUnavailable }, ordered, onDelete) => {
        const plan: SetPlan = {
          start: 0,
          end: replicas,
          ordered,
          onDelete,
          updateFrom: partition,
          maxUnavailable,
          minReadySeconds: 0,
        }
        const made = pods.flatMap(({ ready, ending, revision, present }, at): Pod[] =>
          present
            ? [
                {
                  metadata: {
                    name: `s-${at}`,
                    uid: `u${at}`,
                    labels: {
                      [REVISION_LABEL]: revision,
                      'statefulset.kubernetes.io/pod-name': `s-${at}`,
                      'apps.kubernetes.io/pod-index': String(at),
                    },
                    ...(ending ? { deletionTimestamp: '2026-01-01T00:00:00Z' } : {}),
                  },
                  status: { phase: 'Running', conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
                },
              ]
            : [],
        )
        const { steps } = planSet('s', plan, made, { current: 'a', update: 'b' }, 0)
        const well = (pod: Pod) => isPodReady(pod) && !pod.metadata.deletionTimestamp
        const deleted = steps.flatMap((step) => (step.kind === 'delete' ? [step.pod] : []))
        assert.ok(
          deleted.every((pod) => !pod.metadata.deletionTimestamp),
          'nothing is deleted twice',
        )
        for (const step of steps)
          if (step.kind === 'create') {
            assert.ok(!made.some((pod) => pod.metadata.name === `s-${step.ordinal}`), 'the name is free')
            assert.equal(step.revision, !onDelete && step.ordinal < partition ? 'current' : 'update')
          }
        const inRange = made.filter((pod) => (ordinalOf('s', pod.metadata.name) as number) < replicas)
        const wellBefore = inRange.filter(well).length
        const wellAfter = inRange.filter((pod) => well(pod) && !deleted.includes(pod)).length
        if (wellAfter < wellBefore) assert.ok(wellAfter >= replicas - maxUnavailable, 'enough stay')
        const acts = steps.filter((step) => step.kind !== 'label')
        if (ordered) assert.ok(acts.length <= Math.max(1, maxUnavailable))
        // At rest only when there is nothing to do, or something to wait for.
        const waits = made.some((pod) => !well(pod))
        const done =
          inRange.length === replicas &&
          made.length === replicas &&
          (onDelete || inRange.every((pod, at) => at < partition || pod.metadata.labels?.[REVISION_LABEL] === 'b'))
        if (acts.length === 0) assert.ok(waits || done)
      },
    ),
    { numRuns: 500 },
  )
})
