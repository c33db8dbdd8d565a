/** The fields of the built-in kinds that the control loops read or write; whatever else an object has passes untouched. */
import type { KubeObject } from '@capstan/client'

export interface LabelSelector {
  matchLabels?: Record<string, string>
  matchExpressions?: { key: string; operator: string; values?: string[] }[]
}

export interface Condition {
  type: string
  status: string
  reason?: string
  message?: string
  lastTransitionTime?: string
  lastUpdateTime?: string
  lastProbeTime?: string | null
  lastHeartbeatTime?: string
}

export interface Taint {
  key: string
  value?: string
  effect: string
  timeAdded?: string
}

export interface Toleration {
  key?: string
  operator?: string
  value?: string
  effect?: string
  tolerationSeconds?: number
}

export interface PodTemplate {
  metadata?: { labels?: Record<string, string>; annotations?: Record<string, string>; [field: string]: unknown }
  spec?: object
}

export interface ContainerPort {
  name?: string
  containerPort: number
  protocol?: string
}

export interface Pod extends KubeObject {
  spec?: {
    nodeName?: string
    containers?: { name: string; ports?: ContainerPort[] }[]
    initContainers?: { name: string; restartPolicy?: string; ports?: ContainerPort[] }[]
    tolerations?: Toleration[]
    terminationGracePeriodSeconds?: number
    hostNetwork?: boolean
    hostname?: string
    subdomain?: string
  }
  status?: {
    phase?: string
    reason?: string
    message?: string
    podIP?: string
    podIPs?: { ip: string }[]
    hostIP?: string
    startTime?: string
    conditions?: Condition[]
    containerStatuses?: { restartCount?: number }[]
  }
}

export interface Node extends KubeObject {
  spec?: { podCIDR?: string; podCIDRs?: string[]; taints?: Taint[]; unschedulable?: boolean }
  status?: { conditions?: Condition[] }
}

export interface ReplicaStatus {
  replicas: number
  fullyLabeledReplicas?: number
  readyReplicas?: number
  availableReplicas?: number
  observedGeneration?: number
  conditions?: Condition[]
}

export interface ReplicaSet extends KubeObject {
  spec?: { replicas?: number; minReadySeconds?: number; selector?: LabelSelector; template?: PodTemplate }
  status?: ReplicaStatus
}

/** Its selector is a plain map; the rest is as with ReplicaSet. */
export interface ReplicationController extends KubeObject {
  spec?: { replicas?: number; minReadySeconds?: number; selector?: Record<string, string>; template?: PodTemplate }
  status?: ReplicaStatus
}

export interface Deployment extends KubeObject {
  spec?: {
    replicas?: number
    selector?: LabelSelector
    template?: PodTemplate
    strategy?: {
      type?: string
      rollingUpdate?: { maxSurge?: number | string; maxUnavailable?: number | string }
    }
    minReadySeconds?: number
    revisionHistoryLimit?: number
    paused?: boolean
    progressDeadlineSeconds?: number
  }
  status?: {
    observedGeneration?: number
    replicas?: number
    updatedReplicas?: number
    readyReplicas?: number
    availableReplicas?: number
    unavailableReplicas?: number
    collisionCount?: number
    conditions?: Condition[]
  }
}

export interface StatefulSet extends KubeObject {
  spec?: {
    replicas?: number
    selector?: LabelSelector
    template?: PodTemplate
    serviceName?: string
    podManagementPolicy?: string
    updateStrategy?: {
      type?: string
      rollingUpdate?: { partition?: number; maxUnavailable?: number | string }
    }
    ordinals?: { start?: number }
    minReadySeconds?: number
    revisionHistoryLimit?: number
  }
  status?: StatefulSetStatus
}

export interface StatefulSetStatus {
  observedGeneration?: number
  replicas: number
  readyReplicas?: number
  availableReplicas?: number
  currentReplicas?: number
  updatedReplicas?: number
  currentRevision?: string
  updateRevision?: string
  collisionCount?: number
  conditions?: Condition[]
}

/** A template that a StatefulSet had, as the strategic merge patch that brings it back. */
export interface ControllerRevision extends KubeObject {
  revision?: number
  data?: { spec?: { template?: PodTemplate & { $patch?: string } } }
}

export interface ServicePort {
  name?: string
  protocol?: string
  port: number
  targetPort?: number | string
  nodePort?: number
  appProtocol?: string
}

export interface Service extends KubeObject {
  spec?: {
    type?: string
    clusterIP?: string
    selector?: Record<string, string>
    ports?: ServicePort[]
    publishNotReadyAddresses?: boolean
  }
}

export interface ObjectReference {
  kind?: string
  namespace?: string
  name?: string
  uid?: string
}

export interface EndpointAddress {
  ip: string
  hostname?: string
  nodeName?: string
  targetRef?: ObjectReference
}

export interface EndpointPort {
  name?: string
  port?: number
  protocol?: string
  appProtocol?: string
}

export interface EndpointSubset {
  addresses?: EndpointAddress[]
  notReadyAddresses?: EndpointAddress[]
  ports?: EndpointPort[]
}

export interface Endpoints extends KubeObject {
  subsets?: EndpointSubset[]
}

export interface SliceEndpoint {
  addresses: string[]
  hostname?: string
  conditions?: { ready?: boolean; serving?: boolean; terminating?: boolean }
  nodeName?: string
  targetRef?: ObjectReference
}

export interface EndpointSlice extends KubeObject {
  addressType: string
  endpoints: SliceEndpoint[]
  ports?: EndpointPort[]
}

export interface Namespace extends KubeObject {
  spec?: { finalizers?: string[] }
  status?: { phase?: string; conditions?: Condition[] }
}

export interface PodDisruptionBudget extends KubeObject {
  spec?: {
    minAvailable?: number | string
    maxUnavailable?: number | string
    selector?: LabelSelector
    unhealthyPodEvictionPolicy?: string
  }
  status?: DisruptionStatus
}

export interface DisruptionStatus {
  observedGeneration?: number
  /** Pod → when its eviction was granted: it counts as gone until it is, or for two minutes. */
  disruptedPods?: Record<string, string>
  disruptionsAllowed: number
  currentHealthy: number
  desiredHealthy: number
  expectedPods: number
  conditions?: Condition[]
}

export interface ConfigMap extends KubeObject {
  data?: Record<string, string>
}

export function condition(conditions: readonly Condition[] | undefined, type: string): Condition | undefined {
  return conditions?.find((c) => c.type === type)
}

export function isPodReady(pod: Pod): boolean {
  return condition(pod.status?.conditions, 'Ready')?.status === 'True'
}

/** It neither ended nor is about to. */
export function isPodActive(pod: Pod): boolean {
  return !isPodFinished(pod) && pod.metadata.deletionTimestamp === undefined
}

export function isPodFinished(pod: Pod): boolean {
  return pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed'
}

/** Ms until a ready pod counts as available; 0: it does; undefined: not ready. Wall-clock, since time stamps are. */
export function availableInMs(pod: Pod, minReadySeconds: number, nowMs: number): number | undefined {
  const ready = condition(pod.status?.conditions, 'Ready')
  if (ready?.status !== 'True') return undefined
  if (minReadySeconds === 0) return 0
  const since = parseTime(ready.lastTransitionTime)
  return since === undefined ? minReadySeconds * 1000 : Math.max(0, since + minReadySeconds * 1000 - nowMs)
}

/** Ms since the epoch; undefined for none or nonsense. */
export function parseTime(text: string | undefined): number | undefined {
  const ms = text === undefined ? Number.NaN : new Date(text).getTime()
  return Number.isNaN(ms) ? undefined : ms
}

/** RFC 3339, whole seconds, as Kubernetes' Time is. */
export function formatTime(epochMs: number): string {
  return `${new Date(epochMs).toISOString().slice(0, 19)}Z`
}
