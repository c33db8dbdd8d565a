/** The kinds as the REST machinery sees them: those of libs/api. */
import { findKind, type Kind as ApiKind, KINDS, parseFieldSelector, parseLabelSelector, SelectorError } from '@capstan/api'
import type { ApiOptions } from '@capstan/protocol'
import { badRequest } from './errors.js'
import type { Stored } from './stored.js'

export type Kind = ApiKind

export interface Kinds {
  find(group: string, version: string, resource: string): Kind | undefined
  all(): readonly Kind[]
}

export const kinds: Kinds = { find: findKind, all: () => KINDS }

/** What a request's selectors let through. @throws ApiError 400 */
export function selectorOf(kind: Kind, options: Pick<ApiOptions, 'labelSelector' | 'fieldSelector'>): (stored: Stored) => boolean {
  const { labelSelector, fieldSelector } = options
  if (!labelSelector && !fieldSelector) return () => true
  try {
    const fits = labelSelector ? parseLabelSelector(labelSelector) : undefined
    const fields = fieldSelector ? parseFieldSelector(fieldSelector) : []
    for (const { path } of fields)
      if (kind.field(NOTHING, path) === undefined) throw badRequest(`field label not supported: ${path}`)
    return ({ object }) =>
      (!fits || fits(object.metadata.labels)) && fields.every(({ path, equal, value }) => (kind.field(object, path) === value) === equal)
  } catch (error) {
    if (error instanceof SelectorError) throw badRequest(error.message)
    throw error
  }
}

/** To ask which fields a kind has. */
const NOTHING = { metadata: { name: '' } }
