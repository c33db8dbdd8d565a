/** Directories, backups and messages of every format that was released, opened by this program. */
import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { decode } from '@capstan/actor'
import type { Command } from '@capstan/mvcc'
import type { LeaseTimeToLiveReply, RangeReply } from '@capstan/protocol'
import { RealDisk, RealRandom } from '@capstan/real'
import { verifyBackup } from './backup.js'
import { CheckpointFileEngine } from './checkpoint-file-engine.js'
import { decodeCommand } from './command-codec.js'
import { decodeEntries } from './entry-codec.js'
import { restoreDirectory } from './offline.js'
import type { StoreOptions } from './options.js'
import { bytes, LocalCluster, text } from './testing/local-cluster.js'

interface Contents {
  size: number
  revision: number
  compactRevision: number
  clusterVersion: number
  session: { clientId: string; seq: number }
  lease: number
  kvs: { key: string; value: string; createRevision: number; modRevision: number; version: number; lease: number }[]
}

const testdata = join(import.meta.dirname, '../testdata')
const ALL = { key: bytes('\0'), rangeEnd: bytes('\0') }
const fileEngine: Partial<StoreOptions> = { openEngine: (disk) => CheckpointFileEngine.open(disk) }

/** Which of its files a test opens it must not change. */
function copied(from: string): string {
  const scratch = mkdtempSync(join(tmpdir(), 'capstan-released-'))
  cpSync(from, scratch, { recursive: true })
  return scratch
}

async function keyValues(cluster: LocalCluster, member: string) {
  const reply = await cluster.call<RangeReply>(member, 'range', ALL)
  const kvs = reply.kvs.map((kv) => ({ ...kv, key: text(kv.key), value: text(kv.value) }))
  return { revision: reply.header.revision, kvs }
}

for (const format of readdirSync(testdata)) {
  const contents = JSON.parse(readFileSync(join(testdata, format, 'contents.json'), 'utf8')) as {
    three: Contents
    'file-engine': Contents
    messages: { commands: string; entries: string }
  }

  for (const [name, options] of [
    ['three', {}],
    ['file-engine', fileEngine],
  ] as const)
    test(`${format}: directories of ${name} go on from where they were`, async () => {
      const { size, revision, compactRevision, kvs, session, lease } = contents[name]
      const cluster = await LocalCluster.over(copied(join(testdata, format, name)), size, options)
      try {
        await cluster.leader()
        for (const member of cluster.members) {
          assert.deepEqual(await keyValues(cluster, member), { revision, kvs }, member)
          assert.equal((await cluster.status(member))?.compactRevision, compactRevision)
        }
        // What a client of then repeats now was done.
        await cluster.put('s0', 'once', 'applied again', { session })
        assert.equal(await cluster.get('s0', 'once'), 'applied once')
        const { grantedTtlSeconds, keys } = await cluster.call<LeaseTimeToLiveReply>('s0', 'leaseTimeToLive', {
          id: lease,
          keys: true,
        })
        assert.equal(grantedTtlSeconds, 86_400 * 3650)
        assert.deepEqual(
          keys?.map(text),
          kvs.filter((kv) => kv.lease === lease).map((kv) => kv.key),
        )
        const { header } = await cluster.put('s0', 'new', '1')
        assert.equal(header.revision, revision + 1)
        assert.equal(await cluster.get(cluster.members.at(-1) as string, 'new'), '1')
      } finally {
        await cluster.end()
      }
    })

  test(`${format}: a backup becomes a cluster`, async () => {
    const whole = readFileSync(join(testdata, format, 'backup.capstan'))
    const file = {
      sizeBytes: whole.length,
      read: async (at: number, length: number) => whole.subarray(at, at + length),
    }
    const { kvs, revision } = contents['file-engine']
    assert.equal((await verifyBackup(file)).revision, revision)
    const dir = mkdtempSync(join(tmpdir(), 'capstan-released-'))
    const disk = new RealDisk(join(dir, 's0'))
    const directory = { disk, openEngine: () => CheckpointFileEngine.open(disk) }
    const about = { clusterId: 'c1', member: 's0', members: ['s0'], random: new RealRandom() }
    const { restoredRevision } = await restoreDirectory(file, directory, about)
    const cluster = await LocalCluster.over(dir, 1, fileEngine)
    try {
      await cluster.leader()
      const found = await keyValues(cluster, 's0')
      assert.equal(found.revision, restoredRevision)
      assert.deepEqual(
        found.kvs.map(({ key, value }) => ({ key, value })),
        kvs.map(({ key, value }) => ({ key, value })),
      )
    } finally {
      await cluster.end()
      rmSync(dir, { recursive: true, force: true })
    }
  })

  test(`${format}: entries as members send them`, () => {
    const commands = decode(Buffer.from(contents.messages.commands, 'base64')) as Command[]
    const entries = decodeEntries(Buffer.from(contents.messages.entries, 'base64'))
    assert.equal(entries[0]?.clientId, 'client')
    assert.deepEqual(
      entries.map((entry) => JSON.stringify(decodeCommand(entry.payload))),
      commands.map((command) => JSON.stringify(command)),
    )
  })
}
