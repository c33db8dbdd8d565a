/**
 * What happens to the frames of one direction of one link on their way through user space: held back, put out of order,
 * doubled, damaged, lost, slowed. Pure: frames, time and chance come in.
 */
export interface WireRule {
  /** Every frame is held for so long. */
  delayMs: number
  /** And for up to so much longer, by chance; frames overtake each other. */
  jitterMs: number
  /** Shares from 0 to 1. A frame that is put out of order is held for `REORDER_MS` more than the others. */
  reorder: number
  duplicate: number
  /** One bit beyond the frame's header is turned; the receiver's checksum finds it, as on a real wire. */
  corrupt: number
  loss: number
  /** What it carries; what waits longer than `QUEUE_MS_MAX` is lost. 0: as much as comes. */
  bytesPerSecond: number
}

export const PLAIN: Readonly<WireRule> = {
  delayMs: 0,
  jitterMs: 0,
  reorder: 0,
  duplicate: 0,
  corrupt: 0,
  loss: 0,
  bytesPerSecond: 0,
}

/** Enough for three frames of a busy connection to overtake. */
export const REORDER_MS = 5
export const QUEUE_MS_MAX = 500
/** Source and target address and type: what a switch reads. */
const HEADER_BYTES = 14

/** Since the rule was set. */
export interface WireCounts {
  frames: number
  /** Sum of the time that frames were meant to be held. */
  heldMs: number
  lost: number
  doubled: number
  damaged: number
  reordered: number
  /** Lost because the queue before a narrow link was full. */
  overflowed: number
}

export const noCounts = (): WireCounts => ({
  frames: 0,
  heldMs: 0,
  lost: 0,
  doubled: 0,
  damaged: 0,
  reordered: 0,
  overflowed: 0,
})

/** Several faults on one link: delays add up, chances are independent, the narrowest counts. */
export function combine(rules: readonly Partial<WireRule>[]): WireRule {
  const all: WireRule = { ...PLAIN }
  const either = (a: number, b: number) => 1 - (1 - a) * (1 - b)
  for (const rule of rules) {
    all.delayMs += rule.delayMs ?? 0
    all.jitterMs += rule.jitterMs ?? 0
    for (const share of ['reorder', 'duplicate', 'corrupt', 'loss'] as const)
      all[share] = either(all[share], rule[share] ?? 0)
    const width = rule.bytesPerSecond ?? 0
    if (width > 0) all.bytesPerSecond = all.bytesPerSecond > 0 ? Math.min(all.bytesPerSecond, width) : width
  }
  return all
}

export class WireLink {
  readonly counts = noCounts()
  /** When the last byte that was accepted will have left. */
  private freeAtMs = 0

  constructor(
    readonly rule: WireRule,
    /** From 0 up to 1. */
    private readonly chance: () => number,
  ) {}

  /** When which bytes leave again: nothing, one frame or two. */
  accept(frame: Uint8Array, nowMs: number): { atMs: number; frame: Uint8Array }[] {
    const { rule, counts, chance } = this
    counts.frames++
    if (happens(rule.loss, chance)) {
      counts.lost++
      return []
    }
    let atMs = nowMs
    if (rule.bytesPerSecond > 0) {
      const begin = Math.max(nowMs, this.freeAtMs)
      if (begin - nowMs > QUEUE_MS_MAX) {
        counts.overflowed++
        return []
      }
      this.freeAtMs = begin + (frame.length * 1000) / rule.bytesPerSecond
      atMs = this.freeAtMs
    }
    atMs += rule.delayMs
    if (rule.jitterMs > 0) atMs += rule.jitterMs * chance()
    if (happens(rule.reorder, chance)) {
      counts.reordered++
      atMs += REORDER_MS
    }
    counts.heldMs += atMs - nowMs
    let sent = frame
    if (frame.length > HEADER_BYTES && happens(rule.corrupt, chance)) {
      counts.damaged++
      sent = Uint8Array.from(frame)
      const bit = Math.floor(chance() * (frame.length - HEADER_BYTES) * 8)
      const at = HEADER_BYTES + (bit >> 3)
      sent[at] = (sent[at] as number) ^ (1 << (bit & 7))
    }
    if (!happens(rule.duplicate, chance)) return [{ atMs, frame: sent }]
    counts.doubled++
    return [
      { atMs, frame: sent },
      { atMs, frame: sent },
    ]
  }
}

const happens = (share: number, chance: () => number) => share > 0 && chance() < share

/** What waits, by time; frames of one time leave in the order in which they came. A binary heap. */
export class Departures<T> {
  private readonly heap: { atMs: number; order: number; what: T }[] = []
  private order = 0

  get size(): number {
    return this.heap.length
  }

  get nextMs(): number | undefined {
    return this.heap[0]?.atMs
  }

  add(atMs: number, what: T): void {
    const { heap } = this
    const entry = { atMs, order: this.order++, what }
    let i = heap.push(entry) - 1
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!before(entry, heap[parent] as typeof entry)) break
      heap[i] = heap[parent] as typeof entry
      i = parent
    }
    heap[i] = entry
  }

  /** The first that is due; undefined: nothing is. */
  take(nowMs: number): T | undefined {
    const { heap } = this
    const first = heap[0]
    if (first === undefined || first.atMs > nowMs) return undefined
    const last = heap.pop() as typeof first
    if (heap.length > 0) {
      let i = 0
      for (;;) {
        let child = 2 * i + 1
        if (child >= heap.length) break
        if (child + 1 < heap.length && before(heap[child + 1] as typeof first, heap[child] as typeof first)) child++
        if (!before(heap[child] as typeof first, last)) break
        heap[i] = heap[child] as typeof first
        i = child
      }
      heap[i] = last
    }
    return first.what
  }
}

const before = (a: { atMs: number; order: number }, b: { atMs: number; order: number }) =>
  a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)

/** Frames in a stream of bytes, each behind its length in two bytes, big-endian. */
export class FrameReader {
  private rest: Buffer = Buffer.alloc(0)

  read(bytes: Buffer): Buffer[] {
    const frames: Buffer[] = []
    const all = this.rest.length > 0 ? Buffer.concat([this.rest, bytes]) : bytes
    let at = 0
    while (all.length - at >= 2) {
      const length = all.readUInt16BE(at)
      if (all.length - at - 2 < length) break
      frames.push(all.subarray(at + 2, at + 2 + length))
      at += 2 + length
    }
    this.rest = Buffer.from(all.subarray(at))
    return frames
  }
}

/** Which link a frame is on: its first twelve bytes, target before source. */
export const linkOfFrame = (frame: Buffer): string => frame.toString('hex', 0, 12)
export const linkOfMacs = (from: string, to: string): string => (to + from).replace(/:/g, '')
