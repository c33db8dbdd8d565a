/** What a few kinds need beside what libs/api declares of them: the one registry of special behaviour. */
import type { ApiReply } from '@capstan/protocol'
import { type Reservation, releaseAddresses, reserveAddresses } from './addresses.js'
import { ApiError, badRequest, conflict, failure, invalid, methodNotAllowed, notFound } from './errors.js'
import { evict } from './eviction.js'
import type { Kind } from './kinds.js'
import type { ApiServerOptions } from './options.js'
import { type Ask, type Rest, timestamp } from './rest.js'
import { REVIEWS } from './reviews.js'
import type { KubeObject } from './stored.js'

export interface Hooks {
  /** Answers a create instead of storing anything (reviews). */
  create?(rest: Rest, ask: Ask, body: KubeObject): Promise<ApiReply>
  subresources?: Readonly<Record<string, (rest: Rest, verb: string, ask: Ask) => Promise<ApiReply>>>
  /** Fills in and reserves what must be unique; runs after admission. Undefined: nothing. */
  reserve?(rest: Rest, object: KubeObject, old: KubeObject | undefined): Reservation | undefined
  /** What goes with the object. */
  release?(object: KubeObject): Pick<Reservation, 'ops'>
  /** The object ends by itself after so long. */
  ttlSeconds?(options: ApiServerOptions): number
  /** A removal is answered with the object instead of a Status. */
  returnsDeleted?: boolean
  /** For deletions that say nothing. Missing: Background. */
  defaultPropagation?: 'Orphan'
  /** Changes the object that is being marked. */
  deleting?(object: KubeObject): void
  /** May it go? Missing: when metadata.finalizers is empty. */
  isFinalized?(object: KubeObject): boolean
  /** Seconds between mark and removal. Missing: none. */
  graceSeconds?(object: KubeObject, asked: number | undefined): number
}

const NONE: Hooks = {}

const HOOKS: Readonly<Record<string, Hooks>> = {
  pods: {
    returnsDeleted: true,
    graceSeconds: podGrace,
    subresources: { binding: bind, eviction: evict },
  },
  services: {
    returnsDeleted: true,
    reserve: (rest, object, old) => reserveAddresses({ ...rest.context, random: rest.random }, object, old),
    release: releaseAddresses,
  },
  events: { ttlSeconds: (options) => options.eventTtlSeconds ?? 3600 },
  replicationcontrollers: { defaultPropagation: 'Orphan' },
  serviceaccounts: { subresources: { token } },
  namespaces: {
    returnsDeleted: true,
    deleting(object) {
      object['status'] = { ...(object['status'] as object | undefined), phase: 'Terminating' }
    },
    isFinalized: (object) =>
      (object.metadata.finalizers ?? []).length === 0 &&
      ((object['spec'] as { finalizers?: string[] } | undefined)?.finalizers ?? []).length === 0,
    subresources: { finalize },
  },
  ...REVIEWS,
}

export function hooksOf(kind: Kind): Hooks {
  const name = kind.group === '' ? kind.resource : `${kind.resource}.${kind.group}`
  return (Object.hasOwn(HOOKS, name) && HOOKS[name]) || NONE
}

const success = (status: number): ApiReply => ({
  status,
  body: Buffer.from(
    JSON.stringify({ kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', code: status }),
  ),
})

interface Pod extends KubeObject {
  spec: { nodeName?: string; terminationGracePeriodSeconds?: number }
  status?: { phase?: string; conditions?: Condition[] }
}

interface Condition {
  type: string
  status: string
  lastProbeTime?: string | null
  lastTransitionTime?: string
  reason?: string
  message?: string
}

/** Nobody has to stop what never ran or is over. */
function podGrace(object: KubeObject, asked: number | undefined): number {
  const { spec, status } = object as Pod
  if (!spec?.nodeName || status?.phase === 'Succeeded' || status?.phase === 'Failed') return 0
  const seconds = asked ?? spec.terminationGracePeriodSeconds ?? 30
  return seconds < 0 ? 1 : seconds
}

/** Binds a pod to a node: once and never again (promise C4). */
async function bind(rest: Rest, verb: string, ask: Ask): Promise<ApiReply> {
  if (verb !== 'create') throw methodNotAllowed()
  const binding = ask.request.body as {
    metadata?: { uid?: string; annotations?: Record<string, string> }
    target?: { kind?: string; name?: string }
  }
  const node = binding?.target?.name
  if (typeof node !== 'string' || node === '') throw badRequest('binding: target.name is required')
  if (binding.target?.kind !== undefined && binding.target.kind !== 'Node')
    throw badRequest('binding: target.kind must be Node')
  await rest.edit(ask, (old) => {
    if (!old) throw notFound(rest.subject(ask))
    const pod = old.copy() as Pod
    const subject = { group: '', resource: 'pods/binding', name: pod.metadata.name }
    const uid = binding.metadata?.uid
    if (uid && uid !== pod.metadata.uid)
      throw conflict(
        subject,
        `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${pod.metadata.uid}`,
      )
    if (pod.metadata.deletionTimestamp)
      throw conflict(subject, `pod ${pod.metadata.name} is being deleted, cannot be assigned to a host`)
    if (pod.spec.nodeName && !rest.hasBug('double-bind'))
      throw conflict(
        subject,
        `pod ${pod.metadata.name} is already assigned to node ${JSON.stringify(pod.spec.nodeName)}`,
      )
    pod.spec.nodeName = node
    if (binding.metadata?.annotations)
      pod.metadata.annotations = { ...pod.metadata.annotations, ...binding.metadata.annotations }
    const others = (pod.status?.conditions ?? []).filter((condition) => condition.type !== 'PodScheduled')
    const lastTransitionTime = timestamp(rest.context.world.clock.nowMs())
    pod.status = {
      ...pod.status,
      conditions: [...others, { type: 'PodScheduled', status: 'True', lastProbeTime: null, lastTransitionTime }],
    }
    return { next: pod }
  })
  return success(201)
}

const TOKEN_SECONDS = 3600
const TOKEN_SECONDS_MIN = 600
const TOKEN_SECONDS_MAX = 2 ** 32

/** A signed token for the account. */
async function token(rest: Rest, verb: string, ask: Ask): Promise<ApiReply> {
  if (verb !== 'create') throw methodNotAllowed()
  const { signToken } = rest.context.options
  if (!signToken)
    throw new ApiError(failure(501, 'NotImplemented', 'this API server was started without a key to sign tokens with'))
  const { object } = await rest.read(ask)
  const request = (ask.request.body ?? {}) as { spec?: { expirationSeconds?: number; audiences?: string[] } }
  const seconds = request.spec?.expirationSeconds ?? TOKEN_SECONDS
  if (!Number.isSafeInteger(seconds) || seconds < TOKEN_SECONDS_MIN || seconds > TOKEN_SECONDS_MAX)
    throw invalid('TokenRequest', 'authentication.k8s.io', '', [
      {
        reason: 'FieldValueInvalid',
        message: `Invalid value: ${JSON.stringify(seconds)}: may not specify a duration less than 10 minutes`,
        field: 'spec.expirationSeconds',
      },
    ])
  const { name, namespace = '', uid } = object.metadata
  const nowMs = rest.context.world.clock.nowMs()
  const issuedAt = Math.floor(nowMs / 1000)
  const times = { issuedAt, expiresAt: issuedAt + seconds }
  const audiences = request.spec?.audiences
  const text = await signToken({ namespace, name, ...(uid ? { uid } : {}) }, times, audiences)
  const body = {
    kind: 'TokenRequest',
    apiVersion: 'authentication.k8s.io/v1',
    metadata: { name, namespace, creationTimestamp: timestamp(nowMs) },
    spec: { audiences: audiences ?? [], expirationSeconds: seconds },
    status: { token: text, expirationTimestamp: timestamp(times.expiresAt * 1000) },
  }
  return { status: 201, body: Buffer.from(JSON.stringify(body)) }
}

/** Replaces spec.finalizers, and removes the namespace with the last one. */
async function finalize(rest: Rest, verb: string, ask: Ask): Promise<ApiReply> {
  if (verb !== 'update') throw methodNotAllowed()
  const body = (ask.request.body ?? {}) as { spec?: { finalizers?: string[] }; metadata?: { resourceVersion?: string } }
  const { stored } = await rest.change(ask, 'finalize', (old) => {
    const object = old.copy()
    if (body.metadata?.resourceVersion) object.metadata.resourceVersion = body.metadata.resourceVersion
    object['spec'] = { ...(object['spec'] as object | undefined), finalizers: body.spec?.finalizers ?? [] }
    return object
  })
  return rest.object(200, stored, ask)
}
