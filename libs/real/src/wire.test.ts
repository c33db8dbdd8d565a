/** Calls (libs/actor) whose bodies are large. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Caller, serve } from '@capstan/actor'
import { grants, type Identity, identityToken, Subjects } from '@capstan/protocol'
import { MemoryBroker } from './memory-bus.js'
import { RealClock } from './real-clock.js'
import { silentLog } from './real-log.js'

const MIB = 1024 * 1024
const subjects = new Subjects('c')

test('large answers that are ready together all come; one that is too large is told, and hinders no other', async () => {
  const clock = new RealClock()
  const broker = new MemoryBroker()
  const world = (identity: Identity) => {
    const token = identityToken(identity)
    const bus = broker.connect({ identity: token, inbox: subjects.inbox(token, '1'), grants: grants('c', identity) })
    return { clock, bus, log: silentLog }
  }
  const handle = ({ body }: { body: unknown }) => {
    const { bytes, answerBytes } = body as { bytes: Uint8Array; answerBytes: number }
    return { got: bytes.length, answer: new Uint8Array(answerBytes) }
  }
  const server = serve(world({ component: 'store', name: 's' }), { pattern: subjects.storeServed('s'), handle })
  const client = world({ component: 'apiserver', name: 'a' })
  const caller = new Caller(client)
  const ask = async (requestBytes: number, answerBytes: number) => {
    const body = { bytes: new Uint8Array(requestBytes), answerBytes }
    const reply = await caller.call(subjects.store('s', client.bus.identity, 'txn'), body, { timeoutMs: 20_000 })
    const { got, answer } = reply as { got: number; answer: Uint8Array }
    return [got, answer.length]
  }
  assert.deepEqual(await Promise.all([ask(1, 20 * MIB), ask(2, 20 * MIB), ask(3 * MIB, 1), ask(1, 3)]), [
    [1, 20 * MIB],
    [2, 20 * MIB],
    [3 * MIB, 1],
    [1, 3],
  ])
  await Promise.all([
    assert.rejects(ask(1, 65 * MIB), { code: 'PAYLOAD_TOO_LARGE', outcome: 'maybe-applied', message: /the answer/ }),
    ask(1, 1),
  ])
  await assert.rejects(ask(65 * MIB, 1), { code: 'PAYLOAD_TOO_LARGE', outcome: 'not-applied' })
  caller.close()
  server.stop()
})
