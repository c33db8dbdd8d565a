/**
 * `npm run bench -- store`: our store and Debian's etcd side by side, alternating, each over its own protocol.
 *
 * Both run as three members on this machine, with syncing on, in directories on the same disk. Clients are loops with one
 * request under way each, spread over client processes, connected to the leader (and its nats-server). One side runs at a
 * time; a round is all rows of one side, then all of the other.
 */
import { statfsSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { provideEtcd } from '@capstan/cli'
import { Cleanup } from './bench-cleanup.js'
import { cpuMsOf, describeMachine, median, memoryOfPids, percentile } from './bench-report.js'
import type { ClientOrder, ClientWord } from './bench-store-client.js'
import { Client } from './bench-store-clients.js'
import { syncsPerSecond } from './bench-store-floor.js'
import { CapstanSide, EtcdSide, MEMBERS, type Side } from './bench-store-sides.js'
import { exec } from './cluster-under-test.js'

const TMPFS_MAGIC = 0x01021994
const WATCHERS = 1000
const WATCH_WINDOW_EVENTS = 256
/** Puts that the one writer keeps under way: the row is about the fan-out, not about how long one put takes. */
const WATCH_PUTS = 16
/** One load before the first row of each round. */
const WARM_MS = 15_000
const KEYS = 10_000
const LARGE_VALUE_BYTES = 1024
const LARGE_TXN = 100
const FAILOVER_PER_SECOND = 200
const FAILOVER_OBSERVE_MS = 4000
/** Between a member's return and the next kill. */
const FAILOVER_REST_MS = 1500

interface Row {
  name: string
  title: string
  unit: string
  aim: number
  /** Is a greater ratio (ours to etcd's) better? */
  more: boolean
}

const ROWS: Row[] = [
  { name: 'put-1', title: 'puts/s, 1 client', unit: '/s', aim: 0.7, more: true },
  { name: 'put-64', title: 'puts/s, 64 clients', unit: '/s', aim: 1.5, more: true },
  { name: 'put-256', title: 'puts/s, 256 clients', unit: '/s', aim: 2, more: true },
  { name: 'put-1000', title: 'puts/s, 1,000 clients', unit: '/s', aim: 2, more: true },
  { name: 'p99-256', title: 'p99 of puts, 256 clients', unit: ' ms', aim: 0.7, more: false },
  { name: 'get-256', title: 'linearizable gets/s, 256 clients', unit: '/s', aim: 1.2, more: true },
  { name: 'watch', title: 'watch events/s, 1 writer, 1,000 watchers', unit: '/s', aim: 2, more: true },
  { name: 'restart', title: 'restart to serving, 1,000,000 keys of 1 KiB', unit: ' s', aim: 0.5, more: false },
  { name: 'memory', title: 'resident memory (RSS) with them', unit: ' MiB', aim: 1, more: false },
  { name: 'failover', title: 'gap in writes, kill -9 of the leader, median', unit: ' ms', aim: 0.3, more: false },
  { name: 'failover-worst', title: 'gap in writes, kill -9 of the leader, worst', unit: ' ms', aim: 0.3, more: false },
]
/** Rows that come out of the measuring of another. */
const ALONG: Record<string, string> = { 'p99-256': 'put-256', 'failover-worst': 'failover' }
const QUICK_ROWS = ['put-1', 'put-64', 'put-256', 'put-1000', 'p99-256', 'get-256', 'watch']

export interface StoreBenchOptions {
  /** Names of rows; default: all. */
  rows?: string[] | undefined
  /** 2 short rounds of the rows that take seconds. */
  quick: boolean
  runs?: number | undefined
  kills?: number | undefined
  /** Keys of the restart and memory rows. */
  keys?: number | undefined
  /** Client processes. */
  clients?: number | undefined
  /** Parent of the data directories. */
  directory?: string | undefined
  output?: 'json' | undefined
  /** Also writes the JSON there. */
  file?: string | undefined
  side?: 'capstan' | 'etcd' | undefined
  storeArguments?: string[] | undefined
  /** How clients come to our side: by the bus (default), or by its etcd v3 face, for the second table. */
  over?: 'bus' | 'etcd' | undefined
}

/** One measurement. */
interface Sample {
  value: number
  /** Cores in use by each, on average. */
  cpu?: { clients: number; members: number; beside: number }
  note?: string
}

/** Samples of all rows of one side. */
type Samples = Map<string, Sample[]>

export async function benchStore(options: StoreBenchOptions): Promise<void> {
  const bench = new StoreBench(options)
  await bench.run()
}

class StoreBench {
  private readonly cleanup = new Cleanup()
  private readonly parent: string
  private readonly wanted: Set<string>
  private readonly rounds: number
  private readonly warmMs: number
  private readonly runMs: number
  private readonly processes: number
  private readonly samples = new Map<string, Samples>()

  constructor(private readonly options: StoreBenchOptions) {
    const names = options.rows ?? (options.quick ? QUICK_ROWS : ROWS.map(({ name }) => name))
    const unknown = names.filter((name) => !ROWS.some((row) => row.name === name))
    if (unknown.length > 0) throw new Error(`no row ${unknown.join(', ')}; rows: ${ROWS.map((r) => r.name).join(', ')}`)
    this.wanted = new Set(names)
    this.rounds = options.runs ?? (options.quick ? 2 : 5)
    this.warmMs = options.quick ? 1000 : 2000
    this.runMs = options.quick ? 2000 : 5000
    this.processes = options.clients ?? Math.max(2, cpus().length)
    this.parent = options.directory ?? tmpdir()
    if (Number(statfsSync(this.parent).type) === TMPFS_MAGIC)
      throw new Error(`${this.parent} is in memory: name a directory on a disk by --dir`)
  }

  async run(): Promise<void> {
    const { lacks } = await provideEtcd(this.tell)
    if (lacks.length > 0) throw new Error(lacks.join('; '))
    const etcdVersion = (await exec('etcd', ['--version'])).stdout.split('\n')[0] ?? ''
    const machine = `${describeMachine()}, ${etcdVersion}`
    this.tell(machine)
    const floor = await this.floor()
    const sides = (): Side[] =>
      [
        new CapstanSide(this.cleanup, this.parent, {
          nodeArguments: this.options.storeArguments,
          face: this.options.over === 'etcd',
        }),
        new EtcdSide(this.cleanup, this.parent),
      ].filter(({ name }) => !this.options.side || name === this.options.side)
    for (let round = 1; round <= this.rounds; round++)
      for (const side of sides()) await this.serving(side, () => this.shortRows(side, round))
    if (this.wanted.has('restart') || this.wanted.has('memory'))
      for (const side of sides()) await this.serving(side, () => this.largeRows(side))
    if (this.wanted.has('failover') || this.wanted.has('failover-worst')) {
      const kills = this.options.kills ?? (this.options.quick ? 3 : 20)
      const ours = { heartbeatMs: 50, electionMs: 300 }
      const all = this.options.side ? sides() : [...sides(), new EtcdSide(this.cleanup, this.parent, ours)]
      for (const side of all) await this.serving(side, () => this.failover(side, kills))
    }
    this.report(machine, floor)
  }

  private readonly tell = (text: string): void => void process.stderr.write(`${text}\n`)

  private async serving(side: Side, work: () => Promise<void>): Promise<void> {
    await side.start()
    try {
      await work()
    } finally {
      await side.stop()
    }
  }

  private note(side: Side, row: string, sample: Sample): void {
    const samples = this.samples.get(side.name) ?? new Map<string, Sample[]>()
    this.samples.set(side.name, samples)
    samples.set(row, [...(samples.get(row) ?? []), sample])
    if (!this.wanted.has(row)) return
    const { unit = '' } = ROWS.find(({ name }) => name === row) ?? {}
    this.tell(
      `  ${side.name.padEnd(18)} ${row.padEnd(15)} ${figure(sample.value)}${unit}${describeCpu(sample)}${sample.note ? `  ${sample.note}` : ''}`,
    )
  }

  private wants(row: string): boolean {
    return this.wanted.has(row) || [...this.wanted].some((name) => ALONG[name] === row)
  }

  // -------------------------------------------------------------------------------------------------------- short rows

  private async shortRows(side: Side, round: number): Promise<void> {
    const loads = [
      { row: 'put-1', what: 'put', clients: 1 },
      { row: 'put-64', what: 'put', clients: 64 },
      { row: 'put-256', what: 'put', clients: 256 },
      { row: 'put-1000', what: 'put', clients: 1000 },
      { row: 'get-256', what: 'get', clients: 256 },
    ] as const
    const wanted = loads.filter(({ row }) => this.wants(row))
    if (wanted.length === 0 && !this.wants('watch')) return
    this.tell(`round ${round} of ${this.rounds}, ${side.name}`)
    // A store that serves is warm: the time in which a compiler still makes its code counts for neither side.
    await this.withClients(side, this.processes, (clients) =>
      Promise.all(
        clients.map((client, at) =>
          client.order({ ...this.loadOrder('put', 64, clients.length, at, 0), warmMs: 0, runMs: WARM_MS }),
        ),
      ),
    )
    for (const { row, what, clients } of wanted) await this.load(side, row, what, clients, round)
    if (this.wants('watch')) await this.watch(side)
  }

  private async withClients<T>(side: Side, count: number, work: (clients: Client[]) => Promise<T>): Promise<T> {
    const target = side.target(await side.leader())
    const clients = await Promise.all(Array.from({ length: count }, () => Client.start(target, this.cleanup)))
    try {
      return await work(clients)
    } finally {
      await Promise.all(clients.map((client) => client.end()))
    }
  }

  private async load(side: Side, row: string, what: 'put' | 'get', count: number, round: number): Promise<void> {
    await this.withClients(side, Math.min(this.processes, count), async (clients) => {
      if (what === 'get')
        await clients[0]?.order({ kind: 'fill', from: 0, to: KEYS, valueBytes: 256, perTxn: LARGE_TXN, clients: 8 })
      const cpu = this.cpuBetween(side, clients, this.warmMs, this.runMs)
      const words = await Promise.all(
        clients.map((client, at) => client.order(this.loadOrder(what, count, clients.length, at, round))),
      )
      const loaded = words as (ClientWord & { kind: 'loaded' })[]
      const operations = loaded.reduce((sum, word) => sum + word.operations, 0)
      const failures = loaded.reduce((sum, word) => sum + word.failures, 0)
      const error = loaded.find((word) => word.error)?.error
      const sample = {
        value: (operations / this.runMs) * 1000,
        cpu: await cpu,
        ...(failures > 0 ? { note: `${failures} failed: ${error}` } : {}),
      }
      this.note(side, row, sample)
      if (row === 'put-256') {
        const latencies = loaded.flatMap((word) => [...word.latenciesMs])
        this.note(side, 'p99-256', {
          value: percentile(latencies, 0.99),
          note: `median ${figure(median(latencies))} ms`,
        })
      }
    })
  }

  private loadOrder(
    what: 'put' | 'get',
    count: number,
    processes: number,
    at: number,
    round: number,
  ): ClientOrder & { kind: 'load' } {
    return {
      kind: 'load',
      what,
      clients: share(count, processes, at),
      keys: KEYS,
      seed: round * 100 + at + 1,
      warmMs: this.warmMs,
      runMs: this.runMs,
    }
  }

  private async watch(side: Side): Promise<void> {
    await this.withClients(side, this.processes + 1, async ([writer, ...readers]) => {
      if (!writer) return
      await Promise.all(
        readers.map((reader, at) => reader.order({ kind: 'watch', watchers: share(WATCHERS, readers.length, at) })),
      )
      const received = () => readers.reduce((sum, reader) => sum + reader.watched.received, 0)
      for (const reader of readers)
        reader.onWatched = () => writer.tell({ kind: 'progress', received: Math.floor(received() / WATCHERS) })
      const written = writer.order({
        kind: 'write-watched',
        outstanding: WATCH_PUTS,
        windowEvents: WATCH_WINDOW_EVENTS,
      })
      await sleep(this.warmMs)
      const cpu = this.cpuBetween(side, [writer, ...readers], 0, this.runMs)
      const [before, startedMs] = [received(), performance.now()]
      await sleep(this.runMs)
      const value = ((received() - before) / (performance.now() - startedMs)) * 1000
      writer.tell({ kind: 'stop' })
      await written
      const lost = readers.reduce((sum, reader) => sum + reader.watched.lost, 0)
      const why = readers.find((reader) => reader.watched.lost > 0)?.watched.why
      this.note(side, 'watch', { value, cpu: await cpu, ...(lost > 0 ? { note: `${lost} watches lost: ${why}` } : {}) })
    })
  }

  private async cpuBetween(side: Side, clients: Client[], afterMs: number, forMs: number) {
    await sleep(afterMs)
    const { members, beside } = side.processes()
    const pids = clients.map((client) => client.pid)
    const look = () => [cpuMsOf(pids), cpuMsOf(members), cpuMsOf(beside)]
    const [before, startedMs] = [look(), performance.now()]
    await sleep(forMs)
    const elapsedMs = performance.now() - startedMs
    const [clientCores = 0, memberCores = 0, besideCores = 0] = look().map(
      (ms, at) => (ms - (before[at] as number)) / elapsedMs,
    )
    return { clients: clientCores, members: memberCores, beside: besideCores }
  }

  // ------------------------------------------------------------------------------------------------ a million large keys

  private async largeRows(side: Side): Promise<void> {
    const keys = this.options.keys ?? 1_000_000
    this.tell(`${side.name}: ${keys} keys of ${LARGE_VALUE_BYTES} bytes`)
    const startedMs = performance.now()
    await this.withClients(side, this.processes, async (clients) => {
      const each = Math.ceil(keys / clients.length)
      await Promise.all(
        clients.map((client, at) =>
          client.order({
            kind: 'fill',
            from: at * each,
            to: Math.min(keys, (at + 1) * each),
            valueBytes: LARGE_VALUE_BYTES,
            perTxn: LARGE_TXN,
            clients: 4,
          }),
        ),
      )
    })
    this.tell(`  filled in ${((performance.now() - startedMs) / 1000).toFixed(0)} s`)
    // What is still on its way to the disk shall not count for either.
    await sleep(this.options.quick ? 2000 : 10_000)
    this.memory(side, 'memory', 'after filling')
    for (let run = 0; run < (this.options.runs ?? (this.options.quick ? 1 : 5)); run++) {
      await side.killAll()
      const beginMs = performance.now()
      await side.restart()
      this.note(side, 'restart', { value: (performance.now() - beginMs) / 1000 })
      await sleep(2000)
      this.memory(side, 'memory-restarted', 'after a restart')
    }
  }

  private memory(side: Side, row: string, when: string): void {
    const { members, beside } = side.processes()
    const mib = (bytes: number) => `${figure(bytes / 2 ** 20)} MiB`
    const store = memoryOfPids(members)
    const bus = memoryOfPids(beside)
    const note = `PSS ${mib(store.pssBytes)}${beside.length > 0 ? `; its nats-servers add RSS ${mib(bus.rssBytes)}` : ''}`
    this.tell(`  ${side.name} ${when}: RSS ${mib(store.rssBytes)}, ${note}`)
    this.note(side, row, { value: store.rssBytes / 2 ** 20, note })
  }

  // ----------------------------------------------------------------------------------------------------------- failover

  private async failover(side: Side, kills: number): Promise<void> {
    const gaps: number[] = []
    for (let kill = 1; kill <= kills; kill++) {
      const leader = await side.leader()
      const others = MEMBERS.filter((member) => member !== leader)
      const clients = await Promise.all(others.map((member) => Client.start(side.target(member), this.cleanup)))
      const words = clients.map((client) => client.order({ kind: 'pace', perSecond: FAILOVER_PER_SECOND / 2 }))
      await sleep(1000)
      const killedMs = performance.timeOrigin + performance.now()
      await side.kill(leader)
      await sleep(FAILOVER_OBSERVE_MS)
      for (const client of clients) client.tell({ kind: 'stop' })
      const paced = (await Promise.all(words)) as (ClientWord & { kind: 'paced' })[]
      await Promise.all(clients.map((client) => client.end()))
      const acknowledged = paced.flatMap((word) => [...word.acknowledgedMs]).sort((a, b) => a - b)
      const gap = longestGap(acknowledged, killedMs, killedMs + FAILOVER_OBSERVE_MS)
      gaps.push(gap)
      this.tell(`  ${side.name.padEnd(18)} kill ${kill}: ${gap.toFixed(0)} ms`)
      side.revive(leader)
      await sleep(FAILOVER_REST_MS)
    }
    this.note(side, 'failover', { value: median(gaps) })
    this.note(side, 'failover-worst', { value: Math.max(...gaps) })
  }

  // -------------------------------------------------------------------------------------------------------------- floor

  private async floor(): Promise<{ syncs: number; pings: number; pings64: number } | undefined> {
    const syncs = syncsPerSecond(this.cleanup, this.parent, this.runMs / 2)
    const side = new CapstanSide(this.cleanup, this.parent)
    let pings: number[] = []
    await this.serving(side, async () => {
      const [echo, asker] = await Promise.all([0, 1].map(() => Client.start(side.target('m1'), this.cleanup)))
      if (!echo || !asker) return
      await echo.order({ kind: 'echo', target: side.bus() })
      for (const outstanding of [1, 64]) {
        const word = await asker.order({ kind: 'ping', target: side.bus(), outstanding, runMs: this.runMs / 2 })
        pings = [...pings, (word as ClientWord & { kind: 'pinged' }).perSecond]
      }
      await Promise.all([echo.end(), asker.end()])
    })
    return { syncs, pings: pings[0] ?? Number.NaN, pings64: pings[1] ?? Number.NaN }
  }

  // ------------------------------------------------------------------------------------------------------------- report

  private report(machine: string, floor: { syncs: number; pings: number; pings64: number } | undefined): void {
    const of = (side: string, row: string) => {
      const samples = this.samples.get(side)?.get(row) ?? []
      return samples.length === 0
        ? undefined
        : { median: median(samples.map(({ value }) => value)), samples, last: samples[samples.length - 1] as Sample }
    }
    const rows = ROWS.filter(({ name }) => this.wanted.has(name)).map((row) => {
      const [ours, theirs] = [of('capstan', row.name), of('etcd', row.name)]
      const tuned = of('etcd, our time-outs', row.name)
      const ratio = ours && theirs ? ours.median / theirs.median : undefined
      const met = ratio === undefined ? undefined : row.more ? ratio >= row.aim : ratio <= row.aim
      return { ...row, ours, theirs, tuned, ratio, met }
    })
    const json = {
      machine,
      over: this.options.over ?? 'bus',
      floor,
      rounds: this.rounds,
      clientProcesses: this.processes,
      rows: rows.map(({ name, title, unit, aim, more, ours, theirs, tuned, ratio, met }) => ({
        name,
        title,
        unit: unit.trim(),
        capstan: ours && { median: ours.median, samples: ours.samples },
        etcd: theirs && { median: theirs.median, samples: theirs.samples },
        etcdWithOurTimeouts: tuned && { median: tuned.median, samples: tuned.samples },
        ratio,
        aim: `${more ? '>=' : '<='} ${aim}`,
        met,
      })),
    }
    if (this.options.file) writeFileSync(this.options.file, `${JSON.stringify(json, undefined, 2)}\n`)
    if (this.options.output === 'json') return console.log(JSON.stringify(json, undefined, 2))
    console.log(`${machine}; ${this.options.over === 'etcd' ? 'both over etcd v3 gRPC' : 'each over its own protocol'}`)
    if (floor)
      console.log(
        `floor: ${figure(floor.syncs)} syncs/s of 4 KiB; bus round trips ${figure(floor.pings)}/s with 1 and ${figure(floor.pings64)}/s with 64 under way; ` +
          `one put after the other needs two round trips and a sync: at most ${figure(1 / (2 / floor.pings + 1 / floor.syncs))}/s`,
      )
    const cells = [
      [
        '',
        'capstan',
        'etcd',
        'ratio',
        'aim',
        '',
        'cores used, ours (clients + members + bus)',
        'etcd (clients + members)',
      ],
      ...rows.map(({ title, unit, aim, more, ours, theirs, ratio, met }) => [
        title,
        ours ? `${figure(ours.median)}${unit}` : '-',
        theirs ? `${figure(theirs.median)}${unit}` : '-',
        ratio === undefined ? '-' : ratio.toFixed(2),
        `${more ? '≥' : '≤'} ${aim}`,
        met === undefined ? '-' : met ? 'met' : 'NOT met',
        cores(ours?.last),
        cores(theirs?.last),
      ]),
    ]
    const widths = cells[0]?.map((_, at) => Math.max(...cells.map((row) => (row[at] as string).length))) ?? []
    for (const row of cells) console.log(`| ${row.map((cell, at) => cell.padEnd(widths[at] as number)).join(' | ')} |`)
    for (const { title, unit, ours, tuned } of rows)
      if (ours && tuned)
        console.log(
          `${title}: etcd with our time-outs ${figure(tuned.median)}${unit}, ratio ${(ours.median / tuned.median).toFixed(2)}`,
        )
    const memory = rows.find(({ name }) => name === 'memory')
    for (const side of ['capstan', 'etcd']) {
      const restarted = of(side, 'memory-restarted')
      if (memory && restarted)
        console.log(
          `memory of ${side}: after filling ${of(side, 'memory')?.last.note}; after a restart RSS ${figure(restarted.median)} MiB`,
        )
    }
  }
}

function longestGap(atMs: readonly number[], fromMs: number, toMs: number): number {
  let longest = 0
  let last = fromMs
  for (const at of [...atMs.filter((one) => one > fromMs && one < toMs), toMs]) {
    longest = Math.max(longest, at - last)
    last = at
  }
  return longest
}

/** The part of `count` that the `at`th of `of` gets. */
function share(count: number, of: number, at: number): number {
  return Math.floor((count * (at + 1)) / of) - Math.floor((count * at) / of)
}

function figure(value: number): string {
  return value >= 100 ? String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ',') : value.toFixed(value >= 10 ? 1 : 2)
}

function describeCpu({ cpu, value }: Sample): string {
  if (!cpu) return ''
  const beside = cpu.beside > 0 ? `, bus ${cpu.beside.toFixed(2)}` : ''
  const perOperation = ((cpu.clients + cpu.members + cpu.beside) / value) * 1e6
  return `  cores: clients ${cpu.clients.toFixed(2)}, members ${cpu.members.toFixed(2)}${beside}; ${perOperation.toFixed(1)} µs each`
}

function cores(sample: Sample | undefined): string {
  if (!sample?.cpu) return '-'
  const { clients, members, beside } = sample.cpu
  return [clients, members, ...(beside > 0 ? [beside] : [])].map((one) => one.toFixed(2)).join(' + ')
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
