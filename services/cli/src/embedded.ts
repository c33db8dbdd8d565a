/** A whole cluster in one process: every component of every machine, over the in-process bus. */
import { join } from 'node:path'
import type { Disk, Log, World } from '@capstan/actor'
import { type ApiServerHandle, startApiServer } from '@capstan/apiserver'
import { type HttpsListener, listenHttps, tokenSigner, tokenVerifier } from '@capstan/apiserver/edge'
import { type ApiClient, BusApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import { type ControllerManagerHandle, startControllerManager } from '@capstan/controller-manager'
import { HollowRules, type KubeProxyHandle, startKubeProxy, UserspaceRules } from '@capstan/kube-proxy'
import {
  type ContainerRuntime,
  HollowHost,
  HollowRuntime,
  type KubeletHandle,
  LocalGuard,
  type NodeHost,
  startKubelet,
} from '@capstan/kubelet'
import { endTarget, ProcessRuntime, RealHost } from '@capstan/kubelet/edge'
import { grants, type Identity, identityToken, type StoreStatusReply, Subjects } from '@capstan/protocol'
import { LmdbStateEngine, MemoryBroker, MemoryDisk, RealClock, RealRandom, ThreadedDisk } from '@capstan/real'
import { type SchedulerHandle, startScheduler } from '@capstan/scheduler'
import { type StoreHandle, startStore } from '@capstan/store'
import { Balancer, type Backend } from './balancer.js'
import { openMasterEtcd } from './etcd-face.js'
import {
  type ClusterLayout,
  controlTimes,
  electionTimes,
  IDENTITY_TIMES,
  type MasterLayout,
  type NodeLayout,
} from './layout.js'
import { MachineClock } from './machine-clock.js'
import { within } from './patience.js'
import type { Secrets } from './pki.js'

const LEASE_RENEW_MS = 1000
const STOP_TIMEOUT_MS = 4000
/** A store that gave up is started again after this long: what supervisors do for processes. */
const STORE_RESTART_MS = 1000

export interface EmbeddedOptions {
  layout: ClusterLayout
  /** Tells clusters of one name apart. */
  clusterId: string
  /** Directory of a machine's state; undefined: all of it is kept in memory while the object lives. */
  directory: ((machine: string) => string) | undefined
  /** Is the cluster being made? Members that start empty are then new, not forgetful. */
  isNew: () => boolean
  /** Certificates and keys; without them there are no ServiceAccount tokens. */
  secrets?: Secrets
  /** API servers listen on their ports, and the balancer on the cluster's. Needs `secrets`. */
  https?: { check: (backend: Backend) => Promise<boolean> }
  /** Service addresses can be reached by programs of this host (relays in this process). */
  hostServices?: boolean
  log: Log
}

export interface MasterState {
  name: string
  role: 'leader' | 'follower' | 'down'
  term: number
  commitIndex: number
  slowSyncs: number
  clusterVersion: number | null
  supportedVersions: { min: number; max: number } | null
}

export interface NodeState {
  name: string
  /** As its kubelet sees it: registered, runtime well. The API's condition may lag behind, above all after a kill. */
  ready: boolean
}

/** What one machine has in this process, and how it ends. */
class Machine {
  readonly closers: (() => void | Promise<void>)[] = []
  store?: StoreHandle
  api?: ApiServerHandle
  scheduler?: SchedulerHandle
  manager?: ControllerManagerHandle
  listeners: HttpsListener[] = []
  kubelet?: KubeletHandle
  proxy?: KubeProxyHandle
  /** Ends what the node's containers are, as far as this runtime has any. */
  teardown: () => Promise<void> = () => Promise.resolve()
  ending = false

  constructor(readonly clock: MachineClock) {}
}

/**
 * Masters and nodes by name, each with its own connections under its own identities: components talk only over the bus,
 * as between processes. What one process cannot give: machines share one event loop, and a bug that crashes one crashes all.
 */
export class EmbeddedCluster {
  readonly broker = new MemoryBroker()
  readonly layout: ClusterLayout
  private readonly subjects: Subjects
  private readonly machines = new Map<string, Machine>()
  /** A machine's disk in memory outlives its crash. */
  private readonly memory = new Map<string, MemoryDisk>()
  private readonly clock = new RealClock()
  private readonly outside = this.newMachine()
  private connections = 0
  private stopped = false

  constructor(private readonly options: EmbeddedOptions) {
    this.layout = options.layout
    this.subjects = new Subjects(options.layout.cluster)
  }

  /** Starts all machines and the way in. Resolves when they have begun. @throws a listener's error (`EADDRINUSE`). */
  async start(): Promise<void> {
    await Promise.all([...this.layout.masters, ...this.layout.nodes].map(({ name }) => this.startMachine(name)))
    await this.startGateway()
  }

  /** Everything that is to run runs, and every API server may be asked. With a line on what is awaited. */
  async readiness(client: ApiClient): Promise<{ ready: boolean; text: string }> {
    const { masters, nodes } = this.layout
    const apis = masters.filter(({ name }) => this.machines.get(name)?.api?.ready).length
    if (apis < masters.length) return { ready: false, text: `${apis} of ${masters.length} masters are ready` }
    const list = await client.list<NodeObject>(RESOURCES.nodes, { timeoutMs: 2000 }).catch(() => ({ items: [] }))
    const ready = list.items.filter((node) =>
      node.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True'),
    )
    const count = nodes.filter(({ name }) => ready.some((node) => node.metadata.name === name)).length
    return { ready: count === nodes.length, text: `${apis} masters and ${count} of ${nodes.length} nodes are ready` }
  }

  /** A client under an administrator's identity. It ends with the cluster. */
  client(): ApiClient {
    const world = this.world(this.outside, 'outside', { component: 'admin', name: 'cli' })
    return this.apiClient(this.outside, world, 'outside')
  }

  /** Starts a machine that is down; one that is up is left alone. @throws RangeError if there is no such machine. */
  async startMachine(name: string): Promise<void> {
    const master = this.layout.masters.find((m) => m.name === name)
    const node = this.layout.nodes.find((n) => n.name === name)
    if (!master && !node) throw new RangeError(`there is no machine "${name}"`)
    if (this.stopped) throw new Error('the cluster is stopped')
    if (this.machines.has(name)) return
    const machine = this.newMachine()
    this.machines.set(name, machine)
    try {
      if (master) await this.startMaster(machine, master)
      else if (node) await this.startNode(machine, node)
    } catch (error) {
      await this.killMachine(name)
      throw error
    }
  }

  /**
   * Ends a machine as a crash does, as far as one process can play it: its connections break first, so that nothing is
   * handed over and nothing said; then its parts end, and its containers with them. Its disk stays. Idempotent.
   * @throws RangeError if there is no such machine.
   */
  async killMachine(name: string): Promise<void> {
    if (![...this.layout.masters, ...this.layout.nodes].some((m) => m.name === name))
      throw new RangeError(`there is no machine "${name}"`)
    const machine = this.machines.get(name)
    if (!machine || machine.ending) return
    machine.ending = true
    await close(machine)
    await within(STOP_TIMEOUT_MS, Promise.all(machine.listeners.map((listener) => listener.close())))
    await within(
      STOP_TIMEOUT_MS,
      Promise.all([machine.scheduler?.stop(), machine.manager?.stop(), machine.api?.stop()]),
    )
    await within(STOP_TIMEOUT_MS, Promise.all([machine.kubelet?.stop(), machine.proxy?.stop()]))
    await machine.teardown()
    // Not bounded: a store that still writes must not be started a second time over the same directory.
    await machine.store?.kill()
    machine.clock.end()
    this.machines.delete(name)
  }

  /** Clean end of everything, nodes first. Afterwards nothing of it is left but the directories. Idempotent. */
  async stop(): Promise<void> {
    if (this.stopped) return
    this.stopped = true
    await within(STOP_TIMEOUT_MS, Promise.resolve(this.outside.proxy?.stop({ clear: true })))
    await Promise.all(this.layout.nodes.map(({ name }) => this.stopNode(name)))
    await close(this.outside)
    this.outside.clock.end()
    await this.stopMasters()
  }

  async masterStates(): Promise<MasterState[]> {
    return Promise.all(
      this.layout.masters.map(async ({ name }) => {
        const machine = this.machines.get(name)
        const status: StoreStatusReply | undefined = machine?.ending ? undefined : await machine?.store?.status()
        return {
          name,
          role: status === undefined ? 'down' : status.role === 'leader' ? 'leader' : 'follower',
          term: status?.term ?? 0,
          commitIndex: status?.commitIndex ?? 0,
          slowSyncs: status?.counters['slowSyncs'] ?? 0,
          clusterVersion: status?.clusterVersion ?? null,
          supportedVersions: status?.supportedVersions ?? null,
        }
      }),
    )
  }

  nodeStates(): NodeState[] {
    return this.layout.nodes.map(({ name }) => {
      const machine = this.machines.get(name)
      return { name, ready: machine?.ending === false && (machine.kubelet?.ready ?? false) }
    })
  }

  // ------------------------------------------------------------------------------------------------------------ machines

  private async startMaster(machine: Machine, master: MasterLayout): Promise<void> {
    const { layout, secrets, https } = this.options
    const { cluster } = layout
    const { name } = master
    const world = (component: 'apiserver' | 'scheduler' | 'controller-manager') =>
      this.world(machine, name, { component, name })
    const store = this.startStore(machine, name)
    machine.api = startApiServer(world('apiserver'), {
      cluster,
      instance: name,
      machine: name,
      storeMembers: [name, ...layout.masters.map((m) => m.name).filter((n) => n !== name)],
      ...(https ? { advertise: { address: layout.hostAddress, port: master.apiPort } } : {}),
      serviceCidr: layout.serviceCidr,
      defaultNotReadyTolerationSeconds: layout.tolerationSeconds,
      defaultUnreachableTolerationSeconds: layout.tolerationSeconds,
      ...(secrets
        ? {
            verifyToken: tokenVerifier({ serviceAccountKey: secrets.serviceAccount.publicKey }),
            signToken: tokenSigner(secrets.serviceAccount.privateKey),
          }
        : {}),
    })
    const schedulerWorld = world('scheduler')
    const client = this.apiClient(machine, schedulerWorld, name)
    const { election, nodes } = controlTimes(layout.recovery)
    machine.scheduler = startScheduler(schedulerWorld, { client, identity: name, ...(election ? { election } : {}) })
    const managerWorld = world('controller-manager')
    machine.manager = await startControllerManager(managerWorld, {
      cluster,
      machine: name,
      client: this.apiClient(machine, managerWorld, name),
      clusterCidr: layout.podCidr,
      ...(layout.identity ? { identity: { marginMs: layout.identity.marginMs } } : {}),
      ...(election ? { election } : {}),
      ...(nodes ? { nodes } : {}),
      ...(secrets ? { rootCaPem: secrets.ca.cert } : {}),
    })
    await store
    if (!https) return
    if (!secrets) throw new Error('HTTPS needs certificates')
    const etcdLog = this.options.log.child({ name, component: 'etcd' })
    const etcd = await openMasterEtcd(layout, master, secrets, etcdLog, () =>
      this.world(machine, name, { component: 'etcd', name }),
    )
    if (etcd) machine.closers.push(() => etcd.close())
    const { ca, server } = secrets
    for (const host of new Set(['127.0.0.1', layout.hostAddress]))
      machine.listeners.push(
        await listenHttps(machine.api, {
          port: master.apiPort,
          host,
          key: server.key,
          cert: server.cert,
          clientCa: ca.cert,
        }),
      )
  }

  private async startStore(machine: Machine, name: string): Promise<void> {
    const { layout, directory } = this.options
    const identity = { component: 'store', name } as const
    const dataDir = directory ? join(directory(name), 'store') : undefined
    const { disk, closeDisk } = this.diskFor(name, dataDir)
    const store = await startStore(
      { ...this.world(machine, name, identity, disk), raftBus: this.connect(machine, identity) },
      {
        cluster: layout.cluster,
        clusterId: this.options.clusterId,
        member: name,
        members: layout.masters.map((m) => m.name),
        machine: name,
        emptyDirectory: this.options.isNew() ? 'new' : 'existing',
        ...electionTimes(layout.recovery),
        ...(dataDir ? { openEngine: () => new LmdbStateEngine(join(dataDir, 'state')) } : {}),
      },
    ).catch(async (error: unknown) => {
      await closeDisk()
      throw error
    })
    machine.store = store
    void store.ended.then(async (failure) => {
      await closeDisk()
      if (failure === undefined || machine.ending || this.stopped) return
      this.options.log.error({ err: failure, machine: name }, 'the store gave up; the machine is started again')
      await this.killMachine(name)
      this.clock.setTimer(STORE_RESTART_MS, () => {
        if (!this.stopped)
          this.startMachine(name).catch((err: unknown) =>
            this.options.log.error({ err, machine: name }, 'it does not start'),
          )
      })
    })
  }

  private async startNode(machine: Machine, node: NodeLayout): Promise<void> {
    const { cluster } = this.layout
    const { name } = node
    const { runtime, host, guard, teardown } = this.startRuntime(machine, node)
    machine.teardown = async () => {
      guard.stop()
      await teardown()
    }
    const kubeletWorld = this.world(machine, name, { component: 'kubelet', name })
    machine.kubelet = await startKubelet(
      kubeletWorld,
      {
        cluster,
        nodeName: name,
        client: this.apiClient(machine, kubeletWorld, name),
        host,
        nodeIp: node.address,
        podCidr: node.podCidr,
        leaseRenewMs: LEASE_RENEW_MS,
        identity: { guard, leaseMs: (this.layout.identity ?? IDENTITY_TIMES).leaseMs },
      },
      runtime,
    )
    const proxyWorld = this.world(machine, name, { component: 'kube-proxy', name })
    // A node without a namespace of its own has no packet rules of its own: the gateway's serve the whole host.
    machine.proxy = startKubeProxy(proxyWorld, {
      client: this.apiClient(machine, proxyWorld, name),
      nodeName: name,
      rules: new HollowRules(),
    })
  }

  private startRuntime(
    machine: Machine,
    node: NodeLayout,
  ): { runtime: ContainerRuntime; host: NodeHost; guard: LocalGuard; teardown: () => Promise<void> } {
    const { directory, log } = this.options
    const dir = directory?.(node.name)
    switch (this.layout.runtime) {
      case 'process': {
        if (!dir) throw new RangeError('the process runtime needs a data directory')
        const runtime = new ProcessRuntime({
          directory: join(dir, 'p'),
          hostIp: node.address,
          log: log.child({ name: node.name }),
        })
        const guard = new LocalGuard(machine.clock, endTarget)
        return { runtime, host: new RealHost(dir), guard, teardown: () => runtime.teardown() }
      }
      case 'hollow': {
        const addressPrefix = node.podCidr.split('.').slice(0, 3).join('.')
        const runtime = new HollowRuntime({ clock: machine.clock }, { addressPrefix })
        const guard = new LocalGuard(machine.clock, ({ podUid }) => runtime.endPod(podUid))
        const host = dir ? new RealHost(dir) : new HollowHost()
        return { runtime, host, guard, teardown: async () => runtime.wipe() }
      }
      case 'containerd':
        throw new RangeError('the containerd runtime needs a process for each node: use the NATS bus')
    }
  }

  private async startGateway(): Promise<void> {
    const { layout, https, hostServices, log } = this.options
    if (https) {
      const balancer = new Balancer({
        listen: [...new Set(['127.0.0.1', layout.hostAddress])].map((host) => ({ host, port: layout.port })),
        backends: layout.masters.map((m) => ({ host: '127.0.0.1', port: m.apiPort })),
        check: https.check,
      })
      this.outside.closers.push(() => balancer.close())
      await balancer.start()
    }
    if (!hostServices) return
    const world = this.world(this.outside, 'gateway', { component: 'kube-proxy', name: 'gateway' })
    this.outside.proxy = startKubeProxy(world, {
      client: this.apiClient(this.outside, world, 'gateway'),
      nodeName: '',
      rules: new UserspaceRules(log.child({ name: 'gateway' }), world.random.fork('userspace')),
    })
  }

  private async stopNode(name: string): Promise<void> {
    const machine = this.machines.get(name)
    if (!machine || machine.ending) return
    machine.ending = true
    await within(STOP_TIMEOUT_MS, Promise.all([machine.kubelet?.stop(), machine.proxy?.stop()]))
    await machine.teardown()
    await close(machine)
    machine.clock.end()
    this.machines.delete(name)
  }

  /** Step by step for all of them: who gives its lock back or hands over still finds the others. */
  private async stopMasters(): Promise<void> {
    const all = this.layout.masters
      .map(({ name }) => this.machines.get(name))
      .filter((machine): machine is Machine => machine?.ending === false)
    for (const machine of all) machine.ending = true
    const each = (part: (machine: Machine) => unknown) => within(STOP_TIMEOUT_MS, Promise.all(all.map(part)))
    await each((m) => Promise.all([m.scheduler?.stop(), m.manager?.stop()]))
    await each((m) => Promise.all([m.api?.stop(), ...m.listeners.map((listener) => listener.close())]))
    const stopped = await each((m) => m.store?.stop())
    if (!stopped) await Promise.all(all.map((m) => m.store?.kill()))
    await Promise.all(all.map(close))
    for (const machine of all) machine.clock.end()
    for (const { name } of this.layout.masters) this.machines.delete(name)
  }

  // --------------------------------------------------------------------------------------------------------------- ports

  private newMachine(): Machine {
    return new Machine(new MachineClock(this.clock))
  }

  private diskFor(name: string, dataDir: string | undefined): { disk: Disk; closeDisk: () => Promise<void> } {
    if (dataDir !== undefined) {
      const disk = new ThreadedDisk(dataDir)
      return { disk, closeDisk: () => disk.close() }
    }
    const disk = this.memory.get(name) ?? new MemoryDisk()
    this.memory.set(name, disk)
    return { disk, closeDisk: () => Promise.resolve() }
  }

  /** Only stores keep anything on their disk; the others get one that is empty. */
  private world(machine: Machine, machineName: string, identity: Identity, disk: Disk = new MemoryDisk()): World {
    const log = this.options.log.child({ name: machineName, component: identity.component })
    // Chance of its own for each life: a fork of one that is shared would give a restarted API server the session of its
    // former life, and the store would take its writes for repetitions.
    return { clock: machine.clock, random: new RealRandom(), bus: this.connect(machine, identity), disk, log }
  }

  private connect(machine: Machine, identity: Identity): World['bus'] {
    const token = identityToken(identity)
    const inbox = this.subjects.inbox(token, `${process.pid}-${++this.connections}`)
    const bus = this.broker.connect({ identity: token, inbox, grants: grants(this.layout.cluster, identity) })
    machine.closers.push(() => bus.close())
    return bus
  }

  private apiClient(machine: Machine, world: World, machineName: string): ApiClient {
    const client = new BusApiClient(world, { cluster: this.layout.cluster, machine: machineName })
    machine.closers.push(() => client.close())
    return client
  }
}

interface NodeObject extends KubeObject {
  status?: { conditions?: { type: string; status: string }[] }
}

/** Connections after what uses them: last opened, first closed. */
async function close(machine: Machine): Promise<void> {
  for (const closer of machine.closers.splice(0).reverse()) await closer()
}
