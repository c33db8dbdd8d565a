import { spawn } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { type FleetRecord, HOST, type Link, namesOf } from '../plan.js'
import { combine, linkOfMacs, noCounts, type WireCounts, type WireRule } from '../wire.js'
import type { Cgroup } from './cgroups.js'
import { environment, must, until } from './host.js'
import { type Done, joined } from './machine.js'

/** One fault of the wire, as it is kept in `network.json`. `zones`: the distance that the fleet was built with. */
interface LinkFault {
  id: string
  kind: 'cut' | 'loss' | 'slow' | 'zones'
  what: string
  links: Link[]
  share?: number
  rule?: Partial<WireRule>
}

export interface Proof {
  id: string
  what: string
  inForce: boolean
  proof: string
}

/** What can't be made here, and why. */
export const CANNOT: readonly { what: string; why: string }[] = [
  {
    what: 'wall clock: skew, jump',
    why: 'Linux has one wall clock for all; monotonic and boot-time clocks of a machine can be set off at its start (clockOffsetMs)',
  },
  { what: 'clock rate', why: 'namespaces shift clocks, they do not speed them up' },
  {
    what: 'disk: slow sync, failing sync, lost un-synced writes, flipped bits',
    why: 'needs device-mapper targets; decorators of the Disk port make them',
  },
  { what: 'another kernel', why: 'machines are namespaces: they share the kernel, and stop with it' },
]

const PROBE_PORT = 9
const PROOF_MS = 3000
const PORT_GONE_MS = 20_000

/**
 * The fleet's wire: a bridge in a namespace of its own, one port for each machine and one for the host. Frames are cut and lost by
 * nftables where they are forwarded, so that existing connections hang, too; slow or faulty links are diverted, where they
 * enter, to the wire process (`wire-main.ts`), and go on from there. Addresses are still resolved over a cut link: programs see
 * silence, not "no route to host". Machines' own rules are left alone.
 */
export class Network {
  /** Faults that this kind of fleet can't make; they count as not tested. */
  readonly cannot = CANNOT
  private faults: LinkFault[] = []
  private next = 1
  private queue: Promise<unknown> = Promise.resolve()
  /** By who sends: to whom its frames are diverted, as this process has left it. Missing: not known. */
  private readonly diverted = new Map<string, string>()

  constructor(
    private readonly fleet: { directory: string; record: FleetRecord },
    /** Process that holds the wire's namespace. */
    private readonly holder: () => number,
    /** Network namespace of a machine: its first process. */
    private readonly initOf: (machine: string) => number,
    private readonly cgroup: Cgroup,
  ) {
    this.load()
  }

  /** Another process (`fleet heal`) may have changed what is in force. */
  private load(): void {
    if (!existsSync(this.file)) return
    const kept = JSON.parse(readFileSync(this.file, 'utf8')) as { next: number; faults: LinkFault[] }
    this.faults = kept.faults
    this.next = kept.next
  }

  private get file(): string {
    return join(this.fleet.directory, 'network.json')
  }

  // ----------------------------------------------------------------------------------------------------------- the wire

  /** In the wire's namespace. */
  private at(command: readonly string[]): string[] {
    return ['nsenter', `--net=/proc/${this.holder()}/ns/net`, '--', ...command]
  }

  /** Bridge and host's port. */
  async lay(): Promise<void> {
    const names = namesOf(this.fleet.record.slot)
    const holder = this.holder()
    for (const name of [HOST, ...this.fleet.record.machines.map((machine) => machine.name)]) this.diverted.set(name, '')
    await must([
      'ip',
      'link',
      'add',
      'dev',
      names.hostLink,
      'address',
      names.hostMac,
      'type',
      'veth',
      'peer',
      'name',
      HOST,
      'netns',
      String(holder),
    ])
    await must(['ip', '-batch', '-'], {
      input: `addr add ${names.hostAddress}/24 dev ${names.hostLink}\nlink set dev ${names.hostLink} up\n`,
    })
    await must(this.at(['ip', '-batch', '-']), {
      input: `link set dev lo up\nlink add dev wires type bridge\nlink set dev wires up\nlink set dev ${HOST} master wires up\n`,
    })
    await must(
      this.at([
        'sh',
        '-c',
        `bridge fdb replace ${names.hostMac} dev ${HOST} master static; tc qdisc add dev ${HOST} clsact`,
      ]),
    )
    await must(this.at(['nft', '-f', '-']), {
      input: 'add table bridge fleet\nadd chain bridge fleet forward { type filter hook forward priority 0; }\n',
    })
  }

  /** A machine's end of the wire, new at each of its starts. */
  async plug(name: string, init: number): Promise<void> {
    const { machines, slot } = this.fleet.record
    const machine = machines.find((m) => m.name === name)
    if (!machine) throw new Error(`no machine ${name}`)
    const { port, mac, address } = machine
    const inside = ['nsenter', `--net=/proc/${init}/ns/net`, '--']
    // No fault may be made or undone on a port that is half there.
    await this.serially(async () => {
      // The port of its last life goes with its namespace, which the kernel clears away when it has time.
      if (await this.hasPort(port)) await must(this.at(['ip', 'link', 'delete', 'dev', port])).catch(() => '')
      if (!(await until(async () => !(await this.hasPort(port)), PORT_GONE_MS)))
        throw new Error(`the port ${port} of the last life of ${name} is still there after ${PORT_GONE_MS / 1000} s`)
      await must(
        this.at(['ip', 'link', 'add', 'dev', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(init)]),
      )
      await must(
        this.at([
          'sh',
          '-c',
          `ip link set dev ${port} master wires up && bridge fdb replace ${mac} dev ${port} master static && tc qdisc add dev ${port} clsact`,
        ]),
      )
      this.diverted.set(name, '')
    })
    await must([...inside, 'sh', '-c', 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'])
    await must([...inside, 'ip', '-batch', '-'], {
      input: [
        `link set dev eth0 address ${mac}`,
        `addr add ${address}/24 dev eth0`,
        'link set dev eth0 up',
        `route add default via ${namesOf(slot).hostAddress}`,
        '',
      ].join('\n'),
    })
    await this.serially(() => this.divert())
  }

  private async hasPort(port: string): Promise<boolean> {
    return (await must(this.at(['ip', '-br', 'link']))).includes(`${port}@`)
  }

  // ------------------------------------------------------------------------------------------------------------- faults

  /** What `from` sends does not arrive at `to`: one direction. Several links at once: `cutAll`. */
  async cut(from: string, to: string): Promise<Done> {
    return this.cutAll([[from, to]], `cut ${from} > ${to}`)
  }

  /** Many directions by one rule: `isolated`, `between`, `bridged`, `ring` name them. */
  async cutAll(links: readonly Link[], what = `cut of ${links.length} directions`): Promise<Done> {
    return this.make({ kind: 'cut', what, links: [...links] })
  }

  /** Shares are from 0 to 1. */
  async loss(from: string, to: string, share: number): Promise<Done> {
    return this.make({
      kind: 'loss',
      what: `loss of ${percent(share)} ${from} > ${to}`,
      links: [[from, to]],
      share: checkShare(share),
    })
  }

  async delay(from: string, to: string, ms: number, jitterMs = 0): Promise<Done> {
    return this.slow(from, to, `delay of ${ms} ms`, { delayMs: ms, jitterMs })
  }

  async duplicate(from: string, to: string, share: number): Promise<Done> {
    return this.slow(from, to, `${percent(share)} doubled`, { duplicate: checkShare(share) })
  }

  async reorder(from: string, to: string, share: number): Promise<Done> {
    return this.slow(from, to, `${percent(share)} out of order`, { reorder: checkShare(share) })
  }

  async corrupt(from: string, to: string, share: number): Promise<Done> {
    return this.slow(from, to, `${percent(share)} damaged`, { corrupt: checkShare(share) })
  }

  async bandwidth(from: string, to: string, bytesPerSecond: number): Promise<Done> {
    if (!(bytesPerSecond >= 1000)) throw new Error('a link carries at least 1000 bytes a second; cut it instead')
    return this.slow(from, to, `${bytesPerSecond} bytes/s`, { bytesPerSecond })
  }

  /** The distance between zones, which `heal` leaves. */
  async setZones(links: readonly Link[], rule: Partial<WireRule>): Promise<void> {
    await this.make({ kind: 'zones', what: `${rule.delayMs} ms between zones`, links: [...links], rule })
  }

  /** Cut and whole by turns, beginning with the cut. The turns are this process's: they end with it. */
  async flap(links: readonly Link[], cutMs: number, wholeMs: number): Promise<Done> {
    let over = false
    let turns = 0
    let cut: Done | undefined
    let wake: () => void = () => undefined
    const sleep = (ms: number) =>
      new Promise<void>((resolve) => {
        wake = resolve
        setTimeout(resolve, ms).unref()
      })
    const first = await this.cutAll(links, `flapping, ${links.length} directions`)
    cut = first
    const turning = (async () => {
      while (!over) {
        await sleep(cutMs)
        await cut?.undo()
        cut = undefined
        turns++
        if (over) return
        await sleep(wholeMs)
        if (!over) cut = await this.cutAll(links, `flapping, ${links.length} directions`)
      }
    })()
    return {
      proof: first.proof,
      undo: async () => {
        over = true
        wake()
        await turning
        await cut?.undo()
        return `flapped ${turns} times; whole`
      },
    }
  }

  /** What is in force by the books, in few words; `inForce` looks. */
  get list(): string[] {
    return this.faults.map((fault) => fault.what)
  }

  /** Undoes all, but for the distance between zones. */
  async heal(): Promise<string> {
    this.load()
    const faults = this.faults.filter((fault) => fault.kind !== 'zones')
    for (const fault of faults) await this.undo(fault.id)
    return `${faults.length} faults undone; ${this.faults.length === 0 ? 'no rule is left' : 'only the distance between zones is left'}`
  }

  /** Sends datagrams over every link that has a fault and looks at what became of them. */
  async inForce(): Promise<Proof[]> {
    this.load()
    const proofs: Proof[] = []
    for (const fault of this.faults) {
      const { id, what } = fault
      try {
        proofs.push({ id, what, inForce: true, proof: await this.prove(fault) })
      } catch (error) {
        proofs.push({ id, what, inForce: false, proof: (error as Error).message })
      }
    }
    return proofs
  }

  private slow(from: string, to: string, what: string, rule: Partial<WireRule>): Promise<Done> {
    return this.make({ kind: 'slow', what: `${what} ${from} > ${to}`, links: [[from, to]], rule })
  }

  private async make(wanted: Omit<LinkFault, 'id'>): Promise<Done> {
    for (const name of new Set(wanted.links.flat())) this.end(name)
    const fault: LinkFault = { id: '', ...wanted }
    await this.serially(async () => {
      fault.id = `f${this.next++}`
      this.faults.push(fault)
      this.save()
      await this.apply(fault)
    })
    try {
      return { proof: await this.prove(fault), undo: () => this.undo(fault.id) }
    } catch (error) {
      await this.undo(fault.id)
      throw error
    }
  }

  private async apply(fault: LinkFault): Promise<void> {
    if (fault.links.length === 0) return
    if (fault.kind === 'slow' || fault.kind === 'zones') return this.divert()
    const pairs = fault.links.map(([from, to]) => `${this.end(from).mac} . ${this.end(to).mac}`)
    const chance = fault.share === undefined ? '' : `numgen random mod 10000 < ${Math.round(fault.share * 10_000)} `
    await must(this.at(['nft', '-f', '-']), {
      // Not ARP: on a cut link of routed networks addresses are still found. First of all rules, so that it counts what it
      // drops also where another fault would drop it.
      input: `insert rule bridge fleet forward ether type { ip, ip6 } ether saddr . ether daddr { ${pairs.join(', ')} } ${chance}counter drop comment "${fault.id}"\n`,
    })
  }

  private async undo(id: string): Promise<string> {
    return this.serially(async () => {
      const fault = this.faults.find((f) => f.id === id)
      if (!fault) return `${id} is undone already`
      if (fault.kind === 'cut' || fault.kind === 'loss') {
        for (const rule of await this.rules())
          if (rule.comment === id)
            await must(this.at(['nft', 'delete', 'rule', 'bridge', 'fleet', 'forward', 'handle', String(rule.handle)]))
      }
      this.faults = this.faults.filter((f) => f.id !== id)
      this.save()
      if (fault.kind === 'slow' || fault.kind === 'zones') await this.divert()
      if ((await this.rules()).some((rule) => rule.comment === id))
        throw new Error(`${fault.what}: its rule is still there`)
      return `${fault.what}: undone, its rule is gone`
    })
  }

  private async rules(): Promise<{ handle: number; comment?: string; packets: number }[]> {
    const text = await must(this.at(['nft', '-j', 'list', 'chain', 'bridge', 'fleet', 'forward']))
    const { nftables } = JSON.parse(text) as {
      nftables: { rule?: { handle: number; comment?: string; expr: { counter?: { packets: number } }[] } }[]
    }
    return nftables.flatMap(({ rule }) =>
      rule
        ? [
            {
              handle: rule.handle,
              ...(rule.comment === undefined ? {} : { comment: rule.comment }),
              packets: rule.expr.find((e) => e.counter)?.counter?.packets ?? 0,
            },
          ]
        : [],
    )
  }

  // ---------------------------------------------------------------------------------------------------------- diversion

  /** Brings the kernel's filters and the wire process to what the faults ask for. */
  private async divert(): Promise<void> {
    const rules = new Map<string, { link: Link; parts: Partial<WireRule>[] }>()
    for (const fault of this.faults)
      if (fault.rule)
        for (const link of fault.links) {
          const name = this.wireName(link)
          const entry = rules.get(name) ?? { link, parts: [] }
          entry.parts.push(fault.rule)
          rules.set(name, entry)
        }
    if (rules.size > 0) await this.startWire()
    // The wire knows before the first frame comes.
    if (existsSync(this.socket))
      await this.order({ set: Object.fromEntries([...rules].map(([name, { parts }]) => [name, combine(parts)])) })
    const { machines } = this.fleet.record
    for (const from of [HOST, ...machines.map((machine) => machine.name)]) {
      const targets = [...rules.values()].filter(({ link }) => link[0] === from).map(({ link }) => link[1])
      const wanted = targets.sort().join()
      if (this.diverted.get(from) === wanted) continue
      const { port } = this.end(from)
      const add = (to: string, i: number) =>
        `filter add dev ${port} ingress prio ${i + 1} protocol all u32 match ether dst ${this.end(to).mac} action mirred egress redirect dev wire`
      try {
        await must(this.at(['tc', '-batch', '-']), {
          input: [`filter del dev ${port} ingress`, ...targets.map(add), ''].join('\n'),
        })
      } catch (error) {
        // Its machine is off: it gets them when it is plugged in again.
        if (from === HOST || (await this.hasPort(port))) throw error
        continue
      }
      this.diverted.set(from, wanted)
    }
  }

  private get socket(): string {
    // Beside the claim of the slot: a socket's path is short.
    return `/run/capstan-fleet/${this.fleet.record.slot}.sock`
  }

  private async startWire(): Promise<void> {
    if (existsSync(this.socket)) {
      const lives = await this.order({ counts: true }).then(
        () => true,
        () => false,
      )
      if (lives) return
      // It was killed, and its device with it: filters that name the device lead nowhere.
      rmSync(this.socket, { force: true })
      this.diverted.clear()
    }
    const log = openSync(join(this.fleet.directory, 'wire.log'), 'a')
    const program = join(import.meta.dirname, 'wire-main.js')
    const command = joined(this.cgroup, this.at([process.execPath, '--max-semi-space-size=16', program, this.socket]))
    const child = spawn(command[0] as string, command.slice(1), {
      detached: true,
      stdio: ['ignore', log, log],
      env: environment(),
    })
    closeSync(log)
    child.unref()
    if (!(await until(() => existsSync(this.socket) || child.exitCode !== null, 10_000)) || child.exitCode !== null)
      throw new Error(`the wire process does not start; see ${this.fleet.directory}/wire.log`)
    // What is sent into it must not teach the bridge that machines live behind it.
    await must(
      this.at([
        'sh',
        '-c',
        'ip link set dev wire master wires up && bridge link set dev wire learning off flood off mcast_flood off',
      ]),
    )
  }

  private order(order: unknown): Promise<{ counts?: Record<string, WireCounts> }> {
    return new Promise((resolve, reject) => {
      const connection = connect(this.socket)
      let text = ''
      connection.setTimeout(5000, () => connection.destroy(new Error('the wire process does not answer')))
      connection.on('error', (error) => reject(new Error(`the wire process: ${error.message}`)))
      connection.on('data', (bytes) => {
        text += String(bytes)
        if (!text.endsWith('\n')) return
        connection.destroy()
        resolve(JSON.parse(text) as { counts?: Record<string, WireCounts> })
      })
      connection.write(`${JSON.stringify(order)}\n`)
    })
  }

  // -------------------------------------------------------------------------------------------------------------- proof

  private async prove(fault: LinkFault): Promise<string> {
    if (fault.links.length === 0) return `${fault.what}: no link is meant`
    return fault.kind === 'cut' || fault.kind === 'loss' ? this.proveRule(fault) : this.proveWire(fault)
  }

  private async proveRule(fault: LinkFault): Promise<string> {
    const packets = async () => (await this.rules()).find((rule) => rule.comment === fault.id)?.packets
    const before = await packets()
    if (before === undefined) throw new Error(`${fault.what}: its rule is not there`)
    const each = fault.share === undefined ? 1 : Math.min(1000, Math.ceil(8 / fault.share))
    const least = fault.share === undefined ? fault.links.length : 1
    let dropped = 0
    // A first datagram may wait until an address is resolved.
    const seen = await until(
      async () => {
        if (dropped === 0) await this.probe(fault.links, each)
        dropped = ((await packets()) ?? 0) - before
        return dropped >= least
      },
      PROOF_MS,
      5,
    )
    if (!seen) throw new Error(`${fault.what}: of ${each * fault.links.length} datagrams only ${dropped} were dropped`)
    return `${fault.what}: nftables dropped ${dropped} of ${each * fault.links.length} datagrams sent over ${fault.links.length === 1 ? 'it' : 'them'}`
  }

  private async proveWire(fault: LinkFault): Promise<string> {
    const rule = combine([fault.rule ?? {}])
    const names = fault.links.map((link) => this.wireName(link))
    const sum = async () => {
      const { counts = {} } = await this.order({ counts: true })
      const all = noCounts()
      const silent: string[] = []
      for (const [i, name] of names.entries()) {
        const of = counts[name]
        if (!of?.frames) silent.push((fault.links[i] as Link).join(' > '))
        for (const key of Object.keys(all) as (keyof WireCounts)[]) all[key] += of?.[key] ?? 0
      }
      return { all, silent }
    }
    const share = Math.max(rule.duplicate, rule.corrupt, rule.reorder)
    const each = share > 0 ? Math.min(1000, Math.ceil(8 / share)) : 1
    let now = await sum()
    const shows = () =>
      now.silent.length === 0 &&
      (rule.duplicate === 0 || now.all.doubled > 0) &&
      (rule.corrupt === 0 || now.all.damaged > 0) &&
      (rule.reorder === 0 || now.all.reordered > 0)
    const seen = await until(
      async () => {
        await this.probe(fault.links, each)
        now = await sum()
        return shows()
      },
      PROOF_MS,
      20,
    )
    if (!seen) throw new Error(`${fault.what}: no frame was diverted on ${now.silent.slice(0, 3).join(', ') || 'time'}`)
    const { frames, heldMs, doubled, damaged, reordered } = now.all
    const details = [
      `${frames} frames held ${(heldMs / frames).toFixed(1)} ms on average`,
      ...(doubled > 0 ? [`${doubled} doubled`] : []),
      ...(damaged > 0 ? [`${damaged} damaged`] : []),
      ...(reordered > 0 ? [`${reordered} put out of order`] : []),
    ]
    return `${fault.what}: ${details.join(', ')}`
  }

  /** So many datagrams over each link, to a port where nobody listens. */
  private async probe(links: readonly Link[], each: number): Promise<void> {
    const byFrom = new Map<string, string[]>()
    for (const [from, to] of links) byFrom.set(from, [...(byFrom.get(from) ?? []), this.end(to).address])
    for (const [from, addresses] of byFrom) {
      const script = `for a in ${addresses.join(' ')}; do for ((i = 0; i < ${each}; i++)); do echo probe > /dev/udp/$a/${PROBE_PORT}; done; done 2> /dev/null; true`
      const where = from === HOST ? [] : ['nsenter', `--net=/proc/${this.initOf(from)}/ns/net`, '--']
      await must([...where, 'bash', '-c', script])
    }
  }

  // -------------------------------------------------------------------------------------------------------------- small

  private end(name: string): { mac: string; port: string; address: string } {
    const { machines, slot } = this.fleet.record
    if (name === HOST) return { mac: namesOf(slot).hostMac, port: HOST, address: namesOf(slot).hostAddress }
    const machine = machines.find((m) => m.name === name)
    if (!machine) throw new Error(`there is no machine ${name}; machines: ${machines.map((m) => m.name).join(', ')}`)
    return machine
  }

  private wireName([from, to]: Link): string {
    return linkOfMacs(this.end(from).mac, this.end(to).mac)
  }

  private save(): void {
    writeFileSync(`${this.file}.new`, JSON.stringify({ next: this.next, faults: this.faults }))
    renameSync(`${this.file}.new`, this.file)
  }

  /** One change after the other. */
  private serially<T>(work: () => Promise<T>): Promise<T> {
    const done = this.queue.then(() => {
      this.load()
      return work()
    })
    this.queue = done.catch(() => undefined)
    return done
  }
}

const percent = (share: number) => `${Number((share * 100).toFixed(2))} %`

function checkShare(share: number): number {
  if (!(share > 0 && share <= 1)) throw new Error(`a share lies between 0 and 1, not at ${share}`)
  return share
}
