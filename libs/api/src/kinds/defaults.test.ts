import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Json, KubeObject } from '../kube-object.js'
import { findKind } from '../registry.js'

function defaulted(group: string, resource: string, body: Json): KubeObject {
  const kind = findKind(group, 'v1', resource)
  assert.ok(kind)
  const object = { metadata: { name: 'x', namespace: 'default' }, ...structuredClone(body) } as unknown as KubeObject
  kind.setDefaults(object)
  return object
}

const podSpec = (spec: Json) =>
  defaulted('', 'pods', { spec })['spec'] as Json & { containers: Json[]; volumes?: Json[] }
const container = (given: Json) =>
  podSpec({ containers: [{ name: 'c', image: 'nginx', ...given }] }).containers[0] as Json

describe('pods', () => {
  test('what everybody gets', () =>
    assert.deepEqual(podSpec({ containers: [{ name: 'c', image: 'nginx:1.27' }] }), {
      containers: [
        {
          name: 'c',
          image: 'nginx:1.27',
          imagePullPolicy: 'IfNotPresent',
          resources: {},
          terminationMessagePath: '/dev/termination-log',
          terminationMessagePolicy: 'File',
        },
      ],
      dnsPolicy: 'ClusterFirst',
      enableServiceLinks: true,
      restartPolicy: 'Always',
      schedulerName: 'default-scheduler',
      securityContext: {},
      terminationGracePeriodSeconds: 30,
    }))

  test('the pull policy follows from the tag', () => {
    const policies: Record<string, string> = {
      nginx: 'Always',
      'nginx:latest': 'Always',
      'host:5000/nginx': 'Always',
      'nginx:1.27': 'IfNotPresent',
      'host:5000/a/nginx:1': 'IfNotPresent',
      'nginx@sha256:abc': 'IfNotPresent',
    }
    for (const [image, policy] of Object.entries(policies))
      assert.equal(container({ image })['imagePullPolicy'], policy, image)
    assert.equal(container({ image: 'nginx', imagePullPolicy: 'Never' })['imagePullPolicy'], 'Never')
  })

  test('probes: 0 is not set', () =>
    assert.deepEqual(
      container({ livenessProbe: { httpGet: { port: 80 }, periodSeconds: 0, timeoutSeconds: 5 } })['livenessProbe'],
      {
        httpGet: { port: 80, path: '/', scheme: 'HTTP' },
        failureThreshold: 3,
        periodSeconds: 10,
        successThreshold: 1,
        timeoutSeconds: 5,
      },
    ))

  test('limits are requests; what is requested stays', () =>
    assert.deepEqual(
      container({ resources: { limits: { cpu: '1', memory: '1Gi' }, requests: { cpu: '500m' } } })['resources'],
      {
        limits: { cpu: '1', memory: '1Gi' },
        requests: { cpu: '500m', memory: '1Gi' },
      },
    ))

  test('ports, environment, volumes', () => {
    assert.deepEqual(container({ ports: [{ containerPort: 80 }, { containerPort: 53, protocol: 'UDP' }] })['ports'], [
      { containerPort: 80, protocol: 'TCP' },
      { containerPort: 53, protocol: 'UDP' },
    ])
    assert.deepEqual(
      container({ env: [{ name: 'A', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }] })['env'],
      [{ name: 'A', valueFrom: { fieldRef: { fieldPath: 'metadata.name', apiVersion: 'v1' } } }],
    )
    const given = [
      { name: 'a' },
      { name: 'b', secret: { secretName: 's' } },
      { name: 'c', configMap: { name: 'c' } },
      { name: 'd', hostPath: { path: '/d' } },
    ]
    assert.deepEqual(podSpec({ containers: [], volumes: given }).volumes, [
      { name: 'a', emptyDir: {} },
      { name: 'b', secret: { secretName: 's', defaultMode: 0o644 } },
      { name: 'c', configMap: { name: 'c', defaultMode: 0o644 } },
      { name: 'd', hostPath: { path: '/d', type: '' } },
    ])
  })

  test("on the host network ports are the host's", () =>
    assert.deepEqual(
      podSpec({ hostNetwork: true, containers: [{ name: 'c', image: 'a', ports: [{ containerPort: 80 }] }] })
        .containers[0]?.['ports'],
      [{ containerPort: 80, hostPort: 80, protocol: 'TCP' }],
    ))

  test('the old name of the account is its new one', () => {
    assert.equal(podSpec({ containers: [], serviceAccount: 'a' })['serviceAccountName'], 'a')
    assert.equal(podSpec({ containers: [], serviceAccountName: 'b' })['serviceAccount'], 'b')
  })
})

describe('workloads', () => {
  const template = {
    metadata: { labels: { app: 'x' } },
    spec: { containers: [{ name: 'c', image: 'a:1', resources: { limits: { cpu: '1' } } }] },
  }

  test('deployments', () => {
    const { template: made, ...spec } = defaulted('apps', 'deployments', { spec: { selector: {}, template } })[
      'spec'
    ] as Json
    assert.deepEqual(spec, {
      progressDeadlineSeconds: 600,
      replicas: 1,
      revisionHistoryLimit: 10,
      selector: {},
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: '25%', maxUnavailable: '25%' } },
    })
    const pod = (made as { spec: Json & { containers: Json[] } }).spec
    assert.equal(pod['restartPolicy'], 'Always')
    assert.deepEqual(
      pod.containers[0]?.['resources'],
      { limits: { cpu: '1' } },
      'requests follow in the pods, not here',
    )
    assert.equal(pod['enableServiceLinks'], undefined)
  })
  test('Recreate takes no numbers; 0 replicas stay 0', () => {
    const spec = defaulted('apps', 'deployments', { spec: { replicas: 0, strategy: { type: 'Recreate' } } })[
      'spec'
    ] as Json
    assert.deepEqual([spec['replicas'], spec['strategy']], [0, { type: 'Recreate' }])
  })
  test('stateful sets', () => {
    const { template: made, ...spec } = defaulted('apps', 'statefulsets', { spec: { selector: {}, template } })[
      'spec'
    ] as Json
    assert.deepEqual(spec, {
      persistentVolumeClaimRetentionPolicy: { whenDeleted: 'Retain', whenScaled: 'Retain' },
      podManagementPolicy: 'OrderedReady',
      replicas: 1,
      revisionHistoryLimit: 10,
      selector: {},
      updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 1, partition: 0 } },
    })
    assert.equal((made as { spec: Json }).spec['restartPolicy'], 'Always')
  })
  test('OnDelete takes no numbers', () => {
    const spec = defaulted('apps', 'statefulsets', { spec: { updateStrategy: { type: 'OnDelete' } } })['spec'] as Json
    assert.deepEqual(spec['updateStrategy'], { type: 'OnDelete' })
  })
  test('a replication controller selects what its template bears', () => {
    const made = defaulted('', 'replicationcontrollers', { spec: { template } })
    assert.deepEqual((made['spec'] as Json)['selector'], { app: 'x' })
    assert.deepEqual(made.metadata.labels, { app: 'x' })
  })
})

describe('services', () => {
  const spec = (given: Json) => defaulted('', 'services', { spec: given })['spec']
  test('a cluster IP', () =>
    assert.deepEqual(spec({ ports: [{ port: 80 }, { name: 'b', port: 81, targetPort: 'http', protocol: 'UDP' }] }), {
      internalTrafficPolicy: 'Cluster',
      ipFamilies: ['IPv4'],
      ipFamilyPolicy: 'SingleStack',
      ports: [
        { port: 80, protocol: 'TCP', targetPort: 80 },
        { name: 'b', port: 81, protocol: 'UDP', targetPort: 'http' },
      ],
      sessionAffinity: 'None',
      type: 'ClusterIP',
    }))
  test('a node port, with affinity', () => {
    const made = spec({ type: 'NodePort', sessionAffinity: 'ClientIP', ports: [] }) as Json
    assert.equal(made['externalTrafficPolicy'], 'Cluster')
    assert.deepEqual(made['sessionAffinityConfig'], { clientIP: { timeoutSeconds: 10_800 } })
  })
  test('an external name has no addresses', () =>
    assert.deepEqual(spec({ type: 'ExternalName', externalName: 'a.b' }), {
      type: 'ExternalName',
      externalName: 'a.b',
      sessionAffinity: 'None',
    }))
})

describe('others', () => {
  test("a secret's stringData is data", () => {
    const made = defaulted('', 'secrets', { data: { a: 'YQ==', b: 'Yg==' }, stringData: { b: 'hé', c: '' } })
    assert.deepEqual(
      [made['type'], made['data'], made['stringData']],
      ['Opaque', { a: 'YQ==', b: 'aMOp', c: '' }, undefined],
    )
  })
  test('a namespace bears its name', () =>
    assert.deepEqual(defaulted('', 'namespaces', {}).metadata.labels, { 'kubernetes.io/metadata.name': 'x' }))
  test('ports of endpoints', () => {
    assert.deepEqual(defaulted('', 'endpoints', { subsets: [{ ports: [{ port: 1 }] }] })['subsets'], [
      { ports: [{ port: 1, protocol: 'TCP' }] },
    ])
    assert.deepEqual(defaulted('discovery.k8s.io', 'endpointslices', { ports: [{ port: 1 }] })['ports'], [
      { name: '', port: 1, protocol: 'TCP' },
    ])
  })
})
