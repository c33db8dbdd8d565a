import fc from 'fast-check'
import type { Kind } from './kind.js'
import type { Json } from './kube-object.js'
import { resolve, type Schema } from './schema.js'

const DEPTH_MAX = 7
const FIELDS_MAX = 8

/**
 * Bodies of a kind for property tests: fields that it has, of the right types, with contents that may be right or wrong.
 * They are neither decoded nor defaulted, and may lack their metadata.
 */
export const bodyOf = (kind: Pick<Kind, 'schema'>): fc.Arbitrary<Json> => valueOf(kind.schema, 0) as fc.Arbitrary<Json>

function valueOf(given: Schema, depth: number): fc.Arbitrary<unknown> {
  const schema = resolve(given)
  if (!schema || depth > DEPTH_MAX) return fc.constant(null)
  if (schema.enum) return fc.constantFrom(...schema.enum, 'Other')
  if (schema.properties) {
    const fields = Object.entries(schema.properties)
    return fc.subarray(fields, { maxLength: Math.min(fields.length, FIELDS_MAX) }).chain((some) =>
      fc.record(Object.fromEntries(some.map(([name, field]) => [name, valueOf(field, depth + 1)])), {
        noNullPrototype: true,
      }),
    )
  }
  if (schema.items) return fc.array(valueOf(schema.items, depth + 1), { maxLength: 2 })
  if (schema.additionalProperties) {
    const key = fc.constantFrom('a', 'cpu', 'x/y', '__proto__', 'constructor')
    return fc.dictionary(key, valueOf(schema.additionalProperties, depth + 1), { maxKeys: 2, noNullPrototype: true })
  }
  if (schema.format === 'date-time') return fc.constantFrom('2026-01-01T00:00:00Z', null)
  if (schema.format === 'int-or-string') return fc.constantFrom<unknown>(0, 80, '25%', 'http', '')
  if (schema.format === 'byte') return fc.constantFrom('aGk=', '')
  switch (schema.type) {
    case 'integer':
      return fc.constantFrom(0, 1, -1, 80, 70_000)
    case 'number':
      return fc.constantFrom(0, 1.5)
    case 'boolean':
      return fc.boolean()
    case 'string':
      return fc.constantFrom('', '1', '5Gi', 'web', 'A b', '10.0.0.1', 'None')
    default:
      return fc.constant({})
  }
}
