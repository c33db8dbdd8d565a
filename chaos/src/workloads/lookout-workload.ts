import type { Clock } from '@capstan/actor'
import type { Access, Json, Running, Workload, WorkloadResult } from '../harness/types.js'
import { ApiFollower } from './api-follower.js'
import type { ApiObject, ApiPort, Connections } from './ports.js'
import { runClock, until } from './work.js'

/** Locks of which one master at a time holds each. */
export const LOCKS = ['kube-scheduler', 'kube-controller-manager']
const NODES = '/api/v1/nodes'
const LEASES = '/apis/coordination.k8s.io/v1/namespaces/kube-system/leases'
const BEGIN_MS = 30_000
const SIGHTINGS_MAX = 20_000

/** What was new, and when the first of all servers said so. */
export interface LookoutMore {
  nodes: { atMs: number; node: string; isReady: boolean }[]
  /** `holder` is `<master>_<its life>_<its term of office>`. */
  locks: { atMs: number; lock: string; holder: string }[]
  lacks: string[]
}

/** Asks for nothing: it only tells when the cluster marked a node, and when another master took a lock. */
export function lookoutWorkload(connect: (access: Access) => Connections): Workload {
  return {
    name: 'lookout',
    about:
      'sees, by every API server, when nodes are marked and when the locks of scheduler and controllers change hands',
    promises: [],
    lack: () => undefined,
    async start(access) {
      const lookout = new Lookout(access, connect(access))
      await lookout.begin()
      return lookout
    },
  }
}

class Lookout implements Running {
  private readonly clock: Clock
  private readonly ports: ApiPort[] = []
  private readonly followers: ApiFollower[] = []
  private readonly more: LookoutMore = { nodes: [], locks: [], lacks: [] }
  /** By path and name: servers lag behind each other, and the newest word counts. */
  private readonly last = new Map<string, { revision: number; value: string }>()
  private ended: Promise<WorkloadResult> | undefined

  constructor(
    access: Access,
    private readonly connections: Connections,
  ) {
    this.clock = runClock(access)
  }

  async begin(): Promise<void> {
    for (const path of [NODES, LEASES])
      for (const first of this.connections.apis.keys()) this.followers.push(this.follow(path, first))
    const told = await until(this.clock, BEGIN_MS, 100, () =>
      this.followers.every((follower) => follower.reached > 0) ? true : undefined,
    )
    if (!told) throw new Error(`lookout: not every API server listed nodes and leases in ${BEGIN_MS / 1000} s`)
  }

  look() {
    return { counters: {}, wrong: [] }
  }

  stop(): Promise<WorkloadResult> {
    this.ended ??= this.conclude()
    return this.ended
  }

  private async conclude(): Promise<WorkloadResult> {
    await Promise.all(this.followers.map((follower) => follower.stop()))
    for (const port of this.ports) port.close()
    return {
      workload: 'lookout',
      history: [],
      watches: [],
      counters: {},
      series: [],
      violations: [],
      more: this.more as unknown as Json,
    }
  }

  private follow(path: string, first: number): ApiFollower {
    const ports = this.connections.apis.map(({ open }) => open())
    this.ports.push(...ports)
    const follower: ApiFollower = new ApiFollower({
      name: path,
      clock: this.clock,
      ports,
      followed: { path, keyOf: ({ metadata }) => metadata.name, valueOf: () => '' },
      first,
      eventsMax: 0,
      onEvent: ({ type, object }) => {
        if (type !== 'DELETED') this.see(path, object)
      },
      onList: () => {
        for (const object of follower.objects.values()) this.see(path, object)
      },
    })
    return follower
  }

  private see(path: string, { metadata, spec, status }: ApiObject): void {
    const { name } = metadata
    if (path === LEASES && !LOCKS.includes(name)) return
    const value = path === LEASES ? String(spec?.['holderIdentity'] ?? '') : String(isReady(status))
    const revision = Number(metadata.resourceVersion)
    const before = this.last.get(`${path}/${name}`)
    if (before && before.revision >= revision) return
    this.last.set(`${path}/${name}`, { revision, value })
    if (before?.value === value) return
    const { nodes, locks, lacks } = this.more
    const atMs = this.clock.monotonicMs()
    if (nodes.length + locks.length >= SIGHTINGS_MAX) lacks[0] = `it saw more than ${SIGHTINGS_MAX} changes`
    else if (path === LEASES) locks.push({ atMs, lock: name, holder: value })
    else nodes.push({ atMs, node: name, isReady: value === 'true' })
  }
}

function isReady(status: ApiObject['status']): boolean {
  const conditions = (status?.['conditions'] ?? []) as { type: string; status: string }[]
  return conditions.some(({ type, status: state }) => type === 'Ready' && state === 'True')
}
