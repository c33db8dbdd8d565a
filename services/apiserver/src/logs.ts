import { CallError, type Caller, type World } from '@capstan/actor'
import { type ApiRequest, type NodeLogsData, type NodeLogsRequest, Subjects } from '@capstan/protocol'
import { ApiError, badRequest, failure, internal, type Status } from './errors.js'
import type { ByteSink } from './options.js'
import type { KubeObject } from './stored.js'

const OPEN_MS = 10_000
const CREDITS = 32

interface PodSpec {
  nodeName?: string
  containers?: { name: string }[]
  initContainers?: { name: string }[]
}

/** What kubectl asks of `pods/log`, checked against the pod. @throws ApiError 400 */
export function logsRequestOf(
  pod: KubeObject,
  query: Readonly<Record<string, string>>,
): { node: string; request: NodeLogsRequest } {
  const spec = (pod['spec'] ?? {}) as PodSpec
  const { name, namespace = '', uid = '' } = pod.metadata
  const names = (spec.containers ?? []).map((container) => container.name)
  const inits = (spec.initContainers ?? []).map((container) => container.name)
  let container = query['container'] ?? ''
  if (container === '') {
    if (names.length > 1)
      throw badRequest(
        `a container name must be specified for pod ${name}, choose one of: [${names.join(' ')}]${inits.length > 0 ? ` or one of the init containers: [${inits.join(' ')}]` : ''}`,
      )
    container = names[0] ?? ''
  } else if (!names.includes(container) && !inits.includes(container))
    throw badRequest(`container ${container} is not valid for pod ${name}`)
  if (!spec.nodeName) throw badRequest(`pod ${name} does not have a host assigned`)
  const request: NodeLogsRequest = {
    namespace,
    pod: name,
    uid,
    container,
    follow: flag(query['follow']),
    previous: flag(query['previous']),
    timestamps: flag(query['timestamps']),
  }
  for (const field of ['tailLines', 'limitBytes', 'sinceSeconds'] as const) {
    const text = query[field]
    if (text === undefined || text === '') continue
    if (!/^\d{1,15}$/.test(text))
      throw badRequest(`${field}: Invalid value: ${JSON.stringify(text)}: must be a whole number`)
    request[field] = Number(text)
  }
  if (query['sinceTime']) {
    if (Number.isNaN(Date.parse(query['sinceTime'])))
      throw badRequest(`sinceTime: Invalid value: ${JSON.stringify(query['sinceTime'])}: not a time`)
    if (request.sinceSeconds !== undefined)
      throw badRequest('at most one of sinceTime or sinceSeconds may be specified')
    request.sinceTime = query['sinceTime']
  }
  return { node: spec.nodeName, request }
}

const flag = (text: string | undefined) => text === 'true' || text === '1' || text === ''

/** Opens the log's stream at the pod's node. Resolves with the first bytes or its end; rejects if the node refuses. */
export function openLogs(
  world: World,
  caller: Caller,
  cluster: string,
  { node, request }: { node: string; request: NodeLogsRequest },
  sink: ByteSink,
): Promise<{ stop(): void }> {
  const subject = new Subjects(cluster).node(node, world.bus.identity, 'logs')
  return new Promise((resolve, reject) => {
    const handle = { stop: () => stream.cancel() }
    const stream = caller.openStream(
      subject,
      request,
      {
        async data(body) {
          resolve(handle)
          const { bytes } = body as NodeLogsData
          if (bytes instanceof Uint8Array) await sink.send(bytes)
        },
        beat: () => resolve(handle),
        end(reason, error) {
          if (reason === 'refused') return reject(refusalOf(node, error))
          resolve(handle)
          sink.end(
            reason === 'done' || reason === 'cancelled'
              ? undefined
              : failure(500, 'InternalError', `the log ended: ${error?.message ?? reason}`),
          )
        },
      },
      { timeoutMs: OPEN_MS, creditsMax: CREDITS },
    )
  })
}

function refusalOf(node: string, error: CallError | undefined): ApiError {
  const status = error?.details as Partial<Status> | undefined
  if (status?.kind === 'Status' && typeof status.code === 'number') return new ApiError(status as Status)
  if (error?.code === 'NO_RESPONDERS')
    return new ApiError(failure(502, 'InternalError', `the kubelet of node ${JSON.stringify(node)} does not answer`))
  return internal(`the kubelet of node ${JSON.stringify(node)} refused: ${error?.message ?? 'no reason given'}`)
}

/** Is this a request for a log? */
export const isLog = (request: ApiRequest): boolean =>
  request.group === '' && request.resource === 'pods' && request.subresource === 'log'
