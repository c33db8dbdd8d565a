import assert from 'node:assert/strict'
import { test } from 'node:test'
import { combine, Departures, FrameReader, PLAIN, QUEUE_MS_MAX, REORDER_MS, WireLink } from './wire.js'

/** Chances in the order in which they are asked for. */
const chances =
  (...values: number[]) =>
  () => {
    const value = values.shift()
    assert.notEqual(value, undefined, 'more chances were asked for than the test has')
    return value as number
  }
const frame = (size = 60) => new Uint8Array(size).fill(7)

test('delay, and jitter by chance', () => {
  const link = new WireLink({ ...PLAIN, delayMs: 5, jitterMs: 10 }, chances(0.5))
  assert.deepEqual(
    link.accept(frame(), 100).map((f) => f.atMs),
    [110],
  )
  assert.equal(link.counts.heldMs, 10)
})

test('lost, doubled, out of order', () => {
  const lossy = new WireLink({ ...PLAIN, loss: 0.5 }, chances(0.4, 0.6))
  assert.equal(lossy.accept(frame(), 0).length, 0)
  assert.equal(lossy.accept(frame(), 0).length, 1)
  const double = new WireLink({ ...PLAIN, duplicate: 0.5 }, chances(0.4))
  assert.equal(double.accept(frame(), 0).length, 2)
  const mixed = new WireLink({ ...PLAIN, reorder: 0.5 }, chances(0.4, 0.6))
  assert.deepEqual(
    [...mixed.accept(frame(), 0), ...mixed.accept(frame(), 1)].map((f) => f.atMs),
    [REORDER_MS, 1],
  )
})

test('damage turns one bit, and never one of the header', () => {
  for (const where of [0, 0.5, 0.999999]) {
    const sent = new WireLink({ ...PLAIN, corrupt: 1 }, chances(0, where)).accept(frame(), 0)[0]?.frame as Uint8Array
    const turned = [...sent].flatMap((byte, i) => (byte === 7 ? [] : [{ i, bits: byte ^ 7 }]))
    assert.equal(turned.length, 1)
    assert.ok((turned[0]?.i ?? 0) >= 14)
    assert.ok([1, 2, 4, 8, 16, 32, 64, 128].includes(turned[0]?.bits ?? 0))
  }
})

test('a narrow link makes frames wait for those before them, and loses them at its bound', () => {
  const link = new WireLink({ ...PLAIN, bytesPerSecond: 1000 }, chances())
  assert.deepEqual(
    link.accept(frame(100), 0).map((f) => f.atMs),
    [100],
  )
  assert.deepEqual(
    link.accept(frame(100), 0).map((f) => f.atMs),
    [200],
  )
  for (let i = 0; i < 10; i++) link.accept(frame(100), 0)
  assert.equal(link.counts.overflowed, 12 - (QUEUE_MS_MAX / 100 + 1))
  assert.deepEqual(
    link.accept(frame(100), 10_000).map((f) => f.atMs),
    [10_100],
    'an idle link has saved nothing up',
  )
})

test('faults on one link add up', () => {
  const rule = combine([
    { delayMs: 5, loss: 0.5 },
    { delayMs: 20, loss: 0.5, bytesPerSecond: 10 },
    { bytesPerSecond: 5 },
  ])
  assert.deepEqual([rule.delayMs, rule.loss, rule.bytesPerSecond], [25, 0.75, 5])
})

test('departures leave by time, those of one time as they came', () => {
  const waiting = new Departures<string>()
  for (const [at, what] of [
    [5, 'c'],
    [1, 'a'],
    [5, 'd'],
    [3, 'b'],
    [9, 'e'],
  ] as const)
    waiting.add(at, what)
  const left: string[] = []
  for (let what = waiting.take(5); what; what = waiting.take(5)) left.push(what)
  assert.deepEqual(left, ['a', 'b', 'c', 'd'])
  assert.equal(waiting.nextMs, 9)
})

test('frames are found in a stream, however it is cut into pieces', () => {
  const stream = Buffer.concat([1, 0, 3].map((n) => Buffer.concat([Buffer.from([0, n]), Buffer.alloc(n, n)])))
  for (let size = 1; size <= stream.length; size++) {
    const reader = new FrameReader()
    const lengths: number[] = []
    for (let at = 0; at < stream.length; at += size)
      lengths.push(...reader.read(stream.subarray(at, at + size)).map((f) => f.length))
    assert.deepEqual(lengths, [1, 0, 3])
  }
})
