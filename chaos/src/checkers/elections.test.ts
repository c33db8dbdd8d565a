import assert from 'node:assert/strict'
import test from 'node:test'
import { checkElections } from './elections.js'

test('two that lead in one term are found; one after the other is as it should be', () => {
  const leads = [
    { member: 'a', term: 1 },
    { member: 'b', term: 2 },
    { member: 'a', term: 3 },
  ]
  assert.deepEqual(checkElections(leads), [])
  assert.deepEqual(checkElections([...leads, { member: 'c', term: 2 }]), ['b and c both lead in term 2'])
})
