import { CallError, type Log, type World } from '@capstan/actor'
import type { Fence } from '@capstan/protocol'
import type { ApiClient, Resource } from './api-client.js'
import { EventRecorder } from './event-recorder.js'
import { fencedClient } from './fenced-client.js'
import type { InformerFactory } from './informer.js'
import { type KubeObject, objectKey } from './kube-object.js'
import { WorkQueue, type WorkQueueOptions } from './work-queue.js'

/** A loop that undoes its own work would otherwise take a whole processor, and in virtual time never end. */
const RECONCILES_PER_SECOND = 1000

export interface ControllerContext {
  /** Writes carry the controller's fence; calls fail with CLOSED once it is stopped. */
  readonly client: ApiClient
  readonly events: EventRecorder
  readonly log: Log
  /** Aborted when the controller is to stop. */
  readonly signal: AbortSignal
  /** Adds a key to the work queue. */
  enqueue(key: string): void
  enqueueAfter(key: string, delayMs: number): void
}

/** A resource to hear about, and which keys a change of one of its objects concerns. Made by `watchOf`. */
export interface ControllerWatch {
  resource: Resource
  keys(object: KubeObject, before: KubeObject | undefined, deleted: boolean): readonly string[]
}

/** `keys` defaults to the object's own key. `before` is there only for updates. */
export function watchOf<T extends KubeObject>(
  resource: Resource,
  keys: (object: T, before: T | undefined, deleted: boolean) => readonly string[] = (object) => [objectKey(object)],
): ControllerWatch {
  // The informer of `resource` holds objects of that kind only.
  return { resource, keys: (object, before, deleted) => keys(object as T, before as T | undefined, deleted) }
}

export interface ControllerOptions {
  name: string
  client: ApiClient
  /** Shared with other controllers; whoever made them starts and stops them. */
  informers: InformerFactory
  watches: readonly ControllerWatch[]
  /**
   * Brings the actual state of what `key` names nearer to the desired one. Called with a key only, any number of times;
   * must be idempotent. Returns when to be called again at the latest; a throw repeats it with back-off.
   */
  reconcile(key: string, context: ControllerContext): Promise<{ requeueAfterMs: number } | void>
  /** Keys worked on at once. Default 1. */
  workers?: number
  /** Of a leader-elected component. */
  fence?: Fence
  /** A write was FENCED: the lock is another's; the controller has stopped. */
  onFenced?: (error: CallError) => void
  /** `perSecond` is 1,000 here unless given. */
  queue?: WorkQueueOptions
  /** Event source. Default: `name`. */
  component?: string
}

export interface Controller {
  readonly name: string
  readonly queue: WorkQueue
  readonly context: ControllerContext
  /** Calls of `reconcile`, and how many of them failed. */
  readonly counters: { reconciles: number; failures: number }
  enqueue(key: string): void
  /** Takes no more keys; resolves when those in work are done. */
  stop(): Promise<void>
}

/** Starts a control loop. Works once the informers of all its watches are synced. */
export function startController(world: World, options: ControllerOptions): Controller {
  const log = world.log.child({ controller: options.name })
  const queue = new WorkQueue(world, { perSecond: RECONCILES_PER_SECOND, ...options.queue })
  const stopping = new AbortController()
  const counters = { reconciles: 0, failures: 0 }
  const client = fencedClient(options.client, {
    ...(options.fence === undefined ? {} : { fence: options.fence }),
    signal: stopping.signal,
    onFenced(error) {
      log.warn({ text: error.message }, 'fenced: another one leads; stopping')
      void stop()
      options.onFenced?.(error)
    },
  })
  const context: ControllerContext = {
    client,
    events: new EventRecorder(world, client, { component: options.component ?? options.name }),
    log,
    signal: stopping.signal,
    enqueue,
    enqueueAfter: (key, delayMs) => void queue.addAfter(key, delayMs),
  }

  let resync: { cancel(): void } | undefined
  const informers = options.watches.map((watch) => ({
    watch,
    informer: options.informers.for<KubeObject>(watch.resource),
  }))
  const removeHandlers = informers.map(({ watch, informer }) => {
    const hear = (object: KubeObject, before?: KubeObject, deleted = false) => {
      for (const key of watch.keys(object, before, deleted)) enqueue(key)
    }
    return informer.addHandler({
      add: (object) => hear(object),
      update: (object, before) => hear(object, before),
      delete: (object) => hear(object, undefined, true),
    })
  })
  const workers = Array.from({ length: options.workers ?? 1 }, () => work())

  function enqueue(key: string): void {
    if (queue.add(key) || stopping.signal.aborted || resync) return
    // Level-triggered: what was refused now is found again by looking at everything.
    log.error({ waiting: queue.waiting }, 'work queue full; will look at everything again')
    resync = world.clock.setTimer(5000, () => {
      resync = undefined
      for (const { watch, informer } of informers)
        for (const object of informer.list()) for (const again of watch.keys(object, undefined, false)) enqueue(again)
    })
  }

  async function work(): Promise<void> {
    const synced = await Promise.all(informers.map(({ informer }) => informer.whenSynced()))
    if (!synced.every(Boolean)) return
    for (let key = await queue.take(); key !== undefined; key = await queue.take()) {
      counters.reconciles++
      try {
        const result = await options.reconcile(key, context)
        queue.forget(key)
        if (result) queue.addAfter(key, result.requeueAfterMs)
      } catch (error) {
        counters.failures++
        failed(key, error)
      }
      queue.done(key)
    }
  }

  function failed(key: string, error: unknown): void {
    if (stopping.signal.aborted) return
    const code = error instanceof CallError ? error.code : undefined
    const retryMs = queue.addRateLimited(key)
    // A conflict is a stale cache: the change that caused it is on its way here.
    const ordinary = code === 'Conflict' || code === 'AlreadyExists' || code === 'NotFound'
    if (ordinary && queue.failuresOf(key) < 5) log.debug({ key, code, retryMs }, 'reconcile will be repeated')
    else log.warn({ err: error, key, retryMs }, 'reconcile failed')
  }

  async function stop(): Promise<void> {
    stopping.abort()
    for (const remove of removeHandlers) remove()
    resync?.cancel()
    queue.stop()
    await Promise.all(workers)
  }

  return { name: options.name, queue, context, counters, enqueue, stop }
}
