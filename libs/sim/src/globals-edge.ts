/** The one place where the simulation touches the real world: draining microtasks, and keeping others from touching it. */

const realSetImmediate = setImmediate

/** Steps prepared at a time: one turn of Node's loop for all of them. */
const STEPS_AT_ONCE = 256

/**
 * Runs `step` in a macrotask of its own each time, until it returns false or throws. Between two of them Node lets everything
 * run that is ready: promise reactions, and what they make ready. A component that waits for anything but its World would
 * hang; one that never stops making promises ready would hang the run, and is found by its silence.
 *
 * Many are prepared at once, since a turn of Node's loop for each costs more than most steps do.
 */
export function macrotasks(step: () => boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    let left = 0
    let over = false
    const one = () => {
      left--
      if (over) return
      try {
        if (!step()) {
          over = true
          resolve()
        } else if (left === 0) prepare()
      } catch (error) {
        over = true
        reject(error)
      }
    }
    const prepare = () => {
      for (; left < STEPS_AT_ONCE; left++) realSetImmediate(one)
    }
    prepare()
  })
}

const FORBIDDEN = ['setTimeout', 'setInterval', 'setImmediate', 'queueMicrotask'] as const

interface Guard {
  holders: number
  restore(): void
}

let guard: Guard | undefined

/**
 * While held, ambient time and chance throw: what happens in a simulation must follow from its seed. Each breach is also
 * told to `breach`, lest somebody catch it. Returns the release. Not guarded, since Node's own code calls it by that way:
 * `process.nextTick`; nor what was imported from a `node:` module (the check of the rooms holds that).
 */
export function guardGlobals(breach: (error: Error) => void): () => void {
  const listeners = breaches
  listeners.add(breach)
  guard ??= install()
  guard.holders++
  let released = false
  return () => {
    if (released || !guard) return
    released = true
    listeners.delete(breach)
    if (--guard.holders > 0) return
    guard.restore()
    guard = undefined
  }
}

const breaches = new Set<(error: Error) => void>()

function install(): Guard {
  const refuse = (what: string) => () => {
    const error = new Error(`${what} in a simulation: take it from the World`)
    for (const tell of [...breaches]) tell(error)
    throw error
  }
  const undo: (() => void)[] = []
  const replace = (target: object, name: string, value: unknown) => {
    const own = Object.getOwnPropertyDescriptor(target, name)
    Object.defineProperty(target, name, { value, configurable: true, writable: true })
    undo.push(() => {
      if (own) Object.defineProperty(target, name, own)
      else delete (target as Record<string, unknown>)[name]
    })
  }
  const RealDate = Date
  // `new Date(ms)` only formats; without arguments it reads the clock.
  const guardedDate = new Proxy(RealDate, {
    apply: refuse('Date()'),
    construct: (_, args) => (args.length === 0 ? refuse('new Date()')() : new RealDate(...(args as [number]))),
  })
  replace(RealDate, 'now', refuse('Date.now'))
  replace(globalThis, 'Date', guardedDate)
  replace(Math, 'random', refuse('Math.random'))
  replace(performance, 'now', refuse('performance.now'))
  replace(AbortSignal, 'timeout', refuse('AbortSignal.timeout'))
  replace(crypto, 'randomUUID', refuse('crypto.randomUUID'))
  replace(crypto, 'getRandomValues', refuse('crypto.getRandomValues'))
  for (const name of FORBIDDEN) replace(globalThis, name, refuse(name))
  return {
    holders: 0,
    restore() {
      for (const step of undo.reverse()) step()
    },
  }
}
