import { invalid, type StatusCause } from '../causes.js'
import { decode } from '../decode.js'
import type { Column, Kind } from '../kind.js'
import { asList, asNumber, asObject, asText, isObject, type Json, type KubeObject, sameJson } from '../kube-object.js'
import { dns1123Subdomain, labelValue, qualifiedName } from '../names.js'
import { required } from '../causes.js'
import { DEFINITIONS } from '../schema.js'
import { formatAge } from '../time.js'

export const VERBS = ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch'] as const
const ANNOTATIONS_BYTES_MAX = 256 * 1024

/** What a kind's file says; all else follows from it. */
export interface KindFacts {
  group?: string
  version?: string
  kind: string
  resource: string
  singular?: string
  shortNames?: string[]
  categories?: string[]
  namespaced?: boolean
  verbs?: readonly string[]
  subresources?: string[]
  isReview?: boolean
  hasGeneration?: boolean
  definition: string
  /** Name comes before them, unless they have it. Age stands where `ageColumn` does. */
  columns?: ColumnFact[]
  rowConditions?: (object: KubeObject) => object | undefined
  setDefaults?: (object: KubeObject) => void
  prepareForCreate?: (object: KubeObject) => void
  prepareForUpdate?: (object: KubeObject, old: KubeObject, subresource: string) => void
  validate?: (object: KubeObject) => StatusCause[]
  /** Besides `validate` of the new object and the metadata that never changes. */
  validateUpdate?: (object: KubeObject, old: KubeObject, subresource: string) => StatusCause[]
  /** Rule for metadata.name. Default: RFC 1123 subdomain. */
  nameRule?: (name: string) => string | undefined
  /** Selectable fields besides metadata.name and metadata.namespace. */
  fields?: Record<string, (object: KubeObject) => string>
}

export interface ColumnFact {
  name: string
  type?: Column['type']
  wide?: boolean
  description?: string
  cell: (object: KubeObject, nowMs: number) => unknown
}

export const ageColumn: ColumnFact = {
  name: 'Age',
  description: 'Time since the object was created.',
  cell: (object, nowMs) => formatAge(object.metadata.creationTimestamp, nowMs),
}

export const nameColumn: ColumnFact = {
  name: 'Name',
  description: 'Name of the object, unique in its namespace.',
  cell: (object) => object.metadata.name,
}

export const specOf = (object: KubeObject): Json => asObject(object['spec'])
export const statusOf = (object: KubeObject): Json => asObject(object['status'])

/** Sets a field that is not set; undefined sets nothing. */
export function fill(object: Json, field: string, value: unknown): void {
  if (value !== undefined && (object[field] === undefined || object[field] === null)) object[field] = value
}

export function defineKind(facts: KindFacts): Kind {
  const schema = DEFINITIONS[facts.definition]
  if (!schema) throw new Error(`no definition ${facts.definition}`)
  const columns = facts.columns ?? [ageColumn]
  const columnFacts = columns.some((column) => column.name === 'Name') ? columns : [nameColumn, ...columns]
  const subresources = facts.subresources ?? []
  const hasStatus = subresources.includes('status')
  const nameRule = facts.nameRule ?? dns1123Subdomain
  const validate = (object: KubeObject) => [
    ...validateMeta(object, facts.namespaced ?? true, nameRule),
    ...(facts.validate?.(object) ?? []),
  ]
  return {
    group: facts.group ?? '',
    version: facts.version ?? 'v1',
    kind: facts.kind,
    resource: facts.resource,
    singular: facts.singular ?? facts.kind.toLowerCase(),
    shortNames: facts.shortNames ?? [],
    categories: facts.categories ?? [],
    namespaced: facts.namespaced ?? true,
    verbs: facts.verbs ?? VERBS,
    subresources,
    isReview: facts.isReview ?? false,
    hasGeneration: facts.hasGeneration ?? false,
    definition: facts.definition,
    schema,
    columns: columnFacts.map((column) => ({
      name: column.name,
      type: column.type ?? 'string',
      format: column.name === 'Name' ? 'name' : '',
      description: column.description ?? column.name,
      priority: column.wide ? 1 : 0,
    })),
    cells: (object, nowMs) => columnFacts.map((column) => column.cell(object, nowMs)),
    ...(facts.rowConditions ? { rowConditions: facts.rowConditions } : {}),
    decode(object, validation) {
      const { unknown, errors } = decode(object, schema, facts.definition)
      const texts = unknown.map((path) => `unknown field ${JSON.stringify(path)}`)
      if (errors.length > 0) return { errors, warnings: [] }
      if (texts.length === 0 || validation === 'Ignore') return { errors: [], warnings: [] }
      return validation === 'Strict'
        ? { errors: [`strict decoding error: ${texts.join(', ')}`], warnings: [] }
        : { errors: [], warnings: texts }
    },
    setDefaults: (object) => facts.setDefaults?.(object),
    prepareForCreate(object) {
      if (hasStatus) delete object['status']
      facts.prepareForCreate?.(object)
    },
    prepareForUpdate(object, old, subresource) {
      if (subresource === 'status') keepAllBut(object, old, ['status', 'metadata'])
      else if (hasStatus) restore(object, old, 'status')
      facts.prepareForUpdate?.(object, old, subresource)
    },
    specChanged: (object, old) => !sameJson(object['spec'], old['spec']),
    validate,
    validateUpdate: (object, old, subresource) => [
      ...validate(object),
      ...validateMetaUpdate(object, old),
      ...(facts.validateUpdate?.(object, old, subresource) ?? []),
    ],
    ...(subresources.includes('scale') ? { toScale } : {}),
    field(object, path) {
      if (path === 'metadata.name') return object.metadata.name
      if (path === 'metadata.namespace') return object.metadata.namespace ?? ''
      return facts.fields && Object.hasOwn(facts.fields, path) ? facts.fields[path]?.(object) : undefined
    },
  }
}

function restore(object: KubeObject, old: KubeObject, field: string): void {
  if (old[field] === undefined) delete object[field]
  else object[field] = old[field]
}

function keepAllBut(object: KubeObject, old: KubeObject, changeable: string[]): void {
  for (const field of new Set([...Object.keys(object), ...Object.keys(old)]))
    if (!changeable.includes(field)) restore(object, old, field)
}

/** autoscaling/v1 Scale of what has spec.replicas, status.replicas and a selector. */
function toScale(object: KubeObject): KubeObject {
  const { name, namespace, uid, resourceVersion, creationTimestamp } = object.metadata
  const selector = asObject(specOf(object)['selector'])
  const labels =
    isObject(selector['matchLabels']) || Array.isArray(selector['matchExpressions'])
      ? selectorText(selector)
      : selectorText({ matchLabels: selector })
  return {
    apiVersion: 'autoscaling/v1',
    kind: 'Scale',
    metadata: {
      name,
      ...(namespace === undefined ? {} : { namespace }),
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
      ...(creationTimestamp === undefined ? {} : { creationTimestamp }),
    },
    spec: { replicas: asNumber(specOf(object)['replicas']) ?? 0 },
    status: { replicas: asNumber(statusOf(object)['replicas']) ?? 0, selector: labels },
  }
}

/** A LabelSelector in the form of the query parameter. */
export function selectorText(selector: Json): string {
  const equal = Object.entries(asObject(selector['matchLabels'])).map(([key, value]) => [
    key,
    `${key}=${asText(value)}`,
  ])
  const sets = asList(selector['matchExpressions']).map((e) => {
    const key = asText(e['key'])
    const values = (Array.isArray(e['values']) ? e['values'].map(String) : []).sort().join(',')
    switch (e['operator']) {
      case 'In':
        return [key, `${key} in (${values})`]
      case 'NotIn':
        return [key, `${key} notin (${values})`]
      case 'DoesNotExist':
        return [key, `!${key}`]
      default:
        return [key, key]
    }
  })
  const all = [...equal, ...sets] as [string, string][]
  return all
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    .map(([, text]) => text)
    .join(',')
}

/** As UTF-8. */
export const byteLength = (text: string): number => new TextEncoder().encode(text).length

function validateMeta(
  object: KubeObject,
  namespaced: boolean,
  nameRule: (name: string) => string | undefined,
): StatusCause[] {
  const { metadata } = object
  const causes: StatusCause[] = []
  if (!metadata.name) causes.push(required('metadata.name', 'name or generateName is required'))
  else {
    const wrong = nameRule(metadata.name)
    if (wrong) causes.push(invalid('metadata.name', metadata.name, wrong))
  }
  if (namespaced && !metadata.namespace) causes.push(required('metadata.namespace'))
  for (const [key, value] of Object.entries(metadata.labels ?? {}))
    causes.push(...labelCauses(key, value, 'metadata.labels'))
  let bytes = 0
  for (const [key, value] of Object.entries(metadata.annotations ?? {})) {
    const wrong = qualifiedName(key.toLowerCase())
    if (wrong) causes.push(invalid('metadata.annotations', key, wrong))
    bytes += byteLength(key) + byteLength(String(value))
  }
  if (bytes > ANNOTATIONS_BYTES_MAX)
    causes.push({
      reason: 'FieldValueTooLong',
      message: `Too long: may not be more than ${ANNOTATIONS_BYTES_MAX} bytes`,
      field: 'metadata.annotations',
    })
  for (const [i, finalizer] of (metadata.finalizers ?? []).entries()) {
    const wrong = qualifiedName(finalizer)
    if (wrong) causes.push(invalid(`metadata.finalizers[${i}]`, finalizer, wrong))
  }
  let controllers = 0
  for (const [i, owner] of (metadata.ownerReferences ?? []).entries()) {
    for (const field of ['apiVersion', 'kind', 'name', 'uid'] as const)
      if (!owner[field])
        causes.push(
          invalid(
            `metadata.ownerReferences[${i}].${field}`,
            owner[field] ?? '',
            `${field === 'apiVersion' ? 'version' : field} must not be empty`,
          ),
        )
    if (owner.controller) controllers++
  }
  if (controllers > 1)
    causes.push(
      invalid(
        'metadata.ownerReferences',
        metadata.ownerReferences,
        'Only one reference can have Controller set to true',
      ),
    )
  return causes
}

export function labelCauses(key: string, value: unknown, field: string): StatusCause[] {
  const causes: StatusCause[] = []
  const wrongKey = qualifiedName(key)
  if (wrongKey) causes.push(invalid(field, key, wrongKey))
  const wrongValue = labelValue(String(value))
  if (wrongValue) causes.push(invalid(field, value, wrongValue))
  return causes
}

function validateMetaUpdate(object: KubeObject, old: KubeObject): StatusCause[] {
  const causes: StatusCause[] = []
  for (const field of ['name', 'namespace', 'uid', 'creationTimestamp'] as const)
    if (object.metadata[field] !== old.metadata[field])
      causes.push(invalid(`metadata.${field}`, object.metadata[field] ?? '', 'field is immutable'))
  if (old.metadata.deletionTimestamp) {
    const added = (object.metadata.finalizers ?? []).filter((f) => !(old.metadata.finalizers ?? []).includes(f))
    if (added.length > 0)
      causes.push({
        reason: 'FieldValueForbidden',
        message: `Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers ${JSON.stringify(added)}`,
        field: 'metadata.finalizers',
      })
  }
  return causes
}

/** A field that never changes after creation. */
export function immutable(object: Json, old: Json, field: string, path: string): StatusCause[] {
  return sameJson(object[field], old[field]) ? [] : [invalid(path, object[field], 'field is immutable')]
}
