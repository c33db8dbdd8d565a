/**
 * Promise C3: no two live pods ever hold one StatefulSet identity. Real node lifecycle, StatefulSet controller and kubelets,
 * an API in memory, hollow containers, virtual time.
 *
 * Survived must be: a kubelet that is killed, or stopped for any time (with its whole group); a node that is cut off, whose
 * writes may be on their way for seconds and come through after all; clocks that run 5 % too fast or too slow; all of it at
 * once and again and again. Not survived: a guard that does not run (promise C3 says so).
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { CallError, type Clock, type Timer } from '@capstan/actor'
import { type ApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import { FakeApiClient, ManualClock, manualWorld, MemoryBroker, SeededRandom } from '@capstan/client/testing'
import { type ControllerManagerHandle, startControllerManager } from '@capstan/controller-manager'
import { HollowHost, HollowRuntime, type KubeletHandle, LocalGuard, startKubelet } from '@capstan/kubelet'

/** Longer than it takes to find a node lost: else that alone would be margin enough, and hide what is tested. */
const LEASE_MS = 9000
const NODES = ['n0', 'n1', 'n2', 'n3']
const SETS = { a: 2, b: 2 }
const STEP_MS = 250
const FAULTS = 10
const CALM_MS = 60_000

export type IdentityPlantedBug = 'guard-left-out' | 'tenure-unchecked' | 'margin-left-out' | 'lease-not-taken'

/** The clock of one machine: it runs at its own rate. */
class MachineClock implements Clock {
  constructor(
    private readonly base: ManualClock,
    private readonly rate: number,
  ) {}
  nowMs(): number {
    return this.base.nowMs()
  }
  monotonicMs(): number {
    return this.base.monotonicMs() * this.rate
  }
  setTimer(delayMs: number, run: () => void): Timer {
    return this.base.setTimer(delayMs / this.rate, run)
  }
  defer(run: () => void): void {
    this.base.defer(run)
  }
}

/** A process that can be stopped: nothing of it runs, and what comes for it waits. */
class Process {
  private held: (() => void)[] = []
  stopped = false
  /** Nothing of it runs any more, ever. */
  dead = false

  /** Right away, or when it goes on. */
  run(what: () => void): void {
    if (this.dead) return
    if (this.stopped) this.held.push(what)
    else what()
  }
  goesOn(): Promise<void> {
    return this.stopped || this.dead ? new Promise((resolve) => this.run(resolve)) : Promise.resolve()
  }
  continue(): void {
    this.stopped = false
    for (const what of this.held.splice(0)) what()
  }

  clock(of: Clock): Clock {
    return {
      nowMs: () => of.nowMs(),
      monotonicMs: () => of.monotonicMs(),
      setTimer: (delayMs, run) => {
        let cancelled = false
        const timer = of.setTimer(delayMs, () => this.run(() => cancelled || run()))
        return { cancel: () => void ((cancelled = true), timer.cancel()) }
      },
      defer: (run) => of.defer(() => this.run(run)),
    }
  }

  /** Calls of this process to something that lives on: it runs, the answer waits. */
  wrap<T extends object>(target: T): T {
    return new Proxy(target, {
      get: (_, name) => {
        const member = Reflect.get(target, name) as unknown
        if (typeof member !== 'function') return member
        return (...args: unknown[]) => {
          const answer = member.apply(target, args) as unknown
          if (!(answer instanceof Promise)) return answer
          return this.goesOn().then(() =>
            answer
              .finally(() => this.goesOn())
              .then(async (value: unknown) => {
                await this.goesOn()
                return value
              }),
          )
        }
      },
    })
  }
}

/** The way between one machine and the API: slow, and sometimes cut; what is on its way then may come through later. */
class Link {
  cut = false
  private waiting: (() => void)[] = []

  constructor(
    private readonly clock: ManualClock,
    private readonly random: SeededRandom,
  ) {}

  heal(): void {
    this.cut = false
    for (const go of this.waiting.splice(0)) go()
  }

  private pass(): Promise<void> {
    return new Promise((resolve) => {
      this.clock.setTimer(this.random.int(30), () => {
        if (!this.cut) resolve()
        // Lost, or on its way until the cut ends.
        else if (this.random.int(2) === 0) this.waiting.push(resolve)
      })
    })
  }

  client(api: FakeApiClient, process: Process): ApiClient {
    const call = async (name: string, args: unknown[]): Promise<unknown> => {
      await process.goesOn()
      const method = Reflect.get(api, name) as (...a: unknown[]) => Promise<unknown>
      const answer = (async () => {
        await this.pass()
        const result = await method.apply(api, args)
        await this.pass()
        return result
      })()
      const options = args.at(-1) as { timeoutMs?: number } | undefined
      const late = new Promise<never>((_, reject) => {
        this.clock.setTimer(options?.timeoutMs ?? 5000, () =>
          reject(new CallError('TIMEOUT', 'maybe-applied', 'no answer')),
        )
      })
      late.catch(() => undefined)
      answer.catch(() => undefined)
      try {
        return await Promise.race([answer, late])
      } finally {
        await process.goesOn()
      }
    }
    return new Proxy(api, {
      get: (target, name: string) => {
        if (name === 'watch')
          return (...[resource, options, handlers]: Parameters<ApiClient['watch']>) =>
            target.watch(resource, options, {
              event: async (type, object) => {
                await this.through()
                await process.goesOn()
                return handlers.event(type, object as never)
              },
              end: (reason, error) => process.run(() => handlers.end(reason, error)),
            })
        const method = Reflect.get(target, name) as unknown
        return typeof method === 'function' ? (...args: unknown[]) => call(name, args) : method
      },
    }) as unknown as ApiClient
  }

  /** Events are late, never lost. */
  private through(): Promise<void> {
    return new Promise((resolve) => {
      this.clock.setTimer(this.random.int(30), () => (this.cut ? this.waiting.push(resolve) : resolve()))
    })
  }
}

class TestNode {
  readonly runtime: HollowRuntime
  readonly host = new HollowHost()
  readonly guard: LocalGuard
  readonly link: Link
  private readonly clock: MachineClock
  private process = new Process()
  private bus: ReturnType<typeof manualWorld>['bus'] | undefined
  private kubelet: KubeletHandle | undefined

  constructor(
    private readonly run: Run,
    readonly name: string,
    rate: number,
  ) {
    this.clock = new MachineClock(run.clock, rate)
    this.runtime = new HollowRuntime({ clock: this.clock })
    this.guard = new LocalGuard(this.clock, ({ podUid }) => this.runtime.endPod(podUid))
    this.link = new Link(run.clock, run.random)
  }

  async start(): Promise<void> {
    if (this.kubelet) return
    this.process = new Process()
    const { clock: base, broker, api, bugs } = this.run
    const world = { ...manualWorld({ clock: base, broker, identity: `kubelet~${this.name}` }) }
    this.bus = world.bus
    const plantedBugs = (['guard-left-out', 'tenure-unchecked'] as const).filter((bug) => bugs.includes(bug))
    this.kubelet = await startKubelet(
      { ...world, clock: this.process.clock(this.clock) },
      {
        cluster: 'c1',
        nodeName: this.name,
        client: this.link.client(api, this.process),
        host: this.host,
        nodeIp: '10.0.0.1',
        podCidr: '10.244.0.0/24',
        leaseRenewMs: 1000,
        identity: { guard: this.guard, leaseMs: LEASE_MS, plantedBugs, allowPlantedBugs: plantedBugs.length > 0 },
      },
      this.process.wrap(this.runtime),
    )
    this.bus.setConnected(!this.link.cut)
  }

  /** kill -9 of the kubelet: containers and guard live on. */
  kill(): void {
    if (!this.kubelet) return
    this.process.dead = true
    void this.kubelet.stop()
    this.kubelet = undefined
    this.bus?.setConnected(false)
  }

  setStopped(stopped: boolean): void {
    if (stopped) this.process.stopped = true
    else this.process.continue()
  }

  setCut(cut: boolean): void {
    if (cut) this.link.cut = true
    else this.link.heal()
    if (this.kubelet) this.bus?.setConnected(!cut)
  }

  /** Names of the pods whose containers run, at this very moment. */
  live(): string[] {
    return [...new Set(this.runtime.running().map((pod) => pod.name))]
  }
}

class Run {
  readonly clock = new ManualClock()
  readonly broker = new MemoryBroker(this.clock)
  readonly api = new FakeApiClient(this.clock)
  readonly random: SeededRandom
  readonly violations: string[] = []
  moved = 0
  private readonly nodes: TestNode[]
  private manager!: ControllerManagerHandle
  private readonly homes = new Map<string, string>()

  constructor(
    readonly seed: number,
    readonly bugs: readonly IdentityPlantedBug[],
  ) {
    this.random = new SeededRandom(seed)
    // The worst that is promised: slow guards before a fast judge.
    const rate = () => [0.95, 0.95, 1, 1.05][this.random.int(4)] as number
    this.nodes = NODES.map((name) => new TestNode(this, name, rate()))
    for (const { runtime } of this.nodes) runtime.onChange(() => this.look())
  }

  async start(): Promise<void> {
    const { api, clock, broker } = this
    api.seed<KubeObject>(RESOURCES.namespaces, { metadata: { name: 'default' } })
    for (const node of this.nodes) await node.start()
    const world = manualWorld({ clock, broker, identity: 'controller-manager~m0' })
    const plantedBugs = (['margin-left-out', 'lease-not-taken'] as const).filter((bug) => this.bugs.includes(bug))
    const own = new Link(clock, this.random)
    this.manager = await startControllerManager(
      { ...world, clock: new MachineClock(clock, 1.05) },
      {
        cluster: 'c1',
        machine: 'm0',
        client: own.client(api, new Process()),
        identity: { plantedBugs, allowPlantedBugs: plantedBugs.length > 0 },
      },
    )
    for (const [name, replicas] of Object.entries(SETS))
      api.seed<KubeObject & { spec: object }>(RESOURCES.statefulsets, {
        metadata: { name, namespace: 'default' },
        spec: {
          replicas,
          podManagementPolicy: 'Parallel',
          selector: { matchLabels: { app: name } },
          template: {
            metadata: { labels: { app: name } },
            spec: {
              terminationGracePeriodSeconds: 1,
              containers: [{ name: 'c', image: 'i' }],
              tolerations: ['unreachable', 'not-ready'].map((what) => ({
                key: `node.kubernetes.io/${what}`,
                operator: 'Exists',
                effect: 'NoExecute',
                tolerationSeconds: 1,
              })),
            },
          },
        },
      })
  }

  /** Time goes on, and pods are bound. */
  async live(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= STEP_MS) {
      await this.clock.advance(STEP_MS)
      this.schedule()
    }
  }

  /** A container started or ended somewhere: who is alive now? */
  private look(): void {
    const places = new Map<string, string[]>()
    for (const node of this.nodes)
      for (const pod of node.live()) places.set(pod, [...(places.get(pod) ?? []), node.name])
    for (const [pod, at] of places) {
      if (at.length > 1) this.violations.push(`${pod} runs on ${at.join(' and ')} at ${this.clock.monotonicMs()} ms`)
      const [home = ''] = at
      if (at.length > 1 || this.homes.get(pod) === home) continue
      if (this.homes.has(pod)) this.moved++
      this.homes.set(pod, home)
    }
  }

  private schedule(): void {
    const open = this.api
      .objects<KubeObject & { spec?: { taints?: unknown[] } }>(RESOURCES.nodes)
      .filter((node) => (node.spec?.taints ?? []).length === 0)
    if (open.length === 0) return
    for (const pod of this.api.objects<KubeObject & { spec?: { nodeName?: string } }>(RESOURCES.pods)) {
      if (pod.spec?.nodeName !== undefined || pod.metadata.deletionTimestamp !== undefined) continue
      const node = open[this.random.int(open.length)]?.metadata.name as string
      this.api.change<typeof pod>(RESOURCES.pods, `default/${pod.metadata.name}`, (p) => {
        p.spec = { ...p.spec, nodeName: node }
      })
    }
  }

  async faults(): Promise<void> {
    for (let at = 0; at < FAULTS && this.violations.length === 0; at++) {
      const node = this.nodes[this.random.int(this.nodes.length)] as TestNode
      // One node at a time: when half of them fall silent nobody is replaced.
      const faults = [
        () => node.setStopped(true),
        () => node.setCut(true),
        () => node.kill(),
        () => (node.setCut(true), node.setStopped(true)),
        () => (node.setCut(true), node.kill()),
      ]
      faults[this.random.int(faults.length)]?.()
      await this.live(4000 + this.random.int(20_000))
      node.setCut(false)
      await this.live(this.random.int(2) * 500)
      node.setStopped(false)
      await node.start()
      await this.live(2000 + this.random.int(4000))
    }
  }

  /** The faults have ended: every identity lives exactly once. */
  converged(): string[] {
    const count = new Map<string, number>()
    for (const node of this.nodes) for (const pod of node.live()) count.set(pod, (count.get(pod) ?? 0) + 1)
    const wanted = Object.entries(SETS).flatMap(([name, n]) => Array.from({ length: n }, (_, at) => `${name}-${at}`))
    return [
      ...wanted.filter((pod) => count.get(pod) !== 1).map((pod) => `${pod} runs ${count.get(pod) ?? 0} times`),
      ...[...count.keys()].filter((pod) => !wanted.includes(pod)).map((pod) => `nobody asked for ${pod}`),
    ]
  }

  async stop(): Promise<void> {
    for (const node of this.nodes) {
      node.kill()
      node.guard.stop()
    }
    const stopped = this.manager.stop()
    await this.clock.advance(10_000)
    await stopped
  }
}

export interface IdentityHistory {
  seed: number
  violations: string[]
  /** What is not as it should be once the faults have ended. */
  wrong: string[]
  /** How often an identity came to live on another node. */
  moved: number
}

async function runSeed(seed: number, bugs: readonly IdentityPlantedBug[]): Promise<IdentityHistory> {
  const run = new Run(seed, bugs)
  await run.start()
  await run.live(15_000)
  await run.faults()
  if (run.violations.length === 0) await run.live(CALM_MS)
  const history = { seed, violations: run.violations, wrong: run.converged(), moved: run.moved }
  await run.stop()
  return history
}

interface Task {
  seeds: number[]
  bugs: IdentityPlantedBug[]
}

/** Histories until the first that violates the promise. In a thread of its own: the test runner's hooks make promises slow. */
export function identityHistories(seeds: number[], bugs: IdentityPlantedBug[] = []): Promise<IdentityHistory[]> {
  const task: Task = { seeds, bugs }
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: task })
    worker.once('message', resolve)
    worker.once('error', reject)
  })
}

if (!isMainThread) {
  const { seeds, bugs } = workerData as Task
  const histories: IdentityHistory[] = []
  for (const seed of seeds) {
    histories.push(await runSeed(seed, bugs))
    if ((histories.at(-1)?.violations.length ?? 0) > 0) break
  }
  parentPort?.postMessage(histories)
}
