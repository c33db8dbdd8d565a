import { readFileSync } from 'node:fs'
import type { Log, World } from '@capstan/actor'
import { grants, type Identity, identityToken, Subjects } from '@capstan/protocol'
import { NatsBus, RealClock, RealDisk, RealRandom } from '@capstan/real'
import type { ClusterLayout, Places } from './layout.js'

export interface BusWorld extends World {
  readonly bus: NatsBus
}

/** Bus servers in the order in which this machine should try them: its own first. */
export function busServers(layout: ClusterLayout, own?: string): string[] {
  return [...layout.masters]
    .sort((a, b) => Number(b.name === own) - Number(a.name === own))
    .map((master) => `${layout.hostAddress}:${master.natsPort}`)
}

/** The real world of one component: a bus connection of its own under its own identity. */
export async function realWorld(
  layout: ClusterLayout,
  places: Places,
  identity: Identity,
  options: { log: Log; machine: string; instance?: string; signal?: AbortSignal },
): Promise<BusWorld> {
  const token = identityToken(identity)
  const random = new RealRandom()
  const instance = options.instance ?? `${process.pid}-${Buffer.from(random.bytes(6)).toString('hex')}`
  const servers = busServers(layout, options.machine)
  const bus = await NatsBus.connect(
    {
      // Nodes and tools spread over the servers; a master stays with its own.
      servers: layout.masters.some((m) => m.name === options.machine)
        ? servers
        : rotate(servers, random.int(servers.length)),
      identity: token,
      inbox: new Subjects(layout.cluster).inbox(token, instance),
      grants: grants(layout.cluster, identity),
      credentials: readFileSync(places.creds(token)),
      log: options.log.child({ identity: token }),
    },
    options.signal,
  )
  return { clock: new RealClock(), random, bus, disk: new RealDisk(places.machine(options.machine)), log: options.log }
}

const rotate = <T>(list: T[], by: number): T[] => [...list.slice(by), ...list.slice(0, by)]
