import type { Clock } from './world.js'

/** Resolves after `delayMs` of this clock; at once with `false` if `signal` is or becomes aborted, else `true`. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<boolean> {
  if (signal?.aborted) return Promise.resolve(false)
  return new Promise((resolve) => {
    const timer = clock.setTimer(delayMs, () => {
      signal?.removeEventListener('abort', onAbort)
      resolve(true)
    })
    function onAbort() {
      timer.cancel()
      resolve(false)
    }
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

/** Runs `run` every `periodMs`, the first time after one period, never twice at once. Returns how to stop. */
export function every(clock: Clock, periodMs: number, run: () => void): () => void {
  let stopped = false
  let timer = clock.setTimer(periodMs, fire)
  function fire() {
    if (stopped) return
    timer = clock.setTimer(periodMs, fire)
    run()
  }
  return () => {
    stopped = true
    timer.cancel()
  }
}
