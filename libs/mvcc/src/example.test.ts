import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  type Command,
  MemoryStateEngine,
  MemoryStorage,
  Mvcc,
  snapshotChunks,
  SnapshotReceiver,
  type TxnOp,
} from './index.js'

// README: begin
const bytes = (text: string) => new TextEncoder().encode(text)
const text = (value?: Uint8Array) => new TextDecoder().decode(value)
const put = (key: string, value: string, lease = 0): TxnOp => ({
  type: 'put',
  key: bytes(key),
  value: bytes(value),
  lease,
})
const txn = (...success: TxnOp[]): Command => ({ type: 'txn', txn: { compare: [], success, failure: [] } })
const log: Command[] = [
  { type: 'leaseGrant', id: 7, ttlSeconds: 10 },
  txn(put('lock', 'anna', 7), put('job', 'one')), // Revision 2.
  txn(put('job', 'two')),
  { type: 'leaseRevoke', id: 7 }, // Time is the log's: whoever leads says when a lease is over.
]
const entries = log.map((command, at) => ({ index: at + 1, command }))

async function example() {
  const disk = new MemoryStorage()
  const mvcc = new Mvcc(new MemoryStateEngine(disk))
  const heard: string[] = []
  mvcc.onRevisions((batch) => {
    for (const { revision, events } of batch)
      for (const { type, kv } of events) heard.push(`${revision} ${type} ${text(kv.key)}`)
  })
  mvcc.applyBatch(entries.slice(0, 2)) // One commit, with the index of its last entry.
  await mvcc.engine.checkpoint()
  mvcc.applyBatch(entries.slice(2))

  const again = new Mvcc(new MemoryStateEngine(disk)) // After a crash: some commit not before the checkpoint.
  again.applyBatch(entries.filter(({ index }) => index > again.appliedIndex))
  const engine = new MemoryStateEngine() // Another member, by snapshot.
  const receiver = new SnapshotReceiver(engine)
  for (const chunk of snapshotChunks(mvcc.engine.snapshot(), 256 * 1024)) await receiver.write(chunk)
  await receiver.finish()
  receiver.show()
  const hashes = [mvcc, again, new Mvcc(engine)].map((member) => member.hash())
  const old = mvcc.range({ key: bytes('job'), revision: 2 }).kvs[0]
  return {
    heard,
    same: new Set(hashes).size === 1,
    now: text(mvcc.range({ key: bytes('job') }).kvs[0]?.value),
    before: text(old?.value),
  }
}
// README: end

test('the example of the README runs, and the README shows it', async () => {
  assert.deepEqual(await example(), {
    heard: ['2 put lock', '2 put job', '3 put job', '4 delete lock'],
    same: true,
    now: 'two',
    before: 'one',
  })
  const readme = readFileSync(join(import.meta.dirname, '../README.md'), 'utf8')
  const source = readFileSync(join(import.meta.dirname, '../src/example.test.ts'), 'utf8')
  const shown = source.split('// README: begin\n')[1]?.split('// README: end')[0]?.trim()
  assert.ok(
    shown && readme.includes(shown),
    'run: the part between the marks of example.test.ts is to stand in the README',
  )
})
