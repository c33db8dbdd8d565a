import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { changeConfiguration, decodeConfiguration, encodeConfiguration, isJoint, leaveJoint } from './configuration.js'
import { Quorum } from './quorum.js'
import type { Configuration, MemberChange } from './types.js'

const NAMES = ['a', 'b', 'c', 'd', 'e', 'f']
const roles = fc.array(fc.constantFrom('voter', 'learner', 'none'), { minLength: 6, maxLength: 6 })
const configurations = roles
  .map((list): Configuration => {
    const who = (role: string) => NAMES.filter((_, i) => list[i] === role)
    return { voters: who('voter'), learners: who('learner') }
  })
  .filter(({ voters }) => voters.length > 0)
/** What leads from one to the other. */
function changesBetween(from: Configuration, to: Configuration): MemberChange[] {
  return NAMES.flatMap((member): MemberChange[] => {
    const [was, is] = [roleIn(from, member), roleIn(to, member)]
    if (was === is) return []
    if (is === 'none') return [{ type: 'remove', member }]
    if (was === 'none') return [{ type: is === 'voter' ? 'addVoter' : 'addLearner', member }]
    return [{ type: is === 'voter' ? 'promote' : 'demote', member }]
  })
}
const roleIn = ({ voters, learners }: Configuration, member: string) =>
  voters.includes(member) ? 'voter' : learners.includes(member) ? 'learner' : 'none'

/** Every majority, by trying all subsets. */
function majorities(configuration: Configuration): number[] {
  const halves = [configuration.voters, ...(configuration.outgoing ? [configuration.outgoing] : [])]
  const all: number[] = []
  for (let subset = 0; subset < 1 << NAMES.length; subset++) {
    const count = (half: readonly string[]) => half.filter((name) => subset & (1 << NAMES.indexOf(name))).length
    if (halves.every((half) => count(half) > half.length / 2)) all.push(subset)
  }
  return all
}

test('any two majorities of neighbouring configurations meet (thesis §4.1, §4.3)', () => {
  let joint = 0
  fc.assert(
    fc.property(configurations, configurations, (from, to) => {
      const list = changesBetween(from, to)
      const changed = changeConfiguration(from, list)
      if ('problem' in changed) return assert.equal(list.length, 0)
      const steps = [from, changed.configuration]
      if (isJoint(changed.configuration)) {
        joint++
        steps.push(leaveJoint(changed.configuration))
      }
      for (let i = 1; i < steps.length; i++) {
        const [one, other] = [majorities(steps[i - 1] as Configuration), majorities(steps[i] as Configuration)]
        for (const a of one) for (const b of other) assert.ok((a & b) !== 0, JSON.stringify(steps))
      }
      // What was asked for is what comes out, and nobody is two things at once.
      const last = steps[steps.length - 1] as Configuration
      assert.equal(new Set([...last.voters, ...last.learners]).size, last.voters.length + last.learners.length)
      for (const name of NAMES) assert.equal(roleIn(last, name), roleIn(to, name))
    }),
    { numRuns: 200 },
  )
  assert.ok(joint > 20)
})

test('a quorum is what counting says, in both halves', () => {
  const values = fc.array(fc.nat(9), { minLength: 6, maxLength: 6 })
  fc.assert(
    fc.property(configurations, fc.option(configurations), values, (now, before, list) => {
      const configuration = before ? { ...now, outgoing: before.voters } : now
      const quorum = new Quorum(configuration)
      const valueOf = (name: string) => list[NAMES.indexOf(name)] as number
      let expected = 0
      for (let value = 0; value <= 9; value++) {
        const subset = NAMES.reduce((bits, name, i) => (valueOf(name) >= value ? bits | (1 << i) : bits), 0)
        const has = majorities(configuration).includes(subset)
        assert.equal(
          quorum.has((name) => valueOf(name) >= value),
          has,
        )
        if (has) expected = value
      }
      assert.equal(quorum.reached(valueOf), expected)
    }),
  )
})

test('of nobody there is no majority', () => {
  const quorum = new Quorum({ voters: [], learners: ['a'] })
  assert.equal(
    quorum.has(() => true),
    false,
  )
  assert.equal(
    quorum.reached(() => 7),
    0,
  )
})

test('a configuration is read back from an entry; what is none is refused', () => {
  fc.assert(
    fc.property(configurations, fc.option(configurations), (now, before) => {
      const configuration = before ? { ...now, outgoing: before.voters, learnersNext: before.learners } : now
      assert.deepEqual(decodeConfiguration(encodeConfiguration(configuration)), configuration)
    }),
  )
  for (const text of ['', '{', 'null', '{"voters":["a"]}', '{"voters":[1],"learners":[]}'])
    assert.throws(() => decodeConfiguration(new TextEncoder().encode(text)), RangeError)
})
