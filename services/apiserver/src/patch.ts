import type { PatchType } from '@capstan/protocol'
import { badRequest } from './errors.js'
import type { Kind } from './kinds.js'
import type { KubeObject } from './stored.js'

/** @throws ApiError 400, 422 */
export function applyPatch(type: PatchType, kind: Kind, object: KubeObject, patch: unknown): KubeObject {
  void type
  void kind
  void object
  void patch
  throw badRequest('patches are not there yet')
}
