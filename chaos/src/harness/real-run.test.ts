/** Runs on real processes, also with a planted bug. They take five minutes, so they are asked for: `CAPSTAN_CHAOS=1 npm test -- chaos`. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fixed } from './draw-schedule.js'
import type { RunRecord } from './types.js'

const PROGRAM = join(import.meta.dirname, '../main.js')
const lacks = [
  process.env['CAPSTAN_CHAOS'] ? '' : 'CAPSTAN_CHAOS=1 (it takes five minutes)',
  spawnSync('sh', ['-c', 'PATH=$PATH:/usr/sbin command -v nats-server']).status === 0 ? '' : 'nats-server',
].filter(Boolean)

describe('real processes', { skip: lacks.length > 0 ? `needs ${lacks.join(', ')}` : false, timeout: 600_000 }, () => {
  let directory: string
  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'chaos-'))
  })
  after(() => rmSync(directory, { recursive: true, force: true }))

  const command = (args: string[]) => [
    ...[PROGRAM, ...args],
    ...['--runtime', 'hollow', '--port', '18443', '--directory', directory],
  ]
  const chaos = (...args: string[]) =>
    spawnSync(process.execPath, command(args), { encoding: 'utf8', timeout: 180_000 })
  const recordFile = (scenario: string) => {
    const name = readdirSync(join(directory, 'runs')).find((one) => one.startsWith(scenario)) as string
    return join(directory, 'runs', name, 'run.json')
  }
  const record = (scenario: string) => JSON.parse(readFileSync(recordFile(scenario), 'utf8')) as RunRecord
  const violated = ({ verdict }: RunRecord) =>
    verdict.promises.filter(({ state }) => state === 'violated').map(({ promise }) => promise)
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

  test('stores that acknowledge before they have synced are found by a power cut, and again by its schedule', () => {
    const bug = ['--plant', 'ack-before-sync']
    const ran = chaos('run', 'power-cut', ...bug)
    assert.equal(ran.status, 1, ran.stdout + ran.stderr)
    assert.ok(violated(record('power-cut')).includes('S1'), ran.stdout)
    const again = chaos('replay', recordFile('power-cut'), ...bug)
    assert.equal(again.status, 1, again.stdout + again.stderr)
    assert.ok(violated(record('power-cut')).includes('S1'), again.stdout)
    assert.deepEqual(processes(), [])
  })

  test('what a process is made to suffer takes effect, is undone, and breaks no promise', () => {
    const schedule = fixed(
      [0, 'slow-sync', { whom: 'leader', ms: 800 }, 3000],
      [5000, 'disk-full', { whom: 'leader' }, 3000],
      [18_000, 'flipped-bits', { whom: 'follower:0', count: 2 }, 2000],
      [26_000, 'clock-jump', { whom: 'leader', ms: 3_600_000 }, 3000],
      [31_000, 'clock-skew', { whom: 'follower:1', rate: 1.05 }, 3000],
      [36_000, 'blocked-event-loop', { whom: 'leader', component: 'control', ms: 800 }, 3000],
      [41_000, 'lost-unsynced', { whom: 'leader' }, 1000],
      [47_000, 'failing-sync', { whom: 'follower:0' }, 2000],
      [56_000, 'slow-consumer', {}, 3000],
    )
    const file = join(directory, 'levers.json')
    writeFileSync(file, JSON.stringify({ scenario: 'storm', seed: '0x1', troubleMs: 66_000, schedule }))
    const ran = chaos('replay', file)
    assert.equal(ran.status, 0, ran.stdout + ran.stderr)
    const { faults } = record('storm')
    assert.equal(faults.length, schedule.faults.length)
    assert.deepEqual(
      faults.filter(({ result, proof, undoProof }) => result !== 'made' || !proof || !undoProof),
      [],
    )
    assert.deepEqual(processes(), [])
  })

  test('Ctrl-C: what is in force is undone, what there is is judged, and nothing is left', async () => {
    const child = spawn(process.execPath, command(['run', 'node-hangs']), { stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    child.stderr.on('data', (text) => {
      output += String(text)
    })
    child.stdout.on('data', (text) => {
      const wasInForce = output.includes('in force   hang')
      output += String(text)
      if (!wasInForce && output.includes('in force   hang')) child.kill('SIGINT')
    })
    const code = await new Promise((resolve) => child.once('close', resolve))
    assert.equal(code, 2, output)
    const run = record('node-hangs')
    assert.deepEqual(run.troubles, ['the run was interrupted'])
    assert.ok(run.faults.length === 1 && run.faults[0]?.undoProof, output)
    assert.deepEqual(processes(), [])
  })

  const needsRoot = process.getuid?.() === 0 ? false : 'needs root: machines are namespaces'
  test('a node whose certificate has expired is refused, says why, and joins again', { skip: needsRoot }, () => {
    const ran = chaos('run', 'certificate-expired', '--on', 'fleet', '--minutes', '0.5')
    assert.equal(ran.status, 0, ran.stdout + ran.stderr)
    const [fault] = record('certificate-expired').faults
    assert.match(fault?.proof ?? '', /the bus refused it \d+ times, and its log says so/)
    assert.match(fault?.undoProof ?? '', /joined again with a token, and is Ready/)
  })
})
