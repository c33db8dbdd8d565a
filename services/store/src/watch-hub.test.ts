import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Clock, OutStream } from '@capstan/actor'
import {
  type Command,
  type Entry,
  MemoryStateEngine,
  Mvcc,
  snapshotChunks,
  SnapshotReceiver,
  type TxnOp,
} from '@capstan/mvcc'
import { type WatchData, WatchParts } from '@capstan/protocol'
import { RealRandom } from '@capstan/real'
import fc from 'fast-check'
import { type WatchBugs, WatchHub } from './watch-hub.js'

const bytes = (value: string) => new TextEncoder().encode(value)
const text = (value: Uint8Array) => new TextDecoder().decode(value)

/** Deferred work runs when the test says so. */
class ManualClock {
  readonly deferred: (() => void)[] = []
  defer(run: () => void): void {
    this.deferred.push(run)
  }
  step(): void {
    this.deferred.shift()?.()
  }
}

class Reader implements OutStream {
  ended = false
  /** Messages held back, as without credit. */
  readonly held: WatchData[] = []
  slow = false
  reason = ''
  readonly events: string[] = []
  readonly messages: WatchData[] = []
  revision = -1
  private listener: ((reason: string) => void) | undefined
  private room: (() => void) | undefined
  get waiting(): number {
    return this.held.length
  }
  send(body: unknown): boolean {
    if (this.slow) this.held.push(body as WatchData)
    else this.take(body as WatchData)
    return !this.ended
  }
  /** It reads on: what was held back comes now. */
  readOn(): void {
    this.slow = false
    const waited = this.held.splice(0)
    for (const data of waited) this.take(data)
    if (waited.length > 0) this.room?.()
  }
  private readonly parts = new WatchParts()
  private take(message: WatchData): void {
    this.messages.push(message)
    const data = this.parts.whole(message)
    if (!data) return assert.equal(message.revision, message.prevRevision, 'part of a revision is no progress')
    const { prevRevision, revision, events } = data
    if (this.revision >= 0) assert.equal(prevRevision, this.revision, 'messages follow each other without a gap')
    assert.ok(revision >= prevRevision)
    for (const { type, kv } of events) {
      assert.ok(kv.modRevision > prevRevision && kv.modRevision <= revision)
      this.events.push(`${kv.modRevision} ${type} ${text(kv.key)}`)
    }
    this.revision = revision
  }
  end(reason: string): void {
    this.ended = true
    this.reason = reason
    this.listener?.(reason)
  }
  onEnd(listener: (reason: string) => void): void {
    this.listener = listener
  }
  onRoom(listener: () => void): void {
    this.room = listener
  }
}

/** The entry that writes its own index. */
const entry = (index: number): Entry => ({
  index,
  command: {
    type: 'txn',
    txn: { compare: [], success: [{ type: 'put', key: bytes('a'), value: bytes(`${index}`) }], failure: [] },
  },
})

/** A member that has applied two entries, and the state of another one that has two more. */
function memberBehind() {
  const engine = new MemoryStateEngine()
  const mvcc = new Mvcc(engine)
  const otherEngine = new MemoryStateEngine()
  const other = new Mvcc(otherEngine)
  for (const index of [1, 2]) for (const each of [mvcc, other]) each.applyBatch([entry(index)])
  for (const index of [3, 4]) other.applyBatch([entry(index)])
  const clock = new ManualClock()
  const hub = new WatchHub(mvcc, clock as unknown as Clock)
  return { engine, mvcc, clock, hub, otherEngine }
}

/** The state of one, on the disk of another, to be shown there. */
async function putSnapshot(from: MemoryStateEngine, to: MemoryStateEngine): Promise<SnapshotReceiver> {
  const receiver = new SnapshotReceiver(to)
  for (const chunk of snapshotChunks(from.snapshot(), 100)) await receiver.write(chunk)
  await receiver.finish()
  return receiver
}

const keys = ['a', 'b', 'c/1', 'c/2']
const ranges: [string, string | undefined][] = [
  ['a', undefined],
  ['c/', 'c0'],
  ['\0', '\0'],
  ['b', 'c/2'],
]
const stepArb = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(
      fc.constant('write' as const),
      fc.uniqueArray(fc.constantFrom(...keys), { minLength: 1, maxLength: 3 }),
      fc.boolean(),
    ),
  },
  { weight: 3, arbitrary: fc.tuple(fc.constant('watch' as const), fc.nat(3), fc.nat(30)) },
  { weight: 4, arbitrary: fc.tuple(fc.constant('turn' as const)) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('slow' as const), fc.nat(9)) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('readOn' as const), fc.nat(9)) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('compact' as const)) },
  // Entries come no more; a snapshot lies on the engine; a read sees that; the member is told, and goes on.
  { weight: 2, arbitrary: fc.tuple(fc.constant('lag' as const)) },
  { weight: 3, arbitrary: fc.tuple(fc.constant('install' as const)) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('look' as const)) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('installed' as const)) },
)

test('what a snapshot brings is told of when it has been sent, not before', async () => {
  const { engine, mvcc, clock, hub, otherEngine } = memberBehind()
  const reader = new Reader()
  const has = mvcc.revision
  const watch = { range: { key: bytes('a') }, startRevision: has + 1, prevKv: false, filters: [] }
  const { position } = hub.add(reader, watch)
  ;(await putSnapshot(otherEngine, engine)).show()
  mvcc.reload()
  assert.equal(mvcc.revision, has + 2)
  // A beat comes here.
  assert.equal(position().revision, has)
  hub.reset()
  while (clock.deferred.length > 0) {
    assert.equal(position().revision, has + reader.events.length)
    clock.step()
  }
  assert.equal(reader.events.length, 2)
  assert.equal(position().revision, has + 2)
})

test('a watch that caught up while a snapshot was being installed does not get again what it had', async () => {
  const { engine, mvcc, clock, hub, otherEngine } = memberBehind()
  const snapshot = await putSnapshot(otherEngine, engine)
  const [past, present] = [new Reader(), new Reader()]
  const watch = { range: { key: bytes('a') }, prevKv: false, filters: [] }
  hub.add(past, { ...watch, startRevision: 2 })
  hub.add(present, { ...watch, startRevision: mvcc.revision + 1 })
  clock.step()
  assert.deepEqual(past.events, ['2 put a', '3 put a'])
  snapshot.show()
  mvcc.reload()
  hub.reset()
  while (clock.deferred.length > 0) clock.step()
  mvcc.applyBatch([entry(5)])
  assert.deepEqual(past.events, ['2 put a', '3 put a', '4 put a', '5 put a', '6 put a'])
  assert.deepEqual(present.events, ['4 put a', '5 put a', '6 put a'])
})

test('every watch gets every change of its range once and in order, or ends as compacted', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(stepArb, { maxLength: 40, size: 'max' }),
      fc.constantFrom(1, 300, 1e6),
      async (steps, bytesMax) => {
        const engine = new MemoryStateEngine()
        const mvcc = new Mvcc(engine)
        const clock = new ManualClock()
        const hub = new WatchHub(mvcc, clock as unknown as Clock, {}, bytesMax)
        const all: { revision: number; key: string; line: string }[] = []
        const readers: {
          reader: Reader
          start: number
          fits(key: string): boolean
          position(): { revision: number }
        }[] = []
        // Another member, which is never behind.
        const leaderEngine = new MemoryStateEngine()
        const leader = new Mvcc(leaderEngine)
        const log: Command[] = []
        let lags = false
        let installing: SnapshotReceiver | undefined
        leader.onRevisions((batch) => {
          for (const { revision, events } of batch)
            for (const { type, kv } of events)
              all.push({ revision, key: text(kv.key), line: `${revision} ${type} ${text(kv.key)}` })
        })
        const applyRest = () => {
          for (let index = mvcc.appliedIndex + 1; index <= log.length; index++)
            mvcc.applyBatch([{ index, command: log[index - 1] as Command }])
        }
        const append = (command: Command) => {
          log.push(command)
          leader.applyBatch([{ index: log.length, command }])
          if (!lags && !installing) applyRest()
        }
        const installed = () => {
          if (installing) {
            installing.show()
            mvcc.reload()
            hub.reset()
          }
          installing = undefined
          lags = false
          applyRest()
        }
        for (const step of steps) {
          if (step[0] === 'write') {
            const success = step[1].map((key) =>
              step[2] ? { type: 'put', key: bytes(key), value: bytes('v') } : { type: 'delete', key: bytes(key) },
            )
            append({ type: 'txn', txn: { compare: [], success, failure: [] } } as Command)
          } else if (step[0] === 'watch') {
            const [from, to] = ranges[step[1]] as [string, string | undefined]
            const start = 1 + step[2]
            const reader = new Reader()
            const range = to === undefined ? { key: bytes(from) } : { key: bytes(from), rangeEnd: bytes(to) }
            const { position } = hub.add(reader, { range, startRevision: start, prevKv: false, filters: [] })
            const fits = (key: string) => (to === undefined ? key === from : key >= from && (to === '\0' || key < to))
            readers.push({ reader, start, fits, position })
          } else if (step[0] === 'turn') clock.step()
          else if (step[0] === 'slow') {
            const one = readers[step[1] % Math.max(1, readers.length)]
            if (one) one.reader.slow = true
          } else if (step[0] === 'readOn') readers[step[1] % Math.max(1, readers.length)]?.reader.readOn()
          else if (step[0] === 'compact') append({ type: 'compact', revision: leader.revision })
          else if (step[0] === 'lag') lags = true
          else if (step[0] === 'look') mvcc.range({ key: bytes('a') })
          else if (step[0] === 'installed') installed()
          else installing ??= await putSnapshot(leaderEngine, engine)
          // What a beat would say is true at any time.
          for (const { reader, start, fits, position } of readers) {
            if (reader.ended || reader.held.length > 0) continue
            const upTo = position().revision
            assert.deepEqual(
              reader.events,
              all.filter((e) => e.revision >= start && e.revision <= upTo && fits(e.key)).map((e) => e.line),
            )
          }
        }
        installed()
        for (const { reader } of readers) reader.readOn()
        while (clock.deferred.length > 0) clock.step()
        for (const { reader, start, fits } of readers) {
          const expected = all.filter((e) => e.revision >= start && fits(e.key)).map((e) => e.line)
          if (reader.ended) {
            assert.equal(reader.reason, 'compacted')
            assert.deepEqual(reader.events, expected.slice(0, reader.events.length))
          } else assert.deepEqual(reader.events, expected)
        }
      },
    ),
    { numRuns: 500 },
  )
})

test('what is too large for one message comes in several, a revision never half', () => {
  const mvcc = new Mvcc(new MemoryStateEngine())
  const clock = new ManualClock()
  const hub = new WatchHub(mvcc, clock as unknown as Clock, {}, 50_000)
  let index = 0
  const apply = (...txns: TxnOp[][]) =>
    mvcc.applyBatch(
      txns.map((success) => ({
        index: ++index,
        command: { type: 'txn', txn: { compare: [], success, failure: [] } },
      })),
    )
  const all = { range: { key: bytes('k'), rangeEnd: bytes('l') }, startRevision: 2, filters: [] }
  const [live, plain] = [new Reader(), new Reader()]
  hub.add(live, { ...all, prevKv: true })
  hub.add(plain, { ...all, prevKv: false })
  const settle = () => {
    while (clock.deferred.length > 0) clock.step()
  }
  const puts = Array.from({ length: 300 }, (_, i): TxnOp[] => [
    { type: 'put', key: bytes(`k${i}`), value: new Uint8Array(1000) },
  ])
  // As a member that lags applies them: many revisions at once.
  apply(...puts)
  settle()
  apply(
    [{ type: 'delete', key: bytes('k'), rangeEnd: bytes('l') }],
    [{ type: 'put', key: bytes('k'), value: bytes('') }],
  )
  settle()
  const late = new Reader()
  hub.add(late, { ...all, prevKv: true })
  settle()
  const bytesOf = ({ events }: WatchData) =>
    events.reduce((sum, { kv, prevKv }) => sum + kv.value.length + (prevKv?.value.length ?? 0), 0)
  for (const reader of [live, plain, late]) {
    assert.equal(reader.events.length, 601)
    assert.equal(new Set(reader.events).size, 601)
    for (const message of reader.messages) assert.ok(bytesOf(message) < 52_000)
    assert.equal(reader.revision, mvcc.revision)
  }
  for (const { messages } of [live, late]) assert.ok(messages.filter(({ partial }) => partial).length >= 5)
  // Live again: what is small goes out at once.
  apply([{ type: 'put', key: bytes('k'), value: bytes('') }])
  assert.equal(live.events.at(-1), '304 put k')
})

test('watches that differ in range or kind are no group, however their ends are spelt', () => {
  const { apply, watch } = setUp()
  const wide = watch('a', 'b p', 2)
  const narrow = watch('a', 'b', 2, { prevKv: true })
  apply(put('a', '1'), put('a', '2'), put('b', '1'))
  assert.deepEqual(wide.events, ['2 put a', '3 put a', '4 put b'])
  assert.deepEqual(narrow.events, ['2 put a', '3 put a'])
  assert.equal(text(narrow.messages.at(-1)?.events.at(-1)?.prevKv?.value ?? bytes('')), '1')
})

test('the planted bug loses a message so that nobody notices', () => {
  const mvcc = new Mvcc(new MemoryStateEngine())
  const hub = new WatchHub(mvcc, new ManualClock() as unknown as Clock, {
    loseLast: new RealRandom(new Uint8Array(32)),
  })
  const reader = new Reader()
  const { position } = hub.add(reader, { range: { key: bytes('a') }, startRevision: 2, prevKv: false, filters: [] })
  for (let index = 1; index <= 200; index++)
    mvcc.applyBatch([
      {
        index,
        command: {
          type: 'txn',
          txn: { compare: [], success: [{ type: 'put', key: bytes('a'), value: bytes('v') }], failure: [] },
        },
      },
    ])
  assert.equal(position().revision, mvcc.revision)
  assert.ok(reader.events.length < 200 && reader.events.length > 100)
})

// ------------------------------------------------------------------------------------- the nine guarantees, one test each

const put = (key: string, value = 'v'): Command => ({
  type: 'txn',
  txn: { compare: [], success: [{ type: 'put', key: bytes(key), value: bytes(value) }], failure: [] },
})
const remove = (key: string): Command => ({
  type: 'txn',
  txn: { compare: [], success: [{ type: 'delete', key: bytes(key) }], failure: [] },
})

function setUp(bugs: WatchBugs = {}) {
  const mvcc = new Mvcc(new MemoryStateEngine())
  const clock = new ManualClock()
  const hub = new WatchHub(mvcc, clock as unknown as Clock, bugs)
  let index = 0
  const apply = (...commands: Command[]) => mvcc.applyBatch(commands.map((command) => ({ index: ++index, command })))
  const watch = (
    from: string,
    to: string | undefined,
    startRevision: number,
    more: { prevKv?: boolean; filters?: string[] } = {},
  ) => {
    const reader = new Reader()
    const range = to === undefined ? { key: bytes(from) } : { key: bytes(from), rangeEnd: bytes(to) }
    const { position } = hub.add(reader, { range, startRevision, prevKv: false, filters: [], ...more })
    return Object.assign(reader, { position })
  }
  const settle = () => {
    while (clock.deferred.length > 0) clock.step()
  }
  return { mvcc, hub, apply, watch, settle }
}

test('Filter: a watch sees the changes of its keys alone, and of its kinds', () => {
  const { apply, watch } = setUp()
  const one = watch('b', undefined, 2)
  const range = watch('b', 'd', 2)
  const from = watch('c', '\0', 2)
  const noPut = watch('a', 'z', 2, { filters: ['noPut'] })
  const noDelete = watch('a', 'z', 2, { filters: ['noDelete'] })
  apply(put('a'), put('b'), put('c'), remove('b'), put('d'))
  assert.deepEqual(one.events, ['3 put b', '5 delete b'])
  assert.deepEqual(range.events, ['3 put b', '4 put c', '5 delete b'])
  assert.deepEqual(from.events, ['4 put c', '6 put d'])
  assert.deepEqual(noPut.events, ['5 delete b'])
  assert.deepEqual(noDelete.events, ['2 put a', '3 put b', '4 put c', '6 put d'])
})

test('Bookmarkable: what a beat states was delivered in full, also to a watch that nothing happened for', () => {
  const { mvcc, apply, watch, settle } = setUp()
  for (let i = 0; i < 3000; i++) apply(put('a'))
  const idle = watch('idle', undefined, mvcc.revision + 1)
  const past = watch('a', undefined, 2)
  assert.ok(past.position().revision < mvcc.revision, 'it is catching up, and says so')
  assert.equal(past.events.length, past.position().revision - 1)
  apply(put('a'))
  assert.equal(idle.position().revision, mvcc.revision)
  settle()
  assert.deepEqual([past.position().revision, past.events.length], [mvcc.revision, 3001])
})

test('Ordered: by revision, and within one as the transaction put them; the past before the present', () => {
  const { apply, watch, settle } = setUp()
  const expected: string[] = []
  for (let i = 0; i < 2500; i++) {
    apply(put('a'))
    expected.push(`${i + 2} put a`)
  }
  const past = watch('a', 'z', 2)
  const both: Command = {
    type: 'txn',
    txn: {
      compare: [],
      success: ['c', 'b'].map((key) => ({ type: 'put', key: bytes(key), value: bytes('v') })),
      failure: [],
    },
  }
  apply(both)
  settle()
  assert.deepEqual(past.events, [...expected, '2502 put c', '2502 put b'])
})

test('Unique: an event comes once, whether caught up with, in step, or read on with after a time without credit', () => {
  const { apply, watch, settle } = setUp()
  apply(put('a'), put('a'))
  const reader = watch('a', undefined, 2)
  settle()
  apply(put('a'))
  reader.slow = true
  for (let i = 0; i < 40; i++) apply(put('a'))
  assert.equal(reader.waiting, 16, 'no more waits for a slow reader than its bound')
  reader.readOn()
  settle()
  apply(put('a'))
  assert.deepEqual(
    reader.events,
    Array.from({ length: 44 }, (_, i) => `${i + 2} put a`),
  )
})

test('Atomic: the events of one revision come in one message, in the past and in the present', () => {
  const { apply, watch, settle } = setUp()
  const many: Command = {
    type: 'txn',
    txn: {
      compare: [],
      success: Array.from({ length: 100 }, (_, i) => ({ type: 'put', key: bytes(`k${i}`), value: bytes('v') })),
      failure: [],
    },
  }
  for (let i = 0; i < 25; i++) apply(many)
  const past = watch('k', 'l', 2)
  const present = watch('k', 'l', 27)
  settle()
  apply(many)
  for (const { messages } of [past, present]) {
    const seen = new Set<number>()
    for (const { events } of messages) {
      const here = new Set(events.map(({ kv }) => kv.modRevision))
      for (const revision of here) {
        assert.ok(!seen.has(revision), `revision ${revision} is spread over two messages`)
        assert.equal(events.filter(({ kv }) => kv.modRevision === revision).length, 100)
        seen.add(revision)
      }
    }
  }
  assert.deepEqual([past.events.length, present.events.length], [2600, 100])
})

test('Reliable: a slow watch misses nothing, and costs the others nothing', () => {
  const { apply, watch, settle } = setUp()
  const slow = watch('a', undefined, 2)
  const fast = watch('a', undefined, 2)
  slow.slow = true
  for (let i = 0; i < 100; i++) {
    apply(put('a'))
    assert.equal(fast.events.length, i + 1, 'it does not wait for the slow one')
  }
  slow.readOn()
  settle()
  assert.deepEqual(slow.events, fast.events)
})

test('Resumable: from any revision that is not compacted; a watch from a compacted one is told so', () => {
  const { mvcc, apply, watch, settle } = setUp()
  for (let i = 0; i < 10; i++) apply(put('a'))
  apply({ type: 'compact', revision: 6 })
  const resumed = watch('a', undefined, 6)
  const late = watch('a', undefined, 5)
  settle()
  assert.deepEqual(resumed.events, ['6 put a', '7 put a', '8 put a', '9 put a', '10 put a', '11 put a'])
  assert.deepEqual([late.events, late.reason], [[], 'compacted'])
  // One that has everything is not touched by a compaction of what it has, whatever happens to the state under it.
  const idle = watch('other', undefined, mvcc.revision + 1)
  apply(put('a'), put('a'), { type: 'compact', revision: 13 })
  idle.slow = true
  for (let i = 0; i < 20; i++) apply(put('other'))
  idle.readOn()
  settle()
  assert.deepEqual([idle.ended, idle.events.length], [false, 20])
})

test('PrevKV: what was there before each event, also within one batch', () => {
  const { apply, watch } = setUp()
  const reader = watch('a', undefined, 2, { prevKv: true })
  apply(put('a', '1'), put('a', '2'), remove('a'), put('a', '3'))
  assert.deepEqual(
    reader.messages.flatMap(({ events }) => events.map(({ prevKv }) => prevKv && text(prevKv.value))),
    [undefined, '1', '2', undefined],
  )
})

test('IsCreate: a put that makes the key has its create revision as mod revision, and version 1', () => {
  const { apply, watch } = setUp()
  const reader = watch('a', undefined, 2)
  apply(put('a'), put('a'), remove('a'), put('a'))
  const created = reader.messages
    .flatMap(({ events }) => events)
    .filter(({ type, kv }) => type === 'put' && kv.createRevision === kv.modRevision && kv.version === 1)
    .map(({ kv }) => kv.modRevision)
  assert.deepEqual(created, [2, 5])
})

test('planted bugs: an event doubled on resume; one sent before the watch was synced', () => {
  const doubled = setUp({ doubledOnResume: true })
  doubled.apply(put('a'), put('a'), put('a'))
  assert.throws(() => doubled.watch('a', undefined, 3), /falsy/)
  const early = setUp({ beforeSynced: true })
  for (let i = 0; i < 2500; i++) early.apply(put('a'))
  const reader = early.watch('a', undefined, 2)
  assert.equal(reader.events.at(-1), '1001 put a')
  early.apply(put('a'))
  assert.equal(reader.events.at(-1), '2502 put a')
})

test('a thousand watches of one range: their events are chosen once', () => {
  const { mvcc, apply, watch } = setUp()
  let asked = 0
  const previous = mvcc.previous.bind(mvcc)
  mvcc.previous = (...of) => {
    asked++
    return previous(...of)
  }
  const readers = Array.from({ length: 1000 }, () => watch('a', 'b', 2, { prevKv: true }))
  apply(put('a'), put('a'))
  assert.ok(readers.every(({ events }) => events.length === 2))
  assert.equal(asked, 2)
  const [first, second] = readers.map(({ messages }) => messages[1])
  assert.equal(first, second, 'one message for all')
})
