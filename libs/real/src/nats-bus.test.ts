import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type Bus, BusError, type BusMessage } from '@capstan/actor'
import {
  type BusAuthority,
  busServerConfig,
  makeBusAuthority,
  makeBusUser,
  makeCa,
  makeClientCertificate,
  makeServerCertificate,
  makeSystemUser,
  revokeBusUser,
} from '@capstan/certs'
import type { Grants } from '@capstan/protocol'
import { errors } from 'nats'
import { pushAccountJwt } from './nats-admin.js'
import { NatsBus } from './nats-bus.js'
import { silentLog } from './real-log.js'
import { busContract } from './testing/bus-contract.js'
import { NatsServers, noNatsServer } from './testing/nats-servers.js'

const bytes = (text: string) => new TextEncoder().encode(text)
const text = (message: BusMessage) => new TextDecoder().decode(message.payload)
/** Until a condition holds, at most; nothing is expected to take that long. */
const PATIENCE_MS = 20_000

/** Servers with an authority, and connections to them. */
class Cluster {
  private readonly buses: Bus[] = []
  /** Making a user takes 50 ms. */
  private readonly made = new Map<string, Uint8Array>()

  private constructor(
    readonly authority: BusAuthority,
    readonly servers: NatsServers,
  ) {}

  static async start(
    count: number,
    change: (config: string) => string = (config) => config,
    tls?: { cert: string; key: string; ca: string; clientCa?: string },
  ): Promise<Cluster> {
    const authority = await makeBusAuthority()
    const servers = await NatsServers.start(count, (all, i) =>
      change(
        busServerConfig(authority, {
          name: `n${i}`,
          cluster: 'test',
          listen: { host: '127.0.0.1', port: all.ports[i] as number },
          route: { host: '127.0.0.1', port: all.routePorts[i] as number },
          peers: all.routePorts.filter((_, other) => other !== i).map((port) => `127.0.0.1:${port}`),
          routePassword: 'route',
          directory: `${all.dir}/jwt-${i}`,
          ...(tls ? { tls } : {}),
        }),
      ),
    )
    return new Cluster(authority, servers)
  }

  private async credentials(identity: string, grants: Grants): Promise<Uint8Array> {
    const key = JSON.stringify([identity, this.authority.revocations, grants])
    const made = this.made.get(key)
    if (made) return made
    const { credentials, publicKey } = await makeBusUser(this.authority, identity, grants)
    this.authority.users[identity] = publicKey
    this.made.set(key, credentials)
    return credentials
  }

  /** `claims`: what the client believes that it may do. */
  async connect(
    identity: string,
    options: {
      grants?: Grants
      claims?: Grants
      first?: number
      inbox?: string
      credentials?: Uint8Array
      signal?: AbortSignal
      ca?: string
      clientCertificate?: { cert: string; key: string }
      pingMs?: number
      servers?: string[]
    } = {},
  ): Promise<NatsBus> {
    const grants = options.grants ?? everything
    const bus = await NatsBus.connect(
      {
        servers: options.servers ?? this.servers.urls(options.first),
        identity,
        inbox: options.inbox ?? `inbox.${identity}`,
        grants: options.claims ?? grants,
        credentials: options.credentials ?? (await this.credentials(identity, grants)),
        log: silentLog,
        ...(options.ca ? { ca: options.ca } : {}),
        ...(options.clientCertificate ? { clientCertificate: options.clientCertificate } : {}),
        ...(options.pingMs ? { pingMs: options.pingMs } : {}),
      },
      options.signal,
    )
    this.buses.push(bus)
    return bus
  }

  /** Every server passes on what is published at every other. */
  async meshed(): Promise<void> {
    const buses = await Promise.all(this.servers.ports.map((_, i) => this.connect(`mesh${i}`, { first: i })))
    for (const bus of buses)
      bus.subscribe(`mesh.${bus.identity}`, (message) => bus.publish(message.replyTo as string, message.payload))
    for (const from of buses)
      for (const to of buses)
        await eventually(`${from.identity} reaches ${to.identity}`, () =>
          answered(from.request(`mesh.${to.identity}`, bytes('x'), { timeoutMs: 500 })),
        )
    await Promise.all(buses.map((bus) => bus.close()))
  }

  async end(): Promise<void> {
    await Promise.all(this.buses.map((bus) => bus.close()))
    await this.servers.end()
  }
}

const everything: Grants = { publish: ['>'], subscribe: ['>'] }

async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while (!(await holds())) {
    if (performance.now() > deadline) assert.fail(`never: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

const code = (wanted: string) => (error: unknown) => error instanceof BusError && error.code === wanted

/** The server has dealt with all that this connection sent it before, subscriptions too. */
const synced = (bus: Bus) =>
  bus.request('nobody.listens', bytes(''), { timeoutMs: PATIENCE_MS }).then(
    () => assert.fail('somebody listens'),
    (error: unknown) => assert.ok(code('NO_RESPONDERS')(error) || code('DENIED')(error), String(error)),
  )

const answered = (question: Promise<unknown>) =>
  question.then(
    () => true,
    () => false,
  )

function givenUp(): AbortSignal {
  const giveUp = new AbortController()
  giveUp.abort()
  return giveUp.signal
}

let shared: Cluster
if (!noNatsServer) {
  before(async () => {
    shared = await Cluster.start(1)
  })
  after(() => shared?.end())
}

busContract(
  'NATS',
  () => Promise.resolve({ connect: ({ identity, inbox, grants }) => shared.connect(identity, { inbox, grants }) }),
  {
    skip: noNatsServer,
  },
)

describe('NATS: permissions', { skip: noNatsServer }, () => {
  test('the server refuses what a lying client sends, and tells it', async () => {
    const grants = { publish: ['to.*.from.a'], subscribe: ['inbox.a.>'] }
    const liar = await shared.connect('a', { grants, claims: everything })
    const victim = await shared.connect('b')
    const heard: string[] = []
    victim.subscribe('to.b.from.*', (message) => heard.push(message.subject))
    liar.subscribe('inbox.b.>', () => assert.fail('heard what is for another'))
    liar.subscribe('>', () => assert.fail('heard what is for others'))
    await Promise.all([synced(victim), synced(liar)])
    await assert.rejects(liar.request('to.b.from.c', bytes('x'), { timeoutMs: PATIENCE_MS }), code('DENIED'))
    liar.publish('to.b.from.c', bytes('forged'))
    liar.publish('to.b.from.a', bytes('own'))
    victim.publish('inbox.b.1', bytes('secret'))
    victim.publish('inbox.a.1', bytes('for a'))
    await eventually('the honest one arrives', () => heard.length > 0)
    assert.deepEqual(heard, ['to.b.from.a'])
    await liar.close()
    await victim.close()
  })

  test('credentials of another authority are refused', async () => {
    const { credentials } = await makeBusUser(await makeBusAuthority(), 'x', everything)
    // The server asks around for that account, for about as long as we wait: the cause is its refusal or our patience.
    await assert.rejects(shared.connect('x', { credentials, signal: givenUp() }), code('CLOSED'))
  })

  test("who bears another's credentials without its key is refused, and learns why", async () => {
    const [mine, other] = await Promise.all(['x', 'y'].map((name) => makeBusUser(shared.authority, name, everything)))
    const seed = /S[A-Z2-7]{57}/
    const textOf = (user?: { credentials: Uint8Array }) => new TextDecoder().decode(user?.credentials)
    const credentials = bytes(textOf(other).replace(seed, seed.exec(textOf(mine))?.[0] as string))
    await assert.rejects(
      shared.connect('y', { credentials, signal: givenUp() }),
      (error) => code('CLOSED')(error) && (error as Error).cause instanceof errors.AuthorizationError,
    )
  })

  test('a revoked user is thrown out by running servers and kept out; others stay; new credentials let it in again', async () => {
    const cluster = await Cluster.start(3)
    try {
      await cluster.meshed()
      const [revoked, other] = [
        await cluster.connect('kubelet', { first: 2 }),
        await cluster.connect('other', { first: 2 }),
      ]
      const claims = await revokeBusUser(cluster.authority, 'kubelet', Date.now())
      // Told to one server, by way of the system account, it reaches all.
      const credentials = await makeSystemUser(cluster.authority)
      const tell = (server: number) =>
        pushAccountJwt({ servers: cluster.servers.urls(server), credentials, accountJwt: claims, log: silentLog })
      await tell(0)
      await eventually('the revoked one is out', () => !revoked.connected)
      assert.throws(() => revoked.publish('x', bytes('x')), code('DISCONNECTED'))
      const fresh = await cluster.connect('kubelet', { first: 2 })
      fresh.subscribe('hello', (message) => fresh.publish(message.replyTo as string, bytes('hello')))
      await eventually('it is heard', () =>
        other.request('hello', bytes(''), { timeoutMs: PATIENCE_MS }).then(
          (answer) => text(answer) === 'hello',
          () => false,
        ),
      )
      assert.equal(other.epoch, 1)
      assert.equal(revoked.connected, false)
      assert.equal(revoked.epoch, 1)
      // Also by a server that starts anew with its old file: it may let that one in until a master tells it again.
      await cluster.servers.kill(2)
      await cluster.servers.launch(2)
      await eventually('the others are back', () => other.connected && fresh.connected)
      await cluster.meshed()
      await tell(2)
      await eventually('the revoked one is out', () => !revoked.connected)
    } finally {
      await cluster.end()
    }
  })
})

describe('NATS: TLS', { skip: noNatsServer }, () => {
  test('a bus with the CA speaks TLS to servers that it names, and to no others', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'capstan-tls-'))
    const valid = { notBeforeMs: Date.now() - 60_000, notAfterMs: Date.now() + 3600_000 }
    const ca = await makeCa('capstan', valid)
    const clusters: Cluster[] = []
    const start = async (count: number, ipAddresses: string[], dnsNames: string[] = []) => {
      const { cert, key } = await makeServerCertificate(ca, { ...valid, commonName: 'nats', dnsNames, ipAddresses })
      const paths = {
        cert: join(dir, `${clusters.length}.crt`),
        key: join(dir, `${clusters.length}.key`),
        ca: join(dir, 'ca'),
      }
      await Promise.all([writeFile(paths.cert, cert), writeFile(paths.key, key), writeFile(paths.ca, ca.cert)])
      const cluster = await Cluster.start(count, (config) => config, paths)
      clusters.push(cluster)
      return cluster
    }
    try {
      const cluster = await start(2, ['127.0.0.1'])
      const [a, b] = [
        await cluster.connect('a', { ca: ca.cert, first: 0 }),
        await cluster.connect('b', { ca: ca.cert, first: 1 }),
      ]
      b.subscribe('to.b', (message) => b.publish(message.replyTo as string, message.payload))
      await eventually('a is heard, by way of a route', () =>
        answered(a.request('to.b', bytes('x'), { timeoutMs: 1000 })),
      )
      const other = await makeCa('capstan', valid)
      await assert.rejects(cluster.connect('c', { ca: other.cert, signal: givenUp() }), code('CLOSED'))
      // Nor does it fall back to plain text.
      await assert.rejects(shared.connect('e', { ca: ca.cert, signal: givenUp() }), code('CLOSED'))
      // Somebody else's server with a certificate of the same CA, for another address.
      const elsewhere = await start(1, ['10.1.2.3'], ['localhost'])
      await assert.rejects(elsewhere.connect('d', { ca: ca.cert, signal: givenUp() }), code('CLOSED'))
    } finally {
      for (const cluster of clusters) await cluster.end()
      await rm(dir, { recursive: true })
    }
  })
})

describe('NATS: certificates of clients', { skip: noNatsServer }, () => {
  test('a server that asks for one takes those of its authority; a renewed one is used from the next connect on', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'capstan-tls-'))
    const nowMs = Date.now()
    const valid = { notBeforeMs: nowMs - 60_000, notAfterMs: nowMs + 3600_000 }
    const [ca, clients, foreign] = await Promise.all(['bus', 'machines', 'machines'].map((name) => makeCa(name, valid)))
    assert.ok(ca && clients && foreign)
    const path = (name: string) => join(dir, name)
    const own = { cert: path('own.crt'), key: path('own.key') }
    const show = async (authority: typeof ca, until = valid) => {
      const made = await makeClientCertificate(authority, { ...until, user: 'n1', groups: [] })
      await Promise.all([writeFile(own.cert, made.cert), writeFile(own.key, made.key)])
    }
    const server = await makeServerCertificate(ca, {
      ...valid,
      commonName: 's',
      dnsNames: [],
      ipAddresses: ['127.0.0.1'],
    })
    await Promise.all([
      writeFile(path('s.crt'), server.cert),
      writeFile(path('s.key'), server.key),
      writeFile(path('ca'), ca.cert),
      writeFile(path('clients'), clients.cert),
    ])
    const tls = { cert: path('s.crt'), key: path('s.key'), ca: path('ca'), clientCa: path('clients') }
    const cluster = await Cluster.start(1, (config) => config, tls)
    try {
      const refused = (options: object) =>
        assert.rejects(cluster.connect('a', { ca: ca.cert, signal: givenUp(), ...options }), code('CLOSED'))
      await refused({})
      await show(foreign)
      await refused({ clientCertificate: own })
      await show(clients, { notBeforeMs: nowMs - 60_000, notAfterMs: nowMs - 1000 })
      await refused({ clientCertificate: own })
      // The server's authority signs no clients.
      await show(ca)
      await refused({ clientCertificate: own })

      await show(clients)
      const bus = await cluster.connect('a', { ca: ca.cert, clientCertificate: own })
      await cluster.servers.kill(0)
      await eventually('it is away', () => !bus.connected)
      await show(foreign)
      await cluster.servers.launch(0)
      await show(clients)
      await eventually('it is back', () => bus.connected)
    } finally {
      await cluster.end()
      await rm(dir, { recursive: true })
    }
  })
})

describe('NATS: connections that break', { skip: noNatsServer }, () => {
  test('a server dies and comes back: nothing is kept, subscriptions live again', async () => {
    const cluster = await Cluster.start(1)
    try {
      const [a, b] = [await cluster.connect('a'), await cluster.connect('b')]
      const heard: string[] = []
      b.subscribe('to.b', (message) => heard.push(text(message)))
      let away = 0
      const unsubscribed = b.subscribe('to.b', () => away++)
      await synced(b)
      const changes: { connected: boolean; epoch: number }[] = []
      a.onChange((state) => changes.push(state))
      const outstanding = assert.rejects(
        a.request('to.b', bytes('asked before'), { timeoutMs: PATIENCE_MS }),
        (error) => code('CONNECTION_LOST')(error) && (error as BusError).outcome === 'maybe-applied',
      )
      await eventually('it was heard', () => heard.includes('asked before') && away === 1)
      await cluster.servers.kill(0)
      await outstanding
      await eventually('both know', () => !a.connected && !b.connected)
      assert.throws(
        () => a.publish('to.b', bytes('into the void')),
        (error) => code('DISCONNECTED')(error) && (error as BusError).outcome === 'not-applied',
      )
      await assert.rejects(a.request('to.b', bytes('into the void'), { timeoutMs: PATIENCE_MS }), code('DISCONNECTED'))
      unsubscribed.unsubscribe()
      b.subscribe('to.b.late', (message) => heard.push(text(message)))
      await cluster.servers.launch(0)
      await eventually('both are back', () => a.connected && b.connected)
      assert.deepEqual(changes, [
        { connected: false, epoch: 1 },
        { connected: true, epoch: 2 },
      ])
      await synced(b)
      heard.length = 0
      a.publish('to.b', bytes('hello'))
      a.publish('to.b.late', bytes('again'))
      await eventually('both subscriptions hear', () => heard.length === 2)
      assert.deepEqual(heard, ['hello', 'again'])
      assert.equal(away, 1)
    } finally {
      await cluster.end()
    }
  })

  test('whose server dies goes to another one of the cluster', async () => {
    const cluster = await Cluster.start(3)
    try {
      await cluster.meshed()
      const [a, b] = [await cluster.connect('a', { first: 0 }), await cluster.connect('b', { first: 1 })]
      b.subscribe('to.b', (message) => b.publish(message.replyTo as string, message.payload))
      const ask = (bus: Bus) => bus.request('to.b', bytes('x'), { timeoutMs: 1000 })
      await eventually('the interest has come round', () => answered(ask(a)))
      await cluster.servers.kill(0)
      await eventually('a is back', () => a.connected && a.epoch > 1)
      await eventually('a is heard', () => answered(ask(a)))
      assert.equal(b.epoch, 1)
      await cluster.servers.kill(1)
      await eventually('b is back', () => b.connected && b.epoch > 1)
      await eventually('b hears', () => answered(ask(a)))
    } finally {
      await cluster.end()
    }
  })

  test('who is told of other servers goes to them after a loss', async () => {
    const cluster = await Cluster.start(2)
    try {
      const [first, second] = cluster.servers.urls(0) as [string, string]
      const bus = await cluster.connect('a', { servers: [first] })
      bus.setServers([second])
      assert.ok(bus.connected, 'the present connection stays')
      assert.equal(bus.epoch, 1)
      await cluster.servers.kill(0)
      await eventually('it is at the other one', () => bus.connected && bus.epoch === 2)
    } finally {
      await cluster.end()
    }
  })

  test('a server that hangs with full sockets is left', async () => {
    const cluster = await Cluster.start(2)
    try {
      await cluster.meshed()
      const a = await cluster.connect('a', { first: 0, pingMs: 100 })
      cluster.servers.signal(0, 'SIGSTOP')
      let taken = 0
      try {
        for (; taken < 1000; taken++) a.publish('to.nobody', new Uint8Array(1024 * 1024))
        assert.fail('took without bound')
      } catch (error) {
        assert.ok(code('OVERLOADED')(error), String(error))
      }
      assert.ok(taken >= 64, `${taken}`)
      await eventually('a is at the other one', () => a.connected && a.epoch > 1)
      assert.ok(
        code('NO_RESPONDERS')(
          await a.request('to.nobody', bytes('x'), { timeoutMs: PATIENCE_MS }).catch((e: unknown) => e),
        ),
      )
    } finally {
      cluster.servers.signal(0, 'SIGCONT')
      await cluster.end()
    }
  })

  test('closing does not wait for a server that hangs', async () => {
    const cluster = await Cluster.start(1)
    try {
      const a = await cluster.connect('a')
      cluster.servers.signal(0, 'SIGSTOP')
      for (let i = 0; i < 32; i++) a.publish('to.nobody', new Uint8Array(1024 * 1024))
      await a.close()
      assert.throws(() => a.publish('x', bytes('x')), code('CLOSED'))
    } finally {
      cluster.servers.signal(0, 'SIGCONT')
      await cluster.end()
    }
  })

  test('who reads too slowly is thrown out by the server, and hears again in its next epoch', async () => {
    const cluster = await Cluster.start(1, (config) =>
      config
        .replace('max_pending: 67108864', 'max_pending: 4194304')
        .replace('write_deadline: "2s"', 'write_deadline: "100ms"'),
    )
    try {
      const [a, slow] = [await cluster.connect('a'), await cluster.connect('slow')]
      let heard = 0
      let greeted = false
      slow.subscribe('to.slow', (message) => {
        if (message.payload.length > 1) heard++
        else greeted = true
      })
      // Its process does not get round to reading.
      const { socket } = (
        slow as unknown as { nats: { protocol: { transport: { socket: import('node:net').Socket } } } }
      ).nats.protocol.transport
      socket.pause()
      let sent = 0
      for (; slow.epoch === 1 && sent < 4000; sent++) {
        a.publish('to.slow', new Uint8Array(256 * 1024))
        await a.request('to.nobody', bytes('x'), { timeoutMs: PATIENCE_MS }).catch(code('NO_RESPONDERS'))
        // What waits in the kernel must not hide that the server has closed.
        if (sent % 50 === 49) socket.resume()
        if (sent % 50 === 0) socket.pause()
      }
      await eventually('it is in its next epoch', () => slow.connected && slow.epoch > 1)
      assert.ok(heard < sent, 'some were lost')
      await synced(slow)
      a.publish('to.slow', bytes('x'))
      await eventually('it hears', () => greeted)
      assert.equal(a.epoch, 1)
    } finally {
      await cluster.end()
    }
  })
})
