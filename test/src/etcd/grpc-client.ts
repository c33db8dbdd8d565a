import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { readFileSync } from 'node:fs'
import {
  Client,
  type ClientDuplexStream,
  credentials,
  type GrpcObject,
  loadPackageDefinition,
  Metadata,
  type ServiceClientConstructor,
  type ServiceError,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'

// oxlint-disable-next-line typescript/no-explicit-any
export type Json = any

const protoDir = join(dirname(createRequire(import.meta.url).resolve('@capstan/etcd')), '../proto')
const definition = loadSync(['etcd.proto', 'lock.proto', 'election.proto'], {
  includeDirs: [protoDir],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: false,
})
const loaded = loadPackageDefinition(definition)

const PACKAGES: Record<string, string> = { Lock: 'v3lockpb', Election: 'v3electionpb' }

export type Outcome = { ok: Json } | { error: { code: number; text: string } }

/** A client of etcd made by grpc-js and proto-loader from our proto files: field names and enums as etcd writes them. */
export class GrpcClient {
  private readonly clients = new Map<string, Client>()

  /** `tls`: directory with `ca.crt`, `client.crt` and `client.key`. */
  constructor(endpoint: string, tls?: string) {
    const file = (name: string) => readFileSync(join(tls as string, name))
    const secured = tls
      ? credentials.createSsl(file('ca.crt'), file('client.key'), file('client.crt'))
      : credentials.createInsecure()
    const address = endpoint.replace(/^https?:\/\//, '')
    for (const name of ['KV', 'Watch', 'Lease', 'Cluster', 'Maintenance', 'Auth', 'Lock', 'Election']) {
      const space = loaded[PACKAGES[name] ?? 'etcdserverpb'] as GrpcObject
      const Service = space[name] as ServiceClientConstructor
      this.clients.set(
        name,
        new Service(address, secured, {
          'grpc.max_receive_message_length': -1,
          'grpc.max_send_message_length': -1,
          // All services over one connection each would be shared among clients of the same address.
          'grpc.use_local_subchannel_pool': 1,
        }),
      )
    }
  }

  /** `KV/Put` */
  call(
    path: string,
    request: Json = {},
    options: { timeoutMs?: number; metadata?: Record<string, string> } = {},
  ): Promise<Outcome> {
    const metadata = new Metadata()
    for (const [key, value] of Object.entries(options.metadata ?? {})) metadata.set(key, value)
    return new Promise((resolve) => {
      this.method(path).call(
        this.clientOf(path),
        request,
        metadata,
        { deadline: Date.now() + (options.timeoutMs ?? 10_000) },
        (error: ServiceError | null, ok: Json) =>
          resolve(error ? { error: { code: error.code, text: error.details } } : { ok }),
      )
    })
  }

  /** A call that streams both ways, or only its answers. */
  open(path: string, request?: Json): GrpcStream {
    const method = this.method(path)
    const client = this.clientOf(path)
    return new GrpcStream(request === undefined ? method.call(client) : method.call(client, request))
  }

  close(): void {
    for (const client of this.clients.values()) client.close()
  }

  private clientOf(path: string): Client {
    return this.clients.get(path.split('/')[0] as string) as Client
  }
  private method(path: string): Json {
    return (this.clientOf(path) as Json)[path.split('/')[1] as string]
  }
}

export class GrpcStream {
  readonly received: Json[] = []
  ended: { code: number; text: string } | 'well' | undefined
  private readonly waiting: { enough: () => boolean; resolve: () => void }[] = []

  constructor(private readonly call: ClientDuplexStream<Json, Json>) {
    call.on('data', (message: Json) => {
      this.received.push(message)
      this.look()
    })
    call.on('error', (error: ServiceError) => {
      this.ended = { code: error.code, text: error.details }
      this.look()
    })
    call.on('end', () => {
      this.ended ??= 'well'
      this.look()
    })
  }

  send(request: Json): void {
    this.call.write(request)
  }
  finish(): void {
    this.call.end()
  }
  cancel(): void {
    this.call.cancel()
  }

  /** Waits until so many messages have come, or the stream is over. @throws Error after the time. */
  until(enough: number | ((received: Json[]) => boolean), timeoutMs = 10_000): Promise<Json[]> {
    const test = typeof enough === 'number' ? () => this.received.length >= enough : () => enough(this.received)
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`not in ${timeoutMs} ms; received ${JSON.stringify(this.received)}`)),
        timeoutMs,
      )
      this.waiting.push({
        enough: () => test() || this.ended !== undefined,
        resolve: () => {
          clearTimeout(timer)
          resolve(this.received)
        },
      })
      this.look()
    })
  }

  private look(): void {
    for (const one of [...this.waiting])
      if (one.enough()) {
        this.waiting.splice(this.waiting.indexOf(one), 1)
        one.resolve()
      }
  }
}
