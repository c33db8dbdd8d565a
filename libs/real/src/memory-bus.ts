import { type Bus, BusError, type BusMessage, type Subscription } from '@capstan/actor'
import { type Grants, subjectFits } from '@capstan/protocol'
import { checkSubject, SubjectTree } from './subject-tree.js'

const PAYLOAD_BYTES_MAX = 1024 * 1024
/** Messages that may wait for one connection; one more is refused to its sender as OVERLOADED. */
const PENDING_MAX = 65_536
/** And their bytes: what a NATS server lets wait for one connection. */
const PENDING_BYTES_MAX = 64 * 1024 * 1024
/** Requests of one connection that wait for their answers; one more is refused as OVERLOADED. */
const REQUESTS_MAX = 65_536
/** Reply subjects that one connection may still answer on; the oldest gives way. */
const ANSWERABLE_MAX = 65_536

export interface MemoryBrokerOptions {
  payloadBytesMax?: number
  pendingMax?: number
  pendingBytesMax?: number
}

/** The broker of an in-process bus: the same contract as NATS, with nothing installed. */
export class MemoryBroker {
  readonly payloadBytesMax: number
  readonly pendingMax: number
  readonly pendingBytesMax: number
  private readonly listeners = new SubjectTree<Listener>()

  constructor(options: MemoryBrokerOptions = {}) {
    this.payloadBytesMax = options.payloadBytesMax ?? PAYLOAD_BYTES_MAX
    this.pendingMax = options.pendingMax ?? PENDING_MAX
    this.pendingBytesMax = options.pendingBytesMax ?? PENDING_BYTES_MAX
  }

  connect(options: { identity: string; inbox: string; grants: Grants }): MemoryBus {
    return new MemoryBus(this, options)
  }

  /** Delivers to all who listen; how many do. To all or none: @throws BusError OVERLOADED if one of them is full. */
  route(message: BusMessage): number {
    const listening = this.listeners.find(message.subject)
    for (const { bus } of listening)
      if (bus.pending >= this.pendingMax || bus.pendingBytes + message.payload.length > this.pendingBytesMax)
        throw new BusError(
          'OVERLOADED',
          `${bus.identity} has ${bus.pending} messages waiting (${bus.pendingBytes} bytes)`,
        )
    // Each listener has its own copy, as from a socket: nobody sees what another one (or the sender) does to it.
    for (const listener of listening) listener.bus.deliver(listener, { ...message, payload: copyOf(message.payload) })
    return listening.length
  }

  add(listener: Listener): void {
    this.listeners.add(listener.pattern, listener)
  }

  remove(listener: Listener): void {
    this.listeners.remove(listener.pattern, listener)
  }
}

interface Listener {
  readonly bus: MemoryBus
  readonly pattern: string
  readonly receive: (message: BusMessage) => void
  live: boolean
}

interface PendingRequest {
  resolve(message: BusMessage): void
  reject(error: BusError): void
  timer: NodeJS.Timeout
}

export class MemoryBus implements Bus {
  readonly identity: string
  readonly inbox: string
  readonly epoch = 1
  connected = true
  /** Bytes of the messages that wait for this connection. */
  pendingBytes = 0
  private readonly grants: Grants
  private readonly listeners = new Set<Listener>()
  private queue: { listener: Listener; message: BusMessage }[] = []
  private draining = false
  private readonly answers: Listener
  private readonly requests = new Map<string, PendingRequest>()
  private readonly answerable = new Map<string, { left: number; untilMs: number }>()
  private readonly changeListeners = new Set<(state: { connected: boolean; epoch: number }) => void>()
  private nextRequest = 1

  constructor(
    private readonly broker: MemoryBroker,
    options: { identity: string; inbox: string; grants: Grants },
  ) {
    this.identity = options.identity
    this.inbox = options.inbox
    this.grants = options.grants
    this.answers = this.listen(`${this.inbox}.request.*`, (message) => this.receiveAnswer(message))
  }

  get payloadBytesMax(): number {
    return this.broker.payloadBytesMax
  }

  /** Messages that wait for this connection. */
  get pending(): number {
    return this.queue.length
  }

  publish(subject: string, payload: Uint8Array, options: { replyTo?: string } = {}): void {
    const { replyTo } = options
    checkSubject(subject)
    if (replyTo !== undefined) checkSubject(replyTo)
    if (!this.connected) throw new BusError('CLOSED', 'the connection is closed')
    if (payload.length > this.payloadBytesMax)
      throw new BusError('PAYLOAD_TOO_LARGE', `${payload.length} bytes; at most ${this.payloadBytesMax}`)
    if (!this.mayPublish(subject)) throw new BusError('DENIED', `${this.identity} may not publish on ${subject}`)
    const heard = this.broker.route({ subject, payload, replyTo })
    if (heard === 0 && replyTo?.startsWith(`${this.inbox}.`)) {
      const word = { subject: replyTo, payload: new Uint8Array(0), replyTo: undefined, noResponders: true }
      for (const listener of this.listeners) if (subjectFits(listener.pattern, replyTo)) this.deliver(listener, word)
    }
  }

  subscribe(pattern: string, receive: (message: BusMessage) => void): Subscription {
    checkSubject(pattern)
    if (!this.connected) throw new BusError('CLOSED', 'the connection is closed')
    if (!this.grants.subscribe.some((granted) => subjectFits(granted, pattern)))
      throw new BusError('DENIED', `${this.identity} may not subscribe to ${pattern}`)
    const listener = this.listen(pattern, receive)
    return { unsubscribe: () => this.forget(listener) }
  }

  request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<BusMessage> {
    return new Promise((resolve, reject) => {
      if (this.requests.size >= REQUESTS_MAX) throw new BusError('OVERLOADED', `${REQUESTS_MAX} requests outstanding`)
      const replyTo = `${this.inbox}.request.${this.nextRequest++}`
      this.publish(subject, payload, { replyTo })
      // Nothing is delivered before the present turn ends.
      const timer = setTimeout(() => {
        this.requests.delete(replyTo)
        reject(new BusError('TIMEOUT', `no answer on ${subject} in ${options.timeoutMs} ms`))
      }, options.timeoutMs)
      this.requests.set(replyTo, { resolve, reject, timer })
    })
  }

  onChange(listener: (state: { connected: boolean; epoch: number }) => void): () => void {
    this.changeListeners.add(listener)
    return () => this.changeListeners.delete(listener)
  }

  async close(): Promise<void> {
    if (!this.connected) return
    this.connected = false
    for (const listener of [...this.listeners]) this.forget(listener)
    this.queue = []
    this.pendingBytes = 0
    for (const request of this.requests.values()) {
      clearTimeout(request.timer)
      request.reject(new BusError('CLOSED', 'the connection was closed'))
    }
    this.requests.clear()
    for (const listener of [...this.changeListeners]) listener({ connected: false, epoch: this.epoch })
  }

  /** For the broker: in order, in a later turn, as from a socket. */
  deliver(listener: Listener, message: BusMessage): void {
    this.queue.push({ listener, message })
    this.pendingBytes += message.payload.length
    if (this.draining) return
    this.draining = true
    setImmediate(() => this.drain())
  }

  private drain(): void {
    this.draining = false
    const { queue } = this
    this.queue = []
    this.pendingBytes = 0
    for (const { listener, message } of queue) {
      if (!listener.live) continue
      if (message.replyTo !== undefined) this.allowAnswer(message.replyTo)
      try {
        listener.receive(message)
      } catch (error) {
        // A bug of the receiver: as loud as it can be, but the messages of others still come.
        setImmediate(() => {
          throw error
        })
      }
    }
  }

  private receiveAnswer(message: BusMessage): void {
    const request = this.requests.get(message.subject)
    if (!request) return // Late, or a second answer.
    this.requests.delete(message.subject)
    clearTimeout(request.timer)
    if (message.noResponders) request.reject(new BusError('NO_RESPONDERS', 'nobody listens on the subject'))
    else request.resolve(message)
  }

  private listen(pattern: string, receive: (message: BusMessage) => void): Listener {
    const listener = { bus: this, pattern, receive, live: true }
    this.listeners.add(listener)
    this.broker.add(listener)
    return listener
  }

  private forget(listener: Listener): void {
    if (!listener.live) return
    listener.live = false
    this.listeners.delete(listener)
    this.broker.remove(listener)
  }

  private allowAnswer(replyTo: string): void {
    const { allowResponses } = this.grants
    if (!allowResponses) return
    // Each message on it renews what may be answered, as with NATS.
    this.answerable.delete(replyTo)
    this.answerable.set(replyTo, { left: allowResponses.max, untilMs: performance.now() + allowResponses.expiresMs })
    if (this.answerable.size > ANSWERABLE_MAX)
      for (const oldest of this.answerable.keys()) return void this.answerable.delete(oldest)
  }

  private mayPublish(subject: string): boolean {
    if (this.grants.publish.some((pattern) => subjectFits(pattern, subject))) return true
    const allowed = this.answerable.get(subject)
    if (!allowed) return false
    if (allowed.untilMs >= performance.now() && allowed.left-- > 0) return true
    this.answerable.delete(subject)
    return false
  }
}

const copyOf = (bytes: Uint8Array) => new Uint8Array(bytes)
