import { CallError, type InStream, sleep, type Timer, type World } from '@capstan/actor'
import { type WatchData, WatchParts } from '@capstan/protocol'
import { ALL_FROM, ALL_TO, prefixEnd, REGISTRY, resourceKey, type ResourceKey, resourceOfKey } from './keys.js'
import { type OrderedMap, orderedMap } from './ordered-map.js'
import { keyBytes, type StoreClient } from './store-client.js'
import { Stored } from './stored.js'

const PAGE_KEYS = 1000
const RETRY_MS = 50
const RETRY_MS_MAX = 1000
/** Who waits for a revision at once. Requests are bounded too; this one catches a bug. */
const WAITERS_MAX = 20_000

/** One change of one object. `previous` is undefined for a new one, `current` for one that is gone. */
export interface Change {
  revision: number
  previous: Stored | undefined
  current: Stored | undefined
  /** Of a deletion: the last state, as of the deletion's revision. */
  gone: Stored | undefined
}

/** Hears all changes of one resource: those of one or more whole revisions at a time, in order. */
export interface Watcher {
  /** `revision`: everything up to it is contained in this call and those before. */
  changed(changes: readonly Change[], revision: number): void
  /** The cache lost the thread: the watcher must begin anew. */
  lost(): void
}

/** All objects of one resource, and the latest changes. */
export class ResourceCache {
  readonly objects: OrderedMap<Stored> = orderedMap()
  readonly watchers = new Set<Watcher>()
  /** Changes after `windowStart`, oldest first. */
  private window: Change[] = []
  private windowAt = 0

  constructor(
    readonly key: ResourceKey,
    /** All changes with a greater revision are in the window. */
    public windowStart: number,
    private readonly windowMax: number,
  ) {}

  /** Objects whose keys start with `prefix`, ascending. */
  *under(prefix: string, from = prefix): Generator<Stored> {
    const end = prefixEnd(prefix)
    for (const [key, stored] of this.objects.entries(from)) {
      if (key >= end) return
      yield stored
    }
  }

  /** Changes after `revision`; undefined: the window does not reach back so far. */
  since(revision: number): readonly Change[] | undefined {
    if (revision < this.windowStart) return undefined
    let low = this.windowAt
    let high = this.window.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.window[middle] as Change).revision <= revision) low = middle + 1
      else high = middle
    }
    return this.window.slice(low)
  }

  apply(change: Change): void {
    this.window.push(change)
    if (this.window.length - this.windowAt <= this.windowMax) return
    // Whole revisions only: a watch that starts at windowStart must see all after it.
    const { revision } = this.window[this.windowAt] as Change
    while ((this.window[this.windowAt]?.revision ?? Number.POSITIVE_INFINITY) <= revision) this.windowAt++
    this.windowStart = revision
    if (this.windowAt > 1024 && this.windowAt * 2 > this.window.length) {
      this.window = this.window.slice(this.windowAt)
      this.windowAt = 0
    }
  }

  reset(revision: number): void {
    this.window = []
    this.windowAt = 0
    this.windowStart = revision
  }
}

/**
 * The state of everything below `/registry/` and `/capstan/`, kept by one list and one watch of the store: so all
 * resources share one revision. Between two events of the store nothing is in between: reading is synchronous, and sees
 * the state exactly as of `revision`.
 */
export class Cache {
  /** The state is that of this revision; 0: nothing yet. */
  revision = 0
  /** Keys that are no objects (allocations), with their values' create revisions. */
  readonly others: OrderedMap<number> = orderedMap()
  /** Since when (monotonic) the store has been silent; undefined: it is heard. */
  silentSinceMs: number | undefined
  readonly counters = { fills: 0, watches: 0, changes: 0 }
  private readonly resources = new Map<ResourceKey, ResourceCache>()
  private waiters: { revision: number; done: (reached: boolean) => void; timer: Timer }[] = []
  /** Changes after it have been followed without a gap. */
  private filledAt = 0
  private readonly closing = new AbortController()
  private stream: InStream | undefined

  constructor(
    private readonly world: World,
    private readonly store: StoreClient,
    private readonly options: { windowMax: number },
  ) {}

  /** Begins to fill and to follow. */
  start(): void {
    void this.run()
  }

  stop(): void {
    this.closing.abort()
    this.stream?.cancel()
    for (const waiter of this.waiters.splice(0)) {
      waiter.timer.cancel()
      waiter.done(false)
    }
    this.loseWatchers()
  }

  resource(key: ResourceKey): ResourceCache {
    let found = this.resources.get(key)
    if (!found) this.resources.set(key, (found = new ResourceCache(key, this.filledAt, this.options.windowMax)))
    return found
  }

  get(group: string, resource: string, key: string): Stored | undefined {
    return this.resources.get(resourceKey(group, resource))?.objects.get(key)
  }

  /** By the whole key. */
  find(key: string): Stored | undefined {
    const of = resourceOfKey(key)
    return of && this.get(of.group, of.resource, key)
  }

  /** Resolves when `revision` is reached (true), or after `timeoutMs` (false). */
  waitFor(revision: number, timeoutMs: number): Promise<boolean> {
    if (this.revision >= revision && this.revision > 0) return Promise.resolve(true)
    if (this.closing.signal.aborted || this.waiters.length >= WAITERS_MAX) return Promise.resolve(false)
    return new Promise((resolve) => {
      const waiter = {
        revision,
        done: resolve,
        timer: this.world.clock.setTimer(timeoutMs, () => {
          this.waiters = this.waiters.filter((other) => other !== waiter)
          resolve(false)
        }),
      }
      this.waiters.push(waiter)
    })
  }

  private async run(): Promise<void> {
    const { clock, log } = this.world
    let delayMs = RETRY_MS
    let mustFill = true
    while (!this.closing.signal.aborted) {
      try {
        if (mustFill) await this.fill()
        mustFill = false
        const { reason, error, heard } = await this.follow()
        if (this.closing.signal.aborted) return
        log.info({ reason, err: error, revision: this.revision }, 'the store watch ended')
        mustFill = reason === 'compacted' || error?.code === 'COMPACTED' || reason === 'failed'
        if (heard) {
          delayMs = RETRY_MS
          if (!mustFill) continue
        }
      } catch (error) {
        log.warn({ err: error }, 'the cache could not be filled from the store')
      }
      this.silentSinceMs ??= clock.monotonicMs()
      await sleep(clock, delayMs, this.closing.signal)
      delayMs = Math.min(2 * delayMs, RETRY_MS_MAX)
    }
  }

  /** The whole state as of one revision, in pages. */
  private async fill(): Promise<void> {
    const found = new Map<ResourceKey, Stored[]>()
    const others: [string, number][] = []
    const rangeEnd = keyBytes(ALL_TO)
    let key = keyBytes(ALL_FROM)
    let revision = 0
    for (let more = true; more; ) {
      const page = await this.store.range({ key, rangeEnd, limit: PAGE_KEYS, ...(revision ? { revision } : {}) })
      revision ||= page.header.revision
      for (const kv of page.kvs) {
        const name = Buffer.from(kv.key).toString()
        const of = resourceOfKey(name)
        if (!of) others.push([name, kv.createRevision])
        else {
          const list = found.get(resourceKey(of.group, of.resource)) ?? []
          if (list.length === 0) found.set(resourceKey(of.group, of.resource), list)
          list.push(Stored.of(kv))
        }
      }
      const last = page.kvs[page.kvs.length - 1]
      more = page.more && last !== undefined
      if (last) key = Buffer.concat([last.key, Buffer.from([0])])
    }
    if (this.closing.signal.aborted) return
    this.counters.fills++
    this.filledAt = revision
    this.loseWatchers()
    for (const cache of this.resources.values()) {
      cache.objects.clear()
      cache.reset(revision)
    }
    this.others.clear()
    for (const [name, created] of others) this.others.set(name, created)
    for (const [name, list] of found) {
      const cache = this.resource(name)
      cache.reset(revision)
      for (const stored of list) cache.objects.set(stored.key, stored)
    }
    this.reached(revision)
  }

  private follow(): Promise<{ reason: string; error: CallError | undefined; heard: boolean }> {
    let heard = false
    const parts = new WatchParts()
    this.counters.watches++
    return new Promise((resolve) => {
      this.stream = this.store.watch(
        { key: keyBytes(ALL_FROM), rangeEnd: keyBytes(ALL_TO), startRevision: this.revision + 1 },
        {
          data: (body) => {
            heard = true
            this.silentSinceMs = undefined
            const data = parts.whole(body as WatchData)
            if (data) this.take(data)
          },
          beat: (position) => {
            heard = true
            this.silentSinceMs = undefined
            const revision =
              typeof position === 'number' ? position : (position as { revision?: number } | null)?.revision
            if (typeof revision === 'number' && revision > this.revision) this.reached(revision)
          },
          end: (reason, error) => resolve({ reason, error, heard }),
        },
      )
    })
  }

  private take(data: WatchData): void {
    // What we have may be newer (a message that reaches back), never older: then something was lost.
    if (data.prevRevision > this.revision)
      throw new CallError(
        'CONNECTION_LOST',
        'not-applied',
        `watch gap: at ${this.revision}, next follows ${data.prevRevision}`,
      )
    const touched = new Map<ResourceCache, Change[]>()
    for (const { type, kv } of data.events) {
      if (kv.modRevision <= this.revision) continue
      const key = Buffer.from(kv.key).toString()
      const of = key.startsWith(REGISTRY) ? resourceOfKey(key) : undefined
      if (!of) {
        if (type === 'put') this.others.set(key, kv.createRevision)
        else this.others.delete(key)
        continue
      }
      const cache = this.resource(resourceKey(of.group, of.resource))
      const previous = cache.objects.get(key)
      if (type === 'delete' && !previous) continue
      const current = type === 'put' ? Stored.of(kv) : undefined
      const gone = type === 'put' ? undefined : previous?.at(kv.modRevision)
      const change: Change = { revision: kv.modRevision, previous, current, gone }
      if (current) cache.objects.set(key, current)
      else cache.objects.delete(key)
      cache.apply(change)
      this.counters.changes++
      const list = touched.get(cache)
      if (list) list.push(change)
      else touched.set(cache, [change])
    }
    this.revision = Math.max(this.revision, data.revision)
    for (const [cache, changes] of touched)
      for (const watcher of Array.from(cache.watchers)) watcher.changed(changes, this.revision)
    this.reached(this.revision)
  }

  private reached(revision: number): void {
    this.revision = Math.max(this.revision, revision)
    const ready = this.waiters.filter((waiter) => waiter.revision <= this.revision)
    if (ready.length === 0) return
    this.waiters = this.waiters.filter((waiter) => waiter.revision > this.revision)
    for (const waiter of ready) {
      waiter.timer.cancel()
      waiter.done(true)
    }
  }

  private loseWatchers(): void {
    for (const cache of this.resources.values()) for (const watcher of Array.from(cache.watchers)) watcher.lost()
  }
}
