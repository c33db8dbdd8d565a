import { clusterScenario } from './cluster-scenario.js'
import type { PlantedBug, Scenario } from './scenario.js'
import { storeScenario } from './store-scenario.js'

export const SCENARIOS: readonly Scenario[] = [storeScenario, clusterScenario]

/** Each deliberate bug, the scenario that provokes it, and the checker that must find it (how its violation begins). */
export const PLANTED: readonly { bug: PlantedBug; scenario: string; checker: string }[] = [
  { bug: 'ack-before-sync', scenario: 'store', checker: 'linearizability' },
  { bug: 'stale-read', scenario: 'store', checker: 'linearizability' },
  { bug: 'watch-last-lost', scenario: 'store', checker: 'watch' },
  { bug: 'skip-pre-vote', scenario: 'store', checker: 'disturbance' },
  { bug: 'double-bind', scenario: 'cluster', checker: 'binding' },
  { bug: 'fence-left-out', scenario: 'cluster', checker: 'fencing' },
]

/** What the seeds of a run must have covered, all together. */
export const COVERED: Record<string, readonly string[]> = {
  store: [
    'operations',
    'unknownOutcomes',
    'watchResumes',
    'store.elections',
    'store.truncations',
    'store.snapshotsInstalled',
  ],
  cluster: ['operations', 'store.elections', 'lockTakeovers', 'watchResumes', 'movedPods'],
}
