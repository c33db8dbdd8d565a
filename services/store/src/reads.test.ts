/** Linearizable reads and a leader that slept (promise S2), in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { CallError } from '@capstan/actor'
import type { PlantedBug } from './options.js'
import { bytes, text } from './testing/local-cluster.js'
import { SimCluster } from './testing/sim-cluster.js'

const MEMBERS = ['s0', 's1', 's2']

/** A read that waits at a sleeping leader while others write: what does it answer when that wakes? */
async function readAtSleeper(bugs: PlantedBug[]): Promise<string> {
  const cluster = new SimCluster(MEMBERS, { bugs })
  const leader = await cluster.leader()
  const other = MEMBERS.find((member) => member !== leader) as string
  await cluster.put(other, 'a', 'old')
  cluster.simulation.machine(leader).pause(4000)
  await cluster.run(1500)
  await cluster.put(other, 'a', 'new')
  const subject = cluster.subjects.store(leader, cluster.clientIdentity, 'range')
  const read = cluster.client.call(subject, { key: bytes('a') }, { timeoutMs: 20_000 }) as Promise<{
    kvs: { value: Uint8Array }[]
  }>
  // Nothing from the others reaches it at first: it only has its own word for it that it leads.
  for (const from of MEMBERS) if (from !== leader) cluster.simulation.network.link(from, leader).cut = true
  await cluster.run(2700)
  cluster.simulation.network.heal()
  return text((await cluster.finish(read)).kvs[0]?.value ?? bytes(''))
}

test('a leader that slept answers no read before it knows who leads', async () => {
  assert.equal(await readAtSleeper([]), 'new')
})

test('the planted bug stale-read-after-pause is found', async () => {
  assert.equal(await readAtSleeper(['stale-read-after-pause']), 'old')
})

test('a read whose index is not applied here in time is refused: another member may be asked', async () => {
  const cluster = new SimCluster(MEMBERS, { checkpointEntries: 10, logKeepEntries: 5, checkpointPeriodMs: 200 })
  const leader = await cluster.leader()
  const behind = MEMBERS.find((member) => member !== leader) as string
  for (const other of MEMBERS) if (other !== behind) cluster.simulation.network.link(other, behind).cut = true
  for (let i = 0; i < 60; i++) await cluster.put(leader, 'a', String(i))
  // It hears of the leader, and needs long for its snapshot.
  cluster.simulation.machine(behind).disk.condition.syncMs = [6000, 6000]
  cluster.simulation.network.heal()
  const subject = cluster.subjects.store(behind, cluster.clientIdentity, 'range')
  const read = () =>
    cluster.client.call(subject, { key: bytes('a') }, { timeoutMs: 20_000 }).then(
      () => 'read',
      (error: CallError) => `${error.code} ${error.outcome}`,
    )
  await cluster.until('its leader', async () => (await cluster.status(behind))?.leader === leader)
  const fromMs = cluster.simulation.nowMs
  assert.equal(await cluster.finish(read()), 'OVERLOADED not-applied')
  assert.ok(cluster.simulation.nowMs - fromMs < 5000)
  cluster.simulation.machine(behind).disk.condition.syncMs = [1, 1]
  await cluster.until('an answer', async () => (await read()) === 'read', 60_000)
})
