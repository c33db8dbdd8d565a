import type { LinkCondition, Simulation, SimRandom } from '@capstan/sim'
import type { Trouble } from './scenario.js'

/**
 * Faults that must be survived: any of these, at any time, as long as a majority of the store's disks stay whole.
 * Not here: a disk that loses what it synced.
 */
export interface FaultTargets {
  /** Names of machines that may crash and be started again. */
  machines: readonly string[]
  /** Machines whose links may be cut, delayed and made lossy. */
  linked: readonly string[]
  restart(machine: string): void
}

export type FaultName =
  | 'crashMachine'
  | 'powerCut'
  | 'pauseMachine'
  | 'isolate'
  | 'partition'
  | 'oneWayCut'
  | 'clogLink'
  | 'lossyNetwork'
  | 'duplicateMessages'
  | 'reorderMessages'
  | 'slowDisk'
  | 'fullDisk'
  | 'skewClock'
  | 'jumpClock'
  | 'reconnectBus'
  | 'cutLink'
  | 'crashAtWrite'
  | 'failingDisk'
  | 'brimfulDisk'

export const FAULTS: readonly FaultName[] = [
  'crashMachine',
  'powerCut',
  'pauseMachine',
  'isolate',
  'partition',
  'oneWayCut',
  'clogLink',
  'lossyNetwork',
  'duplicateMessages',
  'reorderMessages',
  'slowDisk',
  'fullDisk',
  'skewClock',
  'jumpClock',
  'reconnectBus',
]

/** Also these: partial partitions, a crash before some operation of a disk, one whose operations fail for a moment, and
 *  one that has no room for what a log or a checkpoint takes. */
export const ALL_FAULTS: readonly FaultName[] = [...FAULTS, 'cutLink', 'crashAtWrite', 'failingDisk', 'brimfulDisk']

export const NORMAL_CAPACITY_BYTES = 1024 ** 4
/** Less than a member of the store wants to have free: it refuses writes, and must not fall. */
const ALMOST_FULL_BYTES = 60 * 1024 * 1024
const POWER_CUT_MS_MAX = 3000
const PAUSE_MS_MAX = 9000
/** A segment of the simulated store's log, and some more. */
const BRIMFUL_BYTES = 48 * 1024
/** Short of what lets a supervisor give up. */
const FAILING_MS_MAX = 1500
export const NORMAL_SYNC_MS: readonly [number, number] = [0.3, 2]

/**
 * Draws faults one after another until told to stop, and counts them. Each ends by itself; `heal` ends all. What one of them
 * draws hangs on its number alone: so any of them can be left out.
 */
export class Nemesis {
  readonly counts: Record<string, number> = {}
  /** When something was not as it should be, ms: from the strike until it ended. Wrong clocks are not counted. */
  readonly troubles: { fromMs: number; toMs: number }[] = []
  /** Faults that struck. */
  readonly struck: Trouble[] = []
  private readonly random: SimRandom
  private drawn = 0
  private stopped = false

  constructor(
    private readonly simulation: Simulation,
    private readonly targets: FaultTargets,
    private readonly options: {
      /** Time between two of them. Missing: only `strikeOne` makes them. */
      everyMs?: [low: number, high: number]
      faults?: readonly FaultName[]
      /** How long one lasts. Default 300 to 6,000. */
      lastsMs?: [low: number, high: number]
      /** See `ScenarioOptions`. */
      only?: readonly number[] | undefined
    },
  ) {
    this.random = simulation.random.fork('nemesis')
    if (options.everyMs) this.next(options.everyMs)
  }

  /** One fault, now; without a number of the caller's own: the next one. */
  strikeOne(number = this.drawn++): void {
    const { only, faults = FAULTS } = this.options
    if (this.stopped || (only && !only.includes(number))) return
    const random = this.random.fork(String(number))
    this.strike(number, random.pick(faults), random)
  }

  /** No more faults: links whole, machines up and running, clocks at their rate. */
  heal(): void {
    this.stopped = true
    this.simulation.network.heal()
    for (const name of [...this.targets.linked, ...this.targets.machines]) {
      const machine = this.simulation.machine(name)
      machine.setClockRate(1)
      machine.disk.condition.syncMs = [...NORMAL_SYNC_MS]
      machine.disk.tripwire = undefined
      machine.disk.condition.capacityBytes = NORMAL_CAPACITY_BYTES
      machine.disk.condition.failing = false
      for (const bus of this.simulation.network.of(name)) bus.reconnect()
    }
    for (const name of this.targets.machines) this.startAgain(name)
  }

  private next(everyMs: [low: number, high: number]): void {
    const [low, high] = everyMs
    this.simulation.at(this.simulation.nowMs + this.random.between(low, high), () => {
      if (this.stopped) return
      this.strikeOne()
      this.next(everyMs)
    })
  }

  private strike(number: number, fault: FaultName, random: SimRandom): void {
    const { simulation, targets } = this
    const name = random.pick(targets.machines)
    const machine = simulation.machine(name)
    const lasts = random.between(...(this.options.lastsMs ?? [300, 6000]))
    this.counts[`fault.${fault}`] = (this.counts[`fault.${fault}`] ?? 0) + 1
    simulation.trace.add('fault', simulation.nowMs, name, fault)
    if (fault !== 'skewClock' && fault !== 'jumpClock')
      this.troubles.push({
        fromMs: simulation.nowMs,
        toMs: simulation.nowMs + Math.max(lasts, POWER_CUT_MS_MAX, PAUSE_MS_MAX),
      })
    const what = `${fault} ${name} for ${lasts.toFixed(0)} ms`
    this.struck.push({ number, atMs: simulation.nowMs, what })
    simulation.log(`${(simulation.nowMs / 1000).toFixed(6)} FAULT ${number} ${what}`)
    const later = (run: () => void) =>
      simulation.at(simulation.nowMs + lasts, () => {
        if (!this.stopped) run()
      })
    switch (fault) {
      case 'crashMachine':
        // A second one now and then: a majority may be gone for a while, nothing may be lost by it.
        for (const victim of random.chance(0.15) ? [name, random.pick(targets.machines)] : [name]) {
          simulation.machine(victim).crash()
          later(() => this.startAgain(victim))
        }
        return
      case 'powerCut':
        // Everybody at once: only what disks have synced is left, and that must be everything acknowledged.
        for (const victim of targets.machines) {
          simulation.machine(victim).crash()
          simulation.at(simulation.nowMs + random.between(100, POWER_CUT_MS_MAX), () => {
            if (!this.stopped) this.startAgain(victim)
          })
        }
        return
      case 'pauseMachine':
        // Now and then longer than any lease: who led before wakes up and still believes it.
        return machine.pause(random.chance(0.5) ? random.between(4500, PAUSE_MS_MAX) : lasts)
      case 'isolate':
        return this.cut([name], lasts, true)
      case 'partition': {
        const side = targets.linked.filter(() => random.chance(0.5))
        return this.cut(side, lasts, true)
      }
      case 'cutLink': {
        // A partial partition: two that do not hear each other, and a third that hears both.
        const other = random.pick(targets.machines.filter((m) => m !== name))
        this.change(name, other, lasts, { cut: true })
        return this.change(other, name, lasts, { cut: true })
      }
      case 'crashAtWrite':
        // Before some operation of its disk, which is never done.
        machine.disk.tripwire = {
          operations: random.int(12),
          run: () => {
            machine.crash()
            later(() => this.startAgain(name))
          },
        }
        return
      case 'oneWayCut':
        return this.cut([name], lasts, false)
      case 'clogLink':
        return this.change(random.pick(targets.linked), random.pick(targets.linked), lasts, {
          delayMs: [20, random.between(50, 800)],
        })
      case 'lossyNetwork':
        return this.everywhere(lasts, { loss: random.between(0.01, 0.2) })
      case 'duplicateMessages':
        return this.everywhere(lasts, { duplicate: random.between(0.01, 0.3) })
      case 'reorderMessages':
        return this.everywhere(lasts, { reorder: true, delayMs: [0.05, random.between(5, 100)] })
      case 'fullDisk': {
        const { disk } = machine
        disk.condition.capacityBytes = disk.usedBytes + random.int(ALMOST_FULL_BYTES)
        return void later(() => {
          disk.condition.capacityBytes = NORMAL_CAPACITY_BYTES
        })
      }
      case 'failingDisk':
        // What a failed sync leaves is read until the machine falls, and is not on the disk.
        machine.disk.condition.failing = true
        return void simulation.at(simulation.nowMs + random.between(1, FAILING_MS_MAX), () => {
          machine.disk.condition.failing = false
        })
      case 'brimfulDisk': {
        const { disk } = machine
        disk.condition.capacityBytes = disk.usedBytes + random.int(BRIMFUL_BYTES)
        return void simulation.at(simulation.nowMs + random.between(1, FAILING_MS_MAX), () => {
          disk.condition.capacityBytes = NORMAL_CAPACITY_BYTES
        })
      }
      case 'slowDisk':
        // One disk, or all that share a shelf.
        for (const slow of random.chance(0.5) ? [name] : targets.machines) {
          const { condition } = simulation.machine(slow).disk
          condition.syncMs = [5, random.between(20, 1000)]
          later(() => {
            condition.syncMs = [...NORMAL_SYNC_MS]
          })
        }
        return
      case 'skewClock':
        machine.setClockRate(random.between(0.95, 1.05))
        return
      case 'jumpClock':
        machine.clockOffsetMs += random.between(-3600_000, 3600_000)
        return
      case 'reconnectBus':
        for (const bus of simulation.network.of(name)) bus.disconnect()
        later(() => {
          for (const bus of simulation.network.of(name)) bus.reconnect()
        })
        return
    }
  }

  /** Of a machine that is down: it is up again, and its processes are started. */
  startAgain(name: string): void {
    const machine = this.simulation.machine(name)
    if (machine.up) return
    machine.restart()
    this.targets.restart(name)
  }

  private cut(side: readonly string[], lasts: number, bothWays: boolean): void {
    for (const a of side)
      for (const b of this.targets.linked)
        if (!side.includes(b)) {
          this.change(a, b, lasts, { cut: true })
          if (bothWays) this.change(b, a, lasts, { cut: true })
        }
  }

  private everywhere(lasts: number, condition: Partial<LinkCondition>): void {
    for (const a of this.targets.linked)
      for (const b of this.targets.linked) if (a !== b) this.change(a, b, lasts, condition)
  }

  private change(from: string, to: string, lasts: number, condition: Partial<LinkCondition>): void {
    if (from === to) return
    const { network } = this.simulation
    Object.assign(network.link(from, to), condition)
    this.simulation.at(this.simulation.nowMs + lasts, () => {
      if (!this.stopped) Object.assign(network.link(from, to), network.normal, { delayMs: [...network.normal.delayMs] })
    })
  }
}
