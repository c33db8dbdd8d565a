import type { PlantedBug, Scenario } from './scenario.js'
import { storeScenario } from './store-scenario.js'

export const SCENARIOS: readonly Scenario[] = [storeScenario]

/** Each deliberate bug, the scenario that provokes it, and the checker that must find it (how its violation begins). */
export const PLANTED: readonly { bug: PlantedBug; scenario: string; checker: string }[] = [
  { bug: 'ack-before-sync', scenario: 'store', checker: 'linearizability' },
  { bug: 'stale-read', scenario: 'store', checker: 'linearizability' },
  { bug: 'watch-last-lost', scenario: 'store', checker: 'watch' },
  { bug: 'skip-pre-vote', scenario: 'store', checker: 'disturbance' },
]

/** What the seeds of a run must have covered, all together. */
export const COVERED: Record<string, readonly string[]> = {
  store: ['operations', 'unknownOutcomes', 'watchResumes', 'store.elections', 'store.truncations', 'store.snapshotsInstalled'],
}
