/** Tokens by which machines join, kept where kubeadm keeps its own: Secrets of type bootstrap.kubernetes.io/token in kube-system. */
import { randomInt, timingSafeEqual } from 'node:crypto'
import { CallError } from '@capstan/actor'
import { type ApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import type { Role } from './machine-file.js'
import { SYSTEM } from './records.js'

const TYPE = 'bootstrap.kubernetes.io/token'
const PREFIX = 'bootstrap-token-'
const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789'
const FORMAT = /^([a-z0-9]{6})\.([a-z0-9]{16})$/
/** Who joins by it, as Kubernetes states it: groups of whoever shows the token. */
const GROUPS: Record<Role, string> = {
  master: 'system:bootstrappers:capstan:masters',
  node: 'system:bootstrappers:capstan:nodes',
}
const USES_LEFT = 'capstan-uses-left'
const ATTEMPTS_MAX = 20

export interface JoinToken {
  id: string
  secret: string
  role: Role
  /** Missing: never. */
  expiresMs?: number
  /** Machines that may still join by it. Missing: any number. */
  usesLeft?: number
  description?: string
}

interface Secret extends KubeObject {
  type?: string
  data?: Record<string, string>
}

export const tokenText = ({ id, secret }: Pick<JoinToken, 'id' | 'secret'>) => `${id}.${secret}`

/** Undefined: it has not the form of a token. */
export function parseToken(text: string): { id: string; secret: string } | undefined {
  const [, id, secret] = FORMAT.exec(text) ?? []
  return id === undefined || secret === undefined ? undefined : { id, secret }
}

const chance = (length: number) => Array.from({ length }, () => ALPHABET[randomInt(ALPHABET.length)]).join('')

/** 24h, 30m, 90s, 1h30m; `0`: never expires (undefined). @throws RangeError */
export function parseTtlMs(text: string): number | undefined {
  if (text === '0') return undefined
  const [, hours, minutes, seconds] = /^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$/.exec(text) ?? []
  const ms = (Number(hours ?? 0) * 3600 + Number(minutes ?? 0) * 60 + Number(seconds ?? 0)) * 1000
  if (!(ms > 0) || ms > 3650 * 24 * 3_600_000)
    throw new RangeError(`"${text}" is no time to live: 24h, 30m, 90s, or 0 for ever`)
  return ms
}

export async function createToken(
  client: ApiClient,
  options: { role: Role; ttlMs: number | undefined; uses?: number; description?: string },
): Promise<JoinToken> {
  const { role, ttlMs, uses, description } = options
  const token: JoinToken = {
    id: chance(6),
    secret: chance(16),
    role,
    ...(ttlMs === undefined ? {} : { expiresMs: Date.now() + ttlMs }),
    ...(uses === undefined ? {} : { usesLeft: uses }),
    ...(description === undefined ? {} : { description }),
  }
  await client.create(RESOURCES.secrets, secretOf(token))
  return token
}

/** In the order of their ids. */
export async function listTokens(client: ApiClient): Promise<JoinToken[]> {
  const { items } = await client.list<Secret>(RESOURCES.secrets, { namespace: SYSTEM, fieldSelector: `type=${TYPE}` })
  return items.map(tokenOf).filter((token) => token !== undefined)
}

/** False: there is none. `token`: the whole of it, or its id. */
export async function deleteToken(client: ApiClient, token: string): Promise<boolean> {
  try {
    await client.delete(RESOURCES.secrets, { namespace: SYSTEM, name: PREFIX + token.slice(0, 6) })
    return true
  } catch (error) {
    if (error instanceof CallError && error.code === 'NotFound') return false
    throw error
  }
}

/** Those that expired more than `keptMs` ago go; until then whoever shows one is told that it expired. */
export async function sweepTokens(client: ApiClient, nowMs: number, keptMs: number): Promise<void> {
  for (const { id, expiresMs } of await listTokens(client))
    if (expiresMs !== undefined && expiresMs < nowMs - keptMs) await deleteToken(client, id)
}

/** Why a token opens no door; each says what to do. */
export class TokenRefused extends Error {
  override readonly name = 'TokenRefused'
}

const makeAnother = (role: Role) => `make one on a master: capstan token create --role ${role}`

/**
 * Is it good for one more machine of this role? To somebody who does not have its secret it says the same whether there is such
 * an id or not. `again`: the machine has joined by it already, and repeats itself.
 * @throws TokenRefused
 */
export async function checkToken(client: ApiClient, text: string, role: Role, again: boolean): Promise<void> {
  await readToken(client, text, role, again)
}

/** One machine less may join by it. @throws TokenRefused if others were faster */
export async function useToken(client: ApiClient, text: string, role: Role): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const { secret, token } = await readToken(client, text, role, false)
    if (token.usesLeft === undefined) return
    try {
      await client.update(RESOURCES.secrets, { ...secret, ...fieldsOf({ ...token, usesLeft: token.usesLeft - 1 }) })
      return
    } catch (error) {
      if (!(error instanceof CallError && error.code === 'Conflict') || attempt === ATTEMPTS_MAX) throw error
    }
  }
}

async function readToken(
  client: ApiClient,
  text: string,
  role: Role,
  again: boolean,
): Promise<{ secret: Secret; token: JoinToken }> {
  const given = parseToken(text)
  if (!given) throw new TokenRefused(`a token looks like abcdef.0123456789abcdef; ${makeAnother(role)}`)
  const ref = { namespace: SYSTEM, name: PREFIX + given.id }
  const secret = await client.get<Secret>(RESOURCES.secrets, ref).catch((error: unknown) => {
    if (error instanceof CallError && error.code === 'NotFound') return undefined
    throw error
  })
  const token = secret && tokenOf(secret)
  if (!token || !sameText(token.secret, given.secret))
    throw new TokenRefused(`there is no such token, or it was deleted; ${makeAnother(role)}`)
  const { usesLeft: _usesLeft, ...unbounded } = token
  const refusal = refusalOf(again ? unbounded : token, role, Date.now())
  if (refusal !== undefined) throw new TokenRefused(refusal)
  return { secret, token }
}

/** Of somebody who has its secret. Pure. */
export function refusalOf(token: JoinToken, role: Role, nowMs: number): string | undefined {
  const { id, expiresMs, usesLeft } = token
  if (expiresMs !== undefined && expiresMs <= nowMs)
    return `token ${id} expired at ${new Date(expiresMs).toISOString()}; ${makeAnother(role)}`
  if (usesLeft !== undefined && usesLeft <= 0) return `token ${id} is used up; ${makeAnother(role)}`
  if (token.role !== role) return `token ${id} is for a ${token.role}, not for a ${role}; ${makeAnother(role)}`
  return undefined
}

function sameText(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)]
  return left.length === right.length && timingSafeEqual(left, right)
}

const fieldsOf = (token: JoinToken) => ({
  type: TYPE,
  data: Object.fromEntries(
    Object.entries({
      'token-id': token.id,
      'token-secret': token.secret,
      'auth-extra-groups': GROUPS[token.role],
      'usage-bootstrap-authentication': 'true',
      ...(token.expiresMs === undefined
        ? {}
        : { expiration: new Date(token.expiresMs).toISOString().replace(/\.\d+Z$/, 'Z') }),
      ...(token.usesLeft === undefined ? {} : { [USES_LEFT]: String(token.usesLeft) }),
      ...(token.description === undefined ? {} : { description: token.description }),
    }).map(([key, value]) => [key, Buffer.from(value).toString('base64')]),
  ),
})

const secretOf = (token: JoinToken): Secret => ({
  apiVersion: 'v1',
  kind: 'Secret',
  metadata: { name: PREFIX + token.id, namespace: SYSTEM },
  ...fieldsOf(token),
})

/** Undefined: it is not for machines that join (another kind of bootstrap token, or damaged by hand). */
function tokenOf({ type, data = {} }: Secret): JoinToken | undefined {
  const text = (key: string) => (data[key] === undefined ? undefined : Buffer.from(data[key], 'base64').toString())
  const [id, secret] = [text('token-id'), text('token-secret')]
  const groups = (text('auth-extra-groups') ?? '').split(',')
  const role = (['master', 'node'] as const).find((one) => groups.includes(GROUPS[one]))
  if (type !== TYPE || id === undefined || secret === undefined || !role) return undefined
  const [expiration, uses, description] = [text('expiration'), text(USES_LEFT), text('description')]
  return {
    id,
    secret,
    role,
    // An unreadable time is in the past: better too few than too many come in.
    ...(expiration === undefined ? {} : { expiresMs: Date.parse(expiration) || 0 }),
    ...(uses === undefined ? {} : { usesLeft: Number(uses) || 0 }),
    ...(description === undefined ? {} : { description }),
  }
}
