/**
 * Promise C3 on real containers: two pods of a StatefulSet on three nodes; kubelets are stopped and killed with their whole
 * group, nodes cut off and paused. Every container process is watched from outside all the while.
 *
 * Takes two minutes, so it is asked for: `CAPSTAN_IDENTITY=1 npm test -- test`; `=process` for child processes instead.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { ClusterUnderTest, eventually, exec } from './cluster-under-test.js'
import { kubectlLack } from './kubectl-version.js'

const runtime = process.env['CAPSTAN_IDENTITY'] === 'process' ? 'process' : 'containerd'
const lacks = [
  process.env['CAPSTAN_IDENTITY'] ? '' : 'CAPSTAN_IDENTITY=1 (it takes two minutes)',
  process.getuid?.() === 0 ? '' : 'root',
  kubectlLack() ?? '',
  runtime === 'process' || spawnSync('sh', ['-c', 'command -v containerd']).status === 0 ? '' : 'containerd',
].filter(Boolean)

const MARK = '98765431'
const SET = {
  apiVersion: 'apps/v1',
  kind: 'StatefulSet',
  metadata: { name: 'db' },
  spec: {
    serviceName: 'db',
    replicas: 2,
    selector: { matchLabels: { app: 'db' } },
    template: {
      metadata: { labels: { app: 'db' } },
      spec: {
        terminationGracePeriodSeconds: 2,
        // It forks nothing, so each process is a container.
        containers: [{ name: 'db', image: 'busybox', command: ['sleep', MARK] }],
      },
    },
  },
}

interface Pod {
  metadata: { uid: string; deletionTimestamp?: string }
  spec: { nodeName?: string }
  status: { conditions?: { type: string; status: string }[] }
}

/** Process ids by the name of their pod, of everything that bears the mark and may do something. */
function liveProcesses(): Map<string, number[]> {
  const found = new Map<string, number[]>()
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      const command = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0')
      if (!/(^|\/)sleep$/.test(command[0] ?? '') || command[1] !== MARK) continue
      const stat = readFileSync(`/proc/${entry}/stat`, 'utf8')
      // A stopped one does nothing, a zombie is none.
      if (/^[ZTX]/.test(stat.slice(stat.lastIndexOf(')') + 2))) continue
      const host = readFileSync(`/proc/${entry}/environ`, 'utf8')
        .split('\0')
        .find((line) => line.startsWith('HOSTNAME='))
      const pod = host?.slice('HOSTNAME='.length) ?? ''
      found.set(pod, [...(found.get(pod) ?? []), Number(entry)])
    } catch {
      // It ended while we looked.
    }
  }
  return found
}

describe('identities on real containers', {
  skip: lacks.length > 0 ? `needs ${lacks.join(', ')}` : false,
  timeout: 400_000,
}, () => {
  let cluster: ClusterUnderTest
  let timer: NodeJS.Timeout | undefined
  const doubles: string[] = []
  /** When each process was first and last seen. */
  const seen = new Map<number, { pod: string; fromMs: number; toMs: number }>()

  before(async () => {
    cluster = await ClusterUnderTest.up({ flags: ['--port', '8443', '--runtime', runtime], print: true })
    await cluster.must(['apply', '-f', '-'], { input: JSON.stringify(SET) })
    await cluster.must(['rollout', 'status', 'sts/db', '--timeout=60s'], { timeoutMs: 70_000 })
    timer = setInterval(look, 25)
    look()
  })
  after(async () => {
    clearInterval(timer)
    await cluster?.down()
  })

  function look(): void {
    const nowMs = performance.now()
    for (const [pod, pids] of liveProcesses()) {
      if (pids.length > 1) doubles.push(`${pod}: processes ${pids.join(', ')}`)
      for (const pid of pids) seen.set(pid, { pod, fromMs: seen.get(pid)?.fromMs ?? nowMs, toMs: nowMs })
    }
  }

  const pod = async (name: string): Promise<Pod | undefined> => {
    const ran = await cluster.kubectl(['get', 'pod', name, '-o', 'json'])
    return ran.code === 0 ? (JSON.parse(ran.stdout) as Pod) : undefined
  }
  const isReady = (one: Pod | undefined) =>
    one !== undefined &&
    !one.metadata.deletionTimestamp &&
    (one.status.conditions ?? []).some((c) => c.type === 'Ready' && c.status === 'True')
  const groupOf = async (node: string) => (await cluster.status()).nodes.find((one) => one.name === node)?.pid as number
  const allReady = () =>
    eventually(
      'three nodes and both pods are Ready',
      async () => {
        const ready = (await cluster.status()).nodes.filter((node) => node.ready).length
        return ready === 3 && isReady(await pod('db-0')) && isReady(await pod('db-1'))
      },
      { timeoutMs: 60_000, periodMs: 500 },
    )

  /** Something happens to the node of `name`: when did its process end, when did the next one start, when was it Ready? */
  async function failOver(
    name: string,
    happens: (node: string, group: number) => Promise<void> | void,
  ): Promise<{ node: string; text: string }> {
    const before = (await pod(name)) as Pod
    const node = before.spec.nodeName as string
    const [pid] = liveProcesses().get(name) ?? []
    assert.ok(pid !== undefined, `${name} runs`)
    const group = await groupOf(node)
    const startMs = performance.now()
    await happens(node, group)
    await eventually(
      `${name} is Ready elsewhere`,
      async () => {
        const now = await pod(name)
        return now?.metadata.uid !== before.metadata.uid && isReady(now) && now?.spec.nodeName !== node
      },
      { timeoutMs: 60_000, periodMs: 50 },
    )
    const readyMs = performance.now()
    const next = [...seen].find(([other, life]) => life.pod === name && life.fromMs > startMs && other !== pid)?.[1]
    const ended = seen.get(pid)
    assert.ok(next && ended, 'both were seen')
    assert.ok(ended.toMs < next.fromMs, 'the first one had ended')
    const s = (ms: number) => `${((ms - startMs) / 1000).toFixed(1)} s`
    const text = `ended ${s(ended.toMs)}, next started ${s(next.fromMs)}, Ready ${s(readyMs)}`
    return { node, text }
  }

  test('the kubelet is stopped, with its whole group', async (t) => {
    let stopped = 0
    const { text } = await failOver('db-0', (_, group) => {
      stopped = group
      process.kill(-group, 'SIGSTOP')
    })
    t.diagnostic(`group stopped: ${text}`)
    process.kill(-stopped, 'SIGCONT')
    await allReady()
    assert.deepEqual(doubles, [])
  })

  test('the kubelet is killed, with its whole group; containers live on', async (t) => {
    const { node, text } = await failOver('db-0', (_, group) => {
      process.kill(-group, 'SIGKILL')
    })
    t.diagnostic(`group killed: ${text}`)
    await cluster.capstan(['machine', 'start', node])
    await allReady()
    assert.deepEqual(doubles, [])
  })

  test('the node is cut off', { skip: runtime === 'process' && 'it has no link of its own' }, async (t) => {
    const { slot } = JSON.parse(readFileSync(join(cluster.data, 'cluster.json'), 'utf8')) as { slot: number }
    const link = (node: string) => `cap${slot}${node.replace(/^node-/, 'n')}`
    const { node, text } = await failOver('db-1', async (name) => {
      assert.equal((await exec('ip', ['link', 'set', link(name), 'down'])).code, 0)
    })
    t.diagnostic(`cut off: ${text}`)
    await exec('ip', ['link', 'set', link(node), 'up'])
    await allReady()
    assert.deepEqual(doubles, [])
  })

  test('the machine is paused, and goes on', async (t) => {
    const { node, text } = await failOver('db-1', async (name) => {
      await cluster.capstan(['machine', 'pause', name])
    })
    t.diagnostic(`machine paused: ${text}`)
    assert.equal((await cluster.capstan(['machine', 'resume', node])).code, 0)
    await allReady()
    assert.deepEqual(doubles, [])
  })

  test('an unmodified kubectl rolls out, shows the history, rolls back, scales', async () => {
    const rolledOut = () => cluster.must(['rollout', 'status', 'sts/db', '--timeout=60s'], { timeoutMs: 70_000 })
    const environment = () => cluster.must(['get', 'pods', '-l', 'app=db', '-o', 'jsonpath={..env[*].value}'])
    await cluster.must(['set', 'env', 'sts/db', 'GREETING=hello'])
    assert.match(await rolledOut(), /2 new pods have been updated/)
    assert.equal(await environment(), 'hello hello')
    assert.match(await cluster.must(['rollout', 'history', 'sts/db']), /REVISION +CHANGE-CAUSE\n1 +<none>\n2 +<none>/)
    await cluster.must(['rollout', 'undo', 'sts/db'])
    await rolledOut()
    assert.equal(await environment(), '')
    await cluster.must(['scale', 'sts/db', '--replicas=3'])
    await rolledOut()
    assert.match(await cluster.must(['get', 'sts', 'db']), /db +3\/3/)
    await cluster.must(['scale', 'sts/db', '--replicas=1'])
    await eventually(
      'the highest are gone',
      async () => (await cluster.must(['get', 'pods', '-l', 'app=db', '-o', 'name'])).trim() === 'pod/db-0',
      { timeoutMs: 30_000, periodMs: 300 },
    )
    assert.deepEqual(doubles, [])
  })

  test('nothing is left behind', async () => {
    clearInterval(timer)
    await cluster.capstan(['stop'], { timeoutMs: 120_000 })
    assert.deepEqual([...liveProcesses()], [])
    const guards = readdirSync('/proc').filter((entry) => {
      try {
        return /^\d+$/.test(entry) && readFileSync(`/proc/${entry}/cmdline`, 'utf8').includes(cluster.data)
      } catch {
        return false
      }
    })
    assert.deepEqual(guards, [])
  })
})
