import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { LogView } from './log-view.js'
import type { LogEntry } from './types.js'

const entry = (index: number, term: number): LogEntry => ({
  term,
  index,
  formatVersion: 1,
  kind: 'command',
  clientId: '',
  clientSeq: 0,
  payload: new Uint8Array(0),
})

/** Terms that never fall, as in any log. */
const terms = fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 20 }).map((steps) => {
  let term = 1
  return steps.map((step) => (term += step))
})
const view = (base: number, list: readonly number[]) =>
  new LogView(
    { index: base, term: 0 },
    list.map((term, i) => entry(base + 1 + i, term)),
  )

test('a snapshot of a prefix leaves what follows; one that the log does not lead to replaces it (thesis §5.1)', () => {
  const configuration = { voters: ['a'], learners: [] }
  const goesOn = view(0, [1, 1, 2, 2])
  goesOn.restore({ index: 3, term: 2, configuration })
  assert.deepEqual([goesOn.firstIndex, goesOn.lastIndex, goesOn.termAt(3), goesOn.termAt(4)], [4, 4, 2, 2])
  const other = view(0, [1, 1, 1, 1])
  other.restore({ index: 3, term: 2, configuration })
  assert.deepEqual([other.firstIndex, other.lastIndex, other.termAt(3)], [4, 3, 2])
})

test('findConflict finds what a search of every index finds', () => {
  fc.assert(
    fc.property(terms, fc.nat(25), fc.nat(20), (list, index, term) => {
      const log = view(0, list)
      let expected = 0
      for (let at = 1; at <= Math.min(index, list.length); at++) if ((list[at - 1] as number) <= term) expected = at
      assert.equal(log.findConflict(index, term), expected)
    }),
  )
})

test('hints lead two logs to where they agree, in at most one step for each term', () => {
  fc.assert(
    fc.property(terms, terms, (one, other) => {
      // Log matching (thesis §3.5) gives a common beginning; after it the terms differ.
      const common = one.findIndex((term, i) => other[i] !== term)
      const agreed = common < 0 ? Math.min(one.length, other.length) : common
      const leader = view(0, one)
      const same = other.findIndex((term, i) => i >= agreed && term === one[i])
      const follower = view(0, same < 0 ? other : other.slice(0, same))
      let prev = leader.lastIndex
      let steps = 0
      while (leader.termAt(prev) !== follower.termAt(prev)) {
        const hint = follower.findConflict(Math.min(prev, follower.lastIndex), leader.termAt(prev) as number)
        prev = Math.min(prev - 1, leader.findConflict(hint, follower.termAt(hint) as number))
        steps++
      }
      assert.ok(prev >= Math.min(agreed, leader.lastIndex, follower.lastIndex), `found ${prev}, agreed ${agreed}`)
      assert.ok(steps <= new Set([...one, ...other]).size + 1, `${steps} steps`)
    }),
  )
})
