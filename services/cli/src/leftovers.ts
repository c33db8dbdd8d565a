import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { cgroupProcesses, removeCgroup } from './cgroup.js'
import { type ClusterLayout, namesOf, type Places } from './layout.js'
import { everyProcessName, killMachine, signal } from './machines.js'
import { mountsBelow, processesNaming, tearDownNetwork } from './network.js'
import { waitFor } from './process-file.js'
import { isRoot, run } from './shell.js'

/**
 * Removes everything of a cluster from the host but its data: processes, containers, mounts, namespaces, links, rules,
 * cgroups. Works from what it finds, so that it also clears up after a `kill -9` of everything. Idempotent.
 */
export async function clearLeftovers(layout: ClusterLayout, places: Places): Promise<string[]> {
  const problems: string[] = []
  for (const name of everyProcessName(layout))
    if (!(await killMachine(layout, places, name))) problems.push(`processes of ${name} do not end`)
  // Children that left their group, and whatever an older run of this directory left.
  const ended = await waitFor(
    () => {
      const rest = processesNaming(places.data).filter((pid) => !isAncestor(pid))
      for (const pid of rest) signal(pid, 'SIGKILL')
      return rest.length === 0
    },
    5000,
    50,
  )
  if (!ended) problems.push(`processes below ${places.data} do not end`)
  if (isRoot()) {
    if (layout.isolated) {
      const { clearContainerd } = await import('@capstan/kubelet/edge')
      for (const node of layout.nodes) {
        const dir = join(places.machine(node.name), 'c')
        // In the node's own namespace: this host may have a bridge of the same name.
        const netns = namesOf(layout).netns(node.name)
        const left = { dir, netns, cgroupParent: `/${namesOf(layout).cgroup(node.name)}/pods` }
        if (existsSync(dir)) await clearContainerd(left).catch((error: unknown) => problems.push(String(error)))
      }
    }
    for (const mount of mountsBelow(places.data)) {
      const unmounted = await run('umount', ['-l', mount])
      if (unmounted.code !== 0) problems.push(`cannot unmount ${mount}: ${unmounted.stderr.trim()}`)
    }
    if (layout.isolated) {
      await tearDownNetwork(layout)
      const names = namesOf(layout)
      for (const node of layout.nodes) {
        const cgroup = names.cgroup(node.name)
        await waitFor(() => cgroupProcesses(cgroup).length === 0, 2000)
      }
    }
    removeCgroup(`capstan-${layout.id}`)
  }
  if (existsSync(places.run))
    for (const file of readdirSync(places.run)) rmSync(`${places.run}/${file}`, { force: true })
  return problems
}

/** This process and those that started it name the data directory too, and are no leftovers. */
function isAncestor(pid: number): boolean {
  let current = process.pid
  for (let depth = 0; depth < 32 && current > 1; depth++) {
    if (current === pid) return true
    current = current === process.pid ? process.ppid : (readParent(current) ?? 0)
  }
  return false
}

function readParent(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
  } catch {
    return undefined
  }
}
