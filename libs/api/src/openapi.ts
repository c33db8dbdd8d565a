import { DESCRIPTIONS_JSON } from './generated/descriptions.js'
import type { Kind } from './kind.js'
import { type Json } from './kube-object.js'
import { DEFINITIONS, type Schema } from './schema.js'

/** Where the documents of OpenAPI v3 are: `api/v1`, `apis/apps/v1`. */
export const openApiPath = (kind: Pick<Kind, 'group' | 'version'>): string =>
  kind.group === '' ? `api/${kind.version}` : `apis/${kind.group}/${kind.version}`

/**
 * The OpenAPI v3 document of one group and version: schemas with group, version and kind, and the paths of its resources
 * with their actions. Enough for kubectl's validation and `explain`.
 */
export function openApiDocument(kinds: readonly Kind[]): Json {
  const schemas: Json = {}
  // Parsed anew each time: documents are asked for rarely, and the prose is large.
  const descriptions = JSON.parse(DESCRIPTIONS_JSON) as Record<string, Record<string, string> | undefined>
  const visit = (name: string) => {
    if (schemas[name]) return
    const definition = DEFINITIONS[name]
    if (!definition) return
    const out = convert(definition, visit)
    schemas[name] = out
    const prose = descriptions[name]
    if (!prose) return
    if (prose['']) out['description'] = prose['']
    for (const [field, schema] of Object.entries((out['properties'] ?? {}) as Record<string, Json>))
      if (prose[field]) schema['description'] = prose[field]
  }
  const paths: Json = {}
  for (const kind of kinds) {
    visit(kind.definition)
    const gvk = { group: kind.group, version: kind.version, kind: kind.kind }
    ;(schemas[kind.definition] as Json)['x-kubernetes-group-version-kind'] = [gvk]
    Object.assign(paths, pathsOf(kind, gvk))
  }
  const [first] = kinds
  return {
    openapi: '3.0.0',
    info: { title: 'Capstan', version: first ? `${first.group}/${first.version}` : '' },
    paths,
    components: { schemas },
  }
}

function convert(schema: Schema, visit: (name: string) => void): Json {
  const out: Json = {}
  for (const [field, value] of Object.entries(schema)) {
    if (field === '$ref') continue
    if (field === 'properties')
      out['properties'] = Object.fromEntries(
        Object.entries(value as Record<string, Schema>).map(([name, inner]) => [name, convert(inner, visit)]),
      )
    else if (field === 'items' || field === 'additionalProperties') out[field] = convert(value as Schema, visit)
    else out[field] = value
  }
  if (schema.format === 'int-or-string') {
    delete out['type']
    out['oneOf'] = [{ type: 'integer' }, { type: 'string' }]
  }
  if (schema.$ref) {
    const name = schema.$ref.slice('#/definitions/'.length)
    visit(name)
    // With anything beside it a reference must stand in allOf.
    out['allOf'] = [{ $ref: `#/components/schemas/${name}` }]
  }
  return out
}

function pathsOf(kind: Kind, gvk: object): Json {
  const base = kind.group === '' ? `/api/${kind.version}` : `/apis/${kind.group}/${kind.version}`
  const collection = kind.namespaced ? `${base}/namespaces/{namespace}/${kind.resource}` : `${base}/${kind.resource}`
  const schema = { $ref: `#/components/schemas/${kind.definition}` }
  const operation = (action: string, extra: Json = {}) => ({
    'x-kubernetes-action': action,
    'x-kubernetes-group-version-kind': gvk,
    responses: { 200: { description: 'OK', content: { 'application/json': { schema } } } },
    ...extra,
  })
  const query = (name: string, type: string) => ({ name, in: 'query', schema: { type } })
  const write = [query('dryRun', 'string'), query('fieldManager', 'string'), query('fieldValidation', 'string')]
  const body = { requestBody: { content: { '*/*': { schema } } }, parameters: write }
  const has = (verb: string) => kind.verbs.includes(verb)
  return {
    [collection]: {
      ...(has('list') ? { get: operation('list') } : {}),
      ...(has('create') ? { post: operation('post', body) } : {}),
      ...(has('deletecollection') ? { delete: operation('deletecollection') } : {}),
    },
    ...(has('get')
      ? {
          [`${collection}/{name}`]: {
            get: operation('get'),
            ...(has('update') ? { put: operation('put', body) } : {}),
            ...(has('patch')
              ? { patch: operation('patch', { ...body, parameters: [...write, query('force', 'boolean')] }) }
              : {}),
            ...(has('delete') ? { delete: operation('delete') } : {}),
          },
        }
      : {}),
  }
}
