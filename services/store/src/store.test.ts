import assert from 'node:assert/strict'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type CallError, decode, type Disk, DiskError, encode } from '@capstan/actor'
import { MemoryStateEngine, Mvcc, SnapshotReceiver } from '@capstan/mvcc'
import type {
  BackupData,
  LeaseGrantReply,
  LeaseTimeToLiveReply,
  MembersReply,
  MetricsReply,
  ReadIndexReply,
  WatchData,
} from '@capstan/protocol'
import { readBackup } from './backup.js'
import { bytes, LocalCluster, text } from './testing/local-cluster.js'

const ALL = { key: bytes('\0'), rangeEnd: bytes('\0') }

async function code(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'no error'
  } catch (error) {
    const { code: name, outcome } = error as CallError
    return `${name} ${outcome}`
  }
}

/** Collects a watch until it ends; checks the chain of revisions on the way (promise S3). */
function watch(cluster: LocalCluster, member: string, body: object) {
  const events: string[] = []
  const state: { ended: string | undefined; revision: number } = { ended: undefined, revision: -1 }
  const stream = cluster.client.openStream(
    cluster.subjects.store(member, cluster.clientIdentity, 'watch'),
    body,
    {
      data: (data) => {
        const { prevRevision, revision, events: got } = data as WatchData
        if (state.revision >= 0) assert.equal(prevRevision, state.revision)
        state.revision = revision
        for (const { type, kv, prevKv } of got) {
          assert.ok(kv.modRevision > prevRevision && kv.modRevision <= revision)
          events.push(`${type} ${text(kv.key)}=${text(kv.value)}${prevKv ? ` was ${text(prevKv.value)}` : ''}`)
        }
      },
      end: (reason, error) => (state.ended = error ? `${reason} ${error.code}` : reason),
    },
    { timeoutMs: 5000 },
  )
  return { events, state, cancel: () => stream.cancel() }
}

/** As a reader that takes few pieces at a time. */
function backupOf(cluster: LocalCluster, member: string, body: object): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const pieces: Uint8Array[] = []
    let bytesGot = 0
    let complete = false
    cluster.client.openStream(
      cluster.subjects.store(member, cluster.clientIdentity, 'backup'),
      body,
      {
        data: (data) => {
          const { offset, data: piece, done } = data as BackupData
          assert.equal(offset, bytesGot)
          bytesGot += piece.length
          pieces.push(piece)
          complete = done
        },
        end: (reason, error) =>
          complete ? resolve(new Uint8Array(Buffer.concat(pieces))) : reject(error ?? new Error(reason)),
      },
      { timeoutMs: 5000, creditsMax: 2 },
    )
  })
}

const fileOf = (whole: Uint8Array) => ({
  sizeBytes: whole.length,
  read: async (offset: number, length: number) => whole.slice(offset, offset + length),
})

describe('three members', () => {
  let cluster: LocalCluster
  before(async () => {
    cluster = await LocalCluster.start()
  })
  after(() => cluster.end())

  test('any member takes a write, every member reads it linearizably', async () => {
    for (const member of cluster.members) {
      await cluster.put(member, `by-${member}`, member)
      for (const reader of cluster.members) assert.equal(await cluster.get(reader, `by-${member}`), member)
    }
    const points = await Promise.all(cluster.members.map((m) => cluster.call<ReadIndexReply>(m, 'readIndex', {})))
    assert.deepEqual(new Set(points.map((p) => p.revision)), new Set([4]))
  })

  test('a repeated write with a session applies once, by whichever member it comes', async () => {
    const session = { clientId: 'client', seq: 1 }
    const first = await cluster.put('s0', 'once', '1', { session })
    const second = await cluster.put('s1', 'once', '1', { session })
    assert.equal(second.header.revision, first.header.revision)
  })

  test('watches deliver the past and the present, and stop for compaction', async () => {
    await cluster.put('s0', 'w/a', '1')
    const { header } = await cluster.put('s0', 'w/a', '2')
    const range = { key: bytes('w/'), rangeEnd: bytes('w0') }
    const past = watch(cluster, 's1', { ...range, startRevision: header.revision, prevKv: true })
    const all = watch(cluster, 's2', { ...range, startRevision: 1 })
    const future = watch(cluster, 's2', { ...range, filters: ['noPut'] })
    await cluster.until('the watch to begin', async () => future.state.revision >= 0)
    await cluster.put('s2', 'w/b', '1')
    await cluster.put('s2', 'other', '1')
    await cluster.call('s1', 'txn', { compare: [], success: [{ type: 'delete', ...range }], failure: [] })
    await cluster.until(
      'all events',
      async () => past.events.length === 4 && all.events.length === 5 && future.events.length === 2,
    )
    assert.deepEqual(past.events, ['put w/a=2 was 1', 'put w/b=1', 'delete w/a= was 2', 'delete w/b= was 1'])
    assert.deepEqual(all.events, ['put w/a=1', 'put w/a=2', 'put w/b=1', 'delete w/a=', 'delete w/b='])
    assert.deepEqual(future.events, ['delete w/a=', 'delete w/b='])
    for (const one of [past, all, future]) one.cancel()
    await cluster.call('s2', 'compact', { revision: header.revision })
    await cluster.until('compaction on s1', async () => ((await cluster.status('s1'))?.compactRevision ?? 0) > 0)
    const late = watch(cluster, 's1', { ...range, startRevision: 2 })
    await cluster.until('the refusal', async () => late.state.ended)
    assert.equal(late.state.ended, 'refused COMPACTED')
    assert.equal(await code(cluster.call('s0', 'range', { ...ALL, revision: 2 })), 'COMPACTED not-applied')
    assert.equal(await code(cluster.call('s0', 'range', { ...ALL, revision: 999 })), 'FUTURE_REVISION not-applied')
  })

  test('a lease ends, and its keys with it; a renewed one lives', async () => {
    const short = await cluster.call<LeaseGrantReply>('s1', 'leaseGrant', { id: 0, ttlSeconds: 1 })
    const kept = await cluster.call<LeaseGrantReply>('s2', 'leaseGrant', { id: 77, ttlSeconds: 1 })
    assert.equal(kept.id, 77)
    await cluster.put('s0', 'short', '1', { lease: short.id })
    await cluster.put('s0', 'kept', '1', { lease: 77 })
    const gone = watch(cluster, 's2', { key: bytes('short') })
    await cluster.until('the end of the lease', async () => {
      await cluster.call('s1', 'leaseKeepAlive', { id: 77 })
      return (await cluster.get('s2', 'short')) === undefined
    })
    assert.equal(await cluster.get('s1', 'kept'), '1')
    await cluster.until('the event', async () => gone.events.length === 1)
    assert.deepEqual(gone.events, ['delete short='])
    const left = await cluster.call<LeaseTimeToLiveReply>('s0', 'leaseTimeToLive', { id: 77, keys: true })
    assert.deepEqual([left.grantedTtlSeconds, left.keys?.map(text)], [1, ['kept']])
    assert.equal((await cluster.call<LeaseTimeToLiveReply>('s0', 'leaseTimeToLive', { id: short.id })).ttlSeconds, -1)
    assert.equal(await code(cluster.call('s0', 'leaseKeepAlive', { id: short.id })), 'LEASE_NOT_FOUND not-applied')
    await cluster.call('s0', 'leaseRevoke', { id: 77 })
    assert.equal(await cluster.get('s1', 'kept'), undefined)
  })

  test('members are those of the configuration', async () => {
    const reply = await cluster.call<MembersReply>('s1', 'members', {})
    assert.deepEqual(
      reply.members,
      ['s0', 's1', 's2'].map((name) => ({ name, learner: false })),
    )
  })

  test('a backup is one whole state, checked; what is cut, flipped or not finished is no backup', async () => {
    for (let i = 0; i < 10; i++) await cluster.put('s0', `backup/${i}`, String(i).repeat(100_000))
    const whole = await backupOf(cluster, 's2', { linearizable: true })
    assert.equal(whole.length % 512, 32)
    const pieces: Uint8Array[] = []
    const header = await readBackup(fileOf(whole), (piece) => void pieces.push(piece))
    assert.deepEqual([header.clusterId, header.members], ['c1', ['s0', 's1', 's2']])
    assert.ok(header.keys >= 10)
    const engine = new MemoryStateEngine()
    const receiver = new SnapshotReceiver(engine)
    for (const piece of pieces) await receiver.write(piece)
    await receiver.finish()
    receiver.show()
    const state = new Mvcc(engine)
    assert.deepEqual([state.revision, state.appliedIndex], [header.revision, header.appliedIndex])
    assert.equal(text(state.range({ key: bytes('backup/7') }).kvs[0]?.value ?? bytes('')), '7'.repeat(100_000))
    for (const at of [3, 50, 1000, whole.length - 40, whole.length - 1]) {
      const flipped = whole.slice()
      flipped[at] = (flipped[at] as number) ^ 4
      await assert.rejects(readBackup(fileOf(flipped)), /not a whole backup/, `a flipped bit at ${at}`)
    }
    for (const length of [0, 500, whole.length - 512, whole.length - 1])
      await assert.rejects(readBackup(fileOf(whole.subarray(0, length))), /not a whole backup/)
    assert.equal(await code(cluster.call('s0', 'backup', {})), 'BAD_REQUEST not-applied')
  })

  test('metrics bear the names that operators know from etcd', async () => {
    const leader = await cluster.leader()
    await cluster.put(leader, 'metrics', '1')
    const { text: metrics } = await cluster.call<MetricsReply>(leader, 'metrics', {})
    const value = (name: string) => Number(new RegExp(`^${name} (.+)$`, 'm').exec(metrics)?.[1])
    assert.deepEqual([value('etcd_server_has_leader'), value('etcd_server_is_leader')], [1, 1])
    assert.ok(value('etcd_disk_wal_fsync_duration_seconds_count') > 0)
    assert.ok(value('etcd_disk_wal_fsync_duration_seconds_sum') > 0)
    assert.ok(value('etcd_debugging_mvcc_keys_total') > 0)
    assert.ok(value('etcd_mvcc_db_total_size_in_bytes') > 0)
    assert.equal(value('etcd_server_proposals_committed_total'), (await cluster.status(leader))?.commitIndex)
    assert.equal(value('etcd_server_quota_backend_bytes'), 8 * 1024 ** 3)
    const again = (await cluster.call<MetricsReply>(leader, 'metrics', {})).text
    assert.ok(again.includes('# TYPE etcd_server_leader_changes_seen_total counter'))
  })

  test('bad requests are refused clearly and harm nothing', async () => {
    assert.equal(await code(cluster.call('s0', 'txn', { compare: 7 })), 'BAD_REQUEST not-applied')
    assert.equal(await code(cluster.call('s0', 'txn', 'garbage')), 'BAD_REQUEST not-applied')
    assert.equal(await code(cluster.call('s1', 'range', { key: 'text' })), 'BAD_REQUEST not-applied')
    assert.equal(await code(cluster.call('s1', 'range', { key: bytes('a'), limit: -1 })), 'BAD_REQUEST not-applied')
    assert.equal(await code(cluster.call('s1', 'watch', { key: bytes('a') })), 'BAD_REQUEST not-applied')
    assert.equal(await code(cluster.call('s2', 'compact', { revision: 'x' })), 'BAD_REQUEST not-applied')
    // What would be committed, and then fail, or differ from member to member, where it is applied.
    const alarms: object[] = [
      { alarm: { toString: 1 }, member: 's0' },
      { alarm: 'NOSPACE', member: { toString: 1 } },
    ]
    for (const alarm of alarms)
      assert.equal(await code(cluster.call('s1', 'alarm', { action: 'raise', ...alarm })), 'BAD_REQUEST not-applied')
    const seqs = [0, -1, 1.5, '5', true, 2 ** 51, 2n ** 60n].map((seq) => ({ clientId: 'c', seq }))
    for (const session of [{ clientId: '', seq: 1 }, { clientId: 'c'.repeat(129), seq: 1 }, 7, ...seqs])
      assert.equal(
        await code(
          cluster.call('s1', 'txn', {
            ...{ compare: [], failure: [], session },
            success: [{ type: 'put', key: bytes('refused'), value: bytes('') }],
          }),
        ),
        'BAD_REQUEST not-applied',
      )
    for (const member of cluster.members) assert.equal(await cluster.get(member, 'refused'), undefined)
    assert.equal(await code(cluster.call('s2', 'nonsense' as never, {})), 'UNKNOWN_VERB not-applied')
    assert.equal(await code(cluster.put('s2', 'large', 'x'.repeat(2_000_000))), 'TOO_LARGE not-applied')
    await cluster.put('s2', 'large', 'x'.repeat(1_400_000))
    assert.equal((await cluster.get('s1', 'large'))?.length, 1_400_000)
  })

  test('many writes at once: all answered, all members the same', async () => {
    const results = await Promise.all(
      Array.from({ length: 600 }, (_, i) => cluster.put(`s${i % 3}`, `many/${i}`, String(i))),
    )
    assert.equal(new Set(results.map((r) => r.header.revision)).size, 600)
    const index = (await cluster.status(await cluster.leader()))?.commitIndex as number
    await cluster.until('all to apply', async () =>
      (await Promise.all(cluster.members.map((m) => cluster.status(m)))).every((s) => (s?.appliedIndex ?? 0) >= index),
    )
    const hashes = await Promise.all([...cluster.handles.values()].map((handle) => handle.stateHash()))
    for (const { appliedIndex, hash } of hashes)
      if (appliedIndex === hashes[0]?.appliedIndex) assert.equal(hash, hashes[0].hash)
  })

  test('moving leadership on request', async () => {
    const from = await cluster.leader()
    const to = cluster.members.find((m) => m !== from) as string
    await cluster.call(from, 'moveLeader', { to })
    await cluster.until('the new leader', async () => (await cluster.leader()) === to)
    await cluster.put(from, 'moved', '1')
    await cluster.call(from, 'moveLeader', { to })
    assert.equal(await cluster.leader(), to, 'it leads already')
  })
})

describe('failures', { concurrency: 4 }, () => {
  test('the leader dies under writes: others take over, nothing acknowledged is lost, it comes back', async () => {
    const cluster = await LocalCluster.start()
    let writing = true
    try {
      const dead = await cluster.leader()
      const alive = cluster.members.filter((m) => m !== dead)
      const acknowledged: string[] = []
      const writer = (async () => {
        for (let i = 0; writing; i++) {
          const key = `k/${i}`
          // With a session the member itself carries the request over to the new leader.
          const done = await cluster
            .put(alive[i % 2] as string, key, key, { session: { clientId: 'w', seq: i + 1 } })
            .then(
              () => true,
              () => false,
            )
          if (done) acknowledged.push(key)
        }
      })()
      await cluster.until('some writes', async () => acknowledged.length > 20)
      await cluster.kill(dead)
      const before = acknowledged.length
      await cluster.until('writes to go on', async () => acknowledged.length > before + 20)
      writing = false
      await writer
      assert.notEqual(await cluster.leader(), dead)
      await cluster.startMember(dead)
      for (const member of cluster.members)
        for (const key of acknowledged) assert.equal(await cluster.get(member, key), key)
    } finally {
      // Also after a failure: a writer that nobody ends keeps the process.
      writing = false
      await cluster.end()
    }
  })

  test('all killed at once and started again: everything is there', async () => {
    const cluster = await LocalCluster.start()
    try {
      await cluster.call('s0', 'leaseGrant', { id: 5, ttlSeconds: 600 })
      await cluster.put('s0', 'a', '1', { lease: 5, session: { clientId: 'c', seq: 9 } })
      for (let i = 0; i < 50; i++) await cluster.put('s1', `k${i}`, String(i))
      await Promise.all(cluster.members.map((member) => cluster.kill(member)))
      await Promise.all(cluster.members.map((member) => cluster.startMember(member)))
      // A read waits 3 s for a leader; three members in one busy process may take longer to elect one.
      await cluster.leader()
      for (const member of cluster.members) assert.equal(await cluster.get(member, 'k49'), '49')
      const again = await cluster.put('s2', 'a', '2', { lease: 5, session: { clientId: 'c', seq: 9 } })
      assert.equal(again.header.revision, 2)
      assert.equal(await cluster.get('s1', 'a'), '1')
    } finally {
      await cluster.end()
    }
  })

  test('a member that slept through the cut of the log catches up by a snapshot', async () => {
    const cluster = await LocalCluster.start({ checkpointEntries: 20, checkpointPeriodMs: 50, logKeepEntries: 10 })
    try {
      const leader = await cluster.leader()
      const sleeper = cluster.members.find((m) => m !== leader) as string
      await cluster.kill(sleeper)
      const large = 'x'.repeat(100_000)
      for (let i = 0; i < 50; i++) await cluster.put(leader, `k${i % 20}`, large + i)
      await cluster.until('the cut of the log', async () => ((await cluster.status(leader))?.firstIndex ?? 0) > 25)
      await cluster.startMember(sleeper)
      assert.equal(await cluster.get(sleeper, 'k9'), `${large}49`)
      await cluster.until(
        'the snapshot',
        async () => ((await cluster.status(sleeper))?.counters.snapshotsInstalled ?? 0) > 0,
      )
      await cluster.put(sleeper, 'after', '1')
      const [a, b] = await cluster.until('both to apply the same', async () => {
        const pair = await Promise.all([
          cluster.handles.get(leader)?.stateHash(),
          cluster.handles.get(sleeper)?.stateHash(),
        ])
        return pair[0]?.appliedIndex === pair[1]?.appliedIndex && pair
      })
      assert.equal(a?.hash, b?.hash)
    } finally {
      await cluster.end()
    }
  })

  test('a member that forgot everything does not vote until it is repaired', async () => {
    const cluster = await LocalCluster.start()
    try {
      const leader = await cluster.leader()
      const [forgetful, other] = cluster.members.filter((m) => m !== leader) as [string, string]
      await cluster.put(leader, 'a', '1')
      // Down to the forgetful one and `other`, who may know less than the leader knew: no leader may arise.
      await cluster.kill(forgetful)
      await cluster.wipe(forgetful)
      await cluster.kill(leader)
      const won = async () => (await cluster.status(other))?.counters.won
      const wonBefore = await won()
      await cluster.startMember(forgetful)
      assert.equal((await cluster.status(forgetful))?.role, 'learner')
      // Long enough for several elections, had it a vote.
      await code(cluster.call(other, 'txn', { compare: [], success: [], failure: [] }, 1500))
      assert.equal(await won(), wonBefore)
      assert.equal((await cluster.status(forgetful))?.role, 'learner')
      await cluster.startMember(leader)
      await cluster.until('the repair', async () => (await cluster.status(forgetful))?.role !== 'learner')
      assert.equal(await cluster.get(forgetful, 'a'), '1')
      await cluster.kill(leader)
      // Handed to whoever led, it may have happened: with a session it is carried over all the same.
      await cluster.put(forgetful, 'b', '1', { session: { clientId: 'c', seq: 1 } })
    } finally {
      await cluster.end()
    }
  })

  test('a member that forgot everything and claims to be new is refused', async () => {
    const cluster = await LocalCluster.start()
    try {
      const leader = await cluster.leader()
      const liar = cluster.members.find((m) => m !== leader) as string
      await cluster.put(leader, 'a', '1')
      await cluster.kill(liar)
      await cluster.wipe(liar)
      await cluster.startMember(liar, { emptyDirectory: 'new' })
      await cluster.until('the refusal', async () =>
        (await cluster.status(leader))?.errors.some((error) => error.startsWith(liar)),
      )
      await cluster.kill(liar)
      await cluster.wipe(liar)
      await cluster.startMember(liar)
      assert.equal(await cluster.get(liar, 'a'), '1')
      assert.deepEqual((await cluster.status(leader))?.errors, [])
    } finally {
      await cluster.end()
    }
  })

  test('a clean stop hands leadership over at once', async () => {
    const cluster = await LocalCluster.start({ electionTimeoutMs: 1500 })
    try {
      const first = await cluster.leader()
      await cluster.stop(first)
      const rest = cluster.members.filter((m) => m !== first)
      await cluster.put(rest[0] as string, 'a', '1')
      await cluster.startMember(first)
      assert.equal(await cluster.get(first, 'a'), '1')
    } finally {
      await cluster.end()
    }
  })

  test('a full disk refuses what needs space, and takes what frees it; a failed write or sync of the log restarts the member', async () => {
    const cluster = await LocalCluster.start({ size: 1 })
    try {
      await cluster.put('s0', 'a', '1')
      await cluster.stop('s0')
      let free = 0
      let failWrites = 0
      let failSyncs = 0
      const wrap = (disk: Disk): Disk => ({
        list: (dir) => disk.list(dir),
        read: (path) => disk.read(path),
        writeAtomic: (path, contents) => disk.writeAtomic(path, contents),
        rename: (from, to) => disk.rename(from, to),
        remove: (path) => disk.remove(path),
        syncDir: (dir) => disk.syncDir(dir),
        freeBytes: () => Promise.resolve(free),
        open: async (path, options) => {
          const file = await disk.open(path, options)
          const failing: typeof file = Object.create(file)
          failing.write = (offset, contents) =>
            failWrites-- > 0 ? Promise.reject(new DiskError('IO', 'planted')) : file.write(offset, contents)
          failing.read = (offset, length) => file.read(offset, length)
          failing.sync = () => (failSyncs-- > 0 ? Promise.reject(new DiskError('IO', 'planted')) : file.sync())
          failing.truncate = (size) => file.truncate(size)
          failing.close = () => file.close()
          return failing
        },
      })
      await cluster.startMember('s0', { freeBytesMin: 1000 }, wrap)
      await cluster.until('the refusal', async () => ((await cluster.status('s0'))?.errors.length ?? 0) > 0)
      assert.match(String((await cluster.status('s0'))?.errors[0]), /^NO_SPACE: the disk is nearly full/)
      assert.equal(await code(cluster.put('s0', 'b', '1')), 'NO_SPACE not-applied')
      assert.equal(await code(cluster.call('s0', 'leaseGrant', { id: 9, ttlSeconds: 9 })), 'NO_SPACE not-applied')
      assert.equal(await cluster.get('s0', 'a'), '1')
      const nothing = { compare: [], failure: [] }
      await cluster.call('s0', 'txn', { ...nothing, success: [{ type: 'delete', key: bytes('c') }] })
      await cluster.call('s0', 'compact', { revision: 2 })
      await cluster.stop('s0')
      free = 1e9
      await cluster.startMember('s0', {}, wrap)
      // What the former life raised is applied before this write, and cleared some time after.
      await cluster.until('room', async () => {
        await cluster.put('s0', 'b', '1').catch(() => undefined)
        return (await cluster.status('s0'))?.errors.length === 0 && (await cluster.get('s0', 'b')) === '1'
      })
      failWrites = 1
      assert.match(await code(cluster.put('s0', 'c', '1')), /maybe-applied$/)
      await cluster.until('the restart', () => cluster.put('s0', 'd', '1').catch(() => undefined))
      // A failed sync is final: it is never tried again on the same file, only a restart tells what is durable.
      failSyncs = 1
      assert.match(await code(cluster.put('s0', 'e', '1')), /maybe-applied$/)
      await cluster.until('the restart', () => cluster.put('s0', 'f', '1').catch(() => undefined))
      assert.equal(failSyncs < 1, true)
      assert.equal(await cluster.get('s0', 'b'), '1')
    } finally {
      await cluster.end()
    }
  })

  test('history is compacted by itself', async () => {
    const cluster = await LocalCluster.start({ size: 1, compaction: { keepMs: 300 } })
    try {
      for (let i = 0; i < 20; i++) await cluster.put('s0', 'a', String(i))
      await cluster.until('the compaction', async () => ((await cluster.status('s0'))?.compactRevision ?? 0) >= 21)
      assert.equal(await cluster.get('s0', 'a'), '19')
    } finally {
      await cluster.end()
    }
  })

  test('a single member works alone, and refuses the directory of another', async () => {
    const cluster = await LocalCluster.start({ size: 1 })
    try {
      await cluster.put('s0', 'a', '1')
      await cluster.stop('s0')
      assert.equal(await code(cluster.startMember('s0', { clusterId: 'other' })), 'BAD_REQUEST not-applied')
      await cluster.startMember('s0')
      assert.equal(await cluster.get('s0', 'a'), '1')
    } finally {
      await cluster.end()
    }
  })

  test('a damaged log stops the member with a clear message', async () => {
    const cluster = await LocalCluster.start({ size: 1 })
    try {
      for (let i = 0; i < 10; i++) await cluster.put('s0', 'a', String(i))
      await cluster.kill('s0')
      const path = join(cluster.dir, 's0/raft/0000000001.log')
      const log = await readFile(path)
      log[300] = (log[300] as number) ^ 1
      await writeFile(path, log)
      await assert.rejects(cluster.startMember('s0'), /raft log damaged in raft\/0000000001.log/)
    } finally {
      await cluster.end()
    }
  })

  test('a log that is gone beside its identity stops the member, and the way back is as it says', async () => {
    const cluster = await LocalCluster.start()
    try {
      const leader = await cluster.leader()
      const loser = cluster.members.find((m) => m !== leader) as string
      await cluster.put(loser, 'a', '1')
      await cluster.kill(loser)
      await rm(join(cluster.dir, loser, 'raft'), { recursive: true })
      const said = /\(raft\/\) is gone.*empty the whole directory and start as an existing member/
      await assert.rejects(cluster.startMember(loser), said)
      // Nothing changed by that start: a second one finds the same.
      await assert.rejects(cluster.startMember(loser, { emptyDirectory: 'new' }), said)
      await cluster.wipe(loser)
      await cluster.startMember(loser)
      assert.equal(await cluster.get(loser, 'a'), '1')
      await cluster.until('the repair', async () => (await cluster.status(loser))?.role !== 'learner')
    } finally {
      await cluster.end()
    }
  })

  test('a directory from before the note of its log is taken as it is, and noted', async () => {
    const cluster = await LocalCluster.start({ size: 1 })
    try {
      await cluster.put('s0', 'a', '1')
      await cluster.stop('s0')
      const path = join(cluster.dir, 's0/identity')
      const note = async () => decode(await readFile(path)) as Record<string, unknown>
      const { logBegun, ...before } = await note()
      assert.equal(logBegun, true)
      await writeFile(path, encode(before))
      await cluster.startMember('s0')
      assert.equal(await cluster.get('s0', 'a'), '1')
      assert.equal((await note()).logBegun, true)
    } finally {
      await cluster.end()
    }
  })
})
