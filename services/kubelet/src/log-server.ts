import { CallError, type IncomingCall, type OutStream, serve, type Server, sleep, type World } from '@capstan/actor'
import { type NodeLogsData, type NodeLogsRequest, Subjects } from '@capstan/protocol'
import { identityOf, logPathOf } from './container-spec.js'
import type { LogFile, NodeHost } from './host.js'
import { concat, LineSplitter, LogPrinter, parseLogRecord, tailOffset } from './log-format.js'
import { knownContainers } from './pod-plan.js'
import type { PodWorker } from './pod-worker.js'
import type { ContainerRuntime, ContainerState } from './runtime.js'

const READ_BYTES = 64 * 1024
/** Messages that wait for a reader's credit before we read on; one that gives none for long is ended by the wire. */
const WAITING_MAX = 4
const PACE_MS = 5
const FOLLOW_MS = 200
const STREAMS_MAX = 256

export interface NodeServerOptions {
  cluster: string
  nodeName: string
  runtime: ContainerRuntime
  host: NodeHost
  worker(podUid: string): PodWorker | undefined
}

/** Answers `node.<name>.from.<identity>.<verb>`: `logs`, as a stream of text. */
export function serveNode(world: World, options: NodeServerOptions): Server {
  return serve(world, {
    pattern: new Subjects(options.cluster).nodeServed(options.nodeName),
    streamsMax: STREAMS_MAX,
    handle(call) {
      if (call.verb !== 'logs')
        throw refusal(501, 'NotImplemented', `this kubelet does not answer ${JSON.stringify(call.verb)} yet: only logs`)
      if (!call.wantsStream) throw refusal(400, 'BadRequest', 'logs are a stream')
      return sendLogs(world, options, call, checkRequest(call.body))
    },
  })
}

function checkRequest(body: unknown): NodeLogsRequest {
  const request = body as Partial<NodeLogsRequest> | null
  if (typeof request !== 'object' || request === null) throw refusal(400, 'BadRequest', 'the request is no object')
  for (const field of ['namespace', 'pod', 'uid', 'container'] as const)
    if (typeof request[field] !== 'string') throw refusal(400, 'BadRequest', `${field} must be a string`)
  for (const field of ['tailLines', 'limitBytes', 'sinceSeconds'] as const) {
    const value = request[field]
    if (value !== undefined && value !== null && (!Number.isInteger(value) || value < 0))
      throw refusal(400, 'BadRequest', `${field} must be a whole number that is not negative`)
  }
  return request as NodeLogsRequest
}

async function sendLogs(
  world: World,
  options: NodeServerOptions,
  call: IncomingCall,
  request: NodeLogsRequest,
): Promise<void> {
  const container = await find(options, request)
  // Named by what runs here, not by what was asked: no request leads elsewhere.
  const path = `${options.host.logDirectory(container.pod)}/${logPathOf(request.container, container.attempt)}`
  const log = await GrowingLog.open(options.host, path)
  if (!log)
    throw refusal(
      404,
      'NotFound',
      `the log of container ${JSON.stringify(request.container)} is not on this node (any more)`,
    )
  try {
    if (request.tailLines !== undefined) await log.skipToTail(request.tailLines)
    const stream = call.openStream()
    const since =
      request.sinceTime ??
      (request.sinceSeconds === undefined
        ? undefined
        : new Date(world.clock.nowMs() - request.sinceSeconds * 1000).toISOString())
    const printer = new LogPrinter({ timestamps: request.timestamps, since, limitBytes: request.limitBytes })
    const goesOn = () => (request.follow ? isRunning(options, container) : Promise.resolve(false))
    await send(world, log, stream, printer, goesOn)
    stream.end('done')
  } finally {
    await log.close()
  }
}

/** Until the log's end: that is where nothing more is in it and `goesOn` said no before we looked. */
async function send(
  world: World,
  log: GrowingLog,
  stream: OutStream,
  printer: LogPrinter,
  goesOn: () => Promise<boolean>,
): Promise<void> {
  const splitter = new LineSplitter()
  let mayGrow = true
  while (!stream.ended && !printer.full) {
    const bytes = await log.read(READ_BYTES)
    if (bytes.length === 0) {
      if (!mayGrow) return
      mayGrow = await goesOn()
      if (mayGrow) await sleep(world.clock, FOLLOW_MS)
      continue
    }
    const printed: Uint8Array[] = []
    splitter.push(bytes, (line) => {
      const record = parseLogRecord(line)
      if (record) printed.push(printer.print(record))
    })
    const text = concat(printed)
    if (text.length === 0) continue
    const data: NodeLogsData = { bytes: text }
    if (!stream.send(data)) return
    while (stream.waiting > WAITING_MAX && !stream.ended) await sleep(world.clock, PACE_MS)
  }
}

/** A log file that is read as it grows, and in whose place another may come. */
class GrowingLog {
  private offset = 0
  private constructor(
    private readonly host: NodeHost,
    private readonly path: string,
    private file: LogFile,
  ) {}

  static async open(host: NodeHost, path: string): Promise<GrowingLog | undefined> {
    const file = await host.openLog(path)
    return file && new GrowingLog(host, path, file)
  }

  async skipToTail(lines: number): Promise<void> {
    const read = (at: number, length: number) => this.file.read(at, length)
    this.offset = await tailOffset(read, await this.file.sizeBytes(), lines)
  }

  /** Empty: there is no more now. */
  async read(bytesMax: number): Promise<Uint8Array> {
    const bytes = await this.readFile(bytesMax)
    if (bytes.length > 0 || !(await this.file.replaced())) return bytes
    // What came between the last read and the rotation; then the new file from its beginning.
    const last = await this.readFile(bytesMax)
    if (last.length > 0) return last
    const next = await this.host.openLog(this.path)
    if (!next) return bytes
    await this.file.close()
    this.file = next
    this.offset = 0
    return this.readFile(bytesMax)
  }

  close(): Promise<void> {
    return this.file.close()
  }

  private async readFile(bytesMax: number): Promise<Uint8Array> {
    const left = (await this.file.sizeBytes()) - this.offset
    if (left <= 0) return new Uint8Array()
    const bytes = await this.file.read(this.offset, Math.min(bytesMax, left))
    this.offset += bytes.length
    return bytes
  }
}

async function find(options: NodeServerOptions, request: NodeLogsRequest): Promise<ContainerState> {
  const { runtime } = options
  const worker = options.worker(request.uid)
  const name = JSON.stringify(request.container)
  const pod = worker?.pod
  if (pod && identityOf(pod).name !== request.pod)
    throw refusal(404, 'NotFound', `pod ${JSON.stringify(request.pod)} is not on this node`)
  const contents = await runtime.list(request.uid)
  const own = knownContainers(pod, contents).filter((container) => container.name === request.container)
  const last = own.at(-1)
  if (request.previous) {
    const previous = last?.state === 'exited' && isWaiting(worker, request.container) ? last : own.at(-2)
    if (!previous)
      throw refusal(
        400,
        'BadRequest',
        `previous terminated container ${name} in pod ${JSON.stringify(request.pod)} not found`,
      )
    return previous
  }
  if (!last) {
    if (!worker) throw refusal(404, 'NotFound', `pod ${JSON.stringify(request.pod)} is not on this node`)
    const status = [...(pod?.status?.containerStatuses ?? []), ...(pod?.status?.initContainerStatuses ?? [])].find(
      (s) => s.name === request.container,
    )
    const why = status?.state.waiting?.reason ?? 'ContainerCreating'
    throw refusal(
      400,
      'BadRequest',
      `container ${name} in pod ${JSON.stringify(request.pod)} is waiting to start: ${why}`,
    )
  }
  return last
}

/** Between two starts (back-off) the last container that ended is the previous one. */
function isWaiting(worker: PodWorker | undefined, container: string): boolean {
  const status = worker?.statusNow?.containerStatuses?.find((s) => s.name === container)
  return status?.state.waiting !== undefined
}

async function isRunning({ runtime }: NodeServerOptions, container: ContainerState): Promise<boolean> {
  const { containers } = await runtime.list(container.pod.uid)
  const now = containers.find((one) => one.id === container.id)
  return now?.state === 'running' || now?.state === 'created'
}

/** As the API server passes it on to kubectl. */
function refusal(code: number, reason: string, message: string): CallError {
  const status = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message, reason, code }
  return new CallError(reason, 'not-applied', message, { details: status })
}
