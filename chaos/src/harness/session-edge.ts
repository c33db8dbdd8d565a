/** Targets and runs, one after the other: what the commands of `capstan chaos` share. */
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join, relative } from 'node:path'
import { RealClock } from '@capstan/real'
import { SimRandom } from '@capstan/sim'
import { UserError } from '@capstan/cli'
import { summariseDirectory, writeReport } from '../report/index.js'
import { judge } from '../verdict/index.js'
import { WORKLOADS } from '../workloads/index.js'
import { describeRun, LiveView } from './live-view-edge.js'
import { runScenario } from './run.js'
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
  /** In simulation: so many seeds, one after the other. */
  seeds?: number
  /** Tells the runs of one seed apart. */
  label?: string
}

export class Session {
  private target: Target | undefined
  private readonly abort = new AbortController()

  constructor(private readonly options: SessionOptions) {}

  /** @throws UserError, Error: it could not begin, or was interrupted before. */
  async run(scenario: Scenario, one: OneRun): Promise<RunRecord> {
    const seed = (one.seed ?? `0x${randomBytes(4).toString('hex')}`).toLowerCase()
    if (this.options.on === 'sim' && this.options.against === undefined) return this.simulate(scenario, seed, one)
    const random = new SimRandom(`chaos/${scenario.name}/${seed}`)
    try {
      this.target ??= await this.makeTarget()
    } catch (error) {
      // What it began has been ended; a process that was just being born hears Ctrl-C too, and its end is no news.
      if (!this.abort.signal.aborted) throw error
    }
    if (this.abort.signal.aborted) throw new UserError(`${scenario.name}: interrupted before it began`)
    const target = this.target as Target
    refuseIfTooSmall(scenario, target)
    const view = new LiveView(target.access.nowMs)
    const troubleMs = one.troubleMs ?? scenario.troubleMs
    const schedule =
      one.schedule ?? scenario.schedule(random.fork('schedule'), { machines: target.machines, troubleMs })
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
    const name = `${scenario.name}-${run.on}-${seed}${one.label === undefined ? '' : `-${one.label}`}`
    const directory = join(this.options.directory, 'runs', name)
    const page = await writeReport(run, directory)
    for (const line of describeRun(run, this.replayOf(join(directory, 'run.json')))) console.log(line)
    console.log(`  report: ${page}`)
    return run
  }

  /** Seeds that rise from the first; ends with the first one that is violated. */
  private async simulate(scenario: Scenario, first: string, one: OneRun): Promise<RunRecord> {
    const { seeds = 1, troubleMs, schedule } = one
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
    const directory = join(
      this.options.directory,
      'runs',
      `${scenario.name}-sim-${last.seed}${one.label === undefined ? '' : `-${one.label}`}`,
    )
    const page = await writeReport(last, directory)
    const again = `capstan chaos run ${scenario.name} --on sim --seed ${last.seed}${bug === undefined ? '' : ` --plant ${bug}`}`
    for (const line of describeRun(last, again)) console.log(line)
    console.log(`  report: ${page}`)
    return last
  }

  /** Each scenario; one that cannot be tested here says so. */
  async suite(scenarios: readonly Scenario[], one: OneRun): Promise<PromiseState[]> {
    const states: PromiseState[] = []
    for (const scenario of scenarios) {
      if (this.abort.signal.aborted) break
      try {
        states.push((await this.run(scenario, one)).verdict.state)
      } catch (error) {
        // One that could not run must not hide what the others show.
        console.log(`${scenario.name}: could not run: ${(error as Error).message}`)
        states.push('not tested')
      }
    }
    const { text, page } = summariseDirectory(join(this.options.directory, 'runs'))
    console.log(`${text}\n${page}`)
    return states
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
