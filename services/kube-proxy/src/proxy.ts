import { sleep, type World } from '@capstan/actor'
import { type ApiClient, InformerFactory, type KubeObject, RESOURCES } from '@capstan/client'
import { computeForwards, type EndpointSliceView, type ServiceView } from './forwarding.js'
import type { PacketRules } from './packet-rules.js'

/** Changes that come within so long are written together. */
const GATHER_MS = 20
const RETRY_MS = 200
const RETRY_MS_MAX = 10_000

export interface KubeProxyOptions {
  client: ApiClient
  nodeName: string
  rules: PacketRules
}

export interface KubeProxyHandle {
  /** The rules have been written at least once from a whole list. */
  readonly synced: boolean
  /** `clear`: also removes the rules (the node is taken down for good); otherwise they go on working. */
  stop(options?: { clear: boolean }): Promise<void>
}

/** Keeps the packet rules of one node equal to what Services and EndpointSlices say. Level-triggered: only the latest state counts. */
export function startKubeProxy(world: World, options: KubeProxyOptions): KubeProxyHandle {
  const { clock } = world
  const log = world.log.child({ component: 'kube-proxy' })
  const informers = new InformerFactory(world, options.client)
  const services = informers.for<ServiceView & KubeObject>(RESOURCES.services)
  const slices = informers.for<EndpointSliceView & KubeObject>(RESOURCES.endpointslices)
  const stopping = new AbortController()
  let changed = true
  let synced = false
  let wake: (() => void) | undefined
  const mark = () => {
    changed = true
    wake?.()
  }
  services.addHandler({ add: mark, update: mark, delete: mark })
  slices.addHandler({ add: mark, update: mark, delete: mark })
  informers.start()
  const ended = run()

  async function run(): Promise<void> {
    // Rules from half a list would cut off Services that are well.
    if (!(await informers.whenSynced())) return
    let retryMs = RETRY_MS
    while (!stopping.signal.aborted) {
      if (!changed) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
        wake = undefined
        await sleep(clock, GATHER_MS, stopping.signal)
        continue
      }
      changed = false
      try {
        await options.rules.apply(computeForwards(services.list(), slices.list(), options.nodeName))
        synced = true
        retryMs = RETRY_MS
      } catch (error) {
        changed = true
        log.error({ err: error, retryMs }, 'rules not written')
        await sleep(clock, retryMs, stopping.signal)
        retryMs = Math.min(retryMs * 2, RETRY_MS_MAX)
      }
    }
  }

  return {
    get synced() {
      return synced
    },
    async stop(stopOptions = { clear: false }) {
      stopping.abort()
      informers.stop()
      wake?.()
      await ended
      if (stopOptions.clear) await options.rules.clear()
    },
  }
}
