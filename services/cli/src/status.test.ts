import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { AdminClient, AdminTarget } from './admin-client.js'
import type { ClusterLayout } from './layout.js'
import { clusterReady } from './status.js'

const layout = {
  port: 6443,
  masters: [{ apiPort: 6444 }],
  nodes: [{ name: 'node-0' }, { name: 'node-1' }],
} as unknown as ClusterLayout

const node = (name: string, ready: string, ...taints: string[]) => ({
  metadata: { name },
  spec: { taints: taints.map((key) => ({ key: `node.kubernetes.io/${key}`, effect: 'NoSchedule' })) },
  status: { conditions: [{ type: 'Ready', status: ready }] },
})

const stateOf = (nodes: ReturnType<typeof node>[], readyz = 200) => {
  const request = ({ path }: AdminTarget) =>
    Promise.resolve(
      path === '/readyz' ? { status: readyz, body: '' } : { status: 200, body: JSON.stringify({ items: nodes }) },
    )
  return clusterReady(layout, { request } as unknown as AdminClient)
}

test('a cluster is ready when each of its nodes is Ready and takes pods', async () => {
  const well = node('node-0', 'True')
  assert.equal((await stateOf([well, node('node-1', 'True')])).ready, true)
  assert.equal((await stateOf([well])).ready, false, 'one is not there')
  assert.equal((await stateOf([well, node('node-1', 'False', 'not-ready')])).ready, false)
  assert.equal((await stateOf([well, node('node-1', 'True', 'not-ready')])).ready, false, 'its taint is still there')
  assert.equal((await stateOf([well, node('node-1', 'True', 'unreachable')])).ready, false)
  assert.equal((await stateOf([well, node('node-1', 'True', 'unschedulable')])).ready, true, 'cordoned by somebody')
  const text = (await stateOf([well, node('node-1', 'True')], 500)).text
  assert.equal(text, '0 of 1 masters are ready')
})
