import { type ActorRef, CallError, spawn, type Timer, type World } from '@capstan/actor'
import { type ApiClient, type EventRecorder, type Lister, RESOURCES } from '@capstan/client'
import { containerSpecOf, imageOf, logPathOf, pullPolicyOf, sandboxSpecOf } from './container-spec.js'
import { ConfigError, hostsFile, type PodContext, references, type ServiceView, volumeFiles } from './environment.js'
import { HostError, type NodeHost } from './host.js'
import { type Container, isTerminal, type Pod, type PodStatus, type Volume } from './kinds.js'
import { IdentityError, type IdentityKeeper, isIdentityPod } from './identity-keeper.js'
import type { Limiter } from './limiter.js'
import type { ObjectCache } from './object-cache.js'
import { failureDelayMs, newPodMemory, type PodMemory, retryAt } from './pod-memory.js'
import { actionKey, currentSandbox, decidePodActions, type PodAction, type PodPlan } from './pod-plan.js'
import { mergePatchOf, podStatusOf } from './pod-status.js'
import { Prober, type ProbeKind, runHandler } from './probes.js'
import { type AdmissionRefusal, type Allocatable, quantity } from './resources.js'
import {
  type ContainerRuntime,
  type ContainerSpec,
  type ContainerState,
  type DnsConfig,
  type ImageInfo,
  type ImageUse,
  type PodIdentity,
  type RuntimeContents,
  RuntimeError,
  type SandboxSpec,
} from './runtime.js'

/** What all pods of one kubelet share. */
export interface PodWorkerContext {
  world: Pick<World, 'clock' | 'log'>
  client: ApiClient
  runtime: ContainerRuntime
  host: NodeHost
  nodeName: string
  hostIp: string
  events: EventRecorder
  objects: ObjectCache
  services: Lister<ServiceView>
  /** Starts of sandboxes and containers, and pulls of images. */
  limiter: Limiter
  pulls: Limiter
  hostDns: DnsConfig
  /** Missing: nobody guards pods that have an identity; they are run like others. */
  identity: IdentityKeeper | undefined
  allocatable: Allocatable
  nodeMemoryBytes: number
  /** Promise C4: says whether the pod fits. `waiting`: it will, once pods that end now have ended. */
  admit(worker: PodWorker): 'admitted' | 'waiting' | AdmissionRefusal
  /** The pod uses nothing any more. */
  release(worker: PodWorker): void
  /** Nothing is left of the pod. */
  forget(worker: PodWorker): void
}

/** Where nobody says how long: what runs without an object. */
const ORPHAN_GRACE_MS = 2000
const LIST_RETRY_MS = 500
const POST_START_MS = 60_000
/** How often an image that could not be pulled is looked for on this node. */
const IMAGE_LOOK_MS = 2000
const OBJECT_AGE_MS = 1000

const WRITE_STATUS = 'write-status'
const SUCCESSES_MAX = 64

/** A pod's operation failed in a way that its status has a word for. */
class StartError extends Error {
  override readonly name = 'StartError'
  constructor(
    readonly reason: string,
    text: string,
    readonly delays: { first: number; longest: number },
    options?: ErrorOptions,
  ) {
    super(text, options)
  }
}

/** One pod on this node: an actor that looks at what is wanted and what is there, and does what `decidePodActions` says. */
export class PodWorker {
  readonly memory: PodMemory = newPodMemory()
  readonly identity: PodIdentity
  contents: RuntimeContents = { sandboxes: [], containers: [] }
  private object: Pod | undefined
  /** What the API answered to our last write, until the informer shows it or something newer. */
  private written: Pod | undefined
  private lastKnown: Pod | undefined
  private readonly actor: ActorRef<'look'>
  private readonly probers = new Map<string, Prober>()
  private readonly toldBackoffs = new Set<string>()
  private timer: Timer | undefined
  private readonly successes = new Map<string, { count: number; atMs: number }>()
  private sentPatch = ''
  private poked = false
  private stopped = false
  private backoffs: PodPlan['backoffs'] = new Map()

  constructor(
    private readonly context: PodWorkerContext,
    identity: PodIdentity,
    pod: Pod | undefined,
  ) {
    this.identity = identity
    this.object = pod
    this.lastKnown = pod
    this.actor = spawn(
      context.world,
      { name: `pod/${identity.namespace}/${identity.name}`, mailboxMax: 4 },
      (self) => ({
        // Also after a crash: what is wanted is looked at, never remembered.
        started: () => void self.tell('look'),
        receive: () => this.look(),
      }),
    )
  }

  /** As the API has it, our own last write included; undefined: gone. */
  get pod(): Pod | undefined {
    const { object, written } = this
    if (!object || !written) return object
    return Number(written.metadata.resourceVersion) > Number(object.metadata.resourceVersion) ? written : object
  }

  get statusNow(): PodStatus | undefined {
    return this.pod?.status
  }

  update(pod: Pod | undefined): void {
    this.object = pod
    if (pod) this.lastKnown = pod
    this.poke()
  }

  /** Look again soon. Many pokes make one look. */
  poke(): void {
    if (this.poked) return
    this.poked = this.actor.tell('look')
  }

  /** Volumes made of objects follow these. */
  refreshVolumes(): void {
    if (
      this.memory.volumes === undefined ||
      !this.pod?.spec.volumes?.some((v) => v.configMap || v.secret || v.projected || v.downwardAPI)
    )
      return
    this.inBackground('refresh-volumes', () => this.prepareVolumes())
  }

  /** Keeps the logs of what runs from growing without end: one older file stays beside the present one. */
  async rotateLogs(bytesMax: number): Promise<void> {
    const { host, runtime, world } = this.context
    for (const container of this.contents.containers) {
      if (container.state !== 'running') continue
      const path = `${host.logDirectory(this.identity)}/${logPathOf(container.name, container.attempt)}`
      try {
        if (await host.rotateLog(path, bytesMax)) await runtime.reopenLog(container.id)
      } catch (error) {
        world.log.warn({ err: error, path }, 'a log could not be rotated')
      }
    }
  }

  /** The kubelet ends; containers go on. */
  async stop(): Promise<void> {
    this.stopped = true
    this.timer?.cancel()
    for (const prober of this.probers.values()) prober.stop()
    await this.actor.stop()
  }

  private async look(): Promise<void> {
    this.poked = false
    this.timer?.cancel()
    const { context, memory } = this
    const { clock } = context.world
    const pod = this.pod
    this.judgeAdmission(pod)
    try {
      this.contents = await context.runtime.list(this.identity.uid)
    } catch (error) {
      context.world.log.warn({ err: error, pod: this.identity.name }, 'the container runtime does not say what runs')
      return this.wakeIn(LIST_RETRY_MS)
    }
    this.watchProbes(pod)
    const nowMs = clock.nowMs()
    const plan = decidePodActions({ pod, contents: this.contents, memory, orphanGraceMs: ORPHAN_GRACE_MS }, nowMs)
    this.backoffs = plan.backoffs
    if (plan.refusal && !memory.ended) {
      memory.ended = plan.refusal
      this.event('Warning', plan.refusal.reason, plan.refusal.message)
    }
    this.tellBackoffs(plan)
    const status = pod && this.desiredStatus(pod, nowMs)
    if (plan.ended && pod?.metadata.deletionTimestamp === undefined && status && isTerminal({ ...pod, status }))
      memory.final ??= status
    if (plan.ended && !memory.released) {
      memory.released = true
      context.release(this)
    }
    const statusIsWritten = this.writeStatus(status, nowMs)
    for (const action of plan.actions) {
      // The last state of the containers is to be seen before the object goes.
      if (action.kind === 'delete-object' && !statusIsWritten) continue
      this.launch(action)
    }
    const wakes = [plan.wakeAtMs, await this.lookForImages(nowMs), this.statusRetryMs(nowMs)].filter(
      (at) => at !== undefined,
    )
    if (wakes.length > 0) this.wakeIn(Math.min(...wakes) - nowMs)
  }

  private wakeIn(delayMs: number): void {
    this.timer?.cancel()
    this.timer = this.context.world.clock.setTimer(Math.max(delayMs, 1), () => this.poke())
  }

  private judgeAdmission(pod: Pod | undefined): void {
    const { memory } = this
    if (!pod || memory.admission !== 'waiting' || pod.metadata.deletionTimestamp !== undefined || isTerminal(pod))
      return
    memory.admission = this.context.admit(this)
    if (typeof memory.admission === 'object') this.event('Warning', memory.admission.reason, memory.admission.message)
  }

  // -------------------------------------------------------------------------------------------------------------- status

  private desiredStatus(pod: Pod, nowMs: number): PodStatus {
    const { contents, memory, backoffs, context } = this
    if (memory.final && !isTerminal(pod)) return memory.final
    return podStatusOf(
      { pod, contents, memory, backoffs, hostIp: context.hostIp, runtime: context.runtime.kind },
      nowMs,
    )
  }

  /** True if the object's status says all there is to say. Starts a write otherwise. */
  private writeStatus(status: PodStatus | undefined, nowMs: number): boolean {
    const { pod, memory, context } = this
    if (!pod || !status || memory.deletedFromApi) return true
    // Nothing is known of it yet, and its author said nothing new.
    const waits = memory.admission === 'waiting' && pod.metadata.deletionTimestamp === undefined && !isTerminal(pod)
    if (waits) return true
    if (memory.inFlight.has(WRITE_STATUS)) return false
    const patch = mergePatchOf(pod.status ?? {}, status)
    if (patch === undefined) return true
    const text = JSON.stringify(patch)
    // The API made something else of it than was written: once more would not help.
    if (text === this.sentPatch && pod.metadata.resourceVersion === this.written?.metadata.resourceVersion) return true
    if (this.statusRetryMs(nowMs) !== undefined) return false
    this.inBackground(WRITE_STATUS, async () => {
      const { namespace, name, uid } = this.identity
      try {
        // The uid keeps the status from a younger pod of the same name.
        const body = { metadata: { uid }, status: patch }
        this.written = await context.client.patch<Pod>(RESOURCES.pods, { namespace, name }, 'merge', body, {
          subresource: 'status',
        })
        if (text !== this.sentPatch) this.successes.delete(WRITE_STATUS)
        this.sentPatch = text
      } catch (error) {
        // The informer will say so too.
        if (error instanceof CallError && error.code === 'NotFound') return
        throw error
      }
    })
    return false
  }

  private statusRetryMs(nowMs: number): number | undefined {
    return retryAt(this.memory.failures.get(WRITE_STATUS), nowMs)
  }

  private event(type: 'Normal' | 'Warning', reason: string, message: string): void {
    const object = this.lastKnown
    if (object) this.context.events.record({ object, apiVersion: 'v1', kind: 'Pod' }, type, reason, message)
  }

  private tellBackoffs(plan: PodPlan): void {
    for (const name of plan.backoffs.keys()) {
      const last = this.contents.containers.filter((container) => container.name === name).at(-1)
      if (!last || this.toldBackoffs.has(last.id)) continue
      this.toldBackoffs.add(last.id)
      this.event(
        'Warning',
        'BackOff',
        `Back-off restarting failed container ${name} in pod ${this.identity.name}_${this.identity.namespace}(${this.identity.uid})`,
      )
    }
    for (const id of this.toldBackoffs)
      if (!this.contents.containers.some((container) => container.id === id)) this.toldBackoffs.delete(id)
  }

  // -------------------------------------------------------------------------------------------------------------- probes

  private watchProbes(pod: Pod | undefined): void {
    const { memory, context } = this
    const active =
      pod !== undefined &&
      pod.metadata.deletionTimestamp === undefined &&
      !isTerminal(pod) &&
      memory.ended === undefined
    const running = new Map(
      this.contents.containers
        .filter((container) => container.state === 'running')
        .map((container) => [container.id, container]),
    )
    for (const [id, prober] of this.probers)
      if (!active || !running.has(id)) {
        prober.stop()
        this.probers.delete(id)
      }
    for (const id of memory.probes.keys()) if (!running.has(id)) memory.probes.delete(id)
    for (const key of memory.failures.keys())
      if (key.startsWith('stop-container ') && !running.has(key.split(' ')[1] ?? '')) memory.failures.delete(key)
    for (const id of memory.stops.keys()) if (!running.has(id)) memory.stops.delete(id)
    for (const id of memory.stoppedSandboxes)
      if (!this.contents.sandboxes.some((sandbox) => sandbox.id === id)) memory.stoppedSandboxes.delete(id)
    if (!active) return
    const podIp = pod.spec.hostNetwork ? context.hostIp : (currentSandbox(this.contents)?.ip ?? context.hostIp)
    for (const container of [...(pod.spec.initContainers ?? []), ...pod.spec.containers]) {
      const state = [...running.values()].find((one) => one.name === container.name)
      if (!state || this.probers.has(state.id) || !Prober.needed(container)) continue
      this.startProber(pod, container, state, podIp)
    }
  }

  private startProber(pod: Pod, container: Container, state: ContainerState, podIp: string): void {
    const { context, memory } = this
    const before = [...(pod.status?.containerStatuses ?? []), ...(pod.status?.initContainerStatuses ?? [])].find(
      (status) => status.containerID === `${context.runtime.kind}://${state.id}`,
    )
    const prober = new Prober({
      world: context.world,
      runtime: context.runtime,
      host: context.host,
      container,
      containerId: state.id,
      podIp,
      startedAtMs: state.startedAtMs ?? context.world.clock.nowMs(),
      before: { ready: before?.ready ?? false, started: before?.started ?? false },
      changed: (probe) => {
        memory.probes.set(state.id, { ...probe })
        this.poke()
      },
      unhealthy: (kind, message) => this.event('Warning', 'Unhealthy', `${PROBE_NAMES[kind]} probe failed: ${message}`),
    })
    memory.probes.set(state.id, { ...prober.state })
    this.probers.set(state.id, prober)
  }

  // ------------------------------------------------------------------------------------------------------------- actions

  private launch(action: PodAction): void {
    const { limiter } = this.context
    if (action.kind === 'stop-container') this.memory.stops.set(action.id, action.deadlineMs)
    // Ending takes as long as its grace and must not wait for others that start.
    const run = () => this.carryOut(action)
    this.inBackground(actionKey(action), action.kind === 'start-sandbox' ? () => limiter.run(run) : run, action)
  }

  /**
   * What was done and is planned again at once had no effect (a runtime that says yes and does nothing, somebody who undoes
   * what is written): it is repeated ever more slowly, not in a circle without a pause. Starts have back-offs of their own.
   */
  private succeeded(key: string): void {
    const { failures } = this.memory
    const nowMs = this.context.world.clock.nowMs()
    failures.delete(key)
    if (key.startsWith('start-container ')) return
    const before = this.successes.get(key)
    const count = before && nowMs - before.atMs < 10_000 ? before.count + 1 : 1
    this.successes.delete(key)
    // The oldest of the few that matter give way.
    if (this.successes.size >= SUCCESSES_MAX)
      for (const oldest of [...this.successes.keys()].slice(0, 1)) this.successes.delete(oldest)
    this.successes.set(key, { count, atMs: nowMs })
    if (count < 2) return
    const retryAtMs = nowMs + failureDelayMs(count - 1, 100, 5000)
    failures.set(key, { count, atMs: nowMs, retryAtMs, reason: 'NoEffect', message: `${key} had no effect` })
  }

  private inBackground(key: string, run: () => Promise<void>, action?: PodAction): void {
    const { memory, context } = this
    if (memory.inFlight.has(key)) return
    memory.inFlight.add(key)
    const settle = (then: () => void) => {
      memory.inFlight.delete(key)
      then()
      this.poke()
    }
    run().then(
      () => settle(() => this.succeeded(key)),
      (error: unknown) =>
        settle(() => {
          const count = (memory.failures.get(key)?.count ?? 0) + 1
          const nowMs = context.world.clock.nowMs()
          const { reason, message, delays } = describeFailure(action, error)
          memory.failures.set(key, {
            count,
            atMs: nowMs,
            retryAtMs: nowMs + failureDelayMs(count, delays.first, delays.longest),
            reason,
            message,
          })
          this.tellFailure(action, reason, message)
          const fields = { pod: `${this.identity.namespace}/${this.identity.name}`, operation: key, count }
          // What a pod's author or the machine can cause is told in a line; all else is a bug, and is told with its stack.
          if (isExpected(error))
            context.world.log.info({ ...fields, why: message }, 'an operation on a pod failed; it will be repeated')
          else context.world.log.warn({ ...fields, err: error }, 'an operation on a pod failed; it will be repeated')
        }),
    )
  }

  private tellFailure(action: PodAction | undefined, reason: string, message: string): void {
    if (reason === 'PodGone') return
    switch (action?.kind) {
      case 'start-sandbox':
        return this.event('Warning', 'FailedCreatePodSandBox', `Failed to create pod sandbox: ${message}`)
      case 'prepare-volumes':
        return this.event('Warning', 'FailedMount', message)
      case 'start-container':
        return this.event(
          'Warning',
          reason === 'InvalidImageName' ? 'InspectFailed' : 'Failed',
          reason === 'ErrImagePull' ? message : `Error: ${message}`,
        )
      case 'stop-container':
        return this.event('Warning', 'FailedKillPod', `error killing container ${action.name}: ${message}`)
      default:
    }
  }

  private async carryOut(action: PodAction): Promise<void> {
    const { runtime, host } = this.context
    switch (action.kind) {
      case 'prepare-volumes':
        return this.prepareVolumes()
      case 'start-sandbox': {
        const pod = this.mustPod()
        await runtime.startSandbox(sandboxSpecOf(pod, action.attempt, host, this.context.hostDns))
        return
      }
      case 'start-container':
        return this.startContainer(action)
      case 'stop-container':
        return this.stopContainer(action)
      case 'remove-container':
        await runtime.removeContainer(action.id)
        for (const suffix of ['', '.1'])
          await host.removeFile(
            `${host.logDirectory(this.identity)}/${logPathOf(action.name, action.attempt)}${suffix}`,
          )
        return
      case 'stop-sandbox':
        await runtime.stopSandbox(action.id)
        this.memory.stoppedSandboxes.add(action.id)
        return
      case 'remove-sandbox':
        return runtime.removeSandbox(action.id)
      case 'remove-volumes':
        await host.removePodDirectory(this.identity.uid)
        this.memory.volumes = undefined
        return
      case 'delete-object':
        return this.deleteObject()
      case 'forget':
        await host.removePodDirectory(this.identity.uid)
        await host.removeLogs(this.identity.uid)
        this.context.forget(this)
    }
  }

  private mustPod(): Pod {
    const pod = this.pod
    if (!pod) throw new StartError('PodGone', 'the pod is gone', SOON)
    return pod
  }

  private async deleteObject(): Promise<void> {
    const { namespace, name, uid } = this.identity
    try {
      await this.context.client.delete(
        RESOURCES.pods,
        { namespace, name },
        { gracePeriodSeconds: 0, preconditions: { uid } },
      )
    } catch (error) {
      // Gone already, or another one has its name: in both cases ours is gone.
      if (!(error instanceof CallError && (error.code === 'NotFound' || error.code === 'Conflict'))) throw error
    }
    this.memory.deletedFromApi = true
  }

  // ------------------------------------------------------------------------------------------------------------- volumes

  private async podContext(pod: Pod): Promise<PodContext> {
    const { objects, services, nodeName, hostIp, allocatable } = this.context
    const { namespace } = this.identity
    const names = references(pod)
    const fetch = async (kind: 'configmaps' | 'secrets', list: string[]) => {
      const entries = await Promise.all(
        list.map(async (name) => [name, await objects.get(kind, namespace, name, OBJECT_AGE_MS)] as const),
      )
      return new Map(entries.flatMap(([name, keys]) => (keys ? [[name, keys] as const] : [])))
    }
    const [configMaps, secrets] = await Promise.all([
      fetch('configmaps', names.configMaps),
      fetch('secrets', names.secrets),
    ])
    const podIp = pod.spec.hostNetwork ? hostIp : currentSandbox(this.contents)?.ip
    return { pod, nodeName, hostIp, podIp, configMaps, secrets, services: services.list(), allocatable }
  }

  private async prepareVolumes(): Promise<void> {
    const pod = this.mustPod()
    const context = await this.podContext(pod)
    const paths = new Map<string, string>()
    for (const volume of pod.spec.volumes ?? []) paths.set(volume.name, await this.prepareVolume(volume, context))
    this.memory.volumes = paths
  }

  private async prepareVolume(volume: Volume, context: PodContext): Promise<string> {
    const { host } = this.context
    const directory = `${host.podDirectory(this.identity.uid)}/volumes/${volume.name}`
    if (volume.hostPath) {
      await host.checkHostPath(volume.hostPath.path, volume.hostPath.type ?? '')
      return volume.hostPath.path
    }
    const files = volumeFiles(volume, context)
    if (files) {
      await host.writeFiles(directory, files)
      return directory
    }
    if (volume.emptyDir) {
      const { medium, sizeLimit } = volume.emptyDir
      await host.makeDirectory(directory, {
        mode: 0o777,
        ...(medium === 'Memory' ? { memoryBytes: quantity(sizeLimit) } : {}),
      })
      return directory
    }
    const kind = Object.keys(volume).find((key) => key !== 'name') ?? 'nothing'
    throw new ConfigError(
      `MountVolume.SetUp failed for volume "${volume.name}": volumes of kind ${kind} are not supported yet`,
    )
  }

  // ---------------------------------------------------------------------------------------------------------- containers

  private async startContainer(action: PodAction & { kind: 'start-container' }): Promise<void> {
    const { host, hostDns, nodeMemoryBytes, limiter } = this.context
    const pod = this.mustPod()
    const container = [...(pod.spec.initContainers ?? []), ...pod.spec.containers].find(
      (one) => one.name === action.name,
    )
    const sandbox = this.contents.sandboxes.find((one) => one.id === action.sandboxId)
    if (!container || !sandbox) throw new StartError('PodGone', `no container or sandbox for ${action.name}`, SOON)
    const image = await this.ensureImage(pod, container)
    const context = await this.podContext(pod)
    const hostsPath = pod.spec.hostNetwork ? undefined : await this.writeHosts(pod, sandbox.ip)
    const spec = await containerSpecOf(container, context, {
      host,
      volumes: this.memory.volumes ?? new Map(),
      hostsPath,
      attempt: action.attempt,
      backoffMs: action.backoffMs,
      imageId: image.id,
      nodeMemoryBytes,
    })
    const made = sandboxSpecOf(pod, sandbox.attempt, host, hostDns)
    // Only this is limited: pulls and hooks may take long, and must not keep other pods from starting.
    const id = await limiter.run(() => this.createAndStart(action.sandboxId, spec, made))
    await this.postStart(container, id, sandbox.ip)
  }

  /** The pod's own /etc/hosts; its path on the host. A new sandbox has a new address. */
  private async writeHosts(pod: Pod, ip: string | undefined): Promise<string | undefined> {
    if (ip === undefined) return undefined
    const { host } = this.context
    const directory = `${host.podDirectory(this.identity.uid)}/etc`
    const bytes = new TextEncoder().encode(hostsFile(pod, ip))
    await host.writeFiles(directory, [{ path: 'hosts', bytes, mode: 0o644 }])
    return `${directory}/hosts`
  }

  private async createAndStart(sandboxId: string, spec: ContainerSpec, sandbox: SandboxSpec): Promise<string> {
    const { identity } = this.context
    if (!identity || !isIdentityPod(this.mustPod())) return this.createThenStart(sandboxId, spec, sandbox, () => {})
    try {
      return await identity.start(this.identity, (check) => this.createThenStart(sandboxId, spec, sandbox, check))
    } catch (error) {
      if (!(error instanceof IdentityError)) throw error
      throw new StartError('IdentityNotHeld', error.message, { first: 300, longest: 2000 }, { cause: error })
    }
  }

  /** `check` throws if it must not be started now. */
  private async createThenStart(
    sandboxId: string,
    spec: ContainerSpec,
    sandbox: SandboxSpec,
    check: () => void,
  ): Promise<string> {
    const { runtime } = this.context
    const delays = { first: 1000, longest: 30_000 }
    this.mustGoOn()
    let id: string
    try {
      id = await runtime.createContainer(sandboxId, spec, sandbox)
    } catch (error) {
      throw new StartError('CreateContainerError', (error as Error).message, delays, { cause: error })
    }
    this.event('Normal', 'Created', `Created container: ${spec.name}`)
    this.mustGoOn()
    check()
    try {
      await runtime.startContainer(id)
    } catch (error) {
      throw new StartError('RunContainerError', (error as Error).message, delays, { cause: error })
    }
    this.event('Normal', 'Started', `Started container ${spec.name}`)
    return id
  }

  /** The kubelet was stopped, or the pod deleted: nothing is to be started any more, whatever was begun. */
  private mustGoOn(): void {
    if (this.stopped || !this.pod || this.pod.metadata.deletionTimestamp !== undefined)
      throw new StartError('PodGone', 'the pod is being deleted', SOON)
  }

  private async postStart(container: Container, containerId: string, podIp = this.context.hostIp): Promise<void> {
    const hook = container.lifecycle?.postStart
    if (!hook) return
    const outcome = await runHandler({ ...this.context, container, containerId, podIp }, hook, POST_START_MS)
    if (outcome.ok) return
    this.event('Warning', 'FailedPostStartHook', `PostStartHook failed: ${outcome.message}`)
    await this.context.runtime.stopContainer(
      containerId,
      (this.lastKnown?.spec.terminationGracePeriodSeconds ?? 30) * 1000,
    )
  }

  private async stopContainer(action: PodAction & { kind: 'stop-container' }): Promise<void> {
    const { runtime, world, hostIp } = this.context
    const { clock } = world
    const container = [...(this.lastKnown?.spec.initContainers ?? []), ...(this.lastKnown?.spec.containers ?? [])].find(
      (one) => one.name === action.name,
    )
    this.event(
      'Normal',
      'Killing',
      action.why.startsWith('Container ') ? action.why : `Stopping container ${action.name}`,
    )
    const startMs = clock.monotonicMs()
    const hook = container?.lifecycle?.preStop
    if (container && hook && action.graceMs > 0) {
      const podIp = currentSandbox(this.contents)?.ip ?? hostIp
      const outcome = await runHandler(
        { ...this.context, container, containerId: action.id, podIp },
        hook,
        action.graceMs,
      )
      if (!outcome.ok) this.event('Warning', 'FailedPreStopHook', `PreStopHook failed: ${outcome.message}`)
    }
    // A hook that used the grace up leaves the container two seconds, as in Kubernetes.
    const leftMs =
      action.graceMs === 0 ? 0 : Math.max(hook ? 2000 : 0, action.graceMs - (clock.monotonicMs() - startMs))
    await runtime.stopContainer(action.id, leftMs)
  }

  // -------------------------------------------------------------------------------------------------------------- images

  private async ensureImage(pod: Pod, container: Container): Promise<ImageInfo> {
    const { runtime } = this.context
    const name = imageOf(container)
    const policy = pullPolicyOf(container)
    const use: ImageUse = { ownCommand: (container.command ?? []).length > 0 }
    let present: ImageInfo | undefined
    try {
      present = await runtime.image(name, use)
    } catch (error) {
      throw invalidName(name, error)
    }
    if (present && isAtHand(present, policy)) {
      this.event('Normal', 'Pulled', `Container image "${name}" already present on machine`)
      return present
    }
    if (policy === 'Never')
      throw new StartError('ErrImageNeverPull', `Container image "${name}" is not present with pull policy of Never`, {
        first: IMAGE_LOOK_MS,
        longest: 10_000,
      })
    this.event('Normal', 'Pulling', `Pulling image "${name}"`)
    const startMs = this.context.world.clock.monotonicMs()
    try {
      const wanted = { ...use, ...(await this.credentials(pod, name)) }
      const image = await this.context.pulls.run(() => runtime.pullImage(name, wanted))
      const tookMs = Math.round(this.context.world.clock.monotonicMs() - startMs)
      this.event(
        'Normal',
        'Pulled',
        `Successfully pulled image "${name}" in ${tookMs}ms. Image size: ${image.sizeBytes} bytes.`,
      )
      return image
    } catch (error) {
      if (error instanceof RuntimeError && error.code === 'UNAVAILABLE') throw error
      if (error instanceof RuntimeError && error.code === 'IMAGE_NAME') throw invalidName(name, error)
      throw new StartError('ErrImagePull', `Failed to pull image "${name}": ${(error as Error).message}`, PULL_DELAYS, {
        cause: error,
      })
    }
  }

  /** From the first pull secret that names the image's registry. */
  private async credentials(pod: Pod, image: string): Promise<ImageUse> {
    const first = image.split('/')[0] ?? ''
    const registry = image.includes('/') && /[.:]|^localhost$/.test(first) ? first : 'index.docker.io'
    for (const { name } of pod.spec.imagePullSecrets ?? []) {
      if (!name) continue
      const keys = await this.context.objects.get('secrets', this.identity.namespace, name, OBJECT_AGE_MS)
      const found = credentialsIn(keys?.['.dockerconfigjson'], registry)
      if (found) return { credentials: found }
    }
    return {}
  }

  /** An image that could not be pulled may be imported meanwhile: then nobody should have to wait for the back-off's end. */
  private async lookForImages(nowMs: number): Promise<number | undefined> {
    const { memory, pod, context } = this
    if (!pod || pod.metadata.deletionTimestamp !== undefined) return undefined
    let wait = false
    for (const container of [...(pod.spec.initContainers ?? []), ...pod.spec.containers]) {
      const failure = memory.failures.get(`start-container ${container.name}`)
      if (!failure?.reason.startsWith('ErrImage') || retryAt(failure, nowMs) === undefined) continue
      wait = true
      if (nowMs - failure.atMs < IMAGE_LOOK_MS) continue
      const image = await context.runtime
        .image(imageOf(container), { ownCommand: (container.command ?? []).length > 0 })
        .catch(() => undefined)
      if (!image || !isAtHand(image, pullPolicyOf(container))) continue
      failure.retryAtMs = nowMs
      this.poke()
    }
    return wait ? nowMs + IMAGE_LOOK_MS : undefined
  }
}

/**
 * May a container start from it without asking a registry? An image without digests did not come from one (it was
 * imported): then there is nothing newer that the policy `Always` could mean.
 */
function isAtHand(image: ImageInfo, policy: string): boolean {
  return policy !== 'Always' || image.digests.length === 0
}

function credentialsIn(
  bytes: Uint8Array | undefined,
  registry: string,
): { username: string; password: string } | undefined {
  if (!bytes) return undefined
  try {
    const { auths = {} } = JSON.parse(new TextDecoder().decode(bytes)) as {
      auths?: Record<string, { username?: string; password?: string; auth?: string }>
    }
    for (const [server, entry] of Object.entries(auths)) {
      if (!server.replace(/^https?:\/\//, '').startsWith(registry)) continue
      if (entry.username !== undefined && entry.password !== undefined)
        return { username: entry.username, password: entry.password }
      const [username = '', ...password] = new TextDecoder().decode(Buffer.from(entry.auth ?? '', 'base64')).split(':')
      return { username, password: password.join(':') }
    }
  } catch {
    // Not a docker configuration: the pull itself will say what it lacks.
  }
  return undefined
}

/** The error itself, unless the name of the image is what is wrong. */
function invalidName(image: string, error: unknown): unknown {
  if (!(error instanceof RuntimeError && error.code === 'IMAGE_NAME')) return error
  const text = `Failed to apply default image tag "${image}": ${error.message}`
  return new StartError('InvalidImageName', text, PULL_DELAYS, { cause: error })
}

const isExpected = (error: unknown) =>
  error instanceof CallError ||
  error instanceof RuntimeError ||
  error instanceof ConfigError ||
  error instanceof HostError ||
  error instanceof StartError

const SOON = { first: 500, longest: 10_000 }
const PULL_DELAYS = { first: 10_000, longest: 300_000 }
const PROBE_NAMES: Record<ProbeKind, string> = { startup: 'Startup', liveness: 'Liveness', readiness: 'Readiness' }

function describeFailure(
  action: PodAction | undefined,
  error: unknown,
): { reason: string; message: string; delays: { first: number; longest: number } } {
  const message = error instanceof Error ? error.message : String(error)
  if (error instanceof StartError) return { reason: error.reason, message, delays: error.delays }
  // The runtime starts again soon.
  if (error instanceof RuntimeError && error.code === 'UNAVAILABLE')
    return { reason: 'RuntimeUnavailable', message, delays: { first: 300, longest: 2000 } }
  if (action === undefined) return { reason: 'StatusNotWritten', message, delays: { first: 200, longest: 5000 } }
  if (action.kind === 'start-container')
    return { reason: 'CreateContainerConfigError', message, delays: { first: 1000, longest: 10_000 } }
  if (action.kind === 'start-sandbox')
    return { reason: 'FailedCreatePodSandBox', message, delays: { first: 1000, longest: 30_000 } }
  return { reason: 'Failed', message, delays: SOON }
}
