/** Checkers over what was seen of nodes. Each returns what is wrong, in words; empty: nothing. */
import { parseQuantity } from '@capstan/api'
import type { ApiObject, ObjectEvent } from './objects.js'

/** What one kubelet said at one time. */
export interface AdmittedPods {
  atMs: number
  node: string
  /** uids of the pods that it has admitted and that have not ended. */
  uids: readonly string[]
  allocatable: { cpuMilli: number; memoryBytes: number; pods: number }
}

/** Promise C4, second half: the pods that a kubelet admits never exceed what its node can allocate. */
export function checkFits(seen: readonly AdmittedPods[], history: readonly ObjectEvent[]): string[] {
  const pods = new Map<string, ApiObject>()
  for (const { key, object } of history)
    if (key.startsWith('/registry/core/pods/') && object?.metadata.uid !== undefined)
      pods.set(object.metadata.uid, object)
  const wrong: string[] = []
  for (const { atMs, node, uids, allocatable } of seen) {
    const sum = { cpuMilli: 0, memoryBytes: 0, pods: uids.length }
    for (const uid of uids)
      for (const container of pods.get(uid)?.spec?.containers ?? []) {
        sum.cpuMilli += milli(container.resources?.requests?.['cpu'])
        sum.memoryBytes += milli(container.resources?.requests?.['memory']) / 1000
      }
    for (const resource of ['cpuMilli', 'memoryBytes', 'pods'] as const)
      if (sum[resource] > allocatable[resource])
        wrong.push(
          `at ${atMs.toFixed(0)} ms ${node} had admitted ${uids.length} pods that ask for ${resource} ${sum[resource]} of ${allocatable[resource]}`,
        )
  }
  return wrong
}

const milli = (quantity: string | undefined) => (quantity === undefined ? 0 : parseQuantity(quantity).milli())

const GONE = ['node.kubernetes.io/unreachable', 'node.kubernetes.io/not-ready']

/** When a node was really cut off from the masters, down or paused: `[from, to]` in the time of `timeOf`. */
export type Absences = ReadonlyMap<string, readonly (readonly [fromMs: number, toMs: number])[]>

/**
 * No node is marked as gone that was there. A mark is right if the node was away for at least `graceMs` before it; up to
 * `noticeMs` after it came back a mark may still stand, or be made by who has not heard yet.
 */
export function checkNoFalseEviction(
  history: readonly ObjectEvent[],
  options: { absences: Absences; timeOf: (revision: number) => number; graceMs: number; noticeMs: number },
): string[] {
  const wrong: string[] = []
  const marked = new Map<string, boolean>()
  for (const { key, object, revision } of history) {
    if (!key.startsWith('/registry/core/nodes/')) continue
    const name = key.slice('/registry/core/nodes/'.length)
    const was = marked.get(name) ?? true
    // A node that has just registered is not ready yet, and says so itself.
    const taints = object ? (object.spec?.taints ?? []) : []
    const is = object === undefined || taints.some((taint) => GONE.includes(taint.key) && taint.effect === 'NoExecute')
    marked.set(name, is)
    if (!is || was || object === undefined) continue
    const atMs = options.timeOf(revision)
    const isTrue = (options.absences.get(name) ?? []).some(
      ([from, to]) => from + options.graceMs <= atMs && atMs <= to + options.noticeMs && to - from >= options.graceMs,
    )
    if (!isTrue) {
      const found = taints.map((taint) => taint.key).join(', ')
      wrong.push(`${name} was marked ${found} at revision ${revision} (${atMs.toFixed(0)} ms), and was there`)
    }
  }
  return wrong
}

/** What runs on a node, by its runtime. */
export interface RunningPods {
  node: string
  uids: readonly string[]
}

/** Promise C1, on the nodes themselves: nothing runs that nobody asked for, and all that was asked for does. */
export function checkNothingLeftOver(
  running: readonly RunningPods[],
  objects: ReadonlyMap<string, ApiObject>,
): string[] {
  const wanted = new Map<string, { name: string; node: string | undefined }>()
  for (const [key, pod] of objects) {
    if (!key.startsWith('/registry/core/pods/') || pod.metadata.uid === undefined) continue
    if (pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed') continue
    wanted.set(pod.metadata.uid, { name: pod.metadata.name, node: pod.spec?.nodeName })
  }
  const wrong: string[] = []
  const found = new Set<string>()
  for (const { node, uids } of running)
    for (const uid of uids) {
      if (wanted.get(uid)?.node === node) found.add(uid)
      else wrong.push(`${node} still runs pod ${uid}, which ${wanted.has(uid) ? 'belongs elsewhere' : 'is gone'}`)
    }
  for (const [uid, { name, node }] of wanted)
    if (node !== undefined && !found.has(uid)) wrong.push(`pod ${name} does not run on ${node}, where it should`)
  return wrong
}
