import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RESOURCES } from '@capstan/client'
import { FakeApiClient, ManualClock, manualWorld, MemoryBroker } from '@capstan/client/testing'
import { type ControllerManagerHandle, startControllerManager } from './controller-manager.js'
import { deployment } from './testing/fake-cluster.js'

async function setUp() {
  const clock = new ManualClock()
  const broker = new MemoryBroker(clock)
  const api = new FakeApiClient(clock, { checked: true })
  api.seed(RESOURCES.namespaces, { metadata: { name: 'default' } })
  const managers: ControllerManagerHandle[] = []
  for (const machine of ['m0', 'm1', 'm2']) {
    const world = manualWorld({ clock, broker, identity: `controller-manager~${machine}`, seed: machine.charCodeAt(1) })
    managers.push(await startControllerManager(world, { cluster: 'c1', machine, client: api, rootCaPem: 'PEM' }))
  }
  await clock.advance(3000)
  const active = () => managers.filter((m) => m.leading)
  return { clock, api, managers, active }
}

test('one of three is active; after it stops another goes on, and its writes carry a later token', async () => {
  const { clock, api, active } = await setUp()
  assert.equal(active().length, 1)
  api.seed(RESOURCES.deployments, deployment('web', { replicas: 3 }))
  await clock.advance(500)
  assert.equal(api.objects(RESOURCES.pods).length, 3)
  const [first] = active()
  const { token } = first?.fence ?? { token: '' }
  await Promise.all([first?.stop(), clock.advance(2000)])
  assert.equal(active().length, 1)
  assert.ok(Number(active()[0]?.fence?.token) > Number(token))
  api.change(
    RESOURCES.deployments,
    'default/web',
    (d: ReturnType<typeof deployment>) => void (d.spec = { ...d.spec, replicas: 5 }),
  )
  await clock.advance(1000)
  assert.equal(api.objects(RESOURCES.pods).length, 5)
  const writes = api.calls.filter((call) => call.resource === 'pods' && call.verb === 'create')
  assert.ok(writes.every((call) => call.fence !== undefined))
})

test('when the Lease is taken from it, the holder stops and competes again', async () => {
  const { clock, api, active } = await setUp()
  const before = active()[0]?.fence?.token
  api.drop(RESOURCES.leases, 'kube-system/kube-controller-manager')
  api.seed(RESOURCES.deployments, deployment('web', { replicas: 2 }))
  await clock.advance(6000)
  assert.equal(active().length, 1)
  assert.notEqual(active()[0]?.fence?.token, before)
  assert.equal(api.objects(RESOURCES.pods).length, 2)
  const tokens = new Set(
    api.calls.filter((call) => call.resource === 'pods' && call.verb === 'create').map((call) => call.fence?.token),
  )
  assert.ok(!tokens.has(before) || tokens.size === 1)
})

test('stopping all leaves no lock, no timer that writes', async () => {
  const { clock, api, managers } = await setUp()
  let stopped = false
  void Promise.all(managers.map((m) => m.stop())).then(() => (stopped = true))
  await clock.until(() => stopped, 10_000)
  assert.equal(api.object(RESOURCES.leases, 'kube-system/kube-controller-manager'), undefined)
  const calls = api.calls.length
  await clock.advance(60_000)
  assert.equal(api.calls.length, calls)
})
