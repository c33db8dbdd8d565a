import { decode, encode } from '@capstan/actor'
import { type EngineSnapshot, type Mvcc, snapshotChunks } from '@capstan/mvcc'
import { decodeConfiguration, type RecoveredLog, type SnapshotMeta } from 'raft-ts'
import { StateUnusable } from './repair.js'

/** Small enough that heartbeats on the same connection do not wait long behind one. */
const SNAPSHOT_CHUNK_BYTES = 256 * 1024

/**
 * The state may be of a snapshot that the log does not lead to, as the crash came before raft's word of it was durable. Then
 * what the log holds is of another history, and this is to be its base. Undefined: state and log fit.
 * @throws StateUnusable: part of the directory is missing
 */
export function snapshotBeyondLog(mvcc: Mvcc, { entries }: RecoveredLog, base: SnapshotMeta): SnapshotMeta | undefined {
  const { appliedIndex } = mvcc
  if (appliedIndex < base.index)
    throw new StateUnusable(
      `the state ends at entry ${appliedIndex}, the log begins after ${base.index}: part of the directory is missing`,
    )
  if (appliedIndex === 0) return undefined
  const [index, term] = decode(mvcc.extra('raft') ?? encode([0, 0])) as [number, number]
  if (index !== appliedIndex) throw new StateUnusable(`the state says that it ends at ${index} and at ${appliedIndex}`)
  const termInLog = index === base.index ? base.term : entries.find((entry) => entry.index === index)?.term
  if (termInLog === term) return undefined
  const members = mvcc.extra('members')
  return { index, term, configuration: members ? decodeConfiguration(members) : base.configuration }
}

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
    private readonly chunkBytes = SNAPSHOT_CHUNK_BYTES,
  ) {
    this.chunks = snapshotChunks(snapshot, chunkBytes)
  }

  /** The chunk at `offset`; asking for an earlier one starts over. Undefined: there is none at that offset. */
  chunkAt(offset: number): { offset: number; data: Uint8Array; done: boolean } | undefined {
    if (this.last?.offset === offset) return this.last
    if (offset < this.offset) {
      this.chunks.return(undefined)
      this.chunks = snapshotChunks(this.snapshot, this.chunkBytes)
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
    // It may be half-way: what it reads with holds on to the snapshot.
    this.chunks.return(undefined)
    this.snapshot.close()
  }
}
