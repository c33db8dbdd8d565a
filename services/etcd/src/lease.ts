import { CallError } from '@capstan/actor'
import type {
  LeaseGrantReply,
  LeaseKeepAliveReply,
  LeasesReply,
  LeaseTimeToLiveReply,
  StoreHeader,
} from '@capstan/protocol'
import { EtcdError, etcdError, GRPC } from './etcd-error.js'
import type { FaceContext } from './face.js'
import { leaseNumber, NO_SUCH_LEASE } from './kv.js'
import {
  Empty,
  HeaderOnly,
  LeaseGrantRequest,
  LeaseGrantResponse,
  LeaseKeepAliveResponse,
  LeaseLeasesResponse,
  LeaseRequest,
  LeaseTimeToLiveRequest,
  LeaseTimeToLiveResponse,
} from './messages.js'
import { type CallContext, type Methods, stream, unary } from './rpc.js'

/** etcd's bound: 285 years. */
const TTL_SECONDS_MAX = 9_000_000_000
/** Renewals of one stream that are not answered yet; then no further request is taken until the oldest is. */
const RENEWALS_MAX = 1000

type Ask = Pick<CallContext, 'gone' | 'remainingMs'>

export function leaseMethods(face: FaceContext): Methods {
  const { store } = face

  return {
    '/etcdserverpb.Lease/LeaseGrant': unary(LeaseGrantRequest, LeaseGrantResponse, async (request, call) => {
      const reply = await grantLease(face, request.id, request.ttl, call)
      return { header: face.header(reply.header), id: BigInt(reply.id), ttl: reply.ttlSeconds }
    }),

    '/etcdserverpb.Lease/LeaseRevoke': unary(LeaseRequest, HeaderOnly, async (request, call) => {
      const id = leaseNumber(request.id)
      if (id === 0 || id === NO_SUCH_LEASE) throw etcdError('LEASE_NOT_FOUND')
      return { header: face.header(await revokeLease(face, id, call)) }
    }),

    '/etcdserverpb.Lease/LeaseKeepAlive': stream(LeaseRequest, LeaseKeepAliveResponse, (calls) => {
      /** Not sent yet, the oldest first. */
      const answers: Promise<void>[] = []
      const renew = async (id: bigint) => {
        // As etcd: the header is from before the renewal, so that no revision in it is later than that.
        const header = face.header(await face.lastSeen())
        const ttl = await keepLeaseAlive(face, leaseNumber(id), { gone: false, remainingMs: undefined })
        return { header, id, ttl }
      }
      const answer = async (renewal: ReturnType<typeof renew>, before: Promise<void> | undefined) => {
        await before
        await calls.send(await renewal)
        answers.shift()
      }
      calls.receive({
        // All at once: thousands of leases, each of which waited for the former one's commit, would end before their turn.
        request: ({ id }) => {
          const room = answers.at(-RENEWALS_MAX)
          const renewal = room ? room.then(() => renew(id)) : renew(id)
          // A failure is told in its turn.
          renewal.catch(() => undefined)
          const answered = answer(renewal, answers.at(-1))
          answered.catch((error: unknown) => calls.end(error))
          answers.push(answered)
          return answers.length < RENEWALS_MAX ? undefined : answers[0]
        },
        done: () => {
          const last = answers.at(-1) ?? Promise.resolve()
          last.then(
            () => calls.end(),
            () => undefined,
          )
        },
      })
    }),

    '/etcdserverpb.Lease/LeaseTimeToLive': unary(
      LeaseTimeToLiveRequest,
      LeaseTimeToLiveResponse,
      async (request, call) => {
        const id = leaseNumber(request.id)
        if (id === 0 || id === NO_SUCH_LEASE)
          return { header: face.header(await face.lastSeen()), id: request.id, ttl: -1 }
        const body = { id, keys: request.keys }
        const reply = (await store.read('leaseTimeToLive', body, {
          ...face.ask(call),
          first: 'leader',
        })) as LeaseTimeToLiveReply
        const header = face.header(reply.header)
        if (reply.ttlSeconds < 0) return { header, id: request.id, ttl: -1 }
        return {
          header,
          id: request.id,
          ttl: reply.ttlSeconds,
          grantedTtl: reply.grantedTtlSeconds,
          keys: reply.keys ?? [],
        }
      },
    ),

    '/etcdserverpb.Lease/LeaseLeases': unary(Empty, LeaseLeasesResponse, async (_, call) => {
      const reply = (await store.read('leases', {}, face.ask(call))) as LeasesReply
      return { header: face.header(reply.header), leases: reply.ids.map((id) => ({ id: BigInt(id) })) }
    }),
  }
}

/** `id` 0: one is drawn here, so that a repetition is known by it.
 *  @throws EtcdError, CallError */
export async function grantLease(face: FaceContext, id: bigint, ttl: number, call: Ask): Promise<LeaseGrantReply> {
  if (ttl > TTL_SECONDS_MAX) throw etcdError('LEASE_TTL_TOO_LARGE')
  if (id < 0n || id >= BigInt(NO_SUCH_LEASE))
    throw new EtcdError(
      GRPC.INVALID_ARGUMENT,
      `etcdserver: lease ID ${id} cannot be had here: it must be below 2^53 - 1 and not negative`,
    )
  const ttlSeconds = Math.max(1, ttl)
  const options = { ...face.ask(call), first: 'leader' } as const
  if (id !== 0n) return (await face.store.ask('leaseGrant', { id: Number(id), ttlSeconds }, options)) as LeaseGrantReply
  const own = drawLeaseId(face)
  try {
    const body = { id: own, ttlSeconds }
    return (await face.store.ask('leaseGrant', body, { ...options, repeatable: true })) as LeaseGrantReply
  } catch (error) {
    // Nobody else draws the same: an earlier attempt of ours was carried out.
    if (CallError.fromBus(error).code !== 'LEASE_EXISTS') throw error
    const reply = (await face.store.read('leaseTimeToLive', { id: own }, options)) as LeaseTimeToLiveReply
    return { header: reply.header, id: own, ttlSeconds: reply.grantedTtlSeconds }
  }
}

/** Seconds; 0: there is no such lease.
 *  @throws CallError */
export async function keepLeaseAlive(face: FaceContext, id: number, call: Ask): Promise<number> {
  if (id === 0 || id === NO_SUCH_LEASE) return 0
  const options = { ...face.ask(call), repeatable: true, first: 'leader' } as const
  try {
    return ((await face.store.ask('leaseKeepAlive', { id }, options)) as LeaseKeepAliveReply).ttlSeconds
  } catch (error) {
    if (CallError.fromBus(error).code === 'LEASE_NOT_FOUND') return 0
    throw error
  }
}

async function revokeLease(face: FaceContext, id: number, call: Ask): Promise<StoreHeader> {
  const options = { ...face.ask(call), first: 'leader' } as const
  return ((await face.store.ask('leaseRevoke', { id }, options)) as { header: StoreHeader }).header
}

/** Uniform over the safe integers but the last; never 0. */
function drawLeaseId(face: FaceContext): number {
  const bytes = face.world.random.bytes(7)
  let id = (bytes[0] as number) & 0x1f
  for (const byte of bytes.subarray(1)) id = id * 256 + byte
  return id === 0 || id >= NO_SUCH_LEASE ? 1 : id
}
