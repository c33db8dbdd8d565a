/** The machine of a directory as a process: started in the background, stopped. */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { UserError } from '../console.js'
import { guardName } from '../guard-child.js'
import type { Places } from '../layout.js'
import { signal } from '../machines.js'
import { liveProcess, removeProcessFile, waitFor, writeProcessFile } from '../process-file.js'
import { programPath } from '../programs.js'
import type { MachineFile } from './machine-file.js'

const STOP_TIMEOUT_MS = 20_000
const RESTART_SECONDS = 1
/** A second or three where there is a processor to be had. */
const READY_TIMEOUT_MS = 120_000
const LOG_LINES = 12

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

/** Asks until it is so. @throws UserError with the end of the machine's log */
export async function awaitMachine(
  places: Places,
  machine: MachineFile,
  isReady: () => Promise<boolean>,
  what: string,
  timeoutMs = READY_TIMEOUT_MS,
): Promise<void> {
  if (await waitFor(isReady, timeoutMs, 100)) return
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
