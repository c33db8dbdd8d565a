export const TXN_OPS_MAX = 128
export const REQUEST_BYTES_MAX = 1536 * 1024
/** etcd's: five seconds and two elections. */
export const REQUEST_TIMEOUT_MS = 7000
export const PROGRESS_NOTIFY_MS = 600_000

export interface EtcdFaceOptions {
  /** Name of the cluster: the second token of every subject. */
  cluster: string
  /** The store member beside which this face stands: who it is in the headers of its answers. */
  member: string
  /** Names of the store members to ask, the nearest first. */
  members: readonly string[]
  /** Where each member's face listens: what `member list` says. */
  clientUrls: Readonly<Record<string, readonly string[]>>
  /** Operations in a transaction, and comparisons (etcd's `--max-txn-ops`). Default 128; the store takes at most 512. */
  txnOpsMax?: number
  /** Of an encoded write (etcd's `--max-request-bytes`). Default 1.5 MiB; the store has a bound of its own. */
  requestBytesMax?: number
  /** So long a request is tried before it is told "request timed out". Default 7,000, as etcd. */
  requestTimeoutMs?: number
  /** A watch that asked for it hears of the progress of a quiet store so often, and up to a tenth later. Default 10 min. */
  progressNotifyMs?: number
}

/** The release of etcd whose behaviour this face has; clients look at it. */
export const ETCD_VERSION = '3.4.23'
