/**
 * Whether the identities of a node's pods may be given to others (StatefulSets; promise C3). The agreement with the
 * kubelets stands in `identity-lease.ts` of libs/protocol. Nothing here counts from a time stamp: a Lease's version counts
 * from when this judge first saw it, which is after its renewal was sent.
 */
import { CallError, type Clock } from '@capstan/actor'
import { type ApiClient, type InformerFactory, type KubeObject, RESOURCES } from '@capstan/client'
import { FENCED_HOLDER, IDENTITY_LEASE_MS } from '@capstan/protocol'

export const NODE_LEASE_NAMESPACE = 'kube-node-lease'

/** Both clocks may be wrong by 5 %: the node's too slow, this one's too fast. */
const CLOCK_SPREAD = 1.05 / 0.95

/** What is known of a Lease that was deleted is kept so long. */
const GONE_KEPT_MS = 3_600_000

export interface NodeLease extends KubeObject {
  spec?: { holderIdentity?: string }
}

/** Deliberate bugs, which the test of promise C3 must find. Refused unless `allowPlantedBugs`. */
export type FenceBug =
  /** Replacement does not wait until the guard has ended the pods. */
  | 'margin-left-out'
  /** The Lease is not taken before its pods are given away: the node may renew it in between. */
  | 'lease-not-taken'

export interface IdentityFenceOptions {
  /** How late the guards may be: what is left, after the lease, for the end of the containers. Default 1,000. */
  marginMs?: number
  plantedBugs?: readonly FenceBug[]
  allowPlantedBugs?: boolean
}

/**
 * - `unguarded`: nobody ends the pods of a node that is cut off; only its kubelet or a person can say that they have ended.
 * - `waiting`: the lease and the margin are not over.
 * - `due`: they are; the Lease can be taken.
 * - `fenced`: it is taken: what ran has ended, and nothing is started.
 */
export type FenceState =
  | { kind: 'unguarded' }
  | { kind: 'waiting'; leftMs: number }
  | { kind: 'due' }
  | { kind: 'fenced' }

interface Seen {
  lease: NodeLease
  sinceMs: number
  gone: boolean
}

export class IdentityFences {
  private readonly seen = new Map<string, Seen>()
  private readonly bugs: ReadonlySet<FenceBug>
  private readonly stopWatching: () => void

  constructor(
    private readonly clock: Clock,
    informers: InformerFactory,
    private readonly options: IdentityFenceOptions = {},
  ) {
    if ((options.plantedBugs ?? []).length > 0 && !options.allowPlantedBugs)
      throw new RangeError('planted bugs are for tests: they need allowPlantedBugs')
    this.bugs = new Set(options.plantedBugs)
    this.stopWatching = informers.for<NodeLease>(RESOURCES.leases).addHandler({
      add: (lease) => this.see(lease),
      update: (lease) => this.see(lease),
      // Without a Lease no renewal goes through: it is as good as taken, once what ran has ended.
      delete: (lease) => {
        const seen = this.seen.get(lease.metadata.name ?? '')
        if (seen && seen.lease.metadata.uid === lease.metadata.uid) seen.gone = true
        this.forgetOld()
      },
    })
  }

  stop(): void {
    this.stopWatching()
  }

  state(node: string): FenceState {
    const seen = this.seen.get(node)
    if (!seen) return { kind: 'unguarded' }
    if (seen.lease.spec?.holderIdentity === FENCED_HOLDER) return { kind: 'fenced' }
    const leaseMs = Number(seen.lease.metadata.annotations?.[IDENTITY_LEASE_MS])
    if (!(leaseMs > 0)) return { kind: 'unguarded' }
    const waitMs = this.bugs.has('margin-left-out') ? 0 : leaseMs * CLOCK_SPREAD + (this.options.marginMs ?? 1000)
    const leftMs = seen.sinceMs + waitMs - this.clock.monotonicMs()
    if (leftMs > 0) return { kind: 'waiting', leftMs }
    return seen.gone ? { kind: 'fenced' } : { kind: 'due' }
  }

  /**
   * Takes the Lease of a node, if it is still the one that has been waited for. False: the node renewed it meanwhile, or it
   * is not certain yet; look again.
   */
  async take(node: string, client: ApiClient): Promise<boolean> {
    const { kind } = this.state(node)
    if (kind !== 'due') return kind === 'fenced'
    if (this.bugs.has('lease-not-taken')) return true
    const resourceVersion = this.seen.get(node)?.lease.metadata.resourceVersion
    try {
      const ref = { namespace: NODE_LEASE_NAMESPACE, name: node }
      const patch = { metadata: { resourceVersion }, spec: { holderIdentity: FENCED_HOLDER } }
      this.see(await client.patch<NodeLease>(RESOURCES.leases, ref, 'merge', patch))
      return true
    } catch (error) {
      if (error instanceof CallError && ['Conflict', 'NotFound'].includes(error.code)) return false
      throw error
    }
  }

  private forgetOld(): void {
    for (const [name, { gone, sinceMs }] of this.seen)
      if (gone && this.clock.monotonicMs() - sinceMs > GONE_KEPT_MS) this.seen.delete(name)
  }

  private see(lease: NodeLease): void {
    const { name = '', namespace, resourceVersion } = lease.metadata
    if (namespace !== NODE_LEASE_NAMESPACE) return
    const before = this.seen.get(name)
    // What an own write answered may be newer than what the cache tells now.
    if (before && Number(before.lease.metadata.resourceVersion) > Number(resourceVersion)) return
    if (before?.lease.metadata.resourceVersion === resourceVersion && !before?.gone) return
    this.seen.set(name, { lease, sinceMs: this.clock.monotonicMs(), gone: false })
  }
}
