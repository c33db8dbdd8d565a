import { type ByteSpan, compareBytes, fromLatin1, Slab, toLatin1 } from './bytes.js'
import {
  bucketOfRow,
  type Change,
  ChangeRecord,
  changeKey,
  decodeLatest,
  encodeChange,
  encodeLatest,
  endRow,
  firstRow,
  jumpsAfter,
  keyInLatest,
  keyOfRow,
  type Latest,
  markOf,
  type Position,
  ROW_KEY_BYTES_MAX,
  rowKey,
  TAG_ATTACHED,
  TAG_DELETED,
  TAG_INDEX,
} from './record.js'
import type { ChainHash } from './chain-hash.js'
import type { EngineWrite, StateEngine } from './state-engine.js'

/** What an entry of the cache takes besides key and value, about. */
const CACHED_BYTES = 200
/** A larger value is not worth what it drives out. */
const CACHED_VALUE_BYTES_MAX = 64 * 1024

/**
 * From each key to its changes. It lies on the engine, and nothing of it is read at the start; the latest changes of the
 * keys last used are in memory, too, up to a bound.
 *
 * What an entry changes is written into `writes`, which the owner commits. Before that, lookups of a single key see it; scans
 * see it only of the entry that is being applied, so they first have the owner commit the entries before (`settle`).
 */
export class KeyIndex {
  /** Keys that are not deleted. */
  liveKeys = 0
  /** For planted bugs: what is missing ends a search, instead of the process. */
  lenient = false
  /** Not committed yet, so not to be found on the engine. */
  private readonly staged = new Map<string, Latest>()
  /** Changed by the entry that is being applied. */
  private readonly inEntry: string[] = []
  /** Two generations: what was used since the younger one began moves into it; the older one is dropped as a whole. */
  private young = new Map<string, Latest>()
  private old = new Map<string, Latest>()
  private youngBytes = 0
  private readonly slab = new Slab()

  constructor(
    private readonly engine: Pick<StateEngine, 'get' | 'range' | 'count'>,
    private readonly cacheBytesMax: number,
    private readonly settle: () => void,
    private readonly chain?: ChainHash,
  ) {}

  clear(): void {
    this.staged.clear()
    this.inEntry.length = 0
    this.young = new Map()
    this.old = new Map()
    this.youngBytes = 0
  }

  // ------------------------------------------------------------------------------------------------------------ changes

  /** The key's latest change, its deletion as well. `name`: the key as text (see `toLatin1`). */
  latest(name: string, key: Uint8Array): Latest | undefined {
    const known = this.staged.get(name) ?? this.young.get(name)
    if (known) return known
    const former = this.old.get(name)
    if (former) {
      // Cut free from what it was allocated with, which the others of its time held alive.
      if (former.value && former.value.buffer.byteLength > 2 * former.value.length)
        former.value = new Uint8Array(former.value)
      this.cache(name, former)
      return former
    }
    const row = this.engine.get(rowKey(TAG_INDEX, key))
    if (!row) return undefined
    const latest = decodeLatest(row)
    this.cache(name, latest)
    return latest
  }

  /** Writes a change down. `old`: what `latest` said. */
  record(
    name: string,
    key: Uint8Array,
    old: Latest | undefined,
    change: Omit<Change, 'value'>,
    value: Uint8Array,
    compactRevision: number,
    writes: EngineWrite[],
  ): Latest {
    const { slab } = this
    const { depth, jumps } = jumpsAfter(old, compactRevision)
    const { main, sub, create, version, lease, deleted } = change
    const latest: Latest = { main, sub, create, version, lease, deleted, value, depth, jumps }
    const encoded = encodeChange(key, latest, value, old, jumps[0], slab)
    latest.value = encoded.value
    if (this.chain) hashChange(this.chain, latest, encoded.record, key.length)
    writes.push([changeKey(main, sub, slab), encoded.record])
    writes.push([rowKey(TAG_INDEX, key, slab), encodeLatest(key, latest, slab)])
    const lives = old !== undefined && !old.deleted
    if (deleted) {
      if (lives) this.liveKeys--
      writes.push([rowKey(TAG_DELETED, key, slab), markOf(key)])
    } else if (!lives) {
      this.liveKeys++
      if (old) writes.push([rowKey(TAG_DELETED, key, slab), undefined])
    }
    const before = old && !old.deleted ? old.lease : 0
    if (before !== lease) {
      if (before !== 0) writes.push([rowKey(TAG_ATTACHED, key, slab, before), undefined])
      if (lease !== 0) writes.push([rowKey(TAG_ATTACHED, key, slab, lease), markOf(key)])
    }
    this.staged.set(name, latest)
    this.inEntry.push(name)
    return latest
  }

  endEntry(): void {
    this.inEntry.length = 0
  }

  /** All that was recorded is on the engine now. */
  committed(): void {
    for (const [name, latest] of this.staged) this.cache(name, latest)
    this.staged.clear()
  }

  /** The sweep removed the key's last trace. */
  forget(key: Uint8Array, writes: EngineWrite[]): void {
    const name = toLatin1(key)
    this.young.delete(name)
    this.old.delete(name)
    writes.push([rowKey(TAG_INDEX, key), undefined], [rowKey(TAG_DELETED, key), undefined])
  }

  private cache(name: string, latest: Latest): void {
    const value = latest.value?.length ?? 0
    if (value > CACHED_VALUE_BYTES_MAX) latest.value = undefined
    this.young.set(name, latest)
    this.youngBytes += CACHED_BYTES + name.length + value
    if (this.youngBytes < this.cacheBytesMax / 2) return
    this.old = this.young
    this.young = new Map()
    this.youngBytes = 0
  }

  // -------------------------------------------------------------------------------------------------------------- reads

  /** The key's state as of a revision that is not compacted; 0: the latest. Undefined: it does not exist there. */
  at(name: string, key: Uint8Array, revision: number): Change | undefined {
    let latest: Latest | undefined
    if (revision === 0) latest = this.latest(name, key)
    else {
      this.settle()
      // What the entry at work does comes after any revision that can be asked for.
      if (this.inEntry.includes(name)) {
        const row = this.engine.get(rowKey(TAG_INDEX, key))
        latest = row && decodeLatest(row)
      } else latest = this.latest(name, key)
    }
    const change = latest && revision !== 0 ? this.asOf(latest, revision) : latest
    return change?.deleted ? undefined : change
  }

  /** Keys in the span with their state as of `revision` (0: the latest), ascending. Not to be used across a commit. */
  *scan(span: ByteSpan, revision: number): Generator<[key: Uint8Array, change: Change]> {
    if (span.single) {
      const change = this.at(toLatin1(span.from), span.from, revision)
      if (change) yield [span.from, change]
      return
    }
    this.settle()
    const over = revision === 0 ? this.inEntryWithin(span) : []
    let next = 0
    for (const [key, row] of this.rows(span)) {
      if (next < over.length) {
        const name = toLatin1(key)
        for (; next < over.length && (over[next] as string) < name; next++) yield* this.staging(over[next] as string)
        if (over[next] === name) {
          yield* this.staging(name)
          next++
          continue
        }
      }
      const latest = decodeLatest(row)
      const change = revision === 0 ? latest : this.asOf(latest, revision)
      if (change && !change.deleted) yield [key, change]
    }
    for (; next < over.length; next++) yield* this.staging(over[next] as string)
  }

  /** Living keys in the span, at the latest. */
  count(span: ByteSpan): number {
    if (span.single) return this.at(toLatin1(span.from), span.from, 0) ? 1 : 0
    const { from, to } = span
    const long = from.length > ROW_KEY_BYTES_MAX || (to !== undefined && to.length > ROW_KEY_BYTES_MAX)
    if (long || this.inEntry.length > 0) {
      let count = 0
      for (const _ of this.scan(span, 0)) count++
      return count
    }
    if (to === undefined && compareBytes(from, Uint8Array.of(0)) <= 0) return this.liveKeys
    if (to !== undefined && compareBytes(from, to) >= 0) return 0
    this.settle()
    const within = (tag: number) => this.engine.count(firstRow(tag, from), endRow(tag, to))
    return within(TAG_INDEX) - within(TAG_DELETED)
  }

  /** `keep`: one looked up by itself, so that it is in the cache: from now on with its value. */
  valueOf(change: Change, keep: boolean): Uint8Array {
    if (change.value) return change.value
    const { value } = this.read(change)
    if (keep && value.length <= CACHED_VALUE_BYTES_MAX) {
      change.value = value
      this.youngBytes += value.length
    }
    return value
  }

  private asOf(latest: Latest, revision: number): Change | undefined {
    if (latest.main <= revision) return latest
    // Invariant: `newer` is after the revision, so it is not compacted, and its record is there.
    const jump = latest.jumps[0]
    let newer: Position = jump && jump.main > revision ? jump : latest
    for (;;) {
      if (this.lenient && !this.engine.get(changeKey(newer.main, newer.sub))) return undefined
      const { previous, jump } = this.read(newer)
      if (!previous) return undefined
      if (previous.main <= revision) {
        const bytes = this.engine.get(changeKey(previous.main, previous.sub))
        // A deletion may be swept already.
        return bytes && new ChangeRecord(previous.main, previous.sub, bytes).change(false)
      }
      const older: Position = jump && jump.main > revision ? jump : previous
      // A damaged chain must end the member, not hold it up for ever.
      if (older.main > newer.main || (older.main === newer.main && older.sub >= newer.sub))
        throw new Error(`change ${newer.main}.${newer.sub} names ${older.main}.${older.sub} as one before it`)
      newer = older
    }
  }

  private read({ main, sub }: Position): ChangeRecord {
    const bytes = this.engine.get(changeKey(main, sub))
    if (!bytes) throw new Error(`change ${main}.${sub} is in the index but not on the engine`)
    return new ChangeRecord(main, sub, bytes)
  }

  /** Rows of the index in the order of their keys. */
  private *rows({ from, to }: ByteSpan): Generator<[key: Uint8Array, row: Uint8Array]> {
    if (to !== undefined && compareBytes(from, to) >= 0) return
    const inside = (key: Uint8Array) => compareBytes(key, from) >= 0 && (to === undefined || compareBytes(key, to) < 0)
    const fromIsLong = from.length > ROW_KEY_BYTES_MAX
    let bucket: [key: Uint8Array, row: Uint8Array][] = []
    let bucketName = ''
    for (const [rowKey, row] of this.engine.range(firstRow(TAG_INDEX, from), endRow(TAG_INDEX, to))) {
      const key = keyOfRow(rowKey, 1)
      if (bucket.length > 0 && (key || bucketOfRow(rowKey, 1) !== bucketName)) {
        yield* inOrder(bucket)
        bucket = []
      }
      if (!key) {
        const long = keyInLatest(row)
        bucketName = bucketOfRow(rowKey, 1)
        if (inside(long)) bucket.push([long, new Uint8Array(row)])
      } else if (!fromIsLong || inside(key)) yield [key, row]
    }
    yield* inOrder(bucket)
  }

  private inEntryWithin({ from, to }: ByteSpan): string[] {
    if (this.inEntry.length === 0) return []
    const first = toLatin1(from)
    const end = to && toLatin1(to)
    return this.inEntry.filter((name) => name >= first && (end === undefined || name < end)).sort()
  }

  private *staging(name: string): Generator<[Uint8Array, Change]> {
    const latest = this.staged.get(name) as Latest
    if (!latest.deleted) yield [fromLatin1(name), latest]
  }
}

/** What of a change is the same on every member: not where its former changes lie, which may be swept. */
function hashChange(chain: ChainHash, change: Latest, record: Uint8Array, keyBytes: number): void {
  chain.number(change.main)
  chain.number(change.create)
  chain.number(change.version)
  chain.number(change.lease * 2 + (change.deleted ? 1 : 0))
  // Length of the key, key, value: the end of the record.
  chain.bytes(record, record.length - (change.value as Uint8Array).length - keyBytes - 4)
}

function inOrder(bucket: [Uint8Array, Uint8Array][]): [Uint8Array, Uint8Array][] {
  return bucket.sort((a, b) => compareBytes(a[0], b[0]))
}
