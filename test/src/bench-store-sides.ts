/** The two stores that the benchmark compares: three members each, on this machine, syncing, in directories side by side. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createWriteStream, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { programPath, storeProcessCommand } from '@capstan/cli'
import { busServerConfig, makeBusAuthority, makeBusUser } from '@capstan/certs'
import { grants, type Identity, identityToken, type StoreStatusReply } from '@capstan/protocol'
import type { Cleanup } from './bench-cleanup.js'
import { FLOOR_GRANTS } from './bench-store-client.js'
import { BENCH, CapstanConnection, openConnection, type Target } from './bench-store-connection.js'
import { EtcdConnection } from './bench-store-etcd.js'
import { eventually } from './cluster-under-test.js'

export const MEMBERS = ['m1', 'm2', 'm3'] as const
export type Member = (typeof MEMBERS)[number]
const START_MS = 120_000
const ASK_MS = 2000
const CLUSTER = 'bench'

export interface Side {
  readonly name: string
  /** Starts all three in an empty directory; resolves when they serve. */
  start(): Promise<void>
  /** Where a client of that member connects. */
  target(member: Member): Target
  /** Asks until there is one. */
  leader(): Promise<Member>
  /** Processes that keep the data, and those beside them (our bus). */
  processes(): { members: number[]; beside: number[] }
  /** Kills by SIGKILL; resolves when it is dead. */
  kill(member: Member): Promise<void>
  /** Starts one that was killed; does not wait for it. */
  revive(member: Member): void
  /** Kills everything at once, as a power cut would. */
  killAll(): Promise<void>
  /** Starts everything again; resolves when each member answers a linearizable read. */
  restart(): Promise<void>
  /** Ends it and removes its directory. */
  stop(): Promise<void>
}

/** Processes by name; they end with the benchmark. */
class Processes {
  private readonly running = new Map<string, ChildProcess>()

  constructor(
    private readonly cleanup: Cleanup,
    private readonly directory: () => string,
  ) {}

  start(name: string, command: string, args: string[], cwd?: string): void {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...(cwd ? { cwd } : {}) })
    const log = createWriteStream(join(this.directory(), `${name}.log`), { flags: 'a' })
    log.on('error', () => {}) // The directory goes first at the end.
    child.stdout.pipe(log)
    child.stderr.pipe(log)
    this.cleanup.child(child)
    this.running.set(name, child)
  }

  pids(names: readonly string[]): number[] {
    return names.flatMap((name) => this.running.get(name)?.pid ?? [])
  }

  async kill(name: string, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.running.get(name)
    this.running.delete(name)
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill(signal)
    await gone
  }

  async killAll(): Promise<void> {
    await Promise.all([...this.running.keys()].map((name) => this.kill(name)))
  }
}

// ----------------------------------------------------------------------------------------------------------- capstan

export class CapstanSide implements Side {
  readonly name = 'capstan'
  private readonly run: Processes
  private directory = ''
  private ports: number[] = []
  private routePorts: number[] = []
  private facePorts: number[] = []
  private admin: Map<Member, CapstanConnection> | undefined

  constructor(
    private readonly cleanup: Cleanup,
    private readonly parent: string,
    private readonly options: {
      /** More arguments for node, for profiling. */
      nodeArguments?: readonly string[] | undefined
      /** Clients come by the etcd face beside each member, not by the bus. */
      face?: boolean
    } = {},
  ) {
    this.run = new Processes(cleanup, () => this.directory)
  }

  async start(): Promise<void> {
    this.directory = this.cleanup.directory(this.parent)
    const ports = await freePorts(9)
    this.ports = ports.slice(0, 3)
    this.routePorts = ports.slice(3, 6)
    this.facePorts = ports.slice(6)
    const authority = await makeBusAuthority()
    const credentials = async (identity: Identity) => {
      const made = await makeBusUser(authority, identityToken(identity), grants(CLUSTER, identity))
      writeFileSync(this.credentials(identity), made.credentials, { mode: 0o600 })
    }
    const floor = await makeBusUser(authority, 'admin~floor', FLOOR_GRANTS)
    writeFileSync(join(this.directory, 'floor.creds'), floor.credentials, { mode: 0o600 })
    await Promise.all([
      credentials(BENCH),
      ...MEMBERS.flatMap((name) => [
        credentials({ component: 'store', name }),
        credentials({ component: 'etcd', name }),
      ]),
    ])
    MEMBERS.forEach((name, at) => {
      const config = busServerConfig(authority, {
        name,
        cluster: CLUSTER,
        listen: { host: '127.0.0.1', port: this.ports[at] as number },
        route: { host: '127.0.0.1', port: this.routePorts[at] as number },
        peers: this.routePorts.filter((_, other) => other !== at).map((port) => `127.0.0.1:${port}`),
        routePassword: 'bench',
        directory: join(this.directory, `${name}-jwt`),
      })
      writeFileSync(join(this.directory, `${name}-nats.conf`), config, { mode: 0o600 })
      const store = {
        cluster: CLUSTER,
        clusterId: 'bench',
        member: name,
        members: MEMBERS,
        emptyDirectory: 'new',
        dataDir: join(this.directory, name),
        bus: {
          servers: this.servers(name),
          credentials: this.credentials({ component: 'store', name }),
          beside: Object.fromEntries(MEMBERS.map((other, i) => [other, `127.0.0.1:${this.ports[i]}`])),
        },
        logLevel: 'warn',
      }
      writeFileSync(join(this.directory, `${name}.json`), JSON.stringify(store))
      const face = {
        cluster: CLUSTER,
        member: name,
        members: [name, ...MEMBERS.filter((other) => other !== name)],
        clientUrls: Object.fromEntries(MEMBERS.map((other) => [other, [`http://${this.faceEndpoint(other)}`]])),
        listen: { hosts: ['127.0.0.1'], port: this.facePorts[at] },
        tls: 'insecure',
        bus: { servers: this.servers(name), credentials: this.credentials({ component: 'etcd', name }) },
        logLevel: 'warn',
      }
      writeFileSync(join(this.directory, `${name}-face.json`), JSON.stringify(face))
    })
    await this.restart()
  }

  private credentials(identity: Identity): string {
    return join(this.directory, `${identityToken(identity)}.creds`)
  }

  private servers(member: Member): string[] {
    const at = MEMBERS.indexOf(member)
    return MEMBERS.map((_, i) => `127.0.0.1:${this.ports[(at + i) % MEMBERS.length]}`)
  }

  target(member: Member): Target {
    return this.options.face ? { side: 'etcd', endpoint: this.faceEndpoint(member) } : this.busTarget(member)
  }

  private faceEndpoint(member: Member): string {
    return `127.0.0.1:${this.facePorts[MEMBERS.indexOf(member)]}`
  }

  private busTarget(member: Member): Target & { side: 'capstan' } {
    return {
      side: 'capstan',
      cluster: CLUSTER,
      member,
      servers: this.servers(member),
      credentials: this.credentials(BENCH),
    }
  }

  /** The bus alone, for its floor. */
  bus(): Target & { side: 'capstan' } {
    return { ...this.busTarget('m1'), credentials: join(this.directory, 'floor.creds') }
  }

  async leader(): Promise<Member> {
    this.admin ??= new Map()
    for (const member of MEMBERS)
      if (!this.admin.has(member)) this.admin.set(member, await CapstanConnection.open(this.busTarget(member)))
    const admin = this.admin
    return eventually(
      'a leader',
      async () => {
        for (const member of MEMBERS) {
          const status = (await (admin.get(member) as CapstanConnection)
            .call('status', {}, ASK_MS)
            .catch(() => undefined)) as StoreStatusReply | undefined
          if (status?.role === 'leader') return member
        }
        return undefined
      },
      { timeoutMs: START_MS, periodMs: 20 },
    )
  }

  processes() {
    return {
      members: this.run.pids(MEMBERS),
      beside: this.run.pids(MEMBERS.flatMap((name) => [`${name}-nats`, `${name}-face`])),
    }
  }

  kill(member: Member): Promise<void> {
    return this.run.kill(member)
  }

  revive(member: Member): void {
    // As `capstan up` starts it.
    const [command = '', ...args] = storeProcessCommand(
      join(this.directory, `${member}.json`),
      this.options.nodeArguments,
    )
    this.run.start(member, command, args)
  }

  async killAll(): Promise<void> {
    await this.closeAdmin()
    await this.run.killAll()
  }

  async restart(): Promise<void> {
    for (const name of MEMBERS)
      this.run.start(`${name}-nats`, 'nats-server', ['-c', join(this.directory, `${name}-nats.conf`)])
    for (const name of MEMBERS) this.revive(name)
    if (this.options.face)
      for (const name of MEMBERS)
        this.run.start(`${name}-face`, process.execPath, [
          programPath('etcd'),
          join(this.directory, `${name}-face.json`),
        ])
    await eachServes(this)
  }

  async stop(): Promise<void> {
    // A profile is written at an ordinary end only.
    if (this.options.nodeArguments) await Promise.all(MEMBERS.map((name) => this.run.kill(name, 'SIGTERM')))
    await this.killAll()
    this.cleanup.remove(this.directory)
  }

  private async closeAdmin(): Promise<void> {
    const open = [...(this.admin?.values() ?? [])]
    this.admin = undefined
    await Promise.all(open.map((connection) => connection.close()))
  }
}

// -------------------------------------------------------------------------------------------------------------- etcd

export class EtcdSide implements Side {
  readonly name: string
  private readonly run: Processes
  private directory = ''
  private ports: number[] = []
  private peerPorts: number[] = []
  private state: 'new' | 'existing' = 'new'

  constructor(
    private readonly cleanup: Cleanup,
    private readonly parent: string,
    /** Beyond its defaults. */
    private readonly timeouts?: { heartbeatMs: number; electionMs: number },
  ) {
    this.name = timeouts ? 'etcd, our time-outs' : 'etcd'
    this.run = new Processes(cleanup, () => this.directory)
  }

  async start(): Promise<void> {
    this.directory = this.cleanup.directory(this.parent)
    const ports = await freePorts(6)
    this.ports = ports.slice(0, 3)
    this.peerPorts = ports.slice(3)
    this.state = 'new'
    await this.restart()
    this.state = 'existing'
  }

  target(member: Member): Target & { side: 'etcd' } {
    return { side: 'etcd', endpoint: this.endpoint(member) }
  }

  private endpoint(member: Member): string {
    return `127.0.0.1:${this.ports[MEMBERS.indexOf(member)]}`
  }

  leader(): Promise<Member> {
    return eventually(
      'a leader',
      async () => {
        for (const member of MEMBERS) {
          const connection = await EtcdConnection.open(this.endpoint(member)).catch(() => undefined)
          const status = await connection?.status(ASK_MS).catch(() => undefined)
          connection?.close()
          if (status && status.leader !== 0n && status.leader === status.member) return member
        }
        return undefined
      },
      { timeoutMs: START_MS, periodMs: 20 },
    )
  }

  processes() {
    return { members: this.run.pids(MEMBERS), beside: [] }
  }

  kill(member: Member): Promise<void> {
    return this.run.kill(member)
  }

  revive(member: Member): void {
    const peer = (at: number) => `http://127.0.0.1:${this.peerPorts[at]}`
    const client = `http://${this.endpoint(member)}`
    const at = MEMBERS.indexOf(member)
    this.run.start(member, 'etcd', [
      '--name',
      member,
      '--data-dir',
      join(this.directory, member),
      '--listen-client-urls',
      client,
      '--advertise-client-urls',
      client,
      '--listen-peer-urls',
      peer(at),
      '--initial-advertise-peer-urls',
      peer(at),
      '--initial-cluster',
      MEMBERS.map((name, i) => `${name}=${peer(i)}`).join(','),
      '--initial-cluster-state',
      this.state,
      '--logger',
      'zap',
      '--log-level',
      'error',
      ...(this.timeouts
        ? [
            '--heartbeat-interval',
            String(this.timeouts.heartbeatMs),
            '--election-timeout',
            String(this.timeouts.electionMs),
          ]
        : []),
    ])
  }

  killAll(): Promise<void> {
    return this.run.killAll()
  }

  async restart(): Promise<void> {
    for (const name of MEMBERS) this.revive(name)
    await eachServes(this)
  }

  async stop(): Promise<void> {
    await this.run.killAll()
    this.cleanup.remove(this.directory)
  }
}

/** A linearizable read through each member: it has caught up with the leader then. */
async function eachServes(side: Side): Promise<void> {
  await Promise.all(
    MEMBERS.map((member) =>
      eventually(
        `${side.name} serves at ${member}`,
        async () => {
          const connection = await openConnection(side.target(member))
          try {
            await connection.get(Buffer.from('/'), ASK_MS)
            return true
          } finally {
            await connection.close()
          }
        },
        { timeoutMs: START_MS, periodMs: 10 },
      ),
    ),
  )
}

/** All taken at once, so that they differ. */
async function freePorts(count: number): Promise<number[]> {
  const listeners = await Promise.all(
    Array.from({ length: count }, () => {
      const listener = createServer()
      return new Promise<typeof listener>((resolve, reject) =>
        listener.once('error', reject).listen(0, '127.0.0.1', () => resolve(listener)),
      )
    }),
  )
  const ports = listeners.map((listener) => (listener.address() as { port: number }).port)
  await Promise.all(listeners.map((listener) => new Promise((resolve) => listener.close(resolve))))
  return ports
}
