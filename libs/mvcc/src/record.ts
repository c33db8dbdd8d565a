/**
 * How the state lies on the engine. First byte of the key:
 * - `k` revision (8) sub (4) → a change: flags (1: deletion) create (8) version (8) lease (8) keyLength (4) key value.
 *   Ordered by revision, so that it is the history that watches read; the index by key is in memory.
 * - `l` lease id (8) → ttl seconds (8) remaining seconds (8)
 * - `s` client id length (2) client id, seq (8) → log index (8) reply
 * - `m` name → single values (revision, compaction, cluster version, and what the owner keeps beside)
 */
import { fromLatin1, getU64, putU64, toLatin1, viewOf } from './bytes.js'

const K = 0x6b
const L = 0x6c
const S = 0x73
const M = 0x6d
const HEADER_BYTES = 29

/** One change of one key, as the index holds it. */
export interface Change {
  readonly main: number
  readonly sub: number
  readonly create: number
  readonly version: number
  readonly lease: number
  readonly deleted: boolean
  /** Present while it is not on the engine yet, and for recent ones as a cache. */
  value: Uint8Array | undefined
}

export const FIRST_CHANGE = Uint8Array.of(K)
export const AFTER_CHANGES = Uint8Array.of(K + 1)
export const FIRST_LEASE = Uint8Array.of(L)
export const AFTER_LEASES = Uint8Array.of(L + 1)
export const FIRST_SESSION = Uint8Array.of(S)
export const AFTER_SESSIONS = Uint8Array.of(S + 1)

export function changeKey(main: number, sub: number): Uint8Array {
  const key = new Uint8Array(13)
  key[0] = K
  const view = viewOf(key)
  putU64(view, 1, main)
  view.setUint32(9, sub)
  return key
}

export function encodeChange(key: string, change: Change, value: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + key.length + value.length)
  const view = viewOf(bytes)
  bytes[0] = change.deleted ? 1 : 0
  putU64(view, 1, change.create)
  putU64(view, 9, change.version)
  putU64(view, 17, change.lease)
  view.setUint32(25, key.length)
  for (let at = 0; at < key.length; at++) bytes[HEADER_BYTES + at] = key.charCodeAt(at)
  bytes.set(value, HEADER_BYTES + key.length)
  return bytes
}

export function decodeChange(recordKey: Uint8Array, bytes: Uint8Array): { key: string; change: Change } {
  const at = viewOf(recordKey)
  const view = viewOf(bytes)
  return {
    key: toLatin1(bytes.subarray(HEADER_BYTES, HEADER_BYTES + view.getUint32(25))),
    change: {
      main: getU64(at, 1),
      sub: at.getUint32(9),
      create: getU64(view, 1),
      version: getU64(view, 9),
      lease: getU64(view, 17),
      deleted: bytes[0] === 1,
      value: undefined,
    },
  }
}

/** A copy: engines may hand out memory that they use again. */
export function valueOfRecord(bytes: Uint8Array): Uint8Array {
  return Uint8Array.prototype.slice.call(bytes, HEADER_BYTES + viewOf(bytes).getUint32(25))
}

export function leaseKey(id: number): Uint8Array {
  const key = new Uint8Array(9)
  key[0] = L
  putU64(viewOf(key), 1, id)
  return key
}

export function encodeLease(ttlSeconds: number, remainingSeconds: number): Uint8Array {
  const bytes = new Uint8Array(16)
  putU64(viewOf(bytes), 0, ttlSeconds)
  putU64(viewOf(bytes), 8, remainingSeconds)
  return bytes
}

export function decodeLease(key: Uint8Array, bytes: Uint8Array) {
  const view = viewOf(bytes)
  return { id: getU64(viewOf(key), 1), ttlSeconds: getU64(view, 0), remainingSeconds: getU64(view, 8) }
}

/** `clientId` as code units 0 to 255 (see `clientKeyOf`). */
export function sessionKey(clientId: string, seq: number): Uint8Array {
  const key = new Uint8Array(11 + clientId.length)
  const view = viewOf(key)
  key[0] = S
  view.setUint16(1, clientId.length)
  key.set(fromLatin1(clientId), 3)
  putU64(view, 3 + clientId.length, seq)
  return key
}

export function encodeSessionReply(index: number, reply: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(8 + reply.length)
  putU64(viewOf(bytes), 0, index)
  bytes.set(reply, 8)
  return bytes
}

export function decodeSession(key: Uint8Array, bytes: Uint8Array) {
  const view = viewOf(key)
  const length = view.getUint16(1)
  return {
    clientId: toLatin1(key.subarray(3, 3 + length)),
    seq: getU64(view, 3 + length),
    index: getU64(viewOf(bytes), 0),
    reply: Uint8Array.prototype.slice.call(bytes, 8) as Uint8Array,
  }
}

export function metaKey(name: string): Uint8Array {
  const key = new Uint8Array(1 + name.length)
  key[0] = M
  key.set(fromLatin1(name), 1)
  return key
}
