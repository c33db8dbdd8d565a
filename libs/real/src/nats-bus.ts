import { type Bus, BusError, type BusMessage, type Log, type Subscription } from '@capstan/actor'
import { type Grants, subjectFits } from '@capstan/protocol'
import { connect, credsAuthenticator, type Msg, type NatsConnection, type Subscription as NatsSubscription } from 'nats'

const RECONNECT_MS = 50
const RECONNECT_MS_MAX = 1000
const PING_MS = 1000
const PINGS_OUT_MAX = 2
/** Bytes that may wait in the socket; then publishing is refused as OVERLOADED. */
const SEND_BUFFER_BYTES_MAX = 64 * 1024 * 1024
const NO_RESPONDERS_STATUS = 503

export interface NatsBusOptions {
  /** `host:port`, the preferred one first; after a loss the next ones are tried in turn. */
  servers: string[]
  identity: string
  inbox: string
  /** What the credentials allow: refused here at once with DENIED, and by the server in any case. */
  grants: Grants
  /** Contents of a creds file (JWT and seed). */
  credentials: Uint8Array
  log: Log
  /** PEM. With it connections use TLS. */
  ca?: string
}

/** One connection to a cluster of NATS servers. */
export class NatsBus implements Bus {
  readonly identity: string
  readonly inbox: string
  epoch = 0
  connected = false
  private closed = false
  private readonly changeListeners = new Set<(state: { connected: boolean; epoch: number }) => void>()
  private readonly requests = new Map<string, { resolve(message: BusMessage): void; reject(error: BusError): void; timer: NodeJS.Timeout }>()
  private nextRequest = 1

  private constructor(
    private readonly nats: NatsConnection,
    private readonly options: NatsBusOptions,
  ) {
    this.identity = options.identity
    this.inbox = options.inbox
  }

  /** Resolves once connected; until then it tries all servers, again and again, until `signal` is aborted. */
  static async connect(options: NatsBusOptions, signal?: AbortSignal): Promise<NatsBus> {
    let attempts = 0
    for (;;) {
      try {
        const nats = await connect({
          servers: options.servers,
          name: options.identity,
          authenticator: credsAuthenticator(options.credentials),
          inboxPrefix: `${options.inbox}.nats`,
          noRandomize: true,
          ignoreClusterUpdates: true,
          maxReconnectAttempts: -1,
          reconnectDelayHandler: () => RECONNECT_MS + Math.random() * RECONNECT_MS,
          reconnectTimeWait: RECONNECT_MS,
          pingInterval: PING_MS,
          maxPingOut: PINGS_OUT_MAX,
          timeout: 2000,
          ...(options.ca ? { tls: { ca: options.ca } } : {}),
        })
        // The library forgets servers that refused the first connection; after a loss each of them may be the one that lives.
        nats.setServers(options.servers)
        const bus = new NatsBus(nats, options)
        bus.begin()
        return bus
      } catch (error) {
        if (signal?.aborted) throw new BusError('CLOSED', 'given up before the first connection', { cause: error })
        if (++attempts % 20 === 0) options.log.warn({ err: error, servers: options.servers, attempts }, 'no NATS server takes us yet')
        const delayMs = Math.min(RECONNECT_MS * 1.5 ** Math.min(attempts, 8), RECONNECT_MS_MAX)
        await new Promise((resolve) => setTimeout(resolve, delayMs))
      }
    }
  }

  get payloadBytesMax(): number {
    return this.nats.info?.max_payload ?? 1024 * 1024
  }

  publish(subject: string, payload: Uint8Array, options: { replyTo?: string } = {}): void {
    if (this.closed) throw new BusError('CLOSED', 'the connection is closed')
    if (!this.connected) throw new BusError('DISCONNECTED', 'no NATS server is connected')
    if (payload.length > this.payloadBytesMax) throw new BusError('PAYLOAD_TOO_LARGE', `${payload.length} bytes; at most ${this.payloadBytesMax}`)
    if (!this.mayPublish(subject)) throw new BusError('DENIED', `${this.identity} may not publish on ${subject}`)
    if (this.sendBufferBytes() > SEND_BUFFER_BYTES_MAX) throw new BusError('OVERLOADED', 'the server takes no more for now')
    this.nats.publish(subject, payload, options.replyTo === undefined ? {} : { reply: options.replyTo })
  }

  subscribe(pattern: string, receive: (message: BusMessage) => void): Subscription {
    if (this.closed) throw new BusError('CLOSED', 'the connection is closed')
    if (!this.options.grants.subscribe.some((granted) => subjectFits(granted, pattern)))
      throw new BusError('DENIED', `${this.identity} may not subscribe to ${pattern}`)
    const subscription: NatsSubscription = this.nats.subscribe(pattern, {
      callback: (error, message) => {
        if (error) this.options.log.error({ err: error, pattern }, 'the server refused a subscription')
        else receive(busMessage(message))
      },
    })
    return { unsubscribe: () => subscription.unsubscribe() }
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
    if (this.closed) return
    this.closed = true
    this.connected = false
    this.failRequests('CLOSED', 'the connection was closed')
    // What was published before goes out; a server that does not answer must not hold us up.
    await Promise.race([this.nats.flush().catch(() => undefined), new Promise((resolve) => setTimeout(resolve, 500))])
    await this.nats.close()
    this.tell()
  }

  private begin(): void {
    this.nats.subscribe(`${this.inbox}.request.*`, {
      callback: (_error, message) => {
        const request = this.requests.get(message.subject)
        if (!request) return // Late, or a second answer.
        this.requests.delete(message.subject)
        clearTimeout(request.timer)
        const received = busMessage(message)
        if (received.noResponders) request.reject(new BusError('NO_RESPONDERS', 'nobody listens on the subject'))
        else request.resolve(received)
      },
    })
    this.connected = true
    this.epoch = 1
    void this.followStatus()
  }

  private async followStatus(): Promise<void> {
    const { log } = this.options
    for await (const status of this.nats.status()) {
      if (status.type === 'disconnect') {
        this.connected = false
        this.failRequests('CONNECTION_LOST', 'the connection was lost before the answer')
        log.warn({ server: status.server }, 'NATS connection lost')
        this.tell()
      } else if (status.type === 'reconnect') {
        this.connected = true
        this.epoch++
        log.info({ server: status.server, epoch: this.epoch }, 'NATS connection restored')
        this.tell()
      } else if (status.type === 'error') log.error({ err: status.error }, 'NATS server reports an error')
      else if (status.type === 'slowConsumer') log.error({ pending: status.pending }, 'we read too slowly')
    }
    if (this.closed) return
    // The library has given up (credentials revoked): nothing comes of this connection any more.
    this.closed = true
    this.connected = false
    this.failRequests('CLOSED', 'the server ended the connection for good')
    log.error({ identity: this.identity }, 'NATS connection ended for good: are the credentials revoked?')
    this.tell()
  }

  private failRequests(code: 'CLOSED' | 'CONNECTION_LOST', text: string): void {
    for (const request of this.requests.values()) {
      clearTimeout(request.timer)
      request.reject(new BusError(code, text))
    }
    this.requests.clear()
  }

  private tell(): void {
    for (const listener of [...this.changeListeners]) listener({ connected: this.connected, epoch: this.epoch })
  }

  private mayPublish(subject: string): boolean {
    const { publish, allowResponses } = this.options.grants
    // Whether an answer is still allowed only the server knows; it refuses the rest.
    return publish.some((pattern) => subjectFits(pattern, subject)) || (allowResponses !== undefined && subject.includes('.inbox.'))
  }

  private sendBufferBytes(): number {
    // Not part of the library's interface: if it moves, the bound is lost and nothing else.
    const inner = this.nats as unknown as { protocol?: { transport?: { socket?: { writableLength?: number } } } }
    return inner.protocol?.transport?.socket?.writableLength ?? 0
  }
}

function busMessage(message: Msg): BusMessage {
  const noResponders = message.data.length === 0 && message.headers?.code === NO_RESPONDERS_STATUS
  return {
    subject: message.subject,
    payload: message.data,
    replyTo: message.reply || undefined,
    ...(noResponders ? { noResponders } : {}),
  }
}
