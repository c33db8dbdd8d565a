/**
 * Protocol buffers (proto3 wire format), driven by tables that are also the TypeScript types. Made for this face: whole
 * numbers up to 2^53 are plain numbers, bytes are views of the message that came in, and each value is copied once on the
 * way out. What is beyond 2^53 is taken to the bound (`int64`: revisions, limits, versions never get there), or is a
 * bigint where the exact bits count (`lease`, `id`).
 */

interface Kinds {
  bytes: Uint8Array
  string: string
  bool: boolean
  /** int64 or uint64 on the wire; outside ±(2^53-1): the bound. */
  int64: number
  /** int64, exact. */
  lease: bigint
  /** uint64, exact. */
  id: bigint
  uint32: number
  enum: number
}
type Kind = keyof Kinds

export interface Field<T = unknown> {
  readonly number: number
  readonly kind: Kind | 'message'
  readonly repeated: boolean
  /** Part of a oneof, or a message: undefined when it is not there. Others have proto3's zero value. */
  readonly optional: boolean
  readonly message?: () => Message
  /** Only for the compiler. */
  readonly type?: T
}

type Fields = Record<string, Field>
/** A message as it was read: everything there. */
export type In<M> = M extends Message<infer F> ? { [K in keyof F]: F[K] extends Field<infer T> ? T : never } : never
/** A message to be written: what is missing has its zero value. */
export type Out<M> =
  M extends Message<infer F> ? { [K in keyof F]?: F[K] extends Field<infer T> ? Sent<T> : never } : never
/** The same, with some fields in bytes already. */
export type Prepared<M> = { [K in keyof Out<M>]: Out<M>[K] | EncodedField }
type Sent<T> = T extends readonly (infer E)[]
  ? readonly Sent<E>[]
  : T extends Uint8Array | string | number | bigint | boolean | undefined
    ? T
    : { [K in keyof T]?: Sent<T[K]> }

/** A whole field as it stands on the wire, tag and all: put into bytes once, and then into many messages. */
export class EncodedField {
  constructor(readonly bytes: Uint8Array) {}
}

const scalar =
  <K extends Kind>(kind: K) =>
  (number: number): Field<Kinds[K]> => ({ number, kind, repeated: false, optional: false })

export const bytes = scalar('bytes')
export const string = scalar('string')
export const bool = scalar('bool')
export const int64 = scalar('int64')
export const lease = scalar('lease')
export const id = scalar('id')
export const uint32 = scalar('uint32')
export const enumeration = scalar('enum')

/** A field that knows whether it was there: a member of a oneof. */
export const oneof = <T>(field: Field<T>): Field<T | undefined> =>
  ({ ...field, optional: true }) as Field<T | undefined>

export const one = <F extends Fields>(
  number: number,
  message: () => Message<F>,
): Field<In<Message<F>> | undefined> => ({
  number,
  kind: 'message',
  repeated: false,
  optional: true,
  message: message as () => Message,
})

export const many = <F extends Fields>(number: number, message: () => Message<F>): Field<In<Message<F>>[]> => ({
  number,
  kind: 'message',
  repeated: true,
  optional: false,
  message: message as () => Message,
})

export const repeated = <T>(field: Field<T>): Field<T[]> => ({ ...field, repeated: true }) as unknown as Field<T[]>

/** Bytes that are no message of the kind expected. */
export class ProtobufError extends Error {
  override readonly name = 'ProtobufError'
}

const NO_BYTES = new Uint8Array(0)
const ZERO: { [K in Kind]: Kinds[K] } = {
  bytes: NO_BYTES,
  string: '',
  bool: false,
  int64: 0,
  lease: 0n,
  id: 0n,
  uint32: 0,
  enum: 0,
}
const LENGTH_PREFIXED: ReadonlySet<string> = new Set(['bytes', 'string', 'message'])
const TWO_32 = 2 ** 32
const DEPTH_MAX = 256

export interface NamedField extends Field {
  readonly name: string
}

interface Entry extends NamedField {
  readonly tag: number
  readonly tagBytes: number
}

export class Message<F extends Fields = Fields> {
  private readonly byNumber: (Entry | undefined)[] = []
  private readonly entries: Entry[]

  constructor(
    readonly name: string,
    fields: F,
  ) {
    this.entries = Object.entries(fields).map(([fieldName, field]) => {
      const wire = LENGTH_PREFIXED.has(field.kind) || field.repeated ? 2 : 0
      const tag = field.number * 8 + wire
      return { ...field, name: fieldName, tag, tagBytes: varintBytes(tag) }
    })
    // Field numbers are small here (the largest is 64).
    for (const entry of this.entries) this.byNumber[entry.number] = entry
  }

  get fields(): readonly NamedField[] {
    return this.entries
  }

  /** @throws ProtobufError */
  decode(buffer: Uint8Array): In<Message<F>> {
    return this.read(new Reader(buffer), buffer.length, 0) as In<Message<F>>
  }

  /** Fields may be given as `EncodedField`s, too (see `Prepared`). */
  encode(message: Out<Message<F>>): Buffer {
    const values = message as Record<string, unknown>
    const writer = new Writer(this.sizeOf(values))
    this.write(values, writer)
    return writer.buffer
  }

  /** To be given as that field of messages of this kind. */
  encodeField<K extends keyof F & string>(name: K, value: Out<Message<F>>[K]): EncodedField {
    return new EncodedField(this.encode({ [name]: value } as Out<Message<F>>))
  }

  /** Bytes of the encoded message. */
  sizeOf(message: Record<string, unknown>): number {
    let size = 0
    for (const entry of this.entries) {
      const value = message[entry.name]
      if (value === undefined || value === null) continue
      if (value instanceof EncodedField) {
        size += value.bytes.length
        continue
      }
      if (!entry.repeated) {
        if (entry.optional || !isZero(value)) size += entry.tagBytes + sizeOfValue(entry, value)
      } else if (LENGTH_PREFIXED.has(entry.kind))
        for (const element of value as unknown[]) size += entry.tagBytes + sizeOfValue(entry, element)
      else if ((value as unknown[]).length > 0)
        size += entry.tagBytes + sizeOfPrefixed(sizeOfPacked(entry, value as []))
    }
    return size
  }

  private write(message: Record<string, unknown>, writer: Writer): void {
    for (const entry of this.entries) {
      const value = message[entry.name]
      if (value === undefined || value === null) continue
      if (value instanceof EncodedField) {
        writer.raw(value.bytes)
        continue
      }
      if (!entry.repeated) {
        if (!entry.optional && isZero(value)) continue
        writer.varint(entry.tag)
        this.writeValue(entry, value, writer)
      } else if (LENGTH_PREFIXED.has(entry.kind))
        for (const element of value as unknown[]) {
          writer.varint(entry.tag)
          this.writeValue(entry, element, writer)
        }
      else if ((value as unknown[]).length > 0) {
        writer.varint(entry.tag)
        writer.varint(sizeOfPacked(entry, value as unknown[]))
        for (const element of value as unknown[]) this.writeValue(entry, element, writer)
      }
    }
  }

  private writeValue(entry: Entry, value: unknown, writer: Writer): void {
    switch (entry.kind) {
      case 'bytes':
        return writer.bytes(value as Uint8Array)
      case 'string':
        return writer.bytes(Buffer.from(value as string))
      case 'bool':
        return writer.varint(value ? 1 : 0)
      case 'lease':
      case 'id':
        return writer.bigint(value as bigint)
      case 'message': {
        const message = (entry.message as () => Message)()
        writer.varint(message.sizeOf(value as Record<string, unknown>))
        return message.write(value as Record<string, unknown>, writer)
      }
      default:
        return (value as number) < 0 ? writer.bigint(BigInt(value as number)) : writer.varint(value as number)
    }
  }

  private read(reader: Reader, end: number, depth: number): Record<string, unknown> {
    if (depth > DEPTH_MAX) throw new ProtobufError(`${this.name}: messages nested deeper than ${DEPTH_MAX}`)
    const message: Record<string, unknown> = {}
    for (const entry of this.entries)
      message[entry.name] = entry.repeated ? [] : entry.optional ? undefined : ZERO[entry.kind as Kind]
    while (reader.at < end) {
      const tag = reader.varint32()
      const wire = tag & 7
      const entry = this.byNumber[tag >>> 3]
      if (!entry) {
        reader.skip(wire, end)
        continue
      }
      if (wire === 2) {
        const length = reader.varint32()
        const stop = reader.at + length
        if (stop > end) throw new ProtobufError(`${this.name}.${entry.name} is cut off`)
        if (LENGTH_PREFIXED.has(entry.kind)) {
          const value = this.readPrefixed(entry, reader, stop, depth)
          if (entry.repeated) (message[entry.name] as unknown[]).push(value)
          else message[entry.name] = value
        } else {
          if (!entry.repeated) throw new ProtobufError(`${this.name}.${entry.name} has the wrong wire type`)
          while (reader.at < stop) (message[entry.name] as unknown[]).push(readVarint(entry, reader))
        }
        if (reader.at !== stop) throw new ProtobufError(`${this.name}.${entry.name} has the wrong length`)
      } else if (wire === 0 && !LENGTH_PREFIXED.has(entry.kind)) {
        const value = readVarint(entry, reader)
        if (entry.repeated) (message[entry.name] as unknown[]).push(value)
        else message[entry.name] = value
      } else throw new ProtobufError(`${this.name}.${entry.name} has the wrong wire type`)
    }
    if (reader.at !== end) throw new ProtobufError(`${this.name} is cut off`)
    return message
  }

  private readPrefixed(entry: Entry, reader: Reader, stop: number, depth: number): unknown {
    if (entry.kind === 'message') return (entry.message as () => Message)().read(reader, stop, depth + 1)
    const view = reader.take(stop)
    return entry.kind === 'bytes' ? view : Buffer.from(view.buffer, view.byteOffset, view.length).toString('utf8')
  }
}

function readVarint(entry: Entry, reader: Reader): unknown {
  reader.varint64()
  const { low, high } = reader
  switch (entry.kind) {
    case 'bool':
      return low !== 0 || high !== 0
    case 'uint32':
      return low
    case 'enum':
      return low | 0
    case 'lease':
      return high === 0 ? BigInt(low) : BigInt.asIntN(64, (BigInt(high) << 32n) | BigInt(low))
    case 'id':
      return high === 0 ? BigInt(low) : (BigInt(high) << 32n) | BigInt(low)
    default:
      return safeNumber(low, high)
  }
}

function safeNumber(low: number, high: number): number {
  if (high < 0x20_0000) return high * TWO_32 + low
  if (high < 0x8000_0000) return Number.MAX_SAFE_INTEGER
  const value = BigInt.asIntN(64, (BigInt(high) << 32n) | BigInt(low))
  return value < -BigInt(Number.MAX_SAFE_INTEGER) ? -Number.MAX_SAFE_INTEGER : Number(value)
}

function isZero(value: unknown): boolean {
  return (
    value === 0 ||
    value === false ||
    value === '' ||
    value === 0n ||
    (value instanceof Uint8Array && value.length === 0)
  )
}

function sizeOfValue(entry: Entry, value: unknown): number {
  switch (entry.kind) {
    case 'bytes':
      return sizeOfPrefixed((value as Uint8Array).length)
    case 'string':
      return sizeOfPrefixed(Buffer.byteLength(value as string))
    case 'message':
      return sizeOfPrefixed((entry.message as () => Message)().sizeOf(value as Record<string, unknown>))
    case 'bool':
      return 1
    case 'lease':
    case 'id':
      return bigintBytes(value as bigint)
    default:
      return (value as number) < 0 ? 10 : varintBytes(value as number)
  }
}

function sizeOfPacked(entry: Entry, values: readonly unknown[]): number {
  let size = 0
  for (const value of values) size += sizeOfValue(entry, value)
  return size
}

const sizeOfPrefixed = (length: number): number => varintBytes(length) + length

function varintBytes(value: number): number {
  let count = 1
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) count++
  return count
}

function bigintBytes(value: bigint): number {
  const high = Number((value >> 32n) & 0xffff_ffffn)
  const low = Number(value & 0xffff_ffffn)
  if (high === 0) return varintBytes(low)
  if (high < 0x8) return 5
  return high < 0x400 ? 6 : high < 0x2_0000 ? 7 : high < 0x100_0000 ? 8 : high < 0x8000_0000 ? 9 : 10
}

class Reader {
  at = 0
  low = 0
  high = 0
  constructor(private readonly buffer: Uint8Array) {}

  /** For tags and lengths. */
  varint32(): number {
    this.varint64()
    if (this.high !== 0) throw new ProtobufError('a tag or length is too large')
    return this.low
  }

  /** Into `low` and `high`, both unsigned. */
  varint64(): void {
    const { buffer } = this
    let low = 0
    let high = 0
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = buffer[this.at++]
      if (byte === undefined) throw new ProtobufError('a number is cut off')
      const part = byte & 0x7f
      if (shift < 28) low |= part << shift
      else if (shift === 28) {
        low |= part << 28
        high = part >>> 4
      } else if (shift < 63) high |= part << (shift - 32)
      else high |= (part & 1) << 31
      if (byte < 128) {
        this.low = low >>> 0
        this.high = high >>> 0
        return
      }
    }
    throw new ProtobufError('a number has more than ten bytes')
  }

  take(stop: number): Uint8Array {
    const view = this.buffer.subarray(this.at, stop)
    this.at = stop
    return view
  }

  skip(wire: number, end: number): void {
    if (wire === 0) this.varint64()
    else if (wire === 1) this.at += 8
    else if (wire === 5) this.at += 4
    else if (wire === 2) {
      const length = this.varint32()
      this.at += length
    } else throw new ProtobufError(`unknown wire type ${wire}`)
    if (this.at > end) throw new ProtobufError('a field is cut off')
  }
}

class Writer {
  readonly buffer: Buffer
  private at = 0
  constructor(size: number) {
    this.buffer = Buffer.allocUnsafe(size)
  }

  /** 0 to 2^53-1. */
  varint(value: number): void {
    let rest = value
    while (rest >= TWO_32) {
      this.buffer[this.at++] = (rest % 128) | 128
      rest = Math.floor(rest / 128)
    }
    while (rest >= 128) {
      this.buffer[this.at++] = (rest & 127) | 128
      rest >>>= 7
    }
    this.buffer[this.at++] = rest
  }

  bigint(value: bigint): void {
    let low = Number(value & 0xffff_ffffn)
    let high = Number((value >> 32n) & 0xffff_ffffn)
    while (high !== 0 || low >= 128) {
      this.buffer[this.at++] = (low & 127) | 128
      low = ((low >>> 7) | (high << 25)) >>> 0
      high >>>= 7
    }
    this.buffer[this.at++] = low
  }

  bytes(value: Uint8Array): void {
    this.varint(value.length)
    this.raw(value)
  }

  raw(value: Uint8Array): void {
    this.buffer.set(value, this.at)
    this.at += value.length
  }
}
