/** Which pods answer for a Service, and how that is written in Endpoints and EndpointSlices. Pure. */
import { sameJson } from '@capstan/api'
import { byText } from '@capstan/client'
import { canonicalJson, shortHash } from './canonical.js'
import {
  type EndpointAddress,
  type EndpointPort,
  type EndpointSlice,
  type EndpointSubset,
  isPodFinished,
  isPodReady,
  type Pod,
  type Service,
  type ServicePort,
  type SliceEndpoint,
} from './kinds.js'

export const SLICE_ENDPOINTS_MAX = 100
/** Slices are merged when one fewer would hold all at this share of their room: at its edge nothing goes to and fro. */
const MERGED_SHARE_MAX = 0.75
export const ENDPOINTS_ADDRESSES_MAX = 1000
export const SERVICE_NAME_LABEL = 'kubernetes.io/service-name'
export const MANAGED_BY_LABEL = 'endpointslice.kubernetes.io/managed-by'
export const SLICE_MANAGER = 'endpointslice-controller.k8s.io'

/** Does the control loop keep endpoints for this Service? Without a selector, somebody else does. */
export function isSelecting(service: Service): boolean {
  return Object.keys(service.spec?.selector ?? {}).length > 0 && service.spec?.type !== 'ExternalName'
}

interface Backend {
  pod: Pod
  ip: string
  ports: EndpointPort[]
  ready: boolean
  terminating: boolean
}

function backends(service: Service, pods: readonly Pod[]): Backend[] {
  const found: Backend[] = []
  for (const pod of [...pods].sort((a, b) => byText(a.metadata.name ?? '', b.metadata.name ?? ''))) {
    const ip = pod.status?.podIP
    if (!ip || !pod.spec?.nodeName || isPodFinished(pod)) continue
    const ports: EndpointPort[] = []
    for (const port of service.spec?.ports ?? []) {
      const number = targetPort(port, pod)
      // A pod that does not have the named port does not serve it; others may.
      if (number === undefined) continue
      ports.push({
        ...(port.name ? { name: port.name } : {}),
        port: number,
        protocol: port.protocol ?? 'TCP',
        ...(port.appProtocol ? { appProtocol: port.appProtocol } : {}),
      })
    }
    if (ports.length === 0 && (service.spec?.ports ?? []).length > 0) continue
    found.push({ pod, ip, ports, ready: isPodReady(pod), terminating: pod.metadata.deletionTimestamp !== undefined })
  }
  return found
}

function targetPort(port: ServicePort, pod: Pod): number | undefined {
  const target = port.targetPort ?? port.port
  if (typeof target === 'number') return target === 0 ? port.port : target
  if (/^\d+$/.test(target)) return Number(target)
  // Sidecars are init containers that go on running.
  const sidecars = (pod.spec?.initContainers ?? []).filter((c) => c.restartPolicy === 'Always')
  for (const container of [...(pod.spec?.containers ?? []), ...sidecars])
    for (const p of container.ports ?? [])
      if (p.name === target && (p.protocol ?? 'TCP') === (port.protocol ?? 'TCP')) return p.containerPort
  return undefined
}

/** A pod that names this Service as its subdomain has a name of its own in it (StatefulSets): DNS answers for it. */
function hostnameFor({ metadata }: Service, { spec }: Pod): string | undefined {
  return spec?.subdomain !== undefined && spec.subdomain === metadata.name ? spec.hostname : undefined
}

function reference(pod: Pod) {
  const { namespace = '', name = '', uid = '' } = pod.metadata
  return { kind: 'Pod', namespace, name, uid }
}

/** Subsets of the Endpoints object; `truncated` if there are more than 1,000 addresses. */
export function endpointSubsets(
  service: Service,
  pods: readonly Pod[],
): { subsets: EndpointSubset[]; truncated: boolean } {
  const publishAll = service.spec?.publishNotReadyAddresses === true
  const all = backends(service, pods).filter((b) => publishAll || !b.terminating)
  const groups = new Map<string, { ports: EndpointPort[]; ready: EndpointAddress[]; notReady: EndpointAddress[] }>()
  for (const backend of all.slice(0, ENDPOINTS_ADDRESSES_MAX)) {
    const key = canonicalJson(backend.ports)
    let group = groups.get(key)
    if (!group) groups.set(key, (group = { ports: backend.ports, ready: [], notReady: [] }))
    const address: EndpointAddress = { ip: backend.ip, targetRef: reference(backend.pod) }
    const hostname = hostnameFor(service, backend.pod)
    if (hostname !== undefined) address.hostname = hostname
    if (backend.pod.spec?.nodeName) address.nodeName = backend.pod.spec.nodeName
    ;(backend.ready || publishAll ? group.ready : group.notReady).push(address)
  }
  const subsets = [...groups]
    .sort((a, b) => byText(a[0], b[0]))
    .map(([, { ports, ready, notReady }]) => ({
      ...(ready.length > 0 ? { addresses: ready.sort(byIp) } : {}),
      ...(notReady.length > 0 ? { notReadyAddresses: notReady.sort(byIp) } : {}),
      ...(ports.length > 0 ? { ports } : {}),
    }))
  return { subsets, truncated: all.length > ENDPOINTS_ADDRESSES_MAX }
}

function byIp(a: EndpointAddress, b: EndpointAddress): number {
  return byText(a.ip, b.ip) || byText(a.targetRef?.uid ?? '', b.targetRef?.uid ?? '')
}

/** What to do to a Service's EndpointSlices. */
export interface SlicePlan {
  create: EndpointSlice[]
  update: EndpointSlice[]
  delete: EndpointSlice[]
}

/**
 * Brings the slices to what the pods are, touching as few as possible: an endpoint stays in its slice, a new one fills a
 * slice with room. Names follow from the Service and a count, so that a repeated creation makes nothing twice. What there is
 * too much of goes: an endpoint stands in one slice only, and slices that are mostly empty are merged.
 * `isTaken` tells which other names are given away in the namespace.
 */
export function planSlices(
  service: Service,
  pods: readonly Pod[],
  present: readonly EndpointSlice[],
  serviceRef: object,
  isTaken: (name: string) => boolean = () => false,
): SlicePlan {
  const publishAll = service.spec?.publishNotReadyAddresses === true
  const wanted = new Map<string, { ports: EndpointPort[]; endpoints: Map<string, SliceEndpoint> }>()
  for (const backend of backends(service, pods)) {
    const hostname = hostnameFor(service, backend.pod)
    const key = slicePortsKey(backend.ports)
    let group = wanted.get(key)
    if (!group) wanted.set(key, (group = { ports: slicePorts(backend.ports), endpoints: new Map() }))
    group.endpoints.set(backend.pod.metadata.uid ?? backend.ip, {
      addresses: [backend.ip],
      conditions: {
        ready: publishAll || (backend.ready && !backend.terminating),
        serving: backend.ready,
        terminating: backend.terminating,
      },
      ...(hostname === undefined ? {} : { hostname }),
      targetRef: reference(backend.pod),
      ...(backend.pod.spec?.nodeName ? { nodeName: backend.pod.spec.nodeName } : {}),
    })
  }
  // One empty slice says: nobody answers; no slice at all would say: nobody has looked yet.
  if (wanted.size === 0) wanted.set(slicePortsKey([]), { ports: [], endpoints: new Map() })

  const plan: SlicePlan = { create: [], update: [], delete: [] }
  const labels = sliceLabels(service)
  const taken = new Set(present.map((slice) => slice.metadata.name ?? ''))
  const left = [...present].sort((a, b) => byText(a.metadata.name ?? '', b.metadata.name ?? ''))
  for (const [key, { ports, endpoints }] of [...wanted].sort((a, b) => byText(a[0], b[0]))) {
    const own = left.filter((slice) => slicePortsKey(slice.ports ?? []) === key && slice.addressType === 'IPv4')
    for (const slice of own) left.splice(left.indexOf(slice), 1)
    const missing = new Map(endpoints)
    const kept = own.map((slice) => {
      const stay: SliceEndpoint[] = []
      for (const endpoint of slice.endpoints ?? []) {
        const uid = endpoint.targetRef?.uid ?? endpoint.addresses[0] ?? ''
        const next = missing.get(uid)
        if (next) stay.push(next)
        missing.delete(uid)
      }
      return { slice, stay }
    })
    for (const [uid, endpoint] of missing) {
      const room = kept.find(({ stay }) => stay.length < SLICE_ENDPOINTS_MAX)
      if (!room) break
      room.stay.push(endpoint)
      missing.delete(uid)
    }
    if (missing.size === 0) mergeSmall(kept.map(({ stay }) => stay))
    let keptOne = false
    for (const { slice, stay } of kept) {
      if (
        stay.length === 0 &&
        (keptOne || missing.size > 0 || endpoints.size > 0 || kept.some((k) => k.stay.length > 0))
      ) {
        plan.delete.push(slice)
        continue
      }
      keptOne = true
      const next: EndpointSlice = {
        ...slice,
        metadata: { ...slice.metadata, labels: { ...slice.metadata.labels, ...labels } },
        endpoints: stay,
      }
      if (!sameJson(next.endpoints, slice.endpoints ?? []) || !sameJson(next.metadata.labels, slice.metadata.labels))
        plan.update.push(next)
    }
    const fresh = [...missing.values()]
    for (let at = 0; at < fresh.length || (at === 0 && !keptOne && endpoints.size === 0); at += SLICE_ENDPOINTS_MAX) {
      const name = freeName(service, (other) => taken.has(other) || isTaken(other))
      taken.add(name)
      plan.create.push({
        apiVersion: 'discovery.k8s.io/v1',
        kind: 'EndpointSlice',
        metadata: {
          name,
          namespace: service.metadata.namespace ?? 'default',
          labels,
          ownerReferences: [serviceRef as never],
        },
        addressType: 'IPv4',
        endpoints: fresh.slice(at, at + SLICE_ENDPOINTS_MAX),
        ports,
      })
    }
  }
  plan.delete.push(...left)
  return plan
}

/** With what the API server fills in: an unnamed port of a slice is called '', unlike one of Endpoints. */
function slicePorts(ports: readonly EndpointPort[]): EndpointPort[] {
  return ports.map(({ name = '', protocol = 'TCP', ...rest }) => ({ name, protocol, ...rest }))
}

function slicePortsKey(ports: readonly EndpointPort[]): string {
  return canonicalJson(slicePorts(ports))
}

function sliceLabels(service: Service): Record<string, string> {
  const headless = service.spec?.clusterIP === 'None'
  return {
    ...service.metadata.labels,
    [SERVICE_NAME_LABEL]: service.metadata.name ?? '',
    [MANAGED_BY_LABEL]: SLICE_MANAGER,
    ...(headless ? { 'service.kubernetes.io/headless': '' } : {}),
  }
}

/** Empties the smallest slices into the others, where those hold it with room to spare. */
function mergeSmall(slices: readonly SliceEndpoint[][]): void {
  const total = slices.reduce((sum, { length }) => sum + length, 0)
  let filled = slices.filter(({ length }) => length > 0)
  while (filled.length > 1 && total <= (filled.length - 1) * SLICE_ENDPOINTS_MAX * MERGED_SHARE_MAX) {
    const smallest = filled.reduce((least, one) => (one.length <= least.length ? one : least))
    filled = filled.filter((one) => one !== smallest)
    for (const endpoint of smallest.splice(0)) filled.find(({ length }) => length < SLICE_ENDPOINTS_MAX)?.push(endpoint)
  }
}

function freeName(service: Service, isTaken: (name: string) => boolean): string {
  for (let count = 0; ; count++) {
    const name = `${service.metadata.name}-${shortHash([service.metadata.uid ?? '', count]).slice(0, 5)}`
    if (!isTaken(name)) return name
  }
}
