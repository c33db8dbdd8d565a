import { BusError } from './world.js'

export type Outcome = 'not-applied' | 'maybe-applied'

/** An error as it travels over a subject. Match on `code`. */
export interface ErrorData {
  code: string
  outcome: Outcome
  text: string
  details?: unknown
}

/**
 * A call that failed: what the other side answered, or what the bus said. Codes of the wire itself: NO_RESPONDERS,
 * TIMEOUT, DISCONNECTED, CONNECTION_LOST, PAYLOAD_TOO_LARGE, DENIED, OVERLOADED, CLOSED, BAD_FRAME, UNKNOWN_VERB, INTERNAL.
 */
export class CallError extends Error {
  override readonly name = 'CallError'
  readonly code: string
  /** May the caller simply repeat (`not-applied`), or must it look first (`maybe-applied`)? */
  readonly outcome: Outcome
  readonly details: unknown
  constructor(code: string, outcome: Outcome, text: string, options?: ErrorOptions & { details?: unknown }) {
    super(text, options)
    this.code = code
    this.outcome = outcome
    this.details = options?.details
  }

  static fromData(data: ErrorData): CallError {
    return new CallError(data.code, data.outcome, data.text, { details: data.details })
  }

  static fromBus(error: unknown): CallError {
    if (error instanceof CallError) return error
    if (error instanceof BusError) return new CallError(error.code, error.outcome, error.message, { cause: error })
    return new CallError('INTERNAL', 'maybe-applied', String(error), { cause: error })
  }
}

/** What an error becomes on the wire. An error without `code` and `outcome` is a bug: INTERNAL, maybe applied. */
export function errorData(error: unknown): ErrorData {
  const e = error as Partial<ErrorData> & Error
  if (
    error instanceof Error &&
    typeof e.code === 'string' &&
    (e.outcome === 'not-applied' || e.outcome === 'maybe-applied')
  )
    return {
      code: e.code,
      outcome: e.outcome,
      text: e.message,
      ...(e.details === undefined ? {} : { details: e.details }),
    }
  return { code: 'INTERNAL', outcome: 'maybe-applied', text: error instanceof Error ? error.message : String(error) }
}
