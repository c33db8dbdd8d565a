/** Who a bearer token speaks for: static ones from the operator, and signed ones of ServiceAccounts. */
import { createHash, createPublicKey, timingSafeEqual } from 'node:crypto'
import { importPKCS8, jwtVerify, SignJWT } from 'jose'
import type { ApiServerOptions, User } from '../options.js'

export const ISSUER = 'https://kubernetes.default.svc.cluster.local'
const ALGORITHMS = ['RS256', 'ES256']

export interface TokenOptions {
  /** Token → whom it speaks for. */
  static?: Readonly<Record<string, User>>
  /** PEM (public key, private key or certificate) of the key that signs ServiceAccount tokens. */
  serviceAccountKey?: string
  issuer?: string
}

/** For `ApiServerOptions.verifyToken`. */
export function tokenVerifier(options: TokenOptions): (token: string) => Promise<User | undefined> {
  const known = Object.entries(options.static ?? {}).map(([token, user]) => ({ digest: digestOf(token), user }))
  const key = options.serviceAccountKey === undefined ? undefined : createPublicKey(options.serviceAccountKey)
  const issuer = options.issuer ?? ISSUER
  return async (token) => {
    const digest = digestOf(token)
    // All of them, in the same time: an answer's delay must not tell how much of a token is right.
    const found = known.filter((one) => timingSafeEqual(one.digest, digest))[0]
    if (found) return found.user
    if (!key || token.split('.').length !== 3) return undefined
    try {
      const { payload } = await jwtVerify(token, key, { issuer, audience: issuer, algorithms: ALGORITHMS })
      const [, , namespace, name, ...more] = (payload.sub ?? '').split(':')
      if (!payload.sub?.startsWith('system:serviceaccount:') || !namespace || !name || more.length > 0) return undefined
      const about = payload['kubernetes.io'] as { serviceaccount?: { uid?: string } } | undefined
      return {
        name: payload.sub,
        groups: ['system:serviceaccounts', `system:serviceaccounts:${namespace}`, 'system:authenticated'],
        ...(about?.serviceaccount?.uid ? { uid: about.serviceaccount.uid } : {}),
      }
    } catch {
      return undefined // Forged, expired or for somebody else: all the same to the caller.
    }
  }
}

/** For `ApiServerOptions.signToken`. `key`: PKCS #8 PEM of an RSA or P-256 key. */
export function tokenSigner(key: string, issuer = ISSUER): NonNullable<ApiServerOptions['signToken']> {
  const algorithm = createPublicKey(key).asymmetricKeyType === 'ec' ? 'ES256' : 'RS256'
  const imported = importPKCS8(key, algorithm)
  return async ({ namespace, name, uid }, { issuedAt, expiresAt }, audiences) =>
    new SignJWT({ 'kubernetes.io': { namespace, serviceaccount: { name, ...(uid ? { uid } : {}) } } })
      .setProtectedHeader({ alg: algorithm })
      .setIssuer(issuer)
      .setAudience(audiences?.length ? [...audiences] : [issuer])
      .setSubject(`system:serviceaccount:${namespace}:${name}`)
      .setIssuedAt(issuedAt)
      .setNotBefore(issuedAt)
      .setExpirationTime(expiresAt)
      .sign(await imported)
}

const digestOf = (token: string) => createHash('sha256').update(token).digest()
