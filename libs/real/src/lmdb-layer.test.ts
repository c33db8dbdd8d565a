import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Layer } from './lmdb-layer.js'

test('in the order of keys from any one on, whenever it is asked for', () => {
  const layer = new Layer()
  const twin = new Map<string, Uint8Array | null>()
  let state = 7
  const random = (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff
    return state % below
  }
  assert.equal(layer.isEmpty, true)
  for (let step = 0; step < 20_000; step++) {
    const key = String.fromCharCode(97 + random(26)) + String(random(1500)) + (random(9) === 0 ? '\xff' : '')
    if (random(40) !== 0) {
      const value = random(4) === 0 ? null : Uint8Array.of(step & 255)
      layer.set(key, value)
      twin.set(key, value)
      continue
    }
    const start = random(3) === 0 ? undefined : key
    const expected = [...twin]
      .filter(([name]) => start === undefined || name >= start)
      .sort(([a], [b]) => (a < b ? -1 : 1))
    const taken = random(50)
    const found: [string, Uint8Array | null][] = []
    for (const entry of layer.entries(start)) if (found.push(entry) > taken) break
    assert.deepEqual(found, expected.slice(0, taken + 1))
    assert.equal(layer.get(key), twin.get(key))
  }
  assert.deepEqual(
    [...layer.entries()].map(([key]) => key),
    [...twin.keys()].sort(),
  )
})

test('an iteration goes on over what was there when it began', () => {
  const layer = new Layer()
  for (const key of ['b', 'd', 'f']) layer.set(key, null)
  const iteration = layer.entries('c')
  assert.deepEqual(iteration.next().value, ['d', null])
  layer.set('e', null)
  assert.deepEqual(
    [...layer.entries()].map(([key]) => key),
    ['b', 'd', 'e', 'f'],
  )
  assert.deepEqual([...iteration], [['f', null]])
})
