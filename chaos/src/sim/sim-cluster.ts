import { type ApiServerHandle, startApiServer } from '@capstan/apiserver'
import { type ApiClient, BusApiClient, type KubeObject } from '@capstan/client'
import { type ControllerManagerHandle, startControllerManager } from '@capstan/controller-manager'
import { HollowRules } from '@capstan/kube-proxy'
import { HollowRuntime } from '@capstan/kubelet'
import { grants, type Identity, identityToken, Subjects } from '@capstan/protocol'
import { type SchedulerHandle, startScheduler } from '@capstan/scheduler'
import type { SimRandom, Simulation, SimWorld } from '@capstan/sim'
import { type StoreHandle, startStore } from '@capstan/store'
import type { MemberState } from '../checkers/durability.js'
import type { FencedWrite } from '../checkers/objects.js'
import { addUp, storeBugs } from './scenario.js'
import { type SimHost, type SimNode, startSimNode } from './sim-node.js'

const CLUSTER = 'c'

/** Which components make one process; `group` is all that a node's process has started. */
const PROCESSES: Readonly<Record<string, readonly Identity['component'][]>> = {
  store: ['store'],
  control: ['apiserver', 'scheduler', 'controller-manager'],
  kubelet: ['kubelet', 'kube-proxy'],
  group: ['kubelet', 'kube-proxy'],
}

interface Master {
  store?: StoreHandle
  api?: ApiServerHandle
  scheduler?: SchedulerHandle
  manager?: ControllerManagerHandle
}

/** The whole of Capstan in the simulated world: masters and nodes as machines that the nemesis may crash. */
export class SimCluster {
  readonly masters: string[]
  readonly nodes: string[]
  readonly parts = new Map<string, Master>()
  readonly nodeParts = new Map<string, SimNode>()
  /** Acknowledged writes of leader-elected components. */
  readonly fencedWrites: FencedWrite[] = []
  readonly problems: string[] = []
  /** Of parts that are gone. */
  readonly counters: Record<string, number> = { lockTakeovers: 0, watchResumes: 0 }
  private readonly hosts = new Map<string, SimHost>()
  /** By machine and component: the latest. */
  private readonly worlds = new Map<string, SimWorld>()
  private readonly subjects = new Subjects(CLUSTER)
  private readonly starts = new Map<string, number>()
  private bootNumber = 0

  constructor(
    readonly simulation: Simulation,
    private readonly options: { masters: number; nodes: number; bug?: string },
  ) {
    this.masters = Array.from({ length: options.masters }, (_, i) => `master-${i}`)
    this.nodes = Array.from({ length: options.nodes }, (_, i) => `node-${i}`)
  }

  get machines(): string[] {
    return [...this.masters, ...this.nodes]
  }

  /** First start. */
  boot(): void {
    for (const machine of this.machines) this.start(machine, 'new')
  }

  /** Starts the processes of a machine that was restarted. */
  restart(machine: string): void {
    this.start(machine, 'existing')
  }

  /** SIGKILL to one process of a machine. @throws Error: it does not run */
  kill(machine: string, component: string): void {
    for (const world of this.running(machine, component)) world.process.kill()
  }

  /** SIGSTOP to one process of a machine, for so long. @throws Error: it does not run */
  pause(machine: string, component: string, durationMs: number): void {
    for (const world of this.running(machine, component)) world.process.pause(durationMs)
  }

  /** Starts a process that was killed, unless its machine is down or has started it anew. */
  revive(machine: string, component: string): void {
    const [first] = PROCESSES[component] ?? []
    const world = this.worlds.get(`${machine}/${first}`)
    if (!this.simulation.machine(machine).up || world === undefined || world.process.alive) return
    if (component === 'store') this.begin(machine, this.startStore(machine, 'existing'))
    else if (component === 'control') this.begin(machine, this.startControl(machine))
    else this.begin(machine, this.startKubelet(machine))
  }

  /** What each store that lives holds, by the index that it has applied. */
  async stateHashes(): Promise<MemberState[]> {
    const living = [...this.parts].filter(([name]) => this.worlds.get(`${name}/store`)?.process.alive)
    const states = await Promise.all(
      living.map(async ([member, { store }]) => store && { member, ...(await store.stateHash()) }),
    )
    return states.filter((state) => state !== undefined)
  }

  /** The master that leads the controllers, by the word of those who believe it. */
  controllers(): string | undefined {
    return this.masters.find((name) => {
      const isAlive = this.worlds.get(`${name}/controller-manager`)?.process.alive
      return isAlive === true && this.parts.get(name)?.manager?.leading === true
    })
  }

  /** Kills containers of a node; how many, and which, as the seed says. Returns of which pods. */
  async killContainers(node: string, count: number, random: SimRandom): Promise<string[]> {
    const runtime = this.hosts.get(node)?.runtime
    if (!runtime || !this.simulation.machine(node).up) throw new Error(`${node} is down`)
    const left = (await runtime.list()).containers.filter(({ state }) => state === 'running')
    const killed = Array.from({ length: Math.min(count, left.length) }, () => left.splice(random.int(left.length), 1))
    await Promise.all(killed.flat().map(({ id }) => runtime.stopContainer(id, 0)))
    return killed.flat().map(({ pod }) => pod.name)
  }

  private running(machine: string, component: string): SimWorld[] {
    const worlds = (PROCESSES[component] ?? []).flatMap((one) => this.worlds.get(`${machine}/${one}`) ?? [])
    const alive = worlds.filter(({ process }) => process.alive)
    if (alive.length === 0) throw new Error(`${component} of ${machine} does not run`)
    return alive
  }

  /** Who leads the store, by the word of those who believe it. */
  async leader(): Promise<string | undefined> {
    const told = await Promise.all(
      [...this.parts].map(async ([name, { store }]) => ({
        name,
        status: await store?.status().catch(() => undefined),
      })),
    )
    const leaders = told.filter(
      ({ name, status }) => status?.role === 'leader' && this.worlds.get(`${name}/store`)?.process.alive,
    )
    return leaders.sort((a, b) => (b.status?.term ?? 0) - (a.status?.term ?? 0))[0]?.name
  }

  /** A client outside the cluster's machines. */
  client(name: string): { client: ApiClient; world: SimWorld } {
    const world = this.world(name, { component: 'admin', name })
    return { client: new BusApiClient(world, { cluster: CLUSTER, machine: name }), world }
  }

  private start(machine: string, directory: 'new' | 'existing'): void {
    this.begin(machine, this.masters.includes(machine) ? this.startMaster(machine, directory) : this.startNode(machine))
  }

  private begin(machine: string, work: Promise<void>): void {
    const start = (this.starts.get(machine) ?? 0) + 1
    this.starts.set(machine, start)
    work.catch((error: unknown) => {
      // A start that a crash interrupted leaves nothing to say.
      if (this.simulation.machine(machine).up && start === this.starts.get(machine))
        this.problems.push(`${machine} does not start: ${error instanceof Error ? error.stack : String(error)}`)
    })
  }

  private async startMaster(name: string, emptyDirectory: 'new' | 'existing'): Promise<void> {
    void this.retire(name)
    this.parts.set(name, {})
    await Promise.all([this.startStore(name, emptyDirectory), this.startControl(name)])
  }

  private async startStore(name: string, emptyDirectory: 'new' | 'existing'): Promise<void> {
    const master = this.parts.get(name) as Master
    const { bug } = this.options
    const store = await startStore(this.world(name, { component: 'store', name }), {
      cluster: CLUSTER,
      clusterId: 'simulated',
      member: name,
      members: this.masters,
      emptyDirectory,
      // Each heartbeat of a calm second is time that nothing comes of; a fault lasts for longer than an election all the same.
      heartbeatMs: 150,
      electionTimeoutMs: 900,
      checkpointEntries: 200,
      // Whoever was away for longer than a checkpoint comes back by a snapshot.
      logKeepEntries: 10,
      compaction: 'off',
      ...storeBugs(bug),
    })
    master.store = store
    void store.ended.then((why) => {
      if (why !== undefined) this.problems.push(`store of ${name} gave up: ${String(why)}`)
    })
  }

  private async startControl(name: string): Promise<void> {
    const master = this.parts.get(name) as Master
    const { bug } = this.options
    master.api = startApiServer(this.world(name, { component: 'apiserver', name }), {
      cluster: CLUSTER,
      instance: name,
      machine: name,
      storeMembers: [name, ...this.masters.filter((m) => m !== name)],
      defaultNotReadyTolerationSeconds: 2,
      defaultUnreachableTolerationSeconds: 2,
      // Two schedulers that both lead for a moment are what a second binding takes; the fence would keep them apart.
      ...(bug === 'double-bind' ? { bugs: [bug, 'fence-left-out'] } : bug === 'fence-left-out' ? { bugs: [bug] } : {}),
    })
    const recorded = (world: SimWorld) => this.recording(new BusApiClient(world, { cluster: CLUSTER, machine: name }))
    const schedulerWorld = this.world(name, { component: 'scheduler', name })
    master.scheduler = startScheduler(schedulerWorld, { client: recorded(schedulerWorld), identity: name })
    const managerWorld = this.world(name, { component: 'controller-manager', name })
    master.manager = await startControllerManager(managerWorld, {
      cluster: CLUSTER,
      machine: name,
      client: recorded(managerWorld),
    })
  }

  private async startNode(name: string): Promise<void> {
    const containerd = this.world(name, { component: 'kubelet', name }, 'containerd')
    this.hosts.set(name, { runtime: new HollowRuntime(containerd), rules: new HollowRules() })
    await this.startKubelet(name)
  }

  private async startKubelet(name: string): Promise<void> {
    this.nodeParts.set(
      name,
      await startSimNode({
        name,
        cluster: CLUSTER,
        host: this.hosts.get(name) as SimHost,
        kubelet: this.world(name, { component: 'kubelet', name }),
        proxy: this.world(name, { component: 'kube-proxy', name }),
      }),
    )
  }

  /** Counts what a former life did. */
  async retire(name: string): Promise<void> {
    const former = this.parts.get(name)
    if (!former) return
    this.parts.delete(name)
    this.counters['lockTakeovers'] = (this.counters['lockTakeovers'] ?? 0) + (former.scheduler?.counters.takeOvers ?? 0)
    this.counters['watchResumes'] = (this.counters['watchResumes'] ?? 0) + (former.manager?.counters.watchResumes ?? 0)
    const { counters = {} } = (await former.store?.status().catch(() => undefined)) ?? {}
    addUp(this.counters, Object.fromEntries(Object.entries(counters).map(([what, n]) => [`store.${what}`, n])))
  }

  private world(machine: string, identity: Identity, process: string = identity.component): SimWorld {
    const token = identityToken(identity)
    const inbox = this.subjects.inbox(token, `${machine}-${++this.bootNumber}`)
    const world = this.simulation
      .machine(machine)
      .world({ identity: token, inbox, grants: grants(CLUSTER, identity), directory: identity.component })
    this.worlds.set(`${machine}/${process}`, world)
    return world
  }

  /** The same client; every acknowledged write under a fence is noted with the revision at which it committed. */
  private recording(client: ApiClient): ApiClient {
    const note = async <T extends KubeObject>(
      what: string,
      options: { fence?: { lock: { namespace: string; name: string }; token: string } } | undefined,
      run: () => Promise<T>,
    ): Promise<T> => {
      const result = await run()
      const revision = Number(result.metadata?.resourceVersion)
      if (options?.fence && Number.isFinite(revision) && revision > 0)
        this.fencedWrites.push({
          lock: `${options.fence.lock.namespace}/${options.fence.lock.name}`,
          token: Number(options.fence.token),
          revision,
          what,
        })
      return result
    }
    return {
      get: (...a) => client.get(...a),
      list: (...a) => client.list(...a),
      watch: (...a) => client.watch(...a),
      create: (resource, object, options) =>
        note(`create of ${resource.resource}`, options, () => client.create(resource, object, options)),
      update: (resource, object, options) =>
        note(`update of ${resource.resource} ${object.metadata.name}`, options, () =>
          client.update(resource, object, options),
        ),
      patch: (resource, ref, type, patch, options) =>
        note(`patch of ${resource.resource} ${ref.name}`, options, () =>
          client.patch(resource, ref, type, patch, options),
        ),
      delete: (...a) => client.delete(...a),
      deleteCollection: (...a) => client.deleteCollection(...a),
    }
  }
}
