/** Promise S3: every change of the range once, in revision order, without a gap, or a stated end. */

export interface SeenEvent {
  revision: number
  key: string
  type: 'put' | 'delete'
  value: string
}

/** What one reader of a watch got, over all its resumptions. */
export interface WatchRecord {
  reader: string
  /** It asked for everything from this revision on. */
  fromRevision: number
  events: SeenEvent[]
  /** It was told that it has everything up to here. */
  toldUpTo: number
}

export type WatchVerdict = { verdict: 'ok' } | { verdict: 'illegal'; explanation: string }

const show = (e: SeenEvent | undefined) => (e ? `${e.type} ${e.key}@${e.revision}` : 'nothing')

/** Holds what a reader got against all that happened (`truth`, in order). */
export function checkWatch(record: WatchRecord, truth: readonly SeenEvent[]): WatchVerdict {
  const due = truth.filter((e) => e.revision >= record.fromRevision && e.revision <= record.toldUpTo)
  const got = record.events
  for (let i = 0; i < Math.max(due.length, got.length); i++) {
    const [want, have] = [due[i], got[i]]
    if (
      want &&
      have &&
      want.revision === have.revision &&
      want.key === have.key &&
      want.type === have.type &&
      want.value === have.value
    )
      continue
    // Events beyond what it was told it has are early, not wrong; those it was told of and did not get are lost.
    if (
      !want &&
      have &&
      have.revision > record.toldUpTo &&
      truth.some((e) => e.revision === have.revision && e.key === have.key)
    )
      continue
    return {
      verdict: 'illegal',
      explanation: `${record.reader} was told that it has everything up to revision ${record.toldUpTo}; as event ${i} it should have got ${show(want)}, it got ${show(have)}`,
    }
  }
  return { verdict: 'ok' }
}
