import { CallError, Caller, sleep, type World } from '@capstan/actor'
import {
  type ApiEventType,
  type ApiOptions,
  type ApiReply,
  type ApiRequest,
  type ApiVerb,
  type ApiWatchData,
  type PatchType,
  Subjects,
} from '@capstan/protocol'
import type {
  ApiClient,
  DeleteCallOptions,
  ObjectList,
  ObjectRef,
  Resource,
  WatchHandlers,
  WriteOptions,
} from './api-client.js'
import { BeatTracker } from './beat-tracker.js'
import type { KubeObject } from './kube-object.js'

const TIMEOUT_MS = 10_000
/** One attempt at a read takes a third of the time at most, so that a hung instance leaves time for others. */
const READ_ATTEMPTS = 3
const READ_ATTEMPT_MS_MIN = 500
const WRITE_ATTEMPT_MS = 3000
/** An instance that failed to answer is left out for so long, unless none else is there. */
const LEFT_OUT_MS = 3000
const RETRY_DELAY_MS = 20
const RETRY_DELAY_MS_MAX = 500
const WATCH_OPEN_MS = 5000

/** Codes after which another attempt (elsewhere) may succeed; all others are the server's verdict on the request. */
const RETRYABLE = new Set([
  'NO_RESPONDERS',
  'DISCONNECTED',
  'CONNECTION_LOST',
  'TIMEOUT',
  'OVERLOADED',
  'CLOSED',
  'NO_INSTANCE',
  'ServiceUnavailable',
  'TooManyRequests',
  'ServerTimeout',
  'Timeout',
  'NO_LEADER',
  'LEADER_CHANGED',
  'STOPPED',
])
/** Codes that speak against the instance, not only against this moment. */
const INSTANCE_FAULTS = new Set([
  'NO_RESPONDERS',
  'TIMEOUT',
  'CONNECTION_LOST',
  'CLOSED',
  'ServiceUnavailable',
  'STOPPED',
])

export interface BusApiClientOptions {
  cluster: string
  /** Own machine: the API server there is asked first. */
  machine: string
  /** Tells several callers on one connection apart. Default `c1`. */
  callerName?: string
}

/** `ApiClient` over the bus: see there. Start one for each component and `close` it at the end. */
export class BusApiClient implements ApiClient {
  private readonly caller: Caller
  private readonly beats: BeatTracker
  private readonly subjects: Subjects
  private readonly random
  /** Instance → monotonic ms until which it is left out. */
  private readonly leftOut = new Map<string, number>()
  private sticky: string | undefined
  private readonly closing = new AbortController()

  constructor(
    private readonly world: Pick<World, 'clock' | 'bus' | 'log' | 'random'>,
    private readonly options: BusApiClientOptions,
  ) {
    this.subjects = new Subjects(options.cluster)
    this.random = world.random.fork('api-client')
    this.caller = new Caller(world, options.callerName === undefined ? {} : { name: options.callerName })
    this.beats = new BeatTracker(world, { cluster: options.cluster, component: 'apiserver' })
    this.beats.onBeat((beat) => {
      if (!beat.ready && this.sticky === beat.instance) this.sticky = undefined
    })
  }

  /** Names of the API servers that beat and say that they are ready. */
  instances(): string[] {
    return this.beats
      .alive()
      .filter((beat) => beat.ready)
      .map((beat) => beat.instance)
  }

  get<T extends KubeObject>(
    resource: Resource,
    ref: ObjectRef,
    options: { subresource?: string; resourceVersion?: string; timeoutMs?: number } = {},
  ): Promise<T> {
    const { timeoutMs, subresource, resourceVersion } = options
    const request: ApiRequest = { ...resource, ...ref }
    if (subresource !== undefined) request.subresource = subresource
    if (resourceVersion !== undefined) request.options = { resourceVersion }
    return this.ask<T>('get', request, timeoutMs)
  }

  async list<T extends KubeObject>(
    resource: Resource,
    options: ApiOptions & { namespace?: string; timeoutMs?: number } = {},
  ): Promise<ObjectList<T>> {
    const { namespace, timeoutMs, ...rest } = options
    const list = await this.ask<{ metadata?: { resourceVersion?: string; continue?: string }; items?: T[] }>(
      'list',
      { ...resource, ...(namespace === undefined ? {} : { namespace }), options: rest },
      timeoutMs,
    )
    const { resourceVersion = '', continue: more } = list.metadata ?? {}
    return { items: list.items ?? [], resourceVersion, ...(more ? { continue: more } : {}) }
  }

  create<T extends KubeObject>(resource: Resource, object: KubeObject, options: WriteOptions = {}): Promise<T> {
    const { name, namespace } = object.metadata
    const request: ApiRequest = { ...resource, body: object, ...writeFields(options) }
    if (namespace) request.namespace = namespace
    if (options.subresource !== undefined && name) request.name = name
    return this.ask<T>('create', request, options.timeoutMs)
  }

  update<T extends KubeObject>(resource: Resource, object: T, options: WriteOptions = {}): Promise<T> {
    const { name, namespace } = object.metadata
    if (!name) return Promise.reject(new CallError('BadRequest', 'not-applied', 'update of an object without a name'))
    const request: ApiRequest = { ...resource, name, body: object, ...writeFields(options) }
    if (namespace) request.namespace = namespace
    return this.ask<T>('update', request, options.timeoutMs)
  }

  patch<T extends KubeObject>(
    resource: Resource,
    ref: ObjectRef,
    patchType: PatchType,
    patch: unknown,
    options: WriteOptions = {},
  ): Promise<T> {
    return this.ask<T>(
      'patch',
      { ...resource, ...ref, body: patch, patchType, ...writeFields(options) },
      options.timeoutMs,
    )
  }

  async delete(resource: Resource, ref: ObjectRef, options: DeleteCallOptions = {}): Promise<void> {
    const request: ApiRequest = { ...resource, ...ref, body: deleteBody(options), ...writeFields(options) }
    await this.ask('delete', request, options.timeoutMs)
  }

  async deleteCollection(
    resource: Resource,
    options: ApiOptions & DeleteCallOptions & { namespace?: string },
  ): Promise<void> {
    const { namespace, labelSelector, fieldSelector } = options
    const write = writeFields(options)
    await this.ask(
      'deletecollection',
      {
        ...resource,
        ...(namespace === undefined ? {} : { namespace }),
        body: deleteBody(options),
        ...write,
        options: {
          ...write.options,
          ...(labelSelector === undefined ? {} : { labelSelector }),
          ...(fieldSelector === undefined ? {} : { fieldSelector }),
        },
      },
      options.timeoutMs,
    )
  }

  watch<T extends KubeObject>(
    resource: Resource,
    options: ApiOptions & { namespace?: string },
    handlers: WatchHandlers<T>,
  ): { stop(): void } {
    const { namespace, ...rest } = options
    const request: ApiRequest = { ...resource, ...(namespace === undefined ? {} : { namespace }), options: rest }
    let stopped = false
    let stream: { cancel(): void } | undefined
    const end = (reason: string, error?: Error) => {
      if (stopped) return
      stopped = true
      handlers.end(reason, error)
    }
    const instance = this.choose(new Set())
    if (instance === undefined) {
      this.world.clock.defer(() => end('lost', new CallError('NO_INSTANCE', 'not-applied', 'no API server is known')))
      return { stop: () => end('cancelled') }
    }
    let revision = startRevision(options.resourceVersion)
    let opened = false
    const bookmark = async (to: number) => {
      if (!Number.isSafeInteger(to) || (revision !== undefined && to <= revision)) return
      const object = { metadata: { resourceVersion: String(to) } } as T
      await handlers.event('BOOKMARK', object)
    }
    stream = this.caller.openStream(
      this.subjects.api(instance, this.world.bus.identity, 'watch'),
      request,
      {
        data: async (body) => {
          const data = body as ApiWatchData
          if (!Array.isArray(data?.events)) throw new CallError('BAD_FRAME', 'not-applied', 'not a watch message')
          // The first message may reach back behind what was asked for, never beyond it: that would be a gap.
          const gap = revision !== undefined && (opened ? data.prevRevision !== revision : data.prevRevision > revision)
          if (gap) {
            const text = `watch lost events: at revision ${revision}, next message follows ${data.prevRevision}`
            end('lost', new CallError('CONNECTION_LOST', 'not-applied', text))
            return stream?.cancel()
          }
          opened = true
          let seen: string | undefined
          for (const [type, bytes] of data.events) {
            if (stopped) return
            const object = parse(bytes)
            if (type === 'ERROR') {
              const failure = statusError(object)
              end(failure.code === 'Expired' || failure.code === 'Gone' ? 'expired' : failure.code, failure)
              return stream?.cancel()
            }
            seen = (object as T).metadata?.resourceVersion
            await handlers.event(type as Exclude<ApiEventType, 'ERROR'>, object as T)
          }
          if (!stopped && seen !== String(data.revision)) await bookmark(data.revision)
          revision = data.revision
        },
        // Everything up to a beat's position is here. The chain of `prevRevision` goes from message to message, though.
        beat: (position) => {
          if (stopped) return
          bookmark(positionOf(position)).catch((error: unknown) => {
            end('failed', CallError.fromBus(error))
            stream?.cancel()
          })
        },
        end: (reason, error) => {
          if (error && INSTANCE_FAULTS.has(error.code) && !stopped) this.leaveOut(instance, error)
          if (
            reason === 'compacted' ||
            error?.code === 'Expired' ||
            error?.code === 'Gone' ||
            error?.code === 'COMPACTED'
          )
            end('expired', error)
          // What another instance can take is not refused by the cluster.
          else if (reason === 'refused' && error && RETRYABLE.has(error.code)) end('lost', error)
          else end(reason, error)
        },
      },
      { timeoutMs: WATCH_OPEN_MS, creditsMax: 64 },
    )
    return {
      stop() {
        stream.cancel()
        end('cancelled')
      },
    }
  }

  /** Ends all calls and watches. Idempotent. */
  close(): void {
    this.closing.abort()
    this.caller.close()
    this.beats.stop()
  }

  private async ask<T>(verb: ApiVerb, request: ApiRequest, timeoutMs = TIMEOUT_MS): Promise<T> {
    const { clock } = this.world
    const isRead = verb === 'get' || verb === 'list'
    const deadline = clock.monotonicMs() + timeoutMs
    const tried = new Set<string>()
    let failure = new CallError('NO_INSTANCE', 'not-applied', 'no API server is known')
    for (let attempt = 0; ; attempt++) {
      const remaining = deadline - clock.monotonicMs()
      if (remaining <= 0 || this.closing.signal.aborted) throw failure
      const instance = this.choose(tried)
      if (instance !== undefined) {
        try {
          const longestMs = isRead ? Math.max(READ_ATTEMPT_MS_MIN, timeoutMs / READ_ATTEMPTS) : WRITE_ATTEMPT_MS
          const attemptMs = Math.min(remaining, longestMs)
          const subject = this.subjects.api(instance, this.world.bus.identity, verb)
          const reply = (await this.caller.call(subject, request, { timeoutMs: attemptMs })) as ApiReply
          return parse(reply?.body) as T
        } catch (error) {
          failure = CallError.fromBus(error)
          if (INSTANCE_FAULTS.has(failure.code)) this.leaveOut(instance, failure)
          const repeatable = RETRYABLE.has(failure.code) && (isRead || failure.outcome === 'not-applied')
          if (!repeatable) throw failure
          tried.add(instance)
        }
      }
      const longest = Math.min(RETRY_DELAY_MS * 2 ** Math.min(attempt, 10), RETRY_DELAY_MS_MAX)
      // The first repetition on another instance needs no wait: that one is not known to be in trouble.
      const delayMs = attempt === 0 && tried.size > 0 ? 0 : longest * (0.5 + this.random.next() / 2)
      await sleep(clock, Math.min(delayMs, Math.max(0, deadline - clock.monotonicMs())), this.closing.signal)
    }
  }

  /** The instance to ask: untried before tried, not left out before left out, own machine first, then one for long. */
  private choose(tried: Set<string>): string | undefined {
    const ready = this.beats.alive().filter((beat) => beat.ready)
    if (ready.length === 0) return undefined
    const now = this.world.clock.monotonicMs()
    const isIn = (name: string) => (this.leftOut.get(name) ?? 0) <= now
    let candidates = ready.filter((beat) => !tried.has(beat.instance) && isIn(beat.instance))
    if (candidates.length === 0) candidates = ready.filter((beat) => isIn(beat.instance))
    if (candidates.length === 0) candidates = ready.filter((beat) => !tried.has(beat.instance))
    if (candidates.length === 0) {
      tried.clear()
      candidates = ready
    }
    const local = candidates.find((beat) => beat.machine === this.options.machine)
    if (local) return local.instance
    const same = candidates.find((beat) => beat.instance === this.sticky)
    const chosen = same ?? candidates[this.random.int(candidates.length)]
    this.sticky = chosen?.instance
    return chosen?.instance
  }

  private leaveOut(instance: string, error: CallError): void {
    const now = this.world.clock.monotonicMs()
    // Instances come and go; past entries say nothing any more.
    for (const [name, until] of this.leftOut) if (until <= now) this.leftOut.delete(name)
    if (!this.leftOut.has(instance))
      this.world.log.info({ instance, code: error.code, text: error.message }, 'leaving out an API server')
    this.leftOut.set(instance, now + LEFT_OUT_MS)
    if (this.sticky === instance) this.sticky = undefined
  }
}

const decoder = new TextDecoder()

function parse(body: unknown): unknown {
  if (!(body instanceof Uint8Array)) throw new CallError('BAD_FRAME', 'maybe-applied', 'an answer without a body')
  try {
    return JSON.parse(decoder.decode(body))
  } catch (error) {
    throw new CallError('BAD_FRAME', 'maybe-applied', `an answer that is no JSON: ${(error as Error).message}`, {
      cause: error,
    })
  }
}

function writeFields(options: WriteOptions): Pick<ApiRequest, 'subresource' | 'fence' | 'options'> {
  const { subresource, fence, dryRun, fieldManager } = options
  const query: ApiOptions = {}
  if (dryRun !== undefined) query.dryRun = dryRun
  if (fieldManager !== undefined) query.fieldManager = fieldManager
  return {
    ...(subresource === undefined ? {} : { subresource }),
    ...(fence === undefined ? {} : { fence }),
    ...(Object.keys(query).length > 0 ? { options: query } : {}),
  }
}

function deleteBody(options: DeleteCallOptions): object {
  const { gracePeriodSeconds, propagationPolicy, preconditions } = options
  return {
    apiVersion: 'v1',
    kind: 'DeleteOptions',
    ...(gracePeriodSeconds === undefined ? {} : { gracePeriodSeconds }),
    ...(propagationPolicy === undefined ? {} : { propagationPolicy }),
    ...(preconditions === undefined ? {} : { preconditions }),
  }
}

/** '' and '0' ask for the state of now, whatever that is: no revision to check the first message against. */
function startRevision(resourceVersion: string | undefined): number | undefined {
  const revision = Number(resourceVersion ?? 0)
  return revision > 0 && Number.isSafeInteger(revision) ? revision : undefined
}

function positionOf(position: unknown): number {
  if (typeof position === 'number') return position
  if (typeof position === 'object' && position !== null && 'revision' in position) return Number(position.revision)
  return Number.NaN
}

function statusError(status: unknown): CallError {
  const { reason, code, message } = (status ?? {}) as { reason?: string; code?: number; message?: string }
  const name = reason ?? (code === 410 ? 'Gone' : 'Unknown')
  return new CallError(name, 'not-applied', message ?? `watch failed: ${name}`, { details: status })
}
