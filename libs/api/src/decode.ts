import { isObject, type Json } from './kube-object.js'
import { refName, resolve, type Schema } from './schema.js'

export interface Decoded {
  /** Paths of fields that the kind does not have; they have been removed. */
  unknown: string[]
  /** Values of a wrong type, in the words of Go's decoder. */
  errors: string[]
}

/** May also be written as a plain number. */
const QUANTITY = 'io.k8s.apimachinery.pkg.api.resource.Quantity'
const INT32_MAX = 2 ** 31 - 1

/** Holds an object against its schema, removing what it does not have: what is stored has only known fields. */
export function decode(object: Json, schema: Schema): Decoded {
  const out: Decoded = { unknown: [], errors: [] }
  walk(object, schema, '', out)
  return out
}

function walk(value: unknown, given: Schema, path: string, out: Decoded): void {
  const schema = resolve(given)
  // null is "not set" everywhere.
  if (!schema || value === null || value === undefined) return
  if (schema.properties) {
    if (!isObject(value)) return mismatch(value, 'object', path, out)
    for (const [name, field] of Object.entries(value)) {
      const known = Object.hasOwn(schema.properties, name) ? schema.properties[name] : undefined
      const fieldPath = path === '' ? name : `${path}.${name}`
      if (known) walk(field, known, fieldPath, out)
      else {
        out.unknown.push(fieldPath)
        delete value[name]
      }
    }
  } else if (schema.additionalProperties) {
    if (!isObject(value)) return mismatch(value, 'object', path, out)
    for (const [name, field] of Object.entries(value)) walk(field, schema.additionalProperties, `${path}.${name}`, out)
  } else if (schema.items) {
    if (!Array.isArray(value)) return mismatch(value, 'array', path, out)
    value.forEach((item, i) => walk(item, schema.items as Schema, `${path}[${i}]`, out))
  } else if (typeof value !== 'number' || refName(given) !== QUANTITY) checkScalar(value, schema, path, out)
}

function checkScalar(value: unknown, schema: Schema, path: string, out: Decoded): void {
  switch (schema.type) {
    case 'string':
      if (schema.format === 'int-or-string') {
        if (typeof value !== 'string' && !isInteger(value)) mismatch(value, 'int or string', path, out)
      } else if (typeof value !== 'string') mismatch(value, 'string', path, out)
      else if (schema.format === 'date-time' && Number.isNaN(Date.parse(value)))
        out.errors.push(`parsing time ${JSON.stringify(value)} as RFC 3339 failed (field ${path})`)
      return
    case 'integer':
      if (!isInteger(value)) mismatch(value, schema.format ?? 'integer', path, out)
      else if (schema.format === 'int32' && Math.abs(value as number) > INT32_MAX)
        out.errors.push(`json: cannot unmarshal number ${String(value)} into Go struct field ${path} of type int32`)
      return
    case 'number':
      if (typeof value !== 'number') mismatch(value, 'float64', path, out)
      return
    case 'boolean':
      if (typeof value !== 'boolean') mismatch(value, 'bool', path, out)
      return
  }
}

const isInteger = (value: unknown) => typeof value === 'number' && Number.isInteger(value)

function mismatch(value: unknown, wanted: string, path: string, out: Decoded): void {
  const have = Array.isArray(value) ? 'array' : value === null ? 'null' : typeof value === 'boolean' ? 'bool' : typeof value
  out.errors.push(`json: cannot unmarshal ${have} into Go struct field ${path || '.'} of type ${wanted}`)
}
