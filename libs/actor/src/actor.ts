import { CallError } from './errors.js'
import { sleep } from './time.js'
import type { Log, World } from './world.js'

/**
 * What an actor does. One message at a time: the next is taken when `receive` has finished. A throw from any of these
 * is a crash: the supervisor makes a new behaviour (its state is gone) and goes on with the next message.
 */
export interface Behaviour<M> {
  /** Before the first message, also after a restart. */
  started?(): void | Promise<void>
  receive(message: M): void | Promise<void>
  /** After the last message, and before a restart. Must not throw. */
  stopped?(): void | Promise<void>
}

export interface ActorOptions {
  /** A noun with an identity: `store-0`, `kubelet/worker-3`. */
  name: string
  /** Messages that may wait. One more is refused: `tell` returns false, `ask` fails with OVERLOADED. Default 1,024. */
  mailboxMax?: number
  /** First wait before a restart; doubles to `restartDelayMsMax`. Default 100 and 10,000. */
  restartDelayMs?: number
  restartDelayMsMax?: number
  /** Crashes within `restartWindowMs` (default 60,000) after which the supervisor gives up. Default 10. */
  restartsMax?: number
  restartWindowMs?: number
  /** The supervisor gave up; the actor is stopped. Default: logs an error. */
  onGiveUp?: (error: unknown) => void
}

export interface ActorRef<M> {
  readonly name: string
  /** Messages that wait. */
  readonly waiting: number
  readonly state: 'running' | 'restarting' | 'stopping' | 'stopped'
  /** False: refused (mailbox full, or stopping); it did not happen. */
  tell(message: M): boolean
  /**
   * Sends the message that `make` builds round an answer function and resolves with the answer.
   * @throws CallError OVERLOADED or CLOSED (not-applied), TIMEOUT or CRASHED (maybe-applied).
   */
  ask<R>(make: (answer: Answer<R>) => M, timeoutMs: number): Promise<R>
  /** Takes no more messages, finishes the present one, drops the rest. */
  stop(): Promise<void>
}

export interface Answer<R> {
  (value: R): void
  fail(error: Error): void
}

/** Starts an actor under a supervisor of its own. */
export function spawn<M>(
  world: Pick<World, 'clock' | 'log'>,
  options: ActorOptions,
  make: (self: ActorRef<M>) => Behaviour<M>,
): ActorRef<M> {
  return new Supervised(world, options, make)
}

class Supervised<M> implements ActorRef<M> {
  readonly name: string
  state: ActorRef<M>['state'] = 'running'
  private readonly log: Log
  private readonly mailbox: M[] = []
  private readonly stopSignal = new AbortController()
  private readonly asks = new Set<(error: CallError) => void>()
  private readonly crashes: number[] = []
  private wake: (() => void) | undefined
  private readonly ended: Promise<void>

  constructor(
    private readonly world: Pick<World, 'clock' | 'log'>,
    private readonly options: ActorOptions,
    private readonly make: (self: ActorRef<M>) => Behaviour<M>,
  ) {
    this.name = options.name
    this.log = world.log.child({ actor: options.name })
    this.ended = this.run()
  }

  get waiting(): number {
    return this.mailbox.length
  }

  tell(message: M): boolean {
    if (this.state === 'stopping' || this.state === 'stopped') return false
    if (this.mailbox.length >= (this.options.mailboxMax ?? 1024)) return false
    this.mailbox.push(message)
    this.wake?.()
    return true
  }

  ask<R>(make: (answer: Answer<R>) => M, timeoutMs: number): Promise<R> {
    return new Promise((resolve, reject) => {
      const timer = this.world.clock.setTimer(timeoutMs, () =>
        end(() => reject(new CallError('TIMEOUT', 'maybe-applied', `${this.name} did not answer in ${timeoutMs} ms`))),
      )
      const lost = (error: CallError) => end(() => reject(error))
      const end = (settle: () => void) => {
        timer.cancel()
        this.asks.delete(lost)
        settle()
      }
      const answer = Object.assign((value: R) => end(() => resolve(value)), {
        fail: (error: Error) => end(() => reject(error)),
      })
      if (this.tell(make(answer))) this.asks.add(lost)
      else {
        const stopping = this.state === 'stopping' || this.state === 'stopped'
        const text = stopping ? `${this.name} is ${this.state}` : `${this.name} has ${this.waiting} messages waiting`
        end(() => reject(new CallError(stopping ? 'CLOSED' : 'OVERLOADED', 'not-applied', text)))
      }
    })
  }

  stop(): Promise<void> {
    if (this.state === 'running' || this.state === 'restarting') {
      this.state = 'stopping'
      this.stopSignal.abort()
      this.wake?.()
    }
    return this.ended
  }

  private async run(): Promise<void> {
    while (!this.stopSignal.signal.aborted) {
      const crash = await this.live()
      if (crash === undefined) break
      this.failAsks(new CallError('CRASHED', 'maybe-applied', `${this.name} crashed: ${String(crash.error)}`))
      if (!(await this.mayRestart(crash.error))) break
    }
    this.state = 'stopped'
    this.mailbox.length = 0
    this.failAsks(new CallError('CLOSED', 'maybe-applied', `${this.name} stopped`))
  }

  /** One life of the behaviour; undefined at an ordinary end. */
  private async live(): Promise<{ error: unknown } | undefined> {
    let behaviour: Behaviour<M> | undefined
    try {
      behaviour = this.make(this)
      await behaviour.started?.()
      while (!this.stopSignal.signal.aborted) {
        if (this.mailbox.length === 0) await new Promise<void>((resolve) => (this.wake = resolve))
        this.wake = undefined
        if (this.stopSignal.signal.aborted || this.mailbox.length === 0) continue
        await behaviour.receive(this.mailbox.shift() as M)
      }
      return undefined
    } catch (error) {
      return { error }
    } finally {
      await behaviour?.stopped?.()
    }
  }

  private async mayRestart(error: unknown): Promise<boolean> {
    const now = this.world.clock.monotonicMs()
    const windowMs = this.options.restartWindowMs ?? 60_000
    while (this.crashes.length > 0 && (this.crashes[0] as number) < now - windowMs) this.crashes.shift()
    this.crashes.push(now)
    if (this.crashes.length > (this.options.restartsMax ?? 10)) {
      this.log.error(
        { err: error, crashes: this.crashes.length, windowMs },
        'actor keeps crashing; supervisor gives up',
      )
      this.options.onGiveUp?.(error)
      return false
    }
    const first = this.options.restartDelayMs ?? 100
    const delayMs = Math.min(first * 2 ** (this.crashes.length - 1), this.options.restartDelayMsMax ?? 10_000)
    this.log.warn({ err: error, delayMs }, 'actor crashed; restarting')
    if (this.state === 'running') this.state = 'restarting'
    const waited = await sleep(this.world.clock, delayMs, this.stopSignal.signal)
    if (waited && this.state === 'restarting') this.state = 'running'
    return waited
  }

  private failAsks(error: CallError): void {
    for (const fail of [...this.asks]) fail(error)
  }
}
