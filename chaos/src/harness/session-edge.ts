/** Targets and runs, one after the other: what the commands of `capstan chaos` share. */
import { randomBytes } from 'node:crypto'
import { cpus, release, totalmem } from 'node:os'
import { join, relative } from 'node:path'
import { RealClock } from '@capstan/real'
import { SimRandom } from '@capstan/sim'
import { UserError } from '@capstan/cli'
import { writeReport } from '../report/index.js'
import { judge } from '../verdict/index.js'
import { WORKLOADS } from '../workloads/index.js'
import { describeRun, LiveView } from './live-view-edge.js'
import { runScenario } from './run.js'
import { fleetTarget } from './targets/fleet-edge.js'
import { localTarget } from './targets/local-edge.js'
import type { PromiseState, RunRecord, Scenario, Schedule, Target } from './types.js'

const ZONE_DELAY_MS = 2

export interface SessionOptions {
  on: 'local' | 'fleet' | 'sim'
  against?: string
  directory: string
  masters: number
  nodes: number
  runtime: 'auto' | 'containerd' | 'process' | 'hollow'
  port: number
}

export interface OneRun {
  seed?: string
  troubleMs?: number
  /** Instead of the scenario's own. */
  schedule?: Schedule
}

export class Session {
  private target: Target | undefined
  private readonly abort = new AbortController()

  constructor(private readonly options: SessionOptions) {}

  /** @throws UserError, Error: it could not begin. */
  async run(scenario: Scenario, one: OneRun): Promise<RunRecord> {
    const seed = (one.seed ?? `0x${randomBytes(4).toString('hex')}`).toLowerCase()
    const random = new SimRandom(`chaos/${scenario.name}/${seed}`)
    this.target ??= await this.makeTarget()
    const { target } = this
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
    const directory = join(this.options.directory, 'runs', `${scenario.name}-${run.on}-${seed}`)
    const page = await writeReport(run, directory)
    const again = `capstan chaos replay ${relative(process.cwd(), join(directory, 'run.json'))}`
    for (const line of describeRun(run, again)) console.log(line)
    console.log(`report: ${relative(process.cwd(), page)}`)
    return run
  }

  /** Each scenario; one that cannot be tested here says so. */
  async suite(scenarios: readonly Scenario[], one: OneRun): Promise<PromiseState[]> {
    const states: PromiseState[] = []
    for (const scenario of scenarios) {
      if (this.abort.signal.aborted) break
      states.push((await this.run(scenario, one)).verdict.state)
    }
    return states
  }

  interrupt(): void {
    this.abort.abort()
  }

  /** What could not be removed. */
  async close(): Promise<string[]> {
    return (await this.target?.clear()) ?? []
  }

  private async makeTarget(): Promise<Target> {
    const { on, directory, against, ...rest } = this.options
    if (against !== undefined) throw new UserError('--against is not built yet')
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
      default:
        throw new UserError(`--on ${on} is not built yet`)
    }
  }
}

function refuseIfTooSmall({ name, needs }: Scenario, target: Target): void {
  const count = (role: string) => target.machines.filter((machine) => machine.role === role).length
  const zones = new Set(target.machines.map((machine) => machine.zone).filter(Boolean)).size
  if (count('master') < needs.masters) throw new UserError(`${name} needs ${needs.masters} masters`)
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
