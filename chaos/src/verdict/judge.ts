import { checkEqualState } from '../checkers/durability.js'
import { checkBoundOnce } from '../checkers/objects.js'
import type { Judge, PromiseState, PromiseVerdict, RunRecord, Verdict, WorkloadResult } from '../harness/types.js'
import type { DesiredMore } from '../workloads/desired-workload.js'
import { REQUESTS } from '../workloads/recording.js'
import { judgeApi } from './api-promises.js'
import { judgeDesired, judgeScheduling } from './desired-promises.js'
import { EVIDENCE_MAX, type Finding, finding } from './finding.js'
import { recoveries, type Undesired } from './recoveries.js'
import { judgeStore } from './store-promises.js'

/** The promises of the design, and what each says in a line. */
export const PROMISES: Readonly<Record<string, string>> = {
  S1: 'What was acknowledged survives',
  S2: 'The store is linearizable',
  S3: 'A watch delivers every change once, in order, without a gap',
  S4: 'Members at the same index hold the same state',
  S5: 'A lease ends when it should, and its keys with it',
  C1: 'The desired state is reached, and nothing else is left',
  C2: 'A former leader of the controllers writes nothing',
  C3: 'No StatefulSet identity runs twice',
  C4: 'A pod is bound once, and fits',
  A1: 'Bad input is refused with what is wrong, and changes nothing',
  A2: "A node's credentials reach nothing but its own",
}

/** Why a promise has no finding, where that is known beforehand. */
const UNSEEN: Readonly<Record<string, string>> = {
  C2: 'what a former holder of a lock writes bears no mark that could be seen from outside: the simulation shows this one',
  A2: "no workload tries a node's credentials: `test/` does",
}

type Checker = (run: Omit<RunRecord, 'verdict'>, result: WorkloadResult) => Finding[]
const CHECKERS: Readonly<Record<string, Checker>> = {
  store: judgeStore,
  api: judgeApi,
  'desired-state': judgeDesired,
  scheduling: judgeScheduling,
}

/**
 * The verdict by promise, from what the clients recorded and from the final state. A promise is `ok` only if something was looked at and
 * all of it held; `unknown` is no pass, nor is `not tested` where the scenario says that it must hold.
 */
export const judge: Judge = (run) => {
  const findings = [
    ...run.workloads.flatMap((result) => CHECKERS[result.workload]?.(run, result) ?? []),
    ...run.workloads.flatMap(({ violations }) =>
      violations.map(({ promise, text, evidence }) => finding(promise, '', [text], evidence)),
    ),
    ...judgeFinalState(run),
  ]
  const promises = Object.keys(PROMISES).map((promise) => combine(run, promise, findings))
  return {
    state: overall(run, promises),
    promises,
    recoveries: recoveries(run, undesiredOf(run), desiredMore(run)?.short),
    requests: requestsOf(run.workloads),
  }
}

const desiredMore = (run: Omit<RunRecord, 'verdict'>) =>
  run.workloads.find(({ workload }) => workload === 'desired-state')?.more as unknown as DesiredMore | undefined

/** What the target itself gathered, whatever the workloads did. */
function judgeFinalState({ finalState, faults }: Omit<RunRecord, 'verdict'>): Finding[] {
  const { members, objectHistory } = finalState
  const findings: Finding[] = []
  if (members && members.length > 1)
    findings.push(
      finding(
        'S4',
        `${members.length} members hold one state at index ${members[0]?.appliedIndex}`,
        checkEqualState(members),
      ),
    )
  if (objectHistory && objectHistory.some(({ key }) => key.startsWith('/registry/core/pods/')))
    findings.push(finding('C4', "the store's own history binds each pod once", checkBoundOnce(objectHistory)))
  if (faults.length > 0 && !faults.some((fault) => fault.result === 'made'))
    findings.push({ promise: 'C1', state: 'unknown', text: 'no fault of the schedule was made', evidence: [] })
  return findings
}

function combine(run: Omit<RunRecord, 'verdict'>, promise: string, all: readonly Finding[]): PromiseVerdict {
  const findings = all.filter((one) => one.promise === promise)
  const of = (state: Finding['state']) => findings.filter((one) => one.state === state)
  const [violated, unknown, ok] = [of('violated'), of('unknown'), of('ok')]
  const [worst] = [violated, unknown, ok].filter((list) => list.length > 0)
  if (!worst) return { promise, state: 'not tested', text: whyNot(run, promise), evidence: [] }
  return {
    promise,
    state: (worst[0] as Finding).state,
    // A line for each finding.
    text: worst.map((one) => one.text).join('\n'),
    evidence: worst.flatMap((one) => one.evidence).slice(0, 2 * EVIDENCE_MAX),
  }
}

function whyNot({ notTested }: Omit<RunRecord, 'verdict'>, promise: string): string {
  const told = notTested.find(({ what }) => what === promise || what === `promise ${promise}`)
  return told?.why ?? UNSEEN[promise] ?? 'no workload of this run brings records for it'
}

function overall(run: Omit<RunRecord, 'verdict'>, promises: readonly PromiseVerdict[]): PromiseState {
  if (promises.some((promise) => promise.state === 'violated')) return 'violated'
  const isOpen = promises.some(({ promise, state }) =>
    run.mustHold.includes(promise) ? state !== 'ok' : state === 'unknown',
  )
  if (isOpen || run.troubles.length > 0) return 'unknown'
  return promises.some((promise) => promise.state === 'ok') ? 'ok' : 'not tested'
}

/** What the desired-state workload saw by the event; else what the harness saw at its samples. Undefined: nobody has an opinion. */
export function undesiredOf(run: Omit<RunRecord, 'verdict'>): Undesired[] | undefined {
  const more = desiredMore(run)
  if (more) return more.undesired
  if (!run.samples.some((sample) => sample.undesired !== undefined)) return undefined
  const spans: Undesired[] = []
  let open: Undesired | undefined
  for (const { atMs, undesired } of run.samples) {
    if (undesired !== undefined && !open) spans.push((open = { fromMs: atMs, why: undesired }))
    else if (undesired === undefined && open) {
      open.toMs = atMs
      open = undefined
    }
  }
  return spans
}

function requestsOf(workloads: readonly WorkloadResult[]): Verdict['requests'] {
  const sum = (name: string) => workloads.reduce((total, { counters }) => total + (counters[name] ?? 0), 0)
  return { total: sum(REQUESTS.all), failed: sum(REQUESTS.failed), failedAfterRetry: sum(REQUESTS.failedTwice) }
}
