import { readFileSync } from 'node:fs'
import type { Clock, Log } from '@capstan/actor'
import type { Component } from '@capstan/protocol'
import { MemoryDisk } from '@capstan/real'
import type { Places } from '../layout.js'
import { type BusAccess, type BusWorld, busWorld, rotated } from '../worlds.js'
import { readCredentials } from './identities.js'
import { busServersOf, type MachineFile, machineFiles } from './machine-file.js'
import type { MastersList } from './masters-list.js'

/** How a machine's components get onto the bus: a master by its own server first, a node by any. */
export function busAccess(places: Places, machine: MachineFile, masters: MastersList, component: Component): BusAccess {
  const { name, settings } = machine
  const servers = busServersOf(masters.all, name)
  return {
    cluster: settings.cluster,
    servers: machine.role === 'master' ? servers : rotated(servers),
    credentials: readCredentials(places, { component, name }),
    ca: readFileSync(machineFiles(places).busCa, 'utf8'),
    clientCertificate: machineFiles(places).pair('machine'),
  }
}

/** The worlds of a machine's components. Their connections learn of masters that come and go. */
export class MachineBus {
  private readonly worlds: BusWorld[] = []

  constructor(
    private readonly places: Places,
    private readonly machine: MachineFile,
    private readonly masters: MastersList,
    private readonly log: Log,
    private readonly clock: Clock,
  ) {
    masters.onChange(() => {
      const servers = busServersOf(masters.all, machine.name)
      for (const { bus } of this.worlds) bus.setServers(machine.role === 'master' ? servers : rotated(servers))
    })
  }

  async world(component: Component): Promise<BusWorld> {
    const { places, machine, masters, log, clock } = this
    const made = await busWorld(
      busAccess(places, machine, masters, component),
      { component, name: machine.name },
      // What a machine's parts must remember is in the store, or in files of their own.
      { log: log.child({ component }), disk: new MemoryDisk(), clock },
    )
    this.worlds.push(made)
    return made
  }

  async close(): Promise<void> {
    await Promise.all(this.worlds.map(({ bus }) => bus.close()))
  }
}
