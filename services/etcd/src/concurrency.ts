/** etcd's Lock and Election services: recipes over keys and leases (etcd's package `concurrency`), the same keys as its clients use. */
import type { KeyValue, RangeReply, StoreHeader, TxnOp, TxnOpReply, TxnReply, WatchData } from '@capstan/protocol'
import { EtcdError, GRPC, toEtcdError } from './etcd-error.js'
import type { FaceContext } from './face.js'
import { leaseNumber } from './kv.js'
import { grantLease, keepLeaseAlive } from './lease.js'
import {
  CampaignRequest,
  CampaignResponse,
  HeaderOnly,
  type LeaderKey,
  LeaderRequest,
  LeaderResponse,
  LockRequest,
  LockResponse,
  ProclaimRequest,
  ResignRequest,
  UnlockRequest,
} from './messages.js'
import type { In } from './protobuf.js'
import { type CallContext, type Method, type Methods, stream, unary } from './rpc.js'

/** Of a lease made for a caller that brought none. */
const SESSION_TTL_SECONDS = 60
const WATCH_CREDITS = 8
const RETRY_MS = 100

type Call = Pick<CallContext, 'signal' | 'gone' | 'remainingMs'>

export function concurrencyMethods(face: FaceContext): Methods {
  const { store } = face
  /** In etcd these services are clients of the server: what they fail by loses its code on the way. */
  const asClient =
    <A extends unknown[], R>(run: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      try {
        return await run(...args)
      } catch (error) {
        throw new EtcdError(GRPC.UNKNOWN, toEtcdError(error).message, { cause: error })
      }
    }

  const methods: Record<string, Method> = {
    '/v3lockpb.Lock/Lock': unary(
      LockRequest,
      LockResponse,
      asClient(async (request, call) => {
        const lease = await session(request.lease, call)
        const prefix = Buffer.concat([request.name, SLASH])
        const key = keyOf(prefix, lease)
        const reply = await txn(call, {
          compare: [{ key, target: 'create', result: '=', operand: 0 }],
          success: [{ type: 'put', key, value: NOTHING, lease }, firstOf(prefix)],
          failure: [{ type: 'range', key }, firstOf(prefix)],
        })
        const mine = reply.succeeded ? reply.header.revision : (kvsOf(reply, 0)[0]?.createRevision ?? 0)
        const [owner] = kvsOf(reply, 1)
        if (!owner || owner.createRevision === mine) return { header: face.header(reply.header), key }
        let now: RangeReply
        try {
          await othersGone(prefix, mine - 1, call)
          now = (await store.read('range', { key }, face.ask(call))) as RangeReply
        } catch (error) {
          // Who no longer waits stands in nobody's way.
          await remove(key)
          throw error
        }
        // Its lease may have ended while it waited: then it is no longer in the queue, and another one may hold the lock.
        if (now.kvs[0]?.createRevision !== mine) throw new EtcdError(GRPC.UNKNOWN, 'mutex: session is expired')
        return { header: face.header(now.header), key }
      }),
    ),

    '/v3lockpb.Lock/Unlock': unary(
      UnlockRequest,
      HeaderOnly,
      asClient(async ({ key }, call) => {
        if (key.length === 0) throw new EtcdError(GRPC.UNKNOWN, 'etcdserver: key is not provided')
        const reply = await txn(call, { compare: [], success: [{ type: 'delete', key }], failure: [] })
        return { header: face.header(reply.header) }
      }),
    ),

    '/v3electionpb.Election/Campaign': unary(
      CampaignRequest,
      CampaignResponse,
      asClient(async ({ name, lease: wanted, value }, call) => {
        const lease = await session(wanted, call)
        const prefix = Buffer.concat([name, SLASH])
        const key = keyOf(prefix, lease)
        const reply = await txn(call, {
          compare: [{ key, target: 'create', result: '=', operand: 0 }],
          success: [{ type: 'put', key, value, lease }],
          failure: [{ type: 'range', key }],
        })
        const [there] = reply.succeeded ? [] : kvsOf(reply, 0)
        const rev = there?.createRevision ?? reply.header.revision
        const leader = { name, key, rev, lease: BigInt(lease) }
        try {
          if (there && Buffer.compare(there.value, value) !== 0) await proclaim(leader, value, call)
          await othersGone(prefix, rev - 1, call)
        } catch (error) {
          await resign(leader)
          throw error
        }
        return { header: face.header(reply.header), leader }
      }),
    ),

    '/v3electionpb.Election/Proclaim': unary(
      ProclaimRequest,
      HeaderOnly,
      asClient(async ({ leader, value }, call) => ({
        header: face.header(await proclaim(present(leader), value, call)),
      })),
    ),

    '/v3electionpb.Election/Leader': unary(
      LeaderRequest,
      LeaderResponse,
      asClient(async ({ name }, call) => {
        const { header, kvs } = await first(Buffer.concat([name, SLASH]), call)
        if (!kvs[0]) throw new EtcdError(GRPC.UNKNOWN, 'election: no leader')
        return { header: face.header(header), kv: kvs[0] }
      }),
    ),

    '/v3electionpb.Election/Resign': unary(
      ResignRequest,
      HeaderOnly,
      asClient(async ({ leader }, call) => ({ header: face.header(await resign(present(leader), call)) })),
    ),

    '/v3electionpb.Election/Observe': stream(LeaderRequest, LeaderResponse, (calls) => {
      const { signal } = calls.context
      const tell = async (revision: number, kv: KeyValue) => {
        await calls.send({ header: await face.headerAt(revision), kv })
      }
      calls.receive({
        request: ({ name }) => {
          observe(Buffer.concat([name, SLASH]), signal, tell).then(
            () => calls.end(),
            (error: unknown) => calls.end(new EtcdError(GRPC.UNKNOWN, toEtcdError(error).message, { cause: error })),
          )
        },
        done: () => undefined,
      })
    }),
  }
  return methods

  // --------------------------------------------------------------------------------------------------------- the recipes

  /** A lease that the caller brought is renewed once, as by etcd's session; else one is made. */
  async function session(wanted: bigint, call: Call): Promise<number> {
    if (wanted === 0n) return (await grantLease(face, 0n, SESSION_TTL_SECONDS, call)).id
    const lease = leaseNumber(wanted)
    await keepLeaseAlive(face, lease, call)
    return lease
  }

  /** Waits until every key of the prefix that is as old as `createRevision` or older is gone. */
  async function othersGone(prefix: Buffer, createRevision: number, call: Call): Promise<StoreHeader> {
    for (;;) {
      const reply = (await store.read(
        'range',
        {
          ...span(prefix),
          sortTarget: 'create',
          sortOrder: 'descend',
          limit: 1,
          maxCreateRevision: Math.max(1, createRevision),
        },
        { gone: () => call.gone },
      )) as RangeReply
      const [last] = reply.kvs
      if (!last) return reply.header
      await nextEvent({ key: last.key }, reply.header.revision + 1, 'delete', call.signal)
    }
  }

  async function proclaim(leader: In<typeof LeaderKey>, value: Uint8Array, call: Call): Promise<StoreHeader> {
    const { key, rev, lease } = leader
    const reply = await txn(call, {
      compare: [{ key, target: 'create', result: '=', operand: rev }],
      success: [{ type: 'put', key, value, lease: leaseNumber(lease) }],
      failure: [],
    })
    if (!reply.succeeded) throw new EtcdError(GRPC.UNKNOWN, 'election: not leader')
    return reply.header
  }

  async function resign({ key, rev }: In<typeof LeaderKey>, call?: Call): Promise<StoreHeader> {
    const reply = await txn(call, {
      compare: [{ key, target: 'create', result: '=', operand: rev }],
      success: [{ type: 'delete', key }],
      failure: [],
    })
    return reply.header
  }

  /** Even when the caller has gone. */
  async function remove(key: Uint8Array): Promise<void> {
    await txn(undefined, { compare: [], success: [{ type: 'delete', key }], failure: [] })
  }

  function first(prefix: Buffer, call?: Call): Promise<RangeReply> {
    const query = { ...span(prefix), sortTarget: 'create', sortOrder: 'ascend', limit: 1 }
    return store.read('range', query, call ? face.ask(call) : {}) as Promise<RangeReply>
  }

  /** Each value of each leader of an election, the present one first; not every one of a quick succession. */
  async function observe(
    prefix: Buffer,
    signal: AbortSignal,
    tell: (revision: number, kv: KeyValue) => Promise<void>,
  ): Promise<void> {
    while (!signal.aborted) {
      const { header, kvs } = await first(prefix)
      let kv = kvs[0] as KeyValue
      let { revision } = header
      if (!kvs[0]) {
        kv = await nextEvent(span(prefix), header.revision + 1, 'put', signal)
        revision = kv.modRevision
      }
      await tell(revision, kv)
      await eventsOf({ key: kv.key }, revision + 1, signal, async (type, changed) => {
        if (type === 'delete') return true
        await tell(changed.modRevision, changed)
        return false
      })
    }
  }

  async function nextEvent(
    range: { key: Uint8Array; rangeEnd?: Uint8Array },
    startRevision: number,
    wanted: 'put' | 'delete',
    signal: AbortSignal,
  ): Promise<KeyValue> {
    let found: KeyValue | undefined
    await eventsOf(range, startRevision, signal, (type, kv) => {
      found ??= type === wanted ? kv : undefined
      return Promise.resolve(found !== undefined)
    })
    return found as KeyValue
  }

  /** Hands over events in order, across failures of members, until `enough` says so. @throws CallError when the caller goes. */
  async function eventsOf(
    range: { key: Uint8Array; rangeEnd?: Uint8Array },
    startRevision: number,
    signal: AbortSignal,
    enough: (type: 'put' | 'delete', kv: KeyValue) => Promise<boolean>,
  ): Promise<void> {
    const { clock } = face.world
    let next = startRevision
    await new Promise<void>((resolve, reject) => {
      let over = false
      const finish = (settle: () => void) => {
        if (over) return
        over = true
        signal.removeEventListener('abort', gone)
        watch.cancel()
        settle()
      }
      const gone = () => finish(() => reject(new EtcdError(GRPC.CANCELLED, 'context canceled')))
      const open = () =>
        store.stream(
          'watch',
          { ...range, startRevision: next },
          {
            data: async (body) => {
              const { revision, events } = body as WatchData
              for (const { type, kv } of events) if (!over && (await enough(type, kv))) return finish(resolve)
              next = revision + 1
            },
            end: (_reason, error) => {
              if (over) return
              if (error?.code === 'COMPACTED' || error?.code === 'BAD_REQUEST') return finish(() => reject(error))
              clock.setTimer(RETRY_MS, () => {
                if (!over) watch = open()
              })
            },
          },
          WATCH_CREDITS,
        )
      let watch = open()
      signal.addEventListener('abort', gone, { once: true })
      if (signal.aborted) gone()
    })
  }

  function txn(call: Call | undefined, request: Parameters<typeof store.txn>[0]): Promise<TxnReply> {
    return store.txn(request, call ? face.ask(call) : {})
  }
}

const SLASH = Buffer.from('/')
const NOTHING = new Uint8Array(0)

const keyOf = (prefix: Buffer, lease: number): Buffer => Buffer.concat([prefix, Buffer.from(lease.toString(16))])

/** All keys with this prefix, which ends in a slash. */
function span(prefix: Buffer): { key: Uint8Array; rangeEnd: Uint8Array } {
  const rangeEnd = Buffer.from(prefix)
  rangeEnd[rangeEnd.length - 1] = (rangeEnd[rangeEnd.length - 1] as number) + 1
  return { key: prefix, rangeEnd }
}

const firstOf = (prefix: Buffer): TxnOp => ({
  type: 'range',
  ...span(prefix),
  sortTarget: 'create',
  sortOrder: 'ascend',
  limit: 1,
})

function kvsOf(reply: TxnReply, at: number): KeyValue[] {
  return (reply.replies[at] as Extract<TxnOpReply, { type: 'range' }>).kvs
}

function present(leader: In<typeof LeaderKey> | undefined): In<typeof LeaderKey> {
  if (!leader) throw new EtcdError(GRPC.UNKNOWN, '"leader" field must be provided')
  return leader
}
