import { Agent, request } from 'node:https'
import { readAdmin } from './pki.js'
import type { Places } from './layout.js'

export interface AdminTarget {
  host: string
  port: number
  path: string
  method?: string
}

/** HTTPS with the admin's certificate to API servers of this host. Connections are kept: who looks often pays for one handshake. */
export class AdminClient {
  private readonly agent = new Agent({ keepAlive: true, maxSockets: 2 })
  private identity: ReturnType<typeof readAdmin> | undefined

  constructor(private readonly places: Places) {}

  /** Undefined: no answer in time. */
  request(target: AdminTarget, timeoutMs = 2000): Promise<{ status: number; body: string } | undefined> {
    this.identity ??= readAdmin(this.places)
    const { cert, key, ca } = this.identity
    return new Promise((resolve) => {
      const outgoing = request(
        { ...target, cert, key, ca, agent: this.agent, timeout: timeoutMs, headers: { accept: 'application/json' } },
        (incoming) => {
          let body = ''
          incoming.setEncoding('utf8')
          incoming.on('data', (chunk: string) => {
            body += chunk
          })
          incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, body }))
          incoming.on('error', () => resolve(undefined))
        },
      )
      outgoing.on('timeout', () => outgoing.destroy())
      outgoing.on('error', () => resolve(undefined))
      outgoing.end()
    })
  }

  close(): void {
    this.agent.destroy()
  }
}
