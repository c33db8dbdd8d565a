import fastJsonPatch, { type Operation } from 'fast-json-patch'
import { isObject, type Json, sameJson } from './kube-object.js'
import { resolve, type Schema } from './schema.js'

/** A patch that cannot be applied. `invalid`: well formed, but not to this object (422); else it is malformed (400). */
export class PatchError extends Error {
  override readonly name = 'PatchError'
  constructor(
    readonly kind: 'malformed' | 'invalid',
    text: string,
  ) {
    super(text)
  }
}

// The package is CommonJS: Node finds not all of its names as named exports.
const { applyPatch: applyJsonPatch } = fastJsonPatch

const OPERATIONS = ['add', 'remove', 'replace', 'move', 'copy', 'test']
const OPERATIONS_MAX = 10_000

/** RFC 6902. The object given is not changed. @throws PatchError */
export function jsonPatch(object: Json, patch: unknown): Json {
  if (!Array.isArray(patch)) throw new PatchError('malformed', 'error decoding patch: a JSON patch is a list of operations')
  if (patch.length > OPERATIONS_MAX)
    throw new PatchError('malformed', `The allowed maximum operations in a JSON patch is ${OPERATIONS_MAX}, got ${patch.length}`)
  patch.forEach((operation: unknown, i) => {
    if (!isObject(operation) || !OPERATIONS.includes(operation['op'] as string) || typeof operation['path'] !== 'string')
      throw new PatchError('malformed', `error decoding patch: operation ${i} needs an "op" of ${OPERATIONS.join(', ')} and a "path"`)
  })
  try {
    return applyJsonPatch(structuredClone(object), structuredClone(patch) as Operation[], true, true, true).newDocument
  } catch (error) {
    const text = error instanceof Error ? (error.message.split('\n')[0] as string) : String(error)
    throw new PatchError('invalid', `the server rejected our request due to an error in our request: ${text}`)
  }
}

/** RFC 7386. */
export function mergePatch(object: Json, patch: unknown): Json {
  if (!isObject(patch)) throw new PatchError('malformed', 'error decoding patch: a merge patch is an object')
  return mergeObjects(object, patch)
}

function mergeObjects(object: unknown, patch: Json): Json {
  const out: Json = isObject(object) ? { ...object } : {}
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete out[name]
    else out[name] = isObject(value) ? mergeObjects(out[name], value) : structuredClone(value)
  }
  return out
}

/** Kubernetes' strategic merge patch: lists merge by key where the kind says so. @throws PatchError */
export function strategicMergePatch(object: Json, patch: unknown, schema: Schema): Json {
  if (!isObject(patch)) throw new PatchError('malformed', 'error decoding patch: a strategic merge patch is an object')
  return mergeStrategically(object, patch, resolve(schema), '')
}

const DIRECTIVES = /^\$(patch$|retainKeys$|deleteFromPrimitiveList\/|setElementOrder\/)/

function mergeStrategically(object: unknown, patch: Json, schema: Schema | undefined, path: string): Json {
  const directive = patch['$patch']
  if (directive === 'replace') return withoutDirectives(patch)
  if (directive === 'delete') return {}
  if (directive !== undefined && directive !== 'merge') throw new PatchError('malformed', `unrecognized $patch type ${JSON.stringify(directive)} at ${path || '.'}`)
  const out: Json = isObject(object) ? { ...object } : {}
  const retain = patch['$retainKeys']
  if (Array.isArray(retain)) for (const name of Object.keys(out)) if (!retain.includes(name)) delete out[name]
  for (const [name, value] of Object.entries(patch)) {
    if (DIRECTIVES.test(name)) continue
    const field = schema?.properties?.[name] ?? schema?.additionalProperties
    const fieldPath = path === '' ? name : `${path}.${name}`
    if (value === null) delete out[name]
    else if (isObject(value)) out[name] = mergeStrategically(out[name], value, resolve(field), fieldPath)
    else if (Array.isArray(value) && mergesLists(field)) out[name] = mergeLists(out[name], value, field as Schema, fieldPath)
    else out[name] = structuredClone(value)
  }
  for (const [name, value] of Object.entries(patch)) {
    const remove = /^\$deleteFromPrimitiveList\/(.+)$/.exec(name)?.[1]
    if (remove !== undefined && Array.isArray(value) && Array.isArray(out[remove]))
      out[remove] = (out[remove] as unknown[]).filter((item) => !value.some((gone) => sameJson(gone, item)))
    const order = /^\$setElementOrder\/(.+)$/.exec(name)?.[1]
    if (order !== undefined && Array.isArray(value) && Array.isArray(out[order]))
      out[order] = inOrder(out[order] as unknown[], value, schema?.properties?.[order]?.['x-kubernetes-patch-merge-key'])
  }
  return out
}

const mergesLists = (field: Schema | undefined) => /(^|,)merge(,|$)/.test(field?.['x-kubernetes-patch-strategy'] ?? '')

function mergeLists(present: unknown, patch: unknown[], field: Schema, path: string): unknown[] {
  const items = Array.isArray(present) ? [...(present as unknown[])] : []
  const mergeKey = field['x-kubernetes-patch-merge-key']
  if (mergeKey === undefined) {
    // A list of scalars is a set.
    for (const value of patch) if (!items.some((item) => sameJson(item, value))) items.push(value)
    return items
  }
  if (patch.some((value) => isObject(value) && value['$patch'] === 'replace'))
    return patch.filter((value) => !(isObject(value) && value['$patch'] === 'replace')).map((value) => structuredClone(value))
  for (const value of patch) {
    if (!isObject(value)) throw new PatchError('malformed', `items of ${path} must be objects`)
    const key = value[mergeKey]
    if (key === undefined) throw new PatchError('malformed', `map: ${JSON.stringify(value)} does not contain declared merge key: ${mergeKey} (at ${path})`)
    const at = items.findIndex((item) => isObject(item) && sameJson(item[mergeKey], key))
    if (value['$patch'] === 'delete') {
      if (at >= 0) items.splice(at, 1)
    } else if (at >= 0) items[at] = mergeStrategically(items[at], value, resolve(field.items), `${path}[${mergeKey}=${String(key)}]`)
    else items.push(withoutDirectives(value))
  }
  return items
}

/** Items in the order that the patch lists; others keep their place behind the one before them. */
function inOrder(items: unknown[], order: unknown[], mergeKey: string | undefined): unknown[] {
  const idOf = (item: unknown) => JSON.stringify(mergeKey !== undefined && isObject(item) ? item[mergeKey] : item)
  const rank = new Map(order.map((item, i) => [idOf(item), i]))
  const listed = items.filter((item) => rank.has(idOf(item))).sort((a, b) => (rank.get(idOf(a)) as number) - (rank.get(idOf(b)) as number))
  let next = 0
  const out: unknown[] = []
  for (const item of items) {
    if (!rank.has(idOf(item))) out.push(item)
    else out.push(listed[next++])
  }
  return out
}

function withoutDirectives(value: unknown): Json {
  const strip = (v: unknown): unknown => {
    if (Array.isArray(v)) return v.map(strip)
    if (!isObject(v)) return v
    return Object.fromEntries(Object.entries(v).filter(([name, inner]) => !DIRECTIVES.test(name) && inner !== null).map(([name, inner]) => [name, strip(inner)]))
  }
  return strip(value) as Json
}
