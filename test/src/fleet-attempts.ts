/** What somebody tries who has all files of one node (promise A2), over the wire. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as tlsConnect } from 'node:tls'
import { type CertificateAndKey, makeCa, makeClientCertificate } from '@capstan/certs'
import type { Fleet } from '@capstan/chaos/fleet'
import { BusApiClient, RESOURCES } from '@capstan/client'
import { grants, identityToken, Subjects } from '@capstan/protocol'
import { NatsBus, RealClock, RealRandom, silentLog } from '@capstan/real'
import { connect, credsAuthenticator, errors, type NatsConnection } from 'nats'

export interface Attempt {
  what: string
  refused: boolean
  /** By which words. */
  told: string
}

const CLUSTER = 'capstan'
const BUS_PORT = 4222
const API_PORT = 6443
const ETCD_PORT = 2379
/** Only a bound: what is refused is refused at once, where there is a processor to be had. */
const ANSWER_MS = 15_000
const HOUR_MS = 3_600_000

/** `node`'s kubelet turns on the cluster; `victim` is another node. */
export async function attemptsOf(fleet: Fleet, node: string, victim: string): Promise<Attempt[]> {
  const files = fleet.machine(node).seen('/var/lib/capstan')
  const server = `${fleet.machine('master-0').address}:${BUS_PORT}`
  const credentials = readFileSync(join(files, 'credentials', `kubelet~${node}.creds`))
  const ca = readFileSync(join(files, 'pki/bus-ca.crt'), 'utf8')
  const pair = { cert: join(files, 'pki/machine.crt'), key: join(files, 'pki/machine.key') }
  const subjects = new Subjects(CLUSTER)
  const me = identityToken({ component: 'kubelet', name: node })
  const other = identityToken({ component: 'kubelet', name: victim })

  const attempts = await askingTheApi()
  const nats = await connect({
    servers: [server],
    authenticator: credsAuthenticator(credentials),
    // The library asks for a certificate of "localhost".
    tls: { ca, certFile: pair.cert, keyFile: pair.key, checkServerIdentity: () => undefined } as never,
    reconnect: false,
  })
  try {
    const violations = collectViolations(nats)
    const told = async (what: string, operation: string, subject: string) => {
      await nats.flush()
      const words = await waitFor(
        () => violations.find((v) => v.operation === operation && v.subject === subject)?.message,
      )
      attempts.push({ what, refused: words !== undefined, told: words ?? 'the server said nothing against it' })
    }
    const publish = async (what: string, subject: string) => {
      nats.publish(subject, new Uint8Array([1]))
      await told(what, 'publish', subject)
    }
    const subscribe = async (what: string, subject: string) => {
      nats.subscribe(subject, { callback: () => undefined })
      await told(what, 'subscription', subject)
    }
    await publish('speaking as another node to an API server', subjects.api('master-0', other, 'get'))
    await publish('a beat in the name of another node', subjects.beat('kubelet', victim))
    await publish('speaking raft', subjects.raft('master-1', 'master-0'))
    await publish('asking the store', subjects.store('master-0', me, 'range'))
    await publish('ordering another node about', subjects.node(victim, me, 'logs'))
    await subscribe('hearing what is for another node', subjects.nodeServed(victim))
    await subscribe("hearing another node's answers", `${subjects.root}.inbox.${other}.>`)
    await subscribe('hearing all answers', `${subjects.root}.inbox.>`)
    await subscribe('hearing everything', '>')
  } finally {
    await nats.close()
  }
  return attempts

  async function askingTheApi(): Promise<Attempt[]> {
    const identity = { component: 'kubelet', name: node } as const
    const bus = await NatsBus.connect(
      {
        servers: [server],
        credentials,
        ca,
        clientCertificate: pair,
        identity: me,
        inbox: subjects.inbox(me, 'thief'),
        grants: grants(CLUSTER, identity),
        log: silentLog,
      },
      AbortSignal.timeout(ANSWER_MS),
    )
    const client = new BusApiClient(
      { bus, clock: new RealClock(), random: new RealRandom(), log: silentLog },
      { cluster: CLUSTER, machine: '' },
    )
    const tried = async (what: string, work: () => Promise<unknown>): Promise<Attempt> => {
      try {
        await work()
        return { what, refused: false, told: 'it was done' }
      } catch (error) {
        const text = (error as Error).message
        // Anything else (no answer, not found) is no refusal.
        return { what, refused: /forbidden|cannot|may only/i.test(text), told: text }
      }
    }
    try {
      return [
        await tried('reading its own Node', () => client.get(RESOURCES.nodes, { name: node })),
        await tried('reading Secrets', () => client.list(RESOURCES.secrets, { namespace: 'kube-system' })),
        await tried('changing another Node', () => client.delete(RESOURCES.nodes, { name: victim })),
      ]
    } finally {
      client.close()
      await bus.close()
    }
  }
}

/** Certificates that are not, or no more, of this cluster, at the doors that ask for one. `machine-ca` and `ca` come from a master. */
export async function attemptsWithCertificates(fleet: Fleet): Promise<Attempt[]> {
  const master = fleet.machine('master-0')
  const pki = master.seen('/var/lib/capstan/pki')
  const read = (name: string) => readFileSync(join(pki, name), 'utf8')
  const authority = (name: string): CertificateAndKey => ({ cert: read(`${name}.crt`), key: read(`${name}.key`) })
  const now = Date.now()
  const good = { notBeforeMs: now - HOUR_MS, notAfterMs: now + HOUR_MS }
  const over = { notBeforeMs: now - 2 * HOUR_MS, notAfterMs: now - HOUR_MS }
  const who = { user: 'kubernetes-admin', groups: ['system:masters'] }
  const foreign = await makeClientCertificate(await makeCa('capstan', good), { ...who, ...good })
  const attempts: Attempt[] = []
  const isGood = await makeClientCertificate(authority('ca'), { ...who, ...good })
  attempts.push({ what: 'good certificate, API', ...(await askApi(isGood)) })
  attempts.push({ what: 'foreign certificate, API', ...(await askApi(foreign)) })
  attempts.push({
    what: 'expired certificate, API',
    ...(await askApi(await makeClientCertificate(authority('ca'), { ...who, ...over }))),
  })
  const node = fleet.machine('node-1').seen('/var/lib/capstan/pki')
  const ofNode = {
    cert: readFileSync(join(node, 'machine.crt'), 'utf8'),
    key: readFileSync(join(node, 'machine.key'), 'utf8'),
  }
  attempts.push({ what: "a node's certificate, API", ...(await askApi(ofNode)) })
  attempts.push({ what: 'good certificate, etcd', ...(await askEtcd(authority('etcd-client'))) })
  attempts.push({ what: "a node's certificate, etcd", ...(await askEtcd(ofNode)) })
  attempts.push({ what: 'foreign certificate, etcd', ...(await askEtcd(foreign)) })
  attempts.push({ what: 'no certificate, etcd', ...(await askEtcd({})) })
  const machine = authority('machine-ca')
  attempts.push({
    what: 'good certificate, bus',
    ...(await askBus(await makeClientCertificate(machine, { ...who, ...good }))),
  })
  attempts.push({ what: 'foreign certificate, bus', ...(await askBus(foreign)) })
  attempts.push({
    what: 'expired certificate, bus',
    ...(await askBus(await makeClientCertificate(machine, { ...who, ...over }))),
  })
  return attempts

  function askApi(own: CertificateAndKey): Promise<Omit<Attempt, 'what'>> {
    return new Promise((resolve) => {
      const options = {
        host: master.address,
        port: API_PORT,
        path: '/api/v1/secrets',
        ca: read('ca.crt'),
        ...own,
        agent: false as const,
        timeout: ANSWER_MS,
      }
      const outgoing = request(options, (incoming) => {
        let text = ''
        incoming.on('data', (bytes) => (text += String(bytes)))
        incoming.on('end', () => {
          const status = incoming.statusCode ?? 0
          resolve({ refused: status === 401 || status === 403, told: `${status}: ${text.slice(0, 200)}` })
        })
      })
      outgoing.on('timeout', () => outgoing.destroy(new Error('no answer')))
      outgoing.on('error', (error) =>
        resolve({ refused: /alert|reset|certificate/i.test(error.message), told: error.message }),
      )
      outgoing.end()
    })
  }

  /** HTTP/2 begins; whoever is let in hears the server's settings. */
  function askEtcd(own: Partial<CertificateAndKey>): Promise<Omit<Attempt, 'what'>> {
    return new Promise((resolve) => {
      const end = (refused: boolean, told: string) => {
        socket.destroy()
        resolve({ refused, told })
      }
      const socket = tlsConnect({
        host: master.address,
        port: ETCD_PORT,
        ca: read('etcd-ca.crt'),
        ALPNProtocols: ['h2'],
        ...own,
      })
      socket.on('secureConnect', () => socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0'))
      socket.on('data', () => end(false, 'it answers'))
      socket.on('error', (error) => end(/alert|reset|certificate/i.test(error.message), error.message))
      socket.on('close', () => end(true, 'the connection was closed'))
      socket.setTimeout(ANSWER_MS, () => end(false, 'no answer'))
    })
  }

  /** Credentials are not even asked for before the certificate is good: the handshake ends. */
  async function askBus(own: CertificateAndKey): Promise<Omit<Attempt, 'what'>> {
    const directory = mkdtempSync(join(tmpdir(), 'thief-'))
    try {
      for (const [name, text] of Object.entries(own)) writeFileSync(join(directory, name), text)
      const nats = await connect({
        servers: [`${master.address}:${BUS_PORT}`],
        authenticator: credsAuthenticator(
          readFileSync(fleet.machine('node-1').seen('/var/lib/capstan/credentials/kubelet~node-1.creds')),
        ),
        tls: {
          ca: read('bus-ca.crt'),
          certFile: join(directory, 'cert'),
          keyFile: join(directory, 'key'),
          checkServerIdentity: () => undefined,
        } as never,
        reconnect: false,
        timeout: ANSWER_MS,
      })
      await nats.close()
      return { refused: false, told: 'connected' }
    } catch (error) {
      return { refused: true, told: (error as Error).message }
    } finally {
      rmSync(directory, { recursive: true })
    }
  }
}

function collectViolations(nats: NatsConnection): { operation: string; subject: string; message: string }[] {
  const found: { operation: string; subject: string; message: string }[] = []
  void (async () => {
    for await (const status of nats.status())
      if (status.type === 'error' && status.error instanceof errors.PermissionViolationError) {
        const { operation, subject, message } = status.error
        found.push({ operation, subject, message })
      }
  })()
  return found
}

async function waitFor<T>(look: () => T | undefined): Promise<T | undefined> {
  const end = performance.now() + ANSWER_MS
  for (;;) {
    const found = look()
    if (found !== undefined || performance.now() > end) return found
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
