import { type Disk, DiskError, type Log, type Random } from '@capstan/actor'
import { LogDamaged } from 'raft-ts'
import { type MemberIdentity, saveIdentity } from './identity.js'
import { StoreError } from './store-error.js'

/** Where a member puts what it found damaged: one set, the latest. */
export const DAMAGED_DIR = 'damaged'

/** The state, or part of the directory, cannot be used as it lies there. */
export class StateUnusable extends Error {
  override readonly name = 'StateUnusable'
}

/** Runs what opens the state; what is no fault of the disk or of this program's environment is damage. */
export async function openingState<T>(open: () => T | Promise<T>): Promise<T> {
  try {
    return await open()
  } catch (error) {
    const code = (error as { code?: unknown } | null)?.code
    // `EACCES`, `ENOSPC` and their like say something about the machine, not about what is stored.
    if (error instanceof DiskError || error instanceof StoreError || typeof code === 'string') throw error
    throw new StateUnusable(`the state cannot be used: ${String(error)}`, { cause: error })
  }
}

/**
 * What is to be done about a start that failed: give up `log` (the state stays: all in it was committed), or `all`.
 * Undefined: it is no damage.
 */
export function damageIn(error: unknown): 'log' | 'all' | undefined {
  if (error instanceof LogDamaged) return 'log'
  return error instanceof StateUnusable ? 'all' : undefined
}

/**
 * Makes of a damaged member one that forgot: what is damaged is set aside, and it does not vote, nor count as having
 * acknowledged anything, until the others have repaired it (DESIGN §5). A crash in between is made up for at the next start.
 */
export async function forget(
  disk: Disk,
  random: Random,
  log: Log,
  identity: MemberIdentity,
  what: 'log' | 'all',
  error: unknown,
  dirs: { log: string; state: string },
): Promise<MemberIdentity> {
  const text = String(error instanceof Error ? error.message : error)
  log.error({ err: error, what }, 'damaged: it is repaired from the others, and does not vote before that')
  const forgetful: MemberIdentity = {
    ...identity,
    incarnation: Buffer.from(random.bytes(8)).toString('hex'),
    origin: 'existing',
    mayVote: false,
    repairing: { what, text, setAside: false },
  }
  await disk.remove(DAMAGED_DIR)
  await saveIdentity(disk, forgetful)
  return setAside(disk, forgetful, dirs)
}

/** Moves what is damaged out of the way, whole: half of a log must never pass for one. */
export async function setAside(
  disk: Disk,
  identity: MemberIdentity,
  dirs: { log: string; state: string },
): Promise<MemberIdentity> {
  const { repairing } = identity
  if (!repairing || repairing.setAside) return identity
  for (const dir of repairing.what === 'all' ? [dirs.log, dirs.state] : [dirs.log]) {
    const names = await disk.list(dir)
    if (names.length === 0) continue
    // What a former start began to move belongs to what is moved now.
    for (const name of names) await disk.rename(`${dir}/${name}`, `${DAMAGED_DIR}/${dir}/${name}`)
    await disk.syncDir(`${DAMAGED_DIR}/${dir}`)
    await disk.syncDir(dir)
  }
  const done = { ...identity, logBegun: false, repairing: { ...repairing, setAside: true } }
  await saveIdentity(disk, done)
  return done
}
