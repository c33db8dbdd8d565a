/** Checkers that hold what clients were told against all that the store says has happened (its whole history, in order). */
import type { SeenEvent } from './watch.js'

/** What one client was told about one write. */
export interface ToldWrite {
  client: string
  key: string
  /** What it wrote; each put's value is unique in the run. Undefined: a delete. */
  value: string | undefined
  told:
    | { type: 'written'; revision: number }
    /** It is certain that nothing happened. */
    | { type: 'not-applied' }
    | { type: 'unknown' }
}

const show = (w: ToldWrite) => `${w.client}: ${w.value === undefined ? 'delete of' : `put ${w.value} to`} ${w.key}`

/** Promise S1: what was acknowledged is there, at the revision that the client was told. */
export function checkDurable(writes: readonly ToldWrite[], truth: readonly SeenEvent[]): string[] {
  const wrong: string[] = []
  const at = new Map(truth.map((e) => [`${e.revision} ${e.key}`, e]))
  for (const write of writes) {
    if (write.told.type !== 'written') continue
    const event = at.get(`${write.told.revision} ${write.key}`)
    const isSame = event && (event.type === 'delete' ? write.value === undefined : event.value === write.value)
    if (!isSame)
      wrong.push(
        `${show(write)} was acknowledged at revision ${write.told.revision}; there ${event ? `is ${event.type} ${event.value}` : 'is nothing'}`,
      )
  }
  return wrong
}

/** Every answer tells "did not happen" from "may have happened"; and nothing happens twice. */
export function checkOutcomes(writes: readonly ToldWrite[], truth: readonly SeenEvent[]): string[] {
  const wrong: string[] = []
  const revisions = new Map<string, number[]>()
  for (const event of truth)
    if (event.type === 'put') revisions.set(event.value, [...(revisions.get(event.value) ?? []), event.revision])
  const known = new Set<string>()
  for (const write of writes) {
    if (write.value === undefined) continue
    known.add(write.value)
    const happened = revisions.get(write.value) ?? []
    if (happened.length > 1) wrong.push(`${show(write)} happened ${happened.length} times, at ${happened.join(', ')}`)
    if (write.told.type === 'not-applied' && happened.length > 0)
      wrong.push(`${show(write)} did not happen, the client was told; it did at revision ${happened[0]}`)
  }
  for (const [value, [revision]] of revisions)
    if (!known.has(value)) wrong.push(`put ${value} at revision ${revision} was written by nobody`)
  return wrong
}

/** What one member holds. */
export interface MemberState {
  member: string
  appliedIndex: number
  /** Of the canonical dump: keys, values, revisions, leases, sessions. */
  hash: string
}

/** Promise S4: members that applied the same index hold the same state. */
export function checkEqualState(states: readonly MemberState[]): string[] {
  const wrong: string[] = []
  const first = new Map<number, MemberState>()
  for (const state of states) {
    const other = first.get(state.appliedIndex)
    if (!other) first.set(state.appliedIndex, state)
    else if (other.hash !== state.hash)
      wrong.push(
        `at index ${state.appliedIndex} ${other.member} holds ${other.hash.slice(0, 16)}, ${state.member} ${state.hash.slice(0, 16)}`,
      )
  }
  return wrong
}
