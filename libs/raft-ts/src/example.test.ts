import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { type LogDisk, RaftLog, type RaftMessage, RaftNode } from './index.js'
import { seeded } from './test-cluster.js'
import { CrashDisk } from './testing.js'

const random = seeded(1)

// README: begin
const voters = ['a', 'b', 'c']
const members = new Map<string, { node: RaftNode; log: RaftLog; state: string[]; reads: Map<number, number> }>()
const network: RaftMessage[] = []
let nowMs = 0

async function start(member: string, disk: LogDisk) {
  const { log, recovered } = await RaftLog.open(disk)
  const configuration = { voters, learners: [] }
  const node = new RaftNode({ member, configuration, random, nowMs, recovered })
  members.set(member, { node, log, state: [], reads: new Map() })
}

function pump({ node, log, state, reads }: NonNullable<ReturnType<(typeof members)['get']>>) {
  for (let ready = node.takeReady(); ready; ready = node.takeReady()) {
    const { number, sendNow, persist = { entries: [] }, sendAfterPersist } = ready
    network.push(...sendNow) // These promise nothing. Votes and acknowledgements wait for the disk:
    log.append(persist).then(() => (node.persisted(number), network.push(...sendAfterPersist)), console.error)
    for (const entry of ready.apply) {
      if (entry.kind === 'command') state.push(new TextDecoder().decode(entry.payload))
      node.appliedTo(entry.index)
    }
    for (const { context, index, refused } of ready.reads) if (!refused) reads.set(context, index)
  }
}

async function until<T>(found: () => T | undefined): Promise<T> {
  for (nowMs += 10; ; nowMs += 10) {
    for (const { node } of members.values()) node.tick(nowMs)
    for (const message of network.splice(0)) members.get(message.to)?.node.step(message)
    for (const member of members.values()) pump(member)
    for (let turns = 0; turns < 20; turns++) await Promise.resolve() // The disks of this example are in memory.
    const result = found()
    if (result !== undefined) return result
  }
}

async function propose(text: string) {
  const leader = await until(() => [...members.values()].find(({ node }) => node.status().role === 'leader'))
  const payload = new TextEncoder().encode(text)
  leader.node.propose([{ kind: 'command', clientId: '', clientSeq: 0, payload }])
  await until(() => leader.state.find((applied) => applied === text)) // Applied: committed, on a majority of disks.
  return leader.node.status().member
}

async function example() {
  for (const name of voters) await start(name, new CrashDisk())
  members.delete(await propose('hello')) // The leader dies.
  await propose('world')
  const [other] = members.values() // A linearizable read, on any member: what was acknowledged before is in it.
  other?.node.readIndex(1)
  const index = await until(() => other?.reads.get(1))
  await until(() => (other && other.node.status().applied >= index ? true : undefined))
  return other?.state
}
// README: end

test('the example of the README runs: three members, a write, a dead leader, a write, a read', {
  timeout: 10_000,
}, async () => {
  assert.deepEqual(await example(), ['hello', 'world'])
})

test('the README shows that very code', () => {
  const between = (text: string, from: string, to: string) =>
    text.slice(text.indexOf(from) + from.length, text.indexOf(to)).trim()
  const source = readFileSync(join(import.meta.dirname, '../src/example.test.ts'), 'utf8')
  const readme = readFileSync(join(import.meta.dirname, '../README.md'), 'utf8')
  assert.ok(readme.includes(between(source, '// README: begin\n', '// README: end\n')))
})
