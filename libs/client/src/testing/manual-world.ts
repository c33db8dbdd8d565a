import {
  type Bus,
  BusError,
  type BusMessage,
  type Clock,
  type Disk,
  type Log,
  type Random,
  type Timer,
  type World,
} from '@capstan/actor'
import { subjectFits } from '@capstan/protocol'

/** Microtasks between two timers; a chain of promises longer than this would look stuck. */
const TURN_MICROTASKS = 120

/** Virtual time that only `advance` moves. Timers run in order of (due time, order of setting). */
export class ManualClock implements Clock {
  private readonly timers: { dueMs: number; order: number; run: () => void; cancelled: boolean }[] = []
  private order = 0
  private atMs = 0

  constructor(private readonly epochMs = 1_893_456_000_000) {}

  nowMs(): number {
    return this.epochMs + Math.floor(this.atMs)
  }

  monotonicMs(): number {
    return this.atMs
  }

  setTimer(delayMs: number, run: () => void): Timer {
    const timer = { dueMs: this.atMs + Math.max(0, delayMs), order: this.order++, run, cancelled: false }
    let at = this.timers.length
    while (at > 0 && (this.timers[at - 1] as typeof timer).dueMs > timer.dueMs) at--
    this.timers.splice(at, 0, timer)
    return {
      cancel: () => {
        timer.cancelled = true
      },
    }
  }

  defer(run: () => void): void {
    this.setTimer(0, run)
  }

  /** Runs everything that falls due within `ms`, microtasks drained after each timer. */
  async advance(ms: number): Promise<void> {
    const until = this.atMs + ms
    await drain()
    for (let next = this.timers[0]; next && next.dueMs <= until; next = this.timers[0]) {
      this.timers.shift()
      if (next.cancelled) continue
      this.atMs = Math.max(this.atMs, next.dueMs)
      next.run()
      await drain()
    }
    this.atMs = until
  }

  /** Time passes as in a process that does not run: what fell due meanwhile runs at the end, all at once. */
  async stall(ms: number): Promise<void> {
    this.atMs += ms
    await this.advance(0)
  }

  /** Advances by steps until `condition` holds. @throws Error if it does not within `withinMs`. */
  async until(condition: () => boolean, withinMs = 60_000, stepMs = 50): Promise<void> {
    const end = this.atMs + withinMs
    await drain()
    while (!condition()) {
      if (this.atMs >= end) throw new Error(`condition did not hold within ${withinMs} ms: ${condition}`)
      await this.advance(stepMs)
    }
  }
}

async function drain(): Promise<void> {
  for (let turn = 0; turn < TURN_MICROTASKS; turn++) await Promise.resolve()
}

/** A small seeded generator (splitmix32): for tests, not for secrets. */
export class SeededRandom implements Random {
  private state: number

  constructor(private readonly seed: number) {
    this.state = seed | 0
  }

  next(): number {
    this.state = (this.state + 0x9e3779b9) | 0
    let z = this.state ^ (this.state >>> 16)
    z = Math.imul(z, 0x21f0aaad)
    z ^= z >>> 15
    z = Math.imul(z, 0x735a2d97)
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32
  }

  int(bound: number): number {
    return Math.floor(this.next() * bound)
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.int(256))
  }

  fork(name: string): Random {
    let hash = this.seed | 0
    for (let at = 0; at < name.length; at++) hash = Math.imul(hash ^ name.charCodeAt(at), 0x01000193)
    return new SeededRandom(hash)
  }
}

export interface LogLine {
  level: 'debug' | 'info' | 'warn' | 'error'
  text: string
  fields: Record<string, unknown>
}

/** Keeps the last 2,000 lines. */
export class MemoryLog implements Log {
  constructor(
    readonly lines: LogLine[] = [],
    private readonly base: object = {},
  ) {}
  debug(fields: object, text: string): void {
    this.write('debug', fields, text)
  }
  info(fields: object, text: string): void {
    this.write('info', fields, text)
  }
  warn(fields: object, text: string): void {
    this.write('warn', fields, text)
  }
  error(fields: object, text: string): void {
    this.write('error', fields, text)
  }
  child(fields: object): Log {
    return new MemoryLog(this.lines, { ...this.base, ...fields })
  }
  private write(level: LogLine['level'], fields: object, text: string): void {
    if (this.lines.length >= 2000) this.lines.shift()
    this.lines.push({ level, text, fields: { ...this.base, ...fields } })
  }
}

/** A broker in memory: messages arrive after `delayMs` on the clock; nothing is lost unless a test says so. */
export class MemoryBroker {
  readonly connections: MemoryBus[] = []
  delayMs = 0
  /** Tests: a message for which this says true is lost on its way to this identity. */
  lose: (message: BusMessage, toIdentity: string) => boolean = () => false

  constructor(readonly clock: Clock) {}

  connect(identity: string, root = 'capstan.c1'): MemoryBus {
    const bus = new MemoryBus(this, identity, `${root}.inbox.${identity}.i${this.connections.length}`)
    this.connections.push(bus)
    return bus
  }
}

export class MemoryBus implements Bus {
  readonly payloadBytesMax = 1024 * 1024
  epoch = 1
  connected = true
  private readonly subscriptions = new Set<{ pattern: string; receive: (message: BusMessage) => void }>()
  private readonly listeners = new Set<(state: { connected: boolean; epoch: number }) => void>()

  constructor(
    private readonly broker: MemoryBroker,
    readonly identity: string,
    readonly inbox: string,
  ) {}

  publish(subject: string, payload: Uint8Array, options: { replyTo?: string } = {}): void {
    if (!this.connected) throw new BusError('DISCONNECTED', 'not connected')
    const message: BusMessage = { subject, payload, replyTo: options.replyTo }
    this.broker.clock.setTimer(this.broker.delayMs, () => {
      let heard = false
      for (const bus of this.broker.connections) heard = bus.deliver(message) || heard
      if (!heard && options.replyTo !== undefined)
        this.deliver({ subject: options.replyTo, payload: new Uint8Array(), replyTo: undefined, noResponders: true })
    })
  }

  subscribe(pattern: string, receive: (message: BusMessage) => void): { unsubscribe(): void } {
    const subscription = { pattern, receive }
    this.subscriptions.add(subscription)
    return { unsubscribe: () => void this.subscriptions.delete(subscription) }
  }

  request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<BusMessage> {
    return new Promise((resolve, reject) => {
      const replyTo = `${this.inbox}.r${subject.length}.${this.broker.clock.monotonicMs()}`
      const done = (settle: () => void) => {
        timer.cancel()
        subscription.unsubscribe()
        settle()
      }
      const subscription = this.subscribe(replyTo, (message) =>
        done(() => (message.noResponders ? reject(new BusError('NO_RESPONDERS', 'nobody listens')) : resolve(message))),
      )
      const timer = this.broker.clock.setTimer(options.timeoutMs, () =>
        done(() => reject(new BusError('TIMEOUT', 'no answer'))),
      )
      this.publish(subject, payload, { replyTo })
    })
  }

  onChange(listener: (state: { connected: boolean; epoch: number }) => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /** Tests: the connection breaks or is made again. */
  setConnected(connected: boolean): void {
    if (this.connected === connected) return
    this.connected = connected
    if (connected) this.epoch++
    for (const listener of Array.from(this.listeners)) listener({ connected, epoch: this.epoch })
  }

  async close(): Promise<void> {
    this.setConnected(false)
    this.subscriptions.clear()
  }

  deliver(message: BusMessage): boolean {
    if (!this.connected) return false
    let heard = false
    for (const { pattern, receive } of Array.from(this.subscriptions)) {
      if (!subjectFits(pattern, message.subject)) continue
      heard = true
      if (!this.broker.lose(message, this.identity)) receive(message)
    }
    return heard
  }
}

export interface ManualWorld extends World {
  readonly clock: ManualClock
  readonly bus: MemoryBus
  readonly log: MemoryLog
}

/** A world for unit tests: time moves by `clock.advance` only, chance from a seed, a bus in memory, no disk. */
export function manualWorld(
  options: { seed?: number; clock?: ManualClock; broker?: MemoryBroker; identity?: string } = {},
): ManualWorld {
  const clock = options.clock ?? new ManualClock()
  const broker = options.broker ?? new MemoryBroker(clock)
  const disk = new Proxy({} as Disk, {
    get: () => () => Promise.reject(new Error('a manual world has no disk: use libs/sim')),
  })
  return {
    clock,
    random: new SeededRandom(options.seed ?? 1),
    bus: broker.connect(options.identity ?? 'controller-manager~m0'),
    disk,
    log: new MemoryLog(),
  }
}
