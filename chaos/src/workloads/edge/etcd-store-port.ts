import { type CallOptions, Client, credentials, type ServiceError } from '@grpc/grpc-js'
import {
  Compare,
  COMPARE_TARGETS,
  Empty,
  HashKvRequest,
  HashKvResponse,
  HeaderOnly,
  type KeyValue,
  LeaseGrantRequest,
  LeaseGrantResponse,
  LeaseKeepAliveResponse,
  LeaseRequest,
  LeaseTimeToLiveRequest,
  LeaseTimeToLiveResponse,
  RangeRequest,
  RangeResponse,
  type ResponseOpOut,
  StatusResponse,
  TxnRequest,
  TxnResponse,
  WatchRequest,
  WatchResponse,
} from '@capstan/etcd/messages'
import type { In, Message, Out } from '@capstan/etcd/messages'
import type { WatchedEvent } from '../../checkers/watch-guarantees.js'
import type { Credentials, EtcdEndpoint } from '../../harness/types.js'
import type { Answer, Failure, StorePort, StoreTxn, StoreWatchListener } from '../ports.js'

const TIMEOUT_MS = 5000
const HASH_TIMEOUT_MS = 20_000
const KEEPALIVE_MS = 2000

/** One connection to a member's etcd face. */
export class EtcdStorePort implements StorePort {
  private readonly client: Client

  readonly member: string

  constructor({ member, address }: EtcdEndpoint, { ca, cert, key, serverName }: Credentials) {
    this.member = member
    const pem = (text: string | undefined) => (text === undefined ? null : Buffer.from(text))
    this.client = new Client(address, credentials.createSsl(pem(ca), pem(key), pem(cert)), {
      // A connection of its own, tried anew at once: what is measured is the cluster's recovery, not the client's patience.
      'grpc.use_local_subchannel_pool': 1,
      'grpc.initial_reconnect_backoff_ms': 50,
      'grpc.min_reconnect_backoff_ms': 50,
      'grpc.max_reconnect_backoff_ms': 250,
      // A face whose machine hangs or is cut off ends no connection: watches would wait for ever.
      'grpc.keepalive_time_ms': KEEPALIVE_MS,
      'grpc.keepalive_timeout_ms': KEEPALIVE_MS,
      'grpc.keepalive_permit_without_calls': 1,
      'grpc.max_receive_message_length': -1,
      ...(serverName === undefined ? {} : { 'grpc.ssl_target_name_override': serverName }),
    })
  }

  async range(from: string, to?: string) {
    const request = { key: bytes(from), ...(to === undefined ? {} : { rangeEnd: bytes(to) }) }
    return map(await this.call('KV/Range', RangeRequest, RangeResponse, request), ({ header, kvs }) => ({
      revision: header?.revision ?? 0,
      keys: kvs.map((kv) => ({
        key: text(kv.key),
        value: text(kv.value),
        modRevision: kv.modRevision,
        createRevision: kv.createRevision,
        version: kv.version,
      })),
    }))
  }

  async txn({ compare, ops }: StoreTxn) {
    const request = {
      compare: compare.map(
        ({ key, modRevision }): Out<typeof Compare> => ({
          result: 0,
          target: COMPARE_TARGETS.indexOf('mod'),
          key: bytes(key),
          modRevision,
        }),
      ),
      success: ops.map((op) =>
        'put' in op
          ? { put: { key: bytes(op.put), value: bytes(op.value), lease: BigInt(op.lease ?? 0) } }
          : { delete: { key: bytes(op.delete), ...(op.to === undefined ? {} : { rangeEnd: bytes(op.to) }) } },
      ),
      failure: [],
    }
    return map(await this.call('KV/Txn', TxnRequest, TxnResponse, request), (reply) => {
      const { header, succeeded, responses } = reply as { header?: { revision?: number } } & {
        succeeded: boolean
        responses: ResponseOpOut[]
      }
      return { revision: header?.revision ?? 0, succeeded, deleted: responses.map((one) => one.delete?.deleted ?? 0) }
    })
  }

  async leaseGrant(ttlSeconds: number) {
    const answer = await this.call('Lease/LeaseGrant', LeaseGrantRequest, LeaseGrantResponse, { ttl: ttlSeconds })
    return map(answer, ({ header, id, ttl }) => ({
      id: Number(id),
      ttlSeconds: ttl,
      revision: header?.revision ?? 0,
    }))
  }

  /** A stream of one request: then its outcome is known like that of any other. */
  leaseKeepAlive(id: number): Promise<Answer<{ ttlSeconds: number; revision: number }>> {
    return new Promise((resolve) => {
      const call = this.client.makeBidiStreamRequest(
        '/etcdserverpb.Lease/LeaseKeepAlive',
        serialize(LeaseRequest),
        deserialize(LeaseKeepAliveResponse),
        { deadline: deadline(TIMEOUT_MS) },
      )
      call.on('data', ({ ttl, header }: In<typeof LeaseKeepAliveResponse>) => {
        resolve({ ok: true, value: { ttlSeconds: ttl, revision: header?.revision ?? 0 } })
        call.cancel()
      })
      call.on('error', (error: ServiceError) => resolve(failure(error)))
      call.on('end', () => resolve(failure({ code: 14, details: 'the stream ended without an answer' })))
      call.write({ id: BigInt(id) })
    })
  }

  async leaseTimeToLive(id: number) {
    const request = { id: BigInt(id) }
    const answer = await this.call('Lease/LeaseTimeToLive', LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, request)
    return map(answer, ({ header, ttl }) => ({ ttlSeconds: ttl, revision: header?.revision ?? 0 }))
  }

  async leaseRevoke(id: number) {
    const answer = await this.call('Lease/LeaseRevoke', LeaseRequest, HeaderOnly, { id: BigInt(id) })
    return map(answer, ({ header }) => ({ revision: header?.revision ?? 0 }))
  }

  async hashKv(revision: number) {
    const answer = await this.call('Maintenance/HashKV', HashKvRequest, HashKvResponse, { revision }, HASH_TIMEOUT_MS)
    return map(answer, ({ header, hash, compactRevision }) => ({
      hash,
      compactRevision,
      revision: header?.revision ?? 0,
    }))
  }

  /** Who this member takes for the leader, and in which term; `isLeader`: itself. */
  async status() {
    return map(await this.call('Maintenance/Status', Empty, StatusResponse, {}, 1000), (status) => ({
      term: status.raftTerm,
      isLeader: status.leader !== 0n && status.leader === status.header?.memberId,
      hasLeader: status.leader !== 0n,
      appliedIndex: status.raftAppliedIndex,
      dbSizeBytes: status.dbSize,
    }))
  }

  watch(from: string, to: string, startRevision: number, listener: StoreWatchListener): () => void {
    const call = this.client.makeBidiStreamRequest(
      '/etcdserverpb.Watch/Watch',
      serialize(WatchRequest),
      deserialize(WatchResponse),
      {},
    )
    let ended = false
    const end = (reason: string, compactRevision?: number) => {
      if (ended) return
      ended = true
      clearInterval(progress)
      call.cancel()
      listener.end({ reason, ...(compactRevision === undefined ? {} : { compactRevision }) })
    }
    call.on('data', (message: In<typeof WatchResponse>) => {
      if (ended) return
      if (message.canceled)
        return message.compactRevision > 0
          ? end('compacted', message.compactRevision)
          : end(message.cancelReason || 'cancelled')
      // The word that the watch began says nothing of events: it may carry the revision of now.
      if (message.created) return
      listener.message(message.header?.revision ?? 0, message.events.map(eventOf))
    })
    call.on('error', (error: ServiceError) => end(`lost: ${error.details}`))
    call.on('end', () => end('lost: the stream ended'))
    call.write({ create: { key: bytes(from), rangeEnd: bytes(to), startRevision, prevKv: true } })
    // Asked, a quiet watch says up to where it has everything.
    const progress = setInterval(() => call.write({ progress: {} }), 1000)
    return () => end('stopped')
  }

  close(): void {
    this.client.close()
  }

  private call<Q extends Message, A extends Message>(
    path: string,
    request: Q,
    response: A,
    message: object,
    timeoutMs = TIMEOUT_MS,
  ): Promise<Answer<In<A>>> {
    const options: CallOptions = { deadline: deadline(timeoutMs) }
    return new Promise((resolve) =>
      this.client.makeUnaryRequest(
        `/etcdserverpb.${path}`,
        serialize(request),
        deserialize(response),
        message,
        options,
        (error, value) => resolve(error ? failure(error) : { ok: true, value: value as In<A> }),
      ),
    )
  }
}

const bytes = (value: string) => Buffer.from(value)
const text = (value: Uint8Array) => Buffer.from(value.buffer, value.byteOffset, value.length).toString()
const deadline = (timeoutMs: number) => Date.now() + timeoutMs
const serialize = (message: Message) => (value: object) => message.encode(value)
const deserialize = (message: Message) => (buffer: Buffer) => message.decode(buffer)

function map<A, B>(answer: Answer<A>, to: (value: A) => B): Answer<B> {
  return answer.ok ? { ok: true, value: to(answer.value) } : answer
}

function eventOf({ type, kv, prevKv }: { type: number; kv?: Kv | undefined; prevKv?: Kv | undefined }): WatchedEvent {
  return {
    type: type === 1 ? 'delete' : 'put',
    key: kv ? text(kv.key) : '',
    value: kv ? text(kv.value) : '',
    revision: kv?.modRevision ?? 0,
    createRevision: kv?.createRevision ?? 0,
    version: kv?.version ?? 0,
    ...(prevKv
      ? {
          prevKv: {
            value: text(prevKv.value),
            revision: prevKv.modRevision,
            createRevision: prevKv.createRevision,
            version: prevKv.version,
          },
        }
      : {}),
  }
}
type Kv = In<typeof KeyValue>

const [UNAVAILABLE, RESOURCE_EXHAUSTED] = [14, 8]
const CANCELLED_TO_UNKNOWN = new Set([1, 2, 4, 13, 15])
/** What the face says only if nothing happened; and what grpc-js says if it had no connection to send on. */
const NOT_APPLIED = [
  'etcdserver: no leader',
  'etcdserver: server stopped',
  'etcdserver: not leader',
  'No connection established',
  'Failed to connect',
  'Name resolution failed',
]

/** Whatever is not known to have done nothing may have happened. */
function failure({ code, details }: { code: number; details: string }): Failure {
  const never = NOT_APPLIED.some((start) => details.startsWith(start))
  const isVerdict = code !== UNAVAILABLE && code !== RESOURCE_EXHAUSTED && !CANCELLED_TO_UNKNOWN.has(code)
  return {
    ok: false,
    outcome: never || isVerdict || code === RESOURCE_EXHAUSTED ? 'not-applied' : 'unknown',
    answered: isVerdict,
    code: String(code),
    text: details,
  }
}
