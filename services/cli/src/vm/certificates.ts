/** The certificates of one machine: made, looked at, renewed. */
import { X509Certificate } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import {
  type CertificateAndKey,
  kubeconfig,
  makeClientCertificate,
  makeServerCertificate,
  type Validity,
} from '@capstan/certs'
import type { Places } from '../layout.js'
import { firstAddress, write, writePair } from '../pki.js'
import { type Authorities, CLOCKS_DIFFER_MS } from './authorities.js'
import { type ClusterSettings, machineFiles, type MasterMachine, type Role } from './machine-file.js'

/** As a machine shows itself to the bus and to the join door. */
export const machineUser = (role: Role, name: string) =>
  role === 'master'
    ? { user: `system:capstan:master:${name}`, groups: ['system:capstan:masters'] }
    : { user: `system:node:${name}`, groups: ['system:nodes'] }

export const validityOf = (settings: ClusterSettings, nowMs: number): Validity => ({
  notBeforeMs: nowMs - CLOCKS_DIFFER_MS,
  notAfterMs: nowMs + settings.certificateSeconds * 1000,
})

export const notAfterMs = (pem: string | Uint8Array) => Date.parse(new X509Certificate(pem).validTo)

/** Less than a third of its life is left. */
export const isDue = (pem: string, settings: ClusterSettings, nowMs: number): boolean =>
  notAfterMs(pem) - nowMs < (settings.certificateSeconds * 1000) / 3

/** When to look again: often enough that a renewal that fails is tried several times. */
export const lookAgainMs = (settings: ClusterSettings): number =>
  Math.min(3_600_000, Math.max(500, (settings.certificateSeconds * 1000) / 20))

export type LeafName = 'apiserver' | 'door' | 'bus-server' | 'etcd-server' | 'etcd-client' | 'machine' | 'admin'

/** Whom each certificate of a master is signed by, and for. */
function masterLeaves(
  machine: MasterMachine,
  { certificates }: Authorities,
  validity: Validity,
): Record<LeafName, () => Promise<CertificateAndKey>> {
  const { settings, name, address } = machine
  const endpointHost = settings.endpoint?.replace(/:\d+$/, '')
  const server = (commonName: string) => ({
    ...validity,
    commonName,
    dnsNames: ['localhost', name],
    ipAddresses: [...new Set([address, '127.0.0.1'])],
  })
  // What stands before the API servers may stand before the join doors as well.
  const outside = (commonName: string) => {
    const own = server(commonName)
    if (endpointHost === undefined) return own
    return isIP(endpointHost)
      ? { ...own, ipAddresses: [...own.ipAddresses, endpointHost] }
      : { ...own, dnsNames: [...own.dnsNames, endpointHost] }
  }
  const api = outside('capstan-apiserver')
  return {
    apiserver: () =>
      makeServerCertificate(certificates.ca, {
        ...api,
        dnsNames: [
          ...api.dnsNames,
          ...['kubernetes', 'kubernetes.default', 'kubernetes.default.svc', 'kubernetes.default.svc.cluster.local'],
        ],
        ipAddresses: [...api.ipAddresses, firstAddress(settings.serviceCidr)],
      }),
    door: () => makeServerCertificate(certificates.ca, outside('capstan-join-door')),
    'bus-server': () => makeServerCertificate(certificates['bus-ca'], server('capstan-bus-server')),
    'etcd-server': () => makeServerCertificate(certificates['etcd-ca'], server('capstan-etcd-server')),
    'etcd-client': () =>
      makeClientCertificate(certificates['etcd-ca'], { ...validity, user: 'capstan-etcd-client', groups: [] }),
    machine: () => makeClientCertificate(certificates['machine-ca'], { ...validity, ...machineUser('master', name) }),
    admin: () =>
      makeClientCertificate(certificates.ca, { ...validity, user: 'kubernetes-admin', groups: ['system:masters'] }),
  }
}

/**
 * Makes those of a master's certificates that are missing or due, and admin.conf with them. A master has the authorities' keys:
 * it asks nobody. Answers which ones are new.
 */
export async function renewMaster(
  places: Places,
  machine: MasterMachine,
  authorities: Authorities,
): Promise<LeafName[]> {
  const nowMs = Date.now()
  const { settings } = machine
  const files = machineFiles(places)
  const renewed: LeafName[] = []
  for (const [name, make] of Object.entries(masterLeaves(machine, authorities, validityOf(settings, nowMs)))) {
    const { cert, key } = files.pair(name)
    if (existsSync(cert) && existsSync(key) && !isDue(readFileSync(cert, 'utf8'), settings, nowMs)) continue
    writePair(places, name, await make())
    renewed.push(name as LeafName)
  }
  if (renewed.includes('admin') || !existsSync(places.kubeconfig)) writeAdminConf(places, machine, authorities)
  return renewed
}

function writeAdminConf(places: Places, machine: MasterMachine, { certificates }: Authorities): void {
  const { settings, address, apiPort } = machine
  const config = kubeconfig({
    cluster: settings.cluster,
    server: `https://${settings.endpoint ?? `${address}:${apiPort}`}`,
    ca: certificates.ca.cert,
    user: 'kubernetes-admin',
    client: readPair(places, 'admin'),
  })
  write(places.kubeconfig, config)
}

export function readPair(places: Places, name: string): CertificateAndKey {
  const { cert, key } = machineFiles(places).pair(name)
  return { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') }
}
