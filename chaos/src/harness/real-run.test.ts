/** A run on real processes, and one with a planted bug. Takes two minutes, so it is asked for: `CAPSTAN_CHAOS=1 npm test -- chaos`. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { RunRecord } from './types.js'

const PROGRAM = join(import.meta.dirname, '../main.js')
const lacks = [
  process.env['CAPSTAN_CHAOS'] ? '' : 'CAPSTAN_CHAOS=1 (it takes two minutes)',
  spawnSync('sh', ['-c', 'PATH=$PATH:/usr/sbin command -v nats-server']).status === 0 ? '' : 'nats-server',
].filter(Boolean)

describe('real processes', { skip: lacks.length > 0 ? `needs ${lacks.join(', ')}` : false, timeout: 400_000 }, () => {
  let directory: string
  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'chaos-'))
  })
  after(() => rmSync(directory, { recursive: true, force: true }))

  const chaos = (...args: string[]) =>
    spawnSync(
      process.execPath,
      [PROGRAM, ...args, '--runtime', 'hollow', '--port', '18443', '--directory', directory],
      {
        encoding: 'utf8',
        timeout: 180_000,
      },
    )
  const record = (scenario: string): RunRecord => {
    const name = readdirSync(join(directory, 'runs')).find((one) => one.startsWith(scenario)) as string
    return JSON.parse(readFileSync(join(directory, 'runs', name, 'run.json'), 'utf8')) as RunRecord
  }
  const processes = () =>
    readdirSync('/proc').filter((pid) => {
      try {
        return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`${directory}/`)
      } catch {
        return false
      }
    })

  test('the leading store dies: ok, with proof of each fault, and nothing is left', () => {
    const ran = chaos('run', 'store-dies', '--minutes', '0.2')
    assert.equal(ran.status, 0, ran.stdout + ran.stderr)
    const run = record('store-dies')
    assert.ok(run.faults.length >= 2 && run.faults.every((fault) => fault.result === 'made' && fault.undoProof))
    for (const promise of run.mustHold)
      assert.equal(run.verdict.promises.find((one) => one.promise === promise)?.state, 'ok', promise)
    assert.deepEqual(processes(), [])
  })

  test('stores that acknowledge before they have synced are found by a power cut', () => {
    const ran = chaos('run', 'power-cut', '--plant', 'ack-before-sync')
    assert.equal(ran.status, 1, ran.stdout + ran.stderr)
    const run = record('power-cut')
    assert.equal(run.verdict.state, 'violated')
    assert.deepEqual(processes(), [])
  })
})
