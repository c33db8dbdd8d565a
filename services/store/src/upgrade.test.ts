import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import type { StoreOptions } from './options.js'
import { SimCluster } from './testing/sim-cluster.js'
import { bytes } from './testing/local-cluster.js'
import { commandUnder, PROBE_KEY, PROBE_VALUE, VersionAnnouncements, versionRefusal } from './versions.js'

const MEMBERS = ['s0', 's1', 's2']
/** More histories: UPGRADE_SEEDS=20. */
const SEEDS = Array.from({ length: Number(process.env['UPGRADE_SEEDS'] ?? 1) }, (_, at) => at)
const OLD = { versions: { min: 1, max: 1 } }
const NEW = { versions: { min: 1, max: 2 } }

/** Clients that put and read, each to a member of its own choice; what fails they ask once more of another. */
class Load {
  readonly failed: string[] = []
  done = 0
  retried = 0
  private over = false
  private readonly ended: Promise<unknown>

  constructor(
    private readonly cluster: SimCluster,
    clients: number,
  ) {
    this.ended = Promise.all(Array.from({ length: clients }, (_, at) => this.client(at)))
  }

  private async client(at: number): Promise<void> {
    const { cluster } = this
    for (let seq = 1; !this.over; seq++) {
      const key = bytes(`load/${at}`)
      const put = { type: 'put', key, value: bytes(String(seq)) }
      const txn = { compare: [], success: [put], failure: [], session: { clientId: `c${at}`, seq } }
      const [verb, body] = seq % 3 === 0 ? (['range', { key }] as const) : (['txn', txn] as const)
      const ask = (to: number) => {
        const member = MEMBERS[to % MEMBERS.length] as string
        const subject = cluster.subjects.store(member, cluster.clientIdentity, verb)
        return cluster.client.call(subject, body, { timeoutMs: 3000 })
      }
      await ask(at + seq)
        .catch(() => {
          this.retried++
          return ask(at + seq + 1)
        })
        .then(
          () => this.done++,
          (error: CallError) => this.failed.push(`${verb} ${at}/${seq}: ${error.code} ${error.message}`),
        )
      await cluster.simulation.sleep(30)
    }
  }

  async stop(): Promise<void> {
    this.over = true
    await this.cluster.finish(this.ended, 'the load')
  }
}

async function replaceProgram(cluster: SimCluster, member: string, by: Partial<StoreOptions>): Promise<void> {
  await cluster.finish(cluster.handles.get(member)?.stop() ?? Promise.resolve(), `the end of ${member}`)
  await cluster.run(300)
  cluster.boot(member, by)
  await cluster.until(`${member} to be back`, async () => {
    const status = await cluster.status(member)
    return status?.leader !== undefined && status.appliedIndex >= status.commitIndex
  })
}

const versionsOf = async (cluster: SimCluster) =>
  Promise.all(MEMBERS.map(async (member) => (await cluster.status(member))?.clusterVersion))

async function sameStates(cluster: SimCluster): Promise<void> {
  const hashes = await cluster.until('all to apply the same', async () => {
    const all = await Promise.all([...cluster.handles.values()].map((handle) => handle.stateHash()))
    return new Set(all.map(({ appliedIndex }) => appliedIndex)).size === 1 && all
  })
  assert.equal(new Set(hashes.map(({ hash }) => hash)).size, 1)
}

for (const seed of SEEDS)
  test(`upgraded one by one under load (${seed}): nothing fails, and the version rises after the last`, async () => {
    const cluster = new SimCluster(MEMBERS, OLD, `upgrade-${seed}`)
    await cluster.leader()
    const load = new Load(cluster, 4)
    await cluster.run(2000)
    await cluster.put('s0', PROBE_KEY, 'as it was put')
    for (const member of MEMBERS) {
      assert.deepEqual(await versionsOf(cluster), [1, 1, 1])
      await replaceProgram(cluster, member, NEW)
      // While one supports less, time does not help.
      if (member !== MEMBERS.at(-1)) await cluster.run(2000)
    }
    await cluster.until('the new version', async () => (await versionsOf(cluster)).every((version) => version === 2))
    assert.equal(await cluster.get('s1', PROBE_KEY), 'as it was put')
    await cluster.put('s1', PROBE_KEY, 'as it was put')
    for (const member of MEMBERS) assert.equal(await cluster.get(member, PROBE_KEY), PROBE_VALUE)
    await cluster.run(1000)
    await load.stop()
    assert.deepEqual(load.failed, [])
    assert.ok(load.done > 300, `${load.done} requests`)
    assert.ok(load.retried > 0, 'no request met a member that was being replaced')
    await sameStates(cluster)

    // There is no way back.
    await replaceProgram(cluster, 's2', OLD).catch(() => undefined)
    await cluster.until('its end', async () => cluster.failures.has('s2'))
    assert.match(String(cluster.failures.get('s2')), /the cluster is at version 2, this program knows versions up to 1/)
    cluster.boot('s2', NEW)
    await cluster.until('s2 to be back', async () => (await cluster.status('s2'))?.clusterVersion === 2)
    await sameStates(cluster)
  })

test('while a member is away nothing is raised; when it is back with the new program, it is', async () => {
  const cluster = new SimCluster(MEMBERS, OLD, 'away')
  await cluster.leader()
  cluster.crash('s2')
  for (const member of ['s0', 's1']) await replaceProgram(cluster, member, NEW)
  await cluster.run(8000)
  assert.deepEqual(await versionsOf(cluster), [1, 1, undefined])
  cluster.restart('s2', OLD)
  await cluster.run(3000)
  assert.deepEqual(await versionsOf(cluster), [1, 1, 1])
  await replaceProgram(cluster, 's2', NEW)
  await cluster.until('the new version', async () => (await versionsOf(cluster)).every((version) => version === 2))
})

test('an older program that missed the raise ends at it, and again at its next start; the newer one goes on from there', async () => {
  const cluster = new SimCluster(MEMBERS, NEW, 'missed')
  await cluster.until('the new version', async () => (await versionsOf(cluster)).every((version) => version === 2))
  // Its directory is that of before, as far as it is concerned: it is empty.
  cluster.wipe('s2')
  cluster.restart('s2', OLD)
  await cluster.until('its end', async () => cluster.failures.has('s2'))
  assert.match(String(cluster.failures.get('s2')), /the cluster is at version 2/)
  cluster.boot('s2', OLD)
  await cluster.until('its end again', async () => cluster.failures.has('s2'))
  assert.match(String(cluster.failures.get('s2')), /the cluster is at version 2/)
  await cluster.put('s0', PROBE_KEY, 'x')
  cluster.boot('s2', NEW)
  await cluster.until('s2 to be back', async () => (await cluster.status('s2'))?.clusterVersion === 2)
  assert.equal(await cluster.get('s2', PROBE_KEY), PROBE_VALUE)
  await sameStates(cluster)
})

test('an older program joins no newer cluster, and a newer one that begins alone keeps to the version of the others', async () => {
  const cluster = new SimCluster(MEMBERS, NEW, 'join')
  await cluster.until('the new version', async () => (await versionsOf(cluster)).every((version) => version === 2))
  cluster.boot('s3', { ...OLD, emptyDirectory: 'join' })
  await cluster.run(500)
  await cluster.call('s0', 'memberAdd', { member: 's3' })
  await cluster.until('its end', async () => cluster.failures.has('s3'))
  assert.match(String(cluster.failures.get('s3')), /the cluster is at version 2/)
})

test('who may take part, and when all may go on', () => {
  assert.equal(versionRefusal(2, { min: 1, max: 2 }), undefined)
  assert.match(versionRefusal(3, { min: 1, max: 2 })?.message ?? '', /version 3, this program knows versions up to 2/)
  assert.match(versionRefusal(1, { min: 2, max: 3 })?.message ?? '', /needs at least 2/)
  const said = new VersionAnnouncements()
  const own = { min: 1, max: 3 }
  assert.equal(said.next(1, own, [], 0), 2)
  assert.equal(said.next(3, own, [], 0), undefined)
  assert.equal(said.next(1, own, ['b'], 0), undefined)
  said.note('b', { min: 1, max: 3 }, 0)
  assert.deepEqual([said.next(1, own, ['b'], 5000), said.next(1, own, ['b'], 5001)], [2, undefined])
  for (const nonsense of [undefined, { min: 1, max: 'x' }, { min: 4, max: 3 }, { min: 0.5, max: 9 }, 7]) {
    said.note('c', nonsense, 0)
    assert.equal(said.next(1, own, ['c'], 0), undefined, String(nonsense))
  }
  const put = { type: 'put' as const, key: bytes(PROBE_KEY), value: bytes('x') }
  const command = { type: 'txn' as const, txn: { compare: [], success: [put], failure: [] } }
  assert.equal(commandUnder(1, command), command)
  assert.notDeepEqual(commandUnder(2, command), command)
})
