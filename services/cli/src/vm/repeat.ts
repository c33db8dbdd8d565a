import type { Log } from '@capstan/actor'

const TELL_MS = 60_000

/**
 * Does `work` again and again, `periodMs` after it ended, until stopped. What fails is tried again next time, and told once a
 * minute. The first time is now.
 */
export function repeat(periodMs: number, work: () => Promise<void>, log: Log, what: string): { stop(): void } {
  let stopped = false
  let timer: NodeJS.Timeout | undefined
  let toldMs = -TELL_MS
  const round = async () => {
    try {
      await work()
    } catch (error) {
      const nowMs = performance.now()
      if (!stopped && nowMs - toldMs >= TELL_MS) {
        toldMs = nowMs
        log.warn({ err: error }, what)
      }
    }
    if (!stopped) timer = setTimeout(() => void round(), periodMs)
  }
  void round()
  return {
    stop() {
      stopped = true
      clearTimeout(timer)
    },
  }
}
