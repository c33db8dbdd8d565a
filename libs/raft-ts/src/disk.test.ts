import assert from 'node:assert/strict'
import test from 'node:test'
import { LogDamaged } from './log.js'
import { readRecord } from './record.js'
import { DiskCluster } from './test-disk-cluster.js'
import type { CrashDisk } from './testing.js'
import type { RaftPlantedBug } from './types.js'

const NAMES = ['a', 'b', 'c']
async function agreed(cluster: DiskCluster, where: string): Promise<void> {
  const whole = () => {
    const lists = cluster.up().map(({ applied }) => applied.join(' '))
    const all = new Set(lists[0]?.split(' '))
    return lists.length === 3 && new Set(lists).size === 1 && cluster.acknowledged.every((text) => all.has(text))
  }
  assert.ok(await cluster.until(whole), `${where}: all hold the same, and all that was acknowledged`)
}

async function proposeAll(cluster: DiskCluster, texts: string[], where: string): Promise<void> {
  for (const text of texts) {
    const before = cluster.acknowledged.length
    for (let tries = 0; tries < 8 && cluster.acknowledged.length === before; tries++) {
      if (await cluster.until(() => cluster.leader() !== undefined, 200)) cluster.propose(text)
      await cluster.until(() => cluster.acknowledged.length > before, 20)
    }
    assert.ok(cluster.acknowledged.length > before, `${where}: ${text} is done`)
  }
}

const texts = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => `x${from + i}`)

test('a crash of a member at every operation of its disk: nothing acknowledged is lost, and it comes back', async () => {
  for (const name of ['a', 'b'])
    for (let crashAt = 1; crashAt < 70; crashAt++) {
      const where = `${name} at operation ${crashAt}`
      const cluster = new DiskCluster()
      let flips = crashAt
      cluster.disk(name).crashAt = crashAt
      const restart = async () => {
        cluster.disk(name).crash(() => flips++ % 3 !== 0)
        await cluster.start(name)
      }
      for (const each of NAMES) await cluster.start(each).catch(restart)
      await proposeAll(cluster, texts(1, 5), where)
      await cluster.until(() => cluster.members.get(name)?.failure !== undefined, 5)
      if (cluster.members.get(name)?.failure !== undefined) await restart()
      await proposeAll(cluster, texts(6, 8), where)
      if (cluster.members.get(name)?.failure !== undefined) await restart()
      await agreed(cluster, where)
    }
})

/** 12 writes that all hold; 4 more that only a and b do. What their disks hold then. */
async function filled(): Promise<{ disks: Map<string, CrashDisk>; acknowledged: string[] }> {
  const cluster = new DiskCluster()
  for (const name of NAMES) await cluster.start(name)
  await proposeAll(cluster, texts(1, 12), 'before')
  await agreed(cluster, 'before')
  await cluster.stop('c')
  await proposeAll(cluster, texts(13, 16), 'without c')
  const known = () => cluster.up().every(({ applied }) => applied.length === 16)
  assert.ok(await cluster.until(known), 'a and b know that it is committed')
  for (const name of NAMES) await cluster.stop(name)
  return { disks: cluster.disks, acknowledged: [...cluster.acknowledged] }
}

function places(disk: CrashDisk, segment: string): { at: number; end: number }[] {
  const bytes = disk.bytes(segment)
  const found: { at: number; end: number }[] = []
  for (let at = 0; ; ) {
    const read = readRecord(bytes, at)
    if (read.status !== 'record') return found
    found.push({ at, end: read.end })
    at = read.end
  }
}

const DAMAGES: Record<string, (bytes: Uint8Array, at: number, end: number) => void> = {
  'a flipped bit': (bytes, at, end) => void (bytes[(at + end) >> 1] = (bytes[(at + end) >> 1] as number) ^ 4),
  'a zeroed sector': (bytes, at) => void bytes.fill(0, Math.floor(at / 512) * 512, Math.floor(at / 512) * 512 + 512),
}

/**
 * Damages each record of b in turn, but for what no log alone can notice: that its very end, to the last sector, is gone
 * without a trace. Then only b and c are there for a second; then a as well. Returns what went wrong. */
async function damageEach(bugs: RaftPlantedBug[]): Promise<{ wrong: string[]; salvaged: number }> {
  const { disks, acknowledged } = await filled()
  const wrong: string[] = []
  let salvaged = 0
  for (const segment of (await (disks.get('b') as CrashDisk).list('raft')).filter((name) => name.endsWith('.log')))
    for (const { at, end } of places(disks.get('b') as CrashDisk, `raft/${segment}`))
      for (const [what, damage] of Object.entries(DAMAGES)) {
        const where = `${what} in ${segment} at ${at}`
        const cluster = new DiskCluster(new Map([...disks].map(([name, disk]) => [name, disk.clone()])), bugs)
        cluster.acknowledged.push(...acknowledged)
        const bytes = cluster.disk('b').bytes(`raft/${segment}`)
        damage(bytes, at, end)
        if (bytes.subarray(Math.floor(at / 512) * 512).every((byte) => byte === 0)) continue
        try {
          await cluster.start('c')
          await cluster.start('b').catch(async (error: unknown) => {
            if (!(error instanceof LogDamaged)) throw error
            salvaged++
            await cluster.start('b', true)
          })
          cluster.propose('never')
          await cluster.until(() => cluster.leader() !== undefined, 100)
          cluster.propose('alone')
          await cluster.until(() => false, 20)
          await cluster.start('a')
          await proposeAll(cluster, ['after'], where)
          await agreed(cluster, where)
        } catch (error) {
          wrong.push(`${where}: ${String(error)}`)
        }
      }
  return { wrong, salvaged }
}

test('damage at every record of one member: it never votes from what it lost, and repairs itself from the others', async () => {
  const { wrong, salvaged } = await damageEach([])
  assert.deepEqual(wrong, [])
  assert.ok(salvaged > 5)
})

test('the planted bug damage-as-torn is found: a member votes from what it lost', async () => {
  const { wrong } = await damageEach(['damage-as-torn'])
  assert.match(wrong.join('\n'), /state machine safety|replace committed|all hold the same/)
})
