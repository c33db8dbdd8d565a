import { readFileSync } from 'node:fs'
import { type ClientHttp2Session, connect } from 'node:http2'
import { parse } from 'yaml'

interface Kubeconfig {
  clusters: { cluster: { server: string; 'certificate-authority-data': string } }[]
  users: { user: { 'client-certificate-data': string; 'client-key-data': string } }[]
}

export interface HttpAnswer {
  status: number
  body: string
}

/** One HTTP/2 connection with the admin's certificate: for loads that kubectl is too slow for. Connects anew after a loss. */
export class HttpsClient {
  private session: ClientHttp2Session | undefined
  private readonly tls: { ca: Buffer; cert: Buffer; key: Buffer }
  private readonly server: string

  /** `server` defaults to the kubeconfig's (the balancer). */
  constructor(kubeconfig: string, server?: string) {
    const config = parse(readFileSync(kubeconfig, 'utf8')) as Kubeconfig
    const cluster = config.clusters[0]?.cluster
    const user = config.users[0]?.user
    if (!cluster || !user) throw new Error(`${kubeconfig} names no cluster or user`)
    const bytes = (text: string) => Buffer.from(text, 'base64')
    this.server = server ?? cluster.server
    this.tls = {
      ca: bytes(cluster['certificate-authority-data']),
      cert: bytes(user['client-certificate-data']),
      key: bytes(user['client-key-data']),
    }
  }

  /** @throws Error if there is no answer in `timeoutMs`, or the connection is lost. */
  request(method: string, path: string, body?: unknown, timeoutMs = 5000): Promise<HttpAnswer> {
    const session = this.connected()
    return new Promise((resolve, reject) => {
      const stream = session.request({
        ':method': method,
        ':path': path,
        'content-type': 'application/json',
        accept: 'application/json',
      })
      let status = 0
      let text = ''
      const timer = setTimeout(() => {
        stream.close()
        reject(new Error(`no answer in ${timeoutMs} ms`))
      }, timeoutMs)
      stream.setEncoding('utf8')
      stream.on('response', (headers) => {
        status = Number(headers[':status'])
      })
      stream.on('data', (chunk: string) => {
        text += chunk
      })
      stream.on('end', () => {
        clearTimeout(timer)
        if (status > 0) resolve({ status, body: text })
        else reject(new Error('connection lost before the answer'))
      })
      stream.on('error', (error) => {
        clearTimeout(timer)
        reject(error)
      })
      stream.end(body === undefined ? undefined : JSON.stringify(body))
    })
  }

  close(): void {
    this.session?.destroy()
  }

  private connected(): ClientHttp2Session {
    if (this.session && !this.session.closed && !this.session.destroyed) return this.session
    const session = connect(this.server, this.tls)
    // Each request reports its own failure.
    session.on('error', () => session.destroy())
    session.on('goaway', () => session.close())
    this.session = session
    return session
  }
}
