/**
 * Calls and streams over a bus.
 *
 * Frames are msgpack arrays `[WIRE_VERSION, kind, …]`:
 * - `req`: `[1, 'req', trace, [[id, remainingMs, body, credits], …]]`, all requests of one turn for one subject, with the
 *   frame's own reply subject. `credits` > 0 asks for a stream.
 * - `ans`: `[1, 'ans', [[id, failed, body | ErrorData], …]]`, several for one `req` if the answers come at different times.
 * - `str`: `[1, 'str', id, seq, 'data' | 'beat' | 'end', body]`, on the reply subject of the request that opened it, or on
 *   the one subject `<caller>.s` that all shared streams of a caller have.
 * - `mul`: `[1, 'mul', [[id, seq], …], body]`, one message of data for several shared streams of one caller.
 * - `ctl`: `[1, 'ctl', replyTo, id, 'credit' | 'alive' | 'cancel', count]`, from the stream's reader, on the request's subject.
 * - `chk`: `[1, 'chk', key, index, count, bytes]`, a piece of a frame that is too large for one message.
 */
import { CallError, type ErrorData, errorData } from './errors.js'
import { decode, encode } from './codec.js'
import { every } from './time.js'
import { type Bus, BusError, type BusMessage, type Clock, type Timer, type World } from './world.js'

export const WIRE_VERSION = 1
const BEAT_PERIOD_MS = 1000
/** Two missed beats and some delay. */
const STREAM_SILENCE_MS = 3000
const NO_CREDIT_MS = 10_000
/** How often a reader says that it still reads, and how long a writer goes on without that. */
const READER_ALIVE_MS = 5000
const READER_GONE_MS = 16_000
const FRAME_REQUESTS_MAX = 256
const CHUNKED_BYTES_MAX = 64 * 1024 * 1024
const CHUNKED_AGE_MS = 30_000
const CHUNKED_FRAMES_MAX = 256
/** What a server remembers to know a doubled request by: far longer than a bus takes to deliver the second one. */
const SEEN_FRAMES_MAX = 4096
const SEEN_MS = 10_000

type WireWorld = Pick<World, 'clock' | 'bus' | 'log'>

/**
 * Numbers of requests and of frames, one sequence for each connection. All its callers draw from it, also one that comes
 * after another of its name was closed: a late answer to that one must not settle its requests, and a server takes a second
 * frame with the same reply subject for a doubled one.
 */
const drawn = new WeakMap<Bus, number>()

function draw(bus: Bus): number {
  const next = (drawn.get(bus) ?? 0) + 1
  drawn.set(bus, next)
  return next
}

// ------------------------------------------------------------------------------------------------------------- caller

export interface CallOptions {
  /** How long the answer may take; travels with the request, and the receiver drops it when the time is over. */
  timeoutMs: number
  trace?: string
}

export interface StreamHandlers {
  /** One message of the stream, in order, without gap. The next one comes after this has settled. A throw ends the stream. */
  data(body: unknown): void | Promise<void>
  /** The stream is idle and whole up to here: `position` is what the server stated (a revision). */
  beat?(position: unknown): void
  /**
   * The stream is over, exactly once. `reason` is the server's (`closing`, `lagging`, `compacted`, …), or `lost` (silence,
   * gap, reconnect: resume from what you have), `refused` (the opening failed), `cancelled`, `failed` (`data` threw).
   */
  end(reason: string, error?: CallError): void
}

export interface InStream {
  cancel(): void
}

/** One side that asks. Packs the requests of one turn to the same subject into one frame. */
export class Caller {
  private readonly replyBase: string
  private readonly pending = new Map<number, PendingCall>()
  private readonly deadlines: Deadlines
  private readonly streams = new Map<number, Reader>()
  private readonly outbox = new Map<string, OutRequest[]>()
  private readonly chunks: Reassembly
  private readonly frames: FramePublisher
  private readonly subscription
  private readonly stopWatchingBus
  private deferred = false
  private closed = false
  private readonly pendingMax: number

  constructor(
    private readonly world: WireWorld,
    options: { name?: string; pendingMax?: number } = {},
  ) {
    this.pendingMax = options.pendingMax ?? 16_384
    this.deadlines = new Deadlines(world.clock, (id) =>
      this.settle(id, ({ subject, timeoutMs, reject }) =>
        reject(new CallError('TIMEOUT', 'maybe-applied', `no answer from ${subject} in ${timeoutMs} ms`)),
      ),
    )
    this.replyBase = `${world.bus.inbox}.${options.name ?? 'c1'}`
    this.chunks = new Reassembly(world)
    this.frames = new FramePublisher(world.bus)
    this.subscription = world.bus.subscribe(`${this.replyBase}.*`, (message) => this.receive(message))
    let epoch = world.bus.epoch
    this.stopWatchingBus = world.bus.onChange((state) => {
      // What was asked on the former connection may have been answered to nobody.
      if (state.connected && state.epoch === epoch) return
      epoch = state.epoch
      this.connectionLost()
    })
  }

  /**
   * Asks and resolves with the answer's body.
   * @throws CallError with the answerer's code, or the wire's (see `CallError`).
   */
  call(subject: string, body: unknown, options: CallOptions): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const refusal = this.refusal()
      if (refusal) return reject(refusal)
      const id = draw(this.world.bus)
      const { timeoutMs } = options
      const deadline = this.world.clock.monotonicMs() + timeoutMs
      const slot = this.deadlines.add(id, deadline)
      this.pending.set(id, { resolve, reject, subject, timeoutMs, slot, sent: false, frameId: undefined })
      this.enqueue(subject, { id, deadline, body, credits: 0, trace: options.trace })
    })
  }

  /** Opens a stream. `creditsMax` messages may be on the way unhandled. Never throws: see `StreamHandlers.end`. */
  openStream(
    subject: string,
    body: unknown,
    handlers: StreamHandlers,
    options: CallOptions & { creditsMax?: number },
  ): InStream {
    const id = draw(this.world.bus)
    const { clock } = this.world
    const creditsMax = options.creditsMax ?? 64
    const reader = new Reader(this.world, this.frames, subject, id, creditsMax, options.timeoutMs, handlers, () =>
      this.streams.delete(id),
    )
    const refusal = this.refusal()
    if (refusal) {
      clock.defer(() => reader.end('refused', refusal))
      return reader
    }
    this.streams.set(id, reader)
    this.enqueue(subject, {
      id,
      deadline: clock.monotonicMs() + options.timeoutMs,
      body,
      credits: creditsMax,
      trace: options.trace,
    })
    return reader
  }

  /** Ends everything outstanding with CLOSED. */
  close(): void {
    if (this.closed) return
    this.closed = true
    this.stopWatchingBus()
    this.subscription.unsubscribe()
    for (const id of [...this.pending.keys()])
      this.settle(id, (call) =>
        call.reject(new CallError('CLOSED', call.sent ? 'maybe-applied' : 'not-applied', 'caller closed')),
      )
    for (const reader of [...this.streams.values()]) reader.cancel()
  }

  private refusal(): CallError | undefined {
    if (this.closed) return new CallError('CLOSED', 'not-applied', 'caller closed')
    if (this.pending.size + this.streams.size < this.pendingMax) return undefined
    return new CallError('OVERLOADED', 'not-applied', `${this.pendingMax} calls outstanding`)
  }

  private enqueue(subject: string, request: OutRequest): void {
    const waiting = this.outbox.get(subject)
    if (waiting) waiting.push(request)
    else this.outbox.set(subject, [request])
    if (this.deferred) return
    this.deferred = true
    this.world.clock.defer(() => this.flush())
  }

  private flush(): void {
    this.deferred = false
    const outbox = [...this.outbox]
    this.outbox.clear()
    for (const [subject, requests] of outbox)
      for (let at = 0; at < requests.length; at += FRAME_REQUESTS_MAX)
        this.send(subject, requests.slice(at, at + FRAME_REQUESTS_MAX))
  }

  private send(subject: string, requests: OutRequest[]): void {
    const now = this.world.clock.monotonicMs()
    const live = requests.filter((r) => this.pending.has(r.id) || this.streams.has(r.id))
    if (live.length === 0) return
    const frameId = draw(this.world.bus)
    const replyTo = `${this.replyBase}.${frameId}`
    for (const r of live) {
      const call = this.pending.get(r.id)
      if (call) {
        call.frameId = frameId
        call.sent = true
      }
      const reader = this.streams.get(r.id)
      if (reader) reader.opened(frameId, replyTo)
    }
    const frame = [
      WIRE_VERSION,
      'req',
      live[0]?.trace ?? null,
      live.map((r) => [r.id, Math.ceil(r.deadline - now), r.body, r.credits]),
    ]
    try {
      this.frames.publish(subject, frame, replyTo)
    } catch (error) {
      this.failFrame(frameId, CallError.fromBus(error))
    }
  }

  private failFrame(frameId: number, error: CallError): void {
    for (const [id, call] of [...this.pending]) if (call.frameId === frameId) this.settle(id, () => call.reject(error))
    for (const reader of [...this.streams.values()]) if (reader.frameId === frameId) reader.end('refused', error)
  }

  private connectionLost(): void {
    const error = new CallError('CONNECTION_LOST', 'maybe-applied', 'bus connection lost before the answer')
    for (const [id, call] of [...this.pending]) if (call.sent) this.settle(id, () => call.reject(error))
    for (const reader of [...this.streams.values()]) if (reader.frameId !== undefined) reader.end('lost', error)
  }

  private settle(id: number, how: (call: PendingCall) => void): void {
    const call = this.pending.get(id)
    if (!call) return // Late or doubled answer.
    this.pending.delete(id)
    this.deadlines.forget(id, call.slot)
    how(call)
  }

  private receive(message: BusMessage): void {
    if (message.noResponders) {
      const frameId = Number(message.subject.slice(this.replyBase.length + 1))
      this.failFrame(frameId, new CallError('NO_RESPONDERS', 'not-applied', 'nobody listens on the subject'))
      return
    }
    const frame = this.chunks.frame(message)
    if (!frame) return
    if (frame[1] === 'ans' && Array.isArray(frame[2])) {
      for (const answer of frame[2] as unknown[]) {
        if (!Array.isArray(answer)) continue
        const [id, failed, body] = answer as [number, boolean, unknown]
        const reader = this.streams.get(id)
        if (reader) {
          if (failed) reader.end('refused', CallError.fromData(body as ErrorData))
          else reader.accepted()
        } else
          this.settle(id, (call) => (failed ? call.reject(CallError.fromData(body as ErrorData)) : call.resolve(body)))
      }
    } else if (frame[1] === 'str') {
      const [, , id, seq, kind, body] = frame as [number, string, number, number, string, unknown]
      this.streams.get(id)?.receive(seq, kind, body)
    } else if (frame[1] === 'mul' && Array.isArray(frame[2])) {
      for (const one of frame[2] as unknown[])
        if (Array.isArray(one)) this.streams.get(one[0] as number)?.receive(one[1] as number, 'data', frame[3])
    }
  }
}

interface PendingCall {
  resolve(body: unknown): void
  reject(error: CallError): void
  subject: string
  timeoutMs: number
  slot: number
  sent: boolean
  frameId: number | undefined
}

/** Deadlines of many calls on few timers: each counts as the end of the slot that it falls into, so much late at most. */
const DEADLINE_SLOT_MS = 10

class Deadlines {
  private readonly slots = new Map<number, { ids: Set<number>; timer: Timer }>()

  constructor(
    private readonly clock: Clock,
    private readonly over: (id: number) => void,
  ) {}

  /** Gives the slot, for `forget`. */
  add(id: number, deadlineMs: number): number {
    const slot = Math.ceil(deadlineMs / DEADLINE_SLOT_MS)
    const begun = this.slots.get(slot)
    if (begun) begun.ids.add(id)
    else {
      const delayMs = slot * DEADLINE_SLOT_MS - this.clock.monotonicMs()
      this.slots.set(slot, { ids: new Set([id]), timer: this.clock.setTimer(delayMs, () => this.end(slot)) })
    }
    return slot
  }

  forget(id: number, slot: number): void {
    const one = this.slots.get(slot)
    if (!one?.ids.delete(id) || one.ids.size > 0) return
    one.timer.cancel()
    this.slots.delete(slot)
  }

  private end(slot: number): void {
    const ids = this.slots.get(slot)?.ids ?? []
    this.slots.delete(slot)
    for (const id of ids) this.over(id)
  }
}

interface OutRequest {
  id: number
  deadline: number
  body: unknown
  credits: number
  trace: string | undefined
}

/** The reading end of one stream. */
class Reader implements InStream {
  frameId: number | undefined
  private replyTo = ''
  private expectedSeq = 1
  private ended = false
  private busy = false
  private readonly queue: { kind: string; body: unknown }[] = []
  private handled = 0
  private heardMs: number
  private readonly stopChecking: () => void

  constructor(
    private readonly world: WireWorld,
    private readonly frames: FramePublisher,
    private readonly subject: string,
    private readonly id: number,
    private readonly creditsMax: number,
    private openTimeoutMs: number,
    private readonly handlers: StreamHandlers,
    private readonly forget: () => void,
  ) {
    const { clock } = world
    this.heardMs = clock.monotonicMs()
    let tickedMs = this.heardMs
    let aliveMs = this.heardMs
    this.stopChecking = every(clock, BEAT_PERIOD_MS / 2, () => {
      const now = clock.monotonicMs()
      // Only time in which this side could have heard counts: a gap between own ticks starts the wait anew.
      if (now - tickedMs > BEAT_PERIOD_MS) this.heardMs = now
      tickedMs = now
      if (now - aliveMs >= READER_ALIVE_MS) {
        aliveMs = now
        this.control('alive', 0)
      }
      const silenceMs = Math.max(STREAM_SILENCE_MS, this.openTimeoutMs)
      if (now - this.heardMs > silenceMs)
        this.end('lost', new CallError('TIMEOUT', 'maybe-applied', `stream silent for over ${silenceMs} ms`))
    })
  }

  opened(frameId: number, replyTo: string): void {
    this.frameId = frameId
    this.replyTo = replyTo
  }

  accepted(): void {
    this.heardMs = this.world.clock.monotonicMs()
    this.openTimeoutMs = 0
  }

  receive(seq: number, kind: string, body: unknown): void {
    if (this.ended) return
    this.accepted()
    if (kind === 'beat') {
      // A beat bears the seq of the last message sent before it.
      if (seq >= this.expectedSeq)
        return this.end('lost', new CallError('CONNECTION_LOST', 'maybe-applied', `lost message ${this.expectedSeq}`))
      if (seq === this.expectedSeq - 1 && this.queue.length <= this.creditsMax) this.queue.push({ kind, body })
      void this.work()
      return
    }
    if (seq < this.expectedSeq) return // Doubled.
    if (seq > this.expectedSeq) {
      this.end(
        'lost',
        new CallError('CONNECTION_LOST', 'maybe-applied', `gap: expected message ${this.expectedSeq}, got ${seq}`),
      )
      return
    }
    this.expectedSeq++
    // Beats and the end need no credit, so some more than the credits may wait; a server that ignores them is cut off.
    if (this.queue.length > 2 * this.creditsMax + 16)
      return this.end('failed', new CallError('OVERLOADED', 'maybe-applied', 'the server sends without credit'))
    this.queue.push({ kind, body })
    void this.work()
  }

  cancel(): void {
    if (this.ended) return
    this.control('cancel', 0)
    this.end('cancelled')
  }

  end(reason: string, error?: CallError): void {
    if (this.ended) return
    this.ended = true
    this.stopChecking()
    this.queue.length = 0
    this.forget()
    if (reason === 'lost' || reason === 'failed') this.control('cancel', 0)
    this.handlers.end(reason, error)
  }

  private async work(): Promise<void> {
    if (this.busy) return
    this.busy = true
    try {
      for (let next = this.queue.shift(); next && !this.ended; next = this.queue.shift()) {
        if (next.kind === 'beat') this.handlers.beat?.(next.body)
        else if (next.kind === 'end') {
          const { reason, error } = next.body as { reason: string; error?: ErrorData }
          this.end(reason, error && CallError.fromData(error))
        } else {
          const done = this.handlers.data(next.body)
          if (done) await done
          this.handled++
          if (this.handled * 2 >= this.creditsMax) {
            this.control('credit', this.handled)
            this.handled = 0
          }
        }
      }
    } catch (error) {
      this.end('failed', CallError.fromBus(error))
    } finally {
      this.busy = false
    }
  }

  private control(what: 'credit' | 'alive' | 'cancel', count: number): void {
    if (this.frameId === undefined) return
    try {
      this.frames.publish(this.subject, [WIRE_VERSION, 'ctl', this.replyTo, this.id, what, count], undefined)
    } catch (error) {
      // The connection is gone: so is the stream on the other side soon (no credit), and here by `connectionLost`.
      this.world.log.debug({ err: error, subject: this.subject }, 'stream control not sent')
    }
  }
}

// -------------------------------------------------------------------------------------------------------------- server

export interface IncomingCall {
  /** The subject that it came on, and its tokens. */
  readonly subject: string
  readonly tokens: readonly string[]
  /** The identity in the subject (`…from.<identity>.<verb>`), which the bus vouches for; '' for subjects without. */
  readonly from: string
  /** The last token. */
  readonly verb: string
  readonly body: unknown
  /** On this side's monotonic clock. */
  readonly deadlineMs: number
  readonly trace: string | undefined
  /** The caller asks for a stream: answer by `openStream`. */
  readonly wantsStream: boolean
  /** Accepts as a stream. Only once, only if `wantsStream`. */
  openStream(options?: OutStreamOptions): OutStream
}

export interface OutStreamOptions {
  /** How long something may wait for credit before the stream ends as `lagging`, in ms. Default 10,000. */
  noCreditMs?: number
  /** Messages that may wait for credit. One more ends the stream as `lagging`. Default 1,024. */
  queueMax?: number
  /** What beats state: the revision up to which the reader has everything when it has the last message. */
  position?: () => unknown
  /**
   * May go out together with others by `sendToAll`. The asker hears all its shared streams on one subject below its inbox,
   * so the answerer must be allowed to publish there, not only to answer.
   */
  shared?: boolean
}

export interface OutStream {
  readonly ended: boolean
  /** Messages that wait for credit: a writer with much to say waits until they are few. */
  readonly waiting: number
  /** False: the stream is over. */
  send(body: unknown): boolean
  end(reason: string, error?: ErrorData): void
  /** Called once when the stream is over, for whatever cause. */
  onEnd(listener: (reason: string) => void): void
  /** Called each time that nothing waits for credit any more after something did. */
  onRoom(listener: () => void): void
}

/**
 * Sends one body on many streams. It is encoded once, and travels once to each caller that reads several of them (as
 * shared streams): its readers then get the same object, which they must not change.
 */
export function sendToAll(streams: readonly OutStream[], body: unknown): void {
  if (streams.length === 1) return void (streams[0] as OutStream).send(body)
  const together = new Map<string, Writer[]>()
  for (const stream of streams) {
    if (!(stream instanceof Writer) || !stream.mayShare) stream.send(body)
    else {
      const list = together.get(stream.subjectOut)
      if (list) list.push(stream)
      else together.set(stream.subjectOut, [stream])
    }
  }
  if (together.size === 0) return
  const encoded = encode(body)
  for (const writers of together.values()) (writers[0] as Writer).publishFor(writers, encoded)
}

export interface ServeOptions {
  /** With `*` for the identity and the verb: `capstan.c1.store.s0.from.*.*`. */
  pattern: string
  /** Calls in work at once; one more is refused as OVERLOADED. Default 4,096. */
  inFlightMax?: number
  /** Open streams; one more is refused as OVERLOADED. Default 4,096. */
  streamsMax?: number
  /**
   * After this process stood still (a pause, a blocked event loop) calls are refused whose time may have been over by the time they
   * were read: what somebody gave up, and did again elsewhere, must not be done now. For servers that write. Default false.
   */
  refuseStale?: boolean
  /** The answer's body, or throws an error with `code` and `outcome`. For a stream: calls `openStream` and returns nothing. */
  handle(call: IncomingCall): unknown
}

export interface Server {
  /** Ends all streams with `closing` and listens no more. */
  stop(reason?: string): void
}

/**
 * Answers calls on a subject pattern. Garbage is refused and logged; it stops nothing. A request that the bus delivers
 * twice is handled once, unless 4,096 others or 10 s lie between, or the server was made anew in between.
 */
export function serve(world: WireWorld, options: ServeOptions): Server {
  const { bus, clock, log } = world
  const chunks = new Reassembly(world)
  const frames = new FramePublisher(bus)
  const streams = new Map<string, Writer>()
  const answers = new Map<string, [number, boolean, unknown][]>()
  const seen = new SeenFrames(world)
  const stalls = options.refuseStale ? new Stalls(clock) : undefined
  const inFlightMax = options.inFlightMax ?? 4096
  const streamsMax = options.streamsMax ?? 4096
  let inFlight = 0
  let deferred = false

  const subscription = bus.subscribe(options.pattern, receive)
  return {
    stop(reason = 'closing') {
      subscription.unsubscribe()
      stalls?.stop()
      for (const stream of [...streams.values()]) stream.end(reason)
      flush()
    },
  }

  function receive(message: BusMessage): void {
    const frame = chunks.frame(message)
    if (!frame) return
    if (frame[1] === 'ctl') {
      const [, , replyTo, id, what, count] = frame as [number, string, string, number, string, number]
      const stream = streams.get(`${replyTo} ${id}`)
      if (stream && stream.subject === message.subject) stream.control(what, count)
      return
    }
    if (frame[1] !== 'req' || !Array.isArray(frame[3]) || message.replyTo === undefined) {
      log.warn({ subject: message.subject, bytes: message.payload.length }, 'refused a frame that is no request')
      return
    }
    if (!answersToAsker(message.subject, message.replyTo)) {
      log.warn(
        { subject: message.subject, replyTo: message.replyTo },
        'refused a request that wants its answer sent to somebody else',
      )
      return
    }
    // The subject belongs to the name: it bears who asks, and nobody shall use up another one's reply subjects.
    if (seen.before(`${message.subject} ${message.replyTo}`)) return
    const origin = originOf(message.subject, message.replyTo, frame[2] as string | null, clock.monotonicMs())
    const waitedMs = stalls?.waitedMs() ?? 0
    for (const request of frame[3] as unknown[]) {
      if (!Array.isArray(request) || typeof request[0] !== 'number' || typeof request[1] !== 'number') {
        log.warn({ subject: message.subject }, 'refused a malformed request in a frame')
        continue
      }
      const [id, remainingMs, body, credits] = request as [number, number, unknown, number]
      // Too late: nobody waits any more.
      if (remainingMs <= 0) continue
      const leftMs = credits > 0 ? remainingMs : remainingMs - waitedMs
      const call = new Incoming(origin, id, leftMs, body, credits, open)
      if (leftMs > 0) take(call)
      else refuse(call, new CallError('TIMEOUT', 'not-applied', `stood still for ${Math.round(waitedMs)} ms: too late`))
    }
  }

  function take(call: Incoming): void {
    if (inFlight >= inFlightMax)
      return refuse(call, new CallError('OVERLOADED', 'not-applied', `${inFlight} calls in work`))
    inFlight++
    let result: unknown
    try {
      result = options.handle(call)
    } catch (error) {
      inFlight--
      return refuse(call, error)
    }
    if (result instanceof Promise)
      result.then(
        (value) => end(call, value),
        (error: unknown) => {
          inFlight--
          refuse(call, error)
        },
      )
    else end(call, result)
  }

  function end(call: Incoming, value: unknown): void {
    inFlight--
    if (!call.stream) answer(call.origin.replyTo, call.id, false, value)
  }

  function refuse(call: Incoming, error: unknown): void {
    const data = errorData(error)
    if (data.code === 'INTERNAL') log.error({ err: error, subject: call.subject }, 'a call failed by a bug')
    if (call.stream) call.stream.end('failed', data)
    else answer(call.origin.replyTo, call.id, true, data)
  }

  function open(call: Incoming, streamOptions: OutStreamOptions): Writer {
    const { id, credits } = call
    const { replyTo } = call.origin
    if (credits <= 0) throw new CallError('BAD_FRAME', 'not-applied', 'the caller did not ask for a stream')
    if (call.stream) throw new Error('openStream called twice')
    if (streams.size >= streamsMax) throw new CallError('OVERLOADED', 'not-applied', `${streamsMax} streams open`)
    const key = `${replyTo} ${id}`
    // The acceptance leaves before the first message: both travel on the same subject.
    answer(replyTo, id, false, null)
    flush()
    const stream = new Writer(world, frames, call.subject, replyTo, id, credits, streamOptions, () =>
      streams.delete(key),
    )
    streams.set(key, stream)
    return stream
  }

  function answer(replyTo: string, id: number, failed: boolean, body: unknown): void {
    const waiting = answers.get(replyTo)
    if (waiting) waiting.push([id, failed, body])
    else answers.set(replyTo, [[id, failed, body]])
    if (deferred) return
    deferred = true
    clock.defer(flush)
  }

  function flush(): void {
    deferred = false
    const ready = [...answers]
    answers.clear()
    for (const [replyTo, list] of ready) {
      try {
        publishAnswers(replyTo, list)
      } catch (error) {
        // The asker learns by its deadline that it may have happened.
        log.warn({ err: error, replyTo }, 'answers not sent')
      }
    }
  }

  /** Small ones together; large ones each by itself, so that the bound is not one on all that were ready at the same time. */
  function publishAnswers(replyTo: string, list: readonly [id: number, failed: boolean, body: unknown][]): void {
    if (list.length > 1 && frames.publishIfSmall(replyTo, [WIRE_VERSION, 'ans', list])) return
    for (const one of list)
      try {
        frames.publish(replyTo, [WIRE_VERSION, 'ans', [one]], undefined)
      } catch (error) {
        if (!(error instanceof BusError && error.code === 'PAYLOAD_TOO_LARGE')) throw error
        const why = new CallError('PAYLOAD_TOO_LARGE', 'maybe-applied', `the answer is too large: ${error.message}`)
        frames.publish(replyTo, [WIRE_VERSION, 'ans', [[one[0], true, errorData(why)]]], undefined)
      }
  }
}

/** What all requests of one frame have in common. */
interface Origin {
  subject: string
  tokens: readonly string[]
  from: string
  verb: string
  replyTo: string
  trace: string | undefined
  atMs: number
}

function originOf(subject: string, replyTo: string, trace: string | null, atMs: number): Origin {
  const tokens = subject.split('.')
  const fromAt = tokens.lastIndexOf('from')
  return {
    subject,
    tokens,
    from: fromAt >= 0 ? (tokens[fromAt + 1] ?? '') : '',
    verb: tokens[tokens.length - 1] as string,
    replyTo,
    trace: trace ?? undefined,
    atMs,
  }
}

class Incoming implements IncomingCall {
  stream: Writer | undefined
  readonly deadlineMs: number

  constructor(
    readonly origin: Origin,
    readonly id: number,
    remainingMs: number,
    readonly body: unknown,
    readonly credits: number,
    private readonly open: (call: Incoming, options: OutStreamOptions) => Writer,
  ) {
    this.deadlineMs = origin.atMs + remainingMs
  }

  get subject(): string {
    return this.origin.subject
  }
  get tokens(): readonly string[] {
    return this.origin.tokens
  }
  get from(): string {
    return this.origin.from
  }
  get verb(): string {
    return this.origin.verb
  }
  get trace(): string | undefined {
    return this.origin.trace
  }
  get wantsStream(): boolean {
    return this.credits > 0
  }

  openStream(options: OutStreamOptions = {}): OutStream {
    const stream = this.open(this, options)
    this.stream = stream
    return stream
  }
}

/** How often a server looks whether it stood still. */
const STALL_LOOK_MS = 500
/** What is read so soon after it may have waited all the while. */
const STALL_BACKLOG_MS = 1000

/** Tells how long a message that is read now may have waited unread. */
class Stalls {
  private lookedMs: number
  private stalledMs = 0
  private backlogUntilMs = 0
  readonly stop: () => void

  constructor(private readonly clock: WireWorld['clock']) {
    this.lookedMs = clock.monotonicMs()
    this.stop = every(clock, STALL_LOOK_MS, () => {
      this.waitedMs()
      this.lookedMs = clock.monotonicMs()
    })
  }

  waitedMs(): number {
    const now = this.clock.monotonicMs()
    const gapMs = now - this.lookedMs
    // Whichever comes first after it, a message or the look, sees the gap.
    if (gapMs > 2 * STALL_LOOK_MS) {
      this.stalledMs = gapMs
      this.backlogUntilMs = now + STALL_BACKLOG_MS
      this.lookedMs = now
    }
    return now < this.backlogUntilMs ? this.stalledMs : 0
  }
}

/**
 * May an answer go there? The bus vouches for the asker's token in the subject, not for the reply subject that it states:
 * that must lie below the asker's own inbox, or an identity could have us speak into another one's (promise A2).
 */
function answersToAsker(subject: string, replyTo: string): boolean {
  const tokens = subject.split('.')
  const from = tokens.lastIndexOf('from')
  return from < 0 || replyTo.startsWith(`${tokens[0]}.${tokens[1]}.inbox.${tokens[from + 1]}.`)
}

/** The writing end of one stream. */
class Writer implements OutStream {
  ended = false
  private seq = 0
  private readonly queue: unknown[] = []
  private starvedMs: number | undefined
  private sentMs: number
  private heardMs: number
  private readonly stopBeating: () => void
  private readonly endListeners: ((reason: string) => void)[] = []
  private readonly roomListeners: (() => void)[] = []
  /** Where all of it goes. Shared streams of one caller have the same. */
  readonly subjectOut: string

  constructor(
    private readonly world: WireWorld,
    private readonly frames: FramePublisher,
    readonly subject: string,
    replyTo: string,
    private readonly id: number,
    private credits: number,
    private readonly options: OutStreamOptions,
    private readonly forget: () => void,
  ) {
    const { clock } = world
    this.subjectOut = options.shared ? `${replyTo.slice(0, replyTo.lastIndexOf('.'))}.s` : replyTo
    this.sentMs = clock.monotonicMs()
    this.heardMs = this.sentMs
    let tickedMs = this.sentMs
    this.stopBeating = every(clock, BEAT_PERIOD_MS, () => {
      const now = clock.monotonicMs()
      // As in Reader: only time in which this side could have heard counts.
      if (now - tickedMs > 2 * BEAT_PERIOD_MS) this.heardMs = now
      tickedMs = now
      if (now - this.heardMs > READER_GONE_MS) this.finish('lost')
      else if (this.starvedMs !== undefined && now - this.starvedMs > (this.options.noCreditMs ?? NO_CREDIT_MS))
        this.end('lagging')
      else if (this.queue.length === 0 && now - this.sentMs >= BEAT_PERIOD_MS / 2)
        this.publish('beat', this.options.position?.() ?? null)
      else if (this.queue.length > 0) this.publish('beat', null)
    })
  }

  get waiting(): number {
    return this.queue.length
  }

  send(body: unknown): boolean {
    if (this.ended) return false
    if (this.credits > 0 && this.queue.length === 0) {
      this.credits--
      this.seq++
      this.publish('data', body)
      return !this.ended
    }
    if (this.queue.length >= (this.options.queueMax ?? 1024)) {
      this.end('lagging')
      return false
    }
    this.starvedMs ??= this.world.clock.monotonicMs()
    this.queue.push(body)
    return true
  }

  control(what: string, count: number): void {
    this.heardMs = this.world.clock.monotonicMs()
    if (what === 'cancel') return this.finish('cancelled')
    if (what !== 'credit' || !Number.isInteger(count) || count <= 0) return
    this.credits += count
    this.starvedMs = undefined
    const waited = this.queue.length > 0
    while (this.credits > 0 && this.queue.length > 0 && !this.ended) {
      this.credits--
      this.seq++
      this.publish('data', this.queue.shift())
    }
    if (this.queue.length > 0) this.starvedMs = this.world.clock.monotonicMs()
    else if (waited) for (const listener of this.roomListeners) listener()
  }

  /** One of several that the same message may carry. */
  get mayShare(): boolean {
    return this.options.shared === true && !this.ended && this.credits > 0 && this.queue.length === 0
  }

  /** Sends a body on all of `writers` (this one among them), which go to the same subject and may share. */
  publishFor(writers: readonly Writer[], encoded: Uint8Array): void {
    const now = this.world.clock.monotonicMs()
    const numbers = writers.map((writer) => {
      writer.credits--
      writer.sentMs = now
      return [writer.id, ++writer.seq]
    })
    try {
      this.frames.publishWith(this.subjectOut, [WIRE_VERSION, 'mul', numbers], encoded)
    } catch (error) {
      this.world.log.debug({ err: error, to: this.subjectOut }, 'stream message not sent')
      for (const writer of writers) writer.finish('lost')
    }
  }

  end(reason: string, error?: ErrorData): void {
    if (this.ended) return
    this.seq++
    this.publish('end', error ? { reason, error } : { reason })
    this.finish(reason)
  }

  onEnd(listener: (reason: string) => void): void {
    this.endListeners.push(listener)
  }

  onRoom(listener: () => void): void {
    this.roomListeners.push(listener)
  }

  private publish(kind: 'data' | 'beat' | 'end', body: unknown): void {
    this.sentMs = this.world.clock.monotonicMs()
    try {
      this.frames.publish(this.subjectOut, [WIRE_VERSION, 'str', this.id, this.seq, kind, body], undefined)
    } catch (error) {
      // The reader sees a gap or silence and resumes from what it has.
      this.world.log.debug({ err: error, to: this.subjectOut }, 'stream message not sent')
      this.finish('lost')
    }
  }

  private finish(reason: string): void {
    if (this.ended) return
    this.ended = true
    this.stopBeating()
    this.queue.length = 0
    this.forget()
    for (const listener of this.endListeners) listener(reason)
  }
}

// -------------------------------------------------------------------------------------------------------------- frames

/** Publishes frames of one caller or server; one that is too large for a message goes in pieces. */
class FramePublisher {
  private nextKey = 1

  constructor(private readonly bus: Bus) {}

  /** @throws BusError */
  publish(subject: string, frame: unknown[], replyTo: string | undefined): void {
    this.publishBytes(subject, encode(frame), replyTo)
  }

  /** If it fits into one message. Returns whether it did. @throws BusError */
  publishIfSmall(subject: string, frame: unknown[]): boolean {
    const bytes = encode(frame)
    if (bytes.length > this.bus.payloadBytesMax) return false
    this.bus.publish(subject, bytes)
    return true
  }

  /** A frame of one more member, which is encoded already. @throws BusError */
  publishWith(subject: string, frame: readonly unknown[], last: Uint8Array): void {
    const head = encode(frame)
    const bytes = new Uint8Array(head.length + last.length)
    bytes.set(head)
    bytes.set(last, head.length)
    // A msgpack array of fewer than 16 members says their number in its first byte.
    bytes[0] = (head[0] as number) + 1
    this.publishBytes(subject, bytes, undefined)
  }

  private publishBytes(subject: string, bytes: Uint8Array, replyTo: string | undefined): void {
    const options = replyTo === undefined ? {} : { replyTo }
    if (bytes.length <= this.bus.payloadBytesMax) return this.bus.publish(subject, bytes, options)
    if (bytes.length > CHUNKED_BYTES_MAX)
      throw new BusError('PAYLOAD_TOO_LARGE', `a frame of ${bytes.length} bytes; at most ${CHUNKED_BYTES_MAX}`)
    const pieceBytes = this.bus.payloadBytesMax - 256
    const count = Math.ceil(bytes.length / pieceBytes)
    const key = this.nextKey++
    for (let index = 0; index < count; index++) {
      const piece = bytes.subarray(index * pieceBytes, (index + 1) * pieceBytes)
      this.bus.publish(subject, encode([WIRE_VERSION, 'chk', key, index, count, piece]), options)
    }
  }
}

/** Names of frames that came lately: a bounded number, for a bounded time. The oldest gives way. */
class SeenFrames {
  /** When each came, in that order. */
  private readonly atMs = new Map<string, number>()

  constructor(private readonly world: Pick<World, 'clock'>) {}

  /** Has it come before? Remembers it if not. */
  before(name: string): boolean {
    const now = this.world.clock.monotonicMs()
    for (const [other, atMs] of this.atMs) {
      if (now - atMs <= SEEN_MS && this.atMs.size < SEEN_FRAMES_MAX) break
      this.atMs.delete(other)
    }
    if (this.atMs.has(name)) return true
    this.atMs.set(name, now)
    return false
  }
}

/** Puts the pieces of large frames together again: a bounded number, of bounded size and age. The oldest gives way. */
class Reassembly {
  private readonly partial = new Map<string, { pieces: Uint8Array[]; bytes: number; startedMs: number }>()

  constructor(private readonly world: WireWorld) {}

  /** The frame that this message is or completes. Garbage is logged and dropped. */
  frame(message: BusMessage): unknown[] | undefined {
    const frame = this.parse(message, message.payload)
    if (frame?.[1] !== 'chk') return frame
    const [, , key, index, count, bytes] = frame as [number, string, number, number, number, Uint8Array]
    if (!(bytes instanceof Uint8Array) || !Number.isInteger(index) || !Number.isInteger(count)) return undefined
    // The reply subject is the caller's own: pieces of two callers never mix.
    const name = `${message.subject} ${message.replyTo ?? ''} ${key}`
    const now = this.world.clock.monotonicMs()
    const begun = this.partial.get(name)
    if (begun && index < begun.pieces.length && now - begun.startedMs <= CHUNKED_AGE_MS) return undefined // Doubled.
    if (index === 0) {
      for (const [other, entry] of this.partial)
        if (now - entry.startedMs > CHUNKED_AGE_MS || this.partial.size >= CHUNKED_FRAMES_MAX)
          this.partial.delete(other)
      this.partial.set(name, { pieces: [], bytes: 0, startedMs: now })
    }
    const entry = this.partial.get(name)
    if (!entry) return undefined
    entry.bytes += bytes.length
    if (entry.pieces.length !== index || entry.bytes > CHUNKED_BYTES_MAX) {
      this.partial.delete(name)
      this.world.log.warn(
        { subject: message.subject, bytes: entry.bytes },
        'dropped a large frame: too large, or a piece is missing',
      )
      return undefined
    }
    entry.pieces.push(bytes)
    if (entry.pieces.length < count) return undefined
    this.partial.delete(name)
    const whole = new Uint8Array(entry.bytes)
    let at = 0
    for (const piece of entry.pieces) {
      whole.set(piece, at)
      at += piece.length
    }
    return this.parse(message, whole)
  }

  private parse(message: BusMessage, bytes: Uint8Array): unknown[] | undefined {
    try {
      const frame = decode(bytes)
      if (Array.isArray(frame) && frame[0] === WIRE_VERSION) return frame
    } catch {
      // Told below, with what is known of it.
    }
    this.world.log.warn(
      { subject: message.subject, bytes: bytes.length },
      'refused a message that is no frame of this wire version',
    )
    return undefined
  }
}
