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

/** Long enough for an answer to a client; shorter than an election time-out: whoever leads still leads. */
const POWER_FAILS_MS = 200

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
  /** `failing`: nothing reaches the disk any more, and nobody has noticed. */
  private power: 'on' | 'failing' | 'off' = 'on'
  private failingMs = POWER_FAILS_MS
  private waitsForLoss: ((bytesLost: number) => void) | undefined

  constructor(
    private readonly disk: Disk,
    private readonly clock: Clock,
  ) {}

  /**
   * From now on nothing reaches the disk: writes are taken, syncs never end. `failingMs` after something is held back the power
   * is gone: no operation ends, and the process is to be killed. In between a process that promises before it has synced can do
   * so, and is found out. Resolves with the bytes that are lost.
   */
  cutPower(failingMs = POWER_FAILS_MS): Promise<number> {
    return new Promise((resolve) => {
      if (this.power === 'on') this.power = 'failing'
      this.waitsForLoss = (bytesLost) => resolve(bytesLost)
      this.failingMs = failingMs
      if (this.heldBytes > 0) this.held()
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
    return this.durably(() => this.disk.writeAtomic(path, bytes))
  }

  async open(path: string, options?: { preallocateBytes?: number }): Promise<DiskFile> {
    if (this.isFull && (options?.preallocateBytes ?? 0) > 0 && (await this.disk.read(path)) === undefined)
      this.refuseIfFull(path)
    const file = new HeldFile(this, path, await this.alive(() => this.disk.open(path, options)))
    this.files.add(file)
    return file
  }

  rename(from: string, to: string): Promise<void> {
    return this.durably(() => this.disk.rename(from, to))
  }

  remove(path: string): Promise<void> {
    return this.durably(() => this.disk.remove(path))
  }

  async syncDir(dir: string): Promise<void> {
    await this.beforeSync(dir)
    return this.durably(() => this.disk.syncDir(dir))
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

  /** Nothing that was begun after the power was gone ever ends. */
  alive<T>(run: () => Promise<T>): Promise<T> {
    return this.power === 'off' ? new Promise<never>(() => undefined) : run()
  }

  /** For what reaches the disk: it never ends from the moment the power fails. */
  durably<T>(run: () => Promise<T>): Promise<T> {
    return this.power === 'on' ? run() : new Promise<never>(() => undefined)
  }

  /** For `HeldFile`: something is held back now. */
  held(): void {
    const told = this.waitsForLoss
    if (!told) return
    this.waitsForLoss = undefined
    this.clock.setTimer(this.failingMs, () => {
      this.power = 'off'
      this.counts.bytesLost = this.heldBytes
      told(this.heldBytes)
    })
  }

  forget(file: HeldFile): void {
    this.files.delete(file)
  }

  private get heldBytes(): number {
    return [...this.files].reduce((sum, file) => sum + file.heldBytes, 0)
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
    return this.disk.durably(() => this.file.sync())
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.flush()
    this.heldEnd = 0
    return this.disk.durably(() => this.file.truncate(sizeBytes))
  }

  async close(): Promise<void> {
    await this.flush()
    this.disk.forget(this)
    return this.disk.durably(() => this.file.close())
  }

  /** One after the other. What is on its way stays readable here until it has arrived below. */
  private flush(): Promise<void> {
    this.flushing = this.flushing
      .catch(() => undefined) // Whoever waited for that flush has been told.
      .then(() =>
        this.disk.durably(async () => {
          const writes = [...this.held]
          await Promise.all(writes.map(({ offset, bytes }) => this.file.write(offset, bytes)))
          this.held = this.held.slice(writes.length)
        }),
      )
    return this.flushing
  }
}
