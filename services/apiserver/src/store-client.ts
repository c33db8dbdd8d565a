import { setMaxListeners } from 'node:events'
import { CallError, Caller, type InStream, sleep, type StreamHandlers, type World } from '@capstan/actor'
import {
  decodeToken,
  type LeaseGrantReply,
  type LeaseKeepAliveReply,
  type RangeReply,
  type RangeRequest,
  type ReadIndexReply,
  type StoreStatusReply,
  type StoreVerb,
  Subjects,
  type Txn,
  type TxnReply,
  type WatchRequest,
} from '@capstan/protocol'

/** Codes after which another attempt, perhaps at another member, may succeed. All others are the store's verdict. */
const PASSING = new Set([
  'NO_RESPONDERS',
  'DISCONNECTED',
  'CONNECTION_LOST',
  'TIMEOUT',
  'OVERLOADED',
  'NO_LEADER',
  'LEADER_CHANGED',
  'STOPPED',
  'CLOSED',
])
/** One attempt: a member that hangs must not use up the whole time. Repetition is safe: reads, or sessions. */
const ATTEMPT_MS = 1000
const RETRY_DELAY_MS = 10
const RETRY_DELAY_MS_MAX = 250
const BACK_TO_FIRST_MS = 10_000
const WATCH_OPEN_MS = 2000
/** How often a watch at another member looks whether the nearest one serves again. */
const HOME_LOOK_MS = 3000
/** The store remembers the answers of so many of one session's outstanding transactions; half of it is a safe distance. */
const TXNS_MAX = 256
const DEFAULT_TIMEOUT_MS = 10_000
const MEMBERS_MAX = 64
/** Events share leases: one for all that come within so long, up to so many. */
const LEASE_SHARED_SECONDS = 60
const LEASE_SHARED_MAX = 1000

/** The store as this service sees it: any member that answers. Failures: CallError with the store's or the wire's code. */
export class StoreClient {
  private readonly caller: Caller
  private readonly subjects: Subjects
  private readonly random
  private readonly clientId: string
  private readonly closing = new AbortController()
  private at = 0
  private leftMs = 0
  private seq = 0
  private txns = 0
  private index: { next: Promise<number> | undefined; busy: boolean } = { next: undefined, busy: false }
  /** Asked in this order: those given at the start, the nearest first, then those that came later, by name. */
  private members: readonly string[]
  private readonly stopHearing: () => void
  private lease: { id: Promise<number>; ttlSeconds: number; untilMs: number; uses: number } | undefined

  constructor(
    private readonly world: World,
    private readonly options: { cluster: string; instance: string; members: readonly string[] },
  ) {
    if (options.members.length === 0) throw new RangeError('no store members given')
    this.members = options.members
    this.caller = new Caller(world, { name: 'store' })
    // Every call that pauses listens on it.
    setMaxListeners(0, this.closing.signal)
    this.subjects = new Subjects(options.cluster)
    this.random = world.random.fork(`store-client/${options.instance}`)
    this.stopHearing = this.hearNewMembers()
    // A new life is a new client: its seqs start anew.
    this.clientId = `apiserver/${options.instance}/${Buffer.from(this.random.bytes(8)).toString('hex')}`
  }

  range(request: RangeRequest, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<RangeReply> {
    return this.ask('range', request, timeoutMs) as Promise<RangeReply>
  }

  /** Carried out at most once, however often it has to be sent. */
  async txn(txn: Txn, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<TxnReply> {
    if (this.txns >= TXNS_MAX) throw new CallError('OVERLOADED', 'not-applied', `${TXNS_MAX} transactions outstanding`)
    this.txns++
    const deadline = this.world.clock.monotonicMs() + timeoutMs
    try {
      for (;;) {
        const seq = ++this.seq
        try {
          const remainingMs = deadline - this.world.clock.monotonicMs()
          return (await this.ask('txn', { ...txn, session: { clientId: this.clientId, seq } }, remainingMs)) as TxnReply
        } catch (error) {
          const { code, details } = CallError.fromBus(error)
          // The store applied it but could not keep its long answer. Only the answers of failed comparisons are long here,
          // and those change nothing: ask anew.
          if (code === 'SESSION_STALE' && (details as { applied?: boolean } | undefined)?.applied) continue
          throw error
        }
      }
    } finally {
      this.txns--
    }
  }

  /** A linearizable point. All who ask while one question is out share the next one. */
  readIndex(timeoutMs = DEFAULT_TIMEOUT_MS): Promise<number> {
    if (this.index.next) return this.index.next
    if (this.index.busy) {
      const next = new Promise<void>((resolve) => this.indexWaiters.push(resolve)).then(() => this.askIndex(timeoutMs))
      this.index.next = next
      return next
    }
    return this.askIndex(timeoutMs)
  }
  private readonly indexWaiters: (() => void)[] = []

  private async askIndex(timeoutMs: number): Promise<number> {
    this.index = { next: undefined, busy: true }
    try {
      return ((await this.ask('readIndex', {}, timeoutMs)) as ReadIndexReply).revision
    } finally {
      this.index.busy = false
      this.indexWaiters.shift()?.()
    }
  }

  status(member: string, timeoutMs: number): Promise<StoreStatusReply> {
    return this.caller.call(this.subject(member, 'status'), {}, { timeoutMs }) as Promise<StoreStatusReply>
  }

  /** A lease that lives at least `ttlSeconds` from now, shared with others of the same minute. */
  sharedLease(ttlSeconds: number): Promise<number> {
    const now = this.world.clock.monotonicMs()
    const open = this.lease
    if (open && open.ttlSeconds === ttlSeconds && open.untilMs > now && open.uses < LEASE_SHARED_MAX) {
      open.uses++
      return open.id
    }
    const id = (async () => {
      const request = { id: 0, ttlSeconds: ttlSeconds + LEASE_SHARED_SECONDS }
      // A lease granted twice is only one too many: it expires.
      return ((await this.ask('leaseGrant', request, DEFAULT_TIMEOUT_MS)) as LeaseGrantReply).id
    })()
    const lease = { id, ttlSeconds, untilMs: now + LEASE_SHARED_SECONDS * 1000, uses: 1 }
    this.lease = lease
    id.catch(() => {
      if (this.lease === lease) this.lease = undefined
    })
    return id
  }

  /** A lease of one's own. */
  async grant(ttlSeconds: number): Promise<number> {
    return ((await this.ask('leaseGrant', { id: 0, ttlSeconds }, DEFAULT_TIMEOUT_MS)) as LeaseGrantReply).id
  }

  /** False: there is no such lease any more. */
  async keepAlive(id: number): Promise<boolean> {
    return ((await this.ask('leaseKeepAlive', { id }, DEFAULT_TIMEOUT_MS)) as LeaseKeepAliveReply).ttlSeconds > 0
  }

  /**
   * Opens a watch at the member in use; after a failure, at the next one. At another member than the nearest it ends
   * (`cancelled`) when the nearest one serves again.
   */
  watch(request: WatchRequest, handlers: StreamHandlers): InStream {
    const member = this.member()
    const over = new AbortController()
    const stream = this.caller.openStream(
      this.subject(member, 'watch'),
      request,
      {
        ...handlers,
        end: (reason, error) => {
          over.abort()
          if (reason === 'refused' || reason === 'lost') this.leave(member)
          handlers.end(reason, error)
        },
      },
      { timeoutMs: WATCH_OPEN_MS, creditsMax: 256 },
    )
    if (member !== this.nearest) void this.moveHome(stream, over.signal)
    return stream
  }

  /** The machine of another member takes the watch with it when it dies, and that is noticed only by its silence. */
  private async moveHome(stream: InStream, over: AbortSignal): Promise<void> {
    while (await sleep(this.world.clock, HOME_LOOK_MS, over)) {
      const status = await this.status(this.nearest, ATTEMPT_MS).catch(() => undefined)
      const serves = status?.leader !== undefined && status.role !== 'learner'
      if (!serves || over.aborted) continue
      this.at = 0
      stream.cancel()
    }
  }

  close(): void {
    this.closing.abort()
    this.stopHearing()
    this.caller.close()
  }

  private async ask(verb: StoreVerb, body: unknown, timeoutMs: number): Promise<unknown> {
    const { clock } = this.world
    const deadline = clock.monotonicMs() + timeoutMs
    let outcome: 'not-applied' | 'maybe-applied' = 'not-applied'
    let last: CallError | undefined
    for (let attempt = 0; ; attempt++) {
      const remainingMs = deadline - clock.monotonicMs()
      if (remainingMs <= 0 || this.closing.signal.aborted) {
        const code = last?.code ?? 'TIMEOUT'
        throw new CallError(
          code,
          outcome,
          `the store did not answer in ${timeoutMs} ms: ${last?.message ?? 'no attempt'}`,
        )
      }
      const member = this.member()
      try {
        return await this.caller.call(this.subject(member, verb), body, {
          timeoutMs: Math.min(ATTEMPT_MS, remainingMs),
        })
      } catch (error) {
        last = CallError.fromBus(error)
        if (!PASSING.has(last.code)) throw last
        if (last.outcome === 'maybe-applied') outcome = 'maybe-applied'
        this.leave(member)
      }
      // Each member once without waiting, then with growing pauses.
      const rounds = Math.floor(attempt / this.members.length)
      const longest = Math.min(RETRY_DELAY_MS * 2 ** Math.min(rounds, 8), RETRY_DELAY_MS_MAX)
      const delayMs = longest * (0.5 + this.random.next() / 2)
      await sleep(clock, Math.min(delayMs, Math.max(0, deadline - clock.monotonicMs())), this.closing.signal)
    }
  }

  /** Members come and go while the store serves. One that left is only an attempt too many. */
  private hearNewMembers(): () => void {
    const { bus, log } = this.world
    const subscription = bus.subscribe(this.subjects.beats('store'), ({ subject }) => {
      try {
        const member = decodeToken(subject.slice(subject.lastIndexOf('.') + 1))
        if (this.members.includes(member) || this.members.length >= MEMBERS_MAX) return
        const later = [...this.members.slice(this.options.members.length), member].sort()
        this.members = [...this.options.members, ...later]
        log.info({ member }, 'hears of a new member of the store')
      } catch (error) {
        log.debug({ err: error, subject }, 'a beat of nobody')
      }
    })
    return () => subscription.unsubscribe()
  }

  private get nearest(): string {
    return this.options.members[0] as string
  }

  private member(): string {
    // The first one is the nearest: tried again after a while.
    if (this.at % this.members.length !== 0 && this.world.clock.monotonicMs() - this.leftMs > BACK_TO_FIRST_MS)
      this.at = 0
    return this.members[this.at % this.members.length] as string
  }
  private leave(member: string): void {
    if (this.member() !== member) return
    this.at++
    this.leftMs = this.world.clock.monotonicMs()
  }
  private subject(member: string, verb: StoreVerb): string {
    return this.subjects.store(member, this.world.bus.identity, verb)
  }
}

export const keyBytes = (key: string): Uint8Array => Buffer.from(key)
