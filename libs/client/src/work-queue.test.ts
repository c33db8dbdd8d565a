import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { ManualClock } from './testing.js'
import { WorkQueue } from './work-queue.js'

function queueOn(clock: ManualClock, options = {}) {
  return new WorkQueue({ clock }, options)
}

test('a key waits at most once, and comes again after done when added in work', async () => {
  const queue = queueOn(new ManualClock())
  queue.add('a')
  queue.add('a')
  queue.add('b')
  assert.equal(await queue.take(), 'a')
  queue.add('a')
  assert.equal(await queue.take(), 'b')
  assert.equal(queue.waiting, 1)
  const next = queue.take()
  queue.done('a')
  assert.equal(await next, 'a')
})

test('back-off of a key doubles from 5 ms to the cap and starts anew after forget', () => {
  const queue = queueOn(new ManualClock(), { backoffMsMax: 50 })
  assert.deepEqual(
    [1, 2, 3, 4, 5, 6].map(() => queue.addRateLimited('a')),
    [5, 10, 20, 40, 50, 50],
  )
  assert.equal(queue.addRateLimited('b'), 5)
  queue.forget('a')
  assert.equal(queue.addRateLimited('a'), 5)
})

test('the earlier of two delays counts', async () => {
  const clock = new ManualClock()
  const queue = queueOn(clock)
  queue.addAfter('a', 100)
  queue.addAfter('a', 20)
  queue.addAfter('a', 50)
  let taken: string | undefined
  void queue.take().then((key) => (taken = key))
  await clock.advance(19)
  assert.equal(taken, undefined)
  await clock.advance(1)
  assert.equal(taken, 'a')
})

test('a full queue refuses new keys, not known ones', () => {
  const queue = queueOn(new ManualClock(), { keysMax: 2 })
  assert.deepEqual(
    ['a', 'b', 'c', 'a'].map((key) => queue.add(key)),
    [true, true, false, true],
  )
})

test('a rate limit hands out its burst, then so many a second', async () => {
  const clock = new ManualClock()
  const queue = queueOn(clock, { perSecond: 10 })
  let taken = 0
  for (let key = 0; key < 30; key++) {
    queue.add(`k${key}`)
    void queue.take().then(() => taken++)
  }
  await clock.advance(0)
  assert.equal(taken, 10)
  await clock.advance(1000)
  assert.equal(taken, 20)
})

test('stop wakes the takers with nothing', async () => {
  const queue = queueOn(new ManualClock())
  const waiting = queue.take()
  queue.stop()
  assert.equal(await waiting, undefined)
  assert.equal(queue.add('a'), false)
})

test('property: no key is in work twice, and none added is lost', async () => {
  const step = fc.oneof(
    fc.record({ op: fc.constant('add' as const), key: fc.integer({ min: 0, max: 4 }) }),
    fc.record({ op: fc.constant('after' as const), key: fc.integer({ min: 0, max: 4 }) }),
    fc.record({ op: fc.constant('take' as const), key: fc.constant(0) }),
    fc.record({ op: fc.constant('done' as const), key: fc.integer({ min: 0, max: 4 }) }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const clock = new ManualClock()
      const queue = queueOn(clock)
      const inWork = new Set<string>()
      const owed = new Set<string>()
      const took = (key: string | undefined) => {
        if (key === undefined) return
        assert.ok(!inWork.has(key), `${key} twice in work`)
        inWork.add(key)
        owed.delete(key)
      }
      for (const { op, key } of steps) {
        const name = `k${key}`
        if (op === 'add' || op === 'after') {
          owed.add(name)
          queue.addAfter(name, op === 'add' ? 0 : 10)
        } else if (op === 'take') void queue.take().then(took)
        else if (inWork.delete(name)) queue.done(name)
        await Promise.resolve()
        await Promise.resolve()
      }
      await clock.advance(100)
      for (let round = 0; round < 40 && owed.size > 0; round++) {
        for (const key of inWork) {
          inWork.delete(key)
          queue.done(key)
        }
        void queue.take().then(took)
        await Promise.resolve()
        await Promise.resolve()
      }
      assert.deepEqual([...owed], [])
    }),
    { numRuns: 200 },
  )
})
