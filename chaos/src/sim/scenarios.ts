import { clusterScenario } from './cluster-scenario.js'
import { ALL_FAULTS } from './faults.js'
import type { Scenario } from './scenario.js'
import { schedulesScenario, storeScenario } from './store-scenario.js'
import { DRILLS, SCHEDULES } from './store/drills.js'
import { stormScenario } from './storm-scenario.js'

export const SCENARIOS: readonly Scenario[] = [storeScenario, schedulesScenario, stormScenario, clusterScenario]

/** Each deliberate bug, the scenario that provokes it, and the checker that must find it (how its violation begins). */
export const PLANTED: readonly { bug: string; scenario: string; checker: string }[] = [
  { bug: 'ack-before-sync', scenario: 'store', checker: 'durability' },
  { bug: 'stale-read', scenario: 'store', checker: 'linearizability' },
  { bug: 'read-before-term-commit', scenario: 'store', checker: 'linearizability' },
  { bug: 'stale-read-after-pause', scenario: 'store', checker: 'linearizability' },
  { bug: 'config-before-term-commit', scenario: 'schedules', checker: 'durability' },
  { bug: 'forget-vote', scenario: 'schedules', checker: 'election' },
  { bug: 'damage-as-torn', scenario: 'store', checker: 'durability' },
  { bug: 'skip-pre-vote', scenario: 'storm', checker: 'disturbance' },
  { bug: 'index-not-atomic', scenario: 'store', checker: 'equal state' },
  { bug: 'apply-twice', scenario: 'store', checker: 'equal state' },
  { bug: 'revision-back', scenario: 'store', checker: 'history' },
  { bug: 'snapshot-without-sessions', scenario: 'store', checker: 'equal state' },
  { bug: 'watch-lost-at-compaction', scenario: 'store', checker: 'watch' },
  { bug: 'watch-last-lost', scenario: 'store', checker: 'watch' },
  { bug: 'watch-doubled-on-resume', scenario: 'store', checker: 'watch' },
  { bug: 'watch-before-synced', scenario: 'store', checker: 'watch' },
  { bug: 'paused-leader-revokes', scenario: 'store', checker: 'lease' },
  { bug: 'lease-reset-on-election', scenario: 'store', checker: 'lease' },
  { bug: 'double-bind', scenario: 'cluster', checker: 'binding' },
  { bug: 'fence-left-out', scenario: 'cluster', checker: 'fencing' },
]

/** What the seeds of a run must have covered, all together. */
export const COVERED: Record<string, readonly string[]> = {
  store: [
    'operations',
    'unknownOutcomes',
    'elections',
    'watchResumes',
    'watchesCompacted',
    'compactions',
    'leasesSeenEnding',
    'locksHeld',
    'damages',
    'stateSamples',
    ...ALL_FAULTS.map((fault) => `fault.${fault}`),
    ...Object.keys(DRILLS).map((drill) => `drill.${drill}`),
  ],
  schedules: [
    'operations',
    'elections',
    'secondCandidates',
    ...Object.keys(SCHEDULES).map((drill) => `drill.${drill}`),
  ],
  storm: [
    'operations',
    'unknownOutcomes',
    'watchResumes',
    'store.elections',
    'store.truncations',
    'store.snapshotsInstalled',
  ],
  cluster: [
    'operations',
    'store.elections',
    'store.snapshotsInstalled',
    'store.truncations',
    'lockTakeovers',
    'watchResumes',
    'movedPods',
  ],
}
