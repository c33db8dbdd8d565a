import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { LogDamaged, RaftLog } from './log.js'
import { CrashDisk } from './testing.js'
import { ENTRY_FORMAT_VERSION, type LogEntry, type PersistBatch } from './types.js'

const SEGMENT_BYTES = 4096
const open = (disk: CrashDisk) => RaftLog.open(disk, { segmentBytes: SEGMENT_BYTES })

function entry(index: number, term: number, bytes = 40): LogEntry {
  // No zero sectors of its own: a payload of zeroes looks like a hole.
  const payload = Uint8Array.from({ length: bytes }, (_, i) => ((index * 31 + i) % 255) + 1)
  return { term, index, formatVersion: ENTRY_FORMAT_VERSION, kind: 'command', clientId: 'c', clientSeq: index, payload }
}

const batchOf = (term: number, from: number, to: number, bytes?: number): PersistBatch => ({
  hardState: { term, votedFor: 'a', commit: from - 1 },
  entries: Array.from({ length: to - from + 1 }, (_, i) => entry(from + i, term, bytes)),
})

test('what was appended is read back, over several segments', async () => {
  const disk = new CrashDisk()
  const { log, recovered } = await open(disk)
  assert.equal(recovered.empty, true)
  for (let i = 0; i < 40; i++) await log.append(batchOf(1, i * 5 + 1, i * 5 + 5))
  await log.close()
  const again = await open(disk)
  assert.deepEqual(again.recovered.entries.map((e) => e.index), Array.from({ length: 200 }, (_, i) => i + 1))
  assert.deepEqual(again.recovered.entries[99], entry(100, 1))
  assert.deepEqual(again.recovered.hardState, { term: 1, votedFor: 'a', commit: 195 })
  assert.ok((await disk.list('raft')).length > 3)
})

test('an entry at an index that is there replaces it and all after it', async () => {
  const disk = new CrashDisk()
  const { log } = await open(disk)
  await log.append(batchOf(1, 1, 10))
  await log.append(batchOf(2, 4, 5))
  const { recovered } = await open(disk)
  assert.deepEqual(recovered.entries.map((e) => `${e.index}/${e.term}`), ['1/1', '2/1', '3/1', '4/2', '5/2'])
})

test('compaction removes whole segments and keeps hard state and base', async () => {
  const disk = new CrashDisk()
  const { log } = await open(disk)
  for (let i = 0; i < 40; i++) await log.append(batchOf(3, i * 5 + 1, i * 5 + 5))
  const before = (await disk.list('raft')).length
  const base = { index: 150, term: 3, configuration: { voters: ['a'], learners: [] } }
  await log.compact(base)
  assert.ok((await disk.list('raft')).length < before)
  const { recovered } = await open(disk)
  assert.deepEqual(recovered.snapshot, base)
  assert.equal(recovered.entries[0]?.index, 151)
  assert.equal(recovered.entries.at(-1)?.index, 200)
  assert.equal(recovered.hardState.term, 3)
})

test('a snapshot that the log does not lead to replaces it', async () => {
  const disk = new CrashDisk()
  const { log } = await open(disk)
  await log.append(batchOf(1, 1, 10))
  await log.append({ entries: [], snapshot: { index: 50, term: 2, configuration: { voters: ['a'], learners: [] } } })
  await log.append({ entries: [entry(51, 2)] })
  const { recovered } = await open(disk)
  assert.equal(recovered.snapshot?.index, 50)
  assert.deepEqual(recovered.entries.map((e) => e.index), [51])
})

test('all that waits shares one sync', async () => {
  const disk = new CrashDisk()
  let syncs = 0
  const { log } = await RaftLog.open(disk, { segmentBytes: SEGMENT_BYTES * 64, onSync: () => syncs++ })
  await Promise.all(Array.from({ length: 100 }, (_, i) => log.append(batchOf(1, i + 1, i + 1))))
  assert.ok(syncs <= 2, `${syncs} syncs`)
})

test('after a crash at any operation, with any un-synced sectors lost, everything acknowledged is there', async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 3, max: 120 }), fc.infiniteStream(fc.boolean()), fc.integer({ min: 1, max: 900 }), async (crashAt, coins, bytes) => {
      const disk = new CrashDisk()
      disk.crashAt = crashAt
      let acknowledged = 0
      try {
        const { log } = await open(disk)
        for (let i = 0; i < 20; i++) {
          await log.append(batchOf(1, i * 2 + 1, i * 2 + 2, bytes))
          acknowledged = i * 2 + 2
          if (i === 10) await log.compact({ index: 8, term: 1, configuration: { voters: ['a'], learners: [] } })
        }
      } catch (error) {
        assert.match(String(error), /disk is gone/)
      }
      disk.crash(() => coins.next().value)
      const { recovered } = await open(disk)
      const last = recovered.entries.at(-1)?.index ?? recovered.snapshot?.index ?? 0
      assert.ok(last >= acknowledged, `acknowledged ${acknowledged}, found ${last}`)
      for (const found of recovered.entries) assert.deepEqual(found, entry(found.index, 1, bytes))
      // It goes on from there, and a second recovery finds the same and more.
      const again = await open(disk)
      await again.log.append({ entries: [entry(last + 1, 1, bytes)] })
      assert.equal((await open(disk)).recovered.entries.at(-1)?.index, last + 1)
    }),
    { numRuns: 150 },
  )
})

test('a flipped bit in any record is found, and is no torn tail', async () => {
  const disk = new CrashDisk()
  const { log } = await open(disk)
  for (let i = 0; i < 20; i++) await log.append(batchOf(1, i * 2 + 1, i * 2 + 2))
  await log.close()
  for (const name of await disk.list('raft')) {
    if (!name.endsWith('.log')) continue
    const bytes = disk.bytes(`raft/${name}`)
    const used = bytes.findLastIndex((byte) => byte !== 0) + 1
    for (let at = 0; at < used; at += 7) {
      bytes[at] = (bytes[at] as number) ^ 0x10
      await assert.rejects(open(disk), LogDamaged, `${name} byte ${at}`)
      bytes[at] = (bytes[at] as number) ^ 0x10
    }
  }
  assert.equal((await open(disk)).recovered.entries.length, 40)
})

test('a failed write is final', async () => {
  const disk = new CrashDisk()
  const { log } = await open(disk)
  await log.append(batchOf(1, 1, 2))
  disk.freeBytes = 0
  await assert.rejects(log.append(batchOf(1, 3, 4)), /no space/)
  disk.freeBytes = Number.POSITIVE_INFINITY
  await assert.rejects(log.append(batchOf(1, 3, 4)), /no space/)
})
