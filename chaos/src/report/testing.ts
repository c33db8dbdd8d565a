import { SimRandom } from '@capstan/sim'
import type { FaultRecord, HistoryRecord, RunRecord, Sample, Series } from '../harness/types.js'
import { judge } from '../verdict/judge.js'
import { emptyRun } from '../verdict/testing.js'
import { REQUESTS, SERIES } from '../workloads/recording.js'

const KINDS: [fault: string, parameters: FaultRecord['parameters'], means: string, lastsMs: number][] = [
  ['kill', { whom: 'leader', component: 'machine' }, 'SIGKILL to the process group', 5000],
  ['hang', { whom: 'node:0', component: 'machine' }, 'SIGSTOP to the process group', 12_000],
  ['partial', { whom: 'follower:0', from: 'leader' }, 'nftables: drop in one direction', 8000],
  ['kill', { whom: 'node:1', component: 'kubelet' }, 'SIGKILL to the process', 3000],
  ['slow-sync', { whom: 'leader', ms: 400 }, 'decorator of the Disk port', 6000],
]

/** A run as it might have been, for the report's tests and for looking at it: so many seconds, a fault every `everyMs`. */
export function plausibleRun(options: {
  seconds: number
  everyMs: number
  violated?: boolean
  seed?: string
}): RunRecord {
  const random = new SimRandom(options.seed ?? 'plausible')
  const warmUpMs = 5000
  const endedMs = options.seconds * 1000
  const healedMs = endedMs - 8000
  const faults: FaultRecord[] = []
  for (let atMs = 7000, index = 0; atMs < healedMs - 14_000; atMs += options.everyMs, index++) {
    const [fault, parameters, means, lastsMs] = KINDS[index % KINDS.length] as (typeof KINDS)[0]
    const isMade = fault !== 'slow-sync'
    const askedMs = atMs + random.between(0, 400)
    const inForceMs = askedMs + random.between(10, 300)
    faults.push({
      index,
      fault,
      parameters,
      struck: isMade
        ? [fault === 'partial' ? 'master-2' : String(parameters['whom']).startsWith('node') ? 'node-1' : 'master-0']
        : [],
      askedMs,
      ...(isMade
        ? {
            result: 'made',
            means,
            inForceMs,
            undoAskedMs: inForceMs + lastsMs,
            undoneMs: inForceMs + lastsMs + random.between(50, 900),
            proof: 'no process of group 4711 is left',
            undoProof: 'it is there again and answers',
          }
        : { result: 'not tested', why: 'needs processes started with --chaos' }),
    })
  }
  const inForce = (atMs: number, name: string) =>
    faults.some((f) => f.fault === name && (f.inForceMs ?? Infinity) <= atMs && atMs < (f.undoneMs ?? 0))
  const samples: Sample[] = []
  const [writes, failed, median, slow, ready, wanted, answers]: [number, number][][] = [
    [],
    [],
    [],
    [],
    [],
    [],
    [],
  ] as never
  const undesired: { fromMs: number; toMs: number; why: string; byChange?: boolean }[] = []
  let term = 3
  let leader = 'master-0'
  let wasKilled = false
  for (let atMs = 400; atMs < endedMs; atMs += 500) {
    const killed = inForce(atMs, 'kill')
    if (killed && !wasKilled) {
      term++
      leader = `master-${(Number(leader.at(-1)) + 1) % 3}`
    }
    wasKilled = killed
    const hung = inForce(atMs, 'hang')
    samples.push({
      atMs,
      leader,
      term,
      masters: [0, 1, 2].map((n) => {
        const name = `master-${n}`
        const isDown = killed && n === (Number(leader.at(-1)) + 2) % 3
        return { name, up: !isDown, role: isDown ? 'down' : name === leader ? 'leader' : 'follower' }
      }),
      nodes: [0, 1, 2].map((n) => ({ name: `node-${n}`, ready: !(hung && n === 1) })),
      memory: { 'master-0 store': 81e6 + atMs * 20, 'master-0 control': 142e6, 'node-0 kubelet': 96e6 },
      counters: {},
    })
    if (atMs % 1000 > 499) continue
    const trouble = killed || inForce(atMs, 'partial')
    writes?.push([atMs, killed && random.chance(0.3) ? random.int(20) : 60 + random.int(25)])
    failed?.push([atMs, trouble ? random.int(6) : 0])
    median?.push([atMs, trouble ? 20 + random.int(60) : 4 + random.int(4)])
    slow?.push([atMs, trouble ? 300 + random.int(3000) : 20 + random.int(40)])
    ready?.push([atMs, hung ? 7 : 9])
    wanted?.push([atMs, 9])
    answers?.push([atMs, hung ? 14 : 19])
  }
  for (const { fault, inForceMs } of faults)
    if (fault === 'hang' && inForceMs !== undefined)
      undesired.push({ fromMs: inForceMs + 4100, toMs: inForceMs + 9300, why: 'Deployment web has 2 of 3 pods ready' })
  for (let atMs = 9000; atMs < healedMs; atMs += 23_000)
    undesired.push({ fromMs: atMs, toMs: atMs + 2200, why: 'Deployment web has 3 of 4 pods ready', byChange: true })
  undesired.sort((a, b) => a.fromMs - b.fromMs)
  const history: HistoryRecord[] = []
  for (
    let atMs = 500, n = 0;
    atMs < endedMs && n < 20_000;
    atMs += Math.max(25, endedMs / 6000) * random.between(0.5, 1.5), n++
  ) {
    const took = inForce(atMs, 'kill') && random.chance(0.1) ? 400 + random.int(3000) : 2 + random.next() ** 4 * 60
    history.push({
      process: 'client-0',
      operation: n % 3 === 0 ? 'get' : 'put',
      key: '/k',
      invokedMs: atMs,
      returnedMs: atMs + took,
      outcome: 'ok',
      endpoint: 'master-0',
    })
  }
  const series: Series[] = (
    [
      [SERIES.writes, '1/s', writes],
      [SERIES.failed, '1/s', failed],
      [SERIES.median, 'ms', median],
      [SERIES.slow, 'ms', slow],
      [SERIES.ready, 'pods', ready],
      [SERIES.wanted, 'pods', wanted],
      [SERIES.answers, '1/s', answers],
    ] as [string, string, [number, number][]][]
  ).map(([name, unit, points]) => ({ name, unit, points }))
  const run = emptyRun({
    scenario: 'leader-dies',
    about: 'the leading master is killed under load, comes back, and the next one is killed',
    target: '3 masters and 3 nodes on this host, nats, containerd',
    seed: '0x5f3c2a',
    startedAt: '2026-02-03T04:05:06.789Z',
    environment: { capstan: '0.1.0', node: 'v20.19.2', kernel: '6.1.0', machine: '2 processors, 7.8 GB' },
    mustHold: ['S1', 'S2', 'C1'],
    warmUpMs,
    troubleMs: healedMs - warmUpMs - 1000,
    healedMs,
    endedMs,
    faults,
    samples,
    notTested: [{ what: 'fault slow-sync', why: 'needs processes started with --chaos' }],
    workloads: [
      {
        workload: 'figures',
        history,
        watches: [],
        counters: { [REQUESTS.all]: history.length, [REQUESTS.failed]: 57, [REQUESTS.failedTwice]: 3 },
        series,
        violations: options.violated
          ? [
              {
                promise: 'S2',
                text: 'store: /chaos/1/r/a.0 has no legal order; these 3 of 120 operations show it',
                evidence: [
                  '8.120..8.131 s client-0: put value client-0#31 → written revision 91',
                  '8.140..8.155 s client-2: put value client-2#33 → written revision 93',
                  '8.210..8.214 s client-1: get → read value client-0#31 revision 91',
                ],
              },
            ]
          : [],
      },
    ],
  })
  const verdict = judge({ ...run, samples })
  const promises = verdict.promises.map((one) =>
    one.state === 'violated' || ['C2', 'A2', 'S5'].includes(one.promise)
      ? one
      : {
          ...one,
          state: 'ok' as const,
          text: 'store: 1,312 acknowledged writes of 1,402 are in the history that 3 members tell; none happened twice\nAPI: 402 acknowledged writes of 431 are in the history',
        },
  )
  // Desired state as the desired-state workload would have told it.
  const withDesired = { ...run, samples: samples.map((sample) => withUndesired(sample, undesired)) }
  const { recoveries, requests } = judge(withDesired)
  return { ...withDesired, verdict: { state: options.violated ? 'violated' : 'ok', promises, recoveries, requests } }
}

function withUndesired(sample: Sample, spans: readonly { fromMs: number; toMs: number; why: string }[]): Sample {
  const span = spans.find(({ fromMs, toMs }) => fromMs <= sample.atMs && sample.atMs < toMs)
  return span ? { ...sample, undesired: span.why } : sample
}
