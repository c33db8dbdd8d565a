import { setMaxListeners } from 'node:events'
import {
  type BusMessage,
  CallError,
  Caller,
  CodecError,
  decode,
  type InStream,
  sleep,
  type StreamHandlers,
  type World,
} from '@capstan/actor'
import { type Beat, BEAT_MISSING_MS, type StoreVerb, Subjects, type Txn, type TxnReply } from '@capstan/protocol'

/** Codes after which another attempt, perhaps at another member, may succeed. All others are the store's verdict. */
const PASSING = new Set([
  'NO_RESPONDERS',
  'DISCONNECTED',
  'CONNECTION_LOST',
  'TIMEOUT',
  'NO_LEADER',
  'LEADER_CHANGED',
  'STOPPED',
  'MEMBERS_BUSY',
  'OVERLOADED',
])
/** Those after which not even another member is asked without a pause: they come of too much work. */
const BUSY = new Set(['MEMBERS_BUSY', 'OVERLOADED'])
/** One attempt of what may be repeated: a member that hangs must not use up the whole time. */
const ATTEMPT_MS = 1000
const RETRY_DELAY_MS = 10
const RETRY_DELAY_MS_MAX = 250
const BACK_TO_FIRST_MS = 10_000
const WATCH_OPEN_MS = 2000
/** The store knows the answers of a session's last 512 seqs; the oldest one outstanding must stay well within. */
const SESSION_SPAN_MAX = 400
const SESSIONS_MAX = 32
const MEMBERS_MAX = 32

export interface AskOptions {
  /** Default: the face's request time-out. */
  timeoutMs?: number
  /** True: the asker has gone; no further attempt. */
  gone?: () => boolean
  /** May it be sent again though it may have happened? Default false: only after "did not happen". */
  repeatable?: boolean
  /** Whom to ask first: the leader, for what goes through its log; or the nearest. Default nearest. */
  first?: 'leader' | 'nearest'
}

/** The store as the face sees it: any member that answers. Failures: CallError with the store's or the wire's code. */
export class StoreAccess {
  private readonly caller: Caller
  private readonly subjects: Subjects
  private readonly random
  private readonly sessions: Sessions
  private readonly members: string[]
  private readonly closing = new AbortController()
  private readonly stopHearing: () => void
  /** Attempts that may be repeated, at who led when they were made. */
  private readonly atLeader = new Set<{ leader: string; lost(): void }>()
  private at = 0
  private leftMs = 0
  private leader: { member: string; heardMs: number; term: number } | undefined

  constructor(
    private readonly world: World,
    private readonly options: { cluster: string; members: readonly string[]; timeoutMs: number },
  ) {
    if (options.members.length === 0) throw new RangeError('no store members given')
    this.members = [...options.members]
    this.caller = new Caller(world, { name: 'etcd' })
    // Every call that pauses listens on it.
    setMaxListeners(0, this.closing.signal)
    this.subjects = new Subjects(options.cluster)
    this.random = world.random.fork('etcd-face')
    // A new life is a new client: its seqs start anew.
    this.sessions = new Sessions(`etcd/${Buffer.from(this.random.bytes(8)).toString('hex')}`)
    const subscription = world.bus.subscribe(this.subjects.beats('store'), (message) => this.hear(message))
    this.stopHearing = () => subscription.unsubscribe()
  }

  /** Linearizable unless the body says otherwise. */
  read(verb: StoreVerb, body: object, options: AskOptions = {}): Promise<unknown> {
    return this.ask(verb, body, { ...options, repeatable: true })
  }

  /** Carried out at most once, however often it has to be sent. */
  async txn(txn: Txn, options: AskOptions = {}): Promise<TxnReply> {
    const place = this.sessions.take()
    if (!place) throw new CallError('OVERLOADED', 'not-applied', 'too many transactions outstanding')
    try {
      const body = { ...txn, session: place.session }
      return (await this.ask('txn', body, { ...options, repeatable: true, first: 'leader' })) as TxnReply
    } finally {
      place.free()
    }
  }

  /** One attempt at one member. */
  at1(member: string, verb: StoreVerb, body: object, timeoutMs = this.options.timeoutMs): Promise<unknown> {
    return this.caller.call(this.subject(member, verb), body, { timeoutMs })
  }

  async ask(verb: StoreVerb, body: object, options: AskOptions = {}): Promise<unknown> {
    const { clock } = this.world
    const timeoutMs = options.timeoutMs ?? this.options.timeoutMs
    const deadline = clock.monotonicMs() + timeoutMs
    let outcome: 'not-applied' | 'maybe-applied' = 'not-applied'
    let last: CallError | undefined
    for (let attempt = 0; ; attempt++) {
      const remainingMs = deadline - clock.monotonicMs()
      if (remainingMs <= 0 || options.gone?.() || this.closing.signal.aborted) {
        const code = this.closing.signal.aborted ? 'STOPPED' : (last?.code ?? 'TIMEOUT')
        const why = last?.message ?? 'no attempt'
        throw new CallError(code, outcome, `the store did not answer in ${timeoutMs} ms: ${why}`)
      }
      const leader = options.first === 'leader' ? this.knownLeader() : undefined
      const member = leader ?? this.nearest()
      try {
        const asked = this.caller.call(this.subject(member, verb), body, {
          timeoutMs: options.repeatable ? Math.min(ATTEMPT_MS, remainingMs) : remainingMs,
        })
        return await (leader !== undefined && options.repeatable ? this.whileItLeads(leader, asked) : asked)
      } catch (error) {
        last = CallError.fromBus(error)
        if (!PASSING.has(last.code)) {
          // The verdict on a repetition says nothing about what an earlier attempt did, unless the store knows them as one.
          throw outcome === 'maybe-applied' && !options.repeatable
            ? new CallError(last.code, outcome, last.message, { details: last.details })
            : last
        }
        if (last.outcome === 'maybe-applied') {
          outcome = 'maybe-applied'
          if (!options.repeatable) throw last
        }
        if (this.leader?.member === leader) this.leader = undefined
        this.leave(member)
      }
      // Each member once without waiting, then with growing pauses.
      const rounds = Math.floor(attempt / this.members.length)
      if (attempt < this.members.length && !BUSY.has(last.code)) continue
      const longest = Math.min(RETRY_DELAY_MS * 2 ** Math.min(rounds, 8), RETRY_DELAY_MS_MAX)
      const delayMs = longest * (0.5 + this.random.next() / 2)
      await sleep(clock, Math.min(delayMs, Math.max(0, deadline - clock.monotonicMs())), this.closing.signal)
    }
  }

  /** The member in use: the nearest that answers. */
  nearest(): string {
    const { members } = this
    // The first one is the nearest: tried again after a while.
    if (this.at % members.length !== 0 && this.world.clock.monotonicMs() - this.leftMs > BACK_TO_FIRST_MS) this.at = 0
    return members[this.at % members.length] as string
  }

  /** Opens a stream at the member in use; after a failure the next one is in use. */
  stream(verb: StoreVerb, body: object, handlers: StreamHandlers, creditsMax: number): InStream {
    const member = this.nearest()
    return this.streamAt(
      member,
      verb,
      body,
      {
        ...handlers,
        end: (reason, error) => {
          if ((reason === 'refused' && (!error || PASSING.has(error.code))) || reason === 'lost') this.leave(member)
          handlers.end(reason, error)
        },
      },
      creditsMax,
    )
  }

  streamAt(member: string, verb: StoreVerb, body: object, handlers: StreamHandlers, creditsMax: number): InStream {
    return this.caller.openStream(this.subject(member, verb), body, handlers, {
      timeoutMs: WATCH_OPEN_MS,
      creditsMax,
    })
  }

  close(): void {
    this.closing.abort()
    this.stopHearing()
    this.caller.close()
  }

  /** Who said last that it leads; a wrong guess costs a forwarding, no more. */
  private knownLeader(): string | undefined {
    const { leader } = this
    if (!leader) return undefined
    if (this.world.clock.monotonicMs() - leader.heardMs <= BEAT_MISSING_MS) return leader.member
    this.leader = undefined
    return undefined
  }

  /** Another leader is heard of: what the former one was asked is asked again, and not waited for. */
  private whileItLeads(leader: string, asked: Promise<unknown>): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const lost = () => reject(new CallError('LEADER_CHANGED', 'maybe-applied', `${leader} no longer leads`))
      const attempt = { leader, lost }
      this.atLeader.add(attempt)
      const done = () => this.atLeader.delete(attempt)
      asked.then(
        (reply) => {
          done()
          resolve(reply)
        },
        (error: unknown) => {
          done()
          reject(error as Error)
        },
      )
    })
  }

  private hear(message: BusMessage): void {
    let beat: Partial<Beat>
    try {
      beat = decode(message.payload) as Partial<Beat>
    } catch (error) {
      if (error instanceof CodecError) return
      throw error
    }
    if (typeof beat?.instance !== 'string') return
    // Members come while the face stands; one that went is found not to answer.
    if (!this.members.includes(beat.instance) && this.members.length < MEMBERS_MAX) this.members.push(beat.instance)
    if (beat.role === 'leader') {
      const term = beat.load?.['term'] ?? 0
      // One that was replaced may not know it yet.
      if (term < (this.knownLeader() === undefined ? 0 : (this.leader?.term ?? 0))) return
      this.leader = { member: beat.instance, heardMs: this.world.clock.monotonicMs(), term }
      for (const attempt of [...this.atLeader]) if (attempt.leader !== beat.instance) attempt.lost()
    } else if (this.leader?.member === beat.instance) this.leader = undefined
  }

  private leave(member: string): void {
    if (this.nearest() !== member) return
    this.at++
    this.leftMs = this.world.clock.monotonicMs()
  }

  private subject(member: string, verb: StoreVerb): string {
    return this.subjects.store(member, this.world.bus.identity, verb)
  }
}

interface Place {
  session: { clientId: string; seq: number }
  free(): void
}

/** Sessions of the store (thesis §6.3): each may have a bounded span of seqs outstanding, so there are several. */
export class Sessions {
  private readonly all: { clientId: string; last: number; outstanding: Set<number> }[] = []

  constructor(private readonly prefix: string) {}

  /** Undefined: all of them are full. */
  take(): Place | undefined {
    let open = this.all.find(({ last, outstanding }) => {
      // A set keeps the order of insertion: the first one is the oldest.
      const oldest = outstanding.values().next().value
      return oldest === undefined || last - oldest < SESSION_SPAN_MAX
    })
    if (!open) {
      if (this.all.length >= SESSIONS_MAX) return undefined
      open = { clientId: `${this.prefix}/${this.all.length}`, last: 0, outstanding: new Set() }
      this.all.push(open)
    }
    const { clientId, outstanding } = open
    const seq = ++open.last
    outstanding.add(seq)
    return { session: { clientId, seq }, free: () => void outstanding.delete(seq) }
  }
}
