import type { LogDisk, LogDiskFile } from './log.js'

const SECTOR_BYTES = 512

interface File {
  /** What a read gives. */
  present: Uint8Array
  /** What a crash leaves for certain. */
  durable: Uint8Array
  /** Where sectors begin whose sync failed: they read as written, and no later sync writes them. So does Linux. */
  forgotten: Set<number>
}

/** A disk in memory that can crash at any operation: any subset of un-synced sectors, and of un-synced names, is kept. */
export class CrashDisk implements LogDisk {
  private files = new Map<string, File>()
  private durableNames = new Map<string, File>()
  /** Operations so far. */
  operations = 0
  /** The operation at which the disk stops: it and all later ones fail. */
  crashAt = Number.POSITIVE_INFINITY
  /** Syncs from this one on fail, and what they should have made durable is not; counted from 1. */
  failSyncAt = Number.POSITIVE_INFINITY
  syncs = 0
  /** Bytes that writes may still take. */
  freeBytes = Number.POSITIVE_INFINITY

  async list(dir: string): Promise<string[]> {
    this.step()
    return [...this.files.keys()]
      .filter((path) => path.startsWith(`${dir}/`))
      .map((path) => path.slice(dir.length + 1))
      .sort()
  }

  async open(path: string, options: { preallocateBytes?: number } = {}): Promise<LogDiskFile> {
    this.step()
    let file = this.files.get(path)
    if (!file) {
      const size = options.preallocateBytes ?? 0
      file = { present: new Uint8Array(size), durable: new Uint8Array(size), forgotten: new Set() }
      this.files.set(path, file)
    }
    return this.handle(file)
  }

  async rename(from: string, to: string): Promise<void> {
    this.step()
    const file = this.files.get(from)
    if (!file) throw new Error(`no file ${from}`)
    this.files.delete(from)
    this.files.set(to, file)
  }

  async remove(path: string): Promise<void> {
    this.step()
    this.files.delete(path)
  }

  async syncDir(dir: string): Promise<void> {
    this.step()
    for (const path of this.durableNames.keys())
      if (path.startsWith(`${dir}/`) && !this.files.has(path)) this.durableNames.delete(path)
    for (const [path, file] of this.files) if (path.startsWith(`${dir}/`)) this.durableNames.set(path, file)
  }

  /** The machine stops and starts again. `keep` decides for each un-synced sector and name whether it reached the disk. */
  crash(keep: () => boolean): void {
    const names = new Map(this.durableNames)
    for (const path of this.durableNames.keys()) if (!this.files.has(path) && keep()) names.delete(path)
    for (const [path, file] of this.files) if (!names.has(path) && keep()) names.set(path, file)
    for (const file of new Set(names.values())) {
      const size = file.present.length
      const kept = new Uint8Array(size)
      kept.set(file.durable.subarray(0, size))
      for (let at = 0; at < size; at += SECTOR_BYTES) {
        const end = Math.min(size, at + SECTOR_BYTES)
        if (keep()) kept.set(file.present.subarray(at, end), at)
      }
      file.present = kept
      file.durable = kept.slice()
      file.forgotten.clear()
    }
    this.files = new Map(names)
    this.durableNames = new Map(names)
    this.crashAt = Number.POSITIVE_INFINITY
    this.failSyncAt = Number.POSITIVE_INFINITY
  }

  /** Another disk with the same content. */
  clone(): CrashDisk {
    const copy = new CrashDisk()
    const copies = new Map<File, File>()
    const copyOf = (file: File): File => {
      const made = copies.get(file) ?? {
        present: file.present.slice(),
        durable: file.durable.slice(),
        forgotten: new Set(file.forgotten),
      }
      copies.set(file, made)
      return made
    }
    for (const [name, file] of this.files) copy.files.set(name, copyOf(file))
    for (const [name, file] of this.durableNames) copy.durableNames.set(name, copyOf(file))
    return copy
  }

  /** Only the process stops: what it wrote stays readable, and stays un-synced. */
  restart(): void {
    this.crashAt = Number.POSITIVE_INFINITY
    this.failSyncAt = Number.POSITIVE_INFINITY
  }

  /** The bytes of a file, to damage them. */
  bytes(path: string): Uint8Array {
    const file = this.files.get(path)
    if (!file) throw new Error(`no file ${path}`)
    return file.present
  }

  private step(): void {
    if (++this.operations >= this.crashAt) throw new Error('the disk is gone')
  }

  private handle(file: File): LogDiskFile {
    return {
      get sizeBytes() {
        return file.present.length
      },
      read: async (offset, lengthBytes) => {
        this.step()
        return file.present.slice(offset, offset + lengthBytes)
      },
      write: async (offset, bytes) => {
        this.step()
        if (bytes.length > this.freeBytes) throw new Error('no space left')
        if (offset + bytes.length > file.present.length) {
          const grown = new Uint8Array(offset + bytes.length)
          grown.set(file.present)
          file.present = grown
        }
        file.present.set(bytes, offset)
        const from = Math.floor(offset / SECTOR_BYTES) * SECTOR_BYTES
        for (let at = from; at < offset + bytes.length; at += SECTOR_BYTES) file.forgotten.delete(at)
      },
      sync: async () => {
        this.step()
        const fails = ++this.syncs >= this.failSyncAt
        const durable = file.present.slice()
        for (let at = 0; at < durable.length; at += SECTOR_BYTES) {
          const [now, before] = [durable.subarray(at, at + SECTOR_BYTES), file.durable.subarray(at, at + SECTOR_BYTES)]
          if (fails && now.some((byte, i) => byte !== (before[i] ?? 0))) file.forgotten.add(at)
          if (file.forgotten.has(at)) now.fill(0).set(before)
        }
        if (fails) throw new Error('sync failed')
        file.durable = durable
      },
      truncate: async (sizeBytes) => {
        this.step()
        file.present = file.present.slice(0, sizeBytes)
      },
      close: async () => this.step(),
    }
  }
}
