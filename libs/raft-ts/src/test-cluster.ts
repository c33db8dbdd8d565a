import { RaftNode } from './raft-node.js'
import type {
  Configuration,
  HardState,
  LogEntry,
  MemberChange,
  MemberId,
  RaftMessage,
  RaftOptions,
  RaftPlantedBug,
  Ready,
  SnapshotMeta,
} from './types.js'

/** Small seeded generator (mulberry32): a test's whole chance. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

interface Member {
  node: RaftNode
  /** What a crash leaves. */
  disk: { hardState: HardState; base: SnapshotMeta | undefined; entries: LogEntry[] }
  /** Readys whose persistence is not done yet. */
  syncing: Ready[]
  /** Chunks of a snapshot that are being written, and what was written of it. */
  chunks: Ready['snapshotChunks']
  received: number[]
  up: boolean
  /** Its directory was lost, and it has not been repaired since. */
  forgetful: boolean
  /** What it is started with where it finds nothing on its disk. */
  configuration: Configuration
}

const emptyDisk = (): Member['disk'] => ({
  hardState: { term: 0, votedFor: '', commit: 0 },
  base: undefined,
  entries: [],
})
/** So few that the loss of one member's memory is the loss of a majority. */
const isSmall = (half: readonly MemberId[]) => half.length === 1 || half.length === 2
const CHUNK_BYTES = 40
/** What a snapshot at `index` holds here: something that shows a chunk in the wrong place. */
const snapshotAt = (index: number) =>
  new TextEncoder().encode(Array.from({ length: 20 }, (_, i) => index * 20 + i).join(' '))

/**
 * Members in one process whose network and disks do as one random stream says. Checks Raft's invariants after each step.
 *
 * Faults that must be survived: messages lost, late, doubled, in any order, also across a restart; members cut off,
 * stalled, crashed with any prefix of their un-synced work done; members added, promoted, demoted and removed, one or more at
 * a time, also while others are down; one directory at a time lost and known to be lost, with the messages of that life
 * kept out (as drivers must), while each majority has at least two members. Not among them: a disk that forgets what it had
 * synced.
 */
export class TestCluster {
  readonly members = new Map<MemberId, Member>()
  /** Who begins the cluster. */
  readonly names: MemberId[]
  /** Who may join it later. */
  private readonly spares: MemberId[]
  nowMs = 0
  private network: RaftMessage[] = []
  /** Committed entries by index, as first applied anywhere: index → term/seq. */
  private readonly committed = new Map<number, string>()
  private readonly leaders = new Map<number, MemberId>()
  private nextRead = 1
  private readonly readFloors = new Map<string, number>()
  readonly counters = {
    proposals: 0,
    reads: 0,
    readsRefused: 0,
    crashes: 0,
    snapshots: 0,
    transfers: 0,
    lost: 0,
    repaired: 0,
    changes: 0,
    joint: 0,
    hints: 0,
    toldLater: 0,
  }
  cut = new Set<string>()
  /** These hear each other, and the others each other. */
  private side: ReadonlySet<MemberId> = new Set()

  constructor(
    private readonly random: () => number,
    private readonly options: {
      size: number
      spares?: number
      bugs?: RaftPlantedBug[]
      lossy?: number
      /** Leases; `rates`: how fast each founder's clock goes (1: right). */
      leases?: { clockDriftMax: number; rates: readonly number[] }
      /** `later`: drivers tell of commits now and then, long after they could have, or never before the next append. */
      commitTold?: RaftOptions['commitTold']
      /** What happens more often than else. */
      mood?: 'elections' | 'members'
    },
  ) {
    this.names = Array.from({ length: options.size }, (_, i) => String.fromCharCode(97 + i))
    this.spares = Array.from({ length: options.spares ?? 0 }, (_, i) => `s${i}`)
    for (const name of this.names) this.boot(name, emptyDisk(), { voters: this.names, learners: [] })
  }

  get status() {
    return [...this.members.values()].map(({ node }) => node.status())
  }

  /** Those that the leader's configuration names. */
  get present() {
    const { voters, learners } = this.leader()?.node.status().configuration ?? { voters: [], learners: [] }
    return [...voters, ...learners].map((name) => (this.members.get(name) as Member).node.status())
  }

  leader(): Member | undefined {
    const leaders = [...this.members.values()].filter((m) => m.up && m.node.status().role === 'leader')
    return leaders.sort((a, b) => b.node.status().term - a.node.status().term)[0]
  }

  /** Some random thing that the world may do. */
  randomStep(faults: boolean): void {
    const { mood } = this.options
    if (faults && mood && this.random() < 0.12) {
      if (mood === 'elections') this.disturbElection()
      else this.disturbMembers()
      return this.checkInvariants()
    }
    if (this.options.commitTold === 'later' && this.random() < 0.05) this.tellCommits()
    const name = this.pick([...this.members.keys()])
    const member = this.members.get(name) as Member
    // Mostly the network and the disks keep up with time; else there would never be a leader to disturb.
    const dice = this.random() * 1000
    if (dice < 400) for (let n = Math.ceil(this.random() * 12); n > 0; n--) this.deliverOne(faults)
    else if (dice < 650)
      for (const each of this.members.values()) {
        if (this.random() < 0.7) this.syncOne(each)
        if (this.random() < 0.5) this.chunkOne(each)
      }
    else if (dice < 800) this.advance(1 + this.random() * 60, faults)
    else if (dice < 887) this.propose()
    else if (dice < 890) this.hint(member)
    else if (dice < 930) this.read(name)
    else if (dice < 960) this.compact(member)
    else if (dice < 962) this.transfer()
    else if (dice < 965) this.change()
    else if (!faults) this.advance(10)
    else if (dice < 966) this.lose(name)
    else if (dice < 968) this.crash(name)
    else if (dice < 985) this.bootOne()
    else if (dice < 988)
      this.cut = new Set([this.random() < 0.5 ? name : (this.leader()?.node.status().member ?? name)])
    else if (dice < 996) this.cut.clear()
    else if (dice < 998) this.crash(this.leader()?.node.status().member ?? name)
    else this.advance(this.random() * 400, faults)
    this.checkInvariants()
  }

  /** No faults from here on: everything is delivered and synced in turn. */
  calm(steps: number): void {
    this.cut.clear()
    this.side = new Set()
    for (const [name, member] of this.members) if (!member.up) this.boot(name, member.disk)
    for (let i = 0; i < steps; i++) {
      this.advance(10)
      this.tellCommits()
      for (let n = this.network.length; n > 0; n--) this.deliverOne(false)
      for (const member of this.members.values())
        while (member.syncing.length + member.chunks.length > 0) {
          this.syncOne(member)
          this.chunkOne(member)
        }
      this.checkInvariants()
    }
  }

  propose(): boolean {
    const leader = this.leader()
    if (!leader) return false
    this.counters.proposals++
    const payload = new Uint8Array(8)
    new DataView(payload.buffer).setUint32(0, this.counters.proposals)
    const result = leader.node.propose([
      { kind: 'command', clientId: 'client', clientSeq: this.counters.proposals, payload },
    ])
    this.pump(leader)
    return result.accepted
  }

  crash(name: MemberId): void {
    const member = this.members.get(name) as Member
    if (!member.up) return
    this.counters.crashes++
    // What was being synced may have reached the disk up to any point.
    while (member.syncing.length > 0 && this.random() < 0.5) this.keep(member, member.syncing.shift() as Ready)
    member.up = false
    member.syncing = []
    member.chunks = []
  }

  /** The directory is gone: the member comes back empty, knowing that. */
  private lose(name: MemberId): void {
    const all = [...this.members.values()]
    if (all.some((m) => m.forgetful)) return
    // What is not committed may be gone with this very crash, and an older configuration be in force again.
    if (all.some((m) => m.node.status().changePending)) return
    const configurations = all.map((m) => m.node.status().configuration)
    if (configurations.some(({ voters, outgoing }) => isSmall(voters) || (outgoing && isSmall(outgoing)))) return
    this.counters.lost++
    this.crash(name)
    this.network = this.network.filter((m) => m.from !== name)
    const member = this.members.get(name) as Member
    member.forgetful = true
    member.disk = emptyDisk()
  }

  /** Changes one or some members; who joins is started. Not while one is forgetful: that is a member less already. */
  private change(leader = this.leader()): void {
    if (!leader || [...this.members.values()].some((m) => m.forgetful)) return
    const { voters, learners } = leader.node.status().configuration
    const count = this.random() < 0.6 ? 1 : 2 + Math.floor(this.random() * 2)
    const changes = new Map<MemberId, MemberChange>()
    for (let n = 0; n < count; n++) {
      const member = this.pick([...this.names, ...this.spares])
      const types: MemberChange['type'][] = voters.includes(member)
        ? ['demote', 'remove']
        : learners.includes(member)
          ? ['promote', 'promote', 'remove']
          : ['addLearner', 'addVoter', 'addVoter']
      changes.set(member, { type: this.pick(types), member })
    }
    const result = leader.node.changeMembers([...changes.values()])
    if (!result.accepted) return
    this.counters.changes++
    if (result.configuration.outgoing) this.counters.joint++
    for (const [name, { type }] of changes) {
      if (this.members.has(name)) continue
      // One that joins may have been a member before, for all that its driver knows; then it must be a learner first.
      const unsure = type === 'addLearner' && this.random() < 0.5
      this.boot(name, emptyDisk(), { voters: [], learners: [] }, unsure)
    }
    this.pump(leader)
  }

  private bootOne(): void {
    const down = [...this.members].filter(([, { up }]) => !up).map(([name]) => name)
    if (down.length === 0) return
    const name = this.pick(down)
    this.boot(name, (this.members.get(name) as Member).disk)
  }

  /** Somebody restarts at once, or many miss the leader at the same time. */
  private disturbElection(): void {
    const up = [...this.members].filter(([, member]) => member.up)
    const standing = up.filter(([, { node }]) => node.status().role === 'candidate').length
    const asked = up.filter(([, { node }]) => node.status().role === 'follower').map(([name]) => name)
    const dice = this.random()
    if (asked.length > 0 && dice < (standing > 0 ? 0.8 : 0.2)) {
      const name = this.pick(asked)
      this.crash(name)
      this.boot(name, (this.members.get(name) as Member).disk)
    } else if (dice < 0.9)
      for (const member of this.members.values()) {
        const { leader } = member.node.status()
        if (!member.up || leader === undefined || this.random() < 0.3) continue
        member.node.peerUnreachable(leader)
        this.pump(member)
      }
    else this.advance(this.random() * 100, true)
  }

  /** A leader is left with few, and changes who takes part. */
  private disturbMembers(): void {
    const leaders = [...this.members.values()].filter((m) => m.up && m.node.status().role === 'leader')
    const dice = this.random()
    if (leaders.length > 0 && dice < 0.4) this.change(this.pick(leaders))
    else if (dice < 0.55) this.side = new Set([...this.members.keys()].filter(() => this.random() < 0.5))
    else if (dice < 0.65) this.side = new Set()
    else this.advance(this.random() * 400, true)
  }

  /** What every driver does after a while. */
  private tellCommits(): void {
    for (const member of this.members.values()) {
      if (!member.up || !member.node.commitUntold) continue
      this.counters.toldLater++
      member.node.tellCommit()
      this.pump(member)
    }
  }

  /** True or false: someone is said to be out of reach. */
  private hint(member: Member): void {
    if (!member.up) return
    this.counters.hints++
    member.node.peerUnreachable(this.pick([...this.members.keys()]))
    this.pump(member)
  }

  /** What `name`'s own clock shows. */
  private clock(name: MemberId): number {
    return this.nowMs * (this.options.leases?.rates[this.names.indexOf(name)] ?? 1)
  }

  private transfer(): void {
    const leader = this.leader()
    if (!leader?.node.transferLeadership(this.pick([...this.members.keys()]))) return
    this.counters.transfers++
    this.pump(leader)
  }

  boot(name: MemberId, disk: Member['disk'], first?: Configuration, unsure = false): void {
    const former = this.members.get(name)
    if (former?.up) return
    const configuration = first ?? (former as Member).configuration
    const forgetful = former?.forgetful ?? unsure
    disk.entries.forEach((e, i) => {
      if (e.index !== (disk.base?.index ?? 0) + 1 + i)
        throw new Error(
          `disk of ${name}: base ${disk.base?.index}, entries ${disk.entries.map((x) => x.index).join(' ')}`,
        )
    })
    const options: RaftOptions = {
      member: name,
      configuration,
      random: this.random,
      nowMs: this.clock(name),
      ...(this.options.leases ? { leaseReads: this.options.leases } : {}),
      heartbeatMs: 50,
      electionTimeoutMs: 300,
      ...(this.options.commitTold ? { commitTold: this.options.commitTold } : {}),
      recovered: { hardState: disk.hardState, snapshot: disk.base, entries: [...disk.entries] },
      plantedBugs: this.options.bugs ?? [],
      allowPlantedBugs: true,
      forgetful,
    }
    this.members.set(name, {
      node: new RaftNode(options),
      disk,
      syncing: [],
      chunks: [],
      received: [],
      up: true,
      forgetful,
      configuration,
    })
  }

  private advance(ms: number, stalls = false): void {
    this.nowMs += ms
    for (const [name, member] of this.members)
      if (member.up && !(stalls && this.random() < 0.1)) {
        member.node.tick(this.clock(name))
        this.pump(member)
      }
  }

  private deliverOne(faults: boolean): void {
    if (this.network.length === 0) return
    // Mostly the oldest ones.
    const at = faults ? Math.floor(this.random() ** 4 * this.network.length) : 0
    const message = this.network[at] as RaftMessage
    // Doubled now and then: it stays in the network.
    if (!faults || this.random() > 0.05) this.network.splice(at, 1)
    const apart =
      this.cut.has(message.from) ||
      this.cut.has(message.to) ||
      this.side.has(message.from) !== this.side.has(message.to)
    if (faults && (this.random() < (this.options.lossy ?? 0.05) || apart)) return
    const member = this.members.get(message.to)
    if (!member?.up) return
    member.node.step(structuredClone(message))
    this.pump(member)
  }

  read(name: MemberId): void {
    const member = this.members.get(name) as Member
    if (!member.up) return
    const context = this.nextRead++
    this.counters.reads++
    // Linearizable: must come back with at least what had been committed anywhere before it began.
    this.readFloors.set(`${name} ${context}`, Math.max(0, ...this.committed.keys()))
    member.node.readIndex(context, this.clock(name))
    this.pump(member)
  }

  private compact(member: Member): void {
    const { node, disk } = member
    if (!member.up) return
    const { applied, commit } = node.status()
    const meta = node.metaAt(Math.min(applied, commit))
    if (!meta || meta.index <= (disk.base?.index ?? 0) || meta.index > (disk.entries.at(-1)?.index ?? 0)) return
    node.compact(meta.index)
    member.disk.entries = disk.entries.filter((e) => e.index > meta.index)
    member.disk.base = meta
  }

  private pump(member: Member): void {
    for (let ready = member.node.takeReady(); ready; ready = member.node.takeReady()) {
      this.network.push(...ready.sendNow)
      if (this.network.length > 4000) this.network.splice(0, 1000)
      for (const { context, index, refused } of ready.reads) {
        const floor = this.readFloors.get(`${member.node.status().member} ${context}`) ?? 0
        if (refused) this.counters.readsRefused++
        else if (index < floor)
          throw new Error(`stale read: index ${index}, but ${floor} was committed before it began`)
      }
      for (const entry of ready.apply) this.apply(member, entry)
      for (const wanted of ready.snapshotWanted) this.offerSnapshot(member, wanted)
      member.chunks.push(...ready.snapshotChunks)
      member.syncing.push(ready)
      if (member.forgetful && member.node.status().mayVote) {
        member.forgetful = false
        this.counters.repaired++
      }
    }
  }

  private chunkOne(member: Member): void {
    const chunk = member.chunks.shift()
    if (!chunk) return
    const { meta, offset, data, done } = chunk
    if (offset > member.received.length) throw new Error(`chunk at ${offset} after ${member.received.length} bytes`)
    member.received = [...member.received.slice(0, offset), ...data]
    if (!done) member.node.snapshotReceived(meta, offset + data.length)
    else if (meta.index <= member.node.status().applied) member.node.snapshotRefused()
    else {
      if (String(member.received) !== String([...snapshotAt(meta.index)]))
        throw new Error(`snapshot ${meta.index} arrived as something else`)
      this.counters.snapshots++
      member.node.snapshotInstalled(meta)
    }
    this.pump(member)
  }

  private offerSnapshot(member: Member, { to, index, offset }: Ready['snapshotWanted'][number]): void {
    const meta = member.node.metaAt(index === 0 ? member.node.status().applied : index)
    if (!meta) return member.node.snapshotFailed(to)
    const whole = snapshotAt(meta.index)
    const data = whole.slice(offset, offset + CHUNK_BYTES)
    member.node.snapshotChunk(to, { meta, offset, data, done: offset + data.length >= whole.length })
  }

  private syncOne(member: Member): void {
    const ready = member.syncing.shift()
    if (!ready || !member.up) return
    this.keep(member, ready)
    member.node.persisted(ready.number)
    this.network.push(...ready.sendAfterPersist)
    this.pump(member)
  }

  private keep(member: Member, { persist }: Ready): void {
    if (!persist) return
    const { disk } = member
    // The real log takes appends and compactions in one order; here a compaction may have overtaken.
    if (persist.snapshot && persist.snapshot.index > (disk.base?.index ?? 0)) {
      const { index, term } = persist.snapshot
      const goesOn = disk.entries.some((e) => e.index === index && e.term === term)
      disk.entries = goesOn ? disk.entries.filter((e) => e.index > index) : []
      disk.base = persist.snapshot
    }
    if (persist.hardState) disk.hardState = persist.hardState
    const first = persist.entries[0]
    if (first)
      disk.entries = [
        ...disk.entries.filter((e) => e.index < first.index),
        ...persist.entries.filter((e) => e.index > (disk.base?.index ?? 0)),
      ]
  }

  private apply(member: Member, entry: LogEntry): void {
    member.node.appliedTo(entry.index)
    const what = `${entry.term}/${entry.clientSeq}`
    const known = this.committed.get(entry.index)
    // State machine safety (thesis fig. 3.2).
    if (known !== undefined && known !== what)
      throw new Error(`state machine safety: entry ${entry.index} is ${what} here and ${known} elsewhere`)
    this.committed.set(entry.index, what)
  }

  private checkInvariants(): void {
    for (const member of this.members.values()) {
      if (!member.up) continue
      const { role, term, member: name, lastIndex } = member.node.status()
      if (role !== 'leader') continue
      const other = this.leaders.get(term)
      if (other !== undefined && other !== name)
        throw new Error(`election safety: ${other} and ${name} lead in term ${term}`)
      if (other === undefined) {
        this.leaders.set(term, name)
        // Leader completeness, checked when it takes office.
        for (const [index, what] of this.committed) {
          const entry = member.node.entryAt(index)
          if (entry ? `${entry.term}/${entry.clientSeq}` !== what : index > lastIndex)
            throw new Error(
              `leader completeness: ${name} leads term ${term} without committed entry ${index} (${what})`,
            )
        }
      }
    }
    this.checkLogMatching()
  }

  private checkLogMatching(): void {
    const nodes = [...this.members.values()].filter((m) => m.up).map((m) => m.node)
    for (let i = 0; i < nodes.length; i++)
      for (let j = i + 1; j < nodes.length; j++) {
        const [a, b] = [nodes[i] as RaftNode, nodes[j] as RaftNode]
        const [sa, sb] = [a.status(), b.status()]
        let agreed = false
        for (
          let index = Math.min(sa.lastIndex, sb.lastIndex);
          index >= Math.max(sa.firstIndex, sb.firstIndex);
          index--
        ) {
          const same = a.termAt(index) === b.termAt(index)
          if (agreed && !same)
            throw new Error(`log matching: ${sa.member} and ${sb.member} agree above ${index} but not there`)
          agreed ||= same
        }
      }
  }

  private pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.random() * list.length)] as T
  }
}
