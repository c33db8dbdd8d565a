/**
 * How the state lies on the engine. First byte of the key:
 * - `k` revision (8) sub (4) → a change: flags, what they say is there, key length (4), key, value. Ordered by revision, so
 *   that it is the history that watches read. Each points to its key's previous change, and to an older one (`jump`).
 * - `i` key → the key's latest change, which may be its deletion: the index. Ordered by key
 * - `d` key → 1: that change is a deletion. So the number of living keys in a range is that of `i` less that of `d`
 * - `a` lease id (8) key → 1: the key has the lease
 * - `l` lease id (8) → ttl seconds (8) remaining seconds (8)
 * - `s` client id length (2) client id, seq (8) → log index (8) reply
 * - `m` name → single values (format, revision, compaction, cluster version, and what the owner keeps beside)
 *
 * An engine's keys are bounded. Of a key longer than `ROW_KEY_BYTES_MAX` the row's key has the first bytes and the SHA-256,
 * the row's value ends in the whole key; so those that share their first bytes (a bucket) lie together, but not in order.
 */
import { createHash } from 'node:crypto'
import { fromLatin1, getU64, type Slab, toLatin1, u64At, viewOf, writeU64 } from './bytes.js'

/** Of what lies on the engine. Raised when a program of before could not read it, or would read it wrongly. */
export const FORMAT = 2

const K = 0x6b
const L = 0x6c
const S = 0x73
const M = 0x6d
export const TAG_INDEX = 0x69
export const TAG_DELETED = 0x64
export const TAG_ATTACHED = 0x61

/** Longer ones are put into buckets. With tag, lease and hash a row's key stays below the 511 bytes of the port. */
export const ROW_KEY_BYTES_MAX = 448
const HASH_BYTES = 32

const DELETED = 1
const HAS_PREVIOUS = 2
/** Else the jump is the previous change. */
const HAS_JUMP = 4
const HAS_LEASE = 8
/** Created by this very change: no create revision, no version. */
const FRESH = 16
const LONG_KEY = 32

const POSITION_BYTES = 12
const NO_JUMPS: readonly Jump[] = []

/** Of a change in the history. A key changes at most once in a revision, so `main` alone tells its changes apart. */
export interface Position {
  readonly main: number
  readonly sub: number
}

export interface Jump extends Position {
  readonly depth: number
}

/** One change of one key. */
export interface Change extends Position {
  readonly create: number
  readonly version: number
  readonly lease: number
  readonly deleted: boolean
  /** Missing: read it from the engine. */
  value: Uint8Array | undefined
}

/**
 * A key's latest change, as the index has it. `depth` counts the changes below it, `jumps` are the ends of its jump
 * pointer, of that one's, and so on (Myers 1983, applicative random-access stacks: O(log n) of them, and as many steps to
 * any former change).
 */
export interface Latest extends Change {
  readonly depth: number
  readonly jumps: readonly Jump[]
}

/** The jumps of a change that comes after `old`. Nobody reads below the compact revision: what lies there is let go. */
export function jumpsAfter(
  old: Latest | undefined,
  compactRevision: number,
): { depth: number; jumps: readonly Jump[] } {
  if (!old) return { depth: 0, jumps: NO_JUMPS }
  const { main, sub, jumps } = old
  if (main <= compactRevision) return { depth: 1, jumps: [{ main, sub, depth: 0 }] }
  const depth = old.depth + 1
  const [first, second] = jumps
  if (first && second && old.depth - first.depth === first.depth - second.depth) return { depth, jumps: jumps.slice(1) }
  return { depth, jumps: [{ main, sub, depth: old.depth }, ...jumps] }
}

// ---------------------------------------------------------------------------------------------------------------- keys

export const FIRST_CHANGE = Uint8Array.of(K)
export const AFTER_CHANGES = Uint8Array.of(K + 1)
export const FIRST_LEASE = Uint8Array.of(L)
export const AFTER_LEASES = Uint8Array.of(L + 1)
export const FIRST_SESSION = Uint8Array.of(S)
export const AFTER_SESSIONS = Uint8Array.of(S + 1)

export function changeKey(main: number, sub: number, slab?: Slab): Uint8Array {
  const key = slab?.take(13) ?? new Uint8Array(13)
  key[0] = K
  writeU64(key, 1, main)
  writeU32(key, 9, sub)
  return key
}

export function positionOf(recordKey: Uint8Array): Position {
  return { main: u64At(recordKey, 1), sub: u32At(recordKey, 9) }
}

/** The key's row below `tag` (and `lease`). */
export function rowKey(tag: number, key: Uint8Array, slab?: Slab, lease?: number): Uint8Array {
  const at = lease === undefined ? 1 : 9
  const long = key.length > ROW_KEY_BYTES_MAX
  const length = at + (long ? ROW_KEY_BYTES_MAX + HASH_BYTES : key.length)
  const row = slab?.take(length) ?? new Uint8Array(length)
  row[0] = tag
  if (lease !== undefined) writeU64(row, 1, lease)
  if (long) {
    row.set(key.subarray(0, ROW_KEY_BYTES_MAX), at)
    row.set(createHash('sha256').update(key).digest(), at + ROW_KEY_BYTES_MAX)
  } else row.set(key, at)
  return row
}

/** Rows of keys from this one on: of a long key, its whole bucket. Nothing: from the first. */
export function firstRow(tag: number, key: Uint8Array): Uint8Array {
  const row = new Uint8Array(1 + Math.min(key.length, ROW_KEY_BYTES_MAX))
  row[0] = tag
  row.set(key.subarray(0, ROW_KEY_BYTES_MAX), 1)
  return row
}

/** No row of a key below this one comes at it or later: of a long key, its bucket lies before it. Nothing: to the end. */
export function endRow(tag: number, key: Uint8Array | undefined): Uint8Array {
  if (!key) return Uint8Array.of(tag + 1)
  const row = firstRow(tag, key)
  if (key.length <= ROW_KEY_BYTES_MAX) return row
  const end = new Uint8Array(row.length + HASH_BYTES + 1).fill(0xff)
  end.set(row)
  return end
}

/** Of a short key's row. Undefined: the row is in a bucket, its key at the end of the value. A copy. */
export function keyOfRow(row: Uint8Array, at: number): Uint8Array | undefined {
  return row.length - at > ROW_KEY_BYTES_MAX ? undefined : new Uint8Array(row.subarray(at))
}

export function bucketOfRow(row: Uint8Array, at: number): string {
  return toLatin1(row.subarray(at, at + ROW_KEY_BYTES_MAX))
}

// ------------------------------------------------------------------------------------------------------------- changes

/** `value` is where it came to lie in the record. */
export function encodeChange(
  key: Uint8Array,
  change: Change,
  value: Uint8Array,
  previous: Position | undefined,
  jump: Position | undefined,
  slab: Slab,
): { record: Uint8Array; value: Uint8Array } {
  const fresh = change.version === 1 && change.create === change.main
  const jumps = jump !== undefined && jump.main !== previous?.main
  const length =
    5 +
    (change.deleted || fresh ? 0 : 16) +
    (change.lease === 0 ? 0 : 8) +
    (previous ? POSITION_BYTES : 0) +
    (jumps ? POSITION_BYTES : 0)
  const bytes = slab.take(length + key.length + value.length)
  bytes[0] =
    (change.deleted ? DELETED : 0) |
    (fresh ? FRESH : 0) |
    (change.lease === 0 ? 0 : HAS_LEASE) |
    (previous ? HAS_PREVIOUS : 0) |
    (jumps ? HAS_JUMP : 0)
  let at = 1
  if (!change.deleted && !fresh) {
    writeU64(bytes, at, change.create)
    writeU64(bytes, at + 8, change.version)
    at += 16
  }
  if (change.lease !== 0) {
    writeU64(bytes, at, change.lease)
    at += 8
  }
  if (previous) {
    writePosition(bytes, at, previous)
    at += POSITION_BYTES
  }
  if (jumps) {
    writePosition(bytes, at, jump)
    at += POSITION_BYTES
  }
  writeU32(bytes, at, key.length)
  at += 4
  bytes.set(key, at)
  at += key.length
  bytes.set(value, at)
  return { record: bytes, value: bytes.subarray(at) }
}

/** A change read from the engine. What is not asked for is not made: engines may use the memory again, so take it at once. */
export class ChangeRecord {
  private readonly keyAt: number
  private readonly keyBytes: number

  constructor(
    readonly main: number,
    readonly sub: number,
    private readonly bytes: Uint8Array,
  ) {
    this.keyAt = 5 + this.fieldsBytes(DELETED)
    this.keyBytes = u32At(bytes, this.keyAt - 4)
  }

  /** Bytes of the fields before the one with this flag; of `DELETED`: of all. */
  private fieldsBytes(before: number): number {
    const flags = this.bytes[0] as number
    let bytes = (flags & (DELETED | FRESH)) === 0 ? 16 : 0
    if (before === HAS_LEASE) return bytes
    if (flags & HAS_LEASE) bytes += 8
    if (before === HAS_PREVIOUS) return bytes
    if (flags & HAS_PREVIOUS) bytes += POSITION_BYTES
    if (before === HAS_JUMP) return bytes
    return flags & HAS_JUMP ? bytes + POSITION_BYTES : bytes
  }

  get deleted(): boolean {
    return ((this.bytes[0] as number) & DELETED) !== 0
  }
  get key(): Uint8Array {
    return new Uint8Array(this.bytes.subarray(this.keyAt, this.keyAt + this.keyBytes))
  }
  /** See `toLatin1`. */
  get name(): string {
    return toLatin1(this.bytes.subarray(this.keyAt, this.keyAt + this.keyBytes))
  }
  get value(): Uint8Array {
    return new Uint8Array(this.bytes.subarray(this.keyAt + this.keyBytes))
  }
  get previous(): Position | undefined {
    const flags = this.bytes[0] as number
    return flags & HAS_PREVIOUS ? positionAt(this.bytes, 1 + this.fieldsBytes(HAS_PREVIOUS)) : undefined
  }
  get jump(): Position | undefined {
    const flags = this.bytes[0] as number
    return flags & HAS_JUMP ? positionAt(this.bytes, 1 + this.fieldsBytes(HAS_JUMP)) : this.previous
  }
  /** Length of the key, key, value. */
  get content(): Uint8Array {
    return this.bytes.subarray(this.keyAt - 4)
  }
  /** With its value only if asked. */
  change(withValue: boolean): Change {
    const { main, sub, bytes, deleted } = this
    const flags = bytes[0] as number
    const long = (flags & (DELETED | FRESH)) === 0
    return {
      main,
      sub,
      create: long ? u64At(bytes, 1) : deleted ? 0 : main,
      version: long ? u64At(bytes, 9) : deleted ? 0 : 1,
      lease: flags & HAS_LEASE ? u64At(bytes, 1 + this.fieldsBytes(HAS_LEASE)) : 0,
      deleted,
      value: withValue ? this.value : undefined,
    }
  }
}

// --------------------------------------------------------------------------------------------------------------- index

/** A row of the index. */
export function encodeLatest(key: Uint8Array, latest: Latest, slab: Slab): Uint8Array {
  const { main, sub, create, version, lease, deleted, depth, jumps } = latest
  const fresh = version === 1 && create === main
  const long = key.length > ROW_KEY_BYTES_MAX
  const bytes = slab.take(
    14 +
      (deleted || fresh ? 0 : 16) +
      (lease === 0 ? 0 : 8) +
      (jumps.length === 0 ? 0 : 8 + jumps.length * (POSITION_BYTES + 8)) +
      (long ? key.length : 0),
  )
  bytes[0] = (deleted ? DELETED : 0) | (fresh ? FRESH : 0) | (lease === 0 ? 0 : HAS_LEASE) | (long ? LONG_KEY : 0)
  writeU64(bytes, 1, main)
  writeU32(bytes, 9, sub)
  bytes[13] = jumps.length
  let at = 14
  if (!deleted && !fresh) {
    writeU64(bytes, at, create)
    writeU64(bytes, at + 8, version)
    at += 16
  }
  if (lease !== 0) {
    writeU64(bytes, at, lease)
    at += 8
  }
  if (jumps.length > 0) {
    writeU64(bytes, at, depth)
    at += 8
    for (const jump of jumps) {
      writePosition(bytes, at, jump)
      writeU64(bytes, at + POSITION_BYTES, jump.depth)
      at += POSITION_BYTES + 8
    }
  }
  if (long) bytes.set(key, at)
  return bytes
}

export function rowIsDeleted(row: Uint8Array): boolean {
  return ((row[0] as number) & DELETED) !== 0
}

export function decodeLatest(row: Uint8Array): Latest {
  const flags = row[0] as number
  const main = u64At(row, 1)
  const deleted = (flags & DELETED) !== 0
  let create = deleted ? 0 : main
  let version = deleted ? 0 : 1
  let lease = 0
  let depth = 0
  let jumps: Jump[] | undefined
  let at = 14
  if ((flags & (DELETED | FRESH)) === 0) {
    create = u64At(row, at)
    version = u64At(row, at + 8)
    at += 16
  }
  if (flags & HAS_LEASE) {
    lease = u64At(row, at)
    at += 8
  }
  const count = row[13] as number
  if (count > 0) {
    depth = u64At(row, at)
    at += 8
    jumps = []
    for (let i = 0; i < count; i++, at += POSITION_BYTES + 8)
      jumps.push({ main: u64At(row, at), sub: u32At(row, at + 8), depth: u64At(row, at + POSITION_BYTES) })
  }
  const sub = u32At(row, 9)
  return { main, sub, create, version, lease, deleted, value: undefined, depth, jumps: jumps ?? NO_JUMPS }
}

/** The key at the end of a row in a bucket. */
export function keyInLatest(row: Uint8Array): Uint8Array {
  const flags = row[0] as number
  const count = row[13] as number
  const at =
    14 +
    ((flags & (DELETED | FRESH)) === 0 ? 16 : 0) +
    (flags & HAS_LEASE ? 8 : 0) +
    (count === 0 ? 0 : 8 + count * (POSITION_BYTES + 8))
  return new Uint8Array(row.subarray(at))
}

// ---------------------------------------------------------------------------------------------------- leases, sessions

const YES = Uint8Array.of(1)

/** What stands beside a `d` or `a` row's key: of a long key, the key. */
export function markOf(key: Uint8Array): Uint8Array {
  return key.length > ROW_KEY_BYTES_MAX ? key : YES
}

export function leaseKey(id: number): Uint8Array {
  const key = new Uint8Array(9)
  key[0] = L
  writeU64(key, 1, id)
  return key
}

/** Where the keys of a lease lie: from `attachedFrom(id)` up to `attachedFrom(id + 1)`. */
export function attachedFrom(id: number): Uint8Array {
  const key = new Uint8Array(9)
  key[0] = TAG_ATTACHED
  writeU64(key, 1, id)
  return key
}

export function encodeLease(ttlSeconds: number, remainingSeconds: number): Uint8Array {
  const bytes = new Uint8Array(16)
  writeU64(bytes, 0, ttlSeconds)
  writeU64(bytes, 8, remainingSeconds)
  return bytes
}

export function decodeLease(key: Uint8Array, bytes: Uint8Array) {
  return { id: u64At(key, 1), ttlSeconds: u64At(bytes, 0), remainingSeconds: u64At(bytes, 8) }
}

/** `clientId` as code units 0 to 255 (see `clientKeyOf`). */
export function sessionKey(clientId: string, seq: number): Uint8Array {
  const key = new Uint8Array(11 + clientId.length)
  key[0] = S
  viewOf(key).setUint16(1, clientId.length)
  key.set(fromLatin1(clientId), 3)
  writeU64(key, 3 + clientId.length, seq)
  return key
}

export function encodeSessionReply(index: number, reply: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(8 + reply.length)
  writeU64(bytes, 0, index)
  bytes.set(reply, 8)
  return bytes
}

export function decodeSession(key: Uint8Array, bytes: Uint8Array) {
  const view = viewOf(key)
  const length = view.getUint16(1)
  return {
    clientId: toLatin1(key.subarray(3, 3 + length)),
    seq: getU64(view, 3 + length),
    index: u64At(bytes, 0),
    reply: new Uint8Array(bytes.subarray(8)),
  }
}

export function metaKey(name: string): Uint8Array {
  const key = new Uint8Array(1 + name.length)
  key[0] = M
  key.set(fromLatin1(name), 1)
  return key
}

function writePosition(bytes: Uint8Array, at: number, { main, sub }: Position): void {
  writeU64(bytes, at, main)
  writeU32(bytes, at + 8, sub)
}

function positionAt(bytes: Uint8Array, at: number): Position {
  return { main: u64At(bytes, at), sub: u32At(bytes, at + 8) }
}

function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24
  bytes[at + 1] = value >>> 16
  bytes[at + 2] = value >>> 8
  bytes[at + 3] = value
}

function u32At(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] as number) * 0x100_0000 +
    (((bytes[at + 1] as number) << 16) | ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number))
  )
}
