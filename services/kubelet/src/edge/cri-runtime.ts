import { mkdirSync } from 'node:fs'
import type { KillTarget } from '../guard-core.js'
import {
  type ContainerRuntime,
  type ContainerSpec,
  type ContainerState,
  type ContainerStats,
  type ExecResult,
  type ImageInfo,
  type ImageUse,
  OUTPUT_BYTES_MAX,
  type PodIdentity,
  type RuntimeContents,
  RuntimeError,
  type RuntimeInfo,
  type SandboxSpec,
  type SandboxState,
} from '../runtime.js'
import { CriClient, type CriMessage } from './cri-client.js'
import { runCommand } from './run-command.js'

const POD_NAME = 'io.kubernetes.pod.name'
const POD_NAMESPACE = 'io.kubernetes.pod.namespace'
const POD_UID = 'io.kubernetes.pod.uid'
const CONTAINER_NAME = 'io.kubernetes.container.name'

const START_MS = 120_000
const PULL_MS = 300_000
/** After an import the runtime's own list of images follows events. */
const IMPORT_SEEN_MS = 5000
const CPU_PERIOD = 100_000

// What a container must not see of the host's kernel, as the OCI defaults have it.
const MASKED_PATHS = [
  '/proc/acpi',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
]
const READONLY_PATHS = ['/proc/asound', '/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger']

export interface CriRuntimeOptions {
  socketPath: string
  /** Absolute cgroup path; the pods' cgroups stand below it. */
  cgroupParent: string
  /** Called by `configureNetwork`: writes the CNI configuration that the runtime reads. */
  writeNetwork?: (podCidr: string) => void
  /** Images that are on their way without a registry: waited for before one is asked. */
  beforePull?: () => Promise<void>
  /** `native` where the file system can't do overlays; for `ctr`. */
  snapshotter?: string
}

/** Containers by any runtime that speaks CRI v1 (tried with containerd 1.6). Import of archives needs containerd's `ctr`. */
export class CriRuntime implements ContainerRuntime {
  readonly kind = 'containerd'
  private readonly client: CriClient
  /** What can't change any more: of exited containers all, of running ones the start. Only ids of the last `list` are kept. */
  private containerFacts = new Map<
    string,
    Pick<ContainerState, 'startedAtMs' | 'finishedAtMs' | 'exitCode' | 'reason' | 'message'>
  >()
  private sandboxIps = new Map<string, string>()

  constructor(private readonly options: CriRuntimeOptions) {
    this.client = new CriClient(options.socketPath)
  }

  async info(): Promise<RuntimeInfo> {
    try {
      const [version, status] = await Promise.all([
        this.client.call('Version', {}, 3000),
        this.client.call('Status', {}, 3000),
      ])
      const conditions = (status['status']?.conditions ?? []) as {
        type: string
        status: boolean
        reason: string
        message: string
      }[]
      const of = (type: string) => conditions.find((c) => c.type === type)
      const bad = conditions.filter((c) => !c.status)
      return {
        name: version['runtimeName'],
        version: version['runtimeVersion'],
        ready: of('RuntimeReady')?.status ?? false,
        networkReady: of('NetworkReady')?.status ?? false,
        message: bad.map((c) => `${c.type}: ${c.reason} ${c.message}`).join('; '),
      }
    } catch (error) {
      return { name: 'containerd', version: '', ready: false, networkReady: false, message: (error as Error).message }
    }
  }

  async list(podUid?: string): Promise<RuntimeContents> {
    const filter = podUid === undefined ? {} : { filter: { labelSelector: { [POD_UID]: podUid } } }
    const [sandboxReply, containerReply] = await Promise.all([
      this.client.call('ListPodSandbox', filter),
      this.client.call('ListContainers', filter),
    ])
    const sandboxes = await Promise.all((sandboxReply['items'] as CriMessage[]).map((item) => this.sandboxState(item)))
    const containers = await Promise.all(
      (containerReply['containers'] as CriMessage[]).map((item) => this.containerState(item)),
    )
    if (podUid === undefined) this.forgetOthers(sandboxes, containers)
    return {
      sandboxes: sandboxes.filter((s): s is SandboxState => s !== undefined && s.pod.uid !== '').sort(byCreation),
      containers: containers.filter((c): c is ContainerState => c !== undefined && c.pod.uid !== '').sort(byCreation),
    }
  }

  async startSandbox(spec: SandboxSpec): Promise<string> {
    mkdirSync(spec.logDirectory, { recursive: true })
    const reply = await this.client.call('RunPodSandbox', { config: this.sandboxConfig(spec) }, START_MS)
    return reply['podSandboxId']
  }

  async stopSandbox(sandboxId: string): Promise<void> {
    await ignoreMissing(this.client.call('StopPodSandbox', { podSandboxId: sandboxId }, START_MS))
  }

  async removeSandbox(sandboxId: string): Promise<void> {
    await ignoreMissing(this.client.call('RemovePodSandbox', { podSandboxId: sandboxId }, START_MS))
  }

  async createContainer(sandboxId: string, spec: ContainerSpec, sandbox: SandboxSpec): Promise<string> {
    const reply = await this.client.call(
      'CreateContainer',
      { podSandboxId: sandboxId, config: containerConfig(spec, sandbox), sandboxConfig: this.sandboxConfig(sandbox) },
      START_MS,
    )
    return reply['containerId']
  }

  async startContainer(containerId: string): Promise<void> {
    await this.client.call('StartContainer', { containerId }, START_MS)
  }

  async stopContainer(containerId: string, graceMs: number): Promise<void> {
    const timeout = Math.ceil(graceMs / 1000)
    await ignoreMissing(this.client.call('StopContainer', { containerId, timeout }, graceMs + START_MS))
  }

  async removeContainer(containerId: string): Promise<void> {
    await ignoreMissing(this.client.call('RemoveContainer', { containerId }, START_MS))
  }

  async reopenLog(containerId: string): Promise<void> {
    await this.client.call('ReopenContainerLog', { containerId })
  }

  async exec(containerId: string, command: readonly string[], timeoutMs: number): Promise<ExecResult> {
    const timeout = Math.max(1, Math.ceil(timeoutMs / 1000))
    const reply = await this.client.call('ExecSync', { containerId, cmd: command, timeout }, timeout * 1000 + 2000)
    return {
      exitCode: reply['exitCode'],
      stdout: (reply['stdout'] as Uint8Array).subarray(0, OUTPUT_BYTES_MAX),
      stderr: (reply['stderr'] as Uint8Array).subarray(0, OUTPUT_BYTES_MAX),
    }
  }

  async image(name: string): Promise<ImageInfo | undefined> {
    try {
      const reply = await this.client.callImages('ImageStatus', { image: { image: name } })
      return reply['image'] ? imageInfo(reply['image']) : undefined
    } catch (error) {
      if (error instanceof RuntimeError && error.code === 'REFUSED')
        throw new RuntimeError('IMAGE_NAME', error.message, { cause: error })
      throw error
    }
  }

  async pullImage(name: string, { credentials }: ImageUse = {}): Promise<ImageInfo> {
    await this.options.beforePull?.()
    const imported = await this.image(name)
    if (imported && imported.digests.length === 0) return imported
    try {
      await this.client.callImages(
        'PullImage',
        { image: { image: name }, ...(credentials ? { auth: credentials } : {}) },
        PULL_MS,
      )
    } catch (error) {
      if (!(error instanceof RuntimeError) || error.code === 'UNAVAILABLE') throw error
      if (/invalid reference format/.test(error.message))
        throw new RuntimeError('IMAGE_NAME', error.message, { cause: error })
      throw new RuntimeError('IMAGE_PULL', `${error.message} (without a registry: capstan image import FILE)`, {
        cause: error,
      })
    }
    const image = await this.image(name)
    if (!image) throw new RuntimeError('IMAGE_PULL', `${name} was pulled and is not there`)
    return image
  }

  async importImage(archivePath: string): Promise<string[]> {
    const { socketPath, snapshotter } = this.options
    const output = await runCommand('ctr', [
      '-a',
      socketPath,
      '-n',
      'k8s.io',
      'images',
      'import',
      ...(snapshotter ? ['--snapshotter', snapshotter] : []),
      archivePath,
    ])
    const names = [...output.matchAll(/^unpacking (\S+)/gm)].map((match) => match[1] as string)
    const until = performance.now() + IMPORT_SEEN_MS
    for (const name of names)
      while (!(await this.image(name)) && performance.now() < until)
        await new Promise((resolve) => setTimeout(resolve, 20))
    return names
  }

  async listImages(): Promise<ImageInfo[]> {
    const reply = await this.client.callImages('ListImages')
    return (reply['images'] as CriMessage[]).map(imageInfo).sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  async removeImage(name: string): Promise<void> {
    await ignoreMissing(this.client.callImages('RemoveImage', { image: { image: name } }))
  }

  async stats(): Promise<ContainerStats[]> {
    const reply = await this.client.call('ListContainerStats')
    return (reply['stats'] as CriMessage[]).map((one) => {
      const labels = (one['attributes']?.labels ?? {}) as Record<string, string>
      return {
        pod: identityOf(labels),
        container: labels[CONTAINER_NAME] ?? '',
        cpuNanoseconds: one['cpu']?.usageCoreNanoSeconds?.value ?? 0,
        memoryBytes: one['memory']?.workingSetBytes?.value ?? 0,
      }
    })
  }

  async configureNetwork(podCidr: string): Promise<void> {
    this.options.writeNetwork?.(podCidr)
  }

  /** With its sandbox's own process ended too, nothing more can be started in it: containers join its namespaces. */
  killTarget(podUid: string): KillTarget {
    return { kind: 'cgroup', path: this.cgroupOf(podUid) }
  }

  async close(): Promise<void> {
    this.client.close()
  }

  // ------------------------------------------------------------------------------------------------------------- inside

  private async sandboxState(item: CriMessage): Promise<SandboxState | undefined> {
    const id = item['id'] as string
    const ready = item['state'] === 'SANDBOX_READY'
    let ip = this.sandboxIps.get(id)
    if (ready && ip === undefined) {
      try {
        const reply = await this.client.call('PodSandboxStatus', { podSandboxId: id })
        ip = (reply['status']?.network?.ip as string | undefined) || undefined
        if (ip !== undefined) this.sandboxIps.set(id, ip)
      } catch (error) {
        if (error instanceof RuntimeError && error.code === 'NOT_FOUND') return undefined
        throw error
      }
    }
    return {
      id,
      pod: {
        uid: item['metadata']?.uid ?? '',
        namespace: item['metadata']?.namespace ?? '',
        name: item['metadata']?.name ?? '',
      },
      attempt: item['metadata']?.attempt ?? 0,
      ready,
      ip,
      createdAtMs: milliseconds(item['createdAt']) ?? 0,
      annotations: item['annotations'],
    }
  }

  private async containerState(item: CriMessage): Promise<ContainerState | undefined> {
    const id = item['id'] as string
    const state = STATES[item['state'] as string] ?? 'unknown'
    let facts = this.containerFacts.get(id)
    // A start is known for good; all else only when it has ended.
    if (!facts || (state === 'exited' && facts.finishedAtMs === undefined)) {
      try {
        const { status } = await this.client.call('ContainerStatus', { containerId: id })
        const ended = status.state === 'CONTAINER_EXITED'
        facts = {
          startedAtMs: milliseconds(status.startedAt),
          finishedAtMs: ended ? milliseconds(status.finishedAt) : undefined,
          exitCode: ended ? status.exitCode : undefined,
          reason: status.reason || undefined,
          message: status.message || undefined,
        }
        if (facts.startedAtMs !== undefined || ended) this.containerFacts.set(id, facts)
      } catch (error) {
        if (error instanceof RuntimeError && error.code === 'NOT_FOUND') return undefined
        throw error
      }
    }
    return {
      id,
      sandboxId: item['podSandboxId'],
      pod: identityOf(item['labels']),
      name: item['metadata']?.name ?? '',
      attempt: item['metadata']?.attempt ?? 0,
      state: state === 'running' && facts.finishedAtMs !== undefined ? 'exited' : state,
      image: item['image']?.image ?? '',
      imageId: item['imageRef'],
      createdAtMs: milliseconds(item['createdAt']) ?? 0,
      ...facts,
      annotations: item['annotations'],
    }
  }

  private forgetOthers(sandboxes: (SandboxState | undefined)[], containers: (ContainerState | undefined)[]): void {
    const live = new Set([...sandboxes, ...containers].map((one) => one?.id))
    for (const id of this.containerFacts.keys()) if (!live.has(id)) this.containerFacts.delete(id)
    for (const id of this.sandboxIps.keys()) if (!live.has(id)) this.sandboxIps.delete(id)
  }

  private cgroupOf(podUid: string): string {
    return `${this.options.cgroupParent}/pod${podUid}`
  }

  private sandboxConfig(spec: SandboxSpec): object {
    return {
      metadata: { name: spec.pod.name, uid: spec.pod.uid, namespace: spec.pod.namespace, attempt: spec.attempt },
      hostname: spec.hostNetwork ? '' : spec.hostname,
      logDirectory: spec.logDirectory,
      dnsConfig: spec.dns,
      portMappings: spec.portMappings,
      labels: { ...spec.labels, ...labelsOf(spec.pod) },
      annotations: spec.annotations,
      linux: {
        cgroupParent: this.cgroupOf(spec.pod.uid),
        securityContext: {
          namespaceOptions: namespaces(spec),
          privileged: spec.privileged,
          seccomp: { profileType: 'RuntimeDefault' },
        },
        sysctls: spec.sysctls,
      },
    }
  }
}

const STATES: Record<string, ContainerState['state']> = {
  CONTAINER_CREATED: 'created',
  CONTAINER_RUNNING: 'running',
  CONTAINER_EXITED: 'exited',
}

function namespaces(spec: SandboxSpec): object {
  return {
    network: spec.hostNetwork ? 'NODE' : 'POD',
    pid: spec.hostPid ? 'NODE' : 'CONTAINER',
    ipc: spec.hostIpc ? 'NODE' : 'POD',
  }
}

function containerConfig(spec: ContainerSpec, sandbox: SandboxSpec): object {
  const { security, resources } = spec
  const { cpuQuotaMilli, memoryLimitBytes } = resources
  return {
    metadata: { name: spec.name, attempt: spec.attempt },
    image: { image: spec.imageId },
    command: spec.command ?? [],
    args: spec.args ?? [],
    workingDir: spec.workingDir ?? '',
    envs: spec.env.map(([key, value]) => ({ key, value })),
    mounts: spec.mounts.map((mount) => ({
      hostPath: mount.hostPath,
      containerPath: mount.containerPath,
      readonly: mount.readOnly,
      propagation: PROPAGATIONS[mount.propagation],
    })),
    labels: { ...spec.labels, ...labelsOf(spec.pod), [CONTAINER_NAME]: spec.name },
    annotations: spec.annotations,
    logPath: spec.logPath,
    stdin: spec.stdin,
    stdinOnce: spec.stdinOnce,
    tty: spec.tty,
    linux: {
      resources: {
        cpuShares: resources.cpuShares,
        ...(cpuQuotaMilli === undefined
          ? {}
          : { cpuPeriod: CPU_PERIOD, cpuQuota: Math.max(1000, (cpuQuotaMilli * CPU_PERIOD) / 1000) }),
        ...(memoryLimitBytes === undefined ? {} : { memoryLimitInBytes: memoryLimitBytes }),
        oomScoreAdj: resources.oomScoreAdj,
      },
      securityContext: {
        capabilities: { addCapabilities: security.addCapabilities, dropCapabilities: security.dropCapabilities },
        privileged: security.privileged,
        namespaceOptions: namespaces(sandbox),
        ...(security.runAsUser === undefined ? {} : { runAsUser: { value: security.runAsUser } }),
        ...(security.runAsGroup === undefined ? {} : { runAsGroup: { value: security.runAsGroup } }),
        supplementalGroups: security.supplementalGroups,
        readonlyRootfs: security.readOnlyRootFilesystem,
        noNewPrivs: security.noNewPrivileges,
        maskedPaths: security.privileged ? [] : MASKED_PATHS,
        readonlyPaths: security.privileged ? [] : READONLY_PATHS,
        seccomp: { profileType: 'Unconfined' },
      },
    },
  }
}

const PROPAGATIONS = {
  private: 'PROPAGATION_PRIVATE',
  'host-to-container': 'PROPAGATION_HOST_TO_CONTAINER',
  bidirectional: 'PROPAGATION_BIDIRECTIONAL',
} as const

const labelsOf = (pod: PodIdentity) => ({ [POD_NAME]: pod.name, [POD_NAMESPACE]: pod.namespace, [POD_UID]: pod.uid })

const identityOf = (labels: Record<string, string>): PodIdentity => ({
  uid: labels[POD_UID] ?? '',
  namespace: labels[POD_NAMESPACE] ?? '',
  name: labels[POD_NAME] ?? '',
})

const imageInfo = (image: CriMessage): ImageInfo => ({
  id: image['id'],
  tags: image['repoTags'],
  digests: image['repoDigests'],
  sizeBytes: image['size'],
})

const byCreation = (a: { createdAtMs: number; id: string }, b: { createdAtMs: number; id: string }) =>
  a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)

/** CRI gives nanoseconds since 1970; zero, or before it (Go's zero time), stands for "not yet". */
function milliseconds(nanoseconds: unknown): number | undefined {
  const value = Number(nanoseconds)
  return value > 0 ? Math.floor(value / 1e6) : undefined
}

async function ignoreMissing(call: Promise<unknown>): Promise<void> {
  try {
    await call
  } catch (error) {
    if (error instanceof RuntimeError && (error.code === 'NOT_FOUND' || /not found|does not exist/.test(error.message)))
      return
    throw error
  }
}
