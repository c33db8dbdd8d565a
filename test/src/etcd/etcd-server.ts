import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The version that this face is held against, as `etcd --version` says it; undefined: there is none here. */
export function etcdVersion(): string | undefined {
  const done = spawnSync('etcd', ['--version'], { encoding: 'utf8' })
  return done.status === 0 ? /etcd Version: (\S+)/.exec(done.stdout)?.[1] : undefined
}

export function hasEtcdctl(): boolean {
  return spawnSync('etcdctl', ['version'], { env: { ...process.env, ETCDCTL_API: '3' } }).status === 0
}

/** Debian's etcd, one member with a directory and ports of its own. */
export class EtcdServer {
  private constructor(
    readonly endpoint: string,
    private readonly directory: string,
    private readonly process: ChildProcess,
  ) {}

  static async start(): Promise<EtcdServer> {
    const directory = await mkdtemp(join(tmpdir(), 'capstan-real-etcd-'))
    const [client, peer] = await Promise.all([freePort(), freePort()])
    const url = (port: number) => `http://127.0.0.1:${port}`
    const child = spawn(
      'etcd',
      [
        ['--name', 'm1'],
        ['--data-dir', join(directory, 'data')],
        ['--listen-client-urls', url(client)],
        ['--advertise-client-urls', url(client)],
        ['--listen-peer-urls', url(peer)],
        ['--initial-advertise-peer-urls', url(peer)],
        ['--initial-cluster', `m1=${url(peer)}`],
        ['--logger', 'zap'],
        ['--log-level', 'error'],
      ].flat(),
      { stdio: 'ignore' },
    )
    const server = new EtcdServer(`127.0.0.1:${client}`, directory, child)
    try {
      for (let tries = 0; ; tries++) {
        if (child.exitCode !== null) throw new Error(`etcd ended with ${child.exitCode}`)
        const answer = await fetch(`${url(client)}/health`).then(
          (response) => response.json() as Promise<{ health: string }>,
          () => undefined,
        )
        if (answer?.health === 'true') return server
        if (tries > 400) throw new Error('etcd is not healthy after 20 s')
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    } catch (error) {
      await server.stop()
      throw error
    }
  }

  async stop(): Promise<void> {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      this.process.kill('SIGKILL')
      await once(this.process, 'exit')
    }
    await rm(this.directory, { recursive: true, force: true })
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  return port
}
