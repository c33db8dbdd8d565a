/**
 * The least gRPC client that there can be: HTTP/2 without TLS on a plain socket, all requests of one turn in one write, no
 * header table. For benchmarks on one machine: what a client library costs there (`node:http2` three times, `grpc-js` five
 * times as much) is taken from the server that is measured.
 *
 * An answer with a message is taken for success, one without for failure: gRPC servers send no message with an error.
 */
import { connect, type Socket } from 'node:net'

const FRAME_HEAD_BYTES = 9
const GRPC_HEAD_BYTES = 5
const FRAME_BYTES_MAX = 16_384
/** What we let the server send ahead, by stream and altogether. */
const WINDOW_BYTES = 16 * 1024 * 1024
const WINDOW_DEFAULT_BYTES = 65_535
const [DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE] = [0, 1, 3, 4, 6, 7, 8] as const
const [END_STREAM, ACK, END_HEADERS] = [1, 1, 4] as const
const [SETTING_HEADER_TABLE, SETTING_PUSH, SETTING_WINDOW] = [1, 2, 4] as const

interface Stream {
  message(bytes: Buffer): void
  /** `answered`: there was a message. */
  end(error: Error | undefined): void
  rest: Buffer | undefined
  messages: number
  received: number
  sendWindow: number
}

export class GrpcConnection {
  private readonly streams = new Map<number, Stream>()
  private readonly heads = new Map<string, Buffer>()
  private nextStream = 1
  private out: Buffer[] = []
  /** Messages that wait for the server's windows. */
  private blocked: { stream: number; bytes: Buffer; last: boolean }[] = []
  private sendWindow = WINDOW_DEFAULT_BYTES
  private streamWindow = WINDOW_DEFAULT_BYTES
  private received = 0
  private input: Buffer = Buffer.alloc(0)
  private failure: Error | undefined

  private constructor(
    private readonly socket: Socket,
    private readonly authority: string,
  ) {
    socket.setNoDelay(true)
    socket.on('data', (chunk: Buffer) => this.take(chunk))
    socket.on('error', (error) => this.fail(error))
    socket.on('close', () => this.fail(new Error('the connection ended')))
    this.write(Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'))
    const settings = Buffer.alloc(18)
    ;[
      [SETTING_HEADER_TABLE, 0],
      [SETTING_PUSH, 0],
      [SETTING_WINDOW, WINDOW_BYTES],
    ].forEach(([id, value], at) => {
      settings.writeUInt16BE(id as number, at * 6)
      settings.writeUInt32BE(value as number, at * 6 + 2)
    })
    this.write(frame(SETTINGS, 0, 0, settings), windowUpdate(0, WINDOW_BYTES))
  }

  static open(endpoint: string): Promise<GrpcConnection> {
    const at = endpoint.lastIndexOf(':')
    return new Promise((resolve, reject) => {
      const socket = connect(Number(endpoint.slice(at + 1)), endpoint.slice(0, at))
      socket.once('error', reject)
      socket.once('connect', () => resolve(new GrpcConnection(socket, endpoint)))
    })
  }

  unary(path: string, request: Buffer, timeoutMs?: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      let answer: Buffer | undefined
      let timer: NodeJS.Timeout | undefined
      const stream = this.stream(
        path,
        (message) => (answer = message),
        (error) => {
          clearTimeout(timer)
          if (answer && !error) resolve(answer)
          else reject(error ?? new Error(`${path} was refused`))
        },
      )
      this.send(stream, request, true)
      if (timeoutMs !== undefined)
        timer = setTimeout(() => {
          this.streams.delete(stream)
          reject(new Error(`no answer to ${path} in ${timeoutMs} ms`))
        }, timeoutMs)
    })
  }

  /** Opens a stream: its number, for `send`. */
  stream(path: string, message: (bytes: Buffer) => void, end: (error: Error | undefined) => void): number {
    const number = this.nextStream
    this.nextStream += 2
    if (this.failure) {
      const { failure } = this
      queueMicrotask(() => end(failure))
      return number
    }
    this.streams.set(number, { message, end, rest: undefined, messages: 0, received: 0, sendWindow: this.streamWindow })
    this.write(frame(HEADERS, END_HEADERS, number, this.head(path)))
    return number
  }

  send(stream: number, message: Buffer, last: boolean): void {
    const bytes = Buffer.allocUnsafe(GRPC_HEAD_BYTES + message.length)
    bytes[0] = 0
    bytes.writeUInt32BE(message.length, 1)
    bytes.set(message, GRPC_HEAD_BYTES)
    this.blocked.push({ stream, bytes, last })
    if (this.blocked.length === 1) this.unblock()
  }

  close(): void {
    this.socket.destroy()
  }

  /** The server's windows in mind, in order. */
  private unblock(): void {
    while (this.blocked.length > 0) {
      const first = this.blocked[0] as { stream: number; bytes: Buffer; last: boolean }
      const stream = this.streams.get(first.stream)
      if (stream) {
        const count = Math.min(first.bytes.length, FRAME_BYTES_MAX, this.sendWindow, stream.sendWindow)
        if (count <= 0) return
        const whole = count === first.bytes.length
        this.sendWindow -= count
        stream.sendWindow -= count
        this.write(frame(DATA, whole && first.last ? END_STREAM : 0, first.stream, first.bytes.subarray(0, count)))
        first.bytes = first.bytes.subarray(count)
        if (!whole) continue
      }
      this.blocked.shift()
    }
  }

  private write(...frames: Buffer[]): void {
    if (this.out.length === 0) setImmediate(() => this.flush())
    this.out.push(...frames)
  }

  private flush(): void {
    const out = this.out
    this.out = []
    this.socket.write(Buffer.concat(out))
  }

  /** Header fields as literals that enter no table (RFC 7541, 6.2.2), names by their number in the static one. */
  private head(path: string): Buffer {
    const made = this.heads.get(path)
    if (made) return made
    const text = (value: string) => [value.length, ...Buffer.from(value)]
    const [postMethod, httpScheme, pathName, authorityName] = [0x83, 0x86, 0x04, 0x01]
    const contentTypeName = [0x0f, 31 - 15]
    const head = Buffer.from([
      postMethod,
      httpScheme,
      pathName,
      ...text(path),
      authorityName,
      ...text(this.authority),
      ...contentTypeName,
      ...text('application/grpc'),
      0,
      ...text('te'),
      ...text('trailers'),
    ])
    this.heads.set(path, head)
    return head
  }

  private take(chunk: Buffer): void {
    const input = this.input.length === 0 ? chunk : Buffer.concat([this.input, chunk])
    let at = 0
    while (input.length - at >= FRAME_HEAD_BYTES) {
      const end = at + FRAME_HEAD_BYTES + input.readUIntBE(at, 3)
      if (end > input.length) break
      const payload = input.subarray(at + FRAME_HEAD_BYTES, end)
      this.takeFrame(input[at + 3] as number, input[at + 4] as number, input.readUInt32BE(at + 5) & 0x7fffffff, payload)
      at = end
    }
    this.input = input.subarray(at)
  }

  private takeFrame(type: number, flags: number, number: number, payload: Buffer): void {
    const stream = this.streams.get(number)
    switch (type) {
      case DATA:
        this.received += payload.length
        if (this.received > WINDOW_BYTES / 2) {
          this.write(windowUpdate(0, this.received))
          this.received = 0
        }
        if (!stream) return
        stream.received += payload.length
        if (stream.received > WINDOW_BYTES / 2) {
          this.write(windowUpdate(number, stream.received))
          stream.received = 0
        }
        this.takeMessages(stream, payload)
        break
      case RST_STREAM:
        this.end(number, new Error(`the server ended the stream: ${payload.readUInt32BE(0)}`))
        return
      case SETTINGS:
        if (flags & ACK) return
        for (let at = 0; at + 6 <= payload.length; at += 6)
          if (payload.readUInt16BE(at) === SETTING_WINDOW) {
            const grown = payload.readUInt32BE(at + 2) - this.streamWindow
            this.streamWindow += grown
            for (const one of this.streams.values()) one.sendWindow += grown
          }
        this.write(frame(SETTINGS, ACK, 0, Buffer.alloc(0)))
        this.unblock()
        return
      case PING:
        if (!(flags & ACK)) this.write(frame(PING, ACK, 0, payload))
        return
      case GOAWAY:
        this.fail(new Error('the server goes away'))
        return
      case WINDOW_UPDATE:
        if (number === 0) this.sendWindow += payload.readUInt32BE(0)
        else if (stream) stream.sendWindow += payload.readUInt32BE(0)
        this.unblock()
        return
    }
    if ((type === DATA || type === HEADERS) && flags & END_STREAM)
      this.end(number, stream && stream.messages > 0 ? undefined : new Error('refused'))
  }

  private takeMessages(stream: Stream, chunk: Buffer): void {
    const input = stream.rest ? Buffer.concat([stream.rest, chunk]) : chunk
    let at = 0
    while (input.length - at >= GRPC_HEAD_BYTES) {
      const end = at + GRPC_HEAD_BYTES + input.readUInt32BE(at + 1)
      if (end > input.length) break
      stream.messages++
      stream.message(input.subarray(at + GRPC_HEAD_BYTES, end))
      at = end
    }
    stream.rest = at === input.length ? undefined : input.subarray(at)
  }

  private end(number: number, error: Error | undefined): void {
    const stream = this.streams.get(number)
    if (!stream) return
    this.streams.delete(number)
    stream.end(error)
  }

  private fail(error: Error): void {
    this.failure ??= error
    this.socket.destroy()
    for (const number of [...this.streams.keys()]) this.end(number, error)
  }
}

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(FRAME_HEAD_BYTES + payload.length)
  bytes.writeUIntBE(payload.length, 0, 3)
  bytes[3] = type
  bytes[4] = flags
  bytes.writeUInt32BE(stream, 5)
  bytes.set(payload, FRAME_HEAD_BYTES)
  return bytes
}

function windowUpdate(stream: number, count: number): Buffer {
  const payload = Buffer.alloc(4)
  payload.writeUInt32BE(count, 0)
  return frame(WINDOW_UPDATE, 0, stream, payload)
}
