import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { KubeObject } from '@capstan/api'
import type { ApiRequest } from '@capstan/protocol'
import type { ApiError } from './errors.js'
import type { User } from './options.js'
import { createTestApi, type TestApi } from './testing/index.js'

const ADMIN: User = { name: 'admin', groups: ['system:masters', 'system:authenticated'] }

interface Deployment extends KubeObject {
  spec: {
    replicas?: number
    template: {
      spec: {
        containers: { name: string; image?: string; env?: { name: string; value: string }[]; ports?: object[] }[]
      }
    }
  }
}

describe('server-side apply', () => {
  let api: TestApi
  before(async () => {
    api = await createTestApi()
  })
  after(() => api.stop())

  const of = (name: string, body?: unknown): ApiRequest => ({
    group: 'apps',
    version: 'v1',
    resource: 'deployments',
    namespace: 'default',
    name,
    ...(body === undefined ? {} : { body }),
  })
  async function send(verb: 'patch' | 'get' | 'update', request: ApiRequest): Promise<Deployment> {
    const reply = await api.api.handle(verb, request, ADMIN)
    return JSON.parse(Buffer.from(reply.body).toString()) as Deployment
  }
  const apply = (name: string, fieldManager: string, spec: object, force = false, meta: object = {}) =>
    send('patch', {
      ...of(name, { apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name, ...meta }, spec }),
      patchType: 'apply',
      options: { fieldManager, force },
    })
  const spec = (image: string, more: object = {}, container: object = {}) => ({
    selector: { matchLabels: { app: 'a' } },
    template: { metadata: { labels: { app: 'a' } }, spec: { containers: [{ name: 'c', image, ...container }] } },
    ...more,
  })
  const managers = (object: Deployment) =>
    ((object.metadata.managedFields ?? []) as { manager: string; operation: string }[]).map(
      (one) => `${one.manager} ${one.operation}`,
    )

  test('makes, changes nothing the second time, and changes what it owns', async () => {
    const made = await apply('one', 'me', spec('i:1', { replicas: 2 }))
    assert.deepEqual(managers(made), ['me Apply'])
    const again = await apply('one', 'me', spec('i:1', { replicas: 2 }))
    assert.equal(again.metadata.resourceVersion, made.metadata.resourceVersion)
    const changed = await apply('one', 'me', spec('i:2', { replicas: 2 }))
    assert.equal(changed.spec.template.spec.containers[0]?.image, 'i:2')
  })

  test('what another one changed is a conflict, unless forced', async () => {
    await apply('two', 'me', spec('i:1', { replicas: 2 }))
    await send('patch', {
      ...of('two', { spec: { replicas: 5 } }),
      patchType: 'merge',
      options: { fieldManager: 'scaler' },
    })
    await assert.rejects(apply('two', 'me', spec('i:1', { replicas: 2 })), (error: ApiError) => {
      assert.equal(error.status, 409)
      assert.match(
        error.message,
        /Apply failed with 1 conflict: conflict with "scaler" using apps\/v1: \.spec\.replicas/,
      )
      return true
    })
    const without = await apply('two', 'me', spec('i:2'))
    assert.equal(without.spec.replicas, 5, 'who lets go of a field leaves it to its other manager')
    assert.deepEqual(managers(without), ['scaler Update', 'me Apply'])
    const forced = await apply('two', 'me', spec('i:2', { replicas: 2 }), true)
    assert.equal(forced.spec.replicas, 2)
    assert.deepEqual(managers(forced), ['me Apply'])
  })

  test('what nobody else has goes when it is left out: fields, items of lists, labels', async () => {
    await apply(
      'three',
      'me',
      spec(
        'i',
        {},
        {
          env: [
            { name: 'A', value: '1' },
            { name: 'B', value: '2' },
          ],
        },
      ),
      false,
      { labels: { x: '1', y: '2' } },
    )
    await apply('three', 'other', {
      template: { spec: { containers: [{ name: 'c', env: [{ name: 'C', value: '3' }] }] } },
    })
    const left = await apply('three', 'me', spec('i', {}, { env: [{ name: 'B', value: '2' }] }), false, {
      labels: { y: '2' },
    })
    assert.deepEqual(left.spec.template.spec.containers[0]?.env, [
      { name: 'B', value: '2' },
      { name: 'C', value: '3' },
    ])
    assert.deepEqual(left.metadata.labels, { y: '2' })
  })

  test('items are told apart by their keys, with defaults', async () => {
    const ports = (name: string) => ({ ports: [{ containerPort: 80, name }] })
    await apply('four', 'me', spec('i', {}, ports('web')))
    const renamed = await apply('four', 'me', spec('i', {}, ports('http')))
    assert.deepEqual(renamed.spec.template.spec.containers[0]?.ports, [
      { containerPort: 80, name: 'http', protocol: 'TCP' },
    ])
  })

  test('what was there before the first apply belongs to itself', async () => {
    await api.api.handle(
      'create',
      { ...of('five', { metadata: { name: 'five' }, spec: spec('i:1', { replicas: 3 }) }) },
      ADMIN,
    )
    await assert.rejects(apply('five', 'me', spec('i:2')), /conflict with "before-first-apply"/)
    const same = await apply('five', 'me', spec('i:1'))
    assert.equal(same.spec.replicas, 3)
  })

  test('keys that mean something to JavaScript are keys like others', async () => {
    const request = (data: string): ApiRequest => ({
      group: '',
      version: 'v1',
      resource: 'configmaps',
      namespace: 'default',
      name: 'odd',
      body: JSON.parse(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"odd"},"data":${data}}`),
      patchType: 'apply',
      options: { fieldManager: 'me' },
    })
    await send('patch', request('{"constructor":"a","b":"c"}'))
    const made = await send('patch', request('{"__proto__":"x","constructor":"a"}'))
    assert.equal(JSON.stringify(made['data']), '{"constructor":"a","__proto__":"x"}')
    const left = await send('patch', request('{"constructor":"a"}'))
    assert.equal(JSON.stringify(left['data']), '{"constructor":"a"}')
  })

  test('asks for a manager, and refuses managedFields', async () => {
    await assert.rejects(apply('six', '', spec('i')), (error: ApiError) => error.status === 400)
    await assert.rejects(
      apply('six', 'me', spec('i'), false, { managedFields: [] }),
      (error: ApiError) => error.status === 400,
    )
  })
})
