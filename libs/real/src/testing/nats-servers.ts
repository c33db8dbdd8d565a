import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const START_MS = 10_000

/** Why there are no tests against a real server here; false if there is one. */
export const noNatsServer: string | false = (() => {
  try {
    execFileSync('nats-server', ['--version'], { stdio: 'ignore' })
    return false
  } catch {
    return 'no nats-server on the PATH (Debian: apt-get install nats-server)'
  }
})()

/** Real nats-servers on loopback, for tests. */
export class NatsServers {
  readonly ports: number[] = []
  readonly routePorts: number[] = []
  private readonly children: (ChildProcess | undefined)[] = []

  private constructor(
    readonly dir: string,
    private readonly config: (servers: NatsServers, index: number) => string,
  ) {}

  /** `config` gives the configuration file's text for each server; the ports are known by then. */
  static async start(count: number, config: (servers: NatsServers, index: number) => string): Promise<NatsServers> {
    const servers = new NatsServers(await mkdtemp(join(tmpdir(), 'capstan-nats-')), config)
    const ports = await freePorts(2 * count)
    servers.ports.push(...ports.slice(0, count))
    servers.routePorts.push(...ports.slice(count))
    try {
      await Promise.all(servers.ports.map((_, index) => servers.launch(index)))
    } catch (error) {
      await servers.end()
      throw error
    }
    return servers
  }

  /** `host:port` of each, `first` at the head. */
  urls(first = 0): string[] {
    return this.ports.map((_, i) => `127.0.0.1:${this.ports[(first + i) % this.ports.length]}`)
  }

  /** Resolves when the server takes connections; also again, with the configuration of the first time. */
  async launch(index: number): Promise<void> {
    const file = join(this.dir, `${index}.conf`)
    if (!existsSync(file)) await writeFile(file, this.config(this, index))
    const child = spawn('nats-server', ['-c', file, '-l', join(this.dir, `${index}.log`)], { stdio: 'ignore' })
    this.children[index] = child
    const deadline = performance.now() + START_MS
    while (!(await accepts(this.ports[index] as number))) {
      if (child.exitCode !== null)
        throw new Error(`nats-server ${index} ended with ${child.exitCode}: see ${this.dir}/${index}.log`)
      if (performance.now() > deadline) throw new Error(`nats-server ${index} takes no connections`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  signal(index: number, signal: NodeJS.Signals): void {
    this.children[index]?.kill(signal)
  }

  /** Resolves when it is dead. */
  async kill(index: number): Promise<void> {
    const child = this.children[index]
    this.children[index] = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGKILL')
    await gone
  }

  async end(): Promise<void> {
    await Promise.all(this.ports.map((_, index) => this.kill(index)))
    await rm(this.dir, { recursive: true, force: true })
  }
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('data', () => done(true)) // The server speaks first.
    socket.once('error', () => done(false))
    socket.once('close', () => done(false))
    function done(yes: boolean) {
      socket.destroy()
      resolve(yes)
    }
  })
}

/** All taken at once, so that they differ. */
async function freePorts(count: number): Promise<number[]> {
  const listeners = await Promise.all(
    Array.from({ length: count }, () => {
      const listener = createServer()
      return new Promise<typeof listener>((resolve, reject) =>
        listener.once('error', reject).listen(0, '127.0.0.1', () => resolve(listener)),
      )
    }),
  )
  const ports = listeners.map((listener) => (listener.address() as { port: number }).port)
  await Promise.all(listeners.map((listener) => new Promise((resolve) => listener.close(resolve))))
  return ports
}
