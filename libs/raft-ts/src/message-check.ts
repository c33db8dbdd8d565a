import { decodeConfiguration, isConfiguration, isNames } from './configuration.js'
import type { EntryKind, MemberId, RaftMessage } from './types.js'

/** No term, index or length is ever so large; and numbers below it leave room to count on. */
const COUNT_MAX = 2 ** 50
const KINDS: ReadonlySet<EntryKind> = new Set(['noop', 'command', 'config', 'clusterVersion'])

const isCount = (value: unknown): boolean =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= COUNT_MAX

/** What is wrong with something that came as a raft message for `self`; undefined: it is plausible. */
export function checkMessage(message: RaftMessage, self: MemberId): string | undefined {
  const m = message as unknown as Record<string, unknown>
  if (typeof m !== 'object' || m === null) return 'not an object'
  if (m['to'] !== self) return 'not for this member'
  if (typeof m['from'] !== 'string' || m['from'] === self) return 'no sender'
  if (!isCount(m['term'])) return 'no term'
  const counts = COUNTS[m['type'] as RaftMessage['type']]
  if (!counts) return `unknown type ${String(m['type'])}`
  for (const field of counts) if (!isCount(m[field])) return `${field} is no count`
  for (const field of FLAGS[m['type'] as RaftMessage['type']] ?? [])
    if (typeof m[field] !== 'boolean') return `${field} is no flag`
  if (message.type === 'append') return checkEntries(message)
  if (message.type === 'snapshot') return checkSnapshot(message)
  if (message.type === 'termReply' && !isNames(message.voters)) return 'voters is no list of names'
  return undefined
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

const COUNTS: Record<RaftMessage['type'], string[]> = {
  preVote: ['lastIndex', 'lastTerm'],
  vote: ['lastIndex', 'lastTerm'],
  preVoteReply: [],
  voteReply: [],
  append: ['prevIndex', 'prevTerm', 'commit'],
  appendReply: ['index', 'hintIndex', 'hintTerm'],
  heartbeat: ['commit', 'round'],
  heartbeatReply: ['round', 'lastIndex'],
  snapshot: ['offset', 'crc'],
  snapshotReply: ['index', 'received'],
  timeoutNow: [],
  readIndex: ['context'],
  readIndexReply: ['context', 'index'],
  termQuery: [],
  termReply: [],
}

const FLAGS: Partial<Record<RaftMessage['type'], string[]>> = {
  preVote: ['transfer'],
  vote: ['transfer'],
  preVoteReply: ['granted'],
  voteReply: ['granted'],
  appendReply: ['success'],
  snapshot: ['done'],
  snapshotReply: ['installed'],
  readIndexReply: ['refused'],
}
