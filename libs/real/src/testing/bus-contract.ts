import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Bus, BusError, type BusErrorCode, type BusMessage } from '@capstan/actor'
import type { Grants } from '@capstan/protocol'

/** How the contract gets at one kind of bus and at the time in which it lives. */
export interface BusHarness {
  /** A connection with `grants`, which the broker enforces. */
  connect(options: { identity: string; inbox: string; grants: Grants }): Promise<Bus>
  /** Resolves with the promise; a simulation steps until it has. Default: waits. */
  run?<T>(promise: Promise<T>): Promise<T>
  /** Resolves when all that these connections published before has been delivered or dropped. Default: by echoes. */
  settle?(buses: readonly Bus[]): Promise<void>
  /** Frees what `connect` made, beyond the connections. */
  end?(): Promise<void>
}

const bytes = (text: string) => new TextEncoder().encode(text)
const text = (payload: Uint8Array) => new TextDecoder().decode(payload)
const ROOT = 'capstan.t'
/** Longer than any answer takes; no test waits for it. */
const LONG_MS = 60_000

const echoOf = (identity: string) => `${ROOT}.echo.${identity}`
const inboxOf = (identity: string) => `${ROOT}.inbox.${identity}.i1`
const served = (name: string) => `${ROOT}.to.${name}.from.*.*`
const subject = (name: string, from: string, verb = 'say') => `${ROOT}.to.${name}.from.${from}.${verb}`

/** May ask anybody as itself, serve what is asked of it, and answer. */
const grantsOf = (identity: string): Grants => ({
  publish: [`${ROOT}.to.*.from.${identity}.*`, `${ROOT}.inbox.>`, echoOf(identity)],
  subscribe: [served(identity), `${ROOT}.inbox.${identity}.>`, echoOf(identity)],
})

/** May ask; answers only what it was asked. */
const answererGrants = (identity: string, max: number): Grants => ({
  publish: [`${ROOT}.to.*.from.${identity}.*`, echoOf(identity)],
  subscribe: [served(identity), `${ROOT}.inbox.${identity}.>`, echoOf(identity)],
  allowResponses: { max, expiresMs: 3_600_000 },
})

/** What every `Bus` body must do while nothing fails. What happens when connections break is the business of each. */
export function busContract(
  name: string,
  make: () => Promise<BusHarness>,
  options: { skip?: string | false } = {},
): void {
  const it = (title: string, run: (t: Stage) => Promise<void>) =>
    test(title, async () => {
      const harness = await make()
      const stage = new Stage(harness)
      try {
        await run(stage)
      } finally {
        await stage.end()
      }
    })

  describe(`bus: ${name}`, { skip: options.skip ?? false }, () => {
    it('is connected in its first epoch', async (t) => {
      const a = await t.connect('a')
      assert.equal(a.connected, true)
      assert.equal(a.epoch, 1)
      assert.equal(a.identity, 'a')
      assert.ok(a.payloadBytesMax >= 1024)
    })

    it('delivers to who listens, as it was sent, in a later turn', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b')]
      const heard = t.listen(b, served('b'))
      await t.settle()
      const payload = Uint8Array.of(0, 1, 13, 10, 255)
      a.publish(subject('b', 'a'), payload, { replyTo: `${a.inbox}.x.1` })
      // The sender may use its buffer again.
      payload.fill(7)
      assert.equal(heard.length, 0)
      await t.settle()
      assert.equal(heard.length, 1)
      const message = heard[0] as BusMessage
      assert.equal(message.subject, subject('b', 'a'))
      assert.deepEqual([...message.payload], [0, 1, 13, 10, 255])
      assert.equal(message.replyTo, `${a.inbox}.x.1`)
      assert.ok(!message.noResponders)
      a.publish(subject('b', 'a'), new Uint8Array(0))
      await t.settle()
      assert.equal(heard[1]?.payload.length, 0)
      assert.equal(heard[1]?.replyTo, undefined)
    })

    it('takes * for one token and > for one or more at the end', async (t) => {
      const grants = { publish: ['w.>'], subscribe: ['w.>'] }
      const [a, b] = [await t.connect('a', withEcho('a', grants)), await t.connect('b', withEcho('b', grants))]
      const patterns = ['w.a', 'w.*', 'w.*.c', 'w.a.>', 'w.>', 'w.*.*.d']
      const heard = patterns.map((pattern) => t.listen(b, pattern))
      await t.settle()
      for (const sent of ['w.a', 'w.b', 'w.a.c', 'w.b.c', 'w.a.c.d']) a.publish(sent, bytes(sent))
      await t.settle()
      const got = Object.fromEntries(patterns.map((pattern, i) => [pattern, heard[i]?.map((m) => m.subject).sort()]))
      assert.deepEqual(got, {
        'w.a': ['w.a'],
        'w.*': ['w.a', 'w.b'],
        'w.*.c': ['w.a.c', 'w.b.c'],
        'w.a.>': ['w.a.c', 'w.a.c.d'],
        'w.>': ['w.a', 'w.a.c', 'w.a.c.d', 'w.b', 'w.b.c'],
        'w.*.*.d': ['w.a.c.d'],
      })
    })

    it('keeps the order of one sender on one subject', async (t) => {
      const [a, b, c] = [await t.connect('a'), await t.connect('b'), await t.connect('c')]
      const heard = t.listen(c, served('c'))
      await t.settle()
      const count = 500
      for (let i = 0; i < count; i++) {
        a.publish(subject('c', 'a'), bytes(`${i}`))
        b.publish(subject('c', 'b'), bytes(`${i}`))
      }
      await t.settle()
      for (const from of ['a', 'b'])
        assert.deepEqual(
          heard.filter((m) => m.subject === subject('c', from)).map((m) => Number(text(m.payload))),
          Array.from({ length: count }, (_, i) => i),
        )
      assert.equal(heard.length, 2 * count)
    })

    it('tells everybody who listens, each with a copy of its own', async (t) => {
      const shared = (identity: string) => withEcho(identity, { publish: ['beat.*'], subscribe: ['beat.*'] })
      const [a, b] = [await t.connect('a', shared('a')), await t.connect('b', shared('b'))]
      const heard = [t.listen(a, 'beat.*'), t.listen(b, 'beat.*'), t.listen(b, 'beat.x')]
      await t.settle()
      a.publish('beat.x', bytes('alive'))
      await t.settle()
      assert.deepEqual(
        heard.map((list) => list.map((m) => text(m.payload))),
        [['alive'], ['alive'], ['alive']],
      )
      heard[0]?.[0]?.payload.fill(0)
      assert.equal(text(heard[1]?.[0]?.payload as Uint8Array), 'alive')
      assert.equal(text(heard[2]?.[0]?.payload as Uint8Array), 'alive')
    })

    it('answers a request with the first answer', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b')]
      b.subscribe(served('b'), (message) => {
        b.publish(message.replyTo as string, bytes(`first ${text(message.payload)}`))
        b.publish(message.replyTo as string, bytes(`second ${text(message.payload)}`))
      })
      await t.settle()
      const answers = await t.run(
        Promise.all(['x', 'y', 'z'].map((body) => a.request(subject('b', 'a'), bytes(body), { timeoutMs: LONG_MS }))),
      )
      assert.deepEqual(
        answers.map((m) => text(m.payload)),
        ['first x', 'first y', 'first z'],
      )
    })

    it('tells at once that nobody listens: it did not happen', async (t) => {
      const a = await t.connect('a')
      await t.settle()
      const error = await t.failure(
        a.request(subject('nobody', 'a'), bytes('x'), { timeoutMs: LONG_MS }),
        'NO_RESPONDERS',
      )
      assert.equal(error.outcome, 'not-applied')
    })

    it('tells it on the reply subject of a publication, if that is below the own inbox', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b')]
      const word = t.listen(a, `${a.inbox}.c1.*`)
      await t.settle()
      a.publish(subject('b', 'a'), bytes('x'), { replyTo: `${a.inbox}.c1.17` })
      await t.settle()
      assert.equal(word.length, 1)
      const { subject: on, payload, noResponders, replyTo } = word[0] as BusMessage
      assert.deepEqual([on, payload.length, noResponders, replyTo], [`${a.inbox}.c1.17`, 0, true, undefined])
      // Nor does anybody hear it who did not ask, nor who did not want an answer.
      a.publish(subject('b', 'a'), bytes('x'))
      await t.settle()
      const heard = t.listen(b, served('b'))
      await t.settle()
      a.publish(subject('b', 'a'), bytes('y'), { replyTo: `${a.inbox}.c1.18` })
      await t.settle()
      assert.deepEqual(
        heard.map((m) => text(m.payload)),
        ['y'],
      )
      assert.equal(word.length, 1)
      // An answer may be empty and is none of the broker's words.
      b.publish(`${a.inbox}.c1.18`, new Uint8Array(0))
      await t.settle()
      assert.equal(word.length, 2)
      assert.ok(!word[1]?.noResponders)
    })

    it('gives up a request in time: it may have happened; a late answer goes nowhere', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b')]
      const heard = t.listen(b, served('b'))
      await t.settle()
      const error = await t.failure(a.request(subject('b', 'a'), bytes('x'), { timeoutMs: 5 }), 'TIMEOUT')
      assert.equal(error.outcome, 'maybe-applied')
      await t.settle()
      assert.equal(heard.length, 1)
      const next = a.request(subject('b', 'a'), bytes('y'), { timeoutMs: LONG_MS })
      await t.settle()
      b.publish(heard[0]?.replyTo as string, bytes('late'))
      b.publish(heard[1]?.replyTo as string, bytes('in time'))
      assert.equal(text((await t.run(next)).payload), 'in time')
    })

    it('lets nobody publish as another', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b')]
      const heard = t.listen(b, served('b'))
      await t.settle()
      t.refused('DENIED', () => a.publish(subject('b', 'c'), bytes('forged')))
      t.refused('DENIED', () => a.publish(`${ROOT}.other`, bytes('x')))
      const error = await t.failure(a.request(subject('b', 'c'), bytes('forged'), { timeoutMs: LONG_MS }), 'DENIED')
      assert.equal(error.outcome, 'not-applied')
      a.publish(subject('b', 'a'), bytes('own'))
      await t.settle()
      assert.deepEqual(
        heard.map((m) => text(m.payload)),
        ['own'],
      )
    })

    it('lets nobody hear what is not for it', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b')]
      for (const pattern of [
        `${b.inbox}.>`,
        `${ROOT}.inbox.>`,
        `${ROOT}.inbox.*.i1.>`,
        served('b'),
        `${ROOT}.to.*.from.*.*`,
        '>',
        '*.*.>',
      ])
        t.refused('DENIED', () => a.subscribe(pattern, () => assert.fail('heard')))
      // What is narrower than what is granted will do.
      const own = t.listen(a, `${a.inbox}.request.5`)
      const answers = t.listen(b, `${b.inbox}.c1.*`)
      await t.settle()
      b.publish(`${a.inbox}.request.5`, bytes('for a'))
      a.publish(`${b.inbox}.c1.1`, bytes('for b'))
      await t.settle()
      assert.deepEqual(
        own.map((m) => text(m.payload)),
        ['for a'],
      )
      assert.deepEqual(
        answers.map((m) => text(m.payload)),
        ['for b'],
      )
    })

    it('lets who may only answer do so, and so often', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b', answererGrants('b', 2))]
      const word = t.listen(a, `${a.inbox}.c1.*`)
      const heard = t.listen(b, served('b'))
      await t.settle()
      // NATS's server says so later and does not deliver; others throw.
      const attempt = (on: string, body: string) => {
        try {
          b.publish(on, bytes(body))
        } catch (error) {
          assert.equal((error as BusError).code, 'DENIED')
        }
      }
      attempt(`${a.inbox}.c1.1`, 'unasked')
      await t.settle()
      a.publish(subject('b', 'a'), bytes('x'), { replyTo: `${a.inbox}.c1.1` })
      await t.settle()
      assert.equal(heard.length, 1)
      attempt(`${a.inbox}.c1.2`, 'elsewhere')
      attempt(`${a.inbox}.c1.1`, 'one')
      attempt(`${a.inbox}.c1.1`, 'two')
      attempt(`${a.inbox}.c1.1`, 'three')
      await t.settle()
      assert.deepEqual(
        word.map((m) => text(m.payload)),
        ['one', 'two'],
      )
    })

    it('takes payloads up to its limit', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b')]
      const heard = t.listen(b, served('b'))
      await t.settle()
      const largest = new Uint8Array(a.payloadBytesMax)
      largest[largest.length - 1] = 9
      a.publish(subject('b', 'a'), largest)
      t.refused('PAYLOAD_TOO_LARGE', () => a.publish(subject('b', 'a'), new Uint8Array(a.payloadBytesMax + 1)))
      await t.failure(
        a.request(subject('b', 'a'), new Uint8Array(a.payloadBytesMax + 1), { timeoutMs: LONG_MS }),
        'PAYLOAD_TOO_LARGE',
      )
      await t.settle()
      assert.deepEqual(
        heard.map((m) => [m.payload.length, m.payload.at(-1)]),
        [[largest.length, 9]],
      )
    })

    it('refuses what is no subject', async (t) => {
      const a = await t.connect('a', withEcho('a', { publish: ['>'], subscribe: ['>'] }))
      for (const bad of ['', 'a b', 'a\r\nPUB x 0', 'a\tb', 'x\u0000']) {
        assert.throws(() => a.publish(bad, bytes('x')), RangeError)
        assert.throws(() => a.publish('fine', bytes('x'), { replyTo: bad }), RangeError)
        assert.throws(() => a.subscribe(bad, () => undefined), RangeError)
      }
      const heard = t.listen(a, 'fine')
      a.publish('fine', bytes('still there'))
      await t.settle()
      assert.deepEqual(
        heard.map((m) => text(m.payload)),
        ['still there'],
      )
    })

    it('calls nobody who has unsubscribed, also from within', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b')]
      const stays = t.listen(b, served('b'))
      const leaves: string[] = []
      const subscription = b.subscribe(served('b'), (message) => {
        leaves.push(text(message.payload))
        if (leaves.length === 2) subscription.unsubscribe()
      })
      await t.settle()
      for (const body of ['1', '2', '3']) a.publish(subject('b', 'a'), bytes(body))
      await t.settle()
      subscription.unsubscribe()
      a.publish(subject('b', 'a'), bytes('4'))
      await t.settle()
      assert.deepEqual(leaves, ['1', '2'])
      assert.deepEqual(
        stays.map((m) => text(m.payload)),
        ['1', '2', '3', '4'],
      )
    })

    it('has nobody to ask once the last one has unsubscribed', async (t) => {
      const [a, b] = [await t.connect('a'), await t.connect('b')]
      const subscription = b.subscribe(served('b'), () => undefined)
      await t.settle()
      subscription.unsubscribe()
      await t.settle()
      await t.failure(a.request(subject('b', 'a'), bytes('x'), { timeoutMs: LONG_MS }), 'NO_RESPONDERS')
    })

    it('is over when closed, for itself alone', async (t) => {
      const [a, b, c] = [await t.connect('a'), await t.connect('b'), await t.connect('c')]
      const heard = t.listen(b, served('b'))
      t.listen(a, served('a'))
      await t.settle()
      const changes: boolean[] = []
      a.onChange(({ connected }) => changes.push(connected))
      const stopped = a.onChange(() => assert.fail('told after it asked not to be'))
      stopped()
      const outstanding = t.failure(a.request(subject('b', 'a'), bytes('x'), { timeoutMs: LONG_MS }), 'CLOSED')
      a.publish(subject('b', 'a'), bytes('sent before'))
      await t.run(a.close())
      await outstanding
      await t.run(a.close())
      assert.equal(a.connected, false)
      assert.deepEqual(changes, [false])
      t.refused('CLOSED', () => a.publish(subject('b', 'a'), bytes('x')))
      t.refused('CLOSED', () => a.subscribe(served('a'), () => undefined))
      await t.failure(a.request(subject('b', 'a'), bytes('x'), { timeoutMs: LONG_MS }), 'CLOSED')
      c.publish(subject('b', 'c'), bytes('from c'))
      await t.settle()
      assert.deepEqual(heard.map((m) => text(m.payload)).sort(), ['from c', 'sent before', 'x'])
      await t.failure(c.request(subject('a', 'c'), bytes('x'), { timeoutMs: LONG_MS }), 'NO_RESPONDERS')
    })

    it('tells two connections of one identity apart by their inboxes', async (t) => {
      const [a1, a2, b] = [
        await t.connect('a'),
        await t.connect('a', grantsOf('a'), `${ROOT}.inbox.a.i2`),
        await t.connect('b'),
      ]
      b.subscribe(served('b'), (message) => b.publish(message.replyTo as string, message.payload))
      await t.settle()
      const answers = await t.run(
        Promise.all([
          a1.request(subject('b', 'a'), bytes('one'), { timeoutMs: LONG_MS }),
          a2.request(subject('b', 'a'), bytes('two'), { timeoutMs: LONG_MS }),
        ]),
      )
      assert.deepEqual(
        answers.map((m) => text(m.payload)),
        ['one', 'two'],
      )
    })
  })
}

const withEcho = (identity: string, grants: Grants): Grants => ({
  publish: [...grants.publish, echoOf(identity)],
  subscribe: [...grants.subscribe, `${ROOT}.inbox.${identity}.>`, echoOf(identity)],
})

/** The connections of one test. */
class Stage {
  private readonly buses: Bus[] = []

  constructor(private readonly harness: BusHarness) {}

  async connect(identity: string, grants: Grants = grantsOf(identity), inbox = inboxOf(identity)): Promise<Bus> {
    const bus = await this.harness.connect({ identity, inbox, grants })
    this.buses.push(bus)
    return bus
  }

  listen(bus: Bus, pattern: string): BusMessage[] {
    const heard: BusMessage[] = []
    bus.subscribe(pattern, (message) => heard.push(message))
    return heard
  }

  run<T>(promise: Promise<T>): Promise<T> {
    return this.harness.run ? this.harness.run(promise) : promise
  }

  settle(): Promise<void> {
    const open = this.buses.filter((bus) => bus.connected)
    return this.harness.settle ? this.harness.settle(open) : settleByEcho(open)
  }

  async failure(promise: Promise<unknown>, code: BusErrorCode): Promise<BusError> {
    const error = await this.run(
      promise.then(
        () => assert.fail(`expected ${code}`),
        (e: unknown) => e,
      ),
    )
    assert.ok(error instanceof BusError, String(error))
    assert.equal(error.code, code)
    return error
  }

  refused(code: BusErrorCode, act: () => unknown): void {
    assert.throws(act, (error) => error instanceof BusError && error.code === code && error.outcome === 'not-applied')
  }

  async end(): Promise<void> {
    for (const bus of this.buses) await this.run(bus.close())
    await this.harness.end?.()
  }
}

/**
 * Each connection hears itself. With one broker and its ordered connections all it published before is through then; the
 * second round is for what others sent to it in the first.
 */
async function settleByEcho(buses: readonly Bus[]): Promise<void> {
  for (let round = 0; round < 2; round++)
    for (const bus of buses)
      await new Promise<void>((resolve) => {
        const subscription = bus.subscribe(echoOf(bus.identity), () => {
          subscription.unsubscribe()
          resolve()
        })
        bus.publish(echoOf(bus.identity), new Uint8Array(0))
      })
}
