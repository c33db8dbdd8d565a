/**
 * The process of one node: `programs/run-node.js DATA NAME`. Leader of the machine's process group. Holds kubelet and kube-proxy, and
 * supervises the node's containerd and its guard, which is outside the group. With containers it runs in the node's network namespace.
 */
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { BusApiClient } from '@capstan/client'
import { HollowRules, NftablesRules, type PacketRules, startKubeProxy } from '@capstan/kube-proxy'
import { type ContainerRuntime, type Guard, HollowRuntime, LocalGuard, startKubelet } from '@capstan/kubelet'
import { type Containerd, FileGuard, ProcessRuntime, RealHost, startContainerd } from '@capstan/kubelet/edge'
import { RealClock, realLog } from '@capstan/real'
import { GuardChild } from './guard-child.js'
import { existingLayout } from './layout-file.js'
import { type ClusterLayout, IDENTITY_TIMES, namesOf, type NodeLayout, Places } from './layout.js'
import { type BusWorld, realWorld } from './worlds.js'

const LEASE_RENEW_MS = 1000
const STOP_TIMEOUT_MS = 4000

const [data = '', name = ''] = process.argv.slice(2)
const places = new Places(data)
const layout = existingLayout(places)
const me = layout.nodes.find((node) => node.name === name)
if (!me) throw new Error(`no node ${name} in ${places.layout}`)
const log = realLog({ name })
await runNode(layout, me)

async function runNode(cluster: ClusterLayout, node: NodeLayout): Promise<void> {
  const directory = places.machine(node.name)
  mkdirSync(directory, { recursive: true })
  const world = (component: 'kubelet' | 'kube-proxy') =>
    realWorld(cluster, places, { component, name: node.name }, { log: log.child({ component }), machine: node.name })
  let nodeIsReady: () => void = () => undefined
  const ready = new Promise<void>((resolve) => {
    nodeIsReady = resolve
  })
  // containerd needs a second to start, the bus a moment: side by side.
  const [kubeletWorld, proxyWorld, runtime] = await Promise.all([
    world('kubelet'),
    world('kube-proxy'),
    startRuntime(cluster, node, directory, ready),
  ])
  const client = (w: BusWorld) => new BusApiClient(w, { cluster: cluster.cluster, machine: node.name })
  const kubelet = await startKubelet(
    kubeletWorld,
    {
      cluster: cluster.cluster,
      nodeName: node.name,
      client: client(kubeletWorld),
      host: new RealHost(directory),
      nodeIp: node.address,
      // The host's routes to pods follow from the layout too.
      podCidr: node.podCidr,
      leaseRenewMs: LEASE_RENEW_MS,
      identity: { guard: runtime.guard, leaseMs: (cluster.identity ?? IDENTITY_TIMES).leaseMs },
    },
    runtime.runtime,
  )
  void kubelet.whenReady().then(nodeIsReady)
  // Without a namespace of its own a node has no packet rules of its own: the gateway's serve the whole host.
  const rules: PacketRules = cluster.isolated ? new NftablesRules('capstan') : new HollowRules()
  const proxy = startKubeProxy(proxyWorld, { client: client(proxyWorld), nodeName: node.name, rules })

  let stopping = false
  const stop = async (signal: string) => {
    if (stopping) return
    stopping = true
    log.info({ signal }, 'stopping')
    const work = async () => {
      await Promise.all([kubelet.stop(), proxy.stop()])
      await runtime.teardown()
      await Promise.all([kubeletWorld.bus.close(), proxyWorld.bus.close()])
    }
    await Promise.race([work(), new Promise((resolve) => setTimeout(resolve, STOP_TIMEOUT_MS))])
    process.exit(0)
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal))
}

interface StartedRuntime {
  runtime: ContainerRuntime
  guard: Guard
  /** The node is stopped: no container stays. */
  teardown(): Promise<void>
}

/** `ready`: what can wait until the node is Ready waits for it. */
async function startRuntime(
  cluster: ClusterLayout,
  node: NodeLayout,
  directory: string,
  ready: Promise<unknown>,
): Promise<StartedRuntime> {
  switch (cluster.runtime) {
    case 'containerd': {
      const guard = startGuard(node, directory, ready)
      const containerd: Containerd = await startContainerd({
        dir: join(directory, 'c'),
        cgroupParent: `/${namesOf(cluster).cgroup(node.name)}/pods`,
        archives: imageArchives(),
        importAfter: ready,
        log: log.child({ component: 'containerd' }),
      })
      containerd.imported.catch((error: unknown) => log.error({ err: error }, 'an image archive was not imported'))
      return { runtime: containerd.runtime, ...guard.upTo(() => containerd.teardown()) }
    }
    case 'process': {
      const guard = startGuard(node, directory, ready)
      const runtime = new ProcessRuntime({ directory: join(directory, 'p'), hostIp: node.address, log })
      return { runtime, ...guard.upTo(() => runtime.teardown()) }
    }
    case 'hollow': {
      // What it pretends to run is in this process, and ends or stands still with it.
      const clock = new RealClock()
      const runtime = new HollowRuntime({ clock })
      const guard = new LocalGuard(clock, ({ podUid }) => runtime.endPod(podUid))
      return { runtime, guard, teardown: async () => guard.stop() }
    }
  }
}

/**
 * The guard runs from before the first identity pod, which the kubelet starts only once the guard answers, until after the
 * last. One of the kubelet's former life goes on until then.
 */
function startGuard(node: NodeLayout, directory: string, ready: Promise<unknown>) {
  const child = new GuardChild(places, node.name, log.child({ component: 'guard' }))
  void ready.then(() => child.start())
  return {
    upTo: (endContainers: () => Promise<void>): Pick<StartedRuntime, 'guard' | 'teardown'> => ({
      guard: new FileGuard(directory),
      teardown: async () => {
        await endContainers()
        child.stop()
      },
    }),
  }
}

/** Archives that every node has from the start: the pause image first. */
function imageArchives(): string[] {
  if (!existsSync(places.images)) return []
  const files = readdirSync(places.images).filter((file) => file.endsWith('.tar'))
  return [...files.filter((f) => f === 'pause.tar'), ...files.filter((f) => f !== 'pause.tar').sort()].map((file) =>
    join(places.images, file),
  )
}
