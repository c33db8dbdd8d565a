import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { decode } from './decode.js'
import type { Json, KubeObject } from './kube-object.js'
import { findKind, KINDS } from './registry.js'
import { resolve, type Schema } from './schema.js'
import { bodyOf } from './testing.js'

const kindOf = (group: string, resource: string) => {
  const kind = findKind(group, 'v1', resource)
  assert.ok(kind)
  return kind
}
const pod = (spec: Json, metadata: Json = { name: 'p' }) =>
  ({ apiVersion: 'v1', kind: 'Pod', metadata, spec }) as unknown as KubeObject
const errorsOf = (spec: Json) => kindOf('', 'pods').decode(pod(spec), 'Strict').errors

describe('unknown fields', () => {
  const make = () => pod({ imagez: 'x', containers: [{ name: 'a', comand: ['x'] }] })
  test('Strict: an error in the words of Kubernetes', () =>
    assert.deepEqual(kindOf('', 'pods').decode(make(), 'Strict'), {
      errors: ['strict decoding error: unknown field "spec.imagez", unknown field "spec.containers[0].comand"'],
      warnings: [],
    }))
  test('Warn: warnings; Ignore: nothing; the fields go in both', () => {
    const warned = make()
    assert.deepEqual(kindOf('', 'pods').decode(warned, 'Warn'), {
      errors: [],
      warnings: ['unknown field "spec.imagez"', 'unknown field "spec.containers[0].comand"'],
    })
    assert.deepEqual(warned['spec'], { containers: [{ name: 'a' }] })
    const ignored = make()
    assert.deepEqual(kindOf('', 'pods').decode(ignored, 'Ignore'), { errors: [], warnings: [] })
    assert.deepEqual(ignored['spec'], { containers: [{ name: 'a' }] })
  })
  test('names of Object.prototype are no fields', () => {
    const object = JSON.parse(
      '{"metadata":{"name":"p"},"spec":{"constructor":{},"__proto__":{"x":1},"toString":1}}',
    ) as KubeObject
    assert.match(
      kindOf('', 'pods').decode(object, 'Strict').errors[0] ?? '',
      /spec.constructor.*spec.__proto__.*spec.toString/,
    )
    assert.deepEqual(Object.keys(object['spec'] as Json), [])
  })
})

describe('wrong types', () => {
  const cases: [Json, string][] = [
    [
      { containers: 'x' },
      'json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container',
    ],
    [
      { containers: [3] },
      'json: cannot unmarshal number into Go struct field PodSpec.spec.containers[0] of type v1.Container',
    ],
    [
      { containers: [{ image: 3 }] },
      'json: cannot unmarshal number into Go struct field Container.spec.containers[0].image of type string',
    ],
    [
      { containers: [{ command: [true] }] },
      'json: cannot unmarshal bool into Go struct field Container.spec.containers[0].command[0] of type string',
    ],
    [
      { hostNetwork: 'yes' },
      'json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool',
    ],
    [
      { nodeSelector: ['x'] },
      'json: cannot unmarshal array into Go struct field PodSpec.spec.nodeSelector of type map[string]string',
    ],
    [
      { nodeSelector: { disk: 1 } },
      'json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector.disk of type string',
    ],
    [{ priority: 1.5 }, 'json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32'],
    [
      { priority: 2 ** 31 },
      'json: cannot unmarshal number 2147483648 into Go struct field PodSpec.spec.priority of type int32',
    ],
    [
      { activeDeadlineSeconds: '5' },
      'json: cannot unmarshal string into Go struct field PodSpec.spec.activeDeadlineSeconds of type int64',
    ],
  ]
  for (const [spec, error] of cases) test(JSON.stringify(spec), () => assert.deepEqual(errorsOf(spec), [error]))
  test('the edges of int32 are whole', () => assert.deepEqual(errorsOf({ priority: -(2 ** 31) }), []))
  test('int or string', () => {
    const service = (targetPort: unknown) =>
      kindOf('', 'services').decode({ metadata: { name: 's' }, spec: { ports: [{ port: 1, targetPort }] } }, 'Strict')
        .errors
    assert.deepEqual([service(80), service('http')], [[], []])
    assert.match(
      service(1.5)[0] ?? '',
      /number into Go struct field ServicePort.spec.ports\[0\].targetPort of type intstr.IntOrString/,
    )
    assert.match(service(true)[0] ?? '', /bool into/)
  })
  test('times are RFC 3339', () => {
    const at = (creationTimestamp: string) =>
      kindOf('', 'pods').decode(pod({}, { name: 'p', creationTimestamp }), 'Strict').errors
    assert.deepEqual([at('2026-01-02T03:04:05Z'), at('2026-01-02T03:04:05.123456+01:00')], [[], []])
    for (const wrong of ['today', '2026', '2026-01-02T03:04:05', '2026-13-02T03:04:05Z', ''])
      assert.match(at(wrong)[0] ?? '', /^parsing time ".*metadata.creationTimestamp\)$/)
  })
  test('secrets hold base64', () => {
    const errors = (data: Json) =>
      kindOf('', 'secrets').decode({ metadata: { name: 's' }, data } as unknown as KubeObject, 'Strict').errors
    assert.deepEqual(errors({ a: 'aGk=', b: '' }), [])
    assert.deepEqual(errors({ a: 'not base64!' }), ['illegal base64 data (field data.a)'])
  })
})

describe('what is stored', () => {
  test('null is "not set"; in lists and maps the empty value', () => {
    const object = pod(
      { nodeName: null, nodeSelector: { a: null }, containers: [null, { name: 'a', args: [null], ports: null }] },
      { name: 'p', ownerReferences: [null], finalizers: [null] },
    )
    assert.deepEqual(kindOf('', 'pods').decode(object, 'Strict').errors, [])
    assert.deepEqual(object['spec'], { nodeSelector: { a: '' }, containers: [{}, { name: 'a', args: [''] }] })
    assert.deepEqual(object.metadata, { name: 'p', ownerReferences: [{}], finalizers: [''] })
  })
  test('quantities get their canonical form, whether written as text or number', () => {
    const limits = { cpu: 0.5, memory: '1024Mi', 'ephemeral-storage': 2_000_000, pods: null }
    const object = pod({
      containers: [{ name: 'a', resources: { limits } }],
      volumes: [{ name: 'v', emptyDir: { sizeLimit: '1.5Gi' } }],
    })
    assert.deepEqual(kindOf('', 'pods').decode(object, 'Strict').errors, [])
    const spec = object['spec'] as { containers: { resources: unknown }[]; volumes: unknown[] }
    assert.deepEqual(spec.containers[0]?.resources, {
      limits: { cpu: '500m', memory: '1Gi', 'ephemeral-storage': '2M', pods: '0' },
    })
    assert.deepEqual(spec.volumes[0], { name: 'v', emptyDir: { sizeLimit: '1536Mi' } })
  })
  test('a quantity that is none', () => {
    assert.deepEqual(errorsOf({ containers: [{ resources: { limits: { cpu: 'much' } } }] }), [
      `quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$', got "much" (field spec.containers[0].resources.limits.cpu)`,
    ])
    assert.match(
      errorsOf({ containers: [{ resources: { limits: { cpu: true } } }] })[0] ?? '',
      /cannot unmarshal bool .* of type resource.Quantity/,
    )
  })
})

describe('all that Kubernetes has', () => {
  /** Every field, once. */
  function fullOf(given: Schema): unknown {
    const schema = resolve(given)
    assert.ok(schema)
    if (schema.properties)
      return Object.fromEntries(Object.entries(schema.properties).map(([name, field]) => [name, fullOf(field)]))
    if (schema.items) return [fullOf(schema.items)]
    if (schema.additionalProperties) return { a: fullOf(schema.additionalProperties) }
    if (schema.format === 'date-time') return '2026-01-01T00:00:00Z'
    if (schema.type === 'string') return schema.enum?.[0] ?? (schema.format === 'byte' ? 'aGk=' : '1')
    return schema.type === 'object' ? {} : schema.type === 'boolean' ? true : 1
  }
  for (const kind of KINDS)
    test(`${kind.kind}: each of its fields is taken and kept`, () => {
      const object = fullOf(kind.schema) as KubeObject
      const before = structuredClone(object)
      assert.deepEqual(kind.decode(object, 'Strict'), { errors: [], warnings: [] })
      assert.deepEqual(object, before)
    })
})

describe('whatever comes', () => {
  test('no kind of body makes decode throw, and decoding again finds nothing', () => {
    const body = fc.dictionary(
      fc.constantFrom('metadata', 'spec', 'status', 'data', 'subsets', 'endpoints', 'involvedObject', '__proto__'),
      fc.jsonValue({ maxDepth: 5 }),
      { noNullPrototype: true },
    )
    fc.assert(
      fc.property(fc.constantFrom(...KINDS.map((kind) => kind.kind)), body, (name, object) => {
        const kind = kindNamed(name)
        const first = decode(object as Json, kind.schema)
        const again = decode(object as Json, kind.schema)
        assert.deepEqual(again.unknown, [])
        if (first.errors.length === 0) assert.deepEqual(again.errors, [])
      }),
    )
  })

  const kindNamed = (name: string) => KINDS.find((kind) => kind.kind === name) as (typeof KINDS)[number]
  test('what was decoded can be defaulted, validated, updated, shown and selected without a throw; defaulting twice is once', () => {
    const names = KINDS.filter((kind) => !kind.isReview).map((kind) => kind.kind)
    const made = fc.constantFrom(...names).chain((name) => {
      const kind = kindNamed(name)
      return fc.tuple(fc.constant(name), bodyOf(kind), bodyOf(kind))
    })
    fc.assert(
      fc.property(made, ([name, body, other]) => {
        const kind = kindNamed(name)
        const objects = [body, other].map((o) => {
          o['metadata'] ??= {}
          return o as unknown as KubeObject
        })
        for (const object of objects) if (kind.decode(object, 'Ignore').errors.length > 0) return
        const [object, old] = objects as [KubeObject, KubeObject]
        for (const one of objects) {
          kind.setDefaults(one)
          const once = structuredClone(one)
          kind.setDefaults(one)
          assert.deepEqual(one, once)
        }
        kind.validate(object)
        kind.validateUpdate(object, old, '')
        kind.validateUpdate(object, old, 'status')
        const before = structuredClone(object)
        assert.equal(kind.cells(object, 1e12).length, kind.columns.length)
        kind.rowConditions?.(object)
        kind.toScale?.(object)
        for (const path of ['metadata.name', 'status.phase', 'type', 'nothing']) kind.field(object, path)
        assert.deepEqual(object, before, 'showing changes nothing')
        kind.prepareForUpdate(object, old, 'status')
        kind.prepareForUpdate(object, old, '')
        kind.prepareForCreate(object)
      }),
      { numRuns: 300 },
    )
  })
})
