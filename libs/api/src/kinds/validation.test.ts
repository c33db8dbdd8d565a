import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Json, KubeObject } from '../kube-object.js'
import { findKind } from '../registry.js'

function kindOf(group: string, resource: string) {
  const kind = findKind(group, 'v1', resource)
  assert.ok(kind)
  return kind
}

function made(group: string, resource: string, body: Json): KubeObject {
  const object = { metadata: { name: 'x', namespace: 'default' }, ...structuredClone(body) } as unknown as KubeObject
  const kind = kindOf(group, resource)
  assert.deepEqual(kind.decode(object, 'Strict').errors, [])
  kind.setDefaults(object)
  return object
}

/** As the Status' message has them. */
const texts = (causes: { field?: string; message: string }[]) =>
  causes.map(({ field, message }) => (field ? `${field}: ${message}` : message))
const wrong = (group: string, resource: string, body: Json) =>
  texts(kindOf(group, resource).validate(made(group, resource, body)))
const wrongPod = (spec: Json) => wrong('', 'pods', { spec: { containers: [{ name: 'c', image: 'a' }], ...spec } })
const wrongContainer = (container: Json) =>
  wrongPod({ containers: [{ name: 'c', image: 'a', ...container }], volumes: [{ name: 'v' }] })
const update = (group: string, resource: string, old: Json, now: Json, subresource = '') =>
  texts(kindOf(group, resource).validateUpdate(made(group, resource, now), made(group, resource, old), subresource))

const LABEL =
  "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"

describe('metadata', () => {
  const meta = (metadata: Json) =>
    wrong('', 'configmaps', { metadata: { name: 'x', namespace: 'default', ...metadata } })
  const cases: [Json, string | RegExp][] = [
    [{ name: undefined }, 'metadata.name: Required value: name or generateName is required'],
    [{ name: 'A' }, /^metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist/],
    [{ name: `${'a'.repeat(250)}.bcd` }, /^metadata.name: Invalid value: ".*": must be no more than 253/],
    [{ labels: { '-a': 'x' } }, /^metadata.labels: Invalid value: "-a": name part must consist/],
    [{ labels: { a: 'x y' } }, /^metadata.labels: Invalid value: "x y": a valid label must be an empty string/],
    [{ annotations: { 'a b': 'x' } }, /^metadata.annotations: Invalid value: "a b": name part/],
    [{ annotations: { a: 'x'.repeat(262_144) } }, 'metadata.annotations: Too long: may not be more than 262144 bytes'],
    [{ annotations: { a: 'é'.repeat(131_072) } }, 'metadata.annotations: Too long: may not be more than 262144 bytes'],
    [{ finalizers: ['a b'] }, /^metadata.finalizers\[0\]: Invalid value: "a b"/],
    [
      { ownerReferences: [{ kind: 'Pod', name: 'p', uid: 'u' }] },
      'metadata.ownerReferences[0].apiVersion: Invalid value: "": version must not be empty',
    ],
    [
      {
        ownerReferences: [1, 2].map((i) => ({
          apiVersion: 'v1',
          kind: 'Pod',
          name: `p${i}`,
          uid: `u${i}`,
          controller: true,
        })),
      },
      /Only one reference can have Controller set to true/,
    ],
  ]
  for (const [metadata, expected] of cases)
    test(String(expected).slice(0, 90), () => {
      const found = meta(metadata)
      assert.equal(found.length, 1, found.join('; '))
      if (typeof expected === 'string') assert.equal(found[0], expected)
      else assert.match(found[0] ?? '', expected)
    })
  test('253 characters with dots are a name', () => assert.deepEqual(meta({ name: `${'a'.repeat(250)}.bc` }), []))
  test('what never changes', () => {
    assert.deepEqual(
      update(
        '',
        'configmaps',
        { metadata: { name: 'x', namespace: 'default', uid: '1' } },
        { metadata: { name: 'x', namespace: 'default', uid: '2' } },
      ),
      ['metadata.uid: Invalid value: "2": field is immutable'],
    )
    const leaving = { name: 'x', namespace: 'default', deletionTimestamp: '2026-01-01T00:00:00Z' }
    assert.deepEqual(
      update(
        '',
        'configmaps',
        { metadata: { ...leaving, finalizers: ['a/b'] } },
        { metadata: { ...leaving, finalizers: ['a/b', 'c/d'] } },
      ),
      [
        'metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers ["c/d"]',
      ],
    )
  })
})

describe('pods', () => {
  test('nothing is wrong with a plain one, nor with one that uses much', () => {
    assert.deepEqual(wrongPod({}), [])
    const much = {
      initContainers: [{ name: 'i', image: 'a', restartPolicy: 'Always' }],
      containers: [
        {
          name: 'c',
          image: 'a',
          command: ['x'],
          env: [
            { name: 'A', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } },
            { name: 'B', valueFrom: { fieldRef: { fieldPath: "metadata.labels['app']" } } },
          ],
          envFrom: [{ prefix: 'P_', configMapRef: { name: 'c' } }],
          ports: [{ name: 'http', containerPort: 80 }],
          resources: { requests: { cpu: '100m', 'example.com/gpu': '1' }, limits: { cpu: 1, 'hugepages-2Mi': '4Mi' } },
          volumeMounts: [{ name: 'v', mountPath: '/v', subPath: 'a/b' }],
          livenessProbe: { exec: { command: ['true'] } },
          readinessProbe: { httpGet: { port: 'http' }, successThreshold: 2 },
          startupProbe: { grpc: { port: 9000 } },
          lifecycle: { preStop: { sleep: { seconds: 3 } } },
        },
      ],
      volumes: [
        { name: 'v', configMap: { name: 'c', items: [{ key: 'a', path: 'x/y' }] } },
        {
          name: 'w',
          projected: {
            sources: [
              { serviceAccountToken: { path: 'token' } },
              { downwardAPI: { items: [{ path: 'l', fieldRef: { fieldPath: 'metadata.labels' } }] } },
            ],
          },
        },
      ],
      affinity: {
        nodeAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: {
            nodeSelectorTerms: [
              { matchExpressions: [{ key: 'a', operator: 'Gt', values: ['1'] }] },
              { matchFields: [{ key: 'metadata.name', operator: 'In', values: ['n1'] }] },
            ],
          },
        },
        podAntiAffinity: {
          preferredDuringSchedulingIgnoredDuringExecution: [
            {
              weight: 1,
              podAffinityTerm: { topologyKey: 'kubernetes.io/hostname', labelSelector: { matchLabels: { a: 'b' } } },
            },
          ],
        },
      },
      tolerations: [
        { operator: 'Exists' },
        { key: 'a', operator: 'Exists', effect: 'NoExecute', tolerationSeconds: 5 },
      ],
      topologySpreadConstraints: [{ maxSkew: 1, topologyKey: 'zone', whenUnsatisfiable: 'DoNotSchedule' }],
    }
    assert.deepEqual(wrongPod(much), [])
  })

  const specs: [Json, string[]][] = [
    [{ containers: [] }, ['spec.containers: Required value']],
    [
      { restartPolicy: 'Sometimes' },
      ['spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"'],
    ],
    [
      { dnsPolicy: 'None' },
      ['spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None'],
    ],
    [
      { terminationGracePeriodSeconds: -1 },
      ['spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0'],
    ],
    [{ hostname: 'A' }, [`spec.hostname: Invalid value: "A": ${LABEL}`]],
    [
      { tolerations: [{ value: 'x' }] },
      [
        'spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys"',
      ],
    ],
    [
      { tolerations: [{ key: 'a', tolerationSeconds: 1 }] },
      ['spec.tolerations[0].effect: Invalid value: "": effect must be \'NoExecute\' when `tolerationSeconds` is set'],
    ],
    [{ volumes: [{ name: 'a' }, { name: 'a' }] }, ['spec.volumes[1].name: Duplicate value: "a"']],
    [
      { volumes: [{ name: 'a', emptyDir: {}, hostPath: { path: '/x' } }] },
      ['spec.volumes[0]: Forbidden: may not specify more than 1 volume type'],
    ],
    [
      { volumes: [{ name: 'a', hostPath: { path: '/x/../etc' } }] },
      ['spec.volumes[0].hostPath.path: Invalid value: "/x/../etc": must not contain \'..\''],
    ],
    [
      { volumes: [{ name: 'a', configMap: { name: 'c', items: [{ key: 'k', path: '../../etc/passwd' }] } }] },
      ['spec.volumes[0].configMap.items[0].path: Invalid value: "../../etc/passwd": must not contain \'..\''],
    ],
    [
      { volumes: [{ name: 'a', secret: { secretName: 's', items: [{ key: 'k', path: '/abs' }] } }] },
      ['spec.volumes[0].secret.items[0].path: Invalid value: "/abs": must be a relative path'],
    ],
    [
      { volumes: [{ name: 'a', secret: { defaultMode: 0o1000 } }] },
      [
        'spec.volumes[0].secret.secretName: Required value',
        'spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive',
      ],
    ],
    [
      { affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [] } } } },
      [
        'spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term',
      ],
    ],
    [
      { affinity: { podAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [{}] } } },
      [
        'spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty',
      ],
    ],
  ]
  for (const [spec, expected] of specs) test(expected[0] ?? '', () => assert.deepEqual(wrongPod(spec), expected))

  const containers: [Json, string[]][] = [
    [{ name: undefined }, ['spec.containers[0].name: Required value']],
    [{ name: 'A' }, [`spec.containers[0].name: Invalid value: "A": ${LABEL}`]],
    [{ image: '' }, ['spec.containers[0].image: Required value']],
    [{ image: ' a' }, ['spec.containers[0].image: Invalid value: " a": must not have leading or trailing whitespace']],
    [
      { imagePullPolicy: 'Often' },
      [
        'spec.containers[0].imagePullPolicy: Unsupported value: "Often": supported values: "Always", "IfNotPresent", "Never"',
      ],
    ],
    [
      { ports: [{ containerPort: 70_000 }] },
      ['spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive'],
    ],
    [
      {
        ports: [
          { name: 'a', containerPort: 1 },
          { name: 'a', containerPort: 2 },
        ],
      },
      ['spec.containers[0].ports[1].name: Duplicate value: "a"'],
    ],
    [
      { env: [{ name: 'A=B' }] },
      [
        'spec.containers[0].env[0].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than \'=\'',
      ],
    ],
    [
      { env: [{ name: 'A', value: 'x', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }] },
      ['spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'],
    ],
    [
      { env: [{ name: 'A', valueFrom: { secretKeyRef: { name: 's', key: '' } } }] },
      ['spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value'],
    ],
    [
      { envFrom: [{}] },
      ['spec.containers[0].envFrom[0]: Invalid value: "": must specify one of: `configMapRef` or `secretRef`'],
    ],
    [{ volumeMounts: [{ name: 'w', mountPath: '/w' }] }, ['spec.containers[0].volumeMounts[0].name: Not found: "w"']],
    [
      {
        volumeMounts: [
          { name: 'v', mountPath: '/w' },
          { name: 'v', mountPath: '/w' },
        ],
      },
      ['spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/w": must be unique'],
    ],
    [
      { volumeMounts: [{ name: 'v', mountPath: '/w', subPath: '../x' }] },
      ['spec.containers[0].volumeMounts[0].subPath: Invalid value: "../x": must not contain \'..\''],
    ],
    [
      { resources: { requests: { cpu: '2' }, limits: { cpu: '1' } } },
      ['spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'],
    ],
    [
      { resources: { requests: { memory: '-1' } } },
      ['spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0'],
    ],
    [
      { resources: { requests: { cpus: '1' } } },
      [
        'spec.containers[0].resources.requests[cpus]: Invalid value: "cpus": must be a standard resource for containers',
      ],
    ],
    [{ livenessProbe: {} }, ['spec.containers[0].livenessProbe: Required value: must specify a handler type']],
    [
      { livenessProbe: { exec: { command: ['a'] }, tcpSocket: { port: 1 } } },
      ['spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type'],
    ],
    [
      { livenessProbe: { tcpSocket: { port: 0 } } },
      ['spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive'],
    ],
    [
      { livenessProbe: { exec: { command: ['a'] }, successThreshold: 2 } },
      ['spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1'],
    ],
    [
      { lifecycle: { postStart: {} } },
      ['spec.containers[0].lifecycle.postStart: Required value: must specify a handler type'],
    ],
    [
      { restartPolicy: 'Always' },
      ['spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers'],
    ],
  ]
  for (const [container, expected] of containers)
    test(expected[0] ?? '', () => assert.deepEqual(wrongContainer(container), expected))

  test('the same name twice, over init containers too', () =>
    assert.deepEqual(wrongPod({ initContainers: [{ name: 'c', image: 'a' }] }), [
      'spec.containers[0].name: Duplicate value: "c"',
    ]))

  describe('updates', () => {
    const spec = {
      containers: [{ name: 'c', image: 'a:1' }],
      activeDeadlineSeconds: 10,
      tolerations: [{ key: 'a', operator: 'Exists' }],
    }
    const to = (change: Json) => update('', 'pods', { spec }, { spec: { ...spec, ...change } })
    test('images, earlier deadlines, more tolerations', () => {
      assert.deepEqual(to({ containers: [{ name: 'c', image: 'a:1' }] }), [])
      assert.deepEqual(to({ containers: [{ name: 'c', image: 'a:2' }] }), [])
      assert.deepEqual(to({ activeDeadlineSeconds: 5 }), [])
      assert.deepEqual(to({ tolerations: [{ key: 'b', operator: 'Exists' }, ...spec.tolerations] }), [])
    })
    test('and nothing else', () => {
      assert.deepEqual(to({ activeDeadlineSeconds: 11 }), [
        'spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value',
      ])
      assert.deepEqual(to({ activeDeadlineSeconds: undefined }), [
        'spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value',
      ])
      assert.deepEqual(to({ tolerations: [] }), [
        'spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds',
      ])
      assert.deepEqual(to({ containers: [...spec.containers, { name: 'd', image: 'a' }] }), [
        'spec.containers: Forbidden: pod updates may not add or remove containers',
      ])
      for (const change of [
        { containers: [{ name: 'c', image: 'a:1', command: ['x'] }] },
        { nodeName: 'n' },
        { terminationGracePeriodSeconds: 1 },
        { restartPolicy: 'Never' },
      ])
        assert.match(
          to(change)[0] ?? '',
          /^spec: Forbidden: pod updates may not change fields other than `spec.containers\[\*\].image`,/,
        )
    })
    test('their status changes freely', () =>
      assert.deepEqual(update('', 'pods', { spec }, { spec: { ...spec, nodeName: 'n' } }, 'status'), []))
  })
})

describe('deployments', () => {
  const template = (labels: Json = { app: 'x' }, spec: Json = {}) => ({
    metadata: { labels },
    spec: { containers: [{ name: 'c', image: 'a' }], ...spec },
  })
  const deployment = (spec: Json) =>
    wrong('apps', 'deployments', { spec: { selector: { matchLabels: { app: 'x' } }, template: template(), ...spec } })
  const cases: [Json, string[]][] = [
    [{}, []],
    [{ strategy: { type: 'Recreate' } }, []],
    [
      { selector: undefined },
      [
        'spec.selector: Required value',
        'spec.template.metadata.labels: Invalid value: {"app":"x"}: `selector` does not match template `labels`',
      ],
    ],
    [{ selector: {} }, ['spec.selector: Invalid value: {}: empty selector is invalid for deployment']],
    [
      { template: template({ app: 'y' }) },
      ['spec.template.metadata.labels: Invalid value: {"app":"y"}: `selector` does not match template `labels`'],
    ],
    [
      { selector: { matchExpressions: [{ key: 'app', operator: 'In' }] } },
      [
        "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
      ],
    ],
    [{ replicas: -1 }, ['spec.replicas: Invalid value: -1: must be greater than or equal to 0']],
    [
      { template: template({ app: 'x' }, { restartPolicy: 'Never' }) },
      ['spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'],
    ],
    [
      { template: template({ app: 'x' }, { containers: [{ name: 'c' }] }) },
      ['spec.template.spec.containers[0].image: Required value'],
    ],
    [
      { strategy: { type: 'Recreate', rollingUpdate: { maxSurge: 1 } } },
      ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    ],
    [
      { strategy: { type: 'Slow' } },
      ['spec.strategy.type: Unsupported value: "Slow": supported values: "Recreate", "RollingUpdate"'],
    ],
    [
      { strategy: { rollingUpdate: { maxSurge: 0, maxUnavailable: '0%' } } },
      ['spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0'],
    ],
    [
      { strategy: { rollingUpdate: { maxUnavailable: '101%' } } },
      ['spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%'],
    ],
    [
      { strategy: { rollingUpdate: { maxSurge: 'few' } } },
      [
        "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"few\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
      ],
    ],
    [
      { minReadySeconds: 600 },
      ['spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds'],
    ],
  ]
  for (const [spec, expected] of cases)
    test(expected[0] ?? JSON.stringify(spec), () => assert.deepEqual(deployment(spec), expected))
  test('the selector never changes', () =>
    assert.deepEqual(
      update(
        'apps',
        'deployments',
        { spec: { selector: { matchLabels: { app: 'x' } }, template: template() } },
        { spec: { selector: { matchLabels: { b: 'x' } }, template: template({ b: 'x' }) } },
      ),
      ['spec.selector: Invalid value: {"matchLabels":{"b":"x"}}: field is immutable'],
    ))
})

describe('stateful sets', () => {
  const template = (labels: Json = { app: 'x' }, spec: Json = {}) => ({
    metadata: { labels },
    spec: { containers: [{ name: 'c', image: 'a' }], ...spec },
  })
  const full = (spec: Json) => ({
    spec: { serviceName: 'x', selector: { matchLabels: { app: 'x' } }, template: template(), ...spec },
  })
  const cases: [Json, string[]][] = [
    [{}, []],
    [{ serviceName: undefined }, []],
    [{ updateStrategy: { type: 'OnDelete' }, podManagementPolicy: 'Parallel', ordinals: { start: 5 } }, []],
    [{ selector: {} }, ['spec.selector: Invalid value: {}: empty selector is invalid for statefulset']],
    [
      { template: template({ app: 'y' }) },
      ['spec.template.metadata.labels: Invalid value: {"app":"y"}: `selector` does not match template `labels`'],
    ],
    [{ replicas: -1 }, ['spec.replicas: Invalid value: -1: must be greater than or equal to 0']],
    [{ ordinals: { start: -1 } }, ['spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0']],
    [{ serviceName: 'A.b' }, [`spec.serviceName: Invalid value: "A.b": ${LABEL}`]],
    [
      { podManagementPolicy: 'Wild' },
      ['spec.podManagementPolicy: Unsupported value: "Wild": supported values: "OrderedReady", "Parallel"'],
    ],
    [
      { updateStrategy: { type: 'OnDelete', rollingUpdate: { partition: 1 } } },
      [
        'spec.updateStrategy.rollingUpdate: Invalid value: {"partition":1}: only allowed for updateStrategy \'RollingUpdate\'',
      ],
    ],
    [
      { updateStrategy: { type: 'Recreate' } },
      ['spec.updateStrategy: Invalid value: {"type":"Recreate"}: must be \'RollingUpdate\' or \'OnDelete\''],
    ],
    [
      { updateStrategy: { rollingUpdate: { partition: -1 } } },
      ['spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0'],
    ],
    [
      { updateStrategy: { rollingUpdate: { maxUnavailable: 0 } } },
      ['spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0'],
    ],
    [
      { updateStrategy: { rollingUpdate: { maxUnavailable: '101%' } } },
      ['spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%'],
    ],
    [
      { persistentVolumeClaimRetentionPolicy: { whenScaled: 'Keep' } },
      [
        'spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Keep": supported values: "Delete", "Retain"',
      ],
    ],
    [
      { volumeClaimTemplates: [{ metadata: { name: 'data' } }] },
      [
        'spec.volumeClaimTemplates: Forbidden: persistent volume claims are not built yet; use emptyDir or hostPath volumes in the template',
      ],
    ],
    [
      { template: template({ app: 'x' }, { restartPolicy: 'Never' }) },
      ['spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'],
    ],
    [
      { template: template({ app: 'x' }, { activeDeadlineSeconds: 3 }) },
      ['spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported'],
    ],
  ]
  for (const [spec, expected] of cases)
    test(expected[0] ?? JSON.stringify(spec), () =>
      assert.deepEqual(wrong('apps', 'statefulsets', full(spec)), expected),
    )
  test('its name is a label of its pods', () =>
    assert.match(
      wrong('apps', 'statefulsets', { metadata: { name: 'a.b', namespace: 'd' }, ...full({}) })[0] ?? '',
      /^metadata.name: Invalid value: "a.b": a lowercase RFC 1123 label/,
    ))
  test('updates may touch some fields only', () => {
    for (const spec of [
      { replicas: 3 },
      { ordinals: { start: 1 } },
      { template: template({ app: 'x', more: 'y' }) },
      { updateStrategy: { type: 'OnDelete' } },
      { revisionHistoryLimit: 3 },
      { minReadySeconds: 3 },
      { persistentVolumeClaimRetentionPolicy: { whenScaled: 'Delete' } },
    ])
      assert.deepEqual(update('apps', 'statefulsets', full({}), full(spec)), [])
    const refusal = [
      "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
    ]
    assert.deepEqual(update('apps', 'statefulsets', full({}), full({ serviceName: 'y' })), refusal)
    assert.deepEqual(update('apps', 'statefulsets', full({}), full({ podManagementPolicy: 'Parallel' })), refusal)
    const selector = { matchExpressions: [{ key: 'app', operator: 'Exists' }] }
    assert.deepEqual(update('apps', 'statefulsets', full({}), full({ selector })), refusal)
  })
  test('the data of a revision never change', () => {
    assert.deepEqual(wrong('apps', 'controllerrevisions', { revision: 1 }), ['data: Required value: data is mandatory'])
    assert.deepEqual(wrong('apps', 'controllerrevisions', { revision: -1, data: {} }), [
      'revision: Invalid value: -1: must be greater than or equal to 0',
    ])
    const [old, now] = [
      { revision: 1, data: { a: 1 } },
      { revision: 2, data: { a: 1 } },
    ]
    assert.deepEqual(update('apps', 'controllerrevisions', old, now), [])
    assert.deepEqual(update('apps', 'controllerrevisions', old, { revision: 1, data: { a: 2 } }), [
      'data: Invalid value: {"a":2}: field is immutable',
    ])
  })
})

describe('services', () => {
  const service = (spec: Json) => wrong('', 'services', { spec: { ports: [{ port: 80 }], ...spec } })
  const cases: [Json, string[]][] = [
    [{}, []],
    [{ ports: [] }, ['spec.ports: Required value']],
    [{ clusterIP: 'None', ports: [] }, []],
    [
      { type: 'Magic' },
      [
        'spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"',
      ],
    ],
    [{ type: 'ExternalName' }, ['spec.externalName: Required value']],
    [
      { ports: [{ port: 80 }, { port: 81 }] },
      ['spec.ports[0].name: Required value', 'spec.ports[1].name: Required value'],
    ],
    [
      { ports: [{ port: 0 }] },
      [
        'spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive',
        'spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive',
      ],
    ],
    [
      {
        ports: [
          { name: 'a', port: 80 },
          { name: 'b', port: 80 },
        ],
      },
      ['spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}'],
    ],
    [
      { ports: [{ port: 80, nodePort: 30_000 }] },
      ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    ],
    [
      { clusterIP: '10.0.0.256' },
      [
        'spec.clusterIPs[0]: Invalid value: "10.0.0.256": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
      ],
    ],
    [
      { clusterIP: '010.0.0.1' },
      ['spec.clusterIPs[0]: Invalid value: "010.0.0.1": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'],
    ],
  ]
  for (const [spec, expected] of cases)
    test(expected[0] ?? JSON.stringify(spec), () => assert.deepEqual(service(spec), expected))
  test('a name is a DNS label that starts with a letter', () =>
    assert.match(
      wrong('', 'services', { metadata: { name: '1a', namespace: 'd' }, spec: { ports: [{ port: 1 }] } })[0] ?? '',
      /^metadata.name: Invalid value: "1a": a DNS-1035 label/,
    ))
  const more: [Json, string[]][] = [
    [
      { type: 'NodePort', clusterIP: 'None' },
      ['spec.clusterIPs[0]: Invalid value: "None": may not be set to \'None\' for NodePort services'],
    ],
    [{ type: 'ExternalName', externalName: 'a.example.com.' }, []],
    [
      { internalTrafficPolicy: 'Near' },
      ['spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"'],
    ],
    [
      { externalIPs: ['x'] },
      ['spec.externalIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'],
    ],
    [
      { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 0 } } },
      [
        'spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400',
      ],
    ],
    [{ clusterIP: 'fd00::1' }, []],
  ]
  for (const [spec, expected] of more)
    test(expected[0] ?? JSON.stringify(spec), () => assert.deepEqual(service(spec), expected))
  test('what was given stays when it is left out, as kubectl replace does', () => {
    const kind = kindOf('', 'services')
    const old = made('', 'services', {
      spec: {
        type: 'NodePort',
        clusterIP: '10.0.0.1',
        clusterIPs: ['10.0.0.1'],
        ports: [{ name: 'a', port: 80, nodePort: 30_080 }],
      },
    })
    const now = made('', 'services', {
      spec: {
        type: 'NodePort',
        ports: [
          { name: 'b', port: 80 },
          { name: 'c', port: 81 },
        ],
      },
    })
    kind.prepareForUpdate(now, old, '')
    assert.deepEqual(kind.validateUpdate(now, old, ''), [])
    const spec = now['spec'] as { clusterIP: string; clusterIPs: string[]; ports: { nodePort?: number }[] }
    assert.deepEqual(
      [spec.clusterIP, spec.clusterIPs, spec.ports.map(({ nodePort }) => nodePort)],
      ['10.0.0.1', ['10.0.0.1'], [30_080, undefined]],
    )
    assert.ok(!('healthCheckNodePort' in spec))
  })
  test('from NodePort to ClusterIP by the type alone', () => {
    const kind = kindOf('', 'services')
    const old = made('', 'services', {
      spec: { type: 'NodePort', clusterIP: '10.0.0.1', ports: [{ port: 80, nodePort: 30_080 }] },
    })
    const now = structuredClone(old)
    ;(now['spec'] as Json)['type'] = 'ClusterIP'
    kind.prepareForUpdate(now, old, '')
    kind.setDefaults(now)
    assert.deepEqual(kind.validateUpdate(now, old, ''), [])
    assert.deepEqual((now['spec'] as { ports: unknown }).ports, [{ port: 80, protocol: 'TCP', targetPort: 80 }])
    assert.equal((now['spec'] as Json)['externalTrafficPolicy'], undefined)
    ;(now['spec'] as Json)['type'] = 'ExternalName'
    ;(now['spec'] as Json)['externalName'] = 'a.b'
    kind.prepareForUpdate(now, old, '')
    assert.deepEqual(kind.validateUpdate(now, old, ''), [])
    assert.equal((now['spec'] as Json)['clusterIP'], undefined)
  })
  test('the address stays', () =>
    assert.deepEqual(
      update(
        '',
        'services',
        { spec: { clusterIP: '10.0.0.1', ports: [{ port: 1 }] } },
        { spec: { clusterIP: '10.0.0.2', ports: [{ port: 1 }] } },
      ),
      ['spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set'],
    ))
})

describe('config maps and secrets', () => {
  test('keys, sizes', () => {
    assert.match(
      wrong('', 'configmaps', { data: { 'a/b': '' } })[0] ?? '',
      /^data\[a\/b\]: Invalid value: "a\/b": a valid config key must consist/,
    )
    assert.deepEqual(wrong('', 'configmaps', { data: { a: '' }, binaryData: { a: '' } }), [
      'binaryData[a]: Invalid value: "a": duplicate of key present in data',
    ])
    assert.deepEqual(wrong('', 'configmaps', { data: { a: 'x'.repeat(2 ** 20) } }), [])
    assert.deepEqual(wrong('', 'configmaps', { data: { a: 'x'.repeat(2 ** 20 + 1) } }), [
      'Too long: may not be more than 1048576 bytes',
    ])
    assert.deepEqual(wrong('', 'secrets', { stringData: { a: 'x'.repeat(2 ** 20) } }), [])
  })
  test('what is immutable stays', () =>
    assert.deepEqual(
      update('', 'configmaps', { immutable: true, data: { a: '1' } }, { immutable: true, data: { a: '2' } }),
      ['data: Forbidden: field is immutable when `immutable` is set'],
    ))
  test('secrets of known types', () => {
    assert.deepEqual(wrong('', 'secrets', { type: 'kubernetes.io/tls', stringData: { 'tls.crt': '' } }), [
      'data[tls.key]: Required value',
    ])
    assert.deepEqual(
      wrong('', 'secrets', { type: 'kubernetes.io/dockerconfigjson', stringData: { '.dockerconfigjson': '{' } }),
      ['data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": must be valid JSON'],
    )
    assert.deepEqual(
      wrong('', 'secrets', { type: 'kubernetes.io/dockerconfigjson', stringData: { '.dockerconfigjson': '{}' } }),
      [],
    )
    assert.deepEqual(wrong('', 'secrets', { type: 'kubernetes.io/service-account-token' }), [
      'metadata.annotations[kubernetes.io/service-account.name]: Required value',
    ])
  })
  test("a secret's type stays", () =>
    assert.deepEqual(update('', 'secrets', { type: 'a/b' }, { type: 'c/d' }), [
      'type: Invalid value: "c/d": field is immutable',
    ]))
})

describe('others', () => {
  test('nodes', () => {
    assert.deepEqual(
      wrong('', 'nodes', { metadata: { name: 'n' }, spec: { taints: [{ key: 'a', effect: 'Never' }] } }),
      [
        'spec.taints[0].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"',
      ],
    )
    assert.match(
      update('', 'nodes', { spec: { podCIDR: '10.1.0.0/24' } }, { spec: { podCIDR: '10.2.0.0/24' } })[0] ?? '',
      /^spec.podCIDR: Forbidden: node updates may not change podCIDR/,
    )
  })
  test('endpoint slices', () => {
    assert.deepEqual(wrong('discovery.k8s.io', 'endpointslices', { endpoints: [] }), ['addressType: Required value'])
    assert.deepEqual(wrong('discovery.k8s.io', 'endpointslices', { addressType: 'IPv4', endpoints: [{}] }), [
      'endpoints[0].addresses: Required value: must contain at least 1 address',
    ])
  })
  test('addresses of endpoints', () => {
    const subset = (ip: string) => wrong('', 'endpoints', { subsets: [{ addresses: [{ ip }], ports: [{ port: 80 }] }] })
    assert.deepEqual([subset('10.0.0.1'), subset('fd00::1')], [[], []])
    assert.deepEqual(subset('x'), [
      'subsets[0].addresses[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
    ])
    assert.deepEqual(subset('127.0.0.1'), [], 'pods of the process runtime')
    assert.deepEqual(subset('169.254.0.1'), [
      'subsets[0].addresses[0].ip: Invalid value: "169.254.0.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)',
    ])
    assert.deepEqual(wrong('', 'endpoints', { subsets: [{}] }), [
      'subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`',
    ])
    assert.deepEqual(
      wrong('discovery.k8s.io', 'endpointslices', { addressType: 'IPv4', endpoints: [{ addresses: ['fd00::1'] }] }),
      ['endpoints[0].addresses[0]: Invalid value: "fd00::1": must be a valid IPv4 address'],
    )
  })
  test('leases', () =>
    assert.deepEqual(wrong('coordination.k8s.io', 'leases', { spec: { leaseDurationSeconds: 0 } }), [
      'spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0',
    ]))
  test('events stand beside what they are about', () => {
    assert.deepEqual(wrong('', 'events', { involvedObject: { kind: 'Pod', name: 'p', namespace: 'other' } }), [
      'involvedObject.namespace: Invalid value: "other": does not match event.namespace',
    ])
    assert.deepEqual(wrong('', 'events', { involvedObject: { kind: 'Node', name: 'n' } }), [])
  })
})
