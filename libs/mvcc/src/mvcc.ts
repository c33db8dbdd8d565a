import { createHash } from 'node:crypto'
import { compareBytes, fromLatin1, getU64, type KeySpan, spanHas, spanOf, toLatin1, u64, viewOf } from './bytes.js'
import { checkQuery, checkRange, checkTxn } from './check-txn.js'
import { type OrderedMap, orderedMap } from './ordered-map.js'
import {
  AFTER_CHANGES,
  AFTER_LEASES,
  type Change,
  changeKey,
  decodeChange,
  decodeLease,
  encodeChange,
  encodeLease,
  FIRST_CHANGE,
  FIRST_LEASE,
  leaseKey,
  metaKey,
  valueOfRecord,
} from './record.js'
import { Sessions } from './sessions.js'
import type { EngineWrite, StateEngine } from './state-engine.js'
import {
  type Command,
  type CommandResult,
  type Compare,
  type Entry,
  type KeyRange,
  type KeyValue,
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
  /** Values of the latest changes kept in memory: what watches and reads mostly want. Default 16 MiB. */
  recentBytesMax?: number
}

/** All changes of one key that are not compacted away, oldest first. The last one tells its present state. */
interface KeyHistory {
  changes: Change[]
}

/**
 * The revisioned state, with etcd v3's semantics. Synchronous and deterministic: state + entries → state. The index by
 * key is in memory, values on the engine. `applyBatch` is the only way in; everything else reads.
 */
export class Mvcc {
  private index: OrderedMap<KeyHistory> = orderedMap()
  private readonly leaseById = new Map<number, Lease>()
  private readonly keysOfLease = new Map<number, Set<string>>()
  private readonly sessions = new Sessions()
  private readonly meta = new Map<string, number>()
  private readonly listeners: ((batch: RevisionEvents[]) => void)[] = []
  private readonly recent: Change[] = []
  private recentAt = 0
  private recentBytes = 0
  /** Where the sweep of compacted changes goes on; undefined: nothing to sweep. */
  private sweepFrom: string | undefined
  private readableIndex = 0
  private writes: EngineWrite[] = []
  private unsaved: Change[] = []

  constructor(
    readonly engine: StateEngine,
    private readonly options: MvccOptions = {},
  ) {
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
  /** Of what is readable here: while a snapshot is being installed the engine may be ahead, until `reload`. */
  get appliedIndex(): number {
    return this.readableIndex
  }

  /** Reads everything anew from the engine: at the start, and after a snapshot was installed. */
  reload(): void {
    const { engine } = this
    this.readableIndex = engine.appliedIndex
    this.index = orderedMap()
    this.leaseById.clear()
    this.keysOfLease.clear()
    this.meta.clear()
    this.recent.length = 0
    this.recentAt = 0
    this.recentBytes = 0
    for (const name of ['revision', 'compact', 'clusterVersion', 'swept']) {
      const bytes = engine.get(metaKey(name))
      if (bytes) this.meta.set(name, getU64(viewOf(bytes), 0))
    }
    for (const [key, bytes] of engine.range(FIRST_CHANGE, AFTER_CHANGES)) {
      const decoded = decodeChange(key, bytes)
      this.historyOf(decoded.key).changes.push(decoded.change)
    }
    for (const [key, bytes] of engine.range(FIRST_LEASE, AFTER_LEASES)) {
      const lease = decodeLease(key, bytes)
      this.leaseById.set(lease.id, lease)
    }
    for (const [key, { changes }] of this.index.entries()) {
      const last = changes[changes.length - 1] as Change
      if (!last.deleted && last.lease !== 0) this.attach(last.lease, key)
    }
    this.sessions.load(engine)
    this.sweepFrom = (this.meta.get('swept') ?? 0) < this.compactRevision ? '' : undefined
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
    const revisionBefore = this.revision
    let appliedIndex = this.engine.appliedIndex
    for (const { index, command } of entries) {
      if (index <= appliedIndex) throw new Error(`entry ${index} was applied already: at ${appliedIndex}`)
      appliedIndex = index
      results.push(this.apply(index, command, happened))
    }
    if (this.revision !== revisionBefore) this.writes.push([metaKey('revision'), u64(this.revision)])
    for (const [name, value] of extra) this.writes.push([metaKey(`x${name}`), value])
    this.engine.commit(this.writes, appliedIndex)
    this.readableIndex = appliedIndex
    this.writes = []
    this.keepRecent()
    if (happened.length > 0) for (const listener of this.listeners) listener(happened)
    return results
  }

  /** What the owner stored by `applyBatch`; part of snapshots, not of the canonical dump. */
  extra(name: string): Uint8Array | undefined {
    return this.engine.get(metaKey(`x${name}`))
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
            if (lease) this.saveLease({ ...lease, remainingSeconds: Math.min(seconds, lease.ttlSeconds) })
          }
          return { type: 'done', revision: this.revision }
        case 'compact':
          return this.compact(command.revision)
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
    const path = this.choosePath(txn)
    this.checkPath(path)
    const writer = new Writer(this.revision + 1)
    const replies = this.run(path, writer)
    this.endRevision(writer, happened)
    return { revision: this.revision, succeeded: path.succeeded, replies }
  }

  /** A remembered answer that only read is read again as of its revision; one that wrote cannot be had again. */
  private repliesAgain(txn: Txn, { revision, succeeded }: { revision: number; succeeded: boolean }): TxnOpReply[] {
    checkTxn(txn)
    return (succeeded ? txn.success : txn.failure).map((op) => {
      if (op.type !== 'range' || revision < this.compactRevision)
        throw new MvccError(
          'SESSION_STALE',
          `it was applied at revision ${revision}; its answer was too large to keep`,
          {
            revision,
            succeeded,
          },
        )
      return { type: 'range', ...this.query({ ...op, revision: op.revision || revision }) }
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
      if (op.type === 'put') {
        if (op.lease && !op.ignoreLease && !this.leaseById.has(op.lease)) throw leaseNotFound(op.lease)
        if ((op.ignoreValue || op.ignoreLease) && !this.latest(toLatin1(op.key)))
          throw new MvccError('BAD_REQUEST', 'ignoreValue and ignoreLease need a key that exists')
      } else if (op.type === 'range') this.checkRevision(op.revision ?? 0)
      else if (op.type === 'txn') this.checkPath(path.nested[at] as Path)
    })
  }

  private run(path: Path, writer: Writer): TxnOpReply[] {
    return path.ops.map((op, at): TxnOpReply => {
      switch (op.type) {
        case 'put': {
          const prevKv = this.put(op, writer)
          return prevKv ? { type: 'put', prevKv } : { type: 'put' }
        }
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

  private put(op: Extract<TxnOp, { type: 'put' }>, writer: Writer): KeyValue | undefined {
    const key = toLatin1(op.key)
    const old = this.latest(key)
    const prevKv = op.prevKv && old ? this.keyValue(key, old, false) : undefined
    const value = op.ignoreValue && old ? this.valueOf(old) : op.value
    const lease = op.ignoreLease && old ? old.lease : (op.lease ?? 0)
    const change: Change = {
      main: writer.revision,
      sub: writer.events.length,
      create: old ? old.create : writer.revision,
      version: old ? old.version + 1 : 1,
      lease,
      deleted: false,
      value,
    }
    if (old && old.lease !== 0 && old.lease !== lease) this.detach(old.lease, key)
    if (lease !== 0) this.attach(lease, key)
    this.record(key, change, value)
    writer.events.push({ type: 'put', kv: this.keyValue(key, change, false) })
    return prevKv
  }

  private deleteSpan(op: Extract<TxnOp, { type: 'delete' }>, writer: Writer): { deleted: number; prevKvs: KeyValue[] } {
    const found: [string, Change][] = []
    for (const pair of this.liveIn(spanOf(op), 0)) found.push(pair)
    const prevKvs = op.prevKv ? found.map(([key, change]) => this.keyValue(key, change, false)) : []
    for (const [key, change] of found) this.deleteKey(key, change, writer)
    return { deleted: found.length, prevKvs }
  }

  private deleteKey(key: string, old: Change, writer: Writer): void {
    if (old.lease !== 0) this.detach(old.lease, key)
    const change: Change = {
      main: writer.revision,
      sub: writer.events.length,
      create: 0,
      version: 0,
      lease: 0,
      deleted: true,
      value: NO_BYTES,
    }
    this.record(key, change, NO_BYTES)
    writer.events.push({ type: 'delete', kv: this.keyValue(key, change, false) })
  }

  private record(key: string, change: Change, value: Uint8Array): void {
    this.historyOf(key).changes.push(change)
    this.writes.push([changeKey(change.main, change.sub), encodeChange(key, change, value)])
    this.unsaved.push(change)
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
    const found: [string, Change][] = []
    let count = 0
    for (const pair of this.liveIn(spanOf(query), query.revision ?? 0)) {
      count++
      if (query.countOnly || found.length >= collectMax) continue
      const { main, create } = pair[1]
      if (filtered) {
        if (query.minModRevision && main < query.minModRevision) continue
        if (query.maxModRevision && main > query.maxModRevision) continue
        if (query.minCreateRevision && create < query.minCreateRevision) continue
        if (query.maxCreateRevision && create > query.maxCreateRevision) continue
      }
      found.push(pair)
    }
    if (!natural) this.sortBy(found, query.sortTarget as 'version' | 'create' | 'mod' | 'value', backwards)
    else if (backwards) found.reverse()
    const more = limit > 0 && found.length > limit
    if (more) found.length = limit
    return { kvs: found.map(([key, change]) => this.keyValue(key, change, query.keysOnly ?? false)), more, count }
  }

  private sortBy(found: [string, Change][], target: 'version' | 'create' | 'mod' | 'value', backwards: boolean): void {
    const sign = backwards ? -1 : 1
    if (target === 'value') {
      const valued = found.map((pair) => ({ pair, value: this.valueOf(pair[1]) }))
      valued.sort((a, b) => sign * compareBytes(a.value, b.value))
      valued.forEach(({ pair }, at) => (found[at] = pair))
      return
    }
    const field = target === 'mod' ? 'main' : target
    // Sort is stable: equal ones stay in key order.
    found.sort((a, b) => sign * (a[1][field] - b[1][field]))
  }

  /**
   * Events of a range from `startRevision` on, whole revisions only, at most about `changesMax` changes looked at.
   * `nextRevision` is where to go on: everything below it has been delivered; above `revision`: up to date.
   * @throws MvccError COMPACTED
   */
  eventsSince(
    startRevision: number,
    range: KeyRange,
    changesMax = 1000,
  ): { batch: RevisionEvents[]; nextRevision: number } {
    if (startRevision < this.compactRevision) throw this.compacted(startRevision)
    const span = spanOf(range)
    const batch: RevisionEvents[] = []
    let looked = 0
    let last = startRevision - 1
    for (const [recordKey, bytes] of this.engine.range(changeKey(startRevision, 0), AFTER_CHANGES)) {
      const { key, change } = decodeChange(recordKey, bytes)
      if (change.main !== last && looked >= changesMax) return { batch, nextRevision: change.main }
      looked++
      last = change.main
      if (!spanHas(span, key)) continue
      change.value = valueOfRecord(bytes)
      const event: WatchEvent = { type: change.deleted ? 'delete' : 'put', kv: this.keyValue(key, change, false) }
      const open = batch[batch.length - 1]
      if (open?.revision === change.main) open.events.push(event)
      else batch.push({ revision: change.main, events: [event] })
    }
    return { batch, nextRevision: Math.max(startRevision, this.revision + 1) }
  }

  /** The key's state just before `modRevision`; missing: it did not exist, or that is compacted away. */
  previous(key: Uint8Array, modRevision: number): KeyValue | undefined {
    const name = toLatin1(key)
    const change = changeAt(this.index.get(name), modRevision - 1)
    return change && !change.deleted ? this.keyValue(name, change, false) : undefined
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
    return [...(this.keysOfLease.get(id) ?? [])].sort().map(fromLatin1)
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
    for (const key of [...(this.keysOfLease.get(id) ?? [])].sort())
      this.deleteKey(key, this.latest(key) as Change, writer)
    this.endRevision(writer, happened)
    this.leaseById.delete(id)
    this.keysOfLease.delete(id)
    this.writes.push([leaseKey(id), undefined])
    return { type: 'done', revision: this.revision }
  }

  private saveLease(lease: Lease): void {
    this.leaseById.set(lease.id, lease)
    this.writes.push([leaseKey(lease.id), encodeLease(lease.ttlSeconds, lease.remainingSeconds)])
  }

  private attach(lease: number, key: string): void {
    const keys = this.keysOfLease.get(lease)
    if (keys) keys.add(key)
    else this.keysOfLease.set(lease, new Set([key]))
  }

  private detach(lease: number, key: string): void {
    const keys = this.keysOfLease.get(lease)
    keys?.delete(key)
    if (keys?.size === 0) this.keysOfLease.delete(lease)
  }

  // ------------------------------------------------------------------------------------------------------- compaction

  private compact(revision: number): CommandResult {
    if (!Number.isSafeInteger(revision) || revision < 1)
      throw new MvccError('BAD_REQUEST', `revision must be a positive integer, not ${revision}`)
    if (revision <= this.compactRevision) throw this.compacted(revision)
    if (revision > this.revision) throw this.future(revision)
    this.setMeta('compact', revision)
    this.sweepFrom = ''
    return { type: 'done', revision: this.revision }
  }

  /** Compacted changes wait to be removed. */
  get sweepPending(): boolean {
    return this.sweepFrom !== undefined
  }

  /** Removes compacted changes of the next `keysMax` keys. Members may sweep at different times: what is readable, and
   *  the canonical dump, do not depend on it. Returns whether more is left. */
  sweep(keysMax: number): boolean {
    if (this.sweepFrom === undefined) return false
    const writes: EngineWrite[] = []
    const gone: string[] = []
    let seen = 0
    let next: string | undefined
    for (const [key, history] of this.index.entries(this.sweepFrom)) {
      if (seen === keysMax) {
        next = key
        break
      }
      seen++
      const kept = history.changes.filter((change, at) => {
        if (this.survives(history.changes, at)) return true
        writes.push([changeKey(change.main, change.sub), undefined])
        return false
      })
      if (kept.length === 0) gone.push(key)
      else if (kept.length < history.changes.length) history.changes = kept
    }
    for (const key of gone) this.index.delete(key)
    this.sweepFrom = next
    if (next === undefined) {
      this.meta.set('swept', this.compactRevision)
      writes.push([metaKey('swept'), u64(this.compactRevision)])
    }
    if (writes.length > 0) this.engine.commit(writes, this.engine.appliedIndex)
    return next !== undefined
  }

  /** Kept by the compaction: what is newer, and each key's state at the compact revision. A deletion at exactly that
   *  revision stays too, since a watch may start there. */
  private survives(changes: readonly Change[], at: number): boolean {
    const { main, deleted } = changes[at] as Change
    if (main >= this.compactRevision) return true
    const next = changes[at + 1]
    return !deleted && (next === undefined || next.main > this.compactRevision)
  }

  // ------------------------------------------------------------------------------------------------------------- dump

  /** The whole state as text, one fact a line, the same on every member that applied the same index (promise S4). */
  *dump(): Generator<string> {
    yield `applied ${this.appliedIndex} revision ${this.revision} compact ${this.compactRevision} version ${this.clusterVersion}`
    for (const [recordKey, bytes] of this.engine.range(FIRST_CHANGE, AFTER_CHANGES)) {
      const { key, change } = decodeChange(recordKey, bytes)
      const changes = this.index.get(key)?.changes ?? []
      const at = changes.findIndex((c) => c.main === change.main && c.sub === change.sub)
      if (at < 0 || !this.survives(changes, at)) continue
      const { main, sub, create, version, lease, deleted } = change
      const value = deleted
        ? 'deleted'
        : `${create} ${version} ${lease} ${Buffer.from(valueOfRecord(bytes)).toString('hex')}`
      yield `change ${main}.${sub} ${Buffer.from(key, 'latin1').toString('hex')} ${value}`
    }
    for (const { id, ttlSeconds, remainingSeconds } of this.leases())
      yield `lease ${id} ${ttlSeconds} ${remainingSeconds}`
    yield* this.sessions.dump()
  }

  /** SHA-256 of the dump, hex. */
  hash(): string {
    const hash = createHash('sha256')
    for (const line of this.dump()) hash.update(line).update('\n')
    return hash.digest('hex')
  }

  /** For the status: live and dead keys, leases, sessions. */
  figures(): { keys: number; leases: number; sessions: number } {
    return { keys: this.index.size, leases: this.leaseById.size, sessions: this.sessions.size }
  }

  // ---------------------------------------------------------------------------------------------------------- helpers

  private *liveIn(span: KeySpan, revision: number): Generator<[string, Change]> {
    const at = (history: KeyHistory | undefined): Change | undefined => {
      const change = revision === 0 ? history?.changes[history.changes.length - 1] : changeAt(history, revision)
      return change?.deleted ? undefined : change
    }
    if (span.single) {
      const change = at(this.index.get(span.from))
      if (change) yield [span.from, change]
      return
    }
    for (const [key, history] of this.index.entries(span.from)) {
      if (span.to !== undefined && key >= span.to) return
      const change = at(history)
      if (change) yield [key, change]
    }
  }

  private latest(key: string): Change | undefined {
    const changes = this.index.get(key)?.changes
    const last = changes?.[changes.length - 1]
    return last?.deleted ? undefined : last
  }

  private holds(c: Compare): boolean {
    let any = false
    for (const [, change] of this.liveIn(spanOf(c), 0)) {
      any = true
      if (!compared(c, c.target === 'value' ? this.valueOf(change) : change[c.target === 'mod' ? 'main' : c.target]))
        return false
    }
    // As etcd: nothing there compares as zeros, and never by value.
    return any || (c.target !== 'value' && compared(c, 0))
  }

  private keyValue(key: string, change: Change, keysOnly: boolean): KeyValue {
    return {
      key: fromLatin1(key),
      value: keysOnly ? NO_BYTES : this.valueOf(change),
      createRevision: change.create,
      modRevision: change.main,
      version: change.version,
      lease: change.lease,
    }
  }

  private valueOf(change: Change): Uint8Array {
    if (change.value) return change.value
    const record = this.engine.get(changeKey(change.main, change.sub))
    if (!record) throw new Error(`change ${change.main}.${change.sub} is in the index but not on the engine`)
    return valueOfRecord(record)
  }

  /** What was just committed may be dropped from memory; the latest stay up to the bound. */
  private keepRecent(): void {
    const bytesMax = this.options.recentBytesMax ?? 16 * 1024 * 1024
    for (const change of this.unsaved) {
      this.recentBytes += change.value?.length ?? 0
      this.recent.push(change)
    }
    this.unsaved = []
    while (this.recentBytes > bytesMax && this.recentAt < this.recent.length) {
      const oldest = this.recent[this.recentAt++] as Change
      this.recentBytes -= oldest.value?.length ?? 0
      oldest.value = undefined
    }
    if (this.recentAt > 1024 && this.recentAt * 2 > this.recent.length) {
      this.recent.splice(0, this.recentAt)
      this.recentAt = 0
    }
  }

  private historyOf(key: string): KeyHistory {
    let history = this.index.get(key)
    if (!history) this.index.set(key, (history = { changes: [] }))
    return history
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

interface Path {
  succeeded: boolean
  ops: TxnOp[]
  nested: (Path | undefined)[]
}

class Writer {
  readonly events: WatchEvent[] = []
  constructor(readonly revision: number) {}
}

function changeAt(history: KeyHistory | undefined, revision: number): Change | undefined {
  if (!history) return undefined
  const { changes } = history
  let low = 0
  let high = changes.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((changes[middle] as Change).main <= revision) low = middle + 1
    else high = middle
  }
  return changes[low - 1]
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
