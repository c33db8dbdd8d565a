/** Kinds that are questions: answered at once, never kept. */
import { authorize, type Attributes, rulesOf, type Verdict } from './authorize.js'
import { badRequest } from './errors.js'
import type { Hooks } from './hooks.js'
import type { User } from './options.js'
import type { Ask, Rest } from './rest.js'
import type { KubeObject } from './stored.js'

type Spec = Record<string, unknown>

const specOf = (body: KubeObject): Spec => {
  const spec = body['spec'] ?? {}
  if (typeof spec !== 'object' || spec === null || Array.isArray(spec)) throw badRequest('spec must be an object')
  return spec as Spec
}

function reply(body: KubeObject, status: object) {
  const { apiVersion, kind, metadata } = body
  const meta = { ...(metadata.namespace ? { namespace: metadata.namespace } : {}), creationTimestamp: null }
  const spec = body['spec'] === undefined ? {} : { spec: body['spec'] }
  return { status: 201, body: Buffer.from(JSON.stringify({ apiVersion, kind, metadata: meta, ...spec, status })) }
}

const userInfo = (user: User) => ({
  username: user.name,
  ...(user.uid === undefined ? {} : { uid: user.uid }),
  groups: [...user.groups],
  ...(user.extra === undefined ? {} : { extra: user.extra }),
})

function attributesOf(spec: Spec): Attributes {
  const resource = spec['resourceAttributes'] as Record<string, string> | undefined
  const path = spec['nonResourceAttributes'] as Record<string, string> | undefined
  if ((resource === undefined) === (path === undefined))
    throw badRequest('exactly one of nonResourceAttributes or resourceAttributes must be specified')
  if (path) return { verb: path['verb'] ?? '', group: '', resource: '', path: path['path'] ?? '' }
  const {
    verb = '',
    group = '',
    resource: plural = '',
    subresource,
    namespace,
    name,
  } = resource as Record<string, string>
  return {
    verb,
    group,
    resource: plural,
    ...(subresource ? { subresource } : {}),
    ...(namespace ? { namespace } : {}),
    ...(name ? { name } : {}),
  }
}

function verdictStatus({ allowed, reason }: Verdict): object {
  return { allowed, ...(reason ? { reason } : {}) }
}

function judge(rest: Rest, user: User, spec: Spec): object {
  return verdictStatus(authorize(user, attributesOf(spec), rest.context.authorizerState))
}

async function selfAccess(rest: Rest, ask: Ask, body: KubeObject) {
  return reply(body, judge(rest, ask.user, specOf(body)))
}

async function access(rest: Rest, _: Ask, body: KubeObject) {
  const spec = specOf(body)
  const { user, groups, uid } = spec as { user?: string; groups?: string[]; uid?: string }
  if (!user && !groups?.length) throw badRequest('at least one of user or group must be specified')
  return reply(body, judge(rest, { name: user ?? '', groups: groups ?? [], ...(uid ? { uid } : {}) }, spec))
}

async function rules(_: Rest, ask: Ask, body: KubeObject) {
  const isSystem = ask.user.groups.includes('system:masters')
  const resourceRules = rulesOf(ask.user).map((rule) => ({
    verbs: rule.verbs,
    apiGroups: rule.groups,
    resources: rule.resources,
  }))
  const nonResourceRules = isSystem
    ? [{ verbs: ['*'], nonResourceURLs: ['*'] }]
    : [
        {
          verbs: ['get'],
          nonResourceURLs: [
            '/api',
            '/api/*',
            '/apis',
            '/apis/*',
            '/healthz',
            '/livez',
            '/openapi/*',
            '/readyz',
            '/version',
          ],
        },
      ]
  // The node authorizer's verdicts depend on pods, and can't be listed.
  return reply(body, { resourceRules, nonResourceRules, incomplete: ask.user.groups.includes('system:nodes') })
}

async function self(_: Rest, ask: Ask, body: KubeObject) {
  return reply(body, { userInfo: userInfo(ask.user) })
}

async function token(rest: Rest, _: Ask, body: KubeObject) {
  const { token: text } = specOf(body) as { token?: unknown }
  if (typeof text !== 'string' || text === '') throw badRequest('token is required for TokenReview in authentication')
  const user = await rest.context.userOfToken(text)
  return reply(
    body,
    user
      ? { authenticated: true, user: userInfo(user) }
      : { authenticated: false, user: {}, error: 'invalid bearer token' },
  )
}

export const REVIEWS: Readonly<Record<string, Hooks>> = {
  'selfsubjectaccessreviews.authorization.k8s.io': { create: selfAccess },
  'subjectaccessreviews.authorization.k8s.io': { create: access },
  'localsubjectaccessreviews.authorization.k8s.io': { create: access },
  'selfsubjectrulesreviews.authorization.k8s.io': { create: rules },
  'selfsubjectreviews.authentication.k8s.io': { create: self },
  'tokenreviews.authentication.k8s.io': { create: token },
}
