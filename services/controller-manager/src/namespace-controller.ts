import { CallError } from '@capstan/actor'
import { byText, type KubeObject, type Resource, RESOURCES, startController, watchOf } from '@capstan/client'
import { ignore } from './endpoint-controllers.js'
import { type Condition, type ConfigMap, formatTime, type Namespace } from './kinds.js'
import type { Part, PartContext } from './part.js'

const CLUSTER_SCOPED: readonly Resource[] = [RESOURCES.namespaces, RESOURCES.nodes]
const FINALIZER = 'kubernetes'
const RETRY_MS = 500

/** What a namespace may hold; owners before what they own, so that nothing is made anew meanwhile. */
const OWNERS: readonly Resource[] = [
  RESOURCES.deployments,
  RESOURCES.replicasets,
  RESOURCES.statefulsets,
  RESOURCES.replicationcontrollers,
  RESOURCES.services,
]
const CONTENT: readonly Resource[] = [
  ...OWNERS,
  ...Object.values(RESOURCES)
    .filter((r) => !CLUSTER_SCOPED.includes(r) && !OWNERS.includes(r))
    .sort((a, b) => byText(a.resource, b.resource)),
]

/** Empties a namespace that is being deleted, then lets it go by taking the finalizer `kubernetes` out of its spec. */
export function startNamespaces(parts: PartContext): Part {
  const namespaces = parts.informers.for<Namespace>(RESOURCES.namespaces)
  return startController(parts.world, {
    ...parts,
    name: 'namespace-controller',
    watches: [watchOf<Namespace>(RESOURCES.namespaces)],
    workers: 2,
    async reconcile(key, { client }) {
      const namespace = namespaces.get(key)
      if (!namespace || namespace.metadata.deletionTimestamp === undefined) return
      if (!namespace.spec?.finalizers?.includes(FINALIZER)) return
      const remaining: string[] = []
      for (const resource of CONTENT) {
        const count = await empty(resource, key)
        if (count > 0) remaining.push(`${resource.resource} has ${count} resource instances`)
      }
      if (remaining.length > 0) {
        await tellRemaining(namespace, remaining)
        return { requeueAfterMs: RETRY_MS }
      }
      const finalizers = namespace.spec.finalizers.filter((finalizer) => finalizer !== FINALIZER)
      const next: Namespace = { ...namespace, spec: { ...namespace.spec, finalizers } }
      await ignore(['NotFound'], client.update(RESOURCES.namespaces, next, { subresource: 'finalize' }))
      return

      async function empty(resource: Resource, name: string): Promise<number> {
        try {
          // Most kinds are not there at all: a list is cheaper than a deletion.
          if ((await client.list(resource, { namespace: name, limit: 1 })).items.length === 0) return 0
          await client.deleteCollection(resource, { namespace: name, propagationPolicy: 'Background' })
          return (await client.list(resource, { namespace: name })).items.length
        } catch (error) {
          // An API server that does not serve the kind has none of it.
          if (error instanceof CallError && (error.code === 'NotFound' || error.code === 'MethodNotAllowed')) return 0
          throw error
        }
      }

      async function tellRemaining(object: Namespace, what: string[]): Promise<void> {
        const message = `Some resources are remaining: ${what.join(', ')}`
        const type = 'NamespaceContentRemaining'
        const before = object.status?.conditions?.find((c) => c.type === type)
        if (before?.message === message) return
        const told: Condition = {
          type,
          status: 'True',
          reason: 'SomeResourcesRemain',
          message,
          lastTransitionTime: before?.lastTransitionTime ?? formatTime(parts.world.clock.nowMs()),
        }
        const conditions = [...(object.status?.conditions ?? []).filter((c) => c.type !== type), told]
        const next: Namespace = { ...object, status: { ...object.status, conditions } }
        await ignore(['NotFound', 'Conflict'], client.update(RESOURCES.namespaces, next, { subresource: 'status' }))
      }
    },
  })
}

/** Keeps the ServiceAccount `default` in each namespace. */
export function startServiceAccounts(parts: PartContext): Part {
  return keepInNamespaces(parts, 'serviceaccount-controller', RESOURCES.serviceaccounts, 'default', () => ({
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: {},
  }))
}

/** Keeps the ConfigMap with the cluster's root certificate in each namespace. */
export function startRootCa(parts: PartContext, rootCaPem: string): Part {
  const make = (): ConfigMap => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: {}, data: { 'ca.crt': rootCaPem } })
  const isRight = (object: KubeObject) => (object as ConfigMap).data?.['ca.crt'] === rootCaPem
  return keepInNamespaces(parts, 'root-ca-controller', RESOURCES.configmaps, 'kube-root-ca.crt', make, isRight)
}

function keepInNamespaces(
  parts: PartContext,
  controllerName: string,
  resource: Resource,
  name: string,
  make: () => KubeObject,
  isRight: (object: KubeObject) => boolean = () => true,
): Part {
  const namespaces = parts.informers.for<Namespace>(RESOURCES.namespaces)
  const objects = parts.informers.for<KubeObject>(resource)
  return startController(parts.world, {
    ...parts,
    name: controllerName,
    watches: [
      watchOf<Namespace>(RESOURCES.namespaces),
      watchOf<KubeObject>(resource, ({ metadata }) =>
        metadata.name === name && metadata.namespace ? [metadata.namespace] : [],
      ),
    ],
    async reconcile(key, { client }) {
      const namespace = namespaces.get(key)
      if (!namespace || namespace.metadata.deletionTimestamp !== undefined || namespace.status?.phase === 'Terminating')
        return
      const present = objects.get(`${key}/${name}`)
      const wanted = make()
      if (!present) {
        const object = { ...wanted, metadata: { name, namespace: key } }
        // Forbidden: the namespace began to go while the cache did not know it yet.
        await ignore(['AlreadyExists', 'Forbidden', 'NotFound'], client.create(resource, object))
      } else if (!isRight(present)) await client.update(resource, { ...wanted, metadata: present.metadata })
    },
  })
}
