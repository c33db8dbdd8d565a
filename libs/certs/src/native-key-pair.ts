import { createPrivateKey, createPublicKey, sign } from 'node:crypto'
import type { KeyPair } from '@nats-io/nkeys'
import { Codec } from '@nats-io/nkeys/lib/codec.js'

/** PKCS #8 around the 32 bytes of an Ed25519 seed (RFC 8410). */
const PKCS8_ED25519 = Buffer.from('302e020100300506032b657004220420', 'hex')

/**
 * The same NATS key, with public key and signature by OpenSSL: in the library's JavaScript the credentials of one cluster
 * take seconds.
 */
export function nativeKeyPair(pair: KeyPair): KeyPair {
  const { prefix, buf } = Codec.decodeSeed(pair.getSeed())
  const privateKey = createPrivateKey({ key: Buffer.concat([PKCS8_ED25519, buf]), format: 'der', type: 'pkcs8' })
  const { x = '' } = createPublicKey(privateKey).export({ format: 'jwk' })
  const publicKey = new TextDecoder().decode(Codec.encode(prefix, Buffer.from(x, 'base64url')))
  return Object.assign(pair, {
    getPublicKey: () => publicKey,
    sign: (bytes: Uint8Array) => new Uint8Array(sign(null, bytes, privateKey)),
  })
}
