/**
 * How kubelet and node-lifecycle agree who may run the pods of an identity (StatefulSets; promise C3), by the node's Lease
 * in `kube-node-lease`.
 *
 * - A renewal carries the resourceVersion that it renews, and this annotation while a guard watches over the node's
 *   identity pods: they end when so many ms have passed since the *sending* of the last renewal that was acknowledged.
 * - node-lifecycle takes the Lease from a silent node by writing `FENCED_HOLDER` into it, against the same resourceVersion,
 *   after that time and a margin have passed since it first saw that version. From then on no renewal of that node goes
 *   through, and its identity pods may be given to others.
 * - A kubelet that finds its Lease taken ends its identity pods before it takes it back, and starts none again that it has
 *   not seen in the API since.
 */
export const IDENTITY_LEASE_MS = 'capstan.io/identity-lease-ms'

/** No node has this name: it is no DNS label. */
export const FENCED_HOLDER = 'capstan.io/fenced'
