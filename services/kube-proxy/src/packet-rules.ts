import type { Forward } from './forwarding.js'

/** How forwards become effective on a node. Bodies: nftables, userspace (edges) and hollow. */
export interface PacketRules {
  readonly kind: 'nftables' | 'userspace' | 'hollow'
  /** Makes exactly these forwards effective; the same list again changes nothing. One call at a time. */
  apply(forwards: readonly Forward[]): Promise<void>
  /** Removes everything that `apply` made. */
  clear(): Promise<void>
}

/** Pretends: for the simulation and for scale. */
export class HollowRules implements PacketRules {
  readonly kind = 'hollow'
  forwards: readonly Forward[] = []

  async apply(forwards: readonly Forward[]): Promise<void> {
    this.forwards = forwards
  }

  async clear(): Promise<void> {
    this.forwards = []
  }
}
