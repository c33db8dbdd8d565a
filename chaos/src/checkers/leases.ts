import type { TrueHistory } from './history.js'

/** All that one client knows of one lease. Times by the client's clock, ms. */
export interface LeaseRecord {
  client: string
  id: number
  ttlMs: number
  /** Acknowledged grant and renewals: when they were sent. */
  renewals: { sentMs: number; answeredMs: number }[]
  /** When the last renewal was sent, acknowledged or not (with its time-out): until then it may have been renewed. */
  lastTriedMs: number
  /** When its holder asked for its end; it may end at any time from then on. */
  revokeSentMs?: number
  /** First answer that said: there is no such lease (or its key is gone). `sentMs`: when that was asked. */
  goneSeen?: { sentMs: number; answeredMs: number; revision: number }
  /** Keys that were put under it. */
  keys: string[]
  /** Reads of its keys, after it was gone. */
  readsAfterGone: { key: string; revision: number; present: boolean }[]
  /** Answers to "how long does it live", seconds. */
  remaining: { sentMs: number; answeredMs: number; seconds: number }[]
}

/** What the lease rules allow. */
export interface LeaseMargins {
  /** How much faster or slower a member's clock may run: 0.05. */
  clockRate: number
  /** Between its end and the answer that shows it, in good times. */
  noticeMs: number
  /** For each change of leader within its last life: an election, and what the new leader may not know of the time gone. */
  perLeaderChangeMs: number
}

/** What happened to the cluster, for the bound above. */
export interface ClusterTimes {
  /** Changes of leader, ms. */
  leaderChanges: readonly number[]
  /** When a quorum may not have been up, or stalled. */
  trouble: readonly { fromMs: number; toMs: number }[]
}

/**
 * Promise S5. `early`: no lease ends before its TTL since the last acknowledged renewal, on the client's clock, but for the
 * rate of the members' clocks. `late`: with a quorum up it ends within its TTL and one election for each change of leader.
 * `readable`: no key of it is readable after its end was reported. `remaining` is never more than the TTL.
 */
export function checkLease(
  record: LeaseRecord,
  history: TrueHistory,
  margins: LeaseMargins,
  times: ClusterTimes,
): string[] {
  const wrong: string[] = []
  const name = `lease ${record.id} of ${record.client} (${record.ttlMs} ms)`
  const gone = record.goneSeen
  const last = record.renewals.filter((r) => !gone || r.answeredMs <= gone.sentMs).at(-1)
  if (gone && last) {
    const endsNotBefore = last.sentMs + record.ttlMs / (1 + margins.clockRate)
    // It may have ended just before the answer left.
    if (
      gone.answeredMs < endsNotBefore &&
      !(record.revokeSentMs !== undefined && record.revokeSentMs <= gone.answeredMs)
    )
      wrong.push(
        `early: ${name} was renewed by a request of ${last.sentMs.toFixed(0)} ms, and gone in an answer of ${gone.answeredMs.toFixed(0)} ms`,
      )
  }
  for (const asked of record.remaining) {
    if (asked.seconds < 0 || asked.sentMs < record.lastTriedMs) continue
    const graceMs = graceOf(record, asked.answeredMs, margins, times)
    if (asked.seconds * 1000 > record.ttlMs + 1000 + graceMs)
      wrong.push(`remaining: ${name} has ${asked.seconds} s left, by an answer of ${asked.answeredMs.toFixed(0)} ms`)
    const livesUntilMs = record.lastTriedMs + record.ttlMs / (1 - margins.clockRate) + margins.noticeMs + graceMs
    if (asked.sentMs > livesUntilMs)
      wrong.push(
        `late: ${name} was last renewed at ${record.lastTriedMs.toFixed(0)} ms and lives at ${asked.sentMs.toFixed(0)} ms, with ${asked.seconds} s left`,
      )
  }
  for (const read of record.readsAfterGone)
    if (gone && read.present && history.at(read.key, read.revision)?.lease === record.id)
      wrong.push(
        `readable: ${read.key} of ${name} was read at revision ${read.revision}; its end had been reported at ${gone.revision}`,
      )
  return wrong
}

/** What elections and trouble since the last renewal may add to its life. */
function graceOf(record: LeaseRecord, untilMs: number, margins: LeaseMargins, times: ClusterTimes): number {
  const changes = times.leaderChanges.filter((at) => at >= record.lastTriedMs && at <= untilMs).length
  const troubleMs = times.trouble.reduce(
    (sum, { fromMs, toMs }) => sum + Math.max(0, Math.min(toMs, untilMs) - Math.max(fromMs, record.lastTriedMs)),
    0,
  )
  // A member that was started again may not know what of its time was gone.
  return changes * margins.perLeaderChangeMs + (troubleMs > 0 ? troubleMs + record.ttlMs : 0)
}
