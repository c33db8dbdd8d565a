import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import { type KubeObject, RESOURCES } from '@capstan/client'
import { type FakeCall, FakeApiClient, ManualClock, manualWorld, MemoryBroker } from '@capstan/client/testing'
import { FENCED_HOLDER, IDENTITY_LEASE_MS } from '@capstan/protocol'
import { HollowHost, HollowRuntime, type KubeletHandle, LocalGuard, startKubelet } from './index.js'
import type { Pod } from './kinds.js'

interface Lease extends KubeObject {
  spec?: { holderIdentity?: string; leaseTransitions?: number }
}

const LEASE = 'kube-node-lease/n0'

/** One node with a guard that lives on when its kubelet ends; `web-0` belongs to a StatefulSet, `other` to nobody. */
class GuardedNode {
  readonly clock = new ManualClock()
  readonly world = manualWorld({ clock: this.clock, broker: new MemoryBroker(this.clock), identity: 'kubelet~n0' })
  readonly api = new FakeApiClient(this.clock)
  readonly runtime = new HollowRuntime(this.world)
  readonly host = new HollowHost()
  readonly guard = new LocalGuard(this.clock, ({ podUid }) => this.runtime.endPod(podUid))
  kubelet!: KubeletHandle

  async start(): Promise<this> {
    this.kubelet = await startKubelet(
      this.world,
      {
        cluster: 'c1',
        nodeName: 'n0',
        client: this.api,
        host: this.host,
        nodeIp: '10.0.0.1',
        podCidr: '10.244.0.0/24',
        leaseRenewMs: 1000,
        identity: { guard: this.guard },
      },
      this.runtime,
    )
    await this.clock.until(() => this.kubelet.ready)
    return this
  }

  create(name: string, uid: string, owned: boolean): void {
    const owner = { apiVersion: 'apps/v1', kind: 'StatefulSet', name: 'web', uid: 's', controller: true }
    this.api.seed<Pod>(RESOURCES.pods, {
      metadata: { name, namespace: 'default', uid, ...(owned ? { ownerReferences: [owner] } : {}) },
      spec: { nodeName: 'n0', containers: [{ name: 'c', image: 'i' }] },
      status: { phase: 'Pending' },
    } as Pod)
  }

  running(): string[] {
    return this.runtime.running().map((pod) => `${pod.name} ${pod.uid}`)
  }

  lease(): Lease | undefined {
    return this.api.object<Lease>(RESOURCES.leases, LEASE)
  }
}

async function setUp(): Promise<GuardedNode> {
  const node = await new GuardedNode().start()
  node.create('web-0', 'u1', true)
  node.create('other', 'o1', false)
  await node.clock.until(() => node.running().length === 2, 5000)
  return node
}

const timeout = new CallError('TIMEOUT', 'maybe-applied', 'no answer')

test('the lease says that a guard watches, and for how long identity pods may run', async () => {
  const node = await setUp()
  assert.equal(node.lease()?.metadata.annotations?.[IDENTITY_LEASE_MS], '5000')
  node.guard.stop()
  await node.clock.advance(2000)
  assert.equal(node.lease()?.metadata.annotations?.[IDENTITY_LEASE_MS], undefined, 'without a guard it is never taken')
})

test('cut off: the guard ends identity pods 5 s after the last renewal that was acknowledged, and no other', async () => {
  const node = await setUp()
  let lastMs = 0
  node.api.intercept = (call) => {
    if (call.resource === 'leases') lastMs = node.clock.monotonicMs()
    return undefined
  }
  await node.clock.advance(3000)
  node.api.intercept = () => timeout
  await node.clock.advance(4000)
  assert.deepEqual(node.running().length, 2)
  await node.clock.advance(lastMs + 5000 - node.clock.monotonicMs() + 1)
  assert.deepEqual(node.running(), ['other o1'])
  await node.clock.advance(60_000)
  assert.deepEqual(node.running(), ['other o1'], 'nothing is started while it is not certain')
  // The way is free again, and nobody took the lease: it goes on here.
  node.api.intercept = () => undefined
  await node.clock.until(() => node.running().length === 2, 20_000)
})

test('a renewal that was committed, but whose answer was lost, counts for nothing and costs nothing', async () => {
  const node = await setUp()
  let lost = 0
  node.api.intercept = (call) =>
    call.resource === 'leases' && call.verb === 'patch' && lost++ < 2 ? { after: timeout } : undefined
  await node.clock.advance(20_000)
  assert.ok(lost > 2)
  assert.equal(node.running().length, 2)
  assert.equal(node.lease()?.spec?.leaseTransitions, undefined, 'it was never lost')
})

test('the kubelet is gone: the guard ends what it was told of; the next kubelet goes on where it may', async () => {
  const node = await setUp()
  await node.kubelet.stop()
  await node.clock.advance(5100)
  assert.deepEqual(node.running(), ['other o1'])
  await node.start()
  await node.clock.until(() => node.running().length === 2, 20_000)
})

test('the lease was taken: identity pods end before it is taken back, and only what the API still has is started', async () => {
  const node = await setUp()
  // As node-lifecycle does; the pod was given to another node meanwhile, and this kubelet has not heard of it.
  node.api.hold(RESOURCES.pods)
  node.api.change<Lease>(RESOURCES.leases, LEASE, (lease) => {
    lease.spec = { ...lease.spec, holderIdentity: FENCED_HOLDER }
  })
  node.api.drop(RESOURCES.pods, 'default/web-0')
  let runningWhenTaken: string[] | undefined
  node.api.intercept = (call: FakeCall) => {
    const { spec } = (call.body ?? {}) as { spec?: { leaseTransitions?: number } }
    if (call.resource === 'leases' && spec?.leaseTransitions === 1) runningWhenTaken = node.running()
    return undefined
  }
  await node.clock.advance(30_000)
  assert.deepEqual(runningWhenTaken, ['other o1'])
  assert.deepEqual([node.lease()?.spec?.holderIdentity, node.lease()?.spec?.leaseTransitions], ['n0', 1])
  assert.deepEqual(node.running(), ['other o1'], 'its cache still has the pod; the API does not')
  node.api.release(RESOURCES.pods)
  node.create('web-0', 'u2', true)
  await node.clock.until(() => node.running().length === 2, 20_000)
  assert.deepEqual(node.running().sort(), ['other o1', 'web-0 u2'])
})

test('a lease that somebody deleted is a lease that was lost', async () => {
  const node = await setUp()
  node.api.drop(RESOURCES.leases, LEASE)
  await node.clock.advance(1100)
  assert.ok(node.runtime.journal.includes('end-container c 0'))
  await node.clock.until(() => node.running().length === 2, 20_000)
  assert.equal(node.lease()?.spec?.holderIdentity, 'n0')
})

test('without a guard that answers no identity pod is started', async () => {
  const node = await new GuardedNode().start()
  node.guard.stop()
  await node.clock.advance(3000)
  node.create('web-0', 'u1', true)
  node.create('other', 'o1', false)
  await node.clock.advance(30_000)
  assert.deepEqual(node.running(), ['other o1'])
  const waiting = node.api.object<Pod>(RESOURCES.pods, 'default/web-0')?.status?.containerStatuses?.[0]?.state?.waiting
  assert.deepEqual(waiting, { reason: 'IdentityNotHeld', message: 'the guard of this node does not answer' })
})
