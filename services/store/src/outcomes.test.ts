/** "Did not happen" is a promise, also of a request that its member asks again by itself; in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { CallError } from '@capstan/actor'
import { bytes } from './testing/local-cluster.js'
import { SimCluster } from './testing/sim-cluster.js'

const MEMBERS = ['s0', 's1', 's2']

function put(cluster: SimCluster, member: string, session?: { clientId: string; seq: number }): Promise<string> {
  const op = { type: 'put', key: bytes('a'), value: bytes('1') }
  const subject = cluster.subjects.store(member, cluster.clientIdentity, 'txn')
  const txn = { compare: [], success: [op], failure: [], session }
  return cluster.client.call(subject, txn, { timeoutMs: 20_000 }).then(
    () => 'written',
    ({ code, outcome }: CallError) => `${code} ${outcome}`,
  )
}

test('a proposal with a session waits for the next leader; should its member stop by then, it may have happened', async () => {
  const cluster = new SimCluster(MEMBERS)
  const leader = await cluster.leader()
  const cut = (isCut: boolean) => {
    for (const other of MEMBERS) if (other !== leader) cluster.simulation.network.link(leader, other).cut = isCut
  }
  cut(true)
  const answer = put(cluster, leader, { clientId: 'c', seq: 1 })
  await cluster.until('the leader gives up', async () => (await cluster.status(leader))?.role !== 'leader')
  await cluster.finish(cluster.handles.get(leader)?.stop() ?? Promise.resolve())
  assert.equal(await cluster.finish(answer), 'STOPPED maybe-applied')
})

test('one that was never proposed did not happen', async () => {
  const cluster = new SimCluster(MEMBERS)
  const leader = await cluster.leader()
  const [first, second] = MEMBERS.filter((member) => member !== leader) as [string, string]
  cluster.crash(leader)
  cluster.crash(second)
  await cluster.until('nobody leads', async () => (await cluster.status(first))?.leader === undefined)
  const answers = [put(cluster, first), put(cluster, first, { clientId: 'c', seq: 1 })]
  assert.deepEqual(await cluster.finish(Promise.all(answers)), ['NO_LEADER not-applied', 'NO_LEADER not-applied'])
})

test('what a snapshot of another leader overtook before it was applied may have happened', async () => {
  const cluster = new SimCluster(MEMBERS, { checkpointEntries: 10, logKeepEntries: 5, checkpointPeriodMs: 200 })
  const leader = await cluster.leader()
  const others = MEMBERS.filter((member) => member !== leader) as [string, string]
  const cut = (isCut: boolean) => {
    for (const other of others) cluster.simulation.network.link(leader, other).cut = isCut
  }
  // The others commit it; the leader itself must have it durable before it is applied there.
  cluster.simulation.machine(leader).disk.condition.syncMs = [12_000, 12_000]
  const answer = put(cluster, leader)
  await cluster.until('the commit', async () => (await cluster.get(others[0], 'a')) === '1')
  cut(true)
  cluster.simulation.machine(leader).disk.condition.syncMs = [1, 1]
  await cluster.until('another leader', async () => others.includes((await cluster.status(others[0]))?.leader ?? ''))
  for (let i = 0; i < 60; i++) await cluster.put(others[0], `later/${i}`, String(i))
  cut(false)
  await cluster.until(
    'the snapshot',
    async () => ((await cluster.status(leader))?.counters.snapshotsInstalled ?? 0) > 0,
    60_000,
  )
  assert.equal(await cluster.finish(answer), 'LEADER_CHANGED maybe-applied')
})
