import { type Bus, BusError, type BusMessage, type Subscription } from '@capstan/actor'
import { type Grants, subjectFits } from '@capstan/protocol'
import type { Network } from './network.js'

/** What a connection needs of the process that holds it. */
export interface BusHost {
  readonly machine: string
  /** False once the process is dead. */
  readonly alive: boolean
  after(delayMs: number, what: string, run: () => void): { cancel(): void }
}

const PENDING_MAX = 65_536

interface Listener {
  pattern: string
  /** The pattern without wildcards: most subscriptions. */
  receive: (message: BusMessage) => void
}

/** One simulated connection: the same contract as NATS, on a network that does as the seed says. */
export class SimBus implements Bus {
  readonly identity: string
  readonly inbox: string
  epoch = 1
  connected = true
  /** Messages on their way to this connection. */
  pending = 0
  private closed = false
  private readonly grants: Grants
  private readonly listeners = new Set<Listener>()
  private readonly requests = new Map<
    string,
    { resolve(m: BusMessage): void; reject(e: BusError): void; timer: { cancel(): void } }
  >()
  private readonly mayAnswer = new Map<string, number>()
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
    network.join(this)
  }

  get payloadBytesMax(): number {
    return this.network.payloadBytesMax
  }

  publish(subject: string, payload: Uint8Array, options: { replyTo?: string } = {}): void {
    if (this.closed || !this.host.alive) throw new BusError('CLOSED', 'the connection is closed')
    if (!this.connected) throw new BusError('DISCONNECTED', 'no server is connected')
    if (payload.length > this.payloadBytesMax)
      throw new BusError('PAYLOAD_TOO_LARGE', `${payload.length} bytes; at most ${this.payloadBytesMax}`)
    if (!this.mayPublish(subject)) throw new BusError('DENIED', `${this.identity} may not publish on ${subject}`)
    this.network.send(this, { subject, payload: payload.slice(), replyTo: options.replyTo })
  }

  subscribe(pattern: string, receive: (message: BusMessage) => void): Subscription {
    if (this.closed) throw new BusError('CLOSED', 'the connection is closed')
    if (!this.grants.subscribe.some((granted) => subjectFits(granted, pattern)))
      throw new BusError('DENIED', `${this.identity} may not subscribe to ${pattern}`)
    const listener = { pattern, receive }
    this.listeners.add(listener)
    return { unsubscribe: () => void this.listeners.delete(listener) }
  }

  request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<BusMessage> {
    return new Promise((resolve, reject) => {
      const replyTo = `${this.inbox}.request.${this.nextRequest++}`
      const timer = this.host.after(options.timeoutMs, 'request timeout', () => {
        this.requests.delete(replyTo)
        reject(new BusError('TIMEOUT', `no answer on ${subject} in ${options.timeoutMs} ms`))
      })
      this.requests.set(replyTo, { resolve, reject, timer })
      try {
        this.publish(subject, payload, { replyTo })
      } catch (error) {
        this.requests.delete(replyTo)
        timer.cancel()
        reject(error)
      }
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
    this.network.leave(this)
    this.listeners.clear()
    this.failRequests('CLOSED')
    this.tell()
  }

  listensTo(subject: string): boolean {
    if (this.requests.has(subject)) return true
    for (const { pattern } of this.listeners) if (pattern === subject || subjectFits(pattern, subject)) return true
    return false
  }

  get overloaded(): boolean {
    return this.pending >= PENDING_MAX
  }

  receive(message: BusMessage): void {
    if (this.closed || !this.connected) return
    const { allowResponses } = this.grants
    if (allowResponses && message.replyTo !== undefined) this.mayAnswer.set(message.replyTo, allowResponses.max)
    const request = this.requests.get(message.subject)
    if (request) {
      this.requests.delete(message.subject)
      request.timer.cancel()
      if (message.noResponders) request.reject(new BusError('NO_RESPONDERS', 'nobody listens on the subject'))
      else request.resolve(message)
      return
    }
    for (const { pattern, receive } of [...this.listeners])
      if (pattern === message.subject || subjectFits(pattern, message.subject)) receive(message)
  }

  /** Its server went away; for as long as the nemesis says nothing comes or goes. */
  disconnect(): void {
    if (this.closed || !this.connected) return
    this.connected = false
    this.failRequests('CONNECTION_LOST')
    this.tell()
  }

  reconnect(): void {
    if (this.closed || this.connected) return
    this.connected = true
    this.epoch++
    this.tell()
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

  private mayPublish(subject: string): boolean {
    if (this.grants.publish.some((pattern) => subjectFits(pattern, subject))) return true
    const left = this.mayAnswer.get(subject)
    if (left === undefined || left <= 0) return false
    this.mayAnswer.set(subject, left - 1)
    return true
  }
}
