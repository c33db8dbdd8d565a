import type { StatusCause } from '@capstan/api'

export type { StatusCause }

export interface StatusDetails {
  name?: string
  group?: string
  kind?: string
  uid?: string
  causes?: StatusCause[]
  retryAfterSeconds?: number
}

export interface Status {
  kind: 'Status'
  apiVersion: 'v1'
  metadata: Record<string, never>
  status: 'Success' | 'Failure'
  message?: string
  reason?: string
  details?: StatusDetails
  code: number
}

/** What a request names: for messages. */
export interface Subject {
  group: string
  resource: string
  name?: string
}

/**
 * A request that was refused: a Kubernetes Status. Over the bus `code` is its reason and `details` the whole Status. All
 * of them mean "did not happen", but those made by `uncertain`.
 */
export class ApiError extends Error {
  override readonly name = 'ApiError'
  readonly code: string
  readonly outcome: 'not-applied' | 'maybe-applied'
  /** The Status. */
  readonly details: Status
  constructor(
    status: Status,
    options: { code?: string; outcome?: 'not-applied' | 'maybe-applied'; cause?: unknown } = {},
  ) {
    super(
      status.message ?? status.reason ?? 'failed',
      options.cause === undefined ? undefined : { cause: options.cause },
    )
    this.details = status
    this.code = options.code ?? status.reason ?? 'Unknown'
    this.outcome = options.outcome ?? 'not-applied'
  }
  get status(): number {
    return this.details.code
  }
}

export function failure(code: number, reason: string, message: string, details?: StatusDetails): Status {
  return {
    kind: 'Status',
    apiVersion: 'v1',
    metadata: {},
    status: 'Failure',
    message,
    reason,
    ...(details ? { details } : {}),
    code,
  }
}

const fail = (code: number, reason: string, message: string, details?: StatusDetails) =>
  new ApiError(failure(code, reason, message, details))

/** `deployments.apps "web"`, in the words that kubectl shows. */
export function nameOf({ group, resource, name }: Subject): string {
  const what = group === '' ? resource : `${resource}.${group}`
  return name === undefined ? what : `${what} ${JSON.stringify(name)}`
}

const detailsOf = ({ group, resource, name }: Subject): StatusDetails => ({
  ...(name === undefined ? {} : { name }),
  ...(group === '' ? {} : { group }),
  kind: resource,
})

export const badRequest = (message: string) => fail(400, 'BadRequest', message)
export const unauthorized = (message = 'Unauthorized') => fail(401, 'Unauthorized', message)
export const notFound = (what: Subject) => fail(404, 'NotFound', `${nameOf(what)} not found`, detailsOf(what))
export const noSuchResource = () => fail(404, 'NotFound', 'the server could not find the requested resource', {})
export const methodNotAllowed = (message = 'the server does not allow this method on the requested resource') =>
  fail(405, 'MethodNotAllowed', message, {})
export const notAcceptable = (message: string) => fail(406, 'NotAcceptable', message)
export const alreadyExists = (what: Subject) =>
  fail(409, 'AlreadyExists', `${nameOf(what)} already exists`, detailsOf(what))
export const conflict = (what: Subject, why: string) =>
  fail(409, 'Conflict', `Operation cannot be fulfilled on ${nameOf(what)}: ${why}`, detailsOf(what))
export const modified = (what: Subject) =>
  conflict(what, 'the object has been modified; please apply your changes to the latest version and try again')
export const requestTimeout = (message: string) => fail(408, 'Timeout', message)
/** What Kubernetes has and Capstan has not built yet. */
export const notBuilt = (what: string) => fail(501, 'NotImplemented', `${what} is not built yet in Capstan`)
export const expired = (message: string) => fail(410, 'Expired', message)
export const tooLarge = (message: string) => fail(413, 'RequestEntityTooLarge', message)
export const unsupportedMediaType = (message: string) => fail(415, 'UnsupportedMediaType', message)
export const unavailable = (message: string) => fail(503, 'ServiceUnavailable', message, { retryAfterSeconds: 1 })
export const timedOut = (message: string) => fail(504, 'Timeout', message)
export const internal = (message: string) => fail(500, 'InternalError', `Internal error occurred: ${message}`)

export function tooManyRequests(message: string, retryAfterSeconds = 1): ApiError {
  return fail(429, 'TooManyRequests', message, { retryAfterSeconds })
}

export function forbidden(what: Subject, why: string): ApiError {
  return fail(403, 'Forbidden', `${nameOf(what)} is forbidden: ${why}`, detailsOf(what))
}

/** 422 with all that is wrong, in Kubernetes' words. */
export function invalid(kind: string, group: string, name: string, causes: StatusCause[]): ApiError {
  const texts = causes.map((c) => (c.field ? `${c.field}: ${c.message}` : c.message))
  const all = texts.length === 1 ? texts[0] : `[${texts.join(', ')}]`
  const what = group === '' ? kind : `${kind}.${group}`
  return fail(422, 'Invalid', `${what} ${JSON.stringify(name)} is invalid: ${all}`, {
    name,
    ...(group === '' ? {} : { group }),
    kind,
    causes,
  })
}

/** The write's lock is held by somebody else since (promise C2). Code FENCED on the bus, a Conflict over HTTP. */
export function fenced(lock: string, token: string): ApiError {
  const status = failure(409, 'Conflict', `fenced: the lock ${lock} is not held under token ${token} any more`)
  return new ApiError(status, { code: 'FENCED' })
}

/** May have happened: the store did not say. */
export function uncertain(message: string, cause: unknown): ApiError {
  return new ApiError(failure(504, 'Timeout', message), { outcome: 'maybe-applied', cause })
}
