import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { MemoryStateEngine, MemoryStorage } from './memory-engine.js'
import { Mvcc, MVCC_PLANTED_BUGS } from './mvcc.js'
import { SESSION_WINDOW } from './sessions.js'
import { snapshotChunks, SnapshotDamaged, SnapshotReceiver } from './snapshot.js'
import { mvccContract, mvccProperty } from './testing/mvcc-contract.js'
import { SnapshotVerifier } from './verify.js'
import type { EngineHarness } from './testing/state-engine-contract.js'
import type { Command, CommandResult, KeyRange, RangeQuery, RevisionEvents, Txn, TxnOp, WatchEvent } from './types.js'
import { MvccError } from './types.js'

const bytes = (text: string) => new Uint8Array(Buffer.from(text, 'latin1'))
const text = (b: Uint8Array) => Buffer.from(b).toString('latin1')
const put = (key: string, value: string, more: object = {}): TxnOp => ({
  type: 'put',
  key: bytes(key),
  value: bytes(value),
  ...more,
})
const remove = (key: string, more: object = {}): TxnOp => ({ type: 'delete', key: bytes(key), ...more })
const ops = (...success: TxnOp[]): Command => ({ type: 'txn', txn: { compare: [], success, failure: [] } })

const LONG_KEY = 'k'.repeat(1000)

class Bench {
  storage = new MemoryStorage()
  mvcc = new Mvcc(new MemoryStateEngine(this.storage), { recentBytesMax: 8 })
  index = 0
  seen: RevisionEvents[] = []
  constructor() {
    this.mvcc.onRevisions((batch) => this.seen.push(...batch))
  }
  apply(...commands: Command[]): CommandResult[] {
    return this.mvcc.applyBatch(commands.map((command) => ({ index: ++this.index, command })))
  }
  one(command: Command): CommandResult {
    return this.apply(command)[0] as CommandResult
  }
  history(revision: number): WatchEvent[] {
    const events: WatchEvent[] = []
    this.mvcc.eventsFrom({ revision, sub: 0 }, ALL, (event) => events.push(event) > 0)
    return events
  }
  reads(query: Partial<RangeQuery> & { key: Uint8Array }): string[] {
    return this.mvcc
      .range(query)
      .kvs.map((kv) => `${text(kv.key)}=${text(kv.value)}@${kv.createRevision}/${kv.modRevision}/${kv.version}`)
  }
}

const ALL: KeyRange = { key: bytes('\0'), rangeEnd: bytes('\0') }
const codeOf = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof MvccError) return error.code
    throw error
  }
  return 'no error'
}

test('revisions, versions and deletion as etcd counts them', () => {
  const bench = new Bench()
  assert.equal(bench.mvcc.revision, 1)
  bench.apply(
    ops(put('a', '1')),
    ops(put('a', '2'), put('b', 'x')),
    ops(remove('a')),
    ops(remove('a')),
    ops(put('a', '3')),
  )
  assert.equal(bench.mvcc.revision, 5)
  assert.deepEqual(bench.reads(ALL), ['a=3@5/5/1', 'b=x@3/3/1'])
  assert.deepEqual(bench.reads({ ...ALL, revision: 3 }), ['a=2@2/3/2', 'b=x@3/3/1'])
  assert.deepEqual(bench.reads({ ...ALL, revision: 4 }), ['b=x@3/3/1'])
  assert.deepEqual(
    bench.seen.map((r) => [r.revision, r.events.map((e) => `${e.type} ${text(e.kv.key)}`).join()]),
    [
      [2, 'put a'],
      [3, 'put a,put b'],
      [4, 'delete a'],
      [5, 'put a'],
    ],
  )
  assert.equal(text(bench.mvcc.previous(bytes('a'), 4)?.value ?? bytes('')), '2')
  assert.equal(bench.mvcc.previous(bytes('a'), 5), undefined)
})

test('compaction refuses what is older, keeps what is readable, and a deletion at its own revision', () => {
  const bench = new Bench()
  bench.apply(ops(put('a', '1')), ops(put('a', '2')), ops(put('b', '1')), ops(remove('b')), ops(put('a', '3')))
  assert.equal(
    codeOf(() => bench.mvcc.range({ ...ALL, revision: 99 })),
    'FUTURE_REVISION',
  )
  assert.deepEqual(bench.one({ type: 'compact', revision: 99 }).type, 'failed')
  assert.deepEqual(bench.one({ type: 'compact', revision: 5 }).type, 'done')
  const before = [...bench.mvcc.dump()]
  while (bench.mvcc.sweep(1)) assert.deepEqual([...bench.mvcc.dump()], before)
  assert.deepEqual([...bench.mvcc.dump()], before)
  assert.equal(
    codeOf(() => bench.mvcc.range({ ...ALL, revision: 4 })),
    'COMPACTED',
  )
  assert.equal(
    codeOf(() => bench.history(4)),
    'COMPACTED',
  )
  assert.deepEqual(bench.reads({ ...ALL, revision: 5 }), ['a=2@2/3/2'])
  assert.deepEqual(
    bench.history(5).map(({ type, kv }) => [type, kv.modRevision]),
    [
      ['delete', 5],
      ['put', 6],
    ],
  )
  const again = bench.one({ type: 'compact', revision: 5 })
  assert.ok(again.type === 'failed' && again.error.code === 'COMPACTED')
  bench.one({ type: 'compact', revision: 6 })
  while (bench.mvcc.sweep(1));
  assert.equal(bench.mvcc.figures().keys, 1)
})

test('leases: attach, move, revoke in one revision, checkpoint', () => {
  const bench = new Bench()
  const [, exists, missing] = bench.apply(
    { type: 'leaseGrant', id: 7, ttlSeconds: 10 },
    { type: 'leaseGrant', id: 7, ttlSeconds: 10 },
    ops(put('a', '1', { lease: 8 })),
  )
  assert.ok(exists?.type === 'failed' && exists.error.code === 'LEASE_EXISTS')
  assert.ok(missing?.type === 'failed' && missing.error.code === 'LEASE_NOT_FOUND')
  bench.apply(
    ops(put('b', '1', { lease: 7 }), put('a', '1', { lease: 7 }), put('c', '1', { lease: 7 })),
    ops(put('c', '2')),
  )
  assert.deepEqual(bench.mvcc.leaseKeys(7).map(text), ['a', 'b'])
  bench.apply({
    type: 'leaseCheckpoint',
    remaining: [
      { id: 7, seconds: 4 },
      { id: 99, seconds: 1 },
    ],
  })
  assert.deepEqual(bench.mvcc.lease(7), { id: 7, ttlSeconds: 10, remainingSeconds: 4 })
  bench.apply({ type: 'leaseRevoke', id: 7 })
  assert.deepEqual(bench.reads(ALL), ['c=2@2/3/2'])
  assert.deepEqual(
    bench.seen.at(-1)?.events.map((e) => `${e.type} ${text(e.kv.key)}`),
    ['delete a', 'delete b'],
  )
  assert.deepEqual(bench.mvcc.leases(), [])
})

test('a repeated proposal applies once, also out of order, after restart and within one batch', () => {
  const bench = new Bench()
  const session = (seq: number, ...success: TxnOp[]): Command => ({
    type: 'txn',
    txn: { compare: [], success, failure: [] },
    session: { clientId: 'client', seq },
  })
  const [first, second] = bench.apply(
    session(2, put('a', '1', { prevKv: true })),
    session(2, put('a', '1', { prevKv: true })),
  )
  assert.deepEqual(second, { ...first, repeated: true })
  bench.apply(session(1, put('b', '1')))
  bench.apply(session(1, put('b', '1')))
  assert.deepEqual(bench.reads(ALL), ['a=1@2/2/1', 'b=1@3/3/1'])
  void bench.mvcc.engine.checkpoint()
  bench.mvcc = new Mvcc(new MemoryStateEngine(bench.storage))
  assert.equal((bench.one(session(2, put('a', '1'))) as { repeated: boolean }).repeated, true)
  assert.equal(bench.mvcc.revision, 3)
  bench.apply(session(SESSION_WINDOW + 1, put('c', '1')))
  const stale = bench.one(session(1, put('b', '1')))
  assert.ok(stale.type === 'failed' && stale.error.code === 'SESSION_STALE')
  assert.equal((bench.one(session(2, put('a', '1'))) as { repeated: boolean }).repeated, true)
  const large = session(SESSION_WINDOW + 2, put('d', 'x'.repeat(5000)))
  bench.apply(large)
  bench.apply(session(SESSION_WINDOW + 3, put('d', 'y', { prevKv: true })))
  const lost = bench.one(session(SESSION_WINDOW + 3, put('d', 'y', { prevKv: true })))
  assert.ok(lost.type === 'failed' && lost.error.code === 'SESSION_STALE')
  const reading: Command = {
    type: 'txn',
    txn: {
      compare: [{ key: bytes('d'), target: 'mod', result: '=', operand: 1 }],
      success: [],
      failure: [{ type: 'range', key: bytes('e') }],
    },
    session: { clientId: 'client', seq: SESSION_WINDOW + 5 },
  }
  bench.apply(session(SESSION_WINDOW + 4, put('e', 'x'.repeat(5000))))
  const read = bench.one(reading)
  bench.apply(ops(put('e', 'changed')))
  assert.deepEqual(bench.one(reading), { ...read, repeated: true })
})

test('bad transactions are refused and change nothing', () => {
  const bench = new Bench()
  const bad: unknown[] = [
    undefined,
    { compare: [], success: [] },
    { compare: [], success: [put('', 'x')], failure: [] },
    { compare: [], success: [put('a', 'x'), put('a', 'y')], failure: [] },
    { compare: [], success: [put('b', 'x'), remove('a', { rangeEnd: bytes('c') })], failure: [] },
    {
      compare: [],
      success: [{ type: 'txn', txn: { compare: [], success: [put('a', '1')], failure: [] } }, put('a', 'y')],
      failure: [],
    },
    { compare: [{ key: bytes('a'), target: 'mod', result: '~', operand: 1 }], success: [], failure: [] },
    { compare: [{ key: bytes('a'), target: 'value', result: '=', operand: 1 }], success: [], failure: [] },
    { compare: [], success: [{ type: 'boom' }], failure: [] },
    { compare: [], success: [put('a', 'x', { ignoreValue: true })], failure: [] },
  ]
  for (const txn of bad) {
    const result = bench.one({ type: 'txn', txn: txn as Txn })
    assert.ok(result.type === 'failed' && result.error.code === 'BAD_REQUEST', JSON.stringify(txn))
  }
  assert.equal(bench.mvcc.revision, 1)
  const branches = { type: 'txn', txn: { compare: [], success: [put('a', '1')], failure: [put('a', '2')] } } as TxnOp
  assert.equal(bench.one(ops(branches)).type, 'txn')
})

test('a hot key: any former revision in few steps, with and without what is compacted', () => {
  const engine = new MemoryStateEngine()
  const mvcc = new Mvcc(engine, { recentBytesMax: 0 })
  const changes = 3000
  const entry = (index: number) => ({ index, command: ops(put('hot', String(index))) })
  mvcc.applyBatch(Array.from({ length: changes }, (_, at) => entry(at + 1)))
  let gets = 0
  const get = engine.get.bind(engine)
  engine.get = (key) => {
    gets++
    return get(key)
  }
  const look = (revision: number) => {
    const [kv] = mvcc.range({ key: bytes('hot'), revision }).kvs
    assert.deepEqual([text(kv?.value as Uint8Array), kv?.version], [String(revision - 1), revision - 1])
  }
  for (let revision = 2; revision <= changes; revision += 97) {
    gets = 0
    look(revision)
    assert.ok(gets < 40, `${gets} reads for revision ${revision}`)
  }
  mvcc.applyBatch([{ index: changes + 1, command: { type: 'compact', revision: 2000 } }])
  while (mvcc.sweep(100));
  for (let revision = 2000; revision <= changes; revision += 97) look(revision)
  assert.equal(engine.count(bytes('k'), bytes('l')), changes + 1 - 2000 + 1)
})

test('pages of a list at one revision, while it goes on changing', () => {
  const bench = new Bench()
  for (let n = 100; n < 200; n++) bench.apply(ops(put(`k${n}`, 'x')))
  let revision = 0
  let key = bytes('k')
  const seen: string[] = []
  for (let left = 100; ; ) {
    const page = bench.mvcc.range({ key, rangeEnd: bytes('l'), limit: 7, revision })
    revision ||= bench.mvcc.revision
    assert.equal(page.count, left)
    seen.push(...page.kvs.map((kv) => text(kv.key)))
    if (!page.more) break
    left -= page.kvs.length
    key = bytes(`${seen.at(-1)}\0`)
    bench.apply(ops(remove(`k${100 + left}`), put(`k${left}x`, 'y')))
  }
  assert.deepEqual(
    seen,
    Array.from({ length: 100 }, (_, n) => `k${n + 100}`),
  )
})

test('alarms are raised once, cleared by member or for all, and survive a restart', () => {
  const bench = new Bench()
  const alarm = (action: 'raise' | 'clear', alarm: 'NOSPACE' | 'CORRUPT', member?: string) =>
    bench.one({ type: 'alarm', action, alarm, ...(member ? { member } : {}) }).type
  assert.equal(alarm('raise', 'NOSPACE'), 'failed')
  for (const member of ['s1', 's0', 's1']) assert.equal(alarm('raise', 'NOSPACE', member), 'done')
  alarm('raise', 'CORRUPT', 's1')
  assert.equal(bench.mvcc.revision, 1)
  void bench.mvcc.engine.checkpoint()
  bench.mvcc = new Mvcc(new MemoryStateEngine(bench.storage))
  const names = () => bench.mvcc.alarms().map(({ alarm, member }) => `${alarm} ${member}`)
  assert.deepEqual(names(), ['CORRUPT s1', 'NOSPACE s0', 'NOSPACE s1'])
  alarm('clear', 'NOSPACE', 's0')
  assert.deepEqual(names(), ['CORRUPT s1', 'NOSPACE s1'])
  alarm('clear', 'NOSPACE')
  assert.deepEqual(names(), ['CORRUPT s1'])
})

test('the chain hash tells members apart that applied something else, at an index that both kept', () => {
  const [one, other, third] = [new Bench(), new Bench(), new Bench()]
  const same = (n: number) => ops(put(`k${n % 10}`, String(n)))
  for (let n = 1; n <= 130; n++) one.apply(same(n))
  other.apply(...Array.from({ length: 140 }, (_, at) => same(at + 1)))
  const common = (a: Mvcc, b: Mvcc) => {
    const known = new Map(a.recentChainHashes().map(({ index, hash }) => [index, hash]))
    return b.recentChainHashes().flatMap(({ index, hash }) => (known.has(index) ? [known.get(index) === hash] : []))
  }
  assert.deepEqual(common(one.mvcc, other.mvcc), [true, true])
  third.apply(...Array.from({ length: 140 }, (_, at) => (at === 99 ? ops(put('k0', '1OO')) : same(at + 1))))
  assert.deepEqual(common(one.mvcc, third.mvcc), [true, false])
  // What was overwritten since is gone from the state, but not from the chain.
  third.apply(ops(put('k0', 'x')))
  other.apply(ops(put('k0', 'x')))
  assert.notEqual(third.mvcc.chainHash.hash, other.mvcc.chainHash.hash)
})

test('the chain hash does not tell who has swept', () => {
  const [swept, unswept] = [new Bench(), new Bench()]
  for (const bench of [swept, unswept]) {
    bench.apply(ops(put('a', '1')), ops(remove('a')), ops(put('b', '1')), { type: 'compact', revision: 4 })
    if (bench === swept) while (bench.mvcc.sweep(1));
    bench.apply(ops(put('a', '2')))
  }
  assert.deepEqual(swept.mvcc.chainHash, unswept.mvcc.chainHash)
})

test('a restored state is beyond what its former watchers knew, and all below is compacted', () => {
  const bench = new Bench()
  bench.apply(
    { type: 'leaseGrant', id: 1, ttlSeconds: 5 },
    ops(put('a', '1', { lease: 1 })),
    ops(put('b', '1')),
    ops(remove('b')),
    { type: 'alarm', action: 'raise', alarm: 'CORRUPT', member: 's0' },
  )
  bench.mvcc.markRestored(1000, [['raft', bytes('here')]])
  assert.equal(bench.mvcc.revision, 1004)
  assert.equal(
    codeOf(() => bench.history(5)),
    'COMPACTED',
  )
  assert.deepEqual(bench.reads(ALL), ['a=1@2/2/1'])
  assert.deepEqual([bench.mvcc.alarms(), bench.mvcc.leaseKeys(1).map(text)], [[], ['a']])
  assert.equal(text(bench.mvcc.extra('raft') as Uint8Array), 'here')
  while (bench.mvcc.sweep(1));
  bench.apply(ops(put('b', '2')))
  assert.deepEqual(bench.reads(ALL), ['a=1@2/2/1', 'b=2@1005/1005/1'])
})

test('a state of another format is refused with words, not misread', () => {
  const engine = new MemoryStateEngine()
  engine.commit([[bytes('mrevision'), new Uint8Array(8)]], 5)
  assert.throws(() => new Mvcc(engine), /format 1, this program reads and writes 2/)
})

test('a damaged or short snapshot is refused', async () => {
  const bench = new Bench()
  bench.apply(ops(put('a', '1')), ops(put('b', '2')))
  const whole = Buffer.concat([...snapshotChunks(bench.mvcc.engine.snapshot(), 7)])
  for (let at = 0; at < whole.length; at++) {
    const damaged = Uint8Array.from(whole)
    damaged[at] = (damaged[at] as number) ^ 1
    const receiver = new SnapshotReceiver(new MemoryStateEngine())
    await assert.rejects(async () => {
      await receiver.write(damaged)
      await receiver.finish()
    }, SnapshotDamaged)
  }
  const short = new SnapshotReceiver(new MemoryStateEngine())
  await short.write(whole.subarray(0, whole.length - 1))
  await assert.rejects(() => short.finish(), SnapshotDamaged)
})

test('an answer that is read again is read at no compacted revision, however far the sweep is', () => {
  const bench = new Bench()
  bench.apply(ops(put('a', 'x'.repeat(2000))), ops(put('a', '2')), ops(put('a', '3')))
  const reading: Command = {
    type: 'txn',
    txn: { compare: [], success: [{ type: 'range', key: bytes('a'), revision: 2 }], failure: [] },
    session: { clientId: 'client', seq: 1 },
  }
  const first = bench.one(reading)
  assert.deepEqual(bench.one(reading), { ...first, repeated: true })
  bench.apply({ type: 'compact', revision: 3 })
  for (let swept = false; ; swept = true) {
    const again = bench.one(reading)
    assert.equal(again.type === 'failed' && again.error.code, 'SESSION_STALE')
    if (swept) break
    while (bench.mvcc.sweep(10));
  }
})

test('a renewal of a lease that has its full time writes nothing but that it was applied', () => {
  const bench = new Bench()
  bench.apply({ type: 'leaseGrant', id: 1, ttlSeconds: 5 })
  const written: string[] = []
  const { engine } = bench.mvcc
  const commit = engine.commit.bind(engine)
  engine.commit = (batch, index) => {
    written.push(...batch.map(([key]) => text(key)).filter((key) => !key.startsWith('m')))
    commit(batch, index)
  }
  const left = (seconds: number) => bench.apply({ type: 'leaseCheckpoint', remaining: [{ id: 1, seconds }] })
  left(0)
  assert.deepEqual(written, [])
  left(3)
  left(3)
  left(0)
  assert.equal(written.length, 2)
  assert.equal(bench.mvcc.lease(1)?.remainingSeconds, 0)
})

test('a snapshot that is on disk is not read before it is shown', async () => {
  const [bench, other] = [new Bench(), new Bench()]
  bench.apply(ops(put('a', '1')), ops(put('b', '2')), ops(put('a', '3')))
  other.apply(ops(put('a', '1')))
  const receiver = new SnapshotReceiver(other.mvcc.engine)
  for (const chunk of snapshotChunks(bench.mvcc.engine.snapshot(), 64)) await receiver.write(chunk)
  const [hash, reads] = [other.mvcc.hash(), other.reads(ALL)]
  await receiver.finish()
  assert.equal(other.mvcc.appliedIndex, 1)
  assert.equal(other.mvcc.hash(), hash)
  assert.deepEqual(other.reads(ALL), reads)
  assert.throws(() => other.apply(ops(put('b', '2'))), /a replacement is to be shown first/)
  receiver.show()
  other.mvcc.reload()
  assert.equal(other.mvcc.appliedIndex, 3)
  assert.equal(other.mvcc.hash(), bench.mvcc.hash())
  assert.deepEqual(other.reads(ALL), bench.reads(ALL))
})

test('a snapshot whose checksum fits, but not its contents, is told by what is wrong with it', async () => {
  const bench = new Bench()
  bench.apply(
    { type: 'leaseGrant', id: 1, ttlSeconds: 5 },
    ops(put('a', '1', { lease: 1 })),
    ops(put('a', '2', { lease: 1 })),
    ops(put('b', '1')),
    ops(remove('b')),
    ops(put(LONG_KEY, '1')),
  )
  const rows = [...bench.mvcc.engine.range(new Uint8Array(0))]
  const verify = async (changed: [Uint8Array, Uint8Array][]) => {
    const verifier = new SnapshotVerifier()
    const snapshot = { appliedIndex: 6, get: () => undefined, range: () => changed, close() {} }
    for (const chunk of snapshotChunks(snapshot, 64)) await verifier.write(chunk)
    return verifier.finish()
  }
  assert.deepEqual(await verify(rows), {
    appliedIndex: 6,
    revision: 6,
    compactRevision: 0,
    keys: 2,
    changes: 5,
    leases: 1,
    sessions: 0,
  })
  // Each row that is left out is missed, but those that have a default, or that nothing else tells of.
  for (const [at, [key]] of rows.entries()) {
    const name = text(key)
    if (['mcompact', 'mswept', 'mclusterVersion', 'mchain'].includes(name)) continue
    await assert.rejects(verify(rows.toSpliced(at, 1)), SnapshotDamaged, `without ${JSON.stringify(name)}`)
  }
  await assert.rejects(verify([...rows].reverse()), /out of order/)
})

const inMemory = (): Promise<EngineHarness> => {
  const storage = new MemoryStorage()
  return Promise.resolve({
    open: () => Promise.resolve(new MemoryStateEngine(storage)),
    crash: () => Promise.resolve(),
    end: () => Promise.resolve(),
  })
}

mvccContract('memory', inMemory)

for (const bug of MVCC_PLANTED_BUGS)
  test(`the twins find the planted bug: ${bug}`, async () => {
    assert.throws(() => new Mvcc(new MemoryStateEngine(), { plantedBugs: [bug] }), /for tests only/)
    const found = await fc.check(mvccProperty(inMemory, { bug, steps: 40 }), { numRuns: 1000, endOnFailure: true })
    assert.ok(found.failed, `not found in ${found.numRuns} runs`)
  })
