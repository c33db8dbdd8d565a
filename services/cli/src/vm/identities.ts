import { readFileSync } from 'node:fs'
import { type BusAuthority, busCredentials, makeBusKey, signBusUser } from '@capstan/certs'
import { grants, type Identity, identityToken } from '@capstan/protocol'
import type { Places } from '../layout.js'
import { write } from '../pki.js'
import type { Role } from './machine-file.js'

const COMPONENTS = {
  master: ['store', 'apiserver', 'scheduler', 'controller-manager', 'etcd', 'kube-proxy', 'machine', 'admin'],
  node: ['kubelet', 'kube-proxy', 'machine'],
} as const

/** Who a machine is on the bus: one identity for each of its components, all by the machine's name. */
export const identitiesOf = (role: Role, name: string): Identity[] =>
  COMPONENTS[role].map((component) => ({ component, name }))

/** Keys of a machine's identities: seeds stay with it; public keys are what the authority signs. By identity token. */
export interface BusKeys {
  seeds: Record<string, string>
  publicKeys: Record<string, string>
}

export function makeBusKeys(role: Role, name: string): BusKeys {
  const keys: BusKeys = { seeds: {}, publicKeys: {} }
  for (const identity of identitiesOf(role, name)) {
    const token = identityToken(identity)
    const { seed, publicKey } = makeBusKey()
    keys.seeds[token] = seed
    keys.publicKeys[token] = publicKey
  }
  return keys
}

/** JWTs for exactly the identities that this role has. @throws RangeError if a key is missing. */
export async function signBusUsers(
  authority: BusAuthority,
  cluster: string,
  machine: { role: Role; name: string },
  publicKeys: Readonly<Record<string, string>>,
): Promise<Record<string, string>> {
  const jwts: Record<string, string> = {}
  for (const identity of identitiesOf(machine.role, machine.name)) {
    const token = identityToken(identity)
    const publicKey = publicKeys[token]
    if (publicKey === undefined) throw new RangeError(`no key for ${token}`)
    jwts[token] = await signBusUser(authority, token, publicKey, grants(cluster, identity))
  }
  return jwts
}

export function writeBusCredentials(places: Places, keys: BusKeys, jwts: Readonly<Record<string, string>>): void {
  for (const [token, seed] of Object.entries(keys.seeds)) {
    const jwt = jwts[token]
    if (jwt === undefined) throw new Error(`the master signed nothing for ${token}`)
    write(places.creds(token), busCredentials(jwt, seed))
  }
}

export const readCredentials = (places: Places, identity: Identity): Uint8Array =>
  readFileSync(places.creds(identityToken(identity)))
