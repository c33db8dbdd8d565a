import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Component, COMPONENTS, userOf } from '@capstan/protocol'
import { type Attributes, authorize, type AuthorizerState } from './authorize.js'
import { STEPS } from './admission.js'
import { ANONYMOUS, type User } from './options.js'
import type { KubeObject } from './stored.js'

const pods: KubeObject[] = [
  {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'mine', namespace: 'default' },
    spec: {
      nodeName: 'n1',
      volumes: [{ secret: { secretName: 'mounted' } }],
      containers: [{ env: [{ valueFrom: { configMapKeyRef: { name: 'env' } } }] }],
    },
  },
  { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'other', namespace: 'default' }, spec: { nodeName: 'n2' } },
]
const state: AuthorizerState = {
  pod: (namespace, name) => pods.find(({ metadata }) => metadata.name === name && metadata.namespace === namespace),
  podsOnNode: (node) => pods.filter((pod) => (pod['spec'] as { nodeName: string }).nodeName === node),
}

/** `verb group/resource[/sub] [namespace[/name]]`, or `verb /path`. */
function may(user: User, text: string): boolean {
  const [verb = '', what = '', where = ''] = text.split(' ')
  if (what.startsWith('/') && what.split('/').length === 2 && !where)
    return authorize(user, { verb, group: '', resource: '', path: what }, state).allowed
  const [group = '', resource = '', subresource] = what.split('/')
  const [namespace, name] = where.split('/')
  const attributes: Attributes = {
    verb,
    group: group === 'core' ? '' : group,
    resource,
    ...(subresource ? { subresource } : {}),
    ...(namespace && namespace !== '-' ? { namespace } : {}),
    ...(name ? { name } : {}),
  }
  return authorize(user, attributes, state).allowed
}

const as = (component: Component, name = 'n1'): User => userOf({ component, name })

describe('who may do what (A1)', () => {
  const cases: [who: string, user: User, yes: string[], no: string[]][] = [
    [
      'anonymous',
      ANONYMOUS,
      ['get /version', 'get /healthz', 'get /readyz'],
      ['get /api', 'get /metrics', 'list core/pods default'],
    ],
    [
      'a service account',
      { name: 'system:serviceaccount:default:bot', groups: ['system:serviceaccounts', 'system:authenticated'] },
      ['get /api', 'create authorization.k8s.io/selfsubjectaccessreviews -'],
      [
        'get core/secrets default/s',
        'list core/pods default',
        'create authorization.k8s.io/subjectaccessreviews -',
        'get /metrics',
      ],
    ],
    ['the admin', as('admin'), ['delete core/nodes -/n1', 'get /metrics', 'create core/pods/eviction default/x'], []],
    [
      'a kubelet',
      as('kubelet'),
      [
        'create core/nodes -',
        'patch core/nodes/status -/n1',
        'update core/nodes -/n1',
        'list core/pods -',
        'patch core/pods/status default/mine',
        'delete core/pods default/mine',
        'get core/secrets default/mounted',
        'get core/configmaps default/env',
        'create coordination.k8s.io/leases kube-node-lease',
        'update coordination.k8s.io/leases kube-node-lease/n1',
        'create core/events default',
      ],
      [
        'patch core/nodes/status -/n2',
        'delete core/nodes -/n1',
        'patch core/pods/status default/other',
        'delete core/pods default/other',
        'create core/pods default',
        'create core/pods/binding default/mine',
        'get core/secrets default/unrelated',
        'list core/secrets default',
        'get core/configmaps kube-system/env',
        'update coordination.k8s.io/leases kube-node-lease/n2',
        'update coordination.k8s.io/leases kube-system/n1',
        'delete core/namespaces -/default',
      ],
    ],
    [
      'the scheduler',
      as('scheduler'),
      [
        'list core/nodes -',
        'create core/pods/binding default/mine',
        'patch core/pods/status default/mine',
        'update coordination.k8s.io/leases kube-system/scheduler',
      ],
      ['update core/nodes -/n1', 'create core/pods default', 'delete apps/deployments default/x'],
    ],
    [
      'kube-proxy',
      as('kube-proxy'),
      ['watch core/services -', 'watch discovery.k8s.io/endpointslices -'],
      ['get core/secrets default/s', 'list core/pods -'],
    ],
    ['the controllers', as('controller-manager'), ['create core/pods default', 'delete core/namespaces -/x'], []],
    ['a store member', as('store'), ['get /version'], ['list core/pods -']],
    ['a machine', as('machine'), ['get /version'], ['list core/nodes -']],
  ]
  for (const [who, user, yes, no] of cases)
    test(who, () => {
      for (const text of yes) assert.equal(may(user, text), true, text)
      for (const text of no) assert.equal(may(user, text), false, text)
    })

  test('every identity of the bus is a user', () => {
    for (const component of COMPONENTS) assert.ok(as(component).name)
  })

  test('admission is one list, in this order', () => {
    assert.deepEqual(
      STEPS.map((step) => step.name),
      ['NamespaceLifecycle', 'NodeRestriction', 'ServiceAccount', 'DefaultTolerationSeconds', 'Priority'],
    )
  })
})
