/** A member began to lead. */
export interface Lead {
  member: string
  term: number
}

/** Election safety (thesis fig. 3.2): at most one member leads in a term. */
export function checkElections(leads: readonly Lead[]): string[] {
  const leaders = new Map<number, string>()
  const wrong: string[] = []
  for (const { member, term } of leads) {
    const other = leaders.get(term)
    if (other === undefined) leaders.set(term, member)
    else if (other !== member) wrong.push(`${other} and ${member} both lead in term ${term}`)
  }
  return wrong
}
