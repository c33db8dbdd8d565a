import { type ChildProcess, spawn } from 'node:child_process'

/** One command of the script with what it printed. */
export interface Step {
  line: number
  command: string
  output: string
}

interface Background {
  line: number
  command: string
  child: ChildProcess
  output: Promise<string>
}

const COMMAND_MS = 15_000

/**
 * Runs a script of `etcdctl` commands (its form: see the file itself) against one endpoint.
 * Outputs are stdout and what stderr says but for log lines, with what differs from store to store masked.
 */
export async function runScript(script: string, environment: Record<string, string>): Promise<Step[]> {
  const env = { PATH: process.env.PATH ?? '', ETCDCTL_API: '3', ...environment }
  const variables = new Map<string, string>()
  const steps: Step[] = []
  let background: Background[] = []
  const lines = script.split('\n')
  for (let at = 0; at < lines.length; at++) {
    const text = (lines[at] as string).trimEnd()
    if (text === '' || text.startsWith('#')) continue
    const line = at + 1
    const input: string[] = []
    while (lines[at + 1]?.startsWith('<')) input.push((lines[++at] as string).replace(/^< ?/, ''))
    if (text === '@') {
      for (const one of background) steps.push({ line: one.line, command: one.command, output: await one.output })
      background = []
      continue
    }
    const [, count, name, command = ''] = /^(?:@(\d+) |(\w+) = )?(.*)$/.exec(text) as RegExpExecArray
    const argv = words(command, variables)
    if (count !== undefined) {
      const { child, output } = start(argv, env, undefined, Number(count))
      background.push({ line, command, child, output })
      continue
    }
    const raw = await start(argv, env, input.length > 0 ? `${input.join('\n')}\n` : undefined).output
    if (name !== undefined) variables.set(name, /\b[0-9a-f]{10,16}\b/.exec(raw)?.[0] ?? 'none')
    steps.push({ line, command, output: raw })
  }
  return steps.map((step) => ({ ...step, output: masked(step.output) }))
}

/** `linesMax`: ended once it has printed so many lines; else it has to end by itself. */
function start(
  argv: string[],
  env: Record<string, string>,
  input?: string,
  linesMax?: number,
): { child: ChildProcess; output: Promise<string> } {
  const child = spawn('etcdctl', argv, { env, stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'] })
  const output = new Promise<string>((resolve) => {
    let stdout = ''
    let stderr = ''
    const timer = setTimeout(() => {
      stdout += '\nit did not end\n'
      child.kill('SIGKILL')
    }, COMMAND_MS)
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
      if (linesMax !== undefined && stdout.split('\n').length > linesMax) child.kill('SIGINT')
    })
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.on('close', (code) => {
      clearTimeout(timer)
      const said = stderr.split('\n').filter((one) => one !== '' && !/^\{"level"|^\d{4}-\d\d-\d\d |^\s*$/.test(one))
      // How the program goes when it is told to says nothing about the store.
      const end = linesMax === undefined ? [`exit ${code}`] : []
      const shown = linesMax === undefined ? stdout : stdout.split('\n').slice(0, linesMax).join('\n')
      resolve([shown.trimEnd(), ...(linesMax === undefined ? said : []), ...end].join('\n'))
    })
  })
  if (input !== undefined) child.stdin?.end(input)
  return { child, output }
}

/** As a shell takes a line apart, as far as the script needs it: quotes, `$NAME`, `\n`. */
function words(text: string, variables: ReadonlyMap<string, string>): string[] {
  return [...text.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) =>
    (quoted ?? plain ?? '').replace(/\$(\w+)/g, (whole, name: string) => variables.get(name) ?? whole),
  )
}

const NUMBERS =
  /("?(?:cluster_id|member_id|raft_term|raftTerm|ClusterID|MemberID|RaftTerm|Raft Term|lease|Lease|ID|LeaseID|id|leader|Leader|dbSize|DBSize|DB Size|dbSizeInUse|raftIndex|RaftIndex|raftAppliedIndex|RaftAppliedIndex|hash|Hash|ttl|TTL)"?\s?:\s?)\d+/g

/** Who answers, how large and how old it is, and what a lease is called. */
export function masked(output: string): string {
  return (
    output
      .replace(NUMBERS, '$1<number>')
      .replace(/\b[0-9a-f]{10,16}\b/g, '<id>')
      .replace(/(https?:\/\/)?127\.0\.0\.1:\d+/g, '<endpoint>')
      .replace(/took = \S+/g, 'took = <time>')
      .replace(/remaining\(\d+s\)/g, 'remaining(<time>)')
      // etcd tells them in the order of a Go map: any.
      .replace(
        /attached keys\(\[(.*?)\]\)/g,
        (_, keys: string) => `attached keys([${keys.split(' ').sort().join(' ')}])`,
      )
  )
}
