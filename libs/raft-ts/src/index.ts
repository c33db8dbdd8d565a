export {
  changeConfiguration,
  decodeConfiguration,
  describeConfiguration,
  encodeConfiguration,
  isJoint,
} from './configuration.js'
export { crc32c } from './crc32c.js'
export {
  LogDamaged,
  type LogDisk,
  type LogDiskFile,
  RaftLog,
  type RaftLogOptions,
  type RecoveredLog,
  type LostEntries,
} from './log.js'
export { describeMessage, describeStatus } from './describe.js'
export { RaftNode } from './raft-node.js'
export {
  type ChangeResult,
  type Configuration,
  ENTRY_FORMAT_VERSION,
  type EntryKind,
  type FollowerStatus,
  type HardState,
  type LogEntry,
  type LogIndex,
  type MemberChange,
  type MemberId,
  type PersistBatch,
  type Proposal,
  type ProposeResult,
  type RaftMessage,
  type RaftOptions,
  type RaftPlantedBug,
  type RaftStatus,
  type RaftSummary,
  type Ready,
  type Role,
  type SnapshotMeta,
  type Term,
} from './types.js'
