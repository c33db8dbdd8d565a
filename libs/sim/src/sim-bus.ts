import { type Bus, BusError, type BusMessage, type Subscription } from '@capstan/actor'
import { checkSubject, type Grants, subjectFits } from '@capstan/protocol'
import type { Network } from './network.js'

/** What a connection needs of the process that holds it. */
export interface BusHost {
  readonly machine: string
  /** False once the process is dead. */
  readonly alive: boolean
  /** Runs `run` in the process, so long after now by its clock; never once it is dead. */
  after(delayMs: number, what: string, run: () => void): { cancel(): void }
  /** The same at a virtual time. */
  at(atMs: number, what: string, run: () => void): void
  monotonicMs(): number
}

/** Bounds of what may be on its way to one connection; beyond them its server takes it for a slow consumer. */
const PENDING_MAX = 65_536
const PENDING_BYTES_MAX = 64 * 1024 * 1024
/** How long a slow consumer is without a connection. */
const RECONNECT_MS = 100
const REQUESTS_MAX = 65_536
/** Reply subjects that one connection may still answer on; the oldest gives way. */
const ANSWERABLE_MAX = 65_536
/** Granted subjects that are remembered; others are looked up each time. */
const GRANTED_MAX = 256

export interface Listener {
  readonly bus: SimBus
  readonly pattern: string
  readonly receive: (message: BusMessage) => void
  live: boolean
}

interface PendingRequest {
  resolve(message: BusMessage): void
  reject(error: BusError): void
  timer: { cancel(): void }
}

/** One simulated connection: the same contract as NATS, on a network that does as the seed says. */
export class SimBus implements Bus {
  readonly identity: string
  readonly inbox: string
  /** Rises with each connection of this network: an order that is the same in each run. */
  readonly number: number
  epoch = 1
  connected = true
  /** The server is gone; the process learns it when it next runs. */
  private severed = false
  private closed = false
  /** On its way to this connection. */
  private pending = 0
  private pendingBytes = 0
  private readonly grants: Grants
  /** Subjects that it has published on by its grants, which do not change. */
  private readonly granted = new Set<string>()
  private readonly listeners = new Set<Listener>()
  private readonly requests = new Map<string, PendingRequest>()
  private readonly answerable = new Map<string, { left: number; untilMs: number }>()
  private readonly changeListeners = new Set<(state: { connected: boolean; epoch: number }) => void>()
  private nextRequest = 1

  constructor(
    private readonly network: Network,
    readonly host: BusHost,
    options: { identity: string; inbox: string; grants: Grants },
  ) {
    this.identity = options.identity
    this.inbox = options.inbox
    this.grants = options.grants
    this.number = network.join(this)
    this.listen(`${this.inbox}.request.*`, (message) => this.receiveAnswer(message))
  }

  get payloadBytesMax(): number {
    return this.network.payloadBytesMax
  }

  publish(subject: string, payload: Uint8Array, options: { replyTo?: string } = {}): void {
    const { replyTo } = options
    if (!this.granted.has(subject)) checkSubject(subject)
    if (replyTo !== undefined) checkSubject(replyTo)
    if (this.closed || !this.host.alive) throw new BusError('CLOSED', 'the connection is closed')
    if (!this.connected) throw new BusError('DISCONNECTED', 'no server is connected')
    if (payload.length > this.payloadBytesMax)
      throw new BusError('PAYLOAD_TOO_LARGE', `${payload.length} bytes; at most ${this.payloadBytesMax}`)
    if (!this.mayPublish(subject)) throw new BusError('DENIED', `${this.identity} may not publish on ${subject}`)
    if (this.severed) {
      this.network.counters.lost++
      return
    }
    this.network.send(this, { subject, payload: copyOf(payload), replyTo })
  }

  subscribe(pattern: string, receive: (message: BusMessage) => void): Subscription {
    checkSubject(pattern)
    if (this.closed) throw new BusError('CLOSED', 'the connection is closed')
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
      const timer = this.host.after(options.timeoutMs, 'request timeout', () => {
        this.requests.delete(replyTo)
        reject(new BusError('TIMEOUT', `no answer on ${subject} in ${options.timeoutMs} ms`))
      })
      this.requests.set(replyTo, { resolve, reject, timer })
    })
  }

  onChange(listener: (state: { connected: boolean; epoch: number }) => void): () => void {
    this.changeListeners.add(listener)
    return () => this.changeListeners.delete(listener)
  }

  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    this.connected = false
    for (const listener of [...this.listeners]) this.forget(listener)
    this.network.leave(this)
    this.failRequests('CLOSED')
    this.tell()
  }

  /**
   * Nemesis: its server goes away. Nothing comes or goes from now on; the process learns it when it next runs (a paused
   * one goes on believing that it is connected).
   */
  disconnect(): void {
    if (this.closed || this.severed) return
    this.severed = true
    this.host.after(0, 'disconnected', () => {
      if (this.closed || !this.connected) return
      this.connected = false
      this.failRequests('CONNECTION_LOST')
      this.tell()
    })
  }

  /** Nemesis: it finds a server again, in a new epoch. */
  reconnect(): void {
    if (this.closed || !this.severed) return
    this.host.after(0, 'reconnected', () => {
      if (this.closed || !this.severed) return
      this.severed = false
      this.connected = true
      this.epoch++
      this.network.forgetOrder(this)
      this.tell()
    })
  }

  // ---- for the network

  /** False: a slow consumer, whose server has just shut the door on it. */
  hasRoom(message: BusMessage): boolean {
    if (this.severed) return false
    if (this.pending < PENDING_MAX && this.pendingBytes + message.payload.length <= PENDING_BYTES_MAX) return true
    this.network.counters.slowConsumers++
    this.disconnect()
    this.host.after(RECONNECT_MS, 'slow consumer', () => this.reconnect())
    return false
  }

  expect(message: BusMessage): void {
    this.pending++
    this.pendingBytes += message.payload.length
  }

  lose(message: BusMessage): void {
    this.pending--
    this.pendingBytes -= message.payload.length
  }

  receive(message: BusMessage, listeners: readonly Listener[]): void {
    this.lose(message)
    if (this.closed || this.severed) {
      this.network.counters.lost++
      return
    }
    for (const listener of listeners) {
      if (!listener.live) continue
      if (message.replyTo !== undefined) this.allowAnswer(message.replyTo)
      // Each has a copy of its own, as from a socket: nobody sees what another one does to it.
      listener.receive({ ...message, payload: copyOf(message.payload) })
    }
  }

  private receiveAnswer(message: BusMessage): void {
    const request = this.requests.get(message.subject)
    if (!request) return // Late, or a second answer.
    this.requests.delete(message.subject)
    request.timer.cancel()
    if (message.noResponders) request.reject(new BusError('NO_RESPONDERS', 'nobody listens on the subject'))
    else request.resolve(message)
  }

  private listen(pattern: string, receive: (message: BusMessage) => void): Listener {
    const listener: Listener = { bus: this, pattern, receive, live: true }
    this.listeners.add(listener)
    this.network.add(listener)
    return listener
  }

  private forget(listener: Listener): void {
    if (!listener.live) return
    listener.live = false
    this.listeners.delete(listener)
    this.network.remove(listener)
  }

  /** Its machine crashed: the broker forgets it; nobody in it is told. */
  abandon(): void {
    for (const listener of [...this.listeners]) this.forget(listener)
    this.network.leave(this)
  }

  private failRequests(code: 'CLOSED' | 'CONNECTION_LOST'): void {
    for (const request of this.requests.values()) {
      request.timer.cancel()
      request.reject(new BusError(code, 'the connection ended before the answer'))
    }
    this.requests.clear()
  }

  private tell(): void {
    for (const listener of [...this.changeListeners]) listener({ connected: this.connected, epoch: this.epoch })
  }

  private allowAnswer(replyTo: string): void {
    const { allowResponses } = this.grants
    if (!allowResponses) return
    this.answerable.delete(replyTo)
    this.answerable.set(replyTo, {
      left: allowResponses.max,
      untilMs: this.host.monotonicMs() + allowResponses.expiresMs,
    })
    if (this.answerable.size > ANSWERABLE_MAX)
      for (const oldest of this.answerable.keys()) {
        this.answerable.delete(oldest)
        return
      }
  }

  private mayPublish(subject: string): boolean {
    if (this.granted.has(subject)) return true
    if (this.grants.publish.some((pattern) => subjectFits(pattern, subject))) {
      if (this.granted.size < GRANTED_MAX) this.granted.add(subject)
      return true
    }
    const allowed = this.answerable.get(subject)
    if (!allowed) return false
    if (allowed.untilMs >= this.host.monotonicMs() && allowed.left-- > 0) return true
    this.answerable.delete(subject)
    return false
  }
}

const copyOf = (bytes: Uint8Array) => new Uint8Array(bytes)
