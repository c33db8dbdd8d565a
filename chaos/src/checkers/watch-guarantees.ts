import type { HistoryEvent, TrueHistory } from './history.js'

/** An event as one stream brought it. */
export interface WatchedEvent {
  type: 'put' | 'delete'
  key: string
  value: string
  revision: number
  createRevision: number
  version: number
  prevKv?: { value: string; revision: number; createRevision: number; version: number }
}

/** One stream of a watch from its opening to its end; a reader that resumes has several. */
export interface WatchStream {
  reader: string
  from: string
  /** Missing: the one key. */
  to?: string
  noPut: boolean
  noDelete: boolean
  prevKv: boolean
  startRevision: number
  /**
   * In the order in which they came. A `beat` brings no events: it says up to where the reader has everything. `compacted`: below
   * it history may have been gone when the message came; missing: below what the checker is told.
   */
  messages: {
    kind: 'data' | 'beat'
    prevRevision: number
    revision: number
    events: WatchedEvent[]
    compacted?: number
  }[]
  /** Why it ended, and what it said of compaction. */
  ended?: { reason: string; compactRevision?: number }
}

export const WATCH_GUARANTEES = [
  'filter',
  'ordered',
  'unique',
  'atomic',
  'reliable',
  'bookmarkable',
  'resumable',
  'prevKv',
  'isCreate',
] as const
export type WatchGuarantee = (typeof WATCH_GUARANTEES)[number]

export interface WatchBreach {
  guarantee: WatchGuarantee
  text: string
}

/**
 * The nine guarantees that etcd states of watches, each by itself, of one stream against all that happened. `compacted`: the
 * highest revision below which history may be gone; what was before it need not be told as `prevKv`.
 */
export function checkWatchGuarantees(stream: WatchStream, history: TrueHistory, compacted: number): WatchBreach[] {
  const breaches: WatchBreach[] = []
  const breach = (guarantee: WatchGuarantee, text: string) =>
    breaches.push({ guarantee, text: `${stream.reader} (from revision ${stream.startRevision}): ${text}` })
  const due = history.events.filter((e) => e.revision >= stream.startRevision && isWanted(stream, e))
  const got = stream.messages.flatMap((m) => m.events)
  checkFilter(stream, history, breach)
  checkOrder(got, breach)
  checkAtomic(stream, due, breach)
  checkGaps(stream, due, breach)
  checkBookmarks(stream, due, breach)
  checkKvs(stream, history, compacted, breach)
  const { ended } = stream
  if (ended?.reason === 'compacted') {
    const next = stream.messages.at(-1)?.revision ?? stream.startRevision - 1
    if (ended.compactRevision !== undefined && ended.compactRevision > compacted)
      breach('resumable', `ended as compacted at ${ended.compactRevision}; nobody compacts beyond ${compacted}`)
    if (ended.compactRevision !== undefined && next + 1 > ended.compactRevision)
      breach('resumable', `ended as compacted at ${ended.compactRevision}; it had everything up to ${next}`)
  }
  return breaches
}

type Breach = (guarantee: WatchGuarantee, text: string) => void

const show = (e: WatchedEvent | HistoryEvent) => `${e.type} ${e.key}@${e.revision}`

function isWanted(stream: WatchStream, event: { key: string; type: string }): boolean {
  const inside = stream.to === undefined ? event.key === stream.from : event.key >= stream.from && event.key < stream.to
  return inside && !(event.type === 'put' ? stream.noPut : stream.noDelete)
}

/** Filter: only events of the range that was asked for, and of the kinds; and only such as happened. */
function checkFilter(stream: WatchStream, history: TrueHistory, breach: Breach): void {
  for (const event of stream.messages.flatMap((m) => m.events)) {
    if (!isWanted(stream, event)) breach('filter', `${show(event)} was not asked for`)
    const real = history.of(event.key).find((e) => e.revision === event.revision)
    if (!real || real.type !== event.type || (real.type === 'put' && real.value !== event.value))
      breach(
        'filter',
        `${show(event)} ${event.value} did not happen; there ${real ? `is ${show(real)} ${real.value}` : 'is nothing'}`,
      )
  }
}

/** Ordered: by revision. Unique: an event comes once. */
function checkOrder(got: readonly WatchedEvent[], breach: Breach): void {
  const seen = new Set<string>()
  let last = 0
  for (const event of got) {
    if (event.revision < last) breach('ordered', `${show(event)} came after revision ${last}`)
    last = Math.max(last, event.revision)
    const id = `${event.revision} ${event.key}`
    if (seen.has(id)) breach('unique', `${show(event)} came twice`)
    seen.add(id)
  }
}

/** Atomic: what one revision changed comes in one message, whole. */
function checkAtomic(stream: WatchStream, due: readonly HistoryEvent[], breach: Breach): void {
  const dueAt = new Map<number, number>()
  for (const { revision } of due) dueAt.set(revision, (dueAt.get(revision) ?? 0) + 1)
  for (const { events } of stream.messages) {
    const here = new Map<number, Set<string>>()
    for (const { revision, key } of events) here.set(revision, (here.get(revision) ?? new Set()).add(key))
    for (const [revision, keys] of here)
      if (keys.size < (dueAt.get(revision) ?? 0))
        breach('atomic', `a message has ${keys.size} of the ${dueAt.get(revision)} events of revision ${revision}`)
  }
}

/** Resumable: the first event is the first one due from the start revision on. Reliable: from there on none is left out. */
function checkGaps(stream: WatchStream, due: readonly HistoryEvent[], breach: Breach): void {
  const got = stream.messages.flatMap((m) => m.events)
  const early = got.find((e) => e.revision < stream.startRevision)
  if (early) breach('resumable', `${show(early)} was not asked for any more`)
  if (got.length === 0) return
  const first = Math.min(...got.map((e) => e.revision))
  const last = Math.max(...got.map((e) => e.revision))
  const seen = new Set(got.map((e) => `${e.revision} ${e.key}`))
  for (const event of due) {
    if (event.revision > last) break
    if (seen.has(`${event.revision} ${event.key}`)) continue
    if (event.revision < first) breach('resumable', `${show(event)} is missing; the first one is of revision ${first}`)
    else breach('reliable', `${show(event)} is missing; there are later ones`)
    return
  }
}

/** Bookmarkable: who is told that it has everything up to a revision has it, and gets nothing more of before it. */
function checkBookmarks(stream: WatchStream, due: readonly HistoryEvent[], breach: Breach): void {
  const seen = new Set<string>()
  let told = stream.startRevision - 1
  let next = 0
  for (const message of stream.messages) {
    if (message.kind === 'data' && message.prevRevision > told)
      breach('bookmarkable', `a message goes on from ${message.prevRevision}; the reader was told of ${told}`)
    for (const event of message.events) {
      seen.add(`${event.revision} ${event.key}`)
      if (event.revision <= told && event.revision >= stream.startRevision)
        breach('bookmarkable', `${show(event)} came after the word that everything up to ${told} had`)
    }
    if (message.kind === 'beat' && message.revision < told && message.revision >= stream.startRevision)
      breach('bookmarkable', `a beat says ${message.revision} after the word of ${told}`)
    told = Math.max(told, message.revision)
    for (; next < due.length && (due[next] as HistoryEvent).revision <= told; next++) {
      const event = due[next] as HistoryEvent
      if (seen.has(`${event.revision} ${event.key}`)) continue
      return breach('bookmarkable', `told that it has everything up to ${told}, it has no ${show(event)}`)
    }
  }
}

/** PrevKV: the state before the change. IsCreate: versions and create revisions tell new keys from old ones. */
function checkKvs(stream: WatchStream, history: TrueHistory, compacted: number, breach: Breach): void {
  const events = stream.messages.flatMap((m) => m.events.map((event) => ({ event, gone: m.compacted ?? compacted })))
  for (const { event, gone } of events) {
    const before = history.at(event.key, event.revision - 1)
    if (event.type === 'put') {
      const isCreate = event.version === 1 && event.createRevision === event.revision
      if (isCreate !== (before === undefined))
        breach('isCreate', `${show(event)} ${isCreate ? 'says' : 'does not say'} that it made the key`)
      const real = history.at(event.key, event.revision)
      if (real && (real.version !== event.version || real.createRevision !== event.createRevision))
        breach(
          'isCreate',
          `${show(event)} is version ${event.version} created at ${event.createRevision}, not version ${real.version} created at ${real.createRevision}`,
        )
    }
    const { prevKv } = event
    if (!stream.prevKv) {
      if (prevKv) breach('prevKv', `${show(event)} has one that nobody asked for`)
      continue
    }
    if (!prevKv && before && event.revision <= gone) continue
    const same = before
      ? prevKv?.revision === before.revision &&
        prevKv.value === before.value &&
        prevKv.version === before.version &&
        prevKv.createRevision === before.createRevision
      : prevKv === undefined
    if (!same)
      breach(
        'prevKv',
        `${show(event)} says that before it there was ${prevKv ? `${prevKv.value}@${prevKv.revision}` : 'nothing'}; it was ${before ? `${before.value}@${before.revision}` : 'nothing'}`,
      )
  }
}
