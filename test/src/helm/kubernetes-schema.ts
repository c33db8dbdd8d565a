import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { KubernetesObject } from './chart.js'
import { type JsonSchema, schemaFaults } from './json-schema.js'

/** Every kind that a chart of ours makes: `apiVersion/kind` → its definition in Kubernetes' OpenAPI document. */
export const DEFINITION_OF_KIND: Readonly<Record<string, string>> = {
  'v1/ConfigMap': 'io.k8s.api.core.v1.ConfigMap',
  'v1/Secret': 'io.k8s.api.core.v1.Secret',
  'v1/Service': 'io.k8s.api.core.v1.Service',
  'v1/ServiceAccount': 'io.k8s.api.core.v1.ServiceAccount',
  'apps/v1/StatefulSet': 'io.k8s.api.apps.v1.StatefulSet',
  'policy/v1/PodDisruptionBudget': 'io.k8s.api.policy.v1.PodDisruptionBudget',
  'networking.k8s.io/v1/NetworkPolicy': 'io.k8s.api.networking.v1.NetworkPolicy',
}

/** Facts of Kubernetes 1.36, cut by `cut-kubernetes-schema.ts`. */
export function loadKubernetesSchema(): Record<string, JsonSchema> {
  const file = join(import.meta.dirname, '../../testdata/kubernetes-1.36-chart.json')
  return {
    ...(JSON.parse(readFileSync(file, 'utf8')) as Record<string, JsonSchema>),
    // The document says string; `cpu: 2` is what everybody writes, and what Kubernetes reads.
    'io.k8s.apimachinery.pkg.api.resource.Quantity': { format: 'int-or-string' },
  }
}

/** What a strict API server would refuse: unknown kinds and fields, wrong types, fields that are missing. */
export function kubernetesFaults(object: KubernetesObject, definitions: Record<string, JsonSchema>): string[] {
  const kind = `${object.apiVersion}/${object.kind}`
  const definition = DEFINITION_OF_KIND[kind]
  if (definition === undefined) return [`${kind} is no kind that this chart makes`]
  const schema = definitions[definition]
  if (!schema) throw new Error(`no definition of ${kind}`)
  return schemaFaults(schema, object, { definitions, closed: true }).map((fault) => `${object.kind} ${fault}`)
}
