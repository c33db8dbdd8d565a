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

/** Resident and proportional set size of processes, in bytes. One that is gone counts as nothing. */
export function memoryOfPids(pids: readonly number[]): { rssBytes: number; pssBytes: number } {
  let [rssBytes, pssBytes] = [0, 0]
  for (const pid of pids) {
    try {
      const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
      rssBytes += Number(/^Rss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024
      pssBytes += Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024
    } catch {
      // It ended while we looked.
    }
  }
  return { rssBytes, pssBytes }
}

/** The kernel counts CPU time in hundredths of a second for programs. */
const TICK_MS = 10

/** CPU time that processes (all their threads) have used so far, in ms. */
export function cpuMsOf(pids: readonly number[]): number {
  let ticks = 0
  for (const pid of pids) {
    try {
      // The name before them may hold blanks.
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ')
      ticks += Number(fields[11]) + Number(fields[12])
    } catch {
      // It ended while we looked.
    }
  }
  return ticks * TICK_MS
}

export function percentile(values: readonly number[] | Float32Array, share: number): number {
  const sorted = Float64Array.from(values).sort()
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}
