/**
 * `store.<member>.from.<identity>.<verb>`: what the store is asked. Semantics are etcd v3's. Keys and values are bytes.
 * Any member takes any request and forwards it once to its leader. Failed ones are CallErrors with a `StoreErrorCode`.
 */
export type StoreVerb =
  | 'range'
  | 'txn'
  | 'watch'
  | 'leaseGrant'
  | 'leaseRevoke'
  | 'leaseKeepAlive'
  | 'leaseTimeToLive'
  | 'leases'
  | 'compact'
  | 'readIndex'
  | 'status'
  | 'moveLeader'
  | 'members'
  | 'memberAdd'
  | 'memberPromote'
  | 'memberRemove'
  | 'alarm'
  | 'hash'
  | 'backup'
  | 'metrics'

export type StoreErrorCode =
  /** That history is gone: list again. Details: { compactRevision }. */
  | 'COMPACTED'
  | 'FUTURE_REVISION'
  | 'LEASE_NOT_FOUND'
  | 'LEASE_EXISTS'
  | 'TOO_LARGE'
  /** No leader now, or it changed before the proposal was taken (not-applied) or after (maybe-applied). */
  | 'NO_LEADER'
  | 'LEADER_CHANGED'
  | 'OVERLOADED'
  /** The disk or the size quota is used up: only what frees space is taken (etcd's NOSPACE alarm). */
  | 'NO_SPACE'
  /** This member's state differs from the others' at the same index: it serves nothing (etcd's CORRUPT alarm). */
  | 'CORRUPT'
  | 'MEMBER_NOT_FOUND'
  | 'MEMBER_EXISTS'
  /** A change of members is under way, or the leader has not yet committed in its own term: ask again. */
  | 'MEMBERS_BUSY'
  /** A learner that is not caught up cannot be promoted. */
  | 'LEARNER_NOT_READY'
  /** The change would leave no quorum of members that are heard from. */
  | 'UNHEALTHY'
  | 'STOPPED'
  | 'BAD_REQUEST'

/** One key's state. Revisions, versions and lease ids are safe integers; lease 0: none. */
export interface KeyValue {
  key: Uint8Array
  value: Uint8Array
  createRevision: number
  modRevision: number
  version: number
  lease: number
}

/** Cluster state that every answer bears. `revision` is the store's when the answer was made. */
export interface StoreHeader {
  clusterId: string
  member: string
  term: number
  revision: number
}

/** `[key, rangeEnd)`; no `rangeEnd`: the key alone; `rangeEnd` of one zero byte: all from `key` on (etcd v3 Range). */
export interface RangeRequest {
  key: Uint8Array
  rangeEnd?: Uint8Array
  /** 0 or missing: the latest. */
  revision?: number
  /** 0 or missing: no limit. */
  limit?: number
  keysOnly?: boolean
  countOnly?: boolean
  /** Default false: linearizable. True: whatever this member has applied. */
  serializable?: boolean
  sortTarget?: 'key' | 'version' | 'create' | 'mod' | 'value'
  sortOrder?: 'ascend' | 'descend'
  minModRevision?: number
  maxModRevision?: number
  minCreateRevision?: number
  maxCreateRevision?: number
}

export interface RangeReply {
  header: StoreHeader
  kvs: KeyValue[]
  /** True: `limit` cut it short. */
  more: boolean
  /** Keys in the range, whatever the limit. */
  count: number
}

export interface Compare {
  key: Uint8Array
  /** With it: must hold for every key in the range; an empty range compares as a missing key does (etcd v3). */
  rangeEnd?: Uint8Array
  target: 'version' | 'create' | 'mod' | 'value' | 'lease'
  result: '=' | '!=' | '<' | '>'
  /** Number, or bytes for `value`. A missing key has version, create and mod revision 0; its value never compares true. */
  operand: number | Uint8Array
}

export type TxnOp =
  | {
      type: 'put'
      key: Uint8Array
      value: Uint8Array
      lease?: number
      prevKv?: boolean
      ignoreValue?: boolean
      ignoreLease?: boolean
    }
  | { type: 'delete'; key: Uint8Array; rangeEnd?: Uint8Array; prevKv?: boolean }
  | ({ type: 'range' } & Omit<RangeRequest, 'serializable'>)
  | { type: 'txn'; txn: Txn }

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

export interface TxnRequest extends Txn {
  /** De-duplicates repetitions: one client's seqs rise, and the same (clientId, seq) is applied once. */
  session?: { clientId: string; seq: number }
}

export interface TxnReply {
  header: StoreHeader
  succeeded: boolean
  replies: TxnOpReply[]
}

/** Opens a stream of `WatchData`; the first message states the revision that it starts from. */
export interface WatchRequest {
  key: Uint8Array
  rangeEnd?: Uint8Array
  /** First revision to deliver; 0 or missing: from now on (after the store's present revision, read linearizably). */
  startRevision?: number
  prevKv?: boolean
  filters?: ('noPut' | 'noDelete')[]
}

/**
 * All events of whole revisions in `(prevRevision, revision]` that fall into the range, in order. Beats bear
 * `{ revision }` as position: the reader has everything up to there. Ends: `compacted`, `lagging`, `closing`, `unauthorised`.
 */
export interface WatchData {
  prevRevision: number
  revision: number
  events: WatchEvent[]
  /** Part of a revision that is too large for one message, more of it follows; `revision` is still `prevRevision`. */
  partial?: true
}

/** Of one stream: gives each message with whole revisions, and keeps what is partial until then. */
export class WatchParts {
  private kept: WatchEvent[] = []

  whole(data: WatchData): WatchData | undefined {
    if (data.partial) {
      this.kept = this.kept.concat(data.events)
      return undefined
    }
    if (this.kept.length === 0) return data
    const events = this.kept.concat(data.events)
    this.kept = []
    return { ...data, events }
  }
}

export interface WatchEvent {
  type: 'put' | 'delete'
  /** Of a delete: key and modRevision (the deletion's) only. */
  kv: KeyValue
  prevKv?: KeyValue
}

export interface LeaseGrantRequest {
  /** 0: the store chooses. */
  id: number
  ttlSeconds: number
}
export interface LeaseGrantReply {
  header: StoreHeader
  id: number
  ttlSeconds: number
}
export interface LeaseRevokeRequest {
  id: number
}
export interface LeaseKeepAliveRequest {
  id: number
}
/** `ttlSeconds` 0: there is no such lease (any more). */
export interface LeaseKeepAliveReply {
  header: StoreHeader
  id: number
  ttlSeconds: number
}
export interface LeaseTimeToLiveRequest {
  id: number
  keys?: boolean
}
export interface LeaseTimeToLiveReply {
  header: StoreHeader
  id: number
  /** Remaining; -1: no such lease. */
  ttlSeconds: number
  grantedTtlSeconds: number
  keys?: Uint8Array[]
}
export interface LeasesReply {
  header: StoreHeader
  ids: number[]
}

export interface CompactRequest {
  revision: number
}
export interface CompactReply {
  header: StoreHeader
}

/** A linearizable point: every write acknowledged before the call has a revision at most `revision`. */
export interface ReadIndexReply {
  header: StoreHeader
  revision: number
}

export interface MemberInfo {
  name: string
  /** Receives everything, counts for nothing, serves only serializable reads. */
  learner: boolean
}
/** In the order of names. Read linearizably unless the request says `serializable: true`. */
export interface MembersReply {
  header: StoreHeader
  members: MemberInfo[]
}
/** Answered when the change is committed, with the members that it makes. */
export interface MemberAddRequest {
  member: string
  /** Default true: join as a learner, to be promoted once caught up. */
  learner?: boolean
}
/** Of `memberPromote` and `memberRemove`. */
export interface MemberRequest {
  member: string
}

export type AlarmKind = 'NOSPACE' | 'CORRUPT'
export interface Alarm {
  member: string
  alarm: AlarmKind
  /** By an operator, who also clears it; else by the member itself, which clears it when the cause is gone. */
  byHand?: boolean
}
/** `raise` and `clear` are committed like any write; `clear` without a member clears that alarm for all. */
export type AlarmRequest =
  | { action: 'list' }
  | { action: 'raise' | 'clear'; alarm: AlarmKind; member?: string; byHand?: boolean }
export interface AlarmReply {
  header: StoreHeader
  alarms: Alarm[]
}

/** Of the asked member alone, from what it has applied (etcd HashKV). */
export interface HashRequest {
  /** Keys and values as of this revision; 0 or missing: the latest. */
  revision?: number
}
export interface HashReply {
  header: StoreHeader
  /** CRC-32C over keys, values, revisions, versions and leases from the compact revision up to `hashRevision`. */
  hash: number
  hashRevision: number
  compactRevision: number
}

export interface BackupRequest {
  /** True: it holds every write that was acknowledged before the call. Default false: it needs no quorum. */
  linearizable?: boolean
}
/** `backup` opens a stream of these from the asked member: one consistent state, as `capstan store backup` keeps it. */
export interface BackupData {
  /** Bytes before this piece. */
  offset: number
  data: Uint8Array
  /** The last piece. The file's end is the SHA-256 (32 bytes) of what stands before it; without it, a multiple of 512 bytes. */
  done: boolean
}

/** Of the asked member: Prometheus' text format, in etcd's names where the meaning is the same. */
export interface MetricsReply {
  text: string
}

export interface StoreStatusReply {
  header: StoreHeader
  role: 'leader' | 'follower' | 'candidate' | 'learner'
  /** Member name; missing: none known. */
  leader?: string
  term: number
  commitIndex: number
  appliedIndex: number
  /** First index that the log still holds. */
  firstIndex: number
  compactRevision: number
  dbSizeBytes: number
  members: string[]
  /** Heard from within an election time-out. */
  peersHeard: string[]
  /** Whose apply behaviour is in force; and what this member's program has (missing: an older program, which has 1). */
  clusterVersion: number
  supportedVersions?: { min: number; max: number }
  errors: string[]
  /** Since start: elections won, snapshots installed, log truncations, longest sync (ms), … */
  counters: Record<string, number>
}
