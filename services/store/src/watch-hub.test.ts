import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Clock, OutStream } from '@capstan/actor'
import { type Command, MemoryStateEngine, Mvcc, snapshotChunks, SnapshotReceiver } from '@capstan/mvcc'
import type { WatchData } from '@capstan/protocol'
import { RealRandom } from '@capstan/real'
import fc from 'fast-check'
import { WatchHub } from './watch-hub.js'

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
  readonly waiting = 0
  reason = ''
  readonly events: string[] = []
  revision = -1
  private listener: ((reason: string) => void) | undefined
  send(body: unknown): boolean {
    const { prevRevision, revision, events } = body as WatchData
    if (this.revision >= 0) assert.equal(prevRevision, this.revision, 'messages follow each other without a gap')
    assert.ok(revision >= prevRevision)
    for (const { type, kv } of events) {
      assert.ok(kv.modRevision > prevRevision && kv.modRevision <= revision)
      this.events.push(`${kv.modRevision} ${type} ${text(kv.key)}`)
    }
    this.revision = revision
    return !this.ended
  }
  end(reason: string): void {
    this.ended = true
    this.reason = reason
    this.listener?.(reason)
  }
  onEnd(listener: (reason: string) => void): void {
    this.listener = listener
  }
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
  { weight: 1, arbitrary: fc.tuple(fc.constant('compact' as const)) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('snapshot' as const)) },
)

test('every watch gets every change of its range once and in order, or ends as compacted', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(stepArb, { maxLength: 40 }), async (steps) => {
      const engine = new MemoryStateEngine()
      const mvcc = new Mvcc(engine)
      const clock = new ManualClock()
      const hub = new WatchHub(mvcc, clock as unknown as Clock)
      const all: { revision: number; key: string; line: string }[] = []
      const readers: { reader: Reader; start: number; fits(key: string): boolean; position(): { revision: number } }[] =
        []
      let index = 0
      mvcc.onRevisions((batch) => {
        for (const { revision, events } of batch)
          for (const { type, kv } of events)
            all.push({ revision, key: text(kv.key), line: `${revision} ${type} ${text(kv.key)}` })
      })
      for (const step of steps) {
        if (step[0] === 'write') {
          const success = step[1].map((key) =>
            step[2] ? { type: 'put', key: bytes(key), value: bytes('v') } : { type: 'delete', key: bytes(key) },
          )
          mvcc.applyBatch([
            { index: ++index, command: { type: 'txn', txn: { compare: [], success, failure: [] } } as Command },
          ])
        } else if (step[0] === 'watch') {
          const [from, to] = ranges[step[1]] as [string, string | undefined]
          const start = 1 + step[2]
          const reader = new Reader()
          const range = to === undefined ? { key: bytes(from) } : { key: bytes(from), rangeEnd: bytes(to) }
          const { position } = hub.add(reader, { range, startRevision: start, prevKv: false, filters: [] })
          const fits = (key: string) => (to === undefined ? key === from : key >= from && (to === '\0' || key < to))
          readers.push({ reader, start, fits, position })
        } else if (step[0] === 'turn') clock.step()
        else if (step[0] === 'compact')
          mvcc.applyBatch([{ index: ++index, command: { type: 'compact', revision: mvcc.revision } }])
        else {
          const receiver = new SnapshotReceiver(engine)
          for (const chunk of snapshotChunks(engine.snapshot(), 100)) await receiver.write(chunk)
          await receiver.finish()
          mvcc.reload()
          hub.reset()
        }
        // What a beat would say is true at any time.
        for (const { reader, start, fits, position } of readers) {
          if (reader.ended) continue
          const upTo = position().revision
          assert.deepEqual(
            reader.events,
            all.filter((e) => e.revision >= start && e.revision <= upTo && fits(e.key)).map((e) => e.line),
          )
        }
      }
      while (clock.deferred.length > 0) clock.step()
      for (const { reader, start, fits } of readers) {
        const expected = all.filter((e) => e.revision >= start && fits(e.key)).map((e) => e.line)
        if (reader.ended) {
          assert.equal(reader.reason, 'compacted')
          assert.deepEqual(reader.events, expected.slice(0, reader.events.length))
        } else assert.deepEqual(reader.events, expected)
      }
    }),
    { numRuns: 300 },
  )
})

test('the planted bug loses a message so that nobody notices', () => {
  const mvcc = new Mvcc(new MemoryStateEngine())
  const hub = new WatchHub(mvcc, new ManualClock() as unknown as Clock, new RealRandom(new Uint8Array(32)))
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
