import type { Container, Pod } from './kinds.js'

const SUFFIXES: Record<string, number> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
}

/** A Kubernetes quantity as a number. The API server has checked it; what it would refuse counts as 0. */
export function quantity(value: string | number | undefined): number {
  if (value === undefined) return 0
  if (typeof value === 'number') return value
  const parts = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([A-Za-z]{0,2}))$/.exec(value)
  if (!parts) return 0
  const number = Number(parts[1])
  if (parts[2] !== undefined) return number * 10 ** Number(parts[2])
  return number * (SUFFIXES[parts[3] ?? ''] ?? 0)
}

/** CPU in milli-cores, rounded up as Kubernetes does. */
export const milliCpu = (value: string | number | undefined) => Math.ceil(Number((quantity(value) * 1000).toFixed(6)))

/** What a pod takes of a node: the four things that every node states. */
export interface PodRequests {
  cpuMilli: number
  memoryBytes: number
  storageBytes: number
}

function containerRequests(container: Container): PodRequests {
  const { requests = {}, limits = {} } = container.resources ?? {}
  // A limit without a request is also the request.
  const of = (name: string) => requests[name] ?? limits[name]
  return {
    cpuMilli: milliCpu(of('cpu')),
    memoryBytes: quantity(of('memory')),
    storageBytes: quantity(of('ephemeral-storage')),
  }
}

/** The larger of the sum over containers (sidecars with them) and the largest moment of the init containers; plus overhead. */
export function podRequests(pod: Pod): PodRequests {
  const sum = { cpuMilli: 0, memoryBytes: 0, storageBytes: 0 }
  const sidecars = { cpuMilli: 0, memoryBytes: 0, storageBytes: 0 }
  const peak = { cpuMilli: 0, memoryBytes: 0, storageBytes: 0 }
  for (const container of pod.spec.initContainers ?? []) {
    const own = containerRequests(container)
    if (container.restartPolicy === 'Always') add(sidecars, own)
    raise(peak, container.restartPolicy === 'Always' ? sidecars : plus(sidecars, own))
  }
  for (const container of pod.spec.containers) add(sum, containerRequests(container))
  add(sum, sidecars)
  raise(sum, peak)
  const overhead = pod.spec.overhead ?? {}
  add(sum, {
    cpuMilli: milliCpu(overhead['cpu']),
    memoryBytes: quantity(overhead['memory']),
    storageBytes: quantity(overhead['ephemeral-storage']),
  })
  return sum
}

const KEYS = ['cpuMilli', 'memoryBytes', 'storageBytes'] as const

function add(to: PodRequests, more: PodRequests): void {
  for (const key of KEYS) to[key] += more[key]
}
function raise(to: PodRequests, at: PodRequests): void {
  for (const key of KEYS) to[key] = Math.max(to[key], at[key])
}
function plus(a: PodRequests, b: PodRequests): PodRequests {
  return {
    cpuMilli: a.cpuMilli + b.cpuMilli,
    memoryBytes: a.memoryBytes + b.memoryBytes,
    storageBytes: a.storageBytes + b.storageBytes,
  }
}

export interface Allocatable extends PodRequests {
  pods: number
}

export interface AdmissionRefusal {
  reason: string
  message: string
}

/**
 * Promise C4: the pods that a kubelet admits never exceed what its node can allocate. The last judge: a scheduler may be
 * stale. `undefined`: it fits.
 */
export function admit(
  pod: Pod,
  shares: readonly PodRequests[],
  allocatable: Allocatable,
): AdmissionRefusal | undefined {
  if (shares.length + 1 > allocatable.pods)
    return {
      reason: 'OutOfpods',
      message: `Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: ${shares.length}, capacity: ${allocatable.pods}`,
    }
  const used = { cpuMilli: 0, memoryBytes: 0, storageBytes: 0 }
  for (const share of shares) add(used, share)
  const asked = podRequests(pod)
  const names = { cpuMilli: 'cpu', memoryBytes: 'memory', storageBytes: 'ephemeral-storage' } as const
  for (const key of KEYS) {
    if (asked[key] === 0 || used[key] + asked[key] <= allocatable[key]) continue
    const name = names[key]
    return {
      reason: `OutOf${name}`,
      message: `Pod was rejected: Node didn't have enough resource: ${name}, requested: ${asked[key]}, used: ${used[key]}, capacity: ${allocatable[key]}`,
    }
  }
  return undefined
}

export type QosClass = 'Guaranteed' | 'Burstable' | 'BestEffort'

/** Guaranteed: every container states cpu and memory limits, and no smaller requests. BestEffort: none states anything. */
export function qosClass(pod: Pod): QosClass {
  const containers = [...pod.spec.containers, ...(pod.spec.initContainers ?? [])]
  let any = false
  let all = true
  for (const { resources = {} } of containers) {
    for (const name of ['cpu', 'memory']) {
      const limit = quantity(resources.limits?.[name])
      const request = resources.requests?.[name] === undefined ? limit : quantity(resources.requests[name])
      if (limit > 0 || request > 0) any = true
      if (limit === 0 || request !== limit) all = false
    }
  }
  if (!any) return 'BestEffort'
  return all ? 'Guaranteed' : 'Burstable'
}

/** Linux' scale of who dies first when memory runs out; the figures are Kubernetes'. */
export function oomScoreAdj(pod: Pod, container: Container, nodeMemoryBytes: number): number {
  const qos = qosClass(pod)
  if (qos === 'Guaranteed') return -997
  if (qos === 'BestEffort') return 1000
  const { memoryBytes } = containerRequests(container)
  const score = 1000 - Math.floor((1000 * memoryBytes) / Math.max(1, nodeMemoryBytes))
  return Math.min(999, Math.max(3, score))
}
