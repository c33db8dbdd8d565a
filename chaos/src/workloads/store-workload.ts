import type { Clock, Random } from '@capstan/actor'
import type { LeaseRecord } from '../checkers/leases.js'
import type { SeenKey } from '../checkers/revision-order.js'
import type { WatchStream } from '../checkers/watch-guarantees.js'
import type { Access, Json, Running, Workload, WorkloadResult } from '../harness/types.js'
import type { Answer, Connections, StorePort, StoreTxn, StoreTxnDone } from './ports.js'
import { Recording } from './recording.js'
import { StoreReader } from './store-reader.js'
import { between, Crew, numberOf, type Options, pick, runClock, until, withRetry } from './work.js'

/** What the store workload tells its judge beside the history (`WorkloadResult.more`). */
export interface StoreMore {
  /** Below it stand all its keys. */
  prefix: string
  streams: WatchStream[]
  leases: LeaseRecord[]
  hashes: { member: string; revision: number; compactRevision: number; hash: number }[]
  /** History below may be gone. */
  compacted: number
  /** What could not be had, in words. */
  lacks: string[]
}

const REGISTERS = ['a', 'b', 'c', 'd']
const ELEMENTS = ['0', '1', '2', '3', '4']
/** A key lives for so many operations of one client, so that the search for an order stays small however long the run is. */
const OPERATIONS_PER_GENERATION = 150
const CLIENTS = 4
const LIST_ITEMS_MAX = 60
const SETTLE_MS = 20_000

/** One client of the store, one request after another, by whichever member. */
interface Client {
  name: string
  ports: StorePort[]
  random: Random
}

/** `connect`: the ways to the cluster. Options: `operationsMax` (60,000), `pauseMs` (60, the mean), `minutes` (10: how long it lasts, about). */
export function storeWorkload(connect: (access: Access) => Connections): Workload {
  return {
    name: 'store',
    about: 'registers, compare-and-swap, a list, a set, leases and watches, by the etcd face of every master',
    promises: ['S1', 'S2', 'S3', 'S4', 'S5'],
    lack: (access) => (access.etcdEndpoints.length > 0 ? undefined : 'the store cannot be reached here'),
    async start(access, random, options) {
      const work = new StoreWork(access, connect(access), random, options)
      await work.begin()
      return work
    },
  }
}

class StoreWork implements Running {
  readonly clock: Clock
  readonly recording: Recording
  private readonly crew: Crew
  private readonly prefix: string
  private readonly operationsMax: number
  private readonly pauseMs: number
  private readonly ports: StorePort[] = []
  private readonly readers: StoreReader[] = []
  private readonly leases: LeaseRecord[] = []
  private readonly hashes: StoreMore['hashes'] = []
  private readonly lacks: string[] = []
  private revision = 0
  private values = 0
  private settled: Promise<void> | undefined
  private ended: Promise<WorkloadResult> | undefined

  constructor(
    access: Access,
    private readonly connections: Connections,
    private readonly random: Random,
    options: Options | undefined,
  ) {
    this.clock = runClock(access)
    this.operationsMax = numberOf(options, 'operationsMax', 60_000)
    this.pauseMs = numberOf(options, 'pauseMs', 60) * Math.max(1, numberOf(options, 'minutes', 10) / 10)
    this.recording = new Recording(this.clock, this.operationsMax)
    this.crew = new Crew(this.clock, this.recording)
    this.prefix = `/chaos/${Math.floor(random.next() * 2 ** 40).toString(16)}/`
  }

  async begin(): Promise<void> {
    const { clock } = this
    const probe = this.client('probe')
    const seen = await until(clock, SETTLE_MS, 200, async () => {
      const answer = await pick(this.random, probe.ports).range(`${this.prefix}`)
      return answer.ok ? answer.value.revision : undefined
    })
    if (seen === undefined) throw new Error(`the store answered no read in ${SETTLE_MS / 1000} s`)
    this.revision = seen
    const range = { from: this.prefix, to: this.end }
    for (const { open } of this.connections.stores)
      this.readers.push(new StoreReader(clock, this.opened(open()), range, seen + 1))
    for (let n = 0; n < CLIENTS; n++) this.work(this.client(`client-${n}`))
    this.lease(this.client('lease-0'))
  }

  look() {
    return { counters: this.recording.counters, wrong: [] }
  }

  settle(): Promise<void> {
    this.settled ??= this.finish()
    return this.settled
  }

  stop(): Promise<WorkloadResult> {
    this.ended ??= this.conclude()
    return this.ended
  }

  /** The last reads, by every member; the readers get what is there; what each member holds. */
  private async finish(): Promise<void> {
    await this.crew.end()
    if (this.recording.isFull)
      this.lacks.push(`it ended by itself after ${this.operationsMax} operations: what came later was not tested`)
    const { clock } = this
    const client = this.client('last')
    await Promise.all(
      client.ports.map(async (port) => {
        const read = await until(clock, SETTLE_MS, 200, async () => {
          const answer = await this.read({ ...client, ports: [port] }, this.prefix, this.end)
          return answer.ok ? answer : undefined
        })
        if (!read) this.lacks.push(`${port.member} answered no last read in ${SETTLE_MS / 1000} s`)
      }),
    )
    await Promise.all(
      this.readers.map(async (reader, at) => {
        const arrived = await until(clock, SETTLE_MS, 50, () => (reader.reached >= this.revision ? true : undefined))
        if (!arrived) this.lacks.push(`the watch by ${this.connections.stores[at]?.member} did not come to the end`)
        await reader.stop()
      }),
    )
    await this.askHashes(client)
  }

  /** All members at one revision; anew while they differ in what they have compacted. */
  private async askHashes(client: Client): Promise<void> {
    const compared = await until(this.clock, SETTLE_MS, 1000, async () => {
      const answers = await Promise.all(client.ports.map((port) => port.hashKv(this.revision)))
      this.hashes.length = 0
      answers.forEach((answer, at) => {
        if (!answer.ok) return
        const { compactRevision, hash } = answer.value
        const { member } = client.ports[at] as StorePort
        this.hashes.push({ member, revision: this.revision, compactRevision, hash })
      })
      const same = new Set(this.hashes.map((one) => one.compactRevision)).size === 1
      return this.hashes.length === client.ports.length && same ? true : undefined
    })
    if (!compared) this.lacks.push('not all members told a hash of the same revisions')
  }

  private async conclude(): Promise<WorkloadResult> {
    await this.settle()
    const more: StoreMore = {
      prefix: this.prefix,
      streams: this.readers.flatMap((reader) => reader.streams),
      leases: this.leases,
      hashes: this.hashes,
      compacted: Math.max(0, ...this.readers.map((r) => r.compacted), ...this.hashes.map((h) => h.compactRevision)),
      lacks: this.lacks,
    }
    const port = this.ports[0] as StorePort
    // Tidies up; what cannot be deleted now is beside the point of the run.
    await port.txn({ compare: [], ops: [{ delete: this.prefix, to: this.end }] })
    for (const one of this.ports) one.close()
    return {
      workload: 'store',
      history: this.recording.history,
      watches: [],
      counters: this.recording.counters,
      series: this.recording.series(),
      violations: [],
      more: more as unknown as Json,
    }
  }

  private get end(): string {
    return `${this.prefix.slice(0, -1)}0`
  }

  private opened(port: StorePort): StorePort {
    this.ports.push(port)
    return port
  }

  private client(name: string): Client {
    return {
      name,
      ports: this.connections.stores.map(({ open }) => this.opened(open())),
      random: this.random.fork(name),
    }
  }

  private pauseOf({ random }: Client): number {
    return between(random, 0.5, 1.5) * this.pauseMs
  }

  private value(client: Client): string {
    return `${client.name}#${++this.values}`
  }

  // ----------------------------------------------------------------------------------------------------- the clients

  private work(client: Client): void {
    const steps = [this.registers(client), this.registers(client), this.list(client), this.set(client)]
    this.crew.loop(async () => {
      await pick(client.random, steps)()
      return this.pauseOf(client)
    })
  }

  /** Reads, writes, deletes and compares single keys. */
  private registers(client: Client): () => Promise<void> {
    const { random } = client
    const known = new Map<string, number>()
    let count = 0
    return async () => {
      const generation = Math.floor(count++ / OPERATIONS_PER_GENERATION)
      const key = `${this.prefix}r/${pick(random, REGISTERS)}.${generation}`
      const dice = random.next()
      if (dice < 0.4) {
        const answer = await this.read(client, key)
        if (answer.ok) known.set(key, answer.value.keys[0]?.modRevision ?? 0)
      } else if (dice < 0.75) {
        const done = await this.write(client, 'put', key, (value) => ({
          argument: { value },
          txn: { compare: [], ops: [{ put: key, value }] },
        }))
        if (done.ok) known.set(key, done.value.revision)
      } else if (dice < 0.85)
        await this.write(client, 'delete', key, () => ({ txn: { compare: [], ops: [{ delete: key }] } }))
      else {
        const expected = known.get(key) ?? 0
        const done = await this.write(client, 'compareAndSet', key, (value) => ({
          argument: { expected, value },
          txn: { compare: [{ key, modRevision: expected }], ops: [{ put: key, value }] },
        }))
        if (done.ok && done.value.succeeded) known.set(key, done.value.revision)
      }
    }
  }

  /** Appends to a list by reading it and writing it longer if nobody else did. */
  private list(client: Client): () => Promise<void> {
    let generation = 0
    return async () => {
      const key = `${this.prefix}list/${generation}`
      const seen = await this.read(client, key)
      if (!seen.ok) return
      const [state] = seen.value.keys
      const items = state?.value ?? ''
      if (items.split(',').length >= LIST_ITEMS_MAX) generation++
      else if (client.random.next() < 0.6) {
        const expected = state?.modRevision ?? 0
        await this.write(client, 'append', key, (item) => ({
          argument: { expected, item, value: items === '' ? item : `${items},${item}` },
          txn: {
            compare: [{ key, modRevision: expected }],
            ops: [{ put: key, value: items === '' ? item : `${items},${item}` }],
          },
        }))
      }
    }
  }

  /** Adds elements, each a key that must not be there, removes them, and reads all in one range. */
  private set(client: Client): () => Promise<void> {
    let count = 0
    return async () => {
      const generation = Math.floor(count++ / OPERATIONS_PER_GENERATION)
      const set = `${this.prefix}set.${generation}/`
      const dice = client.random.next()
      const element = `${set}${pick(client.random, ELEMENTS)}`
      if (dice < 0.35) await this.read(client, set, `${set.slice(0, -1)}0`)
      else if (dice < 0.7)
        await this.write(client, 'add', element, (value) => ({
          argument: { value },
          txn: { compare: [{ key: element, modRevision: 0 }], ops: [{ put: element, value }] },
        }))
      else await this.write(client, 'remove', element, () => ({ txn: { compare: [], ops: [{ delete: element }] } }))
    }
  }

  /** Leases that are renewed for a while, and then left to end. */
  private lease(client: Client): void {
    const { random } = client
    const { clock } = this
    let count = 0
    this.crew.loop(async () => {
      const sentMs = clock.monotonicMs()
      const granted = await pick(random, client.ports).leaseGrant(2 + random.int(4))
      if (!granted.ok) return this.pauseOf(client)
      const lease: LeaseRecord = {
        client: client.name,
        id: granted.value.id,
        ttlMs: granted.value.ttlSeconds * 1000,
        renewals: [{ sentMs, answeredMs: clock.monotonicMs() }],
        lastTriedMs: clock.monotonicMs(),
        keys: [],
        readsAfterGone: [],
        remaining: [],
      }
      this.leases.push(lease)
      const key = `${this.prefix}leased/${count++ % 4}`
      const put = await this.write(client, 'put', key, (value) => ({
        argument: { value, lease: lease.id },
        txn: { compare: [], ops: [{ put: key, value, lease: lease.id }] },
      }))
      if (put.ok || put.outcome === 'unknown') lease.keys.push(key)
      for (let left = random.int(4); left > 0 && !this.crew.isOver; left--) {
        await this.crew.pause(between(random, 0.2, 0.6) * lease.ttlMs)
        if (!(await this.renew(client, lease))) break
      }
      if (random.next() < 0.2) {
        lease.revokeSentMs = clock.monotonicMs()
        await pick(random, client.ports).leaseRevoke(lease.id)
      }
      await this.seeItsEnd(client, lease)
      return this.pauseOf(client)
    })
  }

  /** False: it is gone. */
  private async renew(client: Client, lease: LeaseRecord): Promise<boolean> {
    const { clock } = this
    const sentMs = clock.monotonicMs()
    const answer = await pick(client.random, client.ports).leaseKeepAlive(lease.id)
    lease.lastTriedMs = clock.monotonicMs()
    if (!answer.ok) return true
    const at = { sentMs, answeredMs: clock.monotonicMs() }
    if (answer.value.ttlSeconds > 0) lease.renewals.push(at)
    else lease.goneSeen ??= { ...at, revision: answer.value.revision }
    return answer.value.ttlSeconds > 0
  }

  /** Asks how long it lives until it is gone, then whether its keys are too. */
  private async seeItsEnd(client: Client, lease: LeaseRecord): Promise<void> {
    const { clock } = this
    const deadlineMs = clock.monotonicMs() + 10 * lease.ttlMs + 60_000
    while (!lease.goneSeen && clock.monotonicMs() < deadlineMs && (await this.crew.pause(lease.ttlMs / 3))) {
      const sentMs = clock.monotonicMs()
      const answer = await pick(client.random, client.ports).leaseTimeToLive(lease.id)
      if (!answer.ok) continue
      const { ttlSeconds, revision } = answer.value
      const at = { sentMs, answeredMs: clock.monotonicMs() }
      if (ttlSeconds < 0) lease.goneSeen = { ...at, revision }
      else lease.remaining.push({ ...at, seconds: ttlSeconds })
    }
    if (!lease.goneSeen) return
    for (const key of lease.keys) {
      const seen = await this.read(client, key)
      if (seen.ok)
        lease.readsAfterGone.push({ key, revision: seen.value.revision, present: seen.value.keys.length > 0 })
    }
  }

  // ---------------------------------------------------------------------------------------------------- the requests

  private read(client: Client, from: string, to?: string): Promise<Answer<{ revision: number; keys: SeenKey[] }>> {
    return withRetry(this, client.random, client.ports, (port) =>
      this.recording.request(
        {
          process: client.name,
          operation: to === undefined ? 'get' : 'range',
          key: from,
          ...(to === undefined ? {} : { argument: { to } }),
          endpoint: port.member,
          isWrite: false,
        },
        () => port.range(from, to),
        ({ revision, keys }) => {
          this.revision = Math.max(this.revision, revision)
          return { revision, value: keys as unknown as Json }
        },
      ),
    )
  }

  /** `make` is called for each attempt with a value of its own. The answer's value says whether it changed anything. */
  private write(
    client: Client,
    operation: string,
    key: string,
    make: (value: string) => { argument?: Json; txn: StoreTxn },
  ): Promise<Answer<StoreTxnDone>> {
    return withRetry(this, client.random, client.ports, (port) => {
      const { argument, txn } = make(this.value(client))
      return this.recording.request(
        {
          process: client.name,
          operation,
          key,
          ...(argument === undefined ? {} : { argument }),
          endpoint: port.member,
          isWrite: true,
        },
        () => port.txn(txn),
        ({ revision, succeeded, deleted }) => {
          this.revision = Math.max(this.revision, revision)
          const changed = succeeded && txn.ops.some((op, at) => 'put' in op || (deleted[at] ?? 0) > 0)
          return { revision, value: { changed } }
        },
      )
    })
  }
}
