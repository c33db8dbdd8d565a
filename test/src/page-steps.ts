/** A page of documentation as a list of steps, so that a test does what the page says. */
export type PageStep =
  | { kind: 'run'; on: string[]; script: string; line: number }
  /** The machine dies; a new one stands in its place, its disk empty. */
  | { kind: 'lost' | 'new'; machine: string; line: number }
  | { kind: 'mark'; text: string; line: number }

/**
 * Fences whose first line is "```sh on=MACHINE,…" are run, on all these machines at once; other fences are for reading. Comments
 * `<!-- lost: MACHINE -->`, `<!-- new: MACHINE -->` say what happens to machines between them; any other comment is a mark.
 * @throws Error on a fence without end.
 */
export function pageSteps(page: string): PageStep[] {
  const steps: PageStep[] = []
  const lines = page.split('\n')
  for (let i = 0; i < lines.length; i++) {
    const text = lines[i] as string
    const line = i + 1
    const comment = /^<!-- (?:(lost|new): (\S+)|(.+?)) -->$/.exec(text)
    if (comment?.[1]) steps.push({ kind: comment[1] as 'lost' | 'new', machine: comment[2] as string, line })
    else if (comment?.[3]) steps.push({ kind: 'mark', text: comment[3], line })
    if (!text.startsWith('```')) continue
    const end = lines.indexOf('```', i + 1)
    if (end < 0) throw new Error(`line ${line}: a fence without end`)
    const on = /^```sh on=(\S+)$/.exec(text)?.[1]
    if (on !== undefined)
      steps.push({ kind: 'run', on: on.split(','), script: `${lines.slice(i + 1, end).join('\n')}\n`, line })
    i = end
  }
  return steps
}

/** What the page's reader would fill in: tokens and hash from what was printed last, and addresses of these machines. */
export class PageReader {
  private readonly joins = new Map<string, { token: string; hash: string }>()

  constructor(private readonly addresses: ReadonlyMap<string, string>) {}

  /** What a command printed. */
  see(output: string): void {
    for (const [, role = '', token = '', hash = ''] of output.matchAll(
      /^capstan (master|node) join \S+ --token (\S+) --ca-cert-hash (\S+) /gm,
    ))
      this.joins.set(role, { token, hash })
  }

  /** @throws Error: the page uses a token that it never told to make. */
  fill(script: string): string {
    let text = script
    for (const [written, real] of this.addresses)
      text = text.replaceAll(new RegExp(`${written.replaceAll('.', '\\.')}(?![\\d.])`, 'g'), real)
    return text.replace(
      /capstan (master|node) join (\S+) --token TOKEN --ca-cert-hash HASH/g,
      (_, role: string, door: string) => {
        const join = this.joins.get(role)
        if (!join) throw new Error(`no command of the page has made a token for a ${role}`)
        return `capstan ${role} join ${door} --token ${join.token} --ca-cert-hash ${join.hash}`
      },
    )
  }
}
