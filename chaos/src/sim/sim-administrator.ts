import { CallError } from '@capstan/actor'
import { type ApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import type { SimRandom, Simulation } from '@capstan/sim'

interface Pod extends KubeObject {
  metadata: KubeObject['metadata'] & { name: string }
  spec: { nodeName?: string }
}

const DRAIN_MS = 25_000
const AGAIN_MS = 500
const POD_WAIT_MS = 20_000

/** Somebody with kubectl who takes pods away: deletes, cordons, drains. */
export class SimAdministrator {
  constructor(
    private readonly client: ApiClient,
    private readonly simulation: Simulation,
  ) {}

  /** As soon as there is a pod. Returns the names of those that it took. @throws Error: there was none for long; CallError */
  async deletePods(count: number, force: boolean, random: SimRandom): Promise<string[]> {
    const untilMs = this.simulation.nowMs + POD_WAIT_MS
    const living = async () =>
      (await this.insist(() => this.pods())).filter((pod) => pod.metadata.deletionTimestamp === undefined)
    let left = await living()
    for (; left.length === 0; left = await living()) {
      if (this.simulation.nowMs > untilMs) throw new Error('there is no pod to delete')
      await this.simulation.sleep(AGAIN_MS)
    }
    const chosen = Array.from({ length: Math.min(count, left.length) }, () => left.splice(random.int(left.length), 1))
    await Promise.all(
      chosen
        .flat()
        .map(({ metadata: { namespace = '', name, uid = '' } }) =>
          this.unlessGone(
            this.client.delete(
              RESOURCES.pods,
              { namespace, name },
              { preconditions: { uid }, ...(force ? { gracePeriodSeconds: 0 } : {}) },
            ),
          ),
        ),
    )
    return chosen.flat().map((pod) => pod.metadata.name)
  }

  /** Asks until it is so. */
  async cordon(node: string, unschedulable: boolean): Promise<void> {
    await this.insist(() =>
      this.client.patch(RESOURCES.nodes, { name: node }, 'merge', { spec: { unschedulable: unschedulable || null } }),
    )
  }

  /** Cordons, and evicts the pods that are there; returns how many. @throws Error: they do not leave */
  async drain(node: string): Promise<number> {
    await this.cordon(node, true)
    const on = async () => (await this.insist(() => this.pods())).filter((pod) => pod.spec.nodeName === node)
    const before = new Set((await on()).map((pod) => pod.metadata.uid))
    const untilMs = this.simulation.nowMs + DRAIN_MS
    for (;;) {
      const left = (await on()).filter((pod) => before.has(pod.metadata.uid))
      if (left.length === 0) return before.size
      if (this.simulation.nowMs > untilMs) throw new Error(`${left.length} pods do not leave ${node}`)
      for (const { metadata } of left) {
        const { namespace = '', name, deletionTimestamp } = metadata
        if (deletionTimestamp !== undefined) continue
        const eviction = { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { namespace, name } } as KubeObject
        await this.unlessGone(this.client.create(RESOURCES.pods, eviction, { subresource: 'eviction' })).catch(
          () => undefined,
        )
      }
      await this.simulation.sleep(AGAIN_MS)
    }
  }

  private async pods(): Promise<Pod[]> {
    const { items } = await this.client.list<Pod>(RESOURCES.pods)
    return items.sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))
  }

  private async unlessGone(asked: Promise<unknown>): Promise<void> {
    try {
      await asked
    } catch (error) {
      if (!(error instanceof CallError && (error.code === 'NotFound' || error.code === 'Conflict'))) throw error
    }
  }

  private async insist<T>(ask: () => Promise<T>): Promise<T> {
    const untilMs = this.simulation.nowMs + DRAIN_MS
    for (;;) {
      try {
        return await ask()
      } catch (error) {
        if (!(error instanceof CallError) || error.code === 'NotFound' || this.simulation.nowMs > untilMs) throw error
        await this.simulation.sleep(AGAIN_MS)
      }
    }
  }
}
