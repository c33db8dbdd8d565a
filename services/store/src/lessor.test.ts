import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Lessor } from './lessor.js'

test('a lease ends at its time, is told until its end is proposed, and again after a failure', () => {
  const lessor = new Lessor()
  lessor.lead(0, 0)
  lessor.granted(1000, 7, 5)
  assert.deepEqual(lessor.ended(5999, 10), [])
  assert.equal(lessor.remainingSeconds(2500, 7), 4)
  assert.deepEqual(lessor.ended(6000, 10), [7])
  assert.equal(lessor.ending(6000, 7), true)
  assert.deepEqual(lessor.ended(6001, 10), [])
  assert.equal(lessor.renewing(6001, 7), false, 'its end is decided: a renewal comes too late')
  lessor.retry(7)
  assert.equal(lessor.renewing(6002, 7), true)
  assert.deepEqual(lessor.ended(11_001, 10), [])
  assert.deepEqual(lessor.ended(11_002, 10), [7])
})

test('a lease that was renewed while leadership was made sure does not end', () => {
  const lessor = new Lessor()
  lessor.lead(0, 0)
  lessor.granted(0, 1, 2)
  assert.deepEqual(lessor.ended(2000, 10), [1])
  lessor.checkpointed(2001, 1, 0)
  assert.equal(lessor.ending(2002, 1), false)
  assert.equal(lessor.renewing(2002, 1), true)
})

test('remaining time is kept over elections: not shortened, not given anew', () => {
  // Two members see the same log, each by its own clock, which began at another time.
  const a = new Lessor()
  const b = new Lessor()
  const OTHER = 1_000_000
  const both = (atMs: number, run: (lessor: Lessor, nowMs: number) => void) => {
    run(a, atMs)
    run(b, atMs + OTHER)
  }
  a.lead(0, 0)
  both(0, (lessor, now) => lessor.granted(now, 1, 10))
  both(4000, (lessor, now) => lessor.checkpointed(now, 1, 0))
  // Elections every three seconds, each with half a second without a leader, and nobody renews.
  let leader = a
  for (let atMs = 6000; atMs <= 30_000; atMs += 3000) {
    leader.follow()
    leader = leader === a ? b : a
    leader.lead(atMs + (leader === b ? OTHER : 0), 500)
    const now = atMs + 2999 + (leader === b ? OTHER : 0)
    const over = leader.ended(now, 10).length > 0
    assert.equal(over, atMs + 2999 >= 14_500, `at ${atMs + 2999}`)
  }
})

test('the planted bug: each election gives each lease its full time, so that one whose holder is dead never ends', () => {
  const lessor = new Lessor({ resetOnElection: true })
  lessor.granted(0, 1, 10)
  for (let atMs = 3000; atMs <= 300_000; atMs += 3000) {
    lessor.lead(atMs, 500)
    assert.deepEqual(lessor.ended(atMs + 2999, 10), [])
    lessor.follow()
  }
})

test('checkpoints: in batches, only of leases that nobody renewed for half their time', () => {
  const lessor = new Lessor()
  lessor.lead(0, 0)
  lessor.granted(0, 1, 60)
  lessor.granted(0, 2, 60)
  lessor.granted(0, 3, 2)
  lessor.granted(0, 4, 3600)
  lessor.checkpointed(20_000, 2, 0)
  assert.deepEqual(lessor.checkpoint(500, 10), [])
  lessor.checkpointed(900, 3, 0)
  assert.deepEqual(lessor.checkpoint(1950, 10), [{ id: 3, seconds: 1 }])
  lessor.revoked(3)
  assert.deepEqual(lessor.checkpoint(30_000, 10), [{ id: 1, seconds: 30 }])
  assert.deepEqual(lessor.checkpoint(30_250, 10), [], 'it is on its way')
  assert.deepEqual(lessor.checkpoint(60_000, 1), [{ id: 4, seconds: 3540 }], 'of many, those that waited longest')
})

test('after a restart what the last checkpoint said remains; a later one, or a renewal, says more', () => {
  const lessor = new Lessor()
  lessor.load(0, [
    { id: 1, ttlSeconds: 600, remainingSeconds: 20 },
    { id: 2, ttlSeconds: 600, remainingSeconds: 0 },
    { id: 3, ttlSeconds: 600, remainingSeconds: 20 },
  ])
  lessor.checkpointed(1000, 2, 30)
  lessor.checkpointed(1000, 3, 0)
  lessor.lead(2000, 0)
  assert.deepEqual(
    [1, 2, 3].map((id) => lessor.remainingSeconds(2000, id)),
    [18, 29, 599],
  )
})

test('a pause of the leader ends nothing early, and is forgotten when it leads no more', () => {
  const lessor = new Lessor()
  lessor.granted(0, 1, 1)
  lessor.lead(0, 0)
  lessor.extendAll(3000)
  assert.deepEqual(lessor.ended(3999, 10), [])
  assert.deepEqual(lessor.ended(4000, 10), [1])
  lessor.follow()
  lessor.extendAll(3000)
  lessor.lead(1500, 0)
  assert.deepEqual(lessor.ended(1500, 10), [1])
})
