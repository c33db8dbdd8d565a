import { request } from 'node:https'
import { readAdmin } from './pki.js'
import type { Places } from './layout.js'

/** One HTTPS request with the admin's certificate to an API server of this host. Undefined: no answer in time. */
export function adminRequest(
  places: Places,
  target: { host: string; port: number; path: string; method?: string },
  timeoutMs = 2000,
): Promise<{ status: number; body: string } | undefined> {
  const { cert, key, ca } = readAdmin(places)
  return new Promise((resolve) => {
    const outgoing = request(
      { ...target, cert, key, ca, agent: false, timeout: timeoutMs, headers: { accept: 'application/json' } },
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
