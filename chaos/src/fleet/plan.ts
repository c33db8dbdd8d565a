import { createHash } from 'node:crypto'

/** What a machine of the fleet is to be. */
export interface MachineOptions {
  /** Its host name: lower-case letters, digits and `-`. */
  name: string
  /** Default `a`. */
  zone?: string
  /** An ext4 file system of this size holds its directory, and can be filled up. Default: it shares the host's disk. */
  diskBytes?: number
  /** Its monotonic and boot-time clocks run so far ahead of the host's. The kernel has one wall clock for all. */
  clockOffsetMs?: number
  /** Directories of the host that it sees elsewhere: `{ '/opt/capstan': '/home/me/capstan' }`. */
  mounts?: Readonly<Record<string, string>>
}

export interface FleetOptions {
  /** All that the fleet writes lies below: machines' directories, and the record by which it can be taken down. */
  directory: string
  machines: readonly MachineOptions[]
  /** One way, between machines of different zones; with `jitterMs` up to so much more, by chance. */
  zones?: { delayMs: number; jitterMs?: number }
  /** Directories before the rest of PATH in every machine. */
  path?: readonly string[]
}

/** Kept as `fleet.json`, written before the first thing is made: all that must be known to remove it. */
export interface FleetRecord {
  formatVersion: 1
  /** Tells the fleets of one host apart; names and addresses follow from it. */
  slot: number
  machines: MachineRecord[]
  zones?: { delayMs: number; jitterMs?: number }
  path: string[]
}

export interface MachineRecord {
  name: string
  zone: string
  address: string
  mac: string
  /** Its end of the wire, in the fleet's own namespace. */
  port: string
  diskBytes?: number
  clockOffsetMs?: number
  mounts?: Readonly<Record<string, string>>
}

/** Beside machines, who has an end on the wire: the host itself. */
export const HOST = 'host'
export const SLOTS = 32
const MACHINES_MAX = 200

/** Pure. @throws Error that says what is wrong with the wish. */
export function planFleet(options: FleetOptions, slot: number): FleetRecord {
  if (options.machines.length === 0) throw new Error('a fleet needs at least one machine')
  if (options.machines.length > MACHINES_MAX) throw new Error(`a fleet has at most ${MACHINES_MAX} machines`)
  const seen = new Set<string>()
  for (const { name, diskBytes } of options.machines) {
    if (!/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/.test(name))
      throw new Error(`"${name}" is no name for a machine: lower-case letters, digits and "-", at most 32`)
    if (name === HOST || name === 'wire')
      throw new Error(`"${name}" is taken: it means the ${name === HOST ? 'host itself' : 'wire'}`)
    if (seen.has(name)) throw new Error(`two machines are named ${name}`)
    seen.add(name)
    if (diskBytes !== undefined && diskBytes < 16 * 1024 * 1024) throw new Error(`${name}: a disk has at least 16 MiB`)
  }
  return {
    formatVersion: 1,
    slot,
    machines: options.machines.map((machine, i) => ({
      name: machine.name,
      zone: machine.zone ?? 'a',
      address: `10.90.${slot}.${11 + i}`,
      mac: macOf(slot, 11 + i),
      port: `m${i}`,
      ...(machine.diskBytes === undefined ? {} : { diskBytes: machine.diskBytes }),
      ...(machine.clockOffsetMs === undefined ? {} : { clockOffsetMs: machine.clockOffsetMs }),
      ...(machine.mounts === undefined ? {} : { mounts: machine.mounts }),
    })),
    ...(options.zones ? { zones: options.zones } : {}),
    path: [...(options.path ?? [])],
  }
}

/** Locally administered. */
export const macOf = (slot: number, last: number): string => ['02', 'cf', '00', hex(slot), '00', hex(last)].join(':')
const hex = (n: number) => n.toString(16).padStart(2, '0')

/** Names on the host; an interface's has at most 15 characters. */
export const namesOf = (slot: number) => ({
  hostLink: `capfleet${slot}`,
  hostAddress: `10.90.${slot}.1`,
  hostMac: macOf(slot, 1),
  range: `10.90.${slot}.0/24`,
  cgroup: `capfleet${slot}`,
})

/** One's own address and name for the fleet of a directory, where a path would be too long: `/run/capstan-fleet/0.sock`. */
export const keyOf = (directory: string): string => createHash('sha256').update(directory).digest('hex').slice(0, 12)

// ------------------------------------------------------------------------------------------------------------- shapes

/** From, to: one direction of one link. */
export type Link = readonly [from: string, to: string]

/** Both directions between each of `left` and each of `right`. */
export const between = (left: readonly string[], right: readonly string[]): Link[] =>
  left.flatMap((a) =>
    right
      .filter((b) => b !== a)
      .flatMap((b): Link[] => [
        [a, b],
        [b, a],
      ]),
  )

/** One machine hears and reaches none of the others. */
export const isolated = (name: string, all: readonly string[]): Link[] =>
  between(
    [name],
    all.filter((other) => other !== name),
  )

/** Two halves that do not see each other, but for `bridge`, which sees both. */
export const bridged = (bridge: string, left: readonly string[], right: readonly string[]): Link[] =>
  between(
    left.filter((name) => name !== bridge),
    right.filter((name) => name !== bridge),
  )

/** Each machine sees only its two neighbours. With three or fewer everybody is a neighbour: nothing is cut. */
export function ring(all: readonly string[]): Link[] {
  const links: Link[] = []
  for (let i = 0; i < all.length; i++)
    for (let j = 0; j < all.length; j++) {
      const apart = Math.abs(i - j)
      if (i !== j && apart !== 1 && apart !== all.length - 1) links.push([all[i] as string, all[j] as string])
    }
  return links
}
