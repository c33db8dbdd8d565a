import { CallError, type Clock } from '@capstan/actor'
import {
  findKind,
  jsonPatch,
  type KubeObject as ApiObject,
  type Kind,
  mergePatch,
  parseFieldSelector,
  parseLabelSelector,
  PatchError,
  strategicMergePatch,
} from '@capstan/api'
import type { ApiEventType, ApiOptions, Fence, PatchType } from '@capstan/protocol'
import {
  type ApiClient,
  type DeleteCallOptions,
  type ObjectList,
  type ObjectRef,
  type Resource,
  RESOURCES,
  type WatchHandlers,
  type WriteOptions,
} from '../api-client.js'
import { byText, type KubeObject, objectKey } from '../kube-object.js'

/** Any object as JSON: the fake API knows no kind's shape. */
interface Json extends KubeObject {
  spec?: Record<string, unknown>
  status?: Record<string, unknown>
  [field: string]: unknown
}

interface Stored {
  object: Json
  createRevision: number
}

interface Change {
  revision: number
  resource: string
  type: 'ADDED' | 'MODIFIED' | 'DELETED'
  object: Json
  before: Json | undefined
}

/** One call as a test's `intercept` sees it. */
export interface FakeCall {
  verb: 'get' | 'list' | 'create' | 'update' | 'patch' | 'delete' | 'deletecollection'
  resource: string
  namespace?: string | undefined
  name?: string | undefined
  subresource?: string | undefined
  body?: unknown
  fence?: Fence | undefined
}

/**
 * A small, correct API in memory, for unit tests: revisions, conflicts, watches with history, generateName, generation,
 * selectors, fences, finalizers, propagation by finalizers, graceful deletion of pods, binding, namespaces/finalize.
 * With `checked` also what libs/api says of each kind: unknown fields refused, defaults, validation, what an update may
 * change. Not here: admission, authorization, server-side apply, `scale`.
 */
export class FakeApiClient implements ApiClient {
  revision = 1
  /** Every call, oldest first. */
  readonly calls: FakeCall[] = []
  /** Return or throw an error to make a call fail before it has an effect; `after`: it happens, and then fails. */
  intercept: (call: FakeCall) => CallError | { after: CallError } | undefined = () => undefined
  /** A planted bug: fences are not looked at. */
  ignoreFences = false
  private readonly stored = new Map<string, Map<string, Stored>>()
  private readonly history: Change[] = []
  private compacted = 0
  private readonly watchers = new Set<Watcher>()
  private readonly held = new Set<string>()
  private uids = 0
  private names = 0

  constructor(
    private readonly clock: Pick<Clock, 'nowMs'>,
    private readonly options: { checked?: boolean } = {},
  ) {}

  // ------------------------------------------------------------------------------------------------------ for the test

  /** Puts objects in as they are (status included), with what the API would add. */
  seed<T extends KubeObject>(resource: Resource, ...objects: T[]): T[] {
    return objects.map(
      (object) => this.insert(resource, structuredClone(object) as unknown as Json, true) as unknown as T,
    )
  }

  /** All objects of a resource, sorted by key. */
  objects<T extends KubeObject>(resource: Resource): T[] {
    return [...this.table(resource)]
      .sort((a, b) => byText(a[0], b[0]))
      .map(([, { object }]) => structuredClone(object) as unknown as T)
  }

  object<T extends KubeObject>(resource: Resource, key: string): T | undefined {
    const found = this.table(resource).get(key)
    return found && (structuredClone(found.object) as unknown as T)
  }

  /** Changes an object as somebody else would (a kubelet, a user), status included. */
  change<T extends KubeObject>(resource: Resource, key: string, edit: (object: T) => void): void {
    const found = this.table(resource).get(key)
    if (!found) throw new Error(`no ${resource.resource} ${key}`)
    const object = structuredClone(found.object)
    edit(object as unknown as T)
    if (this.options.checked) kindOf(resource)?.setDefaults(object as unknown as ApiObject)
    this.replace(resource, found, object)
  }

  /** Takes an object away at once, finalizers or not. */
  drop(resource: Resource, key: string): void {
    const found = this.table(resource).get(key)
    if (found) this.erase(resource, found)
  }

  /** Forgets the history: watches from before now end with `expired`. */
  compact(): void {
    this.compacted = this.revision
    this.history.length = 0
  }

  /** Ends all open watches. */
  breakWatches(reason = 'lost'): void {
    for (const watcher of Array.from(this.watchers)) watcher.end(reason)
  }

  /** Events of this resource are held back until `release`: informers become stale. */
  hold(resource: Resource): void {
    this.held.add(resource.resource)
  }

  release(resource: Resource): void {
    this.held.delete(resource.resource)
    for (const watcher of this.watchers) watcher.pump()
  }

  isHeld(resource: string): boolean {
    return this.held.has(resource)
  }

  forget(watcher: Watcher): void {
    this.watchers.delete(watcher)
  }

  // ---------------------------------------------------------------------------------------------------------- ApiClient

  async get<T extends KubeObject>(resource: Resource, ref: ObjectRef): Promise<T> {
    return this.called(
      { verb: 'get', resource: resource.resource, ...ref },
      () => structuredClone(this.find(resource, ref).object) as unknown as T,
    )
  }

  async list<T extends KubeObject>(
    resource: Resource,
    options: ApiOptions & { namespace?: string } = {},
  ): Promise<ObjectList<T>> {
    return this.called({ verb: 'list', resource: resource.resource, namespace: options.namespace }, () => ({
      items: this.objects<T>(resource).filter((object) => selected(object as unknown as Json, options)),
      resourceVersion: String(this.revision),
    }))
  }

  watch<T extends KubeObject>(
    resource: Resource,
    options: ApiOptions & { namespace?: string },
    handlers: WatchHandlers<T>,
  ): { stop(): void } {
    const from = Number(options.resourceVersion ?? 0)
    const watcher = new Watcher(this, resource, options, handlers as unknown as WatchHandlers<KubeObject>)
    if (from > 0 && from < this.compacted) {
      watcher.end('expired', new CallError('Expired', 'not-applied', `revision ${from} is gone`))
      return watcher
    }
    if (from > 0) {
      for (const change of this.history) if (change.revision > from) watcher.push(change)
    } else {
      for (const object of this.objects<Json>(resource))
        watcher.push({ revision: this.revision, resource: resource.resource, type: 'ADDED', object, before: undefined })
    }
    this.watchers.add(watcher)
    return watcher
  }

  async create<T extends KubeObject>(resource: Resource, object: KubeObject, options: WriteOptions = {}): Promise<T> {
    const { name, namespace } = object.metadata
    const call = {
      verb: 'create' as const,
      resource: resource.resource,
      namespace,
      name,
      ...sub(options),
      body: object,
    }
    return this.called(call, () => {
      const body = structuredClone(object) as Json
      if (options.subresource === 'binding') return this.bind(body) as unknown as T
      if (options.subresource !== undefined)
        throw refusal('MethodNotAllowed', `the fake API has no create of ${options.subresource}`)
      return this.insert(resource, body, false, options.dryRun) as unknown as T
    })
  }

  async update<T extends KubeObject>(resource: Resource, object: T, options: WriteOptions = {}): Promise<T> {
    const { name = '', namespace } = object.metadata
    const call = {
      verb: 'update' as const,
      resource: resource.resource,
      namespace,
      name,
      ...sub(options),
      body: object,
    }
    return this.called(call, () => {
      const found = this.find(resource, namespace === undefined ? { name } : { namespace, name })
      return this.write(resource, found, structuredClone(object) as unknown as Json, options) as unknown as T
    })
  }

  async patch<T extends KubeObject>(
    resource: Resource,
    ref: ObjectRef,
    type: PatchType,
    patch: unknown,
    options: WriteOptions = {},
  ): Promise<T> {
    const call = { verb: 'patch' as const, resource: resource.resource, ...ref, ...sub(options), body: patch }
    return this.called(call, () => {
      const found = this.find(resource, ref)
      const base = structuredClone(found.object)
      const version = (patch as { metadata?: { resourceVersion?: string } }).metadata?.resourceVersion
      if (version === undefined) delete base.metadata.resourceVersion
      return this.write(resource, found, patched(resource, base, type, patch), options) as unknown as T
    })
  }

  async delete(resource: Resource, ref: ObjectRef, options: DeleteCallOptions = {}): Promise<void> {
    return this.called({ verb: 'delete', resource: resource.resource, ...ref, ...sub(options), body: options }, () => {
      const found = this.find(resource, ref)
      const { uid, resourceVersion } = options.preconditions ?? {}
      const { metadata } = found.object
      if (uid !== undefined && uid !== metadata.uid) throw refusal('Conflict', `uid is ${metadata.uid}, not ${uid}`)
      if (resourceVersion !== undefined && resourceVersion !== metadata.resourceVersion)
        throw refusal('Conflict', `resourceVersion is ${metadata.resourceVersion}, not ${resourceVersion}`)
      this.startDeletion(resource, found, options)
    })
  }

  async deleteCollection(
    resource: Resource,
    options: ApiOptions & DeleteCallOptions & { namespace?: string },
  ): Promise<void> {
    return this.called(
      { verb: 'deletecollection', resource: resource.resource, namespace: options.namespace, ...sub(options) },
      () => {
        for (const [, found] of [...this.table(resource)].sort((a, b) => byText(a[0], b[0])))
          if (selected(found.object, options)) this.startDeletion(resource, found, options)
      },
    )
  }

  // ------------------------------------------------------------------------------------------------------------- inside

  private async called<R>(call: FakeCall, run: () => R): Promise<R> {
    await Promise.resolve()
    this.calls.push(call)
    const failure = this.intercept(call)
    if (failure instanceof CallError) throw failure
    if (call.fence && !this.ignoreFences) {
      const { lock, token } = call.fence
      const lease = this.table(RESOURCES.leases).get(`${lock.namespace}/${lock.name}`)
      if (String(lease?.createRevision ?? 0) !== token)
        throw new CallError('FENCED', 'not-applied', `lock ${lock.name} is not ${token}`)
    }
    const result = run()
    if (failure) throw failure.after
    return result
  }

  private insert(resource: Resource, object: Json, asIs: boolean, dryRun = false): Json {
    object.apiVersion ??= resource.group === '' ? resource.version : `${resource.group}/${resource.version}`
    const kind = kindOf(resource)
    object.kind ??= kind?.kind ?? resource.resource
    const { metadata } = object
    if (!metadata.name && metadata.generateName) metadata.name = `${metadata.generateName}${suffix(this.names++)}`
    if (!metadata.name) throw refusal('Invalid', 'metadata.name: Required value')
    if (kind?.namespaced !== false) metadata.namespace ??= 'default'
    const key = objectKey(object)
    if (this.table(resource).has(key)) throw refusal('AlreadyExists', `${resource.resource} "${key}" already exists`)
    const namespace = metadata.namespace && this.table(RESOURCES.namespaces).get(metadata.namespace)
    if (!asIs && namespace && namespace.object.metadata.deletionTimestamp)
      throw refusal('Forbidden', `namespace ${metadata.namespace} is being terminated`)
    metadata.uid ??= `uid-${++this.uids}`
    metadata.creationTimestamp ??= time(this.clock.nowMs())
    metadata.generation ??= 1
    if (resource.resource === 'namespaces') {
      object.spec = { finalizers: ['kubernetes'], ...object.spec }
      object.status = { phase: 'Active', ...object.status }
    }
    if (!asIs && resource.resource === 'pods') object.status = { phase: 'Pending', ...object.status }
    if (!asIs) this.check(kind, object, undefined, '')
    else if (this.options.checked) kind?.setDefaults(object as unknown as ApiObject)
    if (dryRun) return object
    const revision = ++this.revision
    metadata.resourceVersion = String(revision)
    this.table(resource).set(key, { object, createRevision: revision })
    this.tell({ revision, resource: resource.resource, type: 'ADDED', object, before: undefined })
    return structuredClone(object)
  }

  /** Defaults, and refuses what libs/api refuses. */
  private check(kind: Kind | undefined, json: Json, before: Json | undefined, subresource: string): void {
    if (!kind || !this.options.checked) return
    const object = json as unknown as ApiObject
    const { errors } = kind.decode(object, 'Strict')
    if (errors.length > 0) throw refusal('BadRequest', `${kind.kind}: ${errors.join(', ')}`)
    if (before) kind.prepareForUpdate(object, before as unknown as ApiObject, subresource)
    else kind.prepareForCreate(object)
    kind.setDefaults(object)
    const causes = before
      ? kind.validateUpdate(object, before as unknown as ApiObject, subresource)
      : kind.validate(object)
    if (causes.length > 0)
      throw refusal('Invalid', `${kind.kind}: ${causes.map((c) => `${c.field}: ${c.message}`).join(', ')}`)
  }

  private bind(binding: Json): Json {
    const { name = '', namespace = 'default' } = binding.metadata
    const found = this.find(RESOURCES.pods, { namespace, name })
    const { uid } = binding.metadata
    if (uid !== undefined && uid !== found.object.metadata.uid) throw refusal('Conflict', `pod ${name} has another uid`)
    if (found.object.spec?.nodeName)
      throw refusal('Conflict', `pod ${name} is bound to ${String(found.object.spec.nodeName)} already`)
    const object = structuredClone(found.object)
    object.spec = { ...object.spec, nodeName: (binding.target as { name: string }).name }
    this.replace(RESOURCES.pods, found, object)
    return binding
  }

  private write(resource: Resource, found: Stored, object: Json, options: WriteOptions): Json {
    const before = found.object
    const { resourceVersion } = object.metadata
    if (resourceVersion && resourceVersion !== before.metadata.resourceVersion)
      throw refusal('Conflict', `${resource.resource} "${objectKey(before)}": the object has been modified`)
    let next: Json
    if (options.subresource === 'status') {
      next = { ...structuredClone(before), status: object.status ?? {} }
      // As in Kubernetes: the status of a pod may come with the one of a node's labels, never with a spec.
    } else if (options.subresource === 'finalize') {
      next = { ...structuredClone(before), spec: { ...before.spec, finalizers: object.spec?.finalizers ?? [] } }
    } else if (options.subresource === undefined) {
      next = structuredClone(object)
      if (kindOf(resource)?.subresources.includes('status')) {
        if (before.status === undefined) delete next.status
        else next.status = structuredClone(before.status)
      }
      const { uid, creationTimestamp, deletionTimestamp, deletionGracePeriodSeconds, generation = 1 } = before.metadata
      Object.assign(next.metadata, {
        uid,
        creationTimestamp,
        deletionTimestamp,
        deletionGracePeriodSeconds,
        generation,
      })
      if (deletionTimestamp === undefined) {
        delete next.metadata.deletionTimestamp
        delete next.metadata.deletionGracePeriodSeconds
      }
      if (JSON.stringify(next.spec) !== JSON.stringify(before.spec)) next.metadata.generation = generation + 1
    } else throw refusal('NotFound', `the fake API has no subresource ${options.subresource}`)
    this.check(kindOf(resource), next, before, options.subresource ?? '')
    if (options.dryRun) return next
    return this.replace(resource, found, next)
  }

  private replace(resource: Resource, found: Stored, next: Json): Json {
    const before = found.object
    next.metadata.resourceVersion = before.metadata.resourceVersion as string
    // A write that changes nothing makes no revision, as in Kubernetes.
    if (JSON.stringify(next) === JSON.stringify(before)) return structuredClone(before)
    const revision = ++this.revision
    next.metadata.resourceVersion = String(revision)
    found.object = next
    if (this.mayGo(resource, next)) {
      this.table(resource).delete(objectKey(next))
      this.tell({ revision, resource: resource.resource, type: 'DELETED', object: next, before })
    } else this.tell({ revision, resource: resource.resource, type: 'MODIFIED', object: next, before })
    return structuredClone(next)
  }

  /** Being deleted, and nothing holds it any more. */
  private mayGo(resource: Resource, object: Json): boolean {
    if (!object.metadata.deletionTimestamp || (object.metadata.finalizers ?? []).length > 0) return false
    if (resource.resource === 'namespaces') return ((object.spec?.finalizers ?? []) as string[]).length === 0
    return (object.metadata.deletionGracePeriodSeconds ?? 0) === 0
  }

  private startDeletion(resource: Resource, found: Stored, options: DeleteCallOptions): void {
    if (options.dryRun) return
    const object = structuredClone(found.object)
    const { metadata } = object
    const finalizers = new Set(metadata.finalizers ?? [])
    if (options.propagationPolicy === 'Foreground') finalizers.add('foregroundDeletion')
    if (options.propagationPolicy === 'Orphan') finalizers.add('orphan')
    if (finalizers.size > 0) metadata.finalizers = [...finalizers]
    const isBoundPod = resource.resource === 'pods' && Boolean(object.spec?.nodeName)
    const specGrace = Number(object.spec?.terminationGracePeriodSeconds ?? 30)
    let graceSeconds = isBoundPod ? (options.gracePeriodSeconds ?? specGrace) : 0
    if (metadata.deletionTimestamp)
      graceSeconds = Math.min(graceSeconds, metadata.deletionGracePeriodSeconds ?? graceSeconds)
    const first = metadata.deletionTimestamp === undefined
    if (first || graceSeconds < (metadata.deletionGracePeriodSeconds ?? 0)) {
      metadata.deletionTimestamp = time(this.clock.nowMs() + graceSeconds * 1000)
      metadata.deletionGracePeriodSeconds = graceSeconds
    }
    if (resource.resource === 'namespaces') object.status = { ...object.status, phase: 'Terminating' }
    if (this.mayGo(resource, object)) this.erase(resource, found)
    else this.replace(resource, found, object)
  }

  private erase(resource: Resource, found: Stored): void {
    const revision = ++this.revision
    const object = structuredClone(found.object)
    object.metadata.resourceVersion = String(revision)
    this.table(resource).delete(objectKey(object))
    this.tell({ revision, resource: resource.resource, type: 'DELETED', object, before: found.object })
  }

  private find(resource: Resource, ref: ObjectRef): Stored {
    const key = ref.namespace === undefined ? ref.name : `${ref.namespace}/${ref.name}`
    const found = this.table(resource).get(key)
    if (!found) throw refusal('NotFound', `${resource.resource} "${key}" not found`)
    return found
  }

  private table(resource: Resource): Map<string, Stored> {
    let table = this.stored.get(resource.resource)
    if (!table) this.stored.set(resource.resource, (table = new Map()))
    return table
  }

  private tell(change: Change): void {
    this.history.push(change)
    for (const watcher of this.watchers) watcher.push(change)
  }
}

class Watcher {
  private readonly queue: [Exclude<ApiEventType, 'ERROR'>, KubeObject][] = []
  private ended = false
  private busy = false

  constructor(
    private readonly api: FakeApiClient,
    private readonly resource: Resource,
    private readonly options: ApiOptions & { namespace?: string },
    private readonly handlers: WatchHandlers<KubeObject>,
  ) {}

  push(change: Change): void {
    if (change.resource !== this.resource.resource) return
    const is = selected(change.object, this.options)
    const was = change.before !== undefined && selected(change.before, this.options)
    // Out of the selection is a deletion for this watcher, into it an addition.
    const type = change.type === 'DELETED' ? 'DELETED' : is ? (was ? 'MODIFIED' : 'ADDED') : 'DELETED'
    if (!is && !was) return
    this.queue.push([type, structuredClone(change.object)])
    this.pump()
  }

  pump(): void {
    if (!this.busy) void this.work()
  }

  stop(): void {
    this.end('cancelled')
  }

  end(reason: string, error?: CallError): void {
    if (this.ended) return
    this.ended = true
    this.api.forget(this)
    // As over a bus: never within the call that opened it.
    void Promise.resolve().then(() => this.handlers.end(reason, error))
  }

  private async work(): Promise<void> {
    this.busy = true
    await Promise.resolve()
    while (!this.ended && !this.api.isHeld(this.resource.resource)) {
      const next = this.queue.shift()
      if (!next) break
      await this.handlers.event(next[0], next[1])
    }
    this.busy = false
  }
}

function sub(options: WriteOptions): Pick<FakeCall, 'subresource' | 'fence'> {
  return { subresource: options.subresource, fence: options.fence }
}

function refusal(reason: string, text: string): CallError {
  return new CallError(reason, 'not-applied', text, {
    details: { kind: 'Status', status: 'Failure', reason, message: text },
  })
}

function time(epochMs: number): string {
  return `${new Date(epochMs).toISOString().slice(0, 19)}Z`
}

/** Five letters, as generateName adds them, but counted instead of drawn. */
function suffix(count: number): string {
  return count.toString(36).padStart(5, '0')
}

function kindOf({ group, version, resource }: Resource): Kind | undefined {
  return findKind(group, version, resource)
}

function patched(resource: Resource, base: Json, type: PatchType, patch: unknown): Json {
  const schema = kindOf(resource)?.schema
  try {
    if (type === 'json') return jsonPatch(base, patch) as unknown as Json
    if (type === 'merge' || (type === 'strategic' && !schema)) return mergePatch(base, patch) as unknown as Json
    if (type === 'strategic' && schema) return strategicMergePatch(base, patch, schema) as unknown as Json
  } catch (error) {
    if (error instanceof PatchError) throw refusal(error.kind === 'invalid' ? 'Invalid' : 'BadRequest', error.message)
    throw error
  }
  throw refusal('UnsupportedMediaType', `the fake API has no ${type} patch`)
}

/** Does a request with these options see the object? */
function selected(object: Json, options: ApiOptions & { namespace?: string }): boolean {
  if (options.namespace !== undefined && object.metadata.namespace !== options.namespace) return false
  if (options.labelSelector && !parseLabelSelector(options.labelSelector)(object.metadata.labels)) return false
  return parseFieldSelector(options.fieldSelector ?? '').every(({ path, equal, value }) => {
    let at: unknown = object
    for (const part of path.split('.'))
      at = typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[part] : undefined
    return (at === undefined ? '' : String(at)) === value ? equal : !equal
  })
}
