import { crc32c } from './crc32c.js'
import type { EntryKind, HardState, LogEntry, SnapshotMeta } from './types.js'

/**
 * Records of the log on disk. Header, 20 bytes, big endian: magic (2), format (1), type (1; highest bit: the last one
 * of its batch), batch (4), body length (4), CRC-32C of these (4), CRC-32C of the body (4). With a checksum of its own a
 * header's length can be believed where the body is damaged.
 */
export type LogRecord =
  | { type: 'entry'; entry: LogEntry }
  | { type: 'hardState'; hardState: HardState }
  | { type: 'base'; meta: SnapshotMeta }

export const HEADER_BYTES = 20
const LENGTH_AT = 8
const ENDS_BATCH = 0x80
const HEADER_CRC_AT = 12
const BODY_CRC_AT = 16
export const MAGIC = 0xca57
const FORMAT = 1
const TYPES = ['entry', 'hardState', 'base'] as const
const KINDS: EntryKind[] = ['noop', 'command', 'config', 'clusterVersion']
/** Larger than any entry that is ever proposed; a length above it is no length. */
const BODY_BYTES_MAX = 64 * 1024 * 1024

const encoder = new TextEncoder()
/** A text that begins with U+FEFF is to come back as it is, too. */
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Appends records to one buffer that grows: one write for a whole batch. */
export class RecordWriter {
  private bytes: Uint8Array
  private view: DataView
  private at = 0
  private lastStart = 0

  constructor(capacityBytes = 64 * 1024) {
    this.bytes = new Uint8Array(capacityBytes)
    this.view = new DataView(this.bytes.buffer)
  }

  get length(): number {
    return this.at
  }

  /** The bytes written since `reset`; valid until then. */
  take(): Uint8Array {
    return this.bytes.subarray(0, this.at)
  }

  reset(): void {
    this.at = 0
  }

  add(record: LogRecord, batch: number): void {
    const start = this.at
    this.lastStart = start
    this.reserve(HEADER_BYTES)
    this.at += HEADER_BYTES
    if (record.type === 'entry') this.entry(record.entry)
    else this.text(JSON.stringify(record.type === 'hardState' ? record.hardState : record.meta))
    const { view, bytes } = this
    view.setUint16(start, MAGIC)
    view.setUint8(start + 2, FORMAT)
    view.setUint8(start + 3, TYPES.indexOf(record.type))
    view.setUint32(start + 4, batch)
    view.setUint32(start + LENGTH_AT, this.at - start - HEADER_BYTES)
    view.setUint32(start + HEADER_CRC_AT, crc32c(bytes, 0, start, start + HEADER_CRC_AT))
    view.setUint32(start + BODY_CRC_AT, crc32c(bytes, 0, start + HEADER_BYTES, this.at))
  }

  /** Marks the last record as the end of its batch. */
  endBatch(): void {
    const { view, bytes, lastStart: start } = this
    view.setUint8(start + 3, view.getUint8(start + 3) | ENDS_BATCH)
    view.setUint32(start + HEADER_CRC_AT, crc32c(bytes, 0, start, start + HEADER_CRC_AT))
  }

  private entry(entry: LogEntry): void {
    this.reserve(8 + 8 + 2 + 1 + 8)
    const { view } = this
    view.setFloat64(this.at, entry.term)
    view.setFloat64(this.at + 8, entry.index)
    view.setUint16(this.at + 16, entry.formatVersion)
    view.setUint8(this.at + 18, KINDS.indexOf(entry.kind))
    view.setFloat64(this.at + 19, entry.clientSeq)
    this.at += 27
    this.text(entry.clientId)
    this.reserve(entry.payload.length)
    this.bytes.set(entry.payload, this.at)
    this.at += entry.payload.length
  }

  private text(text: string): void {
    if (this.plainText(text)) return
    const bytes = encoder.encode(text)
    this.reserve(4 + bytes.length)
    this.view.setUint32(this.at, bytes.length)
    this.bytes.set(bytes, this.at + 4)
    this.at += 4 + bytes.length
  }

  /** Names and ids are short and of ASCII: no encoder is needed for them. False: this one is not. */
  private plainText(text: string): boolean {
    const { length } = text
    if (length > 64) return false
    this.reserve(4 + length)
    const { bytes, at } = this
    for (let i = 0; i < length; i++) {
      const code = text.charCodeAt(i)
      if (code > 127) return false
      bytes[at + 4 + i] = code
    }
    this.view.setUint32(at, length)
    this.at = at + 4 + length
    return true
  }

  private reserve(more: number): void {
    if (this.at + more <= this.bytes.length) return
    const grown = new Uint8Array(Math.max(this.bytes.length * 2, this.at + more))
    grown.set(this.bytes.subarray(0, this.at))
    this.bytes = grown
    this.view = new DataView(grown.buffer)
  }
}

/** Length of the body, if the header at `start` is whole. */
export function readLength(bytes: Uint8Array, start: number): number | undefined {
  if (start + HEADER_BYTES > bytes.length) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (
    view.getUint16(start) !== MAGIC ||
    view.getUint32(start + HEADER_CRC_AT) !== crc32c(bytes, 0, start, start + HEADER_CRC_AT)
  )
    return undefined
  return view.getUint32(start + LENGTH_AT)
}

export type ReadRecord =
  | { status: 'record'; record: LogRecord; batch: number; endsBatch: boolean; end: number }
  | { status: 'empty' }
  | { status: 'bad' }

/** The record at `start`; `empty`: only zeroes from here to the end of the file; `bad`: something else. */
export function readRecord(bytes: Uint8Array, start: number): ReadRecord {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const length = readLength(bytes, start)
  if (length === undefined) return isZero(bytes, start, bytes.length) ? { status: 'empty' } : { status: 'bad' }
  const end = start + HEADER_BYTES + length
  const endsBatch = (view.getUint8(start + 3) & ENDS_BATCH) !== 0
  const type = TYPES[view.getUint8(start + 3) & ~ENDS_BATCH]
  if (length > BODY_BYTES_MAX || end > bytes.length || type === undefined) return { status: 'bad' }
  if (view.getUint32(start + BODY_CRC_AT) !== crc32c(bytes, 0, start + HEADER_BYTES, end)) return { status: 'bad' }
  if (view.getUint8(start + 2) !== FORMAT) return { status: 'bad' }
  const batch = view.getUint32(start + 4)
  const body = start + HEADER_BYTES
  if (type === 'entry') {
    const idLength = view.getUint32(body + 27)
    const kind = KINDS[view.getUint8(body + 18)]
    if (kind === undefined || body + 31 + idLength > end) return { status: 'bad' }
    const entry: LogEntry = {
      term: view.getFloat64(body),
      index: view.getFloat64(body + 8),
      formatVersion: view.getUint16(body + 16),
      kind,
      clientSeq: view.getFloat64(body + 19),
      clientId: decoder.decode(bytes.subarray(body + 31, body + 31 + idLength)),
      // A copy: the segment's buffer is not kept for one entry's sake.
      payload: bytes.slice(body + 31 + idLength, end),
    }
    return { status: 'record', record: { type, entry }, batch, endsBatch, end }
  }
  const value: unknown = JSON.parse(decoder.decode(bytes.subarray(body + 4, end)))
  const record: LogRecord =
    type === 'hardState' ? { type, hardState: value as HardState } : { type, meta: value as SnapshotMeta }
  return { status: 'record', record, batch, endsBatch, end }
}

export function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++) if (bytes[at] !== 0) return false
  return true
}
