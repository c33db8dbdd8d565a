import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
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
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import type { Log } from '@capstan/actor'
import { CriRuntime } from './cri-runtime.js'
import { cgroupProcesses, removeCgroup } from './cgroups.js'
import { mountsBelow } from './mounts.js'
import { isLive, readProcessRecord, writeProcessRecord } from './process-record.js'
import { runCommand } from './run-command.js'

const START_MS = 15_000
const RESTART_MS = 200
const RESTART_MS_MAX = 5000
const CALM_MS = 30_000
const STOP_MS = 5000
/** The name by which `scripts/build-images.mjs` makes the sandbox image. */
const PAUSE_IMAGE = 'localhost/capstan/pause:1'
/** Linux' limit for the path of a Unix socket, less the final zero. */
const SOCKET_PATH_MAX = 107

export interface ContainerdOptions {
  /** Root, state, socket, configuration and log of this node's own containerd. Short: a socket's path has a limit. */
  dir: string
  /** Absolute cgroup path for the node's pods: `/capstan0/node-0/pods`. */
  cgroupParent: string
  /** Name of a network namespace (`ip netns`) to run in. Missing: the one of this process. */
  netns?: string
  /** Name of the bridge in that namespace. Default `cni0`. */
  bridge?: string
  /** Pod network. Missing: no network until `CriRuntime.configureNetwork`. */
  podCidr?: string
  /** Routes of the pods beside the default one, and largest packet. */
  mtu?: number
  /**
   * OCI archives to import: the first, which holds the pause image, before `startContainerd` returns, the others in the
   * background. Those that were imported already are left out.
   */
  archives?: readonly string[]
  /**
   * The archives after the first are imported when this has settled (a node's start has better to do), or when a pod asks
   * for an image that is not there. Default: at once.
   */
  importAfter?: Promise<unknown>
  sandboxImage?: string
  log: Log
}

export interface Containerd {
  readonly socketPath: string
  readonly pid: number | undefined
  readonly runtime: CriRuntime
  /** All archives are imported; rejects with the first failure. */
  readonly imported: Promise<void>
  /** Ends containerd; containers go on and are found again by the next start. */
  stop(): Promise<void>
  /** Removes every container, shim, mount, namespace and cgroup of this node, then ends containerd. Images stay. */
  teardown(): Promise<void>
}

/** Starts and supervises a containerd of this node's own. @throws Error with containerd's last words if it does not come up. */
export async function startContainerd(options: ContainerdOptions): Promise<Containerd> {
  const supervisor = new Supervisor(options)
  await supervisor.start()
  return supervisor
}

class Supervisor implements Containerd {
  readonly socketPath: string
  readonly runtime: CriRuntime
  readonly imported: Promise<void>
  private importNow: () => void = () => undefined
  private child: ChildProcess | undefined
  private stopping = false
  private ended: Promise<void> = Promise.resolve()
  private delayMs = RESTART_MS
  private readonly paths: ContainerdPaths
  private readonly snapshotter: string
  private readonly log: Log

  constructor(private readonly options: ContainerdOptions) {
    this.paths = pathsOf(options.dir)
    this.socketPath = this.paths.socket
    this.log = options.log.child({ component: 'containerd' })
    if (Buffer.byteLength(this.socketPath) > SOCKET_PATH_MAX)
      throw new Error(
        `${this.socketPath} is longer than ${SOCKET_PATH_MAX} bytes, which is all that a socket's path may have: use a shorter directory`,
      )
    for (const dir of [this.paths.root, this.paths.state, this.paths.cniConf]) mkdirSync(dir, { recursive: true })
    this.snapshotter = chooseSnapshotter(options.dir)
    writeFileSync(this.paths.config, containerdConfig(this.paths, { ...options, snapshotter: this.snapshotter }))
    if (options.podCidr) this.writeNetwork(options.podCidr)
    this.runtime = new CriRuntime({
      socketPath: this.socketPath,
      cgroupParent: options.cgroupParent,
      writeNetwork: (podCidr) => this.writeNetwork(podCidr),
      beforePull: () => {
        this.importNow()
        return this.imported
      },
      snapshotter: this.snapshotter,
    })
    const due = new Promise<void>((resolve) => {
      this.importNow = resolve
    })
    this.imported = due.then(() => this.importArchives((options.archives ?? []).slice(1)))
    this.imported.catch((error: unknown) => this.log.error({ err: error }, 'an image could not be imported'))
  }

  get pid(): number | undefined {
    return this.child?.pid
  }

  async start(): Promise<void> {
    // One that an earlier life of this process left would hold the database's lock.
    await endRecorded(this.paths.pid)
    removeDeadSockets(this.paths)
    this.launch()
    const until = performance.now() + START_MS
    while (!(await this.runtime.info()).ready) {
      if (this.child?.exitCode !== null || performance.now() > until) {
        await this.stop()
        throw new Error(
          `containerd did not start; its last words, from ${this.paths.log}:\n${lastLines(this.paths.log)}`,
        )
      }
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    const { archives = [], importAfter = Promise.resolve() } = this.options
    await this.importArchives(archives.slice(0, 1))
    void importAfter.then(this.importNow, this.importNow)
  }

  async stop(): Promise<void> {
    this.stopping = true
    this.importNow()
    await this.imported.catch(() => {})
    await this.runtime.close()
    this.child?.kill('SIGTERM')
    const timer = setTimeout(() => this.child?.kill('SIGKILL'), STOP_MS)
    await this.ended
    clearTimeout(timer)
    rmSync(this.paths.pid, { force: true })
  }

  async teardown(): Promise<void> {
    try {
      const { sandboxes } = await this.runtime.list()
      await Promise.all(
        sandboxes.map(async ({ id }) => {
          await this.runtime.stopSandbox(id)
          await this.runtime.removeSandbox(id)
        }),
      )
    } catch (error) {
      this.log.warn({ err: error }, 'containerd could not remove all pods; doing it from outside')
    }
    await this.stop()
    await clearContainerd(this.options)
  }

  private writeNetwork(podCidr: string): void {
    const text = cniConfig(this.paths, { ...this.options, podCidr })
    const file = join(this.paths.cniConf, '10-capstan.conflist')
    if (existsSync(file) && readFileSync(file, 'utf8') === text) return
    // In one step: containerd watches the directory.
    writeFileSync(`${file}.new`, text)
    renameSync(`${file}.new`, file)
  }

  private launch(): void {
    const { netns } = this.options
    const out = openSync(this.paths.log, 'a')
    const inside = netns ? ['nsenter', `--net=/run/netns/${netns}`, '--'] : []
    // With its supervisor dead nobody would look after it; containers and shims go on without it.
    const command = ['setpriv', '--pdeathsig', 'KILL', '--', ...inside, 'containerd', '--config', this.paths.config]
    const child = spawn(command[0] as string, command.slice(1), {
      stdio: ['ignore', out, out],
      // A node's containerd does little at once; fewer threads keep it small.
      env: { ...process.env, GOMAXPROCS: '2', GOGC: '50' },
    })
    closeSync(out)
    const startedMs = performance.now()
    this.child = child
    if (child.pid !== undefined) writeProcessRecord(this.paths.pid, child.pid)
    this.ended = new Promise((resolve) => {
      const onEnd = (how: object) => {
        resolve()
        if (this.stopping) return
        if (performance.now() - startedMs > CALM_MS) this.delayMs = RESTART_MS
        this.log.error({ ...how, delayMs: this.delayMs }, 'containerd ended; starting it again')
        setTimeout(() => {
          if (!this.stopping) this.launch()
        }, this.delayMs)
        this.delayMs = Math.min(this.delayMs * 2, RESTART_MS_MAX)
      }
      child.once('exit', (code, signal) => onEnd({ code, signal }))
      child.once('error', (error) => onEnd({ err: error }))
    })
  }

  private async importArchives(files: readonly string[]): Promise<void> {
    const known = readRecord(this.paths.imported)
    for (const file of files) {
      if (this.stopping) return
      const { size, mtimeMs } = statSync(file)
      const mark = `${size} ${mtimeMs}`
      if (known[file] === mark) continue
      const names = await this.runtime.importImage(file)
      this.log.info({ file, names }, 'imported images')
      known[file] = mark
      writeFileSync(this.paths.imported, JSON.stringify(known))
    }
  }
}

// ---------------------------------------------------------------------------------------------------------- what is left

/**
 * Removes what a containerd of this directory left on the host, dead or alive: containers, shims, mounts, network
 * namespaces, cgroups, the runtime's state. Images stay. Works from what it finds; idempotent.
 */
export async function clearContainerd(
  options: Pick<ContainerdOptions, 'dir' | 'cgroupParent' | 'netns' | 'bridge'>,
): Promise<void> {
  const paths = pathsOf(options.dir)
  await endRecorded(paths.pid)
  const shims = () => shimsOf(paths).map((shim) => shim.pid)
  const alive = () => [...new Set([...cgroupProcesses(options.cgroupParent), ...shims()])]
  const until = performance.now() + STOP_MS
  for (let left = alive(); left.length > 0; left = alive()) {
    for (const pid of left) kill(pid)
    if (performance.now() > until) throw new Error(`processes of ${options.dir} do not end: ${left.join(', ')}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  for (const address of shimSockets(paths.state).values()) rmSync(address, { force: true })
  for (const mount of mountsBelow(options.dir)) await runCommand('umount', ['-l', mount])
  await removeNetwork(paths, options)
  // Containers and sandboxes that the database still knows would be found as dead ones; those CRI removes at its start.
  rmSync(paths.state, { recursive: true, force: true })
  rmSync(join(paths.root, 'io.containerd.runtime.v2.task'), { recursive: true, force: true })
  removeCgroup(options.cgroupParent)
}

async function removeNetwork(
  paths: ContainerdPaths,
  options: Pick<ContainerdOptions, 'netns' | 'bridge'>,
): Promise<void> {
  rmSync(paths.cniState, { recursive: true, force: true })
  const results = '/var/lib/cni/results'
  if (existsSync(results))
    for (const file of readdirSync(results))
      if (file.startsWith(`${networkName(paths)}-`)) rmSync(join(results, file), { force: true })
  const inside = options.netns ? ['-n', options.netns] : []
  // Nothing there: nothing to do.
  await runCommand('ip', [...inside, 'link', 'del', options.bridge ?? 'cni0']).catch(() => '')
}

async function endRecorded(pidFile: string): Promise<void> {
  const record = readProcessRecord(pidFile)
  if (record && isLive(record)) {
    process.kill(record.pid, 'SIGKILL')
    while (isLive(record)) await new Promise((resolve) => setTimeout(resolve, 5))
  }
  rmSync(pidFile, { force: true })
}

/** A shim's socket lies outside our directory; the bundle of its container says where. By container id. */
function shimSockets(state: string): Map<string, string> {
  const sockets = new Map<string, string>()
  const tasks = join(state, 'io.containerd.runtime.v2.task/k8s.io')
  for (const id of existsSync(tasks) ? readdirSync(tasks) : []) {
    const file = join(tasks, id, 'address')
    if (existsSync(file))
      sockets.set(
        id,
        readFileSync(file, 'utf8')
          .trim()
          .replace(/^unix:\/\//, ''),
      )
  }
  return sockets
}

/** Of shims that were killed: containerd forgets their bundles at its start, and leaves the sockets. */
function removeDeadSockets(paths: ContainerdPaths): void {
  const live = new Set(shimsOf(paths).map((shim) => shim.id))
  const sockets = shimSockets(paths.state)
  // The containers of one pod share a shim.
  const inUse = new Set([...sockets].filter(([id]) => live.has(id)).map(([, address]) => address))
  for (const address of sockets.values()) if (!inUse.has(address)) rmSync(address, { force: true })
}

function shimsOf(paths: ContainerdPaths): { pid: number; id: string }[] {
  const found: { pid: number; id: string }[] = []
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue
    try {
      const [command = '', ...args] = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0')
      if (/containerd-shim/.test(command) && args.includes(paths.socket))
        found.push({ pid: Number(entry), id: args[args.indexOf('-id') + 1] ?? '' })
    } catch {
      // It ended while we looked.
    }
  }
  return found
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It is gone: what this was for has happened.
  }
}

// -------------------------------------------------------------------------------------------------------- configuration

interface ContainerdPaths {
  dir: string
  root: string
  state: string
  socket: string
  config: string
  log: string
  pid: string
  cniConf: string
  cniState: string
  imported: string
}

function pathsOf(dir: string): ContainerdPaths {
  return {
    dir,
    root: join(dir, 'root'),
    state: join(dir, 'state'),
    socket: join(dir, 'containerd.sock'),
    config: join(dir, 'containerd.toml'),
    log: join(dir, 'containerd.log'),
    pid: join(dir, 'containerd.pid'),
    cniConf: join(dir, 'cni'),
    cniState: join(dir, 'cni-addresses'),
    imported: join(dir, 'imported.json'),
  }
}

/** Distinct for each directory: results of all networks of a host lie in one place. */
const networkName = (paths: ContainerdPaths) =>
  `capstan-${createHash('sha256').update(paths.dir).digest('hex').slice(0, 12)}`

/** TOML for containerd 1.6 and 1.7 (configuration version 2). */
export function containerdConfig(
  paths: ContainerdPaths,
  options: { snapshotter: string; sandboxImage?: string },
): string {
  const string = (text: string) => JSON.stringify(text)
  return `version = 2
root = ${string(paths.root)}
state = ${string(paths.state)}
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = ${string(paths.socket)}

[ttrpc]
  address = ${string(`${paths.socket}.ttrpc`)}

[debug]
  level = "warn"

[plugins."io.containerd.monitor.v1.cgroups"]
  no_prometheus = true

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = ${string(options.sandboxImage ?? PAUSE_IMAGE)}
  # Where the machine grants no CAP_SYS_RESOURCE, runc fails on a score below its own.
  restrict_oom_score_adj = true
  # All that we leave behind lies below one directory.
  netns_mounts_under_state_dir = true
  disable_tcp_service = true
  disable_apparmor = ${existsSync('/sys/module/apparmor/parameters/enabled') ? 'false' : 'true'}
  stats_collect_period = 30
  max_concurrent_downloads = 3

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = ${string(paths.cniConf)}

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = ${string(options.snapshotter)}
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = ${string(join(paths.state, 'runc'))}
`
}

/** A bridge with the gateway's address on it, addresses from a file of its own. */
export function cniConfig(paths: ContainerdPaths, options: { podCidr: string; bridge?: string; mtu?: number }): string {
  const bridge = {
    type: 'bridge',
    bridge: options.bridge ?? 'cni0',
    isGateway: true,
    // Sets the default route; a route in ipam beside it would set it twice, which fails.
    isDefaultGateway: true,
    // A node that was removed and has joined again has another network; its bridge may be there still.
    forceAddress: true,
    // Would hide a pod from pods of other nodes: kube-proxy masquerades what leaves the cluster's networks.
    ipMasq: false,
    // A pod that asks its own Service may be sent back to itself.
    hairpinMode: true,
    ...(options.mtu === undefined ? {} : { mtu: options.mtu }),
    ipam: { type: 'host-local', ranges: [[{ subnet: options.podCidr }]], dataDir: paths.cniState },
  }
  return `${JSON.stringify({ cniVersion: '0.4.0', name: networkName(paths), plugins: [bridge] }, undefined, 2)}\n`
}

/** Overlays can't lie on every file system (not on another overlay, as in most containers). */
function chooseSnapshotter(dir: string): string {
  const filesystem = filesystemOf(dir)
  return ['overlay', 'ecryptfs', 'nfs', 'nfs4', 'fuse', 'vfat', '9p'].includes(filesystem) ? 'native' : 'overlayfs'
}

function filesystemOf(dir: string): string {
  let best = ''
  let type = ''
  for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n')) {
    const [, at = '', what = ''] = line.split(' ')
    const inside = at === '/' || dir === at || dir.startsWith(`${at}/`)
    if (inside && at.length >= best.length) {
      best = at
      type = what
    }
  }
  return type
}

function lastLines(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n').slice(-8).join('\n') : '(nothing)'
}

function readRecord(file: string): Record<string, string> {
  if (!existsSync(file)) return {}
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>
  } catch {
    return {} // Torn by a crash: importing again is harmless.
  }
}
