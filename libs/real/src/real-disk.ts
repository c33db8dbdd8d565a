import { mkdir, open as openFile, readdir, readFile, rename, rm, statfs, type FileHandle } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Disk, DiskError, type DiskFile } from '@capstan/actor'

/** A directory of this machine's file system, through libuv's thread pool. */
export class RealDisk implements Disk {
  /** The last replacement of each file that is in work: two at once would share the temporary file. */
  private readonly replacing = new Map<string, Promise<void>>()

  constructor(private readonly root: string) {}

  async list(dir: string): Promise<string[]> {
    try {
      return (await readdir(this.path(dir))).sort()
    } catch (error) {
      if (isMissing(error)) return []
      throw diskError(error, `list ${dir}`)
    }
  }

  async read(path: string): Promise<Uint8Array | undefined> {
    try {
      return await readFile(this.path(path))
    } catch (error) {
      if (isMissing(error)) return undefined
      throw diskError(error, `read ${path}`)
    }
  }

  async writeAtomic(path: string, bytes: Uint8Array): Promise<void> {
    const target = this.path(path)
    const before = this.replacing.get(target) ?? Promise.resolve()
    const replaced = before
      .catch(() => undefined) // Told to who asked for that one.
      .then(() => guarded(`write ${path}`, () => replaceFile(target, bytes)))
    this.replacing.set(target, replaced)
    const forget = () => {
      if (this.replacing.get(target) === replaced) this.replacing.delete(target)
    }
    replaced.then(forget, forget)
    await replaced
  }

  open(path: string, options: { preallocateBytes?: number } = {}): Promise<RealFile> {
    return guarded(`open ${path}`, async () => {
      const target = this.path(path)
      await mkdir(dirname(target), { recursive: true })
      let file: FileHandle
      try {
        file = await openFile(target, 'r+')
      } catch (error) {
        if (!isMissing(error)) throw error
        file = await make(target, options.preallocateBytes ?? 0)
      }
      return new RealFile(file, (await file.stat()).size, path)
    })
  }

  rename(from: string, to: string): Promise<void> {
    return guarded(`rename ${from}`, async () => {
      await mkdir(dirname(this.path(to)), { recursive: true })
      await rename(this.path(from), this.path(to))
    })
  }

  remove(path: string): Promise<void> {
    return guarded(`remove ${path}`, () => rm(this.path(path), { recursive: true, force: true }))
  }

  syncDir(dir: string): Promise<void> {
    return guarded(`sync ${dir}`, async () => {
      await mkdir(this.path(dir), { recursive: true })
      await syncDirectory(this.path(dir))
    })
  }

  freeBytes(): Promise<number> {
    return guarded('look for free space', async () => {
      await mkdir(this.root, { recursive: true })
      const { bavail, bsize } = await statfs(this.root)
      return bavail * bsize
    })
  }

  private path(relative: string): string {
    if (relative.split('/').includes('..')) throw new DiskError('IO', `leads out of the disk: ${relative}`)
    return join(this.root, relative)
  }
}

async function replaceFile(target: string, bytes: Uint8Array): Promise<void> {
  await mkdir(dirname(target), { recursive: true })
  const file = await openFile(`${target}.new`, 'w')
  try {
    await file.writeFile(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(`${target}.new`, target)
  await syncDirectory(dirname(target))
}

/** Nothing is left of one for which there is not enough space. */
async function make(target: string, preallocateBytes: number): Promise<FileHandle> {
  const file = await openFile(target, 'w+')
  try {
    await preallocate(file, preallocateBytes)
    return file
  } catch (error) {
    await file.close()
    await rm(target, { force: true })
    throw error
  }
}

const ZEROES = Buffer.alloc(1024 * 1024)

/** Written zeroes, not a hole: the file's blocks exist before the first record, so that a sync has no metadata to write. */
async function preallocate(file: FileHandle, bytes: number): Promise<void> {
  for (let at = 0; at < bytes; )
    at += (await file.write(ZEROES, 0, Math.min(ZEROES.length, bytes - at), at)).bytesWritten
  if (bytes > 0) await file.sync()
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await openFile(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

export class RealFile implements DiskFile {
  /** Writes run one after the other, in the order of the calls; a failed one fails all after it. */
  private last: Promise<void> = Promise.resolve()

  constructor(
    private readonly file: FileHandle,
    public sizeBytes: number,
    private readonly name: string,
  ) {}

  read(offset: number, lengthBytes: number): Promise<Uint8Array> {
    return guarded(`read ${this.name}`, async () => {
      await this.last
      const buffer = Buffer.alloc(Math.max(0, Math.min(lengthBytes, this.sizeBytes - offset)))
      let at = 0
      while (at < buffer.length) {
        const { bytesRead } = await this.file.read(buffer, at, buffer.length - at, offset + at)
        if (bytesRead === 0) break
        at += bytesRead
      }
      return buffer.subarray(0, at)
    })
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    this.sizeBytes = Math.max(this.sizeBytes, offset + bytes.length)
    // The caller may use its buffer again.
    const copy = new Uint8Array(bytes)
    return this.queue(`write ${this.name}`, async () => {
      for (let at = 0; at < copy.length; )
        at += (await this.file.write(copy, at, copy.length - at, offset + at)).bytesWritten
    })
  }

  sync(): Promise<void> {
    return this.queue(`sync ${this.name}`, () => this.file.datasync())
  }

  truncate(sizeBytes: number): Promise<void> {
    this.sizeBytes = sizeBytes
    return this.queue(`truncate ${this.name}`, () => this.file.truncate(sizeBytes))
  }

  async close(): Promise<void> {
    await this.last.catch(() => undefined) // Whoever waited for that write has been told.
    await guarded(`close ${this.name}`, () => this.file.close())
  }

  private queue(what: string, run: () => Promise<void>): Promise<void> {
    this.last = this.last.then(() => guarded(what, run))
    this.last.catch(() => undefined) // The caller has its own copy of the failure.
    return this.last
  }
}

async function guarded<T>(what: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    throw diskError(error, what)
  }
}

const isMissing = (error: unknown) => (error as NodeJS.ErrnoException).code === 'ENOENT'

export function diskError(error: unknown, what: string): DiskError {
  if (error instanceof DiskError) return error
  const { code, message } = error as NodeJS.ErrnoException
  const kind = code === 'ENOSPC' || code === 'EDQUOT' ? 'NO_SPACE' : code === 'EROFS' ? 'READ_ONLY' : 'IO'
  return new DiskError(kind, `${what}: ${message}`, { cause: error })
}
