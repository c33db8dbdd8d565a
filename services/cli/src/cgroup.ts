import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const MOUNT = '/sys/fs/cgroup'

/** Directories of one cgroup path in all hierarchies (v1, or v2 alone, or both side by side). */
function hierarchies(): string[] {
  if (!existsSync(MOUNT)) return []
  if (existsSync(join(MOUNT, 'cgroup.procs'))) return [MOUNT]
  return readdirSync(MOUNT)
    .map((name) => join(MOUNT, name))
    .filter((dir) => existsSync(join(dir, 'cgroup.procs')))
}

/** Makes the cgroup and puts a process into it; its children follow. cpuset needs its parent's values copied first. */
export function joinCgroup(path: string, pid: number): void {
  for (const hierarchy of hierarchies()) {
    // Memory and CPU accounting of this process stays where it is: only what a kill needs.
    if (!/(pids|unified|systemd|cgroup)$/.test(hierarchy)) continue
    const dir = join(hierarchy, path)
    mkdirSync(dir, { recursive: true })
    writeFileSync(join(dir, 'cgroup.procs'), String(pid))
  }
}

/** Every process in the cgroup and below it, in any hierarchy. */
export function cgroupProcesses(path: string): number[] {
  const found = new Set<number>()
  const walk = (dir: string) => {
    if (!existsSync(dir)) return
    for (const line of readFileSync(join(dir, 'cgroup.procs'), 'utf8').split('\n')) if (line) found.add(Number(line))
    for (const entry of readdirSync(dir, { withFileTypes: true })) if (entry.isDirectory()) walk(join(dir, entry.name))
  }
  for (const hierarchy of hierarchies()) {
    try {
      walk(join(hierarchy, path))
    } catch {
      // A cgroup that went away while we looked had no process left.
    }
  }
  found.delete(0)
  return [...found]
}

/** Removes the empty cgroup and those below it. */
export function removeCgroup(path: string): void {
  const remove = (dir: string) => {
    if (!existsSync(dir)) return
    for (const entry of readdirSync(dir, { withFileTypes: true }))
      if (entry.isDirectory()) remove(join(dir, entry.name))
    try {
      rmdirSync(dir)
    } catch {
      // Not empty yet, or gone: `stop` looks for leftovers afterwards.
    }
  }
  for (const hierarchy of hierarchies()) remove(join(hierarchy, path))
}
