import assert from 'node:assert/strict'
import test from 'node:test'
import {
  type ApiObject,
  checkBoundOnce,
  checkConverged,
  checkFenced,
  finalObjects,
  type ObjectEvent,
  tokensOf,
} from './objects.js'

const pod = (revision: number, nodeName?: string): ObjectEvent => ({
  revision,
  key: '/registry/core/pods/default/p',
  object: { metadata: { name: 'p', uid: 'u1' }, spec: nodeName === undefined ? {} : { nodeName } },
})

test('a pod that is bound once is right, one that is bound twice is found', () => {
  assert.deepEqual(checkBoundOnce([pod(1), pod(2, 'a'), pod(3, 'a')]), [])
  assert.equal(checkBoundOnce([pod(1), pod(2, 'a'), pod(3, 'b')]).length, 1)
})

const LEASE = '/registry/coordination.k8s.io/leases/kube-system/kube-scheduler'
const lease = (revision: number, present: boolean): ObjectEvent => ({
  revision,
  key: LEASE,
  object: present ? { metadata: { name: 'kube-scheduler' } } : undefined,
})

test('tokens are the create revisions of the lock', () => {
  const tokens = tokensOf([lease(5, true), lease(6, true), lease(9, false), lease(11, true)])
  assert.deepEqual(tokens.get('kube-system/kube-scheduler'), [5, 11])
})

test('a write of a former holder after its successor exists is found', () => {
  const tokens = new Map([['l', [5, 11]]])
  assert.deepEqual(
    checkFenced(
      [
        { lock: 'l', token: 5, revision: 10, what: 'w' },
        { lock: 'l', token: 11, revision: 12, what: 'w' },
      ],
      tokens,
    ),
    [],
  )
  assert.equal(checkFenced([{ lock: 'l', token: 5, revision: 12, what: 'w' }], tokens).length, 1)
})

test('what is missing, not ready or left over is found', () => {
  const deployment = (ready: number): ApiObject => ({
    metadata: { name: 'd', uid: 'd1' },
    status: { readyReplicas: ready },
  })
  const owned: ApiObject = {
    metadata: { name: 'p', uid: 'p1', ownerReferences: [{ uid: 'd1', kind: 'ReplicaSet' }] },
    status: { phase: 'Running' },
  }
  const objects = new Map([
    ['/registry/apps/deployments/default/d', deployment(1)],
    ['/registry/core/pods/default/p', owned],
  ])
  assert.deepEqual(checkConverged(objects, new Map([['d', 1]])), [])
  assert.equal(checkConverged(objects, new Map([['d', 2]])).length, 2)
  assert.ok(checkConverged(objects, new Map()).some((w) => w.includes('still there')))
  objects.delete('/registry/apps/deployments/default/d')
  assert.ok(checkConverged(objects, new Map()).some((w) => w.includes('left over')))
})

test('the last state of each key counts', () => {
  assert.equal(finalObjects([lease(5, true), lease(9, false)]).size, 0)
})
