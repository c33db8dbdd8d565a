import assert from 'node:assert/strict'
import test from 'node:test'
import { checkHistory, checkSameHistory, TrueHistory } from './history.js'
import {
  listModel,
  type ListInput,
  type ListOutput,
  setModel,
  type SetInput,
  type SetOutput,
} from './collection-models.js'
import { checkLease, type LeaseRecord } from './leases.js'
import { checkLinearizable, type Operation } from './linearizability.js'
import { checkLock } from './locks.js'
import { checkRevisionOrder, type PlacedOperation } from './revision-order.js'
import { put, del } from './testing.js'

const history = new TrueHistory([
  put('a', 'x', 2, 2, 1),
  put('b', 'y', 3, 3, 1),
  put('a', 'z', 4, 2, 2),
  del('a', 5),
  put('a', 'w', 6, 6, 1),
])

test('a history knows the state at each revision', () => {
  assert.equal(history.at('a', 1), undefined)
  assert.equal(history.at('a', 3)?.value, 'x')
  assert.equal(history.at('a', 4)?.version, 2)
  assert.equal(history.at('a', 5), undefined)
  assert.deepEqual(
    history.range('a', 'c', 6).map((s) => s.value),
    ['w', 'y'],
  )
})

test('a history without sense is found', () => {
  assert.deepEqual(checkHistory(history.events), [])
  const wrong = (...events: Parameters<typeof checkHistory>[0][number][]) => checkHistory(events).length
  assert.equal(wrong(put('a', 'x', 2, 2, 1), put('a', 'y', 4, 2, 2)), 1, 'a revision left out')
  assert.equal(wrong(put('a', 'x', 2, 2, 1), put('a', 'y', 3, 2, 3)), 1, 'a version left out')
  assert.equal(wrong(put('a', 'x', 2, 2, 1), put('a', 'y', 3, 3, 1)), 1, 'created twice')
  assert.equal(wrong(del('a', 2)), 1, 'nothing to delete')
  assert.equal(wrong(put('a', 'x', 3, 3, 1), put('b', 'x', 2, 2, 1)), 2, 'revisions go back')
  const same = { member: 'm0', events: history.events }
  assert.deepEqual(checkSameHistory([same, { ...same, member: 'm1' }]), [])
  assert.equal(checkSameHistory([same, { member: 'm1', events: history.events.slice(1) }]).length, 1)
})

const read = (revision: number, invokedMs: number, returnedMs: number, value?: string): PlacedOperation => ({
  client: 'c',
  what: 'read a',
  invokedMs,
  returnedMs,
  revision,
  wrote: false,
  read: {
    from: 'a',
    keys:
      value === undefined
        ? []
        : [{ key: 'a', value, modRevision: revision, createRevision: 2, version: revision === 2 ? 1 : 2 }],
  },
})

test('answers are held against the state at their revision', () => {
  assert.deepEqual(checkRevisionOrder([read(2, 0, 1, 'x'), read(4, 2, 3, 'z'), read(5, 4, 5)], history), [])
  assert.equal(checkRevisionOrder([read(2, 0, 1)], history).length, 1, 'it was there')
  assert.equal(checkRevisionOrder([read(4, 0, 1, 'x')], history).length, 1, 'an old value')
})

test('nothing may be placed before what was answered when it began', () => {
  assert.equal(checkRevisionOrder([read(4, 0, 1, 'z'), read(2, 2, 3, 'x')], history).length, 1)
  // They overlap: either may come first.
  assert.deepEqual(checkRevisionOrder([read(4, 0, 3, 'z'), read(2, 1, 2, 'x')], history), [])
  const write = { client: 'c', what: 'put', invokedMs: 2, returnedMs: 3, revision: 4, wrote: true }
  assert.equal(
    checkRevisionOrder([read(4, 0, 1, 'z'), write], history).length,
    1,
    'a write makes a revision of its own',
  )
})

test('comparisons are held against the state that they looked at', () => {
  const swap = (revision: number, wrote: boolean, modRevision: number, held: boolean): PlacedOperation => ({
    client: 'c',
    what: 'swap',
    invokedMs: 0,
    returnedMs: 1,
    revision,
    wrote,
    compared: { keys: [{ key: 'a', modRevision }], held },
  })
  assert.deepEqual(checkRevisionOrder([swap(4, true, 2, true)], history), [])
  assert.equal(checkRevisionOrder([swap(4, true, 3, true)], history).length, 1)
  assert.deepEqual(checkRevisionOrder([swap(4, false, 2, false)], history), [])
  assert.equal(checkRevisionOrder([swap(4, false, 4, false)], history).length, 1)
})

test('a list loses nothing and takes nothing twice', () => {
  const verdict = (...ops: [ListInput, ListOutput | undefined][]) =>
    checkLinearizable(
      ops.map(
        ([input, output], n): Operation<ListInput, ListOutput> => ({
          client: 'c',
          input,
          invokedMs: n * 10,
          ...(output ? { output, returnedMs: n * 10 + 5 } : {}),
        }),
      ),
      listModel,
    ).verdict
  const append = (item: string): [ListInput, ListOutput] => [{ type: 'append', item }, { type: 'appended' }]
  const list = (items: string): [ListInput, ListOutput] => [{ type: 'read' }, { type: 'list', items }]
  assert.equal(verdict(append('1'), append('2'), list('1,2')), 'ok')
  assert.equal(verdict(append('1'), append('2'), list('2')), 'illegal')
  assert.equal(verdict(append('1'), append('2'), list('2,1')), 'illegal')
  assert.equal(verdict(append('1'), list('1,1')), 'illegal')
  assert.equal(verdict([{ type: 'append', item: '1' }, undefined], list(''), list('1')), 'ok')
  assert.equal(verdict([{ type: 'append', item: '1' }, undefined], list('1'), list('')), 'illegal')
})

test('a set holds what was added and not removed', () => {
  const verdict = (...ops: [SetInput, SetOutput][]) =>
    checkLinearizable(
      ops.map(([input, output], n) => ({ client: 'c', input, output, invokedMs: n * 10, returnedMs: n * 10 + 5 })),
      setModel,
    ).verdict
  const add = (element: string, changed: boolean): [SetInput, SetOutput] => [
    { type: 'add', element },
    { type: 'changed', changed },
  ]
  const all = (elements: string): [SetInput, SetOutput] => [{ type: 'read' }, { type: 'set', elements }]
  const remove: [SetInput, SetOutput] = [
    { type: 'remove', element: 'a' },
    { type: 'changed', changed: true },
  ]
  assert.equal(verdict(add('a', true), add('b', true), add('a', false), remove, all('b')), 'ok')
  assert.equal(verdict(add('a', true), add('b', true), all('b')), 'illegal')
  assert.equal(verdict(add('a', true), add('a', true)), 'illegal')
  assert.equal(verdict(add('a', true), remove, all('a')), 'illegal')
})

test('two holders of one lock, and a write of a former holder, are found', () => {
  const events = [
    put('lock', 'p', 2, 2, 1),
    put('guarded', '2', 3, 3, 1),
    del('lock', 4),
    put('lock', 'q', 5, 5, 1),
    put('guarded', '5', 6, 3, 2),
  ]
  const guarded = { key: 'guarded', tokenOf: Number }
  const p = { holder: 'p', token: 2, acquiredMs: 0, untilMs: 1000 }
  const q = { holder: 'q', token: 5, acquiredMs: 1000, untilMs: 2000 }
  const check = (holdings: (typeof p)[], more = events) =>
    checkLock('lock', holdings, new TrueHistory(more), guarded, 1.05)
  assert.deepEqual(check([p, q]), [])
  assert.equal(check([p, { ...q, acquiredMs: 900 }]).length, 1, 'both believe to hold it')
  assert.deepEqual(check([p, { ...q, acquiredMs: 960 }]), [], 'a fast clock explains it')
  const late = { ...p, acquiredMs: 1500, untilMs: 1000 }
  assert.deepEqual(check([late, q]), [], 'told so when its lease was over: it never believed to hold it')
  assert.equal(
    check([late, { ...q, token: 2 }]).length,
    2,
    'its token is looked at all the same: given twice, and not to the other',
  )
  assert.equal(check([p, q], [...events, put('guarded', '2', 7, 3, 3)]).length, 1, 'a former holder wrote')
  assert.equal(check([p, { ...q, holder: 'r' }]).length, 1, 'told that it holds what another one does')
})

test('leases that end early or late, or whose keys are still there, are found', () => {
  const record: LeaseRecord = {
    client: 'c',
    id: 7,
    ttlMs: 4000,
    renewals: [
      { sentMs: 0, answeredMs: 10 },
      { sentMs: 2000, answeredMs: 2010 },
    ],
    lastTriedMs: 2000,
    goneSeen: { sentMs: 6400, answeredMs: 6420, revision: 3 },
    keys: ['k'],
    readsAfterGone: [],
    remaining: [{ sentMs: 3000, answeredMs: 3010, seconds: 3 }],
  }
  const events = new TrueHistory([{ ...put('k', 'v', 2, 2, 1), lease: 7 }])
  const margins = { clockRate: 0.05, noticeMs: 1000, perLeaderChangeMs: 2000 }
  const quiet = { leaderChanges: [], trouble: [] }
  const kinds = (more: Partial<LeaseRecord>, times = quiet as Parameters<typeof checkLease>[3]) =>
    checkLease({ ...record, ...more }, events, margins, times).map((text) => text.split(':')[0])
  assert.deepEqual(kinds({}), [])
  assert.deepEqual(kinds({ goneSeen: { sentMs: 5000, answeredMs: 5010, revision: 3 } }), ['early'])
  assert.deepEqual(kinds({ goneSeen: { sentMs: 5000, answeredMs: 5010, revision: 3 }, revokeSentMs: 4900 }), [])
  const lives = [{ sentMs: 7500, answeredMs: 7510, seconds: 1 }]
  assert.deepEqual(kinds({ remaining: lives }), ['late'])
  assert.deepEqual(kinds({ remaining: lives }, { leaderChanges: [3000], trouble: [] }), [])
  assert.deepEqual(kinds({ remaining: lives }, { leaderChanges: [], trouble: [{ fromMs: 3000, toMs: 4000 }] }), [])
  assert.deepEqual(kinds({ remaining: [{ sentMs: 3000, answeredMs: 3010, seconds: 9 }] }), ['remaining'])
  assert.deepEqual(kinds({ readsAfterGone: [{ key: 'k', revision: 3, present: true }] }), ['readable'])
})
