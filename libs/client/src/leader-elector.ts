import { CallError, sleep, type World } from '@capstan/actor'
import { type Fence, LOCK_LEASE_MS } from '@capstan/protocol'
import { type ApiClient, RESOURCES } from './api-client.js'
import { hex } from './beat-tracker.js'
import type { KubeObject } from './kube-object.js'

/** coordination.k8s.io/v1 Lease, as far as the election reads it. */
export interface LockLease extends KubeObject {
  spec?: {
    holderIdentity?: string
    leaseDurationSeconds?: number
    acquireTime?: string
    renewTime?: string
    leaseTransitions?: number
  }
}

export interface LeaderElectorOptions {
  /** Of the Lease. Namespace usually `kube-system`. */
  lock: { namespace: string; name: string }
  /** Readable name of this candidate (a master's); a random part is added for each term of office. */
  identity: string
  /**
   * A Lease not renewed for so long, as seen by the candidate, may be taken: a shorter one is taken over sooner when
   * its holder dies, and changes hands where holder or store stall for a moment, which the fence makes harmless. Default 1,400.
   */
  leaseDurationMs?: number
  /** Default 0.3 of the lease. */
  renewMs?: number
  /** The holder stops leading when its last renewal was sent so long ago; below the duration. Default 0.82 of it. */
  renewDeadlineMs?: number
  /** Between a candidate's looks. Default 0.15 of the lease. */
  retryMs?: number
  /**
   * Leading begins. Everything started must end when `signal` is aborted; writes carry `fence`. What the returned promise
   * awaits is awaited before the next term begins.
   */
  lead(fence: Fence, signal: AbortSignal): void | Promise<void>
  /** Told after each change. */
  changed?(state: 'active' | 'standby', why: string): void
}

/**
 * Competes for a Lease and leads while it holds it. The fencing token is the create revision of the Lease's key: a lock is
 * taken by creating the Lease, after deleting one whose holder was silent; never by changing the holder in place.
 * The lock alone excludes nobody: the fence in each write does (promise C2).
 */
export class LeaderElector {
  private readonly random
  /** Tells this life of the candidate from former ones under the same name. */
  private readonly incarnation: string
  private readonly stopping = new AbortController()
  private running: Promise<void> | undefined
  private present: { fence: Fence; lost(why: string): void } | undefined
  private readonly leaseDurationMs: number
  private readonly renewMs: number
  private readonly renewDeadlineMs: number
  private readonly retryMs: number
  /** For coverage counters in simulation. */
  readonly counters = { terms: 0, takeOvers: 0 }

  constructor(
    private readonly world: Pick<World, 'clock' | 'log' | 'random'>,
    private readonly client: ApiClient,
    private readonly options: LeaderElectorOptions,
  ) {
    this.random = world.random.fork(`elector/${options.lock.namespace}/${options.lock.name}/${options.identity}`)
    this.incarnation = hex(this.random.bytes(4))
    this.leaseDurationMs = options.leaseDurationMs ?? LOCK_LEASE_MS
    this.renewMs = options.renewMs ?? 0.3 * this.leaseDurationMs
    this.renewDeadlineMs = options.renewDeadlineMs ?? 0.82 * this.leaseDurationMs
    this.retryMs = options.retryMs ?? 0.15 * this.leaseDurationMs
    if (!(this.renewMs < this.renewDeadlineMs && this.renewDeadlineMs < this.leaseDurationMs))
      throw new RangeError('leader election needs renewMs < renewDeadlineMs < leaseDurationMs')
  }

  get leading(): boolean {
    return this.present !== undefined
  }

  /** Undefined while not leading. */
  get fence(): Fence | undefined {
    return this.present?.fence
  }

  start(): void {
    this.running ??= this.run()
  }

  /** Ends this term of office (a write was FENCED); competes again. */
  stepDown(why: string): void {
    this.present?.lost(why)
  }

  /** Stops leading, gives the lock back, and competes no more. */
  async stop(): Promise<void> {
    this.stopping.abort()
    this.present?.lost('stopping')
    await this.running
  }

  private async run(): Promise<void> {
    const { signal } = this.stopping
    while (!signal.aborted) {
      const held = await this.acquire()
      if (held === undefined) return
      await this.hold(held.lease, held.sentMs)
      await sleep(this.world.clock, this.jittered(this.retryMs), signal)
    }
  }

  // ---------------------------------------------------------------------------------------------------------- candidate

  private async acquire(): Promise<{ lease: LockLease; sentMs: number } | undefined> {
    const { clock, log } = this.world
    const { signal } = this.stopping
    let seen: string | undefined
    let seenMs = 0
    let lookedMs = clock.monotonicMs()
    while (!signal.aborted) {
      try {
        const lease = await this.look()
        const now = clock.monotonicMs()
        if (lease === undefined) {
          const held = await this.create()
          if (held) return held
          seen = undefined
        } else {
          const version = `${lease.metadata.uid}/${lease.metadata.resourceVersion}`
          // Time in which this side did not look says nothing about the holder.
          const gap = now - lookedMs > this.retryMs + 1000
          if (version !== seen || gap) {
            seen = version
            seenMs = now
          }
          lookedMs = now
          const own = lease.spec?.holderIdentity?.startsWith(`${this.options.identity}_${this.incarnation}`) ?? false
          // A Lease of this very candidate that it does not hold: its creation was thought failed, or it gave up on it.
          if (own || now - seenMs >= this.leaseDurationMs) {
            log.info(
              { lock: this.options.lock, holder: lease.spec?.holderIdentity, silentMs: now - seenMs },
              'taking over the lock',
            )
            await this.remove(lease)
            this.counters.takeOvers++
            const held = await this.create()
            if (held) return held
            seen = undefined
          }
        }
      } catch (error) {
        log.debug({ err: error, lock: this.options.lock }, 'could not compete for the lock; will repeat')
      }
      await sleep(clock, this.jittered(this.retryMs), signal)
    }
    return undefined
  }

  private async look(): Promise<LockLease | undefined> {
    try {
      return await this.client.get<LockLease>(RESOURCES.leases, this.options.lock, { timeoutMs: 2000 })
    } catch (error) {
      if (error instanceof CallError && error.code === 'NotFound') return undefined
      throw error
    }
  }

  private async create(): Promise<{ lease: LockLease; sentMs: number } | undefined> {
    const sentMs = this.world.clock.monotonicMs()
    const time = microTime(this.world.clock.nowMs())
    const object: LockLease = {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: { ...this.options.lock },
      spec: {
        holderIdentity: `${this.options.identity}_${this.incarnation}_${hex(this.random.bytes(4))}`,
        leaseDurationSeconds: Math.ceil(this.leaseDurationMs / 1000),
        acquireTime: time,
        renewTime: time,
      },
    }
    try {
      const lease = await this.client.create<LockLease>(RESOURCES.leases, object, { timeoutMs: 2000 })
      return { lease, sentMs }
    } catch (error) {
      if (error instanceof CallError && error.code === 'AlreadyExists') return undefined
      throw error
    }
  }

  private async remove(lease: LockLease): Promise<void> {
    const { uid, resourceVersion } = lease.metadata
    const preconditions = { ...(uid ? { uid } : {}), ...(resourceVersion ? { resourceVersion } : {}) }
    try {
      await this.client.delete(RESOURCES.leases, this.options.lock, { preconditions, timeoutMs: 2000 })
    } catch (error) {
      if (!(error instanceof CallError && error.code === 'NotFound')) throw error
    }
  }

  // -------------------------------------------------------------------------------------------------------------- holder

  private async hold(created: LockLease, sentMs: number): Promise<void> {
    const { clock, log } = this.world
    const token = created.metadata.resourceVersion
    if (token === undefined) throw new Error('the API server returned a Lease without resourceVersion')
    const fence: Fence = { lock: this.options.lock, token }
    const ending = new AbortController()
    let why = ''
    const lost = (reason: string) => {
      if (ending.signal.aborted) return
      why = reason
      deadline.cancel()
      // From here on nothing of this term may begin; `fence` keeps out what is on its way.
      this.present = undefined
      ending.abort()
      log.warn({ lock: this.options.lock, token, why: reason }, 'leading no more')
      this.options.changed?.('standby', reason)
    }
    const tooLate = () => lost(`not renewed for ${this.renewDeadlineMs} ms`)
    let renewedMs = sentMs
    let deadline = clock.setTimer(sentMs + this.renewDeadlineMs - clock.monotonicMs(), tooLate)
    const renewed = (atMs: number) => {
      renewedMs = atMs
      deadline.cancel()
      deadline = clock.setTimer(atMs + this.renewDeadlineMs - clock.monotonicMs(), tooLate)
    }
    // After a stall the timer of the renewal may run before that of the deadline.
    const inTime = () => {
      if (clock.monotonicMs() - renewedMs < this.renewDeadlineMs) return true
      tooLate()
      return false
    }
    this.present = { fence, lost }
    this.counters.terms++
    log.info({ lock: this.options.lock, token, holder: created.spec?.holderIdentity }, 'leading')
    this.options.changed?.('active', 'lock acquired')
    let led: Promise<void>
    try {
      led = Promise.resolve(this.options.lead(fence, ending.signal)).catch((error: unknown) => {
        log.error({ err: error, lock: this.options.lock }, 'what this leader started failed')
        lost('its work failed')
      })
    } catch (error) {
      log.error({ err: error, lock: this.options.lock }, 'could not start leading')
      lost('its work failed to start')
      led = Promise.resolve()
    }
    await this.renew(created, ending.signal, inTime, renewed, lost)
    if (why === 'stopping' || why.startsWith('its work')) await this.release(created, fence)
    await led
  }

  private async renew(
    created: LockLease,
    signal: AbortSignal,
    inTime: () => boolean,
    renewed: (sentMs: number) => void,
    lost: (why: string) => void,
  ): Promise<void> {
    const { clock, log } = this.world
    let lease = created
    let delayMs = this.renewMs
    while ((await sleep(clock, delayMs, signal)) && inTime()) {
      const sentMs = clock.monotonicMs()
      delayMs = this.renewMs
      try {
        const next: LockLease = { ...lease, spec: { ...lease.spec, renewTime: microTime(clock.nowMs()) } }
        lease = await this.client.update<LockLease>(RESOURCES.leases, next, { timeoutMs: 1000 })
        renewed(sentMs)
      } catch (error) {
        if (signal.aborted) return
        // The update may have happened and its answer be lost, or the lock may be gone: look.
        log.debug({ err: error, lock: this.options.lock }, 'renewal failed')
        delayMs = this.retryMs / 2
        try {
          const present = await this.look()
          if (
            present?.metadata.uid !== created.metadata.uid ||
            present?.spec?.holderIdentity !== created.spec?.holderIdentity
          )
            return lost('another one took the lock')
          lease = present as LockLease
        } catch (lookError) {
          log.debug({ err: lookError, lock: this.options.lock }, 'could not look at the lock')
        }
      }
    }
  }

  private async release(created: LockLease, fence: Fence): Promise<void> {
    const { uid } = created.metadata
    try {
      const preconditions = uid === undefined ? {} : { preconditions: { uid } }
      await this.client.delete(RESOURCES.leases, this.options.lock, { ...preconditions, fence, timeoutMs: 1000 })
    } catch (error) {
      // The next one waits for the Lease to run out.
      this.world.log.info({ err: error, lock: this.options.lock }, 'could not give the lock back')
    }
  }

  private jittered(ms: number): number {
    return ms * (0.8 + this.random.next() * 0.4)
  }
}

/** RFC 3339 with microseconds, as `acquireTime` and `renewTime` have it. */
export function microTime(epochMs: number): string {
  return new Date(epochMs).toISOString().replace('Z', '000Z')
}
