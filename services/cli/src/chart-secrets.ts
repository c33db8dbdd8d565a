/** What `helm/capstan` needs before it is installed: keys and credentials that no template can make. */
import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { join } from 'node:path'
import { busAuthorityConfig, kubeconfig, makeCa, makeClientCertificate, makeServerCertificate } from '@capstan/certs'
import { identityToken } from '@capstan/protocol'
import { stringify } from 'yaml'
import { Progress, UserError } from './console.js'
import { Places } from './layout.js'
import {
  CA_DAYS,
  ensureClusterId,
  ensureCredentials,
  ensureServiceAccountKeys,
  firstAddress,
  LEAF_DAYS,
  pair,
  validityFrom,
  write,
} from './pki.js'

/** Whose credentials a master's pod holds. */
const COMPONENTS = ['store', 'apiserver', 'scheduler', 'controller-manager', 'etcd'] as const
const API_PORT = 6443

export interface ChartSecretsOptions {
  /** Keeps authorities, keys and credentials: run again it finds them there and renews only certificates of servers. */
  directory: string
  /** Of the release; the chart's `fullnameOverride`. */
  name: string
  namespace: string
  replicas: number
  clusterDomain: string
  serviceCidr: string
  /** Names and addresses by which clients reach the API from outside. */
  addresses: readonly string[]
}

export interface Secret {
  apiVersion: 'v1'
  kind: 'Secret'
  metadata: { name: string; namespace: string; labels: Record<string, string> }
  type: string
  /** Base64. */
  data: Record<string, string>
}

/** Name of the cluster on the bus, as the chart's configurations have it. */
const CLUSTER = 'capstan'

/**
 * Makes what is missing below `directory`, and the Secrets and values of it. No private key of an authority is among them.
 * @throws UserError for options that the chart would refuse.
 */
export async function makeChartSecrets(
  options: ChartSecretsOptions,
): Promise<{ secrets: Secret[]; values: object; kubeconfig: string }> {
  check(options)
  const { name, namespace } = options
  const places = new Places(options.directory)
  const validity = validityFrom(Date.now())
  const members = Array.from({ length: options.replicas }, (_, i) => `${name}-${i}`)
  const service = (host: string) => [
    `${host}.${namespace}`,
    `${host}.${namespace}.svc`,
    `${host}.${namespace}.svc.${options.clusterDomain}`,
  ]
  const hostsOfPods = service(`*.${name}-peers`)
  // Three authorities: a certificate that makes somebody a user of the API must open neither a route of the bus nor etcd.
  const ca = await pair(places, 'ca', () => makeCa('capstan', validity(CA_DAYS)))
  const busCa = await pair(places, 'bus-ca', () => makeCa('capstan-bus', validity(CA_DAYS)))
  const etcdCa = await pair(places, 'etcd-ca', () => makeCa('capstan-etcd', validity(CA_DAYS)))
  const server = { ...validity(LEAF_DAYS), ipAddresses: ['127.0.0.1'] }
  const api = await makeServerCertificate(ca, {
    ...server,
    commonName: 'capstan-apiserver',
    dnsNames: [
      ...['localhost', 'kubernetes', 'kubernetes.default', 'kubernetes.default.svc'],
      ...['kubernetes.default.svc.cluster.local', name, ...service(name), ...hostsOfPods],
      ...options.addresses.filter((address) => !isIP(address)),
    ],
    ipAddresses: ['127.0.0.1', firstAddress(options.serviceCidr), ...options.addresses.filter((a) => isIP(a))],
  })
  const bus = await makeServerCertificate(busCa, {
    ...server,
    commonName: 'capstan-bus-server',
    dnsNames: ['localhost', ...service(`${name}-bus`), ...hostsOfPods, ...options.addresses.filter((a) => !isIP(a))],
    ipAddresses: ['127.0.0.1', ...options.addresses.filter((a) => isIP(a))],
  })
  const etcd = await makeServerCertificate(etcdCa, {
    ...server,
    commonName: 'capstan-etcd-server',
    dnsNames: ['localhost', ...service(`${name}-etcd`), ...hostsOfPods],
  })
  await pair(places, 'etcd-client', () =>
    makeClientCertificate(etcdCa, { ...validity(LEAF_DAYS), user: 'capstan-etcd-client', groups: [] }),
  )
  const admin = await pair(places, 'admin', () =>
    makeClientCertificate(ca, { ...validity(LEAF_DAYS), user: 'kubernetes-admin', groups: ['system:masters'] }),
  )
  await ensureServiceAccountKeys(places)
  ensureClusterId(places)
  const identities = members.flatMap((member) => COMPONENTS.map((component) => ({ component, name: member })))
  const authority = await ensureCredentials(CLUSTER, identities, places)

  const text = (file: string) => readFileSync(join(places.pki, file), 'utf8')
  const secret = (suffix: string, type: string, data: Record<string, string>): Secret => ({
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: {
      name: `${name}-${suffix}`,
      namespace,
      labels: { 'app.kubernetes.io/name': 'capstan', 'app.kubernetes.io/instance': name },
    },
    type,
    data: Object.fromEntries(Object.entries(data).map(([key, value]) => [key, Buffer.from(value).toString('base64')])),
  })
  const tls = (suffix: string, made: { cert: string; key: string }, authorityCert: string) =>
    secret(suffix, 'kubernetes.io/tls', { 'tls.crt': made.cert, 'tls.key': made.key, 'ca.crt': authorityCert })
  return {
    secrets: [
      tls('api-tls', api, ca.cert),
      tls('bus-tls', bus, busCa.cert),
      tls('etcd-tls', etcd, etcdCa.cert),
      secret('bus-authority', 'Opaque', { 'authority.conf': busAuthorityConfig(authority) }),
      secret('service-account', 'Opaque', {
        'service-account.key': text('service-account.key'),
        'service-account.pub': text('service-account.pub'),
      }),
      secret(
        'credentials',
        'Opaque',
        Object.fromEntries(
          identities.map((identity) => [
            `${identity.name}.${identity.component}.creds`,
            readFileSync(places.creds(identityToken(identity)), 'utf8'),
          ]),
        ),
      ),
    ],
    values: {
      fullnameOverride: name,
      replicas: options.replicas,
      clusterDomain: options.clusterDomain,
      cluster: { id: text('cluster-id'), serviceCidr: options.serviceCidr },
    },
    kubeconfig: kubeconfig({
      cluster: CLUSTER,
      server: `https://${options.addresses[0] ?? '127.0.0.1'}:${API_PORT}`,
      ca: ca.cert,
      user: 'kubernetes-admin',
      client: admin,
    }),
  }
}

/** `capstan chart secrets`. */
export async function writeChartSecrets(options: ChartSecretsOptions): Promise<void> {
  const progress = new Progress()
  const made = await makeChartSecrets(options)
  const inDirectory = (file: string) => join(options.directory, file)
  write(inDirectory('secrets.yaml'), made.secrets.map((secret) => stringify(secret, { lineWidth: 0 })).join('---\n'))
  write(inDirectory('values.yaml'), stringify(made.values))
  write(inDirectory('admin.conf'), made.kubeconfig)
  progress.done(`${options.directory} holds secrets.yaml, values.yaml, admin.conf, and the authorities' keys in pki/`)
  progress.step(`kubectl apply -f ${inDirectory('secrets.yaml')}`)
  progress.step(
    `helm install ${options.name} helm/capstan --namespace ${options.namespace} -f ${inDirectory('values.yaml')}`,
  )
}

function check({ name, namespace, replicas, clusterDomain, serviceCidr }: ChartSecretsOptions): void {
  if (!/^[a-z]([-a-z0-9]*[a-z0-9])?$/.test(name) || name.length > 40)
    throw new UserError(`"${name}" can't be the name: small letters, digits and hyphens, at most 40, a letter first`)
  if (!/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(namespace)) throw new UserError(`"${namespace}" is no namespace`)
  if (![1, 3, 5, 7, 9].includes(replicas)) throw new UserError(`${replicas} masters: it must be 1, 3, 5, 7 or 9`)
  if (!/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(clusterDomain)) throw new UserError(`"${clusterDomain}" is no domain`)
  if (!/^(\d{1,3}\.){3}\d{1,3}\/\d{1,2}$/.test(serviceCidr)) throw new UserError(`"${serviceCidr}" is no network`)
}
