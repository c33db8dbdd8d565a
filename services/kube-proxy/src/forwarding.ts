/** What a node must forward, computed from Services and EndpointSlices. Pure. */

export interface ServiceView {
  metadata: { namespace: string; name: string }
  spec: {
    type?: string
    clusterIP?: string
    externalIPs?: string[]
    sessionAffinity?: string
    externalTrafficPolicy?: string
    internalTrafficPolicy?: string
    ports?: { name?: string; protocol?: string; port: number; nodePort?: number }[]
  }
}

export interface EndpointSliceView {
  metadata: { namespace: string; name: string; labels?: Record<string, string> }
  addressType: string
  endpoints?: {
    addresses: string[]
    conditions?: { ready?: boolean; serving?: boolean; terminating?: boolean }
    nodeName?: string
  }[]
  ports?: { name?: string; protocol?: string; port?: number }[]
}

export interface Target {
  address: string
  port: number
}

/** One port of one Service, as this node forwards it. */
export interface Forward {
  /** `namespace/name:port-name`. */
  name: string
  protocol: 'tcp' | 'udp'
  /** Cluster IP and external IPs. */
  addresses: string[]
  port: number
  nodePort: number | undefined
  /** Keep a client on one target. */
  sticky: boolean
  /** Sorted; empty: refuse. */
  targets: Target[]
  /** For traffic from outside by node port; differs from `targets` under externalTrafficPolicy Local. */
  nodePortTargets: Target[]
}

const SERVICE_NAME_LABEL = 'kubernetes.io/service-name'

/** Sorted by name, so that the same state gives the same rules whatever the order of arrival. */
export function computeForwards(
  services: readonly ServiceView[],
  slices: readonly EndpointSliceView[],
  nodeName: string,
): Forward[] {
  const slicesOf = new Map<string, EndpointSliceView[]>()
  for (const slice of slices) {
    const service = slice.metadata.labels?.[SERVICE_NAME_LABEL]
    if (!service || slice.addressType !== 'IPv4') continue
    const key = `${slice.metadata.namespace}/${service}`
    const list = slicesOf.get(key)
    if (list) list.push(slice)
    else slicesOf.set(key, [slice])
  }
  const forwards: Forward[] = []
  for (const service of services) {
    const { spec } = service
    const clusterIP = spec.clusterIP
    if (spec.type === 'ExternalName' || !clusterIP || clusterIP === 'None') continue
    const key = `${service.metadata.namespace}/${service.metadata.name}`
    for (const port of spec.ports ?? []) {
      const protocol = (port.protocol ?? 'TCP').toLowerCase()
      if (protocol !== 'tcp' && protocol !== 'udp') continue
      const all = targetsOf(slicesOf.get(key) ?? [], port.name ?? '', protocol)
      const local = all.filter((t) => t.nodeName === nodeName)
      forwards.push({
        name: `${key}:${port.name ?? ''}`,
        protocol,
        addresses: [clusterIP, ...(spec.externalIPs ?? [])],
        port: port.port,
        nodePort: port.nodePort && port.nodePort > 0 ? port.nodePort : undefined,
        sticky: spec.sessionAffinity === 'ClientIP',
        targets: strip(spec.internalTrafficPolicy === 'Local' ? local : all),
        nodePortTargets: strip(spec.externalTrafficPolicy === 'Local' ? local : all),
      })
    }
  }
  return forwards.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
}

interface LocatedTarget extends Target {
  nodeName: string | undefined
}

/** Ready endpoints; if there is none, those that still serve while they terminate (KEP-1669). */
function targetsOf(slices: EndpointSliceView[], portName: string, protocol: string): LocatedTarget[] {
  const ready = new Map<string, LocatedTarget>()
  const serving = new Map<string, LocatedTarget>()
  for (const slice of slices) {
    const port = slice.ports?.find(
      (p) => (p.name ?? '') === portName && (p.protocol ?? 'TCP').toLowerCase() === protocol,
    )?.port
    if (port === undefined) continue
    for (const endpoint of slice.endpoints ?? []) {
      const address = endpoint.addresses[0]
      if (address === undefined) continue
      const target = { address, port, nodeName: endpoint.nodeName }
      const id = `${address}:${port}`
      if (endpoint.conditions?.ready !== false) ready.set(id, target)
      else if (endpoint.conditions.serving && endpoint.conditions.terminating) serving.set(id, target)
    }
  }
  const chosen = ready.size > 0 ? ready : serving
  return [...chosen].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, target]) => target)
}

const strip = (targets: LocatedTarget[]): Target[] => targets.map(({ address, port }) => ({ address, port }))
