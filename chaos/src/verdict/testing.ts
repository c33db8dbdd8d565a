import type { FaultRecord, RunRecord, WorkloadResult } from '../harness/types.js'

/** A run in which nothing happened, to be filled. */
export function emptyRun(more: Partial<RunRecord> = {}): Omit<RunRecord, 'verdict'> {
  return {
    formatVersion: 1,
    scenario: 'test',
    about: '',
    on: 'local',
    target: 'in memory',
    seed: '0x1',
    startedAt: '2026-01-01T00:00:00.000Z',
    environment: {},
    machines: [],
    mustHold: [],
    warmUpMs: 0,
    troubleMs: 0,
    settleMs: 10_000,
    healedMs: 60_000,
    endedMs: 70_000,
    schedule: { formatVersion: 1, faults: [] },
    faults: [],
    notTested: [],
    workloads: [],
    samples: [],
    finalState: { atMs: 70_000, objects: [], lacks: [] },
    troubles: [],
    ...more,
  }
}

export const made = (index: number, fault: string, inForceMs: number, undoneMs: number): FaultRecord => ({
  index,
  fault,
  parameters: { whom: 'leader' },
  result: 'made',
  means: 'SIGKILL to the process group',
  struck: ['master-0'],
  askedMs: inForceMs - 5,
  inForceMs,
  undoAskedMs: undoneMs - 5,
  undoneMs,
  proof: 'no process of the group is left',
  undoProof: 'it answers',
})

export const result = (workload: string, more: Partial<WorkloadResult> = {}): WorkloadResult => ({
  workload,
  history: [],
  watches: [],
  counters: {},
  series: [],
  violations: [],
  ...more,
})
