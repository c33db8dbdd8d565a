import type { Clock, Random } from '@capstan/actor'
import type { Access, Json, Running, Workload, WorkloadResult } from '../harness/types.js'
import { ApiFollower } from './api-follower.js'
import type { Answer, ApiList, ApiObject, ApiPort, Connections, Failure, Method } from './ports.js'
import { Recording } from './recording.js'
import { between, Crew, numberOf, type Options, pick, runClock, until, withRetry } from './work.js'

/** What the API workload tells its judge beside the history and the watches. */
export interface ApiMore {
  namespace: string
  /** Keys of the store below which its objects stand. */
  prefix: string
  /** Every object that was there at the end, by each endpoint. */
  last: { endpoint: string; revision: number; objects: { key: string; value: string; revision: number }[] }[]
  lacks: string[]
}

const NAMES = 6
/** Names live for so many requests, so that the search for an order stays small however long the run is. */
const REQUESTS_PER_GENERATION = 200
const SETTLE_MS = 30_000
const LIST_TIMEOUT_MS = 10_000

interface Client {
  name: string
  ports: ApiPort[]
  random: Random
}

/** Options: `requestsMax` (60,000), `pauseMs` (100, the mean), `minutes` (10: how long it lasts, about), `clients` (3). */
export function apiWorkload(connect: (access: Access) => Connections): Workload {
  return {
    name: 'api',
    about:
      'create, update, patch, delete, list and watch of ConfigMaps by several clients through all masters; bad requests',
    promises: ['S1', 'S2', 'S3', 'A1'],
    lack: () => undefined,
    async start(access, random, options) {
      const work = new ApiWork(access, connect(access), random, options)
      await work.begin()
      return work
    },
  }
}

class ApiWork implements Running {
  readonly clock: Clock
  readonly recording: Recording
  private readonly crew: Crew
  private readonly namespace: string
  private readonly pauseMs: number
  private readonly clients: number
  private readonly ports: ApiPort[] = []
  private readonly followers: ApiFollower[] = []
  private readonly last: ApiMore['last'] = []
  private readonly lacks: string[] = []
  private readonly bad: string[] = []
  private requests = 0
  private values = 0
  private settled: Promise<void> | undefined
  private ended: Promise<WorkloadResult> | undefined

  constructor(
    access: Access,
    private readonly connections: Connections,
    private readonly random: Random,
    options: Options | undefined,
  ) {
    this.clock = runClock(access)
    this.pauseMs = numberOf(options, 'pauseMs', 100) * Math.max(1, numberOf(options, 'minutes', 10) / 10)
    this.clients = numberOf(options, 'clients', 3)
    this.recording = new Recording(this.clock, numberOf(options, 'requestsMax', 60_000))
    this.crew = new Crew(this.clock, this.recording)
    this.namespace = `chaos-${Math.floor(random.next() * 2 ** 32).toString(16)}`
  }

  async begin(): Promise<void> {
    const { clock } = this
    const founder = this.client('founder')
    const made = await until(clock, SETTLE_MS, 200, async () => {
      const object = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: this.namespace } }
      const answer = await pick(this.random, founder.ports).request('POST', '/api/v1/namespaces', object)
      return answer.ok || answer.code === 'AlreadyExists' ? true : undefined
    })
    if (!made) throw new Error(`the namespace ${this.namespace} could not be made in ${SETTLE_MS / 1000} s`)
    this.connections.apis.forEach(({ endpoint }, first) =>
      this.followers.push(
        new ApiFollower({
          name: `follower-${first}, first by ${endpoint}`,
          clock,
          ports: this.connections.apis.map(({ open }) => this.opened(open())),
          followed: {
            path: this.path(),
            keyOf: (object) => (isOurs(object) ? this.keyOf(object) : undefined),
            valueOf,
          },
          first,
          eventsMax: 100_000,
        }),
      ),
    )
    // What happens before a follower's first list nobody tells.
    const listed = await until(clock, SETTLE_MS, 50, () =>
      this.followers.every((follower) => follower.reached > 0) ? true : undefined,
    )
    if (!listed) throw new Error(`not every API server listed ConfigMaps in ${SETTLE_MS / 1000} s`)
    for (let n = 0; n < this.clients; n++) this.work(this.client(`client-${n}`))
    this.askBadly(this.client('clumsy'))
  }

  look() {
    return {
      counters: this.recording.counters,
      wrong: [...this.bad, ...this.followers.flatMap((follower) => follower.wrong)].slice(0, 5),
    }
  }

  settle(): Promise<void> {
    this.settled ??= this.finish()
    return this.settled
  }

  stop(): Promise<WorkloadResult> {
    this.ended ??= this.conclude()
    return this.ended
  }

  /** All that is there, by every endpoint; then a last write, which every follower must get: what came late came before it. */
  private async finish(): Promise<void> {
    await this.crew.end()
    if (this.recording.isFull) this.lacks.push('it ended by itself at its bound: what came later was not tested')
    const { clock } = this
    const client = this.client('last')
    await Promise.all(
      client.ports.map(async (port) => {
        const list = await until(clock, SETTLE_MS, 200, async () => {
          const answer = await port.request<ApiList>('GET', this.path(), undefined, LIST_TIMEOUT_MS)
          return answer.ok ? answer.value : undefined
        })
        if (!list) return this.lacks.push(`${port.endpoint} gave no last list in ${SETTLE_MS / 1000} s`)
        return this.last.push({
          endpoint: port.endpoint,
          revision: Number(list.metadata.resourceVersion),
          objects: list.items.filter(isOurs).map((object) => ({
            key: this.keyOf(object),
            value: valueOf(object),
            revision: Number(object.metadata.resourceVersion),
          })),
        })
      }),
    )
    const marker = await until(clock, SETTLE_MS, 200, async () => {
      const answer = await this.create(client, `marker-${this.values}`)
      return answer.ok ? Number(answer.value.metadata.resourceVersion) : undefined
    })
    if (marker === undefined) this.lacks.push(`no last write in ${SETTLE_MS / 1000} s`)
    await Promise.all(
      this.followers.map(async (follower, at) => {
        const arrived = await until(clock, SETTLE_MS, 50, () =>
          marker !== undefined && follower.reached >= marker ? true : undefined,
        )
        if (!arrived) this.lacks.push(`the watch of follower-${at} did not come to the end`)
        await follower.stop()
      }),
    )
  }

  private async conclude(): Promise<WorkloadResult> {
    await this.settle()
    const more: ApiMore = { namespace: this.namespace, prefix: this.prefix, last: this.last, lacks: this.lacks }
    const port = pick(this.random, this.ports)
    await port.request('DELETE', this.path(), undefined, LIST_TIMEOUT_MS)
    await port.request('DELETE', `/api/v1/namespaces/${this.namespace}`)
    for (const one of this.ports) one.close()
    return {
      workload: 'api',
      history: this.recording.history,
      watches: this.followers.flatMap((follower) => follower.records),
      counters: this.recording.counters,
      series: this.recording.series(),
      violations: [
        ...this.followers.flatMap(({ wrong }) => wrong).map((text) => ({ promise: 'S3', text, evidence: [text] })),
        ...this.bad.map((text) => ({ promise: 'A1', text, evidence: [text] })),
      ],
      more: more as unknown as Json,
    }
  }

  private opened(port: ApiPort): ApiPort {
    this.ports.push(port)
    return port
  }

  private client(name: string): Client {
    return {
      name,
      ports: this.connections.apis.map(({ open }) => this.opened(open())),
      random: this.random.fork(name),
    }
  }

  private get prefix(): string {
    return `/registry/core/configmaps/${this.namespace}/`
  }

  private readonly keyOf = (object: { metadata: { name: string } }) => `${this.prefix}${object.metadata.name}`

  private path(name?: string): string {
    return `/api/v1/namespaces/${this.namespace}/configmaps${name === undefined ? '' : `/${name}`}`
  }

  private pauseOf({ random }: Client): number {
    return between(random, 0.5, 1.5) * this.pauseMs
  }

  // ----------------------------------------------------------------------------------------------------- the clients

  private work(client: Client): void {
    const { random } = client
    const known = new Map<string, ApiObject>()
    this.crew.loop(async () => {
      const generation = `g${String(Math.floor(this.requests++ / REQUESTS_PER_GENERATION)).padStart(5, '0')}`
      const name = `${generation}-${random.int(NAMES)}`
      const dice = random.next()
      if (dice < 0.25) await this.create(client, name, generation, known)
      else if (dice < 0.45) await this.get(client, name, known)
      else if (dice < 0.65) await this.update(client, name, known)
      else if (dice < 0.8) await this.patch(client, name)
      else if (dice < 0.9) await this.remove(client, name)
      else await this.list(client, generation)
      return this.pauseOf(client)
    })
  }

  private create(client: Client, name: string, generation = '', known?: Map<string, ApiObject>) {
    return this.change(client, 'create', name, (value) => {
      const metadata = { name, ...(generation === '' ? {} : { labels: { generation } }) }
      return {
        argument: { value },
        method: 'POST' as const,
        path: this.path(),
        body: { apiVersion: 'v1', kind: 'ConfigMap', metadata, data: { v: value } },
        done: (object) => known?.set(name, object),
      }
    })
  }

  /** With the resourceVersion that this client saw last: often an old one, then it must be refused. */
  private async update(client: Client, name: string, known: Map<string, ApiObject>): Promise<void> {
    const seen = known.get(name)
    if (!seen) return this.get(client, name, known)
    const expected = Number(seen.metadata.resourceVersion)
    await this.change(client, 'update', name, (value) => ({
      argument: { value, expected },
      method: 'PUT' as const,
      path: this.path(name),
      body: { ...seen, data: { v: value } },
      done: (object) => known.set(name, object),
    }))
  }

  private patch(client: Client, name: string) {
    return this.change(client, 'patch', name, (value) => ({
      argument: { value },
      method: 'PATCH' as const,
      path: this.path(name),
      body: { data: { v: value } },
    }))
  }

  private remove(client: Client, name: string) {
    return this.change(client, 'delete', name, () => ({ method: 'DELETE' as const, path: this.path(name) }))
  }

  private async get(client: Client, name: string, known: Map<string, ApiObject>): Promise<void> {
    await withRetry(this, client.random, client.ports, (port) =>
      this.recording.request(
        {
          process: client.name,
          operation: 'get',
          key: this.keyOf({ metadata: { name } }),
          endpoint: port.endpoint,
          isWrite: false,
        },
        () => port.request('GET', this.path(name)),
        (object) => {
          known.set(name, object)
          return { value: valueOf(object), revision: Number(object.metadata.resourceVersion) }
        },
        verdictOf,
      ),
    )
  }

  private async list(client: Client, generation: string): Promise<void> {
    const key = `${this.prefix}${generation}-`
    await withRetry(this, client.random, client.ports, (port) =>
      this.recording.request(
        { process: client.name, operation: 'list', key, endpoint: port.endpoint, isWrite: false },
        () => port.request<ApiList>('GET', `${this.path()}?labelSelector=generation%3D${generation}`),
        ({ items, metadata }) => ({
          revision: Number(metadata.resourceVersion),
          value: items.map((object) => ({
            key: this.keyOf(object),
            value: valueOf(object),
            revision: Number(object.metadata.resourceVersion),
          })),
        }),
      ),
    )
  }

  /** `make` is called for each attempt with a value of its own. */
  private change(
    client: Client,
    operation: string,
    name: string,
    make: (value: string) => {
      argument?: Json
      method: Method
      path: string
      body?: unknown
      done?: (object: ApiObject) => void
    },
  ): Promise<Answer<ApiObject>> {
    return withRetry(this, client.random, client.ports, (port) => {
      const { argument, method, path, body, done } = make(`${client.name}#${++this.values}`)
      return this.recording.request(
        {
          process: client.name,
          operation,
          key: this.keyOf({ metadata: { name } }),
          ...(argument === undefined ? {} : { argument }),
          endpoint: port.endpoint,
          isWrite: true,
        },
        () => port.request(method, path, body),
        (object) => {
          if (method === 'DELETE') return { value: 'done' }
          done?.(object)
          return { value: 'done', revision: Number(object.metadata.resourceVersion) }
        },
        verdictOf,
      )
    })
  }

  /** Promise A1: what is wrong is refused with a Status that says what and where, and changes nothing. */
  private askBadly(client: Client): void {
    const requests = badRequests(this.path())
    let next = 0
    this.crew.loop(async () => {
      const { what, method, path, body, says } = requests[next++ % requests.length] as BadRequest
      const port = pick(client.random, client.ports)
      this.recording.count('bad requests')
      const answer = await port.request(method, path, body)
      if (answer.ok) this.bad.push(`${what}: ${port.endpoint} took it`)
      else if (answer.answered && !says.test(answer.text))
        this.bad.push(`${what}: ${port.endpoint} says only ${answer.code}: ${answer.text}`)
      else if (answer.code === 'InternalError') this.bad.push(`${what}: ${port.endpoint} answered 500: ${answer.text}`)
      return 10 * this.pauseOf(client)
    })
  }
}

/** The control plane puts a ConfigMap of its own into every namespace. */
const isOurs = (object: ApiObject) => object.metadata.name !== 'kube-root-ca.crt'
const valueOf = (object: ApiObject) => object.data?.['v'] ?? ''

/** Refusals that say something of the object's state. */
function verdictOf({ code }: Failure): { value: Json } | undefined {
  return ['AlreadyExists', 'NotFound', 'Conflict'].includes(code) ? { value: code } : undefined
}

interface BadRequest {
  what: string
  method: Method
  path: string
  body: unknown
  /** What the message must name. */
  says: RegExp
}

function badRequests(path: string): BadRequest[] {
  const object = (metadata: object, more: object = {}) => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata, ...more })
  return [
    { what: 'a name that is none', method: 'POST', path, body: object({ name: 'Not_A_Name' }), says: /name/i },
    { what: 'no name', method: 'POST', path, body: object({}), says: /name/i },
    { what: 'data of a wrong type', method: 'POST', path, body: object({ name: 'bad-1' }, { data: 5 }), says: /data/ },
    {
      what: 'a label that is none',
      method: 'POST',
      path,
      body: object({ name: 'bad-2', labels: { a: 'b c' } }),
      says: /label/i,
    },
    {
      what: 'another kind',
      method: 'POST',
      path,
      body: { ...object({ name: 'bad-3' }), kind: 'Secret' },
      says: /kind|ConfigMap/i,
    },
    {
      what: 'another namespace',
      method: 'POST',
      path,
      body: object({ name: 'bad-4', namespace: 'elsewhere' }),
      says: /namespace/i,
    },
    { what: 'two names', method: 'PUT', path: `${path}/bad-5`, body: object({ name: 'bad-6' }), says: /name/i },
    { what: 'a list in place of an object', method: 'POST', path, body: [1], says: /./ },
  ]
}
