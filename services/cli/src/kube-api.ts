/** A Kubernetes API over HTTPS, as a kubeconfig describes it: for the commands that need no more than a few requests. */
import { readFileSync } from 'node:fs'
import { Agent, request } from 'node:https'
import { dirname, resolve } from 'node:path'
import { parse } from 'yaml'
import { UserError } from './console.js'

const TIMEOUT_MS = 10_000

/** The API refused (`status`), or could not be asked (0: what was to be changed may have happened). */
export class KubeApiError extends Error {
  override readonly name = 'KubeApiError'
  constructor(
    readonly status: number,
    text: string,
  ) {
    super(text)
  }
}

interface KubeconfigFile {
  'current-context'?: string
  contexts?: { name: string; context: { cluster: string; user: string } }[]
  clusters?: {
    name: string
    cluster: { server: string; 'certificate-authority'?: string; 'certificate-authority-data'?: string }
  }[]
  users?: {
    name: string
    user: {
      token?: string
      'client-certificate'?: string
      'client-certificate-data'?: string
      'client-key'?: string
      'client-key-data'?: string
    }
  }[]
}

export class KubeApi {
  private readonly agent: Agent

  private constructor(
    readonly server: URL,
    private readonly token: string | undefined,
    tls: { ca?: string; cert?: string; key?: string },
  ) {
    this.agent = new Agent({ keepAlive: true, maxSockets: 4, ...tls })
  }

  /** By the current context of a kubeconfig. @throws UserError if it cannot be read, or names no cluster or user */
  static fromKubeconfig(path: string): KubeApi {
    let file: KubeconfigFile
    try {
      file = parse(readFileSync(path, 'utf8'), { version: '1.1' }) as KubeconfigFile
    } catch (error) {
      throw new UserError(`the kubeconfig ${path} cannot be read: ${(error as Error).message}`)
    }
    const context = file.contexts?.find((one) => one.name === file['current-context'])?.context
    const cluster = file.clusters?.find((one) => one.name === context?.cluster)?.cluster
    const user = file.users?.find((one) => one.name === context?.user)?.user
    if (!cluster || !user)
      throw new UserError(`the kubeconfig ${path} has no current context with a cluster and a user`)
    const pem = (data: string | undefined, name: string | undefined) => {
      if (data !== undefined) return Buffer.from(data, 'base64').toString()
      return name === undefined ? undefined : readFileSync(resolve(dirname(path), name), 'utf8')
    }
    const ca = pem(cluster['certificate-authority-data'], cluster['certificate-authority'])
    const cert = pem(user['client-certificate-data'], user['client-certificate'])
    const key = pem(user['client-key-data'], user['client-key'])
    return new KubeApi(new URL(cluster.server), user.token, {
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
    })
  }

  get<T>(path: string): Promise<T> {
    return this.send<T>('GET', path)
  }

  post<T>(path: string, body: object): Promise<T> {
    return this.send<T>('POST', path, body)
  }

  mergePatch<T>(path: string, body: object): Promise<T> {
    return this.send<T>('PATCH', path, body, 'application/merge-patch+json')
  }

  close(): void {
    this.agent.destroy()
  }

  private send<T>(method: string, path: string, body?: object, type = 'application/json'): Promise<T> {
    const text = body === undefined ? undefined : JSON.stringify(body)
    return new Promise((resolved, reject) => {
      const lost = (error: Error) =>
        reject(new KubeApiError(0, `${this.server.host} does not answer: ${error.message}`))
      const outgoing = request(
        {
          agent: this.agent,
          method,
          host: this.server.hostname,
          port: this.server.port || 443,
          path: `${this.server.pathname.replace(/\/$/, '')}${path}`,
          timeout: TIMEOUT_MS,
          headers: {
            accept: 'application/json',
            ...(text === undefined ? {} : { 'content-type': type, 'content-length': Buffer.byteLength(text) }),
            ...(this.token === undefined ? {} : { authorization: `Bearer ${this.token}` }),
          },
        },
        (incoming) => {
          const pieces: Buffer[] = []
          incoming.on('data', (piece: Buffer) => pieces.push(piece))
          incoming.on('error', lost)
          incoming.on('end', () => {
            const status = incoming.statusCode ?? 0
            const answer = Buffer.concat(pieces).toString()
            if (status < 300) return resolved(JSON.parse(answer) as T)
            reject(new KubeApiError(status, messageOf(answer) ?? `${method} ${path}: HTTP ${status}`))
          })
        },
      )
      outgoing.on('timeout', () => outgoing.destroy(new Error(`no answer in ${TIMEOUT_MS / 1000} s`)))
      outgoing.on('error', lost)
      outgoing.end(text)
    })
  }
}

/** Of a Status; undefined: it is none. */
function messageOf(body: string): string | undefined {
  try {
    return (JSON.parse(body) as { message?: string }).message
  } catch {
    return undefined
  }
}
