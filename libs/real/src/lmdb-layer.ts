import { Rows } from './lmdb-rows.js'

/** How many times as long the long run is, at least. */
const MOST_TO_RECENT = 16

/**
 * Commits that are not in lmdb yet, by key (as text, see `toLatin1`); null: removed. Put in order only when somebody asks for
 * an order: commits come far more often, and looking for a place among all keys was a tenth of what applying one costs.
 */
export class Layer {
  private readonly rows = new Rows()
  private readonly places = new Map<string, number>()
  /** Two runs of keys in order, the second a small part of the first: so that little is moved for each few new keys. */
  private most: string[] = []
  private recent: string[] = []
  /** Keys that came since, as they came. */
  private fresh: string[] = []

  get isEmpty(): boolean {
    return this.places.size === 0
  }

  get(key: string): Uint8Array | null | undefined {
    const place = this.places.get(key)
    return place === undefined ? undefined : this.rows.valueAt(place)
  }

  set(key: Uint8Array, value: Uint8Array | null): void {
    const name = latin1(key)
    const { size } = this.places
    this.places.set(name, this.rows.add(key, value))
    if (this.places.size !== size) this.fresh.push(name)
  }

  /** All rows that were set, as they came; of a key that was set again the newest comes last. */
  copies(): Iterable<Uint8Array> {
    return this.rows.copies()
  }

  /** Ascending, from `start` on. Keys that are set meanwhile are left out. */
  *entries(start = ''): Generator<[string, Uint8Array | null], undefined> {
    this.putInOrder()
    const { most, recent } = this
    let a = firstFrom(most, start)
    let b = firstFrom(recent, start)
    while (a < most.length || b < recent.length) {
      const first = b >= recent.length || (a < most.length && (most[a] as string) < (recent[b] as string))
      const key = (first ? most[a++] : recent[b++]) as string
      yield [key, this.get(key) as Uint8Array | null]
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

export const latin1 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')

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
