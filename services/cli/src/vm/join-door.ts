/**
 * Where machines join and have their certificates renewed: HTTPS on a port of its own, so that neither the API nor the bus must
 * be open to who is nobody yet. Bounded in everything that a stranger may use up: connections, bytes, time, attempts.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { CallError, type Log } from '@capstan/actor'
import { admitMachine, type DoorContext, Refused, renewCertificate } from './admit-machine.js'
import { AttemptLimit } from './attempt-limit.js'
import { parseJoinRequest, parseRenewRequest, REQUEST_BYTES_MAX } from './join-messages.js'
import type { Role } from './machine-file.js'

const CONNECTIONS_MAX = 64
const REQUEST_MS = 10_000
const IDLE_MS = 5000
/** How long somebody waits for an answer: the store may elect meanwhile. */
const ANSWER_MS = 30_000

export interface DoorCertificates {
  cert: string
  key: string
  /** Of the cluster: sent along, so that a joiner can compare its hash. */
  ca: string
  /** Signs machines' certificates. */
  machineCa: string
}

export interface JoinDoor {
  readonly port: number
  renew(certificates: DoorCertificates): void
  close(): Promise<void>
}

/** @throws the listener's error (`EADDRINUSE`). */
export async function openJoinDoor(
  context: DoorContext,
  options: {
    host: string
    port: number
    certificates: DoorCertificates
    log: Log
    /** How long a client may keep silent before it has said what it wants. Default 5,000. */
    idleMs?: number
  },
): Promise<JoinDoor> {
  const { log, idleMs = IDLE_MS } = options
  const limit = new AttemptLimit()
  const server = createServer(
    {
      ...secure(options.certificates),
      requestCert: true,
      // Who joins has none yet; who renews is looked at below.
      rejectUnauthorized: false,
      minVersion: 'TLSv1.2',
      handshakeTimeout: idleMs,
      requestTimeout: REQUEST_MS,
      headersTimeout: idleMs,
      keepAliveTimeout: idleMs,
      connectionsCheckingInterval: idleMs / 4,
      maxHeaderSize: 8192,
    },
    (request, response) => {
      // Later there may be no socket any more.
      const from = request.socket.remoteAddress ?? ''
      answer(request, from)
        .then((body) => send(response, 200, body))
        .catch((error: unknown) => {
          const { status, message } = refusalOf(error)
          if (status === 500) log.error({ err: error, from }, 'the join door failed')
          else log.warn({ from, status, path: request.url, reason: message }, 'refused at the join door')
          if (!request.complete && !response.headersSent) response.setHeader('connection', 'close')
          send(response, status, { error: message })
        })
    },
  )
  server.maxConnections = CONNECTIONS_MAX
  server.setTimeout(ANSWER_MS)
  server.on('tlsClientError', (error, socket) => log.debug({ err: error, from: socket.remoteAddress }, 'no TLS'))
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(options.port, options.host, () => {
      server.off('error', reject)
      server.on('error', (error) => log.error({ err: error }, 'the join door failed'))
      resolve()
    })
  })
  return {
    port: (server.address() as AddressInfo).port,
    renew: (certificates) => server.setSecureContext(secure(certificates)),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }

  async function answer(request: IncomingMessage, from: string): Promise<object> {
    if (request.method !== 'POST' || (request.url !== '/v1/join' && request.url !== '/v1/renew'))
      throw new Refused(404, 'this is the join door of a Capstan master: POST /v1/join or /v1/renew')
    if (limit.isExhausted(from, performance.now()))
      throw new Refused(429, 'too many attempts were refused; try again in a minute')
    try {
      if (request.url === '/v1/renew') {
        const machine = machineOf(request.socket as TLSSocket)
        const renewed = await renewCertificate(context, machine, parsed(await readBody(request), parseRenewRequest))
        log.info({ ...machine, from }, 'renewed a certificate')
        return renewed
      }
      const joining = parsed(await readBody(request), parseJoinRequest)
      const admitted = await admitMachine(context, joining)
      log.info({ role: joining.role, machine: joining.name, address: joining.address, from }, 'a machine joins')
      return admitted
    } catch (error) {
      if (error instanceof Refused && error.status < 500) limit.count(from, performance.now())
      throw error
    }
  }
}

const secure = ({ cert, key, ca, machineCa }: DoorCertificates) => ({ cert: `${cert}\n${ca}`, key, ca: [machineCa] })

function refusalOf(error: unknown): { status: number; message: string } {
  if (error instanceof Refused) return error
  if (error instanceof CallError)
    return { status: 503, message: `the cluster's store does not answer (${error.message}); try again` }
  return { status: 500, message: error instanceof Error ? error.message : String(error) }
}

function parsed<T>(body: Buffer, parse: (body: unknown) => T): T {
  try {
    return parse(JSON.parse(body.toString('utf8')))
  } catch (error) {
    throw new Refused(400, error instanceof SyntaxError ? `no JSON: ${error.message}` : (error as Error).message)
  }
}

/** Whose certificate was shown. @throws Refused */
function machineOf(socket: TLSSocket): { role: Role; name: string } {
  const certificate = socket.getPeerCertificate()
  if (!certificate || Object.keys(certificate).length === 0) throw new Refused(401, 'no certificate was shown')
  if (!socket.authorized)
    throw new Refused(
      401,
      String(socket.authorizationError) === 'CERT_HAS_EXPIRED'
        ? `the certificate shown expired at ${certificate.valid_to}; join again with a token (the same command as before)`
        : `the certificate shown is not of this cluster (${String(socket.authorizationError)})`,
    )
  const user = String(certificate.subject.CN)
  const [, master, node] = /^(?:system:capstan:master:(.+)|system:node:(.+))$/.exec(user) ?? []
  if (master !== undefined) return { role: 'master', name: master }
  if (node !== undefined) return { role: 'node', name: node }
  throw new Refused(403, `${user} is no machine`)
}

function readBody(request: IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = []
    let bytes = 0
    request.on('data', (piece: Buffer) => {
      bytes += piece.length
      if (bytes <= REQUEST_BYTES_MAX) pieces.push(piece)
      // The rest is thrown away unread for as long as a request may take, so that the answer is heard.
      else reject(new Refused(413, `the request is longer than ${REQUEST_BYTES_MAX} bytes`))
    })
    request.on('end', () => resolve(Buffer.concat(pieces)))
    request.on('close', () => reject(new Refused(400, 'the request ended early')))
    request.on('error', (error) => reject(new Refused(400, error.message)))
  })
}

function send(response: ServerResponse, status: number, body: object): void {
  if (response.headersSent || response.destroyed) return
  response.statusCode = status
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify(body))
}
