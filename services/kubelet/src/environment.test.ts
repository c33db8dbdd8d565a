import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { pullPolicyOf } from './container-spec.js'
import { ConfigError, environmentOf, expand, type PodContext, references, volumeFiles } from './environment.js'
import type { Container, Volume } from './kinds.js'
import { admit, milliCpu, oomScoreAdj, podRequests, qosClass, quantity } from './resources.js'
import { makePod } from './testing/pods.js'

const bytes = (text: string) => new TextEncoder().encode(text)
const contextOf = (container: Container, more: Partial<PodContext> = {}): PodContext => ({
  pod: {
    ...makePod({ containers: [container], serviceAccountName: 'sa' }),
    metadata: { name: 'p', namespace: 'ns', uid: 'u', labels: { app: 'web' } },
  },
  nodeName: 'n0',
  hostIp: '10.0.0.1',
  podIp: '10.244.0.5',
  configMaps: new Map([['conf', { a: bytes('1'), b: bytes('2') }]]),
  secrets: new Map([['sec', { pw: bytes('x') }]]),
  services: [
    {
      metadata: { name: 'my-db', namespace: 'ns' },
      spec: { clusterIP: '10.96.0.9', ports: [{ name: 'sql', port: 5432 }] },
    },
  ],
  allocatable: { cpuMilli: 4000, memoryBytes: 2 ** 30, storageBytes: 2 ** 40 },
  ...more,
})
const envOf = (container: Partial<Container>, more: Partial<PodContext> = {}) => {
  const whole = { name: 'c', image: 'x', ...container }
  return Object.fromEntries(environmentOf(whole, contextOf(whole, more)))
}

describe('environment', () => {
  test('values, references and fields', () => {
    const env = envOf({
      resources: { limits: { cpu: '1500m', memory: '64Mi' } },
      envFrom: [{ prefix: 'P_', configMapRef: { name: 'conf' } }],
      env: [
        { name: 'PLAIN', value: 'v' },
        { name: 'REF', value: '$(PLAIN)/$(P_a)/$(NOT)/$$(PLAIN)' },
        { name: 'KEY', valueFrom: { configMapKeyRef: { name: 'conf', key: 'b' } } },
        { name: 'SECRET', valueFrom: { secretKeyRef: { name: 'sec', key: 'pw' } } },
        { name: 'MAYBE', valueFrom: { secretKeyRef: { name: 'none', key: 'pw', optional: true } } },
        { name: 'IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
        { name: 'APP', valueFrom: { fieldRef: { fieldPath: "metadata.labels['app']" } } },
        { name: 'CPU', valueFrom: { resourceFieldRef: { resource: 'limits.cpu' } } },
        { name: 'MEM', valueFrom: { resourceFieldRef: { resource: 'limits.memory', divisor: '1Mi' } } },
        { name: 'ALL', valueFrom: { resourceFieldRef: { resource: 'requests.memory' } } },
      ],
    })
    assert.equal(env['REF'], 'v/1/$(NOT)/$(PLAIN)')
    assert.deepEqual([env['KEY'], env['SECRET'], env['MAYBE']], ['2', 'x', undefined])
    assert.deepEqual([env['IP'], env['APP']], ['10.244.0.5', 'web'])
    assert.deepEqual([env['CPU'], env['MEM'], env['ALL']], ['2', '64', String(64 * 2 ** 20)])
    assert.deepEqual([env['MY_DB_SERVICE_HOST'], env['MY_DB_PORT_5432_TCP']], ['10.96.0.9', 'tcp://10.96.0.9:5432'])
  })

  test('what is missing is named', () => {
    assert.throws(
      () => envOf({ env: [{ name: 'A', valueFrom: { configMapKeyRef: { name: 'none', key: 'k' } } }] }),
      new ConfigError('configmap "none" not found'),
    )
    assert.throws(
      () => envOf({ env: [{ name: 'A', valueFrom: { secretKeyRef: { name: 'sec', key: 'k' } } }] }),
      /couldn't find key k in Secret ns\/sec/,
    )
    assert.throws(() => envOf({ envFrom: [{ secretRef: { name: 'none' } }] }), ConfigError)
    assert.throws(
      () => envOf({ env: [{ name: 'A', valueFrom: { fieldRef: { fieldPath: 'spec.nothing' } } }] }),
      /unsupported fieldPath/,
    )
  })

  test('keys that are names of every object’s own are only keys', () => {
    assert.throws(
      () => envOf({ env: [{ name: 'A', valueFrom: { configMapKeyRef: { name: 'conf', key: 'constructor' } } }] }),
      ConfigError,
    )
  })

  test('expanding never throws and leaves text without references alone', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        const expanded = expand(text, new Map([['A', 'a']]))
        if (!text.includes('$')) assert.equal(expanded, text)
      }),
    )
  })

  test('volumes of objects', () => {
    const context = contextOf({ name: 'c' })
    const files = (volume: Omit<Volume, 'name'>) =>
      volumeFiles({ name: 'v', ...volume } as Volume, context)?.map(
        (file) => `${file.path}=${new TextDecoder().decode(file.bytes)} ${file.mode.toString(8)}`,
      )
    assert.deepEqual(files({ configMap: { name: 'conf' } }), ['a=1 644', 'b=2 644'])
    assert.deepEqual(files({ configMap: { name: 'conf', defaultMode: 0o400, items: [{ key: 'b', path: 'x/y' }] } }), [
      'x/y=2 400',
    ])
    assert.deepEqual(files({ secret: { secretName: 'gone', optional: true } }), [])
    assert.deepEqual(
      files({ downwardAPI: { items: [{ path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } }] } }),
      ['labels=app="web" 644'],
    )
    assert.deepEqual(
      files({
        projected: {
          sources: [{ configMap: { name: 'conf', items: [{ key: 'a', path: 'one' }] } }, { secret: { name: 'sec' } }],
        },
      }),
      ['one=1 644', 'pw=x 644'],
    )
    assert.equal(files({ emptyDir: {} }), undefined)
    assert.throws(() => files({ configMap: { name: 'conf', items: [{ key: 'z', path: 'z' }] } }), /has no key z/)
  })

  test('what a pod refers to', () => {
    const pod = makePod({
      containers: [
        {
          name: 'c',
          envFrom: [{ secretRef: { name: 's1' } }],
          env: [{ name: 'A', valueFrom: { configMapKeyRef: { name: 'm1', key: 'k' } } }],
        },
      ],
      volumes: [
        { name: 'v', secret: { secretName: 's2' } },
        { name: 'w', projected: { sources: [{ configMap: { name: 'm2' } }] } },
      ],
    })
    assert.deepEqual(references(pod), { configMaps: ['m1', 'm2'], secrets: ['s1', 's2'] })
  })

  test('pull policies', () => {
    const policy = (image: string) => pullPolicyOf({ name: 'c', image })
    assert.deepEqual(['nginx', 'nginx:latest', 'nginx:1.22', 'host:5000/nginx', 'nginx@sha256:0'].map(policy), [
      'Always',
      'Always',
      'IfNotPresent',
      'Always',
      'IfNotPresent',
    ])
  })
})

describe('resources', () => {
  test('quantities', () => {
    assert.deepEqual(['1', '100m', '1Ki', '1.5Gi', '2e3', '12E', 'x', ''].map(quantity), [
      1,
      0.1,
      1024,
      1.5 * 2 ** 30,
      2000,
      12e18,
      0,
      0,
    ])
    assert.deepEqual(['100m', '0.1', '1', '1n'].map(milliCpu), [100, 100, 1000, 1])
  })

  test('a pod takes the sum of its containers or the largest init moment', () => {
    const cpu = (value: string) => ({ resources: { requests: { cpu: value } } })
    const pod = makePod({
      initContainers: [
        { name: 'i', ...cpu('900m') },
        { name: 's', restartPolicy: 'Always', ...cpu('100m') },
        { name: 'j', ...cpu('950m') },
      ],
      containers: [
        { name: 'a', ...cpu('300m') },
        { name: 'b', ...cpu('200m') },
      ],
    })
    assert.equal(podRequests(pod).cpuMilli, 1050)
    assert.equal(
      podRequests(makePod({ containers: [{ name: 'a', resources: { limits: { memory: '1Ki' } } }] })).memoryBytes,
      1024,
    )
  })

  test('C4: what is admitted never exceeds what the node can allocate', () => {
    const allocatable = { cpuMilli: 1000, memoryBytes: 1000, storageBytes: 1000, pods: 5 }
    const arbitraryPod = fc
      .record({ cpu: fc.integer({ min: 0, max: 600 }), memory: fc.integer({ min: 0, max: 600 }) })
      .map(({ cpu, memory }) =>
        makePod({ containers: [{ name: 'c', resources: { requests: { cpu: `${cpu}m`, memory } } }] }),
      )
    fc.assert(
      fc.property(fc.array(arbitraryPod), (pods) => {
        const admitted: typeof pods = []
        for (const pod of pods) if (!admit(pod, admitted.map(podRequests), allocatable)) admitted.push(pod)
        const sum = (key: 'cpuMilli' | 'memoryBytes') =>
          admitted.reduce((total, pod) => total + podRequests(pod)[key], 0)
        assert.ok(sum('cpuMilli') <= 1000 && sum('memoryBytes') <= 1000 && admitted.length <= 5)
      }),
    )
    const [big] = [makePod({ containers: [{ name: 'c', resources: { requests: { cpu: '2' } } }] })]
    assert.equal(admit(big, [], allocatable)?.reason, 'OutOfcpu')
    assert.equal(
      admit(
        makePod(),
        Array.from({ length: 5 }, () => podRequests(makePod())),
        allocatable,
      )?.reason,
      'OutOfpods',
    )
  })

  test('quality of service, and who dies first', () => {
    const pod = (resources: Container['resources']) =>
      makePod({ containers: [{ name: 'c', ...(resources ? { resources } : {}) }] })
    const guaranteed = pod({ limits: { cpu: '1', memory: '1Gi' } })
    const burstable = pod({ requests: { memory: '1Gi' } })
    assert.deepEqual([guaranteed, burstable, pod(undefined)].map(qosClass), ['Guaranteed', 'Burstable', 'BestEffort'])
    const score = (p: typeof guaranteed) => oomScoreAdj(p, p.spec.containers[0] as Container, 4 * 2 ** 30)
    assert.deepEqual([guaranteed, burstable, pod(undefined)].map(score), [-997, 750, 1000])
  })
})
