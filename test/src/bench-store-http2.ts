/**
 * etcd v3's gRPC as far as the benchmark of the store speaks it, straight on `node:http2` with messages written by hand:
 * a client library would cost the one machine more than many a server's work, and be the limit of what is measured.
 */
import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants } from 'node:http2'

const GRPC_PREFIX_BYTES = 5
const WINDOW_BYTES = 8 * 1024 * 1024

export class GrpcError extends Error {
  constructor(
    readonly status: number,
    text: string,
  ) {
    super(text)
  }
}

/** One HTTP/2 connection to an etcd server. */
export class EtcdConnection {
  private constructor(private readonly session: ClientHttp2Session) {}

  static open(endpoint: string): Promise<EtcdConnection> {
    return new Promise((resolve, reject) => {
      const session = connect(`http://${endpoint}`, { settings: { initialWindowSize: WINDOW_BYTES } })
      session.once('connect', () => {
        session.setLocalWindowSize(WINDOW_BYTES)
        resolve(new EtcdConnection(session))
      })
      session.once('error', reject)
      // Later ones fail the requests; they tell.
      session.on('error', () => {})
    })
  }

  put(key: Uint8Array, value: Uint8Array, timeoutMs?: number): Promise<unknown> {
    return this.unary('/etcdserverpb.KV/Put', putRequest(key, value), timeoutMs)
  }

  /** All in one transaction: at most 128. */
  async putMany(pairs: readonly (readonly [Uint8Array, Uint8Array])[], timeoutMs?: number): Promise<void> {
    // TxnRequest.success = 2: RequestOp.request_put = 2.
    const operations = pairs.map(([key, value]) => field(2, field(2, putRequest(key, value))))
    await this.unary('/etcdserverpb.KV/Txn', Buffer.concat(operations), timeoutMs)
  }

  /** Linearizable. Whether there is such a key. */
  async get(key: Uint8Array, timeoutMs?: number): Promise<boolean> {
    const reply = await this.unary('/etcdserverpb.KV/Range', field(1, key), timeoutMs)
    // RangeResponse.kvs = 2.
    return fields(reply).some(({ number }) => number === 2)
  }

  /** The member asked, and the one that leads (0: nobody). */
  async status(timeoutMs?: number): Promise<{ member: bigint; leader: bigint }> {
    const reply = fields(await this.unary('/etcdserverpb.Maintenance/Status', Buffer.alloc(0), timeoutMs))
    const header = reply.find(({ number }) => number === 1)?.bytes ?? Buffer.alloc(0)
    const number = (list: ReturnType<typeof fields>, wanted: number) =>
      list.find((one) => one.number === wanted)?.value ?? 0n
    return { member: number(fields(header), 2), leader: number(reply, 4) }
  }

  /** `count` watches of one key on one stream. Resolves when the server has taken all of them. */
  watch(key: Uint8Array, count: number, event: (events: number) => void, lost: (why: string) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const stream = this.stream('/etcdserverpb.Watch/Watch')
      let created = 0
      readMessages(stream, (message) => {
        let events = 0
        for (const { number } of fields(message)) {
          // WatchResponse: created = 3, canceled = 4, events = 11.
          if (number === 11) events++
          else if (number === 3 && ++created === count) resolve()
          else if (number === 4) lost('cancelled by the server')
        }
        if (events > 0) event(events)
      })
      stream.on('error', reject)
      stream.on('close', () => lost('the stream ended'))
      // WatchRequest.create_request = 1: WatchCreateRequest.key = 1.
      for (let at = 0; at < count; at++) stream.write(framed(field(1, field(1, key))))
    })
  }

  close(): void {
    this.session.destroy()
  }

  private stream(path: string): ClientHttp2Stream {
    const stream = this.session.request({
      [constants.HTTP2_HEADER_METHOD]: 'POST',
      [constants.HTTP2_HEADER_PATH]: path,
      [constants.HTTP2_HEADER_CONTENT_TYPE]: 'application/grpc',
      te: 'trailers',
    })
    return stream
  }

  private unary(path: string, request: Buffer, timeoutMs?: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const stream = this.stream(path)
      const timer =
        timeoutMs === undefined
          ? undefined
          : setTimeout(() => {
              stream.close(constants.NGHTTP2_CANCEL)
              reject(new GrpcError(4, `no answer in ${timeoutMs} ms`))
            }, timeoutMs)
      let data: Buffer | undefined
      let failure: GrpcError | undefined
      const trailers = (headers: Record<string, unknown>) => {
        const status = headers['grpc-status']
        if (status !== undefined && status !== '0')
          failure = new GrpcError(Number(status), String(headers['grpc-message']))
      }
      stream.on('response', trailers)
      stream.on('trailers', trailers)
      stream.on('data', (chunk: Buffer) => (data = data ? Buffer.concat([data, chunk]) : chunk))
      stream.on('error', (error) => (failure ??= new GrpcError(14, error.message)))
      stream.on('close', () => {
        clearTimeout(timer)
        if (failure) reject(failure)
        else if (!data) reject(new GrpcError(14, 'the connection ended'))
        else resolve(data.subarray(GRPC_PREFIX_BYTES))
      })
      stream.end(framed(request))
    })
  }
}

function putRequest(key: Uint8Array, value: Uint8Array): Buffer {
  return Buffer.concat([field(1, key), field(2, value)])
}

function framed(message: Buffer): Buffer {
  const frame = Buffer.allocUnsafe(GRPC_PREFIX_BYTES + message.length)
  frame[0] = 0
  frame.writeUInt32BE(message.length, 1)
  message.copy(frame, GRPC_PREFIX_BYTES)
  return frame
}

function readMessages(stream: ClientHttp2Stream, take: (message: Buffer) => void): void {
  let rest: Buffer = Buffer.alloc(0)
  stream.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let at = 0
    while (rest.length - at >= GRPC_PREFIX_BYTES) {
      const end = at + GRPC_PREFIX_BYTES + rest.readUInt32BE(at + 1)
      if (end > rest.length) break
      take(rest.subarray(at + GRPC_PREFIX_BYTES, end))
      at = end
    }
    rest = rest.subarray(at)
  })
}

/** A protobuf field of bytes. */
function field(number: number, bytes: Uint8Array): Buffer {
  const head = [(number << 3) | 2]
  for (let left = bytes.length; ; left >>>= 7) {
    if (left < 0x80) {
      head.push(left)
      break
    }
    head.push((left & 0x7f) | 0x80)
  }
  const whole = Buffer.allocUnsafe(head.length + bytes.length)
  whole.set(head)
  whole.set(bytes, head.length)
  return whole
}

/** The fields of a protobuf message: numbers as `value`, everything else as `bytes`. */
function fields(message: Buffer): { number: number; value: bigint; bytes: Buffer }[] {
  const found: { number: number; value: bigint; bytes: Buffer }[] = []
  let at = 0
  // Seven bits at a time; only ids need more than a double holds.
  const varint = (): bigint => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++] as number
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
  }
  const small = (): number => {
    let value = 0
    for (let factor = 1; ; factor *= 128) {
      const byte = message[at++] as number
      value += (byte & 0x7f) * factor
      if (byte < 0x80) return value
    }
  }
  while (at < message.length) {
    const tag = small()
    const number = tag >>> 3
    if ((tag & 7) === 0) found.push({ number, value: varint(), bytes: Buffer.alloc(0) })
    else {
      const length = small()
      found.push({ number, value: 0n, bytes: message.subarray(at, at + length) })
      at += length
    }
  }
  return found
}
