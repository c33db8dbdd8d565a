import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Mvcc, type MvccPlantedBug } from '../mvcc.js'
import { MemoryStateEngine } from '../memory-engine.js'
import { snapshotChunks, SnapshotReceiver } from '../snapshot.js'
import type {
  Command,
  CommandResult,
  Entry,
  KeyRange,
  KvHash,
  RangeQuery,
  RevisionEvents,
  Txn,
  TxnOp,
} from '../types.js'
import { MvccError } from '../types.js'
import { SnapshotVerifier } from '../verify.js'
import { NaiveStore } from './naive-store.js'
import type { EngineHarness } from './state-engine-contract.js'

const bytes = (text: string) => new Uint8Array(Buffer.from(text, 'latin1'))
const text = (b: Uint8Array) => Buffer.from(b).toString('latin1')
const put = (key: string, value: string, more: object): TxnOp => ({
  type: 'put',
  key: bytes(key),
  value: bytes(value),
  ...more,
})

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
  {
    weight: 2,
    arbitrary: fc
      .tuple(txnArb, fc.constantFrom('x', 'y'), fc.integer({ min: 1, max: 3 }))
      .map(([txn, clientId, seq]): Command => ({ type: 'txn', txn, session: { clientId, seq } })),
  },
  { weight: 2, arbitrary: fc.constantFrom(1, 2).map((id): Command => ({ type: 'leaseGrant', id, ttlSeconds: 5 })) },
  { weight: 1, arbitrary: fc.constantFrom(1, 2).map((id): Command => ({ type: 'leaseRevoke', id })) },
  { weight: 1, arbitrary: small.map((n): Command => ({ type: 'compact', revision: n + 1 })) },
  {
    weight: 1,
    arbitrary: fc
      .tuple(
        fc.constantFrom('raise', 'clear'),
        fc.constantFrom('NOSPACE', 'CORRUPT'),
        fc.constantFrom('s0', 's1', undefined),
      )
      .map(([action, alarm, member]) => ({ type: 'alarm', action, alarm, ...(member ? { member } : {}) }) as Command),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.constantFrom(1, 2), fc.integer({ min: 0, max: 7 }))
      .map(([id, seconds]): Command => ({ type: 'leaseCheckpoint', remaining: [{ id, seconds }] })),
  },
)
const stepArb = fc.oneof(
  // Commands of one batch.
  { weight: 12, arbitrary: fc.array(commandArb, { minLength: 1, maxLength: 4 }) },
  { weight: 3, arbitrary: fc.constantFrom('checkpoint', 'crash', 'snapshot', 'sweep') },
)
type Step = Command[] | 'checkpoint' | 'crash' | 'snapshot' | 'sweep'

/** Everything that a reader may find. */
function readable(mvcc: Mvcc): unknown {
  const hashes: KvHash[] = []
  for (let revision = Math.max(1, mvcc.compactRevision); revision <= mvcc.revision; revision++) {
    const hashing = mvcc.hashKv(revision, 2)
    let step = hashing.next()
    while (!step.done) step = hashing.next()
    hashes.push(step.value)
  }
  return { dump: [...mvcc.dump()], chain: mvcc.chainHash, alarms: mvcc.alarms(), leases: mvcc.leases(), hashes }
}

const outcome = (run: () => unknown): unknown => {
  try {
    return run()
  } catch (error) {
    if (error instanceof MvccError) return error.code
    throw error
  }
}

/**
 * `Mvcc` on an engine, against `NaiveStore` and against an `Mvcc` in memory that takes each command by itself and never
 * sweeps, crashes or moves: results, reads, events, dump and hashes. `MVCC_RUNS` and `MVCC_STEPS` make it longer.
 */
export function mvccContract(
  name: string,
  make: () => Promise<EngineHarness>,
  { runs = 150, steps = 25 }: { runs?: number; steps?: number } = {},
): void {
  test(`mvcc on ${name} against its twins: batches, old revisions, compaction, leases, sessions, alarms, crashes, snapshots`, async () => {
    await fc.assert(mvccProperty(make, { steps: Number(process.env.MVCC_STEPS ?? steps) }), {
      numRuns: Number(process.env.MVCC_RUNS ?? runs),
      ...(process.env.MVCC_SEED ? { seed: Number(process.env.MVCC_SEED) } : {}),
    })
  })
}

/** `bug`: planted in the one that is tested. */
export function mvccProperty(
  make: () => Promise<EngineHarness>,
  { steps = 25, bug }: { steps?: number; bug?: MvccPlantedBug } = {},
): fc.IAsyncProperty<[Step[], RangeQuery[], KeyRange]> {
  const planted = bug ? { plantedBugs: [bug], allowPlantedBugs: true } : {}
  const run = async (plan: Step[], queries: RangeQuery[], watched: KeyRange) => {
    let harness = await make()
    let mvcc = new Mvcc(await harness.open(), { recentBytesMax: 2000, ...planted })
    const plain = new Mvcc(new MemoryStateEngine())
    const twin = new NaiveStore()
    const log: Entry[] = []
    const seen: RevisionEvents[] = []
    const plainSeen: RevisionEvents[] = []
    plain.onRevisions((batch) => plainSeen.push(...batch))
    const listen = () =>
      mvcc.onRevisions((batch) => {
        // Replayed ones were heard before.
        for (const one of batch) if (one.revision > (seen.at(-1)?.revision ?? 1)) seen.push(one)
      })
    listen()
    try {
      for (const step of plan) {
        if (step === 'checkpoint') await mvcc.engine.checkpoint()
        else if (step === 'sweep') mvcc.sweep(2)
        else if (step === 'crash') {
          await harness.crash(mvcc.engine)
          mvcc = new Mvcc(await harness.open(), { recentBytesMax: 0, ...planted })
          listen()
          mvcc.applyBatch(log.filter(({ index }) => index > mvcc.appliedIndex))
        } else if (step === 'snapshot') {
          const next = await make()
          const engine = await next.open()
          const other = new Mvcc(engine, { recentBytesMax: 2000, ...planted })
          const receiver = new SnapshotReceiver(engine)
          const verifier = new SnapshotVerifier()
          for (const chunk of snapshotChunks(mvcc.engine.snapshot(), 11)) {
            await verifier.write(chunk)
            await receiver.write(chunk)
          }
          await receiver.finish()
          receiver.show()
          const { keys, revision } = await verifier.finish()
          assert.deepEqual([keys, revision], [mvcc.figures().keys, mvcc.revision])
          await mvcc.engine.close()
          await harness.end()
          harness = next
          mvcc = other
          mvcc.reload()
          listen()
        } else {
          const entries = step.map((command): Entry => {
            const entry = { index: log.length + 1, command }
            log.push(entry)
            return entry
          })
          const results = mvcc.applyBatch(entries)
          entries.forEach((entry, at) => {
            const result = results[at] as CommandResult
            assert.deepEqual(plain.applyBatch([entry]), [result])
            judge(twin, entry.command, result)
          })
          assert.deepEqual(seen, plainSeen)
        }
        assert.equal(mvcc.revision, twin.revision)
        assert.equal(mvcc.figures().keys, twin.states[twin.revision]?.size)
        for (const id of [1, 2]) assert.deepEqual(mvcc.leaseKeys(id).map(text), twin.keysOf(id))
      }
      assert.deepEqual(readable(mvcc), readable(plain))
      for (const query of queries)
        assert.deepEqual(
          outcome(() => mvcc.range(query)),
          twin.range(query),
        )
      for (let start = 1; start <= twin.revision; start++)
        assert.deepEqual(
          outcome(() => history(mvcc, start, watched)),
          twin.events(start, watched),
        )
    } finally {
      await mvcc.engine.close()
      await harness.end()
    }
  }

  return fc.asyncProperty(
    fc.array(stepArb as fc.Arbitrary<Step>, { maxLength: steps, size: 'max' }),
    fc.array(queryArb, { maxLength: 4 }),
    rangeArb,
    run,
  )
}

function judge(twin: NaiveStore, command: Command, result: CommandResult): void {
  const code = result.type === 'failed' ? result.error.code : undefined
  if (code === 'BAD_REQUEST') return // A key touched twice, an alarm of nobody: the twin does not judge that.
  switch (command.type) {
    case 'txn': {
      if (code === 'SESSION_STALE') return
      const { type: _, repeated, ...plain } = result as Extract<CommandResult, { type: 'txn' }>
      const { session } = command
      if (session) assert.equal(repeated ?? false, twin.remembers(session.clientId, session.seq))
      const expected = twin.txn(command.txn, session)
      // A generated repetition may ask for something else, which matters where the answer was too large to keep.
      if (repeated) assert.equal(plain.revision, (expected as { revision: number }).revision)
      else assert.deepEqual(code ?? plain, expected)
      return
    }
    case 'leaseGrant':
      return assert.equal(code, twin.grant(command.id, command.ttlSeconds))
    case 'leaseRevoke':
      return assert.equal(code, twin.revoke(command.id))
    case 'compact':
      return assert.equal(code, twin.compact(command.revision))
  }
}

function history(mvcc: Mvcc, start: number, watched: KeyRange): unknown {
  const all: { revision: number; key: string; type: string; value: string }[] = []
  for (let next = { revision: start, sub: 0 }; next.revision <= mvcc.revision; ) {
    let taken = 0
    const former = next
    next = mvcc.eventsFrom(
      former,
      watched,
      ({ type, kv }, { revision }) => {
        all.push({ revision, key: text(kv.key), type, value: text(kv.value) })
        return ++taken < 2
      },
      3,
    )
    assert.ok(next.revision > former.revision || (next.revision === former.revision && next.sub > former.sub))
  }
  return all.sort((a, b) => a.revision - b.revision || (a.key < b.key ? -1 : 1))
}
