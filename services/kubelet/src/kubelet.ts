import { every, sleep, type World } from '@capstan/actor'
import { type ApiClient, byText, EventRecorder, Informer, objectKey, RESOURCES, startBeating } from '@capstan/client'
import { identityOf, requestsOf } from './container-spec.js'
import type { ServiceView } from './environment.js'
import type { NodeHost } from './host.js'
import { IdentityKeeper, type IdentityOptions, isIdentityPod } from './identity-keeper.js'
import { isTerminal, type Pod } from './kinds.js'
import { Limiter } from './limiter.js'
import { serveNode } from './log-server.js'
import { NodeReporter } from './node-reporter.js'
import { ObjectCache } from './object-cache.js'
import { PodWorker, type PodWorkerContext } from './pod-worker.js'
import { admit, type AdmissionRefusal, type Allocatable, podRequests, type PodRequests } from './resources.js'
import type { ContainerRuntime, PodIdentity, RuntimeContents } from './runtime.js'

const LIST_PERIOD_MS = 1000
/** Every pod is looked at so often even if nothing seems to happen. */
const RESYNC_MS = 60_000
const VOLUMES_PERIOD_MS = 30_000
const LOGS_PERIOD_MS = 10_000
/** A container's log file; one older one is kept beside it. */
const LOG_BYTES_MAX = 10 * 1024 * 1024
const STARTS_AT_ONCE = 8
const PULLS_AT_ONCE = 5
const RETRY_MS = 500
/** Most pods of a node, as Kubernetes has it. */
const PODS_MAX = 110

export interface KubeletOptions {
  cluster: string
  nodeName: string
  /** Name of the machine that it runs on, for the beats. Default: the node's. */
  machine?: string
  client: ApiClient
  host: NodeHost
  /** Address of the node: `status.hostIP` of its pods. */
  nodeIp: string
  /** Pod network of this node. Default: what `spec.podCIDR` of the Node says; the node is not Ready before it does. */
  podCidr?: string
  labels?: Record<string, string>
  /** What the node has, where it is not to be what the machine has. */
  capacity?: Partial<Allocatable>
  /** What of it is not for pods. */
  reserved?: Partial<Allocatable>
  /** Default 2,000 and 40. */
  leaseRenewMs?: number
  leaseDurationSeconds?: number
  /** The guard of pods that have an identity. Missing: nobody guards them, and they are never given to other nodes. */
  identity?: IdentityOptions
  /** A container's log file is rotated above that. Default 10 MiB; as much again is kept of the one before. */
  logBytesMax?: number
  /** As `kubectl get nodes` shows it. */
  version?: string
}

export interface KubeletHandle {
  readonly nodeName: string
  /** Registered, the runtime is well, the pods are known. */
  readonly ready: boolean
  /** Resolves with true once `ready`, with false when stopped before. */
  whenReady(): Promise<boolean>
  /** For people and tests: namespace/name of all pods that this kubelet deals with, sorted. */
  pods(): { pod: string; uid: string; phase: string | undefined; admitted: boolean; inFlight: string[] }[]
  readonly allocatable: Allocatable
  /** Stops the kubelet; containers go on and are found again by the next start. */
  stop(): Promise<void>
}

/**
 * Runs the pods that are bound to one node. Registers the Node, renews its Lease, beats on the bus, answers
 * `node.<name>…logs`. The World's bus identity must be `kubelet~<node>`. Resolves when it has begun; it goes on trying to
 * reach the API from then on.
 */
export async function startKubelet(
  world: World,
  options: KubeletOptions,
  runtime: ContainerRuntime,
): Promise<KubeletHandle> {
  const kubelet = new Kubelet(
    { ...world, log: world.log.child({ component: 'kubelet', node: options.nodeName }) },
    options,
    runtime,
  )
  await kubelet.start()
  return kubelet
}

class Kubelet implements KubeletHandle {
  readonly nodeName: string
  allocatable: Allocatable = { cpuMilli: 0, memoryBytes: 0, storageBytes: 0, pods: 0 }
  private readonly workers = new Map<string, PodWorker>()
  /** What each pod holds of the node, by uid (promise C4): the admitted ones, and what runs from before. */
  private readonly shares = new Map<string, PodRequests>()
  private readonly fingerprints = new Map<string, string>()
  private readonly pods_: Informer<Pod>
  private readonly services: Informer<ServiceView>
  private readonly stopping = new AbortController()
  private readonly stops: (() => void)[] = []
  private reporter: NodeReporter | undefined
  private context: PodWorkerContext | undefined
  private readonly identity: IdentityKeeper | undefined
  private running = false
  private listing = false
  private listAgain = false
  private rotating = false
  private readyWaiters: ((ready: boolean) => void)[] = []

  constructor(
    private readonly world: World,
    private readonly options: KubeletOptions,
    private readonly runtime: ContainerRuntime,
  ) {
    this.nodeName = options.nodeName
    this.pods_ = new Informer<Pod>(world, options.client, RESOURCES.pods, {
      fieldSelector: `spec.nodeName=${options.nodeName}`,
    })
    this.services = new Informer<ServiceView>(world, options.client, RESOURCES.services)
    const { client, identity } = options
    this.identity = identity && new IdentityKeeper({ world, client, runtime }, identity)
  }

  get ready(): boolean {
    return this.running && (this.reporter?.ready ?? false)
  }

  whenReady(): Promise<boolean> {
    if (this.ready || this.stopping.signal.aborted) return Promise.resolve(this.ready)
    return new Promise((resolve) => this.readyWaiters.push(resolve))
  }

  pods(): ReturnType<KubeletHandle['pods']> {
    return [...this.workers.values()]
      .map((worker) => ({
        pod: `${worker.identity.namespace}/${worker.identity.name}`,
        uid: worker.identity.uid,
        phase: worker.statusNow?.phase,
        admitted: this.shares.has(worker.identity.uid),
        inFlight: [...worker.memory.inFlight].sort(),
      }))
      .sort((a, b) => byText(a.pod, b.pod) || byText(a.uid, b.uid))
  }

  async start(): Promise<void> {
    const { world, options, runtime } = this
    const { host, client, nodeName, cluster } = options
    const hostInfo = await host.info()
    const hostDns = await host.dns()
    const capacity: Allocatable = {
      cpuMilli: hostInfo.cpus * 1000,
      memoryBytes: hostInfo.memoryBytes,
      storageBytes: hostInfo.diskBytes,
      pods: PODS_MAX,
      ...options.capacity,
    }
    const { reserved = {} } = options
    for (const key of ['cpuMilli', 'memoryBytes', 'storageBytes', 'pods'] as const)
      this.allocatable[key] = Math.max(0, capacity[key] - (reserved[key] ?? 0))
    this.context = {
      world,
      client,
      runtime,
      host,
      nodeName,
      hostIp: options.nodeIp,
      events: new EventRecorder(world, client, { component: 'kubelet', host: nodeName }),
      objects: new ObjectCache(world, client),
      services: this.services,
      limiter: new Limiter(STARTS_AT_ONCE),
      pulls: new Limiter(PULLS_AT_ONCE),
      hostDns,
      identity: this.identity,
      allocatable: this.allocatable,
      nodeMemoryBytes: capacity.memoryBytes,
      admit: (worker) => this.admit(worker),
      release: (worker) => this.release(worker),
      forget: (worker) => this.forget(worker),
    }
    this.reporter = new NodeReporter(world, {
      client,
      runtime,
      host,
      nodeName,
      hostIp: options.nodeIp,
      hostInfo,
      capacity,
      allocatable: this.allocatable,
      labels: options.labels ?? {},
      podCidr: options.podCidr,
      leaseRenewMs: options.leaseRenewMs ?? 2000,
      leaseDurationSeconds: options.leaseDurationSeconds ?? 40,
      kubeletVersion: options.version ?? 'v1.36.0-capstan',
      identity: this.identity,
    })
    this.reporter.start()
    this.stops.push(
      startBeating(world, {
        cluster,
        component: 'kubelet',
        instance: nodeName,
        machine: options.machine ?? nodeName,
        describe: () => ({ ready: this.ready, load: { pods: this.workers.size } }),
      }),
    )
    const server = serveNode(world, { cluster, nodeName, runtime, host, worker: (uid) => this.workers.get(uid) })
    this.stops.push(() => server.stop())
    this.pods_.start()
    this.services.start()
    void this.run()
  }

  async stop(): Promise<void> {
    if (this.stopping.signal.aborted) return
    this.stopping.abort()
    this.reporter?.stop()
    this.pods_.stop()
    this.services.stop()
    for (const stop of this.stops.splice(0)) stop()
    for (const wake of this.readyWaiters.splice(0)) wake(false)
    await Promise.all([...this.workers.values()].map((worker) => worker.stop()))
  }

  // ---------------------------------------------------------------------------------------------------------------- pods

  private async run(): Promise<void> {
    // Before all pods are known nothing may be taken for an orphan.
    if (!(await this.pods_.whenSynced())) return
    await this.services.whenSynced()
    const contents = await this.firstList()
    if (!contents) return
    // What runs already keeps its share, whoever it belongs to; then the older pods first: the order decides who is refused.
    const known = this.pods_
      .list()
      .sort(
        (a, b) =>
          byText(a.metadata.creationTimestamp ?? '', b.metadata.creationTimestamp ?? '') ||
          byText(objectKey(a), objectKey(b)),
      )
    this.holdShares(contents)
    for (const pod of known) this.take(pod)
    this.pods_.addHandler({
      add: (pod) => this.take(pod),
      update: (pod) => this.take(pod),
      delete: (pod) => this.workers.get(pod.metadata.uid ?? '')?.update(undefined),
    })
    await this.clearDirectories(contents)
    this.compare(contents)
    this.identity?.keepOnly((uid) => this.workers.has(uid))
    const { clock } = this.world
    this.stops.push(
      every(clock, LIST_PERIOD_MS, () => void this.relist()),
      every(clock, RESYNC_MS, () => this.pokeAll()),
      every(clock, LOGS_PERIOD_MS, () => void this.rotateLogs()),
      every(clock, VOLUMES_PERIOD_MS, () => {
        for (const worker of this.sorted()) worker.refreshVolumes()
      }),
    )
    const unsubscribe = this.runtime.onChange?.((uid) => {
      if (uid === undefined) void this.relist()
      else if (this.workers.has(uid)) this.workers.get(uid)?.poke()
      else void this.relist()
    })
    if (unsubscribe) this.stops.push(unsubscribe)
    this.running = true
    this.tellReady()
  }

  private tellReady(): void {
    if (this.ready) for (const wake of this.readyWaiters.splice(0)) wake(true)
    else if (!this.stopping.signal.aborted) this.world.clock.setTimer(20, () => this.tellReady())
  }

  private async firstList(): Promise<RuntimeContents | undefined> {
    while (!this.stopping.signal.aborted) {
      try {
        return await this.runtime.list()
      } catch (error) {
        this.world.log.warn({ err: error }, 'the container runtime does not say what runs; asking again')
        await sleep(this.world.clock, RETRY_MS, this.stopping.signal)
      }
    }
    return undefined
  }

  private take(pod: Pod): void {
    const identity = identityOf(pod)
    if (isIdentityPod(pod)) this.identity?.watch(identity.uid)
    const worker = this.workers.get(identity.uid)
    if (worker) worker.update(pod)
    else if (this.context) this.workers.set(identity.uid, new PodWorker(this.context, identity, pod))
  }

  /** What the runtime holds and no pod stands for is taken down like a pod that was deleted. */
  private adoptOrphan(identity: PodIdentity): void {
    if (this.workers.has(identity.uid) || !this.context) return
    this.world.log.info(
      { pod: `${identity.namespace}/${identity.name}`, uid: identity.uid },
      'found what no pod of this node asks for: removing it',
    )
    this.workers.set(identity.uid, new PodWorker(this.context, identity, undefined))
  }

  private async clearDirectories(contents: RuntimeContents): Promise<void> {
    const { host } = this.options
    const inUse = new Set([
      ...this.workers.keys(),
      ...contents.sandboxes.map((sandbox) => sandbox.pod.uid),
      ...contents.containers.map((c) => c.pod.uid),
    ])
    try {
      for (const uid of await host.podDirectories())
        if (!inUse.has(uid)) {
          await host.removePodDirectory(uid)
          await host.removeLogs(uid)
        }
    } catch (error) {
      this.world.log.warn({ err: error }, 'directories of former pods could not be removed')
    }
  }

  /** One list at a time; a change during one asks for another. */
  private async relist(): Promise<void> {
    if (this.listing) {
      this.listAgain = true
      return
    }
    this.listing = true
    try {
      do {
        this.listAgain = false
        this.compare(await this.runtime.list())
      } while (this.listAgain && !this.stopping.signal.aborted)
    } catch (error) {
      this.world.log.warn({ err: error }, 'the container runtime does not say what runs')
    } finally {
      this.listing = false
    }
  }

  /** Wakes the pods whose containers changed since the last list. */
  private compare(contents: RuntimeContents): void {
    if (this.stopping.signal.aborted) return
    const marks = new Map<string, string>()
    const identities = new Map<string, PodIdentity>()
    for (const sandbox of contents.sandboxes) {
      identities.set(sandbox.pod.uid, sandbox.pod)
      marks.set(sandbox.pod.uid, `${marks.get(sandbox.pod.uid) ?? ''}${sandbox.id} ${sandbox.ready} ${sandbox.ip}\n`)
    }
    for (const container of contents.containers) {
      identities.set(container.pod.uid, container.pod)
      marks.set(container.pod.uid, `${marks.get(container.pod.uid) ?? ''}${container.id} ${container.state}\n`)
    }
    for (const uid of [...identities.keys()].sort(byText))
      if (!this.workers.has(uid)) {
        this.holdShares(contents, uid)
        this.adoptOrphan(identities.get(uid) as PodIdentity)
      }
    for (const worker of this.sorted()) {
      const mark = marks.get(worker.identity.uid) ?? ''
      if (this.fingerprints.get(worker.identity.uid) !== mark) worker.poke()
      this.fingerprints.set(worker.identity.uid, mark)
    }
  }

  private async rotateLogs(): Promise<void> {
    if (this.rotating) return
    this.rotating = true
    for (const worker of this.sorted()) await worker.rotateLogs(this.options.logBytesMax ?? LOG_BYTES_MAX)
    this.rotating = false
  }

  private sorted(): PodWorker[] {
    return [...this.workers].sort((a, b) => byText(a[0], b[0])).map(([, worker]) => worker)
  }

  private pokeAll(): void {
    for (const worker of this.sorted()) worker.poke()
  }

  // ----------------------------------------------------------------------------------------------------------- admission

  private admit(worker: PodWorker): 'admitted' | 'waiting' | AdmissionRefusal {
    const { pod } = worker
    const { uid } = worker.identity
    if (!pod || this.shares.has(uid)) return 'admitted'
    const others = [...this.shares]
    const refusal = admit(
      pod,
      others.map(([, share]) => share),
      this.allocatable,
    )
    if (!refusal) {
      this.shares.set(uid, podRequests(pod))
      return 'admitted'
    }
    // The scheduler counts pods that are being deleted as gone when their object is; some of those may still be ending here.
    const staying = others.filter(([other]) => !this.isEnding(other))
    const fitsThen =
      staying.length < others.length &&
      !admit(
        pod,
        staying.map(([, share]) => share),
        this.allocatable,
      )
    return fitsThen ? 'waiting' : refusal
  }

  private isEnding(podUid: string): boolean {
    const pod = this.workers.get(podUid)?.pod
    return !pod || pod.metadata.deletionTimestamp !== undefined || isTerminal(pod)
  }

  /** For what runs, or may be about to: it counts even if its pod is being deleted, or is gone. */
  private holdShares(contents: RuntimeContents, podUid?: string): void {
    for (const { state, sandboxId, pod } of contents.containers) {
      if (state === 'exited' || this.shares.has(pod.uid) || (podUid !== undefined && pod.uid !== podUid)) continue
      const sandbox = contents.sandboxes.find((one) => one.id === sandboxId)
      if (sandbox) this.shares.set(pod.uid, requestsOf(sandbox))
    }
  }

  private release(worker: PodWorker): void {
    if (!this.shares.delete(worker.identity.uid)) return
    for (const other of this.sorted()) if (other.memory.admission === 'waiting') other.poke()
  }

  private forget(worker: PodWorker): void {
    this.release(worker)
    this.identity?.forget(worker.identity.uid)
    this.workers.delete(worker.identity.uid)
    this.fingerprints.delete(worker.identity.uid)
    void worker.stop()
  }
}
