import { execFile, spawnSync } from 'node:child_process'

/** What a command said. Never throws for an exit code: the caller decides what it means. */
export interface Ran {
  code: number
  stdout: string
  stderr: string
}

export function run(
  command: string,
  args: string[],
  options: { input?: string; timeoutMs?: number; env?: NodeJS.ProcessEnv } = {},
): Promise<Ran> {
  return new Promise((resolve) => {
    const child = execFile(
      command,
      args,
      {
        timeout: options.timeoutMs ?? 30_000,
        maxBuffer: 64 * 1024 * 1024,
        ...(options.env ? { env: options.env } : {}),
      },
      (error, stdout, stderr) => {
        const code = error ? (typeof error.code === 'number' ? error.code : 127) : 0
        resolve({ code, stdout, stderr: stderr || (error && code === 127 ? error.message : '') })
      },
    )
    if (options.input !== undefined) child.stdin?.end(options.input)
  })
}

/** Runs and insists on success. @throws Error that quotes the command and its last words. */
export async function must(
  command: string,
  args: string[],
  options: { input?: string; timeoutMs?: number; env?: NodeJS.ProcessEnv } = {},
): Promise<string> {
  const ran = await run(command, args, options)
  if (ran.code !== 0)
    throw new Error(`${command} ${args.join(' ')}: exit ${ran.code}: ${ran.stderr.trim() || ran.stdout.trim()}`)
  return ran.stdout
}

export function hasCommand(name: string): boolean {
  return (
    spawnSync('sh', ['-c', `command -v ${name}`], {
      env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
    }).status === 0
  )
}

export const isRoot = () => process.getuid?.() === 0
