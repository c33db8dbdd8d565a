import { isObject, type Json } from './kube-object.js'
import { parseQuantity, QuantityError } from './quantity.js'
import { refName, resolve, type Schema } from './schema.js'

export interface Decoded {
  /** Paths of fields that the kind does not have; they have been removed. */
  unknown: string[]
  /** Values of a wrong type, in the words of Go's decoder. */
  errors: string[]
}

const QUANTITY = 'io.k8s.apimachinery.pkg.api.resource.Quantity'
const INT_OR_STRING = 'io.k8s.apimachinery.pkg.util.intstr.IntOrString'
const INT32_MIN = -(2 ** 31)
const INT32_MAX = 2 ** 31 - 1
const RFC3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

/**
 * Holds an object against its schema and changes it to what is stored, as a trip through Go's types would: fields that the
 * kind does not have go, null is "not set" (in a list or map: the empty value), quantities get their canonical form. So
 * whoever reads a decoded object meets no null and no unknown field, and every value that is there has its type.
 */
export function decode(object: Json, schema: Schema, definition = ''): Decoded {
  const out: Decoded = { unknown: [], errors: [] }
  walk(object, schema, '', lastOf(definition), out)
  return out
}

/** `struct`: the Go type that the value is a field of. Returns what takes the value's place. */
function walk(value: unknown, given: Schema, path: string, struct: string, out: Decoded): unknown {
  const schema = resolve(given)
  if (!schema) return value
  if (schema.properties) {
    if (!isObject(value)) return mismatch(value, given, path, struct, out)
    const name = refName(given)
    walkFields(value, schema.properties, path, name === undefined ? struct : lastOf(name), out)
  } else if (schema.additionalProperties) {
    if (!isObject(value)) return mismatch(value, given, path, struct, out)
    for (const [name, field] of Object.entries(value))
      setOwn(value, name, valueOrZero(field, schema.additionalProperties, `${path}.${name}`, struct, out))
  } else if (schema.items) {
    if (!Array.isArray(value)) return mismatch(value, given, path, struct, out)
    const items = schema.items
    for (const [i, item] of value.entries()) value[i] = valueOrZero(item, items, `${path}[${i}]`, struct, out)
  } else if (refName(given) === QUANTITY) return quantity(value, given, path, struct, out)
  else checkScalar(value, given, schema, path, struct, out)
  return value
}

function walkFields(value: Json, properties: Record<string, Schema>, path: string, struct: string, out: Decoded): void {
  for (const [name, field] of Object.entries(value)) {
    const known = Object.hasOwn(properties, name) ? properties[name] : undefined
    const fieldPath = path === '' ? name : `${path}.${name}`
    if (!known) out.unknown.push(fieldPath)
    if (!known || field === null || field === undefined) delete value[name]
    else value[name] = walk(field, known, fieldPath, struct, out)
  }
}

const valueOrZero = (value: unknown, schema: Schema, path: string, struct: string, out: Decoded): unknown =>
  value === null || value === undefined ? zeroOf(schema) : walk(value, schema, path, struct, out)

/** What Go makes of a null in a list or map. */
function zeroOf(given: Schema): unknown {
  const name = refName(given)
  if (name === QUANTITY) return '0'
  if (name === INT_OR_STRING) return 0
  switch (resolve(given)?.type) {
    case 'string':
      return ''
    case 'integer':
    case 'number':
      return 0
    case 'boolean':
      return false
    case 'array':
      return []
    default:
      return {}
  }
}

/** A number is as good as a text. */
function quantity(value: unknown, given: Schema, path: string, struct: string, out: Decoded): unknown {
  if (typeof value !== 'string' && typeof value !== 'number') return mismatch(value, given, path, struct, out)
  try {
    return parseQuantity(String(value)).toString()
  } catch (error) {
    if (!(error instanceof QuantityError)) throw error
    out.errors.push(`${error.message}, got ${JSON.stringify(value)} (field ${path})`)
    return value
  }
}

function checkScalar(value: unknown, given: Schema, schema: Schema, path: string, struct: string, out: Decoded): void {
  switch (schema.type) {
    case 'string':
      if (schema.format === 'int-or-string') {
        if (typeof value !== 'string' && !isInt32(value)) mismatch(value, given, path, struct, out)
      } else if (typeof value !== 'string') mismatch(value, given, path, struct, out)
      else if (schema.format === 'date-time') {
        if (!RFC3339.test(value) || Number.isNaN(Date.parse(value)))
          out.errors.push(
            `parsing time ${JSON.stringify(value)} as "2006-01-02T15:04:05Z07:00": cannot parse (field ${path})`,
          )
      } else if (schema.format === 'byte' && !BASE64.test(value)) out.errors.push(`illegal base64 data (field ${path})`)
      return
    case 'integer':
      if (!Number.isInteger(value) || (schema.format === 'int32' && !isInt32(value)))
        mismatch(value, given, path, struct, out)
      return
    case 'number':
      if (typeof value !== 'number') mismatch(value, given, path, struct, out)
      return
    case 'boolean':
      if (typeof value !== 'boolean') mismatch(value, given, path, struct, out)
      return
    case 'object':
      if (!isObject(value)) mismatch(value, given, path, struct, out)
      return
  }
}

const isInt32 = (value: unknown) =>
  typeof value === 'number' && Number.isInteger(value) && value >= INT32_MIN && value <= INT32_MAX

/** Go has it without the indices; here they say which of many it is. */
function mismatch(value: unknown, given: Schema, path: string, struct: string, out: Decoded): unknown {
  const field = [struct, path].filter((part) => part !== '').join('.')
  out.errors.push(
    `json: cannot unmarshal ${jsonType(value, given)} into Go struct field ${field} of type ${goType(given)}`,
  )
  return value
}

function jsonType(value: unknown, given: Schema): string {
  if (Array.isArray(value)) return 'array'
  if (typeof value === 'boolean') return 'bool'
  // A number that is one, but not of the kind asked for.
  return typeof value === 'number' && resolve(given)?.type === 'integer' ? `number ${value}` : typeof value
}

function goType(given: Schema): string {
  const name = refName(given)
  if (name === QUANTITY) return 'resource.Quantity'
  if (name === INT_OR_STRING) return 'intstr.IntOrString (a whole number of 32 bits, or a string)'
  const schema = resolve(given)
  if (name && schema?.properties) return name.split('.').slice(-2).join('.')
  switch (schema?.type) {
    case 'array':
      return `[]${schema.items ? goType(schema.items) : 'object'}`
    case 'integer':
      return schema.format ?? 'int64'
    case 'number':
      return 'float64'
    case 'boolean':
      return 'bool'
    case 'string':
      return 'string'
    default:
      return schema?.additionalProperties ? `map[string]${goType(schema.additionalProperties)}` : 'object'
  }
}

const lastOf = (definition: string): string => definition.slice(definition.lastIndexOf('.') + 1)

/** Also for the key `__proto__`, which an assignment would take for the prototype. */
export function setOwn(object: Json, name: string, value: unknown): void {
  if (name === '__proto__')
    Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true })
  else object[name] = value
}
