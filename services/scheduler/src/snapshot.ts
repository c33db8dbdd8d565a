import { add, podLoad, podRequests, type Resources, resourcesOf } from './resources.js'
import type { NodeView, PodView } from './views.js'

/** One node with the pods that are on it or assumed to be. */
export interface NodeInfo {
  readonly name: string
  readonly node: NodeView
  readonly allocatable: Resources
  readonly pods: ReadonlyMap<string, PodView>
  readonly requested: Resources
  readonly load: { cpuMilli: number; memoryBytes: number }
  /** `protocol ip port` of host ports in use. */
  readonly hostPorts: ReadonlyMap<string, number>
}

interface MutableNodeInfo extends NodeInfo {
  node: NodeView
  allocatable: Resources
  pods: Map<string, PodView>
  hostPorts: Map<string, number>
}

/**
 * What the scheduler knows of the cluster, updated by each change and never rebuilt. A pod that the scheduler has bound
 * counts at once (`assume`), until the watch shows it or the binding fails.
 */
export class Snapshot {
  private readonly nodes = new Map<string, MutableNodeInfo>()
  /** Pods by uid → where they count. Also those on nodes that we do not know (yet). */
  private readonly placed = new Map<string, { nodeName: string; pod: PodView; assumed: boolean }>()
  private sorted: NodeInfo[] | undefined

  setNode(node: NodeView): void {
    const name = node.metadata.name
    const info = this.nodes.get(name)
    if (info) {
      info.node = node
      info.allocatable = resourcesOf(node.status?.allocatable)
      return
    }
    this.sorted = undefined
    const fresh: MutableNodeInfo = {
      name,
      node,
      allocatable: resourcesOf(node.status?.allocatable),
      pods: new Map(),
      requested: new Map(),
      load: { cpuMilli: 0, memoryBytes: 0 },
      hostPorts: new Map(),
    }
    this.nodes.set(name, fresh)
    for (const { nodeName, pod } of this.placed.values()) if (nodeName === name) count(fresh, pod, 1)
  }

  removeNode(name: string): void {
    this.nodes.delete(name)
    this.sorted = undefined
  }

  /** A pod as the API states it. Finished or unbound ones (that are not assumed) count nowhere. */
  setPod(pod: PodView): void {
    const { uid } = pod.metadata
    const finished = pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed'
    const nodeName = pod.spec.nodeName
    const known = this.placed.get(uid)
    if (!nodeName && known?.assumed && !finished) return
    this.removePod(uid)
    if (nodeName && !finished) this.place(pod, nodeName, false)
  }

  assume(pod: PodView, nodeName: string): void {
    this.removePod(pod.metadata.uid)
    this.place(pod, nodeName, true)
  }

  /** The binding did not happen. A pod that the API has shown as bound stays. */
  forget(uid: string): void {
    if (this.placed.get(uid)?.assumed) this.removePod(uid)
  }

  removePod(uid: string): void {
    const known = this.placed.get(uid)
    if (!known) return
    this.placed.delete(uid)
    const info = this.nodes.get(known.nodeName)
    if (info) count(info, known.pod, -1)
  }

  isPlaced(uid: string): boolean {
    return this.placed.has(uid)
  }

  /** Sorted by name. */
  list(): readonly NodeInfo[] {
    this.sorted ??= [...this.nodes.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
    return this.sorted
  }

  private place(pod: PodView, nodeName: string, assumed: boolean): void {
    this.placed.set(pod.metadata.uid, { nodeName, pod, assumed })
    const info = this.nodes.get(nodeName)
    if (info) count(info, pod, 1)
  }
}

function count(info: MutableNodeInfo, pod: PodView, sign: 1 | -1): void {
  if (sign > 0) info.pods.set(pod.metadata.uid, pod)
  else info.pods.delete(pod.metadata.uid)
  add(info.requested, podRequests(pod), sign)
  const load = podLoad(pod)
  info.load.cpuMilli += sign * load.cpuMilli
  info.load.memoryBytes += sign * load.memoryBytes
  for (const port of hostPortsOf(pod)) {
    const uses = (info.hostPorts.get(port) ?? 0) + sign
    if (uses > 0) info.hostPorts.set(port, uses)
    else info.hostPorts.delete(port)
  }
}

export function hostPortsOf(pod: PodView): string[] {
  return pod.spec.containers.flatMap((container) =>
    (container.ports ?? [])
      .filter((port) => (port.hostPort ?? 0) > 0)
      .map((port) => `${port.protocol ?? 'TCP'} ${port.hostIP || '0.0.0.0'} ${port.hostPort}`),
  )
}
