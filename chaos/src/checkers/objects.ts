/** Checkers over the store's history of API objects. Each returns what is wrong, in words; empty: nothing. */

export interface ObjectEvent {
  revision: number
  /** `/registry/<group>/<resource>/<namespace>/<name>` */
  key: string
  /** Undefined: deleted. */
  object: ApiObject | undefined
}

export interface ApiObject {
  metadata: {
    name: string
    namespace?: string
    uid?: string
    deletionTimestamp?: string
    labels?: Record<string, string>
    ownerReferences?: { uid: string; kind: string }[]
  }
  spec?: {
    nodeName?: string
    replicas?: number
    taints?: { key: string; effect?: string }[]
    containers?: { resources?: { requests?: Record<string, string> } }[]
  }
  status?: {
    phase?: string
    readyReplicas?: number
    allocatable?: Record<string, string>
    conditions?: { type: string; status: string }[]
  }
}

const isPod = (key: string) => key.startsWith('/registry/core/pods/')

/** Promise C4, first half: the node of a pod, once set, never changes. */
export function checkBoundOnce(history: readonly ObjectEvent[]): string[] {
  const nodes = new Map<string, string>()
  const wrong: string[] = []
  for (const { key, object, revision } of history) {
    const node = object?.spec?.nodeName
    const uid = object?.metadata.uid
    if (!isPod(key) || node === undefined || uid === undefined) continue
    const before = nodes.get(uid)
    if (before !== undefined && before !== node)
      wrong.push(`pod ${key} was bound to ${before} and at revision ${revision} to ${node}`)
    nodes.set(uid, node)
  }
  return wrong
}

/** One write of a leader-elected component that was acknowledged. */
export interface FencedWrite {
  lock: string
  token: number
  /** Revision at which it committed. */
  revision: number
  what: string
}

/** Promise C2: no write under a token commits after a later token of the same lock exists. */
export function checkFenced(writes: readonly FencedWrite[], tokens: ReadonlyMap<string, readonly number[]>): string[] {
  const wrong: string[] = []
  for (const write of writes) {
    const successor = (tokens.get(write.lock) ?? []).find((token) => token > write.token)
    if (successor !== undefined && write.revision > successor)
      wrong.push(
        `${write.what} under token ${write.token} of ${write.lock} committed at revision ${write.revision}, after its successor's token ${successor} existed`,
      )
  }
  return wrong
}

/** Create revisions of every lock's Lease, in order: the tokens that ever existed. */
export function tokensOf(history: readonly ObjectEvent[]): Map<string, number[]> {
  const tokens = new Map<string, number[]>()
  const alive = new Set<string>()
  for (const { key, object, revision } of history) {
    const match = /^\/registry\/coordination\.k8s\.io\/leases\/(kube-system\/.+)$/.exec(key)
    if (!match) continue
    const lock = match[1] as string
    if (object === undefined) alive.delete(lock)
    else if (!alive.has(lock)) {
      alive.add(lock)
      tokens.set(lock, [...(tokens.get(lock) ?? []), revision])
    }
  }
  return tokens
}

/** The objects as they are after the whole history. */
export function finalObjects(history: readonly ObjectEvent[]): Map<string, ApiObject> {
  const objects = new Map<string, ApiObject>()
  for (const { key, object } of history) {
    if (object === undefined) objects.delete(key)
    else objects.set(key, object)
  }
  return objects
}

const isReady = (object: ApiObject) =>
  (object.status?.conditions ?? []).some((c) => c.type === 'Ready' && c.status === 'True')

/** Promise C1: what is asked for is there and ready, and nothing else is. */
export function checkConverged(objects: ReadonlyMap<string, ApiObject>, wanted: ReadonlyMap<string, number>): string[] {
  const wrong: string[] = []
  const all = [...objects].sort(([a], [b]) => (a < b ? -1 : 1))
  const under = (prefix: string) => all.filter(([key]) => key.startsWith(prefix)).map(([, object]) => object)
  for (const node of under('/registry/core/nodes/'))
    if (!isReady(node)) wrong.push(`node ${node.metadata.name} is not Ready`)
  const deployments = under('/registry/apps/deployments/')
  for (const [name, replicas] of wanted) {
    const found = deployments.find((d) => d.metadata.name === name)
    if (!found) wrong.push(`deployment ${name} is missing`)
    else if ((found.status?.readyReplicas ?? 0) !== replicas)
      wrong.push(`deployment ${name} has ${found.status?.readyReplicas ?? 0} ready replicas of ${replicas}`)
  }
  for (const deployment of deployments)
    if (!wanted.has(deployment.metadata.name))
      wrong.push(`deployment ${deployment.metadata.name} was deleted and is still there`)
  const owners = new Set(all.map(([, object]) => object.metadata.uid))
  const pods = under('/registry/core/pods/').filter(
    (pod) => pod.status?.phase !== 'Failed' && pod.status?.phase !== 'Succeeded',
  )
  const expected = [...wanted.values()].reduce((sum, n) => sum + n, 0)
  if (pods.length !== expected)
    wrong.push(
      `${pods.length} pods instead of ${expected}: ${pods.map((p) => `${p.metadata.name} on ${p.spec?.nodeName ?? 'no node'} ${p.status?.phase ?? ''}${p.metadata.deletionTimestamp ? ' terminating' : ''}`).join(', ')}`,
    )
  for (const object of [...pods, ...under('/registry/apps/replicasets/')])
    for (const owner of object.metadata.ownerReferences ?? [])
      if (!owners.has(owner.uid)) wrong.push(`${object.metadata.name} is left over: its ${owner.kind} is gone`)
  return wrong
}
