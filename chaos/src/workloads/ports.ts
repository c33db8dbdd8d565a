/** What workloads need of a cluster, however it runs: bodies over gRPC and HTTPS (`edge/`), and in a test's memory. */
import type { SeenKey } from '../checkers/revision-order.js'
import type { WatchedEvent } from '../checkers/watch-guarantees.js'

/** What became of a request that brought no result. */
export interface Failure {
  ok: false
  /** It is certain that nothing happened; or nobody knows. */
  outcome: 'not-applied' | 'unknown'
  /** The service did its work and its answer is no (a conflict, not found): no failure of the service. */
  answered: boolean
  code: string
  text: string
}
export type Answer<T> = { ok: true; value: T } | Failure

// -------------------------------------------------------------------------------------------------------------- store

export interface StoreTxn {
  /** Mod revisions that must hold; 0: the key is not there. */
  compare: { key: string; modRevision: number }[]
  /** Done when they hold; else nothing is done. */
  ops: ({ put: string; value: string; lease?: number } | { delete: string; to?: string })[]
}

export interface StoreTxnDone {
  revision: number
  succeeded: boolean
  /** Of each operation: keys deleted by it. */
  deleted: number[]
}

export interface StoreWatchListener {
  /** All that came in one message; none: a word of progress. */
  message(revision: number, events: WatchedEvent[]): void
  /** Once. */
  end(ended: { reason: string; compactRevision?: number }): void
}

/** One client's own connection to the store, by one member's face. */
export interface StorePort {
  /** The member. */
  readonly member: string
  /** Linearizable. `to` missing: the one key. */
  range(from: string, to?: string): Promise<Answer<{ revision: number; keys: SeenKey[] }>>
  txn(txn: StoreTxn): Promise<Answer<StoreTxnDone>>
  leaseGrant(ttlSeconds: number): Promise<Answer<{ id: number; ttlSeconds: number; revision: number }>>
  /** `ttlSeconds` 0 or less: there is no such lease. */
  leaseKeepAlive(id: number): Promise<Answer<{ ttlSeconds: number; revision: number }>>
  /** `ttlSeconds` below 0: there is no such lease. */
  leaseTimeToLive(id: number): Promise<Answer<{ ttlSeconds: number; revision: number }>>
  leaseRevoke(id: number): Promise<Answer<{ revision: number }>>
  /** Of this member's own state as of a revision, from its compaction on. */
  hashKv(revision: number): Promise<Answer<{ hash: number; compactRevision: number; revision: number }>>
  /** Follows `[from, to)` from a revision on. Returns how to stop. */
  watch(from: string, to: string, startRevision: number, listener: StoreWatchListener): () => void
  close(): void
}

// ---------------------------------------------------------------------------------------------------------------- API

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

export interface ApiObject {
  apiVersion?: string
  kind?: string
  metadata: {
    name: string
    namespace?: string
    uid?: string
    resourceVersion?: string
    creationTimestamp?: string
    deletionTimestamp?: string
    labels?: Record<string, string>
    annotations?: Record<string, string>
    ownerReferences?: { uid: string; kind: string; name?: string }[]
  }
  spec?: Record<string, unknown>
  status?: Record<string, unknown>
  data?: Record<string, string>
}

export interface ApiList {
  metadata: { resourceVersion: string; continue?: string }
  items: ApiObject[]
}

export interface ApiEvent {
  type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR'
  object: ApiObject & { code?: number; reason?: string; message?: string }
}

/** One client's own connection to one API server. */
export interface ApiPort {
  /** The name of the endpoint. */
  readonly endpoint: string
  /** A 2xx is ok; anything else a failure with the Status's reason as code. `PATCH` is a merge patch. */
  request<T = ApiObject>(method: Method, path: string, body?: unknown, timeoutMs?: number): Promise<Answer<T>>
  /** `path` with its query, `watch=true` among it. Returns how to stop. `end` comes once, whatever ended it. */
  watch(path: string, listener: { event(event: ApiEvent): void; end(reason: string): void }): () => void
  close(): void
}

// --------------------------------------------------------------------------------------------------------- connections

/** The ways to a cluster, one for each endpoint in a fixed order. Each call opens a connection of its own. */
export interface Connections {
  /** Empty: there is no way to the store here. */
  stores: readonly { member: string; open(): StorePort }[]
  apis: readonly { endpoint: string; open(): ApiPort }[]
  /** Whether a plain HTTP request over a new connection was answered with 2xx in time. Missing: nobody here reaches pods. */
  get?(url: string, timeoutMs: number): Promise<boolean>
}
