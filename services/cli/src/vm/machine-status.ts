import { Caller } from '@capstan/actor'
import { type StoreStatusReply, Subjects } from '@capstan/protocol'
import { MemoryDisk, silentLog } from '@capstan/real'
import { AdminClient } from '../admin-client.js'
import type { Places } from '../layout.js'
import { apiNodes, type ClusterStatus, masterStatus, type MasterStatus } from '../status.js'
import { busWorld } from '../worlds.js'
import { busAccess } from './machine-bus.js'
import type { MachineFile, MasterRecord } from './machine-file.js'
import { machinePid } from './machine-process.js'
import { MastersList } from './masters-list.js'

const ANSWER_MS = 1500

/**
 * The cluster as seen from one machine: of processes it knows only its own. A node may ask the masters how they are, but not who
 * the other nodes are.
 */
export async function machineStatus(places: Places, machine: MachineFile): Promise<ClusterStatus> {
  const masters = new MastersList(places)
  const ownPid = machinePid(places, machine) ?? null
  const pidOf = (name: string) => (name === machine.name ? ownPid : null)
  const isMaster = machine.role === 'master'
  const [states, nodes] = await Promise.all([
    masterStates(places, machine, masters, pidOf),
    isMaster ? knownNodes(places, masters) : [],
  ])
  return {
    masters: states,
    nodes: isMaster
      ? nodes.map((node) => ({ ...node, pid: null, runtime: '' }))
      : [{ name: machine.name, ready: ownPid !== null, pid: ownPid, runtime: machine.runtime }],
    bus: 'nats',
    kubeconfig: isMaster ? places.kubeconfig : '',
    etcd: isMaster
      ? {
          endpoints: masters.all.map(({ address, etcdPort }) => `https://${address}:${etcdPort}`),
          ...places.etcdClient,
        }
      : null,
  }
}

async function masterStates(
  places: Places,
  machine: MachineFile,
  masters: MastersList,
  pidOf: (name: string) => number | null,
): Promise<MasterStatus[]> {
  const { cluster } = machine.settings
  const world = await busWorld(
    busAccess(places, machine, masters, 'machine'),
    { component: 'machine', name: machine.name },
    { log: silentLog, disk: new MemoryDisk(), signal: AbortSignal.timeout(ANSWER_MS) },
  ).catch(() => undefined)
  const caller = world && new Caller(world)
  const subjects = new Subjects(cluster)
  const stateOf = async ({ name, address, apiPort }: MasterRecord) => {
    const subject = world && subjects.store(name, world.bus.identity, 'status')
    const answer =
      caller && subject ? await caller.call(subject, {}, { timeoutMs: ANSWER_MS }).catch(() => undefined) : undefined
    const where = { pid: pidOf(name), url: `https://${address}:${apiPort}` }
    return masterStatus(name, answer as StoreStatusReply | undefined, where)
  }
  const states = await Promise.all(masters.all.map(stateOf))
  caller?.close()
  await world?.bus.close()
  return states
}

/** As the first API server that answers states them. */
async function knownNodes(places: Places, masters: MastersList): Promise<{ name: string; ready: boolean }[]> {
  const admin = new AdminClient(places)
  try {
    for (const { address, apiPort } of masters.all) {
      const nodes = await apiNodes(admin, address, apiPort)
      if (nodes) return nodes
    }
    return []
  } finally {
    admin.close()
  }
}
