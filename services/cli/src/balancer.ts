import { connect, createServer, type Server, type Socket } from 'node:net'

export interface Backend {
  host: string
  port: number
}

export interface BalancerOptions {
  listen: { host: string; port: number }[]
  backends: readonly Backend[]
  /** Is the backend well? Called for each, one call at a time. */
  check: (backend: Backend) => Promise<boolean>
  checkPeriodMs?: number
}

const CONNECT_TIMEOUT_MS = 1000
const CONNECTIONS_MAX = 4096

/**
 * A TCP balancer: it sees only bytes, TLS ends at the API server. A connection goes to the first well backend in order
 * of rotation; one that refuses is left out until its next good check, and the connection tries the others.
 */
export class Balancer {
  private readonly well: boolean[]
  private readonly servers: Server[] = []
  private readonly sockets = new Set<Socket>()
  private readonly open: number[]
  private timer: NodeJS.Timeout | undefined
  private closed = false

  constructor(private readonly options: BalancerOptions) {
    this.well = options.backends.map(() => true)
    this.open = options.backends.map(() => 0)
  }

  /** @throws the listener's error, `EADDRINUSE` among them. */
  async start(): Promise<void> {
    for (const { host, port } of this.options.listen) {
      const server = createServer((client) => this.accept(client))
      server.maxConnections = CONNECTIONS_MAX
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(port, host, () => resolve())
      })
      this.servers.push(server)
    }
    void this.checkAll()
  }

  close(): void {
    this.closed = true
    clearTimeout(this.timer)
    for (const server of this.servers) server.close()
    for (const socket of this.sockets) socket.destroy()
  }

  private async checkAll(): Promise<void> {
    await Promise.all(
      this.options.backends.map(async (backend, i) => {
        const well = await this.options.check(backend).catch(() => false)
        this.well[i] = well
      }),
    )
    if (!this.closed) this.timer = setTimeout(() => void this.checkAll(), this.options.checkPeriodMs ?? 500)
  }

  /** Well ones first, fewest connections first. */
  private order(): number[] {
    return this.options.backends
      .map((_, i) => i)
      .sort(
        (a, b) =>
          Number(this.well[b]) - Number(this.well[a]) || (this.open[a] as number) - (this.open[b] as number) || a - b,
      )
  }

  private accept(client: Socket): void {
    this.track(client)
    client.setNoDelay(true)
    // Nothing has been read from the client yet, so each attempt starts with the same bytes.
    client.pause()
    const order = this.order()
    const attempt = () => {
      const index = order.shift()
      const backend = index === undefined ? undefined : this.options.backends[index]
      if (index === undefined || !backend || client.destroyed) return void client.destroy()
      const upstream = connect({ host: backend.host, port: backend.port, timeout: CONNECT_TIMEOUT_MS })
      this.track(upstream)
      upstream.setNoDelay(true)
      const failed = () => {
        upstream.destroy()
        this.well[index] = false
        attempt()
      }
      upstream.once('error', failed)
      upstream.once('timeout', failed)
      upstream.once('connect', () => {
        upstream.removeListener('error', failed)
        upstream.removeListener('timeout', failed)
        upstream.setTimeout(0)
        this.open[index] = (this.open[index] as number) + 1
        upstream.once('close', () => {
          this.open[index] = (this.open[index] as number) - 1
        })
        const end = () => {
          client.destroy()
          upstream.destroy()
        }
        client.on('error', end)
        upstream.on('error', end)
        client.once('close', end)
        upstream.once('close', end)
        client.pipe(upstream)
        upstream.pipe(client)
      })
    }
    client.once('error', () => client.destroy())
    attempt()
  }

  private track(socket: Socket): void {
    this.sockets.add(socket)
    socket.once('close', () => this.sockets.delete(socket))
  }
}
