import { type ChildProcess, spawn } from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { getPriority } from 'node:os'
import { join } from 'node:path'
import { type FleetRecord, HOST, type MachineRecord, namesOf } from '../plan.js'
import { Cgroup } from './cgroups.js'
import { environment, must, type Ran, run, signal, statOf, until } from './host.js'

/** A thing is done to the fleet: what proves it, and how it is undone. `undo` is idempotent, and tells what proves it. */
export interface Done {
  proof: string
  undo(): Promise<string>
}

const BOOT_MS = 15_000
/** Where a machine's directory is seen in it, besides under its own path. */
const INSIDE = '/run/machine'
/** What machines may write without the host's seeing it; below it all else is the host's. */
const OWN_DIRECTORIES = ['etc', 'var', 'root', 'opt', 'usr/local', 'home', 'srv']

/**
 * Runs as the machine's first process, in namespaces of its own. Mounts vanish with them.
 * `$1` name, `$2` directory, `$3` disk image or nothing, then pairs: host's directory, where the machine sees it.
 */
const BOOT = `
set -e
name=$1 directory=$2 disk=$3; shift 3
hostname "$name"
mount -t proc proc /proc
unified=; [ -e /sys/fs/cgroup/cgroup.procs ] && unified=1
mount -t sysfs sysfs /sys
if [ $unified ]; then mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
  for controllers in $(cut -d: -f2 /proc/self/cgroup); do
    at=/sys/fs/cgroup/\${controllers#name=}; mkdir -p $at; mount -t cgroup -o $controllers cgroup $at
  done
  mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi
[ -z "$disk" ] || mount -o loop "$disk" "$directory"
mount -t tmpfs -o mode=755 run /run
mkdir ${INSIDE} /run/lock; mount --bind "$directory" ${INSIDE}
i=0; for what; do mkdir -p /run/mounts/$i; [ $((i % 2)) = 1 ] || mount --bind "$what" /run/mounts/$i; i=$((i + 1)); done
for own in ${OWN_DIRECTORIES.join(' ')}; do
  [ -d /$own ] || continue
  mkdir -p ${INSIDE}/system/$own ${INSIDE}/system/.work/$own
  mount -t overlay -o lowerdir=/$own,upperdir=${INSIDE}/system/$own,workdir=${INSIDE}/system/.work/$own own /$own
done
mkdir -p ${INSIDE}/capstan /var/lib/capstan; mount --bind ${INSIDE}/capstan /var/lib/capstan
mkdir -p "$directory"; mount --bind ${INSIDE} "$directory"
i=0; for where; do [ $((i % 2)) = 0 ] || { mkdir -p "$where"; mount --bind /run/mounts/$((i - 1)) "$where"; }; i=$((i + 1)); done
printf "%s\\n" "$hosts" > /etc/hosts; echo "$name" > /etc/hostname
ip link set lo up
echo ready
exec perl -e '$SIG{CHLD} = "IGNORE"; $0 = "machine $ARGV[0]"; sleep while 1' "$name" > /dev/null
`

/** Joins cgroups, then becomes the command. */
const JOIN = 'n=$1; shift; while [ $n -gt 0 ]; do echo 0 > "$1" || exit 126; shift; n=$((n - 1)); done; exec "$@"'
export const joined = (cgroup: Cgroup, command: readonly string[]): string[] => {
  const files = cgroup.joinFiles()
  return ['sh', '-c', JOIN, 'join', String(files.length), ...files, ...command]
}

/**
 * A machine: network, mounts, processes, host name and cgroups of its own, one address on the fleet's wire, and a directory
 * that is its disk. The kernel, its wall clock and the programs of the host are shared.
 */
export class Machine {
  readonly name: string
  readonly zone: string
  readonly address: string
  readonly directory: string
  private readonly cgroup: Cgroup

  constructor(
    private readonly fleet: { directory: string; record: FleetRecord; plug(machine: Machine): Promise<void> },
    readonly record: MachineRecord,
  ) {
    this.name = record.name
    this.zone = record.zone
    this.address = record.address
    this.directory = join(fleet.directory, record.name)
    this.cgroup = new Cgroup(`${namesOf(fleet.record.slot).cgroup}/${record.name}`)
  }

  /** The host's number of its first process. @throws Error: the machine is off. */
  get init(): number {
    const pid = this.findInit()
    if (pid === undefined)
      throw new Error(`${this.name} is off; Fleet.clear(${this.fleet.directory}) removes what is left of it`)
    return pid
  }

  get isOn(): boolean {
    return this.findInit() !== undefined
  }

  private findInit(): number | undefined {
    try {
      const { pid, started } = JSON.parse(readFileSync(this.initFile, 'utf8')) as { pid: number; started: string }
      return statOf(pid)?.[19] === started ? pid : undefined
    } catch {
      return undefined
    }
  }

  /** Outside its directory, over which its disk may lie. */
  private get initFile(): string {
    return join(this.fleet.directory, `${this.name}.init.json`)
  }

  /** Makes the machine, empty of processes; its directory is as it was left. */
  async boot(): Promise<void> {
    const { record, directory } = this
    mkdirSync(directory, { recursive: true })
    let disk = ''
    if (record.diskBytes !== undefined) {
      disk = `${directory}.disk`
      if (!existsSync(disk)) {
        writeFileSync(disk, '')
        truncateSync(disk, record.diskBytes)
        // No share is kept for root: full is full.
        await must(['mkfs.ext4', '-q', '-m', '0', '-E', 'lazy_itable_init=1', disk])
      }
    }
    this.cgroup.make()
    const log = openSync(`${directory}.boot.log`, 'a')
    const clocks =
      record.clockOffsetMs === undefined
        ? []
        : [
            '--time',
            ...['monotonic', 'boottime'].flatMap((c) => [
              `--${c}`,
              String(Math.round((record.clockOffsetMs ?? 0) / 1000)),
            ]),
          ]
    const mounts = Object.entries(record.mounts ?? {}).flatMap(([inside, outside]) => [outside, inside])
    const command = joined(this.cgroup, [
      ...['unshare', '--net', '--mount', '--uts', '--ipc', '--cgroup', '--pid', '--fork', '--kill-child', ...clocks],
      ...['sh', '-c', `${this.hostsScript()}${BOOT}`, 'boot', this.name, directory, disk, ...mounts],
    ])
    const child = spawn(command[0] as string, command.slice(1), {
      detached: true,
      stdio: ['ignore', 'pipe', log],
      env: environment(),
    })
    closeSync(log)
    if (!(await saysReady(child))) {
      await this.cgroup.kill()
      throw new Error(
        `${this.name} does not start; its last words are in ${directory}.boot.log:\n${lastLines(`${directory}.boot.log`)}`,
      )
    }
    child.unref()
    const pid = this.cgroup.pids().find((p) => statOf(p)?.[1] === String(child.pid))
    if (pid === undefined) throw new Error(`${this.name} ended while starting`)
    writeFileSync(this.initFile, JSON.stringify({ pid, started: statOf(pid)?.[19] }))
    await this.fleet.plug(this)
  }

  /** All know each other by name. Written inside, where the machine's disk is. */
  private hostsScript(): string {
    const { machines, slot } = this.fleet.record
    const lines = [
      '127.0.0.1 localhost',
      `${namesOf(slot).hostAddress} ${HOST}`,
      ...machines.map((machine) => `${machine.address} ${machine.name}`),
    ]
    return `hosts='${lines.join('\n')}'\n`
  }

  /** In its namespaces and its cgroup. */
  private inside(command: string | readonly string[], env: Readonly<Record<string, string>> = {}): string[] {
    const path = environment(this.fleet.record.path)['PATH']
    return joined(this.cgroup, [
      ...['nsenter', '-t', String(this.init), '-m', '-u', '-i', '-n', '-p', '-C'],
      ...(this.record.clockOffsetMs === undefined ? [] : ['-T']),
      '--',
      // Whoever runs the fleet may have put itself first; machines are as others.
      ...(getPriority() < 0 ? ['nice', '-n', String(-getPriority())] : []),
      ...['env', '-i', '-C', '/root', `PATH=${path}`, 'HOME=/root', 'LANG=C.UTF-8', 'TERM=dumb'],
      ...Object.entries(env).map(([name, value]) => `${name}=${value}`),
      ...(typeof command === 'string' ? ['sh', '-c', command] : command),
    ])
  }

  /**
   * Runs a command in the machine, as root, in `/root`; a text is given to `sh`. Never throws for an exit code. After
   * `timeoutMs` (30 s) it is killed: code 124.
   */
  async run(
    command: string | readonly string[],
    options: { timeoutMs?: number; input?: string; env?: Readonly<Record<string, string>> } = {},
  ): Promise<Ran> {
    return run(this.inside(command, options.env), options)
  }

  /** The command on this terminal; its exit code. */
  async runHere(command: readonly string[]): Promise<number> {
    const inside = this.inside(command)
    const child = spawn(inside[0] as string, inside.slice(1), { stdio: 'inherit', env: environment() })
    return new Promise((resolve) => {
      child.once('error', () => resolve(127))
      child.once('exit', (code) => resolve(code ?? 137))
    })
  }

  /** Starts a command that goes on by itself, its words in the file `log` of the host. @returns the host's number of its process. */
  async spawn(
    command: string | readonly string[],
    options: { log: string; env?: Readonly<Record<string, string>> },
  ): Promise<number> {
    const out = openSync(options.log, 'a')
    const inside = this.inside(command, options.env)
    const child = spawn(inside[0] as string, inside.slice(1), {
      detached: true,
      stdio: ['ignore', out, out],
      env: environment(),
    })
    closeSync(out)
    child.unref()
    let pid: number | undefined
    const started = await until(() => {
      pid = this.pids().find((p) => statOf(p)?.[1] === String(child.pid))
      return pid !== undefined || child.exitCode !== null
    }, 5000)
    if (!started || pid === undefined)
      throw new Error(
        `${this.name}: ${typeof command === 'string' ? command : command.join(' ')} ended at once; see ${options.log}`,
      )
    return pid
  }

  /** Where the host sees a path of the machine, as long as the machine is on. */
  seen(path: string): string {
    return `/proc/${this.init}/root${path}`
  }

  /** What runs in it, containers too, by the host's numbers; its own first process is left out. */
  pids(): number[] {
    const init = this.findInit()
    if (init === undefined) return []
    const host = namespaceOf(process.pid)
    // Beside them the cgroup holds those who wait outside for what they started inside.
    return this.cgroup.pids().filter((pid) => pid !== init && namespaceOf(pid) !== host)
  }

  /** The host's number of a process that the machine knows as `pid`, as in its records of processes. */
  hostPid(pid: number): number | undefined {
    const here = namespaceOf(this.init)
    return this.pids().find((candidate) => {
      try {
        const names = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${candidate}/status`, 'utf8'))?.[1]
        // Of the machine's own processes: those of containers have numbers of their own beside.
        return names?.split(/\s+/).at(-1) === String(pid) && namespaceOf(candidate) === here
      } catch {
        return false
      }
    })
  }

  // ------------------------------------------------------------------------------------------------------------ faults

  /** SIGKILL to all that runs in it; mounts, links and rules of the dead stay, as after a crash of programs. See `powerCycle`. */
  async kill(): Promise<string> {
    const keep = new Set<number>()
    const init = this.findInit()
    if (init !== undefined) {
      keep.add(init)
      keep.add(Number(statOf(init)?.[1]))
    }
    const before = this.pids().length
    await this.cgroup.kill(keep)
    return `SIGKILL to ${before} processes of ${this.name}; none is left`
  }

  /** The power goes and comes back: no process, mount, link or rule is left; its directory is as it was (what was written stays). */
  async powerCycle(): Promise<string> {
    const before = this.pids().length
    await this.cgroup.kill()
    await this.boot()
    return `${this.name} was switched off and on; ${before} processes are gone`
  }

  /** Another machine stands in its place: its name and address, an empty disk. */
  async wipe(): Promise<string> {
    await this.cgroup.kill()
    rmSync(this.directory, { recursive: true, force: true })
    rmSync(`${this.directory}.disk`, { force: true })
    await this.boot()
    return `${this.name} is a new machine`
  }

  /** Nothing in it runs any more until `resume`; its kernel still answers the wire, as a paused virtual machine's host does. */
  async pause(): Promise<Done> {
    const proof = await this.cgroup.freeze()
    return { proof, undo: () => this.resume() }
  }

  /** Nothing in it runs: paused, or being so. */
  get isPaused(): boolean {
    return this.cgroup.isFrozen
  }

  /**
   * All goes on; with `first`, these (host's numbers) go on alone until `ready` says so or a second has passed.
   */
  async resume(options: { first?: readonly number[]; ready?: () => boolean } = {}): Promise<string> {
    const others = this.pids().filter((pid) => !options.first?.includes(pid))
    // A signal to one that is frozen waits, and is taken before anything else of it runs.
    if (options.first) for (const pid of others) signal(pid, 'SIGSTOP')
    this.cgroup.thaw()
    if (options.first) {
      await until(() => options.ready?.() ?? true, 1000)
      for (const pid of others) signal(pid, 'SIGCONT')
    }
    if (!(await until(() => !this.cgroup.isFrozen, 5000))) throw new Error(`${this.name} is still frozen`)
    return `${this.name} is thawed, ${this.pids().length} processes`
  }

  /** So many threads of the machine do nothing but count. */
  async burnCpu(threads: number): Promise<Done> {
    const log = `${this.directory}.boot.log`
    const pids: number[] = []
    for (let i = 0; i < threads; i++) pids.push(await this.spawn(['sh', '-c', 'while :; do :; done'], { log }))
    const ticks = () => pids.reduce((sum, pid) => sum + Number(statOf(pid)?.[11] ?? 0), 0)
    const undo = async () => {
      for (const pid of pids) signal(pid, 'SIGKILL')
      await until(() => pids.every((pid) => statOf(pid) === undefined), 5000)
      return `${pids.length} burners of ${this.name} are gone`
    }
    if (!(await until(() => ticks() >= threads * 2, 10_000, 20))) {
      await undo()
      throw new Error(`${this.name}: the burners got no processor time`)
    }
    return { proof: `${threads} burners in the cgroup of ${this.name}; they have had ${ticks() * 10} ms`, undo }
  }

  /** Share of one processor that the machine has at most: 0.5. */
  async limitCpu(share: number): Promise<Done> {
    const period = 100_000
    const quota = Math.max(1000, Math.round(share * period))
    const v2 = this.cgroup.controlFile('cpu', 'cpu.max')
    const file = v2 ?? this.cgroup.controlFile('cpu', 'cpu.cfs_quota_us')
    if (file === undefined) throw new Error(`${this.name}: this kernel limits no processor time (no cpu controller)`)
    writeFileSync(file, v2 ? `${quota} ${period}` : String(quota))
    return {
      proof: `${file}: ${readFileSync(file, 'utf8').trim()}`,
      undo: async () => {
        writeFileSync(file, v2 ? 'max' : '-1')
        return `${file}: ${readFileSync(file, 'utf8').trim()}`
      },
    }
  }

  /** A lid on what the machine's processes and files hold in memory. v2: beyond it they are slowed down; v1: beyond it the kernel kills. */
  async squeezeMemory(bytes: number): Promise<Done> {
    const high = this.cgroup.controlFile('memory', 'memory.high')
    const file = high ?? this.cgroup.controlFile('memory', 'memory.limit_in_bytes')
    if (file === undefined) throw new Error(`${this.name}: this kernel limits no memory (no memory controller)`)
    const lift = high ? 'max' : '-1'
    try {
      writeFileSync(file, String(bytes))
    } catch (error) {
      writeFileSync(file, lift)
      throw new Error(
        `${this.name} holds more than ${bytes} bytes that cannot be given back: ${(error as Error).message}`,
      )
    }
    return {
      proof: `${file}: ${readFileSync(file, 'utf8').trim()}`,
      undo: async () => {
        writeFileSync(file, lift)
        return `${file}: ${readFileSync(file, 'utf8').trim()}`
      },
    }
  }

  /** Not a byte more can be written. Only for a machine with a disk of its own (`diskBytes`). */
  async fillDisk(): Promise<Done> {
    if (this.record.diskBytes === undefined)
      throw new Error(`${this.name} has no disk of its own, and the host's is not filled up: give it diskBytes`)
    const fill =
      `cd ${INSIDE}; n=$(df --output=avail -B1 . | tail -1); fallocate -l $n .ballast; dd if=/dev/zero of=.ballast2 bs=4k; ` +
      'dd if=/dev/zero of=.probe bs=4k count=1; code=$?; rm -f .probe; exit $code'
    const ran = await this.run(fill)
    const undo = async () => {
      await this.run(`rm -f ${INSIDE}/.ballast ${INSIDE}/.ballast2`)
      const free = await this.run(`df --output=avail -h ${INSIDE} | tail -1`)
      return `${this.name} has ${free.stdout.trim()} free again`
    }
    if (ran.code === 0 || !/No space left/.test(ran.stderr)) {
      await undo()
      throw new Error(`${this.name}: its disk does not fill up: ${ran.stderr.trim()}`)
    }
    return { proof: `a write of 4 KiB in ${this.name}: No space left on device`, undo }
  }
}

function saysReady(child: ChildProcess): Promise<boolean> {
  return new Promise((resolve) => {
    const end = (ready: boolean) => {
      clearTimeout(timer)
      child.stdout?.destroy()
      resolve(ready)
    }
    const timer = setTimeout(() => end(false), BOOT_MS)
    child.stdout?.on('data', (text: Buffer) => {
      if (text.includes('ready')) end(true)
    })
    child.once('error', () => end(false))
    child.once('exit', () => end(false))
  })
}

function namespaceOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`)
  } catch {
    return undefined
  }
}

const lastLines = (file: string): string => readFileSync(file, 'utf8').trim().split('\n').slice(-3).join('\n')
