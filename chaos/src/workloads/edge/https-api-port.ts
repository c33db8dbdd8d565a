import { isIP } from 'node:net'
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2'
import type { ApiEndpoint, Credentials } from '../../harness/types.js'
import type { Answer, ApiEvent, ApiPort, Failure, Method } from '../ports.js'

const TIMEOUT_MS = 5000
const CONNECT_MS = 2000
/** A watch on which nothing comes for so long is asked after by a ping of its connection. */
const PING_MS = 2000
const LINE_BYTES_MAX = 8 * 1024 * 1024

/** One HTTP/2 connection to one API server, made anew after a loss. Watches have a connection of their own. */
export class HttpsApiPort implements ApiPort {
  readonly endpoint: string
  private session: ClientHttp2Session | undefined

  constructor(
    private readonly server: ApiEndpoint,
    private readonly credentials: Credentials,
  ) {
    this.endpoint = server.name
  }

  request<T>(method: Method, path: string, body?: unknown, timeoutMs = TIMEOUT_MS): Promise<Answer<T>> {
    this.session = usable(this.session) ?? this.connect()
    const { session } = this
    return new Promise((resolve) => {
      let sent = !session.connecting
      if (!sent) session.once('connect', () => (sent = true))
      let stream: ClientHttp2Stream
      const lost = (text: string) => {
        clearTimeout(timer)
        // Without a connection nothing was sent.
        const never = method === 'GET' || !sent || isRefused(text)
        resolve({ ok: false, outcome: never ? 'not-applied' : 'unknown', answered: false, code: 'LOST', text })
      }
      const timer = setTimeout(() => {
        lost(`no answer in ${timeoutMs} ms`)
        // Its server may hang: the next request shall not wait for it as well.
        session.destroy()
      }, timeoutMs)
      try {
        stream = session.request(this.headers(method, path))
      } catch (error) {
        return lost(`ECONNREFUSED: ${String(error)}`)
      }
      let status = 0
      let text = ''
      stream.setEncoding('utf8')
      stream.on('response', (headers) => {
        status = Number(headers[':status'])
      })
      stream.on('data', (chunk: string) => {
        text += chunk
      })
      stream.on('error', (error) => lost(String((error as { cause?: unknown }).cause ?? error)))
      stream.on('close', () => {
        if (status === 0) return lost('the connection was lost before the answer')
        clearTimeout(timer)
        resolve(answerOf<T>(method, status, text))
      })
      stream.end(body === undefined ? undefined : JSON.stringify(body))
    })
  }

  watch(path: string, listener: { event(event: ApiEvent): void; end(reason: string): void }): () => void {
    const session = this.connect()
    let ended = false
    const end = (reason: string) => {
      if (ended) return
      ended = true
      clearInterval(pings)
      session.destroy()
      listener.end(reason)
    }
    const pings = setInterval(() => {
      if (session.connecting || session.destroyed) return
      const unanswered = setTimeout(() => end('lost: no answer to a ping'), PING_MS)
      session.ping(() => clearTimeout(unanswered))
    }, PING_MS)
    session.on('error', (error) => end(`lost: ${error.message}`))
    session.on('close', () => end('lost: the connection ended'))
    const stream = session.request(this.headers('GET', path))
    let status = 0
    let rest = ''
    stream.setEncoding('utf8')
    stream.on('response', (headers) => {
      status = Number(headers[':status'])
    })
    stream.on('data', (chunk: string) => {
      rest += chunk
      if (status !== 200) return
      if (rest.length > LINE_BYTES_MAX) return end('a line of the watch is too long')
      const lines = rest.split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) if (line !== '' && !ended) listener.event(JSON.parse(line) as ApiEvent)
    })
    stream.on('error', (error) => end(`lost: ${error.message}`))
    stream.on('end', () => end(status === 200 ? 'closed by the server' : `${status}: ${rest.slice(0, 200)}`))
    stream.end()
    return () => end('stopped')
  }

  close(): void {
    this.session?.destroy()
  }

  private connect(): ClientHttp2Session {
    const { ca, cert, key, serverName, insecure } = this.credentials
    const session = connect(this.server.url, {
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      // An address is no name to ask for (RFC 6066); the certificate is held against it all the same.
      ...(serverName === undefined && isIP(new URL(this.server.url).hostname) === 0
        ? {}
        : { servername: serverName ?? '' }),
      ...(insecure ? { rejectUnauthorized: false } : {}),
    })
    // Each request reports its own failure.
    session.on('error', () => session.destroy())
    session.on('goaway', () => session.close())
    const patience = setTimeout(() => session.destroy(), CONNECT_MS)
    session.once('connect', () => clearTimeout(patience))
    session.once('close', () => clearTimeout(patience))
    return session
  }

  private headers(method: Method, path: string) {
    const { token } = this.credentials
    return {
      ':method': method,
      ':path': path,
      accept: 'application/json',
      'content-type': method === 'PATCH' ? 'application/merge-patch+json' : 'application/json',
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    }
  }
}

const usable = (session: ClientHttp2Session | undefined) =>
  session && !session.closed && !session.destroyed ? session : undefined

const isRefused = (text: string) => /ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|NGHTTP2_REFUSED_STREAM/.test(text)

interface Status {
  reason?: string
  message?: string
}

/** @see services/apiserver/src/errors.ts: 504 and 500 say that it may have happened; other refusals that it did not. */
function answerOf<T>(method: Method, status: number, text: string): Answer<T> {
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch {
    body = { message: text.slice(0, 200) }
  }
  if (status >= 200 && status < 300) return { ok: true, value: body as T }
  const { reason = '', message = '' } = body as Status
  const isService = status >= 500 || status === 429
  const failure: Failure = {
    ok: false,
    outcome: method === 'GET' || status === 503 || status < 500 ? 'not-applied' : 'unknown',
    answered: !isService,
    code: reason || String(status),
    text: message,
  }
  return failure
}
