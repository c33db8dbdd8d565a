import type { ApiClient, LeaderElectorOptions } from '@capstan/client'
import type { IdentityFenceOptions } from './identity-fences.js'

export interface ControllerManagerOptions {
  cluster: string
  /** The master that this instance runs on: its name in beats and in the lock. */
  machine: string
  /** Default: a `BusApiClient`. */
  client?: ApiClient
  election?: Pick<LeaderElectorOptions, 'leaseDurationMs' | 'renewMs' | 'renewDeadlineMs' | 'retryMs'>
  /** Nodes get their pod networks out of this one. Default 10.244.0.0/16, and /24 for each node. */
  clusterCidr?: string
  nodeCidrMaskBits?: number
  /** PEM. With it each namespace has the ConfigMap `kube-root-ca.crt`. */
  rootCaPem?: string
  nodes?: NodeLifecycleOptions
  podGc?: PodGcOptions
  /** When the pods of StatefulSets on a silent node are given to other nodes. */
  identity?: IdentityFenceOptions
  /** Workers of the busier controllers. Default 4. */
  workers?: number
}

export interface NodeLifecycleOptions {
  /**
   * A kubelet whose beats are missing so long … Default 4,000. Both graces must outlast a period of 1 s and a pause of a
   * process of 3 s, which marks no node.
   */
  beatGraceMs?: number
  /** … *and* whose Lease was not renewed so long counts as silent. Default 4,700. */
  leaseGraceMs?: number
  /** Nodes that fell silent within this time fell silent at once. Default 10,000. */
  atOnceMs?: number
  /**
   * While many are silent at once nothing is evicted. If others were heard all the while, that ends after so long.
   * Default 60,000.
   */
  disruptionHoldMs?: number
}

export interface PodGcOptions {
  /** Default 5,000. */
  periodMs?: number
  /** How long a pod's node must be gone before the pod is. Default 10,000. */
  orphanQuarantineMs?: number
  /** Ended pods kept. Default 12,500. */
  terminatedMax?: number
}
