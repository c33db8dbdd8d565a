/** `capstan master init`: a new cluster with one master. */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { createServer, isIPv4 } from 'node:net'
import { AdminClient } from '../admin-client.js'
import { Progress, UserError } from '../console.js'
import { Places } from '../layout.js'
import { provideHost } from '../packages.js'
import { makeAuthorities, writeAuthorities } from './authorities.js'
import { renewMaster } from './certificates.js'
import { makeBusKeys, signBusUsers, writeBusCredentials } from './identities.js'
import { joinCommand } from './join-command.js'
import {
  addressFault,
  machinePath,
  type MasterMachine,
  type MasterPorts,
  masterRecord,
  nameFault,
  readMachine,
  type Role,
  writeMachine,
  writeMasters,
} from './machine-file.js'
import type { RecoverySettings } from '../recovery-flags.js'
import { awaitMachine, startMachine } from './machine-process.js'

export interface InitOptions extends MasterPorts, RecoverySettings {
  address: string
  name: string
  data: string
  podCidr: string
  serviceCidr: string
  endpoint?: string
  certificateSeconds: number
  start: boolean
}

const CLUSTER = 'capstan'
const TOKEN_TTL_MS = 24 * 3_600_000

/** Answers with the commands by which others join; none without `start`: there is nobody yet to keep their tokens. */
export async function initMaster(options: InitOptions): Promise<{ role: Role; command: string }[]> {
  const progress = new Progress()
  const places = new Places(options.data)
  check(options, places)
  await provideBus(progress)
  await checkPorts(options.address, options)

  const { name, address } = options
  const machine: MasterMachine = {
    formatVersion: 1,
    role: 'master',
    origin: 'init',
    name,
    address,
    ...portsOf(options),
    settings: {
      cluster: CLUSTER,
      clusterId: randomBytes(8).toString('hex'),
      firstMaster: name,
      podCidr: options.podCidr,
      serviceCidr: options.serviceCidr,
      ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
      tolerationSeconds: options.tolerationSeconds,
      identity: options.identity,
      recovery: options.recovery,
      certificateSeconds: options.certificateSeconds,
    },
  }
  mkdirSync(places.data, { recursive: true, mode: 0o700 })
  const authorities = await makeAuthorities(Date.now())
  const keys = makeBusKeys('master', name)
  authorities.bus.users = keys.publicKeys
  writeBusCredentials(places, keys, await signBusUsers(authorities.bus, CLUSTER, machine, keys.publicKeys))
  writeAuthorities(places, authorities)
  await renewMaster(places, machine, authorities)
  writeMasters(places, [masterRecord(machine)])
  writeFileSync(places.newCluster, '')
  // Last: with it the directory is a machine's.
  writeMachine(places, machine)
  progress.step(`${options.data} holds the new cluster's keys; whoever reads its pki/ directory owns the cluster`)
  if (!options.start) {
    progress.done(`${name} is made; start it by: capstan serve --data ${options.data}; then: capstan token create`)
    return []
  }
  await startMachine(places, machine)
  await awaitApi(places, machine)
  progress.done(`${name} serves: kubectl --kubeconfig ${places.kubeconfig} get nodes`)
  const commands: { role: Role; command: string }[] = []
  for (const role of ['master', 'node'] as const)
    commands.push({ role, command: await joinCommand(options.data, { role, ttlMs: TOKEN_TTL_MS }) })
  return commands
}

/** Its API server is well, and the cluster knows of it. */
export async function awaitApi(places: Places, machine: MasterMachine): Promise<void> {
  const admin = new AdminClient(places)
  const isReady = async () =>
    !existsSync(places.newCluster) &&
    (await admin.request({ host: machine.address, port: machine.apiPort, path: '/readyz' }, 1000))?.status === 200
  await awaitMachine(places, machine, isReady, 'its API server').finally(() => admin.close())
}

export async function provideBus(progress: Progress): Promise<void> {
  const host = await provideHost({ bus: true, containers: false }, (text) => progress.step(text))
  if (!host.bus) throw new UserError(host.lacks.join('; '))
}

export const portsOf = ({ apiPort, busPort, routePort, etcdPort, joinPort }: MasterPorts): MasterPorts => ({
  apiPort,
  busPort,
  routePort,
  etcdPort,
  joinPort,
})

/** Every port can be had on this machine's address. @throws UserError */
export async function checkPorts(address: string, ports: MasterPorts): Promise<void> {
  for (const port of Object.values(portsOf(ports))) {
    const problem = await new Promise<string | undefined>((resolve) => {
      const probe = createServer()
      probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code))
      probe.listen(port, address, () => probe.close(() => resolve(undefined)))
    })
    if (problem === 'EADDRNOTAVAIL')
      throw new UserError(`--address ${address}: this machine has no such address (ip address shows those it has)`)
    if (problem !== undefined) throw new UserError(`port ${port} on ${address} cannot be had (${problem})`)
  }
}

function check(options: InitOptions, places: Places): void {
  const fault = nameFault(options.name) ?? addressFault(options.address)
  if (fault !== undefined) throw new UserError(fault)
  if (readMachine(places))
    throw new UserError(`${machinePath(places)} is there already: capstan serve starts it, capstan leave clears it`)
  for (const cidr of [options.podCidr, options.serviceCidr]) {
    const [network = '', bits = ''] = cidr.split('/')
    if (!isIPv4(network) || !/^\d\d?$/.test(bits) || Number(bits) < 8 || Number(bits) > 24)
      throw new UserError(`"${cidr}" is no IPv4 network of /8 to /24`)
  }
}
