/** Capstan on a fleet: machines with network, processes and disks of their own, joined as VMs are. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setPriority } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { UserError } from '@capstan/cli'
import { Places, provideHost, provideImages } from '@capstan/cli/host'
import { FileGuard } from '@capstan/kubelet/edge'
import type { StoreStatusReply } from '@capstan/protocol'
import { RealClock } from '@capstan/real'
import { parse } from 'yaml'
import { Fleet, type FleetMachine, INSTALLED, withCapstan } from '../../fleet/index.js'
import { EtcdStorePort } from '../../workloads/edge/etcd-store-port.js'
import type { Access, ClusterLook, Component, Done, FinalState, Levers, Machine, Target } from '../types.js'
import { ApiLevers } from './api-levers-edge.js'
import { expireCertificate } from './certificate-edge.js'
import { chaosLevers, type ChaosSite, storeDowntime } from './chaos-levers-edge.js'
import { gatherFinalState } from './final-state-edge.js'
import {
  awaitThat,
  groupMembers,
  killProcesses,
  liveContainersOf,
  processState,
  residentBytes,
  send,
  stopProcesses,
} from './host-edge.js'
import { SLOW_CONSUMER_PROGRAM, slowConsumer } from './slow-consumer-edge.js'
import { Upgrades } from './upgrade-edge.js'

const BACK_MS = 45_000
const COMMAND_MS = 120_000
const HARNESS_NICE = -10
const AUTOGROUP = '/proc/self/autogroup'
const READY_MS = 120_000
const LOOK_MS = 800
/** Twice as long as a guard says nothing new. */
const GUARD_STALE_MS = 1000
const PROJECT = resolve(import.meta.dirname, '../../../..')
/** In every machine. */
const DATA = '/var/lib/capstan'

export interface FleetTargetOptions {
  directory: string
  masters: number
  nodes: number
  zones: number
  delayMs: number
  runtime: 'auto' | 'containerd' | 'process' | 'hollow'
  bugs?: string[]
  say(text: string): void
}

/** As wanted, with a runtime that this host has. */
type Plan = FleetTargetOptions & { runtime: Exclude<FleetTargetOptions['runtime'], 'auto'> }

/** Builds the fleet, makes a cluster on it by the commands that people use, and waits until it is ready. */
export async function fleetTarget(wanted: FleetTargetOptions): Promise<Target> {
  const { directory, say } = wanted
  const options: Plan = { ...wanted, runtime: await chooseRuntime(wanted) }
  goFirst()
  await Fleet.clear(directory)
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory, { recursive: true })
  const zone = (at: number) => String.fromCharCode('a'.charCodeAt(0) + (at % options.zones))
  const named = (role: string, count: number) =>
    Array.from({ length: count }, (_, at) => ({ name: `${role}-${at}`, zone: zone(at) }))
  const wish = {
    directory,
    machines: [...named('master', options.masters), ...named('node', options.nodes)],
    ...(options.delayMs > 0 && options.zones > 1 ? { zones: { delayMs: options.delayMs } } : {}),
  }
  const fleet = await Fleet.create(withCapstan(wish, PROJECT))
  try {
    for (const machine of fleet.machines) {
      mkdirSync(join(machine.directory, 'capstan'), { recursive: true })
      writeFileSync(
        join(machine.directory, 'capstan/chaos.json'),
        JSON.stringify(options.bugs === undefined ? {} : { bugs: options.bugs }),
      )
    }
    if (options.runtime === 'containerd')
      for (const { directory: own } of fleet.machines.filter(isNode))
        await provideImages(new Places(join(own, 'capstan')), say)
    await joinAll(fleet, options)
    const target = new FleetTarget(fleet, options)
    await target.awaitReady(say)
    return target
  } catch (error) {
    await fleet.down()
    throw error
  }
}

/** Beside all that the fleet does who looks must not wait its turn: a look at the process table that comes late says nothing (C3). */
function goFirst(): void {
  try {
    // All threads: those that collect garbage hold the main one up.
    for (const thread of readdirSync('/proc/self/task')) setPriority(Number(thread), HARNESS_NICE)
    // Within a session only: the sessions of a host share its processors evenly (sched(7), the autogroup feature).
    if (existsSync(AUTOGROUP)) writeFileSync(AUTOGROUP, String(HARNESS_NICE))
  } catch {
    // Only root may, and a fleet needs root anyway; in a container it may be forbidden.
  }
}

/** Ends and removes what a run in this directory left, also after a crash of the harness. */
export async function clearFleet(directory: string): Promise<void> {
  await Fleet.clear(directory)
}

/** Machines of a fleet have no way to Debian: programs and images come from this host. */
async function chooseRuntime({ runtime, say }: FleetTargetOptions): Promise<Plan['runtime']> {
  const host = await provideHost({ bus: true, containers: ['auto', 'containerd'].includes(runtime) }, say)
  if (!host.bus || (runtime === 'containerd' && !host.containers)) throw new UserError(host.lacks.join('; '))
  if (runtime !== 'auto') return runtime
  for (const lack of host.containers ? [] : host.lacks) say(lack)
  return host.containers ? 'containerd' : 'process'
}

async function joinAll(fleet: Fleet, { runtime, say }: Plan): Promise<void> {
  const masters = fleet.machines.filter((machine) => !isNode(machine))
  const nodes = fleet.machines.filter(isNode)
  const [first, ...others] = masters as [FleetMachine, ...FleetMachine[]]
  say(`${first.name}: capstan master init`)
  await must(first, ['capstan', 'master', 'init', '--address', first.address])
  for (const master of others) {
    say(`${master.name}: capstan master join`)
    await joinMachine(first, master, 'master', [])
  }
  say(`${nodes.map(({ name }) => name).join(', ')}: capstan node join`)
  // Two at a time: this host has few processors.
  for (let at = 0; at < nodes.length; at += 2)
    await Promise.all(nodes.slice(at, at + 2).map((node) => joinMachine(first, node, 'node', ['--runtime', runtime])))
}

/** The line that `token create` prints, on the other machine. */
async function joinMachine(
  by: FleetMachine,
  machine: FleetMachine,
  role: 'master' | 'node',
  more: string[],
  env: Readonly<Record<string, string>> = {},
): Promise<void> {
  const line = (await must(by, ['capstan', 'token', 'create', '--role', role])).trim().split('\n').at(-1) as string
  const words = line.replace('ADDRESS-OF-THE-NEW-MACHINE', machine.address).split(/\s+/)
  await must(machine, [...words, ...more], env)
}

async function must(
  machine: FleetMachine,
  command: string[],
  env: Readonly<Record<string, string>> = {},
): Promise<string> {
  const ran = await machine.run(command, { timeoutMs: COMMAND_MS, env })
  if (ran.code !== 0)
    throw new Error(
      `${machine.name}: ${command.slice(0, 3).join(' ')} ended with ${ran.code}: ${ran.stderr.trim().slice(-800)}`,
    )
  return ran.stdout
}

class FleetTarget implements Target {
  readonly kind = 'fleet'
  readonly description: string
  readonly machines: readonly Machine[]
  readonly access: Access
  readonly levers: Levers
  readonly lacks: Target['lacks']
  private readonly startMs = performance.now()
  private readonly api: ApiLevers
  private readonly stores = new Map<string, EtcdStorePort>()
  /** How often each machine was switched off. */
  private readonly powerCuts = new Map<string, number>()
  private readonly upgrades = new Upgrades({
    masters: () => this.masters(),
    stop: (machine) => this.stop(machine),
    start: (machine) => this.start(machine),
    statuses: (asked) => this.storeStatuses(asked),
  })

  constructor(
    private readonly fleet: Fleet,
    private readonly options: Plan,
  ) {
    this.machines = fleet.machines.map(({ name, zone, address }) => ({
      name,
      role: name.startsWith('master-') ? ('master' as const) : ('node' as const),
      zone,
      address,
    }))
    const zones = new Set(this.machines.map(({ zone }) => zone)).size
    this.description = `a fleet: ${options.masters} masters and ${options.nodes} nodes in ${zones} zones, ${options.delayMs} ms apart, joined as VMs are (${options.runtime} runtime)`
    this.access = this.makeAccess()
    this.api = new ApiLevers(this.access)
    const { network } = fleet
    const processes: Levers['processes'] = {
      kill: (machine, component) => this.kill(machine, component),
      pause: (machine, component) => this.pause(machine, component),
      restart: (machine, component) => this.restart(machine, component),
      burnCpu: (machine, threads) => fleet.machine(machine).burnCpu(threads),
      squeezeMemory: (machine, bytes) => fleet.machine(machine).squeezeMemory(bytes),
    }
    this.levers = {
      processes,
      network: {
        cut: (from, to) => network.cut(from, to),
        loss: (from, to, share) => network.loss(from, to, share),
        delay: (from, to, ms) => network.delay(from, to, ms),
        duplicate: (from, to, share) => network.duplicate(from, to, share),
        reorder: (from, to, share) => network.reorder(from, to, share),
        corrupt: (from, to, share) => network.corrupt(from, to, share),
        bandwidth: (from, to, bytes) => network.bandwidth(from, to, bytes),
      },
      ...chaosLevers(this.chaosSite()),
      api: this.api,
      members: {
        replaceMaster: (machine) => this.replaceMaster(machine),
        upgrade: (machine) => this.upgrades.upgrade(machine),
      },
      certificates: { expire: (node) => this.expireCertificate(node) },
      bus: {
        slowConsumer: () =>
          slowConsumer({
            logs: this.masters().map((name) => new Places(this.dataOf(name)).log(`${name}-nats`)),
            start: (name) => this.startSlowConsumer(name),
          }),
      },
      ...(options.runtime === 'hollow'
        ? {}
        : { containers: { kill: (node, count) => this.killContainers(node, count) } }),
    }
    this.lacks = {
      'bus.cutRoutes': 'a route of the bus is a link between two machines: `partial` cuts it, with all else on it',
      'containers.unpullable': 'images come from archives that every node has',
      ...(options.runtime === 'hollow' ? { containers: 'hollow pods have no processes' } : {}),
    }
  }

  async awaitReady(say: (text: string) => void): Promise<void> {
    let told = ''
    await awaitThat(
      'all masters vote and all nodes are Ready',
      async () => {
        const look = await this.look()
        const text = `${look.masters.filter((master) => master.up).length} masters up, ${look.nodes.filter((node) => node.ready).length} of ${look.nodes.length} nodes Ready`
        if (text !== told) say(text)
        told = text
        const ready = look.masters.every((master) => master.up) && look.nodes.every((node) => node.ready)
        if (!ready) await new Promise((resolve) => setTimeout(resolve, 300))
        return ready
      },
      READY_MS,
    )
  }

  async look(): Promise<ClusterLook> {
    const masters = this.machines.filter(({ role }) => role === 'master')
    const nodes = this.machines.filter(({ role }) => role === 'node')
    const [statuses, ready, controllers] = await Promise.all([
      Promise.all(masters.map(({ name }) => this.statusOf(name))),
      this.api.readyNodes(LOOK_MS),
      this.api.controllers(LOOK_MS),
    ])
    const terms = statuses.flatMap((status) => (status ? [status.term] : []))
    const leader = masters
      .map(({ name }, at) => ({ name, status: statuses[at] }))
      .filter(({ status }) => status?.isLeader)
      .sort((a, b) => (b.status?.term ?? 0) - (a.status?.term ?? 0))[0]
    return {
      ...(leader ? { leader: leader.name } : {}),
      ...(terms.length > 0 ? { term: Math.max(...terms) } : {}),
      ...(controllers === undefined ? {} : { controllers }),
      masters: masters.map(({ name }, at) => {
        const status = statuses[at]
        if (!status) return { name, up: false, role: 'down' as const }
        const role = leader?.name === name ? ('leader' as const) : ('follower' as const)
        return { name, up: true, role, commitIndex: status.appliedIndex }
      }),
      nodes: nodes.map(({ name }) => ({ name, ready: ready?.has(name) ?? false })),
      memory: this.memory(),
    }
  }

  finalState(options: { fromRevision: number }): Promise<FinalState> {
    return gatherFinalState(this.access, options)
  }

  async clear(): Promise<string[]> {
    for (const port of this.stores.values()) port.close()
    this.stores.clear()
    this.api.close()
    try {
      await this.fleet.down()
      return []
    } catch (error) {
      return [(error as Error).message]
    }
  }

  // ------------------------------------------------------------------------------------------------------ processes

  private dataOf(machine: string): string {
    return join(this.fleet.machine(machine).directory, 'capstan')
  }

  /** The host's number of a process that the machine has recorded. */
  private recorded(machine: string, process: string): number[] {
    try {
      const { pid } = JSON.parse(readFileSync(join(this.dataOf(machine), 'run', `${process}.json`), 'utf8')) as {
        pid: number
      }
      const found = this.fleet.machine(machine).hostPid(pid)
      return found === undefined ? [] : [found]
    } catch {
      return []
    }
  }

  private pidsOf(machine: string, component: Component): number[] {
    const [own] = this.recorded(machine, machine)
    switch (component) {
      case 'store':
        return this.recorded(machine, `${machine}-store`)
      case 'bus':
        return this.recorded(machine, `${machine}-nats`)
      case 'guard':
        return this.recorded(machine, `${machine}-guard`)
      case 'control':
      case 'kubelet':
        return own === undefined ? [] : [own]
      case 'group':
        return own === undefined ? [] : groupMembers(processState(own)?.group ?? -1)
      case 'containerd':
        return this.fleet
          .machine(machine)
          .pids()
          .filter((pid) => commandOf(pid).endsWith('/containerd'))
      case 'machine':
        return this.fleet.machine(machine).pids()
      case 'gateway':
        return []
    }
  }

  private async kill(machine: string, component: Component): Promise<Done> {
    const name = label(machine, component)
    const pids = this.pidsOf(machine, component)
    if (pids.length === 0) throw new Error(`${name} does not run`)
    if (component === 'machine') {
      this.powerCuts.set(machine, this.powerCutsOf(machine) + 1)
      // As when the power goes: mounts, links and rules are gone too; what was written stays.
      const proof = await this.fleet.machine(machine).powerCycle()
      return { proof, undo: () => this.start(machine) }
    }
    const proof = await killProcesses(name, pids)
    return { proof, undo: () => this.back(machine, component, pids) }
  }

  private async pause(machine: string, component: Component): Promise<Done> {
    if (component !== 'machine') return stopProcesses(label(machine, component), this.pidsOf(machine, component))
    const one = this.fleet.machine(machine)
    const paused = await one.pause()
    return {
      proof: paused.proof,
      undo: () => {
        // The guard first: it ends what may live elsewhere by now, before that goes on.
        const guard = this.pidsOf(machine, 'guard')
        if (guard.length === 0) return one.resume()
        // What it may still say of a look before the pause is not much younger than what it said last.
        const sinceMs = guardAtMs(this.dataOf(machine), machine) + GUARD_STALE_MS
        return one.resume({ first: guard, ready: () => guardAtMs(this.dataOf(machine), machine) > sinceMs })
      },
    }
  }

  private async restart(machine: string, component: Component): Promise<Done> {
    const name = label(machine, component)
    const pids = this.pidsOf(machine, component)
    if (pids.length === 0) throw new Error(`${name} does not run`)
    if (component === 'store' || component === 'bus') for (const pid of pids) send(pid, 'SIGTERM')
    else await this.stop(machine)
    const started =
      component === 'store' || component === 'bus'
        ? await this.back(machine, component, pids)
        : await this.start(machine)
    return { proof: `${name}: ended by SIGTERM; ${started}`, undo: async () => started }
  }

  private async stop(machine: string): Promise<void> {
    await must(this.fleet.machine(machine), ['capstan', 'stop', '--data', DATA])
  }

  /** All that the store's members say of themselves, which etcd has no words for. Nobody answers there: none. */
  private async storeStatuses(asked: string): Promise<ReadonlyMap<string, StoreStatusReply>> {
    const command = ['capstan', 'store', 'status', '-o', 'json', '--data', DATA]
    const { code, stdout } = await this.fleet.machine(asked).run(command, { timeoutMs: COMMAND_MS })
    const all = code === 0 ? (JSON.parse(stdout) as { name: string; status?: StoreStatusReply }[]) : []
    return new Map(all.flatMap(({ name, status }) => (status ? [[name, status] as const] : [])))
  }

  /** Its machine starts it again; a machine whose supervisor is dead is started by us. */
  private async back(machine: string, component: Component, before: readonly number[]): Promise<string> {
    if (component === 'group') return this.start(machine)
    let now: number[] = []
    await awaitThat(
      `${label(machine, component)} is started again`,
      async () => {
        now = this.pidsOf(machine, component).filter((pid) => !before.includes(pid))
        if (now.length === 0) await new Promise((resolve) => setTimeout(resolve, 200))
        return now.length > 0
      },
      BACK_MS,
    )
    return `${label(machine, component)}: process ${now.join(', ')}`
  }

  private powerCutsOf(machine: string): number {
    return this.powerCuts.get(machine) ?? 0
  }

  /**
   * Resolves when a master's store answers, or a node's process lives. Should another fault switch the machine off meanwhile,
   * it is that one's to start it.
   */
  private async start(machine: string): Promise<string> {
    const before = this.powerCutsOf(machine)
    const isOffAgain = () => this.powerCutsOf(machine) > before
    const isMaster = this.isMaster(machine)
    try {
      const command = ['capstan', 'serve', '--detach', '--data', DATA]
      await must(this.fleet.machine(machine), command, this.upgrades.environmentOf(machine))
      await awaitThat(
        `${machine} is there again`,
        async () => {
          if (isOffAgain()) throw new Error(`${machine} was switched off`)
          const there = isMaster
            ? (await this.statusOf(machine)) !== undefined
            : this.pidsOf(machine, 'kubelet').length > 0
          if (!there) await new Promise((resolve) => setTimeout(resolve, 200))
          return there
        },
        BACK_MS,
      )
    } catch (error) {
      if (isOffAgain()) return `${machine}: switched off by another fault while it started`
      throw error
    }
    return `${machine}: started, ${this.fleet.machine(machine).pids().length} processes`
  }

  private masters(): string[] {
    return this.machines.flatMap(({ name, role }) => (role === 'master' ? [name] : []))
  }

  /** On the first master, as its administrator. */
  private async startSlowConsumer(name: string): Promise<{ pid: number; log: string }> {
    const log = join(this.options.directory, `${name}.log`)
    const program = join(INSTALLED, relative(PROJECT, SLOW_CONSUMER_PROGRAM))
    const [master] = this.masters() as [string]
    const pid = await this.fleet.machine(master).spawn(['node', program, DATA, name], { log })
    return { pid, log }
  }

  private memory(): Record<string, number> {
    const memory: Record<string, number> = {}
    for (const { name } of this.machines)
      for (const process of [name, `${name}-store`, `${name}-nats`]) {
        const [pid] = this.recorded(name, process)
        const bytes = pid === undefined ? undefined : residentBytes(pid)
        if (bytes !== undefined) memory[process] = bytes
      }
    return memory
  }

  /** Its disk is lost; another master removes it; it joins as a new one of the same name. */
  private async replaceMaster(machine: string): Promise<Done> {
    const one = this.fleet.machine(machine)
    const other = this.fleet.machines.find(({ name }) => name !== machine && this.isMaster(name)) as FleetMachine
    await one.powerCycle()
    for (const name of readdirSync(this.dataOf(machine)))
      if (name !== 'chaos.json') rmSync(join(this.dataOf(machine), name), { recursive: true, force: true })
    await must(other, ['capstan', 'master', 'remove', machine, '--data', DATA])
    await joinMachine(other, one, 'master', [], this.upgrades.environmentOf(machine))
    this.stores.get(machine)?.close()
    this.stores.delete(machine)
    const proof = `${machine} lost its disk, was removed, joined anew and votes`
    return { proof, undo: async () => proof }
  }

  /** Undone as its operator would: stopped, and joined again with a new token. */
  private async expireCertificate(node: string): Promise<Done> {
    const masters = this.fleet.machines.filter(({ name }) => this.isMaster(name))
    const [master] = masters as [FleetMachine]
    const proof = await expireCertificate({
      node: { name: node, data: this.dataOf(node) },
      masterData: this.dataOf(master.name),
      busLogs: masters.map(({ name }) => join(this.dataOf(name), `logs/${name}-nats.log`)),
      // Its supervisor starts it again.
      beginAnew: () => killProcesses(label(node, 'kubelet'), this.pidsOf(node, 'kubelet')),
    })
    const undo = async () => {
      const one = this.fleet.machine(node)
      await this.stop(node)
      await joinMachine(master, one, 'node', ['--runtime', this.options.runtime], this.upgrades.environmentOf(node))
      return `${node} joined again with a token, and is Ready`
    }
    return { proof, undo }
  }

  private chaosSite(): ChaosSite {
    return {
      socket: (machine, process) =>
        join(this.dataOf(machine), 'run', `${process === 'store' ? `${machine}-store` : machine}.chaos`),
      isMaster: (machine) => this.isMaster(machine),
      storeDirectory: (machine) => join(this.dataOf(machine), 'machines', machine, 'store'),
      ...storeDowntime((machine) => ({
        label: label(machine, 'store'),
        pids: () => this.pidsOf(machine, 'store'),
        answers: async () => (await this.statusOf(machine)) !== undefined,
        pauseControl: () => this.pause(machine, 'control'),
        backMs: BACK_MS,
      })),
    }
  }

  // ----------------------------------------------------------------------------------------------------- containers

  private liveContainers() {
    return (
      this.machines
        // As with SIGSTOP: what stands still does nothing. Those of a machine that goes on are stopped until its guard has looked.
        .filter(({ role, name }) => role === 'node' && !this.fleet.machine(name).isPaused)
        .flatMap(({ name }) =>
          liveContainersOf({
            pids: this.fleet.machine(name).pids(),
            nodeOf: () => name,
            processDirectory: () => join(this.dataOf(name), 'machines', name, 'p'),
          }),
        )
    )
  }

  private async killContainers(node: string, count: number): Promise<Done> {
    const found = this.liveContainers()
      .filter((container) => container.node === node)
      .slice(0, count)
    if (found.length === 0) throw new Error(`no container runs on ${node}`)
    const names = found.map((container) => container.pod).join(', ')
    const proof = await killProcesses(
      `containers of ${names}`,
      found.map((container) => container.pid),
    )
    return { proof, undo: async () => 'their kubelet starts them again' }
  }

  // ----------------------------------------------------------------------------------------------------------- look

  private isMaster(machine: string): boolean {
    return this.machines.some(({ name, role }) => name === machine && role === 'master')
  }

  private async statusOf(member: string) {
    let port = this.stores.get(member)
    if (!port) {
      const endpoint = this.access.etcdEndpoints.find((one) => one.member === member)
      if (!endpoint || !this.access.etcdCredentials) return undefined
      port = new EtcdStorePort(endpoint, this.access.etcdCredentials)
      this.stores.set(member, port)
    }
    const answer = await port.status()
    return answer.ok ? answer.value : undefined
  }

  private makeAccess(): Access {
    const masters = this.machines.filter(({ role }) => role === 'master')
    const first = masters[0]?.name as string
    const data = this.dataOf(first)
    const kubeconfig = join(data, 'admin.conf')
    const { clusters, users } = parse(readFileSync(kubeconfig, 'utf8')) as {
      clusters: { cluster: { server: string; 'certificate-authority-data': string } }[]
      users: { user: { 'client-certificate-data': string; 'client-key-data': string } }[]
    }
    const text = (base64: string | undefined) => Buffer.from(base64 ?? '', 'base64').toString()
    const pki = (name: string) => readFileSync(join(data, 'pki', name), 'utf8')
    const hasEtcd = existsSync(join(data, 'pki/etcd-client.crt'))
    const live = this.options.runtime === 'hollow' ? {} : { liveContainers: async () => this.liveContainers() }
    return {
      on: 'fleet',
      kubeconfig,
      balancer: { name: 'kubeconfig', url: clusters[0]?.cluster.server as string },
      apiEndpoints: masters.map(({ name, address }) => ({ name, url: `https://${address}:6443` })),
      apiCredentials: {
        ca: text(clusters[0]?.cluster['certificate-authority-data']),
        cert: text(users[0]?.user['client-certificate-data']),
        key: text(users[0]?.user['client-key-data']),
      },
      etcdEndpoints: hasEtcd ? masters.map(({ name, address }) => ({ member: name, address: `${address}:2379` })) : [],
      ...(hasEtcd
        ? { etcdCredentials: { ca: pki('etcd-ca.crt'), cert: pki('etcd-client.crt'), key: pki('etcd-client.key') } }
        : {}),
      nodes: this.machines.filter(({ role }) => role === 'node').map(({ name }) => name),
      runtime: this.options.runtime,
      // The host has an end on the wire, and no routes to pods.
      reachesPods: false,
      nowMs: () => performance.now() - this.startMs,
      clock: new RealClock(),
      ...live,
    }
  }
}

const isNode = ({ name }: FleetMachine) => !name.startsWith('master-')

const label = (machine: string, component: Component) =>
  component === 'machine' ? machine : `${component} of ${machine}`

function guardAtMs(data: string, machine: string): number {
  return new FileGuard(join(data, 'machines', machine)).state()?.atMs ?? 0
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[0] ?? ''
  } catch {
    return ''
  }
}
