/** Leases over elections and pauses (promise S5), in virtual time; and the planted bugs of them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { LeaseTimeToLiveReply } from '@capstan/protocol'
import type { PlantedBug } from './options.js'
import { SimCluster } from './testing/sim-cluster.js'

const MEMBERS = ['s0', 's1', 's2']

/** Does a lease whose holder renews it live on when the leader sleeps past its end, and wakes? */
async function leaderSleeps(bugs: PlantedBug[]): Promise<string | undefined> {
  const cluster = new SimCluster(MEMBERS, { bugs })
  const leader = await cluster.leader()
  const other = MEMBERS.find((member) => member !== leader) as string
  await cluster.call(other, 'leaseGrant', { id: 7, ttlSeconds: 3 })
  await cluster.put(other, 'a', '1', 7)
  await cluster.run(1000)
  cluster.simulation.machine(leader).pause(6000)
  for (let i = 0; i < 12; i++) {
    await cluster.call(other, 'leaseKeepAlive', { id: 7 })
    await cluster.run(1000)
  }
  return cluster.get(other, 'a')
}

test('a leader that was paused past the end of a lease revokes nothing that was renewed meanwhile', async () => {
  assert.equal(await leaderSleeps([]), '1')
})

test('the planted bug paused-leader-revokes is found', async () => {
  await assert.rejects(leaderSleeps(['paused-leader-revokes']), { code: 'LEASE_NOT_FOUND' })
})

/** When does a lease of 6 s that nobody renews end, with a change of leader every 2 s? */
async function endUnderElections(bugs: PlantedBug[]): Promise<number | undefined> {
  const cluster = new SimCluster(MEMBERS, { bugs })
  await cluster.leader()
  await cluster.call('s0', 'leaseGrant', { id: 7, ttlSeconds: 6 })
  const grantedMs = cluster.simulation.nowMs
  await cluster.put('s0', 'a', '1', 7)
  for (let round = 1; round <= 20; round++) {
    const from = await cluster.leader()
    const to = MEMBERS[(MEMBERS.indexOf(from) + 1) % 3] as string
    await cluster.call(from, 'moveLeader', { to })
    while (cluster.simulation.nowMs < grantedMs + round * 2000) {
      await cluster.run(100)
      if ((await cluster.get('s0', 'a')) === undefined) return cluster.simulation.nowMs - grantedMs
    }
  }
  return undefined
}

test('a lease whose holder is dead ends, however often leaders change', async () => {
  const endedMs = (await endUnderElections([])) as number
  assert.ok(endedMs >= 6000, `it ended after ${endedMs} ms`)
  assert.ok(endedMs <= 6000 + 4 * 1000, `it ended only after ${endedMs} ms`)
})

test('the planted bug lease-reset-on-election is found', async () => {
  assert.equal(await endUnderElections(['lease-reset-on-election']), undefined)
})

test('what remains outlives a restart of all members, up to the last checkpoint', async () => {
  const cluster = new SimCluster(MEMBERS)
  await cluster.leader()
  await cluster.call('s0', 'leaseGrant', { id: 7, ttlSeconds: 60 })
  await cluster.call('s0', 'leaseGrant', { id: 8, ttlSeconds: 60 })
  await cluster.run(31_000)
  await cluster.call('s0', 'leaseKeepAlive', { id: 8 })
  await cluster.run(2000)
  for (const member of MEMBERS) cluster.crash(member)
  for (const member of MEMBERS) cluster.restart(member)
  await cluster.leader()
  const remaining = async (id: number) =>
    (await cluster.call<LeaseTimeToLiveReply>('s1', 'leaseTimeToLive', { id })).ttlSeconds
  const [kept, renewed] = [await remaining(7), await remaining(8)]
  assert.ok(kept >= 27 && kept <= 32, `${kept} s of 27 remain`)
  assert.ok(renewed >= 57, `${renewed} s remain of a lease that was just renewed`)
})
