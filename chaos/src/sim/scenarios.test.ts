import assert from 'node:assert/strict'
import test from 'node:test'
import { clusterScenario } from './cluster-scenario.js'
import type { Scenario } from './scenario.js'
import { schedulesScenario, storeScenario } from './store-scenario.js'
import { stormScenario } from './storm-scenario.js'

// The short form of `npm run sim`: little of each scenario, one of them twice, and planted bugs that show soon.

test('the store under all faults holds its promises, and the same seed is the same history', async () => {
  const first = await stormScenario.run('0x5f3c2a', { troubleMs: 10_000 })
  assert.deepEqual(first.violations, [])
  const again = await stormScenario.run('0x5f3c2a', { troubleMs: 10_000 })
  assert.equal(again.traceHash, first.traceHash)
  assert.notEqual((await stormScenario.run('0x5f3c2b', { troubleMs: 1000 })).traceHash, first.traceHash)
})

test('two minutes of the store with all its clients, faults and drills', async () => {
  const report = await storeScenario.run('0x5f3c2a', { troubleMs: 120_000 })
  assert.deepEqual(report.violations, [])
  assert.ok((report.coverage['operations'] ?? 0) >= 40)
})

test('the whole control plane under faults holds its promises', async () => {
  const report = await clusterScenario.run('0x5f3c2a', { troubleMs: 8000 })
  assert.deepEqual(report.violations, [])
  assert.ok((report.coverage['operations'] ?? 0) > 0)
})

async function isFound(scenario: Scenario, bug: string, checker: string, troubleMs: number): Promise<boolean> {
  for (let seed = 0x5f3c2b; seed < 0x5f3c2b + 15; seed++) {
    const { violations } = await scenario.run(`0x${seed.toString(16)}`, { bug, troubleMs })
    if (violations.some((v) => v.startsWith(`${checker}:`))) return true
  }
  return false
}

test('a stale read and a lost watch message are found', async () => {
  assert.ok(await isFound(stormScenario, 'stale-read', 'linearizability', 15_000))
  assert.ok(await isFound(stormScenario, 'watch-last-lost', 'watch', 15_000))
})

test('a forgotten vote and members changed in haste are found', async () => {
  assert.ok(await isFound(schedulesScenario, 'forget-vote', 'election', 40_000))
  assert.ok(await isFound(schedulesScenario, 'config-before-term-commit', 'durability', 40_000))
})
