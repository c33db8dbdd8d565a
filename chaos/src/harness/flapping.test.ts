import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RealRandom } from '@capstan/real'
import { faultNamed } from './faults.js'
import type { Target } from './types.js'

/** Flaps the link between two machines; `cut` is asked for each way, each time. */
async function flapping(cut: (time: number) => Promise<{ proof: string; undo(): Promise<string> }>) {
  let timers: (() => void)[] = []
  const clock = {
    setTimer: (_: number, run: () => void) => {
      timers.push(run)
      return { cancel: () => (timers = timers.filter((one) => one !== run)) }
    },
  }
  let asked = 0
  const machines = ['a', 'b'].map((name) => ({ name, role: 'node', address: name }))
  const levers = { network: { cut: () => cut(++asked) } }
  const target = { machines, access: { clock }, levers, lacks: {} } as unknown as Target
  const done = await faultNamed('flapping').inject(target, { whom: 'a', onMs: 1, offMs: 1 }, new RealRandom())
  /** On, off, on, … */
  const turn = async () => {
    await new Promise((resolve) => setImmediate(resolve))
    for (const run of timers.splice(0)) run()
    await new Promise((resolve) => setImmediate(resolve))
  }
  return { turn, undo: () => done.undo() }
}

const cutOnce = () => Promise.resolve({ proof: 'cut', undo: async () => 'whole' })

test('a link that another fault cuts meanwhile has nothing to drop: flapping goes on, and says so', async () => {
  const { turn, undo } = await flapping((time) =>
    time > 2 && time <= 4 ? Promise.reject(new Error('0 dropped')) : cutOnce(),
  )
  for (let turns = 0; turns < 4; turns++) await turn()
  const ended = undo()
  await turn()
  assert.equal(await ended, 'whole again, after 2 cuts; 1 more took no effect')
})

test('a cut that cannot be undone is told when the fault is', async () => {
  const { turn, undo } = await flapping(() =>
    Promise.resolve({ proof: 'cut', undo: () => Promise.reject(new Error('the rule is still there')) }),
  )
  await turn()
  await assert.rejects(undo(), /the rule is still there/)
})

test('a cut that half failed, and is half in force, is told when the fault is undone', async () => {
  const stays = { proof: 'cut', undo: () => Promise.reject(new Error('the rule is still there')) }
  const { turn, undo } = await flapping((time) => {
    if (time === 4) return Promise.reject(new Error('0 dropped'))
    return time === 3 ? Promise.resolve(stays) : cutOnce()
  })
  for (let turns = 0; turns < 3; turns++) await turn()
  await assert.rejects(undo(), /0 dropped; and what was done of it could not be undone: .*the rule is still there/)
})
