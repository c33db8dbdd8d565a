import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encode } from '@capstan/actor'
import type { Command, TxnOp } from '@capstan/mvcc'
import fc from 'fast-check'
import { decodeCommand, encodeCommand } from './command-codec.js'

const bytes = fc.uint8Array({ maxLength: 40 })
const put = fc.record({ type: fc.constant('put' as const), key: bytes, value: bytes }, { noNullPrototype: true })

test('puts without conditions come back as they were, in a form of their own', () => {
  fc.assert(
    fc.property(fc.array(put, { maxLength: 6 }), (success) => {
      const command: Command = { type: 'txn', txn: { compare: [], success, failure: [] } }
      const payload = encodeCommand(command)
      assert.equal(payload[0], 0xc1)
      assert.deepEqual(plainBytes(decodeCommand(payload)), plainBytes(command))
    }),
  )
})

test('whatever a plain put cannot say travels as msgpack', () => {
  const key = new Uint8Array([1])
  const plain: TxnOp = { type: 'put', key, value: key }
  const ops: TxnOp[] = [
    { ...plain, lease: 7 },
    { ...plain, prevKv: true },
    { ...plain, ignoreValue: true },
    { ...plain, ignoreLease: true },
    { type: 'delete', key },
    { type: 'range', key },
  ]
  const commands: Command[] = [
    ...ops.map((op): Command => ({ type: 'txn', txn: { compare: [], success: [plain, op], failure: [] } })),
    { type: 'txn', txn: { compare: [], success: [plain], failure: [plain] } },
    {
      type: 'txn',
      txn: { compare: [{ key, target: 'version', result: '=', operand: 0 }], success: [plain], failure: [] },
    },
    { type: 'compact', revision: 3 },
  ]
  for (const command of commands) {
    assert.deepEqual([...encodeCommand(command)], [...encode(command)])
    assert.deepEqual(plainBytes(decodeCommand(encodeCommand(command))), plainBytes(command))
  }
})

test('what was cut short, goes on or is of another form is no command', () => {
  const key = new Uint8Array([1, 2, 3])
  const whole = encodeCommand({
    type: 'txn',
    txn: { compare: [], success: [{ type: 'put', key, value: key }], failure: [] },
  })
  for (let length = 1; length < whole.length; length++) assert.throws(() => decodeCommand(whole.subarray(0, length)))
  assert.throws(() => decodeCommand(new Uint8Array([...whole, 0])))
  assert.throws(() => decodeCommand(new Uint8Array([0xc1, 2, 0, 0])))
})

/** Bytes come back as Buffers. */
function plainBytes(value: unknown): unknown {
  if (value instanceof Uint8Array) return [...value]
  if (Array.isArray(value)) return value.map(plainBytes)
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, plainBytes(member)]))
  return value
}
