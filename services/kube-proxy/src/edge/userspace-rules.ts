import { createServer, connect, type Server, type Socket } from 'node:net'
import type { Log, Random } from '@capstan/actor'
import type { Forward, Target } from '../forwarding.js'
import type { PacketRules } from '../packet-rules.js'

const CONNECTIONS_MAX = 1024
const CONNECT_TIMEOUT_MS = 3000

interface Listener {
  server: Server
  targets: readonly Target[]
  sockets: Set<Socket>
}

/**
 * Forwards TCP by listening on the Service's own address, which works without root where that is a loopback address.
 * Left out: UDP, session affinity, ports below 1024 without the right to bind them (told by an error in the log).
 */
export class UserspaceRules implements PacketRules {
  readonly kind = 'userspace'
  private readonly listeners = new Map<string, Listener>()

  constructor(
    private readonly log: Log,
    private readonly random: Random,
  ) {}

  async apply(forwards: readonly Forward[]): Promise<void> {
    const wanted = new Map<string, readonly Target[]>()
    for (const forward of forwards) {
      if (forward.protocol !== 'tcp') continue
      for (const address of forward.addresses) wanted.set(`${address} ${forward.port}`, forward.targets)
      if (forward.nodePort !== undefined) wanted.set(`127.0.0.1 ${forward.nodePort}`, forward.nodePortTargets)
    }
    for (const [key, listener] of [...this.listeners]) {
      if (wanted.has(key)) continue
      this.listeners.delete(key)
      close(listener)
    }
    for (const [key, targets] of wanted) {
      const listener = this.listeners.get(key)
      if (listener) listener.targets = targets
      else await this.listen(key, targets)
    }
  }

  async clear(): Promise<void> {
    for (const listener of this.listeners.values()) close(listener)
    this.listeners.clear()
  }

  private listen(key: string, targets: readonly Target[]): Promise<void> {
    const [host = '', port = '0'] = key.split(' ')
    const listener: Listener = { server: createServer(), targets, sockets: new Set() }
    const { server } = listener
    server.maxConnections = CONNECTIONS_MAX
    server.on('connection', (client) => this.forward(listener, client))
    return new Promise((resolve) => {
      server.once('error', (error) => {
        // One address that cannot be had must not keep the others from working; the next change tries it again.
        this.log.error({ err: error, address: host, port }, 'cannot listen for a Service')
        resolve()
      })
      server.listen(Number(port), host, () => {
        this.listeners.set(key, listener)
        resolve()
      })
    })
  }

  private forward(listener: Listener, client: Socket): void {
    const target = listener.targets[this.random.int(Math.max(1, listener.targets.length))]
    if (!target) return void client.resetAndDestroy()
    const upstream = connect({ host: target.address, port: target.port, timeout: CONNECT_TIMEOUT_MS })
    for (const socket of [client, upstream]) {
      listener.sockets.add(socket)
      socket.once('close', () => listener.sockets.delete(socket))
      socket.on('error', () => {
        client.destroy()
        upstream.destroy()
      })
    }
    upstream.once('timeout', () => upstream.destroy(new Error('connect timed out')))
    upstream.once('connect', () => upstream.setTimeout(0))
    client.pipe(upstream)
    upstream.pipe(client)
  }
}

function close(listener: Listener): void {
  listener.server.close()
  for (const socket of listener.sockets) socket.destroy()
}
