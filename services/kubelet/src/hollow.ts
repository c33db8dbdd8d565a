import type { World } from '@capstan/actor'
import { formatLogRecord } from './log-format.js'
import type { KillTarget } from './guard-core.js'
import type { HostInfo, HttpProbe, LogFile, NodeHost, ProbeOutcome, VolumeFile } from './host.js'
import {
  type ContainerRuntime,
  type ContainerSpec,
  type ContainerState,
  type ContainerStats,
  type DnsConfig,
  type ExecResult,
  type ImageInfo,
  type PodIdentity,
  type RuntimeContents,
  RuntimeError,
  type RuntimeInfo,
  type SandboxSpec,
  type SandboxState,
} from './runtime.js'

export interface HollowOptions {
  /** How long a sandbox, and a container, takes to start. Default 50 and 20. */
  sandboxStartMs?: number
  containerStartMs?: number
  /** How long a container takes to end after SIGTERM. Default 10. */
  containerStopMs?: number
  /** First three numbers of the pods' addresses: `10.244.3`. Default `10.244.0`. */
  addressPrefix?: string
  /** Images that can't be had. Default: all can. */
  hasImage?: (name: string) => boolean
  /** Containers that end by themselves. Default: none does. */
  behaviour?: (spec: ContainerSpec) => { exitAfterMs: number; exitCode: number } | undefined
  /** What `exec` answers. Default: exit code 0, no output. */
  exec?: (spec: ContainerSpec, command: readonly string[]) => { exitCode: number; output?: string }
}

interface Held {
  state: ContainerState
  spec: ContainerSpec
  ending: boolean
}

/**
 * Containers that are only pretended: all in memory, in the World's time, the same for the same calls. Outlives kubelets
 * that are started over it, as a real runtime does.
 */
export class HollowRuntime implements ContainerRuntime {
  readonly kind = 'hollow'
  /** What was done, for tests: `start-container nginx 0`. The last 1,000. */
  readonly journal: string[] = []
  /** Tests: every call fails as UNAVAILABLE. */
  down = false
  private readonly sandboxes = new Map<string, SandboxState>()
  private readonly containers = new Map<string, Held>()
  private readonly images = new Map<string, ImageInfo>()
  private readonly listeners = new Set<(podUid: string | undefined) => void>()
  private nextId = 1
  private nextAddress = 2

  constructor(
    private readonly world: Pick<World, 'clock'>,
    private readonly options: HollowOptions = {},
  ) {}

  async info(): Promise<RuntimeInfo> {
    return {
      name: 'hollow',
      version: '1',
      ready: !this.down,
      networkReady: true,
      message: this.down ? 'the hollow runtime is down' : '',
    }
  }

  async list(podUid?: string): Promise<RuntimeContents> {
    this.check()
    const wanted = (pod: { uid: string }) => podUid === undefined || pod.uid === podUid
    return {
      sandboxes: [...this.sandboxes.values()]
        .filter((sandbox) => wanted(sandbox.pod))
        .map((sandbox) => ({ ...sandbox })),
      containers: [...this.containers.values()]
        .filter(({ state }) => wanted(state.pod))
        .map(({ state }) => ({ ...state })),
    }
  }

  onChange(listener: (podUid: string | undefined) => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  async startSandbox(spec: SandboxSpec): Promise<string> {
    await this.wait(this.options.sandboxStartMs ?? 50)
    const clash = [...this.sandboxes.values()].find(
      (sandbox) => sandbox.pod.uid === spec.pod.uid && sandbox.attempt === spec.attempt,
    )
    if (clash) throw new RuntimeError('REFUSED', `sandbox ${spec.attempt} of pod ${spec.pod.uid} is there already`)
    const id = this.newId('sandbox')
    const ip = spec.hostNetwork ? undefined : this.newAddress()
    this.sandboxes.set(id, {
      id,
      pod: spec.pod,
      attempt: spec.attempt,
      ready: true,
      ip,
      createdAtMs: this.world.clock.nowMs(),
      annotations: spec.annotations,
    })
    this.note('start-sandbox', spec.pod.name, spec.attempt, spec.pod.uid)
    return id
  }

  async stopSandbox(sandboxId: string): Promise<void> {
    await this.wait(1)
    const sandbox = this.sandboxes.get(sandboxId)
    if (!sandbox?.ready) return
    for (const held of this.containers.values()) if (held.state.sandboxId === sandboxId) this.end(held, 137)
    sandbox.ready = false
    sandbox.ip = undefined
    this.note('stop-sandbox', sandbox.pod.name, sandbox.attempt, sandbox.pod.uid)
  }

  async removeSandbox(sandboxId: string): Promise<void> {
    await this.stopSandbox(sandboxId)
    const sandbox = this.sandboxes.get(sandboxId)
    if (!sandbox) return
    for (const [id, { state }] of this.containers) if (state.sandboxId === sandboxId) this.containers.delete(id)
    this.sandboxes.delete(sandboxId)
    this.note('remove-sandbox', sandbox.pod.name, sandbox.attempt, sandbox.pod.uid)
  }

  async createContainer(sandboxId: string, spec: ContainerSpec): Promise<string> {
    await this.wait(1)
    const sandbox = this.sandboxes.get(sandboxId)
    if (!sandbox?.ready) throw new RuntimeError('NOT_FOUND', `no running sandbox ${sandboxId}`)
    for (const { state } of this.containers.values())
      if (state.sandboxId === sandboxId && state.name === spec.name && state.attempt === spec.attempt)
        throw new RuntimeError('REFUSED', `container ${spec.name} ${spec.attempt} is there already`)
    const id = this.newId('container')
    const state: ContainerState = {
      id,
      sandboxId,
      pod: spec.pod,
      name: spec.name,
      attempt: spec.attempt,
      state: 'created',
      image: spec.image,
      imageId: spec.imageId,
      createdAtMs: this.world.clock.nowMs(),
      startedAtMs: undefined,
      finishedAtMs: undefined,
      exitCode: undefined,
      reason: undefined,
      message: undefined,
      annotations: spec.annotations,
    }
    this.containers.set(id, { state, spec, ending: false })
    return id
  }

  async startContainer(containerId: string): Promise<void> {
    await this.wait(this.options.containerStartMs ?? 20)
    const held = this.containers.get(containerId)
    if (held?.state.state !== 'created' || !this.sandboxes.get(held.state.sandboxId)?.ready)
      throw new RuntimeError('NOT_FOUND', `container ${containerId} can't be started`)
    held.state.state = 'running'
    held.state.startedAtMs = this.world.clock.nowMs()
    this.note('start-container', held.state.name, held.state.attempt, held.state.pod.uid)
    const own = this.options.behaviour?.(held.spec)
    if (own) this.world.clock.setTimer(own.exitAfterMs, () => this.end(held, own.exitCode))
  }

  async stopContainer(containerId: string, graceMs: number): Promise<void> {
    this.check()
    const held = this.containers.get(containerId)
    if (held?.state.state !== 'running') return
    const stopMs = this.options.containerStopMs ?? 10
    await this.wait(Math.min(stopMs, graceMs))
    this.end(held, stopMs <= graceMs ? 143 : 137)
  }

  async removeContainer(containerId: string): Promise<void> {
    await this.wait(1)
    const held = this.containers.get(containerId)
    if (!held) return
    this.end(held, 137)
    this.containers.delete(containerId)
    this.note('remove-container', held.state.name, held.state.attempt, held.state.pod.uid)
  }

  async exec(containerId: string, command: readonly string[], timeoutMs: number): Promise<ExecResult> {
    await this.wait(Math.min(1, timeoutMs))
    const held = this.containers.get(containerId)
    if (held?.state.state !== 'running') throw new RuntimeError('NOT_FOUND', `container ${containerId} does not run`)
    const { exitCode, output = '' } = this.options.exec?.(held.spec, command) ?? { exitCode: 0 }
    return { exitCode, stdout: new TextEncoder().encode(output), stderr: new Uint8Array() }
  }

  async image(name: string): Promise<ImageInfo | undefined> {
    this.check()
    if (!(this.options.hasImage?.(name) ?? true)) return undefined
    const image = { id: `hollow:${name}`, tags: [name], digests: [], sizeBytes: 1_000_000 }
    if (this.images.size < 1000) this.images.set(name, image)
    return image
  }

  async pullImage(name: string): Promise<ImageInfo> {
    await this.wait(10)
    const image = await this.image(name)
    if (!image) throw new RuntimeError('IMAGE_PULL', `the hollow registry has no ${name}`)
    return image
  }

  async importImage(archivePath: string): Promise<string[]> {
    throw new RuntimeError('UNSUPPORTED', `the hollow runtime needs no images; ${archivePath} was not looked at`)
  }

  async reopenLog(containerId: string): Promise<void> {
    this.check()
    if (!this.containers.has(containerId)) throw new RuntimeError('NOT_FOUND', `no container ${containerId}`)
  }

  async listImages(): Promise<ImageInfo[]> {
    return [...this.images].sort((a, b) => (a[0] < b[0] ? -1 : 1)).map(([, image]) => image)
  }

  async removeImage(name: string): Promise<void> {
    this.images.delete(name)
  }

  async stats(): Promise<ContainerStats[]> {
    return [...this.containers.values()]
      .filter(({ state }) => state.state === 'running')
      .map(({ state }) => ({ pod: state.pod, container: state.name, cpuNanoseconds: 0, memoryBytes: 0 }))
  }

  killTarget(): KillTarget {
    return { kind: 'hollow' }
  }

  async close(): Promise<void> {}

  // ------------------------------------------------------------------------------------------------------ for simulation

  /** Ends one container as if its process had; false if it does not run. */
  crash(containerId: string, exitCode = 1): boolean {
    const held = this.containers.get(containerId)
    if (held?.state.state !== 'running') return false
    this.end(held, exitCode)
    return true
  }

  /** Pods that have a running container at this moment; each once. */
  running(): PodIdentity[] {
    const pods = new Map<string, PodIdentity>()
    for (const { state } of this.containers.values()) if (state.state === 'running') pods.set(state.pod.uid, state.pod)
    return [...pods.values()]
  }

  /** What a guard does: all of the pod ends at once, and nothing is started in its sandboxes any more. */
  endPod(podUid: string): void {
    for (const held of this.containers.values()) if (held.state.pod.uid === podUid) this.end(held, 137)
    for (const sandbox of this.sandboxes.values()) {
      if (sandbox.pod.uid !== podUid || !sandbox.ready) continue
      sandbox.ready = false
      sandbox.ip = undefined
      this.note('end-sandbox', sandbox.pod.name, sandbox.attempt, podUid)
    }
  }

  /** The machine lost power: nothing runs any more, and nothing is left of it. */
  wipe(): void {
    for (const held of this.containers.values()) this.end(held, 137)
    this.containers.clear()
    this.sandboxes.clear()
  }

  private end(held: Held, exitCode: number): void {
    const { state } = held
    if (state.state !== 'running') return
    Object.assign(state, {
      state: 'exited',
      exitCode,
      finishedAtMs: this.world.clock.nowMs(),
      reason: exitCode === 0 ? 'Completed' : 'Error',
    })
    this.note('end-container', state.name, state.attempt, state.pod.uid)
  }

  private note(what: string, name: string, attempt: number, podUid: string): void {
    if (this.journal.length >= 1000) this.journal.shift()
    this.journal.push(`${what} ${name} ${attempt}`)
    // Told in a turn of its own, as news from another process would be.
    this.world.clock.defer(() => {
      for (const listener of Array.from(this.listeners)) listener(podUid)
    })
  }

  private async wait(ms: number): Promise<void> {
    this.check()
    await new Promise<void>((resolve) => this.world.clock.setTimer(ms, resolve))
    this.check()
  }

  private check(): void {
    if (this.down) throw new RuntimeError('UNAVAILABLE', 'the hollow runtime is down')
  }

  private newId(what: string): string {
    return `hollow-${what}-${this.nextId++}`
  }

  /** 253 addresses, in turn; one that a live sandbox has is passed over. */
  private newAddress(): string {
    const taken = new Set([...this.sandboxes.values()].map((sandbox) => sandbox.ip))
    for (let tries = 0; tries < 253; tries++) {
      const last = this.nextAddress
      this.nextAddress = last === 254 ? 2 : last + 1
      const ip = `${this.options.addressPrefix ?? '10.244.0'}.${last}`
      if (!taken.has(ip)) return ip
    }
    throw new RuntimeError('REFUSED', 'no free pod address')
  }
}

/** A machine that is only pretended. Files are kept in memory; probes over the network succeed unless told otherwise. */
export class HollowHost implements NodeHost {
  readonly files = new Map<string, Uint8Array>()
  private readonly directories = new Set<string>()
  private readonly rotations = new Map<string, number>()

  constructor(
    private readonly options: { info?: Partial<HostInfo>; probe?: (host: string, port: number) => ProbeOutcome } = {},
  ) {}

  async info(): Promise<HostInfo> {
    return {
      cpus: 4,
      memoryBytes: 8 * 2 ** 30,
      diskBytes: 100 * 2 ** 30,
      diskFreeBytes: 90 * 2 ** 30,
      memoryFreeBytes: 7 * 2 ** 30,
      architecture: 'amd64',
      kernelVersion: 'hollow',
      osImage: 'hollow',
      machineId: 'hollow',
      bootId: 'hollow',
      ...this.options.info,
    }
  }

  async dns(): Promise<DnsConfig> {
    return { servers: [], searches: [], options: [] }
  }

  podDirectory(podUid: string): string {
    return `/pods/${podUid}`
  }

  logDirectory({ namespace, name, uid }: { namespace: string; name: string; uid: string }): string {
    return `/logs/${namespace}_${name}_${uid}`
  }

  async podDirectories(): Promise<string[]> {
    const uids = new Set<string>()
    for (const path of [...this.directories, ...this.files.keys()]) {
      const [, top, name = ''] = path.split('/')
      uids.add(top === 'logs' ? (name.split('_')[2] ?? '') : name)
    }
    return [...uids].sort()
  }

  async removePodDirectory(podUid: string): Promise<void> {
    this.removeBelow((path) => path.startsWith(`/pods/${podUid}/`))
  }

  async removeLogs(podUid: string): Promise<void> {
    this.removeBelow((path) => path.startsWith('/logs/') && (path.split('/')[2] ?? '').endsWith(`_${podUid}`))
  }

  async makeDirectory(path: string): Promise<void> {
    this.directories.add(path)
  }

  async writeFiles(directory: string, files: VolumeFile[]): Promise<void> {
    this.removeBelow((path) => path.startsWith(`${directory}/`))
    this.directories.add(directory)
    for (const { path, bytes } of files) this.files.set(`${directory}/${path}`, bytes)
  }

  async checkHostPath(): Promise<void> {}

  async subPath(volumePath: string, subPath: string): Promise<string> {
    return `${volumePath}/${subPath}`
  }

  async openLog(path: string): Promise<LogFile | undefined> {
    const opened = this.files.get(path)
    if (!opened) return undefined
    // A file stays what it was opened as: under its name, or under the one that rotation gave it.
    const version = this.rotations.get(path) ?? 0
    const rotated = () => (this.rotations.get(path) ?? 0) !== version
    const bytes = () => this.files.get(rotated() ? `${path}.1` : path) ?? new Uint8Array()
    return {
      sizeBytes: async () => bytes().length,
      read: async (offset, lengthBytes) => bytes().slice(offset, offset + lengthBytes),
      replaced: async () => rotated() && this.files.has(path),
      close: async () => {},
    }
  }

  async rotateLog(path: string, bytesMax: number): Promise<boolean> {
    const bytes = this.files.get(path)
    if (!bytes || bytes.length <= bytesMax) return false
    this.files.set(`${path}.1`, bytes)
    this.files.delete(path)
    this.rotations.set(path, (this.rotations.get(path) ?? 0) + 1)
    return true
  }

  async removeFile(path: string): Promise<void> {
    this.files.delete(path)
  }

  async httpGet(probe: HttpProbe): Promise<ProbeOutcome> {
    return this.options.probe?.(probe.host, probe.port) ?? { ok: true, message: '' }
  }

  async tcpConnect(host: string, port: number): Promise<ProbeOutcome> {
    return this.options.probe?.(host, port) ?? { ok: true, message: '' }
  }

  /** Tests: a line that a container wrote. */
  appendLog(path: string, time: string, text: string): void {
    const before = this.files.get(path) ?? new Uint8Array()
    const record = formatLogRecord(time, 'stdout', false, new TextEncoder().encode(text))
    this.files.set(path, Uint8Array.from([...before, ...record]))
  }

  private removeBelow(isBelow: (path: string) => boolean): void {
    for (const path of this.files.keys()) if (isBelow(path)) this.files.delete(path)
    for (const path of this.directories) if (isBelow(`${path}/`) || isBelow(path)) this.directories.delete(path)
  }
}
