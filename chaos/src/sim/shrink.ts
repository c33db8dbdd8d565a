/**
 * Few of `items` with which something still fails, of which none can be left out alone: delta debugging (Zeller and
 * Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002). All of them are known to fail.
 * `firstFailing` tries some of the items at a time and gives the number of one such choice that fails; undefined: none does.
 */
export async function fewest<T>(
  items: readonly T[],
  firstFailing: (choices: readonly (readonly T[])[]) => Promise<number | undefined>,
): Promise<readonly T[]> {
  // Most often it is one of them alone, or none at all.
  let failing = items
  const alone = [[], ...items.map((item) => [item])]
  const found = items.length > 1 ? await firstFailing(alone) : undefined
  if (found !== undefined) return alone[found] as T[]
  for (let parts = 2; failing.length > 0; ) {
    const size = Math.ceil(failing.length / parts)
    const starts = Array.from({ length: Math.ceil(failing.length / size) }, (_, at) => at * size)
    const rests = starts.map((start) => [...failing.slice(0, start), ...failing.slice(start + size)])
    const at = await firstFailing(rests)
    if (at !== undefined) {
      failing = rests[at] as T[]
      parts = Math.max(2, parts - 1)
    } else if (size === 1) break
    else parts = Math.min(2 * parts, failing.length)
  }
  return failing
}
