/** A member's name. */
export type MemberId = string
/** Raft term, from 1; 0: none yet. */
export type Term = number
/** Position in the log, from 1; 0: before the first entry. */
export type LogIndex = number

export const ENTRY_FORMAT_VERSION = 1

/**
 * What an entry is for. `noop` and `config` (payload: `decodeConfiguration`) are made by the core; the others are the
 * driver's.
 */
export type EntryKind = 'noop' | 'command' | 'config' | 'clusterVersion'

export interface LogEntry {
  term: Term
  index: LogIndex
  formatVersion: number
  kind: EntryKind
  /** Client session (thesis §6.3): the state machine applies one (clientId, clientSeq) once. '' and 0: none. */
  clientId: string
  clientSeq: number
  payload: Uint8Array
}

/** What a driver proposes: an entry that has no place yet. Configurations are changed by `changeMembers` only. */
export type Proposal = Pick<LogEntry, 'clientId' | 'clientSeq' | 'payload'> & { kind: Exclude<EntryKind, 'config'> }

/** What must survive a crash besides entries (thesis fig. 3.1). */
export interface HardState {
  term: Term
  /** '' : nobody in this term. */
  votedFor: MemberId
  /** A hint that saves work after a restart; may be behind. */
  commit: LogIndex
}

/** Who takes part. Learners receive everything and count for nothing. */
export interface Configuration {
  voters: readonly MemberId[]
  learners: readonly MemberId[]
  /** While it is joint (thesis §4.3): the voters before. Decisions need a majority of these and one of `voters`. */
  outgoing?: readonly MemberId[]
  /** Of `outgoing`: who becomes a learner when the old half is left. */
  learnersNext?: readonly MemberId[]
}

/**
 * `addVoter` and `addLearner`: one who is no member yet. `promote`: a learner becomes a voter; `demote`: the other way.
 * `remove`: a voter or learner goes.
 */
export interface MemberChange {
  type: 'addLearner' | 'addVoter' | 'promote' | 'demote' | 'remove'
  member: MemberId
}

/** The last entry that a snapshot covers. */
export interface SnapshotMeta {
  index: LogIndex
  term: Term
  configuration: Configuration
}

interface Envelope {
  from: MemberId
  to: MemberId
  term: Term
}

/** What members send each other: plain data for any codec. Loss, delay, doubling and disorder are all tolerated. */
export type RaftMessage = Envelope &
  (
    | { type: 'preVote' | 'vote'; lastIndex: LogIndex; lastTerm: Term; transfer: boolean }
    | { type: 'preVoteReply' | 'voteReply'; granted: boolean }
    /** `tells`: it only tells the commit index, and where the logs agree it asks for no answer. */
    | { type: 'append'; prevIndex: LogIndex; prevTerm: Term; entries: LogEntry[]; commit: LogIndex; tells?: boolean }
    /** Refused: `index` is the refused `prevIndex`, `hintIndex`/`hintTerm` where the follower's log may still agree. */
    | { type: 'appendReply'; success: boolean; index: LogIndex; hintIndex: LogIndex; hintTerm: Term }
    /** `round` numbers the leader's heartbeats: it confirms reads (thesis §6.4). */
    | { type: 'heartbeat'; commit: LogIndex; round: number }
    | { type: 'heartbeatReply'; round: number; lastIndex: LogIndex }
    | { type: 'snapshot'; meta: SnapshotMeta; offset: number; data: Uint8Array; crc: number; done: boolean }
    /** `received`: bytes of this snapshot that are on the follower's disk; `installed`: it is in force. */
    | { type: 'snapshotReply'; index: LogIndex; received: number; installed: boolean }
    | { type: 'timeoutNow' }
    | { type: 'readIndex'; context: number }
    | { type: 'readIndexReply'; context: number; index: LogIndex; refused: boolean }
    /** From a member that lost its memory: which term are you in, and who votes as you know it? */
    | { type: 'termQuery' }
    | { type: 'termReply'; voters: MemberId[] }
  )

/** What is to be made durable, in one go. Order within: snapshot, then hard state and entries. */
export interface PersistBatch {
  hardState?: HardState
  /** Consecutive. The first one replaces what the log holds at its index and above. */
  entries: LogEntry[]
  /** A snapshot took the place of the log up to its index. */
  snapshot?: SnapshotMeta
}

/**
 * Work that the core asks for. Several may be outstanding; each step of them is done in the order of `number`:
 *  1. send `sendNow` at once (appends, heartbeats, questions: they promise nothing);
 *  2. hand `persist` to `RaftLog.append`, and when it and all before it are durable, call `persisted(number)`, also
 *     where there was nothing to persist;
 *  3. then send `sendAfterPersist` (votes and acknowledgements: they promise what has just been made durable);
 *  4. apply `apply` and call `appliedTo(index)`. It is durable already: this waits for nothing.
 * Messages may be lost at will. After any call of the core there may be a new Ready: take until there is none.
 */
export interface Ready {
  number: number
  sendNow: RaftMessage[]
  persist: PersistBatch | undefined
  sendAfterPersist: RaftMessage[]
  /** Committed and durable here, in order, each given once. */
  apply: LogEntry[]
  /** Reads that are now linearizable once `index` is applied. `refused`: ask again (no leader, or it changed). */
  reads: { context: number; index: LogIndex; refused: boolean }[]
  /** Followers that need a chunk of a snapshot: answer each with `snapshotChunk`, or `snapshotFailed`. */
  snapshotWanted: { to: MemberId; index: LogIndex; offset: number }[]
  /**
   * Chunks that came in, checked: write each and call `snapshotReceived`; after the last one and its installation
   * `snapshotInstalled`; `snapshotRefused` if it cannot be used. Offset 0 begins anew.
   */
  snapshotChunks: { meta: SnapshotMeta; offset: number; data: Uint8Array; done: boolean }[]
}

export type Role = 'follower' | 'preCandidate' | 'candidate' | 'leader'

export type ProposeResult =
  | { accepted: true; term: Term; firstIndex: LogIndex }
  | { accepted: false; reason: 'not-leader' | 'transferring' | 'overloaded'; leader: MemberId | undefined }

export type ChangeResult =
  /** In force from here on, done when that index is applied with that term (then, if it is joint, it is left by itself). */
  | { accepted: true; term: Term; index: LogIndex; configuration: Configuration }
  /** Nothing happened. `change-pending` and `no-commit-in-term` pass: ask again. */
  | {
      accepted: false
      reason: 'not-leader' | 'transferring' | 'change-pending' | 'no-commit-in-term' | 'invalid'
      text: string
      leader: MemberId | undefined
    }

/** What a leader knows of a member that it sends the log to. */
export interface FollowerStatus {
  /** Durable there. */
  match: LogIndex
  next: LogIndex
  state: 'probe' | 'replicate' | 'snapshot'
  /** Appends on the way. */
  inFlight: number
  /** It has answered within the last one and a half election time-outs. */
  heard: boolean
  /** What the log held one election time-out ago, at most, is durable there (thesis §4.2.1): fit to become a voter. */
  caughtUp: boolean
}

export interface RaftStatus {
  member: MemberId
  role: Role
  term: Term
  leader: MemberId | undefined
  commit: LogIndex
  applied: LogIndex
  lastIndex: LogIndex
  stableIndex: LogIndex
  firstIndex: LogIndex
  /** In force: the one that was last appended, committed or not (thesis §4.1). */
  configuration: Configuration
  /** Index of the entry that made it (or of the snapshot that brought it; 0: given at the start). */
  configurationIndex: LogIndex
  /** It is not committed here, or joint: no other change is taken. */
  changePending: boolean
  /** Voters heard from within an election time-out (leader only; else the leader if it lives). */
  heard: MemberId[]
  /** By follower (leader only), learners included; one that was removed until it has been told. */
  progress: Record<MemberId, FollowerStatus>
  /** May it vote? False while it makes up for a lost memory. */
  mayVote: boolean
  counters: Record<
    'elections' | 'won' | 'truncations' | 'snapshotsSent' | 'snapshotsInstalled' | 'stepDowns' | 'refusedMessages',
    number
  >
}

/** What is looked at all the time. */
export type RaftSummary = Pick<
  RaftStatus,
  | 'role'
  | 'term'
  | 'leader'
  | 'commit'
  | 'firstIndex'
  | 'configuration'
  | 'configurationIndex'
  | 'changePending'
  | 'mayVote'
>

/** Deliberate bugs, for the tests of the checkers; refused without `allowPlantedBugs`. */
export type RaftPlantedBug =
  | 'ack-before-sync'
  | 'skip-pre-vote'
  | 'stale-read'
  /** ReadIndex answered before an entry of the leader's own term has committed (thesis §6.4). */
  | 'read-before-term-commit'
  /** Configuration changed before such a commit (the error in the single-server change of the thesis' first print). */
  | 'config-before-term-commit'
  /** A vote does not outlast a restart. */
  | 'forget-vote'
  /** The log's: a damaged record in the middle is taken for a torn tail. */
  | 'damage-as-torn'

export interface RaftOptions {
  member: MemberId
  /**
   * The first one of a cluster, used where nothing was recovered; later the log and snapshots say. The same for all who
   * begin it. A member that joins one gets `{ voters: [], learners: [] }` and hears from the leader who takes part: till
   * then it never stands for election.
   */
  configuration: Configuration
  /** In [0, 1): spreads election time-outs. */
  random: () => number
  /** Monotonic ms at the start. */
  nowMs: number
  /** Default 50. */
  heartbeatMs?: number
  /** Least time without a leader before an election; the greatest is twice that. Default 300. */
  electionTimeoutMs?: number
  /**
   * The same until a leader was heard of or a vote given since the start: a cluster that starts as a whole need not wait. Where
   * there is a leader its followers refuse the pre-vote, so that nobody is disturbed; a vote waits for disks and gets its time.
   * Default: `electionTimeoutMs`, on which `leaseReads` insist.
   */
  firstElectionTimeoutMs?: number
  /**
   * A gap between own ticks above this means that we could not hear: silences start anew. Default: a third of the
   * election time-out.
   */
  tickGapMs?: number
  /**
   * Reads on a leader without a round of heartbeats while it holds a lease (thesis §6.4.1): see `readIndex`. Must be the same
   * for all members. The assumption: while a lease runs, no two members' monotonic clocks differ in rate by more than
   * `clockDriftMax` (0.01: a hundredth), and ticks and messages are handled with the time that it then is. Should that not
   * hold, such a read may be stale; writes and all else stay safe. A lease is void after a gap between own ticks, from a
   * transfer of leadership to the end of the term, and with a change of members until a next round. Costs: no vote for an
   * election time-out after a start; no effect of `peerUnreachable`. Default: none, each read is confirmed.
   */
  leaseReads?: { clockDriftMax: number }
  /** Entries' bytes in one append. Default 512 KiB. */
  appendBytesMax?: number
  /** Appends to one follower without an answer. Default 64, and 8 MiB. */
  inFlightMax?: number
  inFlightBytesMax?: number
  /** Entries proposed and not committed; one more is refused. Default 20,000, and 64 MiB. */
  uncommittedMax?: number
  uncommittedBytesMax?: number
  /** Reads that wait for confirmation. Default 10,000. */
  readsMax?: number
  /**
   * When followers hear of a new commit index: at once (default), or with what is sent next in any case, at the latest when
   * the driver calls `tellCommit`. What a follower's read needs it is told at once.
   */
  commitTold?: 'at-once' | 'later'
  /** What was recovered from disk; missing: a new, empty log. */
  recovered?: { hardState: HardState; snapshot: SnapshotMeta | undefined; entries: LogEntry[] }
  /** Index up to which the state machine already holds everything (≥ the snapshot's). */
  applied?: LogIndex
  /**
   * This member's directory was empty in a cluster that exists, or its log was damaged: it may have voted and acknowledged
   * what it has forgotten. So it follows a leader only when all who vote have told their terms (or when it is no voter), and
   * does not vote until it is repaired. `configuration` is that of its first start: a cluster's first one stands in no entry
   * that it could be sent. Who votes by now the leader says. To be given again at each start until `status().mayVote` has been true and
   * the driver has made a durable note of that.
   */
  forgetful?: boolean
  plantedBugs?: readonly RaftPlantedBug[]
  allowPlantedBugs?: boolean
}
