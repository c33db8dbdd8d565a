import type { IndexedHash } from '@capstan/mvcc'

const HASHES_MAX = 32
const MEMBERS_MAX = 64

export interface Difference {
  index: number
  /** Of them, or of this member. */
  theirs: string
  own: string
  /** Who has `theirs` at that index. */
  members: string[]
  /** They are a majority of the voters: this member is wrong. If not, nobody can say who is. */
  decided: boolean
}

/**
 * Members tell each other, all the time, the hash of everything that they applied up to some index (promise S4). Whoever
 * stands against a majority at one index has another state than they, and must not serve it.
 */
export class StateComparison {
  private readonly told = new Map<string, Map<number, string>>()

  /** What came off the wire. */
  note(member: string, hashes: unknown): void {
    if (!Array.isArray(hashes) || (this.told.size >= MEMBERS_MAX && !this.told.has(member))) return
    const known = new Map<number, string>()
    for (const one of hashes.slice(-HASHES_MAX) as Partial<IndexedHash>[])
      if (Number.isSafeInteger(one?.index) && typeof one.hash === 'string') known.set(one.index as number, one.hash)
    this.told.set(member, known)
  }

  /** Who left, or begins anew, is heard no more. */
  forget(member: string): void {
    this.told.delete(member)
  }

  /** The first index at which this member differs from others: from a majority if there is one, else from anybody. */
  difference(own: readonly IndexedHash[], self: string, voters: readonly string[]): Difference | undefined {
    let undecided: Difference | undefined
    for (const { index, hash } of own) {
      const byHash = new Map<string, string[]>()
      for (const voter of voters) {
        const theirs = voter === self ? undefined : this.told.get(voter)?.get(index)
        if (theirs === undefined || theirs === hash) continue
        const list = byHash.get(theirs)
        if (list) list.push(voter)
        else byHash.set(theirs, [voter])
      }
      for (const [theirs, members] of byHash) {
        const decided = members.length * 2 > voters.length
        const found = { index, theirs, own: hash, members, decided }
        if (decided) return found
        undecided ??= found
      }
    }
    return undecided
  }
}
