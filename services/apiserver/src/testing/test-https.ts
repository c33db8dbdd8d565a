import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  type CertificateAndKey,
  kubeconfig,
  makeCa,
  makeClientCertificate,
  makeServerCertificate,
} from '@capstan/certs'
import { type HttpsListener, listenHttps } from '../edge/index.js'
import type { ApiServerHandle } from '../options.js'

const HOUR_MS = 3_600_000

/** An API server behind HTTPS on a free port of loopback, with certificates of its own. */
export interface TestHttps {
  readonly port: number
  readonly url: string
  readonly ca: CertificateAndKey
  readonly admin: CertificateAndKey
  /** Path of an admin kubeconfig. */
  readonly kubeconfig: string
  readonly listener: HttpsListener
  close(): Promise<void>
}

export async function serveTestHttps(api: ApiServerHandle): Promise<TestHttps> {
  const now = Date.now()
  const validity = { notBeforeMs: now - HOUR_MS, notAfterMs: now + 24 * HOUR_MS }
  const ca = await makeCa('test', validity)
  const server = await makeServerCertificate(ca, {
    ...validity,
    commonName: 'kube-apiserver',
    dnsNames: ['localhost', 'kubernetes'],
    ipAddresses: ['127.0.0.1'],
  })
  const admin = await makeClientCertificate(ca, { ...validity, user: 'kubernetes-admin', groups: ['system:masters'] })
  const listener = await listenHttps(api, {
    port: 0,
    host: '127.0.0.1',
    key: server.key,
    cert: server.cert,
    clientCa: ca.cert,
  })
  const url = `https://127.0.0.1:${listener.port}`
  const directory = await mkdtemp(join(tmpdir(), 'capstan-test-'))
  const path = join(directory, 'admin.conf')
  await writeFile(
    path,
    kubeconfig({ cluster: 'test', server: url, ca: ca.cert, user: 'kubernetes-admin', client: admin }),
    { mode: 0o600 },
  )
  return {
    port: listener.port,
    url,
    ca,
    admin,
    kubeconfig: path,
    listener,
    async close() {
      await listener.close()
      await rm(directory, { recursive: true, force: true })
    },
  }
}
