import { Caller } from '@capstan/actor'
import {
  grants,
  type Identity,
  identityToken,
  type StoreStatusReply,
  type StoreVerb,
  Subjects,
} from '@capstan/protocol'
import { Simulation, type SimWorld } from '@capstan/sim'
import { startStore } from '../index.js'
import type { StoreHandle, StoreOptions } from '../options.js'
import { agreedLeader } from './agreed-leader.js'
import { bytes, text } from './local-cluster.js'

const CLUSTER = 'simulated'

/** Members in virtual time, on simulated disks and network; `client` speaks as an API server from a machine of its own. */
export class SimCluster {
  readonly simulation: Simulation
  readonly subjects = new Subjects(CLUSTER)
  readonly handles = new Map<string, StoreHandle>()
  /** Why members ended that did not restart. */
  readonly failures = new Map<string, unknown>()
  readonly client: Caller
  readonly clientIdentity: string

  constructor(
    readonly members: string[],
    private readonly options: Partial<StoreOptions> = {},
    seed = 'store',
  ) {
    this.simulation = new Simulation({ seed })
    const world = this.world('client', { component: 'apiserver', name: 'a1' })
    this.clientIdentity = world.bus.identity
    this.client = new Caller(world)
    for (const member of members) this.boot(member, { emptyDirectory: 'new' })
  }

  world(machine: string, identity: Identity): SimWorld {
    const token = identityToken(identity)
    const inbox = this.subjects.inbox(token, `i${Math.floor(this.simulation.nowMs)}`)
    return this.simulation.machine(machine).world({ identity: token, inbox, grants: grants(CLUSTER, identity) })
  }

  boot(member: string, more: Partial<StoreOptions> = {}): void {
    this.handles.delete(member)
    this.failures.delete(member)
    const world = this.world(member, { component: 'store', name: member })
    startStore(world, {
      cluster: CLUSTER,
      clusterId: 'c1',
      member,
      members: this.members,
      compaction: 'off',
      checkpointPeriodMs: 1000,
      ...this.options,
      ...more,
    }).then(
      (handle) => {
        this.handles.set(member, handle)
        void handle.ended.then((why) => {
          this.handles.delete(member)
          this.failures.set(member, why)
        })
      },
      (error: unknown) => this.failures.set(member, error),
    )
  }

  crash(member: string): void {
    this.simulation.machine(member).crash()
    this.handles.delete(member)
  }

  restart(member: string, more: Partial<StoreOptions> = {}): void {
    this.simulation.machine(member).restart()
    this.boot(member, more)
  }

  /** Crashes it, and its disk is empty then. */
  wipe(member: string): void {
    this.crash(member)
    this.simulation.machine(member).disk.wipe('/')
  }

  finish<T>(work: Promise<T>, what = 'an answer', withinMs = 30_000): Promise<T> {
    return this.simulation.finish(work, this.simulation.nowMs + withinMs, what)
  }

  run(forMs: number): Promise<void> {
    return this.simulation.run({ untilMs: this.simulation.nowMs + forMs })
  }

  /** Asks again and again, in virtual time, until `found` says so. */
  async until<T>(what: string, found: () => Promise<T | undefined | false>, withinMs = 30_000): Promise<T> {
    const giveUpMs = this.simulation.nowMs + withinMs
    for (;;) {
      const value = await this.finish(found(), what, withinMs)
      if (value !== undefined && value !== false) return value
      if (this.simulation.nowMs > giveUpMs) throw new Error(`not in ${withinMs} ms: ${what}`)
      await this.run(50)
    }
  }

  call<R>(member: string, verb: StoreVerb, body: unknown, timeoutMs = 5000): Promise<R> {
    const subject = this.subjects.store(member, this.clientIdentity, verb)
    return this.finish(this.client.call(subject, body, { timeoutMs }), `${verb} by ${member}`) as Promise<R>
  }

  put(member: string, key: string, value: string, lease = 0) {
    const op = { type: 'put', key: bytes(key), value: bytes(value), lease }
    return this.call<{ header: { revision: number } }>(member, 'txn', { compare: [], success: [op], failure: [] })
  }

  async get(member: string, key: string): Promise<string | undefined> {
    const { kvs } = await this.call<{ kvs: { value: Uint8Array }[] }>(member, 'range', { key: bytes(key) })
    return kvs[0] && text(kvs[0].value)
  }

  async status(member: string): Promise<StoreStatusReply | undefined> {
    return this.handles.get(member)?.status()
  }

  /** The member that leads, as it and a majority of those that run say. */
  leader(): Promise<string> {
    return this.until('a leader', async () => {
      const all = await Promise.all([...this.handles.values()].map((handle) => handle.status()))
      return agreedLeader(all, all.length)
    })
  }
}
