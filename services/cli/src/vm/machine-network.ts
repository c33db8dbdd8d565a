/** What a machine does to its host's routes and packet rules, so that pods and Services are reached from it, and through it. */
import type { Log } from '@capstan/actor'
import { BusApiClient } from '@capstan/client'
import {
  enableForwarding,
  HollowRules,
  IpRoutes,
  NftablesRules,
  type PacketRules,
  startKubeProxy,
  startNodeRoutes,
} from '@capstan/kube-proxy'
import { isRoot } from '../shell.js'
import type { BusWorld } from '../worlds.js'
import type { MachineBus } from './machine-bus.js'
import type { MachineFile, MasterMachine, NodeMachine } from './machine-file.js'

/** Each of a host's machines has a table of its own: a master and a node may share it. */
const TABLES = { master: 'capstan-master', node: 'capstan' } as const

/** Machines of tests, whose address is one of loopback, share their host's network with others that are none of ours. */
const ownsNetwork = (machine: MachineFile) =>
  isRoot() && !machine.address.startsWith('127.') && !(machine.role === 'node' && machine.runtime === 'hollow')

const scopeOf = ({ settings }: MachineFile) => ({ clusterCidr: settings.podCidr, serviceCidr: settings.serviceCidr })

export const packetRules = (machine: MachineFile): PacketRules =>
  ownsNetwork(machine) ? new NftablesRules(TABLES[machine.role], scopeOf(machine)) : new HollowRules()

export interface MachineNetwork {
  /** Routes and rules go on working: pods do, too. */
  stop(): Promise<void>
}

/** Routes to the pods of other nodes. Undefined: this machine does not touch its host's network. */
export function startRoutes(world: BusWorld, machine: MachineFile, log: Log): MachineNetwork | undefined {
  if (!ownsNetwork(machine)) return undefined
  for (const trouble of enableForwarding()) log.warn({ trouble }, 'packets may not pass this machine')
  const { name, role, address, settings } = machine
  const client = new BusApiClient(world, { cluster: settings.cluster, machine: name, callerName: 'node-routes' })
  const nodeName = role === 'node' ? name : ''
  const routes = startNodeRoutes(world, { client, nodeName, address, ...scopeOf(machine), routes: new IpRoutes() })
  return {
    async stop() {
      await routes.stop()
      client.close()
    },
  }
}

/** A master's: its API server and the programs on it reach pods and Services, and node ports answer on its address. */
export async function startGateway(
  bus: MachineBus,
  machine: MasterMachine,
  log: Log,
): Promise<MachineNetwork | undefined> {
  if (!ownsNetwork(machine)) return undefined
  const world = await bus.world('kube-proxy')
  const client = new BusApiClient(world, { cluster: machine.settings.cluster, machine: machine.name })
  const proxy = startKubeProxy(world, { client, nodeName: '', rules: packetRules(machine) })
  const routes = startRoutes(world, machine, log)
  return {
    async stop() {
      await Promise.all([proxy.stop(), routes?.stop()])
      client.close()
    },
  }
}

/** The machine leaves this host. Nothing there: nothing to do. */
export async function clearNetwork(machine: MasterMachine | NodeMachine): Promise<void> {
  if (!ownsNetwork(machine)) return
  await new NftablesRules(TABLES[machine.role]).clear().catch(() => undefined)
  const routes = new IpRoutes()
  for (const route of await routes.list().catch(() => []))
    if (route.own) await routes.remove(route).catch(() => undefined)
}
