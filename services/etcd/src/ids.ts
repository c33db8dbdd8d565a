import { createHash } from 'node:crypto'

/** etcd numbers clusters and members with 64 bits; ours have names. The same name has the same number everywhere. */
export function idOf(kind: 'cluster' | 'member', name: string): bigint {
  const number = createHash('sha256').update(`capstan ${kind} ${name}`).digest().readBigUInt64BE(0)
  // 0 is "none" in etcd.
  return number === 0n ? 1n : number
}

/** Keeps what it worked out: a cluster has few names. */
export class Ids {
  private readonly members = new Map<string, bigint>()
  private readonly clusters = new Map<string, bigint>()

  member(name: string): bigint {
    return remembered(this.members, name, () => idOf('member', name))
  }
  cluster(name: string): bigint {
    return remembered(this.clusters, name, () => idOf('cluster', name))
  }
}

const NAMES_MAX = 1000

function remembered(map: Map<string, bigint>, name: string, make: () => bigint): bigint {
  let id = map.get(name)
  if (id === undefined) {
    id = make()
    if (map.size < NAMES_MAX) map.set(name, id)
  }
  return id
}
