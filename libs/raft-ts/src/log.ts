import { crc32c } from './crc32c.js'
import { HEADER_BYTES, isZero, type LogRecord, MAGIC, readLength, readRecord, RecordWriter } from './record.js'
import type { HardState, LogEntry, LogIndex, PersistBatch, RaftPlantedBug, SnapshotMeta } from './types.js'

const SECTOR_BYTES = 512
const SEGMENT_BYTES = 16 * 1024 * 1024

/** What the log needs of a disk: the shape of the actor library's `Disk`. */
export interface LogDisk {
  list(dir: string): Promise<string[]>
  open(path: string, options?: { preallocateBytes?: number }): Promise<LogDiskFile>
  rename(from: string, to: string): Promise<void>
  remove(path: string): Promise<void>
  syncDir(dir: string): Promise<void>
}

export interface LogDiskFile {
  readonly sizeBytes: number
  read(offset: number, lengthBytes: number): Promise<Uint8Array>
  write(offset: number, bytes: Uint8Array): Promise<void>
  sync(): Promise<void>
  truncate(sizeBytes: number): Promise<void>
  close(): Promise<void>
}

export interface RaftLogOptions {
  /** Directory below the disk's root. Default `raft`. */
  dir?: string
  /**
   * The driver knows (from a durable note made after the first `append`) that a log was begun here: its absence is damage,
   * not a beginning.
   */
  mustExist?: boolean
  /**
   * Opens a damaged log as well: what comes before the damage is kept, the rest is removed, and that something was lost is
   * noted durably before anything is touched. The member must then be started as `forgetful`, until `repaired`.
   */
  salvage?: boolean
  /** Preallocated size of a segment. Default 16 MiB. */
  segmentBytes?: number
  /** Called after each sync with its duration, measured by the caller's clock. */
  nowMs?: () => number
  onSync?: (durationMs: number, records: number) => void
  plantedBugs?: readonly RaftPlantedBug[]
  allowPlantedBugs?: boolean
}

/** What a salvaged log lost. */
export interface LostEntries {
  /** Votes, and entries from this index on, may be missing: some may have been acknowledged. */
  fromIndex: LogIndex
  segment: string
  offset: number
  why: string
}

export interface RecoveredLog {
  /** There was no log: a new member, or one that lost its directory. Which of them, the log cannot tell. */
  empty: boolean
  hardState: HardState
  /** The last entry before the first of `entries`. */
  snapshot: SnapshotMeta | undefined
  entries: LogEntry[]
  /** Bytes of a last write that a crash had cut short; never acknowledged, now removed. */
  tornBytes: number
  /** This log was salvaged, now or before, and its member not `repaired` since: start it as `forgetful`. */
  lost: LostEntries | undefined
}

/** The log on disk is damaged in a place that had been synced: what it held may have been acknowledged. */
export class LogDamaged extends Error {
  override readonly name = 'LogDamaged'
  constructor(
    readonly segment: string,
    /** In bytes, of the first record that cannot be read. */
    readonly offset: number,
    readonly why: string,
    /** Entries from here on, and votes given after the one before it was written, may be lost. */
    readonly fromIndex: LogIndex,
  ) {
    super(
      `raft log damaged in ${segment} at byte ${offset}: ${why}; entries from ${fromIndex} on, and votes given since, may be lost`,
    )
  }
}

interface Waiter {
  batch: PersistBatch | { base: SnapshotMeta }
  resolve(): void
  reject(error: unknown): void
}

/**
 * The log on disk: segments of checksummed records, preallocated. One sync is in flight at a time, and all that came
 * while it ran share the next one (group commit). A failed write or sync is final: the log takes nothing more, since
 * nobody knows what reached the disk (the kernel may have dropped the pages).
 *
 * A batch is written only after the one before it was synced, and its last record says that it is the last. So a bad
 * record that is followed by one of a later batch lies in synced data: damage. In the last batch it is a torn tail where
 * whole sectors are missing, else damage too.
 *
 * Not promised: that the loss of the whole last batch, without a trace, is noticed; no log alone can. What waits here
 * is bounded by who appends (raft's uncommitted and in-flight limits).
 */
export class RaftLog {
  private readonly dir: string
  private readonly segmentBytes: number
  private readonly writer = new RecordWriter()
  private waiting: Waiter[] = []
  private busy = false
  private failure: unknown
  private closed = false
  private segment: { file: LogDiskFile; number: number; offset: number } | undefined
  private spare: Promise<LogDiskFile> | undefined
  private removing: Promise<void> = Promise.resolve()
  /** Segment number → last entry index in it. */
  private readonly lastIndexes = new Map<number, LogIndex>()
  private batch: number
  private hardState: HardState
  private base: SnapshotMeta | undefined
  private idle: (() => void)[] = []

  private constructor(
    private readonly disk: LogDisk,
    private readonly options: RaftLogOptions,
    state: { batch: number; hardState: HardState; base: SnapshotMeta | undefined },
  ) {
    this.dir = options.dir ?? 'raft'
    this.segmentBytes = options.segmentBytes ?? SEGMENT_BYTES
    this.batch = state.batch
    this.hardState = state.hardState
    this.base = state.base
  }

  /** Reads everything, cuts a torn tail. @throws LogDamaged, unless `salvage`; the disk's errors. */
  static async open(disk: LogDisk, options: RaftLogOptions = {}): Promise<{ log: RaftLog; recovered: RecoveredLog }> {
    const dir = options.dir ?? 'raft'
    if (options.plantedBugs?.length && !options.allowPlantedBugs)
      throw new RangeError('planted bugs are for the tests of the checkers')
    const { replay, segments: found, whole, damage } = await readSegments(disk, dir, options)
    let lost = await readLost(disk, dir)
    let segments = found
    if (damage) {
      if (!options.salvage && !lost) throw damage
      lost = await noteLost(disk, dir, damage, lost)
      segments = await cut(disk, dir, found, whole, damage)
    }
    const last = segments[segments.length - 1]
    let tornBytes = 0
    let segment: RaftLog['segment']
    if (last) {
      const file = await disk.open(segmentName(dir, last.number))
      const bytes = await file.read(last.end, file.sizeBytes - last.end)
      // What a torn write left must not be taken for records one day.
      if (!isZero(bytes, 0, bytes.length)) {
        if (!damage) tornBytes = bytes.length
        await file.write(last.end, new Uint8Array(bytes.length))
      }
      // Where only the process had died, what was read may be no more than the kernel's memory of it; and after a failed sync the
      // kernel takes that for written. So it is written once more: what is believed from here on is on the disk.
      await file.write(0, await file.read(0, last.end))
      await file.sync()
      await disk.syncDir(dir)
      segment = { file, number: last.number, offset: last.end }
    }
    // Numbers go on without a gap; a batch without its end is gone on with.
    const batch = replay.batchEnded ? replay.batch : replay.batch - 1
    const log = new RaftLog(disk, options, { batch, hardState: replay.hardState, base: replay.base })
    for (const { number, lastIndex } of segments) log.lastIndexes.set(number, lastIndex)
    log.segment = segment
    // Without the segments that told them, only memory holds these.
    if (damage && segments.length === 0 && replay.records > 0)
      await log.append({
        hardState: replay.hardState,
        entries: replay.entries,
        ...(replay.base ? { snapshot: replay.base } : {}),
      })
    return {
      log,
      recovered: {
        empty: replay.records === 0,
        hardState: replay.hardState,
        snapshot: replay.base,
        entries: replay.entries,
        tornBytes,
        lost,
      },
    }
  }

  /** The member has made up for what a salvaged log had lost, durably: it need not be `forgetful` at the next start. */
  async repaired(): Promise<void> {
    await this.disk.remove(lostName(this.dir))
    await this.disk.syncDir(this.dir)
  }

  /** Resolves when the batch is durable. In the order of the calls. @throws the disk's error; then always. */
  append(batch: PersistBatch): Promise<void> {
    return this.enqueue(batch)
  }

  /**
   * The state machine holds everything up to `base` durably: forgets what is before it, by whole segments. Resolves when
   * they are gone; appends do not wait for that. A `base` below the present one changes nothing.
   */
  async compact(base: SnapshotMeta): Promise<void> {
    await this.enqueue({ base })
    await this.removing
    if (this.failure !== undefined) throw this.failure
  }

  /** Waits for what is in work. */
  async close(): Promise<void> {
    this.closed = true
    if (this.busy) await new Promise<void>((resolve) => this.idle.push(resolve))
    await this.removing
    await this.segment?.file.close()
    await (await this.spare?.catch(() => undefined))?.close()
  }

  private enqueue(batch: Waiter['batch']): Promise<void> {
    if (this.failure !== undefined) return Promise.reject(this.failure)
    if (this.closed) return Promise.reject(new Error('the raft log is closed'))
    return new Promise((resolve, reject) => {
      this.waiting.push({ batch, resolve, reject })
      if (!this.busy) {
        this.busy = true
        void this.work()
      }
    })
  }

  private async work(): Promise<void> {
    while (this.waiting.length > 0) {
      const group = this.waiting
      this.waiting = []
      try {
        await this.write(group)
        for (const waiter of group) waiter.resolve()
      } catch (error) {
        this.failure ??= error
        for (const waiter of [...group, ...this.waiting]) waiter.reject(this.failure)
        this.waiting = []
      }
    }
    this.busy = false
    for (const resolve of this.idle.splice(0)) resolve()
  }

  private async write(group: Waiter[]): Promise<void> {
    const { writer } = this
    if (this.failure !== undefined) throw this.failure
    writer.reset()
    // Serial numbers of 32 bits: they begin again after some weeks under full load.
    this.batch = (this.batch + 1) >>> 0
    let records = 0
    let lastIndex = 0
    let compactTo: LogIndex | undefined
    const add = (record: LogRecord) => {
      writer.add(record, this.batch)
      records++
    }
    for (const { batch } of group) {
      if ('base' in batch) {
        if (batch.base.index <= (this.base?.index ?? 0)) continue
        this.base = batch.base
        compactTo = batch.base.index
        add({ type: 'base', meta: batch.base })
        continue
      }
      if (batch.snapshot) {
        this.base = batch.snapshot
        compactTo = batch.snapshot.index
        add({ type: 'base', meta: batch.snapshot })
      }
      if (batch.hardState) {
        this.hardState = batch.hardState
        add({ type: 'hardState', hardState: batch.hardState })
      }
      for (const entry of batch.entries) {
        add({ type: 'entry', entry })
        lastIndex = entry.index
      }
    }
    if (records === 0) {
      this.batch = (this.batch - 1) >>> 0
      return
    }
    writer.endBatch()
    if (!this.segment || this.segment.offset + writer.length > this.segmentBytes)
      await this.roll(this.head().length + writer.length)
    const segment = this.segment as NonNullable<typeof this.segment>
    if (segment.offset === 0) {
      const head = this.head()
      await segment.file.write(0, head)
      segment.offset = head.length
    }
    const started = this.options.nowMs?.() ?? 0
    // Not awaited before the sync: writes are carried out in order, and a failed one fails the sync's turn as well.
    const written = segment.file.write(segment.offset, writer.take())
    await Promise.all([written, segment.file.sync()])
    this.options.onSync?.((this.options.nowMs?.() ?? 0) - started, records)
    segment.offset += writer.length
    if (lastIndex > 0) this.lastIndexes.set(segment.number, lastIndex)
    else if (!this.lastIndexes.has(segment.number)) this.lastIndexes.set(segment.number, 0)
    if (!this.spare && segment.offset > this.segmentBytes / 2) {
      this.spare = this.prepare()
      this.spare.catch(() => undefined) // Whoever needs it meets the failure then.
    }
    if (compactTo !== undefined) this.removeBelow(compactTo)
  }

  private async roll(bytesWanted: number): Promise<void> {
    const former = this.segment
    const number = (former?.number ?? 0) + 1
    // Where it could not be prepared, for want of space perhaps, there may be some now.
    let file = await this.spare?.catch(() => undefined)
    // What lies beyond the preallocated end might be lost with the file's size.
    if (!file || file.sizeBytes < bytesWanted) {
      await file?.close()
      file = await this.prepare(bytesWanted)
    }
    this.spare = undefined
    await this.disk.rename(`${this.dir}/spare`, segmentName(this.dir, number))
    await this.disk.syncDir(this.dir)
    // The directory's own name must outlast a crash as well: without it everything in it would be forgotten.
    if (!former) await this.disk.syncDir(parentOf(this.dir))
    await former?.file.close()
    this.segment = { file, number, offset: 0 }
  }

  /** A segment begins with what must not be lost with the ones before it. Durable with the batch that follows. */
  private head(): Uint8Array {
    const head = new RecordWriter(1024)
    if (this.base) head.add({ type: 'base', meta: this.base }, this.batch)
    head.add({ type: 'hardState', hardState: this.hardState }, this.batch)
    return head.take()
  }

  private async prepare(bytesMin = 0): Promise<LogDiskFile> {
    await this.disk.remove(`${this.dir}/spare`)
    return this.disk.open(`${this.dir}/spare`, { preallocateBytes: Math.max(this.segmentBytes, bytesMin) })
  }

  /** Beside the appends: removing a file may take long. */
  private removeBelow(index: LogIndex): void {
    const current = this.segment?.number ?? 0
    for (const [number, lastIndex] of [...this.lastIndexes].sort(([a], [b]) => a - b)) {
      if (number >= current || lastIndex > index) return
      this.lastIndexes.delete(number)
      this.removing = this.removing.then(async () => {
        if (this.failure !== undefined) return
        try {
          await this.disk.remove(segmentName(this.dir, number))
          // One after the other, each durably: a crash must leave no gap in the numbers, which would be damage.
          await this.disk.syncDir(this.dir)
        } catch (error) {
          this.failure = error
        }
      })
    }
  }
}

const parentOf = (dir: string) => (dir.includes('/') ? dir.slice(0, dir.lastIndexOf('/')) : '.')

const segmentName = (dir: string, number: number) => `${dir}/${String(number).padStart(10, '0')}.log`

interface FoundSegment {
  number: number
  /** Where its records end. */
  end: number
  /** Last entry index in it. */
  lastIndex: LogIndex
}

/** All that can be read, up to the first damage. */
async function readSegments(
  disk: LogDisk,
  dir: string,
  options: RaftLogOptions,
): Promise<{ replay: Replay; segments: FoundSegment[]; whole: number; damage: LogDamaged | undefined }> {
  const numbers = (await disk.list(dir))
    .map((name) => /^(\d{10})\.log$/.exec(name)?.[1])
    .filter((number) => number !== undefined)
    .map(Number)
    .sort((a, b) => a - b)
  const replay = new Replay(options.plantedBugs?.includes('damage-as-torn') === true)
  const segments: FoundSegment[] = numbers.map((number) => ({ number, end: 0, lastIndex: 0 }))
  /** Segments without damage, and after it. */
  let whole = 0
  try {
    for (const [position, segment] of segments.entries()) {
      const name = segmentName(dir, segment.number)
      if (position > 0 && segment.number !== (numbers[position - 1] as number) + 1)
        throw replay.damaged(name, 0, `segment ${segment.number - 1} is missing`)
      const file = await disk.open(name)
      const bytes = await file.read(0, file.sizeBytes)
      await file.close()
      segment.end = replay.segment(bytes, name, position === segments.length - 1)
      segment.lastIndex = replay.lastIndexSeen
      whole++
    }
    // Segments are removed only below a base that a later one holds durably.
    const first = numbers[0] ?? 1
    if (first > 1 && replay.base === undefined)
      throw replay.detached(segmentName(dir, first), 'the segments before it are missing')
    replay.finish(segmentName(dir, numbers[numbers.length - 1] ?? 0))
    if (options.mustExist && replay.records === 0) throw replay.damaged(segmentName(dir, 1), 0, 'the log is missing')
  } catch (error) {
    if (!(error instanceof LogDamaged)) throw error
    const bad = segments[whole]
    if (bad && error.segment === segmentName(dir, bad.number)) {
      bad.end = error.offset
      bad.lastIndex = replay.lastIndexSeen
    }
    // What is left must hang together by itself; if it does not, all of it is worthless but base and hard state.
    try {
      replay.finish(error.segment)
      if ((numbers[0] ?? 1) > 1 && replay.base === undefined) throw replay.detached(error.segment, error.why)
    } catch (second) {
      if (!(second instanceof LogDamaged)) throw second
      replay.entries = []
      whole = -1
    }
    const fromIndex = Math.min(error.fromIndex, replay.nextIndex())
    return { replay, segments, whole, damage: new LogDamaged(error.segment, error.offset, error.why, fromIndex) }
  }
  return { replay, segments, whole, damage: undefined }
}

/** Removes what lies behind the damage: the last segment first, so that each crash leaves what can be salvaged again. */
async function cut(
  disk: LogDisk,
  dir: string,
  segments: FoundSegment[],
  whole: number,
  damage: LogDamaged,
): Promise<FoundSegment[]> {
  const damaged = segments[whole]
  // A segment whose beginning is bad has nothing to keep.
  const keep = whole < 0 ? 0 : whole + (damaged && damage.offset > 0 && damaged.end > 0 ? 1 : 0)
  for (const { number } of segments.slice(keep).reverse()) {
    await disk.remove(segmentName(dir, number))
    await disk.syncDir(dir)
  }
  return segments.slice(0, keep)
}

const lostName = (dir: string) => `${dir}/lost`

/** The note of a salvage; one that cannot be read still says that there was one. */
async function readLost(disk: LogDisk, dir: string): Promise<LostEntries | undefined> {
  if (!(await disk.list(dir)).includes('lost')) return undefined
  const file = await disk.open(lostName(dir))
  const bytes = await file.read(0, file.sizeBytes)
  await file.close()
  const text = new TextDecoder().decode(bytes)
  const crc = Number.parseInt(text.slice(0, 8), 16)
  if (crc32c(bytes.subarray(8)) === crc) return JSON.parse(text.slice(8)) as LostEntries
  return { fromIndex: 1, segment: lostName(dir), offset: 0, why: 'the note of what was lost is damaged itself' }
}

/** Durable before the damage, which is the only other witness, is removed. */
async function noteLost(
  disk: LogDisk,
  dir: string,
  damage: LogDamaged,
  before: LostEntries | undefined,
): Promise<LostEntries> {
  const { segment, offset, why } = before ?? damage
  const fromIndex = Math.min(damage.fromIndex, before?.fromIndex ?? damage.fromIndex)
  const lost: LostEntries = { fromIndex, segment, offset, why }
  const body = new TextEncoder().encode(JSON.stringify(lost))
  const bytes = new Uint8Array(8 + body.length)
  bytes.set(new TextEncoder().encode(crc32c(body).toString(16).padStart(8, '0')))
  bytes.set(body, 8)
  await disk.remove(`${lostName(dir)}.new`)
  const file = await disk.open(`${lostName(dir)}.new`)
  await file.write(0, bytes)
  await file.sync()
  await file.close()
  await disk.rename(`${lostName(dir)}.new`, lostName(dir))
  await disk.syncDir(dir)
  return lost
}

/** Puts the log together again from its records, in their order. */
class Replay {
  hardState: HardState = { term: 0, votedFor: '', commit: 0 }
  base: SnapshotMeta | undefined
  entries: LogEntry[] = []
  batch = 0
  batchEnded = true
  records = 0
  lastIndexSeen: LogIndex = 0

  constructor(private readonly damageAsTorn: boolean) {}

  /** The first index that is not here. */
  nextIndex(): LogIndex {
    return (this.entries[this.entries.length - 1]?.index ?? this.base?.index ?? 0) + 1
  }

  damaged(segment: string, offset: number, why: string): LogDamaged {
    return new LogDamaged(segment, offset, why, this.nextIndex())
  }

  /** What was read does not begin where it should. */
  detached(segment: string, why: string): LogDamaged {
    return new LogDamaged(segment, 0, why, (this.base?.index ?? 0) + 1)
  }

  /** Returns where the records end. */
  segment(bytes: Uint8Array, name: string, isLast: boolean): number {
    this.lastIndexSeen = 0
    let at = 0
    for (;;) {
      const read = readRecord(bytes, at)
      if (read.status === 'empty') return at
      if (read.status === 'bad') {
        this.judge(bytes, at, name, isLast)
        return at
      }
      if (this.records > 0 && isBefore(read.batch, this.batch))
        throw this.damaged(name, at, `batch ${read.batch} after batch ${this.batch}`)
      this.batch = read.batch
      this.batchEnded = read.endsBatch
      this.take(read.record, name, at)
      this.records++
      at = read.end
      if (at >= bytes.length) return at
    }
  }

  /** A bad record: a write that a crash cut short (returns), or damage (throws). */
  private judge(bytes: Uint8Array, at: number, name: string, isLast: boolean): void {
    if (!isLast) throw this.damaged(name, at, 'a record is bad, and later segments exist')
    if (this.damageAsTorn) return
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    // The batch that was being written.
    const writing = this.batchEnded ? (this.batch + 1) >>> 0 : this.batch
    for (let probe = at + 1; probe + HEADER_BYTES <= bytes.length; probe++) {
      if (bytes[probe] !== MAGIC >> 8 || view.getUint16(probe) !== MAGIC) continue
      const read = readRecord(bytes, probe)
      if (read.status === 'record' && isBefore(writing, read.batch))
        throw this.damaged(name, at, `a record is bad, and batch ${read.batch} was written after it`)
    }
    // A crash loses whole sectors of what was never written before; anything else has been changed afterwards.
    const end = at + HEADER_BYTES + (readLength(bytes, at) ?? 0)
    if (end <= bytes.length && !hasMissingSector(bytes, at, end))
      throw this.damaged(name, at, 'a record fails its checksum, though no part of it is missing')
  }

  /** After the last segment: the entries must begin where the base ends. */
  finish(name: string): void {
    const floor = this.base?.index ?? 0
    this.entries = this.entries.filter((entry) => entry.index > floor)
    const first = this.entries[0]
    if (first && first.index !== floor + 1)
      throw this.detached(name, `entries ${floor + 1} to ${first.index - 1} are missing`)
  }

  private take(record: LogRecord, name: string, at: number): void {
    if (record.type === 'hardState') this.hardState = record.hardState
    else if (record.type === 'base') {
      const { meta } = record
      this.base = meta
      const first = this.entries[0]
      const covered = this.entries.find((entry) => entry.index === meta.index)
      // A snapshot that the log does not lead to replaces all of it.
      if (covered ? covered.term !== meta.term : first !== undefined && first.index <= meta.index) this.entries = []
    } else {
      const { entry } = record
      this.lastIndexSeen = Math.max(this.lastIndexSeen, entry.index)
      // The first segment left may begin anywhere: what was before it lies below a base that a later record states.
      const position = entry.index - (this.entries[0]?.index ?? entry.index)
      if (position > this.entries.length)
        throw this.damaged(
          name,
          at,
          `entry ${entry.index} does not follow entry ${entry.index - position + this.entries.length - 1}`,
        )
      this.entries.length = Math.max(0, position)
      this.entries.push(entry)
    }
  }
}

/** Batch numbers are serial numbers: which is older is seen by the shorter way round. */
const isBefore = (a: number, b: number) => ((a - b) | 0) < 0

/** Is a sector, or the part of it within `[from, to)` if that is all there is, nothing but zeroes? */
function hasMissingSector(bytes: Uint8Array, from: number, to: number): boolean {
  for (let start = from; start < to; start = (Math.floor(start / SECTOR_BYTES) + 1) * SECTOR_BYTES) {
    const end = Math.min((Math.floor(start / SECTOR_BYTES) + 1) * SECTOR_BYTES, to)
    if (isZero(bytes, start, end)) return true
  }
  return false
}
