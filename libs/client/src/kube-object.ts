/**
 * The part of a Kubernetes object that the client machinery reads: structural, so that every kind of `@capstan/api`
 * (and every user's own) fits without being named here.
 */
export interface KubeObject {
  apiVersion?: string
  kind?: string
  metadata: ObjectMeta
}

export interface ObjectMeta {
  name?: string
  generateName?: string
  namespace?: string
  uid?: string
  resourceVersion?: string
  generation?: number
  /** RFC 3339, whole seconds. */
  creationTimestamp?: string
  deletionTimestamp?: string
  deletionGracePeriodSeconds?: number
  labels?: Record<string, string>
  annotations?: Record<string, string>
  ownerReferences?: OwnerReference[]
  finalizers?: string[]
}

export interface OwnerReference {
  apiVersion: string
  kind: string
  name: string
  uid: string
  controller?: boolean
  blockOwnerDeletion?: boolean
}

/** `namespace/name`, or `name` of what lives in no namespace: the key of stores and work queues. */
export function objectKey(object: KubeObject): string {
  const { namespace, name = '' } = object.metadata
  return namespace ? `${namespace}/${name}` : name
}

/** Undoes `objectKey`. */
export function splitKey(key: string): { namespace?: string; name: string } {
  const at = key.indexOf('/')
  return at < 0 ? { name: key } : { namespace: key.slice(0, at), name: key.slice(at + 1) }
}

/** Order by code unit, as all loops over objects in this project run. */
export function byText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
