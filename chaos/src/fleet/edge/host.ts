import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'

export interface Ran {
  code: number
  stdout: string
  stderr: string
}

/** What is said beyond it is left out. */
const OUTPUT_CHARACTERS_MAX = 16 * 1024 * 1024
const PATHS = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** The environment of what runs in machines and beside them: administrators' programs are found. */
export const environment = (path: readonly string[] = []): NodeJS.ProcessEnv => ({
  ...process.env,
  PATH: [...path, process.env['PATH'] ?? '', PATHS].filter((p) => p !== '').join(':'),
})

/** Never throws for an exit code. After `timeoutMs` (30 s unless told) its process group is killed: then code 124. */
export function run(command: readonly string[], options: { input?: string; timeoutMs?: number } = {}): Promise<Ran> {
  const { timeoutMs = 30_000, input = '' } = options
  return new Promise((resolve) => {
    // A group of its own: `nsenter` is not alone in it.
    const child = spawn(command[0] as string, command.slice(1), { env: environment(), detached: true })
    const said = { stdout: '', stderr: '' }
    let late = false
    const timer = setTimeout(() => {
      late = true
      if (child.pid !== undefined) signal(-child.pid, 'SIGKILL')
    }, timeoutMs)
    for (const stream of ['stdout', 'stderr'] as const) {
      child[stream].setEncoding('utf8')
      child[stream].on('data', (text: string) => {
        if (said[stream].length < OUTPUT_CHARACTERS_MAX) said[stream] += text
      })
    }
    let failure = ''
    child.once('error', (error) => {
      failure = error.message
    })
    child.once('close', (code) => {
      clearTimeout(timer)
      if (late) failure = `no end within ${timeoutMs} ms`
      resolve({ code: late ? 124 : (code ?? 137), stdout: said.stdout, stderr: said.stderr + failure })
    })
    // A program that ends before it has read all is judged by its exit code.
    child.stdin.on('error', () => undefined)
    child.stdin.end(input)
  })
}

/** @throws Error that quotes the command and its last words. */
export async function must(command: readonly string[], options: { input?: string; timeoutMs?: number } = {}) {
  const ran = await run(command, options)
  if (ran.code !== 0)
    throw new Error(`${command.join(' ').slice(0, 200)}: exit ${ran.code}: ${ran.stderr.trim() || ran.stdout.trim()}`)
  return ran.stdout
}

/** Looks again and again until it is so. False: it was not within the time. */
export async function until(is: () => boolean | Promise<boolean>, timeoutMs: number, everyMs = 10): Promise<boolean> {
  const end = performance.now() + timeoutMs
  for (;;) {
    if (await is()) return true
    if (performance.now() > end) return false
    await new Promise((resolve) => setTimeout(resolve, everyMs))
  }
}

const TOOLS = {
  ip: 'iproute2',
  tc: 'iproute2',
  bridge: 'iproute2',
  nft: 'nftables',
  nsenter: 'util-linux',
  unshare: 'util-linux',
  perl: 'perl-base',
} as const

/** Why no fleet can be built on this host; undefined: one can. */
export function fleetLack(): string | undefined {
  if (process.platform !== 'linux') return 'a fleet needs Linux'
  if (process.getuid?.() !== 0) return 'not root: a fleet is made of network namespaces'
  const paths = (environment()['PATH'] ?? '').split(':')
  for (const [tool, debianPackage] of Object.entries(TOOLS))
    if (!paths.some((path) => existsSync(`${path}/${tool}`)))
      return `${tool} is missing (Debian package ${debianPackage})`
  if (!existsSync('/dev/net/tun')) return '/dev/net/tun is missing: the kernel has no TUN devices'
  return undefined
}

/** Of the fields behind the name in /proc/PID/stat; undefined: no such process, or one that has ended and was not yet reaped. */
export function statOf(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields
  } catch {
    return undefined
  }
}

export function signal(pid: number, what: NodeJS.Signals): boolean {
  try {
    process.kill(pid, what)
    return true
  } catch {
    return false // It is gone: what the signal was for has happened.
  }
}
