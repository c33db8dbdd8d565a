/**
 * `node test/dist/helm/cut-kubernetes-schema.js SCHEMA.json`: cuts the kinds that the chart makes out of a schema file of all
 * of Kubernetes (facts: fields, types, enums). The result, `test/testdata/kubernetes-1.36-chart.json`, is kept.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DEFINITION_OF_KIND } from './kubernetes-schema.js'

const [source] = process.argv.slice(2)
if (!source) throw new Error('usage: cut-kubernetes-schema.js SCHEMA.json')
const all = JSON.parse(readFileSync(source, 'utf8')) as Record<string, object>
const kept: Record<string, object> = {}
const visit = (name: string): void => {
  if (kept[name]) return
  const definition = all[name]
  if (!definition) throw new Error(`the schema has no ${name}`)
  kept[name] = definition
  for (const match of JSON.stringify(definition).matchAll(/"#\/definitions\/([^"]+)"/g)) visit(match[1] as string)
}
for (const name of Object.values(DEFINITION_OF_KIND)) visit(name)
const lines = Object.keys(kept)
  .sort()
  .map((name) => `${JSON.stringify(name)}:${JSON.stringify(kept[name])}`)
writeFileSync(join(import.meta.dirname, '../../testdata/kubernetes-1.36-chart.json'), `{\n${lines.join(',\n')}\n}\n`)
