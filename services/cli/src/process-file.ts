import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname } from 'node:path'

/** A process that we started: its id alone is not enough, ids are used again. */
export interface ProcessRecord {
  pid: number
  /** Clock ticks after boot at which it started (field 22 of /proc/<pid>/stat). */
  startTicks: number
}

export function startTicksOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name in parentheses may hold blanks; the state after it tells a zombie, which is no live process.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? undefined : Number(fields[19])
  } catch {
    return undefined
  }
}

export function writeProcessFile(path: string, pid: number): void {
  mkdirSync(dirname(path), { recursive: true })
  const record: ProcessRecord = { pid, startTicks: startTicksOf(pid) ?? 0 }
  writeFileSync(`${path}.new`, JSON.stringify(record))
  renameSync(`${path}.new`, path)
}

/** The id of the recorded process if that very process still lives. */
export function liveProcess(path: string): number | undefined {
  if (!existsSync(path)) return undefined
  try {
    const record = JSON.parse(readFileSync(path, 'utf8')) as ProcessRecord
    return startTicksOf(record.pid) === record.startTicks ? record.pid : undefined
  } catch {
    return undefined
  }
}

export function removeProcessFile(path: string): void {
  rmSync(path, { force: true })
}

export async function waitFor(
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
  periodMs = 50,
): Promise<boolean> {
  const until = performance.now() + timeoutMs
  for (;;) {
    if (await condition()) return true
    if (performance.now() > until) return false
    await new Promise((resolve) => setTimeout(resolve, periodMs))
  }
}

/** Does somebody listen there? */
export function accepts(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: 500 })
    const end = (answer: boolean) => {
      socket.destroy()
      resolve(answer)
    }
    socket.once('connect', () => end(true))
    socket.once('error', () => end(false))
    socket.once('timeout', () => end(false))
  })
}
