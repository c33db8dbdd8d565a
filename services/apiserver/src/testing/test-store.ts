import { CallError, every, type IncomingCall, serve, type World } from '@capstan/actor'
import { MemoryStateEngine, Mvcc, MvccError, type Command, type CommandResult, type WatchEvent } from '@capstan/mvcc'
import {
  type LeaseGrantRequest,
  type LeaseKeepAliveRequest,
  type LeaseRevokeRequest,
  type RangeRequest,
  type StoreHeader,
  Subjects,
  type TxnRequest,
  type WatchData,
  type WatchRequest,
} from '@capstan/protocol'

/** A store of one member, in memory, on the store's subjects. What is written is lost with it. */
export interface TestStore {
  readonly mvcc: Mvcc
  /** Answers nothing while true (tests of a store that is away). */
  paused: boolean
  /** Calls wait until the answer, as with a member that looks for a leader; those whose time is over by then are refused. */
  park(): () => void
  stop(): void
}

const LEASE_TICK_MS = 250

export function startTestStore(world: World, options: { cluster: string; member: string }): TestStore {
  const mvcc = new Mvcc(new MemoryStateEngine())
  const expiry = new Map<number, number>()
  let nextLease = 1
  let index = mvcc.appliedIndex
  const header = (): StoreHeader => ({ clusterId: 'test', member: options.member, term: 1, revision: mvcc.revision })
  const now = () => world.clock.monotonicMs()

  function apply(command: Command): CommandResult {
    const [result] = mvcc.applyBatch([{ index: ++index, command }])
    if (!result) throw new Error('no result')
    if (result.type === 'failed')
      throw new CallError(result.error.code, 'not-applied', result.error.text, { details: result.error.details })
    return result
  }

  let parked: Promise<void> | undefined
  const test: TestStore = {
    mvcc,
    paused: false,
    park() {
      let open = () => {}
      parked = new Promise((resolve) => (open = resolve))
      return () => {
        parked = undefined
        open()
      }
    },
    stop() {
      stopTicking()
      server.stop()
    },
  }
  const stopTicking = every(world.clock, LEASE_TICK_MS, () => {
    for (const [id, at] of [...expiry].sort((a, b) => a[0] - b[0]))
      if (at <= now()) {
        expiry.delete(id)
        apply({ type: 'leaseRevoke', id, expired: true })
      }
  })
  const server = serve(world, {
    pattern: new Subjects(options.cluster).storeServed(options.member),
    async handle(call) {
      await parked
      if (call.deadlineMs <= world.clock.monotonicMs()) throw new CallError('TIMEOUT', 'not-applied', 'too late')
      // A promise that never settles: as a hung member.
      if (test.paused) return new Promise(() => {})
      try {
        return answer(call)
      } catch (error) {
        if (error instanceof MvccError)
          throw new CallError(error.code, 'not-applied', error.message, { details: error.details })
        throw error
      }
    },
  })
  return test

  function answer(call: IncomingCall): unknown {
    switch (call.verb) {
      case 'range':
        return { header: header(), ...mvcc.range(call.body as RangeRequest) }
      case 'txn': {
        const { session, ...txn } = call.body as TxnRequest
        const result = apply({ type: 'txn', txn, ...(session ? { session } : {}) })
        if (result.type !== 'txn') throw new Error('not a txn result')
        return {
          header: { ...header(), revision: result.revision },
          succeeded: result.succeeded,
          replies: result.replies,
        }
      }
      case 'readIndex':
        return { header: header(), revision: mvcc.revision }
      case 'leaseGrant': {
        const { id, ttlSeconds } = call.body as LeaseGrantRequest
        const lease = id || nextLease++
        apply({ type: 'leaseGrant', id: lease, ttlSeconds })
        expiry.set(lease, now() + ttlSeconds * 1000)
        return { header: header(), id: lease, ttlSeconds }
      }
      case 'leaseKeepAlive': {
        const { id } = call.body as LeaseKeepAliveRequest
        const lease = mvcc.lease(id)
        if (lease) expiry.set(id, now() + lease.ttlSeconds * 1000)
        return { header: header(), id, ttlSeconds: lease?.ttlSeconds ?? 0 }
      }
      case 'leaseRevoke': {
        const { id } = call.body as LeaseRevokeRequest
        apply({ type: 'leaseRevoke', id })
        expiry.delete(id)
        return { header: header() }
      }
      case 'compact':
        apply({ type: 'compact', revision: (call.body as { revision: number }).revision })
        return { header: header() }
      case 'watch':
        return watch(call)
      case 'status':
        return {
          header: header(),
          role: 'leader',
          leader: options.member,
          term: 1,
          commitIndex: index,
          appliedIndex: index,
          firstIndex: 1,
          compactRevision: mvcc.compactRevision,
          dbSizeBytes: 0,
          members: [options.member],
          peersHeard: [],
          clusterVersion: 1,
          errors: [],
          counters: {},
        }
      default:
        throw new CallError('UNKNOWN_VERB', 'not-applied', `the store has no verb ${call.verb}`)
    }
  }

  function watch(call: IncomingCall): undefined {
    const request = call.body as WatchRequest
    const start = request.startRevision || mvcc.revision + 1
    const range = { key: request.key, ...(request.rangeEnd ? { rangeEnd: request.rangeEnd } : {}) }
    // Before the stream is accepted: COMPACTED refuses it.
    const past: WatchEvent[] = []
    mvcc.eventsFrom({ revision: start, sub: 0 }, range, (event) => past.push(event) > 0, Number.POSITIVE_INFINITY)
    const stream = call.openStream({ position: () => ({ revision: seen }) })
    /** Of the last message, and up to where everything was looked at. */
    let sent = start - 1
    let seen = sent
    const send = (events: WatchEvent[]) => {
      const data: WatchData = { prevRevision: sent, revision: Math.max(sent, mvcc.revision), events }
      sent = data.revision
      seen = sent
      stream.send(data)
    }
    send(past)
    const inRange = (key: Uint8Array) =>
      request.rangeEnd === undefined
        ? Buffer.compare(key, request.key) === 0
        : Buffer.compare(key, request.key) >= 0 &&
          (isAll(request.rangeEnd) || Buffer.compare(key, request.rangeEnd) < 0)
    const off = mvcc.onRevisions((batch) => {
      const mine = batch
        .filter((one) => one.revision > seen)
        .flatMap((one) => one.events.filter((event) => inRange(event.kv.key)))
      if (mine.length > 0) send(mine)
      else seen = Math.max(seen, mvcc.revision)
    })
    stream.onEnd(off)
    return undefined
  }
}

const isAll = (end: Uint8Array) => end.length === 1 && end[0] === 0
