/** The machine of a directory as a process: started in the background, stopped. */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { UserError } from '../console.js'
import { guardName } from '../guard-child.js'
import type { Places } from '../layout.js'
import { signal } from '../machines.js'
import { liveProcess, removeProcessFile, waitFor, writeProcessFile } from '../process-file.js'
import { programPath } from '../programs.js'
import { isRoot } from '../shell.js'
import { DATA_DIRECTORY, type MachineFile } from './machine-file.js'

const STOP_TIMEOUT_MS = 20_000
const RESTART_SECONDS = 1
/** A second or three where there is a processor to be had. */
const READY_TIMEOUT_MS = 120_000
const LOG_LINES = 12
/** Lives of a machine while it starts, after which it is not waited for any longer. */
const LIVES_MAX = 3

export const machineCommand = (machine: MachineFile, data: string): string[] => [
  process.execPath,
  // Small young generations: a machine keeps little, and others share its memory.
  `--max-semi-space-size=${machine.role === 'master' ? 8 : 4}`,
  programPath('run-machine'),
  data,
]

/**
 * In a process group of its own, begun again whenever it ends otherwise than by `stopMachineProcess`: what a unit of systemd does
 * where there is systemd.
 */
export function startMachineProcess(places: Places, machine: MachineFile): void {
  const isSupervised = liveProcess(places.pidFile(supervisorName(machine))) !== undefined
  if (isSupervised || machinePid(places, machine) !== undefined) return
  mkdirSync(places.logs, { recursive: true })
  const out = openSync(places.log(machine.name), 'a')
  const untilItEndsWell = `until "$@"; do sleep ${RESTART_SECONDS}; done`
  const child = spawn('sh', ['-c', untilItEndsWell, 'capstan-machine', ...machineCommand(machine, places.data)], {
    detached: true,
    cwd: '/',
    stdio: ['ignore', out, out],
    env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
  })
  if (child.pid === undefined) throw new UserError(`cannot start sh for ${machine.name}`)
  child.unref()
  writeProcessFile(places.pidFile(supervisorName(machine)), child.pid)
}

const supervisorName = ({ name }: MachineFile) => `${name}-supervisor`

export const machinePid = (places: Places, machine: MachineFile) => liveProcess(places.pidFile(machine.name))

/**
 * What `init` and `join` end with: the unit of systemd where that runs and the machine is the host's own (its directory is the
 * usual one), else a process group.
 */
export async function startMachine(places: Places, machine: MachineFile): Promise<void> {
  if (places.data !== DATA_DIRECTORY || !existsSync('/run/systemd/system') || !isRoot())
    return startMachineProcess(places, machine)
  const { installSystemd } = await import('../systemd/install.js')
  await installSystemd({ data: places.data, root: '/', start: true })
}

/** Asks until it is so. @throws UserError with the end of the machine's log: too long, or it ends again and again */
export async function awaitMachine(
  places: Places,
  machine: MachineFile,
  isReady: () => Promise<boolean>,
  what: string,
  timeoutMs = READY_TIMEOUT_MS,
): Promise<void> {
  const lives = new Set<number>()
  const isOver = async () => {
    const pid = machinePid(places, machine)
    if (pid !== undefined) lives.add(pid)
    return lives.size > LIVES_MAX || (await isReady())
  }
  const ended = await waitFor(isOver, timeoutMs, 100)
  if (lives.size > LIVES_MAX)
    throw new UserError(
      `${machine.name} ends again and again; the end of ${places.log(machine.name)}:\n${logEnd(places, machine.name)}`,
    )
  if (ended) return
  throw new UserError(
    `${machine.name} runs, but ${what} has not come after ${timeoutMs / 1000} s; the end of ${places.log(machine.name)}:\n${logEnd(places, machine.name)}`,
  )
}

function logEnd(places: Places, name: string): string {
  const file = places.log(name)
  return existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n').slice(-LOG_LINES).join('\n') : ''
}

/** SIGTERM, and SIGKILL to what is left after 20 s. False: it did not run. */
export async function stopMachineProcess(places: Places, machine: MachineFile): Promise<boolean> {
  const { name } = machine
  // First who would start it again.
  const supervisor = kill(places, supervisorName(machine))
  const pid = machinePid(places, machine)
  if (pid !== undefined) {
    signal(pid, 'SIGCONT')
    signal(pid, 'SIGTERM')
    await waitFor(() => machinePid(places, machine) === undefined, STOP_TIMEOUT_MS)
  }
  for (const process of [name, `${name}-nats`, `${name}-store`, guardName(name)]) kill(places, process)
  return supervisor || pid !== undefined
}

function kill(places: Places, process: string): boolean {
  const pid = liveProcess(places.pidFile(process))
  removeProcessFile(places.pidFile(process))
  return pid !== undefined && signal(pid, 'SIGKILL')
}
