import type { Compare, KeyRange, KeyValue, RangeQuery, Txn, TxnOp } from '../types.js'

interface NaiveKey {
  value: string
  create: number
  mod: number
  version: number
  lease: number
}

const name = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1')

/** The same semantics without any cleverness: one full copy of the state for each revision. The twin for tests. */
export class NaiveStore {
  revision = 1
  compactRevision = 0
  readonly states: Map<string, NaiveKey>[] = [new Map(), new Map()]
  readonly leases = new Map<number, number>()

  private inRange(range: KeyRange, key: string): boolean {
    const from = name(range.key)
    if (range.rangeEnd === undefined || range.rangeEnd.length === 0) return key === from
    if (range.rangeEnd.length === 1 && range.rangeEnd[0] === 0) return key >= from
    return key >= from && key < name(range.rangeEnd)
  }

  private select(state: Map<string, NaiveKey>, range: KeyRange): [string, NaiveKey][] {
    return [...state].filter(([key]) => this.inRange(range, key)).sort((a, b) => (a[0] < b[0] ? -1 : 1))
  }

  private kv([key, k]: [string, NaiveKey], keysOnly = false): KeyValue {
    return {
      key: new Uint8Array(Buffer.from(key, 'latin1')),
      value: new Uint8Array(Buffer.from(keysOnly ? '' : k.value, 'latin1')),
      createRevision: k.create,
      modRevision: k.mod,
      version: k.version,
      lease: k.lease,
    }
  }

  range(query: RangeQuery, present = this.states[this.revision] as Map<string, NaiveKey>) {
    const revision = query.revision ?? 0
    if (revision > this.revision) return 'FUTURE_REVISION'
    if (revision !== 0 && revision < this.compactRevision) return 'COMPACTED'
    const state = revision === 0 ? present : (this.states[revision] as Map<string, NaiveKey>)
    const inside = this.select(state, query)
    const count = inside.length
    if (query.countOnly) return { kvs: [], more: false, count }
    let found = inside.filter(
      ([, k]) =>
        (!query.minModRevision || k.mod >= query.minModRevision) &&
        (!query.maxModRevision || k.mod <= query.maxModRevision) &&
        (!query.minCreateRevision || k.create >= query.minCreateRevision) &&
        (!query.maxCreateRevision || k.create <= query.maxCreateRevision),
    )
    const target = query.sortTarget ?? 'key'
    const by = (pair: [string, NaiveKey]) => (target === 'key' ? pair[0] : pair[1][target])
    const sign = query.sortOrder === 'descend' ? -1 : 1
    found = found
      .map((p, i) => ({ p, i }))
      .sort((a, b) => (by(a.p) < by(b.p) ? -sign : by(a.p) > by(b.p) ? sign : a.i - b.i))
      .map(({ p }) => p)
    const limit = query.limit ?? 0
    const more = limit > 0 && found.length > limit
    return { kvs: (more ? found.slice(0, limit) : found).map((p) => this.kv(p, query.keysOnly)), more, count }
  }

  private compare(c: Compare): boolean {
    const found = this.select(this.states[this.revision] as Map<string, NaiveKey>, c)
    if (found.length === 0) return c.target !== 'value' && this.holds(c, 0)
    return found.every(([, k]) => this.holds(c, k[c.target]))
  }

  private holds(c: Compare, actual: number | string): boolean {
    const operand = c.operand instanceof Uint8Array ? name(c.operand) : c.operand
    if (c.result === '=') return actual === operand
    if (c.result === '!=') return actual !== operand
    return c.result === '<' ? actual < operand : actual > operand
  }

  private readonly answered = new Map<string, unknown>()

  remembers(clientId: string, seq: number): boolean {
    return this.answered.has(`${clientId} ${seq}`)
  }

  /** As `txn`, once for each (clientId, seq). */
  txn(txn: Txn, session?: { clientId: string; seq: number }): unknown {
    if (!session) return this.run(txn)
    const name = `${session.clientId} ${session.seq}`
    if (this.answered.has(name)) return this.answered.get(name)
    const result = this.run(txn)
    if (typeof result !== 'string') this.answered.set(name, result)
    return result
  }

  /** The shape of `TxnResult`, or an error's code. Assumes that no key is touched twice. */
  private run(txn: Txn): unknown {
    const next = new Map([...(this.states[this.revision] as Map<string, NaiveKey>)].map(([k, v]) => [k, { ...v }]))
    let wrote = false
    let failed: string | undefined
    const run = (t: Txn): { succeeded: boolean; replies: unknown[] } => {
      const succeeded = t.compare.every((c) => this.compare(c))
      const ops = succeeded ? t.success : t.failure
      return { succeeded, replies: ops.map((op) => one(op)) }
    }
    const one = (op: TxnOp): unknown => {
      if (op.type === 'txn') return { type: 'txn', ...run(op.txn) }
      if (op.type === 'range') {
        const result = this.range(op, next)
        if (typeof result === 'string') failed ??= result
        return { type: 'range', ...(result as object) }
      }
      if (op.type === 'put') {
        const key = name(op.key)
        const old = next.get(key)
        const lease = op.lease ?? 0
        if (lease !== 0 && !this.leases.has(lease)) failed ??= 'LEASE_NOT_FOUND'
        const prevKv = op.prevKv && old ? { prevKv: this.kv([key, old]) } : {}
        wrote = true
        const create = old?.create ?? this.revision + 1
        next.set(key, {
          value: name(op.value),
          create,
          mod: this.revision + 1,
          version: (old?.version ?? 0) + 1,
          lease,
        })
        return { type: 'put', ...prevKv }
      }
      const found = this.select(next, op)
      const prevKvs = op.prevKv ? found.map((p) => this.kv(p)) : []
      for (const [key] of found) next.delete(key)
      wrote ||= found.length > 0
      return { type: 'delete', deleted: found.length, prevKvs }
    }
    const result = run(txn)
    if (failed) return failed
    if (wrote) {
      this.revision++
      this.states.push(next)
    }
    return { revision: this.revision, ...result }
  }

  grant(id: number, ttlSeconds: number): string | undefined {
    if (this.leases.has(id)) return 'LEASE_EXISTS'
    this.leases.set(id, ttlSeconds)
    return undefined
  }

  revoke(id: number): string | undefined {
    if (!this.leases.delete(id)) return 'LEASE_NOT_FOUND'
    const next = new Map([...(this.states[this.revision] as Map<string, NaiveKey>)].filter(([, k]) => k.lease !== id))
    if (next.size < (this.states[this.revision] as Map<string, NaiveKey>).size) {
      this.revision++
      this.states.push(next)
    }
    return undefined
  }

  /** Ascending. */
  keysOf(lease: number): string[] {
    const present = this.states[this.revision] as Map<string, NaiveKey>
    return [...present].flatMap(([key, k]) => (k.lease === lease ? [key] : [])).sort()
  }

  compact(revision: number): string | undefined {
    if (revision <= this.compactRevision) return 'COMPACTED'
    if (revision > this.revision) return 'FUTURE_REVISION'
    this.compactRevision = revision
    return undefined
  }

  /** Differences of neighbouring states; 'COMPACTED' if that history is gone. */
  events(start: number, range: KeyRange): unknown {
    if (start < this.compactRevision) return 'COMPACTED'
    const all: { revision: number; key: string; type: string; value: string }[] = []
    for (let revision = Math.max(start, 2); revision <= this.revision; revision++) {
      const before = this.states[revision - 1] as Map<string, NaiveKey>
      const after = this.states[revision] as Map<string, NaiveKey>
      for (const key of [...new Set([...before.keys(), ...after.keys()])].sort()) {
        if (!this.inRange(range, key)) continue
        const now = after.get(key)
        if (now && now.mod === revision) all.push({ revision, key, type: 'put', value: now.value })
        else if (!now && before.has(key)) all.push({ revision, key, type: 'delete', value: '' })
      }
    }
    return all
  }
}
