/** What `capstan doctor` measures. Nothing here judges; nothing changes the host. */
import { X509Certificate } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from 'node:fs'
import { get } from 'node:https'
import { connect, createServer } from 'node:net'
import { networkInterfaces } from 'node:os'
import { dirname, join } from 'node:path'
import { hasCommand, isRoot, run } from '../shell.js'
import {
  type CertificateLife,
  type ClockOffset,
  clockOffset,
  type KernelFeature,
  type Program,
  type SecretFile,
} from './judge.js'

const SYNC_WRITES = 200
const SYNC_MS_MAX = 2000
const SYNC_BYTES = 4096
const REACH_MS = 2000

const read = (file: string): string => (existsSync(file) ? readFileSync(file, 'utf8') : '')

/** Undefined: nothing on this host says. */
export async function isClockSynchronised(): Promise<boolean | undefined> {
  if (existsSync('/run/systemd/timesync/synchronized')) return true
  const told = await run('timedatectl', ['show', '-p', 'NTPSynchronized', '--value'], { timeoutMs: 3000 })
  if (told.code === 0 && /^(yes|no)\s*$/.test(told.stdout)) return told.stdout.trim() === 'yes'
  const chrony = await run('chronyc', ['-n', 'tracking'], { timeoutMs: 3000 })
  if (chrony.code === 0) return /Leap status\s*:\s*Normal/.test(chrony.stdout)
  return undefined
}

/** By the Date header of an API server; undefined: no answer. Its certificate does not matter: nothing is trusted but its clock. */
export function askClock(what: string, host: string, port: number): Promise<ClockOffset | undefined> {
  return new Promise((resolve) => {
    const sentMs = Date.now()
    const request = get(
      { host, port, path: '/livez', rejectUnauthorized: false, timeout: REACH_MS, agent: false },
      (answer) => {
        const at = Date.parse(answer.headers.date ?? '')
        answer.resume()
        resolve(Number.isNaN(at) ? undefined : clockOffset(what, at, sentMs, Date.now()))
      },
    )
    request.on('timeout', () => request.destroy())
    request.on('error', () => resolve(undefined))
  })
}

/** The directory itself, or the nearest one above that exists. */
export function existing(directory: string): string {
  let at = directory
  while (!existsSync(at) && dirname(at) !== at) at = dirname(at)
  return at
}

/** Ms of small synced writes in a scratch file of the directory; for two seconds at most. */
export function timeSyncs(directory: string): number[] {
  const scratch = mkdtempSync(join(existing(directory), '.capstan-doctor-'))
  const file = openSync(join(scratch, 'sync'), 'w')
  try {
    const bytes = Buffer.alloc(SYNC_BYTES, 1)
    // As the store's log does it: into space that the file has already.
    for (let at = 0; at < SYNC_WRITES; at++) writeSync(file, bytes)
    fdatasyncSync(file)
    const times: number[] = []
    const startMs = performance.now()
    for (let at = 0; at < SYNC_WRITES && performance.now() - startMs < SYNC_MS_MAX; at++) {
      const beforeMs = performance.now()
      writeSync(file, bytes, 0, SYNC_BYTES, at * SYNC_BYTES)
      fdatasyncSync(file)
      times.push(performance.now() - beforeMs)
    }
    return times
  } finally {
    closeSync(file)
    rmSync(scratch, { recursive: true, force: true })
  }
}

export function freeSpace(directory: string): { bytes: number; ofBytes: number; directory: string } {
  const { bavail, blocks, bsize } = statfsSync(existing(directory))
  return { bytes: bavail * bsize, ofBytes: blocks * bsize, directory }
}

/** Is somebody listening there, on this address or on all of them? */
export function isPortTaken(address: string, port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = createServer()
    probe.once('error', (error: NodeJS.ErrnoException) => (error.code === 'EADDRINUSE' ? resolve(true) : reject(error)))
    probe.listen(port, address, () => probe.close(() => resolve(false)))
  })
}

/** Ids of the processes that listen on a TCP port of this network namespace (others' need root). */
export function listenersOn(port: number): number[] {
  const inodes = new Set<string>()
  for (const table of ['/proc/net/tcp', '/proc/net/tcp6'])
    for (const line of read(table).split('\n').slice(1)) {
      const fields = line.trim().split(/\s+/)
      const at = Number.parseInt((fields[1] ?? '').split(':').at(-1) ?? '', 16)
      if (fields[3] === '0A' && at === port && fields[9]) inodes.add(`socket:[${fields[9]}]`)
    }
  const found: number[] = []
  if (inodes.size === 0) return found
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      if (readdirSync(`/proc/${entry}/fd`).some((fd) => inodes.has(readlinkOf(`/proc/${entry}/fd/${fd}`))))
        found.push(Number(entry))
    } catch {
      // It ended, or is another user's.
    }
  }
  return found
}

function readlinkOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}

/** A process and those that started it, nearest first, as long as they live. */
export function ancestry(pid: number): number[] {
  const line: number[] = []
  for (let at = pid; at > 1 && !line.includes(at); ) {
    line.push(at)
    const stat = read(`/proc/${at}/stat`)
    at = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1] ?? 0)
  }
  return line
}

export const commandOf = (pid: number): string => read(`/proc/${pid}/cmdline`).split('\0').join(' ').trim()

/** Why no connection to it comes about; undefined: it does. */
export function reachProblem(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: REACH_MS })
    const end = (problem: string | undefined) => {
      socket.destroy()
      resolve(problem)
    }
    socket.once('connect', () => end(undefined))
    socket.once('timeout', () => end(`no answer within ${REACH_MS / 1000} s`))
    socket.once('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message))
  })
}

export function cgroups(): { mounted: boolean; unified: boolean; controllers: string[] } {
  const mounted = / - cgroup2? /.test(read('/proc/self/mountinfo'))
  const unified = existsSync('/sys/fs/cgroup/cgroup.controllers')
  const controllers = unified
    ? read('/sys/fs/cgroup/cgroup.controllers').trim().split(/\s+/)
    : read('/proc/cgroups')
        .split('\n')
        .map((line) => line.split('\t'))
        .filter(([name, , , enabled]) => name && !name.startsWith('#') && enabled === '1')
        .map(([name]) => name as string)
  return { mounted, unified, controllers }
}

/** Tried for real, in a network namespace that goes with the process. */
export async function kernelFeatures(): Promise<KernelFeature[]> {
  const inside = async (script: string) =>
    isRoot() && hasCommand('unshare')
      ? (await run('unshare', ['--net', 'sh', '-c', script], { timeoutMs: 10_000 })).code === 0
      : undefined
  const modprobe = (names: string) =>
    `load the modules: modprobe -a ${names}; and name them in /etc/modules-load.d/capstan.conf`
  const sysctl = (name: string) => `sysctl -w ${name}=1, and keep it in /etc/sysctl.d/capstan.conf`
  const [veth, bridge, nat] = await Promise.all([
    inside('ip link add name one type veth peer name other'),
    inside('ip link add name one type bridge'),
    inside(
      'nft "add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; add rule ip t c masquerade; add rule ip t c numgen random mod 2 vmap { 0 : accept, 1 : drop }; add rule ip t c fib daddr type local accept"',
    ),
  ])
  const overlay =
    /\boverlay\b/.test(read('/proc/filesystems')) ||
    (await run('modprobe', ['-n', 'overlay'], { timeoutMs: 3000 })).code === 0
  const on = (file: string) => read(file).trim() === '1'
  return [
    { name: 'veth', works: veth, remedy: modprobe('veth') },
    { name: 'bridge', works: bridge, remedy: modprobe('bridge') },
    {
      name: 'nftables with NAT',
      works: nat,
      remedy: modprobe('nf_tables nft_chain_nat nft_masq nft_numgen nft_fib_ipv4'),
    },
    { name: 'overlay', works: overlay, remedy: modprobe('overlay') },
    {
      name: 'ip_forward',
      works: on('/proc/sys/net/ipv4/ip_forward'),
      remedy: sysctl('net.ipv4.ip_forward'),
      isSetLater: true,
    },
    {
      name: 'bridge-nf-call-iptables',
      works: on('/proc/sys/net/bridge/bridge-nf-call-iptables'),
      remedy: `modprobe br_netfilter, ${sysctl('net.bridge.bridge-nf-call-iptables')}`,
      // The module must be there; the value is set by the node.
      isSetLater: existsSync('/proc/sys/net/bridge/bridge-nf-call-iptables'),
    },
  ]
}

const CNI_DIRECTORY = '/usr/lib/cni'

async function said(command: string, ...args: string[]): Promise<string | undefined> {
  if (!hasCommand(command)) return undefined
  const ran = await run(command, args, { timeoutMs: 5000 })
  return `${ran.stdout}${ran.stderr}`
}

export async function masterPrograms(): Promise<Program[]> {
  return [
    { name: 'node', said: process.versions.node, least: '20.0', debianPackage: 'nodejs' },
    { name: 'nats-server', said: await said('nats-server', '--version'), least: '2.9', debianPackage: 'nats-server' },
  ]
}

export async function nodePrograms(): Promise<Program[]> {
  const plugins = ['bridge', 'host-local', 'loopback']
  const hasPlugins = plugins.every((name) => existsSync(join(CNI_DIRECTORY, name)))
  // It tells its own version not everywhere, but always which ones of the protocol it speaks.
  const plugin = hasPlugins ? (await run(join(CNI_DIRECTORY, 'bridge'), [], { timeoutMs: 3000 })).stderr : ''
  const protocol = /supported:.*?([\d.]+)\s*$/.exec(plugin)?.[1]
  return [
    { name: 'node', said: process.versions.node, least: '20.0', debianPackage: 'nodejs' },
    { name: 'containerd', said: await said('containerd', '--version'), least: '1.6', debianPackage: 'containerd' },
    { name: 'runc', said: await said('runc', '--version'), least: '1.1', debianPackage: 'runc' },
    { name: 'CNI plugins, protocol', said: protocol, least: '0.4', debianPackage: 'containernetworking-plugins' },
    { name: 'nft', said: await said('nft', '--version'), least: '1.0', debianPackage: 'nftables' },
    { name: 'ip', said: await said('ip', '-Version'), least: '5.0', debianPackage: 'iproute2' },
  ]
}

/** Certificates and secret files below the machine's directory, links not followed. */
export function keptFiles(directory: string): { certificates: CertificateLife[]; secrets: SecretFile[] } {
  const certificates: CertificateLife[] = []
  const secrets: SecretFile[] = []
  for (const folder of [directory, join(directory, 'pki'), join(directory, 'credentials')]) {
    if (!existsSync(folder)) continue
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      if (!entry.isFile()) continue
      const file = join(folder, entry.name)
      if (/\.(key|creds|seed|nk)$|^admin\.conf$|secret/.test(entry.name))
        secrets.push({ file, mode: statSync(file).mode })
      if (!entry.name.endsWith('.crt')) continue
      const pems =
        readFileSync(file, 'utf8').match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? []
      for (const pem of pems) {
        const { validFrom, validTo } = new X509Certificate(pem)
        certificates.push({ file, fromMs: Date.parse(validFrom), untilMs: Date.parse(validTo) })
      }
    }
  }
  return { certificates, secrets }
}

export const swapDevices = (): string[] =>
  read('/proc/swaps')
    .split('\n')
    .slice(1)
    .map((line) => line.split(/\s+/)[0] ?? '')
    .filter(Boolean)

export function openFiles(): { soft: number; hard: number } {
  const [, soft = '0', hard = '0'] = /^Max open files\s+(\S+)\s+(\S+)/m.exec(read('/proc/self/limits')) ?? []
  const number = (text: string) => (text === 'unlimited' ? Number.MAX_SAFE_INTEGER : Number(text))
  return { soft: number(soft), hard: number(hard) }
}

export function linkOf(address: string): { device: string; mtu: number } | undefined {
  for (const [device, addresses] of Object.entries(networkInterfaces()))
    if (addresses?.some((one) => one.address === address))
      return { device, mtu: Number(read(`/sys/class/net/${device}/mtu`)) }
  return undefined
}

export const memoryBytes = (): number => Number(/^MemTotal:\s+(\d+)/m.exec(read('/proc/meminfo'))?.[1] ?? 0) * 1024

export async function nftRuleset(): Promise<string> {
  return isRoot() && hasCommand('nft') ? (await run('nft', ['list', 'ruleset'], { timeoutMs: 5000 })).stdout : ''
}
