import { checkKeyRange, type Command, type RangeQuery, type Txn } from '@capstan/mvcc'
import type { StoreVerb } from '@capstan/protocol'
import { StoreError } from './store-error.js'

/** Of mvcc's sessions. */
const CLIENT_ID_BYTES_MAX = 128
/** Of raft's entries. */
const SEQ_MAX = 2 ** 50

/** What is written through the leader's log, as opposed to what any member answers from its own state. */
export const LEADER_VERBS: readonly StoreVerb[] = [
  'txn',
  'leaseGrant',
  'leaseRevoke',
  'leaseKeepAlive',
  'leaseTimeToLive',
  'compact',
  'moveLeader',
  'alarm',
  'memberAdd',
  'memberPromote',
  'memberRemove',
]

/** Bodies come off the wire: their shape is checked here (that of transactions and ranges in mvcc). */
export function objectBody(body: unknown): Record<string, unknown> {
  if (typeof body !== 'object' || body === null || Array.isArray(body) || body instanceof Uint8Array)
    throw bad('the body must be an object')
  return body as Record<string, unknown>
}

export function wholeNumber(body: Record<string, unknown>, name: string, least: number): number {
  const value = body[name]
  if (!Number.isSafeInteger(value) || (value as number) < least)
    throw bad(`${name} must be a whole number from ${least}, not ${String(value)}`)
  return value as number
}

export function optionalWholeNumber(body: Record<string, unknown>, name: string, least: number): number {
  return body[name] === undefined || body[name] === null ? 0 : wholeNumber(body, name, least)
}

/** Names are tokens of subjects, file names and labels: kept short and plain. */
export function memberName(body: Record<string, unknown>): string {
  const { member } = body
  if (typeof member !== 'string' || !/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(member))
    throw bad('member must be a name of at most 63 letters, digits, dots, dashes and underscores')
  return member
}

export interface SessionId {
  clientId: string
  seq: number
}

export function txnOf(body: Record<string, unknown>): { txn: Txn; session: SessionId | undefined } {
  const { compare, success, failure } = body as unknown as Txn
  const session = body.session as SessionId | undefined | null
  if (session === undefined || session === null) return { txn: { compare, success, failure }, session: undefined }
  if (typeof session !== 'object') throw bad('session must be { clientId, seq }')
  const { clientId, seq } = session
  // Followers rebuild it from the log's entry: what that could not hold as it is must not come in.
  if (typeof clientId !== 'string' || clientId === '' || Buffer.byteLength(clientId) > CLIENT_ID_BYTES_MAX)
    throw bad(`session.clientId must have 1 to ${CLIENT_ID_BYTES_MAX} bytes`)
  if (!Number.isSafeInteger(seq) || seq < 1 || seq > SEQ_MAX)
    throw bad(`session.seq must be a whole number from 1 to 2^50, not ${String(seq)}`)
  return { txn: { compare, success, failure }, session: { clientId, seq } }
}

/** @throws StoreError BAD_REQUEST: what is committed must not fail where it is applied */
export function alarmOf({
  alarm,
  member,
  byHand,
}: Record<string, unknown>): Omit<Extract<Command, { type: 'alarm' }>, 'type' | 'action'> {
  if (alarm !== 'NOSPACE' && alarm !== 'CORRUPT') throw bad('alarm must be NOSPACE or CORRUPT')
  if (member !== undefined && member !== null && typeof member !== 'string') throw bad('member must be a name')
  return { alarm, ...(typeof member === 'string' ? { member } : {}), ...(byHand === true ? { byHand } : {}) }
}

export function rangeOf(body: Record<string, unknown>): { query: RangeQuery; serializable: boolean } {
  const { serializable, ...query } = body
  return { query: query as unknown as RangeQuery, serializable: serializable === true }
}

export function watchOf(body: Record<string, unknown>) {
  const key = body.key as Uint8Array
  const rangeEnd = body.rangeEnd as Uint8Array | undefined | null
  const range = rangeEnd === undefined || rangeEnd === null ? { key } : { key, rangeEnd }
  checkKeyRange(range)
  const filters = body.filters ?? []
  if (!Array.isArray(filters) || filters.some((f) => f !== 'noPut' && f !== 'noDelete'))
    throw bad('filters must be a list of noPut and noDelete')
  return {
    range,
    startRevision: optionalWholeNumber(body, 'startRevision', 0),
    prevKv: body.prevKv === true,
    filters: filters as string[],
  }
}

/**
 * May it take space that is not taken yet? Deletions, compaction, revocation and renewal go on when there is none (they
 * take a little of the log, which is given back).
 */
export function mayGrow(command: Command): boolean {
  if (command.type === 'leaseGrant') return true
  return command.type === 'txn' && puts(command.txn)
}

function puts(txn: Txn | undefined): boolean {
  const any = (ops: Txn['success'] | undefined) =>
    ops?.some((op) => op?.type === 'put' || (op?.type === 'txn' && puts(op.txn)))
  return any(txn?.success) === true || any(txn?.failure) === true
}

/** Bytes of keys and values in a request: what the bound is about. */
export function bytesOf(command: Command): number {
  if (command.type !== 'txn') return 0
  let bytes = 0
  const count = (txn: Txn | undefined) => {
    for (const op of [...(txn?.success ?? []), ...(txn?.failure ?? [])]) {
      if (op?.type === 'txn') count(op.txn)
      else if (op) bytes += (op.key?.length ?? 0) + (op.type === 'put' ? (op.value?.length ?? 0) : 0)
    }
    for (const c of txn?.compare ?? [])
      bytes += (c?.key?.length ?? 0) + (c?.operand instanceof Uint8Array ? c.operand.length : 0)
  }
  count(command.txn)
  return bytes
}

export function bad(text: string): StoreError {
  return new StoreError('BAD_REQUEST', 'not-applied', text)
}
