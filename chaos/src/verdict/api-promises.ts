import { checkDurable, checkOutcomes, type ToldWrite } from '../checkers/durability.js'
import { type HistoryEvent, TrueHistory } from '../checkers/history.js'
import type { Operation } from '../checkers/linearizability.js'
import { type ObjectInput, objectModel, objectNeeds, type ObjectOutput } from '../checkers/object-model.js'
import { checkRevisionOrder, type PlacedOperation } from '../checkers/revision-order.js'
import { checkWatch } from '../checkers/watch.js'
import type { HistoryRecord, RunRecord, WorkloadResult } from '../harness/types.js'
import type { ApiMore } from '../workloads/api-workload.js'
import { type Finding, finding } from './finding.js'
import { joinTellings } from './joined-history.js'
import { search } from './search.js'

/** S1, S2, S3 and A1 by what the API workload was told. */
export function judgeApi(run: Omit<RunRecord, 'verdict'>, result: WorkloadResult): Finding[] {
  const more = result.more as unknown as ApiMore
  const { events: truth, wrong } = truthOf(run, result, more)
  const history = new TrueHistory(truth)
  const covered = coveredUpTo(run, result)
  return [
    ...durability(result, more, history, covered),
    ...order(result, more, history, covered),
    ...watches(result, truth, wrong),
    ...badRequests(result),
    ...more.lacks.map((text) => ({
      promise: /watch/.test(text) ? 'S3' : 'S1',
      state: 'unknown' as const,
      text: `API: ${text}`,
      evidence: [],
    })),
  ]
}

interface Seen {
  key: string
  value: string
  revision: number
}

const argument = (record: HistoryRecord) => (record.argument ?? {}) as { value?: string; expected?: number }

/** What the followers tell together; and the store's own history of the same keys, where the target has it. */
function truthOf(
  run: Omit<RunRecord, 'verdict'>,
  result: WorkloadResult,
  { prefix }: ApiMore,
): { events: HistoryEvent[]; wrong: string[] } {
  const plain = { createRevision: 0, version: 0, lease: 0 }
  const tellings = result.watches.map(({ reader, events }) => ({
    teller: reader,
    events: events.map((event) => ({ ...event, ...plain })),
  }))
  // What the last deletion of everything does comes after the followers have ended: it is not asked about.
  const last = Math.max(0, ...result.watches.map((watch) => watch.toldUpTo))
  const stored = (run.finalState.objectHistory ?? []).filter(
    ({ key, revision }) => key.startsWith(prefix) && !key.endsWith('/kube-root-ca.crt') && revision <= last,
  )
  tellings.push({
    teller: 'the store',
    events: stored.map(({ key, revision, object }) => ({
      key,
      revision,
      type: object === undefined ? 'delete' : 'put',
      value: object === undefined ? '' : ((object as { data?: { v?: string } }).data?.v ?? ''),
      ...plain,
    })),
  })
  return joinTellings(tellings)
}

/** Everything from the first follower's list up to here is told: by the store, or by the followers up to the first hole between them. */
function coveredUpTo(run: Omit<RunRecord, 'verdict'>, { watches }: WorkloadResult): number {
  // The store's own history has no holes.
  if (run.finalState.objectHistory) return Math.max(0, ...watches.map(({ toldUpTo }) => toldUpTo))
  let covered = 0
  for (const { fromRevision, toldUpTo } of [...watches].sort((a, b) => a.fromRevision - b.fromRevision)) {
    if (covered > 0 && fromRevision > covered + 1) break
    covered = Math.max(covered, toldUpTo)
  }
  return covered
}

// ------------------------------------------------------------------------------------------------------------------ S1

const WRITES = new Set(['create', 'update', 'patch'])

function durability(result: WorkloadResult, more: ApiMore, history: TrueHistory, last: number): Finding[] {
  const told = result.history.filter((record) => WRITES.has(record.operation)).map(toldWrite)
  const judged = told.filter(({ told: t }) => t.type !== 'written' || t.revision <= last)
  const wrong = [...checkDurable(judged, history.events), ...checkOutcomes(told, history.events)]
  for (const { endpoint, revision, objects } of more.last) {
    // Of what is beyond their end the followers tell nothing.
    if (revision > last) continue
    const seen = new Map(objects.map((object) => [object.key, object]))
    for (const due of history.range(more.prefix, `${more.prefix.slice(0, -1)}0`, revision)) {
      const got = seen.get(due.key)
      if (got?.value !== due.value || got.revision !== due.revision)
        wrong.push(
          `by ${endpoint} ${due.key} is ${got ? `${got.value}@${got.revision}` : 'not there'}; it should be ${due.value}@${due.revision}`,
        )
    }
  }
  const acknowledged = told.filter(({ told: t }) => t.type === 'written').length
  const findings = [
    finding(
      'S1',
      `API: ${acknowledged} acknowledged writes of ${told.length} are in the history; what is left of them is there by ${more.last.map((one) => one.endpoint).join(', ')}`,
      wrong,
    ),
  ]
  if (judged.length < told.length)
    findings.push({
      promise: 'S1',
      state: 'unknown',
      text: `API: of ${told.length - judged.length} acknowledged writes no watch tells whether they are there`,
      evidence: [],
    })
  return findings
}

function toldWrite(record: HistoryRecord): ToldWrite {
  const { process, key, outcome, revision } = record
  return {
    client: process,
    key,
    value: argument(record).value ?? '',
    told:
      outcome === 'may-have-happened'
        ? { type: 'unknown' }
        : outcome === 'ok' && record.value === 'done' && revision !== undefined
          ? { type: 'written', revision }
          : { type: 'not-applied' },
  }
}

// ------------------------------------------------------------------------------------------------------------------ S2

function order({ history: records }: WorkloadResult, more: ApiMore, history: TrueHistory, covered: number): Finding[] {
  const objects = new Map<string, Operation<ObjectInput, ObjectOutput>[]>()
  const placed: PlacedOperation[] = []
  for (const record of records) {
    const operation = objectOperation(record)
    if (operation) objects.set(record.key, [...(objects.get(record.key) ?? []), operation])
    const placing = placedOperation(record)
    if (placing && placing.revision <= covered) placed.push(placing)
  }
  for (const { endpoint, revision, objects: seen } of more.last)
    if (revision <= covered)
      placed.push({
        client: 'last',
        what: `list by ${endpoint}`,
        // When it was asked is not recorded; its content is what counts.
        invokedMs: 0,
        returnedMs: Number.POSITIVE_INFINITY,
        revision,
        wrote: false,
        read: { from: more.prefix, to: `${more.prefix.slice(0, -1)}0`, keys: keysOf(seen) },
      })
  return [
    ...search('API', 'objects', objects, objectModel, (h) => h, objectNeeds),
    finding(
      'S2',
      `API: ${placed.length} lists and writes are legal in the order of their revisions`,
      checkRevisionOrder(placed, history),
    ),
  ]
}

function objectOperation(record: HistoryRecord): Operation<ObjectInput, ObjectOutput> | undefined {
  const { operation, outcome, process, invokedMs, returnedMs = invokedMs, revision } = record
  if (outcome === 'did-not-happen' || operation === 'list') return undefined
  const { value = '', expected = 0 } = argument(record)
  const input: ObjectInput =
    operation === 'create' || operation === 'patch'
      ? { type: operation, value }
      : operation === 'update'
        ? { type: 'update', value, expected }
        : operation === 'delete'
          ? { type: 'delete' }
          : { type: 'get' }
  const about = { client: process, input, invokedMs }
  if (outcome !== 'ok') return input.type === 'get' ? undefined : about
  const told = record.value
  if (told === 'AlreadyExists' || told === 'NotFound' || told === 'Conflict')
    if (input.type !== 'get' || revision === undefined) return { ...about, returnedMs, output: { type: told } }
  if (input.type === 'get')
    return { ...about, returnedMs, output: { type: 'object', value: String(told), revision: revision ?? 0 } }
  return { ...about, returnedMs, output: { type: 'done', ...(revision === undefined ? {} : { revision }) } }
}

/** Lists, and writes that tell a revision. What a get tells is the object's revision: it places nothing. */
function placedOperation(record: HistoryRecord): PlacedOperation | undefined {
  const { operation, outcome, revision, key, invokedMs, returnedMs = invokedMs } = record
  if (outcome !== 'ok' || revision === undefined || operation === 'get') return undefined
  const isList = operation === 'list'
  return {
    client: record.process,
    what: `${operation} of ${key}${record.endpoint ? ` by ${record.endpoint}` : ''}`,
    invokedMs,
    returnedMs,
    revision,
    wrote: !isList,
    ...(isList
      ? { read: { from: key, to: `${key.slice(0, -1)}.`, keys: keysOf(record.value as unknown as Seen[]) } }
      : {}),
  }
}

const keysOf = (seen: readonly Seen[]) =>
  [...seen]
    .sort((a, b) => (a.key < b.key ? -1 : 1))
    .map(({ key, value, revision }) => ({ key, value, modRevision: revision, createRevision: 0, version: 0 }))

// -------------------------------------------------------------------------------------------------------------- S3, A1

function watches(result: WorkloadResult, truth: readonly HistoryEvent[], disagreements: readonly string[]): Finding[] {
  const wrong = result.watches.flatMap((record) => {
    const verdict = checkWatch(record, truth)
    return verdict.verdict === 'ok' ? [] : [verdict.explanation]
  })
  const events = result.watches.reduce((sum, { events: e }) => sum + e.length, 0)
  return [
    finding(
      'S3',
      `API: ${events} events reached ${result.watches.length} followers once, in order, without a gap, from one server to the next`,
      [...disagreements, ...wrong],
    ),
  ]
}

function badRequests({ counters }: WorkloadResult): Finding[] {
  const asked = counters['bad requests'] ?? 0
  return asked === 0 ? [] : [finding('A1', `API: ${asked} bad requests were refused with what is wrong and where`, [])]
}
