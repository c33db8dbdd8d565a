import type { KubeObject } from '@capstan/client'
import type { Container, DownwardItem, EnvVar, KeySource, Pod, ResourceFieldRef, Volume } from './kinds.js'
import type { VolumeFile } from './host.js'
import { milliCpu, quantity } from './resources.js'

/** The pod's author asked for something that is not there (yet): waiting reason `CreateContainerConfigError`. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

/** ConfigMap, or Secret with its data decoded. */
export type Keys = Record<string, Uint8Array>

/** What a pod's environment and volumes are made of. All of it is fetched before: building is pure. */
export interface PodContext {
  pod: Pod
  nodeName: string
  hostIp: string
  podIp: string | undefined
  /** By name; missing: there is no such object in the pod's namespace. */
  configMaps: ReadonlyMap<string, Keys>
  secrets: ReadonlyMap<string, Keys>
  services: readonly ServiceView[]
  /** Of the node: what a container without a limit may take. */
  allocatable: { cpuMilli: number; memoryBytes: number; storageBytes: number }
}

export interface ServiceView extends KubeObject {
  spec?: { clusterIP?: string; ports?: { name?: string; port: number; protocol?: string }[] }
}

/** Names of the objects that a pod refers to. Sorted. */
export function references(pod: Pod): { configMaps: string[]; secrets: string[] } {
  const configMaps = new Set<string>()
  const secrets = new Set<string>()
  const note = (set: Set<string>, name: string | undefined) => {
    if (name) set.add(name)
  }
  for (const container of [...(pod.spec.initContainers ?? []), ...pod.spec.containers]) {
    for (const { valueFrom } of container.env ?? []) {
      note(configMaps, valueFrom?.configMapKeyRef?.name)
      note(secrets, valueFrom?.secretKeyRef?.name)
    }
    for (const from of container.envFrom ?? []) {
      note(configMaps, from.configMapRef?.name)
      note(secrets, from.secretRef?.name)
    }
  }
  for (const volume of pod.spec.volumes ?? []) {
    note(configMaps, volume.configMap?.name)
    note(secrets, volume.secret?.secretName)
    for (const source of volume.projected?.sources ?? []) {
      note(configMaps, source.configMap?.name)
      note(secrets, source.secret?.name)
    }
  }
  return { configMaps: [...configMaps].sort(), secrets: [...secrets].sort() }
}

// ---------------------------------------------------------------------------------------------------------- environment

/** A container's environment: services, then envFrom, then env, later ones winning; `$(NAME)` expanded. @throws ConfigError */
export function environmentOf(container: Container, context: PodContext): [name: string, value: string][] {
  const env = new Map<string, string>(serviceEnvironment(context))
  for (const from of container.envFrom ?? []) {
    for (const [source, what] of [
      [from.configMapRef, 'configmap'],
      [from.secretRef, 'secret'],
    ] as const) {
      if (!source) continue
      const keys = keysOf(source, what, context)
      for (const [key, bytes] of Object.entries(keys ?? {}).sort(byKey))
        if (/^[^=\0]+$/.test(key)) env.set(`${from.prefix ?? ''}${key}`, text(bytes))
    }
  }
  for (const variable of container.env ?? []) {
    const value = valueOf(variable, container, context, env)
    if (value !== undefined) env.set(variable.name, value)
  }
  return [...env]
}

function valueOf(
  variable: EnvVar,
  container: Container,
  context: PodContext,
  env: Map<string, string>,
): string | undefined {
  const { valueFrom } = variable
  if (!valueFrom) return expand(variable.value ?? '', env)
  if (valueFrom.fieldRef) return fieldValue(valueFrom.fieldRef.fieldPath, context)
  if (valueFrom.resourceFieldRef) return resourceValue(valueFrom.resourceFieldRef, container.name, context)
  const [source, what] = valueFrom.configMapKeyRef
    ? ([valueFrom.configMapKeyRef, 'configmap'] as const)
    : ([valueFrom.secretKeyRef, 'secret'] as const)
  if (!source) return ''
  const keys = keysOf(source, what, context)
  const bytes = keys && Object.hasOwn(keys, source.key) ? keys[source.key] : undefined
  if (bytes !== undefined) return text(bytes)
  if (source.optional) return undefined
  const kind = what === 'configmap' ? 'ConfigMap' : 'Secret'
  throw new ConfigError(`couldn't find key ${source.key} in ${kind} ${context.pod.metadata.namespace}/${source.name}`)
}

function keysOf(source: KeySource, what: 'configmap' | 'secret', context: PodContext): Keys | undefined {
  const name = source.name ?? ''
  const keys = (what === 'configmap' ? context.configMaps : context.secrets).get(name)
  if (!keys && !source.optional) throw new ConfigError(`${what} "${name}" not found`)
  return keys
}

/** `$(NAME)` becomes the value if there is one, else stays; `$$` is a dollar sign. */
export function expand(value: string, env: ReadonlyMap<string, string>): string {
  return value.replace(/\$\$|\$\(([^)]*)\)/g, (whole: string, name: string | undefined) =>
    whole === '$$' ? '$' : (env.get(name ?? '') ?? whole),
  )
}

/** The downward API's fields. @throws ConfigError for one that it doesn't have. */
export function fieldValue(path: string, context: PodContext): string {
  const { pod } = context
  const { metadata } = pod
  const keyed = /^metadata\.(labels|annotations)\['(.*)'\]$/.exec(path)
  if (keyed) return metadata[keyed[1] as 'labels' | 'annotations']?.[keyed[2] as string] ?? ''
  switch (path) {
    case 'metadata.name':
      return metadata.name ?? ''
    case 'metadata.namespace':
      return metadata.namespace ?? ''
    case 'metadata.uid':
      return metadata.uid ?? ''
    case 'metadata.labels':
      return pairs(metadata.labels)
    case 'metadata.annotations':
      return pairs(metadata.annotations)
    case 'spec.nodeName':
      return context.nodeName
    case 'spec.serviceAccountName':
      return pod.spec.serviceAccountName ?? ''
    case 'status.hostIP':
    case 'status.hostIPs':
      return context.hostIp
    case 'status.podIP':
    case 'status.podIPs':
      return context.podIp ?? ''
    default:
      throw new ConfigError(`unsupported fieldPath: ${path}`)
  }
}

const pairs = (map: Record<string, string> = {}) =>
  Object.entries(map)
    .sort(byKey)
    .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
    .join('\n')

/** In units of the divisor, rounded up. */
function resourceValue(ref: ResourceFieldRef, ownName: string, context: PodContext): string {
  const { pod, allocatable } = context
  const name = ref.containerName || ownName
  const container = [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].find((c) => c.name === name)
  if (!container) throw new ConfigError(`resourceFieldRef names no container of this pod: ${name}`)
  const [list, resource] = ref.resource.split('.') as ['limits' | 'requests', string]
  const stated =
    container.resources?.[list]?.[resource] ??
    (list === 'requests' ? container.resources?.limits?.[resource] : undefined)
  const divisor = ref.divisor === undefined || quantity(ref.divisor) === 0 ? '1' : ref.divisor
  if (resource === 'cpu') {
    const milli = stated === undefined ? (list === 'limits' ? allocatable.cpuMilli : 0) : milliCpu(stated)
    return String(Math.ceil(milli / Math.max(1, milliCpu(divisor))))
  }
  const whole = { memory: allocatable.memoryBytes, 'ephemeral-storage': allocatable.storageBytes }[resource]
  if (whole === undefined && stated === undefined) throw new ConfigError(`unsupported resource: ${ref.resource}`)
  const value = stated === undefined ? (list === 'limits' ? (whole ?? 0) : 0) : quantity(stated)
  return String(Math.ceil(value / quantity(divisor)))
}

/** Variables for the services of the pod's namespace and for the API's own, as docker links had them. */
function serviceEnvironment({ pod, services }: PodContext): [string, string][] {
  const env: [string, string][] = []
  const links = pod.spec.enableServiceLinks ?? true
  const chosen = services.filter(({ metadata }) =>
    metadata.namespace === 'default' && metadata.name === 'kubernetes'
      ? true
      : links && metadata.namespace === pod.metadata.namespace,
  )
  for (const { metadata, spec } of chosen) {
    const { clusterIP = '', ports = [] } = spec ?? {}
    const [first] = ports
    if (!clusterIP || clusterIP === 'None' || !first) continue
    const prefix = (metadata.name ?? '').toUpperCase().replace(/-/g, '_')
    env.push([`${prefix}_SERVICE_HOST`, clusterIP], [`${prefix}_SERVICE_PORT`, String(first.port)])
    for (const port of ports)
      if (port.name)
        env.push([`${prefix}_SERVICE_PORT_${port.name.toUpperCase().replace(/-/g, '_')}`, String(port.port)])
    const url = (port: typeof first) => `${(port.protocol ?? 'TCP').toLowerCase()}://${clusterIP}:${port.port}`
    env.push([`${prefix}_PORT`, url(first)])
    for (const port of ports) {
      const protocol = port.protocol ?? 'TCP'
      const name = `${prefix}_PORT_${port.port}_${protocol}`
      env.push(
        [name, url(port)],
        [`${name}_PROTO`, protocol.toLowerCase()],
        [`${name}_PORT`, String(port.port)],
        [`${name}_ADDR`, clusterIP],
      )
    }
  }
  return env
}

// --------------------------------------------------------------------------------------------------------------- files

/** The files of a volume that is made of objects; undefined for other kinds. @throws ConfigError */
export function volumeFiles(volume: Volume, context: PodContext): VolumeFile[] | undefined {
  if (volume.configMap) {
    const { defaultMode = 0o644, items } = volume.configMap
    return keyFiles(
      keysOf(volume.configMap, 'configmap', context),
      items,
      defaultMode,
      `configmap ${volume.configMap.name}`,
      volume.configMap.optional,
    )
  }
  if (volume.secret) {
    const { secretName = '', defaultMode = 0o644, items, optional } = volume.secret
    const source: KeySource = { name: secretName, ...(optional === undefined ? {} : { optional }) }
    return keyFiles(keysOf(source, 'secret', context), items, defaultMode, `secret ${secretName}`, optional)
  }
  if (volume.downwardAPI)
    return downwardFiles(volume.downwardAPI.items, volume.downwardAPI.defaultMode ?? 0o644, context)
  if (!volume.projected) return undefined
  const { sources = [], defaultMode = 0o644 } = volume.projected
  return sources.flatMap((source) => {
    if (source.serviceAccountToken) throw new ConfigError('projected serviceAccountToken volumes are not supported yet')
    if (source.configMap)
      return keyFiles(
        keysOf(source.configMap, 'configmap', context),
        source.configMap.items,
        defaultMode,
        `configmap ${source.configMap.name}`,
        source.configMap.optional,
      )
    if (source.secret)
      return keyFiles(
        keysOf(source.secret, 'secret', context),
        source.secret.items,
        defaultMode,
        `secret ${source.secret.name}`,
        source.secret.optional,
      )
    return downwardFiles(source.downwardAPI?.items, defaultMode, context)
  })
}

function keyFiles(
  keys: Keys | undefined,
  items: { key: string; path: string; mode?: number }[] | undefined,
  defaultMode: number,
  what: string,
  optional = false,
): VolumeFile[] {
  if (!keys) return []
  if (!items)
    return Object.entries(keys)
      .sort(byKey)
      .map(([path, bytes]) => ({ path, bytes, mode: defaultMode }))
  return items.flatMap(({ key, path, mode = defaultMode }) => {
    const bytes = Object.hasOwn(keys, key) ? keys[key] : undefined
    if (bytes !== undefined) return [{ path, bytes, mode }]
    if (optional) return []
    throw new ConfigError(`${what} has no key ${key}`)
  })
}

function downwardFiles(items: DownwardItem[] = [], defaultMode: number, context: PodContext): VolumeFile[] {
  return items.map(({ path, fieldRef, resourceFieldRef, mode = defaultMode }) => {
    const value = fieldRef
      ? fieldValue(fieldRef.fieldPath, context)
      : resourceFieldRef
        ? resourceValue(resourceFieldRef, '', context)
        : ''
    return { path, bytes: new TextEncoder().encode(value), mode }
  })
}

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)
const byKey = (a: [string, unknown], b: [string, unknown]) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0)

/** The pod's own /etc/hosts. */
export function hostsFile(pod: Pod, podIp: string): string {
  const { subdomain } = pod.spec
  const hostname = pod.spec.hostname ?? pod.metadata.name ?? ''
  const names = subdomain
    ? `${hostname}.${subdomain}.${pod.metadata.namespace}.svc.cluster.local\t${hostname}`
    : hostname
  return `# Managed by Capstan.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n${podIp}\t${names}\n`
}
