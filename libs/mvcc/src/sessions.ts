import { Packr } from 'msgpackr'
import { AFTER_SESSIONS, decodeSession, encodeSessionReply, FIRST_SESSION, sessionKey } from './record.js'
import type { EngineWrite, StateEngine } from './state-engine.js'
import { MvccError, type TxnResult } from './types.js'

/** A client's seqs further back than this from its highest are forgotten: so many may be outstanding at once. */
export const SESSION_WINDOW = 512
/** Clients remembered; the one whose last entry is oldest gives way. */
export const SESSIONS_MAX = 1024
/** Of a larger answer only revision and branch are remembered. */
const REPLY_BYTES_MAX = 1024
const CLIENT_ID_BYTES_MAX = 128

const packr = new Packr({ useRecords: false, copyBuffers: true, mapsAsObjects: true })

/** `replies` null: they were too large to keep. */
export type RememberedResult = Omit<TxnResult, 'replies'> & { replies: TxnResult['replies'] | null }

interface Session {
  maxSeq: number
  /** Rising insertion is not given (seqs may arrive out of order), so eviction goes by number. */
  replies: Map<number, { index: number; reply: Uint8Array }>
  lastIndex: number
}

/**
 * Makes a repeated proposal apply once: (clientId, seq) → what was answered. Part of the replicated state: which ones
 * are remembered is a function of the entries applied, and survives restart and snapshot.
 */
export class Sessions {
  /** In order of `lastIndex`: the first one is evicted first. */
  private readonly byClient = new Map<string, Session>()

  get size(): number {
    return this.byClient.size
  }

  load(engine: Pick<StateEngine, 'range'>): void {
    this.byClient.clear()
    const found = new Map<string, Session>()
    for (const [key, bytes] of engine.range(FIRST_SESSION, AFTER_SESSIONS)) {
      const { clientId, seq, index, reply } = decodeSession(key, bytes)
      let session = found.get(clientId)
      if (!session) found.set(clientId, (session = { maxSeq: 0, replies: new Map(), lastIndex: 0 }))
      session.maxSeq = Math.max(session.maxSeq, seq)
      session.lastIndex = Math.max(session.lastIndex, index)
      session.replies.set(seq, { index, reply })
    }
    // Two entries never share an index, so the order is total.
    for (const [clientId, session] of [...found].sort((a, b) => a[1].lastIndex - b[1].lastIndex))
      this.byClient.set(clientId, session)
  }

  /** The answer that (clientId, seq) got, if it was applied before.
   *  @throws MvccError SESSION_STALE: too long ago to know; BAD_REQUEST. */
  find(clientId: string, seq: number): RememberedResult | undefined {
    if (!Number.isSafeInteger(seq) || seq < 1)
      throw new MvccError('BAD_REQUEST', `session seq must be a positive integer, not ${seq}`)
    const session = this.byClient.get(clientKeyOf(clientId))
    if (!session) return undefined
    const known = session.replies.get(seq)
    if (known) return packr.unpack(known.reply) as RememberedResult
    if (seq <= session.maxSeq - SESSION_WINDOW)
      throw new MvccError(
        'SESSION_STALE',
        `seq ${seq} of ${clientId} is too old to know; the highest is ${session.maxSeq}`,
      )
    return undefined
  }

  remember(clientId: string, seq: number, index: number, result: TxnResult, batch: EngineWrite[]): void {
    const client = clientKeyOf(clientId)
    const session: Session = this.byClient.get(client) ?? { maxSeq: 0, replies: new Map(), lastIndex: 0 }
    // Newest last in the map's order.
    this.byClient.delete(client)
    this.byClient.set(client, session)
    let packed = isLarge(result) ? undefined : packr.pack(result)
    if (!packed || packed.length > REPLY_BYTES_MAX) packed = packr.pack({ ...result, replies: null })
    const reply = new Uint8Array(packed)
    session.lastIndex = index
    session.replies.set(seq, { index, reply })
    batch.push([sessionKey(client, seq), encodeSessionReply(index, reply)])
    if (seq > session.maxSeq) {
      const floorBefore = session.maxSeq - SESSION_WINDOW
      session.maxSeq = seq
      const floor = seq - SESSION_WINDOW
      if (floor - floorBefore < SESSION_WINDOW)
        for (let old = Math.max(1, floorBefore + 1); old <= floor; old++) forget(old)
      else for (const old of session.replies.keys()) if (old <= floor) forget(old)
    }
    if (this.byClient.size > SESSIONS_MAX) {
      const [oldest, { replies }] = this.byClient.entries().next().value as [string, Session]
      this.byClient.delete(oldest)
      for (const old of replies.keys()) batch.push([sessionKey(oldest, old), undefined])
    }

    function forget(old: number): void {
      if (session.replies.delete(old)) batch.push([sessionKey(client, old), undefined])
    }
  }

  /** For a planted bug. */
  forgetAll(batch: EngineWrite[]): void {
    for (const [client, { replies }] of this.byClient)
      for (const seq of replies.keys()) batch.push([sessionKey(client, seq), undefined])
    this.byClient.clear()
  }

  *dump(): Generator<string> {
    for (const client of [...this.byClient.keys()].sort()) {
      const { replies } = this.byClient.get(client) as Session
      for (const seq of [...replies.keys()].sort((a, b) => a - b)) {
        const { index, reply } = replies.get(seq) as { index: number; reply: Uint8Array }
        yield `session ${JSON.stringify(client)} ${seq} ${index} ${Buffer.from(reply).toString('hex')}`
      }
    }
  }
}

/** Is it too large to keep, without packing it? */
function isLarge({ replies }: Pick<TxnResult, 'replies'>): boolean {
  return replies.some((reply) => {
    if (reply.type === 'txn') return isLarge(reply)
    const kvs = reply.type === 'range' ? reply.kvs : reply.type === 'delete' ? reply.prevKvs : []
    let bytes = 0
    return kvs.some(({ key, value }) => (bytes += key.length + value.length) > REPLY_BYTES_MAX)
  })
}

/** The id as code units 0 to 255 (its UTF-8 bytes).
 *  @throws MvccError BAD_REQUEST */
function clientKeyOf(clientId: string): string {
  const bytes = Buffer.from(clientId, 'utf8')
  if (bytes.length < 1 || bytes.length > CLIENT_ID_BYTES_MAX)
    throw new MvccError('BAD_REQUEST', `clientId must have 1 to ${CLIENT_ID_BYTES_MAX} bytes, not ${bytes.length}`)
  return bytes.toString('latin1')
}
