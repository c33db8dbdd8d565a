import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import { controllerRef, RESOURCES } from '@capstan/client'
import fc from 'fast-check'
import { startEndpoints, startEndpointSlices } from './endpoint-controllers.js'
import type { Endpoints, EndpointSlice, Pod, Service } from './kinds.js'
import { endpointSubsets, planSlices, SLICE_ENDPOINTS_MAX } from './service-endpoints.js'
import { FakeCluster } from './testing/fake-cluster.js'

const SERVICE: Service = {
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name: 'web', namespace: 'default', uid: 'svc-1', labels: { team: 'a' } },
  spec: {
    selector: { app: 'web' },
    ports: [
      { name: 'http', port: 80, targetPort: 'web' },
      { name: 'metrics', port: 9100, protocol: 'TCP' },
    ],
  },
}

function pod(
  name: string,
  options: { ip?: string; ready?: boolean; terminating?: boolean; phase?: string; port?: number; app?: string } = {},
): Pod {
  const { ip = `10.0.0.${name.length + name.charCodeAt(0)}`, ready = true, phase = 'Running', port = 8080 } = options
  return {
    metadata: {
      name,
      namespace: 'default',
      uid: `uid-${name}`,
      labels: { app: options.app ?? 'web' },
      ...(options.terminating ? { deletionTimestamp: '2030-01-01T00:00:00Z', deletionGracePeriodSeconds: 30 } : {}),
    },
    spec: { nodeName: 'n0', containers: [{ name: 'c', ports: [{ name: 'web', containerPort: port }] }] },
    status: { phase, ...(ip ? { podIP: ip } : {}), conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
  }
}

/** `ip/port,…` of the ready, then of the not ready ones, for each subset. */
function describe(subsets: ReturnType<typeof endpointSubsets>['subsets']): string[] {
  return subsets.map(
    ({ addresses = [], notReadyAddresses = [], ports = [] }) =>
      `${addresses.map((a) => a.ip).join(' ')} | ${notReadyAddresses.map((a) => a.ip).join(' ')} | ${ports.map((p) => `${p.name}:${p.port}`).join(' ')}`,
  )
}

test('a pod whose subdomain is the Service has its name in it', () => {
  const named = pod('web-0', { ip: '10.0.0.1' })
  named.spec = { ...named.spec, hostname: 'web-0', subdomain: 'web' }
  const other = pod('x', { ip: '10.0.0.2' })
  other.spec = { ...other.spec, hostname: 'x', subdomain: 'elsewhere' }
  const { subsets } = endpointSubsets(SERVICE, [named, other])
  assert.deepEqual(
    subsets.flatMap((subset) => subset.addresses ?? []).map(({ ip, hostname }) => [ip, hostname]),
    [
      ['10.0.0.1', 'web-0'],
      ['10.0.0.2', undefined],
    ],
  )
  const plan = planSlices(SERVICE, [named, other], [], {})
  assert.deepEqual(
    plan.create.flatMap((slice) => slice.endpoints).map(({ hostname }) => hostname),
    ['web-0', undefined],
  )
})

test('Endpoints: ready, not ready, terminating, ended, without address, ports by name', () => {
  const pods = [
    pod('a', { ip: '10.0.0.1' }),
    pod('b', { ip: '10.0.0.2', ready: false }),
    pod('c', { ip: '10.0.0.3', terminating: true }),
    pod('d', { ip: '10.0.0.4', phase: 'Succeeded' }),
    pod('e', { ip: '' }),
    pod('f', { ip: '10.0.0.6', port: 9090 }),
  ]
  assert.deepEqual(describe(endpointSubsets(SERVICE, pods).subsets), [
    '10.0.0.1 | 10.0.0.2 | http:8080 metrics:9100',
    '10.0.0.6 |  | http:9090 metrics:9100',
  ])
  const all = { ...SERVICE, spec: { ...SERVICE.spec, publishNotReadyAddresses: true } }
  assert.deepEqual(describe(endpointSubsets(all, pods.slice(0, 3)).subsets), [
    '10.0.0.1 10.0.0.2 10.0.0.3 |  | http:8080 metrics:9100',
  ])
})

test('Endpoints: above 1,000 addresses the object says that it is truncated', () => {
  const pods = Array.from({ length: 1001 }, (_, at) =>
    pod(`p${String(at).padStart(4, '0')}`, { ip: `10.1.${at >> 8}.${at & 255}` }),
  )
  const { subsets, truncated } = endpointSubsets(SERVICE, pods)
  assert.deepEqual([subsets[0]?.addresses?.length, truncated], [1000, true])
})

test('slices: conditions of a pod', () => {
  const plan = planSlices(SERVICE, [pod('a'), pod('b', { ready: false }), pod('c', { terminating: true })], [], {})
  assert.deepEqual(
    plan.create[0]?.endpoints.map((e) => [
      e.targetRef?.name,
      e.conditions?.ready,
      e.conditions?.serving,
      e.conditions?.terminating,
    ]),
    [
      ['a', true, true, false],
      ['b', false, false, false],
      ['c', false, true, true],
    ],
  )
})

test('slices: nobody answers: one empty slice, always the same', () => {
  const plan = planSlices(SERVICE, [], [], {})
  assert.deepEqual(
    plan.create.map((slice) => slice.endpoints),
    [[]],
  )
  assert.deepEqual(planSlices(SERVICE, [], [], {}), plan)
  assert.deepEqual(planSlices(SERVICE, [], plan.create, {}), { create: [], update: [], delete: [] })
})

test('property: slices hold exactly the pods, at most 100 each, and a second round has nothing to do', () => {
  const pods = fc.uniqueArray(fc.nat({ max: 400 }), { maxLength: 260 })
  fc.assert(
    fc.property(fc.array(pods, { minLength: 1, maxLength: 4 }), fc.boolean(), (rounds, twoPorts) => {
      let slices: EndpointSlice[] = []
      for (const ids of rounds) {
        const now = ids.map((id) =>
          pod(`p${id}`, { ip: `10.0.${id >> 8}.${id & 255}`, port: twoPorts && id % 2 ? 81 : 80 }),
        )
        const plan = planSlices(SERVICE, now, slices, {})
        slices = [
          ...slices.filter(
            (s) => !plan.delete.includes(s) && !plan.update.some((u) => u.metadata.name === s.metadata.name),
          ),
          ...plan.update,
          ...plan.create,
        ]
        assert.equal(new Set(slices.map((s) => s.metadata.name)).size, slices.length)
        assert.ok(slices.every((s) => s.endpoints.length <= SLICE_ENDPOINTS_MAX))
        const names = slices.flatMap((s) => s.endpoints.map((e) => e.targetRef?.name)).sort()
        assert.deepEqual(names, now.map((p) => p.metadata.name).sort())
        const again = planSlices(SERVICE, now, slices, {})
        assert.deepEqual([again.create.length, again.update.length, again.delete.length], [0, 0, 0])
      }
    }),
    { numRuns: 60 },
  )
})

test('slices: an endpoint that stands in two slices stays in one; slices mostly empty are merged, at the edge nothing moves', () => {
  const many = (count: number) =>
    Array.from({ length: count }, (_, at) => pod(`p${String(at).padStart(3, '0')}`, { ip: `10.0.1.${at}` }))
  const [first, second] = planSlices(SERVICE, many(101), [], {}).create as [EndpointSlice, EndpointSlice]
  const doubled = { ...first, metadata: { ...first.metadata, name: 'zz-doubled' } }
  const surplus = planSlices(SERVICE, many(3), [first, doubled], {})
  assert.deepEqual(
    [surplus.create, surplus.update.map((s) => s.endpoints.length), surplus.delete.map((s) => s.metadata.name)],
    [[], [3], ['zz-doubled']],
  )
  for (const [left, slices] of [
    [100, 2],
    [76, 2],
    [75, 1],
  ] as const) {
    // The last pod, alone in its slice, stays; of the others as many as make up `left`.
    const all = many(101)
    const plan = planSlices(SERVICE, [...all.slice(0, left - 1), all[100] as Pod], [first, second], {})
    assert.equal(2 - plan.delete.length, slices, `${left} endpoints`)
    assert.deepEqual(plan.create, [])
  }
})

test('slices: a name that is given away is not taken', () => {
  const [slice] = planSlices(SERVICE, [], [], {}).create
  const name = slice?.metadata.name
  const [other] = planSlices(SERVICE, [], [], {}, (taken) => taken === name).create
  assert.ok(other?.metadata.name)
  assert.notEqual(other.metadata.name, name)
})

async function setUp() {
  const cluster = new FakeCluster()
  const { api } = cluster
  api.seed(RESOURCES.services, SERVICE)
  await cluster.start(startEndpoints, startEndpointSlices)
  const addresses = () =>
    api
      .object<Endpoints>(RESOURCES.endpoints, 'default/web')
      ?.subsets?.flatMap((s) => (s.addresses ?? []).map((a) => a.ip)) ?? []
  const slices = () => api.objects<EndpointSlice>(RESOURCES.endpointslices)
  const ready = () =>
    slices().flatMap((s) => s.endpoints.filter((e) => e.conditions?.ready).flatMap((e) => e.addresses))
  return { cluster, api, addresses, slices, ready }
}

test('controllers follow pods coming, getting unready and going', async () => {
  const { cluster, api, addresses, slices, ready } = await setUp()
  assert.equal(slices().length, 1)
  assert.deepEqual(slices()[0]?.metadata.ownerReferences, [
    controllerRef(SERVICE, { apiVersion: 'v1', kind: 'Service' }),
  ])
  api.seed(
    RESOURCES.pods,
    pod('a', { ip: '10.0.0.1' }),
    pod('b', { ip: '10.0.0.2' }),
    pod('x', { ip: '10.0.0.9', app: 'other' }),
  )
  await cluster.clock.advance(50)
  assert.deepEqual(
    [addresses(), ready()],
    [
      ['10.0.0.1', '10.0.0.2'],
      ['10.0.0.1', '10.0.0.2'],
    ],
  )
  api.change<Pod>(
    RESOURCES.pods,
    'default/a',
    (p) => void (p.status = { ...p.status, conditions: [{ type: 'Ready', status: 'False' }] }),
  )
  await cluster.clock.advance(50)
  assert.deepEqual([addresses(), ready()], [['10.0.0.2'], ['10.0.0.2']])
  api.change<Pod>(RESOURCES.pods, 'default/b', (p) => void (p.metadata.labels = { app: 'debug' }))
  await cluster.clock.advance(50)
  assert.deepEqual([addresses(), ready()], [[], []])
})

test('Endpoints that this loop made go with their Service; those of others stay', async () => {
  const { cluster, api } = await setUp()
  api.seed<Endpoints>(RESOURCES.endpoints, { metadata: { name: 'by-hand', namespace: 'default' } })
  api.drop(RESOURCES.services, 'default/web')
  await cluster.clock.advance(50)
  assert.deepEqual(
    api.objects(RESOURCES.endpoints).map((e) => (e as Endpoints).metadata.name),
    ['by-hand'],
  )
})

test('at rest nothing is written', async () => {
  const { cluster, api } = await setUp()
  api.seed(RESOURCES.pods, pod('a'))
  await cluster.clock.advance(1000)
  const { revision } = api
  await cluster.clock.advance(60_000)
  assert.equal(api.revision, revision)
})

test('on a stale cache no slice is made a second time, nor one that is gone written', async () => {
  const { cluster, api, slices, ready } = await setUp()
  const writes = () =>
    api.calls.filter((c) => c.resource === 'endpointslices' && ['create', 'update', 'delete'].includes(c.verb)).length
  const before = writes()
  // The first pod: a slice with ports is made, the empty one deleted; the loop sees neither.
  api.hold(RESOURCES.endpointslices)
  api.seed(RESOURCES.pods, pod('a', { ip: '10.0.0.1' }))
  await cluster.clock.advance(50)
  assert.deepEqual([slices().length, writes() - before], [1, 2])
  api.seed(RESOURCES.pods, pod('b', { ip: '10.0.0.2' }))
  api.change<Service>(RESOURCES.services, 'default/web', (s) => void (s.metadata.labels = { team: 'b' }))
  await cluster.clock.advance(500)
  assert.deepEqual([slices().length, writes() - before], [1, 2])
  api.release(RESOURCES.endpointslices)
  await cluster.clock.advance(7000)
  assert.deepEqual([slices().length, ready(), slices()[0]?.metadata.labels?.team], [1, ['10.0.0.1', '10.0.0.2'], 'b'])
})

test('a second slice of the same Service does not stay', async () => {
  const { cluster, api, slices, ready } = await setUp()
  api.seed(RESOURCES.pods, pod('a', { ip: '10.0.0.1' }))
  await cluster.clock.advance(50)
  const [slice] = slices() as [EndpointSlice]
  const { name: _, uid: __, resourceVersion: ___, ...metadata } = slice.metadata
  api.seed(RESOURCES.endpointslices, { ...slice, metadata: { ...metadata, name: 'web-zzzzz' } })
  await cluster.clock.advance(50)
  assert.deepEqual([slices().map((s) => s.metadata.name), ready()], [[slice.metadata.name], ['10.0.0.1']])
})

test('a creation of which nobody knows whether it happened is waited for, then gone on from', async () => {
  const { cluster, api, slices, ready } = await setUp()
  let lost = 0
  api.intercept = (call) =>
    call.resource === 'endpointslices' && call.verb === 'create' && lost++ === 0
      ? new CallError('TIMEOUT', 'maybe-applied', 'no answer')
      : undefined
  api.seed(RESOURCES.pods, pod('a', { ip: '10.0.0.1' }))
  await cluster.clock.advance(1000)
  assert.deepEqual([lost, ready()], [1, []])
  await cluster.clock.advance(10_000)
  assert.deepEqual([lost, ready(), slices().length], [2, ['10.0.0.1'], 1])
})
