import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const ROOT = join(import.meta.dirname, '..', '..')

/** Of each process, in `findings`. */
const LOG_LINES = 20
const LOG_LINE_LENGTH = 400

export interface Ran {
  code: number
  stdout: string
  stderr: string
}

export interface MasterStatus {
  name: string
  role: 'leader' | 'follower' | 'down'
  term: number
  commitIndex: number
  pid: number
  url: string
  slowSyncs: number
}

export interface NodeStatus {
  name: string
  ready: boolean
  pid: number
  runtime: string
}

export interface ClusterStatus {
  masters: MasterStatus[]
  nodes: NodeStatus[]
  bus: string
  kubeconfig: string
}

/** A real `capstan up` in a directory of its own, driven as a user would: by commands. */
export class ClusterUnderTest {
  /** What `up` told of its steps, each with the seconds since it began. */
  told = ''

  private constructor(
    readonly data: string,
    private readonly temporary: boolean,
  ) {}

  /** Starts detached and waits until it says that it is ready. @throws Error with what it printed. */
  static async up(options: { data?: string; flags?: string[]; print?: boolean } = {}): Promise<ClusterUnderTest> {
    const data = options.data ?? mkdtempSync(join(tmpdir(), 'capstan-test-'))
    const cluster = new ClusterUnderTest(data, options.data === undefined)
    const ran = await cluster.capstan(['up', '--detach', ...(options.flags ?? [])], {
      timeoutMs: 300_000,
      print: options.print ?? false,
    })
    if (ran.code !== 0) {
      await cluster.down()
      throw new Error(`capstan up failed with code ${ran.code}:\n${ran.stderr}\n${ran.stdout}`)
    }
    cluster.told = ran.stderr
    return cluster
  }

  get kubeconfig(): string {
    return join(this.data, 'admin.conf')
  }

  capstan(args: string[], options: { timeoutMs?: number; print?: boolean } = {}): Promise<Ran> {
    const [command = '', ...rest] = args
    return exec(
      process.execPath,
      [join(ROOT, 'services/cli/dist/programs/capstan.js'), command, '--data', this.data, ...rest],
      options,
    )
  }

  kubectl(args: string[], options: { input?: string; timeoutMs?: number } = {}): Promise<Ran> {
    return exec('kubectl', ['--kubeconfig', this.kubeconfig, ...args], options)
  }

  /** kubectl that must succeed; its stdout. */
  async must(args: string[], options: { input?: string; timeoutMs?: number } = {}): Promise<string> {
    const ran = await this.kubectl(args, options)
    if (ran.code !== 0) throw new Error(`kubectl ${args.join(' ')}: exit ${ran.code}: ${ran.stderr}${ran.stdout}`)
    return ran.stdout
  }

  async json<T>(args: string[]): Promise<T> {
    return JSON.parse(await this.must([...args, '-o', 'json'])) as T
  }

  async status(): Promise<ClusterStatus> {
    const ran = await this.capstan(['status', '-o', 'json'])
    if (ran.code !== 0) throw new Error(`capstan status: ${ran.stderr}`)
    return JSON.parse(ran.stdout) as ClusterStatus
  }

  /** For a test that failed: objects, what the cluster says of them, and the last lines of each process that is not a bus server. */
  async findings(): Promise<string> {
    const parts: string[] = []
    for (const args of [
      ['get', 'nodes,deployments,pods,endpointslices', '--all-namespaces', '-o', 'wide'],
      ['get', 'events', '--all-namespaces', '--sort-by=.metadata.resourceVersion'],
    ]) {
      const { stdout, stderr } = await this.kubectl(args)
      parts.push(`$ kubectl ${args.join(' ')}`, stdout, stderr)
    }
    const logs = join(this.data, 'logs')
    for (const name of existsSync(logs) ? readdirSync(logs) : []) {
      if (name.endsWith('-nats.log')) continue
      const lines = readFileSync(join(logs, name), 'utf8').trimEnd().split('\n').slice(-LOG_LINES)
      parts.push(`$ tail ${name}`, ...lines.map((line) => line.slice(0, LOG_LINE_LENGTH)))
    }
    return parts.filter(Boolean).join('\n')
  }

  async down(): Promise<void> {
    await this.capstan(['stop'], { timeoutMs: 120_000 })
    if (this.temporary && existsSync(this.data)) rmSync(this.data, { recursive: true, force: true })
  }
}

/** Never throws for an exit code. A command that takes longer than `timeoutMs` (default 60,000) ends with code 124. */
export function exec(
  command: string,
  args: string[],
  options: { input?: string; timeoutMs?: number; print?: boolean } = {},
): Promise<Ran> {
  return new Promise((resolve) => {
    const child: ChildProcess = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] })
    let stdout = ''
    let stderr = ''
    let timedOut = false
    const timer = setTimeout(() => {
      timedOut = true
      child.kill('SIGKILL')
    }, options.timeoutMs ?? 60_000)
    child.stdout?.on('data', (chunk: Buffer) => {
      stdout += chunk.toString()
    })
    child.stderr?.on('data', (chunk: Buffer) => {
      stderr += chunk.toString()
      if (options.print) process.stderr.write(chunk)
    })
    child.on('error', (error) => {
      clearTimeout(timer)
      resolve({ code: 127, stdout, stderr: error.message })
    })
    // `exit`, not `close`: a detached process may hold the pipes open for as long as it lives.
    child.on('exit', (code) => {
      clearTimeout(timer)
      setImmediate(() => resolve({ code: timedOut ? 124 : (code ?? 1), stdout, stderr }))
    })
    if (options.input !== undefined) child.stdin?.write(options.input)
    child.stdin?.end()
  })
}

/** Asks until the answer is good. @throws Error that says what was awaited and the last answer. */
export async function eventually<T>(
  what: string,
  ask: () => Promise<T | undefined | false>,
  options: { timeoutMs: number; periodMs?: number },
): Promise<T> {
  const until = performance.now() + options.timeoutMs
  let last: unknown
  for (;;) {
    try {
      const answer = await ask()
      if (answer !== undefined && answer !== false) return answer
      last = answer
    } catch (error) {
      last = error
    }
    if (performance.now() > until) throw new Error(`not within ${options.timeoutMs} ms: ${what}; last: ${String(last)}`)
    await new Promise((resolve) => setTimeout(resolve, options.periodMs ?? 100))
  }
}
