import type { Operation } from '../checkers/linearizability.js'

const ROUNDS_MAX = 400

/**
 * The shortest piece of a history that still breaks the rule, found greedily. It only leaves out what cannot break the rule by its absence:
 * the end of the history (what was outstanding then may or may not have happened), reads, and what `needs` says nothing of.
 *
 * `needs(operation)`: the operations of the history without which this one would be a lie (the write that it read, …).
 */
export function shortest<I, O>(
  history: readonly Operation<I, O>[],
  isIllegal: (piece: readonly Operation<I, O>[]) => boolean,
  needs: (operation: Operation<I, O>, history: readonly Operation<I, O>[]) => readonly Operation<I, O>[],
): Operation<I, O>[] {
  let rounds = 0
  const breaks = (piece: readonly Operation<I, O>[]) => rounds++ < ROUNDS_MAX && isIllegal(piece)
  let piece = firstBreak(history, breaks)
  for (let chunk = Math.ceil(piece.length / 2); chunk >= 1; chunk = chunk === 1 ? 0 : Math.ceil(chunk / 2))
    for (let at = piece.length; at > 0; at -= chunk) {
      const out = new Set(piece.slice(Math.max(0, at - chunk), at))
      // Who needs something that goes must go as well; those who need nothing that goes stay.
      for (let grown = true; grown; ) {
        grown = false
        for (const one of piece)
          if (!out.has(one) && needs(one, piece).some((other) => out.has(other))) {
            out.add(one)
            grown = true
          }
      }
      const less = piece.filter((one) => !out.has(one))
      if (less.length < piece.length && breaks(less)) {
        piece = less
        at = Math.min(at, piece.length + chunk)
      }
    }
  return piece
}

/** The history up to the first instant at which it was broken. */
function firstBreak<I, O>(
  history: readonly Operation<I, O>[],
  breaks: (piece: readonly Operation<I, O>[]) => boolean,
): Operation<I, O>[] {
  const ends = history.flatMap((one) => one.returnedMs ?? []).sort((a, b) => a - b)
  let [low, high] = [0, ends.length - 1]
  while (low < high) {
    const middle = (low + high) >> 1
    if (breaks(until(history, ends[middle] as number))) high = middle
    else low = middle + 1
  }
  const piece = until(history, ends[low] ?? Number.POSITIVE_INFINITY)
  return breaks(piece) ? piece : [...history]
}

/** As it was known at this instant. */
function until<I, O>(history: readonly Operation<I, O>[], atMs: number): Operation<I, O>[] {
  return history
    .filter((one) => one.invokedMs <= atMs)
    .map((one) => {
      if (one.returnedMs !== undefined && one.returnedMs <= atMs) return one
      const { client, input, invokedMs } = one
      return { client, input, invokedMs }
    })
}
