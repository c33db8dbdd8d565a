import assert from 'node:assert/strict'
import { test } from 'node:test'
import { serve } from '@capstan/actor'
import { ManualClock, manualWorld, MemoryBroker } from '@capstan/client/testing'
import { identityToken, Subjects } from '@capstan/protocol'
import { StoreClient } from './store-client.js'

const EVERYTHING = { key: Buffer.from('/'), rangeEnd: Buffer.from('0'), startRevision: 1 }

test('a watch at another member ends when the nearest one serves again, and the next one is opened there', async () => {
  const clock = new ManualClock()
  const broker = new MemoryBroker(clock)
  let worlds = 0
  const worldOf = (component: 'store' | 'apiserver', name: string) =>
    manualWorld({ seed: ++worlds, clock, broker, identity: identityToken({ component, name }) })
  const watched: string[] = []
  /** What the member says of itself. */
  const leaders = new Map<string, string | undefined>([['s1', 's1']])
  const start = (member: string) =>
    serve(worldOf('store', member), {
      pattern: new Subjects('c1').storeServed(member),
      handle: (call) => {
        if (call.verb === 'status') return { role: 'follower', leader: leaders.get(member) }
        watched.push(member)
        return void call.openStream()
      },
    })
  start('s1')
  const store = new StoreClient(worldOf('apiserver', 'm0'), { cluster: 'c1', instance: 'm0', members: ['s0', 's1'] })
  const ends: string[] = []
  const watch = () => store.watch(EVERYTHING, { data: () => undefined, end: (reason) => ends.push(reason) })
  watch()
  await clock.until(() => ends.length === 1)
  watch()
  await clock.until(() => watched.length === 1)
  assert.deepEqual(watched, ['s1'], 'the nearest does not listen')
  start('s0')
  const end = clock.monotonicMs() + 10_000
  await clock.until(() => clock.monotonicMs() >= end)
  assert.equal(ends.length, 1, 'the nearest knows no leader: the watch stays')
  leaders.set('s0', 's1')
  await clock.until(() => ends.length === 2)
  assert.equal(ends[1], 'cancelled')
  watch()
  await clock.until(() => watched.length === 2)
  assert.deepEqual(watched, ['s1', 's0'])
  store.close()
})
