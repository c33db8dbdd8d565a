import { type Clock, type Disk, DiskError, type DiskFile, sleep } from '@capstan/actor'

/** How often each fault took effect: the proof that it did. */
export interface DiskFaultCounts {
  writesRefused: number
  /** Times that it said to have no room left. */
  saidFull: number
  syncsDelayed: number
  syncsFailed: number
  /** Of writes that were taken and had reached no disk when the power went. */
  bytesLost: number
}

/**
 * A disk that misbehaves on demand. So that un-synced writes can be lost, it holds every write back until its file is synced:
 * to whoever reads through it they are there, and when the process dies they never were.
 */
export class FaultyDisk implements Disk {
  readonly counts: DiskFaultCounts = { writesRefused: 0, saidFull: 0, syncsDelayed: 0, syncsFailed: 0, bytesLost: 0 }
  isFull = false
  syncDelayMs = 0
  failsSyncs = false
  private readonly files = new Set<HeldFile>()
  private power: { isOff: boolean; gone?: (bytesLost: number) => void } = { isOff: false }

  constructor(
    private readonly disk: Disk,
    private readonly clock: Clock,
  ) {}

  /**
   * The power goes at the next moment at which something is held back: from then on nothing reaches the disk, no operation
   * ends, and the process is to be killed. Resolves with the bytes that are lost.
   */
  cutPower(): Promise<number> {
    return new Promise((resolve) => {
      this.power.gone = resolve
      this.losePower()
    })
  }

  list(dir: string): Promise<string[]> {
    return this.alive(() => this.disk.list(dir))
  }

  read(path: string): Promise<Uint8Array | undefined> {
    return this.alive(() => this.disk.read(path))
  }

  async writeAtomic(path: string, bytes: Uint8Array): Promise<void> {
    this.refuseIfFull(path)
    await this.beforeSync(path)
    return this.alive(() => this.disk.writeAtomic(path, bytes))
  }

  async open(path: string, options?: { preallocateBytes?: number }): Promise<DiskFile> {
    if (this.isFull && (options?.preallocateBytes ?? 0) > 0 && (await this.disk.read(path)) === undefined)
      this.refuseIfFull(path)
    const file = new HeldFile(this, path, await this.alive(() => this.disk.open(path, options)))
    this.files.add(file)
    return file
  }

  rename(from: string, to: string): Promise<void> {
    return this.alive(() => this.disk.rename(from, to))
  }

  remove(path: string): Promise<void> {
    return this.alive(() => this.disk.remove(path))
  }

  async syncDir(dir: string): Promise<void> {
    await this.beforeSync(dir)
    return this.alive(() => this.disk.syncDir(dir))
  }

  async freeBytes(): Promise<number> {
    if (!this.isFull) return this.alive(() => this.disk.freeBytes())
    this.counts.saidFull++
    return 0
  }

  /** For `HeldFile`. */
  refuseIfFull(path: string): void {
    if (!this.isFull) return
    this.counts.writesRefused++
    throw new DiskError('NO_SPACE', `${path}: no space left on device (chaos)`)
  }

  /** For `HeldFile`. */
  async beforeSync(path: string): Promise<void> {
    if (this.failsSyncs) {
      this.counts.syncsFailed++
      throw new DiskError('IO', `${path}: sync failed (chaos)`)
    }
    if (this.syncDelayMs > 0) {
      this.counts.syncsDelayed++
      await sleep(this.clock, this.syncDelayMs)
    }
  }

  /** Nothing that was begun after the power went ever ends. */
  alive<T>(run: () => Promise<T>): Promise<T> {
    return this.power.isOff ? new Promise<never>(() => undefined) : run()
  }

  /** For `HeldFile`: something is held back now. */
  held(): void {
    if (this.power.gone) this.losePower()
  }

  forget(file: HeldFile): void {
    this.files.delete(file)
  }

  private losePower(): void {
    const bytes = [...this.files].reduce((sum, file) => sum + file.heldBytes, 0)
    if (bytes === 0 || this.power.isOff) return
    this.power.isOff = true
    this.counts.bytesLost = bytes
    this.power.gone?.(bytes)
  }
}

class HeldFile implements DiskFile {
  private held: { offset: number; bytes: Uint8Array }[] = []
  private heldEnd = 0
  private flushing: Promise<void> = Promise.resolve()

  constructor(
    private readonly disk: FaultyDisk,
    private readonly path: string,
    private readonly file: DiskFile,
  ) {}

  get sizeBytes(): number {
    return Math.max(this.file.sizeBytes, this.heldEnd)
  }

  get heldBytes(): number {
    return this.held.reduce((sum, { bytes }) => sum + bytes.length, 0)
  }

  async read(offset: number, lengthBytes: number): Promise<Uint8Array> {
    const held = [...this.held]
    const length = Math.max(0, Math.min(lengthBytes, this.sizeBytes - offset))
    const below = await this.disk.alive(() => this.file.read(offset, length))
    if (held.length === 0) return below
    const result = new Uint8Array(length)
    result.set(below)
    for (const { offset: at, bytes } of held) {
      const from = Math.max(at, offset)
      const to = Math.min(at + bytes.length, offset + length)
      if (from < to) result.set(bytes.subarray(from - at, to - at), from - offset)
    }
    return result
  }

  /** Held at once: a sync that is called in the same turn finds it. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.disk.refuseIfFull(this.path)
    // The caller may use its buffer again.
    this.held.push({ offset, bytes: bytes.slice() })
    this.heldEnd = Math.max(this.heldEnd, offset + bytes.length)
    this.disk.held()
    return this.disk.alive(async () => undefined)
  }

  async sync(): Promise<void> {
    await this.disk.beforeSync(this.path)
    await this.flush()
    return this.disk.alive(() => this.file.sync())
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.flush()
    this.heldEnd = 0
    return this.disk.alive(() => this.file.truncate(sizeBytes))
  }

  async close(): Promise<void> {
    await this.flush()
    this.disk.forget(this)
    return this.disk.alive(() => this.file.close())
  }

  /** One after the other. What is on its way stays readable here until it has arrived below. */
  private flush(): Promise<void> {
    this.flushing = this.flushing
      .catch(() => undefined) // Whoever waited for that flush has been told.
      .then(() =>
        this.disk.alive(async () => {
          const writes = [...this.held]
          await Promise.all(writes.map(({ offset, bytes }) => this.file.write(offset, bytes)))
          this.held = this.held.slice(writes.length)
        }),
      )
    return this.flushing
  }
}
