import { jsonPatch, mergePatch, PatchError, strategicMergePatch } from '@capstan/api'
import type { PatchType } from '@capstan/protocol'
import { ApiError, badRequest, failure } from './errors.js'
import type { Kind } from './kinds.js'
import type { KubeObject } from './stored.js'

/** @throws ApiError 400, 422 */
export function applyPatch(
  type: Exclude<PatchType, 'apply'>,
  kind: Kind,
  object: KubeObject,
  patch: unknown,
): KubeObject {
  try {
    return apply(type, kind, object, patch) as unknown as KubeObject
  } catch (error) {
    if (!(error instanceof PatchError)) throw error
    if (error.kind === 'malformed') throw badRequest(error.message)
    const text = 'the server rejected our request due to an error in our request'
    throw new ApiError(failure(422, 'Invalid', `${text}: ${error.message}`))
  }
}

function apply(type: Exclude<PatchType, 'apply'>, kind: Kind, object: KubeObject, patch: unknown) {
  const given = object as unknown as Record<string, unknown>
  switch (type) {
    case 'json':
      return jsonPatch(given, patch)
    case 'merge':
      return mergePatch(given, patch)
    case 'strategic':
      return strategicMergePatch(given, patch, kind.schema)
    default:
      throw badRequest(`unknown patch type ${JSON.stringify(type)}`)
  }
}
