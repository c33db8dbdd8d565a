import type { MvccErrorData } from '@capstan/mvcc'
import type { Outcome } from '@capstan/actor'
import type { StoreErrorCode } from '@capstan/protocol'

/** A request that failed. `outcome`: may the caller simply repeat, or must it look first? */
export class StoreError extends Error {
  override readonly name = 'StoreError'
  readonly code: StoreErrorCode
  readonly outcome: Outcome
  readonly details: unknown
  constructor(code: StoreErrorCode, outcome: Outcome, text: string, options?: ErrorOptions & { details?: unknown }) {
    super(text, options)
    this.code = code
    this.outcome = outcome
    this.details = options?.details
  }

  static fromMvcc(data: MvccErrorData): StoreError {
    // What a session no longer knows may well have been applied; everything else is refused before it changes anything.
    if (data.code === 'SESSION_STALE')
      return new StoreError('BAD_REQUEST', 'maybe-applied', data.text, { details: data.details })
    return new StoreError(data.code, 'not-applied', data.text, { details: data.details })
  }
}

export const notApplied = (code: StoreErrorCode, text: string) => new StoreError(code, 'not-applied', text)
export const maybeApplied = (code: StoreErrorCode, text: string) => new StoreError(code, 'maybe-applied', text)
