import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { type ApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import { Cluster, type ClusterState } from './cluster.js'
import { waitFor } from './process-file.js'

const PATIENCE_MS = 30_000

interface Pod extends KubeObject {
  spec: { nodeName?: string }
  status?: { phase?: string }
}

const deployment = (name: string, replicas: number): KubeObject =>
  ({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name, namespace: 'default' },
    spec: {
      replicas,
      selector: { matchLabels: { app: name } },
      template: {
        metadata: { labels: { app: name } },
        spec: { containers: [{ name: 'main', image: 'example/hollow' }] },
      },
    },
  }) as KubeObject

const configMap = (name: string): KubeObject =>
  ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name, namespace: 'default' },
    data: { is: 'kept' },
  }) as KubeObject

const isRunning = (pod: Pod) => pod.status?.phase === 'Running' && !pod.metadata.deletionTimestamp

async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  assert.ok(await waitFor(condition, PATIENCE_MS, 20), `not within ${PATIENCE_MS} ms: ${what}`)
}

const running = async (client: ApiClient): Promise<Pod[]> =>
  (await client.list<Pod>(RESOURCES.pods, { namespace: 'default' })).items.filter(isRunning)

const leaderOf = (state: ClusterState) => state.masters.find((m) => m.role === 'leader')?.name

test('a cluster in memory outlives its leading master and a node', async () => {
  const cluster = await Cluster.start()
  try {
    const client = cluster.client()
    await client.create(RESOURCES.deployments, deployment('web', 6))
    await until('six pods run', async () => (await running(client)).length === 6)

    const leader = leaderOf(await cluster.status())
    assert.ok(leader)
    await cluster.kill(leader)
    await client.create(RESOURCES.configmaps, configMap('after-the-leader'))
    const after = await cluster.status()
    assert.equal(after.masters.find((m) => m.name === leader)?.role, 'down')
    assert.notEqual(leaderOf(after), undefined)

    const victim = (await running(client))[0]?.spec.nodeName
    assert.ok(victim)
    await cluster.kill(victim)
    await until(`six pods run, none on ${victim}`, async () => {
      const pods = await running(client)
      return pods.length === 6 && pods.every((pod) => pod.spec.nodeName !== victim)
    })

    await cluster.start(leader)
    await cluster.start(victim)
    await until('all machines are back', async () => {
      const { masters, nodes } = await cluster.status()
      return masters.every((m) => m.role !== 'down') && nodes.every((n) => n.ready)
    })
    await assert.rejects(cluster.kill('node-9'), RangeError)
  } finally {
    await cluster.stop()
  }
  assert.equal((await cluster.status()).masters.filter((m) => m.role === 'down').length, 3)
})

test('what a restarted master acknowledges has happened: its writes are not taken for those of its former life', async () => {
  const cluster = await Cluster.start({ masters: 1, nodes: 0 })
  try {
    const client = cluster.client()
    const names = ['a', 'b', 'c'].map((letter) => [`first-${letter}`, `second-${letter}`] as const)
    for (const [first] of names) await client.create(RESOURCES.configmaps, configMap(first))
    await cluster.kill('master-0')
    await cluster.start('master-0')
    for (const [, second] of names) await client.create(RESOURCES.configmaps, configMap(second))
    const { items } = await client.list(RESOURCES.configmaps, { namespace: 'default' })
    const found = new Set(items.map((item) => item.metadata.name))
    assert.deepEqual(
      names.flat().filter((name) => !found.has(name)),
      [],
    )
  } finally {
    await cluster.stop()
  }
})

test('a cluster on disk is found again', async () => {
  const data = await mkdtemp(join(tmpdir(), 'capstan-cluster-'))
  try {
    const first = await Cluster.start({ masters: 1, nodes: 0, data })
    assert.equal(first.kubeconfig, undefined)
    await first.client().create(RESOURCES.configmaps, configMap('kept'))
    await first.stop()
    await assert.rejects(Cluster.start({ masters: 3, nodes: 0, data }), /has 1 masters/)
    const second = await Cluster.start({ masters: 1, nodes: 1, data })
    const found = await second
      .client()
      .get<KubeObject & { data: object }>(RESOURCES.configmaps, { namespace: 'default', name: 'kept' })
    assert.deepEqual(found.data, { is: 'kept' })
    await second.stop()
    assert.ok(existsSync(join(data, 'machines/master-0/store')))
  } finally {
    await rm(data, { recursive: true, force: true })
  }
})

test('what cannot be is refused before anything starts', async () => {
  await assert.rejects(Cluster.start({ masters: 0 }), RangeError)
  await assert.rejects(Cluster.start({ nodes: 1.5 }), RangeError)
  await assert.rejects(Cluster.start({ runtime: 'process' }), /needs a data directory/)
})
