import { RaftNode } from './raft-node.js'
import { seeded } from './test-cluster.js'
import type { LogEntry, MemberId, RaftMessage, RaftOptions, Ready } from './types.js'

const TICK_MS = 20
export const NAMES = ['a', 'b', 'c'] as const

export interface TimedOptions {
  /** Ticks every so many ms, or only when `nextTickMs` asks for one, on whole ms. Default 20. */
  tickMs?: number | 'asked'
  /** A send to a member that is gone comes back after a ms as `peerUnreachable`. */
  hints?: boolean
  node?: Partial<RaftOptions>
  /** Told of each message as it leaves. */
  onSend?: (message: RaftMessage, nowMs: number) => void
}

/**
 * Three members in virtual time with the delays of one host: 0.2 to 1.5 ms on the way, 0.5 to 4 ms for a sync. A member that
 * stalls does nothing; what it should have done comes all at once when the stall ends.
 */
export class Timed {
  nowMs = 0
  private queue: { atMs: number; order: number; run: () => void }[] = []
  private order = 0
  readonly nodes = new Map<MemberId, RaftNode>()
  private readonly stalledUntil = new Map<MemberId, number>()
  private readonly diskFree = new Map<MemberId, number>()
  private readonly disks = new Map<MemberId, { term: number; votedFor: string; commit: number; entries: LogEntry[] }>()
  /** Each member's own chance: what one draws does not change what another one gets. */
  private readonly chances = new Map<MemberId, () => number>()
  syncMs = (random: () => number) => 0.5 + 3.5 * random() ** 4
  /** Last time that anybody applied a command. */
  appliedMs = 0

  constructor(
    readonly random: () => number,
    private readonly options: TimedOptions = {},
  ) {
    for (const name of NAMES) this.chances.set(name, seeded(Math.floor(random() * 2 ** 32)))
    for (const name of NAMES) this.boot(name)
  }

  boot(name: MemberId): void {
    const disk = this.disks.get(name) ?? { term: 0, votedFor: '', commit: 0, entries: [] }
    this.disks.set(name, disk)
    const node = new RaftNode({
      member: name,
      configuration: { voters: NAMES, learners: [] },
      random: this.chance(name),
      nowMs: this.nowMs,
      recovered: { hardState: { ...disk }, snapshot: undefined, entries: [...disk.entries] },
      ...this.options.node,
    })
    this.nodes.set(name, node)
    this.diskFree.set(name, this.nowMs)
    const { tickMs = TICK_MS } = this.options
    if (tickMs === 'asked') return this.pump(name, node)
    const tick = () => {
      if (this.nodes.get(name) !== node) return
      node.tick(this.nowMs)
      this.pump(name, node)
      this.at(name, this.nowMs + tickMs, tick)
    }
    this.at(name, tickMs === 1 ? Math.ceil(this.nowMs) : this.nowMs + this.chance(name)() * tickMs, tick)
  }

  /** As a driver does that has nothing else to do. */
  private tickWhenAsked(name: MemberId, node: RaftNode): void {
    const atMs = Math.max(Math.ceil(node.nextTickMs()), Math.floor(this.nowMs) + 1)
    this.at(name, atMs, () => {
      // Something that came since has asked anew.
      if (this.nodes.get(name) !== node || Math.ceil(node.nextTickMs()) > this.nowMs) return
      node.tick(this.nowMs)
      this.pump(name, node)
    })
  }

  private chance(name: MemberId): () => number {
    return this.chances.get(name) as () => number
  }

  hint(name: MemberId, gone: MemberId): void {
    this.act(name, (node) => node.peerUnreachable(gone))
  }

  act(name: MemberId, what: (node: RaftNode) => void): void {
    const node = this.nodes.get(name)
    if (!node) return
    node.tick(this.nowMs)
    what(node)
    this.pump(name, node)
  }

  leader(): MemberId | undefined {
    const leaders = [...this.nodes].filter(([, node]) => node.status().role === 'leader')
    return leaders.sort(([, a], [, b]) => b.status().term - a.status().term)[0]?.[0]
  }

  stall(name: MemberId, ms: number): void {
    this.stalledUntil.set(name, this.nowMs + ms)
  }

  kill(name: MemberId): void {
    this.nodes.delete(name)
    this.stalledUntil.delete(name)
  }

  /** Runs until then, with a proposal every few ms. */
  run(untilMs: number, stop: () => boolean = () => false): void {
    while (!stop()) {
      let best = 0
      for (let i = 1; i < this.queue.length; i++) {
        const [a, b] = [this.queue[i] as Timed['queue'][0], this.queue[best] as Timed['queue'][0]]
        if (a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)) best = i
      }
      const event = this.queue[best]
      if (!event || event.atMs > untilMs) break
      this.queue[best] = this.queue[this.queue.length - 1] as Timed['queue'][0]
      this.queue.pop()
      this.nowMs = event.atMs
      event.run()
    }
    if (!stop()) this.nowMs = untilMs
  }

  propose(): void {
    const leader = this.leader()
    const node = leader === undefined ? undefined : this.nodes.get(leader)
    if (!leader || !node || (this.stalledUntil.get(leader) ?? 0) > this.nowMs) return
    node.tick(this.nowMs)
    node.propose([{ kind: 'command', clientId: '', clientSeq: 0, payload: new Uint8Array(8) }])
    this.pump(leader, node)
  }

  private at(name: MemberId, atMs: number, run: () => void): void {
    const event = {
      atMs: Math.max(atMs, this.nowMs),
      order: this.order++,
      run: () => {
        const until = this.stalledUntil.get(name) ?? 0
        if (until > this.nowMs) this.at(name, until, run)
        else run()
      },
    }
    this.queue.push(event)
  }

  private pump(name: MemberId, node: RaftNode): void {
    for (let ready = node.takeReady(); ready; ready = node.takeReady()) {
      const current: Ready = ready
      this.send(ready.sendNow)
      for (const entry of ready.apply) {
        if (entry.kind === 'command') this.appliedMs = this.nowMs
        node.appliedTo(entry.index)
      }
      // One sync after the other.
      const doneMs =
        Math.max(this.nowMs, this.diskFree.get(name) ?? 0) + (ready.persist ? this.syncMs(this.chance(name)) : 0)
      this.diskFree.set(name, doneMs)
      this.at(name, doneMs, () => {
        if (this.nodes.get(name) !== node) return
        const disk = this.disks.get(name) as NonNullable<ReturnType<typeof this.disks.get>>
        Object.assign(disk, current.persist?.hardState ?? {})
        const first = current.persist?.entries[0]?.index
        if (current.persist && first !== undefined)
          disk.entries.splice(first - 1, disk.entries.length, ...current.persist.entries)
        node.tick(this.nowMs)
        node.persisted(current.number)
        this.send(current.sendAfterPersist)
        this.pump(name, node)
      })
    }
    if (this.options.tickMs === 'asked') this.tickWhenAsked(name, node)
  }

  private send(messages: readonly RaftMessage[]): void {
    for (const message of messages) {
      this.options.onSend?.(message, this.nowMs)
      this.at(message.to, this.nowMs + 0.2 + 1.3 * this.chance(message.from)() ** 3, () => {
        const node = this.nodes.get(message.to)
        if (!node) {
          if (this.options.hints) this.hint(message.from, message.to)
          return
        }
        node.tick(this.nowMs)
        node.step(message)
        this.pump(message.to, node)
      })
    }
  }
}
