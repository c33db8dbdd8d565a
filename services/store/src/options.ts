import type { Bus, Disk, World } from '@capstan/actor'
import type { StateEngine } from '@capstan/mvcc'
import type { VersionRange } from './versions.js'

/** Deliberate bugs, each the class of a known failure of real stores. For the tests of the checkers; never set otherwise. */
export const PLANTED_BUGS = {
  raft: [
    'ack-before-sync',
    'skip-pre-vote',
    'stale-read',
    'read-before-term-commit',
    'config-before-term-commit',
    'forget-vote',
    'damage-as-torn',
  ],
  mvcc: ['index-not-atomic', 'apply-twice', 'revision-back', 'watch-lost-at-compaction', 'snapshot-without-sessions'],
  store: [
    'watch-last-lost',
    'watch-doubled-on-resume',
    'watch-before-synced',
    'stale-read-after-pause',
    'paused-leader-revokes',
    'lease-reset-on-election',
  ],
} as const
export type PlantedBug = (typeof PLANTED_BUGS)[keyof typeof PLANTED_BUGS][number]

/** The world of a store member. */
export interface StoreWorld extends World {
  /** A connection of its own for raft, so that no other traffic delays a heartbeat. Default: `bus`. */
  readonly raftBus?: Bus
  /**
   * A connection to the bus server beside that member, if there is one that is up: raft's messages to it then take one
   * server less. Only spoken on; what comes in comes by `raftBus`.
   */
  readonly busBeside?: (member: string) => Bus | undefined
}

export interface StoreOptions {
  /** Name of the cluster: the second token of every subject. */
  cluster: string
  /** Tells clusters of one name apart; drawn once when the cluster is made. A directory of another one is refused. */
  clusterId: string
  /** This member's name, also its name on the bus (`store~<member>`). */
  member: string
  /**
   * Names of the members that make the cluster: the same list on each of them. Later the log says who takes part, whatever
   * stands here. A member that is not named here joins.
   */
  members: readonly string[]
  /** The machine that it runs on, for its beats. Default: the member's name. */
  machine?: string
  /**
   * What to do with an empty directory. `new`: the cluster is being made, everybody starts empty. `existing` (default):
   * this member forgot what it knew: it does not vote until the leader has repaired it (DESIGN §5). `join`: the cluster
   * runs without it; it waits until a `memberAdd` names it. Safe under any name: it is taken for one that forgot, too.
   */
  emptyDirectory?: 'new' | 'existing' | 'join'
  /** Opens the state engine. Default: checkpoints as one file on `world.disk` (for simulation and tests). */
  openEngine?: (disk: Disk) => StateEngine | Promise<StateEngine>
  /** Where below `world.disk` that engine keeps all that it has: set aside as a whole if it is damaged. Default `state`. */
  stateDir?: string

  /** Default 50. */
  heartbeatMs?: number
  /** Least time without a leader before an election; the greatest is twice that. Default 300. */
  electionTimeoutMs?: number
  /** Least TTL of a lease; a shorter one is raised to it. Default: election time-out and a half, in whole seconds. */
  leaseTtlSecondsMin?: number
  /** Automatic compaction of history. Default: keep 5 minutes. */
  compaction?: { keepMs: number } | { keepRevisions: number } | 'off'
  /** A checkpoint of the state at least so often, if it changed. Default 5,000. */
  checkpointPeriodMs?: number
  /** … and after so many entries. Default 10,000. */
  checkpointEntries?: number
  /** Entries kept in the log below the checkpoint, for members that lag a little. Default 5,000. */
  logKeepEntries?: number
  /** Size of a segment of the log, preallocated. Default 16 MiB. */
  logSegmentBytes?: number
  /** Larger requests are refused as TOO_LARGE. Default 1.5 MiB. */
  requestBytesMax?: number
  /** Of a snapshot's chunks on their way to another member. Default 256 KiB. */
  snapshotChunkBytes?: number
  /** Events of a watch in one message, about; what is more comes in several. Default 1 MiB. */
  watchMessageBytes?: number
  /** Proposals that may wait for their commit; one more is refused as OVERLOADED. Default 5,000. */
  proposalsMax?: number
  /** Size of the state above which only what frees space is taken, until it is below nine tenths of that. Default 8 GiB. */
  quotaBytes?: number
  /** Free disk bytes below which writes are refused as NO_SPACE. Default 64 MiB. */
  freeBytesMin?: number
  bugs?: readonly PlantedBug[]
  /** For the tests of upgrades: what this program is to pretend to support. Default: `SUPPORTED_VERSIONS`. */
  versions?: VersionRange
}

export interface StoreHandle {
  readonly member: string
  /** As the `status` verb. */
  status(): Promise<import('@capstan/protocol').StoreStatusReply>
  /** SHA-256 of the canonical dump with the index that it was made at (promise S4). */
  stateHash(): Promise<{ appliedIndex: number; hash: string }>
  /** Clean end: hands leadership over, ends watches with `closing`, checkpoints. */
  stop(): Promise<void>
  /** Ends at once, without handing over or saving, as far as one process can play a crash. */
  kill(): Promise<void>
  /** Settles when the member has ended: undefined after `stop` or `kill`, else why it gave up. */
  readonly ended: Promise<unknown>
}
