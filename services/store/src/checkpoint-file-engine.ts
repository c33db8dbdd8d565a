import type { Disk } from '@capstan/actor'
import {
  type EngineReplacement,
  type EngineSnapshot,
  type EngineWrite,
  MemoryStateEngine,
  snapshotChunks,
  SnapshotReceiver,
  type StateEngine,
} from '@capstan/mvcc'

const FILE = 'state/checkpoint'
const CHUNK_BYTES = 1024 * 1024

/**
 * State in memory; a checkpoint is the whole of it in one file, put in place atomically. For simulation (its only effects
 * are the `Disk` port's) and small states: a checkpoint costs as much as the state is large.
 */
export class CheckpointFileEngine implements StateEngine {
  durableIndex: number
  unsavedBytes = 0
  private saving: Promise<unknown> = Promise.resolve()
  /** A finished replacement that is not shown yet. */
  private next: MemoryStateEngine | undefined

  private constructor(
    private readonly disk: Disk,
    private memory: MemoryStateEngine,
  ) {
    this.durableIndex = memory.appliedIndex
  }

  /** @throws SnapshotDamaged if the file is not what was written. */
  static async open(disk: Disk): Promise<CheckpointFileEngine> {
    const memory = new MemoryStateEngine()
    const bytes = await disk.read(FILE)
    if (bytes) {
      const receiver = new SnapshotReceiver(memory)
      await receiver.write(bytes)
      await receiver.finish()
      receiver.show()
    }
    return new CheckpointFileEngine(disk, memory)
  }

  get appliedIndex(): number {
    return this.memory.appliedIndex
  }
  get sizeBytes(): number {
    return this.memory.sizeBytes
  }
  get(key: Uint8Array): Uint8Array | undefined {
    return this.memory.get(key)
  }
  range(from: Uint8Array, to?: Uint8Array): Iterable<[Uint8Array, Uint8Array]> {
    return this.memory.range(from, to)
  }
  count(from: Uint8Array, to?: Uint8Array): number {
    return this.memory.count(from, to)
  }
  snapshot(): EngineSnapshot {
    return this.memory.snapshot()
  }

  commit(batch: readonly EngineWrite[], appliedIndex: number): void {
    if (this.next) throw new Error('a replacement is to be shown first')
    for (const [key, value] of batch) this.unsavedBytes += key.length + (value?.length ?? 0)
    this.memory.commit(batch, appliedIndex)
  }

  async checkpoint(): Promise<number> {
    const run = this.saving.then(() => this.save())
    this.saving = run.catch(() => {})
    await run
    return this.durableIndex
  }

  replace(): EngineReplacement {
    if (this.next) throw new Error('a replacement is to be shown first')
    const next = new MemoryStateEngine()
    return {
      write: (pairs) => Promise.resolve(next.commit(pairs, 0)),
      abort: () => Promise.resolve(),
      finish: async (appliedIndex) => {
        next.commit([], appliedIndex)
        // In the row of checkpoints: none of the old state may come to lie over it.
        const run = this.saving.then(async () => {
          await this.write(next.snapshot())
          this.next = next
        })
        this.saving = run.catch(() => {})
        await run
      },
      show: () => {
        this.memory = next
        this.next = undefined
        this.durableIndex = next.appliedIndex
        this.unsavedBytes = 0
      },
    }
  }

  /** Waits for a checkpoint on its way: it must not come to lie over one of whoever opens the directory next. */
  async close(): Promise<void> {
    await this.saving
  }

  private async save(): Promise<void> {
    if (this.next || (this.memory.appliedIndex === this.durableIndex && this.unsavedBytes === 0)) return
    const snapshot = this.memory.snapshot()
    const bytes = this.unsavedBytes
    await this.write(snapshot)
    this.durableIndex = snapshot.appliedIndex
    this.unsavedBytes -= bytes
  }

  private async write(snapshot: EngineSnapshot): Promise<void> {
    const chunks = [...snapshotChunks(snapshot, CHUNK_BYTES)]
    const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
    let at = 0
    for (const chunk of chunks) {
      whole.set(chunk, at)
      at += chunk.length
    }
    await this.disk.writeAtomic(FILE, whole)
  }
}
