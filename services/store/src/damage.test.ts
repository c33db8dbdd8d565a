/** Disks that fail or rot: what the member says, and how it comes back; in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { StoreOptions } from './options.js'
import { SimCluster } from './testing/sim-cluster.js'

const MEMBERS = ['s0', 's1', 's2']

async function written(options: Partial<StoreOptions> = {}) {
  const cluster = new SimCluster(MEMBERS, { checkpointPeriodMs: 500, ...options })
  const leader = await cluster.leader()
  for (let i = 0; i < 30; i++) await cluster.put(leader, `k${i}`, String(i))
  await cluster.run(1000)
  for (let i = 30; i < 40; i++) await cluster.put(leader, `k${i}`, String(i))
  const victim = MEMBERS.find((member) => member !== leader) as string
  const { disk } = cluster.simulation.machine(victim)
  const path = (part: string) => disk.paths().find((name) => name.includes(part)) as string
  return { cluster, leader, victim, disk, path, other: MEMBERS.find((m) => m !== leader && m !== victim) as string }
}

async function isRepaired(cluster: SimCluster, victim: string): Promise<void> {
  await cluster.until('the repair', async () => (await cluster.status(victim))?.role === 'follower')
  assert.deepEqual((await cluster.status(victim))?.errors, [])
  assert.equal((await cluster.status(victim))?.counters.repairs, 1)
  for (let i = 0; i < 40; i++) assert.equal(await cluster.get(victim, `k${i}`), String(i))
}

test('a flipped bit in the log: it says so, does not vote from what it lost, and is repaired from the others', async () => {
  const { cluster, leader, victim, disk, path, other } = await written()
  cluster.crash(victim)
  assert.ok(disk.flipBit(path('/raft/'), 300))
  // While no majority is whole, it gives nobody a vote.
  cluster.crash(leader)
  cluster.restart(victim)
  await cluster.run(3000)
  const status = await cluster.status(victim)
  assert.equal(status?.role, 'learner')
  assert.match(String(status?.errors[0]), /^REPAIRING: raft log damaged in raft\/.*does not vote/)
  assert.ok(
    disk.paths().some((name) => name.includes('/damaged/raft/')),
    'nothing was thrown away',
  )
  assert.notEqual((await cluster.status(other))?.role, 'leader')
  cluster.restart(leader)
  await isRepaired(cluster, victim)
})

test('a damaged state is rebuilt from the others', async () => {
  const { cluster, victim, disk, path } = await written()
  cluster.crash(victim)
  assert.ok(disk.flipBit(path('/state/'), 100))
  cluster.restart(victim)
  await isRepaired(cluster, victim)
})

test('a state that is gone is made again from the log; if that does not reach back to the beginning, by the others', async () => {
  for (const logKeepEntries of [5000, 5]) {
    const { cluster, victim, disk, path } = await written({ logKeepEntries })
    const { firstIndex } = (await cluster.status(victim)) ?? {}
    assert.equal(firstIndex !== 1, logKeepEntries === 5)
    cluster.crash(victim)
    disk.wipe(path('/state/').replace(/\/checkpoint.*$/, ''))
    cluster.restart(victim)
    await cluster.until('its vote', async () => (await cluster.status(victim))?.role === 'follower')
    assert.equal((await cluster.status(victim))?.counters.repairs, logKeepEntries === 5 ? 1 : undefined)
    for (let i = 0; i < 40; i++) assert.equal(await cluster.get(victim, `k${i}`), String(i))
  }
})

test('a crash in the middle of setting the damaged log aside is made up for', async () => {
  for (let stepMs = 0; stepMs < 40; stepMs += 12) {
    const { cluster, victim, disk, path } = await written()
    cluster.crash(victim)
    assert.ok(disk.flipBit(path('/raft/'), 300))
    cluster.restart(victim)
    await cluster.run(stepMs)
    cluster.crash(victim)
    cluster.restart(victim)
    await cluster.until('the repair', async () => (await cluster.status(victim))?.role === 'follower')
    assert.equal(await cluster.get(victim, 'k39'), '39')
  }
})
