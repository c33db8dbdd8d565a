/**
 * Who may do what (promise A1): one static table by user and group, and the node authorizer. There are no RBAC objects
 * yet: a ServiceAccount may discover, and nothing else.
 */
import type { User } from './options.js'
import type { KubeObject } from './stored.js'

/** What is asked: a verb on a resource, or on a path that is no resource. */
export interface Attributes {
  verb: string
  group: string
  resource: string
  subresource?: string
  namespace?: string
  name?: string
  /** Of requests that name no resource: `/version`. */
  path?: string
}

/** What the node authorizer looks up. `undefined`: no such object. */
export interface AuthorizerState {
  pod(namespace: string, name: string): KubeObject | undefined
  /** Pods bound to a node, in any order. */
  podsOnNode(node: string): Iterable<KubeObject>
}

export interface Verdict {
  allowed: boolean
  reason: string
}

export interface Rule {
  verbs: readonly string[]
  groups: readonly string[]
  /** `pods`, `pods/status`, `*`. */
  resources: readonly string[]
}

const READ = ['get', 'list', 'watch'] as const
const WRITE = ['create', 'update', 'patch', 'delete', 'deletecollection'] as const
const ALL = ['*'] as const

const rule = (verbs: readonly string[], groups: readonly string[], resources: readonly string[]): Rule => ({
  verbs,
  groups,
  resources,
})

const EVENTS = rule(['create', 'update', 'patch'], ['', 'events.k8s.io'], ['events'])
const LEASES = rule([...READ, 'create', 'update', 'patch', 'delete'], ['coordination.k8s.io'], ['leases'])

/** By user name. Widen one only with the component's need at hand. */
const USERS: Readonly<Record<string, readonly Rule[]>> = {
  'system:kube-scheduler': [
    rule(READ, ALL, ALL),
    rule(['create'], [''], ['pods/binding', 'bindings', 'pods/eviction']),
    rule(['update', 'patch'], [''], ['pods/status']),
    rule(['delete'], [''], ['pods']),
    LEASES,
    EVENTS,
  ],
  // The controllers act on everything that they own, and the garbage collector deletes whatever lost its owner.
  'system:kube-controller-manager': [rule([...READ, ...WRITE], ALL, ALL)],
  'system:kube-proxy': [
    rule(READ, ['', 'discovery.k8s.io'], ['services', 'endpoints', 'endpointslices', 'nodes', 'namespaces']),
    EVENTS,
  ],
  'system:dns': [
    rule(READ, ['', 'discovery.k8s.io'], ['services', 'endpoints', 'endpointslices', 'pods', 'nodes', 'namespaces']),
    EVENTS,
  ],
}

/** What everybody who is somebody may do. */
const AUTHENTICATED: readonly Rule[] = [
  rule(['create'], ['authorization.k8s.io'], ['selfsubjectaccessreviews', 'selfsubjectrulesreviews']),
  rule(['create'], ['authentication.k8s.io'], ['selfsubjectreviews']),
]

const PUBLIC_PATHS = ['/version', '/healthz', '/livez', '/readyz']
const AUTHENTICATED_PATHS = ['/api', '/apis', '/openapi']

/** Addresses of all masters: a node must find those that came after it. Kept by `capstan master`. */
const MASTERS_LIST = 'capstan-masters'

const covers = (list: readonly string[], one: string) => list.includes('*') || list.includes(one)
const isUnder = (path: string, top: string) => path === top || path.startsWith(`${top}/`)

export function authorize(user: User, what: Attributes, state: AuthorizerState): Verdict {
  if (user.groups.includes('system:masters')) return { allowed: true, reason: 'group system:masters' }
  if (what.path !== undefined) {
    if (PUBLIC_PATHS.some((top) => isUnder(what.path as string, top))) return { allowed: true, reason: 'public path' }
    const known = user.groups.includes('system:authenticated')
    if (known && AUTHENTICATED_PATHS.some((top) => isUnder(what.path as string, top)))
      return { allowed: true, reason: 'discovery' }
    return { allowed: false, reason: '' }
  }
  if (rulesOf(user).some((one) => ruleCovers(one, what)))
    return { allowed: true, reason: `static rules of ${user.name}` }
  if (user.groups.includes('system:nodes') && user.name.startsWith('system:node:'))
    return nodeMay(user.name.slice('system:node:'.length), what, state)
  return { allowed: false, reason: '' }
}

/** The table's rules for a user; the node authorizer's verdicts are not in it. */
export function rulesOf(user: User): readonly Rule[] {
  if (user.groups.includes('system:masters')) return [rule(ALL, ALL, ALL)]
  const own = Object.hasOwn(USERS, user.name) ? (USERS[user.name] as readonly Rule[]) : []
  return user.groups.includes('system:authenticated') ? [...own, ...AUTHENTICATED] : own
}

function ruleCovers(one: Rule, what: Attributes): boolean {
  const resource = what.subresource ? `${what.resource}/${what.subresource}` : what.resource
  return covers(one.verbs, what.verb) && covers(one.groups, what.group) && covers(one.resources, resource)
}

/** A kubelet acts on its own node and on the pods bound to it, and reads what these refer to. */
function nodeMay(node: string, what: Attributes, state: AuthorizerState): Verdict {
  const yes = { allowed: true, reason: `node ${node}` }
  const no = (reason: string) => ({ allowed: false, reason })
  const isRead = (READ as readonly string[]).includes(what.verb)
  const isChange = what.verb === 'update' || what.verb === 'patch'
  switch (`${what.group}/${what.resource}`) {
    case '/nodes':
      if (what.verb === 'create' && !what.subresource) return yes // The admission step checks its name.
      if (isRead && !what.subresource) return yes
      if (isChange && (!what.subresource || what.subresource === 'status'))
        return what.name === node ? yes : no(`node ${JSON.stringify(node)} may only change itself`)
      return no('')
    case 'coordination.k8s.io/leases':
      if (what.namespace !== 'kube-node-lease')
        return no('can only access leases in the "kube-node-lease" system namespace')
      if (what.verb === 'create') return yes
      return what.name === node ? yes : no('can only access node lease with the same name as the requesting node')
    case '/pods': {
      if (isRead && !what.subresource) return yes
      const pod = what.namespace && what.name ? state.pod(what.namespace, what.name) : undefined
      // What is gone already: the answer is 404, not 403.
      const own = pod === undefined || (pod['spec'] as { nodeName?: string } | undefined)?.nodeName === node
      if (isChange && what.subresource === 'status') return own ? yes : no('the pod is not bound to this node')
      if (what.verb === 'delete' && !what.subresource) return own ? yes : no('the pod is not bound to this node')
      return no('')
    }
    case '/configmaps':
    case '/secrets':
    case '/serviceaccounts': {
      if (!isRead || !what.namespace || !what.name) return no('can only read what its pods refer to, by name')
      if (what.resource === 'configmaps' && what.namespace === 'kube-system' && what.name === MASTERS_LIST) return yes
      for (const pod of state.podsOnNode(node))
        if (pod.metadata.namespace === what.namespace && refersTo(pod, what.resource, what.name)) return yes
      return no(`no relationship found between node ${JSON.stringify(node)} and this object`)
    }
    case '/services':
    case '/namespaces':
    case '/endpoints':
    case 'discovery.k8s.io/endpointslices':
      return isRead ? yes : no('')
    case '/events':
    case 'events.k8s.io/events':
      return isChange || what.verb === 'create' ? yes : no('')
    default:
      return no('')
  }
}

interface Container {
  env?: { valueFrom?: { configMapKeyRef?: { name?: string }; secretKeyRef?: { name?: string } } }[]
  envFrom?: { configMapRef?: { name?: string }; secretRef?: { name?: string } }[]
}

interface PodSpec {
  serviceAccountName?: string
  imagePullSecrets?: { name?: string }[]
  containers?: Container[]
  initContainers?: Container[]
  volumes?: {
    configMap?: { name?: string }
    secret?: { secretName?: string }
    projected?: { sources?: { configMap?: { name?: string }; secret?: { name?: string } }[] }
  }[]
}

function refersTo(pod: KubeObject, resource: string, name: string): boolean {
  const spec = (pod['spec'] ?? {}) as PodSpec
  const containers = [...(spec.containers ?? []), ...(spec.initContainers ?? [])]
  const volumes = spec.volumes ?? []
  const sources = volumes.flatMap((v) => v.projected?.sources ?? [])
  switch (resource) {
    case 'serviceaccounts':
      return spec.serviceAccountName === name
    case 'configmaps':
      return (
        volumes.some((v) => v.configMap?.name === name) ||
        sources.some((s) => s.configMap?.name === name) ||
        containers.some(
          (c) =>
            c.env?.some((e) => e.valueFrom?.configMapKeyRef?.name === name) ||
            c.envFrom?.some((e) => e.configMapRef?.name === name),
        )
      )
    case 'secrets':
      return (
        Boolean(spec.imagePullSecrets?.some((s) => s.name === name)) ||
        volumes.some((v) => v.secret?.secretName === name) ||
        sources.some((s) => s.secret?.name === name) ||
        containers.some(
          (c) =>
            c.env?.some((e) => e.valueFrom?.secretKeyRef?.name === name) ||
            c.envFrom?.some((e) => e.secretRef?.name === name),
        )
      )
    default:
      return false
  }
}
