import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { describe, mock, test } from 'node:test'
import { RealClock } from './real-clock.js'
import { RealRandom } from './real-random.js'

describe('real clock', () => {
  test('a timer never comes early', async () => {
    const clock = new RealClock()
    await Promise.all(
      Array.from({ length: 100 }, (_, i) => {
        const delayMs = i / 10
        const startedMs = clock.monotonicMs()
        return new Promise<void>((resolve, reject) =>
          clock.setTimer(delayMs, () => {
            const tookMs = clock.monotonicMs() - startedMs
            if (tookMs >= delayMs) resolve()
            else reject(new Error(`${tookMs} of ${delayMs} ms`))
          }),
        )
      }),
    )
  })

  test('a cancelled timer does not run, also in the turn in which it was due', async () => {
    const clock = new RealClock()
    const early = clock.setTimer(0, () => assert.fail('was cancelled'))
    early.cancel()
    early.cancel()
    await new Promise<void>((resolve) => {
      const first = clock.setTimer(1, () => second.cancel())
      const second = clock.setTimer(1, () => assert.fail('was cancelled by the first'))
      clock.setTimer(5, resolve)
      void first
      // Both are due when the turn comes: a timer that node fires a little early is set once more, and would lose its place.
      const busyUntilMs = performance.now() + 5
      while (performance.now() < busyUntilMs);
    })
  })

  test('a delay beyond what setTimeout takes is waited for in pieces', () => {
    mock.timers.enable({ apis: ['setTimeout'] })
    const now = mock.method(performance, 'now', () => nowMs)
    let nowMs = 0
    try {
      let runs = 0
      const days = 40 * 24 * 3600 * 1000
      new RealClock().setTimer(days, () => runs++)
      const tick = (ms: number) => {
        nowMs += ms
        mock.timers.tick(ms)
      }
      tick(2 ** 31 - 1)
      assert.equal(runs, 0)
      tick(days - (2 ** 31 - 1) - 1)
      assert.equal(runs, 0)
      tick(1)
      assert.equal(runs, 1)
    } finally {
      now.mock.restore()
      mock.timers.reset()
    }
  })

  test('what is deferred runs after the turn and its microtasks', async () => {
    const clock = new RealClock()
    const order: string[] = []
    await new Promise<void>((resolve) => {
      clock.defer(() => {
        order.push('deferred')
        resolve()
      })
      void Promise.resolve()
        .then(() => order.push('microtask'))
        .then(() => order.push('another'))
      order.push('turn')
    })
    assert.deepEqual(order, ['turn', 'microtask', 'another', 'deferred'])
  })
})

describe('real random', () => {
  const seed = new Uint8Array(32).fill(7)
  const draw = (random: RealRandom) => Array.from({ length: 20 }, () => random.int(1000))

  test('one seed is one stream; without a seed no two are alike', () => {
    assert.deepEqual(draw(new RealRandom(seed)), draw(new RealRandom(seed)))
    assert.notDeepEqual(draw(new RealRandom()), draw(new RealRandom()))
  })

  test('a fork depends on seed and name only', () => {
    const [a, b] = [new RealRandom(seed), new RealRandom(seed)]
    b.next()
    b.bytes(100)
    assert.deepEqual(a.fork('x').bytes(64), b.fork('x').bytes(64))
    assert.notDeepEqual(a.fork('x').bytes(64), a.fork('y').bytes(64))
    assert.notDeepEqual(a.fork('x').fork('y').bytes(64), a.fork('y').fork('x').bytes(64))
  })

  test('stays within its bounds and reaches all of them', () => {
    const random = new RealRandom(seed)
    const seen = new Set<number>()
    for (let i = 0; i < 2000; i++) {
      const real = random.next()
      assert.ok(real >= 0 && real < 1)
      seen.add(random.int(7))
    }
    assert.deepEqual([...seen].sort(), [0, 1, 2, 3, 4, 5, 6])
    assert.equal(random.int(1), 0)
  })

  test("bytes are the caller's own", () => {
    const random = new RealRandom(seed)
    const first = random.bytes(16)
    const copy = first.slice()
    random.bytes(100)
    assert.deepEqual(first, copy)
    assert.equal(first.buffer.byteLength, 16)
    assert.equal(random.bytes(0).length, 0)
  })
})

test('the log writes one JSON object a line, at once, with the fields of its parents', () => {
  const program = `
    import { realLog } from ${JSON.stringify(new URL('./index.js', import.meta.url).href)}
    const log = realLog({ name: 'n', level: 'info' })
    log.debug({}, 'not this')
    log.child({ a: 1 }).child({ b: 2 }).warn({ err: new Error('why') }, 'two\\nlines')
    process.kill(process.pid, 'SIGKILL')`
  let stdout = ''
  try {
    execFileSync(process.execPath, ['--input-type=module', '-e', program], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    })
  } catch (error) {
    stdout = (error as { stdout: string }).stdout
  }
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
  assert.equal(lines.length, 1)
  const { name, a, b, msg, level, err } = lines[0] as { [key: string]: unknown; err: { message: string } }
  assert.deepEqual(
    { name, a, b, msg, level, why: err.message },
    { name: 'n', a: 1, b: 2, msg: 'two\nlines', level: 40, why: 'why' },
  )
})
