import assert from 'node:assert/strict'
import test from 'node:test'
import { RESOURCES } from '@capstan/client'
import { FakeApiClient, ManualClock, manualWorld, MemoryBroker } from '@capstan/client/testing'
import fc from 'fast-check'
import { describeRoute, type NodeView, startNodeRoutes, wantedRoutes } from './node-routes.js'
import { HollowRoutes, planRoutes, type PresentRoute, type Route } from './routes.js'

const CLUSTER = '10.244.0.0/16'
const node = (name: string, podCIDR?: string, address?: string): NodeView => ({
  metadata: { name, creationTimestamp: '2030-01-01T00:00:00Z' },
  spec: podCIDR ? { podCIDR } : {},
  status: { addresses: [{ type: 'Hostname', address: name }, ...(address ? [{ type: 'InternalIP', address }] : [])] },
})

function keeper(nodeName = 'a', address = '10.0.0.1') {
  const clock = new ManualClock()
  const world = manualWorld({ clock, broker: new MemoryBroker(clock), identity: 'kube-proxy~a' })
  const client = new FakeApiClient(clock)
  const routes = new HollowRoutes()
  const table = () => routes.table.map((route) => `${describeRoute(route)}${route.own ? '' : ' foreign'}`).sort()
  const start = () => startNodeRoutes(world, { client, nodeName, address, clusterCidr: CLUSTER, routes })
  return { clock, client, routes, table, start, log: world.log }
}

test('a route to every other node, following what comes, moves and goes; others’ routes stay', async () => {
  const { clock, client, routes, table, start } = keeper()
  routes.table.push({ destination: '192.168.0.0/24', via: '10.0.0.9', own: false })
  routes.table.push({ destination: '10.244.9.0/24', via: '10.0.0.9', own: true })
  client.seed(
    RESOURCES.nodes,
    node('a', '10.244.0.0/24', '10.0.0.1'),
    node('b', '10.244.1.0/24', '10.0.0.2'),
    node('c'),
  )
  const handle = start()
  await clock.until(() => handle.synced)
  assert.deepEqual(table(), ['10.244.1.0/24 via 10.0.0.2', '192.168.0.0/24 via 10.0.0.9 foreign'])
  client.change<NodeView>(RESOURCES.nodes, 'c', (n) => Object.assign(n, node('c', '10.244.2.0/24', '10.0.0.3')))
  client.change<NodeView>(
    RESOURCES.nodes,
    'b',
    (n) => void Object.assign(n, { status: node('b', '', '10.0.0.22').status }),
  )
  await clock.advance(100)
  assert.deepEqual(table().slice(0, 2), ['10.244.1.0/24 via 10.0.0.22', '10.244.2.0/24 via 10.0.0.3'])
  client.drop(RESOURCES.nodes, 'b')
  await clock.advance(100)
  assert.deepEqual(table(), ['10.244.2.0/24 via 10.0.0.3', '192.168.0.0/24 via 10.0.0.9 foreign'])
  // Somebody clears it.
  routes.table.length = 0
  await clock.advance(5000)
  assert.deepEqual(table(), ['10.244.2.0/24 via 10.0.0.3'])
  await handle.stop()
  assert.deepEqual(table(), ['10.244.2.0/24 via 10.0.0.3'])
})

test('it waits for the whole list, and takes its routes back only when it is told to', async () => {
  const { clock, client, routes, table, start } = keeper()
  routes.table.push({ destination: '10.244.1.0/24', via: '10.0.0.2', own: true })
  client.intercept = () => {
    throw new Error('no master answers')
  }
  const handle = start()
  await clock.advance(20_000)
  assert.deepEqual(table(), ['10.244.1.0/24 via 10.0.0.2'])
  assert.equal(handle.synced, false)
  client.intercept = () => undefined
  client.seed(RESOURCES.nodes, node('b', '10.244.1.0/24', '10.0.0.2'))
  await clock.until(() => handle.synced)
  await handle.stop({ clear: true })
  assert.deepEqual(table(), [])
})

test('what cannot be had is told once and tried again, and keeps no other route away', async () => {
  const { clock, client, routes, table, start, log } = keeper()
  routes.reachable = (via) => via !== '10.1.0.2'
  routes.table.push({ destination: '10.244.3.0/24', via: '10.0.0.77', own: false })
  client.seed(
    RESOURCES.nodes,
    node('b', '10.244.1.0/24', '10.1.0.2'),
    node('c', '10.244.2.0/24', '10.0.0.3'),
    node('d', '10.244.3.0/24', '10.0.0.4'),
    node('evil', '0.0.0.0/0', '10.0.0.66'),
    node('twin', '10.244.2.128/25', '10.0.0.67'),
    node('nowhere', '10.244.5.0/24'),
  )
  const handle = start()
  await clock.advance(20_000)
  assert.deepEqual(table(), ['10.244.2.0/24 via 10.0.0.3', '10.244.3.0/24 via 10.0.0.77 foreign'])
  const told = log.lines.filter((line) => line.level === 'error')
  assert.equal(told.length, 1)
  assert.deepEqual(told[0]?.fields['troubles'], [
    'node evil: its pod network 0.0.0.0/0 is not within 10.244.0.0/16',
    'node nowhere has no InternalIP',
    'node twin: its pod network 10.244.2.128/25 overlaps that of node c',
    '10.244.3.0/24: a route that is not ours stands there (10.244.3.0/24 via 10.0.0.77)',
    '10.244.1.0/24: Nexthop has invalid gateway.',
  ])
  routes.reachable = () => true
  await clock.advance(5000)
  assert.ok(table().includes('10.244.1.0/24 via 10.1.0.2'))
  await handle.stop()
})

test('a machine that is master and node: two keepers want the same', () => {
  const nodes = [node('a', '10.244.0.0/24', '10.0.0.1'), node('b', '10.244.1.0/24', '10.0.0.2')]
  const options = { address: '10.0.0.1', clusterCidr: CLUSTER, serviceCidr: '10.96.0.0/16' }
  const asMaster = wantedRoutes(nodes, { ...options, nodeName: '' })
  assert.deepEqual(asMaster, wantedRoutes(nodes, { ...options, nodeName: 'a' }))
  assert.deepEqual(asMaster.wanted.map(describeRoute), [
    '10.244.1.0/24 via 10.0.0.2',
    '10.96.0.0/16 dev lo src 10.0.0.1',
  ])
})

test('any table becomes what is wanted; a second look finds nothing to do', async () => {
  const route = fc
    .record({ at: fc.nat(5), via: fc.nat(3) })
    .map(({ at, via }): Route => ({ destination: `10.244.${at}.0/24`, via: `10.0.0.${via}` }))
  const unique = { selector: (one: Route) => one.destination }
  const present = fc
    .tuple(fc.uniqueArray(route, unique), fc.infiniteStream(fc.boolean()))
    .map(([list, own]) => list.map((one): PresentRoute => ({ ...one, own: own.next().value as boolean })))
  await fc.assert(
    fc.asyncProperty(present, fc.uniqueArray(route, unique), async (before, wanted) => {
      const routes = new HollowRoutes()
      routes.table.push(...before)
      const plan = planRoutes(wanted, await routes.list())
      for (const one of plan.remove) await routes.remove(one)
      for (const one of plan.change) await routes.change(one)
      for (const one of plan.add) await routes.add(one)
      const foreign = (list: readonly PresentRoute[]) => list.filter((one) => !one.own)
      assert.deepEqual(foreign(routes.table), foreign(before))
      for (const one of routes.table)
        if (one.own) assert.ok(wanted.some((w) => describeRoute(w) === describeRoute(one)))
      const blocked = new Set(plan.blocked.map((one) => one.route.destination))
      for (const one of wanted)
        if (!blocked.has(one.destination))
          assert.ok(routes.table.some((there) => describeRoute(there) === describeRoute(one)))
      const again = planRoutes(wanted, await routes.list())
      assert.deepEqual([again.add, again.change, again.remove], [[], [], []])
    }),
  )
})
