import type { Container, Pod, PodSpec } from '../kinds.js'
import { newPodMemory, type PodMemory } from '../pod-memory.js'
import { actionKey, decidePodActions, type PodAction, type PodPlan } from '../pod-plan.js'
import type { ContainerState, RuntimeContents } from '../runtime.js'

export function makePod(spec: Partial<PodSpec> & { containers?: Container[] } = {}, name = 'p'): Pod {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default', uid: `uid-${name}`, creationTimestamp: '2030-01-01T00:00:00Z' },
    spec: { containers: [{ name: 'c', image: 'nginx' }], nodeName: 'n0', ...spec },
    status: { phase: 'Pending' },
  }
}

/**
 * A pod whose plan is carried out at once by a machine in memory: each `step` decides, applies all actions, and says them.
 * `seconds` is its clock.
 */
export class PlannedPod {
  nowMs = 1_000_000_000_000
  contents: RuntimeContents = { sandboxes: [], containers: [] }
  readonly memory: PodMemory
  plan: PodPlan | undefined
  private ids = 0
  forgotten = false
  deleted = false

  constructor(public pod: Pod | undefined) {
    this.memory = { ...newPodMemory(), admission: 'admitted' }
  }

  decide(): PodPlan {
    this.plan = decidePodActions(
      { pod: this.pod, contents: this.contents, memory: this.memory, orphanGraceMs: 2000 },
      this.nowMs,
    )
    return this.plan
  }

  /** The actions, in short. */
  step(): string[] {
    const { actions } = this.decide()
    for (const action of actions) this.apply(action)
    return actions.map(describe)
  }

  /** Steps until nothing is left to do. */
  settle(): string[] {
    const all: string[] = []
    for (let turn = 0; turn < 50; turn++) {
      const actions = this.step()
      if (actions.length === 0) return all
      all.push(...actions)
    }
    throw new Error(`a pod never comes to rest: ${all.join(', ')}`)
  }

  container(name = 'c'): ContainerState {
    const found = this.contents.containers.filter((container) => container.name === name).at(-1)
    if (!found) throw new Error(`no container ${name}`)
    return found
  }

  exit(name: string, exitCode: number): void {
    Object.assign(this.container(name), { state: 'exited', exitCode, finishedAtMs: this.nowMs })
  }

  delete(graceSeconds: number): void {
    if (!this.pod) return
    this.pod = {
      ...this.pod,
      metadata: {
        ...this.pod.metadata,
        deletionTimestamp: '2030-01-01T00:00:00Z',
        deletionGracePeriodSeconds: graceSeconds,
      },
    }
  }

  private apply(action: PodAction): void {
    const { contents, memory, nowMs } = this
    switch (action.kind) {
      case 'prepare-volumes':
        memory.volumes = new Map()
        break
      case 'start-sandbox':
        contents.sandboxes.push({
          id: `s${++this.ids}`,
          pod: identity,
          attempt: action.attempt,
          ready: true,
          ip: '10.0.0.2',
          createdAtMs: nowMs,
          annotations: {},
        })
        break
      case 'start-container':
        contents.containers.push({
          id: `c${++this.ids}`,
          sandboxId: action.sandboxId,
          pod: identity,
          name: action.name,
          attempt: action.attempt,
          state: 'running',
          image: 'nginx',
          imageId: 'sha256:1',
          createdAtMs: nowMs,
          startedAtMs: nowMs,
          finishedAtMs: undefined,
          exitCode: undefined,
          reason: undefined,
          message: undefined,
          annotations: { 'capstan.io/restart-backoff-ms': String(action.backoffMs) },
        })
        break
      case 'stop-container': {
        const container = contents.containers.find((one) => one.id === action.id)
        memory.stops.set(action.id, action.deadlineMs)
        if (container) Object.assign(container, { state: 'exited', exitCode: 143, finishedAtMs: nowMs })
        break
      }
      case 'remove-container':
        contents.containers = contents.containers.filter((one) => one.id !== action.id)
        break
      case 'stop-sandbox':
        for (const sandbox of contents.sandboxes) if (sandbox.id === action.id) sandbox.ready = false
        memory.stoppedSandboxes.add(action.id)
        break
      case 'remove-sandbox':
        contents.sandboxes = contents.sandboxes.filter((one) => one.id !== action.id)
        break
      case 'remove-volumes':
        memory.volumes = undefined
        break
      case 'delete-object':
        memory.deletedFromApi = true
        this.deleted = true
        this.pod = undefined
        break
      case 'forget':
        this.forgotten = true
        throw new Forgotten()
    }
  }
}

export class Forgotten extends Error {}

const identity = { uid: 'uid-p', namespace: 'default', name: 'p' }

function describe(action: PodAction): string {
  switch (action.kind) {
    case 'start-container':
      return `start ${action.name} ${action.attempt}`
    case 'stop-container':
      return `stop ${action.name} ${action.graceMs / 1000}s`
    case 'start-sandbox':
      return `start-sandbox ${action.attempt}`
    default:
      return actionKey(action).split(' ')[0] as string
  }
}
