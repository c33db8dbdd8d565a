export type { ApiEventType, ApiOptions, ApiReply, ApiRequest, ApiVerb, ApiWatchData, Fence, PatchType } from './api.js'
export { type Beat, BEAT_MISSING_MS, BEAT_PERIOD_MS } from './beat.js'
export { type Grants, grants, subjectFits, userOf } from './grants.js'
export { FENCED_HOLDER, IDENTITY_LEASE_MS } from './identity-lease.js'
export { ELECTION_TIMEOUT_MS, HEARTBEAT_MS, LOCK_LEASE_MS } from './times.js'
export type { NodeLogsData, NodeLogsRequest, NodeVerb } from './node.js'
export {
  type Component,
  COMPONENTS,
  decodeToken,
  encodeToken,
  type Identity,
  identityToken,
  parseIdentity,
  Subjects,
  type Token,
} from './subjects.js'
export type {
  Alarm,
  AlarmKind,
  AlarmReply,
  AlarmRequest,
  BackupData,
  BackupRequest,
  Compare,
  CompactReply,
  CompactRequest,
  HashReply,
  HashRequest,
  KeyValue,
  LeaseGrantReply,
  LeaseGrantRequest,
  LeaseKeepAliveReply,
  LeaseKeepAliveRequest,
  LeaseRevokeRequest,
  LeasesReply,
  LeaseTimeToLiveReply,
  LeaseTimeToLiveRequest,
  MemberAddRequest,
  MemberInfo,
  MemberRequest,
  MembersReply,
  MetricsReply,
  RangeReply,
  RangeRequest,
  ReadIndexReply,
  StoreErrorCode,
  StoreHeader,
  StoreStatusReply,
  StoreVerb,
  Txn,
  TxnOp,
  TxnOpReply,
  TxnReply,
  TxnRequest,
  WatchData,
  WatchEvent,
  WatchRequest,
} from './store.js'
export { WatchParts } from './store.js'
export { checkSubject, SubjectTree } from './subject-tree.js'
