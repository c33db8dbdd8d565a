import assert from 'node:assert/strict'
import test from 'node:test'
import { type HistoryEvent, TrueHistory } from './history.js'
import { del, put } from './testing.js'
import { checkWatchGuarantees, WATCH_GUARANTEES, type WatchedEvent, type WatchStream } from './watch-guarantees.js'

const events: HistoryEvent[] = [
  put('a', 'x', 2, 2, 1),
  put('b', 'y', 3, 3, 1),
  put('c', 'y', 3, 3, 1),
  put('a', 'z', 4, 2, 2),
  del('b', 5),
  put('b', 'n', 6, 6, 1),
]
const history = new TrueHistory(events)

/** What a faultless stream from revision 2 on gives, a message for each revision. */
function faultless(): WatchStream {
  const message = (prevRevision: number, revision: number) => ({
    kind: 'data' as const,
    prevRevision,
    revision,
    events: events.filter((e) => e.revision === revision).map(watched),
  })
  return {
    reader: 'r',
    from: '',
    to: 'z',
    noPut: false,
    noDelete: false,
    prevKv: true,
    startRevision: 2,
    messages: [
      { kind: 'data', prevRevision: 1, revision: 1, events: [] },
      message(1, 2),
      message(2, 3),
      { kind: 'beat', prevRevision: 3, revision: 3, events: [] },
      message(3, 4),
      message(4, 5),
      message(5, 6),
    ],
  }
}

function watched({ type, key, value, revision, createRevision, version }: HistoryEvent): WatchedEvent {
  const before = history.at(key, revision - 1)
  const event: WatchedEvent = { type, key, value, revision, createRevision, version }
  if (before) event.prevKv = { ...before }
  return event
}

type Message = WatchStream['messages'][number]
const at = (stream: WatchStream, n: number) => stream.messages[n] as Message
const kinds = (change: (stream: WatchStream) => void, compacted = 0) => {
  const stream = faultless()
  change(stream)
  return [...new Set(checkWatchGuarantees(stream, history, compacted).map((b) => b.guarantee))].sort()
}

test('a faultless stream keeps all nine', () => {
  assert.deepEqual(
    kinds(() => {}),
    [],
  )
  assert.equal(WATCH_GUARANTEES.length, 9)
})

test('filter: an event of another range, of another kind, or that did not happen', () => {
  assert.ok(kinds((s) => (s.to = 'c')).includes('filter'))
  assert.ok(kinds((s) => (s.noDelete = true)).includes('filter'))
  assert.deepEqual(
    kinds((s) => ((at(s, 1).events[0] as WatchedEvent).value = 'other')),
    ['filter'],
  )
})

test('ordered: an event after a later one', () => {
  assert.ok(
    kinds((s) => {
      const [earlier] = at(s, 4).events.splice(0)
      at(s, 5).events.push(earlier as WatchedEvent)
    }).includes('ordered'),
  )
})

test('unique: an event twice, in one message or over two', () => {
  assert.deepEqual(
    kinds((s) => at(s, 1).events.push(at(s, 1).events[0] as WatchedEvent)),
    ['unique'],
  )
  assert.ok(kinds((s) => s.messages.splice(5, 0, at(s, 4))).includes('unique'))
})

test('atomic: one revision in two messages', () => {
  assert.ok(
    kinds((s) => {
      const second = at(s, 2).events.splice(1)
      s.messages.splice(3, 0, { kind: 'data', prevRevision: 3, revision: 3, events: second })
    }).includes('atomic'),
  )
})

test('reliable: an event in the middle is left out', () => {
  assert.ok(kinds((s) => at(s, 4).events.splice(0)).includes('reliable'))
})

test('bookmarkable: told of what it has not got, a message left out, an event after the word', () => {
  assert.deepEqual(
    kinds((s) => at(s, 6).events.splice(0)),
    ['bookmarkable'],
  )
  assert.ok(kinds((s) => s.messages.splice(4, 1)).includes('bookmarkable'))
  assert.deepEqual(
    kinds((s) => s.messages.splice(6, 0, { kind: 'beat', prevRevision: 5, revision: 6, events: [] })),
    ['bookmarkable'],
  )
})

test('resumable: what it had before comes again, or the first ones do not come', () => {
  assert.deepEqual(
    kinds((s) => {
      s.startRevision = 3
      at(s, 0).revision = 2
    }),
    ['resumable'],
  )
  assert.ok(kinds((s) => at(s, 1).events.splice(0)).includes('resumable'))
  const compactedAt = (compactRevision: number) => (s: WatchStream) =>
    void (s.ended = { reason: 'compacted', compactRevision })
  assert.deepEqual(kinds(compactedAt(4), 9), ['resumable'])
  assert.deepEqual(kinds(compactedAt(9), 9), [])
  assert.deepEqual(kinds(compactedAt(9), 8), ['resumable'], 'nobody compacts there')
})

test('prevKv: not the state before; left out only where history is compacted', () => {
  const without = (s: WatchStream) => void delete (at(s, 4).events[0] as WatchedEvent).prevKv
  assert.deepEqual(kinds(without), ['prevKv'])
  assert.deepEqual(kinds(without, 4), [])
  const early = (s: WatchStream) => {
    without(s)
    for (const message of s.messages) message.compacted = 1
  }
  assert.deepEqual(kinds(early, 4), ['prevKv'], 'compacted only later')
  assert.deepEqual(
    kinds((s) => (s.prevKv = false)),
    ['prevKv'],
  )
  assert.deepEqual(
    kinds(
      (s) =>
        ((at(s, 4).events[0] as WatchedEvent).prevKv = { value: 'old', revision: 1, createRevision: 1, version: 1 }),
    ),
    ['prevKv'],
  )
})

test('isCreate: a new key that looks old, an old one that looks new', () => {
  assert.deepEqual(
    kinds((s) => ((at(s, 6).events[0] as WatchedEvent).version = 2)),
    ['isCreate'],
  )
  assert.deepEqual(
    kinds((s) => Object.assign(at(s, 4).events[0] as WatchedEvent, { version: 1, createRevision: 4 })),
    ['isCreate'],
  )
})
