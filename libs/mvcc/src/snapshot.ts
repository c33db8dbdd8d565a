import { createHash } from 'node:crypto'
import { getU64, putU64, viewOf } from './bytes.js'
import type { EngineReplacement, EngineSnapshot, StateEngine } from './state-engine.js'

/**
 * A snapshot as a stream of bytes: `CMV2`, applied index (8), then pairs of lengths (4 + 4), key and value in rising
 * order, then the length 0xffffffff and the SHA-256 of all that came before it. Cut into chunks anywhere.
 */
const MAGIC = Uint8Array.of(0x43, 0x4d, 0x56, 0x32)
const HEADER_BYTES = 12
const END = 0xffff_ffff
const HASH_BYTES = 32
const PAIR_BYTES_MAX = 64 * 1024 * 1024

/** The snapshot in chunks of exactly `chunkBytes` (the last one less). Lazy: reads as it is asked. */
export function* snapshotChunks(snapshot: EngineSnapshot, chunkBytes: number): Generator<Uint8Array> {
  const hash = createHash('sha256')
  let chunk = new Uint8Array(chunkBytes)
  let used = 0
  let whole = false
  const full: Uint8Array[] = []
  // What is full is given away between two pairs: a generator in a generator would cost more than the copying.
  const emit = (bytes: Uint8Array) => {
    for (let at = 0; at < bytes.length; ) {
      const count = Math.min(bytes.length - at, chunkBytes - used)
      chunk.set(count === bytes.length ? bytes : bytes.subarray(at, at + count), used)
      used += count
      at += count
      if (used < chunkBytes) continue
      if (!whole) hash.update(chunk)
      full.push(chunk)
      chunk = new Uint8Array(chunkBytes)
      used = 0
    }
  }

  const header = new Uint8Array(HEADER_BYTES)
  header.set(MAGIC)
  putU64(viewOf(header), 4, snapshot.appliedIndex)
  emit(header)
  const lengths = new Uint8Array(8)
  const lengthsView = viewOf(lengths)
  for (const [key, value] of snapshot.range(new Uint8Array(0))) {
    lengthsView.setUint32(0, key.length)
    lengthsView.setUint32(4, value.length)
    emit(lengths)
    emit(key)
    emit(value)
    if (full.length > 0) yield* full.splice(0)
  }
  const end = new Uint8Array(4)
  viewOf(end).setUint32(0, END)
  emit(end)
  hash.update(chunk.subarray(0, used))
  whole = true
  emit(hash.digest())
  yield* full
  if (used > 0) yield chunk.subarray(0, used)
}

export class SnapshotDamaged extends Error {
  override readonly name = 'SnapshotDamaged'
}

/** Takes the chunks of `snapshotChunks` in order and puts them into an engine. After a throw call `abort`. */
export class SnapshotReceiver {
  private readonly replacement: EngineReplacement
  private readonly hash = createHash('sha256')
  private rest: Uint8Array = new Uint8Array(0)
  private state: 'header' | 'pairs' | 'digest' | 'complete' = 'header'
  private index = 0

  constructor(engine: Pick<StateEngine, 'replace'>) {
    this.replacement = engine.replace()
  }

  /** @throws SnapshotDamaged */
  async write(chunk: Uint8Array): Promise<void> {
    const bytes = new Uint8Array(this.rest.length + chunk.length)
    bytes.set(this.rest)
    bytes.set(chunk, this.rest.length)
    const view = viewOf(bytes)
    const pairs: [Uint8Array, Uint8Array][] = []
    let at = 0
    const left = () => bytes.length - at
    if (this.state === 'header' && left() >= HEADER_BYTES) {
      if (!MAGIC.every((byte, i) => bytes[i] === byte)) throw new SnapshotDamaged('not a snapshot: wrong first bytes')
      this.index = getU64(view, 4)
      at = HEADER_BYTES
      this.state = 'pairs'
    }
    while (this.state === 'pairs' && left() >= 4) {
      const keyBytes = view.getUint32(at)
      if (keyBytes === END) {
        at += 4
        this.state = 'digest'
        break
      }
      if (left() < 8) break
      const valueBytes = view.getUint32(at + 4)
      if (keyBytes + valueBytes > PAIR_BYTES_MAX) throw new SnapshotDamaged(`a pair of ${keyBytes + valueBytes} bytes`)
      if (left() < 8 + keyBytes + valueBytes) break
      const keyAt = at + 8
      pairs.push([bytes.slice(keyAt, keyAt + keyBytes), bytes.slice(keyAt + keyBytes, keyAt + keyBytes + valueBytes)])
      at = keyAt + keyBytes + valueBytes
    }
    this.hash.update(bytes.subarray(0, at))
    if (this.state === 'digest' && left() >= HASH_BYTES) {
      const digest = this.hash.digest()
      if (digest.compare(bytes, at, at + HASH_BYTES) !== 0) throw new SnapshotDamaged('checksum does not fit')
      at += HASH_BYTES
      this.state = 'complete'
    }
    if (this.state === 'complete' && left() > 0) throw new SnapshotDamaged('bytes after the end')
    this.rest = bytes.slice(at)
    if (pairs.length > 0) await this.replacement.write(pairs)
  }

  /** Puts it in the place of the old state, durably; resolves with its applied index. Then call `show`.
   *  @throws SnapshotDamaged if it is not complete */
  async finish(): Promise<number> {
    if (this.state !== 'complete') throw new SnapshotDamaged('ends too early')
    await this.replacement.finish(this.index)
    return this.index
  }

  /** From now on the engine shows it. Then call `Mvcc.reload`, in the same turn. */
  show(): void {
    this.replacement.show()
  }

  abort(): Promise<void> {
    return this.replacement.abort()
  }
}
