import { decodeConfiguration, describeConfiguration } from './configuration.js'
import { describeMessage } from './describe.js'
import { RaftNode } from './raft-node.js'
import type {
  HardState,
  LogEntry,
  MemberChange,
  MemberId,
  RaftMessage,
  RaftPlantedBug,
  Ready,
  SnapshotMeta,
} from './types.js'

const STEP_MS = 10
const CHUNK_BYTES = 16
const BYTES = new Set(['payload', 'data'])
const encoder = new TextEncoder()
const decoder = new TextDecoder()

interface Member {
  node: RaftNode
  up: boolean
  /** Syncs are done by `sync` only. */
  slow: boolean
  hardState: HardState
  base: SnapshotMeta | undefined
  entries: LogEntry[]
  syncing: Ready[]
  /** The state machine: what was applied, in order. Snapshots carry it. */
  state: string
  receiving: number[]
  known: string
}

/**
 * Runs a script of commands, one a line, over members in one process, and answers each with what happened. Nothing moves
 * by itself: a message lies in the network until it is delivered or dropped.
 *
 *     members a b c [learner d]       start over; the earlier named, the shorter its election time-out
 *     run MS                          time passes in steps of 10 ms; everything is delivered and synced at once
 *     tick MS [NAME…]                 one tick for these, or all; nothing is delivered
 *     deliver [PATTERN…]              each message in the network now whose line contains all the words
 *     drop [PATTERN…]                 the same, lost;   keep [PATTERN…]: all others are lost
 *     twice [PATTERN…]                the same, doubled
 *     propose NAME TEXT… · read NAME · transfer FROM TO · compact NAME INDEX · corrupt [PATTERN…]
 *     slow NAME · fast NAME · sync NAME [all]   how its disk works; a sync by hand is of the oldest Ready
 *     cut NAME… · heal                their messages are lost while time runs
 *     crash NAME · restart NAME [forgetful]
 *     join NAME… [forgetful]                      members that nobody knows yet, with an empty configuration
 *     change NAME [addLearner|addVoter|promote|demote|remove MEMBER]…   all at once
 *     receive NAME {…}                a message made up here, as JSON; payloads and data as text
 *     status [NAME…] · log [NAME…] · configuration [NAME…] · meta NAME INDEX · network
 */
export class ScriptCluster {
  private members = new Map<MemberId, Member>()
  private voters: MemberId[] = []
  private learners: MemberId[] = []
  private joined: MemberId[] = []
  private network: RaftMessage[] = []
  private nowMs = 0
  private readonly cuts = new Set<MemberId>()
  private nextRead = 1
  private out: string[] = []
  /** For the invariants: who led each term, and what was applied at each index. */
  private leaders = new Map<number, MemberId>()
  private committed = new Map<number, string>()

  constructor(private readonly bugs: readonly RaftPlantedBug[] = []) {}

  /** What `line` led to, one fact a line. */
  run(line: string): string[] {
    this.out = []
    const [verb = '', ...args] = line.split(/\s+/)
    const command = this.commands[verb]
    if (!command) throw new Error(`unknown command: ${line}`)
    command(args, line)
    this.changes()
    return this.out.length > 0 ? this.out : ['ok']
  }

  private readonly commands: Record<string, (args: string[], line: string) => void> = {
    members: (args) => {
      const split = args.indexOf('learner')
      this.voters = split < 0 ? args : args.slice(0, split)
      this.learners = split < 0 ? [] : args.slice(split + 1)
      this.members = new Map()
      this.joined = []
      this.leaders = new Map()
      this.committed = new Map()
      this.network = []
      this.nowMs = 0
      for (const name of [...this.voters, ...this.learners]) this.start(name)
    },
    run: ([ms]) => {
      for (let left = Number(ms); left > 0; left -= STEP_MS) {
        this.nowMs += STEP_MS
        for (const member of this.members.values()) if (member.up) member.node.tick(this.nowMs)
        this.settle()
        this.changes()
      }
    },
    tick: ([ms, ...names]) => {
      this.nowMs += Number(ms)
      for (const name of names.length > 0 ? names : this.members.keys())
        if (this.member(name).up) this.member(name).node.tick(this.nowMs)
      this.pumpAll()
    },
    deliver: (words) => {
      for (const message of this.take(words)) this.deliver(message, true)
      this.pumpAll()
    },
    drop: (words) => {
      for (const message of this.take(words)) this.out.push(`lost  ${describeMessage(message)}`)
    },
    keep: (words) => {
      const kept = this.take(words)
      for (const message of this.network) this.out.push(`lost  ${describeMessage(message)}`)
      this.network = kept
    },
    twice: (words) => {
      const chosen = this.take(words)
      this.network.push(...chosen, ...chosen.map((message) => structuredClone(message)))
    },
    corrupt: (words) => {
      for (const message of this.take(words)) {
        if (message.type === 'snapshot') message.data = message.data.map((byte, at) => (at === 0 ? byte ^ 1 : byte))
        this.network.push(message)
      }
    },
    propose: ([name, ...texts]) => {
      const proposals = texts.map((text) => ({
        kind: 'command' as const,
        clientId: '',
        clientSeq: 0,
        payload: encoder.encode(text),
      }))
      const result = this.member(name).node.propose(proposals)
      this.out.push(
        result.accepted
          ? `accepted at ${result.firstIndex} in term ${result.term}`
          : `refused: ${result.reason}, leader ${result.leader ?? '-'}`,
      )
      this.pumpAll()
    },
    read: ([name]) => {
      const context = this.nextRead++
      this.out.push(`${name} read ${context} asked`)
      if (!this.member(name).node.readIndex(context)) this.out.push('refused: too many')
      this.pumpAll()
    },
    transfer: ([from, to]) => {
      if (!this.member(from).node.transferLeadership(to as string)) this.out.push('refused')
      this.pumpAll()
    },
    compact: ([name, index]) => {
      const member = this.member(name)
      const meta = member.node.metaAt(Number(index))
      if (!meta) throw new Error(`nothing at ${index}`)
      member.node.compact(meta.index)
      member.base = meta
      member.entries = member.entries.filter((e) => e.index > meta.index)
    },
    slow: ([name]) => void (this.member(name).slow = true),
    fast: ([name]) => {
      this.member(name).slow = false
      this.pumpAll()
    },
    sync: ([name, all]) => {
      const member = this.member(name)
      do this.syncOne(member)
      while (all === 'all' && member.syncing.length > 0)
      this.pumpAll()
    },
    cut: (names) => {
      for (const name of names) this.cuts.add(name)
    },
    heal: () => this.cuts.clear(),
    crash: ([name]) => {
      const member = this.member(name)
      member.up = false
      member.syncing = []
      this.network = this.network.filter((m) => m.to !== name)
    },
    restart: ([name, how]) => this.start(name as string, how === 'forgetful'),
    join: (names) => {
      const forgetful = names.at(-1) === 'forgetful'
      for (const name of forgetful ? names.slice(0, -1) : names) {
        this.joined.push(name)
        this.start(name, forgetful)
      }
    },
    change: ([name, ...words]) => {
      const changes: MemberChange[] = []
      for (let i = 0; i < words.length; i += 2)
        changes.push({ type: words[i] as MemberChange['type'], member: words[i + 1] as string })
      const result = this.member(name).node.changeMembers(changes)
      this.out.push(
        result.accepted
          ? `accepted at ${result.index} in term ${result.term}: ${describeConfiguration(result.configuration)}`
          : `refused: ${result.reason}: ${result.text}`,
      )
      this.pumpAll()
    },
    configuration: (names) => {
      for (const name of names.length > 0 ? names : this.members.keys()) {
        const { configuration, configurationIndex, changePending } = this.member(name).node.status()
        const pending = changePending ? ' (change pending)' : ''
        this.out.push(`${name} since ${configurationIndex}: ${describeConfiguration(configuration)}${pending}`)
      }
    },
    meta: ([name, index]) => {
      const meta = this.member(name).node.metaAt(Number(index))
      this.out.push(meta ? `${meta.index}/${meta.term} ${describeConfiguration(meta.configuration)}` : 'none')
    },
    receive: ([name], line) => {
      const bytes = (key: string, value: unknown) =>
        BYTES.has(key) && typeof value === 'string' ? encoder.encode(value) : value
      const message = JSON.parse(line.slice(line.indexOf('{')), bytes) as RaftMessage
      if (!this.member(name).node.step(message)) this.out.push('refused as implausible')
      this.pumpAll()
    },
    status: (names) => {
      for (const name of names.length > 0 ? names : this.members.keys()) this.out.push(this.describe(name))
    },
    log: (names) => {
      for (const name of names.length > 0 ? names : this.members.keys()) {
        const { node } = this.member(name)
        const { firstIndex, lastIndex, commit } = node.status()
        const entries = Array.from(
          { length: lastIndex - firstIndex + 1 },
          (_, i) => node.entryAt(firstIndex + i) as LogEntry,
        )
        const texts = entries.map((e) => `${e.index}/${e.term}${describeContent(e)}`)
        this.out.push(`${name} [${texts.join(' ')}] commit ${commit} state "${this.member(name).state}"`)
      }
    },
    network: () => {
      for (const message of this.network) this.out.push(describeMessage(message))
      if (this.network.length === 0) this.out.push('empty')
    },
  }

  private start(name: MemberId, forgetful = false): void {
    const former = forgetful ? undefined : this.members.get(name)
    if (former?.up) throw new Error(`${name} is up`)
    const position = [...this.voters, ...this.learners, ...this.joined].indexOf(name)
    const founder = !this.joined.includes(name)
    const hardState = former?.hardState ?? { term: 0, votedFor: '', commit: 0 }
    const node = new RaftNode({
      member: name,
      configuration: founder ? { voters: this.voters, learners: this.learners } : { voters: [], learners: [] },
      // Election time-outs of 300, 400, 500 … ms.
      random: () => position / 3,
      nowMs: this.nowMs,
      plantedBugs: this.bugs,
      allowPlantedBugs: true,
      forgetful,
      // What was applied is lost with a crash, but for what a snapshot holds.
      ...(former ? { recovered: { hardState, snapshot: former.base, entries: [...former.entries] } } : {}),
    })
    const state = former?.base ? [...former.state].slice(0, former.base.index).join('') : ''
    this.members.set(name, {
      node,
      up: true,
      slow: false,
      hardState,
      base: former?.base,
      entries: former?.entries ?? [],
      syncing: [],
      state,
      receiving: [],
      known: '',
    })
  }

  private member(name: MemberId | undefined): Member {
    const member = this.members.get(name as MemberId)
    if (!member) throw new Error(`no member ${name}`)
    return member
  }

  private take(words: string[]): RaftMessage[] {
    const chosen = this.network.filter((m) => words.every((word) => describeMessage(m).includes(word)))
    this.network = this.network.filter((m) => !chosen.includes(m))
    return chosen
  }

  private deliver(message: RaftMessage, say: boolean): void {
    const member = this.member(message.to)
    if (!member.up) return void (say && this.out.push(`lost  ${describeMessage(message)}`))
    if (say) this.out.push(`      ${describeMessage(message)}`)
    if (!member.node.step(structuredClone(message)))
      this.out.push(`refused as implausible: ${describeMessage(message)}`)
  }

  /** Until nothing is on the way any more. */
  private settle(): void {
    this.pumpAll()
    for (let rounds = 0; this.network.length > 0; rounds++) {
      if (rounds > 1000) throw new Error('the network does not come to rest')
      for (const message of this.network.splice(0))
        if (!this.cuts.has(message.from) && !this.cuts.has(message.to)) this.deliver(message, false)
      this.pumpAll()
    }
  }

  private pumpAll(): void {
    for (const [name, member] of this.members) if (member.up) this.pump(name, member)
  }

  private pump(name: MemberId, member: Member): void {
    for (;;) {
      const ready = member.node.takeReady()
      if (!ready) {
        if (member.slow || member.syncing.length === 0) return
        this.syncOne(member)
        continue
      }
      this.network.push(...ready.sendNow)
      member.syncing.push(ready)
      for (const { context, index, refused } of ready.reads)
        this.out.push(`${name} read ${context} ${refused ? 'refused' : `may go on at ${index}`}`)
      this.checkLeader(name, member)
      for (const entry of ready.apply) {
        this.checkApplied(name, entry)
        // One letter an entry; a no-op is a dot.
        member.state += entry.kind === 'command' ? decoder.decode(entry.payload).slice(0, 1) : '.'
        member.node.appliedTo(entry.index)
      }
      for (const { to, index, offset } of ready.snapshotWanted) this.offerSnapshot(member, to, index, offset)
      for (const { meta, offset, data, done } of ready.snapshotChunks) {
        member.receiving.length = offset
        member.receiving.push(...data)
        if (!done) member.node.snapshotReceived(meta, offset + data.length)
        else {
          member.state = decoder.decode(Uint8Array.from(member.receiving)).trimEnd()
          member.node.snapshotInstalled(meta)
          this.out.push(`${name} installed snapshot ${meta.index}/${meta.term}`)
        }
      }
    }
  }

  /** Election safety and leader completeness (thesis fig. 3.2), when it takes office. */
  private checkLeader(name: MemberId, { node }: Member): void {
    const { role, term, lastIndex } = node.status()
    const known = this.leaders.get(term)
    if (role !== 'leader' || known === name) return
    if (known !== undefined) throw new Error(`election safety: ${known} and ${name} lead in term ${term}`)
    this.leaders.set(term, name)
    for (const [index, what] of this.committed) {
      const entry = node.entryAt(index)
      if (entry ? what !== `${entry.term}${describeContent(entry)}` : index > lastIndex)
        throw new Error(`leader completeness: ${name} leads term ${term} without committed entry ${index} (${what})`)
    }
  }

  private checkApplied(name: MemberId, entry: LogEntry): void {
    const what = `${entry.term}${describeContent(entry)}`
    const known = this.committed.get(entry.index) ?? what
    if (known !== what) throw new Error(`state machine safety: ${name} applies ${what} at ${entry.index}, not ${known}`)
    this.committed.set(entry.index, what)
  }

  private offerSnapshot(member: Member, to: MemberId, index: number, offset: number): void {
    const meta = member.node.metaAt(index === 0 ? member.node.status().applied : index)
    if (!meta) return member.node.snapshotFailed(to)
    const whole = encoder.encode(
      [...member.state]
        .slice(0, meta.index)
        .join('')
        .padEnd(CHUNK_BYTES * 3),
    )
    const data = whole.slice(offset, offset + CHUNK_BYTES)
    member.node.snapshotChunk(to, { meta, offset, data, done: offset + data.length >= whole.length })
  }

  private syncOne(member: Member): void {
    const ready = member.syncing.shift()
    if (!ready) return
    const { persist } = ready
    if (persist?.snapshot) {
      const { index, term } = persist.snapshot
      const goesOn = member.entries.some((e) => e.index === index && e.term === term)
      member.entries = goesOn ? member.entries.filter((e) => e.index > index) : []
      member.base = persist.snapshot
    }
    if (persist?.hardState) member.hardState = persist.hardState
    const first = persist?.entries[0]
    if (persist && first) member.entries = [...member.entries.filter((e) => e.index < first.index), ...persist.entries]
    member.node.persisted(ready.number)
    this.network.push(...ready.sendAfterPersist)
  }

  private describe(name: MemberId): string {
    const member = this.member(name)
    if (!member.up) return `${name} down`
    const { role, term, leader, commit, lastIndex, stableIndex, mayVote } = member.node.status()
    const disk = stableIndex < lastIndex ? ` (${stableIndex} on disk)` : ''
    return `${name} ${role} term ${term} leader ${leader ?? '-'} commit ${commit} last ${lastIndex}${disk}${mayVote ? '' : ' may not vote'}`
  }

  /** Says who has another role, term or leader than before. */
  private changes(): void {
    for (const [name, member] of this.members) {
      const { role, term, leader, mayVote } = member.up
        ? member.node.status()
        : { role: 'down', term: 0, leader: undefined, mayVote: true }
      const now = `${name} ${role}${member.up ? ` term ${term} leader ${leader ?? '-'}` : ''}${mayVote ? '' : ' may not vote'}`
      if (member.known !== '' && member.known !== now) this.out.push(`${String(this.nowMs).padStart(5)} ms: ${now}`)
      member.known = now
    }
  }
}

function describeContent({ kind, payload }: LogEntry): string {
  if (kind === 'config') return `=(${describeConfiguration(decodeConfiguration(payload))})`
  return kind === 'command' ? `=${decoder.decode(payload)}` : ''
}
