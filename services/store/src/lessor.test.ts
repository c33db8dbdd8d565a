import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Lessor } from './lessor.js'

test('a lease ends at its time, is told once, and again after a failure', () => {
  const lessor = new Lessor()
  lessor.lead(0, [])
  lessor.granted(1000, 7, 5)
  assert.deepEqual(lessor.takeEnded(5999, 10), [])
  assert.equal(lessor.remainingSeconds(2500, 7), 4)
  assert.deepEqual(lessor.takeEnded(6000, 10), [7])
  assert.deepEqual(lessor.takeEnded(6001, 10), [])
  assert.equal(lessor.renew(6001, 7), 'gone', 'its end is decided: a renewal comes too late')
  lessor.retry(7)
  assert.equal(lessor.renew(6002, 7), 'renewed')
  assert.deepEqual(lessor.takeEnded(11_001, 10), [])
  assert.deepEqual(lessor.takeEnded(11_002, 10), [7])
})

test('a new leader gives what the checkpoint says remained, else all; a renewal takes the checkpoint back first', () => {
  const lessor = new Lessor()
  lessor.lead(0, [
    { id: 1, ttlSeconds: 600, remainingSeconds: 20 },
    { id: 2, ttlSeconds: 600, remainingSeconds: 0 },
  ])
  assert.equal(lessor.remainingSeconds(0, 1), 20)
  assert.equal(lessor.remainingSeconds(0, 2), 600)
  assert.equal(lessor.renew(1000, 1), 'reset')
  lessor.checkpointApplied(1, 0)
  assert.equal(lessor.renew(1000, 1), 'renewed')
  assert.deepEqual(lessor.checkpoint(61_000, 120, 10), [
    { id: 1, seconds: 540 },
    { id: 2, seconds: 539 },
  ])
})

test('who does not lead ends nothing; a pause of our own ends nothing early', () => {
  const lessor = new Lessor()
  lessor.granted(0, 1, 1)
  assert.deepEqual(lessor.takeEnded(5000, 10), [])
  lessor.lead(0, [{ id: 1, ttlSeconds: 1, remainingSeconds: 0 }])
  lessor.extendAll(3000)
  assert.deepEqual(lessor.takeEnded(3999, 10), [])
  assert.deepEqual(lessor.takeEnded(4000, 10), [1])
  lessor.follow()
  assert.equal(lessor.renew(0, 1), 'gone')
})
