/** A client of the bus that asks for much and reads nothing: its server must get rid of it, and nobody else may notice. */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Done } from '../types.js'
import { awaitThat, processState, send } from './host-edge.js'

const PROGRAM = join(import.meta.dirname, 'slow-consumer-main-edge.js')
const ASKED_MS = 15_000
/** The server's time for one write to a client is two seconds (`write_deadline`). */
const THROWN_OUT_MS = 10_000
const AGAIN_MS = 20_000

/** How often a bus server has thrown out a client that did not read, by its log. */
const thrownOut = (log: string) =>
  existsSync(log) ? (readFileSync(log, 'utf8').match(/Slow Consumer Detected/g)?.length ?? 0) : 0

let number = 0

/** In force once a server has thrown it out. `logs`: of the bus servers of the cluster in `directory`. */
export async function slowConsumer(directory: string, logs: readonly string[]): Promise<Done> {
  const count = () => logs.reduce((sum, log) => sum + thrownOut(log), 0)
  const before = count()
  const name = `slow-consumer-${process.pid}-${++number}`
  const child = spawn(process.execPath, [PROGRAM, directory, name], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // Ctrl-C is the harness's.
    detached: true,
  })
  const pid = child.pid as number
  const said: string[] = []
  let wrong = ''
  let hasEnded = false
  createInterface({ input: child.stdout }).on('line', (line) => said.push(line))
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    wrong = (wrong + text).slice(-400)
  })
  child.on('exit', () => {
    hasEnded = true
  })
  const says = (what: string, timeoutMs: number) =>
    awaitThat(
      `a slow consumer says "${what}"`,
      () => {
        const line = said.some((one) => one.startsWith(what))
        if (!line && hasEnded) throw new Error(`the slow consumer ended: ${wrong}`)
        return line
      },
      timeoutMs,
    )
  const undo = async () => {
    send(pid, 'SIGCONT')
    try {
      await says('again', AGAIN_MS)
      return `${name} read on, and is on the bus anew`
    } finally {
      child.kill('SIGKILL')
    }
  }
  try {
    await says('asked', ASKED_MS)
    await awaitThat('the slow consumer stands still', () => processState(pid)?.state === 'T')
    await awaitThat('a bus server throws out who does not read', () => count() > before, THROWN_OUT_MS)
  } catch (error) {
    await undo().catch(() => undefined)
    throw error
  }
  return { proof: `process ${pid} reads nothing (state T); its bus server found a slow consumer`, undo }
}
