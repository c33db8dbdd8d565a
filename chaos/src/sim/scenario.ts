/** One run of a workload under named faults in the simulated world, judged. */
export interface Scenario {
  name: string
  run(seed: string, options: ScenarioOptions): Promise<ScenarioReport>
}

export interface ScenarioOptions {
  /** A deliberate bug, for the tests of the checkers. */
  bug?: PlantedBug
  /** Prints the components' logs. */
  print?: (line: string) => void
}

export const PLANTED_BUGS = [
  'ack-before-sync',
  'skip-pre-vote',
  'stale-read',
  'watch-last-lost',
  'double-bind',
  'fence-left-out',
] as const
export type PlantedBug = (typeof PLANTED_BUGS)[number]

export interface ScenarioReport {
  /** Empty: every check held. Each begins with the name of its checker. */
  violations: string[]
  traceHash: string
  simulatedMs: number
  steps: number
  /** What was covered: operations, faults, elections, … */
  coverage: Record<string, number>
}

/** Sums figures by name. */
export function addUp(into: Record<string, number>, more: Record<string, number>): void {
  for (const name of Object.keys(more).sort()) into[name] = (into[name] ?? 0) + (more[name] ?? 0)
}
