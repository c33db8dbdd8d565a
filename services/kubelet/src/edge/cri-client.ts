import { fileURLToPath } from 'node:url'
import {
  Client,
  credentials,
  type GrpcObject,
  loadPackageDefinition,
  Metadata,
  type ServiceError,
  status,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { RuntimeError, type RuntimeErrorCode } from '../runtime.js'

const PROTO = fileURLToPath(new URL('../../proto/cri.proto', import.meta.url))
const RECEIVE_BYTES_MAX = 16 * 1024 * 1024

/** JSON edge: messages of `proto/cri.proto` in camel case; whoever calls knows which. */
// oxlint-disable-next-line typescript/no-explicit-any
export type CriMessage = Record<string, any>

type Method = (
  request: object,
  metadata: Metadata,
  options: { deadline: number },
  done: (error: ServiceError | null, reply: CriMessage) => void,
) => void

/** Calls of CRI v1 on a Unix socket. Reconnects by itself, quickly: the other end is on this machine. */
export class CriClient {
  private readonly runtime: Client
  private readonly images: Client

  constructor(readonly socketPath: string) {
    const definition = loadSync(PROTO, { longs: Number, enums: String, defaults: true, arrays: true, objects: true })
    const services = (loadPackageDefinition(definition)['runtime'] as GrpcObject)['v1'] as Record<
      string,
      new (
        address: string,
        credentials: unknown,
        options: object,
      ) => Client
    >
    const options = {
      'grpc.max_receive_message_length': RECEIVE_BYTES_MAX,
      'grpc.initial_reconnect_backoff_ms': 50,
      'grpc.min_reconnect_backoff_ms': 50,
      'grpc.max_reconnect_backoff_ms': 500,
    }
    const connect = (name: string) => {
      const Service = services[name]
      if (!Service) throw new Error(`${PROTO} describes no ${name}`)
      return new Service(`unix:${socketPath}`, credentials.createInsecure(), options)
    }
    this.runtime = connect('RuntimeService')
    this.images = connect('ImageService')
  }

  /** @throws RuntimeError */
  call(method: string, request: object = {}, timeoutMs = 10_000): Promise<CriMessage> {
    return this.send(this.runtime, method, request, timeoutMs)
  }

  /** @throws RuntimeError */
  callImages(method: string, request: object = {}, timeoutMs = 10_000): Promise<CriMessage> {
    return this.send(this.images, method, request, timeoutMs)
  }

  close(): void {
    this.runtime.close()
    this.images.close()
  }

  private send(client: Client, method: string, request: object, timeoutMs: number): Promise<CriMessage> {
    return new Promise((resolve, reject) => {
      const name = method.charAt(0).toLowerCase() + method.slice(1)
      const call = (client as unknown as Record<string, Method>)[name]
      if (!call) throw new Error(`CRI has no ${method}`)
      call.call(client, request, new Metadata(), { deadline: Date.now() + timeoutMs }, (error, reply) => {
        if (error)
          reject(new RuntimeError(codeOf(error), `${method}: ${error.details || error.message}`, { cause: error }))
        else resolve(reply)
      })
    })
  }
}

function codeOf(error: ServiceError): RuntimeErrorCode {
  switch (error.code) {
    case status.UNAVAILABLE:
      return 'UNAVAILABLE'
    case status.DEADLINE_EXCEEDED:
      return 'TIMEOUT'
    case status.NOT_FOUND:
      return 'NOT_FOUND'
    case status.UNIMPLEMENTED:
      return 'UNSUPPORTED'
    default:
      return 'REFUSED'
  }
}
