/** What is done to the directory of a member that does not run: looked at, kept as a backup, made from one. */
import { type Clock, type Disk, encode, type Random } from '@capstan/actor'
import { bumpRevision, Mvcc, SnapshotDamaged, SnapshotReceiver, type StateEngine } from '@capstan/mvcc'
import { type Configuration, encodeConfiguration, RaftLog } from 'raft-ts'
import { type BackupFile, type BackupHeader, backupPieces, readBackup, verifyBackup } from './backup.js'
import { loadIdentity, readIdentity, saveIdentity } from './identity.js'
import { commandOf, LOG_DIR } from './replica.js'
import { snapshotBeyondLog } from './snapshots.js'
import { StoreError } from './store-error.js'
import { commandUnder, SUPPORTED_VERSIONS, versionRefusal } from './versions.js'

/** etcd's advice: more than a store writes in the time between a backup and its use. */
export const BUMP_REVISIONS = 1_000_000_000

export interface MemberDirectory {
  disk: Disk
  /** Opens the state in it. Called once. */
  openEngine(): StateEngine | Promise<StateEngine>
}

/** What a directory holds of a cluster's history. */
export interface DirectorySummary {
  clusterId: string
  member: string
  /** Of the last entry: who has the greatest (term, index) has what any of them can have seen committed. */
  lastTerm: number
  lastIndex: number
  /** Known there as committed. What stands above it may or may not have been acknowledged. */
  commitIndex: number
  appliedIndex: number
  revision: number
  members: string[]
}

/**
 * @throws StoreError BAD_REQUEST: not a member's directory. LogDamaged, and what the engine throws, for what is damaged.
 */
export async function inspectDirectory(directory: MemberDirectory): Promise<DirectorySummary> {
  return withDirectory(directory, async ({ summary }) => summary)
}

/**
 * A backup from the directory of one member, with every entry of its log: also those that it does not know as committed,
 * since the others, who knew, are lost. Gives the pieces of the file to `write`.
 */
export async function backupDirectory(
  directory: MemberDirectory,
  about: { cluster: string; clock: Clock },
  write: (piece: Uint8Array) => void | Promise<void>,
): Promise<BackupHeader> {
  return withDirectory(directory, async ({ summary, mvcc, entries }) => {
    for (const entry of entries) {
      if (entry.index <= mvcc.appliedIndex) continue
      const command = commandUnder(mvcc.clusterVersion, commandOf(entry))
      mvcc.applyBatch([{ index: entry.index, command }])
      refuseUnknownVersion(mvcc)
    }
    const header: BackupHeader = {
      format: 1,
      cluster: about.cluster,
      clusterId: summary.clusterId,
      member: summary.member,
      madeMs: about.clock.nowMs(),
      members: summary.members,
      appliedIndex: mvcc.appliedIndex,
      term: summary.lastTerm,
      revision: mvcc.revision,
      compactRevision: mvcc.compactRevision,
      keys: mvcc.figures().keys,
    }
    const snapshot = mvcc.engine.snapshot()
    try {
      for (const piece of backupPieces(header, snapshot)) await write(piece)
    } finally {
      snapshot.close()
    }
    return header
  })
}

/**
 * Makes an empty directory that of one member of a new cluster, which begins with what the backup holds. Every member is
 * made from the same file with the same `members`, `clusterId` and `bumpRevisions`.
 * @throws StoreError BAD_REQUEST: the file is not whole (the directory is then of no use), or the directory not empty.
 */
export async function restoreDirectory(
  file: BackupFile,
  directory: MemberDirectory,
  about: {
    clusterId: string
    member: string
    members: readonly string[]
    random: Random
    bumpRevisions?: number
  },
): Promise<BackupHeader & { restoredRevision: number }> {
  const { disk } = directory
  const { clusterId, member, members, random, bumpRevisions = BUMP_REVISIONS } = about
  if ((await readIdentity(disk)) !== undefined || (await disk.list(LOG_DIR)).length > 0)
    throw new StoreError('BAD_REQUEST', 'not-applied', `the directory of ${member} is not empty`)
  // All of it is checked before any of it is used.
  await verifyBackup(file)
  const engine = await directory.openEngine()
  try {
    const receiver = new SnapshotReceiver(engine)
    let header: BackupHeader
    try {
      header = await readBackup(file, (piece) => receiver.write(piece))
      await receiver.finish()
      receiver.show()
    } catch (error) {
      await receiver.abort()
      if (!(error instanceof SnapshotDamaged)) throw error
      throw new StoreError('BAD_REQUEST', 'not-applied', `not a whole backup: ${error.message}`, { cause: error })
    }
    const configuration: Configuration = { voters: [...members], learners: [] }
    const index = engine.appliedIndex
    const term = header.term + 1
    const restoredRevision = bumpRevision(engine, bumpRevisions, [
      ['raft', encode([index, term])],
      ['members', encodeConfiguration(configuration)],
    ])
    await engine.checkpoint()
    const { log } = await RaftLog.open(disk, { dir: LOG_DIR })
    await log.append({
      hardState: { term, votedFor: '', commit: index },
      entries: [],
      snapshot: { index, term, configuration },
    })
    await log.close()
    // Last: a directory without it is not taken for a member's.
    const identity = await loadIdentity(disk, random, { clusterId, member }, 'new')
    await saveIdentity(disk, { ...identity, logBegun: true })
    return { ...header, restoredRevision }
  } finally {
    await engine.close()
  }
}

/** What a newer program made of entries nobody but a newer program can go on from. */
function refuseUnknownVersion({ clusterVersion }: Mvcc): void {
  const refusal = versionRefusal(clusterVersion, SUPPORTED_VERSIONS)
  if (refusal) throw refusal
}

interface Opened {
  summary: DirectorySummary
  mvcc: Mvcc
  entries: Awaited<ReturnType<typeof RaftLog.open>>['recovered']['entries']
}

async function withDirectory<T>(
  { disk, openEngine }: MemberDirectory,
  use: (opened: Opened) => Promise<T>,
): Promise<T> {
  const identity = await readIdentity(disk)
  if (identity === undefined)
    throw new StoreError('BAD_REQUEST', 'not-applied', 'not the directory of a member: it has no identity')
  const { log, recovered } = await RaftLog.open(disk, { dir: LOG_DIR, mustExist: identity.logBegun })
  await log.close()
  const engine = await openEngine()
  try {
    const mvcc = new Mvcc(engine)
    refuseUnknownVersion(mvcc)
    let base = recovered.snapshot ?? { index: 0, term: 0, configuration: { voters: [], learners: [] } }
    let { entries } = recovered
    const beyond = snapshotBeyondLog(mvcc, recovered, base)
    // As a start of the member would have it: the log is of another history.
    if (beyond) [base, entries] = [beyond, []]
    const last = entries.at(-1) ?? base
    const { voters, learners } = base.configuration
    const summary: DirectorySummary = {
      clusterId: identity.clusterId,
      member: identity.member,
      lastTerm: last.term,
      lastIndex: Math.max(last.index, mvcc.appliedIndex),
      commitIndex: Math.max(recovered.hardState.commit, mvcc.appliedIndex),
      appliedIndex: mvcc.appliedIndex,
      revision: mvcc.revision,
      members: [...voters, ...learners],
    }
    return await use({ summary, mvcc, entries })
  } finally {
    await engine.close()
  }
}
