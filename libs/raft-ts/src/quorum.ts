import type { Configuration, MemberId } from './types.js'

/** The majorities of one configuration: of its voters, and while it is joint of the old ones as well (thesis §4.3). */
export class Quorum {
  /** Who has a voice, in either half. */
  readonly voters: ReadonlySet<MemberId>
  /** Who is sent the log: the voters, then the learners. */
  readonly members: ReadonlySet<MemberId>
  private readonly halves: readonly (readonly MemberId[])[]
  private readonly sorted: Float64Array

  constructor({ voters, learners, outgoing, learnersNext }: Configuration) {
    this.halves = outgoing && outgoing.length > 0 ? [voters, outgoing] : [voters]
    this.voters = new Set(this.halves.flat())
    this.members = new Set([...this.voters, ...learners, ...(learnersNext ?? [])])
    this.sorted = new Float64Array(Math.max(1, ...this.halves.map((half) => half.length)))
  }

  /** Do those for whom `yes` holds form a majority of each half? Of nobody there is none. */
  has(yes: (voter: MemberId) => boolean): boolean {
    for (const half of this.halves) {
      let count = 0
      for (const voter of half) if (yes(voter)) count++
      if (2 * count <= half.length) return false
    }
    return true
  }

  /** The greatest number that a majority of each half has reached. Values ≥ 0; called for every acknowledgement. */
  reached(valueOf: (voter: MemberId) => number): number {
    let least = Number.POSITIVE_INFINITY
    for (const half of this.halves) {
      const { sorted } = this
      let length = 0
      for (const voter of half) {
        const value = valueOf(voter)
        let at = length++
        for (; at > 0 && (sorted[at - 1] as number) < value; at--) sorted[at] = sorted[at - 1] as number
        sorted[at] = value
      }
      least = Math.min(least, length === 0 ? 0 : (sorted[length >> 1] as number))
    }
    return least
  }
}
