import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Json, KubeObject } from '../kube-object.js'
import { findKind, KINDS } from '../registry.js'
import { qosClass } from './pod.js'

const object = (body: Json): KubeObject =>
  ({ metadata: { name: 'x', namespace: 'd' }, ...structuredClone(body) }) as unknown as KubeObject
function kindOf(group: string, resource: string) {
  const kind = findKind(group, 'v1', resource)
  assert.ok(kind)
  return kind
}

describe('what a creator may not set', () => {
  test('the status', () => {
    const cases: [string, string, unknown][] = [
      ['', 'pods', { phase: 'Pending', qosClass: 'BestEffort' }],
      ['', 'nodes', { any: true }],
      ['', 'namespaces', { phase: 'Active' }],
      ['', 'services', { loadBalancer: {} }],
      ['apps', 'deployments', undefined],
      ['apps', 'replicasets', { replicas: 0 }],
      ['apps', 'statefulsets', { replicas: 0, availableReplicas: 0 }],
    ]
    for (const [group, resource, expected] of cases) {
      const made = object({ spec: { containers: [] }, status: { any: true } })
      kindOf(group, resource).prepareForCreate(made)
      if (resource === 'nodes') continue
      assert.deepEqual(made['status'], expected, resource)
    }
  })
  test('a namespace is finalized by its controller', () => {
    const made = object({})
    kindOf('', 'namespaces').prepareForCreate(made)
    assert.deepEqual(made['spec'], { finalizers: ['kubernetes'] })
  })
})

describe('spec and status are written apart', () => {
  const kind = kindOf('apps', 'deployments')
  const old = object({ spec: { replicas: 1 }, status: { replicas: 1 } })
  test('the object: not its status', () => {
    const now = object({ spec: { replicas: 2 }, status: { replicas: 2 } })
    kind.prepareForUpdate(now, old, '')
    assert.deepEqual([now['spec'], now['status']], [{ replicas: 2 }, { replicas: 1 }])
    assert.equal(kind.specChanged(now, old), true)
  })
  test('its status: not the rest', () => {
    const now = object({ spec: { replicas: 2 }, status: { replicas: 2 }, extra: 1 })
    kind.prepareForUpdate(now, old, 'status')
    assert.deepEqual([now['spec'], now['status'], now['extra']], [{ replicas: 1 }, { replicas: 2 }, undefined])
    assert.equal(kind.specChanged(now, old), false)
  })
  test('a status that is left out goes only by its own way', () => {
    const now = object({ spec: { replicas: 1 } })
    kind.prepareForUpdate(now, old, '')
    assert.deepEqual(now['status'], { replicas: 1 })
  })
  test("a namespace's finalizers", () => {
    const namespaces = kindOf('', 'namespaces')
    const before = object({ spec: { finalizers: ['kubernetes'] } })
    for (const [subresource, expected] of [
      ['', ['kubernetes']],
      ['finalize', []],
    ] as const) {
      const now = object({ spec: { finalizers: [] } })
      namespaces.prepareForUpdate(now, before, subresource)
      assert.deepEqual(now['spec'], { finalizers: expected })
    }
  })
})

describe('quality of service', () => {
  const qos = (...resources: Json[]) => qosClass({ containers: resources.map((r) => ({ resources: r })) })
  const full = { limits: { cpu: '1', memory: '1Gi' }, requests: { cpu: '1', memory: '1Gi' } }
  test('guaranteed: all limit what they request', () => {
    assert.equal(qos(full), 'Guaranteed')
    assert.equal(qos({ limits: full.limits }), 'Guaranteed')
    assert.equal(qos({ ...full, requests: { cpu: '1000m', memory: '1024Mi' } }), 'Guaranteed')
  })
  test('burstable: some request', () => {
    assert.equal(qos(full, {}), 'Burstable')
    assert.equal(qos({ requests: { cpu: '1' } }), 'Burstable')
    assert.equal(qos({ ...full, requests: { cpu: '500m', memory: '1Gi' } }), 'Burstable')
    assert.equal(qos({ limits: { memory: '1Gi' } }), 'Burstable')
  })
  test('best effort: none does', () => {
    assert.equal(qos({}, {}), 'BestEffort')
    assert.equal(qos({ limits: { 'example.com/gpu': '1' } }), 'BestEffort')
    assert.equal(qos({ requests: { cpu: '0' } }), 'BestEffort')
  })
})

describe('fields for selectors', () => {
  const field = (group: string, resource: string, body: Json, path: string) =>
    kindOf(group, resource).field(object(body), path)
  test('of all kinds', () => {
    for (const kind of KINDS) {
      assert.equal(kind.field(object({}), 'metadata.name'), 'x')
      assert.equal(kind.field(object({}), 'metadata.namespace'), 'd')
      assert.equal(kind.field(object({}), 'spec.nothing'), undefined)
      assert.equal(kind.field(object({}), 'constructor'), undefined)
    }
  })
  test('of some', () => {
    assert.equal(field('', 'pods', { spec: { nodeName: 'n' } }, 'spec.nodeName'), 'n')
    assert.equal(field('', 'pods', {}, 'spec.nodeName'), '', 'not set is empty')
    assert.equal(field('', 'pods', { status: { phase: 'Running' } }, 'status.phase'), 'Running')
    assert.equal(field('', 'nodes', { spec: { unschedulable: true } }, 'spec.unschedulable'), 'true')
    assert.equal(field('', 'secrets', { type: 'Opaque' }, 'type'), 'Opaque')
    assert.equal(field('', 'events', { involvedObject: { name: 'p' } }, 'involvedObject.name'), 'p')
    assert.equal(field('', 'namespaces', { status: { phase: 'Active' } }, 'status.phase'), 'Active')
    assert.equal(field('apps', 'replicasets', { status: { replicas: 2 } }, 'status.replicas'), '2')
  })
})
