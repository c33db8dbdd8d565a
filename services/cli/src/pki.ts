import { randomBytes, X509Certificate } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import {
  type BusAuthority,
  type CertificateAndKey,
  kubeconfig,
  makeBusAuthority,
  makeBusUser,
  makeCa,
  makeClientCertificate,
  makeServerCertificate,
  makeSigningKeyPair,
} from '@capstan/certs'
import { grants, type Identity, identityToken } from '@capstan/protocol'
import type { ClusterLayout, Places } from './layout.js'

const DAY_MS = 24 * 3600 * 1000
export const CA_DAYS = 3650
export const LEAF_DAYS = 365
const RENEW_BELOW_DAYS = 30

/** What `capstan up` makes once for a cluster and finds again later. All of it is secret but the certificates. */
export interface Secrets {
  ca: CertificateAndKey
  server: CertificateAndKey
  serviceAccount: { publicKey: string; privateKey: string }
  /** Of the etcd faces. Missing where a cluster of an older version still runs. */
  etcd?: { ca: string; server: CertificateAndKey }
  /** Told to every store member: tells clusters of one name apart. */
  clusterId: string
}

const file = (places: Places, name: string) => join(places.pki, name)

/** Begins a little in the past: clocks differ. */
export const validityFrom = (nowMs: number) => (days: number) => ({
  notBeforeMs: nowMs - 5 * 60_000,
  notAfterMs: nowMs + days * DAY_MS,
})

/** Makes certificates, bus credentials and the admin's kubeconfig where they are missing or will soon run out. */
export async function ensurePki(layout: ClusterLayout, places: Places): Promise<void> {
  const validity = validityFrom(Date.now())
  const ca = await pair(places, 'ca', () => makeCa('capstan', validity(CA_DAYS)))
  // The server's names follow the layout, and a certificate costs a millisecond: made anew at each start.
  const server = await makeServerCertificate(ca, {
    ...validity(LEAF_DAYS),
    commonName: 'capstan-apiserver',
    dnsNames: [
      'localhost',
      'kubernetes',
      'kubernetes.default',
      'kubernetes.default.svc',
      'kubernetes.default.svc.cluster.local',
      ...layout.masters.map((m) => m.name),
    ],
    ipAddresses: [...new Set(['127.0.0.1', layout.hostAddress, firstAddress(layout.serviceCidr)])],
  })
  writePair(places, 'apiserver', server)
  await ensureServiceAccountKeys(places)
  ensureClusterId(places)
  if (!existsSync(file(places, 'routes'))) write(file(places, 'routes'), randomBytes(16).toString('hex'))
  const admin = await pair(places, 'admin', () =>
    makeClientCertificate(ca, { ...validity(LEAF_DAYS), user: 'kubernetes-admin', groups: ['system:masters'] }),
  )
  const url = `https://127.0.0.1:${layout.port}`
  write(
    places.kubeconfig,
    kubeconfig({ cluster: layout.cluster, server: url, ca: ca.cert, user: 'kubernetes-admin', client: admin }),
  )
  await ensureEtcdPki(layout, places, validity)
  await ensureCredentials(layout.cluster, identitiesOf(layout), places)
}

/**
 * An authority of its own: whoever speaks to the store as etcd reads and writes everything, so a certificate that makes
 * somebody a user of the API must not open this door too (promise A2).
 */
async function ensureEtcdPki(
  layout: ClusterLayout,
  places: Places,
  validity: (days: number) => { notBeforeMs: number; notAfterMs: number },
): Promise<void> {
  const ca = await pair(places, 'etcd-ca', () => makeCa('capstan-etcd', validity(CA_DAYS)))
  const server = await makeServerCertificate(ca, {
    ...validity(LEAF_DAYS),
    commonName: 'capstan-etcd-server',
    dnsNames: ['localhost', ...layout.masters.map((m) => m.name)],
    ipAddresses: [...new Set(['127.0.0.1', layout.hostAddress])],
  })
  writePair(places, 'etcd-server', server)
  await pair(places, 'etcd-client', () =>
    makeClientCertificate(ca, { ...validity(LEAF_DAYS), user: 'capstan-etcd-client', groups: [] }),
  )
}

export async function ensureServiceAccountKeys(places: Places): Promise<void> {
  if (existsSync(file(places, 'service-account.key'))) return
  const keys = await makeSigningKeyPair()
  write(file(places, 'service-account.pub'), keys.publicKey)
  write(file(places, 'service-account.key'), keys.privateKey)
}

export function ensureClusterId(places: Places): void {
  if (!existsSync(file(places, 'cluster-id'))) write(file(places, 'cluster-id'), randomBytes(8).toString('hex'))
}

function identitiesOf(layout: ClusterLayout): Identity[] {
  return [
    ...layout.masters.flatMap(({ name }) =>
      (['store', 'apiserver', 'scheduler', 'controller-manager', 'etcd', 'machine'] as const).map((component) => ({
        component,
        name,
      })),
    ),
    ...layout.nodes.flatMap(({ name }) =>
      (['kubelet', 'kube-proxy', 'machine'] as const).map((component) => ({ component, name })),
    ),
    { component: 'kube-proxy', name: 'gateway' },
    { component: 'admin', name: 'cli' },
  ]
}

/** One creds file for each identity, signed by the cluster's own authority. */
export async function ensureCredentials(
  cluster: string,
  identities: readonly Identity[],
  places: Places,
): Promise<BusAuthority> {
  const authorityFile = file(places, 'bus-authority.json')
  const authority = existsSync(authorityFile)
    ? (JSON.parse(readFileSync(authorityFile, 'utf8')) as BusAuthority)
    : await makeBusAuthority()
  for (const identity of identities) {
    const token = identityToken(identity)
    if (existsSync(places.creds(token))) continue
    const { credentials, publicKey } = await makeBusUser(authority, token, grants(cluster, identity))
    authority.users[token] = publicKey
    write(places.creds(token), credentials)
  }
  write(authorityFile, JSON.stringify(authority))
  return authority
}

export function readSecrets(places: Places): Secrets {
  const text = (name: string) => readFileSync(file(places, name), 'utf8')
  return {
    ca: { cert: text('ca.crt'), key: text('ca.key') },
    server: { cert: text('apiserver.crt'), key: text('apiserver.key') },
    serviceAccount: { publicKey: text('service-account.pub'), privateKey: text('service-account.key') },
    ...(existsSync(file(places, 'etcd-server.crt'))
      ? {
          etcd: {
            ca: text('etcd-ca.crt'),
            server: { cert: text('etcd-server.crt'), key: text('etcd-server.key') },
          },
        }
      : {}),
    clusterId: text('cluster-id'),
  }
}

/** Another cluster from now on: no directory of the former one is taken for one of its own. Returns its id. */
export function renewClusterId(places: Places): string {
  const id = randomBytes(8).toString('hex')
  write(file(places, 'cluster-id'), id)
  return id
}

export function readBusAuthority(places: Places): { authority: BusAuthority; routePassword: string } {
  return {
    authority: JSON.parse(readFileSync(file(places, 'bus-authority.json'), 'utf8')) as BusAuthority,
    routePassword: readFileSync(file(places, 'routes'), 'utf8'),
  }
}

export function readAdmin(places: Places): CertificateAndKey & { ca: string } {
  const text = (name: string) => readFileSync(file(places, name), 'utf8')
  return { cert: text('admin.crt'), key: text('admin.key'), ca: text('ca.crt') }
}

export async function pair(
  places: Places,
  name: string,
  make: () => Promise<CertificateAndKey>,
): Promise<CertificateAndKey> {
  const [certFile, keyFile] = [file(places, `${name}.crt`), file(places, `${name}.key`)]
  if (existsSync(certFile) && existsSync(keyFile) && !runsOutSoon(readFileSync(certFile, 'utf8')))
    return { cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
  const made = await make()
  writePair(places, name, made)
  return made
}

const runsOutSoon = (pem: string) =>
  Date.parse(new X509Certificate(pem).validTo) - Date.now() < RENEW_BELOW_DAYS * DAY_MS

export function writePair(places: Places, name: string, made: CertificateAndKey): void {
  write(file(places, `${name}.key`), made.key)
  write(file(places, `${name}.crt`), made.cert)
}

/** At once, and readable by the owner only. */
export function write(path: string, content: string | Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  writeFileSync(`${path}.new`, content, { mode: 0o600 })
  renameSync(`${path}.new`, path)
}

/** The first usable address of a network: that of the `kubernetes` Service. */
export function firstAddress(cidr: string): string {
  const parts = (cidr.split('/')[0] as string).split('.').map(Number)
  return [...parts.slice(0, 3), (parts[3] as number) + 1].join('.')
}
