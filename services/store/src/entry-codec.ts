import type { EntryKind, LogEntry } from 'raft-ts'

/**
 * The entries of an append message as one block of bytes: count (4), then for each entry term (8), index (8), format (2),
 * kind (1), clientSeq (8), lengths of clientId and payload (4 and 4), and these two; big endian. A map for each entry
 * would say six names each time, and be packed anew for each follower.
 */
const COUNT_BYTES = 4
const HEAD_BYTES = 35
const KINDS: readonly EntryKind[] = ['noop', 'command', 'config', 'clusterVersion']

export function encodeEntries(entries: readonly LogEntry[]): Uint8Array {
  const clients = entries.map(({ clientId }) => (clientId === '' ? undefined : Buffer.from(clientId)))
  let bytes = COUNT_BYTES
  for (let i = 0; i < entries.length; i++)
    bytes += HEAD_BYTES + (clients[i]?.length ?? 0) + (entries[i] as LogEntry).payload.length
  const block = new Uint8Array(bytes)
  const view = new DataView(block.buffer)
  view.setUint32(0, entries.length)
  let at = COUNT_BYTES
  for (let i = 0; i < entries.length; i++) {
    const { term, index, formatVersion, kind, clientSeq, payload } = entries[i] as LogEntry
    const client = clients[i]
    view.setFloat64(at, term)
    view.setFloat64(at + 8, index)
    view.setUint16(at + 16, formatVersion)
    view.setUint8(at + 18, KINDS.indexOf(kind))
    view.setFloat64(at + 19, clientSeq)
    view.setUint32(at + 27, client?.length ?? 0)
    view.setUint32(at + 31, payload.length)
    at += HEAD_BYTES
    if (client) block.set(client, at)
    at += client?.length ?? 0
    block.set(payload, at)
    at += payload.length
  }
  return block
}

/** Payloads are parts of `block`. Whether entries make sense raft looks at. @throws for what is no such block. */
export function decodeEntries(block: Uint8Array): LogEntry[] {
  const view = new DataView(block.buffer, block.byteOffset, block.byteLength)
  const count = view.getUint32(0)
  if (count > (block.length - COUNT_BYTES) / HEAD_BYTES) throw new Error('entries that are cut short')
  const entries: LogEntry[] = []
  let at = COUNT_BYTES
  for (let i = 0; i < count; i++) {
    const start = at + HEAD_BYTES
    const payloadAt = start + view.getUint32(at + 27)
    const end = payloadAt + view.getUint32(at + 31)
    if (end > block.length) throw new Error('an entry that is cut short')
    const kind = KINDS[view.getUint8(at + 18)]
    if (!kind) throw new Error('an entry of an unknown kind')
    entries.push({
      term: view.getFloat64(at),
      index: view.getFloat64(at + 8),
      formatVersion: view.getUint16(at + 16),
      kind,
      clientId: payloadAt === start ? '' : Buffer.from(block.subarray(start, payloadAt)).toString(),
      clientSeq: view.getFloat64(at + 19),
      payload: block.subarray(payloadAt, end),
    })
    at = end
  }
  if (at !== block.length) throw new Error('entries with something behind them')
  return entries
}
