import assert from 'node:assert/strict'
import { test } from 'node:test'
import { identityHistories } from './identity-histories.js'

/** `IDENTITY_SEEDS=200` runs more, `IDENTITY_SEED=7` one. */
const { IDENTITY_SEEDS = '3', IDENTITY_SEED } = process.env
const upTo = (count: number) => Array.from({ length: count }, (_, at) => at + 1)
const PLANTED_SEEDS_MAX = 20

test('C3: an identity lives once at most, whatever happens to kubelets and links; and exactly once in the end', async (t) => {
  const seeds = IDENTITY_SEED ? [Number(IDENTITY_SEED)] : upTo(Number(IDENTITY_SEEDS))
  const histories = await identityHistories(seeds)
  for (const { seed, violations, wrong } of histories)
    assert.deepEqual([violations, wrong], [[], []], `IDENTITY_SEED=${seed}`)
  const moved = histories.reduce((sum, history) => sum + history.moved, 0)
  t.diagnostic(`${histories.length} histories, ${moved} identities moved`)
  assert.ok(moved >= seeds.length, 'identities do move')
})

for (const bug of ['guard-left-out', 'margin-left-out', 'lease-not-taken', 'tenure-unchecked'] as const)
  test(`C3: the planted bug ${bug} is found`, async (t) => {
    const last = (await identityHistories(upTo(PLANTED_SEEDS_MAX), [bug])).at(-1)
    assert.ok(last && last.violations.length > 0, `${PLANTED_SEEDS_MAX} histories show nothing`)
    t.diagnostic(`seed ${last.seed}: ${last.violations[0]}`)
  })
