/** The door as a client library of Kubernetes sees it: `@kubernetes/client-node`, which nobody here wrote. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import {
  ApiException,
  AppsV1Api,
  CoreV1Api,
  KubeConfig,
  KubernetesObjectApi,
  setHeaderOptions,
  type V1ConfigMap,
  type V1Deployment,
  Watch,
} from '@kubernetes/client-node'
import { createTestApi, serveTestHttps, type TestApi, type TestHttps } from './testing/index.js'

const namespace = 'default'

function nginx(replicas: number): V1Deployment {
  const labels = { app: 'nginx' }
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'nginx' },
    spec: {
      replicas,
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [{ name: 'nginx', image: 'nginx' }] } },
    },
  }
}

/** The `Status` that a refused request was answered with. */
async function refusal(request: Promise<unknown>): Promise<{ code: number; reason: string; message: string }> {
  const error = await request.then(
    () => assert.fail('it was not refused'),
    (e: unknown) => e,
  )
  assert.ok(error instanceof ApiException, String(error))
  return JSON.parse(error.body as string) as { code: number; reason: string; message: string }
}

describe('the client library of Kubernetes', () => {
  let api: TestApi
  let https: TestHttps
  let config: KubeConfig
  let core: CoreV1Api
  let apps: AppsV1Api
  before(async () => {
    api = await createTestApi()
    https = await serveTestHttps(api.api)
    config = new KubeConfig()
    config.loadFromFile(https.kubeconfig)
    core = config.makeApiClient(CoreV1Api)
    apps = config.makeApiClient(AppsV1Api)
  })
  after(async () => {
    await https?.close()
    await api?.stop()
  })

  test('a Deployment is created, read, scaled, patched and deleted', async () => {
    const made = await apps.createNamespacedDeployment({ namespace, body: nginx(1) })
    assert.equal(made.spec?.strategy?.type, 'RollingUpdate')
    assert.equal((await apps.readNamespacedDeployment({ namespace, name: 'nginx' })).metadata?.uid, made.metadata?.uid)
    await apps.replaceNamespacedDeploymentScale({
      namespace,
      name: 'nginx',
      body: { metadata: { name: 'nginx', namespace }, spec: { replicas: 5 } },
    })
    const patched = await apps.patchNamespacedDeployment(
      {
        namespace,
        name: 'nginx',
        body: { spec: { template: { spec: { containers: [{ name: 'nginx', image: 'nginx:green' }] } } } },
      },
      setHeaderOptions('Content-Type', 'application/strategic-merge-patch+json'),
    )
    assert.equal(patched.spec?.replicas, 5)
    assert.deepEqual(
      patched.spec?.template.spec?.containers.map((c) => [c.name, c.image]),
      [['nginx', 'nginx:green']],
    )
    await apps.deleteNamespacedDeployment({ namespace, name: 'nginx', propagationPolicy: 'Background' })
    assert.equal((await refusal(apps.readNamespacedDeployment({ namespace, name: 'nginx' }))).reason, 'NotFound')
  })

  test('lists select by label and go on page by page', async () => {
    for (let at = 0; at < 5; at++)
      await core.createNamespacedConfigMap({
        namespace,
        body: { metadata: { name: `paged-${at}`, labels: { paged: 'yes' } }, data: { at: String(at) } },
      })
    const names: string[] = []
    let next: string | undefined
    do {
      const page = await core.listNamespacedConfigMap({
        namespace,
        labelSelector: 'paged=yes',
        limit: 2,
        ...(next ? { _continue: next } : {}),
      })
      names.push(...page.items.map((item) => item.metadata?.name as string))
      next = page.metadata?._continue
    } while (next)
    assert.deepEqual(names, ['paged-0', 'paged-1', 'paged-2', 'paged-3', 'paged-4'])
  })

  test('a watch tells of each change from a version on', async () => {
    const { metadata } = await core.listNamespacedConfigMap({ namespace })
    const seen: string[] = []
    const watched = new Promise<void>((resolve, reject) => {
      void new Watch(config).watch(
        `/api/v1/namespaces/${namespace}/configmaps`,
        { resourceVersion: metadata?.resourceVersion, fieldSelector: 'metadata.name=watched' },
        (type, object: V1ConfigMap) => {
          seen.push(`${type} ${object.data?.['a'] ?? ''}`)
          if (type === 'DELETED') resolve()
        },
        (error) => reject(error ?? new Error(`the watch ended after ${seen.join(', ')}`)),
      )
    })
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'watched' }, data: { a: '1' } } })
    await core.replaceNamespacedConfigMap({
      namespace,
      name: 'watched',
      body: { metadata: { name: 'watched' }, data: { a: '2' } },
    })
    await core.deleteNamespacedConfigMap({ namespace, name: 'watched' })
    await watched
    assert.deepEqual(seen, ['ADDED 1', 'MODIFIED 2', 'DELETED 2'])
  })

  test('server-side apply by the generic client, twice without a change', async () => {
    const objects = KubernetesObjectApi.makeApiClient(config)
    const apply = () =>
      objects.patch(
        {
          apiVersion: 'v1',
          kind: 'ConfigMap',
          metadata: { name: 'applied', namespace },
          data: { a: 'b' },
        } as V1ConfigMap,
        undefined,
        undefined,
        'tester',
        true,
        'application/apply-patch+yaml',
      )
    const first = await apply()
    assert.equal((await apply()).metadata?.resourceVersion, first.metadata?.resourceVersion)
  })

  test('refusals are Statuses with code and reason', async () => {
    const create = (name: string) => core.createNamespacedConfigMap({ namespace, body: { metadata: { name } } })
    await create('once')
    assert.deepEqual(await refusal(create('once')).then(({ code, reason }) => [code, reason]), [409, 'AlreadyExists'])
    const invalid = await refusal(create('Wrong_Name'))
    assert.deepEqual([invalid.code, invalid.reason], [422, 'Invalid'])
    assert.match(invalid.message, /metadata\.name/)
    const stale = await core.readNamespacedConfigMap({ namespace, name: 'once' })
    await core.replaceNamespacedConfigMap({ namespace, name: 'once', body: { ...stale, data: { a: '1' } } })
    const conflict = await refusal(
      core.replaceNamespacedConfigMap({ namespace, name: 'once', body: { ...stale, data: { a: '2' } } }),
    )
    assert.deepEqual([conflict.code, conflict.reason], [409, 'Conflict'])
  })
})
