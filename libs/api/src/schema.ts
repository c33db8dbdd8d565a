import { SCHEMA_JSON } from './generated/schema.js'

/** A definition or a field of one, as OpenAPI has it. */
export interface Schema {
  type?: 'object' | 'array' | 'string' | 'integer' | 'number' | 'boolean'
  format?: string
  $ref?: string
  properties?: Record<string, Schema>
  additionalProperties?: Schema
  items?: Schema
  required?: string[]
  enum?: string[]
  default?: unknown
  'x-kubernetes-list-type'?: 'map' | 'set' | 'atomic'
  'x-kubernetes-list-map-keys'?: string[]
  'x-kubernetes-patch-merge-key'?: string
  'x-kubernetes-patch-strategy'?: string
}

/** Parsed once: nothing of it ever changes. */
export const DEFINITIONS = JSON.parse(SCHEMA_JSON) as Readonly<Record<string, Schema>>

const PREFIX = '#/definitions/'

/** Follows a reference; a schema without one is itself. */
export function resolve(schema: Schema | undefined): Schema | undefined {
  if (!schema?.$ref) return schema
  return DEFINITIONS[schema.$ref.slice(PREFIX.length)]
}

export const refName = (schema: Schema): string | undefined => schema.$ref?.slice(PREFIX.length)
