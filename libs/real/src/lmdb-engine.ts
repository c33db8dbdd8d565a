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
import type { EngineReplacement, EngineSnapshot, EngineWrite, StateEngine } from '@capstan/mvcc'
import { Environment, RowsEncoder } from './lmdb-environment.js'
import { Layer } from './lmdb-layer.js'

const latin1 = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
const keyBytes = (key: string) => Buffer.from(key, 'latin1')
/** Handed to the writing thread between two returns to the event loop: some milliseconds of work. */
const SLICE_BYTES = 256 * 1024
/** Of a replacement, written as one transaction. */
const REPLACEMENT_BYTES = 16 * 1024 * 1024
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/**
 * The state on disk, in lmdb. Commits stay in memory until `checkpoint` writes all of them as one durable transaction, so
 * that after any crash the contents are those of the last checkpoint, exactly, and no commit ever waits for the disk. A
 * thread of its own writes it, and is handed the rows in slices: no checkpoint holds the event loop up.
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
  /** A finished replacement that is not shown yet. */
  private next: { env: Environment; appliedIndex: number } | undefined
  /** Oldest first; the last one takes the commits. */
  private layers: Layer[] = [new Layer()]
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
    return inLayers(this.layers, key, () => this.env.get(key))
  }

  range(from: Uint8Array, to?: Uint8Array): Iterable<[Uint8Array, Uint8Array]> {
    return merged(this.layers, (start) => this.env.pairs(start, to), from, to)
  }

  count(from: Uint8Array, to?: Uint8Array): number {
    let count = this.env.count(from, to)
    const [start, end] = [latin1(from), to && latin1(to)]
    const seen = new Set<string>()
    const some = this.layers.filter((layer) => !layer.isEmpty)
    for (const layer of [...some].reverse())
      for (const [key, value] of layer.entries(start)) {
        if (end !== undefined && key >= end) break
        if (some.length > 1) {
          if (seen.has(key)) continue
          seen.add(key)
        }
        const onDisk = this.env.has(keyBytes(key))
        if (value && !onDisk) count++
        else if (!value && onDisk) count--
      }
    return count
  }

  commit(batch: readonly EngineWrite[], appliedIndex: number): void {
    if (this.closed) throw new Error('engine is closed')
    if (this.next) throw new Error('a replacement is to be shown first')
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
    // What the snapshot reads takes no more commits; the next checkpoint makes one of them all again.
    const layers = this.layers.filter((layer) => !layer.isEmpty)
    if (layers.includes(this.layers[this.layers.length - 1] as Layer)) this.layers.push(new Layer())
    const reader = this.env.reader()
    return {
      appliedIndex: this.appliedIndex,
      get: (key) => inLayers(layers, key, () => reader.get(key)),
      range: (from, to) => merged(layers, (start) => reader.pairs(start, to), from, to),
      close: () => reader.close(),
    }
  }

  replace(): EngineReplacement {
    if (this.next) throw new Error('a replacement is to be shown first')
    const number = Number(this.env.name.slice('state-'.length)) + 1
    const name = `state-${number}`
    rmSync(join(this.dir, name), { recursive: true, force: true })
    let next: Environment | undefined = new Environment(this.dir, name)
    let rows = new RowsEncoder(SLICE_BYTES)
    let bytes = 0
    return {
      write: async (pairs) => {
        for (const [key, value] of pairs) {
          const env = next
          if (!env) throw new Error('replacement is over')
          if (!rows.add(key, value)) {
            env.write(rows.take())
            rows.add(key, value)
            await turn()
          }
          bytes += key.length + value.length
          if (bytes < REPLACEMENT_BYTES) continue
          bytes = 0
          env.write(rows.take())
          await env.commit(undefined)
        }
      },
      finish: async (appliedIndex) => {
        const env = next
        if (!env) throw new Error('replacement is over')
        env.write(rows.take())
        await env.commit(appliedIndex)
        // In the row of checkpoints: none of the old state may end after the switch.
        const run = this.flushing.then(() => {
          // Should this fail, nobody knows which of the two it names: neither is removed.
          next = undefined
          this.next = { env, appliedIndex }
          writeDurably(this.dir, 'CURRENT', name)
        })
        this.flushing = run.catch(() => {})
        await run
      },
      show: () => {
        const { env, next } = this
        if (!next) throw new Error('replacement is not finished')
        this.env = next.env
        this.next = undefined
        this.layers = [new Layer()]
        this.unsavedBytes = 0
        this.appliedIndex = next.appliedIndex
        this.durableIndex = next.appliedIndex
        // What cannot be removed is when the directory is opened next.
        this.flushing = this.flushing.then(() => env.retire()).catch(() => {})
      },
      abort: async () => {
        const env = next
        next = undefined
        rows = new RowsEncoder(0)
        await env?.retire()
      },
    }
  }

  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    await this.flushing
    await this.next?.env.close()
    await this.env.close()
  }

  private async flush(): Promise<void> {
    if (this.closed) throw new Error('engine is closed')
    if (this.next) return
    const { env } = this
    const appliedIndex = this.appliedIndex
    if (appliedIndex === this.durableIndex && this.layers.every((layer) => layer.isEmpty)) return
    const frozen = this.layers
    const bytes = this.unsavedBytes
    this.layers = [...frozen, new Layer()]
    const rows = new RowsEncoder(SLICE_BYTES)
    try {
      // Oldest first, so that the newest of a key comes last.
      for (const layer of frozen)
        for (const [key, value] of layer.entries()) {
          if (rows.add(key, value)) continue
          env.write(rows.take())
          await turn()
          rows.add(key, value)
        }
      env.write(rows.take())
    } catch (error) {
      env.drop()
      throw error
    }
    await env.commit(appliedIndex)
    // A replacement that came meanwhile waits for this (see `finish`), so these layers are still ours.
    this.layers = this.layers.slice(frozen.length)
    this.unsavedBytes -= bytes
    this.durableIndex = appliedIndex
  }
}

function inLayers(layers: Layer[], key: Uint8Array, below: () => Uint8Array | undefined): Uint8Array | undefined {
  const name = latin1(key)
  for (let at = layers.length - 1; at >= 0; at--) {
    const value = (layers[at] as Layer).get(name)
    if (value !== undefined) return value ?? undefined
  }
  return below()
}

/** Layers over what is on disk, each hiding what lies below it. */
function* merged(
  layers: Layer[],
  diskFrom: (from: Uint8Array) => Iterator<{ key: Buffer; value: Buffer }>,
  from: Uint8Array,
  to?: Uint8Array,
): Generator<[Uint8Array, Uint8Array]> {
  const end = to && latin1(to)
  const start = latin1(from)
  if (end !== undefined && start >= end) return
  // Newest first: of equal keys the first source wins.
  const sources: Iterator<[string, Uint8Array | null]>[] = []
  const heads: [key: string, value: Uint8Array | null][] = []
  for (const layer of [...layers].reverse()) {
    if (layer.isEmpty) continue
    const source = layer.entries(start)
    const head = source.next()
    if (head.done || (end !== undefined && head.value[0] >= end)) continue
    sources.push(source)
    heads.push(head.value)
  }
  const disk = diskFrom(from)
  try {
    let row = disk.next()
    // Text only to compare with the layers.
    let rowName = row.done || heads.length === 0 ? '' : latin1(row.value.key)
    while (heads.length > 0) {
      let least = 0
      for (let at = 1; at < heads.length; at++)
        if ((heads[at] as [string, unknown])[0] < (heads[least] as [string, unknown])[0]) least = at
      const [name, value] = heads[least] as [string, Uint8Array | null]
      if (!row.done && rowName < name) {
        yield [row.value.key, row.value.value]
        row = disk.next()
        rowName = row.done ? '' : latin1(row.value.key)
        continue
      }
      if (!row.done && rowName === name) {
        row = disk.next()
        rowName = row.done ? '' : latin1(row.value.key)
      }
      for (let at = 0; at < heads.length; ) {
        if ((heads[at] as [string, unknown])[0] !== name) {
          at++
          continue
        }
        const next = (sources[at] as Iterator<[string, Uint8Array | null]>).next()
        if (next.done || (end !== undefined && next.value[0] >= end)) {
          sources.splice(at, 1)
          heads.splice(at, 1)
        } else heads[at++] = next.value
      }
      if (value) yield [new Uint8Array(keyBytes(name)), value]
    }
    for (; !row.done; row = disk.next()) yield [row.value.key, row.value.value]
  } finally {
    // Ends lmdb's cursor when the reader stops early.
    disk.return?.()
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
