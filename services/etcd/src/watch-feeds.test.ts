import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Clock, StreamHandlers } from '@capstan/actor'
import { CallError } from '@capstan/actor'
import type { WatchData, WatchEvent } from '@capstan/protocol'
import { silentLog } from '@capstan/real'
import fc from 'fast-check'
import type { FaceContext } from './face.js'
import { WatchRequest, WatchResponse } from './messages.js'
import type { In } from './protobuf.js'
import type { CallStream, Method } from './rpc.js'
import { watchMethods } from './watch.js'

const turns = () => new Promise((resolve) => setImmediate(resolve))

interface StoreStream {
  handlers: StreamHandlers
  /** Of the revisions up to it everything was delivered. */
  at: number
  told: boolean
  busy: boolean
  over: boolean
}

/** A store of one key per revision, whose streams deliver when the test says so. */
class FakeStore {
  revision = 5
  compactRevision = 0
  refuses = false
  readonly streams: StoreStream[] = []
  opened = 0
  readonly timers: (() => void)[] = []

  readonly clock = {
    nowMs: () => 0,
    monotonicMs: () => 0,
    setTimer: (_: number, run: () => void) => {
      this.timers.push(run)
      return { cancel: () => void this.timers.splice(this.timers.indexOf(run) >>> 0, 1) }
    },
  } as unknown as Clock

  readonly face = {
    world: { clock: this.clock, random: { next: () => 0 }, log: silentLog },
    options: { member: 's1', progressNotifyMs: 600_000, requestBytesMax: 1_000_000 },
    header: ({ revision }: { revision: number }) => ({ revision }),
    headerAt: (revision: number) => Promise.resolve({ revision }),
    lastSeen: () => Promise.resolve({ revision: 0 }),
    store: {
      nearest: () => 's1',
      read: () => Promise.resolve({ revision: this.revision }),
      at1: () => Promise.resolve({ header: { revision: this.revision } }),
      stream: (_: string, body: { startRevision: number }, handlers: StreamHandlers) => this.open(body, handlers),
    },
  } as unknown as FaceContext

  private open({ startRevision }: { startRevision: number }, handlers: StreamHandlers) {
    this.opened++
    const at = startRevision === 0 ? this.revision : startRevision - 1
    const stream: StoreStream = { handlers, at, told: startRevision !== 0, busy: false, over: false }
    const refuse = (error: CallError) => {
      stream.over = true
      queueMicrotask(() => handlers.end('refused', error))
    }
    if (this.refuses) refuse(new CallError('BAD_REQUEST', 'not-applied', 'key is too long'))
    else if (startRevision > 0 && startRevision < this.compactRevision) {
      const details = { compactRevision: this.compactRevision }
      refuse(new CallError('COMPACTED', 'not-applied', 'compacted', { details }))
    } else this.streams.push(stream)
    return { cancel: () => this.forget(stream) }
  }

  private forget(stream: StoreStream): void {
    stream.over = true
    const at = this.streams.indexOf(stream)
    if (at >= 0) this.streams.splice(at, 1)
  }

  /** The next message of a stream: what it lacks, at most `count` revisions of it; or that it lacks nothing. */
  deliver(stream: StoreStream, count: number): void {
    if (stream.busy || stream.over) return
    const to = Math.min(this.revision, stream.at + count)
    if (stream.told && to <= stream.at) return stream.handlers.beat?.({ revision: stream.at })
    const events = Array.from({ length: Math.max(0, to - stream.at) }, (_, at) => eventAt(stream.at + 1 + at))
    const data: WatchData = { prevRevision: stream.at, revision: Math.max(to, stream.at), events }
    stream.at = data.revision
    stream.told = true
    const done = stream.handlers.data(data)
    if (!done) return
    stream.busy = true
    void done.then(() => {
      stream.busy = false
    })
  }

  lose(stream: StoreStream): void {
    this.forget(stream)
    stream.handlers.end('lost')
  }

  async settle(): Promise<void> {
    await turns()
    for (const run of this.timers.splice(0)) run()
    await turns()
  }
}

function eventAt(revision: number): WatchEvent {
  const kv = { key: Buffer.from('k'), value: Buffer.from(`${revision}`), createRevision: 1, modRevision: revision }
  return { type: 'put', kv: { ...kv, version: revision, lease: 0 } }
}

type Response = In<typeof WatchResponse>

/** A client with one stream, which may stop reading. */
class Client {
  readonly received: Response[] = []
  ended: unknown
  private blocked: Promise<void> | undefined
  private go: () => void = () => undefined
  private request!: (request: In<typeof WatchRequest>) => void

  constructor(
    method: Method,
    private readonly store: FakeStore,
  ) {
    const { signal } = new AbortController()
    const calls: CallStream<never, object> = {
      context: { signal, gone: false, remainingMs: undefined, requireLeader: false },
      receive: ({ request }) => {
        this.request = request as typeof this.request
      },
      send: async (response) => {
        const told = WatchResponse.decode(WatchResponse.encode(response))
        assert.ok((told.header?.revision ?? 0) <= this.store.revision, 'no header states what has not happened')
        this.received.push(told)
        await this.blocked
      },
      end: (error) => {
        this.ended = error
      },
    }
    ;(method as Extract<Method, { kind: 'stream' }>).handle(calls)
  }

  watch(watchId: number, startRevision: number, key = 'k'): void {
    this.request(
      WatchRequest.decode(WatchRequest.encode({ create: { key: Buffer.from(key), watchId, startRevision } })),
    )
  }
  cancel(watchId: number): void {
    this.request(WatchRequest.decode(WatchRequest.encode({ cancel: { watchId } })))
  }
  askProgress(): void {
    this.request(WatchRequest.decode(WatchRequest.encode({ progress: {} })))
  }
  block(): void {
    this.blocked ??= new Promise((resolve) => {
      this.go = resolve
    })
  }
  unblock(): void {
    this.blocked = undefined
    this.go()
  }

  of(watchId: number): Response[] {
    return this.received.filter((one) => one.watchId === watchId)
  }
  revisionsOf(watchId: number): number[] {
    return this.of(watchId).flatMap(({ events }) => events.map(({ kv }) => kv?.modRevision ?? 0))
  }
}

function setUp() {
  const store = new FakeStore()
  const method = watchMethods(store.face).methods['/etcdserverpb.Watch/Watch'] as Method
  return { store, client: () => new Client(method, store) }
}

const upTo = (from: number, to: number) => Array.from({ length: Math.max(0, to - from + 1) }, (_, at) => from + at)

test('a thousand watches of one range share a stream of the store; each has its number and every event', async () => {
  const { store, client } = setUp()
  const one = client()
  for (let id = 1; id <= 1000; id++) one.watch(id, 0)
  await store.settle()
  for (const stream of store.streams) store.deliver(stream, 10)
  await store.settle()
  assert.equal(store.opened, 1)
  store.revision += 3
  for (const stream of store.streams) store.deliver(stream, 10)
  await store.settle()
  for (const id of [1, 2, 500, 1000]) {
    assert.deepEqual([one.of(id)[0]?.created, one.of(id)[0]?.header?.revision], [true, 5])
    assert.deepEqual(one.revisionsOf(id), [6, 7, 8])
  }
})

test('a watch of an older revision has its own stream until it has caught up', async () => {
  const { store, client } = setUp()
  const one = client()
  one.watch(1, 0)
  await store.settle()
  for (const stream of store.streams) store.deliver(stream, 10)
  one.watch(2, 2)
  await store.settle()
  assert.equal(store.streams.length, 2)
  store.deliver(store.streams[1] as StoreStream, 10)
  await store.settle()
  assert.deepEqual(one.revisionsOf(2), [2, 3, 4, 5])
  assert.equal(store.streams.length, 1, 'from here on they are the same')
  store.revision++
  store.deliver(store.streams[0] as StoreStream, 10)
  await store.settle()
  assert.deepEqual([one.revisionsOf(1), one.revisionsOf(2)], [[6], [2, 3, 4, 5, 6]])
})

test('a slow watch costs only itself: the others go on, and it goes by itself with what it took', async () => {
  const { store, client } = setUp()
  const [quick, slow] = [client(), client()]
  quick.watch(1, 0)
  slow.watch(1, 0)
  await store.settle()
  store.deliver(store.streams[0] as StoreStream, 1)
  await store.settle()
  slow.block()
  for (let at = 0; at < 200; at++) {
    store.revision++
    store.deliver(store.streams[0] as StoreStream, 1)
    await turns()
  }
  assert.deepEqual(quick.revisionsOf(1), upTo(6, 205))
  assert.equal(store.streams.length, 2)
  assert.ok((store.streams[1]?.at ?? 0) < 6 + 2 * 64, 'it takes no more than it sends')
  slow.unblock()
  for (let at = 0; at < 20; at++) {
    for (const stream of [...store.streams]) store.deliver(stream, 64)
    await store.settle()
  }
  assert.deepEqual(slow.revisionsOf(1), upTo(6, 205))
  assert.equal(store.streams.length, 1, 'it is back')
})

test('compacted: only those watches end that began before it', async () => {
  const { store, client } = setUp()
  const one = client()
  one.watch(1, 0)
  await store.settle()
  store.deliver(store.streams[0] as StoreStream, 1)
  await store.settle()
  store.compactRevision = 4
  one.watch(2, 2)
  one.watch(3, 4)
  await store.settle()
  for (const stream of [...store.streams]) store.deliver(stream, 10)
  await store.settle()
  const [created, canceled] = one.of(2)
  assert.deepEqual([created?.created, canceled?.canceled, canceled?.compactRevision], [true, true, 4])
  assert.deepEqual([one.revisionsOf(3), one.of(1).length], [[4, 5], 1])
  one.askProgress()
  await store.settle()
  assert.equal(one.of(-1)[0]?.header?.revision, 5, 'nobody waits for the one that ended')
})

test('refused before it was opened: its client is told so once, and the next watch of its stream is not held up', async () => {
  const { store, client } = setUp()
  const one = client()
  store.refuses = true
  one.watch(1, 0)
  one.watch(2, 3)
  await store.settle()
  store.refuses = false
  one.watch(3, 0)
  await store.settle()
  for (const stream of [...store.streams]) store.deliver(stream, 1)
  await store.settle()
  const told = (id: number) =>
    one.of(id).map(({ created, canceled, cancelReason }) => [created, canceled, cancelReason])
  const why = 'etcdserver: key is too long'
  assert.deepEqual(told(1), [[true, true, why]])
  assert.deepEqual(told(2), [
    [true, false, ''],
    [false, true, why],
  ])
  assert.deepEqual(told(3), [[true, false, '']])
})

test('a revision that the store sends in parts is told whole, also to a watch that comes between them', async () => {
  const { store, client } = setUp()
  const one = client()
  one.watch(1, 0)
  await store.settle()
  const [stream] = store.streams as [StoreStream]
  store.deliver(stream, 1)
  await store.settle()
  store.revision = 6
  void stream.handlers.data({ prevRevision: 5, revision: 5, partial: true, events: [eventAt(6)] })
  one.watch(2, 6)
  await store.settle()
  void stream.handlers.data({ prevRevision: 5, revision: 6, events: [eventAt(6)] })
  await store.settle()
  for (const id of [1, 2])
    assert.deepEqual(
      one.of(id).map(({ header, events }) => [header?.revision, events.length]),
      [
        [id === 1 ? 5 : 6, 0],
        [6, 2],
      ],
    )
})

test('no header is to be had: the stream ends with that error, and no rejection is left unheard', async () => {
  const { store, client } = setUp()
  const lost = () => Promise.reject(new CallError('TIMEOUT', 'not-applied', 'nobody answers'))
  Object.assign(store.face, { headerAt: lost, lastSeen: lost })
  Object.assign(store.face.store, { at1: lost })
  const one = client()
  one.watch(1, 3)
  await store.settle()
  assert.equal((one.ended as CallError).code, 'TIMEOUT')
  assert.equal(store.streams.length, 0, 'its watch is over')
})

test('a watch that the store does not open can be cancelled, and what comes after it is answered', async () => {
  const { store, client } = setUp()
  const one = client()
  one.watch(1, 0)
  one.watch(2, 3)
  await store.settle()
  assert.deepEqual(one.received, [], 'the first one waits for the store, the second for the first')
  one.cancel(1)
  await store.settle()
  assert.deepEqual(
    one.received.map(({ watchId, created, canceled }) => [watchId, created, canceled]),
    [
      [1, true, false],
      [2, true, false],
      [1, false, true],
    ],
  )
  assert.equal(store.streams.length, 1, 'only the second one is on a stream')
  one.askProgress()
  for (const stream of [...store.streams]) store.deliver(stream, 10)
  await store.settle()
  assert.equal(one.of(-1)[0]?.header?.revision, 5)
})

test('a watch that was told of is cancelled while a later one waits for the store; its number may be used again', async () => {
  const { store, client } = setUp()
  const one = client()
  one.watch(1, 3)
  await store.settle()
  one.watch(2, 0, 'stuck')
  await store.settle()
  one.cancel(1)
  one.watch(1, 4)
  await store.settle()
  const told = () => one.received.map(({ watchId, created }) => `${watchId} ${created ? 'created' : 'canceled'}`)
  assert.deepEqual(told(), ['1 created', '1 canceled'])
  one.cancel(2)
  await store.settle()
  assert.deepEqual(told(), ['1 created', '1 canceled', '2 created', '2 canceled', '1 created'])
})

test('progress without a quorum: what all watches have reached, and the stream lives on', async () => {
  const { store, client } = setUp()
  const [one, none] = [client(), client()]
  one.watch(1, 0)
  one.watch(2, 3)
  await store.settle()
  const [first, second] = store.streams as [StoreStream, StoreStream]
  store.deliver(first, 10)
  await store.settle()
  store.deliver(second, 1)
  await store.settle()
  const lost = () => Promise.reject(new CallError('NO_LEADER', 'not-applied', 'no quorum'))
  Object.assign(store.face.store, { read: lost })
  Object.assign(store.face, { lastSeen: () => Promise.resolve({ revision: 4 }) })
  one.askProgress()
  none.askProgress()
  await store.settle()
  assert.deepEqual(one.revisionsOf(2), [3])
  assert.equal(one.of(-1)[0]?.header?.revision, 3, 'the second watch lacks 4 and 5')
  assert.equal(none.of(-1)[0]?.header?.revision, 4, 'without a watch, the last revision seen')
  assert.deepEqual([one.ended, none.ended], [undefined, undefined])
  one.block()
  store.deliver(second, 1)
  await store.settle()
  one.askProgress()
  await store.settle()
  assert.equal(one.of(-1).at(-1)?.header?.revision, 3, 'what is still on its way out does not count')
})

/** What may happen, as numbers that pick what it happens to. */
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('write' as const) }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('deliver' as const), which: fc.nat(), count: fc.nat(4) }) },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('watch' as const), which: fc.nat(), back: fc.integer({ min: -2, max: 9 }) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('lose' as const), which: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('cancel' as const), which: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('block' as const), which: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('settle' as const) }) },
)

test('whatever happens, each watch has every event from its beginning, once, in order', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 120 }), async (steps) => {
      const { store, client } = setUp()
      const clients = [client(), client(), client()]
      const watches: { client: Client; id: number; start: number; askedAt: number; cancelled: boolean }[] = []
      const pick = <T>(all: readonly T[], which: number): T | undefined => all[which % Math.max(1, all.length)]
      for (const what of steps)
        switch (what.do) {
          case 'write':
            store.revision++
            break
          case 'deliver': {
            const stream = pick(store.streams, what.which)
            if (stream) store.deliver(stream, what.count)
            await turns()
            break
          }
          case 'watch': {
            const one = pick(clients, what.which) as Client
            const start = what.back === 9 ? 0 : Math.max(1, store.revision - what.back)
            watches.push({ client: one, id: watches.length + 1, start, askedAt: store.revision, cancelled: false })
            one.watch(watches.length, start)
            break
          }
          case 'lose': {
            const stream = pick(store.streams, what.which)
            if (stream) store.lose(stream)
            break
          }
          case 'cancel': {
            const watch = pick(watches, what.which)
            if (watch) watch.cancelled = true
            watch?.client.cancel(watch.id)
            break
          }
          case 'block':
            pick(clients, what.which)?.block()
            break
          case 'settle':
            await store.settle()
        }
      for (const one of clients) one.unblock()
      for (let round = 0; round < 40; round++) {
        await store.settle()
        for (const stream of [...store.streams]) store.deliver(stream, 50)
      }
      await store.settle()
      for (const { client: one, id, start, askedAt, cancelled } of watches) {
        assert.equal(one.ended, undefined)
        const [first] = one.of(id)
        if (cancelled && !first?.created) continue
        assert.ok(first?.created, `watch ${id} was never opened`)
        const openedAt = first.header?.revision ?? 0
        const wanted = upTo(start === 0 ? openedAt + 1 : start, store.revision)
        const got = one.revisionsOf(id)
        // One that was cancelled before it was opened begins nowhere.
        if (!cancelled || got.length > 0) assert.ok(openedAt >= askedAt, 'it begins when it was asked for, or later')
        assert.deepEqual(got, cancelled ? wanted.slice(0, got.length) : wanted, `watch ${id} from ${start}`)
      }
    }),
    {
      numRuns: 300,
      // Beside one that waits for a revision to come, one that begins at the present.
      examples: [
        [
          [
            { do: 'watch', which: 0, back: -2 },
            { do: 'settle' },
            { do: 'watch', which: 0, back: 9 },
            { do: 'deliver', which: 0, count: 0 },
            { do: 'watch', which: 0, back: 0 },
            { do: 'cancel', which: 0 },
            { do: 'write' },
            { do: 'write' },
            { do: 'write' },
            { do: 'settle' },
          ],
        ],
      ],
    },
  )
})
