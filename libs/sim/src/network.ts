import type { BusMessage } from '@capstan/actor'
import type { SimBus } from './sim-bus.js'
import type { SimRandom } from './sim-random.js'
import type { Trace } from './trace.js'

/** How messages from one machine to another fare. Probabilities 0…1, delays in ms. */
export interface LinkCondition {
  delayMs: [low: number, high: number]
  loss: number
  duplicate: number
  cut: boolean
}

const PAYLOAD_BYTES_MAX = 1024 * 1024

/**
 * The broker and the wires: who hears what, when. Within one connection and one receiver order holds (a NATS connection is
 * a stream); what a link loses or doubles, and for how long it delays, the seed says.
 */
export class Network {
  readonly payloadBytesMax = PAYLOAD_BYTES_MAX
  readonly normal: LinkCondition = { delayMs: [0.05, 0.8], loss: 0, duplicate: 0, cut: false }
  readonly counters = { sent: 0, delivered: 0, lost: 0, duplicated: 0 }
  private readonly links = new Map<string, LinkCondition>()
  private readonly connections = new Set<SimBus>()
  /** Sender and receiver → when the last message between them arrives. */
  private readonly arrivals = new Map<SimBus, Map<SimBus, number>>()

  constructor(
    private readonly random: SimRandom,
    private readonly trace: Trace,
    private readonly nowMs: () => number,
    private readonly schedule: (atMs: number, machine: string, run: () => void) => void,
  ) {}

  join(connection: SimBus): void {
    this.connections.add(connection)
  }

  leave(connection: SimBus): void {
    this.connections.delete(connection)
    this.arrivals.delete(connection)
    for (const times of this.arrivals.values()) times.delete(connection)
  }

  /** Connections of one machine, in order of identity. */
  of(machine: string): SimBus[] {
    return [...this.connections].filter((c) => c.host.machine === machine).sort((a, b) => (a.inbox < b.inbox ? -1 : 1))
  }

  /** The condition from one machine to another; changes of what is returned are in force at once. */
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

  send(from: SimBus, message: BusMessage): void {
    this.counters.sent++
    this.trace.add('send', this.nowMs(), from.host.machine, message.subject, message.payload)
    let listeners = 0
    // The set's order is that of joining: the same in each run.
    for (const to of this.connections) {
      if (!to.listensTo(message.subject)) continue
      listeners++
      this.transmit(from, to, message)
    }
    if (listeners === 0 && message.replyTo?.startsWith(`${from.inbox}.`))
      this.arrive(
        from,
        from,
        { subject: message.replyTo, payload: new Uint8Array(0), replyTo: undefined, noResponders: true },
        this.normal,
      )
  }

  private transmit(from: SimBus, to: SimBus, message: BusMessage): void {
    const condition =
      from.host.machine === to.host.machine ? this.normal : this.link(from.host.machine, to.host.machine)
    if (condition.cut || (condition.loss > 0 && this.random.chance(condition.loss)) || to.overloaded) {
      this.counters.lost++
      return
    }
    this.arrive(from, to, message, condition)
    if (condition.duplicate > 0 && this.random.chance(condition.duplicate)) {
      this.counters.duplicated++
      this.arrive(from, to, message, condition)
    }
  }

  private arrive(from: SimBus, to: SimBus, message: BusMessage, condition: LinkCondition): void {
    const [low, high] = from.host.machine === to.host.machine ? [0.01, 0.05] : condition.delayMs
    let times = this.arrivals.get(from)
    if (!times) {
      times = new Map()
      this.arrivals.set(from, times)
    }
    const atMs = Math.max(times.get(to) ?? 0, this.nowMs() + this.random.between(low, high))
    times.set(to, atMs)
    to.pending++
    this.schedule(atMs, to.host.machine, () => {
      to.pending--
      // Cut while it was on its way: it does not arrive.
      if (from.host.machine !== to.host.machine && this.link(from.host.machine, to.host.machine).cut) {
        this.counters.lost++
        return
      }
      if (!to.host.alive) return
      this.counters.delivered++
      to.receive(message)
    })
  }
}
