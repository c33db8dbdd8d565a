/** Linearizable reads and a leader that slept (promise S2), in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
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
