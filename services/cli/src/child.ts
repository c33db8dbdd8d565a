import { type ChildProcess, spawn } from 'node:child_process'
import { openSync } from 'node:fs'
import type { Log } from '@capstan/actor'
import { removeProcessFile, writeProcessFile } from './process-file.js'

const RESTART_MS = 200
const RESTART_MS_MAX = 5000
const CALM_MS = 30_000

/**
 * A child of a machine's leader that is started again when it ends, with back-off, until `stop`. It is in the leader's
 * process group, and the kernel kills it when the leader dies: a machine never lives on in part.
 */
export class SupervisedChild {
  private child: ChildProcess | undefined
  private stopping = false
  private delayMs = RESTART_MS
  private ended: Promise<void> = Promise.resolve()

  constructor(
    private readonly name: string,
    private readonly command: string[],
    private readonly files: { log: string; pid: string },
    private readonly log: Log,
  ) {}

  start(): void {
    const out = openSync(this.files.log, 'a')
    const startedMs = performance.now()
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...this.command], { stdio: ['ignore', out, out] })
    this.child = child
    if (child.pid !== undefined) writeProcessFile(this.files.pid, child.pid)
    this.ended = new Promise((resolve) => {
      const onEnd = (how: object) => {
        removeProcessFile(this.files.pid)
        resolve()
        if (this.stopping) return
        if (performance.now() - startedMs > CALM_MS) this.delayMs = RESTART_MS
        this.log.error({ child: this.name, ...how, delayMs: this.delayMs }, 'a component ended; starting it again')
        setTimeout(() => {
          if (!this.stopping) this.start()
        }, this.delayMs)
        this.delayMs = Math.min(this.delayMs * 2, RESTART_MS_MAX)
      }
      child.once('exit', (code, signal) => onEnd({ code, signal }))
      child.once('error', (error) => onEnd({ err: error }))
    })
  }

  /** To the child as it runs now; one that is down misses nothing that it does not find when it starts. */
  signal(signal: NodeJS.Signals): void {
    this.child?.kill(signal)
  }

  /** SIGTERM, and SIGKILL after `timeoutMs`. */
  async stop(timeoutMs: number): Promise<void> {
    this.stopping = true
    this.child?.kill('SIGTERM')
    const timer = setTimeout(() => this.child?.kill('SIGKILL'), timeoutMs)
    await this.ended
    clearTimeout(timer)
  }
}
