import type { World } from '@capstan/actor'
import type { ApiOptions, ApiReply, ApiRequest, ApiVerb, ApiWatchData } from '@capstan/protocol'

/** Deliberate bugs, for the tests of the checkers. Never set otherwise. */
export type PlantedBug = 'fence-left-out' | 'double-bind' | 'stale-read'

/** What an API server is started with. Everything without a default must be given. */
export interface ApiServerOptions {
  cluster: string
  /** Name of this API server: its token in `api.<instance>.…`. By convention the master's name. */
  instance: string
  /** The machine it runs on; beats state it. Default: the instance's name. */
  machine?: string
  /** Names of the store's members, in the order in which they are asked; put the one on this machine first. */
  storeMembers: readonly string[]
  /** Address and port at which pods and nodes reach this API server by HTTPS: kept as an endpoint of `kubernetes`. */
  advertise?: { address: string; port: number }
  /** Default 10.96.0.0/16. The `kubernetes` Service has its first address. */
  serviceCidr?: string
  /** Default [30000, 32767]. */
  nodePorts?: readonly [number, number]
  /** What admission adds to pods that do not say it themselves. Default 300 s. */
  defaultNotReadyTolerationSeconds?: number
  defaultUnreachableTolerationSeconds?: number
  /** Default 3,600 s. */
  eventTtlSeconds?: number
  /** Requests in work at once, watches apart; one more gets 429. Default 400. */
  inFlightMax?: number
  /** Events that each resource keeps for watches that start in the past. Default 4,096. */
  eventWindowMax?: number
  /** Whom a bearer token speaks for; undefined: nobody. Missing: no token is accepted. See `tokenVerifier` in `./edge`. */
  verifyToken?(token: string): Promise<User | undefined>
  /** Signs a ServiceAccount's token (`serviceaccounts/token`). Times in seconds since the epoch. See `tokenSigner` in `./edge`. */
  signToken?(
    account: { namespace: string; name: string; uid?: string },
    times: { issuedAt: number; expiresAt: number },
    audiences: readonly string[] | undefined,
  ): Promise<string>
  /** Watches at once; one more gets 429. Default 4,096. */
  watchesMax?: number
  bugs?: readonly PlantedBug[]
}

/** Who asks. */
export interface User {
  name: string
  groups: readonly string[]
  uid?: string
  extra?: Readonly<Record<string, readonly string[]>>
}

export const ANONYMOUS: User = { name: 'system:anonymous', groups: ['system:unauthenticated'] }

/** In which form objects are answered. `table` and `partial` are kubectl's Table and PartialObjectMetadata. */
export type Media = 'json' | 'table' | 'partial'

/** Beside the request: what only the HTTP door can say. */
export interface RequestExtras {
  media?: Media
  /** Of a Table: how much of each object comes with its row. Default Metadata. */
  includeObject?: 'None' | 'Metadata' | 'Object'
  /** Its first part names the manager of fields that a write changes, if the request does not. */
  userAgent?: string
  /** An apply may find that there is nothing to patch: throws if the user may not create it. */
  mayCreate?(): Promise<void>
  /** Monotonic, ms: nobody waits for the answer after it, so no write is begun after it. */
  deadlineMs?: number
  /** The asker has gone away: no write is begun for it any more. */
  isAbandoned?(): boolean
  /** Called with each warning for the client (RFC 7234 299). */
  warn?(text: string): void
}

/** Where a watch's events go. */
export interface WatchSink {
  /** All events of whole revisions. Answers whether the sink can take more; false ends the watch as lagging. */
  send(data: ApiWatchData): boolean
  end(reason: string, status?: object): void
}

export interface OpenWatch {
  /** Everything up to here has been sent. */
  position(): number
  stop(): void
}

/** Where a log's bytes go. */
export interface ByteSink {
  send(bytes: Uint8Array): void | Promise<void>
  end(status?: object): void
}

/** A document that is no object: discovery, OpenAPI, version, health. */
export interface Page {
  status: number
  mediaType: string
  body: Uint8Array
  /** For the ETag header. */
  etag?: string
}

/** A running API server. Doors other than the bus (HTTPS) are put before it: see `listenHttps` in `./edge`. */
export interface ApiServerHandle {
  readonly options: Readonly<ApiServerOptions>
  readonly world: World
  /** May it be asked? It has a store and its cache is filled. */
  readonly ready: boolean
  /** Resolves when `ready` is first true. */
  whenReady(): Promise<void>
  /** Resolves when the system's namespaces are there as well. */
  whenBootstrapped(): Promise<void>
  /**
   * One request of any verb but watch, on behalf of `user`: authorized, admitted, carried out.
   * @throws ApiError (a Kubernetes Status with its HTTP code).
   */
  handle(verb: Exclude<ApiVerb, 'watch'>, request: ApiRequest, user: User, extras?: RequestExtras): Promise<ApiReply>
  /** Opens a watch. @throws ApiError */
  watch(request: ApiRequest, user: User, sink: WatchSink, extras?: RequestExtras): Promise<OpenWatch>
  /** Opens a pod's log. Resolves once the node has accepted. @throws ApiError */
  logs(
    request: ApiRequest,
    query: Readonly<Record<string, string>>,
    user: User,
    sink: ByteSink,
  ): Promise<{ stop(): void }>
  /** Discovery, OpenAPI, version, health, metrics: by path. Undefined: no such page. @throws ApiError 403 */
  page(path: string, query: Readonly<Record<string, string>>, accept: string, user: User): Promise<Page | undefined>
  /** Is there such a resource? */
  serves(request: Pick<ApiRequest, 'group' | 'version' | 'resource'>): boolean
  /** Whom a bearer token speaks for; undefined: nobody (401). */
  userOfToken(token: string): Promise<User | undefined>
  /** Ends watches with `closing`, takes no more, stops beating. Idempotent. */
  stop(): Promise<void>
}

export type { ApiOptions }
