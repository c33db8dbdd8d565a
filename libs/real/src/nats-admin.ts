import type { Log } from '@capstan/actor'
import { connect, credsAuthenticator } from 'nats'
import { tlsOptions } from './nats-tls.js'

const ANSWER_MS = 5000

/**
 * Gives running servers a new version of the account (`accountJwt` of libs/certs, after `revokeUser`): they keep it, pass
 * it to the servers they are connected with, and end the connections of users that it revokes. Servers that are down
 * ask the others when they come back.
 * @param options.credentials those of a user of the system account (`makeSystemUser`).
 * @throws Error if no server takes it.
 */
export async function pushAccountJwt(options: {
  servers: string[]
  credentials: Uint8Array
  accountJwt: string
  log: Log
  /** As `NatsBusOptions`. */
  ca?: string
  clientCertificate?: { cert: string; key: string }
}): Promise<void> {
  const { ca, clientCertificate: own } = options
  const nats = await connect({
    servers: options.servers,
    name: 'capstan account update',
    authenticator: credsAuthenticator(options.credentials),
    reconnect: false,
    timeout: ANSWER_MS,
    ...(ca === undefined ? {} : { tls: tlsOptions(ca, options.servers, own) }),
  })
  try {
    const reply = await nats.request('$SYS.REQ.CLAIMS.UPDATE', options.accountJwt, { timeout: ANSWER_MS })
    const answer = reply.json<{
      data?: { code?: number; message?: string }
      error?: { description?: string }
      server?: { name?: string }
    }>()
    if (answer.data?.code !== 200)
      throw new Error(`the NATS server refused the account: ${answer.error?.description ?? reply.string()}`)
    options.log.info({ server: answer.server?.name }, 'NATS servers have the new account')
  } finally {
    await nats.close()
  }
}
