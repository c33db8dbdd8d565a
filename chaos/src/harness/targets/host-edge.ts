/** What is seen of, and done to, processes of this host. Everything is proved by /proc. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import type { Done, LiveContainer } from '../types.js'

const TICK_MS = 10
const COMMAND_SHOWN_MAX = 80
const WAIT_PERIOD_MS = 20

/** @throws Error that says what was awaited. */
export async function awaitThat(
  what: string,
  condition: () => boolean | Promise<boolean>,
  timeoutMs = 10_000,
): Promise<void> {
  const until = performance.now() + timeoutMs
  while (!(await condition())) {
    if (performance.now() > until) throw new Error(`not within ${timeoutMs / 1000} s: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, WAIT_PERIOD_MS))
  }
}

/** State letter as in `ps` (R, S, D, T, Z), parent, and processor time; undefined: there is no such process. */
export function processState(pid: number): { state: string; parent: number; group: number; cpuMs: number } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const cpuMs = (Number(fields[11]) + Number(fields[12])) * TICK_MS
    return { state: fields[0] ?? '', parent: Number(fields[1]), group: Number(fields[2]), cpuMs }
  } catch {
    return undefined
  }
}

/** SIGKILL, SIGSTOP: in the masks of /proc/PID/status. */
const STILL_SIGNALS = (1n << 8n) | (1n << 18n)

/**
 * Does the process run its program, or may it at any moment? Not if it has ended or been stopped, nor if it will be before
 * its next instruction: such a signal waits for it (a thawed process that was sent SIGSTOP meanwhile is runnable for some
 * milliseconds, but takes the signal first; proc(5), signal(7)).
 */
export function runsOn(pid: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const pending = [...status.matchAll(/^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$/gm)].map(([, mask]) => BigInt(`0x${mask}`))
    if (pending.some((mask) => (mask & STILL_SIGNALS) !== 0n)) return false
  } catch {
    return false // It is gone.
  }
  // After the signals: one that was taken in between has stopped or ended it.
  return !/^[ZTX]/.test(processState(pid)?.state ?? 'X')
}

const isLive = (pid: number) => !['Z', 'X', undefined].includes(processState(pid)?.state)
const isStopped = (pid: number) => processState(pid)?.state === 'T'

export function residentBytes(pid: number): number | undefined {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * 4096
  } catch {
    return undefined
  }
}

/** Live processes of a process group. */
export function groupMembers(group: number): number[] {
  return processIds().filter((pid) => processState(pid)?.group === group && isLive(pid))
}

/** SIGKILL; resolves when none of them lives. */
export async function killProcesses(what: string, pids: readonly number[]): Promise<string> {
  if (pids.length === 0) throw new Error(`${what} does not run`)
  for (const pid of pids) send(pid, 'SIGKILL')
  await awaitThat(`the end of ${what}`, () => !pids.some(isLive))
  return `${what}: ${pids.length === 1 ? `process ${pids[0]}` : `${pids.length} processes (${pids[0]}, …)`} gone`
}

/** SIGSTOP; resolves when all of them stand still. */
export async function stopProcesses(what: string, pids: readonly number[]): Promise<Done> {
  if (pids.length === 0) throw new Error(`${what} does not run`)
  for (const pid of pids) send(pid, 'SIGSTOP')
  await awaitThat(`${what} stands still`, () => pids.every((pid) => isStopped(pid) || !isLive(pid)))
  return {
    proof: `${what}: state T of ${pids.length === 1 ? `process ${pids[0]}` : `${pids.length} processes (${pids[0]}, …)`}`,
    undo: async () => {
      for (const pid of pids) send(pid, 'SIGCONT')
      await awaitThat(`${what} goes on`, () => !pids.some(isStopped))
      return `${what}: ${pids.filter(isLive).length} of ${pids.length} go on`
    },
  }
}

/** Busy loops. `mark` stands in their command line, so that clearing up after a crash finds them. */
export async function burnCpu(mark: string, threads: number, adopt: (pid: number) => void): Promise<Done> {
  const burners: ChildProcess[] = Array.from({ length: threads }, () =>
    spawn('sh', ['-c', 'while :; do :; done', `${mark}/burner`], { stdio: 'ignore', detached: true }),
  )
  const pids = burners.map((child) => child.pid).filter((pid) => pid !== undefined)
  for (const pid of pids) adopt(pid)
  const end = async () => {
    for (const child of burners) child.kill('SIGKILL')
    await awaitThat('the end of the busy loops', () => !pids.some(isLive))
    return `${pids.length} busy loops gone`
  }
  const used = () => pids.reduce((sum, pid) => sum + (processState(pid)?.cpuMs ?? 0), 0)
  try {
    await awaitThat('busy loops use the processor', () => used() >= 50)
  } catch (error) {
    await end()
    throw error
  }
  return { proof: `${pids.length} busy loops, ${used()} ms of processor used`, undo: end }
}

/**
 * Containers of machines: by their cgroup (containerd) or working directory (process runtime, which keeps all of a node below one
 * directory). Each container by its first process; the sandbox's own, and what stands still, is left out. `nodeOf`: the machine of a process with this
 * cgroup file and working directory; undefined: none of ours.
 */
export function liveContainersOf(options: {
  pids?: readonly number[]
  nodeOf(cgroup: string, cwd: string | undefined): string | undefined
  /** Where the process runtime of a node keeps its containers. */
  processDirectory(node: string): string
}): LiveContainer[] {
  const found = new Map<string, LiveContainer>()
  for (const pid of options.pids ?? processIds()) {
    try {
      const cgroups = readFileSync(`/proc/${pid}/cgroup`, 'utf8')
      const inPod = /\/pod([0-9a-f-]{36})\/([^/\n]+)/.exec(cgroups)
      const cwd = inPod ? undefined : readlinkSync(`/proc/${pid}/cwd`)
      const own = cwd === undefined ? undefined : /\/p\/(containers\/[^/]+)\/root/.exec(cwd)?.[1]
      const container = inPod?.[2] ?? own
      if (container === undefined) continue
      const node = options.nodeOf(cgroups, cwd)
      if (node === undefined || !runsOn(pid)) continue
      const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      const [command = '', argument] = commandLine.split('\0')
      // It has no program any more: it is ending.
      if (command === '') continue
      // The sandbox's own, and what is being made and has not become the container's program.
      const isMade = argument === 'init' && /(^|\/)runc$|^\/proc\/self\//.test(command)
      if (isMade || isSandboxProcess(commandLine)) continue
      // nginx writes its title over its environment: then the uid must do.
      const pod = environment(pid, 'HOSTNAME') ?? inPod?.[1]
      if (pod === undefined) continue
      const key = `${node}/${container}`
      if ((found.get(key)?.pid ?? Number.POSITIVE_INFINITY) < pid) continue
      const podUid = inPod?.[1] ?? uidOfProcessPod(options.processDirectory(node), container)
      const shown = commandLine.replaceAll('\0', ' ').trim().slice(0, COMMAND_SHOWN_MAX)
      found.set(key, { node, pod, container, pid, command: shown, ...(podUid === undefined ? {} : { podUid }) })
    } catch {
      // It ended while we looked.
    }
  }
  return [...found.values()]
}

/** Is this (as in /proc/PID/cmdline) what the pause image runs, ours or Kubernetes' own? It holds the pod's namespaces, and does nothing. */
export function isSandboxProcess(commandLine: string): boolean {
  const words = commandLine.split('\0').filter((word) => word !== '')
  return words[0] === '/pause' || words.slice(-2).join(' ') === '/bin/sleep 2147483647'
}

/** As the process runtime keeps it. */
function uidOfProcessPod(directory: string, container: string): string | undefined {
  try {
    const { state } = JSON.parse(readFileSync(`${directory}/${container}/container.json`, 'utf8')) as {
      state: { pod: { uid: string } }
    }
    return state.pod.uid
  } catch {
    return undefined // It is being made, or removed.
  }
}

function environment(pid: number, name: string): string | undefined {
  const line = readFileSync(`/proc/${pid}/environ`, 'utf8')
    .split('\0')
    .find((one) => one.startsWith(`${name}=`))
  return line?.slice(name.length + 1)
}

function processIds(): number[] {
  return readdirSync('/proc').map(Number).filter(Number.isInteger)
}

export function send(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(pid, signal)
    return true
  } catch {
    return false // It is gone: what the signal was for has happened.
  }
}
