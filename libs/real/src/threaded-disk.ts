import { join } from 'node:path'
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import type { Disk, DiskFile } from '@capstan/actor'
import { diskError, RealDisk, type RealFile } from './real-disk.js'

/** What the worker begins with: orders come on the port, each message of them is counted in `posted`. */
export interface DiskWorkerData {
  port: MessagePort
  posted: Int32Array
}

/** From this thread to the worker; answered by `id`, in order. */
export type DiskOrder = { id: number; file: number } & (
  | { kind: 'open'; path: string }
  | { kind: 'write'; offset: number; bytes: Uint8Array }
  | { kind: 'sync' }
  | { kind: 'truncate'; sizeBytes: number }
  | { kind: 'close' }
)

export interface DiskWord {
  id: number
  failure?: { code: string | undefined; message: string }
}

interface Pending {
  what: string
  resolve(): void
  reject(error: Error): void
}

/**
 * A `RealDisk` whose open files are written and synced by a thread that does nothing else: neither a full thread pool
 * (lmdb, DNS, compression) nor work on the main thread delays a sync once it is ordered. For the store's log.
 *
 * All else (names, whole files, reads, the making of preallocated files) stays in the pool: it may be long, and a sync
 * must not wait for it. What one turn orders travels as one message, which the thread, having no event loop to go through,
 * is woken for by a counter in shared memory. Bounds what waits no more than `RealDisk` does:
 * callers wait for their syncs.
 */
export class ThreadedDisk implements Disk {
  private readonly pool: RealDisk
  private readonly worker: Worker
  private readonly port: MessagePort
  private readonly posted = new Int32Array(new SharedArrayBuffer(4))
  private readonly readers = new Set<RealFile>()
  private readonly pending = new Map<number, Pending>()
  private orders: DiskOrder[] = []
  private transfers: ArrayBuffer[] = []
  private nextId = 1
  private nextFile = 1
  private ended: Error | undefined

  constructor(private readonly root: string) {
    this.pool = new RealDisk(root)
    const { port1, port2 } = new MessageChannel()
    this.port = port1
    this.port.unref()
    const workerData: DiskWorkerData = { port: port2, posted: this.posted }
    this.worker = new Worker(new URL('./disk-worker.js', import.meta.url), {
      name: 'disk',
      workerData,
      transferList: [port2],
      // Nothing of the main thread's arguments (inspector, loaders) is for it; it holds no more than one message.
      execArgv: [],
      resourceLimits: { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 32 },
    })
    // Only outstanding orders keep the process alive.
    this.worker.unref()
    this.worker.on('message', (words: DiskWord[]) => this.receive(words))
    this.worker.on('error', (error) => this.fail(error))
    this.worker.on('exit', (code) => this.fail(new Error(`the disk thread ended with ${code}`)))
  }

  list(dir: string): Promise<string[]> {
    return this.pool.list(dir)
  }
  read(path: string): Promise<Uint8Array | undefined> {
    return this.pool.read(path)
  }
  writeAtomic(path: string, bytes: Uint8Array): Promise<void> {
    return this.pool.writeAtomic(path, bytes)
  }
  rename(from: string, to: string): Promise<void> {
    return this.pool.rename(from, to)
  }
  remove(path: string): Promise<void> {
    return this.pool.remove(path)
  }
  syncDir(dir: string): Promise<void> {
    return this.pool.syncDir(dir)
  }
  freeBytes(): Promise<number> {
    return this.pool.freeBytes()
  }

  async open(path: string, options: { preallocateBytes?: number } = {}): Promise<DiskFile> {
    const reader = await this.pool.open(path, options)
    const file = this.nextFile++
    try {
      await this.order(`open ${path}`, { id: 0, file, kind: 'open', path: join(this.root, path) })
    } catch (error) {
      await reader.close()
      throw error
    }
    this.readers.add(reader)
    return new ThreadedFile(this, file, reader, path)
  }

  /** For its files. */
  async closeReader(reader: RealFile): Promise<void> {
    if (this.readers.delete(reader)) await reader.close()
  }

  /** Ends the thread; what was ordered before is carried out. Files that are still open fail from then on. */
  async close(): Promise<void> {
    if (!this.ended) {
      await this.order('close the disk', { id: 0, file: 0, kind: 'close' })
      this.ended = new Error('the disk was closed')
    }
    await this.worker.terminate()
    for (const reader of [...this.readers]) await this.closeReader(reader)
  }

  /** For its files. `bytes` of a write must be an exact copy: its buffer is given away. */
  order(what: string, order: DiskOrder): Promise<void> {
    if (this.ended) return Promise.reject(diskError(this.ended, what))
    const id = this.nextId++
    this.orders.push({ ...order, id })
    if (order.kind === 'write') this.transfers.push(order.bytes.buffer as ArrayBuffer)
    if (this.orders.length === 1) queueMicrotask(() => this.post())
    return new Promise((resolve, reject) => {
      if (this.pending.size === 0) this.worker.ref()
      this.pending.set(id, { what, resolve, reject })
    })
  }

  private post(): void {
    const { orders, transfers } = this
    this.orders = []
    this.transfers = []
    if (this.ended || orders.length === 0) return
    this.port.postMessage(orders, transfers)
    Atomics.add(this.posted, 0, 1)
    Atomics.notify(this.posted, 0)
  }

  private receive(words: DiskWord[]): void {
    for (const { id, failure } of words) {
      const pending = this.pending.get(id)
      if (!pending) continue
      this.pending.delete(id)
      if (failure)
        pending.reject(diskError(Object.assign(new Error(failure.message), { code: failure.code }), pending.what))
      else pending.resolve()
    }
    if (this.pending.size === 0) this.worker.unref()
  }

  /** Whether the last orders were carried out nobody knows: as after a failed sync, their files are of no more use. */
  private fail(error: Error): void {
    this.ended ??= error
    for (const { what, reject } of this.pending.values()) reject(diskError(error, what))
    this.pending.clear()
  }
}

class ThreadedFile implements DiskFile {
  sizeBytes: number
  /** The last order; it carries a failure of any before it. */
  private last: Promise<void> = Promise.resolve()

  constructor(
    private readonly disk: ThreadedDisk,
    private readonly file: number,
    private readonly reader: RealFile,
    private readonly name: string,
  ) {
    this.sizeBytes = reader.sizeBytes
  }

  async read(offset: number, lengthBytes: number): Promise<Uint8Array> {
    const { sizeBytes } = this
    await this.last
    this.reader.sizeBytes = sizeBytes
    return this.reader.read(offset, lengthBytes)
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    this.sizeBytes = Math.max(this.sizeBytes, offset + bytes.length)
    return this.order({ id: 0, file: this.file, kind: 'write', offset, bytes: new Uint8Array(bytes) })
  }

  sync(): Promise<void> {
    return this.order({ id: 0, file: this.file, kind: 'sync' })
  }

  truncate(sizeBytes: number): Promise<void> {
    this.sizeBytes = sizeBytes
    return this.order({ id: 0, file: this.file, kind: 'truncate', sizeBytes })
  }

  async close(): Promise<void> {
    await this.last.catch(() => undefined) // Whoever waited for that write has been told.
    await Promise.all([
      this.disk.closeReader(this.reader),
      this.disk.order(`close ${this.name}`, { id: 0, file: this.file, kind: 'close' }),
    ])
  }

  private order(order: DiskOrder): Promise<void> {
    this.last = this.disk.order(`${order.kind} ${this.name}`, order)
    this.last.catch(() => undefined) // The caller has its own copy of the failure.
    return this.last
  }
}
