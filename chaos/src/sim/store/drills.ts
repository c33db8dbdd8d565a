import type { MembersReply } from '@capstan/protocol'
import type { Simulation, SimRandom } from '@capstan/sim'
import type { Nemesis } from '../faults.js'
import type { StoreClient } from './store-client.js'
import type { StoreCluster } from './store-cluster.js'
import { grant, oneRegister, REGISTERS, seeItsEnd, type Work } from './workloads.js'

/** What a drill needs. */
export interface DrillGround {
  simulation: Simulation
  cluster: StoreCluster
  nemesis: Nemesis
  random: SimRandom
  clients: readonly StoreClient[]
  work: Work
  electionTimeoutMs: number
  /** Compacts at about the present revision, if its history could be kept. */
  compact(): Promise<boolean>
}

/**
 * Faults and requests that come together as no chance would have it often: each drill plays the moment in which a known
 * failure of real stores showed. All of them must be survived; members whose disk is damaged are a minority.
 */
export const DRILLS: Record<string, (ground: DrillGround) => Promise<void>> = {
  pausedLeader,
  crashAfterWrite,
  powerCutInWrites,
  movedLeader,
  damagedLog,
  forgottenVote,
  compactedAndCut,
  leftBehind,
  crashInWrites,
  emptiedDirectory,
  replacedMember,
  hastyChanges,
}

/** Those that are told message by message: with nothing else going on they come out as planned. */
export const SCHEDULES: typeof DRILLS = { forgottenVote, hastyChanges }

let values = 0
const nextValue = (client: StoreClient) => `${client.name}:${++values}`

/** Numbers of values start anew with each run. */
export function resetValues(): void {
  values = 0
}

function puts(ground: DrillGround, count: number, member?: string): Promise<unknown> {
  const { clients, random, work } = ground
  // One client does one thing at a time.
  return Promise.all(
    clients.map(async (client, at) => {
      for (let n = at; n < count; n += clients.length)
        await oneRegister(work, client, random.pick(REGISTERS), nextValue(client), {
          kind: random.chance(0.8) ? 'put' : 'delete',
          ...(member === undefined ? {} : { member }),
        })
    }),
  )
}

function reads(ground: DrillGround, members: readonly string[], key: string): Promise<unknown> {
  const { clients, work } = ground
  return Promise.all(
    members.map((member, at) =>
      oneRegister(work, clients[at % clients.length] as StoreClient, key, '', { kind: 'get', member }),
    ),
  )
}

const restOf = (members: readonly string[], one: string) => members.filter((m) => m !== one)

/** A leader sleeps while another takes over and writes; it is asked just when it wakes, and its leases are over by its clock. */
async function pausedLeader(ground: DrillGround): Promise<void> {
  const { simulation, cluster, random, clients, work, electionTimeoutMs } = ground
  const leader = await cluster.leader()
  if (leader === undefined) return
  const sleepsMs = random.between(3, 9) * electionTimeoutMs
  const wakesMs = simulation.nowMs + sleepsMs
  simulation.machine(leader).pause(sleepsMs)
  await simulation.sleep(2.2 * electionTimeoutMs)
  const key = random.pick(REGISTERS)
  const writer = clients[0] as StoreClient
  await oneRegister(work, writer, key, nextValue(writer), {
    kind: 'put',
    member: random.pick(restOf(cluster.members, leader)),
  })
  await simulation.sleep(Math.max(0, wakesMs - simulation.nowMs - random.between(0, 3)))
  await reads(ground, [leader, leader, leader, leader], key)
  await reads(ground, cluster.members, key)
}

/** A leader dies as soon as it has acknowledged; who waited for its successor must see what it wrote. */
async function crashAfterWrite(ground: DrillGround): Promise<void> {
  const { simulation, cluster, nemesis, random, clients, work, electionTimeoutMs } = ground
  const leader = await cluster.leader()
  if (leader === undefined) return
  const key = random.pick(REGISTERS)
  const writer = clients[0] as StoreClient
  await oneRegister(work, writer, key, nextValue(writer), { kind: 'put', member: leader })
  simulation.machine(leader).crash()
  await simulation.sleep(random.between(0, electionTimeoutMs))
  const others = restOf(cluster.members, leader)
  await reads(ground, [...others, ...others], key)
  await simulation.sleep(random.between(0, 2) * electionTimeoutMs)
  nemesis.startAgain(leader)
}

/** The power goes while everybody writes; all come back with what their disks have. */
async function powerCutInWrites(ground: DrillGround): Promise<void> {
  const { simulation, cluster, nemesis, random, electionTimeoutMs } = ground
  for (let n = 1 + random.int(3); n > 0; n--) {
    const writing = puts(ground, 10)
    await simulation.sleep(random.between(0, 25))
    for (const member of cluster.members) simulation.machine(member).crash()
    for (const member of cluster.members) {
      await simulation.sleep(random.between(0, electionTimeoutMs))
      nemesis.startAgain(member)
    }
    await writing
  }
  await reads(ground, cluster.members, random.pick(REGISTERS))
}

/** Nobody renews a lease, and the lead goes round: it must end in its time all the same. */
async function movedLeader(ground: DrillGround): Promise<void> {
  const { simulation, cluster, random, clients, work, electionTimeoutMs } = ground
  const client = clients[0] as StoreClient
  // So long, and the lead moves so late, that a life begun anew is more than what a change of leader may add to it.
  const lease = await grant(work, client, Math.ceil((random.between(8, 12) * electionTimeoutMs) / 1000))
  if (!lease) return
  const key = `m/${random.int(3)}`
  const put = await client.write({
    what: `put of ${key}`,
    ops: [{ put: key, value: nextValue(client), lease: lease.id }],
  })
  if (put.outcome !== 'not-applied') lease.keys.push(key)
  let ends = false
  const seen = seeItsEnd(work, client, lease, 1000).then(() => (ends = true))
  const mover = clients[1] as StoreClient
  for (let n = 0; n < 4 && !ends; n++) {
    await simulation.sleep(random.between(0.7, 0.9) * lease.ttlMs)
    const leader = await cluster.leader()
    if (leader !== undefined)
      await mover.ask('moveLeader', { to: random.pick(restOf(cluster.members, leader)) }, { member: leader })
  }
  await seen
}

/**
 * A record of a follower's log is damaged, one that it has acknowledged with the leader alone. It must not take part in
 * an election from what is left of its log.
 */
async function damagedLog(ground: DrillGround): Promise<void> {
  const { simulation, cluster, nemesis, random, electionTimeoutMs } = ground
  const leader = await cluster.leader()
  if (leader === undefined || !(await areWhole(ground))) return
  const [damaged, lagging] = random.chance(0.5)
    ? restOf(cluster.members, leader)
    : restOf(cluster.members, leader).reverse()
  if (damaged === undefined || lagging === undefined || !simulation.machine(damaged).up) return
  const cut = (isCut: boolean) => {
    for (const other of [leader, damaged]) {
      simulation.network.link(lagging, other).cut = isCut
      simulation.network.link(other, lagging).cut = isCut
    }
  }
  cut(true)
  await puts(ground, 6, leader)
  await simulation.sleep(50)
  const mark = endOfLog(ground, damaged)
  // What comes after the mark, in batches of its own, tells damage from a torn write: only the last batch can be torn. A store
  // without room writes none.
  const [writer] = ground.clients as [StoreClient]
  let written = 0
  for (let n = 0; n < 4; n++) {
    const put = { kind: 'put', member: leader } as const
    if ((await oneRegister(ground.work, writer, random.pick(REGISTERS), nextValue(writer), put)) === 'done') written++
  }
  await simulation.sleep(50)
  simulation.machine(damaged).crash()
  if (!mark || written === 0 || !damageLog(ground, damaged, mark)) cluster.count('damageMissed')
  else {
    cluster.damaged.add(damaged)
    cluster.count('damages')
  }
  simulation.machine(leader).crash()
  cut(false)
  nemesis.startAgain(damaged)
  await simulation.sleep(random.between(3, 6) * electionTimeoutMs)
  nemesis.startAgain(leader)
  await simulation.sleep(4 * electionTimeoutMs)
  await reads(ground, cluster.members, random.pick(REGISTERS))
  // By then it has read its log to the end, or was made anew.
  await simulation.sleep(4 * electionTimeoutMs)
  cluster.damaged.delete(damaged)
}

/** The newest segment of a member's log, and how far it is written. */
function endOfLog({ simulation }: DrillGround, member: string): { path: string; end: number } | undefined {
  const { disk } = simulation.machine(member)
  const path = disk
    .paths()
    .filter((name) => /\/raft\/\d+/.test(name))
    .at(-1)
  const content = path === undefined ? undefined : disk.peek(path)
  if (path === undefined || content === undefined) return undefined
  let end = content.length
  while (end > 0 && content[end - 1] === 0) end--
  return { path, end }
}

/** Turns a bit or zeroes a sector in what was written not long before the mark. */
function damageLog({ simulation, random }: DrillGround, member: string, mark: { path: string; end: number }): boolean {
  const { disk } = simulation.machine(member)
  const from = Math.max(0, mark.end - 1500)
  if (random.chance(0.7)) return disk.flipBit(mark.path, from + random.int(mark.end - from))
  const sector = Math.floor(mark.end / 512) - 1 - random.int(2)
  return sector >= 0 && disk.zeroSector(mark.path, sector * 512)
}

/**
 * Two that do not hear each other stand for election in the same term. The third votes for the one and goes down; when it
 * is back the other asks. (Thesis fig. 3.1: votedFor is kept.)
 */
async function forgottenVote(ground: DrillGround): Promise<void> {
  const { simulation, cluster, nemesis, random, clients, work, electionTimeoutMs } = ground
  const third = random.pick(cluster.members)
  const [first, second] = (
    random.chance(0.5) ? restOf(cluster.members, third) : restOf(cluster.members, third).reverse()
  ) as [string, string]
  const voter = simulation.machine(third)
  const slow = simulation.machine(second).disk.condition
  const link = (from: string, to: string) => simulation.network.link(from, to)
  const cut = (a: string, b: string, isCut: boolean) => {
    link(a, b).cut = isCut
    link(b, a).cut = isCut
  }
  voter.crash()
  cut(first, second, true)
  cut(first, third, true)
  // Whoever led gives up.
  await simulation.sleep(2.2 * electionTimeoutMs)
  // The second one is told late that it may stand for election; before that the first one has stood, and has won.
  const { delayMs } = link(third, second)
  link(third, second).delayMs = [5 * electionTimeoutMs, 5 * electionTimeoutMs]
  nemesis.startAgain(third)
  await simulation.sleep(2.1 * electionTimeoutMs)
  voter.crash()
  nemesis.startAgain(third)
  cut(first, third, false)
  let term: number | undefined
  cluster.onLead(first, (won) => {
    term = won
    cut(first, third, true)
    voter.crash()
  })
  for (let n = 0; n < 30 && term === undefined; n++) await simulation.sleep(electionTimeoutMs / 10)
  cluster.onLead(first, undefined)
  link(third, second).delayMs = delayMs
  if (term !== undefined) {
    const [lonely, busy] = clients as [StoreClient, StoreClient]
    const writing = oneRegister(work, lonely, REGISTERS[0] as string, nextValue(lonely), {
      kind: 'put',
      member: first,
      repeat: false,
    })
    const { syncMs } = slow
    slow.syncMs = [100, 100]
    const stands = async () => (await cluster.handles.get(second)?.status())?.term === term
    for (let n = 0; n < 6 * electionTimeoutMs && !(await stands()); n += 20) await simulation.sleep(20)
    slow.syncMs = syncMs
    if (await stands()) cluster.count('secondCandidates')
    nemesis.startAgain(third)
    await simulation.sleep(0.5 * electionTimeoutMs)
    for (let n = 0; n < 2; n++)
      await oneRegister(work, busy, REGISTERS[1] as string, nextValue(busy), {
        kind: 'put',
        member: second,
        repeat: false,
      })
    await writing
  }
  cut(first, second, false)
  cut(first, third, false)
  nemesis.startAgain(third)
  await simulation.sleep(3 * electionTimeoutMs)
  await reads(ground, cluster.members, REGISTERS[0] as string)
}

/** History is compacted, and all go down before anything else is written. */
async function compactedAndCut(ground: DrillGround): Promise<void> {
  const { simulation, cluster, nemesis, random, clients, work, electionTimeoutMs } = ground
  await puts(ground, 4)
  const last = clients[0] as StoreClient
  // The last revision is that of a deletion: nothing of it may be left.
  await oneRegister(work, last, REGISTERS[0] as string, nextValue(last), { kind: 'put' })
  await oneRegister(work, last, REGISTERS[0] as string, '', { kind: 'delete' })
  if (!(await ground.compact())) return
  await simulation.sleep(random.between(0.1, 12) * 1000)
  for (const member of cluster.members) simulation.machine(member).crash()
  await simulation.sleep(random.between(100, 2000))
  for (const member of cluster.members) nemesis.startAgain(member)
  await simulation.sleep(2 * electionTimeoutMs)
  await reads(ground, cluster.members, REGISTERS[0] as string)
  await puts(ground, 2)
}

/** A member is away for longer than the others keep their log: it comes back by a snapshot. */
async function leftBehind(ground: DrillGround): Promise<void> {
  const { simulation, cluster, nemesis, random, electionTimeoutMs } = ground
  const away = random.pick(cluster.members)
  if (random.chance(0.5)) simulation.machine(away).crash()
  else simulation.machine(away).pause(7 * electionTimeoutMs)
  await simulation.sleep(2.2 * electionTimeoutMs)
  await puts(ground, 35)
  await simulation.sleep(3 * electionTimeoutMs)
  nemesis.startAgain(away)
  const writing = puts(ground, 10)
  await simulation.sleep(2 * electionTimeoutMs)
  await writing
  await reads(ground, cluster.members, random.pick(REGISTERS))
}

/** One after another dies before some operation of its disk, while everybody writes. */
async function crashInWrites(ground: DrillGround): Promise<void> {
  const { simulation, cluster, nemesis, random, electionTimeoutMs } = ground
  for (let n = 0; n < 4; n++) {
    const victim = random.pick(cluster.members)
    const machine = simulation.machine(victim)
    machine.disk.tripwire = { operations: random.int(40), run: () => machine.crash() }
    const writing = puts(ground, 15)
    await simulation.sleep(random.between(0.5, 3) * electionTimeoutMs)
    machine.disk.tripwire = undefined
    nemesis.startAgain(victim)
    await writing
  }
  await reads(ground, cluster.members, random.pick(REGISTERS))
}

/** A disk is replaced: the member comes back empty, knowing that it does. */
async function emptiedDirectory(ground: DrillGround): Promise<void> {
  const { simulation, cluster, nemesis, random, electionTimeoutMs } = ground
  if (!(await areWhole(ground))) return
  const victim = random.pick(cluster.members)
  cluster.damaged.add(victim)
  simulation.machine(victim).crash()
  simulation.machine(victim).disk.wipe('/store')
  await puts(ground, 5)
  nemesis.startAgain(victim)
  await simulation.sleep(6 * electionTimeoutMs)
  await reads(ground, cluster.members, random.pick(REGISTERS))
  cluster.damaged.delete(victim)
}

/** All members are up, vote, and know what they knew: another one may lose its disk, since two would be a majority. */
async function areWhole({ cluster }: DrillGround): Promise<boolean> {
  if (cluster.damaged.size > 0 || cluster.leaving.size > 0) return false
  const statuses = await cluster.statuses()
  return statuses.length === cluster.members.length && statuses.every((s) => s.role !== 'learner')
}

/** A member is removed, and comes back under its name with an empty disk: as a learner, promoted once it has caught up. */
async function replacedMember(ground: DrillGround): Promise<void> {
  const { cluster, random, clients, work } = ground
  if (!(await areWhole(ground))) return
  const member = random.pick(cluster.members)
  cluster.leaving.add(member)
  const writing = oneRegister(
    work,
    clients[0] as StoreClient,
    REGISTERS[0] as string,
    nextValue(clients[0] as StoreClient),
  )
  await (clients[1] as StoreClient).ask('memberRemove', { member })
  await writing
  await restoreMembers(ground)
}

/** A leader whom the others do not hear removes them one after the other: alone it may decide nothing. */
async function hastyChanges(ground: DrillGround): Promise<void> {
  const { simulation, cluster, clients, random, work, electionTimeoutMs } = ground
  const leader = await cluster.leader()
  if (leader === undefined || !(await areWhole(ground))) return
  const others = restOf(cluster.members, leader)
  const cut = (isCut: boolean) => {
    for (const other of others) {
      simulation.network.link(leader, other).cut = isCut
      simulation.network.link(other, leader).cut = isCut
    }
  }
  for (const member of cluster.members) cluster.leaving.add(member)
  cut(true)
  const [first, second, third] = clients as [StoreClient, StoreClient, StoreClient]
  const removals = others.map((member, at) =>
    (clients[at] as StoreClient).ask('memberRemove', { member }, { member: leader, timeoutMs: 1500 }),
  )
  await simulation.sleep(random.between(5, 50))
  const key = random.pick(REGISTERS)
  await oneRegister(work, third, key, nextValue(third), { kind: 'put', member: leader })
  await Promise.all(removals)
  await simulation.sleep(3 * electionTimeoutMs)
  await oneRegister(work, first, key, nextValue(first), { kind: 'put', member: others[0] as string })
  await oneRegister(work, second, key, '', { kind: 'get', member: leader })
  cut(false)
  await restoreMembers(ground)
}

/** Until all are voters again, or for a while: whoever is no member joins with an empty disk. */
export async function restoreMembers({ simulation, cluster, clients, random }: DrillGround): Promise<boolean> {
  const client = clients[1] as StoreClient
  const joining = new Set<string>()
  for (let n = 0; n < 120; n++) {
    await simulation.sleep(random.between(200, 1500))
    const answer = await client.ask<MembersReply>('members', {})
    if (!answer.ok) continue
    const { members } = answer.reply
    const missing = cluster.members.filter((m) => !members.some(({ name }) => name === m))
    const learners = members.filter((m) => m.learner)
    if (missing.length === 0 && learners.length === 0) {
      cluster.leaving.clear()
      return true
    }
    for (const { name } of learners) await client.ask('memberPromote', { member: name })
    for (const member of learners.length > 0 ? [] : missing.slice(0, 1)) {
      if (!joining.has(member)) cluster.joinAnew(member)
      joining.add(member)
      if ((await client.ask('memberAdd', { member })).ok) cluster.count('membersAdded')
    }
  }
  return false
}
