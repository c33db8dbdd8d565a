/**
 * The story of `e2e.test.ts` in short, driven by `@kubernetes/client-node`: for machines without a kubectl that will do. It says
 * which of the two it is.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { after, before, describe, test } from 'node:test'
import { AppsV1Api, CoreV1Api, KubeConfig, type V1Pod } from '@kubernetes/client-node'
import { ClusterUnderTest, eventually, exec } from './cluster-under-test.js'
import { kubectlLack } from './kubectl-version.js'

const namespace = 'default'
const lack = kubectlLack()
const unable =
  process.getuid?.() !== 0 || spawnSync('sh', ['-c', 'command -v apt-get']).status !== 0
    ? 'needs root and Debian packages'
    : ''
if (lack) console.log(`${lack}: the cluster is driven by @kubernetes/client-node`)

const isReady = (pod: V1Pod) =>
  !pod.metadata?.deletionTimestamp &&
  (pod.status?.conditions ?? []).some((c) => c.type === 'Ready' && c.status === 'True')

describe('a cluster driven by the client library of Kubernetes', {
  skip: lack ? unable || false : 'kubectl drives it: e2e.test.ts',
  timeout: 240_000,
}, () => {
  let cluster: ClusterUnderTest
  let core: CoreV1Api
  let apps: AppsV1Api
  const labels = { app: 'nginx' }
  const pods = async () => (await core.listNamespacedPod({ namespace, labelSelector: 'app=nginx' })).items
  const readyPods = async () => (await pods()).filter(isReady)
  const configMap = (name: string) =>
    core.createNamespacedConfigMap({ namespace, body: { metadata: { name }, data: { a: 'b' } } })

  before(async () => {
    cluster = await ClusterUnderTest.up({ flags: ['--port', '8443'], print: true })
    const config = new KubeConfig()
    config.loadFromFile(cluster.kubeconfig)
    core = config.makeApiClient(CoreV1Api)
    apps = config.makeApiClient(AppsV1Api)
  })
  after(() => cluster?.down())

  test('three nodes are Ready; a Deployment runs, spreads over them and is reached by its Service', async () => {
    const { items } = await core.listNode()
    assert.equal(
      items.filter((n) => n.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True')).length,
      3,
    )
    await apps.createNamespacedDeployment({
      namespace,
      body: {
        metadata: { name: 'nginx' },
        spec: {
          replicas: 5,
          selector: { matchLabels: labels },
          template: {
            metadata: { labels },
            spec: { containers: [{ name: 'nginx', image: 'nginx', ports: [{ containerPort: 80 }] }] },
          },
        },
      },
    })
    await eventually('five ready pods', async () => (await readyPods()).length === 5, { timeoutMs: 60_000 })
    assert.equal(new Set((await readyPods()).map((p) => p.spec?.nodeName)).size, 3)
    const service = await core.createNamespacedService({
      namespace,
      body: { metadata: { name: 'nginx' }, spec: { selector: labels, ports: [{ port: 80 }] } },
    })
    await eventually(
      'an answer of the Service',
      async () =>
        (await exec('curl', ['-sS', '-f', '--max-time', '2', `http://${service.spec?.clusterIP}/`])).code === 0,
      { timeoutMs: 20_000 },
    )
    assert.match(
      await core.readNamespacedPodLog({ namespace, name: (await readyPods())[0]?.metadata?.name as string }),
      /nginx|GET/,
    )
  })

  test('kill -9 of the leading master loses nothing that was acknowledged', async () => {
    const leader = (await cluster.status()).masters.find((m) => m.role === 'leader')
    assert.ok(leader)
    await configMap('before')
    process.kill(-leader.pid, 'SIGKILL')
    await eventually('a write', async () => (await configMap('after')) !== undefined, { timeoutMs: 10_000 })
    for (const name of ['before', 'after'])
      assert.deepEqual((await core.readNamespacedConfigMap({ namespace, name })).data, { a: 'b' })
    await cluster.capstan(['machine', 'start', leader.name])
    await eventually('three masters', async () => (await cluster.status()).masters.every((m) => m.role !== 'down'), {
      timeoutMs: 20_000,
    })
  })

  test('the pods of a node that is killed run elsewhere', async () => {
    const victim = (await readyPods())[0]?.spec?.nodeName as string
    assert.equal((await cluster.capstan(['machine', 'kill', victim])).code, 0)
    await eventually(
      'five ready pods elsewhere',
      async () => (await readyPods()).filter((p) => p.spec?.nodeName !== victim).length === 5,
      { timeoutMs: 20_000 },
    )
    await cluster.capstan(['machine', 'start', victim])
    await eventually(
      'the node is Ready',
      async () => (await cluster.status()).nodes.find((n) => n.name === victim)?.ready,
      { timeoutMs: 30_000 },
    )
  })
})
