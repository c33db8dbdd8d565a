/** A cluster of `capstan up` in a directory of its own: masters and nodes as process groups of this host. */
import { spawn } from 'node:child_process'
import { closeSync, existsSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Caller } from '@capstan/actor'
import {
  cgroupProcesses,
  chaosSocket,
  type ClusterLayout,
  guardName,
  IDENTITY_TIMES,
  RECOVERY_TIMES,
  joinCgroup,
  killMachine,
  liveProcess,
  machinePid,
  namesOf,
  pauseMachine,
  Places,
  readAdmin,
  readLayout,
  realWorld,
  resumeMachine,
  startMachine,
  stop,
  stopMachine,
  up,
  type UpOptions,
} from '@capstan/cli/host'
import { type StoreStatusReply, Subjects } from '@capstan/protocol'
import { RealClock, silentLog } from '@capstan/real'
import type { Access, ClusterLook, Component, Done, FinalState, Levers, Machine, Target } from '../types.js'
import { ApiLevers } from './api-levers-edge.js'
import { chaosLevers, type ChaosSite, storeDowntime } from './chaos-levers-edge.js'
import { gatherFinalState } from './final-state-edge.js'
import {
  awaitThat,
  burnCpu,
  groupMembers,
  killProcesses,
  liveContainersOf,
  residentBytes,
  send,
  stopProcesses,
} from './host-edge.js'
import { Upgrades } from './upgrade-edge.js'
import { SLOW_CONSUMER_PROGRAM, slowConsumer } from './slow-consumer-edge.js'

const STOP_TIMEOUT_MS = 8000
const BACK_MS = 30_000
const ANSWER_MS = 800

export interface LocalOptions {
  directory: string
  masters: number
  nodes: number
  runtime: UpOptions['runtime']
  port: number
  /** Deliberate bugs of the store, for the test of the tester. */
  bugs?: string[]
}

/** Clears what an earlier run of this directory left, starts a new cluster in it, and waits until it is ready. */
export async function localTarget(options: LocalOptions): Promise<Target> {
  const { directory: data } = options
  const left = await clearLocal(data)
  if (left.length > 0) throw new Error(`an earlier run left what cannot be removed: ${left.join('; ')}`)
  // All but the images, which take a while to make.
  for (const name of existsSync(data) ? readdirSync(data) : [])
    if (name !== 'images') rmSync(join(data, name), { recursive: true, force: true })
  await up({
    data,
    masters: options.masters,
    nodes: options.nodes,
    runtime: options.runtime,
    bus: 'nats',
    port: options.port,
    tolerationSeconds: 2,
    identity: IDENTITY_TIMES,
    recovery: RECOVERY_TIMES,
    detach: true,
    chaos: options.bugs === undefined ? {} : { bugs: options.bugs },
  })
  const places = new Places(data)
  return new LocalTarget(readLayout(places) as ClusterLayout, places)
}

/** Ends and removes all that a cluster in this directory left on the host, also after a crash of everything. */
export async function clearLocal(data: string): Promise<string[]> {
  if (!existsSync(data) || !readLayout(new Places(data))) return []
  try {
    await stop(data, { step: () => undefined, warn: () => undefined, done: () => undefined } as never)
    return []
  } catch (error) {
    return [(error as Error).message]
  }
}

class LocalTarget implements Target {
  readonly kind = 'local'
  readonly description: string
  readonly machines: readonly Machine[]
  readonly access: Access
  readonly levers: Levers
  readonly lacks: Target['lacks']
  private readonly startMs = performance.now()
  private readonly api: ApiLevers
  private readonly upgrades = new Upgrades({
    masters: () => this.layout.masters.map(({ name }) => name),
    stop: (machine) => stopMachine(this.layout, this.places, machine, STOP_TIMEOUT_MS).then(() => undefined),
    start: (machine) => this.start(machine),
    statuses: () => this.storeStatuses(),
  })
  private asking: Promise<{ caller: Caller; identity: string; close(): void }> | undefined

  constructor(
    private readonly layout: ClusterLayout,
    private readonly places: Places,
  ) {
    const { masters, nodes, port } = layout
    this.description = `capstan up: ${masters.length} masters and ${nodes.length} nodes as process groups of this host (${layout.runtime} runtime)`
    this.machines = [
      ...masters.map(({ name }) => ({ name, role: 'master' as const, address: layout.hostAddress })),
      ...nodes.map(({ name, address }) => ({ name, role: 'node' as const, address })),
    ]
    const { ca, cert, key } = readAdmin(places)
    const etcd = places.etcdClient
    this.access = {
      on: 'local',
      kubeconfig: places.kubeconfig,
      balancer: { name: 'balancer', url: `https://127.0.0.1:${port}` },
      apiEndpoints: masters.map(({ name, apiPort }) => ({ name, url: `https://127.0.0.1:${apiPort}` })),
      apiCredentials: { ca, cert, key },
      etcdEndpoints: masters.flatMap(({ name, etcdPort }) =>
        etcdPort === undefined ? [] : [{ member: name, address: `127.0.0.1:${etcdPort}` }],
      ),
      etcdCredentials: {
        ca: readFileSync(etcd.ca, 'utf8'),
        cert: readFileSync(etcd.cert, 'utf8'),
        key: readFileSync(etcd.key, 'utf8'),
      },
      nodes: nodes.map(({ name }) => name),
      runtime: layout.runtime,
      reachesPods: layout.runtime !== 'hollow',
      nowMs: () => performance.now() - this.startMs,
      clock: new RealClock(),
      ...(layout.runtime === 'hollow' ? {} : { liveContainers: async () => this.liveContainers() }),
    }
    this.api = new ApiLevers(this.access)
    this.levers = {
      processes: {
        kill: (machine, component) => this.kill(machine, component),
        pause: (machine, component) => this.pause(machine, component),
        restart: (machine, component) => this.restart(machine, component),
        burnCpu: (machine, threads) =>
          burnCpu(places.data, threads, (pid) => joinCgroup(namesOf(layout).cgroup(machine), pid)),
      },
      api: this.api,
      members: { upgrade: (machine) => this.upgrades.upgrade(machine) },
      bus: {
        slowConsumer: () =>
          slowConsumer({
            logs: masters.map(({ name }) => places.log(`${name}-nats`)),
            start: (name) => this.startSlowConsumer(name),
          }),
      },
      ...chaosLevers(this.chaosSite()),
      ...(layout.runtime === 'hollow'
        ? {}
        : { containers: { kill: (node, count) => this.killContainers(node, count) } }),
    }
    this.lacks = {
      network:
        'masters of `capstan up` share one host and its loopback: there is no link between them to cut; --on fleet has them',
      'bus.cutRoutes': 'the routes of the bus run over loopback; --on fleet has links',
      'members.replaceMaster': '`capstan up` does not add or remove masters; --on fleet does',
      certificates: 'machines of one host are known by keys, which do not expire; --on fleet has certificates',
      'processes.squeezeMemory': 'needs a cgroup of its own with memory accounting for each machine',
      'containers.unpullable': 'images come from archives that every node has',
      ...(layout.runtime === 'hollow' ? { containers: 'hollow pods have no processes' } : {}),
    }
  }

  async look(): Promise<ClusterLook> {
    const { layout } = this
    const [statuses, ready, controllers] = await Promise.all([
      Promise.all(layout.masters.map(({ name }) => this.statusOf(name))),
      this.api.readyNodes(ANSWER_MS),
      this.api.controllers(ANSWER_MS),
    ])
    const told = statuses.filter((status) => status !== undefined)
    // Two may believe to lead for a moment; the later term is right.
    const leader = told.filter((status) => status.role === 'leader').sort((a, b) => b.term - a.term)[0]
    const memory: Record<string, number> = {}
    for (const [name, pid] of this.processes()) {
      const bytes = residentBytes(pid)
      if (bytes !== undefined) memory[name] = bytes
    }
    return {
      ...(told.length > 0 ? { revision: Math.max(...told.map((status) => status.header.revision)) } : {}),
      ...(leader ? { leader: leader.header.member } : {}),
      ...(told.length > 0 ? { term: Math.max(...told.map((status) => status.term)) } : {}),
      ...(controllers === undefined ? {} : { controllers }),
      masters: layout.masters.map(({ name }, at) => {
        const status = statuses[at]
        if (!status) return { name, up: false, role: 'down' as const }
        const role = status.role === 'leader' ? ('leader' as const) : ('follower' as const)
        return { name, up: true, role, commitIndex: status.commitIndex }
      }),
      nodes: layout.nodes.map(({ name }) => ({ name, ready: ready?.has(name) ?? false })),
      memory,
    }
  }

  finalState(options: { fromRevision: number }): Promise<FinalState> {
    return gatherFinalState(this.access, options)
  }

  async clear(): Promise<string[]> {
    ;(await this.asking?.catch(() => undefined))?.close()
    this.asking = undefined
    this.api.close()
    return clearLocal(this.places.data)
  }

  // ------------------------------------------------------------------------------------------------------ processes

  private pidsOf(machine: string, component: Component): number[] {
    const { places, layout } = this
    const recorded = (name: string) => [liveProcess(places.pidFile(name))].filter((pid) => pid !== undefined)
    const leader = machinePid(places, machine)
    switch (component) {
      case 'store':
        return recorded(`${machine}-store`)
      case 'bus':
        return recorded(`${machine}-nats`)
      case 'guard':
        return recorded(guardName(machine))
      case 'gateway':
        return recorded('gateway')
      case 'control':
      case 'kubelet':
        return leader === undefined ? [] : [leader]
      case 'group':
        return leader === undefined ? [] : groupMembers(leader)
      case 'containerd':
        return (leader === undefined ? [] : groupMembers(leader)).filter((pid) =>
          commandOf(pid).endsWith('/containerd'),
        )
      case 'machine':
        return [
          ...new Set([
            ...(leader === undefined ? [] : groupMembers(leader)),
            ...cgroupProcesses(namesOf(layout).cgroup(machine)),
          ]),
        ]
    }
  }

  private async kill(machine: string, component: Component): Promise<Done> {
    const { layout, places } = this
    const name = label(machine, component)
    const pids = this.pidsOf(machine, component)
    if (component === 'machine') {
      if (pids.length === 0) throw new Error(`${name} does not run`)
      if (!(await killMachine(layout, places, machine))) throw new Error(`${name} does not end`)
      return { proof: `${name}: ${pids.length} processes gone`, undo: () => this.start(machine) }
    }
    const proof = await killProcesses(name, pids)
    return { proof, undo: () => this.back(machine, component, pids) }
  }

  private async pause(machine: string, component: Component): Promise<Done> {
    const { layout, places } = this
    const name = label(machine, component)
    const pids = this.pidsOf(machine, component)
    if (component !== 'machine') return stopProcesses(name, pids)
    if (!pauseMachine(layout, places, machine)) throw new Error(`${name} does not run`)
    // Proves that all of it stands still; what was born between two looks is caught by a second one.
    const stopped = await stopProcesses(name, this.pidsOf(machine, component))
    return {
      proof: stopped.proof,
      undo: async () => {
        // The guard first; see `resumeMachine`.
        await resumeMachine(layout, places, machine)
        return stopped.undo()
      },
    }
  }

  private async restart(machine: string, component: Component): Promise<Done> {
    const { layout, places } = this
    const name = label(machine, component)
    const pids = this.pidsOf(machine, component)
    if (pids.length === 0) throw new Error(`${name} does not run`)
    const isMachine =
      component === 'machine' || component === 'control' || component === 'kubelet' || component === 'group'
    if (isMachine) {
      await stopMachine(layout, places, machine, STOP_TIMEOUT_MS)
      const started = await this.start(machine)
      return { proof: `${name}: ended by SIGTERM; ${started}`, undo: async () => started }
    }
    for (const pid of pids) send(pid, 'SIGTERM')
    const started = await this.back(machine, component, pids)
    return { proof: `${name}: ended by SIGTERM; ${started}`, undo: async () => started }
  }

  private startSlowConsumer(name: string): Promise<{ pid: number; log: string }> {
    const log = this.places.log(name)
    const words = openSync(log, 'a')
    // Ctrl-C is the harness's.
    const child = spawn(process.execPath, [SLOW_CONSUMER_PROGRAM, this.places.data, name], {
      detached: true,
      stdio: ['ignore', words, words],
    })
    closeSync(words)
    child.unref()
    return Promise.resolve({ pid: child.pid as number, log })
  }

  private async storeStatuses(): Promise<ReadonlyMap<string, StoreStatusReply>> {
    const asked = this.layout.masters.map(async ({ name }) => [name, await this.statusOf(name)] as const)
    return new Map((await Promise.all(asked)).flatMap(([name, status]) => (status ? [[name, status] as const] : [])))
  }

  /** Its own machine starts it again; a dead leader of the machine is started by us. */
  private async back(machine: string, component: Component, before: readonly number[]): Promise<string> {
    const name = label(machine, component)
    if (component === 'control' || component === 'kubelet' || component === 'group') return this.start(machine)
    if (component === 'gateway') startMachine(this.layout, this.places, 'gateway')
    let now: number[] = []
    await awaitThat(
      `${name} is started again`,
      () => {
        now = this.pidsOf(machine, component).filter((pid) => !before.includes(pid))
        return now.length > 0 || machinePid(this.places, machine) === undefined
      },
      BACK_MS,
    )
    return now.length > 0 ? `${name}: process ${now.join(', ')}` : `${name}: its machine is down`
  }

  /** Resolves when a master's store answers, or a node's process lives. */
  private async start(machine: string): Promise<string> {
    const pid = startMachine(this.layout, this.places, machine, this.upgrades.environmentOf(machine))
    if (this.layout.masters.some(({ name }) => name === machine))
      await awaitThat(
        `the store of ${machine} answers`,
        async () => (await this.statusOf(machine)) !== undefined,
        BACK_MS,
      )
    return `${machine}: process ${pid}`
  }

  private chaosSite(): ChaosSite {
    const { places, layout } = this
    return {
      socket: (machine, process) => chaosSocket(places, process === 'store' ? `${machine}-store` : machine),
      isMaster: (machine) => layout.masters.some(({ name }) => name === machine),
      storeDirectory: (machine) => `${places.machine(machine)}/store`,
      ...storeDowntime((machine) => ({
        label: label(machine, 'store'),
        pids: () => this.pidsOf(machine, 'store'),
        answers: async () => (await this.statusOf(machine)) !== undefined,
        pauseControl: () => this.pause(machine, 'control'),
        backMs: BACK_MS,
      })),
    }
  }

  private processes(): [name: string, pid: number][] {
    const { run } = this.places
    if (!existsSync(run)) return []
    return readdirSync(run)
      .filter((file) => file.endsWith('.json'))
      .flatMap((file) => {
        const pid = liveProcess(`${run}/${file}`)
        return pid === undefined ? [] : [[file.slice(0, -'.json'.length), pid] as [string, number]]
      })
  }

  // ----------------------------------------------------------------------------------------------------- containers

  private liveContainers() {
    const { layout, places } = this
    const machines = `${places.data}/machines/`
    return liveContainersOf({
      nodeOf: (cgroups, cwd) =>
        cwd === undefined
          ? new RegExp(`/capstan-${layout.id}/([^/]+)/pods/`).exec(cgroups)?.[1]
          : cwd.startsWith(machines)
            ? cwd.slice(machines.length).split('/')[0]
            : undefined,
      processDirectory: (node) => `${places.machine(node)}/p`,
    })
  }

  private async killContainers(node: string, count: number): Promise<Done> {
    const found = this.liveContainers()
      .filter((container) => container.node === node)
      .slice(0, count)
    if (found.length === 0) throw new Error(`no container runs on ${node}`)
    const proof = await killProcesses(
      `containers of ${found.map((container) => container.pod).join(', ')}`,
      found.map((container) => container.pid),
    )
    return { proof, undo: async () => 'their kubelet starts them again' }
  }

  // ----------------------------------------------------------------------------------------------------------- look

  private async statusOf(member: string): Promise<StoreStatusReply | undefined> {
    if (machinePid(this.places, member) === undefined) return undefined
    try {
      const { caller, identity } = await this.asker()
      const subject = new Subjects(this.layout.cluster).store(member, identity, 'status')
      return (await caller.call(subject, {}, { timeoutMs: ANSWER_MS })) as StoreStatusReply
    } catch {
      return undefined
    }
  }

  private asker() {
    this.asking ??= (async () => {
      const world = await realWorld(
        this.layout,
        this.places,
        { component: 'admin', name: 'cli' },
        { log: silentLog, machine: '', signal: AbortSignal.timeout(ANSWER_MS) },
      )
      const caller = new Caller(world)
      return {
        caller,
        identity: world.bus.identity,
        close: () => {
          caller.close()
          void world.bus.close()
        },
      }
    })()
    this.asking.catch(() => {
      // No server answered: the next look tries again.
      this.asking = undefined
    })
    return this.asking
  }
}

const label = (machine: string, component: Component) =>
  component === 'machine' ? machine : `${component} of ${machine}`

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[0] ?? ''
  } catch {
    return ''
  }
}
