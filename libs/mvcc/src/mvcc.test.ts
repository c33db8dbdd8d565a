import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { MemoryStateEngine, MemoryStorage } from './memory-engine.js'
import { Mvcc } from './mvcc.js'
import { SESSION_WINDOW } from './sessions.js'
import { snapshotChunks, SnapshotDamaged, SnapshotReceiver } from './snapshot.js'
import { NaiveStore } from './testing/naive-store.js'
import type { Command, CommandResult, KeyRange, RangeQuery, RevisionEvents, Txn, TxnOp } from './types.js'
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
    codeOf(() => bench.mvcc.eventsSince(4, ALL)),
    'COMPACTED',
  )
  assert.deepEqual(bench.reads({ ...ALL, revision: 5 }), ['a=2@2/3/2'])
  assert.deepEqual(
    bench.mvcc.eventsSince(5, ALL).batch.map((r) => r.events.map((e) => e.type)),
    [['delete'], ['put']],
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

// ------------------------------------------------------------------------------------------------- against a naive twin

/** Too long for a row of its own, and of one bucket. */
const LONG = 'b'.repeat(460)
const keyArb = fc.constantFrom('a', 'b', 'ba', 'c', `${LONG}1`, `${LONG}2`, LONG.slice(0, 448))
const rangeArb = fc.oneof(
  keyArb.map((key): KeyRange => ({ key: bytes(key) })),
  fc
    .tuple(keyArb, fc.constantFrom('b', 'bb', 'd', '\0', `${LONG}2`))
    .map(([key, end]): KeyRange => ({ key: bytes(key), rangeEnd: bytes(end) })),
)
const small = fc.integer({ min: 0, max: 12 })
const queryArb = fc
  .tuple(
    rangeArb,
    fc.record(
      {
        revision: small,
        limit: fc.integer({ min: 0, max: 3 }),
        keysOnly: fc.boolean(),
        countOnly: fc.boolean(),
        sortTarget: fc.constantFrom('key', 'version', 'create', 'mod', 'value'),
        sortOrder: fc.constantFrom('ascend', 'descend'),
        minModRevision: small,
        maxModRevision: small,
        minCreateRevision: small,
        maxCreateRevision: small,
      },
      { requiredKeys: [] },
    ),
  )
  .map(([range, more]) => ({ ...range, ...more }) as RangeQuery)
const compareArb = fc
  .tuple(
    rangeArb,
    fc.constantFrom('=', '!=', '<', '>'),
    fc.oneof(
      fc.tuple(fc.constantFrom('version', 'create', 'mod', 'lease'), small),
      fc.tuple(fc.constant('value'), fc.constantFrom('x', 'y').map(bytes)),
    ),
  )
  .map(([range, result, [target, operand]]) => ({ ...range, result, target, operand }) as Txn['compare'][number])
const opArb: fc.Arbitrary<TxnOp> = fc.oneof(
  fc
    .tuple(keyArb, fc.constantFrom('x', 'y', 'z'), fc.constantFrom(0, 0, 0, 1, 2), fc.boolean())
    .map(([key, value, lease, prevKv]) => put(key, value, { lease, prevKv })),
  fc.tuple(rangeArb, fc.boolean()).map(([range, prevKv]): TxnOp => ({ type: 'delete', ...range, prevKv })),
  queryArb.map((query): TxnOp => ({ type: 'range', ...query })),
)
const flatArb = fc.record({
  compare: fc.array(compareArb, { maxLength: 2 }),
  success: fc.array(opArb, { maxLength: 3 }),
  failure: fc.array(opArb, { maxLength: 2 }),
})
const txnArb: fc.Arbitrary<Txn> = fc.oneof(
  { weight: 5, arbitrary: flatArb },
  { weight: 1, arbitrary: flatArb.map((txn): Txn => ({ compare: [], success: [{ type: 'txn', txn }], failure: [] })) },
)
const commandArb: fc.Arbitrary<Command> = fc.oneof(
  { weight: 10, arbitrary: txnArb.map((txn): Command => ({ type: 'txn', txn })) },
  { weight: 2, arbitrary: fc.constantFrom(1, 2).map((id): Command => ({ type: 'leaseGrant', id, ttlSeconds: 5 })) },
  { weight: 1, arbitrary: fc.constantFrom(1, 2).map((id): Command => ({ type: 'leaseRevoke', id })) },
  { weight: 1, arbitrary: small.map((n): Command => ({ type: 'compact', revision: n + 1 })) },
)
const stepArb = fc.oneof(
  // Commands of one batch.
  { weight: 12, arbitrary: fc.array(commandArb, { minLength: 1, maxLength: 4 }) },
  { weight: 1, arbitrary: fc.constantFrom('restart' as const, 'snapshot' as const, 'sweep' as const) },
)

test('against the naive twin: transactions, leases, compaction, restart, snapshot', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(stepArb, { maxLength: 25 }),
      fc.array(queryArb, { maxLength: 4 }),
      rangeArb,
      async (steps, queries, watched) => {
        const bench = new Bench()
        const twin = new NaiveStore()
        for (const step of steps) {
          const dump = [...bench.mvcc.dump()]
          if (step === 'restart') {
            await bench.mvcc.engine.checkpoint()
            bench.mvcc = new Mvcc(new MemoryStateEngine(bench.storage), { recentBytesMax: 0 })
            assert.deepEqual([...bench.mvcc.dump()], dump)
          } else if (step === 'snapshot') {
            const engine = new MemoryStateEngine((bench.storage = new MemoryStorage()))
            const receiver = new SnapshotReceiver(engine)
            for (const chunk of snapshotChunks(bench.mvcc.engine.snapshot(), 11)) await receiver.write(chunk)
            await receiver.finish()
            bench.mvcc = new Mvcc(engine)
            assert.deepEqual([...bench.mvcc.dump()], dump)
          } else if (step === 'sweep') {
            bench.mvcc.sweep(2)
            assert.deepEqual([...bench.mvcc.dump()], dump)
          } else {
            const results = bench.apply(...step)
            step.forEach((command, at) => {
              const result = results[at] as CommandResult
              const code = result.type === 'failed' ? result.error.code : undefined
              if (command.type === 'txn') {
                if (code === 'BAD_REQUEST') return // A key touched twice: the twin does not judge that.
                const { type: _, repeated: __, ...plain } = result as Extract<CommandResult, { type: 'txn' }>
                assert.deepEqual(code ?? plain, twin.txn(command.txn))
              } else if (command.type === 'leaseGrant') assert.equal(code, twin.grant(command.id, command.ttlSeconds))
              else if (command.type === 'leaseRevoke') assert.equal(code, twin.revoke(command.id))
              else if (command.type === 'compact') assert.equal(code, twin.compact(command.revision))
            })
          }
          assert.equal(bench.mvcc.figures().keys, twin.states[twin.revision]?.size)
          for (const id of [1, 2]) assert.deepEqual(bench.mvcc.leaseKeys(id).map(text), twin.keysOf(id))
          assert.equal(bench.mvcc.revision, twin.revision)
        }
        for (const query of queries) {
          let got: unknown
          try {
            got = bench.mvcc.range(query)
          } catch (error) {
            got = (error as MvccError).code
          }
          assert.deepEqual(got, twin.range(query))
        }
        for (let start = 1; start <= twin.revision; start++) {
          let got: unknown = []
          try {
            for (let next = start; next <= bench.mvcc.revision; ) {
              const { batch, nextRevision } = bench.mvcc.eventsSince(next, watched, 2)
              for (const { revision, events } of batch)
                (got as unknown[]).push(
                  ...events
                    .map((e) => ({ revision, key: text(e.kv.key), type: e.type, value: text(e.kv.value) }))
                    .sort((a, b) => (a.key < b.key ? -1 : 1)),
                )
              assert.ok(nextRevision > next)
              next = nextRevision
            }
          } catch (error) {
            got = (error as MvccError).code
          }
          assert.deepEqual(got, twin.events(start, watched))
        }
      },
    ),
    { numRuns: 400 },
  )
})
