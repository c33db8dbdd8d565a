/** Whether the processes of a directory may be made to misbehave: only while `chaos.json` lies in it (`--chaos`). */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Clock, Log } from '@capstan/actor'
import { RealClock } from '@capstan/real'
import { UserError } from './console.js'
import type { Places } from './layout.js'

export interface ChaosFile {
  /** Deliberate bugs of the store (`PLANTED_BUGS`): for the tests of the checkers. */
  bugs?: string[]
}

/** The kernel's limit for the path of a socket. */
const SOCKET_PATH_MAX = 107

const file = (places: Places) => join(places.data, 'chaos.json')

/** Where a process listens for orders: `master-0`, `master-0-store`, `node-0`. */
export const chaosSocket = (places: Places, process: string): string => join(places.run, `${process}.chaos`)

export function readChaosFile(places: Places): ChaosFile | undefined {
  return existsSync(file(places)) ? (JSON.parse(readFileSync(file(places), 'utf8')) as ChaosFile) : undefined
}

/** Undefined: from their next start on processes behave. @throws UserError if the directory's path is too long for sockets. */
export function writeChaosFile(places: Places, chaos: ChaosFile | undefined): void {
  if (chaos === undefined) return rmSync(file(places), { force: true })
  if (chaosSocket(places, 'master-0-store').length > SOCKET_PATH_MAX)
    throw new UserError(`--chaos: ${places.data} is too long a path for sockets below it`)
  mkdirSync(places.data, { recursive: true })
  writeFileSync(file(places), JSON.stringify(chaos))
}

/** The clock of a process: the real one, or with --chaos one that can be set wrong by the socket that opens with it. */
export async function processClock(places: Places, process: string, log: Log): Promise<Clock> {
  if (!readChaosFile(places)) return new RealClock()
  const { Chaos } = await import('@capstan/real/chaos')
  const chaos = new Chaos(new RealClock(), log)
  const clock = chaos.clock()
  await chaos.listen(chaosSocket(places, process))
  return clock
}
