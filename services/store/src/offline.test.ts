/** Backups that become clusters again, and what is left of a lost quorum. */
import assert from 'node:assert/strict'
import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { encode } from '@capstan/actor'
import { MemoryStateEngine, Mvcc, snapshotChunks, SnapshotReceiver } from '@capstan/mvcc'
import type { RangeReply } from '@capstan/protocol'
import { LmdbStateEngine, RealClock, RealDisk, RealRandom } from '@capstan/real'
import { encodeConfiguration } from 'raft-ts'
import { readBackup } from './backup.js'
import { backupDirectory, BUMP_REVISIONS, inspectDirectory, restoreDirectory } from './offline.js'
import { bytes, LocalCluster, text } from './testing/local-cluster.js'

const ALL = { key: bytes('\0'), rangeEnd: bytes('\0') }

const fileOf = (whole: Uint8Array) => ({
  sizeBytes: whole.length,
  read: async (offset: number, length: number) => whole.slice(offset, offset + length),
})

const directoryOf = (cluster: LocalCluster, member: string) => ({
  disk: new RealDisk(join(cluster.dir, member)),
  openEngine: () => new LmdbStateEngine(join(cluster.dir, member, 'state')),
})

async function restore(cluster: LocalCluster, whole: Uint8Array): Promise<void> {
  for (const member of cluster.members) {
    await cluster.wipe(member)
    await restoreDirectory(fileOf(whole), directoryOf(cluster, member), {
      clusterId: 'c2',
      member,
      members: cluster.members,
      random: new RealRandom(),
    })
  }
  await Promise.all(cluster.members.map((member) => cluster.startMember(member, { clusterId: 'c2' })))
}

test('what a lost quorum leaves: all that one member has, as a new cluster whose watchers are not fooled', async () => {
  const cluster = await LocalCluster.start()
  try {
    await cluster.call('s0', 'leaseGrant', { id: 5, ttlSeconds: 600 })
    for (let i = 0; i < 50; i++) await cluster.put('s1', `k${i}`, String(i), i === 0 ? { lease: 5 } : {})
    await cluster.put('s1', 'k1', 'again')
    await cluster.call('s1', 'txn', { compare: [], success: [{ type: 'delete', key: bytes('k2') }], failure: [] })
    const { header, kvs } = await cluster.call<RangeReply>('s2', 'range', ALL)
    await Promise.all(cluster.members.map((member) => cluster.kill(member)))
    for (const lost of ['s0', 's1']) await rm(join(cluster.dir, lost), { recursive: true })

    const summary = await inspectDirectory(directoryOf(cluster, 's2'))
    assert.equal(summary.member, 's2')
    assert.ok(summary.lastIndex >= 53 && summary.lastTerm > 0)
    const pieces: Uint8Array[] = []
    const before = await readFile(join(cluster.dir, 's2/identity'))
    const about = { cluster: 'test', clock: new RealClock() }
    const made = await backupDirectory(directoryOf(cluster, 's2'), about, (piece) => void pieces.push(piece))
    assert.equal(made.revision, header.revision, 'with what only its log held')
    assert.deepEqual(await readFile(join(cluster.dir, 's2/identity')), before, 'it changes nothing')
    const whole = new Uint8Array(Buffer.concat(pieces))
    assert.deepEqual(await readBackup(fileOf(whole)), made)

    await restore(cluster, whole)
    const restored = await cluster.call<RangeReply>('s0', 'range', ALL)
    assert.deepEqual(
      restored.kvs.map(({ key, value, modRevision, version }) => [text(key), text(value), modRevision, version]),
      kvs.map(({ key, value, modRevision, version }) => [text(key), text(value), modRevision, version]),
    )
    assert.equal(restored.header.revision, header.revision + BUMP_REVISIONS)
    // Revisions that somebody may have been told by the lost cluster mean nothing here, and say so.
    for (const startRevision of [2, header.revision, header.revision + 1, header.revision + 1000]) {
      const ended = await new Promise<string>((resolve) => {
        const end = (reason: string, error?: { code: string }) => resolve(`${reason} ${error?.code}`)
        cluster.client.openStream(
          cluster.subjects.store('s1', cluster.clientIdentity, 'watch'),
          { ...ALL, startRevision },
          { data: () => {}, end },
          { timeoutMs: 5000 },
        )
      })
      assert.equal(ended, 'refused COMPACTED')
    }
    // It is a cluster like any other: it writes, forgets what was deleted, and outlives a restart.
    await cluster.put('s2', 'new', '1')
    await cluster.call('s1', 'leaseRevoke', { id: 5 })
    assert.equal(await cluster.get('s0', 'k0'), undefined)
    await Promise.all(cluster.members.map((member) => cluster.kill(member)))
    await Promise.all(cluster.members.map((member) => cluster.startMember(member, { clusterId: 'c2' })))
    assert.equal(await cluster.get('s1', 'new'), '1')
    const hashes = await cluster.until('all to apply the same', async () => {
      const all = await Promise.all([...cluster.handles.values()].map((handle) => handle.stateHash()))
      return new Set(all.map(({ appliedIndex }) => appliedIndex)).size === 1 && all
    })
    assert.equal(new Set(hashes.map(({ hash }) => hash)).size, 1)
  } finally {
    await cluster.end()
  }
})

test('nothing is restored from half a file, or over a directory that somebody has', async () => {
  const cluster = await LocalCluster.start({ size: 1 })
  try {
    await cluster.put('s0', 'a', '1')
    await cluster.stop('s0')
    const pieces: Uint8Array[] = []
    const about = { cluster: 'test', clock: new RealClock() }
    await backupDirectory(directoryOf(cluster, 's0'), about, (piece) => void pieces.push(piece))
    const whole = new Uint8Array(Buffer.concat(pieces))
    const into = { clusterId: 'c2', member: 's0', members: ['s0'], random: new RealRandom() }
    await assert.rejects(restoreDirectory(fileOf(whole), directoryOf(cluster, 's0'), into), /is not empty/)
    await cluster.wipe('s0')
    const half = fileOf(whole.subarray(0, whole.length - 512))
    await assert.rejects(restoreDirectory(half, directoryOf(cluster, 's0'), into), /not a whole backup/)
    await restoreDirectory(fileOf(whole), directoryOf(cluster, 's0'), into)
    await cluster.startMember('s0', { clusterId: 'c2' })
    assert.equal(await cluster.get('s0', 'a'), '1')
    await assert.rejects(inspectDirectory({ ...directoryOf(cluster, 's1') }), /has no identity/)
  } finally {
    await cluster.end()
  }
})

test('where a crash came between a snapshot and the word of it in the log, the snapshot is what is read', async () => {
  const cluster = await LocalCluster.start({ size: 1 })
  try {
    for (let i = 0; i < 5; i++) await cluster.put('s0', 'of the log', String(i))
    await cluster.kill('s0')
    const leader = new Mvcc(new MemoryStateEngine())
    const put = { type: 'put', key: bytes('of the snapshot'), value: bytes('1') } as const
    leader.applyBatch(
      [{ index: 1000, command: { type: 'txn', txn: { compare: [], success: [put], failure: [] } } }],
      [
        ['raft', encode([1000, 70])],
        ['members', encodeConfiguration({ voters: ['s0', 's1'], learners: [] })],
      ],
    )
    const directory = directoryOf(cluster, 's0')
    const engine = directory.openEngine()
    const receiver = new SnapshotReceiver(engine)
    for (const chunk of snapshotChunks(leader.engine.snapshot(), 1000)) await receiver.write(chunk)
    await receiver.finish()
    await engine.close()
    const { lastTerm, lastIndex, members } = await inspectDirectory(directory)
    assert.deepEqual({ lastTerm, lastIndex, members }, { lastTerm: 70, lastIndex: 1000, members: ['s0', 's1'] })
    const about = { cluster: 'test', clock: new RealClock() }
    const made = await backupDirectory(directory, about, () => {})
    assert.deepEqual([made.revision, made.keys, made.term], [leader.revision, 1, 70])
  } finally {
    await cluster.end()
  }
})
