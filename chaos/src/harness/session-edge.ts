/** Targets and runs, one after the other: what the commands of `capstan chaos` share. */
import { randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { RealClock } from '@capstan/real'
import { SimRandom } from '@capstan/sim'
import { UserError } from '@capstan/cli'
import { summariseDirectory, writeReport } from '../report/index.js'
import { judge } from '../verdict/index.js'
import { WORKLOADS } from '../workloads/index.js'
import { oneAfterTheOther } from './draw-schedule.js'
import { describeRun, LiveView, STATE_COLORS } from './live-view-edge.js'
import { runScenario, withVerdict } from './run.js'
import { scenarioNamed } from './scenarios.js'
import { shrinkSchedule } from './shrink.js'
import { fleetTarget } from './targets/fleet-edge.js'
import { kubeconfigTarget } from './targets/kubeconfig-edge.js'
import { localTarget } from './targets/local-edge.js'
import { runInSimulation } from './targets/sim.js'
import type { PromiseState, RunRecord, Scenario, Schedule, Target } from './types.js'

const ZONE_DELAY_MS = 2
const SHRINK_RUNS_MAX = 24

export interface SessionOptions {
  on: 'local' | 'fleet' | 'sim'
  against?: string
  directory: string
  masters: number
  nodes: number
  runtime: 'auto' | 'containerd' | 'process' | 'hollow'
  port: number
  /** Deliberate bugs of the store. */
  bugs?: string[]
}

export interface OneRun {
  seed?: string
  troubleMs?: number
  /** Instead of the scenario's own. */
  schedule?: Schedule
  /** The scenario's schedule so often, one after the other, in one run on one cluster. */
  times?: number
  /** In simulation: so many seeds, one after the other. */
  seeds?: number
  /** Tells the runs of one seed apart. */
  label?: string
}

export class Session {
  private target: Target | undefined
  private isSuspect = false
  private readonly abort = new AbortController()

  constructor(private readonly options: SessionOptions) {
    // Every fault in force waits on it.
    setMaxListeners(0, this.abort.signal)
  }

  /** @throws UserError, Error: it could not begin, or was interrupted before. */
  async run(scenario: Scenario, one: OneRun): Promise<RunRecord> {
    const seed = (one.seed ?? `0x${randomBytes(4).toString('hex')}`).toLowerCase()
    if (this.options.on === 'sim' && this.options.against === undefined) return this.simulate(scenario, seed, one)
    const random = new SimRandom(`chaos/${scenario.name}/${seed}`)
    const target = await this.readyTarget().catch((error: unknown) => {
      // What it began has been ended; a process that was just being born hears Ctrl-C too, and its end is no news.
      if (!this.abort.signal.aborted) throw error
      return undefined
    })
    if (!target || this.abort.signal.aborted) throw new UserError(`${scenario.name}: interrupted before it began`)
    refuseIfTooSmall(scenario, target)
    const view = new LiveView(target.access.nowMs)
    const { machines } = target
    const { troubleMs, schedule } = planOf(scenario, one, (troubleMs, fork) =>
      scenario.schedule(random.fork(fork), { machines, troubleMs }),
    )
    view.line(`${scenario.name}, seed ${seed}: ${scenario.about}`)
    view.line(target.description)
    const run = await runScenario({
      scenario,
      schedule,
      target,
      workloads: WORKLOADS,
      judge,
      seed,
      random,
      clock: new RealClock(),
      environment: environment(),
      troubleMs,
      events: view,
      signal: this.abort.signal,
    })
    const directory = this.directoryOf(run, one.label)
    const page = await writeReport(run, directory)
    for (const line of describeRun(run, this.replayOf(join(directory, 'run.json')))) console.log(line)
    console.log(`  report: ${page}`)
    // What may still be in force, or was left undone, must not be laid at the next one's door.
    if (run.verdict.state === 'violated' || run.troubles.length > 0) this.isSuspect = true
    return run
  }

  /** Recovery times over these runs; the page lies beside their reports. */
  summarise(runs: readonly Pick<RunRecord, 'scenario' | 'on' | 'seed'>[]): void {
    const directory = join(this.options.directory, 'runs')
    const { text, page } = summariseDirectory(
      directory,
      runs.map((run) => this.directoryOf(run)),
    )
    console.log(`\n${text}\n${page}`)
  }

  private directoryOf(run: Pick<RunRecord, 'scenario' | 'on' | 'seed'>, label?: string): string {
    const name = `${run.scenario}-${run.on}-${run.seed}${label === undefined ? '' : `-${label}`}`
    return join(this.options.directory, 'runs', name)
  }

  /** Seeds that rise from the first; ends with the first one that is violated. */
  private async simulate(scenario: Scenario, first: string, one: OneRun): Promise<RunRecord> {
    const { seeds = 1, times = 1, troubleMs, schedule } = one
    if (times > 1) throw new UserError('--times is for real clusters; in simulation: --seeds')
    const [bug] = this.options.bugs ?? []
    let last: RunRecord | undefined
    for (let at = 0; at < seeds && !this.abort.signal.aborted; at++) {
      const seed = `0x${(Number(first) + at).toString(16)}`
      const { run, report } = await runInSimulation(scenario, seed, {
        ...(troubleMs === undefined ? {} : { troubleMs }),
        ...(schedule === undefined ? {} : { schedule }),
        ...(bug === undefined ? {} : { bug }),
        startedAt: new Date().toISOString(),
        environment: environment(),
      })
      last = run
      const made = run.faults.filter((fault) => fault.result === 'made').length
      console.log(
        `${run.verdict.state}  ${scenario.name} seed ${seed}: ${made} of ${run.schedule.faults.length} faults, ${(report.simulatedMs / 1000).toFixed(0)} s of virtual time, ${report.steps} steps, trace hash ${report.traceHash.slice(0, 12)}`,
      )
      if (run.verdict.state === 'violated') break
    }
    if (!last) throw new UserError('interrupted before the first seed')
    const directory = this.directoryOf(last, one.label)
    const page = await writeReport(last, directory)
    const again = `capstan chaos run ${scenario.name} --on sim --seed ${last.seed}${bug === undefined ? '' : ` --plant ${bug}`}`
    for (const line of describeRun(last, again)) console.log(line)
    console.log(`  report: ${page}`)
    return last
  }

  /**
   * Each scenario, whatever became of the one before. What came of each stands in `suite.json` as soon as it is known;
   * `resume` goes on with those that are not in it. @throws UserError: nothing can be resumed.
   */
  async suite(scenarios: readonly Scenario[], one: OneRun, { resume }: { resume: boolean }): Promise<PromiseState[]> {
    const file = join(this.options.directory, 'suite.json')
    const results = resume ? readSuite(file) : []
    for (const [at, scenario] of scenarios.entries()) {
      if (results.some((result) => result.scenario === scenario.name)) continue
      if (this.abort.signal.aborted) break
      console.log(`\n[${at + 1} of ${scenarios.length}] ${scenario.name}`)
      const result = await this.suiteResult(scenario, one)
      if (this.abort.signal.aborted) break
      results.push(result)
      mkdirSync(this.options.directory, { recursive: true })
      writeFileSync(file, `${JSON.stringify({ formatVersion: 1, results }, undefined, 1)}\n`)
    }
    const ran = results.filter((result) => result.seed !== undefined)
    if (ran.length > 0) this.summarise(ran as (SuiteResult & { seed: string })[])
    for (const line of suiteTable(results)) console.log(line)
    const left = scenarios.filter(({ name }) => !results.some((result) => result.scenario === name))
    if (left.length > 0) console.log(`not played: ${left.map(({ name }) => name).join(', ')}; go on: suite --resume`)
    // What this target cannot make stands in the table, and says nothing of the cluster.
    const tested = results.filter((result) => !result.lacks).map(({ state }) => state)
    return tested.length === 0 || left.length > 0 ? [...tested, 'not tested'] : tested
  }

  private async suiteResult(scenario: Scenario, one: OneRun): Promise<SuiteResult> {
    const startMs = performance.now()
    const result = { scenario: scenario.name, on: this.options.on, faults: '–' }
    const tookMs = () => Math.round(performance.now() - startMs)
    try {
      const run = await this.run(scenario, one)
      const { state } = run.verdict
      const made = run.faults.filter((fault) => fault.result === 'made').length
      return {
        ...{ ...result, on: run.on, seed: run.seed, state, tookMs: tookMs(), why: whyOf(run) },
        ...{
          faults: `${made}/${run.schedule.faults.length}`,
          lacks: state === 'not tested' && run.notTested.length > 0,
        },
      }
    } catch (error) {
      // One that could not run must not hide what the others show, nor leave them its cluster.
      this.isSuspect = true
      const lacks = error instanceof UserError
      const why = `could not run: ${(error as Error).message}`
      console.log(`${scenario.name}: ${why}`)
      return { ...result, state: 'not tested', tookMs: tookMs(), why, lacks }
    }
  }

  /**
   * The fewest faults of a run that still violate the same promise, each candidate on a cluster of its own. On real processes a
   * failure may come and go: a candidate counts as failing if one of `tries` runs does.
   */
  async shrink(scenario: Scenario, failed: RunRecord, tries = 2): Promise<Schedule> {
    const promises = violatedOf(failed)
    let number = 0
    const fails = async (schedule: Schedule) => {
      for (let attempt = 0; attempt < tries && !this.abort.signal.aborted; attempt++) {
        await this.close()
        const { seed, troubleMs } = failed
        const run = await this.run(scenario, { seed, troubleMs, schedule, label: `shrink-${++number}` }).catch(
          (error: unknown) => {
            if (this.abort.signal.aborted) return undefined
            throw error
          },
        )
        if (run && violatedOf(run).some((promise) => promises.includes(promise))) return true
      }
      return false
    }
    const { schedule, runs, isMinimal } = await shrinkSchedule(failed.schedule, fails, {
      runsMax: SHRINK_RUNS_MAX,
      signal: this.abort.signal,
    })
    const file = join(this.options.directory, 'runs', `${scenario.name}-${failed.on}-${failed.seed}`, 'shrunk.json')
    writeFileSync(
      file,
      `${JSON.stringify({ scenario: scenario.name, seed: failed.seed, troubleMs: failed.troubleMs, schedule }, null, 2)}\n`,
    )
    console.log(
      `${failed.schedule.faults.length} faults shrunk to ${schedule.faults.length} in ${runs} runs${isMinimal ? '' : ' (not to the end: fewer may do)'}: ${schedule.faults.map((line) => `${line.atMs} ms ${line.fault} ${JSON.stringify(line.parameters)}`).join('; ')}`,
    )
    console.log(`  again: ${this.replayOf(file)}`)
    return schedule
  }

  /** The command that plays a file's schedule again on the same kind of cluster. */
  private replayOf(file: string): string {
    const { on, against, runtime, masters, nodes, bugs } = this.options
    const cluster = `--on ${on} --runtime ${runtime} --masters ${masters} --nodes ${nodes}`
    const bug = bugs === undefined ? '' : ` --plant ${bugs.join(',')}`
    return `capstan chaos replay ${relative(process.cwd(), file)} ${against === undefined ? cluster : `--against ${against}`}${bug}`
  }

  interrupt(): void {
    this.abort.abort()
  }

  /** What could not be removed. The next run begins with a new target. */
  async close(): Promise<string[]> {
    const { target } = this
    this.target = undefined
    return (await target?.clear()) ?? []
  }

  /** The same one for run after run, as long as all of it is well when the next begins. */
  private async readyTarget(): Promise<Target> {
    const say = (text: string) => void process.stderr.write(`${text}\n`)
    if (this.target && !this.isSuspect)
      await this.target.awaitReady?.(say).catch((error: unknown) => {
        say(`not well after the run before: ${(error as Error).message}`)
        this.isSuspect = true
      })
    if (this.target && this.isSuspect) {
      say('a new cluster is made')
      const left = await this.close()
      if (left.length > 0) throw new Error(`the cluster before cannot be removed: ${left.join('; ')}`)
    }
    this.isSuspect = false
    this.target ??= await this.makeTarget()
    return this.target
  }

  private async makeTarget(): Promise<Target> {
    const { on, directory, against, ...rest } = this.options
    if (against !== undefined) return kubeconfigTarget(against)
    switch (on) {
      case 'local':
        return localTarget({ ...rest, directory: join(directory, 'cluster') })
      case 'fleet':
        return fleetTarget({
          ...rest,
          directory: join(directory, 'fleet'),
          zones: 2,
          delayMs: ZONE_DELAY_MS,
          say: (text) => process.stderr.write(`${text}\n`),
        })
      case 'sim':
        throw new Error('the simulation is no target of the real world')
    }
  }
}

/**
 * Judges the record of a run once more, and writes its report anew.
 * @throws UserError: it is no record, or one of the simulation, which keeps a seed and no histories
 */
export async function judgeAgain(file: string): Promise<RunRecord> {
  const record = JSON.parse(readFileSync(file, 'utf8')) as Partial<RunRecord>
  if (!Array.isArray(record.workloads) || !Array.isArray(record.faults) || record.scenario === undefined)
    throw new UserError(`${file} is no record of a run`)
  if (record.on === 'sim') throw new UserError(`${file} is of the simulation: run it again, --seed ${record.seed}`)
  const { verdict: _, ...unjudged } = record as RunRecord
  const run = withVerdict(unjudged, judge(unjudged), scenarioNamed(unjudged.scenario))
  const page = await writeReport(run, dirname(file))
  for (const line of describeRun(run, `capstan chaos replay ${relative(process.cwd(), file)} --on ${run.on}`))
    console.log(line)
  console.log(`  report: ${page}`)
  return run
}

function planOf(
  scenario: Scenario,
  { schedule, troubleMs: longer, times = 1 }: OneRun,
  draw: (troubleMs: number, fork: string) => Schedule,
): { troubleMs: number; schedule: Schedule } {
  const onceMs = longer ?? scenario.troubleMs
  if (schedule) return { troubleMs: onceMs, schedule }
  if (times === 1) return { troubleMs: onceMs, schedule: draw(onceMs, 'schedule') }
  const each = Array.from({ length: times }, (_, at) => draw(onceMs, `schedule/${at}`))
  return { troubleMs: times * onceMs, schedule: oneAfterTheOther(each, onceMs) }
}

/** What came of one scenario of a suite. */
interface SuiteResult {
  scenario: string
  on: RunRecord['on']
  /** Missing: it did not run. */
  seed?: string
  state: PromiseState
  tookMs: number
  /** Made, of how many. */
  faults: string
  why: string
  /** Not tested, since this target cannot make it. */
  lacks: boolean
}

function readSuite(file: string): SuiteResult[] {
  if (!existsSync(file)) throw new UserError(`there is no suite to resume: no file ${file}`)
  return (JSON.parse(readFileSync(file, 'utf8')) as { results: SuiteResult[] }).results
}

/** Why a run is not ok, in a line. */
function whyOf({ verdict, troubles, faults, notTested, mustHold }: RunRecord): string {
  if (verdict.state === 'ok') return ''
  const failed = faults.filter((fault) => fault.result === 'failed').map(({ fault, why }) => `${fault}: ${why}`)
  const promises = verdict.promises
    .filter(({ promise, state }) => state === verdict.state && (state !== 'not tested' || mustHold.includes(promise)))
    .map(({ promise, text }) => `${promise}: ${text}`)
  const lacks = verdict.state === 'not tested' ? notTested.map(({ what, why }) => `${what}: ${why}`) : []
  return [...promises, ...failed, ...troubles, ...lacks].join('; ').split('\n')[0]?.slice(0, 240) ?? ''
}

function suiteTable(results: readonly SuiteResult[]): string[] {
  const counts = (['ok', 'violated', 'unknown', 'not tested'] as const)
    .map((state) => [results.filter((result) => result.state === state).length, state] as const)
    .filter(([count]) => count > 0)
  return [
    ...results.map(
      ({ scenario, state, tookMs, faults, why }) =>
        `${STATE_COLORS[state](state.padEnd(10))}  ${scenario.padEnd(20)} ${`${Math.round(tookMs / 1000)} s`.padStart(6)}  faults ${faults.padEnd(6)} ${why}`,
    ),
    `${results.length} scenarios: ${counts.map(([count, state]) => `${count} ${state}`).join(', ')}`,
  ]
}

const violatedOf = (run: RunRecord) =>
  run.verdict.promises.filter((one) => one.state === 'violated').map((one) => one.promise)

function refuseIfTooSmall({ name, needs }: Scenario, target: Target): void {
  const count = (role: string) => target.machines.filter((machine) => machine.role === role).length
  const zones = new Set(target.machines.map((machine) => machine.zone).filter(Boolean)).size
  // Whoever else's cluster: its masters are not ours to count.
  if (target.kind !== 'kubeconfig' && count('master') < needs.masters)
    throw new UserError(`${name} needs ${needs.masters} masters`)
  if (count('node') < needs.nodes) throw new UserError(`${name} needs ${needs.nodes} nodes`)
  if (zones < (needs.zones ?? 0)) throw new UserError(`${name} needs machines in ${needs.zones} zones (--on fleet)`)
}

function environment(): Record<string, string> {
  return {
    node: process.version,
    kernel: release(),
    processors: `${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}`,
    memory: `${Math.round(totalmem() / 2 ** 20)} MiB`,
  }
}
