import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { emptyRun, made } from '../verdict/testing.js'
import { judgeAgain } from './session-edge.js'
import type { RunRecord } from './types.js'

const directory = mkdtempSync(join(tmpdir(), 'capstan-judge-'))
after(() => rmSync(directory, { recursive: true, force: true }))

test('the record of a run is judged once more, and its report written anew', async () => {
  const file = join(directory, 'run.json')
  const verdict = { state: 'ok', promises: [], recoveries: [], requests: { total: 0, failed: 0 } }
  const record = {
    ...emptyRun({ mustHold: ['S1'], faults: [made(0, 'kill', 10_000, 15_000)] }),
    scenario: 'storm',
    verdict,
  }
  writeFileSync(file, JSON.stringify(record))
  const run = await judgeAgain(file)
  // Nothing in it shows that what must hold did.
  assert.equal(run.verdict.state, 'unknown')
  assert.equal((JSON.parse(readFileSync(file, 'utf8')) as RunRecord).verdict.state, 'unknown')
  writeFileSync(file, JSON.stringify({ ...record, on: 'sim' }))
  await assert.rejects(judgeAgain(file), /is of the simulation: run it again/)
  writeFileSync(file, '{}')
  await assert.rejects(judgeAgain(file), /is no record of a run/)
})
