/** What a machine and a join door say to each other: JSON over HTTPS, `POST /v1/join` and `POST /v1/renew`. */
import { isBusUserKey } from '@capstan/certs'
import type { Authorities } from './authorities.js'
import { identitiesOf } from './identities.js'
import {
  addressFault,
  type ClusterSettings,
  MASTER_PORTS,
  type MasterPorts,
  type MasterRecord,
  nameFault,
  portFault,
  type Role,
} from './machine-file.js'
import { identityToken } from '@capstan/protocol'

export const REQUEST_BYTES_MAX = 32 * 1024
export const ANSWER_BYTES_MAX = 4 * 1024 * 1024
const CSR_BYTES_MAX = 4096

export interface JoinRequest {
  token: string
  role: Role
  name: string
  address: string
  /** PKCS #10, PEM: the key of the machine's certificate. */
  request: string
  /** Public keys of its identities on the bus, by identity token. */
  busKeys: Record<string, string>
  /** Of a master. */
  ports?: MasterPorts
}

export interface JoinAnswer {
  settings: ClusterSettings
  /** All masters, the new one among them. */
  masters: MasterRecord[]
  /** PEM. */
  certificate: string
  busCa: string
  /** By identity token. */
  busJwts: Record<string, string>
  /** To a master only: with this it can sign as every other one. */
  authorities?: Authorities
}

/** A machine shows its present certificate in the handshake. */
export interface RenewRequest {
  request: string
}
export interface RenewAnswer {
  certificate: string
  masters: MasterRecord[]
}

/** Any status but 200. */
export interface Refusal {
  error: string
}

/** A request that a stranger may have written. @throws RangeError with what is wrong and where. */
export function parseJoinRequest(body: unknown): JoinRequest {
  const { token, role, name, address, request, busKeys, ports } = objectOf(body, 'the request')
  if (role !== 'master' && role !== 'node') throw new RangeError('role: master or node')
  const fault = nameFault(textOf(name, 'name', 253)) ?? addressFault(textOf(address, 'address', 64))
  if (fault !== undefined) throw new RangeError(fault)
  return {
    token: textOf(token, 'token', 64),
    role,
    name: name as string,
    address: address as string,
    request: textOf(request, 'request', CSR_BYTES_MAX),
    busKeys: parseBusKeys(busKeys, role, name as string),
    ...(role === 'master' ? { ports: parsePorts(ports) } : {}),
  }
}

export function parseRenewRequest(body: unknown): RenewRequest {
  return { request: textOf(objectOf(body, 'the request')['request'], 'request', CSR_BYTES_MAX) }
}

function parseBusKeys(value: unknown, role: Role, name: string): Record<string, string> {
  const given = objectOf(value, 'busKeys')
  return Object.fromEntries(
    identitiesOf(role, name).map((identity) => {
      const token = identityToken(identity)
      const key = textOf(given[token], `busKeys[${token}]`, 64)
      if (!isBusUserKey(key)) throw new RangeError(`busKeys[${token}]: not the public key of a user of NATS`)
      return [token, key]
    }),
  )
}

function parsePorts(value: unknown): MasterPorts {
  const given = objectOf(value, 'ports')
  const names = Object.keys(MASTER_PORTS) as (keyof MasterPorts)[]
  for (const name of names) {
    const fault = portFault(given[name])
    if (fault !== undefined) throw new RangeError(`ports.${name}: ${fault}`)
  }
  return Object.fromEntries(names.map((name) => [name, given[name]])) as unknown as MasterPorts
}

function objectOf(value: unknown, where: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new RangeError(`${where}: not an object`)
  return value as Record<string, unknown>
}

function textOf(value: unknown, where: string, lengthMax: number): string {
  if (typeof value !== 'string' || value.length === 0) throw new RangeError(`${where}: not a text`)
  if (value.length > lengthMax) throw new RangeError(`${where}: longer than ${lengthMax} characters`)
  return value
}
