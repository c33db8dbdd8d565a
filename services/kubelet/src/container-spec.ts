import { ConfigError, environmentOf, expand, type PodContext } from './environment.js'
import type { NodeHost } from './host.js'
import { IDENTITY_ANNOTATION, isIdentityPod } from './identity-keeper.js'
import type { Container, Pod } from './kinds.js'
import { milliCpu, oomScoreAdj, podRequests, type PodRequests, quantity } from './resources.js'
import type { ContainerSpec, DnsConfig, Mount, PodIdentity, SandboxSpec, SandboxState } from './runtime.js'

/** Delay before the next start if this container ends; kept with it, so that a restarted kubelet goes on counting. */
export const BACKOFF_ANNOTATION = 'capstan.io/restart-backoff-ms'

/** What the pod takes of the node; kept with its sandbox, for the time when nobody knows the pod's object any more. */
const REQUESTS_ANNOTATION = 'capstan.io/requests'

const SHARES_PER_CPU = 1024
const SHARES_MIN = 2

export function identityOf(pod: Pod): PodIdentity {
  const { uid = '', namespace = '', name = '' } = pod.metadata
  return { uid, namespace, name }
}

/** What the pod of a sandbox takes of the node. */
export function requestsOf(sandbox: SandboxState): PodRequests {
  const none = { cpuMilli: 0, memoryBytes: 0, storageBytes: 0 }
  try {
    return { ...none, ...(JSON.parse(sandbox.annotations[REQUESTS_ANNOTATION] ?? '{}') as Partial<PodRequests>) }
  } catch {
    return none // Not made by us.
  }
}

export const imageOf = (container: Container) => container.image ?? ''

/** Always: for `:latest` and no tag. IfNotPresent otherwise, and for what has a digest. */
export function pullPolicyOf(container: Container): 'Always' | 'IfNotPresent' | 'Never' {
  if (container.imagePullPolicy) return container.imagePullPolicy
  const image = imageOf(container)
  if (image.includes('@')) return 'IfNotPresent'
  const tag = /:([^/:]+)$/.exec(image)?.[1]
  return tag === undefined || tag === 'latest' ? 'Always' : 'IfNotPresent'
}

export const logPathOf = (container: string, attempt: number) => `${container}/${attempt}.log`

export function sandboxSpecOf(
  pod: Pod,
  attempt: number,
  host: Pick<NodeHost, 'logDirectory'>,
  hostDns: DnsConfig,
): SandboxSpec {
  const { spec } = pod
  return {
    pod: identityOf(pod),
    attempt,
    // Linux' limit for a host name is 64; a pod's name may have 253.
    hostname: (spec.hostname ?? pod.metadata.name ?? '').slice(0, 63).replace(/[-.]+$/, ''),
    labels: pod.metadata.labels ?? {},
    annotations: {
      [REQUESTS_ANNOTATION]: JSON.stringify(podRequests(pod)),
      ...(isIdentityPod(pod) ? { [IDENTITY_ANNOTATION]: 'true' } : {}),
    },
    logDirectory: host.logDirectory(identityOf(pod)),
    hostNetwork: spec.hostNetwork ?? false,
    hostPid: spec.hostPID ?? false,
    hostIpc: spec.hostIPC ?? false,
    dns: dnsOf(pod, hostDns),
    portMappings: spec.hostNetwork
      ? []
      : spec.containers.flatMap((container) =>
          (container.ports ?? []).flatMap((port) =>
            port.hostPort
              ? [
                  {
                    protocol: (port.protocol ?? 'TCP') as 'TCP',
                    containerPort: port.containerPort,
                    hostPort: port.hostPort,
                    hostIp: port.hostIP ?? '',
                  },
                ]
              : [],
          ),
        ),
    sysctls: Object.fromEntries((spec.securityContext?.sysctls ?? []).map(({ name, value }) => [name, value])),
    privileged: spec.containers.some((container) => container.securityContext?.privileged),
  }
}

/** There is no cluster DNS yet: every policy but None takes the host's servers. */
function dnsOf({ spec }: Pod, hostDns: DnsConfig): DnsConfig {
  const own = spec.dnsConfig ?? {}
  const base = spec.dnsPolicy === 'None' ? { servers: [], searches: [], options: [] } : hostDns
  return {
    servers: [...base.servers, ...(own.nameservers ?? [])],
    searches: [...base.searches, ...(own.searches ?? [])],
    options: [
      ...base.options,
      ...(own.options ?? []).map(({ name = '', value }) => (value === undefined ? name : `${name}:${value}`)),
    ],
  }
}

/**
 * What the runtime is told about one container. `volumes` are paths on the host by volume name.
 * @throws ConfigError, HostError
 */
export async function containerSpecOf(
  container: Container,
  context: PodContext,
  options: {
    host: NodeHost
    volumes: ReadonlyMap<string, string>
    /** Path on the host of the pod's own /etc/hosts; missing with the host's network. */
    hostsPath: string | undefined
    attempt: number
    backoffMs: number
    imageId: string
    nodeMemoryBytes: number
  },
): Promise<ContainerSpec> {
  const { pod } = context
  const podSecurity = pod.spec.securityContext ?? {}
  const own = container.securityContext ?? {}
  const runAsUser = own.runAsUser ?? podSecurity.runAsUser
  const runAsGroup = own.runAsGroup ?? podSecurity.runAsGroup
  if ((own.runAsNonRoot ?? podSecurity.runAsNonRoot) && runAsUser === 0)
    throw new ConfigError(
      `container's runAsUser breaks non-root policy (pod: "${pod.metadata.name}", container: ${container.name})`,
    )
  const env = environmentOf(container, context)
  const byName = new Map(env)
  const expanded = (list: string[] | undefined) => list?.map((word) => expand(word, byName))
  const limits = container.resources?.limits ?? {}
  const requests = container.resources?.requests ?? limits
  const cpuLimit = limits['cpu'] === undefined ? undefined : milliCpu(limits['cpu'])
  const memoryLimit = quantity(limits['memory'])
  return {
    pod: identityOf(pod),
    name: container.name,
    attempt: options.attempt,
    image: imageOf(container),
    imageId: options.imageId,
    command: container.command?.length ? expanded(container.command) : undefined,
    args: container.args?.length ? expanded(container.args) : undefined,
    workingDir: container.workingDir || undefined,
    env,
    mounts: await mountsOf(pod, container, options, byName),
    ports: (container.ports ?? []).map(({ name = '', containerPort, protocol = 'TCP' }) => ({
      name,
      containerPort,
      protocol,
    })),
    logPath: logPathOf(container.name, options.attempt),
    stdin: container.stdin ?? false,
    stdinOnce: container.stdinOnce ?? false,
    tty: container.tty ?? false,
    resources: {
      cpuShares: Math.max(SHARES_MIN, Math.floor((milliCpu(requests['cpu'] ?? limits['cpu']) * SHARES_PER_CPU) / 1000)),
      cpuQuotaMilli: cpuLimit || undefined,
      memoryLimitBytes: memoryLimit > 0 ? memoryLimit : undefined,
      oomScoreAdj: oomScoreAdj(pod, container, options.nodeMemoryBytes),
    },
    security: {
      privileged: own.privileged ?? false,
      runAsUser,
      runAsGroup,
      supplementalGroups: [
        ...(podSecurity.supplementalGroups ?? []),
        ...(podSecurity.fsGroup === undefined ? [] : [podSecurity.fsGroup]),
      ],
      readOnlyRootFilesystem: own.readOnlyRootFilesystem ?? false,
      noNewPrivileges: own.allowPrivilegeEscalation === false,
      addCapabilities: own.capabilities?.add ?? [],
      dropCapabilities: own.capabilities?.drop ?? [],
    },
    labels: {},
    annotations: { [BACKOFF_ANNOTATION]: String(options.backoffMs) },
  }
}

async function mountsOf(
  pod: Pod,
  container: Container,
  { host, volumes, hostsPath }: { host: NodeHost; volumes: ReadonlyMap<string, string>; hostsPath: string | undefined },
  env: ReadonlyMap<string, string>,
): Promise<Mount[]> {
  const mounts: Mount[] = []
  // Volumes that the kubelet writes to are read-only in the container: a link that it left there would lead our next
  // write anywhere on the host.
  const ours = new Set(
    (pod.spec.volumes ?? []).filter((v) => v.configMap || v.secret || v.downwardAPI || v.projected).map((v) => v.name),
  )
  for (const mount of container.volumeMounts ?? []) {
    const path = volumes.get(mount.name)
    if (path === undefined) throw new ConfigError(`volumeMounts names no volume of this pod: ${mount.name}`)
    const below = mount.subPathExpr ? expand(mount.subPathExpr, env) : mount.subPath
    mounts.push({
      hostPath: below ? await host.subPath(path, below) : path,
      containerPath: mount.mountPath.startsWith('/') ? mount.mountPath : `/${mount.mountPath}`,
      readOnly: (mount.readOnly ?? false) || ours.has(mount.name),
      propagation: PROPAGATIONS[mount.mountPropagation ?? ''] ?? 'private',
    })
  }
  if (hostsPath !== undefined && !mounts.some((mount) => mount.containerPath === '/etc/hosts'))
    mounts.push({ hostPath: hostsPath, containerPath: '/etc/hosts', readOnly: false, propagation: 'private' })
  return mounts
}

const PROPAGATIONS: Record<string, Mount['propagation']> = {
  HostToContainer: 'host-to-container',
  Bidirectional: 'bidirectional',
}
