import { BACKOFF_ANNOTATION } from './container-spec.js'
import { type Container, type ContainerStatus, isSidecar, isTerminal, type Pod } from './kinds.js'
import { type PodMemory, retryAt } from './pod-memory.js'
import type { AdmissionRefusal } from './resources.js'
import type { ContainerState, RuntimeContents, SandboxState } from './runtime.js'

/** One thing to do for a pod. Actions of one plan may run side by side; each is done again by a later plan if it failed. */
export type PodAction =
  | { kind: 'prepare-volumes' }
  | { kind: 'start-sandbox'; attempt: number }
  | { kind: 'start-container'; name: string; attempt: number; backoffMs: number; sandboxId: string }
  | { kind: 'stop-container'; id: string; name: string; graceMs: number; deadlineMs: number; why: string }
  | { kind: 'remove-container'; id: string; name: string; attempt: number }
  | { kind: 'stop-sandbox'; id: string }
  | { kind: 'remove-sandbox'; id: string }
  /** Everything has ended: the volumes go, and after them the object in the API. */
  | { kind: 'remove-volumes' }
  | { kind: 'delete-object' }
  /** The object is gone: logs and all that is left go, and the pod is forgotten. */
  | { kind: 'forget' }

export interface PodInput {
  /** Undefined: gone from the API (or never there: an orphan). */
  pod: Pod | undefined
  contents: RuntimeContents
  memory: PodMemory
  /** Grace for what runs without an object that would say. */
  orphanGraceMs: number
}

export interface PodPlan {
  actions: PodAction[]
  /** Look again then, even if nothing happens (wall clock). */
  wakeAtMs: number | undefined
  /** No container runs and none will: the pod's share of the node is free. */
  ended: boolean
  /** The pod has to end although its containers would go on, and why. */
  refusal: AdmissionRefusal | undefined
  /** Containers that wait for their restart, and the end of that wait. By name. */
  backoffs: Map<string, { untilMs: number; delayMs: number }>
}

export const RESTART_BACKOFF_MS = 10_000
export const RESTART_BACKOFF_MS_MAX = 300_000
/** A container that ran so long starts its back-off anew. */
export const RESTART_CALM_MS = 600_000

export function actionKey(action: PodAction): string {
  switch (action.kind) {
    case 'start-container':
      return `start-container ${action.name}`
    case 'stop-container':
      return `stop-container ${action.id} ${action.deadlineMs}`
    case 'remove-container':
    case 'stop-sandbox':
    case 'remove-sandbox':
      return `${action.kind} ${action.id}`
    default:
      return action.kind
  }
}

/**
 * What to do next for a pod, from what is wanted and what is there. Pure: the same input gives the same plan, and a plan
 * that was carried out leads to another one until nothing is left to do.
 */
export function decidePodActions(input: PodInput, nowMs: number): PodPlan {
  const plan = new Planner(input, nowMs)
  plan.decide()
  return plan.result()
}

/**
 * The containers of a pod: what the runtime has, and for those that it lost (its directory was removed, the machine was
 * made anew) what the pod's status says they were. Ascending by attempt within a name.
 */
export function knownContainers(pod: Pod | undefined, contents: RuntimeContents): ContainerState[] {
  const known = [...contents.containers].sort((a, b) => a.attempt - b.attempt || a.createdAtMs - b.createdAtMs)
  for (const status of [...(pod?.status?.initContainerStatuses ?? []), ...(pod?.status?.containerStatuses ?? [])])
    if (status.containerID && pod && !known.some((container) => container.name === status.name))
      known.push(lostContainer(pod, status))
  return known
}

function lostContainer(pod: Pod, status: ContainerStatus): ContainerState {
  const { uid = '', namespace = '', name = '' } = pod.metadata
  const { terminated, running } = status.state
  const last = terminated ?? status.lastState?.terminated
  const at = (text: string | null | undefined) => (text ? Date.parse(text) : undefined)
  return {
    id: (status.containerID ?? '').replace(/^[^/]*:\/\//, ''),
    sandboxId: '',
    pod: { uid, namespace, name },
    name: status.name,
    attempt: status.restartCount,
    state: 'exited',
    image: status.image,
    imageId: status.imageID,
    createdAtMs: 0,
    startedAtMs: at(terminated?.startedAt ?? running?.startedAt ?? last?.startedAt),
    finishedAtMs: at(terminated?.finishedAt ?? last?.finishedAt),
    exitCode: terminated ? terminated.exitCode : running ? 137 : (last?.exitCode ?? 137),
    reason: terminated ? terminated.reason : 'ContainerStatusUnknown',
    message: terminated ? terminated.message : 'The container could not be located when the pod was looked at again',
    annotations: {},
  }
}

/** The sandbox that counts: the newest attempt. */
export function currentSandbox(contents: RuntimeContents): SandboxState | undefined {
  return [...contents.sandboxes].sort((a, b) => b.attempt - a.attempt || b.createdAtMs - a.createdAtMs)[0]
}

export function restartDelay(container: ContainerState): { delayMs: number; nextMs: number } {
  const ranMs = (container.finishedAtMs ?? 0) - (container.startedAtMs ?? container.finishedAtMs ?? 0)
  const stated = Number(container.annotations[BACKOFF_ANNOTATION] ?? 0) || 0
  const delayMs = ranMs >= RESTART_CALM_MS ? 0 : stated
  return { delayMs, nextMs: delayMs === 0 ? RESTART_BACKOFF_MS : Math.min(delayMs * 2, RESTART_BACKOFF_MS_MAX) }
}

/** By the pod's policy; a sidecar always is. */
export function mayRestart(pod: Pod, container: Container, exitCode: number, isInit: boolean): boolean {
  if (isInit && isSidecar(container)) return true
  const policy = pod.spec.restartPolicy ?? 'Always'
  if (isInit) return policy !== 'Never' && exitCode !== 0
  return policy === 'Always' || (policy === 'OnFailure' && exitCode !== 0)
}

class Planner {
  private readonly actions: PodAction[] = []
  private readonly backoffs = new Map<string, { untilMs: number; delayMs: number }>()
  private readonly containers: ContainerState[]
  private wakeAtMs: number | undefined
  private ended = false
  private refusal: AdmissionRefusal | undefined

  constructor(
    private readonly input: PodInput,
    private readonly nowMs: number,
  ) {
    this.containers = knownContainers(input.pod, input.contents)
  }

  result(): PodPlan {
    return {
      actions: this.actions,
      wakeAtMs: this.wakeAtMs,
      ended: this.ended,
      refusal: this.refusal,
      backoffs: this.backoffs,
    }
  }

  decide(): void {
    const { pod, memory } = this.input
    if (!pod || pod.metadata.deletionTimestamp !== undefined) return this.takeDown(pod)
    if (
      isTerminal(pod) ||
      memory.final !== undefined ||
      memory.ended !== undefined ||
      typeof memory.admission === 'object'
    )
      return this.end(pod, 'the pod has ended')
    if (memory.admission === 'waiting') return
    this.refusal = this.deadline(pod)
    if (this.refusal) return this.end(pod, this.refusal.message)
    this.run(pod)
    this.prune()
  }

  // --------------------------------------------------------------------------------------------------------------- down

  private takeDown(pod: Pod | undefined): void {
    const graceMs =
      pod?.metadata.deletionGracePeriodSeconds === undefined
        ? this.input.orphanGraceMs
        : pod.metadata.deletionGracePeriodSeconds * 1000
    if (!this.stopAll(pod, graceMs, 'the pod is deleted')) return
    const { memory } = this.input
    if (pod && !memory.deletedFromApi) {
      // What the pod held is free before anybody is told so.
      if (memory.volumes !== undefined) this.act({ kind: 'remove-volumes' })
      else this.act({ kind: 'delete-object' })
      return
    }
    if (pod) return // Deleted by us; the informer will say so.
    for (const container of this.input.contents.containers)
      this.act({ kind: 'remove-container', id: container.id, name: container.name, attempt: container.attempt })
    if (this.input.contents.containers.length > 0) return
    for (const sandbox of this.input.contents.sandboxes) this.act({ kind: 'remove-sandbox', id: sandbox.id })
    if (this.input.contents.sandboxes.length === 0) this.act({ kind: 'forget' })
  }

  /** The pod is over, its object stays: its containers too, for their logs. */
  private end(pod: Pod, why: string): void {
    this.stopAll(pod, (pod.spec.terminationGracePeriodSeconds ?? 30) * 1000, why)
  }

  /** True when nothing runs any more. Containers first, sidecars after the others, then the sandboxes. */
  private stopAll(pod: Pod | undefined, graceMs: number, why: string): boolean {
    const { contents } = this.input
    const live = contents.containers.filter(
      (container) => container.state === 'running' || container.state === 'unknown',
    )
    const sidecars = new Set((pod?.spec.initContainers ?? []).filter(isSidecar).map((container) => container.name))
    const ordinary = live.filter((container) => !sidecars.has(container.name))
    for (const container of ordinary.length > 0 ? ordinary : live) this.stop(container, graceMs, why)
    if (live.length > 0) return false
    // What is still being made is seen by the next look, and stopped then.
    if ([...this.input.memory.inFlight].some((key) => key.startsWith('start-'))) return false
    this.ended = true
    const toStop = contents.sandboxes.filter((sandbox) => this.isToBeStopped(sandbox))
    for (const sandbox of toStop) this.act({ kind: 'stop-sandbox', id: sandbox.id })
    return toStop.length === 0
  }

  private stop(container: ContainerState, graceMs: number, why: string): void {
    const deadlineMs = this.nowMs + graceMs
    const asked = this.input.memory.stops.get(container.id)
    // A second order counts only if it is in more of a hurry.
    if (asked !== undefined && deadlineMs >= asked - 1000) {
      if ([...this.input.memory.inFlight].some((key) => key.startsWith(`stop-container ${container.id} `))) return
      // The order failed or was lost: again, with what is left of its time.
      this.act({
        kind: 'stop-container',
        id: container.id,
        name: container.name,
        graceMs: Math.max(0, asked - this.nowMs),
        deadlineMs: asked,
        why,
      })
      return
    }
    this.act({ kind: 'stop-container', id: container.id, name: container.name, graceMs, deadlineMs, why })
  }

  // ----------------------------------------------------------------------------------------------------------------- up

  private run(pod: Pod): void {
    const { memory, contents } = this.input
    const sandbox = currentSandbox(contents)
    for (const old of contents.sandboxes)
      if ((old !== sandbox || !old.ready) && this.isToBeStopped(old)) this.act({ kind: 'stop-sandbox', id: old.id })
    const usable = sandbox?.ready ? sandbox : undefined
    if (this.isOver(pod, usable)) return this.end(pod, 'all containers have ended')
    if (!usable) {
      // Containers of a sandbox that ended are lost with it.
      for (const container of contents.containers)
        if (container.state === 'running') this.stop(container, 0, 'its sandbox has ended')
      if (contents.containers.some((container) => container.state === 'running')) return
      if (memory.volumes === undefined) return this.act({ kind: 'prepare-volumes' })
      this.act({ kind: 'start-sandbox', attempt: sandbox ? sandbox.attempt + 1 : 0 })
      return
    }
    // After the kubelet's own restart the directories are there; making them again is harmless and tells where they are.
    if (memory.volumes === undefined) return this.act({ kind: 'prepare-volumes' })
    if (!this.initialized(pod, usable)) return
    for (const container of pod.spec.containers) this.keepRunning(pod, container, usable, false)
  }

  private deadline(pod: Pod): AdmissionRefusal | undefined {
    const { activeDeadlineSeconds } = pod.spec
    const started = pod.status?.startTime
    if (activeDeadlineSeconds === undefined || !started) return undefined
    const endMs = Date.parse(started) + activeDeadlineSeconds * 1000
    if (this.nowMs >= endMs)
      return { reason: 'DeadlineExceeded', message: 'Pod was active on the node longer than the specified deadline' }
    this.wake(endMs)
    return undefined
  }

  /** Every container has ended and none may start again. */
  private isOver(pod: Pod, sandbox: SandboxState | undefined): boolean {
    const over = (container: Container, isInit: boolean) => {
      const last = this.last(container.name)
      return last !== undefined && last.state === 'exited' && !mayRestart(pod, container, last.exitCode ?? 0, isInit)
    }
    // An init container that failed for good ends the pod before its containers began.
    for (const init of pod.spec.initContainers ?? [])
      if (!isSidecar(init) && over(init, true) && (this.last(init.name)?.exitCode ?? 0) !== 0) return true
    if (pod.spec.containers.every((container) => over(container, false))) return true
    // With its sandbox gone, a pod that must not start anything twice has nothing more to do.
    return (
      !sandbox &&
      (pod.spec.restartPolicy ?? 'Always') === 'Never' &&
      pod.spec.containers.some((container) => this.last(container.name) !== undefined)
    )
  }

  /** Are all init containers through, in this sandbox? Starts the next one if not. */
  private initialized(pod: Pod, sandbox: SandboxState): boolean {
    const inits = pod.spec.initContainers ?? []
    const begun = pod.spec.containers.some((container) => this.last(container.name)?.sandboxId === sandbox.id)
    for (const init of inits) {
      if (isSidecar(init)) {
        this.keepRunning(pod, init, sandbox, true)
        const last = this.last(init.name)
        const started =
          last?.state === 'running' &&
          (this.input.memory.probes.get(last.id)?.started ?? init.startupProbe === undefined)
        if (!begun && !started) return false
        continue
      }
      if (begun) continue
      const last = this.last(init.name)
      if (last?.sandboxId === sandbox.id && last.state === 'exited' && last.exitCode === 0) continue
      this.keepRunning(pod, init, sandbox, true)
      return false
    }
    return true
  }

  private keepRunning(pod: Pod, container: Container, sandbox: SandboxState, isInit: boolean): void {
    const last = this.last(container.name)
    if (!last) return this.start(container.name, 0, 0, sandbox)
    if (last.sandboxId !== sandbox.id) {
      // Its sandbox was replaced: it starts again in the new one, as a restart.
      if (last.state === 'running') return
      const exitCode = last.exitCode ?? 0
      if (isInit ? !isSidecar(container) : mayRestart(pod, container, exitCode, isInit) || last.state === 'created')
        return this.start(container.name, last.attempt + 1, 0, sandbox)
      if (isInit && isSidecar(container)) return this.start(container.name, last.attempt + 1, 0, sandbox)
      return
    }
    if (last.state === 'created') {
      // The kubelet ended between making and starting it, or the start failed: made anew under the same number.
      if (!this.input.memory.inFlight.has(`start-container ${container.name}`))
        this.act({ kind: 'remove-container', id: last.id, name: last.name, attempt: last.attempt })
      return
    }
    if (last.state === 'running') return this.heed(pod, container, last)
    if (last.state === 'unknown') return this.stop(last, 0, 'its state is unknown')
    if (!mayRestart(pod, container, last.exitCode ?? 0, isInit)) return
    const { delayMs, nextMs } = restartDelay(last)
    // A clock that went back must not make the wait longer.
    const untilMs = Math.min(last.finishedAtMs ?? 0, this.nowMs) + delayMs
    if (untilMs > this.nowMs) {
      this.backoffs.set(container.name, { untilMs, delayMs })
      this.wake(untilMs)
      return
    }
    this.start(container.name, last.attempt + 1, nextMs, sandbox)
  }

  /** Kills a container whose liveness or startup probe failed. */
  private heed(pod: Pod, container: Container, running: ContainerState): void {
    const probe = this.input.memory.probes.get(running.id)
    if (probe?.failed === undefined) return
    const graceSeconds = probe.graceSeconds ?? pod.spec.terminationGracePeriodSeconds ?? 30
    this.stop(running, graceSeconds * 1000, `Container ${container.name} ${probe.failed}`)
  }

  private start(name: string, attempt: number, backoffMs: number, sandbox: SandboxState): void {
    this.act({ kind: 'start-container', name, attempt, backoffMs, sandboxId: sandbox.id })
  }

  /** Of each container the newest and the one before it (for `logs --previous`) stay; of old sandboxes none. */
  private prune(): void {
    const { contents } = this.input
    const names = new Set(contents.containers.map((container) => container.name))
    const sandbox = currentSandbox(contents)
    for (const name of [...names].sort()) {
      const own = contents.containers
        .filter((container) => container.name === name)
        .sort((a, b) => b.attempt - a.attempt || b.createdAtMs - a.createdAtMs)
      for (const old of own.slice(2))
        if (old.state === 'exited' || old.state === 'created')
          this.act({ kind: 'remove-container', id: old.id, name, attempt: old.attempt })
    }
    for (const old of contents.sandboxes) {
      if (old === sandbox || old.ready) continue
      // Removing a sandbox removes its containers, and the last log of a pod that restarted with its sandbox is wanted still.
      const inUse = contents.containers.some((container) => container.sandboxId === old.id)
      if (!inUse) this.act({ kind: 'remove-sandbox', id: old.id })
    }
  }

  private isToBeStopped(sandbox: SandboxState): boolean {
    return sandbox.ready || !this.input.memory.stoppedSandboxes.has(sandbox.id)
  }

  private last(name: string): ContainerState | undefined {
    return this.containers.findLast((container) => container.name === name)
  }

  /** Unless it runs already, or failed a short while ago. */
  private act(action: PodAction): void {
    const { inFlight, failures } = this.input.memory
    const key = actionKey(action)
    if (inFlight.has(key)) return
    const laterMs = retryAt(failures.get(key), this.nowMs)
    if (laterMs !== undefined) return this.wake(laterMs)
    if (!this.actions.some((other) => actionKey(other) === key)) this.actions.push(action)
  }

  private wake(atMs: number): void {
    this.wakeAtMs = Math.min(this.wakeAtMs ?? atMs, atMs)
  }
}
