import { CallError, Caller } from '@capstan/actor'
import type { RangeReply, StoreHeader, StoreVerb, Subjects, TxnOp, TxnReply } from '@capstan/protocol'
import type { SimRandom, SimWorld } from '@capstan/sim'
import type { SeenKey } from '../../checkers/revision-order.js'
import type { Records } from './records.js'

export const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)
export const bytes = (value: string) => new TextEncoder().encode(value)

const TIMEOUT_MS = 4000

export type Answer<T> = { ok: true; reply: T } | { ok: false; outcome: 'not-applied' | 'unknown'; code: string }

/** What a client wants written. Values of puts are unique in the run. */
export interface Write {
  what: string
  /** Mod revisions that must hold; 0: the key is not there. */
  compare?: { key: string; modRevision: number }[]
  /** The key must have been created at this revision. */
  created?: { key: string; revision: number }
  ops: ({ put: string; value: string; lease?: number } | { delete: string })[]
}

export type WriteAnswer =
  | { outcome: 'written' | 'unchanged'; revision: number }
  | { outcome: 'not-applied' | 'unknown' }

/** A client of the store, one request after another, which notes all that it is told. */
export class StoreClient {
  readonly name: string
  lastError = ''
  private readonly caller: Caller
  private seq = 0

  constructor(
    readonly world: SimWorld,
    readonly machine: string,
    private readonly subjects: Subjects,
    private readonly members: () => readonly string[],
    private readonly records: Records,
    private readonly random: SimRandom,
    private readonly nowMs: () => number,
  ) {
    this.name = machine
    this.caller = new Caller(world)
  }

  /** Asks one member, once. */
  async ask<T extends { header: StoreHeader }>(
    verb: StoreVerb,
    body: unknown,
    options: { member?: string; timeoutMs?: number } = {},
  ): Promise<Answer<T>> {
    const member = options.member ?? this.random.pick(this.members())
    this.records.operations++
    try {
      const reply = (await this.caller.call(this.subjects.store(member, this.world.bus.identity, verb), body, {
        timeoutMs: options.timeoutMs ?? TIMEOUT_MS,
      })) as T
      this.records.saw(reply.header.revision)
      return { ok: true, reply }
    } catch (error) {
      this.lastError = String(error)
      const { outcome, code } = error instanceof CallError ? error : { outcome: 'maybe-applied', code: 'BUG' }
      if (outcome !== 'not-applied') this.records.unknown++
      return { ok: false, outcome: outcome === 'not-applied' ? 'not-applied' : 'unknown', code }
    }
  }

  /** A linearizable read of `[from, to)`, or of the one key. */
  async read(from: string, to?: string, member?: string): Promise<{ keys: SeenKey[]; revision: number } | undefined> {
    const invokedMs = this.nowMs()
    const body = { key: bytes(from), ...(to === undefined ? {} : { rangeEnd: bytes(to) }) }
    const answer = await this.ask<RangeReply>('range', body, member === undefined ? {} : { member })
    if (!answer.ok) return undefined
    const { kvs, header, count, more } = answer.reply
    if (count !== kvs.length || more)
      this.records.absurd.push(`a read of ${from}..${to ?? ''} gives ${kvs.length} keys and counts ${count}`)
    const keys = kvs.map((kv) => ({
      key: text(kv.key),
      value: text(kv.value),
      modRevision: kv.modRevision,
      createRevision: kv.createRevision,
      version: kv.version,
    }))
    this.records.placed.push({
      client: this.name,
      what: `read of ${from}${to === undefined ? '' : `..${to}`}`,
      invokedMs,
      returnedMs: this.nowMs(),
      revision: header.revision,
      wrote: false,
      read: { from, ...(to === undefined ? {} : { to }), keys },
    })
    return { keys, revision: header.revision }
  }

  /** One transaction. What may have happened is asked again now and then, as the same proposal of the same session. */
  async write(write: Write, options: { member?: string; repeat?: boolean } = {}): Promise<WriteAnswer> {
    const invokedMs = this.nowMs()
    const { compare = [], created } = write
    const hasSession = options.repeat ?? this.random.chance(0.6)
    const body = {
      compare: [
        ...compare.map(({ key, modRevision }) => ({
          key: bytes(key),
          target: 'mod',
          result: '=',
          operand: modRevision,
        })),
        ...(created ? [{ key: bytes(created.key), target: 'create', result: '=', operand: created.revision }] : []),
      ],
      success: write.ops.map(
        (op): TxnOp =>
          'put' in op
            ? { type: 'put', key: bytes(op.put), value: bytes(op.value), ...(op.lease ? { lease: op.lease } : {}) }
            : { type: 'delete', key: bytes(op.delete) },
      ),
      failure: [],
      // Without a session nothing hides that an entry was applied twice; such a request is not asked again.
      ...(hasSession ? { session: { clientId: this.name, seq: ++this.seq } } : {}),
    }
    let answer = await this.ask<TxnReply>('txn', body, options)
    // Whatever a repetition is told: the first one may have happened.
    let unknown = !answer.ok && answer.outcome === 'unknown'
    for (let n = 0; n < 3 && hasSession && unknown && !answer.ok && (options.repeat ?? this.random.chance(0.5)); n++) {
      answer = await this.ask<TxnReply>('txn', body)
      unknown ||= !answer.ok && answer.outcome === 'unknown'
    }
    const told = answer.ok
      ? this.toldBy(write, answer.reply, invokedMs)
      : { outcome: unknown ? ('unknown' as const) : ('not-applied' as const) }
    if (!answer.ok)
      for (const op of write.ops)
        this.records.writes.push({
          client: this.name,
          key: 'put' in op ? op.put : op.delete,
          value: 'put' in op ? op.value : undefined,
          told: { type: unknown ? 'unknown' : 'not-applied' },
        })
    return told
  }

  private toldBy(write: Write, reply: TxnReply, invokedMs: number): WriteAnswer {
    const { revision } = reply.header
    const changed = write.ops.map((op, at) => {
      const done = reply.replies[at]
      return reply.succeeded && ('put' in op || (done?.type === 'delete' && done.deleted > 0))
    })
    const wrote = changed.includes(true)
    write.ops.forEach((op, at) =>
      this.records.writes.push({
        client: this.name,
        key: 'put' in op ? op.put : op.delete,
        value: 'put' in op ? op.value : undefined,
        told: changed[at] ? { type: 'written', revision } : { type: 'not-applied' },
      }),
    )
    const { compare } = write
    this.records.placed.push({
      client: this.name,
      what: write.what,
      invokedMs,
      returnedMs: this.nowMs(),
      revision,
      wrote,
      // Without its own comparisons it says nothing of the state; one that deletes nothing answers from a later state.
      ...(compare && !write.created ? { compared: { keys: compare, held: reply.succeeded } } : {}),
    })
    return { outcome: wrote ? 'written' : 'unchanged', revision }
  }
}
