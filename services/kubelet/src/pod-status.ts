import {
  type Container,
  type ContainerStateStatus,
  type ContainerStatus,
  isSidecar,
  isTerminal,
  type Pod,
  type PodCondition,
  type PodPhase,
  type PodStatus,
  time,
} from './kinds.js'
import type { Failure, PodMemory } from './pod-memory.js'
import { currentSandbox, knownContainers, mayRestart, type PodPlan } from './pod-plan.js'
import { qosClass } from './resources.js'
import type { ContainerState, RuntimeContents, RuntimeKind } from './runtime.js'

/** For so long a failed pull is shown as such; then as a wait for the next one. */
const PULL_ERROR_SHOWN_MS = 2000

export interface StatusInput {
  pod: Pod
  contents: RuntimeContents
  memory: PodMemory
  backoffs: PodPlan['backoffs']
  hostIp: string
  runtime: RuntimeKind
}

/** The status that a pod's object is to have. Pure. Conditions that others own are kept as they are. */
export function podStatusOf(input: StatusInput, nowMs: number): PodStatus {
  const { pod, memory } = input
  const before = pod.status ?? {}
  const refused = typeof memory.admission === 'object' ? memory.admission : memory.ended
  if (typeof memory.admission === 'object' && !input.contents.containers.length)
    return refusedStatus(pod, memory.admission, nowMs)
  const writer = new StatusWriter(input, nowMs)
  const initStatuses = (pod.spec.initContainers ?? []).map((container) => writer.container(container, true))
  const statuses = pod.spec.containers.map((container) => writer.container(container, false))
  // Once over, always over: what comes later is only the end of its containers.
  const phase = isTerminal(pod)
    ? (before.phase as PodPhase)
    : refused && writer.allStopped()
      ? 'Failed'
      : phaseOf(pod, initStatuses, statuses)
  const sandbox = currentSandbox(input.contents)
  const podIp = pod.spec.hostNetwork
    ? input.hostIp
    : (sandbox?.ip ?? (phase === 'Running' || isTerminal(pod) ? before.podIP : undefined))
  const ended = phase === 'Succeeded' || phase === 'Failed'
  const status: PodStatus = {
    phase,
    conditions: conditionsOf(input, phase, initStatuses, statuses, nowMs),
    hostIP: input.hostIp,
    hostIPs: [{ ip: input.hostIp }],
    ...(podIp && sandbox
      ? { podIP: podIp, podIPs: [{ ip: podIp }] }
      : before.podIP && ended
        ? { podIP: before.podIP, podIPs: [{ ip: before.podIP }] }
        : {}),
    startTime: before.startTime ?? time(nowMs),
    ...(initStatuses.length > 0 ? { initContainerStatuses: initStatuses } : {}),
    containerStatuses: statuses,
    qosClass: before.qosClass ?? qosClass(pod),
  }
  if (refused && ended) Object.assign(status, { reason: refused.reason, message: refused.message })
  else if (ended && before.reason !== undefined)
    Object.assign(status, { reason: before.reason, message: before.message })
  if (pod.metadata.generation !== undefined) status.observedGeneration = pod.metadata.generation
  return status
}

function refusedStatus(pod: Pod, refusal: { reason: string; message: string }, nowMs: number): PodStatus {
  const before = pod.status ?? {}
  return {
    ...before,
    phase: 'Failed',
    reason: refusal.reason,
    message: refusal.message,
    startTime: before.startTime ?? time(nowMs),
    qosClass: before.qosClass ?? qosClass(pod),
  }
}

class StatusWriter {
  private readonly known: ContainerState[]

  constructor(
    private readonly input: StatusInput,
    private readonly nowMs: number,
  ) {
    this.known = knownContainers(input.pod, input.contents)
  }

  allStopped(): boolean {
    return !this.input.contents.containers.some((container) => container.state === 'running')
  }

  container(container: Container, isInit: boolean): ContainerStatus {
    const { pod, memory, backoffs } = this.input
    const own = this.known.filter((state) => state.name === container.name)
    const last = own.at(-1)
    const previous = own.at(-2)
    const before = [...(pod.status?.containerStatuses ?? []), ...(pod.status?.initContainerStatuses ?? [])].find(
      (s) => s.name === container.name,
    )
    const failure = memory.failures.get(`start-container ${container.name}`)
    const base = {
      name: container.name,
      image: container.image ?? '',
      imageID: last?.imageId ?? '',
      restartCount: last?.attempt ?? before?.restartCount ?? 0,
    }
    if (!last) {
      const reason = failure ? failureReason(failure, this.nowMs) : this.waitingReason(isInit)
      return { ...base, ready: false, started: false, state: { waiting: reason }, lastState: {} }
    }
    const containerID = `${this.input.runtime}://${last.id}`
    const lastState: ContainerStateStatus =
      previous?.state === 'exited' ? { terminated: this.terminated(previous) } : (before?.lastState ?? {})
    if (last.state === 'running') {
      const probe = memory.probes.get(last.id)
      const started = probe?.started ?? container.startupProbe === undefined
      // An init container is ready when it has done its work; a sidecar like any other.
      const ready =
        isInit && !isSidecar(container) ? false : started && (probe?.ready ?? container.readinessProbe === undefined)
      return {
        ...base,
        containerID,
        ready,
        started,
        state: { running: { startedAt: time(last.startedAtMs ?? this.nowMs) } },
        lastState,
      }
    }
    if (last.state === 'created')
      return {
        ...base,
        containerID,
        ready: false,
        started: false,
        state: { waiting: failure ? failureReason(failure, this.nowMs) : { reason: 'ContainerCreating' } },
        lastState,
      }
    const terminated = this.terminated(last)
    const ready = isInit && last.exitCode === 0
    const backoff = backoffs.get(container.name)
    if (backoff && !this.stopping())
      return {
        ...base,
        containerID,
        ready: false,
        started: false,
        state: {
          waiting: {
            reason: 'CrashLoopBackOff',
            message: `back-off ${duration(backoff.delayMs)} restarting failed container=${container.name} pod=${pod.metadata.name}_${pod.metadata.namespace}(${pod.metadata.uid})`,
          },
        },
        lastState: { terminated },
      }
    if (failure && !this.stopping() && mayRestart(pod, container, last.exitCode ?? 0, isInit))
      return {
        ...base,
        containerID,
        ready: false,
        started: false,
        state: { waiting: failureReason(failure, this.nowMs) },
        lastState: { terminated },
      }
    return { ...base, containerID, ready, started: false, state: { terminated }, lastState }
  }

  private stopping(): boolean {
    const { pod, memory } = this.input
    return (
      pod.metadata.deletionTimestamp !== undefined ||
      isTerminal(pod) ||
      memory.ended !== undefined ||
      typeof memory.admission === 'object'
    )
  }

  private waitingReason(isInit: boolean): { reason: string; message?: string } {
    const { pod, contents } = this.input
    return {
      reason:
        !isInit && (pod.spec.initContainers ?? []).length > 0 && contents.sandboxes.length > 0
          ? 'PodInitializing'
          : isInit && contents.sandboxes.length > 0
            ? 'PodInitializing'
            : 'ContainerCreating',
    }
  }

  private terminated(state: ContainerState) {
    const exitCode = state.exitCode ?? 137
    return {
      exitCode,
      reason: state.reason ?? (exitCode === 0 ? 'Completed' : 'Error'),
      ...(state.message ? { message: state.message } : {}),
      startedAt: state.startedAtMs === undefined ? null : time(state.startedAtMs),
      finishedAt: state.finishedAtMs === undefined ? null : time(state.finishedAtMs),
      containerID: `${this.input.runtime}://${state.id}`,
    }
  }
}

function failureReason(failure: Failure, nowMs: number): { reason: string; message: string } {
  if (failure.reason === 'ErrImagePull' && nowMs - failure.atMs >= PULL_ERROR_SHOWN_MS)
    return { reason: 'ImagePullBackOff', message: `Back-off pulling image: ${failure.message}` }
  return { reason: failure.reason, message: failure.message }
}

/** `10s`, `2m40s`, as Go prints durations. */
export function duration(ms: number): string {
  const seconds = Math.round(ms / 1000)
  return seconds < 60 ? `${seconds}s` : `${Math.floor(seconds / 60)}m${seconds % 60}s`
}

/** As Kubernetes derives it from the containers. */
function phaseOf(pod: Pod, inits: ContainerStatus[], statuses: ContainerStatus[]): PodPhase {
  const specs = pod.spec.initContainers ?? []
  let initsPending = false
  for (const [at, spec] of specs.entries()) {
    const status = inits[at] as ContainerStatus
    if (isSidecar(spec)) {
      if (!status.started && status.state.terminated === undefined) initsPending = true
      continue
    }
    const { terminated } = status.state
    if (terminated?.exitCode === 0) continue
    if (terminated && !mayRestart(pod, spec, terminated.exitCode, true)) return 'Failed'
    initsPending = true
  }
  const begun = statuses.some((status) => status.containerID !== undefined)
  if (initsPending && !begun) return 'Pending'
  let waiting = 0
  let running = 0
  let failed = 0
  let done = 0
  for (const [at, status] of statuses.entries()) {
    const { state } = status
    const spec = pod.spec.containers[at] as Container
    if (state.running) running++
    else if (state.terminated) {
      if (pod.metadata.deletionTimestamp === undefined && mayRestart(pod, spec, state.terminated.exitCode, false))
        running++
      else if (state.terminated.exitCode === 0) done++
      else failed++
    } else if (status.lastState.terminated || status.restartCount > 0) running++
    else waiting++
  }
  if (waiting > 0) return 'Pending'
  if (running > 0) return 'Running'
  if (failed > 0) return 'Failed'
  if (done > 0) return 'Succeeded'
  return 'Pending'
}

/** The types that a kubelet writes; others (of the scheduler, of controllers) stay. */
const OWN = ['PodReadyToStartContainers', 'Initialized', 'Ready', 'ContainersReady', 'PodScheduled']

function conditionsOf(
  input: StatusInput,
  phase: PodPhase,
  inits: ContainerStatus[],
  statuses: ContainerStatus[],
  nowMs: number,
): PodCondition[] {
  const { pod, contents } = input
  const before = pod.status?.conditions ?? []
  const ended = phase === 'Succeeded' || phase === 'Failed'
  const endReason = phase === 'Succeeded' ? 'PodCompleted' : 'PodFailed'
  const notInited = (pod.spec.initContainers ?? []).filter((spec, at) => {
    const status = inits[at] as ContainerStatus
    return isSidecar(spec) ? !status.started : !status.ready
  })
  const begun = statuses.some((status) => status.containerID !== undefined)
  const initialized = notInited.length === 0 || begun
  const unready = statuses.filter((status) => !status.ready).map((status) => status.name)
  const why = { reason: 'ContainersNotReady', message: `containers with unready status: [${unready.join(' ')}]` }
  const ready = !ended && initialized && unready.length === 0
  const unready_ = ended ? { reason: endReason } : why
  const states: [type: string, isTrue: boolean, why: { reason?: string; message?: string }][] = [
    ['PodReadyToStartContainers', !ended && (currentSandbox(contents)?.ready ?? false), {}],
    [
      'Initialized',
      initialized,
      phase === 'Succeeded'
        ? { reason: 'PodCompleted' }
        : initialized
          ? {}
          : {
              reason: 'ContainersNotInitialized',
              message: `containers with incomplete status: [${notInited.map((c) => c.name).join(' ')}]`,
            },
    ],
    ['Ready', ready, ready ? {} : unready_],
    ['ContainersReady', ready, ready ? {} : unready_],
    ['PodScheduled', true, {}],
  ]
  const own = states.map(([type, isTrue, more]): PodCondition => {
    const status = isTrue ? 'True' : 'False'
    const old = before.find((condition) => condition.type === type)
    const lastTransitionTime = old?.status === status && old.lastTransitionTime ? old.lastTransitionTime : time(nowMs)
    return {
      type,
      status,
      lastProbeTime: null,
      lastTransitionTime,
      ...more,
      ...(pod.metadata.generation === undefined ? {} : { observedGeneration: pod.metadata.generation }),
    }
  })
  return [...own, ...before.filter((condition) => !OWN.includes(condition.type))]
}

/** RFC 7396 patch that makes `to` out of `from`; undefined: they are equal. */
export function mergePatchOf(from: unknown, to: unknown): unknown {
  if (!isObject(from) || !isObject(to)) return JSON.stringify(from) === JSON.stringify(to) ? undefined : to
  const patch: Record<string, unknown> = {}
  for (const key of Object.keys(from)) if (to[key] === undefined && from[key] !== undefined) patch[key] = null
  for (const [key, value] of Object.entries(to)) {
    if (value === undefined) continue
    const change = same(from[key], value)
      ? undefined
      : isObject(value) && isObject(from[key])
        ? mergePatchOf(from[key], value)
        : value
    if (change !== undefined) patch[key] = change
  }
  return Object.keys(patch).length > 0 ? patch : undefined
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Equal as JSON, whatever the order of keys; null and missing are the same here. */
function same(a: unknown, b: unknown): boolean {
  if (a === null || a === undefined || b === null || b === undefined) return (a ?? null) === (b ?? null)
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((one, at) => same(one, b[at]))
  if (isObject(a) && isObject(b))
    return [...new Set([...Object.keys(a), ...Object.keys(b)])].every((key) => same(a[key], b[key]))
  return a === b
}
