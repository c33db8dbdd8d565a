import type { Kinds } from './kinds.js'

/** `/openapi/v3`: which documents there are. */
export function openApiIndex(kinds: Kinds, etagOf: (bytes: Uint8Array) => string): object {
  void kinds
  void etagOf
  return { paths: {} }
}

/** `path`: `api/v1`, `apis/apps/v1`. The same bytes each time. Undefined: no such document. */
export function openApiDocument(kinds: Kinds, path: string): Uint8Array | undefined {
  void kinds
  void path
  return undefined
}
