import { decode, type Disk, encode, type Random } from '@capstan/actor'
import { StoreError } from './store-error.js'

const FILE = 'identity'
const FORMAT = 1

/** What a member's directory says about whose it is. Written when the directory is made, then seldom. */
export interface MemberIdentity {
  clusterId: string
  member: string
  /** Drawn when the directory was made. */
  incarnation: string
  /** `existing`: made in place of one that was lost. Peers then expect another incarnation than the one they knew. */
  origin: 'new' | 'existing'
  /** False: it forgot what it knew, and does not vote before the leader has repaired it. */
  mayVote: boolean
  /** It came to a cluster that runs: who takes part stands in the log that it is sent, not in its options. */
  joined: boolean
  /** What it found damaged and had to give up; until it votes again. */
  repairing?: { what: 'log' | 'all'; text: string; setAside: boolean } | undefined
  /** Some configuration has named it. */
  named: boolean
  /** A log was begun here: should there be none, it was lost. */
  logBegun: boolean
  /** Incarnations of the other members as last heard. */
  peers: Record<string, string>
  /** Those that they had before, the latest last: what comes late from such a life counts no longer. */
  formerPeers: Record<string, string[]>
}

/**
 * Reads the directory's identity, or makes one if the directory is empty.
 * @throws StoreError BAD_REQUEST if it belongs to another cluster or member, or is unreadable.
 */
export async function loadIdentity(
  disk: Disk,
  random: Random,
  expected: { clusterId: string; member: string },
  emptyDirectory: 'new' | 'existing' | 'join',
): Promise<MemberIdentity> {
  const bytes = await disk.read(FILE)
  if (!bytes) {
    const incarnation = Buffer.from(random.bytes(8)).toString('hex')
    const identity: MemberIdentity = {
      ...expected,
      incarnation,
      origin: emptyDirectory === 'new' ? 'new' : 'existing',
      mayVote: emptyDirectory === 'new',
      joined: emptyDirectory === 'join',
      named: emptyDirectory !== 'join',
      logBegun: false,
      peers: {},
      formerPeers: {},
    }
    await saveIdentity(disk, identity)
    return identity
  }
  let found: Partial<MemberIdentity> & { format?: number }
  try {
    found = decode(bytes) as typeof found
  } catch (error) {
    const text =
      'the directory holds an unreadable identity: restore it, or empty the directory and start as an existing member'
    throw new StoreError('BAD_REQUEST', 'not-applied', text, { cause: error })
  }
  if (found.format !== FORMAT)
    throw refused(`the directory has format ${String(found.format)}; this version knows ${FORMAT}`)
  if (found.clusterId !== expected.clusterId)
    throw refused(`the directory belongs to cluster ${String(found.clusterId)}, not ${expected.clusterId}`)
  if (found.member !== expected.member)
    throw refused(`the directory belongs to member ${String(found.member)}, not ${expected.member}`)
  return {
    ...expected,
    incarnation: String(found.incarnation),
    origin: found.origin === 'new' ? 'new' : 'existing',
    mayVote: found.mayVote === true,
    joined: found.joined === true,
    named: found.named !== false,
    repairing: found.repairing,
    // Directories made before there was this note have none: it is made when their log is found.
    logBegun: found.logBegun === true,
    peers: { ...found.peers },
    formerPeers: { ...found.formerPeers },
  }
}

/** Whose directory it is; undefined: nobody's. @throws StoreError BAD_REQUEST if that cannot be read. */
export async function readIdentity(
  disk: Disk,
): Promise<{ clusterId: string; member: string; logBegun: boolean } | undefined> {
  const bytes = await disk.read(FILE)
  if (!bytes) return undefined
  try {
    const { clusterId, member, logBegun } = decode(bytes) as MemberIdentity
    return { clusterId: String(clusterId), member: String(member), logBegun: logBegun === true }
  } catch (error) {
    throw new StoreError('BAD_REQUEST', 'not-applied', 'the directory holds an unreadable identity', { cause: error })
  }
}

export function saveIdentity(disk: Disk, identity: MemberIdentity): Promise<void> {
  return disk.writeAtomic(FILE, encode({ format: FORMAT, ...identity }))
}

function refused(text: string): StoreError {
  return new StoreError('BAD_REQUEST', 'not-applied', text)
}
