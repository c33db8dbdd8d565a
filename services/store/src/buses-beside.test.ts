import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MemoryBroker } from '@capstan/real'
import { type BesideBus, BusesBeside } from './buses-beside.js'

const GRANTS = { publish: ['>'], subscribe: ['>'] }

test('one connection for each other member, for as long as it is named, to where it is', async () => {
  const broker = new MemoryBroker()
  const happened: string[] = []
  const beside = new BusesBeside('a', async (member, server, signal) => {
    happened.push(`connect ${member} ${server}`)
    if (server === 'nowhere')
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('given up'))))
    const bus = broker.connect({ identity: `x~${member}`, inbox: `inbox.${member}`, grants: GRANTS })
    return Object.assign(bus, {
      setServers: (servers: readonly string[]) => happened.push(`${member} moves to ${servers.join()}`),
      close: async () => void happened.push(`close ${member}`),
    }) as unknown as BesideBus
  })
  const turns = () => new Promise((resolve) => setImmediate(resolve))
  const news = () => happened.splice(0)

  beside.follow({ a: 'a:1', b: 'b:1', c: 'nowhere' })
  assert.equal(beside.get('b'), undefined, 'not up yet')
  await turns()
  assert.deepEqual(news(), ['connect b b:1', 'connect c nowhere'])
  assert.equal(beside.get('a'), undefined, 'none to itself')
  assert.notEqual(beside.get('b'), undefined)
  assert.equal(beside.get('c'), undefined)

  beside.follow({ a: 'a:1', b: 'b:2', c: 'c:1' })
  await turns()
  assert.deepEqual(news(), ['b moves to b:2', 'connect c c:1'], 'an attempt to where it is no more is given up')
  assert.notEqual(beside.get('c'), undefined)

  beside.follow({ a: 'a:1', c: 'c:1' })
  await turns()
  assert.deepEqual(news().sort(), ['c moves to c:1', 'close b'])
  assert.equal(beside.get('b'), undefined)
  await beside.close()
  assert.deepEqual(news(), ['close c'])
})
