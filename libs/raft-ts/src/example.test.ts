import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { type LogDisk, RaftLog, type RaftMessage, RaftNode } from './index.js'
import { seeded } from './test-cluster.js'
import { CrashDisk } from './testing.js'

// README: begin
interface Edge {
  disk: LogDisk
  random: () => number
  nowMs: () => number
  send: (message: RaftMessage) => void
  apply: (command: Uint8Array) => void
  failed: (error: unknown) => void
}

async function startMember(member: string, voters: string[], edge: Edge) {
  const { log, recovered } = await RaftLog.open(edge.disk)
  const configuration = { voters, learners: [] }
  const node = new RaftNode({ member, configuration, random: edge.random, nowMs: edge.nowMs(), recovered })
  let durable: Promise<unknown> = Promise.resolve()
  const pump = () => {
    for (let next = node.takeReady(); next; next = node.takeReady()) {
      const ready = next
      ready.sendNow.forEach(edge.send)
      for (const entry of ready.apply) {
        if (entry.kind === 'command') edge.apply(entry.payload)
        node.appliedTo(entry.index)
      }
      if (ready.persist) durable = Promise.all([durable, log.append(ready.persist)])
      durable = durable.then(() => {
        node.persisted(ready.number)
        ready.sendAfterPersist.forEach(edge.send)
        pump()
      })
      durable.catch(edge.failed) // A failed sync is final: only a restart tells what holds.
    }
  }
  return {
    tick: () => (node.tick(edge.nowMs()), pump()), // Every 20 ms or so, or when node.nextTickMs() says.
    receive: (message: RaftMessage) => (node.step(message), pump()),
    propose: (payload: Uint8Array) => {
      const result = node.propose([{ kind: 'command', clientId: '', clientSeq: 0, payload }])
      pump()
      return result // { accepted, term, firstIndex }: done when that index is applied with that term.
    },
  }
}
// README: end

test('the example of the README runs: three members agree', async () => {
  const voters = ['a', 'b', 'c']
  const members = new Map<string, Awaited<ReturnType<typeof startMember>>>()
  const applied = new Map(voters.map((name) => [name, [] as string[]]))
  const inbox: RaftMessage[] = []
  let nowMs = 0
  for (const [position, name] of voters.entries()) {
    const edge: Edge = {
      disk: new CrashDisk(),
      random: seeded(position + 1),
      nowMs: () => nowMs,
      send: (message) => void inbox.push(message),
      apply: (command) => void applied.get(name)?.push(new TextDecoder().decode(command)),
      failed: (error) => assert.fail(String(error)),
    }
    members.set(name, await startMember(name, voters, edge))
  }
  let proposed = false
  const done = () => [...applied.values()].every((list) => list.length === 1)
  for (let turn = 0; turn < 500 && !done(); turn++) {
    nowMs += 20
    for (const member of members.values()) member.tick()
    for (let quiet = 0; quiet < 20; quiet++) {
      for (const message of inbox.splice(0)) members.get(message.to)?.receive(message)
      await Promise.resolve()
    }
    if (!proposed)
      for (const member of members.values()) proposed ||= member.propose(new TextEncoder().encode('hello')).accepted
  }
  assert.deepEqual([...applied.values()], [['hello'], ['hello'], ['hello']])
})

test('the README shows that very code', () => {
  const between = (text: string, from: string, to: string) =>
    text.slice(text.indexOf(from) + from.length, text.indexOf(to)).trim()
  const source = readFileSync(join(import.meta.dirname, '../src/example.test.ts'), 'utf8')
  const readme = readFileSync(join(import.meta.dirname, '../README.md'), 'utf8')
  assert.ok(readme.includes(between(source, '// README: begin\n', '// README: end\n')))
})
