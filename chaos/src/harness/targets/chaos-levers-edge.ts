/** Faults inside processes that were started with --chaos: asked for over their sockets, proved by their counters. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import type { ChaosOrder, ChaosWord } from '@capstan/real/chaos'
import type { Component, Done, Levers } from '../types.js'
import { awaitThat, killProcesses } from './host-edge.js'

type DiskOrder = Extract<ChaosOrder, { order: 'disk' }>

const ANSWER_MS = 5000
/** A disk fault shows when something is written; a clock's when somebody asks. */
const BITE_MS = 15_000

export interface ChaosSite {
  /** The socket of a process of a machine; `store` of a master, or the machine's own process. */
  socket(machine: string, process: 'store' | 'own'): string
  isMaster(machine: string): boolean
  /** Of a master's store: below it lie `raft` and `damaged`. */
  storeDirectory(machine: string): string
  /** Ends the store and keeps it down until `resume`. */
  holdStoreDown(machine: string): Promise<{ proof: string; resume(): Promise<string> }>
  /** Resolves when a store that ended by itself is there again. */
  storeIsBack(machine: string, before?: number): Promise<string>
  /** The store's process, if it runs. */
  storePid(machine: string): number | undefined
  /** Resolves when it answers. One whose disk fails ends, and is begun anew after ever longer pauses. */
  storeAnswers(machine: string): Promise<string>
}

/** How a target gets at the store of one of its machines. */
export interface StoreProcess {
  /** For proofs. */
  label: string
  pids(): number[]
  answers(): Promise<boolean>
  /** Makes whoever would start it again stand still. */
  pauseControl(): Promise<Done>
  backMs: number
}

/** For `ChaosSite`, of a store in a process of its own. */
export function storeDowntime(
  storeOf: (machine: string) => StoreProcess,
): Pick<ChaosSite, 'holdStoreDown' | 'storeIsBack' | 'storePid' | 'storeAnswers'> {
  const storePid = (machine: string) => storeOf(machine).pids()[0]
  // One that is about to die may still answer.
  const storeIsBack = async (machine: string, before = storePid(machine)) => {
    const store = storeOf(machine)
    const what = `the store of ${machine} answers`
    await awaitThat(what, async () => store.pids()[0] !== before && (await store.answers()), store.backMs)
    return what
  }
  const holdStoreDown = async (machine: string) => {
    const store = storeOf(machine)
    const held = await store.pauseControl()
    const resume = async () => {
      await held.undo()
      return storeIsBack(machine)
    }
    try {
      return { proof: await killProcesses(store.label, store.pids()), resume }
    } catch (error) {
      await resume()
      throw error
    }
  }
  const storeAnswers = async (machine: string) => {
    const store = storeOf(machine)
    await awaitThat(`${store.label} answers`, () => store.answers(), store.backMs)
    return `${store.label} answers`
  }
  return { holdStoreDown, storeIsBack, storePid, storeAnswers }
}

/** One order, one word. @throws Error if nobody answers, or the process says that it cannot. */
export function tell(path: string, order: ChaosOrder, answerMs = ANSWER_MS): Promise<ChaosWord> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    const fail = (text: string) => {
      clearTimeout(timer)
      socket.destroy()
      reject(new Error(`${path}: ${text}`))
    }
    const timer = setTimeout(() => fail(`no answer in ${answerMs} ms`), answerMs)
    let line = ''
    socket.setEncoding('utf8')
    socket.once('connect', () => socket.write(`${JSON.stringify(order)}\n`))
    socket.on('error', (error) => fail(error.message))
    socket.on('close', () => fail('closed without an answer'))
    socket.on('data', (chunk: string) => {
      line += chunk
      if (!line.includes('\n')) return
      clearTimeout(timer)
      socket.removeAllListeners('close')
      socket.destroy()
      const word = JSON.parse(line) as ChaosWord
      if (word.error !== undefined) reject(new Error(`${path}: ${word.error}`))
      else resolve(word)
    })
  })
}

export function chaosLevers(site: ChaosSite): Required<Pick<Levers, 'disk' | 'clock' | 'eventLoop'>> {
  /** Set, then awaited until its counter grows; set right again if it does not bite. */
  const bite = async (
    what: string,
    path: string,
    on: ChaosOrder,
    off: ChaosOrder,
    count: (word: ChaosWord) => number,
    unit: string,
  ): Promise<Done> => {
    const before = count(await tell(path, on))
    let now = before
    const rightAgain = async () => {
      try {
        const word = await tell(path, off)
        return `${what}: right again, after ${count(word) - before} ${unit}`
      } catch {
        // A process that ended meanwhile was started anew, and behaves.
        return `${what}: its process was started anew`
      }
    }
    try {
      await awaitThat(
        `${what}: ${unit}`,
        async () => {
          now = count(await tell(path, { order: 'look' }))
          return now > before
        },
        BITE_MS,
      )
    } catch (error) {
      // Ended by the very fault that we asked for: that is a bite too.
      const ended = await tell(path, { order: 'look' }).then(
        () => false,
        () => true,
      )
      if (!ended || on.order !== 'disk' || !on.failsSyncs) {
        await rightAgain()
        throw error
      }
      return { proof: `${what}: its process ended`, undo: rightAgain }
    }
    return { proof: `${what}: ${now - before} ${unit}`, undo: rightAgain }
  }
  const processesOf = (machine: string) => (site.isMaster(machine) ? (['store', 'own'] as const) : (['own'] as const))
  const clockFault = async (
    machine: string,
    on: { offsetMs?: number; rate?: number },
    off: typeof on,
  ): Promise<Done> => {
    const done: Done[] = []
    const undo = async () => {
      const proofs = await Promise.all(done.map((one) => one.undo()))
      return proofs.join('; ')
    }
    try {
      for (const process of processesOf(machine))
        done.push(
          await bite(
            `clock of ${machine}${process === 'store' ? '’s store' : ''}`,
            site.socket(machine, process),
            { order: 'clock', ...on },
            { order: 'clock', ...off },
            (word) => word.clock?.asked ?? 0,
            'times that it was asked and told wrong',
          ),
        )
    } catch (error) {
      await undo()
      throw error
    }
    return { proof: done.map((one) => one.proof).join('; '), undo }
  }
  const store = (machine: string) => site.socket(machine, 'store')
  const diskFault = async (
    machine: string,
    on: Omit<DiskOrder, 'order'>,
    off: Omit<DiskOrder, 'order'>,
    count: (disk: NonNullable<ChaosWord['disk']>) => number,
    unit: string,
  ): Promise<Done> => {
    const { proof, undo } = await bite(
      `disk of ${machine}`,
      store(machine),
      { order: 'disk', ...on },
      { order: 'disk', ...off },
      ({ disk }) => (disk ? count(disk) : 0),
      unit,
    )
    return { proof, undo: async () => `${await undo()}; ${await site.storeAnswers(machine)}` }
  }
  return {
    disk: {
      full: (machine) =>
        diskFault(
          machine,
          { isFull: true },
          { isFull: false },
          ({ writesRefused, saidFull }) => writesRefused + saidFull,
          'times that it had no room',
        ),
      slowSync: (machine, ms) =>
        diskFault(
          machine,
          { syncDelayMs: ms },
          { syncDelayMs: 0 },
          ({ syncsDelayed }) => syncsDelayed,
          `syncs that took ${ms} ms longer`,
        ),
      failSync: (machine) =>
        diskFault(
          machine,
          { failsSyncs: true },
          { failsSyncs: false },
          ({ syncsFailed }) => syncsFailed,
          'syncs that failed',
        ),
      async loseUnsynced(machine) {
        // Its next life may have begun before the word comes that this one ends.
        const before = site.storePid(machine)
        const { disk } = await tell(store(machine), { order: 'cut-power' }, BITE_MS).catch(async (error: unknown) => {
          // Nobody wrote. Its disk takes no sync any more: another life of it has a whole one.
          await (await site.holdStoreDown(machine)).resume()
          throw error
        })
        const back = site.storeIsBack(machine, before)
        back.catch(() => undefined) // Whoever undoes is told.
        return {
          proof: `disk of ${machine}: ${disk?.bytesLost ?? 0} bytes that were written and not synced are lost, its store killed`,
          undo: () => back,
        }
      },
      async flipBits(machine, count) {
        const { proof, resume } = await site.holdStoreDown(machine)
        try {
          const flipped = flipBitsOfLog(join(site.storeDirectory(machine), 'raft'), count)
          return {
            proof: `${proof}; ${flipped.proof}`,
            undo: async () => {
              const back = await resume()
              if (!isSetAside(site.storeDirectory(machine), flipped))
                throw new Error(
                  `the store of ${machine} answers, and has not set ${flipped.name} aside: it did not notice`,
                )
              return `${back}, and has set ${flipped.name} aside`
            },
          }
        } catch (error) {
          await resume()
          throw error
        }
      },
    },
    clock: {
      jump: (machine, ms) => clockFault(machine, { offsetMs: ms }, { offsetMs: 0 }),
      skew: (machine, rate) => clockFault(machine, { rate }, { rate: 1 }),
    },
    eventLoop: {
      block: (machine: string, component: Component, ms: number) =>
        bite(
          `event loop of ${component} of ${machine}`,
          site.socket(machine, component === 'store' ? 'store' : 'own'),
          { order: 'block', ms },
          { order: 'block', ms: 0 },
          ({ blocked }) => blocked,
          `times blocked for ${ms} ms`,
        ),
    },
  }
}

/** In the middle of what was written of the newest segment: damage there is no torn tail. */
function flipBitsOfLog(directory: string, count: number): { proof: string; name: string; inode: number } {
  const segments = readdirSync(directory).sort()
  for (const name of [...segments].reverse()) {
    const path = join(directory, name)
    const bytes = readFileSync(path)
    // Segments are zeroed before they are used.
    let end = bytes.length
    while (end > 0 && bytes[end - 1] === 0) end--
    if (end < 4096) continue
    const places = Array.from({ length: count }, (_, at) => Math.floor(end / 2) + at * 7)
    for (const place of places) bytes[place] = (bytes[place] as number) ^ (1 << (place % 8))
    writeFileSync(path, bytes)
    const proof = `${count} bits flipped in ${name} at ${places.join(', ')} of ${end} bytes`
    return { proof, name, inode: statSync(path).ino }
  }
  throw new Error(`no segment in ${directory} holds enough to damage`)
}

/** A store moves a damaged file as it is. */
function isSetAside(storeDirectory: string, { name, inode }: { name: string; inode: number }): boolean {
  const path = join(storeDirectory, 'damaged/raft', name)
  return existsSync(path) && statSync(path).ino === inode
}
