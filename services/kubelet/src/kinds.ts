/** The parts of Kubernetes' kinds that a kubelet reads and writes (core v1). */
import type { KubeObject } from '@capstan/client'

export interface Pod extends KubeObject {
  spec: PodSpec
  status?: PodStatus
}

export interface PodSpec {
  nodeName?: string
  containers: Container[]
  initContainers?: Container[]
  volumes?: Volume[]
  restartPolicy?: 'Always' | 'OnFailure' | 'Never'
  terminationGracePeriodSeconds?: number
  activeDeadlineSeconds?: number
  hostname?: string
  subdomain?: string
  hostNetwork?: boolean
  hostPID?: boolean
  hostIPC?: boolean
  serviceAccountName?: string
  enableServiceLinks?: boolean
  dnsPolicy?: string
  dnsConfig?: { nameservers?: string[]; searches?: string[]; options?: { name?: string; value?: string }[] }
  securityContext?: PodSecurityContext
  imagePullSecrets?: { name?: string }[]
  nodeSelector?: Record<string, string>
  overhead?: Record<string, string>
}

export interface PodSecurityContext {
  runAsUser?: number
  runAsGroup?: number
  runAsNonRoot?: boolean
  supplementalGroups?: number[]
  fsGroup?: number
  sysctls?: { name: string; value: string }[]
}

export interface Container {
  name: string
  image?: string
  command?: string[]
  args?: string[]
  workingDir?: string
  ports?: { name?: string; containerPort: number; hostPort?: number; hostIP?: string; protocol?: string }[]
  env?: EnvVar[]
  envFrom?: { prefix?: string; configMapRef?: KeySource; secretRef?: KeySource }[]
  resources?: { requests?: Record<string, string | number>; limits?: Record<string, string | number> }
  volumeMounts?: VolumeMount[]
  livenessProbe?: Probe
  readinessProbe?: Probe
  startupProbe?: Probe
  lifecycle?: { postStart?: Handler; preStop?: Handler }
  imagePullPolicy?: 'Always' | 'IfNotPresent' | 'Never'
  terminationMessagePath?: string
  securityContext?: {
    privileged?: boolean
    runAsUser?: number
    runAsGroup?: number
    runAsNonRoot?: boolean
    readOnlyRootFilesystem?: boolean
    allowPrivilegeEscalation?: boolean
    capabilities?: { add?: string[]; drop?: string[] }
  }
  stdin?: boolean
  stdinOnce?: boolean
  tty?: boolean
  /** `Always` makes an init container a sidecar. */
  restartPolicy?: string
}

export interface KeySource {
  name?: string
  optional?: boolean
}

export interface EnvVar {
  name: string
  value?: string
  valueFrom?: {
    fieldRef?: { fieldPath: string }
    resourceFieldRef?: ResourceFieldRef
    configMapKeyRef?: KeySource & { key: string }
    secretKeyRef?: KeySource & { key: string }
  }
}

export interface ResourceFieldRef {
  containerName?: string
  resource: string
  divisor?: string | number
}

export interface VolumeMount {
  name: string
  mountPath: string
  readOnly?: boolean
  subPath?: string
  subPathExpr?: string
  mountPropagation?: string
}

interface KeyToPath {
  key: string
  path: string
  mode?: number
}

export interface DownwardItem {
  path: string
  fieldRef?: { fieldPath: string }
  resourceFieldRef?: ResourceFieldRef
  mode?: number
}

export interface Volume {
  name: string
  emptyDir?: { medium?: string; sizeLimit?: string | number }
  hostPath?: { path: string; type?: string }
  configMap?: KeySource & { items?: KeyToPath[]; defaultMode?: number }
  secret?: { secretName?: string; optional?: boolean; items?: KeyToPath[]; defaultMode?: number }
  downwardAPI?: { items?: DownwardItem[]; defaultMode?: number }
  projected?: {
    defaultMode?: number
    sources?: {
      configMap?: KeySource & { items?: KeyToPath[] }
      secret?: KeySource & { items?: KeyToPath[] }
      downwardAPI?: { items?: DownwardItem[] }
      serviceAccountToken?: object
    }[]
  }
  [kind: string]: unknown
}

export interface Handler {
  exec?: { command?: string[] }
  httpGet?: {
    scheme?: string
    host?: string
    port: string | number
    path?: string
    httpHeaders?: { name: string; value: string }[]
  }
  tcpSocket?: { host?: string; port: string | number }
  grpc?: object
  sleep?: { seconds: number }
}

export interface Probe extends Handler {
  initialDelaySeconds?: number
  periodSeconds?: number
  timeoutSeconds?: number
  successThreshold?: number
  failureThreshold?: number
  terminationGracePeriodSeconds?: number
}

export type PodPhase = 'Pending' | 'Running' | 'Succeeded' | 'Failed' | 'Unknown'

export interface PodStatus {
  phase?: PodPhase
  conditions?: PodCondition[]
  message?: string
  reason?: string
  hostIP?: string
  hostIPs?: { ip: string }[]
  podIP?: string
  podIPs?: { ip: string }[]
  startTime?: string
  initContainerStatuses?: ContainerStatus[]
  containerStatuses?: ContainerStatus[]
  qosClass?: string
  observedGeneration?: number
  [field: string]: unknown
}

export interface PodCondition {
  type: string
  status: 'True' | 'False' | 'Unknown'
  lastTransitionTime?: string | null
  lastProbeTime?: string | null
  reason?: string
  message?: string
  observedGeneration?: number
}

export interface ContainerStatus {
  name: string
  image: string
  imageID: string
  containerID?: string
  ready: boolean
  started?: boolean
  restartCount: number
  state: ContainerStateStatus
  lastState: ContainerStateStatus
}

export interface ContainerStateStatus {
  waiting?: { reason: string; message?: string }
  running?: { startedAt: string }
  terminated?: TerminatedStatus
}

export interface TerminatedStatus {
  exitCode: number
  reason: string
  message?: string
  startedAt: string | null
  finishedAt: string | null
  containerID: string
  signal?: number
}

export interface Node extends KubeObject {
  spec?: { podCIDR?: string; podCIDRs?: string[]; unschedulable?: boolean; taints?: object[]; providerID?: string }
  status?: NodeStatus
}

export interface NodeStatus {
  capacity?: Record<string, string>
  allocatable?: Record<string, string>
  conditions?: NodeCondition[]
  addresses?: { type: string; address: string }[]
  nodeInfo?: Record<string, string>
  images?: { names: string[]; sizeBytes: number }[]
  daemonEndpoints?: object
  [field: string]: unknown
}

export interface NodeCondition {
  type: string
  status: 'True' | 'False' | 'Unknown'
  lastHeartbeatTime?: string
  lastTransitionTime?: string
  reason?: string
  message?: string
}

/** RFC 3339 in whole seconds, as Kubernetes writes times. */
export function time(epochMs: number): string {
  return `${new Date(epochMs).toISOString().slice(0, 19)}Z`
}

export function isTerminal(pod: Pod): boolean {
  return pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed'
}

/** A container whose restart policy makes it run beside the others although it is listed as an init container. */
export const isSidecar = (container: Container) => container.restartPolicy === 'Always'
