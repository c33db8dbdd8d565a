import { CallError, every, type World } from '@capstan/actor'
import { type ApiClient, Informer, RESOURCES } from '@capstan/client'
import type { HostInfo, NodeHost } from './host.js'
import type { IdentityKeeper } from './identity-keeper.js'
import { type Node, type NodeCondition, type NodeStatus, time } from './kinds.js'
import { NodeLease } from './node-lease.js'
import { mergePatchOf } from './pod-status.js'
import type { Allocatable } from './resources.js'
import type { ContainerRuntime, RuntimeInfo } from './runtime.js'

const LOOK_PERIOD_MS = 1000
/** How often the runtime is asked whether it is well. */
const RUNTIME_PERIOD_MS = 2000
/** An unchanged status is written so often all the same. */
const STATUS_PERIOD_MS = 300_000
const CALL_MS = 5000
const IMAGES_MAX = 50
const IMAGES_PERIOD_MS = 30_000

export interface NodeReporterOptions {
  client: ApiClient
  runtime: ContainerRuntime
  host: NodeHost
  nodeName: string
  hostIp: string
  hostInfo: HostInfo
  capacity: Allocatable
  allocatable: Allocatable
  labels: Record<string, string>
  podCidr: string | undefined
  leaseRenewMs: number
  leaseDurationSeconds: number
  kubeletVersion: string
  identity: IdentityKeeper | undefined
}

/** Keeps the Node object and its Lease: registers the node, tells how it is, renews. */
export class NodeReporter {
  readonly informer: Informer<Node>
  private readonly lease: NodeLease
  private runtimeInfo: RuntimeInfo | undefined
  private runtimeAskedMs = Number.NEGATIVE_INFINITY
  private imagesAskedMs = Number.NEGATIVE_INFINITY
  private images: { names: string[]; sizeBytes: number }[] = []
  private statusWrittenMs = Number.NEGATIVE_INFINITY
  private configuredCidr: string | undefined
  private busy = false
  private registered = false
  private stopped = false
  private readonly stops: (() => void)[] = []

  constructor(
    private readonly world: World,
    private readonly options: NodeReporterOptions,
  ) {
    this.informer = new Informer<Node>(world, options.client, RESOURCES.nodes, {
      fieldSelector: `metadata.name=${options.nodeName}`,
    })
    this.lease = new NodeLease(world, options)
  }

  /** The runtime says that pods can be run. */
  get ready(): boolean {
    return this.registered && (this.runtimeInfo?.ready ?? false) && this.networkReady
  }

  /** A runtime may still hold the network of an earlier life; until this one's is known, nothing is started in it. */
  private get networkReady(): boolean {
    return (this.runtimeInfo?.networkReady ?? false) && !this.awaitsNetwork
  }

  private get awaitsNetwork(): boolean {
    return this.options.runtime.configureNetwork !== undefined && this.configuredCidr === undefined
  }

  start(): void {
    const { clock } = this.world
    this.informer.start()
    this.informer.addHandler({ add: () => void this.look(), update: () => void this.look() })
    this.stops.push(
      every(clock, LOOK_PERIOD_MS, () => void this.look()),
      every(clock, this.options.leaseRenewMs, () => void this.lease.renew()),
    )
    void this.look()
    void this.lease.renew()
  }

  stop(): void {
    this.stopped = true
    this.informer.stop()
    for (const stop of this.stops) stop()
  }

  /** One look at a time; what fails is done again by the next one. */
  private async look(): Promise<void> {
    if (this.busy || this.stopped) return
    this.busy = true
    try {
      await this.configureNetwork()
      await this.askRuntime()
      if (!this.registered) await this.register()
      await this.writeStatus()
    } catch (error) {
      this.world.log.info(
        { err: error, node: this.options.nodeName },
        'the node could not be reported; will be repeated',
      )
    } finally {
      this.busy = false
    }
  }

  private async configureNetwork(): Promise<void> {
    const podCidr = this.options.podCidr ?? this.informer.get(this.options.nodeName)?.spec?.podCIDR
    if (!podCidr || podCidr === this.configuredCidr) return
    await this.options.runtime.configureNetwork?.(podCidr)
    this.configuredCidr = podCidr
    this.runtimeAskedMs = Number.NEGATIVE_INFINITY
  }

  private async askRuntime(): Promise<void> {
    const nowMs = this.world.clock.monotonicMs()
    const well = this.runtimeInfo?.ready && this.networkReady
    if (nowMs - this.runtimeAskedMs < (well ? RUNTIME_PERIOD_MS : 0)) return
    this.runtimeAskedMs = nowMs
    this.runtimeInfo = await this.options.runtime.info()
    if (!this.runtimeInfo.ready || nowMs - this.imagesAskedMs < IMAGES_PERIOD_MS) return
    this.imagesAskedMs = nowMs
    try {
      const images = await this.options.runtime.listImages()
      this.images = images
        .map(({ tags, digests, sizeBytes }) => ({ names: [...digests, ...tags], sizeBytes }))
        .filter(({ names }) => names.length > 0)
        .sort((a, b) => b.sizeBytes - a.sizeBytes || ((a.names[0] as string) < (b.names[0] as string) ? -1 : 1))
        .slice(0, IMAGES_MAX)
    } catch (error) {
      this.world.log.debug({ err: error }, 'images could not be listed')
    }
  }

  private async register(): Promise<void> {
    const { client, nodeName, labels, podCidr } = this.options
    const node: Node = {
      apiVersion: 'v1',
      kind: 'Node',
      metadata: { name: nodeName, labels: this.labels() },
      ...(podCidr ? { spec: { podCIDR: podCidr, podCIDRs: [podCidr] } } : {}),
      status: this.statusOf(undefined),
    }
    try {
      await client.create<Node>(RESOURCES.nodes, node, { timeoutMs: CALL_MS })
    } catch (error) {
      if (!(error instanceof CallError && error.code === 'AlreadyExists')) throw error
      // Made by an earlier life of this kubelet: labels that it is told to bear now are added.
      const patch = { metadata: { labels: { ...this.labels(), ...labels } } }
      await client.patch(RESOURCES.nodes, { name: nodeName }, 'merge', patch, { timeoutMs: CALL_MS })
    }
    this.registered = true
    this.world.log.info({ node: nodeName }, 'node registered')
  }

  private labels(): Record<string, string> {
    const { nodeName, hostInfo, labels } = this.options
    return {
      'beta.kubernetes.io/arch': hostInfo.architecture,
      'beta.kubernetes.io/os': 'linux',
      'kubernetes.io/arch': hostInfo.architecture,
      'kubernetes.io/hostname': nodeName,
      'kubernetes.io/os': 'linux',
      ...labels,
    }
  }

  private async writeStatus(): Promise<void> {
    const { client, nodeName } = this.options
    let node = this.informer.get(nodeName)
    if (!node) {
      // Deleted under us: we are still here.
      if (this.informer.synced && this.world.clock.monotonicMs() - this.statusWrittenMs > 2 * CALL_MS) {
        this.statusWrittenMs = this.world.clock.monotonicMs()
        this.registered = false
      }
      if (!this.registered) return
      node = await client.get<Node>(RESOURCES.nodes, { name: nodeName }, { timeoutMs: CALL_MS })
    }
    const nowMs = this.world.clock.monotonicMs()
    const due = nowMs - this.statusWrittenMs >= STATUS_PERIOD_MS
    const status = this.statusOf(node.status, !due)
    const patch = mergePatchOf(node.status ?? {}, { ...node.status, ...status })
    if (patch === undefined) return
    await client.patch<Node>(
      RESOURCES.nodes,
      { name: nodeName },
      'merge',
      { status: patch },
      { subresource: 'status', timeoutMs: CALL_MS },
    )
    this.statusWrittenMs = nowMs
  }

  private statusOf(before: NodeStatus | undefined, keepHeartbeat = false): NodeStatus {
    const { hostInfo, hostIp, nodeName, capacity, allocatable, runtime, kubeletVersion } = this.options
    const info = this.runtimeInfo
    const version = `${info?.name ?? runtime.kind}://${info?.version ?? ''}`
    return {
      capacity: resourcesOf(capacity),
      allocatable: resourcesOf(allocatable),
      conditions: this.conditionsOf(before?.conditions ?? [], keepHeartbeat),
      addresses: [
        { type: 'InternalIP', address: hostIp },
        { type: 'Hostname', address: nodeName },
      ],
      nodeInfo: {
        machineID: hostInfo.machineId,
        systemUUID: hostInfo.machineId,
        bootID: hostInfo.bootId,
        kernelVersion: hostInfo.kernelVersion,
        osImage: hostInfo.osImage,
        containerRuntimeVersion: version,
        kubeletVersion,
        kubeProxyVersion: kubeletVersion,
        operatingSystem: 'linux',
        architecture: hostInfo.architecture,
      },
      images: this.images,
    }
  }

  private conditionsOf(before: NodeCondition[], keepHeartbeat: boolean): NodeCondition[] {
    const info = this.runtimeInfo
    const ready = (info?.ready ?? false) && this.networkReady
    const lack = this.awaitsNetwork
      ? 'spec.podCIDR of this Node is empty: the controller-manager has yet to give it a pod network'
      : info?.message
    const why = !info?.ready
      ? `container runtime is down: ${info?.message ?? 'not asked yet'}`
      : `container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:${lack}`
    const states: [type: string, isTrue: boolean, reason: string, message: string][] = [
      ['MemoryPressure', false, 'KubeletHasSufficientMemory', 'kubelet has sufficient memory available'],
      ['DiskPressure', false, 'KubeletHasNoDiskPressure', 'kubelet has no disk pressure'],
      ['PIDPressure', false, 'KubeletHasSufficientPID', 'kubelet has sufficient PID available'],
      ['Ready', ready, ready ? 'KubeletReady' : 'KubeletNotReady', ready ? 'kubelet is posting ready status' : why],
    ]
    const now = time(this.world.clock.nowMs())
    const own = states.map(([type, isTrue, reason, message]): NodeCondition => {
      const status = isTrue ? 'True' : 'False'
      const old = before.find((condition) => condition.type === type)
      const unchanged = old?.status === status && old.reason === reason && old.message === message
      return {
        type,
        status,
        reason,
        message,
        lastHeartbeatTime: keepHeartbeat && unchanged && old.lastHeartbeatTime ? old.lastHeartbeatTime : now,
        lastTransitionTime: old?.status === status && old.lastTransitionTime ? old.lastTransitionTime : now,
      }
    })
    return [...own, ...before.filter((condition) => !states.some(([type]) => type === condition.type))]
  }
}

function resourcesOf({ cpuMilli, memoryBytes, storageBytes, pods }: Allocatable): Record<string, string> {
  return {
    cpu: cpuMilli % 1000 === 0 ? String(cpuMilli / 1000) : `${cpuMilli}m`,
    memory: `${Math.floor(memoryBytes / 1024)}Ki`,
    'ephemeral-storage': `${Math.floor(storageBytes / 1024)}Ki`,
    pods: String(pods),
  }
}
