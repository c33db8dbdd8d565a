import type { Kind } from './kind.js'
import { configMap, event, lease, namespace, node, secret, serviceAccount } from './kinds/cluster.js'
import { podDisruptionBudget } from './kinds/disruption.js'
import { endpoints, endpointSlice, service } from './kinds/network.js'
import { pod } from './kinds/pod.js'
import { REVIEWS } from './kinds/reviews.js'
import { controllerRevision, statefulSet } from './kinds/stateful-set.js'
import { deployment, replicaSet, replicationController } from './kinds/workloads.js'

/** Every kind that is served. */
export const KINDS: readonly Kind[] = [
  namespace,
  node,
  pod,
  service,
  endpoints,
  configMap,
  secret,
  serviceAccount,
  event,
  replicationController,
  replicaSet,
  deployment,
  statefulSet,
  controllerRevision,
  endpointSlice,
  lease,
  podDisruptionBudget,
  ...REVIEWS,
]

const BY_RESOURCE = new Map(KINDS.map((kind) => [`${kind.group}/${kind.version}/${kind.resource}`, kind]))
const BY_KIND = new Map(KINDS.map((kind) => [`${kind.group}/${kind.version}/${kind.kind}`, kind]))

export const findKind = (group: string, version: string, resource: string): Kind | undefined =>
  BY_RESOURCE.get(`${group}/${version}/${resource}`)

/** `apiVersion` as in objects: `v1`, `apps/v1`. */
export function findByKind(apiVersion: string, kind: string): Kind | undefined {
  const at = apiVersion.indexOf('/')
  return BY_KIND.get(at < 0 ? `/${apiVersion}/${kind}` : `${apiVersion}/${kind}`)
}
