import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type LookoutMore, lookoutWorkload } from './lookout-workload.js'
import { FakeApi } from './testing/fake-api.js'
import { Virtual } from './testing/virtual.js'

const LEASES = '/apis/coordination.k8s.io/v1/namespaces/kube-system/leases'

test('it tells once when a lock has another holder, whichever servers are down; other leases are not its business', async () => {
  const virtual = new Virtual('lookout')
  const { simulation } = virtual
  const api = new FakeApi(virtual)
  const [, , port] = api.ports.map(({ open }) => open())
  const take = async (name: string, holderIdentity: string) => {
    await port?.request('DELETE', `${LEASES}/${name}`)
    const answer = await port?.request('POST', LEASES, { kind: 'Lease', metadata: { name }, spec: { holderIdentity } })
    assert.ok(answer?.ok)
  }
  const trouble = async () => {
    await take('kube-scheduler', 'master-0_a_1')
    await take('kubelet', 'node-0')
    await simulation.sleep(2000)
    api.down.add('a0')
    api.loseWatches()
    await simulation.sleep(500)
    await take('kube-scheduler', 'master-1_b_1')
    await port?.request('PATCH', `${LEASES}/kube-scheduler`, { spec: { renewTime: 'now' } })
  }
  const workload = lookoutWorkload(() => ({ stores: [], apis: api.ports }))
  const { more } = await virtual.play(workload, virtual.access(), 10_000, { trouble })
  const { locks, nodes, lacks } = more as unknown as LookoutMore
  assert.deepEqual(
    locks.map(({ lock, holder }) => `${lock} ${holder}`),
    ['kube-scheduler master-0_a_1', 'kube-scheduler master-1_b_1'],
  )
  assert.ok((locks[1]?.atMs ?? 0) > 2500 && (locks[1]?.atMs ?? 0) < 3000, `taken over at ${locks[1]?.atMs} ms`)
  assert.deepEqual(
    nodes.map(({ node, isReady }) => `${node} ${isReady}`),
    ['node-0 false', 'node-1 false', 'node-2 false'],
  )
  assert.deepEqual(lacks, [])
})
