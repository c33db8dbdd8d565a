import type { BusMessage } from '@capstan/actor'
import { SubjectTree } from '@capstan/protocol'
import type { Listener, SimBus } from './sim-bus.js'
import type { SimRandom } from './sim-random.js'
import type { Trace } from './trace.js'

/** How messages from one machine to another fare. Probabilities 0…1, delays in ms. */
export interface LinkCondition {
  delayMs: [low: number, high: number]
  loss: number
  duplicate: number
  /** Messages on different subjects may overtake each other: all that a bus promises is the order on one subject. */
  reorder: boolean
  cut: boolean
}

const PAYLOAD_BYTES_MAX = 1024 * 1024
/** Subjects whose listeners are remembered; others are looked up each time. */
const FOUND_MAX = 1024
const LOCAL_DELAY_MS = [0.01, 0.05] as const

/** When the last messages from one connection to another arrive. */
interface Arrivals {
  lastMs: number
  /** While the link reorders: by subject. */
  bySubject: Map<string, number> | undefined
  /** What was on its way when reordering began arrives before all that came after. */
  floorMs: number
}

/**
 * The broker and the wires: who hears what, when. Order holds within one connection's epoch, one receiver and one subject
 * (as a rule across subjects too: a NATS connection is a stream); what a link loses or doubles, and for how long it
 * delays, the seed says.
 */
export class Network {
  readonly payloadBytesMax = PAYLOAD_BYTES_MAX
  readonly normal: LinkCondition = { delayMs: [0.05, 0.8], loss: 0, duplicate: 0, reorder: false, cut: false }
  readonly counters = { sent: 0, delivered: 0, lost: 0, duplicated: 0, slowConsumers: 0 }
  private readonly links = new Map<string, LinkCondition>()
  private readonly connections = new Set<SimBus>()
  private joined = 0
  private readonly listeners = new SubjectTree<Listener>()
  /** Who hears a subject, as long as nobody comes or goes: most messages go where others went. */
  private readonly found = new Map<string, Listener[]>()
  /** Until when the bus server beside a machine stands still, virtual time. */
  private readonly stalled = new Map<string, number>()
  private readonly arrivals = new Map<SimBus, Map<SimBus, Arrivals>>()

  constructor(
    private readonly random: SimRandom,
    private readonly trace: Trace,
    private readonly nowMs: () => number,
  ) {}

  /** Gives the connection its number. */
  join(connection: SimBus): number {
    this.connections.add(connection)
    return ++this.joined
  }

  leave(connection: SimBus): void {
    this.connections.delete(connection)
    this.forgetOrder(connection)
    for (const times of this.arrivals.values()) times.delete(connection)
  }

  add(listener: Listener): void {
    this.listeners.add(listener.pattern, listener)
    this.found.clear()
  }

  remove(listener: Listener): void {
    this.listeners.remove(listener.pattern, listener)
    this.found.clear()
  }

  /** A new epoch of the sender: what is still on its way may be overtaken. */
  forgetOrder(connection: SimBus): void {
    this.arrivals.delete(connection)
  }

  /** Connections of one machine, in order of inbox. */
  of(machine: string): SimBus[] {
    return [...this.connections].filter((c) => c.host.machine === machine).sort((a, b) => (a.inbox < b.inbox ? -1 : 1))
  }

  /** The condition from one machine to another; changes of what is returned are in force at once, until `heal`. */
  link(from: string, to: string): LinkCondition {
    const key = `${from}>${to}`
    let condition = this.links.get(key)
    if (!condition) {
      condition = { ...this.normal, delayMs: [...this.normal.delayMs] }
      this.links.set(key, condition)
    }
    return condition
  }

  /** All links as they were at first. */
  heal(): void {
    this.links.clear()
  }

  /** The bus server beside a machine stands still: what its connections send and are sent waits for so long. */
  stall(machine: string, durationMs: number): void {
    this.stalled.set(machine, this.nowMs() + durationMs)
  }

  send(from: SimBus, message: BusMessage): void {
    this.counters.sent++
    this.trace.add('send', this.nowMs(), from.host.machine, message.subject, message.payload)
    const receivers = new Map<SimBus, Listener[]>()
    for (const listener of this.find(message.subject)) {
      const list = receivers.get(listener.bus)
      if (list) list.push(listener)
      else receivers.set(listener.bus, [listener])
    }
    // By the order in which they joined: the same in each run.
    const order = receivers.size > 1 ? [...receivers.keys()].sort((a, b) => a.number - b.number) : receivers.keys()
    for (const to of order) this.transmit(from, to, message, receivers.get(to) as Listener[])
    if (receivers.size > 0 || !message.replyTo?.startsWith(`${from.inbox}.`)) return
    const word: BusMessage = {
      subject: message.replyTo,
      payload: new Uint8Array(0),
      replyTo: undefined,
      noResponders: true,
    }
    const own = this.listeners.find(message.replyTo).filter((listener) => listener.bus === from)
    if (own.length > 0) this.arrive(from, from, word, own, this.normal)
  }

  private find(subject: string): Listener[] {
    let listeners = this.found.get(subject)
    if (listeners) return listeners
    listeners = this.listeners.find(subject)
    if (this.found.size < FOUND_MAX) this.found.set(subject, listeners)
    return listeners
  }

  private transmit(from: SimBus, to: SimBus, message: BusMessage, listeners: Listener[]): void {
    const condition =
      from.host.machine === to.host.machine ? this.normal : this.link(from.host.machine, to.host.machine)
    if (condition.cut || (condition.loss > 0 && this.random.chance(condition.loss))) {
      this.counters.lost++
      return
    }
    this.arrive(from, to, message, listeners, condition)
    if (condition.duplicate > 0 && this.random.chance(condition.duplicate)) {
      this.counters.duplicated++
      this.arrive(from, to, message, listeners, condition)
    }
  }

  private arrive(from: SimBus, to: SimBus, message: BusMessage, listeners: Listener[], condition: LinkCondition): void {
    if (!to.hasRoom(message)) {
      this.counters.lost++
      return
    }
    const isLocal = from.host.machine === to.host.machine
    const [low, high] = isLocal ? LOCAL_DELAY_MS : condition.delayMs
    const drawnMs = this.nowMs() + this.random.between(low, high)
    const stalledMs = Math.max(this.stalled.get(from.host.machine) ?? 0, this.stalled.get(to.host.machine) ?? 0)
    const atMs = this.inOrder(from, to, message.subject, condition, Math.max(drawnMs, stalledMs))
    to.expect(message)
    to.host.at(atMs, 'deliver', () => {
      // Cut while it was on its way: it does not arrive.
      if (!isLocal && this.link(from.host.machine, to.host.machine).cut) {
        this.counters.lost++
        to.lose(message)
        return
      }
      this.counters.delivered++
      to.receive(message, listeners)
    })
  }

  private inOrder(from: SimBus, to: SimBus, subject: string, condition: LinkCondition, atMs: number): number {
    let byReceiver = this.arrivals.get(from)
    if (!byReceiver) this.arrivals.set(from, (byReceiver = new Map()))
    let times = byReceiver.get(to)
    if (!times) byReceiver.set(to, (times = { lastMs: 0, bySubject: undefined, floorMs: 0 }))
    let arrivesMs: number
    if (condition.reorder) {
      if (!times.bySubject) {
        times.bySubject = new Map()
        times.floorMs = times.lastMs
      }
      arrivesMs = Math.max(times.bySubject.get(subject) ?? times.floorMs, atMs)
      times.bySubject.set(subject, arrivesMs)
    } else {
      times.bySubject = undefined
      arrivesMs = Math.max(times.lastMs, atMs)
    }
    times.lastMs = Math.max(times.lastMs, arrivesMs)
    return arrivesMs
  }
}
