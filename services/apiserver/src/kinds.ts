/** The kinds as the REST machinery sees them: those of libs/api. */
import { type Kind as ApiKind, KINDS, parseFieldSelector, parseLabelSelector, SelectorError } from '@capstan/api'
import type { ApiOptions } from '@capstan/protocol'
import { badRequest } from './errors.js'
import type { Stored } from './stored.js'

export type Kind = ApiKind

export interface Kinds {
  find(group: string, version: string, resource: string): Kind | undefined
  all(): readonly Kind[]
}

/** Subresources that this server has and a kind's own file does not name. */
const MORE_SUBRESOURCES: Readonly<Record<string, readonly string[]>> = { serviceaccounts: ['token'] }

const ALL: readonly Kind[] = KINDS.map((kind) => {
  const more = (kind.group === '' && MORE_SUBRESOURCES[kind.resource]) || []
  const missing = more.filter((sub) => !kind.subresources.includes(sub))
  return missing.length === 0 ? kind : { ...kind, subresources: [...kind.subresources, ...missing] }
})
const BY_NAME = new Map(ALL.map((kind) => [`${kind.group}/${kind.version}/${kind.resource}`, kind]))

export const kinds: Kinds = {
  find: (group, version, resource) => BY_NAME.get(`${group}/${version}/${resource}`),
  all: () => ALL,
}

/** What a request's selectors let through. @throws ApiError 400 */
export function selectorOf(
  kind: Kind,
  options: Pick<ApiOptions, 'labelSelector' | 'fieldSelector'>,
): (stored: Stored) => boolean {
  const { labelSelector, fieldSelector } = options
  if (!labelSelector && !fieldSelector) return () => true
  try {
    const fits = labelSelector ? parseLabelSelector(labelSelector) : undefined
    const fields = fieldSelector ? parseFieldSelector(fieldSelector) : []
    for (const { path } of fields)
      if (kind.field(NOTHING, path) === undefined) throw badRequest(`field label not supported: ${path}`)
    return ({ object }) =>
      (!fits || fits(object.metadata.labels)) &&
      fields.every(({ path, equal, value }) => (kind.field(object, path) === value) === equal)
  } catch (error) {
    if (error instanceof SelectorError) throw badRequest(error.message)
    throw error
  }
}

/** To ask which fields a kind has. */
const NOTHING = { metadata: { name: '' } }
