import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ManualClock } from '@capstan/client/testing'
import fc from 'fast-check'
import { LocalGuard } from './guard.js'
import { GuardCore, type GuardOrder, parseGuardOrder } from './guard-core.js'

const BOOT = 'boot-1'
const order = (sequence: number, deadlineMs: number, pods: string[], bootId = BOOT): GuardOrder => ({
  formatVersion: 1,
  sequence,
  bootId,
  deadlineMs,
  targets: pods.map((podUid) => ({ podUid, kill: { kind: 'cgroup', path: `/pods/${podUid}` } })),
})

test('nothing before the deadline; all, again and again, from it on; until a later order', () => {
  const core = new GuardCore(BOOT)
  const due = (atMs: number) => core.due(atMs).targets.map(({ podUid }) => podUid)
  assert.deepEqual(due(1_000_000), [], 'it knows of nothing')
  core.take(order(1, 5000, ['a', 'b']))
  assert.deepEqual([due(4999), due(5000), due(5100)], [[], ['a', 'b'], ['a', 'b']])
  core.take(order(2, 9000, ['b']))
  assert.deepEqual([due(5200), due(9000)], [[], ['b']])
})

test('an order from before the last boot is over', () => {
  const core = new GuardCore('boot-2')
  core.take(order(7, 1_000_000, ['a']))
  assert.equal(core.due(1).targets.length, 1)
})

test('what can not be read is no order', () => {
  const text = JSON.stringify(order(1, 5000, ['a']))
  assert.deepEqual(parseGuardOrder(text), order(1, 5000, ['a']))
  for (const bad of ['', '{', 'null', '[]', '{"formatVersion":2}', text.slice(0, 40), text.replace('5000', '"x"')])
    assert.equal(parseGuardOrder(bad), undefined, bad)
})

test('property: what is due follows from the newest order and the time alone', () => {
  const event = fc.oneof(
    fc.record({ order: fc.record({ sequence: fc.nat(8), deadline: fc.nat(100), pods: fc.subarray(['a', 'b', 'c']) }) }),
    fc.record({ passMs: fc.nat(40) }),
  )
  fc.assert(
    fc.property(fc.array(event, { maxLength: 40 }), (events) => {
      const core = new GuardCore(BOOT)
      let nowMs = 0
      let newest: GuardOrder | undefined
      let wasDue = false
      for (const one of events) {
        if ('order' in one) {
          const given = order(one.order.sequence, one.order.deadline, one.order.pods)
          core.take(given)
          if (given.sequence > (newest?.sequence ?? 0)) newest = given
        } else nowMs += one.passMs
        const { targets, news } = core.due(nowMs)
        const expired = newest !== undefined && nowMs >= newest.deadlineMs
        assert.deepEqual(targets, expired ? newest?.targets : [])
        assert.equal(news, expired && !wasDue, 'it is news once')
        wasDue = expired
        assert.equal(core.sequence, newest?.sequence ?? 0)
      }
    }),
  )
})

test('a guard in this process ends at the deadline, to the millisecond, and what comes up later', async () => {
  const clock = new ManualClock()
  const ended: string[] = []
  const guard = new LocalGuard(clock, ({ podUid }) => ended.push(`${podUid} ${clock.monotonicMs()}`))
  guard.tell({ ...order(1, 1000, ['a']), bootId: guard.bootId })
  await clock.advance(900)
  guard.tell({ ...order(2, 1500, ['a']), bootId: guard.bootId })
  await clock.advance(700)
  assert.deepEqual(ended, ['a 1500', 'a 1600'])
  assert.deepEqual(guard.state(), { sequence: 2, atMs: 1600 })
  guard.stop()
  await clock.advance(10_000)
  assert.deepEqual([ended.length, guard.state()], [2, undefined])
})
