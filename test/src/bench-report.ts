import { readdirSync, readFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2
}

/** What the figures were measured on. */
export function describeMachine(): string {
  const [cpu] = cpus()
  return `machine: ${cpus().length} × ${cpu?.model.trim() ?? 'unknown CPU'}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, Node ${process.versions.node}, Linux`
}

export interface ProcessMemory {
  pid: number
  command: string
  pssBytes: number
}

/** Proportional set size of every process whose command line or working directory names `directory`. */
export function memoryOf(directory: string): ProcessMemory[] {
  const found: ProcessMemory[] = []
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').join(' ').trim()
      if (!command.includes(directory)) continue
      const pss = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))
      if (pss) found.push({ pid, command, pssBytes: Number(pss[1]) * 1024 })
    } catch {
      // It ended while we looked.
    }
  }
  return found
}
