import { encode, type Log } from '@capstan/actor'
import {
  type Command,
  type CommandResult,
  type Entry,
  type IndexedHash,
  Mvcc,
  SnapshotDamaged,
  SnapshotReceiver,
} from '@capstan/mvcc'
import { ELECTION_TIMEOUT_MS, HEARTBEAT_MS } from '@capstan/protocol'
import {
  type Configuration,
  type LogEntry,
  type MemberChange,
  type Proposal,
  RaftLog,
  type RaftMessage,
  RaftNode,
  type RaftPlantedBug,
  type RaftStatus,
  type RaftSummary,
  type Ready,
  type SnapshotMeta,
} from 'raft-ts'
import { CheckpointFileEngine } from './checkpoint-file-engine.js'
import { decodeCommand, encodeCommand } from './command-codec.js'
import { loadIdentity, type MemberIdentity, saveIdentity } from './identity.js'
import { PLANTED_BUGS, type StoreOptions, type StoreWorld } from './options.js'
import { type RaftFrame, RaftLink } from './raft-link.js'
import { DAMAGED_DIR, damageIn, forget, openingState, setAside } from './repair.js'
import { OutgoingSnapshot, snapshotBeyondLog } from './snapshots.js'
import { type Difference, StateComparison } from './state-comparison.js'
import { maybeApplied, notApplied, StoreError } from './store-error.js'
import {
  commandUnder,
  SUPPORTED_VERSIONS,
  VersionAnnouncements,
  type VersionRange,
  versionRefusal,
} from './versions.js'

/** Entries applied between two returns to the event loop. */
const APPLY_SLICE = 500
/** State held back from the disk above which applying waits for the checkpoint. */
const UNSAVED_BYTES_MAX = 128 * 1024 * 1024
/** Payload bytes kept in the log (which is in memory, too) below the checkpoint, whatever the number of entries. */
const LOG_BYTES_MAX = 64 * 1024 * 1024
/** A read that raft has not answered is asked again; then given up. */
const READ_RETRY_MS = 400
const READ_WAIT_MS_MAX = 3000
const READS_MAX = 10_000
/** Incarnations of one member that are remembered to be refused. */
const FORMER_LIVES_MAX = 16
/**
 * So long followers may not hear of a commit that nobody waits for: under load the next append tells them, and the messages
 * for that alone (four for each put, with answers) would cost as much as the put. What watches on followers are late by.
 */
const COMMIT_TELL_MS = 4
/** Heartbeats of silence after which a follower asks the bus whether the leader is still connected. */
const PROBE_AFTER_HEARTBEATS = 1.5
const SNAPSHOT_IDLE_MS = 30_000
/** A disk that takes longer is what to look at when writes stall. */
const SLOW_SYNC_MS = 200
/** Where the log lies below the member's directory. */
export const LOG_DIR = 'raft'
const STATE_DIR = 'state'
/** Hashes of the state told at once: 16 × 64 entries back. */
const HASHES_TOLD = 16
/** The state's hash is told after so many entries, and after so long in any case: what is supported is told with it (`ANNOUNCED_MS`). */
const HASH_TOLD_ENTRIES = 64
const HASH_TOLD_MS = 2000

export interface ReplicaHooks {
  /** A raft frame came in. */
  frame(frame: RaftFrame): void
  /** Runs `run` as a message of the owner's actor. */
  later(run: () => void): void
  /** Only a restart helps. */
  failed(error: unknown): void
  leadershipChanged(): void
  applied(command: Command, result: CommandResult): void
  /** The whole state was replaced by a snapshot. */
  installed(): void
  /** The state is not that of a majority. */
  differs(difference: Difference): void
  syncTook(durationMs: number): void
  checkpointTook(durationMs: number): void
  /** This member takes part no more. */
  removed(error: StoreError): void
  /** This program does not know what the cluster does from here on: only another one can go on. */
  outgrown(error: StoreError): void
}

/** What one member has applied, to all others, now and then. Travels between raft's messages, too. */
interface StateNotice {
  type: 'state'
  from: string
  to: string
  hashes: readonly IndexedHash[]
  /** What its program supports. Missing: it is of before there were versions to choose from. */
  versions?: VersionRange
}

/** From a leader to one that asks for votes and is a member no more. Travels between raft's messages; not one of them. */
interface RemovedNotice {
  type: 'removed'
  from: string
  to: string
  term: number
  /** Of the configuration that does not name it. */
  index: number
}

interface Pending {
  /** As it was proposed: who proposed it needs not decode it again. Of a change of members: none. */
  command?: Command | undefined
  resolve(result: CommandResult): void
  reject(error: StoreError): void
}

interface Read {
  sinceMs: number
  resolve(): void
  reject(error: StoreError): void
}

/**
 * One member's copy of the state: raft and its log, and mvcc behind them. Carries out what raft asks for (`Ready`), in
 * raft's order: send, persist, send what waited for that, apply.
 */
export class Replica {
  readonly counters: Record<string, number> = { proposals: 0, snapshotsInstalled: 0, checkpoints: 0, logCuts: 0 }
  installing = false
  private readonly link: RaftLink
  private readonly proposals: (Pending & { proposal: Proposal })[] = []
  private readonly pending = new Map<number, Pending & { term: number }>()
  /** Reads not yet given to raft; reads with raft, by context; reads that wait for an index to be applied. */
  private reads: Read[] = []
  private readonly asked = new Map<number, { reads: Read[]; sinceMs: number }>()
  private confirmed: { index: number; reads: Read[] }[] = []
  /** In all three. */
  private readsWaiting = 0
  private readonly applyQueue: LogEntry[] = []
  private readonly outgoing = new Map<string, OutgoingSnapshot>()
  private incoming: { meta: SnapshotMeta; receiver: SnapshotReceiver | undefined; tail: Promise<void> } | undefined
  private nextContext = 1
  /** When the leader's last frame came. */
  private leaderHeardMs = 0
  private pumping = false
  /** A timer runs for what is committed and not told. */
  private telling = false
  private closed = false
  private persisting: Promise<void> = Promise.resolve()
  private checkpointing = false
  private checkpointedMs: number
  private known: { role: string; leader: string | undefined; term: number } = { role: '', leader: undefined, term: -1 }
  private lastLeader: string | undefined
  private lastError: string | undefined
  private readonly strangers = new Set<string>()
  private savingIdentity: Promise<void> = Promise.resolve()
  private notingLog = false
  private readonly comparison = new StateComparison()
  private stateTold = { index: 0, atMs: Number.NEGATIVE_INFINITY }
  private differs: Difference | undefined
  private readonly announcements = new VersionAnnouncements()
  private raisingVersion = false
  /** Nothing is applied any more. */
  private isOutgrown = false
  /** This life ends, and its state is to be set aside by the next one. */
  private givenUp = false
  private wasRemoved = false
  /** Since when no configuration names this member and no leader is heard. */
  private unnamedSinceMs: number | undefined
  /** Payload bytes of the entries that the log holds, by batches as they were applied. */
  private readonly logSizes: { index: number; bytes: number }[] = []
  /** As of the last pump. */
  private state: RaftSummary

  private constructor(
    private readonly world: StoreWorld,
    private readonly options: StoreOptions,
    private readonly log: Log,
    private readonly hooks: ReplicaHooks,
    private identity: MemberIdentity,
    readonly mvcc: Mvcc,
    private readonly raftLog: RaftLog,
    private readonly raft: RaftNode,
    private readonly sync: { longestMs: number; count: number; slow: number },
  ) {
    this.checkpointedMs = world.clock.monotonicMs()
    this.state = raft.summary()
    this.link = new RaftLink(
      world.raftBus ?? world.bus,
      log,
      { cluster: options.cluster, ...identity },
      (frame) => hooks.frame(frame),
      (member) => hooks.later(() => this.missed(member)),
      world.busBeside,
    )
    this.pumpSoon()
  }

  /** @throws StoreError, LogDamaged, StateUnusable, DiskError */
  static async open(world: StoreWorld, options: StoreOptions, log: Log, hooks: ReplicaHooks): Promise<Replica> {
    const { clusterId, member } = options
    const { emptyDirectory = 'existing' } = options
    const identity = await loadIdentity(
      world.disk,
      world.random,
      { clusterId, member },
      options.members.includes(member) ? emptyDirectory : 'join',
    )
    const dirs = { log: LOG_DIR, state: options.stateDir ?? STATE_DIR }
    const present = await setAside(world.disk, identity, dirs)
    try {
      return await Replica.openDirectory(world, options, log, hooks, present)
    } catch (error) {
      const what = damageIn(error)
      const alone = !identity.joined && options.members.every((name) => name === member)
      // Who forgot already has nothing left to give up but what it was sent since: that may well be damaged again.
      if (what === undefined || alone) throw error
      const forgetful = await forget(world.disk, world.random, log, present, what, error, dirs)
      return Replica.openDirectory(world, options, log, hooks, forgetful)
    }
  }

  private static async openDirectory(
    world: StoreWorld,
    options: StoreOptions,
    log: Log,
    hooks: ReplicaHooks,
    identity: MemberIdentity,
  ): Promise<Replica> {
    const engine = await openingState(() => options.openEngine?.(world.disk) ?? CheckpointFileEngine.open(world.disk))
    try {
      const planted = PLANTED_BUGS.mvcc.filter((bug) => options.bugs?.includes(bug))
      const mvccOptions = planted.length > 0 ? { plantedBugs: planted, allowPlantedBugs: true } : {}
      const mvcc = await openingState(() => new Mvcc(engine, mvccOptions))
      return await Replica.openWith(world, options, log, hooks, identity, mvcc)
    } catch (error) {
      await engine.close()
      throw error
    }
  }

  private static async openWith(
    world: StoreWorld,
    options: StoreOptions,
    log: Log,
    hooks: ReplicaHooks,
    identity: MemberIdentity,
    mvcc: Mvcc,
  ): Promise<Replica> {
    const { member } = options
    const refusal = versionRefusal(mvcc.clusterVersion, options.versions ?? SUPPORTED_VERSIONS)
    if (refusal) throw refusal
    const configuration: Configuration = { voters: identity.joined ? [] : [...options.members], learners: [] }
    const sync = { longestMs: 0, count: 0, slow: 0 }
    const { log: raftLog, recovered } = await openLog(world, options, mvcc, configuration, identity, (durationMs) => {
      sync.longestMs = Math.max(sync.longestMs, durationMs)
      sync.count++
      if (durationMs > SLOW_SYNC_MS) sync.slow++
      hooks.syncTook(durationMs)
    })
    const outgrown = committedVersionRefusal(recovered, mvcc.appliedIndex, options.versions ?? SUPPORTED_VERSIONS)
    if (outgrown) {
      await raftLog.close()
      throw outgrown
    }
    if (!recovered.empty && !identity.logBegun) {
      identity = { ...identity, logBegun: true }
      await saveIdentity(world.disk, identity)
    }
    if (recovered.tornBytes > 0) log.info({ bytes: recovered.tornBytes }, 'cut a torn write off the log')
    const random = world.random.fork('raft')
    const raft = new RaftNode({
      member,
      configuration,
      random: () => random.next(),
      nowMs: world.clock.monotonicMs(),
      heartbeatMs: options.heartbeatMs ?? HEARTBEAT_MS,
      electionTimeoutMs: options.electionTimeoutMs ?? ELECTION_TIMEOUT_MS,
      firstElectionTimeoutMs: 2 * (options.heartbeatMs ?? HEARTBEAT_MS),
      recovered,
      applied: mvcc.appliedIndex,
      forgetful: !identity.mayVote,
      commitTold: 'later',
      ...raftBugs(options),
    })
    log.info(
      { appliedIndex: mvcc.appliedIndex, lastIndex: raft.status().lastIndex, mayVote: identity.mayVote },
      'replica opened',
    )
    return new Replica(world, options, log, hooks, identity, mvcc, raftLog, raft, sync)
  }

  get role(): 'leader' | 'follower' | 'candidate' | 'learner' {
    const { role, mayVote, configuration } = this.state
    if (role === 'leader') return 'leader'
    if (!mayVote || !configuration.voters.includes(this.options.member)) return 'learner'
    return role === 'follower' ? 'follower' : 'candidate'
  }
  get leader(): string | undefined {
    return this.state.leader
  }
  get term(): number {
    return this.state.term
  }
  get commitIndex(): number {
    return this.state.commit
  }
  get configuration(): Configuration {
    return this.state.configuration
  }
  get firstIndex(): number {
    return this.state.firstIndex
  }

  peersHeard(): string[] {
    return [...this.raft.status().heard]
  }

  errors(): string[] {
    const strangers = [...this.strangers]
      .sort()
      .map((from) => `${from} forgot what it knew and says that it is new: refused`)
    const { repairing } = this.identity
    return [
      ...(repairing
        ? [`REPAIRING: ${repairing.text}; set aside; does not vote until the others have repaired it`]
        : []),
      ...(this.differs ? [describeDifference(this.differs)] : []),
      ...(this.lastError === undefined ? [] : [this.lastError]),
      ...strangers,
    ]
  }

  figures(): Record<string, number> {
    return {
      ...this.raft.status().counters,
      ...this.counters,
      syncs: this.sync.count,
      syncLongestMs: Math.round(this.sync.longestMs),
      slowSyncs: this.sync.slow,
      proposalsPending: this.pending.size,
    }
  }

  // ------------------------------------------------------------------------------------------------------------ inputs

  receive(frame: RaftFrame): void {
    if (!this.knows(frame)) return
    if (frame.from === this.state.leader) this.leaderHeardMs = this.world.clock.monotonicMs()
    for (const message of frame.messages) {
      const { from, to, type } = (message ?? {}) as Partial<RaftMessage> | RemovedNotice | StateNotice
      // The frame's sender is vouched for by the bus; what it says in its messages must agree.
      if (from !== frame.from || to !== this.options.member)
        this.log.warn(
          { from: frame.from, message: { from, to } },
          'refused a raft message: not from its sender or not for me',
        )
      else if (type === 'removed') this.heedRemoval(message as RemovedNotice)
      else if (type === 'state') this.compareState(message as StateNotice)
      else {
        if (type === 'preVote' || type === 'vote') this.tellRemoved(frame.from)
        this.raft.step(message as RaftMessage)
        this.pumpSoon()
      }
    }
  }

  /** One that was out of reach when it was removed asks for votes that nobody gives: it is told why. */
  private tellRemoved(to: string): void {
    const { role, changePending, configuration, configurationIndex, term } = this.state
    if (role !== 'leader' || changePending || isNamed(configuration, to)) return
    const notice: RemovedNotice = { type: 'removed', from: this.options.member, to, term, index: configurationIndex }
    this.link.send(to, [notice])
  }

  /** Tells the others what this member has applied, if that is due. */
  tellState(nowMs: number): void {
    const { appliedIndex } = this.mvcc
    const { index, atMs } = this.stateTold
    if (appliedIndex - index < HASH_TOLD_ENTRIES && nowMs - atMs < HASH_TOLD_MS) return
    this.stateTold = { index: appliedIndex, atMs: nowMs }
    const { voters, learners } = this.state.configuration
    const hashes = this.mvcc.recentChainHashes().slice(-HASHES_TOLD)
    for (const to of [...voters, ...learners])
      if (to !== this.options.member) {
        const notice: StateNotice = { type: 'state', from: this.options.member, to, hashes, versions: this.versions }
        this.link.send(to, [notice])
      }
  }

  /** What this program supports. */
  get versions(): VersionRange {
    return this.options.versions ?? SUPPORTED_VERSIONS
  }

  /** As leader: has the next version put in force, once every member supports it. */
  raiseVersion(): void {
    const { configuration, changePending, role } = this.state
    if (role !== 'leader' || changePending || this.raisingVersion) return
    const { clusterVersion } = this.mvcc
    const others = [...configuration.voters, ...configuration.learners].filter((one) => one !== this.options.member)
    const version = this.announcements.next(clusterVersion, this.versions, others, this.world.clock.monotonicMs())
    if (version === undefined) return
    this.raisingVersion = true
    this.log.info({ from: clusterVersion, to: version }, 'all members support it: the cluster version is raised')
    this.propose({ type: 'clusterVersion', version })
      .catch((error: unknown) => this.log.info({ err: error }, 'cluster version not raised'))
      .finally(() => (this.raisingVersion = false))
  }

  private outgrown(error: StoreError): void {
    this.isOutgrown = true
    this.lastError = error.message
    this.hooks.outgrown(error)
  }

  private compareState({ from, hashes, versions }: StateNotice): void {
    this.announcements.note(from, versions, this.world.clock.monotonicMs())
    this.comparison.note(from, hashes)
    if (this.installing || this.differs?.decided) return
    const { member } = this.options
    const found = this.comparison.difference(this.mvcc.recentChainHashes(), member, this.state.configuration.voters)
    if (found && !this.differs)
      this.log.error({ ...found }, 'this member and others applied the same entries and have different states')
    this.differs = found
    if (found?.decided) this.hooks.differs(found)
  }

  /** Notes durably that all of this must be set aside; then only a restart may follow. */
  async giveUpState(text: string): Promise<void> {
    this.givenUp = true
    await this.world.disk.remove(DAMAGED_DIR)
    this.identity = {
      ...this.identity,
      incarnation: Buffer.from(this.world.random.bytes(8)).toString('hex'),
      origin: 'existing',
      mayVote: false,
      repairing: { what: 'all', text, setAside: false },
    }
    await this.writeIdentity()
  }

  private heedRemoval({ from, index }: RemovedNotice): void {
    const { configuration, configurationIndex } = this.state
    if (isNamed(configuration, from) && Number.isSafeInteger(index) && index > configurationIndex) this.removed()
  }

  /**
   * Named by no configuration and heard from by no leader for a while: a member that still catches up may see in the log
   * that it was removed once, before it came back.
   */
  private lookForRemoval(nowMs: number): void {
    const { configuration, changePending, leader } = this.state
    const out = configuration.voters.length > 0 && !changePending && !isNamed(configuration, this.options.member)
    if (!out || leader !== undefined || !this.identity.named) this.unnamedSinceMs = undefined
    else {
      this.unnamedSinceMs ??= nowMs
      if (nowMs - this.unnamedSinceMs > 3 * (this.options.electionTimeoutMs ?? ELECTION_TIMEOUT_MS)) this.removed()
    }
  }

  private removed(): void {
    if (this.wasRemoved) return
    this.wasRemoved = true
    const { member } = this.options
    this.hooks.removed(
      notApplied(
        'STOPPED',
        `${member} was removed from the cluster: it serves nothing any more. Its directory may be deleted; to have it back, ` +
          'add it as a member and start it with an empty directory, to join',
      ),
    )
  }

  /** A member that comes back empty and says that it is new would vote against what it acknowledged before. */
  private knows({ from, incarnation, origin }: RaftFrame): boolean {
    const known = this.identity.peers[from]
    if (known === incarnation) return true
    const former = this.identity.formerPeers[from] ?? []
    if (former.includes(incarnation)) {
      // It was on its way when that life ended, or its old directory was put back: what it acknowledged is lost since.
      this.log.warn({ from, incarnation, known }, 'refused a raft frame of a former life')
      return false
    }
    if (known !== undefined && origin === 'new') {
      if (!this.strangers.has(from))
        this.log.error(
          { from, known, incarnation },
          'member lost its directory and was started as new: its messages are refused; empty its directory and start it as existing',
        )
      this.strangers.add(from)
      return false
    }
    this.strangers.delete(from)
    const { peers, formerPeers } = this.identity
    this.identity = {
      ...this.identity,
      peers: { ...peers, [from]: incarnation },
      ...(known === undefined
        ? {}
        : { formerPeers: { ...formerPeers, [from]: [...former, known].slice(-FORMER_LIVES_MAX) } }),
    }
    // Should a crash come before it is written, it is learnt once more.
    this.saveIdentity()
    return true
  }

  private saveIdentity(): void {
    this.writeIdentity().catch((error: unknown) => this.hooks.failed(error))
  }

  private writeIdentity(): Promise<void> {
    const written = this.savingIdentity.then(() => saveIdentity(this.world.disk, this.identity))
    this.savingIdentity = written.catch(() => {}) // Told to who asked; the next one writes all anew.
    return written
  }

  /** That a log was begun is noted before the first vote or acknowledgement that rests on it leaves. */
  private async noteLogBegun(appended: Promise<void>): Promise<void> {
    await appended
    this.identity = { ...this.identity, logBegun: true }
    await this.writeIdentity()
  }

  /** The bus says that nobody listens for this member: if it leads, an election need not wait for a time-out. */
  private missed(member: string): void {
    if (this.closed) return
    this.raft.peerUnreachable(member)
    this.pump()
  }

  tick(nowMs: number): void {
    this.raft.tick(nowMs)
    const { role, leader } = this.state
    const quietMs = PROBE_AFTER_HEARTBEATS * (this.options.heartbeatMs ?? HEARTBEAT_MS)
    if (role === 'follower' && leader !== undefined && nowMs - this.leaderHeardMs > quietMs) this.link.probe(leader)
    for (const [context, { reads, sinceMs }] of this.asked)
      if (nowMs - sinceMs > READ_RETRY_MS) {
        this.asked.delete(context)
        this.reads.push(...reads)
      }
    this.endOldReads(nowMs)
    for (const [to, out] of this.outgoing)
      if (nowMs - out.usedMs > SNAPSHOT_IDLE_MS) {
        out.close()
        this.outgoing.delete(to)
      }
    this.checkpointIfDue(nowMs)
    this.lookForRemoval(nowMs)
    this.pump()
  }

  private endOldReads(nowMs: number): void {
    const young = (reads: Read[], code: 'NO_LEADER' | 'OVERLOADED', text: string) =>
      reads.filter((read) => {
        if (nowMs - read.sinceMs < READ_WAIT_MS_MAX) return true
        this.counters.readsFailed = (this.counters.readsFailed ?? 0) + 1
        read.reject(notApplied(code, `${text} in ${READ_WAIT_MS_MAX} ms`))
        return false
      })
    this.reads = young(this.reads, 'NO_LEADER', 'no leader has confirmed the read')
    this.confirmed = this.confirmed
      .map(({ index, reads }) => ({ index, reads: young(reads, 'OVERLOADED', `${index} was not applied here`) }))
      .filter(({ reads }) => reads.length > 0)
  }

  /** Resolves when the command is applied here. @throws StoreError NO_LEADER, OVERLOADED (not-applied), LEADER_CHANGED. */
  propose(command: Command): Promise<CommandResult> {
    return new Promise((resolve, reject) => this.submit(command, resolve, reject))
  }

  /** The same without a promise: one of the two is called, perhaps at once, or while the command's batch is applied. */
  submit(command: Command, resolve: (result: CommandResult) => void, reject: (error: StoreError) => void): void {
    if (this.state.role !== 'leader') return reject(notApplied('NO_LEADER', `${this.options.member} does not lead`))
    const max = this.options.proposalsMax ?? 5000
    if (this.proposals.length + this.pending.size >= max)
      return reject(notApplied('OVERLOADED', `${max} proposals wait for their commit`))
    this.counters.proposals = (this.counters.proposals ?? 0) + 1
    const session = command.type === 'txn' ? command.session : undefined
    const proposal: Proposal = {
      kind: command.type === 'clusterVersion' ? 'clusterVersion' : 'command',
      clientId: session?.clientId ?? '',
      clientSeq: session?.seq ?? 0,
      // The session stands in the entry itself.
      payload: encodeCommand(command.type === 'txn' ? { type: 'txn', txn: command.txn } : command),
    }
    this.proposals.push({ proposal, command, resolve, reject })
    this.pumpSoon()
  }

  /**
   * Changes who takes part, as leader; resolves when that is committed and applied here.
   * @throws StoreError MEMBER_EXISTS, MEMBER_NOT_FOUND, LEARNER_NOT_READY, UNHEALTHY, MEMBERS_BUSY, NO_LEADER (not-applied);
   *   LEADER_CHANGED (maybe-applied).
   */
  changeMembers(change: MemberChange): Promise<CommandResult> {
    const refusal = memberChangeRefusal(this.raft.status(), change)
    if (refusal) return Promise.reject(refusal)
    const result = this.raft.changeMembers([change])
    if (!result.accepted) {
      const codes = { 'not-leader': 'NO_LEADER', transferring: 'NO_LEADER', invalid: 'BAD_REQUEST' } as const
      const code = result.reason in codes ? codes[result.reason as keyof typeof codes] : 'MEMBERS_BUSY'
      return Promise.reject(notApplied(code, result.text))
    }
    this.log.info({ change, configuration: result.configuration }, 'members change')
    return new Promise((resolve, reject) => {
      this.pending.set(result.index, { term: result.term, resolve, reject })
      this.pumpSoon()
    })
  }

  /** Resolves when everything that was acknowledged before the call is applied here (thesis §6.4). */
  barrier(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.readsWaiting >= READS_MAX) return reject(notApplied('OVERLOADED', `${READS_MAX} reads wait`))
      this.readsWaiting++
      this.reads.push({
        sinceMs: this.world.clock.monotonicMs(),
        resolve: () => {
          this.readsWaiting--
          resolve()
        },
        reject: (error) => {
          this.readsWaiting--
          reject(error)
        },
      })
      this.pumpSoon()
    })
  }

  /** Resolves when another member (or `to`, also if it leads already) leads. @throws StoreError if that took too long, or there is nobody to take it. */
  transferLeadership(to?: string): Promise<void> {
    const status = this.raft.status()
    if (status.role !== 'leader') return Promise.reject(notApplied('NO_LEADER', `${this.options.member} does not lead`))
    const best = Object.entries(status.progress)
      .filter(([id]) => status.heard.includes(id) && status.configuration.voters.includes(id))
      .sort((a, b) => b[1].match - a[1].match || (a[0] < b[0] ? -1 : 1))[0]?.[0]
    // It may have been asked of the leader before, which then handed over more slowly than it could wait for.
    if (to === this.options.member) return Promise.resolve()
    const target = to ?? best
    if (target === undefined) return Promise.reject(notApplied('NO_LEADER', 'nobody to hand leadership to'))
    if (!this.raft.transferLeadership(target))
      return Promise.reject(notApplied('NO_LEADER', `${target} cannot take leadership over`))
    this.pumpSoon()
    const { clock } = this.world
    const deadline = clock.monotonicMs() + (this.options.electionTimeoutMs ?? ELECTION_TIMEOUT_MS)
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.raft.status().role !== 'leader') resolve()
        else if (clock.monotonicMs() > deadline || this.closed)
          reject(notApplied('NO_LEADER', `${target} did not take leadership over in time`))
        else clock.setTimer(5, look)
      }
      look()
    })
  }

  async close(): Promise<void> {
    this.closed = true
    this.link.close()
    this.failAll(maybeApplied('STOPPED', `${this.options.member} stopped; it may have happened`))
    for (const read of this.takeAllReads()) read.reject(notApplied('STOPPED', `${this.options.member} stopped`))
    for (const out of this.outgoing.values()) out.close()
    // Nothing of this life may write into the next one; what cannot be closed any more is only told.
    for (const ending of [
      () => this.raftLog.close(),
      () => this.savingIdentity,
      () => this.incoming?.tail,
      () => this.incoming?.receiver?.abort(),
      () => this.mvcc.engine.close(),
    ]) {
      try {
        await ending()
      } catch (error) {
        this.log.warn({ err: error }, 'not closed cleanly')
      }
    }
  }

  // -------------------------------------------------------------------------------------------------------------- pump

  /** Once per turn: all proposals of the turn become one batch, and one sync. */
  private pumpSoon(): void {
    if (this.pumping || this.closed) return
    this.pumping = true
    this.world.clock.defer(() => this.hooks.later(() => this.pump()))
  }

  private pump(): void {
    this.pumping = false
    if (this.closed) return
    this.handOverProposals()
    this.handOverReads()
    for (let ready = this.raft.takeReady(); ready; ready = this.raft.takeReady()) this.carryOut(ready)
    this.applySoon()
    this.lookAtLeadership()
    this.tellCommitSoon()
  }

  /**
   * As a message of its own: what this one has said, and ordered from the disk, leaves at its end. Applying a batch takes
   * longer than all else here, and the others wait for the former only.
   */
  private applySoon(): void {
    if (this.applyQueue.length === 0) return this.releaseReads()
    this.hooks.later(() => {
      if (!this.closed) this.applySome()
    })
  }

  private tellCommitSoon(): void {
    if (this.telling || !this.raft.commitUntold) return
    this.telling = true
    this.world.clock.setTimer(COMMIT_TELL_MS, () =>
      this.hooks.later(() => {
        this.telling = false
        if (this.closed || !this.raft.commitUntold) return
        this.raft.tellCommit()
        this.pump()
      }),
    )
  }

  private handOverProposals(): void {
    if (this.proposals.length === 0) return
    const batch = this.proposals.splice(0)
    const result = this.raft.propose(batch.map(({ proposal }) => proposal))
    if (result.accepted) {
      batch.forEach(({ command, resolve, reject }, at) =>
        this.pending.set(result.firstIndex + at, { term: result.term, command, resolve, reject }),
      )
      return
    }
    const error =
      result.reason === 'overloaded'
        ? notApplied('OVERLOADED', 'too much is proposed and not committed')
        : notApplied(
            'NO_LEADER',
            result.reason === 'transferring'
              ? 'leadership is being handed over'
              : `${this.options.member} does not lead`,
          )
    for (const { reject } of batch) reject(error)
  }

  private handOverReads(): void {
    if (this.reads.length === 0 || this.state.leader === undefined) return
    const context = this.nextContext++
    this.asked.set(context, { reads: this.reads, sinceMs: this.world.clock.monotonicMs() })
    this.reads = []
    if (!this.raft.readIndex(context)) {
      const refused = this.asked.get(context)?.reads ?? []
      this.asked.delete(context)
      for (const read of refused) read.reject(notApplied('OVERLOADED', 'too many reads wait for their confirmation'))
    }
  }

  private carryOut(ready: Ready): void {
    this.sendAll(ready.sendNow)
    for (const { context, index, refused } of ready.reads) {
      const entry = this.asked.get(context)
      if (!entry) continue
      this.asked.delete(context)
      // Refused ones are asked again with the next tick.
      if (refused) this.reads.push(...entry.reads)
      else this.confirmed.push({ index, reads: entry.reads })
    }
    // Committed and durable already: this needs not wait for what this Ready persists.
    for (const entry of ready.apply) this.applyQueue.push(entry)
    if (ready.persist) {
      // Handed over in raft's order; the log shares one sync among all that wait.
      let durable: Promise<void> = this.raftLog.append(ready.persist)
      if (!this.identity.logBegun && !this.notingLog) {
        this.notingLog = true
        durable = this.noteLogBegun(durable)
      }
      this.persisting = Promise.all([this.persisting, durable]).then(() => undefined)
    }
    const done = this.persisting
    const number = ready.number
    done.then(
      () =>
        this.hooks.later(() => {
          if (this.closed) return
          this.raft.persisted(number)
          this.sendAll(ready.sendAfterPersist)
          this.pump()
        }),
      (error: unknown) => this.hooks.failed(error),
    )
    for (const wanted of ready.snapshotWanted) this.sendSnapshotChunk(wanted)
    for (const chunk of ready.snapshotChunks) this.takeSnapshotChunk(chunk)
  }

  private sendAll(messages: readonly RaftMessage[]): void {
    if (messages.length === 0) return
    const byTarget = new Map<string, RaftMessage[]>()
    for (const message of messages) {
      const list = byTarget.get(message.to)
      if (list) list.push(message)
      else byTarget.set(message.to, [message])
    }
    for (const [to, list] of byTarget) this.link.send(to, list)
  }

  // ------------------------------------------------------------------------------------------------------------- apply

  private applySome(): void {
    if (this.installing || this.isOutgrown) return
    while (this.applyQueue.length > 0 && !this.isOutgrown) {
      const { engine } = this.mvcc
      if (engine.unsavedBytes > UNSAVED_BYTES_MAX) {
        this.startCheckpoint()
        return
      }
      this.apply(this.applyQueue.splice(0, this.sliceLength()))
      if (this.applyQueue.length > 0) {
        this.pumpSoon()
        break
      }
    }
    this.releaseReads()
  }

  /** A new version is the last of its slice: what follows is applied by it. */
  private sliceLength(): number {
    const most = Math.min(APPLY_SLICE, this.applyQueue.length)
    for (let at = 0; at < most; at++) if (this.applyQueue[at]?.kind === 'clusterVersion') return at + 1
    return most
  }

  private apply(batch: readonly LogEntry[]): void {
    const refusal = this.refusalOf(batch[batch.length - 1] as LogEntry)
    if (refusal) {
      if (batch.length > 1) this.apply(batch.slice(0, -1))
      return this.outgrown(refusal)
    }
    // After a restart raft may give again what the state holds already.
    const fresh = batch.filter(({ index }) => index > this.mvcc.appliedIndex)
    const last = batch[batch.length - 1] as LogEntry
    this.logSizes.push({ index: last.index, bytes: batch.reduce((sum, { payload }) => sum + payload.length, 0) })
    if (fresh.length > 0) {
      const { clusterVersion } = this.mvcc
      const entries = fresh.map(
        (entry): Entry => ({ index: entry.index, command: this.commandAt(entry, clusterVersion) }),
      )
      const extra: [string, Uint8Array][] = [['raft', encode([last.index, last.term])]]
      for (const { kind, payload } of fresh) if (kind === 'config') extra.push(['members', payload])
      const results = this.mvcc.applyBatch(entries, extra)
      fresh.forEach((entry, at) => {
        const result = results[at] as CommandResult
        this.hooks.applied((entries[at] as Entry).command, result)
        const waiting = this.pending.get(entry.index)
        if (!waiting) return
        this.pending.delete(entry.index)
        if (waiting.term === entry.term) waiting.resolve(result)
        else waiting.reject(notApplied('LEADER_CHANGED', 'another leader put something else in its place'))
      })
    }
    this.raft.appliedTo(last.index)
  }

  private commandAt(entry: LogEntry, clusterVersion: number): Command {
    const waiting = this.pending.get(entry.index)
    const command = (waiting?.term === entry.term ? waiting.command : undefined) ?? commandOf(entry)
    return commandUnder(clusterVersion, command)
  }

  /** An entry that makes the cluster what this program does not know. */
  private refusalOf(entry: LogEntry): StoreError | undefined {
    if (entry.kind !== 'clusterVersion' || entry.index <= this.mvcc.appliedIndex) return undefined
    return versionRefusal(versionOf(entry), this.versions)
  }

  private releaseReads(): void {
    const { appliedIndex } = this.mvcc
    for (let at = 0; at < this.confirmed.length; ) {
      const { index, reads } = this.confirmed[at] as { index: number; reads: Read[] }
      if (index <= appliedIndex) {
        this.confirmed.splice(at, 1)
        for (const read of reads) read.resolve()
      } else at++
    }
  }

  private lookAtLeadership(): void {
    this.state = this.raft.summary()
    const { role, leader, term, mayVote } = this.state
    // The raft of a life that was given up knows nothing of that.
    if (mayVote && !this.identity.mayVote && !this.givenUp) {
      this.identity = { ...this.identity, mayVote: true, repairing: undefined }
      this.counters.repairs = (this.counters.repairs ?? 0) + 1
      this.log.info({}, 'repaired: votes again')
      // Only after raft's own note of it is durable. Should a crash come before it is written, the repair is done once more.
      this.persisting.then(
        () => this.saveIdentity(),
        () => {}, // The log's failure restarts the member.
      )
    }
    if (!this.identity.named && isNamed(this.state.configuration, this.options.member)) {
      this.identity = { ...this.identity, named: true }
      this.saveIdentity()
    }
    if (role === this.known.role && leader === this.known.leader && term === this.known.term) return
    if (leader !== undefined && leader !== this.lastLeader) {
      if (this.lastLeader !== undefined) this.counters.leaderChanges = (this.counters.leaderChanges ?? 0) + 1
      this.lastLeader = leader
    }
    const ledBefore = this.known.role === 'leader' && (role !== 'leader' || term !== this.known.term)
    this.known = { role, leader, term }
    if (ledBefore)
      this.failAll(
        maybeApplied('LEADER_CHANGED', 'leadership was lost before it was committed; it may have happened'),
        // What is committed is answered when it is applied: it may only wait for the own disk.
        this.state.commit,
      )
    this.hooks.leadershipChanged()
    this.pumpSoon()
  }

  private failAll(error: StoreError, above = 0): void {
    for (const [index, { reject }] of this.pending) {
      if (index <= above) continue
      this.pending.delete(index)
      this.counters.proposalsFailed = (this.counters.proposalsFailed ?? 0) + 1
      reject(error)
    }
    for (const { reject } of this.proposals.splice(0)) reject(notApplied('NO_LEADER', error.message))
  }

  private takeAllReads(): Read[] {
    const all = [
      ...this.reads,
      ...[...this.asked.values()].flatMap((entry) => entry.reads),
      ...this.confirmed.flatMap((entry) => entry.reads),
    ]
    this.reads = []
    this.asked.clear()
    this.confirmed = []
    return all
  }

  // ------------------------------------------------------------------------------------------------ checkpoint and log

  private checkpointIfDue(nowMs: number): void {
    const { appliedIndex, durableIndex, unsavedBytes } = this.mvcc.engine
    // Sweeping frees without an entry of its own: a full store that takes no other writes must get its room all the same.
    if (appliedIndex === durableIndex && unsavedBytes === 0) return
    const dueMs = this.options.checkpointPeriodMs ?? 5000
    const dueEntries = this.options.checkpointEntries ?? 10_000
    if (
      nowMs - this.checkpointedMs >= dueMs ||
      appliedIndex - durableIndex >= dueEntries ||
      unsavedBytes > UNSAVED_BYTES_MAX / 4
    )
      this.startCheckpoint()
  }

  private startCheckpoint(): void {
    if (this.checkpointing || this.installing || this.closed) return
    this.checkpoint().then(
      () => this.hooks.later(() => this.pump()),
      // What was durable stays so, and the log grows: it is tried again when it is next due.
      (error: unknown) => {
        if (this.closed) return
        this.lastError = `no checkpoint: ${String(error)}`
        this.log.error({ err: error }, 'checkpoint failed')
      },
    )
  }

  /** Makes the state durable and cuts the log below it. */
  async checkpoint(): Promise<void> {
    this.checkpointing = true
    this.checkpointedMs = this.world.clock.monotonicMs()
    try {
      const durable = await this.mvcc.engine.checkpoint()
      this.counters.checkpoints = (this.counters.checkpoints ?? 0) + 1
      this.hooks.checkpointTook(this.world.clock.monotonicMs() - this.checkpointedMs)
      this.lastError = undefined
      if (this.closed) return
      const keep = this.options.logKeepEntries ?? 5000
      const cut = Math.min(durable, Math.max(durable - keep, this.indexWithin(LOG_BYTES_MAX)))
      // Cutting little by little would only cost file operations.
      const large = this.logSizes.reduce((sum, { bytes }) => sum + bytes, 0) > LOG_BYTES_MAX
      if (cut >= this.firstIndex + Math.max(1, Math.floor(keep / 2)) || (large && cut >= this.firstIndex))
        await this.cutLog(cut)
    } finally {
      this.checkpointing = false
    }
  }

  /** The least index whose removal, with all below it, leaves at most so many bytes in the log. */
  private indexWithin(bytesMax: number): number {
    let bytes = 0
    for (let at = this.logSizes.length - 1; at >= 0; at--) {
      const size = this.logSizes[at] as { index: number; bytes: number }
      bytes += size.bytes
      if (bytes > bytesMax) return size.index
    }
    return 0
  }

  private async cutLog(index: number): Promise<void> {
    const meta = this.raft.metaAt(index)
    if (!meta) return
    await this.raftLog.compact(meta)
    this.raft.compact(index)
    const kept = this.logSizes.filter((size) => size.index > index)
    this.logSizes.splice(0, this.logSizes.length, ...kept)
    this.counters.logCuts = (this.counters.logCuts ?? 0) + 1
  }

  // --------------------------------------------------------------------------------------------------------- snapshots

  private sendSnapshotChunk({ to, index, offset }: Ready['snapshotWanted'][number]): void {
    const nowMs = this.world.clock.monotonicMs()
    let out = this.outgoing.get(to)
    if (out && (index === 0 || out.meta.index !== index)) {
      out.close()
      this.outgoing.delete(to)
      out = undefined
    }
    if (!out) {
      const meta = this.raft.metaAt(this.mvcc.appliedIndex)
      // One that was begun before a restart, or is too old: begin anew.
      if (index !== 0 || !meta || this.installing) return this.raft.snapshotFailed(to)
      out = new OutgoingSnapshot(meta, this.mvcc.engine.snapshot(), nowMs, this.options.snapshotChunkBytes)
      this.outgoing.set(to, out)
      this.log.info({ to, index: meta.index }, 'sends a snapshot')
    }
    out.usedMs = nowMs
    const chunk = out.chunkAt(offset)
    if (chunk) this.raft.snapshotChunk(to, { meta: out.meta, ...chunk })
    else this.raft.snapshotFailed(to)
  }

  /** Chunks are written one after the other; raft asks for the next when it is told that this one is there. */
  private takeSnapshotChunk({ meta, offset, data, done }: Ready['snapshotChunks'][number]): void {
    if (offset === 0) {
      const former = this.incoming
      const begun = (former?.tail ?? Promise.resolve()).then(() => former?.receiver?.abort())
      this.incoming = { meta, receiver: undefined, tail: begun.then(() => undefined) }
    }
    const { incoming } = this
    if (!incoming || incoming.meta.index !== meta.index) return this.raft.snapshotRefused()
    const work = async () => {
      incoming.receiver ??= new SnapshotReceiver(this.mvcc.engine)
      await incoming.receiver.write(data)
      if (!done) return undefined
      if (meta.index <= this.mvcc.appliedIndex) throw new SnapshotDamaged('the log has overtaken it')
      // From here on no entry may touch the old state.
      this.installing = true
      await incoming.receiver.finish()
      return incoming.receiver
    }
    incoming.tail = incoming.tail.then(work).then(
      (whole) =>
        this.hooks.later(() => {
          if (whole) this.installed(meta, whole)
          else this.raft.snapshotReceived(meta, offset + data.length)
          this.pump()
        }),
      async (error: unknown) => {
        // It is refused already; what it took on the disk is freed before the next one begins.
        await incoming.receiver?.abort().catch((err: unknown) => this.log.warn({ err }, 'not removed'))
        this.hooks.later(() => {
          this.log.warn({ err: error }, 'snapshot refused')
          this.installing = false
          this.incoming = undefined
          this.raft.snapshotRefused()
          // Out of space or a broken disk: only a restart tells what holds.
          if (!(error instanceof SnapshotDamaged)) this.hooks.failed(error)
        })
      },
    )
  }

  private installed(meta: SnapshotMeta, receiver: SnapshotReceiver): void {
    // All of it in this turn: nobody sees the new state before raft and the watches know of it.
    receiver.show()
    this.incoming = undefined
    this.mvcc.reload()
    // What the snapshot holds is not applied again; what is newer is still to come.
    const newer = this.applyQueue.filter(({ index }) => index > meta.index)
    this.applyQueue.splice(0, this.applyQueue.length, ...newer)
    for (const [index, { reject }] of this.pending) {
      if (index > meta.index) continue
      this.pending.delete(index)
      reject(
        maybeApplied(
          'LEADER_CHANGED',
          'a snapshot of another leader came before it was applied here; it may have happened',
        ),
      )
    }
    this.raft.snapshotInstalled(meta)
    this.installing = false
    this.counters.snapshotsInstalled = (this.counters.snapshotsInstalled ?? 0) + 1
    this.log.info({ index: meta.index, revision: this.mvcc.revision }, 'snapshot installed')
    this.hooks.installed()
    const refusal = versionRefusal(this.mvcc.clusterVersion, this.versions)
    if (refusal) this.outgrown(refusal)
  }
}

const versionOf = (entry: LogEntry): number =>
  (commandOf(entry) as Extract<Command, { type: 'clusterVersion' }>).version

/** Told at the start rather than when the entry is applied again: whoever starts an older program is to hear of it at once. */
function committedVersionRefusal(
  { entries, hardState }: { entries: readonly LogEntry[]; hardState: { commit: number } },
  appliedIndex: number,
  versions: VersionRange,
): StoreError | undefined {
  for (const entry of entries) {
    const isToCome = entry.kind === 'clusterVersion' && entry.index > appliedIndex && entry.index <= hardState.commit
    const refusal = isToCome ? versionRefusal(versionOf(entry), versions) : undefined
    if (refusal) return refusal
  }
  return undefined
}

/**
 * The log and what it recovered, brought in line with the state: a crash may have come between the installation of a
 * snapshot and the log's word of it. @throws StoreError, LogDamaged, DiskError
 */
async function openLog(
  world: StoreWorld,
  options: StoreOptions,
  mvcc: Mvcc,
  configuration: Configuration,
  identity: MemberIdentity,
  onSync: (durationMs: number) => void,
) {
  const mustExist = identity.logBegun
  if (mustExist && (await world.disk.list(LOG_DIR)).length === 0)
    throw new StoreError(
      'BAD_REQUEST',
      'not-applied',
      `the log of ${identity.member} (${LOG_DIR}/) is gone, and with it votes that it gave and writes that it acknowledged: ` +
        'restore it, or empty the whole directory and start as an existing member, to be repaired by the others',
    )
  const { log, recovered } = await RaftLog.open(world.disk, {
    dir: LOG_DIR,
    mustExist,
    nowMs: () => world.clock.monotonicMs(),
    onSync,
    ...(options.logSegmentBytes === undefined ? {} : { segmentBytes: options.logSegmentBytes }),
    ...raftBugs(options),
  })
  let snapshot: SnapshotMeta | undefined
  try {
    snapshot = snapshotBeyondLog(mvcc, recovered, recovered.snapshot ?? { index: 0, term: 0, configuration })
  } catch (error) {
    await log.close()
    throw error
  }
  if (!snapshot) return { log, recovered }
  const { index, term } = snapshot
  const hardState = { ...recovered.hardState, term: Math.max(recovered.hardState.term, term), commit: index }
  if (hardState.term > recovered.hardState.term) hardState.votedFor = ''
  await log.append({ hardState, entries: [], snapshot })
  return { log, recovered: { ...recovered, hardState, snapshot, entries: [] } }
}

export function describeDifference({ index, own, theirs, members, decided }: Difference): string {
  const who = decided ? 'a majority' : 'nobody can say who is wrong'
  return `CORRUPT: after entry ${index} the state has hash ${own} here and ${theirs} on ${members.join(', ')} (${who})`
}

function isNamed({ voters, learners, outgoing = [] }: Configuration, member: string): boolean {
  return voters.includes(member) || learners.includes(member) || outgoing.includes(member)
}

/** What raft would do and an operator would regret. Undefined: nothing speaks against it. */
function memberChangeRefusal(status: RaftStatus, { type, member }: MemberChange): StoreError | undefined {
  const { configuration, heard, progress } = status
  const { voters, learners } = configuration
  if (type === 'addLearner' || type === 'addVoter') {
    if (isNamed(configuration, member)) return notApplied('MEMBER_EXISTS', `${member} is a member already`)
  } else if (!isNamed(configuration, member)) return notApplied('MEMBER_NOT_FOUND', `there is no member ${member}`)
  if (type === 'promote') {
    const { heard: isHeard = false, caughtUp = false } = progress[member] ?? {}
    if (!learners.includes(member)) return notApplied('BAD_REQUEST', `${member} is no learner`)
    if (!isHeard) return notApplied('LEARNER_NOT_READY', `${member} is not heard from: is it running?`)
    if (!caughtUp) return notApplied('LEARNER_NOT_READY', `${member} has not caught up yet`)
  }
  const after = new Set(voters)
  if (type === 'remove') after.delete(member)
  if (type === 'addVoter' || type === 'promote') after.add(member)
  // The one that is added is not known to be well; one that is promoted is.
  const well = [...after].filter((name) => heard.includes(name) || (type === 'promote' && name === member)).length
  const majority = Math.floor(after.size / 2) + 1
  if (after.size > 0 && type !== 'addLearner' && well < majority)
    return notApplied('UNHEALTHY', `${well} of then ${after.size} voters are heard from; ${majority} are needed`)
  return undefined
}

/** Of the bugs to plant those of raft and its log. */
function raftBugs({ bugs = [] }: StoreOptions): { plantedBugs?: RaftPlantedBug[]; allowPlantedBugs?: boolean } {
  const ofRaft = bugs.filter((bug): bug is RaftPlantedBug => (PLANTED_BUGS.raft as readonly string[]).includes(bug))
  return ofRaft.length > 0 ? { plantedBugs: ofRaft, allowPlantedBugs: true } : {}
}

export function commandOf(entry: LogEntry): Command {
  if (entry.kind === 'noop' || entry.kind === 'config') return { type: 'noop' }
  const command = decodeCommand(entry.payload)
  if (command.type !== 'txn' || entry.clientId === '') return command
  return { ...command, session: { clientId: entry.clientId, seq: entry.clientSeq } }
}
