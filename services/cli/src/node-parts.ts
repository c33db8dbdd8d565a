import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Log } from '@capstan/actor'
import { BusApiClient } from '@capstan/client'
import { type PacketRules, startKubeProxy } from '@capstan/kube-proxy'
import { type ContainerRuntime, type Guard, HollowRuntime, LocalGuard, startKubelet } from '@capstan/kubelet'
import { type Containerd, FileGuard, ProcessRuntime, RealHost, startContainerd } from '@capstan/kubelet/edge'
import { RealClock } from '@capstan/real'
import { GuardChild } from './guard-child.js'
import { IDENTITY_TIMES, type IdentityTimes, type Places, type RuntimeKind } from './layout.js'
import { within } from './patience.js'
import type { BusWorld } from './worlds.js'

const LEASE_RENEW_MS = 1000
const STOP_TIMEOUT_MS = 4000

export interface NodePartsOptions {
  cluster: string
  /** The node's name, also its machine's. */
  name: string
  address: string
  runtime: RuntimeKind
  /** Absolute cgroup path for pods of the containerd runtime. */
  cgroupParent: string
  /** Missing: what the Node's `spec.podCIDR` says. */
  podCidr?: string
  identity?: IdentityTimes
  rules: PacketRules
  /** Largest packet of the link between the machines; the pods' links get the same. Missing: 1,500. */
  mtu?: number | undefined
}

export interface NodeParts {
  /**
   * The node is taken down, its containers with it unless `keepPods`; within 4 s. The bus connections stay the caller's.
   */
  stop(options?: { keepPods: boolean }): Promise<void>
}

/**
 * What a node runs in its own process: kubelet and kube-proxy, each on a world of its own (asked for at once, while the runtime
 * starts); beside it containerd, and a guard that is outside of the process' group.
 */
export async function startNodeParts(
  places: Places,
  log: Log,
  world: (component: 'kubelet' | 'kube-proxy') => Promise<BusWorld>,
  options: NodePartsOptions,
): Promise<NodeParts & { worlds: BusWorld[] }> {
  const { cluster, name } = options
  const directory = places.machine(name)
  mkdirSync(directory, { recursive: true })
  let nodeIsReady: () => void = () => undefined
  const ready = new Promise<void>((resolve) => {
    nodeIsReady = resolve
  })
  // containerd needs a second to start, the bus a moment: side by side.
  const [kubeletWorld, proxyWorld, runtime] = await Promise.all([
    world('kubelet'),
    world('kube-proxy'),
    startRuntime(places, log, options, directory, ready),
  ])
  const client = (w: BusWorld) => new BusApiClient(w, { cluster, machine: name })
  const kubelet = await startKubelet(
    kubeletWorld,
    {
      cluster,
      nodeName: name,
      client: client(kubeletWorld),
      host: new RealHost(directory),
      nodeIp: options.address,
      ...(options.podCidr === undefined ? {} : { podCidr: options.podCidr }),
      leaseRenewMs: LEASE_RENEW_MS,
      identity: { guard: runtime.guard, leaseMs: (options.identity ?? IDENTITY_TIMES).leaseMs },
    },
    runtime.runtime,
  )
  void kubelet.whenReady().then(nodeIsReady)
  const proxy = startKubeProxy(proxyWorld, { client: client(proxyWorld), nodeName: name, rules: options.rules })
  return {
    worlds: [kubeletWorld, proxyWorld],
    async stop({ keepPods } = { keepPods: false }) {
      const work = async () => {
        await Promise.all([kubelet.stop(), proxy.stop()])
        await (keepPods ? runtime.leave() : runtime.teardown())
      }
      await within(STOP_TIMEOUT_MS, work())
    },
  }
}

interface StartedRuntime {
  runtime: ContainerRuntime
  guard: Guard
  /** The node is stopped: no container stays. */
  teardown(): Promise<void>
  /** Containers and their guard go on. */
  leave(): Promise<void>
}

/** `ready`: what can wait until the node is Ready waits for it. */
async function startRuntime(
  places: Places,
  log: Log,
  options: NodePartsOptions,
  directory: string,
  ready: Promise<unknown>,
): Promise<StartedRuntime> {
  switch (options.runtime) {
    case 'containerd': {
      const guard = startGuard(places, log, options.name, ready)
      const containerd: Containerd = await startContainerd({
        dir: join(directory, 'c'),
        cgroupParent: options.cgroupParent,
        archives: imageArchives(places),
        importAfter: ready,
        ...(options.mtu === undefined ? {} : { mtu: options.mtu }),
        log: log.child({ component: 'containerd' }),
      })
      containerd.imported.catch((error: unknown) => log.error({ err: error }, 'an image archive was not imported'))
      return { runtime: containerd.runtime, leave: () => containerd.stop(), ...guard.upTo(() => containerd.teardown()) }
    }
    case 'process': {
      const guard = startGuard(places, log, options.name, ready)
      const runtime = new ProcessRuntime({ directory: join(directory, 'p'), hostIp: options.address, log })
      return { runtime, leave: () => runtime.close(), ...guard.upTo(() => runtime.teardown()) }
    }
    case 'hollow': {
      // What it pretends to run is in this process, and ends or stands still with it.
      const clock = new RealClock()
      const runtime = new HollowRuntime({ clock })
      const guard = new LocalGuard(clock, ({ podUid }) => runtime.endPod(podUid))
      return { runtime, guard, teardown: async () => guard.stop(), leave: async () => guard.stop() }
    }
  }
}

/**
 * The guard runs from before the first identity pod, which the kubelet starts only once the guard answers, until after the
 * last. One of the kubelet's former life goes on until then.
 */
function startGuard(places: Places, log: Log, node: string, ready: Promise<unknown>) {
  const child = new GuardChild(places, node, log.child({ component: 'guard' }))
  void ready.then(() => child.start())
  return {
    upTo: (endContainers: () => Promise<void>): Pick<StartedRuntime, 'guard' | 'teardown'> => ({
      guard: new FileGuard(places.machine(node)),
      teardown: async () => {
        await endContainers()
        child.stop()
      },
    }),
  }
}

/** Archives that every node has from the start: the pause image first. */
function imageArchives(places: Places): string[] {
  if (!existsSync(places.images)) return []
  const files = readdirSync(places.images).filter((file) => file.endsWith('.tar'))
  return [...files.filter((f) => f === 'pause.tar'), ...files.filter((f) => f !== 'pause.tar').sort()].map((file) =>
    join(places.images, file),
  )
}
