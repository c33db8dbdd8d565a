/**
 * Cluster versions (DESIGN: new apply behaviour is switched on only by an entry, once all members support it). The version
 * stands in the state itself; members apply as it says, whatever their program could do beyond.
 */
import type { Command, TxnOp } from '@capstan/mvcc'
import { notApplied, type StoreError } from './store-error.js'

/** Versions whose apply behaviour a program has. */
export interface VersionRange {
  readonly min: number
  readonly max: number
}

/**
 * Of this program. To add a version: raise `max`, and let `commandUnder` (or mvcc, by its `clusterVersion`) do the new thing from that
 * version on. `min` may rise when no cluster of an older version is to be upgraded by this program any more.
 */
export const SUPPORTED_VERSIONS: VersionRange = { min: 1, max: 1 }

/** What a member said of itself so long ago says little about the program that it runs now. */
const ANNOUNCED_MS = 5000

/** Why this program can't take part in a cluster of that version; undefined: it can. */
export function versionRefusal(clusterVersion: number, { min, max }: VersionRange): StoreError | undefined {
  if (clusterVersion > max)
    return notApplied(
      'BAD_REQUEST',
      `the cluster is at version ${clusterVersion}, this program knows versions up to ${max}: start the newer program again ` +
        '(there is no way back once the version was raised, but by restoring a backup from before)',
    )
  if (clusterVersion < min)
    return notApplied(
      'BAD_REQUEST',
      `the cluster is at version ${clusterVersion}, this program needs at least ${min}: upgrade by way of a program that knows both`,
    )
  return undefined
}

/** What the members say that they support, and when that was. */
export class VersionAnnouncements {
  private readonly byMember = new Map<string, { range: VersionRange; atMs: number }>()

  /** A member of a program before there were announcements says nothing: it supports 1. */
  note(member: string, announced: unknown, nowMs: number): void {
    const { min, max } = (announced ?? { min: 1, max: 1 }) as Partial<VersionRange>
    if (isVersion(min) && isVersion(max) && min <= max) this.byMember.set(member, { range: { min, max }, atMs: nowMs })
  }

  /**
   * The version to raise the cluster to: one step, and only if every other member, learners too, has said of late that it
   * supports it. Undefined: none.
   */
  next(clusterVersion: number, own: VersionRange, others: readonly string[], nowMs: number): number | undefined {
    const wanted = clusterVersion + 1
    if (wanted > own.max) return undefined
    const all = others.every((member) => {
      const said = this.byMember.get(member)
      return said !== undefined && nowMs - said.atMs <= ANNOUNCED_MS && said.range.max >= wanted
    })
    return all ? wanted : undefined
  }
}

const isVersion = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 1

/**
 * What a command is in a cluster of that version. Every member must make the same of it: from the state's version and the command
 * alone.
 */
export function commandUnder(clusterVersion: number, command: Command): Command {
  if (clusterVersion < TEST_VERSION || command.type !== 'txn') return command
  const { success, failure } = command.txn
  return { ...command, txn: { ...command.txn, success: probed(success), failure: probed(failure) } }
}

/**
 * No released program supports it (`SUPPORTED_VERSIONS`); one that is told so by a test does, and whatever is put at `PROBE_KEY` is
 * then stored as `PROBE_VALUE`. So tests of upgrades see which behaviour an entry was applied by, and members that disagreed would
 * have different states.
 */
export const TEST_VERSION = 2
export const PROBE_KEY = '/capstan/test/applied-by'
export const PROBE_VALUE = `version ${TEST_VERSION}`

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

function probed(ops: readonly TxnOp[]): TxnOp[] {
  return ops.map((op) =>
    op.type === 'put' && op.key.length === PROBE_KEY.length && text(op.key) === PROBE_KEY
      ? { ...op, value: new TextEncoder().encode(PROBE_VALUE) }
      : op,
  )
}
