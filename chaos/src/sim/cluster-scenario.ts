import { CallError, Caller } from '@capstan/actor'
import { type ApiClient, type KubeObject, RESOURCES } from '@capstan/client'
import { type ReadIndexReply, Subjects, type WatchData } from '@capstan/protocol'
import { Simulation, type SimRandom, type SimWorld } from '@capstan/sim'
import { checkEqualState, type MemberState } from '../checkers/durability.js'
import {
  type ApiObject,
  checkBoundOnce,
  checkConverged,
  checkFenced,
  finalObjects,
  type ObjectEvent,
  tokensOf,
} from '../checkers/objects.js'
import { checkWatch, type SeenEvent, type WatchRecord } from '../checkers/watch.js'
import { type FaultName, Nemesis } from './faults.js'
import { addUp, type Played, type Scenario, type ScenarioOptions, type ScenarioReport } from './scenario.js'
import { SimAdministrator } from './sim-administrator.js'
import { SimCluster } from './sim-cluster.js'

const START_MS = 20_000
const FAULTS_MS = 60_000
/** Stated time of promise C1: so long after the last fault everything is as asked. */
const CONVERGE_MS = 60_000
/** The cluster is healed: by then it takes what the user has been asking for all along. */
const LAST_REQUEST_MS = 40_000
const SAMPLE_MS = 5000
const SAMPLE_AGAIN_MS = 50
/** Nobody writes any more but those who renew their leases: in so long there is a moment at which all have applied the same. */
const ONE_INDEX_MS = 10_000
const DEPLOYMENTS_MAX = 4
const REPLICAS_MAX = 4
// What this scenario adds to the store's is machines that die and masters that cannot reach each other.
const FAULTS: readonly FaultName[] = [
  'crashMachine',
  'crashMachine',
  'crashMachine',
  'pauseMachine',
  'pauseMachine',
  'isolate',
  'partition',
  'oneWayCut',
  'clogLink',
  'lossyNetwork',
  'slowDisk',
  'jumpClock',
  'reconnectBus',
  'powerCut',
]

/** The whole control plane and three hollow nodes under faults: promises S1, S3, S4, C1, C2, C4. */
export const clusterScenario: Scenario = {
  name: 'cluster',
  run: (seed, options) => new ClusterRun(seed, options).run(),
}

class ClusterRun {
  private readonly simulation: Simulation
  private readonly cluster: SimCluster
  private readonly violations: string[] = []
  private readonly coverage: Record<string, number> = { operations: 0, movedPods: 0 }
  /** Deployments that should be there, with their replicas, as far as it was acknowledged. */
  private readonly wanted = new Map<string, number>()
  /** ConfigMaps whose creation was acknowledged. */
  private readonly acknowledged = new Set<string>()
  private readonly states: MemberState[] = []
  private over = false

  constructor(
    seed: string,
    private readonly options: ScenarioOptions,
  ) {
    this.simulation = new Simulation({ seed: `cluster/${seed}`, ...(options.print ? { print: options.print } : {}) })
    this.cluster = new SimCluster(this.simulation, {
      masters: 3,
      nodes: 3,
      ...(options.bug ? { bug: options.bug } : {}),
    })
  }

  async run(): Promise<ScenarioReport> {
    const { simulation, cluster } = this
    cluster.boot()
    const { client, world } = cluster.client('user')
    const nodesReady = () => cluster.nodes.every((n) => cluster.nodeParts.get(n)?.kubelet.ready)
    await simulation.run({ until: nodesReady, untilMs: START_MS, what: 'all nodes ready' })
    const watcher = new ApiWatcher(cluster.client('watcher').client, simulation)
    const user = this.use(client)
    const targets = {
      machines: cluster.machines,
      linked: [...cluster.machines, 'user', 'watcher'],
      restart: (m: string) => cluster.restart(m),
      leader: () => cluster.leader(),
      controllers: () => cluster.controllers(),
      kill: (m: string, component: string) => cluster.kill(m, component),
      pause: (m: string, component: string, ms: number) => cluster.pause(m, component, ms),
      revive: (m: string, component: string) => cluster.revive(m, component),
      killContainers: (node: string, count: number, random: SimRandom) => cluster.killContainers(node, count, random),
      administrator: new SimAdministrator(cluster.client('administrator').client, simulation),
    }
    const nemesis: Played =
      this.options.play?.(simulation, targets) ??
      new Nemesis(simulation, targets, { everyMs: [500, 5000], faults: FAULTS, only: this.options.only })
    const sample = () => {
      if (this.over) return
      // One that is starting or stopping has nothing to say: the next sample will do.
      void this.sampleStates().catch(() => undefined)
      simulation.at(simulation.nowMs + SAMPLE_MS, sample)
    }
    sample()
    await simulation.run({ untilMs: simulation.nowMs + (this.options.troubleMs ?? FAULTS_MS) })
    nemesis.heal()
    const healedMs = simulation.nowMs
    this.over = true
    await simulation
      .finish(user, healedMs + LAST_REQUEST_MS, 'the user’s last request')
      .catch((error: unknown) => this.violations.push(`convergence: ${(error as Error).message}`))
    await simulation.run({ untilMs: healedMs + CONVERGE_MS })
    await this.judge(world, client, watcher)
    await this.judgeStates()
    const retired = Promise.all(cluster.masters.map((machine) => cluster.retire(machine)))
    await simulation.finish(retired, simulation.nowMs + 5000, 'the last counters')
    addUp(this.coverage, cluster.counters)
    addUp(this.coverage, nemesis.counts)
    this.violations.push(...cluster.problems.map((problem) => `member: ${problem}`))
    return {
      violations: this.violations,
      traceHash: simulation.trace.hash,
      troubles: nemesis.struck ?? [],
      simulatedMs: simulation.nowMs,
      steps: simulation.steps,
      coverage: this.coverage,
    }
  }

  /** Somebody with kubectl: creates, scales, changes and deletes Deployments, and writes ConfigMaps. */
  private async use(client: ApiClient): Promise<void> {
    const random = this.simulation.random.fork('user')
    for (let n = 0; !this.over; n++) {
      await this.simulation.sleep(random.between(200, 2500))
      if (this.over) return
      this.coverage['operations'] = (this.coverage['operations'] ?? 0) + 1
      try {
        await this.act(client, random, n)
      } catch (error) {
        if (!(error instanceof CallError)) throw error
      }
    }
  }

  private async act(client: ApiClient, random: SimRandom, n: number): Promise<void> {
    const names = [...this.wanted.keys()].sort()
    const dice = random.next()
    // Without pods there is nothing that faults could take away.
    const isEmpty = [...this.wanted.values()].every((replicas) => replicas === 0)
    if (dice < 0.4 && !isEmpty) {
      const name = `config-${n}`
      await client.create(RESOURCES.configmaps, {
        metadata: { name, namespace: 'default' },
        data: { n: String(n) },
      } as KubeObject)
      this.acknowledged.add(name)
    } else if (names.length < DEPLOYMENTS_MAX && (isEmpty || dice < 0.6)) {
      const name = `web-${n}`
      const replicas = 1 + random.int(REPLICAS_MAX)
      const object = deployment(name, replicas, random.chance(0.3))
      await this.insist(() => client.create(RESOURCES.deployments, object), 'AlreadyExists')
      this.wanted.set(name, replicas)
    } else if (names.length > 0 && (isEmpty || dice < 0.85)) {
      const name = random.pick(names)
      const replicas = isEmpty ? 1 + random.int(REPLICAS_MAX) : random.int(REPLICAS_MAX + 1)
      const patch = random.chance(0.3)
        ? { spec: { replicas, template: { metadata: { annotations: { change: String(n) } } } } }
        : { spec: { replicas } }
      await this.insist(() => client.patch(RESOURCES.deployments, { namespace: 'default', name }, 'strategic', patch))
      this.wanted.set(name, replicas)
    } else if (names.length > 0) {
      const name = random.pick(names)
      await this.insist(
        () => client.delete(RESOURCES.deployments, { namespace: 'default', name }, { propagationPolicy: 'Background' }),
        'NotFound',
      )
      this.wanted.delete(name)
    }
  }

  /** Repeats what is idempotent until it is acknowledged; `fine`: a refusal that means it is done. */
  private async insist(run: () => Promise<unknown>, fine?: string): Promise<void> {
    for (;;) {
      try {
        await run()
        return
      } catch (error) {
        if (!(error instanceof CallError)) throw error
        if (error.code === fine) return
        await this.simulation.sleep(500)
      }
    }
  }

  private async sampleStates(): Promise<MemberState[]> {
    const states = await this.cluster.stateHashes()
    this.states.push(...states)
    return states
  }

  /** Promise S4: what the members hold at one index, all along and at the end. */
  private async judgeStates(): Promise<void> {
    const { simulation, cluster } = this
    const untilMs = simulation.nowMs + ONE_INDEX_MS
    for (;;) {
      const states = await simulation.finish(this.sampleStates(), untilMs, 'the states of all members')
      const indexes = new Set(states.map(({ appliedIndex }) => appliedIndex))
      if (states.length === cluster.masters.length && indexes.size === 1) break
      if (simulation.nowMs + SAMPLE_AGAIN_MS > untilMs) {
        this.violations.push(`equal state: the members do not come to one index: ${JSON.stringify(states)}`)
        break
      }
      await simulation.run({ untilMs: simulation.nowMs + SAMPLE_AGAIN_MS })
    }
    this.coverage['stateSamples'] = this.states.length
    this.violations.push(...checkEqualState(this.states).map((text) => `equal state: ${text}`))
  }

  private async judge(world: SimWorld, client: ApiClient, watcher: ApiWatcher): Promise<void> {
    const { simulation, cluster } = this
    const history = await simulation.finish(readHistory(world, cluster), simulation.nowMs + 20_000, 'the whole history')
    const objects = finalObjects(history)
    const say = (checker: string, found: string[]) =>
      this.violations.push(...found.map((text) => `${checker}: ${text}`))
    say('binding', checkBoundOnce(history))
    say('fencing', checkFenced(cluster.fencedWrites, tokensOf(history)))
    say('convergence', checkConverged(objects, this.wanted))
    // S1, through every API server: the reader prefers the one on its own machine.
    for (const name of [...this.acknowledged].sort())
      if (!objects.has(`/registry/core/configmaps/default/${name}`))
        this.violations.push(`durability: ConfigMap ${name} was acknowledged and is gone`)
    const listed = await simulation.finish(
      client.list(RESOURCES.configmaps, { namespace: 'default' }),
      simulation.nowMs + 20_000,
      'a list',
    )
    const names = new Set(listed.items.map((item) => item.metadata.name))
    for (const name of this.acknowledged)
      if (!names.has(name)) this.violations.push(`durability: ConfigMap ${name} was acknowledged and is not listed`)
    const truth = history
      .filter((e) => e.key.startsWith('/registry/core/configmaps/'))
      .map(
        (e): SeenEvent => ({
          revision: e.revision,
          key: e.key.slice('/registry/core/configmaps/'.length),
          type: e.object ? 'put' : 'delete',
          value: '',
        }),
      )
    const verdict = checkWatch(watcher.record, truth)
    if (verdict.verdict !== 'ok') this.violations.push(`watch: ${verdict.explanation}`)
    this.coverage['watchResumes'] = (this.coverage['watchResumes'] ?? 0) + watcher.resumes
    this.coverage['movedPods'] = movedPods(history)
    this.coverage['revisions'] = history.at(-1)?.revision ?? 0
  }
}

function deployment(name: string, replicas: number, recreate: boolean): KubeObject {
  const labels = { app: name }
  const object = {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name, namespace: 'default' },
    spec: {
      replicas,
      ...(recreate ? { strategy: { type: 'Recreate' } } : {}),
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          terminationGracePeriodSeconds: 2,
          containers: [{ name: 'c', image: 'nginx', resources: { requests: { cpu: '100m' } } }],
        },
      },
    },
  }
  return object
}

/** Pods that were deleted from a node that had gone away, so that others took their place. */
function movedPods(history: readonly ObjectEvent[]): number {
  const unreachable = new Set<string>()
  const nodes = new Map<string, string>()
  let moved = 0
  for (const { key, object } of history) {
    if (key.startsWith('/registry/core/nodes/') && object) {
      const taints = ((object.spec ?? {}) as { taints?: { key: string }[] }).taints ?? []
      const gone = taints.some(
        (t) => t.key === 'node.kubernetes.io/unreachable' || t.key === 'node.kubernetes.io/not-ready',
      )
      if (gone) unreachable.add(object.metadata.name)
      else unreachable.delete(object.metadata.name)
    }
    if (!key.startsWith('/registry/core/pods/')) continue
    if (object?.spec?.nodeName) nodes.set(key, object.spec.nodeName)
    if (object?.metadata.deletionTimestamp && unreachable.has(nodes.get(key) ?? '')) {
      moved++
      nodes.delete(key)
    }
  }
  return moved
}

/** A reader of ConfigMaps through the API that resumes whenever its watch ends. */
class ApiWatcher {
  readonly record: WatchRecord = { reader: 'watcher of configmaps', fromRevision: 1, events: [], toldUpTo: 0 }
  resumes = 0
  private position = '0'

  constructor(
    private readonly client: ApiClient,
    private readonly simulation: Simulation,
  ) {
    void this.run()
  }

  private async run(): Promise<void> {
    for (;;) {
      try {
        if (this.position === '0') await this.list()
        await this.watch()
      } catch {
        // Refused or lost: again, from where we are.
      }
      this.resumes++
      await this.simulation.sleep(200)
    }
  }

  /** What is there already counts as told; the record begins behind it. */
  private async list(): Promise<void> {
    const list = await this.client.list(RESOURCES.configmaps)
    this.position = list.resourceVersion
    this.record.fromRevision = Number(list.resourceVersion) + 1
    this.record.toldUpTo = Number(list.resourceVersion)
  }

  private watch(): Promise<void> {
    return new Promise((resolve) => {
      this.client.watch<KubeObject>(
        RESOURCES.configmaps,
        { resourceVersion: this.position, allowWatchBookmarks: true },
        {
          event: (type, object) => {
            const { resourceVersion = '0', namespace = '', name = '' } = object.metadata
            this.position = resourceVersion
            this.record.toldUpTo = Math.max(this.record.toldUpTo, Number(resourceVersion))
            if (type === 'BOOKMARK') return
            this.record.events.push({
              revision: Number(resourceVersion),
              key: `${namespace}/${name}`,
              type: type === 'DELETED' ? 'delete' : 'put',
              value: '',
            })
          },
          end: () => resolve(),
        },
      )
    })
  }
}

/** Everything that ever happened to API objects, by one watch of the store from the beginning. */
async function readHistory(world: SimWorld, cluster: SimCluster): Promise<ObjectEvent[]> {
  const caller = new Caller(world, { name: 'history' })
  const events: ObjectEvent[] = []
  const encode = (text: string) => new TextEncoder().encode(text)
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes)
  const subject = (verb: string) => new Subjects('c').store(cluster.masters[0] as string, world.bus.identity, verb)
  const { revision: upTo } = (await caller.call(subject('readIndex'), {}, { timeoutMs: 5000 })) as ReadIndexReply
  return new Promise((resolve, reject) => {
    const done = (revision: number) => {
      if (revision < upTo) return
      resolve(events)
      stream.cancel()
    }
    const stream = caller.openStream(
      subject('watch'),
      { key: encode('/registry/'), rangeEnd: encode('/registry0'), startRevision: 1 },
      {
        data(body) {
          const { events: more, revision } = body as WatchData
          for (const { kv, type } of more)
            events.push({
              revision: kv.modRevision,
              key: decode(kv.key),
              object: type === 'put' ? (JSON.parse(decode(kv.value)) as ApiObject) : undefined,
            })
          done(revision)
        },
        beat: (position) => done((position as { revision?: number } | null)?.revision ?? 0),
        end: (reason, error) => reject(error ?? new Error(`the watch ended: ${reason}`)),
      },
      { timeoutMs: 5000, creditsMax: 1024 },
    )
  })
}
