import { type Command, InvalidArgumentError } from 'commander'
import { UserError } from './console.js'
import { IDENTITY_TIMES, type IdentityTimes, RECOVERY_TIMES, type RecoveryTimes } from './layout.js'

/** How soon a cluster does without what is gone, as its settings keep it. */
export interface RecoverySettings {
  /** Seconds of the default tolerations for not-ready and unreachable nodes. */
  tolerationSeconds: number
  identity: IdentityTimes
  recovery: RecoveryTimes
}

/** What `withRecoveryFlags` makes of the command line. */
export interface RecoveryFlags {
  defaultTolerationSeconds: number
  identityLeaseSeconds: number
  identityMarginSeconds: number
  nodeGraceSeconds: number
  lockLeaseSeconds: number
  electionTimeoutSeconds: number
}

/** The flags of `up` and `master init` by which one trades a quick recovery for calm; each says what it trades. */
export const withRecoveryFlags = (command: Command) =>
  command
    .option(
      '--default-toleration-seconds <seconds>',
      'how long pods stay on a node that is not ready or unreachable, if they do not say themselves',
      seconds,
      2,
    )
    .option(
      '--node-grace-seconds <seconds>',
      'how long a node that is not heard, and renews no lease, counts as alive; shorter replaces its pods sooner, longer forgives a longer stall',
      seconds,
      RECOVERY_TIMES.nodeGraceMs / 1000,
    )
    .option(
      '--election-timeout-seconds <seconds>',
      'how long the leader of the store may be silent before another one is elected; shorter resumes writes sooner, longer forgives slow disks, busy processors and long ways between masters',
      seconds,
      RECOVERY_TIMES.electionTimeoutMs / 1000,
    )
    .option(
      '--lock-lease-seconds <seconds>',
      'how long scheduler and controller-manager of a master that is gone are waited for; shorter takes over sooner, longer keeps them in place while the store or a disk stalls',
      seconds,
      RECOVERY_TIMES.lockLeaseMs / 1000,
    )
    .option(
      '--identity-lease-seconds <seconds>',
      'how long pods of StatefulSets go on when their node cannot renew its lease; longer rides out longer outages of the masters, shorter moves them sooner',
      seconds,
      IDENTITY_TIMES.leaseMs / 1000,
    )
    .option(
      '--identity-margin-seconds <seconds>',
      "how much longer their replacement waits, for a node's guard that is late",
      seconds,
      IDENTITY_TIMES.marginMs / 1000,
    )

/** @throws UserError */
export function recoveryOf(flags: RecoveryFlags): RecoverySettings {
  if (flags.identityLeaseSeconds < 3)
    throw new UserError('--identity-lease-seconds must be at least 3: nodes renew every second')
  if (flags.nodeGraceSeconds < 3)
    throw new UserError('--node-grace-seconds must be at least 3: nodes renew every second')
  if (flags.electionTimeoutSeconds < 0.1)
    throw new UserError(
      '--election-timeout-seconds must be at least 0.1: six heartbeats, and a sync of the disk, must fit',
    )
  if (flags.lockLeaseSeconds < 1 || flags.lockLeaseSeconds < 3 * flags.electionTimeoutSeconds)
    throw new UserError(
      '--lock-lease-seconds must be at least 1, and three times --election-timeout-seconds: an election of the store must fit in it',
    )
  return {
    tolerationSeconds: flags.defaultTolerationSeconds,
    identity: { leaseMs: flags.identityLeaseSeconds * 1000, marginMs: flags.identityMarginSeconds * 1000 },
    recovery: {
      nodeGraceMs: flags.nodeGraceSeconds * 1000,
      lockLeaseMs: flags.lockLeaseSeconds * 1000,
      electionTimeoutMs: flags.electionTimeoutSeconds * 1000,
    },
  }
}

function seconds(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value) || value < 0 || value > 86_400)
    throw new InvalidArgumentError('a number of seconds, at most 86400')
  return value
}
