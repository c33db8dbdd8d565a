/** The whole kubelet over child processes of this host. */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { RESOURCES } from '@capstan/client'
import { FakeApiClient } from '@capstan/client/testing'
import { RealClock } from '@capstan/real'
import { nginxConfig } from './edge/host-programs.js'
import { isLive, readProcessRecord } from './edge/process-record.js'
import { ProcessRuntime, RealHost } from './edge/index.js'
import { type KubeletHandle, startKubelet } from './index.js'
import type { Pod } from './kinds.js'
import { parseLogRecord } from './log-format.js'
import { realWorlds } from './testing/real-world.js'

describe('processes as containers', () => {
  const dir = mkdtempSync(join(tmpdir(), 'capstan-process-'))
  const world = realWorlds('t', dir)('kubelet', 'n0')
  const api = new FakeApiClient(new RealClock())
  let runtime: ProcessRuntime
  let kubelet: KubeletHandle

  const start = async () => {
    runtime = new ProcessRuntime({ directory: join(dir, 'process'), hostIp: '127.0.0.1', log: world.log })
    kubelet = await startKubelet(
      world,
      {
        cluster: 't',
        nodeName: 'n0',
        client: api,
        host: new RealHost(dir),
        nodeIp: '127.0.0.1',
        podCidr: '10.244.9.0/24',
      },
      runtime,
    )
    await kubelet.whenReady()
  }
  const pod = (name: string): Pod | undefined => api.object<Pod>(RESOURCES.pods, `default/${name}`)
  const status = (name: string) => pod(name)?.status?.containerStatuses?.[0]
  const create = (name: string, spec: object) =>
    api.seed(RESOURCES.pods, {
      metadata: { name, namespace: 'default' },
      spec: { nodeName: 'n0', ...spec },
      status: { phase: 'Pending' },
    } as unknown as Pod)
  const idOf = (name: string) => (status(name)?.containerID ?? '').replace('process://', '')
  const recordOf = (id: string) => readProcessRecord(join(dir, 'process/containers', id, 'process.json'))
  const logOf = (name: string, container: string, attempt = 0) => {
    const file = join(dir, 'logs', `default_${name}_${pod(name)?.metadata.uid}`, container, `${attempt}.log`)
    const lines = existsSync(file) ? readFileSync(file).toString().split('\n').filter(Boolean) : []
    return lines.map((line) => new TextDecoder().decode(parseLogRecord(Buffer.from(line))?.text))
  }
  async function until(what: string, holds: () => boolean, withinMs = 15_000): Promise<void> {
    const end = performance.now() + withinMs
    while (!holds()) {
      if (performance.now() > end)
        assert.fail(
          `not within ${withinMs} ms: ${what}; pods: ${JSON.stringify(api.objects(RESOURCES.pods), undefined, 1)}`,
        )
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  before(start)
  after(async () => {
    await kubelet.stop()
    await runtime.teardown()
    rmSync(dir, { recursive: true, force: true })
  })

  test('a command runs with its environment, volumes and log, and its end is the pod’s', async () => {
    api.seed(RESOURCES.configmaps, {
      metadata: { name: 'conf', namespace: 'default' },
      data: { greeting: 'good day' },
    } as never)
    create('job', {
      restartPolicy: 'Never',
      containers: [
        {
          name: 'main',
          image: 'anything:1',
          command: [
            'sh',
            '-c',
            'cat /etc/conf/greeting; echo; echo $WHO; cat etc/conf/greeting; echo; echo oops >&2; exit 3',
          ],
          env: [{ name: 'WHO', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
          volumeMounts: [{ name: 'conf', mountPath: '/etc/conf' }],
        },
      ],
      volumes: [{ name: 'conf', configMap: { name: 'conf' } }],
    })
    await until('it has failed', () => pod('job')?.status?.phase === 'Failed')
    assert.equal(status('job')?.state.terminated?.exitCode, 3)
    assert.deepEqual([...logOf('job', 'main')].sort(), ['good day', 'good day', 'job', 'oops'])
    assert.match(
      pod('job')?.status?.podIP ?? '',
      process.platform === 'linux' ? /^127\.244\.9\.\d+$/ : /^127\.0\.0\.1$/,
    )
  })

  test('a process outlives the kubelet and its runtime, and is found again', async () => {
    create('long', {
      containers: [{ name: 'main', image: 'busybox', command: ['sh', '-c', 'echo one; while :; do sleep 0.05; done'] }],
    })
    await until('it is ready', () => status('long')?.ready === true)
    const id = idOf('long')
    const record = recordOf(id)
    assert.ok(record && isLive(record))
    await kubelet.stop()
    await runtime.close()
    assert.ok(isLive(record))
    await start()
    await until('it is known', () => kubelet.pods().some((one) => one.pod === 'default/long'))
    assert.equal(idOf('long'), id)
    assert.equal(status('long')?.restartCount, 0)
    // The log is written by a pump that may still be on its way, and must not come twice.
    await until('its output is logged', () => logOf('long', 'main').length > 0)
    assert.deepEqual(logOf('long', 'main'), ['one'])
  })

  test('a process that is killed starts again', async () => {
    const record = recordOf(idOf('long'))
    process.kill(-(record?.pid ?? 0), 'SIGKILL')
    await until('it was restarted', () => status('long')?.restartCount === 1 && status('long')?.ready === true)
    assert.equal(status('long')?.lastState.terminated?.exitCode, 137)
  })

  test('one that ignores SIGTERM is killed when its grace is over', async () => {
    const record = recordOf(idOf('long'))
    create('stubborn', {
      containers: [
        { name: 'main', image: 'busybox', command: ['sh', '-c', 'trap "" TERM; while :; do sleep 0.05; done'] },
      ],
    })
    await until('it is ready', () => status('stubborn')?.ready === true)
    const stubborn = recordOf(idOf('stubborn'))
    for (const name of ['long', 'stubborn', 'job'])
      await api.delete(RESOURCES.pods, { namespace: 'default', name }, { gracePeriodSeconds: 1 })
    await until('the objects are gone', () => api.objects(RESOURCES.pods).length === 0)
    await until('the kubelet forgot them', () => kubelet.pods().length === 0)
    assert.ok(record && stubborn && !isLive(record) && !isLive(stubborn))
    assert.deepEqual(
      [
        readdirSync(join(dir, 'process/containers')),
        readdirSync(join(dir, 'process/sandboxes')),
        readdirSync(join(dir, 'logs')),
      ],
      [[], [], []],
    )
  })

  test('exec probes tell readiness; a command that is not there is told', async () => {
    create('probed', {
      containers: [
        {
          name: 'main',
          image: 'busybox',
          command: ['sh', '-c', 'sleep 0.5; touch up; sleep 1000'],
          readinessProbe: { exec: { command: ['test', '-f', 'up'] }, periodSeconds: 1 },
        },
      ],
    })
    create('typo', { containers: [{ name: 'main', image: 'busybox', command: ['no-such-program'] }] })
    await until('it runs', () => status('probed')?.state.running !== undefined)
    await until('it is ready', () => status('probed')?.ready === true)
    await until('the typo is told', () => /no-such-program/.test(JSON.stringify(api.objects(RESOURCES.events))))
  })

  test('an image that no program stands for: ErrImagePull, and what to do', async () => {
    create('unknown', { containers: [{ name: 'main', image: 'example.com/team/app:7' }] })
    await until('it waits', () =>
      ['ErrImagePull', 'ImagePullBackOff'].includes(status('unknown')?.state.waiting?.reason ?? ''),
    )
    assert.match(status('unknown')?.state.waiting?.message ?? '', /give the container a command/)
    assert.match(
      JSON.stringify(await runtime.pullImage('memcached').catch((error: Error) => error.message)),
      /apt-get install memcached|process:memcached/,
    )
  })

  test('nginx is configured for its pod', () => {
    const text = nginxConfig({
      directory: '/d',
      address: '127.244.9.2',
      port: 80,
      hostname: 'web',
      image: 'nginx',
      html: undefined,
      isRoot: true,
    })
    assert.match(text, /listen 127\.244\.9\.2:80;/)
    assert.match(text, /Served by web/)
  })
})
