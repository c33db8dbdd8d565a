import { type Clock, type Random, sleep } from '@capstan/actor'
import type { Access, Json } from '../harness/types.js'
import type { Answer } from './ports.js'
import { type Recording, REQUESTS } from './recording.js'

export type Options = { [key: string]: Json }

/** The world's clock, with the time since the run began as its monotonic time. */
export function runClock({ clock, nowMs }: Pick<Access, 'clock' | 'nowMs'>): Clock {
  return {
    nowMs: () => clock.nowMs(),
    monotonicMs: () => nowMs(),
    setTimer: (delayMs, run) => clock.setTimer(delayMs, run),
    defer: (run) => clock.defer(run),
  }
}

/** @throws Error naming the option that is no number above 0. */
export function numberOf(options: Options | undefined, name: string, otherwise: number): number {
  const value = options?.[name]
  if (value === undefined) return otherwise
  if (typeof value !== 'number' || !(value > 0))
    throw new Error(`the workload's option ${name} must be a number above 0`)
  return value
}

export const pick = <T>(random: Random, list: readonly T[]): T => list[random.int(list.length)] as T
export const between = (random: Random, low: number, high: number) => low + random.next() * (high - low)

/** Asks until there is an answer; `undefined` when the time is over. */
export async function until<T>(
  clock: Clock,
  boundMs: number,
  periodMs: number,
  ask: () => T | undefined | Promise<T | undefined>,
): Promise<T | undefined> {
  const deadlineMs = clock.monotonicMs() + boundMs
  for (;;) {
    const found = await ask()
    if (found !== undefined) return found
    if (clock.monotonicMs() >= deadlineMs) return undefined
    await sleep(clock, periodMs)
  }
}

/** Loops of clients that go on until they are told to end. */
export class Crew {
  private readonly leaving = new AbortController()
  private readonly loops: Promise<void>[] = []
  /** A bug of the workload itself: it makes the run's records worthless, so `end` throws it. */
  private failure: unknown

  constructor(
    readonly clock: Clock,
    private readonly recording: Recording,
  ) {}

  get isOver(): boolean {
    return this.leaving.signal.aborted || this.recording.isFull
  }

  /** `step` does one thing and returns how long to pause, ms. */
  loop(step: () => Promise<number>): void {
    const run = async () => {
      while (!this.isOver) await this.pause(await step())
    }
    this.loops.push(
      run().catch((error: unknown) => {
        this.failure ??= error
      }),
    )
  }

  /** False: it is over. */
  async pause(ms: number): Promise<boolean> {
    return (await sleep(this.clock, ms, this.leaving.signal)) && !this.isOver
  }

  /** Resolves when every loop has done its last step. */
  async end(): Promise<void> {
    this.leaving.abort()
    await Promise.all(this.loops)
    if (this.failure !== undefined) throw this.failure
  }
}

/** So long a client leaves out an endpoint that did not serve it. */
const AVOID_MS = 1000
const failedMs = new WeakMap<object, number>()

/** An endpoint that served this client well of late; if none did, any. */
export function choose<P extends object>(clock: Clock, random: Random, ports: readonly P[]): P {
  const well = ports.filter((port) => clock.monotonicMs() - (failedMs.get(port) ?? -AVOID_MS) >= AVOID_MS)
  return pick(random, well.length > 0 ? well : ports)
}

/** Does it once more, elsewhere, if the first attempt failed for want of service; counts what failed twice. */
export async function withRetry<P extends object, T>(
  { clock, recording }: { clock: Clock; recording: Recording },
  random: Random,
  ports: readonly P[],
  attempt: (port: P, repeated: boolean) => Promise<Answer<T>>,
): Promise<Answer<T>> {
  const once = async (port: P, repeated: boolean) => {
    const answer = await attempt(port, repeated)
    if (!answer.ok && !answer.answered) failedMs.set(port, clock.monotonicMs())
    return answer
  }
  const first = choose(clock, random, ports)
  const answer = await once(first, false)
  if (answer.ok || answer.answered) return answer
  const others = ports.filter((port) => port !== first)
  const again = await once(others.length > 0 ? choose(clock, random, others) : first, true)
  if (!again.ok && !again.answered) recording.count(REQUESTS.failedTwice)
  return again
}
