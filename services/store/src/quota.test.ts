/** The quota on the engine that real members have: what was deleted and compacted makes room by itself. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { CallError } from '@capstan/actor'
import type { AlarmReply } from '@capstan/protocol'
import { bytes, LocalCluster } from './testing/local-cluster.js'

const QUOTA_BYTES = 1024 * 1024

/** Puts until it is refused; gives the refusal. */
async function fill(cluster: LocalCluster, valueBytes: number): Promise<CallError> {
  const value = 'x'.repeat(valueBytes)
  for (let n = 0; n < (4 * QUOTA_BYTES) / valueBytes; n += 16)
    try {
      await Promise.all(Array.from({ length: 16 }, (_, at) => cluster.put('s0', `k${n + at}`, value)))
    } catch (error) {
      return error as CallError
    }
  // The quota is looked at once a second.
  return cluster.until('the refusal', () =>
    cluster.put('s0', 'k', value).then(
      () => undefined,
      (error: CallError) => error,
    ),
  )
}

const alarms = async (cluster: LocalCluster) =>
  (await cluster.call<AlarmReply>('s0', 'alarm', { action: 'list' })).alarms

for (const [what, valueBytes] of [
  ['small values', 700],
  ['values of many pages', 50_000],
] as const)
  test(`a full lmdb takes deletes and compactions, and then has room again: ${what}`, async () => {
    const cluster = await LocalCluster.start({
      size: 1,
      quotaBytes: QUOTA_BYTES,
      compaction: 'off',
      checkpointPeriodMs: 200,
    })
    try {
      await cluster.leader()
      // Twice: what was freed is used again, so that the file does not grow past the quota without end.
      for (let round = 0; round < 2; round++) {
        const refused = await fill(cluster, valueBytes)
        assert.deepEqual([refused.code, refused.outcome], ['NO_SPACE', 'not-applied'])
        assert.deepEqual(await alarms(cluster), [{ alarm: 'NOSPACE', member: 's0' }])
        // In two goes: what is deleted at the very revision of a compaction stays until the next one, for watches that start there.
        let revision = 0
        for (const [key, end] of [
          ['k', 'k9'],
          ['k9', 'l'],
        ] as const) {
          const success = [{ type: 'delete', key: bytes(key), rangeEnd: bytes(end) }]
          const txn = { compare: [], success, failure: [] }
          revision = (await cluster.call<{ header: { revision: number } }>('s0', 'txn', txn)).header.revision
        }
        // Without compaction history keeps what was deleted.
        await cluster.call('s0', 'compact', { revision })
        await cluster.until('room', () => cluster.put('s0', 'after', '1').catch(() => undefined))
        assert.deepEqual(await alarms(cluster), [], 'it was cleared by itself')
        await cluster.until(
          'the rest is swept, too',
          async () => ((await cluster.status('s0'))?.dbSizeBytes ?? 0) < QUOTA_BYTES / 2,
        )
      }
    } finally {
      await cluster.end()
    }
  })

test('a member clears its own alarm, also one that is raised late; one raised by hand stays, over a restart, too', async () => {
  const cluster = await LocalCluster.start({ size: 2 })
  const raise = (member: string, more = {}) =>
    cluster.call('s1', 'alarm', { action: 'raise', alarm: 'NOSPACE', member, ...more })
  try {
    await cluster.leader()
    await raise('s0', { byHand: true })
    await raise('s0')
    await cluster.stop('s0')
    await cluster.startMember('s0')
    await cluster.leader()
    const byHand = [{ member: 's0', alarm: 'NOSPACE', byHand: true }]
    // As a command that s1 gave while its disk was full, committed when it has room again. Both look once a second: in
    // three looks of s1, s0 has looked, too.
    for (let look = 0; look < 3; look++) {
      await raise('s1')
      await cluster.until('s1 clears its own', async () => (await alarms(cluster)).length === 1)
    }
    assert.deepEqual(await alarms(cluster), byHand)
    await assert.rejects(cluster.put('s1', 'k', '1'), { code: 'NO_SPACE', message: /s0: raised by hand/ })
    await cluster.call('s1', 'alarm', { action: 'clear', alarm: 'NOSPACE' })
    await cluster.put('s1', 'k', '1')
  } finally {
    await cluster.end()
  }
})
