import { type Ipv4Network, networksOverlap, networkWithin, parseIpv4Network } from '@capstan/api'
import { byText, type EventSubject, objectKey, RESOURCES, startController, watchOf } from '@capstan/client'
import type { Node } from './kinds.js'
import type { Part, PartContext } from './part.js'

const EXHAUSTED_RETRY_MS = 10_000
const BY_NETWORK = 'pod-network'

/** IPv4 networks of one size out of a larger one, numbered from 0. */
export class CidrPool {
  private readonly cluster: Ipv4Network
  private readonly networkSize: number
  readonly count: number

  /** @throws RangeError if `clusterCidr` is no IPv4 network or holds no network of `maskBits`. */
  constructor(
    readonly clusterCidr: string,
    readonly maskBits: number,
  ) {
    const cluster = parseIpv4Network(clusterCidr)
    if (!cluster || cluster.size < 4) throw new RangeError(`not an IPv4 network: ${clusterCidr}`)
    this.cluster = cluster
    this.networkSize = 2 ** (32 - maskBits)
    this.count = cluster.size / this.networkSize
    if (!Number.isInteger(maskBits) || maskBits > 30 || this.count < 1 || this.count > 65_536)
      throw new RangeError(`networks of /${maskBits} do not fit into ${clusterCidr} (at most 65,536 of them)`)
  }

  at(index: number): string {
    const address = this.cluster.base + index * this.networkSize
    const bytes = [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256)
    return `${bytes.join('.')}/${this.maskBits}`
  }

  /** Numbers of the networks that share an address with `cidr`; none for one that lies outside, or is no network. */
  touched(cidr: string): number[] {
    const network = parseIpv4Network(cidr)
    if (!network || !networksOverlap(network, this.cluster)) return []
    const first = Math.max(0, Math.floor((network.base - this.cluster.base) / this.networkSize))
    const last = Math.min(this.count, Math.ceil((network.base + network.size - this.cluster.base) / this.networkSize))
    return Array.from({ length: last - first }, (_, i) => first + i)
  }

  holds(cidr: string): boolean {
    const network = parseIpv4Network(cidr)
    return network !== undefined && networkWithin(network, this.cluster)
  }
}

/**
 * Gives each node a pod network (`spec.podCIDR`) of its own. It is the node's for as long as its object exists. A network that a
 * kubelet brought itself is left to it; one that lies outside or overlaps an older node's is told by an event.
 */
export function startNodeCidrs(parts: PartContext): Part {
  const pool = new CidrPool(parts.options.clusterCidr ?? '10.244.0.0/16', parts.options.nodeCidrMaskBits ?? 24)
  const nodes = parts.informers.for<Node>(RESOURCES.nodes)
  nodes.addIndex(BY_NETWORK, (node) => cidrsOf(node).flatMap((cidr) => pool.touched(cidr).map(String)))
  /** Given out, and perhaps not in the cache yet. Node → number of its network. */
  const given = new Map<string, number>()
  /** What the event of a node said last: it is said again only if it is something else. */
  const told = new Map<string, string>()

  /** Whose network number `index` is, as far as is known; `except` aside. */
  function holders(index: number, except: string): Node[] {
    return nodes.byIndex(BY_NETWORK, String(index)).filter((node) => objectKey(node) !== except)
  }

  function free(key: string): number | undefined {
    const promised = given.get(key)
    // One that was promised and not written may have been taken by a kubelet that brought it.
    if (promised !== undefined && holders(promised, key).length === 0) return promised
    const others = new Set([...given].filter(([name]) => name !== key).map(([, index]) => index))
    for (let index = 0; index < pool.count; index++)
      if (!others.has(index) && holders(index, key).length === 0) return index
    return undefined
  }

  /** What is wrong with the network that a node has. */
  function trouble(node: Node): [reason: string, text: string] | undefined {
    const key = objectKey(node)
    for (const cidr of cidrsOf(node)) {
      if (!pool.holds(cidr))
        return [
          'CIDROutOfRange',
          `its pod network ${cidr} is not within ${pool.clusterCidr}: other nodes do not route it`,
        ]
      const older = pool
        .touched(cidr)
        .flatMap((index) => holders(index, key))
        .find((other) => isOlder(other, node))
      if (older)
        return [
          'CIDRConflict',
          `its pod network ${cidr} overlaps ${cidrsOf(older).join(', ')} of node ${objectKey(older)}, which is older and keeps it: remove and join one of them again`,
        ]
    }
    return undefined
  }

  return startController(parts.world, {
    ...parts,
    name: 'node-ipam-controller',
    watches: [
      watchOf<Node>(RESOURCES.nodes, (node, before, deleted) =>
        deleted || !before || !node.spec?.podCIDR || node.spec.podCIDR !== before.spec?.podCIDR
          ? [objectKey(node)]
          : [],
      ),
    ],
    // One worker: two at once could choose the same network.
    workers: 1,
    async reconcile(key, { client, events, log }) {
      const node = nodes.get(key)
      if (!node) {
        given.delete(key)
        told.delete(key)
        return
      }
      const tell = ([reason, text]: [string, string]) => {
        if (told.get(key) === text) return
        told.set(key, text)
        log.warn({ node: key, reason }, text)
        const subject: EventSubject = { object: node, apiVersion: 'v1', kind: 'Node' }
        events.record(subject, 'Warning', reason, text)
      }
      if (cidrsOf(node).length > 0) {
        given.delete(key)
        const wrong = trouble(node)
        if (wrong) tell(wrong)
        else told.delete(key)
        return
      }
      const index = free(key)
      if (index === undefined) {
        const text = `all ${pool.count} pod networks of /${pool.maskBits} in ${pool.clusterCidr} are in use: delete Nodes that are gone, or give the masters a wider --cluster-cidr`
        tell(['CIDRNotAvailable', text])
        return { requeueAfterMs: EXHAUSTED_RETRY_MS }
      }
      given.set(key, index)
      const cidr = pool.at(index)
      // Against the version that was seen: a kubelet that brings its own network meanwhile is not overruled.
      await client.patch(RESOURCES.nodes, { name: key }, 'merge', {
        metadata: { resourceVersion: node.metadata.resourceVersion },
        spec: { podCIDR: cidr, podCIDRs: [cidr] },
      })
      told.delete(key)
      return
    },
  })
}

function cidrsOf(node: Node): string[] {
  const { podCIDR, podCIDRs = [] } = node.spec ?? {}
  return podCIDR ? [...new Set([podCIDR, ...podCIDRs])] : []
}

function isOlder(a: Node, b: Node): boolean {
  const at = (node: Node) => node.metadata.creationTimestamp ?? ''
  return (byText(at(a), at(b)) || byText(objectKey(a), objectKey(b))) < 0
}
