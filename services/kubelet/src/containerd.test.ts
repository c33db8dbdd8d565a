/** The whole kubelet over a real containerd. Needs root, containerd, runc, the CNI plugins and Debian's package tools. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Caller } from '@capstan/actor'
import { RESOURCES } from '@capstan/client'
import { FakeApiClient } from '@capstan/client/testing'
import { type NodeLogsRequest, Subjects } from '@capstan/protocol'
import { RealClock } from '@capstan/real'
import { type Containerd, RealHost, startContainerd } from './edge/index.js'
import { type KubeletHandle, startKubelet } from './index.js'
import type { Pod } from './kinds.js'
import { realWorlds } from './testing/real-world.js'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const CGROUP = `/capstan-test-${process.pid}`
const NETNS = `capstan-test-${process.pid}`

function lack(): string | false {
  if (process.getuid?.() !== 0) return 'real containers need root'
  for (const tool of ['containerd', 'ctr', 'runc', 'ip', 'nsenter', 'setpriv', 'apt-get', 'dpkg-deb'])
    if (
      spawnSync('sh', ['-c', `command -v ${tool}`], {
        env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
      }).status !== 0
    )
      return `${tool} is missing on this machine`
  if (!existsSync('/usr/lib/cni/bridge')) return 'the CNI plugins are missing on this machine'
  if (spawnSync('ip', ['netns', 'add', `${NETNS}-try`]).status !== 0) return 'this machine grants no network namespaces'
  spawnSync('ip', ['netns', 'del', `${NETNS}-try`])
  return false
}

const why = lack()

describe('real containers', { skip: why === false ? false : `skipped: ${why}` }, () => {
  // Short: a socket lies below it, and lies on a disk that can bear overlays.
  const dir = why === false ? mkdtempSync('/tmp/kubelet-test-') : ''
  const worlds = realWorlds('t', dir)
  const world = worlds('kubelet', 'n0')
  const api = new FakeApiClient(new RealClock())
  let containerd: Containerd
  let kubelet: KubeletHandle

  const start = () =>
    startKubelet(
      world,
      {
        cluster: 't',
        nodeName: 'n0',
        client: api,
        host: new RealHost(join(dir, 'kubelet')),
        nodeIp: '10.89.200.2',
        podCidr: '10.244.200.0/24',
      },
      containerd.runtime,
    )
  const pod = (name: string): Pod | undefined => api.object<Pod>(RESOURCES.pods, `default/${name}`)
  const create = (name: string, spec: object) =>
    api.seed(RESOURCES.pods, {
      metadata: { name, namespace: 'default', labels: { app: name } },
      spec: { nodeName: 'n0', ...spec },
      status: { phase: 'Pending' },
    } as unknown as Pod)
  const status = (name: string) => pod(name)?.status?.containerStatuses?.[0]
  const isReady = (name: string) =>
    pod(name)?.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') ?? false
  const inNode = (...command: string[]) =>
    execFileSync('ip', ['netns', 'exec', NETNS, ...command], { encoding: 'utf8' })
  // Without curl or busybox on the host: Node itself, inside the node's namespace.
  const get = (url: string) =>
    inNode(
      process.execPath,
      '-e',
      `fetch(${JSON.stringify(url)}).then(async r => console.log(r.status, r.headers.get('x-pod'), await r.text()))`,
    )

  async function until(what: string, holds: () => boolean | Promise<boolean>, withinMs = 20_000): Promise<void> {
    const end = performance.now() + withinMs
    while (!(await holds())) {
      if (performance.now() > end)
        assert.fail(
          `not within ${withinMs} ms: ${what}; pods: ${JSON.stringify(api.objects(RESOURCES.pods), undefined, 1)} ${JSON.stringify(events())}`,
        )
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  const events = () =>
    api
      .objects(RESOURCES.events)
      .map(
        (event) =>
          `${(event as unknown as { reason: string }).reason} ${(event as unknown as { message: string }).message}`,
      )

  const caller = new Caller(worlds('apiserver', 'a0'))
  function logs(name: string, container: string, more: Partial<NodeLogsRequest> = {}): Promise<string> {
    const uid = pod(name)?.metadata.uid ?? ''
    const request = {
      namespace: 'default',
      pod: name,
      uid,
      container,
      follow: false,
      previous: false,
      timestamps: false,
      ...more,
    }
    return new Promise((resolve, reject) => {
      let text = ''
      caller.openStream(
        new Subjects('t').node('n0', 'apiserver~a0', 'logs'),
        request,
        {
          data: (body) => {
            text += Buffer.from((body as { bytes: Uint8Array }).bytes).toString()
          },
          end: (reason, error) => (reason === 'done' ? resolve(text) : reject(error ?? new Error(reason))),
        },
        { timeoutMs: 5000 },
      )
    })
  }

  before(async () => {
    execFileSync(process.execPath, [join(ROOT, 'scripts/build-images.mjs')], { stdio: ['ignore', 'ignore', 'inherit'] })
    execFileSync('ip', ['netns', 'add', NETNS])
    inNode('ip', 'link', 'set', 'lo', 'up')
    containerd = await startContainerd({
      dir: join(dir, 'c'),
      cgroupParent: `${CGROUP}/pods`,
      netns: NETNS,
      archives: ['pause', 'nginx', 'busybox'].map((name) => join(ROOT, 'build/images', `${name}.tar`)),
      log: world.log,
    })
    await containerd.imported
    kubelet = await start()
    assert.equal(await kubelet.whenReady(), true)
  })

  after(async () => {
    await kubelet?.stop()
    caller.close()
    await containerd?.teardown()
    spawnSync('ip', ['netns', 'del', NETNS])
    for (const hierarchy of existsSync('/sys/fs/cgroup') ? readdirSync('/sys/fs/cgroup') : [])
      spawnSync('rmdir', [`/sys/fs/cgroup/${hierarchy}${CGROUP}`], { stdio: 'ignore' })
    const mounts = readFileSync('/proc/self/mounts', 'utf8')
    assert.ok(!mounts.includes(dir), `mounts are left: ${mounts.split('\n').filter((line) => line.includes(dir))}`)
    const left = spawnSync('sh', ['-c', `grep -l ${dir} /proc/[0-9]*/cmdline 2>/dev/null`], { encoding: 'utf8' })
      .stdout.split('\n')
      .filter((file) => file && !file.includes('/self/') && processOf(file).includes('containerd'))
    assert.deepEqual(left, [], 'processes are left')
    rmSync(dir, { recursive: true, force: true })
  })
  const processOf = (file: string) => {
    try {
      return readFileSync(file, 'utf8')
    } catch {
      return ''
    }
  }

  test('nginx from a pod object: runs, answers, is probed and logged', async () => {
    create('web', {
      containers: [
        {
          name: 'nginx',
          image: 'nginx',
          ports: [{ containerPort: 80 }],
          // An HTTP probe would run in the namespace of this process, which has no way into the node's.
          readinessProbe: {
            exec: { command: ['wget', '-q', '-O', '-', 'http://127.0.0.1/healthz'] },
            periodSeconds: 1,
          },
          livenessProbe: { exec: { command: ['sh', '-c', 'test -f /tmp/nginx.pid'] }, periodSeconds: 1 },
        },
      ],
    })
    await until('web is ready', () => isReady('web'))
    const ip = pod('web')?.status?.podIP ?? ''
    assert.match(ip, /^10\.244\.200\./)
    assert.match(get(`http://${ip}/`), /^200 web .*Served by web/s)
    await until('the request is logged', () =>
      readFileSync(
        join(dir, 'kubelet/logs', readdirSync(join(dir, 'kubelet/logs'))[0] ?? '', 'nginx/0.log'),
        'utf8',
      ).includes('GET / HTTP'),
    )
    assert.match(await logs('web', 'nginx'), /"GET \/ HTTP\/1\.1" 200/)
    assert.equal((await logs('web', 'nginx', { tailLines: 1 })).split('\n').length, 2)
    assert.match(await logs('web', 'nginx', { tailLines: 1, timestamps: true }), /^\d{4}-\d\d-\d\dT/)
    await assert.rejects(logs('web', 'nginx', { previous: true }), /previous terminated container/)
  })

  test('a log that was renamed is begun anew', async () => {
    const file = join(dir, 'kubelet/logs', readdirSync(join(dir, 'kubelet/logs'))[0] ?? '', 'nginx/0.log')
    renameSync(file, `${file}.1`)
    await containerd.runtime.reopenLog(status('web')?.containerID?.replace('containerd://', '') ?? '')
    get(`http://${pod('web')?.status?.podIP}/renamed`)
    await until('the request is in the new file', () => readFileSync(file, 'utf8').includes('GET /renamed'))
    renameSync(`${file}.1`, file)
    await containerd.runtime.reopenLog(status('web')?.containerID?.replace('containerd://', '') ?? '')
  })

  test('a kubelet that starts again finds its pod and leaves it alone', async () => {
    const before = status('web')
    await kubelet.stop()
    kubelet = await start()
    await kubelet.whenReady()
    await until('it is known', () => kubelet.pods().some((one) => one.pod === 'default/web' && one.phase === 'Running'))
    assert.equal(isReady('web'), true)
    assert.equal(status('web')?.containerID, before?.containerID)
    assert.equal(status('web')?.restartCount, 0)
  })

  test('containerd killed: it comes back, the container went on', async () => {
    const { containerID } = status('web') ?? {}
    process.kill(containerd.pid ?? 0, 'SIGKILL')
    await until('containerd answers', async () => (await containerd.runtime.info()).ready)
    const ip = pod('web')?.status?.podIP ?? ''
    assert.match(get(`http://${ip}/`), /^200 web/)
    assert.equal(status('web')?.containerID, containerID)
  })

  test('a container that is killed starts again; its former log stays', async () => {
    const shim = execFileSync('ctr', ['-a', containerd.socketPath, '-n', 'k8s.io', 'tasks', 'ls'], { encoding: 'utf8' })
    const id = status('web')?.containerID?.replace('containerd://', '') ?? ''
    const pid = Number(new RegExp(`^${id}\\s+(\\d+)`, 'm').exec(shim)?.[1])
    process.kill(pid, 'SIGKILL')
    await until('it was restarted', () => status('web')?.restartCount === 1 && isReady('web'))
    assert.equal(status('web')?.lastState.terminated?.exitCode, 137)
    assert.match(await logs('web', 'nginx', { previous: true }), /GET \/ HTTP/)
  })

  test('env, volumes, init containers, the end of a job; config that comes late', async () => {
    create('job', {
      restartPolicy: 'Never',
      initContainers: [
        {
          name: 'first',
          image: 'busybox',
          command: ['sh', '-c', 'echo made > /work/file'],
          volumeMounts: [{ name: 'work', mountPath: '/work' }],
        },
      ],
      containers: [
        {
          name: 'main',
          image: 'busybox',
          command: ['sh', '-c', 'cat /work/file /etc/conf/key; echo $GREETING $NAME; cat /etc/hosts | tail -1'],
          env: [
            { name: 'NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
            { name: 'GREETING', value: 'hello-$(NAME)' },
          ],
          volumeMounts: [
            { name: 'work', mountPath: '/work' },
            { name: 'conf', mountPath: '/etc/conf', readOnly: true },
          ],
        },
      ],
      volumes: [
        { name: 'work', emptyDir: {} },
        { name: 'conf', configMap: { name: 'conf' } },
      ],
    })
    await until('the missing ConfigMap is told', () =>
      events().some((text) => text.includes('configmap "conf" not found')),
    )
    api.seed(RESOURCES.configmaps, {
      metadata: { name: 'conf', namespace: 'default' },
      data: { key: 'value\n' },
    } as never)
    await until('the job is done', () => pod('job')?.status?.phase === 'Succeeded')
    const text = await logs('job', 'main')
    assert.match(text, /^made\nvalue\nhello-job job\n10\.244\.200\.\d+\tjob\n$/)
  })

  test('an image that is not there: ErrImageNeverPull, with the reason', async () => {
    create('lost', { containers: [{ name: 'c', image: 'nowhere', imagePullPolicy: 'Never' }] })
    await until('it waits', () => status('lost')?.state.waiting?.reason === 'ErrImageNeverPull')
    await api.delete(RESOURCES.pods, { namespace: 'default', name: 'lost' }, { gracePeriodSeconds: 0 })
  })

  test('deleted pods end in time and leave nothing', async () => {
    await api.delete(RESOURCES.pods, { namespace: 'default', name: 'web' }, { gracePeriodSeconds: 10 })
    await api.delete(RESOURCES.pods, { namespace: 'default', name: 'job' }, { gracePeriodSeconds: 10 })
    await until('the objects are gone', () => api.objects(RESOURCES.pods).length === 0)
    await until('the kubelet forgot them', () => kubelet.pods().length === 0)
    const { sandboxes, containers } = await containerd.runtime.list()
    assert.deepEqual([sandboxes, containers], [[], []])
    assert.deepEqual(readdirSync(join(dir, 'kubelet/pods')), [])
    assert.deepEqual(readdirSync(join(dir, 'kubelet/logs')), [])
  })
})
