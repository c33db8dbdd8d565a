import { objectKey, RESOURCES, startController, watchOf } from '@capstan/client'
import type { Node } from './kinds.js'
import type { Part, PartContext } from './part.js'

/** IPv4 networks of one size out of a larger one. */
export class CidrPool {
  private readonly base: number
  readonly count: number

  /** @throws RangeError if `clusterCidr` is no IPv4 network or holds no network of `maskBits`. */
  constructor(
    clusterCidr: string,
    private readonly maskBits: number,
  ) {
    const parts = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(clusterCidr)
    const [a, b, c, d, bits] = (parts ?? []).slice(1).map(Number) as [number, number, number, number, number]
    if (!parts || [a, b, c, d].some((byte) => byte > 255) || bits > 30)
      throw new RangeError(`not an IPv4 network: ${clusterCidr}`)
    if (!Number.isInteger(maskBits) || maskBits < bits || maskBits > 30 || maskBits - bits > 16)
      throw new RangeError(`networks of /${maskBits} do not fit into ${clusterCidr} (at most 65,536 of them)`)
    const address = a * 2 ** 24 + b * 2 ** 16 + c * 2 ** 8 + d
    this.base = address - (address % 2 ** (32 - bits))
    this.count = 2 ** (maskBits - bits)
  }

  /** The first network that is not in use. */
  free(used: ReadonlySet<string>): string | undefined {
    for (let index = 0; index < this.count; index++) {
      const cidr = this.at(index)
      if (!used.has(cidr)) return cidr
    }
    return undefined
  }

  private at(index: number): string {
    const address = this.base + index * 2 ** (32 - this.maskBits)
    const bytes = [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256)
    return `${bytes.join('.')}/${this.maskBits}`
  }
}

/** Gives each node a pod network (`spec.podCIDR`) of its own. It is the node's for as long as its object exists. */
export function startNodeCidrs(parts: PartContext): Part {
  const pool = new CidrPool(parts.options.clusterCidr ?? '10.244.0.0/16', parts.options.nodeCidrMaskBits ?? 24)
  const nodes = parts.informers.for<Node>(RESOURCES.nodes)
  /** Given out, and perhaps not in the cache yet. */
  const given = new Map<string, string>()
  return startController(parts.world, {
    ...parts,
    name: 'node-ipam-controller',
    watches: [watchOf<Node>(RESOURCES.nodes)],
    // One worker: two at once could choose the same network.
    workers: 1,
    async reconcile(key, { client, events }) {
      const node = nodes.get(key)
      if (!node) return void given.delete(key)
      if (node.spec?.podCIDR) return void given.delete(key)
      const used = new Set([...given].filter(([name]) => name !== key).map(([, cidr]) => cidr))
      for (const other of nodes.list())
        if (other.spec?.podCIDR && objectKey(other) !== key) used.add(other.spec.podCIDR)
      const cidr = given.get(key) ?? pool.free(used)
      if (cidr === undefined) {
        events.record(
          { object: node, apiVersion: 'v1', kind: 'Node' },
          'Warning',
          'CIDRNotAvailable',
          'all pod networks are in use',
        )
        return { requeueAfterMs: 10_000 }
      }
      given.set(key, cidr)
      const { resourceVersion } = node.metadata
      await client.patch(RESOURCES.nodes, { name: key }, 'merge', {
        metadata: { resourceVersion },
        spec: { podCIDR: cidr, podCIDRs: [cidr] },
      })
      return
    },
  })
}
