import { createPrivateKey, sign } from 'node:crypto'
import { fromSeed } from '@nats-io/nkeys'
import type { Authenticator } from 'nats'

/** PKCS #8 around the 32 bytes of an Ed25519 seed (RFC 8410). */
const PKCS8_ED25519 = Buffer.from('302e020100300506032b657004220420', 'hex')

/**
 * Answers a server's nonce with the JWT and the signature of a creds file. As the library's own, but signed by OpenSSL: the
 * library's signature in JavaScript takes tens of milliseconds of a process that has just started, at each connect.
 * @throws Error if it is no creds file.
 */
export function credentialsAuthenticator(credentials: Uint8Array): Authenticator {
  const blocks = [...new TextDecoder().decode(credentials).matchAll(/-{3,}[^\n]*BEGIN[^\n]*-{3,}\s*(\S+)/g)]
  const [jwt, seed] = blocks.map(([, body]) => body as string)
  if (jwt === undefined || seed === undefined) throw new Error('not a creds file: it must hold a JWT and a seed')
  const pair = fromSeed(new TextEncoder().encode(seed)) as unknown as { getRawSeed(): Uint8Array }
  const key = createPrivateKey({
    key: Buffer.concat([PKCS8_ED25519, pair.getRawSeed()]),
    format: 'der',
    type: 'pkcs8',
  })
  const nkey = subjectOf(jwt)
  return (nonce) => ({
    jwt,
    nkey,
    sig: sign(null, Buffer.from(nonce ?? ''), key).toString('base64url'),
  })
}

/** The public key that the JWT was made for. */
function subjectOf(jwt: string): string {
  const claims = JSON.parse(Buffer.from(jwt.split('.')[1] ?? '', 'base64url').toString()) as { sub: string }
  return claims.sub
}
