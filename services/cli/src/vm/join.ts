/** `capstan master join` and `capstan node join`: this machine becomes part of a cluster that runs. */
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { BusApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import { makeCertificateRequest } from '@capstan/certs'
import { MemoryDisk, silentLog } from '@capstan/real'
import { Progress, UserError } from '../console.js'
import { provideImages } from '../images.js'
import { Places, type RuntimeKind } from '../layout.js'
import { provideHost } from '../packages.js'
import { write, writePair } from '../pki.js'
import { liveProcess } from '../process-file.js'
import { isRoot } from '../shell.js'
import { busWorld } from '../worlds.js'
import { asAdmin } from './admin-access.js'
import { writeAuthorities } from './authorities.js'
import { renewMaster } from './certificates.js'
import { type BusKeys, makeBusKeys, writeBusCredentials } from './identities.js'
import { awaitApi, checkPorts, portsOf, provideBus } from './init.js'
import { askDoor, DoorRefused, parseDoorAddress, recogniseCluster } from './join-client.js'
import type { JoinAnswer, JoinRequest } from './join-messages.js'
import { busAccess } from './machine-bus.js'
import {
  addressFault,
  type MachineFile,
  machineFiles,
  MASTER_PORTS,
  type MasterMachine,
  type MasterPorts,
  nameFault,
  type NodeMachine,
  readMachine,
  type Role,
  writeMachine,
  writeMasters,
} from './machine-file.js'
import { awaitMachine, startMachine } from './machine-process.js'
import { MastersList } from './masters-list.js'

const ATTEMPTS_MAX = 5
const ATTEMPT_PAUSE_MS = 2000

export interface JoinOptions {
  token: string
  caCertHash: string
  address: string
  name: string
  data: string
  start: boolean
}

export async function joinMaster(door: string, options: JoinOptions & MasterPorts): Promise<void> {
  const progress = new Progress()
  const places = new Places(options.data)
  check('master', places, options)
  await provideBus(progress)
  await checkPorts(options.address, options)
  const ports = portsOf(options)
  const answer = await enter('master', door, places, options, ports)
  const { authorities } = answer
  if (!authorities) throw new UserError(`${door} gave no authorities: is it of another version?`)
  writeAuthorities(places, authorities)
  const { name, address } = options
  const machine: MasterMachine = {
    formatVersion: 1,
    role: 'master',
    origin: 'join',
    name,
    address,
    ...ports,
    settings: answer.settings,
  }
  await renewMaster(places, machine, authorities)
  writeMachine(places, machine)
  progress.step(`joined ${answer.settings.cluster} as master ${name}, beside ${othersOf(answer, name)}`)
  if (!options.start) return void progress.done(`start it by: capstan serve --data ${options.data}`)
  await startMachine(places, machine)
  await awaitApi(places, machine)
  await asAdmin(options.data, ({ members }) =>
    awaitMachine(
      places,
      machine,
      async () => isVoter(await members.list().catch(() => []), name),
      'its vote in the store',
    ),
  )
  progress.done(`${name} serves and votes: kubectl --kubeconfig ${places.kubeconfig} get nodes`)
}

const isVoter = (members: { name: string; learner: boolean }[], name: string) =>
  members.some((member) => member.name === name && !member.learner)

export async function joinNode(
  door: string,
  options: JoinOptions & { runtime: 'auto' | RuntimeKind; cgroupParent?: string },
): Promise<void> {
  const progress = new Progress()
  const places = new Places(options.data)
  check('node', places, options)
  const runtime = await chooseRuntime(options.runtime, progress)
  const answer = await enter('node', door, places, options)
  const { name, address } = options
  const machine: NodeMachine = {
    formatVersion: 1,
    role: 'node',
    name,
    address,
    settings: answer.settings,
    runtime,
    cgroupParent: options.cgroupParent ?? ownCgroupParent(name),
  }
  if (runtime === 'containerd') await provideImages(places, (text) => progress.step(text))
  writeMachine(places, machine)
  progress.step(`joined ${answer.settings.cluster} as node ${name}; masters: ${othersOf(answer, name)}`)
  if (!options.start) return void progress.done(`start it by: capstan serve --data ${options.data}`)
  await startMachine(places, machine)
  await awaitNode(places, machine)
  progress.done(`${name} is Ready`)
}

async function enter(
  role: Role,
  door: string,
  places: Places,
  options: JoinOptions,
  ports?: MasterPorts,
): Promise<JoinAnswer> {
  const { name, address, token } = options
  const at = parseDoorAddress(door, MASTER_PORTS.joinPort)
  const ca = await recogniseCluster(at, options.caCertHash)
  mkdirSync(places.data, { recursive: true, mode: 0o700 })
  const keys = ownBusKeys(places, role, name)
  const { request, key } = await makeCertificateRequest()
  const asked: JoinRequest = {
    token,
    role,
    name,
    address,
    request,
    busKeys: keys.publicKeys,
    ...(ports ? { ports } : {}),
  }
  const answer = await persistent(() => askDoor<JoinAnswer>(at, '/v1/join', asked, { ca }))
  const earlier = readMachine(places)
  if (earlier && earlier.settings.clusterId !== answer.settings.clusterId)
    throw new UserError(`${places.data} holds a machine of another cluster: capstan leave clears it`)
  const files = machineFiles(places)
  write(files.ca, ca)
  write(files.busCa, answer.busCa)
  writePair(places, 'machine', { cert: answer.certificate, key })
  writeBusCredentials(places, keys, answer.busJwts)
  writeMasters(places, answer.masters)
  return answer
}

/** While the store elects, or other machines join, a door has no answer: the same question may be put again. */
async function persistent(ask: () => Promise<JoinAnswer>): Promise<JoinAnswer> {
  for (let attempt = 1; ; attempt++)
    try {
      return await ask()
    } catch (error) {
      if (!(error instanceof DoorRefused && error.status === 503) || attempt === ATTEMPTS_MAX) throw error
      await new Promise((resolve) => setTimeout(resolve, ATTEMPT_PAUSE_MS))
    }
}

/** Made once: whoever repeats a join whose answer was lost is the same machine. */
function ownBusKeys(places: Places, role: Role, name: string): BusKeys {
  const file = join(places.pki, `bus-keys-${role}-${name}.json`)
  if (existsSync(file)) return JSON.parse(readFileSync(file, 'utf8')) as BusKeys
  const keys = makeBusKeys(role, name)
  write(file, JSON.stringify(keys))
  return keys
}

function check(role: Role, places: Places, { name, address, data }: JoinOptions): void {
  const fault = nameFault(name) ?? addressFault(address)
  if (fault !== undefined) throw new UserError(fault)
  const earlier = readMachine(places)
  if (!earlier) return
  if (earlier.role !== role || earlier.name !== name)
    throw new UserError(`${data} holds the ${earlier.role} ${earlier.name}: capstan leave clears it`)
  if (liveProcess(places.pidFile(name)) !== undefined)
    throw new UserError(`${name} runs already in ${data}; to join again: capstan stop --data ${data} first`)
}

const othersOf = ({ masters }: JoinAnswer, name: string) =>
  masters
    .filter((master) => master.name !== name)
    .map((master) => master.name)
    .join(', ')

async function chooseRuntime(wanted: 'auto' | RuntimeKind, progress: Progress): Promise<RuntimeKind> {
  if (wanted === 'hollow' || wanted === 'process') return wanted
  const host = await provideHost({ bus: false, containers: true }, (text) => progress.step(text))
  if (host.containers) return 'containerd'
  if (wanted === 'containerd') throw new UserError(`--runtime containerd: ${host.lacks.join('; ')}`)
  for (const lack of host.lacks) progress.warn(lack)
  progress.warn('containers run as child processes of this machine (--runtime process)')
  return 'process'
}

/** Pods belong to the node, not to the unit or session that started its kubelet. */
function ownCgroupParent(name: string): string {
  const own = isRoot() ? readFileSync('/proc/self/cgroup', 'utf8') : ''
  const path = /^\d+:(?:pids|name=systemd)?:(\/.*)$/m.exec(own)?.[1] ?? '/'
  return /^\/($|system\.slice|user\.slice|init\.scope)/.test(path) ? `/capstan/${name}/pods` : `${path}/pods`
}

interface Node extends KubeObject {
  status?: { conditions?: { type: string; status: string }[] }
}

/** As its kubelet may see it in the API. */
async function awaitNode(places: Places, machine: NodeMachine): Promise<void> {
  const { name, settings } = machine
  const identity = { component: 'kubelet', name } as const
  const world = await busWorld(
    busAccess(places, machine as MachineFile, new MastersList(places), 'kubelet'),
    identity,
    {
      log: silentLog,
      disk: new MemoryDisk(),
      signal: AbortSignal.timeout(30_000),
    },
  ).catch((error: unknown) => {
    throw new UserError(`no master's bus server takes this node: ${String((error as Error).cause ?? error)}`)
  })
  const client = new BusApiClient(world, { cluster: settings.cluster, machine: name })
  const isReady = async () => {
    const node = await client.get<Node>(RESOURCES.nodes, { name }, { timeoutMs: 2000 }).catch(() => undefined)
    return node?.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false
  }
  try {
    await awaitMachine(places, machine, isReady, 'its Ready condition')
  } finally {
    client.close()
    await world.bus.close()
  }
}
