/** Disks that fail or rot: what the member says, and how it comes back; in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Disk } from '@capstan/actor'
import type { AlarmReply, HashReply } from '@capstan/protocol'
import type { StoreOptions } from './options.js'
import { CheckpointFileEngine } from './checkpoint-file-engine.js'
import { bytes } from './testing/local-cluster.js'
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

test('a state that differs from that of the majority serves nothing, raises its alarm, and is made anew from the others', async () => {
  const { cluster, victim, leader } = await written()
  cluster.crash(victim)
  // What was applied is not what the others applied: as if a bit had turned in memory.
  let turned = 0
  const openEngine = async (disk: Disk) => {
    const engine = await CheckpointFileEngine.open(disk)
    const chain = bytes('mchain')
    const get = engine.get.bind(engine)
    engine.get = (key) => {
      const value = get(key)
      if (!value || turned > 0 || Buffer.compare(key, chain) !== 0) return value
      turned++
      return value.map((byte, at) => (at === value.length - 1 ? byte ^ 1 : byte))
    }
    return engine
  }
  cluster.restart(victim, { openEngine })
  const alarms = await cluster.until('the alarm', async () => {
    const reply = await cluster.call<AlarmReply>(leader, 'alarm', { action: 'list' })
    return reply.alarms.length > 0 && reply.alarms
  })
  assert.deepEqual([turned, alarms], [1, [{ member: victim, alarm: 'CORRUPT' }]])
  // A repair is counted when it begins.
  const doubtsItself = (errors: readonly string[]) => errors.some((error) => error.startsWith('CORRUPT'))
  await cluster.until('the repair', async () => {
    const status = await cluster.status(victim)
    return status?.counters.repairs === 1 && !doubtsItself(status.errors)
  })
  assert.equal(await cluster.get(victim, 'k39'), '39')
  // It stands until somebody has seen it.
  assert.deepEqual((await cluster.status(victim))?.errors, [`ALARM CORRUPT of ${victim}`])
  const cleared = await cluster.call<AlarmReply>(victim, 'alarm', { action: 'clear', alarm: 'CORRUPT' })
  assert.deepEqual(cleared.alarms, [])
})

test('at its quota the store takes only what frees space, and takes all again when there is room', async () => {
  const cluster = new SimCluster(MEMBERS, { quotaBytes: 100_000 })
  const leader = await cluster.leader()
  const value = 'x'.repeat(5000)
  const refused = await cluster.until('the refusal', async () => {
    for (let i = 0; i < 5; i++)
      try {
        await cluster.put(leader, `k${i}`, value)
      } catch (error) {
        return error as Error & { code: string; outcome: string }
      }
    return undefined
  })
  assert.deepEqual([refused.code, refused.outcome], ['NO_SPACE', 'not-applied'])
  assert.match(refused.message, /alarm NOSPACE of s\d: .*only what frees space is taken/)
  assert.match(String((await cluster.status(leader))?.errors[0]), /^ALARM NOSPACE of s/)
  const { alarms } = await cluster.call<AlarmReply>('s0', 'alarm', { action: 'list' })
  assert.ok(alarms.length > 0 && alarms.every(({ alarm }) => alarm === 'NOSPACE'))
  assert.equal(await cluster.get('s1', 'k0'), value, 'it serves reads')
  // Deletions and compaction make room by themselves: there is nothing to defragment, and no alarm to clear by hand.
  const success = [{ type: 'delete', key: bytes('k'), rangeEnd: bytes('l') }]
  const { header } = await cluster.call<{ header: { revision: number } }>('s2', 'txn', {
    compare: [],
    success,
    failure: [],
  })
  await cluster.call('s2', 'compact', { revision: header.revision })
  await cluster.until('room', () => cluster.put('s1', 'after', '1').catch(() => undefined))
  assert.deepEqual((await cluster.call<AlarmReply>('s0', 'alarm', { action: 'list' })).alarms, [])
})

test('members at one revision have one hash; what was compacted has none', async () => {
  const { cluster, leader } = await written()
  await cluster.run(500)
  const at = (member: string, revision = 0) => cluster.call<HashReply>(member, 'hash', { revision })
  const all = []
  for (const member of MEMBERS) all.push(await at(member))
  assert.equal(
    new Set(all.map(({ hash, hashRevision, compactRevision }) => `${hash} ${hashRevision} ${compactRevision}`)).size,
    1,
  )
  assert.notEqual((await at('s0', 20)).hash, (await at('s0')).hash)
  assert.equal((await at('s0', 20)).hash, (await at('s2', 20)).hash)
  await cluster.call(leader, 'compact', { revision: 30 })
  await assert.rejects(at(leader, 20), { code: 'COMPACTED' })
})
