/**
 * The port between the kubelet and what runs containers. Three bodies: `CriRuntime` (containerd over its CRI socket) and
 * `ProcessRuntime` (child processes of this host) in `edge/`, `HollowRuntime` (pretends, in virtual time) in `hollow.ts`.
 *
 * What a runtime promises: what it started outlives the kubelet; `list` finds all of it again, with the annotations that
 * it was made with; removing or stopping what is gone already is no error.
 */
import type { Outcome } from '@capstan/actor'
import type { KillTarget } from './guard-core.js'

export type RuntimeKind = 'containerd' | 'process' | 'hollow'

export interface ContainerRuntime {
  readonly kind: RuntimeKind
  /** Asked every few seconds. Never throws: a runtime that does not answer is `ready: false`, and says why. */
  info(): Promise<RuntimeInfo>
  /** Everything that this runtime holds for pods, or for one pod; sorted by creation, then id. */
  list(podUid?: string): Promise<RuntimeContents>
  /** Something changed that `list` shows; the pod's uid if it is known. Returns how to stop. Missing: poll. */
  onChange?(listener: (podUid: string | undefined) => void): () => void

  /** Makes and starts a pod's sandbox (its network and namespaces), and says its id. */
  startSandbox(spec: SandboxSpec): Promise<string>
  /** Ends all that runs in it (at once) and gives its address back. */
  stopSandbox(sandboxId: string): Promise<void>
  /** Removes a stopped sandbox and its containers. */
  removeSandbox(sandboxId: string): Promise<void>

  /** `sandbox` as it was given to `startSandbox`, or would be now. */
  createContainer(sandboxId: string, spec: ContainerSpec, sandbox: SandboxSpec): Promise<string>
  startContainer(containerId: string): Promise<void>
  /** SIGTERM (or the image's stop signal), then SIGKILL after `graceMs`. Resolves when it has ended. */
  stopContainer(containerId: string, graceMs: number): Promise<void>
  /** Ends it at once if it runs. Its log files are the kubelet's to remove. */
  removeContainer(containerId: string): Promise<void>
  /** Its log file was renamed: what it writes from now on goes into a new one. */
  reopenLog(containerId: string): Promise<void>
  /** Runs a command in a running container. The output is cut at `OUTPUT_BYTES_MAX`. @throws RuntimeError TIMEOUT */
  exec(containerId: string, command: readonly string[], timeoutMs: number): Promise<ExecResult>

  /** What an image name stands for here, or undefined if it is not present. @throws RuntimeError IMAGE_NAME */
  image(name: string, use?: ImageUse): Promise<ImageInfo | undefined>
  /** Gets it from its registry. @throws RuntimeError IMAGE_PULL, with a message that says what to do. */
  pullImage(name: string, use?: ImageUse): Promise<ImageInfo>
  /** Takes in an OCI archive of the host's file system; the names that it brought. @throws RuntimeError UNSUPPORTED */
  importImage(archivePath: string): Promise<string[]>
  listImages(): Promise<ImageInfo[]>
  removeImage(name: string): Promise<void>

  stats(): Promise<ContainerStats[]>
  /** The pod network of this node is known (now, or again after a restart). Idempotent. Missing: nothing to do. */
  configureNetwork?(podCidr: string): Promise<void>
  /**
   * How all containers of a pod are ended without this runtime and the kubelet, known before the first of them is made.
   * Missing: they can't be, and pods that have an identity are not run under a guard.
   */
  killTarget?(podUid: string): KillTarget
  /** Lets go of the connection; containers go on. */
  close(): Promise<void>
}

export interface RuntimeInfo {
  /** `containerd`, `capstan-process`, … */
  name: string
  version: string
  ready: boolean
  networkReady: boolean
  /** Why not, for people. */
  message: string
}

export interface PodIdentity {
  uid: string
  namespace: string
  name: string
}

export interface SandboxSpec {
  pod: PodIdentity
  /** 0 for a pod's first sandbox. */
  attempt: number
  hostname: string
  labels: Record<string, string>
  annotations: Record<string, string>
  /** Absolute path, below which the containers' log files lie. */
  logDirectory: string
  hostNetwork: boolean
  hostPid: boolean
  hostIpc: boolean
  dns: DnsConfig
  portMappings: { protocol: 'TCP' | 'UDP' | 'SCTP'; containerPort: number; hostPort: number; hostIp: string }[]
  sysctls: Record<string, string>
  privileged: boolean
}

export interface DnsConfig {
  servers: string[]
  searches: string[]
  options: string[]
}

export interface ContainerSpec {
  pod: PodIdentity
  name: string
  /** Restarts before this one. */
  attempt: number
  /** As in the pod's spec. */
  image: string
  /** What `image()` said. */
  imageId: string
  /** Missing: the image's. */
  command: string[] | undefined
  args: string[] | undefined
  workingDir: string | undefined
  env: [name: string, value: string][]
  mounts: Mount[]
  ports: { name: string; containerPort: number; protocol: string }[]
  /** Relative to the sandbox's log directory. */
  logPath: string
  stdin: boolean
  stdinOnce: boolean
  tty: boolean
  resources: ContainerResources
  security: ContainerSecurity
  labels: Record<string, string>
  /** Kept with the container and given back by `list`: what the kubelet must know of it after its own restart. */
  annotations: Record<string, string>
}

export interface Mount {
  hostPath: string
  containerPath: string
  readOnly: boolean
  propagation: 'private' | 'host-to-container' | 'bidirectional'
}

/** Missing: no limit. */
export interface ContainerResources {
  cpuShares: number
  cpuQuotaMilli: number | undefined
  memoryLimitBytes: number | undefined
  oomScoreAdj: number
}

export interface ContainerSecurity {
  privileged: boolean
  runAsUser: number | undefined
  runAsGroup: number | undefined
  supplementalGroups: number[]
  readOnlyRootFilesystem: boolean
  noNewPrivileges: boolean
  addCapabilities: string[]
  dropCapabilities: string[]
}

export interface RuntimeContents {
  sandboxes: SandboxState[]
  containers: ContainerState[]
}

export interface SandboxState {
  id: string
  pod: PodIdentity
  attempt: number
  /** False: it ended, or its network is gone; containers must not be started in it. */
  ready: boolean
  /** Address of the pod; missing with the host's network. */
  ip: string | undefined
  createdAtMs: number
  annotations: Record<string, string>
}

export interface ContainerState {
  id: string
  sandboxId: string
  pod: PodIdentity
  name: string
  attempt: number
  state: 'created' | 'running' | 'exited' | 'unknown'
  image: string
  imageId: string
  createdAtMs: number
  startedAtMs: number | undefined
  finishedAtMs: number | undefined
  exitCode: number | undefined
  /** `Completed`, `Error`, `OOMKilled`, … */
  reason: string | undefined
  message: string | undefined
  annotations: Record<string, string>
}

export interface ImageInfo {
  /** Content address, or another name that stays the same for the same content. */
  id: string
  tags: string[]
  digests: string[]
  sizeBytes: number
}

export interface ImageUse {
  /** The container says itself what to run: for runtimes whose images are only that. */
  ownCommand?: boolean
  credentials?: RegistryCredentials
}

export interface RegistryCredentials {
  username: string
  password: string
}

export interface ExecResult {
  exitCode: number
  stdout: Uint8Array
  stderr: Uint8Array
}

export interface ContainerStats {
  pod: PodIdentity
  container: string
  /** CPU time used since it started. */
  cpuNanoseconds: number
  memoryBytes: number
}

/** Of `exec`, each of stdout and stderr. */
export const OUTPUT_BYTES_MAX = 64 * 1024

export type RuntimeErrorCode =
  /** The runtime does not answer. */
  | 'UNAVAILABLE'
  | 'TIMEOUT'
  | 'NOT_FOUND'
  | 'IMAGE_PULL'
  | 'IMAGE_NAME'
  /** The spec asks for what can't be had (a command that is not there, a mount that fails). */
  | 'REFUSED'
  | 'UNSUPPORTED'

export class RuntimeError extends Error {
  override readonly name = 'RuntimeError'
  readonly code: RuntimeErrorCode
  readonly outcome: Outcome
  constructor(code: RuntimeErrorCode, text: string, options?: ErrorOptions) {
    super(text, options)
    this.code = code
    this.outcome = code === 'UNAVAILABLE' || code === 'TIMEOUT' ? 'maybe-applied' : 'not-applied'
  }
}
