/** Any Kubernetes cluster by its kubeconfig: no access to machines, so only what an administrator can do by the API. */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { UserError } from '@capstan/cli'
import { RealClock } from '@capstan/real'
import { parse } from 'yaml'
import type { Access, ClusterLook, Credentials, FinalState, Levers, Machine, Target } from '../types.js'
import { SmallApiClient } from './api-client-edge.js'
import { ApiLevers } from './api-levers-edge.js'
import { gatherFinalState } from './final-state-edge.js'

const ANSWER_MS = 5000
const NO_MACHINES = 'a kubeconfig gives no access to machines'

interface Kubeconfig {
  'current-context'?: string
  contexts?: { name: string; context: { cluster: string; user: string } }[]
  clusters?: {
    name: string
    cluster: {
      server: string
      'certificate-authority-data'?: string
      'certificate-authority'?: string
      'insecure-skip-tls-verify'?: boolean
      'tls-server-name'?: string
    }
  }[]
  users?: {
    name: string
    user: {
      'client-certificate-data'?: string
      'client-certificate'?: string
      'client-key-data'?: string
      'client-key'?: string
      token?: string
      tokenFile?: string
      exec?: unknown
    }
  }[]
}

/** Server and credentials of the current context. @throws UserError that says what the file lacks. */
export function readKubeconfig(file: string): { server: string; credentials: Credentials } {
  const config = parse(readFileSync(file, 'utf8')) as Kubeconfig
  const context = config.contexts?.find(({ name }) => name === config['current-context'])?.context
  const cluster = config.clusters?.find(({ name }) => name === context?.cluster)?.cluster
  const user = config.users?.find(({ name }) => name === context?.user)?.user
  if (!context || !cluster || !user) throw new UserError(`${file}: its current context names no cluster and user of it`)
  if (user.exec !== undefined && user.token === undefined && user['client-certificate-data'] === undefined)
    throw new UserError(`${file}: credentials by a program (exec) are not supported; use a token or a certificate`)
  const pem = (data: string | undefined, path: string | undefined): string | undefined =>
    data !== undefined
      ? Buffer.from(data, 'base64').toString()
      : path !== undefined
        ? readFileSync(resolve(dirname(file), path), 'utf8')
        : undefined
  const given = {
    ca: pem(cluster['certificate-authority-data'], cluster['certificate-authority']),
    cert: pem(user['client-certificate-data'], user['client-certificate']),
    key: pem(user['client-key-data'], user['client-key']),
    token: user.token ?? (user.tokenFile === undefined ? undefined : readFileSync(user.tokenFile, 'utf8').trim()),
    serverName: cluster['tls-server-name'],
    insecure: cluster['insecure-skip-tls-verify'],
  }
  const credentials = Object.fromEntries(
    Object.entries(given).filter(([, value]) => value !== undefined),
  ) as Credentials
  return { server: cluster.server, credentials }
}

/** @throws UserError if nobody answers. */
export async function kubeconfigTarget(file: string): Promise<Target> {
  const { server, credentials } = readKubeconfig(file)
  const client = new SmallApiClient({ name: 'kubeconfig', url: server }, credentials)
  try {
    const { status, body } = await client.ask('GET', '/api/v1/nodes', { timeoutMs: ANSWER_MS })
    if (status !== 200)
      throw new UserError(`${server}: nodes cannot be listed: ${status} ${String(body['message'] ?? '')}`)
    const nodes = (body['items'] as unknown as { metadata: { name: string } }[]).map(({ metadata }) => metadata.name)
    return new KubeconfigTarget(file, server, credentials, nodes.sort())
  } finally {
    client.close()
  }
}

class KubeconfigTarget implements Target {
  readonly kind = 'kubeconfig'
  readonly description: string
  readonly machines: readonly Machine[]
  readonly access: Access
  readonly levers: Levers
  readonly lacks: Target['lacks'] = Object.fromEntries(
    ['processes', 'network', 'bus', 'disk', 'clock', 'containers', 'eventLoop', 'members', 'certificates'].map(
      (lever) => [lever, NO_MACHINES],
    ),
  )
  private readonly startMs = performance.now()
  private readonly api: ApiLevers

  constructor(kubeconfig: string, server: string, credentials: Credentials, nodes: readonly string[]) {
    this.description = `the cluster at ${server}, ${nodes.length} nodes`
    this.machines = nodes.map((name) => ({ name, role: 'node' as const }))
    const endpoint = { name: 'kubeconfig', url: server }
    this.access = {
      on: 'kubeconfig',
      kubeconfig,
      balancer: endpoint,
      apiEndpoints: [endpoint],
      apiCredentials: credentials,
      etcdEndpoints: [],
      nodes,
      runtime: 'unknown',
      reachesPods: false,
      nowMs: () => performance.now() - this.startMs,
      clock: new RealClock(),
    }
    // Only what the run's own workloads made is struck: whoever else's pods are left alone.
    this.api = new ApiLevers(this.access, (namespace) => namespace.startsWith('chaos-'))
    this.levers = { api: this.api }
  }

  async look(): Promise<ClusterLook> {
    const ready = await this.api.readyNodes(ANSWER_MS)
    return { masters: [], nodes: this.machines.map(({ name }) => ({ name, ready: ready?.has(name) ?? false })) }
  }

  finalState(options: { fromRevision: number }): Promise<FinalState> {
    return gatherFinalState(this.access, { ...options, isOurs: (namespace) => namespace.startsWith('chaos-') })
  }

  async clear(): Promise<string[]> {
    this.api.close()
    return []
  }
}
