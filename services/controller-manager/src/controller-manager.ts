import { sleep, type World } from '@capstan/actor'
import {
  type ApiClient,
  BeatTracker,
  BusApiClient,
  InformerFactory,
  LeaderElector,
  startBeating,
} from '@capstan/client'
import type { Fence } from '@capstan/protocol'
import { startDeployments } from './deployment-controller.js'
import { startDisruptionBudgets } from './disruption-controller.js'
import { startEndpoints, startEndpointSlices } from './endpoint-controllers.js'
import { startGarbageCollector } from './garbage-collector.js'
import { IdentityFences } from './identity-fences.js'
import { startNamespaces, startRootCa, startServiceAccounts } from './namespace-controller.js'
import { startNodeCidrs } from './node-cidr.js'
import { startNodeLifecycle } from './node-lifecycle.js'
import type { ControllerManagerOptions } from './options.js'
import type { Part, PartContext, PartCounters, StartPart } from './part.js'
import { startPodGc } from './pod-gc.js'
import { startReplicaSets, startReplicationControllers } from './replica-controller.js'
import { startStatefulSets } from './stateful-set-controller.js'

const LOCK = { namespace: 'kube-system', name: 'kube-controller-manager' }
/** How long the end of one term waits for what is in work; the fence keeps it from doing harm later. */
const STOP_MS = 3000

/** All control loops, in the order of their start. */
const PARTS: readonly StartPart[] = [
  startNodeLifecycle,
  startNodeCidrs,
  startReplicaSets,
  startReplicationControllers,
  startDeployments,
  startStatefulSets,
  startDisruptionBudgets,
  startEndpoints,
  startEndpointSlices,
  startNamespaces,
  startServiceAccounts,
  startGarbageCollector,
  startPodGc,
]

/** Since the start of this instance: for coverage in simulation, and for people. */
export interface ControllerManagerCounters extends Readonly<PartCounters> {
  /** Terms of office, and how many of them began by taking over a silent holder's lock. */
  readonly terms: number
  readonly takeOvers: number
  /** Watches that were opened again after the first, and lists made anew because history was gone. */
  readonly watchResumes: number
  readonly relists: number
}

export interface ControllerManagerHandle {
  /** This instance is the active one. */
  readonly leading: boolean
  /** Fence of the present term, for tests. */
  readonly fence: Fence | undefined
  readonly counters: ControllerManagerCounters
  /** Stops all loops, gives the lock back. */
  stop(): Promise<void>
}

/**
 * Starts one controller-manager. Over all masters one is active, by the lock `kube-system/kube-controller-manager`; the
 * others wait. On losing the lock every loop stops, and this one competes again. Beats as `controller-manager`.
 */
export async function startControllerManager(
  world: World,
  options: ControllerManagerOptions,
): Promise<ControllerManagerHandle> {
  const { cluster, machine } = options
  const ownClient = options.client ? undefined : new BusApiClient(world, { cluster, machine })
  const client: ApiClient = options.client ?? (ownClient as BusApiClient)
  const counters = { nodesMarked: 0, evictions: 0, nodesFenced: 0, collected: 0, watchResumes: 0, relists: 0 }
  let present: InformerFactory | undefined
  const kubelets = new BeatTracker(world, { cluster, component: 'kubelet' })
  const elector = new LeaderElector(world, client, {
    lock: LOCK,
    identity: machine,
    ...options.election,
    lead: (fence, signal) => lead(fence, signal),
  })
  const stopBeating = startBeating(world, {
    cluster,
    component: 'controller-manager',
    instance: machine,
    machine,
    describe: () => ({ ready: true, role: elector.leading ? 'active' : 'standby' }),
  })
  elector.start()

  /** One term of office: everything in it is made anew and ends with it. */
  async function lead(fence: Fence, signal: AbortSignal): Promise<void> {
    const informers = new InformerFactory(world, client)
    present = informers
    // What this instance heard while it was not asked to judge says nothing: all silences start anew.
    kubelets.restart('took over leadership')
    const onFenced = () => elector.stepDown('a write was fenced')
    const fences = new IdentityFences(world.clock, informers, options.identity)
    const context: PartContext = { world, client, informers, fence, onFenced, options, kubelets, fences, counters }
    const parts: Part[] = PARTS.map((start) => start(context))
    if (options.rootCaPem !== undefined) parts.push(startRootCa(context, options.rootCaPem))
    informers.start()
    await aborted(signal)
    informers.stop()
    fences.stop()
    Object.assign(counters, resumed())
    present = undefined
    const stopped = Promise.all(parts.map((part) => part.stop())).then(() => true)
    if (!(await Promise.race([stopped, sleep(world.clock, STOP_MS).then(() => false)])))
      world.log.warn({ waitedMs: STOP_MS }, 'some control loops have not come to their end; their writes are fenced')
  }

  function resumed(): { watchResumes: number; relists: number } {
    const { watches = 0, lists = 0, expired = 0 } = present?.counters ?? {}
    return {
      watchResumes: counters.watchResumes + Math.max(0, watches - lists),
      relists: counters.relists + expired,
    }
  }

  return {
    get leading() {
      return elector.leading
    },
    get fence() {
      return elector.fence
    },
    get counters() {
      return { ...counters, ...resumed(), ...elector.counters }
    },
    async stop() {
      await elector.stop()
      stopBeating()
      kubelets.stop()
      ownClient?.close()
    },
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
}
