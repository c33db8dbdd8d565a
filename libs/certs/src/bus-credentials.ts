import { encodeAccount, encodeOperator, encodeUser, fmtCreds } from '@nats-io/jwt'
import { createAccount, createOperator, createUser, fromPublic, fromSeed } from '@nats-io/nkeys'
import { nativeKeyPair } from './native-key-pair.js'

/** What the bus' trust rests on. Seeds are secrets: whoever has the account's can make credentials for any identity. */
export interface BusAuthority {
  formatVersion: 1
  operatorSeed: string
  operatorJwt: string
  accountSeed: string
  accountJwt: string
  systemAccountSeed: string
  systemAccountJwt: string
  /** Public keys of the users made, by identity: what a revocation names. */
  users: Record<string, string>
  /** User public key → issue time in seconds up to which its credentials are void. */
  revocations: Record<string, number>
}

/** What an identity may do; as `Grants` of the protocol. */
export interface BusPermissions {
  publish: string[]
  subscribe: string[]
  allowResponses?: { max: number; expiresMs: number }
}

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)
const keyOf = (seed: string) => nativeKeyPair(fromSeed(new TextEncoder().encode(seed)))
const UNLIMITED = -1
/** What is left out of an account's limits counts as none at all: not one connection. */
const NO_LIMITS = {
  subs: UNLIMITED,
  data: UNLIMITED,
  payload: UNLIMITED,
  imports: UNLIMITED,
  exports: UNLIMITED,
  wildcards: true,
  conn: UNLIMITED,
  leaf: UNLIMITED,
}

/** NATS operator, the account that all identities belong to, and the system account. */
export async function makeBusAuthority(): Promise<BusAuthority> {
  const operator = nativeKeyPair(createOperator())
  const account = nativeKeyPair(createAccount())
  const system = nativeKeyPair(createAccount())
  const authority: BusAuthority = {
    formatVersion: 1,
    operatorSeed: text(operator.getSeed()),
    operatorJwt: await encodeOperator('capstan', operator, { system_account: system.getPublicKey() }),
    accountSeed: text(account.getSeed()),
    accountJwt: '',
    systemAccountSeed: text(system.getSeed()),
    systemAccountJwt: await encodeAccount('SYS', system, { limits: NO_LIMITS }, { signer: operator }),
    users: {},
    revocations: {},
  }
  authority.accountJwt = await accountJwt(authority)
  return authority
}

/** Signs the account anew, with the revocations as they are now. */
export function accountJwt(authority: BusAuthority): Promise<string> {
  return encodeAccount(
    'CAPSTAN',
    keyOf(authority.accountSeed),
    { limits: NO_LIMITS, revocations: authority.revocations },
    { signer: keyOf(authority.operatorSeed) },
  )
}

/**
 * Voids all credentials of an identity that were made up to now. Changes `authority` (keep it) and gives the account's new
 * JWT, which takes effect once running servers have it (`pushAccountJwt` of libs/real) and with the next start of others.
 * New credentials for the identity (`makeBusUser`) are valid at once: they have a key of their own.
 * @throws Error if the authority knows no such identity.
 */
export async function revokeBusUser(authority: BusAuthority, identity: string, nowMs: number): Promise<string> {
  const publicKey = authority.users[identity]
  if (publicKey === undefined) throw new Error(`no credentials were made for ${identity}`)
  // Issue times are whole seconds: rounded up, so that what was made in this second is void as well.
  authority.revocations[publicKey] = Math.ceil(nowMs / 1000)
  delete authority.users[identity]
  authority.accountJwt = await accountJwt(authority)
  return authority.accountJwt
}

/** A new key for one identity: contents of its creds file, and the public key. */
export async function makeBusUser(
  authority: BusAuthority,
  identity: string,
  permissions: BusPermissions,
): Promise<{ credentials: Uint8Array; publicKey: string }> {
  const { seed, publicKey } = makeBusKey()
  const jwt = await signBusUser(authority, identity, publicKey, permissions)
  return { credentials: busCredentials(jwt, seed), publicKey }
}

/** A user's key. The seed stays with whoever it speaks for; the authority needs the public key only. */
export function makeBusKey(): { seed: string; publicKey: string } {
  const user = nativeKeyPair(createUser())
  return { seed: text(user.getSeed()), publicKey: user.getPublicKey() }
}

/** Is it the public key of a user? */
export function isBusUserKey(publicKey: string): boolean {
  // The library checks prefix and check sum.
  if (!/^U[A-Z2-7]{55}$/.test(publicKey)) return false
  try {
    fromPublic(publicKey)
    return true
  } catch {
    return false
  }
}

/** Contents of a creds file. */
export const busCredentials = (jwt: string, seed: string): Uint8Array => fmtCreds(jwt, keyOf(seed))

/**
 * The JWT by which the bearer of a key is an identity, with what it may do.
 * @throws Error if `publicKey` is not that of a user.
 */
export async function signBusUser(
  authority: BusAuthority,
  identity: string,
  publicKey: string,
  permissions: BusPermissions,
): Promise<string> {
  const { allowResponses } = permissions
  return encodeUser(identity, fromPublic(publicKey), keyOf(authority.accountSeed), {
    pub: { allow: permissions.publish, deny: [] },
    sub: { allow: permissions.subscribe, deny: [] },
    // The server counts expiry in nanoseconds.
    ...(allowResponses ? { resp: { max: allowResponses.max, ttl: allowResponses.expiresMs * 1_000_000 } } : {}),
    subs: UNLIMITED,
    data: UNLIMITED,
    payload: UNLIMITED,
  })
}

/** Credentials for the system account, by which `accountJwt` is pushed to running servers (`$SYS.REQ.CLAIMS.UPDATE`). */
export async function makeSystemUser(authority: BusAuthority): Promise<Uint8Array> {
  const user = nativeKeyPair(createUser())
  return fmtCreds(await encodeUser('system', user, keyOf(authority.systemAccountSeed)), user)
}

export interface BusServerOptions {
  name: string
  cluster: string
  listen: { host: string; port: number }
  route: { host: string; port: number }
  /** `host:port` of the other servers' routes. */
  peers: string[]
  /** Shared by the servers of one cluster. */
  routePassword: string
  /** Where it keeps account JWTs that were pushed to it. */
  directory: string
  /**
   * Paths of PEM files. With them clients and routes are served by TLS only; the certificate names the server as clients
   * call it, and serves towards other servers as a client's too (`makeServerCertificate`).
   */
  tls?: {
    cert: string
    key: string
    ca: string
    /** With it clients must have a certificate of this authority, beside their credentials. */
    clientCa?: string
  }
}

/**
 * Whom a nats-server trusts, as a part of its configuration (`include`): the same for all servers, and no secret. The
 * account resolver is the server's own affair.
 */
export function busAuthorityConfig(authority: BusAuthority): string {
  const account = keyOf(authority.accountSeed).getPublicKey()
  const system = keyOf(authority.systemAccountSeed).getPublicKey()
  return `operator: ${authority.operatorJwt}
system_account: ${system}
resolver_preload: {
  ${account}: ${authority.accountJwt}
  ${system}: ${authority.systemAccountJwt}
}
`
}

/** Configuration file of one nats-server. */
export function busServerConfig(authority: BusAuthority, options: BusServerOptions): string {
  const quote = (value: string) => JSON.stringify(value)
  const routes = options.peers.map(
    (peer) => `    "nats-route://capstan:${encodeURIComponent(options.routePassword)}@${peer}"`,
  )
  const { tls } = options
  const tlsBlock = (ca: string, more = '') =>
    tls
      ? `tls { cert_file: ${quote(tls.cert)}, key_file: ${quote(tls.key)}, ca_file: ${quote(ca)}${more}, timeout: 2 }`
      : ''
  return `server_name: ${quote(options.name)}
listen: ${quote(`${options.listen.host}:${options.listen.port}`)}
# A slow or dead peer must be noticed in seconds.
ping_interval: "2s"
ping_max: 2
write_deadline: "2s"
max_pending: 67108864
max_payload: 1048576
${tlsBlock(tls?.clientCa ?? tls?.ca ?? '', tls?.clientCa === undefined ? '' : ', verify: true')}
# How soon a server that missed a new account learns of it from the others.
resolver: { type: full, dir: ${quote(options.directory)}, allow_delete: false, interval: "10s" }
${busAuthorityConfig(authority)}cluster {
  name: ${quote(options.cluster)}
  listen: ${quote(`${options.route.host}:${options.route.port}`)}
  no_advertise: true
  ${tlsBlock(tls?.ca ?? '')}
  connect_retries: 1000000
  authorization { user: capstan, password: ${quote(options.routePassword)}, timeout: 2 }
  routes: [
${routes.join('\n')}
  ]
}
`
}
