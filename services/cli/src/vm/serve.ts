/** `capstan serve`: the machine of a directory, in this process. */
import { mkdirSync } from 'node:fs'
import { UserError } from '../console.js'
import { Places } from '../layout.js'
import { once, within } from '../patience.js'
import { liveProcess, removeProcessFile, writeProcessFile } from '../process-file.js'
import { realLog } from '@capstan/real'
import { existingMachine, type MachineFile } from './machine-file.js'

const BEGIN_MS = 3000

/**
 * Resolves when the machine has begun; it ends with SIGTERM or SIGINT, and the process with it. `keepPods`: its containers do not.
 * @throws UserError if it runs already, or there is none.
 */
export async function serve(data: string, options: { keepPods: boolean } = { keepPods: false }): Promise<void> {
  const places = new Places(data)
  const machine = existingMachine(places)
  const { name } = machine
  const running = liveProcess(places.pidFile(name))
  if (running !== undefined && running !== process.pid)
    throw new UserError(`${name} runs already, as process ${running}; capstan stop --data ${data} ends it`)
  mkdirSync(places.logs, { recursive: true })
  writeProcessFile(places.pidFile(name), process.pid)
  const log = realLog({ name })
  const served = start(places, machine, log)
  const stop = once(async (signal: string) => {
    log.info({ signal }, 'stopping')
    // One that has not begun waits for a bus that may never come; then its children end with this process.
    const begun = await within(
      BEGIN_MS,
      served.catch(() => undefined),
    )
    await begun?.stop(options.keepPods)
    removeProcessFile(places.pidFile(name))
    process.exit(0)
  })
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal))
  try {
    await served
  } catch (error) {
    removeProcessFile(places.pidFile(name))
    throw error
  }
}

async function start(places: Places, machine: MachineFile, log: ReturnType<typeof realLog>) {
  if (machine.role === 'master') return (await import('./serve-master.js')).serveMaster(places, machine, log)
  return (await import('./serve-node.js')).serveNode(places, machine, log)
}
