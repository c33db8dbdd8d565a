import {
  type ActorRef,
  type Behaviour,
  CallError,
  Caller,
  encode,
  every,
  type IncomingCall,
  type Log,
  type OutStream,
  serve,
  type Server,
} from '@capstan/actor'
import { checkTxn, type Command, type CommandResult, MvccError, type RangeQuery } from '@capstan/mvcc'
import {
  type AlarmReply,
  type Beat,
  BEAT_PERIOD_MS,
  ELECTION_TIMEOUT_MS,
  type HashReply,
  HEARTBEAT_MS,
  type MemberInfo,
  type MembersReply,
  type StoreHeader,
  type StoreStatusReply,
  type StoreVerb,
  Subjects,
} from '@capstan/protocol'
import { LogDamaged, type MemberChange } from 'raft-ts'
import { type BackupHeader, sendBackup } from './backup.js'
import { Lessor } from './lessor.js'
import { type StoreOptions, type StoreWorld } from './options.js'
import type { RaftFrame } from './raft-link.js'
import { StoreMetrics } from './metrics.js'
import { StateUnusable } from './repair.js'
import { describeDifference, Replica } from './replica.js'
import {
  alarmOf,
  bad,
  bytesOf,
  LEADER_VERBS,
  objectBody,
  mayGrow,
  memberName,
  optionalWholeNumber,
  rangeOf,
  txnOf,
  watchOf,
  wholeNumber,
} from './requests.js'
import type { Difference } from './state-comparison.js'
import { maybeApplied, notApplied, StoreError } from './store-error.js'
import { WatchHub } from './watch-hub.js'

/** Ticks in one heartbeat period: 20 ms between them by default. */
const TICKS_PER_HEARTBEAT = 2.5
/** How long a request may wait for a leader to be found. */
const PARKED_MS_MAX = 5000
const PARKED_MAX = 5000
const PARKED_RETRY_MS = 100
/** A request is refused so long before its deadline, so that the asker still hears that it did not happen. */
const DEADLINE_MARGIN_MS = 50
const REPLY_BYTES_MAX = 32 * 1024 * 1024
const LEASES_ENDED_AT_ONCE = 256
const LEASE_CHECKPOINT_PERIOD_MS = 1000
/** Leases in one entry of renewals or checkpoints. */
const LEASES_IN_ENTRY_MAX = 1000
const SWEEP_KEYS = 500
const SWEEP_PAUSE_MS = 5
const COMPACTION_PERIOD_MS = 10_000
const FREE_SPACE_PERIOD_MS = 5000

export type StoreMessage =
  | { type: 'frame'; frame: RaftFrame }
  | { type: 'calls'; calls: Asked[] }
  | { type: 'tick' }
  | { type: 'run'; run(): void }

interface Asked {
  call: IncomingCall
  resolve(value: unknown): void
  reject(error: Error): void
}

interface Parked extends Asked {
  sinceMs: number
  retryMs: number
}

/** One member: takes requests, answers from its replica or hands them to the leader. Restarts from its directory. */
export class StoreMember implements Behaviour<StoreMessage> {
  private readonly log: Log
  private readonly subjects: Subjects
  private readonly lessor: Lessor
  private readonly metrics = new StoreMetrics()
  private readonly leaseCounters = { leasesGranted: 0, leasesRevoked: 0, leasesRenewed: 0, leasesExpired: 0 }
  private readonly stops: (() => void)[] = []
  private readonly parked = new Set<Parked>()
  /** Requests that came since the actor last took some: one message for all of them. */
  private arriving: Asked[] | undefined
  /** Requests in the mailbox. */
  private callsWaiting = 0
  /** Requests handed to another member, by who it was. */
  private readonly forwarded = new Set<{ leader: string; lost(): void }>()
  private readonly history: { atMs: number; revision: number }[] = []
  private replica!: Replica
  private hub!: WatchHub
  private caller!: Caller
  private server: Server | undefined
  private tickedMs = 0
  private leaseTickMs = 0
  private leaseCheckpointMs = 0
  /** Somebody led at that time, as far as was known here. */
  private ledMs = 0
  private endingLeases = false
  private unasked: { id: number; deadlineMs: number }[] = []
  private readonly renewals: { id: number; answer(): void; reject(error: Error): void }[] = []
  private compactedMs = 0
  private spaceMs = Number.NEGATIVE_INFINITY
  private noSpace = false
  private beatSeq = 0
  private wasLeader = false
  private ended = false
  private stopping = false
  private sweeping = false
  private backups = 0
  private hashing = false
  private secondMs = Number.NEGATIVE_INFINITY
  /** Why this member must not serve what it has. */
  private corrupt: string | undefined

  constructor(
    private readonly world: StoreWorld,
    private readonly options: StoreOptions,
    private readonly self: ActorRef<StoreMessage>,
    private readonly boot: string,
    private readonly report: { serving(member: StoreMember): void; refused(error: Error): void },
  ) {
    this.log = world.log.child({ store: options.member })
    this.subjects = new Subjects(options.cluster)
    this.lessor = new Lessor({ resetOnElection: options.bugs?.includes('lease-reset-on-election') ?? false })
  }

  // -------------------------------------------------------------------------------------------------------- lifecycle

  async started(): Promise<void> {
    try {
      await this.start()
    } catch (error) {
      // Trying again would not help: somebody must look at the directory.
      if (error instanceof StoreError || error instanceof LogDamaged || error instanceof StateUnusable)
        this.report.refused(error)
      throw error
    }
  }

  private async start(): Promise<void> {
    const { world, options, self } = this
    this.replica = await Replica.open(world, options, this.log, {
      frame: (frame) => self.tell({ type: 'frame', frame }),
      later: (run) => this.later(run),
      failed: (error) => this.fail(error),
      leadershipChanged: () => this.leadershipChanged(),
      applied: (command, result) => this.applied(command, result),
      installed: () => {
        this.lessor.load(world.clock.monotonicMs(), this.replica.mvcc.leases())
        this.hub.reset()
      },
      differs: (difference) => {
        this.differs(difference).catch((error: unknown) => this.fail(error))
      },
      syncTook: (ms) => this.metrics.syncTook(ms),
      checkpointTook: (ms) => this.metrics.checkpointTook(ms),
      removed: (error) => {
        this.log.error({ err: error }, 'removed')
        // Whoever asked for it is to have the answer.
        world.clock.setTimer(REMOVED_LINGER_MS, () => this.report.refused(error))
      },
      outgrown: (error) => {
        this.log.error({ err: error }, 'this program is too old for the cluster')
        this.report.refused(error)
      },
    })
    this.lessor.load(world.clock.monotonicMs(), this.replica.mvcc.leases())
    const bugs = options.bugs ?? []
    const watchBugs = {
      loseLast: bugs.includes('watch-last-lost') ? world.random.fork('watch-last-lost') : undefined,
      doubledOnResume: bugs.includes('watch-doubled-on-resume'),
      beforeSynced: bugs.includes('watch-before-synced'),
    }
    this.hub = new WatchHub(this.replica.mvcc, world.clock, watchBugs, options.watchMessageBytes)
    this.caller = new Caller({ clock: world.clock, bus: world.bus, log: this.log }, { name: `store-${options.member}` })
    this.tickedMs = world.clock.monotonicMs()
    this.ledMs = this.tickedMs
    this.server = serve(
      { clock: world.clock, bus: world.bus, log: this.log },
      {
        pattern: this.subjects.storeServed(options.member),
        refuseStale: true,
        streamsMax: STREAMS_MAX,
        handle: (call) => this.take(call),
      },
    )
    this.stops.push(
      every(
        world.clock,
        (options.heartbeatMs ?? HEARTBEAT_MS) / TICKS_PER_HEARTBEAT,
        () => void self.tell({ type: 'tick' }),
      ),
    )
    this.stops.push(every(world.clock, BEAT_PERIOD_MS, () => this.beat()))
    if (this.replica.mvcc.sweepPending) this.sweepSoon()
    this.report.serving(this)
  }

  /** As a message to this life: what is left of it in the mailbox must not touch the next one. */
  private later(run: () => void): void {
    this.self.tell({
      type: 'run',
      run: () => {
        if (!this.ended) run()
      },
    })
  }

  /** The disk or the state: only a restart from what is durable tells what holds. */
  private fail(error: unknown): void {
    this.later(() => {
      throw error
    })
  }

  async stopped(): Promise<void> {
    this.ended = true
    this.stopping = true
    for (const stop of this.stops) stop()
    this.server?.stop()
    this.hub?.end('closing')
    for (const parked of Array.from(this.parked))
      this.unpark(parked, notApplied('STOPPED', `${this.options.member} stops`))
    this.caller?.close()
    await this.replica?.close()
  }

  /** Hands leadership over and checkpoints; then the actor may be stopped. */
  async leave(): Promise<void> {
    this.stopping = true
    if (this.replica.role === 'leader')
      await this.replica
        .transferLeadership()
        .catch((error: unknown) => this.log.warn({ err: error }, 'leadership not handed over'))
    await this.replica.checkpoint().catch((error: unknown) => this.log.warn({ err: error }, 'no checkpoint at the end'))
  }

  receive(message: StoreMessage): void {
    switch (message.type) {
      case 'frame':
        return this.replica.receive(message.frame)
      case 'calls':
        if (this.arriving === message.calls) this.arriving = undefined
        // A life of before may have counted them.
        this.callsWaiting = Math.max(0, this.callsWaiting - message.calls.length)
        for (const asked of message.calls) this.dispatch(asked)
        return
      case 'tick':
        return this.tick()
      case 'run':
        return message.run()
    }
  }

  private tick(): void {
    const now = this.world.clock.monotonicMs()
    const gapMs = now - this.tickedMs
    this.tickedMs = now
    if (this.options.bugs?.includes('paused-leader-revokes')) this.revokeUnasked(now)
    // In a pause of our own nobody could renew a lease.
    if (gapMs > 500) this.lessor.extendAll(gapMs)
    if (this.replica.leader !== undefined) this.ledMs = now
    this.replica.tick(now)
    for (const parked of Array.from(this.parked)) this.retry(parked, now, false)
    if (this.replica.role === 'leader') this.leaderTick(now)
    if (this.replica.mvcc.sweepPending) this.sweepSoon()
    if (now - this.spaceMs >= FREE_SPACE_PERIOD_MS) {
      this.spaceMs = now
      this.world.disk.freeBytes().then(
        (bytes) => this.heedFreeSpace(bytes),
        (error: unknown) => this.log.warn({ err: error }, 'free space unknown'),
      )
    }
    if (now - this.secondMs >= 1000) {
      this.secondMs = now
      this.heedQuota()
      this.replica.tellState(now)
      this.replica.raiseVersion()
    }
  }

  private heedFreeSpace(bytes: number): void {
    const noSpace = bytes < (this.options.freeBytesMin ?? 64 * 1024 * 1024)
    if (noSpace !== this.noSpace)
      this.log.warn({ bytes, noSpace }, noSpace ? 'disk nearly full: writes are refused' : 'disk has room again')
    this.noSpace = noSpace
  }

  /** Why there is no space; undefined: there is. */
  private spaceless(): string | undefined {
    const { member } = this.options
    if (this.noSpace) return `the disk of ${member} is nearly full`
    const alarm = this.replica.mvcc.alarms().find((one) => one.alarm === 'NOSPACE')
    if (!alarm) return undefined
    const why = alarm.byHand
      ? 'raised by hand, to be cleared by hand'
      : 'its disk is nearly full, or its state larger than the quota'
    return `alarm NOSPACE of ${alarm.member}: ${why}`
  }

  /**
   * Raises this member's alarm when the disk is nearly full or the state has reached the quota, and clears it when there is
   * room again: below nine tenths, so that it does not flutter. One that was raised by hand is cleared by hand. (etcd leaves
   * all clearing to the operator, because its file does not shrink until it is defragmented by hand. Here what is deleted and
   * compacted makes room by itself.)
   */
  private heedQuota(): void {
    const { mvcc } = this.replica
    const { member } = this.options
    const quota = this.quotaBytes()
    const raised = mvcc.alarms().find((one) => one.alarm === 'NOSPACE' && one.member === member)
    const full = this.noSpace || mvcc.sizeBytes >= quota
    const roomy = !this.noSpace && mvcc.sizeBytes < 0.9 * quota
    if (raised ? !roomy || raised.byHand : !full) return
    this.log.warn({ bytes: mvcc.sizeBytes, quota, noSpace: this.noSpace }, raised ? 'there is room again' : 'no space')
    this.decide({ type: 'alarm', action: raised ? 'clear' : 'raise', alarm: 'NOSPACE', member })
  }

  /** Has a command of this member's own committed, by whoever leads. Should that fail, it comes up again. */
  private decide(command: Extract<Command, { type: 'alarm' }>): Promise<unknown> {
    const { leader, role } = this.replica
    const { type: _, ...body } = command
    const done =
      role === 'leader'
        ? this.replica.propose(command)
        : leader === undefined
          ? Promise.reject(notApplied('NO_LEADER', 'there is no leader'))
          : this.caller.call(this.subjects.store(leader, this.world.bus.identity, 'alarm'), body, { timeoutMs: 2000 })
    return done.catch((error: unknown) => this.log.info({ err: error, command }, 'not decided'))
  }

  /**
   * This member's state is not that of the others: it serves nothing any more, hands leadership over, has the alarm raised,
   * and starts anew from what the others have.
   */
  private async differs(difference: Difference): Promise<void> {
    this.corrupt = describeDifference(difference)
    this.log.error({ ...difference }, 'the state is not that of a majority: it is given up')
    this.hub.end('closing')
    if (this.replica.role === 'leader')
      await this.replica
        .transferLeadership()
        .catch((error: unknown) => this.log.warn({ err: error }, 'leadership not handed over'))
    await this.decide({ type: 'alarm', action: 'raise', alarm: 'CORRUPT', member: this.options.member })
    await this.replica.giveUpState(this.corrupt)
    this.fail(new Error(this.corrupt))
  }

  private leadershipChanged(): void {
    const { replica } = this
    const leads = replica.role === 'leader'
    if (leads !== this.wasLeader) {
      this.wasLeader = leads
      const now = this.world.clock.monotonicMs()
      this.leaseCheckpointMs = now
      this.compactedMs = now
      this.history.length = 0
      // The former leader was silent for a while before it was missed.
      if (leads) this.lessor.lead(now, now - this.ledMs + 2 * this.electionTimeoutMs())
      else this.lessor.follow()
      this.log.info({ role: replica.role, term: replica.term, leader: replica.leader }, leads ? 'leads' : 'follows')
      this.beat()
    }
    for (const one of Array.from(this.forwarded)) if (one.leader !== replica.leader) one.lost()
    if (replica.leader !== undefined)
      for (const parked of Array.from(this.parked)) this.retry(parked, this.world.clock.monotonicMs(), true)
  }

  private applied(command: Command, result: CommandResult): void {
    if (result.type === 'failed') {
      if (command.type === 'leaseRevoke' && result.error.code === 'LEASE_NOT_FOUND') this.lessor.revoked(command.id)
      return
    }
    const now = this.world.clock.monotonicMs()
    if (command.type === 'leaseGrant') {
      this.leaseCounters.leasesGranted++
      this.lessor.granted(now, command.id, command.ttlSeconds)
    } else if (command.type === 'leaseRevoke') {
      this.leaseCounters[command.expired ? 'leasesExpired' : 'leasesRevoked']++
      this.lessor.revoked(command.id)
    } else if (command.type === 'leaseCheckpoint')
      for (const { id, seconds } of command.remaining) this.lessor.checkpointed(now, id, seconds)
    else if (command.type === 'compact') this.sweepSoon()
  }

  private sweepSoon(): void {
    if (this.sweeping) return
    this.sweeping = true
    this.world.clock.setTimer(SWEEP_PAUSE_MS, () =>
      this.later(() => {
        this.sweeping = false
        if (!this.stopping && !this.replica.installing && this.replica.mvcc.sweep(SWEEP_KEYS)) this.sweepSoon()
      }),
    )
  }

  // ------------------------------------------------------------------------------------------------------ leader's own

  private leaderTick(now: number): void {
    if (now - this.leaseTickMs >= 250) {
      this.leaseTickMs = now
      void this.endLeases(now)
    }
    if (now - this.leaseCheckpointMs >= LEASE_CHECKPOINT_PERIOD_MS) {
      this.leaseCheckpointMs = now
      const remaining = this.lessor.checkpoint(now, LEASES_IN_ENTRY_MAX)
      if (remaining.length > 0) this.background({ type: 'leaseCheckpoint', remaining }, 'leases not checkpointed')
    }
    const periodMs = this.compactionPeriodMs()
    if (periodMs > 0 && now - this.compactedMs >= periodMs) {
      this.compactedMs = now
      const revision = this.compactionTarget(now)
      if (revision > this.replica.mvcc.compactRevision)
        this.background({ type: 'compact', revision }, 'history not compacted')
    }
  }

  /**
   * Revokes leases whose time is over. A leader that was paused, or deposed without knowing, must not: so it makes sure
   * first that it leads, and that all which was acknowledged by then (renewals, by another leader perhaps) is applied here.
   * Should it be deposed after that: no entry that it proposes in its term comes behind one of a later term.
   */
  private async endLeases(nowMs: number): Promise<void> {
    const ended = this.lessor.ended(nowMs, LEASES_ENDED_AT_ONCE)
    if (ended.length === 0 || this.endingLeases) return
    this.endingLeases = true
    try {
      await this.replica.barrier()
    } catch (error) {
      this.log.debug({ err: error }, 'leases are not ended now')
      return
    } finally {
      this.endingLeases = false
    }
    const now = this.world.clock.monotonicMs()
    if (this.replica.role !== 'leader' || this.stopping) return
    for (const id of ended)
      if (this.lessor.ending(now, id))
        this.replica.propose({ type: 'leaseRevoke', id, expired: true }).catch(() => this.lessor.retry(id))
  }

  /**
   * The planted bug `paused-leader-revokes`: what a leader saw coming before it was paused, it has revoked when it wakes,
   * by whoever leads by then. (etcd 3.5 did so: its lessor asked nobody, and proposals of a follower are forwarded.)
   */
  private revokeUnasked(now: number): void {
    const { replica, lessor } = this
    for (const { id, deadlineMs } of this.unasked) {
      if (deadlineMs > now) continue
      const leader = replica.role === 'leader' ? undefined : replica.leader
      const subject = this.subjects.store(leader ?? this.options.member, this.world.bus.identity, 'leaseRevoke')
      this.caller.call(subject, { id }, { timeoutMs: 2000 }).catch(() => undefined)
    }
    this.unasked =
      replica.role === 'leader'
        ? lessor
            .ended(now + 10_000, 1000)
            .map((id) => ({ id, deadlineMs: now + (lessor.remainingSeconds(now, id) ?? 0) * 1000 }))
        : []
  }

  private compactionPeriodMs(): number {
    const { compaction = { keepMs: 5 * 60_000 } } = this.options
    if (compaction === 'off') return 0
    return 'keepMs' in compaction ? Math.max(50, Math.min(COMPACTION_PERIOD_MS, compaction.keepMs / 5)) : 1000
  }

  /** The newest revision that everybody was to be able to read long enough. */
  private compactionTarget(now: number): number {
    const { compaction = { keepMs: 5 * 60_000 } } = this.options
    const { revision } = this.replica.mvcc
    if (compaction === 'off') return 0
    if ('keepRevisions' in compaction) return revision - compaction.keepRevisions
    this.history.push({ atMs: now, revision })
    let target = 0
    while (this.history[0] && this.history[0].atMs <= now - compaction.keepMs)
      target = (this.history.shift() as { revision: number }).revision
    return target
  }

  private background(command: Command, failure: string): void {
    this.replica.propose(command).catch((error: unknown) => this.log.info({ err: error }, failure))
  }

  // ---------------------------------------------------------------------------------------------------------- requests

  private take(call: IncomingCall): unknown {
    const verb = call.verb as StoreVerb
    if (verb === 'status') return this.status()
    if (verb === 'metrics') return this.metrics.text(this.status(), this.quotaBytes()).then((text) => ({ text }))
    return new Promise((resolve, reject) => {
      // Raft's own messages must always find room behind requests.
      if (this.callsWaiting + this.self.waiting > CALLS_WAITING_MAX || !this.queue({ call, resolve, reject }))
        reject(notApplied('OVERLOADED', `${this.callsWaiting} requests and ${this.self.waiting} messages wait`))
    })
  }

  private queue(asked: Asked): boolean {
    if (this.arriving) this.arriving.push(asked)
    else {
      const calls = [asked]
      if (!this.self.tell({ type: 'calls', calls })) return false
      this.arriving = calls
    }
    this.callsWaiting++
    return true
  }

  private dispatch(asked: Asked): void {
    const { call, resolve, reject } = asked
    if (this.corrupt !== undefined) return reject(notApplied('CORRUPT', this.corrupt))
    if (this.stopping) return reject(notApplied('STOPPED', `${this.options.member} stops`))
    if (call.deadlineMs <= this.world.clock.monotonicMs())
      return reject(notApplied('OVERLOADED', 'its time was over before its turn'))
    const verb = call.verb as StoreVerb
    const { role, leader } = this.replica
    if (verb === 'txn' && role === 'leader') this.takeTxn(asked)
    else if (!LEADER_VERBS.includes(verb) || role === 'leader')
      this.answer(call).then(resolve, (error: unknown) => this.failed(asked, error))
    else if (this.fromMember(call)) reject(notApplied('NO_LEADER', `${this.options.member} does not lead`))
    else if (leader === undefined || leader === this.options.member) this.park(asked)
    else this.forward(asked, leader)
  }

  private failed(asked: Asked, error: unknown): void {
    const { call, reject } = asked
    const failure = error instanceof MvccError ? StoreError.fromMvcc(error.toData()) : asError(error)
    const code = failure instanceof StoreError ? failure.code : undefined
    if (this.fromMember(call)) reject(failure)
    // Leadership went away before the proposal was taken: it did not happen, so somebody else may do it.
    else if (code === 'NO_LEADER' && LEADER_VERBS.includes(call.verb as StoreVerb)) this.park(asked)
    else if (code === 'LEADER_CHANGED' && this.repeatable(call)) this.park(begun(asked))
    else reject(failure)
  }

  /** What nearly all requests of a leader are: without a promise at each step, which would cost more than the rest. */
  private takeTxn(asked: Asked): void {
    const fail = (error: unknown) => this.failed(asked, error)
    try {
      const { txn, session } = txnOf(objectBody(asked.call.body ?? {}))
      checkTxn(txn)
      const command: Command = session ? { type: 'txn', txn, session } : { type: 'txn', txn }
      this.checkRoom(command)
      const done = (result: CommandResult) => {
        if (result.type === 'failed') return fail(StoreError.fromMvcc(result.error))
        if (result.type !== 'txn') return fail(new Error(`txn was answered by ${result.type}`))
        const { revision, succeeded, replies } = result
        asked.resolve({ header: this.header(revision), succeeded, replies })
      }
      this.replica.submit(command, done, fail)
    } catch (error) {
      fail(error)
    }
  }

  /** Requests are forwarded once only: one that comes from a member is not sent on. */
  private fromMember(call: IncomingCall): boolean {
    return call.from.startsWith('store~')
  }

  private repeatable(call: IncomingCall): boolean {
    const body = call.body as { session?: unknown } | null
    return (
      call.verb === 'leaseKeepAlive' ||
      call.verb === 'leaseTimeToLive' ||
      (call.verb === 'txn' && Boolean(body?.session))
    )
  }

  private forward(asked: Asked, leader: string): void {
    const { call, resolve, reject } = asked
    const remainingMs = call.deadlineMs - this.world.clock.monotonicMs()
    let settled = false
    const entry = {
      leader,
      lost: () => end(maybeApplied('LEADER_CHANGED', `${leader} no longer leads; it may have happened`)),
    }
    const end = (error: Error) => {
      if (settled) return
      settled = true
      this.forwarded.delete(entry)
      const { code, outcome } = error as StoreError
      // Raft's word that the leader changed does not say what became of this request: only a repeatable one goes on.
      const again =
        outcome === 'not-applied' ? AGAIN.includes(code) : this.repeatable(call) && AGAIN_REPEATABLE.includes(code)
      if (again && !this.stopping) this.park(outcome === 'not-applied' ? asked : begun(asked))
      // Its own caller was closed.
      else if ((code as string) === 'CLOSED' && this.stopping)
        reject((outcome === 'not-applied' ? notApplied : maybeApplied)('STOPPED', `${this.options.member} stops`))
      else reject(error)
    }
    this.forwarded.add(entry)
    const subject = this.subjects.store(leader, this.world.bus.identity, call.verb)
    this.caller
      .call(subject, call.body, { timeoutMs: Math.max(1, remainingMs - DEADLINE_MARGIN_MS / 2) })
      .then((value) => {
        if (settled) return
        settled = true
        this.forwarded.delete(entry)
        resolve(value)
      }, end)
  }

  private park(asked: Asked): void {
    if (this.stopping) return asked.reject(notApplied('STOPPED', `${this.options.member} stops`))
    if (this.parked.size >= PARKED_MAX)
      return asked.reject(notApplied('OVERLOADED', `${PARKED_MAX} requests wait for a leader`))
    const now = this.world.clock.monotonicMs()
    this.parked.add({ ...asked, sinceMs: now, retryMs: now + PARKED_RETRY_MS })
  }

  private retry(parked: Parked, now: number, leaderChanged: boolean): void {
    const { call, sinceMs, retryMs } = parked
    if (now >= call.deadlineMs - DEADLINE_MARGIN_MS || now - sinceMs >= PARKED_MS_MAX)
      this.unpark(parked, notApplied('NO_LEADER', 'no leader was found in time'))
    else if (leaderChanged || (now >= retryMs && this.replica.leader !== undefined)) {
      this.parked.delete(parked)
      this.dispatch(parked)
    }
  }

  private unpark(parked: Parked, error: StoreError): void {
    this.parked.delete(parked)
    parked.reject(error)
  }

  /** To all verbs but txn. */
  private async answer(call: IncomingCall): Promise<unknown> {
    const { replica } = this
    const { mvcc } = replica
    const verb = call.verb as StoreVerb
    const body = objectBody(call.body ?? {})
    switch (verb) {
      case 'range': {
        const { query, serializable } = rangeOf(body)
        if (!serializable) await this.barrier()
        return { header: this.header(), ...this.boundedRange(query) }
      }
      case 'watch':
        return this.openWatch(call, watchOf(body))
      case 'leaseGrant': {
        const ttlSeconds = Math.max(wholeNumber(body, 'ttlSeconds', 1), this.leaseTtlSecondsMin())
        const id = optionalWholeNumber(body, 'id', 0) || this.drawLeaseId()
        await this.propose({ type: 'leaseGrant', id, ttlSeconds })
        return { header: this.header(), id, ttlSeconds }
      }
      case 'leaseRevoke':
        await this.propose({ type: 'leaseRevoke', id: wholeNumber(body, 'id', 1) })
        return { header: this.header() }
      case 'leaseKeepAlive':
        return this.keepAlive(wholeNumber(body, 'id', 1))
      case 'leaseTimeToLive': {
        const id = wholeNumber(body, 'id', 1)
        await this.barrier()
        const lease = mvcc.lease(id)
        const remaining = lease && this.lessor.remainingSeconds(this.world.clock.monotonicMs(), id)
        const keys = body.keys === true ? { keys: mvcc.leaseKeys(id) } : {}
        return {
          header: this.header(),
          id,
          ttlSeconds: remaining ?? -1,
          grantedTtlSeconds: lease?.ttlSeconds ?? 0,
          ...keys,
        }
      }
      case 'leases':
        await this.barrier()
        return { header: this.header(), ids: mvcc.leases().map(({ id }) => id) }
      case 'compact':
        await this.propose({ type: 'compact', revision: wholeNumber(body, 'revision', 1) })
        return { header: this.header() }
      case 'readIndex':
        await this.barrier()
        return { header: this.header(), revision: mvcc.revision }
      case 'alarm':
        return this.alarm(body)
      case 'hash':
        return this.hash(optionalWholeNumber(body, 'revision', 0))
      case 'members':
        if (body.serializable !== true) await this.barrier()
        return { header: this.header(), members: this.members() }
      case 'memberAdd':
        return this.changeMembers(body.learner === false ? 'addVoter' : 'addLearner', memberName(body))
      case 'memberPromote':
        return this.changeMembers('promote', memberName(body))
      case 'memberRemove':
        return this.changeMembers('remove', memberName(body))
      case 'backup':
        if (body.linearizable === true) await this.barrier()
        return this.openBackup(call)
      case 'moveLeader': {
        const { to } = body
        if (to !== undefined && (typeof to !== 'string' || !this.replica.configuration.voters.includes(to)))
          throw bad(`no member ${String(to)}`)
        await replica.transferLeadership(to as string | undefined)
        return { header: this.header() }
      }
      default:
        throw new CallError('UNKNOWN_VERB', 'not-applied', `the store knows no verb ${call.verb}`)
    }
  }

  private async propose(command: Command): Promise<Exclude<CommandResult, { type: 'failed' }>> {
    this.checkRoom(command)
    const result = await this.replica.propose(command)
    if (result.type === 'failed') throw StoreError.fromMvcc(result.error)
    return result
  }

  /** @throws StoreError TOO_LARGE, NO_SPACE */
  private checkRoom(command: Command): void {
    const { replica } = this
    const bytes = bytesOf(command)
    const bytesMax = this.options.requestBytesMax ?? 1536 * 1024
    if (bytes > bytesMax) throw notApplied('TOO_LARGE', `a request of ${bytes} bytes; at most ${bytesMax}`)
    // What frees space must get through.
    if ((this.noSpace || replica.mvcc.alarms().length > 0) && mayGrow(command)) {
      const who = this.spaceless()
      if (who !== undefined) throw notApplied('NO_SPACE', `${who}: only what frees space is taken`)
    }
  }

  private barrier(): Promise<void> {
    if (this.options.bugs?.includes('stale-read')) return Promise.resolve()
    // Who believes to lead answers by itself: that would need a clock which counts pauses.
    if (this.options.bugs?.includes('stale-read-after-pause') && this.replica.role === 'leader')
      return Promise.resolve()
    return this.replica.barrier()
  }

  private boundedRange(query: RangeQuery) {
    const result = this.replica.mvcc.range(query)
    let bytes = 0
    for (const { key, value } of result.kvs) bytes += key.length + value.length + 64
    if (bytes > REPLY_BYTES_MAX)
      throw notApplied('TOO_LARGE', `an answer of ${bytes} bytes, at most ${REPLY_BYTES_MAX}: ask with a limit`)
    return result
  }

  private async openWatch(call: IncomingCall, request: ReturnType<typeof watchOf>): Promise<void> {
    if (!call.wantsStream) throw bad('watch must be asked for as a stream')
    const { mvcc } = this.replica
    let { startRevision } = request
    if (startRevision === 0) {
      await this.barrier()
      startRevision = mvcc.revision + 1
    } else if (startRevision < mvcc.compactRevision) {
      const { compactRevision } = mvcc
      const text = `revision ${startRevision} is compacted; the oldest is ${compactRevision}`
      throw new StoreError('COMPACTED', 'not-applied', text, { details: { compactRevision } })
    }
    if (this.stopping) throw notApplied('STOPPED', `${this.options.member} stops`)
    let position: (() => { revision: number }) | undefined
    const stream: OutStream = call.openStream({ position: () => position?.() ?? null, shared: true })
    position = this.hub.add(stream, { ...request, startRevision }).position
  }

  private async alarm(body: Record<string, unknown>): Promise<AlarmReply> {
    const { action } = body
    if (action === 'list') await this.barrier()
    else {
      if (action !== 'raise' && action !== 'clear') throw bad('action must be list, raise or clear')
      await this.propose({ type: 'alarm', action, ...alarmOf(body) })
    }
    return { header: this.header(), alarms: [...this.replica.mvcc.alarms()] }
  }

  /** In slices, so that requests and heartbeats come in between. */
  private hash(revision: number): Promise<HashReply> {
    const { mvcc } = this.replica
    if (this.hashing) throw notApplied('OVERLOADED', 'a hash is being made already')
    // Refuses a revision that is not there: then no hash is being made.
    const slices = mvcc.hashKv(revision)
    this.hashing = true
    return new Promise<HashReply>((resolve, reject) => {
      const step = () => {
        try {
          const { done, value } = slices.next()
          if (done) resolve({ header: this.header(), ...value })
          else if (this.stopping) reject(notApplied('STOPPED', `${this.options.member} stops`))
          else this.world.clock.defer(step)
        } catch (error) {
          reject(error instanceof MvccError ? StoreError.fromMvcc(error.toData()) : asError(error))
        }
      }
      step()
    }).finally(() => {
      this.hashing = false
      slices.return(undefined as never)
    })
  }

  private members(): MemberInfo[] {
    const { voters, learners } = this.replica.configuration
    const all = [
      ...voters.map((name) => ({ name, learner: false })),
      ...learners.map((name) => ({ name, learner: true })),
    ]
    return all.sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  private async changeMembers(type: MemberChange['type'], member: string): Promise<MembersReply> {
    await this.replica.changeMembers({ type, member })
    if (type === 'remove')
      for (const one of this.replica.mvcc.alarms())
        if (one.member === member) this.background({ type: 'alarm', action: 'clear', ...one }, 'alarm not cleared')
    return { header: this.header(), members: this.members() }
  }

  private openBackup(call: IncomingCall): void {
    if (!call.wantsStream) throw bad('backup must be asked for as a stream')
    if (this.replica.installing) throw notApplied('OVERLOADED', 'the state is being replaced by a snapshot')
    if (this.backups >= BACKUPS_MAX) throw notApplied('OVERLOADED', `${BACKUPS_MAX} backups are under way`)
    const { mvcc } = this.replica
    const stream = call.openStream({ noCreditMs: BACKUP_NO_CREDIT_MS })
    this.backups++
    stream.onEnd(() => this.backups--)
    const header: BackupHeader = {
      format: 1,
      cluster: this.options.cluster,
      clusterId: this.options.clusterId,
      member: this.options.member,
      madeMs: this.world.clock.nowMs(),
      members: this.members().map(({ name }) => name),
      appliedIndex: mvcc.appliedIndex,
      term: this.replica.term,
      revision: mvcc.revision,
      compactRevision: mvcc.compactRevision,
      keys: mvcc.figures().keys,
    }
    sendBackup(this.world.clock, stream, header, mvcc.engine.snapshot())
  }

  /** An entry for all renewals of one turn: only what is in the log is known to every later leader. */
  private keepAlive(id: number): Promise<unknown> {
    if (!this.lessor.renewing(this.world.clock.monotonicMs(), id))
      // It may be that another leader granted it, and this one does not know yet.
      return this.replica.barrier().then(() => {
        // Its end may be decided, and not applied: its keys are readable still. An entry behind that one tells (S5).
        if (this.lessor.renewing(this.world.clock.monotonicMs(), id) || this.replica.mvcc.lease(id))
          return this.renew(id)
        throw notApplied('LEASE_NOT_FOUND', `no lease ${id}`)
      })
    return this.renew(id)
  }

  private renew(id: number): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const answer = () => {
        const lease = this.replica.mvcc.lease(id)
        if (lease) resolve({ header: this.header(), id, ttlSeconds: lease.ttlSeconds })
        else reject(notApplied('LEASE_NOT_FOUND', `no lease ${id}`))
      }
      this.renewals.push({ id, answer, reject })
      if (this.renewals.length === 1) this.world.clock.defer(() => this.proposeRenewals())
    })
  }

  private proposeRenewals(): void {
    const renewals = this.renewals.splice(0)
    for (let at = 0; at < renewals.length; at += LEASES_IN_ENTRY_MAX) {
      const some = renewals.slice(at, at + LEASES_IN_ENTRY_MAX)
      this.leaseCounters.leasesRenewed += some.length
      const remaining = [...new Set(some.map(({ id }) => id))].map((id) => ({ id, seconds: 0 }))
      this.propose({ type: 'leaseCheckpoint', remaining }).then(
        () => {
          for (const { answer } of some) answer()
        },
        (error: Error) => {
          for (const { reject } of some) reject(error)
        },
      )
    }
  }

  private drawLeaseId(): number {
    return 1 + this.world.random.int(2 ** 31) * 2 ** 20 + this.world.random.int(2 ** 20)
  }

  private leaseTtlSecondsMin(): number {
    return this.options.leaseTtlSecondsMin ?? Math.ceil((this.electionTimeoutMs() * 1.5) / 1000)
  }

  private quotaBytes(): number {
    return this.options.quotaBytes ?? QUOTA_BYTES
  }

  private electionTimeoutMs(): number {
    return this.options.electionTimeoutMs ?? ELECTION_TIMEOUT_MS
  }

  private header(revision = this.replica.mvcc.revision): StoreHeader {
    return {
      clusterId: this.options.clusterId,
      member: this.options.member,
      term: this.replica.term,
      revision,
    }
  }

  status(): StoreStatusReply {
    const { replica } = this
    const { mvcc } = replica
    return {
      header: this.header(),
      role: replica.role,
      ...(replica.leader === undefined ? {} : { leader: replica.leader }),
      term: replica.term,
      commitIndex: replica.commitIndex,
      appliedIndex: mvcc.appliedIndex,
      firstIndex: replica.firstIndex,
      compactRevision: mvcc.compactRevision,
      dbSizeBytes: mvcc.sizeBytes,
      members: this.members().map(({ name }) => name),
      peersHeard: replica.peersHeard(),
      clusterVersion: mvcc.clusterVersion,
      supportedVersions: replica.versions,
      errors: [
        ...(this.corrupt === undefined ? [] : [this.corrupt]),
        ...(this.noSpace ? ['NO_SPACE: the disk is nearly full: only what frees space is taken'] : []),
        ...mvcc.alarms().map(({ alarm, member }) => `ALARM ${alarm} of ${member}`),
        ...replica.errors(),
      ],
      counters: {
        ...replica.figures(),
        watches: this.hub.size,
        watchesBehind: this.hub.behind,
        ...this.leaseCounters,
        ...mvcc.figures(),
      },
    }
  }

  stateHash(): { appliedIndex: number; hash: string } {
    const { mvcc } = this.replica
    // In this order: while a snapshot is being installed it is the looking that brings the index up to what is there.
    const hash = mvcc.hash()
    return { appliedIndex: mvcc.appliedIndex, hash }
  }

  private beat(): void {
    const { replica, world, options } = this
    if (this.stopping) return
    const beat: Beat = {
      component: 'store',
      instance: options.member,
      machine: options.machine ?? options.member,
      seq: ++this.beatSeq,
      incarnation: this.boot,
      ...(replica.role === 'learner' ? {} : { role: replica.role }),
      ready: replica.leader !== undefined,
      load: {
        revision: replica.mvcc.revision,
        appliedIndex: replica.mvcc.appliedIndex,
        term: replica.term,
        waiting: this.self.waiting,
        watches: this.hub.size,
      },
    }
    try {
      world.bus.publish(this.subjects.beat('store', options.member), encode(beat))
    } catch (error) {
      this.log.debug({ err: error }, 'beat not sent')
    }
  }
}

const REMOVED_LINGER_MS = 200
const QUOTA_BYTES = 8 * 1024 * 1024 * 1024
const BACKUPS_MAX = 4
/** A backup holds the state as it was: who reads slowly may, who has stopped to read may not for ever. */
const BACKUP_NO_CREDIT_MS = 600_000
/** Mostly watches, of all API servers and etcd clients together; one costs some KiB and a beat each second. */
const STREAMS_MAX = 50_000
const CALLS_WAITING_MAX = 8192
/** Codes of "did not happen" after which another member, or the same one later, may be asked. */
const AGAIN: readonly string[] = ['NO_LEADER', 'NO_RESPONDERS', 'DISCONNECTED', 'STOPPED', 'LEADER_CHANGED', 'CLOSED']
const AGAIN_REPEATABLE: readonly string[] = ['LEADER_CHANGED', 'NO_LEADER', 'CONNECTION_LOST', 'STOPPED']

/** It may have happened at its first go: whatever refuses it when it is asked again cannot say that it did not. */
function begun(asked: Asked): Asked {
  return {
    ...asked,
    reject: (error) => {
      const { code, outcome, message } = error as StoreError
      const refused = outcome === 'not-applied'
      asked.reject(refused ? maybeApplied(code, `${message}; it was asked before, and may have happened then`) : error)
    },
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
