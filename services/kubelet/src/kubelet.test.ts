import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Caller, CallError } from '@capstan/actor'
import { type KubeObject, RESOURCES } from '@capstan/client'
import { FakeApiClient, ManualClock, manualWorld, MemoryBroker } from '@capstan/client/testing'
import { type NodeLogsRequest, Subjects } from '@capstan/protocol'
import {
  HollowHost,
  type HollowOptions,
  HollowRuntime,
  type KubeletHandle,
  type KubeletOptions,
  startKubelet,
} from './index.js'
import type { Node, Pod, PodSpec } from './kinds.js'

/** One node with a hollow runtime, an API in memory, and a clock moved by hand. */
class TestNode {
  readonly clock = new ManualClock()
  readonly broker = new MemoryBroker(this.clock)
  readonly world = manualWorld({ clock: this.clock, broker: this.broker, identity: 'kubelet~n0' })
  readonly api = new FakeApiClient(this.clock)
  readonly runtime: HollowRuntime
  readonly host = new HollowHost()
  kubelet!: KubeletHandle

  constructor(
    options: HollowOptions = {},
    private readonly kubeletOptions: Partial<KubeletOptions> = {},
  ) {
    this.runtime = new HollowRuntime(this.world, options)
  }

  async start(): Promise<this> {
    const { api: client, host } = this
    this.kubelet = await startKubelet(
      this.world,
      {
        cluster: 'c1',
        nodeName: 'n0',
        client,
        host,
        nodeIp: '10.0.0.1',
        podCidr: '10.244.0.0/24',
        ...this.kubeletOptions,
      },
      this.runtime,
    )
    await this.clock.until(() => this.kubelet.ready)
    return this
  }

  create(name: string, spec: Partial<PodSpec> = {}, more: object = {}): void {
    const containers = spec.containers ?? [{ name: 'c', image: 'nginx' }]
    this.api.seed(RESOURCES.pods, {
      metadata: { name, namespace: 'default', ...more },
      spec: { nodeName: 'n0', ...spec, containers },
      status: { phase: 'Pending' },
    } as Pod)
  }

  pod(name: string): Pod | undefined {
    return this.api.object<Pod>(RESOURCES.pods, `default/${name}`)
  }
  status(name: string) {
    return this.pod(name)?.status?.containerStatuses?.[0]
  }
  ready(name: string): boolean {
    return this.pod(name)?.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') ?? false
  }
  node(): Node | undefined {
    return this.api.object<Node>(RESOURCES.nodes, 'n0')
  }
  events(): string[] {
    return this.api
      .objects<KubeObject & { reason: string; message: string }>(RESOURCES.events)
      .map((event) => `${event.reason}: ${event.message}`)
  }
  warnings(): string[] {
    return this.world.log.lines
      .filter((line) => line.level === 'error' || line.level === 'warn')
      .map((line) => `${line.text} ${String(line.fields['err'] ?? '')}`)
  }
}

describe('node', () => {
  test('registers, is Ready, renews its Lease, beats', async () => {
    const node = await new TestNode().start()
    const seen: string[] = []
    const other = manualWorld({ clock: node.clock, broker: node.broker, identity: 'controller-manager~m0' })
    other.bus.subscribe(new Subjects('c1').beats('kubelet'), (message) => seen.push(message.subject))
    assert.equal(node.node()?.status?.conditions?.find((c) => c.type === 'Ready')?.status, 'True')
    assert.equal(node.node()?.status?.allocatable?.['cpu'], '4')
    const lease = () =>
      node.api.object<KubeObject & { spec: { renewTime: string } }>(RESOURCES.leases, 'kube-node-lease/n0')
    const first = lease()?.spec.renewTime
    await node.clock.advance(5000)
    assert.notEqual(lease()?.spec.renewTime, first)
    assert.ok(seen.length >= 4)
    const { revision } = node.api
    await node.clock.advance(10_000)
    // Nothing but the Lease: an idle node writes no status.
    assert.ok(node.api.revision - revision <= 6, `${node.api.revision - revision} writes in 10 s`)
    await node.kubelet.stop()
  })

  test('a runtime that is down makes it not Ready, and says why; marks of others are put right', async () => {
    const node = await new TestNode().start()
    const ready = () => node.node()?.status?.conditions?.find((c) => c.type === 'Ready')
    node.runtime.down = true
    await node.clock.until(() => ready()?.status === 'False')
    assert.match(ready()?.message ?? '', /hollow runtime is down/)
    node.runtime.down = false
    await node.clock.until(() => ready()?.status === 'True')
    node.api.change<Node>(RESOURCES.nodes, 'n0', (object) => {
      for (const condition of object.status?.conditions ?? [])
        if (condition.type === 'Ready') condition.status = 'Unknown'
    })
    await node.clock.until(() => ready()?.status === 'True')
    await node.kubelet.stop()
  })

  test('an API that is away at first, and a Node that somebody deletes', async () => {
    const node = new TestNode()
    node.api.intercept = () => new CallError('NO_INSTANCE', 'not-applied', 'no API server')
    const { api: client, host, runtime, world, clock } = node
    node.kubelet = await startKubelet(
      world,
      { cluster: 'c1', nodeName: 'n0', client, host, nodeIp: '10.0.0.1' },
      runtime,
    )
    await clock.advance(20_000)
    assert.equal(node.kubelet.ready, false)
    node.api.intercept = () => undefined
    await clock.until(() => node.kubelet.ready)
    node.api.drop(RESOURCES.nodes, 'n0')
    await clock.until(() => node.node() !== undefined)
    await node.kubelet.stop()
  })
})

describe('pods', () => {
  test('from the object to Running, and gone again without a trace', async () => {
    const node = await new TestNode().start()
    node.create('web', { volumes: [{ name: 'v', emptyDir: {} }] })
    await node.clock.until(() => node.ready('web'))
    assert.equal(node.pod('web')?.status?.phase, 'Running')
    assert.match(node.pod('web')?.status?.podIP ?? '', /^10\.244\.0\./)
    assert.ok(['Pulled', 'Created', 'Started'].every((reason) => node.events().some((text) => text.startsWith(reason))))
    await node.api.delete(RESOURCES.pods, { namespace: 'default', name: 'web' }, { gracePeriodSeconds: 30 })
    await node.clock.until(() => node.pod('web') === undefined && node.kubelet.pods().length === 0)
    assert.deepEqual(await node.runtime.list(), { sandboxes: [], containers: [] })
    assert.deepEqual(await node.host.podDirectories(), [])
    assert.deepEqual(node.warnings(), [])
    await node.kubelet.stop()
  })

  test('a kubelet that starts again leaves its pods alone, and removes what was deleted meanwhile', async () => {
    const node = await new TestNode().start()
    for (const name of ['stays', 'goes']) node.create(name)
    await node.clock.until(() => node.ready('stays') && node.ready('goes'))
    await node.kubelet.stop()
    node.api.drop(RESOURCES.pods, 'default/goes')
    const before = node.status('stays')?.containerID
    const { length } = node.runtime.journal
    await node.start()
    await node.clock.until(() => node.kubelet.pods().length === 1)
    await node.clock.advance(5000)
    assert.equal(node.status('stays')?.containerID, before)
    assert.ok(node.ready('stays'))
    assert.deepEqual(node.runtime.journal.slice(length), [
      'end-container c 0',
      'stop-sandbox goes 0',
      'remove-container c 0',
      'remove-sandbox goes 0',
    ])
    await node.kubelet.stop()
  })

  test('nothing is an orphan before all pods are known', async () => {
    const node = await new TestNode().start()
    node.create('web')
    await node.clock.until(() => node.ready('web'))
    await node.kubelet.stop()
    node.api.intercept = (call) =>
      call.resource === 'pods' && call.verb === 'list'
        ? new CallError('TIMEOUT', 'maybe-applied', 'no answer')
        : undefined
    const { api: client, host } = node
    node.kubelet = await startKubelet(
      node.world,
      { cluster: 'c1', nodeName: 'n0', client, host, nodeIp: '10.0.0.1' },
      node.runtime,
    )
    await node.clock.advance(60_000)
    assert.equal((await node.runtime.list()).containers[0]?.state, 'running')
    node.api.intercept = () => undefined
    await node.clock.until(() => node.kubelet.ready)
    assert.equal((await node.runtime.list()).containers[0]?.state, 'running')
    await node.kubelet.stop()
  })

  test('C4: what does not fit fails with its reason; what will fit once another has ended waits', async () => {
    const node = await new TestNode({ containerStopMs: 5000 }, { capacity: { cpuMilli: 1000 } }).start()
    const cpu = (value: string) => ({
      containers: [{ name: 'c', image: 'nginx', resources: { requests: { cpu: value } } }],
    })
    node.create('first', cpu('700m'))
    await node.clock.until(() => node.ready('first'))
    node.create('second', cpu('700m'))
    await node.clock.until(() => node.pod('second')?.status?.phase === 'Failed')
    assert.equal(node.pod('second')?.status?.reason, 'OutOfcpu')
    await node.api.delete(RESOURCES.pods, { namespace: 'default', name: 'first' }, { gracePeriodSeconds: 30 })
    await node.clock.advance(100)
    node.create('third', cpu('700m'))
    await node.clock.advance(1000)
    assert.equal(node.pod('third')?.status?.phase, 'Pending')
    assert.equal((await node.runtime.list()).containers.filter((c) => c.state === 'running').length, 1)
    await node.clock.until(() => node.ready('third'))
    await node.kubelet.stop()
  })

  test('an image that can’t be had: ErrImagePull, then back-off; imported, it starts at once', async () => {
    const images = new Set<string>()
    const node = await new TestNode({ hasImage: (name) => images.has(name) }).start()
    node.create('web')
    await node.clock.until(() => node.status('web')?.state.waiting?.reason === 'ErrImagePull')
    await node.clock.until(() => node.status('web')?.state.waiting?.reason === 'ImagePullBackOff')
    await node.clock.advance(120_000)
    const pulls = node.events().filter((text) => text.startsWith('Failed')).length
    assert.ok(pulls >= 1)
    images.add('nginx')
    await node.clock.until(() => node.ready('web'), 5000)
    await node.kubelet.stop()
  })

  test('crashes back off, visibly; the count goes on over the kubelet’s restart', async () => {
    const node = await new TestNode({ behaviour: () => ({ exitAfterMs: 100, exitCode: 1 }) }).start()
    node.create('crashy')
    await node.clock.until(() => node.status('crashy')?.state.waiting?.reason === 'CrashLoopBackOff')
    assert.equal(node.status('crashy')?.restartCount, 1)
    await node.kubelet.stop()
    await node.start()
    await node.clock.until(() => node.status('crashy')?.restartCount === 2)
    await node.clock.until(() => node.status('crashy')?.state.waiting?.reason === 'CrashLoopBackOff')
    assert.match(node.status('crashy')?.state.waiting?.message ?? '', /^back-off 20s/)
    assert.ok(node.events().some((text) => text.startsWith('BackOff')))
    await node.kubelet.stop()
  })

  test('probes: readiness comes and goes, a liveness that fails restarts, startup holds both back', async () => {
    const answers = { ready: 1, live: 0, started: 1 }
    const node = await new TestNode({ exec: (_, [name]) => ({ exitCode: answers[name as 'ready'] }) }).start()
    const exec = (name: string, more: object = {}) => ({
      exec: { command: [name] },
      periodSeconds: 1,
      failureThreshold: 2,
      ...more,
    })
    node.create('web', {
      terminationGracePeriodSeconds: 1,
      containers: [
        {
          name: 'c',
          image: 'nginx',
          startupProbe: exec('started', { failureThreshold: 100 }),
          readinessProbe: exec('ready'),
          livenessProbe: exec('live'),
        },
      ],
    })
    await node.clock.until(() => node.status('web')?.state.running !== undefined)
    await node.clock.advance(5000)
    assert.equal(node.status('web')?.started, false)
    answers.started = 0
    await node.clock.until(() => node.status('web')?.started === true)
    assert.equal(node.ready('web'), false)
    answers.ready = 0
    await node.clock.until(() => node.ready('web'))
    answers.ready = 1
    await node.clock.until(() => !node.ready('web'))
    answers.ready = 0
    await node.clock.until(() => node.ready('web'))
    answers.live = 1
    await node.clock.until(() => (node.status('web')?.restartCount ?? 0) >= 1)
    assert.ok(node.events().some((text) => text === 'Unhealthy: Liveness probe failed: exit code 1'))
    assert.ok(node.events().some((text) => text === 'Killing: Container c failed liveness probe, will be restarted'))
    await node.kubelet.stop()
  })

  test('a pod that was ready before the kubelet’s restart does not flicker', async () => {
    const node = await new TestNode().start()
    node.create('web', {
      containers: [
        {
          name: 'c',
          image: 'nginx',
          readinessProbe: { exec: { command: ['x'] }, initialDelaySeconds: 5, periodSeconds: 10 },
        },
      ],
    })
    await node.clock.until(() => node.ready('web'))
    await node.kubelet.stop()
    const { length } = node.api.calls
    await node.start()
    await node.clock.advance(30_000)
    const writes = node.api.calls.slice(length).filter((call) => call.resource === 'pods' && call.verb === 'patch')
    assert.deepEqual(writes, [])
    await node.kubelet.stop()
  })

  test('a ConfigMap that comes late, and one that changes', async () => {
    const node = await new TestNode().start()
    node.create('web', {
      containers: [{ name: 'c', image: 'nginx', volumeMounts: [{ name: 'v', mountPath: '/v' }] }],
      volumes: [{ name: 'v', configMap: { name: 'conf' } }],
    })
    await node.clock.until(() => node.events().some((text) => text.includes('configmap "conf" not found')))
    const conf = (value: string) =>
      ({ metadata: { name: 'conf', namespace: 'default' }, data: { key: value } }) as KubeObject
    node.api.seed(RESOURCES.configmaps, conf('one'))
    await node.clock.until(() => node.ready('web'))
    const file = () =>
      new TextDecoder().decode([...node.host.files].find(([path]) => path.endsWith('/volumes/v/key'))?.[1])
    assert.equal(file(), 'one')
    node.api.change<KubeObject & { data: object }>(RESOURCES.configmaps, 'default/conf', (object) => {
      object.data = { key: 'two' }
    })
    await node.clock.until(() => file() === 'two', 70_000)
    await node.kubelet.stop()
  })

  test('status that somebody else spoils is put right; a write that fails is repeated', async () => {
    const node = await new TestNode().start()
    let failures = 0
    node.api.intercept = (call) =>
      call.resource === 'pods' && call.verb === 'patch' && failures++ % 2 === 0
        ? new CallError('TIMEOUT', 'maybe-applied', 'no answer')
        : undefined
    node.create('web')
    await node.clock.until(() => node.ready('web'))
    node.api.change<Pod>(RESOURCES.pods, 'default/web', (object) => {
      object.status?.conditions?.push({ type: 'example.com/gate', status: 'True' })
    })
    // Three times within a second: what is written is the same each time.
    const sinceMs = node.clock.nowMs()
    for (let time = 0; time < 3; time++) {
      node.api.change<Pod>(RESOURCES.pods, 'default/web', (object) => {
        for (const condition of object.status?.conditions ?? [])
          if (condition.type === 'Ready') condition.status = 'False'
      })
      await node.clock.until(() => node.ready('web'))
    }
    assert.ok(node.clock.nowMs() - sinceMs < 5000)
    assert.ok(node.pod('web')?.status?.conditions?.some((c) => c.type === 'example.com/gate'))
    await node.kubelet.stop()
  })

  test('an API that drops part of a status is not asked again and again', async () => {
    const node = await new TestNode().start()
    const { patch } = node.api
    node.api.patch = async (resource, ref, type, body, options) => {
      const { status } = body as { status?: { hostIP?: unknown } }
      if (resource.resource === 'pods') delete status?.hostIP
      return patch.call(node.api, resource, ref, type, body, options) as never
    }
    node.create('web')
    await node.clock.until(() => node.ready('web'))
    const { length } = node.api.calls
    await node.clock.advance(30_000)
    const writes = node.api.calls.slice(length).filter((call) => call.resource === 'pods' && call.verb === 'patch')
    assert.ok(writes.length <= 4, `${writes.length} writes in 30 s`)
    await node.kubelet.stop()
  })

  test('a power cut: what the machine lost runs again, counted', async () => {
    const node = await new TestNode().start()
    node.create('web')
    await node.clock.until(() => node.ready('web'))
    await node.kubelet.stop()
    node.runtime.wipe()
    await node.start()
    await node.clock.until(() => node.status('web')?.restartCount === 1 && node.ready('web'))
    await node.kubelet.stop()
  })

  test('a runtime that is away for a while changes nothing', async () => {
    const node = await new TestNode().start()
    node.create('web')
    await node.clock.until(() => node.ready('web'))
    node.runtime.down = true
    node.create('later')
    await node.clock.advance(10_000)
    node.runtime.down = false
    await node.clock.until(() => node.ready('later'))
    assert.equal(node.status('web')?.restartCount, 0)
    await node.kubelet.stop()
  })

  test('a hundred pods come and go; the same calls give the same history', async () => {
    const run = async () => {
      const node = await new TestNode().start()
      for (let at = 0; at < 100; at++) node.create(`p${at}`)
      await node.clock.until(
        () => node.api.objects<Pod>(RESOURCES.pods).every((pod) => node.ready(pod.metadata.name ?? '')),
        60_000,
      )
      const ips = new Set(node.api.objects<Pod>(RESOURCES.pods).map((pod) => pod.status?.podIP))
      assert.equal(ips.size, 100)
      for (let at = 0; at < 100; at++)
        await node.api.delete(RESOURCES.pods, { namespace: 'default', name: `p${at}` }, { gracePeriodSeconds: 5 })
      await node.clock.until(() => node.kubelet.pods().length === 0, 60_000)
      assert.deepEqual(node.warnings(), [])
      await node.kubelet.stop()
      return JSON.stringify([node.runtime.journal, node.api.revision, node.clock.monotonicMs()])
    }
    assert.equal(await run(), await run())
  })
})

describe('logs over the bus', () => {
  async function logNode(options: Partial<KubeletOptions> = {}) {
    const node = await new TestNode({}, options).start()
    node.create('web')
    await node.clock.until(() => node.ready('web'))
    const caller = new Caller(manualWorld({ clock: node.clock, broker: node.broker, identity: 'apiserver~a0' }))
    const uid = node.pod('web')?.metadata.uid ?? ''
    const path = `/logs/default_web_${uid}/c/0.log`
    const ask = (more: Partial<NodeLogsRequest> = {}, verb = 'logs') => {
      const got = { text: '', reason: '', error: undefined as CallError | undefined }
      const request = {
        namespace: 'default',
        pod: 'web',
        uid,
        container: 'c',
        follow: false,
        previous: false,
        timestamps: false,
        ...more,
      }
      const stream = caller.openStream(
        new Subjects('c1').node('n0', 'apiserver~a0', verb),
        request,
        {
          data: (body) => {
            got.text += new TextDecoder().decode((body as { bytes: Uint8Array }).bytes)
          },
          end: (reason, error) => Object.assign(got, { reason, error }),
        },
        { timeoutMs: 5000 },
      )
      return { got, stream }
    }
    const say = (text: string) => node.host.appendLog(path, new Date(node.clock.nowMs()).toISOString(), text)
    return { node, ask, say }
  }

  test('whole, the tail, and followed until the container ends', async () => {
    const { node, ask, say } = await logNode()
    for (let at = 0; at < 5; at++) say(`line ${at}`)
    const all = ask()
    const tail = ask({ tailLines: 2 })
    const followed = ask({ follow: true, tailLines: 1 })
    await node.clock.until(() => all.got.reason === 'done' && tail.got.reason === 'done')
    assert.equal(all.got.text, 'line 0\nline 1\nline 2\nline 3\nline 4\n')
    assert.equal(tail.got.text, 'line 3\nline 4\n')
    say('later')
    await node.clock.until(() => followed.got.text === 'line 4\nlater\n')
    say('last words')
    node.runtime.crash((await node.runtime.list()).containers[0]?.id ?? '')
    await node.clock.until(() => followed.got.reason === 'done')
    assert.equal(followed.got.text, 'line 4\nlater\nlast words\n')
    const previous = ask({ previous: true })
    await node.clock.until(() => previous.got.reason !== '')
    assert.equal(previous.got.text, 'line 0\nline 1\nline 2\nline 3\nline 4\nlater\nlast words\n')
    await node.kubelet.stop()
  })

  test('followed over a rotation, nothing is lost', async () => {
    const { node, ask, say } = await logNode({ logBytesMax: 100 })
    const { got } = ask({ follow: true })
    let expected = ''
    for (let at = 0; at < 40; at++) {
      say(`line ${at}`)
      expected += `line ${at}\n`
      await node.clock.advance(1000)
    }
    await node.clock.until(() => got.text === expected)
    assert.ok([...node.host.files.keys()].some((path) => path.endsWith('0.log.1')))
    await node.kubelet.stop()
  })

  test('a large log reaches a reader whole', async () => {
    const { node, ask } = await logNode()
    const line = 'x'.repeat(1000)
    const record = new TextEncoder().encode(`2030-01-01T00:00:00Z stdout F ${line}\n`)
    const whole = new Uint8Array(record.length * 5000)
    for (let at = 0; at < 5000; at++) whole.set(record, at * record.length)
    for (const path of [`/logs/default_web_${node.pod('web')?.metadata.uid}/c/0.log`]) node.host.files.set(path, whole)
    const { got } = ask()
    await node.clock.until(() => got.reason !== '')
    assert.deepEqual([got.reason, got.text.length], ['done', 5000 * 1001])
    await node.kubelet.stop()
  })

  test('what can’t be shown is refused with a Status', async () => {
    const { node, ask, say } = await logNode()
    say('x')
    const refusal = async (asked: ReturnType<typeof ask>) => {
      await node.clock.until(() => asked.got.reason !== '')
      assert.equal(asked.got.reason, 'refused')
      return `${(asked.got.error?.details as { code: number } | undefined)?.code} ${asked.got.error?.message}`
    }
    assert.equal(await refusal(ask({ previous: true })), '400 previous terminated container "c" in pod "web" not found')
    assert.equal(
      await refusal(ask({ container: 'nope' })),
      '400 container "nope" in pod "web" is waiting to start: ContainerCreating',
    )
    assert.match(await refusal(ask({ uid: 'other' })), /^404 /)
    assert.match(await refusal(ask({ tailLines: -1 })), /^400 tailLines/)
    assert.match(await refusal(ask({}, 'exec')), /^501 .*"exec"/)
    await node.kubelet.stop()
  })
})

test('a node that was told no pod network registers, is NotReady and says why, and takes the one its Node gets', async () => {
  const node = new TestNode()
  const configured: string[] = []
  const configureNetwork = async (podCidr: string) => void configured.push(podCidr)
  const runtime = Object.assign(node.runtime, { configureNetwork })
  const { world, api: client, host, clock } = node
  const kubelet = await startKubelet(
    world,
    { cluster: 'c1', nodeName: 'n0', client, host, nodeIp: '10.0.0.1' },
    runtime,
  )
  await clock.advance(10_000)
  const ready = () => node.node()?.status?.conditions?.find((c) => c.type === 'Ready')
  assert.equal(node.node()?.spec?.podCIDR, undefined)
  assert.equal(ready()?.status, 'False')
  assert.equal(ready()?.reason, 'KubeletNotReady')
  assert.match(ready()?.message ?? '', /network not ready: .*spec.podCIDR of this Node is empty/)
  assert.equal(kubelet.ready, false)
  assert.deepEqual(configured, [])
  client.change<Node>(RESOURCES.nodes, 'n0', (n) => void (n.spec = { ...n.spec, podCIDR: '10.244.7.0/24' }))
  await clock.until(() => kubelet.ready)
  assert.deepEqual(configured, ['10.244.7.0/24'])
  await clock.until(() => ready()?.status === 'True')
  await kubelet.stop()
})
