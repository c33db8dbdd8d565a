/** How the methods of a gRPC service look to this room, without gRPC itself (that is at the edge). */
import type { In, Message, Out, Prepared } from './protobuf.js'

export interface CallContext {
  /** Aborted when the caller has gone or its time is over. For calls that wait: making one costs more than a put else does. */
  readonly signal: AbortSignal
  /** Has it gone by now? */
  readonly gone: boolean
  /** What is left of the caller's time; undefined: it stated none. */
  readonly remainingMs: number | undefined
  /** The caller rather fails than waits where no leader is known (metadata `hasleader: true`). */
  readonly requireLeader: boolean
  /** Of the encoded request. */
  readonly bytes: number
}

/** Both directions of one call that streams. */
export interface CallStream<Request, Response> {
  readonly context: Omit<CallContext, 'bytes'>
  /**
   * Requests in order; the next one after what `request` returns has settled. After `done` nothing more comes, but answers may
   * still be sent.
   */
  receive(handlers: { request(request: Request): void | Promise<void>; done(): void }): void
  /** Resolves when there is room for more; at once if the call is over. */
  send(response: Response): Promise<void>
  /** Ends the call: well, or with an error. */
  end(error?: unknown): void
}

export type Method =
  | {
      kind: 'unary'
      request: Message
      response: Message
      handle(request: never, context: CallContext): Promise<object>
    }
  | { kind: 'stream'; request: Message; response: Message; handle(stream: CallStream<never, object>): void }

/** By path: `/etcdserverpb.KV/Range`. */
export type Methods = Record<string, Method>

export function unary<Q extends Message, S extends Message>(
  request: Q,
  response: S,
  handle: (request: In<Q>, context: CallContext) => Promise<Out<S>>,
): Method {
  return {
    kind: 'unary',
    request,
    response,
    handle: handle as (request: never, context: CallContext) => Promise<object>,
  }
}

export function stream<Q extends Message, S extends Message>(
  request: Q,
  response: S,
  handle: (stream: CallStream<In<Q>, Prepared<S>>) => void,
): Method {
  return { kind: 'stream', request, response, handle: handle as (stream: CallStream<never, object>) => void }
}
