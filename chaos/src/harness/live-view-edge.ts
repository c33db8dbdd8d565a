/** What the terminal shows while a run goes on: a block that is drawn anew where it is a terminal, plain lines elsewhere. */
import pc from 'picocolors'
import type { RunEvents } from './run.js'
import type { FaultRecord, PromiseState, RunRecord, Sample } from './types.js'

const PLAIN_EVERY_MS = 5000
const WIDTH = 28

interface Out {
  write(text: string): unknown
  isTTY?: boolean
  columns?: number
}

export class LiveView implements RunEvents {
  private phaseName = ''
  private phaseEndsMs: number | undefined
  private phaseStartMs = 0
  private drawn = 0
  private plainMs = Number.NEGATIVE_INFINITY
  private last: Sample | undefined
  private rate = ''

  constructor(
    private readonly nowMs: () => number,
    private readonly out: Out = process.stdout,
  ) {}

  phase(name: string, lastsMs?: number): void {
    this.phaseName = name
    this.phaseStartMs = this.nowMs()
    this.phaseEndsMs = lastsMs === undefined ? undefined : this.phaseStartMs + lastsMs
    this.line(pc.bold(name) + (lastsMs === undefined ? '' : pc.dim(` (at most ${seconds(lastsMs)})`)))
  }

  fault(record: FaultRecord, what: 'in force' | 'undone' | 'not tested' | 'failed'): void {
    const color = { 'in force': pc.yellow, undone: pc.green, 'not tested': pc.dim, failed: pc.red }[what]
    const text = what === 'in force' ? record.proof : what === 'undone' ? record.undoProof : record.why
    this.line(`${color(what.padEnd(10))} ${describeFault(record)}${text ? pc.dim(`  ${text}`) : ''}`)
  }

  sample(sample: Sample, inForce: readonly FaultRecord[], wrong: readonly string[]): void {
    this.rate = rateOf(this.last, sample)
    this.last = sample
    const lines = this.describe(sample, inForce, wrong)
    if (!this.out.isTTY) {
      if (sample.atMs - this.plainMs < PLAIN_EVERY_MS) return
      this.plainMs = sample.atMs
      this.out.write(`${lines.map((one) => one.trim()).join(' · ')}\n`)
      return
    }
    this.erase()
    const width = this.out.columns ?? 100
    for (const line of lines) this.out.write(`${line.slice(0, width + 40)}\n`)
    this.drawn = lines.length
  }

  /** What it draws goes; a line stays. */
  line(text: string): void {
    this.erase()
    this.out.write(`${pc.dim(seconds(this.nowMs()).padStart(8))}  ${text}\n`)
  }

  private erase(): void {
    if (this.drawn > 0) this.out.write(`\u001b[${this.drawn}A\u001b[J`)
    this.drawn = 0
  }

  private describe(sample: Sample, inForce: readonly FaultRecord[], wrong: readonly string[]): string[] {
    const up = sample.masters.filter((master) => master.up).length
    const ready = sample.nodes.filter((node) => node.ready).length
    const counters = Object.entries(sample.counters)
      .map(([name, value]) => `${name} ${value}`)
      .join(', ')
    return [
      `${pc.dim(seconds(sample.atMs).padStart(8))}  ${this.progress(sample.atMs)} ${this.phaseName}`,
      `${''.padStart(8)}  masters ${up}/${sample.masters.length}, leader ${sample.leader ?? pc.red('nobody')}, term ${sample.term ?? '?'}, nodes ready ${ready}/${sample.nodes.length}`,
      `${''.padStart(8)}  ${counters}${this.rate}`,
      `${''.padStart(8)}  in force: ${inForce.length === 0 ? 'nothing' : pc.yellow(inForce.map(describeFault).join('; '))}`,
      `${''.padStart(8)}  ${sample.undesired === undefined ? pc.green('as desired') : pc.yellow(`not yet as desired: ${sample.undesired}`)}; ${wrong.length === 0 ? pc.green('invariants hold so far') : pc.red(`violated: ${wrong.slice(0, 3).join('; ')}`)}`,
    ]
  }

  private progress(atMs: number): string {
    if (this.phaseEndsMs === undefined) return ''.padEnd(WIDTH)
    // A look may have begun before the phase did.
    const passed = (atMs - this.phaseStartMs) / Math.max(1, this.phaseEndsMs - this.phaseStartMs)
    const share = Math.min(1, Math.max(0, passed))
    const full = Math.round(share * (WIDTH - 2))
    return `[${'='.repeat(full)}${' '.repeat(WIDTH - 2 - full)}]`
  }
}

function rateOf(before: Sample | undefined, now: Sample): string {
  const [a, b] = [before?.counters['acknowledged'], now.counters['acknowledged']]
  if (!before || a === undefined || b === undefined) return ''
  return ` (${Math.round(((b - a) * 1000) / Math.max(1, now.atMs - before.atMs))} acknowledged/s)`
}

const seconds = (ms: number) => `${(ms / 1000).toFixed(1)}s`

export function describeFault(record: Pick<FaultRecord, 'fault' | 'parameters' | 'struck'>): string {
  const parameters = Object.entries(record.parameters)
    .map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(' ')
  return `${record.fault} ${parameters}${record.struck.length > 0 ? ` → ${record.struck.join(', ')}` : ''}`
}

export const STATE_COLORS: Record<PromiseState, (text: string) => string> = {
  ok: pc.green,
  violated: pc.red,
  unknown: pc.yellow,
  'not tested': pc.dim,
}

/** The end of a run for people: verdict by promise, recoveries, what was not tested, how to repeat it. */
export function describeRun(run: RunRecord, repeat: string): string[] {
  const { verdict } = run
  const lines = [
    `${STATE_COLORS[verdict.state](verdict.state.toUpperCase())}  ${run.scenario} on ${run.on}, seed ${run.seed}`,
  ]
  for (const promise of verdict.promises) {
    lines.push(
      `  ${STATE_COLORS[promise.state](promise.state.padEnd(10))} ${promise.promise.padEnd(4)} ${promise.text.replaceAll('\n', `\n${' '.repeat(18)}`)}`,
    )
    for (const evidence of promise.evidence.slice(0, 5)) lines.push(pc.dim(`                  ${evidence}`))
  }
  for (const recovery of verdict.recoveries) {
    const fault = run.faults.find((one) => one.index === recovery.index)
    lines.push(
      `  ${fault ? describeFault(fault) : recovery.fault}: first write after ${time(recovery.firstWriteMs)}, gap ${time(recovery.writeGapMs)}, desired state after ${time(recovery.desiredStateMs)}`,
    )
  }
  const { total, failed } = verdict.requests
  lines.push(`  requests ${total}, failed ${failed} (${total === 0 ? 0 : ((failed / total) * 100).toFixed(2)} %)`)
  for (const fault of run.faults.filter((one) => one.result === 'failed'))
    lines.push(pc.red(`  fault failed: ${describeFault(fault)}: ${fault.why}`))
  for (const { what, why } of run.notTested) lines.push(pc.dim(`  not tested: ${what}: ${why}`))
  for (const trouble of run.troubles) lines.push(pc.red(`  ${trouble}`))
  lines.push(`  again: ${repeat}`)
  return lines
}

const time = (ms: number | null | undefined) =>
  ms === undefined ? '–' : ms === null ? 'not reached' : ms < 1000 ? `${Math.round(ms)} ms` : seconds(ms)
