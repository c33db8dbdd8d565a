import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Clock } from '@capstan/actor'
import { Chaos, type ChaosOrder, type ChaosWord, FaultyClock, FaultyDisk } from '../chaos.js'
import { MemoryDisk } from '../memory-disk.js'
import { RealClock } from '../real-clock.js'
import { silentLog } from '../real-log.js'

const bytes = (text: string) => new TextEncoder().encode(text)
const text = (of: Uint8Array) => new TextDecoder().decode(of)

describe('a disk that misbehaves', () => {
  const make = () => {
    const below = new MemoryDisk()
    return { below, disk: new FaultyDisk(below, new RealClock()) }
  }

  test('without a fault it is the disk: what is written is read, and there after a sync', async () => {
    const { below, disk } = make()
    const file = await disk.open('log')
    const written = file.write(0, bytes('abcdef'))
    await Promise.all([written, file.sync()])
    await file.write(2, bytes('XY'))
    assert.equal(text(await file.read(0, 6)), 'abXYef')
    assert.equal(text(await file.read(3, 9)), 'Yef')
    assert.equal(text((await below.read('log')) as Uint8Array), 'abcdef')
    await file.write(6, bytes('g'))
    assert.equal(file.sizeBytes, 7)
    await file.close()
    assert.equal(text((await below.read('log')) as Uint8Array), 'abXYefg')
  })

  test('full: writes are refused as NO_SPACE and counted, until there is room', async () => {
    const { disk } = make()
    const file = await disk.open('log')
    disk.isFull = true
    await assert.rejects(file.write(0, bytes('a')), { code: 'NO_SPACE' })
    await assert.rejects(disk.writeAtomic('x', bytes('a')), { code: 'NO_SPACE' })
    assert.equal(await disk.freeBytes(), 0)
    assert.equal(disk.counts.writesRefused, 2)
    disk.isFull = false
    await file.write(0, bytes('a'))
    await file.sync()
  })

  test('syncs fail, or take long, and are counted', async () => {
    const { below, disk } = make()
    const file = await disk.open('log')
    await file.write(0, bytes('a'))
    disk.failsSyncs = true
    await assert.rejects(file.sync(), { code: 'IO' })
    assert.equal((await below.read('log'))?.length, 0)
    disk.failsSyncs = false
    disk.syncDelayMs = 30
    const startMs = performance.now()
    await file.sync()
    assert.ok(performance.now() - startMs >= 29)
    assert.deepEqual([disk.counts.syncsFailed, disk.counts.syncsDelayed], [1, 1])
  })

  test('the power goes: writes are taken, syncs never end, and what was not synced is lost', async () => {
    const { below, disk } = make()
    const file = await disk.open('log')
    await file.write(0, bytes('synced'))
    await file.sync()
    const cut = disk.cutPower(20)
    // Whoever answers for what it has written, and not synced, does so now.
    await file.write(6, bytes('lost'))
    const ended: string[] = []
    void file.sync().then(() => ended.push('sync'))
    void disk.writeAtomic('x', bytes('a')).then(() => ended.push('whole file'))
    assert.equal(await cut, 4)
    void file.write(10, bytes('after')).then(() => ended.push('write'))
    await new Promise((resolve) => setImmediate(resolve))
    assert.deepEqual(ended, [])
    assert.equal(text((await below.read('log')) as Uint8Array), 'synced')
    assert.equal(await below.read('x'), undefined)
  })

  test('the power goes only once something is there to be lost', async () => {
    const { disk } = make()
    const file = await disk.open('log')
    const cut = disk.cutPower(1)
    let gone = false
    void cut.then(() => {
      gone = true
    })
    await new Promise((resolve) => setTimeout(resolve, 10))
    assert.equal(gone, false)
    await file.write(0, bytes('ab'))
    assert.equal(await cut, 2)
  })
})

describe('a clock that is wrong', () => {
  class HandClock extends RealClock implements Clock {
    atMs = 1000
    delays: number[] = []
    override nowMs = () => 5_000_000 + this.atMs
    override monotonicMs = () => this.atMs
    override setTimer(delayMs: number) {
      this.delays.push(delayMs)
      return { cancel: () => undefined }
    }
  }

  test('its wall time jumps, its monotonic time does not', () => {
    const hand = new HandClock()
    const clock = new FaultyClock(hand)
    clock.setOffset(-3_600_000)
    assert.equal(clock.nowMs(), 5_001_000 - 3_600_000)
    assert.equal(clock.monotonicMs(), 1000)
    assert.equal(clock.shownMs(), 5_001_000 - 3_600_000)
    assert.equal(clock.asked, 2)
    clock.setOffset(0)
    assert.equal(clock.nowMs(), 5_001_000)
    assert.equal(clock.asked, 2)
  })

  test('it runs fast, timers too, and never goes back when it is set right', () => {
    const hand = new HandClock()
    const clock = new FaultyClock(hand)
    clock.setRate(2)
    hand.atMs += 500
    assert.equal(clock.monotonicMs(), 2000)
    clock.setTimer(100, () => undefined)
    assert.deepEqual(hand.delays, [50])
    clock.setRate(1)
    assert.equal(clock.monotonicMs(), 2000)
    hand.atMs += 10
    assert.equal(clock.monotonicMs(), 2010)
    assert.throws(() => clock.setRate(0), RangeError)
  })
})

describe('the socket', () => {
  let directory: string
  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'capstan-chaos-'))
  })
  after(() => rmSync(directory, { recursive: true, force: true }))

  const tell = (path: string, order: ChaosOrder | object): Promise<ChaosWord> =>
    new Promise((resolve, reject) => {
      const socket = connect(path, () => socket.write(`${JSON.stringify(order)}\n`))
      socket.once('error', reject)
      socket.setEncoding('utf8')
      socket.once('data', (line: string) => {
        socket.destroy()
        resolve(JSON.parse(line) as ChaosWord)
      })
    })

  test('takes orders and tells what came of them', async () => {
    const path = join(directory, 'chaos.sock')
    const chaos = new Chaos(new RealClock(), silentLog)
    const clock = chaos.clock()
    const disk = chaos.disk(new MemoryDisk())
    await chaos.listen(path)
    try {
      await tell(path, { order: 'disk', isFull: true })
      await assert.rejects(disk.writeAtomic('x', bytes('a')), { code: 'NO_SPACE' })
      const word = await tell(path, { order: 'disk', isFull: false })
      assert.equal(word.disk?.writesRefused, 1)
      await tell(path, { order: 'clock', offsetMs: 3_600_000 })
      // A look from outside is no proof that the process uses it.
      assert.equal((await tell(path, { order: 'look' })).clock?.asked, 0)
      assert.ok(clock.nowMs() - Date.now() > 3_590_000)
      assert.equal((await tell(path, { order: 'look' })).clock?.asked, 1)
      await tell(path, { order: 'block', ms: 5 })
      let blocked = 0
      while (blocked === 0) blocked = (await tell(path, { order: 'look' })).blocked
      const stopped = await tell(path, { order: 'block', ms: 0 })
      assert.ok(stopped.blocked >= blocked, 'what it counted stays')
      assert.match((await tell(path, { order: 'dance' })).error ?? '', /unknown order/)
    } finally {
      chaos.close()
    }
  })
})
