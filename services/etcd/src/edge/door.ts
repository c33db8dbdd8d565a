import { createServer, type Server, type Socket } from 'node:net'
import type { Log } from '@capstan/actor'
import type { EtcdFace } from '../face.js'
// gRPC is loaded by the first one who knocks: a cluster that nobody asks in etcd's language pays nothing for it.
import type { GrpcServer } from './grpc-server.js'

export interface Tls {
  ca: string
  cert: string
  key: string
}

export interface EtcdDoorOptions {
  hosts: readonly string[]
  /** 0: one that is free (one host only). */
  port: number
  /** PEM. Only clients with a certificate of this CA come in. `insecure`: everybody, unencrypted; on loopback only. */
  tls: Tls | 'insecure'
  log: Log
  /** What stands behind the door, called once, when the first connection comes; again after a failure. */
  open(): Promise<EtcdFace>
}

export interface EtcdDoor {
  readonly port: number
  /** Other certificates for connections that come from now on. */
  renew(tls: Tls): void
  close(): Promise<void>
}

/** As etcd's listener: a client whose machine is gone says nothing, and would keep its socket and its watches for ever. */
const TCP_KEEPALIVE_MS = 30_000

const LOOPBACK = /^(127\.|::1$|localhost$)/

/** Listens at once; opens what is behind when somebody comes.
 *  @throws the listener's error (`EADDRINUSE`) with the port in its text. */
export async function openEtcdDoor(options: EtcdDoorOptions): Promise<EtcdDoor> {
  if (options.tls === 'insecure' && !options.hosts.every((host) => LOOPBACK.test(host)))
    throw new RangeError('etcd: without TLS it listens on loopback only')
  let { tls } = options
  let behind: Promise<GrpcServer> | undefined
  /** Serves those who came before the last renewal, until the next one. */
  let former: Promise<GrpcServer> | undefined
  let closed = false
  const sockets = new Set<Socket>()

  async function open(): Promise<GrpcServer> {
    const [{ serveGrpc }, face] = await Promise.all([import('./grpc-server.js'), options.open()])
    return serveGrpc(face, tls)
  }

  function take(socket: Socket): void {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    // A client that goes away is no news.
    socket.on('error', () => socket.destroy())
    behind ??= open()
    behind
      .then(
        (server) => {
          if (closed) {
            socket.destroy()
            return
          }
          server.take(socket)
          // Nothing was read of it so far: the handshake belongs to who serves it.
          socket.resume()
        },
        (error: unknown) => {
          behind = undefined
          options.log.error({ err: error }, 'the etcd face does not start')
          socket.destroy()
        },
      )
      .catch((error: unknown) => {
        options.log.error({ err: error }, 'a connection to the etcd face is not served')
        socket.destroy()
      })
  }

  const servers: Server[] = []
  try {
    for (const host of options.hosts)
      servers.push(await listen(host, servers.length === 0 ? options.port : portOf(servers[0] as Server), take))
  } catch (error) {
    await Promise.all(servers.map(closeServer))
    throw error
  }
  return {
    port: portOf(servers[0] as Server),
    renew(renewed) {
      tls = renewed
      // A gRPC server has the certificates that it was made with: the next who comes opens another one, with a face of its own.
      void former?.then(
        (server) => server.close(),
        () => undefined,
      )
      former = behind
      behind = undefined
    },
    async close() {
      if (closed) return
      closed = true
      const listening = servers.map(closeServer)
      for (const opened of [former, behind]) (await opened?.catch(() => undefined))?.close()
      for (const socket of sockets) socket.destroy()
      await Promise.all(listening)
    },
  }
}

function listen(host: string, port: number, take: (socket: Socket) => void): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer(
      { pauseOnConnect: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: TCP_KEEPALIVE_MS },
      take,
    )
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        Object.assign(new Error(`etcd: port ${port} on ${host} cannot be had (${error.code})`, { cause: error }), {
          code: error.code,
        }),
      ),
    )
    server.listen(port, host, () => {
      server.removeAllListeners('error')
      resolve(server)
    })
  })
}

function portOf(server: Server): number {
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('not listening on a port')
  return address.port
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()))
}
