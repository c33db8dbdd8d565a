import type { SeenKey } from '../../checkers/revision-order.js'
import type { WatchedEvent } from '../../checkers/watch-guarantees.js'
import type { Answer, Failure, StorePort, StoreTxn, StoreTxnDone, StoreWatchListener } from '../ports.js'
import type { Virtual } from './virtual.js'

/** What a store may do wrong: each is what a checker must find. */
export type StoreBug =
  | 'lost-write'
  | 'stale-read'
  | 'compare-ignored'
  | 'applied-twice'
  | 'refused-but-done'
  | 'watch-gap'
  | 'watch-twice'
  /** Nothing is violated: after ten seconds watches say nothing more. */
  | 'watch-silent'
  | 'unequal-state'
  | 'lease-early'
  | 'lease-for-ever'

interface Kv {
  value: string
  createRevision: number
  modRevision: number
  version: number
  lease: number
}

const MEMBERS = ['m0', 'm1', 'm2']

/** A store of three faces in memory, linearizable but for its bug; the answers of a face that is `down` get lost. */
export class FakeStore {
  readonly down = new Set<string>()
  private revision = 10
  private readonly keys = new Map<string, Kv>()
  private readonly leases = new Map<number, { ttlMs: number; endsMs: number }>()
  private readonly events: WatchedEvent[] = []
  private readonly watches = new Set<{ member: string; send(events: WatchedEvent[]): void; lose(): void }>()
  private nextLease = 1000
  /** Of the moment 300 ms ago: what a stale read shows. */
  private past = new Map<string, Kv>()

  constructor(
    private readonly virtual: Virtual,
    private readonly bug?: StoreBug,
  ) {
    const tick = () => {
      this.expire()
      virtual.simulation.at(virtual.simulation.nowMs + 100, tick)
    }
    virtual.simulation.at(0, tick)
    const remember = () => {
      this.past = new Map(this.keys)
      virtual.simulation.at(virtual.simulation.nowMs + 300, remember)
    }
    virtual.simulation.at(0, remember)
  }

  get ports(): { member: string; open(): StorePort }[] {
    return MEMBERS.map((member) => ({ member, open: () => this.port(member) }))
  }

  /** Ends every watch, as a server does that stops. */
  loseWatches(): void {
    for (const watch of [...this.watches]) watch.lose()
  }

  private get isSilent(): boolean {
    return this.bug === 'watch-silent' && this.nowMs > 10_000
  }

  private get chance(): number {
    return this.virtual.simulation.random.next()
  }

  private get nowMs(): number {
    return this.virtual.simulation.nowMs
  }

  /** There and back; in between it happens. */
  private async ask<T>(member: string, happens: () => T | Failure): Promise<Answer<T>> {
    const { simulation } = this.virtual
    const { random } = simulation
    await simulation.sleep(random.between(0.5, 4))
    if (this.down.has(member) && random.chance(0.5)) return { ...LOST, outcome: 'not-applied' }
    const value = happens()
    await simulation.sleep(random.between(0.5, 4))
    if (this.down.has(member)) return LOST
    return isFailure(value) ? value : { ok: true, value }
  }

  private port(member: string): StorePort {
    return {
      member,
      range: (from, to) =>
        this.ask(member, () => {
          const isStale = this.bug === 'stale-read' && this.chance < 0.05
          return { revision: this.revision, keys: this.range(isStale ? this.past : this.keys, from, to) }
        }),
      txn: (txn) => this.ask(member, () => this.txn(txn)),
      leaseGrant: (ttlSeconds) =>
        this.ask(member, () => {
          const id = this.nextLease++
          this.leases.set(id, { ttlMs: ttlSeconds * 1000, endsMs: this.nowMs + ttlSeconds * 1000 })
          return { id, ttlSeconds, revision: this.revision }
        }),
      leaseKeepAlive: (id) =>
        this.ask(member, () => {
          const lease = this.leases.get(id)
          if (lease) lease.endsMs = this.nowMs + lease.ttlMs
          return { ttlSeconds: lease ? lease.ttlMs / 1000 : 0, revision: this.revision }
        }),
      leaseTimeToLive: (id) =>
        this.ask(member, () => {
          const lease = this.leases.get(id)
          const left = lease ? Math.max(0, Math.round((lease.endsMs - this.nowMs) / 1000)) : -1
          return { ttlSeconds: left, revision: this.revision }
        }),
      leaseRevoke: (id) =>
        this.ask(member, () => {
          this.end(id)
          return { revision: this.revision }
        }),
      hashKv: (revision) =>
        this.ask(member, () => ({
          hash: this.bug === 'unequal-state' && member === 'm1' ? 2 : 1,
          compactRevision: 3,
          revision,
        })),
      watch: (from, to, startRevision, listener) => this.watch(member, from, to, startRevision, listener),
      close: () => undefined,
    }
  }

  private range(keys: ReadonlyMap<string, Kv>, from: string, to?: string): SeenKey[] {
    return [...keys]
      .filter(([key]) => (to === undefined ? key === from : key >= from && key < to))
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, { value, modRevision, createRevision, version }]) => ({
        key,
        value,
        modRevision,
        createRevision,
        version,
      }))
  }

  private txn({ compare, ops }: StoreTxn): StoreTxnDone | Failure {
    const holds = compare.every(({ key, modRevision }) => (this.keys.get(key)?.modRevision ?? 0) === modRevision)
    const ignores = this.bug === 'compare-ignored' && this.chance < 0.2
    if (!holds && !ignores) return { revision: this.revision, succeeded: false, deleted: [] }
    if (this.bug === 'lost-write' && this.chance < 0.02)
      return { revision: this.revision + 1, succeeded: true, deleted: ops.map(() => 1) }
    const [first] = ops
    if (first && 'put' in first && first.lease !== undefined && !this.leases.has(first.lease))
      return { ...LOST, outcome: 'not-applied', answered: true, code: '5', text: 'no such lease' }
    const deleted = this.apply(ops)
    const { revision } = this
    if (this.bug === 'applied-twice' && this.chance < 0.05) this.apply(ops)
    if (this.bug === 'refused-but-done' && this.chance < 0.05) return { ...LOST, outcome: 'not-applied' }
    return { revision, succeeded: true, deleted }
  }

  private apply(ops: StoreTxn['ops']): number[] {
    const at = this.revision + 1
    const events: WatchedEvent[] = []
    const deleted = ops.map((op) => {
      if ('put' in op) {
        const before = this.keys.get(op.put)
        const kv: Kv = {
          value: op.value,
          createRevision: before?.createRevision ?? at,
          modRevision: at,
          version: (before?.version ?? 0) + 1,
          lease: op.lease ?? 0,
        }
        this.keys.set(op.put, kv)
        events.push(eventOf('put', op.put, kv, at, before))
        return 0
      }
      const gone = this.range(this.keys, op.delete, op.to)
      for (const { key } of gone) {
        const before = this.keys.get(key)
        this.keys.delete(key)
        events.push(eventOf('delete', key, undefined, at, before))
      }
      return gone.length
    })
    if (events.length === 0) return deleted
    this.revision = at
    this.events.push(...events)
    for (const watch of this.watches) watch.send(events)
    return deleted
  }

  private expire(): void {
    for (const [id, lease] of this.leases) {
      const endsMs = this.bug === 'lease-early' ? lease.endsMs - lease.ttlMs / 2 : lease.endsMs
      if (this.bug !== 'lease-for-ever' && endsMs <= this.nowMs) this.end(id)
    }
  }

  private end(id: number): void {
    if (!this.leases.delete(id)) return
    const own = [...this.keys].filter(([, kv]) => kv.lease === id)
    if (own.length > 0) this.apply(own.map(([key]) => ({ delete: key })))
  }

  private watch(member: string, from: string, to: string, start: number, listener: StoreWatchListener): () => void {
    const { simulation } = this.virtual
    const { random } = simulation
    let ended = false
    const end = (reason: string) => {
      if (ended) return
      ended = true
      this.watches.delete(watch)
      simulation.at(simulation.nowMs, () => listener.end({ reason }))
    }
    const send = (events: WatchedEvent[]) => {
      const own = events.filter(({ key }) => key >= from && key < to)
      if (own.length === 0 || (this.bug === 'watch-gap' && random.chance(0.02))) return
      const revision = own[0]?.revision ?? 0
      const times = this.bug === 'watch-twice' && random.chance(0.02) ? 2 : 1
      const deliver = () => {
        for (let n = 0; n < times && !ended && !this.isSilent; n++) listener.message(revision, own)
      }
      // In order: all take the same time.
      simulation.at(simulation.nowMs + 5, deliver)
    }
    const watch = { member, send, lose: () => end('lost') }
    const byRevision = new Map<number, WatchedEvent[]>()
    for (const event of this.events)
      if (event.revision >= start) byRevision.set(event.revision, [...(byRevision.get(event.revision) ?? []), event])
    for (const events of byRevision.values()) send(events)
    this.watches.add(watch)
    const progress = () => {
      if (ended) return
      const { revision } = this
      simulation.at(simulation.nowMs + 5, () => !ended && !this.isSilent && listener.message(revision, []))
      simulation.at(simulation.nowMs + 1000, progress)
    }
    progress()
    return () => end('stopped')
  }
}

const LOST: Failure = { ok: false, outcome: 'unknown', answered: false, code: '14', text: 'Connection dropped' }
const isFailure = (value: unknown): value is Failure =>
  typeof value === 'object' && value !== null && 'ok' in value && value.ok === false

function eventOf(type: 'put' | 'delete', key: string, kv: Kv | undefined, revision: number, before?: Kv): WatchedEvent {
  return {
    type,
    key,
    value: kv?.value ?? '',
    revision,
    createRevision: kv?.createRevision ?? 0,
    version: kv?.version ?? 0,
    ...(before
      ? {
          prevKv: {
            value: before.value,
            revision: before.modRevision,
            createRevision: before.createRevision,
            version: before.version,
          },
        }
      : {}),
  }
}
