/** The joiner's side of a join door. */
import { X509Certificate } from 'node:crypto'
import { request } from 'node:https'
import { connect } from 'node:tls'
import { publicKeyHash } from '@capstan/certs'
import { UserError } from '../console.js'
import { ANSWER_BYTES_MAX, type Refusal } from './join-messages.js'

const HANDSHAKE_MS = 10_000
const ANSWER_MS = 30_000

/** The door's own word. */
export class DoorRefused extends UserError {
  constructor(
    readonly status: number,
    text: string,
  ) {
    super(text)
  }
}

export interface DoorAddress {
  host: string
  port: number
}

/** `10.0.0.1:9443`. @throws UserError */
export function parseDoorAddress(text: string, defaultPort: number): DoorAddress {
  const [, host, port] = /^([^:\s]+)(?::(\d{1,5}))?$/.exec(text) ?? []
  if (host === undefined || Number(port ?? 1) > 65_535)
    throw new UserError(`"${text}" is no HOST:PORT of a master's join door`)
  return { host, port: Number(port ?? defaultPort) }
}

/**
 * The cluster's authority, told by who listens there and believed only if its public key has `hash` and it signed the listener's
 * certificate. Nothing is said to the listener before.
 * @throws UserError
 */
export async function recogniseCluster(door: DoorAddress, hash: string): Promise<string> {
  if (!/^sha256:[0-9a-f]{64}$/.test(hash))
    throw new UserError(`--ca-cert-hash is sha256: and 64 hexadecimal digits, as capstan token create prints it`)
  const { leaf, ca } = await chainOf(door)
  const found = publicKeyHash(ca.raw)
  if (found !== hash)
    throw new UserError(
      `${door.host}:${door.port} shows an authority with hash ${found}, not ${hash}: it is another cluster, or somebody in between. ` +
        'Nothing was sent. Look at the hash again: capstan token create, on a master, prints it',
    )
  if (!leaf.verify(ca.publicKey))
    throw new UserError(`${door.host}:${door.port} shows a certificate that the authority did not sign`)
  return ca.toString()
}

/** The certificate shown, and the authority shown with it. */
function chainOf({ host, port }: DoorAddress): Promise<{ leaf: X509Certificate; ca: X509Certificate }> {
  return new Promise((resolve, reject) => {
    const fail = (text: string) => {
      socket.destroy()
      reject(new UserError(`${host}:${port}: ${text}`))
    }
    // Whom it is that we speak to is decided by the hash; after that the connection is made anew and checked as usual.
    const socket = connect({ host, port, rejectUnauthorized: false, timeout: HANDSHAKE_MS }, () => {
      const leaf = socket.getPeerCertificate(true)
      const issuer = leaf.issuerCertificate
      if (!leaf.raw || !issuer?.raw || issuer.raw.equals(leaf.raw))
        return fail('shows no authority: is this the join port of a master?')
      socket.end()
      resolve({ leaf: new X509Certificate(leaf.raw), ca: new X509Certificate(issuer.raw) })
    })
    socket.on('timeout', () => fail(`does not answer in ${HANDSHAKE_MS / 1000} s`))
    socket.on('error', (error) => fail(`cannot be reached: ${error.message}`))
  })
}

/**
 * @param tls.ca PEM of the cluster's authority. `cert` and `key`: of a machine that has joined.
 * @throws DoorRefused with the door's words; UserError: no answer (it may have happened).
 */
export function askDoor<T>(
  { host, port }: DoorAddress,
  path: '/v1/join' | '/v1/renew',
  body: object,
  tls: { ca: string; cert?: string; key?: string },
): Promise<T> {
  const at = `${host}:${port}`
  return new Promise((resolve, reject) => {
    const outgoing = request(
      {
        host,
        port,
        path,
        method: 'POST',
        ...tls,
        agent: false,
        timeout: ANSWER_MS,
        headers: { 'content-type': 'application/json' },
      },
      (incoming) => {
        const pieces: Buffer[] = []
        let bytes = 0
        incoming.on('data', (piece: Buffer) => {
          bytes += piece.length
          if (bytes > ANSWER_BYTES_MAX) outgoing.destroy(new Error('the answer is too long'))
          else pieces.push(piece)
        })
        incoming.on('error', (error) => reject(new UserError(`${at}: ${error.message}`)))
        incoming.on('end', () => {
          try {
            const answer = JSON.parse(Buffer.concat(pieces).toString('utf8')) as T | Refusal
            if (incoming.statusCode === 200) resolve(answer as T)
            else reject(new DoorRefused(incoming.statusCode ?? 0, `${at} refused: ${(answer as Refusal).error}`))
          } catch {
            reject(
              new UserError(
                `${at} answered ${incoming.statusCode ?? ''} and no JSON: is this the join port of a master?`,
              ),
            )
          }
        })
      },
    )
    outgoing.on('timeout', () =>
      outgoing.destroy(
        new Error(`no answer in ${ANSWER_MS / 1000} s; it may have happened: the same command may be repeated`),
      ),
    )
    outgoing.on('error', (error) => reject(new UserError(`${at}: ${error.message}`)))
    outgoing.end(JSON.stringify(body))
  })
}
