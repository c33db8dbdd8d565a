/** What `capstan doctor` makes of what it measured. Pure: every threshold of it stands here. */

export type Role = 'master' | 'node'

export interface Finding {
  check: string
  verdict: 'ok' | 'warning' | 'failed'
  /** What was found. */
  text: string
  /** What to do; with everything but ok. */
  advice?: string
}

const ok = (check: string, text: string): Finding => ({ check, verdict: 'ok', text })
const warning = (check: string, text: string, advice: string): Finding => ({ check, verdict: 'warning', text, advice })
const failed = (check: string, text: string, advice: string): Finding => ({ check, verdict: 'failed', text, advice })

// ------------------------------------------------------------------------------------------------------------------- clock

/** Undefined: this host does not say. */
export function judgeSynchronised(synchronised: boolean | undefined): Finding {
  const advice = 'run a time service: apt-get install systemd-timesyncd (or chrony), then timedatectl set-ntp true'
  if (synchronised === undefined) return warning('clock', 'nothing here says whether the clock is synchronised', advice)
  return synchronised ? ok('clock', 'synchronised') : warning('clock', 'not synchronised', advice)
}

/** A clock's distance from another: at least `leastMs` of it is no error of measurement. */
export interface ClockOffset {
  of: string
  offsetMs: number
  errorMs: number
}

/** From a Date header, which tells whole seconds, and when the question went out and the answer came. */
export function clockOffset(of: string, dateHeaderMs: number, sentMs: number, heardMs: number): ClockOffset {
  // It was written between the two, and its second had begun up to 1 s before.
  return { of, offsetMs: dateHeaderMs + 500 - (sentMs + heardMs) / 2, errorMs: 500 + (heardMs - sentMs) / 2 }
}

const OFFSET_WARN_MS = 1000
/** Certificates are made valid from a minute before their making. */
const OFFSET_FAIL_MS = 60_000

export function judgeOffset({ of, offsetMs, errorMs }: ClockOffset): Finding {
  const leastMs = Math.max(0, Math.abs(offsetMs) - errorMs)
  const text = `${of} is ${(Math.abs(offsetMs) / 1000).toFixed(1)} s ${offsetMs > 0 ? 'ahead' : 'behind'} (± ${(errorMs / 1000).toFixed(1)} s)`
  const advice = 'synchronise both clocks; certificates and tokens of one machine are not valid on the other'
  if (leastMs > OFFSET_FAIL_MS) return failed('clock drift', text, advice)
  if (leastMs > OFFSET_WARN_MS) return warning('clock drift', text, advice)
  return ok('clock drift', `${of} agrees (± ${(errorMs / 1000).toFixed(1)} s)`)
}

// -------------------------------------------------------------------------------------------------------------------- disk

export function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

const SYNC_WARN_MS = 10
const SYNC_FAIL_MS = 100

/** Times of small writes with fdatasync, in ms. A write of the cluster waits for the second-fastest master's. */
export function judgeSync(timesMs: readonly number[], role: Role): Finding {
  const sorted = [...timesMs].sort((a, b) => a - b)
  const [p50, p99] = [percentile(sorted, 0.5), percentile(sorted, 0.99)]
  const text = `sync of the disk: half within ${p50.toFixed(1)} ms, 99 % within ${p99.toFixed(1)} ms, worst ${(sorted.at(-1) ?? 0).toFixed(1)} ms (${sorted.length} writes)`
  const advice = 'a master needs a disk that syncs within 10 ms: an SSD of its own, no network file system'
  if (role === 'master' && p99 > SYNC_FAIL_MS) return failed('disk sync', text, advice)
  if (p99 > SYNC_WARN_MS) return warning('disk sync', text, advice)
  return ok('disk sync', text)
}

const MIB = 1024 * 1024

export function judgeFree(free: { bytes: number; ofBytes: number; directory: string }): Finding {
  const text = `${Math.floor(free.bytes / MIB)} MiB free of ${Math.floor(free.ofBytes / MIB)} MiB below ${free.directory}`
  const advice = 'free some, or choose a larger disk by --data; the store stops taking writes when the disk is full'
  if (free.bytes < 512 * MIB) return failed('disk space', text, advice)
  if (free.bytes < 2048 * MIB || free.bytes < free.ofBytes / 20) return warning('disk space', text, advice)
  return ok('disk space', text)
}

// ------------------------------------------------------------------------------------------------------------------- ports

export interface PortState {
  port: number
  use: string
  /** Who listens there. */
  holder: 'nobody' | 'this machine' | { process: string }
}

export function judgePorts(ports: readonly PortState[], isRunning: boolean): Finding[] {
  const findings = ports.flatMap(({ port, use, holder }): Finding[] => {
    if (typeof holder === 'object')
      return [
        failed('ports', `${port} (${use}) is held by ${holder.process}`, 'end that program, or choose another port'),
      ]
    if (isRunning && holder === 'nobody')
      return [
        failed('ports', `the machine runs, but nobody listens on ${port} (${use})`, 'its log says why: DATA/logs'),
      ]
    return []
  })
  const what = isRunning ? 'held by this machine' : 'free'
  return findings.length > 0 || ports.length === 0
    ? findings
    : [ok('ports', `${ports.map(({ port }) => port).join(', ')}: ${what}`)]
}

export interface Reached {
  what: string
  /** Why not. */
  problem?: string
}

export function judgeReached(targets: readonly Reached[]): Finding[] {
  const bad = targets.filter((one) => one.problem !== undefined)
  if (targets.length === 0) return []
  if (bad.length === 0) return [ok('reach', `${targets.map((one) => one.what).join(', ')}: reached`)]
  return bad.map((one) =>
    failed('reach', `${one.what} is not reached: ${one.problem}`, 'does it run, and does a firewall stand between?'),
  )
}

// ------------------------------------------------------------------------------------------------------------------ kernel

const CONTROLLERS = ['cpu', 'memory', 'pids']

export function judgeCgroups(found: { mounted: boolean; unified: boolean; controllers: readonly string[] }): Finding {
  if (!found.mounted)
    return failed(
      'cgroups',
      'no cgroup file system is mounted here',
      'runc starts no container without: mount it, or leave the namespace that hides it (ip netns exec does; nsenter --net does not)',
    )
  const missing = CONTROLLERS.filter((name) => !found.controllers.includes(name))
  if (missing.length > 0)
    return failed(
      'cgroups',
      `controllers are missing: ${missing.join(', ')}`,
      'limits of pods do not work without them: a kernel with them, and no cgroup_disable= on its command line',
    )
  if (!found.unified)
    return warning(
      'cgroups',
      'version 1 (or both side by side)',
      'it works; version 2 is what new kernels and runtimes are made for: systemd.unified_cgroup_hierarchy=1 on the kernel command line',
    )
  return ok('cgroups', `version 2 with ${found.controllers.join(', ')}`)
}

/** What the kernel was seen to do. Undefined: could not be tried (no root). */
export interface KernelFeature {
  name: string
  works: boolean | undefined
  /** What to do where it does not. */
  remedy: string
  /** Capstan sets it itself when the machine starts. */
  isSetLater?: boolean
}

export function judgeKernel(features: readonly KernelFeature[]): Finding[] {
  const findings = features.flatMap(({ name, works, remedy, isSetLater }): Finding[] => {
    if (works) return []
    if (works === undefined) return [warning('kernel', `${name}: not tried`, 'run capstan doctor as root')]
    if (isSetLater) return [warning('kernel', `${name} is off`, `${remedy}; a node sets it when it starts`)]
    return [failed('kernel', `${name} does not work`, remedy)]
  })
  const working = features.filter((one) => one.works).map((one) => one.name)
  return working.length > 0 ? [ok('kernel', working.join(', ')), ...findings] : findings
}

// ---------------------------------------------------------------------------------------------------------------- programs

export interface Program {
  name: string
  /** What it said of itself; undefined: it is not there. */
  said: string | undefined
  least: string
  debianPackage: string
}

/** The first thing in a text that looks like a version: `1.6.20` in `containerd github.com/… 1.6.20~ds1`. */
export function versionIn(text: string): number[] | undefined {
  const found = /(?:^|[^\d.])(\d+(?:\.\d+)+)/.exec(text)
  return found?.[1]?.split('.').map(Number)
}

export function isOlder(version: readonly number[], least: readonly number[]): boolean {
  for (let at = 0; at < Math.max(version.length, least.length); at++) {
    const difference = (version[at] ?? 0) - (least[at] ?? 0)
    if (difference !== 0) return difference < 0
  }
  return false
}

export function judgeProgram({ name, said, least, debianPackage }: Program): Finding {
  const check = 'programs'
  if (said === undefined) return failed(check, `${name} is missing`, `apt-get install ${debianPackage}`)
  const version = versionIn(said)
  if (!version)
    return warning(
      check,
      `${name} is there; its version is not known`,
      `at least ${least} is what Capstan is tested with`,
    )
  const text = `${name} ${version.join('.')}`
  return isOlder(version, least.split('.').map(Number))
    ? failed(check, `${text} is too old`, `at least ${least} is needed`)
    : ok(check, text)
}

// ------------------------------------------------------------------------------------------------------------ certificates

export interface CertificateLife {
  file: string
  fromMs: number
  untilMs: number
}

const DAY_MS = 86_400_000

export function judgeCertificates(certificates: readonly CertificateLife[], nowMs: number): Finding[] {
  const check = 'certificates'
  const day = (ms: number) => new Date(ms).toISOString().slice(0, 10)
  const findings = certificates.flatMap(({ file, fromMs, untilMs }): Finding[] => {
    const advice =
      'a machine that runs renews its own; one that was off for too long joins again with a new token, see docs'
    if (untilMs <= nowMs) return [failed(check, `${file} expired on ${day(untilMs)}`, advice)]
    if (fromMs > nowMs)
      return [failed(check, `${file} is not valid before ${day(fromMs)}`, 'is this machine’s clock right?')]
    // They are renewed when a third is left: at a sixth something is wrong.
    if (untilMs - nowMs < (untilMs - fromMs) / 6)
      return [warning(check, `${file} expires on ${day(untilMs)} and was not renewed`, advice)]
    return []
  })
  if (certificates.length === 0 || findings.length > 0) return findings
  const first = Math.min(...certificates.map((one) => one.untilMs))
  return [ok(check, `${certificates.length}; the first expires in ${Math.floor((first - nowMs) / DAY_MS)} days`)]
}

export interface SecretFile {
  file: string
  mode: number
}

export function judgeSecrets(files: readonly SecretFile[]): Finding[] {
  const open = files.filter(({ mode }) => (mode & 0o077) !== 0)
  if (open.length > 0)
    return open.map(({ file, mode }) =>
      failed('permissions', `${file} can be read by others (mode ${(mode & 0o777).toString(8)})`, `chmod 600 ${file}`),
    )
  return files.length === 0 ? [] : [ok('permissions', `${files.length} secret files, for their owner alone`)]
}

// ------------------------------------------------------------------------------------------------------------------ limits

export function judgeSwap(devices: readonly string[], role: Role): Finding {
  if (devices.length === 0) return ok('swap', 'none')
  const text = `swap on ${devices.join(', ')}`
  return warning(
    'swap',
    text,
    role === 'master'
      ? 'a master that waits for swapped pages loses elections: swapoff -a, and take it out of /etc/fstab'
      : 'limits of pods do not count swapped memory: swapoff -a, and take it out of /etc/fstab',
  )
}

export function judgeOpenFiles(limit: { soft: number; hard: number }): Finding {
  const text = `open files: ${limit.soft} (up to ${limit.hard})`
  const advice = 'ulimit -n 65536; the unit of capstan install systemd sets it itself'
  if (limit.hard < 4096) return failed('limits', text, advice)
  return limit.soft < 4096 ? warning('limits', text, advice) : ok('limits', text)
}

/** Pods' links have 1,500 unless told otherwise. */
export function judgeMtu(link: { device: string; mtu: number } | undefined, address: string, role: Role): Finding {
  if (!link)
    return failed('mtu', `no device of this machine has the address ${address}`, 'is it this machine’s? ip address')
  const text = `${link.device}: ${link.mtu}`
  if (link.mtu < 1280) return failed('mtu', text, 'a network with less than 1,280 bytes per packet is of no use here')
  return role === 'node' && link.mtu < 1500
    ? warning('mtu', text, 'pods send packets of 1,500 bytes, which are then split or lost: raise it on the network')
    : ok('mtu', text)
}

export function judgeMemory(bytes: number, role: Role): Finding {
  const text = `${Math.floor(bytes / MIB)} MiB`
  return bytes < 900 * MIB ? warning('memory', text, `a ${role} needs at least 1 GiB`) : ok('memory', text)
}

/** Chains of other programs that drop what is passed on (docker, ufw). */
export function judgeForwardDrops(chains: readonly string[]): Finding[] {
  return chains.map((chain) =>
    warning(
      'firewall',
      `${chain} drops forwarded packets unless a rule lets them through`,
      'let traffic of the pod and Service networks pass there, or packets between pods of different nodes are lost',
    ),
  )
}

/** Of `nft list ruleset`: chains of the forward hook whose policy is drop. */
export function forwardDrops(ruleset: string): string[] {
  const found: string[] = []
  let table = ''
  let chain = ''
  for (const line of ruleset.split('\n')) {
    const named = /^\s*(table|chain) (.+) \{/.exec(line)
    if (named?.[1] === 'table') table = named[2] ?? ''
    if (named?.[1] === 'chain') chain = named[2] ?? ''
    if (/hook forward .*policy drop/.test(line)) found.push(`table ${table}, chain ${chain}`)
  }
  return found
}
