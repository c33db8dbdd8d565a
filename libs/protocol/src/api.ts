/**
 * `api.<instance>.from.<identity>.<verb>`: the same requests as REST. The verb is the subject's last token.
 * A failed one is a CallError whose `code` is the Status reason (`NotFound`, `Conflict`, …) and whose `details` is the
 * whole Kubernetes `Status` object; `FENCED` and the wire's own codes come beside these.
 */
export type ApiVerb = 'get' | 'list' | 'watch' | 'create' | 'update' | 'patch' | 'delete' | 'deletecollection'

export interface ApiRequest {
  /** '' is the core group. */
  group: string
  version: string
  /** Plural, as in the URL: `pods`. */
  resource: string
  /** Missing: cluster-scoped, or a list or watch over all namespaces. */
  namespace?: string
  name?: string
  /** `status`, `scale`, `binding`, `eviction`, … */
  subresource?: string
  /** The object (create, update), the patch (patch), DeleteOptions (delete). JSON value. */
  body?: unknown
  patchType?: PatchType
  options?: ApiOptions
  fence?: Fence
}

export type PatchType = 'json' | 'merge' | 'strategic' | 'apply'

/** Query parameters under their Kubernetes names. */
export interface ApiOptions {
  labelSelector?: string
  fieldSelector?: string
  limit?: number
  continue?: string
  resourceVersion?: string
  resourceVersionMatch?: 'Exact' | 'NotOlderThan'
  allowWatchBookmarks?: boolean
  sendInitialEvents?: boolean
  timeoutSeconds?: number
  dryRun?: boolean
  fieldManager?: string
  fieldValidation?: 'Strict' | 'Warn' | 'Ignore'
  force?: boolean
}

/**
 * The write happens only while the lock is held by whom it was when the token was taken (promise C2): the API server puts
 * `create revision of the Lease = token` into the same store transaction. Otherwise: CallError FENCED (not-applied).
 */
export interface Fence {
  /** A coordination.k8s.io Lease. */
  lock: { namespace: string; name: string }
  /** Create revision of the Lease's key: the resourceVersion that its creation returned. Decimal. */
  token: string
}

/** Answer to every verb but watch. */
export interface ApiReply {
  /** HTTP status: 200, 201, 202. */
  status: number
  /** JSON text of the object, list or Status, resourceVersion included. */
  body: Uint8Array
}

/** One message of a watch stream: all events of one or more whole revisions, in order. */
export interface ApiWatchData {
  /** The revision that the message before (or the opening) ended with; a reader that has another one lost something. */
  prevRevision: number
  revision: number
  /** Type and JSON text of the object. `BOOKMARK` and `ERROR` (a Status; the stream then ends) included. */
  events: [type: ApiEventType, object: Uint8Array][]
}

export type ApiEventType = 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR'
