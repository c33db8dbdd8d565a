/** A steady load of small writes: how long nobody could write, to a few milliseconds. */
import type { Access, HistoryRecord, Json, Running, Workload, WorkloadResult } from './types.js'
import { SmallApiClient } from './targets/api-client-edge.js'

const PER_SECOND = 50
const WAITING_MAX = 500
const CONNECTIONS_MAX = 100

/** Options: `perSecond` (50). */
export const steadyWrites: Workload = {
  name: 'writes',
  about: 'ConfigMaps created at a steady rate through all API servers; what was acknowledged must be there',
  promises: ['S1'],
  lack: () => undefined,
  async start(access, random, options) {
    const writes = new SteadyWrites(
      access,
      `chaos-writes-${hex(random.bytes(3))}`,
      Number(options?.['perSecond'] ?? PER_SECOND),
    )
    await writes.begin()
    return writes
  },
}

class SteadyWrites implements Running {
  private readonly clients: SmallApiClient[]
  private readonly history: HistoryRecord[] = []
  private readonly waiting = new Set<Promise<void>>()
  private readonly counters = { acknowledged: 0, failed: 0, leftOut: 0 }
  private readonly begunMs: number
  private next = 0
  private over = false
  private ended: Promise<WorkloadResult> | undefined
  private loop: Promise<void> = Promise.resolve()

  constructor(
    private readonly access: Access,
    private readonly namespace: string,
    private readonly perSecond: number,
  ) {
    this.clients = access.apiEndpoints.map(
      (endpoint) => new SmallApiClient(endpoint, access.apiCredentials, CONNECTIONS_MAX),
    )
    this.begunMs = access.nowMs()
  }

  async begin(): Promise<void> {
    const namespace: Json = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: this.namespace } }
    const { status, body } = await (this.clients[0] as SmallApiClient).ask('POST', '/api/v1/namespaces', {
      body: namespace,
    })
    if (status !== 201 && status !== 409)
      throw new Error(`namespace ${this.namespace}: ${status} ${String(body['message'])}`)
    this.loop = this.run()
  }

  look() {
    return { counters: { ...this.counters }, wrong: [] }
  }

  async settle(): Promise<void> {
    this.over = true
    await this.loop
    await Promise.all(this.waiting)
  }

  stop(): Promise<WorkloadResult> {
    this.ended ??= this.settle().then(() => {
      for (const client of this.clients) client.close()
      const { history, counters } = this
      return { workload: 'writes', history, watches: [], counters: { ...counters }, series: [], violations: [] }
    })
    return this.ended
  }

  private async run(): Promise<void> {
    const { access } = this
    while (!this.over) {
      const due = Math.floor(((access.nowMs() - this.begunMs) / 1000) * this.perSecond)
      while (this.next < due) {
        this.next++
        // A cluster that does not answer must not make us queue without bound: what is due is then left out.
        if (this.waiting.size < WAITING_MAX) this.write(this.next)
        else this.counters.leftOut++
      }
      await new Promise<void>((resolve) => access.clock.setTimer(500 / this.perSecond, resolve))
    }
  }

  private write(number: number): void {
    const name = `w-${number}`
    const client = this.clients[number % this.clients.length] as SmallApiClient
    const record: HistoryRecord = {
      process: `writer-${number}`,
      operation: 'create',
      key: `/registry/core/configmaps/${this.namespace}/${name}`,
      invokedMs: this.access.nowMs(),
      outcome: 'may-have-happened',
      endpoint: client.endpoint.name,
    }
    this.history.push(record)
    const body: Json = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { number: String(number) } }
    const write = client.ask('POST', `/api/v1/namespaces/${this.namespace}/configmaps`, { body }).then((answer) => {
      if (answer.status === 201) {
        const { resourceVersion } = answer.body['metadata'] as { resourceVersion: string }
        Object.assign(record, { outcome: 'ok', returnedMs: this.access.nowMs(), revision: Number(resourceVersion) })
        this.counters.acknowledged++
      } else {
        record.error = `${answer.status} ${String(answer.body['message'] ?? '')}`
        this.counters.failed++
      }
      this.waiting.delete(write)
    })
    this.waiting.add(write)
  }
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
