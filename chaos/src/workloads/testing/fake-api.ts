import type { LiveContainer } from '../../harness/types.js'
import type { Answer, ApiEvent, ApiObject, ApiPort, Failure, Method } from '../ports.js'
import type { Virtual } from './virtual.js'

/** What an API may do wrong: each is what a checker must find. */
export type ApiBug =
  | 'lost-write'
  | 'lost-on-one-master'
  | 'stale-get'
  | 'conflict-ignored'
  | 'watch-gap'
  | 'watch-added-twice'
  /** Nothing is violated: after ten seconds watches say nothing more. */
  | 'watch-silent'
  | 'bad-taken'
  | 'vague-refusal'
  | 'pod-left-over'
  | 'pod-missing'
  | 'container-left-over'
  | 'rebound'
  | 'identity-twice'
  | 'deployment-back'
  | 'overcommit'

const ENDPOINTS = ['a0', 'a1', 'a2']
/** From the wish for a pod to its being Ready, and from the end of it to its being gone. */
const START_MS = 700
const END_MS = 300

interface Change {
  revision: number
  collection: string
  type: 'ADDED' | 'MODIFIED' | 'DELETED'
  object: ApiObject
}

/** What a node can give. */
const NODE_CPU = { cpu: '4' }
const NODES = ['node-0', 'node-1', 'node-2']

/** An API of three servers in memory, consistent but for its bug; and controllers that make pods of what is asked for. */
export class FakeApi {
  readonly down = new Set<string>()
  private revision = 100
  private uids = 0
  private readonly collections = new Map<string, Map<string, ApiObject>>()
  private readonly changes: Change[] = []
  private readonly watches = new Set<{ changed(change: Change): void; lose(): void }>()
  private readonly live = new Map<string, LiveContainer>()
  private hidden: string | undefined

  constructor(
    private readonly virtual: Virtual,
    private readonly bug?: ApiBug,
  ) {
    for (const name of NODES)
      this.write('/api/v1/nodes', { metadata: { name, uid: name }, status: { allocatable: NODE_CPU } }, 'ADDED')
  }

  get ports(): { endpoint: string; open(): ApiPort }[] {
    return ENDPOINTS.map((endpoint) => ({ endpoint, open: () => this.port(endpoint) }))
  }

  /** By the process table. */
  liveContainers(): Promise<LiveContainer[]> {
    const all = [...this.live.values()]
    if (this.bug === 'identity-twice')
      for (const container of [...all].filter(({ pod }) => /^(db|statefulset)/.test(pod))) {
        const former = [...this.podUids].find(([name, uid]) => name === container.pod && uid !== container.podUid)
        if (former) all.push({ ...container, node: 'node-9', podUid: former[1], pid: 9 })
      }
    return Promise.resolve(all)
  }
  private readonly podUids = new Set<readonly [name: string, uid: string]>()

  loseWatches(): void {
    for (const watch of [...this.watches]) watch.lose()
  }

  private chance(probability: number): boolean {
    return this.virtual.simulation.random.chance(probability)
  }

  private port(endpoint: string): ApiPort {
    const { simulation } = this.virtual
    const { random } = simulation
    return {
      endpoint,
      request: async <T>(method: Method, path: string, body?: unknown): Promise<Answer<T>> => {
        await simulation.sleep(random.between(1, 6))
        if (this.down.has(endpoint) && random.chance(0.5)) return { ...LOST, outcome: 'not-applied' }
        const answer = this.handle(endpoint, method, path, body)
        await simulation.sleep(random.between(1, 6))
        return this.down.has(endpoint) ? LOST : (answer as Answer<T>)
      },
      watch: (path, listener) => this.watch(path, listener),
      close: () => undefined,
    }
  }

  private handle(endpoint: string, method: Method, fullPath: string, body: unknown): Answer<unknown> {
    const [path = '', query = ''] = fullPath.split('?')
    const parts = path.split('/')
    const isNamespace = parts[3] === 'namespaces' && parts.length <= 5
    const hasName = isNamespace
      ? parts.length === 5
      : path.startsWith('/apis/')
        ? parts.length === 8
        : parts.length === 7
    const collection = hasName ? path.slice(0, path.lastIndexOf('/')) : path
    const name = hasName ? parts.at(-1) : undefined
    const objects = this.collection(collection)
    if (method === 'GET') return name === undefined ? this.list(endpoint, collection, query) : this.get(objects, name)
    if (method === 'POST') return this.create(collection, body as ApiObject, isNamespace)
    if (method === 'DELETE') {
      if (name === undefined) for (const one of [...objects.keys()]) this.remove(collection, one)
      else if (!this.remove(collection, name)) return no('NotFound', `${name} not found`)
      return { ok: true, value: { metadata: {} } }
    }
    const before = objects.get(name ?? '')
    const { metadata, spec, data } = body as ApiObject
    if (method === 'PUT' && metadata.name !== name)
      return this.refuse('the name of the object is not the one of the path')
    if (!before) return no('NotFound', `${name} not found`)
    const isOld =
      metadata?.resourceVersion !== undefined && metadata.resourceVersion !== before.metadata.resourceVersion
    if (isOld && !(this.bug === 'conflict-ignored' && this.chance(0.3))) return no('Conflict', 'it has been modified')
    const merged: ApiObject = {
      ...before,
      ...(data ? { data } : {}),
      ...(spec ? { spec: mergeSpec(before.spec ?? {}, spec) } : {}),
    }
    return { ok: true, value: this.write(collection, merged, 'MODIFIED') }
  }

  private get(objects: ReadonlyMap<string, ApiObject>, name: string): Answer<ApiObject> {
    const object = objects.get(name)
    if (!object) return no('NotFound', `${name} not found`)
    if (this.bug === 'stale-get' && this.chance(0.1)) {
      const old = this.changes.find((change) => change.object.metadata.uid === object.metadata.uid)
      if (old) return { ok: true, value: old.object }
    }
    return { ok: true, value: object }
  }

  private list(endpoint: string, collection: string, query: string): Answer<unknown> {
    const generation = /labelSelector=generation%3D(\w+)/.exec(query)?.[1]
    const all = collection === ALL_PODS ? this.allPods() : [...this.collection(collection).values()]
    const items = all
      .filter(({ metadata }) => generation === undefined || metadata.labels?.['generation'] === generation)
      .filter(({ metadata }) => this.bug !== 'lost-on-one-master' || endpoint !== 'a1' || metadata.name !== this.hidden)
    if (generation === undefined) this.hidden ??= items[0]?.metadata.name
    return { ok: true, value: { metadata: { resourceVersion: String(this.revision) }, items } }
  }

  private create(collection: string, object: ApiObject, isNamespace: boolean): Answer<ApiObject> {
    const wrong = isNamespace ? undefined : whatIsWrong(collection, object)
    if (wrong !== undefined) return this.refuse(wrong)
    if (this.collection(collection).has(object.metadata.name)) return no('AlreadyExists', 'already exists')
    if (this.bug === 'lost-write' && object.kind === 'ConfigMap' && this.chance(0.03))
      return {
        ok: true,
        value: { ...object, metadata: { ...object.metadata, resourceVersion: String(++this.revision) } },
      }
    const namespace = collection.split('/').at(-2)
    const metadata = { ...object.metadata, uid: `uid-${++this.uids}`, ...(namespace ? { namespace } : {}) }
    const made = { ...object, metadata }
    return { ok: true, value: this.write(collection, made, 'ADDED') }
  }

  private refuse(text: string): Answer<ApiObject> {
    if (this.bug === 'bad-taken') return { ok: true, value: { metadata: { name: 'x' } } }
    return no('Invalid', this.bug === 'vague-refusal' ? 'no' : text)
  }

  private collection(path: string): Map<string, ApiObject> {
    const found = this.collections.get(path) ?? new Map<string, ApiObject>()
    this.collections.set(path, found)
    return found
  }

  private write(collection: string, object: ApiObject, type: Change['type']): ApiObject {
    const revision = ++this.revision
    const written = { ...object, metadata: { ...object.metadata, resourceVersion: String(revision) } }
    if (type === 'DELETED') this.collection(collection).delete(object.metadata.name)
    else this.collection(collection).set(object.metadata.name, written)
    const change: Change = { revision, collection, type, object: written }
    this.changes.push(change)
    for (const watch of this.watches) watch.changed(change)
    if (collection.endsWith('/pods')) this.schedule()
    if (/\/apis\/apps\//.test(collection))
      this.virtual.simulation.at(this.virtual.simulation.nowMs, () => this.control(collection))
    return written
  }

  private remove(collection: string, name: string): boolean {
    const object = this.collection(collection).get(name)
    if (!object) return false
    this.write(collection, object, 'DELETED')
    if (this.bug === 'deployment-back' && object.kind === 'Deployment') this.write(collection, object, 'ADDED')
    return true
  }

  private watch(path: string, listener: { event(event: ApiEvent): void; end(reason: string): void }): () => void {
    const { simulation } = this.virtual
    const [collection = '', query = ''] = path.split('?')
    const from = Number(/resourceVersion=(\d+)/.exec(query)?.[1] ?? 0)
    let ended = false
    const end = (reason: string) => {
      if (ended) return
      ended = true
      this.watches.delete(watch)
      simulation.at(simulation.nowMs, () => listener.end(reason))
    }
    const changed = (change: Change) => {
      const isWatched =
        change.collection === collection || (collection === ALL_PODS && change.collection.endsWith('/pods'))
      if (!isWatched || (this.bug === 'watch-gap' && this.chance(0.03))) return
      const type = this.bug === 'watch-added-twice' && this.chance(0.03) ? 'ADDED' : change.type
      simulation.at(simulation.nowMs + 4, () => {
        const isSilent = this.bug === 'watch-silent' && simulation.nowMs > 10_000
        if (!ended && !isSilent) listener.event({ type, object: change.object })
      })
    }
    const watch = { changed, lose: () => end('lost') }
    for (const change of this.changes) if (change.revision > from) changed(change)
    this.watches.add(watch)
    return () => end('stopped')
  }

  // ------------------------------------------------------------------------------------------------------ controllers

  private allPods(): ApiObject[] {
    return [...this.collections].filter(([path]) => path.endsWith('/pods')).flatMap(([, pods]) => [...pods.values()])
  }

  /** Binds pods that nobody owns, each where there is room for it. */
  private schedule(): void {
    const { simulation } = this.virtual
    simulation.at(simulation.nowMs + 50, () => {
      for (const [path, pods] of this.collections)
        for (const pod of path.endsWith('/pods') ? [...pods.values()] : []) {
          if (pod.spec?.['nodeName'] !== undefined || pod.metadata.ownerReferences) continue
          const roomMax = this.bug === 'overcommit' ? 4 : 3
          const node = NODES.find(
            (name) => this.allPods().filter((other) => other.spec?.['nodeName'] === name).length < roomMax,
          )
          if (node === undefined) continue
          this.write(path, { ...pod, spec: { ...pod.spec, nodeName: node }, status: { phase: 'Running' } }, 'MODIFIED')
        }
    })
  }

  /** Pods as they are asked for: what is too much goes, what is of an old template goes, what is missing comes. */
  private control(ownersPath: string): void {
    const pods = `${ownersPath.slice(0, ownersPath.lastIndexOf('/')).replace('/apis/apps/v1', '/api/v1')}/pods`
    const owners = [...this.collection(ownersPath).values()]
    const kind = ownersPath.slice(ownersPath.lastIndexOf('/') + 1)
    for (const pod of [...this.collection(pods).values()]) {
      if (pod.metadata.ownerReferences?.[0]?.kind !== kind || pod.metadata.deletionTimestamp !== undefined) continue
      const owner = owners.find(({ metadata }) => metadata.uid === pod.metadata.ownerReferences?.[0]?.uid)
      const isOld =
        owner && kind !== 'replicasets' && templateOf(owner) !== pod.metadata.annotations?.['chaos/template']
      const index = Number(pod.metadata.name.split('-').at(-1))
      if (!owner || isOld || index >= Number(owner.spec?.['replicas'])) this.endPod(pods, pod, ownersPath)
    }
    for (const owner of owners)
      for (let index = 0; index < Number(owner.spec?.['replicas']); index++) {
        const name = `${owner.metadata.name}-${index}`
        if (!this.collection(pods).has(name)) this.startPod(pods, name, owner, kind)
      }
  }

  private startPod(pods: string, name: string, owner: ApiObject, kind: string): void {
    const { simulation } = this.virtual
    const template = owner.spec?.['template'] as { metadata: { labels: Record<string, string> } }
    const uid = `uid-${++this.uids}`
    this.podUids.add([name, uid])
    const node = `node-${this.uids % 3}`
    const pod: ApiObject = {
      metadata: {
        name,
        uid,
        labels: template.metadata.labels,
        annotations: { 'chaos/template': templateOf(owner) ?? '' },
        ownerReferences: [{ uid: owner.metadata.uid ?? '', kind }],
      },
      spec: { nodeName: node },
      status: { phase: 'Pending' },
    }
    this.write(pods, pod, 'ADDED')
    if (this.bug === 'pod-missing' && name === 'web-2') return
    simulation.at(simulation.nowMs + START_MS, () => {
      if (this.collection(pods).get(name)?.metadata.uid !== uid) return
      this.live.set(uid, { node, pod: name, podUid: uid, pid: this.uids })
      const ready = { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] }
      const elsewhere = this.bug === 'rebound' && name === 'web-1' ? { nodeName: 'node-7' } : pod.spec
      this.write(pods, { ...pod, spec: elsewhere ?? {}, status: ready }, 'MODIFIED')
    })
  }

  private endPod(pods: string, pod: ApiObject, ownersPath: string): void {
    const { simulation } = this.virtual
    if (this.bug === 'pod-left-over' && pod.metadata.name.startsWith('web')) return
    const { uid = '', name } = pod.metadata
    this.write(pods, { ...pod, metadata: { ...pod.metadata, deletionTimestamp: '2026-01-01T00:00:00Z' } }, 'MODIFIED')
    simulation.at(simulation.nowMs + END_MS, () => {
      if (this.bug !== 'container-left-over' || !name.startsWith('web')) this.live.delete(uid)
      this.write(pods, pod, 'DELETED')
      this.control(ownersPath)
    })
  }
}

const ALL_PODS = '/api/v1/pods'
const LOST: Failure = { ok: false, outcome: 'unknown', answered: false, code: 'LOST', text: 'no answer' }
const no = (code: string, text: string): Failure => ({ ok: false, outcome: 'not-applied', answered: true, code, text })

const templateOf = (owner: ApiObject) =>
  (owner.spec?.['template'] as { metadata?: { annotations?: Record<string, string> } })?.metadata?.annotations?.[
    'chaos/template'
  ]

function mergeSpec(before: Record<string, unknown>, patch: Record<string, unknown>): Record<string, unknown> {
  const template = before['template'] as object | undefined
  return {
    ...before,
    ...patch,
    ...(patch['template'] ? { template: { ...template, ...(patch['template'] as object) } } : {}),
  }
}

/** As far as the workload's own bad requests go. */
function whatIsWrong(collection: string, object: ApiObject): string | undefined {
  if (Array.isArray(object)) return 'an object is expected'
  const { metadata, data, kind } = object
  if (!collection.endsWith('/configmaps')) return undefined
  if (kind !== 'ConfigMap') return `kind: ${kind} is no ConfigMap`
  if (!metadata.name || !/^[a-z0-9-]+$/.test(metadata.name)) return 'metadata.name: is no name'
  if (data !== undefined && typeof data !== 'object') return 'data: must be an object'
  if (Object.values(metadata.labels ?? {}).some((value) => value.includes(' '))) return 'metadata.labels: is no label'
  if (metadata.namespace !== undefined) return 'metadata.namespace: is not the one of the path'
  return undefined
}
