import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { hostname } from 'node:os'
import { dirname, join } from 'node:path'
import type { Log } from '@capstan/actor'
import type { KillTarget } from '../guard-core.js'
import {
  type ContainerRuntime,
  type ContainerSpec,
  type ContainerState,
  type ContainerStats,
  type ExecResult,
  type ImageInfo,
  type ImageUse,
  OUTPUT_BYTES_MAX,
  type RuntimeContents,
  RuntimeError,
  type RuntimeInfo,
  type SandboxSpec,
  type SandboxState,
} from '../runtime.js'
import { baseNameOf, findProgram, nginxConfig, programFor } from './host-programs.js'
import { LogPump } from './log-pump.js'
import { isLive, readProcessRecord, writeProcessRecord } from './process-record.js'

const STOP_LOOK_MS = 50
const CLOCK_TICKS = 100
const PAGE_BYTES = 4096

/**
 * Stands between us and the command: it stays for the command's exit code, which it writes down, so that we may be gone
 * when it ends. Signals go to the whole group; it ignores them and waits for its child.
 */
const WRAPPER = 'dir=$1; shift; trap : TERM INT HUP QUIT; "$@"; echo $? > "$dir/exit"'

export interface ProcessRuntimeOptions {
  /** All state of this node's processes. */
  directory: string
  /** The pods' address where they can't have addresses of their own (all but Linux). */
  hostIp: string
  log: Log
}

interface StoredSandbox {
  spec: SandboxSpec
  state: SandboxState
}

interface StoredContainer {
  spec: ContainerSpec
  state: ContainerState
  logFile: string
  hostname: string
}

/**
 * Containers as child processes of this host: no root, no images, no isolation. Each container is a process group of its
 * own that outlives the kubelet and is found again by its record. On Linux each pod has an address of its own out of
 * 127.0.0.0/8, so that many can listen on one port; programs learn it from `POD_IP`.
 */
export class ProcessRuntime implements ContainerRuntime {
  readonly kind = 'process'
  private readonly sandboxDir: string
  private readonly containerDir: string
  private readonly sandboxes = new Map<string, StoredSandbox>()
  private readonly containers = new Map<string, StoredContainer>()
  private readonly pumps = new Map<string, LogPump>()
  private readonly listeners = new Set<(podUid: string | undefined) => void>()
  private readonly log: Log
  private addressPrefix = '127.244.0'

  constructor(private readonly options: ProcessRuntimeOptions) {
    this.log = options.log.child({ component: 'process-runtime' })
    this.sandboxDir = join(options.directory, 'sandboxes')
    this.containerDir = join(options.directory, 'containers')
    for (const dir of [this.sandboxDir, this.containerDir]) mkdirSync(dir, { recursive: true })
    this.load()
  }

  async info(): Promise<RuntimeInfo> {
    return { name: 'capstan-process', version: process.versions.node, ready: true, networkReady: true, message: '' }
  }

  async list(podUid?: string): Promise<RuntimeContents> {
    const wanted = (pod: { uid: string }) => podUid === undefined || pod.uid === podUid
    for (const stored of this.containers.values()) if (wanted(stored.state.pod)) this.look(stored)
    return {
      sandboxes: [...this.sandboxes.values()]
        .filter(({ state }) => wanted(state.pod))
        .map(({ state }) => ({ ...state }))
        .sort(byCreation),
      containers: [...this.containers.values()]
        .filter(({ state }) => wanted(state.pod))
        .map(({ state }) => ({ ...state }))
        .sort(byCreation),
    }
  }

  onChange(listener: (podUid: string | undefined) => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  async configureNetwork(podCidr: string): Promise<void> {
    // The node's own part of the pods' network, mirrored into loopback's: no two nodes of a cluster share it.
    const [, second, third] = podCidr.split('.')
    if (second && third) this.addressPrefix = `127.${second}.${third}`
  }

  async startSandbox(spec: SandboxSpec): Promise<string> {
    const id = newId()
    const ip = spec.hostNetwork ? undefined : await this.newAddress()
    const state: SandboxState = {
      id,
      pod: spec.pod,
      attempt: spec.attempt,
      ready: true,
      ip,
      createdAtMs: Date.now(),
      annotations: spec.annotations,
    }
    mkdirSync(spec.logDirectory, { recursive: true })
    this.sandboxes.set(id, { spec, state })
    this.saveSandbox(id)
    return id
  }

  async stopSandbox(sandboxId: string): Promise<void> {
    const sandbox = this.sandboxes.get(sandboxId)
    if (!sandbox?.state.ready) return
    const own = [...this.containers.values()].filter(({ state }) => state.sandboxId === sandboxId)
    await Promise.all(own.map(({ state }) => this.stopContainer(state.id, 0)))
    sandbox.state.ready = false
    sandbox.state.ip = undefined
    this.saveSandbox(sandboxId)
  }

  async removeSandbox(sandboxId: string): Promise<void> {
    await this.stopSandbox(sandboxId)
    for (const { state } of this.containers.values())
      if (state.sandboxId === sandboxId) await this.removeContainer(state.id)
    this.sandboxes.delete(sandboxId)
    rmSync(join(this.sandboxDir, `${sandboxId}.json`), { force: true })
  }

  async createContainer(sandboxId: string, spec: ContainerSpec, sandbox: SandboxSpec): Promise<string> {
    if (!this.sandboxes.get(sandboxId)?.state.ready)
      throw new RuntimeError('NOT_FOUND', `no running sandbox ${sandboxId}`)
    const id = newId()
    const state: ContainerState = {
      id,
      sandboxId,
      pod: spec.pod,
      name: spec.name,
      attempt: spec.attempt,
      state: 'created',
      image: spec.image,
      imageId: spec.imageId,
      createdAtMs: Date.now(),
      startedAtMs: undefined,
      finishedAtMs: undefined,
      exitCode: undefined,
      reason: undefined,
      message: undefined,
      annotations: spec.annotations,
    }
    const stored = { spec, state, logFile: join(sandbox.logDirectory, spec.logPath), hostname: sandbox.hostname }
    mkdirSync(this.pathOf(id), { recursive: true })
    this.containers.set(id, stored)
    this.save(stored)
    return id
  }

  async startContainer(containerId: string): Promise<void> {
    const stored = this.mustFind(containerId)
    if (stored.state.state !== 'created')
      throw new RuntimeError('REFUSED', `container ${containerId} was started already`)
    try {
      await this.launch(stored)
    } catch (error) {
      const message = (error as Error).message
      Object.assign(stored.state, {
        state: 'exited',
        exitCode: 128,
        finishedAtMs: Date.now(),
        reason: 'StartError',
        message,
      })
      this.save(stored)
      throw error
    }
  }

  async stopContainer(containerId: string, graceMs: number): Promise<void> {
    const stored = this.containers.get(containerId)
    if (!stored) return
    this.look(stored)
    if (stored.state.state !== 'running') return
    const record = readProcessRecord(join(this.pathOf(containerId), 'process.json'))
    if (!record) return
    const until = performance.now() + graceMs
    if (graceMs > 0) signalGroup(record.pid, 'SIGTERM')
    while (isLive(record) && performance.now() < until)
      await new Promise((resolve) => setTimeout(resolve, STOP_LOOK_MS))
    // What the command left behind in its group ends with it.
    signalGroup(record.pid, 'SIGKILL')
    while (isLive(record)) await new Promise((resolve) => setTimeout(resolve, STOP_LOOK_MS))
    this.look(stored)
  }

  async removeContainer(containerId: string): Promise<void> {
    const stored = this.containers.get(containerId)
    if (!stored) return
    await this.stopContainer(containerId, 0)
    this.pumps.get(containerId)?.stop()
    this.pumps.delete(containerId)
    this.containers.delete(containerId)
    rmSync(this.pathOf(containerId), { recursive: true, force: true })
  }

  async exec(containerId: string, command: readonly string[], timeoutMs: number): Promise<ExecResult> {
    const stored = this.mustFind(containerId)
    this.look(stored)
    if (stored.state.state !== 'running') throw new RuntimeError('NOT_FOUND', `container ${containerId} does not run`)
    const { env, cwd, words } = this.environment(stored, command)
    const program = findProgram(words[0] ?? '', env['PATH'], cwd)
    if (!program) throw new RuntimeError('REFUSED', `exec: "${words[0] ?? ''}": executable file not found in $PATH`)
    return new Promise((resolve, reject) => {
      const child = spawn(program, words.slice(1), {
        env,
        cwd,
        stdio: ['ignore', 'pipe', 'pipe'],
        detached: true,
        ...identityOf(stored.spec),
      })
      const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] }
      const bytes = { stdout: 0, stderr: 0 }
      for (const stream of ['stdout', 'stderr'] as const)
        child[stream]?.on('data', (chunk: Buffer) => {
          const rest = OUTPUT_BYTES_MAX - bytes[stream]
          if (rest > 0) output[stream].push(chunk.subarray(0, rest))
          bytes[stream] += chunk.length
        })
      const timer = setTimeout(() => {
        if (child.pid !== undefined) signalGroup(child.pid, 'SIGKILL')
        reject(new RuntimeError('TIMEOUT', `command "${command.join(' ')}" timed out after ${timeoutMs} ms`))
      }, timeoutMs)
      child.once('error', (error) => {
        clearTimeout(timer)
        reject(new RuntimeError('REFUSED', error.message, { cause: error }))
      })
      child.once('close', (code) => {
        clearTimeout(timer)
        resolve({ exitCode: code ?? 137, stdout: Buffer.concat(output.stdout), stderr: Buffer.concat(output.stderr) })
      })
    })
  }

  async image(name: string, use: ImageUse = {}): Promise<ImageInfo | undefined> {
    if (!/^[a-z0-9]/i.test(name) || /\s/.test(name))
      throw new RuntimeError('IMAGE_NAME', `not the name of an image: ${JSON.stringify(name)}`)
    const image = { id: `process:${name}`, tags: [name], digests: [], sizeBytes: 0 }
    if (use.ownCommand) return image
    const known = programFor(name)
    return known?.programs.some((program) => findProgram(program, process.env['PATH'])) ? image : undefined
  }

  async pullImage(name: string, use: ImageUse = {}): Promise<ImageInfo> {
    const image = await this.image(name, use)
    if (image) return image
    const known = programFor(name)
    throw new RuntimeError(
      'IMAGE_PULL',
      known
        ? `the process runtime runs programs of this host, and ${known.programs[0]} is not installed: apt-get install ${known.debianPackage}`
        : `the process runtime runs programs of this host and knows none for image "${baseNameOf(name)}": give the container a command that is installed here, or use --runtime containerd`,
    )
  }

  async importImage(archivePath: string): Promise<string[]> {
    throw new RuntimeError(
      'UNSUPPORTED',
      `the process runtime takes no images (${archivePath}): it runs programs of this host`,
    )
  }

  async listImages(): Promise<ImageInfo[]> {
    return []
  }

  /** Lines are appended by name: the next one goes into a new file. */
  async reopenLog(): Promise<void> {}

  async removeImage(): Promise<void> {}

  async stats(): Promise<ContainerStats[]> {
    const running = [...this.containers.values()].filter(({ state }) => state.state === 'running')
    const usage = groupUsage()
    return running.map(({ state }) => {
      const record = readProcessRecord(join(this.pathOf(state.id), 'process.json'))
      return {
        pod: state.pod,
        container: state.name,
        ...(usage.get(record?.pid ?? -1) ?? { cpuNanoseconds: 0, memoryBytes: 0 }),
      }
    })
  }

  killTarget(): KillTarget {
    return { kind: 'processes', directory: this.containerDir }
  }

  async close(): Promise<void> {
    for (const pump of this.pumps.values()) {
      pump.pump()
      pump.stop()
    }
    this.pumps.clear()
  }

  /** Ends every process of this node and forgets them. */
  async teardown(): Promise<void> {
    await Promise.all([...this.sandboxes.keys()].map((id) => this.removeSandbox(id)))
    await Promise.all([...this.containers.keys()].map((id) => this.removeContainer(id)))
    await this.close()
  }

  // ------------------------------------------------------------------------------------------------------------- inside

  private async launch(stored: StoredContainer): Promise<void> {
    const { spec, state } = stored
    const dir = this.pathOf(state.id)
    this.linkMounts(stored)
    const { env, cwd, words } = this.environment(stored, await this.commandOf(stored))
    const program = findProgram(words[0] ?? '', env['PATH'], cwd)
    if (!program) throw new RuntimeError('REFUSED', `exec: "${words[0] ?? ''}": executable file not found in $PATH`)
    const limits = limitsOf(spec)
    const [stdout, stderr] = ['stdout', 'stderr'].map((name) => openSync(join(dir, name), 'a')) as [number, number]
    let child: ChildProcess
    try {
      child = spawn('/bin/sh', ['-c', WRAPPER, 'capstan-container', dir, ...limits, program, ...words.slice(1)], {
        env,
        cwd,
        stdio: ['ignore', stdout, stderr],
        detached: true,
        ...identityOf(spec),
      })
      await new Promise<void>((resolve, reject) => {
        child.once('spawn', resolve)
        child.once('error', (error) => reject(new RuntimeError('REFUSED', error.message, { cause: error })))
      })
    } finally {
      closeSync(stdout)
      closeSync(stderr)
    }
    writeProcessRecord(join(dir, 'process.json'), child.pid ?? 0)
    Object.assign(state, { state: 'running', startedAtMs: Date.now() })
    this.save(stored)
    this.pump(stored)
    child.once('exit', () => {
      this.look(stored)
      for (const listener of Array.from(this.listeners)) listener(state.pod.uid)
    })
    child.unref()
  }

  /** The spec's own command, or what the image stands for on this host. */
  private async commandOf(stored: StoredContainer): Promise<string[]> {
    const { spec, state } = stored
    if (spec.command) return [...spec.command, ...(spec.args ?? [])]
    const known = programFor(spec.image)
    const program = known?.programs
      .map((name) => findProgram(name, process.env['PATH']))
      .find((path) => path !== undefined)
    if (!known || !program) throw new RuntimeError('REFUSED', `no program of this host stands for image ${spec.image}`)
    if (known.configure === 'nginx' && !spec.args)
      return [program, '-p', this.pathOf(state.id), '-e', 'stderr', '-c', await this.configureNginx(stored)]
    const args =
      baseNameOf(spec.image) === 'busybox' && program.endsWith('busybox')
        ? ['sh', ...(spec.args ?? [])]
        : [...known.args, ...(spec.args ?? [])]
    return [program, ...args]
  }

  private async configureNginx({ spec, state, hostname: name }: StoredContainer): Promise<string> {
    const directory = this.pathOf(state.id)
    const address = this.sandboxes.get(state.sandboxId)?.state.ip ?? this.options.hostIp
    const wanted = spec.ports[0]?.containerPort ?? 80
    // Low ports are root's: then the same one, thousands higher.
    const port = (await mayListen(address, wanted)) ? wanted : wanted + 8000
    if (port !== wanted)
      this.log.warn(
        { pod: spec.pod.name, address, wanted, port },
        'this process may not listen on the port that the pod names: nginx listens on another one, Services do not find it',
      )
    const html = spec.mounts.find((mount) => mount.containerPath === '/usr/share/nginx/html')?.hostPath
    const file = join(directory, 'nginx.conf')
    writeFileSync(
      file,
      nginxConfig({
        directory,
        address,
        port,
        hostname: name,
        image: spec.image,
        html,
        isRoot: process.getuid?.() === 0,
      }),
    )
    return file
  }

  /** Mounts show below the container's working directory, and their paths are replaced where a command's words begin with them. */
  private environment(
    { spec, state, hostname: name }: StoredContainer,
    command: readonly string[],
  ): { env: Record<string, string>; cwd: string; words: string[] } {
    const root = join(this.pathOf(state.id), 'root')
    const mounts = [...spec.mounts].sort((a, b) => b.containerPath.length - a.containerPath.length)
    const onHost = (text: string) => {
      for (const { containerPath, hostPath } of mounts) {
        if (containerPath === '/etc/hosts') continue
        const path = containerPath.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
        text = text.replace(
          new RegExp(`(^|[\\s"'=:<>(,;])${path}(?=$|[\\s/"':<>),;|&])`, 'g'),
          (_, before: string) => `${before}${hostPath}`,
        )
      }
      return text
    }
    const ip = this.sandboxes.get(state.sandboxId)?.state.ip ?? this.options.hostIp
    const own = Object.fromEntries(spec.env.map(([key, value]) => [key, onHost(value)]))
    const workingDir = spec.workingDir === undefined ? root : onHost(spec.workingDir)
    return {
      env: {
        PATH: process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin',
        HOME: root,
        HOSTNAME: name || hostname(),
        POD_IP: ip,
        ...own,
      },
      cwd: existsSync(workingDir) ? workingDir : root,
      words: command.map(onHost),
    }
  }

  private linkMounts({ spec, state }: StoredContainer): void {
    const root = join(this.pathOf(state.id), 'root')
    mkdirSync(root, { recursive: true })
    for (const { containerPath, hostPath } of spec.mounts) {
      const link = join(root, containerPath)
      if (!link.startsWith(`${root}/`) || existsSync(link)) continue
      mkdirSync(dirname(link), { recursive: true })
      symlinkSync(hostPath, link)
    }
  }

  /** Brings the state up to date with the process. */
  private look(stored: StoredContainer): void {
    const { state } = stored
    if (state.state !== 'running') return
    const dir = this.pathOf(state.id)
    const record = readProcessRecord(join(dir, 'process.json'))
    if (record && isLive(record)) return
    const exitFile = join(dir, 'exit')
    const text = existsSync(exitFile) ? readFileSync(exitFile, 'utf8').trim() : ''
    // Killed together with its wrapper, which then wrote nothing; whatever is left of the group is not to live on.
    if (text === '' && record) signalGroup(record.pid, 'SIGKILL')
    const exitCode = text === '' ? 137 : Number(text)
    const finishedAtMs = text === '' ? Date.now() : Math.floor(statSync(exitFile).mtimeMs)
    Object.assign(state, { state: 'exited', exitCode, finishedAtMs, reason: exitCode === 0 ? 'Completed' : 'Error' })
    this.save(stored)
    const pump = this.pumps.get(state.id) ?? new LogPump(dir, stored.logFile)
    pump.pump(true)
    pump.stop()
    this.pumps.delete(state.id)
  }

  private pump({ state, logFile }: StoredContainer): void {
    if (!this.pumps.has(state.id)) this.pumps.set(state.id, new LogPump(this.pathOf(state.id), logFile))
  }

  private load(): void {
    for (const file of readdirSync(this.sandboxDir)
      .filter((name) => name.endsWith('.json'))
      .sort()) {
      const stored = readJson<StoredSandbox>(join(this.sandboxDir, file))
      if (stored) this.sandboxes.set(stored.state.id, stored)
    }
    for (const id of readdirSync(this.containerDir).sort()) {
      const stored = readJson<StoredContainer>(join(this.containerDir, id, 'container.json'))
      if (!stored) continue
      this.containers.set(id, stored)
      // Started, and we ended before it was written down.
      if (stored.state.state === 'created' && existsSync(join(this.pathOf(id), 'process.json')))
        Object.assign(stored.state, { state: 'running', startedAtMs: stored.state.createdAtMs })
      if (stored.state.state === 'running') {
        this.look(stored)
        if ((stored.state.state as string) === 'running') this.pump(stored)
      }
    }
  }

  private saveSandbox(id: string): void {
    writeJson(join(this.sandboxDir, `${id}.json`), this.sandboxes.get(id))
  }

  private save(stored: StoredContainer): void {
    writeJson(join(this.pathOf(stored.state.id), 'container.json'), stored)
  }

  private pathOf(id: string): string {
    return join(this.containerDir, id)
  }

  private mustFind(id: string): StoredContainer {
    const stored = this.containers.get(id)
    if (!stored) throw new RuntimeError('NOT_FOUND', `no container ${id}`)
    return stored
  }

  private async newAddress(): Promise<string> {
    if (process.platform !== 'linux') return this.options.hostIp
    const taken = new Set([...this.sandboxes.values()].map(({ state }) => state.ip))
    for (let last = 2; last < 255; last++)
      if (!taken.has(`${this.addressPrefix}.${last}`)) return `${this.addressPrefix}.${last}`
    throw new RuntimeError('REFUSED', 'no free pod address')
  }
}

const newId = () => randomBytes(16).toString('hex')

const byCreation = (a: { createdAtMs: number; id: string }, b: { createdAtMs: number; id: string }) =>
  a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1)

/** Of another user only root can start processes. @throws RuntimeError REFUSED */
function identityOf({ security }: ContainerSpec): { uid?: number; gid?: number } {
  const { runAsUser, runAsGroup } = security
  const me = process.getuid?.()
  if (me === 0)
    return {
      ...(runAsUser === undefined ? {} : { uid: runAsUser }),
      ...(runAsGroup === undefined ? {} : { gid: runAsGroup }),
    }
  if (runAsUser !== undefined && runAsUser !== me)
    throw new RuntimeError('REFUSED', `without root the process runtime can't run anything as user ${runAsUser}`)
  return {}
}

/** Memory by prlimit, where there is one. CPU limits are not kept. */
function limitsOf({ resources }: ContainerSpec): string[] {
  const prlimit = resources.memoryLimitBytes === undefined ? undefined : findProgram('prlimit', process.env['PATH'])
  return prlimit ? [prlimit, `--data=${resources.memoryLimitBytes}`] : []
}

function signalGroup(leader: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-leader, signal)
  } catch {
    // Nobody is left in it.
  }
}

function mayListen(address: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'EACCES'))
    probe.listen(port, address, () => probe.close(() => resolve(true)))
  })
}

/** CPU time and memory of each process group, by the id of its leader. */
function groupUsage(): Map<number, { cpuNanoseconds: number; memoryBytes: number }> {
  const usage = new Map<number, { cpuNanoseconds: number; memoryBytes: number }>()
  if (!existsSync('/proc/self/stat')) return usage
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, 'utf8')
      const fields = stat
        .slice(stat.lastIndexOf(')') + 2)
        .split(' ')
        .map(Number)
      const [group = 0, ticks, pages = 0] = [fields[2], (fields[11] ?? 0) + (fields[12] ?? 0), fields[21]]
      const sum = usage.get(group) ?? { cpuNanoseconds: 0, memoryBytes: 0 }
      usage.set(group, {
        cpuNanoseconds: sum.cpuNanoseconds + (ticks * 1e9) / CLOCK_TICKS,
        memoryBytes: sum.memoryBytes + pages * PAGE_BYTES,
      })
    } catch {
      // It ended while we looked.
    }
  }
  return usage
}

function readJson<T>(file: string): T | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T
  } catch {
    return undefined // Not there, or torn by a crash before anything was started.
  }
}

function writeJson(file: string, value: unknown): void {
  writeFileSync(`${file}.new`, JSON.stringify(value))
  renameSync(`${file}.new`, file)
}
