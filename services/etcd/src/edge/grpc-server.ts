import type { Socket } from 'node:net'
import {
  type handleBidiStreamingCall,
  type handleUnaryCall,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type UntypedHandleCall,
} from '@grpc/grpc-js'
import { toEtcdError } from '../etcd-error.js'
import type { EtcdFace } from '../face.js'
import type { Tls } from './door.js'
import type { CallContext, CallStream, Method } from '../rpc.js'

export interface GrpcServer {
  /** Serves a connection that nothing was read from. */
  take(socket: Socket): void
  close(): void
}

/** etcd's defaults. The TCP connection may live on (a proxy's) after the client is gone. */
const KEEPALIVE_MS = 7_200_000
const KEEPALIVE_TIMEOUT_MS = 20_000

type Received = { message: object; bytes: number }

/** The face over gRPC. With TLS a client certificate is demanded. */
export function serveGrpc(face: EtcdFace, tls: Tls | 'insecure'): GrpcServer {
  const server = new Server({
    'grpc.max_receive_message_length': face.messageBytesMax,
    'grpc.max_send_message_length': -1,
    'grpc.keepalive_time_ms': KEEPALIVE_MS,
    'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
  })
  const services = new Map<string, [string, Method][]>()
  for (const [path, method] of Object.entries(face.methods)) {
    const service = path.slice(1, path.lastIndexOf('/'))
    services.set(service, [...(services.get(service) ?? []), [path, method]])
  }
  for (const methods of services.values())
    server.addService(
      Object.fromEntries(methods.map(([path, method]) => [path, definitionOf(path, method)])),
      Object.fromEntries(methods.map(([path, method]) => [path, handlerOf(face, method)])),
    )
  const injector = server.createConnectionInjector(
    tls === 'insecure' ? ServerCredentials.createInsecure() : secured(tls),
  )
  return {
    take: (socket) => injector.injectConnection(socket),
    close() {
      face.close()
      injector.destroy()
      server.forceShutdown()
    },
  }
}

function secured({ ca, cert, key }: Tls): ServerCredentials {
  const pair = { cert_chain: Buffer.from(cert), private_key: Buffer.from(key) }
  return ServerCredentials.createSsl(Buffer.from(ca), [pair], true)
}

function definitionOf(path: string, { kind, request, response }: Method): MethodDefinition<object, object> {
  return {
    path,
    requestStream: kind === 'stream',
    responseStream: kind === 'stream',
    requestSerialize: (message) => request.encode(message),
    requestDeserialize: (buffer): Received => ({ message: request.decode(buffer), bytes: buffer.length }),
    responseSerialize: (message) => response.encode(message),
    responseDeserialize: (buffer) => response.decode(buffer),
  }
}

function handlerOf(face: EtcdFace, method: Method): UntypedHandleCall {
  if (method.kind === 'unary') {
    const { handle } = method
    const unary: handleUnaryCall<Received, object> = (call, callback) => {
      const context = new UnaryContext(call)
      const admitted = context.requireLeader
        ? face.requireLeader().then(() => handle(call.request.message as never, context))
        : handle(call.request.message as never, context)
      admitted.then(
        (response) => callback(null, response),
        (error: unknown) => callback(statusOf(error)),
      )
    }
    return unary
  }
  const { handle } = method
  const streaming: handleBidiStreamingCall<Received, object> = (call) => {
    const stream = new GrpcStream(call)
    if (!stream.context.requireLeader) return handle(stream as CallStream<never, object>)
    face
      .requireLeader()
      .then(() => handle(stream as CallStream<never, object>))
      .catch((error: unknown) => stream.end(error))
  }
  return streaming
}

function statusOf(error: unknown): { code: number; details: string } {
  const { code, message } = toEtcdError(error)
  return { code, details: message }
}

type AnyCall = ServerUnaryCall<Received, object> | ServerDuplexStream<Received, object>

class UnaryContext implements CallContext {
  readonly bytes: number
  private aborting: AbortController | undefined
  constructor(private readonly call: ServerUnaryCall<Received, object>) {
    this.bytes = call.request.bytes
  }
  get signal(): AbortSignal {
    this.aborting ??= abortingOf(this.call)
    return this.aborting.signal
  }
  get gone(): boolean {
    return this.call.cancelled
  }
  get remainingMs(): number | undefined {
    return remainingMs(this.call)
  }
  get requireLeader(): boolean {
    return requiresLeader(this.call)
  }
}

function abortingOf(call: AnyCall): AbortController {
  const aborting = new AbortController()
  if (call.cancelled) aborting.abort()
  else call.on('cancelled', () => aborting.abort())
  return aborting
}

function remainingMs(call: AnyCall): number | undefined {
  const deadline = call.getDeadline()
  const at = deadline instanceof Date ? deadline.getTime() : deadline
  return Number.isFinite(at) ? Math.max(0, at - Date.now()) : undefined
}

const requiresLeader = (call: AnyCall): boolean => call.metadata.get('hasleader')[0] === 'true'

class GrpcStream implements CallStream<unknown, object> {
  readonly context: Omit<CallContext, 'bytes'>
  private over = false
  private full: Promise<void> | undefined

  constructor(private readonly call: ServerDuplexStream<Received, object>) {
    const { signal } = abortingOf(call)
    signal.addEventListener('abort', () => {
      this.over = true
    })
    this.context = {
      signal,
      get gone() {
        return signal.aborted
      },
      remainingMs: remainingMs(call),
      requireLeader: requiresLeader(call),
    }
    // What breaks a stream is told by `cancelled` too.
    call.on('error', () => undefined)
  }

  receive(handlers: { request(request: unknown): void | Promise<void>; done(): void }): void {
    const go = () => this.call.resume()
    this.call.on('data', ({ message }: Received) => {
      const room = handlers.request(message)
      if (!room) return
      this.call.pause()
      room.then(go, go)
    })
    this.call.on('end', () => handlers.done())
  }

  async send(response: object): Promise<void> {
    if (this.full) await this.full
    if (this.over || this.call.write(response)) return
    this.full = new Promise((resolve) => {
      const go = () => {
        this.full = undefined
        this.call.off('drain', go)
        this.context.signal.removeEventListener('abort', go)
        resolve()
      }
      this.call.on('drain', go)
      this.context.signal.addEventListener('abort', go)
    })
    await this.full
  }

  end(error?: unknown): void {
    if (this.over) return
    this.over = true
    if (error === undefined) this.call.end()
    else this.call.emit('error', statusOf(error))
  }
}
