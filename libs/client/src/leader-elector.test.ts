import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import type { Fence } from '@capstan/protocol'
import { RESOURCES } from './api-client.js'
import { LeaderElector, type LockLease } from './leader-elector.js'
import { FakeApiClient, ManualClock, manualWorld } from './testing.js'

const LOCK = { namespace: 'kube-system', name: 'kube-controller-manager' }
const KEY = `${LOCK.namespace}/${LOCK.name}`

function candidate(api: FakeApiClient, clock: ManualClock, identity: string, seed: number) {
  const world = manualWorld({ clock, seed })
  const terms: { fence: Fence; ended: boolean }[] = []
  /** Cuts this candidate off from the API. */
  const link = { cut: false }
  const cuttable = new Proxy(api, {
    get: (target, name) => {
      const method = Reflect.get(target, name) as unknown
      if (typeof method !== 'function') return method
      return (...args: unknown[]) =>
        link.cut ? Promise.reject(new CallError('TIMEOUT', 'maybe-applied', 'cut off')) : method.apply(target, args)
    },
  })
  const elector = new LeaderElector(world, cuttable, {
    lock: LOCK,
    identity,
    lead(fence, signal) {
      const term = { fence, ended: false }
      terms.push(term)
      signal.addEventListener('abort', () => void (term.ended = true))
    },
  })
  return { elector, terms, link, world }
}

function setUp() {
  const clock = new ManualClock()
  const api = new FakeApiClient(clock)
  const a = candidate(api, clock, 'm0', 1)
  const b = candidate(api, clock, 'm1', 2)
  return { clock, api, a, b }
}

test('one of two leads; the token is the create revision of the Lease and survives renewals', async () => {
  const { clock, api, a, b } = setUp()
  a.elector.start()
  await clock.advance(10)
  b.elector.start()
  await clock.advance(20_000)
  assert.ok(a.elector.leading && !b.elector.leading)
  assert.equal(a.terms.length, 1)
  assert.notEqual(api.object(RESOURCES.leases, KEY)?.metadata.resourceVersion, a.elector.fence?.token)
  await api.create(RESOURCES.configmaps, { metadata: { name: 'x' } }, { fence: a.elector.fence as Fence })
})

test('a holder that is cut off stops before another one can lead, and its writes are fenced from then on', async () => {
  const { clock, api, a, b } = setUp()
  a.elector.start()
  await clock.advance(10)
  b.elector.start()
  await clock.advance(5000)
  const old = a.elector.fence as Fence
  a.link.cut = true
  await clock.until(() => !a.elector.leading, 5000, 10)
  assert.ok(!b.elector.leading, 'the holder gives up first')
  await clock.until(() => b.elector.leading, 5000, 10)
  assert.ok(Number(b.elector.fence?.token) > Number(old.token))
  await assert.rejects(api.create(RESOURCES.configmaps, { metadata: { name: 'x' } }, { fence: old }), {
    code: 'FENCED',
  })
  assert.equal(api.object(RESOURCES.configmaps, 'default/x'), undefined)
  a.link.cut = false
  await clock.advance(20_000)
  assert.ok(!a.elector.leading && b.elector.leading && b.terms.length === 1)
})

test('stopping gives the lock back: the next leads within a retry or so', async () => {
  const { clock, api, a, b } = setUp()
  a.elector.start()
  await clock.advance(10)
  b.elector.start()
  await clock.advance(3000)
  await Promise.all([a.elector.stop(), clock.advance(50)])
  assert.ok(a.terms[0]?.ended)
  await clock.advance(700)
  assert.ok(b.elector.leading)
  assert.ok(api.object<LockLease>(RESOURCES.leases, KEY)?.spec?.holderIdentity?.startsWith('m1_'))
})

test('a candidate that could not look starts its wait anew', async () => {
  const { clock, a, b } = setUp()
  a.elector.start()
  await clock.advance(10)
  b.elector.start()
  await clock.advance(2000)
  const from = clock.monotonicMs()
  // Both are cut off for long, as when the store has no quorum; the holder's Lease stays untouched in it.
  a.link.cut = true
  b.link.cut = true
  await clock.advance(10_000)
  b.link.cut = false
  await clock.advance(1600)
  assert.ok(!b.elector.leading, `took over after ${clock.monotonicMs() - from} ms though it saw nothing of them`)
  await clock.advance(1000)
  assert.ok(b.elector.leading)
})

test('an answer lost on creation: the candidate finds its own Lease and takes it anew', async () => {
  const { clock, api, a } = setUp()
  let lost = 0
  api.intercept = (call) =>
    call.verb === 'create' && lost++ === 0
      ? { after: new CallError('TIMEOUT', 'maybe-applied', 'answer lost') }
      : undefined
  a.elector.start()
  await clock.advance(2000)
  assert.ok(a.elector.leading)
  await api.create(RESOURCES.configmaps, { metadata: { name: 'x' } }, { fence: a.elector.fence as Fence })
})

test('an answer lost on renewal costs nothing', async () => {
  const { clock, api, a } = setUp()
  a.elector.start()
  await clock.advance(10)
  let lost = 0
  api.intercept = (call) =>
    call.verb === 'update' && lost++ % 3 === 0
      ? { after: new CallError('TIMEOUT', 'maybe-applied', 'answer lost') }
      : undefined
  await clock.advance(30_000)
  assert.ok(a.elector.leading && a.terms.length === 1 && lost > 10)
})

test('a Lease deleted by hand ends the term, and the token of the next one is larger', async () => {
  const { clock, api, a } = setUp()
  a.elector.start()
  await clock.advance(10)
  api.drop(RESOURCES.leases, KEY)
  await clock.until(() => a.terms.length === 2, 5000)
  assert.ok(a.terms[0]?.ended)
  assert.ok(Number(a.terms[1]?.fence.token) > Number(a.terms[0]?.fence.token))
})

test('after a stall longer than the deadline the holder stops before it does anything else', async () => {
  const { clock, a } = setUp()
  a.elector.start()
  await clock.advance(10)
  await clock.stall(10_000)
  assert.ok(a.terms[0]?.ended)
})

test('stepDown ends the term without giving the lock to nobody for ever', async () => {
  const { clock, a } = setUp()
  a.elector.start()
  await clock.advance(10)
  a.elector.stepDown('fenced')
  assert.ok(!a.elector.leading)
  await clock.advance(6000)
  assert.ok(a.elector.leading)
})
