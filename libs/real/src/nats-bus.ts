import { type Bus, BusError, type BusMessage, type Log, type Subscription } from '@capstan/actor'
import { type Grants, subjectFits } from '@capstan/protocol'
import {
  type ConnectionOptions,
  connect,
  errors,
  type Msg,
  type NatsConnection,
  type Subscription as NatsSubscription,
} from 'nats'
import { credentialsAuthenticator } from './bus-authenticator.js'
import { tlsOptions } from './nats-tls.js'
import { checkSubject } from './subject-tree.js'

/** Between two attempts to connect: short at first, for a failover; longer the longer nobody takes us. */
const RECONNECT_MS = 50
const RECONNECT_MS_MAX = 1000
const PING_MS = 1000
const PINGS_OUT_MAX = 2
/** How long one server may take to let us in. */
const CONNECT_MS = 2000
/** What was published before goes out at closing; a server that does not answer must not hold us up. */
const CLOSE_MS = 500
/** Bytes that may wait in the socket; then publishing is refused as OVERLOADED. */
const SEND_BUFFER_BYTES_MAX = 64 * 1024 * 1024
/** Requests that wait for their answers; one more is refused as OVERLOADED. */
const REQUESTS_MAX = 65_536
const PAYLOAD_BYTES_MAX = 1024 * 1024
const NO_RESPONDERS_STATUS = 503
/** Then what is known of subjects that may be published on is forgotten. */
const SUBJECTS_REMEMBERED_MAX = 4096

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
  /** Paths of PEM files, read at each connect: they may be renewed meanwhile. For servers that ask for a certificate. */
  clientCertificate?: { cert: string; key: string }
  /** Between two pings; a server that leaves two of them unanswered is left. Default 1,000. */
  pingMs?: number
  /** Default 64 MiB. */
  sendBufferBytesMax?: number
}

interface PendingRequest {
  subject: string
  resolve(message: BusMessage): void
  reject(error: BusError): void
  timer: NodeJS.Timeout
}

/**
 * One connection to a cluster of NATS servers. It never gives up by itself: who is refused (a server that starts, revoked
 * credentials) tries again, at most once a second, and says so in its log.
 *
 * Messages are handed to `receive` straight from the socket: what this process does not get round to waits in the
 * server, which ends the connection of one that is too slow (`max_pending`, `write_deadline`); that is a new epoch.
 */
export class NatsBus implements Bus {
  readonly identity: string
  readonly inbox: string
  epoch = 0
  private up = false
  private closed = false
  private readonly changeListeners = new Set<(state: { connected: boolean; epoch: number }) => void>()
  private readonly requests = new Map<string, PendingRequest>()
  private nextRequest = 1
  /** Grants `a.b.>` without other wildcards, as `a.b.`: at least one more token follows in every subject. */
  private readonly allowedBelow: string[]
  private readonly mayPublishOn = new Map<string, boolean>()

  private constructor(
    private readonly nats: NatsConnection,
    private readonly options: NatsBusOptions,
    private readonly backOff: BackOff,
    /** Shared with the check of certificates: changed in place. */
    private readonly servers: string[],
  ) {
    this.identity = options.identity
    this.inbox = options.inbox
    this.allowedBelow = options.grants.publish
      .filter((pattern) => pattern.endsWith('.>') && !pattern.includes('*'))
      .map((pattern) => pattern.slice(0, -1))
  }

  /**
   * Resolves once connected; until then it tries all servers, again and again, until `signal` is aborted.
   * @throws BusError CLOSED by `signal`; its cause is why the last attempt failed (NATS's AuthorizationError, …).
   */
  static async connect(options: NatsBusOptions, signal?: AbortSignal): Promise<NatsBus> {
    const backOff = new BackOff()
    const servers = [...options.servers]
    let refusals = 0
    for (let attempts = 1; ; attempts++) {
      try {
        const nats = await connect(connectionOptions(options, backOff, servers))
        // The library forgets servers that refused the first connection; after a loss each of them may be the one that lives.
        nats.setServers(servers)
        const bus = new NatsBus(nats, options, backOff, servers)
        bus.begin()
        return bus
      } catch (error) {
        if (signal?.aborted) throw new BusError('CLOSED', 'given up before the first connection', { cause: error })
        const refused = error instanceof errors.AuthorizationError
        // A refusal is worth a word at once: waiting will hardly help.
        if ((refused && refusals++ === 0) || attempts % 20 === 0)
          options.log.warn({ err: error, servers: options.servers, attempts }, 'no NATS server takes us yet')
        await pause(backOff.nextMs(), signal)
      }
    }
  }

  get connected(): boolean {
    // The library knows before it tells.
    return this.up && this.inner.protocol?.connected !== false
  }

  get payloadBytesMax(): number {
    return this.nats.info?.max_payload ?? PAYLOAD_BYTES_MAX
  }

  publish(subject: string, payload: Uint8Array, options: { replyTo?: string } = {}): void {
    const { replyTo } = options
    checkSubject(subject)
    if (replyTo !== undefined) checkSubject(replyTo)
    if (this.closed) throw new BusError('CLOSED', 'the connection is closed')
    if (payload.length > this.payloadBytesMax)
      throw new BusError('PAYLOAD_TOO_LARGE', `${payload.length} bytes; at most ${this.payloadBytesMax}`)
    if (!this.mayPublish(subject)) throw new BusError('DENIED', `${this.identity} may not publish on ${subject}`)
    if (!this.connected) throw new BusError('DISCONNECTED', 'no NATS server is connected')
    if (this.sendBufferBytes() > (this.options.sendBufferBytesMax ?? SEND_BUFFER_BYTES_MAX))
      throw new BusError('OVERLOADED', 'the server takes no more for now')
    // A copy: the library keeps the reference until the end of the turn, and the sender may use its buffer again.
    this.nats.publish(subject, new Uint8Array(payload), replyTo === undefined ? {} : { reply: replyTo })
  }

  subscribe(pattern: string, receive: (message: BusMessage) => void): Subscription {
    checkSubject(pattern)
    if (this.closed) throw new BusError('CLOSED', 'the connection is closed')
    if (!this.options.grants.subscribe.some((granted) => subjectFits(granted, pattern)))
      throw new BusError('DENIED', `${this.identity} may not subscribe to ${pattern}`)
    const subscription = this.listen(pattern, receive)
    return { unsubscribe: () => subscription.unsubscribe() }
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
      this.requests.set(replyTo, { subject, resolve, reject, timer })
    })
  }

  onChange(listener: (state: { connected: boolean; epoch: number }) => void): () => void {
    this.changeListeners.add(listener)
    return () => this.changeListeners.delete(listener)
  }

  /** Where to go after the next loss of the connection; the present one stays. `host:port`, the preferred one first. */
  setServers(servers: readonly string[]): void {
    if (this.closed || servers.length === 0) return
    this.servers.splice(0, this.servers.length, ...servers)
    this.nats.setServers([...servers])
  }

  async close(): Promise<void> {
    if (this.closed) return
    const wasConnected = this.connected
    this.closed = true
    this.up = false
    this.failRequests('CLOSED', 'the connection was closed')
    if (wasConnected) await Promise.race([this.nats.flush().catch(() => undefined), pause(CLOSE_MS)])
    // Waits for a write that a dead server never takes.
    const closing = this.nats.close()
    await Promise.race([closing, pause(CLOSE_MS)])
    this.socket?.destroy()
    await closing
    this.tell()
  }

  private begin(): void {
    this.listen(`${this.inbox}.request.*`, (message) => {
      const request = this.requests.get(message.subject)
      if (!request) return // Late, or a second answer.
      this.requests.delete(message.subject)
      clearTimeout(request.timer)
      if (message.noResponders) request.reject(new BusError('NO_RESPONDERS', 'nobody listens on the subject'))
      else request.resolve(message)
    })
    this.up = true
    this.epoch = 1
    void this.followStatus()
  }

  private listen(pattern: string, receive: (message: BusMessage) => void): NatsSubscription {
    return this.nats.subscribe(pattern, {
      callback: (error, message) => {
        if (error) return this.options.log.error({ err: error, pattern }, 'the server refused a subscription')
        if (this.closed) return
        try {
          receive(busMessage(message))
        } catch (bug) {
          // A bug of the receiver. Thrown from here it would quietly end the library's reading of the socket: be as loud
          // as can be instead, and let the messages of others come.
          setImmediate(() => {
            throw bug
          })
        }
      },
    })
  }

  private async followStatus(): Promise<void> {
    const { log } = this.options
    for await (const status of this.nats.status()) {
      switch (status.type) {
        case 'staleConnection':
          this.leaveHungServer()
          break
        case 'disconnect':
          this.up = false
          this.backOff.restart()
          this.failRequests('CONNECTION_LOST', 'the connection was lost before the answer')
          log.warn({ server: status.server }, 'NATS connection lost')
          this.tell()
          break
        case 'reconnect':
          this.up = true
          this.epoch++
          log.info({ server: status.server, epoch: this.epoch }, 'NATS connection restored')
          this.tell()
          break
        case 'error':
          this.serverError(status.error)
          break
      }
    }
    if (this.closed) return
    // The library ended by itself, which it should not: nothing comes of this connection any more.
    this.closed = true
    this.up = false
    this.failRequests('CLOSED', 'the connection ended for good')
    log.error({ identity: this.identity }, 'NATS connection ended for good')
    this.tell()
  }

  private leaveHungServer(): void {
    // It still takes connections (the kernel does): try it last.
    const { servers } = this
    const at = servers.indexOf(this.nats.getServer())
    if (at >= 0) this.nats.setServers([...servers.slice(at + 1), ...servers.slice(0, at + 1)])
    // The library now waits until its last write is taken, which a hung server with a full socket never does.
    this.socket?.destroy()
  }

  private serverError(error: Error): void {
    const { log } = this.options
    if (error instanceof errors.PermissionViolationError) {
      log.error({ operation: error.operation, subject: error.subject }, 'the server denies what our grants allow')
      if (error.operation === 'publish')
        for (const [replyTo, request] of this.requests)
          if (request.subject === error.subject)
            this.fail(replyTo, new BusError('DENIED', `the server: ${error.message}`))
    } else if (error instanceof errors.AuthorizationError) {
      // Comes again with each attempt to connect.
      if (this.backOff.firstRefusal())
        log.error({ err: error, identity: this.identity }, 'NATS refuses our credentials: revoked?')
    } else log.error({ err: error }, 'the NATS server reports an error')
  }

  private failRequests(code: 'CLOSED' | 'CONNECTION_LOST', text: string): void {
    for (const replyTo of [...this.requests.keys()]) this.fail(replyTo, new BusError(code, text))
  }

  private fail(replyTo: string, error: BusError): void {
    const request = this.requests.get(replyTo)
    if (!request) return
    this.requests.delete(replyTo)
    clearTimeout(request.timer)
    request.reject(error)
  }

  private tell(): void {
    for (const listener of [...this.changeListeners]) listener({ connected: this.connected, epoch: this.epoch })
  }

  private mayPublish(subject: string): boolean {
    // Answers, each on a subject of its own, are the most that a server says.
    if (this.allowedBelow.some((prefix) => subject.startsWith(prefix))) return true
    const known = this.mayPublishOn.get(subject)
    if (known !== undefined) return known
    const { publish, allowResponses } = this.options.grants
    // Whether an answer is still allowed only the server knows; it refuses the rest.
    const may =
      publish.some((pattern) => subjectFits(pattern, subject)) ||
      (allowResponses !== undefined && subject.includes('.inbox.'))
    if (this.mayPublishOn.size >= SUBJECTS_REMEMBERED_MAX) this.mayPublishOn.clear()
    this.mayPublishOn.set(subject, may)
    return may
  }

  private sendBufferBytes(): number {
    return this.socket?.writableLength ?? 0
  }

  private get socket() {
    return this.inner.protocol?.transport?.socket
  }

  /**
   * Not part of the library's interface (tests here notice if it moves). Without it a bound is lost, a hung server is
   * left later, and a message may be taken in the moment in which the connection breaks.
   */
  private get inner(): { protocol?: { connected?: boolean; transport?: { socket?: import('node:net').Socket } } } {
    return this.nats as never
  }
}

function connectionOptions(
  options: NatsBusOptions,
  backOff: BackOff,
  servers: readonly string[],
): ConnectionOptions & { ignoreAuthErrorAbort: boolean } {
  return {
    servers: [...servers],
    name: options.identity,
    authenticator: credentialsAuthenticator(options.credentials),
    inboxPrefix: `${options.inbox}.nats`,
    noRandomize: true,
    ignoreClusterUpdates: true,
    maxReconnectAttempts: -1,
    reconnectDelayHandler: () => backOff.nextMs(),
    // Else two refusals in a row, also "authentication timeout" of a machine that stood still, end it for good.
    ignoreAuthErrorAbort: true,
    pingInterval: options.pingMs ?? PING_MS,
    maxPingOut: PINGS_OUT_MAX,
    timeout: CONNECT_MS,
    ...(options.ca ? { tls: tlsOptions(options.ca, servers, options.clientCertificate) } : {}),
  }
}

/** How long to wait before the next attempt: about a quarter of the time since the loss, within bounds, with jitter. */
class BackOff {
  private sinceMs = performance.now()
  private refused = false

  restart(): void {
    this.sinceMs = performance.now()
    this.refused = false
  }

  nextMs(): number {
    const wanted = (performance.now() - this.sinceMs) / 4
    return Math.min(RECONNECT_MS_MAX, Math.max(RECONNECT_MS, wanted)) * (0.75 + Math.random() / 2)
  }

  firstRefusal(): boolean {
    const first = !this.refused
    this.refused = true
    return first
  }
}

function pause(delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, delayMs)
    signal?.addEventListener('abort', done, { once: true })
    function done() {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
  })
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
