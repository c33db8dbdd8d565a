import { CallError } from '@capstan/actor'

/** gRPC's status codes. */
export const GRPC = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
} as const
type Code = (typeof GRPC)[keyof typeof GRPC]

/** What a client of etcd is told. Code and text are etcd's (package rpctypes): clients match on both. */
export class EtcdError extends Error {
  override readonly name = 'EtcdError'
  constructor(
    readonly code: Code,
    text: string,
    options?: ErrorOptions,
  ) {
    super(text, options)
  }
}

const catalogue = {
  EMPTY_KEY: [GRPC.INVALID_ARGUMENT, 'etcdserver: key is not provided'],
  KEY_NOT_FOUND: [GRPC.INVALID_ARGUMENT, 'etcdserver: key not found'],
  VALUE_PROVIDED: [GRPC.INVALID_ARGUMENT, 'etcdserver: value is provided'],
  LEASE_PROVIDED: [GRPC.INVALID_ARGUMENT, 'etcdserver: lease is provided'],
  TOO_MANY_OPS: [GRPC.INVALID_ARGUMENT, 'etcdserver: too many operations in txn request'],
  DUPLICATE_KEY: [GRPC.INVALID_ARGUMENT, 'etcdserver: duplicate key given in txn request'],
  COMPACTED: [GRPC.OUT_OF_RANGE, 'etcdserver: mvcc: required revision has been compacted'],
  FUTURE_REVISION: [GRPC.OUT_OF_RANGE, 'etcdserver: mvcc: required revision is a future revision'],
  NO_SPACE: [GRPC.RESOURCE_EXHAUSTED, 'etcdserver: mvcc: database space exceeded'],
  LEASE_NOT_FOUND: [GRPC.NOT_FOUND, 'etcdserver: requested lease not found'],
  LEASE_EXISTS: [GRPC.FAILED_PRECONDITION, 'etcdserver: lease already exists'],
  LEASE_TTL_TOO_LARGE: [GRPC.OUT_OF_RANGE, 'etcdserver: too large lease TTL'],
  WATCH_CANCELED: [GRPC.CANCELLED, 'etcdserver: watch canceled'],
  PEER_URL_EXISTS: [GRPC.FAILED_PRECONDITION, 'etcdserver: Peer URLs already exists'],
  BAD_MEMBER_URLS: [GRPC.INVALID_ARGUMENT, 'etcdserver: given member URLs are invalid'],
  MEMBER_NOT_FOUND: [GRPC.NOT_FOUND, 'etcdserver: member not found'],
  MEMBER_NOT_LEARNER: [GRPC.FAILED_PRECONDITION, 'etcdserver: can only promote a learner member'],
  LEARNER_NOT_READY: [
    GRPC.FAILED_PRECONDITION,
    'etcdserver: can only promote a learner member which is in sync with leader',
  ],
  NOT_ENOUGH_STARTED: [
    GRPC.FAILED_PRECONDITION,
    'etcdserver: re-configuration failed due to not enough started members',
  ],
  TOO_LARGE: [GRPC.INVALID_ARGUMENT, 'etcdserver: request is too large'],
  TOO_MANY_REQUESTS: [GRPC.RESOURCE_EXHAUSTED, 'etcdserver: too many requests'],
  USER_NOT_FOUND: [GRPC.FAILED_PRECONDITION, 'etcdserver: user name not found'],
  ROLE_NOT_FOUND: [GRPC.FAILED_PRECONDITION, 'etcdserver: role name not found'],
  ROOT_USER_NOT_EXIST: [GRPC.FAILED_PRECONDITION, 'etcdserver: root user does not exist'],
  AUTH_NOT_ENABLED: [GRPC.FAILED_PRECONDITION, 'etcdserver: authentication is not enabled'],
  NO_LEADER: [GRPC.UNAVAILABLE, 'etcdserver: no leader'],
  NOT_LEADER: [GRPC.FAILED_PRECONDITION, 'etcdserver: not leader'],
  STOPPED: [GRPC.UNAVAILABLE, 'etcdserver: server stopped'],
  TIMEOUT: [GRPC.UNAVAILABLE, 'etcdserver: request timed out'],
  UNHEALTHY: [GRPC.UNAVAILABLE, 'etcdserver: unhealthy cluster'],
  CORRUPT: [GRPC.DATA_LOSS, 'etcdserver: corrupt cluster'],
  BAD_LEADER_TRANSFEREE: [GRPC.FAILED_PRECONDITION, 'etcdserver: bad leader transferee'],
} as const satisfies Record<string, readonly [Code, string]>

export type EtcdErrorName = keyof typeof catalogue

export function etcdError(name: EtcdErrorName, cause?: unknown): EtcdError {
  const [code, text] = catalogue[name]
  return new EtcdError(code, text, cause === undefined ? {} : { cause })
}

/** Every one there is, for the test that holds them against etcd's. */
export const ETCD_ERRORS: Readonly<Record<string, readonly [number, string]>> = catalogue

/** What the store's verdicts are called here. Those of the wire (time-outs, no leader …) are in `toEtcdError`. */
const VERDICTS: Readonly<Record<string, EtcdErrorName>> = {
  COMPACTED: 'COMPACTED',
  FUTURE_REVISION: 'FUTURE_REVISION',
  LEASE_NOT_FOUND: 'LEASE_NOT_FOUND',
  LEASE_EXISTS: 'LEASE_EXISTS',
  TOO_LARGE: 'TOO_LARGE',
  NO_SPACE: 'NO_SPACE',
  CORRUPT: 'CORRUPT',
  MEMBER_NOT_FOUND: 'MEMBER_NOT_FOUND',
  MEMBER_EXISTS: 'PEER_URL_EXISTS',
  MEMBERS_BUSY: 'UNHEALTHY',
  LEARNER_NOT_READY: 'LEARNER_NOT_READY',
  UNHEALTHY: 'NOT_ENOUGH_STARTED',
  OVERLOADED: 'TOO_MANY_REQUESTS',
}

/** Any failure as etcd would tell it. What may have happened is always "request timed out", as in etcd. */
export function toEtcdError(error: unknown): EtcdError {
  if (error instanceof EtcdError) return error
  const failure = CallError.fromBus(error)
  if (failure.outcome === 'maybe-applied' && failure.code !== 'INTERNAL') return etcdError('TIMEOUT', failure)
  const verdict = VERDICTS[failure.code]
  if (verdict) return etcdError(verdict, failure)
  switch (failure.code) {
    case 'NO_LEADER':
    case 'LEADER_CHANGED':
      return etcdError('NO_LEADER', failure)
    case 'STOPPED':
    case 'CLOSED':
      return etcdError('STOPPED', failure)
    case 'UNKNOWN_VERB':
      return new EtcdError(GRPC.UNIMPLEMENTED, `etcdserver: ${failure.message}`, { cause: failure })
    case 'BAD_REQUEST':
    case 'PAYLOAD_TOO_LARGE':
      return new EtcdError(GRPC.INVALID_ARGUMENT, `etcdserver: ${failure.message}`, { cause: failure })
    case 'INTERNAL':
      return new EtcdError(GRPC.UNKNOWN, `etcdserver: ${failure.message}`, { cause: failure })
    default:
      return etcdError('TIMEOUT', failure)
  }
}
