import { RaftLog } from './log.js'
import { RaftNode } from './raft-node.js'
import { seeded } from './test-cluster.js'
import { CrashDisk } from './testing.js'
import type { MemberId, RaftMessage, RaftPlantedBug } from './types.js'

const NAMES = ['a', 'b', 'c']
const encoder = new TextEncoder()
const decoder = new TextDecoder()

interface Member {
  node: RaftNode
  log: RaftLog
  /** Why it stopped, if it did. */
  failure: unknown
  applied: string[]
}

/**
 * Three members with the real log, each on a disk in memory; messages arrive at once and in order. The state machine is the
 * list of all commands, built anew from the log at each start.
 */
export class DiskCluster {
  readonly members = new Map<MemberId, Member>()
  /** Told to a client as done. */
  readonly acknowledged: string[] = []
  nowMs = 0
  private readonly network: RaftMessage[] = []
  private readonly waiting: { member: Member; index: number; term: number; text: string }[] = []
  private readonly committed = new Map<number, string>()
  private readonly random = seeded(1)

  constructor(
    readonly disks: Map<MemberId, CrashDisk> = new Map(NAMES.map((name) => [name, new CrashDisk()])),
    private readonly bugs: RaftPlantedBug[] = [],
  ) {}

  disk(name: MemberId): CrashDisk {
    return this.disks.get(name) as CrashDisk
  }

  /** @throws LogDamaged, unless `salvage`; whatever the disk throws */
  async start(name: MemberId, salvage = false): Promise<void> {
    const planted = { plantedBugs: this.bugs, allowPlantedBugs: true }
    const { log, recovered } = await RaftLog.open(this.disk(name), { segmentBytes: 4096, salvage, ...planted })
    const node = new RaftNode({
      member: name,
      configuration: { voters: NAMES, learners: [] },
      random: this.random,
      nowMs: this.nowMs,
      recovered,
      forgetful: recovered.lost !== undefined,
      ...planted,
    })
    this.members.set(name, { node, log, failure: undefined, applied: [] })
  }

  async stop(name: MemberId): Promise<void> {
    const member = this.members.get(name)
    this.members.delete(name)
    await member?.log.close()
  }

  leader(): Member | undefined {
    const leaders = this.up().filter(({ node }) => node.status().role === 'leader')
    return leaders.sort((a, b) => b.node.status().term - a.node.status().term)[0]
  }

  up(): Member[] {
    return [...this.members.values()].filter(({ failure }) => failure === undefined)
  }

  propose(text: string): void {
    const member = this.leader()
    const payload = encoder.encode(text.padEnd(60, '.'))
    const result = member?.node.propose([{ kind: 'command', clientId: '', clientSeq: 0, payload }])
    if (member && result?.accepted) this.waiting.push({ member, index: result.firstIndex, term: result.term, text })
  }

  /** 10 ms, in which all that is on its way arrives and all disks do all that they are asked to. */
  async turn(): Promise<void> {
    this.nowMs += 10
    for (const { node } of this.up()) node.tick(this.nowMs)
    for (let quiet = 0; quiet < 12; quiet++) {
      for (const member of this.up()) this.pump(member)
      for (const message of this.network.splice(0)) {
        const member = this.members.get(message.to)
        if (member?.failure !== undefined || !member) continue
        quiet = 0
        member.node.step(message)
        this.pump(member)
      }
      await Promise.resolve()
    }
  }

  /** False: it did not come to that. */
  async until(done: () => boolean, turns = 400): Promise<boolean> {
    for (let turn = 0; turn < turns && !done(); turn++) await this.turn()
    return done()
  }

  private pump(member: Member): void {
    const { node, log } = member
    for (let next = node.takeReady(); next; next = node.takeReady()) {
      const ready = next
      this.network.push(...ready.sendNow)
      for (const entry of ready.apply) {
        const text = entry.kind === 'command' ? decoder.decode(entry.payload).replace(/\.+$/, '') : ''
        const known = this.committed.get(entry.index)
        if (known !== undefined && known !== `${entry.term} ${text}`)
          throw new Error(`state machine safety: entry ${entry.index} is ${entry.term} ${text}, and was ${known}`)
        this.committed.set(entry.index, `${entry.term} ${text}`)
        if (text !== '') member.applied.push(text)
        node.appliedTo(entry.index)
        const done = this.waiting.findIndex((w) => w.member === member && w.index === entry.index)
        if (done >= 0 && this.waiting[done]?.term === entry.term) this.acknowledged.push(text)
      }
      const durable = ready.persist ? log.append(ready.persist) : log.append({ entries: [] })
      durable.then(
        () => {
          if (member.failure !== undefined) return
          node.persisted(ready.number)
          this.network.push(...ready.sendAfterPersist)
        },
        (error: unknown) => {
          member.failure ??= error
        },
      )
    }
  }
}
