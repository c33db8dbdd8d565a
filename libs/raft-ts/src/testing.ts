import type { LogDisk, LogDiskFile } from './log.js'

const SECTOR_BYTES = 512

interface File {
  /** What a read gives. */
  present: Uint8Array
  /** What a crash leaves for certain. */
  durable: Uint8Array
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
      file = { present: new Uint8Array(size), durable: new Uint8Array(size) }
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
      const made = copies.get(file) ?? { present: file.present.slice(), durable: file.durable.slice() }
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
      },
      sync: async () => {
        this.step()
        if (++this.syncs >= this.failSyncAt) throw new Error('sync failed')
        file.durable = file.present.slice()
      },
      truncate: async (sizeBytes) => {
        this.step()
        file.present = file.present.slice(0, sizeBytes)
      },
      close: async () => this.step(),
    }
  }
}
