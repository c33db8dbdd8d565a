/**
 * A client process of the benchmark of the store, forked by `bench-store-clients.ts`. Does what its parent orders, one order
 * after the other, and ends with it.
 */
import { readFileSync } from 'node:fs'
import { BusError } from '@capstan/actor'
import { NatsBus, silentLog } from '@capstan/real'
import { type Connection, openConnection, type Target } from './bench-store-connection.js'

export type ClientOrder =
  | { kind: 'connect'; target: Target }
  /** `clients` loops, each with one request under way: counts what ends within the measured time. */
  | { kind: 'load'; what: 'put' | 'get'; clients: number; keys: number; seed: number; warmMs: number; runMs: number }
  /** Puts keys `from` to `to` in transactions of `perTxn`, `clients` of them at once. */
  | { kind: 'fill'; from: number; to: number; valueBytes: number; perTxn: number; clients: number }
  | { kind: 'watch'; watchers: number }
  /** Puts on the watched key, `outstanding` under way, at most `windowEvents` ahead of what `progress` says. */
  | { kind: 'write-watched'; outstanding: number; windowEvents: number }
  | { kind: 'progress'; received: number }
  /** Puts so often, whatever becomes of those before, until `stop`. */
  | { kind: 'pace'; perSecond: number }
  | { kind: 'stop' }
  /** The floor of the bus: one process echoes, another asks with so many requests under way. */
  | { kind: 'echo'; target: Target & { side: 'capstan' } }
  | { kind: 'ping'; target: Target & { side: 'capstan' }; outstanding: number; runMs: number }

export type ClientWord =
  | { kind: 'done' }
  | { kind: 'failed'; error: string }
  | {
      kind: 'loaded'
      operations: number
      failures: number
      elapsedMs: number
      latenciesMs: Float32Array
      error?: string
    }
  | { kind: 'watched'; received: number; lost: number; why: string }
  /** Milliseconds since the epoch (of the machine's monotonic clock in effect) at which writes were acknowledged. */
  | { kind: 'paced'; acknowledgedMs: Float64Array; failures: number }
  | { kind: 'pinged'; perSecond: number }

export const KEY_BYTES = 32
export const VALUE_BYTES = 256
const CALL_MS = 10_000
const OUTSTANDING_MAX = 4000
const FILL_CALL_MS = 60_000
const FILL_PAUSE_MS = 200
const FILL_TRIES_MAX = 20
const WATCHED = keyOf(0)
const REPORT_MS = 20

export function keyOf(number: number): Uint8Array {
  return Buffer.from(`/bench/${String(number).padStart(KEY_BYTES - 7, '0')}`)
}

/** Values that do not compress, and differ. */
function valueOf(bytes: number, seed: number): Buffer {
  const value = Buffer.alloc(bytes)
  const random = randomOf(seed)
  for (let at = 0; at + 4 <= bytes; at += 4) value.writeUInt32LE(random(), at)
  return value
}

function randomOf(seed: number): () => number {
  let state = (seed * 2654435761 + 1) >>> 0
  // xorshift32
  return () => {
    state ^= state << 13
    state >>>= 0
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state
  }
}

const now = () => performance.timeOrigin + performance.now()

class ClientProcess {
  private connection: Connection | undefined
  private stopped = false
  private delivered = 0
  private received = 0
  private lost = 0
  private why = ''
  private readonly wake: (() => void)[] = []

  async carryOut(order: ClientOrder): Promise<void> {
    switch (order.kind) {
      case 'connect':
        await this.connection?.close()
        this.connection = await openConnection(order.target)
        return this.say({ kind: 'done' })
      case 'load':
        return this.say(await this.load(order))
      case 'fill':
        await this.fill(order)
        return this.say({ kind: 'done' })
      case 'watch':
        return this.watch(order.watchers)
      case 'write-watched':
        return this.writeWatched(order)
      case 'progress':
        this.delivered = order.received
        this.wakeAll()
        return
      case 'pace':
        return this.pace(order.perSecond)
      case 'stop':
        this.stopped = true
        this.wakeAll()
        return
      case 'echo': {
        const bus = await floorBus(order.target, 'echo')
        bus.subscribe(FLOOR_SUBJECT, ({ replyTo, payload }) => replyTo && bus.publish(replyTo, payload))
        return this.say({ kind: 'done' })
      }
      case 'ping':
        return this.say({ kind: 'pinged', perSecond: await ping(order) })
    }
  }

  say(word: ClientWord): void {
    process.send?.(word)
  }

  private get open(): Connection {
    if (!this.connection) throw new Error('not connected')
    return this.connection
  }

  private async load(order: ClientOrder & { kind: 'load' }): Promise<ClientWord> {
    const connection = this.open
    const value = valueOf(VALUE_BYTES, order.seed)
    const keys = Array.from({ length: order.keys }, (_, at) => keyOf(at))
    const random = randomOf(order.seed)
    const latencies: number[] = []
    let failures = 0
    let error: string | undefined
    const startedMs = performance.now()
    const measureMs = startedMs + order.warmMs
    const endMs = measureMs + order.runMs
    const loop = async () => {
      for (let beginMs = performance.now(); beginMs < endMs; ) {
        const key = keys[random() % keys.length] as Uint8Array
        try {
          if (order.what === 'put') await connection.put(key, value, CALL_MS)
          else await connection.get(key, CALL_MS)
        } catch (failure) {
          failures++
          error = String(failure)
        }
        const doneMs = performance.now()
        if (doneMs >= measureMs && doneMs < endMs) latencies.push(doneMs - beginMs)
        beginMs = doneMs
      }
    }
    await Promise.all(Array.from({ length: order.clients }, loop))
    return {
      kind: 'loaded',
      operations: latencies.length,
      failures,
      elapsedMs: order.runMs,
      latenciesMs: Float32Array.from(latencies),
      ...(error === undefined ? {} : { error }),
    }
  }

  private async fill(order: ClientOrder & { kind: 'fill' }): Promise<void> {
    let next = order.from
    const loop = async () => {
      while (next < order.to) {
        const first = next
        next = Math.min(order.to, next + order.perTxn)
        const pairs: [Uint8Array, Uint8Array][] = []
        for (let at = first; at < next; at++) pairs.push([keyOf(at), valueOf(order.valueBytes, at)])
        await this.insist(() => this.open.putMany(pairs, FILL_CALL_MS))
      }
    }
    await Promise.all(Array.from({ length: order.clients }, loop))
  }

  /** Of what may be done twice: an election meanwhile, on a machine that is full to the brim, does not end the benchmark. */
  private async insist(work: () => Promise<unknown>): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await work()
        return
      } catch (error) {
        if (tries === FILL_TRIES_MAX) throw error
        await new Promise((resolve) => setTimeout(resolve, FILL_PAUSE_MS))
      }
    }
  }

  private async watch(watchers: number): Promise<void> {
    this.stopped = false
    this.received = 0
    this.lost = 0
    const report = () => this.say({ kind: 'watched', received: this.received, lost: this.lost, why: this.why })
    await this.open.watch(
      WATCHED,
      watchers,
      (events) => (this.received += events),
      (why) => {
        if (this.stopped) return
        this.lost++
        this.why = why
      },
    )
    this.say({ kind: 'done' })
    const timer = setInterval(() => {
      if (this.stopped) clearInterval(timer)
      report()
    }, REPORT_MS)
  }

  /** The next put leaves when one is acknowledged and the watchers are not too far behind. */
  private async writeWatched(order: ClientOrder & { kind: 'write-watched' }): Promise<void> {
    this.stopped = false
    this.delivered = 0
    const value = valueOf(VALUE_BYTES, 1)
    let written = 0
    const loop = async () => {
      while (!this.stopped) {
        if (written - this.delivered < order.windowEvents) {
          written++
          await this.open.put(WATCHED, value, CALL_MS)
        } else await new Promise<void>((resolve) => this.wake.push(resolve))
      }
    }
    await Promise.all(Array.from({ length: order.outstanding }, loop))
    this.say({ kind: 'done' })
  }

  private wakeAll(): void {
    for (const wake of this.wake.splice(0)) wake()
  }

  private async pace(perSecond: number): Promise<void> {
    this.stopped = false
    const acknowledged: number[] = []
    const value = valueOf(VALUE_BYTES, 1)
    let outstanding = 0
    let failures = 0
    let sent = 0
    const startedMs = performance.now()
    while (!this.stopped) {
      const due = Math.floor(((performance.now() - startedMs) / 1000) * perSecond)
      for (; sent < due; sent++) {
        // What a cluster that does not answer leaves undone is left out.
        if (outstanding >= OUTSTANDING_MAX) continue
        outstanding++
        this.open.put(keyOf(sent % 1000), value, CALL_MS).then(
          () => {
            outstanding--
            acknowledged.push(now())
          },
          () => {
            outstanding--
            failures++
          },
        )
      }
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    this.say({ kind: 'paced', acknowledgedMs: Float64Array.from(acknowledged), failures })
  }
}

const FLOOR_ROOT = 'capstan.bench.floor'
const FLOOR_SUBJECT = `${FLOOR_ROOT}.ask`
export const FLOOR_GRANTS = { publish: [`${FLOOR_ROOT}.>`], subscribe: [`${FLOOR_ROOT}.>`] }

function floorBus(target: Target & { side: 'capstan' }, name: string): Promise<NatsBus> {
  return NatsBus.connect({
    servers: target.servers,
    identity: 'admin~floor',
    inbox: `${FLOOR_ROOT}.inbox.${name}`,
    grants: FLOOR_GRANTS,
    credentials: readFileSync(target.credentials),
    log: silentLog,
  })
}

async function ping(order: ClientOrder & { kind: 'ping' }): Promise<number> {
  const bus = await floorBus(order.target, 'ping')
  const payload = valueOf(KEY_BYTES + VALUE_BYTES, 1)
  // The server may not know yet that the other one listens.
  for (let heard = false; !heard; )
    heard = await bus.request(FLOOR_SUBJECT, payload, { timeoutMs: CALL_MS }).then(
      () => true,
      async (error: unknown) => {
        if (!(error instanceof BusError) || error.code !== 'NO_RESPONDERS') throw error
        await new Promise((resolve) => setTimeout(resolve, 10))
        return false
      },
    )
  const startedMs = performance.now()
  let count = 0
  const loop = async () => {
    while (performance.now() - startedMs < order.runMs) {
      await bus.request(FLOOR_SUBJECT, payload, { timeoutMs: CALL_MS })
      count++
    }
  }
  await Promise.all(Array.from({ length: order.outstanding }, loop))
  const perSecond = (count / (performance.now() - startedMs)) * 1000
  await bus.close()
  return perSecond
}

if (process.send) {
  const client = new ClientProcess()
  process.on('message', (order: ClientOrder) => {
    client.carryOut(order).catch((error: unknown) => client.say({ kind: 'failed', error: String(error) }))
  })
  process.on('disconnect', () => process.exit(0))
  // Ctrl-C reaches the whole group: the parent ends us in order.
  process.on('SIGINT', () => {})
}
