import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { request } from 'node:https'
import { after, before, test } from 'node:test'
import { connect } from 'node:tls'
import { silentLog } from '@capstan/real'
import {
  type CertificateAndKey,
  makeBusAuthority,
  makeCa,
  makeCertificateRequest,
  makeClientCertificate,
  makeServerCertificate,
  publicKeyHash,
} from '@capstan/certs'
import type { ApiClient } from '@capstan/client'
import { Cluster } from '../cluster.js'
import { UserError } from '../console.js'
import type { Authorities } from './authorities.js'
import { machineUser } from './certificates.js'
import { makeBusKeys } from './identities.js'
import { askDoor, recogniseCluster } from './join-client.js'
import { type JoinDoor, openJoinDoor } from './join-door.js'
import type { JoinAnswer, JoinRequest, RenewAnswer } from './join-messages.js'
import { createToken, deleteToken, tokenText } from './join-tokens.js'
import { type ClusterSettings, MASTER_PORTS, type Role } from './machine-file.js'
import { ClusterRecords } from './records.js'

const valid = { notBeforeMs: Date.now() - 60_000, notAfterMs: Date.now() + 3_600_000 }
const settings: ClusterSettings = {
  cluster: 'c1',
  clusterId: 'f00d',
  firstMaster: 'm0',
  podCidr: '10.244.0.0/16',
  serviceCidr: '10.96.0.0/16',
  tolerationSeconds: 2,
  identity: { leaseMs: 5000, marginMs: 1000 },
  certificateSeconds: 3600,
}

let cluster: Cluster
let client: ApiClient
let authorities: Authorities
let doorPair: CertificateAndKey
const doors: JoinDoor[] = []
const members: string[] = []

before(async () => {
  cluster = await Cluster.start({ masters: 1, nodes: 0 })
  client = cluster.client()
  const [ca, busCa, etcdCa, machineCa] = (await Promise.all(
    ['capstan', 'bus', 'etcd', 'machines'].map((name) => makeCa(name, valid)),
  )) as [CertificateAndKey, CertificateAndKey, CertificateAndKey, CertificateAndKey]
  authorities = {
    certificates: { ca, 'bus-ca': busCa, 'etcd-ca': etcdCa, 'machine-ca': machineCa },
    bus: await makeBusAuthority(),
    routePassword: 'secret',
    serviceAccount: { publicKey: '', privateKey: '' },
  }
  doorPair = await serverPair(ca)
  await new ClusterRecords(client).addMaster({ name: 'm0', address: '127.0.0.1', ...MASTER_PORTS })
})

after(async () => {
  await Promise.all(doors.map((door) => door.close()))
  await cluster.stop()
})

const serverPair = (ca: CertificateAndKey) =>
  makeServerCertificate(ca, { ...valid, commonName: 'door', dnsNames: [], ipAddresses: ['127.0.0.1'] })

/** A door of its own for each test: what is refused in one must not count in another. */
async function open(idleMs = 5000) {
  const door = await openJoinDoor(
    {
      settings,
      client,
      authorities: () => authorities,
      async addStoreMember(name) {
        members.push(name)
      },
    },
    {
      host: '127.0.0.1',
      port: 0,
      certificates: {
        ...doorPair,
        ca: authorities.certificates.ca.cert,
        machineCa: authorities.certificates['machine-ca'].cert,
      },
      log: silentLog,
      idleMs,
    },
  )
  doors.push(door)
  return { host: '127.0.0.1', port: door.port }
}

const tokenFor = async (role: Role, options: { ttlMs?: number; uses?: number } = {}) =>
  tokenText(await createToken(client, { role, ttlMs: 60_000, ...options }))

async function asking(role: Role, name: string, token: string): Promise<JoinRequest> {
  const { request: csr } = await makeCertificateRequest()
  return {
    token,
    role,
    name,
    address: '127.0.0.9',
    request: csr,
    busKeys: makeBusKeys(role, name).publicKeys,
    ...(role === 'master' ? { ports: MASTER_PORTS } : {}),
  }
}

const ca = () => authorities.certificates.ca.cert
const refusal = (words: RegExp) => (error: unknown) => error instanceof UserError && words.test(error.message)

test('a node joins: the cluster is recognised by its hash, keys stay with the node, authorities with the masters', async () => {
  const door = await open()
  assert.equal(await recogniseCluster(door, publicKeyHash(ca())), new X509Certificate(ca()).toString())
  const asked = await asking('node', 'n1', await tokenFor('node', { uses: 1 }))
  const answer = await askDoor<JoinAnswer>(door, '/v1/join', asked, { ca: ca() })
  assert.equal(answer.settings.clusterId, 'f00d')
  assert.deepEqual(
    answer.masters.map(({ name }) => name),
    ['m0'],
  )
  assert.equal(answer.authorities, undefined)
  const certificate = new X509Certificate(answer.certificate)
  assert.equal(certificate.subject, 'O=system:nodes\nCN=system:node:n1')
  assert.ok(certificate.verify(new X509Certificate(authorities.certificates['machine-ca'].cert).publicKey))
  const claims = JSON.parse(Buffer.from(answer.busJwts['kubelet~n1']?.split('.')[1] ?? '', 'base64url').toString())
  assert.equal(claims.sub, asked.busKeys['kubelet~n1'])
  assert.deepEqual(Object.keys(answer.busJwts).sort(), ['kube-proxy~n1', 'kubelet~n1', 'machine~n1'])

  const again = await askDoor<JoinAnswer>(door, '/v1/join', asked, { ca: ca() })
  assert.equal(again.settings.clusterId, 'f00d', 'the same once more, should the answer have been lost')
  const other = await asking('node', 'n1', await tokenFor('node'))
  await assert.rejects(
    askDoor(door, '/v1/join', other, { ca: ca() }),
    refusal(/a node named n1 \(127\.0\.0\.9\) belongs to this cluster; join under another --name, or.*node remove n1/),
  )
})

test('a master and a node may not have one name', async () => {
  const door = await open()
  await askDoor(door, '/v1/join', await asking('node', 'host1', await tokenFor('node')), { ca: ca() })
  await assert.rejects(
    askDoor(door, '/v1/join', await asking('master', 'host1', await tokenFor('master')), { ca: ca() }),
    refusal(/host1 is the name of a node of this cluster; a master needs another one \(--name\)/),
  )
  assert.ok(!members.includes('host1'))
})

test('a master gets the authorities, is on the list, and is a member of the store', async () => {
  const door = await open()
  const asked = await asking('master', 'm1', await tokenFor('master'))
  const answer = await askDoor<JoinAnswer>(door, '/v1/join', asked, { ca: ca() })
  assert.equal(answer.authorities?.routePassword, 'secret')
  assert.deepEqual(
    answer.masters.map(({ name }) => name),
    ['m0', 'm1'],
  )
  assert.deepEqual(members, ['m1'])
})

test('another authority is recognised before anything is said', async () => {
  const door = await open()
  const foreign = await makeCa('capstan', valid)
  await assert.rejects(
    recogniseCluster(door, publicKeyHash(foreign.cert)),
    refusal(/another cluster.*Nothing was sent/),
  )
  await assert.rejects(recogniseCluster(door, 'sha256:beef'), refusal(/64 hexadecimal digits/))
  await assert.rejects(
    askDoor(door, '/v1/join', await asking('node', 'n2', await tokenFor('node')), { ca: foreign.cert }),
    refusal(/self-signed|unable to verify|signature/i),
  )
})

test('a token that is wrong, over, used up, deleted or for another role opens nothing, and is told what to do', async () => {
  const door = await open()
  const tries: [string, Role, RegExp][] = []
  tries.push([
    'rubbish',
    'node',
    /looks like abcdef\.0123456789abcdef; make one on a master: capstan token create --role node/,
  ])
  const good = await tokenFor('node')
  tries.push([
    `${good.slice(0, -1)}${good.endsWith('a') ? 'b' : 'a'}`,
    'node',
    /no such token, or it was deleted; make one/,
  ])
  tries.push(['zzzzzz.0123456789abcdef', 'node', /no such token, or it was deleted; make one/])
  tries.push([await tokenFor('node', { ttlMs: -1000 }), 'node', /token \w{6} expired at 2\d{3}-.*make one on a master/])
  tries.push([good, 'master', /is for a node, not for a master; .*--role master/])
  const gone = await tokenFor('master')
  assert.ok(await deleteToken(client, gone))
  tries.push([gone, 'master', /no such token, or it was deleted/])
  for (const [token, role, words] of tries)
    await assert.rejects(askDoor(door, '/v1/join', await asking(role, 'n3', token), { ca: ca() }), refusal(words))
  assert.equal(await new ClusterRecords(client).machine('n3'), undefined)

  const once = await tokenFor('node', { uses: 1 })
  const both = await Promise.allSettled(
    ['n4', 'n5'].map(async (name) => askDoor(door, '/v1/join', await asking('node', name, once), { ca: ca() })),
  )
  assert.deepEqual(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  const refused = both.find((one) => one.status === 'rejected')
  const names = await Promise.all(['n4', 'n5'].map((name) => new ClusterRecords(client).machine(name)))
  assert.equal(names.filter((one) => one !== undefined).length, 1, 'who was refused left nothing behind')
  assert.match(String(refused?.reason), /is used up; make one/)
})

test('a certificate is renewed for whoever shows a valid one, and for nobody else', async () => {
  const door = await open()
  const machineCa = authorities.certificates['machine-ca']
  const joined = await asking('node', 'n6', await tokenFor('node'))
  await askDoor(door, '/v1/join', joined, { ca: ca() })
  const renew = async (own: Partial<CertificateAndKey>) =>
    askDoor<RenewAnswer>(door, '/v1/renew', { request: (await makeCertificateRequest()).request }, { ca: ca(), ...own })
  const own = await makeClientCertificate(machineCa, { ...valid, ...machineUser('node', 'n6') })
  const renewed = await renew(own)
  assert.equal(new X509Certificate(renewed.certificate).subject, 'O=system:nodes\nCN=system:node:n6')

  await assert.rejects(renew({}), refusal(/no certificate was shown/))
  const expired = { notBeforeMs: Date.now() - 60_000, notAfterMs: Date.now() - 1000 }
  await assert.rejects(
    renew(await makeClientCertificate(machineCa, { ...expired, ...machineUser('node', 'n6') })),
    refusal(/certificate shown expired at .*join again with a token/),
  )
  // Of the API's authority, too: it makes users, no machines.
  for (const authority of [await makeCa('capstan-machines', valid), authorities.certificates.ca])
    await assert.rejects(
      renew(await makeClientCertificate(authority, { ...valid, ...machineUser('node', 'n6') })),
      refusal(/not of this cluster/),
    )
  await assert.rejects(
    renew(await makeClientCertificate(machineCa, { ...valid, ...machineUser('master', 'n6') })),
    refusal(/master n6 was removed/),
  )
  await new ClusterRecords(client).unregister('n6')
  await assert.rejects(renew(own), refusal(/node n6 was removed from the cluster; it may join again with a token/))
})

test('what is no request changes nothing and stops nothing', async () => {
  const good = await asking('node', 'n7', await tokenFor('node'))
  const broken: [string, unknown, number, RegExp][] = [
    ['no JSON', '{"token":', 400, /no JSON/],
    ['no object', [], 400, /not an object/],
    ['no role', { ...good, role: 'admin' }, 400, /role: master or node/],
    ['a path for a name', { ...good, name: '../../etc/passwd' }, 400, /can't be a machine's name/],
    ['a name with a wildcard', { ...good, name: '*' }, 400, /can't be a machine's name/],
    ['no address', { ...good, address: 'example' }, 400, /no IPv4 address/],
    ['no certificate request', { ...good, request: 'AAAA' }, 400, /request/],
    [
      'the key of an account',
      { ...good, busKeys: { ...good.busKeys, 'kubelet~n7': `A${'B'.repeat(55)}` } },
      400,
      /busKeys/,
    ],
    ['a key missing', { ...good, busKeys: {} }, 400, /busKeys/],
  ]
  const door = await open()
  for (const [what, body, status, words] of broken) {
    const answer = await post(door.port, '/v1/join', typeof body === 'string' ? body : JSON.stringify(body))
    assert.equal(answer.status, status, what)
    assert.match(answer.body, words, what)
  }
  const second = await open()
  assert.equal((await post(second.port, '/v1/join', 'x'.repeat(100_000))).status, 413)
  assert.equal((await post(second.port, '/v1/secrets', '{}')).status, 404)
  assert.equal((await post(second.port, '/', '', 'GET')).status, 404)
  await askDoor(second, '/v1/join', good, { ca: ca() })
})

test('who is refused ten times in a minute is not listened to', async () => {
  const door = await open()
  for (let attempt = 0; attempt < 10; attempt++) assert.equal((await post(door.port, '/v1/join', '{}')).status, 400)
  const good = await asking('node', 'n8', await tokenFor('node'))
  await assert.rejects(askDoor(door, '/v1/join', good, { ca: ca() }), refusal(/too many attempts.*in a minute/))
})

test('who says nothing, or too little, is sent away', async () => {
  const { port } = await open(200)
  const ends = (begin: (socket: ReturnType<typeof connect>) => void) =>
    new Promise<void>((resolve) => {
      const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () => begin(socket))
      socket.on('error', () => undefined).on('close', () => resolve())
      socket.resume()
    })
  await Promise.all([
    ends(() => undefined),
    ends((socket) => socket.write('POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-le')),
    ends((socket) => socket.write('\0\x01\x02\x03garbage\r\n\r\n')),
  ])
})

function post(port: number, path: string, body: string, method = 'POST'): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ host: '127.0.0.1', port, path, method, ca: ca(), agent: false }, (incoming) => {
      let text = ''
      incoming.setEncoding('utf8').on('data', (piece: string) => (text += piece))
      incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, body: text }))
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}
