/** Cluster IPs and node ports: which are free, and how they are taken in the transaction that writes the Service. */
import type { Random } from '@capstan/actor'
import type { Compare, TxnOp } from '@capstan/protocol'
import type { Cache } from './cache.js'
import { ApiError, failure, internal, invalid } from './errors.js'
import { clusterIpKey, nodePortKey } from './keys.js'
import type { ApiServerOptions } from './options.js'
import { keyBytes } from './store-client.js'
import type { KubeObject } from './stored.js'

export const SERVICE_CIDR = '10.96.0.0/16'
export const NODE_PORTS: readonly [number, number] = [30_000, 32_767]

const TRIES = 64

interface ServicePort {
  name?: string
  port: number
  protocol?: string
  nodePort?: number
}

interface ServiceSpec {
  type?: string
  clusterIP?: string
  clusterIPs?: string[]
  ipFamilies?: string[]
  ipFamilyPolicy?: string
  ports?: ServicePort[]
  healthCheckNodePort?: number
}

export interface Reservation {
  compare: Compare[]
  ops: TxnOp[]
}

const specOf = (service: KubeObject | undefined) => (service?.['spec'] ?? {}) as ServiceSpec
const hasIp = (spec: ServiceSpec) => spec.clusterIP !== undefined && spec.clusterIP !== '' && spec.clusterIP !== 'None'
const wantsNodePorts = (spec: ServiceSpec) => spec.type === 'NodePort' || spec.type === 'LoadBalancer'

/**
 * Fills in what the Service leaves to the server, and reserves it. Each address is a key of its own, put only if it is not
 * there: so no two API servers give the same one away.
 * @throws ApiError 422 for one that is taken or outside the range.
 */
export function reserveAddresses(
  context: { cache: Cache; random: Random; options: ApiServerOptions },
  service: KubeObject,
  old: KubeObject | undefined,
): Reservation {
  const spec = specOf(service)
  const before = specOf(old)
  const { name, namespace } = service.metadata
  const value = keyBytes(JSON.stringify({ namespace, name, uid: service.metadata.uid }))
  const reservation: Reservation = { compare: [], ops: [] }
  const take = (key: string) => {
    reservation.compare.push({ key: keyBytes(key), target: 'create', result: '=', operand: 0 })
    reservation.ops.push({ type: 'put', key: keyBytes(key), value })
  }
  const drop = (key: string) => reservation.ops.push({ type: 'delete', key: keyBytes(key) })
  const refuse = (field: string, given: unknown, why: string) =>
    invalid('Service', '', name, [
      { reason: 'FieldValueInvalid', message: `Invalid value: ${JSON.stringify(given)}: ${why}`, field },
    ])

  // An update that leaves it out means the one that is there.
  if (spec.type === 'ExternalName') {
    delete spec.clusterIP
    delete spec.clusterIPs
    delete spec.ipFamilies
    delete spec.ipFamilyPolicy
  } else {
    if (!spec.clusterIP && spec.clusterIPs?.[0]) spec.clusterIP = spec.clusterIPs[0]
    if (!spec.clusterIP && before.clusterIP && before.type !== 'ExternalName') spec.clusterIP = before.clusterIP
    if (before.clusterIP && before.type !== 'ExternalName' && spec.clusterIP !== before.clusterIP)
      throw refuse('spec.clusterIPs[0]', [spec.clusterIP ?? ''], 'may not change once set')
    if (!spec.clusterIP) spec.clusterIP = freeIp(context)
    spec.clusterIPs = [spec.clusterIP]
    spec.ipFamilies ??= ['IPv4']
    spec.ipFamilyPolicy ??= 'SingleStack'
  }
  const oldIp = hasIp(before) ? before.clusterIP : undefined
  const newIp = hasIp(spec) ? spec.clusterIP : undefined
  if (newIp !== oldIp) {
    if (oldIp !== undefined) drop(clusterIpKey(oldIp))
    if (newIp !== undefined) {
      const why = ipRefusal(newIp, context.options.serviceCidr ?? SERVICE_CIDR)
      if (why) throw refuse('spec.clusterIPs', [newIp], `failed to allocate IP ${newIp}: ${why}`)
      if (context.cache.others.has(clusterIpKey(newIp)))
        throw refuse('spec.clusterIPs', [newIp], `failed to allocate IP ${newIp}: provided IP is already allocated`)
      take(clusterIpKey(newIp))
    }
  }

  const had = new Set((before.ports ?? []).map((port) => port.nodePort).filter((port): port is number => Boolean(port)))
  const has = new Set<number>()
  const range = context.options.nodePorts ?? NODE_PORTS
  for (const [index, port] of (spec.ports ?? []).entries()) {
    if (!wantsNodePorts(spec)) {
      // Left over from the former type.
      if (old && port.nodePort && had.has(port.nodePort)) delete port.nodePort
      continue
    }
    const same = before.ports?.find(
      (one) => one.port === port.port && (one.protocol ?? 'TCP') === (port.protocol ?? 'TCP'),
    )
    if (!port.nodePort && same?.nodePort && wantsNodePorts(before)) port.nodePort = same.nodePort
    if (!port.nodePort) port.nodePort = freePort(context, range, has)
    else if (!had.has(port.nodePort) && !has.has(port.nodePort)) {
      const [low, high] = range
      const field = `spec.ports[${index}].nodePort`
      if (port.nodePort < low || port.nodePort > high)
        throw refuse(
          field,
          port.nodePort,
          `provided port is not in the valid range. The range of valid ports is ${low}-${high}`,
        )
      if (context.cache.others.has(nodePortKey(port.nodePort)))
        throw refuse(field, port.nodePort, 'provided port is already allocated')
    }
    has.add(port.nodePort)
  }
  for (const port of [...had].sort((a, b) => a - b)) if (!has.has(port)) drop(nodePortKey(port))
  for (const port of [...has].sort((a, b) => a - b)) if (!had.has(port)) take(nodePortKey(port))
  return reservation
}

/** What a Service that goes gives back. */
export function releaseAddresses(service: KubeObject): { ops: TxnOp[] } {
  const spec = specOf(service)
  const ops: TxnOp[] = []
  if (hasIp(spec)) ops.push({ type: 'delete', key: keyBytes(clusterIpKey(spec.clusterIP as string)) })
  const ports = new Set((spec.ports ?? []).map((port) => port.nodePort).filter((port): port is number => Boolean(port)))
  for (const port of [...ports].sort((a, b) => a - b)) ops.push({ type: 'delete', key: keyBytes(nodePortKey(port)) })
  return { ops }
}

function freeIp({ cache, random, options }: { cache: Cache; random: Random; options: ApiServerOptions }): string {
  const { base, size } = cidrOf(options.serviceCidr ?? SERVICE_CIDR)
  // As Kubernetes: the low ones are kept for those that people choose.
  const kept = Math.min(Math.max(16, Math.floor(size / 16)), 256, size - 2)
  for (let at = 0; at < TRIES; at++) {
    const ip = textOf(base + kept + random.int(size - kept - 1))
    if (!cache.others.has(clusterIpKey(ip))) return ip
  }
  for (let offset = 2; offset < size - 1; offset++) {
    const ip = textOf(base + offset)
    if (!cache.others.has(clusterIpKey(ip))) return ip
  }
  throw rangeFull('cluster IP')
}

function freePort(
  { cache, random }: { cache: Cache; random: Random },
  [low, high]: readonly [number, number],
  own: Set<number>,
): number {
  const isFree = (port: number) => !own.has(port) && !cache.others.has(nodePortKey(port))
  for (let at = 0; at < TRIES; at++) {
    const port = low + random.int(high - low + 1)
    if (isFree(port)) return port
  }
  for (let port = low; port <= high; port++) if (isFree(port)) return port
  throw rangeFull('node port')
}

function rangeFull(what: string): ApiError {
  return new ApiError({
    ...internal('').details,
    ...failure(500, 'InternalError', `Internal error occurred: failed to allocate a ${what}: range is full`),
  })
}

/** The n-th address of the Service range. */
export function serviceIp(cidr: string, n: number): string {
  return textOf(cidrOf(cidr).base + n)
}

function ipRefusal(ip: string, cidr: string): string | undefined {
  const number = numberOf(ip)
  const { base, size } = cidrOf(cidr)
  if (number === undefined) return 'not a valid IPv4 address'
  return number > base && number < base + size - 1
    ? undefined
    : `the provided IP is not in the valid range. The range of valid IPs is ${cidr}`
}

/** @throws RangeError for what is no IPv4 range of at least 16 addresses. */
export function cidrOf(cidr: string): { base: number; size: number } {
  const [ip = '', bits = ''] = cidr.split('/')
  const base = numberOf(ip)
  const length = Number(bits)
  if (base === undefined || !/^\d+$/.test(bits) || length < 8 || length > 28)
    throw new RangeError(`not a usable IPv4 range: ${cidr}`)
  const size = 2 ** (32 - length)
  return { base: Math.floor(base / size) * size, size }
}

function numberOf(ip: string): number | undefined {
  const parts = ip.split('.')
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256))
    return undefined
  return parts.reduce((sum, part) => sum * 256 + Number(part), 0)
}

const textOf = (number: number) => [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join('.')
