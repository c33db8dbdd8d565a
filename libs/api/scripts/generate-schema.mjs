// Makes src/generated/schema.ts: the facts (fields, types, enums, list and merge keys) of the kinds that are served, cut out of
// a schema file of all of Kubernetes. Run with the path of that file; the result is kept in the repository.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const [source] = process.argv.slice(2)
if (!source) {
  console.error('usage: generate-schema.mjs KUBERNETES-SCHEMA.json')
  process.exit(1)
}
const all = JSON.parse(readFileSync(source, 'utf8'))
const ROOTS = [
  ...[
    'Namespace',
    'Node',
    'Pod',
    'Service',
    'Endpoints',
    'ConfigMap',
    'Secret',
    'ServiceAccount',
    'Event',
    'ReplicationController',
    'Binding',
  ].map((k) => `io.k8s.api.core.v1.${k}`),
  ...['Deployment', 'ReplicaSet', 'StatefulSet', 'ControllerRevision'].map((k) => `io.k8s.api.apps.v1.${k}`),
  'io.k8s.api.discovery.v1.EndpointSlice',
  'io.k8s.api.coordination.v1.Lease',
  'io.k8s.api.autoscaling.v1.Scale',
  ...['Eviction', 'PodDisruptionBudget'].map((k) => `io.k8s.api.policy.v1.${k}`),
  ...['TokenReview', 'SelfSubjectReview'].map((k) => `io.k8s.api.authentication.v1.${k}`),
  ...['SubjectAccessReview', 'SelfSubjectAccessReview', 'LocalSubjectAccessReview', 'SelfSubjectRulesReview'].map(
    (k) => `io.k8s.api.authorization.v1.${k}`,
  ),
  ...['Status', 'DeleteOptions', 'ListMeta', 'WatchEvent'].map((k) => `io.k8s.apimachinery.pkg.apis.meta.v1.${k}`),
]
const kept = {}
const visit = (name) => {
  if (kept[name]) return
  const definition = all[name]
  if (!definition) throw new Error(`the schema has no ${name}`)
  kept[name] = definition
  for (const match of JSON.stringify(definition).matchAll(/"#\/definitions\/([^"]+)"/g)) visit(match[1])
}
for (const root of ROOTS) visit(root)
const text = JSON.stringify(Object.fromEntries(Object.entries(kept).sort(([a], [b]) => (a < b ? -1 : 1))))
const out = join(import.meta.dirname, '../src/generated/schema.ts')
writeFileSync(
  out,
  `// Made by scripts/generate-schema.mjs: facts of Kubernetes 1.36. Do not edit.\n// biome-ignore-all format: a machine wrote it\nexport const SCHEMA_JSON = ${JSON.stringify(text)}\n`,
)
console.log(`${Object.keys(kept).length} definitions, ${text.length} bytes`)
