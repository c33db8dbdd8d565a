/**
 * Runs the containers of the rendered chart as plain processes of this host, with the files that their mounts would give them:
 * what a kubelet would do, but for images, networks and limits. They run as the pods' user, without capabilities, on a root that
 * can't be written. Each pod has an address of its own on loopback; the names of
 * the headless Service lead there by a hosts file of the process's own mount namespace (needs root).
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Secret } from '@capstan/cli'
import type { ConfigMap, Container, Volume } from 'kubernetes-types/core/v1.js'
import { Objects } from './chart-checks.js'
import type { KubernetesObject } from './chart.js'

const REPOSITORY = join(import.meta.dirname, '../../..')

const FS_GROUP = 65532
/**
 * What the security context of the pods asks for: nothing can be written but the volume, no root, no capability. `$0` is the
 * hosts file, `$1` the volume, `$2` our process: the container dies with it, also if it died before that was agreed.
 */
const SCRIPT = `
mount --bind "$0" /etc/hosts
mount --bind "$1" "$1"
mount -o remount,bind,ro /
shift
exec setpriv --pdeathsig KILL --reuid 65532 --regid 65532 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- \\
  sh -c 'test -d "/proc/$0" && exec "$@"' "$@"
`

/** Can a program of nobody in particular read this repository? Not below a home that is closed, for example. */
export const strangersCanRead = (): boolean =>
  spawnSync('setpriv', [
    '--reuid',
    '65532',
    '--clear-groups',
    '--',
    process.execPath,
    '-e',
    'fs.readdirSync(process.argv[1])',
    REPOSITORY,
  ]).status === 0

export interface PodsOptions {
  objects: readonly KubernetesObject[]
  secrets: readonly Secret[]
  directory: string
  /** First three bytes of the pods' addresses, on loopback. */
  network: string
}

export class Pods {
  private readonly chart: Objects
  private readonly running = new Map<string, ChildProcess>()
  private readonly logs = new Map<string, string>()
  private readonly hosts: string

  constructor(private readonly options: PodsOptions) {
    this.chart = new Objects({ objects: options.objects, secrets: {}, definitions: {} })
    this.hosts = join(options.directory, 'hosts')
    const { serviceName } = this.chart.set.spec ?? {}
    const namespace = this.chart.set.metadata?.namespace
    const lines = this.members.map(
      (member) => `${this.address(member)} ${member}.${serviceName}.${namespace}.svc.cluster.local`,
    )
    writeFileSync(this.hosts, `127.0.0.1 localhost\n${lines.join('\n')}\n`)
  }

  get members(): string[] {
    return this.chart.members
  }
  address(member: string): string {
    return `${this.options.network}.${1 + this.members.indexOf(member)}`
  }
  /** Pods of one host can't share a port on all addresses. */
  apiPort(member: string): number {
    const { https } = JSON.parse(this.chart.config('master.json') ?? '{}') as { https: { port: number } }
    return https.port + this.members.indexOf(member)
  }
  log(member: string, container: string): string {
    return this.logs.get(`${member}/${container}`) ?? ''
  }

  /** As whom a container runs, and whether it could write to what would be its image. */
  confinement(member: string, container: string): { uid: number; capabilities: string; root: string } {
    const proc = `/proc/${this.running.get(`${member}/${container}`)?.pid}`
    const status = readFileSync(`${proc}/status`, 'utf8')
    const mounts = readFileSync(`${proc}/mountinfo`, 'utf8')
      .split('\n')
      .map((line) => line.split(' '))
    return {
      uid: Number(/^Uid:\t(\d+)/m.exec(status)?.[1]),
      capabilities: /^CapBnd:\t(\w+)/m.exec(status)?.[1] ?? '',
      root: mounts.find((fields) => fields[4] === '/')?.[5]?.split(',')[0] ?? '',
    }
  }

  /** Starts the containers of one pod, in the order in which they stand there. */
  start(member: string): void {
    for (const container of this.chart.containers) this.startContainer(member, container)
  }

  /**
   * Ends a pod as a kubelet does: first the containers, then the init containers that were kept, the last one first. Tells how
   * each ended: `master 0`.
   */
  async stop(member: string): Promise<string[]> {
    const ended: string[] = []
    const stopped = async ({ name }: Container) => {
      const child = this.running.get(`${member}/${name}`)
      if (!child) return
      const end = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)))
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM')
      ended.push(`${name} ${String(child.exitCode ?? child.signalCode ?? (await end))}`)
      this.running.delete(`${member}/${name}`)
    }
    for (const container of this.chart.pod.containers) await stopped(container)
    for (const container of [...(this.chart.pod.initContainers ?? [])].reverse()) await stopped(container)
    return ended
  }

  /** What is left of all pods ends at once. */
  kill(): void {
    for (const child of this.running.values()) child.kill('SIGKILL')
  }

  private startContainer(member: string, container: Container): void {
    const root = join(this.options.directory, member, container.name)
    const here = (text: string) => this.translate(text, member, root)
    for (const mount of container.volumeMounts ?? []) {
      const volume = this.chart.pod.volumes?.find((one) => one.name === mount.name)
      const below = mount.subPathExpr?.replace('$(POD_NAME)', member)
      const place = here(mount.mountPath)
      mkdirSync(place, { recursive: true })
      for (const [path, content] of volume ? this.contents(volume) : []) {
        if (below !== undefined && !path.startsWith(`${below}/`)) continue
        const file = join(place, below === undefined ? path : path.slice(below.length + 1))
        mkdirSync(dirname(file), { recursive: true })
        writeFileSync(file, path.endsWith('.json') || path.endsWith('.conf') ? here(content) : content)
        chownSync(file, 0, FS_GROUP)
        chmodSync(file, 0o440)
      }
    }
    const env: NodeJS.ProcessEnv = { PATH: process.env['PATH'] }
    for (const { name, value, valueFrom } of container.env ?? [])
      env[name] = value ?? (valueFrom?.fieldRef?.fieldPath === 'metadata.name' ? member : this.address(member))
    const words = [...(container.command ?? []), ...(container.args ?? [])]
      .filter((word) => word !== 'tini' && word !== '--')
      .map((word) => here(word.replace(/\$\((\w+)\)/g, (_, name: string) => env[name] ?? '')))
      .map((word) => word.replace(/^\/opt\/capstan/, REPOSITORY))
    const child = spawn(
      'unshare',
      ['-m', 'sh', '-ec', SCRIPT, this.hosts, this.volume(member), String(process.pid), ...words],
      {
        env,
        stdio: 'pipe',
      },
    )
    const key = `${member}/${container.name}`
    this.running.set(key, child)
    const hear = (chunk: Buffer) => this.logs.set(key, ((this.logs.get(key) ?? '') + chunk.toString()).slice(-100_000))
    child.stdout.on('data', hear)
    child.stderr.on('data', hear)
  }

  /** As a kubelet gives a volume to `fsGroup`. */
  private volume(member: string): string {
    const volume = join(this.options.directory, member, 'volume')
    for (const directory of [volume, join(volume, 'nats'), join(volume, 'store')]) {
      if (existsSync(directory)) continue
      mkdirSync(directory, { recursive: true })
      chownSync(directory, 0, FS_GROUP)
      chmodSync(directory, 0o2770)
    }
    return volume
  }

  /** Paths below `/etc/capstan` and `/var/lib/capstan`, and addresses, as they are here. */
  private translate(text: string, member: string, root: string): string {
    return text
      .replaceAll('/etc/capstan/', `${root}/etc/`)
      .replace(/\/etc\/capstan$/, `${root}/etc`)
      .replaceAll('/var/lib/capstan/', `${this.volume(member)}/`)
      .replaceAll('0.0.0.0', this.address(member))
      .replaceAll('127.0.0.1', this.address(member))
      .replace(/("https": \{[^}]*"port": )\d+/, `$1${this.apiPort(member)}`)
  }

  private *contents(volume: Volume): Generator<[string, string]> {
    const secret = (name: string | undefined) => {
      const found = this.options.secrets.find((one) => one.metadata.name === name)
      return Object.entries(found?.data ?? {}).map(([key, data]): [string, string] => [
        key,
        Buffer.from(data, 'base64').toString(),
      ])
    }
    const configMap = (name: string | undefined) =>
      Object.entries(this.chart.ofKind<ConfigMap>('ConfigMap').find((map) => map.metadata?.name === name)?.data ?? {})
    const sources = volume.projected?.sources ?? [
      {
        ...(volume.secret ? { secret: { name: volume.secret.secretName, items: volume.secret.items } } : {}),
        ...(volume.configMap ? { configMap: volume.configMap } : {}),
      },
    ]
    for (const source of sources) {
      const given = source.secret ? secret(source.secret.name) : configMap(source.configMap?.name)
      const items = source.secret?.items ?? source.configMap?.items
      for (const [key, content] of given) {
        const path = items ? items.find((item) => item.key === key)?.path : key
        if (path !== undefined) yield [path, content]
      }
    }
  }
}
