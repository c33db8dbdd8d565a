import { existsSync, readdirSync, readFileSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'

const MOUNT = '/sys/fs/cgroup'

/** The mount points of all hierarchies: v1, v2 alone, or both side by side. */
function hierarchies(): string[] {
  if (!existsSync(MOUNT)) return []
  if (existsSync(join(MOUNT, 'cgroup.procs'))) return [MOUNT]
  return readdirSync(MOUNT)
    .map((name) => join(MOUNT, name))
    .filter((dir) => existsSync(join(dir, 'cgroup.procs')))
}

/** Every process in the cgroup and below it, in any hierarchy. */
export function cgroupProcesses(path: string): number[] {
  const found = new Set<number>()
  const walk = (dir: string) => {
    try {
      for (const line of readFileSync(join(dir, 'cgroup.procs'), 'utf8').split('\n')) if (line) found.add(Number(line))
      for (const entry of readdirSync(dir, { withFileTypes: true }))
        if (entry.isDirectory()) walk(join(dir, entry.name))
    } catch {
      // A cgroup that is not there, or went away while we looked, has no process.
    }
  }
  for (const hierarchy of hierarchies()) walk(join(hierarchy, path))
  found.delete(0)
  return [...found].sort((a, b) => a - b)
}

/** Files by which the kernel ends all of a cgroup at once (version 2 since Linux 5.14). */
export function killFiles(path: string): string[] {
  return hierarchies()
    .map((hierarchy) => join(hierarchy, path, 'cgroup.kill'))
    .filter((file) => existsSync(file))
}

/** Removes an empty cgroup and those below it. */
export function removeCgroup(path: string): void {
  const remove = (dir: string) => {
    if (!existsSync(dir)) return
    for (const entry of readdirSync(dir, { withFileTypes: true }))
      if (entry.isDirectory()) remove(join(dir, entry.name))
    try {
      rmdirSync(dir)
    } catch {
      // Not empty (its last process is a zombie still), or gone.
    }
  }
  for (const hierarchy of hierarchies()) remove(join(hierarchy, path))
}
