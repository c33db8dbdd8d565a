/** The verbs, for every kind alike. What is special about one stands in libs/api or in `hooks.ts`. */
import { CallError, type World } from '@capstan/actor'
import type { ApiOptions, ApiReply, ApiRequest } from '@capstan/protocol'
import { type Admission, type AdmissionRequest, admit } from './admission.js'
import type { AuthorizerState } from './authorize.js'
import { applyConfig, entriesOfNew, type ManagedEntry, trackUpdate } from './apply.js'
import type { Cache } from './cache.js'
import { Committer, type Committed, type Plan, storeFailure, type Target } from './commit.js'
import {
  alreadyExists,
  ApiError,
  badRequest,
  conflict,
  expired,
  failure,
  invalid,
  methodNotAllowed,
  modified,
  noSuchResource,
  notBuilt,
  notFound,
  type StatusCause,
  type Subject,
  timedOut,
  unsupportedMediaType,
} from './errors.js'
import { type Hooks, hooksOf } from './hooks.js'
import { objectKey, prefixEnd, resourceKey, resourcePrefix } from './keys.js'
import { type Kind, type Kinds, selectorOf } from './kinds.js'
import type { ApiServerOptions, Media, OpenWatch, RequestExtras, PlantedBug, User, WatchSink } from './options.js'
import { applyPatch } from './patch.js'
import { bookmarkOf, type Form, renderList, renderObject } from './render.js'
import { keyBytes, type StoreClient } from './store-client.js'
import { type KubeObject, type ObjectMeta, Stored } from './stored.js'
import { followResource } from './watch.js'

/** A consistent read waits so long for the cache; then it asks the store itself. */
const CACHE_WAIT_MS = 500
/** A read "not older than" a revision that this server has not heard of yet. */
const FUTURE_WAIT_MS = 3000
const STORE_PAGE = 500
const NAME_ATTEMPTS = 8
const NAME_SUFFIX = 5
/** Kubernetes' letters: no vowels, so no words. */
const NAME_LETTERS = 'bcdfghjklmnpqrstvwxz2456789'
const GENERATE_BASE_MAX = 58
const COLLECTION_PARALLEL = 16

export interface RestContext {
  world: World
  store: StoreClient
  cache: Cache
  kinds: Kinds
  options: ApiServerOptions
  authorizerState: AuthorizerState
  userOfToken(token: string): Promise<User | undefined>
}

/** Subresources of Kubernetes that are refused by name, so that nobody looks for a mistake of his own. */
const NOT_BUILT: Readonly<Record<string, readonly string[]>> = {
  pods: ['attach', 'ephemeralcontainers', 'exec', 'portforward', 'proxy', 'resize'],
  services: ['proxy'],
  nodes: ['proxy'],
}

interface Ask {
  kind: Kind
  request: ApiRequest
  options: ApiOptions
  user: User
  extras: RequestExtras
  form: Form
}

export class Rest {
  readonly committer: Committer
  readonly random

  constructor(readonly context: RestContext) {
    this.committer = new Committer(context.world, context.store, context.cache)
    this.random = context.world.random.fork('rest')
  }

  /** @throws ApiError */
  async handle(verb: string, request: ApiRequest, user: User, extras: RequestExtras = {}): Promise<ApiReply> {
    const ask = this.ask(request, user, extras)
    const { kind } = ask
    const sub = request.subresource
    if (sub !== undefined) return this.subresource(verb, sub, ask)
    if (!kind.verbs.includes(verb)) throw methodNotAllowed()
    switch (verb) {
      case 'get':
        return this.object(200, await this.read(ask), ask)
      case 'list':
        return this.list(ask)
      case 'create':
        return this.create(ask)
      case 'update':
        return this.update(ask, '')
      case 'patch':
        return this.patch(ask, '')
      case 'delete':
        return this.delete(ask)
      case 'deletecollection':
        return this.deleteCollection(ask)
      default:
        throw methodNotAllowed()
    }
  }

  private async subresource(verb: string, sub: string, ask: Ask): Promise<ApiReply> {
    const { kind } = ask
    if (!kind.subresources.includes(sub)) {
      const [first = ''] = sub.split('/')
      if (NOT_BUILT[kind.resource]?.includes(first)) throw notBuilt(`${kind.resource}/${first}`)
      throw noSuchResource()
    }
    const own = hooksOf(kind).subresources?.[sub]
    if (own) return own(this, verb, ask)
    if (sub === 'scale') return this.scale(verb, ask)
    if (verb === 'get') return this.object(200, await this.read(ask), ask)
    if (verb === 'update') return this.update(ask, sub)
    if (verb === 'patch') return this.patch(ask, sub)
    throw methodNotAllowed()
  }

  /** Only for the tests of the checkers. */
  hasBug(bug: PlantedBug): boolean {
    return this.context.options.bugs?.includes(bug) ?? false
  }

  /** @throws ApiError */
  ask(request: ApiRequest, user: User, extras: RequestExtras): Ask {
    const kind = this.context.kinds.find(request.group, request.version, request.resource)
    if (!kind) throw noSuchResource()
    if (request.namespace !== undefined && !kind.namespaced) throw noSuchResource()
    if (request.name !== undefined && kind.namespaced && request.namespace === undefined) throw noSuchResource()
    const media: Media = extras.media ?? 'json'
    const form: Form = {
      media,
      include: extras.includeObject ?? 'Metadata',
      kind,
      nowMs: this.context.world.clock.nowMs(),
    }
    return { kind, request, options: request.options ?? {}, user, extras, form }
  }

  // ------------------------------------------------------------------------------------------------------------ reads

  /** The one object that the request names, as of now at the latest. */
  async read(ask: Ask): Promise<Stored> {
    const { request, options } = ask
    const key = this.keyOf(ask, request.name as string)
    let stored: Stored | undefined
    if (await this.caughtUp(options)) stored = this.context.cache.find(key)
    else stored = await this.committer.read(key)
    if (!stored) throw notFound(this.subject(ask))
    return stored
  }

  /** The cache has everything that was acknowledged before the call, if it can have it in a moment. */
  async catchUp(): Promise<boolean> {
    return this.caughtUp({})
  }

  /** True: the cache may answer. @throws ApiError 504 for a revision from the future */
  private async caughtUp(options: ApiOptions): Promise<boolean> {
    const { cache, store } = this.context
    const asked = options.resourceVersion ?? ''
    if (asked !== '') {
      const revision = revisionOf(asked)
      if (cache.revision > 0 && cache.revision >= revision) return true
      if (await cache.waitFor(revision, FUTURE_WAIT_MS)) return true
      throw tooLargeVersion(revision, cache.revision)
    }
    if (this.hasBug('stale-read')) return true
    try {
      return await cache.waitFor(await store.readIndex(), CACHE_WAIT_MS)
    } catch (error) {
      throw storeFailure(error)
    }
  }

  private async list(ask: Ask): Promise<ApiReply> {
    const { kind, request, options, form } = ask
    const { cache } = this.context
    const matches = selectorOf(kind, options)
    const prefix = resourcePrefix(kind.group, kind.resource, request.namespace)
    const limit = options.limit ?? 0
    if (options.continue) {
      if (options.resourceVersion && options.resourceVersion !== '0')
        throw badRequest('specifying resource version is not allowed when using continue')
      const { revision, start } = tokenOf(options.continue, prefix)
      return this.listAt(ask, matches, prefix, revision, start, limit)
    }
    if (options.resourceVersionMatch === 'Exact') {
      if (!options.resourceVersion || options.resourceVersion === '0')
        throw badRequest('resourceVersionMatch "Exact" is forbidden for resourceVersion "0" or unset')
      return this.listAt(ask, matches, prefix, revisionOf(options.resourceVersion), prefix, limit)
    }
    if (options.resourceVersionMatch && !options.resourceVersion)
      throw badRequest('resourceVersionMatch is forbidden unless resourceVersion is provided')
    if (!(await this.caughtUp(options))) return this.listAt(ask, matches, prefix, 0, prefix, limit)
    const found: Stored[] = []
    let next: string | undefined
    let rest = 0
    for (const stored of cache.resource(resourceKey(kind.group, kind.resource)).under(prefix)) {
      if (limit > 0 && found.length >= limit) {
        next ??= stored.key
        rest++
        continue
      }
      if (matches(stored)) found.push(stored)
    }
    const isSelected = Boolean(options.labelSelector ?? options.fieldSelector)
    return {
      status: 200,
      body: renderList(form, found, cache.revision, moreOf(cache.revision, next, isSelected ? 0 : rest)),
    }
  }

  /** From the store, as of a revision (0: now), from key `start` on. */
  private async listAt(
    ask: Ask,
    matches: (stored: Stored) => boolean,
    prefix: string,
    revision: number,
    start: string,
    limit: number,
  ): Promise<ApiReply> {
    const { store } = this.context
    const rangeEnd = keyBytes(prefixEnd(prefix))
    const found: Stored[] = []
    let key = keyBytes(start)
    let next: string | undefined
    let at = revision
    try {
      for (let more = true; more && next === undefined; ) {
        const page = await store.range({ key, rangeEnd, limit: STORE_PAGE, ...(at ? { revision: at } : {}) })
        at ||= page.header.revision
        for (const kv of page.kvs) {
          const stored = Stored.of(kv)
          if (limit > 0 && found.length >= limit) {
            next = stored.key
            break
          }
          if (matches(stored)) found.push(stored)
        }
        const last = page.kvs[page.kvs.length - 1]
        more = page.more && last !== undefined
        if (last) key = Buffer.concat([last.key, Buffer.from([0])])
      }
    } catch (error) {
      const { code } = CallError.fromBus(error)
      if (code === 'COMPACTED')
        throw expired(
          'The provided continue parameter or resource version is too old to display a consistent list result; start anew without it',
        )
      if (code === 'FUTURE_REVISION') throw tooLargeVersion(revision, this.context.cache.revision)
      throw storeFailure(error)
    }
    return { status: 200, body: renderList(ask.form, found, at, moreOf(at, next, 0)) }
  }

  /** @throws ApiError */
  async watch(request: ApiRequest, user: User, sink: WatchSink, extras: RequestExtras = {}): Promise<OpenWatch> {
    const ask = this.ask(request, user, extras)
    const { kind, options, form } = ask
    if (!kind.verbs.includes('watch')) throw methodNotAllowed()
    const { cache, world } = this.context
    // A watch of one name, as kubectl asks for it.
    const fieldSelector = request.name === undefined ? options.fieldSelector : `metadata.name=${request.name}`
    const selects = selectorOf(kind, { ...options, ...(fieldSelector === undefined ? {} : { fieldSelector }) })
    const prefix = resourcePrefix(kind.group, kind.resource, request.namespace)
    const matches = (stored: Stored) => stored.key.startsWith(prefix) && selects(stored)
    const asked = options.resourceVersion ?? ''
    const wantsInitial = options.sendInitialEvents === true
    if (options.sendInitialEvents !== undefined && options.resourceVersionMatch !== 'NotOlderThan')
      throw badRequest('sendInitialEvents requires setting resourceVersionMatch to NotOlderThan')
    if (options.sendInitialEvents === undefined && options.resourceVersionMatch !== undefined)
      throw badRequest('resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided')
    // '' is "the state of now": consistent. With a revision: at least that.
    if (!(await this.caughtUp(options))) throw timedOut('the watch cache is behind the store; try again')
    const resource = cache.resource(resourceKey(kind.group, kind.resource))
    const isFromState = wantsInitial || ((asked === '' || asked === '0') && options.sendInitialEvents !== false)
    const start = isFromState || asked === '' || asked === '0' ? cache.revision : revisionOf(asked)
    const past = resource.since(start)
    if (!past) throw expired(`too old resource version: ${start} (${resource.windowStart})`)
    let first = true
    const base = {
      matches,
      render(stored: Stored) {
        const bytes = renderObject({ ...form, nowMs: world.clock.nowMs(), headers: first }, stored)
        first = false
        return bytes
      },
      bookmark: (revision: number, annotations?: Record<string, string>) => bookmarkOf(form, revision, annotations),
      bookmarks: options.allowWatchBookmarks === true,
      past,
      startRevision: start,
      ...(options.timeoutSeconds === undefined ? {} : { timeoutSeconds: options.timeoutSeconds }),
    }
    if (!isFromState) return followResource(world, resource, () => cache.revision, base, sink)
    const initial = {
      objects: [...resource.under(prefix)],
      initialEnd: wantsInitial && options.allowWatchBookmarks === true,
    }
    return followResource(world, resource, () => cache.revision, { ...base, initial }, sink)
  }

  // ----------------------------------------------------------------------------------------------------------- writes

  private async create(ask: Ask): Promise<ApiReply> {
    const { kind, request } = ask
    const body = this.objectOf(ask, request.body)
    const meta = body.metadata
    if (meta.resourceVersion) throw badRequest('resourceVersion should not be set on objects to be created')
    if (request.namespace === undefined && kind.namespaced)
      throw badRequest(`a namespace is required to create ${kind.resource}`)
    const own = hooksOf(kind).create
    if (own) return own(this, ask, body)
    const isGenerated = !meta.name && Boolean(meta.generateName)
    for (let attempt = 1; ; attempt++) {
      const name = isGenerated ? this.generateName(meta.generateName as string) : meta.name
      if (!name)
        throw invalid(kind.kind, kind.group, '', [
          {
            reason: 'FieldValueRequired',
            message: 'Required value: name or generateName is required',
            field: 'metadata.name',
          },
        ])
      try {
        const { stored } = await this.createNamed(ask, body, name)
        return this.object(201, stored, ask)
      } catch (error) {
        const isTaken = error instanceof ApiError && error.code === 'AlreadyExists' && isGenerated
        if (!isTaken || attempt >= NAME_ATTEMPTS) throw error
      }
    }
  }

  async createNamed(ask: Ask, body: KubeObject, name: string, managed?: ManagedEntry[]): Promise<Committed> {
    const { kind, request, options } = ask
    const { cache, world } = this.context
    const hooks = hooksOf(kind)
    const uid = this.uid()
    const createdAt = timestamp(world.clock.nowMs())
    const namespaceKey = kind.namespaced
      ? objectKey('', 'namespaces', undefined, request.namespace as string)
      : undefined
    const asked = { ...ask, request: { ...request, name } }
    const guard = () => {
      const stored = namespaceKey === undefined ? undefined : cache.find(namespaceKey)
      return stored && { key: stored.key, revision: stored.revision }
    }
    const target = this.target(asked, guard)
    return this.committer.write(target, async (old) => {
      if (old) throw alreadyExists(target.subject)
      const object = structuredClone(body)
      object.metadata = this.newMeta(object.metadata, { name, namespace: request.namespace, uid, createdAt, kind })
      if (managed) object.metadata.managedFields = managed
      kind.prepareForCreate(object)
      kind.setDefaults(object)
      await this.admit('CREATE', asked, object, undefined)
      this.check(kind, object, kind.validate(object))
      const extra = await hooks.reserve?.(this, object, undefined)
      const ttl = hooks.ttlSeconds?.(this.context.options)
      const lease = ttl === undefined || options.dryRun ? undefined : await this.lease(ttl)
      if (extra) this.check(kind, object, kind.validate(object))
      return { next: object, ...extra, ...(lease === undefined ? {} : { lease }) }
    })
  }

  private async lease(ttlSeconds: number): Promise<number> {
    try {
      return await this.context.store.sharedLease(ttlSeconds)
    } catch (error) {
      throw storeFailure(error)
    }
  }

  private async update(ask: Ask, sub: string): Promise<ApiReply> {
    const { request } = ask
    const body = this.objectOf(ask, request.body)
    if (body.metadata.name !== request.name)
      throw badRequest(
        `the name of the object (${body.metadata.name ?? ''}) does not match the name on the URL (${request.name})`,
      )
    const { stored } = await this.change(ask, sub, () => structuredClone(body))
    return this.object(200, stored, ask)
  }

  private async patch(ask: Ask, sub: string): Promise<ApiReply> {
    const { kind, request } = ask
    const type = request.patchType ?? 'merge'
    if (type === 'apply') return this.apply(ask, sub)
    const { stored } = await this.change(ask, sub, (old) => {
      // A fresh one each time: a repetition starts from other state.
      const patched = applyPatch(type, kind, old.copy(), request.body)
      return this.objectOf(ask, patched, true)
    })
    return this.object(200, stored, ask)
  }

  /** Server-side apply: creates what is not there. */
  private async apply(ask: Ask, sub: string): Promise<ApiReply> {
    const { kind, request, options, extras } = ask
    const manager = options.fieldManager
    if (!manager)
      throw badRequest(
        'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
      )
    const config = this.objectOf(ask, structuredClone(request.body), true)
    if (config.metadata.managedFields !== undefined) throw badRequest('metadata.managedFields must be nil')
    if (config.metadata.name !== undefined && config.metadata.name !== request.name)
      throw badRequest(
        `the name of the object (${config.metadata.name}) does not match the name on the URL (${request.name})`,
      )
    config.metadata.name = request.name as string
    const time = timestamp(this.context.world.clock.nowMs())
    try {
      const { stored } = await this.change(
        ask,
        sub,
        (old) =>
          applyConfig({
            kind,
            live: old.copy(),
            config,
            manager,
            force: options.force === true,
            subresource: sub,
            time,
          }),
        true,
      )
      return this.object(200, stored, ask)
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== 'NotFound' || sub !== '') throw error
      if (config.metadata.resourceVersion || config.metadata.uid) throw error
    }
    // Reads were authorized as patch; what is not there is created only by who may create.
    await extras.mayCreate?.()
    const entries = entriesOfNew(kind, config, manager, time)
    const { stored } = await this.createNamed(ask, config, request.name as string, entries)
    return this.object(201, stored, ask)
  }

  /** Reads, changes by `make`, admits, validates and writes one object. `sub`: '', `status` or another that a kind has. */
  async change(ask: Ask, sub: string, make: (old: Stored) => KubeObject, isApply = false): Promise<Committed> {
    const { kind, request } = ask
    const hooks = hooksOf(kind)
    const target = this.target(ask)
    return this.committer.write(target, async (stored) => {
      if (!stored) throw notFound(target.subject)
      const old = stored.object
      const object = make(stored)
      const { resourceVersion, uid } = object.metadata
      if (resourceVersion && resourceVersion !== '0' && resourceVersion !== old.metadata.resourceVersion)
        throw modified(target.subject)
      if (uid && uid !== old.metadata.uid)
        throw conflict(
          target.subject,
          `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${old.metadata.uid ?? ''}`,
        )
      if (object.metadata.name !== request.name)
        throw badRequest(
          `the name of the object (${object.metadata.name}) does not match the name on the URL (${request.name})`,
        )
      // An apply has worked them out; nobody else may set them.
      const managed = isApply ? object.metadata.managedFields : undefined
      object.metadata = keptMeta(object.metadata, old.metadata)
      kind.prepareForUpdate(object, old, sub)
      kind.setDefaults(object)
      await this.admit('UPDATE', ask, object, old)
      if (managed) object.metadata.managedFields = managed
      else trackUpdate(kind, object, old, managerOf(ask), sub, timestamp(this.context.world.clock.nowMs()))
      if (kind.hasGeneration && kind.specChanged(object, old))
        object.metadata.generation = (old.metadata.generation ?? 0) + 1
      this.check(kind, object, kind.validateUpdate(object, old, sub))
      const isDeleting = old.metadata.deletionTimestamp !== undefined
      const isDone = hooks.isFinalized ? hooks.isFinalized(object) : (object.metadata.finalizers ?? []).length === 0
      // The last finalizer went: the object goes with it.
      if (isDeleting && isDone && (object.metadata.deletionGracePeriodSeconds ?? 0) === 0)
        return this.removal(kind, stored)
      const extra = await hooks.reserve?.(this, object, old)
      if (extra) this.check(kind, object, kind.validateUpdate(object, old, sub))
      if (!extra?.ops?.length && sameObject(object, old)) return { next: 'keep' }
      const ttl = hooks.ttlSeconds?.(this.context.options)
      const lease = ttl === undefined || ask.options.dryRun ? undefined : await this.lease(ttl)
      return { next: object, ...extra, ...(lease === undefined ? {} : { lease }) }
    })
  }

  /** Writes what `plan` makes of one object, with no rules of its kind but those in `plan`. */
  edit(ask: Ask, plan: (old: Stored | undefined) => Plan): Promise<Committed> {
    return this.committer.write(this.target(ask), plan)
  }

  removal(kind: Kind, stored: Stored): Plan {
    return { next: 'remove', ...hooksOf(kind).release?.(stored.object) }
  }

  private async delete(ask: Ask): Promise<ApiReply> {
    const { kind } = ask
    const { stored, removed } = await this.deleteOne(ask, ask.request.body)
    if (!removed || hooksOf(kind).returnsDeleted) return this.object(200, stored, ask)
    const { name, uid } = stored.object.metadata
    const details = {
      name,
      ...(kind.group === '' ? {} : { group: kind.group }),
      kind: kind.resource,
      ...(uid ? { uid } : {}),
    }
    const body = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', details }
    return { status: 200, body: Buffer.from(JSON.stringify(body)) }
  }

  /** Marks or removes. `body`: DeleteOptions. */
  async deleteOne(ask: Ask, body: unknown): Promise<Committed> {
    const { kind } = ask
    const wanted = deleteOptionsOf(body)
    const hooks = hooksOf(kind)
    if (wanted.dryRun) ask = { ...ask, options: { ...ask.options, dryRun: true } }
    const target = this.target(ask)
    return this.committer.write(target, async (stored) => {
      if (!stored) throw notFound(target.subject)
      const old = stored.object
      const { uid, resourceVersion } = wanted.preconditions
      if (uid !== undefined && uid !== old.metadata.uid)
        throw conflict(
          target.subject,
          `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${old.metadata.uid ?? ''}`,
        )
      if (resourceVersion !== undefined && resourceVersion !== old.metadata.resourceVersion)
        throw conflict(
          target.subject,
          `Precondition failed: ResourceVersion in precondition: ${resourceVersion}, ResourceVersion in object meta: ${old.metadata.resourceVersion ?? ''}`,
        )
      await this.admit('DELETE', ask, undefined, old)
      const object = stored.copy()
      const meta = object.metadata
      const finalizers = finalizersFor(meta, wanted.policy ?? hooks.defaultPropagation)
      if (finalizers.length > 0) meta.finalizers = finalizers
      else delete meta.finalizers
      hooks.deleting?.(object)
      const isHeld = finalizers.length > 0 || (hooks.isFinalized !== undefined && !hooks.isFinalized(object))
      const graceSeconds = hooks.graceSeconds?.(object, wanted.graceSeconds) ?? 0
      const hadMark = meta.deletionTimestamp !== undefined
      if (graceSeconds === 0 && !isHeld) return this.removal(kind, stored)
      const nowMs = this.context.world.clock.nowMs()
      if (!hadMark) {
        meta.deletionTimestamp = timestamp(nowMs + graceSeconds * 1000)
        meta.deletionGracePeriodSeconds = graceSeconds
        if (meta.generation) meta.generation++
      } else if (graceSeconds < (meta.deletionGracePeriodSeconds ?? 0)) {
        // Only ever sooner.
        const startMs = Date.parse(meta.deletionTimestamp as string) - (meta.deletionGracePeriodSeconds ?? 0) * 1000
        meta.deletionTimestamp = timestamp(Math.min(startMs + graceSeconds * 1000, nowMs + graceSeconds * 1000))
        meta.deletionGracePeriodSeconds = graceSeconds
      }
      return sameObject(object, old) ? { next: 'keep' } : { next: object }
    })
  }

  private async deleteCollection(ask: Ask): Promise<ApiReply> {
    const { kind, request, options } = ask
    if (kind.namespaced && request.namespace === undefined) throw methodNotAllowed()
    const matches = selectorOf(kind, options)
    const prefix = resourcePrefix(kind.group, kind.resource, request.namespace)
    if (!(await this.caughtUp({}))) throw timedOut('the watch cache is behind the store; try again')
    const { cache } = this.context
    const all = [...cache.resource(resourceKey(kind.group, kind.resource)).under(prefix)].filter(matches)
    const chosen = options.limit ? all.slice(0, options.limit) : all
    const done: Stored[] = []
    for (let at = 0; at < chosen.length; at += COLLECTION_PARALLEL) {
      const some = chosen.slice(at, at + COLLECTION_PARALLEL).map(async (stored) => {
        const { name, namespace } = stored.object.metadata
        const named = { ...ask, request: { ...request, name, ...(namespace === undefined ? {} : { namespace }) } }
        try {
          return (await this.deleteOne(named, request.body)).stored
        } catch (error) {
          if (error instanceof ApiError && error.code === 'NotFound') return undefined
          throw error
        }
      })
      for (const stored of await Promise.all(some)) if (stored) done.push(stored)
    }
    return { status: 200, body: renderList(ask.form, done, cache.revision, {}) }
  }

  // ------------------------------------------------------------------------------------------------------------ scale

  private async scale(verb: string, ask: Ask): Promise<ApiReply> {
    const { kind, request } = ask
    if (!kind.toScale) throw noSuchResource()
    const reply = (stored: Stored) => ({
      status: 200,
      body: Buffer.from(JSON.stringify(kind.toScale?.(stored.object))),
    })
    if (verb === 'get') return reply(await this.read(ask))
    if (verb !== 'update' && verb !== 'patch') throw methodNotAllowed()
    const { stored } = await this.change(ask, '', (old) => {
      const before = kind.toScale?.(old.object) as KubeObject
      let wanted: KubeObject
      if (verb === 'update') wanted = request.body as KubeObject
      else {
        const type = request.patchType ?? 'merge'
        if (type === 'apply') throw unsupportedMediaType('server-side apply of a scale is not supported')
        wanted = applyPatch(type === 'strategic' ? 'merge' : type, kind, structuredClone(before), request.body)
      }
      if (typeof wanted !== 'object' || wanted === null) throw badRequest('the body is no Scale')
      const { replicas } = (wanted['spec'] ?? {}) as { replicas?: unknown }
      const count = replicas ?? 0
      if (typeof count !== 'number' || !Number.isInteger(count) || count < 0)
        throw invalid('Scale', 'autoscaling', request.name ?? '', [
          {
            reason: 'FieldValueInvalid',
            message: `Invalid value: ${JSON.stringify(count)}: must be greater than or equal to 0`,
            field: 'spec.replicas',
          },
        ])
      const object = old.copy()
      const resourceVersion = (wanted.metadata as ObjectMeta | undefined)?.resourceVersion
      if (resourceVersion) object.metadata.resourceVersion = resourceVersion
      object['spec'] = { ...(object['spec'] as object), replicas: count }
      return object
    })
    return reply(stored)
  }

  // ---------------------------------------------------------------------------------------------------------- helpers

  object(status: number, stored: Stored, ask: Ask): ApiReply {
    return { status, body: renderObject(ask.form, stored) }
  }

  subject(ask: Ask): Subject {
    const { kind, request } = ask
    return { group: kind.group, resource: kind.resource, ...(request.name === undefined ? {} : { name: request.name }) }
  }

  private target(ask: Ask, guard?: Target['guard']): Target {
    const { request, options, extras } = ask
    return {
      subject: this.subject(ask),
      key: this.keyOf(ask, request.name as string),
      ...(guard ? { guard } : {}),
      ...(request.fence && !this.hasBug('fence-left-out') ? { fence: request.fence } : {}),
      dryRun: options.dryRun === true,
      ...(extras.deadlineMs === undefined ? {} : { deadlineMs: extras.deadlineMs }),
      ...(extras.isAbandoned ? { isAbandoned: extras.isAbandoned } : {}),
    }
  }

  keyOf(ask: Ask, name: string): string {
    const { kind, request } = ask
    return objectKey(kind.group, kind.resource, kind.namespaced ? request.namespace : undefined, name)
  }

  /** The body as an object of this kind: decoded, its fields checked as asked. @throws ApiError 400 */
  private objectOf(ask: Ask, body: unknown, isPatched = false): KubeObject {
    const { kind, options, extras, request } = ask
    if (typeof body !== 'object' || body === null || Array.isArray(body))
      throw badRequest('the body of the request must be a JSON object')
    const object = body as KubeObject
    const expected = kind.group === '' ? kind.version : `${kind.group}/${kind.version}`
    if (object.kind !== undefined && object.kind !== kind.kind)
      throw badRequest(
        `${object.kind} in version ${JSON.stringify(object.apiVersion ?? '')} cannot be handled as a ${kind.kind}`,
      )
    if (object.apiVersion !== undefined && object.apiVersion !== expected)
      throw badRequest(
        `the API version in the data (${object.apiVersion}) does not match the expected API version (${expected})`,
      )
    object.apiVersion = expected
    object.kind = kind.kind
    object.metadata ??= {} as ObjectMeta
    const { errors, warnings } = kind.decode(object, options.fieldValidation ?? 'Warn')
    if (errors.length > 0 && isPatched) throw badRequest(errors.join(', '))
    if (errors.length > 0)
      throw badRequest(
        `${kind.kind} in version ${JSON.stringify(kind.version)} cannot be handled as a ${kind.kind}: ${errors.join(', ')}`,
      )
    for (const warning of warnings) extras.warn?.(warning)
    const { namespace } = object.metadata
    if (kind.namespaced && request.namespace !== undefined) {
      if (namespace && namespace !== request.namespace)
        throw badRequest(`the namespace of the provided object does not match the namespace sent on the request`)
      object.metadata.namespace = request.namespace
    } else if (!kind.namespaced) delete object.metadata.namespace
    return object
  }

  private newMeta(
    meta: ObjectMeta,
    given: { name: string; namespace: string | undefined; uid: string; createdAt: string; kind: Kind },
  ): ObjectMeta {
    const {
      name: _n,
      namespace: _s,
      uid: _u,
      resourceVersion: _r,
      generation: _g,
      creationTimestamp: _c,
      ...rest
    } = meta
    const { deletionTimestamp: _d, deletionGracePeriodSeconds: _p, managedFields: _m, selfLink: _l, ...own } = rest
    const { name, namespace, uid, createdAt, kind } = given
    return {
      name,
      ...(kind.namespaced && namespace !== undefined ? { namespace } : {}),
      uid,
      ...(kind.hasGeneration ? { generation: 1 } : {}),
      creationTimestamp: createdAt,
      ...own,
    }
  }

  private async admit(
    operation: AdmissionRequest['operation'],
    ask: Ask,
    object: KubeObject | undefined,
    old: KubeObject | undefined,
  ) {
    const { kind, request, user, options, extras } = ask
    const admission: Admission = { cache: this.context.cache, options: this.context.options, committer: this.committer }
    await admit(admission, {
      operation,
      kind,
      subject: this.subject(ask),
      namespace: request.namespace,
      subresource: request.subresource ?? '',
      object,
      old,
      user,
      dryRun: options.dryRun === true,
      warn: (text) => extras.warn?.(text),
    })
  }

  private check(kind: Kind, object: KubeObject, causes: StatusCause[]): void {
    if (causes.length > 0) throw invalid(kind.kind, kind.group, object.metadata.name, causes)
  }

  private generateName(base: string): string {
    let name = base.slice(0, GENERATE_BASE_MAX)
    for (let at = 0; at < NAME_SUFFIX; at++) name += NAME_LETTERS[this.random.int(NAME_LETTERS.length)]
    return name
  }

  private uid(): string {
    const bytes = Buffer.from(this.random.bytes(16))
    bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40
    bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80
    const hex = bytes.toString('hex')
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
  }
}

export type { Ask, Hooks }

/** Who a change is ascribed to, if it does not say. */
function managerOf({ options, extras }: Ask): string {
  return options.fieldManager || extras.userAgent?.split('/')[0] || 'unknown'
}

/** RFC 3339 in whole seconds, as Kubernetes writes times. */
export function timestamp(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`
}

/** Of an update: what the server alone says about an object stays as it is. */
function keptMeta(meta: ObjectMeta, old: ObjectMeta): ObjectMeta {
  const { managedFields: _m, selfLink: _l, deletionTimestamp: _d, deletionGracePeriodSeconds: _g, ...rest } = meta
  const kept: ObjectMeta = { ...rest, name: old.name }
  for (const field of [
    'namespace',
    'uid',
    'generation',
    'creationTimestamp',
    'generateName',
    'deletionTimestamp',
  ] as const)
    if (old[field] === undefined) delete kept[field]
    else (kept as unknown as Record<string, unknown>)[field] = old[field]
  if (old.deletionGracePeriodSeconds !== undefined) kept.deletionGracePeriodSeconds = old.deletionGracePeriodSeconds
  if (old.resourceVersion !== undefined) kept.resourceVersion = old.resourceVersion
  return kept
}

/** Equal in all but the order of fields. */
function sameObject(a: unknown, b: unknown): boolean {
  if (a === b) return true
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false
  if (Array.isArray(a) !== Array.isArray(b)) return false
  const left = a as Record<string, unknown>
  const right = b as Record<string, unknown>
  const names = Object.keys(left).filter((name) => left[name] !== undefined)
  if (names.length !== Object.keys(right).filter((name) => right[name] !== undefined).length) return false
  return names.every((name) => sameObject(left[name], right[name]))
}

interface DeleteWanted {
  graceSeconds: number | undefined
  policy: 'Orphan' | 'Background' | 'Foreground' | undefined
  preconditions: { uid?: string; resourceVersion?: string }
  dryRun: boolean
}

/** @throws ApiError 400, 422 */
function deleteOptionsOf(body: unknown): DeleteWanted {
  const given = (body ?? {}) as Record<string, unknown>
  if (typeof given !== 'object' || Array.isArray(given)) throw badRequest('DeleteOptions must be a JSON object')
  if (given['kind'] !== undefined && given['kind'] !== 'DeleteOptions')
    throw badRequest(`${String(given['kind'])} is no DeleteOptions`)
  const { gracePeriodSeconds, propagationPolicy, orphanDependents, preconditions } = given
  if (gracePeriodSeconds !== undefined && gracePeriodSeconds !== null && !Number.isSafeInteger(gracePeriodSeconds))
    throw badRequest(`gracePeriodSeconds: ${JSON.stringify(gracePeriodSeconds)} is not a whole number`)
  if (propagationPolicy !== undefined && propagationPolicy !== null) {
    if (orphanDependents !== undefined) throw badRequest('orphanDependents and deletionPropagation cannot be both set')
    if (propagationPolicy !== 'Orphan' && propagationPolicy !== 'Background' && propagationPolicy !== 'Foreground')
      throw invalid('DeleteOptions', 'meta.k8s.io', '', [
        {
          reason: 'FieldValueNotSupported',
          message: `Unsupported value: ${JSON.stringify(propagationPolicy)}: supported values: "Foreground", "Background", "Orphan"`,
          field: 'propagationPolicy',
        },
      ])
  }
  const fromOrphan = orphanDependents === true ? 'Orphan' : orphanDependents === false ? 'Background' : undefined
  const dryRun = given['dryRun']
  return {
    graceSeconds: typeof gracePeriodSeconds === 'number' ? gracePeriodSeconds : undefined,
    policy: (propagationPolicy as DeleteWanted['policy'] | null | undefined) ?? fromOrphan,
    preconditions: (preconditions ?? {}) as DeleteWanted['preconditions'],
    dryRun: Array.isArray(dryRun) && dryRun.includes('All'),
  }
}

const ORPHAN = 'orphan'
const FOREGROUND = 'foregroundDeletion'

function finalizersFor(meta: ObjectMeta, policy: DeleteWanted['policy']): string[] {
  const now = meta.finalizers ?? []
  if (policy === undefined) return now
  const others = now.filter((name) => name !== ORPHAN && name !== FOREGROUND)
  if (policy === 'Background') return others
  return [...others, policy === 'Orphan' ? ORPHAN : FOREGROUND]
}

/** @throws ApiError 400 */
function revisionOf(resourceVersion: string): number {
  const revision = Number(resourceVersion)
  if (!/^\d+$/.test(resourceVersion) || !Number.isSafeInteger(revision))
    throw badRequest(
      `resourceVersion: Invalid value: ${JSON.stringify(resourceVersion)}: not a resource version of this server`,
    )
  return revision
}

function tooLargeVersion(asked: number, now: number): ApiError {
  const message = `Too large resource version: ${asked}, current: ${now}`
  return new ApiError(
    failure(504, 'Timeout', message, {
      causes: [{ reason: 'ResourceVersionTooLarge', message: 'Too large resource version' }],
      retryAfterSeconds: 1,
    }),
  )
}

/** What a list's metadata says about the rest. */
function moreOf(
  revision: number,
  next: string | undefined,
  remaining: number,
): { continue?: string; remainingItemCount?: number } {
  if (next === undefined) return {}
  const token = Buffer.from(JSON.stringify({ v: 1, rv: revision, start: next })).toString('base64url')
  return { continue: token, ...(remaining > 0 ? { remainingItemCount: remaining } : {}) }
}

/** @throws ApiError 400 for what `moreOf` never makes, or what was made for another list. */
function tokenOf(text: string, prefix: string): { revision: number; start: string } {
  try {
    const token = JSON.parse(Buffer.from(text, 'base64url').toString()) as { v: number; rv: number; start: string }
    if (token.v === 1 && Number.isSafeInteger(token.rv) && token.rv > 0 && token.start.startsWith(prefix))
      return { revision: token.rv, start: token.start }
  } catch {
    // Told below.
  }
  throw badRequest('continue key is not valid: it was not made by this cluster, or for another list')
}
