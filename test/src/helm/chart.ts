/** A chart and what `helm install` would make of it. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse, parseAllDocuments } from 'yaml'
import { GoStruct, type GoValue, TemplateSet } from './go-template.js'
import { type JsonSchema, schemaFaults } from './json-schema.js'
import { fromPlain, templateFunctions } from './template-functions.js'

export type Plain = { [key: string]: unknown }

export interface Chart {
  metadata: Plain
  values: Plain
  schema: JsonSchema
  /** By the path that Helm gives them: `capstan/templates/services.yaml`. */
  templates: ReadonlyMap<string, string>
}

export interface Release {
  name?: string
  namespace?: string
  /** Default true; false: an upgrade. */
  isInstall?: boolean
  /** What `lookup` finds: `kind/namespace/name` → object. */
  existing?: Record<string, unknown>
}

export interface Rendered {
  /** Text of each template that came to something. */
  files: Record<string, string>
  objects: KubernetesObject[]
  notes: string
}

export interface KubernetesObject extends Plain {
  apiVersion: string
  kind: string
  metadata: { name: string; namespace?: string; labels?: Record<string, string>; annotations?: Record<string, string> }
}

export class ChartError extends Error {
  override readonly name = 'ChartError'
}

export function loadChart(directory: string): Chart {
  const read = (name: string) => readFileSync(join(directory, name), 'utf8')
  const metadata = parse(read('Chart.yaml'), YAML) as Plain
  const names = readdirSync(join(directory, 'templates')).sort()
  return {
    metadata,
    values: parse(read('values.yaml'), YAML) as Plain,
    schema: JSON.parse(read('values.schema.json')) as JsonSchema,
    templates: new Map(names.map((n) => [`${String(metadata['name'])}/templates/${n}`, read(`templates/${n}`)])),
  }
}

/** As Go's decoder reads: `on` is a boolean, a key stands once. */
const YAML = { version: '1.1', uniqueKeys: true } as const

/** The user's values over the chart's: maps are merged, null takes a value away, everything else replaces it. */
export function coalesce(own: Plain, users: Plain): Plain {
  const merged = { ...own }
  for (const [key, value] of Object.entries(users)) {
    const old = merged[key]
    if (value === null) delete merged[key]
    else merged[key] = isPlain(old) && isPlain(value) ? coalesce(old, value) : value
  }
  return merged
}

const isPlain = (value: unknown): value is Plain => typeof value === 'object' && value !== null && !Array.isArray(value)

/** What the templates of a release see. */
function releaseOf(release: Release): { [key: string]: GoValue } {
  const isInstall = release.isInstall ?? true
  return {
    Name: release.name ?? 'capstan',
    Namespace: release.namespace ?? 'default',
    Service: 'Helm',
    IsInstall: isInstall,
    IsUpgrade: !isInstall,
    Revision: isInstall ? 1n : 2n,
  }
}

/** The text of each template, by file; partials have none. @throws TemplateError with file and line. */
export function renderTemplates(
  templates: ReadonlyMap<string, string>,
  data: { values: Plain; metadata: Plain; release: Release },
): Record<string, string> {
  const world = { existing: fromPlain(data.release.existing ?? {}) as Record<string, GoValue> }
  const set: TemplateSet = new TemplateSet(templateFunctions(world, () => set))
  for (const [file, source] of templates) set.add(file, source)
  const field = (key: string) => fromPlain(data.metadata[key])
  const files: Record<string, string> = {}
  for (const file of templates.keys())
    if (!/\/_[^/]*$/.test(file))
      files[file] = set.execute(file, {
        Values: fromPlain(data.values),
        Chart: new GoStruct({ Name: field('name'), Version: field('version'), AppVersion: field('appVersion') }),
        Release: releaseOf(data.release),
      })
  return files
}

/**
 * Renders a chart with the user's values.
 * @throws ChartError if the values don't fit the schema; TemplateError with file and line for all that fails in a template.
 */
export function renderChart(chart: Chart, users: Plain = {}, release: Release = {}): Rendered {
  const values = coalesce(chart.values, users)
  const faults = schemaFaults(chart.schema, values)
  if (faults.length > 0)
    throw new ChartError(`the values don't fit the schema:\n${faults.map((f) => `- ${f}`).join('\n')}`)
  const files = renderTemplates(chart.templates, { values, metadata: chart.metadata, release })
  const notesFile = `${String(chart.metadata['name'])}/templates/NOTES.txt`
  const notes = files[notesFile] ?? ''
  delete files[notesFile]
  const objects: KubernetesObject[] = []
  for (const [file, text] of Object.entries(files))
    for (const document of parseAllDocuments(text, YAML)) {
      const [error] = document.errors
      if (error) throw new ChartError(`${file}: what was rendered is no YAML: ${error.message}`)
      const object = document.toJS() as KubernetesObject | null
      if (object !== null) objects.push(object)
    }
  return { files, objects, notes }
}
