import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RESOURCES } from '@capstan/client'
import { startDisruptionBudgets } from './disruption-controller.js'
import { disruptionStatus } from './disruption-plan.js'
import type { Deployment, Pod, PodDisruptionBudget, ReplicaSet } from './kinds.js'
import { FakeCluster } from './testing/fake-cluster.js'

const selector = { matchLabels: { app: 'web' } }
const owner = (kind: string, name: string, uid: string) => ({
  apiVersion: 'apps/v1',
  kind,
  name,
  uid,
  controller: true,
})

const budget = (spec: PodDisruptionBudget['spec'], status?: Partial<PodDisruptionBudget['status']>) =>
  ({
    metadata: { name: 'b', namespace: 'default', generation: 3 },
    spec: { selector, ...spec },
    ...(status ? { status } : {}),
  }) as PodDisruptionBudget

const pod = (name: string, more: { ready?: boolean; deleted?: boolean; owned?: boolean } = {}): Pod => ({
  metadata: {
    name,
    namespace: 'default',
    labels: { app: 'web' },
    ...(more.deleted ? { deletionTimestamp: '2030-01-01T00:00:00Z' } : {}),
    ...(more.owned === false ? {} : { ownerReferences: [owner('ReplicaSet', 'web-1', 'rs')] }),
  },
  spec: { containers: [{ name: 'c' }] },
  status: { phase: 'Running', conditions: [{ type: 'Ready', status: more.ready === false ? 'False' : 'True' }] },
})
const pods = (count: number) => Array.from({ length: count }, (_, i) => pod(`p${i}`))

test('how many may go', () => {
  const allowed = (spec: PodDisruptionBudget['spec'], have: number, expected = have) => {
    const { status } = disruptionStatus(budget(spec), pods(have), { pods: expected }, 0)
    return [status.disruptionsAllowed, status.desiredHealthy, status.expectedPods]
  }
  assert.deepEqual(allowed({ minAvailable: 2 }, 3), [1, 2, 3])
  assert.deepEqual(allowed({ minAvailable: 3 }, 3), [0, 3, 3])
  assert.deepEqual(allowed({ minAvailable: '50%' }, 5), [2, 3, 5])
  assert.deepEqual(allowed({ maxUnavailable: 1 }, 2, 3), [0, 2, 3])
  assert.deepEqual(allowed({ maxUnavailable: '30%' }, 7), [3, 4, 7])
  assert.deepEqual(allowed({ maxUnavailable: 9 }, 3), [3, 0, 3])
  assert.deepEqual(allowed({}, 2), [1, 1, 2])
  assert.deepEqual(allowed({ maxUnavailable: 1 }, 0), [0, 0, 0])
})

test('who is not ready, is ending, or was granted to be evicted of late does not count', () => {
  const nowMs = Date.parse('2030-01-01T00:10:00Z')
  const granted = { p0: '2030-01-01T00:09:00Z', p1: '2030-01-01T00:01:00Z', gone: '2030-01-01T00:09:59Z' }
  const list = [...pods(3), pod('sick', { ready: false }), pod('ending', { deleted: true })]
  const found = disruptionStatus(budget({ minAvailable: 1 }, { disruptedPods: granted }), list, { pods: 5 }, nowMs)
  assert.equal(found.status.currentHealthy, 2)
  assert.deepEqual(found.status.disruptedPods, { p0: granted.p0 })
  assert.equal(found.againMs, 60_000)
  assert.equal(found.status.observedGeneration, 3)
})

test('the status follows pods and scales; a pod without a controller stops evictions, and is told', async () => {
  const cluster = new FakeCluster({}, false)
  const { api, clock } = cluster
  api.seed<Deployment>(RESOURCES.deployments, {
    metadata: { name: 'web', namespace: 'default', uid: 'd' },
    spec: { replicas: 3 },
  })
  api.seed<ReplicaSet>(RESOURCES.replicasets, {
    metadata: { name: 'web-1', namespace: 'default', uid: 'rs', ownerReferences: [owner('Deployment', 'web', 'd')] },
    spec: { replicas: 2 },
  })
  api.seed<Pod>(RESOURCES.pods, ...pods(3))
  api.seed(RESOURCES.poddisruptionbudgets, budget({ maxUnavailable: 1 }))
  await cluster.start(startDisruptionBudgets)
  await clock.advance(100)
  const status = () => api.object<PodDisruptionBudget>(RESOURCES.poddisruptionbudgets, 'default/b')?.status
  assert.equal(status()?.disruptionsAllowed, 1)
  assert.equal(status()?.expectedPods, 3)
  assert.equal(status()?.conditions?.[0]?.reason, 'SufficientPods')
  api.change<Pod>(RESOURCES.pods, 'default/p0', (p) => Object.assign(p, pod('p0', { ready: false })))
  await clock.advance(100)
  assert.equal(status()?.disruptionsAllowed, 0)
  api.change<Deployment>(RESOURCES.deployments, 'default/web', (d) => void (d.spec = { replicas: 2 }))
  await clock.advance(100)
  assert.equal(status()?.disruptionsAllowed, 1)
  api.seed<Pod>(RESOURCES.pods, pod('stray', { owned: false }))
  await clock.advance(100)
  assert.equal(status()?.disruptionsAllowed, 0)
  assert.equal(status()?.conditions?.[0]?.reason, 'SyncFailed')
  const writes = api.calls.filter((call) => call.resource === 'poddisruptionbudgets' && call.verb === 'update').length
  await clock.advance(60_000)
  assert.equal(
    api.calls.filter((call) => call.resource === 'poddisruptionbudgets' && call.verb === 'update').length,
    writes,
    'nothing changed, nothing is written',
  )
})
