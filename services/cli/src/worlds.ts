import { readFileSync } from 'node:fs'
import type { Clock, Disk, Log, World } from '@capstan/actor'
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

/** How a component gets onto the bus. */
export interface BusAccess {
  cluster: string
  /** `host:port`, the preferred one first. */
  servers: string[]
  /** Contents of a creds file. */
  credentials: Uint8Array
  /** As `NatsBusOptions`. */
  ca?: string
  clientCertificate?: { cert: string; key: string }
}

/** A world of its own for one component: a bus connection under its own identity. Tried until `signal` is aborted. */
export async function busWorld(
  { cluster, ...access }: BusAccess,
  identity: Identity,
  options: { log: Log; disk: Disk; clock?: Clock; instance?: string; signal?: AbortSignal },
): Promise<BusWorld> {
  const token = identityToken(identity)
  const random = new RealRandom()
  const instance = options.instance ?? `${process.pid}-${Buffer.from(random.bytes(6)).toString('hex')}`
  const bus = await NatsBus.connect(
    {
      ...access,
      identity: token,
      inbox: new Subjects(cluster).inbox(token, instance),
      grants: grants(cluster, identity),
      log: options.log.child({ identity: token }),
    },
    options.signal,
  )
  return { clock: options.clock ?? new RealClock(), random, bus, disk: options.disk, log: options.log }
}

/** The real world of one component of a cluster of `capstan up`. */
export function realWorld(
  layout: ClusterLayout,
  places: Places,
  identity: Identity,
  options: { log: Log; machine: string; clock?: Clock; instance?: string; signal?: AbortSignal },
): Promise<BusWorld> {
  const servers = busServers(layout, options.machine)
  const access = {
    cluster: layout.cluster,
    // Nodes and tools spread over the servers; a master stays with its own.
    servers: layout.masters.some((m) => m.name === options.machine) ? servers : rotated(servers),
    credentials: readFileSync(places.creds(identityToken(identity))),
  }
  return busWorld(access, identity, { ...options, disk: new RealDisk(places.machine(options.machine)) })
}

/** Beginning anywhere: those who have no server of their own spread. */
export function rotated<T>(list: readonly T[]): T[] {
  const by = new RealRandom().int(list.length)
  return [...list.slice(by), ...list.slice(0, by)]
}
