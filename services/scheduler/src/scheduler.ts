import { CallError, sleep, type World } from '@capstan/actor'
import {
  type ApiClient,
  EventRecorder,
  fencedClient,
  InformerFactory,
  type KubeObject,
  LeaderElector,
  type LeaderElectorOptions,
  objectKey,
  RESOURCES,
} from '@capstan/client'
import type { Fence } from '@capstan/protocol'
import { placePod, type Plugin } from './framework.js'
import { defaultPlugins } from './plugins.js'
import { SchedulingQueue } from './scheduling-queue.js'
import { Snapshot } from './snapshot.js'
import type { NodeView, PodView } from './views.js'

export const SCHEDULER_NAME = 'default-scheduler'
/** Bindings on their way at once. */
const BINDINGS_MAX = 64
/** A pod that fits nowhere is tried again after this long at the latest, whatever changes were missed. */
const UNSCHEDULABLE_RETRY_MS = 30_000

export interface SchedulerOptions {
  client: ApiClient
  /** Readable name of this candidate: its master's. */
  identity: string
  plugins?: readonly Plugin[]
  election?: Pick<LeaderElectorOptions, 'leaseDurationMs' | 'renewMs' | 'renewDeadlineMs' | 'retryMs'>
  changed?: (state: 'active' | 'standby') => void
}

export interface SchedulerHandle {
  readonly leading: boolean
  readonly counters: { bound: number; failed: number; takeOvers: number }
  stop(): Promise<void>
}

type Pod = PodView & KubeObject
type Node = NodeView & KubeObject

/**
 * One of several schedulers; the one that holds the lock `kube-system/kube-scheduler` binds pods to nodes. Each binding
 * carries the fence (promise C2), and the API server binds a pod once (C4), so a stale snapshot can place badly, never twice.
 */
export function startScheduler(world: World, options: SchedulerOptions): SchedulerHandle {
  const counters = { bound: 0, failed: 0, takeOvers: 0 }
  const elector = new LeaderElector(world, options.client, {
    lock: { namespace: 'kube-system', name: 'kube-scheduler' },
    identity: options.identity,
    ...options.election,
    lead: (fence, signal) => schedule(world, options, fence, signal, counters),
    changed: (state) => options.changed?.(state),
  })
  elector.start()
  return {
    get leading() {
      return elector.leading
    },
    get counters() {
      return { ...counters, takeOvers: elector.counters.takeOvers }
    },
    stop: () => elector.stop(),
  }
}

/** One term of office: everything in it is made anew and ends with `signal`. */
async function schedule(
  world: World,
  options: SchedulerOptions,
  fence: Fence,
  signal: AbortSignal,
  counters: { bound: number; failed: number },
): Promise<void> {
  const { clock } = world
  const log = world.log.child({ component: 'scheduler' })
  const random = world.random.fork(`scheduler/${fence.token}`)
  const client = fencedClient(options.client, {
    fence,
    signal,
    onFenced: (error) => log.warn({ text: error.message }, 'fenced: another scheduler leads'),
  })
  const events = new EventRecorder(world, client, { component: SCHEDULER_NAME })
  const plugins = options.plugins ?? defaultPlugins()
  const snapshot = new Snapshot()
  const queue = new SchedulingQueue(clock, UNSCHEDULABLE_RETRY_MS)
  const informers = new InformerFactory(world, options.client)
  const pods = informers.for<Pod>(RESOURCES.pods)
  const nodes = informers.for<Node>(RESOURCES.nodes)

  pods.addHandler({
    add: podChanged,
    // A change of status alone (our own condition among them) makes no difference to where a pod fits.
    update: (pod, before) => {
      if (!isWaiting(pod) || !isWaiting(before) || demands(pod) !== demands(before)) podChanged(pod)
    },
    delete: podGone,
  })
  nodes.addHandler({
    add: (node) => {
      snapshot.setNode(node)
      queue.retryUnschedulable()
    },
    update: (node, before) => {
      snapshot.setNode(node)
      if (mayFitNow(node, before)) queue.retryUnschedulable()
    },
    delete: (node) => snapshot.removeNode(node.metadata.name),
  })
  informers.start()
  signal.addEventListener('abort', () => {
    informers.stop()
    queue.stop()
  })
  if (!(await informers.whenSynced())) return

  const bindings = new Set<Promise<void>>()
  for (let key = await queue.take(); key !== undefined; key = await queue.take()) {
    if (bindings.size >= BINDINGS_MAX) await Promise.race(bindings)
    const pod = pods.get(key)
    if (!pod || !isWaiting(pod) || snapshot.isPlaced(pod.metadata.uid)) {
      queue.forget(key)
      continue
    }
    const placement = placePod(plugins, { pod, nodes: snapshot.list() }, (count) => random.int(count))
    if (!placement.placed) {
      counters.failed++
      queue.unschedulable(key)
      events.record({ object: pod, apiVersion: 'v1', kind: 'Pod' }, 'Warning', 'FailedScheduling', placement.message)
      void setUnschedulable(pod, placement.message)
      continue
    }
    // Assumed at once: the next pod must see this one's place taken before the watch shows it.
    snapshot.assume(pod, placement.nodeName)
    const binding = bind(key, pod, placement.nodeName).finally(() => bindings.delete(binding))
    bindings.add(binding)
  }
  await Promise.all(bindings)

  function podChanged(pod: Pod): void {
    const was = snapshot.isPlaced(pod.metadata.uid)
    snapshot.setPod(pod)
    const key = objectKey(pod)
    if (isWaiting(pod) && !snapshot.isPlaced(pod.metadata.uid)) queue.add(key)
    else {
      queue.forget(key)
      if (was && !snapshot.isPlaced(pod.metadata.uid)) queue.retryUnschedulable() // It ended, and its place is free.
    }
  }

  function podGone(pod: Pod): void {
    snapshot.removePod(pod.metadata.uid)
    queue.forget(objectKey(pod))
    if (pod.spec.nodeName) queue.retryUnschedulable()
  }

  async function bind(key: string, pod: Pod, nodeName: string): Promise<void> {
    const { name, namespace, uid } = pod.metadata
    try {
      await client.create(RESOURCES.pods, binding(name, namespace, uid, nodeName), { subresource: 'binding' })
      counters.bound++
      queue.forget(key)
      events.record(
        { object: pod, apiVersion: 'v1', kind: 'Pod' },
        'Normal',
        'Scheduled',
        `Successfully assigned ${namespace}/${name} to ${nodeName}`,
      )
    } catch (error) {
      const { code, outcome } = error instanceof CallError ? error : { code: 'INTERNAL', outcome: 'maybe-applied' }
      if (signal.aborted || code === 'FENCED') return
      // What may have happened keeps its place for a while: the watch shows it if it did. Otherwise the place is free.
      if (outcome === 'maybe-applied') await sleep(clock, 5000, signal)
      snapshot.forget(uid)
      if (code !== 'NotFound' && code !== 'Conflict')
        log.warn({ err: error, pod: key, nodeName }, 'binding failed; will be tried again')
      if (pods.get(key)?.metadata.uid === uid && !snapshot.isPlaced(uid)) queue.failed(key)
    }
  }

  /** Condition PodScheduled=False with the reasons, for people who look at the pod instead of its events. */
  async function setUnschedulable(pod: Pod, message: string): Promise<void> {
    const present = (
      pod as { status?: { conditions?: { type: string; message?: string }[] } }
    ).status?.conditions?.find((c) => c.type === 'PodScheduled')
    if (present?.message === message) return
    const condition = {
      type: 'PodScheduled',
      status: 'False',
      reason: 'Unschedulable',
      message,
      lastTransitionTime: `${new Date(clock.nowMs()).toISOString().slice(0, 19)}Z`,
    }
    try {
      const { name, namespace } = pod.metadata
      await client.patch(
        RESOURCES.pods,
        { name, namespace },
        'strategic',
        { status: { conditions: [condition] } },
        { subresource: 'status' },
      )
    } catch (error) {
      log.debug({ err: error, pod: objectKey(pod) }, 'condition not written; the event tells the same')
    }
  }
}

function isWaiting(pod: PodView): boolean {
  return (
    !pod.spec.nodeName &&
    !pod.metadata.deletionTimestamp &&
    (pod.spec.schedulerName ?? SCHEDULER_NAME) === SCHEDULER_NAME &&
    (pod.spec.schedulingGates ?? []).length === 0 &&
    pod.status?.phase !== 'Succeeded' &&
    pod.status?.phase !== 'Failed'
  )
}

const demands = (pod: PodView) => JSON.stringify([pod.spec, pod.metadata.labels])

/** Not every heartbeat of a node is worth another look at all pods that wait. */
function mayFitNow(node: NodeView, before: NodeView): boolean {
  const view = (n: NodeView) =>
    JSON.stringify([n.metadata.labels, n.spec?.taints, n.spec?.unschedulable, n.status?.allocatable])
  return view(node) !== view(before)
}

function binding(name: string, namespace: string, uid: string, nodeName: string): KubeObject {
  const object = {
    apiVersion: 'v1',
    kind: 'Binding',
    metadata: { name, namespace, uid },
    target: { apiVersion: 'v1', kind: 'Node', name: nodeName },
  }
  return object
}
