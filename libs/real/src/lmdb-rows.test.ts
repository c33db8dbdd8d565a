import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeRows, Rows, SLAB_BYTES } from './lmdb-rows.js'

const size = fc.oneof(fc.nat(300), fc.integer({ min: SLAB_BYTES - 300, max: SLAB_BYTES + 300 }))
const row = fc.record({ keyBytes: fc.integer({ min: 1, max: 511 }), valueBytes: fc.option(size) })

test('rows are found again where they were put, and travel in their order, whatever their sizes', () => {
  fc.assert(
    fc.property(fc.array(row, { maxLength: 40 }), (shapes) => {
      const rows = new Rows()
      const all = shapes.map(({ keyBytes, valueBytes }, at) => {
        const key = Buffer.alloc(keyBytes, at + 1)
        const value = valueBytes === null ? null : new Uint8Array(valueBytes).fill(at + 101)
        return { key, value, place: rows.add(key, value) }
      })
      for (const { value, place } of all) assert.deepEqual(rows.valueAt(place), value)
      const slabs = [...rows.copies()]
      const told = slabs.flatMap((slab) => [...decodeRows(slab)])
      assert.equal(told.length, all.length)
      all.forEach(({ key, value }, at) => {
        const [toldKey, toldValue] = told[at] as [Buffer, Buffer | undefined]
        assert.ok(toldKey.equals(key))
        assert.ok(value === null ? toldValue === undefined : toldValue?.equals(value))
      })
      // What is given away is a copy.
      for (const slab of slabs) slab.fill(0)
      for (const { value, place } of all) assert.deepEqual(rows.valueAt(place), value)
    }),
    { numRuns: 50 },
  )
})
