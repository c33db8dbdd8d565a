/** Members come, are promoted, and go, while the store serves; in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { CallError } from '@capstan/actor'
import type { MembersReply } from '@capstan/protocol'
import type { StoreHandle } from './options.js'
import { SimCluster } from './testing/sim-cluster.js'

const MEMBERS = ['s0', 's1', 's2']

async function code(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'no error'
  } catch (error) {
    const { code: name, outcome } = error as CallError
    return `${name} ${outcome}`
  }
}

const names = ({ members }: MembersReply) => members.map(({ name, learner }) => (learner ? `${name} (learner)` : name))

/** Writes one key after the other through some member, in the background, and notes which were acknowledged. */
function writing(cluster: SimCluster, by: () => string) {
  const acknowledged: string[] = []
  let over = false
  const work = async () => {
    for (let n = 0; !over; n++) {
      const key = `w/${n}`
      const op = { type: 'put', key: new TextEncoder().encode(key), value: new TextEncoder().encode(key) }
      const subject = cluster.subjects.store(by(), cluster.clientIdentity, 'txn')
      const txn = { compare: [], success: [op], failure: [], session: { clientId: 'w', seq: n + 1 } }
      await cluster.client.call(subject, txn, { timeoutMs: 3000 }).then(
        () => acknowledged.push(key),
        () => undefined,
      )
      await cluster.simulation.sleep(20)
    }
  }
  const done = work()
  return {
    acknowledged,
    stop: () => {
      over = true
      return cluster.finish(done, 'the writer')
    },
  }
}

test('a member is replaced under writes: added, caught up by a snapshot, promoted; the old one goes, and nothing is lost', async () => {
  const cluster = new SimCluster(MEMBERS, { checkpointEntries: 20, logKeepEntries: 10, checkpointPeriodMs: 200 })
  const leader = await cluster.leader()
  for (let i = 0; i < 60; i++) await cluster.put(leader, `old/${i}`, String(i))
  await cluster.until('the cut of the log', async () => ((await cluster.status(leader))?.firstIndex ?? 0) > 5)
  let through = 's1'
  const writer = writing(cluster, () => through)

  cluster.boot('s3', { emptyDirectory: 'join' })
  await cluster.run(2000)
  assert.equal((await cluster.status('s3'))?.role, 'learner', 'it waits to be named')
  assert.deepEqual(names(await cluster.call<MembersReply>('s1', 'memberAdd', { member: 's3' })), [
    ...MEMBERS,
    's3 (learner)',
  ])
  const promoted = await cluster.until('the promotion', () =>
    cluster.client
      .call(
        cluster.subjects.store('s2', cluster.clientIdentity, 'memberPromote'),
        { member: 's3' },
        { timeoutMs: 3000 },
      )
      .catch((error: CallError) => {
        assert.ok(['LEARNER_NOT_READY', 'MEMBERS_BUSY'].includes(error.code), `${error.code} ${error.message}`)
        return undefined
      }),
  )
  assert.deepEqual(names(promoted as MembersReply), [...MEMBERS, 's3'])
  assert.ok(((await cluster.status('s3'))?.counters.snapshotsInstalled ?? 0) > 0)

  // The leader itself goes.
  through = 's3'
  const gone = await cluster.leader()
  const rest = [...MEMBERS, 's3'].filter((member) => member !== gone)
  const removed = await cluster
    .call<MembersReply>(rest[0] as string, 'memberRemove', { member: gone })
    .catch((error: CallError) => {
      // It hands over at once: who sent the order on to it may see that before its answer.
      assert.equal(error.code, 'LEADER_CHANGED', error.message)
      return undefined
    })
  if (removed) assert.deepEqual(names(removed), rest)
  await cluster.until('its end', async () => cluster.failures.has(gone))
  assert.match(String(cluster.failures.get(gone)), new RegExp(`${gone} was removed from the cluster`))
  await cluster.run(2000)
  const before = writer.acknowledged.length
  await cluster.run(2000)
  assert.ok(writer.acknowledged.length > before + 10, 'it serves on')
  await writer.stop()
  for (const member of rest)
    for (const key of writer.acknowledged) assert.equal(await cluster.get(member, key), key, `${key} on ${member}`)
  const hashes = await cluster.until('all to apply the same', async () => {
    const all = await Promise.all(rest.map((member) => (cluster.handles.get(member) as StoreHandle).stateHash()))
    return new Set(all.map(({ appliedIndex }) => appliedIndex)).size === 1 && all
  })
  assert.equal(new Set(hashes.map(({ hash }) => hash)).size, 1)

  // The new one is one of three: with it and one other there is a quorum; and it knows that after a restart.
  const other = rest.find((member) => member !== 's3') as string
  cluster.crash(rest.find((member) => member !== 's3' && member !== other) as string)
  cluster.crash('s3')
  cluster.restart('s3', { emptyDirectory: 'join' })
  await cluster.until('a write', () => cluster.put(other, 'after', '1').catch(() => undefined))
  assert.equal(await cluster.get('s3', 'after'), '1')
})

test('a member that installs a snapshot names the members only when it knows them', async () => {
  const cluster = new SimCluster(MEMBERS, { checkpointEntries: 20, logKeepEntries: 10, checkpointPeriodMs: 200 })
  const leader = await cluster.leader()
  for (let i = 0; i < 60; i++) await cluster.put(leader, `old/${i}`, String(i))
  await cluster.until('the cut of the log', async () => ((await cluster.status(leader))?.firstIndex ?? 0) > 5)
  // The state is there a good while before all of the snapshot is.
  cluster.simulation.machine('s3').disk.condition.syncMs = [400, 500]
  cluster.boot('s3', { emptyDirectory: 'join' })
  await cluster.until('its start', async () => cluster.handles.has('s3'))
  await cluster.call(leader, 'memberAdd', { member: 's3' })
  const told: string[][] = []
  const subject = cluster.subjects.store('s3', cluster.clientIdentity, 'members')
  await cluster.until('the snapshot', async () => {
    cluster.client.call(subject, {}, { timeoutMs: 5000 }).then(
      (reply) => told.push(names(reply as MembersReply)),
      () => undefined, // Before it hears of a leader.
    )
    // Whoever looks at the state does not bring the new one forward.
    cluster.handles.get('s3')?.stateHash()
    return ((await cluster.status('s3'))?.counters.snapshotsInstalled ?? 0) > 0
  })
  await cluster.until('answers', async () => told.length > 3)
  for (const members of told) assert.deepEqual(members, [...MEMBERS, 's3 (learner)'])
})

test('changes that would be regretted are refused, and say why', async () => {
  const cluster = new SimCluster(MEMBERS)
  const leader = await cluster.leader()
  const [a, b] = MEMBERS.filter((member) => member !== leader) as [string, string]
  await cluster.put(leader, 'a', '1')
  assert.equal(await code(cluster.call(a, 'memberAdd', { member: b })), 'MEMBER_EXISTS not-applied')
  assert.equal(await code(cluster.call(a, 'memberAdd', { member: 'a b' })), 'BAD_REQUEST not-applied')
  assert.equal(await code(cluster.call(a, 'memberRemove', { member: 's9' })), 'MEMBER_NOT_FOUND not-applied')
  assert.equal(await code(cluster.call(a, 'memberPromote', { member: b })), 'BAD_REQUEST not-applied')
  await cluster.call(a, 'memberAdd', { member: 's3' })
  assert.equal(await code(cluster.call(a, 'memberPromote', { member: 's3' })), 'LEARNER_NOT_READY not-applied')
  cluster.crash(b)
  await cluster.run(2000)
  assert.equal(await code(cluster.call(leader, 'memberRemove', { member: a })), 'UNHEALTHY not-applied')
  assert.equal(await code(cluster.call(leader, 'memberAdd', { member: 's4', learner: false })), 'UNHEALTHY not-applied')
  // The dead one may go: the two that are left are well.
  assert.deepEqual(
    names(await cluster.call<MembersReply>(leader, 'memberRemove', { member: b })),
    [leader, a, 's3 (learner)'].sort(),
  )
})

test('a member that was out of reach when it was removed is told when it comes back, and disturbs nobody', async () => {
  const cluster = new SimCluster(MEMBERS)
  const leader = await cluster.leader()
  const lost = MEMBERS.find((member) => member !== leader) as string
  await cluster.put(leader, 'a', '1')
  cluster.crash(lost)
  await cluster.run(1000)
  await cluster.call(leader, 'memberRemove', { member: lost })
  await cluster.run(2000)
  const { term } = (await cluster.status(leader)) ?? {}
  cluster.restart(lost)
  await cluster.until('its end', async () => cluster.failures.has(lost))
  assert.match(String(cluster.failures.get(lost)), /was removed from the cluster/)
  assert.equal((await cluster.status(leader))?.term, term)
  // Under its old name it comes back as any new member does.
  cluster.wipe(lost)
  cluster.restart(lost, { emptyDirectory: 'join' })
  await cluster.call(leader, 'memberAdd', { member: lost })
  await cluster.until('the promotion', () =>
    cluster.call(leader, 'memberPromote', { member: lost }).catch((error: CallError) => {
      assert.equal(error.code, 'LEARNER_NOT_READY')
      return undefined
    }),
  )
  await cluster.until('its vote', async () => (await cluster.status(lost))?.role === 'follower')
  assert.equal(await cluster.get(lost, 'a'), '1')
})
