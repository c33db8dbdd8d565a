/** The client processes of the benchmark of the store, as the benchmark itself sees them. */
import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import type { ClientOrder, ClientWord } from './bench-store-client.js'
import type { Target } from './bench-store-connection.js'
import type { Cleanup } from './bench-cleanup.js'

export class Client {
  private readonly waiting: { resolve(word: ClientWord): void; reject(error: Error): void }[] = []
  watched: { received: number; lost: number; why: string } = { received: 0, lost: 0, why: '' }
  onWatched: () => void = () => {}

  private constructor(private readonly child: ChildProcess) {
    child.on('message', (word: ClientWord) => {
      if (word.kind === 'watched') {
        this.watched = word
        this.onWatched()
      } else if (word.kind === 'failed') this.waiting.shift()?.reject(new Error(word.error))
      else this.waiting.shift()?.resolve(word)
    })
    child.on('exit', (code) => {
      for (const { reject } of this.waiting.splice(0)) reject(new Error(`a client process ended with ${code}`))
    })
  }

  static async start(target: Target, cleanup: Cleanup): Promise<Client> {
    const child = fork(join(import.meta.dirname, 'bench-store-client.js'), [], {
      serialization: 'advanced',
      execArgv: ['--max-semi-space-size=16', ...extraArguments()],
    })
    cleanup.child(child)
    const client = new Client(child)
    await client.order({ kind: 'connect', target })
    return client
  }

  get pid(): number {
    return this.child.pid as number
  }

  /** Sends an order and resolves with its answer. */
  order(order: ClientOrder): Promise<ClientWord> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject })
      this.tell(order)
    })
  }

  /** For orders that have no answer of their own. */
  tell(order: ClientOrder): void {
    this.child.send(order)
  }

  end(): Promise<void> {
    return new Promise((resolve) => {
      if (this.child.exitCode !== null || this.child.signalCode !== null) return resolve()
      this.child.once('exit', () => resolve())
      this.child.kill('SIGKILL')
    })
  }
}

/** For profiling: `CAPSTAN_BENCH_CLIENT_ARGS="--cpu-prof"`. */
function extraArguments(): string[] {
  return process.env['CAPSTAN_BENCH_CLIENT_ARGS']?.split(' ').filter(Boolean) ?? []
}
