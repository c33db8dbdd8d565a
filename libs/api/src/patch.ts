import fastJsonPatch, { type Operation } from 'fast-json-patch'
import { setOwn } from './decode.js'
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
const { applyOperation, getValueByPointer } = fastJsonPatch

const OPERATIONS = ['add', 'remove', 'replace', 'move', 'copy', 'test']
const OPERATIONS_MAX = 10_000
/** `copy` may double a document each time: what all of them copy is bounded, as in Kubernetes. */
const COPIED_BYTES_MAX = 3 * 1024 * 1024

/** Far more than any kind has, far less than what the functions here, or JSON.stringify, could not go down. */
const DEPTH_MAX = 500

/** Walks without recursion: the depth is the sender's. */
function isTooDeep(value: unknown): boolean {
  let level: unknown[] = [value]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > DEPTH_MAX) return true
    level = level.flatMap((one) => (typeof one === 'object' && one !== null ? (Object.values(one) as unknown[]) : []))
  }
  return false
}

function checkDepth(patch: unknown): void {
  if (isTooDeep(patch)) throw new PatchError('malformed', `error decoding patch: exceeded max depth of ${DEPTH_MAX}`)
}

/** RFC 6902. The object given is not changed. @throws PatchError */
export function jsonPatch(object: Json, patch: unknown): Json {
  if (!Array.isArray(patch))
    throw new PatchError('malformed', 'error decoding patch: a JSON patch is a list of operations')
  if (patch.length > OPERATIONS_MAX)
    throw new PatchError(
      'malformed',
      `The allowed maximum operations in a JSON patch is ${OPERATIONS_MAX}, got ${patch.length}`,
    )
  patch.forEach((operation: unknown, i) => {
    if (
      !isObject(operation) ||
      !OPERATIONS.includes(operation['op'] as string) ||
      typeof operation['path'] !== 'string'
    )
      throw new PatchError(
        'malformed',
        `error decoding patch: operation ${i} needs an "op" of ${OPERATIONS.join(', ')} and a "path"`,
      )
  })
  checkDepth(patch)
  let document: unknown = structuredClone(object)
  let copiedBytes = 0
  for (const [i, operation] of (structuredClone(patch) as Operation[]).entries()) {
    try {
      if (operation.op === 'copy')
        copiedBytes += (JSON.stringify(getValueByPointer(document, operation.from)) ?? '').length
      if (copiedBytes > COPIED_BYTES_MAX) throw new Error(`copies of more than ${COPIED_BYTES_MAX} bytes in all`)
      document = applyOperation(document, asAdded(document, operation), true, true, true, i).newDocument
    } catch (error) {
      // The library adds the whole document in further lines.
      const text = error instanceof Error ? (error.message.split('\n')[0] as string) : String(error)
      throw new PatchError('invalid', `operation ${i} (${operation.op} ${operation.path}): ${text}`)
    }
  }
  if (!isObject(document)) throw new PatchError('invalid', 'the patch leaves something else than an object')
  if (isTooDeep(document))
    throw new PatchError('invalid', `the patch makes an object that exceeds the max depth of ${DEPTH_MAX}`)
  return document
}

/**
 * Kubernetes lets `replace` make a member that an object does not have, against RFC 6902 (its json-patch v4 does not look);
 * `kubectl rollout undo` needs that where a Deployment has no annotations.
 */
function asAdded(document: unknown, operation: Operation): Operation {
  const at = operation.path.lastIndexOf('/')
  if (operation.op !== 'replace' || at < 0) return operation
  const parent: unknown = getValueByPointer(document, operation.path.slice(0, at))
  const name = operation.path
    .slice(at + 1)
    .replaceAll('~1', '/')
    .replaceAll('~0', '~')
  return isObject(parent) && !Object.hasOwn(parent, name) ? { ...operation, op: 'add' } : operation
}

/** RFC 7386. */
export function mergePatch(object: Json, patch: unknown): Json {
  if (!isObject(patch)) throw new PatchError('malformed', 'error decoding patch: a merge patch is an object')
  checkDepth(patch)
  return mergeObjects(object, patch)
}

function mergeObjects(object: unknown, patch: Json): Json {
  const out: Json = isObject(object) ? { ...object } : {}
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete out[name]
    else setOwn(out, name, isObject(value) ? mergeObjects(ownOf(out, name), value) : structuredClone(value))
  }
  return out
}

const ownOf = (object: Json, name: string): unknown => (Object.hasOwn(object, name) ? object[name] : undefined)

/** Kubernetes' strategic merge patch: lists merge by key where the kind says so. @throws PatchError */
export function strategicMergePatch(object: Json, patch: unknown, schema: Schema): Json {
  if (!isObject(patch)) throw new PatchError('malformed', 'error decoding patch: a strategic merge patch is an object')
  checkDepth(patch)
  return mergeStrategically(object, patch, resolve(schema), '')
}

const DIRECTIVES = /^\$(patch$|retainKeys$|deleteFromPrimitiveList\/|setElementOrder\/)/

function mergeStrategically(object: unknown, patch: Json, schema: Schema | undefined, path: string): Json {
  const directive = patch['$patch']
  if (directive === 'replace') return withoutDirectives(patch)
  if (directive === 'delete') return {}
  if (directive !== undefined && directive !== 'merge')
    throw new PatchError('malformed', `unrecognized $patch type ${JSON.stringify(directive)} at ${path || '.'}`)
  const before: Json = isObject(object) ? object : {}
  const out: Json = { ...before }
  const retain = patch['$retainKeys']
  if (retain !== undefined) retainKeys(out, patch, retain, path)
  for (const [name, value] of Object.entries(patch)) {
    if (DIRECTIVES.test(name)) continue
    const field = fieldOf(schema, name)
    const fieldPath = path === '' ? name : `${path}.${name}`
    if (value === null) delete out[name]
    else if (isObject(value)) setOwn(out, name, mergeStrategically(ownOf(out, name), value, resolve(field), fieldPath))
    else if (Array.isArray(value) && mergesLists(field))
      setOwn(out, name, mergeLists(ownOf(out, name), value, field as Schema, fieldPath))
    else setOwn(out, name, structuredClone(value))
  }
  for (const [name, value] of Object.entries(patch)) {
    const [, what, field = ''] = /^\$(deleteFromPrimitiveList|setElementOrder)\/(.+)$/.exec(name) ?? []
    if (what === undefined) continue
    if (!Array.isArray(value)) throw new PatchError('malformed', `${name} at ${path || '.'} must be a list`)
    const items = ownOf(out, field)
    if (!Array.isArray(items)) continue
    if (what === 'deleteFromPrimitiveList')
      out[field] = items.filter((item) => !value.some((gone) => sameJson(gone, item)))
  }
  // Orders last: they speak of what is left.
  for (const [name, value] of Object.entries(patch)) {
    const field = /^\$setElementOrder\/(.+)$/.exec(name)?.[1]
    const items = field === undefined ? undefined : ownOf(out, field)
    if (field === undefined || !Array.isArray(items)) continue
    const mergeKey = fieldOf(schema, field)?.['x-kubernetes-patch-merge-key']
    out[field] = inOrder(items, value as unknown[], ownOf(before, field), mergeKey)
  }
  return out
}

function fieldOf(schema: Schema | undefined, name: string): Schema | undefined {
  const { properties } = schema ?? {}
  return properties && Object.hasOwn(properties, name) ? properties[name] : schema?.additionalProperties
}

/** Of a union (a deployment's strategy, a volume) the fields that are not of the new kind go. */
function retainKeys(out: Json, patch: Json, retain: unknown, path: string): void {
  if (!Array.isArray(retain)) throw new PatchError('malformed', `$retainKeys at ${path || '.'} must be a list`)
  for (const [name, value] of Object.entries(patch))
    if (!DIRECTIVES.test(name) && value !== null && !retain.includes(name))
      throw new PatchError('malformed', `$retainKeys at ${path || '.'} does not have ${name}, which the patch sets`)
  for (const name of Object.keys(out)) if (!retain.includes(name)) delete out[name]
}

const mergesLists = (field: Schema | undefined) => /(^|,)merge(,|$)/.test(field?.['x-kubernetes-patch-strategy'] ?? '')

function mergeLists(present: unknown, patch: unknown[], field: Schema, path: string): unknown[] {
  let items = Array.isArray(present) ? [...(present as unknown[])] : []
  const mergeKey = field['x-kubernetes-patch-merge-key']
  if (mergeKey === undefined) {
    // A list of scalars is a set.
    for (const value of patch) if (!items.some((item) => sameJson(item, value))) items.push(value)
    return items
  }
  if (patch.some((value) => isObject(value) && value['$patch'] === 'replace'))
    return patch
      .filter((value) => !(isObject(value) && value['$patch'] === 'replace'))
      .map((value) => structuredClone(value))
  for (const value of patch) {
    if (!isObject(value)) throw new PatchError('malformed', `items of ${path} must be objects`)
    const key = value[mergeKey]
    if (key === undefined)
      throw new PatchError(
        'malformed',
        `map: ${JSON.stringify(value)} does not contain declared merge key: ${mergeKey} (at ${path})`,
      )
    const isIt = (item: unknown) => isObject(item) && sameJson(item[mergeKey], key)
    if (value['$patch'] === 'delete') {
      items = items.filter((item) => !isIt(item))
      continue
    }
    // Keys may come twice (a port over TCP and over UDP): the first one is meant, as in Kubernetes.
    const at = items.findIndex(isIt)
    if (at < 0) items.push(withoutDirectives(value))
    else items[at] = mergeStrategically(items[at], value, resolve(field.items), `${path}[${mergeKey}=${String(key)}]`)
  }
  return items
}

/**
 * What `order` lists comes in that order. What it does not list (others put it there) keeps its order, and goes before the
 * first listed item that it stood before until now.
 */
function inOrder(items: unknown[], order: unknown[], before: unknown, mergeKey: string | undefined): unknown[] {
  const idOf = (item: unknown) => JSON.stringify(mergeKey !== undefined && isObject(item) ? item[mergeKey] : item)
  const rankIn = (list: unknown[]) => new Map(list.map((item, i) => [idOf(item), i]))
  const wanted = rankIn(order)
  const was = rankIn(Array.isArray(before) ? (before as unknown[]) : [])
  const rank = (item: unknown) => wanted.get(idOf(item)) as number
  const listed = items.filter((item) => wanted.has(idOf(item))).sort((a, b) => rank(a) - rank(b))
  const others = items.filter((item) => !wanted.has(idOf(item)))
  const out: unknown[] = []
  for (const item of listed) {
    const place = was.get(idOf(item))
    const isFirst = (other: unknown) =>
      place !== undefined && (was.get(idOf(other)) ?? Number.POSITIVE_INFINITY) < place
    while (others.length > 0 && isFirst(others[0])) out.push(others.shift())
    out.push(item)
  }
  return [...out, ...others]
}

function withoutDirectives(value: unknown): Json {
  const strip = (v: unknown): unknown => {
    if (Array.isArray(v)) return v.map(strip)
    if (!isObject(v)) return v
    return Object.fromEntries(
      Object.entries(v)
        .filter(([name, inner]) => !DIRECTIVES.test(name) && inner !== null)
        .map(([name, inner]) => [name, strip(inner)]),
    )
  }
  return strip(value) as Json
}
