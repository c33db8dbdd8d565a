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
  /** Bytes of all files together; what would exceed it fails with NO_SPACE. */
  capacityBytes: number
  /** Every operation fails with IO, as on a device that is dying. */
  failing: boolean
}

/** What the disk needs of its machine: time, and whether it still lives. */
export interface DiskHost {
  /** Runs `then` after so long, unless the machine dies before: then never. */
  after(delayMs: number, what: string, then: () => void): void
}

/**
 * A machine's disk. Contents outlive a crash as far as they were synced: of un-synced sectors (512 B each, whole or not at
 * all) and of un-synced names any subset does, as the seed says. A rename is one step: after a crash the file has its old
 * name or its new one.
 */
export class SimDisk {
  private files = new Map<string, SimFile>()
  private durableNames = new Map<string, SimFile>()
  /** Bytes of all files together. */
  usedBytes = 0
  readonly condition: DiskCondition = {
    operationMs: [0.02, 0.1],
    syncMs: [0.3, 2],
    capacityBytes: 1024 ** 4,
    failing: false,
  }
  readonly counters = { syncs: 0, lostSectors: 0, lostNames: 0 }
  /** Nemesis: before the operation after so many others, `run` is called once in its place: to crash at any write. */
  tripwire: { operations: number; run(): void } | undefined

  constructor(readonly random: SimRandom) {}

  /** The disk as components of one life of the machine see it, below `root`. */
  mount(host: DiskHost, root: string): Disk {
    return new Mounted(this, host, root)
  }

  get freeBytes(): number {
    return Math.max(0, this.condition.capacityBytes - this.usedBytes)
  }

  /** The machine stopped. */
  crash(): void {
    const names = new Map<string, SimFile>()
    const coins = new Map<string, boolean>()
    for (const path of [...new Set([...this.files.keys(), ...this.durableNames.keys()])].sort()) {
      const [now, before] = [this.files.get(path), this.durableNames.get(path)]
      let file = now
      if (now !== before) {
        const step = this.stepOf(path)
        const lasted = coins.get(step) ?? this.random.chance(0.5)
        coins.set(step, lasted)
        file = lasted ? now : before
        if (!lasted) this.counters.lostNames++
      }
      if (file) names.set(path, file)
    }
    for (const file of names.values()) this.settle(file)
    this.files = names
    this.durableNames = new Map(names)
    this.count()
  }

  /** Loses everything below `root`: a disk that was replaced. */
  wipe(root: string): void {
    const isBelow = (path: string) => path === root || path.startsWith(`${root}/`)
    for (const path of [...this.files.keys()]) if (isBelow(path)) this.files.delete(path)
    for (const path of [...this.durableNames.keys()]) if (isBelow(path)) this.durableNames.delete(path)
    this.count()
  }

  /** Paths of all files, sorted. */
  paths(): string[] {
    return [...this.files.keys()].sort()
  }

  /** Damage that no crash explains: one bit of what is stored turns. False: there is no such byte. */
  flipBit(path: string, offset: number): boolean {
    const file = this.files.get(path)
    if (!file || offset < 0 || offset >= file.sizeBytes) return false
    const bit = 1 << this.random.int(8)
    file.present[offset] = (file.present[offset] as number) ^ bit
    if (offset < file.durable.length) file.durable[offset] = (file.durable[offset] as number) ^ bit
    return true
  }

  /** As `flipBit`, of a whole sector: it reads as zeroes, as after a write that never reached the device. */
  zeroSector(path: string, offset: number): boolean {
    const file = this.files.get(path)
    if (!file || offset < 0 || offset >= file.sizeBytes) return false
    const from = Math.floor(offset / SECTOR_BYTES) * SECTOR_BYTES
    file.present.fill(0, from, Math.min(from + SECTOR_BYTES, file.sizeBytes))
    file.durable.fill(0, Math.min(from, file.durable.length), Math.min(from + SECTOR_BYTES, file.durable.length))
    return true
  }

  /** What is stored under a path now: for nemeses, which look where to hit. */
  peek(path: string): Uint8Array | undefined {
    const file = this.files.get(path)
    return file?.present.subarray(0, file.sizeBytes)
  }

  /** True: the tripwire was touched, and the operation does not happen. */
  trips(): boolean {
    const { tripwire } = this
    if (!tripwire || tripwire.operations-- > 0) return false
    this.tripwire = undefined
    tripwire.run()
    return true
  }

  /** The first of all paths whose un-synced changes of names hang together by renames: they last all or none. */
  private stepOf(path: string): string {
    const together = new Set([path])
    const moved = (from: ReadonlyMap<string, SimFile>, to: ReadonlyMap<string, SimFile>, at: string) => {
      const file = from.get(at)
      if (file) for (const [other, same] of to) if (same === file) together.add(other)
    }
    // What is added while the loop runs is visited too.
    for (const at of together) {
      if (this.files.get(at) === this.durableNames.get(at)) continue
      moved(this.files, this.durableNames, at)
      moved(this.durableNames, this.files, at)
    }
    return [...together].sort()[0] as string
  }

  private settle(file: SimFile): void {
    if (file.dirty.size > 0 || file.sizeBytes !== file.durableSizeBytes) {
      const kept = new Uint8Array(Math.max(file.durableSizeBytes, file.sizeBytes))
      kept.set(file.durable.subarray(0, file.durableSizeBytes))
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
    } else file.present = file.present.slice(0, file.sizeBytes)
    file.durable = file.present.slice()
    file.durableSizeBytes = file.sizeBytes
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
    // Preallocated zeroes are durable once the name is: nobody wrote anything else there.
    const file: SimFile = {
      present: new Uint8Array(sizeBytes),
      sizeBytes,
      durable: new Uint8Array(sizeBytes),
      durableSizeBytes: sizeBytes,
      dirty: new Set(),
    }
    this.drop(path)
    this.files.set(path, file)
    return file
  }

  write(file: SimFile, offset: number, bytes: Uint8Array): void {
    const end = offset + bytes.length
    if (end > file.sizeBytes) this.takeSpace(end - file.sizeBytes)
    if (end > file.present.length) file.present = grown(file.present, Math.max(end, file.present.length * 2))
    file.sizeBytes = Math.max(file.sizeBytes, end)
    file.present.set(bytes, offset)
    for (let sector = Math.floor(offset / SECTOR_BYTES); sector * SECTOR_BYTES < end; sector++) file.dirty.add(sector)
  }

  sync(file: SimFile): void {
    this.counters.syncs++
    if (file.durable.length < file.sizeBytes) file.durable = grown(file.durable, file.present.length)
    for (const sector of file.dirty) {
      const from = sector * SECTOR_BYTES
      if (from < file.sizeBytes)
        file.durable.set(file.present.subarray(from, Math.min(from + SECTOR_BYTES, file.sizeBytes)), from)
    }
    // What was cut off is gone, also if the file grows over it again.
    if (file.sizeBytes < file.durableSizeBytes) file.durable.fill(0, file.sizeBytes, file.durableSizeBytes)
    file.durableSizeBytes = file.sizeBytes
    file.dirty.clear()
  }

  /** As Linux does: what was to be written counts as written, reads still give it, and a crash forgets it. */
  syncFailed(file: SimFile): void {
    file.dirty.clear()
  }

  truncate(file: SimFile, sizeBytes: number): void {
    if (sizeBytes > file.sizeBytes) this.takeSpace(sizeBytes - file.sizeBytes)
    else this.usedBytes -= file.sizeBytes - sizeBytes
    if (sizeBytes < file.sizeBytes) {
      file.present.fill(0, sizeBytes, file.sizeBytes)
      // Zeroes now, should the file grow again; so they must be written at the next sync.
      for (let sector = Math.floor(sizeBytes / SECTOR_BYTES); sector * SECTOR_BYTES < file.sizeBytes; sector++)
        file.dirty.add(sector)
    }
    if (file.present.length < sizeBytes) file.present = grown(file.present, sizeBytes)
    file.sizeBytes = sizeBytes
  }

  rename(from: string, to: string): void {
    const moving = [...this.files].filter(([path]) => path === from || path.startsWith(`${from}/`))
    if (moving.length === 0) throw new DiskError('IO', `rename: no file ${from}`)
    for (const [path, file] of moving) {
      this.files.delete(path)
      this.drop(to + path.slice(from.length))
      this.files.set(to + path.slice(from.length), file)
    }
  }

  remove(path: string): void {
    for (const name of [...this.files.keys()]) if (name === path || name.startsWith(`${path}/`)) this.drop(name)
  }

  syncDir(dir: string): void {
    const inDir = (path: string) => path.startsWith(`${dir}/`) && !path.slice(dir.length + 1).includes('/')
    for (const path of [...this.durableNames.keys()])
      if (inDir(path) && !this.files.has(path)) this.durableNames.delete(path)
    for (const [path, file] of this.files) {
      if (!inDir(path)) continue
      // The rename that brought it here has become durable: so it has left where it was.
      for (const [name, other] of this.durableNames) if (other === file && name !== path) this.durableNames.delete(name)
      this.durableNames.set(path, file)
    }
  }

  private drop(path: string): void {
    const file = this.files.get(path)
    if (!file) return
    this.files.delete(path)
    this.usedBytes -= file.sizeBytes
  }

  private count(): void {
    this.usedBytes = 0
    for (const file of this.files.values()) this.usedBytes += file.sizeBytes
  }

  private takeSpace(bytes: number): void {
    if (bytes > this.freeBytes) throw new DiskError('NO_SPACE', 'no space left on device')
    this.usedBytes += bytes
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
    const file = await this.later(`write ${path}.new`, () => {
      const made = this.disk.make(`${full}.new`, 0)
      this.disk.write(made, 0, copy)
      return made
    })
    await this.later(
      `sync ${path}.new`,
      () => this.disk.sync(file),
      () => this.disk.syncFailed(file),
    )
    await this.later(`rename ${path}`, () => this.disk.rename(`${full}.new`, full))
    await this.later(
      `sync of ${path}'s directory`,
      () => this.disk.syncDir(parentOf(full)),
      () => {},
    )
  }

  open(path: string, options: { preallocateBytes?: number } = {}): Promise<DiskFile> {
    return this.later(`open ${path}`, () => {
      const full = this.path(path)
      const file = this.disk.find(full) ?? this.disk.make(full, options.preallocateBytes ?? 0)
      return new MountedFile(this.disk, file, (what, run, syncFailed) => this.later(`${what} ${path}`, run, syncFailed))
    })
  }

  rename(from: string, to: string): Promise<void> {
    return this.later(`rename ${from}`, () => this.disk.rename(this.path(from), this.path(to)))
  }

  remove(path: string): Promise<void> {
    return this.later(`remove ${path}`, () => this.disk.remove(this.path(path)))
  }

  syncDir(dir: string): Promise<void> {
    return this.later(
      `syncDir ${dir}`,
      () => this.disk.syncDir(this.path(dir)),
      () => {},
    )
  }

  freeBytes(): Promise<number> {
    return this.later('freeBytes', () => this.disk.freeBytes)
  }

  private path(relative: string): string {
    const clean = relative === '' || relative === '.' ? '' : `/${relative.replace(/^\.?\//, '').replace(/\/$/, '')}`
    return `${this.root}${clean}`
  }

  /** `syncFailed`: it is a sync, and this is what is left of one that fails. */
  private later<T>(what: string, run: () => T, syncFailed?: () => void): Promise<T> {
    const { condition, random } = this.disk
    const [low, high] = syncFailed ? condition.syncMs : condition.operationMs
    return new Promise((resolve, reject) => {
      this.host.after(low + (high - low) * random.next(), what, () => {
        if (this.disk.trips()) return
        try {
          if (condition.failing) {
            syncFailed?.()
            throw new DiskError('IO', `${what}: input/output error`)
          }
          resolve(run())
        } catch (error) {
          reject(error)
        }
      })
    })
  }
}

type Later = <T>(what: string, run: () => T, syncFailed?: () => void) => Promise<T>

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
    return this.queue(() =>
      this.later(
        'sync',
        () => this.disk.sync(this.file),
        () => this.disk.syncFailed(this.file),
      ),
    )
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.queue(() => this.later('truncate', () => this.disk.truncate(this.file, sizeBytes)))
  }

  async close(): Promise<void> {
    await this.last.catch(() => undefined) // Whoever waited for that write has been told.
  }

  /** One after the other; a failed one fails all after it. */
  private queue<T>(run: () => Promise<T>): Promise<T> {
    const next = this.last.then(run)
    this.last = next
    next.catch(() => undefined) // The caller has its own copy of the failure.
    return next
  }
}

function grown(bytes: Uint8Array, lengthBytes: number): Uint8Array {
  const copy = new Uint8Array(lengthBytes)
  copy.set(bytes)
  return copy
}

const parentOf = (path: string) => path.slice(0, path.lastIndexOf('/'))
