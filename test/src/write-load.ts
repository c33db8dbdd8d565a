import { HttpsClient } from './https-client.js'

export interface Acknowledged {
  name: string
  atMs: number
}

/**
 * Creates ConfigMaps through the given API servers at a steady rate and remembers which were acknowledged, and when.
 * A write whose answer was lost is not repeated under its name: only what was acknowledged must be there afterwards.
 */
export class WriteLoad {
  readonly acknowledged: Acknowledged[] = []
  failed = 0
  private readonly clients: HttpsClient[]
  private running = true
  private next = 0
  private readonly loop: Promise<void>
  private readonly inFlight = new Set<Promise<void>>()

  constructor(
    kubeconfig: string,
    servers: string[],
    private readonly options: { perSecond: number; namespace: string; prefix: string },
  ) {
    this.clients = servers.map((server) => new HttpsClient(kubeconfig, server))
    this.loop = this.run()
  }

  async stop(): Promise<void> {
    this.running = false
    await this.loop
    await Promise.all(this.inFlight)
    for (const client of this.clients) client.close()
  }

  private async run(): Promise<void> {
    const startedMs = performance.now()
    while (this.running) {
      const due = Math.floor(((performance.now() - startedMs) / 1000) * this.options.perSecond)
      // A cluster that does not answer must not make us queue without bound: what is due is then left out.
      while (this.next < due) {
        this.next++
        if (this.inFlight.size < 2000) this.write(this.next)
      }
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  }

  private write(number: number): void {
    const name = `${this.options.prefix}-${number}`
    const client = this.clients[number % this.clients.length] as HttpsClient
    const object = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { number: String(number) } }
    const write = client
      .request('POST', `/api/v1/namespaces/${this.options.namespace}/configmaps`, object)
      .then(
        ({ status }) => {
          if (status === 201) this.acknowledged.push({ name, atMs: performance.now() })
          else this.failed++
        },
        () => {
          this.failed++
        },
      )
      .finally(() => this.inFlight.delete(write))
    this.inFlight.add(write)
  }
}

/** The longest time without an acknowledged write between two instants, ms. */
export function longestGapMs(acknowledged: readonly Acknowledged[], fromMs: number, toMs: number): number {
  const times = acknowledged.map((a) => a.atMs).filter((t) => t >= fromMs && t <= toMs)
  let gap = 0
  let last = fromMs
  for (const time of [...times.sort((a, b) => a - b), toMs]) {
    gap = Math.max(gap, time - last)
    last = time
  }
  return gap
}
