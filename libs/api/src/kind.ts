import type { StatusCause } from './causes.js'
import type { KubeObject } from './kube-object.js'
import type { Schema } from './schema.js'

/** One column of `kubectl get` (meta.k8s.io TableColumnDefinition). Priority above 0: only with `-o wide`. */
export interface Column {
  name: string
  type: 'string' | 'integer' | 'boolean' | 'date'
  format: '' | 'name'
  description: string
  priority: number
}

/**
 * All that is special about one kind. The REST machinery knows no kind by name. Functions that prepare change the object
 * that they are given; all others are pure.
 */
export interface Kind {
  readonly group: string
  readonly version: string
  readonly kind: string
  /** Plural, as in the URL. */
  readonly resource: string
  readonly singular: string
  readonly shortNames: readonly string[]
  readonly categories: readonly string[]
  readonly namespaced: boolean
  readonly verbs: readonly string[]
  readonly subresources: readonly string[]
  /** Answered at once, never kept. */
  readonly isReview: boolean
  readonly hasGeneration: boolean
  /** Name of its definition. */
  readonly definition: string
  readonly schema: Schema
  readonly columns: readonly Column[]
  /** One table row's cells, one for each column. */
  cells(object: KubeObject, nowMs: number): unknown[]
  /** What kubectl colours or hides a row by. */
  rowConditions?(object: KubeObject): object | undefined
  /** Checks fields against the schema and drops unknown ones: `Strict` makes them errors, `Warn` warnings. */
  decode(object: KubeObject, validation: 'Strict' | 'Warn' | 'Ignore'): { errors: string[]; warnings: string[] }
  /** What Kubernetes fills in. Idempotent. */
  setDefaults(object: KubeObject): void
  /** Drops what a creator may not set. */
  prepareForCreate(object: KubeObject): void
  /** Puts back what this (sub)resource may not change. `subresource` '' is the object itself. */
  prepareForUpdate(object: KubeObject, old: KubeObject, subresource: string): void
  /** Does the generation rise? */
  specChanged(object: KubeObject, old: KubeObject): boolean
  validate(object: KubeObject): StatusCause[]
  validateUpdate(object: KubeObject, old: KubeObject, subresource: string): StatusCause[]
  /** Only kinds with a scale subresource. */
  toScale?(object: KubeObject): KubeObject
  /** For field selectors. Undefined: not a selectable field. */
  field(object: KubeObject, path: string): string | undefined
}
