import { Caller, every, type World } from '@capstan/actor'
import type { ApiReply, ApiRequest, ApiVerb } from '@capstan/protocol'
import { startBeating } from '@capstan/client'
import { type Attributes, authorize, type AuthorizerState } from './authorize.js'
import { keepBootstrapped, NAMESPACES } from './bootstrap.js'
import { serveBus } from './bus-door.js'
import { Cache } from './cache.js'
import { ApiError, failure, forbidden, nameOf, tooManyRequests, unavailable } from './errors.js'
import { objectKey, resourceKey } from './keys.js'
import { kinds } from './kinds.js'
import { isLog, logsRequestOf, openLogs } from './logs.js'
import type {
  ApiServerHandle,
  ApiServerOptions,
  ByteSink,
  OpenWatch,
  Page,
  RequestExtras,
  User,
  WatchSink,
} from './options.js'
import { pageOf } from './pages.js'
import { Rest, type RestContext } from './rest.js'
import { StoreClient } from './store-client.js'
import type { KubeObject } from './stored.js'

const IN_FLIGHT_MAX = 400
const WATCHES_MAX = 4096
const EVENT_WINDOW_MAX = 4096
/** The store has not been heard, or has not answered, for so long: ask another API server. */
const STORE_SILENT_MS = 3000
/** How often it is asked whether it has a leader. */
const PROBE_PERIOD_MS = 1000
const PROBE_TIMEOUT_MS = 2000
const TOKENS_KEPT = 1000
/** Verifying a token costs CPU; a verdict is kept for a moment. */
const TOKEN_KEPT_MS = 10_000

/**
 * Starts an API server in this world: bus door, watch cache, bootstrap. The bus connection must have the identity
 * `apiserver~<instance>`. Returns at once; see `whenReady`.
 */
export function startApiServer(world: World, options: ApiServerOptions): ApiServerHandle {
  return new ApiServer(world, options)
}

class ApiServer implements ApiServerHandle {
  private readonly store: StoreClient
  private readonly cache: Cache
  private readonly rest: Rest
  private readonly nodes: Caller
  private readonly closing = new AbortController()
  private readonly stops: (() => void)[] = []
  private readonly tokens = new Map<string, { user: User | undefined; untilMs: number }>()
  private readonly authorizerState: AuthorizerState
  private readonly counters = { requests: 0, failed: 0, refused: 0 }
  private inFlight = 0
  /** Monotonic: when the store last answered a linearizable question. */
  private answeredMs: number
  private probing = false
  private readonly watches = new Set<OpenWatch>()

  constructor(
    readonly world: World,
    readonly options: ApiServerOptions,
  ) {
    const { cluster, instance, machine = instance } = options
    this.store = new StoreClient(world, { cluster, instance, members: options.storeMembers })
    this.cache = new Cache(world, this.store, { windowMax: options.eventWindowMax ?? EVENT_WINDOW_MAX })
    this.nodes = new Caller(world, { name: 'nodes' })
    this.authorizerState = authorizerStateOf(this.cache)
    const context: RestContext = {
      world,
      store: this.store,
      cache: this.cache,
      kinds,
      options,
      authorizerState: this.authorizerState,
      userOfToken: (token) => this.userOfToken(token),
    }
    this.rest = new Rest(context)
    this.cache.start()
    this.answeredMs = world.clock.monotonicMs()
    let tickedMs = this.answeredMs
    const probe = () => {
      const now = world.clock.monotonicMs()
      // Only time in which this process ran counts against the store.
      if (now - tickedMs > 2 * PROBE_PERIOD_MS) this.answeredMs = now
      tickedMs = now
      void this.probe()
    }
    const server = serveBus(this)
    const beating = startBeating(world, {
      cluster,
      component: 'apiserver',
      instance,
      machine,
      describe: () => ({ ready: this.ready, load: { inFlight: this.inFlight, watches: this.watches.size } }),
    })
    this.stops.push(() => server.stop(), every(world.clock, PROBE_PERIOD_MS, probe), beating)
    // Whoever waits for an API server must not wait for the next beat too.
    void this.whenReady().then(() => beating.now())
    const handle = (verb: 'create' | 'update' | 'delete', request: ApiRequest, user: User) =>
      this.rest.handle(verb, request, user)
    void keepBootstrapped({ world, store: this.store, cache: this.cache, options, handle }, this.closing.signal)
  }

  get ready(): boolean {
    const { revision, silentSinceMs } = this.cache
    if (revision === 0 || this.closing.signal.aborted) return false
    const now = this.world.clock.monotonicMs()
    if (now - this.answeredMs >= STORE_SILENT_MS) return false
    return silentSinceMs === undefined || now - silentSinceMs < STORE_SILENT_MS
  }

  /** A member may go on beating while the store has no majority. */
  private async probe(): Promise<void> {
    if (this.probing) return
    this.probing = true
    try {
      await this.store.readIndex(PROBE_TIMEOUT_MS)
      this.answeredMs = this.world.clock.monotonicMs()
    } catch (error) {
      if (!this.closing.signal.aborted) this.world.log.debug({ err: error }, 'the store did not answer the probe')
    } finally {
      this.probing = false
    }
  }

  async whenReady(): Promise<void> {
    while (!this.closing.signal.aborted && this.cache.revision === 0) await this.cache.waitFor(1, 1000)
  }

  async whenBootstrapped(): Promise<void> {
    await this.whenReady()
    const isThere = () => NAMESPACES.every((name) => this.cache.find(objectKey('', 'namespaces', undefined, name)))
    while (!this.closing.signal.aborted && !isThere()) await this.cache.waitFor(this.cache.revision + 1, 1000)
  }

  async handle(
    verb: Exclude<ApiVerb, 'watch'>,
    request: ApiRequest,
    user: User,
    extras: RequestExtras = {},
  ): Promise<ApiReply> {
    this.counters.requests++
    this.refuseUnready()
    if (this.inFlight >= (this.options.inFlightMax ?? IN_FLIGHT_MAX)) {
      this.counters.refused++
      throw tooManyRequests('too many requests, please try again later')
    }
    this.inFlight++
    try {
      await this.authorize(attributesOf(verb, request), user)
      if (isLog(request)) throw new ApiError(failure(406, 'NotAcceptable', 'a log is a stream: ask for it over HTTPS'))
      if (request.patchType !== 'apply') return await this.rest.handle(verb, request, user, extras)
      const mayCreate = () => this.authorize(attributesOf('create', request), user)
      return await this.rest.handle(verb, request, user, { ...extras, mayCreate })
    } catch (error) {
      this.counters.failed++
      throw error
    } finally {
      this.inFlight--
    }
  }

  async watch(request: ApiRequest, user: User, sink: WatchSink, extras: RequestExtras = {}): Promise<OpenWatch> {
    this.counters.requests++
    this.refuseUnready()
    if (this.watches.size >= (this.options.watchesMax ?? WATCHES_MAX)) {
      this.counters.refused++
      throw tooManyRequests('too many watches, please try again later')
    }
    await this.authorize(attributesOf('watch', request), user)
    let over = false
    let opened: OpenWatch | undefined
    const counted: WatchSink = {
      send: (data) => sink.send(data),
      end: (reason, status) => {
        over = true
        if (opened) this.watches.delete(opened)
        sink.end(reason, status)
      },
    }
    opened = await this.rest.watch(request, user, counted, extras)
    if (!over) this.watches.add(opened)
    return opened
  }

  async logs(
    request: ApiRequest,
    query: Readonly<Record<string, string>>,
    user: User,
    sink: ByteSink,
  ): Promise<{ stop(): void }> {
    this.counters.requests++
    this.refuseUnready()
    await this.authorize(attributesOf('get', request), user)
    const { subresource: _, ...ofPod } = request
    const pod = await this.rest.read(this.rest.ask(ofPod, user, {}))
    return openLogs(this.world, this.nodes, this.options.cluster, logsRequestOf(pod.object, query), sink)
  }

  async page(
    path: string,
    query: Readonly<Record<string, string>>,
    accept: string,
    user: User,
  ): Promise<Page | undefined> {
    await this.authorize({ verb: 'get', group: '', resource: '', path }, user)
    return pageOf(path, query, accept, {
      kinds,
      serverAddress: this.options.advertise ? `${this.options.advertise.address}:${this.options.advertise.port}` : '',
      checks: { ping: true, store: this.ready, 'watch-cache': this.cache.revision > 0 },
      metrics: () => this.metrics(),
    })
  }

  serves({ group, version, resource }: Pick<ApiRequest, 'group' | 'version' | 'resource'>): boolean {
    return kinds.find(group, version, resource) !== undefined
  }

  async userOfToken(token: string): Promise<User | undefined> {
    const { verifyToken } = this.options
    if (!verifyToken) return undefined
    const now = this.world.clock.monotonicMs()
    const known = this.tokens.get(token)
    if (known && known.untilMs > now) return known.user
    const user = await verifyToken(token)
    // Bounded: the oldest verdict gives way.
    for (const old of this.tokens.keys()) {
      if (this.tokens.size < TOKENS_KEPT) break
      this.tokens.delete(old)
    }
    this.tokens.set(token, { user, untilMs: now + TOKEN_KEPT_MS })
    return user
  }

  async stop(): Promise<void> {
    if (this.closing.signal.aborted) return
    this.closing.abort()
    for (const stop of this.stops.splice(0)) stop()
    for (const watch of Array.from(this.watches)) watch.stop()
    this.cache.stop()
    this.nodes.close()
    this.store.close()
  }

  private refuseUnready(): void {
    if (this.closing.signal.aborted) throw unavailable('the API server is stopping')
    if (this.cache.revision === 0) throw unavailable('the API server has not heard from the store yet')
  }

  /** @throws ApiError 403 */
  private async authorize(what: Attributes, user: User): Promise<void> {
    let { allowed, reason } = authorize(user, what, this.authorizerState)
    if (!allowed && user.groups.includes('system:nodes')) {
      // The kubelet may have heard of its pod from another server: look again at the state of now.
      await this.rest.catchUp()
      ;({ allowed, reason } = authorize(user, what, this.authorizerState))
    }
    if (allowed) return
    const who = `User ${JSON.stringify(user.name)}`
    const because = reason ? `: ${reason}` : ''
    if (what.path !== undefined)
      throw new ApiError(
        failure(
          403,
          'Forbidden',
          `forbidden: ${who} cannot ${what.verb} path ${JSON.stringify(what.path)}${because}`,
          {},
        ),
      )
    const resource = what.subresource ? `${what.resource}/${what.subresource}` : what.resource
    const scope =
      what.namespace === undefined ? 'at the cluster scope' : `in the namespace ${JSON.stringify(what.namespace)}`
    const text = `${who} cannot ${what.verb} resource ${JSON.stringify(resource)} in API group ${JSON.stringify(what.group)} ${scope}${because}`
    const subject = {
      group: what.group,
      resource: what.resource,
      ...(what.name === undefined ? {} : { name: what.name }),
    }
    // Kubernetes names the resource even where there is no name.
    if (what.name === undefined)
      throw new ApiError(failure(403, 'Forbidden', `${nameOf(subject)} is forbidden: ${text}`, { kind: what.resource }))
    throw forbidden(subject, text)
  }

  private metrics(): Record<string, number> {
    const { cache, counters } = this
    return {
      capstan_apiserver_requests_total: counters.requests,
      capstan_apiserver_requests_failed_total: counters.failed,
      capstan_apiserver_requests_refused_total: counters.refused,
      capstan_apiserver_requests_in_flight: this.inFlight,
      capstan_apiserver_watches: this.watches.size,
      capstan_apiserver_cache_revision: cache.revision,
      capstan_apiserver_cache_fills_total: cache.counters.fills,
      capstan_apiserver_cache_watches_total: cache.counters.watches,
      capstan_apiserver_cache_changes_total: cache.counters.changes,
    }
  }
}

function attributesOf(verb: string, request: ApiRequest): Attributes {
  return {
    verb,
    group: request.group,
    resource: request.resource,
    ...(request.subresource === undefined ? {} : { subresource: request.subresource }),
    ...(request.namespace === undefined ? {} : { namespace: request.namespace }),
    ...(request.name === undefined ? {} : { name: request.name }),
  }
}

function authorizerStateOf(cache: Cache): AuthorizerState {
  return {
    pod: (namespace, name) => cache.find(objectKey('', 'pods', namespace, name))?.object,
    *podsOnNode(node) {
      for (const stored of cache.resource(resourceKey('', 'pods')).objects.values()) {
        const pod: KubeObject = stored.object
        if ((pod['spec'] as { nodeName?: string } | undefined)?.nodeName === node) yield pod
      }
    },
  }
}
