import { type KeySpan, spanHas, spanOf } from './bytes.js'
import { type Compare, type KeyRange, MvccError, type Txn, type TxnOp } from './types.js'

export interface TxnLimits {
  /** Operations in one list, and comparisons (etcd: 128). */
  opsMax: number
  /** etcd knows no bound but that of requests. */
  keyBytesMax: number
  /** Nested transactions within each other. */
  depthMax: number
}

export const TXN_LIMITS: TxnLimits = { opsMax: 512, keyBytesMax: 1536 * 1024, depthMax: 4 }

/** Shape and etcd's rule that no key is put twice, or put and deleted, on one path.
 *  @throws MvccError BAD_REQUEST */
export function checkTxn(txn: unknown, limits: TxnLimits = TXN_LIMITS, depth = 1): asserts txn is Txn {
  const { compare, success, failure } = (typeof txn === 'object' && txn !== null ? txn : {}) as Partial<Txn>
  if (depth > limits.depthMax) throw bad(`transactions nested deeper than ${limits.depthMax}`)
  checkList('compare', compare, limits)
  checkList('success', success, limits)
  checkList('failure', failure, limits)
  for (const c of compare as Compare[]) checkCompare(c, limits)
  checkOps(success as TxnOp[], limits, depth)
  checkOps(failure as TxnOp[], limits, depth)
}

function checkList(name: string, list: unknown, limits: TxnLimits): void {
  if (!Array.isArray(list)) throw bad(`txn.${name} must be a list`)
  if (list.length > limits.opsMax) throw bad(`txn.${name} has ${list.length} members; at most ${limits.opsMax}`)
}

function checkOps(ops: TxnOp[], limits: TxnLimits, depth: number): void {
  for (const op of ops) checkOp(op, limits, depth)
  if (ops.length > 1) checkTouched(ops)
}

/** @throws MvccError BAD_REQUEST */
export function checkRange(range: KeyRange, limits: TxnLimits = TXN_LIMITS): void {
  if (typeof range !== 'object' || range === null) throw bad('a request must be an object')
  checkBytes('key', range.key, limits.keyBytesMax)
  if (range.key.length === 0) throw bad('key is empty (for all keys: one zero byte for both key and rangeEnd)')
  if (range.rangeEnd !== undefined) checkBytes('rangeEnd', range.rangeEnd, limits.keyBytesMax)
}

const NUMBER_FIELDS = [
  'revision',
  'limit',
  'minModRevision',
  'maxModRevision',
  'minCreateRevision',
  'maxCreateRevision',
] as const
const SORT_TARGETS = ['key', 'version', 'create', 'mod', 'value']

/** @throws MvccError BAD_REQUEST */
export function checkQuery(query: KeyRange & Record<string, unknown>, limits: TxnLimits = TXN_LIMITS): void {
  checkRange(query, limits)
  for (const name of NUMBER_FIELDS) {
    const value = query[name]
    if (value !== undefined && (!Number.isSafeInteger(value) || (value as number) < 0))
      throw bad(`${name} must be a whole number from 0, not ${String(value)}`)
  }
  if (query.sortTarget !== undefined && !SORT_TARGETS.includes(query.sortTarget as string))
    throw bad(`unknown sortTarget ${String(query.sortTarget)}`)
  if (query.sortOrder !== undefined && query.sortOrder !== 'ascend' && query.sortOrder !== 'descend')
    throw bad(`unknown sortOrder ${String(query.sortOrder)}`)
}

function checkCompare(c: Compare, limits: TxnLimits): void {
  checkRange(c, limits)
  if (!['=', '!=', '<', '>'].includes(c.result)) throw bad(`unknown comparison ${String(c.result)}`)
  if (c.target === 'value') {
    if (!(c.operand instanceof Uint8Array)) throw bad('a value is compared with bytes')
  } else if (!['version', 'create', 'mod', 'lease'].includes(c.target))
    throw bad(`unknown comparison target ${String(c.target)}`)
  else if (!Number.isSafeInteger(c.operand)) throw bad(`${c.target} is compared with a whole number`)
}

function checkOp(op: TxnOp, limits: TxnLimits, depth: number): void {
  if (typeof op !== 'object' || op === null) throw bad('an operation must be an object')
  switch (op.type) {
    case 'put':
      checkRange({ key: op.key }, limits)
      if (!op.ignoreValue) checkBytes('value', op.value, Number.MAX_SAFE_INTEGER)
      else if (op.value !== undefined && op.value.length > 0) throw bad('a value is given together with ignoreValue')
      if (op.lease !== undefined && (!Number.isSafeInteger(op.lease) || op.lease < 0))
        throw bad(`lease must be a whole number from 0, not ${op.lease}`)
      if (op.ignoreLease && op.lease) throw bad('a lease is given together with ignoreLease')
      return
    case 'delete':
      return checkRange(op, limits)
    case 'range':
      return checkQuery(op as unknown as KeyRange & Record<string, unknown>, limits)
    case 'txn':
      return checkTxn(op.txn, limits, depth + 1)
    default:
      throw bad(`unknown operation ${String((op as { type?: unknown }).type)}`)
  }
}

function checkBytes(name: string, value: unknown, bytesMax: number): void {
  if (!(value instanceof Uint8Array)) throw bad(`${name} must be bytes`)
  if (value.length > bytesMax) throw bad(`${name} has ${value.length} bytes; at most ${bytesMax}`)
}

interface Touched {
  puts: Set<string>
  deletes: KeySpan[]
}

function checkTouched(ops: TxnOp[]): Touched {
  const all: Touched = { puts: new Set(), deletes: [] }
  for (const op of ops) {
    const one = touchedBy(op)
    for (const key of one.puts) {
      if (all.puts.has(key)) throw bad('the same key is put twice in one transaction')
      if (all.deletes.some((span) => spanHas(span, key))) throw bad('a key is put and deleted in one transaction')
    }
    for (const span of one.deletes)
      for (const key of all.puts) if (spanHas(span, key)) throw bad('a key is put and deleted in one transaction')
    for (const key of one.puts) all.puts.add(key)
    all.deletes.push(...one.deletes)
  }
  return all
}

function touchedBy(op: TxnOp): Touched {
  if (op.type === 'put') return { puts: new Set([spanOf(op).from]), deletes: [] }
  if (op.type === 'delete') return { puts: new Set(), deletes: [spanOf(op)] }
  if (op.type === 'range') return { puts: new Set(), deletes: [] }
  // Only one branch will run, so the two may touch the same keys.
  const then = checkTouched(op.txn.success)
  const otherwise = checkTouched(op.txn.failure)
  return { puts: new Set([...then.puts, ...otherwise.puts]), deletes: [...then.deletes, ...otherwise.deletes] }
}

function bad(text: string): MvccError {
  return new MvccError('BAD_REQUEST', text)
}
