import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Json } from './kube-object.js'
import { openApiDocument, openApiPath } from './openapi.js'
import { findByKind, findKind, KINDS } from './registry.js'

const groups = [...new Set(KINDS.map(openApiPath))].sort()
const documentOf = (path: string) => openApiDocument(KINDS.filter((kind) => openApiPath(kind) === path))

describe('the registry', () => {
  test('finds kinds by resource and by kind', () => {
    assert.equal(findKind('apps', 'v1', 'deployments')?.kind, 'Deployment')
    assert.equal(findByKind('apps/v1', 'Deployment')?.resource, 'deployments')
    assert.equal(findByKind('v1', 'Pod')?.resource, 'pods')
    for (const nothing of [
      findKind('', 'v1', 'deployments'),
      findKind('apps', 'v2', 'deployments'),
      findByKind('v1', 'Deployment'),
      findByKind('', ''),
      findByKind('apps/v1/x', 'Deployment'),
    ])
      assert.equal(nothing, undefined)
  })
  test('no name stands for two kinds of a group, no short name for two', () => {
    for (const names of [
      KINDS.map((k) => `${k.group}/${k.resource}`),
      KINDS.map((k) => `${k.group}/${k.kind}`),
      KINDS.flatMap((k) => [...k.shortNames]),
    ])
      assert.equal(new Set(names).size, names.length)
  })
  test('serves what it is built to serve', () =>
    assert.deepEqual(
      KINDS.filter((kind) => !kind.isReview).map(
        (kind) => `${kind.resource}${kind.shortNames.length > 0 ? ` (${kind.shortNames.join()})` : ''}`,
      ),
      [
        'namespaces (ns)',
        'nodes (no)',
        'pods (po)',
        'services (svc)',
        'endpoints (ep)',
        'configmaps (cm)',
        'secrets',
        'serviceaccounts (sa)',
        'events (ev)',
        'replicationcontrollers (rc)',
        'replicasets (rs)',
        'deployments (deploy)',
        'statefulsets (sts)',
        'controllerrevisions',
        'endpointslices',
        'leases',
        'poddisruptionbudgets (pdb)',
      ],
    ))
})

describe('OpenAPI v3', () => {
  test('a document for each group and version', () =>
    assert.deepEqual(groups, [
      'api/v1',
      'apis/apps/v1',
      'apis/authentication.k8s.io/v1',
      'apis/authorization.k8s.io/v1',
      'apis/coordination.k8s.io/v1',
      'apis/discovery.k8s.io/v1',
      'apis/policy/v1',
    ]))

  for (const path of groups)
    test(`${path}: no reference leads nowhere; every kind is told`, () => {
      const document = documentOf(path) as { components: { schemas: Record<string, Json> }; paths: Json }
      const text = JSON.stringify(document)
      const targets = [...text.matchAll(/"\$ref":"#\/components\/schemas\/([^"]+)"/g)].map(
        (match) => match[1] as string,
      )
      for (const target of targets) assert.ok(document.components.schemas[target], target)
      assert.ok(!text.includes('#/definitions/'))
      assert.ok(!text.includes('int-or-string"}') || text.includes('oneOf'))
      for (const kind of KINDS.filter((one) => openApiPath(one) === path))
        assert.deepEqual(document.components.schemas[kind.definition]?.['x-kubernetes-group-version-kind'], [
          { group: kind.group, version: kind.version, kind: kind.kind },
        ])
    })

  test('kubectl explain finds prose and fields', () => {
    const { components } = documentOf('apis/apps/v1') as {
      components: { schemas: Record<string, { description?: string; properties: Record<string, Json> }> }
    }
    const spec = components.schemas['io.k8s.api.apps.v1.DeploymentSpec']
    assert.match(
      components.schemas['io.k8s.api.apps.v1.Deployment']?.description ?? '',
      /^Deployment enables declarative updates/,
    )
    assert.match(String(spec?.properties['strategy']?.['description']), /deployment strategy/)
    assert.deepEqual(spec?.properties['strategy']?.['allOf'], [
      { $ref: '#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy' },
    ])
    assert.equal(spec?.properties['template']?.['$ref'], undefined, 'beside other fields a $ref would hide them')
    assert.equal(spec?.properties['strategy']?.['x-kubernetes-patch-strategy'], 'retainKeys')
  })

  test('kubectl apply finds that the server checks fields and does dry runs', () => {
    const { paths } = documentOf('apis/apps/v1') as { paths: Record<string, Record<string, Json>> }
    const patch = paths['/apis/apps/v1/namespaces/{namespace}/deployments/{name}']?.['patch']
    assert.equal(patch?.['x-kubernetes-action'], 'patch')
    assert.deepEqual(patch['x-kubernetes-group-version-kind'], { group: 'apps', version: 'v1', kind: 'Deployment' })
    const names = (patch['parameters'] as { name: string }[]).map(({ name }) => name)
    assert.deepEqual(names, ['dryRun', 'fieldManager', 'fieldValidation', 'force'])
    assert.ok(documentOf('api/v1'))
  })

  test('made twice it is the same', () => assert.deepEqual(documentOf('api/v1'), documentOf('api/v1')))
})
