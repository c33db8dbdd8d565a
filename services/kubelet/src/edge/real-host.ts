import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import {
  chmod,
  lstat,
  mkdir,
  open,
  readdir,
  readlink,
  realpath,
  rename,
  rm,
  stat,
  statfs,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { connect } from 'node:net'
import { arch, availableParallelism, freemem, hostname, release, totalmem } from 'node:os'
import { dirname, join, normalize } from 'node:path'
import {
  HostError,
  type HostInfo,
  type HttpProbe,
  type LogFile,
  type NodeHost,
  type ProbeOutcome,
  type VolumeFile,
} from '../host.js'
import type { DnsConfig } from '../runtime.js'
import { mountsBelow } from './mounts.js'
import { runCommand } from './run-command.js'

const ARCHITECTURES: Record<string, string> = {
  x64: 'amd64',
  arm64: 'arm64',
  arm: 'arm',
  ia32: '386',
  ppc64: 'ppc64le',
  riscv64: 'riscv64',
  s390x: 's390x',
}
const PROBE_BODY_BYTES_MAX = 10 * 1024
const DATA_LINK = '..data'

/** This machine. Volumes lie below `<directory>/pods/<uid>`, logs below `<directory>/logs/<namespace>_<name>_<uid>`. */
export class RealHost implements NodeHost {
  private readonly pods: string
  private readonly logs: string

  constructor(private readonly directory: string) {
    this.pods = join(directory, 'pods')
    this.logs = join(directory, 'logs')
  }

  async info(): Promise<HostInfo> {
    await mkdir(this.directory, { recursive: true })
    const disk = await statfs(this.directory)
    const text = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8').trim() : '')
    const release_ = /^PRETTY_NAME="?([^"\n]*)/m.exec(text('/etc/os-release'))?.[1]
    return {
      cpus: availableParallelism(),
      memoryBytes: totalmem(),
      diskBytes: disk.blocks * disk.bsize,
      diskFreeBytes: disk.bavail * disk.bsize,
      memoryFreeBytes: freemem(),
      architecture: ARCHITECTURES[arch()] ?? arch(),
      kernelVersion: release(),
      osImage: release_ ?? 'Linux',
      machineId: text('/etc/machine-id') || createHash('sha256').update(hostname()).digest('hex').slice(0, 32),
      bootId: text('/proc/sys/kernel/random/boot_id'),
    }
  }

  async dns(): Promise<DnsConfig> {
    const config: DnsConfig = { servers: [], searches: [], options: [] }
    if (!existsSync('/etc/resolv.conf')) return config
    for (const line of readFileSync('/etc/resolv.conf', 'utf8').split('\n')) {
      const [word, ...rest] = line.trim().split(/\s+/)
      // A pod has a loopback of its own, where no server listens.
      if (word === 'nameserver' && rest[0] && !/^(127\.|::1$)/.test(rest[0])) config.servers.push(rest[0])
      if (word === 'search') config.searches = rest
      if (word === 'options') config.options = rest
    }
    return config
  }

  podDirectory(podUid: string): string {
    return join(this.pods, podUid)
  }

  logDirectory({ namespace, name, uid }: { namespace: string; name: string; uid: string }): string {
    return join(this.logs, `${namespace}_${name}_${uid}`)
  }

  async podDirectories(): Promise<string[]> {
    const list = async (dir: string) => (existsSync(dir) ? readdir(dir) : [])
    const uids = [
      ...(await list(this.pods)),
      ...(await list(this.logs)).map((name) => name.slice(name.lastIndexOf('_') + 1)),
    ]
    return [...new Set(uids)].sort()
  }

  async removePodDirectory(podUid: string): Promise<void> {
    const directory = this.podDirectory(podUid)
    for (const mount of mountsBelow(directory)) await runCommand('umount', ['-l', mount])
    await rm(directory, { recursive: true, force: true })
  }

  async removeLogs(podUid: string): Promise<void> {
    if (!existsSync(this.logs)) return
    for (const name of await readdir(this.logs))
      if (name.endsWith(`_${podUid}`)) await rm(join(this.logs, name), { recursive: true, force: true })
  }

  async makeDirectory(path: string, { mode, memoryBytes }: { mode: number; memoryBytes?: number }): Promise<void> {
    const isNew = !existsSync(path)
    await mkdir(path, { recursive: true })
    // Against the umask of this process.
    if (isNew) await chmod(path, mode)
    if (memoryBytes === undefined || process.getuid?.() !== 0 || mountsBelow(dirname(path)).includes(path)) return
    const options = `mode=${mode.toString(8)}${memoryBytes > 0 ? `,size=${Math.ceil(memoryBytes)}` : ''}`
    await runCommand('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path])
  }

  async writeFiles(directory: string, files: VolumeFile[]): Promise<void> {
    const mark = createHash('sha256')
    for (const { path, bytes, mode } of files) mark.update(`${path}\0${mode}\0${bytes.length}\0`).update(bytes)
    const version = `..${mark.digest('hex').slice(0, 16)}`
    await mkdir(directory, { recursive: true })
    const link = join(directory, DATA_LINK)
    const before = await readlink(link).catch(() => undefined)
    if (before === version) return
    for (const { path, bytes, mode } of files) {
      const target = join(directory, version, safe(path))
      await mkdir(dirname(target), { recursive: true })
      await writeFile(target, bytes)
      await chmod(target, mode)
    }
    await mkdir(join(directory, version), { recursive: true })
    // One rename switches all files over: each name is a link through `..data`.
    await rm(`${link}.new`, { force: true })
    await symlink(version, `${link}.new`)
    await rename(`${link}.new`, link)
    const tops = new Set(files.map(({ path }) => safe(path).split('/')[0] as string))
    for (const name of tops)
      if (!(await exists(join(directory, name)))) await symlink(`${DATA_LINK}/${name}`, join(directory, name))
    for (const name of await readdir(directory)) {
      if (name === DATA_LINK || name === version || tops.has(name)) continue
      await rm(join(directory, name), { recursive: true, force: true })
    }
  }

  async checkHostPath(path: string, type: string): Promise<void> {
    if (type === '') return
    const found = await stat(path).catch(() => undefined)
    if (type === 'DirectoryOrCreate' && !found) return void (await mkdir(path, { recursive: true, mode: 0o755 }))
    if (type === 'FileOrCreate' && !found) return void (await (await open(path, 'a', 0o644)).close())
    const is = {
      Directory: found?.isDirectory(),
      DirectoryOrCreate: found?.isDirectory(),
      File: found?.isFile(),
      FileOrCreate: found?.isFile(),
      Socket: found?.isSocket(),
      CharDevice: found?.isCharacterDevice(),
      BlockDevice: found?.isBlockDevice(),
    }[type]
    if (!is) throw new HostError(`hostPath type check failed: ${path} is not a ${type}`)
  }

  async subPath(volumePath: string, subPath: string): Promise<string> {
    const top = await realpath(volumePath)
    const isInside = (path: string) => path === top || path.startsWith(`${top}/`)
    let path = top
    for (const part of safe(subPath)
      .split('/')
      .filter((one) => one !== '.')) {
      path = join(path, part)
      if (!(await exists(path))) await mkdir(path)
      // A link in the volume may point anywhere, and the container must not get at that: each step before the next one.
      path = await realpath(path)
      if (!isInside(path)) throw new HostError(`subPath ${subPath} leads out of its volume`)
    }
    return path
  }

  async openLog(path: string): Promise<LogFile | undefined> {
    try {
      const file = await open(path, 'r')
      return {
        sizeBytes: async () => (await file.stat()).size,
        async read(offset, lengthBytes) {
          const buffer = Buffer.alloc(lengthBytes)
          const { bytesRead } = await file.read(buffer, 0, lengthBytes, offset)
          return buffer.subarray(0, bytesRead)
        },
        async replaced() {
          const [opened, named] = await Promise.all([file.stat(), stat(path).catch(() => undefined)])
          return named !== undefined && named.ino !== opened.ino
        },
        close: () => file.close(),
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }

  async rotateLog(path: string, bytesMax: number): Promise<boolean> {
    const found = await stat(path).catch(() => undefined)
    if (!found || found.size <= bytesMax) return false
    await rename(path, `${path}.1`)
    return true
  }

  async removeFile(path: string): Promise<void> {
    await unlink(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
  }

  httpGet(probe: HttpProbe, timeoutMs: number): Promise<ProbeOutcome> {
    return new Promise((resolve) => {
      const send = probe.scheme === 'https' ? httpsRequest : httpRequest
      const headers = { 'User-Agent': 'kube-probe/1.36', Accept: '*/*', ...Object.fromEntries(probe.headers) }
      const timer = setTimeout(() => fail(`no answer within ${timeoutMs} ms`), timeoutMs)
      const done = (outcome: ProbeOutcome) => {
        clearTimeout(timer)
        request.destroy()
        resolve(outcome)
      }
      const fail = (why: string) =>
        done({ ok: false, message: `Get "${probe.scheme}://${probe.host}:${probe.port}${probe.path}": ${why}` })
      const request = send(
        // Certificates are not looked at: a probe asks whether somebody answers, not who.
        { host: probe.host, port: probe.port, path: probe.path, headers, agent: false, rejectUnauthorized: false },
        (response) => {
          const { statusCode = 0 } = response
          const ok = statusCode >= 200 && statusCode < 400
          let bytes = 0
          response.on('data', (chunk: Buffer) => {
            bytes += chunk.length
            if (bytes > PROBE_BODY_BYTES_MAX) done({ ok, message: `HTTP probe failed with statuscode: ${statusCode}` })
          })
          response.on('end', () => done({ ok, message: `HTTP probe failed with statuscode: ${statusCode}` }))
          response.on('error', (error) => fail(error.message))
        },
      )
      request.on('error', (error) => fail(error.message))
      request.end()
    })
  }

  tcpConnect(host: string, port: number, timeoutMs: number): Promise<ProbeOutcome> {
    return new Promise((resolve) => {
      const socket = connect({ host, port })
      const done = (outcome: ProbeOutcome) => {
        clearTimeout(timer)
        socket.destroy()
        resolve(outcome)
      }
      const timer = setTimeout(
        () => done({ ok: false, message: `dial tcp ${host}:${port}: no answer within ${timeoutMs} ms` }),
        timeoutMs,
      )
      socket.once('connect', () => done({ ok: true, message: '' }))
      socket.once('error', (error) => done({ ok: false, message: `dial tcp ${host}:${port}: ${error.message}` }))
    })
  }
}

/** A path from an object: stays below where it is put. @throws HostError */
function safe(path: string): string {
  const clean = normalize(path)
  if (clean.startsWith('/') || clean === '..' || clean.startsWith('../'))
    throw new HostError(`${path} leads out of its volume`)
  return clean
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  )
}
