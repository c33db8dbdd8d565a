import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { LogDamaged, RaftLog } from './log.js'
import { readRecord } from './record.js'
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

test('the client of an entry is read back to the letter', async () => {
  const disk = new CrashDisk()
  const { log } = await open(disk)
  const clients = ['\ufeffjob', '\ufeff', 'é', '\u{1f600}', '']
  await log.append({ entries: clients.map((clientId, i) => ({ ...entry(i + 1, 1), clientId })) })
  await log.close()
  assert.deepEqual(
    (await open(disk)).recovered.entries.map(({ clientId }) => clientId),
    clients,
  )
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
    assert.match(String(error), /disk is gone|sync failed/)
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

test('what is recovered after a failed sync is durable, though the kernel takes it for written', async () => {
  for (let failSyncAt = 2; failSyncAt <= 25; failSyncAt++) {
    const disk = new CrashDisk()
    disk.failSyncAt = failSyncAt
    await live(disk, 150, 20)
    disk.restart()
    const { recovered } = await open(disk)
    disk.crash(() => false)
    assert.equal(
      (await open(disk)).recovered.entries.at(-1)?.index,
      recovered.entries.at(-1)?.index,
      `sync ${failSyncAt} failed`,
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

test('a failed sync is final, and never tried again: nobody knows what the kernel dropped', async () => {
  const disk = new CrashDisk()
  const { log } = await open(disk)
  await log.append(batchOf(1, 1, 2))
  disk.failSyncAt = disk.syncs + 1
  await assert.rejects(log.append(batchOf(1, 3, 4)), /sync failed/)
  const { syncs, operations } = disk
  disk.failSyncAt = Number.POSITIVE_INFINITY
  await assert.rejects(log.append(batchOf(1, 3, 4)), /sync failed/)
  await assert.rejects(log.compact({ index: 1, term: 1, configuration: { voters: ['a'], learners: [] } }))
  assert.deepEqual([disk.syncs, disk.operations], [syncs, operations], 'it does not touch the disk again')
})

/** Where each record begins, with the first entry index that is lost if it is. */
function records(bytes: Uint8Array, used: number): { at: number; end: number; index: number | undefined }[] {
  const found: { at: number; end: number; index: number | undefined }[] = []
  for (let at = 0; at < used; ) {
    const read = readRecord(bytes, at)
    assert.ok(read.status === 'record')
    found.push({ at, end: read.end, index: read.record.type === 'entry' ? read.record.entry.index : undefined })
    at = read.end
  }
  return found
}

const DAMAGES: Record<string, (bytes: Uint8Array, at: number, end: number) => void> = {
  'a flipped bit': (bytes, at, end) => void (bytes[(at + end) >> 1] = (bytes[(at + end) >> 1] as number) ^ 4),
  'a flipped bit in the header': (bytes, at) => void (bytes[at + 9] = (bytes[at + 9] as number) ^ 1),
  'a zeroed sector': (bytes, at) => void bytes.fill(0, Math.floor(at / 512) * 512, Math.floor(at / 512) * 512 + 512),
}

test('a log damaged at any record is salvaged up to there, says what it lost until it is repaired, and goes on', async () => {
  for (const [what, damage] of Object.entries(DAMAGES)) {
    const { segments } = await filled()
    for (const [position, { used, bytes: whole }] of segments.entries())
      for (const { at, end } of records(whole, used)) {
        const { disk } = await filled()
        const name = `raft/${segments[position]?.name}`
        damage(disk.bytes(name), at, end)
        const where = `${what}, ${name} at ${at}`
        const error = await open(disk).then(
          () => undefined,
          (thrown) => thrown as LogDamaged,
        )
        // The last batch is the only one that may have been cut short by a crash.
        if (!error) {
          assert.ok(position === segments.length - 1 && what === 'a zeroed sector', where)
          continue
        }
        assert.ok(error instanceof LogDamaged && error.segment === name && error.offset <= at, where)
        const { log, recovered } = await RaftLog.open(disk, { segmentBytes: SEGMENT_BYTES, salvage: true })
        assert.equal(recovered.lost?.fromIndex, error.fromIndex, where)
        const last = recovered.entries.at(-1)?.index ?? 0
        assert.equal(last + 1, error.fromIndex, where)
        for (const found of recovered.entries) assert.deepEqual(found, entry(found.index, 1, 120))
        await log.append({ entries: [entry(last + 1, 2), entry(last + 2, 2)] })
        await log.close()
        const again = await open(disk)
        assert.deepEqual(again.recovered.lost, recovered.lost, where)
        assert.equal(again.recovered.entries.at(-1)?.index, last + 2, where)
        await again.log.repaired()
        await again.log.close()
        assert.equal((await open(disk)).recovered.lost, undefined, where)
      }
  }
})

test('a missing segment and a missing log are salvaged, too', async () => {
  for (const which of [0, 1]) {
    const { disk, segments } = await filled()
    await disk.remove(`raft/${segments[which]?.name}`)
    const { recovered } = await RaftLog.open(disk, { segmentBytes: SEGMENT_BYTES, salvage: true })
    assert.equal(recovered.entries.length === 0, which === 0)
    assert.equal(recovered.lost?.fromIndex, (recovered.entries.at(-1)?.index ?? 0) + 1)
    assert.equal(recovered.hardState.votedFor, 'a')
    const again = await open(disk)
    assert.deepEqual([again.recovered.lost, again.recovered.entries], [recovered.lost, recovered.entries])
  }
  const { recovered } = await RaftLog.open(new CrashDisk(), { mustExist: true, salvage: true })
  assert.equal(recovered.lost?.fromIndex, 1)
})

test('a crash at every operation of a salvage: the log is never taken for whole', async () => {
  const damaged = async () => {
    const { disk, segments } = await filled()
    const { bytes } = segments[0] as { bytes: Uint8Array }
    const place = records(bytes, segments[0]?.used as number)[9] as { at: number; end: number }
    DAMAGES['a flipped bit']?.(disk.bytes(`raft/${segments[0]?.name}`), place.at, place.end)
    disk.crash(() => true) // The damage is on the disk itself.
    return disk
  }
  const salvage = (disk: CrashDisk) => RaftLog.open(disk, { segmentBytes: SEGMENT_BYTES, salvage: true })
  const undisturbed = await damaged()
  const before = undisturbed.operations
  const { recovered: wanted } = await salvage(undisturbed)
  for (let crashAt = 1; crashAt <= undisturbed.operations - before; crashAt++)
    for (const keep of [() => false, () => true, (n: number) => n % 2 === 0]) {
      const disk = await damaged()
      let flips = crashAt
      disk.crashAt = disk.operations + crashAt
      await salvage(disk).catch(() => undefined)
      disk.crash(() => keep(flips++))
      const plain = await open(disk).then(
        ({ recovered }) => recovered,
        (error) => assert.ok(error instanceof LogDamaged),
      )
      if (plain) assert.ok(plain.lost, `crash at ${crashAt}`)
      const { recovered } = await salvage(disk)
      assert.ok(recovered.lost && recovered.lost.fromIndex <= (wanted.lost?.fromIndex as number))
      assert.deepEqual(recovered.entries, wanted.entries)
    }
})

test('the planted bug damage-as-torn forgets what was acknowledged, without a word', async () => {
  const { disk, segments } = await filled()
  const { name, bytes, used } = segments.at(-1) as (typeof segments)[0]
  const place = records(bytes, used)[2] as { at: number; end: number }
  DAMAGES['a flipped bit']?.(bytes, place.at, place.end)
  await assert.rejects(open(disk), (error) => error instanceof LogDamaged && error.segment === `raft/${name}`)
  const bug = { plantedBugs: ['damage-as-torn'] as const, segmentBytes: SEGMENT_BYTES }
  await assert.rejects(RaftLog.open(disk, bug), RangeError)
  const { recovered } = await RaftLog.open(disk, { ...bug, allowPlantedBugs: true })
  assert.ok((recovered.entries.at(-1)?.index ?? 0) < 40 && recovered.lost === undefined)
})
