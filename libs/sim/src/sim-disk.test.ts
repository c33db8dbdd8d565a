import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Disk, DiskError } from '@capstan/actor'
import fc from 'fast-check'
import { Simulation } from './simulation.js'

function setUp(seed: string) {
  const simulation = new Simulation({ seed })
  const machine = simulation.machine('m')
  const mount = () =>
    machine.world({ identity: 'i', inbox: 'in.i', grants: { publish: [], subscribe: [] }, directory: 'd' }).disk
  const run = <T>(work: Promise<T>) => simulation.finish(work, simulation.nowMs + 60_000, 'the disk')
  const reboot = () => {
    machine.crash()
    machine.restart()
    return mount()
  }
  return { simulation, machine, mount, run, reboot, device: machine.disk }
}

const sector = (value: number) => new Uint8Array(512).fill(value)

test('what was synced is there after a crash, whatever the seed', async () => {
  for (let seed = 0; seed < 20; seed++) {
    const { mount, run, reboot } = setUp(`synced ${seed}`)
    const disk = mount()
    const file = await run(disk.open('a/log', { preallocateBytes: 4096 }))
    await run(file.write(100, Uint8Array.of(1, 2, 3)))
    await run(file.sync())
    await run(disk.syncDir('a'))
    await run(disk.writeAtomic('state', Uint8Array.of(9)))
    const after = reboot()
    assert.deepEqual([...((await run(after.read('a/log'))) ?? [])].slice(99, 104), [0, 1, 2, 3, 0])
    assert.deepEqual([...((await run(after.read('state'))) ?? [])], [9])
    assert.deepEqual(await run(after.list('')), ['a', 'state'])
    assert.deepEqual(await run(after.list('nowhere')), [])
  }
})

test('un-synced sectors last whole or not at all, and either happens', async () => {
  const lasted = new Set<string>()
  for (let seed = 0; seed < 40; seed++) {
    const { mount, run, reboot } = setUp(`torn ${seed}`)
    const disk = mount()
    const file = await run(disk.open('log', { preallocateBytes: 1024 }))
    await run(file.sync())
    await run(disk.syncDir(''))
    await run(file.write(0, new Uint8Array(1024).fill(7)))
    const bytes = (await run(reboot().read('log'))) as Uint8Array
    for (const part of [bytes.subarray(0, 512), bytes.subarray(512)]) assert.equal(new Set(part).size, 1)
    lasted.add(`${bytes[0]} ${bytes[512]}`)
  }
  assert.deepEqual([...lasted].sort(), ['0 0', '0 7', '7 0', '7 7'])
})

test('un-synced names may be lost; a rename is one step', async () => {
  const seen = new Set<string>()
  for (let seed = 0; seed < 60; seed++) {
    const { mount, run, reboot } = setUp(`names ${seed}`)
    const disk = mount()
    await run(disk.writeAtomic('old', Uint8Array.of(1)))
    await run(disk.writeAtomic('target', Uint8Array.of(2)))
    await run(disk.open('fresh'))
    await run(disk.rename('old', 'target'))
    const after = reboot()
    const names = await run(after.list(''))
    const target = (await run(after.read('target'))) as Uint8Array
    seen.add(`${names.join(' ')} = ${target[0]}`)
  }
  assert.deepEqual([...seen].sort(), ['fresh old target = 2', 'fresh target = 1', 'old target = 2', 'target = 1'])
})

test('a file that shrank and grew has no old bytes in it, also after a crash', async () => {
  const { mount, run, reboot } = setUp('shrunk')
  const disk = mount()
  const file = await run(disk.open('f'))
  await run(file.write(0, new Uint8Array(2000).fill(5)))
  await run(file.sync())
  await run(disk.syncDir(''))
  await run(file.truncate(100))
  await run(file.sync())
  await run(file.write(1900, Uint8Array.of(6)))
  await run(file.sync())
  const bytes = (await run(reboot().read('f'))) as Uint8Array
  assert.deepEqual([bytes.length, bytes[99], bytes[100], bytes[600], bytes[1899], bytes[1900]], [1901, 5, 0, 0, 0, 6])
})

test('a full disk refuses, and has room again once something is removed', async () => {
  const { mount, run, device } = setUp('full')
  const disk = mount()
  device.condition.capacityBytes = 1000
  const file = await run(disk.open('a', { preallocateBytes: 600 }))
  const code = (work: Promise<unknown>) =>
    run(
      work.then(
        () => 'fine',
        (e: unknown) => (e as DiskError).code,
      ),
    )
  assert.equal(await code(disk.writeAtomic('b', new Uint8Array(500))), 'NO_SPACE')
  assert.equal(await run(disk.freeBytes()), 400)
  assert.equal(await code(file.write(900, sector(1))), 'NO_SPACE')
  assert.equal(await code(file.sync()), 'NO_SPACE')
  await run(disk.remove('a'))
  assert.equal(await code(disk.writeAtomic('b', new Uint8Array(500))), 'fine')
  device.condition.failing = true
  assert.equal(await code(disk.read('b')), 'IO')
})

test('slow syncs take their time; a crash leaves what waits for them waiting', async () => {
  const { simulation, machine, mount, run, device } = setUp('slow')
  const disk = mount()
  const file = await run(disk.open('f'))
  device.condition.syncMs = [1000, 1000]
  let synced = 0
  void file.sync().then(() => synced++)
  await simulation.run({ untilMs: simulation.nowMs + 900 })
  assert.equal(synced, 0)
  await simulation.run({ untilMs: simulation.nowMs + 200 })
  assert.equal(synced, 1)
  void file.sync().then(() => synced++)
  await simulation.run({ untilMs: simulation.nowMs + 100 })
  machine.crash()
  await simulation.run({ untilMs: simulation.nowMs + 5000 })
  assert.equal(synced, 1)
})

test('a bit that turned stays turned', async () => {
  const { mount, run, reboot, device } = setUp('flip')
  await run(mount().writeAtomic('f', new Uint8Array(4)))
  assert.deepEqual(device.paths(), ['/d/f'])
  assert.equal(device.flipBit('/d/f', 2), true)
  assert.equal(device.flipBit('/d/f', 4), false)
  const bytes = (await run(reboot().read('f'))) as Uint8Array
  assert.equal([...bytes].filter((b) => b !== 0).length, 1)
})

/** What a disk is while nothing fails: a dumb twin of plain arrays. */
type Step =
  | { do: 'write'; path: string; offset: number; length: number; value: number }
  | { do: 'truncate'; path: string; size: number }
  | { do: 'rename'; path: string; to: string }
  | { do: 'remove'; path: string }
  | { do: 'sync'; path: string }

test('it reads as a dumb twin does; after a crash each synced file is as it was at its last sync or later', async () => {
  const path = fc.constantFrom('a', 'b', 'dir/c')
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({
      do: fc.constant('write' as const),
      path,
      offset: fc.integer({ min: 0, max: 1500 }),
      length: fc.integer({ min: 1, max: 700 }),
      value: fc.integer({ min: 1, max: 255 }),
    }),
    fc.record({ do: fc.constant('truncate' as const), path, size: fc.integer({ min: 0, max: 1500 }) }),
    fc.record({ do: fc.constant('rename' as const), path, to: path }),
    fc.record({ do: fc.constant('remove' as const), path }),
    fc.record({ do: fc.constant('sync' as const), path }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), fc.integer(), async (steps, seed) => {
      const { mount, run, reboot } = setUp(`twin ${seed}`)
      const disk = mount()
      const twin = new Map<string, number[]>()
      for (const s of steps) await apply(disk, twin, s, run)
      for (const name of ['a', 'b', 'dir/c']) {
        const bytes = await run(disk.read(name))
        assert.deepEqual(bytes && [...bytes], twin.get(name))
      }
      for (const name of twin.keys()) await run((await run(disk.open(name))).sync())
      await run(disk.syncDir(''))
      await run(disk.syncDir('dir'))
      const after = reboot()
      for (const name of ['a', 'b', 'dir/c']) {
        const bytes = await run(after.read(name))
        assert.deepEqual(bytes && [...bytes], twin.get(name))
      }
    }),
    { numRuns: 100 },
  )
})

async function apply(
  disk: Disk,
  twin: Map<string, number[]>,
  step: Step,
  run: <T>(work: Promise<T>) => Promise<T>,
): Promise<void> {
  if (step.do === 'remove') {
    await run(disk.remove(step.path))
    twin.delete(step.path)
    return
  }
  if (step.do === 'rename') {
    const bytes = twin.get(step.path)
    if (!bytes || step.path === step.to) return
    await run(disk.rename(step.path, step.to))
    twin.delete(step.path)
    twin.set(step.to, bytes)
    return
  }
  const file = await run(disk.open(step.path))
  let bytes = twin.get(step.path) ?? []
  if (step.do === 'sync') await run(file.sync())
  if (step.do === 'truncate') {
    await run(file.truncate(step.size))
    bytes = Array.from({ length: step.size }, (_, at) => bytes[at] ?? 0)
  }
  if (step.do === 'write') {
    await run(file.write(step.offset, new Uint8Array(step.length).fill(step.value)))
    const end = step.offset + step.length
    bytes = Array.from({ length: Math.max(bytes.length, end) }, (_, at) =>
      at >= step.offset && at < end ? step.value : (bytes[at] ?? 0),
    )
  }
  twin.set(step.path, bytes)
  assert.equal(file.sizeBytes, bytes.length)
}

test('a tripwire ends the machine in place of an operation; damage is what a read gives, also after a crash', async () => {
  const { machine, mount, run, reboot, device, simulation } = setUp('tripwire')
  const disk = mount()
  const file = await run(disk.open('log', { preallocateBytes: 2048 }))
  await run(file.write(0, new Uint8Array(2048).fill(7)))
  await run(file.sync())
  await run(disk.syncDir(''))
  device.tripwire = { operations: 1, run: () => machine.crash() }
  await run(file.write(0, Uint8Array.of(1)))
  void file.sync()
  await simulation.run({ untilMs: simulation.nowMs + 1000 })
  assert.equal(machine.up, false)
  assert.equal(device.tripwire, undefined)
  assert.ok(device.zeroSector('/d/log', 600))
  assert.equal(device.zeroSector('/d/log', 4096), false)
  const bytes = (await run(reboot().read('log'))) as Uint8Array
  assert.deepEqual([bytes[511], bytes[512], bytes[1023], bytes[1024]], [7, 0, 0, 7])
})
