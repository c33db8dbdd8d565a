import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { RaftNode } from './raft-node.js'
import { seeded, TestCluster } from './test-cluster.js'
import type { RaftMessage, RaftPlantedBug } from './types.js'

/** Storms in the first test; RAFT_SEEDS=5000 for the long form. */
const STORMS = Number(process.env['RAFT_SEEDS'] ?? 120)

function storm(seed: number, size: number, steps: number, bugs: RaftPlantedBug[] = [], spares = 0): TestCluster {
  const cluster = new TestCluster(seeded(seed), { size, bugs, spares })
  cluster.calm(80)
  for (let i = 0; i < steps; i++) cluster.randomStep(true)
  return cluster
}

test('election safety, log matching, leader completeness, state machine safety and linearizable reads hold in any storm', () => {
  const totals = {
    crashes: 0,
    snapshots: 0,
    reads: 0,
    transfers: 0,
    lost: 0,
    repaired: 0,
    elections: 0,
    truncations: 0,
    changes: 0,
    joint: 0,
  }
  fc.assert(
    fc.property(fc.integer(), fc.constantFrom(1, 2, 3, 5), fc.constantFrom(0, 2), (seed, size, spares) => {
      const cluster = storm(seed, size, 1500, [], spares)
      // Then calm: one leader, and everybody has everything (liveness).
      cluster.calm(300)
      assert.ok(cluster.leader(), 'a leader in calm')
      // Whatever was lost in the storm, nothing waits for a next proposal.
      for (const { member, commit } of cluster.present)
        assert.equal(commit, cluster.leader()?.node.status().lastIndex, member)
      assert.ok(cluster.propose())
      cluster.calm(20)
      const commits = cluster.present.map((s) => s.commit)
      assert.equal(new Set(commits).size, 1, `commits ${commits.join(' ')}`)
      assert.equal(commits[0], cluster.present[0]?.lastIndex)
      for (const s of cluster.present) assert.equal(s.changePending, false, `${s.member}: no change is left undone`)
      for (const what of [
        'crashes',
        'snapshots',
        'reads',
        'transfers',
        'lost',
        'repaired',
        'changes',
        'joint',
      ] as const)
        totals[what] += cluster.counters[what]
      for (const s of cluster.status) {
        totals.elections += s.counters.elections
        totals.truncations += s.counters.truncations
      }
    }),
    { numRuns: STORMS },
  )
  for (const [what, count] of Object.entries(totals)) assert.ok(count > 0, `the storms covered ${what}`)
})

function seedThatCatches(bug: RaftPlantedBug, expected: RegExp): number | undefined {
  for (let seed = 1; seed <= 200; seed++) {
    try {
      storm(seed, 3, 1500, [bug])
    } catch (error) {
      if (expected.test(String(error))) return seed
    }
  }
  return undefined
}

test('the checks find an acknowledgement before the sync', () => {
  assert.ok(seedThatCatches('ack-before-sync', /safety|completeness/) !== undefined)
})

test('the checks find a read that no quorum confirmed', () => {
  assert.ok(seedThatCatches('stale-read', /stale read/) !== undefined)
})

test('the checks find a read at an index of a former term', () => {
  assert.ok(seedThatCatches('read-before-term-commit', /stale read/) !== undefined)
})

test('without pre-vote a member that was cut off raises the term when it comes back; with it nobody is disturbed (thesis §9.6)', () => {
  const termsAfter = (bugs: RaftPlantedBug[]) => {
    const cluster = new TestCluster(seeded(5), { size: 3, bugs })
    cluster.calm(100)
    const before = cluster.leader()?.node.status()
    assert.ok(before)
    const other = cluster.names.find((n) => n !== before.member) as string
    // Only `other` hears nothing: it ticks on, and its messages and those to it are lost.
    cluster.cut = new Set([other])
    for (let i = 0; i < 400; i++) {
      cluster.nowMs += 10
      for (const [, member] of cluster.members) member.node.tick(cluster.nowMs)
      exchange(cluster)
    }
    cluster.calm(50)
    return { before: before.term, after: cluster.leader()?.node.status().term ?? 0 }
  }
  const withPreVote = termsAfter([])
  assert.equal(withPreVote.after, withPreVote.before)
  const without = termsAfter(['skip-pre-vote'])
  assert.ok(without.after > without.before)
})

/** Delivers everything that is not cut, with instant disks. */
function exchange(cluster: TestCluster): void {
  for (let again = true; again; ) {
    again = false
    for (const [, member] of cluster.members)
      for (let ready = member.node.takeReady(); ready; ready = member.node.takeReady()) {
        again = true
        member.node.persisted(ready.number)
        for (const message of [...ready.sendNow, ...ready.sendAfterPersist]) {
          if (cluster.cut.has(message.from) || cluster.cut.has(message.to)) continue
          cluster.members.get(message.to)?.node.step(message)
        }
        if (ready.apply.length > 0) member.node.appliedTo(ready.apply.at(-1)?.index as number)
      }
  }
}

test('leadership is handed over on request, at once (thesis §3.10)', () => {
  const cluster = new TestCluster(seeded(3), { size: 3 })
  cluster.calm(100)
  const leader = cluster.leader()
  assert.ok(leader)
  const to = cluster.names.find((n) => n !== leader.node.status().member) as string
  assert.equal(leader.node.transferLeadership(to), true)
  cluster.calm(4)
  assert.equal(cluster.leader()?.node.status().member, to)
})

test('a gap between own ticks starts no election: the member could not hear', () => {
  const options = { member: 'a', configuration: { voters: ['a', 'b', 'c'], learners: [] }, random: () => 0, nowMs: 0 }
  const node = new RaftNode(options)
  node.tick(50)
  node.step({ type: 'heartbeat', from: 'b', to: 'a', term: 1, commit: 0, round: 1 })
  node.tick(5000)
  assert.equal(node.status().role, 'follower')
  for (let now = 5050; now <= 5350; now += 50) node.tick(now)
  assert.equal(node.status().role, 'preCandidate')
})

test('a member that forgot everything does not vote until it has heard all others and caught up', () => {
  const others = ['b', 'c']
  const node = new RaftNode({
    member: 'a',
    configuration: { voters: ['a', 'b', 'c'], learners: [] },
    random: () => 0,
    nowMs: 0,
    forgetful: true,
  })
  const all = () => {
    const out: RaftMessage[] = []
    for (let ready = node.takeReady(); ready; ready = node.takeReady()) {
      node.persisted(ready.number)
      out.push(...ready.sendNow, ...ready.sendAfterPersist)
      if (ready.apply.length > 0) node.appliedTo(ready.apply.at(-1)?.index as number)
    }
    return out
  }
  node.step({ type: 'vote', from: 'b', to: 'a', term: 7, lastIndex: 9, lastTerm: 6, transfer: false })
  assert.deepEqual(
    all()
      .filter((m) => m.type === 'voteReply')
      .map((m) => m.type === 'voteReply' && m.granted),
    [false],
  )
  for (let now = 0; now <= 3000; now += 50) node.tick(now)
  assert.equal(node.status().role, 'follower', 'it does not campaign')
  assert.deepEqual(
    [
      ...new Set(
        all()
          .filter((m) => m.type === 'termQuery')
          .map((m) => m.to),
      ),
    ],
    others,
  )
  for (const from of others) node.step({ type: 'termReply', from, to: 'a', term: 9 })
  const entry = {
    term: 8,
    index: 1,
    formatVersion: 1,
    kind: 'noop' as const,
    clientId: '',
    clientSeq: 0,
    payload: new Uint8Array(0),
  }
  node.step({ type: 'append', from: 'b', to: 'a', term: 8, prevIndex: 0, prevTerm: 0, entries: [entry], commit: 1 })
  all()
  node.tick(3050)
  const read = all().find((m) => m.type === 'readIndex')
  assert.ok(read?.type === 'readIndex')
  assert.equal(node.status().mayVote, false)
  node.step({ type: 'readIndexReply', from: 'b', to: 'a', term: 8, context: read.context, index: 1, refused: false })
  node.tick(3100)
  assert.equal(node.status().mayVote, false, 'not before the terms in which it never votes again are on disk')
  all()
  assert.equal(node.status().mayVote, true)
  assert.equal(node.status().term, 9)
  for (let now = 3150; now < 3600; now += 50) node.tick(now)
  node.step({ type: 'vote', from: 'c', to: 'a', term: 9, lastIndex: 9, lastTerm: 8, transfer: true })
  const replies = all().filter((m) => m.type === 'voteReply')
  assert.deepEqual(
    replies.map((m) => m.type === 'voteReply' && m.granted),
    [false],
    'in a term that it may have voted in, never',
  )
})

test('planted bugs need a second word', () => {
  const options = { member: 'a', configuration: { voters: ['a'], learners: [] }, random: () => 0, nowMs: 0 }
  assert.throws(() => new RaftNode({ ...options, plantedBugs: ['stale-read'] }), RangeError)
  assert.doesNotThrow(() => new RaftNode({ ...options, plantedBugs: ['stale-read'], allowPlantedBugs: true }))
})

test('garbage is refused and changes nothing', () => {
  const node = new RaftNode({
    member: 'a',
    configuration: { voters: ['a', 'b'], learners: [] },
    random: () => 0,
    nowMs: 0,
  })
  const before = JSON.stringify(node.status().term)
  fc.assert(
    fc.property(
      fc.record({
        type: fc.constantFrom('append', 'vote', 'heartbeat', 'snapshot', 'readIndex', 'nonsense'),
        from: fc.constantFrom('b', 'z', 7),
        to: fc.constantFrom('a', 'b'),
        term: fc.constantFrom(-1, 0.5, 'x', null),
        entries: fc.anything(),
      }),
      (message) => {
        assert.equal(node.step(message as unknown as RaftMessage), false)
        assert.equal(JSON.stringify(node.status().term), before)
      },
    ),
  )
})
