/**
 * Workload × faults: users change Deployments, Services and namespaces while answers are lost, watches break, history is
 * compacted, managers are cut off and nodes fall silent. Then the faults end, and what is there must be what was asked for
 * (promise C1), nothing else. Survived must be: any number of these faults, as long as the API itself is correct.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import { controllerOf, type KubeObject, RESOURCES } from '@capstan/client'
import { manualWorld, SeededRandom } from '@capstan/client/testing'
import { type ControllerManagerHandle, startControllerManager } from './controller-manager.js'
import {
  type Deployment,
  type Endpoints,
  type EndpointSlice,
  isPodReady,
  type Node,
  type ReplicaSet,
  type Service,
  type StatefulSet,
} from './kinds.js'
import { deployment, FakeCluster, setImage, statefulSet } from './testing/fake-cluster.js'

/** `CONVERGENCE_SEEDS=100` runs more. */
const SEEDS = Number(process.env.CONVERGENCE_SEEDS ?? 4)
const STEPS = 25
const NAMES = ['a', 'b', 'c']
const SETS = ['s', 't']
const NODES = ['n0', 'n1', 'n2', 'n3']

interface Covered {
  terms: number
  lostAnswers: number
  relists: number
  evictions: number
}

async function run(seed: number, covered: Covered): Promise<void> {
  const random = new SeededRandom(seed)
  const cluster = new FakeCluster()
  const { api, clock } = cluster
  api.seed<KubeObject>(RESOURCES.namespaces, { metadata: { name: 'default' } })
  for (const name of NODES) cluster.addNode(name)
  const cut = new Set<string>()
  const managers: ControllerManagerHandle[] = []
  for (const machine of ['m0', 'm1']) {
    const world = manualWorld({ clock, broker: cluster.broker, identity: `controller-manager~${machine}`, seed })
    const client = new Proxy(api, {
      get(target, name) {
        const method = Reflect.get(target, name) as unknown
        if (typeof method !== 'function' || name === 'watch')
          return typeof method === 'function' ? method.bind(target) : method
        return (...args: unknown[]) =>
          cut.has(machine)
            ? Promise.reject(new CallError('TIMEOUT', 'maybe-applied', 'cut off'))
            : (method.apply(target, args) as unknown)
      },
    })
    managers.push(await startControllerManager(world, { cluster: 'c1', machine, client }))
  }

  const silent = new Set<string>()
  const alive = () => NODES.filter((name) => !silent.has(name))
  /** Nodes, pods and time go on. */
  async function live(turns: number): Promise<void> {
    for (let turn = 0; turn < turns; turn++) {
      await clock.advance(100)
      cluster.kubeletTurn({ nodes: alive() })
      for (const name of alive())
        if (cluster.ready(name) !== 'True')
          api.change<Node>(RESOURCES.nodes, name, (node) => {
            node.status = { conditions: [{ type: 'Ready', status: 'True' }] }
          })
    }
  }
  const wanted = new Map<string, { replicas: number; image: string }>()
  const wantedSets = new Map<string, { replicas: number; image: string }>()
  const services = new Set<string>()

  const steps: (() => void)[] = [
    () => {
      const name = NAMES[random.int(NAMES.length)] as string
      if (wanted.has(name)) return
      const replicas = random.int(6)
      const recreate = random.int(3) === 0
      const spec: Deployment['spec'] = {
        replicas,
        strategy: { type: recreate ? 'Recreate' : 'RollingUpdate' },
        revisionHistoryLimit: 2,
      }
      api.seed(RESOURCES.deployments, deployment(name, spec, 'i:0'))
      wanted.set(name, { replicas, image: 'i:0' })
    },
    () => {
      for (const [name, want] of [...wanted].slice(0, 1 + random.int(2))) {
        want.replicas = random.int(8)
        api.change<Deployment>(
          RESOURCES.deployments,
          `default/${name}`,
          (d) => void (d.spec = { ...d.spec, replicas: want.replicas }),
        )
      }
    },
    () => {
      for (const [name, want] of [...wanted].slice(random.int(2))) {
        want.image = `i:${random.int(6)}`
        api.change<Deployment>(RESOURCES.deployments, `default/${name}`, (d) => setImage(d, want.image))
      }
    },
    () => {
      const [name] = [...wanted.keys()].slice(random.int(3))
      if (name === undefined || random.int(2) === 0) return
      api.drop(RESOURCES.deployments, `default/${name}`)
      wanted.delete(name)
    },
    () => {
      const name = SETS[random.int(SETS.length)] as string
      const replicas = random.int(5)
      const image = `i:${random.int(4)}`
      const before = wantedSets.get(name)
      if (!before) {
        const podManagementPolicy = random.int(2) === 0 ? 'Parallel' : 'OrderedReady'
        const spec = { replicas, podManagementPolicy, revisionHistoryLimit: 2 }
        api.seed(RESOURCES.statefulsets, statefulSet(name, spec, image))
      } else if (random.int(5) === 0) {
        api.drop(RESOURCES.statefulsets, `default/${name}`)
        wantedSets.delete(name)
        return
      } else
        api.change<StatefulSet>(RESOURCES.statefulsets, `default/${name}`, (set) => {
          set.spec = { ...set.spec, replicas }
          setImage(set, image)
        })
      wantedSets.set(name, { replicas, image })
    },
    () => {
      const name = NAMES[random.int(NAMES.length)] as string
      if (services.delete(name)) return api.drop(RESOURCES.services, `default/${name}`)
      services.add(name)
      api.seed<Service>(RESOURCES.services, {
        metadata: { name, namespace: 'default' },
        spec: { selector: { app: name }, ports: [{ port: 80 }] },
      })
    },
    () => {
      const pods = cluster.pods()
      const pod = pods[random.int(Math.max(1, pods.length))]
      if (pod) api.drop(RESOURCES.pods, `default/${pod.metadata.name}`)
    },
    () => api.breakWatches(['lost', 'closing', 'lagging'][random.int(3)]),
    () => {
      api.compact()
      api.breakWatches('lost')
    },
    () => {
      const machine = `m${random.int(2)}`
      if (!cut.delete(machine)) cut.add(machine)
    },
    () => {
      const name = NODES[random.int(NODES.length)] as string
      if (silent.delete(name)) return cluster.resumeNode(name)
      if (silent.size > 0) return
      silent.add(name)
      cluster.silence(name)
    },
  ]
  api.intercept = (call) => {
    if (call.verb === 'get' || call.verb === 'list')
      return random.int(30) === 0 ? new CallError('ServiceUnavailable', 'not-applied', 'busy') : undefined
    if (random.int(12) > 0) return undefined
    covered.lostAnswers++
    const lost = new CallError('TIMEOUT', 'maybe-applied', 'answer lost')
    return [new CallError('ServiceUnavailable', 'not-applied', 'busy'), lost, { after: lost }][random.int(3)]
  }
  for (let at = 0; at < STEPS; at++) {
    steps[random.int(steps.length)]?.()
    await live(2 + random.int(25))
    covered.evictions += cluster
      .pods()
      .filter((pod) => pod.metadata.deletionTimestamp && silent.has(pod.spec?.nodeName ?? '')).length
  }

  // The faults end.
  api.intercept = () => undefined
  cut.clear()
  for (const name of silent) cluster.resumeNode(name)
  silent.clear()
  // Longer than an election, an expectation's time-out, a back-off and the sweep of the pod GC together.
  await live(400)

  const label = `seed ${seed}`
  const sets = api.objects<ReplicaSet>(RESOURCES.replicasets)
  const pods = cluster.pods()
  assert.deepEqual(
    pods.filter((pod) => pod.metadata.deletionTimestamp).map((pod) => pod.metadata.name),
    [],
    label,
  )
  for (const [name, { replicas, image }] of wanted) {
    const own = sets.filter((rs) => controllerOf(rs)?.name === name)
    const running = pods.filter((pod) => own.some((rs) => controllerOf(pod)?.uid === rs.metadata.uid))
    assert.equal(running.length, replicas, `${label}: pods of ${name}`)
    assert.ok(running.every(isPodReady), `${label}: ready`)
    const images = running.map(
      (pod) => (pod.spec?.containers as unknown as { image: string }[] | undefined)?.[0]?.image,
    )
    assert.deepEqual(new Set(images), new Set(replicas > 0 ? [image] : []), label)
    assert.ok(own.filter((rs) => (rs.spec?.replicas ?? 0) > 0).length <= 1, label)
    assert.ok(own.length <= 3, `${label}: ${own.length} ReplicaSets of ${name}`)
    const { status } = api.object<Deployment>(RESOURCES.deployments, `default/${name}`) ?? {}
    assert.deepEqual(
      [status?.replicas, status?.availableReplicas, status?.updatedReplicas],
      [replicas, replicas, replicas],
      label,
    )
  }
  for (const [name, { replicas, image }] of wantedSets) {
    const own = pods.filter((pod) => controllerOf(pod)?.name === name && controllerOf(pod)?.kind === 'StatefulSet')
    assert.deepEqual(
      own.map((pod) => pod.metadata.name),
      Array.from({ length: replicas }, (_, at) => `${name}-${at}`),
      `${label}: pods of ${name}`,
    )
    const images = own.map((pod) => (pod.spec?.containers as unknown as { image: string }[] | undefined)?.[0]?.image)
    assert.deepEqual(new Set(images), new Set(replicas > 0 ? [image] : []), label)
    const { status } = api.object<StatefulSet>(RESOURCES.statefulsets, `default/${name}`) ?? {}
    assert.deepEqual(
      [status?.replicas, status?.availableReplicas, status?.updatedReplicas, status?.currentRevision],
      [replicas, replicas, replicas, status?.updateRevision],
      label,
    )
  }
  const revisions = api.objects<KubeObject>(RESOURCES.controllerrevisions)
  for (const revision of revisions)
    assert.ok(wantedSets.has(controllerOf(revision)?.name ?? ''), `${label}: revisions nobody asked for`)
  assert.ok(revisions.length <= 4 * wantedSets.size, `${label}: ${revisions.length} revisions`)
  const owners = new Set(sets.map((rs) => controllerOf(rs)?.name ?? ''))
  assert.ok(
    [...owners].every((name) => wanted.has(name)),
    `${label}: ReplicaSets nobody asked for`,
  )
  assert.ok(
    pods.every((pod) => wanted.has(pod.metadata.labels?.app ?? '') || wantedSets.has(pod.metadata.labels?.app ?? '')),
    `${label}: pods nobody asked for`,
  )

  const slices = api.objects<EndpointSlice>(RESOURCES.endpointslices)
  assert.ok(
    slices.every((s) => services.has(s.metadata.labels?.['kubernetes.io/service-name'] ?? '')),
    `${label}: slices left over`,
  )
  for (const name of services) {
    const ips = pods
      .filter((pod) => pod.metadata.labels?.app === name)
      .map((pod) => pod.status?.podIP ?? '')
      .sort()
    const own = slices.filter((s) => s.metadata.labels?.['kubernetes.io/service-name'] === name)
    assert.deepEqual(own.flatMap((s) => s.endpoints.flatMap((e) => e.addresses)).sort(), ips, label)
    const { subsets = [] } = api.object<Endpoints>(RESOURCES.endpoints, `default/${name}`) ?? {}
    assert.deepEqual(subsets.flatMap((s) => (s.addresses ?? []).map((a) => a.ip)).sort(), ips, label)
  }
  const nodes = api.objects<Node>(RESOURCES.nodes)
  assert.equal(new Set(nodes.map((node) => node.spec?.podCIDR)).size, NODES.length, label)
  assert.ok(
    nodes.every((node) => (node.spec?.taints ?? []).length === 0),
    label,
  )

  // At rest: nothing is written any more but the lock's renewals.
  const writes = () =>
    api.calls.filter((call) => !['get', 'list'].includes(call.verb) && call.resource !== 'leases').length
  const before = writes()
  await live(50)
  assert.equal(writes(), before, `${label}: writes at rest`)
  covered.terms += managers.reduce((n, manager) => n + manager.counters.terms, 0)
  covered.relists += api.calls.filter((call) => call.verb === 'list' && call.resource === 'pods').length
}

test('what was asked for is there once the faults end, and nothing else', async (t) => {
  const covered: Covered = { terms: 0, lostAnswers: 0, relists: 0, evictions: 0 }
  for (let seed = 1; seed <= SEEDS; seed++) await run(seed, covered)
  t.diagnostic(JSON.stringify(covered))
  assert.ok(
    covered.terms > SEEDS && covered.lostAnswers > SEEDS && covered.relists > SEEDS * 2 && covered.evictions > 0,
  )
})
