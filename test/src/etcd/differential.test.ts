import assert from 'node:assert/strict'
import { isDeepStrictEqual } from 'node:util'
import { after, before, describe, test } from 'node:test'
import fc from 'fast-check'
import { comparable } from './compare.js'
import { EtcdServer, etcdVersion } from './etcd-server.js'
import { FaceCluster } from './face-cluster.js'
import { requests } from './generated-requests.js'
import { GrpcClient, type Json, type Outcome } from './grpc-client.js'
import { REQUESTS } from './requests.js'

const version = etcdVersion()

describe('the face and etcd answer the same', {
  skip: version ? false : 'there is no etcd here (Debian package etcd-server)',
}, () => {
  let cluster: FaceCluster
  let etcd: EtcdServer
  let ours: GrpcClient
  let theirs: GrpcClient

  before(async () => {
    ;[cluster, etcd] = await Promise.all([FaceCluster.start(), EtcdServer.start()])
    // What the two do not share: only the leader moves its leadership.
    ours = new GrpcClient(cluster.endpoint(await cluster.leader()), cluster.directory)
    theirs = new GrpcClient(etcd.endpoint)
  })
  after(async () => {
    ours?.close()
    theirs?.close()
    await Promise.all([cluster?.end(), etcd?.stop()])
  })

  const both = async (path: string, request?: Json): Promise<[Outcome, Outcome]> => {
    // Should leadership have moved, our member may be some milliseconds late. A read that is none of its own makes it catch up.
    if (request?.serializable) await ours.call('KV/Range', { key: Buffer.from('k') })
    return Promise.all([ours.call(path, request), theirs.call(path, request)])
  }

  test('to each request of the list', async () => {
    const different: string[] = []
    for (const [path, request] of REQUESTS) {
      const [a, b] = comparable(...(await both(path, request)))
      if (!isDeepStrictEqual(a, b)) different.push(`${path} ${show(request)?.slice(0, 300)}${difference(a, b)}`)
    }
    assert.equal(different.length, 0, different.join('\n'))
  })

  test('to generated requests', async () => {
    // What came before is part of every request, so a shorter list would not fail again: nothing is shrunk.
    const seed = Number(process.env.ETCD_DIFFERENTIAL_SEED ?? Date.now() % 1_000_000)
    const numRuns = Number(process.env.ETCD_DIFFERENTIAL_REQUESTS ?? 200)
    for (const [at, [path, request]] of fc.sample(requests(), { seed, numRuns }).entries()) {
      const [a, b] = comparable(...(await both(path, request)))
      assert.deepEqual(
        a,
        b,
        `ETCD_DIFFERENTIAL_SEED=${seed}, request ${at}: ${path} ${show(request)}${difference(a, b)}`,
      )
    }
  })
})

const show = (request: unknown): string =>
  JSON.stringify(request, (_, value) => (value?.type === 'Buffer' ? Buffer.from(value.data).toString('latin1') : value))

const difference = (ours: unknown, theirs: unknown): string =>
  `\nours:   ${JSON.stringify(ours)}\ntheirs: ${JSON.stringify(theirs)}`
