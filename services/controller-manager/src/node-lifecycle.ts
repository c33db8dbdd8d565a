import { every } from '@capstan/actor'
import { type ControllerContext, objectKey, RESOURCES, startController, watchOf } from '@capstan/client'
import { FENCED_HOLDER } from '@capstan/protocol'
import { ignore } from './endpoint-controllers.js'
import { NODE_LEASE_NAMESPACE, type NodeLease } from './identity-fences.js'
import { type Condition, condition, formatTime, isPodReady, type Node, type Pod } from './kinds.js'
import { NodeJudge } from './node-judge.js'
import type { Part, PartContext } from './part.js'
import { isIdentityPod } from './stateful-set-controller.js'
import { hasTaint, tolerationSeconds, UNREACHABLE, wantedTaints } from './taints.js'

const JUDGE_PERIOD_MS = 250
/** A Lease that was not to be had is looked at again so soon. */
const FENCE_RETRY_MS = 500
/** After a new start of all grace periods, for nodes of which nothing was heard since: they may be reconnecting too. */
const FIRST_HEARING_MS = 2500
const CONDITIONS = ['Ready', 'MemoryPressure', 'DiskPressure', 'PIDPressure']
const BY_NODE = 'node'

/**
 * Marks nodes that are silent (no beats of the kubelet *and* no renewal of its Lease), taints them, takes the readiness of
 * their pods away, and evicts pods whose tolerations of a NoExecute taint have run out. What it evicts stays Terminating until
 * its kubelet is back; pods of StatefulSets are removed once the node is fenced, so that their names can be given again.
 */
export function startNodeLifecycle(parts: PartContext): Part {
  const { world, informers, kubelets } = parts
  const { clock } = world
  const options = parts.options.nodes ?? {}
  const judge = new NodeJudge({
    beatGraceMs: options.beatGraceMs ?? 4000,
    leaseGraceMs: options.leaseGraceMs ?? 4700,
    atOnceMs: options.atOnceMs ?? 10_000,
    disruptionHoldMs: options.disruptionHoldMs ?? 60_000,
  })
  const log = world.log.child({ controller: 'node-lifecycle' })
  const nodes = informers.for<Node>(RESOURCES.nodes)
  const pods = informers.for<Pod>(RESOURCES.pods)
  const leases = informers.for<NodeLease>(RESOURCES.leases)
  pods.addIndex(BY_NODE, (pod) => [pod.spec?.nodeName ?? ''])

  /** Node → when its Lease was last seen renewed. */
  const renewedMs = new Map<string, number>()
  /** Node → when it was first seen. */
  const firstMs = new Map<string, number>()
  /** Node → NoExecute taint → when this judge first saw it: grace counts from there, not from a time stamp. */
  const taintedMs = new Map<string, Map<string, number>>()
  let restartMs = clock.monotonicMs()
  let wasDisrupted = false

  const renewed = ({ metadata, spec }: NodeLease) => {
    // That it was taken is no word of the node.
    if (metadata.namespace !== NODE_LEASE_NAMESPACE || spec?.holderIdentity === FENCED_HOLDER) return
    if (metadata.name) renewedMs.set(metadata.name, clock.monotonicMs())
  }
  const sawTaints = (node: Node) => {
    const name = node.metadata.name ?? ''
    if (!firstMs.has(name)) firstMs.set(name, clock.monotonicMs())
    const before = taintedMs.get(name)
    const now = new Map<string, number>()
    for (const { key, effect } of node.spec?.taints ?? [])
      if (effect === 'NoExecute') now.set(key, before?.get(key) ?? clock.monotonicMs())
    if (now.size > 0) taintedMs.set(name, now)
    else taintedMs.delete(name)
  }
  const stops = [
    leases.addHandler({ add: renewed, update: renewed }),
    nodes.addHandler({
      add: sawTaints,
      update: sawTaints,
      delete({ metadata: { name = '' } }) {
        firstMs.delete(name)
        taintedMs.delete(name)
        renewedMs.delete(name)
        kubelets.forget(name)
      },
    }),
    kubelets.onRestart((why) => restart(why)),
    every(clock, JUDGE_PERIOD_MS, judgeAll),
  ]

  const marking = startController(world, {
    ...parts,
    name: 'node-lifecycle-controller',
    watches: [watchOf<Node>(RESOURCES.nodes), watchOf<Pod>(RESOURCES.pods, (pod) => lostNodeOf(pod))],
    workers: 2,
    reconcile: mark,
  })
  const eviction = startController(world, {
    ...parts,
    name: 'taint-eviction-controller',
    watches: [
      watchOf<Pod>(RESOURCES.pods, (pod, before, deleted) => {
        if (deleted || !pod.spec?.nodeName) return []
        const bound = pod.spec.nodeName !== before?.spec?.nodeName
        const ending = pod.metadata.deletionTimestamp !== before?.metadata.deletionTimestamp && isIdentityPod(pod)
        return bound || ending ? [objectKey(pod)] : []
      }),
      watchOf<Node>(RESOURCES.nodes, (node, before) =>
        JSON.stringify(node.spec?.taints) === JSON.stringify(before?.spec?.taints)
          ? []
          : podsOn(node.metadata.name ?? '').map(objectKey),
      ),
    ],
    workers: parts.options.workers ?? 4,
    reconcile: evict,
  })
  restart('took over leadership')

  return {
    name: 'node-lifecycle',
    async stop() {
      for (const stop of stops) stop()
      await Promise.all([marking.stop(), eviction.stop()])
    },
  }

  function podsOn(node: string): Pod[] {
    return pods.byIndex(BY_NODE, node)
  }

  /** A pod that turns ready on a lost node (a late write of its kubelet) has to be marked again. */
  function lostNodeOf(pod: Pod): string[] {
    const node = pod.spec?.nodeName
    return node !== undefined && judge.verdict(node) === 'lost' && isPodReady(pod) ? [node] : []
  }

  /** All grace periods start anew. The tracker of beats has done so for the beats. */
  function restart(why: string): void {
    restartMs = clock.monotonicMs()
    for (const name of renewedMs.keys()) renewedMs.set(name, restartMs)
    for (const taints of taintedMs.values()) for (const key of taints.keys()) taints.set(key, restartMs)
    log.info({ why }, 'grace periods of nodes start anew')
  }

  function judgeAll(): void {
    if (!nodes.synced || !leases.synced) {
      restartMs = clock.monotonicMs()
      return
    }
    const now = clock.monotonicMs()
    const silences = nodes.list().map((node) => {
      const name = node.metadata.name ?? ''
      const sinceMs = Math.max(restartMs, firstMs.get(name) ?? restartMs)
      const beatSilenceMs = kubelets.silenceMs(name)
      const leaseSilenceMs = now - Math.max(sinceMs, renewedMs.get(name) ?? 0)
      const heardSince =
        (beatSilenceMs !== undefined && beatSilenceMs < now - sinceMs - 1) || (renewedMs.get(name) ?? 0) > sinceMs
      const head = heardSince ? 0 : FIRST_HEARING_MS
      const alreadyLost =
        condition(node.status?.conditions, 'Ready')?.status === 'Unknown' && hasTaint(node, UNREACHABLE, 'NoExecute')
      // The silence of beats may have begun before this judge's wait did.
      const beatMs = Math.min(beatSilenceMs ?? Infinity, now - sinceMs) - head
      return { name, beatMs, leaseMs: leaseSilenceMs - head, alreadyLost }
    })
    for (const name of judge.judge(silences, now)) {
      log.info({ node: name, verdict: judge.verdict(name) }, 'verdict on a node changed')
      marking.enqueue(name)
      for (const pod of podsOn(name)) eviction.enqueue(objectKey(pod))
    }
    if (judge.disrupted !== wasDisrupted) alarm()
  }

  function alarm(): void {
    wasDisrupted = judge.disrupted
    if (!wasDisrupted) return log.warn({}, 'not so many nodes are silent any more; eviction goes on')
    const silent = judge.suspects
    log.error(
      { silent, nodes: nodes.size },
      'many nodes fell silent at once: this may be my own connection; marking, not evicting',
    )
    for (const name of silent) {
      const node = nodes.get(name)
      const text = `${silent.length} of ${nodes.size} nodes fell silent at once; pods are not evicted`
      if (node)
        marking.context.events.record(
          { object: node, apiVersion: 'v1', kind: 'Node' },
          'Warning',
          'ManyNodesSilent',
          text,
        )
    }
  }

  // ----------------------------------------------------------------------------------------------------------- marking

  async function mark(key: string, context: ControllerContext): Promise<void> {
    let node = nodes.get(key)
    if (!node || node.metadata.deletionTimestamp !== undefined) return
    const verdict = judge.verdict(key)
    if (verdict !== 'heard' && condition(node.status?.conditions, 'Ready')?.status !== 'Unknown') {
      node = await context.client.update<Node>(RESOURCES.nodes, withUnknown(node), { subresource: 'status' })
      parts.counters.nodesMarked++
      const subject = { object: node, apiVersion: 'v1', kind: 'Node' }
      context.events.record(subject, 'Normal', 'NodeNotReady', `Node ${key} status is now: NodeNotReady`)
    }
    const taints = wantedTaints(node, verdict, clock.nowMs())
    if (taints) await context.client.update<Node>(RESOURCES.nodes, { ...node, spec: { ...node.spec, taints } })
    if (verdict === 'lost') for (const pod of podsOn(key)) if (isPodReady(pod)) await markNotReady(pod, context)
  }

  function withUnknown(node: Node): Node {
    const now = formatTime(clock.nowMs())
    const conditions = [...(node.status?.conditions ?? [])]
    for (const type of CONDITIONS) {
      const at = conditions.findIndex((c) => c.type === type)
      const before = conditions[at]
      if (before?.status === 'Unknown') continue
      const unknown: Condition = {
        ...before,
        type,
        status: 'Unknown',
        reason: before ? 'NodeStatusUnknown' : 'NodeStatusNeverUpdated',
        message: before ? 'Kubelet stopped posting node status.' : 'Kubelet never posted node status.',
        lastTransitionTime: now,
      }
      if (at < 0) conditions.push(unknown)
      else conditions[at] = unknown
    }
    return { ...node, status: { ...node.status, conditions } }
  }

  /** So that endpoints drop it at once. Its kubelet says otherwise when it is back. */
  async function markNotReady(pod: Pod, { client, log: ownLog }: ControllerContext): Promise<void> {
    const now = formatTime(clock.nowMs())
    const conditions = (pod.status?.conditions ?? []).map((c) =>
      c.type === 'Ready' ? { ...c, status: 'False', reason: 'NodeNotReady', lastTransitionTime: now } : c,
    )
    const next: Pod = { ...pod, status: { ...pod.status, conditions } }
    await ignore(['NotFound'], client.update(RESOURCES.pods, next, { subresource: 'status' }))
    ownLog.debug({ pod: objectKey(pod) }, 'marked a pod of a lost node as not ready')
  }

  // ---------------------------------------------------------------------------------------------------------- eviction

  async function evict(key: string, context: ControllerContext): Promise<{ requeueAfterMs: number } | void> {
    const pod = pods.get(key)
    const nodeName = pod?.spec?.nodeName
    if (!pod || !nodeName) return
    if (pod.metadata.deletionTimestamp !== undefined) return removeFenced(pod, nodeName, context)
    const node = nodes.get(nodeName)
    let dueMs = Infinity
    for (const taint of node?.spec?.taints ?? []) {
      if (taint.effect !== 'NoExecute') continue
      // That a node is unreachable is this judge's word: it holds only while the judge, now, finds it so.
      const since = taint.key === UNREACHABLE ? judge.lostSinceMs(nodeName) : taintedMs.get(nodeName)?.get(taint.key)
      if (since !== undefined)
        dueMs = Math.min(dueMs, since + tolerationSeconds(pod.spec?.tolerations ?? [], taint) * 1000)
    }
    if (dueMs === Infinity) return
    const leftMs = dueMs - clock.monotonicMs()
    if (leftMs > 0) return { requeueAfterMs: leftMs }
    const { name = '', namespace = '', uid } = pod.metadata
    parts.counters.evictions++
    const text = `Marking for deletion Pod ${namespace}/${name}`
    context.events.record({ object: pod, apiVersion: 'v1', kind: 'Pod' }, 'Normal', 'TaintManagerEviction', text)
    await ignore(
      ['NotFound'],
      context.client.delete(RESOURCES.pods, { namespace, name }, uid ? { preconditions: { uid } } : {}),
    )
  }
  /**
   * A pod of a StatefulSet that is being deleted on a lost node: what there is of it ends by the node's guard. Once the node
   * is fenced its object goes, and the StatefulSet makes the next one.
   */
  async function removeFenced(
    pod: Pod,
    nodeName: string,
    context: ControllerContext,
  ): Promise<{ requeueAfterMs: number } | void> {
    if (!isIdentityPod(pod) || judge.verdict(nodeName) !== 'lost') return
    const { fences } = parts
    const state = fences.state(nodeName)
    // It hangs in Terminating, as it does elsewhere: until its kubelet or a person says that it has ended.
    if (state.kind === 'unguarded') return
    if (state.kind === 'waiting') return { requeueAfterMs: state.leftMs }
    if (!(await fences.take(nodeName, context.client))) return { requeueAfterMs: FENCE_RETRY_MS }
    if (state.kind === 'due') {
      parts.counters.nodesFenced++
      log.warn({ node: nodeName }, 'took the lease of a lost node: its identity pods have ended')
    }
    const { name = '', namespace = '', uid } = pod.metadata
    const text = `Node ${nodeName} is lost and fenced: the identity ${namespace}/${name} is free again`
    context.events.record({ object: pod, apiVersion: 'v1', kind: 'Pod' }, 'Warning', 'IdentityFenced', text)
    await ignore(
      ['NotFound', 'Conflict'],
      context.client.delete(
        RESOURCES.pods,
        { namespace, name },
        { gracePeriodSeconds: 0, ...(uid ? { preconditions: { uid } } : {}) },
      ),
    )
  }
}
