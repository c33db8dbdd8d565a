import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  openSync,
  fsyncSync,
  closeSync,
} from 'node:fs'
import { join } from 'node:path'
import { DiskError } from '@capstan/actor'
import type { EngineReplacement, EngineSnapshot, EngineWrite, StateEngine } from '@capstan/mvcc'
import { type Database, open, type RootDatabase } from 'lmdb'
import sortedBtree from 'sorted-btree'

const BTree = sortedBtree.default
/** Commits not yet in lmdb; null: removed. */
type Layer = InstanceType<typeof sortedBtree.default<string, Uint8Array | null>>

const newLayer = (): Layer => new BTree<string, Uint8Array | null>(undefined, (a, b) => (a < b ? -1 : a > b ? 1 : 0))
const latin1 = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
const keyBytes = (key: string) => Buffer.from(key, 'latin1')
const APPLIED = 'appliedIndex'
/** Address space, not memory or disk. */
const MAP_BYTES_MAX = 64 * 1024 * 1024 * 1024

/**
 * The state on disk, in lmdb. Commits stay in memory until `checkpoint` writes all of them as one durable transaction, so
 * that after any crash the contents are those of the last checkpoint, exactly, and no commit ever waits for the disk.
 * (`lmdb` run unsynced would be faster to checkpoint, but a power cut could leave it silently damaged.)
 *
 * The directory holds `CURRENT`, which names the environment in use, and the environment; a replacement is filled in
 * another one beside it. One process at a time.
 */
export class LmdbStateEngine implements StateEngine {
  appliedIndex = 0
  durableIndex = 0
  unsavedBytes = 0
  private env: Environment
  /** Oldest first; the last one takes the commits. */
  private layers: Layer[] = [newLayer()]
  private flushing: Promise<void> = Promise.resolve()
  private closed = false

  /** Opens or makes it. Leftovers of a replacement that did not finish are removed. */
  constructor(private readonly dir: string) {
    mkdirSync(dir, { recursive: true })
    let current = 'state-1'
    try {
      current = readFileSync(join(dir, 'CURRENT'), 'utf8').trim()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      writeDurably(dir, 'CURRENT', current)
    }
    for (const name of readdirSync(dir))
      if (/^state-\d+$/.test(name) && name !== current) rmSync(join(dir, name), { recursive: true })
    this.env = new Environment(dir, current)
    this.appliedIndex = this.env.appliedIndex()
    this.durableIndex = this.appliedIndex
  }

  get sizeBytes(): number {
    return this.env.sizeBytes() + this.unsavedBytes
  }

  get(key: Uint8Array): Uint8Array | undefined {
    const name = latin1(key)
    for (let at = this.layers.length - 1; at >= 0; at--) {
      const value = (this.layers[at] as Layer).get(name)
      if (value !== undefined) return value ?? undefined
    }
    return this.env.state.getBinary(Buffer.from(key.buffer, key.byteOffset, key.byteLength))
  }

  range(from: Uint8Array, to?: Uint8Array): Iterable<[Uint8Array, Uint8Array]> {
    return merged(this.layers, this.env.pairs(from, to), from, to)
  }

  commit(batch: readonly EngineWrite[], appliedIndex: number): void {
    if (this.closed) throw new Error('engine is closed')
    if (appliedIndex < this.appliedIndex)
      throw new Error(`applied index falls from ${this.appliedIndex} to ${appliedIndex}`)
    const layer = this.layers[this.layers.length - 1] as Layer
    for (const [key, value] of batch) {
      layer.set(latin1(key), value ?? null)
      this.unsavedBytes += key.length + (value?.length ?? 0)
    }
    this.appliedIndex = appliedIndex
  }

  async checkpoint(): Promise<number> {
    const run = this.flushing.then(() => this.flush())
    // The next one starts in any case; whoever asked for this one hears of its failure.
    this.flushing = run.catch(() => {})
    await run
    return this.durableIndex
  }

  snapshot(): EngineSnapshot {
    const layers = this.layers.map((layer) => layer.clone())
    const reader = this.env.reader()
    return {
      appliedIndex: this.appliedIndex,
      range: (from, to) => merged(layers, reader.pairs(from, to), from, to),
      close: () => reader.close(),
    }
  }

  replace(): EngineReplacement {
    const number = Number(this.env.name.slice('state-'.length)) + 1
    const name = `state-${number}`
    rmSync(join(this.dir, name), { recursive: true, force: true })
    let next: Environment | undefined = new Environment(this.dir, name)
    return {
      write: async (pairs) => {
        const env = next
        if (!env) throw new Error('replacement is over')
        await failsAsDiskError(async () => {
          await env.root.batch(() => {
            for (const [key, value] of pairs) void env.state.put(asBuffer(key), asBuffer(value))
          })
        })
      },
      finish: async (appliedIndex) => {
        const env = next
        if (!env) throw new Error('replacement is over')
        await failsAsDiskError(async () => {
          await env.meta.put(APPLIED, appliedIndex)
          await env.root.flushed
        })
        const old = this.env
        // In the row of checkpoints: none of the old state may end after the switch.
        const run = this.flushing.then(() => {
          writeDurably(this.dir, 'CURRENT', name)
          next = undefined
          this.env = env
          this.layers = [newLayer()]
          this.unsavedBytes = 0
          this.appliedIndex = appliedIndex
          this.durableIndex = appliedIndex
        })
        this.flushing = run.catch(() => {})
        await run
        await old.retire()
      },
      abort: async () => {
        const env = next
        next = undefined
        await env?.retire()
      },
    }
  }

  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    await this.flushing
    await this.env.close()
  }

  private async flush(): Promise<void> {
    if (this.closed) throw new Error('engine is closed')
    const { env } = this
    const appliedIndex = this.appliedIndex
    if (appliedIndex === this.durableIndex && this.layers.every((layer) => layer.isEmpty)) return
    const frozen = this.layers
    const bytes = this.unsavedBytes
    this.layers = [...frozen, newLayer()]
    await failsAsDiskError(async () => {
      await env.root.batch(() => {
        for (const layer of frozen)
          for (const [key, value] of layer.entries()) {
            if (value) void env.state.put(keyBytes(key), asBuffer(value))
            else void env.state.remove(keyBytes(key))
          }
        void env.meta.put(APPLIED, appliedIndex)
      })
      await env.root.flushed
    })
    // A replacement that came meanwhile waits for this (see `finish`), so these layers are still ours.
    this.layers = this.layers.slice(frozen.length)
    this.unsavedBytes -= bytes
    this.durableIndex = appliedIndex
  }
}

class Environment {
  readonly root: RootDatabase
  readonly state: Database<Buffer, Buffer>
  readonly meta: Database<number, string>
  private readers = 0
  private retired = false

  constructor(
    private readonly dir: string,
    readonly name: string,
  ) {
    this.root = open({
      path: join(dir, name),
      maxDbs: 4,
      mapSize: MAP_BYTES_MAX,
      noMemInit: true,
      safeRestore: true,
    } as Parameters<typeof open>[0])
    this.state = this.root.openDB<Buffer, Buffer>({ name: 'state', encoding: 'binary', keyEncoding: 'binary' })
    this.meta = this.root.openDB<number, string>({ name: 'meta', encoding: 'msgpack' })
  }

  appliedIndex(): number {
    return this.meta.get(APPLIED) ?? 0
  }

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

  *pairs(from: Uint8Array, to: Uint8Array | undefined, transaction?: object): Generator<[string, Uint8Array]> {
    const options = {
      ...(from.length > 0 ? { start: asBuffer(from) } : {}),
      ...(to ? { end: asBuffer(to) } : {}),
      ...(transaction ? { transaction: transaction as never } : {}),
    }
    for (const { key, value } of this.state.getRange(options)) yield [key.toString('latin1'), value]
  }

  reader(): { pairs(from: Uint8Array, to?: Uint8Array): Generator<[string, Uint8Array]>; close(): void } {
    this.readers++
    const transaction = this.state.useReadTransaction()
    let open = true
    return {
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

  close(): Promise<void> {
    return this.root.close()
  }

  /** No longer in use: removed as soon as no snapshot reads from it. */
  async retire(): Promise<void> {
    this.retired = true
    if (this.readers === 0) await this.end()
  }

  private async end(): Promise<void> {
    await this.root.close()
    rmSync(join(this.dir, this.name), { recursive: true, force: true })
  }
}

/** Layers over what is on disk, each hiding what lies below it. */
function* merged(
  layers: Layer[],
  disk: Iterator<[string, Uint8Array]>,
  from: Uint8Array,
  to?: Uint8Array,
): Generator<[Uint8Array, Uint8Array]> {
  const end = to && latin1(to)
  const start = latin1(from)
  // Newest first: of equal keys the first source wins.
  const sources: Iterator<[string, Uint8Array | null]>[] = [...layers]
    .reverse()
    .filter((l) => !l.isEmpty)
    .map((layer) => layer.entries(start))
  sources.push(disk)
  const heads = sources.map((source) => source.next())
  try {
    for (;;) {
      let least: string | undefined
      let value: Uint8Array | null = null
      for (const head of heads) {
        if (head.done) continue
        const [key, candidate] = head.value as [string, Uint8Array | null]
        if (least === undefined || key < least) {
          least = key
          value = candidate
        }
      }
      if (least === undefined || (end !== undefined && least >= end)) return
      heads.forEach((head, at) => {
        if (!head.done && (head.value as [string, unknown])[0] === least)
          heads[at] = (sources[at] as Iterator<[string, Uint8Array | null]>).next()
      })
      if (value) yield [new Uint8Array(keyBytes(least)), value]
    }
  } finally {
    // Ends lmdb's cursor when the reader stops early.
    disk.return?.()
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

async function failsAsDiskError(run: () => Promise<void>): Promise<void> {
  try {
    await run()
  } catch (error) {
    const text = String(error)
    const full = /ENOSPC|no space|MDB_MAP_FULL/i.test(text)
    throw new DiskError(full ? 'NO_SPACE' : 'IO', `state engine: ${text}`, { cause: error })
  }
}

function writeDurably(dir: string, name: string, text: string): void {
  const temporary = join(dir, `${name}.tmp`)
  writeFileSync(temporary, text, { flush: true })
  renameSync(temporary, join(dir, name))
  const handle = openSync(dir, 'r')
  try {
    fsyncSync(handle)
  } finally {
    closeSync(handle)
  }
}
