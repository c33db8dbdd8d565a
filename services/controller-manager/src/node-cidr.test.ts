import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Ipv4Network, networksOverlap, parseIpv4Network } from '@capstan/api'
import { RESOURCES } from '@capstan/client'
import fc from 'fast-check'
import type { Node } from './kinds.js'
import { CidrPool, startNodeCidrs } from './node-cidr.js'
import { FakeCluster } from './testing/fake-cluster.js'

const node = (name: string, podCIDR?: string, creationTimestamp = '2030-01-01T00:00:00Z'): Node => ({
  metadata: { name, creationTimestamp },
  spec: podCIDR ? { podCIDR, podCIDRs: [podCIDR] } : {},
})

async function cluster(...nodes: Node[]) {
  const fake = new FakeCluster({ clusterCidr: '10.244.0.0/22', nodeCidrMaskBits: 24 })
  fake.api.seed<Node>(RESOURCES.nodes, ...nodes)
  await fake.start(startNodeCidrs)
  await fake.clock.advance(100)
  const networks = () => fake.api.objects<Node>(RESOURCES.nodes).map((n) => n.spec?.podCIDR)
  const events = () =>
    fake.api
      .objects<{ metadata: object; reason: string; involvedObject: { name: string }; count: number }>(RESOURCES.events)
      .map((e) => `${e.involvedObject.name} ${e.reason} ×${e.count}`)
  return { ...fake, api: fake.api, clock: fake.clock, networks, events }
}

test('one for each node, none twice, told when there is none left, and given when one is free again', async () => {
  const { api, clock, networks, events } = await cluster(
    node('old', '10.244.1.0/24'),
    ...['a', 'b', 'c', 'd'].map((name) => node(name)),
  )
  assert.deepEqual(networks(), ['10.244.0.0/24', '10.244.2.0/24', '10.244.3.0/24', undefined, '10.244.1.0/24'])
  await clock.advance(60_000)
  assert.deepEqual(events(), ['d CIDRNotAvailable ×1'])
  api.drop(RESOURCES.nodes, 'b')
  await clock.advance(11_000)
  assert.deepEqual(networks(), ['10.244.0.0/24', '10.244.3.0/24', '10.244.2.0/24', '10.244.1.0/24'])
  assert.ok(api.calls.filter((call) => call.resource === 'nodes' && call.verb === 'patch').every((call) => call.fence))
})

test('a network that a kubelet brought is left to it, and what it touches is given to nobody', async () => {
  const { networks, events } = await cluster(node('a'), node('b', '10.244.0.0/23'), node('c'))
  assert.deepEqual(networks(), ['10.244.2.0/24', '10.244.0.0/23', '10.244.3.0/24'])
  assert.deepEqual(events(), [])
})

test('one outside the cluster and the younger of two that overlap get an event, once', async () => {
  const { api, clock, events } = await cluster(
    node('far', '192.168.0.0/24'),
    node('first', '10.244.1.0/24', '2030-01-01T00:00:00Z'),
    node('second', '10.244.0.0/23', '2030-01-01T00:00:01Z'),
  )
  assert.deepEqual(events().sort(), ['far CIDROutOfRange ×1', 'second CIDRConflict ×1'])
  api.change<Node>(RESOURCES.nodes, 'second', (n) => void (n.status = { conditions: [] }))
  await clock.advance(1000)
  assert.equal(events().length, 2)
})

test('a kubelet that brings what was being given to another: told', async () => {
  const { api, clock, networks, events } = await cluster()
  api.seed<Node>(RESOURCES.nodes, node('x'))
  api.seed<Node>(RESOURCES.nodes, node('y', '10.244.0.0/24'))
  await clock.advance(5000)
  assert.deepEqual(networks(), ['10.244.0.0/24', '10.244.0.0/24'])
  assert.deepEqual(events(), ['y CIDRConflict ×1'])
})

test('numbers of networks: the same as comparing with every one', () => {
  const pool = new CidrPool('10.244.0.0/20', 24)
  const networkOf = (text: string) => parseIpv4Network(text) as Ipv4Network
  const cidr = fc.tuple(fc.integer({ min: 240, max: 248 }), fc.nat(31), fc.nat(255), fc.integer({ min: 8, max: 32 }))
  fc.assert(
    fc.property(cidr, ([b, c, d, bits]) => {
      const text = `10.${b}.${c}.${d}/${bits}`
      const every = Array.from({ length: pool.count }, (_, i) => i)
      assert.deepEqual(
        pool.touched(text),
        every.filter((i) => networksOverlap(networkOf(text), networkOf(pool.at(i)))),
      )
    }),
  )
  for (const bad of ['10.244.0.0', '300.0.0.0/16', 'fd00::/64']) assert.throws(() => new CidrPool(bad, 24), RangeError)
  assert.throws(() => new CidrPool('10.244.0.0/16', 8), RangeError)
})
