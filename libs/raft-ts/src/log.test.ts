import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { LogDamaged, RaftLog } from './log.js'
import { seeded } from './test-cluster.js'
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
  assert.deepEqual(
    again.recovered.entries.map((e) => e.index),
    Array.from({ length: 200 }, (_, i) => i + 1),
  )
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
  assert.deepEqual(
    recovered.entries.map((e) => `${e.index}/${e.term}`),
    ['1/1', '2/1', '3/1', '4/2', '5/2'],
  )
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
  assert.deepEqual(
    recovered.entries.map((e) => e.index),
    [51],
  )
})

test('all that waits shares one sync', async () => {
  const disk = new CrashDisk()
  let syncs = 0
  const { log } = await RaftLog.open(disk, { segmentBytes: SEGMENT_BYTES * 64, onSync: () => syncs++ })
  await Promise.all(Array.from({ length: 100 }, (_, i) => log.append(batchOf(1, i + 1, i + 1))))
  assert.ok(syncs <= 2, `${syncs} syncs`)
})

/** A life of a log: appends and compacts from where it stands until the disk stops. Returns what was acknowledged. */
async function live(disk: CrashDisk, bytes: number, steps: number): Promise<{ found: number; acknowledged: number }> {
  const progress = { found: 0, acknowledged: 0 }
  try {
    const { log, recovered } = await open(disk)
    progress.found = recovered.entries.at(-1)?.index ?? recovered.snapshot?.index ?? 0
    for (let i = 0, at = progress.found; i < steps; i++, at += 3) {
      // Two that wait share a batch.
      await Promise.all([
        log.append(batchOf(1, at + 1, at + 2, bytes)),
        log.append({ entries: [entry(at + 3, 1, bytes)] }),
      ])
      progress.acknowledged = at + 3
      if (i % 5 === 4) await log.compact({ index: at - 4, term: 1, configuration: { voters: ['a'], learners: [] } })
    }
    await log.close()
  } catch (error) {
    assert.match(String(error), /disk is gone/)
  }
  return progress
}

async function check(disk: CrashDisk, bytes: number, acknowledged: number): Promise<void> {
  const { log, recovered } = await open(disk)
  const last = recovered.entries.at(-1)?.index ?? recovered.snapshot?.index ?? 0
  assert.ok(last >= acknowledged, `acknowledged ${acknowledged}, found ${last}`)
  for (const found of recovered.entries) assert.deepEqual(found, entry(found.index, 1, bytes))
  await log.close()
}

test('after a crash at every single operation, in the first life and the next, everything acknowledged is there', async () => {
  const bytes = 150
  const whole = new CrashDisk()
  await live(whole, bytes, 20)
  assert.ok(whole.operations > 60)
  const coins: Record<string, (n: number) => boolean> = {
    nothing: () => false,
    all: () => true,
    some: (n) => n % 3 !== 0,
  }
  for (let crashAt = 1; crashAt <= whole.operations; crashAt++)
    for (const kept of Object.values(coins)) {
      const disk = new CrashDisk()
      let flips = crashAt
      disk.crashAt = crashAt
      const first = await live(disk, bytes, 20)
      disk.crash(() => kept(flips++))
      await check(disk, bytes, first.acknowledged)
      disk.crashAt = disk.operations + 5 + (crashAt % 40)
      const second = await live(disk, bytes, 20)
      disk.crash(() => kept(flips++))
      await check(disk, bytes, Math.max(first.acknowledged, second.acknowledged))
    }
})

test('after crashes at random, with any un-synced sectors and names lost, everything acknowledged is there', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 3, max: 120 }), { minLength: 1, maxLength: 4 }),
      fc.integer(),
      fc.integer({ min: 1, max: 3000 }),
      async (lives, seed, bytes) => {
        const disk = new CrashDisk()
        const random = seeded(seed)
        let acknowledged = 0
        for (const operations of lives) {
          disk.crashAt = disk.operations + operations
          acknowledged = Math.max(acknowledged, (await live(disk, bytes, 20)).acknowledged)
          disk.crash(() => random() < 0.5)
          await check(disk, bytes, acknowledged)
        }
      },
    ),
    { numRuns: 150 },
  )
})

test('what is recovered after only the process died is durable: a crash of the machine loses none of it', async () => {
  for (let crashAt = 1; crashAt <= 80; crashAt++) {
    const disk = new CrashDisk()
    disk.crashAt = crashAt
    await live(disk, 150, 20)
    disk.restart()
    const { recovered } = await open(disk)
    disk.crash(() => false)
    assert.equal(
      (await open(disk)).recovered.entries.at(-1)?.index,
      recovered.entries.at(-1)?.index,
      `crash at ${crashAt}`,
    )
  }
})

async function filled(): Promise<{ disk: CrashDisk; segments: { name: string; bytes: Uint8Array; used: number }[] }> {
  const disk = new CrashDisk()
  const { log } = await open(disk)
  for (let i = 0; i < 20; i++) await log.append(batchOf(1, i * 2 + 1, i * 2 + 2, 120))
  await log.close()
  const names = (await disk.list('raft')).filter((name) => name.endsWith('.log'))
  const segments = names.map((name) => {
    const bytes = disk.bytes(`raft/${name}`)
    return { name, bytes, used: bytes.findLastIndex((byte) => byte !== 0) + 1 }
  })
  assert.ok(segments.length > 1)
  return { disk, segments }
}

test('a flipped bit in any byte is found, and is no torn tail', async () => {
  const { disk, segments } = await filled()
  for (const { name, bytes, used } of segments)
    for (let at = 0; at < used; at++) {
      const former = bytes[at] as number
      bytes[at] = former ^ (1 << (at % 8))
      await assert.rejects(
        open(disk),
        (error) => error instanceof LogDamaged && error.segment === `raft/${name}` && error.offset <= at,
        `${name} byte ${at}`,
      )
      bytes[at] = former
    }
  assert.equal((await open(disk)).recovered.entries.length, 40)
})

test('a sector that was synced and is gone is damage, unless the last batch is all that lies behind it', async () => {
  const { disk, segments } = await filled()
  // The last batch of two entries takes less than this at the end of the last segment.
  const lastBatchBytes = 450
  for (const [position, { name, bytes, used }] of segments.entries()) {
    const end = position === segments.length - 1 ? used - lastBatchBytes : used
    for (let at = 0; at < end; at += 512) {
      const former = bytes.slice(at, at + 512)
      bytes.fill(0, at, at + 512)
      await assert.rejects(open(disk), LogDamaged, `${name} sector at ${at}`)
      bytes.set(former, at)
    }
  }
  assert.equal((await open(disk)).recovered.entries.length, 40)
})

test('a missing segment is damage, also the first one', async () => {
  for (const which of [0, 1]) {
    const { disk, segments } = await filled()
    await disk.remove(`raft/${segments[which]?.name}`)
    await assert.rejects(open(disk), LogDamaged)
  }
})

test('a log that was begun and is gone is damage for who knows of it', async () => {
  const { disk, segments } = await filled()
  await assert.doesNotReject(RaftLog.open(disk, { segmentBytes: SEGMENT_BYTES, mustExist: true }))
  for (const { name } of segments) await disk.remove(`raft/${name}`)
  await assert.rejects(RaftLog.open(disk, { segmentBytes: SEGMENT_BYTES, mustExist: true }), LogDamaged)
  await assert.doesNotReject(open(disk))
})

test('a compaction below the present base, and an empty batch, change nothing', async () => {
  const disk = new CrashDisk()
  const { log } = await open(disk)
  const base = (index: number) => ({ index, term: 1, configuration: { voters: ['a'], learners: [] } })
  await log.append(batchOf(1, 1, 10))
  await log.compact(base(8))
  await log.compact(base(4))
  await log.append({ entries: [] })
  await log.append({ entries: [entry(11, 1)] })
  const { recovered } = await open(disk)
  assert.equal(recovered.snapshot?.index, 8)
  assert.deepEqual(
    recovered.entries.map((e) => e.index),
    [9, 10, 11],
  )
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
