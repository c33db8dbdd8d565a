import { decodeConfiguration, isConfiguration, isNames } from './configuration.js'
import type { EntryKind, MemberId, RaftMessage } from './types.js'

/** No term, index or length is ever so large; and numbers below it leave room to count on. */
const COUNT_MAX = 2 ** 50
const KINDS: ReadonlySet<EntryKind> = new Set(['noop', 'command', 'config', 'clusterVersion'])

export const isCount = (value: unknown): boolean =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= COUNT_MAX
const isFlag = (value: unknown): boolean => typeof value === 'boolean'

/** What is wrong with something that came as a raft message for `self`; undefined: it is plausible. */
export function checkMessage(message: RaftMessage, self: MemberId): string | undefined {
  const m = message as unknown as Record<string, unknown>
  if (typeof m !== 'object' || m === null) return 'not an object'
  if (m['to'] !== self) return 'not for this member'
  if (typeof m['from'] !== 'string' || m['from'] === self) return 'no sender'
  if (!isCount(m['term'])) return 'no term'
  // Called for each message: fields by name, not by lists of names.
  if (!hasFields(message)) return `unknown type ${String(m['type'])}, or a field of it is out of range`
  if (message.type === 'append') return checkEntries(message)
  if (message.type === 'snapshot') return checkSnapshot(message)
  return undefined
}

function hasFields(m: RaftMessage): boolean {
  switch (m.type) {
    case 'preVote':
    case 'vote':
      return isCount(m.lastIndex) && isCount(m.lastTerm) && isFlag(m.transfer)
    case 'preVoteReply':
    case 'voteReply':
      return isFlag(m.granted)
    case 'append':
      return (
        isCount(m.prevIndex) && isCount(m.prevTerm) && isCount(m.commit) && (m.tells === undefined || isFlag(m.tells))
      )
    case 'appendReply':
      return isFlag(m.success) && isCount(m.index) && isCount(m.hintIndex) && isCount(m.hintTerm)
    case 'heartbeat':
      return isCount(m.commit) && isCount(m.round)
    case 'heartbeatReply':
      return isCount(m.round) && isCount(m.lastIndex)
    case 'snapshot':
      return isCount(m.offset) && isCount(m.crc) && isFlag(m.done)
    case 'snapshotReply':
      return isCount(m.index) && isCount(m.received) && isFlag(m.installed)
    case 'readIndex':
      return isCount(m.context)
    case 'readIndexReply':
      return isCount(m.context) && isCount(m.index) && isFlag(m.refused)
    case 'termReply':
      return isNames(m.voters)
    case 'timeoutNow':
    case 'termQuery':
      return true
    default:
      return false
  }
}

function checkEntries(message: RaftMessage & { type: 'append' }): string | undefined {
  if (!Array.isArray(message.entries)) return 'entries is no list'
  let index = message.prevIndex
  let term = message.prevTerm
  for (const entry of message.entries) {
    if (entry === null || typeof entry !== 'object' || entry.index !== ++index)
      return 'entries do not follow each other'
    if (!isCount(entry.term) || entry.term < term || entry.term > message.term) return 'an entry has an impossible term'
    if (!(entry.payload instanceof Uint8Array) || typeof entry.clientId !== 'string' || !isCount(entry.clientSeq))
      return 'an entry is malformed'
    // What the log on disk could not hold must not come in.
    if (!KINDS.has(entry.kind) || !isCount(entry.formatVersion) || entry.formatVersion > 0xffff)
      return 'an entry is of an unknown kind or format'
    if (entry.kind === 'config' && !holdsConfiguration(entry.payload)) return 'an entry holds no configuration'
    term = entry.term
  }
  return undefined
}

function holdsConfiguration(payload: Uint8Array): boolean {
  try {
    return decodeConfiguration(payload) !== undefined
  } catch {
    return false
  }
}

function checkSnapshot({ meta, data }: RaftMessage & { type: 'snapshot' }): string | undefined {
  if (meta === null || typeof meta !== 'object' || !isCount(meta.index) || !isCount(meta.term))
    return 'meta is malformed'
  if (!isConfiguration(meta.configuration)) return 'meta has no configuration'
  return data instanceof Uint8Array ? undefined : 'data is no bytes'
}
