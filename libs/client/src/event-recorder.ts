import { CallError, type World } from '@capstan/actor'
import { type ApiClient, RESOURCES } from './api-client.js'
import { hex } from './beat-tracker.js'
import type { KubeObject } from './kube-object.js'

const QUEUE_MAX = 256
const KNOWN_MAX = 1024
const WINDOW_MS = 600_000
/** Different events about one object within the window; further ones are dropped. */
const PER_OBJECT_MAX = 40

/** Core v1 Event, as far as it is written here. */
export interface EventObject extends KubeObject {
  involvedObject: {
    apiVersion?: string
    kind?: string
    name?: string
    namespace?: string
    uid?: string
    resourceVersion?: string
  }
  reason: string
  message: string
  type: 'Normal' | 'Warning'
  source: { component: string; host?: string }
  count: number
  firstTimestamp: string
  lastTimestamp: string
  reportingComponent: string
  reportingInstance: string
}

export interface EventSubject {
  object: KubeObject
  /** Where the object itself does not say. */
  apiVersion?: string
  kind?: string
}

/**
 * Writes Events, in the background and in order. The same event again counts up the first one. Bounded: 256 wait, 40
 * different ones for each object in 10 minutes; what is above is dropped and counted in `dropped`. Never throws.
 */
export class EventRecorder {
  private readonly queue: { key: string; event: EventObject }[] = []
  /** Least recently written first. */
  private readonly known = new Map<string, { event: EventObject; atMs: number }>()
  private readonly perObject = new Map<string, { count: number; sinceMs: number }>()
  private readonly random
  private busy = false
  dropped = 0

  constructor(
    private readonly world: Pick<World, 'clock' | 'log' | 'random'>,
    private readonly client: ApiClient,
    private readonly options: { component: string; host?: string },
  ) {
    this.random = world.random.fork(`events/${options.component}`)
  }

  /** `reason` in UpperCamelCase, `message` for people. */
  record(subject: EventSubject, type: 'Normal' | 'Warning', reason: string, message: string): void {
    const { object } = subject
    const { name = '', namespace, uid = '', resourceVersion } = object.metadata
    const kind = object.kind ?? subject.kind ?? ''
    const key = [kind, namespace, name, uid, type, reason, message].join('\n')
    const now = this.world.clock.monotonicMs()
    const time = seconds(this.world.clock.nowMs())
    const waiting = this.queue.find((entry) => entry.key === key)
    if (waiting) {
      waiting.event.count++
      waiting.event.lastTimestamp = time
      return
    }
    if (this.queue.length >= QUEUE_MAX || this.tooMany(`${kind}/${namespace}/${name}/${uid}`, key, now)) {
      this.dropped++
      this.world.log.debug({ reason, name, namespace, dropped: this.dropped }, 'event dropped')
      return
    }
    const apiVersion = object.apiVersion ?? subject.apiVersion
    const event: EventObject = {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name: `${name.slice(0, 230)}.${hex(this.random.bytes(8))}`, namespace: namespace ?? 'default' },
      involvedObject: {
        kind,
        name,
        uid,
        ...(apiVersion === undefined ? {} : { apiVersion }),
        ...(namespace === undefined ? {} : { namespace }),
        ...(resourceVersion === undefined ? {} : { resourceVersion }),
      },
      reason,
      message: message.slice(0, 1024),
      type,
      source: {
        component: this.options.component,
        ...(this.options.host === undefined ? {} : { host: this.options.host }),
      },
      count: 1,
      firstTimestamp: time,
      lastTimestamp: time,
      reportingComponent: this.options.component,
      reportingInstance: this.options.host ?? '',
    }
    this.queue.push({ key, event })
    if (!this.busy) void this.write()
  }

  private tooMany(object: string, key: string, now: number): boolean {
    if (this.known.has(key)) return false
    const present = this.perObject.get(object)
    if (!present || now - present.sinceMs > WINDOW_MS) {
      this.perObject.delete(object)
      if (this.perObject.size >= KNOWN_MAX)
        for (const oldest of [...this.perObject.keys()].slice(0, 1)) this.perObject.delete(oldest)
      this.perObject.set(object, { count: 1, sinceMs: now })
      return false
    }
    return ++present.count > PER_OBJECT_MAX
  }

  private async write(): Promise<void> {
    this.busy = true
    for (let next = this.queue[0]; next; next = this.queue[0]) {
      const { key, event } = next
      const counted = event.count
      try {
        const known = this.known.get(key)
        const now = this.world.clock.monotonicMs()
        let written: EventObject | undefined
        if (known && now - known.atMs < WINDOW_MS) written = await this.countUp(known.event, event)
        written ??= await this.client.create<EventObject>(RESOURCES.events, event)
        this.known.delete(key)
        if (this.known.size >= KNOWN_MAX)
          for (const oldest of [...this.known.keys()].slice(0, 1)) this.known.delete(oldest)
        this.known.set(key, { event: written, atMs: now })
      } catch (error) {
        this.dropped++
        this.world.log.debug({ err: error, reason: event.reason, name: event.involvedObject.name }, 'event not written')
      }
      this.queue.shift()
      // The same happened again while it was being written.
      if (event.count > counted) this.queue.push({ key, event: { ...event, count: event.count - counted } })
    }
    this.busy = false
  }

  private async countUp(first: EventObject, event: EventObject): Promise<EventObject | undefined> {
    const { name = '', namespace = 'default' } = first.metadata
    const patch = { count: first.count + event.count, lastTimestamp: event.lastTimestamp }
    try {
      return await this.client.patch<EventObject>(RESOURCES.events, { namespace, name }, 'merge', patch)
    } catch (error) {
      if (error instanceof CallError && error.code === 'NotFound') return undefined
      throw error
    }
  }
}

function seconds(epochMs: number): string {
  return `${new Date(epochMs).toISOString().slice(0, 19)}Z`
}
