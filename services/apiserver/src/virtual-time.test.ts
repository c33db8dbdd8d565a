import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type KubeObject, RESOURCES } from '@capstan/client'
import { ManualClock, type ManualWorld, manualWorld, MemoryBroker } from '@capstan/client/testing'
import { type Identity, identityToken } from '@capstan/protocol'
import type { ApiReply } from '@capstan/protocol'
import type { ApiServerOptions, OpenWatch, RequestExtras, User } from './options.js'
import { startTestApi, type TestApi } from './testing/index.js'

const ADMIN: User = { name: 'admin', groups: ['system:masters', 'system:authenticated'] }

/** A cluster in virtual time: one seed, one history. */
async function virtual(
  seed: number,
  server: Partial<ApiServerOptions> = {},
): Promise<{ api: TestApi; clock: ManualClock; broker: MemoryBroker; worlds: Map<string, ManualWorld> }> {
  const clock = new ManualClock()
  const broker = new MemoryBroker(clock)
  const worlds = new Map<string, ManualWorld>()
  const worldFor = (identity: Identity) => {
    const world = manualWorld({ seed: seed + worlds.size, clock, broker, identity: identityToken(identity) })
    worlds.set(identityToken(identity), world)
    return world
  }
  const api = startTestApi({ cluster: 'c1', worldFor, server })
  let ready = false
  void api.api.whenBootstrapped().then(() => {
    ready = true
  })
  await clock.until(() => ready)
  return { api, clock, broker, worlds }
}

/** Runs the clock until the promise settles. */
async function settled<T>(clock: ManualClock, promise: Promise<T>): Promise<T> {
  let over = false
  promise.then(
    () => {
      over = true
    },
    () => {
      over = true
    },
  )
  await clock.until(() => over)
  return promise
}

const parse = (reply: ApiReply) => JSON.parse(Buffer.from(reply.body).toString()) as KubeObject
const configmaps = (name?: string, body?: object) => ({
  ...RESOURCES.configmaps,
  namespace: 'default',
  ...(name === undefined ? {} : { name }),
  ...(body === undefined ? {} : { body }),
})

interface Seen {
  events: string[]
  ends: string[]
  watch: OpenWatch
}

async function watching(clock: ManualClock, api: TestApi, options: object): Promise<Seen> {
  const seen: Omit<Seen, 'watch'> = { events: [], ends: [] }
  let revision: number | undefined
  const watch = await settled(
    clock,
    api.api.watch({ ...configmaps(), options }, ADMIN, {
      send(data) {
        if (revision !== undefined) assert.equal(data.prevRevision, revision, 'the chain of revisions has no gap')
        revision = data.revision
        for (const [type, object] of data.events) {
          const { metadata } = JSON.parse(Buffer.from(object).toString()) as KubeObject
          seen.events.push(`${type} ${metadata.name ?? ''}@${metadata.resourceVersion}`)
        }
        return true
      },
      end: (reason) => seen.ends.push(reason),
    }),
  )
  return { ...seen, watch }
}

describe('in virtual time', () => {
  test('the same seed makes the same history', async () => {
    const run = async () => {
      const { api, clock } = await virtual(7)
      const out: string[] = []
      for (let at = 0; at < 5; at++) {
        const reply = await settled(
          clock,
          api.api.handle('create', configmaps(undefined, { metadata: { generateName: 'g-' } }), ADMIN),
        )
        out.push(Buffer.from(reply.body).toString())
      }
      out.push(api.store.mvcc.hash())
      return out
    }
    assert.deepEqual(await run(), await run())
  })

  test('a store that is away: refused with a reason in bounded time, not ready; then all goes on', async () => {
    const { api, clock } = await virtual(8)
    api.store.paused = true
    const started = clock.monotonicMs()
    await assert.rejects(settled(clock, api.api.handle('get', configmaps('x'), ADMIN)), (error: { code: string }) =>
      ['ServiceUnavailable', 'Timeout'].includes(error.code),
    )
    assert.ok(clock.monotonicMs() - started <= 11_000)
    assert.equal(api.api.ready, false)
    api.store.paused = false
    await clock.advance(3000)
    assert.equal(api.api.ready, true)
    await settled(clock, api.api.handle('create', configmaps(undefined, { metadata: { name: 'x' } }), ADMIN))
  })

  test('what nobody waits for any more is not written later', async () => {
    const { api, clock } = await virtual(10)
    const create = (name: string, extras: RequestExtras) =>
      api.api.handle('create', configmaps(undefined, { metadata: { name } }), ADMIN, extras)
    const refused = (name: string, extras: RequestExtras) =>
      assert.rejects(settled(clock, create(name, extras)), { code: 'Timeout' })
    const open = api.store.park()
    const late = refused('late', { deadlineMs: clock.monotonicMs() + 2000 })
    await clock.advance(4000)
    open()
    await late
    await refused('past', { deadlineMs: clock.monotonicMs() })
    await refused('gone', { isAbandoned: () => true })
    await settled(clock, create('kept', { deadlineMs: clock.monotonicMs() + 2000, isAbandoned: () => false }))
    const { items } = parse(await settled(clock, api.api.handle('list', configmaps(), ADMIN))) as unknown as {
      items: KubeObject[]
    }
    assert.deepEqual(
      items.map(({ metadata }) => metadata.name),
      ['kept'],
    )
  })

  test('answers of the store that are lost: nothing is written twice', async () => {
    const { api, clock, broker } = await virtual(9)
    let lost = 0
    broker.lose = (message, to) => {
      if (
        lost >= 2 ||
        !to.startsWith('apiserver') ||
        !message.subject.includes('.inbox.apiserver') ||
        !message.subject.includes('.store.')
      )
        return false
      lost++
      return true
    }
    const reply = await settled(
      clock,
      api.api.handle('create', configmaps(undefined, { metadata: { name: 'once' } }), ADMIN),
    )
    assert.equal(lost, 2)
    assert.equal(reply.status, 201, 'the repetition is the same transaction: no AlreadyExists')
    const got = parse(await settled(clock, api.api.handle('get', configmaps('once'), ADMIN)))
    assert.equal(got.metadata.resourceVersion, parse(reply).metadata.resourceVersion)
  })

  test('a watch goes on while messages of the store are lost', async () => {
    const { api, clock, broker } = await virtual(10)
    const list = parse(await settled(clock, api.api.handle('list', configmaps(), ADMIN)))
    const seen = await watching(clock, api, { resourceVersion: list.metadata.resourceVersion as string })
    let count = 0
    // Every fifth message on the way to the API server.
    broker.lose = (_, to) => to.startsWith('apiserver') && ++count % 5 === 0
    const wanted: string[] = []
    for (let at = 0; at < 20; at++) {
      const made = parse(
        await settled(clock, api.api.handle('create', configmaps(undefined, { metadata: { name: `w${at}` } }), ADMIN)),
      )
      wanted.push(`ADDED w${at}@${made.metadata.resourceVersion}`)
    }
    broker.lose = () => false
    await clock.until(() => seen.events.length >= 20 || seen.ends.length > 0)
    assert.deepEqual(seen.ends, [])
    assert.deepEqual(seen.events, wanted)
  })

  test('too old a revision is 410; history that the store has compacted away ends watches, and lists work', async () => {
    const { api, clock, worlds } = await virtual(11, { eventWindowMax: 4 })
    const list = parse(await settled(clock, api.api.handle('list', configmaps(), ADMIN)))
    for (let at = 0; at < 8; at++)
      await settled(clock, api.api.handle('create', configmaps(undefined, { metadata: { name: `c${at}` } }), ADMIN))
    await assert.rejects(
      watching(clock, api, { resourceVersion: list.metadata.resourceVersion }),
      (error: { code: string; status: number }) => error.code === 'Expired' && error.status === 410,
    )

    const now = parse(await settled(clock, api.api.handle('list', configmaps(), ADMIN)))
    const seen = await watching(clock, api, { resourceVersion: now.metadata.resourceVersion })
    const bus = worlds.get('apiserver~api-0')?.bus
    bus?.setConnected(false)
    const other = api.worldFor({ component: 'apiserver', name: 'other' })
    assert.ok(other)
    api.store.mvcc.applyBatch([
      {
        index: api.store.mvcc.appliedIndex + 1,
        command: {
          type: 'txn',
          txn: {
            compare: [],
            success: [{ type: 'delete', key: Buffer.from('/registry/core/configmaps/default/c0') }],
            failure: [],
          },
        },
      },
      {
        index: api.store.mvcc.appliedIndex + 2,
        command: {
          type: 'txn',
          txn: {
            compare: [],
            success: [{ type: 'delete', key: Buffer.from('/registry/core/configmaps/default/c1') }],
            failure: [],
          },
        },
      },
    ])
    api.store.mvcc.applyBatch([
      { index: api.store.mvcc.appliedIndex + 1, command: { type: 'compact', revision: api.store.mvcc.revision } },
    ])
    await clock.advance(5000)
    bus?.setConnected(true)
    await clock.until(() => seen.ends.length > 0)
    assert.deepEqual(seen.ends, ['lost'])
    const after = parse(await settled(clock, api.api.handle('list', configmaps(), ADMIN))) as unknown as {
      items: KubeObject[]
    }
    assert.deepEqual(
      after.items.map((item) => item.metadata.name),
      ['c2', 'c3', 'c4', 'c5', 'c6', 'c7'],
    )
  })

  test('streaming lists, bookmarks and the time of a watch', async () => {
    const { api, clock } = await virtual(12)
    await settled(clock, api.api.handle('create', configmaps(undefined, { metadata: { name: 'a' } }), ADMIN))
    const seen = await watching(clock, api, {
      allowWatchBookmarks: true,
      sendInitialEvents: true,
      resourceVersionMatch: 'NotOlderThan',
      timeoutSeconds: 150,
    })
    assert.match(seen.events[0] as string, /^ADDED a@/)
    assert.match(seen.events[1] as string, /^BOOKMARK @/)
    await clock.advance(130_000)
    assert.equal(seen.events.length, 4, 'a bookmark each minute')
    await clock.advance(30_000)
    assert.deepEqual(seen.ends, ['timeout'])
  })

  test('events end by themselves', async () => {
    const { api, clock } = await virtual(13, { eventTtlSeconds: 120 })
    const event = {
      metadata: { name: 'e' },
      involvedObject: { kind: 'Pod', name: 'p', namespace: 'default' },
      reason: 'r',
      type: 'Normal',
    }
    await settled(clock, api.api.handle('create', { ...RESOURCES.events, namespace: 'default', body: event }, ADMIN))
    const get = () =>
      settled(clock, api.api.handle('get', { ...RESOURCES.events, namespace: 'default', name: 'e' }, ADMIN))
    await clock.advance(115_000)
    await get()
    await clock.advance(90_000)
    await assert.rejects(get(), (error: { code: string }) => error.code === 'NotFound')
  })
})
