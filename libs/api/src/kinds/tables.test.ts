import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Json, KubeObject } from '../kube-object.js'
import { findKind } from '../registry.js'

const NOW = Date.parse('2026-01-01T01:00:00Z')
const meta = { name: 'x', namespace: 'default', creationTimestamp: '2026-01-01T00:00:00Z' }

function kindOf(group: string, resource: string) {
  const kind = findKind(group, 'v1', resource)
  assert.ok(kind)
  return kind
}

/** `NAME: cell` of the columns that are always shown; `wide` ones behind a plus. */
function row(group: string, resource: string, body: Json): Record<string, unknown> {
  const kind = kindOf(group, resource)
  const object = { ...body, metadata: { ...meta, ...(body['metadata'] as Json) } } as unknown as KubeObject
  const cells = kind.cells(object, NOW)
  return Object.fromEntries(
    kind.columns.map(({ name, priority }, i) => [`${priority > 0 ? '+' : ''}${name}`, cells[i]]),
  )
}

describe('pods', () => {
  const running = (name: string, more: Json = {}) => ({
    name,
    ready: true,
    restartCount: 0,
    state: { running: {} },
    ...more,
  })
  const pod = (status: Json, spec: Json = {}, metadata: Json = {}) => {
    const { Ready, Status, Restarts } = row('', 'pods', {
      metadata,
      spec: { containers: [{ name: 'a' }, { name: 'b' }], ...spec },
      status,
    })
    return [Ready, Status, Restarts].map(String).join(' | ')
  }
  const terminated = (exitCode: number, more: Json = {}) => ({
    state: { terminated: { exitCode, ...more } },
    ready: false,
  })
  const inits = { initContainers: [{ name: 'i' }, { name: 'j' }] }
  const cases: [string, string][] = [
    [pod({ phase: 'Pending' }), '0/2 | Pending | 0'],
    [pod({ phase: 'Running', containerStatuses: [running('a'), running('b')] }), '2/2 | Running | 0'],
    [pod({ phase: 'Running', containerStatuses: [running('a'), running('b', { ready: false })] }), '1/2 | Running | 0'],
    [
      pod({
        phase: 'Pending',
        containerStatuses: [
          { name: 'a', state: { waiting: { reason: 'ContainerCreating' } } },
          { name: 'b', state: { waiting: { reason: 'ContainerCreating' } } },
        ],
      }),
      '0/2 | ContainerCreating | 0',
    ],
    [
      pod({
        phase: 'Pending',
        containerStatuses: [running('a'), { name: 'b', state: { waiting: { reason: 'ImagePullBackOff' } } }],
      }),
      '1/2 | ImagePullBackOff | 0',
    ],
    [
      pod({
        phase: 'Running',
        containerStatuses: [
          running('a'),
          {
            name: 'b',
            restartCount: 3,
            state: { waiting: { reason: 'CrashLoopBackOff' } },
            lastState: { terminated: { finishedAt: '2026-01-01T00:55:00Z' } },
          },
        ],
      }),
      '1/2 | CrashLoopBackOff | 3 (5m ago)',
    ],
    [
      pod({
        phase: 'Failed',
        containerStatuses: [
          { name: 'a', ...terminated(1, { reason: 'Error' }) },
          { name: 'b', ...terminated(0, { reason: 'Completed' }) },
        ],
      }),
      '0/2 | Error | 0',
    ],
    [
      pod({
        phase: 'Succeeded',
        containerStatuses: [
          { name: 'a', ...terminated(0, { reason: 'Completed' }) },
          { name: 'b', ...terminated(0, { reason: 'Completed' }) },
        ],
      }),
      '0/2 | Completed | 0',
    ],
    [pod({ phase: 'Failed', containerStatuses: [{ name: 'a', ...terminated(2) }] }), '0/2 | ExitCode:2 | 0'],
    [
      pod({ phase: 'Failed', containerStatuses: [{ name: 'a', ...terminated(137, { signal: 9 }) }] }),
      '0/2 | Signal:9 | 0',
    ],
    [
      pod({
        phase: 'Running',
        containerStatuses: [{ name: 'a', ...terminated(0, { reason: 'Completed' }) }, running('b')],
      }),
      '1/2 | NotReady | 0',
    ],
    [
      pod({
        phase: 'Running',
        containerStatuses: [{ name: 'a', ...terminated(0, { reason: 'Completed' }) }, running('b')],
        conditions: [{ type: 'Ready', status: 'True' }],
      }),
      '1/2 | Running | 0',
    ],
    [pod({ phase: 'Failed', reason: 'Evicted' }), '0/2 | Evicted | 0'],
    [
      pod({ phase: 'Pending', conditions: [{ type: 'PodScheduled', status: 'False', reason: 'SchedulingGated' }] }),
      '0/2 | SchedulingGated | 0',
    ],
    [
      pod({ phase: 'Pending', initContainerStatuses: [{ name: 'i', state: { running: {} } }, { name: 'j' }] }, inits),
      '0/2 | Init:0/2 | 0',
    ],
    [
      pod(
        {
          phase: 'Pending',
          initContainerStatuses: [
            { name: 'i', ...terminated(0) },
            { name: 'j', state: { running: {} } },
          ],
        },
        inits,
      ),
      '0/2 | Init:1/2 | 0',
    ],
    [
      pod(
        {
          phase: 'Pending',
          initContainerStatuses: [{ name: 'i', restartCount: 2, state: { waiting: { reason: 'CrashLoopBackOff' } } }],
        },
        inits,
      ),
      '0/2 | Init:CrashLoopBackOff | 2',
    ],
    [
      pod({ phase: 'Failed', initContainerStatuses: [{ name: 'i', ...terminated(3) }] }, inits),
      '0/2 | Init:ExitCode:3 | 0',
    ],
    [
      pod(
        {
          phase: 'Running',
          initContainerStatuses: [running('i', { started: true })],
          containerStatuses: [running('a'), running('b')],
        },
        { initContainers: [{ name: 'i', restartPolicy: 'Always' }] },
      ),
      '3/3 | Running | 0',
    ],
    [
      pod(
        { phase: 'Running', containerStatuses: [running('a'), running('b')] },
        {},
        { deletionTimestamp: '2026-01-01T00:59:00Z' },
      ),
      '2/2 | Terminating | 0',
    ],
    [
      pod({ phase: 'Running', reason: 'NodeLost' }, {}, { deletionTimestamp: '2026-01-01T00:59:00Z' }),
      '0/2 | Unknown | 0',
    ],
    [pod({ phase: 'Succeeded' }, {}, { deletionTimestamp: '2026-01-01T00:59:00Z' }), '0/2 | Succeeded | 0'],
  ]
  for (const [is, expected] of cases) test(expected, () => assert.equal(is, expected))

  test('all columns', () =>
    assert.deepEqual(
      row('', 'pods', {
        spec: { nodeName: 'n', containers: [{ name: 'a' }], readinessGates: [{ conditionType: 'g' }] },
        status: { phase: 'Running', podIP: '10.1.0.2', conditions: [{ type: 'g', status: 'True' }] },
      }),
      {
        Name: 'x',
        Ready: '0/1',
        Status: 'Running',
        Restarts: '0',
        Age: '60m',
        '+IP': '10.1.0.2',
        '+Node': 'n',
        '+Nominated Node': '<none>',
        '+Readiness Gates': '1/1',
      },
    ))
  test('rows of pods that ended say so', () => {
    const conditions = (phase: string) =>
      kindOf('', 'pods').rowConditions?.({ metadata: { name: 'x' }, status: { phase } })
    assert.match(JSON.stringify(conditions('Succeeded')), /"type":"Completed","status":"True","reason":"Succeeded"/)
    assert.equal(conditions('Running'), undefined)
  })
})

describe('workloads', () => {
  const spec = {
    replicas: 3,
    selector: { matchLabels: { app: 'x' } },
    template: {
      spec: {
        containers: [
          { name: 'a', image: 'i:1' },
          { name: 'b', image: 'j' },
        ],
      },
    },
  }
  const wide = { '+Containers': 'a,b', '+Images': 'i:1,j', '+Selector': 'app=x' }
  test('deployments', () =>
    assert.deepEqual(
      row('apps', 'deployments', { spec, status: { readyReplicas: 1, updatedReplicas: 2, availableReplicas: 1 } }),
      { Name: 'x', Ready: '1/3', 'Up-to-date': 2, Available: 1, Age: '60m', ...wide },
    ))
  test('replica sets', () =>
    assert.deepEqual(row('apps', 'replicasets', { spec, status: { replicas: 2, readyReplicas: 1 } }), {
      Name: 'x',
      Desired: 3,
      Current: 2,
      Ready: 1,
      Age: '60m',
      ...wide,
    }))
  test('replication controllers', () =>
    assert.deepEqual(row('', 'replicationcontrollers', { spec: { ...spec, selector: { app: 'x' } } }), {
      Name: 'x',
      Desired: 3,
      Current: 0,
      Ready: 0,
      Age: '60m',
      ...wide,
    }))
  test('stateful sets', () =>
    assert.deepEqual(row('apps', 'statefulsets', { spec, status: { replicas: 3, readyReplicas: 1 } }), {
      Name: 'x',
      Ready: '1/3',
      Age: '60m',
      '+Containers': 'a,b',
      '+Images': 'i:1,j',
    }))
  test('controller revisions', () => {
    const owner = { apiVersion: 'apps/v1', kind: 'StatefulSet', name: 'web', uid: 'u', controller: true }
    const cells = (ownerReferences: Json[]) =>
      row('apps', 'controllerrevisions', { metadata: { ownerReferences }, revision: 4, data: {} })
    assert.deepEqual(cells([owner]), { Name: 'x', Controller: 'statefulset.apps/web', Revision: 4, Age: '60m' })
    assert.equal(cells([{ ...owner, apiVersion: 'v1' }])['Controller'], 'statefulset/web')
    assert.equal(cells([])['Controller'], '<none>')
  })
  test('their scale', () => {
    const object = {
      metadata: { name: 'x', namespace: 'd', uid: 'u', resourceVersion: '7' },
      spec,
      status: { replicas: 2 },
    }
    assert.deepEqual(kindOf('apps', 'deployments').toScale?.(object), {
      apiVersion: 'autoscaling/v1',
      kind: 'Scale',
      metadata: object.metadata,
      spec: { replicas: 3 },
      status: { replicas: 2, selector: 'app=x' },
    })
  })
})

describe('network', () => {
  const service = (spec: Json, status: Json = {}) => Object.values(row('', 'services', { spec, status })).join(' | ')
  test('services', () => {
    const ports = [
      { port: 80, protocol: 'TCP' },
      { port: 53, protocol: 'UDP', nodePort: 30_053 },
    ]
    assert.equal(
      service({ type: 'ClusterIP', clusterIP: '10.0.0.1', ports, selector: { b: '2', a: '1' } }),
      'x | ClusterIP | 10.0.0.1 | <none> | 80/TCP,53:30053/UDP | 60m | a=1,b=2',
    )
    assert.equal(
      service({ type: 'ClusterIP', clusterIP: 'None' }),
      'x | ClusterIP | None | <none> | <none> | 60m | <none>',
    )
    assert.equal(
      service({ type: 'ExternalName', externalName: 'a.b' }),
      'x | ExternalName | <none> | a.b | <none> | 60m | <none>',
    )
    assert.equal(
      service({ type: 'LoadBalancer', clusterIP: '10.0.0.1' }),
      'x | LoadBalancer | 10.0.0.1 | <pending> | <none> | 60m | <none>',
    )
    assert.equal(
      service(
        { type: 'LoadBalancer', clusterIP: '10.0.0.1', externalIPs: ['2.2.2.2'] },
        { loadBalancer: { ingress: [{ ip: '1.1.1.1' }] } },
      ),
      'x | LoadBalancer | 10.0.0.1 | 1.1.1.1,2.2.2.2 | <none> | 60m | <none>',
    )
  })
  test('endpoints', () => {
    const addresses = ['10.1.0.1', '10.1.0.2', '10.1.0.3', '10.1.0.4'].map((ip) => ({ ip }))
    assert.deepEqual(row('', 'endpoints', { subsets: [{ addresses, ports: [{ port: 80 }] }] }), {
      Name: 'x',
      Endpoints: '10.1.0.1:80,10.1.0.2:80,10.1.0.3:80 + 1 more...',
      Age: '60m',
    })
    assert.equal(row('', 'endpoints', {})['Endpoints'], '<none>')
  })
  test('endpoint slices', () => {
    const endpoints = ['10.1.0.1', '10.1.0.2', '10.1.0.3', '10.1.0.4'].map((ip) => ({ addresses: [ip] }))
    assert.deepEqual(
      row('discovery.k8s.io', 'endpointslices', { addressType: 'IPv4', ports: [{ port: 80 }], endpoints }),
      { Name: 'x', AddressType: 'IPv4', Ports: '80', Endpoints: '10.1.0.1,10.1.0.2,10.1.0.3 + 1 more...', Age: '60m' },
    )
    assert.deepEqual(row('discovery.k8s.io', 'endpointslices', { addressType: 'IPv4' }), {
      Name: 'x',
      AddressType: 'IPv4',
      Ports: '<unset>',
      Endpoints: '<unset>',
      Age: '60m',
    })
  })
})

describe('others', () => {
  test('nodes', () => {
    const labels = {
      'node-role.kubernetes.io/worker': '',
      'node-role.kubernetes.io/edge': '',
      'kubernetes.io/role': 'old',
    }
    const nodeInfo = {
      kubeletVersion: 'v1.36.0',
      osImage: 'Debian',
      kernelVersion: '6.18',
      containerRuntimeVersion: 'containerd://1.6',
    }
    const status = {
      conditions: [{ type: 'Ready', status: 'True' }],
      addresses: [{ type: 'InternalIP', address: '10.0.0.2' }],
      nodeInfo,
    }
    assert.deepEqual(row('', 'nodes', { metadata: { labels }, spec: { unschedulable: true }, status }), {
      Name: 'x',
      Status: 'Ready,SchedulingDisabled',
      Roles: 'edge,old,worker',
      Age: '60m',
      Version: 'v1.36.0',
      '+Internal-IP': '10.0.0.2',
      '+External-IP': '<none>',
      '+OS-Image': 'Debian',
      '+Kernel-Version': '6.18',
      '+Container-Runtime': 'containerd://1.6',
    })
    const stateOf = (conditions: Json[]) => row('', 'nodes', { status: { conditions } })['Status']
    assert.deepEqual([stateOf([]), stateOf([{ type: 'Ready', status: 'Unknown' }])], ['Unknown', 'NotReady'])
  })
  test('events: the name comes last', () => {
    const involvedObject = { kind: 'Pod', name: 'p', fieldPath: 'spec.containers{a}' }
    const event = {
      involvedObject,
      type: 'Warning',
      reason: 'BackOff',
      message: 'Back-off \n',
      source: { component: 'kubelet', host: 'n' },
      firstTimestamp: '2026-01-01T00:30:00Z',
      lastTimestamp: '2026-01-01T00:59:30Z',
      count: 4,
    }
    const made = row('', 'events', event)
    assert.deepEqual(Object.entries(made), [
      ['Last Seen', '30s'],
      ['Type', 'Warning'],
      ['Reason', 'BackOff'],
      ['Object', 'pod/p'],
      ['+Subobject', 'spec.containers{a}'],
      ['+Source', 'kubelet, n'],
      ['Message', 'Back-off'],
      ['+First Seen', '30m'],
      ['+Count', 4],
      ['+Name', 'x'],
    ])
    const series = row('', 'events', {
      involvedObject: {},
      eventTime: '2026-01-01T00:30:00.000000Z',
      series: { count: 7, lastObservedTime: '2026-01-01T00:58:00.000000Z' },
      reportingComponent: 'c',
    })
    assert.deepEqual(
      [series['Last Seen'], series['+First Seen'], series['+Count'], series['+Source']],
      ['2m', '30m', 7, 'c'],
    )
  })
  test('namespaces, config maps, secrets, accounts, leases', () => {
    assert.deepEqual(row('', 'namespaces', { status: { phase: 'Active' } }), {
      Name: 'x',
      Status: 'Active',
      Age: '60m',
    })
    assert.deepEqual(row('', 'configmaps', { data: { a: '', b: '' }, binaryData: { c: '' } }), {
      Name: 'x',
      Data: 3,
      Age: '60m',
    })
    assert.deepEqual(row('', 'secrets', { type: 'Opaque', data: { a: '' } }), {
      Name: 'x',
      Type: 'Opaque',
      Data: 1,
      Age: '60m',
    })
    assert.deepEqual(row('', 'serviceaccounts', {}), { Name: 'x', Secrets: 0, Age: '60m' })
    assert.deepEqual(row('coordination.k8s.io', 'leases', { spec: { holderIdentity: 'h' } }), {
      Name: 'x',
      Holder: 'h',
      Age: '60m',
    })
  })
})
