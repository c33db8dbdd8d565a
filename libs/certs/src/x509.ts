import 'reflect-metadata'
import { createHash, webcrypto, X509Certificate } from 'node:crypto'
import * as x509 from '@peculiar/x509'

// The library asks for a provider once, for all its calls.
x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0])

const CLIENT_ONLY = new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth])
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const

/** A certificate and its private key, both PEM. */
export interface CertificateAndKey {
  cert: string
  key: string
}

/** Milliseconds since the epoch. */
export interface Validity {
  notBeforeMs: number
  notAfterMs: number
}

/** A self-signed certificate authority. ECDSA P-256. */
export async function makeCa(commonName: string, validity: Validity): Promise<CertificateAndKey> {
  const keys = await generateKeys()
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    name: nameOf({ CN: commonName }),
    keys,
    signingAlgorithm: ALGORITHM,
    serialNumber: serialNumber(),
    ...dates(validity),
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign | x509.KeyUsageFlags.digitalSignature,
        true,
      ),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  })
  return { cert: cert.toString('pem'), key: await exportKey(keys.privateKey) }
}

/** A server's certificate for DNS names and IP addresses. */
export function makeServerCertificate(
  ca: CertificateAndKey,
  options: Validity & { commonName: string; dnsNames: readonly string[]; ipAddresses: readonly string[] },
): Promise<CertificateAndKey> {
  const names = new x509.SubjectAlternativeNameExtension([
    ...options.dnsNames.map((value) => ({ type: 'dns', value }) as const),
    ...options.ipAddresses.map((value) => ({ type: 'ip', value }) as const),
  ])
  return issue(ca, nameOf({ CN: options.commonName }), options, [
    names,
    // Also as a client: a server that asks another one proves itself with the same certificate.
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
  ])
}

/** A client's certificate: the common name is its user name, the organisations are its groups (Kubernetes X.509 client certs). */
export function makeClientCertificate(
  ca: CertificateAndKey,
  options: Validity & { user: string; groups: readonly string[] },
): Promise<CertificateAndKey> {
  return issue(ca, clientName(options), options, [CLIENT_ONLY])
}

const clientName = ({ user, groups }: { user: string; groups: readonly string[] }) =>
  nameOf(...groups.map((group) => ({ O: group })), { CN: user })

/**
 * A key of one's own and the request (PKCS #10, PEM) by which an authority makes a certificate for it, without ever seeing the
 * key. The request names nobody: who its sender is the authority must know otherwise.
 */
export async function makeCertificateRequest(): Promise<{ request: string; key: string }> {
  const keys = await generateKeys()
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: nameOf({ CN: 'capstan' }),
    keys,
    signingAlgorithm: ALGORITHM,
  })
  return { request: request.toString('pem'), key: await exportKey(keys.privateKey) }
}

/**
 * A client's certificate for the key of a request. Whatever else the request asks for is ignored.
 * @throws Error if it is no request, is not signed by its own key, or its key is not ECDSA P-256.
 */
export async function signCertificateRequest(
  ca: CertificateAndKey,
  request: string,
  options: Validity & { user: string; groups: readonly string[] },
): Promise<string> {
  const parsed = new x509.Pkcs10CertificateRequest(request)
  const { algorithm } = parsed.publicKey as { algorithm: { name?: string; namedCurve?: string } }
  if (algorithm.name !== ALGORITHM.name || algorithm.namedCurve !== ALGORITHM.namedCurve)
    throw new RangeError('the key of a certificate request must be ECDSA P-256')
  if (!(await parsed.verify())) throw new RangeError('the certificate request is not signed by its own key')
  return sign(ca, clientName(options), options, await parsed.publicKey.export(ALGORITHM, ['verify']), [CLIENT_ONLY])
}

/**
 * The hash by which an authority is recognised over an untrusted line: `sha256:` and the hexadecimal SHA-256 of its public key
 * (DER, SubjectPublicKeyInfo), as kubeadm's `--discovery-token-ca-cert-hash`.
 */
export function publicKeyHash(cert: string | Uint8Array): string {
  const key = new X509Certificate(cert).publicKey.export({ type: 'spki', format: 'der' })
  return `sha256:${createHash('sha256').update(key).digest('hex')}`
}

async function issue(
  ca: CertificateAndKey,
  subject: x509.Name,
  validity: Validity,
  extensions: x509.Extension[],
): Promise<CertificateAndKey> {
  const keys = await generateKeys()
  return { cert: await sign(ca, subject, validity, keys.publicKey, extensions), key: await exportKey(keys.privateKey) }
}

async function sign(
  ca: CertificateAndKey,
  subject: x509.Name,
  validity: Validity,
  publicKey: webcrypto.CryptoKey,
  extensions: x509.Extension[],
): Promise<string> {
  const issuer = new x509.X509Certificate(ca.cert)
  // OpenSSL, and so Node, takes one that is issued by its own name for self-signed and trusts it no more.
  if (subject.toString() === issuer.subject)
    throw new RangeError(`${issuer.subject} is the name of the authority itself`)
  const signingKey = await webcrypto.subtle.importKey(
    'pkcs8',
    x509.PemConverter.decodeFirst(ca.key),
    ALGORITHM,
    false,
    ['sign'],
  )
  const cert = await x509.X509CertificateGenerator.create({
    subject,
    issuer: issuer.subjectName,
    publicKey,
    signingKey,
    signingAlgorithm: ALGORITHM,
    serialNumber: serialNumber(),
    ...dates(validity),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
      ...extensions,
    ],
  })
  return cert.toString('pem')
}

/** An ECDSA key pair for signing ServiceAccount tokens (ES256), PEM (SPKI and PKCS #8). */
export async function makeSigningKeyPair(): Promise<{ publicKey: string; privateKey: string }> {
  const keys = await generateKeys()
  const spki = await webcrypto.subtle.exportKey('spki', keys.publicKey)
  return { publicKey: x509.PemConverter.encode(spki, 'PUBLIC KEY'), privateKey: await exportKey(keys.privateKey) }
}

function generateKeys() {
  return webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']) as Promise<webcrypto.CryptoKeyPair>
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')
}

/** 16 random bytes, the first bit clear: RFC 5280 wants a positive number. */
function serialNumber(): string {
  const bytes = webcrypto.getRandomValues(new Uint8Array(16))
  bytes[0] = ((bytes[0] as number) & 0x7f) | 0x01
  return Buffer.from(bytes).toString('hex')
}

const dates = ({ notBeforeMs, notAfterMs }: Validity) => ({
  notBefore: new Date(notBeforeMs),
  notAfter: new Date(notAfterMs),
})

/** Not by the library's parser of `CN=…` texts, which loses quotation marks and what looks like hexadecimal. */
function nameOf(...parts: Record<string, string>[]): x509.Name {
  return new x509.Name(
    parts.map((part) =>
      Object.fromEntries(Object.entries(part).map(([type, value]) => [type, [{ utf8String: value }]])),
    ),
  )
}
