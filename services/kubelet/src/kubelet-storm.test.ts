/**
 * One node through a storm: pods made, deleted and lost, containers that crash, the kubelet, its runtime and its API that
 * go away. Must hold all the time: C4, and at most one container of each name. When it is over: what runs is what is asked
 * for (C1), and nothing else is left.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CallError } from '@capstan/actor'
import { RESOURCES } from '@capstan/client'
import { FakeApiClient, ManualClock, manualWorld, MemoryBroker, SeededRandom } from '@capstan/client/testing'
import { HollowHost, HollowRuntime, type KubeletHandle, startKubelet } from './index.js'
import type { Pod } from './kinds.js'
import { podRequests } from './resources.js'

/** `STORM_SEEDS=500`, or `STORM_SEED=7` for one. */
const { STORM_SEEDS = '8', STORM_SEED } = process.env
const STEPS = 60
const CPU_MILLI = 1000

/** Planted: what a broken kubelet would do, which the checks must catch. */
type Bug = 'admits everything' | 'leaves sandboxes' | 'forgets to look'

async function storm(seed: number, bug?: Bug): Promise<string> {
  const random = new SeededRandom(seed)
  const clock = new ManualClock()
  const broker = new MemoryBroker(clock)
  const world = manualWorld({ clock, broker, identity: 'kubelet~n0', seed })
  const api = new FakeApiClient(clock)
  const host = new HollowHost()
  const runtime = new HollowRuntime(world, {
    containerStopMs: 700,
    behaviour: (spec) => (spec.name === 'short' ? { exitAfterMs: 900, exitCode: spec.attempt % 2 } : undefined),
  })
  if (bug === 'leaves sandboxes') runtime.removeSandbox = async () => undefined
  // News of containers get lost, and so does every second list.
  if (bug === 'forgets to look') {
    runtime.onChange = () => () => undefined
    const { list } = runtime
    runtime.list = async (uid) => (uid === undefined ? { sandboxes: [], containers: [] } : list.call(runtime, uid))
  }
  let faults = false
  api.intercept = () => {
    if (!faults || random.next() > 0.3) return undefined
    const error = new CallError('TIMEOUT', 'maybe-applied', 'no answer')
    return random.next() < 0.5 ? error : { after: error }
  }
  const pods = () => api.objects<Pod>(RESOURCES.pods)
  const start = () =>
    startKubelet(
      world,
      {
        cluster: 'c1',
        nodeName: 'n0',
        client: api,
        host,
        nodeIp: '10.0.0.1',
        podCidr: '10.244.0.0/24',
        capacity: { cpuMilli: bug === 'admits everything' ? 10 * CPU_MILLI : CPU_MILLI },
      },
      runtime,
    )
  let kubelet: KubeletHandle | undefined = await start()
  const asked = new Map<string, number>()
  let made = 0

  const check = async () => {
    const { down } = runtime
    runtime.down = false
    const { containers, sandboxes } = await HollowRuntime.prototype.list.call(runtime)
    runtime.down = down
    const running = containers.filter((container) => container.state === 'running')
    const names = running.map((container) => `${container.pod.uid} ${container.name}`)
    assert.equal(new Set(names).size, names.length, 'two containers of one name run')
    const uids = new Set(running.map((container) => container.pod.uid))
    const cpu = [...uids].reduce((sum, uid) => sum + (asked.get(uid) ?? 0), 0)
    assert.ok(cpu <= CPU_MILLI, `C4: ${cpu}m run on ${CPU_MILLI}m`)
    const ips = sandboxes.flatMap((sandbox) => sandbox.ip ?? [])
    assert.equal(new Set(ips).size, ips.length, 'two pods have one address')
  }

  for (let step = 0; step < STEPS; step++) {
    faults = random.next() < 0.4
    const list = pods()
    const some = list[random.int(Math.max(1, list.length))]
    const ref = { namespace: 'default', name: some?.metadata.name ?? '' }
    switch (random.int(11)) {
      case 0:
      case 1:
      case 2: {
        const cpu = random.int(6) * 100
        const restartPolicy = (['Always', 'OnFailure', 'Never'] as const)[random.int(3)] as 'Always'
        const container = {
          name: random.next() < 0.3 ? 'short' : 'long',
          image: 'nginx',
          resources: { requests: { cpu: `${cpu}m` } },
        }
        const init = random.next() < 0.3 ? { initContainers: [{ name: 'short', image: 'busybox' }] } : {}
        if (init.initContainers) container.name = 'long'
        const pod: Pod = {
          metadata: { name: `p${made++}`, namespace: 'default' },
          spec: { nodeName: 'n0', restartPolicy, containers: [container], ...init },
          status: { phase: 'Pending' },
        }
        const [seeded] = api.seed(RESOURCES.pods, pod)
        asked.set(seeded?.metadata.uid ?? '', podRequests(pod).cpuMilli)
        break
      }
      case 3:
      case 4:
        if (some) await api.delete(RESOURCES.pods, ref, { gracePeriodSeconds: random.int(3) }).catch(() => undefined)
        break
      case 5:
        if (some) api.drop(RESOURCES.pods, `default/${ref.name}`)
        break
      case 6: {
        const { containers } = await runtime.list().catch(() => ({ containers: [] }))
        const victim = containers[random.int(Math.max(1, containers.length))]
        if (victim) runtime.crash(victim.id, random.int(3))
        break
      }
      case 7:
        if (kubelet) await kubelet.stop()
        kubelet = kubelet ? undefined : await start()
        break
      case 8:
        runtime.down = !runtime.down
        break
      case 9:
        if (random.next() < 0.3) runtime.wipe()
        else api.breakWatches()
        break
      default:
        if (random.next() < 0.5) api.compact()
    }
    for (let slice = 0; slice < 5; slice++) {
      await clock.advance(random.int(400))
      await check()
    }
  }

  faults = false
  runtime.down = false
  kubelet ??= await start()
  const settled = async () => {
    const { containers, sandboxes } = await HollowRuntime.prototype.list.call(runtime)
    const list = pods()
    const uids = new Set(list.map((pod) => pod.metadata.uid))
    if ([...containers, ...sandboxes].some((one) => !uids.has(one.pod.uid)))
      return 'something runs that nobody asked for'
    if (kubelet?.pods().some((one) => !uids.has(one.uid))) return 'a pod is remembered that is gone'
    for (const pod of list) {
      const { phase } = pod.status ?? {}
      const own = containers.filter(
        (container) => container.pod.uid === pod.metadata.uid && container.state === 'running',
      )
      const over = phase === 'Succeeded' || phase === 'Failed'
      if (pod.metadata.deletionTimestamp) return `${pod.metadata.name} is still being deleted`
      if (over && own.length > 0) return `${pod.metadata.name} is ${phase} and runs`
      const ready = pod.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') ?? false
      const crashes =
        JSON.stringify(pod.status?.containerStatuses ?? []).includes('CrashLoopBackOff') ||
        pod.spec.containers[0]?.name === 'short'
      const inits = (pod.spec.initContainers ?? []).length > 0
      if (!over && !ready && !crashes && !inits)
        return `${pod.metadata.name} is ${phase} and not ready: ${JSON.stringify(pod.status)}`
      if (ready !== own.length > 0 && !crashes && !inits)
        return `${pod.metadata.name} says ready ${ready}, ${own.length} run`
    }
    return ''
  }
  let why = 'not looked yet'
  for (let second = 0; second < (bug ? 60 : 700) && why !== ''; second++) {
    await clock.advance(1000)
    await check()
    why = await settled()
  }
  assert.equal(why, '')
  // Whatever is left goes, and then nothing is left at all.
  for (const pod of pods())
    await api.delete(RESOURCES.pods, { namespace: 'default', name: pod.metadata.name ?? '' }, { gracePeriodSeconds: 1 })
  await clock.until(() => pods().length === 0 && kubelet?.pods().length === 0, 120_000, 500)
  assert.deepEqual(await runtime.list(), { sandboxes: [], containers: [] })
  assert.deepEqual(await host.podDirectories(), [])
  await kubelet.stop()
  return JSON.stringify([runtime.journal, api.revision])
}

const seeds = STORM_SEED ? [Number(STORM_SEED)] : Array.from({ length: Number(STORM_SEEDS) }, (_, at) => at + 1)
for (const seed of seeds)
  test(`storm, seed ${seed}`, async () => {
    const history = await storm(seed)
    if (seed % 10 === 1) assert.equal(await storm(seed), history, 'the same seed gave another history')
  })

for (const bug of ['admits everything', 'leaves sandboxes', 'forgets to look'] as const)
  test(`a kubelet that ${bug} is caught`, async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const caught = await storm(seed, bug).then(
        () => false,
        (error: Error) => error.name === 'AssertionError' || /condition did not hold/.test(error.message),
      )
      if (caught) return
    }
    assert.fail('five storms did not show it')
  })
