/** Generated histories of a real register: what happened in some order must be accepted, what could not have must not. */
import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { checkLinearizable, type Operation } from './linearizability.js'
import { type RegisterInput, registerModel, type RegisterOutput, simplifyRegisterHistory } from './register-model.js'

type Op = Operation<RegisterInput, RegisterOutput>
const check = (history: readonly Op[]) => checkLinearizable(simplifyRegisterHistory(history), registerModel)

/** The store's own semantics, written down once more and as plainly as can be. */
class PlainStore {
  revision = 1
  value: string | undefined
  modRevision = 0

  execute(input: RegisterInput): RegisterOutput {
    if (input.type === 'get') return { type: 'read', value: this.value, revision: this.modRevision }
    if (input.type === 'compareAndSet' && this.modRevision !== input.expected) return { type: 'unchanged' }
    if (input.type === 'delete' && this.value === undefined) return { type: 'unchanged' }
    this.revision++
    this.value = input.type === 'delete' ? undefined : input.value
    this.modRevision = input.type === 'delete' ? 0 : this.revision
    return { type: 'written', revision: this.revision }
  }
}

interface Drawn {
  kind: 'get' | 'put' | 'delete' | 'cas'
  /** How far before and after its moment the caller's interval reaches, in moments. */
  before: number
  after: number
  outcome: 'known' | 'unknown, happened' | 'unknown, did not'
  guessed: boolean
}

const draws = (options: { overlap: number; knownShare: number }): fc.Arbitrary<Drawn> =>
  fc.record({
    kind: fc.constantFrom('get', 'put', 'delete', 'cas'),
    before: fc.integer({ min: 0, max: options.overlap }),
    after: fc.integer({ min: 0, max: options.overlap }),
    outcome: fc.constantFrom(
      ...Array.from({ length: options.knownShare }, () => 'known' as const),
      'unknown, happened' as const,
      'unknown, did not' as const,
    ),
    guessed: fc.boolean(),
  })
const drawn = draws({ overlap: 4, knownShare: 3 })

/** Executes one after the other at moments 0, 1, 2 …; each seemed to its caller to last longer. */
function execute(plan: readonly Drawn[], store = new PlainStore()): Op[] {
  return plan.map((draw, moment): Op => {
    const value = `v${moment}`
    // Half of the comparisons are right.
    const expected = draw.guessed ? store.modRevision : 999_999
    const input: RegisterInput =
      draw.kind === 'cas'
        ? { type: 'compareAndSet', expected, value }
        : draw.kind === 'put'
          ? { type: 'put', value }
          : { type: draw.kind }
    const base = { client: `c${moment}`, input, invokedMs: moment - draw.before }
    if (draw.outcome === 'unknown, did not') return base
    const output = store.execute(input)
    return draw.outcome === 'known' ? { ...base, output, returnedMs: moment + draw.after } : base
  })
}

test('what happened one after the other is accepted, however the intervals overlap', () => {
  fc.assert(
    fc.property(fc.array(drawn, { maxLength: 30 }), (plan) => {
      const result = check(execute(plan))
      assert.equal(result.verdict, 'ok', result.verdict === 'ok' ? '' : result.explanation)
    }),
    { numRuns: 500 },
  )
})

/** Every order that respects the intervals, tried one by one. */
function bruteForce(history: readonly Op[]): boolean {
  const place = (left: readonly Op[], state: typeof registerModel.initial): boolean => {
    if (left.every((o) => o.returnedMs === undefined)) return true
    const firstReturn = Math.min(...left.map((o) => o.returnedMs ?? Number.POSITIVE_INFINITY))
    return left.some((o) => {
      if (o.invokedMs > firstReturn) return false
      const next = registerModel.step(state, o.input, o.output)
      return (
        next !== undefined &&
        place(
          left.filter((other) => other !== o),
          next,
        )
      )
    })
  }
  return place(history, registerModel.initial)
}

test('a read that is changed is found, or another order explains it', () => {
  let illegal = 0
  fc.assert(
    fc.property(
      fc.array(drawn, { minLength: 1, maxLength: 7 }),
      fc.nat(),
      fc.constantFrom('older', 'newer', 'never'),
      (plan, at, change) => {
        const history = execute(plan)
        const reads = history.filter((o) => o.output?.type === 'read')
        const read = reads[at % Math.max(1, reads.length)]
        if (read?.output?.type !== 'read') return
        const writes = history.filter((o) => o.output?.type === 'written')
        const other = writes[at % Math.max(1, writes.length)]
        if (change === 'never') read.output = { type: 'read', value: 'never written', revision: 3 }
        else if (other?.output?.type === 'written' && 'value' in other.input)
          read.output = { type: 'read', value: other.input.value, revision: other.output.revision }
        const expected = bruteForce(history) ? 'ok' : 'illegal'
        if (expected === 'illegal') illegal++
        assert.equal(check(history).verdict, expected)
      },
    ),
    { numRuns: 1500 },
  )
  assert.ok(illegal > 100, `${illegal} illegal histories are too few to mean much`)
})

/** Deliberately broken stores: nearly every history of 100 operations by a few busy clients must tell. */
const BROKEN: Record<string, () => PlainStore> = {
  'reads what was there before the last write': () =>
    new (class extends PlainStore {
      private old: RegisterOutput = { type: 'read', value: undefined, revision: 0 }
      override execute(input: RegisterInput): RegisterOutput {
        if (input.type === 'get') return this.old
        this.old = super.execute({ type: 'get' })
        return super.execute(input)
      }
    })(),
  'loses every third write that it acknowledged': () =>
    new (class extends PlainStore {
      private writes = 0
      override execute(input: RegisterInput): RegisterOutput {
        if (input.type === 'get' || ++this.writes % 3 !== 0) return super.execute(input)
        const [value, modRevision] = [this.value, this.modRevision]
        const output = super.execute(input)
        ;[this.value, this.modRevision] = [value, modRevision]
        return output
      }
    })(),
  'compares with what it likes': () =>
    new (class extends PlainStore {
      override execute(input: RegisterInput): RegisterOutput {
        return super.execute(input.type === 'compareAndSet' ? { type: 'put', value: input.value } : input)
      }
    })(),
  'uses a revision twice': () =>
    new (class extends PlainStore {
      override execute(input: RegisterInput): RegisterOutput {
        if (input.type === 'put' && this.revision % 7 === 0) this.revision--
        return super.execute(input)
      }
    })(),
}

for (const [what, make] of Object.entries(BROKEN))
  test(`a store that ${what} is found out`, () => {
    let found = 0
    fc.assert(
      fc.property(fc.array(draws({ overlap: 2, knownShare: 10 }), { minLength: 100, maxLength: 100 }), (plan) => {
        if (check(execute(plan, make())).verdict === 'illegal') found++
      }),
      // How many tell is a matter of the draw: always the same one.
      { numRuns: 20, seed: 1 },
    )
    assert.ok(found >= 15, `found in ${found} of 20 histories`)
  })

test('long histories of busy clients are judged in time: many unknown outcomes, wide overlaps', () => {
  const plan = Array.from({ length: 2000 }, (_, n): Drawn => {
    const dice = (n * 7919) % 100
    const kind = dice < 45 ? 'get' : dice < 75 ? 'put' : dice < 85 ? 'delete' : 'cas'
    const outcome = n % 17 === 0 && kind !== 'get' ? (n % 2 ? 'unknown, happened' : 'unknown, did not') : 'known'
    return { kind, before: (n * 31) % 5, after: (n * 17) % 5, outcome, guessed: n % 3 === 0 }
  })
  assert.equal(check(execute(plan)).verdict, 'ok')
})
