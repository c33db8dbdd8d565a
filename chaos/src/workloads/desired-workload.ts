import type { Clock, Random } from '@capstan/actor'
import type { Access, Json, Running, Series, Workload, WorkloadResult } from '../harness/types.js'
import type { Undesired } from '../verdict/recoveries.js'
import { ApiFollower, type Followed } from './api-follower.js'
import { difference, type OwnerKind, seenOwner, seenPod, shortage, type View, type Wanted } from './desired-state.js'
import { type IdentityEvidence, IdentityWatch } from './identity-watch.js'
import { ownerObject, podTemplate, RESOURCE_OF } from './pod-templates.js'
import type { Answer, ApiList, ApiObject, ApiPort, Connections, Method } from './ports.js'
import { Recording, REQUESTS, SERIES } from './recording.js'
import { between, Crew, numberOf, type Options, pick, runClock, until, withRetry } from './work.js'

/** What a workload with pods tells its judge. */
export interface DesiredMore {
  namespace: string
  wanted: Wanted[]
  /** When it was not as wanted. */
  undesired: Undesired[]
  /** When pods that were wanted were missing. */
  short: Undesired[]
  /** The namespace at the end by each endpoint, before anything was tidied up. */
  last: { endpoint: string; view: View }[]
  /** Containers of its pods that lived at the end, if that can be seen: uid of the pod, and its node. */
  live?: { node: string; pod: string; podUid?: string }[]
  /** What was still there when all of it had been deleted and time was given. */
  leftOver: string[]
  /** Pods that were seen bound to one node and then to another. */
  rebound: string[]
  bound: number
  identity?: IdentityEvidence
  lacks: string[]
}

const BEGIN_MS = 120_000
const CHANGE_MS = 60_000
const TIDY_MS = 30_000
const SAMPLE_MS = 1000
const LIVE_MS = 250
const SERVICE_MS = 50
const SERVICE_TIMEOUT_MS = 1000
/** A change that was asked for so recently is why it is not as wanted now. */
const CHANGE_SHOWS_MS = 1000
const WEB = 'web'
const OWNERS: readonly OwnerKind[] = ['Deployment', 'ReplicaSet', 'StatefulSet']

/**
 * Options: `changeEveryMs` (6,000, the mean; 0 is not allowed: a large number stops it), `podsMax` (12), `acknowledgedInMs` (60,000).
 */
export function desiredWorkload(connect: (access: Access) => Connections): Workload {
  return {
    name: 'desired-state',
    about: 'Deployments, ReplicaSets and StatefulSets created, scaled, rolled and deleted; a Service under load',
    promises: ['C1', 'C3', 'C4'],
    lack: () => undefined,
    async start(access, random, options) {
      const work = new DesiredWork(access, connect(access), random, options)
      await work.begin()
      return work
    },
  }
}

class DesiredWork implements Running {
  readonly clock: Clock
  readonly recording: Recording
  private readonly crew: Crew
  private readonly namespace: string
  private readonly ports: ApiPort[] = []
  private readonly followers: ApiFollower[] = []
  private readonly wanted = new Map<string, Wanted>()
  private readonly undesired: Undesired[] = []
  private readonly short: Undesired[] = []
  private readonly lacks: string[] = []
  private readonly nodeOf = new Map<string, string>()
  private readonly rebound: string[] = []
  private readonly identity: IdentityWatch
  private readonly points: Record<string, [number, number][]> = {}
  private pods: ApiFollower | undefined
  private owners: Record<OwnerKind, ApiFollower> | undefined
  private changing: string | undefined
  private changedMs = 0
  private names = 0
  private answers = 0
  private last: DesiredMore['last'] = []
  private ended: Promise<WorkloadResult> | undefined
  private settled: Promise<void> | undefined
  /** A change that nobody acknowledges for so long ends its repetition, and is told. */
  private readonly acknowledgedInMs: number

  constructor(
    private readonly access: Access,
    private readonly connections: Connections,
    private readonly random: Random,
    private readonly options: Options | undefined,
  ) {
    this.clock = runClock(access)
    this.recording = new Recording(this.clock, 20_000)
    this.crew = new Crew(this.clock, this.recording)
    this.namespace = `chaos-${Math.floor(random.next() * 2 ** 32).toString(16)}`
    this.identity = new IdentityWatch()
    this.acknowledgedInMs = numberOf(options, 'acknowledgedInMs', CHANGE_MS)
  }

  async begin(): Promise<void> {
    const founder = this.client()
    const namespace = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: this.namespace } }
    await this.insist(founder, 'create', this.namespace, 'POST', '/api/v1/namespaces', namespace)
    const follow = (path: string, more: Partial<ConstructorParameters<typeof ApiFollower>[0]> = {}) => {
      const followed: Followed = { path, keyOf: ({ metadata }) => metadata.name, valueOf: () => '' }
      const follower = new ApiFollower({
        name: path,
        clock: this.clock,
        ports: this.client(),
        followed,
        first: this.followers.length,
        eventsMax: 0,
        onEvent: () => this.assess(),
        onList: () => this.assess(),
        ...more,
      })
      this.followers.push(follower)
      return follower
    }
    this.pods = follow(this.podPath, {
      onEvent: ({ object }) => {
        this.notePod(object)
        this.assess()
      },
      onList: () => {
        for (const object of this.pods?.objects.values() ?? []) this.notePod(object)
        this.assess()
      },
    })
    this.owners = {
      Deployment: follow(this.ownerPath('Deployment')),
      ReplicaSet: follow(this.ownerPath('ReplicaSet')),
      StatefulSet: follow(this.ownerPath('StatefulSet')),
    }
    for (const [kind, name, replicas] of [
      ['Deployment', WEB, 3],
      ['StatefulSet', 'db', 2],
      ['ReplicaSet', 'set', 1],
    ] as const)
      await this.want(founder, { kind, name, replicas, template: 1 })
    const address = await this.service(founder)
    const there = await until(this.clock, BEGIN_MS, 100, () => (this.missing() === undefined ? true : undefined))
    if (!there) throw new Error(`desired-state: not there after ${BEGIN_MS / 1000} s: ${this.missing()}`)
    this.undesired.length = 0
    this.short.length = 0
    this.changes(founder, this.random.fork('changes'))
    this.sample()
    if (address !== undefined) this.load(`http://${address}/`)
  }

  look() {
    return {
      counters: this.recording.counters,
      wrong: [...this.rebound, ...this.identity.doubles].slice(0, 5),
    }
  }

  isAsDesired(): Promise<string | undefined> {
    return Promise.resolve(this.changing ?? this.missing())
  }

  settle(): Promise<void> {
    // Who counts answers and looks at containers goes on; only changes end.
    this.settled ??= until(this.clock, CHANGE_MS, 20, () => {
      this.settling = true
      return this.changing === undefined ? true : undefined
    }).then(() => undefined)
    return this.settled
  }
  private settling = false

  stop(): Promise<WorkloadResult> {
    this.ended ??= this.conclude()
    return this.ended
  }

  private async conclude(): Promise<WorkloadResult> {
    await this.settle()
    const client = this.client()
    await this.crew.end()
    this.last = (
      await Promise.all(
        client.map(async (port) => {
          const view = await until(this.clock, 10_000, 200, () => this.view(port))
          if (!view) this.lacks.push(`${port.endpoint} did not show what is there at the end`)
          return view ? [{ endpoint: port.endpoint, view }] : []
        }),
      )
    ).flat()
    const uids = new Set(this.nodeOf.keys())
    const live = await this.liveOf(uids)
    for (const follower of this.followers) await follower.stop()
    const wanted = [...this.wanted.values()]
    const leftOver = await this.tidyUp(client, uids)
    for (const port of this.ports) port.close()
    const identity = this.identity.evidence(this.access.liveContainers !== undefined)
    const more: DesiredMore = {
      namespace: this.namespace,
      wanted,
      undesired: this.undesired,
      short: this.short,
      last: this.last,
      ...(live === undefined ? {} : { live }),
      leftOver,
      rebound: this.rebound,
      bound: this.nodeOf.size,
      identity,
      lacks: this.lacks,
    }
    return {
      workload: 'desired-state',
      history: this.recording.history,
      watches: [],
      counters: this.recording.counters,
      series: this.series(),
      desired: wanted.map(({ kind, name, replicas }) => ({ namespace: this.namespace, kind, name, replicas })),
      violations: this.followers
        .flatMap(({ wrong }) => wrong)
        .map((text) => ({ promise: 'S3', text, evidence: [text] })),
      more: more as unknown as Json,
    }
  }

  /** Deletes all of it and gives it time to go. */
  private async tidyUp(client: ApiPort[], uids: ReadonlySet<string>): Promise<string[]> {
    const wanted = [...this.wanted.values()]
    this.wanted.clear()
    for (const { kind, name } of wanted) await this.insist(client, 'delete', name, 'DELETE', this.ownerPath(kind, name))
    let last: string[] = ['nothing could be seen']
    await until(this.clock, TIDY_MS, 300, async () => {
      const view = await this.view(pick(this.random, client))
      const live = await this.liveOf(uids)
      if (view)
        last = [
          ...difference([], view),
          ...view.pods
            .filter((pod) => pod.phase !== 'Running')
            .map((pod) => `pod ${pod.name} (${pod.phase}) is left over`),
          ...(live ?? []).map(({ node, pod }) => `a container of pod ${pod} lives on ${node}`),
        ]
      return view && last.length === 0 ? true : undefined
    })
    await this.insist(client, 'delete', this.namespace, 'DELETE', `/api/v1/namespaces/${this.namespace}`)
    return last
  }

  // ---------------------------------------------------------------------------------------------------- what is there

  private async view(port: ApiPort): Promise<View | undefined> {
    const [pods, ...owners] = await Promise.all([
      port.request<ApiList>('GET', this.podPath),
      ...OWNERS.map((kind) => port.request<ApiList>('GET', this.ownerPath(kind))),
    ])
    if (!pods?.ok) return undefined
    const seen = owners.map((answer, at) =>
      answer.ok ? answer.value.items.map((object) => seenOwner(OWNERS[at] as OwnerKind, object)) : undefined,
    )
    if (seen.includes(undefined)) return undefined
    return { owners: seen.flat() as View['owners'], pods: pods.value.items.map(seenPod) }
  }

  private get followedView(): View {
    const { owners } = this
    return {
      owners: owners
        ? OWNERS.flatMap((kind) => [...owners[kind].objects.values()].map((object) => seenOwner(kind, object)))
        : [],
      pods: [...(this.pods?.objects.values() ?? [])].map(seenPod),
    }
  }

  private missing(): string | undefined {
    if (this.followers.some((follower) => follower.reached === 0)) return 'nothing is known yet'
    return difference([...this.wanted.values()], this.followedView)[0]
  }

  /** At each event: has it become as wanted, or ceased to be? */
  private assess(): void {
    this.note(this.undesired, this.missing())
    this.note(this.short, shortage([...this.wanted.values()], this.followedView.pods))
  }

  private note(spans: Undesired[], why: string | undefined): void {
    const nowMs = this.clock.monotonicMs()
    const open = spans.at(-1)
    const isOpen = open !== undefined && open.toMs === undefined
    if (why !== undefined && !isOpen) {
      const byChange = this.changing !== undefined || nowMs - this.changedMs < CHANGE_SHOWS_MS
      spans.push({ fromMs: nowMs, why, ...(byChange ? { byChange } : {}) })
    } else if (why === undefined && isOpen) open.toMs = nowMs
    else if (why !== undefined && isOpen) open.why = why
  }

  /** C4 and C3: where a pod is bound, and when its containers lived by what its kubelet says. */
  private notePod(object: ApiObject): void {
    const { uid, node, name, app } = seenPod(object)
    if (node !== undefined) {
      const before = this.nodeOf.get(uid)
      if (before !== undefined && before !== node)
        this.rebound.push(`pod ${name} (${uid}) was bound to ${before}, then to ${node}`)
      else this.nodeOf.set(uid, node)
    }
    if (this.wanted.get(app)?.kind === 'StatefulSet') this.identity.told(name, uid, node ?? '', object.status)
  }

  private async liveOf(uids: ReadonlySet<string>): Promise<DesiredMore['live']> {
    const all = await this.access.liveContainers?.().catch(() => undefined)
    return all
      ?.filter(({ podUid }) => podUid !== undefined && uids.has(podUid))
      .map(({ node, pod, podUid }) => ({
        node,
        pod,
        ...(podUid === undefined ? {} : { podUid }),
      }))
  }

  private sample(): void {
    const point = (name: string, value: number) => {
      const points = (this.points[name] ??= [])
      points.push([Math.round(this.clock.monotonicMs()), value])
    }
    this.crew.loop(async () => {
      point(SERIES.ready, this.followedView.pods.filter((pod) => pod.ready && !pod.deleting).length)
      point(
        SERIES.wanted,
        [...this.wanted.values()].reduce((sum, { replicas }) => sum + replicas, 0),
      )
      if (this.answers >= 0) point(SERIES.answers, this.answers)
      this.answers = 0
      return SAMPLE_MS
    })
    const { liveContainers } = this.access
    if (!liveContainers) return
    this.crew.loop(async () => {
      const askedMs = this.clock.monotonicMs()
      try {
        this.identity.saw(askedMs, await liveContainers())
      } catch {
        // A look that fails is a longer time without one: that is told.
        this.recording.count('looks at containers that failed')
      }
      return LIVE_MS
    })
  }

  private series(): Series[] {
    const units: Record<string, string> = { [SERIES.ready]: 'pods', [SERIES.wanted]: 'pods', [SERIES.answers]: '1/s' }
    return Object.entries(this.points).map(([name, points]) => ({ name, unit: units[name] ?? '', points }))
  }

  // ----------------------------------------------------------------------------------------------------- what is asked

  /** One change after the other: each is repeated until it is acknowledged, so that what is wanted is always known. */
  private changes(client: ApiPort[], random: Random): void {
    const everyMs = numberOf(this.options, 'changeEveryMs', 6000)
    const podsMax = numberOf(this.options, 'podsMax', 12)
    this.crew.loop(async () => {
      await this.crew.pause(between(random, 0.5, 1.5) * everyMs)
      if (this.crew.isOver || this.settling) return SAMPLE_MS
      const all = [...this.wanted.values()]
      const total = all.reduce((sum, { replicas }) => sum + replicas, 0)
      const one = pick(random, all)
      const dice = random.next()
      if (dice < 0.35) {
        const most = Math.max(1, Math.min(4, one.replicas + podsMax - total))
        await this.want(client, { ...one, replicas: 1 + random.int(most) })
      } else if (dice < 0.65 && one.kind !== 'ReplicaSet')
        await this.want(client, { ...one, template: one.template + 1 })
      else if (dice < 0.85 && total + 2 <= podsMax && all.length < 6) {
        const kind = pick(random, OWNERS)
        await this.want(client, {
          kind,
          name: `${kind.toLowerCase()}-${++this.names}`,
          replicas: 1 + random.int(2),
          template: 1,
        })
      } else if (all.length > 3 && one.name !== WEB) await this.unwant(client, one)
      return 0
    })
  }

  private async want(client: ApiPort[], wanted: Wanted): Promise<void> {
    const { kind, name, replicas, template } = wanted
    const before = this.wanted.get(name)
    const serves = name === WEB && this.access.runtime === 'containerd'
    this.begins(`${kind} ${name} is being changed`)
    this.wanted.set(name, wanted)
    const { runtime } = this.access
    await (before
      ? this.insist(client, 'change', name, 'PATCH', this.ownerPath(kind, name), {
          spec: { replicas, template: { metadata: podTemplate(runtime, name, template, serves).metadata } },
        })
      : this.insist(client, 'create', name, 'POST', this.ownerPath(kind), ownerObject(runtime, wanted, serves)))
    this.done()
  }

  private async unwant(client: ApiPort[], { kind, name }: Wanted): Promise<void> {
    this.begins(`${kind} ${name} is being deleted`)
    this.wanted.delete(name)
    await this.insist(client, 'delete', name, 'DELETE', this.ownerPath(kind, name))
    this.done()
  }

  private begins(what: string): void {
    this.changing = what
    this.changedMs = this.clock.monotonicMs()
    this.assess()
  }

  private done(): void {
    this.changing = undefined
    this.changedMs = this.clock.monotonicMs()
    this.assess()
  }

  /** Undefined: this run has nobody who could reach a Service. */
  private async service(client: ApiPort[]): Promise<string | undefined> {
    const path = `/api/v1/namespaces/${this.namespace}/services`
    const object = {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: WEB },
      spec: { selector: { app: WEB }, ports: [{ port: 80 }] },
    }
    await this.insist(client, 'create', `service ${WEB}`, 'POST', path, object)
    if (!this.access.reachesPods || this.access.runtime !== 'containerd' || !this.connections.get) return undefined
    return until(this.clock, CHANGE_MS, 200, async () => {
      const answer = await pick(this.random, client).request('GET', `${path}/${WEB}`)
      return answer.ok ? (answer.value.spec?.['clusterIP'] as string | undefined) : undefined
    })
  }

  /** A client of the Service that counts its answers: a connection for each request, once more if it fails. */
  private load(url: string): void {
    const { get } = this.connections
    const { recording } = this
    this.crew.loop(async () => {
      recording.count(REQUESTS.all)
      recording.count('service requests')
      if (await get?.(url, SERVICE_TIMEOUT_MS)) this.answers++
      else {
        recording.count(REQUESTS.failed)
        recording.count('service requests failed')
        if (await get?.(url, SERVICE_TIMEOUT_MS)) this.answers++
        else {
          recording.count(REQUESTS.failedTwice)
          recording.count('service requests failed after retry')
        }
      }
      return SERVICE_MS
    })
  }

  /** Until it is acknowledged: creating what is there and deleting what is gone count as done. */
  private async insist(
    client: ApiPort[],
    operation: string,
    key: string,
    method: Method,
    path: string,
    body?: unknown,
  ): Promise<void> {
    let refusal: string | undefined
    let last = ''
    const done = await until(this.clock, this.acknowledgedInMs, 100, async () => {
      const answer: Answer<ApiObject> = await withRetry(this, this.random, client, (port) =>
        this.recording.request(
          { process: 'desire', operation, key, endpoint: port.endpoint, isWrite: true },
          () => port.request(method, path, body),
          (object) => ({ revision: Number(object.metadata?.resourceVersion ?? 0) }),
        ),
      )
      if (answer.ok || ['AlreadyExists', 'NotFound'].includes(answer.code)) return true
      last = `${answer.code}: ${answer.text}`
      // A namespace that was just made may be unknown to another server for a moment; what is refused for good ends it.
      if (answer.answered && answer.code === 'Invalid') refusal = answer.text
      return refusal === undefined ? undefined : true
    })
    if (refusal !== undefined) throw new Error(`desired-state: ${operation} of ${key} was refused: ${refusal}`)
    if (!done)
      this.lacks.push(`${operation} of ${key} was not acknowledged in ${this.acknowledgedInMs / 1000} s; last: ${last}`)
  }

  private client(): ApiPort[] {
    const ports = this.connections.apis.map(({ open }) => open())
    this.ports.push(...ports)
    return ports
  }

  private get podPath(): string {
    return `/api/v1/namespaces/${this.namespace}/pods`
  }

  private ownerPath(kind: OwnerKind, name?: string): string {
    const list = `/apis/apps/v1/namespaces/${this.namespace}/${RESOURCE_OF[kind]}`
    return name === undefined ? list : `${list}/${name}`
  }
}
