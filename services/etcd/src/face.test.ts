import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { CallError, encode, type IncomingCall, serve } from '@capstan/actor'
import { grants, type Identity, identityToken, type StoreHeader, Subjects, type TxnRequest } from '@capstan/protocol'
import { MemoryBroker, MemoryDisk, RealClock, RealRandom, silentLog } from '@capstan/real'
import { EtcdError, toEtcdError } from './etcd-error.js'
import { startEtcdFace } from './face.js'
import { idOf } from './ids.js'
import type { CallStream, Method } from './rpc.js'
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
    stream(path: string) {
      const method = face.methods[path] as Extract<Method, { kind: 'stream' }>
      const opened = new StreamingClient(context)
      method.handle(opened as CallStream<never, object>)
      return {
        received: opened.received,
        ended: opened.ended,
        /** Resolves when so many answers have come. */
        until: (count: number) => opened.until(count),
        send: (request: object) =>
          opened.request(method.request.decode(method.request.encode(request as Record<string, never>))),
        done: () => opened.done(),
      }
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

/** What does not come fails the test, which else would wait for ever. */
const soon = <T>(promise: Promise<T>): Promise<T> =>
  Promise.race([
    promise,
    new Promise<never>((_, reject) => {
      setTimeout(() => reject(new Error('it did not come in 5 s')), 5000).unref()
    }),
  ])

/** A client that always reads. */
class StreamingClient implements CallStream<object, object> {
  readonly received: Record<string, unknown>[] = []
  /** Resolves when the call ends: with its error, if there is one. */
  readonly ended: Promise<unknown>
  request!: (request: object) => void | Promise<void>
  done!: () => void
  end!: (error?: unknown) => void
  private came: () => void = () => undefined

  constructor(readonly context: CallStream<object, object>['context']) {
    this.ended = new Promise((resolve) => {
      this.end = resolve
    })
  }

  receive({ request, done }: Parameters<CallStream<object, object>['receive']>[0]): void {
    this.request = request
    this.done = done
  }

  async send(response: object): Promise<void> {
    this.received.push(response as Record<string, unknown>)
    this.came()
  }

  async until(count: number): Promise<void> {
    while (this.received.length < count)
      await soon(
        new Promise<void>((resolve) => {
          this.came = resolve
        }),
      )
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

test('a member that is overloaded is left for another one, by reads and by watches', async () => {
  const asked: string[] = []
  const face = faceOver({
    s1: (call) => {
      asked.push(`s1 ${call.verb}`)
      return failing('OVERLOADED', 'not-applied')()
    },
    s2: (call) => {
      asked.push(`s2 ${call.verb}`)
      if (!call.wantsStream) return { header: HEADER, kvs: [], count: 0, more: false }
      call.openStream().send({ prevRevision: 9, revision: 9, events: [] })
      return undefined
    },
  })
  try {
    const watch = face.stream('/etcdserverpb.Watch/Watch')
    watch.send({ create: { key: bytes('a') } })
    await watch.until(1)
    assert.equal(watch.received[0]?.created, true)
    assert.deepEqual(asked, ['s1 watch', 's2 watch', 's2 status'])
  } finally {
    face.close()
  }
  asked.length = 0
  const other = faceOver({
    s1: failing('OVERLOADED', 'not-applied'),
    s2: () => ({ header: HEADER, kvs: [], count: 7, more: false }),
  })
  try {
    assert.equal((await other.call('/etcdserverpb.KV/Range', { key: bytes('a') })).count, 7)
  } finally {
    other.close()
  }
  const none = faceOver({ s1: failing('OVERLOADED', 'not-applied'), s2: failing('OVERLOADED', 'not-applied') }, 100)
  try {
    assert.equal(await told(none.call('/etcdserverpb.KV/Put', { key: bytes('a') })), '8 etcdserver: too many requests')
  } finally {
    none.close()
  }
})

test('a watch of an older revision is told of though nobody leads: its header needs no quorum', async () => {
  const face = faceOver(
    {
      s1: ({ verb }) => (verb === 'status' ? { header: HEADER } : failing('NO_LEADER', 'not-applied')()),
    },
    300,
  )
  try {
    const watch = face.stream('/etcdserverpb.Watch/Watch')
    watch.send({ create: { key: bytes('a'), startRevision: 5 } })
    await watch.until(1)
    const [{ created, header }] = watch.received as [{ created: boolean; header: { revision: number } }]
    assert.deepEqual([created, header.revision], [true, 9])
  } finally {
    face.close()
  }
})

describe('renewals of leases on one stream', () => {
  /** A member that answers a renewal when the test says so; the seconds left are the lease's id. */
  function renewing() {
    const waiting: { id: number; answer(): void }[] = []
    let came: () => void = () => undefined
    const face = faceOver({
      s1: ({ verb, body }) => {
        if (verb !== 'leaseKeepAlive') return { header: HEADER }
        const { id } = body as { id: number }
        return new Promise((resolve) => {
          waiting.push({ id, answer: () => resolve({ header: HEADER, id, ttlSeconds: id }) })
          came()
        })
      },
    })
    const until = async (count: number) => {
      while (waiting.length < count)
        await soon(
          new Promise<void>((resolve) => {
            came = resolve
          }),
        )
    }
    return { face, waiting, until, stream: face.stream('/etcdserverpb.Lease/LeaseKeepAlive') }
  }

  test('are under way together, and answered in order', async () => {
    const { face, waiting, until, stream } = renewing()
    try {
      for (const id of [1n, 2n, 3n]) stream.send({ id })
      stream.done()
      await until(3)
      for (const { answer } of waiting.reverse()) answer()
      await stream.until(3)
      assert.deepEqual(
        stream.received.map(({ id, ttl }) => [id, ttl]),
        [
          [1n, 1],
          [2n, 2],
          [3n, 3],
        ],
      )
      assert.equal(await soon(stream.ended), undefined)
    } finally {
      face.close()
    }
  })

  test('are a thousand at most: then the next request waits for the oldest, and none is lost', async () => {
    const { face, waiting, until, stream } = renewing()
    try {
      let room: void | Promise<void> = undefined
      for (let id = 1n; id <= 1000n; id++) room = stream.send({ id })
      await until(1000)
      assert.ok(room, 'the transport is told to hold back')
      // It comes all the same.
      assert.ok(stream.send({ id: 1001n }))
      waiting[1]?.answer()
      await new Promise((resolve) => setImmediate(resolve))
      assert.equal(waiting.length, 1000)
      waiting[0]?.answer()
      await room
      await until(1001)
      for (const { answer } of waiting.slice(2)) answer()
      await stream.until(1001)
      assert.deepEqual(
        stream.received.map(({ id }) => id),
        Array.from({ length: 1001 }, (_, at) => BigInt(at + 1)),
      )
    } finally {
      face.close()
    }
  })

  test('one that fails ends the stream, after the answers to those before it', async () => {
    const answers = new Map<number, () => void>()
    const face = faceOver(
      {
        s1: ({ verb, body }) => {
          if (verb !== 'leaseKeepAlive') return { header: HEADER }
          const { id } = body as { id: number }
          if (id === 2) {
            answers.get(1)?.()
            return failing('NO_SPACE', 'not-applied')()
          }
          return new Promise((resolve) => answers.set(id, () => resolve({ header: HEADER, id, ttlSeconds: id })))
        },
      },
      300,
    )
    try {
      const stream = face.stream('/etcdserverpb.Lease/LeaseKeepAlive')
      for (const id of [1n, 2n, 3n]) stream.send({ id })
      assert.equal(toEtcdError(await soon(stream.ended)).message, 'etcdserver: mvcc: database space exceeded')
      assert.deepEqual(
        stream.received.map(({ id }) => id),
        [1n],
      )
    } finally {
      face.close()
    }
  })
})

describe('a lock that had to wait', () => {
  /** Somebody else has it until the lock asks who is before it. */
  async function lock(after: { header: StoreHeader; kvs: object[] }) {
    const txns: TxnRequest[] = []
    const owner = { key: bytes('l/1'), value: bytes(''), createRevision: 4, modRevision: 4, version: 1, lease: 1 }
    const face = faceOver({
      s1: ({ verb, body }) => {
        if (verb === 'leaseKeepAlive') return { header: HEADER, id: 2, ttlSeconds: 60 }
        if (verb === 'txn') {
          txns.push(body as TxnRequest)
          const replies = [{ type: 'put' }, { type: 'range', kvs: [owner], count: 1, more: false }]
          return { header: HEADER, succeeded: true, replies }
        }
        return (body as { rangeEnd?: unknown }).rangeEnd ? { header: HEADER, kvs: [], count: 0, more: false } : after
      },
    })
    try {
      const reply = face.call('/v3lockpb.Lock/Lock', { name: bytes('l'), lease: 2n })
      return { outcome: await told(reply), reply, txns }
    } finally {
      face.close()
    }
  }
  const mine = { key: bytes('l/2'), value: bytes(''), createRevision: 9, modRevision: 9, version: 1, lease: 2 }
  const later = { ...HEADER, revision: 20 }

  test('has it if its key is still there, as of then', async () => {
    const { reply } = await lock({ header: later, kvs: [mine] })
    const { header, key } = await reply
    assert.equal((header as { revision: number }).revision, 20)
    assert.deepEqual(Buffer.from(key as Uint8Array), bytes('l/2'))
  })

  test('does not have it if its key went with its lease, or is another one by now', async () => {
    for (const kvs of [[], [{ ...mine, createRevision: 15 }]]) {
      const { outcome, txns } = await lock({ header: later, kvs })
      assert.equal(outcome, '2 mutex: session is expired')
      assert.equal(txns.length, 1, 'there is nothing to remove')
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
