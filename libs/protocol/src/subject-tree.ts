/** Throws for what no broker would take as one subject or pattern: it would break the line protocol of NATS. */
export function checkSubject(subject: string): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not pass.
  if (subject === '' || /[\s\u0000-\u001f\u007f]/.test(subject))
    throw new RangeError(`not a subject: ${JSON.stringify(subject)}`)
}

interface Branch<T> {
  /** By token; `*` and `>` stand for themselves. */
  next: Map<string, Branch<T>>
  values: Set<T>
}

const branch = <T>(): Branch<T> => ({ next: new Map(), values: new Set() })

/** Who listens on which pattern, looked up by subject: the cost is that of the subject's tokens, not of the listeners. */
export class SubjectTree<T> {
  private readonly root = branch<T>()

  add(pattern: string, value: T): void {
    let at = this.root
    for (const token of pattern.split('.')) {
      let next = at.next.get(token)
      if (!next) at.next.set(token, (next = branch()))
      at = next
    }
    at.values.add(value)
  }

  remove(pattern: string, value: T): void {
    const path: [Branch<T>, string][] = []
    let at = this.root
    for (const token of pattern.split('.')) {
      const next = at.next.get(token)
      if (!next) return
      path.push([at, token])
      at = next
    }
    at.values.delete(value)
    // Patterns come and go with connections: what is empty goes as well.
    for (const [parent, token] of path.reverse()) {
      if (at.values.size > 0 || at.next.size > 0) return
      parent.next.delete(token)
      at = parent
    }
  }

  /** Every value whose pattern fits, once for each of its patterns; in no order that means anything. */
  find(subject: string): T[] {
    const tokens = subject.split('.')
    const found: T[] = []
    collect(this.root, tokens, 0, found)
    return found
  }
}

function collect<T>(at: Branch<T>, tokens: string[], depth: number, found: T[]): void {
  if (depth === tokens.length) {
    for (const value of at.values) found.push(value)
    return
  }
  const rest = at.next.get('>')
  if (rest) for (const value of rest.values) found.push(value)
  const any = at.next.get('*')
  if (any) collect(any, tokens, depth + 1, found)
  const token = tokens[depth] as string
  // A subject's own star is a star like any other character to those who look for it by `*` only.
  if (token === '*' || token === '>') return
  const same = at.next.get(token)
  if (same) collect(same, tokens, depth + 1, found)
}
