import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { comparable } from './compare.js'
import { EtcdServer, etcdVersion } from './etcd-server.js'
import { FaceCluster } from './face-cluster.js'
import { GrpcClient, type GrpcStream, type Json } from './grpc-client.js'

const b = (text: string) => Buffer.from(text, 'latin1')

interface Side {
  client: GrpcClient
  stream: GrpcStream
}

const version = etcdVersion()

describe('watches of the face and of etcd', {
  skip: version ? false : 'there is no etcd here (Debian package etcd-server)',
}, () => {
  let cluster: FaceCluster
  let etcd: EtcdServer
  let clients: GrpcClient[] = []

  before(async () => {
    ;[cluster, etcd] = await Promise.all([FaceCluster.start(), EtcdServer.start()])
    clients = [new GrpcClient(cluster.endpoint('m2'), cluster.directory), new GrpcClient(etcd.endpoint)]
  })
  after(async () => {
    for (const client of clients) client.close()
    await Promise.all([cluster?.end(), etcd?.stop()])
  })

  /** Runs it against both on a stream of its own; what was received must be the same. */
  async function same(run: (side: Side) => Promise<Json[]>): Promise<Json[]> {
    const [ours, theirs] = await Promise.all(
      clients.map(async (client) => {
        const stream = client.open('Watch/Watch')
        try {
          return await run({ client, stream })
        } finally {
          stream.cancel()
        }
      }),
    )
    const [a, c] = comparable(byWatch(ours as Json[]), byWatch(theirs as Json[]))
    assert.deepEqual(a, c)
    return ours as Json[]
  }

  test('begin: numbers given and drawn, taken twice, empty ranges, then their end', async () => {
    await same(async ({ stream }) => {
      stream.send({ create_request: { key: b('a') } })
      stream.send({ create_request: { key: b('a'), watch_id: 1 } })
      stream.send({ create_request: { key: b('a') } })
      stream.send({ create_request: { key: b('a'), watch_id: 1 } })
      stream.send({ create_request: { key: b('b'), range_end: b('a') } })
      stream.send({ create_request: { key: b('b'), range_end: b('b') } })
      stream.send({ create_request: {} })
      await stream.until(7)
      stream.send({ cancel_request: { watch_id: 99 } })
      stream.send({ cancel_request: { watch_id: 1 } })
      stream.send({ cancel_request: { watch_id: 1 } })
      stream.send({ cancel_request: { watch_id: 0 } })
      stream.send({})
      stream.send({ create_request: { key: b('a'), watch_id: 1 } })
      return stream.until(10)
    })
  })

  test('events: ranges, filters, previous values, several watches, each revision once', async () => {
    await same(async ({ client, stream }) => {
      stream.send({ create_request: { key: b('w'), range_end: b('x'), prev_kv: true } })
      stream.send({ create_request: { key: b('w1') } })
      stream.send({ create_request: { key: b('w'), range_end: b('x'), filters: ['NOPUT'] } })
      stream.send({ create_request: { key: b('w'), range_end: b('x'), filters: ['NODELETE'] } })
      stream.send({ create_request: { key: b('v'), range_end: b('\0'), filters: ['NOPUT', 'NODELETE'] } })
      stream.send({ create_request: { key: b('w2'), range_end: b('\0') } })
      await stream.until(6)
      await client.call('KV/Put', { key: b('w1'), value: b('1') })
      await client.call('KV/Put', { key: b('w1'), value: b('2') })
      await client.call('KV/Put', { key: b('other'), value: b('2') })
      await client.call('KV/Txn', {
        success: [
          { request_put: { key: b('w2'), value: b('t') } },
          { request_put: { key: b('w3'), value: b('t') } },
          { request_delete_range: { key: b('w1') } },
        ],
      })
      await client.call('KV/DeleteRange', { key: b('w'), range_end: b('x') })
      await client.call('KV/DeleteRange', { key: b('w'), range_end: b('x') })
      return stream.until((received) => eventsOf(received).length >= 7 + 3 + 3 + 4 + 4)
    })
  })

  test('the past: from a revision on, with what was there before', async () => {
    await same(async ({ client, stream }) => {
      const { ok } = (await client.call('KV/Put', { key: b('p'), value: b('1') })) as Json
      for (let at = 0; at < 20; at++) await client.call('KV/Put', { key: b(`p${at % 3}`), value: b(String(at)) })
      await client.call('KV/DeleteRange', { key: b('p1') })
      const from = Number(ok.header.revision)
      stream.send({ create_request: { key: b('p'), range_end: b('q'), start_revision: from, prev_kv: true } })
      stream.send({ create_request: { key: b('p1'), start_revision: from + 5 } })
      stream.send({ create_request: { key: b('p'), range_end: b('q'), start_revision: from + 23 } })
      await stream.until((received) => eventsOf(received).length >= 22 + 7)
      await client.call('KV/Put', { key: b('p'), value: b('in between') })
      await client.call('KV/Put', { key: b('p'), value: b('last') })
      return stream.until((received) => eventsOf(received).length >= 29 + 2 + 1)
    })
  })

  test('compacted history: the watch ends with where history begins, its number stays taken', async () => {
    await same(async ({ client, stream }) => {
      for (let at = 0; at < 5; at++) await client.call('KV/Put', { key: b('c'), value: b(String(at)) })
      const { ok } = (await client.call('KV/Put', { key: b('c'), value: b('x') })) as Json
      const revision = Number(ok.header.revision)
      await client.call('KV/Compact', { revision: revision - 2 })
      // The member that is asked may be a follower, and hears of it a moment after the answer: a read waits for that.
      await client.call('KV/Range', { key: b('c') })
      stream.send({ create_request: { key: b('c'), start_revision: revision - 3, watch_id: 5 } })
      await stream.until(2)
      stream.send({ create_request: { key: b('c'), start_revision: revision - 2, watch_id: 5 } })
      await stream.until(3)
      stream.send({ cancel_request: { watch_id: 5 } })
      await stream.until(4)
      stream.send({ create_request: { key: b('c'), start_revision: revision - 2, watch_id: 5 } })
      return stream.until((received) => eventsOf(received).length >= 3)
    })
  })

  test('progress that is asked for names a revision up to which everything has come', async () => {
    const received = await same(async ({ client, stream }) => {
      stream.send({ create_request: { key: b('g') } })
      await stream.until(1)
      await client.call('KV/Put', { key: b('elsewhere'), value: b('1') })
      await client.call('KV/Put', { key: b('g'), value: b('1') })
      await stream.until(2)
      stream.send({ progress_request: {} })
      return stream.until(3)
    })
    assert.equal(received[2].watch_id, '-1')
  })

  test('a large answer comes in fragments to who asked for them', async () => {
    await same(async ({ client, stream }) => {
      const { ok } = (await client.call('KV/Put', { key: b('f'), value: b('') })) as Json
      const from = Number(ok.header.revision) + 1
      for (let at = 0; at < 3; at++)
        await client.call('KV/Put', { key: b(`f${at}`), value: Buffer.alloc(1_000_000, String(at)) })
      stream.send({ create_request: { key: b('f'), range_end: b('g'), start_revision: from, fragment: true } })
      const received = await stream.until((all) => eventsOf(all).length >= 3)
      // How many come in one message depends on how they were read; that none is too large does not.
      const sizes = received.map(({ events }) => events.reduce((sum: number, { kv }: Json) => sum + kv.value.length, 0))
      assert.ok(
        sizes.every((size) => size <= 2 * 1024 * 1024),
        sizes.join(),
      )
      assert.equal(received.at(-1).fragment, false)
      for (const one of received) one.fragment = 'not compared'
      return received
    })
  })

  test('an end of the requests is not the end of the watches', async () => {
    await same(async ({ client, stream }) => {
      stream.send({ create_request: { key: b('h') } })
      await stream.until(1)
      stream.finish()
      await client.call('KV/Put', { key: b('h'), value: b('1') })
      return stream.until(2)
    })
  })
})

const eventsOf = (received: Json[]): Json[] => received.flatMap(({ events }) => events)

/**
 * What each watch was told: its news in order, and its events, however they were put into messages. Answers to creating
 * and cancelling keep their order on the stream.
 */
function byWatch(received: Json[]): Json {
  const news = received.filter(({ events }) => events.length === 0)
  const events: Record<string, Json[]> = {}
  for (const one of received)
    events[`watch ${one.watch_id}`] = [...(events[`watch ${one.watch_id}`] ?? []), ...one.events]
  return { news, events }
}
