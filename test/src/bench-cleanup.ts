/** What a benchmark leaves behind is nothing: its processes and directories go, also on Ctrl-C and after a crash. */
import type { ChildProcess } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'

export class Cleanup {
  private readonly children = new Set<ChildProcess>()
  private readonly directories = new Set<string>()

  constructor() {
    process.on('exit', () => this.run())
    for (const [signal, code] of [
      ['SIGINT', 130],
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const)
      process.on(signal, () => process.exit(code))
  }

  child(child: ChildProcess): void {
    this.children.add(child)
    child.once('exit', () => this.children.delete(child))
  }

  /** A new directory below `parent`. */
  directory(parent: string): string {
    mkdirSync(parent, { recursive: true })
    const made = mkdtempSync(join(parent, 'capstan-bench-'))
    this.directories.add(made)
    return made
  }

  remove(directory: string): void {
    rmSync(directory, { recursive: true, force: true })
    this.directories.delete(directory)
  }

  private run(): void {
    for (const child of this.children) {
      // A stopped process dies by SIGKILL, too.
      child.kill('SIGKILL')
    }
    for (const directory of this.directories) {
      try {
        rmSync(directory, { recursive: true, force: true, maxRetries: 5 })
      } catch (error) {
        console.error(`left behind: ${directory}: ${String(error)}`)
      }
    }
  }
}
