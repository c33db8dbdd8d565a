import { CallError, type IncomingCall, type OutStream, serve, type Server } from '@capstan/actor'
import { type ApiRequest, type ApiVerb, type ApiWatchData, parseIdentity, Subjects, userOf } from '@capstan/protocol'
import { badRequest } from './errors.js'
import type { ApiServerHandle, User } from './options.js'

const VERBS: readonly string[] = [
  'get',
  'list',
  'watch',
  'create',
  'update',
  'patch',
  'delete',
  'deletecollection',
] satisfies ApiVerb[]
/** Messages that may wait for one watcher. */
const WATCH_QUEUE_MAX = 4096

/** Serves `api.<instance>.from.<identity>.<verb>`. The bus vouches for the identity (promise A2). */
export function serveBus(api: ApiServerHandle): Server {
  const { cluster, instance, inFlightMax, watchesMax } = api.options
  return serve(api.world, {
    pattern: new Subjects(cluster).apiServed(instance),
    inFlightMax: (inFlightMax ?? 400) * 4,
    streamsMax: watchesMax ?? 4096,
    refuseStale: true,
    handle: (call) => answer(api, call),
  })
}

async function answer(api: ApiServerHandle, call: IncomingCall): Promise<unknown> {
  if (!VERBS.includes(call.verb)) throw new CallError('UNKNOWN_VERB', 'not-applied', `the API has no verb ${call.verb}`)
  const request = requestOf(call.body)
  const user = userOfCall(call)
  if (call.verb === 'watch') return watch(api, call, request, user)
  return api.handle(call.verb as Exclude<ApiVerb, 'watch'>, request, user, { deadlineMs: call.deadlineMs })
}

async function watch(api: ApiServerHandle, call: IncomingCall, request: ApiRequest, user: User): Promise<undefined> {
  if (!call.wantsStream) throw badRequest('a watch must be opened as a stream')
  let stream: OutStream | undefined
  let over: { reason: string; status?: object } | undefined
  const early: ApiWatchData[] = []
  // The stream is accepted only when the watch is: until then it can still be refused with a Status.
  const opened = await api.watch(request, user, {
    send(data) {
      if (!stream) {
        early.push(data)
        return true
      }
      return stream.send(data)
    },
    end(reason, status) {
      over = { reason, ...(status ? { status } : {}) }
      if (stream) finish(stream, over)
    },
  })
  const out = call.openStream({ queueMax: WATCH_QUEUE_MAX, position: () => ({ revision: opened.position() }) })
  stream = out
  out.onEnd(() => opened.stop())
  for (const data of early) if (!out.send(data)) break
  if (over) finish(out, over)
  return undefined
}

function finish(stream: OutStream, { reason, status }: { reason: string; status?: object }): void {
  if (stream.ended) return
  const { reason: code = 'Unknown', message = reason } = (status ?? {}) as { reason?: string; message?: string }
  if (status) stream.end(reason, { code, outcome: 'not-applied', text: message, details: status })
  else stream.end(reason)
}

function userOfCall(call: IncomingCall): User {
  try {
    return userOf(parseIdentity(call.from))
  } catch {
    throw badRequest(`no identity in the subject ${call.subject}`)
  }
}

/** The shape of what came off the wire. @throws ApiError 400 */
function requestOf(body: unknown): ApiRequest {
  const request = body as Partial<ApiRequest> | null
  if (typeof request !== 'object' || request === null || Array.isArray(request))
    throw badRequest('the request must be an object')
  for (const field of ['group', 'version', 'resource'] as const)
    if (typeof request[field] !== 'string') throw badRequest(`the request's ${field} must be a string`)
  for (const field of ['namespace', 'name', 'subresource', 'patchType'] as const) {
    if (request[field] === undefined || request[field] === null) delete request[field]
    else if (typeof request[field] !== 'string') throw badRequest(`the request's ${field} must be a string`)
  }
  if (request.options === null) delete request.options
  if (request.options !== undefined && typeof request.options !== 'object')
    throw badRequest("the request's options must be an object")
  if (request.fence === null) delete request.fence
  if (request.fence !== undefined) {
    const { lock, token } = request.fence
    if (typeof lock?.namespace !== 'string' || typeof lock.name !== 'string' || typeof token !== 'string')
      throw badRequest("the request's fence must be { lock: { namespace, name }, token }")
  }
  return request as ApiRequest
}
