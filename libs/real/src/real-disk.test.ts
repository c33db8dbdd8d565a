import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { type Disk, DiskError } from '@capstan/actor'
import { RealDisk } from './real-disk.js'
import { diskContract } from './testing/disk-contract.js'
import { ThreadedDisk } from './threaded-disk.js'

const bodies: [name: string, make: (dir: string) => Disk & { close?(): Promise<void> }][] = [
  ['real', (dir) => new RealDisk(dir)],
  ['threaded', (dir) => new ThreadedDisk(dir)],
]

const diskCode = (wanted: string) => (error: unknown) => error instanceof DiskError && error.code === wanted
const noFullDevice = existsSync('/dev/full') ? false : 'no /dev/full here'

for (const [name, make] of bodies) {
  diskContract(name, async () => {
    const dir = await mkdtemp(join(tmpdir(), 'capstan-disk-'))
    const disk = make(dir)
    return {
      disk,
      end: async () => {
        await disk.close?.()
        await rm(dir, { recursive: true })
      },
    }
  })

  describe(`disk: ${name}, failing`, () => {
    test('a full disk is told as such, and is final for the file', { skip: noFullDevice }, async () => {
      const disk = make('/dev')
      const file = await disk.open('full')
      const [write, sync] = [file.write(0, new Uint8Array(10)), file.sync()]
      await assert.rejects(write, diskCode('NO_SPACE'))
      await assert.rejects(sync, diskCode('NO_SPACE'))
      // Nothing is tried again: what the kernel kept of the failed write nobody knows.
      await assert.rejects(file.sync(), diskCode('NO_SPACE'))
      await assert.rejects(file.write(0, new Uint8Array(0)), diskCode('NO_SPACE'))
      await assert.rejects(file.truncate(0), diskCode('NO_SPACE'))
      await file.close()
      await disk.close?.()
    })

    test('one failed file leaves the others alone', { skip: noFullDevice }, async () => {
      const disk = make('/dev')
      const [full, fine] = [await disk.open('full'), await disk.open('null')]
      await assert.rejects(full.write(0, new Uint8Array(10)), diskCode('NO_SPACE'))
      await fine.write(0, new Uint8Array(10))
      await full.close()
      await fine.close()
      await disk.close?.()
    })

    test('what cannot be is told with the path', async () => {
      const dir = await mkdtemp(join(tmpdir(), 'capstan-disk-'))
      const disk = make(dir)
      await disk.writeAtomic('file', Uint8Array.of(1))
      await assert.rejects(
        disk.open('file/below'),
        (error) => diskCode('IO')(error) && /file\/below/.test((error as Error).message),
      )
      await assert.rejects(disk.writeAtomic('file/below', Uint8Array.of(1)), diskCode('IO'))
      await assert.rejects(disk.rename('none', 'x'), diskCode('IO'))
      await assert.rejects(disk.read('../outside'), diskCode('IO'))
      await assert.rejects(disk.writeAtomic('a/../../b', Uint8Array.of(1)), diskCode('IO'))
      assert.deepEqual(await readdir(dir), ['file'])
      await disk.close?.()
      await rm(dir, { recursive: true })
    })
  })
}

test('what was ordered before a threaded disk is closed is carried out; later orders fail', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'capstan-disk-'))
  const disk = new ThreadedDisk(dir)
  const file = await disk.open('f')
  const written = file.write(0, Uint8Array.of(1, 2, 3))
  await disk.close()
  await written
  await assert.rejects(file.write(3, Uint8Array.of(4)), diskCode('IO'))
  await assert.rejects(disk.open('f'), diskCode('IO'))
  assert.equal((await new RealDisk(dir).read('f'))?.length, 3)
  await rm(dir, { recursive: true })
})

test('the death of the disk thread fails what is outstanding', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'capstan-disk-'))
  const disk = new ThreadedDisk(dir)
  const file = await disk.open('f')
  const { worker } = disk as unknown as { worker: import('node:worker_threads').Worker }
  const ended = worker.terminate()
  await assert.rejects(Promise.all([file.write(0, Uint8Array.of(1)), file.sync()]), diskCode('IO'))
  await ended
  await assert.rejects(file.sync(), diskCode('IO'))
  await disk.close()
  await rm(dir, { recursive: true })
})
