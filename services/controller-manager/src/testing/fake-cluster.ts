import { BeatTracker, InformerFactory, type KubeObject, RESOURCES, startBeating } from '@capstan/client'
import { FakeApiClient, ManualClock, manualWorld, MemoryBroker } from '@capstan/client/testing'
import { IDENTITY_LEASE_MS } from '@capstan/protocol'
import { type Deployment, isPodFinished, type Node, type Pod, type StatefulSet } from '../kinds.js'
import { IdentityFences } from '../identity-fences.js'
import type { ControllerManagerOptions } from '../options.js'
import type { Part, PartContext, StartPart } from '../part.js'

const LOCK = { namespace: 'kube-system', name: 'kube-controller-manager' }

/** An API in memory, control loops under a lock, and kubelets that pretend, all on a clock moved by hand. */
export class FakeCluster {
  readonly clock = new ManualClock()
  readonly broker = new MemoryBroker(this.clock)
  readonly world = manualWorld({ clock: this.clock, broker: this.broker })
  readonly api: FakeApiClient
  readonly informers: InformerFactory
  readonly kubelets = new BeatTracker(this.world, { cluster: 'c1', component: 'kubelet' })
  readonly parts: Part[] = []
  fenced = 0
  readonly counters = { nodesMarked: 0, evictions: 0, nodesFenced: 0, collected: 0 }
  private readonly beats = new Map<string, () => void>()
  private readonly leases = new Set<string>()
  private ips = 0

  /** `checked`: what the loops write must be valid by libs/api. */
  constructor(
    private readonly options: Partial<ControllerManagerOptions> = {},
    checked = true,
  ) {
    this.api = new FakeApiClient(this.clock, { checked })
    this.informers = new InformerFactory(this.world, this.api)
  }

  async start(...starts: StartPart[]): Promise<void> {
    const [lease] = this.api.seed<KubeObject>(RESOURCES.leases, { metadata: { ...LOCK } })
    const context: PartContext = {
      world: this.world,
      client: this.api,
      informers: this.informers,
      fence: { lock: LOCK, token: lease?.metadata.resourceVersion ?? '' },
      onFenced: () => this.fenced++,
      options: { cluster: 'c1', machine: 'm0', ...this.options },
      kubelets: this.kubelets,
      fences: new IdentityFences(this.clock, this.informers, this.options.identity),
      counters: this.counters,
    }
    for (const start of starts) this.parts.push(start(context))
    this.informers.start()
    await this.clock.advance(10)
  }

  // ------------------------------------------------------------------------------------------------------------- nodes

  /** A node that is Ready, beats and renews its Lease; `identityLeaseMs`: with a guard. */
  addNode(name: string, identityLeaseMs?: number): void {
    const ready = { type: 'Ready', status: 'True', reason: 'KubeletReady' }
    this.api.seed<Node>(RESOURCES.nodes, { metadata: { name }, spec: {}, status: { conditions: [ready] } })
    const annotations = { [IDENTITY_LEASE_MS]: String(identityLeaseMs) }
    this.api.seed<KubeObject>(RESOURCES.leases, {
      metadata: { name, namespace: 'kube-node-lease', ...(identityLeaseMs === undefined ? {} : { annotations }) },
    })
    this.resumeNode(name)
  }

  resumeNode(name: string): void {
    this.resumeBeats(name)
    this.leases.add(name)
    const renew = () => {
      if (!this.leases.has(name)) return
      this.api.change<{ metadata: object; spec?: object }>(RESOURCES.leases, `kube-node-lease/${name}`, (lease) => {
        lease.spec = { holderIdentity: name, renewTime: new Date(this.clock.nowMs()).toISOString() }
      })
      this.clock.setTimer(1000, renew)
    }
    renew()
  }

  resumeBeats(name: string): void {
    const world = manualWorld({ clock: this.clock, broker: this.broker, identity: `kubelet~${name}` })
    const stop = startBeating(world, {
      cluster: 'c1',
      component: 'kubelet',
      instance: name,
      machine: name,
      describe: () => ({ ready: true }),
    })
    this.beats.set(name, stop)
  }

  stopBeats(name: string): void {
    this.beats.get(name)?.()
  }

  stopLease(name: string): void {
    this.leases.delete(name)
  }

  silence(...names: string[]): void {
    for (const name of names) {
      this.stopBeats(name)
      this.stopLease(name)
    }
  }

  node(name: string): Node {
    return this.api.object<Node>(RESOURCES.nodes, name) as Node
  }

  ready(name: string): string | undefined {
    return this.node(name).status?.conditions?.find((c) => c.type === 'Ready')?.status
  }

  taints(name: string): string[] {
    return (this.node(name).spec?.taints ?? []).map((t) => `${t.key.replace('node.kubernetes.io/', '')}:${t.effect}`)
  }

  // -------------------------------------------------------------------------------------------------------------- pods

  pods(): Pod[] {
    return this.api.objects<Pod>(RESOURCES.pods)
  }

  /** One turn of scheduler and kubelets: what is unbound gets a node, what is bound gets ready, what is deleted goes. */
  kubeletTurn(options: { nodes?: string[]; getReady?: boolean } = {}): void {
    const nodes = options.nodes ?? ['n0']
    for (const [at, pod] of this.pods().entries()) {
      const key = `${pod.metadata.namespace}/${pod.metadata.name}`
      if (pod.metadata.deletionTimestamp !== undefined) {
        if (nodes.includes(pod.spec?.nodeName ?? '')) this.api.drop(RESOURCES.pods, key)
        continue
      }
      if (isPodFinished(pod)) continue
      const wantsReady = options.getReady ?? true
      const isReady = pod.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') ?? false
      if (isReady || (pod.spec?.nodeName && !wantsReady)) continue
      this.api.change<Pod>(RESOURCES.pods, key, (p) => {
        p.spec = { ...p.spec, nodeName: p.spec?.nodeName ?? (nodes[at % nodes.length] as string) }
        const since = new Date(this.clock.nowMs()).toISOString()
        p.status = {
          ...p.status,
          phase: 'Running',
          podIP: p.status?.podIP ?? `10.0.0.${++this.ips}`,
          conditions: [{ type: 'Ready', status: wantsReady ? 'True' : 'False', lastTransitionTime: since }],
        }
      })
    }
  }

  /** Lets loops and kubelets take turns until nothing changes any more. */
  async settle(
    options: { turns?: number; nodes?: string[]; getReady?: boolean; each?: () => void } = {},
  ): Promise<void> {
    for (let turn = 0; turn < (options.turns ?? 60); turn++) {
      const { revision } = this.api
      await this.clock.advance(20)
      options.each?.()
      this.kubeletTurn(options)
      await this.clock.advance(20)
      options.each?.()
      if (this.api.revision === revision) return
    }
  }
}

export function deployment(name: string, spec: Deployment['spec'] = {}, image = 'nginx:1'): Deployment {
  return {
    metadata: { name, namespace: 'default' },
    spec: {
      replicas: 1,
      selector: { matchLabels: { app: name } },
      template: { metadata: { labels: { app: name } }, spec: { containers: [{ name: 'c', image }] } },
      ...spec,
    },
  }
}

export function statefulSet(name: string, spec: StatefulSet['spec'] = {}, image = 'nginx:1'): StatefulSet {
  return {
    metadata: { name, namespace: 'default' },
    spec: {
      replicas: 1,
      serviceName: name,
      selector: { matchLabels: { app: name } },
      template: { metadata: { labels: { app: name } }, spec: { containers: [{ name: 'c', image }] } },
      ...spec,
    },
  }
}

/** Sets the image of the template, as `kubectl set image` does. */
export function setImage(d: Deployment | StatefulSet, image: string): void {
  d.spec = { ...d.spec, template: { ...d.spec?.template, spec: { containers: [{ name: 'c', image }] } } }
}
