/** etcd v3 as far as the benchmark of the store speaks it, with messages written by hand. */
import { GrpcConnection } from './bench-grpc.js'

/** One HTTP/2 connection to an etcd server. */
export class EtcdConnection {
  private constructor(private readonly grpc: GrpcConnection) {}

  static async open(endpoint: string): Promise<EtcdConnection> {
    return new EtcdConnection(await GrpcConnection.open(endpoint))
  }

  put(key: Uint8Array, value: Uint8Array, timeoutMs?: number): Promise<unknown> {
    return this.grpc.unary('/etcdserverpb.KV/Put', putRequest(key, value), timeoutMs)
  }

  /** All in one transaction: at most 128. */
  async putMany(pairs: readonly (readonly [Uint8Array, Uint8Array])[], timeoutMs?: number): Promise<void> {
    // TxnRequest.success = 2: RequestOp.request_put = 2.
    const operations = pairs.map(([key, value]) => field(2, field(2, putRequest(key, value))))
    await this.grpc.unary('/etcdserverpb.KV/Txn', Buffer.concat(operations), timeoutMs)
  }

  /** Linearizable. Whether there is such a key. */
  async get(key: Uint8Array, timeoutMs?: number): Promise<boolean> {
    const reply = await this.grpc.unary('/etcdserverpb.KV/Range', field(1, key), timeoutMs)
    // RangeResponse.kvs = 2.
    return fields(reply).some(({ number }) => number === 2)
  }

  /** The member asked, and the one that leads (0: nobody). */
  async status(timeoutMs?: number): Promise<{ member: bigint; leader: bigint }> {
    const reply = fields(await this.grpc.unary('/etcdserverpb.Maintenance/Status', Buffer.alloc(0), timeoutMs))
    const header = reply.find(({ number }) => number === 1)?.bytes ?? Buffer.alloc(0)
    const number = (list: ReturnType<typeof fields>, wanted: number) =>
      list.find((one) => one.number === wanted)?.value ?? 0n
    return { member: number(fields(header), 2), leader: number(reply, 4) }
  }

  /** `count` watches of one key on one stream. Resolves when the server has taken all of them. */
  watch(key: Uint8Array, count: number, event: (events: number) => void, lost: (why: string) => void): Promise<void> {
    return new Promise((resolve) => {
      let created = 0
      const take = (message: Buffer) => {
        let events = 0
        for (const { number } of fields(message)) {
          // WatchResponse: created = 3, canceled = 4, events = 11.
          if (number === 11) events++
          else if (number === 3 && ++created === count) resolve()
          else if (number === 4) lost('cancelled by the server')
        }
        if (events > 0) event(events)
      }
      const stream = this.grpc.stream('/etcdserverpb.Watch/Watch', take, (error) => lost(String(error)))
      // WatchRequest.create_request = 1: WatchCreateRequest.key = 1.
      for (let at = 0; at < count; at++) this.grpc.send(stream, field(1, field(1, key)), false)
    })
  }

  close(): void {
    this.grpc.close()
  }
}

function putRequest(key: Uint8Array, value: Uint8Array): Buffer {
  return Buffer.concat([field(1, key), field(2, value)])
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
