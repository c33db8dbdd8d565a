import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { checkLinearizable, type Model, type Operation } from './linearizability.js'
import { type RegisterInput, registerModel, type RegisterOutput } from './register-model.js'

type History = Operation<RegisterInput, RegisterOutput>[]
const verdict = (history: History) => checkLinearizable(history, registerModel).verdict

const put = (value: string, revision: number, from: number, to: number): History[number] => ({
  client: 'a',
  input: { type: 'put', value },
  output: { type: 'written', revision },
  invokedMs: from,
  returnedMs: to,
})
const get = (value: string | undefined, revision: number, from: number, to: number): History[number] => ({
  client: 'b',
  input: { type: 'get' },
  output: { type: 'read', value, revision },
  invokedMs: from,
  returnedMs: to,
})

test('a read that overlaps a write may see it or not', () => {
  assert.equal(verdict([put('x', 1, 0, 10), get(undefined, 0, 5, 6)]), 'ok')
  assert.equal(verdict([put('x', 1, 0, 10), get('x', 1, 5, 6)]), 'ok')
})

test('a read after an acknowledged write that does not see it is illegal', () => {
  assert.equal(verdict([put('x', 1, 0, 10), get(undefined, 0, 11, 12)]), 'illegal')
})

test('two reads may not see a write come and go', () => {
  assert.equal(verdict([put('x', 1, 0, 100), get('x', 1, 5, 6), get(undefined, 0, 7, 8)]), 'illegal')
})

test('a write of unknown outcome may take effect late, or never', () => {
  const unknown: History[number] = { client: 'a', input: { type: 'put', value: 'x' }, invokedMs: 0 }
  assert.equal(verdict([unknown, get(undefined, 0, 50, 51)]), 'ok')
  assert.equal(verdict([unknown, get(undefined, 0, 50, 51), get('x', 3, 90, 91)]), 'ok')
  assert.equal(verdict([unknown, get('x', 3, 50, 51), get(undefined, 0, 90, 91)]), 'illegal')
})

test('revisions never go back', () => {
  assert.equal(verdict([put('x', 5, 0, 1), put('y', 4, 2, 3)]), 'illegal')
})

test('a search without end is unknown, which is no pass', () => {
  const many: History = Array.from({ length: 40 }, (_, i) => ({
    client: `c${i}`,
    input: { type: 'put', value: `v${i}` } as const,
    invokedMs: 0,
  }))
  many.push(get('never written', 1, 5, 6))
  assert.equal(checkLinearizable(many, registerModel, 500).verdict, 'unknown')
})

/** A plain register without revisions, checked by trying every order. */
const plain: Model<string, { put?: string }, string> = {
  initial: '',
  step: (state, input, output) =>
    input.put !== undefined ? input.put : output === undefined || output === state ? state : undefined,
  stateKey: (state) => state,
}

function bruteForce(history: Operation<{ put?: string }, string>[]): boolean {
  const place = (left: Operation<{ put?: string }, string>[], state: string): boolean => {
    if (left.every((o) => o.returnedMs === undefined)) return true
    const firstReturn = Math.min(...left.map((o) => o.returnedMs ?? Number.POSITIVE_INFINITY))
    return left.some((o) => {
      if (o.invokedMs > firstReturn) return false
      const next = plain.step(state, o.input, o.output)
      return (
        next !== undefined &&
        place(
          left.filter((other) => other !== o),
          next,
        )
      )
    })
  }
  return place(history, plain.initial)
}

test('it agrees with trying every order', () => {
  const operation = fc
    .record({
      isPut: fc.boolean(),
      value: fc.constantFrom('a', 'b'),
      at: fc.integer({ min: 0, max: 20 }),
      takes: fc.integer({ min: 0, max: 10 }),
      open: fc.integer({ min: 0, max: 9 }),
    })
    .map(({ isPut, value, at, takes, open }): Operation<{ put?: string }, string> => {
      const base = { client: 'c', input: isPut ? { put: value } : {}, invokedMs: at }
      return open === 0 && isPut ? base : { ...base, output: isPut ? '' : value, returnedMs: at + takes }
    })
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 6 }), (history) => {
      assert.equal(checkLinearizable(history, plain).verdict, bruteForce(history) ? 'ok' : 'illegal')
    }),
    { numRuns: 2000 },
  )
})
