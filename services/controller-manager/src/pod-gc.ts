import { every } from '@capstan/actor'
import { byText, type ControllerContext, objectKey, RESOURCES, startController } from '@capstan/client'
import { ignore } from './endpoint-controllers.js'
import { isPodFinished, isPodReady, type Node, parseTime, type Pod } from './kinds.js'
import type { Part, PartContext } from './part.js'
import { getLive } from './replica-controller.js'
import { isIdentityPod } from './stateful-set-controller.js'
import { hasTaint, OUT_OF_SERVICE } from './taints.js'

const SWEEP = 'sweep'

/**
 * Deletes pods that nobody else will: of nodes that are no more, terminating ones that were never bound, those of nodes
 * declared out of service, and ended ones above a number.
 */
export function startPodGc(parts: PartContext): Part {
  const { world, informers, fences } = parts
  const options = parts.options.podGc ?? {}
  const quarantineMs = options.orphanQuarantineMs ?? 10_000
  const terminatedMax = options.terminatedMax ?? 12_500
  const pods = informers.for<Pod>(RESOURCES.pods)
  const nodes = informers.for<Node>(RESOURCES.nodes)
  /** Name of a node that pods name and the cache does not have → since when. */
  const missingSince = new Map<string, number>()

  const controller = startController(world, {
    ...parts,
    name: 'pod-garbage-collector',
    // Looks at everything each time; the watches only hold the work back until the caches are there.
    watches: [
      { resource: RESOURCES.pods, keys: () => [] },
      { resource: RESOURCES.nodes, keys: () => [] },
    ],
    async reconcile(_, context) {
      const now = world.clock.monotonicMs()
      const all = pods.list()
      await orphans(all, now, context)
      for (const pod of all) {
        const { deletionTimestamp } = pod.metadata
        if (deletionTimestamp !== undefined && !pod.spec?.nodeName) await remove(pod, 'was never bound', context)
        const node = nodes.get(pod.spec?.nodeName ?? '')
        if (deletionTimestamp !== undefined && node && !isPodReady(pod) && outOfService(node) && (await hasEnded(pod)))
          await remove(pod, 'node is out of service', context)
      }
      await terminated(all, context)
    },
  })
  const stopSweeping = every(world.clock, options.periodMs ?? 5000, () => controller.enqueue(SWEEP))
  return {
    name: controller.name,
    async stop() {
      stopSweeping()
      await controller.stop()
    },
  }

  async function orphans(all: readonly Pod[], now: number, context: ControllerContext): Promise<void> {
    const missing = new Map<string, Pod[]>()
    for (const pod of all) {
      const node = pod.spec?.nodeName
      if (!node || nodes.get(node)) continue
      const list = missing.get(node)
      if (list) list.push(pod)
      else missing.set(node, [pod])
    }
    for (const node of Array.from(missingSince.keys())) if (!missing.has(node)) missingSince.delete(node)
    for (const [node, orphaned] of [...missing].sort((a, b) => byText(a[0], b[0]))) {
      const since = missingSince.get(node)
      if (since === undefined) missingSince.set(node, now)
      if (since === undefined || now - since < quarantineMs) continue
      // The cache may be behind: only the API server's word makes a node gone.
      if (await getLive<Node>(context.client, RESOURCES.nodes, { name: node })) continue
      for (const pod of orphaned) if (await hasEnded(pod)) await remove(pod, `node ${node} is gone`, context)
    }
  }

  /**
   * A person declared the node gone. That counts for identity pods too, but not before the node's guard has ended them; the
   * next sweep looks again.
   */
  async function hasEnded(pod: Pod): Promise<boolean> {
    const node = pod.spec?.nodeName ?? ''
    return (
      !isIdentityPod(pod) || fences.state(node).kind === 'unguarded' || fences.take(node, controller.context.client)
    )
  }

  async function terminated(all: readonly Pod[], context: ControllerContext): Promise<void> {
    const ended = all.filter((pod) => isPodFinished(pod) && pod.metadata.deletionTimestamp === undefined)
    if (ended.length <= terminatedMax) return
    const created = (pod: Pod) => parseTime(pod.metadata.creationTimestamp) ?? 0
    ended.sort((a, b) => created(a) - created(b) || byText(objectKey(a), objectKey(b)))
    for (const pod of ended.slice(0, ended.length - terminatedMax)) await remove(pod, 'too many ended pods', context)
  }

  async function remove(pod: Pod, why: string, { client, log }: ControllerContext): Promise<void> {
    const { name = '', namespace = '', uid } = pod.metadata
    log.info({ pod: objectKey(pod), why }, 'deleting a pod')
    const preconditions = uid === undefined ? {} : { preconditions: { uid } }
    await ignore(
      ['NotFound', 'Conflict'],
      client.delete(RESOURCES.pods, { namespace, name }, { gracePeriodSeconds: 0, ...preconditions }),
    )
  }

  function outOfService(node: Node): boolean {
    return hasTaint(node, OUT_OF_SERVICE, 'NoExecute') || hasTaint(node, OUT_OF_SERVICE, 'NoSchedule')
  }
}
