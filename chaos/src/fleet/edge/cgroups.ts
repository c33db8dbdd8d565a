import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { signal, statOf, until } from './host.js'

const MOUNT = '/sys/fs/cgroup'

/**
 * How long one attempt to freeze may take before the group is thawed and frozen anew. v1's freezer can miss what forks
 * meanwhile, so it is also told again at each look; it can stay FREEZING where one process waits in the kernel for
 * another that is frozen already.
 */
const REFREEZE_MS = 1000

/** The host has one hierarchy (v2), or one for each controller (v1) with a v2 one beside them, which then has few. */
export const isUnified = (): boolean => existsSync(join(MOUNT, 'cgroup.procs'))

function hierarchies(): string[] {
  if (isUnified()) return [MOUNT]
  return readdirSync(MOUNT)
    .map((name) => join(MOUNT, name))
    .filter((directory) => existsSync(join(directory, 'cgroup.procs')))
}

/** A directory and all below it. @throws Error of the file system: one went away meanwhile */
function* treeOf(directory: string): Generator<string> {
  yield directory
  for (const entry of readdirSync(directory, { withFileTypes: true }))
    if (entry.isDirectory()) yield* treeOf(join(directory, entry.name))
}

/** A cgroup of one path in every hierarchy. */
export class Cgroup {
  constructor(readonly path: string) {}

  make(): void {
    for (const hierarchy of hierarchies()) {
      const directory = join(hierarchy, this.path)
      mkdirSync(directory, { recursive: true })
      if (!existsSync(join(directory, 'cpuset.cpus')) || isUnified()) continue
      // A v1 cpuset begins empty, and takes no process before it has processors and memory.
      const parts = this.path.split('/')
      for (let i = 1; i <= parts.length; i++)
        for (const file of ['cpuset.cpus', 'cpuset.mems']) {
          const here = join(hierarchy, ...parts.slice(0, i), file)
          if (readFileSync(here, 'utf8').trim() === '')
            writeFileSync(here, readFileSync(join(hierarchy, ...parts.slice(0, i - 1), file)))
        }
    }
  }

  /** Files to which a process writes its number (or 0 for itself) to be in it. */
  joinFiles(): string[] {
    return hierarchies().map((hierarchy) => join(hierarchy, this.path, 'cgroup.procs'))
  }

  /** Every process in it and below it, by the host's numbers. */
  pids(): number[] {
    const found = new Set<number>()
    for (const hierarchy of hierarchies()) {
      try {
        for (const directory of treeOf(join(hierarchy, this.path)))
          for (const line of readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n'))
            if (line !== '' && line !== '0') found.add(Number(line))
      } catch {
        // A cgroup that went away while we looked had no process left.
      }
    }
    // One that has ended stays listed until it is reaped.
    return [...found].filter((pid) => statOf(pid) !== undefined).sort((a, b) => a - b)
  }

  /** SIGKILL until nothing is left, but for `except`. @throws Error: some do not end within ten seconds. */
  async kill(except: ReadonlySet<number> = new Set()): Promise<number> {
    const killed = new Set<number>()
    const gone = await until(() => {
      const rest = this.pids().filter((pid) => !except.has(pid))
      for (const pid of rest) {
        killed.add(pid)
        signal(pid, 'SIGKILL')
      }
      // v1's freezer keeps the signal waiting.
      if (rest.length > 0) this.thawAll()
      return rest.length === 0
    }, 10_000)
    if (!gone) throw new Error(`processes of ${this.path} do not end: ${this.pids().join(', ')}`)
    return killed.size
  }

  private freezer(): { file: string; on: string; off: string; isFrozen(): boolean } {
    const v1 = join(MOUNT, 'freezer', this.path)
    if (existsSync(join(v1, 'freezer.state'))) {
      const file = join(v1, 'freezer.state')
      return { file, on: 'FROZEN', off: 'THAWED', isFrozen: () => readFileSync(file, 'utf8').trim() === 'FROZEN' }
    }
    const directory = join(hierarchies().at(-1) as string, this.path)
    return {
      file: join(directory, 'cgroup.freeze'),
      on: '1',
      off: '0',
      isFrozen: () => /^frozen 1$/m.test(readFileSync(join(directory, 'cgroup.events'), 'utf8')),
    }
  }

  /** Nothing in it, or below, runs any more when this resolves. @returns what proves it. */
  async freeze(): Promise<string> {
    const freezer = this.freezer()
    const freezes = () => {
      writeFileSync(freezer.file, freezer.on)
      return freezer.isFrozen()
    }
    const isFrozenNow = async () => {
      const isFrozen = await until(freezes, REFREEZE_MS)
      if (!isFrozen) writeFileSync(freezer.file, freezer.off)
      return isFrozen
    }
    if (!(await until(isFrozenNow, 5000))) throw new Error(`${freezer.file}: not frozen after 5 s; given up`)
    return `${freezer.file}: frozen, ${this.pids().length} processes`
  }

  thaw(): void {
    const freezer = this.freezer()
    if (existsSync(freezer.file)) writeFileSync(freezer.file, freezer.off)
  }

  /** With all below it, as far as they stay: for who calls again. */
  private thawAll(): void {
    const { file, off } = this.freezer()
    try {
      for (const directory of treeOf(dirname(file))) writeFileSync(join(directory, basename(file)), off)
    } catch {
      // A cgroup that went away has nothing frozen.
    }
  }

  get isFrozen(): boolean {
    return this.freezer().isFrozen()
  }

  /** File of one controller: the first name that there is. */
  controlFile(controller: string, ...names: string[]): string | undefined {
    for (const name of names)
      for (const directory of [join(MOUNT, controller, this.path), join(MOUNT, this.path)])
        if (existsSync(join(directory, name))) return join(directory, name)
    return undefined
  }

  /** With all below it. */
  async remove(): Promise<void> {
    const remove = (directory: string) => {
      if (!existsSync(directory)) return
      for (const entry of readdirSync(directory, { withFileTypes: true }))
        if (entry.isDirectory()) remove(join(directory, entry.name))
      rmdirSync(directory)
    }
    // The kernel lets go of a cgroup a moment after its last process.
    const failures: string[] = []
    for (const hierarchy of hierarchies()) {
      const gone = await until(() => {
        try {
          remove(join(hierarchy, this.path))
          return true
        } catch {
          return false
        }
      }, 5000)
      if (!gone) failures.push(join(hierarchy, this.path))
    }
    if (failures.length > 0) throw new Error(`cgroups cannot be removed: ${failures.join(', ')}`)
  }
}
