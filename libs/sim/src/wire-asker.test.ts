import assert from 'node:assert/strict'
import test from 'node:test'
import { encode, serve } from '@capstan/actor'
import { grants, identityToken, Subjects } from '@capstan/protocol'
import { Simulation } from './simulation.js'

test('an answer goes to who asked and to nobody else (A2)', async () => {
  const simulation = new Simulation({ seed: 'asker' })
  const subjects = new Subjects('c')
  const world = (component: 'apiserver' | 'kubelet' | 'scheduler', name: string) => {
    const identity = { component, name }
    const token = identityToken(identity)
    return simulation
      .machine(name)
      .world({ identity: token, inbox: subjects.inbox(token, 'i'), grants: grants('c', identity) })
  }
  const server = world('apiserver', 'm')
  serve(server, { pattern: subjects.apiServed('m'), handle: () => 'an answer' })
  const scheduler = world('scheduler', 's')
  const heard: string[] = []
  scheduler.bus.subscribe(`${scheduler.bus.inbox}.>`, (message) => void heard.push(message.subject))
  const node = world('kubelet', 'n')
  const own: string[] = []
  node.bus.subscribe(`${node.bus.inbox}.>`, (message) => void own.push(message.subject))
  const ask = (replyTo: string) =>
    node.bus.publish(subjects.api('m', node.bus.identity, 'get'), encode([1, 'req', null, [[1, 1000, {}, 0]]]), {
      replyTo,
    })
  ask(`${scheduler.bus.inbox}.c1.1`)
  ask(`${node.bus.inbox}.c1.1`)
  await simulation.run({ untilMs: 1000 })
  assert.deepEqual(heard, [])
  assert.deepEqual(own, [`${node.bus.inbox}.c1.1`])
})
