import { spawn } from 'node:child_process'
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { between, type FleetOptions, type FleetRecord, keyOf, namesOf, planFleet, SLOTS } from '../plan.js'
import { Cgroup } from './cgroups.js'
import { environment, fleetLack, must, run, statOf, until } from './host.js'
import { joined, Machine } from './machine.js'
import { Network } from './network.js'

/** One file for each slot in use, with the directory of the fleet that has it. */
const CLAIMS = '/run/capstan-fleet'

/**
 * Machines on one host, on a wire that can be cut: each a set of namespaces, all real processes, containers and packets.
 *
 * What is made lives as long as the fleet's processes do: namespaces with their links, mounts and rules end with them. Beside them there
 * are only cgroups, a claim in `/run/capstan-fleet` and the directory, so that a crash of whoever built it leaves nothing that
 * `Fleet.clear` does not find.
 */
export class Fleet {
  readonly network: Network
  readonly machines: readonly Machine[]
  private readonly cgroup: Cgroup
  private readonly wireCgroup: Cgroup

  private constructor(
    readonly directory: string,
    readonly record: FleetRecord,
  ) {
    this.cgroup = new Cgroup(namesOf(record.slot).cgroup)
    this.wireCgroup = new Cgroup(`${namesOf(record.slot).cgroup}/wire`)
    this.network = new Network(
      this,
      () => this.holder(),
      (name) => this.machine(name).init,
      this.wireCgroup,
    )
    const owner = { directory, record, plug: (machine: Machine) => this.network.plug(machine.name, machine.init) }
    this.machines = record.machines.map((machine) => new Machine(owner, machine))
  }

  /** Builds a fleet: about half a second and a quarter for each machine. @throws Error that says what is wrong; nothing is left then. */
  static async create(options: FleetOptions): Promise<Fleet> {
    const lack = fleetLack()
    if (lack) throw new Error(lack)
    planFleet(options, 0)
    mkdirSync(options.directory, { recursive: true })
    const directory = realpathSync(options.directory)
    if (existsSync(join(directory, 'fleet.json')) || claimedBy(directory).length > 0)
      throw new Error(
        `${directory} has a fleet already; Fleet.clear, or "fleet down --directory ${directory}", takes it down`,
      )
    const record = await claim(directory, options)
    try {
      const fleet = new Fleet(directory, record)
      await fleet.build()
      return fleet
    } catch (error) {
      await Fleet.clear(directory)
      throw error
    }
  }

  /** A fleet that was built by somebody else and still stands. */
  static open(directory: string): Fleet {
    const file = join(directory, 'fleet.json')
    if (!existsSync(file)) throw new Error(`there is no fleet in ${directory}`)
    return new Fleet(realpathSync(directory), JSON.parse(readFileSync(file, 'utf8')) as FleetRecord)
  }

  /** Removes all of a fleet but the directories of its machines, whatever state it is in. Idempotent. */
  static async clear(directory: string): Promise<void> {
    // A directory that somebody removed may have a fleet that stands.
    const path = existsSync(directory) ? realpathSync(directory) : resolve(directory)
    // By the claim, not by the record: a slot that was given up may be another's by now.
    for (const slot of claimedBy(path)) {
      const names = namesOf(slot)
      const cgroup = new Cgroup(names.cgroup)
      await cgroup.kill()
      // With the last process of the namespace the kernel takes its links down, in a moment.
      if (!(await until(async () => (await run(['ip', 'link', 'show', names.hostLink])).code !== 0, 5000)))
        await must(['ip', 'link', 'del', 'dev', names.hostLink])
      await cgroup.remove()
      await detachDisks(path)
      rmSync(join(CLAIMS, `${slot}.sock`), { force: true })
      unlinkSync(join(CLAIMS, String(slot)))
    }
    try {
      rmdirSync(CLAIMS)
    } catch {
      // Other fleets stand.
    }
    for (const file of existsSync(path) ? readdirSync(path) : [])
      if (/^(fleet|network)\.json$|\.init\.json$/.test(file)) rmSync(join(path, file))
  }

  machine(name: string): Machine {
    const machine = this.machines.find((m) => m.name === name)
    if (!machine)
      throw new Error(`there is no machine ${name}; machines: ${this.machines.map((m) => m.name).join(', ')}`)
    return machine
  }

  get names(): string[] {
    return this.machines.map((machine) => machine.name)
  }

  inZone(zone: string): string[] {
    return this.machines.filter((machine) => machine.zone === zone).map((machine) => machine.name)
  }

  /** The host's own address on the wire, by which it reaches the machines and they it. */
  get hostAddress(): string {
    return namesOf(this.record.slot).hostAddress
  }

  /** All ends; only the machines' directories stay, as disks do. */
  async down(): Promise<void> {
    await Fleet.clear(this.directory)
  }

  private async build(): Promise<void> {
    this.wireCgroup.make()
    await this.hold()
    await this.network.lay()
    await Promise.all(this.machines.map((machine) => machine.boot()))
    const { zones } = this.record
    if (zones && zones.delayMs > 0) {
      const links = this.machines.flatMap((a) =>
        this.machines.flatMap((b) => (a.name < b.name && a.zone !== b.zone ? between([a.name], [b.name]) : [])),
      )
      await this.network.setZones(links, zones)
    }
  }

  /** A process that does nothing but hold the wire's namespace. */
  private async hold(): Promise<void> {
    const command = joined(this.wireCgroup, ['unshare', '--net', 'perl', '-e', '$0 = "fleet wire"; sleep while 1'])
    const child = spawn(command[0] as string, command.slice(1), { detached: true, stdio: 'ignore', env: environment() })
    child.unref()
    // It has unshared once it is perl.
    const isThere = () => {
      try {
        return readFileSync(`/proc/${child.pid}/cmdline`, 'utf8').startsWith('fleet wire')
      } catch {
        return false
      }
    }
    if (!(await until(isThere, 5000))) throw new Error('the namespace of the wire cannot be made')
    writeFileSync(this.holderFile, JSON.stringify({ pid: child.pid, started: statOf(child.pid as number)?.[19] }))
  }

  private get holderFile(): string {
    return join(this.directory, 'wire.init.json')
  }

  private holder(): number {
    if (existsSync(this.holderFile)) {
      const { pid, started } = JSON.parse(readFileSync(this.holderFile, 'utf8')) as { pid: number; started: string }
      if (statOf(pid)?.[19] === started) return pid
    }
    throw new Error(`the fleet in ${this.directory} does not stand any more; Fleet.clear removes what is left of it`)
  }
}

/** Takes the first free slot whose addresses the host does not use, on disk before anything else is made. */
async function claim(directory: string, options: FleetOptions): Promise<FleetRecord> {
  mkdirSync(CLAIMS, { recursive: true })
  const wish = join(CLAIMS, `.${keyOf(directory)}-${process.pid}`)
  const routes = await must(['ip', '-o', 'route', 'show'])
  writeFileSync(wish, directory)
  try {
    for (let slot = 0; slot < SLOTS; slot++) {
      if (routes.includes(`10.90.${slot}.`)) continue
      try {
        // With its content, or not at all.
        linkSync(wish, join(CLAIMS, String(slot)))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EEXIST') continue
        throw error
      }
      const record = planFleet(options, slot)
      writeFileSync(join(directory, 'fleet.json.new'), JSON.stringify(record, undefined, 2))
      renameSync(join(directory, 'fleet.json.new'), join(directory, 'fleet.json'))
      return record
    }
  } finally {
    rmSync(wish, { force: true })
  }
  throw new Error(`${SLOTS} fleets stand on this host already, or their addresses (10.90.0.0/16) are in use`)
}

function claimedBy(directory: string): number[] {
  if (!existsSync(CLAIMS)) return []
  return readdirSync(CLAIMS)
    .filter((name) => /^\d+$/.test(name) && readFileSync(join(CLAIMS, name), 'utf8') === directory)
    .map(Number)
}

/** Loop devices of machines' disks; they mostly go with the mount. */
async function detachDisks(directory: string): Promise<void> {
  for (const file of existsSync(directory) ? readdirSync(directory) : [])
    if (file.endsWith('.disk')) {
      const listed = await run(['losetup', '-n', '-O', 'NAME', '-j', join(directory, file)])
      for (const device of listed.stdout.split('\n')) if (device.trim()) await run(['losetup', '-d', device.trim()])
    }
}
