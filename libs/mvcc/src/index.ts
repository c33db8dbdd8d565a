export { bumpRevision } from './bump-revision.js'
export type { IndexedHash } from './chain-hash.js'
export { compareBytes } from './bytes.js'
export { checkTxn, TXN_LIMITS, type TxnLimits } from './check-txn.js'
export { MemoryStateEngine, MemoryStorage } from './memory-engine.js'
export { checkKeyRange, Mvcc, MVCC_PLANTED_BUGS, type MvccOptions, type MvccPlantedBug } from './mvcc.js'
export { SESSION_WINDOW, SESSIONS_MAX } from './sessions.js'
export { snapshotChunks, SnapshotDamaged, SnapshotReceiver } from './snapshot.js'
export type { EngineReplacement, EngineSnapshot, EngineWrite, StateEngine } from './state-engine.js'
export {
  type Alarm,
  type AlarmKind,
  type Command,
  type CommandResult,
  type Compare,
  type Entry,
  type KeyRange,
  type KeyValue,
  type KvHash,
  type Lease,
  type HistoryPosition,
  MvccError,
  type MvccErrorCode,
  type MvccErrorData,
  type RangeQuery,
  type RangeResult,
  type RevisionEvents,
  type Txn,
  type TxnOp,
  type TxnOpReply,
  type TxnResult,
  type WatchEvent,
} from './types.js'
export { SnapshotVerifier, type StateReport } from './verify.js'
