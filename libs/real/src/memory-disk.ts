import { type Disk, DiskError, type DiskFile } from '@capstan/actor'

const BYTES_MAX = 1024 * 1024 * 1024

/**
 * A disk that is only memory: for clusters in one process that leave nothing behind. It lasts as long as the object, so a
 * component that is started again over it finds its files; a sync has nothing to do. Directories are there while something
 * is in them. For torn and lost writes see `SimDisk` in libs/sim.
 */
export class MemoryDisk implements Disk {
  private readonly files = new Map<string, Content>()
  private readonly space: Space

  /** At `bytesMax` (default 1 GiB) writes fail as NO_SPACE. */
  constructor(options: { bytesMax?: number } = {}) {
    this.space = { usedBytes: 0, bytesMax: options.bytesMax ?? BYTES_MAX }
  }

  async list(dir: string): Promise<string[]> {
    const prefix = below(dir)
    const names = new Set<string>()
    for (const path of this.files.keys())
      if (path.startsWith(prefix)) names.add(path.slice(prefix.length).split('/')[0] as string)
    return [...names].sort()
  }

  async read(path: string): Promise<Uint8Array | undefined> {
    const content = this.files.get(normal(path))
    return content?.read(0, content.sizeBytes)
  }

  async writeAtomic(path: string, bytes: Uint8Array): Promise<void> {
    const content = new Content(this.space, path)
    content.write(0, bytes)
    this.put(normal(path), content)
  }

  async open(path: string, options: { preallocateBytes?: number } = {}): Promise<DiskFile> {
    const name = normal(path)
    let content = this.files.get(name)
    if (!content) {
      content = new Content(this.space, path)
      content.truncate(options.preallocateBytes ?? 0)
      this.put(name, content)
    }
    return new MemoryFile(content)
  }

  async rename(from: string, to: string): Promise<void> {
    const [source, target] = [normal(from), normal(to)]
    const moved = [...this.files].filter(([path]) => path === source || path.startsWith(`${source}/`))
    if (moved.length === 0) throw new DiskError('IO', `rename ${from}: there is nothing of that name`)
    for (const [path] of moved) this.files.delete(path)
    for (const [path, content] of moved) this.put(target + path.slice(source.length), content)
  }

  async remove(path: string): Promise<void> {
    const name = normal(path)
    for (const [each, content] of this.files) {
      if (each !== name && !each.startsWith(below(path))) continue
      this.files.delete(each)
      content.unlink()
    }
  }

  async syncDir(): Promise<void> {}

  async freeBytes(): Promise<number> {
    return Math.max(0, this.space.bytesMax - this.space.usedBytes)
  }

  private put(name: string, content: Content): void {
    const parts = name.split('/')
    for (let depth = 1; depth < parts.length; depth++) {
      const parent = parts.slice(0, depth).join('/')
      if (this.files.has(parent)) throw new DiskError('IO', `make ${name}: ${parent} is no directory`)
    }
    const former = this.files.get(name)
    if (former !== content) former?.unlink()
    this.files.set(name, content)
  }
}

interface Space {
  usedBytes: number
  readonly bytesMax: number
}

/** The bytes of a file; they outlive its name, as long as it is open. */
class Content {
  sizeBytes = 0
  private bytes = new Uint8Array(0)
  private linked = true

  constructor(
    private readonly space: Space,
    private readonly name: string,
  ) {}

  read(offset: number, lengthBytes: number): Uint8Array {
    return this.bytes.slice(offset, Math.max(offset, Math.min(offset + lengthBytes, this.sizeBytes)))
  }

  write(offset: number, bytes: Uint8Array): void {
    if (offset + bytes.length > this.sizeBytes) this.truncate(offset + bytes.length)
    this.bytes.set(bytes, offset)
  }

  truncate(sizeBytes: number): void {
    const more = sizeBytes - this.sizeBytes
    if (this.linked && this.space.usedBytes + more > this.space.bytesMax)
      throw new DiskError('NO_SPACE', `write ${this.name}: the memory disk holds ${this.space.bytesMax} bytes at most`)
    if (this.linked) this.space.usedBytes += more
    // What is cut off must read as zeroes if the file grows again.
    if (more < 0) this.bytes.fill(0, sizeBytes, this.sizeBytes)
    if (sizeBytes > this.bytes.length) {
      const grown = new Uint8Array(
        Math.max(sizeBytes, Math.min(2 * this.bytes.length, this.bytes.length + 1024 * 1024)),
      )
      grown.set(this.bytes)
      this.bytes = grown
    }
    this.sizeBytes = sizeBytes
  }

  unlink(): void {
    if (this.linked) this.space.usedBytes -= this.sizeBytes
    this.linked = false
  }
}

class MemoryFile implements DiskFile {
  private closed = false

  constructor(private readonly content: Content) {}

  get sizeBytes(): number {
    return this.content.sizeBytes
  }

  async read(offset: number, lengthBytes: number): Promise<Uint8Array> {
    this.check()
    return this.content.read(offset, lengthBytes)
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.check()
    this.content.write(offset, bytes)
  }

  async sync(): Promise<void> {
    this.check()
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.check()
    this.content.truncate(sizeBytes)
  }

  async close(): Promise<void> {
    this.closed = true
  }

  private check(): void {
    if (this.closed) throw new DiskError('IO', 'the file is closed')
  }
}

function normal(path: string): string {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.')
  if (parts.includes('..')) throw new RangeError(`leads out of the disk: ${path}`)
  return parts.join('/')
}

const below = (dir: string) => (normal(dir) === '' ? '' : `${normal(dir)}/`)
