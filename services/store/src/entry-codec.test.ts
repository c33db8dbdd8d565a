import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { LogEntry } from 'raft-ts'
import { decodeEntries, encodeEntries } from './entry-codec.js'

const count = fc.nat(2 ** 31 - 1)
const entry: fc.Arbitrary<LogEntry> = fc.record(
  {
    term: count,
    index: fc.integer({ min: 0, max: 2 ** 50 }),
    formatVersion: fc.integer({ min: 0, max: 0xffff }),
    kind: fc.constantFrom('noop', 'command', 'config', 'clusterVersion'),
    clientId: fc.string({ unit: 'grapheme', maxLength: 12 }),
    clientSeq: count,
    payload: fc.uint8Array({ maxLength: 60 }),
  },
  { noNullPrototype: true },
)

test('entries come back as they were', () => {
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 8 }), (entries) => {
      assert.deepEqual(decodeEntries(encodeEntries(entries)), entries)
    }),
  )
})

test('a block that is cut short, goes on or is nonsense is refused', () => {
  const whole = encodeEntries(
    ['a', 'b'].map(
      (clientId, at): LogEntry => ({
        term: 3,
        index: at + 1,
        formatVersion: 1,
        kind: 'command',
        clientId,
        clientSeq: 9,
        payload: new Uint8Array([1, 2, 3]),
      }),
    ),
  )
  for (let length = 0; length < whole.length; length++) assert.throws(() => decodeEntries(whole.subarray(0, length)))
  assert.throws(() => decodeEntries(new Uint8Array([...whole, 0])))
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.nat(255), (at, byte) => {
      const damaged = Uint8Array.from(whole)
      damaged[at] = byte
      try {
        decodeEntries(damaged)
      } catch (error) {
        assert.ok(error instanceof Error)
      }
    }),
  )
})
