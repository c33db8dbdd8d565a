import { openApiDocument as makeDocument, openApiPath } from '@capstan/api'
import type { Kinds } from './kinds.js'

/** Made on first use, and kept: a few documents of some 100 KB. */
const documents = new Map<string, Uint8Array>()

/** `/openapi/v3`: which documents there are. */
export function openApiIndex(kinds: Kinds, etagOf: (bytes: Uint8Array) => string): object {
  const paths: Record<string, { serverRelativeURL: string }> = {}
  for (const path of [...new Set(kinds.all().map(openApiPath))].sort()) {
    const bytes = openApiDocument(kinds, path)
    if (bytes) paths[path] = { serverRelativeURL: `/openapi/v3/${path}?hash=${etagOf(bytes)}` }
  }
  return { paths }
}

/** `path`: `api/v1`, `apis/apps/v1`. The same bytes each time. Undefined: no such document. */
export function openApiDocument(kinds: Kinds, path: string): Uint8Array | undefined {
  const made = documents.get(path)
  if (made) return made
  const own = kinds.all().filter((kind) => openApiPath(kind) === path)
  if (own.length === 0) return undefined
  const bytes = Buffer.from(JSON.stringify(makeDocument(own)))
  documents.set(path, bytes)
  return bytes
}
