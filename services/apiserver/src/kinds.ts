/** The kinds as the REST machinery sees them. What they are comes from libs/api. */
import { badRequest, type StatusCause } from './errors.js'
import type { ApiOptions } from '@capstan/protocol'
import type { KubeObject, Stored } from './stored.js'

export interface Kind {
  readonly group: string
  readonly version: string
  readonly kind: string
  /** Plural. */
  readonly resource: string
  readonly singular: string
  readonly shortNames: readonly string[]
  readonly categories: readonly string[]
  readonly namespaced: boolean
  readonly verbs: readonly string[]
  readonly subresources: readonly string[]
  /** Answered at once, never kept. */
  readonly isReview: boolean
  readonly hasGeneration: boolean
  readonly columns: readonly object[]
  /** One table row's cells. */
  cells(object: KubeObject, nowMs: number): unknown[]
  rowConditions?(object: KubeObject): object | undefined
  /** Checks fields against the schema; drops unknown ones. */
  decode(object: KubeObject, validation: 'Strict' | 'Warn' | 'Ignore'): { errors: string[]; warnings: string[] }
  setDefaults(object: KubeObject): void
  prepareForCreate(object: KubeObject): void
  prepareForUpdate(object: KubeObject, old: KubeObject, subresource: string): void
  specChanged(object: KubeObject, old: KubeObject): boolean
  validate(object: KubeObject): StatusCause[]
  validateUpdate(object: KubeObject, old: KubeObject, subresource: string): StatusCause[]
  /** Only kinds with a scale subresource. */
  toScale?(object: KubeObject): KubeObject
  /** For field selectors. Undefined: not a selectable field. */
  field(object: KubeObject, path: string): string | undefined
}

export interface Kinds {
  find(group: string, version: string, resource: string): Kind | undefined
  all(): readonly Kind[]
}

/** What a request's selectors let through. @throws ApiError 400 */
export function selectorOf(kind: Kind, options: Pick<ApiOptions, 'labelSelector' | 'fieldSelector'>): (stored: Stored) => boolean {
  void kind
  if (!options.labelSelector && !options.fieldSelector) return () => true
  throw badRequest('selectors are not there yet')
}

// ------------------------------------------------------------------------------------------------------------------
// Until libs/api has the kinds: names only, nothing is defaulted or validated.

const ALL = ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch']

function plain(group: string, version: string, kind: string, resource: string, namespaced: boolean, shortNames: string[], subresources: string[]): Kind {
  const isReview = kind.endsWith('Review')
  return {
    group, version, kind, resource, namespaced, shortNames, subresources, isReview,
    singular: kind.toLowerCase(),
    categories: [],
    verbs: isReview ? ['create'] : ALL,
    hasGeneration: ['apps', ''].includes(group) && ['Deployment', 'ReplicaSet', 'ReplicationController', 'Pod'].includes(kind),
    columns: [{ name: 'Name', type: 'string', format: 'name', description: '', priority: 0 }],
    cells: (object) => [object.metadata.name],
    decode: () => ({ errors: [], warnings: [] }),
    setDefaults() {},
    prepareForCreate(object) {
      if (kind === 'Namespace') {
        object['spec'] = { finalizers: ['kubernetes'], ...(object['spec'] as object) }
        object['status'] = { phase: 'Active' }
      } else if (kind === 'Pod') object['status'] = { phase: 'Pending' }
      else if (subresources.includes('status')) delete object['status']
    },
    prepareForUpdate(object, old, sub) {
      if (sub === 'status') for (const field of Object.keys({ ...object, ...old })) {
        if (field === 'status' || field === 'metadata') continue
        if (old[field] === undefined) delete object[field]
        else object[field] = old[field]
      }
      else if (subresources.includes('status') && old['status'] !== undefined) object['status'] = old['status']
    },
    specChanged: (object, old) => JSON.stringify(object['spec']) !== JSON.stringify(old['spec']),
    validate: () => [],
    validateUpdate: () => [],
    ...(subresources.includes('scale') ? { toScale: (object: KubeObject) => ({
      apiVersion: 'autoscaling/v1', kind: 'Scale', metadata: object.metadata,
      spec: { replicas: (object['spec'] as { replicas?: number })?.replicas ?? 0 },
      status: { replicas: (object['status'] as { replicas?: number } | undefined)?.replicas ?? 0 },
    }) } : {}),
    field(object, path) {
      let at: unknown = object
      for (const part of path.split('.')) at = (at as Record<string, unknown> | undefined)?.[part]
      return at === undefined ? '' : String(at)
    },
  }
}

const TABLE: Kind[] = [
  plain('', 'v1', 'Namespace', 'namespaces', false, ['ns'], ['status', 'finalize']),
  plain('', 'v1', 'Node', 'nodes', false, ['no'], ['status']),
  plain('', 'v1', 'Pod', 'pods', true, ['po'], ['status', 'binding', 'eviction', 'log']),
  plain('', 'v1', 'Service', 'services', true, ['svc'], ['status']),
  plain('', 'v1', 'Endpoints', 'endpoints', true, ['ep'], []),
  plain('', 'v1', 'ConfigMap', 'configmaps', true, ['cm'], []),
  plain('', 'v1', 'Secret', 'secrets', true, [], []),
  plain('', 'v1', 'ServiceAccount', 'serviceaccounts', true, ['sa'], []),
  plain('', 'v1', 'Event', 'events', true, ['ev'], []),
  plain('', 'v1', 'ReplicationController', 'replicationcontrollers', true, ['rc'], ['status', 'scale']),
  plain('apps', 'v1', 'ReplicaSet', 'replicasets', true, ['rs'], ['status', 'scale']),
  plain('apps', 'v1', 'Deployment', 'deployments', true, ['deploy'], ['status', 'scale']),
  plain('discovery.k8s.io', 'v1', 'EndpointSlice', 'endpointslices', true, [], []),
  plain('coordination.k8s.io', 'v1', 'Lease', 'leases', true, [], []),
]

export const kinds: Kinds = {
  find: (group, version, resource) => TABLE.find((k) => k.group === group && k.version === version && k.resource === resource),
  all: () => TABLE,
}
