/** The programs of the chart's pods, started from the rendered objects and the Secrets of `capstan chart secrets`. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { makeChartSecrets } from '@capstan/cli'
import { loadChart, type Plain, renderChart } from './helm/chart.js'
import { Pods, strangersCanRead } from './helm/pods.js'
import { HttpsClient } from './https-client.js'

const CHART = join(import.meta.dirname, '../../helm/capstan')
const TIMEOUT_MS = 60_000
/** Away from what a cluster of this host uses, and from another run of this test. */
const NETWORK = `127.${64 + ((process.pid >> 8) & 63)}.${process.pid & 255}`
const PORT = 20_000 + (process.pid % 1000) * 10
const PORTS = {
  // And the next two: see `Pods.apiPort`.
  api: { port: PORT },
  bus: { port: PORT + 5, routePort: PORT + 6 },
  etcd: { enabled: true, port: PORT + 7 },
}

const canRun = (command: string, ...args: string[]) => spawnSync(command, args).status === 0
const lacks = [
  [process.getuid?.() === 0 && canRun('unshare', '-m', 'true'), 'mount namespaces (root)'],
  [strangersCanRead(), 'a repository that other users can read'],
  [canRun('nats-server', '--version'), "Debian's nats-server"],
].flatMap(([there, what]) => (there ? [] : [what]))
const skip = lacks.length > 0 && `this machine lacks ${lacks.join(', ')}`

let directory = ''
let pods: Pods
const clients = new Map<string, HttpsClient>()

before(async () => {
  if (skip) return
  directory = mkdtempSync(join(tmpdir(), 'capstan-pods-'))
  chmodSync(directory, 0o755)
  const made = await makeChartSecrets({
    ...{ directory: join(directory, 'secrets'), name: 'drum', namespace: 'ships', replicas: 3 },
    ...{ clusterDomain: 'cluster.local', serviceCidr: '10.96.0.0/16' },
    addresses: [1, 2, 3].map((i) => `${NETWORK}.${i}`),
  })
  const kubeconfig = join(directory, 'admin.conf')
  writeFileSync(kubeconfig, made.kubeconfig)
  const release = { name: 'drum', namespace: 'ships' }
  const { objects } = renderChart(loadChart(CHART), { ...(made.values as Plain), ...PORTS }, release)
  pods = new Pods({ objects, secrets: made.secrets, directory, network: NETWORK })
  for (const member of pods.members) {
    clients.set(member, new HttpsClient(kubeconfig, `https://${pods.address(member)}:${pods.apiPort(member)}`))
    pods.start(member)
  }
})
after(() => {
  for (const client of clients.values()) client.close()
  if (skip) return
  pods.kill()
  rmSync(directory, { recursive: true, force: true })
})

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + TIMEOUT_MS
  while (!(await condition())) {
    if (performance.now() > end)
      assert.fail(
        `${what}: not within ${TIMEOUT_MS} ms\n${pods.members.map((m) => ['nats', 'store', 'master'].map((c) => `--- ${m} ${c}\n${pods.log(m, c).slice(-2000)}`).join('\n')).join('\n')}`,
      )
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

const ask = async (member: string, method: string, path: string, body?: unknown) =>
  (clients.get(member) as HttpsClient).request(method, path, body, 3000).catch(() => ({ status: 0, body: '' }))
const isReady = async (member: string) => (await ask(member, 'GET', '/readyz')).status === 200
const namespace = (name: string) => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } })

test('three pods of the chart become one cluster', { skip, timeout: 5 * TIMEOUT_MS }, async () => {
  for (const member of pods.members) await until(`${member} gets ready`, () => isReady(member))
  const [one, two] = pods.members as [string, string]
  assert.equal((await ask(one, 'POST', '/api/v1/namespaces', namespace('a'))).status, 201)
  await until('the other one has it', async () => (await ask(two, 'GET', '/api/v1/namespaces/a')).status === 200)
  // Routes are by the names of the headless Service, with certificates that name them.
  for (const member of pods.members) {
    assert.match(pods.log(member, 'nats'), /Route connection created/)
    assert.doesNotMatch(pods.log(member, 'nats'), /TLS route handshake error|certificate|Authorization/i)
    assert.match(pods.log(member, 'store'), /^ready$/m)
    for (const container of ['nats', 'store', 'master', 'etcd'])
      assert.deepEqual(pods.confinement(member, container), { uid: 65532, capabilities: '0'.repeat(16), root: 'ro' })
    await until(`the etcd face of ${member} listens`, () => /^ready \d+$/m.test(pods.log(member, 'etcd')))
  }
})

test('a pod that ends hands over; the others go on; it comes back to its volume', {
  skip,
  timeout: 3 * TIMEOUT_MS,
}, async () => {
  const [one, two, three] = pods.members as [string, string, string]
  const ended = await pods.stop(one)
  // nats-server tells a clean end by SIGTERM with 1 (2.9) or 0 (later).
  assert.match(ended.join(), /^master 0,etcd 0,store 0,nats [01]$/)
  await until(
    'the others take writes',
    async () => (await ask(two, 'POST', '/api/v1/namespaces', namespace('b'))).status === 201,
  )
  pods.start(one)
  await until(`${one} gets ready again`, () => isReady(one))
  for (const name of ['a', 'b'])
    await until(`${one} has ${name}`, async () => (await ask(one, 'GET', `/api/v1/namespaces/${name}`)).status === 200)
  for (const member of [three, two, one]) await pods.stop(member)
})
