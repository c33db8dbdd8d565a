import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { CallError } from '@capstan/actor'
import { type BusApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import { createTestApi, type TestApi } from './testing/index.js'

interface Budget extends KubeObject {
  spec?: object
  status?: { disruptionsAllowed: number; observedGeneration?: number; disruptedPods?: Record<string, string> }
}

const namespace = 'default'
/** The client asks again after a refusal for now; so long here. */
const REFUSED_MS = 2000
let api: TestApi
let client: BusApiClient
before(async () => {
  api = await createTestApi({ instances: ['api-0', 'api-1'] })
  client = api.client()
})
after(() => api.stop())

async function pod(name: string, labels: Record<string, string>, status: object): Promise<void> {
  const spec = { nodeName: 'n', containers: [{ name: 'c', image: 'i' }] }
  await client.create(RESOURCES.pods, { metadata: { name, namespace, labels }, spec } as KubeObject)
  await client.patch(RESOURCES.pods, { namespace, name }, 'merge', { status }, { subresource: 'status' })
}
const RUNNING = { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] }
const SICK = { phase: 'Running', conditions: [{ type: 'Ready', status: 'False' }] }

async function budget(name: string, app: string, status: object, spec: object = { minAvailable: 1 }): Promise<void> {
  const metadata = { name, namespace }
  await client.create(RESOURCES.poddisruptionbudgets, {
    metadata,
    spec: { ...spec, selector: { matchLabels: { app } } },
  } as KubeObject)
  await client.patch(
    RESOURCES.poddisruptionbudgets,
    { namespace, name },
    'merge',
    { status: { currentHealthy: 2, desiredHealthy: 1, expectedPods: 2, observedGeneration: 1, ...status } },
    { subresource: 'status' },
  )
}

const evict = (name: string, timeoutMs?: number) =>
  client.create(RESOURCES.pods, { metadata: { name, namespace } } as KubeObject, {
    subresource: 'eviction',
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  })
const isEnding = async (name: string) =>
  (await client.get(RESOURCES.pods, { namespace, name })).metadata.deletionTimestamp !== undefined
const statusOf = async (name: string) =>
  (await client.get<Budget>(RESOURCES.poddisruptionbudgets, { namespace, name })).status

async function refused(name: string, words: RegExp): Promise<void> {
  await assert.rejects(evict(name, REFUSED_MS), (error: CallError) => {
    const status = error.details as { code: number; details?: { causes?: { message: string }[] } }
    assert.equal(status.code, 429)
    assert.match(`${error.message} ${status.details?.causes?.[0]?.message}`, words)
    return true
  })
}

test('a budget gives so many evictions as it has, to whomever asks, and notes who was granted one', async () => {
  for (const name of ['a', 'b', 'c', 'd']) await pod(name, { app: 'web' }, RUNNING)
  await budget('web', 'web', { disruptionsAllowed: 2 })
  const results = await Promise.allSettled(['a', 'b', 'c', 'd'].map((name) => evict(name, REFUSED_MS)))
  assert.equal(results.filter((one) => one.status === 'fulfilled').length, 2)
  const left = await statusOf('web')
  assert.equal(left?.disruptionsAllowed, 0)
  const ending: string[] = []
  for (const name of ['a', 'b', 'c', 'd']) if (await isEnding(name)) ending.push(name)
  assert.deepEqual(Object.keys(left?.disruptedPods ?? {}).sort(), ending)
  const standing = ['a', 'b', 'c', 'd'].find((name) => !ending.includes(name)) as string
  await refused(standing, /would violate the pod's disruption budget.*needs 1 healthy pods and has 2/)
  // Who is ending already takes nothing.
  await evict(ending[0] as string)
})

test('before the controller has counted nothing is granted', async () => {
  await pod('e', { app: 'fresh' }, RUNNING)
  const metadata = { name: 'fresh', namespace }
  const spec = { minAvailable: 1, selector: { matchLabels: { app: 'fresh' } } }
  await client.create(RESOURCES.poddisruptionbudgets, { metadata, spec } as KubeObject)
  await refused('e', /still being processed/)
})

test('pods that serve nobody need no leave: ended, sick beside enough others, or if the budget says so', async () => {
  await pod('over', { app: 'x' }, { phase: 'Succeeded' })
  await pod('sick', { app: 'x' }, SICK)
  await budget('x', 'x', { disruptionsAllowed: 0 })
  await evict('over')
  await evict('sick')
  assert.equal((await statusOf('x'))?.disruptedPods, undefined)
  await pod('sick2', { app: 'y' }, SICK)
  await budget('y', 'y', { disruptionsAllowed: 0, currentHealthy: 0 })
  await refused('sick2', /needs 1 healthy pods and has 0/)
  await pod('sick3', { app: 'z' }, SICK)
  const always = { minAvailable: 1, unhealthyPodEvictionPolicy: 'AlwaysAllow' }
  await budget('z', 'z', { disruptionsAllowed: 0, currentHealthy: 0 }, always)
  await evict('sick3')
})

test('what cannot be is refused', async () => {
  await pod('two', { app: 'two' }, RUNNING)
  await budget('two-a', 'two', { disruptionsAllowed: 1 })
  await budget('two-b', 'two', { disruptionsAllowed: 1 })
  await assert.rejects(evict('two'), /more than one PodDisruptionBudget/)
  const both = { minAvailable: 1, maxUnavailable: 1, selector: {} }
  const metadata = { name: 'both', namespace }
  for (const spec of [both, { minAvailable: '120%' }, { maxUnavailable: -1 }, { unhealthyPodEvictionPolicy: 'Never' }])
    await assert.rejects(
      client.create(RESOURCES.poddisruptionbudgets, { metadata, spec } as KubeObject),
      (error: CallError) => error.code === 'Invalid',
      JSON.stringify(spec),
    )
  await assert.rejects(
    client.create(RESOURCES.pods, { metadata: { name: 'two', namespace }, kind: 'Eviction' } as KubeObject, {
      subresource: 'eviction',
      dryRun: true,
    }),
    /more than one/,
  )
})
