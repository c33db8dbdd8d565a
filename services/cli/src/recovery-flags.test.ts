import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Command } from 'commander'
import { controlTimes, electionTimes, IDENTITY_TIMES, RECOVERY_TIMES } from './layout.js'
import { type RecoveryFlags, recoveryOf, withRecoveryFlags } from './recovery-flags.js'

const told = (...args: string[]) => {
  const command = withRecoveryFlags(new Command('up'))
    .exitOverride()
    .configureOutput({ writeErr: () => undefined })
  return recoveryOf(command.parse(args, { from: 'user' }).opts<RecoveryFlags>())
}

test('without flags: the defaults', () => {
  assert.deepEqual(told(), { tolerationSeconds: 2, identity: IDENTITY_TIMES, recovery: RECOVERY_TIMES })
})

test('each flag reaches the part that it is for', () => {
  const { tolerationSeconds, identity, recovery } = told(
    ...['--default-toleration-seconds', '300', '--identity-lease-seconds', '8', '--identity-margin-seconds', '1.5'],
    ...['--node-grace-seconds', '40', '--lock-lease-seconds', '15', '--election-timeout-seconds', '1.2'],
  )
  assert.deepEqual([tolerationSeconds, identity], [300, { leaseMs: 8000, marginMs: 1500 }])
  assert.deepEqual(controlTimes(recovery), {
    election: { leaseDurationMs: 15_000 },
    nodes: { leaseGraceMs: 40_000, beatGraceMs: 39_300 },
  })
  assert.deepEqual(electionTimes(recovery), { heartbeatMs: 200, electionTimeoutMs: 1200 })
  assert.deepEqual(electionTimes(), { heartbeatMs: 50, electionTimeoutMs: 300 }, 'a layout of an earlier version')
  assert.deepEqual(controlTimes(undefined), {}, 'a layout of an earlier version: the defaults of each part')
})

test('what cannot work is refused with the reason', () => {
  assert.throws(() => told('--node-grace-seconds', '1'), /--node-grace-seconds must be at least 3/)
  assert.throws(() => told('--identity-lease-seconds', '1'), /--identity-lease-seconds must be at least 3/)
  assert.throws(() => told('--lock-lease-seconds', '0'), /--lock-lease-seconds must be at least 1/)
  assert.throws(() => told('--election-timeout-seconds', '0.05'), /--election-timeout-seconds must be at least 0.1/)
  assert.throws(() => told('--election-timeout-seconds', '1'), /three times --election-timeout-seconds/)
  for (const text of ['x', '', '-1', '1e9'])
    assert.throws(() => told('--lock-lease-seconds', text), /number of seconds/)
})
