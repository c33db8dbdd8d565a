import type { Clock, Log, Timer, World } from '@capstan/actor'
import type { Grants } from '@capstan/protocol'
import { guardGlobals, macrotasks } from './globals-edge.js'
import { EventQueue, type SimEvent } from './event-queue.js'
import { Network } from './network.js'
import { type BusHost, SimBus } from './sim-bus.js'
import { type DiskHost, SimDisk } from './sim-disk.js'
import { SimRandom } from './sim-random.js'
import { Trace } from './trace.js'

/** Where simulated wall clocks start: 2026-01-01T00:00:00Z. */
const EPOCH_MS = Date.UTC(2026, 0, 1)
const LOG_LINES_MAX = 20_000
/** How much later than messages a machine that wakes up may run its overdue timers. */
const WAKE_MS = 20

export interface SimulationOptions {
  /** Everything that is chance follows from it. */
  seed: string
  /** Prints each line of the components' logs. */
  print?: (line: string) => void
}

/** A whole world in one process: virtual time, machines, a network and disks, all from one seed. */
export class Simulation {
  readonly random: SimRandom
  readonly network: Network
  readonly trace = new Trace()
  readonly logLines: string[] = []
  private readonly queue = new EventQueue()
  private readonly machines = new Map<string, SimMachine>()
  private time = 0
  private problem: unknown
  steps = 0

  constructor(readonly options: SimulationOptions) {
    this.random = new SimRandom(options.seed)
    this.network = new Network(this.random.fork('network'), this.trace, () => this.time)
  }

  /** Virtual ms since the start. */
  get nowMs(): number {
    return this.time
  }

  /** The machine of this name, made at the first call. */
  machine(name: string): SimMachine {
    let machine = this.machines.get(name)
    if (!machine) {
      machine = new SimMachine(this, name)
      this.machines.set(name, machine)
    }
    return machine
  }

  /** Runs `run` at a virtual time, outside all machines: for workloads and nemeses. */
  at(atMs: number, run: () => void): SimEvent {
    return this.queue.push(Math.max(atMs, this.time), run)
  }

  /** Resolves after so long in virtual time, outside all machines. */
  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.at(this.time + delayMs, resolve))
  }

  /** Something that must not happen did: ends the run with this error. */
  fail(error: unknown): void {
    this.problem ??= error
  }

  /**
   * Steps from event to event until `until` holds, or to `untilMs`. After each event the microtasks are drained, so that
   * whatever a component awaits is in order before the next one.
   * @throws what a component threw outside of any promise; Error if `until` does not hold by `untilMs`, or nothing is left to happen.
   */
  async run(options: { until?: () => boolean; untilMs: number; what?: string }): Promise<void> {
    const { until } = options
    const release = guardGlobals((error) => this.fail(error))
    try {
      // The first of them comes after what was begun before the run, outside of any event, has settled.
      await macrotasks(() => {
        if (this.problem !== undefined) throw this.problem
        if (until?.()) return false
        const next = this.queue.peek()
        if (!next || next.atMs > options.untilMs) {
          this.time = Math.max(this.time, options.untilMs)
          if (until)
            throw new Error(`not by ${options.untilMs} ms of virtual time: ${options.what ?? 'the awaited condition'}`)
          return false
        }
        this.queue.pop()
        if (next.atMs > this.time) this.time = next.atMs
        this.steps++
        next.run()
        return true
      })
    } finally {
      release()
    }
  }

  /** Runs until a promise settles, and gives its value. */
  async finish<T>(work: Promise<T>, untilMs: number, what: string): Promise<T> {
    let settled = false
    let failed: unknown
    let value: T | undefined
    work.then(
      (v) => {
        settled = true
        value = v
      },
      (error: unknown) => {
        settled = true
        failed = error ?? new Error('rejected without a reason')
      },
    )
    await this.run({ until: () => settled, untilMs, what })
    if (failed !== undefined) throw failed
    return value as T
  }

  log(line: string): void {
    this.logLines.push(line)
    if (this.logLines.length > LOG_LINES_MAX) this.logLines.splice(0, LOG_LINES_MAX / 2)
    this.options.print?.(line)
  }

  schedule(atMs: number, run: () => void): SimEvent {
    return this.queue.push(Math.max(atMs, this.time), run)
  }
}

/** Kills what one life of a machine has scheduled, when it ends. */
interface Life {
  alive: boolean
  number: number
}

export interface SimWorld extends World {
  readonly bus: SimBus
  readonly process: SimProcess
}

/** One process of a machine, which may die or stand still alone. */
export class SimProcess {
  private killed = false
  /** Virtual time; in the past: it runs. */
  pausedUntil = 0

  constructor(
    private readonly life: Life,
    private readonly told: (what: string, detail: string) => void,
    private readonly died: () => void,
    private readonly nowMs: () => number,
  ) {}

  get alive(): boolean {
    return this.life.alive && !this.killed
  }

  /** As by SIGKILL: it stops between two instructions. What it wrote stays with the machine, synced or not. */
  kill(): void {
    if (!this.alive) return
    this.told('kill', '')
    this.killed = true
    this.died()
  }

  /** As by SIGSTOP, for so long: what falls due then, and what arrives, happens afterwards, in order. */
  pause(durationMs: number): void {
    if (!this.alive) return
    this.told('stop', String(durationMs))
    this.pausedUntil = Math.max(this.pausedUntil, this.nowMs() + durationMs)
  }
}

/** A computer: processes that die together, a disk that outlives them, a clock of its own. */
export class SimMachine {
  readonly disk: SimDisk
  /** Ms by which its wall clock is wrong; may change at any time. */
  clockOffsetMs = 0
  /** How fast its monotonic clock runs: 0.95…1.05. */
  private rate = 1
  private rateSinceMs = 0
  private monotonicAtRateMs = 0
  private life: Life = { alive: true, number: 1 }
  private pausedUntil: number | undefined
  private readonly random: SimRandom
  private worlds = 0

  constructor(
    private readonly simulation: Simulation,
    readonly name: string,
  ) {
    this.random = simulation.random.fork(`machine/${name}`)
    this.disk = new SimDisk(this.random.fork('disk'))
  }

  get up(): boolean {
    return this.life.alive
  }

  get paused(): boolean {
    return this.pausedUntil !== undefined
  }

  /** A world for one process of this machine, with a directory of its own and a bus connection under this identity. */
  world(options: { identity: string; inbox: string; grants: Grants; directory?: string }): SimWorld {
    const { life, simulation } = this
    const process = new SimProcess(
      life,
      (what, detail) => simulation.trace.add(what, simulation.nowMs, `${this.name}/${options.identity}`, detail),
      () => bus.abandon(),
      () => simulation.nowMs,
    )
    const host: BusHost & DiskHost = {
      machine: this.name,
      get alive() {
        return process.alive
      },
      after: (delayMs, what, run) => this.after(process, delayMs, what, run),
      at: (atMs, what, run) => void this.enter(process, atMs, what, run),
      monotonicMs: () => this.monotonic(),
    }
    const bus: SimBus = new SimBus(simulation.network, host, options)
    return {
      process,
      clock: this.clock(process),
      random: this.random.fork(`life-${life.number}/${options.identity}/${++this.worlds}`),
      bus,
      disk: this.disk.mount(host, `/${options.directory ?? options.identity}`),
      log: this.logger({ machine: this.name, identity: options.identity }),
    }
  }

  /** Everything on it stops between two instructions. What was not synced is lost or torn, as the seed says. */
  crash(): void {
    if (!this.life.alive) return
    this.simulation.trace.add('crash', this.simulation.nowMs, this.name, '')
    this.life.alive = false
    this.pausedUntil = undefined
    for (const bus of this.simulation.network.of(this.name)) bus.abandon()
    this.disk.crash()
  }

  /** A new life: the caller starts the processes again. */
  restart(): void {
    if (this.life.alive) return
    this.simulation.trace.add('restart', this.simulation.nowMs, this.name, '')
    this.life = { alive: true, number: this.life.number + 1 }
  }

  /** Nothing on it runs for so long; what falls due then, and what arrives, happens afterwards, in order. */
  pause(durationMs: number): void {
    if (!this.life.alive || this.pausedUntil !== undefined) return
    this.simulation.trace.add('pause', this.simulation.nowMs, this.name, String(durationMs))
    const until = this.simulation.nowMs + durationMs
    this.pausedUntil = until
    this.simulation.schedule(until, () => {
      if (this.pausedUntil === until) this.pausedUntil = undefined
    })
  }

  setClockRate(rate: number): void {
    this.monotonicAtRateMs = this.monotonic()
    this.rateSinceMs = this.simulation.nowMs
    this.rate = rate
  }

  private after(process: SimProcess, delayMs: number, what: string, run: () => void): { cancel(): void } {
    // A delay is measured on the machine's own clock.
    return this.enter(process, this.simulation.nowMs + Math.max(0, delayMs) / this.rate, what, run)
  }

  /** Runs at a virtual time, later if the process or its machine stands still then, never if it is dead. */
  private enter(process: SimProcess, atMs: number, what: string, run: () => void): { cancel(): void } {
    let cancelled = false
    let event: SimEvent
    const fire = () => {
      if (cancelled || !process.alive) return
      const untilMs = Math.max(this.pausedUntil ?? 0, process.pausedUntil)
      if (this.simulation.nowMs < untilMs) {
        // What came by the network may be seen before an overdue timer runs: who wakes up can act on old beliefs.
        const late = what === 'timer' ? this.random.between(0, WAKE_MS) : 0
        event = this.simulation.schedule(untilMs + late, fire)
        return
      }
      this.simulation.trace.add('run', this.simulation.nowMs, this.name, what)
      run()
    }
    event = this.simulation.schedule(atMs, fire)
    return {
      cancel() {
        cancelled = true
        event.cancelled = true
      },
    }
  }

  private monotonic(): number {
    return this.monotonicAtRateMs + (this.simulation.nowMs - this.rateSinceMs) * this.rate
  }

  private clock(process: SimProcess): Clock {
    return {
      nowMs: () => Math.floor(EPOCH_MS + this.simulation.nowMs + this.clockOffsetMs),
      monotonicMs: () => this.monotonic(),
      setTimer: (delayMs, run): Timer => this.after(process, delayMs, 'timer', run),
      defer: (run) => void this.enter(process, this.simulation.nowMs, 'defer', run),
    }
  }

  private logger(fields: object): Log {
    const write = (level: string) => (more: object, text: string) => {
      const at = (this.simulation.nowMs / 1000).toFixed(6)
      const { err, ...rest } = { ...fields, ...more } as { err?: unknown }
      const error = err instanceof Error ? ` ${err.message}` : ''
      this.simulation.log(`${at} ${level} ${text}${error} ${JSON.stringify(rest)}`)
    }
    return {
      debug: () => undefined,
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
      child: (more) => this.logger({ ...fields, ...more }),
    }
  }
}
