import { createHash } from 'node:crypto'
import { type ByteSpan, byteSpanOf, compareBytes, spanHas, spanOf, toLatin1, u64, u64At, writeU64 } from './bytes.js'
import { checkQuery, checkRange, checkTxn } from './check-txn.js'
import { ChainHash, type IndexedHash } from './chain-hash.js'
import { crc32c } from './crc32c.js'
import { KeyIndex } from './key-index.js'
import {
  AFTER_CHANGES,
  AFTER_LEASES,
  attachedFrom,
  type Change,
  ChangeRecord,
  changeKey,
  decodeLease,
  encodeLease,
  FIRST_CHANGE,
  FIRST_LEASE,
  FORMAT,
  keyOfRow,
  leaseKey,
  metaKey,
  positionOf,
} from './record.js'
import { Sessions } from './sessions.js'
import type { EngineWrite, StateEngine } from './state-engine.js'
import {
  type Alarm,
  type Command,
  type CommandResult,
  type Compare,
  type Entry,
  type HistoryPosition,
  type KeyRange,
  type KeyValue,
  type KvHash,
  type Lease,
  MvccError,
  type RangeQuery,
  type RangeResult,
  type RevisionEvents,
  type Txn,
  type TxnOp,
  type TxnOpReply,
  type TxnResult,
  type WatchEvent,
} from './types.js'

const NO_BYTES = new Uint8Array(0)
/** etcd's bound; a lease of 285 years. */
const LEASE_TTL_SECONDS_MAX = 9_000_000_000

export interface MvccOptions {
  /** Of the keys last used, index and values kept in memory, too. Default 32 MiB. */
  recentBytesMax?: number
  /** Deliberate bugs, for the tests of checkers; refused without `allowPlantedBugs`. */
  plantedBugs?: readonly MvccPlantedBug[]
  allowPlantedBugs?: boolean
}

/** Each of the class of a failure that real stores had. */
export const MVCC_PLANTED_BUGS = [
  /** What was applied is committed before the index that says so: a checkpoint in between holds one without the other. */
  'index-not-atomic',
  /** The first transaction after a restart is applied twice. */
  'apply-twice',
  /** After a restart of a compacted store the revision is the compact one. */
  'revision-back',
  /** The sweep takes the present revision for the compact one: watches of what lies between miss events. */
  'watch-lost-at-compaction',
  /** A snapshot is installed without its sessions: a repeated proposal is applied again. */
  'snapshot-without-sessions',
] as const
export type MvccPlantedBug = (typeof MVCC_PLANTED_BUGS)[number]

/** What is known of a list that is read in pages: how many keys come from `from` on. */
interface Page {
  revision: number
  from: Uint8Array
  to: Uint8Array | undefined
  count: number
}
const PAGES_MAX = 64
const ALARMS_MAX = 1024
const MEMBER_BYTES_MAX = 256

/**
 * The revisioned state, with etcd v3's semantics. Synchronous and deterministic: state + entries → state. All of it lies on
 * the engine, so it may be larger than memory; opening reads single values, leases and sessions. `applyBatch` is the only
 * way in; everything else reads.
 */
export class Mvcc {
  private readonly index: KeyIndex
  private readonly leaseById = new Map<number, Lease>()
  private readonly sessions = new Sessions()
  private readonly meta = new Map<string, number>()
  private readonly listeners: ((batch: RevisionEvents[]) => void)[] = []
  private readonly chain = new ChainHash()
  private alarmList: Alarm[] = []
  private pages: Page[] = []
  private applying = false
  private readonly bugs: ReadonlySet<MvccPlantedBug>
  private opened = false
  /** Planted bugs: what is committed only with the next batch; whether the next transaction is applied twice. */
  private late: { writes: EngineWrite[]; index: number } | undefined
  private twice = false
  private writes: EngineWrite[] = []
  /** How many of `writes` are of whole entries, and the index of the last of these. */
  private whole = { writes: 0, index: 0 }

  /** @throws Error if what is on the engine is of another format */
  constructor(
    readonly engine: StateEngine,
    options: MvccOptions = {},
  ) {
    const { plantedBugs = [], allowPlantedBugs = false } = options
    if (plantedBugs.length > 0 && !allowPlantedBugs) throw new Error('planted bugs are for tests only')
    this.bugs = new Set(plantedBugs)
    this.index = new KeyIndex(engine, options.recentBytesMax ?? 32 * 1024 * 1024, () => this.settle(), this.chain)
    this.index.lenient = this.bugs.has('watch-lost-at-compaction')
    this.reload()
  }

  /** Of the latest change; 1 for a new store. */
  get revision(): number {
    return this.meta.get('revision') ?? 1
  }
  /** Reads and watches below it are refused; 0: never compacted. */
  get compactRevision(): number {
    return this.meta.get('compact') ?? 0
  }
  get clusterVersion(): number {
    return this.meta.get('clusterVersion') ?? 1
  }
  get appliedIndex(): number {
    return this.late?.index ?? this.engine.appliedIndex
  }

  /** Reads everything anew from the engine: at the start, and after a snapshot was installed. */
  reload(): void {
    const { engine } = this
    this.index.clear()
    this.leaseById.clear()
    this.meta.clear()
    this.pages = []
    this.writes = []
    this.whole = { writes: 0, index: 0 }
    for (const name of ['format', 'revision', 'compact', 'clusterVersion', 'swept', 'keys']) {
      const bytes = engine.get(metaKey(name))
      if (bytes) this.meta.set(name, u64At(bytes, 0))
    }
    this.checkFormat()
    this.index.liveKeys = this.meta.get('keys') ?? 0
    for (const [key, bytes] of engine.range(FIRST_LEASE, AFTER_LEASES)) {
      const lease = decodeLease(key, bytes)
      this.leaseById.set(lease.id, lease)
    }
    this.sessions.load(engine)
    this.chain.load(engine.get(metaKey('chain')))
    this.plantAtReload()
    const alarms = engine.get(metaKey('alarms'))
    this.alarmList = alarms ? (JSON.parse(fromUtf8(alarms)) as Alarm[]) : []
  }

  private plantAtReload(): void {
    if (this.bugs.has('revision-back') && this.compactRevision > 0) this.meta.set('revision', this.compactRevision)
    this.late = undefined
    this.twice = this.bugs.has('apply-twice') && !this.opened && this.appliedIndex > 0
    if (this.bugs.has('snapshot-without-sessions') && this.opened) this.sessions.forgetAll(this.writes)
    this.opened = true
  }

  private checkFormat(): void {
    const format = this.meta.get('format')
    if (format === FORMAT) return
    // Written with the first commit, so only an engine that never saw one is without it.
    if (format !== undefined || this.engine.appliedIndex > 0)
      throw new Error(
        `the state is of format ${format ?? 1}, this program reads and writes ${FORMAT}: empty the member's directory and start ` +
          'it as an existing member, to be repaired by the others',
      )
    this.setMeta('format', FORMAT)
  }

  // ------------------------------------------------------------------------------------------------------------ apply

  /**
   * Applies entries in order and commits them to the engine in one piece, with the index of the last one. Entries that
   * were applied before are skipped (their results are missing at the end). Listeners hear of it after the commit.
   * `extra`: what the owner keeps beside (see `extra`), in the same commit.
   */
  applyBatch(
    entries: readonly Entry[],
    extra: readonly (readonly [name: string, value: Uint8Array])[] = [],
  ): CommandResult[] {
    const results: CommandResult[] = []
    const happened: RevisionEvents[] = []
    let { appliedIndex } = this
    for (const { index, command } of entries) {
      if (index <= appliedIndex) throw new Error(`entry ${index} was applied already: at ${appliedIndex}`)
      appliedIndex = index
      this.applying = true
      if (this.twice && command.type === 'txn') {
        this.twice = false
        this.apply(index, { type: 'txn', txn: command.txn }, happened)
      }
      const result = this.apply(index, command, happened)
      results.push(result)
      this.applying = false
      this.index.endEntry()
      this.hashEntry(index, command, result)
      this.whole.writes = this.writes.length
      this.whole.index = index
    }
    this.commit(
      this.writes,
      appliedIndex,
      extra.map(([name, value]) => [metaKey(`x${name}`), value]),
    )
    this.writes = []
    this.whole.writes = 0
    this.index.committed()
    if (happened.length > 0) for (const listener of this.listeners) listener(happened)
    return results
  }

  /**
   * Scans read from the engine: so the entries of a batch before the one that scans are committed before it, as they are.
   * Nobody else can look at the engine in between, nor can a checkpoint: all of a batch is one turn.
   */
  private settle(): void {
    if (this.whole.writes === 0) return
    const rest = this.writes.splice(this.whole.writes)
    this.commit(this.writes, this.whole.index)
    this.writes = rest
    this.whole.writes = 0
  }

  /** Beside its changes (see `KeyIndex.record`): what else it did, or why it did nothing. */
  private hashEntry(index: number, command: Command, result: CommandResult): void {
    const { chain } = this
    switch (command.type) {
      case 'txn':
        if (!command.session) break
        chain.text(command.session.clientId)
        chain.number(command.session.seq)
        break
      case 'leaseGrant':
      case 'leaseRevoke':
        chain.number(command.id)
        if (command.type === 'leaseGrant') chain.number(command.ttlSeconds)
        break
      case 'leaseCheckpoint':
        for (const { id, seconds } of command.remaining) {
          chain.number(id)
          chain.number(seconds)
        }
        break
      case 'compact':
        chain.number(command.revision)
        break
      case 'alarm':
        chain.text(`${command.action} ${command.alarm} ${command.member}`)
    }
    chain.text(result.type === 'failed' ? result.error.code : result.type)
    chain.end(index)
  }

  /** `writes` are of whole entries up to `appliedIndex`. */
  private commit(writes: EngineWrite[], appliedIndex: number, extra: readonly EngineWrite[] = []): void {
    if (writes.length > 0)
      writes.push([metaKey('revision'), u64(this.revision)], [metaKey('keys'), u64(this.index.liveKeys)])
    const ofIndex: EngineWrite[] = [[metaKey('chain'), this.chain.encode()], ...extra]
    if (this.bugs.has('index-not-atomic')) {
      if (this.late) this.engine.commit(this.late.writes, this.late.index)
      this.engine.commit(writes, this.engine.appliedIndex)
      this.late = { writes: ofIndex, index: appliedIndex }
      return
    }
    for (const write of ofIndex) writes.push(write)
    this.engine.commit(writes, appliedIndex)
  }

  /** What the owner stored by `applyBatch`; part of snapshots, not of the canonical dump. */
  extra(name: string): Uint8Array | undefined {
    const bytes = this.engine.get(metaKey(`x${name}`))
    return bytes && new Uint8Array(bytes)
  }

  /** Calls with the events of each batch of applied revisions, in order, after their commit. Must not throw. */
  onRevisions(listener: (batch: RevisionEvents[]) => void): () => void {
    this.listeners.push(listener)
    return () => {
      const at = this.listeners.indexOf(listener)
      if (at >= 0) this.listeners.splice(at, 1)
    }
  }

  private apply(index: number, command: Command, happened: RevisionEvents[]): CommandResult {
    try {
      switch (command.type) {
        case 'noop':
          return { type: 'done', revision: this.revision }
        case 'txn': {
          const { txn, session } = command
          const before = session && this.sessions.find(session.clientId, session.seq)
          if (before)
            return { type: 'txn', repeated: true, ...before, replies: before.replies ?? this.repliesAgain(txn, before) }
          const result = this.applyTxn(txn, happened)
          if (session) this.sessions.remember(session.clientId, session.seq, index, result, this.writes)
          return { type: 'txn', repeated: false, ...result }
        }
        case 'leaseGrant':
          return this.grant(command.id, command.ttlSeconds)
        case 'leaseRevoke':
          return this.revoke(command.id, happened)
        case 'leaseCheckpoint':
          for (const { id, seconds } of command.remaining) {
            const lease = this.leaseById.get(id)
            const remainingSeconds = Math.min(seconds, lease?.ttlSeconds ?? 0)
            // Most often it was renewed again, in full as before: nothing to write.
            if (lease && lease.remainingSeconds !== remainingSeconds) this.saveLease({ ...lease, remainingSeconds })
          }
          return { type: 'done', revision: this.revision }
        case 'compact':
          return this.compact(command.revision)
        case 'alarm':
          return this.alarm(command)
        case 'clusterVersion':
          if (command.version > this.clusterVersion) this.setMeta('clusterVersion', command.version)
          return { type: 'done', revision: this.revision }
        default:
          throw new MvccError('BAD_REQUEST', `unknown command ${String((command as { type?: unknown }).type)}`)
      }
    } catch (error) {
      // Commands are checked before anything is changed, so an MvccError means "did not happen". The rest are bugs.
      if (error instanceof MvccError) return { type: 'failed', error: error.toData() }
      throw error
    }
  }

  private applyTxn(txn: Txn, happened: RevisionEvents[]): TxnResult {
    checkTxn(txn)
    const writer = new Writer(this.revision + 1)
    const only = onlyPut(txn)
    let succeeded = true
    let replies: TxnOpReply[]
    // What nearly all are needs no path through conditions.
    if (only) {
      this.checkPut(only)
      replies = [this.runPut(only, writer)]
    } else {
      const path = this.choosePath(txn)
      this.checkPath(path)
      succeeded = path.succeeded
      replies = this.run(path, writer)
    }
    this.endRevision(writer, happened)
    return { revision: this.revision, succeeded, replies }
  }

  /** A remembered answer that only read is read again as of its revision; one that wrote cannot be had again. */
  private repliesAgain(txn: Txn, { revision, succeeded }: { revision: number; succeeded: boolean }): TxnOpReply[] {
    checkTxn(txn)
    return (succeeded ? txn.success : txn.failure).map((op) => {
      const readAt = op.type === 'range' ? op.revision || revision : 0
      if (op.type !== 'range' || readAt < this.compactRevision)
        throw new MvccError(
          'SESSION_STALE',
          `it was applied at revision ${revision}; its answer was too large to keep`,
          {
            revision,
            succeeded,
          },
        )
      return { type: 'range', ...this.query({ ...op, revision: readAt }) }
    })
  }

  /** etcd compares all, nested ones too, with the state before the transaction. */
  private choosePath(txn: Txn): Path {
    const succeeded = txn.compare.every((c) => this.holds(c))
    const ops = succeeded ? txn.success : txn.failure
    return { succeeded, ops, nested: ops.map((op) => (op.type === 'txn' ? this.choosePath(op.txn) : undefined)) }
  }

  private checkPath(path: Path): void {
    path.ops.forEach((op, at) => {
      if (op.type === 'put') this.checkPut(op)
      else if (op.type === 'range') this.checkRevision(op.revision ?? 0)
      else if (op.type === 'txn') this.checkPath(path.nested[at] as Path)
    })
  }

  private checkPut(op: Put): void {
    if (op.lease && !op.ignoreLease && !this.leaseById.has(op.lease)) throw leaseNotFound(op.lease)
    if ((op.ignoreValue || op.ignoreLease) && !this.index.at(toLatin1(op.key), op.key, 0))
      throw new MvccError('BAD_REQUEST', 'ignoreValue and ignoreLease need a key that exists')
  }

  private run(path: Path, writer: Writer): TxnOpReply[] {
    return path.ops.map((op, at): TxnOpReply => {
      switch (op.type) {
        case 'put':
          return this.runPut(op, writer)
        case 'delete': {
          const { deleted, prevKvs } = this.deleteSpan(op, writer)
          return { type: 'delete', deleted, prevKvs }
        }
        case 'range':
          return { type: 'range', ...this.query(op) }
        case 'txn': {
          const nested = path.nested[at] as Path
          return { type: 'txn', succeeded: nested.succeeded, replies: this.run(nested, writer) }
        }
      }
    })
  }

  private runPut(op: Put, writer: Writer): TxnOpReply {
    const prevKv = this.put(op, writer)
    return prevKv ? { type: 'put', prevKv } : { type: 'put' }
  }

  private put(op: Put, writer: Writer): KeyValue | undefined {
    const { key } = op
    const name = toLatin1(key)
    const latest = this.index.latest(name, key)
    const old = latest?.deleted ? undefined : latest
    const prevKv = op.prevKv && old ? this.keyValue(key, old, false) : undefined
    const value = op.ignoreValue && old ? this.index.valueOf(old, true) : op.value
    const change = {
      main: writer.revision,
      sub: writer.events.length,
      create: old ? old.create : writer.revision,
      version: old ? old.version + 1 : 1,
      lease: op.ignoreLease && old ? old.lease : (op.lease ?? 0),
      deleted: false,
    }
    const made = this.index.record(name, key, latest, change, value, this.compactRevision, this.writes)
    writer.events.push({ type: 'put', kv: this.keyValue(key, made, false) })
    return prevKv
  }

  private deleteSpan(op: Extract<TxnOp, { type: 'delete' }>, writer: Writer): { deleted: number; prevKvs: KeyValue[] } {
    const found: [Uint8Array, Change][] = []
    for (const pair of this.index.scan(byteSpanOf(op), 0)) found.push(pair)
    const prevKvs = op.prevKv ? found.map(([key, change]) => this.keyValue(key, change, false)) : []
    for (const [key] of found) this.deleteKey(key, writer)
    return { deleted: found.length, prevKvs }
  }

  private deleteKey(key: Uint8Array, writer: Writer): void {
    const name = toLatin1(key)
    const { revision: main, events } = writer
    const change = { main, sub: events.length, create: 0, version: 0, lease: 0, deleted: true }
    const old = this.index.latest(name, key)
    const made = this.index.record(name, key, old, change, NO_BYTES, this.compactRevision, this.writes)
    events.push({ type: 'delete', kv: this.keyValue(key, made, false) })
  }

  private endRevision(writer: Writer, happened: RevisionEvents[]): void {
    if (writer.events.length === 0) return
    this.meta.set('revision', writer.revision)
    happened.push({ revision: writer.revision, events: writer.events })
  }

  // ------------------------------------------------------------------------------------------------------------- read

  /** Keys of a range as of a revision.
   *  @throws MvccError COMPACTED, FUTURE_REVISION, BAD_REQUEST */
  range(query: RangeQuery): RangeResult {
    checkQuery(query as RangeQuery & Record<string, unknown>)
    this.checkRevision(query.revision ?? 0)
    return this.query(query)
  }

  private query(query: RangeQuery): RangeResult {
    const limit = query.limit ?? 0
    const natural = query.sortTarget === undefined || query.sortTarget === 'key'
    const backwards = query.sortOrder === 'descend'
    const filtered = Boolean(
      query.minModRevision || query.maxModRevision || query.minCreateRevision || query.maxCreateRevision,
    )
    // With a plain order the rest beyond the limit is only counted, never read.
    const collectMax = natural && !backwards && limit > 0 ? limit + 1 : Number.POSITIVE_INFINITY
    const span = byteSpanOf(query)
    const asked = query.revision ?? 0
    const revision = asked === this.revision && !this.applying ? 0 : asked
    if (query.countOnly) return { kvs: [], more: false, count: this.count(span, revision) }
    const found: [Uint8Array, Change][] = []
    let count = 0
    for (const pair of this.index.scan(span, revision)) {
      count++
      if (filtered) {
        const { main, create } = pair[1]
        if (query.minModRevision && main < query.minModRevision) continue
        if (query.maxModRevision && main > query.maxModRevision) continue
        if (query.minCreateRevision && create < query.minCreateRevision) continue
        if (query.maxCreateRevision && create > query.maxCreateRevision) continue
      }
      found.push(pair)
      if (found.length >= collectMax) {
        count = this.count(span, revision)
        break
      }
    }
    if (!natural) this.sortBy(found, query.sortTarget as 'version' | 'create' | 'mod' | 'value', backwards)
    else if (backwards) found.reverse()
    const more = limit > 0 && found.length > limit
    if (more) found.length = limit
    if (more && natural && !backwards && !filtered && !this.applying)
      this.rememberPage(revision, found[limit - 1]?.[0] as Uint8Array, span.to, count - limit)
    return {
      kvs: found.map(([key, change]) => this.keyValue(key, change, query.keysOnly ?? false, span.single)),
      more,
      count,
    }
  }

  private count(span: ByteSpan, revision: number): number {
    if (revision === 0 && this.applying) return this.index.count(span)
    const known = this.pages.find(
      (page) =>
        page.revision === (revision || this.revision) &&
        compareBytes(page.from, span.from) === 0 &&
        (span.to === undefined ? page.to === undefined : page.to !== undefined && compareBytes(page.to, span.to) === 0),
    )
    if (known && !span.single) return known.count
    if (revision === 0) return this.index.count(span)
    let count = 0
    for (const _ of this.index.scan(span, revision)) count++
    return count
  }

  /** So that the next page, which starts just after this one's last key, is not counted anew: that would take all of them. */
  private rememberPage(revision: number, lastKey: Uint8Array, to: Uint8Array | undefined, count: number): void {
    const from = new Uint8Array(lastKey.length + 1)
    from.set(lastKey)
    this.pages.unshift({ revision: revision || this.revision, from, to, count })
    if (this.pages.length > PAGES_MAX) this.pages.pop()
  }

  private sortBy(
    found: [Uint8Array, Change][],
    target: 'version' | 'create' | 'mod' | 'value',
    backwards: boolean,
  ): void {
    const sign = backwards ? -1 : 1
    if (target === 'value') {
      const valued = found.map((pair) => ({ pair, value: this.index.valueOf(pair[1], false) }))
      valued.sort((a, b) => sign * compareBytes(a.value, b.value))
      valued.forEach(({ pair }, at) => (found[at] = pair))
      return
    }
    const field = target === 'mod' ? 'main' : target
    // Sort is stable: equal ones stay in key order.
    found.sort((a, b) => sign * (a[1][field] - b[1][field]))
  }

  /**
   * Gives `take` the events of a range from a position of the history on, in order, until it has enough (and says so by
   * `false`: that event is taken), or `changesMax` changes have been looked at. Where to go on: everything before that has
   * been given; at the next `revision`: up to date. It may lie inside a revision.
   * @throws MvccError COMPACTED
   */
  eventsFrom(
    from: HistoryPosition,
    range: KeyRange,
    take: (event: WatchEvent, at: HistoryPosition) => boolean,
    changesMax = 1000,
  ): HistoryPosition {
    if (from.revision < this.compactRevision) throw this.compacted(from.revision)
    const span = spanOf(range)
    let looked = 0
    for (const [recordKey, bytes] of this.engine.range(changeKey(from.revision, from.sub), AFTER_CHANGES)) {
      const { main: revision, sub } = positionOf(recordKey)
      if (looked >= changesMax) return { revision, sub }
      looked++
      const record = new ChangeRecord(revision, sub, bytes)
      if (!spanHas(span, record.name)) continue
      const kv = this.keyValue(record.key, record.change(true), false)
      if (!take({ type: record.deleted ? 'delete' : 'put', kv }, { revision, sub })) return { revision, sub: sub + 1 }
    }
    return { revision: Math.max(from.revision, this.revision + 1), sub: 0 }
  }

  /** The key's state just before `modRevision`; missing: it did not exist, or that is compacted away. */
  previous(key: Uint8Array, modRevision: number): KeyValue | undefined {
    const revision = modRevision - 1
    if (revision < Math.max(1, this.compactRevision)) return undefined
    const change = this.index.at(toLatin1(key), key, revision)
    return change && this.keyValue(key, change, false)
  }

  // ----------------------------------------------------------------------------------------------------------- leases

  lease(id: number): Lease | undefined {
    return this.leaseById.get(id)
  }
  /** Ascending by id. */
  leases(): Lease[] {
    return [...this.leaseById.values()].sort((a, b) => a.id - b.id)
  }
  /** Ascending by bytes. */
  leaseKeys(id: number): Uint8Array[] {
    this.settle()
    const keys: Uint8Array[] = []
    for (const [row, mark] of this.engine.range(attachedFrom(id), attachedFrom(id + 1)))
      keys.push(keyOfRow(row, 9) ?? new Uint8Array(mark))
    return keys.sort(compareBytes)
  }

  private grant(id: number, ttlSeconds: number): CommandResult {
    if (!Number.isSafeInteger(id) || id < 1)
      throw new MvccError('BAD_REQUEST', `lease id must be a positive integer, not ${id}`)
    if (!Number.isSafeInteger(ttlSeconds) || ttlSeconds < 1 || ttlSeconds > LEASE_TTL_SECONDS_MAX)
      throw new MvccError(
        'BAD_REQUEST',
        `lease TTL must be 1 to ${LEASE_TTL_SECONDS_MAX} whole seconds, not ${ttlSeconds}`,
      )
    if (this.leaseById.has(id)) throw new MvccError('LEASE_EXISTS', `lease ${id} exists`)
    this.saveLease({ id, ttlSeconds, remainingSeconds: 0 })
    return { type: 'leaseGrant', id, ttlSeconds, revision: this.revision }
  }

  private revoke(id: number, happened: RevisionEvents[]): CommandResult {
    if (!this.leaseById.has(id)) throw leaseNotFound(id)
    const writer = new Writer(this.revision + 1)
    for (const key of this.leaseKeys(id)) this.deleteKey(key, writer)
    this.endRevision(writer, happened)
    this.leaseById.delete(id)
    this.writes.push([leaseKey(id), undefined])
    return { type: 'done', revision: this.revision }
  }

  private saveLease(lease: Lease): void {
    this.leaseById.set(lease.id, lease)
    this.writes.push([leaseKey(lease.id), encodeLease(lease.ttlSeconds, lease.remainingSeconds)])
  }

  // ----------------------------------------------------------------------------------------------------------- alarms

  /** In the order of alarms, then members. */
  alarms(): readonly Alarm[] {
    return this.alarmList
  }

  private alarm({ action, alarm, member, byHand }: Extract<Command, { type: 'alarm' }>): CommandResult {
    if (alarm !== 'NOSPACE' && alarm !== 'CORRUPT') throw new MvccError('BAD_REQUEST', `unknown alarm ${String(alarm)}`)
    if (action !== 'raise' && action !== 'clear')
      throw new MvccError('BAD_REQUEST', `an alarm is raised or cleared, not ${String(action)}`)
    const isName = typeof member === 'string' && member.length > 0 && member.length <= MEMBER_BYTES_MAX
    if (member === undefined ? action === 'raise' : !isName)
      throw new MvccError('BAD_REQUEST', `an alarm names its member by 1 to ${MEMBER_BYTES_MAX} characters`)
    const named = (one: Alarm) => one.alarm === alarm && (member === undefined || one.member === member)
    const others = this.alarmList.filter((one) => !named(one))
    const isByHand = byHand === true || this.alarmList.some((one) => named(one) && one.byHand)
    const raised = { member: member as string, alarm, ...(isByHand ? { byHand: true } : {}) }
    const next = action === 'clear' ? others : [...others, raised]
    if (next.length > ALARMS_MAX) throw new MvccError('BAD_REQUEST', `${ALARMS_MAX} alarms are raised already`)
    this.alarmList = next.sort((a, b) => order(a.alarm, b.alarm) || order(a.member, b.member))
    this.writes.push([metaKey('alarms'), toUtf8(JSON.stringify(this.alarmList))])
    return { type: 'done', revision: this.revision }
  }

  // ------------------------------------------------------------------------------------------------------- compaction

  private compact(revision: number): CommandResult {
    if (!Number.isSafeInteger(revision) || revision < 1)
      throw new MvccError('BAD_REQUEST', `revision must be a positive integer, not ${revision}`)
    if (revision <= this.compactRevision) throw this.compacted(revision)
    if (revision > this.revision) throw this.future(revision)
    this.setMeta('compact', revision)
    this.pages = this.pages.filter((page) => page.revision >= revision)
    return { type: 'done', revision: this.revision }
  }

  /** Compacted changes wait to be removed. */
  get sweepPending(): boolean {
    return this.swept < this.compactRevision
  }

  /** All changes up to it were looked at by a sweep. */
  private get swept(): number {
    return this.meta.get('swept') ?? 0
  }

  /**
   * Looks at the next `changesMax` changes (and the rest of their revision) up to the compact revision, and removes what was
   * compacted: of each, its key's former change; of a deletion, the last trace of its key. Members may sweep at different
   * times: what is readable, and the canonical dump, do not depend on it. Returns whether more is left.
   */
  sweep(changesMax: number): boolean {
    if (!this.sweepPending) return false
    const { compactRevision } = this
    const writes: EngineWrite[] = []
    let looked = 0
    let swept = this.swept
    const end = this.bugs.has('watch-lost-at-compaction') ? this.revision : compactRevision
    let more = false
    // From `swept` itself on: a deletion at the compact revision of that time was left for its watches.
    for (const [recordKey, bytes] of this.engine.range(changeKey(swept, 0), changeKey(end + 1, 0))) {
      const { main, sub } = positionOf(recordKey)
      if (main !== swept && looked >= changesMax) {
        more = true
        break
      }
      // Those at the start were counted by the slice before.
      if (main !== this.swept) looked++
      swept = main
      const record = new ChangeRecord(main, sub, bytes)
      const { previous } = record
      if (previous) writes.push([changeKey(previous.main, previous.sub), undefined])
      if (!record.deleted || main >= compactRevision) continue
      writes.push([changeKey(main, sub), undefined])
      const { key } = record
      if (this.index.latest(toLatin1(key), key)?.main === main) this.index.forget(key, writes)
    }
    if (!more || swept > compactRevision) swept = compactRevision
    this.meta.set('swept', swept)
    writes.push([metaKey('swept'), u64(swept)])
    this.engine.commit(writes, this.engine.appliedIndex)
    return more
  }

  /** Kept by the compaction: what is newer, and each key's state at the compact revision. A deletion at exactly that
   *  revision stays too, since a watch may start there. */
  private survives(record: ChangeRecord): boolean {
    const { compactRevision } = this
    if (record.main >= compactRevision) return true
    if (record.deleted) return false
    // What is swept already is so because it did not survive.
    if (record.main < this.swept && !this.sweepPending) return true
    const { key } = record
    return this.index.at(toLatin1(key), key, compactRevision)?.main === record.main
  }

  // ------------------------------------------------------------------------------------------------------------- dump

  /** The whole state as text, one fact a line, the same on every member that applied the same index (promise S4). */
  *dump(): Generator<string> {
    yield `applied ${this.appliedIndex} revision ${this.revision} compact ${this.compactRevision} version ${this.clusterVersion}`
    for (const [recordKey, bytes] of this.engine.range(FIRST_CHANGE, AFTER_CHANGES)) {
      const { main, sub } = positionOf(recordKey)
      const record = new ChangeRecord(main, sub, new Uint8Array(bytes))
      if (!this.survives(record)) continue
      const { create, version, lease, deleted } = record.change(false)
      const value = deleted ? 'deleted' : `${create} ${version} ${lease} ${hex(record.value)}`
      yield `change ${main}.${sub} ${hex(record.key)} ${value}`
    }
    for (const { id, ttlSeconds, remainingSeconds } of this.leases())
      yield `lease ${id} ${ttlSeconds} ${remainingSeconds}`
    for (const { alarm, member, byHand } of this.alarmList)
      yield `alarm ${alarm} ${JSON.stringify(member)}${byHand ? ' by hand' : ''}`
    yield* this.sessions.dump()
  }

  /** Of everything applied up to its index: the same on every member that applied that. */
  get chainHash(): IndexedHash {
    return this.chain.present
  }

  /** The present one and those of some indexes before (of this life of the process), ascending: so that members which are
   *  not at the same index find one in common. */
  recentChainHashes(): IndexedHash[] {
    return this.chain.recent()
  }

  /** What it takes on the engine, roughly, without what was freed: to be held against a quota. */
  get sizeBytes(): number {
    return this.engine.sizeBytes
  }

  /**
   * Hashes what can be read from the compact revision up to `revision` (0: the latest): keys, values, revisions, versions,
   * leases, as etcd's HashKV. Members at the same two revisions have the same one, whatever they have swept. Read from a
   * snapshot, in slices: call `next` until it is done, `return` to give up. Nothing that is applied meanwhile counts.
   * @throws MvccError COMPACTED, FUTURE_REVISION
   */
  hashKv(revision = 0, sliceChanges = 1000): Generator<undefined, KvHash> {
    this.checkRevision(revision)
    const { compactRevision } = this
    const hashRevision = revision === 0 ? this.revision : revision
    const swept = this.sweepPending ? this.swept : Number.POSITIVE_INFINITY
    const snapshot = this.engine.snapshot()
    const index = new KeyIndex({ ...snapshot, count: () => 0 }, 0, () => {})
    const head = new Uint8Array(36)
    return (function* () {
      try {
        let crc = 0
        let looked = 0
        for (const [recordKey, bytes] of snapshot.range(FIRST_CHANGE, changeKey(hashRevision + 1, 0))) {
          if (++looked % sliceChanges === 0) yield undefined
          const { main, sub } = positionOf(recordKey)
          const record = new ChangeRecord(main, sub, new Uint8Array(bytes))
          if (main < compactRevision) {
            if (record.deleted) continue
            const { key } = record
            if (swept <= compactRevision && index.at(toLatin1(key), key, compactRevision)?.main !== main) continue
          }
          const { create, version, lease, deleted } = record.change(false)
          writeU64(head, 0, main)
          writeU64(head, 8, create)
          writeU64(head, 16, version)
          writeU64(head, 24, lease)
          head[32] = deleted ? 1 : 0
          crc = crc32c(record.content, crc32c(head, crc))
        }
        return { hash: crc, hashRevision, compactRevision }
      } finally {
        snapshot.close()
      }
    })()
  }

  /**
   * Makes a restored state a new beginning: its revision rises by `bump`, more than the lost history may have had, and all
   * below is compacted, so that whoever watched the former store is told COMPACTED and not fooled (etcd: `snapshot restore
   * --bump-revision --mark-compacted`). Alarms are of the former members: cleared. Leases and sessions stay.
   * The same on every member that restores the same state. Durable with the engine's next checkpoint.
   */
  markRestored(bump: number, extra: readonly (readonly [name: string, value: Uint8Array])[] = []): void {
    if (!Number.isSafeInteger(bump) || bump < 0) throw new RangeError(`bump must be a whole number from 0, not ${bump}`)
    if (!Number.isSafeInteger(this.revision + bump)) throw new RangeError(`a revision of ${this.revision + bump}`)
    this.setMeta('revision', this.revision + bump)
    if (this.revision > this.compactRevision) this.setMeta('compact', this.revision)
    this.writes.push([metaKey('alarms'), undefined])
    for (const [name, value] of extra) this.writes.push([metaKey(`x${name}`), value])
    const { appliedIndex } = this.engine
    this.chain.number(bump)
    this.chain.end(appliedIndex)
    this.writes.push([metaKey('chain'), this.chain.encode()])
    this.engine.commit(this.writes, appliedIndex)
    this.reload()
  }

  /** SHA-256 of the dump, hex. */
  hash(): string {
    const hash = createHash('sha256')
    for (const line of this.dump()) hash.update(line).update('\n')
    return hash.digest('hex')
  }

  /** For the status. */
  figures(): { keys: number; leases: number; sessions: number } {
    return { keys: this.index.liveKeys, leases: this.leaseById.size, sessions: this.sessions.size }
  }

  // ---------------------------------------------------------------------------------------------------------- helpers

  private holds(c: Compare): boolean {
    let any = false
    for (const [, change] of this.index.scan(byteSpanOf(c), 0)) {
      any = true
      if (
        !compared(
          c,
          c.target === 'value'
            ? this.index.valueOf(change, c.rangeEnd === undefined)
            : change[c.target === 'mod' ? 'main' : c.target],
        )
      )
        return false
    }
    // As etcd: nothing there compares as zeros, and never by value.
    return any || (c.target !== 'value' && compared(c, 0))
  }

  private keyValue(key: Uint8Array, change: Change, keysOnly: boolean, keep = false): KeyValue {
    return {
      key,
      value: keysOnly || change.deleted ? NO_BYTES : this.index.valueOf(change, keep),
      createRevision: change.create,
      modRevision: change.main,
      version: change.version,
      lease: change.lease,
    }
  }

  private setMeta(name: string, value: number): void {
    this.meta.set(name, value)
    this.writes.push([metaKey(name), u64(value)])
  }

  private checkRevision(revision: number): void {
    if (revision === 0) return
    if (revision > this.revision) throw this.future(revision)
    if (revision < this.compactRevision) throw this.compacted(revision)
  }

  private compacted(revision: number): MvccError {
    const { compactRevision } = this
    return new MvccError('COMPACTED', `revision ${revision} is compacted; the oldest is ${compactRevision}`, {
      compactRevision,
    })
  }

  private future(revision: number): MvccError {
    return new MvccError('FUTURE_REVISION', `revision ${revision} does not exist yet; the latest is ${this.revision}`)
  }
}

/** Is this request well formed as a range of keys?
 *  @throws MvccError BAD_REQUEST */
export const checkKeyRange: (range: KeyRange) => void = checkRange

type Put = Extract<TxnOp, { type: 'put' }>

function onlyPut({ compare, success }: Txn): Put | undefined {
  const [op] = success
  return compare.length === 0 && success.length === 1 && op?.type === 'put' ? op : undefined
}

interface Path {
  succeeded: boolean
  ops: TxnOp[]
  nested: (Path | undefined)[]
}

class Writer {
  readonly events: WatchEvent[] = []
  constructor(readonly revision: number) {}
}

function order(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function toUtf8(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

function fromUtf8(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes)
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}

function compared(c: Compare, actual: number | Uint8Array): boolean {
  const order =
    typeof actual === 'number'
      ? Math.sign(actual - (c.operand as number))
      : compareBytes(actual, c.operand as Uint8Array)
  switch (c.result) {
    case '=':
      return order === 0
    case '!=':
      return order !== 0
    case '<':
      return order < 0
    case '>':
      return order > 0
  }
}

function leaseNotFound(id: number): MvccError {
  return new MvccError('LEASE_NOT_FOUND', `no lease ${id}`)
}
