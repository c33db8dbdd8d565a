import type { TrueHistory } from './history.js'

/** What one answer said of one key. */
export interface SeenKey {
  key: string
  value: string
  modRevision: number
  createRevision: number
  version: number
}

/** One operation on the whole store that was answered, placed by the revision that its answer told. */
export interface PlacedOperation {
  client: string
  what: string
  invokedMs: number
  returnedMs: number
  /** The store's when the answer was made; of one that wrote, the one that it made. */
  revision: number
  wrote: boolean
  /** Compared mod revisions, and whether they all held. */
  compared?: { keys: { key: string; modRevision: number }[]; held: boolean }
  /** A range that it read. */
  read?: { from: string; to?: string; keys: SeenKey[] }
}

const show = (o: PlacedOperation) => `${o.client}: ${o.what} [${o.invokedMs.toFixed(1)}..${o.returnedMs.toFixed(1)}]`

/**
 * Linearizability (S2) of the whole store at once, over all keys: the revisions that answers tell are the order. It is legal
 * if each answer is what the history says at its revision, and if nothing that began after an answer had come is placed
 * before it. That leaves nothing to search: the verdict is never unknown.
 */
export function checkRevisionOrder(operations: readonly PlacedOperation[], history: TrueHistory): string[] {
  const wrong: string[] = []
  for (const operation of operations) {
    const { compared, read, revision } = operation
    if (compared) {
      // What it compared with is the state that it wrote upon; of one that wrote nothing, the state that it answered from.
      const at = operation.wrote ? revision - 1 : revision
      const held = compared.keys.every(({ key, modRevision }) => (history.at(key, at)?.revision ?? 0) === modRevision)
      if (held !== compared.held)
        wrong.push(
          `${show(operation)} was told at revision ${revision} that its comparison ${compared.held ? 'held' : 'did not hold'}; by the history it ${held ? 'held' : 'did not'}`,
        )
    }
    if (read) {
      const due = history
        .range(read.from, read.to, revision)
        .map((s) => `${s.key}=${s.value} ${s.createRevision}/${s.revision}/${s.version}`)
      const got = read.keys.map((s) => `${s.key}=${s.value} ${s.createRevision}/${s.modRevision}/${s.version}`)
      if (due.join('; ') !== got.join('; '))
        wrong.push(`${show(operation)} read [${got.join('; ')}] at revision ${revision}; there was [${due.join('; ')}]`)
    }
  }
  wrong.push(...realTimeBreaches(operations))
  return wrong
}

/** Nothing is placed before what was answered when it began. */
function realTimeBreaches(operations: readonly PlacedOperation[]): string[] {
  const wrong: string[] = []
  const byReturn = [...operations].sort((a, b) => a.returnedMs - b.returnedMs)
  let next = 0
  let latest: PlacedOperation | undefined
  for (const operation of [...operations].sort((a, b) => a.invokedMs - b.invokedMs)) {
    for (; (byReturn[next]?.returnedMs ?? Number.POSITIVE_INFINITY) < operation.invokedMs; next++)
      if (!latest || (byReturn[next] as PlacedOperation).revision > latest.revision) latest = byReturn[next]
    if (!latest) continue
    const tooEarly = operation.wrote ? operation.revision <= latest.revision : operation.revision < latest.revision
    if (tooEarly)
      wrong.push(
        `${show(operation)} was answered at revision ${operation.revision}, after ${show(latest)} had been answered at ${latest.revision}`,
      )
  }
  return wrong
}
