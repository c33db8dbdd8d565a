import { type Bus, BusError, decode, encode, type Log, type Subscription } from '@capstan/actor'
import { decodeToken, encodeToken, Subjects } from '@capstan/protocol'
import type { LogEntry } from 'raft-ts'
import { decodeEntries, encodeEntries } from './entry-codec.js'

/** Since 2 the entries of appends travel as one block. */
const VERSION = 2
/** Room for the frame around a piece. */
const PIECE_MARGIN_BYTES = 512
const FRAME_BYTES_MAX = 64 * 1024 * 1024

export interface RaftFrame {
  from: string
  /** Drawn when the sender's directory was made: one that forgot everything comes back under another. */
  incarnation: string
  /** `existing`: its directory was made in place of a lost one, and it knows that. */
  origin: string
  messages: unknown[]
}

/**
 * Carries raft messages between members: one frame for all messages of one turn to one member, in pieces if it is too
 * large for the bus. Loses what the bus loses: raft sends again.
 */
export class RaftLink {
  private readonly subjects: Subjects
  private readonly subscriptions: Subscription[]
  private readonly partial = new Map<string, { key: number; pieces: Uint8Array[]; bytes: number }>()
  private nextKey = 1
  /** What the last append carried: mostly the next one, to another member, carries the same. */
  private block: { entries: readonly LogEntry[]; bytes: Uint8Array } | undefined
  /** As many as there ever were members. */
  private readonly subjectByMember = new Map<string, string>()

  constructor(
    private readonly bus: Bus,
    private readonly log: Log,
    private readonly self: { cluster: string; clusterId: string; member: string; incarnation: string; origin: string },
    private readonly receive: (frame: RaftFrame) => void,
    /** The bus says that nobody listens for this member: its process, or its whole machine, is gone. */
    private readonly unreachable: (member: string) => void,
    /** See `StoreWorld.busBeside`. */
    private readonly busBeside?: (member: string) => Bus | undefined,
  ) {
    this.subjects = new Subjects(self.cluster)
    this.subscriptions = [
      bus.subscribe(this.subjects.raftTo(self.member), (message) => this.take(message.subject, message.payload)),
      bus.subscribe(`${bus.inbox}.probe.*`, ({ subject, noResponders }) => {
        if (noResponders) this.unreachable(decodeToken(subject.slice(subject.lastIndexOf('.') + 1)))
      }),
    ]
  }

  /** Asks the bus whether a member is still connected; only a "no" is told (`unreachable`). The member itself notices nothing. */
  probe(to: string): void {
    const { bus, self } = this
    try {
      bus.publish(
        this.subjects.raft(self.member, to),
        encode([VERSION, self.clusterId, self.incarnation, self.origin, []]),
        { replyTo: `${bus.inbox}.probe.${encodeToken(to)}` },
      )
    } catch (error) {
      if (!(error instanceof BusError)) throw error
      // Without a connection of its own nobody can say who else has one.
    }
  }

  send(to: string, messages: readonly unknown[]): void {
    const subject = this.subjectTo(to)
    const beside = this.busBeside?.(to)
    const bus = beside?.connected ? beside : this.bus
    try {
      const frame = encode([
        VERSION,
        this.self.clusterId,
        this.self.incarnation,
        this.self.origin,
        messages.map((one) => this.packed(one)),
      ])
      if (frame.length <= bus.payloadBytesMax) return bus.publish(subject, frame)
      const pieceBytes = bus.payloadBytesMax - PIECE_MARGIN_BYTES
      const count = Math.ceil(frame.length / pieceBytes)
      const key = this.nextKey++
      for (let at = 0; at < count; at++)
        bus.publish(
          subject,
          encode([VERSION, 'piece', key, at, count, frame.subarray(at * pieceBytes, (at + 1) * pieceBytes)]),
        )
    } catch (error) {
      if (!(error instanceof BusError)) throw error
      this.log.debug({ err: error, to }, 'raft messages not sent')
    }
  }

  private subjectTo(to: string): string {
    let subject = this.subjectByMember.get(to)
    if (subject === undefined) this.subjectByMember.set(to, (subject = this.subjects.raft(this.self.member, to)))
    return subject
  }

  close(): void {
    for (const subscription of this.subscriptions) subscription.unsubscribe()
  }

  private packed(message: unknown): unknown {
    const { entries } = message as { entries?: readonly LogEntry[] }
    if (!entries || entries.length === 0) return message
    if (!this.block || !sameEntries(this.block.entries, entries))
      this.block = { entries, bytes: encodeEntries(entries) }
    return { ...(message as object), entries: this.block.bytes }
  }

  private take(subject: string, payload: Uint8Array): void {
    try {
      // `…store.raft.<from>.<to>`: the bus vouches for the sender's token.
      const tokens = subject.split('.')
      const from = decodeToken(tokens[tokens.length - 2] as string)
      const frame = this.whole(from, payload)
      if (!frame) return
      const [version, clusterId, incarnation, origin, messages] = frame
      if (
        version !== VERSION ||
        typeof incarnation !== 'string' ||
        typeof origin !== 'string' ||
        !Array.isArray(messages)
      )
        throw new Error('not a raft frame of this version')
      if (clusterId !== this.self.clusterId) throw new Error(`it belongs to cluster ${String(clusterId)}`)
      this.receive({ from, incarnation, origin, messages: messages.map(unpacked) })
    } catch (error) {
      this.log.warn({ err: error, subject, bytes: payload.length }, 'refused a raft frame')
    }
  }

  private whole(from: string, payload: Uint8Array): unknown[] | undefined {
    const frame = decode(payload)
    if (!Array.isArray(frame)) throw new Error('not a raft frame')
    if (frame[1] !== 'piece') return frame
    const [, , key, at, count, bytes] = frame as [number, string, number, number, number, Uint8Array]
    if (!(bytes instanceof Uint8Array)) throw new Error('a piece without bytes')
    // One large frame at a time from each member; pieces come in order or the frame is lost.
    const open = at === 0 ? { key, pieces: [], bytes: 0 } : this.partial.get(from)
    if (!open || open.key !== key || open.pieces.length !== at || open.bytes + bytes.length > FRAME_BYTES_MAX) {
      this.partial.delete(from)
      return undefined
    }
    open.pieces.push(bytes)
    open.bytes += bytes.length
    this.partial.set(from, open)
    if (open.pieces.length < count) return undefined
    this.partial.delete(from)
    const all = new Uint8Array(open.bytes)
    let offset = 0
    for (const piece of open.pieces) {
      all.set(piece, offset)
      offset += piece.length
    }
    return decode(all) as unknown[]
  }
}

function unpacked(message: unknown): unknown {
  const { entries } = (message ?? {}) as { entries?: unknown }
  return entries instanceof Uint8Array ? { ...(message as object), entries: decodeEntries(entries) } : message
}

/** Entries are never changed, and follow each other: the ends tell. */
function sameEntries(a: readonly LogEntry[], b: readonly LogEntry[]): boolean {
  return a.length === b.length && a[0] === b[0] && a[a.length - 1] === b[b.length - 1]
}
