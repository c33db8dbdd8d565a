import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, openSync } from 'node:fs'
import type { Log } from '@capstan/actor'
import type { Places } from './layout.js'
import { liveProcess, removeProcessFile, writeProcessFile } from './process-file.js'
import { programPath } from './programs.js'

const RESTART_MS = 200
const RESTART_MS_MAX = 5000

/** Name of a node's guard among the recorded processes. */
export const guardName = (node: string): string => `${node}-guard`

/**
 * Supervises the node's guard. Unlike other children it is in a process group of its own and outlives this process: it is
 * there for the time when this one does not run. What it must do it reads from files, so one may take over from another.
 */
export class GuardChild {
  private child: ChildProcess | undefined
  private stopping = false
  private delayMs = RESTART_MS

  constructor(
    private readonly places: Places,
    private readonly node: string,
    private readonly log: Log,
  ) {}

  /** Does nothing after `stop`. */
  start(): void {
    if (this.stopping) return
    const { places, node } = this
    const name = guardName(node)
    // Of an earlier life of this process; it goes when the new one is there.
    const earlier = liveProcess(places.pidFile(name))
    mkdirSync(places.logs, { recursive: true })
    const out = openSync(places.log(name), 'a')
    const program = ['--max-semi-space-size=1', '--max-old-space-size=32', programPath('run-guard'), places.data, node]
    const child = spawn(process.execPath, program, { detached: true, stdio: ['ignore', out, out] })
    this.child = child
    if (child.pid !== undefined) writeProcessFile(places.pidFile(name), child.pid)
    if (earlier !== undefined) process.kill(earlier, 'SIGKILL')
    child.unref()
    const onEnd = (how: object) => {
      if (this.stopping) return
      this.log.error({ ...how, delayMs: this.delayMs }, 'the guard ended; starting it again')
      setTimeout(() => this.start(), this.delayMs).unref()
      this.delayMs = Math.min(this.delayMs * 2, RESTART_MS_MAX)
    }
    child.once('exit', (code, signal) => onEnd({ code, signal }))
    child.once('error', (error) => onEnd({ err: error }))
  }

  /** Nothing is left to guard. */
  stop(): void {
    this.stopping = true
    this.child?.kill('SIGKILL')
    removeProcessFile(this.places.pidFile(guardName(this.node)))
  }
}
