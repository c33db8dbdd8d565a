/**
 * The real thing: `capstan up` with NATS and containers, driven by an unmodified kubectl. Where this machine cannot (no root,
 * no containerd, no kubectl) it says so and leaves it out.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { ClusterUnderTest, eventually, exec, ROOT } from './cluster-under-test.js'
import { kubectlLack } from './kubectl-version.js'

const lacks = [
  process.getuid?.() === 0 ? '' : 'root',
  kubectlLack() && `another way than kubectl (${kubectlLack()}: see e2e-client-library.test.ts)`,
  spawnSync('sh', ['-c', 'command -v apt-get containerd']).status === 0 ||
  spawnSync('sh', ['-c', 'command -v apt-get']).status === 0
    ? ''
    : 'Debian packages',
].filter(Boolean)

interface Pod {
  metadata: { name: string; uid: string; deletionTimestamp?: string }
  spec: { nodeName?: string }
  status: {
    podIP?: string
    conditions?: { type: string; status: string }[]
    containerStatuses?: { restartCount: number; containerID?: string }[]
  }
}

const isReady = (pod: Pod) =>
  !pod.metadata.deletionTimestamp &&
  (pod.status.conditions ?? []).some((c) => c.type === 'Ready' && c.status === 'True')

/** Its containers, and how often each was restarted. */
const containersOf = (pod: Pod) => (pod.status.containerStatuses ?? []).map((c) => `${c.containerID} ${c.restartCount}`)

describe('a cluster of three masters and three nodes', {
  skip: lacks.length > 0 ? `needs ${lacks.join(', ')}` : false,
  timeout: 240_000,
}, () => {
  let cluster: ClusterUnderTest
  const pods = async () => (await cluster.json<{ items: Pod[] }>(['get', 'pods', '-l', 'app=nginx'])).items
  const readyPods = async () => (await pods()).filter(isReady)
  const rolledOut = () =>
    cluster.must(['rollout', 'status', 'deployment/nginx', '--timeout=60s'], { timeoutMs: 70_000 })
  const curl = (url: string) => exec('curl', ['-sS', '-i', '-f', '--max-time', '2', url])
  const podOf = (answer: string) => /^X-Pod: (\S+)/m.exec(answer)?.[1]
  let clusterIp = ''
  const lives = async () => (await pods()).map((p) => `${p.metadata.uid} ${containersOf(p).join()}`).sort()
  /** A test that says what the cluster looked like when it failed. */
  const step = (name: string, body: () => Promise<void>) =>
    test(name, async (t) => {
      try {
        await body()
      } catch (error) {
        t.diagnostic(await cluster.findings())
        throw error
      }
    })

  before(async () => {
    cluster = await ClusterUnderTest.up({ flags: ['--port', '8443'], print: true })
  })
  after(() => cluster?.down())

  step('three nodes are Ready, and a second up is refused', async () => {
    assert.equal((await cluster.status()).nodes.filter((n) => n.ready).length, 3)
    const second = await cluster.capstan(['up', '--detach', '--port', '8443'])
    assert.equal(second.code, 1)
    assert.match(second.stderr, /already runs/)
  })

  step('apply, rollout status, logs, describe', async () => {
    await cluster.must(['apply', '-f', join(ROOT, 'examples/nginx.yaml')])
    await rolledOut()
    assert.match(await cluster.must(['logs', 'deployment/nginx']), /nginx/)
    assert.match(
      await cluster.must(['describe', 'deployment', 'nginx']),
      /1 desired \| 1 updated \| 1 total \| 1 available/,
    )
  })

  step('scale spreads over the nodes, and the Service over the pods, from the host and from a pod', async () => {
    await cluster.must(['scale', 'deployment/nginx', '--replicas=5'])
    await rolledOut()
    assert.equal(new Set((await readyPods()).map((p) => p.spec.nodeName)).size, 3)
    await cluster.must(['expose', 'deployment/nginx', '--port=80'])
    clusterIp = (await cluster.json<{ spec: { clusterIP: string } }>(['get', 'service', 'nginx'])).spec.clusterIP
    const answering = new Set<string>()
    await eventually(
      'answers of all five pods',
      async () => {
        const answer = await curl(`http://${clusterIp}/`)
        const pod = podOf(answer.stdout)
        if (pod) answering.add(pod)
        return answering.size === 5
      },
      { timeoutMs: 20_000, periodMs: 20 },
    )
    await cluster.must([
      'run',
      'client',
      '--image=busybox',
      '--restart=Never',
      '--',
      'sh',
      '-c',
      // Each node learns of a Service on its own; until then it refuses.
      `until timeout 2 wget -q -O - http://${clusterIp}/; do sleep 0.2; done; echo reached`,
    ])
    await eventually(
      'the pod’s answer',
      async () => {
        const { stdout, stderr } = await cluster.kubectl(['logs', 'client'])
        return /reached/.test(stdout) || Promise.reject(new Error(stdout + stderr))
      },
      { timeoutMs: 20_000 },
    )
    await cluster.must(['delete', 'pod', 'client', '--wait=false'])
  })

  step('set image, rollout undo, history', async () => {
    await cluster.must(['set', 'image', 'deployment/nginx', 'nginx=nginx:green'])
    await rolledOut()
    assert.match(await cluster.must(['get', 'deployment', 'nginx', '-o', 'wide']), /nginx:green/)
    await cluster.must(['rollout', 'undo', 'deployment/nginx'])
    await rolledOut()
    assert.doesNotMatch(await cluster.must(['get', 'deployment', 'nginx', '-o', 'wide']), /nginx:green/)
  })

  step('a misspelt field, an unknown kind and a wrong name are refused in Kubernetes’ words', async () => {
    const yaml = readFileSync(join(ROOT, 'examples/nginx.yaml'), 'utf8')
    const misspelt = await cluster.kubectl(['apply', '-f', '-'], {
      input: yaml.replace('replicas:', 'replicass:').replace('name: nginx', 'name: wrong'),
    })
    assert.notEqual(misspelt.code, 0)
    assert.match(misspelt.stderr, /unknown field "spec\.replicass"/)
    const kind = await cluster.kubectl(['apply', '-f', '-'], {
      input: 'apiVersion: v1\nkind: Nothing\nmetadata:\n  name: x\n',
    })
    assert.match(kind.stderr, /no matches for kind "Nothing"/)
    const name = await cluster.kubectl(['create', 'configmap', 'Wrong_Name'])
    assert.match(name.stderr, /lowercase RFC 1123 subdomain/)
    assert.match(await cluster.must(['explain', 'deployment.spec.strategy']), /FIELDS:[\s\S]*rollingUpdate/)
  })

  step('a kubelet that dies takes no container along; started again it finds them', async () => {
    // It tolerates a node that is not ready for any time: a kubelet that is slow to start loses other pods to other nodes.
    const tolerations = [{ operator: 'Exists', effect: 'NoExecute' }]
    const overrides = JSON.stringify({ spec: { tolerations, terminationGracePeriodSeconds: 1 } })
    await cluster.must(['run', 'kept', '--image=busybox', `--overrides=${overrides}`, '--', 'sleep', '3600'])
    await cluster.must(['wait', '--for=condition=Ready', 'pod/kept', '--timeout=30s'])
    const kept = () => cluster.json<Pod>(['get', 'pod', 'kept'])
    const node = (await kept()).spec.nodeName as string
    const before = [await kept(), ...(await pods()).filter((p) => p.spec.nodeName === node)]
    const pid = (await cluster.status()).nodes.find((n) => n.name === node)?.pid as number
    process.kill(pid, 'SIGKILL')
    await cluster.capstan(['machine', 'start', node])
    await eventually(
      'the node is Ready',
      async () => (await cluster.status()).nodes.find((n) => n.name === node)?.ready,
      { timeoutMs: 20_000 },
    )
    const now = new Map([await kept(), ...(await pods())].map((p) => [p.metadata.uid, p]))
    const still = before.filter((p) => now.has(p.metadata.uid))
    assert.equal(still[0]?.metadata.name, 'kept')
    assert.equal(containersOf(still[0]).length, 1)
    for (const pod of still) assert.deepEqual(containersOf(now.get(pod.metadata.uid) as Pod), containersOf(pod))
    await cluster.must(['delete', 'pod', 'kept', '--wait=false'])
  })

  step('kill -9 of the leading master: what was acknowledged is there, through every master', async () => {
    const { masters } = await cluster.status()
    const leader = masters.find((m) => m.role === 'leader')
    assert.ok(leader)
    await cluster.must(['create', 'configmap', 'before', '--from-literal=a=b'])
    process.kill(-leader.pid, 'SIGKILL')
    await eventually(
      'a write',
      async () => (await cluster.kubectl(['create', 'configmap', 'after', '--from-literal=a=b'])).code === 0,
      { timeoutMs: 10_000 },
    )
    await cluster.capstan(['machine', 'start', leader.name])
    await eventually('three masters', async () => (await cluster.status()).masters.every((m) => m.role !== 'down'), {
      timeoutMs: 20_000,
    })
    for (const { url } of masters)
      await eventually(
        `both objects through ${url}`,
        async () => (await cluster.kubectl(['--server', url, 'get', 'configmap', 'before', 'after'])).code === 0,
        { timeoutMs: 10_000 },
      )
  })

  step('a node that is killed with its containers: its pods run elsewhere, and it comes back clean', async () => {
    const victim = (await readyPods())[0]?.spec.nodeName as string
    assert.equal((await cluster.capstan(['machine', 'kill', victim])).code, 0)
    await eventually(
      '5 ready pods elsewhere',
      async () => (await readyPods()).filter((p) => p.spec.nodeName !== victim).length === 5,
      { timeoutMs: 20_000 },
    )
    for (let i = 0; i < 10; i++) {
      const first = await curl(`http://${clusterIp}/`)
      assert.ok(
        first.code === 0 || (await curl(`http://${clusterIp}/`)).code === 0,
        `request ${i} failed twice: ${first.stderr}`,
      )
    }
    await cluster.capstan(['machine', 'start', victim])
    await eventually(
      'the node is Ready',
      async () => (await cluster.status()).nodes.find((n) => n.name === victim)?.ready,
      { timeoutMs: 30_000 },
    )
    await eventually('nothing is left over on it', async () => (await pods()).length === 5, { timeoutMs: 20_000 })
  })

  step(
    'all masters killed at once and started again: every object is there, and pods that ran keep running',
    async () => {
      const before = await lives()
      const { masters } = await cluster.status()
      for (const { pid } of masters) process.kill(-pid, 'SIGKILL')
      for (const { name } of masters) await cluster.capstan(['machine', 'start', name])
      await eventually(
        'the API answers',
        async () => (await cluster.kubectl(['get', 'configmap', 'before', 'after'])).code === 0,
        { timeoutMs: 30_000 },
      )
      await eventually('five pods are ready', async () => (await readyPods()).length === 5, { timeoutMs: 30_000 })
      const now = await lives()
      assert.deepEqual(now, before)
    },
  )

  step('delete leaves nothing; stop leaves nothing on the host', async () => {
    await cluster.must(['delete', 'service/nginx', 'deployment/nginx'], { timeoutMs: 60_000 })
    await eventually('no pods', async () => (await pods()).length === 0, { timeoutMs: 40_000 })
    const data = cluster.data
    await cluster.down()
    const mounts = readFileSync('/proc/self/mounts', 'utf8')
    assert.ok(!mounts.includes(data), 'no mount below the data directory')
    const processes = readdirSync('/proc').filter((entry) => {
      try {
        return (
          /^\d+$/.test(entry) &&
          Number(entry) !== process.pid &&
          readFileSync(`/proc/${entry}/cmdline`, 'utf8').includes(data)
        )
      } catch {
        return false
      }
    })
    assert.deepEqual(processes, [])
    assert.doesNotMatch((await exec('ip', ['netns', 'list'])).stdout, /capstan0-/)
    assert.equal((await exec('ip', ['link', 'show', 'capstan0'])).code, 1)
  })
})
