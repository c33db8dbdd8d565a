// Writes testdata/v<N>: what a released program leaves on its disks, for the tests of later ones. Run once for each format, with
// the program that is released: node services/store/scripts/make-testdata.mjs v1
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { decode, encode } from '@capstan/actor'
import { RealClock, RealDisk } from '@capstan/real'
import { backupDirectory } from '../dist/index.js'
import { encodeCommand } from '../dist/command-codec.js'
import { encodeEntries } from '../dist/entry-codec.js'
import { CheckpointFileEngine } from '../dist/checkpoint-file-engine.js'
import { bytes, LocalCluster } from '../dist/testing/local-cluster.js'

const version = process.argv[2]
if (!version) throw new Error('usage: make-testdata.mjs v<N>')
const target = join(import.meta.dirname, '../testdata', version)
if (existsSync(target)) throw new Error(`${target} is there: what was released stays as it is`)
await mkdir(target, { recursive: true })

const small = { logSegmentBytes: 32 * 1024, checkpointPeriodMs: 3_600_000, compaction: 'off' }
const contents = {}
for (const [name, size, options] of [
  ['three', 3, {}],
  ['file-engine', 1, { openEngine: (disk) => CheckpointFileEngine.open(disk) }],
]) {
  const cluster = await LocalCluster.start({ size, ...small, ...options, checkpointEntries: 25 })
  const leader = await cluster.leader()
  await cluster.call('s0', 'leaseGrant', { id: 77, ttlSeconds: 86_400 * 3650 })
  for (let i = 0; i < 40; i++) await cluster.put('s0', `key/${i % 12}`, `value ${i}`, i === 5 ? { lease: 77 } : {})
  await cluster.call('s0', 'txn', { compare: [], success: [{ type: 'delete', key: bytes('key/3') }], failure: [] })
  await cluster.call('s0', 'compact', { revision: 10 })
  const session = { clientId: 'fixture', seq: 9 }
  await cluster.put('s0', 'once', 'applied once', { session })
  // More than the checkpoint holds: these are in the log alone.
  for (let i = 0; i < 5; i++) await cluster.put('s0', 'late', `late ${i}`)
  const { header, kvs } = await cluster.call('s0', 'range', { key: bytes('\0'), rangeEnd: bytes('\0') })
  await cluster.until('all to have applied it', async () =>
    (await Promise.all(cluster.members.map((m) => cluster.status(m)))).every(
      (s) => s.header.revision === header.revision,
    ),
  )
  const status = await cluster.status(leader)
  for (const member of cluster.members) await cluster.kill(member)
  for (const member of cluster.members)
    await cp(join(cluster.dir, member), join(target, name, member), { recursive: true })
  contents[name] = {
    size,
    revision: header.revision,
    compactRevision: status.compactRevision,
    clusterVersion: status.clusterVersion,
    session,
    lease: 77,
    kvs: kvs.map((kv) => ({ ...kv, key: Buffer.from(kv.key).toString(), value: Buffer.from(kv.value).toString() })),
  }
  if (name === 'file-engine') {
    const pieces = []
    const disk = new RealDisk(join(cluster.dir, 's0'))
    const directory = { disk, openEngine: () => CheckpointFileEngine.open(disk) }
    await backupDirectory(directory, { cluster: 'test', clock: new RealClock() }, (piece) => void pieces.push(piece))
    await writeFile(join(target, 'backup.capstan'), Buffer.concat(pieces))
  }
  await cluster.end()
}

// What members send each other while programs of both formats run.
const put = (more) => ({
  type: 'txn',
  txn: { compare: [], success: [{ type: 'put', key: bytes('k'), value: bytes('v'), ...more }], failure: [] },
})
const commands = [
  put({}),
  put({ lease: 7, prevKv: true }),
  { type: 'leaseGrant', id: 7, ttlSeconds: 60 },
  { type: 'leaseRevoke', id: 7, expired: true },
  { type: 'leaseCheckpoint', remaining: [{ id: 7, seconds: 12 }] },
  { type: 'compact', revision: 3 },
  { type: 'alarm', action: 'raise', alarm: 'NOSPACE', member: 's0' },
  { type: 'clusterVersion', version: 2 },
]
const entries = commands.map((command, at) => ({
  term: 3,
  index: at + 1,
  formatVersion: 1,
  kind: command.type === 'clusterVersion' ? 'clusterVersion' : 'command',
  clientId: at === 0 ? 'client' : '',
  clientSeq: at === 0 ? 4 : 0,
  payload: encodeCommand(command),
}))
contents.messages = {
  commands: Buffer.from(encode(commands)).toString('base64'),
  entries: Buffer.from(encodeEntries(entries)).toString('base64'),
}
decode(Buffer.from(contents.messages.commands, 'base64'))
await writeFile(join(target, 'contents.json'), `${JSON.stringify(contents, null, 1)}\n`)
// The lock of a process that is gone.
for (const file of await readdir(target, { recursive: true }))
  if (file.endsWith('lock.mdb')) await rm(join(target, file))
console.log(
  `wrote ${target}`,
  await readFile(join(target, 'contents.json'), 'utf8').then((text) => `${text.length} bytes of contents`),
)
process.exit(0)
