import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { CallError } from '@capstan/actor'
import { type BusApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import { createTestApi, type TestApi } from './testing/index.js'

const failsWith = (code: string) => (error: CallError) => {
  assert.equal(error.code, code, error.message)
  return true
}

describe('the verbs, over the bus', () => {
  let test1: TestApi
  let client: BusApiClient
  before(async () => {
    test1 = await createTestApi()
    client = test1.client()
  })
  after(() => test1.stop())

  test('create, get, update, conflict, delete', async () => {
    const made = await client.create<KubeObject & { data?: object }>(RESOURCES.configmaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'a', namespace: 'default' },
      data: { k: 'v' },
    } as KubeObject)
    assert.ok(made.metadata.uid)
    assert.ok(made.metadata.creationTimestamp)
    const ref = { namespace: 'default', name: 'a' }
    const got = await client.get(RESOURCES.configmaps, ref)
    assert.deepEqual(got, made)
    await assert.rejects(
      client.create(RESOURCES.configmaps, { metadata: { name: 'a', namespace: 'default' } }),
      failsWith('AlreadyExists'),
    )
    const updated = await client.update(RESOURCES.configmaps, { ...made, data: { k: 'w' } })
    assert.notEqual(updated.metadata.resourceVersion, made.metadata.resourceVersion)
    await assert.rejects(client.update(RESOURCES.configmaps, { ...made, data: { k: 'x' } }), failsWith('Conflict'))
    const same = await client.update(RESOURCES.configmaps, updated)
    assert.equal(
      same.metadata.resourceVersion,
      updated.metadata.resourceVersion,
      'an update that changes nothing writes nothing',
    )
    await client.delete(RESOURCES.configmaps, ref)
    await assert.rejects(client.get(RESOURCES.configmaps, ref), failsWith('NotFound'))
  })

  test('a missing namespace refuses', async () => {
    await assert.rejects(
      client.create(RESOURCES.configmaps, { metadata: { name: 'a', namespace: 'nowhere' } }),
      failsWith('NotFound'),
    )
  })

  test('generateName', async () => {
    const made = await client.create(RESOURCES.configmaps, {
      metadata: { generateName: 'gen-', namespace: 'default' },
    } as KubeObject)
    assert.match(made.metadata.name as string, /^gen-[a-z0-9]{5}$/)
  })

  test('lists in pages see one revision', async () => {
    for (const name of ['p1', 'p2', 'p3', 'p4', 'p5'])
      await client.create(RESOURCES.secrets, { metadata: { name, namespace: 'default' } })
    const first = await client.list(RESOURCES.secrets, { namespace: 'default', limit: 2 })
    assert.deepEqual(
      first.items.map((item) => item.metadata.name),
      ['p1', 'p2'],
    )
    await client.delete(RESOURCES.secrets, { namespace: 'default', name: 'p4' })
    const second = await client.list(RESOURCES.secrets, {
      namespace: 'default',
      limit: 9,
      continue: first.continue as string,
    })
    assert.deepEqual(
      second.items.map((item) => item.metadata.name),
      ['p3', 'p4', 'p5'],
    )
    assert.equal(second.resourceVersion, first.resourceVersion)
  })

  test('watch from a revision: every change once, in order', async () => {
    const start = (await client.list(RESOURCES.endpoints, { namespace: 'default' })).resourceVersion
    const seen: string[] = []
    const done = new Promise<void>((resolve, reject) => {
      const watch = client.watch(
        RESOURCES.endpoints,
        { namespace: 'default', resourceVersion: start },
        {
          event(type, object) {
            if (type === 'BOOKMARK') return
            seen.push(`${type} ${object.metadata.name}`)
            if (type === 'DELETED') {
              watch.stop()
              resolve()
            }
          },
          end: (reason, error) => (reason === 'cancelled' ? undefined : reject(error ?? new Error(reason))),
        },
      )
    })
    const made = await client.create(RESOURCES.endpoints, { metadata: { name: 'e', namespace: 'default' } })
    await client.update(RESOURCES.endpoints, { ...made, subsets: [] } as KubeObject)
    await client.delete(RESOURCES.endpoints, { namespace: 'default', name: 'e' })
    await done
    assert.deepEqual(seen, ['ADDED e', 'MODIFIED e', 'DELETED e'])
  })

  test('finalizers hold an object until the last one goes', async () => {
    const ref = { namespace: 'default', name: 'held' }
    await client.create(RESOURCES.configmaps, { metadata: { ...ref, finalizers: ['example.com/hold'] } })
    await client.delete(RESOURCES.configmaps, ref)
    const marked = await client.get(RESOURCES.configmaps, ref)
    assert.ok(marked.metadata.deletionTimestamp)
    const { finalizers: _, ...rest } = marked.metadata
    await client.update(RESOURCES.configmaps, { ...marked, metadata: rest })
    await assert.rejects(client.get(RESOURCES.configmaps, ref), failsWith('NotFound'))
  })

  test('fence: a write under a former token does not happen', async () => {
    const lease = await client.create(RESOURCES.leases, { metadata: { name: 'lock', namespace: 'kube-system' } })
    const lock = { namespace: 'kube-system', name: 'lock' }
    const fence = { lock, token: lease.metadata.resourceVersion as string }
    await client.create(RESOURCES.configmaps, { metadata: { name: 'f1', namespace: 'default' } }, { fence })
    await client.update(RESOURCES.leases, { ...lease, spec: { holderIdentity: 'x' } } as KubeObject)
    await client.create(RESOURCES.configmaps, { metadata: { name: 'f2', namespace: 'default' } }, { fence })
    // It changes nothing.
    const asItIs = () =>
      client.patch(RESOURCES.configmaps, { namespace: 'default', name: 'f1' }, 'merge', { data: null }, { fence })
    await asItIs()
    await client.delete(RESOURCES.leases, lock)
    await assert.rejects(
      client.create(RESOURCES.configmaps, { metadata: { name: 'f3', namespace: 'default' } }, { fence }),
      failsWith('FENCED'),
    )
    await assert.rejects(
      asItIs(),
      failsWith('FENCED'),
      'nor is it told that all is well when there is nothing to write',
    )
    await client.create(RESOURCES.leases, { metadata: { name: 'lock', namespace: 'kube-system' } })
    await assert.rejects(
      client.create(RESOURCES.configmaps, { metadata: { name: 'f3', namespace: 'default' } }, { fence }),
      failsWith('FENCED'),
    )
    await assert.rejects(client.get(RESOURCES.configmaps, { namespace: 'default', name: 'f3' }), failsWith('NotFound'))
  })
})
