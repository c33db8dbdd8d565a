import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { promisify } from 'node:util'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { type KubeObject, RESOURCES } from '@capstan/client'
import { Cluster } from './cluster.js'
import { UserError } from './console.js'
import { isPortTaken } from './doctor/probe.js'
import { type DrainApi, drainApi, drainNode, type DrainPod, planDrain } from './drain.js'
import { KubeApi, KubeApiError } from './kube-api.js'
import { layOut, portsOf } from './layout.js'
import { waitFor } from './process-file.js'

const pod = (name: string, owner?: string, more: Partial<DrainPod> = {}): DrainPod => ({
  metadata: {
    name,
    namespace: 'default',
    uid: `uid-${name}`,
    ...(owner === undefined ? {} : { ownerReferences: [{ kind: owner, name: 'o', controller: true }] }),
  },
  status: { phase: 'Running' },
  ...more,
})
const names = (pods: readonly DrainPod[]) => pods.map((one) => one.metadata.name)

test('what is evicted, what stays, what nobody would make anew', () => {
  const mirror = pod('mirror')
  mirror.metadata.annotations = { 'kubernetes.io/config.mirror': 'x' }
  const plan = planDrain([
    pod('web', 'ReplicaSet'),
    pod('db', 'StatefulSet'),
    pod('log', 'DaemonSet'),
    pod('bare'),
    pod('over', undefined, { status: { phase: 'Succeeded' } }),
    pod('log-over', 'DaemonSet', { status: { phase: 'Failed' } }),
    mirror,
  ])
  assert.deepEqual(names(plan.evict), ['web', 'db', 'over', 'log-over'])
  assert.deepEqual(names(plan.stay), ['log', 'mirror'])
  assert.deepEqual(names(plan.bare), ['bare'])
})

/** Pods that end `looks` looks after they were evicted. */
class FakeDrainApi implements DrainApi {
  cordoned: boolean | undefined
  readonly evictions: string[] = []
  constructor(
    public pods: DrainPod[],
    private readonly evicts: (pod: DrainPod) => void = () => undefined,
  ) {}
  async setUnschedulable(_node: string, unschedulable: boolean) {
    this.cordoned = unschedulable
  }
  async podsOn() {
    return this.pods
  }
  async evict(one: DrainPod) {
    this.evicts(one)
    this.evictions.push(one.metadata.name)
    this.pods = this.pods.filter((other) => other !== one)
  }
}

const options = { force: false, timeoutMs: 2000, lookMs: 1, repeatMs: 5 }

test('a pod that nobody would make anew stops it, unless by force; the node stays cordoned', async () => {
  const api = new FakeDrainApi([pod('web', 'ReplicaSet'), pod('bare')])
  await assert.rejects(
    drainNode(api, 'n', options),
    (error: Error) => error instanceof UserError && /default\/bare: no controller.*--force/.test(error.message),
  )
  assert.deepEqual(api.evictions, [])
  assert.equal(api.cordoned, true)
  assert.deepEqual(await drainNode(api, 'n', { ...options, force: true }), { evicted: 2 })
})

test('a refusal for now is repeated; an API that is away for a moment is asked again', async () => {
  let refusals = 3
  let losses = 2
  const said: string[] = []
  const api = new FakeDrainApi([pod('web', 'ReplicaSet')], () => {
    if (losses-- > 0) throw new KubeApiError(0, 'm:1 does not answer')
    if (refusals-- > 0) throw new KubeApiError(429, "Cannot evict pod as it would violate the pod's disruption budget.")
  })
  assert.deepEqual(await drainNode(api, 'n', options, (text) => said.push(text)), { evicted: 1 })
  assert.equal(said.filter((text) => text.includes('must wait')).length, 1)
  assert.equal(said.filter((text) => text.includes('trying again')).length, 2)
})

test('when the time is over it says what is left and why', async () => {
  const ending = pod('slow', 'ReplicaSet')
  ending.metadata.deletionTimestamp = '2030-01-01T00:00:00Z'
  const api = new FakeDrainApi([pod('web', 'ReplicaSet'), ending], () => {
    throw new KubeApiError(429, 'budget')
  })
  await assert.rejects(
    drainNode(api, 'n', { ...options, timeoutMs: 30 }),
    /web: budget; default\/slow: is still ending/,
  )
  const broken = new FakeDrainApi([pod('web', 'ReplicaSet')], () => {
    throw new KubeApiError(403, 'no')
  })
  await assert.rejects(drainNode(broken, 'n', options), /no/)
})

/**
 * One that is free with the others of a cluster of one master. Below those that outgoing connections are given: so no other
 * test that runs now can be given one of them.
 */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 9_000)
    const size = { masters: 1, nodes: 2, bus: 'memory', runtime: 'hollow' } as const
    const layout = layOut({ ...size, port, slot: 0, id: 'test', tolerationSeconds: 2 })
    const taken = await Promise.all(portsOf(layout).map((one) => isPortTaken('127.0.0.1', one)))
    if (!taken.includes(true)) return port
  }
}

test('a node of a living cluster: drained by capstan and by kubectl, its pods run elsewhere; and back', async () => {
  const scratch = mkdtempSync(join(tmpdir(), 'capstan-drain-'))
  const kubeconfig = join(scratch, 'admin.conf')
  const cluster = await Cluster.start({ masters: 1, nodes: 2, https: { port: await freePort() } })
  try {
    writeFileSync(kubeconfig, cluster.kubeconfig ?? '')
    const api = KubeApi.fromKubeconfig(kubeconfig)
    const client = cluster.client()
    const template = { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'c', image: 'i' }] } }
    const metadata = { name: 'web', namespace: 'default' }
    await client.create(RESOURCES.deployments, {
      metadata,
      spec: { replicas: 4, selector: { matchLabels: { app: 'web' } }, template },
    } as KubeObject)
    interface Pod extends KubeObject {
      spec: { nodeName?: string }
      status?: { phase?: string }
    }
    const running = async (node: string) =>
      (await client.list<Pod>(RESOURCES.pods)).items.filter(
        (one) => one.spec.nodeName === node && one.status?.phase === 'Running' && !one.metadata.deletionTimestamp,
      ).length
    const settled = async (a: number, b: number) =>
      assert.ok(
        await waitFor(async () => (await running('node-0')) === a && (await running('node-1')) === b, 20_000, 50),
        `not ${a} and ${b}: ${await running('node-0')} and ${await running('node-1')}`,
      )
    await settled(2, 2)
    // One at a time may be away: the second eviction waits until the first pod has its successor.
    await client.create(RESOURCES.poddisruptionbudgets, {
      metadata,
      spec: { maxUnavailable: 1, selector: { matchLabels: { app: 'web' } } },
    } as KubeObject)
    interface Budget extends KubeObject {
      status?: { disruptionsAllowed?: number }
    }
    const allowed = async () => (await client.get<Budget>(RESOURCES.poddisruptionbudgets, metadata)).status
    assert.ok(await waitFor(async () => (await allowed())?.disruptionsAllowed === 1, 20_000, 50))
    const said: string[] = []
    const drained = { force: false, timeoutMs: 20_000, lookMs: 50, repeatMs: 50 }
    const result = await drainNode(drainApi(api), 'node-0', drained, (text) => said.push(text))
    assert.deepEqual(result, { evicted: 2 })
    assert.equal(said.filter((text) => text.includes('must wait: Cannot evict pod')).length, 1, said.join('\n'))
    await settled(0, 4)
    await drainApi(api).setUnschedulable('node-0', false)

    if (spawnSync('kubectl', ['version', '--client']).status === 0) {
      const kubectl = async (...args: string[]) =>
        (await promisify(execFile)('kubectl', ['--kubeconfig', kubeconfig, ...args])).stdout
      assert.match(await kubectl('drain', 'node-1', '--ignore-daemonsets', '--timeout=40s'), /node\/node-1 drained/)
      await settled(4, 0)
      assert.match(await kubectl('uncordon', 'node-1'), /node\/node-1 uncordoned/)
    }
    await assert.rejects(
      drainNode(drainApi(api), 'node-9', options),
      (error: Error) => error instanceof KubeApiError && error.status === 404,
    )
    api.close()
  } finally {
    await cluster.stop()
    rmSync(scratch, { recursive: true, force: true })
  }
})
