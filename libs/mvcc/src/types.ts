/**
 * Requests and answers of the revisioned key-value state. Semantics are etcd v3's; the shapes are those that travel on
 * the store's subjects. Keys and values are bytes; revisions, versions and lease ids are safe integers; lease 0: none.
 */

/** One key's state at some revision. */
export interface KeyValue {
  key: Uint8Array
  /** Empty with `keysOnly`. */
  value: Uint8Array
  createRevision: number
  modRevision: number
  /** 1 for a new key, one more with each put; deletion starts anew. */
  version: number
  lease: number
}

/** `[key, rangeEnd)`; no `rangeEnd`: the key alone; `rangeEnd` of one zero byte: all from `key` on. */
export interface KeyRange {
  key: Uint8Array
  rangeEnd?: Uint8Array
}

export interface RangeQuery extends KeyRange {
  /** 0 or missing: the latest. */
  revision?: number
  /** 0 or missing: no limit. */
  limit?: number
  keysOnly?: boolean
  countOnly?: boolean
  sortTarget?: 'key' | 'version' | 'create' | 'mod' | 'value'
  sortOrder?: 'ascend' | 'descend'
  minModRevision?: number
  maxModRevision?: number
  minCreateRevision?: number
  maxCreateRevision?: number
}

export interface RangeResult {
  kvs: KeyValue[]
  /** True: `limit` cut it short. */
  more: boolean
  /** Keys in the range, whatever limit and filters say. */
  count: number
}

export interface Compare extends KeyRange {
  target: 'version' | 'create' | 'mod' | 'value' | 'lease'
  result: '=' | '!=' | '<' | '>'
  /** Number, or bytes for `value`. A missing key has number 0 everywhere; its value never compares true. */
  operand: number | Uint8Array
}

export type TxnOp =
  | {
      type: 'put'
      key: Uint8Array
      value: Uint8Array
      lease?: number
      prevKv?: boolean
      /** Keep the present value (or lease); the key must exist. */
      ignoreValue?: boolean
      ignoreLease?: boolean
    }
  | ({ type: 'delete'; prevKv?: boolean } & KeyRange)
  | ({ type: 'range' } & RangeQuery)
  | { type: 'txn'; txn: Txn }

/** All comparisons hold: `success`, else `failure`. Comparisons of nested ones look at the state before the whole. */
export interface Txn {
  compare: Compare[]
  success: TxnOp[]
  failure: TxnOp[]
}

export type TxnOpReply =
  | { type: 'put'; prevKv?: KeyValue }
  | { type: 'delete'; deleted: number; prevKvs: KeyValue[] }
  | { type: 'range'; kvs: KeyValue[]; more: boolean; count: number }
  | { type: 'txn'; succeeded: boolean; replies: TxnOpReply[] }

export interface TxnResult {
  /** The store's revision after it; unchanged if it wrote nothing. */
  revision: number
  succeeded: boolean
  replies: TxnOpReply[]
}

/** What a log entry asks of the state. Apply is a function of state and command alone: ids and expiry come in with it. */
export type Command =
  | { type: 'noop' }
  | { type: 'txn'; txn: Txn; session?: { clientId: string; seq: number } }
  | { type: 'leaseGrant'; id: number; ttlSeconds: number }
  /** Deletes the lease's keys in one revision. `expired`: decided by the leader, counts apart. */
  | { type: 'leaseRevoke'; id: number; expired?: boolean }
  /** Remaining time to live as the leader saw it, so that a later leader does not start long leases from the full one. */
  | { type: 'leaseCheckpoint'; remaining: { id: number; seconds: number }[] }
  | { type: 'compact'; revision: number }
  /**
   * `raise` names the member; `clear` without one clears that alarm of all. Raising what is raised changes nothing, but that
   * one `byHand` stays so.
   */
  | { type: 'alarm'; action: 'raise' | 'clear'; alarm: AlarmKind; member?: string; byHand?: boolean }
  /** Switches new apply behaviour on. Only ever rises. */
  | { type: 'clusterVersion'; version: number }

/** NOSPACE: the quota or the disk is used up. CORRUPT: the member's state differs from the others'. */
export type AlarmKind = 'NOSPACE' | 'CORRUPT'

export interface Alarm {
  member: string
  alarm: AlarmKind
  /** Raised by an operator, not by the member. */
  byHand?: boolean
}

/** Of `Mvcc.hashKv`. */
export interface KvHash {
  /** CRC-32C. */
  hash: number
  hashRevision: number
  compactRevision: number
}

export interface Entry {
  /** Index in the replicated log; rises. */
  index: number
  command: Command
}

export type CommandResult =
  | { type: 'done'; revision: number }
  | ({ type: 'txn'; repeated: boolean } & TxnResult)
  | { type: 'leaseGrant'; id: number; ttlSeconds: number; revision: number }
  | { type: 'failed'; error: MvccErrorData }

export interface Lease {
  id: number
  ttlSeconds: number
  /** From the last checkpoint; 0: none since the last renewal, so the full one. */
  remainingSeconds: number
}

export interface WatchEvent {
  type: 'put' | 'delete'
  /** Of a delete: key and modRevision (the deletion's) only; the rest is empty or 0. */
  kv: KeyValue
}

/** All events of one revision, in the order of the transaction. */
export interface RevisionEvents {
  revision: number
  events: WatchEvent[]
}

/** Where a reader of the history stands: before the change `sub` of a revision, counted from 0. */
export interface HistoryPosition {
  revision: number
  sub: number
}

export type MvccErrorCode =
  /** That history is gone. Details: { compactRevision }. */
  | 'COMPACTED'
  | 'FUTURE_REVISION'
  | 'LEASE_NOT_FOUND'
  | 'LEASE_EXISTS'
  | 'BAD_REQUEST'
  /** The seq is older than what its session remembers: whether it was applied is not known any more. */
  | 'SESSION_STALE'

export interface MvccErrorData {
  code: MvccErrorCode
  text: string
  details?: unknown
}

/** Nothing was changed (SESSION_STALE: this time). */
export class MvccError extends Error {
  override readonly name = 'MvccError'
  readonly code: MvccErrorCode
  readonly details: unknown
  constructor(code: MvccErrorCode, text: string, details?: unknown) {
    super(text)
    this.code = code
    this.details = details
  }
  toData(): MvccErrorData {
    return { code: this.code, text: this.message, ...(this.details === undefined ? {} : { details: this.details }) }
  }
}
