import { duplicate, forbidden, invalid, notSupported, required, type StatusCause } from '../causes.js'
import { asList, asNumber, asObject, asText, isObject, type Json, type KubeObject, sameJson } from '../kube-object.js'
import { IP_MESSAGE, isIP, isIPv4, isIPv6 } from '../ip.js'
import { dns1035Label, dns1123Label, dns1123Subdomain, portName, portNumber } from '../names.js'
import { ageColumn, defineKind, fill, labelCauses, selectorText, specOf, statusOf } from './define.js'

const TYPES = ['ClusterIP', 'ExternalName', 'LoadBalancer', 'NodePort']
const PROTOCOLS = ['SCTP', 'TCP', 'UDP']

function portText(port: Json): string {
  const node = asNumber(port['nodePort'])
  return `${String(port['port'])}${node ? `:${node}` : ''}/${asText(port['protocol'])}`
}

function validateService(o: KubeObject): StatusCause[] {
  const spec = specOf(o)
  const causes: StatusCause[] = []
  const type = asText(spec['type'])
  const headless = spec['clusterIP'] === 'None'
  if (!TYPES.includes(type)) causes.push(notSupported('spec.type', type, TYPES))
  const ports = asList(spec['ports'])
  if (ports.length === 0 && !headless && type !== 'ExternalName') causes.push(required('spec.ports'))
  if (type === 'ExternalName' && !asText(spec['externalName'])) causes.push(required('spec.externalName'))
  const names = new Set<string>()
  const numbers = new Set<string>()
  for (const [i, port] of ports.entries()) {
    const at = `spec.ports[${i}]`
    const name = asText(port['name'])
    if (!name && ports.length > 1) causes.push(required(`${at}.name`))
    // `80-8080`, as kubectl makes them: a label, while names of target ports need a letter.
    const wrongName = name ? dns1123Label(name) : undefined
    if (wrongName) causes.push(invalid(`${at}.name`, name, wrongName))
    if (name && names.has(name)) causes.push(duplicate(`${at}.name`, name))
    names.add(name)
    const wrong = portNumber(port['port'])
    if (wrong) causes.push(invalid(`${at}.port`, port['port'] ?? 0, wrong))
    const protocol = asText(port['protocol'])
    if (!PROTOCOLS.includes(protocol)) causes.push(notSupported(`${at}.protocol`, protocol, PROTOCOLS))
    const key = `${protocol} ${String(port['port'])}`
    if (numbers.has(key)) causes.push(duplicate(at, { port: port['port'], protocol }))
    numbers.add(key)
    const target = port['targetPort']
    const wrongTarget =
      target === undefined ? undefined : typeof target === 'string' ? portName(target) : portNumber(target)
    if (wrongTarget) causes.push(invalid(`${at}.targetPort`, target, wrongTarget))
    const node = asNumber(port['nodePort'])
    if (node && (type === 'ClusterIP' || type === 'ExternalName'))
      causes.push(forbidden(`${at}.nodePort`, "may not be used when `type` is 'ClusterIP'"))
  }
  for (const [key, value] of Object.entries(asObject(spec['selector'])))
    causes.push(...labelCauses(key, value, 'spec.selector'))
  causes.push(...validatePolicies(spec, type))
  const ip = asText(spec['clusterIP'])
  if (ip && ip !== 'None' && !isIP(ip)) causes.push(invalid('spec.clusterIPs[0]', ip, IP_MESSAGE))
  if (headless && (type === 'NodePort' || type === 'LoadBalancer'))
    causes.push(invalid('spec.clusterIPs[0]', 'None', `may not be set to 'None' for ${type} services`))
  if (type === 'ExternalName') {
    const name = asText(spec['externalName']).replace(/\.$/, '')
    const wrong = name ? dns1123Subdomain(name) : undefined
    if (wrong) causes.push(invalid('spec.externalName', name, wrong))
    if (ip) causes.push(forbidden('spec.clusterIPs[0]', "may not be set when `type` is 'ExternalName'"))
  }
  const externalIps = Array.isArray(spec['externalIPs']) ? spec['externalIPs'].map(String) : []
  for (const [i, external] of externalIps.entries())
    if (!isIP(external)) causes.push(invalid(`spec.externalIPs[${i}]`, external, IP_MESSAGE))
  return causes
}

const AFFINITY_SECONDS_MAX = 86_400

function validatePolicies(spec: Json, type: string): StatusCause[] {
  const causes: StatusCause[] = []
  const oneOf = (field: string, supported: string[]) => {
    const value = spec[field]
    if (value !== undefined && !supported.includes(asText(value)))
      causes.push(notSupported(`spec.${field}`, value, supported))
  }
  oneOf('sessionAffinity', ['ClientIP', 'None'])
  oneOf('internalTrafficPolicy', ['Cluster', 'Local'])
  if (type === 'NodePort' || type === 'LoadBalancer') oneOf('externalTrafficPolicy', ['Cluster', 'Local'])
  const seconds = asNumber(asObject(asObject(spec['sessionAffinityConfig'])['clientIP'])['timeoutSeconds'])
  if (spec['sessionAffinity'] === 'None' && spec['sessionAffinityConfig'] !== undefined)
    causes.push(forbidden('spec.sessionAffinityConfig', 'must not be set when session affinity is None'))
  else if (seconds !== undefined && (seconds < 1 || seconds > AFFINITY_SECONDS_MAX))
    causes.push(
      invalid(
        'spec.sessionAffinityConfig.clientIP.timeoutSeconds',
        seconds,
        `must be greater than 0 and less than ${AFFINITY_SECONDS_MAX}`,
      ),
    )
  return causes
}

const hasNodePorts = (spec: Json) => spec['type'] === 'NodePort' || spec['type'] === 'LoadBalancer'

/** What the server gave and the writer leaves out, stays: addresses and node ports. */
function keepGiven(spec: Json, before: Json): void {
  const type = spec['type'] ?? 'ClusterIP'
  if (type !== 'ExternalName' && before['type'] !== 'ExternalName')
    for (const field of ['clusterIP', 'clusterIPs']) if (!spec[field] && before[field]) spec[field] = before[field]
  if (!hasNodePorts(spec) || !hasNodePorts(before)) return
  fill(spec, 'healthCheckNodePort', before['healthCheckNodePort'])
  const idOf = (port: Json) => `${asText(port['protocol']) || 'TCP'} ${String(port['port'])}`
  const given = new Map(asList(before['ports']).map((port) => [idOf(port), port['nodePort']]))
  const taken = new Set(asList(spec['ports']).map((port) => port['nodePort']))
  for (const port of Array.isArray(spec['ports']) ? spec['ports'].filter(isObject) : []) {
    const old = given.get(idOf(port))
    if (!port['nodePort'] && old && !taken.has(old)) port['nodePort'] = old
  }
}

/** A change of the type alone takes away what the old type had been given. */
function dropOfOldType(spec: Json, before: Json): void {
  const ports = (given: Json) => asList(given['ports']).map((port) => port['nodePort'])
  if (hasNodePorts(before) && !hasNodePorts(spec)) {
    if (sameJson(ports(spec), ports(before)))
      for (const port of Array.isArray(spec['ports']) ? spec['ports'].filter(isObject) : []) delete port['nodePort']
    dropSame(spec, before, ['externalTrafficPolicy', 'healthCheckNodePort'])
  }
  if (before['type'] === 'LoadBalancer' && spec['type'] !== 'LoadBalancer')
    dropSame(spec, before, ['allocateLoadBalancerNodePorts', 'loadBalancerClass'])
  if (before['type'] !== 'ExternalName' && spec['type'] === 'ExternalName')
    dropSame(spec, before, ['clusterIP', 'clusterIPs', 'ipFamilies', 'ipFamilyPolicy', 'internalTrafficPolicy'])
  if (before['type'] === 'ExternalName' && spec['type'] !== 'ExternalName') dropSame(spec, before, ['externalName'])
}

function dropSame(spec: Json, before: Json, fields: string[]): void {
  for (const field of fields) if (sameJson(spec[field], before[field])) delete spec[field]
}

export const service = defineKind({
  kind: 'Service',
  resource: 'services',
  shortNames: ['svc'],
  categories: ['all'],
  definition: 'io.k8s.api.core.v1.Service',
  subresources: ['status'],
  nameRule: dns1035Label,
  columns: [
    { name: 'Type', cell: (o) => asText(specOf(o)['type']) },
    { name: 'Cluster-IP', cell: (o) => asText(specOf(o)['clusterIP']) || '<none>' },
    {
      name: 'External-IP',
      cell(o) {
        const spec = specOf(o)
        if (spec['type'] === 'ExternalName') return asText(spec['externalName'])
        const given = Array.isArray(spec['externalIPs']) ? spec['externalIPs'].map(String) : []
        const ingress = asList(asObject(statusOf(o)['loadBalancer'])['ingress']).map(
          (i) => asText(i['ip']) || asText(i['hostname']),
        )
        const all = [...ingress, ...given].join(',')
        return all || (spec['type'] === 'LoadBalancer' ? '<pending>' : '<none>')
      },
    },
    { name: 'Port(s)', cell: (o) => asList(specOf(o)['ports']).map(portText).join(',') || '<none>' },
    ageColumn,
    {
      name: 'Selector',
      wide: true,
      cell: (o) => selectorText({ matchLabels: asObject(specOf(o)['selector']) }) || '<none>',
    },
  ],
  setDefaults(o) {
    const { spec } = o
    if (!isObject(spec)) return
    fill(spec, 'type', 'ClusterIP')
    fill(spec, 'sessionAffinity', 'None')
    if (spec['sessionAffinity'] === 'ClientIP')
      fill(spec, 'sessionAffinityConfig', { clientIP: { timeoutSeconds: 10_800 } })
    if (spec['type'] !== 'ExternalName') fill(spec, 'internalTrafficPolicy', 'Cluster')
    if (spec['type'] === 'NodePort' || spec['type'] === 'LoadBalancer') fill(spec, 'externalTrafficPolicy', 'Cluster')
    if (spec['type'] === 'LoadBalancer') fill(spec, 'allocateLoadBalancerNodePorts', true)
    if (spec['type'] !== 'ExternalName') {
      fill(spec, 'ipFamilies', ['IPv4'])
      fill(spec, 'ipFamilyPolicy', 'SingleStack')
    }
    if (Array.isArray(spec['ports']))
      for (const port of spec['ports'].filter(isObject)) {
        fill(port, 'protocol', 'TCP')
        if (port['targetPort'] === undefined || port['targetPort'] === 0 || port['targetPort'] === '')
          port['targetPort'] = port['port']
      }
  },
  prepareForCreate(o) {
    o['status'] = { loadBalancer: {} }
  },
  prepareForUpdate(o, old, subresource) {
    if (subresource !== '' || !isObject(o['spec'])) return
    keepGiven(o['spec'], specOf(old))
    dropOfOldType(o['spec'], specOf(old))
  },
  validate: validateService,
  validateUpdate(o, old) {
    const [ip, before] = [asText(specOf(o)['clusterIP']), asText(specOf(old)['clusterIP'])]
    const stays = specOf(o)['type'] !== 'ExternalName' && specOf(old)['type'] !== 'ExternalName'
    return stays && before && ip !== before ? [invalid('spec.clusterIPs[0]', [ip], 'may not change once set')] : []
  },
  fields: { 'spec.clusterIP': (o) => asText(specOf(o)['clusterIP']), 'spec.type': (o) => asText(specOf(o)['type']) },
})

/** `10.0.0.1:80,10.0.0.2:80 + 3 more...` */
function shortened(all: string[], most = 3): string {
  if (all.length === 0) return '<none>'
  return all.length <= most ? all.join(',') : `${all.slice(0, most).join(',')} + ${all.length - most} more...`
}

/** Of an endpoint. Unlike in Kubernetes it may be on loopback: there pods live where nodes have no namespaces of their own. */
function validateIp(value: unknown, at: string): StatusCause[] {
  const ip = asText(value)
  if (!isIP(ip)) return [invalid(at, ip, IP_MESSAGE)]
  if (ip.startsWith('169.254.') || /^fe[89ab][0-9a-f]:/i.test(ip))
    return [invalid(at, ip, 'may not be in the link-local range (169.254.0.0/16, fe80::/10)')]
  return ip === '0.0.0.0' || ip === '::' ? [invalid(at, ip, `may not be unspecified (${ip})`)] : []
}

export const endpoints = defineKind({
  kind: 'Endpoints',
  resource: 'endpoints',
  singular: 'endpoints',
  shortNames: ['ep'],
  definition: 'io.k8s.api.core.v1.Endpoints',
  columns: [
    {
      name: 'Endpoints',
      cell: (o) =>
        shortened(
          asList(o['subsets']).flatMap((subset) => {
            const ports = asList(subset['ports'])
            return asList(subset['addresses']).flatMap((a) =>
              ports.length === 0 ? [asText(a['ip'])] : ports.map((p) => `${asText(a['ip'])}:${String(p['port'])}`),
            )
          }),
        ),
    },
    ageColumn,
  ],
  setDefaults(o) {
    for (const subset of Array.isArray(o['subsets']) ? o['subsets'].filter(isObject) : [])
      for (const port of Array.isArray(subset['ports']) ? subset['ports'].filter(isObject) : [])
        fill(port, 'protocol', 'TCP')
  },
  validate: (o) =>
    asList(o['subsets']).flatMap((subset, i) => {
      const at = `subsets[${i}]`
      const causes = ['addresses', 'notReadyAddresses'].flatMap((field) =>
        asList(subset[field]).flatMap((address, j) => validateIp(address['ip'], `${at}.${field}[${j}].ip`)),
      )
      if (asList(subset['addresses']).length + asList(subset['notReadyAddresses']).length === 0)
        causes.push(required(at, 'must specify `addresses` or `notReadyAddresses`'))
      for (const [j, port] of asList(subset['ports']).entries()) {
        const wrong = portNumber(port['port'])
        if (wrong) causes.push(invalid(`${at}.ports[${j}].port`, port['port'] ?? 0, wrong))
      }
      return causes
    }),
})

function validateAddress(address: string, type: string, at: string): StatusCause[] {
  if (type === 'FQDN') {
    const wrong = dns1123Subdomain(address)
    return wrong ? [invalid(at, address, wrong)] : []
  }
  if (type === 'IPv4' && !isIPv4(address)) return [invalid(at, address, 'must be a valid IPv4 address')]
  if (type === 'IPv6' && !isIPv6(address)) return [invalid(at, address, 'must be a valid IPv6 address')]
  return validateIp(address, at)
}

export const endpointSlice = defineKind({
  group: 'discovery.k8s.io',
  kind: 'EndpointSlice',
  resource: 'endpointslices',
  hasGeneration: true,
  definition: 'io.k8s.api.discovery.v1.EndpointSlice',
  columns: [
    { name: 'AddressType', cell: (o) => asText(o['addressType']) },
    {
      name: 'Ports',
      cell: (o) =>
        shortened(asList(o['ports']).map((p) => (p['port'] === undefined ? '*' : String(p['port'])))).replace(
          '<none>',
          '<unset>',
        ),
    },
    {
      name: 'Endpoints',
      cell: (o) =>
        shortened(
          asList(o['endpoints']).flatMap((e) => (Array.isArray(e['addresses']) ? e['addresses'].map(String) : [])),
        ).replace('<none>', '<unset>'),
    },
    ageColumn,
  ],
  setDefaults(o) {
    for (const port of Array.isArray(o['ports']) ? o['ports'].filter(isObject) : []) {
      fill(port, 'name', '')
      fill(port, 'protocol', 'TCP')
    }
  },
  validate(o) {
    const causes: StatusCause[] = []
    const types = ['FQDN', 'IPv4', 'IPv6']
    if (!o['addressType']) causes.push(required('addressType'))
    else if (!types.includes(asText(o['addressType'])))
      causes.push(notSupported('addressType', o['addressType'], types))
    for (const [i, endpoint] of asList(o['endpoints']).entries()) {
      const addresses = Array.isArray(endpoint['addresses']) ? endpoint['addresses'].map(String) : []
      if (addresses.length === 0) causes.push(required(`endpoints[${i}].addresses`, 'must contain at least 1 address'))
      for (const [j, address] of addresses.entries())
        causes.push(...validateAddress(address, asText(o['addressType']), `endpoints[${i}].addresses[${j}]`))
    }
    return causes
  },
  validateUpdate: (o, old) =>
    o['addressType'] === old['addressType'] ? [] : [invalid('addressType', o['addressType'], 'field is immutable')],
})
