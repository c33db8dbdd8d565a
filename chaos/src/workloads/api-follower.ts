import { type Clock, sleep } from '@capstan/actor'
import type { WatchRecord } from '../checkers/watch.js'
import type { ApiEvent, ApiList, ApiObject, ApiPort } from './ports.js'

const AGAIN_MS = 100
const LIST_TIMEOUT_MS = 10_000

/** What a follower is of: a resource in a namespace, or in all of them. */
export interface Followed {
  /** `/api/v1/namespaces/x/configmaps` */
  path: string
  /** The object's key, as in the store. Undefined: it is not the workload's, and does not count. */
  keyOf(object: ApiObject): string | undefined
  /** What of the object's content counts. */
  valueOf(object: ApiObject): string
}

/**
 * Lists, then watches, and goes on from its revision by the next endpoint whenever a watch ends: what it has been told must be
 * the same by whichever server. Only if a server says that the revision is too old does it list again (a new record).
 */
export class ApiFollower {
  readonly records: WatchRecord[] = []
  /** What it plainly got wrong, for S3. */
  readonly wrong: string[] = []
  /** By key, as told. */
  readonly objects = new Map<string, ApiObject>()
  /** Watches that were opened, and why they ended. */
  readonly endings: Record<string, number> = {}
  private record: WatchRecord | undefined
  private stopped = false
  private cancel: (() => void) | undefined
  private readonly loop: Promise<void>

  constructor(
    private readonly options: {
      name: string
      clock: Clock
      ports: readonly ApiPort[]
      followed: Followed
      /** Begins at this one. */
      first: number
      /** Keeps what it was told for the judge; more than this ends the follower. 0: keeps nothing. */
      eventsMax: number
      onEvent?(event: ApiEvent, key: string): void
      onList?(): void
    },
  ) {
    this.loop = this.run()
  }

  /** It has everything up to here; 0: nothing yet. */
  get reached(): number {
    return this.record?.toldUpTo ?? 0
  }

  async stop(): Promise<void> {
    this.stopped = true
    this.cancel?.()
    await this.loop
  }

  private async run(): Promise<void> {
    const { clock, ports, eventsMax, first } = this.options
    let events = 0
    for (let at = first; !this.stopped && (eventsMax === 0 || events < eventsMax); at++) {
      const port = ports[at % ports.length] as ApiPort
      if (this.record || (await this.list(port))) await this.watch(port)
      events = this.records.reduce((sum, record) => sum + record.events.length, 0)
      if (!this.stopped) await sleep(clock, AGAIN_MS)
    }
  }

  private async list(port: ApiPort): Promise<boolean> {
    const { followed, name, onList } = this.options
    const answer = await port.request<ApiList>('GET', followed.path, undefined, LIST_TIMEOUT_MS)
    if (!answer.ok) return false
    const revision = Number(answer.value.metadata.resourceVersion)
    this.record = { reader: name, fromRevision: revision + 1, events: [], toldUpTo: revision }
    if (this.options.eventsMax > 0) this.records.push(this.record)
    this.objects.clear()
    for (const object of answer.value.items) {
      const key = followed.keyOf(object)
      if (key !== undefined) this.objects.set(key, object)
    }
    onList?.()
    return true
  }

  private watch(port: ApiPort): Promise<void> {
    const { path } = this.options.followed
    const query = `watch=true&allowWatchBookmarks=true&resourceVersion=${this.reached}`
    return new Promise((resolve) => {
      this.cancel = port.watch(`${path}?${query}`, {
        event: (event) => this.take(event),
        end: (reason) => {
          const kind = reason.split(':')[0] as string
          this.endings[kind] = (this.endings[kind] ?? 0) + 1
          if (reason.startsWith('410')) this.record = undefined
          resolve()
        },
      })
    })
  }

  private take(event: ApiEvent): void {
    const { followed, onEvent, eventsMax } = this.options
    const { record } = this
    // After the word that its revision is too old nothing counts until it has listed again.
    if (!record) return
    const { type, object } = event
    if (type === 'ERROR') {
      if (object.code === 410) this.record = undefined
      this.cancel?.()
      return
    }
    const revision = Number(object.metadata.resourceVersion)
    record.toldUpTo = Math.max(record.toldUpTo, revision)
    const key = type === 'BOOKMARK' ? undefined : followed.keyOf(object)
    if (key === undefined) return
    const had = this.objects.has(key)
    if (had === (type === 'ADDED'))
      this.wrong.push(
        `${record.reader}: ${type} of ${key}@${revision}, which it ${had ? 'already had' : 'did not have'}`,
      )
    if (type === 'DELETED') this.objects.delete(key)
    else this.objects.set(key, object)
    if (eventsMax > 0)
      record.events.push({
        revision,
        key,
        type: type === 'DELETED' ? 'delete' : 'put',
        value: type === 'DELETED' ? '' : followed.valueOf(object),
      })
    onEvent?.(event, key)
  }
}
