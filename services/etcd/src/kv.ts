/** etcd's key-value requests as the store's, and its answers back. Pure. */
import type {
  Compare as StoreCompare,
  KeyValue,
  RangeReply,
  RangeRequest as StoreRange,
  StoreHeader,
  Txn,
  TxnOp,
  TxnOpReply,
  TxnReply,
} from '@capstan/protocol'
import { etcdError } from './etcd-error.js'
import {
  COMPARE_RESULTS,
  COMPARE_TARGETS,
  type Compare,
  type DeleteRangeRequest,
  type DeleteRangeResponse,
  type PutRequest,
  type PutResponse,
  type RangeRequest,
  type RangeResponse,
  type RequestOpIn,
  type ResponseHeader,
  type ResponseOpOut,
  SORT_ORDERS,
  SORT_TARGETS,
  type TxnRequestIn,
  type TxnResponseOut,
} from './messages.js'
import type { In, Out } from './protobuf.js'

type Header = Out<typeof ResponseHeader>
type RangeQuery = Omit<StoreRange, 'serializable'>

/** No lease has it (see `leaseGrant`): stands for every id that the store cannot have. */
export const NO_SUCH_LEASE = Number.MAX_SAFE_INTEGER

/** The store's lease ids are safe integers. */
export function leaseNumber(id: bigint): number {
  return id >= 0n && id < BigInt(NO_SUCH_LEASE) ? Number(id) : NO_SUCH_LEASE
}

/** Bytes that etcd puts round a request before it measures it: its id, tags and lengths. */
const ENVELOPE_BYTES = 18

/** @throws EtcdError */
export function checkSize(encodedBytes: number, requestBytesMax: number): void {
  if (encodedBytes + ENVELOPE_BYTES > requestBytesMax) throw etcdError('TOO_LARGE')
}

// --------------------------------------------------------------------------------------------------------------- range

/** @throws EtcdError */
export function toRange(request: In<typeof RangeRequest>): StoreRange {
  if (request.key.length === 0) throw etcdError('EMPTY_KEY')
  const query: StoreRange = rangeQuery(request)
  if (request.serializable) query.serializable = true
  return query
}

function rangeQuery(request: In<typeof RangeRequest>): RangeQuery {
  const query: RangeQuery = { key: request.key }
  if (request.rangeEnd.length > 0) query.rangeEnd = request.rangeEnd
  if (request.limit > 0) query.limit = request.limit
  if (request.revision > 0) query.revision = request.revision
  if (request.keysOnly) query.keysOnly = true
  if (request.countOnly) query.countOnly = true
  const order = SORT_ORDERS[request.sortOrder]
  const target = SORT_TARGETS[request.sortTarget]
  if (sortsCut(request)) query.limit = Math.min(request.limit + 1, Number.MAX_SAFE_INTEGER)
  else if (target !== undefined && (order !== undefined || target !== 'key')) {
    query.sortTarget = target
    query.sortOrder = order ?? 'ascend'
  }
  // What a bound below zero means: nothing is older than that, everything is newer.
  if (request.minModRevision > 0) query.minModRevision = request.minModRevision
  if (request.minCreateRevision > 0) query.minCreateRevision = request.minCreateRevision
  if (request.maxModRevision > 0) query.maxModRevision = request.maxModRevision
  if (request.maxCreateRevision > 0) query.maxCreateRevision = request.maxCreateRevision
  if (request.maxModRevision < 0 || request.maxCreateRevision < 0) query.minModRevision = Number.MAX_SAFE_INTEGER
  return query
}

/**
 * etcd cuts first and sorts what is left, when it is asked to sort by something else than keys without being told which
 * way, with a limit and no bounds (`etcdctl get --sort-by` without `--order`). So the store is asked for the cut only.
 */
function sortsCut(request: In<typeof RangeRequest>): boolean {
  return (
    request.limit > 0 &&
    request.sortTarget > 0 &&
    request.sortOrder === 0 &&
    request.minModRevision === 0 &&
    request.maxModRevision === 0 &&
    request.minCreateRevision === 0 &&
    request.maxCreateRevision === 0
  )
}

export function fromRange(
  request: In<typeof RangeRequest>,
  reply: Pick<RangeReply, 'kvs' | 'more' | 'count'>,
  header: Header,
): Out<typeof RangeResponse> {
  if (!sortsCut(request)) return { header, kvs: reply.kvs, more: reply.more, count: reply.count }
  const kvs = sorted(reply.kvs, request.sortTarget)
  return { header, kvs: kvs.slice(0, request.limit), more: kvs.length > request.limit, count: reply.count }
}

function sorted(kvs: readonly KeyValue[], sortTarget: number): KeyValue[] {
  const by: Record<string, (a: KeyValue, b: KeyValue) => number> = {
    version: (a, b) => a.version - b.version,
    create: (a, b) => a.createRevision - b.createRevision,
    mod: (a, b) => a.modRevision - b.modRevision,
    value: (a, b) => Buffer.compare(a.value, b.value),
  }
  return [...kvs].sort(by[SORT_TARGETS[sortTarget] as string])
}

// --------------------------------------------------------------------------------------------------------- put, delete

/** @throws EtcdError */
export function toPut(request: In<typeof PutRequest>): Extract<TxnOp, { type: 'put' }> {
  if (request.key.length === 0) throw etcdError('EMPTY_KEY')
  if (request.ignoreValue && request.value.length > 0) throw etcdError('VALUE_PROVIDED')
  if (request.ignoreLease && request.lease !== 0n) throw etcdError('LEASE_PROVIDED')
  const op: Extract<TxnOp, { type: 'put' }> = { type: 'put', key: request.key, value: request.value }
  if (request.lease !== 0n) op.lease = leaseNumber(request.lease)
  if (request.prevKv) op.prevKv = true
  if (request.ignoreValue) op.ignoreValue = true
  if (request.ignoreLease) op.ignoreLease = true
  return op
}

/** @throws EtcdError */
export function toDelete(request: In<typeof DeleteRangeRequest>): Extract<TxnOp, { type: 'delete' }> {
  if (request.key.length === 0) throw etcdError('EMPTY_KEY')
  const op: Extract<TxnOp, { type: 'delete' }> = { type: 'delete', key: request.key }
  if (request.rangeEnd.length > 0) op.rangeEnd = request.rangeEnd
  if (request.prevKv) op.prevKv = true
  return op
}

export function fromPut(reply: TxnReply, header: Header): Out<typeof PutResponse> {
  const [put] = reply.replies as [Extract<TxnOpReply, { type: 'put' }>]
  return put.prevKv ? { header, prevKv: put.prevKv } : { header }
}

export function fromDelete(reply: TxnReply, header: Header): Out<typeof DeleteRangeResponse> {
  const [{ deleted, prevKvs }] = reply.replies as [Extract<TxnOpReply, { type: 'delete' }>]
  return { header, deleted, prevKvs }
}

// ----------------------------------------------------------------------------------------------------------------- txn

/** Checks as etcd does, in its order.
 *  @throws EtcdError */
export function toTxn(request: TxnRequestIn, opsMax: number): Txn {
  checkTxn(request, opsMax)
  checkIntervals(request.success)
  checkIntervals(request.failure)
  return txnOf(request)
}

function txnOf(request: TxnRequestIn): Txn {
  return {
    compare: request.compare.map(toCompare),
    success: request.success.map(opOf),
    failure: request.failure.map(opOf),
  }
}

function opOf({ range, put, delete: deletion, txn }: RequestOpIn): TxnOp {
  if (range) return { type: 'range', ...rangeQuery(range) }
  if (put) return toPut(put)
  if (deletion) return toDelete(deletion)
  return { type: 'txn', txn: txnOf(txn as TxnRequestIn) }
}

function toCompare(compare: In<typeof Compare>): StoreCompare {
  const target = COMPARE_TARGETS[compare.target]
  const result = COMPARE_RESULTS[compare.result]
  // What etcd does not know holds always: a version is never below zero.
  if (target === undefined || result === undefined)
    return { key: compare.key, target: 'version', result: '>', operand: -1 }
  // A comparison whose operand is of another kind compares with zero, or with no bytes.
  const operand = {
    version: compare.version ?? 0,
    create: compare.createRevision ?? 0,
    mod: compare.modRevision ?? 0,
    value: compare.value ?? new Uint8Array(0),
    lease: compare.lease ?? 0,
  }[target]
  const { key, rangeEnd } = compare
  return rangeEnd.length > 0 ? { key, rangeEnd, target, result, operand } : { key, target, result, operand }
}

function checkTxn(request: TxnRequestIn, opsMax: number): void {
  const count = Math.max(request.compare.length, request.success.length, request.failure.length)
  if (count > opsMax) throw etcdError('TOO_MANY_OPS')
  for (const { key } of request.compare) if (key.length === 0) throw etcdError('EMPTY_KEY')
  for (const op of [...request.success, ...request.failure]) checkOp(op, opsMax - count)
}

function checkOp({ range, put, delete: deletion, txn }: RequestOpIn, opsMax: number): void {
  if (range) {
    if (range.key.length === 0) throw etcdError('EMPTY_KEY')
  } else if (put) toPut(put)
  else if (deletion) toDelete(deletion)
  else if (txn) checkTxn(txn, opsMax)
  else throw etcdError('KEY_NOT_FOUND')
}

interface Touched {
  puts: Set<string>
  deletes: { from: string; to: string | undefined }[]
}

/** No key is put twice, or put and deleted, on one way through the transaction (etcd's `checkIntervals`). */
function checkIntervals(ops: readonly RequestOpIn[]): Touched {
  const deletes: Touched['deletes'] = []
  const puts = new Set<string>()
  for (const { delete: deletion } of ops)
    if (deletion) {
      const from = text(deletion.key)
      const to = deletion.rangeEnd.length > 0 ? text(deletion.rangeEnd) : undefined
      deletes.push({ from, to })
    }
  const deleted = (key: string) =>
    deletes.some(({ from, to }) => (to === undefined ? key === from : key >= from && key < to))
  for (const { txn } of ops) {
    if (!txn) continue
    const then = checkIntervals(txn.success)
    const otherwise = checkIntervals(txn.failure)
    for (const key of then.puts) {
      if (puts.has(key) || deleted(key)) throw etcdError('DUPLICATE_KEY')
      puts.add(key)
    }
    for (const key of otherwise.puts) {
      // Only one of the two branches runs, so they may put the same key.
      if ((puts.has(key) && !then.puts.has(key)) || deleted(key)) throw etcdError('DUPLICATE_KEY')
      puts.add(key)
    }
    deletes.push(...then.deletes, ...otherwise.deletes)
  }
  for (const { put } of ops) {
    if (!put) continue
    const key = text(put.key)
    if (puts.has(key) || deleted(key)) throw etcdError('DUPLICATE_KEY')
    puts.add(key)
  }
  return { puts, deletes }
}

export function fromTxn(request: TxnRequestIn, reply: TxnReply, header: Header): TxnResponseOut {
  const after = reply.header.revision
  const wrote = reply.replies.some(hasWritten)
  const revision = { before: wrote ? after - 1 : after, after, wrote: false }
  return { header, succeeded: reply.succeeded, responses: responsesOf(request, reply, revision) }
}

/** Each operation's header states the revision as it stands then: one more from the first that wrote. */
function responsesOf(
  request: TxnRequestIn,
  reply: { succeeded: boolean; replies: TxnOpReply[] },
  revision: { before: number; after: number; wrote: boolean },
): ResponseOpOut[] {
  const ops = reply.succeeded ? request.success : request.failure
  return reply.replies.map((one, at): ResponseOpOut => {
    const op = ops[at] as RequestOpIn
    if (one.type === 'txn') {
      const nested = op.txn as TxnRequestIn
      return { txn: { header: {}, succeeded: one.succeeded, responses: responsesOf(nested, one, revision) } }
    }
    revision.wrote ||= hasWritten(one)
    const header = { revision: revision.wrote ? revision.after : revision.before }
    if (one.type === 'put') return { put: one.prevKv ? { header, prevKv: one.prevKv } : { header } }
    if (one.type === 'delete') return { delete: { header, deleted: one.deleted, prevKvs: one.prevKvs } }
    return { range: fromRange(op.range as In<typeof RangeRequest>, one, header) }
  })
}

function hasWritten(reply: TxnOpReply): boolean {
  if (reply.type === 'txn') return reply.replies.some(hasWritten)
  return reply.type === 'put' || (reply.type === 'delete' && reply.deleted > 0)
}

/** Does any operation of it ask to keep what a key has? Then BAD_REQUEST means that there is no such key. */
export function keepsOld(ops: readonly TxnOp[]): boolean {
  return ops.some((op) =>
    op.type === 'txn'
      ? keepsOld(op.txn.success) || keepsOld(op.txn.failure)
      : op.type === 'put' && Boolean(op.ignoreValue || op.ignoreLease),
  )
}

/** Order of bytes = order of these strings. */
function text(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1')
}

export type { StoreHeader }
