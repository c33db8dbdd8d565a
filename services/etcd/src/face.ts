import type { World } from '@capstan/actor'
import type { StoreHeader, StoreStatusReply } from '@capstan/protocol'
import { authMethods } from './auth.js'
import { clusterMethods } from './cluster.js'
import { concurrencyMethods } from './concurrency.js'
import { etcdError } from './etcd-error.js'
import { healthMethods } from './health.js'
import { Ids } from './ids.js'
import { kvMethods } from './kv-service.js'
import { leaseMethods } from './lease.js'
import { maintenanceMethods } from './maintenance.js'
import type { ResponseHeader } from './messages.js'
import {
  type EtcdFaceOptions,
  PROGRESS_NOTIFY_MS,
  REQUEST_BYTES_MAX,
  REQUEST_TIMEOUT_MS,
  TXN_OPS_MAX,
} from './options.js'
import type { Out } from './protobuf.js'
import type { CallContext, Methods } from './rpc.js'
import { type AskOptions, StoreAccess } from './store-access.js'
import { watchMethods } from './watch.js'

/** etcd allows a message this much more than a request. */
const MESSAGE_OVERHEAD_BYTES = 512 * 1024
const STATUS_MS = 1000

export type Header = Out<typeof ResponseHeader>

/** What the services share: the way to the store, and what this face is called. */
export class FaceContext {
  readonly options: Required<EtcdFaceOptions>
  readonly store: StoreAccess
  readonly ids = new Ids()
  /** Of the latest answer that this face has seen. */
  private seen: StoreHeader | undefined
  private asking: Promise<StoreHeader> | undefined

  constructor(
    readonly world: World,
    options: EtcdFaceOptions,
  ) {
    this.options = {
      txnOpsMax: TXN_OPS_MAX,
      requestBytesMax: REQUEST_BYTES_MAX,
      requestTimeoutMs: REQUEST_TIMEOUT_MS,
      progressNotifyMs: PROGRESS_NOTIFY_MS,
      ...options,
    }
    const { cluster, members, requestTimeoutMs } = this.options
    this.store = new StoreAccess(world, { cluster, members, timeoutMs: requestTimeoutMs })
  }

  /** As etcd: the member that was asked, whoever answered behind it. */
  header(from: StoreHeader): Header {
    const { seen } = this
    if (!seen || from.revision > seen.revision || from.term > seen.term) this.seen = from
    return {
      clusterId: this.ids.cluster(from.clusterId),
      memberId: this.ids.member(this.options.member),
      revision: from.revision,
      raftTerm: from.term,
    }
  }

  /** Of something that happened at a revision, where the store sends no header with it. */
  async headerAt(revision: number): Promise<Header> {
    const header = this.header(await this.lastSeen())
    return { ...header, revision }
  }

  /**
   * The newest header that this face knows of. If it knows none, it takes `known`, or asks for one: of any member, since a
   * header must be had without a quorum too.
   */
  async lastSeen(known?: StoreHeader): Promise<StoreHeader> {
    this.seen ??= known
    if (this.seen) return this.seen
    this.asking ??= this.askHeader()
    try {
      this.seen ??= await this.asking
    } finally {
      this.asking = undefined
    }
    return this.seen
  }

  private async askHeader(): Promise<StoreHeader> {
    return ((await this.store.read('status', {})) as StoreStatusReply).header
  }

  ask(context: Pick<CallContext, 'gone' | 'remainingMs'>): Pick<AskOptions, 'gone' | 'timeoutMs'> {
    const { requestTimeoutMs } = this.options
    const { remainingMs } = context
    return {
      gone: () => context.gone,
      timeoutMs: remainingMs === undefined ? requestTimeoutMs : Math.min(requestTimeoutMs, remainingMs),
    }
  }
}

export interface EtcdFace {
  /** By gRPC path. */
  readonly methods: Methods
  /** For callers that rather fail than wait. @throws EtcdError when the member beside this face knows no leader. */
  requireLeader(): Promise<void>
  /** Larger requests are refused by the transport. */
  readonly messageBytesMax: number
  /** Ends what is outstanding. */
  close(): void
}

/** The store as etcd: each method translates to the store's verbs over the bus, and the answer back. */
export function startEtcdFace(world: World, options: EtcdFaceOptions): EtcdFace {
  const context = new FaceContext(world, options)
  const watch = watchMethods(context)
  return {
    methods: {
      ...kvMethods(context),
      ...watch.methods,
      ...leaseMethods(context),
      ...clusterMethods(context),
      ...maintenanceMethods(context),
      ...concurrencyMethods(context),
      ...authMethods(context),
      ...healthMethods(context),
    },
    messageBytesMax: context.options.requestBytesMax + MESSAGE_OVERHEAD_BYTES,
    async requireLeader() {
      const { store } = context
      const status = (await store.at1(context.options.member, 'status', {}, STATUS_MS)) as StoreStatusReply
      if (status.leader === undefined) throw etcdError('NO_LEADER')
    },
    close() {
      watch.close()
      context.store.close()
    },
  }
}
