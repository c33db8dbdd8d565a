import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { CallError } from '@capstan/actor'
import { type KubeObject, RESOURCES } from '@capstan/client'
import type { ApiReply, ApiRequest } from '@capstan/protocol'
import type { ApiServerHandle, User } from './options.js'
import { createTestApi, type TestApi } from './testing/index.js'

const ADMIN: User = { name: 'admin', groups: ['system:masters', 'system:authenticated'] }

/** Straight at one server: what it does by itself, without a client that looks for a better one. */
async function on(
  server: ApiServerHandle,
  verb: 'get' | 'list' | 'create' | 'update' | 'patch' | 'delete',
  request: ApiRequest,
): Promise<KubeObject> {
  const reply: ApiReply = await server.handle(verb, request, ADMIN)
  return JSON.parse(Buffer.from(reply.body).toString()) as KubeObject
}

const of = (resource: string, name?: string, body?: unknown): ApiRequest => ({
  ...RESOURCES[resource as keyof typeof RESOURCES],
  namespace: 'default',
  ...(name === undefined ? {} : { name }),
  ...(body === undefined ? {} : { body }),
})

describe('three API servers, all active', () => {
  let api: TestApi
  let servers: readonly ApiServerHandle[]
  before(async () => {
    api = await createTestApi({
      instances: ['m0', 'm1', 'm2'],
      server: {
        advertise: { address: '192.0.2.1', port: 6443 },
        serviceCidr: '10.96.0.0/28',
        nodePorts: [30_000, 30_005],
      },
    })
    servers = api.servers
    await Promise.all(servers.map((server) => server.whenBootstrapped()))
  })
  after(() => api.stop())

  test('one reads at once what another wrote', async () => {
    for (let at = 0; at < 30; at++) {
      const name = `rw-${at}`
      await on(
        servers[at % 3] as ApiServerHandle,
        'create',
        of('configmaps', undefined, { metadata: { name }, data: { at: '0' } }),
      )
      const got = await on(servers[(at + 1) % 3] as ApiServerHandle, 'get', of('configmaps', name))
      const updated = await on(
        servers[(at + 2) % 3] as ApiServerHandle,
        'update',
        of('configmaps', name, { ...got, data: { at: '1' } }),
      )
      const list = (await on(servers[at % 3] as ApiServerHandle, 'list', of('configmaps'))) as unknown as {
        items: KubeObject[]
      }
      const seen = list.items.find((item) => item.metadata.name === name)
      assert.equal(seen?.metadata.resourceVersion, updated.metadata.resourceVersion)
    }
  })

  test('of concurrent updates with one resourceVersion exactly one wins', async () => {
    const made = await on(
      servers[0] as ApiServerHandle,
      'create',
      of('configmaps', undefined, { metadata: { name: 'race' } }),
    )
    const tried = await Promise.allSettled(
      Array.from({ length: 9 }, (_, at) =>
        on(
          servers[at % 3] as ApiServerHandle,
          'update',
          of('configmaps', 'race', { ...made, data: { at: String(at) } }),
        ),
      ),
    )
    assert.equal(tried.filter((one) => one.status === 'fulfilled').length, 1)
    for (const one of tried) if (one.status === 'rejected') assert.equal((one.reason as CallError).code, 'Conflict')
  })

  test('a pod is bound once (C4)', async () => {
    const spec = { containers: [{ name: 'c', image: 'i' }] }
    await on(
      servers[0] as ApiServerHandle,
      'create',
      of('pods', undefined, { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p' }, spec }),
    )
    const bind = (at: number) =>
      on(servers[at % 3] as ApiServerHandle, 'create', {
        ...of('pods', 'p', { target: { kind: 'Node', name: `n${at}` } }),
        subresource: 'binding',
      })
    const tried = await Promise.allSettled(Array.from({ length: 9 }, (_, at) => bind(at)))
    assert.equal(tried.filter((one) => one.status === 'fulfilled').length, 1)
    for (const one of tried) if (one.status === 'rejected') assert.equal((one.reason as CallError).code, 'Conflict')
    const pod = (await on(servers[1] as ApiServerHandle, 'get', of('pods', 'p'))) as KubeObject & {
      spec: { nodeName: string }
      status: { conditions: { type: string; status: string }[] }
    }
    assert.equal(pod.spec.nodeName, `n${tried.findIndex((one) => one.status === 'fulfilled')}`)
    assert.deepEqual(
      pod.status.conditions.map(({ type, status }) => ({ type, status })),
      [{ type: 'PodScheduled', status: 'True' }],
    )
  })

  test('no address is given twice, a full range is told, and deletion frees it', async () => {
    const create = (at: number) =>
      on(
        servers[at % 3] as ApiServerHandle,
        'create',
        of('services', undefined, { metadata: { name: `s${at}` }, spec: { type: 'NodePort', ports: [{ port: 80 }] } }),
      )
    // 16 addresses: without network, broadcast and `kubernetes` 13 are left; 6 node ports.
    const tried = await Promise.allSettled(Array.from({ length: 9 }, (_, at) => create(at)))
    const made = tried.flatMap((one) =>
      one.status === 'fulfilled'
        ? [one.value as KubeObject & { spec: { clusterIP: string; ports: { nodePort: number }[] } }]
        : [],
    )
    assert.equal(made.length, 6)
    assert.equal(new Set(made.map((service) => service.spec.clusterIP)).size, 6)
    assert.equal(new Set(made.map((service) => service.spec.ports[0]?.nodePort)).size, 6)
    for (const one of tried) if (one.status === 'rejected') assert.match((one.reason as Error).message, /range is full/)
    for (const service of made) await on(servers[0] as ApiServerHandle, 'delete', of('services', service.metadata.name))
    const again = await on(
      servers[2] as ApiServerHandle,
      'create',
      of('services', undefined, { metadata: { name: 'again' }, spec: { type: 'NodePort', ports: [{ port: 80 }] } }),
    )
    assert.ok((again as unknown as { spec: { ports: { nodePort: number }[] } }).spec.ports[0]?.nodePort)
  })

  test('the kubernetes Service has the first address and all masters behind it', async () => {
    const client = api.client()
    type Service = KubeObject & { spec: { clusterIP: string } }
    let endpoints: (KubeObject & { subsets?: { addresses: unknown[] }[] }) | undefined
    for (let at = 0; at < 100 && !endpoints; at++) {
      endpoints = await client
        .get<KubeObject>(RESOURCES.endpoints, { namespace: 'default', name: 'kubernetes' })
        .catch(() => undefined)
      if (!endpoints) await new Promise<void>((resolve) => api.api.world.clock.setTimer(50, resolve))
    }
    assert.ok(endpoints)
    const service = await client.get<Service>(RESOURCES.services, { namespace: 'default', name: 'kubernetes' })
    assert.equal(service.spec.clusterIP, '10.96.0.1')
  })

  test('a namespace that ends takes nothing new', async () => {
    const client = api.client()
    await client.create(RESOURCES.namespaces, { metadata: { name: 'ending' } })
    await client.delete(RESOURCES.namespaces, { name: 'ending' })
    await assert.rejects(
      client.create(RESOURCES.configmaps, { metadata: { name: 'x', namespace: 'ending' } }),
      (error: CallError) => error.code === 'Forbidden',
    )
    await assert.rejects(
      client.delete(RESOURCES.namespaces, { name: 'default' }),
      (error: CallError) => error.code === 'Forbidden',
    )
    const namespace = await client.get<KubeObject & { status: { phase: string } }>(RESOURCES.namespaces, {
      name: 'ending',
    })
    assert.equal(namespace.status.phase, 'Terminating')
    await client.update(RESOURCES.namespaces, { ...namespace, spec: { finalizers: [] } } as KubeObject, {
      subresource: 'finalize',
    })
    await assert.rejects(
      client.get(RESOURCES.namespaces, { name: 'ending' }),
      (error: CallError) => error.code === 'NotFound',
    )
  })
})

describe('planted bugs do what they say', () => {
  test('fence-left-out and double-bind', async () => {
    const api = await createTestApi({ server: { bugs: ['fence-left-out', 'double-bind'] } })
    const [server] = api.servers as [ApiServerHandle]
    const fence = { lock: { namespace: 'kube-system', name: 'nobody' }, token: '1' }
    await on(server, 'create', { ...of('configmaps', undefined, { metadata: { name: 'unfenced' } }), fence })
    const spec = { containers: [{ name: 'c', image: 'i' }] }
    await on(server, 'create', of('pods', undefined, { metadata: { name: 'p' }, spec }))
    for (const name of ['n1', 'n2'])
      await on(server, 'create', { ...of('pods', 'p', { target: { kind: 'Node', name } }), subresource: 'binding' })
    await api.stop()
  })
})
