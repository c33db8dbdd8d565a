import { type Disk, DiskError, type DiskFile } from '@capstan/actor'
import type { SimRandom } from './sim-random.js'

const SECTOR_BYTES = 512

interface SimFile {
  /** What a read gives. */
  present: Uint8Array
  sizeBytes: number
  /** What a crash leaves for certain. */
  durable: Uint8Array
  durableSizeBytes: number
  /** Sectors written since the last sync. */
  dirty: Set<number>
}

/** How a simulated disk behaves now; the nemesis changes it. */
export interface DiskCondition {
  /** Every operation takes between these, ms. */
  operationMs: [low: number, high: number]
  syncMs: [low: number, high: number]
  /** Bytes that still fit. */
  freeBytes: number
}

/** What the disk needs of its machine: time, and whether it still lives. */
export interface DiskHost {
  /** Runs `then` after so long, unless the machine dies before: then never. */
  after(delayMs: number, what: string, then: () => void): void
}

/**
 * A machine's disk. Contents outlive a crash as far as they were synced: of un-synced sectors and names any subset does,
 * as the seed says.
 */
export class SimDisk {
  private files = new Map<string, SimFile>()
  private durableNames = new Map<string, SimFile>()
  readonly condition: DiskCondition = { operationMs: [0.02, 0.1], syncMs: [0.3, 2], freeBytes: 1024 ** 4 }
  readonly counters = { syncs: 0, lostSectors: 0 }

  constructor(readonly random: SimRandom) {}

  /** The disk as components of one life of the machine see it, below `root`. */
  mount(host: DiskHost, root: string): Disk {
    return new Mounted(this, host, root)
  }

  /** The machine stopped. */
  crash(): void {
    const names = new Map(this.durableNames)
    for (const path of [...this.files.keys()].sort()) {
      const file = this.files.get(path) as SimFile
      if (names.get(path) !== file && this.random.chance(0.5)) names.set(path, file)
    }
    for (const file of new Set(names.values())) this.settle(file)
    this.files = new Map(names)
    this.durableNames = new Map(names)
  }

  /** Loses everything below `root`: a disk that was replaced. */
  wipe(root: string): void {
    for (const path of [...this.files.keys()]) if (path.startsWith(root)) this.files.delete(path)
    for (const path of [...this.durableNames.keys()]) if (path.startsWith(root)) this.durableNames.delete(path)
  }

  private settle(file: SimFile): void {
    const kept = new Uint8Array(Math.max(file.durableSizeBytes, file.sizeBytes))
    kept.set(file.durable.subarray(0, Math.min(file.durable.length, kept.length)))
    let size = file.durableSizeBytes
    for (const sector of [...file.dirty].sort((a, b) => a - b)) {
      const from = sector * SECTOR_BYTES
      const to = Math.min(from + SECTOR_BYTES, file.sizeBytes)
      if (to <= from) continue
      if (this.random.chance(0.5)) {
        kept.set(file.present.subarray(from, to), from)
        size = Math.max(size, to)
      } else this.counters.lostSectors++
    }
    file.present = kept.slice(0, size)
    file.sizeBytes = size
    file.durable = file.present.slice()
    file.durableSizeBytes = size
    file.dirty.clear()
  }

  // ---- operations of the mounted view: immediate; the view adds the time they take

  list(dir: string): string[] {
    const names = new Set<string>()
    for (const path of this.files.keys())
      if (path.startsWith(`${dir}/`)) names.add(path.slice(dir.length + 1).split('/')[0] as string)
    return [...names].sort()
  }

  find(path: string): SimFile | undefined {
    return this.files.get(path)
  }

  make(path: string, sizeBytes: number): SimFile {
    this.takeSpace(sizeBytes)
    const zeroes = new Uint8Array(sizeBytes)
    // Preallocated zeroes are durable once the name is: nobody wrote anything else there.
    const file: SimFile = {
      present: zeroes,
      sizeBytes,
      durable: zeroes.slice(),
      durableSizeBytes: sizeBytes,
      dirty: new Set(),
    }
    this.files.set(path, file)
    return file
  }

  write(file: SimFile, offset: number, bytes: Uint8Array): void {
    const end = offset + bytes.length
    if (end > file.sizeBytes) this.takeSpace(end - file.sizeBytes)
    if (end > file.present.length) {
      const grown = new Uint8Array(Math.max(end, file.present.length * 2))
      grown.set(file.present)
      file.present = grown
    }
    file.sizeBytes = Math.max(file.sizeBytes, end)
    file.present.set(bytes, offset)
    for (let sector = Math.floor(offset / SECTOR_BYTES); sector * SECTOR_BYTES < end; sector++) file.dirty.add(sector)
  }

  sync(file: SimFile): void {
    this.counters.syncs++
    if (file.durable.length < file.sizeBytes) {
      const grown = new Uint8Array(file.present.length)
      grown.set(file.durable)
      file.durable = grown
    }
    for (const sector of file.dirty) {
      const from = sector * SECTOR_BYTES
      file.durable.set(file.present.subarray(from, Math.min(from + SECTOR_BYTES, file.sizeBytes)), from)
    }
    file.durableSizeBytes = file.sizeBytes
    file.dirty.clear()
  }

  truncate(file: SimFile, sizeBytes: number): void {
    if (sizeBytes < file.sizeBytes) file.present.fill(0, sizeBytes)
    file.sizeBytes = sizeBytes
    if (file.present.length < sizeBytes) {
      const grown = new Uint8Array(sizeBytes)
      grown.set(file.present)
      file.present = grown
    }
  }

  rename(from: string, to: string): void {
    const file = this.files.get(from)
    if (!file) throw new DiskError('IO', `rename: no file ${from}`)
    this.files.delete(from)
    this.files.set(to, file)
  }

  remove(path: string): void {
    for (const name of [...this.files.keys()]) if (name === path || name.startsWith(`${path}/`)) this.files.delete(name)
  }

  syncDir(dir: string): void {
    const inDir = (path: string) => path.startsWith(`${dir}/`) && !path.slice(dir.length + 1).includes('/')
    for (const path of [...this.durableNames.keys()])
      if (inDir(path) && !this.files.has(path)) this.durableNames.delete(path)
    for (const [path, file] of this.files) if (inDir(path)) this.durableNames.set(path, file)
  }

  private takeSpace(bytes: number): void {
    if (bytes > this.condition.freeBytes) throw new DiskError('NO_SPACE', 'no space left on device')
    this.condition.freeBytes -= bytes
  }
}

class Mounted implements Disk {
  constructor(
    private readonly disk: SimDisk,
    private readonly host: DiskHost,
    private readonly root: string,
  ) {}

  list(dir: string): Promise<string[]> {
    return this.later(`list ${dir}`, () => this.disk.list(this.path(dir)))
  }

  read(path: string): Promise<Uint8Array | undefined> {
    return this.later(`read ${path}`, () => {
      const file = this.disk.find(this.path(path))
      return file?.present.slice(0, file.sizeBytes)
    })
  }

  async writeAtomic(path: string, bytes: Uint8Array): Promise<void> {
    const copy = bytes.slice()
    const full = this.path(path)
    // Each step can be the last one before a crash, as in the real body.
    await this.later(`write ${path}.new`, () => {
      this.disk.remove(`${full}.new`)
      this.disk.write(this.disk.make(`${full}.new`, 0), 0, copy)
    })
    await this.later(
      `sync ${path}.new`,
      () => {
        const file = this.disk.find(`${full}.new`)
        if (file) this.disk.sync(file)
      },
      true,
    )
    await this.later(`rename ${path}`, () => this.disk.rename(`${full}.new`, full))
    await this.later(`sync of ${path}'s directory`, () => this.disk.syncDir(parentOf(full)), true)
  }

  open(path: string, options: { preallocateBytes?: number } = {}): Promise<DiskFile> {
    return this.later(`open ${path}`, () => {
      const full = this.path(path)
      const file = this.disk.find(full) ?? this.disk.make(full, options.preallocateBytes ?? 0)
      return new MountedFile(this.disk, file, (what, run, sync) => this.later(`${what} ${path}`, run, sync))
    })
  }

  rename(from: string, to: string): Promise<void> {
    return this.later(`rename ${from}`, () => this.disk.rename(this.path(from), this.path(to)))
  }

  remove(path: string): Promise<void> {
    return this.later(`remove ${path}`, () => this.disk.remove(this.path(path)))
  }

  syncDir(dir: string): Promise<void> {
    return this.later(`syncDir ${dir}`, () => this.disk.syncDir(this.path(dir)), true)
  }

  freeBytes(): Promise<number> {
    return this.later('freeBytes', () => this.disk.condition.freeBytes)
  }

  private path(relative: string): string {
    const clean = relative === '' || relative === '.' ? '' : `/${relative.replace(/^\.?\//, '').replace(/\/$/, '')}`
    return `${this.root}${clean}`
  }

  private later<T>(what: string, run: () => T, sync = false): Promise<T> {
    const [low, high] = sync ? this.disk.condition.syncMs : this.disk.condition.operationMs
    return new Promise((resolve, reject) => {
      this.host.after(low + (high - low) * this.disk.random.next(), what, () => {
        try {
          resolve(run())
        } catch (error) {
          reject(error)
        }
      })
    })
  }
}

type Later = <T>(what: string, run: () => T, sync?: boolean) => Promise<T>

class MountedFile implements DiskFile {
  private last: Promise<unknown> = Promise.resolve()

  constructor(
    private readonly disk: SimDisk,
    private readonly file: SimFile,
    private readonly later: Later,
  ) {}

  get sizeBytes(): number {
    return this.file.sizeBytes
  }

  read(offset: number, lengthBytes: number): Promise<Uint8Array> {
    return this.queue(() =>
      this.later('read', () => this.file.present.slice(offset, Math.min(offset + lengthBytes, this.file.sizeBytes))),
    )
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    const copy = bytes.slice()
    return this.queue(() => this.later('write', () => this.disk.write(this.file, offset, copy)))
  }

  sync(): Promise<void> {
    return this.queue(() => this.later('sync', () => this.disk.sync(this.file), true))
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.queue(() => this.later('truncate', () => this.disk.truncate(this.file, sizeBytes)))
  }

  async close(): Promise<void> {
    await this.last.catch(() => undefined)
  }

  /** One after the other; a failed one fails all after it. */
  private queue<T>(run: () => Promise<T>): Promise<T> {
    const next = this.last.then(run)
    this.last = next
    next.catch(() => undefined)
    return next
  }
}

const parentOf = (path: string) => path.slice(0, path.lastIndexOf('/'))
