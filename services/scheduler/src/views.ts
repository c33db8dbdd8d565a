/** The parts of pods and nodes that scheduling looks at. Any object of the kind fits. */

export interface LabelSelectorView {
  matchLabels?: Record<string, string>
  matchExpressions?: { key: string; operator: string; values?: string[] }[]
}

export interface NodeSelectorTermView {
  matchExpressions?: { key: string; operator: string; values?: string[] }[]
  matchFields?: { key: string; operator: string; values?: string[] }[]
}

export interface PodAffinityTermView {
  labelSelector?: LabelSelectorView
  namespaces?: string[]
  topologyKey: string
}

export interface ContainerView {
  resources?: { requests?: Record<string, string>; limits?: Record<string, string> }
  ports?: { hostPort?: number; hostIP?: string; protocol?: string; containerPort: number }[]
  restartPolicy?: string
}

export interface PodView {
  metadata: {
    name: string
    namespace: string
    uid: string
    labels?: Record<string, string>
    ownerReferences?: { uid: string; controller?: boolean }[]
    creationTimestamp?: string
    deletionTimestamp?: string
  }
  spec: {
    nodeName?: string
    schedulerName?: string
    priority?: number
    nodeSelector?: Record<string, string>
    overhead?: Record<string, string>
    containers: ContainerView[]
    initContainers?: ContainerView[]
    tolerations?: { key?: string; operator?: string; value?: string; effect?: string }[]
    schedulingGates?: { name: string }[]
    affinity?: {
      nodeAffinity?: {
        requiredDuringSchedulingIgnoredDuringExecution?: { nodeSelectorTerms: NodeSelectorTermView[] }
        preferredDuringSchedulingIgnoredDuringExecution?: { weight: number; preference: NodeSelectorTermView }[]
      }
      podAffinity?: {
        requiredDuringSchedulingIgnoredDuringExecution?: PodAffinityTermView[]
        preferredDuringSchedulingIgnoredDuringExecution?: { weight: number; podAffinityTerm: PodAffinityTermView }[]
      }
      podAntiAffinity?: {
        requiredDuringSchedulingIgnoredDuringExecution?: PodAffinityTermView[]
        preferredDuringSchedulingIgnoredDuringExecution?: { weight: number; podAffinityTerm: PodAffinityTermView }[]
      }
    }
    topologySpreadConstraints?: {
      maxSkew: number
      topologyKey: string
      whenUnsatisfiable: string
      labelSelector?: LabelSelectorView
    }[]
  }
  status?: { phase?: string; nominatedNodeName?: string }
}

export interface NodeView {
  metadata: { name: string; labels?: Record<string, string> }
  spec?: { unschedulable?: boolean; taints?: { key: string; value?: string; effect: string }[] }
  status?: { allocatable?: Record<string, string>; capacity?: Record<string, string> }
}
