import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { GuardTarget } from '../guard-core.js'
import { cgroupProcesses, killFiles } from './cgroups.js'
import { isLive, readProcessRecord, startTicksOf } from './process-record.js'

/** A process that forks faster than we look is met again at the next look. */
const PASSES_MAX = 100

/** Ends all that runs of a pod, at once, asking nobody. Returns how many processes or groups there were. */
export function endTarget({ podUid, kill }: GuardTarget): number {
  switch (kill.kind) {
    case 'cgroup':
      return endCgroup(kill.path)
    case 'processes':
      return endProcesses(kill.directory, podUid)
    case 'hollow':
      return 0
  }
}

function endCgroup(path: string): number {
  const ended = new Set<number>()
  for (let pass = 0; pass < PASSES_MAX; pass++) {
    const alive = cgroupProcesses(path).filter((pid) => !isZombie(pid))
    if (alive.length === 0) break
    // Where the kernel can, all of them at once.
    for (const file of killFiles(path)) writeFileSync(file, '1')
    for (const pid of alive) {
      signal(pid)
      ended.add(pid)
    }
  }
  return ended.size
}

/**
 * The directories of a `ProcessRuntime` say which containers are the pod's; their process groups are found by the record
 * of each, or, if the kubelet was stopped before it wrote that, by the wrapper's command line.
 */
function endProcesses(directory: string, podUid: string): number {
  const groups = new Set<number>()
  for (const id of existsSync(directory) ? readdirSync(directory) : []) {
    const container = join(directory, id)
    if (podOf(join(container, 'container.json')) !== podUid) continue
    const record = readProcessRecord(join(container, 'process.json'))
    // Its leader may have ended before the rest; but not if another process has its id by now.
    if (record && (isLive(record) || startTicksOf(record.pid) === undefined)) groups.add(record.pid)
    else if (!record) for (const pid of wrappersOf(container)) groups.add(pid)
  }
  return [...groups].filter((group) => signal(-group)).length
}

function podOf(file: string): string | undefined {
  try {
    return (JSON.parse(readFileSync(file, 'utf8')) as { spec?: { pod?: { uid?: string } } }).spec?.pod?.uid
  } catch {
    return undefined // Torn: nothing was started for it.
  }
}

function wrappersOf(container: string): number[] {
  const found: number[] = []
  for (const entry of existsSync('/proc/self/cmdline') ? readdirSync('/proc') : []) {
    if (!/^\d+$/.test(entry)) continue
    try {
      const words = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0')
      if (words.includes('capstan-container') && words.includes(container)) found.push(Number(entry))
    } catch {
      // It ended while we looked.
    }
  }
  return found
}

function isZombie(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z')
  } catch {
    return true
  }
}

function signal(pid: number): boolean {
  try {
    return process.kill(pid, 'SIGKILL')
  } catch {
    return false // It is gone: what this was for has happened.
  }
}
