import assert from 'node:assert/strict'
import test from 'node:test'
import { clusterScenario } from './cluster-scenario.js'
import { storeScenario } from './store-scenario.js'
import { stormScenario } from './storm-scenario.js'

// The short form of `npm run sim`: a few seeds of each scenario, one of them twice, and two planted bugs that show at once.

test('the store under all faults holds its promises, and the same seed is the same history', async () => {
  const first = await stormScenario.run('0x5f3c2a', {})
  assert.deepEqual(first.violations, [])
  const again = await stormScenario.run('0x5f3c2a', {})
  assert.equal(again.traceHash, first.traceHash)
  assert.notEqual((await stormScenario.run('0x5f3c2b', {})).traceHash, first.traceHash)
})

test('ten minutes of the store with all its clients, faults and drills', async () => {
  const report = await storeScenario.run('0x5f3c2a', {})
  assert.deepEqual(report.violations, [])
  assert.ok(report.simulatedMs >= 600_000)
  assert.ok((report.coverage['operations'] ?? 0) >= 200)
})

test('the whole control plane under faults holds its promises', async () => {
  const report = await clusterScenario.run('0x5f3c2a', {})
  assert.deepEqual(report.violations, [])
  assert.ok((report.coverage['operations'] ?? 0) > 0)
})

test('a stale read and a lost watch message are found', async () => {
  const found = async (bug: 'stale-read' | 'watch-last-lost', checker: string) => {
    for (let seed = 0x5f3c2a; seed < 0x5f3c2a + 10; seed++) {
      const { violations } = await stormScenario.run(`0x${seed.toString(16)}`, { bug })
      if (violations.some((v) => v.startsWith(`${checker}:`))) return true
    }
    return false
  }
  assert.ok(await found('stale-read', 'linearizability'))
  assert.ok(await found('watch-last-lost', 'watch'))
})
