import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { Json } from './kube-object.js'
import { jsonPatch, mergePatch, PatchError, strategicMergePatch } from './patch.js'
import { findKind } from './registry.js'

const malformed = (text: RegExp) => (error: unknown) =>
  error instanceof PatchError && error.kind === 'malformed' && text.test(error.message)
const invalid = (text: RegExp) => (error: unknown) =>
  error instanceof PatchError && error.kind === 'invalid' && text.test(error.message)

describe('JSON patch (RFC 6902)', () => {
  const object = { metadata: { labels: { a: '1', 'x/y': '2' } }, list: [1, 2, 3] }
  const cases: [string, Json[], unknown][] = [
    [
      'add to a map',
      [{ op: 'add', path: '/metadata/labels/b', value: 'n' }],
      { metadata: { labels: { a: '1', 'x/y': '2', b: 'n' } }, list: [1, 2, 3] },
    ],
    [
      '~1 is a slash',
      [{ op: 'remove', path: '/metadata/labels/x~1y' }],
      { metadata: { labels: { a: '1' } }, list: [1, 2, 3] },
    ],
    ['add into a list', [{ op: 'add', path: '/list/1', value: 9 }], { ...object, list: [1, 9, 2, 3] }],
    ['- is the end of a list', [{ op: 'add', path: '/list/-', value: 9 }], { ...object, list: [1, 2, 3, 9] }],
    ['replace', [{ op: 'replace', path: '/list', value: [] }], { ...object, list: [] }],
    ['replace of what is not there', [{ op: 'replace', path: '/new~1one', value: 1 }], { ...object, 'new/one': 1 }],
    ['move', [{ op: 'move', from: '/list/0', path: '/list/2' }], { ...object, list: [2, 3, 1] }],
    ['copy', [{ op: 'copy', from: '/list/0', path: '/list/-' }], { ...object, list: [1, 2, 3, 1] }],
    ['a test that holds', [{ op: 'test', path: '/list/0', value: 1 }], object],
  ]
  for (const [name, patch, expected] of cases)
    test(name, () => {
      const before = structuredClone(object)
      assert.deepEqual(jsonPatch(object, patch), expected)
      assert.deepEqual(object, before, 'the object given is not changed')
    })

  test('what does not fit the object is invalid, and says which operation', () => {
    assert.throws(
      () => jsonPatch(object, [{ op: 'test', path: '/list/0', value: 2 }]),
      invalid(/^operation 0 \(test \/list\/0\): Test operation failed$/),
    )
    assert.throws(
      () => jsonPatch(object, [{ op: 'remove', path: '/nothing' }]),
      invalid(/^operation 0 \(remove \/nothing\)/),
    )
    assert.throws(() => jsonPatch(object, [{ op: 'add', path: '/list/7', value: 0 }]), invalid(/operation 0/))
    assert.throws(() => jsonPatch(object, [{ op: 'add', path: '/a/b/c', value: 0 }]), invalid(/operation 0/))
    assert.throws(
      () => jsonPatch(object, [{ op: 'replace', path: '', value: 3 }]),
      invalid(/something else than an object/),
    )
    assert.throws(() => jsonPatch(object, [{ op: 'remove', path: '' }]), invalid(/something else than an object/))
    assert.throws(
      () => jsonPatch(object, [{ op: 'copy', from: '/nothing/at/all', path: '/b' }]),
      invalid(/operation 0/),
    )
    assert.throws(() => jsonPatch(object, [{ op: 'add', path: '/__proto__/x', value: 1 }]), invalid(/__proto__|proto/))
  })

  test('what is no patch is malformed', () => {
    for (const patch of [{}, 'x', 3, null, [3], [{ op: 'jump', path: '/a' }], [{ op: 'add' }]])
      assert.throws(() => jsonPatch(object, patch), malformed(/error decoding patch/))
    assert.throws(
      () =>
        jsonPatch(
          object,
          Array.from({ length: 10_001 }, () => ({ op: 'test', path: '' })),
        ),
      malformed(/maximum operations in a JSON patch is 10000, got 10001/),
    )
  })

  test('copies cannot double a document without end', () => {
    const bomb = [
      { op: 'add', path: '/a', value: { text: 'x'.repeat(1000) } },
      ...Array.from({ length: 60 }, (_, i) => ({ op: 'copy', from: '/a', path: `/a/${i}` })),
    ]
    assert.throws(() => jsonPatch({}, bomb), invalid(/copies of more than/))
  })

  test('any operations give an object or a PatchError', () => {
    const op = fc.record(
      {
        op: fc.constantFrom('add', 'remove', 'replace', 'move', 'copy', 'test'),
        path: fc.constantFrom('', '/', '/a', '/a/0', '/a/-', '/b/c', 'x', '/~2', '/__proto__'),
        from: fc.constantFrom('', '/a', '/b', 'x'),
        value: fc.jsonValue(),
      },
      { requiredKeys: ['op', 'path'] },
    )
    fc.assert(
      fc.property(fc.array(op, { maxLength: 6 }), (patch) => {
        try {
          assert.equal(typeof jsonPatch({ a: [1, { x: 1 }], b: { c: 2 } }, patch), 'object')
        } catch (error) {
          assert.ok(error instanceof PatchError, String(error))
        }
      }),
    )
  })
})

describe('JSON merge patch', () => {
  // RFC 7386, appendix A, those that give objects.
  const table: [Json, Json, Json][] = [
    [{ a: 'b' }, { a: 'c' }, { a: 'c' }],
    [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }],
    [{ a: 'b' }, { a: null }, {}],
    [{ a: 'b', b: 'c' }, { a: null }, { b: 'c' }],
    [{ a: ['b'] }, { a: 'c' }, { a: 'c' }],
    [{ a: 'c' }, { a: ['b'] }, { a: ['b'] }],
    [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
    [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ]
  for (const [object, patch, expected] of table)
    test(`${JSON.stringify(object)} + ${JSON.stringify(patch)}`, () =>
      assert.deepEqual(mergePatch(object, patch), expected))

  test('is an object, and no way to a prototype', () => {
    for (const patch of [[], 'x', 1, null])
      assert.throws(() => mergePatch({}, patch), malformed(/a merge patch is an object/))
    const merged = mergePatch({}, JSON.parse('{"__proto__":{"admin":true}}'))
    assert.equal((merged as { admin?: boolean }).admin, undefined)
    assert.equal(({} as { admin?: boolean }).admin, undefined)
  })

  test('applied twice is applied once', () => {
    const object = fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.jsonValue(), { noNullPrototype: true })
    fc.assert(
      fc.property(object, object, (target, patch) => {
        const once = mergePatch(target as Json, patch)
        assert.deepEqual(mergePatch(once, patch), once)
      }),
    )
  })
})

test('patches that nest without end', () => {
  const deep = (levels: number) => JSON.parse(`${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`) as Json
  const [bearable, endless] = [deep(400), deep(100_000)]
  assert.deepEqual(mergePatch({}, bearable), bearable)
  assert.throws(() => mergePatch({}, endless), malformed(/exceeded max depth/))
  assert.throws(() => strategicMergePatch({}, endless, {}), malformed(/exceeded max depth/))
  assert.throws(() => jsonPatch({}, [{ op: 'add', path: '/a', value: endless }]), malformed(/exceeded max depth/))
  const inSteps = [0, 1].map((i) => ({ op: 'add', path: `/a${'/a'.repeat(400 * i)}`, value: bearable }))
  assert.throws(() => jsonPatch({}, inSteps), invalid(/exceeds the max depth/))
})

describe('strategic merge patch', () => {
  const schema = (group: string, resource: string) => {
    const kind = findKind(group, 'v1', resource)
    assert.ok(kind)
    return kind.schema
  }
  const pod = (patch: unknown, spec: Json, metadata: Json = {}) =>
    strategicMergePatch({ metadata, spec }, patch, schema('', 'pods'))
  const specOf = (patch: Json, spec: Json) => pod({ spec: patch }, spec)['spec']

  test('containers merge by name', () => {
    const spec = {
      containers: [
        { name: 'a', image: 'a:1', env: [{ name: 'X', value: '1' }] },
        { name: 'b', image: 'b:1' },
      ],
    }
    assert.deepEqual(specOf({ containers: [{ name: 'a', image: 'a:2' }] }, spec), {
      containers: [
        { name: 'a', image: 'a:2', env: [{ name: 'X', value: '1' }] },
        { name: 'b', image: 'b:1' },
      ],
    })
    assert.deepEqual(specOf({ containers: [{ name: 'c', image: 'c:1' }] }, spec), {
      containers: [...spec.containers, { name: 'c', image: 'c:1' }],
    })
    assert.deepEqual(specOf({ containers: [{ name: 'a', env: [{ name: 'Y', value: '2' }] }] }, spec), {
      containers: [
        {
          name: 'a',
          image: 'a:1',
          env: [
            { name: 'X', value: '1' },
            { name: 'Y', value: '2' },
          ],
        },
        { name: 'b', image: 'b:1' },
      ],
    })
  })

  test('a list without a merge strategy is replaced', () => {
    const spec = { tolerations: [{ key: 'a' }], containers: [{ name: 'a', command: ['x', 'y'] }] }
    assert.deepEqual(specOf({ tolerations: [{ key: 'b' }], containers: [{ name: 'a', command: ['z'] }] }, spec), {
      tolerations: [{ key: 'b' }],
      containers: [{ name: 'a', command: ['z'] }],
    })
  })

  test('$patch: delete and $patch: replace in a list', () => {
    const spec = {
      containers: [
        { name: 'a', image: 'a' },
        { name: 'b', image: 'b' },
      ],
    }
    assert.deepEqual(specOf({ containers: [{ name: 'a', $patch: 'delete' }] }, spec), {
      containers: [{ name: 'b', image: 'b' }],
    })
    assert.deepEqual(specOf({ containers: [{ name: 'z', $patch: 'delete' }] }, spec), spec)
    assert.deepEqual(specOf({ containers: [{ $patch: 'replace' }, { name: 'c', image: 'c' }] }, spec), {
      containers: [{ name: 'c', image: 'c' }],
    })
    const ports = {
      containers: [
        {
          name: 'a',
          ports: [
            { containerPort: 53, protocol: 'TCP' },
            { containerPort: 53, protocol: 'UDP' },
          ],
        },
      ],
    }
    assert.deepEqual(specOf({ containers: [{ name: 'a', ports: [{ containerPort: 53, $patch: 'delete' }] }] }, ports), {
      containers: [{ name: 'a', ports: [] }],
    })
  })

  test('$patch: replace, delete and merge on a map', () => {
    const spec = { nodeSelector: { a: '1', b: '2' } }
    assert.deepEqual(specOf({ nodeSelector: { $patch: 'replace', c: '3' } }, spec), { nodeSelector: { c: '3' } })
    assert.deepEqual(specOf({ nodeSelector: { $patch: 'delete' } }, spec), { nodeSelector: {} })
    assert.deepEqual(specOf({ nodeSelector: { $patch: 'merge', c: '3' } }, spec), {
      nodeSelector: { a: '1', b: '2', c: '3' },
    })
    assert.throws(
      () => specOf({ nodeSelector: { $patch: 'explode' } }, spec),
      malformed(/unrecognized \$patch type "explode" at spec.nodeSelector/),
    )
  })

  test('null takes a field away, deep in what is new too', () => {
    assert.deepEqual(specOf({ nodeName: null }, { nodeName: 'x', hostname: 'h' }), { hostname: 'h' })
    assert.deepEqual(specOf({ securityContext: { runAsUser: null, fsGroup: 1 } }, {}), {
      securityContext: { fsGroup: 1 },
    })
  })

  test('finalizers are a set; $deleteFromPrimitiveList takes from it', () => {
    const meta = { finalizers: ['a/x', 'a/y'] }
    assert.deepEqual(pod({ metadata: { finalizers: ['a/y', 'a/z'] } }, {}, meta)['metadata'], {
      finalizers: ['a/x', 'a/y', 'a/z'],
    })
    assert.deepEqual(pod({ metadata: { '$deleteFromPrimitiveList/finalizers': ['a/x'] } }, {}, meta)['metadata'], {
      finalizers: ['a/y'],
    })
    assert.throws(
      () => pod({ metadata: { '$deleteFromPrimitiveList/finalizers': 'a/x' } }, {}, meta),
      malformed(/must be a list/),
    )
  })

  test('$retainKeys: what kubectl apply sends when a Deployment goes from RollingUpdate to Recreate', () => {
    const before = { metadata: {}, spec: { strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1 } } } }
    const patch = { spec: { strategy: { $retainKeys: ['type'], type: 'Recreate' } } }
    assert.deepEqual(strategicMergePatch(before, patch, schema('apps', 'deployments'))['spec'], {
      strategy: { type: 'Recreate' },
    })
    const broken = { spec: { strategy: { $retainKeys: ['rollingUpdate'], type: 'Recreate' } } }
    assert.throws(
      () => strategicMergePatch(before, broken, schema('apps', 'deployments')),
      malformed(/\$retainKeys at spec.strategy does not have type/),
    )
  })

  test('volumes change their kind by $retainKeys', () => {
    const spec = { volumes: [{ name: 'v', emptyDir: {} }] }
    assert.deepEqual(
      specOf({ volumes: [{ name: 'v', $retainKeys: ['name', 'hostPath'], hostPath: { path: '/x' } }] }, spec),
      { volumes: [{ name: 'v', hostPath: { path: '/x' } }] },
    )
  })

  describe('$setElementOrder', () => {
    const named = (...names: string[]) => names.map((name) => ({ name }))
    const order = (live: string[], wanted: string[], patch: Json[] = []) => {
      const after = specOf(
        { '$setElementOrder/containers': named(...wanted), containers: patch },
        { containers: named(...live) },
      ) as { containers: { name: string }[] }
      return after.containers.map(({ name }) => name).join('')
    }
    test('listed items take the order of the list', () => assert.equal(order(['a', 'b', 'c'], ['c', 'a', 'b']), 'cab'))
    test('a new item goes where the list has it', () =>
      assert.equal(order(['a', 'b'], ['n', 'a', 'b'], [{ name: 'n' }]), 'nab'))
    test("others' items keep their place before what they stood before", () => {
      assert.equal(order(['x', 'a', 'b'], ['a', 'b']), 'xab')
      assert.equal(order(['a', 'x', 'b'], ['a', 'b']), 'axb')
      assert.equal(order(['a', 'b', 'x'], ['b', 'a']), 'bax')
    })
    test('a deleted one is gone', () =>
      assert.equal(order(['a', 'b', 'c'], ['c', 'a'], [{ name: 'b', $patch: 'delete' }]), 'ca'))
    test('primitive lists too', () =>
      assert.deepEqual(
        pod(
          { metadata: { finalizers: ['n/n'], '$setElementOrder/finalizers': ['n/n', 'a/a'] } },
          {},
          { finalizers: ['a/a'] },
        )['metadata'],
        { finalizers: ['n/n', 'a/a'] },
      ))
  })

  test('an item without its key is malformed', () => {
    assert.throws(
      () => specOf({ containers: [{ image: 'x' }] }, { containers: [] }),
      malformed(/does not contain declared merge key: name \(at spec.containers\)/),
    )
    assert.throws(
      () => specOf({ containers: ['x'] }, { containers: [] }),
      malformed(/items of spec.containers must be objects/),
    )
    assert.throws(() => pod([], {}), malformed(/strategic merge patch is an object/))
  })

  test('no directive is left in the result', () => {
    const fresh = {
      template: {
        spec: {
          '$setElementOrder/containers': [{ name: 'a' }],
          containers: [{ name: 'a', '$setElementOrder/ports': [{ containerPort: 1 }], ports: [{ containerPort: 1 }] }],
        },
      },
    }
    const made = strategicMergePatch({ metadata: {} }, { spec: fresh }, schema('apps', 'deployments'))
    assert.deepEqual(made['spec'], {
      template: { spec: { containers: [{ name: 'a', ports: [{ containerPort: 1 }] }] } },
    })
  })

  test('any patch gives an object or a PatchError, and leaves the object alone', () => {
    const value = fc.letrec((tie) => ({
      any: fc.oneof(
        { maxDepth: 4 },
        fc.constantFrom<unknown>(null, 'x', 1),
        fc.array(tie('any'), { maxLength: 3 }),
        tie('map'),
      ),
      map: fc.dictionary(
        fc.constantFrom(
          'containers',
          'name',
          'ports',
          'finalizers',
          'metadata',
          'spec',
          '$patch',
          '$retainKeys',
          '$setElementOrder/containers',
          '$deleteFromPrimitiveList/finalizers',
          '__proto__',
        ),
        tie('any'),
        { maxKeys: 4, noNullPrototype: true },
      ),
    })).map
    const object = {
      metadata: { finalizers: ['a'] },
      spec: { containers: [{ name: 'x', ports: [{ containerPort: 1 }] }] },
    }
    const before = structuredClone(object)
    fc.assert(
      fc.property(value, (patch) => {
        try {
          strategicMergePatch(object, patch, schema('', 'pods'))
        } catch (error) {
          assert.ok(error instanceof PatchError, String(error))
        }
        assert.deepEqual(object, before)
      }),
    )
  })
})
