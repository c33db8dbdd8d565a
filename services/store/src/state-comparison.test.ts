import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StateComparison } from './state-comparison.js'

const VOTERS = ['a', 'b', 'c']
const own = [
  { index: 64, hash: 'x' },
  { index: 128, hash: 'y' },
  { index: 130, hash: 'z' },
]

test('a majority with another hash at the same index decides; one alone does not; other indexes say nothing', () => {
  const comparison = new StateComparison()
  assert.equal(comparison.difference(own, 'a', VOTERS), undefined)
  comparison.note('b', [
    { index: 64, hash: 'x' },
    { index: 128, hash: 'other' },
    { index: 131, hash: 'w' },
  ])
  const alone = { index: 128, theirs: 'other', own: 'y', members: ['b'], decided: false }
  assert.deepEqual(comparison.difference(own, 'a', VOTERS), alone)
  comparison.note('c', [{ index: 128, hash: 'y' }])
  assert.equal(comparison.difference(own, 'a', VOTERS)?.decided, false, 'here b is wrong, and will see that itself')
  comparison.note('c', [{ index: 128, hash: 'other' }])
  assert.deepEqual(comparison.difference(own, 'a', VOTERS), { ...alone, members: ['b', 'c'], decided: true })
  comparison.forget('b')
  assert.equal(comparison.difference(own, 'a', VOTERS)?.decided, false)
})

test('what is no hash is no word', () => {
  const comparison = new StateComparison()
  for (const garbage of [null, 7, 'x', [null], [{ index: 'a', hash: 'b' }], [{ index: 64 }]])
    comparison.note('b', garbage)
  assert.equal(comparison.difference(own, 'a', VOTERS), undefined)
})
