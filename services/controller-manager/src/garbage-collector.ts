import {
  byText,
  type ControllerContext,
  type KubeObject,
  objectKey,
  type OwnerReference,
  type Resource,
  RESOURCES,
  splitKey,
  startController,
  watchOf,
} from '@capstan/client'
import { ignore } from './endpoint-controllers.js'
import type { Part, PartContext } from './part.js'
import { getLive } from './replica-controller.js'

const FOREGROUND = 'foregroundDeletion'
const ORPHAN = 'orphan'
const BY_OWNER = 'owner'
const ABSENT_MAX = 1024

/** Kinds that own or are owned. Events come and go by themselves. */
const KINDS: Record<string, Resource> = {
  'v1/Namespace': RESOURCES.namespaces,
  'v1/Node': RESOURCES.nodes,
  'v1/Pod': RESOURCES.pods,
  'v1/Service': RESOURCES.services,
  'v1/Endpoints': RESOURCES.endpoints,
  'v1/ConfigMap': RESOURCES.configmaps,
  'v1/Secret': RESOURCES.secrets,
  'v1/ServiceAccount': RESOURCES.serviceaccounts,
  'v1/ReplicationController': RESOURCES.replicationcontrollers,
  'apps/v1/ReplicaSet': RESOURCES.replicasets,
  'apps/v1/Deployment': RESOURCES.deployments,
  'apps/v1/StatefulSet': RESOURCES.statefulsets,
  'apps/v1/ControllerRevision': RESOURCES.controllerrevisions,
  'discovery.k8s.io/v1/EndpointSlice': RESOURCES.endpointslices,
  'coordination.k8s.io/v1/Lease': RESOURCES.leases,
  'policy/v1/PodDisruptionBudget': RESOURCES.poddisruptionbudgets,
}
const CLUSTER_SCOPED: readonly Resource[] = [RESOURCES.namespaces, RESOURCES.nodes]
const WATCHED = Object.values(KINDS)

/** `<resource> <namespace/name>`: what the queue holds. */
const keyOf = (resource: Resource, object: KubeObject) => `${resource.resource} ${objectKey(object)}`

interface Found {
  resource: Resource
  object: KubeObject
}

/**
 * Deletes what no living object owns any more, and carries out the deletion policies: in the foreground (what is owned
 * goes first) and orphaning (what is owned stays, without the reference). An owner that the cache does not have is looked
 * up live before anything is deleted for its absence; kinds not known here count as living.
 */
export function startGarbageCollector(parts: PartContext): Part {
  const informers = WATCHED.map((resource) => ({ resource, informer: parts.informers.for<KubeObject>(resource) }))
  for (const { informer } of informers)
    informer.addIndex(BY_OWNER, ({ metadata }) => (metadata.ownerReferences ?? []).map(({ uid }) => uid))
  /** Owners (uid) that were looked up and are gone; a uid never comes back. The oldest gives way. */
  const absent = new Set<string>()

  return startController(parts.world, {
    ...parts,
    name: 'garbage-collector',
    watches: informers.map(({ resource }) =>
      watchOf<KubeObject>(resource, (object, before, deleted) => {
        const keys: string[] = []
        const { metadata } = object
        const changed =
          before === undefined ||
          metadata.deletionTimestamp !== before.metadata.deletionTimestamp ||
          JSON.stringify(metadata.finalizers) !== JSON.stringify(before.metadata.finalizers) ||
          JSON.stringify(metadata.ownerReferences) !== JSON.stringify(before.metadata.ownerReferences)
        if (!changed) return keys
        if (!deleted && ((metadata.ownerReferences?.length ?? 0) > 0 || metadata.deletionTimestamp !== undefined))
          keys.push(keyOf(resource, object))
        // What it owns: its owner is gone, or waits for it.
        if (deleted || metadata.deletionTimestamp !== undefined)
          for (const dependent of dependents(metadata.uid)) keys.push(keyOf(dependent.resource, dependent.object))
        // Whom it kept waiting.
        if (deleted || metadata.deletionTimestamp !== undefined || before !== undefined)
          for (const reference of [...(metadata.ownerReferences ?? []), ...(before?.metadata.ownerReferences ?? [])]) {
            const owner = cachedOwner(reference, metadata.namespace)
            if (owner?.object.metadata.deletionTimestamp !== undefined) keys.push(keyOf(owner.resource, owner.object))
          }
        return [...new Set(keys)]
      }),
    ),
    workers: parts.options.workers ?? 4,
    async reconcile(key, context) {
      const at = key.indexOf(' ')
      const found = informers.find(({ resource }) => resource.resource === key.slice(0, at))
      const object = found?.informer.get(key.slice(at + 1))
      if (!found || !object) return
      if (object.metadata.deletionTimestamp !== undefined) {
        if (object.metadata.finalizers?.includes(ORPHAN)) return orphanDependents(found.resource, object, context)
        if (object.metadata.finalizers?.includes(FOREGROUND)) return deleteDependents(found.resource, object, context)
        return
      }
      if ((object.metadata.ownerReferences?.length ?? 0) > 0) await collect(found.resource, object, context)
    },
  })

  function dependents(uid: string | undefined): Found[] {
    if (uid === undefined) return []
    return informers.flatMap(({ resource, informer }) =>
      informer.byIndex(BY_OWNER, uid).map((object) => ({ resource, object })),
    )
  }

  function cachedOwner(reference: OwnerReference, namespace: string | undefined): Found | undefined {
    const resource = KINDS[`${reference.apiVersion}/${reference.kind}`]
    const informer = informers.find((i) => i.resource === resource)?.informer
    if (!resource || !informer) return undefined
    const { name } = reference
    const key = CLUSTER_SCOPED.includes(resource) ? name : `${namespace ?? ''}/${name}`
    const object = informer.get(key)
    return object?.metadata.uid === reference.uid ? { resource, object } : undefined
  }

  /** `solid`: lives. `waiting`: is being deleted in the foreground, what it owns first. `absent`: is gone. */
  async function classify(
    object: KubeObject,
    reference: OwnerReference,
    { client, log, events }: ControllerContext,
  ): Promise<'solid' | 'waiting' | 'absent'> {
    if (absent.has(reference.uid)) return 'absent'
    const resource = KINDS[`${reference.apiVersion}/${reference.kind}`]
    if (!resource) {
      log.debug(
        { kind: reference.kind, apiVersion: reference.apiVersion },
        'an owner of an unknown kind counts as living',
      )
      return 'solid'
    }
    const clusterScoped = CLUSTER_SCOPED.includes(resource)
    const { namespace } = object.metadata
    if (!clusterScoped && namespace === undefined) {
      const text = `owner ${reference.kind} ${reference.name} lives in a namespace, this object does not`
      events.record({ object }, 'Warning', 'OwnerRefInvalidNamespace', text)
      return 'solid'
    }
    const ref = clusterScoped ? { name: reference.name } : { name: reference.name, namespace: namespace as string }
    const owner = cachedOwner(reference, namespace)?.object ?? (await getLive<KubeObject>(client, resource, ref))
    if (!owner || owner.metadata.uid !== reference.uid) {
      if (absent.size >= ABSENT_MAX) for (const oldest of [...absent].slice(0, 1)) absent.delete(oldest)
      absent.add(reference.uid)
      return 'absent'
    }
    // `blockOwnerDeletion` says whether the owner waits for this object, not whether the object goes.
    const waits =
      owner.metadata.deletionTimestamp !== undefined && owner.metadata.finalizers?.includes(FOREGROUND) === true
    return waits ? 'waiting' : 'solid'
  }

  async function collect(resource: Resource, object: KubeObject, context: ControllerContext): Promise<void> {
    const references = object.metadata.ownerReferences ?? []
    const kept: OwnerReference[] = []
    let waiting = 0
    for (const reference of references) {
      const state = await classify(object, reference, context)
      if (state === 'solid') kept.push(reference)
      else if (state === 'waiting') waiting++
    }
    if (kept.length === references.length) return
    const ref = refOf(object)
    if (kept.length > 0) {
      const { resourceVersion } = object.metadata
      return ignore(
        ['NotFound'],
        context.client.patch(resource, ref, 'merge', { metadata: { resourceVersion, ownerReferences: kept } }),
      )
    }
    // Nobody is left to keep it. It has what it owns deleted first only if somebody waits for that.
    const own = dependents(object.metadata.uid).some(({ object: o }) => isBlocking(o, object))
    const finalizers = object.metadata.finalizers ?? []
    const propagationPolicy = finalizers.includes(ORPHAN)
      ? 'Orphan'
      : finalizers.includes(FOREGROUND) || (waiting > 0 && own)
        ? 'Foreground'
        : 'Background'
    const { uid, resourceVersion } = object.metadata
    const preconditions = { ...(uid ? { uid } : {}), ...(resourceVersion ? { resourceVersion } : {}) }
    context.log.debug(
      { resource: resource.resource, object: objectKey(object), propagationPolicy },
      'collecting: its owners are gone',
    )
    await ignore(['NotFound'], context.client.delete(resource, ref, { preconditions, propagationPolicy }))
    parts.counters.collected++
  }

  /** Foreground: everything that blocks must be gone before the owner goes. */
  async function deleteDependents(resource: Resource, owner: KubeObject, context: ControllerContext): Promise<void> {
    const owned = dependents(owner.metadata.uid)
    const blocking = owned.filter(({ object }) => isBlocking(object, owner))
    for (const { resource: kind, object } of owned)
      if (object.metadata.deletionTimestamp === undefined) context.enqueue(keyOf(kind, object))
    // Each blocking one calls this owner up again when it goes.
    if (blocking.length === 0) await removeFinalizer(resource, owner, FOREGROUND, context)
  }

  async function orphanDependents(resource: Resource, owner: KubeObject, context: ControllerContext): Promise<void> {
    const owned = dependents(owner.metadata.uid).sort((a, b) =>
      byText(keyOf(a.resource, a.object), keyOf(b.resource, b.object)),
    )
    for (const { resource: kind, object } of owned) {
      const { resourceVersion, ownerReferences = [] } = object.metadata
      const others = ownerReferences.filter(({ uid }) => uid !== owner.metadata.uid)
      const metadata = { resourceVersion, ownerReferences: others.length > 0 ? others : null }
      await ignore(['NotFound'], context.client.patch(kind, refOf(object), 'merge', { metadata }))
    }
    await removeFinalizer(resource, owner, ORPHAN, context)
  }

  async function removeFinalizer(
    resource: Resource,
    object: KubeObject,
    finalizer: string,
    { client }: ControllerContext,
  ): Promise<void> {
    const finalizers = (object.metadata.finalizers ?? []).filter((f) => f !== finalizer)
    const { resourceVersion } = object.metadata
    const metadata = { resourceVersion, finalizers: finalizers.length > 0 ? finalizers : null }
    await ignore(['NotFound'], client.patch(resource, refOf(object), 'merge', { metadata }))
  }
}

function isBlocking(object: KubeObject, owner: KubeObject): boolean {
  return (object.metadata.ownerReferences ?? []).some(
    (r) => r.uid === owner.metadata.uid && r.blockOwnerDeletion === true,
  )
}

function refOf(object: KubeObject): { namespace?: string; name: string } {
  return splitKey(objectKey(object))
}
