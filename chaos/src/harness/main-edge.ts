/** `capstan chaos …`: see chaos/README.md. Exit code: 0 ok, 1 violated, 2 unknown, 3 could not run or was not tested. */
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { UserError } from '@capstan/cli'
import { Command, InvalidArgumentError, Option } from 'commander'
import pc from 'picocolors'
import { summariseDirectory } from '../report/index.js'
import { readSchedule } from './draw-schedule.js'
import { FAULTS } from './faults.js'
import { EXIT_CODES } from './run.js'
import { SCENARIOS, scenarioNamed } from './scenarios.js'
import { judgeAgain, type OneRun, Session, type SessionOptions } from './session-edge.js'
import type { PromiseState, RunRecord } from './types.js'

const DIRECTORY = '.capstan-chaos'
const PORT = 16_443
const CANNOT_RUN = EXIT_CODES['not tested']

interface Flags {
  on: SessionOptions['on']
  against?: string
  seed?: string
  seeds?: number
  times?: number
  minutes?: number
  directory: string
  masters: number
  nodes: number
  runtime: SessionOptions['runtime']
  port: number
  plant?: string
  shrink?: boolean
}

export async function main(args: string[]): Promise<void> {
  const program = new Command('capstan chaos').description(
    'Injects faults into a cluster under load and judges what came of it',
  )
  const common = (command: Command) =>
    command
      .addOption(new Option('--on <target>', 'where').choices(['local', 'fleet', 'sim']).default('local'))
      .option('--against <kubeconfig>', 'any Kubernetes cluster instead: faults that need no access to its machines')
      .option('--directory <directory>', 'where clusters and reports are kept', DIRECTORY)
      .option('--masters <count>', 'masters of the cluster', wholeNumber, 3)
      .option('--nodes <count>', 'nodes of the cluster', wholeNumber, 3)
      .addOption(
        new Option('--runtime <kind>', 'what runs containers')
          .choices(['auto', 'containerd', 'process', 'hollow'])
          .default('auto'),
      )
      .option('--plant <bugs>', 'deliberate bugs of the store, for the test of the tester (ack-before-sync, …)')
      .option('--port <port>', 'of a local cluster; it uses ports above it', wholeNumber, PORT)
  const seeded = (command: Command) =>
    common(command)
      .option('--seed <seed>', 'hexadecimal; default: a new one')
      .option('--seeds <count>', 'in simulation: so many seeds', wholeNumber)
      .option('--times <count>', 'its schedule so often, one after the other, on one cluster', wholeNumber)
      .option('--minutes <minutes>', 'how long faults go on, instead of the scenario’s own time', positive)

  program
    .command('list')
    .description('scenarios and faults')
    .action(() => {
      console.log(pc.bold('scenarios'))
      for (const { name, about, mustHold } of SCENARIOS)
        console.log(`  ${name.padEnd(20)} ${about} ${pc.dim(mustHold.join(' '))}`)
      console.log(pc.bold('faults'))
      for (const { name, about, lever } of FAULTS) console.log(`  ${name.padEnd(20)} ${about} ${pc.dim(lever)}`)
    })
  seeded(
    program
      .command('run')
      .description('one scenario, or several one after the other')
      .argument('<scenario...>')
      .option('--shrink', 'if a promise is violated, look for the fewest faults that still do it', false),
  ).action(async (names: string[], flags: Flags) => {
    const scenarios = names.map(scenarioNamed)
    await withSession(flags, async (session) => {
      const runs: RunRecord[] = []
      for (const scenario of scenarios) {
        const run = await session.run(scenario, oneRun(flags))
        runs.push(run)
        if (flags.shrink && run.verdict.state === 'violated') await session.shrink(scenario, run)
      }
      if (flags.times !== undefined) session.summarise(runs)
      return runs.map((run) => run.verdict.state)
    })
  })
  common(
    program
      .command('replay')
      .description("the schedule of an earlier run again: its run.json, or a schedule's file")
      .argument('<file>'),
  ).action(async (file: string, flags: Flags) => {
    const earlier = JSON.parse(readFileSync(file, 'utf8')) as Partial<RunRecord>
    const schedule = readSchedule(earlier)
    const scenario = scenarioNamed(earlier.scenario ?? 'storm')
    await withSession(flags, async (session) => [
      (
        await session.run(scenario, {
          schedule,
          ...(earlier.seed === undefined ? {} : { seed: earlier.seed }),
          ...(earlier.troubleMs === undefined ? {} : { troubleMs: earlier.troubleMs }),
        })
      ).verdict.state,
    ])
  })
  seeded(
    program
      .command('suite')
      .description('all scenarios, or these, on one cluster as long as it is well; goes on after a failure')
      .argument('[scenario...]')
      .option('--resume', 'go on with the suite that was interrupted in this directory', false),
  ).action(async (names: string[], flags: Flags & { resume: boolean }) => {
    const scenarios = names.length > 0 ? names.map(scenarioNamed) : SCENARIOS
    await withSession(flags, (session) => session.suite(scenarios, oneRun(flags), flags))
  })
  seeded(program.command('soak').description('faults of all kinds every few seconds, for long')).action(
    async (flags: Flags) => {
      await withSession(flags, async (session) => [
        (
          await session.run(scenarioNamed('storm'), {
            troubleMs: (flags.minutes ?? 60) * 60_000,
            ...(flags.seed ? { seed: flags.seed } : {}),
          })
        ).verdict.state,
      ])
    },
  )

  program
    .command('judge')
    .description(
      "the verdict on an earlier run once more, by today's checkers, from its run.json; writes its report anew",
    )
    .argument('<file>')
    .action(async (file: string) => {
      process.exitCode = EXIT_CODES[(await judgeAgain(file)).verdict.state]
    })
  program
    .command('report')
    .description('one table over all runs below a directory: recovery times by kind of fault (median, worst)')
    .argument('[directory]', 'where reports lie', join(DIRECTORY, 'runs'))
    .option('-o, --output <format>', 'text or json', 'text')
    .action((directory: string, { output }: { output: string }) => {
      const { summary, text, page } = summariseDirectory(directory)
      console.log(output === 'json' ? JSON.stringify(summary) : `${text}\n${page}`)
    })

  program.command('fleet').description('machines on one host, on a wire that can be cut (capstan chaos fleet)')
  program.exitOverride()
  try {
    await program.parseAsync(args, { from: 'user' })
  } catch (error) {
    const { code } = error as { code?: string }
    if (code?.startsWith('commander.'))
      process.exitCode = (error as { exitCode: number }).exitCode === 0 ? 0 : CANNOT_RUN
    else {
      const text =
        error instanceof UserError || error instanceof RangeError
          ? error.message
          : error instanceof Error
            ? (error.stack ?? error.message)
            : String(error)
      process.stderr.write(`${pc.red('capstan chaos:')} ${text}\n`)
      process.exitCode = CANNOT_RUN
    }
  }
}

/** Runs within one session, and makes the worst state the exit code; the cluster goes on every way out. */
async function withSession(flags: Flags, work: (session: Session) => Promise<PromiseState[]>): Promise<void> {
  const { on, against, masters, nodes, runtime, port, plant } = flags
  const session = new Session({
    ...{ on, masters, nodes, runtime, port },
    ...(against === undefined ? {} : { against }),
    ...(plant === undefined ? {} : { bugs: plant.split(',') }),
    directory: resolve(flags.directory),
  })
  let interrupts = 0
  const interrupt = () => {
    interrupts++
    process.stderr.write(
      interrupts === 1 ? '\ncapstan chaos: undoing faults and clearing up\n' : '\ncapstan chaos: still clearing up\n',
    )
    session.interrupt()
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, interrupt)
  try {
    const states = await work(session)
    const worst = (['violated', 'unknown', 'not tested'] as const).find((state) => states.includes(state)) ?? 'ok'
    process.exitCode = EXIT_CODES[worst]
  } finally {
    const left = await session.close()
    for (const text of left) process.stderr.write(`${pc.red('capstan chaos:')} left over: ${text}\n`)
    if (left.length > 0) process.exitCode = CANNOT_RUN
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, interrupt)
  }
}

const oneRun = ({ seed, minutes, seeds, times }: Flags): OneRun => ({
  ...(seed ? { seed } : {}),
  ...(minutes === undefined ? {} : { troubleMs: minutes * 60_000 }),
  ...(seeds === undefined ? {} : { seeds }),
  ...(times === undefined ? {} : { times: Math.max(1, times) }),
})

function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('not a whole number')
  return Number(text)
}

function positive(text: string): number {
  if (!(Number(text) > 0)) throw new InvalidArgumentError('not a number above 0')
  return Number(text)
}
