/** The certificate by which a node gets onto the bus and through the join door, replaced by one that has expired. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type CertificateAndKey, makeClientCertificate } from '@capstan/certs'
import { awaitThat } from './host-edge.js'

const HOUR_MS = 3_600_000
const REFUSED_MS = 20_000

export interface NodeCertificate {
  /** Data directories: of the node, and of a master, which has the authority's key. */
  node: { name: string; data: string }
  masterData: string
  /** Logs of all bus servers. */
  busLogs: readonly string[]
  /** The node's process ends and is begun anew: a connection that exists lasts as long as both want it. */
  beginAnew(): Promise<unknown>
}

/** Resolves once the bus has refused the node and the node has said why. @throws Error if not; then it has its own again. */
export async function expireCertificate(options: NodeCertificate): Promise<string> {
  const { node, masterData, busLogs } = options
  const files = { cert: join(node.data, 'pki/machine.crt'), key: join(node.data, 'pki/machine.key') }
  const before = readPair(files)
  const authority = join(masterData, 'pki/machine-ca')
  const nowMs = Date.now()
  const expired = await makeClientCertificate(readPair({ cert: `${authority}.crt`, key: `${authority}.key` }), {
    user: `system:node:${node.name}`,
    groups: ['system:nodes'],
    notBeforeMs: nowMs - 2 * HOUR_MS,
    notAfterMs: nowMs - HOUR_MS,
  })
  const nodeSays = () => lines(join(node.data, `logs/${node.name}.log`), /certificate of this machine expired/)
  const busSays = () => busLogs.reduce((sum, log) => sum + lines(log, /certificate has expired/), 0)
  const [saidBefore, refusedBefore] = [nodeSays(), busSays()]
  writePair(files, expired)
  try {
    await options.beginAnew()
    await awaitThat(
      `the bus refuses ${node.name}, whose certificate expired, and it says so`,
      () => nodeSays() > saidBefore && busSays() > refusedBefore,
      REFUSED_MS,
    )
  } catch (error) {
    writePair(files, before)
    throw error
  }
  return `${node.name}: its certificate expired an hour ago; the bus refused it ${busSays() - refusedBefore} times, and its log says so`
}

const lines = (file: string, pattern: RegExp) =>
  existsSync(file)
    ? readFileSync(file, 'utf8')
        .split('\n')
        .filter((line) => pattern.test(line)).length
    : 0

const readPair = ({ cert, key }: { cert: string; key: string }): CertificateAndKey => ({
  cert: readFileSync(cert, 'utf8'),
  key: readFileSync(key, 'utf8'),
})

function writePair(files: { cert: string; key: string }, pair: CertificateAndKey): void {
  writeFileSync(files.key, pair.key, { mode: 0o600 })
  writeFileSync(files.cert, pair.cert)
}
