/** What a master needs to sign: whoever has this can make a certificate or credentials for anybody. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type BusAuthority, type CertificateAndKey, makeBusAuthority, makeCa, makeSigningKeyPair } from '@capstan/certs'
import type { Places } from '../layout.js'
import { write, writePair } from '../pki.js'

/**
 * Authorities of their own for what must not open each other's doors (promise A2): `ca` signs API servers, join doors and users
 * of the API; `bus-ca` the bus' servers, also towards each other; `etcd-ca` both sides of etcd's face; `machine-ca` what a
 * machine shows to the bus and to the join door.
 */
export const AUTHORITIES = ['ca', 'bus-ca', 'etcd-ca', 'machine-ca'] as const
export type AuthorityName = (typeof AUTHORITIES)[number]

export interface Authorities {
  certificates: Record<AuthorityName, CertificateAndKey>
  bus: BusAuthority
  /** Shared by the bus' servers, beside their certificates. */
  routePassword: string
  /** Signs ServiceAccounts' tokens. PEM. */
  serviceAccount: { publicKey: string; privateKey: string }
}

const COMMON_NAMES: Record<AuthorityName, string> = {
  ca: 'capstan',
  'bus-ca': 'capstan-bus',
  'etcd-ca': 'capstan-etcd',
  'machine-ca': 'capstan-machines',
}
const CA_MS = 3650 * 24 * 3600 * 1000
/** Clocks differ. */
export const CLOCKS_DIFFER_MS = 5 * 60_000

export async function makeAuthorities(nowMs: number): Promise<Authorities> {
  const validity = { notBeforeMs: nowMs - CLOCKS_DIFFER_MS, notAfterMs: nowMs + CA_MS }
  const made = await Promise.all(AUTHORITIES.map((name) => makeCa(COMMON_NAMES[name], validity)))
  return {
    certificates: Object.fromEntries(AUTHORITIES.map((name, i) => [name, made[i]])) as Authorities['certificates'],
    bus: await makeBusAuthority(),
    routePassword: randomBytes(16).toString('hex'),
    serviceAccount: await makeSigningKeyPair(),
  }
}

const file = (places: Places, name: string) => join(places.pki, name)

export function writeAuthorities(places: Places, authorities: Authorities): void {
  for (const name of AUTHORITIES) writePair(places, name, authorities.certificates[name])
  writeBusAuthority(places, authorities.bus)
  write(file(places, 'routes'), authorities.routePassword)
  write(file(places, 'service-account.pub'), authorities.serviceAccount.publicKey)
  write(file(places, 'service-account.key'), authorities.serviceAccount.privateKey)
}

export function writeBusAuthority(places: Places, authority: BusAuthority): void {
  write(file(places, 'bus-authority.json'), JSON.stringify(authority))
}

export function readAuthorities(places: Places): Authorities {
  const text = (name: string) => readFileSync(file(places, name), 'utf8')
  const pair = (name: string) => ({ cert: text(`${name}.crt`), key: text(`${name}.key`) })
  return {
    certificates: Object.fromEntries(AUTHORITIES.map((name) => [name, pair(name)])) as Authorities['certificates'],
    bus: JSON.parse(text('bus-authority.json')) as BusAuthority,
    routePassword: text('routes'),
    serviceAccount: { publicKey: text('service-account.pub'), privateKey: text('service-account.key') },
  }
}
