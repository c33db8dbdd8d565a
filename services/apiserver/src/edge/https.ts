/** The HTTPS door: HTTP/1.1 and HTTP/2 on one port, client certificates and bearer tokens. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createSecureServer, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { ApiRequest, ApiWatchData } from '@capstan/protocol'
import { stringify } from 'yaml'
import { ApiError, badRequest, forbidden, internal, noSuchResource, type Status, unauthorized } from '../errors.js'
import { ANONYMOUS, type ApiServerHandle, type Page, type RequestExtras, type User } from '../options.js'
import {
  type Acceptance,
  acceptanceOf,
  bodyFormatOf,
  deleteOptionsOf,
  optionsOf,
  timeoutMsOf,
  parsePath,
  patchTypeOf,
  type Query,
  verbOf,
} from '../rest-path.js'
import { parseBody, readBody } from './read-body.js'

export interface HttpsOptions {
  port: number
  /** Default: all addresses. */
  host?: string
  /** PEM. */
  key: string | Uint8Array
  cert: string | Uint8Array
  /** PEM of the authority that signs client certificates. */
  clientCa: string | Uint8Array
  /** Bytes that a watcher or log reader may lag behind before it is cut off. Default 4 MiB. */
  lagBytesMax?: number
  /** Connections at once; one more is closed. Default 4,096. */
  connectionsMax?: number
}

export interface HttpsListener {
  readonly port: number
  /** Other certificates for connections that come from now on. PEM, as `HttpsOptions`. */
  renew(certificates: Pick<HttpsOptions, 'key' | 'cert' | 'clientCa'>): void
  close(): Promise<void>
}

type Request = IncomingMessage | Http2ServerRequest
type Response = ServerResponse | Http2ServerResponse

const KEEP_ALIVE_MS = 30_000
/** How long a stream whose body was refused may stay half open. */
const STREAM_LEFT_MS = 5000
/** Bytes of a refused body that are read and thrown away, so that an HTTP/1.1 client gets to read the answer. */
const DISCARD_BYTES_MAX = 64 * 1024 * 1024

/** Puts HTTPS before an API server. @throws if the port is taken. */
export async function listenHttps(api: ApiServerHandle, options: HttpsOptions): Promise<HttpsListener> {
  const { log } = api.world
  const lagBytesMax = options.lagBytesMax ?? 4 * 1024 * 1024
  const connections = new Set<TLSSocket>()
  const users = new WeakMap<object, User | 'untrusted'>()
  const server = createSecureServer(
    {
      allowHTTP1: true,
      key: Buffer.from(options.key),
      cert: Buffer.from(options.cert),
      ca: [Buffer.from(options.clientCa)],
      requestCert: true,
      // Who has no certificate may bring a token, or be anonymous; who has one of another authority gets 401.
      rejectUnauthorized: false,
      minVersion: 'TLSv1.2',
      settings: { maxConcurrentStreams: 1000 },
      // Watches make sessions long-lived and many-streamed; the default of 10 MB ends them early.
      maxSessionMemory: 64,
    },
    (request, response) => {
      answer(request, response).catch((error: unknown) => {
        if (!(error instanceof ApiError)) log.error({ err: error, url: request.url }, 'a request failed by a bug')
        const refusal =
          error instanceof ApiError ? error : internal(error instanceof Error ? error.message : String(error))
        refuse(request, response, refusal)
      })
    },
  )
  server.on('secureConnection', (socket: TLSSocket) => {
    if (connections.size >= (options.connectionsMax ?? 4096)) {
      socket.destroy()
      return
    }
    connections.add(socket)
    // A peer that vanished without a word would hold its watches for ever.
    socket.setKeepAlive(true, KEEP_ALIVE_MS)
    socket.on('close', () => connections.delete(socket))
    socket.on('error', () => socket.destroy())
  })
  server.on('tlsClientError', (error) => log.debug({ err: error }, 'TLS handshake failed'))
  server.on('sessionError', (error) => log.debug({ err: error }, 'HTTP/2 session failed'))
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(options.port, options.host, () => {
      server.off('error', reject)
      server.on('error', (error) => log.error({ err: error }, 'HTTPS listener failed'))
      resolve()
    })
  })
  const { port } = server.address() as AddressInfo
  log.info({ port }, 'serving HTTPS')
  return {
    port,
    renew: ({ key, cert, clientCa }) =>
      server.setSecureContext({ key: Buffer.from(key), cert: Buffer.from(cert), ca: [Buffer.from(clientCa)] }),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        for (const socket of connections) socket.destroy()
      }),
  }

  async function answer(request: Request, response: Response): Promise<void> {
    const at = (request.url ?? '/').indexOf('?')
    const path = at < 0 ? (request.url ?? '/') : (request.url as string).slice(0, at)
    const query = queryOf(at < 0 ? '' : (request.url as string).slice(at + 1))
    const user = await userOf(request)
    const accept = String(request.headers.accept ?? '')
    const what = parsePath(path)
    if (!what) {
      if (request.method !== 'GET' && request.method !== 'HEAD') throw noSuchResource()
      const page = await api.page(path, query, accept, user)
      if (!page) throw noSuchResource()
      return sendPage(request, response, page)
    }
    await answerResource(request, response, what, query, user, accept)
  }

  async function answerResource(
    request: Request,
    response: Response,
    what: ApiRequest,
    query: Query,
    user: User,
    accept: string,
  ): Promise<void> {
    const verb = verbOf(request.method ?? '', what, query)
    if (what.resource === 'pods' && what.subresource === 'log' && verb === 'get')
      return answerLog(response, what, query, user)
    const warnings: string[] = []
    const accepted = acceptanceOf(accept)
    const include = query['includeObject']
    const timeoutMs = timeoutMsOf(query)
    let isAbandoned = false
    response.once('close', () => (isAbandoned = true))
    const extras: RequestExtras = {
      isAbandoned: () => isAbandoned,
      ...(timeoutMs === undefined ? {} : { deadlineMs: api.world.clock.monotonicMs() + timeoutMs }),
      media: accepted.media,
      userAgent: String(request.headers['user-agent'] ?? ''),
      ...(include === 'None' || include === 'Metadata' || include === 'Object' ? { includeObject: include } : {}),
      warn(text: string) {
        // A header is no place for a novel; kubectl shows each line of it.
        if (warnings.length < 32) warnings.push(text.slice(0, 1024))
      },
    }
    const asked: ApiRequest = { ...what, options: optionsOf(query) }
    if (verb === 'watch') {
      const send = startStream(response, 'application/json', lagBytesMax)
      const watch = await api.watch(
        asked,
        user,
        {
          send: (data) => send.write(watchLines(data)),
          end(reason, status) {
            if (status) send.write(Buffer.from(`${JSON.stringify({ type: 'ERROR', object: status })}\n`))
            log.debug({ reason, resource: what.resource }, 'watch ended')
            send.end()
          },
        },
        extras,
      )
      send.onClose(() => watch.stop())
      send.open()
      return
    }
    // Before its body is looked at: what is not there can't be sent wrongly. Who may not know gets 403 all the same.
    if (!api.serves(asked)) {
      await api.handle(verb, asked, user, extras)
      throw noSuchResource()
    }
    const contentType = String(request.headers['content-type'] ?? '')
    if (verb === 'patch') asked.patchType = patchTypeOf(contentType)
    if (
      verb === 'create' ||
      verb === 'update' ||
      verb === 'patch' ||
      verb === 'delete' ||
      verb === 'deletecollection'
    ) {
      const raw = await readBody(request)
      const body = raw.length === 0 ? undefined : parseBody(raw, bodyFormatOf(contentType))
      asked.body = verb === 'delete' || verb === 'deletecollection' ? deleteOptionsOf(query, body) : body
      if (asked.body === undefined && (verb === 'update' || verb === 'patch'))
        throw badRequest('the request needs a body')
    }
    const reply = await api.handle(verb, asked, user, extras)
    sendObject(response, reply.status, reply.body, accepted, warnings)
  }

  async function answerLog(response: Response, what: ApiRequest, query: Query, user: User): Promise<void> {
    const send = startStream(response, 'text/plain', lagBytesMax)
    const stream = await api.logs(what, query, user, {
      async send(bytes) {
        send.write(Buffer.from(bytes))
        await send.drained()
      },
      end(status) {
        if (status) send.write(Buffer.from(`${(status as Status).message ?? 'the log ended with an error'}\n`))
        send.end()
      },
    })
    send.onClose(() => stream.stop())
    send.open()
  }

  /** @throws ApiError 401, 403 (impersonation) */
  async function userOf(request: Request): Promise<User> {
    const user = await authenticate(request)
    const as = request.headers['impersonate-user']
    if (as === undefined) return user
    if (!user.groups.includes('system:masters'))
      throw forbidden(
        { group: '', resource: 'users', name: String(as) },
        `User ${JSON.stringify(user.name)} cannot impersonate`,
      )
    const groups = request.headers['impersonate-group']
    const listed =
      groups === undefined
        ? []
        : String(groups)
            .split(',')
            .map((group) => group.trim())
    return { name: String(as), groups: [...listed, 'system:authenticated'] }
  }

  async function authenticate(request: Request): Promise<User> {
    const { authorization } = request.headers
    if (authorization !== undefined) {
      const token = /^Bearer +(\S+)$/i.exec(authorization)?.[1]
      const user = token === undefined ? undefined : await api.userOfToken(token)
      if (!user) throw unauthorized()
      return user
    }
    // HTTP/2 requests show a stand-in for the socket; the session is one for one with the connection.
    const connection = 'stream' in request && request.stream?.session ? request.stream.session : request.socket
    let user = users.get(connection)
    if (!user) {
      const socket = request.socket as TLSSocket
      user = userOfCertificate(socket)
      if (user === 'untrusted')
        log.warn(
          {
            from: socket.remoteAddress,
            subject: socket.getPeerCertificate().subject?.CN,
            reason: String(socket.authorizationError ?? 'it names nobody'),
          },
          'a client certificate is not trusted',
        )
      users.set(connection, user)
    }
    if (user === 'untrusted') throw unauthorized()
    return user
  }
}

function userOfCertificate(socket: TLSSocket): User | 'untrusted' {
  const certificate = socket.getPeerCertificate()
  if (!certificate || Object.keys(certificate).length === 0) return ANONYMOUS
  if (!socket.authorized) return 'untrusted'
  // `O` may stand there several times; Node then gives a list.
  const { CN, O } = certificate.subject as { CN?: string | string[]; O?: string | string[] }
  const name = Array.isArray(CN) ? CN[CN.length - 1] : CN
  if (!name) return 'untrusted'
  const groups = O === undefined ? [] : Array.isArray(O) ? O : [O]
  return { name, groups: [...groups, 'system:authenticated'] }
}

function queryOf(text: string): Query {
  const query: Record<string, string> = Object.create(null) as Record<string, string>
  // Of one that stands there twice Kubernetes takes the first.
  for (const [name, value] of new URLSearchParams(text)) query[name] ??= value
  return query
}

function watchLines(data: ApiWatchData): Buffer {
  const parts: Uint8Array[] = []
  for (const [type, object] of data.events)
    parts.push(Buffer.from(`{"type":"${type}","object":`), object, Buffer.from('}\n'))
  return Buffer.concat(parts)
}

function refuse(request: Request, response: Response, error: ApiError): void {
  if (response.headersSent) {
    response.end()
    return
  }
  const { details } = error
  const body = Buffer.from(JSON.stringify(details))
  response.statusCode = error.status
  response.setHeader('content-type', 'application/json')
  response.setHeader('content-length', body.length)
  const retry = details.details?.retryAfterSeconds
  if (retry !== undefined) response.setHeader('retry-after', retry)
  if (error.status !== 413) {
    response.end(body)
    request.resume()
    return
  }
  const { stream } = request as Http2ServerRequest
  if (stream) {
    // Nothing more is read, so the client's window stays closed. It has the whole answer and ends the stream itself; one
    // that doesn't is helped. The connection and its other streams go on.
    response.end(body)
    setTimeout(() => stream.close(), STREAM_LEFT_MS).unref()
    return
  }
  // A client of HTTP/1.1 that is still writing may not read before it is done: throw the rest away, within reason.
  let discarded = 0
  request.on('data', (piece: Buffer) => {
    discarded += piece.length
    if (discarded > DISCARD_BYTES_MAX) request.destroy()
  })
  request.resume()
  response.end(body)
}

function sendObject(
  response: Response,
  status: number,
  json: Uint8Array,
  accepted: Acceptance,
  warnings: readonly string[],
): void {
  const isYaml = accepted.format === 'yaml'
  const body = isYaml
    ? Buffer.from(stringify(JSON.parse(Buffer.from(json).toString())))
    : Buffer.from(json.buffer, json.byteOffset, json.byteLength)
  response.statusCode = status
  response.setHeader('content-type', isYaml ? 'application/yaml' : 'application/json')
  response.setHeader('content-length', body.length)
  response.setHeader('cache-control', 'no-cache, private')
  if (warnings.length > 0) response.setHeader('warning', warnings.map(warningHeader))
  response.end(body)
}

/** RFC 7234: a quoted string; anything but printable ASCII could end the header. */
function warningHeader(text: string): string {
  return `299 - "${text.replace(/[^\x20-\x7e]/g, ' ').replace(/(["\\])/g, '\\$1')}"`
}

function sendPage(request: Request, response: Response, page: Page): void {
  if (page.etag !== undefined) response.setHeader('etag', page.etag)
  if (page.etag !== undefined && request.headers['if-none-match'] === page.etag) {
    response.statusCode = 304
    response.end()
    return
  }
  response.statusCode = page.status
  response.setHeader('content-type', page.mediaType)
  response.setHeader('vary', 'Accept')
  response.setHeader('content-length', page.body.length)
  if (request.method === 'HEAD') response.end()
  else response.end(Buffer.from(page.body))
}

/** A response that grows. What is written before `open` waits: until then the request may still be refused. */
function startStream(response: Response, mediaType: string, lagBytesMax: number) {
  const early: Buffer[] = []
  const closers: (() => void)[] = []
  let opened = false
  let ended = false
  let closed = false
  let wake: (() => void) | undefined
  response.on('drain', () => wake?.())
  response.on('error', () => undefined) // 'close' follows.
  response.on('close', () => {
    closed = true
    wake?.()
    for (const close of closers) close()
  })
  return {
    /** False: the reader lags too far behind, or is gone. */
    write(bytes: Buffer): boolean {
      if (ended || closed) return false
      if (!opened) early.push(bytes)
      else if (bytes.length > 0) (response as ServerResponse).write(bytes)
      return response.writableLength <= lagBytesMax
    },
    open() {
      if (opened || closed) return
      opened = true
      response.statusCode = 200
      response.setHeader('content-type', mediaType)
      response.setHeader('cache-control', 'no-cache, private')
      if ('flushHeaders' in response) response.flushHeaders()
      for (const bytes of early.splice(0)) if (bytes.length > 0) (response as ServerResponse).write(bytes)
      if (ended) response.end()
    },
    end() {
      if (ended) return
      ended = true
      if (opened && !closed) response.end()
    },
    /** Resolves when there is room again, or nobody reads any more. */
    async drained(): Promise<void> {
      while (opened && !closed && response.writableNeedDrain) await new Promise<void>((resolve) => (wake = resolve))
    },
    onClose(close: () => void) {
      if (closed) close()
      else closers.push(close)
    },
  }
}
