import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Disk } from '@capstan/actor'
import fc from 'fast-check'

/** How the contract gets at one kind of disk and at the time in which it works. */
export interface DiskHarness {
  readonly disk: Disk
  /** Resolves with the promise; a simulation steps until it has. Default: waits. */
  run?<T>(promise: Promise<T>): Promise<T>
  end?(): Promise<void>
}

const bytes = (text: string) => new TextEncoder().encode(text)
const text = (b: Uint8Array | undefined) => (b === undefined ? undefined : new TextDecoder().decode(b))
const isZero = (b: Uint8Array) => b.every((byte) => byte === 0)

/** What every `Disk` body must do while the machine runs. What crashes leave is tested where crashes can be made. */
export function diskContract(name: string, make: () => Promise<DiskHarness>): void {
  const it = (title: string, run: (disk: Disk) => Promise<void>) =>
    test(title, async () => {
      const harness = await make()
      try {
        const done = run(harness.disk)
        await (harness.run ? harness.run(done) : done)
      } finally {
        await harness.end?.()
      }
    })

  describe(`disk: ${name}`, () => {
    it('starts empty; what is not there reads as nothing', async (disk) => {
      assert.deepEqual(await disk.list(''), [])
      assert.deepEqual(await disk.list('no/such'), [])
      assert.equal(await disk.read('no/such'), undefined)
      await disk.remove('no/such')
      assert.ok((await disk.freeBytes()) > 0)
    })

    it('replaces whole files, making their directories', async (disk) => {
      await disk.writeAtomic('a/b/file', bytes('one'))
      assert.equal(text(await disk.read('a/b/file')), 'one')
      await disk.writeAtomic('a/b/file', bytes('two, longer'))
      await disk.writeAtomic('a/b/empty', new Uint8Array(0))
      assert.equal(text(await disk.read('a/b/file')), 'two, longer')
      assert.equal(text(await disk.read('a/b/empty')), '')
      assert.deepEqual(await disk.list('a/b'), ['empty', 'file'])
      assert.deepEqual(await disk.list('a'), ['b'])
    })

    it('replaces one file by several at once, in the order of the calls', async (disk) => {
      await Promise.all(
        [3000, 2000, 1000, 0].map((length) => disk.writeAtomic('file', bytes(`${length} ${'x'.repeat(length)}`))),
      )
      assert.equal(text(await disk.read('file')), '0 ')
      assert.deepEqual(await disk.list(''), ['file'])
    })

    it('lists by code unit', async (disk) => {
      for (const each of ['b', 'a', 'B', 'ä', '10', '9']) await disk.writeAtomic(`d/${each}`, bytes(each))
      assert.deepEqual(await disk.list('d'), ['10', '9', 'B', 'a', 'b', 'ä'])
    })

    it('renames over what was there, into directories that were not', async (disk) => {
      await disk.writeAtomic('from', bytes('new'))
      await disk.writeAtomic('to/name', bytes('old'))
      await disk.rename('from', 'to/name')
      assert.equal(text(await disk.read('to/name')), 'new')
      assert.equal(await disk.read('from'), undefined)
      await disk.rename('to/name', 'else/where')
      assert.equal(text(await disk.read('else/where')), 'new')
      await disk.syncDir('else')
    })

    it('removes a directory with all that is in it', async (disk) => {
      await disk.writeAtomic('d/e/f', bytes('x'))
      await disk.writeAtomic('d/g', bytes('x'))
      await disk.remove('d')
      assert.equal(await disk.read('d/e/f'), undefined)
      assert.deepEqual(await disk.list('d'), [])
    })

    it('reserves zeroes for a new file only', async (disk) => {
      const file = await disk.open('log/segment', { preallocateBytes: 10_000 })
      assert.equal(file.sizeBytes, 10_000)
      assert.ok(isZero(await file.read(0, 10_000)))
      await file.write(100, bytes('record'))
      await file.sync()
      assert.equal(file.sizeBytes, 10_000)
      await file.close()
      const again = await disk.open('log/segment', { preallocateBytes: 50_000 })
      assert.equal(again.sizeBytes, 10_000)
      assert.equal(text(await again.read(100, 6)), 'record')
      await again.close()
    })

    it('reads what was written before, whether or not that has been waited for', async (disk) => {
      const file = await disk.open('f')
      assert.equal(file.sizeBytes, 0)
      const writes = [file.write(0, bytes('aaaa')), file.write(2, bytes('bbbb')), file.write(3, bytes('c'))]
      assert.equal(file.sizeBytes, 6)
      assert.equal(text(await file.read(0, 100)), 'aabcbb')
      assert.equal(text(await file.read(4, 100)), 'bb')
      assert.equal((await file.read(6, 100)).length, 0)
      assert.equal((await file.read(60, 100)).length, 0)
      await Promise.all(writes)
      await file.sync()
      await file.close()
      assert.equal(text(await disk.read('f')), 'aabcbb')
    })

    it('has taken the bytes when write returns', async (disk) => {
      const file = await disk.open('f')
      const buffer = bytes('mine')
      const written = file.write(0, buffer)
      buffer.fill(0)
      await written
      // A view must not take more than itself along.
      const large = new Uint8Array(100_000).fill(1)
      await file.write(4, large.subarray(50, 53))
      assert.equal(large.length, 100_000)
      await file.sync()
      assert.deepEqual([...(await file.read(0, 100))], [...bytes('mine'), 1, 1, 1])
      await file.close()
    })

    it('leaves zeroes between what was written', async (disk) => {
      const file = await disk.open('f')
      await file.write(1000, bytes('x'))
      assert.equal(file.sizeBytes, 1001)
      assert.ok(isZero(await file.read(0, 1000)))
      await file.close()
    })

    it('truncates, shorter and longer', async (disk) => {
      const file = await disk.open('f')
      void file.write(0, bytes('0123456789'))
      await file.truncate(4)
      assert.equal(file.sizeBytes, 4)
      assert.equal(text(await file.read(0, 10)), '0123')
      await file.truncate(6)
      assert.deepEqual([...(await file.read(0, 10))], [...bytes('0123'), 0, 0])
      await file.sync()
      await file.close()
      assert.equal((await disk.read('f'))?.length, 6)
    })

    it('goes on with an open file whose name changes or goes', async (disk) => {
      const file = await disk.open('log/spare', { preallocateBytes: 64 })
      await disk.rename('log/spare', 'log/1')
      await file.write(0, bytes('record'))
      await file.sync()
      assert.equal(text((await disk.read('log/1'))?.subarray(0, 6)), 'record')
      await disk.remove('log/1')
      await file.write(6, bytes('more'))
      await file.sync()
      await file.close()
      assert.deepEqual(await disk.list('log'), [])
    })

    it('keeps files apart, however their writes mingle', async (disk) => {
      const files = await Promise.all([0, 1, 2].map((i) => disk.open(`f${i}`)))
      await Promise.all(
        Array.from({ length: 60 }, (_, i) =>
          (files[i % 3] as (typeof files)[0]).write(Math.floor(i / 3), Uint8Array.of(i)),
        ),
      )
      await Promise.all(files.map((file) => file.sync()))
      for (const [i, file] of files.entries())
        assert.deepEqual(
          [...(await file.read(0, 99))],
          Array.from({ length: 20 }, (_, at) => 3 * at + i),
        )
      await Promise.all(files.map((file) => file.close()))
    })

    it('does as an array of bytes would', async (disk) => {
      const step = fc.oneof(
        fc.record({ write: fc.nat(300), bytes: fc.uint8Array({ minLength: 0, maxLength: 100 }) }),
        fc.record({ truncate: fc.nat(300) }),
        fc.record({ read: fc.nat(400), length: fc.nat(400) }),
        fc.constant({ sync: true }),
      )
      let run = 0
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
          const file = await disk.open(`f${run++}`)
          let model: number[] = []
          const checks: Promise<void>[] = []
          for (const s of steps) {
            if ('write' in s) {
              // As POSIX: nothing written, nothing grown, but our size says at least the offset.
              if (s.bytes.length === 0) continue
              while (model.length < s.write) model.push(0)
              model.splice(s.write, s.bytes.length, ...s.bytes)
              checks.push(file.write(s.write, s.bytes))
            } else if ('truncate' in s) {
              model = Array.from({ length: s.truncate }, (_, i) => model[i] ?? 0)
              checks.push(file.truncate(s.truncate))
            } else if ('read' in s) {
              const expected = model.slice(s.read, s.read + s.length)
              assert.deepEqual([...(await file.read(s.read, s.length))], expected)
            } else checks.push(file.sync())
            assert.equal(file.sizeBytes, model.length)
          }
          await Promise.all(checks)
          await file.close()
        }),
        { numRuns: 40 },
      )
    })
  })
}
