import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { DiskError } from '@capstan/actor'
import { type Database, open, type RootDatabase } from 'lmdb'

export const APPLIED = 'appliedIndex'
/** Address space, not memory or disk. */
const MAP_BYTES_MAX = 64 * 1024 * 1024 * 1024
const REMOVED = 0xffff_ffff

/** From this thread to the writer. `commit` and `close` are answered, in order. */
export type WriterOrder =
  | { kind: 'rows'; bytes: Uint8Array }
  | { kind: 'commit'; appliedIndex: number | undefined }
  | { kind: 'drop' }
  | { kind: 'close' }

export interface WriterWord {
  failure?: string
}

/** The same on every thread: they share one lmdb environment. */
export function openEnvironment(path: string): {
  root: RootDatabase
  state: Database<Buffer, Buffer>
  meta: Database<number, string>
} {
  const root = open({
    path,
    maxDbs: 4,
    mapSize: MAP_BYTES_MAX,
    noMemInit: true,
    // A commit is durable when it returns. It is off the main thread, so there is nothing to overlap it with.
    overlappingSync: false,
  } as Parameters<typeof open>[0])
  return {
    root,
    state: root.openDB<Buffer, Buffer>({ name: 'state', encoding: 'binary', keyEncoding: 'binary' }),
    meta: root.openDB<number, string>({ name: 'meta', encoding: 'msgpack' }),
  }
}

/** One lmdb environment: read here, written by a thread of its own that starts with the first write. */
export class Environment {
  readonly root: RootDatabase
  readonly state: Database<Buffer, Buffer>
  readonly meta: Database<number, string>
  private writer: Writer | undefined
  private readers = 0
  private retired = false

  constructor(
    private readonly dir: string,
    readonly name: string,
  ) {
    const opened = openEnvironment(join(dir, name))
    this.root = opened.root
    this.state = opened.state
    this.meta = opened.meta
  }

  appliedIndex(): number {
    return this.meta.get(APPLIED) ?? 0
  }

  /** Pages in use, without what became free. */
  sizeBytes(): number {
    const stats = this.state.getStats() as {
      pageSize?: number
      treeBranchPageCount?: number
      treeLeafPageCount?: number
      overflowPages?: number
    }
    const pages = (stats.treeBranchPageCount ?? 0) + (stats.treeLeafPageCount ?? 0) + (stats.overflowPages ?? 0)
    return pages * (stats.pageSize ?? 4096)
  }

  /** Only until the next call. */
  get(key: Uint8Array, transaction?: object): Uint8Array | undefined {
    // Its types leave the options out.
    const state = this.state as unknown as { getBinaryFast(key: Buffer, options?: object): Uint8Array | undefined }
    const bytes = state.getBinaryFast(asBuffer(key), transaction && { transaction })
    // lmdb's buffer is larger than what it says its length is.
    return bytes && Uint8Array.prototype.subarray.call(bytes, 0, bytes.length)
  }

  has(key: Uint8Array): boolean {
    return this.state.getBinaryFast(asBuffer(key)) !== undefined
  }

  pairs(from: Uint8Array, to: Uint8Array | undefined, transaction?: object): Iterator<{ key: Buffer; value: Buffer }> {
    return this.state.getRange(bounds(from, to, transaction))[Symbol.iterator]() as Iterator<{
      key: Buffer
      value: Buffer
    }>
  }

  count(from: Uint8Array, to: Uint8Array | undefined): number {
    return this.state.getKeysCount(bounds(from, to))
  }

  reader(): {
    get(key: Uint8Array): Uint8Array | undefined
    pairs(from: Uint8Array, to?: Uint8Array): Iterator<{ key: Buffer; value: Buffer }>
    close(): void
  } {
    this.readers++
    const transaction = this.state.useReadTransaction()
    let open = true
    return {
      get: (key) => this.get(key, transaction),
      pairs: (from, to) => this.pairs(from, to, transaction),
      close: () => {
        if (!open) return
        open = false
        this.readers--
        transaction.done()
        if (this.retired && this.readers === 0) void this.end()
      },
    }
  }

  /** Rows for the next `commit`. The array is given away. */
  write(rows: Uint8Array): void {
    this.writer ??= new Writer(join(this.dir, this.name))
    this.writer.order({ kind: 'rows', bytes: rows }, rows.buffer as ArrayBuffer)
  }

  /** Forgets what was written since the last commit. */
  drop(): void {
    this.writer?.order({ kind: 'drop' })
  }

  /** All that was written, as one transaction, durably. @throws DiskError: nothing of it happened */
  async commit(appliedIndex: number | undefined): Promise<void> {
    this.writer ??= new Writer(join(this.dir, this.name))
    await this.writer.ask({ kind: 'commit', appliedIndex })
    // Reads from now on see it.
    this.state.resetReadTxn()
  }

  async close(): Promise<void> {
    const { writer } = this
    this.writer = undefined
    await writer?.close()
    await this.root.close()
  }

  /** No longer in use: removed as soon as no snapshot reads from it. */
  async retire(): Promise<void> {
    this.retired = true
    if (this.readers === 0) await this.end()
  }

  private async end(): Promise<void> {
    await this.close()
    rmSync(join(this.dir, this.name), { recursive: true, force: true })
  }
}

class Writer {
  private readonly worker: Worker
  private readonly waiting: { resolve(): void; reject(error: Error): void }[] = []
  private ended: Error | undefined

  constructor(path: string) {
    this.worker = new Worker(new URL('./lmdb-worker.js', import.meta.url), {
      name: 'lmdb',
      workerData: { path },
      execArgv: [],
      resourceLimits: { maxYoungGenerationSizeMb: 8, maxOldGenerationSizeMb: 128 },
    })
    // Only outstanding commits keep the process alive.
    this.worker.unref()
    this.worker.on('message', ({ failure }: WriterWord) => {
      const first = this.waiting.shift()
      if (this.waiting.length === 0) this.worker.unref()
      if (failure === undefined) first?.resolve()
      else first?.reject(asDiskError(failure))
    })
    this.worker.on('error', (error) => this.fail(error))
    this.worker.on('exit', (code) => this.fail(new Error(`the writing thread ended with ${code}`)))
  }

  order(order: WriterOrder, transfer?: ArrayBuffer): void {
    if (this.ended) return // Told by the commit.
    this.worker.postMessage(order, transfer ? [transfer] : [])
  }

  ask(order: WriterOrder): Promise<void> {
    if (this.ended) return Promise.reject(this.ended)
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject })
      this.worker.ref()
      this.worker.postMessage(order)
    })
  }

  async close(): Promise<void> {
    if (this.ended) return
    await this.ask({ kind: 'close' })
    await this.worker.terminate()
  }

  private fail(error: Error): void {
    this.ended ??= asDiskError(String(error))
    for (const { reject } of this.waiting.splice(0)) reject(this.ended)
  }
}

// ---------------------------------------------------------------------------------------------------------------- rows

/** Rows on their way to the writer: key length (2), value length (4; 0xffffffff: remove the key), key, value. */
export class RowsEncoder {
  private bytes: Buffer
  used = 0

  constructor(private readonly sizeBytes: number) {
    this.bytes = Buffer.allocUnsafeSlow(sizeBytes)
  }

  /** False: does not fit any more; take what there is, then add it again. */
  add(key: string | Uint8Array, value: Uint8Array | null): boolean {
    const length = 6 + key.length + (value?.length ?? 0)
    if (this.used + length > this.bytes.length) {
      if (this.used > 0) return false
      this.bytes = Buffer.allocUnsafeSlow(length)
    }
    const { bytes } = this
    bytes.writeUInt16BE(key.length, this.used)
    bytes.writeUInt32BE(value ? value.length : REMOVED, this.used + 2)
    this.used += 6
    if (typeof key === 'string') bytes.write(key, this.used, 'latin1')
    else bytes.set(key, this.used)
    this.used += key.length
    if (value) bytes.set(value, this.used)
    this.used += value?.length ?? 0
    return true
  }

  take(): Uint8Array {
    const taken = new Uint8Array(this.bytes.buffer, 0, this.used)
    this.bytes = Buffer.allocUnsafeSlow(this.sizeBytes)
    this.used = 0
    return taken
  }
}

export function* decodeRows(rows: Uint8Array): Generator<[key: Buffer, value: Buffer | undefined]> {
  const bytes = asBuffer(rows)
  for (let at = 0; at < bytes.length; ) {
    const keyEnd = at + 6 + bytes.readUInt16BE(at)
    const valueBytes = bytes.readUInt32BE(at + 2)
    const key = bytes.subarray(at + 6, keyEnd)
    at = valueBytes === REMOVED ? keyEnd : keyEnd + valueBytes
    yield [key, valueBytes === REMOVED ? undefined : bytes.subarray(keyEnd, at)]
  }
}

export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

function asDiskError(text: string): DiskError {
  const full = /ENOSPC|no space|MDB_MAP_FULL/i.test(text)
  return new DiskError(full ? 'NO_SPACE' : 'IO', `state engine: ${text}`)
}

function bounds(from: Uint8Array, to: Uint8Array | undefined, transaction?: object) {
  return {
    ...(from.length > 0 ? { start: asBuffer(from) } : {}),
    ...(to ? { end: asBuffer(to) } : {}),
    ...(transaction ? { transaction: transaction as never } : {}),
  }
}
