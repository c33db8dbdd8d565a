import 'reflect-metadata'
import { webcrypto } from 'node:crypto'
import * as x509 from '@peculiar/x509'

// The library asks for a provider once, for all its calls.
x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0])

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
  const subject = nameOf(...options.groups.map((group) => ({ O: group })), { CN: options.user })
  return issue(ca, subject, options, [new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth])])
}

async function issue(
  ca: CertificateAndKey,
  subject: x509.Name,
  validity: Validity,
  extensions: x509.Extension[],
): Promise<CertificateAndKey> {
  const keys = await generateKeys()
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
    publicKey: keys.publicKey,
    signingKey: signingKey,
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
  return { cert: cert.toString('pem'), key: await exportKey(keys.privateKey) }
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
