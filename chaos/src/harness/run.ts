/**
 * One run: workloads begin, warm up, the schedule is played, everything is undone, the cluster settles, the judge speaks.
 * Knows no world: clock, target, workloads and judge are given to it.
 */
import type { Clock, Random } from '@capstan/actor'
import { faultNamed } from './faults.js'
import { onceSomebodyIs } from './whom.js'
import type {
  FaultRecord,
  FinalState,
  InForce,
  Judge,
  PromiseState,
  Running,
  RunRecord,
  Sample,
  Scenario,
  Schedule,
  ScheduledFault,
  Target,
  Verdict,
  Workload,
  WorkloadResult,
} from './types.js'

export const SAMPLE_MS = 500
/** A fault that has not taken effect, or is not undone, by then is given up, and told. */
const INJECT_MAX_MS = 30_000
const UNDO_MAX_MS = 90_000
const STOP_MAX_MS = 60_000
const GATHER_MAX_MS = 120_000

export interface RunEvents {
  /** What it does now: `warming up`, `trouble`, `healing`, `settling`, `judging`. */
  phase(name: string, lastsMs?: number): void
  fault(record: FaultRecord, what: 'in force' | 'undone' | 'not tested' | 'failed'): void
  sample(sample: Sample, inForce: readonly FaultRecord[], wrong: readonly string[]): void
}

export interface RunOptions {
  scenario: Scenario
  schedule: Schedule
  target: Target
  workloads: readonly Workload[]
  judge: Judge
  seed: string
  random: Random
  clock: Clock
  environment: Record<string, string>
  /** Of the schedule; default: the scenario's. */
  troubleMs?: number
  events?: Partial<RunEvents>
  /** Ctrl-C: faults are undone, workloads stopped, and what there is is judged. */
  signal?: AbortSignal
}

/**
 * Faults are undone and workloads stopped on every way out; the target is left to the caller.
 * @throws Error if the run could not begin (a workload did not start).
 */
export async function runScenario(options: RunOptions): Promise<RunRecord> {
  return new Run(options).run()
}

class Run {
  private readonly faults: FaultRecord[] = []
  private readonly inForce = new Map<FaultRecord, InForce>()
  private readonly notTested: RunRecord['notTested'] = []
  private readonly troubles: string[] = []
  private readonly samples: Sample[] = []
  private readonly running: { name: string; running: Running }[] = []
  private readonly wrong = new Set<string>()
  private readonly nowMs: () => number
  private undesired: string | undefined
  private isOver = false

  constructor(private readonly options: RunOptions) {
    this.nowMs = options.target.access.nowMs
  }

  async run(): Promise<RunRecord> {
    const { scenario, target, options } = { ...this.options, options: this.options }
    const troubleMs = options.troubleMs ?? scenario.troubleMs
    const startedAt = new Date(options.clock.nowMs()).toISOString()
    let fromRevision = 1
    let sampling: Promise<void> | undefined
    let healedMs = 0
    let results: WorkloadResult[] = []
    try {
      fromRevision = (await target.look()).revision ?? 1
      await this.startWorkloads()
      sampling = this.sampleUntilOver()
      options.events?.phase?.('warming up', scenario.warmUpMs)
      await this.sleep(scenario.warmUpMs)
      options.events?.phase?.('trouble', troubleMs)
      await this.play(options.schedule, troubleMs)
    } finally {
      options.events?.phase?.('healing')
      await this.undoAll()
      healedMs = this.nowMs()
      try {
        if (!this.interrupted) {
          options.events?.phase?.('settling', scenario.settleMs)
          await this.settle(scenario.settleMs)
        }
      } finally {
        this.isOver = true
        await sampling
        results = await this.stopWorkloads()
      }
    }
    options.events?.phase?.('judging')
    const finalState = await this.gather(fromRevision)
    const unjudged: Omit<RunRecord, 'verdict'> = {
      formatVersion: 1,
      scenario: scenario.name,
      about: scenario.about,
      on: target.kind,
      target: target.description,
      seed: options.seed,
      startedAt,
      environment: options.environment,
      machines: target.machines,
      mustHold: scenario.mustHold,
      warmUpMs: scenario.warmUpMs,
      troubleMs,
      settleMs: scenario.settleMs,
      healedMs,
      endedMs: this.nowMs(),
      schedule: options.schedule,
      faults: this.faults,
      notTested: this.notTested,
      workloads: results,
      samples: this.samples,
      finalState,
      troubles: this.troubles,
      ...(this.interrupted ? { interrupted: true as const } : {}),
    }
    if (this.interrupted) this.troubles.push('the run was interrupted')
    return withVerdict(unjudged, options.judge(unjudged), scenario)
  }

  private get interrupted(): boolean {
    return this.options.signal?.aborted ?? false
  }

  private async startWorkloads(): Promise<void> {
    const { scenario, target, random, workloads, troubleMs = scenario.troubleMs } = this.options
    // What is recorded has a bound: who knows how long it lasts can spread it.
    const minutes = Math.max(1, troubleMs / 60_000)
    for (const { workload: name, options } of scenario.workloads) {
      const workload = workloads.find((one) => one.name === name)
      if (!workload) {
        this.notTested.push({ what: `workload ${name}`, why: 'this build has none of that name' })
        continue
      }
      const why = workload.lack(target.access)
      if (why !== undefined) this.notTested.push({ what: `workload ${name}`, why })
      else {
        const running = await workload.start(target.access, random.fork(`workload/${name}`), { minutes, ...options })
        this.running.push({ name, running })
      }
    }
    if (this.running.length === 0) throw new Error('none of its workloads can run here')
  }

  /** Each fault at its time, whatever others take; each is undone when its time is over, at latest at the end. */
  private async play(schedule: Schedule, troubleMs: number): Promise<void> {
    const startMs = this.nowMs()
    const untilMs = startMs + troubleMs
    await Promise.all(
      schedule.faults.map(async (line, index) => {
        await this.sleep(startMs + line.atMs - this.nowMs())
        if (this.interrupted || this.nowMs() > untilMs) return
        const record = await this.inject(line, index)
        if (record.result !== 'made') return
        await this.sleep(Math.min(line.lastsMs, untilMs - this.nowMs()))
        await this.undo(record)
      }),
    )
    await this.sleep(untilMs - this.nowMs())
  }

  private async inject({ fault: name, parameters }: ScheduledFault, index: number): Promise<FaultRecord> {
    const { target, random, events } = this.options
    const fault = faultNamed(name)
    const record: FaultRecord = {
      index,
      fault: name,
      parameters,
      result: 'not tested',
      struck: [],
      askedMs: this.nowMs(),
    }
    this.faults.push(record)
    const why = fault.lack(target)
    if (why !== undefined) {
      record.why = why
      if (!this.notTested.some((one) => one.what === `fault ${name}`))
        this.notTested.push({ what: `fault ${name}`, why })
      events?.fault?.(record, 'not tested')
      return record
    }
    try {
      const injecting = onceSomebodyIs(() => fault.inject(target, parameters, random.fork(`fault/${index}`)), {
        nowMs: this.nowMs,
        sleep: (ms) => this.sleep(ms),
        isOver: () => this.interrupted,
      })
      // Should it take effect after all, it must not stay.
      const inForce = await this.within(INJECT_MAX_MS, injecting, `${name} did not take effect`, (late) => late.undo())
      Object.assign(record, { result: 'made', means: inForce.means, struck: inForce.struck, proof: inForce.proof })
      record.inForceMs = this.nowMs()
      this.inForce.set(record, inForce)
      events?.fault?.(record, 'in force')
    } catch (error) {
      record.result = 'failed'
      record.why = (error as Error).message
      events?.fault?.(record, 'failed')
    }
    return record
  }

  private async undo(record: FaultRecord): Promise<void> {
    const inForce = this.inForce.get(record)
    if (!inForce) return
    this.inForce.delete(record)
    record.undoAskedMs = this.nowMs()
    try {
      record.undoProof = await this.within(UNDO_MAX_MS, inForce.undo(), 'it is not undone')
      record.undoneMs = this.nowMs()
      this.options.events?.fault?.(record, 'undone')
    } catch (error) {
      this.troubles.push(
        `${record.fault} of ${record.struck.join(', ')} could not be undone: ${(error as Error).message}`,
      )
      this.options.events?.fault?.(record, 'failed')
    }
  }

  private async undoAll(): Promise<void> {
    await Promise.all([...this.inForce.keys()].map((record) => this.undo(record)))
  }

  /** Until everything is as asked, twice in a row, or the stated time is over. */
  private async settle(settleMs: number): Promise<void> {
    const untilMs = this.nowMs() + settleMs
    await this.within(
      settleMs,
      Promise.all(this.running.map(({ running }) => running.settle?.())),
      'workloads do not settle',
    ).catch((error: unknown) => this.troubles.push((error as Error).message))
    let calm = 0
    while (this.nowMs() < untilMs && calm < 2 && !this.interrupted) {
      calm = (await this.whatIsUndesired()) === undefined ? calm + 1 : 0
      if (calm < 2) await this.sleep(Math.min(SAMPLE_MS, untilMs - this.nowMs()))
    }
  }

  private async whatIsUndesired(): Promise<string | undefined> {
    const opinions = await Promise.all(
      this.running.map(({ running }) =>
        Promise.resolve(running.isAsDesired?.()).catch(
          (error: unknown) => `cannot be asked: ${(error as Error).message}`,
        ),
      ),
    )
    return opinions.find((opinion) => opinion !== undefined)
  }

  private async sampleUntilOver(): Promise<void> {
    const { target, events } = this.options
    let asking = false
    while (!this.isOver) {
      const startMs = this.nowMs()
      // An answer that takes long must not stop the clockwork: the time line would have holes just where it matters.
      if (!asking) {
        asking = true
        void this.whatIsUndesired()
          .then((undesired) => {
            this.undesired = undesired
          })
          .finally(() => {
            asking = false
          })
      }
      const look = await target.look().catch(() => ({ masters: [], nodes: [] }))
      const counters: Record<string, number> = {}
      for (const { name, running } of this.running) {
        const now = running.look()
        for (const [key, value] of Object.entries(now.counters)) counters[key] = (counters[key] ?? 0) + value
        for (const text of now.wrong) this.wrong.add(`${name}: ${text}`)
      }
      const sample: Sample = {
        ...look,
        atMs: startMs,
        counters,
        ...(this.undesired === undefined ? {} : { undesired: this.undesired }),
      }
      this.samples.push(sample)
      events?.sample?.(sample, [...this.inForce.keys()], [...this.wrong])
      await this.sleep(startMs + SAMPLE_MS - this.nowMs(), () => this.isOver)
    }
  }

  private async stopWorkloads(): Promise<WorkloadResult[]> {
    const results: WorkloadResult[] = []
    for (const { name, running } of this.running)
      await this.within(STOP_MAX_MS, running.stop(), 'it does not stop').then(
        (result) => results.push(result),
        (error: unknown) => this.troubles.push(`workload ${name}: ${(error as Error).message}`),
      )
    return results
  }

  private async gather(fromRevision: number): Promise<FinalState> {
    const state = this.options.target.finalState({ fromRevision })
    return this.within(GATHER_MAX_MS, state, 'the final state cannot be gathered').catch((error: unknown) => ({
      atMs: this.nowMs(),
      objects: [],
      lacks: [(error as Error).message],
    }))
  }

  private sleep(ms: number, isOver: () => boolean = () => false): Promise<void> {
    const { signal, clock } = this.options
    return new Promise((resolve) => {
      if (ms <= 0 || signal?.aborted || isOver()) return void clock.defer(resolve)
      const end = () => {
        timer.cancel()
        signal?.removeEventListener('abort', end)
        resolve()
      }
      const timer = clock.setTimer(ms, end)
      signal?.addEventListener('abort', end)
    })
  }

  private within<T>(ms: number, promise: Promise<T>, text: string, late?: (value: T) => unknown): Promise<T> {
    return new Promise((resolve, reject) => {
      let isLate = false
      const timer = this.options.clock.setTimer(ms, () => {
        isLate = true
        reject(new Error(`${text} within ${ms / 1000} s`))
      })
      promise.then(
        (value) => {
          timer.cancel()
          if (isLate) void Promise.resolve(late?.(value)).catch((error: unknown) => this.troubles.push(String(error)))
          else resolve(value)
        },
        (error: unknown) => {
          timer.cancel()
          reject(error instanceof Error ? error : new Error(String(error)))
        },
      )
    })
  }
}

/** Of faults that were drawn so many may fail: now and then one meets a machine that another has switched off. */
const DRAWN_FAILED_SHARE_MAX = 0.2

/**
 * What the judge says of the promises, and whether the run was what it claims to be: a fault that did not bite proves nothing,
 * and a scenario whose own faults cannot be made here was not tested.
 */
function overall(
  judged: PromiseState,
  run: Pick<RunRecord, 'faults' | 'troubles' | 'schedule'>,
  scenario: Pick<Scenario, 'essential'>,
): PromiseState {
  if (judged === 'violated') return 'violated'
  const essential = scenario.essential ?? run.schedule.faults.map((line) => line.fault)
  const failed = run.faults.filter((fault) => fault.result === 'failed')
  const tooMany = failed.length > DRAWN_FAILED_SHARE_MAX * run.faults.length
  if (run.troubles.length > 0 || tooMany || failed.some(({ fault }) => essential.includes(fault))) return 'unknown'
  const made = (name: string) => run.faults.some((fault) => fault.fault === name && fault.result === 'made')
  if (essential.some((name) => !made(name))) return 'not tested'
  return judged
}

/** The record of a run with what was judged of its promises, and of the run as a whole (see `overall`). */
export function withVerdict(
  unjudged: Omit<RunRecord, 'verdict'>,
  verdict: Verdict,
  scenario: Pick<Scenario, 'essential'>,
): RunRecord {
  return { ...unjudged, verdict: { ...verdict, state: overall(verdict.state, unjudged, scenario) } }
}

/** Exit code of `capstan chaos`. */
export const EXIT_CODES: Readonly<Record<PromiseState, number>> = { ok: 0, violated: 1, unknown: 2, 'not tested': 3 }
