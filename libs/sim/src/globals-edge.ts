/** The one place where the simulation touches the real world: draining microtasks, and keeping others from touching it. */

const realSetImmediate = setImmediate

/**
 * Lets everything that is ready run: promise reactions, and what they make ready. A component that waits for anything but
 * its World would hang; one that never stops making promises ready would hang the run, and is found by its silence.
 */
export function drainMicrotasks(): Promise<void> {
  return new Promise((resolve) => realSetImmediate(resolve))
}

const FORBIDDEN = ['setTimeout', 'setInterval', 'setImmediate'] as const
let holders = 0
let restore: (() => void) | undefined

/** While held, ambient time and chance throw: what happens in a simulation must follow from its seed. Returns the release. */
export function guardGlobals(): () => void {
  if (holders++ === 0) restore = install()
  let released = false
  return () => {
    if (released) return
    released = true
    if (--holders === 0) restore?.()
  }
}

function install(): () => void {
  const saved = {
    now: Date.now,
    random: Math.random,
    timers: FORBIDDEN.map((name) => [name, globalThis[name]] as const),
  }
  const refuse = (what: string) => () => {
    throw new Error(`${what} in a simulation: take it from the World`)
  }
  Date.now = refuse('Date.now')
  Math.random = refuse('Math.random')
  for (const name of FORBIDDEN)
    Object.defineProperty(globalThis, name, { value: refuse(name), configurable: true, writable: true })
  return () => {
    Date.now = saved.now
    Math.random = saved.random
    for (const [name, value] of saved.timers)
      Object.defineProperty(globalThis, name, { value, configurable: true, writable: true })
  }
}
