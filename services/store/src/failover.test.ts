import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ELECTION_TIMEOUT_MS, grants, HEARTBEAT_MS, identityToken, Subjects } from '@capstan/protocol'
import { Simulation } from '@capstan/sim'
import type { StoreHandle } from './options.js'
import { startStore } from './start-store.js'

const MEMBERS = ['s0', 's1', 's2']
const LOOK_MS = 10

class Members {
  readonly handles = new Map<string, StoreHandle>()
  readonly simulation: Simulation

  constructor(seed: string) {
    this.simulation = new Simulation({ seed })
    const subjects = new Subjects('c')
    for (const name of MEMBERS) {
      const identity = { component: 'store', name } as const
      const token = identityToken(identity)
      const world = this.simulation.machine(name).world({
        identity: token,
        inbox: subjects.inbox(token, 'i'),
        grants: grants('c', identity),
      })
      const options = {
        cluster: 'c',
        clusterId: 'simulated',
        member: name,
        members: MEMBERS,
        emptyDirectory: 'new',
      } as const
      void startStore(world, { ...options, heartbeatMs: HEARTBEAT_MS, electionTimeoutMs: ELECTION_TIMEOUT_MS }).then(
        (handle) => this.handles.set(name, handle),
      )
    }
  }

  /** Virtual ms until exactly one of the members that are up leads and the others follow it. */
  async leader(within: number): Promise<{ name: string; term: number; afterMs: number }> {
    const { simulation } = this
    const beganMs = simulation.nowMs
    for (;;) {
      const up = MEMBERS.filter((name) => simulation.machine(name).up && this.handles.has(name))
      const statuses = await Promise.all(up.map((name) => (this.handles.get(name) as StoreHandle).status()))
      const leads = statuses.filter(({ role }) => role === 'leader')
      const name = leads[0]?.header.member
      if (name !== undefined && up.length >= 2 && statuses.every((s) => s.leader === name && s.term === leads[0]?.term))
        return { name, term: leads[0]?.term ?? 0, afterMs: simulation.nowMs - beganMs }
      assert.ok(simulation.nowMs - beganMs < within, `no leader in ${within} ms`)
      await simulation.run({ untilMs: simulation.nowMs + LOOK_MS })
    }
  }
}

test('a leader whose process is gone is replaced in two heartbeats or so, not after an election time-out', async () => {
  const gaps: number[] = []
  for (let seed = 0; seed < 15; seed++) {
    const members = new Members(`failover/${seed}`)
    const first = await members.leader(10_000)
    await members.simulation.run({ untilMs: members.simulation.nowMs + 500 + seed * 3 })
    members.simulation.machine(first.name).crash()
    const { afterMs } = await members.leader(5000)
    gaps.push(afterMs)
  }
  gaps.sort((a, b) => a - b)
  assert.ok((gaps[7] as number) < 3.5 * HEARTBEAT_MS, `median ${gaps[7]} ms of ${gaps.join(' ')}`)
  assert.ok((gaps[14] as number) < ELECTION_TIMEOUT_MS, `worst ${gaps[14]} ms of ${gaps.join(' ')}`)
})

test('a leader that one follower does not hear of keeps its office', async () => {
  const members = new Members('unheard')
  const { simulation } = members
  const { name, term } = await members.leader(10_000)
  const [cut, other] = MEMBERS.filter((member) => member !== name) as [string, string]
  // Cut off from both, so that the bus' word about the leader is all that it has.
  for (const peer of [name, other]) {
    simulation.network.link(cut, peer).cut = true
    simulation.network.link(peer, cut).cut = true
  }
  await simulation.run({ untilMs: simulation.nowMs + 2000 })
  simulation.network.heal()
  await simulation.run({ untilMs: simulation.nowMs + 1000 })
  assert.deepEqual({ ...(await members.leader(1000)), afterMs: 0 }, { name, term, afterMs: 0 })
})
