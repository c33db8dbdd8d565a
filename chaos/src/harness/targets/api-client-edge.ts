import { Agent, request } from 'node:https'
import type { ApiEndpoint, Credentials, Json } from '../types.js'

export interface ApiAnswer {
  /** 0: no answer in time, or the connection was lost. */
  status: number
  body: { [key: string]: Json }
}

/** HTTPS with JSON to one endpoint of the API, for what the harness itself asks. `connectionsMax`: so many requests at once (4). */
export class SmallApiClient {
  private readonly agent: Agent

  constructor(
    readonly endpoint: ApiEndpoint,
    private readonly credentials: Credentials,
    connectionsMax = 4,
  ) {
    const { ca, cert, key, serverName, insecure } = credentials
    this.agent = new Agent({
      keepAlive: true,
      maxSockets: connectionsMax,
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      ...(serverName === undefined ? {} : { servername: serverName }),
      ...(insecure ? { rejectUnauthorized: false } : {}),
    })
  }

  /** Never throws: no answer is status 0, with the reason in `body.message`. */
  ask(method: string, path: string, options: { body?: Json; timeoutMs?: number } = {}): Promise<ApiAnswer> {
    const { body, timeoutMs = 5000 } = options
    const { token } = this.credentials
    return new Promise((resolve) => {
      const none = (message: string) => resolve({ status: 0, body: { message } })
      const timer = setTimeout(() => {
        none(`no answer in ${timeoutMs} ms`)
        outgoing.destroy()
      }, timeoutMs)
      const outgoing = request(
        new URL(path, this.endpoint.url),
        {
          method,
          agent: this.agent,
          headers: {
            accept: 'application/json',
            ...(body === undefined
              ? {}
              : { 'content-type': method === 'PATCH' ? 'application/merge-patch+json' : 'application/json' }),
            ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          },
        },
        (incoming) => {
          const chunks: Buffer[] = []
          incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
          incoming.on('error', (error) => none(error.message))
          incoming.on('end', () => {
            clearTimeout(timer)
            resolve({ status: incoming.statusCode ?? 0, body: parsed(Buffer.concat(chunks).toString()) })
          })
        },
      )
      outgoing.on('error', (error) => {
        clearTimeout(timer)
        none(error.message)
      })
      outgoing.end(body === undefined ? undefined : JSON.stringify(body))
    })
  }

  close(): void {
    this.agent.destroy()
  }
}

function parsed(text: string): ApiAnswer['body'] {
  try {
    return JSON.parse(text) as ApiAnswer['body']
  } catch {
    return { message: text.slice(0, 200) }
  }
}
