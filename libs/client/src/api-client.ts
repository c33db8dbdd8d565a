import type { ApiEventType, ApiOptions, Fence, PatchType } from '@capstan/protocol'
import type { KubeObject } from './kube-object.js'

/** Which kind of object: as in the URL. */
export interface Resource {
  readonly group: string
  readonly version: string
  /** Plural: `pods`. */
  readonly resource: string
}

export interface ObjectRef {
  namespace?: string
  name: string
}

export interface WriteOptions {
  subresource?: string
  dryRun?: boolean
  fieldManager?: string
  /** See `Fence`: leader-elected components pass theirs with each write. */
  fence?: Fence
  timeoutMs?: number
}

export interface DeleteCallOptions extends WriteOptions {
  gracePeriodSeconds?: number
  propagationPolicy?: 'Orphan' | 'Background' | 'Foreground'
  preconditions?: { uid?: string; resourceVersion?: string }
}

export interface ObjectList<T> {
  items: T[]
  resourceVersion: string
  continue?: string
}

export interface WatchHandlers<T> {
  /** In order, without a gap. BOOKMARK objects have only a resourceVersion. */
  event(type: Exclude<ApiEventType, 'ERROR'>, object: T): void | Promise<void>
  /**
   * Over, exactly once. `expired`: list again (410 Gone, compacted). `lost`, `closing`, `lagging`: watch again from the
   * last resourceVersion. `refused`: see the error.
   */
  end(reason: string, error?: Error): void
}

/**
 * The API server as seen by a component: over the bus (`BusApiClient`), choosing among the instances that beat, the one
 * on the own machine first; or in memory for tests. Reads and what did not happen are repeated on another instance
 * within `timeoutMs` (default 10,000); what may have happened is not: the caller looks first.
 *
 * Failures: CallError whose `code` is the Status reason (`NotFound`, `Conflict`, `AlreadyExists`, `Invalid`, …) with the
 * Status in `details`; `FENCED`; or the wire's codes.
 */
export interface ApiClient {
  get<T extends KubeObject>(
    resource: Resource,
    ref: ObjectRef,
    options?: { subresource?: string; resourceVersion?: string; timeoutMs?: number },
  ): Promise<T>
  list<T extends KubeObject>(
    resource: Resource,
    options?: ApiOptions & { namespace?: string; timeoutMs?: number },
  ): Promise<ObjectList<T>>
  watch<T extends KubeObject>(
    resource: Resource,
    options: ApiOptions & { namespace?: string },
    handlers: WatchHandlers<T>,
  ): { stop(): void }
  /** Name, or generateName, and namespace come from the object's metadata. With `subresource` (binding), of that object. */
  create<T extends KubeObject>(resource: Resource, object: KubeObject, options?: WriteOptions): Promise<T>
  /** With metadata.resourceVersion set: fails with Conflict if it changed since. */
  update<T extends KubeObject>(resource: Resource, object: T, options?: WriteOptions): Promise<T>
  patch<T extends KubeObject>(
    resource: Resource,
    ref: ObjectRef,
    type: PatchType,
    patch: unknown,
    options?: WriteOptions,
  ): Promise<T>
  delete(resource: Resource, ref: ObjectRef, options?: DeleteCallOptions): Promise<void>
  deleteCollection(resource: Resource, options: ApiOptions & DeleteCallOptions & { namespace?: string }): Promise<void>
}

const of = (group: string, version: string, resource: string): Resource => ({ group, version, resource })

/** The built-in resources, by their plural names. */
export const RESOURCES = {
  namespaces: of('', 'v1', 'namespaces'),
  nodes: of('', 'v1', 'nodes'),
  pods: of('', 'v1', 'pods'),
  services: of('', 'v1', 'services'),
  endpoints: of('', 'v1', 'endpoints'),
  configmaps: of('', 'v1', 'configmaps'),
  secrets: of('', 'v1', 'secrets'),
  serviceaccounts: of('', 'v1', 'serviceaccounts'),
  events: of('', 'v1', 'events'),
  replicationcontrollers: of('', 'v1', 'replicationcontrollers'),
  replicasets: of('apps', 'v1', 'replicasets'),
  deployments: of('apps', 'v1', 'deployments'),
  statefulsets: of('apps', 'v1', 'statefulsets'),
  controllerrevisions: of('apps', 'v1', 'controllerrevisions'),
  endpointslices: of('discovery.k8s.io', 'v1', 'endpointslices'),
  leases: of('coordination.k8s.io', 'v1', 'leases'),
  poddisruptionbudgets: of('policy', 'v1', 'poddisruptionbudgets'),
} as const
