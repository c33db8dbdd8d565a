import { Simulation, type SimRandom } from '@capstan/sim'
import { listModel, setModel } from '../checkers/collection-models.js'
import { checkDurable, checkEqualState, checkOutcomes, type MemberState } from '../checkers/durability.js'
import { checkElections } from '../checkers/elections.js'
import { checkHistory, checkSameHistory, type HistoryEvent, TrueHistory } from '../checkers/history.js'
import { checkLease } from '../checkers/leases.js'
import { checkLinearizable, type Model, type Operation } from '../checkers/linearizability.js'
import { checkLock } from '../checkers/locks.js'
import { registerModel, simplifyRegisterHistory } from '../checkers/register-model.js'
import { checkRevisionOrder } from '../checkers/revision-order.js'
import { checkWatchGuarantees } from '../checkers/watch-guarantees.js'
import { ALL_FAULTS, Nemesis } from './faults.js'
import { addUp, type Scenario, type ScenarioOptions, type ScenarioReport, storeBugs, type Trouble } from './scenario.js'
import { DRILLS, type DrillGround, resetValues, restoreMembers, SCHEDULES } from './store/drills.js'
import { Records } from './store/records.js'
import { StoreClient } from './store/store-client.js'
import { StoreCluster } from './store/store-cluster.js'
import { EVERYTHING, readHistory, WatchReader } from './store/watch-reader.js'
import {
  GUARDED,
  leases,
  list,
  LOCK,
  locks,
  oneRegister,
  REGISTERS,
  registers,
  SET,
  set,
  type Work,
} from './store/workloads.js'

/*
 * The fault model. To be survived, in any order and at any time, by the store as a whole:
 * - processes and machines that stop for a while, die (also all at once, also before any operation of a disk) and come
 *   back; disks that are slow or full; of what was not synced any part is lost, and torn at sectors of 512 bytes;
 * - links cut (also one way, also between two only), slow, lossy, that double or reorder messages; lost bus connections;
 * - wall clocks that jump by an hour; monotonic clocks that run up to 5 % too fast or too slow;
 * - of a minority: a disk that was emptied, or of whose log a bit turned or a sector reads as zeroes.
 * Not: disks of a majority that lose what they synced; members that lie.
 */

const MEMBERS = ['m0', 'm1', 'm2']
const HEALED_MS = 30_000
const SETTLE_MS = 10_000
const SAMPLE_MS = 30_000
const CLOCK_RATE = 0.05
/** What a drill takes, more or less: what is drawn after it comes so much later. */
const DRILL_MS = 12_000

/** What a run of the store is made of. */
interface StorePlan {
  name: string
  /** Trouble until then. */
  untilMs: number
  /** Every kind of client; else only those of the drills, and who follows them. */
  allClients: boolean
  /** Of all trouble, the share of single faults. */
  faults: number
  drills: typeof DRILLS
  /** Between two troubles. */
  everyMs: readonly [low: number, high: number]
}

/** Ten minutes of a store with every kind of client under faults and drills; then healing. Promises S1–S5. */
export const storeScenario = scenario({
  name: 'store',
  untilMs: 600_000,
  allClients: true,
  faults: 0.5,
  drills: DRILLS,
  everyMs: [8000, 35_000],
})

/**
 * A minute or two in which nothing happens but schedules that break a raft with one rule left out: each is played from
 * one message to the next, which needs calm around it.
 */
export const schedulesScenario = scenario({
  name: 'schedules',
  untilMs: 90_000,
  allClients: false,
  faults: 0,
  drills: SCHEDULES,
  everyMs: [2000, 5000],
})

function scenario(plan: StorePlan): Scenario {
  return { name: plan.name, run: (seed, options) => new StoreRun(plan, seed, options).run() }
}

class StoreRun {
  private readonly simulation: Simulation
  private readonly cluster: StoreCluster
  private readonly random: SimRandom
  private readonly records = new Records()
  private readonly states: MemberState[] = []
  private readonly violations: string[] = []
  private readonly readers: WatchReader[] = []
  private readonly machines: string[] = []
  /** What happened, as far as it was read: up to where. */
  private readonly told: HistoryEvent[] = []
  private toldUpTo = 1
  private readonly heartbeatMs: number
  private readonly electionTimeoutMs: number
  private readonly drillTimes: { fromMs: number; toMs: number }[] = []
  private readonly drilled: Trouble[] = []
  private nemesis!: Nemesis
  private troubles: Promise<void> = Promise.resolve()
  private over = false

  constructor(
    private readonly plan: StorePlan,
    seed: string,
    private readonly options: ScenarioOptions,
  ) {
    const heed = (line: string) => {
      this.cluster.heed(line)
      options.print?.(line)
    }
    this.simulation = new Simulation({ seed: `${plan.name}/${seed}`, print: heed })
    this.random = this.simulation.random.fork('scenario')
    this.heartbeatMs = this.random.pick([300, 400, 600])
    this.electionTimeoutMs = 6 * this.heartbeatMs
    this.cluster = new StoreCluster(this.simulation, MEMBERS, {
      heartbeatMs: this.heartbeatMs,
      electionTimeoutMs: this.electionTimeoutMs,
      checkpointEntries: 25,
      logKeepEntries: 8,
      checkpointPeriodMs: 30_000,
      logSegmentBytes: 32 * 1024,
      compaction: 'off',
      // With the smallest a transaction is told in parts.
      watchMessageBytes: this.random.pick([200, 2000, 1_000_000]),
      snapshotChunkBytes: this.random.pick([700, 5000, 256 * 1024]),
      ...storeBugs(options.bug),
    })
    resetValues()
  }

  async run(): Promise<ScenarioReport> {
    const { simulation, cluster } = this
    for (const member of MEMBERS) cluster.boot(member, 'new')
    await simulation.run({
      until: () => MEMBERS.every((m) => cluster.handles.has(m)),
      untilMs: 20_000,
      what: 'three members started',
    })
    this.startClients()
    const ground = this.startFaults()
    this.sampleStates()
    await simulation.run({ untilMs: this.options.troubleMs ?? this.plan.untilMs })
    this.over = true
    // A drill puts right itself what it broke.
    await simulation
      .finish(this.troubles, simulation.nowMs + 300_000, 'the last drill')
      .catch((error: unknown) => this.violations.push(`convergence: ${String(error)}`))
    this.nemesis.heal()
    for (const member of MEMBERS) simulation.machine(member).disk.tripwire = undefined
    await this.demandProgress(ground)
    await this.judge()
    return this.report()
  }

  // ---------------------------------------------------------------------------------------------------- what goes on

  private startClients(): void {
    const start = (name: string, run: (work: Work, client: StoreClient) => Promise<void>) =>
      void run(this.work(name), this.client(name))
    this.reader('watch-all').follow({ ...EVERYTHING, prevKv: true, startRevision: 1 })
    if (!this.plan.allClients) return
    for (const name of ['registers-0', 'registers-1']) start(name, registers)
    for (const name of ['list-0', 'list-1']) start(name, list)
    for (const name of ['locks-0', 'locks-1']) start(name, locks)
    start('set', set)
    start('leases', leases)
    this.reader('watch-set').follow({ ...SET, noDelete: true, startRevision: 1 })
    this.reader('watch-key').follow({ from: 'r/a', noPut: true, prevKv: true, startRevision: 1 })
    void this.watchFromLongAgo()
    void this.compactNowAndThen()
  }

  private startFaults(): DrillGround {
    const { simulation, cluster } = this
    const clients = Array.from({ length: 5 }, (_, n) => this.client(`drill-${n}`))
    this.nemesis = new Nemesis(
      simulation,
      {
        machines: MEMBERS,
        linked: [...MEMBERS, ...this.machines],
        restart: (member) => cluster.restart(member),
      },
      { faults: ALL_FAULTS, lastsMs: [500, 8 * this.electionTimeoutMs], only: this.options.only },
    )
    const ground: DrillGround = {
      simulation,
      cluster,
      nemesis: this.nemesis,
      random: simulation.random.fork('drills'),
      clients,
      work: this.work('drills'),
      electionTimeoutMs: this.electionTimeoutMs,
      compact: () => this.compact(0),
    }
    this.troubles = this.makeTrouble(ground)
    return ground
  }

  /**
   * Single faults, which may overlap, and drills, one at a time. What each is, and when it is due, hangs on its number alone:
   * so any of them can be left out.
   */
  private async makeTrouble(ground: DrillGround): Promise<void> {
    const { simulation } = this
    const { drills, faults, everyMs } = this.plan
    const { only } = this.options
    const names = Object.keys(drills)
    let dueMs = simulation.nowMs
    for (let number = 0; ; number++) {
      const random = simulation.random.fork(`trouble/${number}`)
      dueMs += random.between(...everyMs)
      const name = random.chance(faults) ? undefined : random.pick(names)
      await simulation.sleep(Math.max(0, dueMs - simulation.nowMs))
      if (this.over) return
      if (name === undefined) {
        this.nemesis.strikeOne(number)
        continue
      }
      dueMs += DRILL_MS
      if (only && !only.includes(number)) continue
      const fromMs = simulation.nowMs
      simulation.log(`${(fromMs / 1000).toFixed(6)} DRILL ${number} ${name}`)
      this.cluster.count(`drill.${name}`)
      this.drilled.push({ number, atMs: fromMs, what: name })
      await (drills[name] as (typeof drills)[string])({ ...ground, random })
      // A handed-over lead is no trouble.
      if (name !== 'movedLeader') this.drillTimes.push({ fromMs, toMs: simulation.nowMs })
    }
  }

  /** Streams that begin somewhere in the past. */
  private async watchFromLongAgo(): Promise<void> {
    const { simulation, records } = this
    const reader = this.reader('watch-old')
    const random = simulation.random.fork('watch-old')
    for (;;) {
      await simulation.sleep(random.between(4000, 20_000))
      if (this.over) return
      const now = records.revision
      const startRevision = Math.max(1, records.compacted, now - random.int(40))
      const wish = { ...EVERYTHING, prevKv: random.chance(0.7), noPut: random.chance(0.1), startRevision }
      await reader.once(wish, random.pick(MEMBERS), now)
    }
  }

  private async compactNowAndThen(): Promise<void> {
    const random = this.simulation.random.fork('compaction')
    for (;;) {
      await this.simulation.sleep(random.between(20_000, 60_000))
      if (this.over) return
      await this.compact(random.int(20))
    }
  }

  /** What is to be compacted is read before: it belongs to the true history. Leaves about so many revisions. */
  private async compact(keep: number): Promise<boolean> {
    const { records, random } = this
    await this.readOn(random.pick(MEMBERS)).catch(() => undefined) // Then less is compacted.
    const revision = this.toldUpTo - keep
    if (revision <= records.compacted) return false
    records.compacted = revision
    const compactor = this.compactor
    // A watch that is catching up just there.
    const reader = this.lateReader
    const startRevision = Math.max(1, revision - 1)
    const late = reader.once({ ...EVERYTHING, startRevision, prevKv: true }, random.pick(MEMBERS), records.revision)
    const answer = await compactor.ask('compact', { revision })
    await late
    if (answer.ok) this.cluster.count('compactions')
    return answer.ok
  }

  private lazyCompactor: StoreClient | undefined
  private get compactor(): StoreClient {
    return (this.lazyCompactor ??= this.client('compactor'))
  }
  private lazyLateReader: WatchReader | undefined
  private get lateReader(): WatchReader {
    return (this.lazyLateReader ??= this.reader('watch-late'))
  }
  private lazyHistorian: WatchReader | undefined
  private get historian(): WatchReader {
    return (this.lazyHistorian ??= this.reader('historian', false))
  }

  private async readOn(member: string): Promise<void> {
    const from = this.toldUpTo + 1
    const { events, upTo } = await this.readFrom(member, from)
    if (from !== this.toldUpTo + 1) return // Another one was faster.
    this.told.push(...events)
    this.toldUpTo = Math.max(this.toldUpTo, upTo)
  }

  private readFrom(member: string, from: number) {
    return readHistory(this.historian.caller, this.historian.world, this.cluster.subjects, member, from)
  }

  /** Members that stand at the same index must hold the same at any time. */
  private sampleStates(): void {
    void this.cluster.stateHashes().then(
      (states) => this.states.push(...states),
      () => undefined, // One is starting or stopping: the next sample will do.
    )
    this.simulation.at(this.simulation.nowMs + SAMPLE_MS, () => {
      if (!this.over) this.sampleStates()
    })
  }

  // ----------------------------------------------------------------------------------------------------- afterwards

  /** Liveness: with all faults gone every member takes writes and reads, and all arrive at the same state. */
  private async demandProgress(ground: DrillGround): Promise<void> {
    const { simulation } = this
    const healedMs = simulation.nowMs
    await simulation.run({ untilMs: healedMs + 8 * this.electionTimeoutMs })
    const client = ground.clients[0] as StoreClient
    const finish = <T>(work: Promise<T>, what: string) => simulation.finish(work, simulation.nowMs + 20_000, what)
    if (!(await simulation.finish(restoreMembers(ground), simulation.nowMs + 1_000_000, 'all members')))
      this.violations.push('convergence: members that were removed do not become members again')
    const late = { ...ground.work, isOver: () => false }
    for (const member of MEMBERS) {
      const key = REGISTERS[0] as string
      for (const kind of ['put', 'get'] as const) {
        const work = oneRegister(late, client, key, `final-${member}`, { kind, member })
        if ((await finish(work, `a last ${kind}`)) === 'failed')
          this.violations.push(
            `convergence: ${member} does not serve a ${kind} ${simulation.nowMs - healedMs} ms after healing: ${client.lastError}`,
          )
      }
      for (const register of REGISTERS)
        await finish(oneRegister(late, client, register, '', { kind: 'get', member }), 'a last read')
      await finish(client.read(SET.from, SET.to, member), 'a last read')
    }
    // However long it took to get here: the last writes need some time to be told to everybody.
    await simulation.run({ untilMs: Math.max(healedMs + HEALED_MS, simulation.nowMs + SETTLE_MS) })
    for (const reader of this.readers) reader.stop()
  }

  private async judge(): Promise<void> {
    const { simulation, cluster, records } = this
    const finish = <T>(work: Promise<T>, what: string) => simulation.finish(work, simulation.nowMs + 20_000, what)
    // Each member tells what is not yet told; all must tell the same.
    const from = this.toldUpTo + 1
    const tellings = await finish(
      Promise.all(
        MEMBERS.map((member) =>
          this.readFrom(member, from).then(
            ({ events }) => [{ member, events }],
            (error: unknown) => {
              this.violations.push(`convergence: ${member} does not tell its history: ${String(error)}`)
              return []
            },
          ),
        ),
      ).then((lists) => lists.flat()),
      'the whole history',
    )
    this.add('election', checkElections(cluster.leads))
    this.add('history', checkSameHistory(tellings))
    this.told.push(...(tellings[0]?.events ?? []))
    const history = new TrueHistory(this.told)
    this.add('history', checkHistory(this.told))
    this.add('linearizability', checkRevisionOrder(records.placed, history))
    for (const [key, operations] of records.registers)
      this.checkObject(key, simplifyRegisterHistory(operations), registerModel)
    this.checkObject('list', records.list, listModel)
    this.checkObject('set', records.set, setModel)
    // Whoever is asked for the history must know what was acknowledged.
    const told = this.told.slice(0, this.told.length - (tellings[0]?.events.length ?? 0))
    for (const { member, events } of tellings)
      for (const text of checkDurable(records.writes, [...told, ...events]))
        this.violations.push(`durability: as ${member} tells it: ${text}`)
    this.add('outcomes', checkOutcomes(records.writes, history.events))
    const guarded = { key: GUARDED, tokenOf: (value: string) => Number(value.split('#')[0]) }
    this.add('lock', checkLock(LOCK, records.holdings, history, guarded, 1))
    this.checkWatches(history)
    this.checkLeases(history)
    const atEnd = await finish(cluster.stateHashes(), 'state hashes')
    this.add('equal state', checkEqualState([...this.states, ...atEnd]))
    if (atEnd.length < MEMBERS.length || new Set(atEnd.map((s) => s.appliedIndex)).size !== 1)
      this.violations.push(`convergence: ${atEnd.map((s) => `${s.member} applied up to ${s.appliedIndex}`).join(', ')}`)
    this.violations.push(...cluster.problems)
  }

  private checkObject<S, I, O>(name: string, operations: readonly Operation<I, O>[], model: Model<S, I, O>): void {
    const result = checkLinearizable(operations, model)
    this.cluster.count(`verdict.${result.verdict}`)
    if (result.verdict !== 'ok')
      this.violations.push(`linearizability: ${name}: ${result.verdict}: ${result.explanation}`)
  }

  private checkWatches(history: TrueHistory): void {
    const { records } = this
    for (const text of records.absurd) this.violations.push(`answers: ${text}`)
    for (const stream of records.streams)
      for (const { guarantee, text } of checkWatchGuarantees(stream, history, records.compacted))
        this.violations.push(`watch: ${guarantee}: ${text}`)
    for (const reader of this.readers)
      if (['watch-all', 'watch-set', 'watch-key'].includes(reader.name) && reader.toldUpTo < history.lastRevision)
        this.violations.push(
          `watch: bookmarkable: ${reader.name} stands at ${reader.toldUpTo}, the store at ${history.lastRevision}, long after the last write`,
        )
  }

  private checkLeases(history: TrueHistory): void {
    const { nemesis, cluster, electionTimeoutMs } = this
    const settlesMs = 4 * electionTimeoutMs
    const trouble = [...nemesis.troubles, ...this.drillTimes].map(({ fromMs, toMs }) => ({
      fromMs,
      toMs: toMs + settlesMs,
    }))
    for (const record of this.records.leases)
      this.add(
        'lease',
        checkLease(
          record,
          history,
          {
            clockRate: CLOCK_RATE,
            noticeMs: 2000,
            perLeaderChangeMs: 4 * electionTimeoutMs,
          },
          { leaderChanges: cluster.leaderChanges, trouble },
        ),
      )
  }

  private report(): ScenarioReport {
    const { simulation, records, cluster } = this
    const coverage: Record<string, number> = {
      operations: records.operations,
      unknownOutcomes: records.unknown,
      watchStreams: records.streams.length,
      watchResumes: this.readers.reduce((sum, r) => sum + r.resumes, 0),
      watchesCompacted: records.streams.filter((s) => s.ended?.reason === 'compacted').length,
      watchEvents: records.streams.reduce((sum, s) => sum + s.messages.reduce((n, m) => n + m.events.length, 0), 0),
      leases: records.leases.length,
      leasesSeenEnding: records.leases.filter((l) => l.goneSeen).length,
      locksHeld: records.holdings.length,
      revisions: this.told.length,
      elections: cluster.leaderChanges.length,
      stateSamples: this.states.length,
    }
    addUp(coverage, this.nemesis.counts)
    addUp(coverage, cluster.counts)
    return {
      violations: this.violations,
      traceHash: simulation.trace.hash,
      troubles: [...this.nemesis.struck, ...this.drilled].sort((a, b) => a.number - b.number),
      simulatedMs: simulation.nowMs,
      steps: simulation.steps,
      coverage,
    }
  }

  private add(checker: string, wrong: readonly string[]): void {
    for (const text of wrong) this.violations.push(`${checker}: ${text}`)
  }

  private work(name: string): Work {
    return {
      simulation: this.simulation,
      records: this.records,
      random: this.simulation.random.fork(`workload/${name}`),
      isOver: () => this.over,
      pauseMs: [5000, 30_000],
    }
  }

  private client(name: string): StoreClient {
    const { simulation, cluster } = this
    this.machines.push(name)
    return new StoreClient(
      cluster.clientWorld(name),
      name,
      cluster.subjects,
      () => MEMBERS,
      this.records,
      simulation.random.fork(`client/${name}`),
      () => simulation.nowMs,
    )
  }

  private reader(name: string, isLinked = true): WatchReader {
    const { simulation, cluster } = this
    if (isLinked) this.machines.push(name)
    const random = simulation.random.fork(`reader/${name}`)
    const reader = new WatchReader(
      cluster.clientWorld(name),
      cluster.subjects,
      name,
      () => MEMBERS,
      this.records,
      random,
    )
    this.readers.push(reader)
    return reader
  }
}
