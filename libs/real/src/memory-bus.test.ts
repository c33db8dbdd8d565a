import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BusError } from '@capstan/actor'
import { subjectFits } from '@capstan/protocol'
import fc from 'fast-check'
import { MemoryBroker } from './memory-bus.js'
import { SubjectTree } from './subject-tree.js'
import { busContract } from './testing/bus-contract.js'

busContract('in process', () => {
  const broker = new MemoryBroker()
  return Promise.resolve({ connect: (options) => Promise.resolve(broker.connect(options)) })
})

const all = { publish: ['>'], subscribe: ['>'] }
const overloaded = (error: unknown) => error instanceof BusError && error.code === 'OVERLOADED'

test('a receiver with too much waiting refuses more, to its sender and to nobody else', async () => {
  const broker = new MemoryBroker({ pendingMax: 3, pendingBytesMax: 100 })
  const [a, slow, other] = ['a', 'slow', 'other'].map((identity) =>
    broker.connect({ identity, inbox: `inbox.${identity}`, grants: all }),
  ) as [ReturnType<MemoryBroker['connect']>, ReturnType<MemoryBroker['connect']>, ReturnType<MemoryBroker['connect']>]
  const heard: number[] = []
  slow.subscribe('to.slow', (message) => heard.push(message.payload.length))
  slow.subscribe('to.both', () => assert.fail('all or none'))
  const otherHeard: number[] = []
  other.subscribe('to.>', (message) => otherHeard.push(message.payload.length))
  for (let i = 1; i <= 2; i++) a.publish('to.slow', new Uint8Array(i))
  assert.throws(() => a.publish('to.slow', new Uint8Array(98)), overloaded)
  a.publish('to.slow', new Uint8Array(3))
  assert.throws(() => a.publish('to.slow', new Uint8Array(1)), overloaded)
  await assert.rejects(a.request('to.both', new Uint8Array(0), { timeoutMs: 1000 }), overloaded)
  await new Promise(setImmediate)
  assert.deepEqual(heard, [1, 2, 3])
  assert.deepEqual(otherHeard, [1, 2, 3])
  a.publish('to.slow', new Uint8Array(4))
  await new Promise(setImmediate)
  assert.deepEqual(heard, [1, 2, 3, 4])
})

test('the tree finds what a look at every pattern finds', () => {
  const token = fc.constantFrom('a', 'b', 'c')
  const pattern = fc
    .tuple(fc.array(fc.oneof(token, fc.constant('*')), { minLength: 1, maxLength: 4 }), fc.boolean())
    .map(([tokens, rest]) => [...tokens, ...(rest ? ['>'] : [])].join('.'))
  const subject = fc.array(token, { minLength: 1, maxLength: 5 }).map((tokens) => tokens.join('.'))
  fc.assert(
    fc.property(
      fc.array(fc.tuple(pattern, fc.boolean()), { maxLength: 20 }),
      fc.array(subject, { maxLength: 10 }),
      (patterns, subjects) => {
        const tree = new SubjectTree<number>()
        for (const [i, [p]] of patterns.entries()) tree.add(p, i)
        for (const [i, [p, removed]] of patterns.entries()) if (removed) tree.remove(p, i)
        for (const s of subjects) {
          const expected = [...patterns.entries()]
            .filter(([, [p, removed]]) => !removed && subjectFits(p, s))
            .map(([i]) => i)
          assert.deepEqual(
            tree.find(s).sort((x, y) => x - y),
            expected,
          )
        }
      },
    ),
  )
})
