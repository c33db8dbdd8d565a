import { createHash } from 'node:crypto'
import { type Clock, decode, encode, type OutStream } from '@capstan/actor'
import { type EngineSnapshot, snapshotChunks, SnapshotDamaged, SnapshotVerifier } from '@capstan/mvcc'
import type { BackupData } from '@capstan/protocol'
import { StoreError } from './store-error.js'

/*
 * A backup is one file: `CAPSTAN1`, length of the header (4 bytes), the header in msgpack, a snapshot as members send it to
 * each other, zeros, the length of that snapshot (8 bytes) up to a multiple of 512, and the SHA-256 of all before it.
 * (A multiple of 512 and a SHA-256 behind it: so that etcd's tools, too, see at its size that it bears a checksum.)
 */
const MAGIC = new TextEncoder().encode('CAPSTAN1')
const BLOCK_BYTES = 512
const HASH_BYTES = 32
const HEADER_BYTES_MAX = 64 * 1024
/** Small enough that heartbeats do not wait behind one; few enough on the way that a slow reader costs little. */
const CHUNK_BYTES = 256 * 1024
const WAITING_MAX = 4

/** What a backup says about itself. */
export interface BackupHeader {
  format: 1
  cluster: string
  clusterId: string
  /** Who made it, and when (ms since the epoch, by its clock). */
  member: string
  madeMs: number
  members: string[]
  /** The last entry that it holds. */
  appliedIndex: number
  term: number
  revision: number
  compactRevision: number
  keys: number
}

/** The file in pieces, as it is asked for. */
export function* backupPieces(header: BackupHeader, snapshot: EngineSnapshot): Generator<Uint8Array> {
  const hash = createHash('sha256')
  let bytes = 0
  const hashed = (piece: Uint8Array) => {
    hash.update(piece)
    bytes += piece.length
    return piece
  }
  const text = encode(header)
  const begin = new Uint8Array(MAGIC.length + 4 + text.length)
  begin.set(MAGIC)
  new DataView(begin.buffer).setUint32(MAGIC.length, text.length)
  begin.set(text, MAGIC.length + 4)
  yield hashed(begin)
  const bytesBefore = bytes
  for (const chunk of snapshotChunks(snapshot, CHUNK_BYTES)) yield hashed(chunk)
  const snapshotBytes = bytes - bytesBefore
  const end = new Uint8Array(8 + ((BLOCK_BYTES - ((bytes + 8) % BLOCK_BYTES)) % BLOCK_BYTES))
  new DataView(end.buffer).setBigUint64(end.length - 8, BigInt(snapshotBytes))
  hashed(end)
  const last = new Uint8Array(end.length + HASH_BYTES)
  last.set(end)
  last.set(hash.digest(), end.length)
  yield last
}

/** Sends it piece by piece as the reader takes them; frees the snapshot at the end, whatever that is. */
export function sendBackup(clock: Clock, stream: OutStream, header: BackupHeader, snapshot: EngineSnapshot): void {
  const pieces = backupPieces(header, snapshot)
  let next = pieces.next()
  let offset = 0
  let waiting = false
  stream.onEnd(() => {
    pieces.return(undefined)
    snapshot.close()
  })
  stream.onRoom(() => {
    if (waiting) send()
  })
  const send = () => {
    if (stream.ended || next.done) return
    waiting = stream.waiting >= WAITING_MAX
    if (waiting) return
    const data = next.value
    next = pieces.next()
    stream.send({ offset, data, done: next.done === true } satisfies BackupData)
    offset += data.length
    if (next.done) stream.end('closing')
    // One piece a turn: heartbeats and requests come in between.
    else clock.defer(send)
  }
  send()
}

/** A backup as it lies somewhere. */
export interface BackupFile {
  readonly sizeBytes: number
  /** Exactly so many bytes. */
  read(offset: number, length: number): Promise<Uint8Array>
}

/**
 * Reads all of it, checks the checksum, and gives each piece of the snapshot in it to `take` (before the whole is checked).
 * @throws StoreError BAD_REQUEST that says what is wrong.
 */
export async function readBackup(
  file: BackupFile,
  take: (piece: Uint8Array) => void | Promise<void> = () => {},
): Promise<BackupHeader> {
  const { sizeBytes } = file
  const bodyBytes = sizeBytes - HASH_BYTES
  if (bodyBytes < BLOCK_BYTES) throw damaged(`${sizeBytes} bytes: too short`)
  const begin = await file.read(0, MAGIC.length + 4)
  if (!MAGIC.every((byte, at) => begin[at] === byte)) throw damaged('its first bytes are not those of a backup')
  if (bodyBytes % BLOCK_BYTES !== 0) throw damaged('its end is missing')
  const headerBytes = viewOf(begin).getUint32(MAGIC.length)
  const from = begin.length + headerBytes
  if (headerBytes > HEADER_BYTES_MAX || from > bodyBytes - 8) throw damaged('its header is too long')
  const snapshotBytes = Number(viewOf(await file.read(bodyBytes - 8, 8)).getBigUint64(0))
  const to = from + snapshotBytes
  if (to > bodyBytes - 8 || bodyBytes - 8 - to >= BLOCK_BYTES) throw damaged('its parts do not fit')
  const hash = createHash('sha256')
  for (let at = 0; at < bodyBytes; ) {
    const piece = await file.read(at, Math.min(CHUNK_BYTES, bodyBytes - at))
    hash.update(piece)
    const inside = piece.subarray(Math.max(0, from - at), Math.max(0, to - at))
    if (inside.length > 0) await take(inside)
    at += piece.length
  }
  if (hash.digest().compare(await file.read(bodyBytes, HASH_BYTES)) !== 0) throw damaged('its checksum does not fit')
  let header: BackupHeader
  try {
    header = decode(await file.read(begin.length, headerBytes)) as BackupHeader
  } catch (error) {
    throw new StoreError('BAD_REQUEST', 'not-applied', 'not a whole backup: its header cannot be read', {
      cause: error,
    })
  }
  if (header.format !== 1) throw damaged(`format ${String(header.format)}; this version knows 1`)
  return header
}

/** Reads all of it and checks, beyond the checksum, that the state in it is whole. @throws StoreError BAD_REQUEST */
export async function verifyBackup(file: BackupFile): Promise<BackupHeader> {
  const verifier = new SnapshotVerifier()
  try {
    const header = await readBackup(file, (piece) => verifier.write(piece))
    const { revision, keys, appliedIndex } = await verifier.finish()
    if (revision !== header.revision || keys !== header.keys || appliedIndex !== header.appliedIndex)
      throw damaged(`its header and its contents differ: revision ${revision}, ${keys} keys, entry ${appliedIndex}`)
    return header
  } catch (error) {
    if (error instanceof SnapshotDamaged) throw damaged(error.message)
    throw error
  }
}

function damaged(text: string): StoreError {
  return new StoreError('BAD_REQUEST', 'not-applied', `not a whole backup: ${text}`)
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
