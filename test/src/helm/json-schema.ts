/**
 * JSON schema: the part of draft-07 that our values' schema uses, and the part of OpenAPI that Kubernetes' definitions use.
 * A keyword that it does not know is an error of the schema, never ignored.
 */
import { isDeepStrictEqual } from 'node:util'

export interface JsonSchema {
  [keyword: string]: unknown
}

export interface SchemaOptions {
  /** For `$ref: '#/definitions/…'`. */
  definitions?: Readonly<Record<string, JsonSchema>>
  /** Objects with `properties` take no others (Kubernetes' strict decoding). */
  closed?: boolean
}

const IGNORED = ['$schema', 'title', 'description', 'default', 'format']
const KNOWN = [
  ...['$ref', 'type', 'properties', 'required', 'additionalProperties', 'items', 'enum', 'pattern'],
  ...['minimum', 'maximum', 'minLength', 'maxLength', 'anyOf'],
]

const typeOf = (value: unknown): string => {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'array'
  return typeof value
}

/** What is wrong, each with where: `store.heartbeatMs: must be at most 1000`. Empty: nothing. */
export function schemaFaults(schema: JsonSchema, value: unknown, options: SchemaOptions = {}, path = ''): string[] {
  const unknown = Object.keys(schema).filter(
    (k) => !KNOWN.includes(k) && !IGNORED.includes(k) && !k.startsWith('x-kub'),
  )
  if (unknown.length > 0) throw new Error(`the schema at ${path || 'its root'} uses ${unknown.join(', ')}`)
  const say = (text: string) => `${path || '(root)'}: ${text}`
  if (typeof schema['$ref'] === 'string') {
    const name = schema['$ref'].replace('#/definitions/', '')
    const target = options.definitions?.[name]
    if (!target) throw new Error(`the schema has no definition of ${name}`)
    return schemaFaults(target, value, options, path)
  }
  if (schema['format'] === 'int-or-string')
    return ['string', 'number'].includes(typeOf(value)) ? [] : [say('must be a string or a number')]
  const types = schema['type'] === undefined ? [] : ([schema['type']].flat() as string[])
  const type = typeOf(value)
  const fits = (wanted: string) => wanted === type || (wanted === 'integer' && Number.isInteger(value))
  if (types.length > 0 && !types.some(fits)) return [say(`must be a ${types.join(' or ')}, not a ${type}`)]
  const faults: string[] = []
  const choices = schema['enum'] as unknown[] | undefined
  if (choices && !choices.some((choice) => isDeepStrictEqual(choice, value)))
    faults.push(say(`must be one of ${choices.map((c) => JSON.stringify(c)).join(', ')}, not ${JSON.stringify(value)}`))
  if (schema['anyOf']) {
    const attempts = (schema['anyOf'] as JsonSchema[]).map((one) => schemaFaults(one, value, options, path))
    if (attempts.every((attempt) => attempt.length > 0))
      faults.push(say(attempts.map((attempt) => attempt.join(', ').replaceAll(`${path}: `, '')).join(', or ')))
  }
  const bound = (keyword: string) => schema[keyword] as number | undefined
  if (typeof value === 'number') {
    if (value < (bound('minimum') ?? -Infinity)) faults.push(say(`must be at least ${bound('minimum')}`))
    if (value > (bound('maximum') ?? Infinity)) faults.push(say(`must be at most ${bound('maximum')}`))
  }
  if (typeof value === 'string') {
    if (value.length < (bound('minLength') ?? 0)) faults.push(say('must not be empty'))
    if (value.length > (bound('maxLength') ?? Infinity))
      faults.push(say(`must have at most ${bound('maxLength')} characters`))
    if (schema['pattern'] !== undefined && !new RegExp(schema['pattern'] as string).test(value))
      faults.push(say(`${JSON.stringify(value)} does not fit ${String(schema['pattern'])}`))
  }
  if (Array.isArray(value) && schema['items'])
    value.forEach((item, index) =>
      faults.push(...schemaFaults(schema['items'] as JsonSchema, item, options, `${path}[${index}]`)),
    )
  if (type === 'object') faults.push(...objectFaults(schema, value as Record<string, unknown>, options, path))
  return faults
}

function objectFaults(
  schema: JsonSchema,
  value: Record<string, unknown>,
  options: SchemaOptions,
  path: string,
): string[] {
  const faults: string[] = []
  const properties = (schema['properties'] ?? {}) as Record<string, JsonSchema>
  const rest = schema['additionalProperties'] ?? !(options.closed && schema['properties'])
  for (const name of (schema['required'] ?? []) as string[])
    if (!Object.hasOwn(value, name)) faults.push(`${path || '(root)'}: ${name} is required`)
  for (const [name, item] of Object.entries(value)) {
    const at = path === '' ? name : `${path}.${name}`
    if (Object.hasOwn(properties, name)) faults.push(...schemaFaults(properties[name] as JsonSchema, item, options, at))
    else if (rest === false) faults.push(`${at}: is not known`)
    else if (rest !== true) faults.push(...schemaFaults(rest as JsonSchema, item, options, at))
  }
  return faults
}
