import { CallError, type World } from '@capstan/actor'
import { type ApiClient, type KubeObject, microTime, RESOURCES } from '@capstan/client'
import { IDENTITY_LEASE_MS } from '@capstan/protocol'
import type { IdentityKeeper } from './identity-keeper.js'

const NAMESPACE = 'kube-node-lease'

interface Lease extends KubeObject {
  spec?: {
    holderIdentity?: string
    leaseDurationSeconds?: number
    renewTime?: string
    acquireTime?: string
    leaseTransitions?: number
  }
}

export interface NodeLeaseOptions {
  client: ApiClient
  nodeName: string
  leaseRenewMs: number
  leaseDurationSeconds: number
  /** Missing: no guard watches over the node. */
  identity: IdentityKeeper | undefined
}

/** Renews the node's Lease, each time against the version that it renewed last: see `identity-lease.ts` in libs/protocol. */
export class NodeLease {
  private version: string | undefined
  private renewing = false

  constructor(
    private readonly world: Pick<World, 'clock' | 'log'>,
    private readonly options: NodeLeaseOptions,
  ) {}

  /** A renewal that fails is not made up for: the next one says more. */
  async renew(): Promise<void> {
    if (this.renewing) return
    this.renewing = true
    try {
      if (this.version === undefined) await this.take()
      else await this.extend(this.version)
    } catch (error) {
      this.world.log.debug({ err: error, node: this.options.nodeName }, 'lease not renewed')
    } finally {
      this.renewing = false
    }
  }

  private async extend(version: string): Promise<void> {
    try {
      await this.write(version)
    } catch (error) {
      if (!(error instanceof CallError && (error.code === 'Conflict' || error.code === 'NotFound'))) throw error
      // Taken from this node; or a renewal came through whose answer was lost.
      this.version = undefined
      await this.take()
    }
  }

  /** Looks whose the Lease is, and makes it this node's. */
  private async take(): Promise<void> {
    const { client, nodeName, identity } = this.options
    let found: Lease | undefined
    try {
      found = await client.get<Lease>(RESOURCES.leases, this.ref(), { timeoutMs: this.timeoutMs })
    } catch (error) {
      if (!(error instanceof CallError && error.code === 'NotFound')) throw error
    }
    if (found?.spec?.holderIdentity === nodeName) return this.write(found.metadata.resourceVersion)
    const holder = found?.spec?.holderIdentity
    await identity?.endTenure(found ? `the lease of this node is with ${holder ?? 'nobody'}` : 'this node has no lease')
    if (found) {
      this.world.log.warn({ node: nodeName, holder }, 'the lease of this node was taken from it; taking it back')
      return this.write(found.metadata.resourceVersion, (found.spec?.leaseTransitions ?? 0) + 1)
    }
    const sentMs = identity?.bootMs()
    const lease = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata: this.metadata(), spec: this.spec() }
    const made = await client.create<KubeObject>(RESOURCES.leases, lease, { timeoutMs: this.timeoutMs })
    this.acknowledged(made, sentMs)
  }

  private async write(version: string | undefined, leaseTransitions?: number): Promise<void> {
    const { client, identity } = this.options
    // Read before the call goes out: the lease counts from the sending.
    const sentMs = identity?.bootMs()
    const metadata = { annotations: this.annotations(), resourceVersion: version }
    const spec = { ...this.spec(), ...(leaseTransitions === undefined ? {} : { leaseTransitions }) }
    const patch = { metadata, spec }
    const written = await client.patch<KubeObject>(RESOURCES.leases, this.ref(), 'merge', patch, {
      timeoutMs: this.timeoutMs,
    })
    this.acknowledged(written, sentMs)
  }

  private acknowledged(lease: KubeObject, sentMs: number | undefined): void {
    this.version = lease.metadata.resourceVersion
    if (sentMs !== undefined) this.options.identity?.renewed(sentMs)
  }

  private spec(): Lease['spec'] {
    const { nodeName, leaseDurationSeconds } = this.options
    return { holderIdentity: nodeName, leaseDurationSeconds, renewTime: microTime(this.world.clock.nowMs()) }
  }

  private metadata(): KubeObject['metadata'] {
    const value = this.annotations()[IDENTITY_LEASE_MS]
    return { ...this.ref(), ...(value === null ? {} : { annotations: { [IDENTITY_LEASE_MS]: value } }) }
  }

  private annotations(): Record<typeof IDENTITY_LEASE_MS, string | null> {
    const { identity } = this.options
    return { [IDENTITY_LEASE_MS]: identity?.guarded ? String(identity.leaseMs) : null }
  }

  private ref() {
    return { namespace: NAMESPACE, name: this.options.nodeName }
  }

  private get timeoutMs(): number {
    return Math.max(this.options.leaseRenewMs, 1000)
  }
}
