/**
 * The files that containers' output is kept in: lines `<RFC 3339 time> <stdout|stderr> <tags> <text>`, where the tag `P`
 * says that the line goes on in the next record and `F` that it ends (the format that CRI fixes for all runtimes).
 */
export interface LogRecord {
  time: string
  partial: boolean
  text: Uint8Array
}

const SPACE = 0x20
const NEWLINE = 0x0a

/** One line of the file, without its newline. Undefined for what is no record. */
export function parseLogRecord(line: Uint8Array): LogRecord | undefined {
  const first = line.indexOf(SPACE)
  const second = line.indexOf(SPACE, first + 1)
  const third = line.indexOf(SPACE, second + 1)
  if (first <= 0 || second < 0 || third < 0) return undefined
  const tags = ascii(line.subarray(second + 1, third))
  return { time: ascii(line.subarray(0, first)), partial: tags.split(':')[0] === 'P', text: line.subarray(third + 1) }
}

/** Splits a stream of bytes into lines; keeps what is not finished. A line longer than `LINE_BYTES_MAX` is cut. */
export class LineSplitter {
  private rest: Uint8Array[] = []
  private restBytes = 0

  push(bytes: Uint8Array, line: (line: Uint8Array) => void): void {
    let from = 0
    for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, from)) {
      line(this.take(bytes.subarray(from, at)))
      from = at + 1
    }
    if (from < bytes.length && this.restBytes < LINE_BYTES_MAX) {
      this.rest.push(bytes.slice(from))
      this.restBytes += bytes.length - from
    }
  }

  private take(end: Uint8Array): Uint8Array {
    if (this.rest.length === 0) return end
    const whole = concat([...this.rest, end])
    this.rest = []
    this.restBytes = 0
    return whole
  }
}

/** Runtimes cut lines at 16 KiB themselves. */
const LINE_BYTES_MAX = 1024 * 1024

export interface LogSelection {
  timestamps: boolean
  /** RFC 3339; records before it are left out. */
  since: string | undefined
  limitBytes: number | undefined
}

/** Turns records into what a person gets: text, with times if wanted, from a moment on, up to a number of bytes. */
export class LogPrinter {
  private startsLine = true
  private left: number
  private readonly sinceMs: number

  constructor(private readonly selection: LogSelection) {
    this.left = selection.limitBytes ?? Number.POSITIVE_INFINITY
    this.sinceMs = selection.since === undefined ? Number.NEGATIVE_INFINITY : Date.parse(selection.since)
  }

  /** The limit is reached. */
  get full(): boolean {
    return this.left <= 0
  }

  print(record: LogRecord): Uint8Array {
    if (this.full || Date.parse(record.time) < this.sinceMs) return new Uint8Array()
    const parts: Uint8Array[] = []
    if (this.selection.timestamps && this.startsLine) parts.push(new TextEncoder().encode(`${record.time} `))
    parts.push(record.text)
    if (!record.partial) parts.push(Uint8Array.of(NEWLINE))
    this.startsLine = !record.partial
    const bytes = concat(parts)
    const cut = bytes.length > this.left ? bytes.subarray(0, this.left) : bytes
    this.left -= cut.length
    return cut
  }
}

/**
 * Where the last `lines` lines of a file begin: reads backwards, block by block.
 * Ends of lines are records with the tag `F`.
 */
export async function tailOffset(
  read: (offset: number, lengthBytes: number) => Promise<Uint8Array>,
  sizeBytes: number,
  lines: number,
  blockBytes = 64 * 1024,
): Promise<number> {
  if (lines <= 0) return sizeBytes
  let ends = 0
  let carry: Uint8Array = new Uint8Array()
  for (let end = sizeBytes; end > 0; ) {
    const from = Math.max(0, end - blockBytes)
    const block = concat([await read(from, end - from), carry])
    // The first line of the block may have begun before it: left for the next one, unless this is the file's beginning.
    const begin = from === 0 ? 0 : block.indexOf(NEWLINE) + 1
    if (from > 0 && begin === 0) {
      carry = block
      end = from
      continue
    }
    let lineEnd = block.length
    for (let at = block.length - 1; at >= begin; ) {
      const before = block.lastIndexOf(NEWLINE, at - 1)
      const lineStart = Math.max(before + 1, begin)
      const text = block.subarray(lineStart, block[lineEnd - 1] === NEWLINE ? lineEnd - 1 : lineEnd)
      const record = parseLogRecord(text)
      if (record && !record.partial) {
        ends++
        if (ends > lines) return from + lineEnd
      }
      lineEnd = lineStart
      if (lineStart <= begin) break
      at = lineStart - 1
    }
    carry = block.slice(0, begin)
    end = from
  }
  return 0
}

/** As a runtime writes it. */
export function formatLogRecord(
  time: string,
  stream: 'stdout' | 'stderr',
  partial: boolean,
  text: Uint8Array,
): Uint8Array {
  return concat([new TextEncoder().encode(`${time} ${stream} ${partial ? 'P' : 'F'} `), text, Uint8Array.of(NEWLINE)])
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0] as Uint8Array
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

const ascii = (bytes: Uint8Array) => String.fromCharCode(...bytes.subarray(0, 64))
