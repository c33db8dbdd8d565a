import { Caller } from '@capstan/actor'
import { type StoreStatusReply, Subjects } from '@capstan/protocol'
import { silentLog } from '@capstan/real'
import pc from 'picocolors'
import { AdminClient } from './admin-client.js'
import { printTable } from './console.js'
import { readEmbeddedStatus } from './embedded-status.js'
import { etcdUrls } from './etcd-face.js'
import { existingLayout } from './layout-file.js'
import { type ClusterLayout, type MasterLayout, Places } from './layout.js'
import { machinePid } from './machines.js'
import { readMachine } from './vm/machine-file.js'
import { machineStatus } from './vm/machine-status.js'
import { realWorld } from './worlds.js'

export interface MasterStatus {
  name: string
  role: 'leader' | 'follower' | 'down'
  term: number
  commitIndex: number
  pid: number | null
  url: string
  /** Syncs of the store's log that took over 200 ms, since it was started. */
  slowSyncs: number
  /** Of the cluster, as this member has it, and what its program supports. Null: it does not say. */
  clusterVersion: number | null
  supportedVersions: { min: number; max: number } | null
}

export interface NodeStatus {
  name: string
  ready: boolean
  pid: number | null
  /** Empty: a machine of its own knows that, we don't. */
  runtime: string
}

export interface ClusterStatus {
  masters: MasterStatus[]
  nodes: NodeStatus[]
  bus: string
  kubeconfig: string
  /** The store as etcd; null: the cluster was laid out by a version that had no such face. */
  etcd: { endpoints: string[]; ca: string; cert: string; key: string } | null
}

const ANSWER_MS = 1500

export async function clusterStatus(layout: ClusterLayout, places: Places): Promise<ClusterStatus> {
  const admin = new AdminClient(places)
  const [masters, nodes] = await Promise.all([
    layout.bus === 'memory' ? embeddedMasters(layout, places, admin) : masterStatuses(layout, places),
    apiNodes(admin, '127.0.0.1', layout.port),
  ]).finally(() => admin.close())
  const nodePid = (name: string) => machinePid(places, layout.bus === 'memory' ? 'embedded' : name) ?? null
  return {
    masters,
    nodes: layout.nodes.map(({ name }) => ({
      name,
      ready: nodes?.some((n) => n.name === name && n.ready) ?? false,
      pid: nodePid(name),
      runtime: layout.runtime,
    })),
    bus: layout.bus,
    kubeconfig: places.kubeconfig,
    etcd: etcdStatus(layout, places),
  }
}

function etcdStatus(layout: ClusterLayout, places: Places): ClusterStatus['etcd'] {
  const endpoints = Object.values(etcdUrls(layout)).flat()
  return endpoints.length === 0 ? null : { endpoints, ...places.etcdClient }
}

/** Every master's store is asked itself, over the bus: what one member thinks of another is not its state. */
async function masterStatuses(layout: ClusterLayout, places: Places): Promise<MasterStatus[]> {
  const giveUp = AbortSignal.timeout(ANSWER_MS)
  const world = await realWorld(
    layout,
    places,
    { component: 'admin', name: 'cli' },
    { log: silentLog, machine: '', signal: giveUp },
  ).catch(() => undefined)
  const caller = world && new Caller(world)
  const subjects = new Subjects(layout.cluster)
  const statusOf = async (master: MasterLayout): Promise<MasterStatus> => {
    const pid = machinePid(places, master.name) ?? null
    const answer =
      caller && world && pid !== null
        ? await caller
            .call(subjects.store(master.name, world.bus.identity, 'status'), {}, { timeoutMs: ANSWER_MS })
            .catch(() => undefined)
        : undefined
    return masterStatus(master.name, answer as StoreStatusReply | undefined, {
      pid,
      url: `https://127.0.0.1:${master.apiPort}`,
    })
  }
  const masters = await Promise.all(layout.masters.map(statusOf))
  caller?.close()
  await world?.bus.close()
  return masters
}

/** Of what a master's store says of itself; undefined: it does not answer. */
export const masterStatus = (
  name: string,
  status: StoreStatusReply | undefined,
  where: { pid: number | null; url: string },
): MasterStatus => ({
  name,
  role: status === undefined ? 'down' : status.role === 'leader' ? 'leader' : 'follower',
  term: status?.term ?? 0,
  commitIndex: status?.commitIndex ?? 0,
  ...where,
  slowSyncs: status?.counters['slowSyncs'] ?? 0,
  clusterVersion: status?.clusterVersion ?? null,
  supportedVersions: status?.supportedVersions ?? null,
})

/** Nobody outside its process hears the in-process bus: that process says who leads, and each API server answers itself. */
async function embeddedMasters(layout: ClusterLayout, places: Places, admin: AdminClient): Promise<MasterStatus[]> {
  const pid = machinePid(places, 'embedded') ?? null
  const told = pid === null ? [] : readEmbeddedStatus(places)
  return Promise.all(
    layout.masters.map(async ({ name, apiPort }) => {
      const answer = await admin.request({ host: '127.0.0.1', port: apiPort, path: '/readyz' }, ANSWER_MS)
      const state = answer && told.find((one) => one.name === name)
      return {
        name,
        role: state?.role ?? 'down',
        term: state?.term ?? 0,
        commitIndex: state?.commitIndex ?? 0,
        pid,
        url: `https://127.0.0.1:${apiPort}`,
        slowSyncs: state?.slowSyncs ?? 0,
        clusterVersion: state?.clusterVersion ?? null,
        supportedVersions: state?.supportedVersions ?? null,
      }
    }),
  )
}

interface ApiNode {
  name: string
  ready: boolean
  /** Has neither of the taints that keep pods away from a node that is not Ready. They go some time after it is Ready. */
  open: boolean
}

const NOT_READY_TAINTS = ['node.kubernetes.io/not-ready', 'node.kubernetes.io/unreachable']

/** Nodes as an API server states them; undefined: it does not answer. */
export async function apiNodes(admin: AdminClient, host: string, port: number): Promise<ApiNode[] | undefined> {
  const answer = await admin.request({ host, port, path: '/api/v1/nodes' })
  if (answer?.status !== 200) return undefined
  const { items } = JSON.parse(answer.body) as {
    items: {
      metadata: { name: string }
      spec?: { taints?: { key: string }[] }
      status?: { conditions?: { type: string; status: string }[] }
    }[]
  }
  return items.map(({ metadata, spec, status }) => ({
    name: metadata.name,
    ready: status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') ?? false,
    open: !spec?.taints?.some((taint) => NOT_READY_TAINTS.includes(taint.key)),
  }))
}

/** Does every node take pods, and is every API server in order? With a line for people on what is still awaited. */
export async function clusterReady(
  layout: ClusterLayout,
  admin: AdminClient,
): Promise<{ ready: boolean; text: string }> {
  const answers = await Promise.all(
    layout.masters.map((m) => admin.request({ host: '127.0.0.1', port: m.apiPort, path: '/readyz' }, 500)),
  )
  const masters = answers.filter((answer) => answer?.status === 200).length
  if (masters < layout.masters.length)
    return { ready: false, text: `${masters} of ${layout.masters.length} masters are ready` }
  const nodes = await apiNodes(admin, '127.0.0.1', layout.port)
  const count = layout.nodes.filter(({ name }) => nodes?.some((n) => n.name === name && n.ready && n.open)).length
  return {
    ready: nodes !== undefined && count === layout.nodes.length,
    text: `${masters} masters and ${count} of ${layout.nodes.length} nodes are ready`,
  }
}

/** While a cluster is upgraded its members support different versions; the cluster's own rises when all support it. */
export function versionText({
  clusterVersion,
  supportedVersions,
}: Pick<MasterStatus, 'clusterVersion' | 'supportedVersions'>) {
  if (clusterVersion === null) return 'version unknown'
  if (supportedVersions === null || supportedVersions.max === clusterVersion) return `version ${clusterVersion}`
  return `version ${clusterVersion} (its program supports ${supportedVersions.max})`
}

/** `capstan status`. */
export async function printStatus(data: string, format: 'text' | 'json'): Promise<void> {
  const places = new Places(data)
  const machine = readMachine(places)
  const status = machine ? await machineStatus(places, machine) : await clusterStatus(existingLayout(places), places)
  if (format === 'json') return void process.stdout.write(`${JSON.stringify(status, null, 2)}\n`)
  printTable([
    ['MACHINE', 'STATE', 'PID', ''],
    ...status.masters.map((m) => [
      m.name,
      m.role,
      String(m.pid ?? '-'),
      m.role === 'down' ? '' : `term ${m.term}, commit ${m.commitIndex}, ${versionText(m)}, ${m.url}`,
    ]),
    ...status.nodes.map((n) => [n.name, n.ready ? 'ready' : 'not ready', String(n.pid ?? '-'), n.runtime]),
  ])
  process.stdout.write(pc.dim(`bus: ${status.bus}   kubeconfig: ${status.kubeconfig}\n`))
  if (status.etcd)
    process.stdout.write(pc.dim(`etcd: ${status.etcd.endpoints.join(',')}   certificate: ${status.etcd.cert}\n`))
}
