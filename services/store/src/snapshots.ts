import { type EngineSnapshot, snapshotChunks } from '@capstan/mvcc'
import type { SnapshotMeta } from 'raft-ts'

/** Small enough that heartbeats on the same connection do not wait long behind one. */
export const SNAPSHOT_CHUNK_BYTES = 256 * 1024

/** One snapshot on its way to one member: its bytes in order, the latest chunk kept for a repetition. */
export class OutgoingSnapshot {
  private chunks: Generator<Uint8Array>
  private offset = 0
  private last: { offset: number; data: Uint8Array; done: boolean } | undefined
  private ahead: IteratorResult<Uint8Array> | undefined

  constructor(
    readonly meta: SnapshotMeta,
    private readonly snapshot: EngineSnapshot,
    public usedMs: number,
  ) {
    this.chunks = snapshotChunks(snapshot, SNAPSHOT_CHUNK_BYTES)
  }

  /** The chunk at `offset`; asking for an earlier one starts over. Undefined: there is none at that offset. */
  chunkAt(offset: number): { offset: number; data: Uint8Array; done: boolean } | undefined {
    if (this.last?.offset === offset) return this.last
    if (offset < this.offset) {
      this.chunks = snapshotChunks(this.snapshot, SNAPSHOT_CHUNK_BYTES)
      this.offset = 0
      this.ahead = undefined
      this.last = undefined
    }
    while (this.offset <= offset) {
      const next = this.ahead ?? this.chunks.next()
      if (next.done) return undefined
      this.ahead = this.chunks.next()
      this.last = { offset: this.offset, data: next.value, done: this.ahead.done === true }
      this.offset += next.value.length
    }
    return this.last?.offset === offset ? this.last : undefined
  }

  close(): void {
    this.snapshot.close()
  }
}
