/** How many times as long the long run is, at least. */
const MOST_TO_RECENT = 16

/**
 * Commits that are not in lmdb yet, by key (as text, see `toLatin1`); null: removed. Put in order only when somebody asks for
 * an order: commits come far more often, and looking for a place among all keys was a tenth of what applying one costs.
 */
export class Layer {
  private readonly rows = new Map<string, Uint8Array | null>()
  /** Two runs of keys in order, the second a small part of the first: so that little is moved for each few new keys. */
  private most: string[] = []
  private recent: string[] = []
  /** Keys that came since, as they came. */
  private fresh: string[] = []

  get isEmpty(): boolean {
    return this.rows.size === 0
  }

  get(key: string): Uint8Array | null | undefined {
    return this.rows.get(key)
  }

  set(key: string, value: Uint8Array | null): void {
    const { size } = this.rows
    this.rows.set(key, value)
    if (this.rows.size !== size) this.fresh.push(key)
  }

  /** Ascending, from `start` on. Keys that are set meanwhile are left out. */
  *entries(start = ''): Generator<[string, Uint8Array | null], undefined> {
    this.putInOrder()
    const { rows, most, recent } = this
    let a = firstFrom(most, start)
    let b = firstFrom(recent, start)
    while (a < most.length || b < recent.length) {
      const first = b >= recent.length || (a < most.length && (most[a] as string) < (recent[b] as string))
      const key = (first ? most[a++] : recent[b++]) as string
      yield [key, rows.get(key) as Uint8Array | null]
    }
  }

  /** Makes new arrays: an iteration may go on over the former. */
  private putInOrder(): void {
    if (this.fresh.length === 0) return
    this.recent = merged(this.recent, this.fresh.sort())
    this.fresh = []
    if (this.recent.length <= this.most.length / MOST_TO_RECENT) return
    this.most = merged(this.most, this.recent)
    this.recent = []
  }
}

function firstFrom(keys: readonly string[], start: string): number {
  let low = 0
  let high = keys.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((keys[middle] as string) < start) low = middle + 1
    else high = middle
  }
  return low
}

function merged(a: string[], b: string[]): string[] {
  if (a.length === 0) return b
  const all: string[] = []
  let at = 0
  for (const key of b) {
    while (at < a.length && (a[at] as string) < key) all.push(a[at++] as string)
    all.push(key)
  }
  while (at < a.length) all.push(a[at++] as string)
  return all
}
