import type { SimRandom, Simulation } from '@capstan/sim'
import { PLANTED_BUGS, type StoreOptions } from '@capstan/store'
import type { FaultTargets } from './faults.js'
import type { SimAdministrator } from './sim-administrator.js'

/** One run of a workload under named faults in the simulated world, judged. */
export interface Scenario {
  name: string
  run(seed: string, options: ScenarioOptions): Promise<ScenarioReport>
}

export interface ScenarioOptions {
  /** A deliberate bug, for the tests of the checkers: one of `STORE_BUGS`, or of the scenario's own. */
  bug?: string
  /** Trouble for so long, instead of the scenario's own time. */
  troubleMs?: number
  /** Of the troubles that the seed draws only these come, by number; nothing else is drawn otherwise. Missing: all. */
  only?: readonly number[]
  /** Instead of the scenario's own faults: plays others on the cluster (`cluster` only). */
  play?: (simulation: Simulation, targets: ClusterTargets) => Played
  /** Prints the components' logs. */
  print?: (line: string) => void
}

/** What may be done to the whole control plane, beside its machines and links. */
export interface ClusterTargets extends FaultTargets {
  /** Who leads the store, and who the controllers. */
  leader(): Promise<string | undefined>
  controllers(): string | undefined
  /** One process of a machine (store, control, kubelet, group). @throws Error: it does not run */
  kill(machine: string, component: string): void
  pause(machine: string, component: string, durationMs: number): void
  /** Starts it again, if it is dead and its machine is up. */
  revive(machine: string, component: string): void
  /** Returns of which pods. @throws Error: the node is down */
  killContainers(node: string, count: number, random: SimRandom): Promise<string[]>
  administrator: SimAdministrator
}

/** Faults that are being played. */
export interface Played {
  /** Ends all that is in force. */
  heal(): void
  readonly counts: Record<string, number>
  /** Those that came, where they are numbered. */
  readonly struck?: readonly Trouble[]
}

/** Bugs that the store plants, in its own code or in the layers below it. */
export const STORE_BUGS: readonly string[] = Object.values(PLANTED_BUGS).flat()

/** The option of a store that plants this bug, if it is one of the store's. */
export function storeBugs(bug: string | undefined): Pick<StoreOptions, 'bugs'> {
  return bug !== undefined && STORE_BUGS.includes(bug) ? { bugs: [bug] as NonNullable<StoreOptions['bugs']> } : {}
}

/** One fault or drill, as it came. Numbers are the seed's: one that is left out leaves the others theirs. */
export interface Trouble {
  number: number
  atMs: number
  what: string
}

export interface ScenarioReport {
  /** Empty: every check held. Each begins with the name of its checker. */
  violations: string[]
  traceHash: string
  troubles: readonly Trouble[]
  simulatedMs: number
  steps: number
  /** What was covered: operations, faults, elections, … */
  coverage: Record<string, number>
}

/** Sums figures by name. */
export function addUp(into: Record<string, number>, more: Record<string, number>): void {
  for (const name of Object.keys(more).sort()) into[name] = (into[name] ?? 0) + (more[name] ?? 0)
}
