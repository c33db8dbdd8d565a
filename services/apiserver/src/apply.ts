/**
 * Server-side apply: who manages which field (metadata.managedFields), conflicts, and what goes when its manager lets go of it.
 * Pure. An object is tracked from its first apply on; what it had before belongs to `before-first-apply`.
 */
import { type Json, type KubeObject, openApiDocument, sameJson } from '@capstan/api'
import { ApiError, badRequest, failure } from './errors.js'
import type { Kind } from './kinds.js'

/** One entry of metadata.managedFields. */
export interface ManagedEntry {
  manager: string
  operation: 'Apply' | 'Update'
  apiVersion: string
  time?: string
  fieldsType: 'FieldsV1'
  fieldsV1: Json
  subresource?: string
}

const BEFORE = 'before-first-apply'
/** Between the elements of a path: no field name or JSON text has it. */
const SEPARATOR = '\0'
/** What an object says about itself, or the server alone says. */
const UNMANAGED_META = [
  'name',
  'namespace',
  'uid',
  'resourceVersion',
  'generation',
  'creationTimestamp',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
  'managedFields',
  'selfLink',
]

/** Paths of fields: elements `f:<name>`, `k:<keys>` (item of a list by keys), `v:<value>` (item of a set), `.` (the item itself). */
type Paths = Set<string>

interface Manager {
  entry: ManagedEntry
  paths: Paths
}

export interface ApplyRequest {
  kind: Kind
  live: KubeObject
  config: KubeObject
  manager: string
  force: boolean
  subresource: string
  time: string
}

/** The live object with the configuration applied, its managers up to date. @throws ApiError 409, 400 */
export function applyConfig(request: ApplyRequest): KubeObject {
  const { kind, live, config, manager, force, subresource, time } = request
  const schema = schemaOf(kind)
  const wanted = pathsOf(config, schema)
  const managers = managersOf(live, () => pathsOf(live, schema))
  const isOwn = ({ entry }: Manager) =>
    entry.manager === manager && entry.operation === 'Apply' && (entry.subresource ?? '') === subresource
  const own = managers.find(isOwn)
  const others = managers.filter((one) => one !== own)
  const conflicts: { path: string; entry: ManagedEntry }[] = []
  for (const path of wanted) {
    if (path.endsWith('.') && path.at(-2) === SEPARATOR) continue
    for (const { entry, paths } of others) {
      if (!paths.has(path) || sameJson(valueAt(config, path), valueAt(live, path))) continue
      if (force) paths.delete(path)
      else conflicts.push({ path, entry })
    }
  }
  if (conflicts.length > 0) throw conflictOf(conflicts)
  const merged = merge(live, config, schema) as KubeObject
  const dropped = [...(own?.paths ?? [])].filter((path) => !wanted.has(path)).toSorted()
  // Deepest first: an item goes when nothing of it is left to anybody.
  for (const path of dropped.toReversed()) {
    const isItem = path.endsWith(`${SEPARATOR}.`)
    const under = isItem ? path.slice(0, -1) : path
    const isHeld = (paths: Paths) => paths.has(path) || (isItem && [...paths].some((one) => one.startsWith(under)))
    if (!isHeld(wanted) && !others.some(({ paths }) => isHeld(paths))) removeAt(merged, path)
  }
  const entry = {
    manager,
    operation: 'Apply',
    apiVersion: config.apiVersion ?? '',
    time,
    fieldsType: 'FieldsV1',
  } as const
  const applied: Manager = { entry: { ...entry, fieldsV1: {}, ...(subresource ? { subresource } : {}) }, paths: wanted }
  setManagers(merged, [...others, keepTime(applied, own)])
  return merged
}

/** Of an object that apply makes. */
export function entriesOfNew(kind: Kind, config: KubeObject, manager: string, time: string): ManagedEntry[] {
  const entry: ManagedEntry = {
    manager,
    operation: 'Apply',
    apiVersion: config.apiVersion ?? '',
    time,
    fieldsType: 'FieldsV1',
    fieldsV1: {},
  }
  return [{ ...entry, fieldsV1: treeOf(pathsOf(config, schemaOf(kind))) }]
}

/** Any other write: what it changed is its manager's from now on. Nothing happens to objects that were never applied. */
export function trackUpdate(
  kind: Kind,
  object: KubeObject,
  old: KubeObject,
  manager: string,
  subresource: string,
  time: string,
): void {
  if (!Array.isArray(old.metadata.managedFields) || old.metadata.managedFields.length === 0) return
  object.metadata.managedFields = old.metadata.managedFields
  const schema = schemaOf(kind)
  const before = pathsOf(old, schema)
  const after = pathsOf(object, schema)
  const changed = [...after].filter((path) => !before.has(path) || !sameJson(valueAt(object, path), valueAt(old, path)))
  const gone = [...before].filter((path) => !after.has(path))
  if (changed.length === 0 && gone.length === 0) return
  const managers = managersOf(old, () => new Set())
  const isOwn = ({ entry }: Manager) =>
    entry.manager === manager && entry.operation === 'Update' && (entry.subresource ?? '') === subresource
  const own = managers.find(isOwn)
  for (const { paths } of managers) for (const path of [...changed, ...gone]) paths.delete(path)
  const entry = {
    manager,
    operation: 'Update',
    apiVersion: object.apiVersion ?? '',
    time,
    fieldsType: 'FieldsV1',
  } as const
  const updated: Manager = {
    entry: { ...entry, fieldsV1: {}, ...(subresource ? { subresource } : {}) },
    paths: new Set([...(own?.paths ?? []), ...changed]),
  }
  setManagers(object, [...managers.filter((one) => one !== own), updated])
}

// -------------------------------------------------------------------------------------------------------- managers

function managersOf(object: KubeObject, ofUntracked: () => Paths): Manager[] {
  const entries = (object.metadata.managedFields ?? []) as ManagedEntry[]
  if (entries.length > 0) return entries.map((entry) => ({ entry, paths: pathsOfTree(entry.fieldsV1) }))
  const entry: ManagedEntry = {
    manager: BEFORE,
    operation: 'Update',
    apiVersion: object.apiVersion ?? '',
    fieldsType: 'FieldsV1',
    fieldsV1: {},
  }
  return [{ entry, paths: ofUntracked() }]
}

function setManagers(object: KubeObject, managers: readonly Manager[]): void {
  object.metadata.managedFields = managers
    .filter(({ paths }) => paths.size > 0)
    .map(({ entry, paths }) => ({ ...entry, fieldsV1: treeOf(paths) }))
}

/** An apply that changes nothing must write nothing, not even the time. */
function keepTime(applied: Manager, own: Manager | undefined): Manager {
  const isSame = own && own.paths.size === applied.paths.size && [...applied.paths].every((path) => own.paths.has(path))
  return isSame
    ? { ...applied, entry: { ...applied.entry, ...(own.entry.time ? { time: own.entry.time } : {}) } }
    : applied
}

function conflictOf(conflicts: readonly { path: string; entry: ManagedEntry }[]): ApiError {
  const causes = conflicts.map(({ path, entry }) => ({
    reason: 'FieldManagerConflict',
    message: `conflict with ${JSON.stringify(entry.manager)}${entry.subresource ? ` with subresource ${JSON.stringify(entry.subresource)}` : ''} using ${entry.apiVersion}`,
    field: textOf(path),
  }))
  const many = causes.length === 1 ? '1 conflict' : `${causes.length} conflicts`
  const text = causes.map((cause) => `${cause.message}: ${cause.field}`).join('\n')
  return new ApiError(failure(409, 'Conflict', `Apply failed with ${many}: ${text}`, { causes }))
}

/** `.spec.containers[name="web"].image`. */
function textOf(path: string): string {
  return path
    .split(SEPARATOR)
    .map((element) => {
      if (element.startsWith('f:')) return `.${element.slice(2)}`
      if (element.startsWith('v:')) return `[=${element.slice(2)}]`
      if (!element.startsWith('k:')) return ''
      const keys = JSON.parse(element.slice(2)) as Record<string, unknown>
      return `[${Object.entries(keys)
        .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
        .join(',')}]`
    })
    .join('')
}

// ---------------------------------------------------------------------------------------------------------- schema

interface Node {
  type?: string
  allOf?: { $ref: string }[]
  properties?: Record<string, Node>
  additionalProperties?: Node
  items?: Node
  'x-kubernetes-list-type'?: string
  'x-kubernetes-list-map-keys'?: string[]
  'x-kubernetes-map-type'?: string
}

interface Resolver {
  root: Node
  definitions: Record<string, Node>
}

/** Made on first use: a few of them, one for each kind that is applied. */
const schemas = new Map<string, Resolver>()

function schemaOf(kind: Kind): Resolver {
  const made = schemas.get(kind.definition)
  if (made) return made
  const { components } = openApiDocument([kind]) as { components: { schemas: Record<string, Node> } }
  const schema = { root: components.schemas[kind.definition] ?? {}, definitions: components.schemas }
  schemas.set(kind.definition, schema)
  return schema
}

function resolve(node: Node | undefined, { definitions }: Resolver): Node | undefined {
  const reference = node?.allOf?.[0]?.$ref
  if (reference === undefined) return node
  // What is said beside a reference goes before what the definition says.
  return { ...definitions[reference.slice('#/components/schemas/'.length)], ...node }
}

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)
/** Users name map keys, `__proto__` too: only what an object itself has counts. */
const ownOf = (object: unknown, name: string) =>
  isObject(object) && Object.hasOwn(object, name) ? object[name] : undefined

function setOwn(object: Json, name: string, value: unknown): void {
  Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true })
}

const fieldsIn = (node: Node | undefined, name: string) =>
  (ownOf(node?.properties, name) as Node | undefined) ?? node?.additionalProperties
const isGranular = (node: Node | undefined) => node?.['x-kubernetes-map-type'] !== 'atomic'

/** The keys of an item, as one path element; undefined: the item lacks them. */
function keyOf(item: unknown, node: Node, resolver: Resolver): string | undefined {
  if (!isObject(item)) return undefined
  const fields = resolve(node.items, resolver)
  const keys: Json = {}
  for (const key of [...(node['x-kubernetes-list-map-keys'] ?? [])].toSorted()) {
    // A port's protocol may be left to its default, and is part of its key all the same.
    const given = item[key] ?? (fields?.properties?.[key] as { default?: unknown } | undefined)?.default
    if (given !== undefined && given !== '') keys[key] = given
  }
  return Object.keys(keys).length === 0 ? undefined : `k:${JSON.stringify(keys)}`
}

// ----------------------------------------------------------------------------------------------------------- paths

/** The fields that an object says something about. */
function pathsOf(object: KubeObject, resolver: Resolver): Paths {
  const paths: Paths = new Set()
  for (const [name, value] of Object.entries(object)) {
    if (name === 'apiVersion' || name === 'kind' || value === undefined || value === null) continue
    const node = fieldsIn(resolver.root, name)
    if (name !== 'metadata') walk(value, node, [`f:${name}`], paths, resolver)
    else
      for (const [field, inner] of Object.entries(value as Json))
        if (!UNMANAGED_META.includes(field) && inner !== undefined && inner !== null)
          walk(inner, fieldsIn(resolve(node, resolver), field), ['f:metadata', `f:${field}`], paths, resolver)
  }
  return paths
}

function walk(value: unknown, given: Node | undefined, path: string[], out: Paths, resolver: Resolver): void {
  const node = resolve(given, resolver)
  if (isObject(value) && (node?.properties || node?.additionalProperties) && isGranular(node)) {
    const fields = Object.entries(value).filter(([, inner]) => inner !== undefined && inner !== null)
    if (fields.length === 0) out.add(path.join(SEPARATOR))
    for (const [name, inner] of fields) walk(inner, fieldsIn(node, name), [...path, `f:${name}`], out, resolver)
    return
  }
  if (Array.isArray(value) && node?.['x-kubernetes-list-type'] === 'map') {
    const keys = value.map((item) => keyOf(item, node, resolver))
    if (keys.every((key) => key !== undefined)) {
      value.forEach((item, at) => {
        const element = keys[at] as string
        out.add([...path, element, '.'].join(SEPARATOR))
        walk(item, node.items, [...path, element], out, resolver)
      })
      return
    }
  }
  if (Array.isArray(value) && node?.['x-kubernetes-list-type'] === 'set') {
    for (const item of value) out.add([...path, `v:${JSON.stringify(item)}`].join(SEPARATOR))
    return
  }
  out.add(path.join(SEPARATOR))
}

function treeOf(paths: Paths): Json {
  const root: Json = {}
  for (const path of [...paths].toSorted()) {
    let at = root
    for (const element of path.split(SEPARATOR)) at = (at[element] ??= {}) as Json
  }
  return root
}

function pathsOfTree(tree: unknown): Paths {
  const paths: Paths = new Set()
  const visit = (node: unknown, path: string[]) => {
    const entries = isObject(node) ? Object.entries(node) : []
    if (entries.length === 0 && path.length > 0) paths.add(path.join(SEPARATOR))
    for (const [element, inner] of entries) visit(inner, [...path, element])
  }
  visit(tree, [])
  return paths
}

/** Keys that an item leaves to their defaults count as equal. */
const hasKeys = (item: unknown, keys: Json) =>
  isObject(item) && Object.entries(keys).every(([key, value]) => item[key] === undefined || sameJson(item[key], value))

function indexOf(list: unknown, element: string): number {
  if (!Array.isArray(list)) return -1
  const wanted = JSON.parse(element.slice(2)) as unknown
  return list.findIndex((item) => (element.startsWith('k:') ? hasKeys(item, wanted as Json) : sameJson(item, wanted)))
}

function valueAt(object: unknown, path: string): unknown {
  let at = object
  for (const element of path.split(SEPARATOR)) {
    if (element === '.') return at !== undefined
    if (element.startsWith('f:')) at = ownOf(at, element.slice(2))
    else at = Array.isArray(at) ? at[indexOf(at, element)] : undefined
  }
  return at
}

/** Removes a field or item, and the objects that it leaves empty. */
function removeAt(object: unknown, path: string): void {
  const elements = path.split(SEPARATOR).filter((element) => element !== '.')
  const remove = (at: unknown, depth: number): void => {
    const element = elements[depth] as string
    const isLast = depth === elements.length - 1
    if (element.startsWith('f:')) {
      if (!isObject(at)) return
      const name = element.slice(2)
      if (isLast) delete at[name]
      else {
        remove(ownOf(at, name), depth + 1)
        const left = ownOf(at, name)
        if ((isObject(left) && Object.keys(left).length === 0) || (Array.isArray(left) && left.length === 0))
          delete at[name]
      }
    } else {
      const index = indexOf(at, element)
      if (index < 0 || !Array.isArray(at)) return
      if (isLast) at.splice(index, 1)
      else remove(at[index], depth + 1)
    }
  }
  remove(object, 0)
}

// ----------------------------------------------------------------------------------------------------------- merge

function merge(live: KubeObject, config: KubeObject, resolver: Resolver): unknown {
  return mergeValue(live, config, resolver.root, resolver)
}

function mergeValue(live: unknown, config: unknown, given: Node | undefined, resolver: Resolver): unknown {
  const node = resolve(given, resolver)
  if (isObject(config) && isObject(live) && (node?.properties || node?.additionalProperties) && isGranular(node)) {
    const out: Json = { ...live }
    for (const [name, value] of Object.entries(config))
      if (value !== null) setOwn(out, name, mergeValue(ownOf(live, name), value, fieldsIn(node, name), resolver))
    return out
  }
  if (Array.isArray(config) && Array.isArray(live)) {
    const type = node?.['x-kubernetes-list-type']
    if (type === 'set') return [...live, ...config.filter((item) => !live.some((other) => sameJson(other, item)))]
    if (type === 'map' && node) {
      const out: unknown[] = [...live]
      for (const item of config) {
        const key = keyOf(item, node, resolver)
        if (key === undefined)
          throw badRequest(
            `an item lacks the keys ${(node['x-kubernetes-list-map-keys'] ?? []).join(', ')}: ${JSON.stringify(item)}`,
          )
        const at = indexOf(out, key)
        if (at < 0) out.push(structuredClone(item))
        else out[at] = mergeValue(out[at], item, node.items, resolver)
      }
      return out
    }
  }
  return structuredClone(config)
}
