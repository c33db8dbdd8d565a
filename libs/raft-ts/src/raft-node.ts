import { changeConfiguration, decodeConfiguration, encodeConfiguration, isJoint, leaveJoint } from './configuration.js'
import { crc32c } from './crc32c.js'
import { LogView } from './log-view.js'
import { checkMessage, isCount } from './message-check.js'
import { Progress } from './progress.js'
import { Quorum } from './quorum.js'
import {
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

/** Stands in `votedFor` of a term in which this member may have voted before it lost its memory: for nobody we know. */
const FORGOTTEN_VOTE = '\u0000forgotten'
const NO_BYTES = new Uint8Array(0)
const LEASE_ROUNDS_MAX = 1024
/** More than a member can ever forward. */
const FORWARDS_PER_MS = 4096

type MessageBody = RaftMessage extends infer M
  ? M extends RaftMessage
    ? Omit<M, 'from' | 'to' | 'term'>
    : never
  : never

interface Outstanding {
  number: number
  /** Durable up to here once it is persisted: the last entry given out by then that has not been replaced since. */
  lastIndex: LogIndex
  /** Term of an own vote that becomes durable with it; 0: none. */
  selfVoteTerm: Term
}

interface LeaderRead {
  context: number
  /** Who asked; self for own. */
  from: MemberId
  index: LogIndex
  /** Heartbeat round that confirms it. */
  round: number
}

/**
 * One Raft member as a deterministic state machine (Ongaro's thesis, ch. 3, 4.2.3, 6.4, 9.6). Synchronous; the same calls
 * give the same results. It owns no clock, no chance and no IO: time comes in by `tick`, work goes out by `takeReady`.
 *
 * Invariants: applied ≤ commit ≤ lastIndex; stableIndex ≤ lastIndex; entries up to commit never change.
 */
export class RaftNode {
  private readonly self: MemberId
  /** In force, and its majorities. */
  private configuration: Configuration
  private quorum: Quorum
  /**
   * Configurations by the index of their entries, ascending; the last is in force, committed or not, and the first is that
   * of the log's base (thesis §4.1).
   */
  private configurations: { index: LogIndex; configuration: Configuration }[]
  private readonly log: LogView
  private term: Term
  private votedFor: MemberId
  private role: Role = 'follower'
  private leader: MemberId | undefined
  private commit: LogIndex
  private applied: LogIndex
  /** Up to here given out in `Ready.apply`. */
  private handedToApply: LogIndex
  /** Durable here. */
  private stableIndex: LogIndex
  /** Up to here given out in `Ready.persist`. */
  private handedToPersist: LogIndex

  private nowMs: number
  private electionDeadlineMs = 0
  /** Since we started, a leader was heard of, or a vote given: what follows takes its time. */
  private electionBegun = false
  private heartbeatDueMs = 0
  private heardLeaderMs: number
  /** Highest heartbeat round of the present leader. */
  private leaderRound = 0
  /** The driver says that the leader cannot be reached; until it is heard again. */
  private leaderSuspected = false
  private readonly votes = new Map<MemberId, boolean>()
  private progress = new Map<MemberId, Progress>()
  private round = 0
  private reads: LeaderRead[] = []
  /** Own and followers' reads that no heartbeat round has been started for. */
  private newReads: { context: number; from: MemberId }[] = []
  /** Own reads with the leader, by their number on the wire. */
  private readonly forwarded = new Map<number, { context: number; sentMs: number }>()
  private nextForward: number
  private transfer: { to: MemberId; untilMs: number; sent: boolean } | undefined
  private uncommittedBytes = 0
  private receiving: { meta: SnapshotMeta; received: number; busy: boolean } | undefined
  private forgetful:
    | {
        /** What others told since it came back: their term, and who votes as they know it. */
        told: Map<MemberId, { term: Term; voters: readonly MemberId[] }>
        askedMs: Map<MemberId, number>
        askAgainMs: number
        /** It knows up to which term it may have voted: it follows any leader of a later one. */
        follows: boolean
        readAsked: boolean
        catchUpTo: LogIndex | undefined
      }
    | undefined

  /** The Ready with which the repair of a lost memory becomes durable. */
  private repairedBy: number | undefined

  private sendNow: RaftMessage[] = []
  private sendAfter: RaftMessage[] = []
  private readyReads: Ready['reads'] = []
  private snapshotWanted: Ready['snapshotWanted'] = []
  private snapshotChunks: Ready['snapshotChunks'] = []
  private snapshotToPersist: SnapshotMeta | undefined
  private hardStateDirty = false
  private selfVoteTerm: Term = 0
  private nextReady = 1
  private readonly outstanding: Outstanding[] = []
  private readonly bugs: ReadonlySet<RaftPlantedBug>

  /** With `leaseReads`: until then no other leader can have been elected; and when each round not yet confirmed was sent. */
  private leaseUntilMs = Number.NEGATIVE_INFINITY
  private leaseRounds: { round: number; sentMs: number }[] = []
  /** In this term somebody was told to stand for election at once: its votes heed no lease. */
  private leaseLostTerm: Term = 0
  private readonly leaseMs: number
  private readonly startedMs: number

  private readonly heartbeatMs: number
  private readonly electionTimeoutMs: number
  private readonly firstElectionTimeoutMs: number
  private readonly tickGapMs: number
  private readonly counters: RaftStatus['counters'] = {
    elections: 0,
    won: 0,
    truncations: 0,
    snapshotsSent: 0,
    snapshotsInstalled: 0,
    stepDowns: 0,
    refusedMessages: 0,
  }

  /** @throws RangeError for options that contradict each other. */
  constructor(private readonly options: RaftOptions) {
    const { recovered } = options
    if (options.plantedBugs?.length && !options.allowPlantedBugs)
      throw new RangeError('planted bugs are for the tests of the checkers')
    this.bugs = new Set(options.plantedBugs ?? [])
    this.heartbeatMs = options.heartbeatMs ?? 50
    this.electionTimeoutMs = options.electionTimeoutMs ?? 300
    if (this.electionTimeoutMs < 2 * this.heartbeatMs)
      throw new RangeError('the election time-out must be at least two heartbeats')
    this.firstElectionTimeoutMs = options.firstElectionTimeoutMs ?? this.electionTimeoutMs
    if (options.leaseReads && this.firstElectionTimeoutMs < this.electionTimeoutMs)
      throw new RangeError('with leases no election may come early, not even the first')
    this.tickGapMs = options.tickGapMs ?? this.electionTimeoutMs / 3
    const { clockDriftMax } = options.leaseReads ?? { clockDriftMax: 0 }
    if (!(clockDriftMax >= 0 && clockDriftMax < 1) || this.tickGapMs >= this.electionTimeoutMs)
      throw new RangeError('leases need a drift in [0, 1), and ticks more often than election time-outs')
    // A follower may have noted a heartbeat as come with its last tick: up to `tickGapMs` too early.
    this.leaseMs = (this.electionTimeoutMs - this.tickGapMs) * (1 - clockDriftMax)
    this.startedMs = options.nowMs
    this.self = options.member
    const base = recovered?.snapshot ?? { index: 0, term: 0, configuration: options.configuration }
    this.configuration = base.configuration
    this.quorum = new Quorum(base.configuration)
    this.configurations = [{ index: base.index, configuration: base.configuration }]
    this.log = new LogView(base, recovered?.entries ?? [])
    for (const entry of recovered?.entries ?? []) if (entry.kind === 'config') this.adopt(entry)
    this.term = recovered?.hardState.term ?? 0
    this.votedFor = recovered?.hardState.votedFor ?? ''
    this.applied = options.applied ?? base.index
    if (this.applied > this.log.lastIndex)
      throw new RangeError(`applied up to ${this.applied}, but the log ends at ${this.log.lastIndex}`)
    this.commit = Math.min(this.log.lastIndex, Math.max(recovered?.hardState.commit ?? 0, base.index, this.applied))
    this.handedToApply = this.applied
    this.stableIndex = this.log.lastIndex
    this.handedToPersist = this.log.lastIndex
    this.nowMs = options.nowMs
    this.heardLeaderMs = Number.NEGATIVE_INFINITY
    // No number of a former life of this member comes again: a late answer to one would be an old index for a new read.
    this.nextForward = Math.floor(options.nowMs) * FORWARDS_PER_MS + Math.floor(options.random() * FORWARDS_PER_MS)
    if (options.forgetful)
      this.forgetful = {
        told: new Map(),
        askedMs: new Map(),
        askAgainMs: Number.NEGATIVE_INFINITY,
        follows: false,
        readAsked: false,
        catchUpTo: undefined,
      }
    this.resetElectionTimer()
  }

  // ------------------------------------------------------------------------------------------------------- the driver's side

  /**
   * Monotonic time, which stands still between ticks. Call it when `nextTickMs` says so, and before other calls if the last
   * one is long ago. A tick that comes too early does no harm.
   */
  tick(nowMs: number): void {
    const gapMs = nowMs - this.nowMs
    if (gapMs < 0) return
    this.nowMs = nowMs
    if (gapMs > this.tickGapMs) {
      // We could not hear for so long: nobody's silence counts (and a paused leader must ask again who follows it).
      for (const progress of this.progress.values()) progress.heardMs = nowMs
      // A heartbeat that was answered late in the gap may bear the time of its beginning.
      if (this.options.leaseReads && this.leader !== undefined) this.heardLeaderMs = nowMs
      this.voidLease()
      this.resetElectionTimer()
    }
    if (this.role === 'leader') this.tickLeader()
    else if (nowMs >= this.electionDeadlineMs) this.electionTimeout()
    for (const [number, { context, sentMs }] of this.forwarded) {
      // The later ones were sent later.
      if (nowMs - sentMs < this.electionTimeoutMs) break
      this.forwarded.delete(number)
      this.giveRead(context, 0, true)
    }
  }

  /** When `tick` has something to do next, as far as is known now: ask again after each call. In monotonic ms. */
  nextTickMs(): number {
    // A gap between ticks means that we could not hear: even who has nothing to do shows itself that it could.
    let at = this.nowMs + this.tickGapMs / 2
    if (this.role === 'leader') {
      at = Math.min(at, this.heartbeatDueMs, this.transfer?.untilMs ?? at)
      at = Math.min(at, this.quorum.reached(this.heardAt) + this.silenceMs())
      for (const { state, heardMs, leavingUntilMs = at } of this.progress.values())
        at = Math.min(at, leavingUntilMs, state === 'replicate' ? heardMs + this.silenceMs() : at)
    } else at = Math.min(at, this.electionDeadlineMs)
    for (const { sentMs } of this.forwarded.values()) {
      at = Math.min(at, sentMs + this.electionTimeoutMs)
      break
    }
    if (this.forgetful) at = Math.min(at, this.forgetful.askAgainMs)
    return Math.max(at, this.nowMs)
  }

  /**
   * A hint: `member` cannot be reached just now (its connection is gone, nobody listens at its address). If it is our leader,
   * it is not waited for any longer: a pre-vote within a heartbeat, and others may count on our vote. Safe if it is wrong:
   * nobody's term changes unless a majority was told the same. Taken back when the leader is heard. With `leaseReads` it has
   * no effect: the lease is the promise to wait.
   */
  peerUnreachable(member: MemberId): void {
    if (this.role !== 'follower' || member !== this.leader || this.leaderSuspected || this.options.leaseReads) return
    this.leaderSuspected = true
    this.electionDeadlineMs = Math.min(this.electionDeadlineMs, this.nowMs + this.heartbeatMs * this.options.random())
  }

  /**
   * A message of a peer, whenever and however often it comes, member or not: the driver vouches for the cluster and the
   * sender. False: refused as implausible or not for us; nothing changed.
   */
  step(message: RaftMessage): boolean {
    const problem = checkMessage(message, this.self)
    if (problem !== undefined) {
      this.counters.refusedMessages++
      return false
    }
    // Late, from one that was removed meanwhile.
    if (!REQUESTS.has(message.type) && !this.expectsReplyOf(message.from)) return true
    if (message.type === 'termQuery') {
      this.sendAfter.push(this.message(message.from, { type: 'termReply', voters: this.votersInQuestion() }))
      // It lost its log: what it acknowledged before counts no longer, and it must be sent everything again.
      this.progress.get(message.from)?.forgot(this.log.lastIndex + 1)
    } else if (message.type === 'termReply') this.forgetful?.told.set(message.from, message)
    else if (this.forgetful && !this.mayHear(this.forgetful, message)) return true
    else if (LEADERS_OWN.has(message.type) && message.term === this.term && !this.mayLead(message.from)) {
      this.counters.refusedMessages++
      return false
    } else if (this.meetTerm(message)) this.handle(message)
    return true
  }

  /** Appends to the log as leader. The entries are committed when they come out in `Ready.apply` with this term and index. */
  propose(proposals: readonly Proposal[]): ProposeResult {
    const refuse = (reason: 'not-leader' | 'transferring' | 'overloaded') =>
      ({ accepted: false, reason, leader: this.leader }) as const
    if (this.role !== 'leader') return refuse('not-leader')
    if (this.transfer) return refuse('transferring')
    if (proposals.some(({ kind }) => (kind as EntryKind) === 'config'))
      throw new RangeError('configurations are changed by changeMembers')
    // The others would refuse the entry, and all behind it, for ever.
    for (const { clientSeq } of proposals)
      if (!isCount(clientSeq)) throw new RangeError(`clientSeq must be a whole number up to 2^50, not ${clientSeq}`)
    const bytes = proposals.reduce((sum, p) => sum + p.payload.length, 0)
    const waiting = this.log.lastIndex - this.commit + proposals.length
    if (
      waiting > (this.options.uncommittedMax ?? 20_000) ||
      this.uncommittedBytes + bytes > (this.options.uncommittedBytesMax ?? 64 * 1024 * 1024)
    )
      return refuse('overloaded')
    const firstIndex = this.log.lastIndex + 1
    for (const proposal of proposals) this.appendOwn(proposal)
    return { accepted: true, term: this.term, firstIndex }
  }

  /**
   * Changes who takes part, as leader: all of `changes` at once. In force at once, on this member and on each that receives
   * the entry; a joint configuration is left by itself when it is committed. A leader that is no voter any more leads until
   * that is committed, and then hands over. One change at a time, and none before an entry of this term has committed.
   */
  changeMembers(changes: readonly MemberChange[]): ChangeResult {
    const refuse = (reason: (ChangeResult & { accepted: false })['reason'], text: string): ChangeResult => ({
      accepted: false,
      reason,
      text,
      leader: this.leader,
    })
    if (this.role !== 'leader') return refuse('not-leader', `${this.self} does not lead`)
    if (this.transfer) return refuse('transferring', 'leadership is being handed over')
    // Without such a commit two leaders in turn could each change one member, and their majorities need not meet (Ongaro,
    // raft-dev 2015, "bug in single-server membership changes").
    const careless = this.bugs.has('config-before-term-commit')
    if (!careless && this.log.termAt(this.commit) !== this.term)
      return refuse('no-commit-in-term', `nothing of term ${this.term} is committed yet`)
    if (isJoint(this.configuration) || (!careless && this.configurationIndex() > this.commit))
      return refuse('change-pending', `the change at ${this.configurationIndex()} is not complete`)
    const changed = changeConfiguration(this.configuration, changes)
    if ('problem' in changed) return refuse('invalid', changed.problem)
    const { configuration } = changed
    this.appendConfiguration(configuration)
    return { accepted: true, term: this.term, index: this.log.lastIndex, configuration }
  }

  /**
   * A linearizable read: comes out in `Ready.reads` under `context` (a number of the driver's, each used once).
   * `nowMs`: monotonic time, looked at after the read was asked for: with it and `leaseReads` a leader asks nobody while its
   * lease holds. False: too many wait.
   */
  readIndex(context: number, nowMs?: number): boolean {
    if (nowMs !== undefined && this.options.leaseReads) {
      this.tick(nowMs)
      if (this.holdsLease()) {
        this.readyReads.push({ context, index: this.commit, refused: false })
        return true
      }
    }
    if (this.newReads.length + this.reads.length + this.forwarded.size >= (this.options.readsMax ?? 10_000))
      return false
    if (this.bugs.has('stale-read')) this.readyReads.push({ context, index: this.commit, refused: false })
    else if (this.role === 'leader') this.newReads.push({ context, from: this.self })
    else if (this.leader !== undefined) this.forwardRead(this.leader, context)
    else this.giveRead(context, 0, true)
    return true
  }

  /** As leader: lets `to` take over once it has everything (thesis §3.10). Ends by itself after an election time-out. */
  transferLeadership(to: MemberId): boolean {
    const progress = this.progress.get(to)
    if (this.role !== 'leader' || !progress || !this.configuration.voters.includes(to)) return false
    this.leaseLostTerm = this.term
    this.transfer = { to, untilMs: this.nowMs + 2 * this.electionTimeoutMs, sent: false }
    this.continueTransfer()
    return true
  }

  /** Does some follower not know yet what is committed? See `RaftOptions.commitTold`. */
  get commitUntold(): boolean {
    if (this.role !== 'leader') return false
    for (const progress of this.progress.values()) if (isUntold(progress, this.commit)) return true
    return false
  }

  /** Tells them, with the next Ready. */
  tellCommit(): void {
    for (const progress of this.progress.values()) progress.tellCommit = true
  }

  /** All work since the last call; undefined: none. See `Ready` for the order of work. */
  takeReady(): Ready | undefined {
    if (this.forgetful) this.recoverMemory(this.forgetful)
    if (this.role === 'leader') {
      this.startReadRound()
      for (const [to, progress] of this.progress) {
        this.sendAppends(to, progress)
        if (progress.leavingUntilMs !== undefined) this.dismiss(to, progress, progress.leavingUntilMs)
      }
    }
    if (this.bugs.has('ack-before-sync')) this.pretendDurable()
    const entries = this.log.slice(this.handedToPersist + 1, this.log.lastIndex, Number.POSITIVE_INFINITY)
    this.handedToPersist = this.log.lastIndex
    const applyTo = Math.min(this.commit, this.stableIndex)
    const apply = this.log.slice(this.handedToApply + 1, applyTo, Number.POSITIVE_INFINITY)
    this.handedToApply = Math.max(this.handedToApply, applyTo)
    const persist =
      entries.length > 0 || this.hardStateDirty || this.snapshotToPersist
        ? {
            ...(this.hardStateDirty || this.snapshotToPersist ? { hardState: this.hardState() } : {}),
            entries,
            ...(this.snapshotToPersist ? { snapshot: this.snapshotToPersist } : {}),
          }
        : undefined
    const nothing =
      !persist &&
      this.sendNow.length +
        this.sendAfter.length +
        apply.length +
        this.readyReads.length +
        this.snapshotWanted.length +
        this.snapshotChunks.length ===
        0
    if (nothing) return undefined
    const ready: Ready = {
      number: this.nextReady++,
      sendNow: this.sendNow,
      persist,
      sendAfterPersist: this.sendAfter,
      apply,
      reads: this.readyReads,
      snapshotWanted: this.snapshotWanted,
      snapshotChunks: this.snapshotChunks,
    }
    const lastIndex = entries[entries.length - 1]?.index ?? 0
    this.outstanding.push({ number: ready.number, lastIndex, selfVoteTerm: this.selfVoteTerm })
    if (this.bugs.has('ack-before-sync')) {
      ready.sendNow = [...ready.sendNow, ...ready.sendAfterPersist]
      ready.sendAfterPersist = []
    }
    this.sendNow = []
    this.sendAfter = []
    this.readyReads = []
    this.snapshotWanted = []
    this.snapshotChunks = []
    this.snapshotToPersist = undefined
    this.hardStateDirty = false
    this.selfVoteTerm = 0
    return ready
  }

  /** Everything in Readys up to this number is durable. In order. */
  persisted(readyNumber: number): void {
    for (let first = this.outstanding[0]; first && first.number <= readyNumber; first = this.outstanding[0]) {
      this.outstanding.shift()
      this.stableIndex = Math.max(this.stableIndex, first.lastIndex)
      if (first.selfVoteTerm === this.term && this.role === 'candidate') this.countVote(this.self, true)
    }
    if (this.repairedBy !== undefined && readyNumber >= this.repairedBy) this.repairedBy = undefined
    // The leader counts itself only now (thesis §10.2.1: its disk write may go on while it already sends).
    if (this.role === 'leader') this.advanceCommit()
  }

  /** The state machine holds everything up to `index`. */
  appliedTo(index: LogIndex): void {
    if (index > this.handedToApply)
      throw new RangeError(`applied ${index}, but only ${this.handedToApply} was given out`)
    this.applied = Math.max(this.applied, index)
  }

  /** Drops entries up to `index` from memory: what has been applied, and durably so. */
  compact(index: LogIndex): void {
    this.log.compact(Math.min(index, this.applied, this.stableIndex))
    const { configurations } = this
    while (configurations[1] && configurations[1].index < this.log.firstIndex) configurations.shift()
  }

  /**
   * Where the log would begin after compacting to `index`, with the configuration of then: what the log on disk, or a
   * snapshot of that state, must remember.
   */
  metaAt(index: LogIndex): SnapshotMeta | undefined {
    const term = this.log.termAt(index)
    const found = this.configurations.findLast((each) => each.index <= index)
    return term === undefined || !found ? undefined : { index, term, configuration: found.configuration }
  }

  /** Answers `snapshotWanted`. */
  snapshotChunk(to: MemberId, chunk: { meta: SnapshotMeta; offset: number; data: Uint8Array; done: boolean }): void {
    const progress = this.progress.get(to)
    if (this.role !== 'leader' || progress?.state !== 'snapshot') return
    if (progress.snapshot.index === 0) this.counters.snapshotsSent++
    progress.snapshot = { index: chunk.meta.index, offset: chunk.offset, askedMs: this.nowMs, waiting: true }
    this.send(to, { type: 'snapshot', ...chunk, crc: crc32c(chunk.data) })
  }

  /** The wanted snapshot cannot be had now; it is asked for again after a while. */
  snapshotFailed(to: MemberId): void {
    const progress = this.progress.get(to)
    if (progress?.state === 'snapshot') progress.snapshot = { index: 0, offset: 0, askedMs: this.nowMs, waiting: true }
  }

  /** So many bytes of the snapshot are written; ask for the next. */
  snapshotReceived(meta: SnapshotMeta, received: number): void {
    if (!this.receiving || this.receiving.meta.index !== meta.index || this.receiving.meta.term !== meta.term) return
    this.receiving.received = received
    this.receiving.busy = false
    if (this.leader !== undefined)
      this.send(this.leader, { type: 'snapshotReply', index: meta.index, received, installed: false })
  }

  /** A chunk could not be used: the transfer starts over. */
  snapshotRefused(): void {
    this.receiving = undefined
  }

  /** The state machine has been replaced, durably, by this snapshot. */
  snapshotInstalled(meta: SnapshotMeta): void {
    this.receiving = undefined
    if (meta.index <= this.commit) return
    this.log.restore(meta)
    const later = this.configurations.filter(({ index }) => index > meta.index && index <= this.log.lastIndex)
    this.configurations = [{ index: meta.index, configuration: meta.configuration }, ...later]
    this.configurationChanged()
    this.commit = meta.index
    this.applied = Math.max(this.applied, meta.index)
    this.handedToApply = Math.max(this.handedToApply, meta.index)
    this.stableIndex = Math.max(Math.min(this.stableIndex, this.log.lastIndex), meta.index)
    this.handedToPersist = Math.max(Math.min(this.handedToPersist, this.log.lastIndex), meta.index)
    for (const waiting of this.outstanding) waiting.lastIndex = Math.min(waiting.lastIndex, this.log.lastIndex)
    this.snapshotToPersist = meta
    this.counters.snapshotsInstalled++
    if (this.leader !== undefined)
      this.sendAfter.push(
        this.message(this.leader, { type: 'snapshotReply', index: meta.index, received: 0, installed: true }),
      )
  }

  /** Of the status, without what takes some work: for after every step. */
  summary(): RaftSummary {
    return {
      role: this.role,
      term: this.term,
      leader: this.leader,
      commit: this.commit,
      firstIndex: this.log.firstIndex,
      configuration: this.configuration,
      configurationIndex: this.configurationIndex(),
      changePending: this.changePending(),
      mayVote: this.forgetful === undefined && this.repairedBy === undefined,
    }
  }

  status(): RaftStatus {
    const live = this.leader !== undefined && this.leaderLives() ? [this.leader] : []
    return {
      ...this.summary(),
      member: this.self,
      applied: this.applied,
      lastIndex: this.log.lastIndex,
      stableIndex: this.stableIndex,
      heard: this.role === 'leader' ? this.heardVoters() : live,
      progress: Object.fromEntries(
        [...this.progress].map(([member, p]): [MemberId, FollowerStatus] => {
          const heard = this.isHeard(p)
          // With nothing to send a round (thesis §4.2.1) takes no time: an idle leader's learner is promoted too.
          const nothingToSend = p.match >= this.log.lastIndex
          const caughtUp = heard && (nothingToSend || p.caughtUp(this.electionTimeoutMs, this.nowMs))
          const { match, next, state } = p
          return [member, { match, next, state, inFlight: p.inFlight.length, heard, caughtUp }]
        }),
      ),
      counters: { ...this.counters },
    }
  }

  /** Term of the entry at `index`; undefined if it is compacted away or not there. */
  termAt(index: LogIndex): Term | undefined {
    return this.log.termAt(index)
  }

  /** Entries in memory, for checkers. */
  entryAt(index: LogIndex): LogEntry | undefined {
    return this.log.at(index)
  }

  // ---------------------------------------------------------------------------------------------------------------- terms

  /** Brings our term and the message's together. False: the message is done with. */
  private meetTerm(m: RaftMessage): boolean {
    if (m.term > this.term) {
      // Pre-votes ask about a term that nobody is in yet (thesis §9.6).
      if (m.type === 'preVote' || (m.type === 'preVoteReply' && m.granted)) return true
      // §4.2.3: whoever hears a live leader keeps its term against a disturber.
      if (m.type === 'vote' && !m.transfer && (this.leaderLives() || this.role === 'leader')) return false
      this.becomeFollower(m.term, LEADERS_OWN.has(m.type) ? m.from : undefined)
      return true
    }
    if (m.term === this.term) return true
    // A deposed leader or a member behind learns our term from the answer.
    if (LEADERS_OWN.has(m.type))
      this.sendAfter.push(
        this.message(m.from, { type: 'appendReply', success: false, index: 0, hintIndex: 0, hintTerm: 0 }),
      )
    else if (m.type === 'preVote') this.sendAfter.push(this.message(m.from, { type: 'preVoteReply', granted: false }))
    return false
  }

  /** Of the last committed configuration and of all that may yet be: a removal that is not committed may fall back. */
  private votersInQuestion(): MemberId[] {
    const { configurations, commit } = this
    const committed = configurations.findLastIndex(({ index }) => index <= commit)
    const open = configurations.slice(Math.max(0, committed))
    return [...new Set(open.flatMap(({ configuration: { voters, outgoing = [] } }) => [...voters, ...outgoing]))]
  }

  private becomeFollower(term: Term, leader: MemberId | undefined): void {
    if (this.role === 'leader') {
      this.counters.stepDowns++
      for (const { context, from } of [...this.reads, ...this.newReads]) this.answerRead(from, context, 0, true)
    }
    // The same leader counts from the beginning after a restart: what it never asked must not be taken for answered.
    if (leader !== this.leader || term > this.term) this.leaderRound = 0
    if (leader !== this.leader) {
      this.leaderSuspected = false
      this.refuseForwarded()
      if (this.forgetful) this.forgetful.readAsked = false
    }
    if (term > this.term) {
      this.term = term
      this.votedFor = ''
      this.hardStateDirty = true
    }
    this.role = 'follower'
    this.leader = leader
    this.electionBegun ||= leader !== undefined
    this.reads = []
    this.newReads = []
    this.transfer = undefined
    this.voidLease()
    this.progress = new Map()
    this.votes.clear()
    this.resetElectionTimer()
  }

  private resetElectionTimer(): void {
    const timeoutMs = this.electionBegun ? this.electionTimeoutMs : this.firstElectionTimeoutMs
    this.electionDeadlineMs = this.nowMs + timeoutMs * (1 + this.options.random())
  }

  private leaderLives(): boolean {
    // What it promised to a leader before a restart it has forgotten: with leases it waits as if there were one.
    if (this.options.leaseReads && this.nowMs - this.startedMs < this.electionTimeoutMs) return true
    if (this.leader === undefined || this.leaderSuspected) return false
    return this.nowMs - this.heardLeaderMs < this.electionTimeoutMs
  }

  // ------------------------------------------------------------------------------------------------------------ elections

  private electionTimeout(): void {
    this.resetElectionTimer()
    // Who may not stand for election at least forgets the leader that it hears no more, and says so to waiting reads.
    if (!this.mayCampaign()) return this.becomeFollower(this.term, undefined)
    if (this.bugs.has('skip-pre-vote')) this.campaign(false)
    else this.preCampaign()
  }

  /** Asks whether an election could be won before disturbing anyone with a new term (thesis §9.6). */
  private preCampaign(): void {
    this.role = 'preCandidate'
    this.leader = undefined
    this.refuseForwarded()
    this.votes.clear()
    this.askForVotes('preVote', this.term + 1, false, this.sendNow)
    this.countVote(this.self, true)
  }

  private campaign(transfer: boolean): void {
    this.counters.elections++
    this.role = 'candidate'
    this.electionBegun = true
    this.leader = undefined
    this.term++
    this.votedFor = this.self
    this.hardStateDirty = true
    // Our own vote counts, and the others are asked, once it is durable.
    this.selfVoteTerm = this.term
    this.votes.clear()
    this.resetElectionTimer()
    this.askForVotes('vote', this.term, transfer, this.sendAfter)
  }

  private askForVotes(type: 'preVote' | 'vote', term: Term, transfer: boolean, out: RaftMessage[]): void {
    for (const voter of this.otherVoters())
      out.push({
        ...this.message(voter, { type, lastIndex: this.log.lastIndex, lastTerm: this.log.lastTerm, transfer }),
        term,
      })
  }

  private handleVoteRequest(m: RaftMessage & { type: 'preVote' | 'vote' }): void {
    // §3.6.1: only who has at least our log may lead.
    const upToDate =
      m.lastTerm > this.log.lastTerm || (m.lastTerm === this.log.lastTerm && m.lastIndex >= this.log.lastIndex)
    // §4.1: the configurations of who asks and who answers may differ, and it is the candidate's that counts. A learner
    // that has not heard of its promotion may be the vote that is missing.
    const mayVote = !this.forgetful
    if (m.type === 'preVote') {
      const granted = mayVote && upToDate && m.term > this.term && this.role !== 'leader' && !this.leaderLives()
      // Two that ask at once would each vote for itself. The lesser name goes first; who has said yes holds back a little.
      if (granted && this.role === 'preCandidate' && m.from < this.self) this.becomeFollower(this.term, undefined)
      // Whoever asks misses our leader. A word to it, and the driver sees whether it can be reached.
      if (!granted && this.role === 'follower' && this.leader !== undefined && this.leaderLives())
        this.send(this.leader, { type: 'heartbeatReply', round: this.leaderRound, lastIndex: this.log.lastIndex })
      if (granted && this.role === 'follower')
        this.electionDeadlineMs = Math.max(this.electionDeadlineMs, this.nowMs + 2 * this.heartbeatMs)
      this.sendAfter.push({
        ...this.message(m.from, { type: 'preVoteReply', granted }),
        term: granted ? m.term : this.term,
      })
      return
    }
    const granted =
      mayVote &&
      upToDate &&
      (this.votedFor === '' || this.votedFor === m.from) &&
      this.role !== 'leader' &&
      this.role !== 'candidate'
    if (granted && this.votedFor === '') {
      this.role = 'follower'
      this.electionBegun = true
      this.votedFor = m.from
      this.hardStateDirty = true
      this.resetElectionTimer()
    }
    // Another asks in our own term: a split vote. Waiting a whole time-out again would only cost time. Unless our own vote is
    // not durable yet, and so nobody asked for theirs: then the other was quicker, and may win.
    if (this.role === 'candidate' && m.from !== this.self && this.votes.has(this.self))
      this.electionDeadlineMs = Math.min(
        this.electionDeadlineMs,
        this.nowMs + this.electionTimeoutMs * (0.2 + 0.5 * this.options.random()),
      )
    this.sendAfter.push(this.message(m.from, { type: 'voteReply', granted }))
  }

  private handleVoteReply(m: RaftMessage & { type: 'preVoteReply' | 'voteReply' }): void {
    if (
      m.type === 'preVoteReply'
        ? this.role !== 'preCandidate' || (m.granted && m.term !== this.term + 1)
        : this.role !== 'candidate'
    )
      return
    this.countVote(m.from, m.granted)
  }

  private countVote(from: MemberId, granted: boolean): void {
    if (!this.quorum.voters.has(from)) return
    if (!this.votes.has(from)) this.votes.set(from, granted)
    if (this.quorum.has((voter) => this.votes.get(voter) === true)) {
      if (this.role === 'preCandidate') this.campaign(false)
      else this.becomeLeader()
    } else if (!this.quorum.has((voter) => this.votes.get(voter) !== false)) this.becomeFollower(this.term, undefined)
  }

  private becomeLeader(): void {
    this.counters.won++
    this.role = 'leader'
    this.leader = this.self
    this.votes.clear()
    this.voidLease()
    this.progress = new Map()
    this.followMembers()
    // What former terms left uncommitted is given back when it commits, so it counts from the start.
    this.uncommittedBytes = 0
    for (let at = this.commit + 1; at <= this.log.lastIndex; at++)
      this.uncommittedBytes += this.log.at(at)?.payload.length ?? 0
    this.heartbeatDueMs = this.nowMs
    // §3.6.2, §6.4: only an entry of the own term commits those before it, and tells what is committed.
    this.appendOwn({ kind: 'noop', clientId: '', clientSeq: 0, payload: NO_BYTES })
    this.tickLeader()
  }

  // ---------------------------------------------------------------------------------------------------------- replication

  private appendOwn(proposal: Pick<LogEntry, 'kind' | 'clientId' | 'clientSeq' | 'payload'>): LogEntry {
    const { kind, clientId, clientSeq, payload } = proposal
    const entry: LogEntry = {
      term: this.term,
      index: this.log.lastIndex + 1,
      formatVersion: ENTRY_FORMAT_VERSION,
      kind,
      clientId,
      clientSeq,
      payload,
    }
    this.log.append(entry)
    this.uncommittedBytes += payload.length
    return entry
  }

  // --------------------------------------------------------------------------------------------------------------- members

  private appendConfiguration(configuration: Configuration): void {
    const payload = encodeConfiguration(configuration)
    this.adopt(this.appendOwn({ kind: 'config', clientId: '', clientSeq: 0, payload }))
  }

  /** A configuration is in force from its entry on, committed or not (thesis §4.1). */
  private adopt(entry: LogEntry): void {
    this.configurations.push({ index: entry.index, configuration: decodeConfiguration(entry.payload) })
    this.configurationChanged()
  }

  private configurationChanged(): void {
    this.configuration = (
      this.configurations[this.configurations.length - 1] as { configuration: Configuration }
    ).configuration
    this.quorum = new Quorum(this.configuration)
    // The majority that gave the lease need not meet those of the new configuration.
    this.voidLease()
    if (this.role === 'leader') this.followMembers()
  }

  private configurationIndex(): LogIndex {
    return this.configurations[this.configurations.length - 1]?.index ?? 0
  }

  private changePending(): boolean {
    return this.configurationIndex() > this.commit || isJoint(this.configuration)
  }

  /** Sends to whom the configuration names; who is named no more is told so, and then forgotten. */
  private followMembers(): void {
    for (const member of this.quorum.members) {
      const known = this.progress.get(member)
      if (known) known.leavingUntilMs = undefined
      else if (member !== this.self) this.progress.set(member, new Progress(this.log.lastIndex + 1, this.nowMs))
    }
    for (const [member, progress] of this.progress)
      if (!this.quorum.members.has(member)) progress.leavingUntilMs ??= this.nowMs + 2 * this.electionTimeoutMs
  }

  private dismiss(member: MemberId, progress: Progress, untilMs: number): void {
    const index = this.configurationIndex()
    const told = this.commit >= index && progress.match >= index && progress.toldCommit >= index
    if (told || this.nowMs >= untilMs) this.progress.delete(member)
  }

  /** §4.2.2: a leader that is no voter any more ends its work when that is committed. It tells all, and who is to follow. */
  private retire(): void {
    this.tellCommit()
    for (const [to, progress] of this.progress) this.sendAppends(to, progress)
    let best: MemberId | undefined
    for (const voter of this.quorum.voters) {
      const { match = 0 } = this.progress.get(voter) ?? {}
      if (best === undefined || match > (this.progress.get(best)?.match ?? 0)) best = voter
    }
    if (best !== undefined) this.send(best, { type: 'timeoutNow' })
    this.becomeFollower(this.term, undefined)
  }

  private tickLeader(): void {
    if (this.transfer && this.nowMs >= this.transfer.untilMs) this.transfer = undefined
    // Check-quorum (thesis §6.2): who cannot reach a majority must not go on as leader.
    if (!this.quorum.has(this.isPresent)) return this.becomeFollower(this.term, undefined)
    if (this.nowMs < this.heartbeatDueMs) return
    this.heartbeatDueMs = this.nowMs + this.heartbeatMs
    this.sendHeartbeats()
    for (const [to, progress] of this.progress) this.nudge(to, progress)
  }

  private sendHeartbeats(): void {
    this.round++
    if (this.options.leaseReads) {
      this.leaseRounds.push({ round: this.round, sentMs: this.nowMs })
      // Nobody answers: old rounds are not worth their room.
      if (this.leaseRounds.length > LEASE_ROUNDS_MAX) this.leaseRounds.splice(0, LEASE_ROUNDS_MAX / 2)
    }
    for (const [to, progress] of this.progress) {
      progress.mark ??= { round: this.round, last: progress.next - 1, match: progress.match }
      this.send(to, { type: 'heartbeat', commit: Math.min(progress.match, this.commit), round: this.round })
    }
  }

  /** What was lost on the way is sent again. */
  private nudge(to: MemberId, progress: Progress): void {
    const retryMs = 4 * this.heartbeatMs
    const { state, probeSentMs, snapshot } = progress
    if (state === 'probe' && probeSentMs !== undefined && this.nowMs - probeSentMs >= retryMs)
      progress.probeSentMs = undefined
    if (state === 'snapshot' && snapshot.waiting && this.nowMs - snapshot.askedMs >= 2 * retryMs)
      this.wantChunk(to, progress)
  }

  private sendAppends(to: MemberId, progress: Progress): void {
    const inFlightMax = this.options.inFlightMax ?? 64
    const inFlightBytesMax = this.options.inFlightBytesMax ?? 8 * 1024 * 1024
    // To who does not answer goes no more than the question where its log ends.
    const silent = !this.isHeard(progress)
    if (silent && progress.state === 'replicate') progress.becomeProbe(progress.match + 1)
    const told = progress.tellCommit || this.options.commitTold !== 'later'
    progress.tellCommit = false
    for (;;) {
      if (progress.state === 'snapshot') return
      if (progress.state === 'probe' && progress.probeSentMs !== undefined) return
      const hasEntries = progress.next <= this.log.lastIndex
      const full = progress.inFlight.length >= inFlightMax || progress.inFlightBytes >= inFlightBytesMax
      const tellCommit = told && isUntold(progress, this.commit)
      const probing = progress.state === 'probe'
      if (!probing && (!hasEntries || full) && !tellCommit) return
      const prevIndex = progress.next - 1
      const prevTerm = this.log.termAt(prevIndex)
      if (prevTerm === undefined) {
        progress.becomeSnapshot()
        this.wantChunk(to, progress)
        return
      }
      const entries =
        silent || (full && !probing)
          ? []
          : this.log.slice(progress.next, this.log.lastIndex, this.options.appendBytesMax ?? 512 * 1024)
      const tells = !probing && entries.length === 0
      this.send(to, {
        type: 'append',
        prevIndex,
        prevTerm,
        entries,
        commit: this.commit,
        ...(tells ? { tells } : {}),
      })
      progress.toldCommit = Math.max(progress.toldCommit, Math.min(this.commit, prevIndex + entries.length))
      if (probing) progress.probeSentMs = this.nowMs
      else if (entries.length > 0) {
        progress.next += entries.length
        progress.sent(
          progress.next - 1,
          entries.reduce((sum, e) => sum + e.payload.length, 0),
        )
      } else return
    }
  }

  private wantChunk(to: MemberId, progress: Progress): void {
    progress.snapshot.waiting = true
    // The driver need not hold a snapshot ready for a dead member; it is asked for one once the member is heard.
    if (!this.isHeard(progress)) return
    progress.snapshot.askedMs = this.nowMs
    this.snapshotWanted.push({ to, index: progress.snapshot.index, offset: progress.snapshot.offset })
  }

  private handleAppend(m: RaftMessage & { type: 'append' }): void {
    this.hearLeader(m.from)
    const reply = (index: LogIndex) => {
      if (m.tells) return
      this.sendAfter.push(
        this.message(m.from, { type: 'appendReply', success: true, index, hintIndex: 0, hintTerm: 0 }),
      )
    }
    // What is committed is the leader's too: entries up to there need no look.
    if (m.prevIndex + m.entries.length < this.commit) return void reply(this.commit)
    const agrees = m.prevIndex < this.log.firstIndex - 1 || this.log.termAt(m.prevIndex) === m.prevTerm
    if (!agrees) {
      const hintIndex = this.log.findConflict(Math.min(m.prevIndex, this.log.lastIndex), m.prevTerm)
      this.sendAfter.push(
        this.message(m.from, {
          type: 'appendReply',
          success: false,
          index: m.prevIndex,
          hintIndex,
          hintTerm: this.log.termAt(hintIndex) ?? 0,
        }),
      )
      return
    }
    for (const entry of m.entries) {
      if (entry.index < this.log.firstIndex || this.log.termAt(entry.index) === entry.term) continue
      if (entry.index <= this.log.lastIndex) this.truncate(entry.index)
      this.log.append(entry)
      if (entry.kind === 'config') this.adopt(entry)
    }
    const last = m.prevIndex + m.entries.length
    this.setCommit(Math.min(m.commit, last))
    reply(last)
  }

  private truncate(from: LogIndex): void {
    // Leader completeness (§3.6.3) makes this impossible; going on would lose what was acknowledged.
    if (from <= this.commit)
      throw new Error(`raft: ${this.self} is told to replace committed entry ${from} (commit ${this.commit})`)
    this.log.truncate(from)
    if (this.configurationIndex() >= from) {
      while (this.configurations.length > 1 && this.configurationIndex() >= from) this.configurations.pop()
      this.configurationChanged()
    }
    this.stableIndex = Math.min(this.stableIndex, from - 1)
    this.handedToPersist = Math.min(this.handedToPersist, from - 1)
    // What is being written at `from` and above is not what will stand there, not even if the same entries come back.
    for (const waiting of this.outstanding) waiting.lastIndex = Math.min(waiting.lastIndex, from - 1)
    this.counters.truncations++
  }

  private handleAppendReply(m: RaftMessage & { type: 'appendReply' }, progress: Progress): void {
    progress.heardMs = this.nowMs
    if (!m.success) {
      if (m.index <= progress.match || m.index > this.log.lastIndex) return // Late, or of a former term of office.
      if (progress.state === 'probe' && progress.next - 1 !== m.index) return
      // §5.3 with term hints: step over a whole term at a time.
      const agree = this.log.findConflict(Math.min(m.hintIndex, m.index), m.hintTerm)
      progress.becomeProbe(Math.min(m.index, agree + 1))
      return
    }
    if (m.index > this.log.lastIndex) return
    progress.acknowledged(m.index)
    progress.matched(m.index, this.log.lastIndex, this.nowMs)
    if (progress.state !== 'replicate') {
      if (progress.state === 'probe' || m.index >= this.log.firstIndex - 1) progress.becomeReplicate()
    } else progress.next = Math.max(progress.next, progress.match + 1)
    this.advanceCommit()
    this.continueTransfer()
  }

  private advanceCommit(): void {
    const index = this.quorum.reached(this.durableAt)
    // Raft §3.6.2: a quorum that holds an entry of an earlier term does not commit it, a later leader may still replace it.
    if (index <= this.commit || this.log.termAt(index) !== this.term) return
    this.setCommit(index)
    if (index < this.configurationIndex()) return
    if (isJoint(this.configuration)) this.appendConfiguration(leaveJoint(this.configuration))
    else if (!this.isVoter()) this.retire()
  }

  private setCommit(index: LogIndex): void {
    if (index <= this.commit) return
    if (this.role === 'leader')
      for (let at = this.commit + 1; at <= index; at++) this.uncommittedBytes -= this.log.at(at)?.payload.length ?? 0
    this.commit = index
  }

  private handleHeartbeat(m: RaftMessage & { type: 'heartbeat' }): void {
    this.hearLeader(m.from)
    this.leaderRound = Math.max(this.leaderRound, m.round)
    // The leader may still take what this member acknowledged before it lost its memory for present.
    if (!this.forgetful) this.setCommit(Math.min(m.commit, this.log.lastIndex))
    // At once, not after a sync: a slow disk here must not look like a dead member there. It promises nothing durable.
    this.send(m.from, { type: 'heartbeatReply', round: m.round, lastIndex: this.log.lastIndex })
  }

  private handleHeartbeatReply(m: RaftMessage & { type: 'heartbeatReply' }, progress: Progress): void {
    progress.heardMs = this.nowMs
    if (m.round <= this.round) progress.round = Math.max(progress.round, m.round)
    // What was sent before this heartbeat has arrived before it, or is lost (or overtaken: then it is sent in vain).
    const { mark } = progress
    const answered = mark !== undefined && m.round >= mark.round
    if (answered) progress.mark = undefined
    if (progress.state === 'replicate' && answered) {
      if (m.lastIndex < mark.last) progress.becomeProbe(progress.match + 1)
      else if (progress.match < mark.last && progress.match === mark.match) this.askAgain(m.from, progress, mark.last)
    }
    const { state, probeSentMs } = progress
    if (state === 'probe' && probeSentMs !== undefined && this.nowMs - probeSentMs >= 2 * this.heartbeatMs)
      progress.probeSentMs = undefined
    this.confirmReads()
  }

  /** All has arrived, and nothing was acknowledged: its sync takes long, or its answer was lost. */
  private askAgain(to: MemberId, progress: Progress, index: LogIndex): void {
    const prevTerm = this.log.termAt(index)
    // The log was cut behind it: it needs a snapshot.
    if (prevTerm === undefined) progress.becomeProbe(progress.match + 1)
    else this.send(to, { type: 'append', prevIndex: index, prevTerm, entries: [], commit: this.commit })
  }

  private hearLeader(from: MemberId): void {
    if (this.role !== 'follower' || this.leader !== from) this.becomeFollower(this.term, from)
    this.heardLeaderMs = this.nowMs
    this.leaderSuspected = false
    this.resetElectionTimer()
  }

  // ------------------------------------------------------------------------------------------------------------- snapshots

  private handleSnapshot(m: RaftMessage & { type: 'snapshot' }): void {
    this.hearLeader(m.from)
    if (m.meta.index <= this.commit) {
      this.sendAfter.push(
        this.message(m.from, { type: 'snapshotReply', index: this.commit, received: 0, installed: true }),
      )
      return
    }
    const same = this.receiving?.meta.index === m.meta.index && this.receiving.meta.term === m.meta.term
    if (!this.receiving || !same) {
      if (this.receiving?.busy) return // The driver still writes; the leader asks again.
      this.receiving = { meta: m.meta, received: 0, busy: false }
    }
    if (this.receiving.busy) return
    if (m.offset !== this.receiving.received || crc32c(m.data) !== m.crc) {
      this.send(m.from, {
        type: 'snapshotReply',
        index: m.meta.index,
        received: this.receiving.received,
        installed: false,
      })
      return
    }
    this.receiving.busy = true
    this.snapshotChunks.push({ meta: m.meta, offset: m.offset, data: m.data, done: m.done })
  }

  private handleSnapshotReply(m: RaftMessage & { type: 'snapshotReply' }, progress: Progress): void {
    progress.heardMs = this.nowMs
    if (m.installed) {
      progress.matched(Math.min(m.index, this.log.lastIndex), this.log.lastIndex, this.nowMs)
      if (progress.state === 'snapshot') progress.becomeProbe(progress.match + 1)
      this.advanceCommit()
    } else if (progress.state === 'snapshot' && m.index === progress.snapshot.index) {
      // A late or doubled answer must neither turn the transfer back nor double it; 0 means that the follower begins anew.
      const { offset, askedMs } = progress.snapshot
      const recent = this.nowMs - askedMs < 2 * this.heartbeatMs
      if (m.received > 0 && (m.received < offset || (m.received === offset && recent))) return
      progress.snapshot.offset = m.received
      this.wantChunk(m.from, progress)
    }
  }

  // ----------------------------------------------------------------------------------------------------------------- reads

  /** One heartbeat round confirms all reads that came since the last one (thesis §6.4). */
  private startReadRound(): void {
    if (this.newReads.length === 0) return
    // Before an entry of this term has committed, the leader does not know what is: the reads wait, they are not refused.
    if (this.log.termAt(this.commit) !== this.term && !this.bugs.has('read-before-term-commit')) return
    this.sendHeartbeats()
    for (const { context, from } of this.newReads)
      this.reads.push({ context, from, index: this.commit, round: this.round })
    this.newReads = []
    this.confirmReads()
  }

  private confirmReads(): void {
    if (this.reads.length + this.leaseRounds.length === 0) return
    const confirmed = this.quorum.reached(this.roundAt)
    this.extendLease(confirmed)
    // Rounds only rise along the list.
    let count = 0
    for (const read of this.reads) {
      if (read.round > confirmed) break
      count++
      this.answerRead(read.from, read.context, read.index, false)
    }
    if (count > 0) this.reads.splice(0, count)
  }

  /**
   * Thesis §6.4.1: a majority that answered a round hears of its leader no earlier than the round was sent, and elects nobody
   * else for an election time-out.
   */
  private extendLease(confirmedRound: number): void {
    let count = 0
    for (const { round, sentMs } of this.leaseRounds) {
      if (round > confirmedRound) break
      count++
      this.leaseUntilMs = sentMs + this.leaseMs
    }
    if (count > 0) this.leaseRounds.splice(0, count)
  }

  private voidLease(): void {
    this.leaseUntilMs = Number.NEGATIVE_INFINITY
    this.leaseRounds = []
  }

  private holdsLease(): boolean {
    if (this.role !== 'leader' || this.nowMs >= this.leaseUntilMs || this.leaseLostTerm === this.term) return false
    return this.log.termAt(this.commit) === this.term
  }

  private answerRead(from: MemberId, context: number, index: LogIndex, refused: boolean): void {
    if (from === this.self) return this.giveRead(context, index, refused)
    this.send(from, { type: 'readIndexReply', context, index, refused })
    // It can answer only when it has applied that.
    const progress = this.progress.get(from)
    if (progress) progress.tellCommit = true
  }

  private forwardRead(leader: MemberId, context: number): void {
    const number = this.nextForward++
    this.forwarded.set(number, { context, sentMs: this.nowMs })
    this.send(leader, { type: 'readIndex', context: number })
  }

  private refuseForwarded(): void {
    for (const { context } of this.forwarded.values()) this.giveRead(context, 0, true)
    this.forwarded.clear()
  }

  private giveRead(context: number, index: LogIndex, refused: boolean): void {
    if (context === MEMORY_READ) {
      if (!this.forgetful) return
      if (refused) this.forgetful.readAsked = false
      else this.forgetful.catchUpTo = index
    } else this.readyReads.push({ context, index, refused })
  }

  // ------------------------------------------------------------------------------------------------------- a lost memory

  /**
   * A member that lost its log, or a part of it, may have voted and acknowledged entries without knowing it. A vote is also a
   * promise to follow nobody of an earlier term. So it follows a leader, and acknowledges, only when (a) the leader and
   * all who vote, as it and each of them knows it, have told their terms: in terms up to the highest it may have voted, and
   * there never votes again; or (b) the leader says that it is no voter: its word does not count there, and once that is
   * committed its former votes do not either, since no majority can be had that has not heard of it.
   */
  private mayHear(lost: NonNullable<typeof this.forgetful>, m: RaftMessage): boolean {
    if (lost.follows) return true
    const told = lost.told.get(m.from)
    const current = told !== undefined && told.term === m.term && told.voters.length > 0
    if (current && !told.voters.includes(this.self)) return true
    if (!LEADERS_OWN.has(m.type)) return false
    if (!current) {
      this.askForTerm(lost, m.from, 2 * this.heartbeatMs)
      return false
    }
    const needed = new Set(told.voters)
    let floor: Term = 0
    for (const voter of needed) {
      if (voter === this.self) continue
      const answer = lost.told.get(voter)
      if (!answer) this.askForTerm(lost, voter, 2 * this.heartbeatMs)
      for (const other of answer?.voters ?? []) needed.add(other)
      floor = Math.max(floor, answer?.term ?? Number.POSITIVE_INFINITY)
    }
    if (floor === Number.POSITIVE_INFINITY) return false
    this.forswear(floor)
    lost.follows = true
    return true
  }

  private askForTerm(lost: NonNullable<typeof this.forgetful>, member: MemberId, everyMs: number): void {
    if (member === this.self || this.nowMs - (lost.askedMs.get(member) ?? Number.NEGATIVE_INFINITY) < everyMs) return
    lost.askedMs.set(member, this.nowMs)
    this.send(member, { type: 'termQuery' })
  }

  /** It votes again when it holds everything that was committed by the time it came back. */
  private recoverMemory(lost: NonNullable<typeof this.forgetful>): void {
    const askAgain = this.nowMs >= lost.askAgainMs
    if (askAgain) {
      lost.askAgainMs = this.nowMs + this.electionTimeoutMs
      // Who was told to take part may have changed meanwhile.
      if (!lost.follows && this.leader === undefined)
        for (const member of [...this.quorum.voters, ...lost.told.keys()])
          this.askForTerm(lost, member, this.heartbeatMs)
    }
    if (this.leader === undefined) return
    if (lost.catchUpTo === undefined) {
      if (lost.readAsked && !askAgain) return
      lost.readAsked = true
      this.forwardRead(this.leader, MEMORY_READ)
      return
    }
    if (this.stableIndex < lost.catchUpTo || this.commit < lost.catchUpTo) return
    this.hardStateDirty = true
    this.forgetful = undefined
    this.repairedBy = this.nextReady
  }

  /** No vote in terms up to this one any more. */
  private forswear(term: Term): void {
    if (term > this.term) this.becomeFollower(term, undefined)
    if (term < this.term || this.votedFor === FORGOTTEN_VOTE) return
    this.votedFor = FORGOTTEN_VOTE
    this.hardStateDirty = true
  }

  // --------------------------------------------------------------------------------------------------------------- helpers

  private handle(m: RaftMessage): void {
    switch (m.type) {
      case 'preVote':
      case 'vote':
        return this.handleVoteRequest(m)
      case 'preVoteReply':
      case 'voteReply':
        return this.handleVoteReply(m)
      case 'append':
        return this.handleAppend(m)
      case 'heartbeat':
        return this.handleHeartbeat(m)
      case 'snapshot':
        return this.handleSnapshot(m)
      case 'timeoutNow':
        // §3.10: the leader asks us to take over; its life is no reason to wait.
        if (this.role === 'follower' && this.mayCampaign()) this.campaign(true)
        return
      case 'readIndex':
        if (this.role === 'leader' && this.newReads.length + this.reads.length < (this.options.readsMax ?? 10_000))
          this.newReads.push({ context: m.context, from: m.from })
        else this.send(m.from, { type: 'readIndexReply', context: m.context, index: 0, refused: true })
        return
      case 'readIndexReply': {
        const asked = this.forwarded.get(m.context)
        if (asked && this.forwarded.delete(m.context)) this.giveRead(asked.context, m.index, m.refused)
        return
      }
    }
    const progress = this.progress.get(m.from)
    if (this.role !== 'leader' || !progress) return
    if (m.type === 'appendReply') this.handleAppendReply(m, progress)
    else if (m.type === 'heartbeatReply') this.handleHeartbeatReply(m, progress)
    else if (m.type === 'snapshotReply') this.handleSnapshotReply(m, progress)
  }

  private continueTransfer(): void {
    const { transfer } = this
    if (!transfer || transfer.sent || this.progress.get(transfer.to)?.match !== this.log.lastIndex) return
    transfer.sent = true
    this.send(transfer.to, { type: 'timeoutNow' })
  }

  /** The planted bug `ack-before-sync`: what is not durable counts as if it were. */
  private pretendDurable(): void {
    this.stableIndex = this.log.lastIndex
    if (this.selfVoteTerm === this.term && this.role === 'candidate') this.countVote(this.self, true)
    if (this.role === 'leader') this.advanceCommit()
  }

  private hardState(): HardState {
    const votedFor = this.bugs.has('forget-vote') ? '' : this.votedFor
    return { term: this.term, votedFor, commit: Math.min(this.commit, this.log.lastIndex) }
  }

  private readonly isPresent = (voter: MemberId): boolean =>
    voter === this.self || this.isHeard(this.progress.get(voter))
  private readonly heardAt = (voter: MemberId): number =>
    voter === this.self ? Number.POSITIVE_INFINITY : (this.progress.get(voter)?.heardMs ?? 0)
  private readonly durableAt = (voter: MemberId): LogIndex =>
    voter === this.self ? this.stableIndex : (this.progress.get(voter)?.match ?? 0)
  private readonly roundAt = (voter: MemberId): number =>
    voter === this.self ? this.round : (this.progress.get(voter)?.round ?? 0)

  private heardVoters(): MemberId[] {
    return [...this.quorum.voters].filter(this.isPresent)
  }

  private isHeard(progress: Progress | undefined): boolean {
    return progress !== undefined && this.nowMs - progress.heardMs < this.silenceMs()
  }

  /** So long a follower may be silent and still count as there. */
  private silenceMs(): number {
    return 1.5 * this.electionTimeoutMs
  }

  private isVoter(): boolean {
    return this.quorum.voters.has(this.self)
  }

  /**
   * §4.2.2: who is removed stands for election, without a vote of its own, until it knows that as committed: nobody else may
   * have the entry, nor win against a log that does.
   */
  private mayCampaign(): boolean {
    if (this.forgetful) return false
    if (this.isVoter()) return true
    const former = this.configurations[this.configurations.length - 2]?.configuration
    if (!former || this.configurationIndex() <= this.commit) return false
    return former.voters.includes(this.self) || former.outgoing?.includes(this.self) === true
  }

  private otherVoters(): MemberId[] {
    return [...this.quorum.voters].filter((member) => member !== this.self)
  }

  /** §3.4: there is one leader in a term at most. */
  private mayLead(member: MemberId): boolean {
    return this.leader === undefined || this.leader === member
  }

  private expectsReplyOf(member: MemberId): boolean {
    if (this.quorum.members.has(member) || this.progress.has(member) || member === this.leader) return true
    return this.forgetful?.askedMs.has(member) === true
  }

  private send(to: MemberId, body: MessageBody): void {
    this.sendNow.push(this.message(to, body))
  }

  private message(to: MemberId, body: MessageBody): RaftMessage {
    // Each body is made for this call. Filling it in is much quicker than copying it.
    const message = body as RaftMessage
    message.from = this.self
    message.to = to
    message.term = this.term
    return message
  }
}

/**
 * Handled whoever sends them: a member may hear from a leader or candidate before it hears of the configuration that
 * names it (thesis §4.1). Answers come only from whom one may have asked.
 */
const REQUESTS: ReadonlySet<RaftMessage['type']> = new Set<RaftMessage['type']>([
  'preVote',
  'vote',
  'append',
  'heartbeat',
  'snapshot',
  'timeoutNow',
  'readIndex',
  'termQuery',
])

const LEADERS_OWN: ReadonlySet<RaftMessage['type']> = new Set<RaftMessage['type']>(['append', 'heartbeat', 'snapshot'])

/** Does this follower have entries of which it does not know that they are committed? */
const isUntold = ({ toldCommit, next }: Progress, commit: LogIndex): boolean => toldCommit < Math.min(commit, next - 1)

/** Context of the one read that a forgetful member makes for itself. */
const MEMORY_READ = -1
