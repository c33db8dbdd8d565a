import { fromLatin1, toLatin1 } from './bytes.js'
import { type OrderedMap, orderedMap } from './ordered-map.js'
import type { EngineReplacement, EngineSnapshot, EngineWrite, StateEngine } from './state-engine.js'

/** What of a `MemoryStateEngine` outlives it, as a disk would: for tests and for restarts inside one process. */
export class MemoryStorage {
  tree: OrderedMap<Uint8Array> = orderedMap()
  appliedIndex = 0
}

/** All in memory; `checkpoint` keeps a copy (by structure sharing) in the storage object. */
export class MemoryStateEngine implements StateEngine {
  appliedIndex: number
  durableIndex: number
  sizeBytes = 0
  readonly unsavedBytes = 0
  private tree: OrderedMap<Uint8Array>
  /** There is a finished replacement that is not shown yet. */
  private replaced = false

  constructor(private readonly storage: MemoryStorage = new MemoryStorage()) {
    this.tree = storage.tree.clone()
    this.appliedIndex = storage.appliedIndex
    this.durableIndex = storage.appliedIndex
    this.sizeBytes = sizeOf(this.tree)
  }

  get(key: Uint8Array): Uint8Array | undefined {
    return this.tree.get(toLatin1(key))
  }

  range(from: Uint8Array, to?: Uint8Array): Iterable<[Uint8Array, Uint8Array]> {
    return rangeOf(this.tree, from, to)
  }

  count(from: Uint8Array, to?: Uint8Array): number {
    const [start, end] = [toLatin1(from), to ? toLatin1(to) : '\uffff']
    // It counts whole leaves, as it is to call nobody.
    return start < end ? this.tree.forRange(start, end, false) : 0
  }

  commit(batch: readonly EngineWrite[], appliedIndex: number): void {
    if (this.replaced) throw new Error('a replacement is to be shown first')
    if (appliedIndex < this.appliedIndex)
      throw new Error(`applied index falls from ${this.appliedIndex} to ${appliedIndex}`)
    for (const [key, value] of batch) {
      const name = toLatin1(key)
      const old = this.tree.get(name)
      if (old) this.sizeBytes -= name.length + old.length
      if (value) {
        this.tree.set(name, value)
        this.sizeBytes += name.length + value.length
      } else if (old) this.tree.delete(name)
    }
    this.appliedIndex = appliedIndex
  }

  checkpoint(): Promise<number> {
    if (this.replaced) return Promise.resolve(this.durableIndex)
    this.storage.tree = this.tree.clone()
    this.storage.appliedIndex = this.appliedIndex
    this.durableIndex = this.appliedIndex
    return Promise.resolve(this.durableIndex)
  }

  snapshot(): EngineSnapshot {
    const tree = this.tree.clone()
    return {
      appliedIndex: this.appliedIndex,
      get: (key) => tree.get(toLatin1(key)),
      range: (from, to) => rangeOf(tree, from, to),
      close() {},
    }
  }

  replace(): EngineReplacement {
    if (this.replaced) throw new Error('a replacement is to be shown first')
    const { storage } = this
    let next: OrderedMap<Uint8Array> | undefined = orderedMap()
    return {
      write: (pairs) => {
        for (const [key, value] of pairs) next?.set(toLatin1(key), value)
        return Promise.resolve()
      },
      finish: (appliedIndex) => {
        if (!next) return Promise.reject(new Error('replacement was aborted'))
        storage.tree = next
        storage.appliedIndex = appliedIndex
        this.replaced = true
        return Promise.resolve()
      },
      show: () => {
        this.tree = storage.tree.clone()
        this.appliedIndex = storage.appliedIndex
        this.durableIndex = storage.appliedIndex
        this.sizeBytes = sizeOf(this.tree)
        this.replaced = false
      },
      abort: () => {
        next = undefined
        return Promise.resolve()
      },
    }
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}

function sizeOf(tree: OrderedMap<Uint8Array>): number {
  let bytes = 0
  for (const [key, value] of tree.entries()) bytes += key.length + value.length
  return bytes
}

function* rangeOf(
  tree: OrderedMap<Uint8Array>,
  from: Uint8Array,
  to?: Uint8Array,
): Generator<[Uint8Array, Uint8Array]> {
  const end = to && toLatin1(to)
  for (const [key, value] of tree.entries(toLatin1(from))) {
    if (end !== undefined && key >= end) return
    yield [fromLatin1(key), value]
  }
}
