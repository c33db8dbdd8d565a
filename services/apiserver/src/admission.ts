/** What happens to a write between decoding and validation. The order is the list `STEPS`, and nothing else. */
import type { Cache } from './cache.js'
import type { Committer } from './commit.js'
import { failure, forbidden, ApiError, nameOf, notFound, type Subject } from './errors.js'
import { objectKey } from './keys.js'
import type { Kind } from './kinds.js'
import type { ApiServerOptions, User } from './options.js'
import type { KubeObject } from './stored.js'

/** What steps may look at. */
export interface Admission {
  cache: Cache
  committer: Committer
  options: ApiServerOptions
}

export interface AdmissionRequest {
  operation: 'CREATE' | 'UPDATE' | 'DELETE'
  kind: Kind
  subject: Subject
  namespace: string | undefined
  /** '' for the object itself. */
  subresource: string
  /** To be changed in place; undefined for DELETE. */
  object: KubeObject | undefined
  /** Shared: not to be changed. Undefined for CREATE. */
  old: KubeObject | undefined
  user: User
  dryRun: boolean
  warn(text: string): void
}

interface Step {
  name: string
  /** @throws ApiError to refuse. May run more than once for one request. */
  run(admission: Admission, request: AdmissionRequest): void | Promise<void>
}

/** Changing steps before refusing ones, as in Kubernetes; but a missing namespace is told before all else. */
export const STEPS: readonly Step[] = [
  { name: 'NamespaceLifecycle', run: namespaceLifecycle },
  { name: 'NodeRestriction', run: nodeRestriction },
  { name: 'ServiceAccount', run: serviceAccount },
  { name: 'DefaultTolerationSeconds', run: defaultTolerations },
  { name: 'Priority', run: priority },
]

export async function admit(admission: Admission, request: AdmissionRequest): Promise<void> {
  for (const step of STEPS) {
    const done = step.run(admission, request)
    if (done) await done
  }
}

const isOf = (request: AdmissionRequest, resource: string) =>
  request.kind.group === '' && request.kind.resource === resource

/** Without these the cluster can't be repaired. */
const IMMORTAL = ['default', 'kube-system', 'kube-public']

async function namespaceLifecycle({ cache, committer }: Admission, request: AdmissionRequest): Promise<void> {
  if (request.operation === 'DELETE') {
    const { name } = request.subject
    if (isOf(request, 'namespaces') && name !== undefined && IMMORTAL.includes(name))
      throw forbidden(request.subject, 'this namespace may not be deleted')
    return
  }
  if (request.operation !== 'CREATE' || !request.kind.namespaced || request.namespace === undefined) return
  // Reviews are answered, not kept.
  if (request.kind.isReview) return
  const key = objectKey('', 'namespaces', undefined, request.namespace)
  // One that was made a moment ago may not have reached this server's cache.
  const found = cache.find(key) ?? (await committer.readAndCatchUp(key))
  if (!found) throw notFound({ group: '', resource: 'namespaces', name: request.namespace })
  const { metadata, status } = found.object as KubeObject & { status?: { phase?: string } }
  if (metadata.deletionTimestamp === undefined && status?.phase !== 'Terminating') return
  const message = `unable to create new content in namespace ${request.namespace} because it is being terminated`
  throw new ApiError(
    failure(403, 'Forbidden', `${nameOf(request.subject)} is forbidden: ${message}`, {
      ...(request.subject.name === undefined ? {} : { name: request.subject.name }),
      kind: request.subject.resource,
      causes: [
        {
          reason: 'NamespaceTerminating',
          message: `namespace ${request.namespace} is being terminated`,
          field: 'metadata.namespace',
        },
      ],
    }),
  )
}

/** What the node authorizer can't see in the request line: the names in bodies. */
function nodeRestriction(_: Admission, request: AdmissionRequest): void {
  const { user, object, old } = request
  if (!user.groups.includes('system:nodes') || !user.name.startsWith('system:node:')) return
  const node = user.name.slice('system:node:'.length)
  if (request.operation === 'CREATE' && (isOf(request, 'nodes') || request.kind.resource === 'leases')) {
    if (object?.metadata.name !== node)
      throw forbidden(request.subject, `node ${JSON.stringify(node)} is not allowed to create it: only its own`)
  }
  if (isOf(request, 'nodes') && request.operation === 'UPDATE' && request.subresource === '') {
    const taints = (one: KubeObject | undefined) =>
      JSON.stringify((one?.['spec'] as { taints?: unknown } | undefined)?.taints ?? [])
    if (taints(object) !== taints(old))
      throw forbidden(request.subject, `node ${JSON.stringify(node)} is not allowed to modify taints`)
  }
}

interface PodSpec {
  serviceAccountName?: string
  serviceAccount?: string
  tolerations?: Toleration[]
  priority?: number
  priorityClassName?: string
  preemptionPolicy?: string
}

interface Toleration {
  key?: string
  operator?: string
  value?: string
  effect?: string
  tolerationSeconds?: number
}

function specOfNewPod(request: AdmissionRequest): PodSpec | undefined {
  if (request.operation !== 'CREATE' || !isOf(request, 'pods') || request.subresource !== '') return undefined
  return request.object?.['spec'] as PodSpec | undefined
}

function serviceAccount(_: Admission, request: AdmissionRequest): void {
  const spec = specOfNewPod(request)
  if (!spec) return
  spec.serviceAccountName ||= spec.serviceAccount || 'default'
  spec.serviceAccount = spec.serviceAccountName
}

const NOT_READY = 'node.kubernetes.io/not-ready'
const UNREACHABLE = 'node.kubernetes.io/unreachable'
const DEFAULT_TOLERATION_SECONDS = 300

/** How long a pod stays on a node that is in trouble, unless its author says. */
function defaultTolerations({ options }: Admission, request: AdmissionRequest): void {
  const spec = specOfNewPod(request)
  if (!spec) return
  const tolerations = spec.tolerations ?? []
  const covers = (key: string) =>
    tolerations.some((t) => (t.key === key || !t.key) && (t.effect === 'NoExecute' || !t.effect))
  const add = (key: string, tolerationSeconds: number) => {
    if (!covers(key)) tolerations.push({ key, operator: 'Exists', effect: 'NoExecute', tolerationSeconds })
  }
  const notReady = options.defaultNotReadyTolerationSeconds ?? DEFAULT_TOLERATION_SECONDS
  const unreachable = options.defaultUnreachableTolerationSeconds ?? DEFAULT_TOLERATION_SECONDS
  add(NOT_READY, notReady)
  add(UNREACHABLE, unreachable)
  spec.tolerations = tolerations
}

/** The two classes that every cluster has; PriorityClass objects are not there yet. */
const PRIORITIES: Readonly<Record<string, number>> = {
  'system-node-critical': 2_000_001_000,
  'system-cluster-critical': 2_000_000_000,
}

function priority(_: Admission, request: AdmissionRequest): void {
  const spec = specOfNewPod(request)
  if (!spec) return
  const name = spec.priorityClassName
  const value = name ? (Object.hasOwn(PRIORITIES, name) ? PRIORITIES[name] : undefined) : 0
  if (value === undefined) throw forbidden(request.subject, `no PriorityClass with name ${name} was found`)
  if (spec.priority !== undefined && spec.priority !== value)
    throw forbidden(
      request.subject,
      `the integer value of priority (${spec.priority}) must not be provided in pod spec; priority admission controller computed ${value} from the given PriorityClass name`,
    )
  spec.priority = value
  spec.preemptionPolicy ??= 'PreemptLowerPriority'
}
