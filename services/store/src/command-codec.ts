import { decode, encode } from '@capstan/actor'
import type { Command, TxnOp } from '@capstan/mvcc'

/**
 * Commands as the payload of log entries: msgpack, but for what nearly all of them are, puts without conditions. These are
 * `[0xc1, 1, count (2), { key length (4), value length (4), key, value } …]`, big endian: each member decodes every command
 * once, and a map with its names costs more than applying it. msgpack never begins with 0xc1.
 */
const NOT_MSGPACK = 0xc1
const PUTS = 1
const HEAD_BYTES = 4
const PUT_HEAD_BYTES = 8
const PUTS_MAX = 0xffff

export function encodeCommand(command: Command): Uint8Array {
  const puts = plainPuts(command)
  if (!puts) return encode(command)
  let bytes = HEAD_BYTES
  for (const { key, value } of puts) bytes += PUT_HEAD_BYTES + key.length + value.length
  // From Node's pool: thousands of them a second, each with memory of its own, would cost more than all else here.
  const payload = Buffer.allocUnsafe(bytes)
  const view = new DataView(payload.buffer, payload.byteOffset, bytes)
  payload[0] = NOT_MSGPACK
  payload[1] = PUTS
  view.setUint16(2, puts.length)
  let at = HEAD_BYTES
  for (const { key, value } of puts) {
    view.setUint32(at, key.length)
    view.setUint32(at + 4, value.length)
    payload.set(key, at + PUT_HEAD_BYTES)
    payload.set(value, at + PUT_HEAD_BYTES + key.length)
    at += PUT_HEAD_BYTES + key.length + value.length
  }
  return payload
}

/** Keys and values are parts of `payload`, which must not change. @throws for what `encodeCommand` never makes. */
export function decodeCommand(payload: Uint8Array): Command {
  if (payload[0] !== NOT_MSGPACK) return decode(payload) as Command
  if (payload[1] !== PUTS) throw new Error(`a command of the unknown form ${String(payload[1])}`)
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength)
  const success: TxnOp[] = []
  const count = view.getUint16(2)
  let at = HEAD_BYTES
  for (let i = 0; i < count; i++) {
    const keyEnd = at + PUT_HEAD_BYTES + view.getUint32(at)
    const valueEnd = keyEnd + view.getUint32(at + 4)
    if (valueEnd > payload.length) throw new Error('a command that is cut short')
    const key = payload.subarray(at + PUT_HEAD_BYTES, keyEnd)
    success.push({ type: 'put', key, value: payload.subarray(keyEnd, valueEnd) })
    at = valueEnd
  }
  if (at !== payload.length) throw new Error('a command with something behind it')
  return { type: 'txn', txn: { compare: [], success, failure: [] } }
}

function plainPuts(command: Command): (TxnOp & { type: 'put' })[] | undefined {
  if (command.type !== 'txn') return undefined
  const { compare, success, failure } = command.txn
  if (compare.length > 0 || failure.length > 0 || success.length > PUTS_MAX || !success.every(isPlain)) return undefined
  return success as (TxnOp & { type: 'put' })[]
}

function isPlain(op: TxnOp): boolean {
  return op.type === 'put' && !op.lease && !op.prevKv && !op.ignoreValue && !op.ignoreLease
}
