/** Where things stand in the store. Nothing else builds or takes apart keys. */

export const REGISTRY = '/registry/'
/** What a watch of everything that this service writes covers. */
export const ALL_FROM = '/capstan/'
export const ALL_TO = '/registry0'

const CLUSTER_IPS = '/capstan/ranges/clusterip/'
const NODE_PORTS = '/capstan/ranges/nodeport/'

/** `pods` or `deployments.apps`: names a cache. */
export type ResourceKey = string

export const resourceKey = (group: string, resource: string): ResourceKey =>
  group === '' ? resource : `${resource}.${group}`

/** `/registry/core/pods/`: everything of one resource. */
export function resourcePrefix(group: string, resource: string, namespace?: string): string {
  const prefix = `${REGISTRY}${group === '' ? 'core' : group}/${resource}/`
  return namespace === undefined ? prefix : `${prefix}${namespace}/`
}

export function objectKey(group: string, resource: string, namespace: string | undefined, name: string): string {
  return resourcePrefix(group, resource, namespace) + name
}

/** Of a key below `/registry/`; undefined for any other. */
export function resourceOfKey(key: string): { group: string; resource: string } | undefined {
  if (!key.startsWith(REGISTRY)) return undefined
  const [group = '', resource = ''] = key.slice(REGISTRY.length).split('/', 2)
  return { group: group === 'core' ? '' : group, resource }
}

/** The key after all those that start with `prefix`. Prefixes here end with `/`. */
export const prefixEnd = (prefix: string): string =>
  prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1)

export const clusterIpKey = (ip: string): string => CLUSTER_IPS + ip
export const nodePortKey = (port: number): string => NODE_PORTS + port
export const CLUSTER_IP_PREFIX = CLUSTER_IPS
export const NODE_PORT_PREFIX = NODE_PORTS
