import { type Bus, BusError, type BusMessage, type Subscription } from '@capstan/actor'
import { type Grants, subjectFits } from '@capstan/protocol'

const PAYLOAD_BYTES_MAX = 1024 * 1024
/** Messages that may wait for one connection; one more is refused to its sender as OVERLOADED. */
const PENDING_MAX = 65_536

export interface MemoryBrokerOptions {
  payloadBytesMax?: number
  pendingMax?: number
}

/** The broker of an in-process bus: the same contract as NATS, with nothing installed. */
export class MemoryBroker {
  readonly payloadBytesMax: number
  readonly pendingMax: number
  private readonly connections = new Set<MemoryBus>()

  constructor(options: MemoryBrokerOptions = {}) {
    this.payloadBytesMax = options.payloadBytesMax ?? PAYLOAD_BYTES_MAX
    this.pendingMax = options.pendingMax ?? PENDING_MAX
  }

  connect(options: { identity: string; inbox: string; grants: Grants }): MemoryBus {
    const bus = new MemoryBus(this, options)
    this.connections.add(bus)
    return bus
  }

  /** Delivers to every connection that listens; how many did. @throws BusError OVERLOADED if one of them is full. */
  route(message: BusMessage): number {
    const listening = [...this.connections].filter((connection) => connection.listensTo(message.subject))
    for (const connection of listening)
      if (connection.pending >= this.pendingMax)
        throw new BusError('OVERLOADED', `${connection.identity} has ${connection.pending} messages waiting`)
    for (const connection of listening) connection.deliver(message)
    return listening.length
  }

  forget(connection: MemoryBus): void {
    this.connections.delete(connection)
  }
}

interface Listener {
  pattern: string
  receive: (message: BusMessage) => void
}

export class MemoryBus implements Bus {
  readonly identity: string
  readonly inbox: string
  readonly epoch = 1
  connected = true
  private readonly grants: Grants
  private readonly listeners = new Set<Listener>()
  private readonly queue: BusMessage[] = []
  private draining = false
  private readonly requests = new Map<string, { resolve(message: BusMessage): void; reject(error: BusError): void; timer: NodeJS.Timeout }>()
  private readonly mayAnswer = new Map<string, { left: number; untilMs: number }>()
  private readonly changeListeners = new Set<(state: { connected: boolean; epoch: number }) => void>()
  private nextRequest = 1

  constructor(
    private readonly broker: MemoryBroker,
    options: { identity: string; inbox: string; grants: Grants },
  ) {
    this.identity = options.identity
    this.inbox = options.inbox
    this.grants = options.grants
  }

  get payloadBytesMax(): number {
    return this.broker.payloadBytesMax
  }

  get pending(): number {
    return this.queue.length
  }

  publish(subject: string, payload: Uint8Array, options: { replyTo?: string } = {}): void {
    if (!this.connected) throw new BusError('CLOSED', 'the connection is closed')
    if (payload.length > this.payloadBytesMax) throw new BusError('PAYLOAD_TOO_LARGE', `${payload.length} bytes; at most ${this.payloadBytesMax}`)
    if (!this.mayPublish(subject)) throw new BusError('DENIED', `${this.identity} may not publish on ${subject}`)
    const { replyTo } = options
    // The sender may use its buffer again.
    const heard = this.broker.route({ subject, payload: payload.slice(), replyTo })
    if (heard === 0 && replyTo?.startsWith(`${this.inbox}.`))
      this.deliver({ subject: replyTo, payload: new Uint8Array(0), replyTo: undefined, noResponders: true })
  }

  subscribe(pattern: string, receive: (message: BusMessage) => void): Subscription {
    if (!this.connected) throw new BusError('CLOSED', 'the connection is closed')
    if (!this.grants.subscribe.some((granted) => subjectFits(granted, pattern)))
      throw new BusError('DENIED', `${this.identity} may not subscribe to ${pattern}`)
    const listener = { pattern, receive }
    this.listeners.add(listener)
    return { unsubscribe: () => void this.listeners.delete(listener) }
  }

  request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<BusMessage> {
    return new Promise((resolve, reject) => {
      const replyTo = `${this.inbox}.request.${this.nextRequest++}`
      const timer = setTimeout(() => {
        this.requests.delete(replyTo)
        reject(new BusError('TIMEOUT', `no answer on ${subject} in ${options.timeoutMs} ms`))
      }, options.timeoutMs)
      this.requests.set(replyTo, { resolve, reject, timer })
      try {
        this.publish(subject, payload, { replyTo })
      } catch (error) {
        this.requests.delete(replyTo)
        clearTimeout(timer)
        reject(error)
      }
    })
  }

  onChange(listener: (state: { connected: boolean; epoch: number }) => void): () => void {
    this.changeListeners.add(listener)
    return () => this.changeListeners.delete(listener)
  }

  async close(): Promise<void> {
    if (!this.connected) return
    this.connected = false
    this.broker.forget(this)
    this.listeners.clear()
    this.queue.length = 0
    for (const request of this.requests.values()) {
      clearTimeout(request.timer)
      request.reject(new BusError('CLOSED', 'the connection was closed'))
    }
    this.requests.clear()
    for (const listener of this.changeListeners) listener({ connected: false, epoch: this.epoch })
  }

  listensTo(subject: string): boolean {
    if (this.requests.has(subject)) return true
    for (const { pattern } of this.listeners) if (subjectFits(pattern, subject)) return true
    return false
  }

  /** In order, in a later turn, as from a socket. */
  deliver(message: BusMessage): void {
    this.queue.push(message)
    const { allowResponses } = this.grants
    if (allowResponses && message.replyTo !== undefined && !message.noResponders) this.allowAnswer(message.replyTo, allowResponses)
    if (this.draining) return
    this.draining = true
    setImmediate(() => this.drain())
  }

  private allowAnswer(replyTo: string, allow: { max: number; expiresMs: number }): void {
    const now = performance.now()
    if (this.mayAnswer.size >= PENDING_MAX) for (const [subject, { untilMs }] of this.mayAnswer) if (untilMs < now) this.mayAnswer.delete(subject)
    this.mayAnswer.set(replyTo, { left: allow.max, untilMs: now + allow.expiresMs })
  }

  private drain(): void {
    this.draining = false
    for (const message of this.queue.splice(0)) {
      const request = this.requests.get(message.subject)
      if (request) {
        this.requests.delete(message.subject)
        clearTimeout(request.timer)
        if (message.noResponders) request.reject(new BusError('NO_RESPONDERS', 'nobody listens on the subject'))
        else request.resolve(message)
        continue
      }
      for (const { pattern, receive } of [...this.listeners]) if (subjectFits(pattern, message.subject)) receive(message)
    }
  }

  private mayPublish(subject: string): boolean {
    if (this.grants.publish.some((pattern) => subjectFits(pattern, subject))) return true
    const allowed = this.mayAnswer.get(subject)
    if (!allowed || allowed.left <= 0 || allowed.untilMs < performance.now()) return false
    allowed.left--
    return true
  }
}
