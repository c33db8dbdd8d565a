/** A cluster on three "VMs", addresses of loopback: made, joined, its first master killed, removed and replaced. */
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { BusError, CallError, encode, type Log } from '@capstan/actor'
import { makeCa, makeClientCertificate } from '@capstan/certs'
import { BusApiClient, RESOURCES } from '@capstan/client'
import { Subjects } from '@capstan/protocol'
import { MemoryDisk, NatsBus, silentLog } from '@capstan/real'
import { UserError } from '../console.js'
import { IDENTITY_TIMES, Places, RECOVERY_TIMES } from '../layout.js'
import { signal } from '../machines.js'
import { writePair } from '../pki.js'
import { liveProcess, waitFor } from '../process-file.js'
import { hasCommand } from '../shell.js'
import { busWorld } from '../worlds.js'
import { asAdmin } from './admin-access.js'
import { machineUser, readPair } from './certificates.js'
import { initMaster } from './init.js'
import { joinCommand } from './join-command.js'
import { joinMaster, joinNode } from './join.js'
import { leave, stopMachine } from './leave.js'
import { existingMachine, machineFiles, MASTER_PORTS, readMasters, type Role } from './machine-file.js'
import { MastersList } from './masters-list.js'
import { busAccess } from './machine-bus.js'
import { removeMachine } from './remove.js'

const lacks = hasCommand('nats-server') && hasCommand('setpriv') ? false : 'needs nats-server and setpriv'
/** A network of its own for each run: the ports are everybody's. */
const NET = `127.77.${process.pid % 250}`
const root = mkdtempSync(join(tmpdir(), 'vm-'))
const data = (machine: string) => join(root, machine)

/** What stands after a flag in a printed command. */
const flag = (command: string, name: string) => new RegExp(`--${name} (\\S+)`).exec(command)?.[1] ?? ''

async function joining(by: string, role: Role, name: string, address: string) {
  const command = await joinCommand(data(by), { role, ttlMs: 60_000 })
  const options = {
    ...MASTER_PORTS,
    token: flag(command, 'token'),
    caCertHash: flag(command, 'ca-cert-hash'),
    address,
    name,
    data: data(name),
    start: true,
  }
  const door = /join (\S+)/.exec(command)?.[1] ?? ''
  return role === 'master' ? joinMaster(door, options) : joinNode(door, { ...options, runtime: 'hollow' })
}

/** With a master's admin certificate, to its own API server. */
function api(
  master: string,
  method: string,
  path: string,
  body?: object,
  pair?: { cert: string; key: string },
): Promise<{ status: number; body: never }> {
  const places = new Places(data(master))
  const { address } = existingMachine(places)
  const ca = readFileSync(machineFiles(places).ca, 'utf8')
  return new Promise((resolve, reject) => {
    const outgoing = request(
      {
        host: address,
        port: MASTER_PORTS.apiPort,
        path,
        method,
        ...(pair ?? readPair(places, 'admin')),
        ca,
        agent: false,
        headers: { 'content-type': method === 'PATCH' ? 'application/merge-patch+json' : 'application/json' },
      },
      (incoming) => {
        let text = ''
        incoming.setEncoding('utf8').on('data', (piece: string) => (text += piece))
        incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, body: JSON.parse(text) as never }))
      },
    )
    outgoing.on('error', reject)
    outgoing.end(body === undefined ? undefined : JSON.stringify(body))
  })
}

const DEPLOYMENTS = '/apis/apps/v1/namespaces/default/deployments'

const deployment = (replicas: number) => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: 'web' },
  spec: {
    replicas,
    selector: { matchLabels: { app: 'web' } },
    template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'web', image: 'nginx' }] } },
  },
})

async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  assert.ok(await waitFor(() => condition().catch(() => false), 60_000, 100), `${what} within 60 s`)
}

const ready = (master: string, replicas: number) =>
  until(`${replicas} replicas`, async () => {
    const { body } = await api(master, 'GET', `${DEPLOYMENTS}/web`)
    return (body as { status?: { readyReplicas?: number } }).status?.readyReplicas === replicas
  })

/** As a power cut: the supervisor and all that it started. */
function killMachine(name: string): void {
  const supervisor = liveProcess(new Places(data(name)).pidFile(`${name}-supervisor`))
  assert.ok(supervisor !== undefined)
  signal(-supervisor, 'SIGKILL')
}

before(async () => {
  if (lacks) return
  await initMaster({
    ...MASTER_PORTS,
    address: `${NET}.1`,
    name: 'm0',
    data: data('m0'),
    podCidr: '10.244.0.0/16',
    serviceCidr: '10.96.0.0/16',
    certificateSeconds: 3600,
    tolerationSeconds: 2,
    identity: IDENTITY_TIMES,
    recovery: RECOVERY_TIMES,
    start: true,
  })
  await Promise.all([
    joining('m0', 'master', 'm1', `${NET}.2`),
    joining('m0', 'master', 'm2', `${NET}.3`),
    joining('m0', 'node', 'n0', `${NET}.4`),
  ])
})

after(async () => {
  if (!lacks) await Promise.all(['m0', 'm1', 'm2', 'n0'].map((machine) => stopMachine(data(machine))))
  rmSync(root, { recursive: true, force: true })
})

test('three masters and a node serve; the first master is killed, removed and replaced', { skip: lacks }, async () => {
  assert.equal((await api('m2', 'POST', DEPLOYMENTS, deployment(2))).status, 201)
  await ready('m1', 2)

  killMachine('m0')
  assert.equal((await api('m1', 'PATCH', `${DEPLOYMENTS}/web`, { spec: { replicas: 3 } })).status, 200)
  await ready('m2', 3)

  await removeMachine(data('m1'), 'master', 'm0')
  await leave(data('m0'))
  await joining('m2', 'master', 'm0', `${NET}.1`)
  const members = await asAdmin(data('m0'), ({ members: store }) => store.list())
  assert.deepEqual(members, [
    { name: 'm0', learner: false },
    { name: 'm1', learner: false },
    { name: 'm2', learner: false },
  ])
  await ready('m0', 3)
  const masters = () => readMasters(new Places(data('m1'))).map(({ name }) => name)
  await until('the others know the new master', async () => masters().includes('m0'))
})

test("a node's credentials open nothing but what is the node's (promise A2)", { skip: lacks }, async () => {
  const places = new Places(data('n0'))
  const machine = existingMachine(places)
  const identity = { component: 'kubelet', name: 'n0' } as const
  const access = busAccess(places, machine, new MastersList(places), 'kubelet')
  const errors: string[] = []
  const log: Log = {
    ...silentLog,
    error: (fields, text) => errors.push(`${JSON.stringify(fields)} ${text}`),
    child: () => log,
  }
  // A kubelet that was taken over checks nothing by itself.
  const { cluster: _, ...connection } = access
  const s = new Subjects(access.cluster)
  const bus = await NatsBus.connect(
    {
      ...connection,
      identity: 'kubelet~n0',
      inbox: s.inbox('kubelet~n0', 'thief'),
      grants: { publish: ['>'], subscribe: ['>'] },
      log,
    },
    AbortSignal.timeout(10_000),
  )
  const said = encode({})
  const forbidden = [
    s.store('m1', 'kubelet~n0', 'range'),
    s.store('m1', 'apiserver~m1', 'range'),
    s.api('m1', 'kubelet~other', 'list'),
    s.api('m1', 'admin~m1', 'list'),
    s.raft('m1', 'm2'),
    s.beat('kubelet', 'other'),
    s.node('other', 'apiserver~m1', 'logs'),
  ]
  for (const subject of forbidden)
    await assert.rejects(
      bus.request(subject, said, { timeoutMs: 3000 }),
      (error) => error instanceof BusError && error.code === 'DENIED',
      subject,
    )
  for (const pattern of ['>', `${s.root}.inbox.>`, s.raftTo('m1'), s.nodeServed('other'), s.apiServed('m1')]) {
    errors.length = 0
    bus.subscribe(pattern, () => assert.fail(`heard something on ${pattern}`))
    assert.ok(await waitFor(() => errors.some((text) => text.includes('refused a subscription')), 3000, 20), pattern)
  }
  await bus.close()

  const world = await busWorld(access, identity, { log: silentLog, disk: new MemoryDisk() })
  const client = new BusApiClient(world, { cluster: access.cluster, machine: 'n0' })
  const isForbidden = (error: unknown) => error instanceof CallError && error.code === 'Forbidden'
  await assert.rejects(client.list(RESOURCES.secrets, { namespace: 'kube-system' }), isForbidden)
  await assert.rejects(client.delete(RESOURCES.nodes, { name: 'other' }), isForbidden)
  client.close()
  await world.bus.close()

  // Its credentials without a certificate, or with one that somebody else made.
  const foreign = await makeCa('capstan-machines', { notBeforeMs: Date.now() - 1000, notAfterMs: Date.now() + 60_000 })
  const forged = await makeClientCertificate(foreign, {
    ...machineUser('node', 'n0'),
    notBeforeMs: Date.now() - 1000,
    notAfterMs: Date.now() + 60_000,
  })
  writePair(new Places(join(root, 'forger')), 'machine', forged)
  const { clientCertificate: _own, ...without } = access
  const others = [
    without,
    { ...access, clientCertificate: machineFiles(new Places(join(root, 'forger'))).pair('machine') },
  ]
  for (const other of others)
    await assert.rejects(
      busWorld(other, identity, { log: silentLog, disk: new MemoryDisk(), signal: AbortSignal.timeout(1500) }),
      (error) => error instanceof BusError && error.code === 'CLOSED',
    )
  const natsLogs = () =>
    ['m0', 'm1', 'm2'].map((name) => readFileSync(new Places(data(name)).log(`${name}-nats`), 'utf8')).join('')
  for (const words of ['Publish Violation', 'Subscription Violation', 'TLS handshake error'])
    assert.ok(natsLogs().includes(words), `the servers log: ${words}`)
  // Its certificate is none of the API's users.
  assert.equal(
    (await api('m1', 'GET', '/api/v1/namespaces/kube-system/secrets', undefined, readPair(places, 'machine'))).status,
    401,
  )
})

test('names are unique, and a removed node hears and says nothing any more', { skip: lacks }, async () => {
  await assert.rejects(
    joinNode(`${NET}.2`, {
      ...(await joinOptions('n0')),
      data: data('other'),
      runtime: 'hollow',
    }),
    (error) =>
      error instanceof UserError && /a node named n0 .* belongs to this cluster.*node remove n0/.test(error.message),
  )
  await removeMachine(data('m1'), 'node', 'n0')
  const nodes = await api('m1', 'GET', '/api/v1/nodes')
  assert.deepEqual((nodes.body as { items: object[] }).items, [])
  const log = new Places(data('n0')).log('n0')
  await until('its kubelet is refused', async () => readFileSync(log, 'utf8').includes('NATS refuses our credentials'))
})

async function joinOptions(name: string) {
  const command = await joinCommand(data('m1'), { role: 'node', ttlMs: 60_000 })
  return {
    token: flag(command, 'token'),
    caCertHash: flag(command, 'ca-cert-hash'),
    address: `${NET}.9`,
    name,
    start: false,
  }
}

test('what is secret can be read by its owner only', { skip: lacks }, () => {
  for (const machine of ['m0', 'm1', 'n0'])
    for (const directory of ['', 'pki', 'credentials']) {
      const path = join(data(machine), directory)
      assert.equal(statSync(path).mode & 0o077, 0, path)
      for (const file of readdirSync(path, { withFileTypes: true }))
        if (file.isFile()) assert.equal(statSync(join(path, file.name)).mode & 0o077, 0, join(path, file.name))
    }
})
