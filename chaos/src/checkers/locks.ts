import type { HistoryEvent, TrueHistory } from './history.js'

/** One time of holding a lock, as its holder saw it. */
export interface Holding {
  holder: string
  /** The create revision of the lock's key. */
  token: number
  /** When the answer came that it holds the lock. */
  acquiredMs: number
  /**
   * Until when it may believe so: sending of the last acknowledged renewal and the lease; or when it began to let go. Not after
   * `acquiredMs`: the answer came when the lease was over by its own clock, so that it never believed to hold the lock.
   */
  untilMs: number
}

/**
 * Mutual exclusion: tokens rise; at each write that bears a token that token's holder had the lock; and no two holders may
 * believe to hold it at one time. `rate`: how fast the fastest clock of a member may run against the holders'.
 */
export function checkLock(
  lock: string,
  holdings: readonly Holding[],
  history: TrueHistory,
  guarded: { key: string; tokenOf(value: string): number },
  rate: number,
): string[] {
  const wrong: string[] = []
  for (const event of history.of(guarded.key)) {
    if (event.type === 'delete') continue
    const token = guarded.tokenOf(event.value)
    const held = history.at(lock, event.revision - 1)
    if (held?.createRevision !== token)
      wrong.push(
        `the write at revision ${event.revision} bears token ${token}; the lock was ${held ? `that of token ${held.createRevision}` : 'free'}`,
      )
  }
  const sorted = [...holdings].sort((a, b) => a.token - b.token)
  for (const one of sorted) {
    const put = history.of(lock).find((e: HistoryEvent) => e.createRevision === one.token && e.type === 'put')
    if (put?.value !== one.holder)
      wrong.push(
        `${one.holder} was told that it holds the lock with token ${one.token}; that one is ${put?.value ?? 'nobody'}'s`,
      )
  }
  for (const [one, next] of pairs(sorted))
    if (next.token === one.token) wrong.push(`${one.holder} and ${next.holder} were both given token ${one.token}`)
  for (const [one, next] of pairs(sorted.filter(({ acquiredMs, untilMs }) => untilMs > acquiredMs))) {
    // A member's clock may be fast: then the lease is over that much earlier.
    const until = one.acquiredMs + (one.untilMs - one.acquiredMs) / rate
    if (next.acquiredMs < until)
      wrong.push(
        `${next.holder} held the lock (token ${next.token}) from ${next.acquiredMs.toFixed(0)} ms on, ${one.holder} (token ${one.token}) until ${until.toFixed(0)} ms`,
      )
  }
  return wrong
}

const pairs = <T>(list: readonly T[]): [T, T][] => list.slice(1).map((next, at) => [list[at] as T, next])
