import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CallError, Caller, type Disk, type Log } from '@capstan/actor'
import { grants, identityToken, type StoreStatusReply, type StoreVerb, Subjects } from '@capstan/protocol'
import {
  LmdbStateEngine,
  MemoryBroker,
  type MemoryBus,
  RealClock,
  RealDisk,
  RealRandom,
  realLog,
  silentLog,
} from '@capstan/real'
import { startStore } from '../index.js'
import type { StoreHandle, StoreOptions } from '../options.js'
import { agreedLeader } from './agreed-leader.js'

const CLUSTER = 'test'

/** Members of one store in this process, on a real disk and the in-process bus; `client` speaks as an API server. */
export class LocalCluster {
  readonly broker = new MemoryBroker()
  readonly clock = new RealClock()
  readonly subjects = new Subjects(CLUSTER)
  readonly handles = new Map<string, StoreHandle>()
  private readonly buses = new Map<string, MemoryBus>()
  readonly log: Log = process.env.STORE_TEST_LOG
    ? realLog({ name: 'store', level: process.env.STORE_TEST_LOG })
    : silentLog
  readonly client: Caller
  readonly clientIdentity = identityToken({ component: 'apiserver', name: 'a1' })

  private constructor(
    readonly dir: string,
    readonly members: string[],
    private readonly options: Partial<StoreOptions>,
  ) {
    this.client = new Caller({ clock: this.clock, bus: this.connect('apiserver', 'a1'), log: this.log })
  }

  static async start(options: Partial<StoreOptions> & { size?: number } = {}): Promise<LocalCluster> {
    const { size = 3, ...rest } = options
    const dir = await mkdtemp(join(tmpdir(), 'capstan-store-'))
    const cluster = new LocalCluster(
      dir,
      Array.from({ length: size }, (_, i) => `s${i}`),
      rest,
    )
    await Promise.all(cluster.members.map((member) => cluster.startMember(member, { emptyDirectory: 'new' })))
    return cluster
  }

  /** Members whose directories are there already, below `dir`; `end` removes it. */
  static async over(dir: string, size: number, options: Partial<StoreOptions> = {}): Promise<LocalCluster> {
    const members = Array.from({ length: size }, (_, i) => `s${i}`)
    const cluster = new LocalCluster(dir, members, options)
    await Promise.all(members.map((member) => cluster.startMember(member)))
    return cluster
  }

  private connect(component: 'store' | 'apiserver', name: string): MemoryBus {
    const identity = { component, name }
    const token = identityToken(identity)
    return this.broker.connect({
      identity: token,
      inbox: this.subjects.inbox(token, 'i1'),
      grants: grants(CLUSTER, identity),
    })
  }

  async startMember(
    member: string,
    more: Partial<StoreOptions> = {},
    wrapDisk = (disk: Disk): Disk => disk,
  ): Promise<StoreHandle> {
    const bus = this.connect('store', member)
    this.buses.set(member, bus)
    const dir = join(this.dir, member)
    const handle = await startStore(
      { clock: this.clock, random: new RealRandom(), bus, disk: wrapDisk(new RealDisk(dir)), log: this.log },
      {
        cluster: CLUSTER,
        clusterId: 'c1',
        member,
        members: this.members,
        heartbeatMs: 50,
        // All members share one event loop with the tests beside them; a leader that dies is noticed without a time-out.
        electionTimeoutMs: 600,
        openEngine: () => new LmdbStateEngine(join(dir, 'state')),
        ...this.options,
        ...more,
      },
    )
    this.handles.set(member, handle)
    return handle
  }

  /** Ends a member without any handing over; its bus connection goes first, so nothing leaves any more. */
  async kill(member: string): Promise<void> {
    await this.buses.get(member)?.close()
    await this.handles.get(member)?.kill()
    this.handles.delete(member)
  }

  async stop(member: string): Promise<void> {
    await this.handles.get(member)?.stop()
    this.handles.delete(member)
    await this.buses.get(member)?.close()
  }

  /** Forgets all that a member knew. */
  wipe(member: string): Promise<void> {
    return rm(join(this.dir, member), { recursive: true, force: true })
  }

  async end(): Promise<void> {
    this.client.close()
    for (const member of Array.from(this.handles.keys())) await this.kill(member)
    await rm(this.dir, { recursive: true, force: true })
  }

  call<R>(member: string, verb: StoreVerb, body: unknown, timeoutMs = 5000): Promise<R> {
    return this.client.call(this.subjects.store(member, this.clientIdentity, verb), body, { timeoutMs }) as Promise<R>
  }

  put(
    member: string,
    key: string,
    value: string,
    more: { lease?: number; session?: { clientId: string; seq: number } } = {},
  ) {
    const { session, ...rest } = more
    const op = { type: 'put', key: bytes(key), value: bytes(value), ...rest }
    const txn = { compare: [], success: [op], failure: [], session }
    return this.call<{ header: { revision: number }; succeeded: boolean }>(member, 'txn', txn)
  }

  /** Asks again where no leader confirmed it, as a client would: members that share a busy processor may take long to elect one. */
  async get(member: string, key: string): Promise<string | undefined> {
    const { kvs } = await this.until(`a read at ${member}`, () =>
      this.call<{ kvs: { value: Uint8Array }[] }>(member, 'range', { key: bytes(key) }).catch((error: unknown) => {
        if (CallError.fromBus(error).code === 'NO_LEADER') return undefined
        throw error
      }),
    )
    return kvs[0] && text(kvs[0].value)
  }

  async status(member: string): Promise<StoreStatusReply | undefined> {
    return this.handles.get(member)?.status()
  }

  /** The member that leads, as it and a majority say. */
  leader(): Promise<string> {
    return this.until('a leader', async () => {
      const all = await Promise.all([...this.handles.values()].map((handle) => handle.status()))
      return agreedLeader(all, this.members.length)
    })
  }

  /** Polls a condition: real time, so the bound is generous and no test depends on how long it takes. */
  async until<T>(what: string, condition: () => Promise<T | undefined | false>, timeoutMs = 20_000): Promise<T> {
    const deadline = this.clock.monotonicMs() + timeoutMs
    for (;;) {
      const found = await condition()
      if (found !== undefined && found !== false) return found
      if (this.clock.monotonicMs() > deadline) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`)
      await new Promise<void>((resolve) => this.clock.setTimer(10, resolve))
    }
  }
}

export const bytes = (value: string): Uint8Array => new TextEncoder().encode(value)
export const text = (value: Uint8Array): string => new TextDecoder().decode(value)
