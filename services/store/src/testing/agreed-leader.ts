import type { StoreStatusReply } from '@capstan/protocol'

/** Who leads in the highest term, if more than half of `members` say so: itself, and those that follow it in that term. */
export function agreedLeader(statuses: readonly StoreStatusReply[], members: number): string | undefined {
  const leading = statuses.filter(({ role }) => role === 'leader').sort((a, b) => b.term - a.term)[0]
  if (!leading) return undefined
  const agree = statuses.filter(({ leader, term }) => leader === leading.header.member && term === leading.term)
  return agree.length * 2 > members ? leading.header.member : undefined
}
