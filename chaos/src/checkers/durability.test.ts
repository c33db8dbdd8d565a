import assert from 'node:assert/strict'
import test from 'node:test'
import { checkDurable, checkEqualState, checkOutcomes, type ToldWrite } from './durability.js'
import type { SeenEvent } from './watch.js'

const put = (revision: number, key: string, value: string): SeenEvent => ({ revision, key, type: 'put', value })
const told = (key: string, value: string | undefined, answer: number | 'not-applied' | 'unknown'): ToldWrite => ({
  client: 'c',
  key,
  value,
  told: typeof answer === 'number' ? { type: 'written', revision: answer } : { type: answer },
})
const truth: SeenEvent[] = [put(2, 'a', 'v1'), put(3, 'b', 'v2'), { revision: 4, key: 'a', type: 'delete', value: '' }]

test('what was acknowledged is there', () => {
  assert.deepEqual(checkDurable([told('a', 'v1', 2), told('b', 'v2', 3), told('a', undefined, 4)], truth), [])
  assert.deepEqual(checkDurable([told('a', 'lost', 'unknown'), told('a', 'refused', 'not-applied')], truth), [])
})

for (const [what, write] of [
  ['is gone', told('b', 'v9', 9)],
  ['was overwritten in place', told('a', 'v8', 2)],
  ['is at another revision', told('a', 'v1', 3)],
  ['is a delete that never happened', told('b', undefined, 3)],
  ['is a put where a delete stands', told('a', 'v1', 4)],
] as const)
  test(`an acknowledged write that ${what} is found`, () => assert.equal(checkDurable([write], truth).length, 1))

test('unknown writes may have happened or not, once; refused ones have not', () => {
  const fine = [
    told('a', 'v1', 2),
    told('b', 'v2', 'unknown'),
    told('b', 'v3', 'unknown'),
    told('b', 'v4', 'not-applied'),
  ]
  assert.deepEqual(checkOutcomes(fine, truth), [])
  assert.match(checkOutcomes([told('a', 'v1', 2), told('b', 'v2', 'not-applied')], truth).join(), /was told; it did/)
  assert.match(checkOutcomes(fine, [...truth, put(5, 'b', 'v2')]).join(), /2 times, at 3, 5/)
  assert.match(checkOutcomes(fine.slice(1), truth).join(), /written by nobody/)
})

test('members at the same index must hold the same', () => {
  const state = (member: string, appliedIndex: number, hash: string) => ({ member, appliedIndex, hash })
  assert.deepEqual(checkEqualState([state('a', 5, 'x'), state('b', 5, 'x'), state('c', 4, 'y')]), [])
  assert.equal(checkEqualState([state('a', 5, 'x'), state('b', 4, 'y'), state('c', 5, 'z')]).length, 1)
})
