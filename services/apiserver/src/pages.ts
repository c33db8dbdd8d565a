/** Everything under a path that is no resource. */
import { createHash } from 'node:crypto'
import { aggregatedDiscovery, apiGroupList, apiResourceList, apiVersions, oneApiGroup } from './discovery.js'
import type { Kinds } from './kinds.js'
import { openApiIndex, openApiDocument } from './openapi.js'
import type { Page } from './options.js'

export const VERSION = {
  major: '1',
  minor: '36',
  gitVersion: 'v1.36.0+capstan',
  gitCommit: '',
  gitTreeState: 'clean',
  buildDate: '1970-01-01T00:00:00Z',
  goVersion: '',
  compiler: 'tsc',
  platform: 'linux/amd64',
}

export interface PageContext {
  kinds: Kinds
  /** `<address>:<port>` to be told to clients, or ''. */
  serverAddress: string
  /** Name → is it well? */
  checks: Readonly<Record<string, boolean>>
  metrics(): Record<string, number>
}

type Query = Readonly<Record<string, string>>

const HEALTH = ['healthz', 'livez', 'readyz']

export function pageOf(path: string, query: Query, accept: string, context: PageContext): Page | undefined {
  const parts = path.split('/').filter((part) => part !== '')
  const [top = '', ...rest] = parts
  if (HEALTH.includes(top)) return health(top, rest, query, context)
  switch (parts.length === 0 ? '/' : top) {
    case '/':
      return json({
        paths: ['/api', '/api/v1', '/apis', '/healthz', '/livez', '/metrics', '/openapi/v3', '/readyz', '/version'],
      })
    case 'version':
      return rest.length === 0 ? json(VERSION) : undefined
    case 'metrics':
      return rest.length === 0 ? metrics(context) : undefined
    case 'api':
    case 'apis':
      return discovery(top === 'api' ? 'api' : 'apis', rest, accept, context)
    case 'openapi':
      return openApi(rest, context.kinds)
    default:
      return undefined
  }
}

function discovery(
  top: 'api' | 'apis',
  rest: string[],
  accept: string,
  { kinds, serverAddress }: PageContext,
): Page | undefined {
  const isCore = top === 'api'
  if (rest.length === 0) {
    for (const version of ['v2', 'v2beta1'] as const) {
      const type = `application/json;g=apidiscovery.k8s.io;v=${version};as=APIGroupDiscoveryList`
      if (accept.replaceAll(' ', '').includes(type)) return json(aggregatedDiscovery(kinds, isCore, version), type)
    }
    return json(isCore ? apiVersions(serverAddress) : apiGroupList(kinds))
  }
  if (isCore) return rest.length === 1 ? maybe(apiResourceList(kinds, '', rest[0] as string)) : undefined
  if (rest.length === 1) return maybe(oneApiGroup(kinds, rest[0] as string))
  return rest.length === 2 ? maybe(apiResourceList(kinds, rest[0] as string, rest[1] as string)) : undefined
}

function openApi(rest: string[], kinds: Kinds): Page | undefined {
  if (rest[0] === 'v2' && rest.length === 1) return { status: 200, mediaType: OPENAPI_V2_TYPE, body: OPENAPI_V2 }
  if (rest[0] !== 'v3') return undefined
  if (rest.length === 1) return json(openApiIndex(kinds, etagOf))
  const bytes = openApiDocument(kinds, rest.slice(1).join('/'))
  return bytes && { status: 200, mediaType: 'application/json', body: bytes, etag: `"${etagOf(bytes)}"` }
}

const OPENAPI_V2_TYPE = 'application/com.github.proto-openapi.spec.v2.v1.0+protobuf'
/**
 * An OpenAPI v2 document in protobuf that names no type: `{ swagger: "2.0", info: { title, version }, paths, definitions }`.
 * kubectl asks for it only about kinds that v3 does not have, and then says itself that there is no such kind.
 */
const OPENAPI_V2 = Uint8Array.from([
  ...[0x0a, 3, ...Buffer.from('2.0')],
  ...[0x12, 14, 0x0a, 7, ...Buffer.from('Capstan'), 0x12, 3, ...Buffer.from('0.1')],
  ...[0x42, 0, 0x4a, 0],
])

const etags = new WeakMap<Uint8Array, string>()

function etagOf(bytes: Uint8Array): string {
  let etag = etags.get(bytes)
  if (etag === undefined) {
    etag = createHash('sha256').update(bytes).digest('hex').toUpperCase().slice(0, 32)
    etags.set(bytes, etag)
  }
  return etag
}

function health(top: string, rest: string[], query: Query, { checks }: PageContext): Page | undefined {
  // To live is to answer: a server without a store is not ready, but restarting it would not help.
  const names = Object.keys(checks).filter((name) => top !== 'livez' || name === 'ping')
  if (rest.length > 1 || (rest.length === 1 && !names.includes(rest[0] as string))) return undefined
  const asked = rest.length === 1 ? rest : names.filter((name) => name !== query['exclude'])
  const failed = asked.filter((name) => !checks[name])
  const lines = asked.map((name) => (checks[name] ? `[+]${name} ok` : `[-]${name} failed: reason withheld`))
  const isOk = failed.length === 0
  const wordy = `${lines.join('\n')}\n${top} check ${isOk ? 'passed' : 'failed'}\n`
  const text = isOk ? ('verbose' in query ? wordy : 'ok') : wordy
  return { status: isOk ? 200 : 500, mediaType: 'text/plain; charset=utf-8', body: Buffer.from(text) }
}

function metrics(context: PageContext): Page {
  const lines = Object.entries(context.metrics()).map(
    ([name, value]) => `# TYPE ${name} ${name.endsWith('_total') ? 'counter' : 'gauge'}\n${name} ${value}\n`,
  )
  return { status: 200, mediaType: 'text/plain; version=0.0.4; charset=utf-8', body: Buffer.from(lines.join('')) }
}

const maybe = (body: object | undefined): Page | undefined => body && json(body)

function json(body: object, mediaType = 'application/json'): Page {
  return { status: 200, mediaType, body: Buffer.from(JSON.stringify(body)) }
}
