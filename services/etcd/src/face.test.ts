import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { CallError, encode, type IncomingCall, serve } from '@capstan/actor'
import { grants, type Identity, identityToken, type StoreHeader, Subjects, type TxnRequest } from '@capstan/protocol'
import { MemoryBroker, MemoryDisk, RealClock, RealRandom, silentLog } from '@capstan/real'
import { EtcdError, toEtcdError } from './etcd-error.js'
import { startEtcdFace } from './face.js'
import { idOf } from './ids.js'
import type { Method } from './rpc.js'
import { Sessions } from './store-access.js'
import { fragments } from './watch-feeds.js'

const CLUSTER = 'face-test'
const HEADER: StoreHeader = { clusterId: 'c', member: 's1', term: 3, revision: 9 }
const bytes = (text: string) => Buffer.from(text)

/** A face over members that answer what the test says. */
function faceOver(members: Record<string, (call: IncomingCall) => unknown>, timeoutMs = 7000) {
  const broker = new MemoryBroker()
  const subjects = new Subjects(CLUSTER)
  const clock = new RealClock()
  const connect = (identity: Identity) => {
    const token = identityToken(identity)
    return broker.connect({ identity: token, inbox: subjects.inbox(token, 'i'), grants: grants(CLUSTER, identity) })
  }
  const servers = Object.entries(members).map(([name, handle]) =>
    serve(
      { clock, bus: connect({ component: 'store', name }), log: silentLog },
      { pattern: subjects.storeServed(name), handle },
    ),
  )
  const bus = connect({ component: 'etcd', name: 's1' })
  const face = startEtcdFace(
    { clock, random: new RealRandom(), bus, disk: new MemoryDisk(), log: silentLog },
    { cluster: CLUSTER, member: 's1', members: Object.keys(members), clientUrls: {}, requestTimeoutMs: timeoutMs },
  )
  const context = {
    signal: new AbortController().signal,
    gone: false,
    remainingMs: undefined,
    requireLeader: false,
    bytes: 0,
  }
  return {
    call(path: string, request: object): Promise<Record<string, unknown>> {
      const method = face.methods[path] as Extract<Method, { kind: 'unary' }>
      // As it comes off the wire: with zero values for what is left out.
      const message = method.request.decode(method.request.encode(request as Record<string, never>))
      return method.handle(message as never, context) as Promise<Record<string, unknown>>
    },
    /** As a member says it every second, and when it begins to lead. */
    leads(name: string, term: number) {
      const beat = {
        component: 'store',
        instance: name,
        machine: name,
        seq: 1,
        incarnation: 'x',
        role: 'leader',
        ready: true,
      }
      const store = connect({ component: 'store', name })
      store.publish(subjects.beat('store', name), encode({ ...beat, load: { term } }))
    },
    close() {
      face.close()
      for (const server of servers) server.stop()
    },
  }
}

const failing = (code: string, outcome: 'not-applied' | 'maybe-applied') => () => {
  throw new CallError(code, outcome, 'as the test wants it')
}
const told = async (promise: Promise<unknown>): Promise<string> => {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => toEtcdError(reason),
  )
  return error ? `${error.code} ${error.message}` : 'ok'
}

describe('a request that may have happened', () => {
  test('a write is sent again under the same session', async () => {
    const seen: TxnRequest['session'][] = []
    const answer = (call: IncomingCall) => {
      seen.push((call.body as TxnRequest).session)
      if (seen.length < 3) throw new CallError('LEADER_CHANGED', 'maybe-applied', 'lost')
      return { header: HEADER, succeeded: true, replies: [{ type: 'put' }] }
    }
    const face = faceOver({ s1: answer, s2: answer })
    try {
      const reply = await face.call('/etcdserverpb.KV/Put', { key: bytes('a'), value: bytes('1') })
      assert.deepEqual(reply, {
        header: { clusterId: idOf('cluster', 'c'), memberId: idOf('member', 's1'), revision: 9, raftTerm: 3 },
      })
      assert.equal(seen.length, 3)
      assert.equal(new Set(seen.map((one) => JSON.stringify(one))).size, 1)
    } finally {
      face.close()
    }
  })

  test('a leader that is cut off is not waited for: the next one is asked as soon as it says that it leads', async () => {
    let asked: () => void = () => undefined
    const silent = new Promise<void>((resolve) => {
      asked = resolve
    })
    const face = faceOver(
      {
        s1: () => new Promise(() => asked()),
        s2: () => ({ header: HEADER, succeeded: true, replies: [{ type: 'put' }] }),
      },
      // No second attempt would come after the first one's time.
      900,
    )
    try {
      face.leads('s1', 3)
      await new Promise((resolve) => setImmediate(resolve))
      const reply = face.call('/etcdserverpb.KV/Put', { key: bytes('a'), value: bytes('1') })
      await silent
      face.leads('s2', 4)
      // It does not know yet that it was replaced.
      face.leads('s1', 3)
      assert.equal(((await reply).header as { revision: number }).revision, 9)
      assert.ok(await face.call('/etcdserverpb.KV/Put', { key: bytes('a'), value: bytes('2') }))
    } finally {
      face.close()
    }
  })

  test('what bears no session is not, and is told as etcd tells it', async () => {
    let calls = 0
    const lost = () => {
      calls++
      throw new CallError('LEADER_CHANGED', 'maybe-applied', 'lost')
    }
    const face = faceOver({ s1: lost, s2: lost })
    try {
      assert.equal(
        await told(face.call('/etcdserverpb.Lease/LeaseRevoke', { id: 5n })),
        '14 etcdserver: request timed out',
      )
      assert.equal(
        await told(face.call('/etcdserverpb.KV/Compact', { revision: 5 })),
        '14 etcdserver: request timed out',
      )
      assert.equal(calls, 2)
    } finally {
      face.close()
    }
  })

  test('a lease of our own choice that is there already was granted by an earlier attempt', async () => {
    let asked = 0
    const face = faceOver({
      s1: ({ verb, body }) => {
        const { id } = body as { id: number }
        if (verb === 'leaseTimeToLive') return { header: HEADER, id, ttlSeconds: 60, grantedTtlSeconds: 60 }
        if (++asked === 1) throw new CallError('LEADER_CHANGED', 'maybe-applied', 'lost')
        throw new CallError('LEASE_EXISTS', 'not-applied', 'it is there')
      },
    })
    try {
      const reply = await face.call('/etcdserverpb.Lease/LeaseGrant', { ttl: 60 })
      assert.equal(reply.ttl, 60)
      assert.equal(
        await told(face.call('/etcdserverpb.Lease/LeaseGrant', { ttl: 60, id: 7n })),
        '9 etcdserver: lease already exists',
      )
      assert.match(await told(face.call('/etcdserverpb.Lease/LeaseGrant', { ttl: 60, id: 2n ** 60n })), /^3 .*2\^53/)
    } finally {
      face.close()
    }
  })

  test('nobody leads: in the end it is told that it did not happen', async () => {
    const face = faceOver({ s1: failing('NO_LEADER', 'not-applied'), s2: failing('NO_LEADER', 'not-applied') }, 300)
    try {
      assert.equal(await told(face.call('/etcdserverpb.KV/Put', { key: bytes('a') })), '14 etcdserver: no leader')
    } finally {
      face.close()
    }
  })
})

test("the store's verdicts in etcd's words", async () => {
  const words: [string, string][] = [
    ['NO_SPACE', '8 etcdserver: mvcc: database space exceeded'],
    ['CORRUPT', '15 etcdserver: corrupt cluster'],
    ['OVERLOADED', '8 etcdserver: too many requests'],
    ['LEASE_NOT_FOUND', '5 etcdserver: requested lease not found'],
    ['COMPACTED', '11 etcdserver: mvcc: required revision has been compacted'],
    ['UNHEALTHY', '9 etcdserver: re-configuration failed due to not enough started members'],
  ]
  for (const [code, text] of words)
    assert.equal(await told(Promise.reject(new CallError(code, 'not-applied', 'x'))), text)
  assert.equal(await told(Promise.reject(new EtcdError(2, 'its own'))), '2 its own')
})

test('sessions: the oldest seq outstanding never falls out of what the store remembers', () => {
  const sessions = new Sessions('p')
  const first = sessions.take()
  const rest = Array.from({ length: 1000 }, () => sessions.take())
  const spans = new Map<string, number[]>()
  for (const place of [first, ...rest]) {
    assert.ok(place)
    spans.set(place.session.clientId, [...(spans.get(place.session.clientId) ?? []), place.session.seq])
  }
  assert.equal(spans.size, 3)
  for (const seqs of spans.values()) assert.ok(Math.max(...seqs) - Math.min(...seqs) <= 400)
  for (const place of [first, ...rest]) place?.free()
  assert.equal(sessions.take()?.session.clientId, first?.session.clientId)
  while (sessions.take());
  assert.equal(sessions.take(), undefined)
})

test('fragments: in order, each below the bound but for a single event that is larger', () => {
  const event = (size: number) => ({
    type: 'put' as const,
    kv: { key: bytes('k'), value: Buffer.alloc(size), createRevision: 1, modRevision: 1, version: 1, lease: 0 },
  })
  const events = [10, 10, 500, 10, 90, 10].map(event)
  const pieces = fragments(events, 150)
  assert.deepEqual(
    pieces.map((piece) => piece.events.map(({ kv }) => kv.value.length)),
    [[10, 10], [500], [10, 90], [10]],
  )
  assert.deepEqual(
    pieces.map(({ fragment }) => fragment),
    [true, true, true, false],
  )
})
