import { BusApiClient } from '@capstan/client'
import { silentLog } from '@capstan/real'
import { UserError } from '../console.js'
import { Places } from '../layout.js'
import { type BusWorld, busWorld } from '../worlds.js'
import { MemoryDisk } from '@capstan/real'
import { busAccess } from './machine-bus.js'
import { existingMaster, type MasterMachine } from './machine-file.js'
import { MastersList } from './masters-list.js'
import { StoreMembers } from './store-members.js'

const CONNECT_MS = 5000

export interface AdminAccess {
  places: Places
  machine: MasterMachine
  client: BusApiClient
  members: StoreMembers
  masters: MastersList
  world: BusWorld
}

/** A master's administrator on the bus. @throws BusError CLOSED by `signal` */
export function adminWorld(
  places: Places,
  machine: MasterMachine,
  masters: MastersList,
  signal: AbortSignal,
): Promise<BusWorld> {
  const identity = { component: 'admin', name: machine.name } as const
  return busWorld(busAccess(places, machine, masters, 'admin'), identity, {
    log: silentLog,
    disk: new MemoryDisk(),
    signal,
  })
}

/** Work on the cluster from a master, as its administrator. @throws UserError if this is no master, or no bus answers. */
export async function asAdmin<T>(data: string, work: (admin: AdminAccess) => Promise<T>): Promise<T> {
  const places = new Places(data)
  const machine = existingMaster(places)
  const masters = new MastersList(places)
  const world = await adminWorld(places, machine, masters, AbortSignal.timeout(CONNECT_MS)).catch(() => {
    throw new UserError(`no bus server answers: does ${machine.name} run? capstan serve --data ${data}`)
  })
  const { cluster } = machine.settings
  const client = new BusApiClient(world, { cluster, machine: machine.name })
  const members = new StoreMembers(world, cluster, () => masters.all.map(({ name }) => name))
  try {
    return await work({ places, machine, client, members, masters, world })
  } finally {
    members.close()
    client.close()
    await world.bus.close()
  }
}
