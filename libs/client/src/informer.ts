import { CallError, sleep, type World } from '@capstan/actor'
import type { ApiClient, Resource, WatchHandlers } from './api-client.js'
import { byText, type KubeObject, objectKey } from './kube-object.js'

const BACKOFF_MS = 50
const BACKOFF_MS_MAX = 5000
/** A watch that lasted so long was in order: the next failure starts the back-off anew. */
const BACKOFF_RESET_MS = 10_000
const LIST_TIMEOUT_MS = 30_000

export interface InformerHandlers<T> {
  add?(object: T): void
  /** Also after a relist, if the resourceVersion differs: `before` may be several changes back. */
  update?(object: T, before: T): void
  /** The last state known; after a relist that may be an old one. */
  delete?(object: T): void
}

export interface InformerOptions {
  namespace?: string
  labelSelector?: string
  fieldSelector?: string
}

/** Read access to the objects of one kind as an informer knows them. Objects are shared: never change them. */
export interface Lister<T> {
  get(key: string): T | undefined
  /** Sorted by key. */
  list(namespace?: string): T[]
  /** Sorted by key; empty for an unknown value. @throws RangeError for an index that was never added. */
  byIndex(index: string, value: string): T[]
}

/**
 * Keeps a copy of a list of objects up to date: list, then watch from there; resumes by resourceVersion, lists again when
 * that history is gone. The copy lags; it never mixes revisions of one object backwards. Handlers run in revision order,
 * after the copy was changed, and must not throw.
 */
export class Informer<T extends KubeObject> implements Lister<T> {
  private readonly store = new Map<string, T>()
  private readonly indexes = new Map<string, Index<T>>()
  private readonly handlers = new Set<InformerHandlers<T>>()
  private readonly stopping = new AbortController()
  private readonly random
  private sortedKeys: string[] | undefined
  private started = false
  private syncWaiters: (() => void)[] = []
  private isSynced = false
  /** For coverage counters in simulation: how often this informer listed and resumed. */
  readonly counters = { lists: 0, watches: 0, expired: 0 }

  constructor(
    private readonly world: Pick<World, 'clock' | 'log' | 'random'>,
    private readonly client: ApiClient,
    readonly resource: Resource,
    private readonly options: InformerOptions = {},
  ) {
    this.random = world.random.fork(`informer/${resource.group}/${resource.resource}`)
  }

  /** The first list is in. Stays true. */
  get synced(): boolean {
    return this.isSynced
  }

  get size(): number {
    return this.store.size
  }

  start(): void {
    if (this.started) return
    this.started = true
    void this.run()
  }

  /** Ends the watch; the copy stays as it is. */
  stop(): void {
    this.stopping.abort()
    for (const wake of this.syncWaiters.splice(0)) wake()
  }

  /** Resolves with true when `synced`, with false when stopped before. */
  whenSynced(): Promise<boolean> {
    if (this.isSynced || this.stopping.signal.aborted) return Promise.resolve(this.isSynced)
    return new Promise((resolve) => this.syncWaiters.push(() => resolve(this.isSynced)))
  }

  /** What is known already is given as `add` at once. Returns how to stop. */
  addHandler(handlers: InformerHandlers<T>): () => void {
    this.handlers.add(handlers)
    for (const object of this.list()) this.call(() => handlers.add?.(object))
    return () => this.handlers.delete(handlers)
  }

  /** `values` gives what an object is found under. The same name again replaces nothing. */
  addIndex(name: string, values: (object: T) => string[]): void {
    if (this.indexes.has(name)) return
    const index = new Index(values)
    for (const [key, object] of this.store) index.put(key, object)
    this.indexes.set(name, index)
  }

  get(key: string): T | undefined {
    return this.store.get(key)
  }

  list(namespace?: string): T[] {
    this.sortedKeys ??= [...this.store.keys()].sort(byText)
    const objects = this.sortedKeys.map((key) => this.store.get(key) as T)
    return namespace === undefined ? objects : objects.filter((object) => object.metadata.namespace === namespace)
  }

  byIndex(index: string, value: string): T[] {
    const found = this.indexes.get(index)
    if (!found) throw new RangeError(`no index ${index} on ${this.resource.resource}`)
    return found.get(value)
  }

  private async run(): Promise<void> {
    const { signal } = this.stopping
    let failures = 0
    let resourceVersion: string | undefined
    while (!signal.aborted) {
      const startedMs = this.world.clock.monotonicMs()
      try {
        resourceVersion ??= await this.relist()
        if (signal.aborted) return
        const ended = await this.watch(resourceVersion)
        resourceVersion = ended.reason === 'expired' ? undefined : ended.resourceVersion
        if (ended.reason === 'expired') this.counters.expired++
        if (ended.error && ended.reason !== 'expired' && ended.reason !== 'lost')
          this.world.log.warn(
            { err: ended.error, reason: ended.reason, resource: this.resource.resource },
            'watch ended',
          )
      } catch (error) {
        this.world.log.warn({ err: error, resource: this.resource.resource }, 'list failed; will repeat')
      }
      failures = this.world.clock.monotonicMs() - startedMs > BACKOFF_RESET_MS ? 0 : failures + 1
      // One lost watch resumes at once: failing over from one API server to another is no fault.
      if (failures <= 1) continue
      const longest = Math.min(BACKOFF_MS * 2 ** Math.min(failures - 2, 10), BACKOFF_MS_MAX)
      await sleep(this.world.clock, longest * (0.5 + this.random.next() / 2), signal)
    }
  }

  private async relist(): Promise<string> {
    this.counters.lists++
    const list = await this.client.list<T>(this.resource, { ...this.options, timeoutMs: LIST_TIMEOUT_MS })
    if (this.stopping.signal.aborted) return list.resourceVersion
    const fresh = new Set<string>()
    for (const object of list.items) {
      fresh.add(objectKey(object))
      this.put(object)
    }
    for (const [key, object] of [...this.store].sort((a, b) => byText(a[0], b[0])))
      if (!fresh.has(key)) this.remove(key, object)
    if (!this.isSynced) {
      this.isSynced = true
      for (const wake of this.syncWaiters.splice(0)) wake()
    }
    return list.resourceVersion
  }

  private watch(from: string): Promise<{ reason: string; resourceVersion: string; error: Error | undefined }> {
    this.counters.watches++
    return new Promise((resolve) => {
      let resourceVersion = from
      const handlers: WatchHandlers<T> = {
        event: (type, object) => {
          if (this.stopping.signal.aborted) return
          if (type === 'DELETED') this.remove(objectKey(object), object)
          else if (type !== 'BOOKMARK') this.put(object)
          resourceVersion = object.metadata.resourceVersion ?? resourceVersion
        },
        end: (reason, error) => {
          this.stopping.signal.removeEventListener('abort', stop)
          resolve({ reason, resourceVersion, error })
        },
      }
      const options = { ...this.options, resourceVersion: from, allowWatchBookmarks: true }
      const watch = this.client.watch<T>(this.resource, options, handlers)
      const stop = () => watch.stop()
      this.stopping.signal.addEventListener('abort', stop, { once: true })
    })
  }

  private put(object: T): void {
    const key = objectKey(object)
    const before = this.store.get(key)
    if (before && before.metadata.resourceVersion === object.metadata.resourceVersion) return
    // Deleted and made anew between two looks: two objects, not one that changed.
    if (before && before.metadata.uid !== object.metadata.uid) {
      this.remove(key, before)
      return this.put(object)
    }
    this.store.set(key, object)
    if (!before) this.sortedKeys = undefined
    for (const index of this.indexes.values()) index.put(key, object, before)
    for (const handlers of Array.from(this.handlers))
      this.call(() => (before ? handlers.update?.(object, before) : handlers.add?.(object)))
  }

  private remove(key: string, last: T): void {
    const before = this.store.get(key)
    if (!before) return
    this.store.delete(key)
    this.sortedKeys = undefined
    for (const index of this.indexes.values()) index.remove(key, before)
    for (const handlers of Array.from(this.handlers)) this.call(() => handlers.delete?.(last))
  }

  /** One handler's bug must not keep the others from hearing. */
  private call(handler: () => void): void {
    try {
      handler()
    } catch (error) {
      this.world.log.error({ err: error, resource: this.resource.resource }, 'an informer handler threw')
    }
  }
}

class Index<T> {
  private readonly buckets = new Map<string, Map<string, T>>()

  constructor(private readonly values: (object: T) => string[]) {}

  put(key: string, object: T, before?: T): void {
    if (before !== undefined) this.remove(key, before)
    for (const value of this.values(object)) {
      const bucket = this.buckets.get(value)
      if (bucket) bucket.set(key, object)
      else this.buckets.set(value, new Map([[key, object]]))
    }
  }

  remove(key: string, object: T): void {
    for (const value of this.values(object)) {
      const bucket = this.buckets.get(value)
      bucket?.delete(key)
      if (bucket?.size === 0) this.buckets.delete(value)
    }
  }

  get(value: string): T[] {
    const bucket = this.buckets.get(value)
    return bucket ? [...bucket].sort((a, b) => byText(a[0], b[0])).map(([, object]) => object) : []
  }
}

/** The informers that the parts of one component share: one for each resource. */
export class InformerFactory {
  private readonly informers = new Map<string, Informer<KubeObject>>()
  private running = false
  private stopped = false

  constructor(
    private readonly world: Pick<World, 'clock' | 'log' | 'random'>,
    private readonly client: ApiClient,
  ) {}

  /** The informer of this resource over all namespaces, made at the first call; started if the factory is. */
  for<T extends KubeObject>(resource: Resource): Informer<T> {
    const name = `${resource.group}/${resource.version}/${resource.resource}`
    let informer = this.informers.get(name)
    if (!informer) {
      if (this.stopped) throw new CallError('CLOSED', 'not-applied', 'the informers are stopped')
      informer = new Informer<KubeObject>(this.world, this.client, resource)
      this.informers.set(name, informer)
      if (this.running) informer.start()
    }
    // The factory keeps informers of all kinds; which one it is, its resource says.
    return informer as unknown as Informer<T>
  }

  start(): void {
    this.running = true
    for (const informer of this.informers.values()) informer.start()
  }

  /** True when all informers made so far are synced; false when stopped before. */
  async whenSynced(): Promise<boolean> {
    const synced = await Promise.all([...this.informers.values()].map((informer) => informer.whenSynced()))
    return synced.every(Boolean)
  }

  /** Over all informers: lists, watches opened (the first of each included), histories gone. For coverage in simulation. */
  get counters(): { lists: number; watches: number; expired: number } {
    const sum = { lists: 0, watches: 0, expired: 0 }
    for (const { counters } of this.informers.values()) {
      sum.lists += counters.lists
      sum.watches += counters.watches
      sum.expired += counters.expired
    }
    return sum
  }

  stop(): void {
    this.stopped = true
    for (const informer of this.informers.values()) informer.stop()
  }
}
