import assert from 'node:assert/strict'
import { createHash, createPrivateKey, createPublicKey, sign, verify, X509Certificate } from 'node:crypto'
import { createServer, request } from 'node:https'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import type { TLSSocket } from 'node:tls'
import { parse } from 'yaml'
import { kubeconfig } from './kubeconfig.js'
import {
  makeCa,
  makeCertificateRequest,
  makeClientCertificate,
  makeServerCertificate,
  makeSigningKeyPair,
  publicKeyHash,
  signCertificateRequest,
} from './x509.js'

const DAY_MS = 24 * 3600 * 1000
const valid = () => ({ notBeforeMs: Date.now() - DAY_MS, notAfterMs: Date.now() + DAY_MS })
const fixed = { notBeforeMs: Date.UTC(2026, 0, 1), notAfterMs: Date.UTC(2036, 0, 1) }

test('a key of its own is certified by request, for whom the authority says', async () => {
  const ca = await makeCa('capstan-machines', valid())
  const { request, key } = await makeCertificateRequest()
  const who = { user: 'system:node:n1', groups: ['system:nodes'] }
  const certificate = new X509Certificate(await signCertificateRequest(ca, request, { ...valid(), ...who }))
  assert.equal(certificate.subject, 'O=system:nodes\nCN=system:node:n1')
  assert.ok(certificate.checkPrivateKey(createPrivateKey(key)))
  assert.ok(certificate.verify(createPublicKey(ca.cert)))
  assert.equal(certificate.ca, false)

  // Signed by another key than it names: somebody asks for a certificate of a key that is not theirs.
  const der = Buffer.from(request.replace(/-----[^-]+-----|\s/g, ''), 'base64')
  der[der.length - 5] = (der[der.length - 5] as number) ^ 1
  const forged = `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----`
  await assert.rejects(signCertificateRequest(ca, forged, { ...valid(), ...who }))
  await assert.rejects(signCertificateRequest(ca, 'rubbish', { ...valid(), ...who }))
})

test("an authority's hash is that of its public key, as kubeadm counts it", async () => {
  const ca = await makeCa('capstan', valid())
  const spki = createPublicKey(ca.cert).export({ type: 'spki', format: 'der' })
  assert.equal(publicKeyHash(ca.cert), `sha256:${createHash('sha256').update(spki).digest('hex')}`)
  assert.notEqual(publicKeyHash((await makeCa('capstan', valid())).cert), publicKeyHash(ca.cert))
})

test('a CA is a CA, and what it signs is none', async () => {
  const ca = await makeCa('capstan', fixed)
  const certificate = new X509Certificate(ca.cert)
  assert.equal(certificate.ca, true)
  assert.equal(certificate.subject, 'CN=capstan')
  assert.equal(certificate.issuer, 'CN=capstan')
  assert.ok(certificate.verify(createPublicKey(ca.cert)))
  assert.ok(certificate.checkPrivateKey(createPrivateKey(ca.key)))
  assert.equal(Date.parse(certificate.validFrom), fixed.notBeforeMs)
  assert.equal(Date.parse(certificate.validTo), fixed.notAfterMs)
  assert.equal(certificate.publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1')

  const client = await makeClientCertificate(ca, { ...fixed, user: 'jane', groups: [] })
  const leaf = new X509Certificate(client.cert)
  assert.equal(leaf.ca, false)
  assert.ok(leaf.checkIssued(certificate))
  assert.ok(leaf.verify(certificate.publicKey))
  assert.ok(leaf.checkPrivateKey(createPrivateKey(client.key)))
  const odd = await makeCa('A, "CA"; #1', fixed)
  const below = new X509Certificate((await makeClientCertificate(odd, { ...fixed, user: 'x', groups: [] })).cert)
  assert.ok(below.checkIssued(new X509Certificate(odd.cert)))
  await assert.rejects(
    makeClientCertificate(ca, { ...fixed, user: 'capstan', groups: [] }),
    /CN=capstan is the name of the authority/,
  )
  const other = await makeCa('capstan', fixed)
  assert.ok(!leaf.verify(createPublicKey(other.cert)), 'a namesake of the CA vouches for nobody')
  assert.notEqual(leaf.serialNumber, certificate.serialNumber)
})

test('a server bears names and addresses, of both families', async () => {
  const ca = await makeCa('capstan', fixed)
  const { cert } = await makeServerCertificate(ca, {
    ...fixed,
    commonName: 'apiserver',
    dnsNames: ['localhost', 'kubernetes.default.svc', '*.masters.local'],
    ipAddresses: ['127.0.0.1', '10.96.0.1', '::1', 'fd00::1'],
  })
  const certificate = new X509Certificate(cert)
  for (const name of ['localhost', 'kubernetes.default.svc', 'm0.masters.local'])
    assert.ok(certificate.checkHost(name), name)
  assert.equal(certificate.checkHost('kubernetes'), undefined)
  for (const address of ['127.0.0.1', '10.96.0.1', '::1', 'fd00::1']) assert.ok(certificate.checkIP(address), address)
  assert.equal(certificate.checkIP('127.0.0.2'), undefined)
  // serverAuth and clientAuth
  assert.deepEqual(certificate.keyUsage, ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2'])
})

test("a client's name and groups come out as they went in", async () => {
  const ca = await makeCa('capstan', valid())
  const server = await makeServerCertificate(ca, {
    ...valid(),
    commonName: 'x',
    dnsNames: [],
    ipAddresses: ['127.0.0.1'],
  })
  const seen: { user: unknown; groups: unknown }[] = []
  const listener = createServer(
    { cert: server.cert, key: server.key, ca: ca.cert, requestCert: true, rejectUnauthorized: true },
    (req, res) => {
      const { subject } = (req.socket as TLSSocket).getPeerCertificate()
      seen.push({ user: subject.CN, groups: (subject as unknown as Record<string, unknown>).O })
      res.end()
    },
  )
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
  const { port } = listener.address() as AddressInfo
  const call = (cert?: string, key?: string) =>
    new Promise<number>((resolve, reject) =>
      request({ port, host: '127.0.0.1', ca: ca.cert, cert, key, agent: false }, (res) => {
        res.resume()
        resolve(res.statusCode ?? 0)
      })
        .once('error', reject)
        .end(),
    )
  try {
    const names: [string, string[]][] = [
      ['kubernetes-admin', ['system:masters']],
      ['system:node:worker-1', ['system:nodes', 'b', 'a']],
      ['Jane, "the" +Doe; <x>=#1 \\', ['a,O=system:masters', ' blank ', '#hash']],
      ['Jürgen 漢字', []],
    ]
    for (const [user, groups] of names) {
      const { cert, key } = await makeClientCertificate(ca, { ...valid(), user, groups })
      assert.equal(await call(cert, key), 200)
      assert.deepEqual(seen.at(-1), {
        user,
        groups: groups.length === 0 ? undefined : groups.length === 1 ? groups[0] : groups,
      })
    }
    const foreign = await makeClientCertificate(await makeCa('capstan', valid()), {
      ...valid(),
      user: 'evil',
      groups: ['system:masters'],
    })
    await assert.rejects(call(foreign.cert, foreign.key))
    const late = { notBeforeMs: Date.now() - 2 * DAY_MS, notAfterMs: Date.now() - DAY_MS }
    const expired = await makeClientCertificate(ca, { ...late, user: 'late', groups: [] })
    await assert.rejects(call(expired.cert, expired.key))
    await assert.rejects(call())
    assert.equal(seen.length, names.length)
  } finally {
    await new Promise((resolve) => listener.close(resolve))
  }
})

test('a signing key pair signs', async () => {
  const { publicKey, privateKey } = await makeSigningKeyPair()
  const message = Buffer.from('token')
  const signature = sign('sha256', message, createPrivateKey(privateKey))
  assert.ok(verify('sha256', message, createPublicKey(publicKey), signature))
  assert.ok(!verify('sha256', Buffer.from('other'), createPublicKey(publicKey), signature))
})

test('a kubeconfig holds all that a client needs', async () => {
  const ca = await makeCa('capstan', fixed)
  const client = await makeClientCertificate(ca, { ...fixed, user: 'kubernetes-admin', groups: ['system:masters'] })
  const options = { cluster: 'c1', server: 'https://127.0.0.1:6443', ca: ca.cert, user: 'kubernetes-admin', client }
  const config = parse(kubeconfig(options)) as Record<string, never>
  const base64 = (pem: string) => Buffer.from(pem).toString('base64')
  assert.deepEqual(config, {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [
      { name: 'c1', cluster: { server: 'https://127.0.0.1:6443', 'certificate-authority-data': base64(ca.cert) } },
    ],
    users: [
      {
        name: 'kubernetes-admin',
        user: { 'client-certificate-data': base64(client.cert), 'client-key-data': base64(client.key) },
      },
    ],
    contexts: [{ name: 'kubernetes-admin@c1', context: { cluster: 'c1', user: 'kubernetes-admin' } }],
    'current-context': 'kubernetes-admin@c1',
  })
  // Names that YAML would take for something else.
  for (const cluster of ['yes', '1e3', 'a: b', '"quoted"', '#x'])
    assert.equal(
      (parse(kubeconfig({ ...options, cluster })) as { clusters: { name: unknown }[] }).clusters[0]?.name,
      cluster,
    )
})
