import type { ApiClient, Resource } from './api-client.js'
import type { KubeObject, OwnerReference } from './kube-object.js'

/** The one owner reference with `controller: true`, if any. */
export function controllerOf(object: KubeObject): OwnerReference | undefined {
  return object.metadata.ownerReferences?.find((reference) => reference.controller === true)
}

export function isControlledBy(object: KubeObject, owner: KubeObject): boolean {
  return controllerOf(object)?.uid === owner.metadata.uid && owner.metadata.uid !== undefined
}

/** The reference that makes `owner` the controller of another object. */
export function controllerRef(owner: KubeObject, type: { apiVersion: string; kind: string }): OwnerReference {
  const { name = '', uid = '' } = owner.metadata
  return { apiVersion: type.apiVersion, kind: type.kind, name, uid, controller: true, blockOwnerDeletion: true }
}

export interface ClaimOptions<T extends KubeObject> {
  client: ApiClient
  resource: Resource
  owner: KubeObject
  ownerType: { apiVersion: string; kind: string }
  /** All that may be the owner's: in its namespace. */
  candidates: readonly T[]
  matches(object: T): boolean
  /**
   * Asked once before the first adoption: the owner as the API server has it now. An owner that is gone, replaced or being
   * deleted adopts nothing, whatever the cache says.
   */
  liveOwner(): Promise<KubeObject | undefined>
}

/**
 * The objects that the owner controls, after adopting matching ones without a controller and releasing those that match
 * no more. Adoption and release are checked against the object's resourceVersion; a race is an error to be repeated.
 */
export async function claimObjects<T extends KubeObject>(options: ClaimOptions<T>): Promise<T[]> {
  const { client, resource, owner, candidates } = options
  const claimed: T[] = []
  let mayAdopt: boolean | undefined
  for (const object of candidates) {
    const controller = controllerOf(object)
    const { name = '', namespace, ownerReferences = [], resourceVersion } = object.metadata
    const ref = namespace === undefined ? { name } : { namespace, name }
    if (controller) {
      if (controller.uid !== owner.metadata.uid) continue
      if (options.matches(object)) {
        claimed.push(object)
        continue
      }
      if (owner.metadata.deletionTimestamp !== undefined || object.metadata.deletionTimestamp !== undefined) continue
      const others = ownerReferences.filter((reference) => reference.uid !== owner.metadata.uid)
      await ignoreGone(
        client.patch(resource, ref, 'merge', {
          metadata: { ownerReferences: others.length > 0 ? others : null, resourceVersion },
        }),
      )
      continue
    }
    if (owner.metadata.deletionTimestamp !== undefined || object.metadata.deletionTimestamp !== undefined) continue
    if (!options.matches(object)) continue
    if (mayAdopt === undefined) {
      const live = await options.liveOwner()
      mayAdopt = live?.metadata.uid === owner.metadata.uid && live?.metadata.deletionTimestamp === undefined
    }
    if (!mayAdopt) continue
    const references = [...ownerReferences, controllerRef(owner, options.ownerType)]
    const adopted = await ignoreGone(
      client.patch<T>(resource, ref, 'merge', { metadata: { ownerReferences: references, resourceVersion } }),
    )
    if (adopted) claimed.push(adopted)
  }
  return claimed
}

async function ignoreGone<R>(call: Promise<R>): Promise<R | undefined> {
  try {
    return await call
  } catch (error) {
    if ((error as { code?: string }).code === 'NotFound') return undefined
    throw error
  }
}
