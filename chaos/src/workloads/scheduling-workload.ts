import type { Clock, Random } from '@capstan/actor'
import { parseQuantity } from '@capstan/api'
import type { Access, Json, Running, Workload, WorkloadResult } from '../harness/types.js'
import { ApiFollower } from './api-follower.js'
import { seenPod } from './desired-state.js'
import { podTemplate } from './pod-templates.js'
import type { ApiList, ApiObject, ApiPort, Connections, Method } from './ports.js'
import { Recording } from './recording.js'
import { between, choose, Crew, numberOf, type Options, runClock, until, withRetry } from './work.js'

/** What the scheduling workload tells its judge. */
export interface SchedulingMore {
  namespace: string
  bursts: number
  /** Pods that were bound, once each but for those in `rebound`. */
  bound: number
  rebound: string[]
  /** Nodes whose pods asked for more than the node can take, as one watch of all pods showed it. */
  overcommitted: string[]
  /** How full the fullest node was, as a share of its processors. */
  fullest: number
  leftOver: string[]
  lacks: string[]
}

const BEGIN_MS = 60_000
const BIND_MS = 20_000
const GONE_MS = 40_000
const STEP_MS = 200
const NODES_MAX = 200
/** A pod asks for this share of a node: more than two of them never fit beside a third of what is there anyway. */
const SHARE = 0.28
/** So many more pods than fit. */
const EXCESS = 1.2

/** Options: `everyMs` (4,000: between two bursts). */
export function schedulingWorkload(connect: (access: Access) => Connections): Workload {
  return {
    name: 'scheduling',
    about: 'bursts of pods that ask for more than all nodes can take; what does not fit must wait',
    promises: ['C4', 'C1'],
    lack: () => undefined,
    async start(access, random, options) {
      const work = new SchedulingWork(access, connect(access), random, options)
      await work.begin()
      return work
    },
  }
}

class SchedulingWork implements Running {
  readonly clock: Clock
  readonly recording: Recording
  private readonly crew: Crew
  private readonly namespace: string
  private readonly ports: ApiPort[]
  private readonly nodeOf = new Map<string, string>()
  private readonly rebound: string[] = []
  private readonly overcommitted: string[] = []
  private readonly lacks: string[] = []
  private readonly pods: ApiFollower
  /** Processors that each node can give, in thousandths. */
  private readonly allocatable = new Map<string, number>()
  private bursts = 0
  private fullest = 0
  private names = 0
  private ended: Promise<WorkloadResult> | undefined

  constructor(
    private readonly access: Access,
    connections: Connections,
    private readonly random: Random,
    private readonly options: Options | undefined,
  ) {
    this.clock = runClock(access)
    this.recording = new Recording(this.clock, 20_000)
    this.crew = new Crew(this.clock, this.recording)
    this.namespace = `chaos-${Math.floor(random.next() * 2 ** 32).toString(16)}`
    const open = () => connections.apis.map((api) => api.open())
    this.ports = open()
    this.pods = new ApiFollower({
      name: 'all pods',
      clock: this.clock,
      ports: open(),
      followed: {
        path: '/api/v1/pods',
        keyOf: ({ metadata }) => `${metadata.namespace}/${metadata.name}`,
        valueOf: () => '',
      },
      first: 0,
      eventsMax: 0,
      onEvent: ({ object }) => this.note(object),
    })
  }

  async begin(): Promise<void> {
    const namespace = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: this.namespace } }
    const nodes = await until(this.clock, BEGIN_MS, STEP_MS, async () => {
      await this.ask('create', 'POST', '/api/v1/namespaces', namespace)
      const answer = await choose(this.clock, this.random, this.ports).request<ApiList>(
        'GET',
        `/api/v1/nodes?limit=${NODES_MAX}`,
      )
      return answer.ok && answer.value.items.length > 0 && this.pods.reached > 0 ? answer.value.items : undefined
    })
    if (!nodes) throw new Error(`scheduling: no nodes could be listed in ${BEGIN_MS / 1000} s`)
    for (const { metadata, status } of nodes)
      this.allocatable.set(metadata.name, processors((status?.['allocatable'] as Record<string, string>)?.['cpu']))
    this.burstAgainAndAgain()
  }

  look() {
    return {
      counters: { ...this.recording.counters, bursts: this.bursts, 'pods bound': this.nodeOf.size },
      wrong: [...this.rebound, ...this.overcommitted].slice(0, 5),
    }
  }

  async settle(): Promise<void> {
    await this.crew.end()
  }

  stop(): Promise<WorkloadResult> {
    this.ended ??= this.conclude()
    return this.ended
  }

  private async conclude(): Promise<WorkloadResult> {
    await this.crew.end()
    const leftOver = await this.clear()
    await this.pods.stop()
    await this.ask('delete', 'DELETE', `/api/v1/namespaces/${this.namespace}`)
    for (const port of this.ports) port.close()
    const { namespace, bursts, rebound, overcommitted, fullest, lacks } = this
    const bound = this.nodeOf.size
    const more: SchedulingMore = { namespace, bursts, bound, rebound, overcommitted, fullest, leftOver, lacks }
    return {
      workload: 'scheduling',
      history: this.recording.history,
      watches: [],
      counters: this.look().counters,
      series: [],
      violations: [],
      more: more as unknown as Json,
    }
  }

  private burstAgainAndAgain(): void {
    const everyMs = numberOf(this.options, 'everyMs', 4000)
    this.crew.loop(async () => {
      await this.burst()
      return between(this.random, 0.5, 1.5) * everyMs
    })
  }

  /** More pods than fit, all at once; when nothing more is bound, all go. */
  private async burst(): Promise<void> {
    const least = Math.min(...this.allocatable.values())
    const request = Math.max(1, Math.floor(least * SHARE))
    const fit = [...this.allocatable.values()].reduce((sum, all) => sum + Math.floor(all / request), 0)
    const wanted = Math.ceil(fit * EXCESS)
    this.bursts++
    const made = Array.from({ length: wanted }, () => this.create(`burst-${++this.names}`, request))
    await Promise.all(made)
    let bound = -1
    // Nothing more for a while: the rest does not fit.
    await until(this.clock, BIND_MS, 2000, () => {
      const before = bound
      bound = this.own().filter((pod) => pod.node !== undefined).length
      return bound === before && bound > 0 ? true : undefined
    })
    await this.clear()
  }

  private async create(name: string, milli: number): Promise<void> {
    const { metadata, spec } = podTemplate(this.access.runtime, 'burst', 1, false)
    const [container] = spec.containers
    const object = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, ...metadata },
      spec: { ...spec, containers: [{ ...container, resources: { requests: { cpu: `${milli}m` } } }] },
    }
    await this.ask('create', 'POST', `/api/v1/namespaces/${this.namespace}/pods`, object)
  }

  private own() {
    return [...this.pods.objects.values()].filter(({ metadata }) => metadata.namespace === this.namespace).map(seenPod)
  }

  /** What is still there after a while, in words. */
  private async clear(): Promise<string[]> {
    const path = `/api/v1/namespaces/${this.namespace}/pods`
    let last = ['nothing could be seen']
    await until(this.clock, GONE_MS, 500, async () => {
      await this.ask('delete', 'DELETE', path)
      const answer = await choose(this.clock, this.random, this.ports).request<ApiList>('GET', path)
      if (answer.ok) last = answer.value.items.map(({ metadata }) => `pod ${metadata.name} is left over`)
      return answer.ok && last.length === 0 ? true : undefined
    })
    return last
  }

  private ask(operation: string, method: Method, path: string, body?: unknown) {
    return withRetry(this, this.random, this.ports, (port) =>
      this.recording.request(
        { process: 'burst', operation, key: path, endpoint: port.endpoint, isWrite: true },
        () => port.request(method, path, body),
        ({ metadata }) => ({ revision: Number(metadata?.resourceVersion ?? 0) }),
      ),
    )
  }

  /** At each event: what the watch has shown so far is a state that once was. */
  private note(object: ApiObject): void {
    const { uid, node, name } = seenPod(object)
    if (node === undefined) return
    const before = this.nodeOf.get(uid)
    if (before === undefined) this.nodeOf.set(uid, node)
    else if (before !== node) this.rebound.push(`pod ${name} (${uid}) was bound to ${before}, then to ${node}`)
    const all = this.allocatable.get(node)
    if (all === undefined || all === 0) return
    let asked = 0
    const names: string[] = []
    for (const other of this.pods.objects.values()) {
      const phase = other.status?.['phase']
      if (other.spec?.['nodeName'] !== node || phase === 'Failed' || phase === 'Succeeded') continue
      asked += requestOf(other)
      names.push(other.metadata.name)
    }
    this.fullest = Math.max(this.fullest, asked / all)
    if (asked > all && this.overcommitted.length < 20)
      this.overcommitted.push(
        `${node} can give ${all}m of processor; with ${name} its ${names.length} pods ask for ${asked}m: ${names.join(', ')}`,
      )
  }
}

const processors = (quantity: string | undefined) => (quantity === undefined ? 0 : parseQuantity(quantity).milli())

function requestOf({ spec }: ApiObject): number {
  const containers = (spec?.['containers'] ?? []) as { resources?: { requests?: Record<string, string> } }[]
  return containers.reduce((sum, { resources }) => sum + processors(resources?.requests?.['cpu']), 0)
}
