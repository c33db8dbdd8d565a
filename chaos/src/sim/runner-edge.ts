/**
 * `npm run sim -- [NAME …] [--seeds N] [--seed 0x…] [--first 0x…] [--bug NAME] [--planted] [--minutes M]
 * [--workers N] [--print] [--shrink] [--only N,… | none] [--trouble-ms MS]`.
 * `--scenario NAME` is the same as the name alone.
 *
 * Runs seeds of scenarios over several processes. A failing seed prints the one line that repeats it. A share of the seeds
 * runs twice: the same seed must give the same trace hash. `--planted` runs each deliberate bug until its checker finds it. `--minutes`: begins no
 * further seed after so long, and says what was done by then. `--seed S --shrink`: the fewest troubles with which that seed still fails; `--only`
 * runs it with these alone.
 */
import { execFileSync, fork, type ChildProcess } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { goOnUnread } from '@capstan/real'
import { Command, InvalidArgumentError, Option } from 'commander'
import { addUp } from './scenario.js'
import { COVERED, PLANTED, SCENARIOS } from './scenarios.js'
import { runSeed, type SeedOrder, type SeedResult } from './seed-worker-edge.js'
import { fewest } from './shrink.js'

const FIRST_SEED = 0x5f3c2a
const TWICE_EVERY = 10
/** Wall-clock time of one seed: a hundred times what the slowest takes; less is not enough on a machine that others keep busy. */
const SEED_MS_MAX = 1_200_000
const PLANTED_SEEDS_MAX = 200
/** A line to stderr at most this often tells how far a long run is. */
const PROGRESS_EVERY_MS = 20_000
/** Most of what a run makes is garbage soon: a larger nursery has fewer collections. */
const WORKER_ARGUMENTS = ['--enable-source-maps', '--max-semi-space-size=32']

function whole(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError('not a whole number above 0')
  return Number(text)
}

function seedText(text: string): string {
  if (!Number.isSafeInteger(Number(text)) || text.trim() === '') throw new InvalidArgumentError('not a seed: 0x5f3c2a')
  return text
}

interface Flags {
  seeds: number
  scenario?: string
  seed?: string
  first: string
  workers?: number
  minutes?: number
  bug?: string
  planted: boolean
  print: boolean
  shrink: boolean
  only?: string
  troubleMs?: number
}

goOnUnread()
const scenarioNames = SCENARIOS.map(({ name }) => name)
const program = new Command('npm run sim --')
  .description('the store, and the whole control plane, in virtual time, from seeds')
  .argument('[scenario...]', `of ${scenarioNames.join(', ')}; default: all`)
  .option('--seeds <count>', 'so many of each scenario', whole, 20)
  .option('--first <seed>', 'the first of them', seedText, `0x${FIRST_SEED.toString(16)}`)
  .option('--minutes <minutes>', 'begin none after so long', Number)
  .option('--workers <count>', 'processes', whole)
  .addOption(new Option('--scenario <name>', 'the same as the name alone').choices(scenarioNames))
  .option('--seed <seed>', 'this one, here, once')
  .option('--print', 'with all that its members log', false)
  .option('--shrink', 'if it fails: the fewest troubles with which it still does', false)
  .option('--only <numbers>', 'with these troubles alone, or none')
  .option('--trouble-ms <ms>', 'trouble ends after so long', Number)
  .option('--planted', 'each deliberate bug must be found by the checker named for it', false)
  .addOption(
    new Option('--bug <name>', 'planted in that seed; with --planted: only this one').choices(
      PLANTED.map(({ bug }) => bug),
    ),
  )
  .parse()
const values = program.opts<Flags>()

const workers = values.workers ?? Math.max(1, Math.min(availableParallelism(), 8))
const asked = [...program.args, ...(values.scenario ? [values.scenario] : [])]
const names = asked.length > 0 ? asked : scenarioNames
for (const name of names)
  if (!scenarioNames.includes(name)) program.error(`error: no scenario ${name}; there are ${scenarioNames.join(', ')}`)
const seedAt = (i: number) => `0x${(Number(values.first) + i).toString(16)}`

if (values.seed !== undefined) process.exitCode = await (values.shrink ? shrink : one)(names[0] as string, values.seed)
else if (values.planted) process.exitCode = await planted()
else process.exitCode = await many(values.seeds)

/** One seed, here, with everything that it has to say. */
async function one(scenario: string, seed: string): Promise<number> {
  const { bug, print, only } = values
  const result = await runSeed({
    scenario,
    seed,
    print,
    ...(bug ? { bug } : {}),
    ...(only === undefined ? {} : { only: only === 'none' ? [] : only.split(',').map(Number) }),
    ...(values.troubleMs === undefined ? {} : { troubleMs: values.troubleMs }),
  })
  for (const violation of result.report?.violations ?? []) console.log(violation)
  if (result.error) console.log(result.error)
  console.log(
    `${scenario} ${seed}: ${failed(result) ? 'FAILED' : 'ok'}, trace hash ${result.report?.traceHash ?? '-'}, ${(result.wallMs / 1000).toFixed(1)} s`,
  )
  console.log(JSON.stringify(result.report?.coverage ?? {}))
  return failed(result) ? 1 : 0
}

/** The fewest troubles, and the least time of them, with which a seed still fails by the same checker. */
async function shrink(scenario: string, seed: string): Promise<number> {
  const order: SeedOrder = { scenario, seed, ...(values.bug ? { bug: values.bug } : {}) }
  const whole = await runSeed(order)
  const told = whole.report?.violations[0]
  if (!whole.report || told === undefined) {
    console.log(`${scenario} ${seed}: ${whole.error ?? 'ok: nothing to shrink'}`)
    return whole.error ? 1 : 0
  }
  console.log(`${scenario} ${seed} fails with ${whole.report.troubles.length} troubles: ${told}`)
  const checker = told.slice(0, told.indexOf(':') + 1)
  let runs = 1
  let last = whole
  const firstFailing = async (orders: readonly SeedOrder[]) => {
    let found: SeedResult | undefined
    await work(
      orders,
      (result) => {
        runs++
        if (result.report?.violations.some((violation) => violation.startsWith(checker))) found ??= result
      },
      () => found !== undefined,
    )
    if (found) last = found
    return found ? orders.indexOf(found.order) : undefined
  }
  const only = await fewest(
    whole.report.troubles.map(({ number }) => number),
    (choices) => firstFailing(choices.map((numbers) => ({ ...order, only: numbers }))),
  )
  const troubles = whole.report.troubles.filter(({ number }) => only.includes(number))
  // What comes after the last of them is not needed; clients may still take a while to notice.
  const untilMs = Math.ceil(troubles.at(-1)?.atMs ?? 0)
  const shorter = [1000, 10_000, 60_000].map((moreMs): SeedOrder => ({ ...order, only, troubleMs: untilMs + moreMs }))
  const at = await firstFailing(shorter)
  console.log(`left after ${runs} runs: ${troubles.length} of ${whole.report.troubles.length} troubles`)
  for (const { number, atMs, what } of troubles) console.log(`  ${number} at ${(atMs / 1000).toFixed(3)} s: ${what}`)
  for (const violation of last.report?.violations ?? []) console.log(`  ${violation}`)
  const bug = values.bug ? ` --bug ${values.bug}` : ''
  const time = at === undefined ? '' : ` --trouble-ms ${shorter[at]?.troubleMs}`
  const numbers = only.length > 0 ? only.join(',') : 'none'
  console.log(`npm run sim -- ${scenario} --seed ${seed}${bug} --only ${numbers}${time}   # commit ${commit()}`)
  return 1
}

async function many(count: number): Promise<number> {
  const orders = names.flatMap((scenario) =>
    Array.from({ length: count }, (_, i): SeedOrder => ({ scenario, seed: seedAt(i) })),
  )
  // The second time comes soon after the first, so that a run that is cut short has both.
  const ordered = orders.flatMap((order, i) => (i % TWICE_EVERY === 0 ? [order, order] : [order]))
  const hashes = new Map<string, string>()
  const coverage = new Map<string, Record<string, number>>()
  let simulatedMs = 0
  let steps = 0
  let failures = 0
  let runs = 0
  const done = new Map<string, number>()
  const started = performance.now()
  let toldAt = started
  const tellProgress = () => {
    const now = performance.now()
    if (now - toldAt < PROGRESS_EVERY_MS) return
    toldAt = now
    const parts = [...done].map(([scenario, seeds]) => `${scenario} ${seeds}`)
    console.error(
      `sim: ${runs} of ${ordered.length} runs after ${((now - started) / 1000).toFixed(0)} s (seeds: ${parts.join(', ')}), ${failures} failures`,
    )
  }
  const isLate = () => performance.now() - started > (values.minutes ?? Number.POSITIVE_INFINITY) * 60_000
  const take = (result: SeedResult) => {
    const { scenario, seed } = result.order
    runs++
    if (failed(result)) {
      failures++
      for (const violation of result.report?.violations ?? []) console.log(`  ${violation}`)
      if (result.error) console.log(`  ${result.error}`)
      console.log(repeatLine(result))
    }
    const id = `${scenario} ${seed}`
    const hash = result.report?.traceHash ?? ''
    const before = hashes.get(id)
    if (before === undefined) done.set(scenario, (done.get(scenario) ?? 0) + 1)
    if (before !== undefined && before !== hash) {
      failures++
      console.log(`  determinism: trace hash ${before} the first time, ${hash} the second`)
      console.log(repeatLine(result))
    }
    hashes.set(id, hash)
    simulatedMs += result.report?.simulatedMs ?? 0
    steps += result.report?.steps ?? 0
    const sum = coverage.get(scenario) ?? {}
    addUp(sum, result.report?.coverage ?? {})
    coverage.set(scenario, sum)
    tellProgress()
  }
  await work(ordered, take, isLate)
  const wallMs = performance.now() - started
  for (const [scenario, sum] of coverage) {
    console.log(`${scenario}:`)
    for (const line of figures(sum)) console.log(`  ${line}`)
    // A run of a few seeds need not meet everything.
    const seeds = done.get(scenario) ?? 0
    if (seeds < 20) continue
    for (const name of COVERED[scenario] ?? [])
      if (!((sum[name] ?? 0) > 0)) {
        failures++
        console.log(`  coverage: no ${name} in ${seeds} seeds of ${scenario}`)
      }
  }
  const seeds = [...done.values()].reduce((sum, n) => sum + n, 0)
  console.log(
    `${seeds} seeds (${runs - seeds} of them twice): ${failures} failures, ${(simulatedMs / 3600_000).toFixed(2)} simulated hours in ${(wallMs / 1000).toFixed(0)} s (${(simulatedMs / wallMs).toFixed(0)} ×), ${steps} events, ${workers} workers`,
  )
  return failures > 0 ? 1 : 0
}

/** One line for each kind: faults, drills, and so on by what stands before the dot. */
function figures(sum: Record<string, number>): string[] {
  const groups = new Map<string, string[]>()
  for (const [name, n] of Object.entries(sum).sort(([a], [b]) => (a < b ? -1 : 1))) {
    const dot = name.indexOf('.')
    const group = dot < 0 ? 'all' : name.slice(0, dot)
    groups.set(group, [...(groups.get(group) ?? []), `${dot < 0 ? name : name.slice(dot + 1)} ${n}`])
  }
  return [...groups].map(([group, parts]) => `${group}: ${parts.join(', ')}`)
}

/** Each bug must be found by the checker named for it; without the bug the same seeds are green. */
async function planted(): Promise<number> {
  let missed = 0
  for (const { bug, scenario, checker } of PLANTED.filter(
    (p) => names.includes(p.scenario) && (values.bug === undefined || p.bug === values.bug),
  )) {
    let found: SeedResult | undefined
    let seeds = 0
    const orders = Array.from({ length: PLANTED_SEEDS_MAX }, (_, i): SeedOrder => ({ scenario, seed: seedAt(i), bug }))
    await work(
      orders,
      (result) => {
        seeds++
        if (!found && result.report?.violations.some((v) => v.startsWith(`${checker}:`))) found = result
      },
      () => found !== undefined,
    )
    const clean = found && (await runSeed({ scenario, seed: found.order.seed }))
    const verdict = !found
      ? 'NOT FOUND'
      : clean && failed(clean)
        ? 'found, but its seed fails without the bug too'
        : `found by ${checker} with seed ${found.order.seed} after ${seeds} seeds`
    if (!found || (clean && failed(clean))) missed++
    console.log(`planted ${bug} (${scenario}): ${verdict}`)
  }
  return missed > 0 ? 1 : 0
}

function failed(result: SeedResult): boolean {
  return result.error !== undefined || (result.report?.violations.length ?? 0) > 0
}

function repeatLine({ order, report }: SeedResult): string {
  return `npm run sim -- --scenario ${order.scenario} --seed ${order.seed}   # commit ${commit()}, trace hash ${report?.traceHash ?? '-'}`
}

function commit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim()
  } catch {
    return 'unknown'
  }
}

/** Gives the orders to child processes, one at a time each. */
async function work(
  orders: readonly SeedOrder[],
  take: (result: SeedResult) => void,
  enough: () => boolean = () => false,
): Promise<void> {
  let next = 0
  const children = new Set<ChildProcess>()
  const loop = async (): Promise<void> => {
    let child: ChildProcess | undefined
    while (next < orders.length && !enough()) {
      const order = orders[next++] as SeedOrder
      child ??= fork(join(import.meta.dirname, 'seed-worker-edge.js'), [], { execArgv: WORKER_ARGUMENTS })
      children.add(child)
      const result = await ask(child, order)
      if (child.exitCode !== null || child.signalCode !== null) {
        children.delete(child)
        child = undefined
      }
      if (enough()) break // Only now: it was ended for that, and its seed has no verdict.
      take(result)
    }
    // A deliberate bug can keep a cluster busy for minutes; nobody needs the rest of the others' seeds.
    if (enough()) for (const each of children) each.kill('SIGKILL')
    child?.kill()
  }
  await Promise.all(Array.from({ length: Math.min(workers, orders.length) }, loop))
}

/** A seed without a verdict in `SEED_MS_MAX` is a failure, and its worker is ended. */
function ask(child: ChildProcess, order: SeedOrder): Promise<SeedResult> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => child.kill('SIGKILL'), SEED_MS_MAX)
    const onExit = (code: number | null, signal: NodeJS.Signals | null) => {
      clearTimeout(timer)
      child.off('message', onMessage)
      resolve({ order, error: `worker ended with ${signal ?? `code ${code}`}: no verdict`, wallMs: 0 })
    }
    const onMessage = (result: SeedResult) => {
      clearTimeout(timer)
      child.off('exit', onExit)
      resolve({ ...result, order })
    }
    child.once('exit', onExit)
    child.once('message', onMessage)
    child.send(order)
  })
}
