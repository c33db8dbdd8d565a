/** URLs and headers of the Kubernetes REST API, taken apart. Pure. */
import type { ApiOptions, ApiRequest, ApiVerb, PatchType } from '@capstan/protocol'
import { badRequest, methodNotAllowed, notAcceptable, unsupportedMediaType } from './errors.js'
import type { Media } from './options.js'
import { PROTOBUF } from './protobuf.js'

export type Query = Readonly<Record<string, string>>

/** `/api/v1/namespaces/x/pods/y/log` → what it names. Undefined: it is no resource's path (discovery, version, …). */
export function parsePath(path: string): ApiRequest | undefined {
  const parts = path.split('/').slice(1).map(decodePart)
  if (parts[parts.length - 1] === '') parts.pop()
  const isCore = parts[0] === 'api'
  if (!isCore && parts[0] !== 'apis') return undefined
  const [group, version, ...rest] = (isCore ? ['', ...parts.slice(1)] : parts.slice(1)) as [
    string?,
    string?,
    ...string[],
  ]
  if (group === undefined || version === undefined || rest.length === 0) return undefined
  // `namespaces/x/status` and `namespaces/x/finalize` are the namespace's own subresources.
  const isInNamespace =
    rest[0] === 'namespaces' &&
    rest.length >= 3 &&
    !(rest.length === 3 && (rest[2] === 'status' || rest[2] === 'finalize'))
  const namespace = isInNamespace ? rest[1] : undefined
  const [resource = '', name, ...sub] = isInNamespace ? rest.slice(2) : rest
  return {
    group,
    version,
    resource,
    ...(namespace === undefined ? {} : { namespace }),
    ...(name === undefined ? {} : { name }),
    ...(sub.length === 0 ? {} : { subresource: sub.join('/') }),
  }
}

function decodePart(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    throw badRequest(`malformed escape in the path: ${part}`)
  }
}

/** @throws ApiError 405 */
export function verbOf(method: string, request: ApiRequest, query: Query): ApiVerb {
  const isNamed = request.name !== undefined
  switch (method) {
    case 'GET':
      if (isNamed) return 'get'
      return query['watch'] === 'true' || query['watch'] === '1' ? 'watch' : 'list'
    case 'POST':
      return 'create'
    case 'PUT':
      if (isNamed) return 'update'
      break
    case 'PATCH':
      if (isNamed) return 'patch'
      break
    case 'DELETE':
      return isNamed ? 'delete' : 'deletecollection'
  }
  throw methodNotAllowed()
}

/** @throws ApiError 400 for values that are no numbers or booleans. */
export function optionsOf(query: Query): ApiOptions {
  const options: ApiOptions = {}
  for (const name of ['labelSelector', 'fieldSelector', 'continue', 'resourceVersion', 'fieldManager'] as const)
    if (query[name]) options[name] = query[name]
  for (const name of ['limit', 'timeoutSeconds'] as const) {
    const text = query[name]
    if (text === undefined || text === '') continue
    if (!/^\d{1,12}$/.test(text)) throw badRequest(`${name}: ${JSON.stringify(text)} is not a whole number`)
    options[name] = Number(text)
  }
  for (const name of ['allowWatchBookmarks', 'sendInitialEvents', 'force'] as const) {
    const text = query[name]
    if (text !== undefined) options[name] = booleanOf(name, text)
  }
  const match = query['resourceVersionMatch']
  if (match) {
    if (match !== 'Exact' && match !== 'NotOlderThan')
      throw badRequest(
        `resourceVersionMatch: Unsupported value: ${JSON.stringify(match)}: supported values: "Exact", "NotOlderThan"`,
      )
    options.resourceVersionMatch = match
  }
  const validation = query['fieldValidation']
  if (validation) {
    if (validation !== 'Strict' && validation !== 'Warn' && validation !== 'Ignore')
      throw badRequest(
        `fieldValidation: Unsupported value: ${JSON.stringify(validation)}: supported values: "Ignore", "Strict", "Warn"`,
      )
    options.fieldValidation = validation
  }
  const dryRun = query['dryRun']
  if (dryRun !== undefined && dryRun !== '') {
    if (dryRun !== 'All')
      throw badRequest(`dryRun: Unsupported value: ${JSON.stringify(dryRun)}: supported values: "All"`)
    options.dryRun = true
  }
  return options
}

/** `timeout=1m30s` of a request, as Go writes durations: ms. Undefined: it states none. @throws ApiError 400 */
export function timeoutMsOf({ timeout }: Query): number | undefined {
  if (timeout === undefined || timeout === '' || timeout === '0') return undefined
  const units: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 }
  if (!/^(\d{1,9}(\.\d{1,9})?(h|ms|m|s))+$/.test(timeout))
    throw badRequest(`timeout: ${JSON.stringify(timeout)} is no duration: 30s, 1m30s, 500ms`)
  let ms = 0
  for (const [, amount, unit] of timeout.matchAll(/([\d.]+)(h|ms|m|s)/g))
    ms += Number(amount) * (units[unit as string] ?? 0)
  return ms
}

function booleanOf(name: string, text: string): boolean {
  if (text === '' || text === 'true' || text === '1') return true
  if (text === 'false' || text === '0') return false
  throw badRequest(`${name}: ${JSON.stringify(text)} is not a boolean`)
}

/** DeleteOptions may come as a body, as query parameters, or both: the body wins. */
export function deleteOptionsOf(query: Query, body: unknown): unknown {
  const options: Record<string, unknown> = {}
  const grace = query['gracePeriodSeconds']
  if (grace) {
    if (!/^-?\d{1,12}$/.test(grace))
      throw badRequest(`gracePeriodSeconds: ${JSON.stringify(grace)} is not a whole number`)
    options['gracePeriodSeconds'] = Number(grace)
  }
  if (query['propagationPolicy']) options['propagationPolicy'] = query['propagationPolicy']
  if (query['orphanDependents']) options['orphanDependents'] = booleanOf('orphanDependents', query['orphanDependents'])
  if (body === undefined && Object.keys(options).length === 0) return undefined
  return { ...options, ...(typeof body === 'object' && body !== null ? body : {}) }
}

const PATCH_TYPES: Readonly<Record<string, PatchType>> = {
  'application/json-patch+json': 'json',
  'application/merge-patch+json': 'merge',
  'application/strategic-merge-patch+json': 'strategic',
  'application/apply-patch+yaml': 'apply',
  'application/apply-patch+json': 'apply',
}

/** @throws ApiError 415 */
export function patchTypeOf(contentType: string): PatchType {
  const type = mediaTypeOf(contentType)
  const found = Object.hasOwn(PATCH_TYPES, type) ? PATCH_TYPES[type] : undefined
  if (found) return found
  throw unsupportedMediaType(
    `the body of the request was in an unknown format - accepted media types include: ${Object.keys(PATCH_TYPES).join(', ')}`,
  )
}

/** How the body is written. @throws ApiError 415 */
export function bodyFormatOf(contentType: string): 'json' | 'yaml' | 'protobuf' {
  const type = mediaTypeOf(contentType)
  if (type === '' || type === 'application/json' || type === 'text/json' || type.endsWith('+json')) return 'json'
  if (type === 'application/yaml' || type === 'text/yaml' || type === 'application/x-yaml' || type.endsWith('+yaml'))
    return 'yaml'
  if (type === PROTOBUF) return 'protobuf'
  throw unsupportedMediaType(
    'the body of the request was in an unknown format - accepted media types include: application/json, application/yaml',
  )
}

const mediaTypeOf = (contentType: string) => (contentType.split(';')[0] ?? '').trim().toLowerCase()

export interface Acceptance {
  media: Media
  format: 'json' | 'yaml'
}

/** The first acceptable of what the client lists. @throws ApiError 406 */
export function acceptanceOf(accept: string): Acceptance {
  if (accept.trim() === '') return { media: 'json', format: 'json' }
  for (const choice of accept.split(',')) {
    const [type = '', ...params] = choice.split(';').map((part) => part.trim())
    const at = new Map(params.map((param) => param.split('=', 2) as [string, string]))
    const format = type === 'application/yaml' ? 'yaml' : 'json'
    if (!['application/json', 'application/yaml', 'application/*', '*/*'].includes(type)) continue
    const as = at.get('as')
    if (as === undefined) return { media: 'json', format }
    if (at.get('g') !== 'meta.k8s.io' || at.get('v') !== 'v1') continue
    if (as === 'Table') return { media: 'table', format }
    if (as === 'PartialObjectMetadata' || as === 'PartialObjectMetadataList') return { media: 'partial', format }
  }
  throw notAcceptable('only the following media types are accepted: application/json, application/yaml')
}
