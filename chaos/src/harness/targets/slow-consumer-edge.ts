/** A client of the bus that asks for much and reads nothing: its server must get rid of it, and nobody else may notice. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Done } from '../types.js'
import { awaitThat, processState, send } from './host-edge.js'

/** Its arguments: the data directory, and the name of an object that it may make. */
export const SLOW_CONSUMER_PROGRAM = join(import.meta.dirname, 'slow-consumer-main-edge.js')
const ASKED_MS = 15_000
/** The server's time for one write to a client is two seconds (`write_deadline`). */
const THROWN_OUT_MS = 5000
/** What it asked for may have been too little, as when an API server was busy otherwise: then it asks once more. */
const ATTEMPTS = 3
const AGAIN_MS = 20_000

export interface SlowConsumerSite {
  /** Of the cluster's bus servers. */
  logs: readonly string[]
  /** Starts the program, with this name for its object and its words in that file. Resolves with its process, by this host. */
  start(name: string): Promise<{ pid: number; log: string }>
}

const read = (file: string) => (existsSync(file) ? readFileSync(file, 'utf8') : '')

/** How often bus servers have thrown out a client that did not read, by their logs. */
const thrownOut = (logs: readonly string[]) =>
  logs.reduce((sum, log) => sum + (read(log).match(/Slow Consumer Detected/g)?.length ?? 0), 0)

let number = 0

/** In force once a server has thrown it out. */
export async function slowConsumer({ logs, start }: SlowConsumerSite): Promise<Done> {
  const before = thrownOut(logs)
  const name = `slow-consumer-${process.pid}-${++number}`
  const { pid, log } = await start(name)
  const isThere = () => !['Z', undefined].includes(processState(pid)?.state)
  const says = (word: string, times: number, timeoutMs: number) =>
    awaitThat(
      `a slow consumer says "${word}"`,
      () => {
        const wasThere = isThere()
        const said = read(log)
        if (said.split('\n').filter((line) => line.startsWith(word)).length >= times) return true
        if (!wasThere) throw new Error(`the slow consumer ended: ${said.slice(-400)}`)
        return false
      },
      timeoutMs,
    )
  const undo = async () => {
    send(pid, 'SIGCONT')
    try {
      await says('again', 1, AGAIN_MS)
      return `${name} read on, and is on the bus anew`
    } finally {
      send(pid, 'SIGKILL')
    }
  }
  try {
    for (let attempt = 1; ; attempt++)
      try {
        await says('asked', attempt, ASKED_MS)
        await awaitThat('the slow consumer stands still', () => processState(pid)?.state === 'T')
        await awaitThat('a bus server throws out who does not read', () => thrownOut(logs) > before, THROWN_OUT_MS)
        break
      } catch (error) {
        if (attempt === ATTEMPTS || !isThere()) throw error
        send(pid, 'SIGCONT')
      }
  } catch (error) {
    await undo().catch(() => undefined)
    throw error
  }
  return { proof: `process ${pid} reads nothing (state T); its bus server found a slow consumer`, undo }
}
