import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decode, type Account, type User } from '@nats-io/jwt'
import {
  busCredentials,
  busServerConfig,
  isBusUserKey,
  makeBusAuthority,
  makeBusKey,
  makeBusUser,
  makeSystemUser,
  revokeBusUser,
  signBusUser,
} from './bus-credentials.js'

const jwtOf = (credentials: Uint8Array) =>
  /-----BEGIN NATS USER JWT-----\s+(\S+)/.exec(new TextDecoder().decode(credentials))?.[1] as string

test("a user's credentials carry exactly what it may do", async () => {
  const authority = await makeBusAuthority()
  const { credentials, publicKey } = await makeBusUser(authority, 'kubelet~w1', {
    publish: ['capstan.c.api.*.from.kubelet~w1.*'],
    subscribe: ['capstan.c.inbox.kubelet~w1.>'],
    allowResponses: { max: 7, expiresMs: 1500 },
  })
  const user = decode<User>(jwtOf(credentials))
  assert.equal(user.sub, publicKey)
  assert.equal(user.name, 'kubelet~w1')
  assert.equal(user.iss, decode<Account>(authority.accountJwt).sub)
  assert.deepEqual(user.nats.pub, { allow: ['capstan.c.api.*.from.kubelet~w1.*'], deny: [] })
  assert.deepEqual(user.nats.sub, { allow: ['capstan.c.inbox.kubelet~w1.>'], deny: [] })
  assert.deepEqual(user.nats.resp, { max: 7, ttl: 1_500_000_000 })
  assert.match(new TextDecoder().decode(credentials), /-----BEGIN USER NKEY SEED-----\s+SU/)
  const silent = decode<User>(jwtOf((await makeBusUser(authority, 'x', { publish: [], subscribe: [] })).credentials))
  assert.equal(silent.nats.resp, undefined)
})

test('an authority survives being kept as JSON; its accounts have no hidden limits', async () => {
  const authority = JSON.parse(JSON.stringify(await makeBusAuthority())) as Awaited<ReturnType<typeof makeBusAuthority>>
  for (const jwt of [authority.accountJwt, authority.systemAccountJwt]) {
    const { limits } = decode<Account>(jwt).nats
    assert.equal(limits?.conn, -1)
    assert.equal(limits?.subs, -1)
    assert.equal(limits?.payload, -1)
  }
  const system = decode<User>(jwtOf(await makeSystemUser(authority)))
  assert.equal(system.iss, decode<Account>(authority.systemAccountJwt).sub)
})

test('whoever keeps its seed to itself gets credentials for its public key', async () => {
  const authority = await makeBusAuthority()
  const { seed, publicKey } = makeBusKey()
  assert.ok(isBusUserKey(publicKey))
  for (const other of ['', 'UABC', seed, publicKey.replace(/^U/, 'A'), `${publicKey.slice(0, -1)}=`])
    assert.equal(isBusUserKey(other), false, other)
  const jwt = await signBusUser(authority, 'kubelet~w1', publicKey, { publish: ['a'], subscribe: [] })
  const user = decode<User>(jwt)
  assert.equal(user.sub, publicKey)
  assert.equal(user.iss, decode<Account>(authority.accountJwt).sub)
  assert.equal(jwtOf(busCredentials(jwt, seed)), jwt)
  assert.match(new TextDecoder().decode(busCredentials(jwt, seed)), new RegExp(seed))
})

test('clients may have to show a certificate; routes always do, of their own authority', async () => {
  const config = busServerConfig(await makeBusAuthority(), {
    name: 'm0',
    cluster: 'c1',
    listen: { host: '127.0.0.1', port: 4222 },
    route: { host: '127.0.0.1', port: 6222 },
    peers: [],
    routePassword: 'p',
    directory: '/var/lib/x',
    tls: { cert: 's.crt', key: 's.key', ca: 'bus.crt', clientCa: 'machines.crt' },
  })
  const blocks = config.match(/tls \{.*\}/g) ?? []
  assert.equal(blocks.length, 2)
  assert.match(blocks[0] ?? '', /ca_file: "machines.crt", verify: true/)
  assert.match(blocks[1] ?? '', /ca_file: "bus.crt", timeout/)
})

test('a revocation stays in the account until the end', async () => {
  const authority = await makeBusAuthority()
  for (const identity of ['a', 'b'])
    authority.users[identity] = (await makeBusUser(authority, identity, { publish: [], subscribe: [] })).publicKey
  const { a, b } = { ...authority.users }
  const first = await revokeBusUser(authority, 'a', 1_700_000_000_001)
  assert.deepEqual(decode<Account>(first).nats.revocations, { [a as string]: 1_700_000_001 })
  await assert.rejects(revokeBusUser(authority, 'a', 1_700_000_000_001), /no credentials were made for a/)
  const second = await revokeBusUser(authority, 'b', 1_700_000_002_000)
  assert.deepEqual(decode<Account>(second).nats.revocations, {
    [a as string]: 1_700_000_001,
    [b as string]: 1_700_000_002,
  })
  assert.equal(authority.accountJwt, second)
  assert.deepEqual(authority.users, {})
})

test('a configuration names its server, its peers and the authority', async () => {
  const authority = await makeBusAuthority()
  const config = busServerConfig(authority, {
    name: 'm "0"',
    cluster: 'c1',
    listen: { host: '127.0.0.1', port: 4222 },
    route: { host: '127.0.0.1', port: 6222 },
    peers: ['127.0.0.1:6223', '127.0.0.1:6224'],
    routePassword: 'p w',
    directory: '/var/lib/x',
  })
  assert.match(config, /^server_name: "m \\"0\\""$/m)
  assert.match(config, /^listen: "127\.0\.0\.1:4222"$/m)
  assert.match(config, new RegExp(`^operator: ${authority.operatorJwt}$`, 'm'))
  assert.equal(config.match(/"nats-route:/g)?.length, 2)
  assert.match(config, /"nats-route:\/\/capstan:p%20w@127\.0\.0\.1:6223"/)
  assert.doesNotMatch(config, /tls/)
  assert.doesNotMatch(config, /SO[A-Z2-7]{54}|SA[A-Z2-7]{54}/, 'no seed of the authority leaves it')
})
