import type { PodStatus } from './kinds.js'
import type { AdmissionRefusal } from './resources.js'

/** What a kubelet knows of one pod beside its object and its containers. Lost with the kubelet; then found out anew. */
export interface PodMemory {
  admission: 'waiting' | 'admitted' | AdmissionRefusal
  /** The volumes' directories on the host, by volume name, once they are there. */
  volumes: ReadonlyMap<string, string> | undefined
  /** Operations that run, by `actionKey`. */
  inFlight: Set<string>
  /** Operations that failed and are not to be repeated before their time. By `actionKey`. */
  failures: Map<string, Failure>
  /** By container id. */
  probes: Map<string, ProbeState>
  /** Container id → by when it is to be gone (wall clock), as last asked for. */
  stops: Map<string, number>
  /** Sandboxes that this kubelet stopped. One that ended by itself is stopped too: only that gives its address back. */
  stoppedSandboxes: Set<string>
  /** The sentence that came with the pod's end by the kubelet's own decision: deadline, eviction. */
  ended: AdmissionRefusal | undefined
  /** How the pod ended, from the moment that it did: it counts even if its containers get lost before the API has it. */
  final: PodStatus | undefined
  /** All its containers ended for good; its share of the node is free again. */
  released: boolean
  /** The object in the API has been deleted by this kubelet, or was gone. */
  deletedFromApi: boolean
}

export interface Failure {
  count: number
  atMs: number
  retryAtMs: number
  /** Waiting reason: `ErrImagePull`, `CreateContainerConfigError`, … */
  reason: string
  message: string
}

/** When it is to be tried again; undefined: now. Nobody waits for a clock that was set back since then. */
export const retryAt = (failure: Failure | undefined, nowMs: number): number | undefined =>
  failure && nowMs >= failure.atMs && nowMs < failure.retryAtMs ? failure.retryAtMs : undefined

export interface ProbeState {
  started: boolean
  ready: boolean
  /** Set when the container is to be killed: what failed. */
  failed: string | undefined
  /** Grace of the probe itself, if it has one. */
  graceSeconds?: number
}

export function newPodMemory(): PodMemory {
  return {
    admission: 'waiting',
    volumes: undefined,
    inFlight: new Set(),
    failures: new Map(),
    probes: new Map(),
    stops: new Map(),
    stoppedSandboxes: new Set(),
    ended: undefined,
    final: undefined,
    released: false,
    deletedFromApi: false,
  }
}

/** Delays after 1, 2, 3, … failures: `first`, doubling up to `longest`. */
export function failureDelayMs(count: number, first: number, longest: number): number {
  return Math.min(first * 2 ** Math.min(count - 1, 20), longest)
}
