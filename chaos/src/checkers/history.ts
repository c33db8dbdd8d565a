import type { SeenEvent } from './watch.js'

/** One change of the store, as its whole history tells it. Of a delete only revision and key mean something. */
export interface HistoryEvent extends SeenEvent {
  createRevision: number
  version: number
  lease: number
}

/** Present state of a key at some revision. */
export type KeyState = HistoryEvent & { type: 'put' }

/** All that ever happened in the store, in order; asked for the state at any revision. */
export class TrueHistory {
  private readonly byKey = new Map<string, HistoryEvent[]>()
  private sortedKeys: readonly string[] | undefined
  readonly lastRevision: number

  constructor(readonly events: readonly HistoryEvent[]) {
    for (const event of events) {
      const list = this.byKey.get(event.key)
      if (list) list.push(event)
      else this.byKey.set(event.key, [event])
    }
    this.lastRevision = events[events.length - 1]?.revision ?? 1
  }

  /** Keys that ever were, sorted. */
  keys(): readonly string[] {
    this.sortedKeys ??= [...this.byKey.keys()].sort()
    return this.sortedKeys
  }

  /** The key's state as of a revision; undefined: it is not there. */
  at(key: string, revision: number): KeyState | undefined {
    const event = this.lastBefore(key, revision + 1)
    return event?.type === 'put' ? (event as KeyState) : undefined
  }

  /** Keys of `[from, to)` (`to` missing: the one key) as of a revision, sorted. */
  range(from: string, to: string | undefined, revision: number): KeyState[] {
    if (to === undefined) {
      const state = this.at(from, revision)
      return state ? [state] : []
    }
    const keys = this.keys()
    const states: KeyState[] = []
    for (let at = firstNotBelow(keys, from); at < keys.length && (keys[at] as string) < to; at++) {
      const state = this.at(keys[at] as string, revision)
      if (state) states.push(state)
    }
    return states
  }

  /** Changes of one key, oldest first. */
  of(key: string): readonly HistoryEvent[] {
    return this.byKey.get(key) ?? []
  }

  private lastBefore(key: string, revision: number): HistoryEvent | undefined {
    const list = this.byKey.get(key) ?? []
    let [low, high] = [0, list.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((list[middle] as HistoryEvent).revision < revision) low = middle + 1
      else high = middle
    }
    return list[low - 1]
  }
}

function firstNotBelow(keys: readonly string[], key: string): number {
  let [low, high] = [0, keys.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((keys[middle] as string) < key) low = middle + 1
    else high = middle
  }
  return low
}

/**
 * What a history must be by itself, whoever wrote it: revisions rise by one, versions count, a key's create revision stays
 * until it is deleted, only what is there is deleted.
 */
export function checkHistory(events: readonly HistoryEvent[]): string[] {
  const wrong: string[] = []
  const present = new Map<string, HistoryEvent>()
  let revision = 1
  for (const event of events) {
    const name = `${event.type} ${event.key}@${event.revision}`
    if (event.revision < revision || event.revision > revision + 1)
      wrong.push(`${name} comes after revision ${revision}`)
    revision = event.revision
    const before = present.get(event.key)
    if (event.type === 'delete') {
      if (!before) wrong.push(`${name}: the key was not there`)
      present.delete(event.key)
      continue
    }
    const [version, createRevision] = before ? [before.version + 1, before.createRevision] : [1, event.revision]
    if (event.version !== version || event.createRevision !== createRevision)
      wrong.push(
        `${name} is version ${event.version} created at ${event.createRevision}; it should be version ${version} created at ${createRevision}`,
      )
    present.set(event.key, event)
  }
  return wrong
}

/** Two members' tellings of the same revisions must agree. */
export function checkSameHistory(tellings: readonly { member: string; events: readonly HistoryEvent[] }[]): string[] {
  const wrong: string[] = []
  const [first, ...others] = tellings
  for (const other of first ? others : []) {
    const show = (event: HistoryEvent | undefined) =>
      event ? `${event.type} ${event.key}@${event.revision} ${event.value}` : 'nothing'
    const length = Math.max(first?.events.length ?? 0, other.events.length)
    for (let at = 0; at < length; at++) {
      const [a, b] = [first?.events[at], other.events[at]]
      if (JSON.stringify(a) === JSON.stringify(b)) continue
      wrong.push(`as event ${at} ${first?.member} tells ${show(a)}, ${other.member} ${show(b)}`)
      break
    }
  }
  return wrong
}
