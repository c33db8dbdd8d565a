import assert from 'node:assert/strict'
import test from 'node:test'
import { checkWatch, type SeenEvent } from './watch.js'

const truth: SeenEvent[] = [2, 3, 4, 5].map((revision) => ({ revision, key: `k${revision}`, type: 'put', value: 'v' }))
const record = (events: SeenEvent[], toldUpTo = 5, fromRevision = 2) => ({
  reader: 'r',
  fromRevision,
  events,
  toldUpTo,
})

test('everything once and in order is right', () => {
  assert.equal(checkWatch(record(truth), truth).verdict, 'ok')
  assert.equal(checkWatch(record(truth.slice(1), 5, 3), truth).verdict, 'ok')
  assert.equal(checkWatch(record(truth.slice(0, 2), 3), truth).verdict, 'ok')
})

for (const [what, events] of [
  ['a gap', [truth[0], truth[2], truth[3]]],
  ['a doubled event', [truth[0], truth[0], ...truth.slice(1)]],
  ['a changed order', [truth[1], truth[0], truth[2], truth[3]]],
  ['the last event lost unnoticed', truth.slice(0, 3)],
  ['an event that never happened', [...truth, { revision: 6, key: 'x', type: 'put', value: 'v' }]],
] as [string, SeenEvent[]][])
  test(`${what} is found`, () => assert.equal(checkWatch(record(events), truth).verdict, 'illegal'))
