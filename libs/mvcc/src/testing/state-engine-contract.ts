import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { EngineWrite, StateEngine } from '../state-engine.js'

/** How a test gets at one engine's storage through crashes. */
export interface EngineHarness {
  /** Opens the storage again as it is. */
  open(): Promise<StateEngine>
  /** Ends the engine as a crash of the process would, without a checkpoint. */
  crash(engine: StateEngine): Promise<void>
  /** Frees the storage. */
  end(): Promise<void>
}

const bytes = (text: string) => new TextEncoder().encode(text)
const all = (engine: Pick<StateEngine, 'range'>, from = '', to?: string) =>
  [...engine.range(bytes(from), to === undefined ? undefined : bytes(to))].map(([k, v]) => `${text(k)}=${text(v)}`)
const text = (b: Uint8Array) => new TextDecoder().decode(b)
const put = (pairs: Record<string, string | undefined>): EngineWrite[] =>
  Object.entries(pairs).map(([k, v]) => [bytes(k), v === undefined ? undefined : bytes(v)])

/** What every `StateEngine` body must do. */
export function stateEngineContract(name: string, make: () => Promise<EngineHarness>, { runs = 60 } = {}): void {
  const using = async (run: (harness: EngineHarness) => Promise<void>) => {
    const harness = await make()
    try {
      await run(harness)
    } finally {
      await harness.end()
    }
  }

  describe(`state engine: ${name}`, () => {
    test('starts empty, shows commits at once, in order of bytes', () =>
      using(async (harness) => {
        const engine = await harness.open()
        assert.equal(engine.appliedIndex, 0)
        assert.deepEqual(all(engine), [])
        engine.commit(put({ b: '2', a: '1', c: '3' }), 7)
        engine.commit(
          [
            [Uint8Array.of(0xff), bytes('last')],
            [Uint8Array.of(0x62, 0), bytes('b0')],
          ],
          8,
        )
        assert.equal(engine.appliedIndex, 8)
        assert.equal(text(engine.get(bytes('b')) as Uint8Array), '2')
        assert.equal(engine.get(bytes('x')), undefined)
        assert.deepEqual(all(engine, 'b', 'c'), ['b=2', 'b\0=b0'])
        assert.equal(engine.count(bytes('b'), bytes('c')), 2)
        assert.equal(engine.count(Uint8Array.of()), 5)
        assert.equal(engine.count(bytes('c'), bytes('b')), 0)
        assert.equal(all(engine).length, 5)
        engine.commit([...put({ b: undefined }), ...put({ d: '4' }), ...put({ d: '5' })], 9)
        assert.deepEqual(all(engine, 'a', 'z'), ['a=1', 'b\0=b0', 'c=3', 'd=5'])
        await engine.close()
      }))

    test('a crash leaves some whole commit not older than the checkpoint', () =>
      using(async (harness) => {
        let engine = await harness.open()
        engine.commit(put({ a: '1' }), 1)
        engine.commit(put({ a: '2', b: '2' }), 2)
        assert.equal(await engine.checkpoint(), 2)
        assert.equal(engine.durableIndex, 2)
        engine.commit(put({ a: '3', b: undefined }), 3)
        await harness.crash(engine)
        engine = await harness.open()
        assert.ok(engine.appliedIndex === 2 || engine.appliedIndex === 3)
        assert.deepEqual(all(engine), engine.appliedIndex === 2 ? ['a=2', 'b=2'] : ['a=3'])
        await engine.close()
      }))

    test('commits go on during a checkpoint', () =>
      using(async (harness) => {
        let engine = await harness.open()
        engine.commit(put({ a: '1', gone: 'x' }), 1)
        const first = engine.checkpoint()
        engine.commit(put({ a: '2', gone: undefined }), 2)
        assert.deepEqual(all(engine), ['a=2'])
        const second = engine.checkpoint()
        engine.commit(put({ b: '3' }), 3)
        assert.ok((await first) >= 1)
        assert.ok((await second) >= 2)
        assert.deepEqual(all(engine), ['a=2', 'b=3'])
        await engine.checkpoint()
        await harness.crash(engine)
        engine = await harness.open()
        assert.equal(engine.appliedIndex, 3)
        assert.deepEqual(all(engine), ['a=2', 'b=3'])
        await engine.close()
      }))

    test('a snapshot stays as it was', () =>
      using(async (harness) => {
        const engine = await harness.open()
        engine.commit(put({ a: '1', b: '1' }), 1)
        await engine.checkpoint()
        engine.commit(put({ c: '2' }), 2)
        const snapshot = engine.snapshot()
        engine.commit(put({ a: '3', b: undefined }), 3)
        await engine.checkpoint()
        engine.commit(put({ d: '4' }), 4)
        assert.equal(snapshot.appliedIndex, 2)
        assert.deepEqual(all(snapshot), ['a=1', 'b=1', 'c=2'])
        assert.deepEqual(
          ['a', 'c', 'd'].map((key) => snapshot.get(bytes(key))).map((value) => value && text(value)),
          ['1', '2', undefined],
        )
        snapshot.close()
        snapshot.close()
        assert.deepEqual(all(engine), ['a=3', 'c=2', 'd=4'])
        await engine.close()
      }))

    test('a replacement takes the place of everything, durably; an aborted or crashed one of nothing', () =>
      using(async (harness) => {
        let engine = await harness.open()
        engine.commit(put({ old: '1' }), 5)
        await engine.checkpoint()
        const aborted = engine.replace()
        await aborted.write([[bytes('x'), bytes('x')]])
        await aborted.abort()
        assert.deepEqual(all(engine), ['old=1'])
        const half = engine.replace()
        await half.write([[bytes('y'), bytes('y')]])
        await harness.crash(engine)
        engine = await harness.open()
        assert.deepEqual(all(engine), ['old=1'])
        engine.commit(put({ old: '2' }), 6)
        const next = engine.replace()
        await next.write([
          [bytes('a'), bytes('1')],
          [bytes('b'), bytes('2')],
        ])
        await next.write([[bytes('c'), bytes('3')]])
        const before = engine.snapshot()
        await next.finish(9)
        assert.equal(engine.appliedIndex, 6)
        assert.deepEqual(all(engine), ['old=2'], 'not shown yet')
        assert.throws(() => engine.commit(put({ old: '3' }), 7), /a replacement is to be shown first/)
        assert.throws(() => engine.replace(), /a replacement is to be shown first/)
        await engine.checkpoint()
        next.show()
        assert.deepEqual([engine.appliedIndex, engine.durableIndex], [9, 9])
        assert.deepEqual(all(engine), ['a=1', 'b=2', 'c=3'])
        assert.equal(before.get(bytes('old'))?.length, 1, 'a snapshot is unmoved')
        before.close()
        engine.commit(put({ d: '4' }), 10)
        assert.deepEqual(all(engine), ['a=1', 'b=2', 'c=3', 'd=4'])
        await harness.crash(engine)
        engine = await harness.open()
        assert.ok(engine.appliedIndex >= 9)
        assert.deepEqual(all(engine).slice(0, 3), ['a=1', 'b=2', 'c=3'])
        const unseen = engine.replace()
        await unseen.write([[bytes('e'), bytes('5')]])
        await unseen.finish(20)
        await harness.crash(engine)
        engine = await harness.open()
        assert.equal(engine.appliedIndex, 20, 'finished, so it is what is opened')
        assert.deepEqual(all(engine), ['e=5'])
        await engine.close()
      }))

    test('against a plain map, with checkpoints, crashes and replacements', async () => {
      const key = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f')
      const step = fc.oneof(
        {
          weight: 6,
          arbitrary: fc.array(fc.tuple(key, fc.option(fc.string({ maxLength: 4 }), { nil: undefined })), {
            maxLength: 4,
          }),
        },
        { weight: 2, arbitrary: fc.constant('checkpoint' as const) },
        { weight: 1, arbitrary: fc.constant('crash' as const) },
        { weight: 1, arbitrary: fc.constant('replace' as const) },
        { weight: 1, arbitrary: fc.constant('start checkpoint' as const) },
      )
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 30 }), (steps) =>
          using(async (harness) => {
            let engine = await harness.open()
            const history = new Map<number, Map<string, string>>([[0, new Map()]])
            let present = new Map<string, string>()
            let index = 0
            let durable = 0
            for (const what of steps) {
              if (what === 'checkpoint') {
                durable = await engine.checkpoint()
                assert.equal(durable, index)
              } else if (what === 'start checkpoint')
                engine.checkpoint().catch(() => {}) // A crash may end it.
              else if (what === 'crash') {
                await harness.crash(engine)
                engine = await harness.open()
                assert.ok(engine.appliedIndex >= durable && engine.appliedIndex <= index)
                index = engine.appliedIndex
                present = new Map(history.get(index))
              } else if (what === 'replace') {
                index += 10
                present = new Map([['r', String(index)]])
                history.set(index, new Map(present))
                const next = engine.replace()
                await next.write(put(Object.fromEntries(present)) as [Uint8Array, Uint8Array][])
                await next.finish(index)
                next.show()
                durable = index
              } else {
                index++
                for (const [k, v] of what) {
                  if (v === undefined) present.delete(k)
                  else present.set(k, v)
                }
                history.set(index, new Map(present))
                engine.commit(
                  what.map(([k, v]) => [bytes(k), v === undefined ? undefined : bytes(v)]),
                  index,
                )
              }
              const expected = [...present].sort((x, y) => (x[0] < y[0] ? -1 : 1)).map(([k, v]) => `${k}=${v}`)
              assert.deepEqual(all(engine), expected)
              assert.equal(engine.count(bytes('b'), bytes('e')), all(engine, 'b', 'e').length)
              assert.equal(
                engine.get(bytes('c'))?.length,
                present.has('c') ? bytes(present.get('c') as string).length : undefined,
              )
              assert.equal(engine.appliedIndex, index)
            }
            await engine.close()
          }),
        ),
        { numRuns: runs },
      )
    })
  })
}
