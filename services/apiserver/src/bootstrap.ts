/** What every cluster has: the system's namespaces, and the `kubernetes` Service with the API servers behind it. */
import { CallError, sleep, type World } from '@capstan/actor'
import type { ApiRequest } from '@capstan/protocol'
import { SERVICE_CIDR, serviceIp } from './addresses.js'
import type { Cache } from './cache.js'
import { ApiError } from './errors.js'
import { objectKey, resourceKey, resourcePrefix } from './keys.js'
import type { ApiServerOptions, User } from './options.js'
import { keyBytes, type StoreClient } from './store-client.js'
import type { KubeObject } from './stored.js'

export const NAMESPACES = ['default', 'kube-system', 'kube-public', 'kube-node-lease']
const PERIOD_MS = 3000
/** An API server that is gone leaves the `kubernetes` Service after so long. */
const MASTER_TTL_SECONDS = 10
const MASTERS = '/capstan/apiservers/'
const SELF: User = { name: 'system:apiserver', groups: ['system:masters', 'system:authenticated'] }

export interface BootstrapContext {
  world: World
  store: StoreClient
  cache: Cache
  options: ApiServerOptions
  handle(verb: 'create' | 'update' | 'delete', request: ApiRequest, user: User): Promise<unknown>
}

/** Runs until `signal`; what fails is tried again in the next round. */
export async function keepBootstrapped(context: BootstrapContext, signal: AbortSignal): Promise<void> {
  const { world, cache, options } = context
  let lease: number | undefined
  let quietMs = 0
  while (!signal.aborted) {
    if (cache.revision > 0) {
      try {
        await ensureNamespaces(context)
        if (options.advertise) {
          lease = await keepLease(context, lease)
          await ensureService(context)
        }
        quietMs = 0
      } catch (error) {
        if (signal.aborted) return
        // A store that is away fails every round: told once a minute.
        if (quietMs <= 0) {
          world.log.warn({ err: error }, 'the system objects could not be kept up to date')
          quietMs = 60_000
        }
        quietMs -= PERIOD_MS
      }
      await sleep(world.clock, PERIOD_MS, signal)
    } else await sleep(world.clock, 50, signal)
  }
}

async function ensureNamespaces({ cache, handle }: BootstrapContext): Promise<void> {
  for (const name of NAMESPACES) {
    if (cache.find(objectKey('', 'namespaces', undefined, name))) continue
    const body = { apiVersion: 'v1', kind: 'Namespace', metadata: { name } }
    await unless('AlreadyExists', handle('create', { group: '', version: 'v1', resource: 'namespaces', body }, SELF))
  }
}

/** This server's key lives as long as its lease. */
async function keepLease({ store, options }: BootstrapContext, lease: number | undefined): Promise<number> {
  if (lease !== undefined && (await store.keepAlive(lease))) return lease
  const granted = await store.grant(MASTER_TTL_SECONDS)
  const key = keyBytes(MASTERS + options.instance)
  const value = keyBytes(JSON.stringify(options.advertise))
  await store.txn({ compare: [], success: [{ type: 'put', key, value, lease: granted }], failure: [] })
  return granted
}

async function ensureService({ store, cache, options, handle }: BootstrapContext): Promise<void> {
  const meta = { name: 'kubernetes', namespace: 'default' }
  const labels = { component: 'apiserver', provider: 'kubernetes' }
  const of = (group: string, resource: string, body: object): ApiRequest => ({
    group,
    version: 'v1',
    resource,
    namespace: 'default',
    body,
  })
  const find = (group: string, resource: string) => cache.find(objectKey(group, resource, 'default', 'kubernetes'))
  const port = options.advertise?.port ?? 6443
  if (!find('', 'services')) {
    const spec = {
      type: 'ClusterIP',
      clusterIP: serviceIp(options.serviceCidr ?? SERVICE_CIDR, 1),
      ports: [{ name: 'https', protocol: 'TCP', port: 443, targetPort: port }],
      sessionAffinity: 'None',
    }
    const body = { apiVersion: 'v1', kind: 'Service', metadata: { ...meta, labels }, spec }
    await unless('AlreadyExists', handle('create', of('', 'services', body), SELF))
  }
  const range = { key: keyBytes(MASTERS), rangeEnd: keyBytes('/capstan/apiservers0') }
  const masters = (await store.range(range)).kvs.map(
    (kv) => JSON.parse(Buffer.from(kv.value).toString()) as { address: string; port: number },
  )
  if (masters.length === 0) return
  masters.sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : a.port - b.port))
  // One subset for each port: on one host the masters listen on different ones.
  const ports = [...new Set(masters.map((master) => master.port))].sort((a, b) => a - b)
  const subsets = ports.map((number) => ({
    addresses: [...new Set(masters.filter((master) => master.port === number).map(({ address }) => address))].map(
      (ip) => ({ ip }),
    ),
    ports: [{ name: 'https', port: number, protocol: 'TCP' }],
  }))
  const noMirror = { 'endpointslice.kubernetes.io/skip-mirror': 'true' }
  const endpoints = { apiVersion: 'v1', kind: 'Endpoints', metadata: { ...meta, labels: noMirror }, subsets }
  await put(find('', 'endpoints')?.object, ['subsets'], endpoints, of('', 'endpoints', endpoints), handle)
  const sliceName = (number: number | undefined) => (subsets.length === 1 ? 'kubernetes' : `kubernetes-${number}`)
  // Slices of masters that are gone.
  const wanted = subsets.map((subset) => sliceName(subset.ports[0]?.port))
  for (const { object } of cache
    .resource(resourceKey('discovery.k8s.io', 'endpointslices'))
    .under(resourcePrefix('discovery.k8s.io', 'endpointslices', 'default'))) {
    const { name, labels: sliceLabels } = object.metadata
    if (
      !/^kubernetes(-\d+)?$/.test(name) ||
      wanted.includes(name) ||
      sliceLabels?.['kubernetes.io/service-name'] !== 'kubernetes'
    )
      continue
    const { body: _, ...request } = of('discovery.k8s.io', 'endpointslices', {})
    await unless('NotFound', handle('delete', { ...request, name }, SELF))
  }
  for (const subset of subsets) {
    const name = sliceName(subset.ports[0]?.port)
    const slice = {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name, namespace: 'default', labels: { 'kubernetes.io/service-name': 'kubernetes' } },
      addressType: 'IPv4',
      endpoints: subset.addresses.map(({ ip }) => ({ addresses: [ip], conditions: { ready: true } })),
      ports: subset.ports,
    }
    const old = cache.find(objectKey('discovery.k8s.io', 'endpointslices', 'default', name))
    await put(old?.object, ['endpoints', 'ports'], slice, of('discovery.k8s.io', 'endpointslices', slice), handle)
  }
}

/** Creates or replaces, if `fields` differ. */
async function put(
  old: KubeObject | undefined,
  fields: readonly string[],
  body: Record<string, unknown>,
  request: ApiRequest,
  handle: BootstrapContext['handle'],
): Promise<void> {
  if (!old) {
    await unless('AlreadyExists', handle('create', request, SELF))
    return
  }
  if (fields.every((field) => covers(old[field], body[field]))) return
  await unless(
    'Conflict',
    handle('update', { ...request, name: old.metadata.name, body: { ...body, metadata: { ...old.metadata } } }, SELF),
  )
}

/** Has `have` all that `want` says? Defaults may have been added. */
function covers(have: unknown, want: unknown): boolean {
  if (Array.isArray(want))
    return Array.isArray(have) && have.length === want.length && want.every((one, at) => covers(have[at], one))
  if (typeof want !== 'object' || want === null) return have === want
  return (
    typeof have === 'object' &&
    have !== null &&
    Object.entries(want).every(([name, value]) => covers((have as Record<string, unknown>)[name], value))
  )
}

/** Another server was faster, or the next round sees newer state. */
async function unless(code: string, done: Promise<unknown>): Promise<void> {
  try {
    await done
  } catch (error) {
    if (!(error instanceof ApiError || error instanceof CallError) || error.code !== code) throw error
  }
}
