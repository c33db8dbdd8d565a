/** What a machine keeps about itself and its cluster below its directory: `machine.json` and `masters.json`. */
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { isIPv4 } from 'node:net'
import { join } from 'node:path'
import { UserError } from '../console.js'
import type { IdentityTimes, Places, RecoveryTimes, RuntimeKind } from '../layout.js'
import { write } from '../pki.js'

export type Role = 'master' | 'node'

/** What all machines of a cluster agree on; decided by `master init`. */
export interface ClusterSettings {
  /** Its name on the bus. */
  cluster: string
  /** Tells clusters of one name apart. */
  clusterId: string
  /** The store's first member. Who takes part later stands in the store's log. */
  firstMaster: string
  podCidr: string
  serviceCidr: string
  /** `host:port` by which clients reach some API server: a load balancer's, or a DNS name's. */
  endpoint?: string
  /** Seconds of the default tolerations for not-ready and unreachable nodes. */
  tolerationSeconds: number
  /** Of StatefulSets' pods. */
  identity: IdentityTimes
  /** Missing (written by an earlier version): the defaults. */
  recovery?: RecoveryTimes
  /** Life of a certificate; it is renewed when a third of that is left. */
  certificateSeconds: number
}

export interface MasterPorts {
  apiPort: number
  /** Where the bus takes clients, and the other masters' servers. */
  busPort: number
  routePort: number
  etcdPort: number
  /** Where machines join and have their certificates renewed. */
  joinPort: number
}

export const MASTER_PORTS: MasterPorts = {
  apiPort: 6443,
  busPort: 4222,
  routePort: 6222,
  etcdPort: 2379,
  joinPort: 9443,
}

/** A master as the others know it. */
export interface MasterRecord extends MasterPorts {
  name: string
  address: string
}

interface Machine {
  formatVersion: 1
  name: string
  address: string
  settings: ClusterSettings
}
export interface MasterMachine extends Machine, MasterPorts {
  role: 'master'
  /** Did it make the cluster, or join it? */
  origin: 'init' | 'join'
}
export interface NodeMachine extends Machine {
  role: 'node'
  runtime: RuntimeKind
  /** Absolute cgroup path for pods (containerd). */
  cgroupParent: string
}
export type MachineFile = MasterMachine | NodeMachine

export const DATA_DIRECTORY = '/var/lib/capstan'

export const machinePath = (places: Places) => join(places.data, 'machine.json')
const mastersPath = (places: Places) => join(places.data, 'masters.json')

export function writeMachine(places: Places, machine: MachineFile): void {
  write(machinePath(places), `${JSON.stringify(machine, null, 2)}\n`)
}

/** Undefined: this directory holds no machine. @throws UserError for one that cannot be read. */
export function readMachine(places: Places): MachineFile | undefined {
  const path = machinePath(places)
  if (!existsSync(path)) return undefined
  const machine = parse<MachineFile>(path)
  if (machine.formatVersion !== 1)
    throw new UserError(`${path} has format ${String(machine.formatVersion)}; this version reads format 1`)
  return machine
}

/** @throws UserError */
export function existingMachine(places: Places): MachineFile {
  const machine = readMachine(places)
  if (!machine)
    throw new UserError(
      `${places.data} holds no machine: make one by capstan master init, capstan master join or capstan node join`,
    )
  return machine
}

/** @throws UserError */
export function existingMaster(places: Places): MasterMachine {
  const machine = existingMachine(places)
  if (machine.role !== 'master')
    throw new UserError(`${machine.name} is a node; this is done on a master: ${masterNames(places)}`)
  return machine
}

const masterNames = (places: Places) =>
  readMasters(places)
    .map(({ name, address }) => `${name} (${address})`)
    .join(', ')

/** All masters as this machine knows them, by name. */
export function readMasters(places: Places): MasterRecord[] {
  return existsSync(mastersPath(places)) ? parse<MasterRecord[]>(mastersPath(places)) : []
}

export function writeMasters(places: Places, masters: readonly MasterRecord[]): void {
  write(mastersPath(places), `${JSON.stringify(masters, null, 2)}\n`)
}

function parse<T>(path: string): T {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as T
  } catch (error) {
    throw new UserError(`${path} is damaged: ${(error as Error).message}`)
  }
}

export const masterRecord = (machine: MasterMachine): MasterRecord => {
  const { name, address, apiPort, busPort, routePort, etcdPort, joinPort } = machine
  return { name, address, apiPort, busPort, routePort, etcdPort, joinPort }
}

/** A master whose store is made anew makes another cluster, of which it is the first. Answers its id. */
export function beginAnew(places: Places, machine: MasterMachine): string {
  const clusterId = randomBytes(8).toString('hex')
  const settings = { ...machine.settings, clusterId, firstMaster: machine.name }
  writeMachine(places, { ...machine, origin: 'init', settings })
  writeMasters(places, [masterRecord(machine)])
  return clusterId
}

/** The machine's own server first. */
export function busServersOf(masters: readonly MasterRecord[], own?: string): string[] {
  return [...masters]
    .sort((a, b) => Number(b.name === own) - Number(a.name === own))
    .map(({ address, busPort }) => `${address}:${busPort}`)
}

/** Files that only a master or node of hosts of their own has. */
export const machineFiles = (places: Places) => ({
  pair: (name: string) => ({ cert: join(places.pki, `${name}.crt`), key: join(places.pki, `${name}.key`) }),
  ca: join(places.pki, 'ca.crt'),
  busCa: join(places.pki, 'bus-ca.crt'),
  machineCa: join(places.pki, 'machine-ca.crt'),
})

/** Why a name cannot be a machine's; undefined: it can. As Kubernetes' names of nodes (RFC 1123). */
export function nameFault(name: string): string | undefined {
  const label = '[a-z0-9]([-a-z0-9]*[a-z0-9])?'
  if (name.length <= 200 && new RegExp(`^${label}(\\.${label})*$`).test(name)) return undefined
  return `"${name}" can't be a machine's name: small letters, digits, hyphens and dots, at most 200 (--name)`
}

export function addressFault(address: string): string | undefined {
  return isIPv4(address) ? undefined : `"${address}" is no IPv4 address`
}

export function portFault(port: unknown): string | undefined {
  return Number.isInteger(port) && (port as number) > 0 && (port as number) < 65_536
    ? undefined
    : `${String(port)} is no port`
}
