import { spawn } from 'node:child_process'
import { mkdirSync, openSync } from 'node:fs'
import { cgroupProcesses, joinCgroup } from './cgroup.js'
import { guardName } from './guard-child.js'
import { type ClusterLayout, machineNamesOf, namesOf, type Places } from './layout.js'
import { liveProcess, removeProcessFile, waitFor, writeProcessFile } from './process-file.js'
import { programPath } from './programs.js'
import { isRoot } from './shell.js'

/** How long a guard that was woken may take to have ended what is due. */
const GUARD_WAIT_MS = 2000

/**
 * A machine of `capstan up` is one process group (and, with containers, one cgroup). Killing the machine means both;
 * killing its leader alone leaves containers running, as a dead kubelet does.
 */
export type MachineKind = 'master' | 'node' | 'gateway' | 'embedded'

export const MACHINE_NAME_ERROR = (layout: ClusterLayout, name: string) =>
  `there is no machine "${name}"; machines: ${machineNamesOf(layout).join(', ')}`

export function machineKind(layout: ClusterLayout, name: string): MachineKind | undefined {
  if (name === 'embedded' && layout.bus === 'memory') return 'embedded'
  if (name === 'gateway') return 'gateway'
  if (layout.masters.some((m) => m.name === name)) return 'master'
  if (layout.nodes.some((n) => n.name === name)) return 'node'
  return undefined
}

export function machinePid(places: Places, name: string): number | undefined {
  return liveProcess(places.pidFile(name))
}

/** Every name that a process of this directory may have, whichever bus it was started with. */
export const everyProcessName = (layout: ClusterLayout): string[] => ['gateway', 'embedded', ...machineNamesOf(layout)]

export const runningProcesses = (layout: ClusterLayout, places: Places): string[] =>
  everyProcessName(layout).filter((name) => machinePid(places, name) !== undefined)

/** Starts the machine's process group; a live one is left alone. `env` comes on top of ours. Returns its leader's id. */
export function startMachine(
  layout: ClusterLayout,
  places: Places,
  name: string,
  env: Readonly<Record<string, string>> = {},
): number {
  const alive = machinePid(places, name)
  if (alive !== undefined) return alive
  const kind = machineKind(layout, name)
  if (kind === undefined) throw new Error(MACHINE_NAME_ERROR(layout, name))
  mkdirSync(places.logs, { recursive: true })
  const out = openSync(places.log(name), 'a')
  const program = [process.execPath, ...heapFlags(kind), programPath(`run-${kind}`), places.data, name]
  const inNamespace = kind === 'node' && layout.isolated
  const command = inNamespace
    ? ['nsenter', `--net=/run/netns/${namesOf(layout).netns(name)}`, '--', ...program]
    : program
  const child = spawn(command[0] as string, command.slice(1), {
    detached: true,
    stdio: ['ignore', out, out],
    // The components' own settings come from the layout; the environment is only handed through.
    env: { ...process.env, ...env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
  })
  const pid = child.pid
  if (pid === undefined) throw new Error(`cannot start ${command[0]} for ${name}`)
  child.unref()
  if (isRoot()) joinCgroup(namesOf(layout).cgroup(name), pid)
  writeProcessFile(places.pidFile(name), pid)
  return pid
}

// Small young generations: ten processes share one machine, and none of them keeps much.
function heapFlags(kind: MachineKind): string[] {
  switch (kind) {
    case 'embedded':
      return ['--max-semi-space-size=16']
    case 'master':
      return ['--max-semi-space-size=8']
    default:
      return ['--max-semi-space-size=4']
  }
}

/** SIGKILL to the process group and to everything in the machine's cgroup, until nothing is left. */
export async function killMachine(layout: ClusterLayout, places: Places, name: string): Promise<boolean> {
  const pid = machinePid(places, name)
  const cgroup = namesOf(layout).cgroup(name)
  const gone = await waitFor(
    () => {
      const rest = new Set(cgroupProcesses(cgroup))
      // Outside the group; without a cgroup it is known by its record only.
      const guard = machinePid(places, guardName(name))
      if (guard !== undefined) rest.add(guard)
      if (pid !== undefined) {
        signalGroup(pid, 'SIGKILL')
        if (liveProcess(places.pidFile(name)) !== undefined) rest.add(pid)
      }
      for (const process of rest) signal(process, 'SIGKILL')
      return rest.size === 0
    },
    10_000,
    20,
  )
  if (gone) for (const process of [name, guardName(name)]) removeProcessFile(places.pidFile(process))
  return gone
}

/** SIGSTOP to all of the machine, containers and guard included. */
export function pauseMachine(layout: ClusterLayout, places: Places, name: string): boolean {
  const pid = machinePid(places, name)
  if (pid === undefined) return false
  signalGroup(pid, 'SIGSTOP')
  for (const process of cgroupProcesses(namesOf(layout).cgroup(name))) signal(process, 'SIGSTOP')
  return true
}

/**
 * SIGCONT to all of it; the guard first: it ends what may live elsewhere by now, before that goes on. (The machines of a
 * hypervisor can't be woken in that order: a guard that does not run for a while is beyond promise C3.)
 */
export async function resumeMachine(layout: ClusterLayout, places: Places, name: string): Promise<boolean> {
  const pid = machinePid(places, name)
  if (pid === undefined) return false
  const guard = machinePid(places, guardName(name))
  if (guard !== undefined) {
    const { bootMs, FileGuard } = await import('@capstan/kubelet/edge')
    const startMs = bootMs()
    signal(guard, 'SIGCONT')
    const files = new FileGuard(places.machine(name))
    await waitFor(() => (files.state()?.atMs ?? 0) >= startMs, GUARD_WAIT_MS, 20)
  }
  signalGroup(pid, 'SIGCONT')
  for (const process of cgroupProcesses(namesOf(layout).cgroup(name))) signal(process, 'SIGCONT')
  return true
}

/** SIGTERM to the leader, which ends its own; after `timeoutMs` SIGKILL to all. */
export async function stopMachine(
  layout: ClusterLayout,
  places: Places,
  name: string,
  timeoutMs: number,
): Promise<void> {
  const pid = machinePid(places, name)
  if (pid !== undefined) {
    signal(pid, 'SIGCONT')
    signal(pid, 'SIGTERM')
    await waitFor(() => machinePid(places, name) === undefined, timeoutMs)
  }
  await killMachine(layout, places, name)
}

export function signal(pid: number, what: NodeJS.Signals): boolean {
  try {
    process.kill(pid, what)
    return true
  } catch {
    return false // It is gone: what the signal was for has happened.
  }
}

function signalGroup(leader: number, what: NodeJS.Signals): void {
  signal(-leader, what)
}
