/** What anybody with an administrator's kubeconfig can do to a cluster. */
import type { Random } from '@capstan/actor'
import type { Access, Done, Json, Levers } from '../types.js'
import { SmallApiClient, type ApiAnswer } from './api-client-edge.js'
import { awaitThat } from './host-edge.js'

interface Pod {
  metadata: {
    name: string
    namespace: string
    uid: string
    deletionTimestamp?: string
    ownerReferences?: { kind: string }[]
  }
  spec: { nodeName?: string }
}
interface Node {
  metadata: { name: string }
  spec?: { unschedulable?: boolean }
  status?: { conditions?: { type: string; status: string }[] }
}

const DRAIN_MS = 25_000
const ASKED_EVERY_MS = 250

export class ApiLevers implements NonNullable<Levers['api']> {
  private readonly clients: SmallApiClient[]

  /** `isOurs`: pods of no other namespaces are touched. Default: all but the cluster's own. */
  constructor(
    access: Access,
    private readonly isOurs = (namespace: string) => !namespace.startsWith('kube-'),
  ) {
    const endpoints = [access.balancer, ...access.apiEndpoints.filter(({ url }) => url !== access.balancer.url)]
    this.clients = endpoints.map((endpoint) => new SmallApiClient(endpoint, access.apiCredentials))
  }

  /** Names of the nodes that are Ready; undefined: nobody answers. */
  async readyNodes(timeoutMs: number): Promise<Set<string> | undefined> {
    const { status, body } = await this.ask('GET', '/api/v1/nodes', undefined, timeoutMs)
    if (status !== 200) return undefined
    const isReady = (node: Node) => node.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True')
    return new Set((body['items'] as unknown as Node[]).filter(isReady).map((node) => node.metadata.name))
  }

  /** The master that holds the controller-manager's lock; undefined: nobody, or nobody answers. */
  async controllers(timeoutMs: number): Promise<string | undefined> {
    const path = '/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager'
    const { status, body } = await this.ask('GET', path, undefined, timeoutMs)
    const lease = body as unknown as { spec?: { holderIdentity?: string } }
    return status === 200 ? lease.spec?.holderIdentity?.split('_')[0] : undefined
  }

  async deletePods(count: number, { force }: { force: boolean }, random: Random): Promise<Done> {
    const pods = (await this.pods()).filter((pod) => pod.metadata.deletionTimestamp === undefined)
    if (pods.length === 0) throw new Error('there is no pod to delete')
    const chosen = Array.from(
      { length: Math.min(count, pods.length) },
      () => pods.splice(random.int(pods.length), 1)[0] as Pod,
    )
    await Promise.all(chosen.map((pod) => this.deletePod(pod, force)))
    await awaitThat('deleted pods are gone or going', async () => {
      const left = new Map((await this.pods()).map((pod) => [pod.metadata.uid, pod]))
      return chosen.every(
        ({ metadata }) => left.get(metadata.uid)?.metadata.deletionTimestamp !== undefined || !left.has(metadata.uid),
      )
    })
    const names = chosen.map(({ metadata }) => `${metadata.namespace}/${metadata.name}`).join(', ')
    return { proof: `deleted${force ? ' by force' : ''}: ${names}`, undo: async () => 'their owners make new ones' }
  }

  async cordon(node: string): Promise<Done> {
    const set = async (unschedulable: boolean) => {
      const path = `/api/v1/nodes/${node}`
      await this.insist(`${node} is ${unschedulable ? '' : 'un'}cordoned`, async () => {
        await this.ask('PATCH', path, { spec: { unschedulable: unschedulable || null } })
        const { status, body } = await this.ask('GET', path)
        if (status === 404) throw new Error(`there is no node ${node}`)
        return status === 200 && ((body as unknown as Node).spec?.unschedulable ?? false) === unschedulable
      })
      return `${node}: spec.unschedulable ${unschedulable}`
    }
    return { proof: await set(true), undo: () => set(false) }
  }

  async drain(node: string): Promise<Done> {
    const cordoned = await this.cordon(node)
    const on = async () => (await this.pods()).filter((pod) => pod.spec.nodeName === node && !isDaemon(pod))
    const before = new Set((await on()).map((pod) => pod.metadata.uid))
    try {
      await this.insist(
        `${before.size} pods leave ${node}`,
        async () => {
          const left = (await on()).filter((pod) => before.has(pod.metadata.uid))
          await Promise.all(
            left.filter((pod) => pod.metadata.deletionTimestamp === undefined).map((pod) => this.evict(pod)),
          )
          return left.length === 0
        },
        DRAIN_MS,
      )
    } catch (error) {
      await cordoned.undo()
      throw error
    }
    return { proof: `${cordoned.proof}; ${before.size} pods left it`, undo: cordoned.undo }
  }

  close(): void {
    for (const client of this.clients) client.close()
  }

  private async evict(pod: Pod): Promise<void> {
    const { name, namespace } = pod.metadata
    const eviction = { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name, namespace } }
    const { status } = await this.ask('POST', `/api/v1/namespaces/${namespace}/pods/${name}/eviction`, eviction)
    // An API server without the subresource; 429 (a budget says no) is asked again.
    if (status === 404 || status === 405) await this.deletePod(pod, false)
  }

  private async deletePod({ metadata: { name, namespace, uid } }: Pod, force: boolean): Promise<void> {
    const options: Json = { preconditions: { uid }, ...(force ? { gracePeriodSeconds: 0 } : {}) }
    await this.ask('DELETE', `/api/v1/namespaces/${namespace}/pods/${name}`, options)
  }

  private async pods(): Promise<Pod[]> {
    const { status, body } = await this.ask('GET', '/api/v1/pods')
    if (status !== 200) throw new Error(`pods cannot be listed: ${status} ${String(body['message'])}`)
    const pods = body['items'] as unknown as Pod[]
    return pods
      .filter(({ metadata }) => this.isOurs(metadata.namespace))
      .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))
  }

  private insist(what: string, done: () => Promise<boolean>, timeoutMs = 20_000): Promise<void> {
    let next = 0
    return awaitThat(
      what,
      async () => {
        if (performance.now() < next) return false
        next = performance.now() + ASKED_EVERY_MS
        return done()
      },
      timeoutMs,
    )
  }

  /** The first endpoint that answers at all. What is asked here may be asked twice. */
  private async ask(method: string, path: string, body?: Json, timeoutMs = 3000): Promise<ApiAnswer> {
    let answer: ApiAnswer = { status: 0, body: {} }
    for (const client of this.clients) {
      answer = await client.ask(method, path, { ...(body === undefined ? {} : { body }), timeoutMs })
      if (answer.status > 0 && answer.status < 500) return answer
    }
    return answer
  }
}

const isDaemon = (pod: Pod) => (pod.metadata.ownerReferences ?? []).some((owner) => owner.kind === 'DaemonSet')
