import { checkDurable, checkEqualState, checkOutcomes, type ToldWrite } from '../checkers/durability.js'
import { type HistoryEvent, TrueHistory } from '../checkers/history.js'
import {
  type ListInput,
  listModel,
  type ListOutput,
  type SetInput,
  setModel,
  type SetOutput,
} from '../checkers/collection-models.js'
import { checkLease, type ClusterTimes } from '../checkers/leases.js'
import type { Operation } from '../checkers/linearizability.js'
import {
  type RegisterInput,
  registerModel,
  type RegisterOutput,
  simplifyRegisterHistory,
} from '../checkers/register-model.js'
import { checkRevisionOrder, type PlacedOperation, type SeenKey } from '../checkers/revision-order.js'
import { checkWatchGuarantees } from '../checkers/watch-guarantees.js'
import type { HistoryRecord, RunRecord, WorkloadResult } from '../harness/types.js'
import type { StoreMore } from '../workloads/store-workload.js'
import { type Finding, finding } from './finding.js'
import { joinTellings } from './joined-history.js'
import { search } from './search.js'

/** Two clocks of one host, and what an answer takes under load. */
const LEASE_MARGINS = { clockRate: 0.05, noticeMs: 3000, perLeaderChangeMs: 4000 }
/** After a fault is undone its effects may linger: a time that the rules on leases leave out. */
const TROUBLE_LINGERS_MS = 3000
/** An answer that takes longer shows a stall; one that never came, so long a one. */
const SLOW_MS = 1000
const UNANSWERED_MS = 5000

/** S1, S2, S3, S4 and S5 by what the store workload was told. */
export function judgeStore(run: Omit<RunRecord, 'verdict'>, result: WorkloadResult): Finding[] {
  const more = result.more as unknown as StoreMore
  const { truth, wrong: disagreements } = truthOf(result.history, more)
  const history = new TrueHistory(truth)
  return [
    ...durability(result.history, truth, more),
    ...order(result.history, history, coveredUpTo(more.streams)),
    ...watches(more, history, disagreements),
    ...equalState(more),
    ...leases(clusterTimes(run, result.history), more, history),
    ...gaps(more),
  ]
}

const toldSuccess = (record: HistoryRecord) => record.outcome === 'ok'
const hasChanged = (record: HistoryRecord) => (record.value as { changed?: boolean } | undefined)?.changed === true
const argument = (record: HistoryRecord) =>
  (record.argument ?? {}) as { value?: string; item?: string; expected?: number; to?: string; lease?: number }
const WRITES = new Set(['put', 'delete', 'compareAndSet', 'append', 'add', 'remove'])

/** What happened in the workload's range, by all its watchers together. */
function truthOf(records: readonly HistoryRecord[], more: StoreMore): { truth: HistoryEvent[]; wrong: string[] } {
  const leaseOf = new Map(records.map((record) => [argument(record).value, argument(record).lease ?? 0]))
  const { events, wrong } = joinTellings(
    more.streams.map((stream) => ({
      teller: stream.reader,
      events: stream.messages.flatMap((message) =>
        message.events.map(({ type, key, value, revision, createRevision, version }) => ({
          type,
          key,
          value,
          revision,
          createRevision,
          version,
          lease: leaseOf.get(value) ?? 0,
        })),
      ),
    })),
  )
  return { truth: events, wrong }
}

function durability(records: readonly HistoryRecord[], truth: readonly HistoryEvent[], more: StoreMore): Finding[] {
  const all = records.filter((record) => WRITES.has(record.operation)).map(toldWrite)
  // What no watcher had come to says nothing of what is there.
  const covered = coveredUpTo(more.streams)
  const told = all.filter(({ told: t }) => t.type !== 'written' || t.revision <= covered)
  const acknowledged = told.filter(({ told: t }) => t.type === 'written').length
  const wrong = [...checkDurable(told, truth), ...checkOutcomes(all, truth)]
  const members = new Set(more.streams.map((stream) => stream.reader)).size
  return [
    finding(
      'S1',
      `store: ${acknowledged} acknowledged writes of ${told.length} are in the history that ${members} members tell; none happened twice, none that was refused`,
      wrong,
    ),
    ...(told.length === all.length
      ? []
      : [
          {
            promise: 'S1',
            state: 'unknown' as const,
            text: `store: of ${all.length - told.length} acknowledged writes no watch tells whether they are there`,
            evidence: [],
          },
        ]),
  ]
}

/** The watches together tell everything up to this revision; what is beyond it, or beyond a hole between them, nobody tells. */
export function coveredUpTo(streams: StoreMore['streams']): number {
  const spans = streams
    .map(({ startRevision, messages }) => [startRevision, messages.at(-1)?.revision ?? 0] as const)
    .filter(([from, to]) => to >= from)
    .sort(([a], [b]) => a - b)
  let covered = (spans[0]?.[0] ?? 1) - 1
  for (const [from, to] of spans) {
    if (from > covered + 1) break
    covered = Math.max(covered, to)
  }
  return covered
}

function toldWrite(record: HistoryRecord): ToldWrite {
  const { process, key, operation, outcome, revision = 0 } = record
  const removes = operation === 'delete' || operation === 'remove'
  const value = removes ? undefined : argument(record).value
  return {
    client: process,
    key,
    value,
    told:
      outcome === 'may-have-happened'
        ? { type: 'unknown' }
        : outcome === 'ok' && hasChanged(record)
          ? { type: 'written', revision }
          : { type: 'not-applied' },
  }
}

// ------------------------------------------------------------------------------------------------------------------ S2

function order(records: readonly HistoryRecord[], history: TrueHistory, covered: number): Finding[] {
  const all = records.filter(toldSuccess).map((record) => placedOperation(record))
  const placed = all.filter(({ revision }) => revision <= covered)
  const wrong = checkRevisionOrder(placed, history)
  const findings = [
    finding(
      'S2',
      `store: ${placed.length} answers are legal in the order of their revisions, over all keys at once`,
      wrong,
    ),
  ]
  if (placed.length < all.length)
    findings.push({
      promise: 'S2',
      state: 'unknown',
      text: `store: of the revisions of ${all.length - placed.length} answers no watch tells`,
      evidence: [],
    })
  const registers = new Map<string, Operation<RegisterInput, RegisterOutput>[]>()
  const lists = new Map<string, Operation<ListInput, ListOutput>[]>()
  const sets = new Map<string, Operation<SetInput, SetOutput>[]>()
  for (const record of records) {
    const { key } = record
    const end = key.lastIndexOf('/')
    if (/\/r\/[^/]*$/.test(key)) add(registers, key, registerOperation(record))
    else if (/\/list\/[^/]*$/.test(key)) add(lists, key, listOperation(record))
    else if (/\/set\.\d+\/[^/]*$/.test(key)) add(sets, key.slice(0, end), setOperation(record))
  }
  findings.push(
    ...search('store', 'registers', registers, registerModel, simplifyRegisterHistory, registerNeeds),
    ...search('store', 'lists', lists, listModel, (h) => h, collectionNeeds),
    ...search('store', 'sets', sets, setModel, (h) => h, collectionNeeds),
  )
  return findings
}

function add<K, V>(map: Map<K, V[]>, key: K, value: V | undefined): void {
  if (value === undefined) return
  const list = map.get(key)
  if (list) list.push(value)
  else map.set(key, [value])
}

/** What a read or a comparison was told must have been written. */
function registerNeeds(
  operation: Operation<RegisterInput, RegisterOutput>,
  history: readonly Operation<RegisterInput, RegisterOutput>[],
): Operation<RegisterInput, RegisterOutput>[] {
  const { input, output } = operation
  const wrote = (value: string | undefined) =>
    history.filter((o) =>
      'value' in o.input ? o.input.value === value : value === undefined && o.input.type === 'delete',
    )
  if (output?.type === 'read') return wrote(output.value)
  if (output?.type === 'unchanged') return history.filter((o) => o.input.type !== 'get' && o !== operation)
  if (input.type === 'compareAndSet' && output)
    return history.filter((o) => o.output?.type === 'written' && o.output.revision === input.expected)
  return []
}

/** A list or set is what all writes have made of it. */
const collectionWrites = new WeakMap<object, Operation<ListInput | SetInput, ListOutput | SetOutput>[]>()
function collectionNeeds<I extends ListInput | SetInput, O extends ListOutput | SetOutput>(
  _: Operation<I, O>,
  history: readonly Operation<I, O>[],
): Operation<I, O>[] {
  const found = collectionWrites.get(history) ?? history.filter((o) => o.input.type !== 'read')
  collectionWrites.set(history, found as Operation<ListInput | SetInput, ListOutput | SetOutput>[])
  return found as Operation<I, O>[]
}

function times(record: HistoryRecord): { client: string; invokedMs: number; returnedMs?: number } {
  const { process, invokedMs, returnedMs, outcome } = record
  return { client: process, invokedMs, ...(outcome === 'ok' && returnedMs !== undefined ? { returnedMs } : {}) }
}

function registerOperation(record: HistoryRecord): Operation<RegisterInput, RegisterOutput> | undefined {
  const { operation, outcome, revision = 0 } = record
  if (outcome === 'did-not-happen' || (outcome !== 'ok' && operation === 'get')) return undefined
  const { value = '', expected = 0 } = argument(record)
  const input: RegisterInput =
    operation === 'get'
      ? { type: 'get' }
      : operation === 'delete'
        ? { type: 'delete' }
        : operation === 'put'
          ? { type: 'put', value }
          : { type: 'compareAndSet', expected, value }
  if (outcome !== 'ok') return { ...times(record), input }
  if (operation === 'get') {
    const [seen] = record.value as unknown as SeenKey[]
    return { ...times(record), input, output: { type: 'read', value: seen?.value, revision: seen?.modRevision ?? 0 } }
  }
  return { ...times(record), input, output: hasChanged(record) ? { type: 'written', revision } : { type: 'unchanged' } }
}

function listOperation(record: HistoryRecord): Operation<ListInput, ListOutput> | undefined {
  const { operation, outcome } = record
  if (operation === 'get') {
    if (outcome !== 'ok') return undefined
    const [seen] = record.value as unknown as SeenKey[]
    return { ...times(record), input: { type: 'read' }, output: { type: 'list', items: seen?.value ?? '' } }
  }
  const input: ListInput = { type: 'append', item: argument(record).item ?? '' }
  if (outcome === 'may-have-happened') return { ...times(record), input }
  return outcome === 'ok' && hasChanged(record) ? { ...times(record), input, output: { type: 'appended' } } : undefined
}

function setOperation(record: HistoryRecord): Operation<SetInput, SetOutput> | undefined {
  const { operation, outcome, key } = record
  if (outcome === 'did-not-happen') return undefined
  if (operation === 'range') {
    if (outcome !== 'ok') return undefined
    const elements = (record.value as unknown as SeenKey[]).map((seen) => seen.key).join(',')
    return { ...times(record), input: { type: 'read' }, output: { type: 'set', elements } }
  }
  if (operation !== 'add' && operation !== 'remove') return undefined
  const input: SetInput = { type: operation, element: key }
  if (outcome !== 'ok') return { ...times(record), input }
  return { ...times(record), input, output: { type: 'changed', changed: hasChanged(record) } }
}

function placedOperation(record: HistoryRecord): PlacedOperation {
  const { operation, key, revision = 0 } = record
  const { expected, to } = argument(record)
  const isRead = operation === 'get' || operation === 'range'
  const compares = operation === 'compareAndSet' || operation === 'append' || operation === 'add'
  const changed = hasChanged(record)
  return {
    client: record.process,
    what: `${operation} of ${key}${record.endpoint ? ` by ${record.endpoint}` : ''}`,
    invokedMs: record.invokedMs,
    returnedMs: record.returnedMs ?? record.invokedMs,
    revision,
    wrote: changed,
    ...(compares ? { compared: { keys: [{ key, modRevision: expected ?? 0 }], held: changed } } : {}),
    ...(isRead
      ? { read: { from: key, ...(to === undefined ? {} : { to }), keys: record.value as unknown as SeenKey[] } }
      : {}),
  }
}

// ---------------------------------------------------------------------------------------------------------- S3, S4, S5

function watches(more: StoreMore, history: TrueHistory, disagreements: readonly string[]): Finding[] {
  const breaches = more.streams.flatMap((stream) => checkWatchGuarantees(stream, history, more.compacted))
  const events = more.streams.reduce((sum, s) => sum + s.messages.reduce((n, m) => n + m.events.length, 0), 0)
  return [
    finding('S3', `store: ${events} events in ${more.streams.length} streams of watches hold etcd's nine guarantees`, [
      ...disagreements,
      ...breaches.map((breach) => `${breach.guarantee}: ${breach.text}`),
    ]),
  ]
}

function equalState(more: StoreMore): Finding[] {
  const { hashes } = more
  if (hashes.length < 2)
    return [{ promise: 'S4', state: 'unknown', text: 'store: fewer than two members told a hash', evidence: [] }]
  const states = hashes.map(({ member, revision, compactRevision, hash }) => ({
    member,
    // Hashes count from the compaction on: those of different ones say nothing of each other.
    appliedIndex: revision * 2 ** 20 + (compactRevision % 2 ** 20),
    hash: hash.toString(16),
  }))
  const wrong = checkEqualState(states).map((text) =>
    text.replace(/at index \d+/, `at revision ${hashes[0]?.revision}`),
  )
  if (wrong.length === 0 && new Set(states.map((s) => s.appliedIndex)).size > 1)
    return [
      { promise: 'S4', state: 'unknown', text: 'store: members had compacted at different revisions', evidence: [] },
    ]
  const names = hashes.map(({ member }) => member).join(', ')
  return [finding('S4', `store: ${names} have one hash of all keys at revision ${hashes[0]?.revision}`, wrong)]
}

function leases(times: ClusterTimes, more: StoreMore, history: TrueHistory): Finding[] {
  if (more.leases.length === 0) return []
  const wrong = more.leases.flatMap((lease) => checkLease(lease, history, LEASE_MARGINS, times))
  const ended = more.leases.filter((lease) => lease.goneSeen).length
  return [
    finding(
      'S5',
      `store: ${more.leases.length} leases, ${ended} seen to end: none early, none late, no key readable after`,
      wrong,
    ),
  ]
}

/** Trouble is a fault in force, and whatever keeps an answer for long: a host that is overloaded is no lease that lives too long. */
function clusterTimes(
  { samples, faults, endedMs }: Omit<RunRecord, 'verdict'>,
  history: readonly HistoryRecord[],
): ClusterTimes {
  const leaderChanges: number[] = []
  let term: number | undefined
  for (const sample of samples) {
    if (sample.term === undefined) continue
    if (term !== undefined && sample.term !== term) leaderChanges.push(sample.atMs)
    term = sample.term
  }
  const trouble = faults
    .filter((fault) => fault.result !== 'not tested')
    .map(({ askedMs, undoneMs }) => ({ fromMs: askedMs, toMs: (undoneMs ?? endedMs) + TROUBLE_LINGERS_MS }))
  for (const { invokedMs, returnedMs } of history)
    if (returnedMs === undefined || returnedMs - invokedMs > SLOW_MS)
      trouble.push({ fromMs: invokedMs, toMs: returnedMs ?? invokedMs + UNANSWERED_MS })
  return { leaderChanges, trouble: union(trouble) }
}

/** Overlapping times count once. */
function union(spans: { fromMs: number; toMs: number }[]): { fromMs: number; toMs: number }[] {
  const out: { fromMs: number; toMs: number }[] = []
  for (const span of spans.sort((a, b) => a.fromMs - b.fromMs)) {
    const last = out.at(-1)
    if (last && span.fromMs <= last.toMs) last.toMs = Math.max(last.toMs, span.toMs)
    else out.push({ ...span })
  }
  return out
}

/** What could not be had at the end leaves the promises unknown that need it. */
function gaps(more: StoreMore): Finding[] {
  return more.lacks.map((text) => ({
    promise: /hash/.test(text) ? 'S4' : /watch/.test(text) ? 'S3' : 'S1',
    state: 'unknown' as const,
    text: `store: ${text}`,
    evidence: [],
  }))
}
