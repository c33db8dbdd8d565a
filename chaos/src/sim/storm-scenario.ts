import { CallError, Caller } from '@capstan/actor'
import {
  grants,
  type Identity,
  identityToken,
  type RangeReply,
  Subjects,
  type TxnReply,
  type WatchData,
  WatchParts,
} from '@capstan/protocol'
import { Simulation, type SimRandom, type SimWorld } from '@capstan/sim'
import { type StoreHandle, startStore } from '@capstan/store'
import { checkLinearizable, type Operation } from '../checkers/linearizability.js'
import {
  checkDurable,
  checkEqualState,
  checkOutcomes,
  type MemberState,
  type ToldWrite,
} from '../checkers/durability.js'
import {
  type RegisterInput,
  registerModel,
  type RegisterOutput,
  simplifyRegisterHistory,
} from '../checkers/register-model.js'
import { checkWatch, type SeenEvent, type WatchRecord } from '../checkers/watch.js'
import { FAULTS, Nemesis } from './faults.js'
import { addUp, type Scenario, type ScenarioOptions, type ScenarioReport, storeBugs } from './scenario.js'

const CLUSTER = 'c'
const MEMBERS = ['m0', 'm1', 'm2']
const KEYS = ['a', 'b', 'c', 'd', 'e']
const CLIENTS = 5
const FAULTS_UNTIL_MS = 45_000
const HEALED_MS = 20_000
const SAMPLE_MS = 1000
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)
const bytes = (value: string) => new TextEncoder().encode(value)

/** Three store members with short time-outs in a storm of faults, one each second or two, for a minute. Promises S1–S4. */
export const stormScenario: Scenario = {
  name: 'storm',
  run: (seed, options) => new StoreRun(seed, options).run(),
}

type Op = Operation<RegisterInput, RegisterOutput>

class StoreRun {
  private readonly simulation: Simulation
  private readonly subjects = new Subjects(CLUSTER)
  private readonly handles = new Map<string, StoreHandle>()
  private readonly history = new Map<string, Op[]>(KEYS.map((key) => [key, []]))
  /** Every write, with what its client was told. */
  private readonly writes: ToldWrite[] = []
  private readonly states: MemberState[] = []
  private readonly watches: Watcher[] = []
  private readonly violations: string[] = []
  private readonly coverage: Record<string, number> = { operations: 0, unknownOutcomes: 0, watchResumes: 0 }
  private over = false

  constructor(
    seed: string,
    private readonly options: ScenarioOptions,
  ) {
    this.simulation = new Simulation({ seed: `storm/${seed}`, ...(options.print ? { print: options.print } : {}) })
  }

  async run(): Promise<ScenarioReport> {
    const { simulation } = this
    for (const member of MEMBERS) this.boot(member, 'new')
    await simulation.run({
      until: () => MEMBERS.every((m) => this.handles.has(m)),
      untilMs: 10_000,
      what: 'three members started',
    })
    const clients = Array.from(
      { length: CLIENTS },
      (_, i) => new Client(this.clientWorld(`client-${i}`), this.subjects, i),
    )
    for (const client of clients) void this.work(client)
    for (const [i, member] of MEMBERS.entries())
      this.watches.push(new Watcher(this.clientWorld(`watcher-${i}`), this.subjects, member, () => this.over))
    const nemesis = new Nemesis(
      simulation,
      {
        machines: MEMBERS,
        linked: [...MEMBERS, ...clients.map((c) => c.machine)],
        restart: (m) => this.boot(m, 'existing'),
      },
      { everyMs: [300, 3000], faults: FAULTS, only: this.options.only },
    )
    this.sampleStates()
    await simulation.run({ untilMs: this.options.troubleMs ?? FAULTS_UNTIL_MS })
    nemesis.heal()
    const healedMs = simulation.nowMs
    // Liveness: with all faults gone, writes succeed again, and everybody arrives at the same state.
    await simulation.run({ untilMs: healedMs + HEALED_MS / 2 })
    const recovered = [...this.history.values()]
      .flat()
      .some((op) => op.invokedMs > healedMs && op.output?.type === 'written')
    if (!recovered) this.violations.push(`convergence: no write was acknowledged in ${HEALED_MS / 2} ms without faults`)
    await this.checkDisturbance()
    this.over = true
    await simulation.run({ untilMs: simulation.nowMs + HEALED_MS / 2 })
    await this.finalReads(clients[0] as Client)
    await this.judge(clients[0] as Client)
    addUp(this.coverage, nemesis.counts)
    return {
      violations: this.violations,
      traceHash: simulation.trace.hash,
      troubles: nemesis.struck,
      simulatedMs: simulation.nowMs,
      steps: simulation.steps,
      coverage: this.coverage,
    }
  }

  private boot(member: string, emptyDirectory: 'new' | 'existing'): void {
    this.handles.delete(member)
    const world = this.world(member, { component: 'store', name: member })
    startStore(world, {
      cluster: CLUSTER,
      clusterId: 'simulated',
      member,
      members: MEMBERS,
      emptyDirectory,
      heartbeatMs: 50,
      electionTimeoutMs: 300,
      checkpointEntries: 40,
      logKeepEntries: 10,
      checkpointPeriodMs: 2000,
      compaction: 'off',
      ...storeBugs(this.options.bug),
    }).then(
      (handle) => {
        this.handles.set(member, handle)
        void handle.ended.then((why) => {
          if (why !== undefined) this.violations.push(`member: ${member} gave up: ${String(why)}`)
        })
      },
      (error: unknown) => {
        // A start that a crash interrupted leaves nothing to say.
        if (this.simulation.machine(member).up)
          this.violations.push(`member: ${member} does not start: ${String(error)}`)
      },
    )
  }

  private async work(client: Client): Promise<void> {
    const { simulation } = this
    const random = simulation.random.fork(`workload/${client.machine}`)
    for (let n = 0; !this.over; n++) {
      await simulation.sleep(random.between(20, 250))
      if (this.over) return
      const key = random.pick(KEYS)
      const input = drawInput(random, `${client.machine}-${n}`, client.lastRevision.get(key) ?? 0)
      const operation: Op = { client: client.machine, input, invokedMs: simulation.nowMs }
      this.history.get(key)?.push(operation)
      this.coverage['operations'] = (this.coverage['operations'] ?? 0) + 1
      const output = await client.execute(key, input, random.pick(MEMBERS))
      if (output === 'unknown') {
        this.coverage['unknownOutcomes'] = (this.coverage['unknownOutcomes'] ?? 0) + 1
        if (input.type === 'get') this.forget(key, operation)
      } else if (output === 'not-applied') this.forget(key, operation)
      else Object.assign(operation, { output, returnedMs: simulation.nowMs })
      if (input.type !== 'get')
        this.writes.push({
          client: client.machine,
          key,
          value: 'value' in input ? input.value : undefined,
          told: told(output),
        })
    }
  }

  /** Members that stand at the same index must hold the same at any time. */
  private sampleStates(): void {
    for (const [member, handle] of this.handles)
      if (this.simulation.machine(member).up)
        handle.stateHash().then(
          ({ appliedIndex, hash }) => this.states.push({ member, appliedIndex, hash }),
          () => undefined, // It is starting or stopping: the next sample will do.
        )
    this.simulation.at(this.simulation.nowMs + SAMPLE_MS, () => {
      if (!this.over) this.sampleStates()
    })
  }

  /** It changed nothing and told nothing. */
  private forget(key: string, operation: Op): void {
    const list = this.history.get(key) as Op[]
    list.splice(list.indexOf(operation), 1)
  }

  /** Pre-vote (thesis §9.6): a follower that was cut off and comes back must not depose a leader that is well. */
  private async checkDisturbance(): Promise<void> {
    const { simulation } = this
    const term = async () => Math.max(...(await this.statuses()).map((s) => s.term))
    const before = await term()
    const leader = (await this.statuses()).find((s) => s.role === 'leader')?.header.member
    const follower = MEMBERS.find((m) => m !== leader) as string
    for (const other of MEMBERS.filter((m) => m !== follower)) {
      simulation.network.link(follower, other).cut = true
      simulation.network.link(other, follower).cut = true
    }
    await simulation.run({ untilMs: simulation.nowMs + 3000 })
    simulation.network.heal()
    await simulation.run({ untilMs: simulation.nowMs + 2000 })
    const after = await term()
    if (after !== before)
      this.violations.push(
        `disturbance: ${follower} was cut off for 3 s while ${leader} led; the term rose from ${before} to ${after}`,
      )
  }

  private statuses() {
    const { simulation } = this
    return simulation.finish(
      Promise.all(MEMBERS.map((m) => (this.handles.get(m) as StoreHandle).status())),
      simulation.nowMs + 10_000,
      'statuses',
    )
  }

  /** Each key is read through every member: what was acknowledged must be there (S1). */
  private async finalReads(client: Client): Promise<void> {
    for (const key of KEYS)
      for (const member of MEMBERS) {
        const operation: Op = { client: `final/${member}`, input: { type: 'get' }, invokedMs: this.simulation.nowMs }
        const output = await this.simulation.finish(
          client.execute(key, { type: 'get' }, member),
          this.simulation.nowMs + 10_000,
          'a final read',
        )
        if (typeof output === 'string')
          this.violations.push(
            `convergence: ${member} does not serve a read after healing (${output}: ${client.lastError})`,
          )
        else this.history.get(key)?.push(Object.assign(operation, { output, returnedMs: this.simulation.nowMs }))
      }
  }

  private async judge(client: Client): Promise<void> {
    for (const [key, history] of this.history) {
      const result = checkLinearizable(simplifyRegisterHistory(history), registerModel)
      if (result.verdict !== 'ok')
        this.violations.push(`linearizability: key ${key}: ${result.verdict}: ${result.explanation}`)
    }
    const truth = await this.simulation.finish(
      readAll(client.world, this.subjects),
      this.simulation.nowMs + 15_000,
      'the whole history',
    )
    for (const watcher of this.watches) {
      this.coverage['watchResumes'] = (this.coverage['watchResumes'] ?? 0) + watcher.resumes
      const result = checkWatch(watcher.record, truth)
      if (result.verdict !== 'ok') this.violations.push(`watch: ${result.explanation}`)
      const last = truth.at(-1)?.revision ?? 0
      if (watcher.record.toldUpTo < last)
        this.violations.push(
          `watch: ${watcher.record.reader} stands at ${watcher.record.toldUpTo}, the store at ${last}, long after the last write`,
        )
    }
    const hashes = await this.simulation.finish(
      Promise.all(MEMBERS.map((m) => (this.handles.get(m) as StoreHandle).stateHash())),
      this.simulation.nowMs + 10_000,
      'state hashes',
    )
    const atEnd = hashes.map(({ appliedIndex, hash }, i) => ({ member: MEMBERS[i] as string, appliedIndex, hash }))
    this.violations.push(...checkEqualState([...this.states, ...atEnd]).map((text) => `equal state: ${text}`))
    this.coverage['stateSamples'] = this.states.length
    if (new Set(atEnd.map((s) => s.appliedIndex)).size !== 1)
      this.violations.push(`convergence: ${atEnd.map((s) => `${s.member} applied up to ${s.appliedIndex}`).join(', ')}`)
    this.violations.push(...checkDurable(this.writes, truth).map((text) => `durability: ${text}`))
    this.violations.push(...checkOutcomes(this.writes, truth).map((text) => `outcomes: ${text}`))
    const statuses = await this.statuses()
    for (const status of statuses)
      addUp(this.coverage, Object.fromEntries(Object.entries(status.counters).map(([name, n]) => [`store.${name}`, n])))
    this.coverage['terms'] = Math.max(...statuses.map((s) => s.term))
  }

  private clientWorld(machine: string): SimWorld {
    return this.world(machine, { component: 'admin', name: machine })
  }

  private world(machine: string, identity: Identity): SimWorld {
    const token = identityToken(identity)
    const inbox = this.subjects.inbox(token, `i${Math.floor(this.simulation.nowMs)}`)
    return this.simulation
      .machine(machine)
      .world({ identity: token, inbox, grants: grants(CLUSTER, identity), directory: identity.component })
  }
}

function told(output: RegisterOutput | 'not-applied' | 'unknown'): ToldWrite['told'] {
  if (output === 'unknown') return { type: 'unknown' }
  return output !== 'not-applied' && output.type === 'written' ? output : { type: 'not-applied' }
}

function drawInput(random: SimRandom, value: string, lastRevision: number): RegisterInput {
  const dice = random.next()
  if (dice < 0.45) return { type: 'get' }
  if (dice < 0.75) return { type: 'put', value }
  if (dice < 0.85) return { type: 'delete' }
  return { type: 'compareAndSet', expected: lastRevision, value }
}

class Client {
  readonly lastRevision = new Map<string, number>()
  readonly machine: string
  lastError = ''
  private readonly caller: Caller
  private seq = 0

  constructor(
    readonly world: SimWorld,
    private readonly subjects: Subjects,
    private readonly number: number,
  ) {
    this.machine = `client-${number}`
    this.caller = new Caller(world)
  }

  /** Asks one member, once. */
  async execute(
    key: string,
    input: RegisterInput,
    member: string,
  ): Promise<RegisterOutput | 'not-applied' | 'unknown'> {
    const call = (verb: string, body: unknown) =>
      this.caller.call(this.subjects.store(member, this.world.bus.identity, verb), body, { timeoutMs: 2000 })
    const name = bytes(key)
    try {
      if (input.type === 'get') {
        const { kvs } = (await call('range', { key: name })) as RangeReply
        const kv = kvs[0]
        this.lastRevision.set(key, kv?.modRevision ?? 0)
        return { type: 'read', value: kv && text(kv.value), revision: kv?.modRevision ?? 0 }
      }
      const compare =
        input.type === 'compareAndSet' ? [{ key: name, target: 'mod', result: '=', operand: input.expected }] : []
      const op =
        input.type === 'delete' ? { type: 'delete', key: name } : { type: 'put', key: name, value: bytes(input.value) }
      const session = { clientId: `client-${this.number}`, seq: ++this.seq }
      const reply = (await call('txn', { compare, success: [op], failure: [], session })) as TxnReply
      if (!reply.succeeded) return { type: 'unchanged' }
      const [done] = reply.replies
      if (done?.type === 'delete' && done.deleted === 0) return { type: 'unchanged' }
      if (input.type !== 'delete') this.lastRevision.set(key, reply.header.revision)
      return { type: 'written', revision: reply.header.revision }
    } catch (error) {
      this.lastError = String(error)
      return error instanceof CallError && error.outcome === 'not-applied' ? 'not-applied' : 'unknown'
    }
  }
}

/** A reader that resumes whenever its stream ends, at any member. */
class Watcher {
  readonly record: WatchRecord
  resumes = 0
  private readonly caller: Caller

  constructor(
    private readonly world: SimWorld,
    private readonly subjects: Subjects,
    member: string,
    private readonly over: () => boolean,
  ) {
    this.caller = new Caller(world)
    this.record = { reader: world.bus.identity, fromRevision: 1, events: [], toldUpTo: 0 }
    this.open(member)
  }

  private open(member: string): void {
    const { record } = this
    let position = record.toldUpTo
    const parts = new WatchParts()
    this.caller.openStream(
      this.subjects.store(member, this.world.bus.identity, 'watch'),
      { key: bytes('\0'), rangeEnd: Uint8Array.of(0), startRevision: record.toldUpTo + 1 },
      {
        data: (body) => {
          const data = parts.whole(body as WatchData)
          if (!data) return
          const { prevRevision, revision, events } = data
          // The first message says where the stream starts; from then on each joins the one before.
          if (prevRevision > position && position > record.fromRevision - 1 && prevRevision !== record.toldUpTo)
            throw new CallError('CONNECTION_LOST', 'maybe-applied', 'a message is missing')
          for (const e of events) {
            if (e.kv.modRevision <= record.toldUpTo) continue
            record.events.push({
              revision: e.kv.modRevision,
              key: text(e.kv.key),
              type: e.type,
              value: e.type === 'put' ? text(e.kv.value) : '',
            })
          }
          record.toldUpTo = Math.max(record.toldUpTo, revision)
          position = revision
        },
        beat: (at) => {
          const revision = (at as { revision?: number } | null)?.revision
          if (revision !== undefined) record.toldUpTo = Math.max(record.toldUpTo, revision)
        },
        end: () => {
          this.resumes++
          const next = MEMBERS[(MEMBERS.indexOf(member) + 1) % MEMBERS.length] as string
          // After the end readers go on: what was written last must reach them too.
          if (!this.over() || this.resumes < 10_000) this.world.clock.setTimer(50, () => this.open(next))
        },
      },
      { timeoutMs: 2000 },
    )
  }
}

/** All events from the beginning, by one watch after healing: what really happened. */
function readAll(world: SimWorld, subjects: Subjects): Promise<SeenEvent[]> {
  const caller = new Caller(world, { name: 'truth' })
  const events: SeenEvent[] = []
  return new Promise((resolve, reject) => {
    const stream = caller.openStream(
      subjects.store('m0', world.bus.identity, 'watch'),
      { key: bytes('\0'), rangeEnd: Uint8Array.of(0), startRevision: 1 },
      {
        data(body) {
          for (const e of (body as WatchData).events)
            events.push({
              revision: e.kv.modRevision,
              key: text(e.kv.key),
              type: e.type,
              value: e.type === 'put' ? text(e.kv.value) : '',
            })
        },
        beat() {
          resolve(events)
          stream.cancel()
        },
        end: (reason, error) => reject(error ?? new Error(`the watch ended: ${reason}`)),
      },
      { timeoutMs: 5000 },
    )
  })
}
