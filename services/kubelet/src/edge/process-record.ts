import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'

/** A process that we started: its id alone is not enough, ids are used again. */
export interface ProcessRecord {
  pid: number
  /** Clock ticks after boot at which it started (field 22 of /proc/<pid>/stat). */
  startTicks: number
}

const HAS_PROC = existsSync('/proc/self/stat')

/** Undefined if there is no such process, or only its zombie. Where there is no /proc, 0 for every process that lives. */
export function startTicksOf(pid: number): number | undefined {
  try {
    if (!HAS_PROC) return process.kill(pid, 0) ? 0 : undefined
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name in parentheses may hold blanks.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : Number(fields[19])
  } catch {
    return undefined
  }
}

export function isLive(record: ProcessRecord): boolean {
  return startTicksOf(record.pid) === record.startTicks
}

export function writeProcessRecord(path: string, pid: number): void {
  const record: ProcessRecord = { pid, startTicks: startTicksOf(pid) ?? 0 }
  writeFileSync(`${path}.new`, JSON.stringify(record))
  renameSync(`${path}.new`, path)
}

export function readProcessRecord(path: string): ProcessRecord | undefined {
  if (!existsSync(path)) return undefined
  try {
    const record = JSON.parse(readFileSync(path, 'utf8')) as Partial<ProcessRecord>
    return typeof record.pid === 'number' && typeof record.startTicks === 'number'
      ? (record as ProcessRecord)
      : undefined
  } catch {
    return undefined // Torn by a crash of the machine: that process is gone too.
  }
}
