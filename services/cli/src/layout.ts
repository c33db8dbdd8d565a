import { join } from 'node:path'
import { ELECTION_TIMEOUT_MS, HEARTBEAT_MS, LOCK_LEASE_MS } from '@capstan/protocol'

export type BusKind = 'nats' | 'memory'
export type RuntimeKind = 'containerd' | 'process' | 'hollow'

export interface MasterLayout {
  name: string
  /** Port of its API server, on loopback and on the bridge. */
  apiPort: number
  natsPort: number
  natsRoutePort: number
  /** Port of its etcd face, on loopback and on the bridge. Missing in layouts of older versions. */
  etcdPort?: number
}

export interface NodeLayout {
  name: string
  /** Its own address on the bridge; loopback without namespaces. */
  address: string
  podCidr: string
}

/** Everything that is decided before the first process starts; kept in `cluster.json`. */
export interface ClusterLayout {
  formatVersion: 1
  cluster: string
  bus: BusKind
  runtime: RuntimeKind
  /** Node with namespaces of their own: root and the containerd runtime. */
  isolated: boolean
  /** Tells the networks of one host apart: names of links and address ranges follow from it. */
  slot: number
  /** Tells all clusters of one host apart, also those without a network: it follows from the data directory. */
  id: string
  /** Where the balancer listens. */
  port: number
  /** Address at which pods reach the masters: the bridge's, or loopback. */
  hostAddress: string
  bridge: string
  nodeCidr: string
  podCidr: string
  serviceCidr: string
  masters: MasterLayout[]
  nodes: NodeLayout[]
  /** Seconds of the default tolerations for not-ready and unreachable nodes. */
  tolerationSeconds: number
  /** Of StatefulSets' pods; missing (written by an earlier version): the defaults. */
  identity?: IdentityTimes
  /** Missing: the defaults. */
  recovery?: RecoveryTimes
}

export interface IdentityTimes {
  /** So long after the last renewal of its node that was acknowledged such a pod may run. */
  leaseMs: number
  /** So much longer others wait before they run it. */
  marginMs: number
}

export const IDENTITY_TIMES: IdentityTimes = { leaseMs: 5000, marginMs: 1000 }

export interface RecoveryTimes {
  /** A node that is not heard, and whose lease was not renewed for so long, is marked. */
  nodeGraceMs: number
  /** A lock of scheduler or controller-manager that was not renewed for so long is taken over. */
  lockLeaseMs: number
  /** A leader of the store that is not heard for so long is replaced; missing (written by an earlier version): the default. */
  electionTimeoutMs?: number
}

export const RECOVERY_TIMES: Required<RecoveryTimes> = {
  nodeGraceMs: 4700,
  lockLeaseMs: LOCK_LEASE_MS,
  electionTimeoutMs: ELECTION_TIMEOUT_MS,
}

/** As a member of the store takes them. */
export function electionTimes({ electionTimeoutMs = ELECTION_TIMEOUT_MS }: Partial<RecoveryTimes> = {}) {
  return { heartbeatMs: (electionTimeoutMs * HEARTBEAT_MS) / ELECTION_TIMEOUT_MS, electionTimeoutMs }
}

/** As scheduler and controller-manager take them. Beats come by another way than leases, and may be missed a little sooner. */
export function controlTimes(recovery: RecoveryTimes | undefined) {
  if (!recovery) return {}
  const { lockLeaseMs, nodeGraceMs } = recovery
  return {
    election: { leaseDurationMs: lockLeaseMs },
    nodes: { leaseGraceMs: nodeGraceMs, beatGraceMs: nodeGraceMs - 700 },
  }
}

export interface LayoutOptions {
  masters: number
  nodes: number
  bus: BusKind
  runtime: RuntimeKind
  port: number
  slot: number
  id: string
  tolerationSeconds: number
  identity?: IdentityTimes
  recovery?: RecoveryTimes
}

export const SLOTS = 8

/** Pure: the same options give the same layout. */
export function layOut(options: LayoutOptions): ClusterLayout {
  const { slot, port } = options
  const isolated = options.runtime === 'containerd'
  // Without namespaces pods and Services live on loopback, where any address of 127.0.0.0/8 can be bound without root.
  const net = isolated ? 10 : 127
  const hostAddress = isolated ? `10.89.${slot}.1` : '127.0.0.1'
  return {
    formatVersion: 1,
    cluster: 'capstan',
    bus: options.bus,
    runtime: options.runtime,
    isolated,
    slot,
    id: options.id,
    port,
    hostAddress,
    bridge: `capstan${slot}`,
    nodeCidr: `10.89.${slot}.0/24`,
    podCidr: `${net}.${244 - slot}.0.0/16`,
    serviceCidr: `${net}.96.${slot * 16}.0/20`,
    masters: Array.from({ length: options.masters }, (_, i) => ({
      name: `master-${i}`,
      apiPort: port + 1 + i,
      natsPort: port + 101 + i,
      natsRoutePort: port + 201 + i,
      etcdPort: port + 301 + i,
    })),
    nodes: Array.from({ length: options.nodes }, (_, i) => ({
      name: `node-${i}`,
      address: isolated ? `10.89.${slot}.${11 + i}` : '127.0.0.1',
      podCidr: `${net}.${244 - slot}.${i}.0/24`,
    })),
    tolerationSeconds: options.tolerationSeconds,
    identity: options.identity ?? IDENTITY_TIMES,
    recovery: options.recovery ?? RECOVERY_TIMES,
  }
}

/** Where things lie below the data directory. */
export class Places {
  constructor(readonly data: string) {}
  get layout() {
    return join(this.data, 'cluster.json')
  }
  get kubeconfig() {
    return join(this.data, 'admin.conf')
  }
  /** There from the first `up` until its cluster is ready: members that start empty are new, not forgetful. */
  get newCluster() {
    return join(this.data, 'new-cluster')
  }
  /** OCI archives that all nodes import when they start. */
  get images() {
    return join(this.data, 'images')
  }
  get pki() {
    return join(this.data, 'pki')
  }
  /** What a client of the etcd faces needs. */
  get etcdClient() {
    return {
      ca: join(this.pki, 'etcd-ca.crt'),
      cert: join(this.pki, 'etcd-client.crt'),
      key: join(this.pki, 'etcd-client.key'),
    }
  }
  get credentials() {
    return join(this.data, 'credentials')
  }
  get logs() {
    return join(this.data, 'logs')
  }
  get run() {
    return join(this.data, 'run')
  }
  log(process: string) {
    return join(this.logs, `${process}.log`)
  }
  pidFile(process: string) {
    return join(this.run, `${process}.json`)
  }
  machine(name: string) {
    return join(this.data, 'machines', name)
  }
  creds(identity: string) {
    return join(this.credentials, `${identity}.creds`)
  }
}

/** Kernel limit for interface names is 15. */
export const namesOf = (layout: ClusterLayout) => ({
  netns: (node: string) => `capstan${layout.slot}-${node}`,
  veth: (node: string) => `cap${layout.slot}${node.replace(/^node-/, 'n')}`,
  cgroup: (machine: string) => `capstan-${layout.id}/${machine}`,
})

/** What `up` starts: a process group for each machine and the gateway, or one process for all of them. */
export const processNamesOf = (layout: ClusterLayout): string[] =>
  layout.bus === 'memory' ? ['embedded'] : ['gateway', ...machineNamesOf(layout)]

/** Every TCP port of 127.0.0.1 that it listens on. */
export function portsOf(layout: ClusterLayout): number[] {
  const bus = layout.bus === 'nats' ? layout.masters.flatMap((m) => [m.natsPort, m.natsRoutePort]) : []
  const etcd = layout.masters.flatMap((m) => m.etcdPort ?? [])
  return [layout.port, ...layout.masters.map((m) => m.apiPort), ...bus, ...etcd]
}

/** Masters, then nodes. */
export const machineNamesOf = (layout: ClusterLayout): string[] => [
  ...layout.masters.map((m) => m.name),
  ...layout.nodes.map((n) => n.name),
]
