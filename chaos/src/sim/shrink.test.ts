import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { fewest } from './shrink.js'

/** Fails if all of `needed` are there; counts what was tried. */
function trial(needed: readonly number[]) {
  const tried = { count: 0 }
  const firstFailing = (choices: readonly (readonly number[])[]) => {
    const at = choices.findIndex((choice) => {
      tried.count++
      return needed.every((n) => choice.includes(n))
    })
    return Promise.resolve(at < 0 ? undefined : at)
  }
  return { tried, firstFailing }
}

test('of any number of troubles those are left that it takes, in their order', async () => {
  const property = fc.asyncProperty(fc.integer({ min: 1, max: 40 }), fc.array(fc.nat(39)), async (count, drawn) => {
    const items = Array.from({ length: count }, (_, n) => n)
    const needed = [...new Set(drawn.map((n) => n % count))].sort((a, b) => a - b).slice(0, 6)
    const { firstFailing } = trial(needed)
    assert.deepEqual(await fewest(items, firstFailing), needed)
  })
  await fc.assert(property, { numRuns: 200 })
})

test('one of thirty is found with one trial for each, at most', async () => {
  const items = Array.from({ length: 30 }, (_, n) => n)
  const { tried, firstFailing } = trial([29])
  assert.deepEqual(await fewest(items, firstFailing), [29])
  assert.ok(tried.count <= 31)
})
