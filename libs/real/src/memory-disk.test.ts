import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DiskError } from '@capstan/actor'
import { MemoryDisk } from './memory-disk.js'
import { diskContract } from './testing/disk-contract.js'

diskContract('in memory', () => Promise.resolve({ disk: new MemoryDisk() }))

const noSpace = (error: unknown) => error instanceof DiskError && error.code === 'NO_SPACE'

test('a memory disk has a bound, and what is removed makes room', async () => {
  const disk = new MemoryDisk({ bytesMax: 100 })
  await disk.writeAtomic('d/a', new Uint8Array(60))
  assert.equal(await disk.freeBytes(), 40)
  await assert.rejects(disk.writeAtomic('d/b', new Uint8Array(41)), noSpace)
  const file = await disk.open('d/c')
  await assert.rejects(file.write(0, new Uint8Array(41)), noSpace)
  await disk.remove('d/a')
  await file.write(0, new Uint8Array(100))
  assert.equal(await disk.freeBytes(), 0)
  await disk.remove('d')
  assert.equal(await disk.freeBytes(), 100)
})

test('paths stay on the disk, and a file is no directory', async () => {
  const disk = new MemoryDisk()
  await assert.rejects(disk.read('../x'), RangeError)
  await disk.writeAtomic('file', Uint8Array.of(1))
  await assert.rejects(disk.writeAtomic('file/below', Uint8Array.of(1)), DiskError)
  await assert.rejects(disk.rename('none', 'x'), DiskError)
})
