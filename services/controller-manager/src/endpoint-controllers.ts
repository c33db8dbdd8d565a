import { sameJson } from '@capstan/api'
import { CallError } from '@capstan/actor'
import { controllerRef, Expectations, objectKey, RESOURCES, splitKey, startController, watchOf } from '@capstan/client'
import { type Endpoints, type EndpointSlice, formatTime, type Pod, type Service } from './kinds.js'
import type { Part, PartContext } from './part.js'
import { mapFits } from './selectors.js'
import {
  endpointSubsets,
  isSelecting,
  MANAGED_BY_LABEL,
  planSlices,
  SERVICE_NAME_LABEL,
  SLICE_MANAGER,
} from './service-endpoints.js'

const OVER_CAPACITY = 'endpoints.kubernetes.io/over-capacity'
const CHANGE_TIME = 'endpoints.kubernetes.io/last-change-trigger-time'

/** Services whose pods this one is or was. */
function servicesOf(parts: PartContext): (pod: Pod, before?: Pod) => string[] {
  const services = parts.informers.for<Service>(RESOURCES.services)
  return (pod, before) => {
    const keys: string[] = []
    for (const service of services.list(pod.metadata.namespace)) {
      if (!isSelecting(service)) continue
      const selector = service.spec?.selector ?? {}
      if (mapFits(selector, pod.metadata.labels) || (before && mapFits(selector, before.metadata.labels)))
        keys.push(objectKey(service))
    }
    return keys
  }
}

function podsOf(parts: PartContext, service: Service): Pod[] {
  const selector = service.spec?.selector ?? {}
  const { namespace = '' } = service.metadata
  return parts.informers
    .for<Pod>(RESOURCES.pods)
    .byIndex('namespace', namespace)
    .filter((pod) => mapFits(selector, pod.metadata.labels))
}

function indexPods(parts: PartContext): void {
  parts.informers.for<Pod>(RESOURCES.pods).addIndex('namespace', (pod) => [pod.metadata.namespace ?? ''])
}

/** Keeps an Endpoints object beside each Service with a selector. */
export function startEndpoints(parts: PartContext): Part {
  const { world, informers } = parts
  const services = informers.for<Service>(RESOURCES.services)
  const endpoints = informers.for<Endpoints>(RESOURCES.endpoints)
  indexPods(parts)
  return startController(world, {
    ...parts,
    name: 'endpoints-controller',
    watches: [
      watchOf<Service>(RESOURCES.services),
      watchOf<Pod>(RESOURCES.pods, servicesOf(parts)),
      watchOf<Endpoints>(RESOURCES.endpoints),
    ],
    workers: parts.options.workers ?? 4,
    async reconcile(key, { client }) {
      const service = services.get(key)
      const present = endpoints.get(key)
      const ref = splitKey(key)
      if (!service) {
        // Only what this loop made: Endpoints without a Service may be a user's or an elector's.
        if (present?.metadata.annotations?.[CHANGE_TIME] === undefined || present.metadata.deletionTimestamp) return
        const { uid } = present.metadata
        return ignore(['NotFound'], client.delete(RESOURCES.endpoints, ref, uid ? { preconditions: { uid } } : {}))
      }
      if (!isSelecting(service) || service.metadata.deletionTimestamp !== undefined) return
      const { subsets, truncated } = endpointSubsets(service, podsOf(parts, service))
      const labels = { ...service.metadata.labels }
      if (service.spec?.clusterIP === 'None') labels['service.kubernetes.io/headless'] = ''
      const { [OVER_CAPACITY]: wasTruncated, ...annotations } = present?.metadata.annotations ?? {}
      const same =
        present &&
        sameJson(present.subsets ?? [], subsets) &&
        sameJson(present.metadata.labels ?? {}, labels) &&
        (wasTruncated !== undefined) === truncated
      if (same) return
      const metadata = {
        ...present?.metadata,
        name: ref.name,
        namespace: ref.namespace ?? '',
        labels,
        annotations: {
          ...annotations,
          [CHANGE_TIME]: formatTime(world.clock.nowMs()),
          ...(truncated ? { [OVER_CAPACITY]: 'truncated' } : {}),
        },
      }
      const next: Endpoints = { apiVersion: 'v1', kind: 'Endpoints', metadata, subsets }
      if (present) await client.update(RESOURCES.endpoints, next)
      else await client.create(RESOURCES.endpoints, next)
    },
  })
}

/** Keeps EndpointSlices for each Service with a selector. They go with their Service by owner reference. */
export function startEndpointSlices(parts: PartContext): Part {
  const { world, informers } = parts
  const services = informers.for<Service>(RESOURCES.services)
  const slices = informers.for<EndpointSlice>(RESOURCES.endpointslices)
  indexPods(parts)
  const serviceKey = (slice: EndpointSlice) =>
    `${slice.metadata.namespace}/${slice.metadata.labels?.[SERVICE_NAME_LABEL] ?? ''}`
  slices.addIndex('service', (slice) => [serviceKey(slice)])
  const isOwn = (slice: EndpointSlice) => slice.metadata.labels?.[MANAGED_BY_LABEL] === SLICE_MANAGER
  const expectations = new Expectations(world)
  function observe(slice: EndpointSlice, before: EndpointSlice | undefined, deleted: boolean): string[] {
    const key = serviceKey(slice)
    if (isOwn(slice) && !deleted && before === undefined) expectations.creationObserved(key)
    if (deleted || slice.metadata.deletionTimestamp !== undefined)
      expectations.deletionObserved(key, slice.metadata.uid ?? '')
    return [...new Set([key, serviceKey(before ?? slice)])]
  }
  return startController(world, {
    ...parts,
    name: 'endpointslice-controller',
    watches: [
      watchOf<Service>(RESOURCES.services),
      watchOf<Pod>(RESOURCES.pods, servicesOf(parts)),
      watchOf<EndpointSlice>(RESOURCES.endpointslices, observe),
    ],
    workers: parts.options.workers ?? 4,
    async reconcile(key, { client }) {
      const service = services.get(key)
      if (!service) return expectations.forget(key)
      // The cache does not show yet what the last round did: to plan now would make a slice a second time.
      if (!expectations.satisfied(key)) return { requeueAfterMs: expectations.waitMs(key) }
      if (!isSelecting(service) || service.metadata.deletionTimestamp !== undefined) return
      const present = slices
        .byIndex('service', key)
        .filter((slice) => isOwn(slice) && slice.metadata.deletionTimestamp === undefined)
      const { namespace = '' } = service.metadata
      const plan = planSlices(
        service,
        podsOf(parts, service),
        present,
        controllerRef(service, { apiVersion: 'v1', kind: 'Service' }),
        (name) => slices.get(`${namespace}/${name}`) !== undefined,
      )
      // What is new before what goes: a client must not see a service without endpoints in between.
      for (const slice of plan.create) {
        expectations.expectCreations(key, 1)
        // What may have happened stays expected: the cache will show it, or the time-out ends the wait.
        await unless(client.create(RESOURCES.endpointslices, slice), () => expectations.creationObserved(key))
      }
      for (const slice of plan.update) await client.update(RESOURCES.endpointslices, slice)
      for (const slice of plan.delete) {
        const { name = '', uid } = slice.metadata
        const preconditions = uid ? { preconditions: { uid } } : {}
        expectations.expectDeletions(key, [uid ?? ''])
        const deletion = client.delete(RESOURCES.endpointslices, { name, namespace }, preconditions)
        await ignore(
          ['NotFound'],
          unless(deletion, () => expectations.deletionObserved(key, uid ?? '')),
        )
      }
    },
  })
}

/** Waits for a call, taking these failures for success. */
export async function ignore(codes: readonly string[], call: Promise<unknown>): Promise<void> {
  try {
    await call
  } catch (error) {
    if (!(error instanceof CallError && codes.includes(error.code))) throw error
  }
}

/** Waits for a call; `refused` is called if it failed and is known not to have happened. */
async function unless(call: Promise<unknown>, refused: () => void): Promise<void> {
  try {
    await call
  } catch (error) {
    if (CallError.fromBus(error).outcome === 'not-applied') refused()
    throw error
  }
}
