/** The named scenarios: each is something that hurt people, or hurts in an hour of bad luck. */
import { drawSchedule, fixed } from './draw-schedule.js'
import type { Scenario, Schedule, ScheduledFault, WorkloadUse } from './types.js'

type Line = [atMs: number, fault: string, parameters: ScheduledFault['parameters'], lastsMs: number]

/** The same lines again and again, `periodMs` apart, as often as they fit; at least once. */
function rounds(troubleMs: number, periodMs: number, lines: (round: number) => Line[]): Schedule {
  const count = Math.max(1, Math.floor(troubleMs / periodMs))
  return fixed(
    ...Array.from({ length: count }, (_, round) =>
      lines(round).map(([atMs, ...rest]): Line => [atMs + round * periodMs, ...rest]),
    ).flat(),
  )
}

const STORE: WorkloadUse = { workload: 'store' }
const API: WorkloadUse = { workload: 'api' }
const DESIRED: WorkloadUse = { workload: 'desired-state' }
const EVERYTHING = [STORE, API, DESIRED]
const STORE_PROMISES = ['S1', 'S2', 'S3', 'S4']
const WARM_UP_MS = 5000
const SETTLE_MS = 60_000
const RECOVERY_ROUND_MS = 72_000
const COMMON = { warmUpMs: WARM_UP_MS, settleMs: SETTLE_MS, needs: { masters: 3, nodes: 3 } }

export const SCENARIOS: readonly Scenario[] = [
  {
    ...COMMON,
    name: 'calm',
    about: 'no fault at all: what is violated here is wrong with the workloads or the checkers',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1', 'C4'],
    troubleMs: 10_000,
    schedule: () => fixed(),
  },
  {
    ...COMMON,
    name: 'leader-dies',
    about: 'the leading master is killed under load, comes back, and the next one is killed',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1', 'C4'],
    troubleMs: 24_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 12_000, () => [[0, 'kill', { whom: 'leader', component: 'machine' }, 5000]]),
  },
  {
    ...COMMON,
    name: 'store-dies',
    about: "the leader's store process alone is killed: its machine lives on and starts it again",
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1'],
    troubleMs: 20_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 5000, (round) => [
        [0, 'kill', { whom: round % 2 === 0 ? 'leader' : 'follower:0', component: 'store' }, 2000],
      ]),
  },
  {
    ...COMMON,
    name: 'partial-partition',
    about:
      'one follower does not hear the leader but hears the other follower (Cloudflare, November 2020: leaders that flapped for hours)',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1'],
    troubleMs: 40_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 20_000, (round) => [[0, 'partial', { whom: `follower:${round % 2}`, from: 'leader' }, 12_000]]),
  },
  {
    ...COMMON,
    name: 'node-hangs',
    about: 'a node stands still and does not die: whole, its kubelet alone, its process group',
    workloads: [API, DESIRED],
    mustHold: ['S1', 'C1', 'C3', 'C4'],
    troubleMs: 60_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 60_000, (round) => [
        [0, 'hang', { whom: `node:${round}`, component: 'machine' }, 15_000],
        [22_000, 'hang', { whom: `node:${round + 1}`, component: 'kubelet' }, 12_000],
        [41_000, 'hang', { whom: `node:${round + 2}`, component: 'group' }, 12_000],
      ]),
  },
  {
    ...COMMON,
    name: 'node-dies',
    about:
      'a node is killed and stays away until its pods run elsewhere; then its kubelet alone, under living containers',
    workloads: [API, DESIRED],
    mustHold: ['S1', 'C1', 'C3', 'C4'],
    troubleMs: 50_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 50_000, (round) => [
        [0, 'kill', { whom: `node:${round}`, component: 'machine' }, 18_000],
        [26_000, 'kill', { whom: `node:${round + 1}`, component: 'kubelet' }, 3000],
        [36_000, 'kill', { whom: `node:${round + 2}`, component: 'group' }, 8000],
      ]),
  },
  {
    ...COMMON,
    name: 'zone-cut',
    about: 'a zone is cut off from the others, with the master and the nodes in it',
    needs: { masters: 3, nodes: 3, zones: 2 },
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1', 'C3'],
    troubleMs: 45_000,
    schedule: (_, { machines, troubleMs }) => {
      const zones = [...new Set(machines.map(({ zone }) => zone).filter((zone) => zone !== undefined))].sort()
      // The zone that holds fewer masters: cutting it leaves a majority outside.
      const masters = (zone: string) => machines.filter((one) => one.zone === zone && one.role === 'master').length
      const [smallest = 'b'] = zones.sort((a, b) => masters(a) - masters(b) || (a < b ? -1 : 1))
      return rounds(troubleMs, 45_000, () => [[0, 'isolate', { whom: `zone:${smallest}` }, 20_000]])
    },
  },
  {
    ...COMMON,
    name: 'leader-cut',
    about: 'the leader is cut off in both directions, then hears nobody, then is heard by nobody',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1'],
    troubleMs: 36_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 36_000, () => [
        [0, 'isolate', { whom: 'leader' }, 6000],
        [12_000, 'one-way', { whom: 'leader', direction: 'in' }, 6000],
        [24_000, 'one-way', { whom: 'leader', direction: 'out' }, 6000],
      ]),
  },
  {
    ...COMMON,
    name: 'masters-restart',
    about: 'all masters are restarted one after the other, then killed all at once',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1', 'C4'],
    troubleMs: 40_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 40_000, () => [
        [0, 'restart', { whom: 'masters', component: 'machine' }, 500],
        [25_000, 'kill', { whom: 'masters', component: 'machine' }, 1000],
      ]),
  },
  {
    ...COMMON,
    name: 'leader-hangs',
    about:
      'the leading master stands still and wakes up believing that it leads; then its store alone; then all but its store',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1'],
    troubleMs: 36_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 36_000, () => [
        [0, 'hang', { whom: 'leader', component: 'machine' }, 6000],
        [12_000, 'hang', { whom: 'leader', component: 'store' }, 6000],
        [24_000, 'hang', { whom: 'leader', component: 'control' }, 6000],
      ]),
  },
  {
    ...COMMON,
    name: 'slow-disk',
    about: "the leader's disk takes most of a second for each sync",
    workloads: [STORE, API],
    mustHold: [...STORE_PROMISES],
    troubleMs: 30_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 30_000, () => [
        [0, 'slow-sync', { whom: 'leader', ms: 800 }, 8000],
        [14_000, 'slow-sync', { whom: 'follower:0', ms: 1500 }, 8000],
      ]),
  },
  {
    ...COMMON,
    name: 'full-disk',
    about: "the leader's disk is full, then a follower's",
    workloads: [STORE, API],
    mustHold: [...STORE_PROMISES],
    troubleMs: 30_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 30_000, () => [
        [0, 'disk-full', { whom: 'leader' }, 8000],
        [15_000, 'disk-full', { whom: 'follower:0' }, 8000],
      ]),
  },
  {
    ...COMMON,
    name: 'power-cut',
    about: 'the power goes for the leader, then for all masters at once: what was not synced is gone',
    workloads: [STORE, API],
    mustHold: [...STORE_PROMISES],
    troubleMs: 30_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 30_000, () => [
        [0, 'lost-unsynced', { whom: 'leader' }, 2000],
        [10_000, 'lost-unsynced', { whom: 'masters' }, 2000],
        [20_000, 'failing-sync', { whom: 'leader' }, 3000],
      ]),
  },
  {
    ...COMMON,
    name: 'wrong-clocks',
    about: 'wall clocks jump by an hour, and clocks run fast and slow',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'S5', 'C1'],
    troubleMs: 30_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 30_000, () => [
        [0, 'clock-jump', { whom: 'leader', ms: 3_600_000 }, 8000],
        [4000, 'clock-skew', { whom: 'follower:0', rate: 1.05 }, 16_000],
        [14_000, 'clock-jump', { whom: 'leader', ms: -3_600_000 }, 8000],
      ]),
  },
  {
    ...COMMON,
    name: 'master-replaced',
    about: 'a master is lost for good, removed, and another one joins in its place; then the leader',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1'],
    troubleMs: 90_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 90_000, () => [
        [0, 'replace-master', { whom: 'follower:0' }, 1000],
        [45_000, 'replace-master', { whom: 'leader' }, 1000],
      ]),
  },
  {
    ...COMMON,
    name: 'upgrade',
    about:
      'machines are given the next program one after the other while leaders die; then the version of the cluster rises',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1'],
    troubleMs: 60_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 60_000, () => [
        [0, 'upgrade', { whom: 'master:0' }, 1000],
        [4000, 'kill', { whom: 'leader', component: 'store' }, 1000],
        [12_000, 'upgrade', { whom: 'master:1' }, 1000],
        [18_000, 'kill', { whom: 'leader', component: 'machine' }, 2000],
        [28_000, 'upgrade', { whom: 'master:2' }, 1000],
        [31_000, 'kill', { whom: 'leader', component: 'store' }, 1000],
        [44_000, 'upgrade', { whom: 'nodes' }, 1000],
        [52_000, 'kill', { whom: 'leader', component: 'machine' }, 2000],
      ]),
  },
  {
    ...COMMON,
    name: 'control-plane-away',
    about: 'all masters are down for minutes while nodes run on; when they are back, nothing is evicted in masses',
    // Whoever asks for something meanwhile waits until they are back.
    workloads: [{ ...DESIRED, options: { acknowledgedInMs: 300_000 } }],
    mustHold: ['C1', 'C4'],
    troubleMs: 100_000,
    schedule: (_, { troubleMs }) =>
      fixed([0, 'kill', { whom: 'masters', component: 'machine' }, Math.max(20_000, troubleMs - 10_000)]),
  },
  {
    ...COMMON,
    name: 'stale-api-server',
    about:
      'time travel: an API server whose store stands still serves what was, and kubelets and controllers that start anew listen to it',
    workloads: [API, DESIRED],
    mustHold: ['S1', 'S3', 'C1', 'C3', 'C4'],
    troubleMs: 40_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 20_000, (round) => [
        [0, 'hang', { whom: `master:${round}`, component: 'store' }, 10_000],
        [3000, 'kill', { whom: `node:${round}`, component: 'kubelet' }, 500],
        [5000, 'kill', { whom: `node:${round + 1}`, component: 'kubelet' }, 500],
      ]),
  },
  {
    ...COMMON,
    name: 'controller-crash',
    about:
      'what leads the controllers dies between two of its writes: at moments drawn from the seed, again and again, while objects change',
    workloads: [API, DESIRED],
    mustHold: ['S1', 'C1', 'C4'],
    troubleMs: 40_000,
    schedule: (random, { troubleMs }) =>
      drawSchedule(random, {
        machines: [],
        troubleMs,
        faults: ['kill'],
        everyMs: [1500, 6000],
        lastsMs: [500, 1500],
        atOnceMax: 1,
        draw: (one) => ({
          fault: one.next() < 0.8 ? 'kill' : 'restart',
          parameters: { whom: `master:${one.int(3)}`, component: 'machine' },
        }),
      }),
  },
  {
    ...COMMON,
    name: 'missed-events',
    about: 'controllers and kubelets stand still while objects come and go: what was in between they never see',
    workloads: [API, DESIRED],
    mustHold: ['S1', 'S3', 'C1', 'C4'],
    troubleMs: 48_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 16_000, (round) => [
        [0, 'hang', { whom: `master:${round}`, component: 'control' }, 9000],
        [2000, 'hang', { whom: `node:${round}`, component: 'kubelet' }, 3500],
      ]),
  },
  {
    ...COMMON,
    name: 'bus-servers-die',
    about: 'bus servers are killed one after the other, then stand still',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1'],
    troubleMs: 36_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 36_000, () => [
        [0, 'kill', { whom: 'leader', component: 'bus' }, 1000],
        [8000, 'kill', { whom: 'follower:0', component: 'bus' }, 1000],
        [16_000, 'hang', { whom: 'leader', component: 'bus' }, 5000],
        [28_000, 'kill', { whom: 'masters', component: 'bus' }, 1000],
      ]),
  },
  {
    ...COMMON,
    name: 'certificate-expired',
    about: 'a node whose certificate has expired is refused and says why; a token lets it in again',
    workloads: [API, DESIRED],
    mustHold: ['S1', 'C1', 'C3', 'C4'],
    troubleMs: 40_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 40_000, (round) => [[0, 'certificate-expired', { whom: `node:${round}` }, 15_000]]),
  },
  {
    ...COMMON,
    name: 'slow-consumer',
    about: 'clients of the bus ask for much and read none of it: nobody else may notice',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1'],
    troubleMs: 30_000,
    schedule: (_, { troubleMs }) => rounds(troubleMs, 15_000, () => [[0, 'slow-consumer', {}, 6000]]),
  },
  {
    ...COMMON,
    name: 'administrators',
    about: 'people with kubectl: pods deleted, with force too, nodes cordoned and drained',
    workloads: [API, DESIRED],
    mustHold: ['S1', 'C1', 'C4'],
    troubleMs: 45_000,
    essential: ['delete-pods'],
    needs: { masters: 1, nodes: 2 },
    schedule: (random, { machines, troubleMs }) => {
      const first = fixed([0, 'delete-pods', { count: 2, force: false }, 2000])
      const drawn = drawSchedule(random, {
        machines,
        // Whoever deletes pods has to find some: a little before the end nobody makes any more.
        troubleMs: troubleMs - 10_000,
        faults: ['delete-pods', 'delete-pods', 'cordon', 'drain'],
        everyMs: [2000, 6000],
        lastsMs: [2000, 8000],
        atOnceMax: 1,
      })
      return { ...drawn, faults: [...first.faults, ...drawn.faults] }
    },
  },
  {
    ...COMMON,
    name: 'containers-die',
    about: 'containers are killed behind the back of their kubelets',
    workloads: [DESIRED],
    mustHold: ['C1', 'C3', 'C4'],
    troubleMs: 30_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 5000, (round) => [[0, 'containers-killed', { whom: `node:${round}`, count: 2 }, 500]]),
  },
  {
    ...COMMON,
    name: 'overbooked',
    about: 'more pods than the nodes can hold, while the leader and a node die',
    workloads: [{ workload: 'scheduling' }],
    mustHold: ['C1', 'C4'],
    troubleMs: 40_000,
    schedule: (_, { troubleMs }) =>
      rounds(troubleMs, 40_000, () => [
        [2000, 'kill', { whom: 'leader', component: 'machine' }, 4000],
        [14_000, 'kill', { whom: 'node:0', component: 'machine' }, 12_000],
      ]),
  },
  {
    ...COMMON,
    name: 'recovery',
    about:
      'for the table of recovery times (--times 20): masters die; nodes die, hang and are cut off, while nobody asks for anything else',
    workloads: [
      // Slow enough for all repetitions: a workload ends by itself after so many operations.
      { workload: 'store', options: { pauseMs: 40 } },
      { workload: 'desired-state', options: { changeEveryMs: 1_000_000_000 } },
      { workload: 'lookout' },
    ],
    mustHold: [...STORE_PROMISES, 'C1', 'C3', 'C4'],
    troubleMs: RECOVERY_ROUND_MS,
    schedule: (_, { troubleMs }) =>
      // Each node by itself: pods that left one are found by the next fault.
      rounds(troubleMs, RECOVERY_ROUND_MS, () => [
        [0, 'kill', { whom: 'leader', component: 'machine' }, 4000],
        [9000, 'kill', { whom: 'controllers', component: 'machine' }, 5000],
        [18_000, 'kill', { whom: 'node:0', component: 'machine' }, 12_000],
        [36_000, 'hang', { whom: 'node:1', component: 'machine' }, 12_000],
        [54_000, 'isolate', { whom: 'node:2' }, 12_000],
      ]),
  },
  {
    ...COMMON,
    name: 'storm',
    about: 'faults of all kinds every few seconds, drawn from the seed',
    workloads: EVERYTHING,
    mustHold: [...STORE_PROMISES, 'C1', 'C4'],
    troubleMs: 60_000,
    essential: [],
    schedule: (random, { machines, troubleMs }) =>
      drawSchedule(random, {
        machines,
        troubleMs,
        faults: STORM,
        everyMs: [1000, 6000],
        lastsMs: [1000, 9000],
      }),
  },
]

const STORM = [
  ...['kill', 'kill', 'kill', 'hang', 'hang', 'restart', 'cpu-pressure', 'blocked-event-loop'],
  ...['isolate', 'halves', 'bridge', 'one-way', 'partial', 'flapping', 'delay', 'loss', 'routes-cut'],
  ...['disk-full', 'slow-sync', 'failing-sync', 'lost-unsynced', 'clock-jump', 'clock-skew'],
  ...['containers-killed', 'delete-pods', 'cordon'],
]

/** @throws Error that names those there are. */
export function scenarioNamed(name: string): Scenario {
  const scenario = SCENARIOS.find((one) => one.name === name)
  if (!scenario)
    throw new RangeError(`there is no scenario "${name}"; scenarios: ${SCENARIOS.map((one) => one.name).join(', ')}`)
  return scenario
}
