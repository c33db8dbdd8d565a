/** The messages of etcd's v3 API that this face speaks (field numbers: `proto/etcd.proto`, which says the same). */
import {
  bool,
  bytes,
  enumeration,
  id,
  type In,
  int64,
  lease,
  many,
  Message,
  one,
  oneof,
  type Out,
  repeated,
  string,
  uint32,
} from './protobuf.js'

export const ResponseHeader = new Message('ResponseHeader', {
  clusterId: id(1),
  memberId: id(2),
  revision: int64(3),
  raftTerm: int64(4),
})
const header = one(1, () => ResponseHeader)
/** A request or answer of which nothing is read or said but the header. */
export const HeaderOnly = new Message('HeaderOnly', { header })
export const Empty = new Message('Empty', {})

export const KeyValue = new Message('KeyValue', {
  key: bytes(1),
  createRevision: int64(2),
  modRevision: int64(3),
  version: int64(4),
  value: bytes(5),
  lease: int64(6),
})

// ------------------------------------------------------------------------------------------------------------------ KV

export const SORT_ORDERS = [undefined, 'ascend', 'descend'] as const
export const SORT_TARGETS = ['key', 'version', 'create', 'mod', 'value'] as const

export const RangeRequest = new Message('RangeRequest', {
  key: bytes(1),
  rangeEnd: bytes(2),
  limit: int64(3),
  revision: int64(4),
  sortOrder: enumeration(5),
  sortTarget: enumeration(6),
  serializable: bool(7),
  keysOnly: bool(8),
  countOnly: bool(9),
  minModRevision: int64(10),
  maxModRevision: int64(11),
  minCreateRevision: int64(12),
  maxCreateRevision: int64(13),
})
export const RangeResponse = new Message('RangeResponse', {
  header,
  kvs: many(2, () => KeyValue),
  more: bool(3),
  count: int64(4),
})
export const PutRequest = new Message('PutRequest', {
  key: bytes(1),
  value: bytes(2),
  lease: lease(3),
  prevKv: bool(4),
  ignoreValue: bool(5),
  ignoreLease: bool(6),
})
export const PutResponse = new Message('PutResponse', { header, prevKv: one(2, () => KeyValue) })
export const DeleteRangeRequest = new Message('DeleteRangeRequest', {
  key: bytes(1),
  rangeEnd: bytes(2),
  prevKv: bool(3),
})
export const DeleteRangeResponse = new Message('DeleteRangeResponse', {
  header,
  deleted: int64(2),
  prevKvs: many(3, () => KeyValue),
})

export const COMPARE_RESULTS = ['=', '>', '<', '!='] as const
export const COMPARE_TARGETS = ['version', 'create', 'mod', 'value', 'lease'] as const

export const Compare = new Message('Compare', {
  result: enumeration(1),
  target: enumeration(2),
  key: bytes(3),
  version: oneof(int64(4)),
  createRevision: oneof(int64(5)),
  modRevision: oneof(int64(6)),
  value: oneof(bytes(7)),
  lease: oneof(int64(8)),
  rangeEnd: bytes(64),
})

// The compiler cannot infer types that contain themselves, so a nested transaction's is stated.
export interface TxnRequestIn {
  compare: In<typeof Compare>[]
  success: RequestOpIn[]
  failure: RequestOpIn[]
}
export interface RequestOpIn {
  range: In<typeof RangeRequest> | undefined
  put: In<typeof PutRequest> | undefined
  delete: In<typeof DeleteRangeRequest> | undefined
  txn: TxnRequestIn | undefined
}
export interface TxnResponseOut {
  header?: Out<typeof ResponseHeader>
  succeeded?: boolean
  responses?: ResponseOpOut[]
}
export interface ResponseOpOut {
  range?: Out<typeof RangeResponse>
  put?: Out<typeof PutResponse>
  delete?: Out<typeof DeleteRangeResponse>
  txn?: TxnResponseOut
}
export const RequestOp: Message = new Message('RequestOp', {
  range: one(1, () => RangeRequest),
  put: one(2, () => PutRequest),
  delete: one(3, () => DeleteRangeRequest),
  txn: one(4, () => TxnRequest),
})
export const TxnRequest: Message = new Message('TxnRequest', {
  compare: many(1, () => Compare),
  success: many(2, () => RequestOp),
  failure: many(3, () => RequestOp),
})
export const ResponseOp: Message = new Message('ResponseOp', {
  range: one(1, () => RangeResponse),
  put: one(2, () => PutResponse),
  delete: one(3, () => DeleteRangeResponse),
  txn: one(4, () => TxnResponse),
})
export const TxnResponse: Message = new Message('TxnResponse', {
  header,
  succeeded: bool(2),
  responses: many(3, () => ResponseOp),
})
export const CompactionRequest = new Message('CompactionRequest', { revision: int64(1), physical: bool(2) })

// --------------------------------------------------------------------------------------------------------------- Watch

export const WATCH_FILTERS = ['noPut', 'noDelete'] as const

export const WatchCreateRequest = new Message('WatchCreateRequest', {
  key: bytes(1),
  rangeEnd: bytes(2),
  startRevision: int64(3),
  progressNotify: bool(4),
  filters: repeated(enumeration(5)),
  prevKv: bool(6),
  watchId: int64(7),
  fragment: bool(8),
})
export const WatchCancelRequest = new Message('WatchCancelRequest', { watchId: int64(1) })
export const WatchRequest = new Message('WatchRequest', {
  create: one(1, () => WatchCreateRequest),
  cancel: one(2, () => WatchCancelRequest),
  progress: one(3, () => Empty),
})
export const EVENT_TYPES = { put: 0, delete: 1 } as const
export const Event = new Message('Event', {
  type: enumeration(1),
  kv: one(2, () => KeyValue),
  prevKv: one(3, () => KeyValue),
})
export const WatchResponse = new Message('WatchResponse', {
  header,
  watchId: int64(2),
  created: bool(3),
  canceled: bool(4),
  compactRevision: int64(5),
  cancelReason: string(6),
  fragment: bool(7),
  events: many(11, () => Event),
})

// --------------------------------------------------------------------------------------------------------------- Lease

export const LeaseGrantRequest = new Message('LeaseGrantRequest', { ttl: int64(1), id: lease(2) })
export const LeaseGrantResponse = new Message('LeaseGrantResponse', {
  header,
  id: lease(2),
  ttl: int64(3),
  error: string(4),
})
export const LeaseRequest = new Message('LeaseRequest', { id: lease(1) })
export const LeaseKeepAliveResponse = new Message('LeaseKeepAliveResponse', { header, id: lease(2), ttl: int64(3) })
export const LeaseTimeToLiveRequest = new Message('LeaseTimeToLiveRequest', { id: lease(1), keys: bool(2) })
export const LeaseTimeToLiveResponse = new Message('LeaseTimeToLiveResponse', {
  header,
  id: lease(2),
  ttl: int64(3),
  grantedTtl: int64(4),
  keys: repeated(bytes(5)),
})
export const LeaseStatus = new Message('LeaseStatus', { id: lease(1) })
export const LeaseLeasesResponse = new Message('LeaseLeasesResponse', { header, leases: many(2, () => LeaseStatus) })

// ------------------------------------------------------------------------------------------------------------- Cluster

export const Member = new Message('Member', {
  id: id(1),
  name: string(2),
  peerUrls: repeated(string(3)),
  clientUrls: repeated(string(4)),
  isLearner: bool(5),
})
export const MemberAddRequest = new Message('MemberAddRequest', { peerUrls: repeated(string(1)), isLearner: bool(2) })
export const MemberAddResponse = new Message('MemberAddResponse', {
  header,
  member: one(2, () => Member),
  members: many(3, () => Member),
})
export const MemberRequest = new Message('MemberRequest', { id: id(1) })
export const MembersResponse = new Message('MembersResponse', { header, members: many(2, () => Member) })

// --------------------------------------------------------------------------------------------------------- Maintenance

export const ALARM_KINDS = [undefined, 'NOSPACE', 'CORRUPT'] as const
export const ALARM_ACTIONS = ['list', 'raise', 'clear'] as const

export const AlarmRequest = new Message('AlarmRequest', {
  action: enumeration(1),
  memberId: id(2),
  alarm: enumeration(3),
})
export const AlarmMember = new Message('AlarmMember', { memberId: id(1), alarm: enumeration(2) })
export const AlarmResponse = new Message('AlarmResponse', { header, alarms: many(2, () => AlarmMember) })
export const StatusResponse = new Message('StatusResponse', {
  header,
  version: string(2),
  dbSize: int64(3),
  leader: id(4),
  raftIndex: int64(5),
  raftTerm: int64(6),
  raftAppliedIndex: int64(7),
  errors: repeated(string(8)),
  dbSizeInUse: int64(9),
  isLearner: bool(10),
})
export const HashKvRequest = new Message('HashKVRequest', { revision: int64(1) })
export const HashResponse = new Message('HashResponse', { header, hash: uint32(2) })
export const HashKvResponse = new Message('HashKVResponse', { header, hash: uint32(2), compactRevision: int64(3) })
export const SnapshotResponse = new Message('SnapshotResponse', { header, remainingBytes: int64(2), blob: bytes(3) })
export const MoveLeaderRequest = new Message('MoveLeaderRequest', { targetId: id(1) })

// --------------------------------------------------------------------------------------------------- Lock and Election

export const LockRequest = new Message('LockRequest', { name: bytes(1), lease: lease(2) })
export const LockResponse = new Message('LockResponse', { header, key: bytes(2) })
export const UnlockRequest = new Message('UnlockRequest', { key: bytes(1) })
export const LeaderKey = new Message('LeaderKey', { name: bytes(1), key: bytes(2), rev: int64(3), lease: lease(4) })
export const CampaignRequest = new Message('CampaignRequest', { name: bytes(1), lease: lease(2), value: bytes(3) })
export const CampaignResponse = new Message('CampaignResponse', { header, leader: one(2, () => LeaderKey) })
export const LeaderRequest = new Message('LeaderRequest', { name: bytes(1) })
export const LeaderResponse = new Message('LeaderResponse', { header, kv: one(2, () => KeyValue) })
export const ResignRequest = new Message('ResignRequest', { leader: one(1, () => LeaderKey) })
export const ProclaimRequest = new Message('ProclaimRequest', { leader: one(1, () => LeaderKey), value: bytes(2) })

// ---------------------------------------------------------------------------------------------------------------- Auth

export const AuthListResponse = new Message('AuthListResponse', { header, names: repeated(string(2)) })

// -------------------------------------------------------------------------------------------------------------- Health

export const HealthCheckRequest = new Message('HealthCheckRequest', { service: string(1) })
/** 1: SERVING, 2: NOT_SERVING. */
export const HealthCheckResponse = new Message('HealthCheckResponse', { status: enumeration(1) })
